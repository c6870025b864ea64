#include "base/alloc.h"
#include "base/status.h"
#include "grpc/internal.h"
#include "io/timer.h"

#include <string.h>

/* Between attempts at a server that cannot be reached. */
#define BACKOFF_FIRST_MS 20u
#define BACKOFF_MAX_MS 1000u

/* So often a call is made again that the server has refused. */
#define REFUSED_MAX 5u

static arn_grpc_op *op_of(arn_queue *node) {
    return ARN_CONTAINER_OF(node, arn_grpc_op, base.node);
}

static arn_grpc_conn *conn_of(arn_queue *node) {
    return ARN_CONTAINER_OF(node, arn_grpc_conn, node);
}

uint64_t arn__grpc_now(const arn_grpc_channel *channel) {
    return uv_now(arn__runtime_loop(channel->rt));
}

/* ---- host side ---- */

/* Copies the config and its strings. */
static int copy_config(arn_grpc_channel *channel, const arn_grpc_config *config) {
    const char **fields[] = {
        &channel->config.host,
        &channel->config.path,
        &channel->config.authority,
        &channel->config.user_agent,
    };

    channel->config = *config;
    channel->strings = arn_own_strings(fields, sizeof(fields) / sizeof(fields[0]));
    return channel->strings != NULL ? 0 : ARN_ENOMEM;
}

static void free_channel(arn_grpc_channel *channel) {
    arn_spares_free(&channel->spares);
    arn_tls_unref(channel->config.tls);
    arn_free(channel->strings);
    arn_free(channel->label);
    arn_free(channel);
}

arn_grpc_channel *arn_grpc_channel_new(arn_runtime *rt, const arn_grpc_config *config) {
    arn_grpc_channel *channel = arn_calloc(1, sizeof(*channel));

    if (channel == NULL)
        return NULL;
    if (copy_config(channel, config) != 0) {
        arn_free(channel);
        return NULL;
    }
    if (config->tls != NULL)
        arn_tls_ref(config->tls);
    config = &channel->config;
    channel->target = (arn_stream_target){.host = config->host,
                                          .port = config->port,
                                          .path = config->path,
                                          .keepalive = 1,
                                          .tls = config->tls};
    channel->label = arn__stream_label(&channel->target);
    if (channel->label == NULL) {
        free_channel(channel);
        return NULL;
    }
    atomic_init(&channel->refs, 1);
    channel->rt = rt;
    /* A ping whose answer may take for ever says nothing. */
    channel->keepalive_ms = config->keepalive_timeout_ms != 0 ? config->keepalive_ms : 0;
    arn_queue_init(&channel->waiting);
    arn_queue_init(&channel->conns);
    return channel;
}

void arn_grpc_channel_ref(arn_grpc_channel *channel) {
    atomic_fetch_add_explicit(&channel->refs, 1, memory_order_relaxed);
}

void arn_grpc_channel_unref(arn_grpc_channel *channel) {
    if (atomic_fetch_sub_explicit(&channel->refs, 1, memory_order_acq_rel) == 1)
        free_channel(channel);
}

arn_runtime *arn_grpc_channel_runtime(const arn_grpc_channel *channel) {
    return channel->rt;
}

static void close_channel(arn_grpc_channel *channel);

static void run_release(arn_msg *msg, int aborted) {
    arn_grpc_channel *channel = ARN_CONTAINER_OF(msg, arn_grpc_channel, release_msg);

    if (!aborted)
        close_channel(channel);
    arn_grpc_channel_unref(channel);
}

void arn_grpc_channel_release(arn_grpc_channel *channel) {
    channel->release_msg.run = run_release;
    arn_runtime_submit(channel->rt, &channel->release_msg, &channel->release_msg);
}

/* ---- io thread: time ---- */

static void see_to_all(arn_grpc_channel *channel);

static void on_timer(uv_timer_t *timer) {
    arn_grpc_channel *channel = timer->data;

    channel->timer_at = 0;
    see_to_all(channel);
}

