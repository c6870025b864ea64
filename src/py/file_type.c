/* file_type.c - File's methods, attributes and life. */
#include "py/file.h"

#include "py/ready.h"

#include <errno.h>
#include <unistd.h>

static arn_py_file *file_of(PyObject *op) {
    return (arn_py_file *)op;
}

/* ---- methods ---- */

#define METHOD(name, method)                                                                       \
    static PyObject *name##_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs,          \
                                   PyObject *kwnames) {                                            \
        return arn_py_file_call(op, method, args, nargs, kwnames);                                 \
    }

METHOD(read, ARN_PY_FILE_READ)
METHOD(read1, ARN_PY_FILE_READ1)
METHOD(readline, ARN_PY_FILE_READLINE)
METHOD(readlines, ARN_PY_FILE_READLINES)
METHOD(readinto, ARN_PY_FILE_READINTO)
METHOD(readall, ARN_PY_FILE_READALL)
METHOD(peek, ARN_PY_FILE_PEEK)
METHOD(seek, ARN_PY_FILE_SEEK)
METHOD(tell, ARN_PY_FILE_TELL)
METHOD(write, ARN_PY_FILE_WRITE)
METHOD(writelines, ARN_PY_FILE_WRITELINES)
METHOD(flush, ARN_PY_FILE_FLUSH)
METHOD(truncate, ARN_PY_FILE_TRUNCATE)
METHOD(close, ARN_PY_FILE_CLOSE)
METHOD(isatty, ARN_PY_FILE_ISATTY)
METHOD(seekable, ARN_PY_FILE_SEEKABLE)
METHOD(writable, ARN_PY_FILE_WRITABLE)

static PyObject *anext_slot(PyObject *op) {
    arn_py_file *self = file_of(op);
    PyObject *line = NULL;

    /* A line that is there needs no request. */
    if (self->is_fast && !self->is_closed && !self->is_writer && arn_py_file_is_idle(self)) {
        line = self->is_text ? arn_py_file_text_line(self) : arn_py_file_read_line(self);
        if (line != NULL || PyErr_Occurred())
            return arn_py_ready(self->st, line);
    }
    return arn_py_file_call(op, ARN_PY_FILE_NEXT, NULL, 0, NULL);
}

/* ---- attributes ---- */

/* The io object behind, whatever it takes. New reference; NULL with an exception set. */
static PyObject *get_inner(PyObject *op, void *closure) {
    arn_py_file *self = file_of(op);
    int r;

    (void)closure;
    if (self->is_fast) {
        if (!arn_py_file_is_idle(self)) {
            PyErr_SetString(PyExc_RuntimeError, "the file is at work for another task");
            return NULL;
        }
        self->current = (arn_py_request *)self; /* nobody's turn */
        r = arn_py_file_hand_over(self);
        arn_py_file_end_turn(self);
        if (r < 0)
            return NULL;
    }
    return Py_NewRef(self->inner != NULL ? self->inner : Py_None);
}

static int set_inner(PyObject *op, PyObject *value, void *closure) {
    PyObject *before = get_inner(op, closure);

    if (before == NULL)
        return -1;
    Py_DECREF(before);
    Py_XSETREF(file_of(op)->inner, Py_XNewRef(value));
    return 0;
}

static PyObject *inner_attribute(PyObject *op, const char *name) {
    PyObject *inner = PyObject_GetAttr(op, file_of(op)->st->str_file);
    PyObject *value = inner == NULL ? NULL : PyObject_GetAttrString(inner, name);

    Py_XDECREF(inner);
    return value;
}

static PyObject *get_closed(PyObject *op, void *closure) {
    arn_py_file *self = file_of(op);

    return self->is_fast ? PyBool_FromLong(self->is_closed) : inner_attribute(op, closure);
}

static PyObject *get_name(PyObject *op, void *closure) {
    arn_py_file *self = file_of(op);

    return self->is_fast ? Py_NewRef(self->name) : inner_attribute(op, closure);
}

static PyObject *get_mode(PyObject *op, void *closure) {
    arn_py_file *self = file_of(op);

    return self->is_fast ? Py_NewRef(self->mode) : inner_attribute(op, closure);
}

