/* What the reader of JSON takes must be a sound tree, and written out again must be read as the
 * same tree; its numbers must be strtod()'s. What it refuses must be refused with a reason. */
#include "base/arena.h"
#include "base/buf.h"
#include "base/json.h"
#include "base/status.h"

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) ((condition) ? (void)0 : stop(#condition, __LINE__))

static void stop(const char *what, int line) {
    fprintf(stderr, "line %d: not so: %s\n", line, what);
    abort();
}

static void put(arn_buf *out, const char *s, size_t len) {
    CHECK(arn_buf_append(out, s, len) == 0);
}

static void put_double(arn_buf *out, double x) {
    char text[40];
    int n;

    if (isnan(x)) {
        put(out, "NaN", 3);
    } else if (isinf(x)) {
        put(out, x < 0 ? "-Infinity" : "Infinity", x < 0 ? 9 : 8);
    } else {
        double back;
        n = sprintf(text, "%.16e", x);
        back = arn_json_number(text, (size_t)n);
        CHECK(memcmp(&back, &x, sizeof(x)) == 0);
        put(out, text, (size_t)n);
    }
}

static void put_text(arn_buf *out, const arn_value *v) {
    char escape[8];
    size_t i;

    CHECK(v->u.bytes[v->len] == '\0');
    put(out, "\"", 1);
    for (i = 0; i < v->len; i++) {
        unsigned char c = (unsigned char)v->u.bytes[i];
        if (c < ' ' || c == '"' || c == '\\')
            put(out, escape, (size_t)sprintf(escape, "\\u%04x", c));
        else
            put(out, (const char *)&c, 1);
    }
    put(out, "\"", 1);
}

static void write_out(arn_buf *out, const arn_value *v, unsigned depth) {
    char text[24];
    int all_doubles = 1;
    size_t i;

    CHECK(depth <= ARN_JSON_DEPTH_MAX);
    switch (v->kind) {
    case ARN_NIL:
        put(out, "null", 4);
        return;
    case ARN_BOOL:
        CHECK(v->u.integer == 0 || v->u.integer == 1);
        put(out, v->u.integer ? "true" : "false", v->u.integer ? 4 : 5);
        return;
    case ARN_INT:
        put(out, text, (size_t)sprintf(text, "%" PRId64, v->u.integer));
        return;
    case ARN_BIGINT:
        CHECK(v->len >= 19 && v->u.bytes[v->len] == '\0');
        put(out, v->u.bytes, v->len);
        return;
    case ARN_DOUBLE:
        put_double(out, v->u.number);
        return;
    case ARN_TEXT:
        put_text(out, v);
        return;
    case ARN_ARRAY:
        put(out, "[", 1);
        for (i = 0; i < v->len; i++) {
            if (i > 0)
                put(out, ",", 1);
            all_doubles &= v->u.items[i].kind == ARN_DOUBLE && isfinite(v->u.items[i].u.number);
            write_out(out, &v->u.items[i], depth + 1);
        }
        CHECK(v->len == 0 || !all_doubles);
        put(out, "]", 1);
        return;
    case ARN_FLOAT64_ARRAY:
        CHECK(v->len > 0);
        put(out, "[", 1);
        for (i = 0; i < v->len; i++) {
            if (i > 0)
                put(out, ",", 1);
            /* 1e999 */
            if (isinf(v->u.doubles[i]))
                put(out, v->u.doubles[i] < 0 ? "-1e999" : "1e999", v->u.doubles[i] < 0 ? 6 : 5);
            else
                put_double(out, v->u.doubles[i]);
        }
        put(out, "]", 1);
        return;
    case ARN_MAP:
        put(out, "{", 1);
        for (i = 0; i < 2 * v->len; i++) {
            CHECK(i % 2 == 1 || v->u.items[i].kind == ARN_TEXT);
            if (i > 0)
                put(out, i % 2 ? ":" : ",", 1);
            write_out(out, &v->u.items[i], depth + 1);
        }
        put(out, "}", 1);
        return;
    default:
        stop("a kind that JSON has", __LINE__);
    }
}

static int is_number(const char *text, size_t len) {
    size_t i;

    for (i = 0; i < len; i++)
        if (strchr("0123456789.eE+-", text[i]) == NULL || text[i] == '\0')
            return 0;
    return len > 0;
}

static int parse(const char *text, size_t len, arn_arena *arena, arn_value *out) {
    arn_json_error error = {NULL, SIZE_MAX};
    int status = arn_json_parse(arena, text, len, out, &error);

    CHECK(status == 0 || status == ARN_EPROTO);
    if (status < 0)
        CHECK(error.what != NULL && error.offset <= len);
    else
        CHECK(error.what == NULL);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    arn_buf once = ARN_BUF_INIT, twice = ARN_BUF_INIT;
    arn_arena arena;
    arn_value value;
    size_t i;

    arn_arena_init(&arena, NULL, 0);
    if (parse((const char *)data, size, &arena, &value) == 0) {
        write_out(&once, &value, 0);
        if (is_number((const char *)data, size)) {
            char *text = malloc(size + 1);
            double x, y;
            CHECK(text != NULL);
            memcpy(text, data, size);
            text[size] = '\0';
            x = strtod(text, NULL);
            y = arn_json_number((const char *)data, size);
            CHECK(memcmp(&x, &y, sizeof(x)) == 0);
            free(text);
        }
        arn_arena_free(&arena);

        CHECK(parse(once.data, once.len, &arena, &value) == 0);
        write_out(&twice, &value, 0);
        CHECK(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
        arn_arena_free(&arena);

        /* A container that is cut short is none. */
        for (i = 1; i < once.len && i < 64 && (once.data[0] == '[' || once.data[0] == '{'); i++) {
            char *cut = malloc(i);
            CHECK(cut != NULL);
            memcpy(cut, once.data, i);
            CHECK(parse(cut, i, &arena, &value) == ARN_EPROTO);
            free(cut);
        }
    }
    arn_arena_free(&arena);
    arn_buf_free(&once);
    arn_buf_free(&twice);
    return 0;
}
