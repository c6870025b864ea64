#include "redis/conn.h"

#include "base/alloc.h"
#include "base/status.h"

#include <stdio.h>
#include <string.h>

/* Bytes that may wait in a stream: what is behind them is still `queued`, so it can be cancelled
 * without a trace and survives a lost connection. */
#define UNSENT_MAX (1024u * 1024u)
/* Requests up to this size are copied side by side; larger ones are written from the op. */
#define COPY_MAX 4096u

/* A caller gives a command up, and its lane has answered nothing for so long: it may be dead, so
 * the next commands get a fresh one. Servers nearby answer much sooner; a false alarm costs one
 * connection more. */
#define SILENCE_MS 100u
/* Newer commands are held back for so long at most by a large request that was given up. */
#define ORDER_MS 1000u

/* Between attempts at a server that refuses: long enough not to hammer it, short enough that a
 * command which finds it down fails soon. */
#define BACKOFF_FIRST_MS 8u
#define BACKOFF_MAX_MS 32u

static void start_connecting(arn_redis_conn *conn);
static void arm(arn_redis_conn *conn);

#define op_of arn__redis_op_of

static uint64_t now_of(const arn_redis_conn *conn) {
    return arn__redis_now(conn->client);
}

/* ---- ends ---- */

/* Requests that were given up are in the way of what is queued. */
static int holds_back(const arn_redis_conn *conn) {
    return conn == conn->client->lanes[ARN_REDIS_LANE_LARGE] &&
           arn__redis_client_has_given_up(conn->client);
}

/* The op, which was given up, no longer matters to the order of others. */
static void stop_counting(arn_redis_op *op) {
    if (!op->given_up)
        return;
    op->given_up = 0;
    if (atomic_fetch_sub_explicit(&op->client->given_up, 1, memory_order_relaxed) == 1)
        arn__redis_client_pump_later(op->conn);
}

/* Takes the op out of its queue with the queue's reference, finishing it if it is not yet. */
static void drop_op(arn_redis_op *op, int status, const char *message) {
    arn_queue_remove(&op->base.node);
    stop_counting(op);
    op->conn = NULL;
    if (op->base.posted) {
        arn_op_unref(&op->base);
        return;
    }
    /* In this order the last reference is the caller's, who can free what the op refers to. */
    arn_op_unref(&op->base);
    arn__redis_op_finish(op, status, message);
}

static void drop_all(arn_queue *queue, int status, const char *message) {
    while (!arn_queue_empty(queue))
        drop_op(op_of(queue->next), status, message);
}

static void close_stream(arn_redis_conn *conn) {
    if (conn->stream != NULL) {
        arn__stream_close(conn->stream);
        conn->stream = NULL;
        atomic_fetch_sub_explicit(&conn->client->stats.connections, 1, memory_order_relaxed);
    }
    arn__redis_reader_free(conn->reader);
    conn->reader = NULL;
    conn->unsent = 0;
    conn->appended = 0;
    conn->connect_by = 0;
    conn->was_ready = 0;
    conn->state = ARN_REDIS_IDLE;
    arn_arena_free(&conn->scratch);
}

static void conn_free(arn_redis_conn *conn) {
    arn_queue_remove(&conn->dirty);
    arn__timer_free(conn->timer);
    arn_free(conn);
}

void arn__redis_conn_end(arn_redis_conn *conn, int status, const char *message) {
    if (conn->doomed)
        return;
    conn->doomed = 1;
    uv_timer_stop(conn->timer);
    drop_all(&conn->sent, status, message);
    drop_all(&conn->queued, status, message);
    close_stream(conn); /* last: the message may be the reader's or in the connection's arena */
    arn__redis_client_lost(conn);
    if (!conn->in_data)
        conn_free(conn);
}

/* The next attempt comes later, the later the more have failed in a row. */
static void back_off(arn_redis_conn *conn) {
    arn_redis_client *client = conn->client;
    unsigned shift = client->failures < 6 ? client->failures : 6;
    uint64_t backoff = (uint64_t)BACKOFF_FIRST_MS << shift;

    client->failures++;
    client->not_before = now_of(conn) + (backoff < BACKOFF_MAX_MS ? backoff : BACKOFF_MAX_MS);
}

