/* The workers: order, growth, cancellation, stop, fork. */
#include "arn.h"
#include "base/alloc.h"
#include "job.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_THREADS 64

#ifdef __SANITIZE_THREAD__
/* Threads in the child of a process with several are what `forked` is about. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
    return "die_after_fork=0";
}
#endif

/* A job that may wait to be let go. */
typedef struct task {
    arn_op op;
    int number;
    int waits;
    int aborted;
    int takes_signals;
    int on_worker;
} task;

static uv_sem_t gate;
static _Atomic int begun, alive;
static _Atomic int order[4096];

static void destroy(arn_op *op) {
    atomic_fetch_sub(&alive, 1);
    free(ARN_CONTAINER_OF(op, task, op));
}

static void run(arn_msg *msg, int aborted) {
    task *t = ARN_CONTAINER_OF(ARN_CONTAINER_OF(msg, arn_op, msg), task, op);
    sigset_t mask;

    t->aborted = aborted;
    t->on_worker = arn_workers_on_worker();
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    t->takes_signals = !sigismember(&mask, SIGTERM) || sigismember(&mask, SIGSEGV);
    if (!aborted) {
        order[atomic_fetch_add(&begun, 1) % 4096] = t->number;
        if (t->waits)
            uv_sem_wait(&gate);
    }
    arn_workers_finish(&t->op, aborted ? ARN_ESHUTDOWN : ARN_OK);
}

static task *submit(arn_port *port, int number, int waits) {
    task *t = calloc(1, sizeof(*t));

    assert_non_null(t);
    arn_op_init(&t->op, run, destroy, NULL, 0);
    atomic_fetch_add(&alive, 1);
    t->number = number;
    t->waits = waits;
    arn_op_set_port(&t->op, port);
    arn_workers_submit(&t->op.msg);
    return t;
}

/* Takes so many finished tasks; counts in *aborted those that were. */
static void collect(arn_port *port, int count, int *aborted) {
    while (count > 0) {
        arn_op *op = arn_port_wait(port, 10000);
        assert_non_null(op);
        while (op != NULL) {
            arn_op *next = op->next_done;
            task *t = ARN_CONTAINER_OF(op, task, op);
            assert_int_equal(op->status, t->aborted ? ARN_ESHUTDOWN : ARN_OK);
            assert_true(t->on_worker);
            assert_true(t->aborted || !t->takes_signals);
            if (aborted != NULL)
                *aborted += t->aborted;
            arn_op_unref(op);
            count--;
            op = next;
        }
    }
    assert_int_equal(count, 0);
}

static void wait_begun(int count) {
    int i;

    for (i = 0; atomic_load(&begun) < count; i++) {
        assert_true(i < 5000);
        uv_sleep(1);
    }
}

static void let_go(int count) {
    while (count-- > 0)
        uv_sem_post(&gate);
}

static int set_up(void **state) {
    (void)state;
    uv_sem_init(&gate, 0);
    atomic_store(&begun, 0);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    assert_int_equal(arn_workers_stop(5000), ARN_OK);
    assert_int_equal(arn_workers_count(), 0);
    assert_int_equal(atomic_load(&alive), 0);
    uv_sem_destroy(&gate);
    return 0;
}

static void many(void **state) {
    arn_port *port = t_port_new(ARN_PORT_WAIT);
    int round, i;

    (void)state;
    assert_false(arn_workers_on_worker());
    for (round = 0; round < 20; round++) {
        for (i = 0; i < 1000; i++)
            submit(port, i, 0);
        collect(port, 1000, NULL);
    }
    assert_int_equal(atomic_load(&begun), 20000);
    arn_port_unref(port);
}

/* With one worker free the jobs begin in the order of their submission. */
static void order_is_kept(void **state) {
    arn_port *port = t_port_new(ARN_PORT_WAIT);
    int blocked = 0, i;

    (void)state;
    /* All but one wait; which they are does not matter. */
    while (arn_workers_count() < MAX_THREADS) {
        submit(port, -1, 1);
        blocked++;
        uv_sleep(20);
        if (atomic_load(&begun) < blocked)
            break;
    }
    assert_true(blocked > 4 && blocked <= 33);
    let_go(1); /* the one that had found no thread goes on with it */
    wait_begun(blocked);
    for (i = 0; i < 500; i++)
        submit(port, i, 0);
    uv_sleep(20);
    assert_int_equal(atomic_load(&begun), blocked);
    let_go(1);
    wait_begun(blocked + 500);
    for (i = 0; i < 500; i++)
        assert_int_equal(order[blocked + i], i);
    let_go(blocked - 2);
    collect(port, blocked + 500, NULL);
    arn_port_unref(port);
}

