#include "redis/client.h"

#include "base/alloc.h"
#include "base/status.h"
#include "redis/conn.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The arena's first piece, behind the request: the reply to most commands fits. */
#define INLINE_ARENA 224u

#define op_of arn__redis_op_of
#define now_of arn__redis_now

static arn_redis_conn *conn_of(arn_queue *node) {
    return ARN_CONTAINER_OF(node, arn_redis_conn, node);
}

/* ---- large keys ---- */

uint32_t arn_redis_key_hash(const char *key, size_t len) {
    uint32_t h = 2166136261u;
    size_t n = len < 64 ? len : 64;
    size_t i;

    for (i = 0; i < n; i++)
        h = (h ^ (unsigned char)key[i]) * 16777619u;
    /* Long keys differ at their ends as often as at their beginnings. */
    for (i = len > 128 ? len - 64 : n; i < len; i++)
        h = (h ^ (unsigned char)key[i]) * 16777619u;
    h ^= (uint32_t)len;
    return h != 0 ? h : 1;
}

static uint32_t *large_key_slot(arn_redis_client *client, uint32_t hash) {
    size_t count = sizeof(client->large_keys) / sizeof(client->large_keys[0]);

    return &client->large_keys[(hash ^ (hash >> 16)) % count];
}

static _Atomic uint16_t *under_way_slot(arn_redis_client *client, uint32_t hash) {
    size_t count = sizeof(client->large_under_way) / sizeof(client->large_under_way[0]);

    return &client->large_under_way[(hash ^ (hash >> 16)) % count];
}

static int is_large_key(arn_redis_client *client, uint32_t hash) {
    return hash != 0 &&
           (*large_key_slot(client, hash) == hash ||
            atomic_load_explicit(under_way_slot(client, hash), memory_order_relaxed) > 0);
}

void arn__redis_client_note_size(arn_redis_op *op, size_t size) {
    arn_redis_client *client = op->client;
    uint32_t *slot;

    if (op->key_hash == 0)
        return;
    slot = large_key_slot(client, op->key_hash);
    if (size > client->config.large_bytes || op->large)
        *slot = op->key_hash;
    else if (*slot == op->key_hash && size > 64) /* a short reply says nothing of the value */
        *slot = 0;
}

/* ---- ops ---- */

static void run_op(arn_msg *msg, int aborted);

/* What an op weighs in the counts of bytes. */
static size_t weight(const arn_redis_op *op) {
    return op->route == ARN_REDIS_GATE ? 0 : sizeof(*op) + INLINE_ARENA + op->len;
}

static _Atomic uint64_t *count_of(arn_redis_op *op) {
    arn_redis_client *client = op->client;

    return op->submitted ? &client->queued_bytes[op->large] : &client->made_bytes;
}

void arn__redis_op_uncount(arn_redis_op *op) {
    if (op->ended)
        return;
    op->ended = 1;
    atomic_fetch_sub_explicit(count_of(op), weight(op), memory_order_release); /* has_large() */
}

void arn_redis_op_submitted(arn_redis_op *op) {
    atomic_fetch_sub_explicit(count_of(op), weight(op), memory_order_relaxed);
    op->submitted = 1;
    atomic_fetch_add_explicit(count_of(op), weight(op), memory_order_relaxed);
}

static uint64_t queued(const arn_redis_client *client, int large) {
    return atomic_load_explicit(&client->queued_bytes[large], memory_order_acquire);
}

int arn__redis_client_has_large(const arn_redis_client *client) {
    /* In this order: it is given up before it is no longer queued. */
    return queued(client, ARN_REDIS_LANE_LARGE) > 0 || arn__redis_client_has_given_up(client);
}

static int is_large(const arn_redis_client *client, size_t len) {
    return len > client->config.large_bytes ? ARN_REDIS_LANE_LARGE : ARN_REDIS_LANE_SMALL;
}

int arn_redis_is_full(const arn_redis_client *client, size_t len) {
    return queued(client, is_large(client, len)) > client->config.queue_bytes;
}