/* A lane's connection ends. What was sent fails; what was not waits for the next. */
static void reconnect(arn_redis_conn *conn, int status, const char *message) {
    drop_all(&conn->sent, status, message);
    close_stream(conn);
    if (!arn_queue_empty(&conn->queued)) {
        atomic_fetch_add_explicit(&conn->client->stats.reconnects, 1, memory_order_relaxed);
        arn__redis_conn_start(conn);
    }
}

/* An established connection has ended. */
static void broke(arn_redis_conn *conn, int status, const char *message) {
    if (conn->bytes_in == 0)
        back_off(conn); /* accepted and closed without a word */
    if (conn->role == ARN_REDIS_LANE)
        reconnect(conn, status, message);
    else
        arn__redis_conn_end(conn, status, message);
}

/* An attempt at a connection has failed, and with it everything that waited for it. */
static void connect_failed(arn_redis_conn *conn, int status, const char *message) {
    back_off(conn);
    if (conn->role != ARN_REDIS_LANE) {
        arn__redis_conn_end(conn, status, message);
        return;
    }
    uv_timer_stop(conn->timer);
    drop_all(&conn->queued, status, message);
    close_stream(conn);
}

static void check_failed(arn_redis_conn *conn, int status, const char *message);

static void fail_stream(arn_redis_conn *conn, int status, const char *message) {
    if (conn->state == ARN_REDIS_CHECKING)
        check_failed(conn, status, message);
    else if (conn->was_ready)
        broke(conn, status, message);
    else
        connect_failed(conn, status, message);
}

static void describe(const arn_redis_conn *conn, int uv_error, char *out, size_t size) {
    const char *label = conn->client->label;
    int code = -uv_error;

    if (uv_error == UV_EOF) {
        snprintf(out, size, "Connection closed by server.");
        return;
    }
    if (uv_error == UV_EAI_NONAME)
        code = -2; /* getaddrinfo's own numbers, as Python shows them */
    else if (uv_error == UV_EAI_AGAIN)
        code = -3;
    else if (uv_error == UV_EAI_FAIL)
        code = -4;
    if (conn->was_ready)
        snprintf(out, size, "Error %d while talking to %s. %s.", code, label,
                 uv_strerror(uv_error));
    else
        snprintf(out, size, "Error %d connecting to %s. %s.", code, label, uv_strerror(uv_error));
}

/* The connection did not answer a health check: it was lost while nobody used it. What it was
 * checked for has not been sent and gets its whole time on another connection. */
static void check_failed(arn_redis_conn *conn, int status, const char *message) {
    arn_queue *node;

    while (conn->role == ARN_REDIS_DEDICATED && conn->session == NULL &&
           !arn_queue_empty(&conn->queued))
        arn__redis_client_wait_again(op_of(arn_queue_pop(&conn->queued)));
    for (node = conn->queued.next; node != &conn->queued; node = node->next) {
        arn_op *op = &op_of(node)->base;
        if (op->timeout_ms != 0)
            op->deadline = now_of(conn) + op->timeout_ms;
    }
    broke(conn, status, message);
}

static arn_redis_op *first_alive(arn_queue *queue) {
    arn_queue *node;

    for (node = queue->next; node != queue; node = node->next)
        if (!op_of(node)->base.posted)
            return op_of(node);
    return NULL;
}

/* ---- commands that nobody waits for any more ---- */

/* A lane's connection gets a successor; their order is then the server's affair. */
static void retire(arn_redis_conn *conn) {
    arn_queue *node;

    for (node = conn->sent.next; holds_back(conn) && node != &conn->sent; node = node->next)
        stop_counting(op_of(node));
    arn__redis_client_retire(conn);
}

