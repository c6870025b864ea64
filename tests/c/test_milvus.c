/* The milvus room: protobuf's wire format, replies into columns, columns of inserts; and that it
 * survives every allocation that fails. */
#include "base/alloc.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"
#include "milvus/field.h"
#include "milvus/result.h"
#include "milvus/rows.h"
#include "milvus/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define SLICE(literal)                                                                             \
    (arn_slice) {                                                                                  \
        literal, sizeof(literal) - 1                                                               \
    }

static const arn_milvus_known known; /* of nothing: what is unknown is skipped */

static int hook_off(void **state) {
    (void)state;
    arn_alloc_fail_after(-1);
    return 0;
}

/* In memory of its own, so that the sanitizer sees who reads past it. */
static char *own_copy(arn_slice slice, arn_slice *copy) {
    char *p = malloc(slice.len > 0 ? slice.len : 1);

    assert_non_null(p);
    if (slice.len > 0)
        memcpy(p, slice.data, slice.len);
    copy->data = p;
    copy->len = slice.len;
    return p;
}

/* ---- the wire ---- */

static void varints(void **state) {
    static const uint64_t numbers[] = {0,       1,         127,        128,
                                       16383,   16384,     UINT32_MAX, (uint64_t)1 << 35,
                                       1 << 21, INT64_MAX, UINT64_MAX, (uint64_t)1 << 63};
    size_t i, cut;

    (void)state;
    for (i = 0; i < COUNT(numbers); i++) {
        char out[10];
        size_t len = (size_t)(arn_pb_put_varint(out, numbers[i]) - out);
        arn_slice slice = {out, len};
        arn_pb_reader reader = arn_pb_read(slice);
        uint64_t value = 1;

        assert_int_equal(len, arn_pb_varint_size(numbers[i]));
        assert_int_equal(arn_pb_varint(&reader, &value), 0);
        assert_true(value == numbers[i] && reader.pos == reader.end);
        for (cut = 0; cut < len; cut++) {
            char *copy;

            slice.len = cut;
            copy = own_copy(slice, &slice);
            reader = arn_pb_read(slice);
            assert_int_equal(arn_pb_varint(&reader, &value), ARN_EPROTO);
            free(copy);
            slice.data = out;
        }
    }
}

static void varints_too_long(void **state) {
    static const arn_slice bad[] = {
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10}, /* 65 bits */
        {"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11},
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        arn_pb_reader reader = arn_pb_read(bad[i]);
        uint64_t value;
        assert_int_equal(arn_pb_varint(&reader, &value), ARN_EPROTO);
    }
}

static void fields(void **state) {
    arn_slice message = SLICE("\x08\x96\x01" /* 1: 150 */
                              "\x12\x03"
                              "abc"                                  /* 2: "abc" */
                              "\x1d\x01\x02\x03\x04"                 /* 3: fixed32 */
                              "\x21\x01\x02\x03\x04\x05\x06\x07\x08" /* 4: fixed64 */
                              "\xfa\xff\xff\xff\x0f\x00");           /* the largest number */
    arn_pb_reader reader = arn_pb_read(message);
    arn_pb_field field;

    (void)state;
    assert_int_equal(arn_pb_next(&reader, &field), 1);
    assert_true(field.number == 1 && field.type == ARN_PB_VARINT && field.value == 150);
    assert_int_equal(arn_pb_next(&reader, &field), 1);
    assert_true(field.number == 2 && field.type == ARN_PB_BYTES && field.bytes.len == 3);
    assert_memory_equal(field.bytes.data, "abc", 3);
    assert_int_equal(arn_pb_next(&reader, &field), 1);
    assert_true(field.number == 3 && field.value == 0x04030201u);
    assert_int_equal(arn_pb_next(&reader, &field), 1);
    assert_true(field.number == 4 && field.value == 0x0807060504030201u);
    assert_int_equal(arn_pb_next(&reader, &field), 1);
    assert_true(field.number == 0x1fffffff && field.bytes.len == 0);
    assert_int_equal(arn_pb_next(&reader, &field), 0);
    assert_int_equal(arn_pb_next(&reader, &field), 0);
}

