#include "io/runtime.h"

#include "base/alloc.h"
#include "base/queue.h"
#include "base/status.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

/* One read takes this much at most: what a TCP receive window hands over at once on loopback,
 * and small enough for the second-level cache. */
#define SCRATCH_SIZE (128u * 1024u)

/* What libuv opens when it first makes a loop. It aborts the process if it cannot. */
#define DESCRIPTORS_NEEDED 8

/* So often the queue is looked at before the sockets have their turn. */
#define PASSES_MAX 16

/* Descriptors that a child closes. A connection past the limit is merely not closed there. */
#define TRACKED_MAX 4096

struct arn_runtime {
    uv_loop_t loop;
    uv_async_t wake;
    uv_prepare_t before_sleep;
    uv_check_t after_sleep;
    uv_thread_t thread;

    /* The submission queue and the thread's need of a wake, under one lock: a submitter that finds
     * `sleeping` set owes the wake, so no message waits for a thread that nobody will wake. */
    uv_mutex_t lock;
    arn_msg *head;
    arn_msg **tail;
    int sleeping;
    int stopping;        /* set by stop: submitters run their messages aborted */
    _Atomic int senders; /* about to call uv_async_send: the loop must not be closed */

    /* Set by the thread when it has left its loop. */
    uv_cond_t ended;
    int has_ended;

    /* io thread only */
    arn_deferred *deferred;
    arn_queue stoppers;
    arn_queue lookups;
    char *scratch;

    arn_runtime *stopped_before; /* under current_lock */
};

/* The process's runtime. `current_lock` orders start, stop and fork. */
static pthread_mutex_t current_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(arn_runtime *) current;
static arn_runtime *stopped; /* all that were, so that a leak checker sees that they are kept */
static _Atomic unsigned generation;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static _Atomic int tracked[TRACKED_MAX]; /* descriptor + 1, or 0 */

static void run_deferred(arn_runtime *rt) {
    while (rt->deferred != NULL) {
        arn_deferred *d = rt->deferred;
        rt->deferred = d->next;
        d->queued = 0;
        d->fn(d);
    }
}

static void run_messages(arn_msg *msg, int aborted) {
    while (msg != NULL) {
        arn_msg *next = msg->next;
        msg->run(msg, aborted);
        msg = next;
    }
}

/* Takes the whole queue. With may_sleep, an empty queue leaves `sleeping` set under the same lock.
 */
static arn_msg *take(arn_runtime *rt, int may_sleep) {
    arn_msg *msg;

    uv_mutex_lock(&rt->lock);
    msg = rt->head;
    rt->head = NULL;
    rt->tail = &rt->head;
    rt->sleeping = may_sleep && msg == NULL;
    uv_mutex_unlock(&rt->lock);
    return msg;
}

static void on_before_sleep(uv_prepare_t *handle) {
    arn_runtime *rt = ARN_CONTAINER_OF(handle, arn_runtime, before_sleep);
    int pass;

    for (pass = 0; pass < PASSES_MAX; pass++) {
        arn_msg *msg;
        run_deferred(rt);
        msg = take(rt, 1);
        if (msg == NULL)
            return;
        run_messages(msg, 0);
    }
    /* Others submit as fast as this thread takes: on_after_sleep() goes on with it, after a look at
     * the sockets. `sleeping` is clear, so nobody else would wake the thread. */
    uv_async_send(&rt->wake);
}

static void on_after_sleep(uv_check_t *handle) {
    arn_runtime *rt = ARN_CONTAINER_OF(handle, arn_runtime, after_sleep);

    /* What the sockets brought in this turn goes out now; the queue is looked at before the next
     * sleep, with `sleeping` cleared so that submitters save their wake. */
    run_messages(take(rt, 0), 0);
    run_deferred(rt);
}

static void on_wake(uv_async_t *handle) {
    arn_runtime *rt = ARN_CONTAINER_OF(handle, arn_runtime, wake);
    int stopping;

    uv_mutex_lock(&rt->lock);
    stopping = rt->stopping;
    uv_mutex_unlock(&rt->lock);
    if (stopping)
        uv_stop(&rt->loop);
}

