/* milvus_schema.c - MilvusSchema: the fields_data of inserts and upserts. */
#include "py/milvus_schema.h"

#include "milvus/wire.h"

#include <stddef.h>
#include <string.h>

#define SELF(op) ((arn_py_milvus_schema *)(op))
#define OTHER ARN_MILVUS_OTHER

/* Of InsertRequest and UpsertRequest alike. */
#define FIELD_DATA 5
#define NUM_ROWS 7

#define MAX_HINTS 64

static const char META[] = "$meta";

/* One request under construction. */
typedef struct request_build {
    arn_py_milvus_schema *schema;
    arn_py_milvus_build *builds; /* as many as the schema has columns */
    arn_milvus_builder meta;     /* the dynamic field */
    size_t rows;
    int is_upsert;
    int is_partial;
    /* The place of the n-th key of the last row: rows tend to be alike. */
    Py_ssize_t hints[MAX_HINTS];
} request_build;

static int begin(request_build *b, arn_py_milvus_schema *schema, int is_upsert, int is_partial) {
    static const arn_slice meta = {META, sizeof(META) - 1};
    Py_ssize_t i;

    memset(b, 0, sizeof(*b));
    b->schema = schema;
    b->is_upsert = is_upsert;
    b->is_partial = is_partial;
    b->builds =
        PyMem_Calloc(schema->count > 0 ? (size_t)schema->count : 1, sizeof(arn_py_milvus_build));
    if (b->builds == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (i = 0; i < schema->count; i++) {
        arn_py_milvus_column *column = &schema->columns[i];

        b->builds[i].column = column;
        b->builds[i].is_written = is_upsert || !column->is_auto_id;
        arn_milvus_builder_init(&b->builds[i].builder, column->utf8, column->type);
    }
    arn_milvus_builder_init(&b->meta, meta, ARN_MILVUS_JSON);
    b->meta.field.is_dynamic = 1;
    return 0;
}

static void end(request_build *b) {
    Py_ssize_t i;

    for (i = 0; b->builds != NULL && i < b->schema->count; i++)
        arn_milvus_builder_free(&b->builds[i].builder);
    PyMem_Free(b->builds);
    arn_milvus_builder_free(&b->meta);
}

/* The key of an auto_id field among the first row's (or the columns') makes that a field like any
 * other. 0 or -1. */
static int find_auto_id(request_build *b, PyObject *keys) {
    Py_ssize_t i;

    for (i = 0; i < b->schema->count; i++) {
        arn_py_milvus_build *build = &b->builds[i];

        if (!build->is_written) {
            int r = PyDict_Contains(keys, build->column->name);
            if (r < 0)
                return -1;
            build->is_written = r;
        }
    }
    return 0;
}

/* A name that no field has: may it go into the dynamic field? 0, OTHER, or -1. */
static int check_extra(const request_build *b, PyObject *key) {
    int r;

    if (!b->schema->is_dynamic || PyUnicode_CompareWithASCIIString(key, META) == 0)
        return OTHER;
    r = PySet_Contains(b->schema->outputs, key);
    return r == 0 ? 0 : r < 0 ? -1 : OTHER;
}

/* The build for the n-th key of a row; NULL in *out: it is no field of this request. 0, OTHER, -1.
 */
static int find_build(request_build *b, PyObject *key, size_t n, arn_py_milvus_build **out) {
    arn_py_milvus_schema *schema = b->schema;
    PyObject *place;
    Py_ssize_t i;

    *out = NULL;
    if (n < MAX_HINTS && b->hints[n] < schema->count && schema->columns[b->hints[n]].name == key) {
        i = b->hints[n];
    } else {
        if (!PyUnicode_CheckExact(key))
            return OTHER;
        place = PyDict_GetItemWithError(schema->index, key);
        if (place == NULL)
            return PyErr_Occurred() ? -1 : 0;
        i = PyLong_AsSsize_t(place);
        if (n < MAX_HINTS)
            b->hints[n] = i;
    }
    if (b->builds[i].is_written)
        *out = &b->builds[i];
    return 0;
}

/* ---- rows ---- */

static int add_pairs(request_build *b, PyObject *row, PyObject **extra) {
    PyObject *key, *value;
    Py_ssize_t pos = 0;
    size_t n = 0;
    int r = 0;

    while (r == 0 && PyDict_Next(row, &pos, &key, &value)) {
        arn_py_milvus_build *build;

        /* JSON may run code that changes the row. */
        Py_INCREF(key);
        Py_INCREF(value);
        r = find_build(b, key, n++, &build);
        if (r == 0 && build != NULL) {
            if (build->seen == b->rows)
                r = OTHER;
            build->seen = b->rows;
            if (r == 0)
                r = arn_py_milvus_pack(b->schema, build, value);
        } else if (r == 0) {
            r = check_extra(b, key);
            if (r == 0 && *extra == NULL && (*extra = PyDict_New()) == NULL)
                r = -1;
            if (r == 0 && PyDict_SetItem(*extra, key, value) < 0)
                r = -1;
        }
        Py_DECREF(key);
        Py_DECREF(value);
    }
    return r;
}

static int add_missing(request_build *b) {
    Py_ssize_t i;

    for (i = 0; i < b->schema->count; i++) {
        arn_py_milvus_build *build = &b->builds[i];

        if (build->is_written && build->seen != b->rows && !b->is_partial) {
            int r = arn_py_milvus_pack_null(build, 1);
            if (r != 0)
                return r;
        }
    }
    return 0;
}

static int add_dynamic(request_build *b, PyObject *extra) {
    b->meta.field.has_data = 1;
    b->meta.rows++;
    if (extra == NULL) {
        char *p = arn_milvus_add_entry(&b->meta, 2);

        if (p == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        memcpy(p, "{}", 2);
        return 0;
    }
    return arn_py_milvus_pack_json(b->schema, &b->meta, extra);
}

static int add_row(request_build *b, PyObject *row) {
    PyObject *extra = NULL;
    int r;

    if (!PyDict_CheckExact(row))
        return OTHER;
    b->rows++;
    r = add_pairs(b, row, &extra);
    if (r == 0)
        r = add_missing(b);
    if (r == 0 && b->schema->is_dynamic)
        r = add_dynamic(b, extra);
    Py_XDECREF(extra);
    return r;
}

/* Room for as much again as the first row took. Not having it is no failure. */
static void expect_rows(request_build *b, Py_ssize_t more) {
    Py_ssize_t i;

    for (i = 0; i < b->schema->count; i++) {
        arn_buf *data = &b->builds[i].builder.data;

        if (data->len >= 256 && data->len < (size_t)1 << 24 && more < 1 << 20)
            arn_buf_reserve(data, data->len * (size_t)more);
    }
}

static int add_rows(request_build *b, PyObject *rows) {
    Py_ssize_t count = PyList_GET_SIZE(rows), i;
    int r = 0;

    if (count == 0 || !PyDict_CheckExact(PyList_GET_ITEM(rows, 0)))
        return OTHER;
    if (!b->is_upsert && find_auto_id(b, PyList_GET_ITEM(rows, 0)) < 0)
        return -1;
    for (i = 0; r == 0 && i < count; i++) {
        PyObject *row;

        if (PyList_GET_SIZE(rows) != count)
            return OTHER;
        row = Py_NewRef(PyList_GET_ITEM(rows, i));
        r = add_row(b, row);
        Py_DECREF(row);
        if (i == 0)
            expect_rows(b, count - 1);
    }
    return r;
}

/* ---- columns ---- */

/* len(), or -1: it has none, and no exception is set. */
static Py_ssize_t rows_of(arn_py_state *st, PyObject *values) {
    arn_py_csr csr;
    Py_ssize_t count;

    if (arn_py_csr_take(st, values, &csr) == 0) {
        count = csr.rows;
        arn_py_csr_release(&csr);
        return count;
    }
    PyErr_Clear();
    count = PyObject_Size(values);
    if (count < 0)
        PyErr_Clear();
    return count;
}

/* Columns that are no fields: each row's pairs go into the dynamic field. */
static int add_extra_columns(request_build *b, PyObject *extra) {
    PyObject *names = PyDict_Keys(extra), *lists = PyDict_Values(extra);
    Py_ssize_t count = names == NULL ? 0 : PyList_GET_SIZE(names), k;
    size_t i;
    int r = names == NULL || lists == NULL ? -1 : 0;

    for (i = 0; r == 0 && i < b->rows; i++) {
        PyObject *row = PyDict_New();

        r = row == NULL ? -1 : 0;
        for (k = 0; r == 0 && k < count; k++) {
            PyObject *list = PyList_GET_ITEM(lists, k);
            if ((size_t)PySequence_Fast_GET_SIZE(list) <= i)
                r = OTHER;
            else if (PyDict_SetItem(row, PyList_GET_ITEM(names, k),
                                    PySequence_Fast_GET_ITEM(list, (Py_ssize_t)i)) < 0)
                r = -1;
        }
        if (r == 0)
            r = add_dynamic(b, count > 0 ? row : NULL);
        Py_XDECREF(row);
    }
    Py_XDECREF(names);
    Py_XDECREF(lists);
    return r;
}

/* As a list, or itself if it is a sequence that is known. */
static PyObject *as_list(PyObject *values) {
    PyObject *list;

    if (arn_py_is_sequence(values))
        return Py_NewRef(values);
    list = PyObject_CallMethod(values, "tolist", NULL);
    if (list != NULL && !PyList_CheckExact(list)) {
        Py_DECREF(list);
        PyErr_SetString(PyExc_TypeError, "no list");
        return NULL;
    }
    return list;
}

static int add_column(request_build *b, PyObject *name, PyObject *values, PyObject *extra) {
    arn_py_milvus_build *build;
    PyObject *list;
    int r = PyUnicode_CheckExact(name) ? find_build(b, name, MAX_HINTS, &build) : OTHER;

    if (r != 0)
        return r;
    if (rows_of(b->schema->state, values) != (Py_ssize_t)b->rows)
        return OTHER;
    if (build != NULL) {
        build->seen = 1;
        return arn_py_milvus_pack_all(b->schema, build, values, (Py_ssize_t)b->rows);
    }
    r = check_extra(b, name);
    if (r != 0)
        return r;
    list = as_list(values);
    if (list == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError))
            return -1;
        PyErr_Clear();
        return OTHER;
    }
    r = PyDict_SetItem(extra, name, list);
    Py_DECREF(list);
    return r;
}