static void fields_that_cannot_be(void **state) {
    static const arn_slice bad[] = {
        {"\x00\x01", 2}, /* number 0 */
        {"\x08", 1},     /* no value */
        {"\x0a\x04"
         "abc",
         5}, /* longer than what there is */
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11},
        {"\x0d\x01\x02\x03", 4},         /* fixed32 */
        {"\x09\x01\x02\x03\x04\x05", 6}, /* fixed64 */
        {"\x0b\x0c", 2},                 /* a group */
        {"\x0e\x01", 2},                 /* no type */
        {"\x0f\x01", 2},
        {"\x80\x80\x80\x80\x80\x01\x01", 7}, /* a number of more than 29 bits */
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        arn_slice slice;
        char *copy = own_copy(bad[i], &slice);
        arn_pb_reader reader = arn_pb_read(slice);
        arn_pb_field field;

        assert_int_equal(arn_pb_next(&reader, &field), ARN_EPROTO);
        free(copy);
    }
}

static void utf8(void **state) {
    static const char *const good[] = {"",
                                       "a",
                                       "12345678",
                                       "123456789",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "1234567\xc3\xa9"
                                       "12345678\xe2\x82\xac"};
    static const char *const bad[] = {"\x80",     /* no beginning */
                                      "\xc0\x80", /* overlong */
                                      "\xc1\xbf",
                                      "\xe0\x9f\xbf",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xed\xa0\x80", /* surrogates */
                                      "\xed\xbf\xbf",
                                      "\xf4\x90\x80\x80", /* past the end */
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "\xc3", /* cut short */
                                      "12345678\xe2\x82",
                                      "\xf0\x90\x80",
                                      "\xc3"
                                      "a",
                                      "\xe2\x82"
                                      "a",
                                      "1234567\xc3"
                                      "12345678"};
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(good) + COUNT(bad); i++) {
        const char *text = i < COUNT(good) ? good[i] : bad[i - COUNT(good)];
        arn_slice slice = {text, strlen(text)};
        char *copy = own_copy(slice, &slice);

        assert_int_equal(arn_pb_is_utf8(slice), i < COUNT(good));
        free(copy);
    }
    assert_true(arn_pb_is_utf8((arn_slice){NULL, 0}));
}

/* ---- replies ---- */

static void put(arn_buf *out, unsigned number, const void *data, size_t len) {
    char *p = arn_buf_reserve(out, arn_pb_bytes_size(len));

    assert_non_null(p);
    arn_pb_put_bytes(p, number, data, len);
    out->len += arn_pb_bytes_size(len);
}

static void put_int(arn_buf *out, unsigned number, uint64_t value) {
    char *p = arn_buf_reserve(out, arn_pb_int_size(value));

    assert_non_null(p);
    arn_pb_put_int(p, number, value);
    out->len += arn_pb_int_size(value);
}

static void put_buf(arn_buf *out, unsigned number, arn_buf *inner) {
    put(out, number, inner->data, inner->len);
    arn_buf_free(inner);
}

/* A FieldData as an insert writes it, one of each form. */
static void put_column(arn_buf *out, unsigned number, arn_milvus_type type, const char *name,
                       size_t rows) {
    arn_milvus_builder builder;
    const arn_milvus_field *field;
    size_t i;
    char *p;

    arn_milvus_builder_init(&builder, (arn_slice){name, strlen(name)}, type);
    builder.field.has_data = 1;
    for (i = 0; i < rows; i++) {
        switch (type) {
        case ARN_MILVUS_INT64:
            assert_int_equal(arn_milvus_add_varint(&builder, (uint64_t) - (int64_t)i), 0);
            break;
        case ARN_MILVUS_VARCHAR:
        case ARN_MILVUS_JSON:
            p = arn_milvus_add_entry(&builder, 2);
            memcpy(p, "{}", 2);
            break;
        case ARN_MILVUS_ARRAY: /* of BOOLs */
            assert_int_equal(arn_milvus_add_array(&builder, arn_milvus_slot_of(ARN_MILVUS_BOOL),
                                                  "\x01\x00\x01", i),
                             0);
            break;
        default:
            assert_int_equal(type, ARN_MILVUS_FLOAT_VECTOR);
            builder.field.dim = 2;
            assert_int_equal(arn_milvus_add_valid(&builder, i % 2 == 0, 1), 0);
            if (i % 2 != 0)
                break;
            p = arn_milvus_add_raw(&builder, 8);
            memset(p, (int)i, 8);
        }
    }
    field = arn_milvus_finish(&builder);
    p = malloc(arn_milvus_field_size(field));
    assert_non_null(p);
    assert_ptr_equal(arn_milvus_put_field(p, field), p + arn_milvus_field_size(field));
    if (type == ARN_MILVUS_ARRAY) { /* an insert leaves the element type to the schema */
        arn_slice message = {p, arn_milvus_field_size(field)};
        arn_pb_reader reader = arn_pb_read(message);
        arn_buf again = ARN_BUF_INIT;
        arn_pb_field f;

        while (arn_pb_next(&reader, &f) == 1)
            if (f.number == 3) {
                arn_pb_reader scalars = arn_pb_read(f.bytes);
                arn_buf array = ARN_BUF_INIT, wrapped = ARN_BUF_INIT;
                arn_pb_field inner;

                assert_int_equal(arn_pb_next(&scalars, &inner), 1);
                assert_int_equal(arn_buf_append(&array, inner.bytes.data, inner.bytes.len), 0);
                put_int(&array, 2, ARN_MILVUS_BOOL);
                put_buf(&wrapped, 8, &array);
                put_buf(&again, 3, &wrapped);
            } else if (f.type == ARN_PB_BYTES) {
                put(&again, f.number, f.bytes.data, f.bytes.len);
            } else {
                put_int(&again, f.number, f.value);
            }
        put_buf(out, number, &again);
    } else {
        put(out, number, p, arn_milvus_field_size(field));
    }
    free(p);
    arn_milvus_builder_free(&builder);
}

