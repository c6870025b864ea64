/* file_open.c - FileOpening: what aiofiles.open() returns where the fast path may apply. Opening,
 * the look at what it is and the first read are one job. */
#include "py/file.h"

#include "base/alloc.h"
#include "py/codec.h"
#include "py/ready.h"

#include <errno.h>
#include <fcntl.h>
#include <structmember.h>
#include <sys/stat.h>

typedef struct opening {
    PyObject_HEAD
    arn_py_state *st;
    PyObject *name; /* str or bytes */
    PyObject *mode; /* as io's attribute says */
    PyObject *buffering, *encoding, *errors, *newline;
    PyObject *file; /* once it is open */
    PyObject *weakrefs;
    arn_py_file_codec codec;
    int flags; /* of open(2) */
    int is_text;
} opening;

static opening *opening_of(PyObject *op) {
    return (opening *)op;
}

/* ---- what is for the fast path ---- */

/* Fills in flags, is_text and mode. 0: not for the fast path; -1: an exception. */
static int parse_mode(opening *self, PyObject *mode) {
    const char *s = PyUnicode_Check(mode) ? PyUnicode_AsUTF8(mode) : NULL;
    char main = 0;
    int is_binary = 0, is_text = 0;
    char made[3] = {0, 'b', 0};

    if (s == NULL) {
        PyErr_Clear();
        return 0;
    }
    for (; *s != 0; s++) {
        if (strchr("rwax", *s) != NULL && main == 0)
            main = *s;
        else if (*s == 'b' && !is_binary)
            is_binary = 1;
        else if (*s == 't' && !is_text)
            is_text = 1;
        else
            return 0; /* wrong, or "+" */
    }
    if (main == 0 || (is_binary && is_text))
        return 0;
    self->is_text = !is_binary;
    self->flags = main == 'r'   ? O_RDONLY
                  : main == 'w' ? O_WRONLY | O_CREAT | O_TRUNC
                  : main == 'a' ? O_WRONLY | O_CREAT | O_APPEND
                                : O_WRONLY | O_CREAT | O_EXCL;
    made[0] = main;
    self->mode = is_binary ? PyUnicode_FromString(made) : Py_NewRef(mode);
    return self->mode == NULL ? -1 : 1;
}

/* Whether the name is one of the codec's; case and "_" do not matter. */
static int is_codec(const char *name, arn_py_file_codec *codec) {
    static const struct {
        const char *name;
        arn_py_file_codec codec;
    } known[] = {{"utf-8", ARN_PY_UTF8},       {"utf8", ARN_PY_UTF8},
                 {"ascii", ARN_PY_ASCII},      {"us-ascii", ARN_PY_ASCII},
                 {"latin-1", ARN_PY_LATIN1},   {"latin1", ARN_PY_LATIN1},
                 {"iso-8859-1", ARN_PY_LATIN1}};
    char lower[16];
    size_t i, n = strlen(name);

    if (n >= sizeof(lower))
        return 0;
    for (i = 0; i <= n; i++)
        lower[i] = name[i] == '_' ? '-' : (char)Py_TOLOWER(name[i]);
    for (i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(lower, known[i].name) == 0) {
            *codec = known[i].codec;
            return 1;
        }
    }
    return 0;
}

static int is_plain_text(PyObject *object) {
    const char *s;
    Py_ssize_t n;

    if (!PyUnicode_CheckExact(object))
        return 0;
    s = PyUnicode_AsUTF8AndSize(object, &n);
    if (s == NULL)
        PyErr_Clear();
    return s != NULL && strlen(s) == (size_t)n;
}

