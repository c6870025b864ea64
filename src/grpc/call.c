#include "base/alloc.h"
#include "base/base64.h"
#include "base/status.h"
#include "grpc/internal.h"

#include <stdio.h>
#include <string.h>

/* Trailers of one reply, all together. */
#define TRAILERS_MAX (64u * 1024u)

/* What a reply claims to be is reserved up to this size; a larger one grows as it comes. */
#define RESERVE_MAX (1024u * 1024u)

static int is_text(const char *s, size_t len, const char *text) {
    return len == strlen(text) && memcmp(s, text, len) == 0;
}

/* ---- headers of requests ---- */

static int is_binary(const char *name, size_t len) {
    return len > 4 && memcmp(name + len - 4, "-bin", 4) == 0;
}

int arn_grpc_metadata_is_bad(const char *name, size_t name_len, const char *value,
                             size_t value_len) {
    size_t i;

    if (name_len == 0 || (name_len >= 5 && memcmp(name, "grpc-", 5) == 0) ||
        is_text(name, name_len, "te") || is_text(name, name_len, "content-type") ||
        is_text(name, name_len, "user-agent") || is_text(name, name_len, "host") ||
        is_text(name, name_len, "connection"))
        return 1;
    for (i = 0; i < name_len; i++) {
        char c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.'))
            return 1;
    }
    for (i = 0; !is_binary(name, name_len) && i < value_len; i++)
        if (value[i] < 0x20 || value[i] > 0x7e)
            return 2;
    return 0;
}

static size_t sent_size(arn_slice name, arn_slice value) {
    return is_binary(name.data, name.len) ? arn_base64_encoded(value.len) : value.len;
}

static size_t metadata_size(const arn_slice *metadata, size_t count) {
    size_t size = 0;
    size_t i;

    for (i = 0; i < count; i++)
        size += metadata[2 * i].len + sent_size(metadata[2 * i], metadata[2 * i + 1]);
    return size;
}

/* A name and a value as they are sent, at `to`; returns what is behind them. */
static char *put_pair(char *to, arn_slice name, arn_slice value, arn_slice *out) {
    out[0] = (arn_slice){memcpy(to, name.data, name.len), name.len};
    to += name.len;
    out[1] = (arn_slice){to, sent_size(name, value)};
    if (is_binary(name.data, name.len))
        arn_base64_encode(value.data, value.len, to);
    else if (value.len > 0)
        memcpy(to, value.data, value.len);
    return to + out[1].len;
}

static void set_nv(nghttp2_nv *nv, arn_slice name, arn_slice value) {
    nv->name = (uint8_t *)name.data;
    nv->namelen = name.len;
    nv->value = (uint8_t *)value.data;
    nv->valuelen = value.len;
    nv->flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE;
}

static arn_slice slice_of(const char *text) {
    return (arn_slice){text, strlen(text)};
}

arn_grpc_head *arn_grpc_head_new(const arn_grpc_config *config, const char *path, size_t path_len,
                                 const arn_slice *metadata, size_t count) {
    char made[300];
    arn_slice all[8][2];
    const char *authority = config->authority;
    arn_grpc_head *head;
    size_t known = 0;
    size_t size = 0;
    size_t i;
    char *to;

    if (authority == NULL && config->host == NULL) {
        authority = "localhost";
    } else if (authority == NULL) {
        int is_v6 = strchr(config->host, ':') != NULL;
        snprintf(made, sizeof(made), is_v6 ? "[%s]:%d" : "%s:%d", config->host, config->port);
        authority = made;
    }
#define ADD(name, value) (all[known][0] = slice_of(name), all[known++][1] = (value))
    ADD(":method", slice_of("POST"));
    ADD(":scheme", slice_of(config->tls != NULL ? "https" : "http"));
    ADD(":path", ((arn_slice){path, path_len}));
    ADD(":authority", slice_of(authority));
    ADD("te", slice_of("trailers"));
    ADD("content-type", slice_of("application/grpc"));
    if (config->user_agent != NULL)
        ADD("user-agent", slice_of(config->user_agent));
#undef ADD
    for (i = 0; i < known; i++)
        size += all[i][0].len + all[i][1].len;
    size += metadata_size(metadata, count) + (known + count) * sizeof(head->nv[0]);
    head = arn_malloc(sizeof(*head) + size);
    if (head == NULL)
        return NULL;
    atomic_init(&head->refs, 1);
    head->count = known + count;
    to = (char *)(head->nv + head->count);
    for (i = 0; i < head->count; i++) {
        arn_slice out[2];
        if (i < known)
            to = put_pair(to, all[i][0], all[i][1], out);
        else
            to = put_pair(to, metadata[2 * (i - known)], metadata[2 * (i - known) + 1], out);
        set_nv(&head->nv[i], out[0], out[1]);
    }
    return head;
}

