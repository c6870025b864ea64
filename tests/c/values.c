#include "values.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

void t_put(arn_buf *out, const char *data, size_t len) {
    assert_int_equal(arn_buf_append(out, data, len), 0);
}

void t_dump(arn_buf *out, const arn_value *v) {
    char text[64];
    size_t i;

    switch (v->kind) {
    case ARN_NIL:
        t_put(out, TEXT("nil"));
        break;
    case ARN_BOOL:
        t_put(out, v->u.integer ? "true" : "false", v->u.integer ? 4 : 5);
        break;
    case ARN_INT:
        t_put(out, text, (size_t)snprintf(text, sizeof(text), "%" PRId64, v->u.integer));
        break;
    case ARN_DOUBLE:
        t_put(out, text, (size_t)snprintf(text, sizeof(text), "%.17g", v->u.number));
        break;
    case ARN_BYTES:
    case ARN_ERROR:
        assert_int_equal(v->u.bytes[v->len], '\0');
        t_put(out, v->kind == ARN_ERROR ? "!" : "'", 1);
        t_put(out, v->u.bytes, v->len);
        t_put(out, "'", 1);
        break;
    case ARN_ARRAY:
        t_put(out, "[", 1);
        for (i = 0; i < v->len; i++)
            t_dump(out, &v->u.items[i]);
        t_put(out, "]", 1);
        break;
    default:
        fail_msg("reply of kind %d", (int)v->kind);
    }
    t_put(out, " ", 1);
}

/* Bytes in which every kind of frame seems to start and end. */
void t_put_payload(arn_buf *out, size_t len) {
    static const char pattern[] = "\r\n$5\r\n*1\r\n+x\0-\xff:";
    size_t i;
    char *p = arn_buf_reserve(out, len);

    assert_non_null(p);
    for (i = 0; i < len; i++)
        p[i] = pattern[(i + i / 1000) % sizeof(pattern)];
    out->len += len;
}

void t_put_bulk(arn_buf *out, size_t len) {
    char header[32];

    t_put(out, header, (size_t)snprintf(header, sizeof(header), "$%zu\r\n", len));
    t_put_payload(out, len);
    t_put(out, "\r\n", 2);
}
