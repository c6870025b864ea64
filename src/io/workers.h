/* workers.h - threads for jobs that block: files, and callables of the host.
 *
 * A job is a message (runtime.h) that runs on a worker instead of the io thread: straight from the
 * caller to a worker, and from there to the caller's port. Jobs start in the order of their
 * submission and run beside each other; whoever needs one after the other submits the next when
 * the last has ended.
 *
 * Threads start when they are needed, and end when they have had nothing to do for some seconds.
 * They take no signals. In a forked child there are none, and what was queued is forgotten.
 */
#ifndef ARN_IO_WORKERS_H
#define ARN_IO_WORKERS_H

#include "io/op.h"
#include "io/runtime.h"

/* Any thread. Hands over a job; it is run exactly once, with aborted != 0 on the calling thread if
 * no thread can be had for it, or by arn_workers_stop(). */
void arn_workers_submit(arn_msg *job);

/* A job that is an op ends it with this and hands it to its port, with the job's reference. */
void arn_workers_finish(arn_op *op, int status);

/* Any thread: whether it is a worker, or aborts a job in the place of one. */
int arn_workers_on_worker(void);

/* Any thread: how many there are. */
unsigned arn_workers_count(void);

/* Any thread but a worker. Jobs not yet begun are run aborted on the calling thread; waits at most
 * timeout_ms for those that have. 0, or ARN_ETIMEDOUT: their threads are left behind, and end with
 * their job. A later submission starts anew. */
int arn_workers_stop(int timeout_ms);

/* A worker, in a job: whether it has been left behind by arn_workers_stop(). */
int arn_workers_left_behind(void);

#endif /* ARN_IO_WORKERS_H */