int arn_redis_has_room(const arn_redis_client *client, size_t len) {
    uint64_t made = atomic_load_explicit(&client->made_bytes, memory_order_relaxed);

    return made == 0 || made + len <= client->config.queue_bytes;
}

uint64_t arn_redis_queued_bytes(const arn_redis_client *client) {
    return queued(client, ARN_REDIS_LANE_SMALL) + queued(client, ARN_REDIS_LANE_LARGE);
}

static void destroy_op(arn_op *base) {
    arn_redis_op *op = ARN_CONTAINER_OF(base, arn_redis_op, base);
    arn_redis_client *client = op->client;

    arn__redis_op_uncount(op);
    if (op->noted)
        atomic_fetch_sub_explicit(under_way_slot(client, op->key_hash), 1, memory_order_relaxed);
    if (op->session != NULL)
        arn_redis_session_unref(op->session);
    if (op->route == ARN_REDIS_EXPRESS && base->value.kind == ARN_INT && base->value.u.integer >= 0)
        close((int)base->value.u.integer); /* nobody has taken it */
    if (op->release != NULL)
        op->release(op->payload_owner);
    arn_free(op);
    arn_redis_client_unref(client);
}

static void cancel_op(arn_op *base) {
    arn_redis_op *op = ARN_CONTAINER_OF(base, arn_redis_op, base);

    if (base->state == ARN_OP_SENT) {
        if (op->conn != NULL && op->route == ARN_REDIS_SHARED)
            arn__redis_conn_give_up(op->conn, op);
        else if (op->conn != NULL && op->route != ARN_REDIS_SESSION)
            arn__redis_conn_end(op->conn, ARN_ECANCELED, NULL);
        return; /* a session's reply is awaited and thrown away */
    }
    if (arn_queue_empty(&base->node))
        return; /* not yet started: run_op will see the flag */
    arn_queue_remove(&base->node);
    op->conn = NULL;
    arn__redis_op_finish(op, ARN_ECANCELED, NULL);
    arn_op_unref(base);
}

arn_redis_op *arn_redis_op_new(arn_redis_client *client, arn_redis_route route, size_t len,
                               size_t payload_len, uint32_t replies) {
    size_t inline_len = len - payload_len;
    arn_redis_op *op = arn_malloc(sizeof(*op) + inline_len + INLINE_ARENA);

    if (op == NULL)
        return NULL;
    arn_op_init(&op->base, run_op, destroy_op, op->request + inline_len, INLINE_ARENA);
    op->base.on_cancel = cancel_op;
    op->base.timeout_ms = client->config.timeout_ms;
    op->client = client;
    op->session = NULL;
    op->route = route;
    op->key_hash = 0;
    op->replies = replies;
    op->got = 0;
    op->conn = NULL;
    op->express = 0;
    op->lanes_only = 0;
    op->large = is_large(client, len);
    op->noted = 0;
    op->given_up = 0;
    op->ends_at = 0;
    op->submitted = 0;
    op->ended = 0;
    op->payload.data = NULL;
    op->payload.len = 0;
    op->payload_at = 0;
    op->release = NULL;
    op->payload_owner = NULL;
    op->len = len;
    arn_redis_client_ref(client);
    atomic_fetch_add_explicit(&client->made_bytes, weight(op), memory_order_relaxed);
    return op;
}

arn_redis_op *arn_redis_gate_new(arn_redis_client *client, size_t len) {
    arn_redis_op *op = arn_redis_op_new(client, ARN_REDIS_GATE, 0, 0, 0);

    if (op != NULL)
        op->large = is_large(client, len);
    return op;
}

int arn__redis_op_read(arn_redis_op *op, arn_redis_reader *reader, int late) {
    arn_value *slot = &op->base.value;
    arn_value discarded;
    int r;

    if (late) {
        slot = &discarded; /* the caller may be reading the op: only its arena is still ours */
    } else if (op->replies > 1) {
        if (slot->kind != ARN_ARRAY) { /* the first look, not the first reply: it may be long */
            slot->u.items = arn_arena_alloc(&op->base.arena, op->replies * sizeof(arn_value));
            if (slot->u.items == NULL)
                return ARN_ENOMEM;
            slot->kind = ARN_ARRAY;
            slot->len = op->replies;
        }
        slot = &slot->u.items[op->got];
    }
    r = arn__redis_reader_next(reader, &op->base.arena, slot);
    if (r <= 0)
        return r;
    op->got++;
    if (slot->kind == ARN_ERROR)
        atomic_fetch_add_explicit(&op->client->stats.errors, 1, memory_order_relaxed);
    return 1;
}