/* If an op that was finished early is not all on its way: sees to it that it never will be. What is
 * behind it moves to the next connection; this one writes nothing more, and ends when the replies
 * to what is before it are there. 1 if so. in_order: not if a request is all on its way that holds
 * others back, which would then go round it. */
static int cut(arn_redis_conn *conn, int in_order) {
    uint64_t begun;
    arn_queue *node;
    int found = 0;

    if (conn->role != ARN_REDIS_LANE || conn->state != ARN_REDIS_READY || conn->unsent == 0)
        return 0;
    begun = conn->appended - conn->unsent + arn__stream_in_flight(conn->stream);
    for (node = conn->sent.prev; node != &conn->sent; node = node->prev) {
        arn_redis_op *op = op_of(node);
        if (op->ends_at <= begun)
            break;
        if (op->base.posted)
            found = 1;
        else if (op->ends_at - op->len < begun)
            return 0; /* wanted, and its rest is still to be written */
    }
    if (!found)
        return 0;
    for (; in_order && node != &conn->sent; node = node->prev)
        if (op_of(node)->given_up)
            return 0; /* is on its way and holds back what would now go round it */

    for (node = conn->sent.prev; node != &conn->sent;) {
        arn_redis_op *op = op_of(node);
        if (op->ends_at <= begun)
            break;
        node = node->prev;
        if (op->base.posted)
            continue;
        arn_queue_remove(&op->base.node);
        arn_queue_push_front(&conn->queued, &op->base.node);
        op->base.state = ARN_OP_QUEUED;
    }
    if (first_alive(&conn->sent) == NULL) {
        reconnect(conn, ARN_ECANCELED, NULL);
    } else {
        arn__stream_mute(conn->stream);
        retire(conn);
    }
    return 1;
}

/* 1 if nobody waited for a reply on the connection, a lane's former one: it is gone. */
static int end_if_unwanted(arn_redis_conn *conn) {
    if (conn->role != ARN_REDIS_RETIRED || first_alive(&conn->sent) != NULL)
        return 0;
    arn__redis_conn_end(conn, ARN_ECONN, "Connection closed after a timeout.");
    return 1;
}

/* Has nothing been read for some time, though replies are awaited? */
static int is_silent(const arn_redis_conn *conn) {
    uint64_t since = conn->last_read > conn->sent_since ? conn->last_read : conn->sent_since;

    return !arn_queue_empty(&conn->sent) && now_of(conn) - since >= SILENCE_MS;
}

void arn__redis_conn_give_up(arn_redis_conn *conn, arn_redis_op *op) {
    if (conn == conn->client->lanes[ARN_REDIS_LANE_LARGE]) {
        /* Before it is finished: an express connection looks for the one count or the other. */
        op->given_up = 1;
        if (atomic_fetch_add_explicit(&conn->client->given_up, 1, memory_order_relaxed) == 0)
            conn->order_by = now_of(conn) + ORDER_MS;
    }
    arn__redis_op_finish(op, ARN_ECANCELED, NULL); /* stays as a tombstone */
    if (!cut(conn, 1) && conn->role == ARN_REDIS_LANE && !holds_back(conn) && is_silent(conn))
        retire(conn);
    if (!end_if_unwanted(conn) && holds_back(conn))
        arm(conn);
}

/* ---- time ---- */

static int expire(arn_redis_conn *conn, arn_queue *queue, uint64_t now) {
    arn_queue *node = queue->next;
    char message[320];
    int expired = 0;

    snprintf(message, sizeof(message), "Timeout reading from %s", conn->client->label);
    while (node != queue) {
        arn_redis_op *op = op_of(node);
        node = node->next;
        if (op->base.posted)
            continue;
        if (op->base.deadline == 0 || op->base.deadline > now)
            break; /* deadlines grow along a queue */
        if (queue == &conn->queued)
            drop_op(op, ARN_ETIMEDOUT, message);
        else
            arn__redis_op_finish(op, ARN_ETIMEDOUT, message); /* stays as a tombstone */
        expired++;
    }
    return expired;
}

