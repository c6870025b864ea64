/* loop_port.h - the bridge's half of a port: one object for each event loop that awaits something.
 *
 * It belongs to its loop: the loop's reader callback holds it, requests under way hold it, and it
 * holds both (through the garbage collector's eyes, so an abandoned loop takes all with it).
 */
#ifndef ARN_PY_LOOP_PORT_H
#define ARN_PY_LOOP_PORT_H

#include "py/state.h"

typedef struct arn_py_loop_port {
    PyObject_HEAD
    arn_py_state *st;
    arn_runtime *rt;
    arn_port *port;
    PyObject *loop;
    arn_queue live;   /* ops submitted and not yet taken; op->owner is a Request, owned */
    arn_queue jobs;   /* likewise, with the workers */
    arn_msg *pending; /* ops of this tick, not yet with the io thread */
    arn_msg *pending_last;
    unsigned pending_count;
    size_t pending_bytes;
    arn_op *todo;              /* taken, not yet completed */
    struct arn_py_lone *lones; /* express.c's: one for each engine with lone requests here */
    unsigned generation;       /* of the process it was made in */
    int abandoned;             /* the interpreter is ending: results come to nobody any more */
    int flush_scheduled;
    int rest_scheduled; /* the loop will call _drain_rest() for what is left of todo */
    int had_turn;       /* it has, perhaps in this turn of the loop: _drain() is for the next one */
    int nested;         /* nest_asyncio has patched the loop, see arn_py_port_is_nested() */
    int draining;       /* depth, on thread `drainer` */
    unsigned long drainer;
    PyObject *running;       /* before 3.12, while draining: asyncio's note of the running loop */
    unsigned long submitted; /* ops so far */
    struct arn_py_loop_port *next, *prev; /* st->ports */
} arn_py_loop_port;

/* The process's runtime, started if there is none. NULL with an exception set. */
arn_runtime *arn_py_runtime(void);

/* For a caller without an event loop: submits the op, whose reference stays the caller's, and waits
 * for its end; signals are served. 0, or -1 with a signal handler's exception: the op is cancelled.
 */
int arn_py_wait(arn_py_state *st, arn_runtime *rt, arn_op *op);

/* The port of the running event loop, made on first use. Borrowed: whoever keeps it, refs it.
 * NULL with an exception set, e.g. when no loop runs. */
arn_py_loop_port *arn_py_running_port(arn_py_state *st, arn_runtime *rt);

/* Submits op, which is of so many bytes; the port takes over the caller's reference on `owner` (a
 * Request) until the op is drained or forgotten. */
void arn_py_port_submit(arn_py_loop_port *self, arn_op *op, size_t size, PyObject *owner);

/* Sends off what any port still gathers: its loop's thread, or another that waits for it, is about
 * to block. */
void arn_py_flush_ports(arn_py_state *st);

/* For an op that is under way by other means than the io thread: it is live, with its owner, until
 * arn_py_port_complete(). */
void arn_py_port_adopt(arn_py_loop_port *self, arn_op *op, PyObject *owner);

/* For an op that goes to the workers: its results come to this port. */
void arn_py_port_adopt_job(arn_py_loop_port *self, arn_op *op, PyObject *owner);

/* Whether the loop may run inside itself (nest_asyncio, as in notebooks). Then no task may be run
 * from within a reader callback: the loop could not enter that callback's context once more. */
int arn_py_port_is_nested(arn_py_loop_port *self);

/* Around completions outside the port's own drain: between them, requests of woken tasks are
 * gathered. */
void arn_py_port_begin(arn_py_loop_port *self);
void arn_py_port_end(arn_py_loop_port *self);

/* The interpreter is ending: loops that still run, in daemon threads, are told nothing more. They
 * would only log errors of commands that the end of the io thread has broken. */
void arn_py_abandon_ports(arn_py_state *st);

/* Hands a finished op to its owner and drops it. -1 with an exception that must end the callback.
 */
int arn_py_port_complete(arn_py_loop_port *self, arn_op *op);

/* The op comes to nobody: its owner forgets it, and it is dropped. */
void arn_py_port_drop(arn_op *op);

/* loop.call_soon(callback, argument, context=context); -1 with an exception set. */
int arn_py_port_call_soon(arn_py_loop_port *self, PyObject *callback, PyObject *argument,
                          PyObject *context);

/* The loop calls object.name(), soon or (delay > 0) after so many seconds; -1 with an exception
 * set. */
int arn_py_port_call_method(arn_py_loop_port *self, PyObject *object, PyObject *name, double delay);

#endif /* ARN_PY_LOOP_PORT_H */
