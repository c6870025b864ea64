/* How connections of the Redis client are set up and checked: AUTH, old servers, health checks. */
#include "arn.h"
#include "fault_server.h"
#include "redis/client.h"
#include "redis_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

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
        t_fault *f = t_play(steps);
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

#define AUTH_NAMED "*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n"
#define AUTH_PLAIN "*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n"
#define NO_NAMES "-ERR wrong number of arguments for 'auth' command\r\n"

static void old_server(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0}, {T_READ, 0, AUTH_NAMED, 0},  {T_SEND, 0, NO_NAMES, 0},
        {T_ACCEPT, 1, NULL, 0}, {T_READ, 1, AUTH_PLAIN, 0},  {T_SEND, 1, "+OK\r\n", 0},
        {T_READ, 1, PING, 0},   {T_SEND, 1, "+PONG\r\n", 0}, {0}};
    t_fault *f = t_play(steps);
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

/* Both are being set up when the first refusal comes. */
static void old_server_twice(void **state) {
    static const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                         {T_ACCEPT, 1, NULL, 0},
                                         {T_READ, 0, AUTH_NAMED, 0},
                                         {T_READ, 1, AUTH_NAMED, 0},
                                         {T_SEND, 0, NO_NAMES, 0},
                                         {T_ACCEPT, 2, NULL, 0},
                                         {T_READ, 2, AUTH_PLAIN, 0},
                                         {T_SEND, 1, NO_NAMES, 0},
                                         {T_ACCEPT, 3, NULL, 0},
                                         {T_READ, 3, AUTH_PLAIN, 0},
                                         {T_SEND, 2, "+OK\r\n", 0},
                                         {T_READ, 2, PING, 0},
                                         {T_SEND, 2, "+PONG\r\n", 0},
                                         {T_SEND, 3, "+OK\r\n", 0},
                                         {T_READ, 3, PING, 0},
                                         {T_SEND, 3, "+PONG\r\n", 0},
                                         {0}};
    t_fault *f = t_play(steps);
    arn_redis_config config = t_config(t_fault_port(f));
    arn_redis_client *client;
    arn_redis_op *a, *b;

    (void)state;
    config.username = "u";
    config.password = "p";
    client = t_client_of(&config);
    a = t_start(OP(client, SHARED, "PING"));
    b = t_start(OP(client, EXCLUSIVE, "PING"));
    NEXT(a, ARN_OK, "PONG");
    NEXT(b, ARN_OK, "PONG");
    assert_int_equal(t_fault_finish(f), 0);
    t_close(client);
}

/* Such a server quotes what it does not understand. */
static void auth_renamed_away(void **state) {
    static const struct {
        const char *name, *reply, *message;
    } cases[] = {
        {"alice", "-ERR unknown command 'AUTH', with args beginning with: 'alice' 'p3cret' \r\n",
         "ERR unknown command 'AUTH'"},
        {NULL, "-ERR unknown command 'AUTH', with args beginning with: 'p3cret' \r\n",
         "ERR unknown command 'AUTH'"},
        {"alice", "-ERR unknown command `AUTH`, with args beginning with: `alice`, `p3cret`, \r\n",
         "ERR unknown command `AUTH`"},
        {"alice", "-ERR unknown command 'AUTH'\r\n", "ERR unknown command 'AUTH'"},
    };
    size_t i;

    (void)state;
    for (i = 0; i < 2 * COUNT(cases); i++) {
        const char *request = cases[i / 2].name != NULL
                                  ? "*3\r\n$4\r\nAUTH\r\n$5\r\nalice\r\n$6\r\np3cret\r\n"
                                  : "*2\r\n$4\r\nAUTH\r\n$6\r\np3cret\r\n";
        const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                      {T_READ, 0, request, 0},
                                      {T_SEND, 0, cases[i / 2].reply, 0},
                                      {T_GONE, 0, NULL, 0},
                                      {0}};
        t_fault *f = t_play(steps);
        arn_redis_config config = t_config(t_fault_port(f));
        arn_redis_client *client;
        arn_redis_op *op;
        config.username = cases[i / 2].name;
        config.password = "p3cret";
        client = t_client_of(&config);
        op = t_op(client, i % 2 == 0 ? ARN_REDIS_SHARED : ARN_REDIS_EXCLUSIVE, "PING", NULL);
        assert_int_equal(t_run(op, t_port), ARN_EAUTH);
        assert_string_equal(op->base.message, cases[i / 2].message);
        arn_op_unref(&op->base);
        assert_int_equal(t_fault_finish(f), 0);
        t_close(client);
    }
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
    t_fault *f = t_play(steps);
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

/* What a connection that turns out to be lost was checked for has its whole time on another. */
static void unanswered_health_checks(void **state) {
    enum { TIME = 240, HALF = TIME / 2 };
    static const arn_redis_route routes[] = {ARN_REDIS_SHARED, ARN_REDIS_EXCLUSIVE,
                                             ARN_REDIS_LEASE};
    size_t i;

    (void)state;
    for (i = 0; i < 2 * COUNT(routes); i++) {
        arn_redis_route route = routes[i / 2];
        int closes = i % 2 == 1;
        const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                      {T_READ, 0, GET("a"), 0},
                                      {T_SEND, 0, "+a\r\n", 0},
                                      {T_READ, 0, PING, 0},
                                      {T_SLEEP, 0, NULL, closes ? HALF + 20 : 0},
                                      {closes ? T_CLOSE : T_GONE, 0, NULL, 0},
                                      {T_ACCEPT, 1, NULL, 0},
                                      {T_READ, 1, GET("b"), 0},
                                      {T_SLEEP, 0, NULL, HALF},
                                      {T_SEND, 1, "+b\r\n", 0},
                                      {0}};
        t_fault *f = t_play(steps);
        arn_redis_config config = t_config(t_fault_port(f));
        arn_redis_client *client;
        arn_redis_session *session;
        arn_redis_op *op;
        config.timeout_ms = TIME;
        config.health_check_ms = 30;
        client = t_client_of(&config);
        session = arn_redis_session_new(client);
        RUN(t_op(client, route == ARN_REDIS_SHARED ? route : ARN_REDIS_EXCLUSIVE, "GET", "a", NULL),
            ARN_OK, "a");
        usleep(40000);
        if (route == ARN_REDIS_LEASE) {
            op = t_op(client, route, NULL);
            arn_redis_op_set_session(op, session);
            RUN(op, ARN_OK, NULL);
            assert_true(arn_redis_session_is_open(session));
            op = OP(client, SESSION, "GET", "b");
            arn_redis_op_set_session(op, session);
        } else {
            op = t_op(client, route, "GET", "b", NULL);
        }
        RUN(op, ARN_OK, "b");
        assert_int_equal(STAT(client, connects), 2);
        arn_redis_session_release(session, 0);
        arn_redis_session_unref(session);
        assert_int_equal(t_fault_finish(f), 0);
        t_close(client);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(passwords),
        TEST(set_ups),
        TEST(old_server),
        TEST(old_server_twice),
        TEST(auth_renamed_away),
        TEST(health_checks),
        TEST(unanswered_health_checks),
    };

    return cmocka_run_group_tests(tests, t_start_server, t_kill_server);
}