static void on_timer(uv_timer_t *timer) {
    arn_redis_conn *conn = timer->data;
    uint64_t now = now_of(conn);
    int late, overdue;

    if (conn->state == ARN_REDIS_BACKOFF && now >= conn->client->not_before) {
        start_connecting(conn);
        return;
    }
    if (conn->connect_by != 0 && now >= conn->connect_by) {
        conn->connect_by = 0;
        if (conn->state == ARN_REDIS_CHECKING) {
            check_failed(conn, ARN_ECONN, "Connection closed: no answer to a health check.");
            return;
        }
        if (conn->state != ARN_REDIS_READY) {
            connect_failed(conn, ARN_ECONNTIMEDOUT, "Timeout connecting to server");
            return;
        }
    }
    expire(conn, &conn->queued, now);
    late = expire(conn, &conn->sent, now);
    overdue = late > 0 || (holds_back(conn) && now >= conn->order_by);
    if (overdue && conn->role == ARN_REDIS_LANE && !cut(conn, 0))
        retire(conn);
    if (late && conn->role == ARN_REDIS_DEDICATED) {
        arn__redis_conn_end(conn, ARN_ECONN, "Connection closed after a timeout.");
        return;
    }
    if (!end_if_unwanted(conn))
        arm(conn);
}

static void arm_at(arn_redis_conn *conn, uint64_t at) {
    uint64_t now = now_of(conn);

    uv_timer_start(conn->timer, on_timer, at > now ? at - now : 0, 0);
}

/* Starts the timer for whatever comes first. Ops of one client have the same time to live, so a
 * timer that runs for the first op of a queue is not too late for those behind it. */
static void arm(arn_redis_conn *conn) {
    uint64_t at = 0;
    arn_redis_op *op;
    int i;

    if (conn->state == ARN_REDIS_BACKOFF)
        at = conn->client->not_before;
    else if (conn->state != ARN_REDIS_READY && conn->state != ARN_REDIS_IDLE)
        at = conn->connect_by;
    for (i = 0; i < 2; i++) {
        op = first_alive(i == 0 ? &conn->sent : &conn->queued);
        if (op != NULL && op->base.deadline != 0 && (at == 0 || op->base.deadline < at))
            at = op->base.deadline;
    }
    if (holds_back(conn) && (at == 0 || conn->order_by < at))
        at = conn->order_by;
    if (at != 0)
        arm_at(conn, at);
    else
        uv_timer_stop(conn->timer);
}

/* ---- reading ---- */

static void became_ready(arn_redis_conn *conn) {
    conn->state = ARN_REDIS_READY;
    conn->was_ready = 1;
    conn->connect_by = 0;
    conn->last_read = now_of(conn);
    arm(conn);
    arn__redis_conn_pump(conn);
}

/* Why the reader has failed; NULL: the status says it. */
static const char *reader_error(const arn_redis_conn *conn) {
    const char *text = arn__redis_reader_error(conn->reader);

    return text[0] != '\0' ? text : NULL;
}

/* A reply that belongs to the connection. 1: one was used; 0: incomplete; < 0: the stream failed
 * (and the connection may be gone). */
static int read_own_reply(arn_redis_conn *conn) {
    arn_value value;
    const char *message = NULL;
    int r = arn__redis_reader_next(conn->reader, &conn->scratch, &value);

    if (r == 0)
        return 0;
    if (r < 0) {
        fail_stream(conn, r, reader_error(conn));
        return -1;
    }
    conn->bytes_used = conn->bytes_in - arn__redis_reader_pending(conn->reader);
    if (conn->state == ARN_REDIS_CHECKING) {
        arn_arena_free(&conn->scratch);
        became_ready(conn);
        return 1;
    }
    r = arn__redis_setup_reply(conn, conn->setup_got, &value, &message);
    if (r == ARN_REDIS_SETUP_AGAIN) {
        close_stream(conn);
        start_connecting(conn);
        return -1;
    }
    if (r != ARN_OK) {
        connect_failed(conn, r, message);
        return -1;
    }
    arn_arena_free(&conn->scratch);
    if (++conn->setup_got == conn->setup_expect)
        became_ready(conn);
    return 1;
}

