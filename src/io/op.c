#include "io/op.h"

#include "base/alloc.h"
#include "base/status.h"
#include "io/port.h"

#include <string.h>

void arn_op_init(arn_op *op, void (*run)(arn_msg *, int), void (*destroy)(arn_op *), void *first,
                 size_t size) {
    memset(op, 0, sizeof(*op));
    op->msg.run = run;
    op->destroy = destroy;
    op->state = ARN_OP_NEW;
    atomic_init(&op->refs, 1);
    atomic_init(&op->cancelled, 0);
    arn_queue_init(&op->node);
    arn_queue_init(&op->live);
    arn_arena_init(&op->arena, first, size);
}

void arn_op_ref(arn_op *op) {
    atomic_fetch_add_explicit(&op->refs, 1, memory_order_relaxed);
}

void arn_op_unref(arn_op *op) {
    if (atomic_fetch_sub_explicit(&op->refs, 1, memory_order_acq_rel) != 1)
        return;
    arn_arena_free(&op->arena);
    if (op->port != NULL)
        arn_port_unref(op->port);
    op->destroy(op);
}

void arn_op_set_port(arn_op *op, arn_port *port) {
    arn_port_ref(port);
    if (op->port != NULL)
        arn_port_unref(op->port);
    op->port = port;
}

static void run_cancel(arn_msg *msg, int aborted) {
    arn_op *op = ARN_CONTAINER_OF(msg, arn_op, cancel_msg);

    if (!aborted && !op->posted && op->on_cancel != NULL)
        op->on_cancel(op);
    arn_op_unref(op);
}

void arn_op_cancel(arn_runtime *rt, arn_op *op) {
    if (atomic_exchange_explicit(&op->cancelled, 1, memory_order_acq_rel))
        return;
    arn_op_ref(op); /* the message's; the op may be taken and dropped before it runs */
    op->cancel_msg.run = run_cancel;
    arn_runtime_submit(rt, &op->cancel_msg, &op->cancel_msg);
}

void arn__op_end(arn_op *op, int status, const char *message) {
    op->posted = 1;
    op->status = status;
    op->state = status == ARN_ECANCELED ? ARN_OP_CANCELLED : ARN_OP_DONE;
    if (status != ARN_OK) {
        op->message = message != NULL ? arn_arena_copy(&op->arena, message, strlen(message)) : NULL;
        if (op->message == NULL)
            op->message = arn_status_message(status);
    }
}

void arn__op_finish(arn_runtime *rt, arn_op *op, int status, const char *message) {
    if (op->posted)
        return;
    arn__op_end(op, status, message);
    arn__port_post(rt, op->port, op);
}
