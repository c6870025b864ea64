/* The express connection: its descriptor comes from the io thread, the rest is on this one. */
#include "arn.h"
#include "base/alloc.h"
#include "fault_server.h"
#include "redis/express.h"
#include "redis_server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

static int is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

/* The descriptor, taken out of the op. */
static int descriptor(arn_redis_client *client) {
    arn_redis_op *op = t_op(client, ARN_REDIS_EXPRESS, NULL);
    int fd;

    assert_non_null(op);
    assert_int_equal(t_run(op, t_port), ARN_OK);
    assert_int_equal(op->base.value.kind, ARN_INT);
    fd = (int)op->base.value.u.integer;
    assert_true(is_open(fd));
    op->base.value.kind = ARN_NIL;
    arn_op_unref(&op->base);
    return fd;
}

static arn_redis_express *open_express(arn_redis_client *client) {
    arn_redis_express *e = arn_redis_express_new(client, descriptor(client));

    assert_non_null(e);
    assert_null(arn_redis_express_op(e));
    assert_int_equal(arn_redis_express_deadline(e), 0);
    return e;
}

static int readable(const arn_redis_express *e, int timeout_ms) {
    struct pollfd p = {arn_redis_express_fd(e), POLLIN, 0};

    return poll(&p, 1, timeout_ms) == 1;
}

/* Reads until the op has ended; whether the connection is over. */
static int read_all(arn_redis_express *e) {
    int over = 0;

    do
        assert_true(readable(e, 8000));
    while (!arn_redis_express_read(e, &over) && !over);
    assert_null(arn_redis_express_op(e));
    return over;
}

static void ask(arn_redis_express *e, arn_redis_op *op, const char *reply, int over, int line) {
    char text[128];

    assert_int_equal(arn_redis_express_send(e, op), 1);
    assert_ptr_equal(arn_redis_express_op(e), op);
    assert_int_equal(read_all(e), over);
    if (op->base.status != ARN_OK)
        fail_msg("line %d: %s", line, op->base.message);
    if (strcmp(t_text(&op->base.value, text, sizeof(text)), reply) != 0)
        fail_msg("line %d: '%s' instead of '%s'", line, text, reply);
    arn_op_unref(&op->base);
}

#define SEND(e, reply, over, ...) ask(e, OP(client, SHARED, __VA_ARGS__), reply, over, __LINE__)

/* Not sent: the op is as before, and the lanes take it. */
static void refuses(arn_redis_express *e, arn_redis_op *op) {
    assert_int_equal(arn_redis_express_send(e, op), 0);
    assert_int_equal(op->base.state, ARN_OP_NEW);
    assert_false(op->base.posted);
    assert_false(op->express);
}

static void send_and_read(void **state) {
    arn_redis_config config = t_config(t_server.port);
    arn_redis_client *client;
    arn_redis_express *e;
    arn_redis_op *op, *second;
    long replies;
    int i, over = 1;

    (void)state;
    config.database = "3"; /* set up like any other */
    client = t_client_of(&config);
    e = open_express(client);
    t_barrier(t_rt);
    assert_int_equal(STAT(client, dedicated), 0); /* the io thread has forgotten it */
    assert_int_equal(STAT(client, connections), 1);
    replies = STAT(client, replies);
    SEND(e, "OK", 0, "SET", "k", "3rd");
    for (i = 0; i < 200; i++)
        SEND(e, "3rd", 0, "GET", "k");
    SEND(e, "nil", 0, "GET", "missing");
    SEND(e, "-ERR value is not an integer or out of range", 0, "INCR", "k");
    assert_int_equal(STAT(client, replies) - replies, 203);
    assert_int_equal(STAT(client, errors), 1);
    ASK(client, "3rd", "GET", "k");                 /* the lane beside it */
    assert_false(arn_redis_express_read(e, &over)); /* nothing there, nothing wrong */
    assert_false(over);

    op = OP(client, SHARED, "GET", "k");
    op->base.timeout_ms = 500;
    second = OP(client, SHARED, "GET", "k");
    assert_int_equal(arn_redis_express_send(e, op), 1);
    assert_true(arn_redis_express_deadline(e) > uv_hrtime());
    refuses(e, second); /* one at a time */
    assert_false(read_all(e));
    assert_int_equal(arn_redis_express_deadline(e), 0);
    assert_memory_equal(op->base.value.u.bytes, "3rd", 4);
    arn_op_unref(&op->base);
    RUN(second, ARN_OK, "3rd");
    arn_redis_express_free(e);
    assert_int_equal(STAT(client, connections), 1);
    assert_int_equal(arn_redis_queued_bytes(client), 0);
    t_close(client);
}

