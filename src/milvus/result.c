#include "milvus/result.h"

#include "base/status.h"
#include "milvus/wire.h"

#include <string.h>

/* The last slots of ScalarField and VectorField that are sure to be known to every pymilvus. */
#define SCALAR_SLOTS 9
#define VECTOR_SLOTS 7

/* How the values of a repeated field are stored. */
typedef enum value_kind { BOOLS, INTS32, INTS64, FLOATS, DOUBLES, TEXTS, BYTES } value_kind;

/* OTHER for what is malformed, too: pymilvus's parser says so. */
#define NEXT(reader, field)                                                                        \
    ((r = arn_pb_next(&(reader), &(field))) < 0 ? (r = ARN_MILVUS_OTHER, 0) : r)

/* Is a field that is none of ours one that pymilvus skips, too? */
static int is_skipped(const arn_milvus_known *known, arn_milvus_message message, uint32_t number) {
    return number < 64 && (known->fields[message] >> number & 1) == 0;
}

static arn_pb_type type_of_one(value_kind kind) {
    switch (kind) {
    case FLOATS:
        return ARN_PB_FIXED32;
    case DOUBLES:
        return ARN_PB_FIXED64;
    case TEXTS:
    case BYTES:
        return ARN_PB_BYTES;
    default:
        return ARN_PB_VARINT;
    }
}

static size_t size_of_one(value_kind kind) {
    switch (kind) {
    case BOOLS:
        return 1;
    case FLOATS:
        return 4;
    case TEXTS:
    case BYTES:
        return sizeof(arn_slice);
    default:
        return 8;
    }
}

/* Adds how many values one occurrence of the field holds. */
static int count_values(const arn_pb_field *field, value_kind kind, size_t *count) {
    size_t i;

    if (field->type == type_of_one(kind)) { /* one, or one that is not packed */
        *count += 1;
        return 0;
    }
    if (field->type != ARN_PB_BYTES)
        return ARN_MILVUS_OTHER;
    if (kind == FLOATS || kind == DOUBLES) {
        size_t size = size_of_one(kind);
        *count += field->bytes.len / size;
        return field->bytes.len % size == 0 ? 0 : ARN_MILVUS_OTHER;
    }
    for (i = 0; i < field->bytes.len; i++)
        *count += (unsigned char)field->bytes.data[i] < 0x80;
    /* The last one is complete. */
    return i == 0 || (unsigned char)field->bytes.data[i - 1] < 0x80 ? 0 : ARN_MILVUS_OTHER;
}

static void put_varint(void *out, size_t i, value_kind kind, uint64_t value) {
    if (kind == BOOLS)
        ((unsigned char *)out)[i] = value != 0;
    else if (kind == INTS32)
        ((int64_t *)out)[i] = (int32_t)(uint32_t)value;
    else
        ((int64_t *)out)[i] = (int64_t)value;
}

/* Copies the values of one occurrence behind the first *i. */
static int copy_values(const arn_pb_field *field, value_kind kind, void *out, size_t *i) {
    size_t size = size_of_one(kind);

    if (kind == TEXTS || kind == BYTES) {
        if (kind == TEXTS && !arn_pb_is_utf8(field->bytes))
            return ARN_MILVUS_OTHER;
        ((arn_slice *)out)[(*i)++] = field->bytes;
    } else if (kind == FLOATS || kind == DOUBLES) {
        char one[8];
        unsigned k;

        if (field->type == ARN_PB_BYTES) {
            memcpy((char *)out + *i * size, field->bytes.data, field->bytes.len);
            *i += field->bytes.len / size;
            return 0;
        }
        for (k = 0; k < size; k++)
            one[k] = (char)(field->value >> (8 * k));
        memcpy((char *)out + (*i)++ * size, one, size);
    } else if (field->type == ARN_PB_VARINT) {
        put_varint(out, (*i)++, kind, field->value);
    } else {
        arn_pb_reader packed = arn_pb_read(field->bytes);
        uint64_t value;

        while (packed.pos < packed.end) {
            if (arn_pb_varint(&packed, &value) < 0)
                return ARN_MILVUS_OTHER;
            put_varint(out, (*i)++, kind, value);
        }
    }
    return 0;
}

