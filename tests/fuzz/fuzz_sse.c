/* The decoder of events must say the same of a stream however it is cut into pieces, and what a
 * second decoder says of it that has the whole of it before it and takes its time. */
#include "base/buf.h"
#include "base/status.h"
#include "base/utf8.h"
#include "http/sse.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Just beyond what a buffer keeps. */
#define LENGTH_MAX 70000u

#define CHECK(condition) ((condition) ? (void)0 : stop(#condition, __LINE__))

static void stop(const char *what, int line) {
    fprintf(stderr, "line %d: not so: %s\n", line, what);
    abort();
}

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* ---- what the decoder says, as bytes ---- */

static void put(arn_buf *out, const void *bytes, size_t len) {
    CHECK(arn_buf_append(out, bytes, len) == 0);
}

static void put_slice(arn_buf *out, arn_slice s) {
    int is_there = s.data != NULL;

    put(out, &is_there, sizeof(is_there));
    put(out, &s.len, sizeof(s.len));
    put(out, s.data, s.len);
}

static void put_event(arn_buf *out, const arn_sse_event *event) {
    put_slice(out, event->event);
    put_slice(out, event->data);
    put(out, &event->is_new_id, sizeof(event->is_new_id));
    if (event->is_new_id)
        put_slice(out, event->id);
    put_slice(out, event->retry);
}

static int take_event(void *arg, const arn_sse_event *event) {
    size_t i = event->retry.len > 0 && (*event->retry.data == '-' || *event->retry.data == '+');

    CHECK(event->event.data != NULL && event->data.data != NULL && event->retry.data != NULL);
    CHECK(arn_utf8_is_valid(event->event.data, event->event.len));
    CHECK(arn_utf8_is_valid(event->data.data, event->data.len));
    if (event->is_new_id)
        CHECK(arn_utf8_is_valid(event->id.data, event->id.len));
    CHECK(event->retry.len == 0 || i < event->retry.len);
    for (; i < event->retry.len; i++)
        CHECK(event->retry.data[i] >= '0' && event->retry.data[i] <= '9');
    put_event(arg, event);
    return 0;
}

/* seed 0: all at once; 1: byte by byte, if it is short. */
static void decode(const arn_buf *in, uint32_t seed, arn_buf *out) {
    static const size_t longest[] = {2, 3, 20, 500, 4097, 70000};
    uint32_t random = seed;
    size_t most = longest[seed % (sizeof(longest) / sizeof(longest[0]))];
    arn_sse sse;
    size_t at = 0;
    int status = 0;

    arn_sse_init(&sse);
    while (at < in->len && status == 0) {
        /* Not too many of them, for the sake of speed. */
        size_t n = in->len / 1024 + (seed == 1 ? 1 : 1 + next_random(&random) % most);
        char *piece;

        n = seed != 0 && n < in->len - at ? n : in->len - at;
        piece = malloc(n);
        CHECK(piece != NULL);
        memcpy(piece, in->data + at, n);
        status = arn_sse_feed(&sse, piece, n, take_event, out);
        free(piece);
        at += n;
    }
    if (status == 0)
        status = arn_sse_end(&sse);
    CHECK(status == 0 || status == ARN_EPROTO);
    CHECK(status == 0 || !arn_utf8_is_valid(sse.line.data, sse.line.len));
    put(out, &status, sizeof(status));
    put(out, sse.line.data, sse.line.len);
    arn_sse_free(&sse);
}

/* ---- the same without any haste ---- */

typedef struct event {
    arn_buf name, data, id, retry;
    int has_data, has_id, is_new_id;
} event;

static arn_slice slice_of(const arn_buf *buf) {
    arn_slice s = {buf->data != NULL ? buf->data : "", buf->len};

    return s;
}

static void become(arn_buf *buf, const char *text, size_t len) {
    arn_buf_free(buf);
    put(buf, text, len);
}

static int is_field(const char *line, size_t len, const char *name) {
    return strlen(name) == len && memcmp(line, name, len) == 0;
}

static void take_retry(event *e, const char *text, size_t len) {
    static const char spaces[] = " \t\n\v\f\r";
    arn_buf digits = ARN_BUF_INIT;
    size_t i, count = 0;

    while (len > 0 && memchr(spaces, *text, sizeof(spaces) - 1) != NULL)
        text++, len--;
    while (len > 0 && memchr(spaces, text[len - 1], sizeof(spaces) - 1) != NULL)
        len--;
    for (i = 0; i < len; i++) {
        char before = i > 0 ? text[i - 1] : '_';
        if (text[i] >= '0' && text[i] <= '9') {
            put(&digits, &text[i], 1);
            count++;
        } else if (i == 0 && (text[i] == '-' || text[i] == '+')) {
            put(&digits, &text[i], 1);
        } else if (!(text[i] == '_' && before >= '0' && before <= '9')) {
            count = SIZE_MAX;
            break;
        }
    }
    if (len > 0 && text[len - 1] != '_' && count > 0 && count <= 4300)
        become(&e->retry, digits.data, digits.len);
    arn_buf_free(&digits);
}

