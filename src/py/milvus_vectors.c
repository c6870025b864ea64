/* milvus_vectors.c - the vectors of a search, and the request that they make of a template. */
#include "py/milvus_numbers.h"

#include "milvus/wire.h"

#include <string.h>

/* common.PlaceholderType: a vector's is that of its data type. */
#define PLACEHOLDER_VARCHAR 21

#define FIELD_VALUES 3 /* of PlaceholderValue */
#define OTHER ARN_MILVUS_OTHER

/* Writes the values of a PlaceholderValue into a bytes object that grows. */
typedef struct values_writer {
    PyObject *bytes;
    size_t len;
    size_t cap;
} values_writer;

/* Room for one value of len bytes; its head is written. NULL with an exception set. */
static char *add_value(values_writer *w, size_t len) {
    size_t size = arn_pb_bytes_size(len);
    char *p;

    if (w->cap - w->len < size) {
        size_t cap = w->len + size;

        if (w->cap > 0 && cap < w->cap * 2)
            cap = w->cap * 2;
        if (cap > (size_t)PY_SSIZE_T_MAX / 2) {
            PyErr_NoMemory();
            return NULL;
        }
        if (w->bytes == NULL)
            w->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)cap);
        else
            _PyBytes_Resize(&w->bytes, (Py_ssize_t)cap);
        if (w->bytes == NULL)
            return NULL;
        w->cap = cap;
    }
    p = arn_pb_put_head(PyBytes_AS_STRING(w->bytes) + w->len, FIELD_VALUES, len);
    w->len += size;
    return p;
}

static int put_value(values_writer *w, const void *data, size_t len) {
    char *p = add_value(w, len);

    if (p == NULL)
        return -1;
    if (len > 0)
        memcpy(p, data, len);
    return 0;
}

/* Adds as many values again as the first one took: rows tend to be alike. */
static int expect(values_writer *w, Py_ssize_t more) {
    size_t first = w->len;

    if (more <= 0 || first > (size_t)PY_SSIZE_T_MAX / 2 / (size_t)(more + 1))
        return 0;
    w->cap = first * (size_t)(more + 1);
    return _PyBytes_Resize(&w->bytes, (Py_ssize_t)w->cap);
}

static arn_milvus_type type_of_kind(char kind) {
    switch (kind) {
    case 'f':
    case 'd':
        return ARN_MILVUS_FLOAT_VECTOR;
    case 'e':
        return ARN_MILVUS_FLOAT16_VECTOR;
    case 'b':
        return ARN_MILVUS_INT8_VECTOR;
    case 'B':
        return ARN_MILVUS_BINARY_VECTOR;
    default:
        return 0;
    }
}

/* All return 0, OTHER, or -1 with an exception set. */

static int add_block_row(values_writer *w, const arn_py_block *block, Py_ssize_t i,
                         arn_milvus_type type) {
    char *p;

    if (type_of_kind(block->kind) != type)
        return OTHER;
    if (type == ARN_MILVUS_FLOAT_VECTOR) {
        p = add_value(w, 4 * (size_t)block->columns);
        return p == NULL ? -1 : arn_py_block_put_floats(block, i, p, ARN_PY_OVERFLOW_REFUSED);
    }
    p = add_value(w, (size_t)(block->columns * block->item_size));
    if (p == NULL)
        return -1;
    arn_py_block_put_raw(block, i, p);
    return 0;
}

static int add_array(arn_py_state *st, values_writer *w, PyObject *row, arn_milvus_type type) {
    arn_py_block block;
    int r = arn_py_block_take(st, row, &block);

    if (r != 0)
        return r;
    r = block.rows >= 0 ? OTHER : add_block_row(w, &block, 0, type);
    arn_py_block_release(&block);
    return r;
}

static int add_floats(arn_py_state *st, values_writer *w, PyObject *row) {
    char *p = add_value(w, 4 * (size_t)PySequence_Fast_GET_SIZE(row));

    return p == NULL ? -1 : arn_py_milvus_put_floats(st, p, row, ARN_PY_OVERFLOW_REFUSED);
}

static int add_text(values_writer *w, PyObject *row) {
    Py_ssize_t len;
    const char *utf8;

    if (!PyUnicode_CheckExact(row))
        return OTHER;
    utf8 = PyUnicode_AsUTF8AndSize(row, &len);
    if (utf8 != NULL)
        return put_value(w, utf8, (size_t)len);
    if (!PyErr_ExceptionMatches(PyExc_UnicodeError))
        return -1;
    PyErr_Clear();
    return OTHER;
}