/* 1, or 0: not for the fast path. */
static int parse_text(opening *self, PyObject *encoding, PyObject *errors, PyObject *newline) {
    if (!self->is_text)
        return encoding == Py_None && errors == Py_None && newline == Py_None;
    if (encoding == Py_None)
        encoding = self->st->file_encoding; /* may be None */
    if (!is_plain_text(encoding) || !is_codec(PyUnicode_AsUTF8(encoding), &self->codec))
        return 0;
    if (errors != Py_None && !is_plain_text(errors))
        return 0;
    if (newline != Py_None &&
        (!is_plain_text(newline) ||
         (PyUnicode_GET_LENGTH(newline) != 0 && strcmp(PyUnicode_AsUTF8(newline), "\n") != 0)))
        return 0;
    self->encoding = Py_NewRef(encoding);
    self->errors = errors == Py_None ? PyUnicode_InternFromString("strict") : Py_NewRef(errors);
    return self->errors != NULL;
}

/* A new reference; NULL if it is nothing for the fast path. */
static PyObject *path_of(PyObject *file) {
    PyObject *name = PyUnicode_CheckExact(file) || PyBytes_CheckExact(file) ? Py_NewRef(file)
                     : PyLong_Check(file)                                   ? NULL
                                                                            : PyOS_FSPath(file);
    PyObject *bytes = NULL;

    if (name != NULL && !PyUnicode_FSConverter(name, &bytes))
        Py_CLEAR(name);
    Py_XDECREF(bytes);
    PyErr_Clear();
    return name;
}

PyDoc_STRVAR(open_file_doc,
             "open_file($module, file, mode, buffering, encoding, errors, newline, /)\n--\n\n"
             "What open() of these arguments returns, to be awaited or entered; None if\n"
             "they need an io object.");