static const arn_milvus_type kinds[] = {ARN_MILVUS_INT64, ARN_MILVUS_VARCHAR, ARN_MILVUS_JSON,
                                        ARN_MILVUS_ARRAY, ARN_MILVUS_FLOAT_VECTOR};

static void make_search(arn_buf *reply) {
    static const float scores[] = {3, 2, 1};
    arn_buf data = ARN_BUF_INIT, ids = ARN_BUF_INIT, status = ARN_BUF_INIT, entry = ARN_BUF_INIT;
    size_t i;

    put(&entry, 1, "report_value", 12);
    put(&entry, 2, "5", 1);
    put_buf(&status, 6, &entry);
    put(&status, 2, "fine", 4);
    put_buf(reply, 1, &status);
    put_int(&data, 1, 2);
    for (i = 0; i < COUNT(kinds); i++)
        put_column(&data, 3, kinds[i], (char[]){'f', (char)('0' + i), '\0'}, 3);
    put(&data, 4, scores, sizeof(scores));
    put(&ids, 1, "\x07\x08\x09", 3);
    {
        arn_buf wrapped = ARN_BUF_INIT;
        put_buf(&wrapped, 1, &ids);
        put_buf(&data, 5, &wrapped);
    }
    put(&data, 6, "\x02\x01", 2);
    put(&data, 7, "f1", 2);
    put(&data, 13, "pk", 2);
    put_buf(reply, 2, &data);
    put_int(reply, 4, 99);
}

static void make_query(arn_buf *reply) {
    size_t i;

    for (i = 0; i < COUNT(kinds); i++)
        put_column(reply, 2, kinds[i], (char[]){'f', (char)('0' + i), '\0'}, 3);
    put(reply, 4, "f1", 2);
    put_int(reply, 5, 99);
}

static void check_columns(const arn_milvus_column *columns, size_t count) {
    size_t i;

    assert_int_equal(count, COUNT(kinds));
    for (i = 0; i < count; i++) {
        assert_int_equal(columns[i].type, kinds[i]);
        assert_int_equal(columns[i].name.data[1], '0' + i);
        assert_int_equal(arn_milvus_column_rows(&columns[i]), 3);
        assert_true(columns[i].has_data);
    }
    assert_true(columns[0].data.u.ints[2] == -2);
    assert_memory_equal(columns[1].data.u.slices[2].data, "{}", 2);
    assert_int_equal(columns[3].data.u.arrays[0].count, 0);
    assert_int_equal(columns[3].data.u.arrays[2].count, 2);
    assert_int_equal(columns[3].data.u.arrays[2].u.bools[0], 1);
    assert_int_equal(columns[3].data.u.arrays[2].u.bools[1], 0);
    assert_int_equal(columns[4].data.count, 4); /* two rows of three */
    assert_false(arn_milvus_is_valid(&columns[4], 1));
}

