/* The io room without a protocol: the runtime, its messages, fork, and what it needs of the
 * system. */
#include "arn.h"
#include "base/alloc.h"
#include "job.h"
#include "redis_server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* GCC 12's ASan forks with its allocator locked if another thread is just allocating, and TSan
 * knows no threads of a forked child. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FORK_AT_WORK 0
#else
#define FORK_AT_WORK 1
#endif

#ifdef __SANITIZE_THREAD__
#define THREADS_IN_CHILD 0
/* A thread that did not stop in time is never joined. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
    return "report_thread_leaks=0";
}
#else
#define THREADS_IN_CHILD 1
#endif

/* ---- messages ---- */

typedef struct note {
    arn_msg msg;
    int thread, number;
    int ran, aborted, on_io;
} note;

static void take_note(arn_msg *msg, int aborted) {
    note *n = ARN_CONTAINER_OF(msg, note, msg);

    n->ran++;
    n->aborted = aborted;
    n->on_io = arn_runtime_on_io_thread();
}

static void start_and_stop(void **state) {
    arn_runtime *rt, *former = NULL;
    int round;

    (void)state;
    assert_false(arn_runtime_on_io_thread());
    for (round = 0; round < 3; round++) {
        note n = {.msg.run = take_note};
        assert_null(arn_runtime_current());
        rt = t_running();
        assert_ptr_equal(arn_runtime_current(), rt);
        assert_ptr_equal(t_running(), rt);
        arn_runtime_submit(rt, &n.msg, &n.msg);
        t_barrier(rt);
        assert_int_equal(n.ran, 1);
        assert_int_equal(n.aborted, 0);
        assert_true(n.on_io);
        assert_int_equal(arn_runtime_stop(5000), ARN_OK);
        assert_null(arn_runtime_current());
        assert_int_equal(arn_runtime_stop(5000), ARN_OK);
        assert_ptr_not_equal(rt, former);
        former = rt;
    }
}

static void start_out_of_memory(void **state) {
    int status;
    int n;

    (void)state;
    for (n = 0; n < 2; n++) {
        status = 1;
        arn_alloc_fail_after(n);
        assert_null(arn_runtime_get(&status));
        assert_int_equal(status, ARN_ENOMEM);
        assert_null(arn_runtime_current());
        arn_alloc_fail_after(-1);
    }
    t_running();
    arn_alloc_fail_after(0);
    status = 1;
    assert_null(arn_port_new(ARN_PORT_FD, &status));
    assert_int_equal(status, ARN_ENOMEM);
}

static void *get_runtime(void *arg) {
    int status;

    (void)arg;
    return arn_runtime_get(&status);
}

static void one_runtime_for_all(void **state) {
    pthread_t threads[8];
    void *got[8];
    int round;
    size_t i;

    (void)state;
    for (round = 0; round < 20; round++) {
        for (i = 0; i < COUNT(threads); i++)
            pthread_create(&threads[i], NULL, get_runtime, NULL);
        for (i = 0; i < COUNT(threads); i++)
            pthread_join(threads[i], &got[i]);
        for (i = 0; i < COUNT(threads); i++)
            assert_ptr_equal(got[i], t_running());
        assert_int_equal(arn_runtime_stop(5000), ARN_OK);
    }
}

#define THREADS 8
#define MESSAGES 4000

/* Plain: messages never run concurrently, and TSan knows. */
static int next_of[THREADS];
static int out_of_order;
static int total;

static void check_order(arn_msg *msg, int aborted) {
    note *n = ARN_CONTAINER_OF(msg, note, msg);

    n->aborted = aborted;
    out_of_order += next_of[n->thread] != n->number;
    next_of[n->thread] = n->number + 1;
    total++;
}

typedef struct submitter {
    pthread_t thread;
    arn_runtime *rt;
    note notes[MESSAGES];
} submitter;

/* One by one and in chains of up to seven. */
static void *submit_all(void *arg) {
    submitter *s = arg;
    int i = 0;

    while (i < MESSAGES) {
        int first = i;
        int length = 1 + i % 7;
        for (; i < MESSAGES && i < first + length; i++)
            if (i > first)
                s->notes[i - 1].msg.next = &s->notes[i].msg;
        arn_runtime_submit(s->rt, &s->notes[first].msg, &s->notes[i - 1].msg);
        if (first % 97 == 0)
            usleep(50); /* let the io thread go to sleep now and then */
    }
    return NULL;
}

