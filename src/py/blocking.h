/* blocking.h - a Python callable on a worker, awaited: run_blocking(). */
#ifndef ARN_PY_BLOCKING_H
#define ARN_PY_BLOCKING_H

#include "py/request.h"
#include "py/state.h"

/* What a call takes with it. Its references are dropped on the worker that has made it, or, if it
 * was never made, wherever the op ends. */
typedef struct arn_py_call {
    arn_op base;
    PyInterpreterState *interpreter;
    arn_py_state *counted; /* a subinterpreter's; NULL: it does not wait for this call */
    PyObject *callable, *args, *kwargs, *context; /* owned; kwargs may be NULL */
    PyObject *result, *error;                     /* owned: one of them, once made */
} arn_py_call;

/* A new op; takes nothing over. kwargs: a dict or NULL. NULL with an exception set. */
arn_op *arn_py_call_new(PyObject *callable, PyObject *args, PyObject *kwargs);

/* Hands it to the workers. */
void arn_py_call_submit(arn_py_state *st, arn_op *op);

/* Waits for the subinterpreter's calls, those that are still queued, too. GIL held. */
void arn_py_wait_for_calls(arn_py_state *st);

/* The outcome of an op that has ended: a new reference, or NULL with an exception set. */
PyObject *arn_py_call_outcome(arn_op *op);

#endif /* ARN_PY_BLOCKING_H */
