/* milvus_query.c - replies to queries as pymilvus's lists of rows. */
#include "py/milvus_lazy.h"

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

/* What says which rows are complete: none yet. */
static PyObject *bitmap_of(arn_py_milvus_replies *self, PyObject *rows, PyObject *reply,
                           PyObject *messages) {
    Py_ssize_t count = PyList_GET_SIZE(rows), i;
    PyObject *bitmap = PyList_New(count), *lazy;

    for (i = 0; bitmap != NULL && i < count; i++)
        PyList_SET_ITEM(bitmap, i, Py_NewRef(Py_False));
    if (bitmap == NULL || count == 0 || PyList_GET_SIZE(messages) == 0)
        return bitmap;
    lazy = arn_py_milvus_lazy_rows(self, rows, reply, messages, bitmap);
    Py_DECREF(bitmap);
    return lazy;
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

/* HybridExtraList.__init__() */
static int init_rows(arn_py_milvus_replies *self, const arn_milvus_query *query, PyObject *list,
                     PyObject *reply, PyObject *strict_float32) {
    PyObject *messages = arn_py_milvus_lazy(self, query->columns, query->column_count, 0, 0, 0);
    int r;

    if (messages == NULL)
        return -1;
    r = SET(list, _lazy_field_data, Py_NewRef(messages)) < 0 ||
        SET(list, _dynamic_fields, dynamic_of(query)) < 0 ||
        SET(list, extra, extra_of(self, query)) < 0 ||
        SET(list, _float_vector_np_array, PyDict_New()) < 0 ||
        SET(list, _has_materialized_float_vector, Py_NewRef(Py_False)) < 0 ||
        SET(list, _strict_float32, Py_NewRef(strict_float32)) < 0 ||
        SET(list, _materialized_bitmap, bitmap_of(self, list, reply, messages)) < 0;
    Py_DECREF(messages);
    return r ? -1 : 0;
}

static PyObject *make_rows(arn_py_milvus_replies *self, const arn_milvus_query *query,
                           arn_py_milvus_lazy_reply *reply, PyObject *strict_float32) {
    PyObject *rows = NULL, *list = NULL;
    PyObject **names;
    int64_t count;

    count = count_rows(query);
    if (query->status.code != 0 || query->status.error_code != 0 || count < 0 ||
        arn_py_milvus_names_clash(query->columns, query->column_count))
        Py_RETURN_NONE;
    names = arn_arena_alloc(&reply->arena, query->column_count * sizeof(*names));
    if (names == NULL)
        return PyErr_NoMemory();
    rows = rows_of(query, names, (Py_ssize_t)count);
    list = rows == NULL ? NULL : arn_py_milvus_new(self, self->rows);
    if (list == NULL || PyList_SetSlice(list, 0, 0, rows) < 0 ||
        init_rows(self, query, list, (PyObject *)reply, strict_float32) < 0) {
        Py_XDECREF(rows);
        Py_XDECREF(list);
        return arn_py_milvus_leave_it();
    }
    Py_DECREF(rows);
    return list;
}

/* The object itself, or what is in its buffer. */
static PyObject *bytes_of(PyObject *object) {
    PyObject *bytes;
    Py_buffer view;

    if (PyBytes_CheckExact(object))
        return Py_NewRef(object);
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    bytes = PyBytes_FromStringAndSize(view.buf, view.len);
    PyBuffer_Release(&view);
    return bytes;
}

PyObject *arn_py_milvus_query(PyObject *op, PyObject *const *args, Py_ssize_t count) {
    arn_py_milvus_replies *self = SELF(op);
    arn_py_milvus_lazy_reply *reply;
    PyObject *bytes, *made;
    arn_milvus_query query;
    arn_slice slice;
    int r;

    if (arn_py_milvus_check_count("query", count, 2) < 0 || (bytes = bytes_of(args[0])) == NULL)
        return NULL;
    reply = (arn_py_milvus_lazy_reply *)arn_py_milvus_new_lazy_reply(self->state, bytes);
    Py_DECREF(bytes);
    if (reply == NULL)
        return NULL;
    slice.data = PyBytes_AS_STRING(reply->bytes);
    slice.len = (size_t)PyBytes_GET_SIZE(reply->bytes);
    r = arn_milvus_parse_query(slice, &self->known, &reply->arena, &query);
    if (r == 0) {
        reply->columns = query.columns;
        reply->column_count = query.column_count;
        reply->is_parsed = 1;
        made = make_rows(self, &query, reply, args[1]);
    } else {
        made = r == ARN_ENOMEM ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    Py_DECREF(reply);
    return made;
}
