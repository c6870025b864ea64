/* result.h - Milvus's replies to searches and queries, parsed into columns.
 *
 * What is parsed are slices of the reply and arrays in the caller's arena; the reply must outlive
 * both. Of a reply is taken what is beyond doubt: fields that occur once where protobuf would merge
 * them, types whose data lies where it belongs. For everything else, what is malformed among it,
 * the answer is ARN_MILVUS_OTHER, and whoever asked gives the reply to pymilvus's own parser, which
 * decides. So nothing here guesses, and no corrupt reply is read differently than by pymilvus.
 *
 * Everything may be called on any thread.
 */
#ifndef ARN_MILVUS_RESULT_H
#define ARN_MILVUS_RESULT_H

#include "base/arena.h"
#include "base/slice.h"

#include <stddef.h>
#include <stdint.h>

#define ARN_MILVUS_OTHER 1

/* schema.DataType; those that are named here are those that are parsed. */
typedef enum arn_milvus_type {
    ARN_MILVUS_BOOL = 1,
    ARN_MILVUS_INT8 = 2,
    ARN_MILVUS_INT16 = 3,
    ARN_MILVUS_INT32 = 4,
    ARN_MILVUS_INT64 = 5,
    ARN_MILVUS_FLOAT = 10,
    ARN_MILVUS_DOUBLE = 11,
    ARN_MILVUS_VARCHAR = 21,
    ARN_MILVUS_ARRAY = 22,
    ARN_MILVUS_JSON = 23,
    ARN_MILVUS_BINARY_VECTOR = 100,
    ARN_MILVUS_FLOAT_VECTOR = 101,
    ARN_MILVUS_FLOAT16_VECTOR = 102,
    ARN_MILVUS_BFLOAT16_VECTOR = 103,
    ARN_MILVUS_SPARSE_FLOAT_VECTOR = 104,
    ARN_MILVUS_INT8_VECTOR = 105
} arn_milvus_type;

/* Messages whose unknown fields matter: see arn_milvus_known. */
typedef enum arn_milvus_message {
    ARN_MILVUS_STATUS,
    ARN_MILVUS_SEARCH_RESULTS,
    ARN_MILVUS_SEARCH_RESULT_DATA,
    ARN_MILVUS_QUERY_RESULTS,
    ARN_MILVUS_FIELD_DATA,
    ARN_MILVUS_SCALAR_FIELD,
    ARN_MILVUS_VECTOR_FIELD,
    ARN_MILVUS_MESSAGES
} arn_milvus_message;

/* Which fields pymilvus knows, a bit for each number below 64. A field that this parser does not
 * know is skipped only if pymilvus will skip it as well. */
typedef struct arn_milvus_known {
    uint64_t fields[ARN_MILVUS_MESSAGES];
} arn_milvus_known;

/* The values of a repeated field. */
typedef struct arn_milvus_values {
    size_t count;
    union {
        const unsigned char *bools; /* BOOL: 0 or 1 */
        const int64_t *ints;        /* INT8 to INT64, and topks */
        const char *floats;         /* FLOAT, FLOAT_VECTOR: 4 bytes each, at any address */
        const char *doubles;        /* DOUBLE: 8 bytes each, at any address */
        const arn_slice *slices;    /* VARCHAR (UTF-8), JSON, SPARSE_FLOAT_VECTOR */
        const char *bytes;          /* the other vectors; count is in bytes */
        const struct arn_milvus_values *arrays; /* ARRAY: the values of each row */
    } u;
} arn_milvus_values;

typedef struct arn_milvus_column {
    arn_slice message; /* the FieldData, whole */
    arn_slice name;
    arn_milvus_type type;
    arn_milvus_type element; /* ARRAY: of its elements */
    int is_dynamic;
    int has_data; /* the slot of its type is there, be it empty */
    int64_t field_id;
    int64_t dim; /* vectors */
    arn_milvus_values data;
    arn_milvus_values valid; /* bools; none: all are */
} arn_milvus_column;

typedef struct arn_milvus_extra {
    arn_slice key;
    arn_slice value;
} arn_milvus_extra;

typedef struct arn_milvus_status {
    int32_t error_code;
    int32_t code;
    arn_slice reason;
    size_t extra_count;
    const arn_milvus_extra *extra; /* in order; of equal keys the last counts */
} arn_milvus_status;

typedef struct arn_milvus_search {
    arn_milvus_status status;
    uint64_t session_ts;
    arn_slice primary_name;
    size_t column_count;
    const arn_milvus_column *columns;
    arn_milvus_values scores; /* floats */
    int ids_are_text;
    arn_milvus_values ids;   /* ints or slices */
    arn_milvus_values topks; /* ints, none negative, not more in sum than ids and scores */
    arn_milvus_values output_fields;
    int has_iterator;
    arn_slice iterator; /* SearchIteratorV2Results */
} arn_milvus_search;

typedef struct arn_milvus_query {
    arn_milvus_status status;
    uint64_t session_ts;
    size_t column_count;
    const arn_milvus_column *columns;
    arn_milvus_values output_fields;
} arn_milvus_query;

/* 0, ARN_MILVUS_OTHER, or ARN_ENOMEM. The arena is the caller's to free in any case. */
int arn_milvus_parse_search(arn_slice reply, const arn_milvus_known *known, arn_arena *arena,
                            arn_milvus_search *search);
int arn_milvus_parse_query(arn_slice reply, const arn_milvus_known *known, arn_arena *arena,
                           arn_milvus_query *query);

/* How many rows a query's column has: as pymilvus counts them, or -1 where that is in doubt. */
int64_t arn_milvus_column_rows(const arn_milvus_column *column);

/* Is row i (one that exists) not null? */
static inline int arn_milvus_is_valid(const arn_milvus_column *column, size_t i) {
    return column->valid.count == 0 || column->valid.u.bools[i];
}

#endif /* ARN_MILVUS_RESULT_H */
