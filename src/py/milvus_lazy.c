/* milvus_lazy.c - what pymilvus puts off until somebody looks, JSON and vectors, done in C: the
 * values, and hits. For rows of queries see milvus_lazy_rows.c.
 *
 * HybridHits has a method materialize(), which its __iter__ and __getitem__ call. An instance whose
 * entities are not complete has a MilvusLazyHits of that name among its attributes, which goes
 * before the method, does the same and takes itself away. What it is not sure of it leaves to the
 * method: what that needs is there, too.
 */
#include "py/milvus_lazy.h"
#include "py/floats.h"

#include "base/status.h"
#include "milvus/field.h"

#include <string.h>

#define OTHER ARN_MILVUS_OTHER

typedef arn_py_milvus_lazy_reply lazy_reply;

typedef struct lazy_hits {
    PyObject_HEAD
    arn_py_milvus_replies *replies;
    lazy_reply *reply;  /* its columns are parsed when the first of its hits are looked at */
    PyObject *hits;     /* a weak reference: they hold this */
    PyObject *entities; /* tuple of the hits' dicts */
    PyObject *dynamic;  /* the set dynamic_fields */
    size_t start;       /* the first hit's row in the reply */
    int is_done;
} lazy_hits;

#define REPLY(op) ((lazy_reply *)(op))
#define HITS(op) ((lazy_hits *)(op))

/* ---- the reply ---- */

static void dealloc_reply(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);

    arn_arena_free(&REPLY(op)->arena);
    Py_XDECREF(REPLY(op)->bytes);
    type->tp_free(op);
    Py_DECREF(type);
}

PyObject *arn_py_milvus_new_lazy_reply(arn_py_state *st, PyObject *bytes) {
    PyTypeObject *type = st->milvus_lazy_reply_type;
    lazy_reply *self = (lazy_reply *)type->tp_alloc(type, 0);

    if (self == NULL)
        return NULL;
    self->bytes = Py_NewRef(bytes);
    arn_arena_init(&self->arena, NULL, 0);
    return (PyObject *)self;
}

/* 0, OTHER, or -1 with an exception set. */
static int parse(lazy_reply *self, const arn_milvus_known *known) {
    arn_slice slice = {PyBytes_AS_STRING(self->bytes), (size_t)PyBytes_GET_SIZE(self->bytes)};
    arn_milvus_search search;
    int r;

    if (self->is_parsed)
        return 0;
    r = arn_milvus_parse_search(slice, known, &self->arena, &search);
    if (r == 0) {
        self->columns = search.columns;
        self->column_count = search.column_count;
        self->is_parsed = 1;
    }
    if (r == ARN_ENOMEM) {
        PyErr_NoMemory();
        return -1;
    }
    return r;
}

/* ---- values ---- */