/* What is not its business goes by the lanes, and it stays of use. */
static void left_to_the_lanes(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_express *e = open_express(client);
    char *word = malloc(20001);
    arn_redis_op *op;

    (void)state;
    memset(word, 'w', 20000);
    word[20000] = '\0';
    op = OP(client, SHARED, "SET", "long", word);
    refuses(e, op);
    RUN(op, ARN_OK, "OK");
    /* Of a pipeline that did not fit the socket, a part would take effect twice. */
    op = t_pipeline(client, GET("k"), 2);
    refuses(e, op);
    assert_int_equal(t_run(op, t_port), ARN_OK);
    arn_op_unref(&op->base);
    op = OP(client, EXCLUSIVE, "GET", "long");
    refuses(e, op);
    arn_op_unref(&op->base);
    op = OP(client, SHARED, "STRLEN", "long");
    ask(e, op, ":20000", 0, __LINE__);
    free(word);
    arn_redis_express_free(e);
    t_close(client);
}

/* A reply longer than one read comes piece by piece, without blocking. */
static void long_reply(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_express *e = open_express(client);
    size_t len = 3u << 20, i;
    arn_redis_op *op;

    (void)state;
    ASK(client, ":3145728", "SETRANGE", "big", "3145727", "x");
    op = OP(client, SHARED, "GET", "big");
    assert_int_equal(arn_redis_express_send(e, op), 1);
    assert_false(read_all(e));
    assert_int_equal(op->base.status, ARN_OK);
    assert_int_equal(op->base.value.len, len);
    for (i = 0; i < len - 1; i += 4093)
        assert_int_equal(op->base.value.u.bytes[i], 0);
    assert_int_equal(op->base.value.u.bytes[len - 1], 'x');
    arn_op_unref(&op->base);
    SEND(e, "x", 0, "ECHO", "x");
    arn_redis_express_free(e);
    t_close(client);
}

/* Nobody takes the descriptor: it goes with the op. */
static void descriptor_not_taken(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_op *op = t_op(client, ARN_REDIS_EXPRESS, NULL);
    int fd;

    (void)state;
    assert_int_equal(t_run(op, t_port), ARN_OK);
    fd = (int)op->base.value.u.integer;
    assert_true(is_open(fd));
    arn_op_unref(&op->base);
    assert_false(is_open(fd));
    t_close(client);
}

static void no_descriptor(void **state) {
    arn_redis_config config = t_config(t_server.port);
    arn_redis_client *client;
    arn_redis_op *holder;
    int i;

    (void)state;
    config.max_dedicated = 1;
    client = t_client_of(&config);
    holder = t_start(OP(client, EXCLUSIVE, "BLPOP", "nothing", "0"));
    RUN(t_op(client, ARN_REDIS_EXPRESS, NULL), ARN_EBUSY, NULL); /* does not wait */
    arn_op_cancel(t_rt, &holder->base);
    NEXT(holder, ARN_ECANCELED, NULL);
    t_close(client);

    client = t_client(t_free_port());
    RUN(t_op(client, ARN_REDIS_EXPRESS, NULL), ARN_ECONN, NULL);
    t_close(client);

    client = t_client(t_server.port);
    for (i = 0; i < 3; i++) { /* of the struct, the reader, the buffer: the descriptor is closed */
        int fd = descriptor(client);
        arn_alloc_fail_after(i);
        assert_null(arn_redis_express_new(client, fd));
        arn_alloc_fail_after(-1);
        assert_false(is_open(fd));
    }
    t_close(client);
}

static void shut_down(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_express *e = open_express(client);
    arn_redis_op *op = OP(client, SHARED, "BLPOP", "nothing", "0");
    int over = 0;

    (void)state;
    assert_int_equal(arn_redis_express_send(e, op), 1);
    assert_false(readable(e, 20));
    arn_redis_express_shutdown(e);
    assert_true(readable(e, 8000));
    assert_true(arn_redis_express_read(e, &over));
    assert_true(over);
    assert_int_equal(op->base.status, ARN_ECONN);
    arn_op_unref(&op->base);
    arn_redis_express_free(e);

    e = open_express(client); /* with nothing under way */
    arn_redis_express_shutdown(e);
    assert_true(readable(e, 8000));
    over = 0;
    assert_false(arn_redis_express_read(e, &over));
    assert_true(over);
    op = OP(client, SHARED, "ECHO", "x");
    refuses(e, op);
    arn_redis_express_free(e);
    RUN(op, ARN_OK, "x");
    t_close(client);
}