void arn__grpc_channel_due(arn_grpc_channel *channel, uint64_t when) {
    uint64_t now = arn__grpc_now(channel);

    if (when == 0 || (channel->timer_at != 0 && channel->timer_at <= when))
        return;
    channel->timer_at = when;
    uv_timer_start(channel->timer, on_timer, when > now ? when - now : 0, 0);
}

/* ---- io thread: the ends of calls ---- */

void arn__grpc_channel_finish(arn_grpc_channel *channel, arn_grpc_op *op) {
    arn__grpc_call_finish(channel->rt, op);
}

/* Ends the call wherever it is. `details` is static. */
static void end_call(arn_grpc_op *op, int code, const char *details) {
    if (op->session != NULL)
        arn__grpc_session_cancel(op->session, op);
    else
        arn_queue_remove(&op->base.node);
    arn__grpc_call_fail(op, code, details);
    arn__grpc_channel_kick(
        op->channel); /* the server is to hear of it, others may have its place */
    arn__grpc_channel_finish(op->channel, op);
}

void arn__grpc_channel_cancel(arn_op *base) {
    arn_grpc_op *op = ARN_CONTAINER_OF(base, arn_grpc_op, base);

    if (base->state != ARN_OP_NEW) /* else run_op() will see the flag */
        end_call(op, ARN_GRPC_CANCELLED, "the call was cancelled");
}

void arn__grpc_channel_again(arn_grpc_channel *channel, arn_grpc_op *op) {
    if (channel->is_closed) {
        arn__grpc_call_fail(op, ARN_GRPC_CANCELLED, "the channel was closed");
        arn__grpc_channel_finish(channel, op);
        return;
    }
    if (op->refused++ >= REFUSED_MAX) {
        arn__grpc_call_fail(op, ARN_GRPC_UNAVAILABLE, "the server has refused the call repeatedly");
        arn__grpc_channel_finish(channel, op);
        return;
    }
    arn_queue_push_front(&channel->waiting, &op->base.node);
    arn__grpc_channel_kick(channel);
}

/* ---- io thread: connecting ---- */

void arn__grpc_channel_unreachable(arn_grpc_channel *channel, const char *details) {
    uint64_t backoff = (uint64_t)BACKOFF_FIRST_MS
                       << (channel->failures < 6 ? channel->failures : 6);
    arn_queue *node, *next;

    channel->failures++;
    channel->not_before =
        arn__grpc_now(channel) + (backoff < BACKOFF_MAX_MS ? backoff : BACKOFF_MAX_MS);
    if (!arn_queue_empty(&channel->conns))
        return; /* one more would have been of use; it goes on without */
    for (node = channel->waiting.next; node != &channel->waiting; node = next) {
        arn_grpc_op *op = op_of(node);
        next = node->next;
        if (op->waits)
            continue;
        arn_queue_remove(node);
        arn__grpc_call_fail(op, ARN_GRPC_UNAVAILABLE,
                            arn_arena_copy(&op->base.arena, details, strlen(details)));
        arn__grpc_channel_finish(channel, op);
    }
}

void arn__grpc_channel_reached(arn_grpc_channel *channel) {
    channel->failures = 0;
    channel->not_before = 0;
}

/* Somebody waits: whether another connection would help, and if so, makes it when it may be. */
static void connect_if_needed(arn_grpc_channel *channel) {
    uint64_t now = arn__grpc_now(channel);
    unsigned in_use = 0;
    arn_queue *node;

    for (node = channel->conns.next; node != &channel->conns; node = node->next) {
        arn_grpc_conn *conn = conn_of(node);
        if (conn->session.is_draining)
            continue;
        if (!conn->is_ready || !arn__grpc_session_is_full(&conn->session))
            return;
        in_use++;
    }
    if (in_use >= channel->config.max_connections)
        return;
    if (channel->not_before > now) {
        arn__grpc_channel_due(channel, channel->not_before);
        return;
    }
    if (arn__grpc_conn_new(channel) == NULL)
        arn__grpc_channel_unreachable(channel, arn_status_message(ARN_ENOMEM));
}