static void open_gates(arn_redis_client *client, int large) {
    while (!arn_queue_empty(&client->gates[large])) {
        arn_redis_op *op = op_of(arn_queue_pop(&client->gates[large]));
        arn__op_finish(client->rt, &op->base, ARN_OK, NULL);
        arn_op_unref(&op->base);
    }
}

void arn__redis_op_finish(arn_redis_op *op, int status, const char *message) {
    arn_redis_client *client = op->client;
    int large = op->large; /* once posted, the op is its caller's */

    arn__redis_op_uncount(op);
    arn__op_finish(client->rt, &op->base, status, message);
    if (!arn_queue_empty(&client->gates[large]) &&
        queued(client, large) <= client->config.queue_bytes / 2)
        open_gates(client, large);
}

/* ---- dedicated connections ---- */

static void start_waiting_timer(arn_redis_client *client);

static void on_waiting_timer(uv_timer_t *timer) {
    arn_redis_client *client = timer->data;
    uint64_t now = now_of(client);

    while (!arn_queue_empty(&client->waiting)) {
        arn_redis_op *op = op_of(client->waiting.next);
        if (op->base.deadline == 0 || op->base.deadline > now)
            break;
        arn_queue_remove(&op->base.node);
        arn__redis_op_finish(op, ARN_EBUSY, "No connection available.");
        arn_op_unref(&op->base);
    }
    start_waiting_timer(client);
}

static void start_waiting_timer(arn_redis_client *client) {
    uint64_t now = now_of(client);
    arn_redis_op *op;

    if (arn_queue_empty(&client->waiting))
        return;
    op = op_of(client->waiting.next);
    if (op->base.deadline != 0)
        uv_timer_start(client->waiting_timer, on_waiting_timer,
                       op->base.deadline > now ? op->base.deadline - now : 0, 0);
}

static void use_dedicated(arn_redis_conn *conn, arn_redis_op *op) {
    arn_queue_remove(&conn->node);
    arn_queue_push(&conn->client->busy, &conn->node);
    /* The time it waited for the connection does not count as time waited for the reply. */
    op->base.deadline = op->base.timeout_ms != 0 ? now_of(conn->client) + op->base.timeout_ms : 0;
    arn__redis_conn_submit(conn, op);
}

static void serve_waiting(arn_redis_client *client) {
    while (!arn_queue_empty(&client->waiting)) {
        arn_redis_conn *conn;
        arn_redis_op *op = op_of(client->waiting.next);

        if (!arn_queue_empty(&client->idle)) {
            conn = conn_of(client->idle.next);
        } else if (client->dedicated < client->config.max_dedicated) {
            conn = arn__redis_conn_new(client, ARN_REDIS_DEDICATED);
            if (conn != NULL) {
                client->dedicated++;
                atomic_store_explicit(&client->stats.dedicated, client->dedicated,
                                      memory_order_relaxed);
            }
        } else {
            return;
        }
        arn_queue_remove(&op->base.node);
        if (conn == NULL) {
            arn__redis_op_finish(op, ARN_ENOMEM, NULL);
            arn_op_unref(&op->base);
            continue;
        }
        use_dedicated(conn, op);
    }
}

static void submit_dedicated(arn_redis_client *client, arn_redis_op *op) {
    op->base.deadline =
        client->config.pool_timeout_ms != 0 ? now_of(client) + client->config.pool_timeout_ms : 0;
    arn_queue_push(&client->waiting, &op->base.node);
    serve_waiting(client);
    if (!arn_queue_empty(&client->waiting) && !uv_is_active((uv_handle_t *)client->waiting_timer))
        start_waiting_timer(client);
}