static void close_handle(uv_handle_t *handle, void *arg) {
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static _Thread_local int on_io_thread;

int arn_runtime_on_io_thread(void) {
    return on_io_thread;
}

unsigned arn_runtime_generation(void) {
    return atomic_load_explicit(&generation, memory_order_relaxed);
}

static void thread_main(void *arg) {
    arn_runtime *rt = arg;
    arn_queue *node;
    int turns;

    on_io_thread = 1;
    uv_run(&rt->loop, UV_RUN_DEFAULT);

    /* Stopping. Owners end their ops and close their handles; what is left of handles is closed
     * here. */
    while ((node = arn_queue_pop(&rt->stoppers)) != NULL) {
        arn_stopper *s = ARN_CONTAINER_OF(node, arn_stopper, node);
        s->stop(s);
    }
    run_messages(take(rt, 0), 1);
    run_deferred(rt);
    uv_walk(&rt->loop, close_handle, NULL);
    for (turns = 0; turns < 16 && uv_run(&rt->loop, UV_RUN_NOWAIT) != 0; turns++)
        continue;
    run_messages(take(rt, 0), 1);
    run_deferred(rt);

    uv_mutex_lock(&rt->lock);
    rt->has_ended = 1;
    uv_cond_broadcast(&rt->ended);
    uv_mutex_unlock(&rt->lock);
}

/* ---- fork ---- */

static void before_fork(void) {
    pthread_mutex_lock(&current_lock);
}

static void after_fork_parent(void) {
    pthread_mutex_unlock(&current_lock);
}

static void after_fork_child(void) {
    int i;

    /* The parent's thread does not exist here, and its memory may have been caught in mid-change:
     * forget it whole. Only the descriptors are put in order. */
    atomic_store(&current, NULL);
    atomic_fetch_add(&generation, 1);
    for (i = 0; i < TRACKED_MAX; i++) {
        int fd = atomic_exchange(&tracked[i], 0) - 1;
        if (fd >= 0)
            close(fd);
    }
    pthread_mutex_unlock(&current_lock);
}

static void install_fork_handlers(void) {
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

void arn__runtime_track_fd(int fd) {
    int i;

    for (i = 0; fd >= 0 && i < TRACKED_MAX; i++) {
        int expected = 0;
        if (atomic_load_explicit(&tracked[i], memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong(&tracked[i], &expected, fd + 1))
            return;
    }
}

void arn__runtime_untrack_fd(int fd) {
    int i;

    for (i = 0; fd >= 0 && i < TRACKED_MAX; i++) {
        int expected = fd + 1;
        if (atomic_load_explicit(&tracked[i], memory_order_relaxed) == expected &&
            atomic_compare_exchange_strong(&tracked[i], &expected, 0))
            return;
    }
}

/* ---- start and stop ---- */

static int from_system(int error) {
    return error == ENOMEM ? ARN_ENOMEM : ARN_ERESOURCE;
}

static int has_descriptors(void) {
    int fds[DESCRIPTORS_NEEDED];
    int n;
    int r = 0;

    for (n = 0; n < DESCRIPTORS_NEEDED && r == 0; n += 2)
        r = pipe(fds + n);
    if (r != 0)
        n -= 2;
    while (n > 0)
        close(fds[--n]);
    return r == 0;
}

int arn__thread_start(uv_thread_t *thread, void (*main)(void *), void *arg) {
    static const int own_fault[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
    sigset_t blocked, before;
    size_t i;
    int r;

    sigfillset(&blocked);
    for (i = 0; i < sizeof(own_fault) / sizeof(own_fault[0]); i++)
        sigdelset(&blocked, own_fault[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    r = uv_thread_create(thread, main, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r;
}

static arn_runtime *start(int *status) {
    arn_runtime *rt = arn_calloc(1, sizeof(*rt));
    int r;

    *status = ARN_ENOMEM;
    if (rt == NULL)
        return NULL;
    rt->tail = &rt->head;
    arn_queue_init(&rt->stoppers);
    arn_queue_init(&rt->lookups);
    rt->scratch = arn_malloc(SCRATCH_SIZE);
    if (rt->scratch == NULL)
        goto fail_scratch;
    if (!has_descriptors()) {
        *status = ARN_ERESOURCE;
        goto fail_lock;
    }
    r = uv_mutex_init(&rt->lock);
    if (r != 0)
        goto fail_lock;
    r = uv_cond_init(&rt->ended);
    if (r != 0)
        goto fail_cond;
    r = uv_loop_init(&rt->loop);
    if (r != 0) {
        *status = from_system(-r);
        goto fail_loop;
    }
    r = uv_async_init(&rt->loop, &rt->wake, on_wake);
    if (r != 0) {
        *status = from_system(-r);
        goto fail_async;
    }
    uv_prepare_init(&rt->loop, &rt->before_sleep);
    uv_prepare_start(&rt->before_sleep, on_before_sleep);
    uv_check_init(&rt->loop, &rt->after_sleep);
    uv_check_start(&rt->after_sleep, on_after_sleep);
    r = arn__thread_start(&rt->thread, thread_main, rt);
    if (r != 0) {
        *status = from_system(-r);
        goto fail_thread;
    }
    arn__runtime_track_fd(uv_backend_fd(&rt->loop));
    *status = ARN_OK;
    return rt;

fail_thread:
    uv_walk(&rt->loop, close_handle, NULL);
    uv_run(&rt->loop, UV_RUN_NOWAIT);
fail_async:
    uv_loop_close(&rt->loop);
fail_loop:
    uv_cond_destroy(&rt->ended);
fail_cond:
    uv_mutex_destroy(&rt->lock);
fail_lock:
    arn_free(rt->scratch);
fail_scratch:
    arn_free(rt);
    return NULL;
}

arn_runtime *arn_runtime_current(void) {
    return atomic_load_explicit(&current, memory_order_acquire);
}

arn_runtime *arn_runtime_get(int *status) {
    arn_runtime *rt = arn_runtime_current();

    *status = ARN_OK;
    if (rt != NULL)
        return rt;
    pthread_once(&fork_once, install_fork_handlers);
    pthread_mutex_lock(&current_lock);
    rt = atomic_load(&current);
    if (rt == NULL) {
        rt = start(status);
        atomic_store_explicit(&current, rt, memory_order_release);
    }
    pthread_mutex_unlock(&current_lock);
    return rt;
}

void arn_runtime_submit(arn_runtime *rt, arn_msg *first, arn_msg *last) {
    int wake = 0;
    int stopped;

    last->next = NULL;
    uv_mutex_lock(&rt->lock);
    stopped = rt->stopping;
    if (!stopped) {
        *rt->tail = first;
        rt->tail = &last->next;
        wake = rt->sleeping;
        rt->sleeping = 0;
        if (wake)
            atomic_fetch_add(&rt->senders, 1);
    }
    uv_mutex_unlock(&rt->lock);
    /* Not under the lock: the woken thread would run into it at once. */
    if (wake) {
        uv_async_send(&rt->wake);
        atomic_fetch_sub(&rt->senders, 1);
    }
    if (stopped)
        run_messages(first, 1);
}

int arn_runtime_stop(int timeout_ms) {
    arn_runtime *rt;
    uint64_t deadline = uv_hrtime() + (uint64_t)timeout_ms * 1000000u;
    int ended;

    pthread_mutex_lock(&current_lock);
    rt = atomic_exchange(&current, NULL);
    if (rt != NULL) {
        rt->stopped_before = stopped;
        stopped = rt;
    }
    pthread_mutex_unlock(&current_lock);
    if (rt == NULL)
        return ARN_OK;

    uv_mutex_lock(&rt->lock);
    rt->stopping = 1;
    uv_async_send(&rt->wake);
    while (!rt->has_ended) {
        uint64_t now = uv_hrtime();
        if (now >= deadline || uv_cond_timedwait(&rt->ended, &rt->lock, deadline - now) != 0)
            break;
    }
    ended = rt->has_ended;
    uv_mutex_unlock(&rt->lock);
    if (!ended)
        return ARN_ETIMEDOUT;

    uv_thread_join(&rt->thread);
    while (atomic_load(&rt->senders) > 0)
        uv_sleep(1);
    arn__runtime_untrack_fd(uv_backend_fd(&rt->loop));
    /* The struct itself always stays, because other threads may still hold it and submit (their
     * messages then end with ARN_ESHUTDOWN). */
    if (uv_loop_close(&rt->loop) == 0) {
        arn_free(rt->scratch);
        rt->scratch = NULL;
    }
    return ARN_OK;
}

/* ---- io thread ---- */

uv_loop_t *arn__runtime_loop(arn_runtime *rt) {
    return &rt->loop;
}

arn_queue *arn__runtime_lookups(arn_runtime *rt) {
    return &rt->lookups;
}

char *arn__runtime_scratch(arn_runtime *rt, size_t *size) {
    *size = SCRATCH_SIZE;
    return rt->scratch;
}

void arn__runtime_add_stopper(arn_runtime *rt, arn_stopper *s) {
    arn_queue_push(&rt->stoppers, &s->node);
}

void arn__runtime_remove_stopper(arn_stopper *s) {
    arn_queue_remove(&s->node);
}

void arn__runtime_defer(arn_runtime *rt, arn_deferred *d) {
    if (d->queued)
        return;
    d->queued = 1;
    d->next = rt->deferred;
    rt->deferred = d;
}