static submitter *start_submitters(arn_runtime *rt, void (*run)(arn_msg *, int)) {
    submitter *all = calloc(THREADS, sizeof(*all));
    int t, i;

    for (t = 0; t < THREADS; t++) {
        all[t].rt = rt;
        for (i = 0; i < MESSAGES; i++)
            all[t].notes[i] = (note){.msg.run = run, .thread = t, .number = i};
    }
    for (t = 0; t < THREADS; t++)
        pthread_create(&all[t].thread, NULL, submit_all, &all[t]);
    return all;
}

static void order_of_each_thread(void **state) {
    arn_runtime *rt = t_running();
    submitter *all;
    int t;

    (void)state;
    memset(next_of, 0, sizeof(next_of));
    out_of_order = total = 0;
    all = start_submitters(rt, check_order);
    for (t = 0; t < THREADS; t++)
        pthread_join(all[t].thread, NULL);
    t_barrier(rt);
    assert_int_equal(total, THREADS * MESSAGES);
    assert_int_equal(out_of_order, 0);
    free(all);
}

/* Whatever the moment of the stop, each message runs once; after the stop by its submitter. */
static void stop_while_submitting(void **state) {
    int round, t, i;

    (void)state;
    for (round = 0; round < 5; round++) {
        arn_runtime *rt = t_running();
        submitter *all = start_submitters(rt, take_note);
        usleep(300u * (unsigned)round);
        assert_int_equal(arn_runtime_stop(5000), ARN_OK);
        for (t = 0; t < THREADS; t++)
            pthread_join(all[t].thread, NULL);
        for (t = 0; t < THREADS; t++)
            for (i = 0; i < MESSAGES; i++) {
                assert_int_equal(all[t].notes[i].ran, 1);
                assert_true(all[t].notes[i].on_io || all[t].notes[i].aborted);
            }
        free(all);
    }
}

static void submit_after_stop(void **state) {
    arn_runtime *rt = t_running();
    note a = {.msg.run = take_note}, b = {.msg.run = take_note};

    (void)state;
    assert_int_equal(arn_runtime_stop(5000), ARN_OK);
    a.msg.next = &b.msg;
    arn_runtime_submit(rt, &a.msg, &b.msg);
    assert_int_equal(a.ran + b.ran, 2); /* already, and here */
    assert_true(a.aborted && b.aborted && !a.on_io && !b.on_io);
}

static void stop_times_out(void **state) {
    static t_blocker b; /* the thread that is left behind still uses it */
    arn_runtime *rt = t_running();

    (void)state;
    t_block(rt, &b);
    assert_int_equal(arn_runtime_stop(30), ARN_ETIMEDOUT);
    assert_null(arn_runtime_current());
    assert_ptr_not_equal(t_running(), rt);
    t_barrier(t_running());
    t_unblock(&b);
}

/* ---- signals ---- */

static void read_mask(void *mask) {
    pthread_sigmask(SIG_BLOCK, NULL, mask);
}

/* They are the program's own threads' business. */
static void signals(void **state) {
    static const struct {
        int number, blocked;
    } cases[] = {{SIGTERM, 1}, {SIGINT, 1},  {SIGPIPE, 1}, {SIGALRM, 1}, {SIGHUP, 1},
                 {SIGCHLD, 1}, {SIGUSR1, 1}, {SIGPROF, 1}, {SIGSEGV, 0}, {SIGBUS, 0},
                 {SIGFPE, 0},  {SIGILL, 0},  {SIGABRT, 0}};
    sigset_t own, before, after, io;
    size_t i;
    int s;

    (void)state;
    sigemptyset(&own);
    sigaddset(&own, SIGUSR2);
    pthread_sigmask(SIG_SETMASK, &own, &before);
    t_on_io(t_running(), read_mask, &io);
    read_mask(&after);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    for (i = 0; i < COUNT(cases); i++)
        if (sigismember(&io, cases[i].number) != cases[i].blocked)
            fail_msg("signal %d: blocked %d", cases[i].number, !cases[i].blocked);
    for (s = 1; s < NSIG; s++)
        assert_int_equal(sigismember(&after, s), s == SIGUSR2);
}

/* ---- a flood of messages ---- */

#define FLOODERS 2
#define FLOOD 256

typedef struct drop {
    arn_msg msg;
    _Atomic int under_way;
} drop;

