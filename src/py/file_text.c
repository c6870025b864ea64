/* file_text.c - a fast File opened for reading text: what io.TextIOWrapper does, chunk by chunk as
 * it does it, so that a character that cannot be decoded fails at the same call. */
#include "py/file.h"

#include <limits.h>
#include <unistd.h>

/* io.TextIOWrapper's. */
#define CHUNK 8192

static arn_py_file_step done(PyObject **result, PyObject *value) {
    *result = value;
    return ARN_PY_FILE_DONE;
}

static Py_ssize_t unread(const arn_py_file *self) {
    return self->decoded == NULL ? 0 : PyUnicode_GET_LENGTH(self->decoded) - self->used;
}

static void drop_chunk(arn_py_file *self) {
    Py_CLEAR(self->decoded);
    Py_CLEAR(self->chunk);
    self->used = 0;
    self->chunk_at = -1;
}

/* ---- decoding ---- */

/* *consumed: in, how many bytes there are; out, how many of them are characters. */
static PyObject *decode_bytes(const arn_py_file *self, const char *bytes, Py_ssize_t *consumed,
                              int is_final) {
    const char *errors = PyUnicode_AsUTF8(self->errors);

    if (errors == NULL)
        return NULL;
    switch (self->codec) {
    case ARN_PY_ASCII:
        return PyUnicode_DecodeASCII(bytes, *consumed, errors);
    case ARN_PY_LATIN1:
        return PyUnicode_DecodeLatin1(bytes, *consumed, errors);
    default:
        return is_final ? PyUnicode_DecodeUTF8(bytes, *consumed, errors)
                        : PyUnicode_DecodeUTF8Stateful(bytes, *consumed, errors, consumed);
    }
}

/* Takes over `text`, which may be NULL. */
static PyObject *translate(const arn_py_file *self, PyObject *text, int is_final) {
    PyObject *args[3] = {self->translator, text, is_final ? Py_True : Py_False};
    PyObject *made;

    if (text == NULL || self->translator == NULL)
        return text;
    made = PyObject_VectorcallMethod(self->st->str_decode, args, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                     NULL);
    Py_DECREF(text);
    if (made != NULL && !PyUnicode_Check(made)) {
        Py_DECREF(made);
        PyErr_SetString(PyExc_TypeError, "decoder should return a string result");
        return NULL;
    }
    return made;
}

/* Whether the translator holds a "\r" back: 0 or 1, or -1 with an exception set. */
static int held_back(const arn_py_file *self) {
    PyObject *state;
    long flag;

    if (self->translator == NULL)
        return 0;
    state = PyObject_CallMethod(self->translator, "getstate", NULL);
    if (state == NULL)
        return -1;
    flag = PyLong_AsLong(PyTuple_GetItem(state, 1));
    Py_DECREF(state);
    return flag == -1 && PyErr_Occurred() ? -1 : (int)(flag & 1);
}

/* The next chunk of at least CHUNK bytes, `hint` if that is more, becomes `decoded`. END: there is
 * nothing more, FAILED also if it cannot be decoded: it has been passed then. */
