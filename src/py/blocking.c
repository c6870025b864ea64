#include "py/blocking.h"

#include "py/codec.h"

static arn_py_call *call_of(arn_op *op) {
    return ARN_CONTAINER_OF(op, arn_py_call, base);
}

static void let_go(PyObject **object) {
    if (*object != NULL)
        arn_py_release_anywhere(*object);
    *object = NULL;
}

/* Any thread, with the GIL or without: see arn_py_release_anywhere(). */
static void destroy(arn_op *op) {
    arn_py_call *call = call_of(op);

    let_go(&call->callable);
    let_go(&call->args);
    let_go(&call->kwargs);
    let_go(&call->context);
    let_go(&call->result);
    let_go(&call->error);
    PyMem_RawFree(call);
}

/* With the GIL. */
static void make(arn_py_call *call) {
    if (PyContext_Enter(call->context) == 0) {
        call->result = PyObject_Call(call->callable, call->args, call->kwargs);
        if (call->result == NULL)
            call->error = arn_py_take_error();
        if (PyContext_Exit(call->context) < 0)
            PyErr_Clear();
    } else {
        call->error = arn_py_take_error();
    }
    Py_CLEAR(call->callable);
    Py_CLEAR(call->args);
    Py_CLEAR(call->kwargs);
    Py_CLEAR(call->context);
}

static void run(arn_msg *msg, int aborted) {
    arn_op *op = ARN_CONTAINER_OF(msg, arn_op, msg);
    arn_py_call *call = call_of(op);
    arn_py_state *counted = call->counted;
    PyThreadState *thread = NULL;

    /* Left behind: the interpreter may be gone. */
    if (!aborted && !arn_workers_left_behind() && !arn_op_is_cancelled(op))
        thread = PyThreadState_New(call->interpreter);
    if (thread != NULL) {
        PyEval_RestoreThread(thread);
        make(call);
        PyThreadState_Clear(thread);
        PyThreadState_DeleteCurrent();
    }
    arn_workers_finish(op, thread != NULL            ? ARN_OK
                           : arn_op_is_cancelled(op) ? ARN_ECANCELED
                           : aborted                 ? ARN_ESHUTDOWN
                                                     : ARN_ENOMEM);
    if (counted != NULL)
        atomic_fetch_sub_explicit(&counted->calls, 1, memory_order_release);
}

void arn_py_call_submit(arn_py_state *st, arn_op *op) {
    /* The main interpreter's end does not wait for all of them, see arn_workers_stop(). */
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        call_of(op)->counted = st;
        atomic_fetch_add_explicit(&st->calls, 1, memory_order_relaxed);
    }
    arn_workers_submit(&op->msg);
}

void arn_py_wait_for_calls(arn_py_state *st) {
    Py_BEGIN_ALLOW_THREADS
    while (atomic_load_explicit(&st->calls, memory_order_acquire) > 0)
        uv_sleep(1);
    Py_END_ALLOW_THREADS
    arn_py_release_pending();
}

arn_op *arn_py_call_new(PyObject *callable, PyObject *args, PyObject *kwargs) {
    PyObject *context = PyContext_CopyCurrent();
    arn_py_call *call = context == NULL ? NULL : PyMem_RawCalloc(1, sizeof(*call));

    if (call == NULL) {
        Py_XDECREF(context);
        return (arn_op *)(void *)PyErr_NoMemory();
    }
    arn_op_init(&call->base, run, destroy, NULL, 0);
    call->interpreter = PyInterpreterState_Get();
    call->callable = Py_NewRef(callable);
    call->args = Py_NewRef(args);
    call->kwargs = Py_XNewRef(kwargs);
    call->context = context;
    return &call->base;
}

PyObject *arn_py_call_outcome(arn_op *op) {
    arn_py_call *call = call_of(op);
    PyObject *result = call->result;

    call->result = NULL;
    if (result != NULL)
        return result;
    if (call->error == NULL)
        PyErr_SetString(PyExc_RuntimeError, "no worker thread can be had, or they were stopped");
    else if (PyErr_GivenExceptionMatches(call->error, PyExc_StopIteration))
        PyErr_Format(PyExc_RuntimeError, "callable raised StopIteration"); /* a result to await */
    else
        arn_py_raise(call->error);
    return NULL;
}

/* ---- run_blocking() ---- */

static arn_op *make_op(arn_py_request *req) {
    req->rt = arn_py_runtime();
    return req->rt == NULL ? NULL : arn_py_call_new(req->client, req->args, req->reply_options);
}

static PyObject *convert(arn_py_request *req, arn_op *op, double *again) {
    (void)req;
    (void)again;
    return arn_py_call_outcome(op);
}

static void send_op(arn_py_request *req, arn_op *op) {
    arn_py_call_submit(req->st, op);
}

static const arn_py_request_class run_blocking_class = {
    .qualname = "run_blocking", .make_op = make_op, .convert = convert, .send = send_op};

PyDoc_STRVAR(run_blocking_doc,
             "run_blocking($module, func, /, *args, **kwargs)\n--\n\n"
             "Awaitable: func(*args, **kwargs) on a worker thread, in a copy of the\n"
             "awaiting task's context. Cancelled before a thread has taken it up, the\n"
             "call is not made; later it goes on, and its outcome is dropped.");

static PyObject *run_blocking(PyObject *module, PyObject *args, PyObject *kwargs) {
    PyObject *callable = PyTuple_GET_SIZE(args) > 0 ? PyTuple_GET_ITEM(args, 0) : NULL;
    arn_py_request *req;

    if (callable == NULL || !PyCallable_Check(callable)) {
        PyErr_SetString(PyExc_TypeError, "run_blocking() needs a callable");
        return NULL;
    }
    req = arn_py_request_new(arn_py_state_of(module), &run_blocking_class);
    if (req == NULL)
        return NULL;
    req->client = Py_NewRef(callable);
    req->args = PyTuple_GetSlice(args, 1, PyTuple_GET_SIZE(args));
    req->reply_options = Py_XNewRef(kwargs);
    if (req->args == NULL) {
        req->state = ARN_PY_CLOSED;
        Py_CLEAR(req);
    }
    return (PyObject *)req;
}

static PyMethodDef functions[] = {
    {"run_blocking", (PyCFunction)(void (*)(void))run_blocking, METH_VARARGS | METH_KEYWORDS,
     run_blocking_doc},
    {NULL, NULL, 0, NULL},
};

int arn_py_init_blocking(PyObject *module, arn_py_state *st) {
    (void)st;
    return PyModule_AddFunctions(module, functions);
}