static PyObject *get_encoding(PyObject *op, void *closure) {
    arn_py_file *self = file_of(op);

    return self->is_fast && self->is_text ? Py_NewRef(self->encoding)
                                          : inner_attribute(op, closure);
}

static PyObject *get_errors(PyObject *op, void *closure) {
    arn_py_file *self = file_of(op);

    return self->is_fast && self->is_text ? Py_NewRef(self->errors) : inner_attribute(op, closure);
}

static PyObject *get_newlines(PyObject *op, void *closure) {
    arn_py_file *self = file_of(op);
    PyObject *seen, *now, *both;

    seen = self->translator == NULL ? Py_NewRef(Py_None)
                                    : PyObject_GetAttrString(self->translator, "newlines");
    if ((self->is_fast && self->is_text) || seen == NULL)
        return seen;
    /* What the fast file has seen is news to the io object. */
    now = inner_attribute(op, closure);
    both = now == NULL || seen == Py_None
               ? Py_XNewRef(now)
               : PyObject_CallFunction(self->st->file_newlines, "OO", seen, now);
    Py_DECREF(seen);
    Py_XDECREF(now);
    return both;
}

static PyObject *get_line_buffering(PyObject *op, void *closure) {
    arn_py_file *self = file_of(op);

    return self->is_fast && self->is_text ? Py_NewRef(Py_False) : inner_attribute(op, closure);
}

/* buffer, raw: an io object's. */
static PyObject *get_of_inner(PyObject *op, void *closure) {
    return inner_attribute(op, closure);
}

static PyObject *call_inner_now(PyObject *op, const char *name, PyObject *const *args,
                                Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *method = inner_attribute(op, name);
    PyObject *r = method == NULL ? NULL : PyObject_Vectorcall(method, args, (size_t)nargs, kwnames);

    Py_XDECREF(method);
    return r;
}

static PyObject *fileno_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames) {
    arn_py_file *self = file_of(op);

    if (self->is_fast && self->file != NULL && nargs == 0 && kwnames == NULL)
        return PyLong_FromLong(self->file->fd);
    return call_inner_now(op, "fileno", args, nargs, kwnames);
}

static PyObject *readable_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames) {
    arn_py_file *self = file_of(op);

    if (self->is_fast && !self->is_closed && nargs == 0 && kwnames == NULL)
        return PyBool_FromLong(!self->is_writer);
    return call_inner_now(op, "readable", args, nargs, kwnames);
}

static PyObject *detach_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames) {
    return call_inner_now(op, "detach", args, nargs, kwnames);
}

static PyObject *get_loop(PyObject *op, void *closure) {
    arn_py_file *self = file_of(op);

    (void)closure;
    if (self->loop != NULL)
        return Py_NewRef(self->loop);
    if (arn_py_import_asyncio(self->st) < 0)
        return NULL;
    return PyObject_CallNoArgs(self->st->get_running_loop);
}

static PyObject *get_ref_loop(PyObject *op, void *closure) {
    (void)closure;
    return Py_NewRef(file_of(op)->loop != NULL ? file_of(op)->loop : Py_None);
}

static PyObject *get_executor(PyObject *op, void *closure) {
    (void)closure;
    return Py_NewRef(file_of(op)->executor != NULL ? file_of(op)->executor : Py_None);
}

static PyObject *repr_slot(PyObject *op) {
    arn_py_file *self = file_of(op);
    const char *type = Py_TYPE(op)->tp_name;
    PyObject *module, *inner, *made;

    if (!self->is_fast) {
        inner = PyObject_GetAttr(op, self->st->str_file);
        if (inner == NULL)
            return NULL;
    } else if (self->is_text) {
        inner = PyUnicode_FromFormat("<_io.TextIOWrapper name=%R mode=%R encoding=%R>", self->name,
                                     self->mode, self->encoding);
    } else {
        inner = PyUnicode_FromFormat(
            "<_io.%s name=%R>", self->is_writer ? "BufferedWriter" : "BufferedReader", self->name);
    }
    module = PyObject_GetAttrString((PyObject *)Py_TYPE(op), "__module__");
    if (module == NULL)
        PyErr_Clear();
    made = inner == NULL ? NULL
                         : PyUnicode_FromFormat(self->is_fast ? "<%S.%s object at %p> wrapping %S"
                                                              : "<%S.%s object at %p> wrapping %R",
                                                module != NULL ? module : Py_None, type, op, inner);
    Py_XDECREF(module);
    Py_XDECREF(inner);
    return made;
}

