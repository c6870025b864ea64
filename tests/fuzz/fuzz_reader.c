/* The reader of replies must say the same of a stream however it is cut into pieces. */
#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"
#include "redis/reader.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longer arrays would only reserve memory, which is the reader's right. */
#define ELEMENTS_MAX 10000u
#define LENGTH_MAX 300000u

#define CHECK(condition) ((condition) ? (void)0 : stop(#condition, __LINE__))

static void stop(const char *what, int line) {
    fprintf(stderr, "line %d: not so: %s\n", line, what);
    abort();
}

/* The kind and content of every value, so that what is the same reads the same. */
static void dump(arn_buf *out, const arn_value *v) {
    size_t i;

    CHECK(arn_buf_append(out, &v->kind, sizeof(v->kind)) == 0);
    switch (v->kind) {
    case ARN_NIL:
        return;
    case ARN_BOOL:
    case ARN_INT:
        CHECK(arn_buf_append(out, &v->u.integer, sizeof(v->u.integer)) == 0);
        return;
    case ARN_DOUBLE:
        CHECK(arn_buf_append(out, &v->u.number, sizeof(v->u.number)) == 0);
        return;
    case ARN_BYTES:
    case ARN_ERROR:
        CHECK(v->u.bytes[v->len] == '\0');
        CHECK(arn_buf_append(out, &v->len, sizeof(v->len)) == 0);
        CHECK(arn_buf_append(out, v->u.bytes, v->len) == 0);
        return;
    case ARN_ARRAY:
        CHECK(arn_buf_append(out, &v->len, sizeof(v->len)) == 0);
        for (i = 0; i < v->len; i++)
            dump(out, &v->u.items[i]);
        return;
    default:
        stop("a kind that a reader makes", __LINE__);
    }
}

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* seed 0: all at once. */
static int parse(const arn_buf *in, uint32_t seed, arn_buf *out) {
    static const size_t longest[] = {1, 3, 20, 500, 4097, 70000};
    uint32_t random = seed;
    size_t most = longest[seed % (sizeof(longest) / sizeof(longest[0]))];
    arn_redis_reader *r = arn__redis_reader_new();
    arn_arena arena;
    arn_value value;
    size_t at = 0, used = 0;
    int status = 0;

    CHECK(r != NULL);
    arn_arena_init(&arena, NULL, 0);
    while (at < in->len && status == 0) {
        /* An incomplete line is looked through again with every piece: not too many of them. */
        size_t n = 1 + next_random(&random) % most + (at > 64 ? in->len / 128 : 0);
        size_t room = 0;
        char *space = next_random(&random) & 1 ? arn__redis_reader_space(r, &room) : NULL;
        char *piece;

        n = seed != 0 && n < in->len - at ? n : in->len - at;
        if (space != NULL) {
            CHECK(room > 0);
            n = n < room ? n : room;
        }
        piece = malloc(n);
        CHECK(piece != NULL);
        memcpy(piece, in->data + at, n);
        if (space != NULL)
            memcpy(space, piece, n);
        arn__redis_reader_feed(r, space != NULL ? space : piece, n);
        at += n;
        while ((status = arn__redis_reader_next(r, &arena, &value)) == 1) {
            size_t now = at - arn__redis_reader_pending(r);
            CHECK(now > used && now <= at);
            used = now;
            dump(out, &value);
            CHECK(arn_buf_append(out, &used, sizeof(used)) == 0);
            arn_arena_free(&arena);
        }
        CHECK(arn__redis_reader_pending(r) <= at - used);
        free(piece);
    }
    if (status < 0) {
        CHECK(status == ARN_EPROTO);
        CHECK(arn__redis_reader_error(r)[0] != '\0');
    }
    arn__redis_reader_free(r);
    arn_arena_free(&arena);
    return status;
}

/* Bytes from 0xd0 on stand for pieces of protocol, so that few of them make whole replies. If the
 * first byte is '$', 0xf0 n c means n * 500 times c, and 0xf1 n c a whole bulk string of 65000 +
 * n * 10 times c: seldom, as they are slow. */
static void expand(arn_buf *in, const uint8_t *data, size_t size) {
    static const char *const tokens[] = {"\r\n",    "+OK\r\n",   "-ERR x\r\n",      "$-1\r\n",
                                         "*-1\r\n", "*0\r\n",    "*1\r\n",          "*2\r\n",
                                         "*3\r\n",  ":-12\r\n",  "$0\r\n\r\n",      "$3\r\nabc\r\n",
                                         "*40\r\n", "$5000\r\n", "$4294967296\r\n", ":9\r\n"};
    size_t i, n;

    for (i = 0; i < size && in->len < LENGTH_MAX; i++) {
        unsigned char c = data[i];
        char *p;
        if (data[0] == '$' && (c == 0xf0 || c == 0xf1) && i + 2 < size) {
            n = c == 0xf0 ? data[i + 1] * 500u : 65000u + data[i + 1] * 10u;
            p = arn_buf_reserve(in, n + 32);
            CHECK(p != NULL);
            if (c == 0xf1) {
                int header = sprintf(p, "$%zu\r\n", n);
                memset(p + header, data[i + 2], n);
                memcpy(p + header + n, "\r\n", 2);
                n += (size_t)header + 2;
            } else {
                memset(p, data[i + 2], n);
            }
            in->len += n;
            i += 2;
        } else if (c >= 0xd0 && c < 0xe0) {
            CHECK(arn_buf_append(in, tokens[c - 0xd0], strlen(tokens[c - 0xd0])) == 0);
        } else if (i > 0 || c != '$') {
            CHECK(arn_buf_append(in, &c, 1) == 0);
        }
    }
}

/* A long array that does not come would cost time and memory only. */
static int is_of_use(const arn_buf *in) {
    size_t i, k, n;

    for (i = 0; i < in->len; i++) {
        if (in->data[i] != '*')
            continue;
        n = 0;
        for (k = i + 1; k < in->len && in->data[k] >= '0' && in->data[k] <= '9'; k++) {
            n = n > LENGTH_MAX ? n : n * 10 + (size_t)(in->data[k] - '0');
            if (n > ELEMENTS_MAX)
                return 0;
        }
    }
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    arn_buf in = ARN_BUF_INIT, whole = ARN_BUF_INIT, pieces = ARN_BUF_INIT;
    uint32_t seed = 1;
    size_t i;
    int status;

    for (i = 0; i < size; i++)
        seed = (seed ^ data[i]) * 16777619u;
    expand(&in, data, size);
    if (in.len > 0 && is_of_use(&in)) {
        status = parse(&in, 0, &whole);
        for (i = 0; i < 3; i++) {
            arn_buf_reset(&pieces, SIZE_MAX);
            CHECK(parse(&in, (seed + (uint32_t)i) | 1u << 31, &pieces) == status);
            CHECK(pieces.len == whole.len);
            CHECK(whole.len == 0 || memcmp(pieces.data, whole.data, whole.len) == 0);
        }
    }
    arn_buf_free(&in);
    arn_buf_free(&whole);
    arn_buf_free(&pieces);
    return 0;
}
