/* Jobs of files: their steps, errors, descriptors, cancellation. */
#include "arn.h"
#include "base/alloc.h"
#include "file/job.h"
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/arn-files-XXXXXX";
static arn_port *port;
static _Atomic int held;

static const char *path_of(const char *name) {
    static char path[256];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static void make(const char *name, const char *data, size_t len) {
    FILE *f = fopen(path_of(name), "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    fclose(f);
}

static char *content(const char *name, size_t *len) {
    FILE *f = fopen(path_of(name), "rb");
    char *data = calloc(1, 1 << 20);

    assert_non_null(f);
    *len = fread(data, 1, 1 << 20, f);
    fclose(f);
    return data;
}

static arn_file_job *new_job(arn_file *file, unsigned steps) {
    arn_file_job *job = arn_file_job_new(file);

    assert_non_null(job);
    job->steps = steps;
    arn_op_set_port(&job->op, port);
    return job;
}

static arn_file_job *opening(const char *name, int flags) {
    arn_file_job *job = new_job(NULL, ARN_FILE_OPENS);

    job->path = arn_strdup(path_of(name));
    job->flags = flags;
    if ((flags & O_ACCMODE) == O_RDONLY)
        job->steps |= ARN_FILE_READS;
    return job;
}

/* Submits, and waits for it. */
static void done(arn_file_job *job) {
    arn_op *op;

    arn_file_job_submit(job);
    op = arn_port_wait(port, 10000);
    assert_ptr_equal(op, &job->op);
    assert_null(op->next_done);
    assert_int_equal(atomic_load(&job->ended), 1);
}

static void release(void *object) {
    (void)object;
    atomic_fetch_sub(&held, 1);
}

static int is_open(int fd) {
    return fcntl(fd, F_GETFD) != -1;
}

/* ---- */

static void open_and_read(void **state) {
    static char large[200000];
    arn_file_job *job;
    int fd;

    (void)state;
    make("small", "0123456789", 10);
    job = opening("small", O_RDONLY);
    done(job);
    assert_int_equal(job->error, 0);
    assert_true(S_ISREG(job->mode));
    assert_int_equal(job->size, 10);
    assert_int_equal(job->got, 10);
    assert_true(job->at_end); /* the one byte more that was asked for is not there */
    assert_memory_equal(job->block, "0123456789", 10);
    fd = job->file->fd;
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    arn_op_unref(&job->op);
    assert_false(is_open(fd)); /* nobody has taken the file */

    memset(large, 'x', sizeof(large));
    make("large", large, sizeof(large));
    job = opening("large", O_RDONLY);
    done(job);
    assert_int_equal(job->got, ARN_FILE_FIRST);
    assert_false(job->at_end);
    arn_op_unref(&job->op);

    job = opening("empty", O_RDONLY | O_CREAT);
    done(job);
    assert_int_equal(job->error, 0);
    assert_int_equal(job->got, 0);
    assert_true(job->at_end);
    arn_op_unref(&job->op);
}

static void open_fails(void **state) {
    arn_file_job *job;

    (void)state;
    job = opening("no/such", O_RDONLY);
    done(job);
    assert_int_equal(job->error, ENOENT);
    assert_int_equal(job->op.status, ARN_OK);
    assert_null(job->file);
    arn_op_unref(&job->op);

    job = opening(".", O_RDONLY);
    done(job);
    assert_int_equal(job->error, EISDIR);
    arn_op_unref(&job->op);

    job = new_job(NULL, ARN_FILE_OPENS | ARN_FILE_READS);
    job->path = arn_strdup("/dev/zero");
    done(job);
    assert_int_equal(job->error, 0);
    assert_true(S_ISCHR(job->mode)); /* and nothing has been read of what may never end */
    assert_null(job->block);
    arn_op_unref(&job->op);
}

static void steps_in_order(void **state) {
    arn_file_job *job = opening("steps", O_RDWR | O_CREAT | O_TRUNC);
    arn_file *file;
    char into[16] = {0};
    char *data;
    size_t len;

    (void)state;
    done(job);
    file = job->file;
    arn_file_ref(file);
    arn_op_unref(&job->op);

    job = new_job(file, ARN_FILE_WRITES | ARN_FILE_SEEKS | ARN_FILE_TRUNCATES | ARN_FILE_READS);
    job->parts[0] = (arn_slice){"abcdef", 6};
    job->parts[1] = (arn_slice){"ghij", 4};
    job->offset = -7;
    job->whence = SEEK_CUR;
    job->length = 8;
    job->into = into;
    job->want = sizeof(into);
    job->held[0] = job;
    job->held[1] = into;
    job->release = release;
    atomic_store(&held, 2);
    done(job);
    assert_int_equal(job->error, 0);
    assert_int_equal(job->written, 10);
    assert_int_equal(job->offset, 3);
    assert_int_equal(job->got, 5);
    assert_true(job->at_end);
    assert_string_equal(into, "defgh");
    arn_op_unref(&job->op);
    assert_int_equal(atomic_load(&held), 0);

    /* After a step that fails only the close is done. */
    job = new_job(file, ARN_FILE_SEEKS | ARN_FILE_TRUNCATES | ARN_FILE_CLOSES);
    job->offset = -1;
    job->whence = SEEK_SET;
    job->length = 0;
    done(job);
    assert_int_equal(job->error, EINVAL);
    assert_int_equal(job->offset, -1);
    assert_int_equal(file->fd, -1);
    arn_op_unref(&job->op);
    arn_file_unref(file);
    data = content("steps", &len);
    assert_int_equal(len, 8);
    assert_memory_equal(data, "abcdefgh", 8);
    free(data);
}

static void appending(void **state) {
    arn_file_job *job;

    (void)state;
    make("log", "12345", 5);
    job = opening("log", O_WRONLY | O_APPEND);
    done(job);
    assert_int_equal(job->offset, 5);
    arn_op_unref(&job->op);
}

static void no_room(void **state) {
    arn_file_job *job = new_job(NULL, ARN_FILE_OPENS);
    arn_file *file;

    (void)state;
    job->path = arn_strdup("/dev/full");
    job->flags = O_WRONLY;
    done(job);
    file = job->file;
    arn_file_ref(file);
    arn_op_unref(&job->op);
    job = new_job(file, ARN_FILE_WRITES | ARN_FILE_CLOSES);
    job->parts[0] = (arn_slice){"abc", 3};
    done(job);
    assert_int_equal(job->error, ENOSPC);
    assert_int_equal(job->written, 0);
    assert_int_equal(file->fd, -1);
    arn_op_unref(&job->op);
    arn_file_unref(file);
}

/* Without steps, given up before it began, and when there are no workers any more. */
static void not_run(void **state) {
    arn_file_job *job = new_job(NULL, 0);

    (void)state;
    done(job);
    assert_int_equal(job->op.status, ARN_OK);
    arn_op_unref(&job->op);

    job = opening("never", O_WRONLY | O_CREAT);
    atomic_store(&job->op.cancelled, 1);
    done(job);
    assert_int_equal(job->op.status, ARN_ECANCELED);
    assert_null(job->file);
    assert_int_equal(access(path_of("never"), F_OK), -1);
    arn_op_unref(&job->op);
}

/* The descriptor stays until the last job that uses it is done. */
static void the_file_goes_first(void **state) {
    int fds[2];
    arn_file *file;
    arn_file_job *job;
    char into[4];
    arn_op *op;

    (void)state;
    assert_int_equal(pipe(fds), 0);
    file = arn_file_new(fds[0]);
    assert_non_null(file);
    job = new_job(file, ARN_FILE_READS);
    job->into = into;
    job->want = 4;
    arn_file_job_submit(job);
    arn_file_unref(file);
    usleep(20000);
    assert_true(is_open(fds[0]));
    assert_null(arn_port_wait(port, 0));
    assert_int_equal(write(fds[1], "ab", 2), 2);
    usleep(20000);
    assert_int_equal(write(fds[1], "cd", 2), 2);
    op = arn_port_wait(port, 10000);
    assert_ptr_equal(op, &job->op);
    assert_int_equal(job->got, 4);
    assert_memory_equal(into, "abcd", 4);
    assert_true(is_open(fds[0]));
    arn_op_unref(op);
    assert_false(is_open(fds[0]));
    close(fds[1]);
}

/* A port that is closed while jobs run: the workers drop them, and all they have. */
static void results_for_nobody(void **state) {
    arn_port *own = port;
    int i;

    (void)state;
    make("kept", "x", 1);
    port = t_port_new(ARN_PORT_FD);
    atomic_store(&held, 200);
    for (i = 0; i < 200; i++) {
        arn_file_job *job = opening("kept", O_RDONLY);
        job->held[0] = job;
        job->release = release;
        arn_file_job_submit(job);
    }
    arn_port_close(port);
    arn_port_unref(port);
    port = own;
    assert_int_equal(arn_workers_stop(10000), ARN_OK);
    assert_int_equal(atomic_load(&held), 0);
}

static void read_now(void **state) {
    char into[32];
    int fd;
    ssize_t n;

    (void)state;
    make("hot", "0123456789", 10);
    fd = open(path_of("hot"), O_RDONLY);
    n = arn_file_read_now(fd, into, 4);
    if (n < 0) { /* the twin, or a file system that does not say */
        assert_true(errno == EOPNOTSUPP || errno == EAGAIN);
    } else {
        assert_int_equal(n, 4);
        assert_int_equal(lseek(fd, 0, SEEK_CUR), 4);
        assert_int_equal(arn_file_read_now(fd, into, 32), 6);
        assert_memory_equal(into, "456789", 6);
        assert_int_equal(arn_file_read_now(fd, into, 32), 0);
    }
    close(fd);
    assert_int_equal(arn_file_read_now(fd, into, 4), -1);
}

static void out_of_memory(void **state) {
    arn_file_job *job;
    long n;

    (void)state;
    make("mem", "0123456789", 10);
    for (n = 0; n < 2; n++) { /* the file, its block */
        job = opening("mem", O_RDONLY);
        arn_alloc_fail_after(n);
        done(job);
        arn_alloc_fail_after(-1);
        assert_int_equal(job->error, ENOMEM);
        arn_op_unref(&job->op);
    }
    arn_alloc_fail_after(0);
    assert_null(arn_file_job_new(NULL));
    arn_alloc_fail_after(0);
    assert_null(arn_file_new(dup(0)));
    arn_alloc_fail_after(-1);
}

static int set_up(void **state) {
    (void)state;
    port = t_port_new(ARN_PORT_WAIT);
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int tear_down(void **state) {
    char command[300];

    (void)state;
    arn_port_unref(port);
    assert_int_equal(arn_workers_stop(5000), ARN_OK);
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command) == 0 ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_and_read),
        cmocka_unit_test(open_fails),
        cmocka_unit_test(steps_in_order),
        cmocka_unit_test(appending),
        cmocka_unit_test(no_room),
        cmocka_unit_test(not_run),
        cmocka_unit_test(the_file_goes_first),
        cmocka_unit_test(results_for_nobody),
        cmocka_unit_test(read_now),
        cmocka_unit_test(out_of_memory),
    };

    return cmocka_run_group_tests_name("file", tests, set_up, tear_down);
}