/* ---- io thread: the queue ---- */

static arn_grpc_conn *usable_conn(const arn_grpc_channel *channel) {
    arn_queue *node;

    for (node = channel->conns.next; node != &channel->conns; node = node->next)
        if (arn__grpc_session_has_room(&conn_of(node)->session))
            return conn_of(node);
    return NULL;
}

static uint64_t ms_left(const arn_grpc_op *op, uint64_t now) {
    if (op->base.deadline == 0)
        return 0;
    return op->base.deadline > now ? op->base.deadline - now : 1;
}

static void start(arn_grpc_conn *conn, arn_grpc_op *op, uint64_t now) {
    int r;

    if (op->head == NULL) { /* it has waited for just this */
        arn__grpc_call_finish(conn->channel->rt, op);
        return;
    }
    arn__grpc_call_begin(op, ms_left(op, now));
    r = arn__grpc_session_start(&conn->session, op);
    if (r == ARN_EBUSY) {
        arn_queue_push_front(&conn->channel->waiting, &op->base.node);
    } else if (r != 0) {
        op->no_memory = 1;
        arn__grpc_call_fail(op, ARN_GRPC_RESOURCE_EXHAUSTED, NULL);
        arn__grpc_channel_finish(conn->channel, op);
    } else {
        op->base.state = ARN_OP_SENT;
        arn__grpc_conn_started(conn, now);
    }
}

static void on_pump(arn_deferred *d) {
    arn_grpc_channel *channel = ARN_CONTAINER_OF(d, arn_grpc_channel, pump);
    uint64_t now = arn__grpc_now(channel);
    arn_grpc_conn *conn;
    arn_queue *node, *next;

    while (!arn_queue_empty(&channel->waiting) && (conn = usable_conn(channel)) != NULL)
        start(conn, op_of(arn_queue_pop(&channel->waiting)), now);
    for (node = channel->conns.next; node != &channel->conns; node = next) {
        next = node->next;
        arn__grpc_conn_flush(conn_of(node));
    }
    if (!channel->is_closed && !arn_queue_empty(&channel->waiting))
        connect_if_needed(channel);
    arn_grpc_channel_unref(channel);
}

void arn__grpc_channel_kick(arn_grpc_channel *channel) {
    if (channel->pump.queued)
        return;
    arn_grpc_channel_ref(channel);
    channel->pump.fn = on_pump;
    arn__runtime_defer(channel->rt, &channel->pump);
}

/* Ends the calls of one queue whose time is over; `next` becomes the soonest of the others'. */
static void expire(arn_queue *queue, uint64_t now, uint64_t *next) {
    arn_queue *node, *following;

    for (node = queue->next; node != queue; node = following) {
        arn_grpc_op *op = op_of(node);
        following = node->next;
        if (op->is_abandoned || op->base.deadline == 0)
            continue;
        if (op->base.deadline > now)
            *next = arn__sooner(*next, op->base.deadline);
        else
            end_call(op, ARN_GRPC_DEADLINE_EXCEEDED,
                     op->session != NULL ? "Deadline Exceeded"
                                         : "Deadline Exceeded: no connection became ready in time");
    }
}

static int is_usable(const arn_grpc_conn *conn) {
    return conn->is_ready && !conn->session.is_draining;
}

/* Closes connections that have had no call for a while, all but one. Calls go to the first one that
 * has room, so the last ones are the idle ones, and the first stays. */
static void close_idle(arn_grpc_channel *channel, uint64_t now, uint64_t *next) {
    unsigned usable = 0;
    arn_queue *node, *before;

    for (node = channel->conns.next; node != &channel->conns; node = node->next)
        usable += (unsigned)is_usable(conn_of(node));
    for (node = channel->conns.prev; node != &channel->conns && usable > 1; node = before) {
        arn_grpc_conn *conn = conn_of(node);
        before = node->prev;
        if (!is_usable(conn))
            continue;
        if (conn->session.count > 0 || !arn_queue_empty(&channel->waiting))
            conn->used = now;
        if (conn->used + channel->config.idle_ms > now) {
            *next = arn__sooner(*next, conn->used + channel->config.idle_ms);
            continue;
        }
        usable--;
        arn__grpc_session_retire(&conn->session);
        arn__grpc_conn_flush(conn); /* which closes it, as it has no calls */
    }
}