/* The values of all occurrences of a repeated field of the message, which has been read through
 * before. Floats that came in one piece stay where they are. */
static int collect(arn_slice message, uint32_t number, value_kind kind, arn_arena *arena,
                   arn_milvus_values *values) {
    arn_pb_reader reader = arn_pb_read(message);
    arn_pb_field field, last = {0};
    size_t count = 0, i = 0;
    unsigned occurrences = 0;
    void *out;
    int r;

    memset(values, 0, sizeof(*values));
    while (NEXT(reader, field) == 1) {
        if (field.number != number)
            continue;
        if ((r = count_values(&field, kind, &count)) != 0)
            return r;
        last = field;
        occurrences++;
    }
    if (r != 0 || count == 0)
        return r;
    values->count = count;
    if (occurrences == 1 && last.type == ARN_PB_BYTES && (kind == FLOATS || kind == DOUBLES)) {
        values->u.bytes = last.bytes.data;
        return 0;
    }
    out = arn_arena_alloc(arena, count * size_of_one(kind));
    if (out == NULL)
        return ARN_ENOMEM;
    values->u.bytes = out;
    reader = arn_pb_read(message);
    while (NEXT(reader, field) == 1)
        if (field.number == number && (r = copy_values(&field, kind, out, &i)) != 0)
            return r;
    return r;
}

/* The messages that hold nothing but `repeated ... data = 1`. */
static int collect_data(arn_slice message, value_kind kind, arn_arena *arena,
                        arn_milvus_values *values) {
    arn_pb_reader reader = arn_pb_read(message);
    arn_pb_field field;
    int r;

    while (NEXT(reader, field) == 1)
        if (field.number != 1)
            return ARN_MILVUS_OTHER;
    return r != 0 ? r : collect(message, 1, kind, arena, values);
}

/* ---- FieldData ---- */

/* The number of the type's slot in ScalarField, and how its values are stored. */
static int scalar_slot(arn_milvus_type type, uint32_t *slot, value_kind *kind) {
    switch (type) {
    case ARN_MILVUS_BOOL:
        return *slot = 1, *kind = BOOLS, 0;
    case ARN_MILVUS_INT8:
    case ARN_MILVUS_INT16:
    case ARN_MILVUS_INT32:
        return *slot = 2, *kind = INTS32, 0;
    case ARN_MILVUS_INT64:
        return *slot = 3, *kind = INTS64, 0;
    case ARN_MILVUS_FLOAT:
        return *slot = 4, *kind = FLOATS, 0;
    case ARN_MILVUS_DOUBLE:
        return *slot = 5, *kind = DOUBLES, 0;
    case ARN_MILVUS_VARCHAR:
        return *slot = 6, *kind = TEXTS, 0;
    case ARN_MILVUS_ARRAY:
        return *slot = 8, *kind = BYTES, 0;
    case ARN_MILVUS_JSON:
        return *slot = 9, *kind = BYTES, 0;
    default:
        return ARN_MILVUS_OTHER;
    }
}

/* The one field of a ScalarField, which must be `slot`. *found is left alone if there is none. */
static int only_slot(const arn_milvus_known *known, arn_slice message, uint32_t slot,
                     arn_slice *found, int *has) {
    arn_pb_reader reader = arn_pb_read(message);
    arn_pb_field field;
    int r;

    *has = 0;
    while (NEXT(reader, field) == 1) {
        if (field.number == slot && field.type == ARN_PB_BYTES && !*has) {
            *found = field.bytes;
            *has = 1;
        } else if (field.number <= SCALAR_SLOTS ||
                   !is_skipped(known, ARN_MILVUS_SCALAR_FIELD, field.number)) {
            return ARN_MILVUS_OTHER;
        }
    }
    return r;
}

