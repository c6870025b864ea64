#include "py/milvus.h"

#include <string.h>

PyObject *arn_py_milvus_text(arn_slice slice) {
    return PyUnicode_DecodeUTF8(slice.data, (Py_ssize_t)slice.len, NULL);
}

static double float_at(const char *floats, size_t i) {
    float x;

    memcpy(&x, floats + i * sizeof(x), sizeof(x));
    return (double)x;
}

static double double_at(const char *doubles, size_t i) {
    double x;

    memcpy(&x, doubles + i * sizeof(x), sizeof(x));
    return x;
}

static PyObject *value_at(const arn_milvus_values *values, arn_milvus_type type, size_t i) {
    switch (type) {
    case ARN_MILVUS_BOOL:
        return PyBool_FromLong(values->u.bools[i]);
    case ARN_MILVUS_INT8:
    case ARN_MILVUS_INT16:
    case ARN_MILVUS_INT32:
    case ARN_MILVUS_INT64:
        return PyLong_FromLongLong(values->u.ints[i]);
    case ARN_MILVUS_FLOAT:
        return PyFloat_FromDouble(float_at(values->u.floats, i));
    case ARN_MILVUS_DOUBLE:
        return PyFloat_FromDouble(double_at(values->u.doubles, i));
    case ARN_MILVUS_VARCHAR:
        return arn_py_milvus_text(values->u.slices[i]);
    default:
        PyErr_Format(PyExc_SystemError, "a Milvus value of type %d", (int)type);
        return NULL;
    }
}

PyObject *arn_py_milvus_cell(const arn_milvus_column *column, size_t i) {
    const arn_milvus_values *array;
    PyObject *list;
    size_t k;

    if (column->type != ARN_MILVUS_ARRAY)
        return value_at(&column->data, column->type, i);
    array = &column->data.u.arrays[i];
    list = PyList_New((Py_ssize_t)array->count);
    for (k = 0; list != NULL && k < array->count; k++) {
        PyObject *item = value_at(array, column->element, k);
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)k, item);
    }
    return list;
}
