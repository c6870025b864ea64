/* The Redis client and servers that refuse, fall silent, break off, answer late or nonsense. */
#include "arn.h"
#include "base/alloc.h"
#include "fault_server.h"
#include "redis/client.h"
#include "redis_server.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static t_redis server;

static t_fault *play(const t_fault_step *steps) {
    t_fault *f = t_fault_start(steps);

    assert_non_null(f);
    return f;
}

/* ---- servers that misbehave ---- */

static void broken_replies(void **state) {
    static const struct {
        const char *reply;
        t_fault_kind end;
        int status;
        const char *text; /* or of the message */
    } cases[] = {
        {"", T_CLOSE, ARN_ECONN, "Connection closed by server."},
        {"", T_RESET, ARN_ECONN, "Error 104 while talking to "},
        {"$5\r\nhel", T_CLOSE, ARN_ECONN, "Connection closed by server."},
        {"$100000\r\nhel", T_CLOSE, ARN_ECONN, "Connection closed by server."},
        {"*2\r\n$1\r\n1\r\n", T_CLOSE, ARN_ECONN, "Connection closed by server."},
        {"hello\r\n", T_GONE, ARN_EPROTO, "Protocol error"},
        {"$5\r\nhelloXX", T_GONE, ARN_EPROTO, "Protocol Error"},
        {"+fine\r\n+what?\r\n", T_GONE, ARN_OK, "fine"},
        {"+fine\r\nrubbish", T_GONE, ARN_OK, "fine"},
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                      {T_READ, 0, GET("k"), 0},
                                      {T_SEND, 0, cases[i].reply, 0},
                                      {cases[i].end, 0, NULL, 0},
                                      {T_ACCEPT, 1, NULL, 0},
                                      {T_READ, 1, GET("l"), 0},
                                      {T_SEND, 1, "$5\r\nright\r\n", 0},
                                      {0}};
        t_fault *f = play(steps);
        arn_redis_client *client = t_client(t_fault_port(f));
        arn_redis_op *op = OP(client, SHARED, "GET", "k");
        char text[64];
        assert_int_equal(t_run(op, t_port), cases[i].status);
        if (op->base.status == ARN_OK)
            assert_string_equal(t_text(&op->base.value, text, sizeof(text)), cases[i].text);
        else
            assert_memory_equal(op->base.message, cases[i].text, strlen(cases[i].text));
        arn_op_unref(&op->base);
        assert_int_equal(t_fault_wait(f, 4), 0);
        UNTIL(STAT(client, connections) == 0);
        ASK(client, "right", "GET", "l");
        assert_int_equal(t_fault_finish(f), 0);
        t_close(client);
    }
}

/* A, which times out, may be a pipeline with a part of its replies read; B waits behind it. */
static void late_replies(void **state) {
    static const struct {
        unsigned replies;
        const char *early, *late;
    } cases[] = {{1, "", "$4\r\nlate\r\n"},
                 {1, "$8\r\nearl", "late\r\n"},
                 {1, "*3\r\n$1\r\n1\r\n", ":2\r\n$-1\r\n"},
                 {2, "+one\r\n$5\r\ntw", "o..\r\n"},
                 {3, "+one\r\n", "+two\r\n-ERR three\r\n"}};
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        const char *get = GET("a") GET("a") GET("a");
        const t_fault_step steps[] = {
            {T_ACCEPT, 0, NULL, 0},
            {T_READ, 0, get + (3 - cases[i].replies) * strlen(GET("a")), 0},
            {T_SEND, 0, cases[i].early, 0},
            {T_READ, 0, GET("b"), 0},
            {T_WAIT, 0, NULL, 0},
            {T_ACCEPT, 1, NULL, 0},
            {T_READ, 1, GET("c"), 0},
            {T_SEND, 0, cases[i].late, 0},
            {T_SEND, 0, "$1\r\nb\r\n", 0},
            {T_GONE, 0, NULL, 0},
            {T_SEND, 1, "$1\r\nc\r\n", 0},
            {0}};
        t_fault *f = play(steps);
        arn_redis_client *client = t_client(t_fault_port(f));
        arn_redis_op *a = t_pipeline(client, GET("a"), cases[i].replies);
        arn_redis_op *b = OP(client, SHARED, "GET", "b");
        arn_redis_op *c = OP(client, SHARED, "GET", "c");
        a->base.timeout_ms = 100;
        arn_op_ref(&a->base);
        t_start(a);
        t_start(b);
        NEXT(a, ARN_ETIMEDOUT, NULL);
        t_fault_go(f);
        t_start(c); /* on a connection where nothing is overdue */
        NEXT(b, ARN_OK, "b");
        NEXT(c, ARN_OK, "c");
        assert_int_equal(t_fault_finish(f), 0);
        assert_int_equal(a->base.status, ARN_ETIMEDOUT);
        /* The caller may be reading it: the late reply leaves it alone. */
        assert_int_equal(a->base.value.kind, cases[i].replies > 1 ? ARN_ARRAY : ARN_NIL);
        assert_memory_equal(a->base.message, "Timeout reading from 127.0.0.1:", 31);
        arn_op_unref(&a->base);
        t_close(client);
    }
}