/* The next reply of the op at the head of `sent`. Results as above. */
static int read_op_reply(arn_redis_conn *conn) {
    arn_redis_op *op = op_of(conn->sent.next);
    uint64_t used;
    int r = arn__redis_op_read(op, conn->reader, op->base.posted);

    if (r == 0)
        return 0;
    if (r < 0) {
        /* The fault is this reply's; the commands behind it merely lose their connection. */
        drop_op(op, r, reader_error(conn));
        fail_stream(conn, ARN_ECONN, "Connection closed: a reply before could not be read.");
        return -1;
    }
    if (op->got < op->replies)
        return 1;

    used = conn->bytes_in - arn__redis_reader_pending(conn->reader);
    arn__redis_client_note_size(op, (size_t)(used - conn->bytes_used));
    conn->bytes_used = used;
    atomic_fetch_add_explicit(&conn->client->stats.replies, op->replies, memory_order_relaxed);
    drop_op(op, ARN_OK, NULL);
    return 1;
}

static void after_replies(arn_redis_conn *conn) {
    if (holds_back(conn))
        cut(conn, 1); /* a reply may have been in the way */
    if (conn->state != ARN_REDIS_READY || end_if_unwanted(conn) || !arn_queue_empty(&conn->sent))
        return;
    arm(conn); /* what is still queued may be overdue first */
    if (conn->role == ARN_REDIS_DEDICATED && arn_queue_empty(&conn->queued))
        arn__redis_client_unused(conn);
}

static void on_data(void *owner, const char *data, size_t len) {
    arn_redis_conn *conn = owner;
    arn_stream *stream = conn->stream;
    int r = 1;

    conn->in_data++;
    conn->bytes_in += len;
    conn->last_read = now_of(conn);
    atomic_fetch_add_explicit(&conn->client->stats.bytes_in, len, memory_order_relaxed);
    if (conn->state == ARN_REDIS_READY)
        conn->client->failures = 0;
    arn__redis_reader_feed(conn->reader, data, len);
    while (r > 0 && conn->stream == stream && !conn->doomed) {
        if (conn->state != ARN_REDIS_READY) {
            r = read_own_reply(conn);
        } else if (!arn_queue_empty(&conn->sent)) {
            r = read_op_reply(conn);
        } else {
            if (arn__redis_reader_pending(conn->reader) > 0)
                broke(conn, ARN_EPROTO, "Protocol Error: unexpected data from the server");
            break;
        }
    }
    conn->in_data--;
    if (conn->doomed)
        conn_free(conn);
    else if (r >= 0 && conn->stream == stream)
        after_replies(conn);
}

int arn__redis_conn_in_large(const arn_redis_conn *conn) {
    return conn->reader != NULL &&
           conn->bytes_in - conn->bytes_used > conn->client->config.large_bytes;
}

/* ---- writing ---- */

static void unref_op(void *op) {
    arn_op_unref(op);
}

static int append_ref(arn_redis_conn *conn, arn_redis_op *op, const char *data, size_t len) {
    int r;

    arn_op_ref(&op->base);
    r = arn__stream_append_ref(conn->stream, data, len, unref_op, &op->base);
    if (r != ARN_OK)
        arn_op_unref(&op->base);
    return r;
}

static int append(arn_redis_conn *conn, arn_redis_op *op) {
    int r;

    if (op->len <= COPY_MAX)
        return arn__stream_append(conn->stream, op->request, op->len);
    if (op->payload.len == 0)
        return append_ref(conn, op, op->request, op->len);
    r = append_ref(conn, op, op->request, op->payload_at);
    if (r == ARN_OK)
        r = append_ref(conn, op, op->payload.data, op->payload.len);
    if (r == ARN_OK)
        r = append_ref(conn, op, op->request + op->payload_at,
                       op->len - op->payload.len - op->payload_at);
    return r;
}

