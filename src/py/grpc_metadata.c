/* grpc_metadata.c - metadata of calls on its way out, trailers and errors on their way in. */
#include "py/grpc.h"

#include <base/base64.h>

/* ---- errors ---- */

static PyObject *value_of(const char *name, const char *value) {
    size_t name_len = strlen(name);
    size_t len = strlen(value);
    size_t out_len;
    PyObject *bytes;
    char *padded;

    if (name_len <= 4 || strcmp(name + name_len - 4, "-bin") != 0)
        return PyUnicode_DecodeLatin1(value, (Py_ssize_t)len, NULL);
    padded = PyMem_Malloc(len + 4);
    if (padded == NULL)
        return PyErr_NoMemory();
    memcpy(padded, value, len);
    while (len % 4 != 0)
        padded[len++] = '=';
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)arn_base64_bound(len));
    if (bytes != NULL) {
        /* What is no base64 is shown as it came. */
        if (arn_base64_decode(padded, len, PyBytes_AS_STRING(bytes), &out_len) == 0)
            _PyBytes_Resize(&bytes, (Py_ssize_t)out_len);
        else
            Py_SETREF(bytes, PyBytes_FromString(value));
    }
    PyMem_Free(padded);
    return bytes;
}

static PyObject *trailers_of(const arn_grpc_op *op) {
    const char *p = op->reply.metadata.data;
    const char *end = p == NULL ? NULL : p + op->reply.metadata.len;
    PyObject *list = PyList_New(0);
    PyObject *tuple;

    while (list != NULL && p < end) {
        const char *value = p + strlen(p) + 1;
        PyObject *made = value_of(p, value);
        PyObject *pair = made == NULL ? NULL : Py_BuildValue("(sN)", p, made);
        if (pair == NULL || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
        p = value + strlen(value) + 1;
    }
    tuple = list == NULL ? NULL : PyList_AsTuple(list);
    Py_XDECREF(list);
    return tuple;
}

PyObject *arn_py_grpc_raise(arn_py_state *st, const arn_grpc_op *op) {
    const char *message = op->base.message != NULL ? op->base.message : "";
    int code = op->reply.code;
    PyObject *details, *metadata, *number = NULL, *text = NULL, *error = NULL;

    if (op->base.status == ARN_ENOMEM)
        return PyErr_NoMemory();
    if (op->base.status == ARN_ESHUTDOWN)
        code = ARN_GRPC_UNAVAILABLE;
    details = PyUnicode_DecodeUTF8(message, (Py_ssize_t)strlen(message), "replace");
    metadata = trailers_of(op);
    if (details != NULL && metadata != NULL) {
        number = PyLong_FromLong(code);
        text = PyUnicode_FromFormat("%s: %U", arn_grpc_code_name(code), details);
    }
    if (number != NULL && text != NULL)
        error = PyObject_CallOneArg(st->grpc_error, text);
    if (error != NULL && PyObject_SetAttrString(error, "code", number) == 0 &&
        PyObject_SetAttrString(error, "details", details) == 0 &&
        PyObject_SetAttrString(error, "metadata", metadata) == 0)
        arn_py_raise(error);
    Py_XDECREF(details);
    Py_XDECREF(metadata);
    Py_XDECREF(number);
    Py_XDECREF(text);
    Py_XDECREF(error);
    return NULL;
}

/* ---- metadata ---- */

static int slice_of(PyObject *o, arn_slice *out) {
    Py_ssize_t len;

    if (PyUnicode_Check(o)) {
        out->data = PyUnicode_AsUTF8AndSize(o, &len);
    } else if (PyBytes_Check(o)) {
        out->data = PyBytes_AS_STRING(o);
        len = PyBytes_GET_SIZE(o);
    } else {
        PyErr_Format(PyExc_TypeError, "metadata is a sequence of pairs of str or bytes, not %.100s",
                     Py_TYPE(o)->tp_name);
        return -1;
    }
    if (out->data == NULL)
        return -1;
    out->len = (size_t)len;
    return 0;
}

static int take_pair(PyObject *pair, arn_slice *out) {
    PyObject *name;

    if (PyTuple_Check(pair) ? PyTuple_GET_SIZE(pair) != 2
                            : !PyList_Check(pair) || PyList_GET_SIZE(pair) != 2) {
        PyErr_SetString(PyExc_TypeError, "metadata is a sequence of pairs (name, value)");
        return -1;
    }
    name = PySequence_Fast_GET_ITEM(pair, 0);
    if (slice_of(name, &out[0]) < 0 || slice_of(PySequence_Fast_GET_ITEM(pair, 1), &out[1]) < 0)
        return -1;
    /* Never the value: it may be a token. */
    switch (arn_grpc_metadata_is_bad(out[0].data, out[0].len, out[1].data, out[1].len)) {
    case 1:
        PyErr_Format(PyExc_ValueError,
                     "invalid metadata name %R (lower-case letters, digits, - _ . and none of "
                     "gRPC's own)",
                     name);
        return -1;
    case 2:
        PyErr_Format(PyExc_ValueError,
                     "the value of metadata %R has other characters than visible ASCII and spaces "
                     "(a name that ends in -bin takes any bytes)",
                     name);
        return -1;
    default:
        return 0;
    }
}

void arn_py_grpc_clear_pairs(arn_py_grpc_pairs *p) {
    if (p->slices != p->first)
        PyMem_Free(p->slices);
    Py_CLEAR(p->owner);
}

int arn_py_grpc_take_pairs(arn_py_grpc_pairs *p, PyObject *metadata) {
    size_t i;

    p->slices = p->first;
    p->owner = NULL;
    p->count = 0;
    if (metadata == NULL || metadata == Py_None ||
        (PyTuple_CheckExact(metadata) && PyTuple_GET_SIZE(metadata) == 0))
        return 0;
    p->owner = PySequence_Tuple(metadata);
    if (p->owner == NULL)
        return -1;
    p->count = (size_t)PyTuple_GET_SIZE(p->owner);
    if (p->count * 2 > sizeof(p->first) / sizeof(p->first[0]))
        p->slices = PyMem_New(arn_slice, p->count * 2);
    if (p->slices == NULL) {
        PyErr_NoMemory();
        arn_py_grpc_clear_pairs(p);
        return -1;
    }
    for (i = 0; i < p->count; i++) {
        if (take_pair(PyTuple_GET_ITEM(p->owner, (Py_ssize_t)i), &p->slices[2 * i]) < 0) {
            arn_py_grpc_clear_pairs(p);
            return -1;
        }
    }
    return 0;
}