/* ArrayArray: a ScalarField for each row. */
static int parse_arrays(const arn_milvus_known *known, arn_slice message, arn_arena *arena,
                        arn_milvus_column *column) {
    arn_pb_reader reader = arn_pb_read(message);
    arn_milvus_values *arrays;
    arn_milvus_values rows;
    arn_pb_field field;
    value_kind kind;
    uint32_t slot;
    size_t i;
    int r;

    while (NEXT(reader, field) == 1) {
        if (field.number == 2 && field.type == ARN_PB_VARINT)
            column->element = (arn_milvus_type)(int32_t)(uint32_t)field.value;
        else if (field.number != 1 || field.type != ARN_PB_BYTES)
            return ARN_MILVUS_OTHER;
    }
    if (r != 0 || (r = collect(message, 1, BYTES, arena, &rows)) != 0)
        return r;
    if (rows.count == 0)
        return 0;
    if (column->element == ARN_MILVUS_ARRAY || column->element == ARN_MILVUS_JSON ||
        scalar_slot(column->element, &slot, &kind) != 0)
        return ARN_MILVUS_OTHER;
    arrays = arn_arena_alloc(arena, rows.count * sizeof(*arrays));
    if (arrays == NULL)
        return ARN_ENOMEM;
    for (i = 0; i < rows.count; i++) {
        arn_slice data = {NULL, 0};
        int has;

        if ((r = only_slot(known, rows.u.slices[i], slot, &data, &has)) != 0 ||
            (r = collect_data(data, kind, arena, &arrays[i])) != 0)
            return r;
    }
    column->data.count = rows.count;
    column->data.u.arrays = arrays;
    return 0;
}

static int parse_scalars(const arn_milvus_known *known, arn_slice message, arn_arena *arena,
                         arn_milvus_column *column) {
    arn_slice data = {NULL, 0};
    value_kind kind;
    uint32_t slot;
    int r;

    if (scalar_slot(column->type, &slot, &kind) != 0 ||
        (r = only_slot(known, message, slot, &data, &column->has_data)) != 0)
        return ARN_MILVUS_OTHER;
    if (column->type == ARN_MILVUS_ARRAY)
        return parse_arrays(known, data, arena, column);
    return collect_data(data, kind, arena, &column->data);
}

/* SparseFloatArray: the rows, and a dim that nobody needs. */
static int parse_sparse(arn_slice message, arn_arena *arena, arn_milvus_column *column) {
    arn_pb_reader reader = arn_pb_read(message);
    arn_pb_field field;
    int r;

    while (NEXT(reader, field) == 1)
        if ((field.number != 1 || field.type != ARN_PB_BYTES) &&
            (field.number != 2 || field.type != ARN_PB_VARINT))
            return ARN_MILVUS_OTHER;
    return r != 0 ? r : collect(message, 1, BYTES, arena, &column->data);
}

static int parse_vectors(const arn_milvus_known *known, arn_slice message, arn_arena *arena,
                         arn_milvus_column *column) {
    /* By type, from BINARY_VECTOR on. */
    static const unsigned char slots[] = {3, 2, 4, 5, 6, 7};
    arn_pb_reader reader = arn_pb_read(message);
    arn_slice data = {NULL, 0};
    arn_pb_field field;
    int r;

    if (column->type < ARN_MILVUS_BINARY_VECTOR || column->type > ARN_MILVUS_INT8_VECTOR)
        return ARN_MILVUS_OTHER;
    while (NEXT(reader, field) == 1) {
        if (field.number == 1 && field.type == ARN_PB_VARINT) {
            column->dim = (int64_t)field.value;
        } else if (field.number == slots[column->type - ARN_MILVUS_BINARY_VECTOR] &&
                   field.type == ARN_PB_BYTES && !column->has_data) {
            data = field.bytes;
            column->has_data = 1;
        } else if (field.number <= VECTOR_SLOTS ||
                   !is_skipped(known, ARN_MILVUS_VECTOR_FIELD, field.number)) {
            return ARN_MILVUS_OTHER;
        }
    }
    if (r != 0)
        return r;
    if (column->type == ARN_MILVUS_FLOAT_VECTOR)
        return collect_data(data, FLOATS, arena, &column->data);
    if (column->type == ARN_MILVUS_SPARSE_FLOAT_VECTOR)
        return parse_sparse(data, arena, column);
    column->data.count = data.len;
    column->data.u.bytes = data.data;
    return 0;
}