static void send_ping(arn_redis_conn *conn) {
    const arn_redis_config *config = &conn->client->config;
    static const char ping[] = "*1\r\n$4\r\nPING\r\n";
    uint64_t limit = config->timeout_ms != 0 ? config->timeout_ms : config->connect_timeout_ms;

    conn->state = ARN_REDIS_CHECKING;
    conn->connect_by = limit != 0 ? now_of(conn) + limit : 0;
    conn->unsent += sizeof(ping) - 1;
    if (arn__stream_append(conn->stream, ping, sizeof(ping) - 1) != ARN_OK) {
        broke(conn, ARN_ENOMEM, NULL);
        return;
    }
    arn__stream_flush(conn->stream);
    arm(conn);
}

static int needs_check(const arn_redis_conn *conn) {
    uint64_t interval = conn->client->config.health_check_ms;

    return interval != 0 && now_of(conn) - conn->last_read >= interval;
}

void arn__redis_conn_pump(arn_redis_conn *conn) {
    int need_timer = 0;

    if (conn->state != ARN_REDIS_READY)
        return;
    if (holds_back(conn)) { /* that first comes to its end, see on_timer() */
        arm(conn);
        return;
    }
    if (!arn_queue_empty(&conn->queued) && arn_queue_empty(&conn->sent)) {
        /* A server that has gone away meanwhile must not cost a command. Not on a fresh connection:
         * a server that closes each at once would be tried for ever. */
        if (now_of(conn) > conn->last_read && !arn__stream_is_alive(conn->stream)) {
            check_failed(conn, ARN_ECONN, "Connection closed by server.");
            return;
        }
        if (needs_check(conn)) {
            send_ping(conn);
            return;
        }
    }
    while (conn->unsent < UNSENT_MAX && !arn_queue_empty(&conn->queued)) {
        arn_redis_op *op = op_of(conn->queued.next);

        if (arn_op_is_cancelled(&op->base)) {
            drop_op(op, ARN_ECANCELED, NULL);
            continue;
        }
        if (op->route == ARN_REDIS_LEASE && op->session->released) {
            drop_op(op, ARN_ECLOSED, NULL);
            continue;
        }
        if (op->route == ARN_REDIS_EXPRESS) {
            int fd = arn__stream_dup(conn->stream);
            op->base.value.kind = ARN_INT;
            op->base.value.u.integer = fd;
            conn->discard = 1; /* this end of it; the socket lives on in the copy */
            drop_op(op, fd < 0 ? ARN_ECONN : ARN_OK, NULL);
            continue;
        }
        if (op->route == ARN_REDIS_LEASE) {
            op->session->conn = conn;
            conn->session = op->session;
            arn_redis_session_ref(conn->session);
            atomic_store(&op->session->open, 1);
            drop_op(op, ARN_OK, NULL);
            continue;
        }
        if (append(conn, op) != ARN_OK) {
            /* A part of the request may be in the stream: it must not be completed by another. */
            drop_op(op, ARN_ENOMEM, NULL);
            broke(conn, ARN_ENOMEM, NULL);
            return;
        }
        if (op->route == ARN_REDIS_DISCARD)
            conn->discard = 1;
        conn->unsent += op->len;
        conn->appended += op->len;
        op->ends_at = conn->appended;
        if (arn_queue_empty(&conn->sent))
            conn->sent_since = now_of(conn);
        op->base.state = ARN_OP_SENT;
        arn_queue_remove(&op->base.node);
        arn_queue_push(&conn->sent, &op->base.node);
        need_timer |= op->base.deadline != 0;
    }
    arn__stream_flush(conn->stream);
    need_timer |= !arn_queue_empty(&conn->queued);
    if (need_timer && !uv_is_active((uv_handle_t *)conn->timer))
        arm(conn);
    if (conn->role == ARN_REDIS_DEDICATED && arn_queue_empty(&conn->queued) &&
        arn_queue_empty(&conn->sent))
        arn__redis_client_unused(conn);
}

