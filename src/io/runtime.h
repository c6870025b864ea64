/* runtime.h - the io thread: one per process, started on first use, fresh in a forked child.
 *
 * A message is how anything reaches the io thread: a node with a function that the thread runs.
 * Messages run in the order of their submission, never concurrently.
 */
#ifndef ARN_IO_RUNTIME_H
#define ARN_IO_RUNTIME_H

#include "base/queue.h"

#include <uv.h>

typedef struct arn_runtime arn_runtime;
typedef struct arn_msg arn_msg;

struct arn_msg {
    arn_msg *next;
    /* Runs on the io thread; the message's memory is then run's to free. With aborted != 0 the
     * thread is stopping: finish the message's business with ARN_ESHUTDOWN, touch no handle. */
    void (*run)(arn_msg *msg, int aborted);
};

/* Any thread. The process's runtime, started if there is none (or if the one there is belongs to
 * the parent process). NULL with *status set when the thread or its loop can't be made: ARN_ENOMEM,
 * or ARN_ERESOURCE when the system has no more descriptors or threads for this process. The
 * runtime lives until arn_runtime_stop() or the end of the process; do not keep the pointer over a
 * fork: compare with arn_runtime_current(). */
arn_runtime *arn_runtime_get(int *status);

/* Any thread. The running runtime of this process, or NULL. Starts nothing. */
arn_runtime *arn_runtime_current(void);

/* Any thread. Hands over a chain of messages linked by next, first to last (last->next is set
 * here). Wakes the thread if it sleeps: submit in batches. After a stop the messages are run
 * with aborted set, on the calling thread. */
void arn_runtime_submit(arn_runtime *rt, arn_msg *first, arn_msg *last);

/* Any thread. Another number in a forked child than in its parent: what was made under another one
 * belongs to the parent and must be left alone, locks may be held there for ever. */
unsigned arn_runtime_generation(void);

/* Any thread: whether it is an io thread. */
int arn_runtime_on_io_thread(void);

/* Any thread but the io thread. Stops the thread: whatever is in flight ends with ARN_ESHUTDOWN.
 * Waits at most timeout_ms for it. 0, or ARN_ETIMEDOUT (the thread is then left behind). */
int arn_runtime_stop(int timeout_ms);

/* Any thread. A thread that takes no signal: they belong to the program's own threads, which may
 * block some and wait for them, and a write to a connection that has ended must fail, not end the
 * process. 0 or a UV_E* code. */
int arn__thread_start(uv_thread_t *thread, void (*main)(void *), void *arg);

/* ---- for code that runs on the io thread ---- */

uv_loop_t *arn__runtime_loop(arn_runtime *rt);

/* A buffer for reading that everybody on the io thread shares: valid until the next read. */
char *arn__runtime_scratch(arn_runtime *rt, size_t *size);

/* Something that wants to be told, while the thread is still in order, that it is stopping. */
typedef struct arn_stopper {
    arn_queue node;
    void (*stop)(struct arn_stopper *self);
} arn_stopper;

void arn__runtime_add_stopper(arn_runtime *rt, arn_stopper *s);
void arn__runtime_remove_stopper(arn_stopper *s); /* also when it has been stopped */

/* Calls d->fn(d) once before the thread next sleeps: how ports gather a batch of results into one
 * wake. The node belongs to the caller and must stay until then. */
typedef struct arn_deferred {
    struct arn_deferred *next;
    void (*fn)(struct arn_deferred *self);
    int queued;
} arn_deferred;

void arn__runtime_defer(arn_runtime *rt, arn_deferred *d);

/* Sockets of this process that a forked child must close, because a descriptor held open there
 * would keep the connection alive when the parent closes it. */
void arn__runtime_track_fd(int fd);
void arn__runtime_untrack_fd(int fd);

/* The list of look-ups under way; lookup.c's. */
arn_queue *arn__runtime_lookups(arn_runtime *rt);

#endif /* ARN_IO_RUNTIME_H */
