/* plain.c - what Python code asks before each call of a peer's method that it serves itself: are
 * the arguments those of an earlier call, and is the peer's class as it was then?
 */
#include "py/plain.h"

#include "py/openai.h"

#include "base/buf.h"

#include <string.h>

/* Deeper arguments have no key. */
#define DEPTH_MAX 32

/* Larger keys are not worth keeping. */
#define KEY_MAX (16u * 1024u)

enum put_result { PUT, NOT_PLAIN, PUT_FAILED }; /* PUT_FAILED: an exception is set */

static int put(arn_buf *buf, char tag, const void *data, size_t len) {
    char *p;

    if (len > KEY_MAX || buf->len > KEY_MAX)
        return NOT_PLAIN;
    p = arn_buf_reserve(buf, 1 + len);
    if (p == NULL) {
        PyErr_NoMemory();
        return PUT_FAILED;
    }
    *p = tag;
    if (len > 0)
        memcpy(p + 1, data, len);
    buf->len += 1 + len;
    return PUT;
}

static int put_count(arn_buf *buf, char tag, Py_ssize_t n) {
    return put(buf, tag, &n, sizeof(n));
}

static int put_text(arn_buf *buf, PyObject *o) {
    Py_ssize_t len;
    const char *text = PyUnicode_AsUTF8AndSize(o, &len);
    int r;

    if (text == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
            return PUT_FAILED;
        PyErr_Clear();
        return NOT_PLAIN;
    }
    r = put_count(buf, 's', len);
    return r == PUT ? put(buf, ':', text, (size_t)len) : r;
}

static int put_int(arn_buf *buf, PyObject *o) {
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(o, &overflow);

    if (value == -1 && PyErr_Occurred())
        return PUT_FAILED;
    return overflow ? NOT_PLAIN : put(buf, 'i', &value, sizeof(value));
}

static int put_value(arn_buf *buf, PyObject *o, int depth) {
    Py_ssize_t i, n;
    int r;

    if (depth == 0)
        return NOT_PLAIN;
    if (o == Py_None)
        return put(buf, 'N', NULL, 0);
    if (o == Py_True || o == Py_False)
        return put(buf, o == Py_True ? 'T' : 'F', NULL, 0);
    if (PyUnicode_CheckExact(o))
        return put_text(buf, o);
    if (PyLong_CheckExact(o))
        return put_int(buf, o);
    if (PyFloat_CheckExact(o)) {
        double value = PyFloat_AS_DOUBLE(o);
        return put(buf, 'd', &value, sizeof(value));
    }
    if (PyList_CheckExact(o) || PyTuple_CheckExact(o)) {
        n = PySequence_Fast_GET_SIZE(o);
        r = put_count(buf, PyList_CheckExact(o) ? 'l' : 't', n);
        for (i = 0; r == PUT && i < n; i++)
            r = put_value(buf, PySequence_Fast_GET_ITEM(o, i), depth - 1);
        return r;
    }
    if (PyDict_CheckExact(o)) {
        PyObject *key, *value;

        r = put_count(buf, 'm', PyDict_GET_SIZE(o));
        i = 0;
        while (r == PUT && PyDict_Next(o, &i, &key, &value)) {
            r = PyUnicode_CheckExact(key) ? put_text(buf, key) : NOT_PLAIN;
            if (r == PUT)
                r = put_value(buf, value, depth - 1);
        }
        return r;
    }
    return NOT_PLAIN;
}

PyObject *arn_py_plain_key(PyObject *const *values, Py_ssize_t count) {
    arn_buf buf = ARN_BUF_INIT;
    PyObject *key = NULL;
    Py_ssize_t i;
    int r = PUT;

    for (i = 0; r == PUT && i < count; i++)
        r = put_value(&buf, values[i], DEPTH_MAX);
    if (r == PUT)
        key = PyBytes_FromStringAndSize(buf.data, (Py_ssize_t)buf.len);
    else if (r == NOT_PLAIN)
        key = Py_NewRef(Py_None);
    arn_buf_free(&buf);
    return key;
}

static PyObject *plain_key(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    (void)module;
    return arn_py_plain_key(args, n);
}

static PyObject *type_tag(PyObject *module, PyObject *type) {
    (void)module;
    if (!PyType_Check(type)) {
        PyErr_Format(PyExc_TypeError, "a class is needed, not %.100s", Py_TYPE(type)->tp_name);
        return NULL;
    }
    return PyLong_FromUnsignedLong(arn_py_type_tag((PyTypeObject *)type));
}

/* 1, 0, or -1 with an exception set. */
static int is_unchanged(PyObject *place) {
    PyObject *owner, *found;

    if (!PyTuple_Check(place) || PyTuple_GET_SIZE(place) < 2)
        goto wrong;
    owner = PyTuple_GET_ITEM(place, 0);
    if (PyType_Check(owner) && PyTuple_GET_SIZE(place) == 2) {
        unsigned long tag = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(place, 1));

        if (tag == (unsigned long)-1 && PyErr_Occurred())
            return -1;
        return tag != 0 && tag == arn_py_type_tag((PyTypeObject *)owner);
    }
    if (PyDict_Check(owner) && PyTuple_GET_SIZE(place) == 3) {
        found = PyDict_GetItemWithError(owner, PyTuple_GET_ITEM(place, 1));
        if (found == NULL && PyErr_Occurred())
            return -1;
        return found == PyTuple_GET_ITEM(place, 2);
    }

wrong:
    PyErr_SetString(PyExc_TypeError, "a place is (class, tag) or (dict, key, value)");
    return -1;
}

int arn_py_unchanged(PyObject *places) {
    Py_ssize_t i;
    int r = 1;

    if (!PyTuple_Check(places)) {
        PyErr_SetString(PyExc_TypeError, "unchanged() takes a tuple");
        return -1;
    }
    for (i = 0; r > 0 && i < PyTuple_GET_SIZE(places); i++)
        r = is_unchanged(PyTuple_GET_ITEM(places, i));
    return r;
}

static PyObject *unchanged(PyObject *module, PyObject *places) {
    int r = arn_py_unchanged(places);

    (void)module;
    return r < 0 ? NULL : PyBool_FromLong(r);
}

PyDoc_STRVAR(plain_key_doc,
             "plain_key(*values)\n--\n\n"
             "The values as bytes that are the same for the same values of the same types only;\n"
             "None if one is not made of None, bool, int, float, str, list, tuple and dict.");
PyDoc_STRVAR(type_tag_doc, "type_tag(type, /)\n--\n\n"
                           "A number that the class has until it or a base of it is changed; 0:\n"
                           "unknown.");
PyDoc_STRVAR(
    unchanged_doc,
    "unchanged(places, /)\n--\n\n"
    "Whether all of these are as they were: (class, its type_tag()), of which 0 never is,\n"
    "and (dict, key, the value's very object).");

static PyMethodDef functions[] = {
    {"plain_key", (PyCFunction)(void (*)(void))plain_key, METH_FASTCALL, plain_key_doc},
    {"type_tag", type_tag, METH_O, type_tag_doc},
    {"unchanged", unchanged, METH_O, unchanged_doc},
    {NULL, NULL, 0, NULL},
};

int arn_py_init_plain(PyObject *module, arn_py_state *st) {
    (void)st;
    return PyModule_AddFunctions(module, functions);
}
