/* milvus_lazy_rows.c - what pymilvus puts off until somebody looks at a row of a query, done in C.
 *
 * HybridExtraList has a list of bools, _materialized_bitmap, and its __getitem__, through which all
 * of its own methods go, asks it whether a row is complete. Here that list is a MilvusLazyRows: a
 * list with the same bools in it, which completes a row when it is asked and so says True. What it
 * is not sure of it leaves: it says False, and __getitem__ goes on as ever. Copied or pickled it is
 * a plain list, whose owner completes its own rows as pymilvus does. Only [] asks; everything else
 * sees what is complete so far.
 */
#include "py/milvus_lazy.h"

#include "milvus/field.h"

#define OTHER ARN_MILVUS_OTHER
#define NAME(name) (self->replies->names[ARN_PY_MILVUS_NAME_##name])

typedef struct lazy_column {
    const arn_milvus_column *column;
    const size_t *places; /* of the rows among those that are stored; NULL: all are */
} lazy_column;

typedef struct lazy_rows {
    PyListObject list;
    arn_py_milvus_replies *replies;
    arn_py_milvus_lazy_reply *reply; /* NULL: nothing is to be done any more */
    PyObject *names;                 /* tuple of the columns' */
    const lazy_column *columns;      /* in the reply's arena */
    PyObject *rows;                  /* a weak reference: they hold this */
    PyObject *messages;              /* their _lazy_field_data, of these columns */
    Py_ssize_t count;                /* of the reply's rows */
    Py_ssize_t left;                 /* of them, those that have not been completed here */
} lazy_rows;

#define ROWS(op) ((lazy_rows *)(op))

/* ---- completing a row; 0, OTHER, or -1 with an exception set ---- */

/* What it is done with: of the list's own, which may let go of it meanwhile, and those attributes
 * of the rows' that bear on it. New references. */
typedef struct lazy_way {
    PyObject *reply, *names;
    const lazy_column *columns;
    PyObject *messages, *dynamic, *strict, *arrays;
} lazy_way;

static int read_way(lazy_rows *self, PyObject *rows, lazy_way *way) {
    PyObject *made;

    way->reply = Py_NewRef(self->reply);
    way->names = Py_NewRef(self->names);
    way->columns = self->columns;
    if ((way->messages = PyObject_GetAttr(rows, NAME(_lazy_field_data))) == NULL ||
        (way->dynamic = PyObject_GetAttr(rows, NAME(_dynamic_fields))) == NULL ||
        (way->strict = PyObject_GetAttr(rows, NAME(_strict_float32))) == NULL)
        return -1;
    if (way->messages != self->messages ||
        PyList_GET_SIZE(way->messages) != PyTuple_GET_SIZE(way->names) ||
        !PyAnySet_CheckExact(way->dynamic) || !PyBool_Check(way->strict))
        return OTHER;
    if (way->strict == Py_False)
        return 0;
    if ((made = PyObject_CallMethodNoArgs(rows, NAME(_pre_materialize_float_vector))) == NULL)
        return -1;
    Py_DECREF(made);
    if ((way->arrays = PyObject_GetAttr(rows, NAME(_float_vector_np_array))) == NULL)
        return -1;
    return PyDict_CheckExact(way->arrays) ? 0 : OTHER;
}

static void drop_way(lazy_way *way) {
    Py_XDECREF(way->messages);
    Py_XDECREF(way->dynamic);
    Py_XDECREF(way->strict);
    Py_XDECREF(way->arrays);
    Py_XDECREF(way->names);
    Py_XDECREF(way->reply);
}

