#include "milvus/rows.h"

#include "base/status.h"
#include "milvus/wire.h"

void arn_milvus_builder_init(arn_milvus_builder *builder, arn_slice name, arn_milvus_type type) {
    memset(builder, 0, sizeof(*builder));
    builder->field.name = name;
    builder->field.type = type;
    builder->field.slot = arn_milvus_slot_of(type);
}

void arn_milvus_builder_free(arn_milvus_builder *builder) {
    arn_buf_free(&builder->data);
    arn_buf_free(&builder->valid);
}

int arn_milvus_add_valid(arn_milvus_builder *builder, int valid, size_t rows) {
    char *p = arn_buf_reserve(&builder->valid, rows);

    if (p == NULL)
        return ARN_ENOMEM;
    memset(p, valid != 0, rows);
    builder->valid.len += rows;
    return 0;
}

int arn_milvus_add_varint(arn_milvus_builder *builder, uint64_t value) {
    char *p = arn_buf_reserve(&builder->data, 10);

    if (p == NULL)
        return ARN_ENOMEM;
    builder->data.len = (size_t)(arn_pb_put_varint(p, value) - builder->data.data);
    return 0;
}

char *arn_milvus_add_raw(arn_milvus_builder *builder, size_t len) {
    char *p = arn_buf_reserve(&builder->data, len);

    if (p != NULL)
        builder->data.len += len;
    return p;
}

char *arn_milvus_add_entry(arn_milvus_builder *builder, size_t len) {
    size_t size = arn_pb_bytes_size(len);
    char *p = arn_buf_reserve(&builder->data, size);

    if (p == NULL)
        return NULL;
    builder->data.len += size;
    return arn_pb_put_head(p, 1, len);
}

int arn_milvus_add_array(arn_milvus_builder *builder, arn_milvus_slot slot, const char *data,
                         size_t len) {
    int is_packed = slot.form == ARN_MILVUS_PACKED && len > 0;
    size_t content = is_packed ? arn_pb_bytes_size(len) : len;
    char *p = arn_milvus_add_entry(builder, arn_pb_bytes_size(content));

    if (p == NULL)
        return ARN_ENOMEM;
    p = arn_pb_put_head(p, slot.number, content);
    if (is_packed)
        p = arn_pb_put_head(p, 1, len);
    if (len > 0)
        memcpy(p, data, len);
    return 0;
}

const arn_milvus_field *arn_milvus_finish(arn_milvus_builder *builder) {
    builder->field.data.data = builder->data.data;
    builder->field.data.len = builder->data.len;
    builder->field.valid.data = builder->valid.data;
    builder->field.valid.len = builder->valid.len;
    return &builder->field;
}