/* A job that blocks does not keep others waiting. */
static void others_go_on(void **state) {
    arn_port *port = t_port_new(ARN_PORT_WAIT);
    int i;

    (void)state;
    submit(port, 0, 1);
    wait_begun(1);
    for (i = 1; i < 100; i++)
        submit(port, i, 0);
    collect(port, 99, NULL);
    let_go(1);
    collect(port, 1, NULL);
    arn_port_unref(port);
}

static void stop_aborts_what_is_queued(void **state) {
    arn_port *port = t_port_new(ARN_PORT_WAIT);
    int aborted = 0;
    int i, running;

    (void)state;
    for (i = 0; i < 200; i++)
        submit(port, i, 1);
    uv_sleep(50);
    running = atomic_load(&begun);
    assert_true(running >= 1 && running < 200);
    assert_int_equal(arn_workers_stop(50), ARN_ETIMEDOUT);
    assert_int_equal(arn_workers_count(), 0);
    collect(port, 200 - running, &aborted);
    assert_int_equal(aborted, 200 - running);
    /* Others take their place, while those left behind end with their jobs. */
    submit(port, 0, 0);
    collect(port, 1, NULL);
    let_go(running);
    collect(port, running, NULL);
    arn_port_unref(port);
}

static void *submit_from_a_thread(void *arg) {
    int i;

    for (i = 0; i < 300; i++)
        submit(arg, i, 0);
    return NULL;
}

static void many_submit_while_one_stops(void **state) {
    arn_port *port = t_port_new(ARN_PORT_WAIT);
    pthread_t threads[4];
    int aborted = 0;
    int i;

    (void)state;
    for (i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, submit_from_a_thread, port), 0);
    for (i = 0; i < 50; i++)
        assert_int_equal(arn_workers_stop(5000), ARN_OK);
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    collect(port, 1200, &aborted);
    arn_port_unref(port);
}

static void results_for_a_closed_port(void **state) {
    arn_port *port = t_port_new(ARN_PORT_FD);

    (void)state;
    submit(port, 0, 1);
    wait_begun(1);
    arn_port_close(port);
    arn_port_unref(port);
    let_go(1);
    assert_int_equal(arn_workers_stop(5000), ARN_OK);
    assert_int_equal(atomic_load(&alive), 0);
}

/* The child has workers of its own, and the parent's jobs are not its. */
static void forked(void **state) {
    arn_port *port = t_port_new(ARN_PORT_WAIT);
    int running, i, status;
    pid_t child;

    (void)state;
    for (i = 0; i < 100; i++)
        submit(port, i, 1);
    uv_sleep(20);
    running = atomic_load(&begun);
    child = fork();
    if (child == 0) {
        arn_port *own = t_port_new(ARN_PORT_WAIT);
        int fine = arn_workers_count() == 0;
        arn_op *done;

        alarm(20);
        submit(own, 7, 0);
        done = arn_port_wait(own, 5000);
        fine = fine && done != NULL && done->next_done == NULL &&
               ARN_CONTAINER_OF(done, task, op)->number == 7 && atomic_load(&begun) == running + 1;
        fine = fine && arn_workers_count() == 1 && arn_workers_stop(5000) == ARN_OK;
        _exit(fine ? 0 : 1);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    let_go(100);
    collect(port, 100, NULL);
    arn_port_unref(port);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(many, set_up, tear_down),
        cmocka_unit_test_setup_teardown(order_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(others_go_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(stop_aborts_what_is_queued, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_submit_while_one_stops, set_up, tear_down),
        cmocka_unit_test_setup_teardown(results_for_a_closed_port, set_up, tear_down),
        cmocka_unit_test_setup_teardown(forked, set_up, tear_down),
    };

    return cmocka_run_group_tests_name("workers", tests, NULL, NULL);
}
