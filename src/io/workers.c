#include "io/workers.h"

#include "base/status.h"
#include "io/port.h"

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* As many as concurrent.futures' default executor has: enough to wait for several disks, few enough
 * not to fight for the processors when everything is in memory. */
#define THREADS_MAX 32u
#define THREADS_MORE 4u

#define IDLE_NS (10u * UINT64_C(1000000000))

/* One for the process. Everything is under `lock`. */
static struct {
    uv_mutex_t lock;
    uv_cond_t work;  /* for idle workers */
    uv_cond_t ended; /* for arn_workers_stop() */
    arn_msg *head;
    arn_msg **tail;
    unsigned threads;
    unsigned idle;     /* waiting for `work`, and not called */
    unsigned called;   /* of those that waited: on their way to the queue */
    unsigned starting; /* threads that have not got there for the first time */
    unsigned epoch;    /* workers of another one are left behind */
    unsigned left;     /* so many are */
    unsigned max;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .tail = &pool.head};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local int on_worker;
static _Thread_local unsigned own_epoch;

int arn_workers_on_worker(void) {
    return on_worker;
}

unsigned arn_workers_count(void) {
    unsigned n;

    uv_mutex_lock(&pool.lock);
    n = pool.threads;
    uv_mutex_unlock(&pool.lock);
    return n;
}

int arn_workers_left_behind(void) {
    int r;

    uv_mutex_lock(&pool.lock);
    r = own_epoch != pool.epoch;
    uv_mutex_unlock(&pool.lock);
    return r;
}

static arn_msg *take_all(void) {
    arn_msg *first = pool.head;

    pool.head = NULL;
    pool.tail = &pool.head;
    return first;
}

/* ---- fork ---- */

static void before_fork(void) {
    uv_mutex_lock(&pool.lock);
}

static void after_fork_parent(void) {
    uv_mutex_unlock(&pool.lock);
}

static void make_conditions(void) {
    if (uv_cond_init(&pool.work) != 0 || uv_cond_init(&pool.ended) != 0)
        pool.max = 0; /* no workers: jobs are run aborted */
}

static void after_fork_child(void) {
    /* The threads are not here, and what was queued is the parent's. */
    take_all();
    pool.threads = pool.idle = pool.called = pool.starting = pool.left = 0;
    pool.epoch++;
    on_worker = 0;
    make_conditions();
    uv_mutex_unlock(&pool.lock);
}

static void set_up(void) {
    unsigned processors = uv_available_parallelism();

    pool.max = processors + THREADS_MORE < THREADS_MAX ? processors + THREADS_MORE : THREADS_MAX;
    make_conditions();
    if (pthread_atfork(before_fork, after_fork_parent, after_fork_child) != 0)
        pool.max = 0;
}

/* ---- workers ---- */

static void worker_main(void *arg);

/* Under the lock, with work in the queue. One worker at a time is being called; it calls the next
 * if there is more to do than it takes itself. Short jobs are then done by few threads, and jobs
 * that block find others soon. Returns whether `work` is to be signalled once the lock is let go:
 * the woken thread would run into it at once. */
static int call_worker(void) {
    uv_thread_t thread;

    if (pool.called > 0 || pool.starting > 0)
        return 0;
    if (pool.idle > 0) {
        pool.idle--;
        pool.called++;
        return 1;
    }
    if (pool.threads < pool.max &&
        arn__thread_start(&thread, worker_main, (void *)(uintptr_t)pool.epoch) == 0) {
        pthread_detach(thread);
        pool.threads++;
        pool.starting++;
    }
    return 0;
}

/* Under the lock. 0: there has been nothing to do for long. */
static int wait_for_work(unsigned epoch) {
    uint64_t until = uv_hrtime() + IDLE_NS;

    pool.idle++;
    for (;;) {
        uint64_t now = uv_hrtime();

        if (now < until)
            uv_cond_timedwait(&pool.work, &pool.lock, until - now);
        if (epoch != pool.epoch)
            return 1;
        /* Who called has counted one off, whichever it is that comes first. */
        if (pool.called > 0) {
            pool.called--;
            return 1;
        }
        if (now >= until) {
            pool.idle--;
            return 0;
        }
    }
}

static void worker_main(void *arg) {
    unsigned epoch = (unsigned)(uintptr_t)arg;

    on_worker = 1;
    own_epoch = epoch;
    uv_mutex_lock(&pool.lock);
    if (epoch == pool.epoch)
        pool.starting--;
    while (epoch == pool.epoch) {
        arn_msg *job = pool.head;
        int signal = 0;

        if (job == NULL) {
            if (!wait_for_work(epoch))
                break;
            continue;
        }
        pool.head = job->next;
        if (pool.head == NULL)
            pool.tail = &pool.head;
        else
            signal = call_worker();
        uv_mutex_unlock(&pool.lock);
        if (signal)
            uv_cond_signal(&pool.work);
        job->run(job, 0);
        uv_mutex_lock(&pool.lock);
    }
    if (epoch == pool.epoch) {
        pool.threads--;
    } else {
        pool.left--;
        uv_cond_broadcast(&pool.ended);
    }
    uv_mutex_unlock(&pool.lock);
}

/* ---- from outside ---- */

/* Whoever runs a job, aborted or not, stands in for a worker. */
static void abort_all(arn_msg *job) {
    int before = on_worker;

    on_worker = 1;
    while (job != NULL) {
        arn_msg *next = job->next;
        job->run(job, 1);
        job = next;
    }
    on_worker = before;
}

void arn_workers_submit(arn_msg *job) {
    arn_msg *lost = NULL;
    int signal;

    pthread_once(&once, set_up);
    job->next = NULL;
    uv_mutex_lock(&pool.lock);
    *pool.tail = job;
    pool.tail = &job->next;
    signal = call_worker();
    if (pool.threads == 0) /* and none to be had */
        lost = take_all();
    uv_mutex_unlock(&pool.lock);
    if (signal)
        uv_cond_signal(&pool.work);
    abort_all(lost);
}

void arn_workers_finish(arn_op *op, int status) {
    arn__op_finish(NULL, op, status, NULL);
}

int arn_workers_stop(int timeout_ms) {
    uint64_t until = uv_hrtime() + (uint64_t)timeout_ms * 1000000u;
    arn_msg *queued;
    unsigned left;

    pthread_once(&once, set_up);
    uv_mutex_lock(&pool.lock);
    queued = take_all();
    pool.left += pool.threads;
    pool.threads = pool.idle = pool.called = pool.starting = 0;
    pool.epoch++;
    uv_cond_broadcast(&pool.work);
    uv_mutex_unlock(&pool.lock);
    abort_all(queued);

    uv_mutex_lock(&pool.lock);
    while (pool.left > 0) {
        uint64_t now = uv_hrtime();
        if (now >= until || uv_cond_timedwait(&pool.ended, &pool.lock, until - now) != 0)
            break;
    }
    left = pool.left;
    uv_mutex_unlock(&pool.lock);
    return left == 0 ? ARN_OK : ARN_ETIMEDOUT;
}
