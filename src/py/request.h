/* request.h - what a native method returns: an awaitable that behaves like the coroutine it
 * replaces and is, while it waits, the future its task waits for.
 *
 * Lazy as a coroutine: nothing is sent before the first await. To asyncio it is a coroutine until
 * then (create_task, gather, wait_for, run take it) and, once a task waits, a future with one
 * difference: its callbacks are called by the drain itself instead of by one call_soon each.
 */
#ifndef ARN_PY_REQUEST_H
#define ARN_PY_REQUEST_H

#include "py/loop_port.h"
#include "py/state.h"

typedef struct arn_py_request arn_py_request;

/* What a client of the bridge supplies. All are called with the GIL held. */
typedef struct arn_py_request_class {
    const char *qualname; /* for repr and "was never awaited" */
    /* The op to submit: a new reference, its runtime in req->rt; NULL with an exception set. Called
     * at the first await unless the request was made with an op, and for every further attempt.
     * NULL where every request is made with its one op. */
    arn_op *(*make_op)(arn_py_request *req);
    /* The op has ended. A new reference to the result; NULL with an exception set; or Py_None with
     * *again >= 0: make another op after so many seconds. */
    PyObject *(*convert)(arn_py_request *req, arn_op *op, double *again);
    /* The op is about to go to the io thread; how many bytes it is. */
    size_t (*submitting)(arn_op *op);
    /* May be NULL. Nothing else is under way on the port: 1 if the op was sent without the io
     * thread, 0 if it was not. */
    int (*send_alone)(arn_py_request *req, arn_op *op);
    /* May be NULL. The request no longer wants the op: 1 if the io thread need not know. */
    int (*forget)(arn_py_request *req, arn_op *op);
    /* May be NULL. The op goes to the workers, not to the io thread: this hands it over. */
    void (*send)(arn_py_request *req, arn_op *op);
    /* May be NULL, for ops with `send`. The op of a request that was cancelled has come to its end
     * all the same; or (op may be NULL, or not begun) none is under way any more. */
    void (*late)(arn_py_request *req, arn_op *op);
    /* May be NULL, for ops with `send`. The request's event loop is gone, and with it the port that
     * would have told the op's end. */
    void (*orphaned)(arn_py_request *req, arn_op *op);
    /* May be NULL. At the first await, before an op is made: 1 if the outcome is there, in *result
     * or, NULL, as the exception that is set. */
    int (*at_once)(arn_py_request *req, PyObject **result);
} arn_py_request_class;

typedef enum arn_py_request_state {
    ARN_PY_NEW,       /* not awaited */
    ARN_PY_WAITING,   /* its op is under way, or a later attempt is scheduled */
    ARN_PY_DONE,      /* result, error or cancellation are there, not yet delivered */
    ARN_PY_DELIVERED, /* to the task that awaited it; others that watch may still ask */
    ARN_PY_CLOSED     /* without an outcome */
} arn_py_request_state;

struct arn_py_request {
    PyObject_HEAD
    arn_py_state *st;
    const arn_py_request_class *cls;
    arn_op *op;             /* NEW: owned, may be NULL; WAITING: borrowed from the port, or NULL */
    arn_runtime *rt;        /* that the op was made for */
    arn_py_loop_port *port; /* owned, once waiting */
    PyObject *result;
    PyObject *error;    /* instead of a result; NEW: raised by the first await */
    PyObject *callback; /* the first done callback (a task's wake-up) and its context */
    PyObject *context;
    PyObject *more; /* list of (callback, context) */
    PyObject *cancel_message;
    PyObject *weakrefs;
    arn_py_request_state state;
    int cancelled; /* is the outcome */
    int blocking;  /* asyncio's _asyncio_future_blocking */
    int watched;   /* has callbacks beside the task's: the outcome stays for them */
    /* The client's own: */
    PyObject *client;         /* engine or session; owned */
    PyObject *args;           /* argument tuple of a command that is packed later; owned */
    PyObject *reply_callback; /* applied to the converted reply; owned */
    PyObject *reply_options;  /* its keyword arguments; owned */
    long long number;
    int reply_kind;
    int usage; /* of the connection, for later attempts */
    int never_decode;
    int gated; /* the op under way is a gate, not a command */
    unsigned failures;
};

arn_py_request *arn_py_request_new(arn_py_state *st, const arn_py_request_class *cls);

/* Starts a request that nobody awaits, for the sake of its convert(). 0, or -1 with an exception.
 */
int arn_py_request_start(arn_py_request *self, arn_py_loop_port *port);

/* Called by the port's drain. -1 with an exception that must end the drain. */
int arn_py_request_complete(arn_py_request *self, arn_op *op);

/* Called by a port that goes: nobody will complete the op. usable: it can still be cancelled. */
void arn_py_request_orphaned(arn_py_request *self, arn_op *op, int usable);

#endif /* ARN_PY_REQUEST_H */