/* The timer's: looks at every call and connection, which is cheap because it is rare: the timer is
 * only set anew when the soonest time has come. */
static void see_to_all(arn_grpc_channel *channel) {
    uint64_t now = arn__grpc_now(channel);
    uint64_t soonest = 0;
    arn_queue *node, *next;

    arn_grpc_channel_ref(channel);
    expire(&channel->waiting, now, &soonest);
    for (node = channel->conns.next; node != &channel->conns; node = next) {
        arn_grpc_conn *conn = conn_of(node);
        next = node->next;
        if (arn__grpc_conn_tick(conn, now, &soonest) == 0)
            expire(&conn->session.calls, now, &soonest);
    }
    if (channel->config.idle_ms != 0)
        close_idle(channel, now, &soonest);
    if (!channel->is_closed) {
        arn__grpc_channel_due(channel, soonest);
        if (!arn_queue_empty(&channel->waiting))
            arn__grpc_channel_kick(channel);
    }
    arn_grpc_channel_unref(channel);
}

/* ---- start and stop ---- */

static void close_channel(arn_grpc_channel *channel) {
    static const char details[] = "the channel was closed";

    if (channel->is_closed)
        return;
    channel->is_closed = 1;
    if (channel->timer == NULL)
        return;
    arn__runtime_remove_stopper(&channel->stopper);
    while (!arn_queue_empty(&channel->waiting))
        end_call(op_of(channel->waiting.next), ARN_GRPC_CANCELLED, details);
    while (!arn_queue_empty(&channel->conns))
        arn__grpc_conn_end(conn_of(channel->conns.next), ARN_GRPC_CANCELLED, details);
    arn__timer_free(channel->timer);
    arn_grpc_channel_unref(channel); /* what open_channel() took */
}

static void stop_channel(arn_stopper *stopper) {
    close_channel(ARN_CONTAINER_OF(stopper, arn_grpc_channel, stopper));
}

static int open_channel(arn_grpc_channel *channel) {
    if (channel->timer != NULL)
        return 0;
    channel->timer = arn__timer_new(channel->rt, channel);
    if (channel->timer == NULL)
        return ARN_ENOMEM;
    channel->stopper.stop = stop_channel;
    arn__runtime_add_stopper(channel->rt, &channel->stopper);
    arn_grpc_channel_ref(channel);
    return 0;
}

void arn__grpc_channel_run(arn_msg *msg, int aborted) {
    arn_grpc_op *op = ARN_CONTAINER_OF(msg, arn_grpc_op, base.msg);
    arn_grpc_channel *channel = op->channel;
    arn_op *base = &op->base;

    if (aborted || channel->is_closed || arn_op_is_cancelled(base)) {
        op->reply.code = ARN_GRPC_CANCELLED;
        arn__op_finish(aborted ? NULL : channel->rt, base, aborted ? ARN_ESHUTDOWN : ARN_ECLOSED,
                       channel->is_closed ? "the channel was closed" : NULL);
        return;
    }
    if (open_channel(channel) != 0) {
        op->no_memory = 1;
        op->reply.code = ARN_GRPC_RESOURCE_EXHAUSTED;
        arn__op_finish(channel->rt, base, ARN_ENOMEM, NULL);
        return;
    }
    arn_op_ref(base); /* the io thread's; the first one goes with the post */
    base->state = ARN_OP_QUEUED;
    if (base->timeout_ms != 0) {
        base->deadline = arn__grpc_now(channel) + base->timeout_ms;
        arn__grpc_channel_due(channel, base->deadline);
    }
    arn_queue_push(&channel->waiting, &base->node);
    arn__grpc_channel_kick(channel);
}