static int parse_column(const arn_milvus_known *known, arn_slice message, arn_arena *arena,
                        arn_milvus_column *column) {
    arn_pb_reader reader = arn_pb_read(message);
    arn_slice data = {NULL, 0};
    uint32_t slot = 0;
    int has_valid = 0;
    arn_pb_field field;
    int r;

    memset(column, 0, sizeof(*column));
    column->message = message;
    while (NEXT(reader, field) == 1) {
        if (field.number == 1 && field.type == ARN_PB_VARINT) {
            column->type = (arn_milvus_type)(int32_t)(uint32_t)field.value;
        } else if (field.number == 2 && field.type == ARN_PB_BYTES) {
            if (!arn_pb_is_utf8(field.bytes))
                return ARN_MILVUS_OTHER;
            column->name = field.bytes;
        } else if ((field.number == 3 || field.number == 4) && field.type == ARN_PB_BYTES) {
            if (slot != 0)
                return ARN_MILVUS_OTHER;
            slot = field.number;
            data = field.bytes;
        } else if (field.number == 5 && field.type == ARN_PB_VARINT) {
            column->field_id = (int64_t)field.value;
        } else if (field.number == 6 && field.type == ARN_PB_VARINT) {
            column->is_dynamic = field.value != 0;
        } else if (field.number == 7) {
            has_valid = 1;
        } else if (!is_skipped(known, ARN_MILVUS_FIELD_DATA, field.number)) {
            return ARN_MILVUS_OTHER;
        }
    }
    if (r == 0 && has_valid)
        r = collect(message, 7, BOOLS, arena, &column->valid);
    if (r != 0)
        return r;
    /* What has no slot at all must still be of a type that is known. */
    if (column->type >= ARN_MILVUS_BINARY_VECTOR && slot != 3)
        return parse_vectors(known, data, arena, column);
    if (column->type < ARN_MILVUS_BINARY_VECTOR && slot != 4)
        return parse_scalars(known, data, arena, column);
    return ARN_MILVUS_OTHER;
}

static int parse_columns(const arn_milvus_known *known, arn_slice message, uint32_t number,
                         arn_arena *arena, size_t *count, const arn_milvus_column **out) {
    arn_milvus_values messages;
    arn_milvus_column *columns;
    size_t i;
    int r = collect(message, number, BYTES, arena, &messages);

    *count = messages.count;
    *out = NULL;
    if (r != 0 || messages.count == 0)
        return r;
    columns = arn_arena_alloc(arena, messages.count * sizeof(*columns));
    if (columns == NULL)
        return ARN_ENOMEM;
    for (i = 0; i < messages.count; i++)
        if ((r = parse_column(known, messages.u.slices[i], arena, &columns[i])) != 0)
            return r;
    *out = columns;
    return 0;
}

int64_t arn_milvus_column_rows(const arn_milvus_column *column) {
    int64_t dim = column->dim, size;
    size_t count = column->data.count;

    if (!column->has_data)
        return -1;
    if (column->type < ARN_MILVUS_BINARY_VECTOR)
        return (int64_t)count;
    if (column->valid.count > 0)
        return (int64_t)column->valid.count;
    if (column->type == ARN_MILVUS_SPARSE_FLOAT_VECTOR)
        return (int64_t)count;
    if (dim <= 0 || dim > INT32_MAX)
        return -1;
    switch (column->type) {
    case ARN_MILVUS_FLOAT16_VECTOR:
    case ARN_MILVUS_BFLOAT16_VECTOR:
        size = 2 * dim;
        break;
    case ARN_MILVUS_BINARY_VECTOR:
        if (dim % 8 != 0)
            return -1;
        size = dim / 8;
        break;
    default:
        size = dim;
    }
    return count % (uint64_t)size == 0 ? (int64_t)(count / (uint64_t)size) : -1;
}

/* ---- replies ---- */

