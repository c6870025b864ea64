#include "milvus/field.h"

#include "base/status.h"
#include "milvus/wire.h"

arn_milvus_slot arn_milvus_slot_of(arn_milvus_type type) {
    static const struct {
        arn_milvus_type type;
        arn_milvus_slot slot;
    } slots[] = {
        {ARN_MILVUS_BOOL, {1, ARN_MILVUS_PACKED}},
        {ARN_MILVUS_INT8, {2, ARN_MILVUS_PACKED}},
        {ARN_MILVUS_INT16, {2, ARN_MILVUS_PACKED}},
        {ARN_MILVUS_INT32, {2, ARN_MILVUS_PACKED}},
        {ARN_MILVUS_INT64, {3, ARN_MILVUS_PACKED}},
        {ARN_MILVUS_FLOAT, {4, ARN_MILVUS_PACKED}},
        {ARN_MILVUS_DOUBLE, {5, ARN_MILVUS_PACKED}},
        {ARN_MILVUS_VARCHAR, {6, ARN_MILVUS_LIST}},
        {ARN_MILVUS_ARRAY, {8, ARN_MILVUS_LIST}},
        {ARN_MILVUS_JSON, {9, ARN_MILVUS_LIST}},
        {ARN_MILVUS_FLOAT_VECTOR, {2, ARN_MILVUS_PACKED}},
        {ARN_MILVUS_BINARY_VECTOR, {3, ARN_MILVUS_RAW}},
        {ARN_MILVUS_FLOAT16_VECTOR, {4, ARN_MILVUS_RAW}},
        {ARN_MILVUS_BFLOAT16_VECTOR, {5, ARN_MILVUS_RAW}},
        {ARN_MILVUS_SPARSE_FLOAT_VECTOR, {6, ARN_MILVUS_LIST}},
        {ARN_MILVUS_INT8_VECTOR, {7, ARN_MILVUS_RAW}},
    };
    static const arn_milvus_slot none = {0, ARN_MILVUS_RAW};
    size_t i;

    for (i = 0; i < sizeof(slots) / sizeof(slots[0]); i++)
        if (slots[i].type == type)
            return slots[i].slot;
    return none;
}

/* What is inside of the slot. */
static size_t content_size(const arn_milvus_field *field) {
    if (field->slot.form == ARN_MILVUS_PACKED && field->data.len > 0)
        return arn_pb_bytes_size(field->data.len);
    return field->data.len;
}

/* ScalarField or VectorField. */
static size_t inner_size(const arn_milvus_field *field) {
    size_t size = 0;

    if (field->dim != 0)
        size += arn_pb_int_size((uint64_t)field->dim);
    if (field->has_data)
        size += arn_pb_bytes_size(content_size(field));
    return size;
}

static int has_inner(const arn_milvus_field *field) {
    return field->has_data || field->has_vectors || field->dim != 0;
}

size_t arn_milvus_field_size(const arn_milvus_field *field) {
    size_t size = arn_pb_int_size(field->type);

    if (field->name.len > 0)
        size += arn_pb_bytes_size(field->name.len);
    if (has_inner(field))
        size += arn_pb_bytes_size(inner_size(field));
    if (field->field_id != 0)
        size += arn_pb_int_size((uint64_t)field->field_id);
    if (field->is_dynamic)
        size += 2;
    if (field->valid.len > 0)
        size += arn_pb_bytes_size(field->valid.len);
    return size;
}

char *arn_milvus_put_field(char *out, const arn_milvus_field *field) {
    out = arn_pb_put_int(out, 1, field->type);
    if (field->name.len > 0)
        out = arn_pb_put_bytes(out, 2, field->name.data, field->name.len);
    if (has_inner(field)) {
        out = arn_pb_put_head(out, arn_milvus_is_vector(field->type) ? 4 : 3, inner_size(field));
        if (field->dim != 0)
            out = arn_pb_put_int(out, 1, (uint64_t)field->dim);
        if (field->has_data) {
            out = arn_pb_put_head(out, field->slot.number, content_size(field));
            if (field->slot.form == ARN_MILVUS_PACKED && field->data.len > 0)
                out = arn_pb_put_head(out, 1, field->data.len);
            if (field->data.len > 0)
                memcpy(out, field->data.data, field->data.len);
            out += field->data.len;
        }
    }
    if (field->field_id != 0)
        out = arn_pb_put_int(out, 5, (uint64_t)field->field_id);
    if (field->is_dynamic)
        out = arn_pb_put_int(out, 6, 1);
    if (field->valid.len > 0)
        out = arn_pb_put_bytes(out, 7, field->valid.data, field->valid.len);
    return out;
}