static int add_columns(request_build *b, PyObject *columns) {
    PyObject *extra = PyDict_New(), *items = PyDict_Items(columns);
    Py_ssize_t count = items == NULL ? 0 : PyList_GET_SIZE(items), i, rows;
    int r = extra == NULL || items == NULL ? -1 : 0;

    if (r == 0 && count == 0)
        r = OTHER;
    if (r == 0 && !b->is_upsert)
        r = find_auto_id(b, columns);
    if (r == 0) {
        rows = rows_of(b->schema->state, PyTuple_GET_ITEM(PyList_GET_ITEM(items, 0), 1));
        r = rows <= 0 ? OTHER : 0;
        b->rows = rows <= 0 ? 0 : (size_t)rows;
    }
    for (i = 0; r == 0 && i < count; i++) {
        PyObject *pair = PyList_GET_ITEM(items, i);
        r = add_column(b, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1), extra);
    }
    for (i = 0; r == 0 && i < b->schema->count; i++)
        if (b->builds[i].is_written && b->builds[i].seen == 0 && !b->is_partial)
            r = arn_py_milvus_pack_null(&b->builds[i], b->rows);
    if (r == 0 && b->schema->is_dynamic)
        r = add_extra_columns(b, extra);
    Py_XDECREF(extra);
    Py_XDECREF(items);
    return r;
}