void arn__redis_client_wait_again(arn_redis_op *op) {
    arn_redis_client *client = op->client;

    op->conn = NULL;
    op->base.deadline =
        client->config.pool_timeout_ms != 0 ? now_of(client) + client->config.pool_timeout_ms : 0;
    arn_queue_push_front(&client->waiting, &op->base.node);
}

void arn__redis_client_unused(arn_redis_conn *conn) {
    arn_redis_client *client = conn->client;

    if (conn->session != NULL)
        return;
    if (conn->discard) {
        arn__redis_conn_end(conn, ARN_ECLOSED, NULL);
        return;
    }
    arn_queue_remove(&conn->node);
    arn_queue_push_front(&client->idle, &conn->node);
    serve_waiting(client);
}

/* The session, if there is one, loses its connection. */
static void detach_session(arn_redis_conn *conn) {
    arn_redis_session *session = conn->session;

    if (session == NULL)
        return;
    conn->session = NULL;
    session->conn = NULL;
    atomic_store(&session->open, 0);
    arn_redis_session_unref(session);
}

void arn__redis_client_lost(arn_redis_conn *conn) {
    arn_redis_client *client = conn->client;
    int i;

    detach_session(conn);
    arn_queue_remove(&conn->node);
    for (i = 0; i < ARN_REDIS_LANES; i++)
        if (client->lanes[i] == conn)
            client->lanes[i] = NULL;
    if (conn->role == ARN_REDIS_DEDICATED) {
        client->dedicated--;
        atomic_store_explicit(&client->stats.dedicated, client->dedicated, memory_order_relaxed);
        serve_waiting(client);
    }
}

/* ---- lanes ---- */

static arn_redis_conn *lane(arn_redis_client *client, int index) {
    if (client->lanes[index] == NULL)
        client->lanes[index] = arn__redis_conn_new(client, ARN_REDIS_LANE);
    return client->lanes[index];
}

void arn__redis_client_retire(arn_redis_conn *conn) {
    arn_redis_client *client = conn->client;
    arn_queue unsent;
    int i;

    conn->role = ARN_REDIS_RETIRED;
    arn_queue_push(&client->retired, &conn->node);
    arn_queue_init(&unsent);
    arn_queue_append(&unsent, &conn->queued);
    for (i = 0; i < ARN_REDIS_LANES; i++) {
        if (client->lanes[i] != conn)
            continue;
        client->lanes[i] = NULL;
        while (!arn_queue_empty(&unsent)) {
            arn_redis_op *op = op_of(arn_queue_pop(&unsent));
            arn_redis_conn *fresh = lane(client, i);
            if (fresh != NULL) {
                arn__redis_conn_submit(fresh, op);
                continue;
            }
            arn__redis_op_finish(op, ARN_ENOMEM, NULL);
            arn_op_unref(&op->base);
        }
    }
}

static int pick_lane(arn_redis_client *client, arn_redis_op *op) {
    const arn_redis_conn *small = client->lanes[ARN_REDIS_LANE_SMALL];
    const arn_redis_conn *large = client->lanes[ARN_REDIS_LANE_LARGE];

    if (op->large) {
        /* What comes later for its key stays behind it, lest an old value replace a new one. */
        if (op->key_hash != 0) {
            op->noted = 1;
            atomic_fetch_add_explicit(under_way_slot(client, op->key_hash), 1,
                                      memory_order_relaxed);
        }
        return ARN_REDIS_LANE_LARGE;
    }
    if (arn__redis_client_has_given_up(client) || is_large_key(client, op->key_hash))
        return ARN_REDIS_LANE_LARGE;
    /* A large reply that nobody could foresee fills the small lane: go round it. */
    if (small != NULL && arn__redis_conn_in_large(small) &&
        (large == NULL || !arn__redis_conn_in_large(large)))
        return ARN_REDIS_LANE_LARGE;
    return ARN_REDIS_LANE_SMALL;
}

static void on_pumping(arn_deferred *d) {
    arn_redis_client *client = ARN_CONTAINER_OF(d, arn_redis_client, pumping);
    arn_queue *node;

    while ((node = arn_queue_pop(&client->dirty)) != NULL)
        arn__redis_conn_pump(ARN_CONTAINER_OF(node, arn_redis_conn, dirty));
    arn_redis_client_unref(client);
}

