/* milvus_pack.c - Python values as the rows of a column: one, or all at once. */
#include "py/milvus_schema.h"

#include <string.h>

#define OTHER ARN_MILVUS_OTHER

static int no_memory(void) {
    PyErr_NoMemory();
    return -1;
}

/* After an exception that pymilvus would raise as well, in words of its own. */
static int leave_it(void) {
    if (PyErr_ExceptionMatches(PyExc_MemoryError) || !PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyErr_Clear();
    return OTHER;
}

/* ---- scalars ---- */

static int int_of(arn_py_state *st, PyObject *value, int64_t *out) {
    int overflow = 0, r;

    if (PyLong_CheckExact(value)) {
        *out = PyLong_AsLongLongAndOverflow(value, &overflow);
        return overflow != 0 ? OTHER : 0;
    }
    r = arn_py_is_numpy_integer(st, value);
    if (r <= 0)
        return r < 0 ? -1 : OTHER;
    value = PyNumber_Index(value);
    if (value == NULL)
        return leave_it();
    *out = PyLong_AsLongLongAndOverflow(value, &overflow);
    Py_DECREF(value);
    return overflow != 0 ? OTHER : 0;
}

static int is_int32(int64_t value) {
    return value >= INT32_MIN && value <= INT32_MAX;
}

static int put_double(arn_milvus_builder *builder, arn_milvus_type type, double x) {
    float y = (float)x;
    size_t size = type == ARN_MILVUS_FLOAT ? sizeof(y) : sizeof(x);
    char *p = arn_milvus_add_raw(builder, size);

    if (p == NULL)
        return no_memory();
    memcpy(p, type == ARN_MILVUS_FLOAT ? (const void *)&y : (const void *)&x, size);
    return 0;
}

static int put_text(arn_milvus_builder *builder, PyObject *value) {
    Py_ssize_t len;
    const char *utf8;
    char *p;

    if (!PyUnicode_CheckExact(value))
        return OTHER;
    utf8 = PyUnicode_AsUTF8AndSize(value, &len);
    if (utf8 == NULL)
        return leave_it();
    p = arn_milvus_add_entry(builder, (size_t)len);
    if (p == NULL)
        return no_memory();
    memcpy(p, utf8, (size_t)len);
    return 0;
}

/* A scalar into the builder, whose field may be of another type: that of the array around it. */
static int pack_scalar(arn_py_state *st, arn_milvus_builder *builder, arn_milvus_type type,
                       PyObject *value) {
    int64_t n;
    double x;
    int r;

    switch (type) {
    case ARN_MILVUS_BOOL:
        if (!PyBool_Check(value))
            return OTHER;
        return arn_milvus_add_varint(builder, value == Py_True) < 0 ? no_memory() : 0;
    case ARN_MILVUS_INT8:
    case ARN_MILVUS_INT16:
    case ARN_MILVUS_INT32:
    case ARN_MILVUS_INT64:
        r = int_of(st, value, &n);
        if (r != 0)
            return r;
        if (type != ARN_MILVUS_INT64 && !is_int32(n))
            return OTHER;
        return arn_milvus_add_varint(builder, (uint64_t)n) < 0 ? no_memory() : 0;
    case ARN_MILVUS_FLOAT:
    case ARN_MILVUS_DOUBLE:
        r = arn_py_milvus_double(st, value, &x);
        return r != 0 ? r : put_double(builder, type, x);
    case ARN_MILVUS_VARCHAR:
        return put_text(builder, value);
    default:
        return OTHER;
    }
}

int arn_py_milvus_pack_json(arn_py_milvus_schema *schema, arn_milvus_builder *builder,
                            PyObject *value) {
    PyObject *text;
    int r;
    char *p;

    if (PyUnicode_Check(value)) { /* JSON already, if it is any */
        PyObject *parsed;

        if (!PyUnicode_CheckExact(value))
            return OTHER;
        parsed = PyObject_CallOneArg(schema->loads, value);
        if (parsed == NULL)
            return leave_it();
        Py_DECREF(parsed);
        return put_text(builder, value);
    }
    /* What orjson does not take (numpy's numbers, keys that are no str, great depth) pymilvus
     * converts or refuses. */
    text = PyObject_CallOneArg(schema->dumps, value);
    if (text == NULL)
        return leave_it();
    if (!PyBytes_CheckExact(text)) {
        Py_DECREF(text);
        return OTHER;
    }
    p = arn_milvus_add_entry(builder, (size_t)PyBytes_GET_SIZE(text));
    r = p == NULL ? no_memory() : 0;
    if (r == 0)
        memcpy(p, PyBytes_AS_STRING(text), (size_t)PyBytes_GET_SIZE(text));
    Py_DECREF(text);
    return r;
}

static int pack_array(arn_py_milvus_schema *schema, arn_py_milvus_build *build, PyObject *value) {
    arn_milvus_type element = build->column->element;
    arn_slice no_name = {NULL, 0};
    arn_milvus_builder cell;
    Py_ssize_t i;
    int r = 0;

    if (!arn_py_is_sequence(value))
        return OTHER;
    arn_milvus_builder_init(&cell, no_name, element);
    for (i = 0; r == 0 && i < PySequence_Fast_GET_SIZE(value); i++)
        r = pack_scalar(schema->state, &cell, element, PySequence_Fast_GET_ITEM(value, i));
    if (r == 0 &&
        arn_milvus_add_array(&build->builder, cell.field.slot, cell.data.data, cell.data.len) < 0)
        r = no_memory();
    arn_milvus_builder_free(&cell);
    return r;
}

/* ---- vectors ---- */

/* Before a vector of n numbers is added: the column holds float32 values. */
static int begin_floats(arn_py_milvus_build *build, size_t n) {
    arn_milvus_field *field = &build->builder.field;

    if (build->has_bytes)
        return OTHER;
    build->has_floats = 1;
    field->slot = arn_milvus_slot_of(ARN_MILVUS_FLOAT_VECTOR);
    field->dim = (int64_t)n; /* the last one's: pymilvus does not compare */
    field->has_vectors = field->has_data = 1;
    return 0;
}

static int begin_bytes(arn_py_milvus_build *build) {
    arn_milvus_field *field = &build->builder.field;

    if (build->has_floats)
        return OTHER;
    build->has_bytes = 1;
    field->dim = build->column->dim;
    field->has_vectors = field->has_data = 1;
    return 0;
}

static int is_half(arn_milvus_type type) {
    return type == ARN_MILVUS_FLOAT16_VECTOR || type == ARN_MILVUS_BFLOAT16_VECTOR;
}

/* Numbers for a vector of halves pass through numpy, which warns of what is too large. */
static arn_py_overflow overflow_of(const arn_py_milvus_build *build) {
    return is_half(build->column->type) ? ARN_PY_OVERFLOW_REFUSED : ARN_PY_OVERFLOW_IS_INFINITE;
}

static int pack_float_sequence(arn_py_state *st, arn_py_milvus_build *build, PyObject *value) {
    size_t n = (size_t)PySequence_Fast_GET_SIZE(value);
    int r = begin_floats(build, n);
    char *p = r == 0 ? arn_milvus_add_raw(&build->builder, 4 * n) : NULL;

    if (r == 0 && p == NULL)
        return no_memory();
    return r != 0 ? r : arn_py_milvus_put_floats(st, p, value, overflow_of(build));
}

/* Does the type take this kind of array as it is? */
static int is_raw_kind(arn_milvus_type type, char kind) {
    switch (type) {
    case ARN_MILVUS_BINARY_VECTOR:
        return kind == 'B';
    case ARN_MILVUS_FLOAT16_VECTOR:
        return kind == 'e';
    case ARN_MILVUS_INT8_VECTOR:
        return kind == 'b';
    default:
        return 0;
    }
}

static int pack_block_row(arn_py_milvus_build *build, const arn_py_block *block, Py_ssize_t i) {
    arn_milvus_type type = build->column->type;
    size_t n = (size_t)block->columns;
    int r;
    char *p;

    if ((block->kind == 'f' || block->kind == 'd') &&
        (type == ARN_MILVUS_FLOAT_VECTOR || is_half(type))) {
        r = begin_floats(build, n);
        if (r != 0)
            return r;
        p = arn_milvus_add_raw(&build->builder, 4 * n);
        return p == NULL ? no_memory() : arn_py_block_put_floats(block, i, p, overflow_of(build));
    }
    if (!is_raw_kind(type, block->kind))
        return OTHER;
    r = begin_bytes(build);
    if (r != 0)
        return r;
    p = arn_milvus_add_raw(&build->builder, n * (size_t)block->item_size);
    if (p == NULL)
        return no_memory();
    arn_py_block_put_raw(block, i, p);
    return 0;
}

static int pack_vector_array(arn_py_state *st, arn_py_milvus_build *build, PyObject *value) {
    arn_py_block block;
    int r = arn_py_block_take(st, value, &block);

    if (r != 0)
        return r;
    r = block.rows >= 0 ? OTHER : pack_block_row(build, &block, 0);
    arn_py_block_release(&block);
    return r;
}

static int pack_vector(arn_py_state *st, arn_py_milvus_build *build, PyObject *value) {
    arn_milvus_type type = build->column->type;
    int r;
    char *p;

    /* Tuples are numbers to protobuf, but not to the branch for halves. */
    if ((PyList_CheckExact(value) && (type == ARN_MILVUS_FLOAT_VECTOR || is_half(type))) ||
        (PyTuple_CheckExact(value) && type == ARN_MILVUS_FLOAT_VECTOR))
        return pack_float_sequence(st, build, value);
    if (!PyBytes_CheckExact(value))
        return pack_vector_array(st, build, value);
    if (type == ARN_MILVUS_FLOAT_VECTOR)
        return OTHER;
    r = begin_bytes(build);
    if (r != 0)
        return r;
    p = arn_milvus_add_raw(&build->builder, (size_t)PyBytes_GET_SIZE(value));
    if (p == NULL)
        return no_memory();
    memcpy(p, PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value));
    return 0;
}