typedef struct flooder {
    pthread_t thread;
    arn_runtime *rt;
    drop drops[FLOOD];
} flooder;

static _Atomic int flooding;
static _Atomic long poured, flooded;

/* Not before the next one is there: the queue is never empty. */
static void run_drop(arn_msg *msg, int aborted) {
    (void)aborted;
    while (atomic_load(&flooding) && atomic_load(&poured) < atomic_load(&flooded) + 2)
        sched_yield();
    atomic_fetch_add(&flooded, 1);
    atomic_store(&ARN_CONTAINER_OF(msg, drop, msg)->under_way, 0);
}

static void *flood(void *arg) {
    flooder *f = arg;
    size_t i = 0;

    while (atomic_load(&flooding)) {
        drop *d = &f->drops[i++ % FLOOD];
        while (atomic_load(&d->under_way))
            sched_yield();
        atomic_store(&d->under_way, 1);
        d->msg.run = run_drop;
        arn_runtime_submit(f->rt, &d->msg, &d->msg);
        atomic_fetch_add(&poured, 1);
    }
    return NULL;
}

typedef struct socket_watch {
    arn_runtime *rt;
    uv_poll_t poll;
    uv_timer_t timer;
    int fds[2];
    _Atomic int served, fired, closed;
} socket_watch;

static void on_readable(uv_poll_t *poll, int status, int events) {
    socket_watch *w = poll->data;
    char byte;

    (void)events;
    if (status == 0 && read(w->fds[0], &byte, 1) == 1)
        atomic_fetch_add(&w->served, 1);
}

static void on_fired(uv_timer_t *timer) {
    atomic_fetch_add(&((socket_watch *)timer->data)->fired, 1);
}

static void start_watching(void *arg) {
    socket_watch *w = arg;

    w->poll.data = w->timer.data = w;
    uv_poll_init(arn__runtime_loop(w->rt), &w->poll, w->fds[0]);
    uv_poll_start(&w->poll, UV_READABLE, on_readable);
    uv_timer_init(arn__runtime_loop(w->rt), &w->timer);
    uv_timer_start(&w->timer, on_fired, 1, 1);
}

static void on_closed(uv_handle_t *handle) {
    atomic_fetch_add(&((socket_watch *)handle->data)->closed, 1);
}

static void end_watching(void *arg) {
    socket_watch *w = arg;

    uv_close((uv_handle_t *)&w->poll, on_closed);
    uv_close((uv_handle_t *)&w->timer, on_closed);
}

/* Sockets and timers have their turn, however fast messages come. */
static void sockets_in_a_flood(void **state) {
    flooder *flooders = calloc(FLOODERS, sizeof(*flooders));
    static socket_watch w; /* which the loop knows until it is closed */
    int served, fired, tries, i;

    (void)state;
    w.rt = t_running();
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w.fds), 0);
    t_on_io(w.rt, start_watching, &w);
    flooding = 1;
    poured = flooded = 0;
    for (i = 0; i < FLOODERS; i++) {
        flooders[i].rt = w.rt;
        pthread_create(&flooders[i].thread, NULL, flood, &flooders[i]);
    }
    UNTIL(flooded > FLOOD);
    w.fired = 0;
    for (i = 0; i < 5; i++) {
        assert_int_equal(write(w.fds[1], "x", 1), 1);
        for (tries = 0; w.served < i + 1 && tries < 2000; tries++)
            usleep(1000);
    }
    served = w.served;
    fired = w.fired;
    flooding = 0;
    for (i = 0; i < FLOODERS; i++)
        pthread_join(flooders[i].thread, NULL);
    assert_int_equal(served, 5);
    assert_true(fired > 0);
    t_on_io(w.rt, end_watching, &w);
    UNTIL(w.closed == 2);
    close(w.fds[0]);
    close(w.fds[1]);
    free(flooders);
}

/* ---- deferred and stoppers ---- */

typedef struct sequence {
    arn_msg msg;
    arn_deferred first, second;
    arn_runtime *rt;
    note *during;
    int first_ran, second_ran, after_messages;
} sequence;

static void on_second(arn_deferred *d) {
    ARN_CONTAINER_OF(d, sequence, second)->second_ran++;
}

static void on_first(arn_deferred *d) {
    sequence *s = ARN_CONTAINER_OF(d, sequence, first);

    s->first_ran++;
    s->after_messages = s->during->ran;
    arn__runtime_defer(s->rt, &s->second);
}