static void take_line(event *e, const char *line, size_t len, arn_buf *out) {
    size_t name = 0, value;

    if (len == 0) {
        arn_sse_event shown = {.event = slice_of(&e->name),
                               .data = slice_of(&e->data),
                               .id = slice_of(&e->id),
                               .is_new_id = e->is_new_id,
                               .retry = slice_of(&e->retry)};
        if (e->name.len == 0 && !e->has_data && e->id.len == 0 && e->retry.len == 0)
            return;
        if (!e->has_id)
            shown.id.data = NULL;
        put_event(out, &shown);
        arn_buf_free(&e->name);
        arn_buf_free(&e->data);
        arn_buf_free(&e->retry);
        e->has_data = e->is_new_id = 0;
        return;
    }
    while (name < len && line[name] != ':')
        name++;
    value = name < len ? name + 1 : len;
    if (value < len && line[value] == ' ')
        value++;
    if (is_field(line, name, "event")) {
        become(&e->name, line + value, len - value);
    } else if (is_field(line, name, "data")) {
        if (e->has_data)
            put(&e->data, "\n", 1);
        put(&e->data, line + value, len - value);
        e->has_data = 1;
    } else if (is_field(line, name, "id")) {
        if (memchr(line + value, '\0', len - value) == NULL) {
            become(&e->id, line + value, len - value);
            e->has_id = e->is_new_id = 1;
        }
    } else if (is_field(line, name, "retry")) {
        take_retry(e, line + value, len - value);
    }
}

static void decode_slowly(const arn_buf *in, arn_buf *out) {
    event e = {ARN_BUF_INIT, ARN_BUF_INIT, ARN_BUF_INIT, ARN_BUF_INIT, 0, 0, 0};
    const char *p = in->data;
    const char *end = p + in->len;
    int status = 0;

    while (status == 0 && p < end) {
        const char *line = p;
        while (p < end && *p != '\r' && *p != '\n')
            p++;
        if (!arn_utf8_is_valid(line, (size_t)(p - line)))
            status = ARN_EPROTO;
        else if (p < end)
            take_line(&e, line, (size_t)(p - line), out);
        if (status != 0 || p == end) {
            put(out, &status, sizeof(status));
            put(out, line, (size_t)(p - line));
            goto done;
        }
        p += *p == '\r' && p + 1 < end && p[1] == '\n' ? 2 : 1;
    }
    put(out, &status, sizeof(status));
done:
    arn_buf_free(&e.name);
    arn_buf_free(&e.data);
    arn_buf_free(&e.id);
    arn_buf_free(&e.retry);
}

/* ---- the input ---- */

/* Bytes from 0x80 to 0x97 stand for pieces of streams, if the first byte is not '$'; 0x98 n c for
 * n * 100 times c. */
static void expand(arn_buf *in, const uint8_t *data, size_t size) {
    static const char *const tokens[] = {
        "data",     "data: ",   "event",    "event: ",      "id",     "id: ",
        "retry",    "retry: ",  ": ",       "\n\n",         "\r\n",   "\r\r",
        "\r\n\r\n", "[DONE]",   "12",       "data: x\n\n",  "id\n\n", "\xef\xbb\xbf",
        "\xe2\x82", "\xf0\x9f", "\x98\x80", "\xed\xa0\x80", "\xc3",   "retry: 7\n"};
    const size_t count = sizeof(tokens) / sizeof(tokens[0]);
    int is_raw = size > 0 && data[0] == '$';
    size_t i;

    for (i = 0; i < size && in->len < LENGTH_MAX; i++) {
        uint8_t c = data[i];
        if (!is_raw && c >= 0x80 && c < 0x80 + count) {
            put(in, tokens[c - 0x80], strlen(tokens[c - 0x80]));
        } else if (!is_raw && c == 0x80 + count && i + 2 < size) {
            size_t n = data[i + 1] * 100u;
            char *p = arn_buf_reserve(in, n + 1);
            CHECK(p != NULL);
            memset(p, data[i + 2], n);
            in->len += n;
            i += 2;
        } else if (i > 0 || !is_raw) {
            put(in, &c, 1);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    arn_buf in = ARN_BUF_INIT, whole = ARN_BUF_INIT, other = ARN_BUF_INIT;
    uint32_t seed = 1;
    size_t i;

    for (i = 0; i < size; i++)
        seed = (seed ^ data[i]) * 16777619u;
    expand(&in, data, size);
    if (in.len > 0) {
        decode(&in, 0, &whole);
        decode_slowly(&in, &other);
        CHECK(whole.len == other.len && memcmp(whole.data, other.data, whole.len) == 0);
        for (i = 0; i < 4; i++) {
            arn_buf_free(&other);
            decode(&in, i == 0 ? 1 : (seed + (uint32_t)i) | 1u << 31, &other);
            CHECK(whole.len == other.len && memcmp(whole.data, other.data, whole.len) == 0);
        }
    }
    arn_buf_free(&in);
    arn_buf_free(&whole);
    arn_buf_free(&other);
    return 0;
}
