#include "py/floats.h"
#include "py/model.h"

#include <base/value.h>

/* ---- value trees as json.loads() would give them ---- */

PyObject *arn_py_text_to_python(const char *text, size_t len) {
    PyObject *s = PyUnicode_DecodeUTF8(text, (Py_ssize_t)len, NULL);

    if (s != NULL || !PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
        return s;
    PyErr_Clear(); /* lone surrogates */
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)len, "surrogatepass");
}

PyObject *arn_py_list_of_doubles(const arn_value *value) {
    PyObject *list = PyList_New((Py_ssize_t)value->len);
    size_t i;

    for (i = 0; list != NULL && i < value->len; i++) {
        PyObject *number = PyFloat_FromDouble(
            value->kind == ARN_FLOAT64_ARRAY ? value->u.doubles[i] : (double)value->u.floats[i]);
        if (number == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, number);
    }
    if (list != NULL)
        arn_py_untrack_floats(list);
    return list;
}

static PyObject *list_of_items(const arn_value *value) {
    PyObject *list = PyList_New((Py_ssize_t)value->len);
    size_t i;

    for (i = 0; list != NULL && i < value->len; i++) {
        PyObject *item = arn_py_value_to_python(&value->u.items[i]);
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return list;
}

static PyObject *dict_of_items(const arn_value *value) {
    PyObject *dict = PyDict_New();
    size_t i;

    for (i = 0; dict != NULL && i < value->len; i++) {
        const arn_value *name = &value->u.items[2 * i];
        PyObject *key = arn_py_text_to_python(name->u.bytes, name->len);
        PyObject *item = key == NULL ? NULL : arn_py_value_to_python(name + 1);
        if (item == NULL || PyDict_SetItem(dict, key, item) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(key);
        Py_XDECREF(item);
    }
    return dict;
}

PyObject *arn_py_value_to_python(const arn_value *value) {
    switch (value->kind) {
    case ARN_NIL:
        Py_RETURN_NONE;
    case ARN_BOOL:
        return PyBool_FromLong(value->u.integer != 0);
    case ARN_INT:
        return PyLong_FromLongLong(value->u.integer);
    case ARN_BIGINT:
        return PyLong_FromString(value->u.bytes, NULL, 10);
    case ARN_DOUBLE:
        return PyFloat_FromDouble(value->u.number);
    case ARN_TEXT:
        return arn_py_text_to_python(value->u.bytes, value->len);
    case ARN_ARRAY:
        return list_of_items(value);
    case ARN_MAP:
        return dict_of_items(value);
    case ARN_FLOAT32_ARRAY:
    case ARN_FLOAT64_ARRAY:
        return arn_py_list_of_doubles(value);
    default:
        PyErr_Format(PyExc_SystemError, "JSON value of unexpected kind %d", (int)value->kind);
        return NULL;
    }
}

PyObject *arn_py_json_loads(const char *text, size_t len) {
    PyObject *json = PyImport_ImportModule("json");
    PyObject *result =
        json == NULL ? NULL : PyObject_CallMethod(json, "loads", "y#", text, (Py_ssize_t)len);

    Py_XDECREF(json);
    return result;
}
