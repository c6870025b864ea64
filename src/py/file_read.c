/* file_read.c - a fast File opened for reading in binary: what io.BufferedReader does. */
#include "py/file.h"

#include "base/alloc.h"

#include <errno.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

/* The buffer, as long as everything asked for is in memory: read inline, so it must be short work.
 */
#define NOW_SIZE (64u * 1024u)

/* What a worker reads ahead. */
#define AHEAD (256u * 1024u)

/* So much and more goes straight into the result, and is nothing to be read inline. */
#define DIRECT (96u * 1024u)

/* read1() without a number, and what peek() shows: io's buffer. */
#define IO_BUFFER 8192

static size_t available(const arn_py_file *self) {
    return self->end - self->start;
}

int64_t arn_py_file_place(const arn_py_file *self) {
    return self->position - (int64_t)available(self);
}

static arn_py_fill fill_by_job(arn_py_file *self, size_t want, arn_op **op) {
    size_t left = available(self);
    int64_t more = self->length > self->position ? self->length - self->position : 0;
    arn_file_job *job = arn_py_file_job(self, ARN_FILE_READS);

    if (job == NULL)
        return ARN_PY_FILL_FAILED;
    if (want > AHEAD && (uint64_t)more < want) /* there is hardly so much */
        want = (size_t)more + 1;
    job->want = want > AHEAD ? want : AHEAD;
    job->block_size = left + job->want;
    job->block = arn_malloc(job->block_size);
    if (job->block == NULL) {
        arn_op_unref(&job->op);
        PyErr_NoMemory();
        return ARN_PY_FILL_FAILED;
    }
    if (left > 0)
        memcpy(job->block, self->block + self->start, left);
    job->into = job->block + left;
    *op = &job->op;
    return ARN_PY_FILL_JOB;
}

/* Where the system does not say what is in memory: whether the file is no longer than what was read
 * of it when it ended there. */
static int is_at_length(const arn_py_file *self) {
    struct stat st;

    return self->has_all && fstat(self->file->fd, &st) == 0 && st.st_size <= self->position;
}

arn_py_fill arn_py_file_fill(arn_py_file *self, size_t want, arn_op **op) {
    size_t left = available(self);
    ssize_t n;

    if (self->cannot_now)
        return is_at_length(self) ? ARN_PY_FILL_END : fill_by_job(self, want, op);
    if (want >= DIRECT)
        return fill_by_job(self, want, op);
    if (left == 0)
        self->start = self->end = 0;
    /* A file that has been read to its end has one byte of room: enough to see that it still ends
     * there. */
    if (!(self->has_all && self->size > self->end) &&
        arn_py_file_reserve(self, left > NOW_SIZE / 2 ? left + NOW_SIZE : NOW_SIZE) < 0)
        return ARN_PY_FILL_FAILED;
    n = arn_file_read_now(self->file->fd, self->block + self->end, self->size - self->end);
    if (n < 0) {
        /* Anything but "not now" and an error of the disk, which the worker will meet, too. */
        self->cannot_now = errno != EAGAIN && errno != EIO && errno != EINTR;
        return self->cannot_now && is_at_length(self) ? ARN_PY_FILL_END
                                                      : fill_by_job(self, want, op);
    }
    self->has_all = n == 0;
    self->end += (size_t)n;
    self->position += n;
    return n == 0 ? ARN_PY_FILL_END : ARN_PY_FILL_SOME;
}

arn_py_fill arn_py_file_filled(arn_py_file *self, const arn_file_job *job) {
    if (job->error != 0) {
        arn_py_file_raise(self, job->error);
        return ARN_PY_FILL_FAILED;
    }
    return job->got > 0 ? ARN_PY_FILL_SOME : ARN_PY_FILL_END;
}

static PyObject *take(arn_py_file *self, size_t n) {
    PyObject *bytes = PyBytes_FromStringAndSize(self->block + self->start, (Py_ssize_t)n);

    if (bytes == NULL)
        return NULL;
    self->start += n;
    /* As with io, what has been read to the end of the file is read anew by who goes back. */
    if (self->has_all && self->start == self->end)
        self->start = self->end = 0;
    return bytes;
}

