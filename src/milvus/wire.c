#include "milvus/wire.h"

#include "base/status.h"

#define NUMBER_MAX 0x1fffffffu

int arn_pb_varint(arn_pb_reader *reader, uint64_t *value) {
    const unsigned char *pos = reader->pos;
    uint64_t sum = 0;
    unsigned shift;

    for (shift = 0; shift < 70; shift += 7) {
        unsigned char c;

        if (pos == reader->end)
            return ARN_EPROTO;
        c = *pos++;
        if (shift == 63 && c > 1)
            return ARN_EPROTO; /* more than 64 bits */
        sum |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80) {
            reader->pos = pos;
            *value = sum;
            return 0;
        }
    }
    return ARN_EPROTO;
}

/* Most varints are one byte. */
static inline int short_varint(arn_pb_reader *reader, uint64_t *value) {
    if (reader->pos < reader->end && *reader->pos < 0x80) {
        *value = *reader->pos++;
        return 0;
    }
    return arn_pb_varint(reader, value);
}

/* Little-endian, at any address. */
static uint64_t fixed(const unsigned char *pos, unsigned size) {
    uint64_t value = 0;
    unsigned i;

    for (i = 0; i < size; i++)
        value |= (uint64_t)pos[i] << (8 * i);
    return value;
}

int arn_pb_next(arn_pb_reader *reader, arn_pb_field *field) {
    uint64_t tag;
    unsigned size;

    if (reader->pos == reader->end)
        return 0;
    if (short_varint(reader, &tag) < 0 || tag >> 3 == 0 || tag >> 3 > NUMBER_MAX)
        return ARN_EPROTO;
    field->number = (uint32_t)(tag >> 3);
    field->type = (arn_pb_type)(tag & 7);
    switch (field->type) {
    case ARN_PB_VARINT:
        return short_varint(reader, &field->value) < 0 ? ARN_EPROTO : 1;
    case ARN_PB_BYTES:
        if (short_varint(reader, &field->value) < 0 ||
            field->value > (uint64_t)(reader->end - reader->pos))
            return ARN_EPROTO;
        field->bytes.data = (const char *)reader->pos;
        field->bytes.len = (size_t)field->value;
        reader->pos += field->value;
        return 1;
    case ARN_PB_FIXED64:
    case ARN_PB_FIXED32:
        size = field->type == ARN_PB_FIXED64 ? 8 : 4;
        if ((size_t)(reader->end - reader->pos) < size)
            return ARN_EPROTO;
        field->value = fixed(reader->pos, size);
        reader->pos += size;
        return 1;
    }
    return ARN_EPROTO; /* a group, or no type at all */
}

int arn_pb_is_utf8(arn_slice text) {
    const unsigned char *s = (const unsigned char *)text.data;
    const unsigned char *end = text.len > 0 ? s + text.len : s;

    while (s < end) {
        uint64_t eight;
        unsigned more, i;
        uint32_t c;

        while (end - s >= 8) {
            memcpy(&eight, s, 8);
            if ((eight & 0x8080808080808080u) != 0)
                break;
            s += 8;
        }
        if (s == end)
            break;
        if (*s < 0x80) {
            s++;
            continue;
        }
        if (*s >= 0xc2 && *s <= 0xdf) {
            more = 1;
            c = *s & 0x1f;
        } else if (*s >= 0xe0 && *s <= 0xef) {
            more = 2;
            c = *s & 0x0f;
        } else if (*s >= 0xf0 && *s <= 0xf4) {
            more = 3;
            c = *s & 0x07;
        } else {
            return 0;
        }
        if ((size_t)(end - s) <= more)
            return 0;
        for (i = 1; i <= more; i++) {
            if ((s[i] & 0xc0) != 0x80)
                return 0;
            c = c << 6 | (s[i] & 0x3f);
        }
        if ((more == 2 && (c < 0x800 || (c >= 0xd800 && c <= 0xdfff))) ||
            (more == 3 && (c < 0x10000 || c > 0x10ffff)))
            return 0;
        s += more + 1;
    }
    return 1;
}
