/* http_vectors.c - HttpResponse.embeddings(): the vectors of a reply, and Vectors, which lends
 * their memory to arrays. */
#include "py/http_vectors.h"
#include "py/http.h"

#include "py/model.h"

#include <math.h>

/* The float32 memory of a reply: exported through the buffer protocol, so that numpy arrays share
 * it. It lies in an op, or is its own. */
typedef struct arn_py_vectors {
    PyObject_HEAD
    arn_op *op; /* referenced; NULL: memory is owned */
    float *floats;
    Py_ssize_t count;
} arn_py_vectors;

static void dealloc_vectors(PyObject *o) {
    arn_py_vectors *self = (arn_py_vectors *)o;
    PyTypeObject *type = Py_TYPE(o);

    if (self->op != NULL)
        arn_op_unref(self->op);
    else
        PyMem_Free(self->floats);
    type->tp_free(o);
    Py_DECREF(type);
}

static int get_buffer(PyObject *o, Py_buffer *view, int flags) {
    arn_py_vectors *self = (arn_py_vectors *)o;

    /* Writable: nothing else is made of this memory. */
    return PyBuffer_FillInfo(view, o, self->floats, self->count * (Py_ssize_t)sizeof(float), 0,
                             flags);
}

static PyType_Slot vectors_slots[] = {
    {Py_tp_dealloc, dealloc_vectors},
    {Py_bf_getbuffer, get_buffer},
    {0, NULL},
};

static PyType_Spec vectors_spec = {
    .name = "arshai_native._core.Vectors",
    .basicsize = sizeof(arn_py_vectors),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = vectors_slots,
};

static PyObject *new_vectors(arn_py_state *st, arn_op *op, float *floats, size_t count) {
    PyTypeObject *type = st->vectors_type;
    arn_py_vectors *self = (arn_py_vectors *)type->tp_alloc(type, 0);

    if (self == NULL) {
        if (op == NULL)
            PyMem_Free(floats);
        return NULL;
    }
    if (op != NULL)
        arn_op_ref(op);
    self->op = op;
    self->floats = floats;
    self->count = (Py_ssize_t)count;
    return (PyObject *)self;
}

/* ---- the document ---- */

static int bad(const char *what, size_t index) {
    PyErr_Format(PyExc_ValueError, "the embeddings reply is malformed: %s (item %zu)", what, index);
    return -1;
}

/* A number of any kind; NAN is one, too: the server's to send, the caller's to see. */
static int number_of(const arn_value *value, double *out) {
    switch (value->kind) {
    case ARN_INT:
        *out = (double)value->u.integer;
        return 0;
    case ARN_DOUBLE:
        *out = value->u.number;
        return 0;
    case ARN_BIGINT:
        *out = arn_json_number(value->u.bytes, value->len);
        return 0;
    default:
        return -1;
    }
}

/* The vectors in the order of their index. NULL with an exception set; PyMem. */
static const arn_value **ordered(const arn_value *data) {
    const arn_value **vectors;
    size_t i, j, len;

    if (data == NULL || data->kind != ARN_ARRAY || data->len == 0) {
        PyErr_SetString(PyExc_ValueError, "No embedding data received");
        return NULL;
    }
    vectors = PyMem_Calloc(data->len, sizeof(*vectors));
    if (vectors == NULL)
        return (const arn_value **)(void *)PyErr_NoMemory();
    for (i = 0; i < data->len; i++) {
        const arn_value *item = &data->u.items[i];
        const arn_value *index = arn_value_member(item, "index");
        const arn_value *vector = arn_value_member(item, "embedding");
        size_t place = i; /* some servers number nothing */

        if (index != NULL && index->kind != ARN_NIL) {
            if (index->kind != ARN_INT || index->u.integer < 0 ||
                (uint64_t)index->u.integer >= data->len) {
                bad("its index is not one of the inputs'", i);
                goto fail;
            }
            place = (size_t)index->u.integer;
        }
        if (vectors[place] != NULL) {
            bad("its index has been used before", i);
            goto fail;
        }
        if (vector == NULL) {
            bad("it has no embedding", i);
            goto fail;
        }
        if (vector->kind == ARN_TEXT) {
            bad("its embedding is no valid base64 of float32 values", i);
            goto fail;
        }
        if (vector->kind != ARN_FLOAT32_ARRAY && vector->kind != ARN_FLOAT64_ARRAY &&
            vector->kind != ARN_ARRAY) {
            bad("its embedding is no list of numbers", i);
            goto fail;
        }
        for (j = 0; vector->kind == ARN_ARRAY && j < vector->len; j++) {
            double number;
            if (number_of(&vector->u.items[j], &number) < 0) {
                bad("its embedding has something that is no number", i);
                goto fail;
            }
        }
        vectors[place] = vector;
    }
    len = vectors[0]->len;
    for (i = 1; i < data->len; i++)
        if (vectors[i]->len != len) {
            bad("its embedding has another length than the first one", i);
            goto fail;
        }
    return vectors;

fail:
    PyMem_Free(vectors);
    return NULL;
}

