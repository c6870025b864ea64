#include "py/request.h"

#include <structmember.h>

arn_py_request *arn_py_request_new(arn_py_state *st, const arn_py_request_class *cls) {
    arn_py_request *self = PyObject_GC_New(arn_py_request, st->request_type);

    if (self == NULL)
        return NULL;
    memset((char *)self + sizeof(PyObject), 0, sizeof(*self) - sizeof(PyObject));
    self->st = arn_py_state_hold(st);
    self->cls = cls;
    PyObject_GC_Track(self);
    return self;
}

/* ---- callbacks ---- */

/* Calls a done callback in its context, as a handle of the loop would. -1: must end the drain. */
static int run_callback(arn_py_request *self, PyObject *callback, PyObject *context) {
    PyObject *result;
    PyObject *error;

    if (PyContext_Enter(context) < 0) {
        PyErr_Clear(); /* entered already: leave it to the loop */
        if (arn_py_port_call_soon(self->port, callback, (PyObject *)self, context) < 0)
            arn_py_ignore_error();
        return 0;
    }
    result = PyObject_CallOneArg(callback, (PyObject *)self);
    error = result == NULL ? arn_py_take_error() : NULL;
    Py_XDECREF(result);
    if (PyContext_Exit(context) < 0)
        PyErr_Clear();
    if (error == NULL)
        return 0;

    if (PyErr_GivenExceptionMatches(error, PyExc_Exception)) {
        PyObject *info =
            Py_BuildValue("{s:s,s:O,s:O}", "message", "Exception in a callback of a native request",
                          "exception", error, "future", (PyObject *)self);
        PyObject *r = info == NULL
                          ? NULL
                          : PyObject_CallMethodOneArg(self->port->loop,
                                                      self->st->str_call_exception_handler, info);
        if (r == NULL)
            PyErr_WriteUnraisable(callback);
        Py_XDECREF(r);
        Py_XDECREF(info);
        Py_DECREF(error);
        return 0;
    }
    arn_py_raise(error);
    Py_DECREF(error);
    return -1;
}

/* Tells everybody that waits. direct: call them now (from the drain only: no task is running);
 * else through the loop. */
static int notify(arn_py_request *self, int direct) {
    PyObject *callback = self->callback;
    PyObject *context = self->context;
    PyObject *more = self->more;
    Py_ssize_t i;
    int r = 0;

    self->callback = self->context = self->more = NULL;
    self->watched |= more != NULL;
    if (callback != NULL) {
        if (direct)
            r = run_callback(self, callback, context);
        else
            r = arn_py_port_call_soon(self->port, callback, (PyObject *)self, context);
        Py_DECREF(callback);
        Py_DECREF(context);
    }
    for (i = 0; more != NULL && i < PyList_GET_SIZE(more); i++) {
        PyObject *pair = PyList_GET_ITEM(more, i);
        PyObject *error = r < 0 ? arn_py_take_error() : NULL;
        if (arn_py_port_call_soon(self->port, PyTuple_GET_ITEM(pair, 0), (PyObject *)self,
                                  PyTuple_GET_ITEM(pair, 1)) < 0)
            arn_py_ignore_error();
        if (error != NULL) {
            arn_py_raise(error);
            Py_DECREF(error);
        }
    }
    Py_XDECREF(more);
    return r;
}

/* ---- from the first await to the end ---- */

static arn_op *no_op(void) {
    PyErr_SetString(PyExc_RuntimeError, "this request has no operation");
    return NULL;
}

/* Sends the op on its way, making one if there is none. The port gets a reference on the request
 * with it. On failure there is no op. */
