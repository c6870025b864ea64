/* arn.h - the public face of the arshai_native core.
 *
 * The core knows nothing of Python. One io thread (arn_runtime) owns a libuv loop and every
 * socket. Callers build ops on their own threads, submit them through a port, and later take the
 * finished ops from that port. Names: arn_* is public to all rooms, arn__* is shared inside one
 * room, everything else is static.
 *
 * Threads, in one sentence each:
 *   caller thread  makes an op, submits it, takes it back from the port and frees it;
 *   io thread      touches the op between those two moments, and nothing else does;
 *   worker         the same for an op that blocks (a file's): those never see the io thread.
 * Exceptions are named at the functions: arn_op_cancel() and the reference counts are atomic.
 */
#ifndef ARN_H
#define ARN_H

#include "base/arena.h"
#include "base/status.h"
#include "base/value.h"
#include "io/op.h"
#include "io/port.h"
#include "io/runtime.h"
#include "io/workers.h"

#endif /* ARN_H */
