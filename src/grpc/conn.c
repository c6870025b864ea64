#include "base/alloc.h"
#include "base/status.h"
#include "grpc/internal.h"
#include "io/timer.h"

#include <stdio.h>
#include <string.h>

/* So many pings without a call in between, as gRPC's own clients: servers take more of them for an
 * attack. */
#define PINGS_MAX 2u

/* ---- ends ---- */

static int was_sent(const arn_grpc_conn *conn, const arn_grpc_op *op) {
    return conn->session.written > op->begins;
}

void arn__grpc_conn_end(arn_grpc_conn *conn, int code, const char *details) {
    arn_grpc_channel *channel = conn->channel;
    arn_queue unsent;
    arn_grpc_op *op;

    arn_queue_init(&unsent);
    arn_queue_remove(&conn->node);
    channel->conn_count--;
    while (conn->session.h2 != NULL && (op = arn__grpc_session_pop(&conn->session)) != NULL) {
        if (was_sent(conn, op)) {
            arn__grpc_call_fail(op, code,
                                arn_arena_copy(&op->base.arena, details, strlen(details)));
            arn__grpc_channel_finish(channel, op);
        } else {
            arn_queue_push_front(&unsent, &op->base.node);
        }
    }
    while (!arn_queue_empty(&unsent)) /* the last one first: they end up in their order */
        arn__grpc_channel_again(channel,
                                ARN_CONTAINER_OF(arn_queue_pop(&unsent), arn_grpc_op, base.node));
    if (conn->stream != NULL)
        arn__stream_close(conn->stream);
    if (conn->session.h2 != NULL)
        arn__grpc_session_close(&conn->session);
    arn_free(conn);
    arn__grpc_channel_kick(channel); /* what waits may need another one */
}

/* It has failed: as an attempt, or as a connection. */
static void fail(arn_grpc_conn *conn, const char *why) {
    arn_grpc_channel *channel = conn->channel;
    int was_ready = conn->is_ready;
    char text[400];

    snprintf(text, sizeof(text),
             was_ready ? "the connection to %s was lost: %s" : "failed to connect to %s: %s",
             channel->label, why);
    arn__grpc_conn_end(conn, ARN_GRPC_UNAVAILABLE, text);
    if (!was_ready)
        arn__grpc_channel_unreachable(channel, text);
}

static void fail_session(arn_grpc_conn *conn, int status) {
    char text[280];

    if (status == ARN_EPROTO && conn->session.error[0] != '\0') {
        snprintf(text, sizeof(text), "%s%s", conn->session.error,
                 conn->is_ready                      ? ""
                 : conn->channel->config.tls != NULL ? " (is it a gRPC server?)"
                                                     : " (is it a gRPC server, and without TLS?)");
        fail(conn, text);
        return;
    }
    fail(conn, arn_status_message(status));
}

/* ---- the session's events ---- */

static int on_write(void *owner, const char *data, size_t len) {
    return arn__stream_append(((arn_grpc_conn *)owner)->stream, data, len);
}

static int on_write_ref(void *owner, const char *data, size_t len, void (*release)(void *),
                        void *arg) {
    return arn__stream_append_ref(((arn_grpc_conn *)owner)->stream, data, len, release, arg);
}

static void on_end(void *owner, arn_grpc_op *op) {
    arn__grpc_channel_finish(((arn_grpc_conn *)owner)->channel, op);
}

static void on_refused(void *owner, arn_grpc_op *op) {
    arn__grpc_channel_again(((arn_grpc_conn *)owner)->channel, op);
}

static void on_settings(void *owner) {
    arn_grpc_conn *conn = owner;

    if (!conn->is_ready) {
        conn->is_ready = 1;
        conn->used = arn__grpc_now(conn->channel);
        arn__grpc_channel_reached(conn->channel);
        if (conn->channel->config.idle_ms != 0 && conn->channel->conn_count > 1)
            arn__grpc_channel_due(conn->channel, conn->used + conn->channel->config.idle_ms);
    }
}

static void on_goaway(void *owner, uint32_t error) {
    arn_grpc_channel *channel = ((arn_grpc_conn *)owner)->channel;

    /* As gRPC's own clients: the server thinks that we ask too often whether it is there. */
    if (error == NGHTTP2_ENHANCE_YOUR_CALM && channel->keepalive_ms < UINT64_MAX / 4)
        channel->keepalive_ms *= 2;
}

static void on_pong(void *owner) {
    arn_grpc_conn *conn = owner;

    conn->ping_by = 0;
    arn__grpc_channel_due(conn->channel, conn->last_read + conn->channel->keepalive_ms);
}

static const arn_grpc_session_events session_events = {
    on_write, on_write_ref, on_end, on_refused, on_settings, on_goaway, on_pong,
};

/* ---- the stream's events ---- */

static void on_open(void *owner) {
    arn_grpc_conn *conn = owner;

    if (arn__grpc_session_open(&conn->session, &session_events, conn) != 0) {
        fail(conn, arn_status_message(ARN_ENOMEM));
        return;
    }
    arn__grpc_channel_kick(conn->channel);
}