void arn__redis_client_pump_later(arn_redis_conn *conn) {
    arn_redis_client *client = conn->client;

    if (!arn_queue_empty(&conn->dirty))
        return;
    arn_queue_push(&client->dirty, &conn->dirty);
    if (!client->pumping.queued) {
        arn_redis_client_ref(client);
        arn__runtime_defer(client->rt, &client->pumping);
    }
}

/* ---- the op's arrival on the io thread ---- */

static int prepare(arn_redis_client *client);

static void start_op(arn_redis_op *op) {
    arn_redis_client *client = op->client;
    arn_redis_conn *conn = NULL;
    int status = ARN_OK;

    arn_op_ref(&op->base); /* of the queues it will be in; the first one goes with the post */
    op->base.state = ARN_OP_QUEUED;
    op->base.deadline = op->base.timeout_ms != 0 ? now_of(client) + op->base.timeout_ms : 0;
    if (arn_op_is_cancelled(&op->base))
        status = ARN_ECANCELED;
    else if (client->released)
        status = ARN_ECLOSED;
    else
        status = prepare(client);

    if (status == ARN_OK) {
        atomic_fetch_add_explicit(&client->stats.commands, op->len > 0 ? op->replies : 0,
                                  memory_order_relaxed);
        switch (op->route) {
        case ARN_REDIS_SHARED:
            conn = lane(client, pick_lane(client, op));
            status = conn == NULL ? ARN_ENOMEM : ARN_OK;
            break;
        case ARN_REDIS_SESSION:
            conn = op->session->conn;
            if (conn == NULL)
                status = op->session->released ? ARN_ECLOSED : ARN_ECONN;
            break;
        case ARN_REDIS_LEASE:
            status = op->session->released ? ARN_ECLOSED : ARN_OK;
            if (status == ARN_OK) {
                submit_dedicated(client, op);
                return;
            }
            break;
        case ARN_REDIS_EXPRESS:
            /* A luxury: it must not make others wait for a connection. */
            if (client->dedicated >= client->config.max_dedicated) {
                status = ARN_EBUSY;
                break;
            }
            submit_dedicated(client, op);
            return;
        case ARN_REDIS_EXCLUSIVE:
        case ARN_REDIS_DISCARD:
            submit_dedicated(client, op);
            return;
        case ARN_REDIS_GATE:
            arn_queue_push(&client->gates[op->large], &op->base.node);
            if (queued(client, op->large) <= client->config.queue_bytes)
                open_gates(client, op->large);
            return;
        }
    }
    if (status == ARN_OK) {
        arn__redis_conn_submit(conn, op);
        return;
    }
    arn__redis_op_finish(op, status, status == ARN_ECONN ? "Connection closed by server." : NULL);
    arn_op_unref(&op->base);
}

static void run_op(arn_msg *msg, int aborted) {
    arn_op *base = ARN_CONTAINER_OF(msg, arn_op, msg);
    arn_redis_op *op = ARN_CONTAINER_OF(base, arn_redis_op, base);

    if (!aborted) {
        start_op(op);
        return;
    }
    arn__redis_op_uncount(op);
    arn__op_finish(NULL, base, ARN_ESHUTDOWN, NULL);
}

/* ---- sessions ---- */

arn_redis_session *arn_redis_session_new(arn_redis_client *client) {
    arn_redis_session *session = arn_calloc(1, sizeof(*session));

    if (session == NULL)
        return NULL;
    atomic_init(&session->refs, 1);
    atomic_init(&session->open, 0);
    session->client = client;
    arn_redis_client_ref(client);
    return session;
}

void arn_redis_session_ref(arn_redis_session *session) {
    atomic_fetch_add_explicit(&session->refs, 1, memory_order_relaxed);
}

void arn_redis_session_unref(arn_redis_session *session) {
    arn_redis_client *client = session->client;

    if (atomic_fetch_sub_explicit(&session->refs, 1, memory_order_acq_rel) != 1)
        return;
    arn_free(session);
    arn_redis_client_unref(client);
}

