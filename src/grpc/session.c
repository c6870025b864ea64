#include "base/alloc.h"
#include "base/status.h"
#include "grpc/internal.h"

#include <stdio.h>
#include <string.h>

/* What the server may send before it hears from us: replies are wanted as fast as they come, and
 * they are bounded by what was asked for. */
#define WINDOW (1 << 30)
#define FRAME_MAX (1u << 20)
#define HEADER_LIST_MAX (64u * 1024u)

/* Bytes that may wait to be written: what is behind them can be cancelled without a trace, and
 * small calls get in between. */
#define UNSENT_MAX (1024u * 1024u)
/* Messages up to this size are copied into their frame; larger ones are written from the op. */
#define COPY_MAX 4096u

/* Headers on the stack. */
#define NV_MAX 48

static arn_grpc_op *op_of(arn_queue *node) {
    return ARN_CONTAINER_OF(node, arn_grpc_op, base.node);
}

static arn_grpc_op *find(arn_grpc_session *s, int32_t stream) {
    return nghttp2_session_get_stream_user_data(s->h2, stream);
}

/* ---- the ends of calls ---- */

static void forget(arn_grpc_session *s, arn_grpc_op *op) {
    nghttp2_session_set_stream_user_data(s->h2, op->stream, NULL);
    arn_queue_remove(&op->base.node);
    op->session = NULL;
    s->count--;
}

static void reset_stream(arn_grpc_session *s, arn_grpc_op *op) {
    /* Fails only for want of memory: then the reply comes and finds nobody. */
    nghttp2_submit_rst_stream(s->h2, NGHTTP2_FLAG_NONE, op->stream, NGHTTP2_CANCEL);
}

/* The reply is there, or what has come of it is enough. */
static void end(arn_grpc_session *s, arn_grpc_op *op, int is_open) {
    if (is_open)
        reset_stream(s, op);
    forget(s, op);
    s->events->on_end(s->owner, op);
}

static void drop_abandoned(arn_grpc_session *s, arn_grpc_op *op) {
    forget(s, op);
    arn_op_unref(&op->base);
}

void arn__grpc_session_cancel(arn_grpc_session *s, arn_grpc_op *op) {
    reset_stream(s, op);
    if (op->is_framed) {
        forget(s, op);
        return;
    }
    /* nghttp2 has yet to read the headers, or to see that it need not. */
    op->is_abandoned = 1;
    op->session = NULL;
    arn_op_ref(&op->base);
}

arn_grpc_op *arn__grpc_session_pop(arn_grpc_session *s) {
    while (!arn_queue_empty(&s->calls)) {
        arn_grpc_op *op = op_of(s->calls.next);
        if (!op->is_abandoned) {
            forget(s, op);
            return op;
        }
        drop_abandoned(s, op);
    }
    return NULL;
}

/* ---- what nghttp2 tells ---- */

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *arg) {
    arn_grpc_session *s = arg;
    arn_grpc_op *op = find(s, frame->hd.stream_id);
    int is_last = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;

    (void)h2;
    (void)flags;
    if (op != NULL && arn__grpc_call_header(op, (const char *)name, name_len, (const char *)value,
                                            value_len, is_last) == ARN_GRPC_ENDED)
        end(s, op, 1);
    return 0;
}

static int on_data_chunk(nghttp2_session *h2, uint8_t flags, int32_t stream, const uint8_t *data,
                         size_t len, void *arg) {
    arn_grpc_session *s = arg;
    arn_grpc_op *op = find(s, stream);

    (void)h2;
    (void)flags;
    if (op != NULL && arn__grpc_call_data(op, (const char *)data, len) == ARN_GRPC_ENDED)
        end(s, op, 1);
    return 0;
}

static void on_goaway(arn_grpc_session *s, const nghttp2_goaway *frame) {
    s->is_draining = 1;
    if (frame->error_code != NGHTTP2_NO_ERROR)
        snprintf(s->error, sizeof(s->error), "the server has ended the connection: %s %.*s",
                 nghttp2_http2_strerror(frame->error_code),
                 (int)(frame->opaque_data_len < 80 ? frame->opaque_data_len : 80),
                 frame->opaque_data_len > 0 ? (const char *)frame->opaque_data : "");
    s->events->on_goaway(s->owner, frame->error_code);
}

static int on_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *arg) {
    arn_grpc_session *s = arg;
    arn_grpc_op *op;

    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA:
        op = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) ? find(s, frame->hd.stream_id) : NULL;
        if (op != NULL) {
            arn__grpc_call_complete(op);
            /* The server may have answered without all of the request. */
            end(s, op, nghttp2_session_get_stream_local_close(h2, op->stream) == 0);
        }
        break;
    case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) {
            s->has_settings = 1;
            s->events->on_settings(s->owner);
        }
        break;
    case NGHTTP2_PING:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK)
            s->events->on_pong(s->owner);
        break;
    case NGHTTP2_GOAWAY:
        on_goaway(s, &frame->goaway);
        break;
    default:
        break;
    }
    return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t stream, uint32_t error, void *arg) {
    arn_grpc_session *s = arg;
    arn_grpc_op *op = find(s, stream);

    (void)h2;
    if (op == NULL)
        return 0;
    if (op->is_abandoned) {
        drop_abandoned(s, op);
        return 0;
    }
    forget(s, op);
    if (error == NGHTTP2_REFUSED_STREAM) {
        s->events->on_refused(s->owner, op);
        return 0;
    }
    arn__grpc_call_reset(op, error);
    s->events->on_end(s->owner, op);
    return 0;
}

