/* milvus_query.c - replies to queries as pymilvus's lists of rows. */
#include "py/milvus_replies.h"

#include "base/status.h"
#include "milvus/wire.h"

#include <string.h>

#define SELF(op) ((arn_py_milvus_replies *)(op))
#define NAME(name) (self->names[ARN_PY_MILVUS_NAME_##name])
#define SET(object, name, value) arn_py_milvus_set(self, object, ARN_PY_MILVUS_NAME_##name, value)

static int is_meta(const arn_milvus_column *column) {
    return column->name.len == 5 && memcmp(column->name.data, "$meta", 5) == 0;
}

/* How many rows, or -1: pymilvus may raise, or count otherwise. */
static int64_t count_rows(const arn_milvus_query *query) {
    int64_t rows = -1;
    size_t k;

    for (k = 0; k < query->column_count; k++) {
        const arn_milvus_column *column = &query->columns[k];
        int64_t own = arn_milvus_column_rows(column);

        if (own < 0 || (k > 0 && own != rows) ||
            (column->valid.count > 0 && column->valid.count < (uint64_t)own) ||
            (is_meta(column) && !arn_py_milvus_is_lazy(column)))
            return -1;
        rows = own;
    }
    return rows;
}

/* {name: None}, in order, for all columns but the dynamic one; and their names, NULL for those that
 * wait. */
static PyObject *make_template(const arn_milvus_query *query, PyObject **names) {
    PyObject *row = PyDict_New();
    size_t k;

    for (k = 0; row != NULL && k < query->column_count; k++) {
        const arn_milvus_column *column = &query->columns[k];
        PyObject *name;

        names[k] = NULL;
        if (is_meta(column))
            continue;
        name = arn_py_milvus_text(column->name);
        if (name == NULL || PyDict_SetItem(row, name, Py_None) < 0)
            Py_CLEAR(row);
        else if (!arn_py_milvus_is_lazy(column))
            names[k] = name; /* the template holds it */
        Py_XDECREF(name);
    }
    return row;
}

static PyObject *row_at(const arn_milvus_query *query, PyObject *template, PyObject *const *names,
                        size_t i) {
    PyObject *row = PyDict_Copy(template);
    size_t k;

    for (k = 0; row != NULL && k < query->column_count; k++) {
        const arn_milvus_column *column = &query->columns[k];
        PyObject *value;

        if (names[k] == NULL || !arn_milvus_is_valid(column, i))
            continue;
        value = arn_py_milvus_cell(column, i);
        if (value == NULL || PyDict_SetItem(row, names[k], value) < 0)
            Py_CLEAR(row);
        Py_XDECREF(value);
    }
    return row;
}

static PyObject *rows_of(const arn_milvus_query *query, PyObject **names, Py_ssize_t count) {
    PyObject *template = make_template(query, names);
    PyObject *rows = template == NULL ? NULL : PyList_New(count);
    Py_ssize_t i;

    for (i = 0; rows != NULL && i < count; i++) {
        PyObject *row = row_at(query, template, names, (size_t)i);
        if (row == NULL)
            Py_CLEAR(rows);
        else
            PyList_SET_ITEM(rows, i, row);
    }
    Py_XDECREF(template);
    return rows;
}

/* pymilvus's: the cost even if it is none, and the session's time. */
static PyObject *extra_of(arn_py_milvus_replies *self, const arn_milvus_query *query) {
    PyObject *extra = PyDict_New(), *made = NULL;
    PyObject *zero = PyLong_FromLong(0);
    PyObject *session = PyLong_FromUnsignedLongLong(query->session_ts);

    if (extra != NULL && zero != NULL && session != NULL &&
        PyDict_SetItem(extra, NAME(cost), zero) == 0 &&
        arn_py_milvus_put_extra(self, &query->status, extra, 1) == 0 &&
        PyDict_SetItem(extra, NAME(iterator_session_ts), session) == 0)
        made = PyObject_CallOneArg(self->rows_extra, extra);
    Py_XDECREF(extra);
    Py_XDECREF(zero);
    Py_XDECREF(session);
    return made;
}

static PyObject *bitmap_of(Py_ssize_t count) {
    PyObject *bitmap = PyList_New(count);
    Py_ssize_t i;

    for (i = 0; bitmap != NULL && i < count; i++)
        PyList_SET_ITEM(bitmap, i, Py_NewRef(Py_False));
    return bitmap;
}

/* entity_helper.extract_dynamic_field_from_result(): none if the dynamic field itself is wanted. */
static PyObject *dynamic_of(const arn_milvus_query *query) {
    const arn_milvus_column *dynamic = NULL;
    size_t i;

    for (i = 0; i < query->column_count; i++)
        if (query->columns[i].is_dynamic)
            dynamic = &query->columns[i];
    for (i = 0; dynamic != NULL && i < query->output_fields.count; i++) {
        if (arn_pb_same(query->output_fields.u.slices[i], dynamic->name))
            return PySet_New(NULL);
    }
    return arn_py_milvus_missing(&query->output_fields, query->columns, query->column_count);
}

static PyObject *make_rows(arn_py_milvus_replies *self, const arn_milvus_query *query,
                           arn_arena *arena, PyObject *strict_float32) {
    PyObject *rows = NULL, *list = NULL;
    PyObject **names;
    int64_t count;

    count = count_rows(query);
    if (query->status.code != 0 || query->status.error_code != 0 || count < 0 ||
        arn_py_milvus_names_clash(query->columns, query->column_count))
        Py_RETURN_NONE;
    names = arn_arena_alloc(arena, query->column_count * sizeof(*names));
    if (names == NULL)
        return PyErr_NoMemory();
    rows = rows_of(query, names, (Py_ssize_t)count);
    list = rows == NULL ? NULL : arn_py_milvus_new(self, self->rows);
    if (list == NULL || PyList_SetSlice(list, 0, 0, rows) < 0 ||
        SET(list, _lazy_field_data,
            arn_py_milvus_lazy(self, query->columns, query->column_count, 0, 0, 0)) < 0 ||
        SET(list, _dynamic_fields, dynamic_of(query)) < 0 ||
        SET(list, extra, extra_of(self, query)) < 0 ||
        SET(list, _float_vector_np_array, PyDict_New()) < 0 ||
        SET(list, _has_materialized_float_vector, Py_NewRef(Py_False)) < 0 ||
        SET(list, _strict_float32, Py_NewRef(strict_float32)) < 0 ||
        SET(list, _materialized_bitmap, bitmap_of((Py_ssize_t)count)) < 0) {
        Py_XDECREF(rows);
        Py_XDECREF(list);
        return arn_py_milvus_leave_it();
    }
    Py_DECREF(rows);
    return list;
}

PyObject *arn_py_milvus_query(PyObject *op, PyObject *const *args, Py_ssize_t count) {
    arn_py_milvus_replies *self = SELF(op);
    char memory[ARN_PY_MILVUS_FIRST_MEMORY];
    arn_milvus_query query;
    arn_arena arena;
    Py_buffer view;
    arn_slice slice;
    PyObject *made;
    int r;

    if (arn_py_milvus_check_count("query", count, 2) < 0 ||
        PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    slice.data = view.buf;
    slice.len = (size_t)view.len;
    arn_arena_init(&arena, memory, sizeof(memory));
    r = arn_milvus_parse_query(slice, &self->known, &arena, &query);
    if (r == 0)
        made = make_rows(self, &query, &arena, args[1]);
    else
        made = r == ARN_ENOMEM ? PyErr_NoMemory() : Py_NewRef(Py_None);
    arn_arena_free(&arena);
    PyBuffer_Release(&view);
    return made;
}