static int submit(arn_py_request *self) {
    arn_op *op;
    int is_stale;

    if (self->op == NULL)
        self->op = self->cls->make_op != NULL ? self->cls->make_op(self) : no_op();
    op = self->op;
    if (op == NULL)
        return -1;
    is_stale = self->rt != arn_runtime_current();
    if (is_stale && !self->st->is_ending) {
        PyErr_SetString(PyExc_RuntimeError, "this command was made before a fork or a shutdown of "
                                            "the io thread: call the method again");
        goto fail;
    }
    if (self->port == NULL || self->port->rt != self->rt) {
        arn_py_loop_port *port = arn_py_running_port(self->st, self->rt);
        if (port == NULL)
            goto fail;
        Py_XSETREF(self->port, (arn_py_loop_port *)Py_NewRef((PyObject *)port));
    }
    if (is_stale) { /* in a daemon thread: never heard of again */
        self->op = NULL;
        arn_op_unref(op);
        return 0;
    }
    if (self->cls->send != NULL) {
        arn_py_port_adopt_job(self->port, op, Py_NewRef((PyObject *)self));
        self->cls->send(self, op);
    } else if (self->cls->send_alone != NULL && arn_queue_empty(&self->port->live) &&
               self->cls->send_alone(self, op))
        arn_py_port_adopt(self->port, op, Py_NewRef((PyObject *)self));
    else
        arn_py_port_submit(self->port, op, self->cls->submitting(op), Py_NewRef((PyObject *)self));
    return 0;

fail:
    self->op = NULL;
    if (self->cls->late != NULL)
        self->cls->late(self, op);
    arn_op_unref(op);
    return -1;
}

int arn_py_request_start(arn_py_request *self, arn_py_loop_port *port) {
    self->port = (arn_py_loop_port *)Py_NewRef((PyObject *)port);
    if (submit(self) < 0) {
        self->state = ARN_PY_CLOSED;
        return -1;
    }
    self->state = ARN_PY_WAITING;
    return 0;
}

static void take_back(arn_py_request *self, arn_op *op) {
    if (self->cls->send != NULL)
        atomic_store_explicit(&op->cancelled, 1, memory_order_release);
    else if ((self->cls->forget == NULL || !self->cls->forget(self, op)) &&
             arn_runtime_current() == self->rt)
        arn_op_cancel(self->rt, op);
}

static void forget_op(arn_py_request *self) {
    arn_op *op = self->op;

    if (op == NULL) {
        if (self->state == ARN_PY_WAITING && self->cls->late != NULL)
            self->cls->late(self, NULL);
        return;
    }
    self->op = NULL;
    if (self->state == ARN_PY_NEW) {
        arn_op_unref(op);
        return;
    }
    if (self->cls->late != NULL) { /* it goes on owning the op */
        take_back(self, op);
        return;
    }
    op->owner = NULL;
    take_back(self, op);
    Py_DECREF(self); /* the port's reference; the caller has another */
}

void arn_py_request_orphaned(arn_py_request *self, arn_op *op, int usable) {
    self->op = NULL;
    if (usable)
        take_back(self, op);
    if (usable && self->cls->orphaned != NULL)
        self->cls->orphaned(self, op);
}

/* The outcome is there; result and error NULL: cancelled. */
static void finish(arn_py_request *self, PyObject *result, PyObject *error) {
    self->state = ARN_PY_DONE;
    self->cancelled = result == NULL && error == NULL;
    self->result = result;
    self->error = error;
}

static int schedule_again(arn_py_request *self, double delay) {
    return arn_py_port_call_method(self->port, (PyObject *)self, self->st->str_resume, delay);
}

int arn_py_request_complete(arn_py_request *self, arn_op *op) {
    double again = -1.0;
    PyObject *result;

    self->op = NULL;
    if (self->state != ARN_PY_WAITING) {
        if (self->cls->late != NULL)
            self->cls->late(self, op);
        return 0;
    }
    result = self->cls->convert(self, op, &again);
    if (self->state != ARN_PY_WAITING) {
        /* The conversion ran Python code, which cancelled it; whoever waits knows already. */
        Py_XDECREF(result);
        arn_py_ignore_error();
        return 0;
    }
    if (result != NULL && again >= 0) {
        Py_DECREF(result);
        if ((again > 0 ? schedule_again(self, again) : submit(self)) == 0)
            return 0;
        result = NULL;
    }
    if (result != NULL)
        finish(self, result, NULL);
    else
        finish(self, NULL, arn_py_take_error());
    return notify(self, !self->port->nested);
}