static void on_sent(void *owner, size_t n) {
    arn_redis_conn *conn = owner;

    conn->unsent -= n < conn->unsent ? n : conn->unsent;
    atomic_fetch_add_explicit(&conn->client->stats.bytes_out, n, memory_order_relaxed);
    if (!arn_queue_empty(&conn->queued) && conn->unsent < UNSENT_MAX / 2)
        arn__redis_client_pump_later(conn);
}

/* ---- connecting ---- */

static void on_open(void *owner) {
    arn_redis_conn *conn = owner;
    int n;

    conn->state = ARN_REDIS_HANDSHAKE;
    n = arn__redis_setup_send(conn);
    if (n < 0) {
        connect_failed(conn, n, NULL);
        return;
    }
    conn->setup_expect = (uint32_t)n;
    conn->setup_got = 0;
    if (n == 0)
        became_ready(conn);
    else
        arn__stream_flush(conn->stream);
}

static void on_error(void *owner, int uv_error) {
    arn_redis_conn *conn = owner;
    char message[384];

    if (uv_error == UV_ENOMEM || uv_error == UV_EAI_MEMORY) {
        fail_stream(conn, ARN_ENOMEM, NULL);
        return;
    }
    describe(conn, uv_error, message, sizeof(message));
    fail_stream(conn, uv_error == UV_ETIMEDOUT && !conn->was_ready ? ARN_ECONNTIMEDOUT : ARN_ECONN,
                message);
}

static char *get_space(void *owner, size_t *len) {
    arn_redis_conn *conn = owner;

    return arn__redis_reader_space(conn->reader, len);
}

static const arn_stream_events events = {on_open, get_space, on_data, on_sent, on_error};

static void start_connecting(arn_redis_conn *conn) {
    arn_redis_client *client = conn->client;

    conn->state = ARN_REDIS_CONNECTING;
    conn->bytes_in = conn->bytes_used = 0;
    conn->connect_by = client->config.connect_timeout_ms != 0
                           ? now_of(conn) + client->config.connect_timeout_ms
                           : 0;
    conn->reader = arn__redis_reader_new();
    if (conn->reader != NULL)
        conn->stream = arn__stream_open(client->rt, &client->target, &events, conn);
    if (conn->stream == NULL) {
        connect_failed(conn, ARN_ENOMEM, NULL);
        return;
    }
    atomic_fetch_add_explicit(&client->stats.connects, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&client->stats.connections, 1, memory_order_relaxed);
    arm(conn);
}

void arn__redis_conn_start(arn_redis_conn *conn) {
    if (conn->state != ARN_REDIS_IDLE)
        return;
    if (now_of(conn) < conn->client->not_before) {
        conn->state = ARN_REDIS_BACKOFF;
        arm(conn);
    } else {
        start_connecting(conn);
    }
}

void arn__redis_conn_submit(arn_redis_conn *conn, arn_redis_op *op) {
    op->conn = conn;
    arn_queue_push(&conn->queued, &op->base.node);
    if (conn->state == ARN_REDIS_READY)
        arn__redis_client_pump_later(conn); /* one write for all ops of this turn */
    else if (conn->state == ARN_REDIS_IDLE)
        arn__redis_conn_start(conn);
    else if (op->base.deadline != 0)
        arm(conn);
}

arn_redis_conn *arn__redis_conn_new(arn_redis_client *client, arn_redis_role role) {
    arn_redis_conn *conn = arn_calloc(1, sizeof(*conn));

    if (conn == NULL)
        return NULL;
    conn->timer = arn__timer_new(client->rt, conn);
    if (conn->timer == NULL) {
        arn_free(conn);
        return NULL;
    }
    conn->client = client;
    conn->role = role;
    conn->state = ARN_REDIS_IDLE;
    arn_queue_init(&conn->node);
    arn_queue_init(&conn->dirty);
    arn_queue_init(&conn->queued);
    arn_queue_init(&conn->sent);
    arn_arena_init(&conn->scratch, NULL, 0);
    return conn;
}