static int put_sparse(arn_py_milvus_build *build, char *data, size_t len) {
    arn_milvus_field *field = &build->builder.field;
    char *p = arn_milvus_add_entry(&build->builder, len);

    if (p != NULL)
        memcpy(p, data, len);
    PyMem_Free(data);
    field->has_vectors = field->has_data = 1;
    return p == NULL ? no_memory() : 0;
}

static int pack_sparse(arn_py_state *st, arn_py_milvus_build *build, PyObject *value) {
    char *data;
    size_t len;
    int r = arn_py_milvus_sparse(st, value, &data, &len);

    return r != 0 ? r : put_sparse(build, data, len);
}

/* ---- rows ---- */

int arn_py_milvus_pack_null(arn_py_milvus_build *build, size_t rows) {
    arn_milvus_field *field = &build->builder.field;

    if (!build->column->takes_null)
        return OTHER;
    if (arn_milvus_add_valid(&build->builder, 0, rows) < 0)
        return no_memory();
    build->builder.rows += rows;
    if (!arn_milvus_is_vector(field->type)) {
        field->has_data = 1;
    } else if (field->type != ARN_MILVUS_SPARSE_FLOAT_VECTOR && field->dim == 0) {
        field->has_vectors = 1;
        field->dim = build->column->dim;
    }
    return 0;
}