/* The owner gives up: its op ends with the owner's words, and nothing is sent any more. */
static void given_up(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_express *e = open_express(client);
    arn_redis_op *op = OP(client, SHARED, "BLPOP", "nothing", "0");
    char words[] = "too slow";
    int over = 0;

    (void)state;
    assert_int_equal(arn_redis_express_send(e, op), 1);
    arn_redis_express_fail(e, ARN_ETIMEDOUT, words);
    memset(words, 'x', sizeof(words) - 1);
    assert_int_equal(op->base.status, ARN_ETIMEDOUT);
    assert_string_equal(op->base.message, "too slow");
    assert_null(arn_redis_express_op(e));
    arn_op_unref(&op->base);
    arn_redis_express_fail(e, ARN_ETIMEDOUT, NULL);
    assert_false(arn_redis_express_read(e, &over));
    assert_true(over);
    op = OP(client, SHARED, "ECHO", "x");
    refuses(e, op);
    arn_redis_express_free(e);
    RUN(op, ARN_OK, "x");
    t_close(client);
}

static void silent_for_long(void **state) {
    arn_redis_config config = t_config(t_server.port);
    arn_redis_client *client;
    arn_redis_express *e;
    arn_redis_op *op;

    (void)state;
    config.health_check_ms = 30;
    client = t_client_of(&config);
    e = open_express(client);
    usleep(50000);
    op = OP(client, SHARED, "ECHO", "x");
    refuses(e, op); /* it knows no PING: the lanes have one */
    RUN(op, ARN_OK, "x");
    arn_redis_express_free(e);
    t_close(client);
}

/* What may come instead of a reply, and what the op ends with. */
static void broken_replies(void **state) {
    static const struct {
        const char *reply;
        t_fault_kind end;
        int status;
        const char *text; /* of the reply, or the beginning of the message */
    } cases[] = {
        {"", T_CLOSE, ARN_ECONN, "Connection closed by server."},
        {"", T_RESET, ARN_ECONN, "Error 104 while talking to 127.0.0.1:"},
        {"$5\r\nhel", T_CLOSE, ARN_ECONN, "Connection closed by server."},
        {"$100000\r\nhel", T_CLOSE, ARN_ECONN, "Connection closed by server."},
        {"hello\r\n", T_WAIT, ARN_EPROTO, "Protocol error"},
        {"$5\r\nhelloXX", T_WAIT, ARN_EPROTO, "Protocol Error"},
        {"+fine\r\n+what?\r\n", T_WAIT, ARN_OK, "fine"},
        {"+fine\r\nrub", T_WAIT, ARN_OK, "fine"},
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                      {T_READ, 0, GET("k"), 0},
                                      {T_SEND, 0, cases[i].reply, 0},
                                      {cases[i].end, 0, NULL, 0},
                                      {0}};
        t_fault *f = t_play(steps);
        arn_redis_client *client = t_client(t_fault_port(f));
        arn_redis_express *e = open_express(client);
        arn_redis_op *op = OP(client, SHARED, "GET", "k");
        char text[64];

        assert_int_equal(arn_redis_express_send(e, op), 1);
        assert_true(read_all(e));
        assert_int_equal(op->base.status, cases[i].status);
        if (op->base.status == ARN_OK)
            assert_string_equal(t_text(&op->base.value, text, sizeof(text)), cases[i].text);
        else
            assert_memory_equal(op->base.message, cases[i].text, strlen(cases[i].text));
        arn_op_unref(&op->base);
        op = OP(client, SHARED, "GET", "k");
        refuses(e, op);
        arn_op_unref(&op->base);
        t_fault_go(f);
        assert_int_equal(t_fault_finish(f), 0);
        arn_redis_express_free(e);
        t_close(client);
    }
}

/* Before a command is sent: the end of the stream, or bytes that nobody asked for. The command
 * takes no effect there. */