static void frozen_server(void **state) {
    arn_redis_client *client = t_client(server.port);
    const arn_redis_route routes[] = {ARN_REDIS_SHARED, ARN_REDIS_EXCLUSIVE};
    size_t i;

    (void)state;
    ASK(client, "OK", "SET", "k", "before");
    for (i = 0; i < COUNT(routes); i++) {
        arn_redis_op *op = t_op(client, routes[i], "ECHO", "late", NULL);
        t_redis_freeze(&server);
        op->base.timeout_ms = 60;
        RUN(op, ARN_ETIMEDOUT, NULL);
        t_redis_thaw(&server);
        ASK(client, "before", "GET", "k");
        UNTIL(STAT(client, connections) == 1 && STAT(client, dedicated) == 0);
    }
    t_close(client);
}

static void refused(void **state) {
    arn_redis_config config = t_config(t_free_port());
    char deep[200];
    int i;

    (void)state;
    memset(deep, 'x', sizeof(deep) - 1);
    deep[sizeof(deep) - 1] = '\0';
    for (i = 0; i < 3; i++) {
        arn_redis_client *client = t_client_of(&config);
        arn_op *left = NULL;
        int k;
        for (k = 0; k < 4; k++)
            t_start(t_op(client, k < 3 ? ARN_REDIS_SHARED : ARN_REDIS_EXCLUSIVE, "X", NULL));
        for (k = 0; k < 4; k++) {
            arn_redis_op *op = t_next(t_port, &left);
            assert_non_null(op);
            assert_int_equal(op->base.status, ARN_ECONN);
            assert_non_null(strstr(op->base.message, arn_redis_client_label(client)));
            arn_op_unref(&op->base);
        }
        FAIL(client, ARN_ECONN, "X"); /* after a pause */
        t_close(client);
        config.host = NULL;
        config.path = i == 0 ? "/nowhere/at/all" : deep;
    }
}

static void passwords(void **state) {
    t_redis guarded;
    const char *passwords[] = {"secret", "wrong", NULL};
    int i;

    (void)state;
    assert_int_equal(t_redis_start(&guarded, "secret"), 0);
    for (i = 0; i < 5; i++) {
        arn_redis_config config = t_config(guarded.port);
        arn_redis_client *client;
        config.password = passwords[i % 3];
        config.username = i == 3 ? "default" : i == 4 ? "nobody" : NULL;
        config.database = i == 3 ? "99" : NULL;
        client = t_client_of(&config);
        if (i == 2)
            ASK(client, "-NOAUTH Authentication required.", "GET", "k");
        else
            RUN(OP(client, SHARED, "ECHO", "in"), i == 0 ? ARN_OK : ARN_EAUTH, NULL);
        t_close(client);
    }
    t_redis_kill(&guarded);
}

