/* file.h - File, the C half of the classes of arshai_native.aiofiles.
 *
 * A File is fast or slow. A slow one has an io object behind it (`inner`), whose methods run on the
 * workers. A fast one has a descriptor and keeps what an io object would: position, buffer, decoded
 * text. What is in memory is answered at once, the rest by jobs (file/job.h). Fast are regular
 * files opened only for reading or only for writing, in binary with a buffer or as UTF-8, ASCII or
 * Latin-1 text; and as long as nothing unusual is asked of them: then an io object takes over, for
 * good, at the place where the fast file was (see arn_py_file_hand_over()), so that rare
 * methods, wrong arguments and closed files have the behaviour of io's own.
 *
 * One operation of a file is under way at a time, `current`; others wait for their turn in the
 * order of their first awaits. All state belongs to whoever holds the GIL: a job is given what it
 * needs, and its results become state when the op comes back.
 */
#ifndef ARN_PY_FILE_H
#define ARN_PY_FILE_H

#include "py/request.h"
#include "py/state.h"

#include <file/job.h>

/* In the order of the table in file.c. */
typedef enum arn_py_file_method {
    ARN_PY_FILE_READ,
    ARN_PY_FILE_READ1,
    ARN_PY_FILE_READLINE,
    ARN_PY_FILE_READLINES,
    ARN_PY_FILE_READINTO,
    ARN_PY_FILE_READALL,
    ARN_PY_FILE_PEEK,
    ARN_PY_FILE_SEEK,
    ARN_PY_FILE_TELL,
    ARN_PY_FILE_WRITE,
    ARN_PY_FILE_WRITELINES,
    ARN_PY_FILE_FLUSH,
    ARN_PY_FILE_TRUNCATE,
    ARN_PY_FILE_CLOSE,
    ARN_PY_FILE_ISATTY,
    ARN_PY_FILE_SEEKABLE,
    ARN_PY_FILE_READABLE,
    ARN_PY_FILE_WRITABLE,
    ARN_PY_FILE_NEXT, /* readline() of `async for` */
    ARN_PY_FILE_METHODS
} arn_py_file_method;

typedef enum arn_py_file_codec { ARN_PY_UTF8, ARN_PY_ASCII, ARN_PY_LATIN1 } arn_py_file_codec;

typedef struct arn_py_file {
    PyObject_HEAD
    arn_py_state *st;
    PyObject *inner;               /* slow: the io object; NULL: fast */
    PyObject *loop, *executor;     /* as given; NULL like None */
    PyObject *name, *mode;         /* fast: as io's attributes say */
    PyObject *encoding, *errors;   /* text: str */
    PyObject *newline, *buffering; /* as given to open() */

    arn_file *file; /* fast and open */
    int is_fast, is_text, is_writer, is_closed;
    arn_py_file_codec codec;

    arn_py_request *current; /* borrowed: its loop's port holds it */
    arn_queue waiting;       /* ops: node */
    arn_file_job *lost;      /* the job of a loop that is gone: to be settled first */
    unsigned generation;     /* of the process */

    /* The buffer. Reading: bytes [start, end) of the file are before `position`, the descriptor's.
     * Writing: bytes [0, end) are still to be written there. */
    char *block;
    size_t size, start, end;
    int64_t position;
    int64_t length; /* of the file when it was opened: how much there may be to read */
    int cannot_now; /* the system cannot say what is in memory */
    int has_all;    /* the buffer ends where the file ended when it was filled */

    /* Text that is read, as io.TextIOWrapper does it. */
    PyObject *decoded;    /* the last chunk as str; NULL: none */
    Py_ssize_t used;      /* characters of it */
    PyObject *translator; /* io.IncrementalNewlineDecoder, NULL: newline="\n" */
    size_t carry;         /* first bytes of the buffer: an unfinished character of the last chunk */
    double bytes_per_char; /* of the last chunk */
    int keeps_newlines;    /* newline="" */
    int has_newline;       /* the translator has seen a "\n" */
    int chunk_flag;        /* the translator holds a "\r" back */
    /* For tell(): the last chunk's place in the file with what was carried to it (-1: none), the
     * flag as it was there, and its bytes; NULL: each is a character. */
    int64_t chunk_at;
    int chunk_flag_before;
    PyObject *chunk;
    int cannot_tell;  /* readlines() has stopped early: io's tell() refuses then */
    PyObject *pieces; /* of a line that readlines() has begun */
} arn_py_file;

