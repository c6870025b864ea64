/* file_write.c - a fast File opened for writing. Bytes gather in the buffer; what does not fit goes
 * out with them in one job. As with io, an error is that of the call which writes: of flush() or
 * close(), perhaps; what could not be written stays in the buffer. */
#include "py/file.h"

#include "base/alloc.h"

#include <errno.h>
#include <unistd.h>

#define BUFFER_SIZE (64u * 1024u)

static arn_py_file_step done(PyObject **result, PyObject *value) {
    *result = value;
    return ARN_PY_FILE_DONE;
}

/* A job that begins with writing what is in the buffer, which it takes with it: a file whose event
 * loop is gone may go before the job. */
static arn_file_job *writing_job(arn_py_file *self, unsigned steps) {
    arn_file_job *job = arn_py_file_job(self, steps);

    if (job == NULL || self->end == 0)
        return job;
    job->steps |= ARN_FILE_WRITES;
    job->block = self->block;
    job->block_size = self->size;
    job->parts[0].data = self->block;
    job->parts[0].len = self->end;
    self->block = NULL;
    self->size = self->end = 0;
    return job;
}

void arn_py_file_take_back(arn_py_file *self, arn_file_job *job) {
    size_t done_bytes = job->written < job->parts[0].len ? job->written : job->parts[0].len;
    size_t left = job->parts[0].len - done_bytes;

    if (job->block == NULL || self->block != NULL)
        return;
    if (left > 0)
        memmove(job->block, job->block + done_bytes, left);
    self->block = job->block;
    self->size = job->block_size;
    self->end = left;
    job->block = NULL;
}

/* The end of a call whose job has written something: value, which is taken over, or the error. */
static arn_py_file_step written(const arn_py_file *self, const arn_file_job *job, PyObject **result,
                                PyObject *value) {
    if (job->error != 0) {
        Py_XDECREF(value);
        arn_py_file_raise(self, job->error);
        return ARN_PY_FILE_DONE;
    }
    return done(result, value);
}

/* Puts `bytes` behind what is in the buffer. 1: done; 0: *op has to write it; -1: an exception. The
 * job keeps `owner`, whose bytes they are. */
static int put(arn_py_file *self, const char *bytes, size_t len, PyObject *owner, arn_op **op) {
    arn_file_job *job;

    if (len <= BUFFER_SIZE - self->end) {
        if (arn_py_file_reserve(self, BUFFER_SIZE) < 0)
            return -1;
        memcpy(self->block + self->end, bytes, len);
        self->end += len;
        return 1;
    }
    job = writing_job(self, ARN_FILE_WRITES);
    if (job == NULL)
        return -1;
    job->parts[1].data = bytes;
    job->parts[1].len = len;
    job->held[0] = Py_NewRef(owner);
    *op = &job->op;
    return 0;
}

static PyObject *encode(const arn_py_file *self, PyObject *text) {
    const char *codec = self->codec == ARN_PY_ASCII    ? "ascii"
                        : self->codec == ARN_PY_LATIN1 ? "latin-1"
                                                       : "utf-8";
    const char *errors = PyUnicode_AsUTF8(self->errors);

    return errors == NULL ? NULL : PyUnicode_AsEncodedString(text, codec, errors);
}

/* The bytes of what is to be written and their owner, a new reference; NULL with an exception set,
 * or without one if it is nothing for the fast path. */
static PyObject *bytes_of(const arn_py_file *self, PyObject *object, const char **bytes,
                          size_t *len) {
    PyObject *owner;

    if (self->is_text && PyUnicode_Check(object)) {
        if (PyUnicode_READY(object) < 0)
            return NULL;
        if (PyUnicode_IS_ASCII(object)) {
            *bytes = PyUnicode_DATA(object);
            *len = (size_t)PyUnicode_GET_LENGTH(object);
            return Py_NewRef(object);
        }
        owner = encode(self, object);
    } else if (!self->is_text && PyBytes_Check(object)) {
        owner = Py_NewRef(object);
    } else if (!self->is_text && PyObject_CheckBuffer(object)) {
        owner = PyBytes_FromObject(object); /* it may change before it is written */
    } else {
        return NULL;
    }
    if (owner != NULL) {
        *bytes = PyBytes_AS_STRING(owner);
        *len = (size_t)PyBytes_GET_SIZE(owner);
    }
    return owner;
}

static arn_py_file_step write_one(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                  arn_op **op, PyObject **result) {
    const char *bytes;
    size_t len;
    PyObject *owner;
    int r;

    if (job != NULL)
        return written(self, job, result, PyLong_FromLongLong(req->number));
    owner = bytes_of(self, req->args, &bytes, &len);
    if (owner == NULL)
        return PyErr_Occurred() ? ARN_PY_FILE_DONE : ARN_PY_FILE_SLOW;
    req->number = self->is_text ? PyUnicode_GET_LENGTH(req->args) : (long long)len;
    r = put(self, bytes, len, owner, op);
    Py_DECREF(owner);
    if (r == 0)
        return ARN_PY_FILE_MORE;
    return done(result, r < 0 ? NULL : PyLong_FromLongLong(req->number));
}

