/* wire.h - protobuf's wire format: a reader that trusts nothing, and writers into memory whose size
 * has been counted before.
 *
 * No schema and no memory of its own: a reader walks over somebody else's bytes, field by field,
 * and hands out slices of them. Everything may be called on any thread.
 */
#ifndef ARN_MILVUS_WIRE_H
#define ARN_MILVUS_WIRE_H

#include "base/slice.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum arn_pb_type {
    ARN_PB_VARINT = 0,
    ARN_PB_FIXED64 = 1,
    ARN_PB_BYTES = 2, /* strings, messages, packed numbers */
    ARN_PB_FIXED32 = 5
} arn_pb_type;

typedef struct arn_pb_reader {
    const unsigned char *pos;
    const unsigned char *end;
} arn_pb_reader;

typedef struct arn_pb_field {
    uint32_t number;
    arn_pb_type type;
    uint64_t value;  /* VARINT, FIXED64, FIXED32 */
    arn_slice bytes; /* BYTES: a slice of what is read */
} arn_pb_field;

static inline arn_pb_reader arn_pb_read(arn_slice message) {
    /* Nothing may be added to NULL, not even nothing. */
    const char *data = message.data != NULL ? message.data : "";
    arn_pb_reader reader = {(const unsigned char *)data, (const unsigned char *)data + message.len};

    return reader;
}

/* The next field: 1, 0 at the end, or ARN_EPROTO: cut short, a number or a length that cannot be,
 * or a group, which proto3 has not got. Nothing is read twice and nothing recurses, so the work is
 * bounded by the message's size. */
int arn_pb_next(arn_pb_reader *reader, arn_pb_field *field);

/* A bare varint, as they follow each other in a packed field. 0 or ARN_EPROTO. */
int arn_pb_varint(arn_pb_reader *reader, uint64_t *value);

/* Is it UTF-8, as protobuf asks of strings: no surrogates, nothing overlong. */
int arn_pb_is_utf8(arn_slice text);

static inline int arn_pb_same(arn_slice a, arn_slice b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* ---- writing ---- */

static inline size_t arn_pb_varint_size(uint64_t value) {
    size_t n = 1;

    for (; value >= 0x80; value >>= 7)
        n++;
    return n;
}

/* Of a field of type BYTES with its tag; field numbers stay below 16. */
static inline size_t arn_pb_bytes_size(size_t len) {
    return 1 + arn_pb_varint_size(len) + len;
}

static inline size_t arn_pb_int_size(uint64_t value) {
    return 1 + arn_pb_varint_size(value);
}

/* All return the place behind what they have written; the caller has made room. */
static inline char *arn_pb_put_varint(char *out, uint64_t value) {
    for (; value >= 0x80; value >>= 7)
        *out++ = (char)(value | 0x80);
    *out++ = (char)value;
    return out;
}

static inline char *arn_pb_put_int(char *out, unsigned number, uint64_t value) {
    *out++ = (char)(number << 3 | ARN_PB_VARINT);
    return arn_pb_put_varint(out, value);
}

/* Tag and length of a field whose content the caller writes. */
static inline char *arn_pb_put_head(char *out, unsigned number, size_t len) {
    *out++ = (char)(number << 3 | ARN_PB_BYTES);
    return arn_pb_put_varint(out, len);
}

static inline char *arn_pb_put_bytes(char *out, unsigned number, const void *data, size_t len) {
    out = arn_pb_put_head(out, number, len);
    if (len > 0)
        memcpy(out, data, len);
    return out + len;
}

#endif /* ARN_MILVUS_WIRE_H */
