#include "py/file.h"

#include "base/alloc.h"
#include "py/blocking.h"
#include "py/codec.h"

#include <errno.h>
#include <unistd.h>

/* So often (seconds) a job is looked at whose event loop is gone. */
#define LOST_CHECK 0.002

static arn_py_file *file_of(PyObject *op) {
    return (arn_py_file *)op;
}

static arn_file_job *job_of(arn_op *op) {
    return ARN_CONTAINER_OF(op, arn_file_job, op);
}

static const char *const names[ARN_PY_FILE_METHODS] = {
    "read",   "read1",    "readline", "readlines",  "readinto", "readall",  "peek",
    "seek",   "tell",     "write",    "writelines", "flush",    "truncate", "close",
    "isatty", "seekable", "readable", "writable",   "readline"};

void arn_py_file_raise(const arn_py_file *self, int error) {
    (void)self;
    errno = error;
    if (error == ENOMEM)
        PyErr_NoMemory();
    else
        PyErr_SetFromErrno(PyExc_OSError);
}

/* ---- the buffer ---- */

void arn_py_file_drop_buffer(arn_py_file *self) {
    arn_free(self->block);
    self->block = NULL;
    self->size = self->start = self->end = self->carry = 0;
    self->has_all = 0;
}

int arn_py_file_reserve(arn_py_file *self, size_t size) {
    size_t left = self->end - self->start;
    char *block;

    if (size <= self->size - self->start)
        return 0;
    if (size <= self->size) {
        memmove(self->block, self->block + self->start, left);
    } else {
        block = arn_malloc(size);
        if (block == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        if (left > 0)
            memcpy(block, self->block + self->start, left);
        arn_free(self->block);
        self->block = block;
        self->size = size;
    }
    self->start = 0;
    self->end = left;
    return 0;
}

arn_file_job *arn_py_file_job(arn_py_file *self, unsigned steps) {
    arn_file_job *job = arn_file_job_new(self->file);

    if (job == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    job->steps = steps;
    job->release = arn_py_release_anywhere;
    return job;
}

/* What a job has done becomes the file's state. is_late: nobody wants what it has read. */
static void settle(arn_py_file *self, arn_file_job *job, int is_late) {
    if (!self->is_fast)
        return;
    if (job->steps & ARN_FILE_WRITES)
        arn_py_file_take_back(self, job);
    if (job->op.status != ARN_OK)
        return; /* it was not begun */
    if ((job->steps & ARN_FILE_SEEKS) && job->error == 0)
        self->position = job->offset;
    if ((job->steps & ARN_FILE_READS) && job->block != NULL) {
        arn_free(self->block);
        self->block = job->block;
        self->size = job->block_size;
        self->start = 0;
        self->end = (size_t)(job->into - job->block) + job->got;
        self->position += (int64_t)job->got;
        self->has_all = job->at_end;
        job->block = NULL;
    } else if (job->steps & ARN_FILE_READS) {
        self->position += (int64_t)job->got;
        if (is_late && lseek(job->file->fd, self->position - (int64_t)job->got, SEEK_SET) >= 0)
            self->position -= (int64_t)job->got;
    }
    if (job->steps & ARN_FILE_CLOSES) {
        arn_file_unref(self->file);
        self->file = NULL;
        self->is_closed = 1;
        arn_py_file_drop_buffer(self);
    }
}

/* ---- turns ---- */

/* 0: what the loop that is gone has begun has not ended. */
static int settle_lost(arn_py_file *self) {
    arn_file_job *lost = self->lost;

    if (lost == NULL)
        return 1;
    if (!atomic_load_explicit(&lost->ended, memory_order_acquire))
        return 0;
    self->lost = NULL;
    settle(self, lost, 1);
    arn_op_unref(&lost->op);
    return 1;
}

void arn_py_file_end_lost(arn_py_file *self) {
    arn_file_job *lost = self->lost;

    if (lost == NULL || self->generation != arn_runtime_generation())
        return;
    self->lost = NULL;
    if (atomic_load_explicit(&lost->ended, memory_order_acquire)) {
        settle(self, lost, 1);
        if (self->is_closed && lost->error != 0) {
            arn_py_file_raise(self, lost->error);
            PyErr_WriteUnraisable((PyObject *)self);
        }
    } else if (!atomic_exchange_explicit(&lost->begun, 1, memory_order_acq_rel) &&
               (lost->steps & ARN_FILE_WRITES)) {
        arn_py_file_take_back(self, lost);
    }
    arn_op_unref(&lost->op);
}

/* In a forked child, what was under way is so in the parent. */
static void check_process(arn_py_file *self) {
    unsigned generation = arn_runtime_generation();

    if (self->generation == generation)
        return;
    self->generation = generation;
    self->current = NULL;
    self->lost = NULL;
    arn_queue_init(&self->waiting);
}

int arn_py_file_is_idle(arn_py_file *self) {
    check_process(self);
    return self->current == NULL && arn_queue_empty(&self->waiting) && settle_lost(self);
}

/* The current operation is over. The next comes back through its loop's port, which may be
 * another's. */
void arn_py_file_end_turn(arn_py_file *self) {
    self->current = NULL;
    while (self->current == NULL) {
        arn_queue *node = arn_queue_pop(&self->waiting);
        arn_op *op;

        if (node == NULL)
            return;
        op = ARN_CONTAINER_OF(node, arn_op, node);
        if (!arn_op_is_cancelled(op))
            self->current = op->owner;
        arn_file_job_submit(job_of(op));
    }
}

static void send_op(arn_py_request *req, arn_op *op) {
    arn_py_file *self = file_of(req->client);

    if (self->current == NULL)
        self->current = req;
    if (self->current != req)
        arn_queue_push(&self->waiting, &op->node);
    else if (req->never_decode)
        arn_py_call_submit(req->st, op);
    else
        arn_file_job_submit(job_of(op));
}

/* The op was never sent: what it was to write is still to be written. */
static void take_back_unsent(arn_py_file *self, arn_py_request *req, arn_op *op) {
    if (!req->never_decode && (job_of(op)->steps & ARN_FILE_WRITES))
        arn_py_file_take_back(self, job_of(op));
}

static void late(arn_py_request *req, arn_op *op) {
    arn_py_file *self = file_of(req->client);

    if (self->current != req)
        return;
    if (op != NULL && op->port == NULL)
        take_back_unsent(self, req, op);
    else if (op != NULL && !req->never_decode &&
             atomic_load_explicit(&job_of(op)->ended, memory_order_acquire))
        settle(self, job_of(op), 1);
    arn_py_file_end_turn(self);
}

static void orphaned(arn_py_request *req, arn_op *op) {
    arn_py_file *self = file_of(req->client);

    if (self->current != req) {
        if (!arn_queue_empty(&op->node)) { /* it waits: nobody else has it */
            arn_queue_remove(&op->node);
            arn_op_unref(op);
        }
        return;
    }
    if (!req->never_decode && job_of(op)->steps != 0) {
        arn_op_ref(op);
        self->lost = job_of(op);
    }
    arn_py_file_end_turn(self);
}

/* ---- from a method to its result ---- */

static PyObject *arguments_of(const arn_py_request *req) {
    if (req->usage < 0 || req->usage > 1)
        return Py_NewRef(req->args);
    return req->args == NULL ? PyTuple_New(0) : PyTuple_Pack(1, req->args);
}

/* The method of the io object behind, as an op. NULL with an exception set. */
static arn_op *call_inner(arn_py_request *req) {
    PyObject *inner = PyObject_GetAttr(req->client, req->st->str_file);
    PyObject *method = inner == NULL ? NULL : PyObject_GetAttrString(inner, names[req->reply_kind]);
    PyObject *args = method == NULL ? NULL : arguments_of(req);
    arn_op *op = args == NULL ? NULL : arn_py_call_new(method, args, req->reply_options);

    Py_XDECREF(inner);
    Py_XDECREF(method);
    Py_XDECREF(args);
    if (req->reply_kind == ARN_PY_FILE_SEEK && req->usage > 0 &&
        (req->failures == SEEK_END || (req->failures == SEEK_SET && req->number == 0)))
        Py_CLEAR(file_of(req->client)->translator); /* `newlines` begins anew */
    return op;
}

static PyObject *line_or_stop(PyObject *line) {
    int is_line = line == NULL ? -1 : PyObject_IsTrue(line);

    if (is_line == 0)
        PyErr_SetNone(PyExc_StopAsyncIteration);
    if (is_line <= 0)
        Py_CLEAR(line);
    return line;
}

/* 1: the outcome is in *result or set as an exception; 0: req->op is to be run. done: the op that
 * has come to its end, settled, or NULL at the beginning. */
static int advance(arn_py_file *self, arn_py_request *req, arn_op *done, PyObject **result) {
    arn_py_file_step step = ARN_PY_FILE_SLOW;
    arn_op *op = NULL;

    *result = NULL;
    if (req->never_decode) {
        *result = arn_py_call_outcome(done);
        goto outcome;
    }
    if (done != NULL && (job_of(done)->steps & ARN_FILE_CLOSES)) {
        if (job_of(done)->error != 0)
            arn_py_file_raise(self, job_of(done)->error);
        else
            *result = Py_NewRef(Py_None);
        return 1;
    }
    if (self->is_fast && self->is_closed && req->usage >= 0 &&
        req->reply_kind == ARN_PY_FILE_CLOSE) {
        *result = Py_NewRef(Py_None);
        return 1;
    }
    if (self->is_fast && !self->is_closed && req->usage >= 0) {
        arn_file_job *job = done == NULL || job_of(done)->steps == 0 ? NULL : job_of(done);
        step = self->is_writer ? arn_py_file_write_step(self, req, job, &op, result)
               : self->is_text ? arn_py_file_text_step(self, req, job, &op, result)
                               : arn_py_file_read_step(self, req, job, &op, result);
    }
    if (step == ARN_PY_FILE_DONE)
        goto outcome;
    if (step == ARN_PY_FILE_SLOW) {
        if (self->is_fast && arn_py_file_hand_over(self) < 0)
            return 1;
        op = call_inner(req);
        if (op == NULL)
            return 1;
        req->never_decode = 1;
    }
    req->op = op;
    req->rt = arn_py_runtime();
    if (req->rt != NULL)
        return 0;
    req->op = NULL;
    take_back_unsent(self, req, op);
    arn_op_unref(op);
    return 1;

outcome:
    if (req->reply_kind == ARN_PY_FILE_NEXT)
        *result = line_or_stop(*result);
    return 1;
}

static int at_once(arn_py_request *req, PyObject **result) {
    arn_py_file *self = file_of(req->client);

    if (!arn_py_file_is_idle(self))
        return 0;
    /* Its turn until submit() has sent the op, or has called late(): Python code that runs on the
     * way may let others in. */
    self->current = req;
    if (!advance(self, req, NULL, result))
        return 0;
    arn_py_file_end_turn(self);
    return 1;
}

/* For who has to wait for its turn. */
static arn_op *make_op(arn_py_request *req) {
    arn_file_job *job;

    req->rt = arn_py_runtime();
    job = req->rt == NULL ? NULL : arn_py_file_job(file_of(req->client), 0);
    return job == NULL ? NULL : &job->op;
}

static PyObject *convert(arn_py_request *req, arn_op *op, double *again) {
    arn_py_file *self = file_of(req->client);
    PyObject *result = NULL;

    if (!req->never_decode)
        settle(self, job_of(op), 0);
    if (!settle_lost(self)) {
        *again = LOST_CHECK;
        Py_RETURN_NONE;
    }
    if (!req->never_decode && op->status != ARN_OK) {
        PyErr_SetString(PyExc_RuntimeError, "no worker thread can be had, or they were stopped");
    } else if (!advance(self, req, op, &result)) {
        *again = 0;
        Py_RETURN_NONE;
    }
    arn_py_file_end_turn(self);
    /* The drain still holds the request while the woken task runs, which may drop the file. */
    Py_CLEAR(req->client);
    return result;
}

#define CLASS(name)                                                                                \
    {                                                                                              \
        .qualname = "File." name, .make_op = make_op, .convert = convert, .send = send_op,         \
        .late = late, .orphaned = orphaned, .at_once = at_once                                     \
    }

static const arn_py_request_class classes[ARN_PY_FILE_METHODS] = {
    CLASS("read"),     CLASS("read1"),    CLASS("readline"),   CLASS("readlines"),
    CLASS("readinto"), CLASS("readall"),  CLASS("peek"),       CLASS("seek"),
    CLASS("tell"),     CLASS("write"),    CLASS("writelines"), CLASS("flush"),
    CLASS("truncate"), CLASS("close"),    CLASS("isatty"),     CLASS("seekable"),
    CLASS("readable"), CLASS("writable"), CLASS("__anext__")};

/* ---- the methods ---- */

static arn_py_request *new_request(arn_py_file *self, arn_py_file_method method) {
    arn_py_request *req = arn_py_request_new(self->st, &classes[method]);

    if (req == NULL)
        return NULL;
    req->client = Py_NewRef((PyObject *)self);
    req->reply_kind = (int)method;
    req->number = method == ARN_PY_FILE_PEEK ? 0 : -1;
    return req;
}

/* Whether a number (or None) is one that the fast path takes. */
static int is_number(PyObject *object, int or_none, long long *number) {
    int overflow;

    if (object == Py_None)
        return or_none;
    if (!PyLong_CheckExact(object))
        return 0;
    *number = PyLong_AsLongLongAndOverflow(object, &overflow);
    return !overflow && *number >= PY_SSIZE_T_MIN && *number <= PY_SSIZE_T_MAX;
}

/* Whether the positional arguments are of the usual kind, which the fast path takes. Numbers go to
 * the request. */
static int is_usual(arn_py_request *req, PyObject *const *args, Py_ssize_t nargs) {
    long long whence = 0;

    switch (req->reply_kind) {
    case ARN_PY_FILE_SEEK:
        if (nargs == 2 && (!is_number(args[1], 0, &whence) || whence < 0 || whence > 2))
            return 0;
        req->failures = (unsigned)whence;
        return (nargs == 1 || nargs == 2) && is_number(args[0], 0, &req->number);
    case ARN_PY_FILE_READ:
    case ARN_PY_FILE_READLINE:
    case ARN_PY_FILE_READLINES:
    case ARN_PY_FILE_TRUNCATE:
        return nargs == 0 || (nargs == 1 && is_number(args[0], 1, &req->number));
    case ARN_PY_FILE_READ1:
    case ARN_PY_FILE_PEEK:
        return nargs == 0 || (nargs == 1 && is_number(args[0], 0, &req->number));
    case ARN_PY_FILE_READINTO:
    case ARN_PY_FILE_WRITE:
    case ARN_PY_FILE_WRITELINES:
        return nargs == 1;
    default:
        return nargs == 0;
    }
}

static PyObject *dict_of_keywords(PyObject *const *values, PyObject *kwnames) {
    PyObject *dict = PyDict_New();
    Py_ssize_t i;

    for (i = 0; dict != NULL && i < PyTuple_GET_SIZE(kwnames); i++)
        if (PyDict_SetItem(dict, PyTuple_GET_ITEM(kwnames, i), values[i]) < 0)
            Py_CLEAR(dict);
    return dict;
}

static PyObject *tuple_of(PyObject *const *args, Py_ssize_t nargs) {
    PyObject *tuple = PyTuple_New(nargs);
    Py_ssize_t i;

    for (i = 0; tuple != NULL && i < nargs; i++)
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    return tuple;
}

/* An executor was given: a coroutine that calls the io object's method there. */
static PyObject *on_executor(arn_py_file *self, arn_py_request *req) {
    PyObject *args = arguments_of(req);
    PyObject *r =
        args == NULL
            ? NULL
            : PyObject_CallFunction(self->st->file_on_executor, "OsOOi", (PyObject *)self,
                                    names[req->reply_kind], args,
                                    req->reply_options != NULL ? req->reply_options : Py_None,
                                    req->reply_kind == ARN_PY_FILE_NEXT);
    Py_XDECREF(args);
    return r;
}

PyObject *arn_py_file_call(PyObject *op, arn_py_file_method method, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames) {
    arn_py_file *self = file_of(op);
    arn_py_request *req = new_request(self, method);
    PyObject *r = (PyObject *)req;
    int is_fine = 1;

    if (req == NULL)
        return NULL;
    req->usage = kwnames == NULL && is_usual(req, args, nargs) ? (int)nargs : -1;
    if (req->usage == 1) {
        req->args = Py_NewRef(args[0]);
    } else if (req->usage != 0) {
        req->args = tuple_of(args, nargs);
        is_fine = req->args != NULL;
    }
    if (kwnames != NULL && is_fine) {
        req->reply_options = dict_of_keywords(args + nargs, kwnames);
        is_fine = req->reply_options != NULL;
    }
    if (is_fine && self->executor == NULL)
        return r;
    r = is_fine ? on_executor(self, req) : NULL;
    req->state = ARN_PY_CLOSED;
    Py_DECREF(req);
    return r;
}

/* ---- an io object takes over ---- */

int arn_py_file_hand_over(arn_py_file *self) {
    PyObject *inner = NULL;
    PyObject *pending = NULL;
    int is_begun = self->is_text && !self->is_writer && self->chunk_at >= 0;
    long long at = 0;
    int fd = -1;

    if (!self->is_closed) {
        fd = self->file->fd;
        at = self->is_writer ? lseek(fd, 0, SEEK_CUR)
             : is_begun      ? self->chunk_at
                             : arn_py_file_place(self);
        pending = PyBytes_FromStringAndSize(self->is_writer ? self->block : NULL,
                                            self->is_writer ? (Py_ssize_t)self->end : 0);
        if (pending == NULL)
            return -1;
    }
    inner = PyObject_CallFunction(
        self->st->file_reopen, "iOOOOOOOLin", fd, self->name, self->mode, self->buffering,
        self->is_text ? self->encoding : Py_None, self->is_text ? self->errors : Py_None,
        self->newline, pending != NULL ? pending : Py_None, at,
        is_begun ? self->chunk_flag_before : 0, is_begun ? self->used : (Py_ssize_t)0);
    if (self->file != NULL) {
        self->file->fd = -1; /* the io object's now, or closed */
        arn_file_unref(self->file);
        self->file = NULL;
    }
    self->is_closed = 1;
    self->is_fast = inner == NULL;
    arn_py_file_drop_buffer(self);
    Py_CLEAR(self->decoded);
    Py_CLEAR(self->chunk);
    Py_XSETREF(self->inner, inner);
    Py_XDECREF(pending);
    return inner == NULL ? -1 : 0;
}