static int on_frame_send(nghttp2_session *h2, const nghttp2_frame *frame, void *arg) {
    arn_grpc_session *s = arg;
    arn_grpc_op *op = frame->hd.type == NGHTTP2_HEADERS ? find(s, frame->hd.stream_id) : NULL;

    (void)h2;
    if (op == NULL)
        return 0;
    op->is_framed = 1;
    if (op->is_abandoned)
        drop_abandoned(s, op);
    return 0;
}

/* A request that nghttp2 could not send, or that was cancelled in its queue. It may not even have
 * become a stream. */
static int on_frame_not_send(nghttp2_session *h2, const nghttp2_frame *frame, int error,
                             void *arg) {
    arn_grpc_session *s = arg;
    arn_queue *node;

    (void)h2;
    if (frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    for (node = s->calls.next; node != &s->calls; node = node->next) {
        arn_grpc_op *op = op_of(node);
        if (op->stream != frame->hd.stream_id)
            continue;
        if (op->is_abandoned) {
            drop_abandoned(s, op);
            break;
        }
        forget(s, op);
        if (error == NGHTTP2_ERR_FRAME_SIZE_ERROR) {
            arn__grpc_call_fail(op, ARN_GRPC_RESOURCE_EXHAUSTED,
                                "the call's metadata is larger than 64 KB");
            s->events->on_end(s->owner, op);
        } else {
            s->events->on_refused(s->owner, op); /* the connection takes no more */
        }
        break;
    }
    return 0;
}

static int on_error(nghttp2_session *h2, int code, const char *message, size_t len, void *arg) {
    arn_grpc_session *s = arg;

    (void)h2;
    (void)code;
    if (s->error[0] == '\0')
        snprintf(s->error, sizeof(s->error), "%.*s", (int)len, message);
    return 0;
}

/* ---- the request's message ---- */

static ssize_t read_message(nghttp2_session *h2, int32_t stream, uint8_t *to, size_t room,
                            uint32_t *flags, nghttp2_data_source *source, void *arg) {
    arn_grpc_op *op = find(arg, stream);
    size_t left, n, done;

    (void)h2;
    (void)source;
    if (op == NULL || op->is_abandoned)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    left = arn__grpc_call_left(op);
    n = left < room ? left : room;
    if (n == left)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (op->message.len > COPY_MAX) {
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
        return (ssize_t)n;
    }
    for (done = 0; done < n;) {
        char prefix[ARN_GRPC_PREFIX];
        arn_slice piece = arn__grpc_call_next(op, prefix);
        size_t len = piece.len < n - done ? piece.len : n - done;
        memcpy(to + done, piece.data, len);
        op->sent += len;
        done += len;
    }
    return (ssize_t)n;
}

static void release_op(void *op) {
    arn_op_unref(&((arn_grpc_op *)op)->base);
}

static int write_out(arn_grpc_session *s, const char *data, size_t len) {
    int r = s->events->write(s->owner, data, len);

    if (r == 0)
        s->appended += len;
    else
        s->has_failed = r;
    return r;
}

static int write_piece(arn_grpc_session *s, arn_grpc_op *op, const char *data, size_t len) {
    int r;

    arn_op_ref(&op->base);
    r = s->events->write_ref(s->owner, data, len, release_op, op);
    if (r == 0) {
        s->appended += len;
        return 0;
    }
    arn_op_unref(&op->base);
    s->has_failed = r;
    return r;
}

static int send_message(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *head, size_t len,
                        nghttp2_data_source *source, void *arg) {
    arn_grpc_session *s = arg;
    arn_grpc_op *op = find(s, frame->hd.stream_id);

    (void)h2;
    (void)source;
    if (op == NULL)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (write_out(s, (const char *)head, 9) != 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    while (len > 0) {
        char prefix[ARN_GRPC_PREFIX];
        arn_slice piece = arn__grpc_call_next(op, prefix);
        size_t n = piece.len < len ? piece.len : len;
        int r = op->sent < ARN_GRPC_PREFIX ? write_out(s, piece.data, n)
                                           : write_piece(s, op, piece.data, n);
        if (r != 0)
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        op->sent += n;
        len -= n;
    }
    return 0;
}

/* ---- life ---- */

static void *mem_malloc(size_t size, void *arg) {
    (void)arg;
    return arn_malloc(size);
}

static void mem_free(void *p, void *arg) {
    (void)arg;
    arn_free(p);
}

static void *mem_calloc(size_t count, size_t size, void *arg) {
    (void)arg;
    return arn_calloc(count, size);
}

static void *mem_realloc(void *p, size_t size, void *arg) {
    (void)arg;
    return arn_realloc(p, size);
}

static int make_h2(arn_grpc_session *s) {
    static nghttp2_mem mem = {NULL, mem_malloc, mem_free, mem_calloc, mem_realloc};
    nghttp2_session_callbacks *callbacks;
    int r;

    if (nghttp2_session_callbacks_new(&callbacks) != 0)
        return ARN_ENOMEM;
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_send);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, send_message);
    nghttp2_session_callbacks_set_error_callback2(callbacks, on_error);
    r = nghttp2_session_client_new3(&s->h2, callbacks, s, NULL, &mem);
    nghttp2_session_callbacks_del(callbacks);
    return r == 0 ? 0 : ARN_ENOMEM;
}