/* What becomes of a connection while it is being set up. */
static void set_ups(void **state) {
    static const struct {
        const char *reply;
        t_fault_kind end;
        int status;
    } cases[] = {{"", T_GONE, ARN_ECONNTIMEDOUT},
                 {"+O", T_GONE, ARN_ECONNTIMEDOUT},
                 {"", T_CLOSE, ARN_ECONN},
                 {"+O", T_RESET, ARN_ECONN},
                 {"rubbish\r\n", T_GONE, ARN_EPROTO},
                 {":1\r\n", T_GONE, ARN_EPROTO},
                 {"-ERR max\r\n", T_GONE, ARN_EAUTH}};
    size_t i;

    (void)state;
    for (i = 0; i < 2 * COUNT(cases); i++) {
        const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                      {T_READ, 0, SETNAME, 0},
                                      {T_SEND, 0, cases[i / 2].reply, 0},
                                      {cases[i / 2].end, 0, NULL, 0},
                                      {T_ACCEPT, 1, NULL, 0},
                                      {T_READ, 1, SETNAME, 0},
                                      {T_SEND, 1, "+OK\r\n", 0},
                                      {T_READ, 1, GET("k"), 0},
                                      {T_SEND, 1, "+fine\r\n", 0},
                                      {0}};
        arn_redis_route route = i % 2 == 0 ? ARN_REDIS_SHARED : ARN_REDIS_EXCLUSIVE;
        t_fault *f = play(steps);
        arn_redis_config config = t_config(t_fault_port(f));
        arn_redis_client *client;
        config.client_name = "n";
        config.connect_timeout_ms = cases[i / 2].status == ARN_ECONNTIMEDOUT ? 60 : 8000;
        client = t_client_of(&config);
        RUN(t_op(client, route, "GET", "k", NULL), cases[i / 2].status, NULL);
        RUN(t_op(client, route, "GET", "k", NULL), ARN_OK, "fine");
        assert_int_equal(t_fault_finish(f), 0);
        t_close(client);
    }
}

static void old_server(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0},
        {T_READ, 0, "*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n", 0},
        {T_SEND, 0, "-ERR wrong number of arguments for 'auth' command\r\n", 0},
        {T_ACCEPT, 1, NULL, 0},
        {T_READ, 1, "*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n", 0},
        {T_SEND, 1, "+OK\r\n", 0},
        {T_READ, 1, PING, 0},
        {T_SEND, 1, "+PONG\r\n", 0},
        {0}};
    t_fault *f = play(steps);
    arn_redis_config config = t_config(t_fault_port(f));
    arn_redis_client *client;

    (void)state;
    config.username = "u";
    config.password = "p";
    client = t_client_of(&config);
    ASK(client, "PONG", "PING");
    assert_int_equal(t_fault_finish(f), 0);
    t_close(client);
}

/* After a silence a PING goes first; if it is not answered, the op takes another connection. */
static void health_checks(void **state) {
    static const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                         {T_READ, 0, GET("a"), 0},
                                         {T_SEND, 0, "+a\r\n", 0},
                                         {T_READ, 0, PING, 0},
                                         {T_SEND, 0, "+PONG\r\n", 0},
                                         {T_READ, 0, GET("b"), 0},
                                         {T_SEND, 0, "+b\r\n", 0},
                                         {T_READ, 0, PING, 0},
                                         {T_CLOSE, 0, NULL, 0},
                                         {T_ACCEPT, 1, NULL, 0},
                                         {T_READ, 1, GET("c"), 0},
                                         {T_SEND, 1, "+c\r\n", 0},
                                         {0}};
    t_fault *f = play(steps);
    arn_redis_config config = t_config(t_fault_port(f));
    arn_redis_client *client;

    (void)state;
    config.health_check_ms = 30;
    client = t_client_of(&config);
    ASK(client, "a", "GET", "a");
    usleep(60000);
    ASK(client, "b", "GET", "b");
    usleep(60000);
    ASK(client, "c", "GET", "c");
    assert_int_equal(STAT(client, reconnects), 1);
    assert_int_equal(t_fault_finish(f), 0);
    t_close(client);
}