/* Float vectors of strict_float32 are pieces of one array. */
static int fill_piece(const arn_milvus_column *column, PyObject *name, PyObject *arrays,
                      PyObject *row, size_t place) {
    Py_ssize_t dim = (Py_ssize_t)(arn_milvus_row_size(column) / 4), have;
    Py_ssize_t at = (Py_ssize_t)place;
    PyObject *array, *piece;
    int r;

    array = PyDict_GetItemWithError(arrays, name);
    if (array == NULL || dim == 0)
        return PyErr_Occurred() ? -1 : OTHER;
    Py_INCREF(array);
    have = PyObject_Size(array);
    if (have < 0)
        piece = NULL;
    else if (have / dim <= at)
        piece = Py_NewRef(Py_None);
    else
        piece = PySequence_GetSlice(array, at * dim, (at + 1) * dim);
    Py_DECREF(array);
    r = piece == NULL ? -1 : PyDict_SetItem(row, name, piece);
    Py_XDECREF(piece);
    return r;
}

static int fill(lazy_rows *self, const lazy_way *way, PyObject *row, size_t i) {
    const arn_py_milvus_filling how = {
        .loads = self->replies->loads, .dynamic = way->dynamic, .is_row = 1};
    Py_ssize_t k;
    int r = 0;

    for (k = 0; r == 0 && k < PyTuple_GET_SIZE(way->names); k++) {
        const lazy_column *lazy = &way->columns[k];
        PyObject *name = PyTuple_GET_ITEM(way->names, k);
        size_t place = lazy->places == NULL ? i : lazy->places[i];

        if (way->strict == Py_True && lazy->column->type == ARN_MILVUS_FLOAT_VECTOR &&
            arn_milvus_is_valid(lazy->column, i))
            r = fill_piece(lazy->column, name, way->arrays, row, place);
        else
            r = arn_py_milvus_fill(&how, lazy->column, name, row, i, place);
    }
    return r;
}

static int complete(lazy_rows *self, Py_ssize_t i) {
    PyObject *rows = arn_py_milvus_alive(self->rows), *row = NULL;
    lazy_way way = {NULL};
    int r;

    if (rows == NULL)
        return OTHER;
    r = read_way(self, rows, &way);
    /* With rows added or taken away pymilvus counts from the ends of two lists. */
    if (r == 0 && PyList_GET_SIZE(rows) != self->count)
        r = OTHER;
    if (r == 0) {
        row = Py_NewRef(PyList_GET_ITEM(rows, i));
        /* pymilvus 3 has rows that belong to another one of the reply. */
        r = PyDict_CheckExact(row) ? PyDict_Contains(row, NAME(_original_idx)) : OTHER;
        if (r > 0)
            r = OTHER;
    }
    if (r == 0)
        r = fill(self, &way, row, (size_t)i);
    Py_XDECREF(row);
    drop_way(&way);
    Py_DECREF(rows);
    return r;
}

static void let_go(lazy_rows *self) {
    Py_CLEAR(self->reply);
    Py_CLEAR(self->names);
    Py_CLEAR(self->messages);
}

/* ---- MilvusLazyRows ---- */

static PyObject *subscript(PyObject *op, PyObject *key) {
    lazy_rows *self = ROWS(op);
    Py_ssize_t i, size = PyList_GET_SIZE(op);
    int r;

    if (self->reply == NULL || size != self->count || !PyLong_CheckExact(key))
        return PyList_Type.tp_as_mapping->mp_subscript(op, key);
    i = PyLong_AsSsize_t(key);
    if (i == -1 && PyErr_Occurred())
        PyErr_Clear(); /* the list will say so */
    else if (i < 0)
        i += size;
    if (i < 0 || i >= size || PyList_GET_ITEM(op, i) != Py_False)
        return PyList_Type.tp_as_mapping->mp_subscript(op, key);
    r = complete(self, i);
    if (r < 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear(); /* pymilvus will raise it */
    }
    if (r == 0 && i < PyList_GET_SIZE(op) && PyList_GET_ITEM(op, i) == Py_False) {
        PyList_SetItem(op, i, Py_NewRef(Py_True));
        if (--self->left == 0)
            let_go(self);
    }
    return PyList_Type.tp_as_mapping->mp_subscript(op, key);
}

