/* job.h - what a worker does for a file: some steps in a fixed order, with one hop.
 *
 * A job is an op (io/op.h) that goes to the workers. Whoever makes it fills in its steps and owns
 * what the file knows (position, buffer): the job only has what it needs of that, so a file whose
 * job is given up, or whose event loop is gone, needs no lock.
 */
#ifndef ARN_FILE_JOB_H
#define ARN_FILE_JOB_H

#include "base/slice.h"
#include "io/op.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

/* A descriptor that jobs share with the file they work for: closed with the last reference. */
typedef struct arn_file {
    _Atomic unsigned refs;
    int fd; /* -1: closed by a job, or given away */
} arn_file;

/* Takes the descriptor over. NULL when out of memory: it is closed. */
arn_file *arn_file_new(int fd);
void arn_file_ref(arn_file *file);
void arn_file_unref(arn_file *file);

/* The steps, in the order in which they are done. After one that fails only ARN_FILE_CLOSES is. */
enum {
    ARN_FILE_OPENS = 1,
    ARN_FILE_WRITES = 2,
    ARN_FILE_SEEKS = 4,
    ARN_FILE_TRUNCATES = 8,
    ARN_FILE_READS = 16,
    ARN_FILE_CLOSES = 32
};

typedef struct arn_file_job {
    arn_op op;
    unsigned steps;
    int error;         /* errno of the step that failed, or 0 */
    _Atomic int begun; /* by a worker; or set by an owner who takes the job away from them */
    _Atomic int ended; /* all below is the owner's again */
    arn_file *file;    /* referenced; NULL before ARN_FILE_OPENS */

    /* OPENS: with READS, and if it is a regular file, `block` is made and filled; if it is none,
     * nothing is read. */
    char *path; /* owned */
    int flags;
    mode_t mode;
    int64_t size;

    /* WRITES: all of both parts. */
    arn_slice parts[2];
    size_t written;

    /* SEEKS: the result goes to offset. TRUNCATES: to `length`; < 0: to where SEEKS has
     * come, which goes there. */
    int64_t offset;
    int whence;
    int64_t length;

    /* READS: until there are `want` bytes or no more. An error behind some data is left for the
     * next read. */
    char *into;
    size_t want, got;
    int at_end;  /* a read has said so */
    char *block; /* owned; into points into it, if there is one */
    size_t block_size;

    /* Kept until the job goes: what parts and into point to. Released on any thread. */
    void *held[2];
    void (*release)(void *object);
} arn_file_job;

/* A job without steps, for `file` (referenced) or NULL. NULL when out of memory. */
arn_file_job *arn_file_job_new(arn_file *file);

/* Hands the job, which has a port, to the workers; one without steps goes straight to its port. */
void arn_file_job_submit(arn_file_job *job);

/* What READS with OPENS asks for at most. */
#define ARN_FILE_FIRST (64u * 1024u)

/* Reads at the descriptor's position what is in memory already, if the system can say so: never
 * waits for a disk. How many bytes, 0 at the end of the file, or -1 with errno set: EAGAIN if it
 * would have to wait, EOPNOTSUPP if it cannot be known. now_linux.c; now_portable.c is the twin. */
ssize_t arn_file_read_now(int fd, char *into, size_t size);

#endif /* ARN_FILE_JOB_H */
