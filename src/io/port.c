#include "io/port.h"

#include "base/alloc.h"
#include "base/status.h"
#include "io/wakefd.h"

#include <stddef.h>

/* So many results are handed over at once even if the turn goes on: the owner works on the first
 * ones while the io thread reads the rest. */
#define GATHER_MAX 64

struct arn_port {
    _Atomic uint32_t refs;
    arn_port_kind kind;

    /* io thread only: posted in this turn, not yet handed over. The deferred node holds a
     * reference on the port while it is queued. */
    arn_deferred deferred;
    arn_op *gathered;
    arn_op **gathered_tail;
    unsigned gathered_count;

    uv_mutex_t lock;
    arn_op *head; /* under lock */
    arn_op **tail;
    int signalled; /* under lock: the owner has been woken and has not taken yet */
    int closed;    /* under lock */
    uv_cond_t cond;
    arn_wakefd wakefd;
};

static void drop(arn_op *op) {
    while (op != NULL) {
        arn_op *next = op->next_done;
        arn_op_unref(op);
        op = next;
    }
}

/* The caller has a reference on the port other than the ops'. */
static void hand_over(arn_port *port, arn_op *first, arn_op **last) {
    int wake = 0;
    int closed;

    uv_mutex_lock(&port->lock);
    closed = port->closed;
    if (!closed) {
        *port->tail = first;
        port->tail = last;
        wake = !port->signalled;
        port->signalled = 1;
    }
    uv_mutex_unlock(&port->lock);
    /* Not under the lock: the woken owner would run into it at once. The poster's reference on the
     * port keeps the descriptor open. */
    if (wake && port->kind == ARN_PORT_WAIT)
        uv_cond_signal(&port->cond);
    if (wake && port->kind == ARN_PORT_FD)
        arn__wakefd_signal(&port->wakefd);
    if (closed)
        drop(first);
}

static void on_deferred(arn_deferred *d) {
    arn_port *port = ARN_CONTAINER_OF(d, arn_port, deferred);
    arn_op *first = port->gathered;
    arn_op **last = port->gathered_tail;

    port->gathered = NULL;
    port->gathered_tail = &port->gathered;
    port->gathered_count = 0;
    if (first != NULL)
        hand_over(port, first, last);
    arn_port_unref(port);
}

void arn_port_post(arn_port *port, arn_op *op) {
    op->next_done = NULL;
    arn_port_ref(port);
    hand_over(port, op, &op->next_done);
    arn_port_unref(port);
}

void arn__port_post(arn_runtime *rt, arn_port *port, arn_op *op) {
    if (rt == NULL) {
        arn_port_post(port, op);
        return;
    }
    op->next_done = NULL;
    *port->gathered_tail = op;
    port->gathered_tail = &op->next_done;
    if (!port->deferred.queued) {
        arn_port_ref(port);
        arn__runtime_defer(rt, &port->deferred);
    }
    if (++port->gathered_count >= GATHER_MAX) {
        arn_op *first = port->gathered;
        arn_op **last = port->gathered_tail;
        port->gathered = NULL;
        port->gathered_tail = &port->gathered;
        port->gathered_count = 0;
        hand_over(port, first, last);
    }
}

arn_port *arn_port_new(arn_port_kind kind, int *status) {
    arn_port *port = arn_calloc(1, sizeof(*port));

    *status = ARN_ENOMEM;
    if (port == NULL)
        return NULL;
    atomic_init(&port->refs, 1);
    port->kind = kind;
    port->deferred.fn = on_deferred;
    port->gathered_tail = &port->gathered;
    port->tail = &port->head;
    port->wakefd.read_fd = port->wakefd.write_fd = -1;
    if (uv_mutex_init(&port->lock) != 0)
        goto fail_lock;
    if (uv_cond_init(&port->cond) != 0)
        goto fail_cond;
    if (kind == ARN_PORT_FD) {
        if (arn__wakefd_open(&port->wakefd) != 0) {
            *status = ARN_ERESOURCE;
            goto fail_wakefd;
        }
    }
    *status = ARN_OK;
    return port;

fail_wakefd:
    uv_cond_destroy(&port->cond);
fail_cond:
    uv_mutex_destroy(&port->lock);
fail_lock:
    arn_free(port);
    return NULL;
}

void arn_port_ref(arn_port *port) {
    atomic_fetch_add_explicit(&port->refs, 1, memory_order_relaxed);
}

void arn_port_unref(arn_port *port) {
    if (atomic_fetch_sub_explicit(&port->refs, 1, memory_order_acq_rel) != 1)
        return;
    arn__wakefd_close(&port->wakefd);
    uv_cond_destroy(&port->cond);
    uv_mutex_destroy(&port->lock);
    arn_free(port);
}

int arn_port_fd(const arn_port *port) {
    return port->wakefd.read_fd;
}

static arn_op *take_locked(arn_port *port) {
    arn_op *first = port->head;

    port->head = NULL;
    port->tail = &port->head;
    port->signalled = 0;
    return first;
}

arn_op *arn_port_take(arn_port *port) {
    arn_op *first;

    /* Drained before the queue is taken, so a post in between costs an empty take at worst. */
    if (port->kind == ARN_PORT_FD)
        arn__wakefd_drain(&port->wakefd);
    uv_mutex_lock(&port->lock);
    first = take_locked(port);
    uv_mutex_unlock(&port->lock);
    return first;
}

arn_op *arn_port_wait(arn_port *port, int timeout_ms) {
    uint64_t deadline = uv_hrtime() + (uint64_t)timeout_ms * 1000000u;
    arn_op *first;

    uv_mutex_lock(&port->lock);
    while (port->head == NULL) {
        uint64_t now = uv_hrtime();
        if (now >= deadline || uv_cond_timedwait(&port->cond, &port->lock, deadline - now) != 0)
            break;
    }
    first = take_locked(port);
    uv_mutex_unlock(&port->lock);
    return first;
}

void arn_port_close(arn_port *port) {
    arn_op *first;

    uv_mutex_lock(&port->lock);
    port->closed = 1;
    first = take_locked(port);
    uv_mutex_unlock(&port->lock);
    drop(first);
}