void arn_grpc_head_ref(arn_grpc_head *head) {
    atomic_fetch_add_explicit(&head->refs, 1, memory_order_relaxed);
}

void arn_grpc_head_unref(arn_grpc_head *head) {
    if (atomic_fetch_sub_explicit(&head->refs, 1, memory_order_acq_rel) == 1)
        arn_free(head);
}

/* ---- ops ---- */

static void destroy_op(arn_op *base) {
    arn_grpc_op *op = ARN_CONTAINER_OF(base, arn_grpc_op, base);
    arn_grpc_channel *channel = op->channel;

    arn_spares_give(&channel->spares, &op->reply.body);
    arn_buf_free(&op->reply.metadata);
    if (op->head != NULL)
        arn_grpc_head_unref(op->head);
    if (op->release != NULL)
        op->release(op->message_owner);
    arn_free(op);
    arn_grpc_channel_unref(channel);
}

arn_grpc_op *arn_grpc_op_new(arn_grpc_channel *channel, arn_grpc_head *head,
                             const arn_slice *metadata, size_t count) {
    size_t slices = 2 * count * sizeof(arn_slice);
    arn_grpc_op *op = arn_malloc(sizeof(*op) + slices + metadata_size(metadata, count));
    char *to;
    size_t i;

    if (op == NULL)
        return NULL;
    memset(op, 0, sizeof(*op));
    arn_op_init(&op->base, arn__grpc_channel_run, destroy_op, NULL, 0);
    op->base.on_cancel = arn__grpc_channel_cancel;
    to = (char *)op->metadata + slices;
    for (i = 0; i < count; i++)
        to = put_pair(to, metadata[2 * i], metadata[2 * i + 1], &op->metadata[2 * i]);
    op->metadata_count = count;
    op->channel = channel;
    op->head = head;
    arn_grpc_channel_ref(channel);
    if (head != NULL)
        arn_grpc_head_ref(head);
    return op;
}

arn_slice arn_grpc_reply_message(const arn_grpc_reply *reply) {
    return (arn_slice){reply->body.data + ARN_GRPC_PREFIX, reply->body.len - ARN_GRPC_PREFIX};
}

/* ---- io thread: one attempt ---- */

/* At most three digits, never less than what is left: so gRPC's own clients do it, and the header
 * is the same for most calls. */
static void write_timeout(char *out, size_t size, uint64_t ms) {
    static const char units[] = {'m', 'S', 'M', 'H'};
    static const uint64_t factors[] = {1000, 60, 60};
    uint64_t n = ms > 0 ? ms : 1;
    int unit = 0;

    while (unit < 3 && (n > 99999 || n % factors[unit] == 0)) {
        n = (n + factors[unit] - 1) / factors[unit];
        unit++;
    }
    if (n > 99999999)
        n = 99999999;
    snprintf(out, size, "%u%c", (unsigned)n, units[unit]);
}

void arn__grpc_call_begin(arn_grpc_op *op, uint64_t ms_left) {
    op->sent = 0;
    op->expected = 0;
    op->http_status = 0;
    op->has_status = 0;
    op->server_code = 0;
    op->is_foreign = 0;
    op->trailer_bytes = 0;
    op->details = NULL;
    op->reply.code = ARN_GRPC_OK;
    op->reply.body.len = 0;
    op->reply.metadata.len = 0;
    op->timeout[0] = '\0';
    if (ms_left != 0)
        write_timeout(op->timeout, sizeof(op->timeout), ms_left);
}

size_t arn__grpc_call_nv_max(const arn_grpc_op *op) {
    return op->head->count + op->metadata_count + 1;
}

size_t arn__grpc_call_nv(const arn_grpc_op *op, nghttp2_nv *nv) {
    size_t n = op->head->count;
    size_t i;

    memcpy(nv, op->head->nv, n * sizeof(*nv));
    if (op->timeout[0] != '\0')
        set_nv(&nv[n++], slice_of("grpc-timeout"), slice_of(op->timeout));
    /* Not for the table of the other calls' headers: it would be full of times and numbers. */
    for (i = 0; i < op->metadata_count; i++) {
        set_nv(&nv[n], op->metadata[2 * i], op->metadata[2 * i + 1]);
        nv[n++].flags |= NGHTTP2_NV_FLAG_NO_INDEX;
    }
    return n;
}

size_t arn__grpc_call_left(const arn_grpc_op *op) {
    return ARN_GRPC_PREFIX + op->message.len - op->sent;
}