/* ---- life ---- */

PyObject *arn_py_file_new(PyTypeObject *type) {
    arn_py_state *st = arn_py_state_of_type(type);
    arn_py_file *self = st == NULL ? NULL : (arn_py_file *)type->tp_alloc(type, 0);

    if (self == NULL)
        return NULL;
    arn_py_state_hold(st);
    self->st = st;
    self->generation = arn_runtime_generation();
    self->chunk_at = -1;
    arn_queue_init(&self->waiting);
    return (PyObject *)self;
}

static PyObject *new_slot(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args;
    (void)kwargs;
    return arn_py_file_new(type);
}

static int init_slot(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *keywords[] = {"file", "loop", "executor", NULL};
    arn_py_file *self = file_of(op);
    PyObject *file, *loop, *executor;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO", keywords, &file, &loop, &executor))
        return -1;
    Py_XSETREF(self->inner, Py_NewRef(file));
    Py_XSETREF(self->loop, loop == Py_None ? NULL : Py_NewRef(loop));
    Py_XSETREF(self->executor, executor == Py_None ? NULL : Py_NewRef(executor));
    return 0;
}

/* As io does: a file that is dropped open is written and closed, with a warning. */
static void finalize_slot(PyObject *op) {
    arn_py_file *self = file_of(op);
    PyObject *error;
    size_t done = 0;

    if (!self->is_fast || self->is_closed || self->file == NULL)
        return;
    error = arn_py_take_error();
    arn_py_file_end_lost(self);
    if (self->is_closed)
        goto out;
    if (PyErr_ResourceWarning(op, 1, "unclosed file %R", op) < 0) {
        if (PyErr_ExceptionMatches(PyExc_Warning))
            PyErr_WriteUnraisable(op);
        PyErr_Clear();
    }
    while (self->is_writer && done < self->end) {
        ssize_t n = write(self->file->fd, self->block + done, self->end - done);
        if (n < 0 && errno != EINTR) {
            arn_py_file_raise(self, errno);
            PyErr_WriteUnraisable(op);
            break;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    arn_file_unref(self->file);
    self->file = NULL;
    self->is_closed = 1;
    arn_py_file_drop_buffer(self);
out:
    if (error != NULL) {
        arn_py_raise(error);
        Py_DECREF(error);
    }
}

static int clear_slot(PyObject *op) {
    arn_py_file *self = file_of(op);

    Py_CLEAR(self->inner);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->executor);
    Py_CLEAR(self->translator);
    Py_CLEAR(self->pieces);
    return 0;
}

static int traverse_slot(PyObject *op, visitproc visit, void *arg) {
    arn_py_file *self = file_of(op);

    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(self->st);
    Py_VISIT(self->inner);
    Py_VISIT(self->loop);
    Py_VISIT(self->executor);
    Py_VISIT(self->translator);
    Py_VISIT(self->pieces);
    return 0;
}

static void dealloc_slot(PyObject *op) {
    arn_py_file *self = file_of(op);
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;

    if (self->is_fast && PyObject_CallFinalizerFromDealloc(op) < 0)
        return;
    PyObject_GC_UnTrack(op);
    clear_slot(op);
    if (self->lost != NULL && self->generation == arn_runtime_generation())
        arn_op_unref(&self->lost->op);
    if (self->file != NULL)
        arn_file_unref(self->file);
    arn_py_file_drop_buffer(self);
    Py_CLEAR(self->name);
    Py_CLEAR(self->mode);
    Py_CLEAR(self->encoding);
    Py_CLEAR(self->errors);
    Py_CLEAR(self->newline);
    Py_CLEAR(self->buffering);
    Py_CLEAR(self->decoded);
    Py_CLEAR(self->chunk);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

#define ENTRY(name, function)                                                                      \
    { name, (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS, NULL }

/* What the Python classes choose from: each io class has some of them. */
static PyMethodDef members[] = {ENTRY("read", read_method),
                                ENTRY("read1", read1_method),
                                ENTRY("readline", readline_method),
                                ENTRY("readlines", readlines_method),
                                ENTRY("readinto", readinto_method),
                                ENTRY("readall", readall_method),
                                ENTRY("peek", peek_method),
                                ENTRY("seek", seek_method),
                                ENTRY("tell", tell_method),
                                ENTRY("write", write_method),
                                ENTRY("writelines", writelines_method),
                                ENTRY("flush", flush_method),
                                ENTRY("truncate", truncate_method),
                                ENTRY("close", close_method),
                                ENTRY("isatty", isatty_method),
                                ENTRY("seekable", seekable_method),
                                ENTRY("writable", writable_method),
                                ENTRY("readable", readable_method),
                                ENTRY("fileno", fileno_method),
                                ENTRY("detach", detach_method),
                                {NULL, NULL, 0, NULL}};

static PyGetSetDef attributes[] = {
    {"closed", get_closed, NULL, NULL, "closed"},
    {"name", get_name, NULL, NULL, "name"},
    {"mode", get_mode, NULL, NULL, "mode"},
    {"encoding", get_encoding, NULL, NULL, "encoding"},
    {"errors", get_errors, NULL, NULL, "errors"},
    {"newlines", get_newlines, NULL, NULL, "newlines"},
    {"line_buffering", get_line_buffering, NULL, NULL, "line_buffering"},
    {"buffer", get_of_inner, NULL, NULL, "buffer"},
    {"raw", get_of_inner, NULL, NULL, "raw"},
    {NULL, NULL, NULL, NULL, NULL}};

static PyGetSetDef own_attributes[] = {{"_file", get_inner, set_inner, NULL, NULL},
                                       {"_loop", get_loop, NULL, NULL, NULL},
                                       {"_ref_loop", get_ref_loop, NULL, NULL, NULL},
                                       {"_executor", get_executor, NULL, NULL, NULL},
                                       {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot slots[] = {{Py_tp_new, new_slot},
                              {Py_tp_init, init_slot},
                              {Py_tp_finalize, finalize_slot},
                              {Py_tp_dealloc, dealloc_slot},
                              {Py_tp_traverse, traverse_slot},
                              {Py_tp_clear, clear_slot},
                              {Py_tp_repr, repr_slot},
                              {Py_tp_getset, own_attributes},
                              {Py_am_aiter, PyObject_SelfIter},
                              {Py_am_anext, anext_slot},
                              {0, NULL}};

static PyType_Spec spec = {
    .name = "arshai_native._core.File",
    .basicsize = sizeof(arn_py_file),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

static int add_member(PyObject *dict, const char *name, PyObject *descriptor) {
    int r = descriptor == NULL ? -1 : PyDict_SetItemString(dict, name, descriptor);

    Py_XDECREF(descriptor);
    return r;
}

int arn_py_init_file(PyObject *module, arn_py_state *st) {
    PyObject *dict = PyDict_New();
    PyMethodDef *method;
    PyGetSetDef *attribute;
    int r = 0;

    st->file_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
    if (st->file_type == NULL || dict == NULL)
        r = -1;
    for (method = members; r == 0 && method->ml_name != NULL; method++)
        r = add_member(dict, method->ml_name, PyDescr_NewMethod(st->file_type, method));
    for (attribute = attributes; r == 0 && attribute->name != NULL; attribute++)
        r = add_member(dict, attribute->name, PyDescr_NewGetSet(st->file_type, attribute));
    if (r == 0)
        r = PyModule_AddObjectRef(module, "file_members", dict);
    if (r == 0)
        r = PyModule_AddObjectRef(module, "File", (PyObject *)st->file_type);
    Py_XDECREF(dict);
    return r;
}