/* A list or tuple whose items are all bytes or all str is one write of them together. */
static arn_py_file_step write_lines(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                    arn_op **op, PyObject **result) {
    PyObject *lines = req->args;
    PyObject *nothing, *all;
    const char *bytes;
    size_t len;
    PyObject *owner;
    Py_ssize_t i;
    int r;

    if (job != NULL)
        return written(self, job, result, Py_NewRef(Py_None));
    if (!PyList_CheckExact(lines) && !PyTuple_CheckExact(lines))
        return ARN_PY_FILE_SLOW;
    for (i = 0; i < PySequence_Fast_GET_SIZE(lines); i++) {
        PyObject *line = PySequence_Fast_GET_ITEM(lines, i);
        if (self->is_text ? !PyUnicode_CheckExact(line) : !PyBytes_CheckExact(line))
            return ARN_PY_FILE_SLOW;
    }
    nothing = self->is_text ? PyUnicode_New(0, 0) : PyBytes_FromStringAndSize(NULL, 0);
    all = nothing == NULL ? NULL
          : self->is_text ? PyUnicode_Join(nothing, lines)
                          : PyObject_CallMethod(nothing, "join", "O", lines);
    Py_XDECREF(nothing);
    owner = all == NULL ? NULL : bytes_of(self, all, &bytes, &len);
    Py_XDECREF(all);
    if (owner == NULL)
        return ARN_PY_FILE_DONE;
    r = put(self, bytes, len, owner, op);
    Py_DECREF(owner);
    if (r == 0)
        return ARN_PY_FILE_MORE;
    return done(result, r < 0 ? NULL : Py_NewRef(Py_None));
}

static arn_py_file_step flush(arn_py_file *self, arn_file_job *job, arn_op **op,
                              PyObject **result) {
    if (job != NULL)
        return written(self, job, result, Py_NewRef(Py_None));
    if (self->end == 0)
        return done(result, Py_NewRef(Py_None));
    job = writing_job(self, ARN_FILE_WRITES);
    if (job == NULL)
        return ARN_PY_FILE_DONE;
    *op = &job->op;
    return ARN_PY_FILE_MORE;
}

static int64_t place(const arn_py_file *self) {
    off_t at = lseek(self->file->fd, 0, SEEK_CUR);

    return at < 0 ? -1 : at + (int64_t)self->end;
}

static arn_py_file_step seek(arn_py_file *self, arn_py_request *req, arn_file_job *job, arn_op **op,
                             PyObject **result) {
    int whence = (int)req->failures;

    if (job != NULL)
        return written(self, job, result, PyLong_FromLongLong(job->offset));
    if ((whence == SEEK_SET && req->number < 0) ||
        (self->is_text && whence != SEEK_SET && req->number != 0))
        return ARN_PY_FILE_SLOW;
    job = writing_job(self, ARN_FILE_SEEKS);
    if (job == NULL)
        return ARN_PY_FILE_DONE;
    job->offset = req->number;
    job->whence = whence;
    *op = &job->op;
    return ARN_PY_FILE_MORE;
}

static arn_py_file_step truncate_file(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                      arn_op **op, PyObject **result) {
    int is_here = req->args == NULL || req->args == Py_None;

    if (job != NULL)
        return written(self, job, result, PyLong_FromLongLong(job->length));
    if (!is_here && req->number < 0)
        return ARN_PY_FILE_SLOW;
    /* Where that is, is known when all is written: who appends may not be alone. */
    job = writing_job(self, is_here ? ARN_FILE_SEEKS | ARN_FILE_TRUNCATES : ARN_FILE_TRUNCATES);
    if (job == NULL)
        return ARN_PY_FILE_DONE;
    job->whence = SEEK_CUR;
    job->length = is_here ? -1 : req->number;
    *op = &job->op;
    return ARN_PY_FILE_MORE;
}

arn_py_file_step arn_py_file_write_step(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                        arn_op **op, PyObject **result) {
    int64_t at;

    switch (req->reply_kind) {
    case ARN_PY_FILE_WRITE:
        return write_one(self, req, job, op, result);
    case ARN_PY_FILE_WRITELINES:
        return write_lines(self, req, job, op, result);
    case ARN_PY_FILE_FLUSH:
        return flush(self, job, op, result);
    case ARN_PY_FILE_SEEK:
        return seek(self, req, job, op, result);
    case ARN_PY_FILE_TRUNCATE:
        return truncate_file(self, req, job, op, result);
    case ARN_PY_FILE_TELL:
        /* As with io, text says where it has been written to: at the file's end when appending. */
        if (self->is_text && (self->end > 0 || job != NULL)) {
            req->number = 0;
            req->failures = SEEK_CUR;
            return seek(self, req, job, op, result);
        }
        at = place(self);
        if (at < 0)
            arn_py_file_raise(self, errno);
        return done(result, at < 0 ? NULL : PyLong_FromLongLong(at));
    case ARN_PY_FILE_CLOSE:
        job = writing_job(self, ARN_FILE_CLOSES);
        if (job == NULL)
            return ARN_PY_FILE_DONE;
        *op = &job->op;
        return ARN_PY_FILE_MORE;
    case ARN_PY_FILE_READABLE:
    case ARN_PY_FILE_ISATTY:
        return done(result, Py_NewRef(Py_False));
    case ARN_PY_FILE_WRITABLE:
    case ARN_PY_FILE_SEEKABLE:
        return done(result, Py_NewRef(Py_True));
    default:
        return ARN_PY_FILE_SLOW;
    }
}