static int parse_extra(arn_slice message, arn_milvus_extra *extra) {
    arn_pb_reader reader = arn_pb_read(message);
    arn_pb_field field;
    int r;

    memset(extra, 0, sizeof(*extra));
    while (NEXT(reader, field) == 1) {
        if (field.number > 2 || field.type != ARN_PB_BYTES || !arn_pb_is_utf8(field.bytes))
            return ARN_MILVUS_OTHER;
        *(field.number == 1 ? &extra->key : &extra->value) = field.bytes;
    }
    return r;
}

static int parse_status(const arn_milvus_known *known, arn_slice message, arn_arena *arena,
                        arn_milvus_status *status) {
    arn_pb_reader reader = arn_pb_read(message);
    arn_milvus_values entries;
    arn_milvus_extra *extra;
    arn_pb_field field;
    size_t i;
    int r;

    while (NEXT(reader, field) == 1) {
        if (field.number == 1 && field.type == ARN_PB_VARINT) {
            status->error_code = (int32_t)(uint32_t)field.value;
        } else if (field.number == 3 && field.type == ARN_PB_VARINT) {
            status->code = (int32_t)(uint32_t)field.value;
        } else if ((field.number == 2 || field.number == 5) && field.type == ARN_PB_BYTES) {
            if (!arn_pb_is_utf8(field.bytes))
                return ARN_MILVUS_OTHER;
            if (field.number == 2)
                status->reason = field.bytes;
        } else if ((field.number != 4 || field.type != ARN_PB_VARINT) &&
                   (field.number != 6 || field.type != ARN_PB_BYTES) &&
                   !is_skipped(known, ARN_MILVUS_STATUS, field.number)) {
            return ARN_MILVUS_OTHER;
        }
    }
    if (r != 0 || (r = collect(message, 6, BYTES, arena, &entries)) != 0 || entries.count == 0)
        return r;
    extra = arn_arena_alloc(arena, entries.count * sizeof(*extra));
    if (extra == NULL)
        return ARN_ENOMEM;
    for (i = 0; i < entries.count; i++)
        if ((r = parse_extra(entries.u.slices[i], &extra[i])) != 0)
            return r;
    status->extra_count = entries.count;
    status->extra = extra;
    return 0;
}

static int parse_ids(arn_slice message, arn_arena *arena, arn_milvus_search *search) {
    arn_pb_reader reader = arn_pb_read(message);
    arn_slice data = {NULL, 0};
    uint32_t slot = 0;
    arn_pb_field field;
    int r;

    while (NEXT(reader, field) == 1) {
        if (field.number > 2 || field.type != ARN_PB_BYTES || slot != 0)
            return ARN_MILVUS_OTHER;
        slot = field.number;
        data = field.bytes;
    }
    if (r != 0 || slot == 0)
        return r;
    search->ids_are_text = slot == 2;
    return collect_data(data, slot == 2 ? TEXTS : INTS64, arena, &search->ids);
}

