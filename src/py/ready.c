#include "py/ready.h"

typedef struct ready {
    PyObject_HEAD
    PyObject *result;
    PyObject *error; /* instead of a result; both NULL: it has been awaited */
} ready;

PyObject *arn_py_ready(arn_py_state *st, PyObject *result) {
    PyObject *error = result == NULL ? arn_py_take_error() : NULL;
    ready *self = PyObject_GC_New(ready, st->ready_type);

    if (self == NULL) {
        Py_XDECREF(result);
        Py_XDECREF(error);
        return NULL;
    }
    self->result = result;
    self->error = error;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PySendResult send_slot(PyObject *op, PyObject *argument, PyObject **result) {
    ready *self = (ready *)op;
    PyObject *error = self->error;

    (void)argument;
    *result = self->result;
    self->result = NULL;
    if (*result != NULL)
        return PYGEN_RETURN;
    self->error = NULL;
    if (error != NULL)
        arn_py_raise(error);
    else
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    Py_XDECREF(error);
    return PYGEN_ERROR;
}

static PyObject *send_method(PyObject *op, PyObject *argument) {
    PyObject *result, *stop;

    if (send_slot(op, argument, &result) == PYGEN_ERROR)
        return NULL;
    stop = PyObject_CallOneArg(PyExc_StopIteration, result);
    Py_DECREF(result);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    return NULL;
}

static PyObject *iternext_slot(PyObject *op) {
    return send_method(op, Py_None);
}

static int clear_slot(PyObject *op) {
    Py_CLEAR(((ready *)op)->result);
    Py_CLEAR(((ready *)op)->error);
    return 0;
}

static PyObject *close_method(PyObject *op, PyObject *ignored) {
    (void)ignored;
    clear_slot(op);
    Py_RETURN_NONE;
}

static PyObject *throw_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs) {
    PyObject *error = NULL;

    clear_slot(op);
    if (nargs >= 1 && nargs <= 3) {
        if (PyExceptionInstance_Check(args[0]))
            error = Py_NewRef(args[0]);
        else if (nargs > 1 && args[1] != Py_None && PyExceptionInstance_Check(args[1]))
            error = Py_NewRef(args[1]);
        else if (PyExceptionClass_Check(args[0]))
            error = nargs > 1 && args[1] != Py_None ? PyObject_CallOneArg(args[0], args[1])
                                                    : PyObject_CallNoArgs(args[0]);
        else
            PyErr_SetString(PyExc_TypeError, "exceptions must be classes or instances deriving "
                                             "from BaseException");
    } else {
        PyErr_SetString(PyExc_TypeError, "throw() takes one to three arguments");
    }
    if (error != NULL) {
        arn_py_raise(error);
        Py_DECREF(error);
    }
    return NULL;
}

static int traverse_slot(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ready *)op)->result);
    Py_VISIT(((ready *)op)->error);
    return 0;
}

static void dealloc_slot(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    clear_slot(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyMethodDef ready_methods[] = {
    {"send", send_method, METH_O, NULL},
    {"throw", (PyCFunction)(void (*)(void))throw_method, METH_FASTCALL, NULL},
    {"close", close_method, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ready_slots[] = {
    {Py_tp_dealloc, dealloc_slot},    {Py_tp_traverse, traverse_slot},
    {Py_tp_clear, clear_slot},        {Py_tp_iternext, iternext_slot},
    {Py_tp_iter, PyObject_SelfIter}, /* for who says `yield from ready.__await__()` */
    {Py_am_await, PyObject_SelfIter}, {Py_am_send, send_slot},
    {Py_tp_methods, ready_methods},   {0, NULL},
};

static PyType_Spec ready_spec = {
    .name = "arshai_native._core.Ready",
    .basicsize = sizeof(ready),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = ready_slots,
};

int arn_py_init_ready(PyObject *module, arn_py_state *st) {
    st->ready_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &ready_spec, NULL);
    return st->ready_type == NULL ? -1 : 0;
}