arn_slice arn__grpc_call_next(arn_grpc_op *op, char prefix[ARN_GRPC_PREFIX]) {
    size_t len = op->message.len;

    if (op->sent >= ARN_GRPC_PREFIX)
        return (arn_slice){op->message.data + (op->sent - ARN_GRPC_PREFIX),
                           len - (op->sent - ARN_GRPC_PREFIX)};
    prefix[0] = 0; /* not compressed */
    prefix[1] = (char)(len >> 24);
    prefix[2] = (char)(len >> 16);
    prefix[3] = (char)(len >> 8);
    prefix[4] = (char)len;
    return (arn_slice){prefix + op->sent, ARN_GRPC_PREFIX - op->sent};
}

/* ---- io thread: the reply ---- */

void arn__grpc_call_fail(arn_grpc_op *op, int code, const char *details) {
    op->reply.code = code;
    op->details = details;
}

static arn_grpc_verdict fail(arn_grpc_op *op, int code, const char *details) {
    arn__grpc_call_fail(op, code, details);
    return ARN_GRPC_ENDED;
}

static arn_grpc_verdict out_of_memory(arn_grpc_op *op) {
    op->no_memory = 1;
    return fail(op, ARN_GRPC_RESOURCE_EXHAUSTED, NULL);
}

static int number_of(const char *value, size_t len) {
    int n = 0;
    size_t i;

    if (len == 0 || len > 6)
        return -1;
    for (i = 0; i < len; i++) {
        if (value[i] < '0' || value[i] > '9')
            return -1;
        n = n * 10 + (value[i] - '0');
    }
    return n;
}