static void stale(void **state) {
    static const char *const bytes[] = {"", "+late\r\n", "rubbish"};
    size_t i;

    (void)state;
    for (i = 0; i < 2 * COUNT(bytes); i++) {
        const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                      {T_WAIT, 0, NULL, 0}, /* else it comes before its time */
                                      {T_SEND, 0, bytes[i / 2], 0},
                                      {i < 2 ? T_CLOSE : T_GONE, 0, NULL, 0},
                                      {0}};
        t_fault *f = t_play(steps);
        arn_redis_client *client = t_client(t_fault_port(f));
        arn_redis_express *e = open_express(client);
        arn_redis_op *op = OP(client, SHARED, "GET", "k");
        int over = 0;

        t_fault_go(f);
        assert_true(readable(e, 8000));
        if (i % 2 == 1) { /* the owner's loop is first */
            assert_false(arn_redis_express_read(e, &over));
            assert_true(over);
        }
        refuses(e, op);
        arn_op_unref(&op->base);
        arn_redis_express_free(e);
        assert_int_equal(t_fault_finish(f), 0);
        t_close(client);
    }
}

/* A reply that comes byte by byte is the same reply. */
static void slow_reply(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0},  {T_READ, 0, GET("k"), 0}, {T_SEND, 0, "$", 0},
        {T_WAIT, 0, NULL, 0},    {T_SEND, 0, "5\r", 0},    {T_WAIT, 0, NULL, 0},
        {T_SEND, 0, "\nhel", 0}, {T_WAIT, 0, NULL, 0},     {T_SEND, 0, "lo\r", 0},
        {T_WAIT, 0, NULL, 0},    {T_SEND, 0, "\n", 0},     {0}};
    t_fault *f = t_play(steps);
    arn_redis_client *client = t_client(t_fault_port(f));
    arn_redis_express *e = open_express(client);
    arn_redis_op *op = OP(client, SHARED, "GET", "k");
    char text[16];
    int i, over;

    (void)state;
    assert_int_equal(arn_redis_express_send(e, op), 1);
    for (i = 0; i < 5; i++) {
        assert_true(readable(e, 8000));
        assert_int_equal(arn_redis_express_read(e, &over), i == 4);
        assert_false(over);
        t_fault_go(f);
    }
    assert_string_equal(t_text(&op->base.value, text, sizeof(text)), "hello");
    arn_op_unref(&op->base);
    arn_redis_express_free(e);
    assert_int_equal(t_fault_finish(f), 0);
    t_close(client);
}

/* Looking without sleeping: the reply, or none in time, or the end of the connection. */
static void spin(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_express *e = open_express(client);
    uint64_t second = 1000000000u, start;
    arn_redis_op *op = OP(client, SHARED, "ECHO", "x");
    int over = 0;

    (void)state;
    assert_int_equal(arn_redis_express_send(e, op), 1);
    assert_int_equal(arn_redis_express_spin(e, 8 * second, &over), 1);
    assert_false(over);
    assert_int_equal(op->base.status, ARN_OK);
    arn_op_unref(&op->base);

    op = OP(client, SHARED, "BLPOP", "nothing", "0");
    start = uv_hrtime();
    assert_int_equal(arn_redis_express_send(e, op), 1);
    assert_int_equal(arn_redis_express_spin(e, second / 50, &over), 0);
    assert_true(uv_hrtime() - start >= second / 50);
    assert_false(over);
    arn_redis_express_shutdown(e);
    start = uv_hrtime();
    assert_int_equal(arn_redis_express_spin(e, 8 * second, &over), 1);
    assert_true(over);
    assert_int_equal(op->base.status, ARN_ECONN);
    arn_op_unref(&op->base);
    assert_int_equal(arn_redis_express_spin(e, 8 * second, &over), 0); /* ends at once */
    assert_true(uv_hrtime() - start < 8 * second);
    arn_redis_express_free(e);
    t_close(client);
}

/* In a forked child the descriptor is closed, and freeing there closes no other of that number. */
static void forked(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_express *e = open_express(client);
    int fd = arn_redis_express_fd(e);
    int status = -1;
    pid_t pid;

    (void)state;
    pid = fork();
    if (pid == 0) {
        int bad = is_open(fd);
        dup2(2, fd);
        arn_redis_express_free(e);
        _exit(bad || !is_open(fd));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    SEND(e, "x", 0, "ECHO", "x");
    arn_redis_express_free(e);
    assert_false(is_open(fd));
    t_close(client);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(send_and_read),  TEST(left_to_the_lanes),
        TEST(long_reply),     TEST(descriptor_not_taken),
        TEST(no_descriptor),  TEST(shut_down),
        TEST(given_up),       TEST(silent_for_long),
        TEST(broken_replies), TEST(stale),
        TEST(slow_reply),     TEST(spin),
        TEST(forked),
    };

    return cmocka_run_group_tests(tests, t_start_server, t_kill_server);
}
