/* express.h - a connection that one caller's thread drives by itself, one op at a time.
 *
 * For a task that is alone with its command, the way over the io thread is two thread wakes longer
 * than the command itself. The io thread therefore sets up one more connection (ARN_REDIS_EXPRESS)
 * and gives its descriptor away; from then on everything here runs on the owner's thread and never
 * blocks. It carries the simple case only: nothing else under way, a short request. Whatever else
 * happens ends the express connection, and the lanes serve.
 */
#ifndef ARN_REDIS_EXPRESS_H
#define ARN_REDIS_EXPRESS_H

#include "redis/client.h"

typedef struct arn_redis_express arn_redis_express;

/* Takes over fd, also on failure. NULL: out of memory. */
arn_redis_express *arn_redis_express_new(arn_redis_client *client, int fd);
void arn_redis_express_free(arn_redis_express *e);

int arn_redis_express_fd(const arn_redis_express *e);

/* 1: the whole request is with the kernel; the op stays the caller's, and arn_redis_express_read
 * will say when it is done. 0: not sent, not a byte of it will take effect; use the lanes. */
int arn_redis_express_send(arn_redis_express *e, arn_redis_op *op);

/* To be called when the descriptor is readable. 1: the op that was sent has ended (well or not):
 * its status and value are set. 0: not yet. If the connection is of no more use, *over is set (and
 * may be set with either result). */
int arn_redis_express_read(arn_redis_express *e, int *over);

/* The same, trying again and again until the reply is there or ns nanoseconds have passed since the
 * request was sent: a server nearby answers sooner than the kernel puts a thread to sleep and
 * wakes it. */
int arn_redis_express_spin(arn_redis_express *e, uint64_t ns, int *over);

/* Ends the op under way, if any, with the status. The connection is of no use afterwards. */
void arn_redis_express_fail(arn_redis_express *e, int status, const char *message);

/* The op under way or NULL, and the time (uv_hrtime) by which it must end, or 0. */
arn_redis_op *arn_redis_express_op(const arn_redis_express *e);
uint64_t arn_redis_express_deadline(const arn_redis_express *e);

/* Any thread: makes the descriptor readable and the connection useless. */
void arn_redis_express_shutdown(arn_redis_express *e);

#endif /* ARN_REDIS_EXPRESS_H */