/* ---- the request ---- */

static int is_written(const arn_py_milvus_build *build) {
    return build->is_written && build->builder.rows > 0;
}

/* Every column has all rows, those that are there. */
static int is_even(const request_build *b) {
    Py_ssize_t i;

    for (i = 0; i < b->schema->count; i++) {
        const arn_py_milvus_build *build = &b->builds[i];

        if (build->is_written && build->builder.rows != b->rows &&
            (build->builder.rows != 0 || !b->is_partial))
            return 0;
    }
    return 1;
}

static PyObject *write_request(request_build *b, const Py_buffer *front) {
    arn_py_milvus_schema *schema = b->schema;
    size_t size = (size_t)front->len + arn_pb_int_size(b->rows);
    PyObject *made;
    Py_ssize_t i;
    int pass;
    char *p = NULL;

    /* An auto_id field of an insert comes last, as pymilvus appends it. */
    for (i = 0; i < schema->count; i++)
        if (is_written(&b->builds[i]))
            size +=
                arn_pb_bytes_size(arn_milvus_field_size(arn_milvus_finish(&b->builds[i].builder)));
    if (schema->is_dynamic)
        size += arn_pb_bytes_size(arn_milvus_field_size(arn_milvus_finish(&b->meta)));
    made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (made == NULL)
        return NULL;
    p = PyBytes_AS_STRING(made);
    if (front->len > 0)
        memcpy(p, front->buf, (size_t)front->len);
    p += front->len;
    for (pass = 0; pass < 2; pass++)
        for (i = 0; i < schema->count; i++) {
            const arn_milvus_field *field = &b->builds[i].builder.field;

            if (!is_written(&b->builds[i]) ||
                pass != (!b->is_upsert && schema->columns[i].is_auto_id))
                continue;
            p = arn_pb_put_head(p, FIELD_DATA, arn_milvus_field_size(field));
            p = arn_milvus_put_field(p, field);
        }
    if (schema->is_dynamic) {
        p = arn_pb_put_head(p, FIELD_DATA, arn_milvus_field_size(&b->meta.field));
        p = arn_milvus_put_field(p, &b->meta.field);
    }
    arn_pb_put_int(p, NUM_ROWS, b->rows);
    return made;
}