static void searches(void **state) {
    arn_buf reply = ARN_BUF_INIT;
    arn_milvus_search search;
    arn_arena arena;

    (void)state;
    make_search(&reply);
    arn_arena_init(&arena, NULL, 0);
    assert_int_equal(
        arn_milvus_parse_search((arn_slice){reply.data, reply.len}, &known, &arena, &search), 0);
    check_columns(search.columns, search.column_count);
    assert_true(search.session_ts == 99 && search.status.extra_count == 1);
    assert_memory_equal(search.status.extra[0].key.data, "report_value", 12);
    assert_memory_equal(search.primary_name.data, "pk", 2);
    assert_int_equal(search.topks.count, 2);
    assert_true(!search.ids_are_text && search.ids.u.ints[2] == 9);
    assert_int_equal(search.scores.count, 3);
    assert_int_equal(search.output_fields.count, 1);
    arn_arena_free(&arena);
    arn_buf_free(&reply);
}

static void queries(void **state) {
    arn_buf reply = ARN_BUF_INIT;
    arn_milvus_query query;
    arn_arena arena;

    (void)state;
    make_query(&reply);
    arn_arena_init(&arena, NULL, 0);
    assert_int_equal(
        arn_milvus_parse_query((arn_slice){reply.data, reply.len}, &known, &arena, &query), 0);
    check_columns(query.columns, query.column_count);
    assert_true(query.session_ts == 99);
    arn_arena_free(&arena);
    arn_buf_free(&reply);
}

/* Cut short anywhere, and with every byte in turn changed: never more than a refusal. */
static void replies_cut_and_changed(void **state) {
    arn_buf reply = ARN_BUF_INIT;
    arn_milvus_search search;
    arn_arena arena;
    arn_slice slice;
    size_t i, k;

    (void)state;
    make_search(&reply);
    for (i = 0; i < 2 * reply.len; i++) {
        char *copy = own_copy((arn_slice){reply.data, i < reply.len ? i : reply.len}, &slice);

        for (k = 0; k < (i < reply.len ? 1u : 8u); k++) {
            int r;

            if (i >= reply.len)
                copy[i - reply.len] = (char)(reply.data[i - reply.len] ^ (1 << k));
            arn_arena_init(&arena, NULL, 0);
            r = arn_milvus_parse_search(slice, &known, &arena, &search);
            assert_true(r == 0 || r == ARN_MILVUS_OTHER);
            arn_arena_free(&arena);
        }
        free(copy);
    }
    arn_buf_free(&reply);
}

static void unknown_fields(void **state) {
    arn_milvus_known knows = {{0}};
    arn_slice reply = SLICE("\x12\x07\x80\x01\x05\x92\x03\x01x"); /* results{16: 5, 50: "x"} */
    arn_milvus_search search;
    arn_arena arena;

    (void)state;
    arn_arena_init(&arena, NULL, 0);
    assert_int_equal(arn_milvus_parse_search(reply, &knows, &arena, &search), 0);
    knows.fields[ARN_MILVUS_SEARCH_RESULT_DATA] = (uint64_t)1 << 50;
    assert_int_equal(arn_milvus_parse_search(reply, &knows, &arena, &search), ARN_MILVUS_OTHER);
    arn_arena_free(&arena);
}

static void rows_cut_out(void **state) {
    arn_buf reply = ARN_BUF_INIT, cut = ARN_BUF_INIT, wrapped = ARN_BUF_INIT;
    arn_milvus_query query, again;
    arn_arena arena;

    (void)state;
    make_query(&reply);
    arn_arena_init(&arena, NULL, 0);
    assert_int_equal(
        arn_milvus_parse_query((arn_slice){reply.data, reply.len}, &known, &arena, &query), 0);
    assert_int_equal(arn_milvus_cut(&query.columns[4], 1, 3, &cut), 0); /* null, and row 2 */
    put_buf(&wrapped, 2, &cut);
    assert_int_equal(
        arn_milvus_parse_query((arn_slice){wrapped.data, wrapped.len}, &known, &arena, &again), 0);
    assert_int_equal(again.columns[0].valid.count, 2);
    assert_false(arn_milvus_is_valid(&again.columns[0], 0));
    assert_int_equal(again.columns[0].data.count, 2);
    assert_int_equal(again.columns[0].data.u.floats[0], 2);
    assert_true(again.columns[0].dim == 2 && arn_milvus_column_rows(&again.columns[0]) == 2);
    assert_int_equal(arn_milvus_cut(&query.columns[4], 2, 4, &cut), ARN_MILVUS_OTHER);
    assert_int_equal(arn_milvus_cut(&query.columns[2], 2, 4, &cut), ARN_MILVUS_OTHER);
    assert_int_equal(arn_milvus_cut(&query.columns[2], 3, 3, &cut), 0);
    arn_arena_free(&arena);
    arn_buf_free(&reply);
    arn_buf_free(&cut);
    arn_buf_free(&wrapped);
}