static PyObject *list_of(const arn_value *vector) {
    PyObject *list;
    size_t i;

    if (vector->kind != ARN_ARRAY)
        return arn_py_list_of_doubles(vector);
    list = PyList_New((Py_ssize_t)vector->len);
    for (i = 0; list != NULL && i < vector->len; i++) {
        double number = 0;
        PyObject *item;

        number_of(&vector->u.items[i], &number);
        item = PyFloat_FromDouble(number);
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return list;
}

/* One piece of float32 memory with all vectors in order: the reply's own if it is that already. */
static PyObject *share(arn_py_state *st, arn_op *op, const arn_value **vectors, size_t count) {
    size_t len = vectors[0]->len;
    int in_place = 1;
    float *floats;
    size_t i, j;

    for (i = 0; i < count; i++)
        in_place &= vectors[i]->kind == ARN_FLOAT32_ARRAY &&
                    vectors[i]->u.floats == vectors[0]->u.floats + i * len;
    if (in_place)
        return new_vectors(st, op, (float *)(uintptr_t)vectors[0]->u.floats, count * len);
    floats = PyMem_New(float, count *len > 0 ? count * len : 1);
    if (floats == NULL)
        return PyErr_NoMemory();
    for (i = 0; i < count; i++) {
        const arn_value *v = vectors[i];
        for (j = 0; j < len; j++) {
            double number = 0;
            if (v->kind == ARN_FLOAT32_ARRAY)
                number = (double)v->u.floats[j];
            else if (v->kind == ARN_FLOAT64_ARRAY)
                number = v->u.doubles[j];
            else
                number_of(&v->u.items[j], &number);
            floats[i * len + j] = (float)number;
        }
    }
    return new_vectors(st, NULL, floats, count * len);
}

static PyObject *arrays_of(arn_py_state *st, arn_op *op, const arn_value **vectors, size_t count) {
    size_t len = vectors[0]->len;
    PyObject *numpy = PyImport_ImportModule("numpy");
    PyObject *memory = numpy == NULL ? NULL : share(st, op, vectors, count);
    PyObject *flat = NULL, *rows = NULL, *list = NULL;
    size_t i;

    if (memory != NULL && len == 0) /* frombuffer() refuses empty memory */
        rows =
            PyObject_CallMethod(numpy, "zeros", "((nn)s)", (Py_ssize_t)count, (Py_ssize_t)0, "f4");
    else if (memory != NULL)
        flat = PyObject_CallMethod(numpy, "frombuffer", "Os", memory, "f4");
    if (flat != NULL)
        rows = PyObject_CallMethod(flat, "reshape", "nn", (Py_ssize_t)count, (Py_ssize_t)len);
    if (rows != NULL)
        list = PyList_New((Py_ssize_t)count);
    for (i = 0; list != NULL && i < count; i++) {
        PyObject *row = PySequence_GetItem(rows, (Py_ssize_t)i);
        if (row == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, row);
    }
    Py_XDECREF(numpy);
    Py_XDECREF(memory);
    Py_XDECREF(flat);
    Py_XDECREF(rows);
    return list;
}

/* The document's members but for "data". */
static PyObject *rest_of(const arn_value *document) {
    PyObject *rest = PyDict_New();
    size_t i;

    for (i = 0; rest != NULL && i < document->len; i++) {
        const arn_value *key = &document->u.items[2 * i];
        PyObject *name, *value;

        if (key->len == 4 && memcmp(key->u.bytes, "data", 4) == 0)
            continue;
        name = arn_py_value_to_python(key);
        value = name == NULL ? NULL : arn_py_value_to_python(key + 1);
        if (value == NULL || PyDict_SetItem(rest, name, value) < 0)
            Py_CLEAR(rest);
        Py_XDECREF(name);
        Py_XDECREF(value);
    }
    return rest;
}

PyObject *arn_py_embeddings_of(arn_py_state *st, arn_op *op, const arn_value *document,
                               int as_numpy) {
    const arn_value *data = arn_value_member(document, "data");
    const arn_value **vectors = ordered(data);
    PyObject *list = NULL, *rest = NULL, *made = NULL;
    size_t i;

    if (vectors == NULL)
        return NULL;
    if (as_numpy) {
        list = arrays_of(st, op, vectors, data->len);
    } else {
        list = PyList_New((Py_ssize_t)data->len);
        for (i = 0; list != NULL && i < data->len; i++) {
            PyObject *vector = list_of(vectors[i]);
            if (vector == NULL)
                Py_CLEAR(list);
            else
                PyList_SET_ITEM(list, (Py_ssize_t)i, vector);
        }
    }
    PyMem_Free(vectors);
    if (list != NULL)
        rest = rest_of(document);
    if (rest != NULL)
        made = PyTuple_Pack(2, list, rest);
    Py_XDECREF(list);
    Py_XDECREF(rest);
    return made;
}

int arn_py_init_http_vectors(PyObject *module, arn_py_state *st) {
    st->vectors_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &vectors_spec, NULL);
    return st->vectors_type == NULL ? -1 : 0;
}