static PyObject *make_request(PyObject *op, PyObject *args, PyObject *kwargs, int by_columns) {
    static char *names[] = {"data", "upsert", "partial", "front", NULL};
    int is_upsert = 0, is_partial = 0, r;
    PyObject *data, *made = NULL;
    Py_buffer front = {.buf = NULL, .len = 0};
    request_build build;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$ppy*:rows", names, &data, &is_upsert,
                                     &is_partial, &front))
        return NULL;
    if (by_columns ? !PyDict_CheckExact(data) : !PyList_CheckExact(data)) {
        PyBuffer_Release(&front);
        Py_RETURN_NONE;
    }
    if (begin(&build, SELF(op), is_upsert, is_upsert && is_partial) < 0) {
        PyBuffer_Release(&front);
        return NULL;
    }
    r = by_columns ? add_columns(&build, data) : add_rows(&build, data);
    if (r == 0 && !is_even(&build))
        r = OTHER;
    if (r == 0)
        made = write_request(&build, &front);
    end(&build);
    PyBuffer_Release(&front);
    if (r == OTHER)
        Py_RETURN_NONE;
    return made;
}

static PyObject *schema_rows(PyObject *op, PyObject *args, PyObject *kwargs) {
    return make_request(op, args, kwargs, 0);
}

static PyObject *schema_columns(PyObject *op, PyObject *args, PyObject *kwargs) {
    return make_request(op, args, kwargs, 1);
}

/* ---- the type ---- */

static int traverse_schema(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(SELF(op)->index);
    Py_VISIT(SELF(op)->outputs);
    Py_VISIT(SELF(op)->dumps);
    Py_VISIT(SELF(op)->loads);
    return 0;
}

static int clear_schema(PyObject *op) {
    Py_CLEAR(SELF(op)->dumps);
    Py_CLEAR(SELF(op)->loads);
    return 0;
}

static void dealloc_schema(PyObject *op) {
    arn_py_milvus_schema *self = SELF(op);
    PyTypeObject *type = Py_TYPE(op);
    Py_ssize_t i;

    PyObject_GC_UnTrack(op);
    clear_schema(op);
    Py_CLEAR(self->index);
    Py_CLEAR(self->outputs);
    for (i = 0; i < self->count; i++)
        Py_XDECREF(self->columns[i].name);
    PyMem_Free(self->columns);
    type->tp_free(op);
    Py_DECREF(type);
}