static PyObject *open_file(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    arn_py_state *st = arn_py_state_of(module);
    long buffering;
    opening *self;
    int r;

    if (nargs != 6) {
        PyErr_SetString(PyExc_TypeError, "open_file() takes six arguments");
        return NULL;
    }
    if (st->file_encoding == NULL || !PyLong_CheckExact(args[2]))
        Py_RETURN_NONE;
    buffering = PyLong_AsLong(args[2]);
    if (buffering == -1 && PyErr_Occurred())
        PyErr_Clear();
    else if (buffering == -1 || buffering > 1)
        buffering = 2;
    if (buffering != 2)
        Py_RETURN_NONE;
    self = (opening *)st->file_opening_type->tp_alloc(st->file_opening_type, 0);
    if (self == NULL)
        return NULL;
    arn_py_state_hold(st);
    self->st = st;
    r = parse_mode(self, args[1]);
    if (r > 0)
        r = parse_text(self, args[3], args[4], args[5]);
    if (r > 0) {
        self->name = path_of(args[0]);
        r = self->name != NULL;
    }
    if (r <= 0) {
        Py_DECREF(self);
        if (r < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    self->buffering = Py_NewRef(args[2]);
    self->newline = Py_NewRef(args[5]);
    return (PyObject *)self;
}

/* ---- the job ---- */

arn_file_job *arn_py_file_opening_job(PyObject *path, int flags) {
    PyObject *bytes = NULL;
    arn_file_job *job;

    if (!PyUnicode_FSConverter(path, &bytes))
        return NULL;
    job = arn_file_job_new(NULL);
    if (job != NULL)
        job->path = arn_strdup(PyBytes_AS_STRING(bytes));
    Py_DECREF(bytes);
    if (job == NULL || job->path == NULL) {
        if (job != NULL)
            arn_op_unref(&job->op);
        return (arn_file_job *)(void *)PyErr_NoMemory();
    }
    job->steps = ARN_FILE_OPENS;
    job->flags = flags;
    job->release = arn_py_release_anywhere;
    return job;
}

static arn_op *make_op(arn_py_request *req) {
    opening *self = opening_of(req->client);
    arn_file_job *job;

    if (PySys_Audit("open", "OOi", self->name, self->mode, self->flags | O_CLOEXEC) < 0)
        return NULL;
    req->rt = arn_py_runtime();
    job = req->rt == NULL ? NULL : arn_py_file_opening_job(self->name, self->flags);
    if (job == NULL)
        return NULL;
    if (self->flags == O_RDONLY)
        job->steps |= ARN_FILE_READS;
    return &job->op;
}

/* An io object for what is open already: a pipe, a device. */
static PyObject *slow_file(opening *self, int fd) {
    arn_py_state *st = self->st;
    PyObject *inner =
        PyObject_CallFunction(st->file_reopen, "iOOOOOOO", fd, self->name, self->mode,
                              self->buffering, self->is_text ? self->encoding : Py_None,
                              self->is_text ? self->errors : Py_None, self->newline, Py_None);
    PyObject *file;

    if (inner == NULL)
        return NULL;
    file = PyObject_CallFunction(st->file_wrap, "O", inner);
    Py_DECREF(inner);
    return file;
}

static PyObject *fast_file(opening *self, arn_file_job *job) {
    arn_py_state *st = self->st;
    PyTypeObject *type = (PyTypeObject *)(self->is_text             ? st->file_text_class
                                          : self->flags == O_RDONLY ? st->file_reader_class
                                                                    : st->file_writer_class);
    arn_py_file *file = (arn_py_file *)arn_py_file_new(type);

    if (file == NULL)
        return NULL;
    file->name = Py_NewRef(self->name);
    file->mode = Py_NewRef(self->mode);
    file->buffering = Py_NewRef(self->buffering);
    file->newline = Py_NewRef(self->newline);
    file->encoding = Py_XNewRef(self->encoding);
    file->errors = Py_XNewRef(self->errors);
    file->codec = self->codec;
    file->is_text = self->is_text;
    file->is_writer = self->flags != O_RDONLY;
    file->keeps_newlines =
        self->newline != Py_None && self->is_text && PyUnicode_GET_LENGTH(self->newline) == 0;
    if (self->is_text && !file->is_writer && (self->newline == Py_None || file->keeps_newlines)) {
        file->translator = PyObject_CallFunction(st->file_translator, "OO", Py_None,
                                                 file->keeps_newlines ? Py_False : Py_True);
        if (file->translator == NULL) {
            Py_DECREF(file);
            return NULL;
        }
    }
    file->file = job->file;
    job->file = NULL;
    file->block = job->block;
    file->size = job->block_size;
    job->block = NULL;
    file->end = job->got;
    file->position = (int64_t)job->got;
    file->length = job->size;
    file->has_all = job->at_end;
    file->is_fast = 1;
    return (PyObject *)file;
}

static PyObject *convert(arn_py_request *req, arn_op *op, double *again) {
    opening *self = opening_of(req->client);
    arn_file_job *job = ARN_CONTAINER_OF(op, arn_file_job, op);
    PyObject *file = NULL;

    (void)again;
    if (op->status != ARN_OK) {
        PyErr_SetString(PyExc_RuntimeError, "no worker thread can be had, or they were stopped");
    } else if (job->error != 0) {
        errno = job->error;
        if (errno == ENOMEM)
            PyErr_NoMemory();
        else
            PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, self->name);
    } else if (S_ISREG(job->mode)) {
        file = fast_file(self, job);
    } else {
        int fd = job->file->fd;
        job->file->fd = -1; /* the io object's now */
        file = slow_file(self, fd);
    }
    Py_XSETREF(self->file, Py_XNewRef(file));
    Py_CLEAR(req->client); /* the drain still holds the request while the woken task runs */
    return file;
}

static void send_op(arn_py_request *req, arn_op *op) {
    (void)req;
    arn_workers_submit(&op->msg);
}

static const arn_py_request_class open_class = {
    .qualname = "aiofiles.open", .make_op = make_op, .convert = convert, .send = send_op};

/* ---- to be awaited, or entered ---- */

static PyObject *open_now(PyObject *op) {
    opening *self = opening_of(op);
    arn_py_request *req;

    if (self->file != NULL)
        return arn_py_ready(self->st, Py_NewRef(self->file));
    req = arn_py_request_new(self->st, &open_class);
    if (req != NULL)
        req->client = Py_NewRef(op);
    return (PyObject *)req;
}

static PyObject *enter_method(PyObject *op, PyObject *ignored) {
    (void)ignored;
    return open_now(op);
}

static PyObject *exit_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs) {
    opening *self = opening_of(op);
    PyObject *file = self->file;
    PyObject *r;

    (void)args;
    (void)nargs;
    if (file == NULL) {
        PyErr_SetString(PyExc_AttributeError, "the file has not been opened, or is closed already");
        return NULL;
    }
    self->file = NULL;
    r = arn_py_file_call(file, ARN_PY_FILE_CLOSE, NULL, 0, NULL);
    Py_DECREF(file);
    return r;
}

