#include "file/job.h"

#include "base/alloc.h"
#include "base/status.h"
#include "io/port.h"
#include "io/workers.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* In one call: a kernel that is not preempted while it copies gives an event loop's thread the
 * processor only between two of them. */
#define IO_MAX (512u * 1024u)

/* A file of unknown length, as those of /proc, is first asked for so much. */
#define UNKNOWN_FIRST 8192u

arn_file *arn_file_new(int fd) {
    arn_file *file = arn_malloc(sizeof(*file));

    if (file == NULL) {
        close(fd);
        return NULL;
    }
    atomic_init(&file->refs, 1);
    file->fd = fd;
    return file;
}

void arn_file_ref(arn_file *file) {
    atomic_fetch_add_explicit(&file->refs, 1, memory_order_relaxed);
}

void arn_file_unref(arn_file *file) {
    if (atomic_fetch_sub_explicit(&file->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (file->fd >= 0)
        close(file->fd);
    arn_free(file);
}

static arn_file_job *job_of(arn_op *op) {
    return ARN_CONTAINER_OF(op, arn_file_job, op);
}

static void destroy(arn_op *op) {
    arn_file_job *job = job_of(op);
    int i;

    for (i = 0; i < 2; i++)
        if (job->held[i] != NULL)
            job->release(job->held[i]);
    if (job->file != NULL)
        arn_file_unref(job->file);
    arn_free(job->path);
    arn_free(job->block);
    arn_free(job);
}

/* ---- the steps; each returns 0 or an errno ---- */

static int read_all(arn_file_job *job) {
    while (job->got < job->want) {
        size_t n = job->want - job->got;
        ssize_t r = read(job->file->fd, job->into + job->got, n < IO_MAX ? n : IO_MAX);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return job->got > 0 ? 0 : errno;
        if (r == 0) {
            job->at_end = 1;
            return 0;
        }
        job->got += (size_t)r;
    }
    return 0;
}

static int write_all(arn_file_job *job) {
    size_t done = 0;
    int i;

    for (i = 0; i < 2; i++) {
        const arn_slice *part = &job->parts[i];
        for (done = 0; done < part->len;) {
            size_t n = part->len - done;
            ssize_t r = write(job->file->fd, part->data + done, n < IO_MAX ? n : IO_MAX);

            if (r < 0 && errno == EINTR)
                continue;
            if (r < 0)
                return errno;
            done += (size_t)r;
            job->written += (size_t)r;
        }
    }
    return 0;
}

/* A file that is read gets its first bytes in the same job. One more than it is long is asked for,
 * so that a short answer says that this was all. */
static int open_file(arn_file_job *job) {
    struct stat st;
    int fd;

    do
        fd = open(job->path, job->flags | O_CLOEXEC, 0666);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return errno;
    job->file = arn_file_new(fd);
    if (job->file == NULL)
        return ENOMEM;
    if (fstat(fd, &st) != 0)
        return errno;
    if (S_ISDIR(st.st_mode))
        return EISDIR;
    job->mode = st.st_mode;
    job->size = st.st_size;
    if (!S_ISREG(st.st_mode)) {
        job->steps &= ~(unsigned)ARN_FILE_READS;
        return 0;
    }
    if (job->flags & O_APPEND) {
        job->offset = lseek(fd, 0, SEEK_END);
        if (job->offset < 0)
            return errno;
    }
    if (job->steps & ARN_FILE_READS) {
        job->block_size = st.st_size <= 0               ? UNKNOWN_FIRST
                          : st.st_size < ARN_FILE_FIRST ? (size_t)st.st_size + 1
                                                        : ARN_FILE_FIRST;
        job->block = arn_malloc(job->block_size);
        if (job->block == NULL)
            return ENOMEM;
        job->into = job->block;
        job->want = job->block_size;
    }
    return 0;
}

static int do_steps(arn_file_job *job) {
    int error = 0;

    if (job->steps & ARN_FILE_OPENS)
        error = open_file(job);
    if (error == 0 && (job->steps & ARN_FILE_WRITES))
        error = write_all(job);
    if (error == 0 && (job->steps & ARN_FILE_SEEKS)) {
        int64_t at = lseek(job->file->fd, job->offset, job->whence);
        if (at < 0)
            error = errno;
        else
            job->offset = at;
    }
    if (job->length < 0)
        job->length = job->offset;
    if (error == 0 && (job->steps & ARN_FILE_TRUNCATES) &&
        ftruncate(job->file->fd, job->length) != 0)
        error = errno;
    if (error == 0 && (job->steps & ARN_FILE_READS)) {
        error = read_all(job);
        if (job->steps & ARN_FILE_OPENS)
            error = 0; /* it is open: that is for who reads it to meet */
    }
    if ((job->steps & ARN_FILE_CLOSES) && job->file != NULL) {
        int fd = job->file->fd;

        /* Gone whatever close() says; after EINTR, too. */
        job->file->fd = -1;
        if (close(fd) != 0 && error == 0 && errno != EINTR)
            error = errno;
    }
    return error;
}

static void run(arn_msg *msg, int aborted) {
    arn_file_job *job = job_of(ARN_CONTAINER_OF(msg, arn_op, msg));
    int is_dropped = arn_op_is_cancelled(&job->op) ||
                     atomic_exchange_explicit(&job->begun, 1, memory_order_acq_rel);

    /* What has been taken for an open file is not lost with the threads: it is written here. */
    if ((job->steps & ARN_FILE_WRITES) && !(job->steps & ARN_FILE_OPENS))
        aborted = 0;
    if (!aborted && !is_dropped)
        job->error = do_steps(job);
    atomic_store_explicit(&job->ended, 1, memory_order_release);
    arn_workers_finish(&job->op, aborted ? ARN_ESHUTDOWN : is_dropped ? ARN_ECANCELED : ARN_OK);
}

arn_file_job *arn_file_job_new(arn_file *file) {
    arn_file_job *job = arn_calloc(1, sizeof(*job));

    if (job == NULL)
        return NULL;
    arn_op_init(&job->op, run, destroy, NULL, 0);
    atomic_init(&job->begun, 0);
    atomic_init(&job->ended, 0);
    if (file != NULL)
        arn_file_ref(file);
    job->file = file;
    return job;
}

void arn_file_job_submit(arn_file_job *job) {
    if (job->steps != 0) {
        arn_workers_submit(&job->op.msg);
        return;
    }
    atomic_store_explicit(&job->ended, 1, memory_order_release);
    arn_workers_finish(&job->op, ARN_OK);
}