static arn_py_fill read_chunk(arn_py_file *self, size_t hint, const arn_file_job *job,
                              arn_op **op) {
    arn_py_fill fill = job == NULL ? ARN_PY_FILL_SOME : arn_py_file_filled(self, job);
    size_t want = hint > CHUNK ? hint : CHUNK;
    size_t carry = self->carry;
    size_t n;
    Py_ssize_t consumed, count;
    int64_t at;
    int is_plain;
    int flag = self->chunk_flag;
    const char *bytes;
    PyObject *text;

    while (fill == ARN_PY_FILL_SOME && self->end - self->start - carry < want)
        fill = arn_py_file_fill(self, want, op);
    if (fill == ARN_PY_FILL_JOB || fill == ARN_PY_FILL_FAILED)
        return fill;
    n = self->end - self->start - carry;
    if (n > want)
        n = want;
    bytes = self->block + self->start;
    at = arn_py_file_place(self);
    consumed = (Py_ssize_t)(carry + n);
    drop_chunk(self);
    text = consumed == 0 ? PyUnicode_New(0, 0) : decode_bytes(self, bytes, &consumed, n == 0);
    if (text == NULL) {
        /* The chunk has been passed, but what was carried to it is still there. */
        memmove(self->block + self->start + n, bytes, carry);
        self->start += n;
        return ARN_PY_FILL_FAILED;
    }
    is_plain = (size_t)PyUnicode_GET_LENGTH(text) == carry + n && PyUnicode_IS_ASCII(text) &&
               !flag && (self->translator == NULL || memchr(bytes, '\r', carry + n) == NULL);
    self->start += (size_t)consumed;
    self->carry = carry + n - (size_t)consumed;
    if (!is_plain) {
        text = translate(self, text, n == 0);
        self->chunk = PyBytes_FromStringAndSize(bytes, (Py_ssize_t)(carry + n));
        self->chunk_flag = text == NULL ? 0 : held_back(self);
        if (text == NULL || self->chunk == NULL || self->chunk_flag < 0) {
            Py_XDECREF(text);
            return ARN_PY_FILL_FAILED;
        }
    } else if (self->translator != NULL && !self->has_newline) {
        /* So that the translator has seen what `newlines` says. */
        self->has_newline = PyUnicode_FindChar(text, '\n', 0, PyUnicode_GET_LENGTH(text), 1) >= 0;
        text = translate(self, text, 0);
        if (text == NULL)
            return ARN_PY_FILL_FAILED;
    }
    self->chunk_flag_before = flag;
    self->chunk_at = at;
    count = PyUnicode_GET_LENGTH(text);
    self->bytes_per_char = count > 0 ? (double)n / (double)count : 0.0;
    if (n == 0 && count == 0) {
        Py_DECREF(text);
        drop_chunk(self);
        return ARN_PY_FILL_END;
    }
    self->decoded = text;
    return ARN_PY_FILL_SOME;
}

/* ---- characters ---- */

static PyObject *take(arn_py_file *self, Py_ssize_t n) {
    PyObject *piece;

    if (n > unread(self))
        n = unread(self);
    if (n == 0)
        return PyUnicode_New(0, 0);
    piece = PyUnicode_Substring(self->decoded, self->used, self->used + n);
    if (piece != NULL)
        self->used += n;
    return piece;
}

/* Adds a piece, which is taken over, to what the request has gathered. 0, or -1 with an exception.
 */
static int gather(PyObject **pieces, PyObject *piece) {
    int r = -1;

    if (piece != NULL && *pieces == NULL)
        *pieces = PyList_New(0);
    if (piece != NULL && *pieces != NULL)
        r = PyList_Append(*pieces, piece);
    Py_XDECREF(piece);
    return r;
}

/* All pieces, the last of which is taken over and may be NULL with an exception set. */
static PyObject *join(PyObject **pieces, PyObject *last) {
    PyObject *nothing, *made;

    if (*pieces == NULL || last == NULL)
        return last;
    if (gather(pieces, last) < 0)
        return NULL;
    nothing = PyUnicode_New(0, 0);
    made = nothing == NULL ? NULL : PyUnicode_Join(nothing, *pieces);
    Py_XDECREF(nothing);
    Py_CLEAR(*pieces);
    return made;
}