static PyObject *list_of_floats(const char *floats, size_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    size_t i;

    for (i = 0; list != NULL && i < count; i++) {
        PyObject *item;
        float x;

        memcpy(&x, floats + i * sizeof(x), sizeof(x));
        item = PyFloat_FromDouble((double)x);
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    if (list != NULL)
        arn_py_untrack_floats(list);
    return list;
}

/* utils.sparse_parse_single_row() */
static PyObject *dict_of_sparse(arn_slice row) {
    PyObject *dict = PyDict_New();
    size_t i;

    for (i = 0; dict != NULL && i < row.len; i += 8) {
        PyObject *key, *value;
        uint32_t index;
        float x;

        memcpy(&index, row.data + i, sizeof(index));
        memcpy(&x, row.data + i + 4, sizeof(x));
        key = PyLong_FromUnsignedLong(index);
        value = PyFloat_FromDouble((double)x);
        if (key == NULL || value == NULL || PyDict_SetItem(dict, key, value) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return dict;
}

static PyObject *bytes_at(const arn_milvus_column *column, size_t place, size_t size, int in_list) {
    PyObject *bytes =
        PyBytes_FromStringAndSize(column->data.u.bytes + place * size, (Py_ssize_t)size);
    PyObject *list;

    if (bytes == NULL || !in_list)
        return bytes;
    list = PyList_New(1);
    if (list == NULL)
        Py_DECREF(bytes);
    else
        PyList_SET_ITEM(list, 0, bytes);
    return list;
}

/* The vector at a place among those that are stored. NULL with an exception set, or in doubt
 * without. */
static PyObject *vector_at(const arn_milvus_column *column, size_t place, int is_row) {
    size_t size, have;

    if (column->type == ARN_MILVUS_SPARSE_FLOAT_VECTOR) {
        if (place >= column->data.count)
            Py_RETURN_NONE;
        if (column->data.u.slices[place].len % 8 != 0)
            return NULL;
        return dict_of_sparse(column->data.u.slices[place]);
    }
    size = arn_milvus_row_size(column);
    if (size == 0)
        return NULL;
    have = column->data.count * (column->type == ARN_MILVUS_FLOAT_VECTOR ? 4 : 1);
    if (have / size <= place)
        Py_RETURN_NONE;
    if (column->type == ARN_MILVUS_FLOAT_VECTOR)
        return list_of_floats(column->data.u.floats + place * size, size / 4);
    return bytes_at(column, place, size, is_row);
}

static PyObject *json_at(PyObject *loads, const arn_milvus_column *column, size_t i) {
    PyObject *bytes, *value;
    arn_slice text;

    if (i >= column->data.count)
        Py_RETURN_NONE;
    text = column->data.u.slices[i];
    bytes = PyBytes_FromStringAndSize(text.data, (Py_ssize_t)text.len);
    value = bytes == NULL ? NULL : PyObject_CallOneArg(loads, bytes);
    Py_XDECREF(bytes);
    return value;
}

/* ---- filling the dicts; 0, OTHER, or -1 with an exception set ---- */

/* The dynamic field's value into the dict: all of it, or what is wanted. */
static int update_dynamic(const arn_py_milvus_filling *how, PyObject *dict, PyObject *value) {
    PyObject *key, *item;
    Py_ssize_t pos = 0;

    if (!PyDict_CheckExact(value))
        return OTHER;
    if (PySet_GET_SIZE(how->dynamic) == 0)
        return PyDict_Merge(dict, value, !how->is_row);
    while (PyDict_Next(value, &pos, &key, &item)) {
        int r = PySet_Contains(how->dynamic, key);

        if (r > 0 && how->is_row)
            r = PyDict_SetDefault(dict, key, item) == NULL ? -1 : 0;
        else if (r > 0)
            r = PyDict_SetItem(dict, key, item);
        if (r < 0)
            return -1;
    }
    return 0;
}

int arn_py_milvus_fill(const arn_py_milvus_filling *how, const arn_milvus_column *column,
                       PyObject *name, PyObject *dict, size_t i, size_t place) {
    PyObject *value;
    int r;

    if (!arn_milvus_is_valid(column, i))
        value = Py_NewRef(Py_None);
    else if (column->type == ARN_MILVUS_JSON)
        value = json_at(how->loads, column, i);
    else
        value = vector_at(column, place, how->is_row);
    if (value == NULL)
        return PyErr_Occurred() ? -1 : OTHER;
    if (column->is_dynamic && column->type == ARN_MILVUS_JSON && value != Py_None)
        r = update_dynamic(how, dict, value);
    else
        r = PyDict_SetItem(dict, name, value);
    Py_DECREF(value);
    return r;
}

static int fill_column(lazy_hits *self, const arn_milvus_column *column) {
    const arn_py_milvus_filling how = {.loads = self->replies->loads, .dynamic = self->dynamic};
    Py_ssize_t count = PyTuple_GET_SIZE(self->entities), k;
    size_t end = self->start + (size_t)count, place = self->start, i;
    PyObject *name;
    int r = 0;

    if (column->valid.count > 0) {
        if (column->valid.count < end)
            return OTHER;
        for (i = place = 0; i < self->start; i++)
            place += column->valid.u.bools[i];
    }
    name = arn_py_milvus_text(column->name);
    if (name == NULL)
        return -1;
    for (k = 0; r == 0 && k < count; k++) {
        i = self->start + (size_t)k;
        r = arn_py_milvus_fill(&how, column, name, PyTuple_GET_ITEM(self->entities, k), i, place);
        place += arn_milvus_is_valid(column, i) != 0;
    }
    Py_DECREF(name);
    return r;
}

static int fill(lazy_hits *self) {
    const lazy_reply *reply = self->reply;
    size_t k;
    int r = parse(self->reply, &self->replies->known);

    for (k = 0; r == 0 && k < reply->column_count; k++)
        if (arn_py_milvus_is_lazy(&reply->columns[k]))
            r = fill_column(self, &reply->columns[k]);
    return r;
}

/* ---- MilvusLazyHits ---- */

PyObject *arn_py_milvus_alive(PyObject *weak) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *object = NULL;

    if (PyWeakref_GetRef(weak, &object) < 0)
        PyErr_Clear();
    return object;
#else
    PyObject *object = PyWeakref_GetObject(weak);

    return object == NULL || object == Py_None ? NULL : Py_NewRef(object);
#endif
}

/* The class's own method does it, or raises what is to be raised. */
static PyObject *leave_it(lazy_hits *self, PyObject *hits) {
    PyObject *method, *made;

    if (hits == NULL) { /* a copy of them is looked at */
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a field of the hits is malformed");
        return NULL;
    }
    PyErr_Clear();
    method = PyObject_GetAttr((PyObject *)Py_TYPE(hits),
                              self->replies->names[ARN_PY_MILVUS_NAME_materialize]);
    made = method == NULL ? NULL : PyObject_CallOneArg(method, hits);
    Py_XDECREF(method);
    return made;
}

static PyObject *call_hits(PyObject *op, PyObject *args, PyObject *kwargs) {
    lazy_hits *self = HITS(op);
    PyObject *const *names = self->replies->names;
    PyObject *hits, *made;
    int r = 0;

    if (PyTuple_GET_SIZE(args) != 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0)) {
        PyErr_SetString(PyExc_TypeError, "materialize() takes no arguments");
        return NULL;
    }
    if (self->is_done)
        Py_RETURN_NONE;
    hits = arn_py_milvus_alive(self->hits);
    r = fill(self);
    if (r != 0 && (r == OTHER || PyErr_ExceptionMatches(PyExc_Exception))) {
        made = leave_it(self, hits);
    } else {
        made = r == 0 ? Py_NewRef(Py_None) : NULL;
        if (r == 0 && hits != NULL &&
            PyObject_SetAttr(hits, names[ARN_PY_MILVUS_NAME_has_materialized], Py_True) < 0)
            Py_CLEAR(made);
    }
    if (made != NULL) {
        self->is_done = 1;
        if (hits != NULL && PyObject_SetAttr(hits, names[ARN_PY_MILVUS_NAME_materialize], NULL) < 0)
            PyErr_Clear(); /* somebody has taken it away */
    }
    Py_XDECREF(hits);
    return made;
}

static int traverse_hits(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(HITS(op)->replies);
    Py_VISIT(HITS(op)->hits);
    Py_VISIT(HITS(op)->entities);
    Py_VISIT(HITS(op)->dynamic);
    return 0;
}

static int clear_hits(PyObject *op) {
    Py_CLEAR(HITS(op)->entities);
    Py_CLEAR(HITS(op)->dynamic);
    return 0;
}

static void dealloc_hits(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    clear_hits(op);
    Py_CLEAR(HITS(op)->replies);
    Py_CLEAR(HITS(op)->reply);
    Py_CLEAR(HITS(op)->hits);
    type->tp_free(op);
    Py_DECREF(type);
}

int arn_py_milvus_put_off(arn_py_milvus_replies *replies, PyObject *hits, PyObject *reply,
                          PyObject *entities, PyObject *dynamic, size_t start) {
    PyTypeObject *type = replies->state->milvus_lazy_hits_type;
    lazy_hits *self;

    if (!PyAnySet_CheckExact(dynamic) || !PyTuple_CheckExact(entities)) {
        PyErr_BadInternalCall();
        return -1;
    }
    self = (lazy_hits *)type->tp_alloc(type, 0);
    if (self == NULL)
        return -1;
    self->replies = (arn_py_milvus_replies *)Py_NewRef(replies);
    self->reply = (lazy_reply *)Py_NewRef(reply);
    self->entities = Py_NewRef(entities);
    self->dynamic = Py_NewRef(dynamic);
    self->start = start;
    self->hits = PyWeakref_NewRef(hits, NULL);
    if (self->hits == NULL) {
        Py_DECREF(self);
        return -1;
    }
    return arn_py_milvus_set(replies, hits, ARN_PY_MILVUS_NAME_materialize, (PyObject *)self);
}

static PyType_Slot reply_slots[] = {{Py_tp_dealloc, dealloc_reply}, {0, NULL}};

static PyType_Spec reply_spec = {
    .name = "arshai_native._core.MilvusLazyReply",
    .basicsize = sizeof(lazy_reply),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reply_slots,
};

static PyType_Slot hits_slots[] = {
    {Py_tp_dealloc, dealloc_hits},
    {Py_tp_traverse, traverse_hits},
    {Py_tp_clear, clear_hits},
    {Py_tp_call, call_hits},
    {0, NULL},
};

static PyType_Spec hits_spec = {
    .name = "arshai_native._core.MilvusLazyHits",
    .basicsize = sizeof(lazy_hits),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = hits_slots,
};

int arn_py_init_milvus_lazy(PyObject *module, arn_py_state *st) {
    st->milvus_lazy_reply_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &reply_spec, NULL);
    st->milvus_lazy_hits_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &hits_spec, NULL);
    return st->milvus_lazy_reply_type == NULL || st->milvus_lazy_hits_type == NULL ? -1 : 0;
}
