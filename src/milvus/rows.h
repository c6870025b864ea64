/* rows.h - a column of an insert, built value by value.
 *
 * The buffers hold what will be in the message, so that writing it is one copy. A builder is used
 * by one thread at a time.
 */
#ifndef ARN_MILVUS_ROWS_H
#define ARN_MILVUS_ROWS_H

#include "milvus/field.h"

typedef struct arn_milvus_builder {
    arn_milvus_field field; /* name, type, slot, dim and flags are the caller's to set, too */
    arn_buf data;
    arn_buf valid;
    size_t rows; /* those that have been added, null or not */
} arn_milvus_builder;

/* The name is not copied. The slot is the type's. */
void arn_milvus_builder_init(arn_milvus_builder *builder, arn_slice name, arn_milvus_type type);
void arn_milvus_builder_free(arn_milvus_builder *builder);

/* All of the following: 0 or ARN_ENOMEM, or a place or NULL. What they were given before stays. */

/* That the next rows are valid, or null. */
int arn_milvus_add_valid(arn_milvus_builder *builder, int valid, size_t rows);
int arn_milvus_add_varint(arn_milvus_builder *builder, uint64_t value);
/* Room for bytes without a head: floats, doubles, vectors. */
char *arn_milvus_add_raw(arn_milvus_builder *builder, size_t len);
/* Room for the content of an entry of a list: texts, JSON, sparse vectors. */
char *arn_milvus_add_entry(arn_milvus_builder *builder, size_t len);
/* The values of an ARRAY's row, in the form of the elements' slot. */
int arn_milvus_add_array(arn_milvus_builder *builder, arn_milvus_slot slot, const char *data,
                         size_t len);

/* Points the field at what has been built; valid until the next addition. */
const arn_milvus_field *arn_milvus_finish(arn_milvus_builder *builder);

#endif /* ARN_MILVUS_ROWS_H */