/* What a method does on its way to a result. `result` and `op` are set by one of the steps. */
typedef enum arn_py_file_step {
    ARN_PY_FILE_DONE, /* *result, or NULL with an exception set */
    ARN_PY_FILE_MORE, /* *op is to be run, then the method goes on */
    ARN_PY_FILE_SLOW  /* not for the fast path: an io object is to take over */
} arn_py_file_step;

/* Of the request's own fields, for these methods: reply_kind is the method, number its first
 * argument as far as that is a number, args the object otherwise, never_decode whether the op is a
 * call of an io object's method, reply_callback what has been gathered of the result. */

/* One step of a method of an idle fast file; job: what has just come to its end for it, settled, or
 * NULL at the beginning. */
arn_py_file_step arn_py_file_read_step(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                       arn_op **op, PyObject **result);
arn_py_file_step arn_py_file_text_step(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                       arn_op **op, PyObject **result);
arn_py_file_step arn_py_file_write_step(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                        arn_op **op, PyObject **result);

/* ---- file.c ---- */

/* Whether nothing is under way or waits. */
int arn_py_file_is_idle(arn_py_file *self);

/* A method as Python calls it: what is to be awaited. */
PyObject *arn_py_file_call(PyObject *file, arn_py_file_method method, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames);

/* The current operation is over: the next one's turn. */
void arn_py_file_end_turn(arn_py_file *self);

/* The file goes: what a job of a loop that is gone has not written comes back, unless a worker is
 * at it. */
void arn_py_file_end_lost(arn_py_file *self);

/* A file of the class, without anything. NULL with an exception set. */
PyObject *arn_py_file_new(PyTypeObject *type);

/* An io object takes over an idle fast file's descriptor. 0, or -1 with an exception set: the file
 * is closed then. */
int arn_py_file_hand_over(arn_py_file *self);

/* A new job for the file, for a step's *op; NULL with MemoryError. */
arn_file_job *arn_py_file_job(arn_py_file *self, unsigned steps);

/* Sets OSError for what a job could not do. */
void arn_py_file_raise(const arn_py_file *self, int error);

/* Forgets what is in the buffer. */
void arn_py_file_drop_buffer(arn_py_file *self);

/* Room for `size` bytes of which the buffer's are the first, moved to the front. 0, or -1 with
 * MemoryError. */
int arn_py_file_reserve(arn_py_file *self, size_t size);

/* ---- file_open.c ---- */

/* A new job that opens the path, a str or bytes; NULL with an exception set. */
arn_file_job *arn_py_file_opening_job(PyObject *path, int flags);

/* ---- file_read.c ---- */

typedef enum arn_py_fill {
    ARN_PY_FILL_FAILED = -1,
    ARN_PY_FILL_END,
    ARN_PY_FILL_SOME,
    ARN_PY_FILL_JOB
} arn_py_fill;

/* Makes more bytes available than there are, up to `want` if that is easy: SOME, END of the file,
 * JOB (in *op: it has to bring them), FAILED with an exception set. */
arn_py_fill arn_py_file_fill(arn_py_file *self, size_t want, arn_op **op);

/* How the job that a fill has asked for has ended, settled: not JOB. */
arn_py_fill arn_py_file_filled(arn_py_file *self, const arn_file_job *job);

/* The place in the file of the next byte that is read. */
int64_t arn_py_file_place(const arn_py_file *self);

/* seek(); a target that is no place is for an io object to refuse. */
arn_py_file_step arn_py_file_read_seek(arn_py_file *self, int64_t offset, int whence,
                                       arn_file_job *job, arn_op **op, PyObject **result);

/* readlines(), by calls of `next`, which gives an empty line at the end. */
typedef arn_py_file_step arn_py_file_line(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                          arn_op **op, PyObject **result);
arn_py_file_step arn_py_file_lines(arn_py_file *self, arn_py_request *req, arn_file_job *job,
                                   arn_py_file_line *next, arn_op **op, PyObject **result);

/* The next line if all of it is there; else NULL, without an exception or with one. */
PyObject *arn_py_file_read_line(arn_py_file *self);
PyObject *arn_py_file_text_line(arn_py_file *self);

/* ---- file_write.c ---- */

/* A job that has ended gives back what it has not written. */
void arn_py_file_take_back(arn_py_file *self, arn_file_job *job);

/* ---- file_text.c ---- */

/* What tell() returns. */
PyObject *arn_py_file_text_tell(arn_py_file *self);

#endif /* ARN_PY_FILE_H */