static arn_py_file_step done(PyObject **result, PyObject *value) {
    *result = value;
    return ARN_PY_FILE_DONE;
}

/* ---- reading a number of bytes, or all ---- */

/* Into the result itself, which is `filled` bytes of `total` already. Takes it over. */
static arn_py_file_step read_direct(arn_py_file *self, arn_py_request *req, PyObject *bytes,
                                    size_t filled, arn_op **op) {
    arn_file_job *job = arn_py_file_job(self, ARN_FILE_READS);

    if (job == NULL) {
        Py_DECREF(bytes);
        return ARN_PY_FILE_DONE;
    }
    job->into = PyBytes_AS_STRING(bytes) + filled;
    job->want = (size_t)PyBytes_GET_SIZE(bytes) - filled;
    job->held[0] = Py_NewRef(bytes);
    Py_XSETREF(req->reply_callback, bytes);
    *op = &job->op;
    return ARN_PY_FILE_MORE;
}

static arn_py_file_step begin_direct(arn_py_file *self, arn_py_request *req, size_t want,
                                     arn_op **op) {
    size_t left = available(self);
    int64_t more = self->length > self->position ? self->length - self->position : 0;
    size_t total = left + (size_t)more + 1;
    PyObject *bytes;

    if (total < DIRECT)
        total = DIRECT; /* longer than it was */
    if (total > want)
        total = want;
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    if (bytes == NULL)
        return ARN_PY_FILE_DONE;
    if (left > 0)
        memcpy(PyBytes_AS_STRING(bytes), self->block + self->start, left);
    return read_direct(self, req, bytes, left, op);
}

static arn_py_file_step end_direct(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                   size_t want, arn_op **op, PyObject **result) {
    PyObject *bytes = req->reply_callback;
    size_t filled = (size_t)(job->into - PyBytes_AS_STRING(bytes)) + job->got;
    size_t total = (size_t)PyBytes_GET_SIZE(bytes);

    if (arn_py_file_filled(self, job) == ARN_PY_FILL_FAILED)
        return ARN_PY_FILE_DONE;
    /* What was in the buffer is in the result now. */
    arn_py_file_drop_buffer(self);
    req->reply_callback = NULL;
    Py_CLEAR(job->held[0]); /* it may be resized by its only owner */
    if (filled == total && total < want) {
        size_t larger = total < want / 2 ? total * 2 : want;
        if (_PyBytes_Resize(&bytes, (Py_ssize_t)larger) < 0)
            return ARN_PY_FILE_DONE;
        return read_direct(self, req, bytes, filled, op);
    }
    if (filled < total && !job->at_end)
        return read_direct(self, req, bytes, filled, op); /* for the error that ended it */
    if (filled < total)
        _PyBytes_Resize(&bytes, (Py_ssize_t)filled); /* NULL with an exception if it fails */
    return done(result, bytes);
}

/* number < 0: all. */
static arn_py_file_step read_bytes(arn_py_file *self, arn_py_request *req, long long number,
                                   arn_file_job *job, arn_op **op, PyObject **result) {
    size_t want = number < 0 ? PY_SSIZE_T_MAX : (size_t)number;
    arn_py_fill fill = ARN_PY_FILL_SOME;

    if (job != NULL && job->held[0] != NULL)
        return end_direct(self, req, job, want, op, result);
    if (job != NULL)
        fill = arn_py_file_filled(self, job);
    while (fill == ARN_PY_FILL_SOME && available(self) < want) {
        size_t left = available(self);
        int64_t more = self->length > self->position ? self->length - self->position : 0;

        if (number < 0 ? left + (size_t)more >= DIRECT : want >= DIRECT)
            return begin_direct(self, req, want, op);
        fill = arn_py_file_fill(self, number < 0 ? 0 : want - left, op);
    }
    if (fill == ARN_PY_FILL_JOB)
        return ARN_PY_FILE_MORE;
    if (fill == ARN_PY_FILL_FAILED)
        return ARN_PY_FILE_DONE;
    return done(result, take(self, available(self) < want ? available(self) : want));
}

/* ---- lines ---- */