int arn_py_milvus_pack(arn_py_milvus_schema *schema, arn_py_milvus_build *build, PyObject *value) {
    arn_milvus_type type = build->column->type;
    arn_milvus_builder *builder = &build->builder;
    int r;

    if (value == Py_None)
        return arn_py_milvus_pack_null(build, 1);
    if (build->column->takes_null && arn_milvus_add_valid(builder, 1, 1) < 0)
        return no_memory();
    builder->rows++;
    if (!arn_milvus_is_vector(type))
        builder->field.has_data = 1;
    if (type == ARN_MILVUS_JSON)
        r = arn_py_milvus_pack_json(schema, builder, value);
    else if (type == ARN_MILVUS_ARRAY)
        r = pack_array(schema, build, value);
    else if (type == ARN_MILVUS_SPARSE_FLOAT_VECTOR)
        r = pack_sparse(schema->state, build, value);
    else if (arn_milvus_is_vector(type))
        r = pack_vector(schema->state, build, value);
    else
        r = pack_scalar(schema->state, builder, type, value);
    return r;
}

/* ---- whole columns ---- */

/* All rows have a value. */
static int begin_all(arn_py_milvus_build *build, Py_ssize_t rows) {
    if (build->column->takes_null && arn_milvus_add_valid(&build->builder, 1, (size_t)rows) < 0)
        return no_memory();
    build->builder.rows += (size_t)rows;
    return 0;
}

static int pack_vectors(arn_py_milvus_build *build, const arn_py_block *block) {
    Py_ssize_t i;
    int r = begin_all(build, block->rows);

    if (r == 0 && block->columns > 0 &&
        arn_buf_reserve(&build->builder.data,
                        (size_t)block->rows * (size_t)block->columns *
                            (size_t)(block->item_size > 4 ? 4 : block->item_size)) == NULL)
        return no_memory();
    for (i = 0; r == 0 && i < block->rows; i++)
        r = pack_block_row(build, block, i);
    return r;
}