int arn__grpc_session_open(arn_grpc_session *s, const arn_grpc_session_events *events,
                           void *owner) {
    static const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, FRAME_MAX},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_LIST_MAX},
    };

    memset(s, 0, sizeof(*s));
    arn_queue_init(&s->calls);
    s->events = events;
    s->owner = owner;
    if (make_h2(s) != 0)
        return ARN_ENOMEM;
    if (nghttp2_submit_settings(s->h2, NGHTTP2_FLAG_NONE, settings,
                                sizeof(settings) / sizeof(settings[0])) != 0 ||
        nghttp2_session_set_local_window_size(s->h2, NGHTTP2_FLAG_NONE, 0, WINDOW) != 0) {
        arn__grpc_session_close(s);
        return ARN_ENOMEM;
    }
    return 0;
}

void arn__grpc_session_close(arn_grpc_session *s) {
    nghttp2_session_del(s->h2);
    s->h2 = NULL;
}

/* ---- starting calls ---- */

int arn__grpc_session_is_full(const arn_grpc_session *s) {
    return s->count >=
           nghttp2_session_get_remote_settings(s->h2, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
}

int arn__grpc_session_has_room(const arn_grpc_session *s) {
    return s->has_settings && !s->is_draining && s->appended - s->written < UNSENT_MAX &&
           !arn__grpc_session_is_full(s);
}

int arn__grpc_session_start(arn_grpc_session *s, arn_grpc_op *op) {
    nghttp2_data_provider provider = {{0}, read_message};
    nghttp2_nv on_stack[NV_MAX];
    nghttp2_nv *nv = on_stack;
    size_t max = arn__grpc_call_nv_max(op);
    int32_t stream = NGHTTP2_ERR_NOMEM;

    if (max > NV_MAX)
        nv = arn_malloc(max * sizeof(*nv));
    if (nv != NULL)
        stream = nghttp2_submit_request(s->h2, NULL, nv, arn__grpc_call_nv(op, nv), &provider, op);
    if (nv != on_stack)
        arn_free(nv);
    if (stream < 0) {
        if (stream == NGHTTP2_ERR_NOMEM)
            return ARN_ENOMEM;
        s->is_draining = 1; /* a new connection has numbers for more streams */
        return ARN_EBUSY;
    }
    op->stream = stream;
    op->session = s;
    op->begins = s->appended;
    op->is_framed = 0;
    arn_queue_push(&s->calls, &op->base.node);
    s->count++;
    return 0;
}

void arn__grpc_session_retire(arn_grpc_session *s) {
    s->is_draining = 1;
    /* Fails only for want of memory: then the server just sees the end. */
    nghttp2_submit_goaway(s->h2, NGHTTP2_FLAG_NONE, 0, NGHTTP2_NO_ERROR, NULL, 0);
}

int arn__grpc_session_ping(arn_grpc_session *s) {
    return nghttp2_submit_ping(s->h2, NGHTTP2_FLAG_NONE, NULL) == 0 ? 0 : ARN_ENOMEM;
}

/* ---- bytes ---- */

static int verdict_of(ssize_t error) {
    return error == NGHTTP2_ERR_NOMEM ? ARN_ENOMEM : ARN_EPROTO;
}

int arn__grpc_session_feed(arn_grpc_session *s, const char *data, size_t len) {
    ssize_t n = nghttp2_session_mem_recv(s->h2, (const uint8_t *)data, len);

    if (n >= 0)
        return 0;
    if (s->error[0] == '\0')
        snprintf(s->error, sizeof(s->error), "%s", nghttp2_strerror((int)n));
    return verdict_of(n);
}

int arn__grpc_session_flush(arn_grpc_session *s) {
    s->is_held = 1;
    while (s->appended - s->written < UNSENT_MAX) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(s->h2, &data);

        if (s->has_failed != 0)
            return s->has_failed;
        if (n < 0)
            return verdict_of(n);
        if (n == 0) {
            s->is_held = 0;
            break;
        }
        if (write_out(s, (const char *)data, (size_t)n) != 0)
            return s->has_failed;
    }
    return 0;
}

int arn__grpc_session_is_over(const arn_grpc_session *s) {
    return !nghttp2_session_want_read(s->h2) && !nghttp2_session_want_write(s->h2);
}
