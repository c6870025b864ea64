/* port.h - the mailbox through which finished ops come back to the thread that asked for them.
 *
 * A port belongs to one event loop (ARN_PORT_FD: a descriptor becomes readable) or to one blocking
 * caller (ARN_PORT_WAIT: a condition variable). The io thread posts; the owner takes. Results that
 * reach a closed port are dropped.
 */
#ifndef ARN_IO_PORT_H
#define ARN_IO_PORT_H

#include "io/op.h"
#include "io/runtime.h"

typedef enum arn_port_kind { ARN_PORT_FD, ARN_PORT_WAIT } arn_port_kind;

/* Owner. One reference. NULL with *status set (ARN_ENOMEM, or ARN_ERESOURCE: no descriptor). */
arn_port *arn_port_new(arn_port_kind kind, int *status);

/* Any thread. */
void arn_port_ref(arn_port *port);
void arn_port_unref(arn_port *port);

/* Owner, ARN_PORT_FD only. Readable when there is something to take. */
int arn_port_fd(const arn_port *port);

/* Owner. Takes every finished op, oldest first, linked by next_done; NULL if there is none. */
arn_op *arn_port_take(arn_port *port);

/* Owner, ARN_PORT_WAIT only. Waits at most timeout_ms for something to take. */
arn_op *arn_port_wait(arn_port *port, int timeout_ms);

/* Owner. No more results are wanted: what is there and what is still to come is dropped. The
 * descriptor stays open until the last reference is gone. */
void arn_port_close(arn_port *port);

/* Any thread. Hands over a finished op at once, with the caller's reference on it. */
void arn_port_post(arn_port *port, arn_op *op);

/* io thread (rt != NULL: gathered until the turn's end), or any thread after the io thread has
 * stopped (rt == NULL: at once). Takes over the io thread's reference on the op. */
void arn__port_post(arn_runtime *rt, arn_port *port, arn_op *op);

#endif /* ARN_IO_PORT_H */
