/* values.h - values as text, and replies on the wire, for the tests of the reader. */
#ifndef T_VALUES_H
#define T_VALUES_H

#include "base/buf.h"
#include "base/value.h"

#define TEXT(literal) literal, sizeof(literal) - 1

void t_put(arn_buf *out, const char *data, size_t len);

/* 'bytes', !error', [ items ], numbers, nil, each with a space behind it. */
void t_dump(arn_buf *out, const arn_value *v);

/* len bytes that tell where they are, and a bulk string of them. */
void t_put_payload(arn_buf *out, size_t len);
void t_put_bulk(arn_buf *out, size_t len);

#endif /* T_VALUES_H */