static void rows_of_columns(void **state) {
    static const struct {
        arn_milvus_type type;
        int64_t dim;
        size_t count; /* of floats, or bytes */
        int64_t rows;
    } cases[] = {
        {ARN_MILVUS_FLOAT_VECTOR, 2, 6, 3},        {ARN_MILVUS_FLOAT_VECTOR, 4, 6, -1},
        {ARN_MILVUS_FLOAT_VECTOR, 0, 0, -1},       {ARN_MILVUS_FLOAT_VECTOR, -1, 6, -1},
        {ARN_MILVUS_FLOAT16_VECTOR, 2, 8, 2},      {ARN_MILVUS_BFLOAT16_VECTOR, 2, 6, -1},
        {ARN_MILVUS_BINARY_VECTOR, 16, 6, 3},      {ARN_MILVUS_BINARY_VECTOR, 4, 6, -1},
        {ARN_MILVUS_INT8_VECTOR, 3, 6, 2},         {ARN_MILVUS_INT8_VECTOR, INT64_MAX, 6, -1},
        {ARN_MILVUS_SPARSE_FLOAT_VECTOR, 0, 6, 6}, {ARN_MILVUS_VARCHAR, 0, 6, 6},
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        arn_milvus_column column = {.type = cases[i].type, .dim = cases[i].dim, .has_data = 1};

        column.data.count = cases[i].count;
        assert_int_equal(arn_milvus_column_rows(&column), cases[i].rows);
        column.has_data = 0;
        assert_int_equal(arn_milvus_column_rows(&column), -1);
    }
}

/* ---- memory ---- */

static void replies_without_memory(void **state) {
    arn_buf reply = ARN_BUF_INIT;
    arn_milvus_search search;
    arn_arena arena;
    int r = ARN_ENOMEM;
    long n;

    (void)state;
    make_search(&reply);
    for (n = 0; r != 0; n++) {
        assert_true(n < 1000);
        arn_arena_init(&arena, NULL, 0);
        arn_alloc_fail_after(n);
        r = arn_milvus_parse_search((arn_slice){reply.data, reply.len}, &known, &arena, &search);
        arn_alloc_fail_after(-1);
        assert_true(r == 0 || r == ARN_ENOMEM);
        arn_arena_free(&arena);
    }
    assert_true(n > 1);
    arn_buf_free(&reply);
}

static void rows_without_memory(void **state) {
    arn_milvus_builder builder;

    (void)state;
    arn_milvus_builder_init(&builder, SLICE("x"), ARN_MILVUS_VARCHAR);
    arn_alloc_fail_after(0);
    assert_null(arn_milvus_add_entry(&builder, 3));
    arn_alloc_fail_after(0);
    assert_null(arn_milvus_add_raw(&builder, 3));
    arn_alloc_fail_after(0);
    assert_int_equal(arn_milvus_add_varint(&builder, 3), ARN_ENOMEM);
    arn_alloc_fail_after(0);
    assert_int_equal(arn_milvus_add_valid(&builder, 1, 3), ARN_ENOMEM);
    arn_alloc_fail_after(0);
    assert_int_equal(
        arn_milvus_add_array(&builder, arn_milvus_slot_of(ARN_MILVUS_INT64), "\x01", 1),
        ARN_ENOMEM);
    arn_alloc_fail_after(-1);
    assert_true(builder.data.len == 0 && builder.valid.len == 0);
    assert_non_null(arn_milvus_add_entry(&builder, 3));
    arn_milvus_builder_free(&builder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(varints),
        cmocka_unit_test(varints_too_long),
        cmocka_unit_test(fields),
        cmocka_unit_test(fields_that_cannot_be),
        cmocka_unit_test(utf8),
        cmocka_unit_test(searches),
        cmocka_unit_test(queries),
        cmocka_unit_test(replies_cut_and_changed),
        cmocka_unit_test(unknown_fields),
        cmocka_unit_test(rows_cut_out),
        cmocka_unit_test(rows_of_columns),
        cmocka_unit_test_teardown(replies_without_memory, hook_off),
        cmocka_unit_test_teardown(rows_without_memory, hook_off),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