static void killed_and_restarted(void **state) {
    arn_redis_client *client = t_client(server.port);
    arn_redis_op *op;
    int round;

    (void)state;
    for (round = 0; round < 2; round++) {
        ASK(client, "OK", "SET", "k", "v");
        op = t_start(OP(client, EXCLUSIVE, "BLPOP", "nothing", "0"));
        UNTIL(STAT(client, dedicated) == 1);
        t_redis_kill(&server);
        NEXT(op, ARN_ECONN, NULL);
        FAIL(client, ARN_ECONN, "GET", "k");
        assert_int_equal(t_redis_restart(&server), 0);
        ASK(client, "nil", "GET", "k");
    }
    t_close(client);
}

/* ---- cancelling ---- */

static void cancels(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0},        {T_READ, 0, SETNAME, 0},  {T_WAIT, 0, NULL, 0},
        {T_SEND, 0, "+OK\r\n", 0},     {T_READ, 0, GET("b"), 0}, {T_WAIT, 0, NULL, 0},
        {T_SEND, 0, "$1\r\nb\r\n", 0}, {T_READ, 0, GET("c"), 0}, {T_SEND, 0, "$1\r\nc\r\n", 0},
        {T_ACCEPT, 1, NULL, 0},        {T_READ, 1, SETNAME, 0},  {T_SEND, 1, "+OK\r\n", 0},
        {T_READ, 1, GET("d"), 0},      {T_GONE, 1, NULL, 0},     {0}};
    t_fault *f = play(steps);
    arn_redis_config config = t_config(t_fault_port(f));
    arn_redis_client *client;
    arn_redis_op *a, *b, *d, *e;

    (void)state;
    config.client_name = "n";
    config.max_dedicated = 1;
    client = t_client_of(&config);
    a = t_start(OP(client, SHARED, "GET", "a"));
    b = t_start(OP(client, SHARED, "GET", "b"));
    assert_int_equal(t_fault_wait(f, 2), 0);
    arn_op_cancel(t_rt, &a->base); /* queued: not a byte of it is sent */
    NEXT(a, ARN_ECANCELED, NULL);
    t_fault_go(f);
    assert_int_equal(t_fault_wait(f, 5), 0);
    arn_op_cancel(t_rt, &b->base); /* sent on a lane: its reply is awaited */
    NOTHING();
    t_fault_go(f);
    NEXT(b, ARN_OK, "b");
    ASK(client, "c", "GET", "c");
    d = t_start(OP(client, EXCLUSIVE, "GET", "d"));
    e = t_start(OP(client, EXCLUSIVE, "GET", "e"));
    assert_int_equal(t_fault_wait(f, 13), 0);
    arn_op_cancel(t_rt, &e->base); /* waits for a connection */
    NEXT(e, ARN_ECANCELED, NULL);
    arn_op_cancel(t_rt, &d->base); /* its connection is given up */
    NEXT(d, ARN_ECANCELED, NULL);
    assert_int_equal(t_fault_finish(f), 0);
    assert_int_equal(STAT(client, dedicated), 0);
    assert_int_equal(arn_redis_queued_bytes(client), 0);
    t_close(client);
}

static int start_server(void **state) {
    (void)state;
    return t_redis_start(&server, "");
}

static int kill_server(void **state) {
    (void)state;
    t_redis_kill(&server);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, t_set_up, t_tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(broken_replies), TEST(late_replies),
        TEST(frozen_server),  TEST(refused),
        TEST(passwords),      TEST(set_ups),
        TEST(old_server),     TEST(health_checks),
        TEST(cancels),        TEST(killed_and_restarted),
    };

    return cmocka_run_group_tests(tests, start_server, kill_server);
}