/* The length of the next line as far as it is in the buffer. 0: its end is not. */
static size_t line_length(const arn_py_file *self, long long limit) {
    size_t left = available(self);
    const char *from = self->block + self->start;
    const char *newline;

    if (limit >= 0 && (size_t)limit < left)
        left = (size_t)limit;
    newline = left == 0 ? NULL : memchr(from, '\n', left);
    if (newline != NULL)
        return (size_t)(newline - from) + 1;
    return limit >= 0 && left == (size_t)limit ? left : 0;
}

PyObject *arn_py_file_read_line(arn_py_file *self) {
    size_t n = line_length(self, -1);

    return n == 0 ? NULL : take(self, n);
}

static arn_py_file_step read_line(arn_py_file *self, long long limit, arn_file_job *job,
                                  arn_op **op, PyObject **result) {
    arn_py_fill fill = job == NULL ? ARN_PY_FILL_SOME : arn_py_file_filled(self, job);
    size_t n = 0;

    if (limit == 0)
        return done(result, take(self, 0));
    while (fill == ARN_PY_FILL_SOME && (n = line_length(self, limit)) == 0)
        fill = arn_py_file_fill(self, available(self), op);
    if (fill == ARN_PY_FILL_JOB)
        return ARN_PY_FILE_MORE;
    if (fill == ARN_PY_FILL_FAILED)
        return ARN_PY_FILE_DONE;
    return done(result, take(self, fill == ARN_PY_FILL_END ? available(self) : n));
}

arn_py_file_step arn_py_file_lines(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                   arn_py_file_line *next, arn_op **op, PyObject **result) {
    if (req->reply_callback == NULL) {
        req->reply_callback = PyList_New(0);
        if (req->number <= 0)
            req->number = LLONG_MAX;
        if (req->reply_callback == NULL)
            return ARN_PY_FILE_DONE;
    }
    for (;;) {
        PyObject *line = NULL;
        Py_ssize_t n;
        int r;

        if (next(self, req, job, op, &line) == ARN_PY_FILE_MORE)
            return ARN_PY_FILE_MORE;
        job = NULL;
        n = line == NULL ? -1 : PyObject_Size(line);
        if (n <= 0) {
            Py_XDECREF(line);
            if (n < 0)
                return ARN_PY_FILE_DONE;
            break;
        }
        r = PyList_Append(req->reply_callback, line);
        Py_DECREF(line);
        if (r < 0)
            return ARN_PY_FILE_DONE;
        if (n > req->number) /* as io: the hint is passed, not met */
            break;
        req->number -= n;
    }
    *result = req->reply_callback;
    req->reply_callback = NULL;
    return ARN_PY_FILE_DONE;
}

static arn_py_file_step next_line(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                  arn_op **op, PyObject **result) {
    (void)req;
    return read_line(self, -1, job, op, result);
}

/* ---- the rest ---- */