static PyObject *resume_method(PyObject *op, PyObject *ignored) {
    arn_py_request *self = (arn_py_request *)op;

    (void)ignored;
    if (self->state != ARN_PY_WAITING || self->op != NULL)
        Py_RETURN_NONE;
    if (submit(self) < 0) {
        finish(self, NULL, arn_py_take_error());
        if (notify(self, 0) < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- the coroutine's face ---- */

static PyObject *raise_cancelled(arn_py_request *self) {
    if (self->cancel_message != NULL && self->cancel_message != Py_None)
        PyErr_SetObject(self->st->cancelled_error, self->cancel_message);
    else
        PyErr_SetNone(self->st->cancelled_error);
    return NULL;
}

/* The awaiting task has the outcome; only others that watch may still ask for it. */
static void delivered(arn_py_request *self) {
    self->state = ARN_PY_DELIVERED;
    if (self->watched)
        return;
    Py_CLEAR(self->result);
    Py_CLEAR(self->error);
}

static PySendResult send_slot(PyObject *op, PyObject *argument, PyObject **result) {
    arn_py_request *self = (arn_py_request *)op;

    (void)argument;
    *result = NULL;
    switch (self->state) {
    case ARN_PY_NEW:
        if (self->cls->at_once != NULL && self->cls->at_once(self, result)) {
            self->state = ARN_PY_DELIVERED;
            return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
        }
        if (self->error != NULL || submit(self) < 0) {
            PyObject *error = self->error != NULL ? self->error : arn_py_take_error();
            self->error = NULL;
            forget_op(self);
            self->state = ARN_PY_CLOSED;
            arn_py_raise(error);
            Py_DECREF(error);
            return PYGEN_ERROR;
        }
        self->state = ARN_PY_WAITING;
        self->blocking = 1;
        *result = Py_NewRef(op);
        return PYGEN_NEXT;
    case ARN_PY_WAITING:
        PyErr_SetString(PyExc_RuntimeError, "coroutine is being awaited already");
        return PYGEN_ERROR;
    case ARN_PY_DONE:
        if (self->cancelled)
            raise_cancelled(self);
        else if (self->error != NULL)
            arn_py_raise(self->error);
        else
            *result = Py_NewRef(self->result);
        delivered(self);
        return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
    case ARN_PY_DELIVERED:
    case ARN_PY_CLOSED:
        break;
    }
    PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    return PYGEN_ERROR;
}

static PyObject *stop_iteration(PyObject *value) {
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);

    Py_DECREF(value);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    return NULL;
}

static PyObject *send_method(PyObject *op, PyObject *argument) {
    PyObject *result;

    switch (send_slot(op, argument, &result)) {
    case PYGEN_NEXT:
        return result;
    case PYGEN_RETURN:
        return stop_iteration(result);
    default:
        return NULL;
    }
}

static PyObject *iternext_slot(PyObject *op) {
    return send_method(op, Py_None);
}

/* Closed or thrown into. With an outcome that is how the awaiting task takes it. */
static void close_request(arn_py_request *self) {
    Py_INCREF(self); /* forget_op drops the port's reference */
    if (self->state == ARN_PY_DONE) {
        delivered(self);
    } else if (self->state == ARN_PY_WAITING) {
        forget_op(self);
        finish(self, NULL, NULL);
        /* The awaiting task is where this comes from: it is not woken, the others are. */
        Py_CLEAR(self->callback);
        Py_CLEAR(self->context);
        if (self->more != NULL && notify(self, 0) < 0)
            arn_py_ignore_error();
        delivered(self);
    } else if (self->state == ARN_PY_NEW) {
        forget_op(self);
        self->state = ARN_PY_CLOSED;
        Py_CLEAR(self->error);
    }
    Py_DECREF(self);
}

static PyObject *close_method(PyObject *op, PyObject *ignored) {
    (void)ignored;
    close_request((arn_py_request *)op);
    Py_RETURN_NONE;
}

static PyObject *throw_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs) {
    PyObject *type, *value, *error;

    if (nargs < 1 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "throw() takes one to three arguments");
        return NULL;
    }
    type = args[0];
    value = nargs > 1 && args[1] != Py_None ? args[1] : NULL;
    if (PyExceptionInstance_Check(type)) {
        error = Py_NewRef(type);
    } else if (PyExceptionClass_Check(type)) {
        if (value != NULL && PyExceptionInstance_Check(value))
            error = Py_NewRef(value);
        else if (value != NULL && PyTuple_Check(value))
            error = PyObject_CallObject(type, value);
        else
            error = value != NULL ? PyObject_CallOneArg(type, value) : PyObject_CallNoArgs(type);
    } else {
        PyErr_SetString(PyExc_TypeError, "exceptions must be classes or instances deriving from "
                                         "BaseException");
        return NULL;
    }
    if (error == NULL)
        return NULL;
    if (nargs > 2 && args[2] != Py_None && PyException_SetTraceback(error, args[2]) < 0) {
        Py_DECREF(error);
        return NULL;
    }
    close_request((arn_py_request *)op);
    arn_py_raise(error);
    Py_DECREF(error);
    return NULL;
}

