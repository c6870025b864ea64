/* Replies of Milvus: whatever the parsers take must lie within the reply or the arena, be as long
 * as they say, and survive being cut into rows and read again. */
#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"
#include "milvus/field.h"
#include "milvus/result.h"
#include "milvus/wire.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) ((condition) ? (void)0 : stop(#condition, __LINE__))

static void stop(const char *what, int line) {
    fprintf(stderr, "line %d: not so: %s\n", line, what);
    abort();
}

static volatile unsigned sink;

/* Reads every byte: the sanitizer knows where they may be. */
static void touch(const void *data, size_t len) {
    const unsigned char *bytes = data;
    unsigned sum = 0;
    size_t i;

    for (i = 0; i < len; i++)
        sum += bytes[i];
    sink += sum;
}

static void touch_slices(const arn_milvus_values *values, int is_text) {
    size_t i;

    for (i = 0; i < values->count; i++) {
        touch(values->u.slices[i].data, values->u.slices[i].len);
        if (is_text)
            CHECK(arn_pb_is_utf8(values->u.slices[i]));
    }
}

static void touch_scalars(const arn_milvus_values *values, arn_milvus_type type) {
    size_t i;

    switch (type) {
    case ARN_MILVUS_BOOL:
        for (i = 0; i < values->count; i++)
            CHECK(values->u.bools[i] <= 1);
        return;
    case ARN_MILVUS_INT8:
    case ARN_MILVUS_INT16:
    case ARN_MILVUS_INT32:
        for (i = 0; i < values->count; i++)
            CHECK(values->u.ints[i] >= INT32_MIN && values->u.ints[i] <= INT32_MAX);
        return;
    case ARN_MILVUS_INT64:
        touch(values->u.ints, 8 * values->count);
        return;
    case ARN_MILVUS_FLOAT:
    case ARN_MILVUS_FLOAT_VECTOR:
        touch(values->u.floats, 4 * values->count);
        return;
    case ARN_MILVUS_DOUBLE:
        touch(values->u.doubles, 8 * values->count);
        return;
    case ARN_MILVUS_VARCHAR:
        touch_slices(values, 1);
        return;
    case ARN_MILVUS_JSON:
    case ARN_MILVUS_SPARSE_FLOAT_VECTOR:
        touch_slices(values, 0);
        return;
    default:
        CHECK(arn_milvus_is_vector(type));
        touch(values->u.bytes, values->count);
    }
}

static void check_column(const arn_milvus_column *column) {
    size_t i;

    touch(column->message.data, column->message.len);
    touch(column->name.data, column->name.len);
    CHECK(arn_pb_is_utf8(column->name));
    touch_scalars(&column->valid, ARN_MILVUS_BOOL);
    if (column->type == ARN_MILVUS_ARRAY) {
        for (i = 0; i < column->data.count; i++)
            touch_scalars(&column->data.u.arrays[i], column->element);
    } else {
        touch_scalars(&column->data, column->type);
    }
    CHECK(column->has_data || column->data.count == 0);
}

static const arn_milvus_known known; /* nothing: all that is unknown is skipped */

/* The rows that are cut out are those of the column. */
static void check_cut(const arn_milvus_column *column, size_t start, size_t end) {
    arn_buf cut = ARN_BUF_INIT, reply = ARN_BUF_INIT;
    const arn_milvus_column *again;
    arn_milvus_query query;
    arn_arena arena;
    arn_slice slice;
    char *p;
    int r = arn_milvus_cut(column, start, end, &cut);

    CHECK(r == 0 || r == ARN_MILVUS_OTHER);
    if (r == 0) {
        p = arn_buf_reserve(&reply, arn_pb_bytes_size(cut.len));
        CHECK(p != NULL);
        arn_pb_put_bytes(p, 2, cut.data, cut.len);
        slice.data = p;
        slice.len = arn_pb_bytes_size(cut.len);
        arn_arena_init(&arena, NULL, 0);
        CHECK(arn_milvus_parse_query(slice, &known, &arena, &query) == 0);
        CHECK(query.column_count == 1);
        again = query.columns;
        check_column(again);
        CHECK(again->type == column->type && again->dim == column->dim);
        CHECK(again->field_id == column->field_id && again->is_dynamic == column->is_dynamic);
        CHECK(arn_pb_same(again->name, column->name));
        CHECK(again->valid.count == (column->valid.count > 0 ? end - start : 0));
        if (column->type == ARN_MILVUS_JSON) {
            size_t i;
            CHECK(again->data.count == end - start);
            for (i = 0; i < end - start; i++) {
                CHECK(arn_pb_same(again->data.u.slices[i], column->data.u.slices[start + i]));
            }
        }
        arn_arena_free(&arena);
    }
    arn_buf_free(&cut);
    arn_buf_free(&reply);
}

static void check_columns(const arn_milvus_column *columns, size_t count) {
    size_t i, k, rows;

    for (i = 0; i < count; i++) {
        check_column(&columns[i]);
        CHECK(arn_milvus_column_rows(&columns[i]) >= -1);
        if (columns[i].type != ARN_MILVUS_JSON && !arn_milvus_is_vector(columns[i].type))
            continue;
        rows = columns[i].valid.count > 0 ? columns[i].valid.count : columns[i].data.count;
        if (rows > 6)
            rows = 6;
        for (k = 0; k <= rows; k++) {
            check_cut(&columns[i], 0, k);
            check_cut(&columns[i], k, rows);
            check_cut(&columns[i], k, k + 1); /* one too many at the end */
        }
    }
}

static void check_status(const arn_milvus_status *status) {
    size_t i;

    touch(status->reason.data, status->reason.len);
    for (i = 0; i < status->extra_count; i++) {
        touch(status->extra[i].key.data, status->extra[i].key.len);
        touch(status->extra[i].value.data, status->extra[i].value.len);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    arn_slice reply = {(const char *)data, size};
    arn_milvus_search search;
    arn_milvus_query query;
    size_t i, hits = 0;
    arn_arena arena;
    int r;

    arn_arena_init(&arena, NULL, 0);
    r = arn_milvus_parse_search(reply, &known, &arena, &search);
    CHECK(r == 0 || r == ARN_MILVUS_OTHER);
    if (r == 0) {
        check_status(&search.status);
        for (i = 0; i < search.topks.count; i++) {
            CHECK(search.topks.u.ints[i] >= 0);
            hits += (size_t)search.topks.u.ints[i];
        }
        CHECK(hits <= search.scores.count && hits <= search.ids.count);
        touch_scalars(&search.scores, ARN_MILVUS_FLOAT);
        touch_scalars(&search.ids, search.ids_are_text ? ARN_MILVUS_VARCHAR : ARN_MILVUS_INT64);
        touch_slices(&search.output_fields, 1);
        touch(search.iterator.data, search.iterator.len);
        touch(search.primary_name.data, search.primary_name.len);
        check_columns(search.columns, search.column_count);
    }
    arn_arena_free(&arena);

    r = arn_milvus_parse_query(reply, &known, &arena, &query);
    CHECK(r == 0 || r == ARN_MILVUS_OTHER);
    if (r == 0) {
        check_status(&query.status);
        touch_slices(&query.output_fields, 1);
        check_columns(query.columns, query.column_count);
    }
    arn_arena_free(&arena);
    return 0;
}
