/* json.h - JSON text to a value tree, without loss.
 *
 * What Python's json.loads() makes of the same text can be made of the tree: 1 stays an integer
 * and 1.0 a double, integers keep all their digits, strings may hold NUL and lone surrogates,
 * NaN and Infinity are accepted, keys may repeat. (That is why this is not cJSON, whose numbers are
 * doubles and whose strings end at a NUL.) Arrays of numbers, all of them with a fraction or an
 * exponent, become one ARN_FLOAT64_ARRAY: vectors of embeddings are nearly all there is to parse.
 */
#ifndef ARN_BASE_JSON_H
#define ARN_BASE_JSON_H

#include "base/arena.h"
#include "base/value.h"

#include <stddef.h>

/* Deeper documents are refused. Python's own limit is of this size. */
#define ARN_JSON_DEPTH_MAX 1000

typedef struct arn_json_error {
    const char *what; /* static */
    size_t offset;    /* of the byte that does not fit */
} arn_json_error;

/* Parses text[0..len), which must be one document in UTF-8 (a byte order mark is refused), into
 * *out, in the arena. Kinds: NIL, BOOL, INT, BIGINT, DOUBLE, TEXT, ARRAY, MAP, FLOAT64_ARRAY.
 * Lone surrogates are encoded as three bytes each: decode with "surrogatepass". 0; ARN_EPROTO with
 * *error set; or ARN_ENOMEM. Any thread. */
int arn_json_parse(arn_arena *arena, const char *text, size_t len, arn_value *out,
                   arn_json_error *error);

/* The number that text[0..len), a valid JSON number, stands for: correctly rounded, the same in
 * every locale. */
double arn_json_number(const char *text, size_t len);

#endif /* ARN_BASE_JSON_H */