/* (name, type, element type, dim, takes null, is auto_id) */
static int read_column(arn_py_milvus_schema *self, PyObject *tuple) {
    arn_py_milvus_column *column = &self->columns[self->count];
    int type, element, r;
    PyObject *name, *place;
    Py_ssize_t len;
    long long dim;

    if (!PyArg_ParseTuple(tuple, "UiiLpp:MilvusSchema", &name, &type, &element, &dim,
                          &column->takes_null, &column->is_auto_id))
        return -1;
    column->type = (arn_milvus_type)type;
    column->element = (arn_milvus_type)element;
    column->dim = dim;
    if (arn_milvus_slot_of(column->type).number == 0 ||
        (type == ARN_MILVUS_ARRAY &&
         (element == ARN_MILVUS_ARRAY || element == ARN_MILVUS_JSON ||
          arn_milvus_is_vector(element) || arn_milvus_slot_of(element).number == 0))) {
        PyErr_Format(PyExc_ValueError, "the field %R is of an unknown type", name);
        return -1;
    }
    column->name = Py_NewRef(name);
    PyUnicode_InternInPlace(&column->name);
    place = PyLong_FromSsize_t(self->count);
    self->count++;
    column->utf8.data = PyUnicode_AsUTF8AndSize(column->name, &len);
    if (column->utf8.data == NULL || place == NULL) {
        Py_XDECREF(place);
        return -1;
    }
    column->utf8.len = (size_t)len;
    r = PyDict_SetDefault(self->index, column->name, place) == place ? 0 : -1;
    Py_DECREF(place);
    if (r < 0 && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "two fields are named %R", name);
    return r;
}

static PyObject *new_schema(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"columns", "outputs", "dynamic", "dumps", "loads", NULL};
    arn_py_state *st = arn_py_state_of_type(type);
    PyObject *columns, *outputs, *dumps, *loads;
    arn_py_milvus_schema *self;
    Py_ssize_t i;
    int dynamic;

    if (st == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "O!O$pOO:MilvusSchema", names, &PyList_Type,
                                     &columns, &outputs, &dynamic, &dumps, &loads))
        return NULL;
    self = (arn_py_milvus_schema *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = st;
    self->is_dynamic = dynamic;
    self->dumps = Py_NewRef(dumps);
    self->loads = Py_NewRef(loads);
    self->outputs = PyFrozenSet_New(outputs);
    self->index = PyDict_New();
    self->columns = PyMem_Calloc((size_t)PyList_GET_SIZE(columns) + 1, sizeof(*self->columns));
    if (self->columns == NULL)
        PyErr_NoMemory();
    if (self->outputs == NULL || self->index == NULL || self->columns == NULL)
        goto fail;
    for (i = 0; i < PyList_GET_SIZE(columns); i++)
        if (read_column(self, PyList_GET_ITEM(columns, i)) < 0)
            goto fail;
    return (PyObject *)self;

fail:
    Py_DECREF(self);
    return NULL;
}

#define KEYWORDS(function) (PyCFunction)(void (*)(void))(function), METH_VARARGS | METH_KEYWORDS

static PyMethodDef schema_methods[] = {
    {"rows", KEYWORDS(schema_rows), NULL},
    {"columns", KEYWORDS(schema_columns), NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot schema_slots[] = {
    {Py_tp_new, new_schema},     {Py_tp_dealloc, dealloc_schema}, {Py_tp_traverse, traverse_schema},
    {Py_tp_clear, clear_schema}, {Py_tp_methods, schema_methods}, {0, NULL},
};

static PyType_Spec schema_spec = {
    .name = "arshai_native._core.MilvusSchema",
    .basicsize = sizeof(arn_py_milvus_schema),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = schema_slots,
};

int arn_py_init_milvus_schema(PyObject *module, arn_py_state *st) {
    PyObject *type = PyType_FromModuleAndSpec(module, &schema_spec, NULL);
    int r;

    (void)st;
    if (type == NULL)
        return -1;
    r = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return r;
}