/* ---- the future's face: what asyncio.Task asks of what it waits for ---- */

static int is_done(const arn_py_request *self) {
    return self->state >= ARN_PY_DONE;
}

static PyObject *add_done_callback(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames) {
    arn_py_request *self = (arn_py_request *)op;
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    PyObject *context = NULL;
    int r = 0;

    if (nargs != 1 || nkw > 1 ||
        (nkw == 1 && PyUnicode_Compare(PyTuple_GET_ITEM(kwnames, 0), self->st->str_context) != 0)) {
        PyErr_SetString(PyExc_TypeError, "add_done_callback(fn, *, context=None)");
        return NULL;
    }
    if (self->port == NULL) {
        PyErr_SetString(self->st->invalid_state_error != NULL ? self->st->invalid_state_error
                                                              : PyExc_RuntimeError,
                        "this request has not been awaited");
        return NULL;
    }
    if (nkw == 1 && args[1] != Py_None)
        context = Py_NewRef(args[1]);
    else
        context = PyContext_CopyCurrent();
    if (context == NULL)
        return NULL;
    if (is_done(self)) {
        self->watched |= self->state == ARN_PY_DONE;
        r = arn_py_port_call_soon(self->port, args[0], op, context);
    } else if (self->callback == NULL) {
        self->callback = Py_NewRef(args[0]);
        self->context = Py_NewRef(context);
    } else {
        PyObject *pair = PyTuple_Pack(2, args[0], context);
        if (self->more == NULL)
            self->more = PyList_New(0);
        if (pair == NULL || self->more == NULL || PyList_Append(self->more, pair) < 0)
            r = -1;
        Py_XDECREF(pair);
    }
    Py_DECREF(context);
    if (r < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *remove_done_callback(PyObject *op, PyObject *fn) {
    arn_py_request *self = (arn_py_request *)op;
    PyObject *more;
    Py_ssize_t removed = 0;
    Py_ssize_t i;

    if (self->callback != NULL) {
        int equal = PyObject_RichCompareBool(self->callback, fn, Py_EQ);
        if (equal < 0)
            return NULL;
        if (equal) {
            Py_CLEAR(self->callback);
            Py_CLEAR(self->context);
            removed++;
        }
    }
    more = Py_XNewRef(self->more); /* a comparison may run any code */
    for (i = more == NULL ? 0 : PyList_GET_SIZE(more); i > 0; i--) {
        PyObject *pair =
            i <= PyList_GET_SIZE(more) ? Py_NewRef(PyList_GET_ITEM(more, i - 1)) : NULL;
        int equal =
            pair == NULL ? 0 : PyObject_RichCompareBool(PyTuple_GET_ITEM(pair, 0), fn, Py_EQ);
        if (equal > 0 && (i > PyList_GET_SIZE(more) || PySequence_DelItem(more, i - 1) < 0))
            equal = PyErr_Occurred() != NULL ? -1 : 0;
        Py_XDECREF(pair);
        if (equal < 0) {
            Py_DECREF(more);
            return NULL;
        }
        removed += equal;
    }
    Py_XDECREF(more);
    return PyLong_FromSsize_t(removed);
}

static PyObject *cancel_method(PyObject *op, PyObject *args, PyObject *kwargs) {
    arn_py_request *self = (arn_py_request *)op;
    static char *names[] = {"msg", NULL};
    PyObject *message = NULL;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", names, &message))
        return NULL;
    if (self->state != ARN_PY_WAITING)
        Py_RETURN_FALSE;
    Py_XSETREF(self->cancel_message, Py_XNewRef(message));
    Py_INCREF(self);
    forget_op(self);
    finish(self, NULL, NULL);
    /* Through the loop: whoever cancels may be a running task. */
    if (notify(self, 0) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    Py_DECREF(self);
    Py_RETURN_TRUE;
}

static PyObject *not_done(arn_py_request *self, const char *message) {
    PyErr_SetString(self->st->invalid_state_error != NULL ? self->st->invalid_state_error
                                                          : PyExc_RuntimeError,
                    message);
    return NULL;
}

/* Not once it has been delivered, if nobody watches. */
static int has_outcome(const arn_py_request *self) {
    return self->result != NULL || (self->error != NULL && self->state != ARN_PY_NEW);
}

static PyObject *result_method(PyObject *op, PyObject *ignored) {
    arn_py_request *self = (arn_py_request *)op;

    (void)ignored;
    if (self->cancelled)
        return raise_cancelled(self);
    if (!has_outcome(self))
        return not_done(self, "Result is not set.");
    if (self->error != NULL)
        return arn_py_raise(self->error);
    return Py_NewRef(self->result);
}

static PyObject *exception_method(PyObject *op, PyObject *ignored) {
    arn_py_request *self = (arn_py_request *)op;

    (void)ignored;
    if (self->cancelled)
        return raise_cancelled(self);
    if (!has_outcome(self))
        return not_done(self, "Exception is not set.");
    return Py_NewRef(self->error != NULL ? self->error : Py_None);
}

static PyObject *done_method(PyObject *op, PyObject *ignored) {
    (void)ignored;
    return PyBool_FromLong(is_done((arn_py_request *)op));
}

static PyObject *cancelled_method(PyObject *op, PyObject *ignored) {
    (void)ignored;
    return PyBool_FromLong(((arn_py_request *)op)->cancelled);
}

static PyObject *get_loop_method(PyObject *op, PyObject *ignored) {
    arn_py_request *self = (arn_py_request *)op;

    (void)ignored;
    if (self->port == NULL || self->port->loop == NULL)
        return not_done(self, "this request has not been awaited");
    return Py_NewRef(self->port->loop);
}

/* None before the first await: then asyncio.isfuture() says no and wraps it in a task. Likewise
 * when all is over: the task then says that a coroutine cannot be awaited twice. */
static PyObject *get_blocking(PyObject *op, void *closure) {
    arn_py_request *self = (arn_py_request *)op;

    (void)closure;
    if (self->state == ARN_PY_NEW || (self->state >= ARN_PY_DELIVERED && !self->watched))
        Py_RETURN_NONE;
    return PyBool_FromLong(self->blocking);
}

static int set_blocking(PyObject *op, PyObject *value, void *closure) {
    int truth = value == NULL ? 0 : PyObject_IsTrue(value);

    (void)closure;
    if (truth < 0)
        return -1;
    ((arn_py_request *)op)->blocking = truth;
    return 0;
}

static PyObject *get_name(PyObject *op, void *closure) {
    const char *qualname = ((arn_py_request *)op)->cls->qualname;
    const char *dot = strrchr(qualname, '.');

    return PyUnicode_FromString(closure != NULL || dot == NULL ? qualname : dot + 1);
}

static PyObject *get_none(PyObject *op, void *closure) {
    (void)op;
    (void)closure;
    Py_RETURN_NONE;
}

static PyObject *get_false(PyObject *op, void *closure) {
    (void)op;
    (void)closure;
    Py_RETURN_FALSE;
}

static PyObject *get_suspended(PyObject *op, void *closure) {
    (void)closure;
    return PyBool_FromLong(((arn_py_request *)op)->state == ARN_PY_WAITING);
}

static PyObject *repr_slot(PyObject *op) {
    static const char *const states[] = {"created", "pending", "finished", "finished", "closed"};
    arn_py_request *self = (arn_py_request *)op;

    return PyUnicode_FromFormat("<native request %s %s at %p>", self->cls->qualname,
                                self->cancelled ? "cancelled" : states[self->state], op);
}

/* ---- life ---- */

static int traverse_slot(PyObject *op, visitproc visit, void *arg) {
    arn_py_request *self = (arn_py_request *)op;

    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(self->st);
    Py_VISIT((PyObject *)self->port);
    Py_VISIT(self->result);
    Py_VISIT(self->error);
    Py_VISIT(self->callback);
    Py_VISIT(self->context);
    Py_VISIT(self->more);
    Py_VISIT(self->cancel_message);
    Py_VISIT(self->client);
    Py_VISIT(self->args);
    Py_VISIT(self->reply_callback);
    Py_VISIT(self->reply_options);
    return 0;
}

static int clear_slot(PyObject *op) {
    arn_py_request *self = (arn_py_request *)op;

    Py_CLEAR(self->result);
    Py_CLEAR(self->error);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->context);
    Py_CLEAR(self->more);
    Py_CLEAR(self->cancel_message);
    Py_CLEAR(self->args);
    Py_CLEAR(self->reply_callback);
    Py_CLEAR(self->reply_options);
    /* A client that is told of an op's end stays to hear of it: its own tp_clear breaks cycles. */
    if (self->cls->late == NULL)
        Py_CLEAR(self->client);
    Py_CLEAR(self->port);
    return 0;
}

static void finalize_slot(PyObject *op) {
    arn_py_request *self = (arn_py_request *)op;
    PyObject *error;

    if (self->state != ARN_PY_NEW)
        return;
    error = arn_py_take_error();
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%s' was never awaited",
                         self->cls->qualname) < 0)
        PyErr_WriteUnraisable(op);
    if (error != NULL) {
        arn_py_raise(error);
        Py_DECREF(error);
    }
}