static void defer_twice(arn_msg *msg, int aborted) {
    sequence *s = ARN_CONTAINER_OF(msg, sequence, msg);

    (void)aborted;
    arn__runtime_defer(s->rt, &s->first);
    arn__runtime_defer(s->rt, &s->first);
}

static void deferred(void **state) {
    arn_runtime *rt = t_running();
    note n = {.msg.run = take_note};
    sequence s = {.msg.run = defer_twice, .rt = rt, .during = &n};
    int round;

    (void)state;
    s.first.fn = on_first;
    s.second.fn = on_second;
    for (round = 1; round <= 3; round++) {
        s.after_messages = n.ran = 0;
        s.msg.next = &n.msg;
        arn_runtime_submit(rt, &s.msg, &n.msg);
        t_barrier(rt);
        t_barrier(rt); /* the first may have been taken with them, before the deferred ones */
        assert_int_equal(s.first_ran, round);
        assert_int_equal(s.second_ran, round); /* deferred by a deferred one */
        assert_int_equal(s.after_messages, 1);
    }
}

typedef struct watcher {
    arn_msg msg;
    arn_stopper stopper;
    arn_runtime *rt;
    int remove, stopped, on_io;
    note late; /* submitted while stopping */
} watcher;

static void on_stop(arn_stopper *stopper) {
    watcher *w = ARN_CONTAINER_OF(stopper, watcher, stopper);

    w->stopped++;
    w->on_io = arn_runtime_on_io_thread();
    arn__runtime_remove_stopper(stopper);
    w->late.msg.run = take_note;
    arn_runtime_submit(w->rt, &w->late.msg, &w->late.msg);
}

static void watch(arn_msg *msg, int aborted) {
    watcher *w = ARN_CONTAINER_OF(msg, watcher, msg);

    (void)aborted;
    w->stopper.stop = on_stop;
    arn__runtime_add_stopper(w->rt, &w->stopper);
    if (w->remove)
        arn__runtime_remove_stopper(&w->stopper);
}

static void stoppers(void **state) {
    arn_runtime *rt = t_running();
    watcher w[3] = {{.remove = 0}, {.remove = 1}, {.remove = 0}};
    int i;

    (void)state;
    for (i = 0; i < 3; i++) {
        w[i].rt = rt;
        w[i].msg.run = watch;
        arn_runtime_submit(rt, &w[i].msg, &w[i].msg);
    }
    assert_int_equal(arn_runtime_stop(5000), ARN_OK);
    for (i = 0; i < 3; i++) {
        assert_int_equal(w[i].stopped, !w[i].remove);
        assert_int_equal(w[i].late.ran, !w[i].remove);
        assert_int_equal(w[i].late.aborted, !w[i].remove);
        assert_int_equal(w[i].on_io, !w[i].remove);
    }
}

/* ---- fork ---- */

static int is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "in the child: line %d: %s\n", __LINE__, #condition);                  \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void in_child(arn_runtime *parents, const int *fds) {
    note n = {.msg.run = take_note};
    arn_runtime *rt;
    arn_port *port;
    arn_op *op;
    int status = 1;

    alarm(20);
    CHECK(arn_runtime_current() == NULL);
    CHECK(!is_open(fds[0]) && is_open(fds[1]));
    if (!THREADS_IN_CHILD)
        _exit(0);
    rt = arn_runtime_get(&status);
    CHECK(rt != NULL && rt != parents && status == ARN_OK);
    CHECK(arn_runtime_current() == rt);
    arn_runtime_submit(rt, &n.msg, &n.msg);
    t_barrier(rt);
    CHECK(n.ran == 1 && n.on_io && !n.aborted);
    port = arn_port_new(ARN_PORT_FD, &status);
    CHECK(port != NULL);
    t_job_submit(rt, port, 3);
    CHECK(t_fd_readable(arn_port_fd(port), 5000));
    op = arn_port_take(port);
    CHECK(op != NULL && op->status == ARN_OK);
    CHECK(arn_runtime_stop(5000) == ARN_OK);
    _exit(0);
}