void arn_redis_op_set_session(arn_redis_op *op, arn_redis_session *session) {
    arn_redis_session_ref(session);
    op->session = session;
}

arn_redis_client *arn_redis_session_client(const arn_redis_session *session) {
    return session->client;
}

int arn_redis_session_is_open(const arn_redis_session *session) {
    return atomic_load(&session->open);
}

static void run_session_release(arn_msg *msg, int aborted) {
    arn_redis_session *session = ARN_CONTAINER_OF(msg, arn_redis_session, release_msg);
    arn_redis_conn *conn = aborted ? NULL : session->conn;

    /* Aborted, the io thread may be just at the session's connection: leave all that to it. */
    if (!aborted)
        session->released = 1;
    if (conn != NULL) {
        detach_session(conn);
        if (session->discard || !arn_queue_empty(&conn->sent) || !arn_queue_empty(&conn->queued))
            arn__redis_conn_end(conn, ARN_ECLOSED, "Connection closed by this client.");
        else
            arn__redis_client_unused(conn);
    }
    arn_redis_session_unref(session);
}

void arn_redis_session_release(arn_redis_session *session, int discard) {
    if (session->release_msg.run != NULL)
        return; /* released before */
    session->release_msg.run = run_session_release;
    session->discard = discard;
    atomic_store(&session->open, 0);
    arn_redis_session_ref(session);
    arn_runtime_submit(session->client->rt, &session->release_msg, &session->release_msg);
}

/* ---- the client's own life ---- */

static void end_queue(arn_queue *queue, int status, const char *message) {
    while (!arn_queue_empty(queue))
        arn__redis_conn_end(conn_of(queue->next), status, message);
}

static void end_everything(arn_redis_client *client, int status, const char *message) {
    arn_queue waiting;
    int i;

    /* First the waiting ones, or each connection that ends would start another for them. */
    arn_queue_init(&waiting);
    arn_queue_append(&waiting, &client->waiting);
    while (!arn_queue_empty(&waiting)) {
        arn_redis_op *op = op_of(arn_queue_pop(&waiting));
        arn__redis_op_finish(op, status, message);
        arn_op_unref(&op->base);
    }
    for (i = 0; i < ARN_REDIS_LANES; i++)
        if (client->lanes[i] != NULL)
            arn__redis_conn_end(client->lanes[i], status, message);
    end_queue(&client->retired, status, message);
    end_queue(&client->idle, status, message);
    end_queue(&client->busy, status, message);
    for (i = 0; i < ARN_REDIS_LANES; i++)
        open_gates(client, i);
    client->failures = 0;
    client->not_before = 0;
}

static void unregister(arn_redis_client *client) {
    if (!client->registered)
        return;
    client->registered = 0;
    arn__runtime_remove_stopper(&client->stopper);
    arn__timer_free(client->waiting_timer);
    client->waiting_timer = NULL;
    arn_redis_client_unref(client);
}

static void on_stop(arn_stopper *stopper) {
    arn_redis_client *client = ARN_CONTAINER_OF(stopper, arn_redis_client, stopper);

    client->released = 1;
    end_everything(client, ARN_ESHUTDOWN, NULL);
    unregister(client);
}

/* Before the first op: what needs the io thread. */
static int prepare(arn_redis_client *client) {
    if (client->registered)
        return ARN_OK;
    client->waiting_timer = arn__timer_new(client->rt, client);
    if (client->waiting_timer == NULL)
        return ARN_ENOMEM;
    client->registered = 1;
    arn_redis_client_ref(client);
    arn__runtime_add_stopper(client->rt, &client->stopper);
    return ARN_OK;
}

static void run_disconnect(arn_msg *msg, int aborted) {
    arn_redis_client *client = ARN_CONTAINER_OF(msg, arn_redis_client, disconnect_msg);

    atomic_store(&client->disconnecting, 0);
    if (!aborted)
        end_everything(client, ARN_ECLOSED, "Connection closed by this client.");
    arn_redis_client_unref(client);
}

