/* lookup.h - host names to addresses, on threads of their own.
 *
 * Not on libuv's pool: its four threads are shared by the whole process, so that one slow name
 * server would hold up connections to every other host, and its destructor joins them, so that it
 * would hold up the end of the process. Whoever asks for a name that is just being looked up waits
 * for the same answer. All calls are made on the io thread.
 */
#ifndef ARN_IO_LOOKUP_H
#define ARN_IO_LOOKUP_H

#include "io/runtime.h"

#include <netdb.h>

typedef struct arn_lookup arn_lookup;

/* Embedded in who waits; `lookup` is NULL before start and after release. */
typedef struct arn_lookup_waiter {
    arn_queue node;
    arn_lookup *lookup;
    /* error: 0 or UV_EAI_*, UV_E*. The addresses stay until the waiter is released. */
    void (*done)(struct arn_lookup_waiter *self, int error, const struct addrinfo *addresses);
} arn_lookup_waiter;

/* `host` is a name or a literal address. 0: done will be called once, but not from within; or a
 * UV_E* code, and it will not. */
int arn__lookup_start(arn_runtime *rt, const char *host, int port, arn_lookup_waiter *waiter);

/* The waiter no longer wants the answer, or no longer needs the addresses. */
void arn__lookup_release(arn_lookup_waiter *waiter);

#endif /* ARN_IO_LOOKUP_H */