/* ---- rows of a reply ---- */

size_t arn_milvus_row_size(const arn_milvus_column *column) {
    size_t dim = (size_t)column->dim;

    if (column->dim <= 0 || column->dim > INT32_MAX)
        return 0;
    switch (column->type) {
    case ARN_MILVUS_FLOAT_VECTOR:
        return 4 * dim;
    case ARN_MILVUS_FLOAT16_VECTOR:
    case ARN_MILVUS_BFLOAT16_VECTOR:
        return 2 * dim;
    case ARN_MILVUS_INT8_VECTOR:
        return dim;
    case ARN_MILVUS_BINARY_VECTOR:
        return dim % 8 == 0 ? dim / 8 : 0;
    default:
        return 0;
    }
}

static int append_field(const arn_milvus_field *field, arn_buf *out) {
    size_t size = arn_milvus_field_size(field);
    char *p = arn_buf_reserve(out, size);

    if (p == NULL)
        return ARN_ENOMEM;
    arn_milvus_put_field(p, field);
    out->len += size;
    return 0;
}

static int append_slices(const arn_slice *slices, size_t count, arn_buf *out) {
    size_t i;

    for (i = 0; i < count; i++) {
        size_t size = arn_pb_bytes_size(slices[i].len);
        char *p = arn_buf_reserve(out, size);

        if (p == NULL)
            return ARN_ENOMEM;
        arn_pb_put_bytes(p, 1, slices[i].data, slices[i].len);
        out->len += size;
    }
    return 0;
}

int arn_milvus_cut(const arn_milvus_column *column, size_t start, size_t end, arn_buf *out) {
    arn_milvus_field field = {.name = column->name,
                              .type = column->type,
                              .is_dynamic = column->is_dynamic,
                              .field_id = column->field_id,
                              .dim = column->dim,
                              .has_data = column->has_data,
                              .slot = arn_milvus_slot_of(column->type)};
    arn_buf entries = ARN_BUF_INIT;
    size_t first = start, count = end - start;
    int r;

    if (column->valid.count > 0) {
        size_t i;

        if (column->valid.count < end)
            return ARN_MILVUS_OTHER;
        field.valid.data = (const char *)column->valid.u.bools + start;
        field.valid.len = end - start;
        /* A vector that is null has no place among the data, JSON has one. */
        if (column->type != ARN_MILVUS_JSON) {
            first = count = 0;
            for (i = 0; i < start; i++)
                first += column->valid.u.bools[i];
            for (; i < end; i++)
                count += column->valid.u.bools[i];
        }
    }
    if (column->type == ARN_MILVUS_JSON || column->type == ARN_MILVUS_SPARSE_FLOAT_VECTOR) {
        if (column->data.count < first + count)
            return ARN_MILVUS_OTHER;
        r = count == 0 ? 0 : append_slices(column->data.u.slices + first, count, &entries);
        field.data.data = entries.data;
        field.data.len = entries.len;
    } else {
        size_t one = arn_milvus_row_size(column);
        size_t size = column->data.count * (column->type == ARN_MILVUS_FLOAT_VECTOR ? 4 : 1);

        if (field.slot.number == 0 || one == 0 || size / one < first + count)
            return ARN_MILVUS_OTHER;
        r = 0;
        field.data.data = size == 0 ? NULL : column->data.u.bytes + first * one;
        field.data.len = count * one;
    }
    if (r == 0)
        r = append_field(&field, out);
    arn_buf_free(&entries);
    return r;
}
