/* op.h - one operation: from a caller to the io thread and back.
 *
 *   NEW --submit--> QUEUED --written--> SENT --> DONE        each op is posted to its port
 *                      \__________________\_---> CANCELLED   exactly once, whatever happens
 *
 * Ownership: the caller owns a NEW op. Submitting hands it to the io thread, posting hands it to
 * the port, taking it from the port gives it back to the caller, who drops it with arn_op_unref().
 * A protocol may keep a reference of its own past the post (a reply that is still to be read and
 * thrown away); it then touches the arena, which the caller of a failed op leaves alone.
 *
 * Cancelling (arn_op_cancel, caller's thread) never blocks and never un-posts: the caller forgets
 * the op by clearing `owner`, and drops it when it comes out of the port.
 */
#ifndef ARN_IO_OP_H
#define ARN_IO_OP_H

#include "base/arena.h"
#include "base/queue.h"
#include "base/value.h"
#include "io/runtime.h"

#include <stdatomic.h>
#include <stdint.h>

typedef struct arn_op arn_op;
typedef struct arn_port arn_port;

typedef enum arn_op_state {
    ARN_OP_NEW,
    ARN_OP_QUEUED,
    ARN_OP_SENT,
    ARN_OP_DONE,
    ARN_OP_CANCELLED
} arn_op_state;

struct arn_op {
    arn_msg msg; /* its way to the io thread; msg.run starts the op */
    arn_msg cancel_msg;
    arn_queue node;                /* io thread: the protocol's queues */
    arn_op *next_done;             /* port: chain of finished ops */
    arn_queue live;                /* caller: its list of ops under way, see src/py/loop_port.c */
    arn_port *port;                /* referenced */
    void *owner;                   /* caller's; never touched by the io thread */
    void (*on_cancel)(arn_op *op); /* io thread; set by a protocol that must act at once */
    void (*destroy)(arn_op *op);   /* frees the memory; the arena is already gone */
    _Atomic uint32_t refs;
    _Atomic int cancelled;
    arn_op_state state;  /* io thread, once submitted */
    int posted;          /* io thread: posted already */
    int status;          /* 0 or ARN_E*: valid once posted */
    uint64_t timeout_ms; /* 0: none. Counted from its start on the io thread */
    uint64_t deadline;   /* io thread: loop time in ms */
    arn_arena arena;
    arn_value value;     /* status 0: the result, in the arena */
    const char *message; /* status < 0: says more than the status; arena or static; may be NULL */
};

/* Prepares an embedded op: one reference, state NEW. `first`/`size`: memory lent to the arena. */
void arn_op_init(arn_op *op, void (*run)(arn_msg *, int), void (*destroy)(arn_op *), void *first,
                 size_t size);

/* Any thread. The last reference frees the op, its arena and its hold on the port. */
void arn_op_ref(arn_op *op);
void arn_op_unref(arn_op *op);

/* Caller's thread. Ties the op to the port that is to receive it (takes a reference on it). */
void arn_op_set_port(arn_op *op, arn_port *port);

/* Caller's thread, for an op that was submitted and not yet taken back. */
void arn_op_cancel(arn_runtime *rt, arn_op *op);

static inline int arn_op_is_cancelled(arn_op *op) {
    return atomic_load_explicit(&op->cancelled, memory_order_acquire);
}

/* ---- io thread ---- */

/* Sets how the op has ended. `message` is copied, and may be NULL. */
void arn__op_end(arn_op *op, int status, const char *message);

/* Ends the op and posts it; further calls for the same op do nothing. */
void arn__op_finish(arn_runtime *rt, arn_op *op, int status, const char *message);

#endif /* ARN_IO_OP_H */