static int pack_numbers(arn_py_milvus_build *build, const arn_py_block *block) {
    arn_milvus_type type = build->column->type;
    arn_milvus_builder *builder = &build->builder;
    int is_float = block->kind == 'f' || block->kind == 'd';
    int is_int = block->kind != '?' && block->kind != 'e' && !is_float;
    Py_ssize_t i;
    int r = begin_all(build, block->columns);

    builder->field.has_data = 1;
    for (i = 0; r == 0 && i < block->columns; i++) {
        switch (type) {
        case ARN_MILVUS_BOOL:
            if (block->kind != '?')
                return OTHER;
            if (arn_milvus_add_varint(builder, arn_py_block_int(block, 0, i) != 0) < 0)
                return no_memory();
            break;
        case ARN_MILVUS_INT8:
        case ARN_MILVUS_INT16:
        case ARN_MILVUS_INT32:
        case ARN_MILVUS_INT64:
            if (!is_int || (type != ARN_MILVUS_INT64 && !is_int32(arn_py_block_int(block, 0, i))))
                return OTHER;
            if (arn_milvus_add_varint(builder, (uint64_t)arn_py_block_int(block, 0, i)) < 0)
                return no_memory();
            break;
        case ARN_MILVUS_FLOAT:
        case ARN_MILVUS_DOUBLE:
            if (!is_int && !is_float)
                return OTHER;
            r = put_double(builder, type, arn_py_block_double(block, 0, i));
            break;
        default:
            return OTHER;
        }
    }
    return r;
}

static int pack_csr(arn_py_milvus_schema *schema, arn_py_milvus_build *build, PyObject *values,
                    Py_ssize_t rows) {
    arn_py_csr csr;
    Py_ssize_t i;
    int r = arn_py_csr_take(schema->state, values, &csr);

    if (r != 0)
        return r;
    r = csr.rows != rows ? OTHER : begin_all(build, rows);
    for (i = 0; r == 0 && i < rows; i++) {
        char *data;
        size_t len;

        r = arn_py_csr_row(&csr, i, &data, &len);
        if (r == 0)
            r = put_sparse(build, data, len);
    }
    arn_py_csr_release(&csr);
    return r;
}

static int pack_sequence(arn_py_milvus_schema *schema, arn_py_milvus_build *build, PyObject *values,
                         Py_ssize_t rows) {
    Py_ssize_t i;
    int r = 0;

    for (i = 0; r == 0 && i < rows; i++) {
        PyObject *value;

        if (PySequence_Fast_GET_SIZE(values) != rows) /* JSON may run any code */
            return OTHER;
        value = Py_NewRef(PySequence_Fast_GET_ITEM(values, i));
        r = arn_py_milvus_pack(schema, build, value);
        Py_DECREF(value);
    }
    return rows > 0 || PySequence_Fast_GET_SIZE(values) == 0 ? r : OTHER;
}

/* An array of texts or objects, as a list. */
static int pack_objects(arn_py_milvus_schema *schema, arn_py_milvus_build *build, PyObject *values,
                        Py_ssize_t rows) {
    PyObject *list = PyObject_CallMethod(values, "tolist", NULL);
    int r;

    if (list == NULL)
        return leave_it();
    r = PyList_CheckExact(list) ? pack_sequence(schema, build, list, rows) : OTHER;
    Py_DECREF(list);
    return r;
}

int arn_py_milvus_pack_all(arn_py_milvus_schema *schema, arn_py_milvus_build *build,
                           PyObject *values, Py_ssize_t rows) {
    arn_milvus_type type = build->column->type;
    arn_py_block block;
    int r;

    if (arn_py_is_sequence(values))
        return pack_sequence(schema, build, values, rows);
    if (type == ARN_MILVUS_SPARSE_FLOAT_VECTOR)
        return pack_csr(schema, build, values, rows);
    r = arn_py_is_array(schema->state, values);
    if (r <= 0)
        return r < 0 ? -1 : OTHER;
    if (type == ARN_MILVUS_VARCHAR || type == ARN_MILVUS_JSON || type == ARN_MILVUS_ARRAY)
        return pack_objects(schema, build, values, rows);
    r = arn_py_block_take(schema->state, values, &block);
    if (r == OTHER && !arn_milvus_is_vector(type))
        return pack_objects(schema, build, values, rows);
    if (r != 0)
        return r;
    if (arn_milvus_is_vector(type))
        r = block.rows == rows ? pack_vectors(build, &block) : OTHER;
    else
        r = block.rows < 0 && block.columns == rows ? pack_numbers(build, &block) : OTHER;
    arn_py_block_release(&block);
    return r;
}