static void on_data(void *owner, const char *data, size_t len) {
    arn_grpc_conn *conn = owner;
    int r;

    conn->last_read = arn__grpc_now(conn->channel);
    r = arn__grpc_session_feed(&conn->session, data, len);
    if (r != 0)
        fail_session(conn, r);
    else
        arn__grpc_channel_kick(conn->channel);
}

static void on_sent(void *owner, size_t n) {
    arn_grpc_conn *conn = owner;

    conn->session.written += n;
    if (conn->session.is_held)
        arn__grpc_channel_kick(conn->channel);
}

static void on_error(void *owner, int error) {
    arn_grpc_conn *conn = owner;
    char text[280];

    const char *why = arn__stream_why(conn->stream);

    if (why != NULL) {
        snprintf(text, sizeof(text), "%s", why);
    } else if (error == UV_EOF) {
        snprintf(text, sizeof(text), "%s",
                 conn->session.error[0] != '\0' ? conn->session.error
                 : conn->is_ready               ? "the server has closed it"
                                  : "the server closes the connection at once (does it expect TLS, "
                                    "or a client certificate?)");
    } else {
        snprintf(text, sizeof(text), "%s%s", uv_strerror(error),
                 conn->is_ready ? "" : " (is the server running, and are host and port right?)");
    }
    fail(conn, text);
}

static const arn_stream_events stream_events = {on_open, NULL, on_data, on_sent, on_error};

/* ---- life ---- */

arn_grpc_conn *arn__grpc_conn_new(arn_grpc_channel *channel) {
    arn_grpc_conn *conn = arn_calloc(1, sizeof(*conn));

    if (conn == NULL)
        return NULL;
    conn->channel = channel;
    arn_queue_init(&conn->session.calls);
    conn->last_read = arn__grpc_now(channel);
    if (channel->config.connect_ms != 0)
        conn->connect_by = conn->last_read + channel->config.connect_ms;
    conn->stream = arn__stream_open(channel->rt, &channel->target, &stream_events, conn);
    if (conn->stream == NULL) {
        arn_free(conn);
        return NULL;
    }
    arn_queue_push(&channel->conns, &conn->node);
    channel->conn_count++;
    arn__grpc_channel_due(channel, conn->connect_by);
    return conn;
}

void arn__grpc_conn_started(arn_grpc_conn *conn, uint64_t now) {
    uint64_t silent = conn->channel->keepalive_ms;

    conn->used = now;
    conn->pings = 0;
    if (silent == 0 || conn->ping_by != 0)
        return;
    /* Nothing has been heard for long, so it may be dead: ask along with the call. */
    if (conn->last_read + silent <= now && arn__grpc_session_ping(&conn->session) == 0) {
        conn->pings++;
        conn->ping_by = now + conn->channel->config.keepalive_timeout_ms;
        silent = conn->channel->config.keepalive_timeout_ms;
    }
    arn__grpc_channel_due(conn->channel, now + silent);
}

int arn__grpc_conn_flush(arn_grpc_conn *conn) {
    arn_grpc_session *s = &conn->session;
    int r;

    if (s->h2 == NULL)
        return 0;
    r = arn__grpc_session_flush(s);
    if (r != 0) {
        fail_session(conn, r);
        return -1;
    }
    arn__stream_flush(conn->stream);
    if (s->is_draining && s->count == 0) {
        arn__grpc_conn_end(conn, ARN_GRPC_UNAVAILABLE, "");
        return -1;
    }
    if (arn__grpc_session_is_over(s)) {
        fail_session(conn, ARN_EPROTO);
        return -1;
    }
    return 0;
}

int arn__grpc_conn_tick(arn_grpc_conn *conn, uint64_t now, uint64_t *next) {
    uint64_t idle_since;
    char text[120];

    if (!conn->is_ready) {
        if (conn->connect_by != 0 && conn->connect_by <= now) {
            fail(conn, "timed out (is the address right, is it reachable?)");
            return -1;
        }
        *next = arn__sooner(*next, conn->connect_by);
        return 0;
    }
    if (conn->ping_by != 0) {
        if (conn->ping_by > now) {
            *next = arn__sooner(*next, conn->ping_by);
            return 0;
        }
        if (conn->last_read + conn->channel->config.keepalive_timeout_ms <= now) {
            snprintf(text, sizeof(text), "no answer to a keepalive ping within %llu ms",
                     (unsigned long long)conn->channel->config.keepalive_timeout_ms);
            fail(conn, text);
            return -1;
        }
        conn->ping_by = 0; /* something came, which is as good */
    }
    if (conn->channel->keepalive_ms == 0)
        return 0;
    if (conn->pings >= PINGS_MAX)
        return 0; /* the next call sees to it */
    idle_since = conn->last_read + conn->channel->keepalive_ms;
    if (idle_since > now) {
        *next = arn__sooner(*next, idle_since);
        return 0;
    }
    if (arn__grpc_session_ping(&conn->session) == 0) {
        conn->pings++;
        conn->ping_by = now + conn->channel->config.keepalive_timeout_ms;
        arn__grpc_channel_kick(conn->channel);
    }
    *next = arn__sooner(*next, now + conn->channel->config.keepalive_timeout_ms);
    return 0;
}