void arn_redis_client_disconnect(arn_redis_client *client) {
    if (atomic_exchange(&client->disconnecting, 1))
        return;
    client->disconnect_msg.run = run_disconnect;
    arn_redis_client_ref(client);
    arn_runtime_submit(client->rt, &client->disconnect_msg, &client->disconnect_msg);
}

static void run_release(arn_msg *msg, int aborted) {
    arn_redis_client *client = ARN_CONTAINER_OF(msg, arn_redis_client, release_msg);

    if (!aborted) {
        client->released = 1;
        end_everything(client, ARN_ECLOSED, "Connection closed by this client.");
        unregister(client);
    }
    arn_redis_client_unref(client); /* the host's */
}

void arn_redis_client_release(arn_redis_client *client) {
    client->release_msg.run = run_release;
    arn_runtime_submit(client->rt, &client->release_msg, &client->release_msg);
}

void arn_redis_client_ref(arn_redis_client *client) {
    atomic_fetch_add_explicit(&client->refs, 1, memory_order_relaxed);
}

static void wipe(const char *secret) {
    volatile char *p = (volatile char *)secret;

    while (p != NULL && *p != '\0')
        *p++ = '\0';
}

static void free_config(arn_redis_config *c) {
    wipe(c->password);
    arn_free((char *)c->host);
    arn_free((char *)c->path);
    arn_free((char *)c->username);
    arn_free((char *)c->password);
    arn_free((char *)c->database);
    arn_free((char *)c->client_name);
    arn_free((char *)c->lib_name);
    arn_free((char *)c->lib_version);
}

void arn_redis_client_unref(arn_redis_client *client) {
    if (atomic_fetch_sub_explicit(&client->refs, 1, memory_order_acq_rel) != 1)
        return;
    free_config(&client->config);
    arn_free(client->label);
    arn_free(client);
}

arn_runtime *arn_redis_client_runtime(const arn_redis_client *client) {
    return client->rt;
}

const arn_redis_config *arn_redis_client_config(const arn_redis_client *client) {
    return &client->config;
}

const char *arn_redis_client_label(const arn_redis_client *client) {
    return client->label;
}

const arn_redis_stats *arn_redis_client_stats(const arn_redis_client *client) {
    return &client->stats;
}

/* Replaces the caller's string by a copy of it; 0 when that failed. */
static int own(const char **s) {
    if (*s == NULL)
        return 1;
    *s = arn_strdup(*s);
    return *s != NULL;
}

arn_redis_client *arn_redis_client_new(arn_runtime *rt, const arn_redis_config *config) {
    arn_redis_client *client = arn_calloc(1, sizeof(*client));
    arn_redis_config *c;
    int ok, i;

    if (client == NULL)
        return NULL;
    c = &client->config;
    *c = *config;
    ok = own(&c->host);
    ok &= own(&c->path);
    ok &= own(&c->username);
    ok &= own(&c->password);
    ok &= own(&c->database);
    ok &= own(&c->client_name);
    ok &= own(&c->lib_name);
    ok &= own(&c->lib_version);
    client->target = (arn_stream_target){.host = c->host,
                                         .port = c->port,
                                         .path = c->path,
                                         .keepalive = c->keepalive,
                                         .keepalive_idle = c->keepalive_idle,
                                         .keepalive_interval = c->keepalive_interval,
                                         .keepalive_count = c->keepalive_count};
    client->label = ok ? arn__stream_label(&client->target) : NULL;
    if (!ok || client->label == NULL) {
        free_config(c);
        arn_free(client->label);
        arn_free(client);
        return NULL;
    }
    client->rt = rt;
    atomic_init(&client->refs, 1);
    client->stopper.stop = on_stop;
    client->pumping.fn = on_pumping;
    arn_queue_init(&client->stopper.node);
    arn_queue_init(&client->dirty);
    arn_queue_init(&client->retired);
    arn_queue_init(&client->idle);
    arn_queue_init(&client->busy);
    arn_queue_init(&client->waiting);
    for (i = 0; i < ARN_REDIS_LANES; i++)
        arn_queue_init(&client->gates[i]);
    return client;
}