static int add_sparse(arn_py_state *st, values_writer *w, PyObject *row) {
    char *data;
    size_t len;
    int r = arn_py_milvus_sparse(st, row, &data, &len);

    if (r != 0)
        return r;
    r = put_value(w, data, len);
    PyMem_Free(data);
    return r;
}

/* Is a list a sparse vector, as pairs, rather than a dense one? Empty ones count as sparse. */
static int is_pairs(PyObject *row) {
    return PyList_CheckExact(row) &&
           (PyList_GET_SIZE(row) == 0 || arn_py_is_sequence(PyList_GET_ITEM(row, 0)));
}

/* What kind of rows the first one is: a type, PLACEHOLDER_VARCHAR, 0 for none, -1. */
static int type_of_rows(arn_py_state *st, PyObject *row, int vector_type) {
    arn_py_block block;
    int r;

    if (is_pairs(row) || PyDict_CheckExact(row))
        return ARN_MILVUS_SPARSE_FLOAT_VECTOR;
    if (arn_py_is_sequence(row))
        return ARN_MILVUS_FLOAT_VECTOR;
    if (PyBytes_CheckExact(row))
        return vector_type != 0 ? vector_type : ARN_MILVUS_BINARY_VECTOR;
    if (PyUnicode_CheckExact(row))
        return PLACEHOLDER_VARCHAR;
    r = arn_py_is_csr(st, row);
    if (r != 0)
        return r < 0 ? -1 : ARN_MILVUS_SPARSE_FLOAT_VECTOR;
    r = arn_py_block_take(st, row, &block);
    if (r != 0)
        return r < 0 ? -1 : 0;
    r = (int)type_of_kind(block.kind);
    arn_py_block_release(&block);
    return r;
}

static int add_row(arn_py_state *st, values_writer *w, PyObject *row, int type, int is_bytes) {
    if (is_bytes)
        return PyBytes_CheckExact(row)
                   ? put_value(w, PyBytes_AS_STRING(row), (size_t)PyBytes_GET_SIZE(row))
                   : OTHER;
    if (type == PLACEHOLDER_VARCHAR)
        return add_text(w, row);
    if (type == ARN_MILVUS_SPARSE_FLOAT_VECTOR)
        return add_sparse(st, w, row);
    if (type == ARN_MILVUS_FLOAT_VECTOR && arn_py_is_sequence(row))
        return add_floats(st, w, row);
    return add_array(st, w, row, (arn_milvus_type)type);
}

static int add_rows(arn_py_state *st, values_writer *w, PyObject *data, int vector_type, int *type,
                    Py_ssize_t *count) {
    PyObject **rows = PySequence_Fast_ITEMS(data);
    Py_ssize_t i;
    int is_bytes, r;

    *count = PySequence_Fast_GET_SIZE(data);
    if (*count == 0)
        return OTHER;
    is_bytes = PyBytes_CheckExact(rows[0]);
    *type = type_of_rows(st, rows[0], vector_type);
    if (*type <= 0)
        return *type < 0 ? -1 : OTHER;
    for (i = 0; i < *count; i++) {
        r = add_row(st, w, rows[i], *type, is_bytes);
        if (r != 0)
            return r;
        if (i == 0 && expect(w, *count - 1) < 0)
            return -1;
    }
    return 0;
}

static int add_block(arn_py_state *st, values_writer *w, PyObject *data, int *type,
                     Py_ssize_t *count) {
    arn_py_block block;
    Py_ssize_t i;
    int r = arn_py_block_take(st, data, &block);

    if (r != 0)
        return r;
    *type = (int)type_of_kind(block.kind);
    *count = block.rows;
    r = *type == 0 || block.rows <= 0 ? OTHER : 0;
    for (i = 0; r == 0 && i < block.rows; i++) {
        r = add_block_row(w, &block, i, (arn_milvus_type)*type);
        if (r == 0 && i == 0)
            r = expect(w, block.rows - 1);
    }
    arn_py_block_release(&block);
    return r;
}

static int add_csr(arn_py_state *st, values_writer *w, PyObject *data, int *type,
                   Py_ssize_t *count) {
    arn_py_csr csr;
    Py_ssize_t i;
    int r = arn_py_csr_take(st, data, &csr);

    if (r != 0)
        return r;
    *type = ARN_MILVUS_SPARSE_FLOAT_VECTOR;
    *count = csr.rows;
    for (i = 0; r == 0 && i < csr.rows; i++) {
        char *bytes;
        size_t len;

        r = arn_py_csr_row(&csr, i, &bytes, &len);
        if (r == 0) {
            r = put_value(w, bytes, len);
            PyMem_Free(bytes);
        }
    }
    arn_py_csr_release(&csr);
    return r;
}