static int clear_slot(PyObject *op) {
    Py_CLEAR(opening_of(op)->file);
    return 0;
}

static int traverse_slot(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(opening_of(op)->st);
    Py_VISIT(opening_of(op)->file);
    return 0;
}

static void dealloc_slot(PyObject *op) {
    opening *self = opening_of(op);
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;

    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    clear_slot(op);
    Py_CLEAR(self->name);
    Py_CLEAR(self->mode);
    Py_CLEAR(self->buffering);
    Py_CLEAR(self->encoding);
    Py_CLEAR(self->errors);
    Py_CLEAR(self->newline);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

static PyMethodDef methods[] = {
    {"__aenter__", enter_method, METH_NOARGS, NULL},
    {"__aexit__", (PyCFunction)(void (*)(void))exit_method, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"_obj", T_OBJECT, offsetof(opening, file), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(opening, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, dealloc_slot},
    {Py_tp_traverse, traverse_slot},
    {Py_tp_clear, clear_slot},
    {Py_am_await, open_now},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "arshai_native._core.FileOpening",
    .basicsize = sizeof(opening),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyDoc_STRVAR(set_file_classes_doc,
             "set_file_classes(*, text, reader, writer, wrap, reopen, cookie, on_executor,\n"
             "encoding, translator, newlines)\n--\n\n"
             "The classes that open_file() makes and what they are helped by; see\n"
             "arshai_native/aiofiles/_io.py.");

static PyObject *set_file_classes(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *keywords[] = {"text",       "reader",   "writer",      "wrap",
                               "reopen",     "cookie",   "on_executor", "encoding",
                               "translator", "newlines", NULL};
    arn_py_state *st = arn_py_state_of(module);
    PyObject **const targets[] = {
        &st->file_text_class, &st->file_reader_class, &st->file_writer_class, &st->file_wrap,
        &st->file_reopen,     &st->file_cookie,       &st->file_on_executor,  &st->file_encoding,
        &st->file_translator, &st->file_newlines};
    PyObject *values[10];
    int i;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!O!O!OOOOOOO", keywords, &PyType_Type,
                                     &values[0], &PyType_Type, &values[1], &PyType_Type, &values[2],
                                     &values[3], &values[4], &values[5], &values[6], &values[7],
                                     &values[8], &values[9]))
        return NULL;
    for (i = 0; i < 10; i++) {
        if (i < 3 && !PyType_IsSubtype((PyTypeObject *)values[i], st->file_type)) {
            PyErr_SetString(PyExc_TypeError, "classes of files derive from File");
            return NULL;
        }
    }
    for (i = 0; i < 10; i++)
        Py_XSETREF(*targets[i], Py_NewRef(values[i]));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"open_file", (PyCFunction)(void (*)(void))open_file, METH_FASTCALL, open_file_doc},
    {"set_file_classes", (PyCFunction)(void (*)(void))set_file_classes,
     METH_VARARGS | METH_KEYWORDS, set_file_classes_doc},
    {NULL, NULL, 0, NULL},
};

int arn_py_init_file_open(PyObject *module, arn_py_state *st) {
    st->file_opening_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
    if (st->file_opening_type == NULL || PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "FileOpening", (PyObject *)st->file_opening_type);
}
