/* ready.h - an awaitable whose outcome is there already: awaiting it does not go through the loop.
 *
 * To asyncio it is a coroutine: wait_for() and create_task() take it.
 */
#ifndef ARN_PY_READY_H
#define ARN_PY_READY_H

#include "py/state.h"

/* With this result, whose reference it takes over; NULL: with the exception that is set. NULL on
 * failure. */
PyObject *arn_py_ready(arn_py_state *st, PyObject *result);

#endif /* ARN_PY_READY_H */
