/* value.h - the neutral reply tree that parsers build on the io thread and hosts turn into their
 * own objects.
 *
 * A tree lives in one arena and is freed with it. Elements of a container lie side by side, so a
 * container of n values costs one allocation.
 */
#ifndef ARN_BASE_VALUE_H
#define ARN_BASE_VALUE_H

#include <stddef.h>
#include <stdint.h>

typedef enum arn_kind {
    ARN_NIL = 0,
    ARN_BOOL,          /* integer: 0 or 1 */
    ARN_INT,           /* integer */
    ARN_BIGINT,        /* bytes: the decimal digits, with '-', of one beyond int64_t */
    ARN_DOUBLE,        /* number */
    ARN_BYTES,         /* bytes[0..len), NUL behind it */
    ARN_TEXT,          /* the same, known to be UTF-8 */
    ARN_ARRAY,         /* items[0..len) */
    ARN_MAP,           /* items[0..2 * len): key, value, key, value ... */
    ARN_SET,           /* items[0..len) */
    ARN_PUSH,          /* items[0..len), not the reply to any request */
    ARN_ERROR,         /* bytes: the peer's error text */
    ARN_FLOAT32_ARRAY, /* floats[0..len) */
    ARN_FLOAT64_ARRAY  /* doubles[0..len) */
} arn_kind;

typedef struct arn_value arn_value;

struct arn_value {
    arn_kind kind;
    size_t len;
    union {
        int64_t integer;
        double number;
        const char *bytes;
        arn_value *items;
        const float *floats;
        const double *doubles;
    } u;
};

/* The value of a map's last member of that name, or NULL: also for what is no map, and for NULL. As
 * with strchr(), it may be written to if the map may. */
arn_value *arn_value_member(const arn_value *map, const char *name);

#endif /* ARN_BASE_VALUE_H */