/* As with io, nobody can resize what is read into while that is under way. */
static arn_py_file_step read_into(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                  arn_op **op, PyObject **result) {
    PyObject *bytes = NULL;
    arn_py_file_step step;
    Py_buffer into;

    if (PyObject_GetBuffer(req->args, &into, PyBUF_WRITABLE) < 0) {
        PyErr_Clear();
        return ARN_PY_FILE_SLOW;
    }
    step = read_bytes(self, req, into.len, job, op, &bytes);
    if (bytes != NULL) {
        memcpy(into.buf, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
        *result = PyLong_FromSsize_t(PyBytes_GET_SIZE(bytes));
        Py_DECREF(bytes);
    }
    PyBuffer_Release(&into);
    if (step == ARN_PY_FILE_MORE && job == NULL) {
        PyObject *view = PyMemoryView_FromObject(req->args);

        if (view == NULL) {
            arn_op_unref(*op);
            *op = NULL;
            return ARN_PY_FILE_DONE;
        }
        Py_SETREF(req->args, view);
    } else if (job != NULL && step == ARN_PY_FILE_DONE) {
        Py_CLEAR(req->args); /* the drain still holds the request while the woken task runs */
    }
    return step;
}

/* What is there, or what one read brings. */
static arn_py_file_step read_some(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                  arn_op **op, PyObject **result) {
    int is_peek = req->reply_kind == ARN_PY_FILE_PEEK;
    size_t want = is_peek || req->number < 0 ? IO_BUFFER : (size_t)req->number;
    arn_py_fill fill = job == NULL ? ARN_PY_FILL_SOME : arn_py_file_filled(self, job);

    if (fill == ARN_PY_FILL_SOME && available(self) == 0 && want > 0)
        fill = arn_py_file_fill(self, want, op);
    if (fill == ARN_PY_FILL_JOB)
        return ARN_PY_FILE_MORE;
    if (fill == ARN_PY_FILL_FAILED)
        return ARN_PY_FILE_DONE;
    if (want > available(self))
        want = available(self);
    if (is_peek)
        return done(result, PyBytes_FromStringAndSize(self->block + self->start, (Py_ssize_t)want));
    return done(result, take(self, want));
}

arn_py_file_step arn_py_file_read_seek(arn_py_file *self, int64_t offset, int whence,
                                       arn_file_job *job, arn_op **op, PyObject **result) {
    int64_t target = whence == SEEK_SET ? offset : arn_py_file_place(self) + offset;

    if (job != NULL && job->error != 0) {
        arn_py_file_raise(self, job->error);
        return ARN_PY_FILE_DONE;
    }
    if (job != NULL) {
        arn_py_file_drop_buffer(self);
        return done(result, PyLong_FromLongLong(self->position));
    }
    if (whence == SEEK_END) {
        job = arn_py_file_job(self, ARN_FILE_SEEKS);
        if (job == NULL)
            return ARN_PY_FILE_DONE;
        job->offset = offset;
        job->whence = SEEK_END;
        *op = &job->op;
        return ARN_PY_FILE_MORE;
    }
    if (whence == SEEK_CUR && ((offset > 0 && arn_py_file_place(self) > INT64_MAX - offset)))
        return ARN_PY_FILE_SLOW;
    if (target < 0)
        return ARN_PY_FILE_SLOW;
    /* Text, as with io, is always read anew. */
    if (!self->is_text && target <= self->position &&
        target >= self->position - (int64_t)self->end) {
        self->start = self->end - (size_t)(self->position - target);
        return done(result, PyLong_FromLongLong(target));
    }
    if (lseek(self->file->fd, target, SEEK_SET) < 0) {
        arn_py_file_raise(self, errno);
        return ARN_PY_FILE_DONE;
    }
    arn_py_file_drop_buffer(self);
    self->position = target;
    return done(result, PyLong_FromLongLong(target));
}

arn_py_file_step arn_py_file_read_step(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                       arn_op **op, PyObject **result) {
    switch (req->reply_kind) {
    case ARN_PY_FILE_READ:
        return req->number < -1 ? ARN_PY_FILE_SLOW
                                : read_bytes(self, req, req->number, job, op, result);
    case ARN_PY_FILE_NEXT:
    case ARN_PY_FILE_READLINE:
        return read_line(self, req->number, job, op, result);
    case ARN_PY_FILE_READLINES:
        return arn_py_file_lines(self, req, job, next_line, op, result);
    case ARN_PY_FILE_READ1:
    case ARN_PY_FILE_PEEK:
        return read_some(self, req, job, op, result);
    case ARN_PY_FILE_READINTO:
        return read_into(self, req, job, op, result);
    case ARN_PY_FILE_SEEK:
        return arn_py_file_read_seek(self, req->number, (int)req->failures, job, op, result);
    case ARN_PY_FILE_TELL:
        return done(result, PyLong_FromLongLong(arn_py_file_place(self)));
    case ARN_PY_FILE_FLUSH:
        return done(result, Py_NewRef(Py_None));
    case ARN_PY_FILE_CLOSE:
        /* Nothing is written back: there is nothing to wait for. */
        arn_file_unref(self->file);
        self->file = NULL;
        self->is_closed = 1;
        arn_py_file_drop_buffer(self);
        return done(result, Py_NewRef(Py_None));
    case ARN_PY_FILE_READABLE:
    case ARN_PY_FILE_SEEKABLE:
        return done(result, Py_NewRef(Py_True));
    case ARN_PY_FILE_WRITABLE:
    case ARN_PY_FILE_ISATTY:
        return done(result, Py_NewRef(Py_False));
    default:
        return ARN_PY_FILE_SLOW;
    }
}