/* Where the next line ends, in characters from `used`; 0: not in this chunk. */
static Py_ssize_t line_length(const arn_py_file *self) {
    Py_ssize_t length = PyUnicode_GET_LENGTH(self->decoded);
    Py_ssize_t newline, cr;

    if (self->used >= length)
        return 0;
    if (PyUnicode_KIND(self->decoded) == PyUnicode_1BYTE_KIND) {
        const char *data = PyUnicode_DATA(self->decoded);
        const char *found = memchr(data + self->used, '\n', (size_t)(length - self->used));
        newline = found == NULL ? -1 : found - data;
    } else {
        newline = PyUnicode_FindChar(self->decoded, '\n', self->used, length, 1);
    }
    if (!self->keeps_newlines)
        return newline < 0 ? 0 : newline - self->used + 1;
    /* newline="": "\r" ends a line, too, and "\r\n" is never split over two chunks. */
    cr = PyUnicode_FindChar(self->decoded, '\r', self->used, newline < 0 ? length : newline, 1);
    if (cr >= 0)
        newline = newline == cr + 1 ? newline : cr;
    return newline < 0 ? 0 : newline - self->used + 1;
}

PyObject *arn_py_file_text_line(arn_py_file *self) {
    Py_ssize_t n = self->decoded == NULL ? 0 : line_length(self);

    return n == 0 ? NULL : take(self, n);
}

/* *limit: how many characters more at most; < 0: any. */
static arn_py_file_step read_line(arn_py_file *self, PyObject **pieces, long long *limit,
                                  arn_file_job *job, arn_op **op, PyObject **result) {
    for (;;) {
        Py_ssize_t n = job == NULL ? unread(self) : 0;
        Py_ssize_t line = n > 0 ? line_length(self) : 0;
        arn_py_fill fill;

        if (line > 0)
            n = line;
        if (*limit >= 0 && n >= *limit)
            return done(result, join(pieces, take(self, (Py_ssize_t)*limit)));
        if (line > 0)
            return done(result, join(pieces, take(self, n)));
        if (n > 0) {
            if (gather(pieces, take(self, n)) < 0)
                return ARN_PY_FILE_DONE;
            if (*limit >= 0)
                *limit -= n;
        }
        fill = read_chunk(self, 0, job, op);
        job = NULL;
        if (fill == ARN_PY_FILL_JOB)
            return ARN_PY_FILE_MORE;
        if (fill == ARN_PY_FILL_FAILED)
            return ARN_PY_FILE_DONE;
        if (fill == ARN_PY_FILL_END)
            return done(result, join(pieces, PyUnicode_New(0, 0)));
    }
}

/* For readlines(), whose request gathers the lines. */
static arn_py_file_step next_line(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                  arn_op **op, PyObject **result) {
    long long any = -1;

    (void)req;
    return read_line(self, &self->pieces, &any, job, op, result);
}

static arn_py_file_step read_all(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                 arn_op **op, PyObject **result) {
    PyObject *bytes = NULL;
    PyObject *text;
    Py_ssize_t n;

    req->number = -1;
    if (arn_py_file_read_step(self, req, job, op, &bytes) == ARN_PY_FILE_MORE)
        return ARN_PY_FILE_MORE;
    if (bytes == NULL)
        return ARN_PY_FILE_DONE;
    n = PyBytes_GET_SIZE(bytes);
    self->carry = 0;
    text = decode_bytes(self, PyBytes_AS_STRING(bytes), &n, 1);
    Py_DECREF(bytes);
    text = translate(self, text, 1);
    self->chunk_flag = 0;
    if (text != NULL && unread(self) > 0) {
        PyObject *pieces = NULL;
        if (gather(&pieces, take(self, unread(self))) < 0)
            Py_CLEAR(text);
        else
            text = join(&pieces, text);
        Py_XDECREF(pieces);
    }
    if (text != NULL)
        drop_chunk(self);
    return done(result, text);
}

