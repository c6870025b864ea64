/* grpc_kit.h - what the tests of gRPC share: a channel to an h2_server, calls, and what is expected
 * of them. Main thread only.
 */
#ifndef T_GRPC_KIT_H
#define T_GRPC_KIT_H

#include "grpc/internal.h"
#include "h2_server.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

extern arn_port *t_grpc_port; /* between set-up and tear-down of a test */

arn_grpc_config t_grpc_config_of(int server_port);
arn_grpc_channel *t_grpc_channel(const arn_grpc_config *config);
arn_grpc_channel *t_grpc_channel_to(const t_h2 *server);

/* The message is not copied. */
arn_grpc_op *t_grpc_op(arn_grpc_channel *channel, const char *path, const void *message,
                       size_t len);
void t_grpc_submit(arn_grpc_op *op);

/* The next op that has ended, whichever; or this one, however many end before it. */
arn_op *t_grpc_next_op(void);
void t_grpc_wait_for(arn_grpc_op *op);
arn_grpc_op *t_grpc_run(arn_grpc_channel *channel, const char *path, const void *message,
                        size_t len);

/* What a call must come to; an op that has failed is dropped. */
void t_grpc_expect_echo(arn_grpc_channel *channel, const void *message, size_t len);
void t_grpc_expect_failure(arn_grpc_op *op, int code, const char *part);

/* Waits until the server has counted so many. */
void t_grpc_until(int (*counter)(const t_h2 *), const t_h2 *server, int count);
char *t_grpc_bytes_of(size_t len);

/* So many echoes at once. */
void t_grpc_run_many(arn_grpc_channel *channel, size_t count);

/* A handler: the path says what is wrong with the reply. */
void t_grpc_scripted(const t_h2_request *r, void *arg);
int t_grpc_set_up(void **state);
int t_grpc_tear_down(void **state);

#endif /* T_GRPC_KIT_H */
