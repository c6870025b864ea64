#include "py/arguments.h"

#include <math.h>

int arn_py_to_ms(PyObject *seconds, const char *name, uint64_t *out) {
    double s;

    *out = 0;
    if (seconds == NULL || seconds == Py_None)
        return 0;
    s = PyFloat_AsDouble(seconds);
    if (s == -1.0 && PyErr_Occurred())
        return -1;
    if (isnan(s) || s < 0) {
        PyErr_Format(PyExc_ValueError, "%s must be a number of seconds >= 0 or None", name);
        return -1;
    }
    if (s > 1e9)
        return 0; /* thirty years: no limit */
    *out = (uint64_t)ceil(s * 1000);
    if (*out == 0 && s >= 0)
        *out = 1; /* 0 means no limit to the core, and no time at all to the caller */
    return 0;
}

int arn_py_keep_string(PyObject *strings, PyObject *o, const char *name, const char **out) {
    PyObject *bytes;
    int r;

    *out = NULL;
    if (o == NULL || o == Py_None)
        return 0;
    if (PyUnicode_Check(o))
        bytes = PyUnicode_AsUTF8String(o);
    else if (PyBytes_Check(o))
        bytes = Py_NewRef(o);
    else {
        PyErr_Format(PyExc_TypeError, "%s must be a string", name);
        return -1;
    }
    if (bytes == NULL)
        return -1;
    if (strlen(PyBytes_AS_STRING(bytes)) != (size_t)PyBytes_GET_SIZE(bytes)) {
        Py_DECREF(bytes);
        PyErr_Format(PyExc_ValueError, "%s must not contain a null character", name);
        return -1;
    }
    r = PyList_Append(strings, bytes);
    Py_DECREF(bytes);
    *out = PyBytes_AS_STRING(bytes); /* the list holds it */
    return r;
}
