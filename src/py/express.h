/* express.h - the bridge's half of an express connection (redis/express.h): its descriptor is
 * watched by the event loop itself, and a lone command takes no thread but the loop's. */
#ifndef ARN_PY_EXPRESS_H
#define ARN_PY_EXPRESS_H

#include "py/engine.h"

/* Nothing else is under way on the port. 1: the op was sent. 0: not; after a row of lone requests
 * a connection is asked for, for the next ones. */
int arn_py_express_send(arn_py_engine *engine, arn_py_loop_port *port, arn_redis_op *op);

/* The connection has come; takes over fd, also on failure (-1 with an exception set). */
int arn_py_express_open(arn_py_engine *engine, arn_py_loop_port *port, int fd);

/* The command under way on the engine's connection of this loop was given up: ends that. */
void arn_py_express_give_up(arn_py_engine *engine, arn_py_loop_port *port);

/* Ends all of the engine's, on any thread; each loop cleans up when it notices. */
void arn_py_express_shutdown(arn_py_engine *engine);

/* The same for good: the engine, or the port, is about to go. */
void arn_py_express_forget_engine(arn_py_engine *engine);
void arn_py_express_forget_port(arn_py_loop_port *port);

#endif /* ARN_PY_EXPRESS_H */