PyDoc_STRVAR(vectors_doc,
             "milvus_vectors(data, vector_type=0, /)\n--\n\n"
             "The vectors of a search: (placeholder type, how many, their encoding), or None:\n"
             "pymilvus must decide. vector_type: the field's, for vectors given as bytes.");

int arn_py_milvus_encode(arn_py_state *st, PyObject *data, int vector_type,
                         arn_py_milvus_encoded *out) {
    values_writer w = {NULL, 0, 0};
    int r;

    out->type = 0;
    out->count = 0;
    if (arn_py_is_sequence(data))
        r = add_rows(st, &w, data, vector_type, &out->type, &out->count);
    else if ((r = arn_py_is_array(st, data)) > 0)
        r = add_block(st, &w, data, &out->type, &out->count);
    else if (r == 0)
        r = add_csr(st, &w, data, &out->type, &out->count);
    if (r == 0 && w.bytes == NULL)
        w.bytes = PyBytes_FromStringAndSize(NULL, 0);
    else if (r == 0 && w.len < (size_t)PyBytes_GET_SIZE(w.bytes))
        _PyBytes_Resize(&w.bytes, (Py_ssize_t)w.len);
    if (r == 0 && w.bytes == NULL)
        r = -1;
    if (r != 0)
        Py_CLEAR(w.bytes);
    out->values = w.bytes;
    return r;
}

static PyObject *milvus_vectors(PyObject *module, PyObject *const *args, Py_ssize_t given) {
    arn_py_milvus_encoded made;
    int vector_type = 0, r;

    if (given < 1 || given > 2) {
        PyErr_SetString(PyExc_TypeError, "milvus_vectors() takes 1 or 2 arguments");
        return NULL;
    }
    if (given == 2) {
        vector_type = (int)PyLong_AsLong(args[1]);
        if (vector_type == -1 && PyErr_Occurred())
            return NULL;
    }
    if (vector_type != 0 &&
        (vector_type < ARN_MILVUS_BINARY_VECTOR || vector_type > ARN_MILVUS_INT8_VECTOR))
        Py_RETURN_NONE;
    r = arn_py_milvus_encode(arn_py_state_of(module), args[0], vector_type, &made);
    if (r == 0)
        return Py_BuildValue("(inN)", made.type, made.count, made.values);
    if (r == OTHER)
        Py_RETURN_NONE;
    return NULL;
}

/* ---- requests ---- */

/* Of SearchRequest. */
enum { PLACEHOLDER_GROUP = 6, NQ = 12 };

int arn_py_milvus_measure(arn_py_milvus_search_request *request) {
    size_t size = 0;
    Py_ssize_t i;

    for (i = 0; i < PySequence_Fast_GET_SIZE(request->values); i++) {
        PyObject *value = PySequence_Fast_GET_ITEM(request->values, i);

        if (!PyBytes_Check(value)) {
            PyErr_SetString(PyExc_TypeError, "the values must be bytes");
            return -1;
        }
        size += (size_t)PyBytes_GET_SIZE(value);
        if (size > (size_t)PY_SSIZE_T_MAX / 2) {
            PyErr_NoMemory();
            return -1;
        }
    }
    request->inner = 4 + arn_pb_int_size((uint64_t)request->type) + size;
    request->outer = arn_pb_bytes_size(request->inner);
    request->size = arn_pb_bytes_size(request->outer) + arn_pb_int_size((uint64_t)request->count);
    return 0;
}

/* PlaceholderGroup{placeholders: [PlaceholderValue{tag: "$0", type, values}]}, then nq. */
void arn_py_milvus_put_request(char *p, const arn_py_milvus_search_request *request) {
    Py_ssize_t i;

    p = arn_pb_put_head(p, PLACEHOLDER_GROUP, request->outer);
    p = arn_pb_put_head(p, 1, request->inner);
    p = arn_pb_put_bytes(p, 1, "$0", 2);
    p = arn_pb_put_int(p, 2, (uint64_t)request->type);
    for (i = 0; i < PySequence_Fast_GET_SIZE(request->values); i++) {
        PyObject *value = PySequence_Fast_GET_ITEM(request->values, i);
        memcpy(p, PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value));
        p += PyBytes_GET_SIZE(value);
    }
    arn_pb_put_int(p, NQ, (uint64_t)request->count);
}