/* (list, ([False, ...],)) */
static PyObject *reduce(PyObject *op, PyObject *unused) {
    PyObject *copy = PyList_GetSlice(op, 0, PyList_GET_SIZE(op));

    (void)unused;
    return copy == NULL ? NULL : Py_BuildValue("O(N)", &PyList_Type, copy);
}

static int traverse(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(ROWS(op)->replies);
    Py_VISIT(ROWS(op)->rows);
    Py_VISIT(ROWS(op)->messages);
    return PyList_Type.tp_traverse(op, visit, arg);
}

static int clear(PyObject *op) {
    let_go(ROWS(op));
    return PyList_Type.tp_clear(op);
}

static void dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    let_go(ROWS(op));
    Py_CLEAR(ROWS(op)->rows);
    Py_CLEAR(ROWS(op)->replies);
    PyList_Type.tp_dealloc(op);
    Py_DECREF(type);
}

/* Where vectors that are null have no place among those that are stored: the places of the others.
 * NULL without an exception: none. */
static const size_t *places_of(const arn_milvus_column *column, arn_arena *arena) {
    size_t *places, i, place = 0;

    if (column->type == ARN_MILVUS_JSON || column->valid.count == 0)
        return NULL;
    places = arn_arena_alloc(arena, column->valid.count * sizeof(*places));
    if (places == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (i = 0; i < column->valid.count; i++) {
        places[i] = place;
        place += column->valid.u.bools[i];
    }
    return places;
}

/* Finds the columns that are put off, and their names. */
static int find_columns(lazy_rows *self, Py_ssize_t count) {
    arn_py_milvus_lazy_reply *reply = self->reply;
    lazy_column *columns;
    Py_ssize_t n = 0;
    size_t k;

    columns = arn_arena_alloc(&reply->arena, (size_t)count * sizeof(*columns));
    self->names = PyTuple_New(count);
    if (columns == NULL || self->names == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (k = 0; k < reply->column_count && n < count; k++) {
        const arn_milvus_column *column = &reply->columns[k];
        PyObject *name;

        if (!arn_py_milvus_is_lazy(column))
            continue;
        name = arn_py_milvus_text(column->name);
        if (name == NULL)
            return -1;
        PyTuple_SET_ITEM(self->names, n, name);
        columns[n].column = column;
        columns[n].places = places_of(column, &reply->arena);
        if (columns[n++].places == NULL && PyErr_Occurred())
            return -1;
    }
    self->columns = columns;
    return 0;
}

PyObject *arn_py_milvus_lazy_rows(arn_py_milvus_replies *replies, PyObject *rows, PyObject *reply,
                                  PyObject *messages, PyObject *bitmap) {
    PyTypeObject *type = replies->state->milvus_lazy_rows_type;
    PyObject *op = type->tp_alloc(type, 0);
    lazy_rows *self = ROWS(op);

    if (op == NULL)
        return NULL;
    self->replies = (arn_py_milvus_replies *)Py_NewRef(replies);
    self->reply = (arn_py_milvus_lazy_reply *)Py_NewRef(reply);
    self->messages = Py_NewRef(messages);
    self->count = self->left = PyList_GET_SIZE(bitmap);
    self->rows = PyWeakref_NewRef(rows, NULL);
    if (self->rows == NULL || PyList_SetSlice(op, 0, 0, bitmap) < 0 ||
        find_columns(self, PyList_GET_SIZE(messages)) < 0)
        Py_CLEAR(op);
    return op;
}

static PyMethodDef methods[] = {
    {"__reduce__", reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, dealloc},     {Py_tp_traverse, traverse}, {Py_tp_clear, clear},
    {Py_mp_subscript, subscript}, {Py_tp_methods, methods},   {0, NULL},
};

static PyType_Spec spec = {
    .name = "arshai_native._core.MilvusLazyRows",
    .basicsize = sizeof(lazy_rows),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int arn_py_init_milvus_lazy_rows(PyObject *module, arn_py_state *st) {
    st->milvus_lazy_rows_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, (PyObject *)&PyList_Type);
    return st->milvus_lazy_rows_type == NULL ? -1 : 0;
}
