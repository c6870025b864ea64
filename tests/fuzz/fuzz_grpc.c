/* A hostile server's bytes into a session with calls under way: every call ends exactly once, and
 * one that ends well has a whole message. No socket, no io thread. */
#include "base/alloc.h"
#include "base/status.h"
#include "grpc/internal.h"
#include "io/port.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLS 4

#define CHECK(condition) ((condition) ? (void)0 : stop(#condition, __LINE__))

static void stop(const char *what, int line) {
    fprintf(stderr, "line %d: not so: %s\n", line, what);
    abort();
}

typedef struct fuzz {
    arn_grpc_session session;
    arn_grpc_channel *channel;
    arn_grpc_head *head;
    arn_port *port;
    arn_grpc_op *ops[CALLS]; /* the session's; NULL once they have ended */
    char frames[4096];
    size_t len;
} fuzz;

static char message[10000];

static void forget(fuzz *f, arn_grpc_op *op) {
    int i;

    for (i = 0; i < CALLS; i++)
        if (f->ops[i] == op)
            f->ops[i] = NULL;
}

static int on_write(void *owner, const char *data, size_t len) {
    (void)data;
    ((fuzz *)owner)->session.written += len;
    return 0;
}

static int on_write_ref(void *owner, const char *data, size_t len, void (*release)(void *),
                        void *arg) {
    on_write(owner, data, len);
    release(arg);
    return 0;
}

static void on_end(void *owner, arn_grpc_op *op) {
    forget(owner, op);
    if (op->reply.code == ARN_GRPC_OK)
        CHECK(op->reply.body.len == op->expected && op->expected >= ARN_GRPC_PREFIX);
    arn__grpc_call_finish(NULL, op);
}

static void on_refused(void *owner, arn_grpc_op *op) {
    arn__grpc_call_fail(op, ARN_GRPC_UNAVAILABLE, "refused");
    on_end(owner, op);
}

static void on_nothing(void *owner) {
    (void)owner;
}

static void on_goaway(void *owner, uint32_t error) {
    (void)owner;
    (void)error;
}

static const arn_grpc_session_events events = {
    on_write, on_write_ref, on_end, on_refused, on_nothing, on_goaway, on_nothing,
};

/* ---- frames ---- */

static void frame(fuzz *f, unsigned type, unsigned flags, uint32_t stream, const void *payload,
                  size_t len) {
    unsigned char head[9] = {
        (unsigned char)(len >> 16),    (unsigned char)(len >> 8),    (unsigned char)len,
        (unsigned char)type,           (unsigned char)flags,         (unsigned char)(stream >> 24),
        (unsigned char)(stream >> 16), (unsigned char)(stream >> 8), (unsigned char)stream};

    if (f->len + 9 + len > sizeof(f->frames))
        return;
    memcpy(f->frames + f->len, head, 9);
    if (len > 0)
        memcpy(f->frames + f->len + 9, payload, len);
    f->len += 9 + len;
}

static void start_call(fuzz *f) {
    arn_grpc_op *op;
    int i;

    for (i = 0; i < CALLS && f->ops[i] != NULL; i++)
        continue;
    if (i == CALLS || !arn__grpc_session_has_room(&f->session))
        return;
    op = arn_grpc_op_new(f->channel, f->head, NULL, 0);
    CHECK(op != NULL);
    op->message = (arn_slice){message, i % 2 == 0 ? 10 : sizeof(message)};
    arn_op_set_port(&op->base, f->port);
    arn_op_ref(&op->base);
    arn__grpc_call_begin(op, 1000);
    f->ops[i] = op;
    if (arn__grpc_session_start(&f->session, op) != 0)
        on_refused(f, op);
}

static void cancel_call(fuzz *f, int i) {
    arn_grpc_op *op = f->ops[i];

    if (op == NULL)
        return;
    arn__grpc_session_cancel(&f->session, op);
    arn__grpc_call_fail(op, ARN_GRPC_CANCELLED, "cancelled");
    on_end(f, op);
}