static int hex_of(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-encoding undone; what is no such thing stays as it is. A NUL would end the text. */
static char *decoded(arn_grpc_op *op, const char *value, size_t len) {
    char *text = arn_arena_copy(&op->base.arena, value, len);
    char *to = text;
    size_t i;

    for (i = 0; text != NULL && i < len; i++) {
        int high = value[i] == '%' && len - i > 2 ? hex_of(value[i + 1]) : -1;
        int low = high >= 0 ? hex_of(value[i + 2]) : -1;
        if (low >= 0 && (high | low) != 0) {
            *to++ = (char)(high << 4 | low);
            i += 2;
        } else {
            *to++ = value[i];
        }
    }
    if (text != NULL)
        *to = '\0';
    return text;
}

static int keep_trailer(arn_grpc_op *op, const char *name, size_t name_len, const char *value,
                        size_t value_len) {
    arn_buf *buf = &op->reply.metadata;
    char *to = arn_buf_reserve(buf, name_len + value_len + 2);

    if (to == NULL)
        return ARN_ENOMEM;
    memcpy(to, name, name_len);
    to[name_len] = '\0';
    to += name_len + 1;
    memcpy(to, value, value_len);
    to[value_len] = '\0';
    buf->len += name_len + value_len + 2;
    return 0;
}

static int is_grpc(const char *type, size_t len) {
    static const char grpc[] = "application/grpc";
    size_t n = sizeof(grpc) - 1;

    return len >= n && memcmp(type, grpc, n) == 0 &&
           (len == n || type[n] == '+' || type[n] == ';' || type[n] == ' ');
}

arn_grpc_verdict arn__grpc_call_header(arn_grpc_op *op, const char *name, size_t name_len,
                                       const char *value, size_t value_len, int is_last) {
    if (is_text(name, name_len, ":status")) {
        op->http_status = number_of(value, value_len);
        op->is_foreign = op->http_status >= 200 && op->http_status != 200;
        return ARN_GRPC_GOES_ON;
    }
    if (is_text(name, name_len, "content-type")) {
        op->is_foreign |= !is_grpc(value, value_len);
        return ARN_GRPC_GOES_ON;
    }
    if (!is_last || is_text(name, name_len, "grpc-encoding") ||
        is_text(name, name_len, "grpc-accept-encoding"))
        return ARN_GRPC_GOES_ON;
    op->trailer_bytes += name_len + value_len + 32;
    if (op->trailer_bytes > TRAILERS_MAX)
        return fail(op, ARN_GRPC_RESOURCE_EXHAUSTED, "the reply's trailers are larger than 64 KB");
    if (is_text(name, name_len, "grpc-status")) {
        op->server_code = number_of(value, value_len);
        op->has_status = 1;
        return ARN_GRPC_GOES_ON;
    }
    if (is_text(name, name_len, "grpc-message")) {
        op->details = decoded(op, value, value_len);
        return op->details != NULL ? ARN_GRPC_GOES_ON : out_of_memory(op);
    }
    return keep_trailer(op, name, name_len, value, value_len) == 0 ? ARN_GRPC_GOES_ON
                                                                   : out_of_memory(op);
}

static const char *print(arn_grpc_op *op, const char *format, long long a, long long b) {
    char text[160];

    snprintf(text, sizeof(text), format, a, b);
    return arn_arena_copy(&op->base.arena, text, strlen(text));
}

/* The prefix is complete. */
static arn_grpc_verdict begin_message(arn_grpc_op *op) {
    arn_buf *body = &op->reply.body;
    const unsigned char *p = (const unsigned char *)body->data;
    uint32_t len = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
    int64_t max = op->channel->config.max_receive;

    if (p[0] == 1)
        return fail(op, ARN_GRPC_INTERNAL,
                    "the reply is compressed, though this client accepts no compression");
    if (p[0] != 0)
        return fail(op, ARN_GRPC_INTERNAL, "the reply is no gRPC message: its first byte is wrong");
    if (max >= 0 && (int64_t)len > max)
        return fail(op, ARN_GRPC_RESOURCE_EXHAUSTED,
                    print(op, "Received message larger than max (%lld vs. %lld)", len, max));
    op->expected = (size_t)len + ARN_GRPC_PREFIX;
    return ARN_GRPC_GOES_ON;
}

static int reserve(arn_grpc_op *op, const char *data, size_t len) {
    arn_buf *body = &op->reply.body;
    size_t size = len;

    if (body->data == NULL && len >= ARN_GRPC_PREFIX) { /* the first piece: it says how much */
        const unsigned char *p = (const unsigned char *)data;
        size_t all = ((size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4]);
        all += ARN_GRPC_PREFIX;
        size = all < RESERVE_MAX ? all : RESERVE_MAX;
        size = size > len ? size : len;
        arn_spares_take(&op->channel->spares, body, size);
    }
    return arn_buf_reserve(body, size) != NULL ? 0 : ARN_ENOMEM;
}

arn_grpc_verdict arn__grpc_call_data(arn_grpc_op *op, const char *data, size_t len) {
    arn_buf *body = &op->reply.body;

    if (op->is_foreign)
        return ARN_GRPC_GOES_ON;
    if (op->expected != 0 && len > op->expected - body->len)
        return fail(op, ARN_GRPC_INTERNAL, "the server has sent more than one message");
    /* Until the prefix is there: no more than what it takes, and the rest once it has been seen. */
    while (op->expected == 0 && len > 0) {
        size_t n = ARN_GRPC_PREFIX - body->len;
        n = n < len ? n : len;
        if (reserve(op, data, len) != 0 || arn_buf_append(body, data, n) != 0)
            return out_of_memory(op);
        data += n;
        len -= n;
        if (body->len == ARN_GRPC_PREFIX) {
            if (begin_message(op) != ARN_GRPC_GOES_ON)
                return ARN_GRPC_ENDED;
            if (len > op->expected - body->len)
                return fail(op, ARN_GRPC_INTERNAL, "the server has sent more than one message");
        }
    }
    if (len > 0 && arn_buf_append(body, data, len) != 0)
        return out_of_memory(op);
    return ARN_GRPC_GOES_ON;
}

void arn__grpc_call_complete(arn_grpc_op *op) {
    int code = op->server_code;

    if (!op->has_status) {
        arn__grpc_call_fail(
            op, arn__grpc_code_of_http(op->http_status),
            op->http_status == 200 && !op->is_foreign
                ? "the server has ended the reply without a grpc-status"
                : print(op, "HTTP status %lld and no grpc-status: is this a gRPC server?",
                        op->http_status, 0));
        return;
    }
    if (code < 0) {
        arn__grpc_call_fail(op, ARN_GRPC_UNKNOWN, "the server has sent an invalid grpc-status");
        return;
    }
    op->reply.code = code;
    if (code == ARN_GRPC_OK && (op->expected == 0 || op->reply.body.len != op->expected))
        arn__grpc_call_fail(op, ARN_GRPC_INTERNAL,
                            op->reply.body.len == 0 ? "the server has sent no message"
                                                    : "the server has cut the message short");
}

void arn__grpc_call_reset(arn_grpc_op *op, uint32_t error) {
    char text[120];

    snprintf(text, sizeof(text), "the server has reset the stream: %s",
             nghttp2_http2_strerror(error));
    arn__grpc_call_fail(op, arn__grpc_code_of_h2(error),
                        arn_arena_copy(&op->base.arena, text, strlen(text)));
}

static int status_of(const arn_grpc_op *op) {
    if (op->no_memory)
        return ARN_ENOMEM;
    switch (op->reply.code) {
    case ARN_GRPC_OK:
        return ARN_OK;
    case ARN_GRPC_CANCELLED:
        return ARN_ECLOSED;
    case ARN_GRPC_DEADLINE_EXCEEDED:
        return ARN_ETIMEDOUT;
    default:
        return ARN_ECONN;
    }
}

void arn__grpc_call_finish(arn_runtime *rt, arn_grpc_op *op) {
    arn__op_finish(rt, &op->base, status_of(op), op->details != NULL ? op->details : "");
    arn_op_unref(&op->base);
}