static arn_py_file_step read_some(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                  arn_op **op, PyObject **result) {
    for (;;) {
        Py_ssize_t n = job == NULL ? unread(self) : 0;
        size_t hint;
        arn_py_fill fill;

        if (n >= req->number)
            return done(result, join(&req->reply_callback, take(self, (Py_ssize_t)req->number)));
        if (n > 0 && gather(&req->reply_callback, take(self, n)) < 0)
            return ARN_PY_FILE_DONE;
        req->number -= n;
        hint = (size_t)((double)req->number *
                        (self->bytes_per_char > 1.0 ? self->bytes_per_char : 1.0));
        fill = read_chunk(self, hint, job, op);
        job = NULL;
        if (fill == ARN_PY_FILL_JOB)
            return ARN_PY_FILE_MORE;
        if (fill == ARN_PY_FILL_FAILED)
            return ARN_PY_FILE_DONE;
        if (fill == ARN_PY_FILL_END)
            return done(result, join(&req->reply_callback, PyUnicode_New(0, 0)));
    }
}

/* ---- places ---- */

PyObject *arn_py_file_text_tell(arn_py_file *self) {
    if (self->chunk_at < 0)
        return PyLong_FromLongLong(arn_py_file_place(self));
    if (self->chunk == NULL)
        return PyLong_FromLongLong(self->chunk_at + self->used);
    return PyObject_CallFunction(self->st->file_cookie, "OOOLiOn", self->encoding, self->errors,
                                 self->newline, (long long)self->chunk_at, self->chunk_flag_before,
                                 self->chunk, self->used);
}

static arn_py_file_step seek_text(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                  arn_op **op, PyObject **result) {
    int whence = (int)req->failures;
    arn_py_file_step step;

    if ((whence != SEEK_SET && req->number != 0) || req->number < 0)
        return ARN_PY_FILE_SLOW;
    if (whence == SEEK_CUR)
        return done(result, arn_py_file_text_tell(self));
    step = arn_py_file_read_seek(self, req->number, whence, job, op, result);
    if (step != ARN_PY_FILE_DONE || *result == NULL)
        return step;
    drop_chunk(self);
    self->carry = 0;
    self->chunk_flag = 0;
    if (self->translator != NULL) {
        /* At the beginning, as for io, nothing has been seen. */
        int is_new = whence == SEEK_END || req->number == 0;
        PyObject *r = is_new ? PyObject_CallMethod(self->translator, "reset", NULL)
                             : PyObject_CallMethod(self->translator, "setstate", "((yi))", "", 0);
        self->has_newline = is_new ? 0 : self->has_newline;
        if (r == NULL)
            Py_CLEAR(*result);
        Py_XDECREF(r);
    }
    return ARN_PY_FILE_DONE;
}

arn_py_file_step arn_py_file_text_step(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                       arn_op **op, PyObject **result) {
    arn_py_file_step step;

    switch (req->reply_kind) {
    case ARN_PY_FILE_READ:
        return req->number < 0 ? read_all(self, req, job, op, result)
                               : read_some(self, req, job, op, result);
    case ARN_PY_FILE_NEXT:
    case ARN_PY_FILE_READLINE:
        return read_line(self, &req->reply_callback, &req->number, job, op, result);
    case ARN_PY_FILE_READLINES:
        if (job == NULL && req->reply_callback == NULL)
            Py_CLEAR(self->pieces);
        step = arn_py_file_lines(self, req, job, next_line, op, result);
        self->cannot_tell = step == ARN_PY_FILE_DONE && *result != NULL && self->chunk_at >= 0;
        return step;
    case ARN_PY_FILE_SEEK:
        self->cannot_tell = 0;
        return seek_text(self, req, job, op, result);
    case ARN_PY_FILE_FLUSH:
        self->cannot_tell = 0;
        return arn_py_file_read_step(self, req, job, op, result);
    case ARN_PY_FILE_TELL:
        if (self->cannot_tell) {
            PyErr_SetString(PyExc_OSError, "telling position disabled by next() call");
            return ARN_PY_FILE_DONE;
        }
        return done(result, arn_py_file_text_tell(self));
    case ARN_PY_FILE_READ1:
    case ARN_PY_FILE_PEEK:
    case ARN_PY_FILE_READINTO:
        return ARN_PY_FILE_SLOW;
    default:
        return arn_py_file_read_step(self, req, job, op, result);
    }
}