static void fork_with_thread(void **state) {
    int count = *(int *)*state;
    arn_runtime *rt = t_running();
    submitter *all = NULL;
    int round, t;

    t_barrier(rt);

    if (count > 1 && !FORK_AT_WORK)
        skip();
    if (count > 1) { /* the fork comes in the middle of their work */
        memset(next_of, 0, sizeof(next_of));
        out_of_order = total = 0;
        all = start_submitters(rt, check_order);
    }
    for (round = 0; round < count; round++) {
        int status = -1;
        int fds[2];
        pid_t pid;
        assert_int_equal(pipe(fds), 0);
        arn__runtime_track_fd(fds[0]);
        arn__runtime_track_fd(fds[1]);
        arn__runtime_untrack_fd(fds[1]);
        pid = fork();
        if (pid == 0)
            in_child(rt, fds);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_true(is_open(fds[0]) && is_open(fds[1]));
        arn__runtime_untrack_fd(fds[0]);
        close(fds[0]);
        close(fds[1]);
        assert_ptr_equal(t_running(), rt);
        t_barrier(rt);
    }
    for (t = 0; all != NULL && t < THREADS; t++)
        pthread_join(all[t].thread, NULL);
    t_barrier(rt);
    if (all != NULL)
        assert_int_equal(total, THREADS * MESSAGES);
    assert_int_equal(out_of_order, 0);
    free(all);
}

/* ---- no descriptors left ---- */

#define FILLED_MAX 64

typedef struct filler {
    int fds[FILLED_MAX];
    int count;
} filler;

static void fill(filler *f) {
    int fd;

    while (f->count < FILLED_MAX && (fd = open("/dev/null", O_RDONLY)) >= 0)
        f->fds[f->count++] = fd;
}

static void free_some(filler *f, int count) {
    while (count-- > 0)
        close(f->fds[--f->count]);
}

static void start_without_descriptors(void) {
    filler f = {.count = 0};
    struct rlimit limit;
    note n = {.msg.run = take_note};
    arn_runtime *rt;
    int free_ones, status;

    alarm(20);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = FILLED_MAX;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (free_ones = 0; free_ones <= 12; free_ones++) {
        int had;
        fill(&f);
        CHECK(f.count > 12);
        had = f.count;
        free_some(&f, free_ones);
        if (free_ones >= 8 && !THREADS_IN_CHILD)
            _exit(0);
        status = 1;
        rt = arn_runtime_get(&status);
        if (free_ones < 8)
            CHECK(rt == NULL && status == ARN_ERESOURCE && arn_runtime_current() == NULL);
        else
            CHECK(rt != NULL && status == ARN_OK);
        CHECK(arn_runtime_stop(5000) == ARN_OK);
        fill(&f);
        CHECK(f.count == had || rt != NULL); /* all are given back; libuv keeps two */
    }
    free_some(&f, f.count);
    rt = arn_runtime_get(&status);
    CHECK(rt != NULL && status == ARN_OK);
    arn_runtime_submit(rt, &n.msg, &n.msg);
    t_barrier(rt);
    CHECK(n.ran == 1 && n.on_io && !n.aborted);
    CHECK(arn_runtime_stop(5000) == ARN_OK);
    _exit(0);
}

static void no_descriptors(void **state) {
    int status = -1;
    pid_t pid = fork();

    (void)state;
    if (pid == 0)
        start_without_descriptors();
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

int main(void) {
    static int once = 1, often = 10;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(start_and_stop, t_stop_runtime),
        cmocka_unit_test_teardown(start_out_of_memory, t_stop_runtime),
        cmocka_unit_test_teardown(one_runtime_for_all, t_stop_runtime),
        cmocka_unit_test_teardown(order_of_each_thread, t_stop_runtime),
        cmocka_unit_test_teardown(stop_while_submitting, t_stop_runtime),
        cmocka_unit_test_teardown(submit_after_stop, t_stop_runtime),
        cmocka_unit_test_teardown(stop_times_out, t_stop_runtime),
        cmocka_unit_test_teardown(signals, t_stop_runtime),
        cmocka_unit_test_teardown(sockets_in_a_flood, t_stop_runtime),
        cmocka_unit_test_teardown(deferred, t_stop_runtime),
        cmocka_unit_test_teardown(stoppers, t_stop_runtime),
        {"fork_with_thread", fork_with_thread, NULL, t_stop_runtime, &once},
        {"fork_while_submitting", fork_with_thread, NULL, t_stop_runtime, &often},
        cmocka_unit_test_teardown(no_descriptors, t_stop_runtime),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