PyDoc_STRVAR(search_request_doc,
             "milvus_search_request(template, type, count, values, /)\n--\n\n"
             "The SearchRequest of a template's bytes and of vectors: values is a tuple of what\n"
             "milvus_vectors() has returned, all of the type, count vectors together.");

static PyObject *milvus_search_request(PyObject *module, PyObject *const *args, Py_ssize_t given) {
    arn_py_milvus_search_request request;
    PyObject *template, *made;
    size_t template_len;
    long type;

    (void)module;
    if (given != 4 || !PyBytes_Check(args[0]) || !arn_py_is_sequence(args[3])) {
        PyErr_SetString(PyExc_TypeError,
                        "milvus_search_request() takes bytes, two ints and a tuple of bytes");
        return NULL;
    }
    template = args[0];
    request.values = args[3];
    type = PyLong_AsLong(args[1]);
    request.type = type;
    request.count = type == -1 && PyErr_Occurred() ? -1 : PyLong_AsLongLong(args[2]);
    if ((request.count == -1 || type == -1) && PyErr_Occurred())
        return NULL;
    if (request.count < 0 || type < 0) {
        PyErr_SetString(PyExc_ValueError, "neither type nor count are negative");
        return NULL;
    }
    if (arn_py_milvus_measure(&request) < 0)
        return NULL;
    template_len = (size_t)PyBytes_GET_SIZE(template);
    made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(template_len + request.size));
    if (made == NULL)
        return NULL;
    memcpy(PyBytes_AS_STRING(made), PyBytes_AS_STRING(template), template_len);
    arn_py_milvus_put_request(PyBytes_AS_STRING(made) + template_len, &request);
    return made;
}

PyDoc_STRVAR(append_messages_doc,
             "milvus_append_messages(template, number, messages, /)\n--\n\n"
             "template with each of the messages as a field of that number (below 16) behind it.");

static PyObject *milvus_append_messages(PyObject *module, PyObject *const *args, Py_ssize_t given) {
    PyObject *made, *messages;
    size_t total, template_len;
    Py_ssize_t i;
    long number;
    char *p;

    (void)module;
    if (given != 3 || !PyBytes_Check(args[0]) || !arn_py_is_sequence(args[2])) {
        PyErr_SetString(PyExc_TypeError,
                        "milvus_append_messages() takes bytes, an int and a tuple of bytes");
        return NULL;
    }
    number = PyLong_AsLong(args[1]);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    if (number < 1 || number > 15) {
        PyErr_SetString(PyExc_ValueError, "the field's number must be between 1 and 15");
        return NULL;
    }
    messages = args[2];
    template_len = total = (size_t)PyBytes_GET_SIZE(args[0]);
    for (i = 0; i < PySequence_Fast_GET_SIZE(messages); i++) {
        PyObject *message = PySequence_Fast_GET_ITEM(messages, i);
        if (!PyBytes_Check(message)) {
            PyErr_SetString(PyExc_TypeError, "the messages must be bytes");
            return NULL;
        }
        total += arn_pb_bytes_size((size_t)PyBytes_GET_SIZE(message));
        if (total > (size_t)PY_SSIZE_T_MAX / 2)
            return PyErr_NoMemory();
    }
    made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    if (made == NULL)
        return NULL;
    p = PyBytes_AS_STRING(made);
    memcpy(p, PyBytes_AS_STRING(args[0]), template_len);
    p += template_len;
    for (i = 0; i < PySequence_Fast_GET_SIZE(messages); i++) {
        PyObject *message = PySequence_Fast_GET_ITEM(messages, i);
        p = arn_pb_put_bytes(p, (unsigned)number, PyBytes_AS_STRING(message),
                             (size_t)PyBytes_GET_SIZE(message));
    }
    return made;
}

static PyMethodDef functions[] = {
    {"milvus_vectors", (PyCFunction)(void (*)(void))milvus_vectors, METH_FASTCALL, vectors_doc},
    {"milvus_search_request", (PyCFunction)(void (*)(void))milvus_search_request, METH_FASTCALL,
     search_request_doc},
    {"milvus_append_messages", (PyCFunction)(void (*)(void))milvus_append_messages, METH_FASTCALL,
     append_messages_doc},
    {NULL, NULL, 0, NULL},
};

int arn_py_init_milvus_vectors(PyObject *module, arn_py_state *st) {
    (void)st;
    return PyModule_AddFunctions(module, functions);
}