static int parse_data(const arn_milvus_known *known, arn_slice message, arn_arena *arena,
                      arn_milvus_search *search) {
    arn_pb_reader reader = arn_pb_read(message);
    arn_slice ids = {NULL, 0};
    arn_milvus_values unused;
    int has_ids = 0, has_distances = 0;
    arn_pb_field field;
    size_t hits = 0, i;
    int r;

    while (NEXT(reader, field) == 1) {
        switch (field.number) {
        case 1: /* num_queries */
        case 2: /* top_k */
        case 9: /* all_search_count */
            if (field.type != ARN_PB_VARINT)
                return ARN_MILVUS_OTHER;
            continue;
        case 3: /* fields_data */
        case 7: /* output_fields */
            if (field.type != ARN_PB_BYTES)
                return ARN_MILVUS_OTHER;
            continue;
        case 4: /* scores */
        case 6: /* topks */
            continue;
        case 10: /* distances */
            has_distances = 1;
            continue;
        case 5:
            if (field.type != ARN_PB_BYTES || has_ids)
                return ARN_MILVUS_OTHER;
            ids = field.bytes;
            has_ids = 1;
            continue;
        case 11:
            if (field.type != ARN_PB_BYTES || search->has_iterator)
                return ARN_MILVUS_OTHER;
            search->iterator = field.bytes;
            search->has_iterator = 1;
            continue;
        case 13:
            if (field.type != ARN_PB_BYTES || !arn_pb_is_utf8(field.bytes))
                return ARN_MILVUS_OTHER;
            search->primary_name = field.bytes;
            continue;
        default: /* recalls, groups, highlights, element indices, aggregations ... */
            if (!is_skipped(known, ARN_MILVUS_SEARCH_RESULT_DATA, field.number))
                return ARN_MILVUS_OTHER;
        }
    }
    if (r != 0 || (r = collect(message, 4, FLOATS, arena, &search->scores)) != 0 ||
        (r = collect(message, 6, INTS64, arena, &search->topks)) != 0 ||
        (r = collect(message, 7, TEXTS, arena, &search->output_fields)) != 0 ||
        (has_distances && (r = collect(message, 10, FLOATS, arena, &unused)) != 0) ||
        (r = parse_ids(ids, arena, search)) != 0)
        return r;
    for (i = 0; i < search->topks.count; i++) {
        uint64_t topk = (uint64_t)search->topks.u.ints[i];
        if (topk > search->ids.count - hits || topk > search->scores.count - hits)
            return ARN_MILVUS_OTHER;
        hits += (size_t)topk;
    }
    return parse_columns(known, message, 3, arena, &search->column_count, &search->columns);
}

int arn_milvus_parse_search(arn_slice reply, const arn_milvus_known *known, arn_arena *arena,
                            arn_milvus_search *search) {
    arn_pb_reader reader = arn_pb_read(reply);
    arn_slice status = {NULL, 0}, data = {NULL, 0};
    unsigned seen = 0;
    arn_pb_field field;
    int r;

    memset(search, 0, sizeof(*search));
    while (NEXT(reader, field) == 1) {
        if ((field.number == 1 || field.number == 2) && field.type == ARN_PB_BYTES &&
            (seen >> field.number & 1) == 0) {
            *(field.number == 1 ? &status : &data) = field.bytes;
            seen |= 1u << field.number;
        } else if (field.number == 3 && field.type == ARN_PB_BYTES) {
            if (!arn_pb_is_utf8(field.bytes))
                return ARN_MILVUS_OTHER;
        } else if (field.number == 4 && field.type == ARN_PB_VARINT) {
            search->session_ts = field.value;
        } else if (!is_skipped(known, ARN_MILVUS_SEARCH_RESULTS, field.number)) {
            return ARN_MILVUS_OTHER;
        }
    }
    if (r != 0 || (r = parse_status(known, status, arena, &search->status)) != 0)
        return r;
    return parse_data(known, data, arena, search);
}

int arn_milvus_parse_query(arn_slice reply, const arn_milvus_known *known, arn_arena *arena,
                           arn_milvus_query *query) {
    arn_pb_reader reader = arn_pb_read(reply);
    arn_slice status = {NULL, 0};
    int has_status = 0;
    arn_pb_field field;
    int r;

    memset(query, 0, sizeof(*query));
    while (NEXT(reader, field) == 1) {
        if (field.number == 1 && field.type == ARN_PB_BYTES && !has_status) {
            status = field.bytes;
            has_status = 1;
        } else if ((field.number == 3 || field.number == 6) && field.type == ARN_PB_BYTES) {
            if (!arn_pb_is_utf8(field.bytes))
                return ARN_MILVUS_OTHER;
        } else if (field.number == 5 && field.type == ARN_PB_VARINT) {
            query->session_ts = field.value;
        } else if (((field.number != 2 && field.number != 4) || field.type != ARN_PB_BYTES) &&
                   !is_skipped(known, ARN_MILVUS_QUERY_RESULTS, field.number)) {
            return ARN_MILVUS_OTHER;
        }
    }
    if (r != 0 || (r = parse_status(known, status, arena, &query->status)) != 0 ||
        (r = collect(reply, 4, TEXTS, arena, &query->output_fields)) != 0)
        return r;
    return parse_columns(known, reply, 2, arena, &query->column_count, &query->columns);
}
