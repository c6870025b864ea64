/* field.h - writes FieldData messages: the columns of an insert, and rows cut out of a reply's.
 *
 * When one reply answers several searches, each of them gets its own rows only, numbered from 0 as
 * in a reply of its own: that is what arn_milvus_cut() is for.
 *
 * Everything may be called on any thread.
 */
#ifndef ARN_MILVUS_FIELD_H
#define ARN_MILVUS_FIELD_H

#include "base/buf.h"
#include "milvus/result.h"

/* Where a type's values lie: the number of the slot in ScalarField or VectorField and the form of
 * what is in it. */
typedef enum arn_milvus_form {
    ARN_MILVUS_PACKED, /* a message with packed numbers as field 1 */
    ARN_MILVUS_LIST,   /* a message with fields 1 of type BYTES */
    ARN_MILVUS_RAW     /* bytes, without a message around them */
} arn_milvus_form;

typedef struct arn_milvus_slot {
    unsigned number; /* 0: the type is not one of ours */
    arn_milvus_form form;
} arn_milvus_slot;

arn_milvus_slot arn_milvus_slot_of(arn_milvus_type type);

static inline int arn_milvus_is_vector(arn_milvus_type type) {
    return type >= ARN_MILVUS_BINARY_VECTOR;
}

typedef struct arn_milvus_field {
    arn_slice name;
    arn_milvus_type type;
    int is_dynamic;
    int64_t field_id;
    arn_slice valid; /* a byte, 0 or 1, for each row; empty: none */
    int has_vectors; /* write VectorField even with neither dim nor data */
    int64_t dim;     /* 0: none */
    int has_data;    /* write the slot, be it empty */
    arn_milvus_slot slot;
    arn_slice data; /* what is in the slot: packed numbers, fields 1 with their tags, or bytes */
} arn_milvus_field;

/* Size of the FieldData, and writing just as much. Returns the place behind it. */
size_t arn_milvus_field_size(const arn_milvus_field *field);
char *arn_milvus_put_field(char *out, const arn_milvus_field *field);

/* Bytes of one row of a reply's dense vectors; 0: in doubt. */
size_t arn_milvus_row_size(const arn_milvus_column *column);

/* Appends the FieldData of the rows start to end - 1 of a reply's column. JSON and vectors only.
 * 0, ARN_MILVUS_OTHER: the column has not got all of them, or ARN_ENOMEM. */
int arn_milvus_cut(const arn_milvus_column *column, size_t start, size_t end, arn_buf *out);

#endif /* ARN_MILVUS_FIELD_H */