/* One record of the input: what it is, and what it takes. */
static size_t step(fuzz *f, const uint8_t *p, size_t left) {
    static const char good[] = "\x88\x5f\x10"
                               "application/grpc";
    static const char plain[] = "\x88";
    uint32_t stream = left > 1 ? 1 + 2 * (p[1] % 8u) : 1;
    size_t n = left > 3 ? p[3] : 0;
    char trailers[] = "\0\x0bgrpc-status\x01"
                      "0\0\x0cgrpc-message\x04%41x";

    n = left > 4 && n > left - 4 ? left - 4 : n;
    if (left < 5)
        n = 0;
    switch (p[0] % 24) {
    case 0: /* any frame */
        frame(f, left > 2 ? p[2] % 12u : 0, left > 2 ? p[2] / 12u : 0, p[0] > 127 ? 0 : stream,
              p + 4, n);
        return 4 + n;
    case 1:
        frame(f, NGHTTP2_HEADERS, 4, stream, good, sizeof(good) - 1);
        return 2;
    case 2:
        frame(f, NGHTTP2_HEADERS, left > 2 && p[2] > 127 ? 5 : 4, stream, plain, 1);
        return 3;
    case 3: /* trailers, of any status */
        trailers[14] = left > 2 ? (char)('0' + p[2] % 12) : '0';
        frame(f, NGHTTP2_HEADERS, 5, stream, trailers, 15);
        return 3;
    case 4:
        frame(f, NGHTTP2_HEADERS, 5, stream, trailers, sizeof(trailers) - 1);
        return 2;
    case 5: { /* a message with a prefix that may be true */
        char data[300] = {left > 2 ? (char)(p[2] / 100) : 0, 0, 0, 0, (char)n};
        if (n > 0)
            memcpy(data + 5, p + 4, n);
        frame(f, NGHTTP2_DATA, 0, stream, data, 5 + n);
        return 4 + n;
    }
    case 6:
        frame(f, NGHTTP2_DATA, left > 2 && p[2] > 200, stream, p + 4, n);
        return 4 + n;
    case 7:
        frame(f, NGHTTP2_RST_STREAM, 0, stream, (char[]){0, 0, 0, left > 2 ? (char)(p[2] % 16) : 0},
              4);
        return 3;
    case 8:
        frame(f, NGHTTP2_GOAWAY, 0, 0,
              (char[]){0, 0, 0, (char)stream, 0, 0, 0, left > 2 ? (char)(p[2] % 16) : 0, 'w', 'h'},
              10);
        return 3;
    case 9:
        frame(f, NGHTTP2_SETTINGS, 0, 0,
              (char[]){0, left > 2 ? (char)(p[2] % 7) : 0, 0, 0, left > 1 ? (char)p[1] : 0, 100},
              6);
        return 3;
    case 10:
        frame(f, NGHTTP2_WINDOW_UPDATE, 0, p[0] > 127 ? 0 : stream,
              (char[]){left > 2 ? (char)p[2] : 0, 0, 16, 1}, 4);
        return 3;
    case 11:
        frame(f, NGHTTP2_PING, left > 1 && p[1] > 127, 0, "12345678", 8);
        return 2;
    case 12:
    case 13:
        start_call(f);
        return 1;
    case 14:
        cancel_call(f, left > 1 ? p[1] % CALLS : 0);
        return 2;
    case 15:
        arn__grpc_session_ping(&f->session);
        return 1;
    case 16: /* raw bytes */
        if (f->len + n <= sizeof(f->frames) && n > 0) {
            memcpy(f->frames + f->len, p + 4, n);
            f->len += n;
        }
        return 4 + n;
    case 17: /* headers in a block of the input's own */
        frame(f, NGHTTP2_HEADERS, left > 2 ? p[2] & 0x2d : 4, stream, p + 4, n);
        return 4 + n;
    case 18: /* all of a reply, with a body that need not be one message */
        trailers[14] = left > 2 && p[2] > 100 ? '5' : '0';
        frame(f, NGHTTP2_HEADERS, 4, stream, good, sizeof(good) - 1);
        frame(f, NGHTTP2_DATA, 0, stream, "\0\0\0\0\3abc", left > 2 && p[2] % 4 == 0 ? 7 : 8);
        frame(f, NGHTTP2_HEADERS, 5, stream, trailers, sizeof(trailers) - 1);
        return 3;
    default:
        return 1;
    }
}

static int give(fuzz *f, size_t piece) {
    size_t at = 0;
    int r = 0;

    while (r == 0 && at < f->len) {
        size_t n = f->len - at < piece ? f->len - at : piece;
        r = arn__grpc_session_feed(&f->session, f->frames + at, n);
        at += n;
    }
    f->len = 0;
    return r != 0 ? r : arn__grpc_session_flush(&f->session);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    arn_grpc_config config = {.host = "h", .port = 1, .max_receive = 200, .max_connections = 1};
    fuzz *f = calloc(1, sizeof(*f));
    arn_grpc_op *op;
    arn_op *done;
    size_t at = 1;
    int status;

    if (size == 0) {
        free(f);
        return 0;
    }
    f->channel = arn_grpc_channel_new(NULL, &config);
    f->head = arn_grpc_head_new(&config, "/p.S/M", 6, NULL, 0);
    f->port = arn_port_new(ARN_PORT_WAIT, &status);
    CHECK(f->channel != NULL && f->head != NULL && f->port != NULL);
    CHECK(arn__grpc_session_open(&f->session, &events, f) == 0);
    frame(f, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    if (give(f, 9) == 0 && !arn__grpc_session_is_over(&f->session)) {
        start_call(f);
        start_call(f);
        arn__grpc_session_flush(&f->session);
        while (at < size) {
            at += step(f, data + at, size - at);
            if (data[0] % 4 != 0 || f->len > 2000 || at >= size)
                if (give(f, data[0] / 4 + 1u) != 0 || arn__grpc_session_is_over(&f->session))
                    break;
        }
    }
    while ((op = arn__grpc_session_pop(&f->session)) != NULL)
        on_refused(f, op);
    for (at = 0; at < CALLS; at++)
        CHECK(f->ops[at] == NULL);
    CHECK(f->session.count == 0);
    arn__grpc_session_close(&f->session);
    for (done = arn_port_take(f->port); done != NULL; done = op != NULL ? &op->base : NULL) {
        op = done->next_done == NULL ? NULL : ARN_CONTAINER_OF(done->next_done, arn_grpc_op, base);
        CHECK(atomic_load(&done->refs) == 1); /* nobody else holds it, and it came once */
        arn_op_unref(done);
    }
    arn_port_unref(f->port);
    arn_grpc_head_unref(f->head);
    arn_grpc_channel_unref(f->channel);
    free(f);
    return 0;
}
