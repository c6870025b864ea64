/* redis_server.h - a real redis-server of the test's own, on a free port and a unix socket, and
 * what the tests that talk to it share.
 *
 * The server dies with the test program, however that ends. Main thread only.
 */
#ifndef T_REDIS_SERVER_H
#define T_REDIS_SERVER_H

#include "fault_server.h"
#include "redis/client.h"

#include <sys/types.h>
#include <unistd.h>

typedef struct t_redis {
    int port;
    char path[64];
    char password[32]; /* "": none */
    pid_t pid;         /* 0: not running */
} t_redis;

/* Starts it and waits until it answers; 0 or -1. Call again after a kill: the same addresses. */
int t_redis_start(t_redis *server, const char *password);
int t_redis_restart(t_redis *server);
void t_redis_kill(t_redis *server); /* nothing happens if it does not run */
void t_redis_freeze(t_redis *server);
void t_redis_thaw(t_redis *server);

/* A port of 127.0.0.1 on which nobody listens. */
int t_free_port(void);

/* An op for the words up to NULL; no word makes an op without request. NULL: out of memory. */
arn_redis_op *t_op(arn_redis_client *client, arn_redis_route route, ...);

void t_submit(arn_redis_op *op, arn_port *port);

/* The next finished op, one by one, or NULL after 10 s. Takes what the port has into *rest. */
arn_redis_op *t_next(arn_port *port, arn_op **rest);

/* Submits and waits for this op, which must be the only one; its status, or 1 after 10 s. */
int t_run(arn_redis_op *op, arn_port *port);

/* ---- what the tests of the client share: a runtime and a port for each test ---- */

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define STAT(client, field) ((long)atomic_load(&arn_redis_client_stats(client)->field))
/* Requests as they are on the wire. */
#define PING "*1\r\n$4\r\nPING\r\n"
#define GET(key) "*2\r\n$3\r\nGET\r\n$1\r\n" key "\r\n"
#define SETNAME "*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$1\r\nn\r\n"

extern arn_runtime *t_rt;
extern arn_port *t_port;

int t_set_up(void **state);
int t_tear_down(void **state);

/* 127.0.0.1 and generous limits. */
arn_redis_config t_config(int port);
arn_redis_client *t_client(int port);
arn_redis_client *t_client_of(const arn_redis_config *config);
void t_close(arn_redis_client *client);

/* `count` times the same command as one op. */
arn_redis_op *t_pipeline(arn_redis_client *client, const char *command, unsigned count);

/* `len` letters, to be freed; other ones for each place. */
char *t_word(size_t len);

/* SET payload <t_word(len)>, which is not copied but freed and counted with the op. */
arn_redis_op *t_payload_op(arn_redis_client *client, size_t len);
extern _Atomic int t_releases;

/* A reply as text: ":1" an integer, "-ERR" an error, "nil". */
const char *t_text(const arn_value *v, char *out, size_t size);

arn_redis_op *t_start(arn_redis_op *op);
void t_expect(arn_redis_op *op, int status, const char *reply, int line);
void t_expect_next(arn_redis_op *op, int status, const char *reply, int line);
void t_expect_nothing(int line);

/* These ops end, in any order, and no other. */
void t_all_end(arn_redis_op **ops, int count);

#define OP(client, route, ...) t_op(client, ARN_REDIS_##route, __VA_ARGS__, NULL)
/* Runs an op by itself: its status, and its reply or NULL. */
#define RUN(op, status, reply) t_expect(op, status, reply, __LINE__)
#define ASK(client, reply, ...) RUN(OP(client, SHARED, __VA_ARGS__), ARN_OK, reply)
#define FAIL(client, status, ...) RUN(OP(client, SHARED, __VA_ARGS__), status, NULL)
/* The op that ends next, and that none has ended. */
#define NEXT(op, status, reply) t_expect_next(op, status, reply, __LINE__)
#define NOTHING() t_expect_nothing(__LINE__)
#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        int tries_ = 0;                                                                            \
        while (!(condition) && tries_++ < 8000)                                                    \
            usleep(1000);                                                                          \
        if (tries_ >= 8000)                                                                        \
            fail_msg("line %d: never: %s", __LINE__, #condition);                                  \
    } while (0)

/* Runs fn(arg) on the io thread, and returns when that is done. */
void t_on_io(arn_runtime *rt, void (*fn)(void *), void *arg);
/* A started script; the test fails if that does not work. */
t_fault *t_play(const t_fault_step *steps);

/* The server of most test programs; for cmocka's group set-up and tear-down. */
extern t_redis t_server;
int t_start_server(void **state);
int t_kill_server(void **state);

#define TEST(name) cmocka_unit_test_setup_teardown(name, t_set_up, t_tear_down)

/* For tests that start and stop the runtime themselves: the one that runs, started if need be, and
 * a tear-down that stops it. */
arn_runtime *t_running(void);
int t_stop_runtime(void **state);

/* Returns when the io thread has run what was submitted before. */
void t_barrier(arn_runtime *rt);

/* The io thread does nothing between the two. */
typedef struct t_blocker {
    arn_msg msg;
    uv_sem_t entered, leave;
} t_blocker;

void t_block(arn_runtime *rt, t_blocker *b);
void t_unblock(t_blocker *b);

#endif /* T_REDIS_SERVER_H */