static void dealloc_slot(PyObject *op) {
    arn_py_request *self = (arn_py_request *)op;
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;

    if (self->state == ARN_PY_NEW && PyObject_CallFinalizerFromDealloc(op) < 0)
        return;
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    if (self->op != NULL) /* never submitted: a submitted op holds a reference on the request */
        arn_op_unref(self->op);
    self->op = NULL;
    clear_slot(op);
    Py_CLEAR(self->client);
    PyObject_GC_Del(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

static PyMethodDef request_methods[] = {
    {"send", send_method, METH_O, NULL},
    {"throw", (PyCFunction)(void (*)(void))throw_method, METH_FASTCALL, NULL},
    {"close", close_method, METH_NOARGS, NULL},
    {"add_done_callback", (PyCFunction)(void (*)(void))add_done_callback,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"remove_done_callback", remove_done_callback, METH_O, NULL},
    {"cancel", (PyCFunction)(void (*)(void))cancel_method, METH_VARARGS | METH_KEYWORDS, NULL},
    {"result", result_method, METH_NOARGS, NULL},
    {"exception", exception_method, METH_NOARGS, NULL},
    {"done", done_method, METH_NOARGS, NULL},
    {"cancelled", cancelled_method, METH_NOARGS, NULL},
    {"get_loop", get_loop_method, METH_NOARGS, NULL},
    {"_resume", resume_method, METH_NOARGS, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef request_getset[] = {
    {"_asyncio_future_blocking", get_blocking, set_blocking, NULL, NULL},
    {"__name__", get_name, NULL, NULL, NULL},
    {"__qualname__", get_name, NULL, NULL, (void *)1},
    {"cr_await", get_none, NULL, NULL, NULL},
    {"cr_frame", get_none, NULL, NULL, NULL},
    {"cr_origin", get_none, NULL, NULL, NULL},
    {"cr_running", get_false, NULL, NULL, NULL},
    {"cr_suspended", get_suspended, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef request_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(arn_py_request, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot request_slots[] = {
    {Py_tp_dealloc, dealloc_slot},    {Py_tp_finalize, finalize_slot},
    {Py_tp_traverse, traverse_slot},  {Py_tp_clear, clear_slot},
    {Py_tp_repr, repr_slot},          {Py_tp_iternext, iternext_slot},
    {Py_tp_iter, PyObject_SelfIter}, /* for who says `yield from request.__await__()` */
    {Py_am_await, PyObject_SelfIter}, {Py_am_send, send_slot},
    {Py_tp_methods, request_methods}, {Py_tp_getset, request_getset},
    {Py_tp_members, request_members}, {0, NULL},
};

static PyType_Spec request_spec = {
    .name = "arshai_native._core.Request",
    .basicsize = sizeof(arn_py_request),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = request_slots,
};

int arn_py_init_request(PyObject *module, arn_py_state *st) {
    st->request_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &request_spec, NULL);
    if (st->request_type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "Request", (PyObject *)st->request_type);
}
