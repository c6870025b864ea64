/* gRPC calls against an HTTP/2 server that does what it is told: what is sent, what comes back. */
#include "arn.h"
#include "base/alloc.h"
#include "grpc_kit.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- calls ---- */

static void echoes(void **state) {
    static const size_t sizes[] = {0, 1, 4090, 4096, 4097, 16379, 16384, 100000, 5000000};
    static const t_h2_options variants[] = {
        {0}, {.window = 1000}, {.window = 3}, {.pieces = 1}, {.pieces = 9}};
    char *message = t_grpc_bytes_of(5000000);
    size_t i, k;

    (void)state;
    for (i = 0; i < COUNT(variants); i++) {
        t_h2 *server = t_h2_start(&variants[i]);
        arn_grpc_channel *channel = t_grpc_channel_to(server);
        for (k = 0; k < COUNT(sizes); k++)
            if ((variants[i].pieces == 0 && variants[i].window != 3) || sizes[k] <= 20000)
                t_grpc_expect_echo(channel, message, sizes[k]);
        assert_int_equal(t_h2_accepted(server), 1);
        arn_grpc_channel_release(channel);
        t_h2_stop(server);
    }
    free(message);
}

static char seen[4096];

static void keep_headers(const t_h2_request *r, void *arg) {
    (void)arg;
    snprintf(seen, sizeof(seen), "%s", r->headers);
    t_h2_message(r, "", 0);
}

static void headers_of_requests(void **state) {
    static const arn_slice always[] = {{"authorization", 13}, {"dG9rZW4=", 8}};
    static const arn_slice own[] = {{"dbname", 6},   {"books", 5}, {"k-bin", 5},
                                    {"\0\1\377", 3}, {"empty", 5}, {"", 0}};
    static const struct {
        uint64_t ms;
        const char *header;
    } timeouts[] = {
        {1, "1m"},        {250, "250m"},   {10000, "10S"},     {10500, "10500m"},
        {100500, "101S"}, {3600000, "1H"}, {7200001, "7201S"}, {UINT64_MAX / 4, "99999999H"},
    };
    t_h2_options options = {.handler = keep_headers};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = t_grpc_config_of(t_h2_port(server));
    arn_grpc_channel *channel;
    arn_grpc_head *head;
    char expected[600];
    size_t i;

    (void)state;
    config.authority = "milvus.example:19530";
    channel = t_grpc_channel(&config);
    head = arn_grpc_head_new(&config, "/p.S/M", 6, always, 1);
    arn_op_unref(&t_grpc_run(channel, "/p", "", 0)->base); /* connected */
    for (i = 0; i < 2 * COUNT(timeouts); i++) {
        arn_grpc_op *op = arn_grpc_op_new(channel, head, own, 3);
        const char *timeout = timeouts[i % COUNT(timeouts)].header;
        op->base.timeout_ms = timeouts[i % COUNT(timeouts)].ms;
        t_grpc_submit(op);
        t_grpc_wait_for(op);
        if (op->base.timeout_ms > 1)
            assert_int_equal(op->base.status, ARN_OK);
        arn_op_unref(&op->base);
        snprintf(expected, sizeof(expected),
                 ":method: POST\n:scheme: http\n:path: /p.S/M\n:authority: milvus.example:19530\n"
                 "te: trailers\ncontent-type: application/grpc\nuser-agent: test\n"
                 "authorization: dG9rZW4=\ngrpc-timeout: %s\ndbname: books\nk-bin: AAH/\nempty: \n",
                 timeout);
        if (i % COUNT(timeouts) != 0)
            assert_string_equal(seen, expected);
    }
    arn_grpc_head_unref(head);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void what_may_be_metadata(void **state) {
    static const struct {
        const char *name, *value;
        int bad;
    } cases[] = {
        {"x", "y", 0},
        {"x-y_z.0", "", 0},
        {"", "y", 1},
        {"X", "y", 1},
        {"a b", "y", 1},
        {":path", "/", 1},
        {"grpc-timeout", "1", 1},
        {"te", "x", 1},
        {"content-type", "x", 1},
        {"host", "x", 1},
        {"connection", "x", 1},
        {"user-agent", "x", 1},
        {"x", "a\nb", 2},
        {"x", "\303\251", 2},
        {"x", "\x7f", 2},
        {"x-bin", "\n\377", 0},
        {"-bin", "\n", 2},
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++)
        assert_int_equal(arn_grpc_metadata_is_bad(cases[i].name, strlen(cases[i].name),
                                                  cases[i].value, strlen(cases[i].value)),
                         cases[i].bad);
}

static void many_at_once(void **state) {
    t_h2 *server = t_h2_start(NULL);
    arn_grpc_channel *channel = t_grpc_channel_to(server);

    (void)state;
    t_grpc_run_many(channel, 3000);
    assert_int_equal(t_h2_accepted(server), 1);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

/* Answers nothing before so many requests have come that four connections must be in use. */
static void hold_back(const t_h2_request *r, void *arg) {
    static t_h2_request held[20];
    int n = t_h2_requests(r->server);
    int i;

    (void)arg;
    if (n <= 20)
        held[n - 1] = *r;
    for (i = 0; n == 20 && i < 20; i++)
        t_h2_echo(&held[i], NULL);
    if (n > 20)
        t_h2_echo(r, NULL);
}

static void more_connections_when_the_server_limits_them(void **state) {
    t_h2_options options = {.handler = hold_back, .max_streams = 5};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = t_grpc_channel_to(server);

    (void)state;
    t_grpc_run_many(channel, 1000);
    assert_int_equal(t_h2_accepted(server), 4);
    t_grpc_run_many(channel, 1000);
    assert_int_equal(t_h2_accepted(server), 4);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void idle_connections_are_closed(void **state) {
    t_h2_options options = {.handler = hold_back, .max_streams = 5};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = t_grpc_config_of(t_h2_port(server));
    arn_grpc_channel *channel;

    (void)state;
    config.idle_ms = 50;
    channel = t_grpc_channel(&config);
    t_grpc_run_many(channel, 1000);
    assert_int_equal(t_h2_accepted(server), 4);
    t_grpc_until(t_h2_closed, server, 3);
    usleep(200000); /* the last one stays */
    assert_int_equal(t_h2_closed(server), 3);
    assert_int_equal(t_h2_goaways(server), 3);
    t_grpc_expect_echo(channel, "x", 1);
    assert_int_equal(t_h2_accepted(server), 4);
    t_grpc_run_many(channel, 1000);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

/* Answers "/hold" when something else comes. */
static void hold_until(const t_h2_request *r, void *arg) {
    static t_h2_request held[20];
    static int count;

    (void)arg;
    if (strcmp(r->path, "/hold") == 0) {
        held[count++] = *r;
        return;
    }
    while (count > 0)
        t_h2_message(&held[--count], "held", 4);
    t_h2_echo(r, NULL);
}

static void calls_keep_their_connections(void **state) {
    t_h2_options options = {.handler = hold_until, .max_streams = 6};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = t_grpc_config_of(t_h2_port(server));
    arn_grpc_channel *channel;
    arn_grpc_op *ops[20];
    size_t i;

    (void)state;
    config.idle_ms = 20;
    channel = t_grpc_channel(&config);
    for (i = 0; i < COUNT(ops); i++) {
        ops[i] = t_grpc_op(channel, "/hold", "m", 1);
        t_grpc_submit(ops[i]);
    }
    t_grpc_until(t_h2_requests, server, COUNT(ops));
    usleep(200000);
    assert_int_equal(t_h2_closed(server), 0);
    t_grpc_expect_echo(channel, "x", 1);
    for (i = 0; i < COUNT(ops); i++) {
        t_grpc_wait_for(ops[i]);
        assert_int_equal(ops[i]->base.status, ARN_OK);
        arn_op_unref(&ops[i]->base);
    }
    assert_int_equal(t_h2_accepted(server), 4);
    t_grpc_until(t_h2_closed, server, 3);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

/* Connections are closed and made all the time: no call notices. */
static void calls_while_idle_connections_are_closed(void **state) {
    t_h2_options options = {.max_streams = 2};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = t_grpc_config_of(t_h2_port(server));
    arn_grpc_channel *channel;
    unsigned i;

    (void)state;
    config.idle_ms = 1;
    channel = t_grpc_channel(&config);
    for (i = 0; i < 500; i++) {
        t_grpc_run_many(channel, 1 + i * 7 % 40);
        usleep(i * 997 % 4000);
    }
    i = (unsigned)t_h2_closed(server);
    assert_true(i > 10);
    assert_true(t_h2_goaways(server) >= (int)i);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

/* ---- replies that are none ---- */

static void failures(void **state) {
    static const struct {
        const char *path;
        int code;
        const char *part;
    } cases[] = {
        {"/rich", 5, "caf\303\251 %zz%0"},
        {"/odd", ARN_GRPC_UNKNOWN, "invalid grpc-status"},
        {"/only", 7, "no way!"},
        {"/only-ok", ARN_GRPC_INTERNAL, "no message"},
        {"/none", ARN_GRPC_INTERNAL, "no message"},
        {"/short", ARN_GRPC_INTERNAL, "cut the message short"},
        {"/shorter", ARN_GRPC_INTERNAL, "cut the message short"},
        {"/two", ARN_GRPC_INTERNAL, "more than one message"},
        {"/compressed", ARN_GRPC_INTERNAL, "compressed"},
        {"/flag", ARN_GRPC_INTERNAL, "no gRPC message"},
        {"/huge", ARN_GRPC_RESOURCE_EXHAUSTED, "larger than max (4294967295 vs. 1000000)"},
        {"/html", ARN_GRPC_UNKNOWN, "HTTP status 200"},
        {"/without", ARN_GRPC_UNKNOWN, "without a grpc-status"},
        {"/http/400", ARN_GRPC_INTERNAL, "400"},
        {"/http/401", ARN_GRPC_UNAUTHENTICATED, "401"},
        {"/http/403", ARN_GRPC_PERMISSION_DENIED, "403"},
        {"/http/404", ARN_GRPC_UNIMPLEMENTED, "404"},
        {"/http/429", ARN_GRPC_UNAVAILABLE, "429"},
        {"/http/500", ARN_GRPC_UNKNOWN, "500"},
        {"/http/503", ARN_GRPC_UNAVAILABLE, "503"},
        {"/rst/0", ARN_GRPC_INTERNAL, "NO_ERROR"},
        {"/rst/2", ARN_GRPC_INTERNAL, "INTERNAL_ERROR"},
        {"/rst/7", ARN_GRPC_UNAVAILABLE, "refused"},
        {"/rst/8", ARN_GRPC_CANCELLED, "CANCEL"},
        {"/rst/11", ARN_GRPC_RESOURCE_EXHAUSTED, "ENHANCE_YOUR_CALM"},
        {"/rst/12", ARN_GRPC_PERMISSION_DENIED, "INADEQUATE_SECURITY"},
    };
    t_h2_options options = {.handler = t_grpc_scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = t_grpc_config_of(t_h2_port(server));
    arn_grpc_channel *channel;
    arn_grpc_op *op;
    size_t i;

    (void)state;
    config.max_receive = 1000000;
    channel = t_grpc_channel(&config);
    for (i = 0; i < COUNT(cases); i++) {
        t_grpc_expect_failure(t_grpc_run(channel, cases[i].path, "m", 1), cases[i].code,
                              cases[i].part);
        t_grpc_expect_echo(channel, "still there", 11);
    }
    assert_int_equal(t_h2_accepted(server), 1);

    op = t_grpc_run(channel, "/rich", "", 0);
    assert_int_equal(op->reply.metadata.len, 15);
    assert_memory_equal(op->reply.metadata.data, "x\0001\0k-bin\0AAH/\0", 15);
    arn_op_unref(&op->base);
    /* A status counts where the stream ends, and says more than the type. */
    op = t_grpc_run(channel, "/early", "", 0);
    assert_int_equal(op->base.status, ARN_OK);
    arn_op_unref(&op->base);
    op = t_grpc_run(channel, "/html-ok", "", 0);
    assert_int_equal(op->reply.code, ARN_GRPC_INTERNAL);
    arn_op_unref(&op->base);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void connections_that_break(void **state) {
    static const struct {
        const char *path;
        const char *part;
    } cases[] = {
        {"/close", "the connection to 127.0.0.1:"},
        {"/abort", "was lost"},
        {"/rubbish", "was lost"},
    };
    t_h2_options options = {.handler = t_grpc_scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = t_grpc_channel_to(server);
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        arn_grpc_op *other = t_grpc_op(channel, "/silence", "m", 1);
        t_grpc_submit(other);
        t_grpc_expect_failure(t_grpc_run(channel, cases[i].path, "m", 1), ARN_GRPC_UNAVAILABLE,
                              cases[i].part);
        t_grpc_wait_for(other);
        t_grpc_expect_failure(other, ARN_GRPC_UNAVAILABLE, cases[i].part);
        t_grpc_expect_echo(channel, "and again", 9);
        assert_int_equal(t_h2_accepted(server), i + 2);
    }
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void no_grpc_server(void **state) {
    static const struct {
        const char *raw;
        const char *part;
    } cases[] = {
        {"HTTP/1.1 400 Bad Request\r\n\r\nno no no no no no", "is it a gRPC server"},
        {"", "timed out"},
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        t_h2_options options = {.raw = cases[i].raw};
        t_h2 *server = t_h2_start(&options);
        arn_grpc_config config = t_grpc_config_of(t_h2_port(server));
        arn_grpc_channel *channel;

        config.connect_ms = 200;
        channel = t_grpc_channel(&config);
        t_grpc_expect_failure(t_grpc_run(channel, "/p", "m", 1), ARN_GRPC_UNAVAILABLE,
                              cases[i].part);
        arn_grpc_channel_release(channel);
        t_h2_stop(server);
    }
}

static void nobody_listens(void **state) {
    t_h2 *server = t_h2_start(NULL);
    arn_grpc_channel *channel = t_grpc_channel_to(server);
    arn_grpc_op *ready;
    int i;

    (void)state;
    t_h2_stop(server);
    for (i = 0; i < 5; i++)
        t_grpc_expect_failure(t_grpc_run(channel, "/p", "m", 1), ARN_GRPC_UNAVAILABLE,
                              "failed to connect");
    /* One that waits, waits. */
    ready = arn_grpc_op_new(channel, NULL, NULL, 0);
    ready->waits = 1;
    ready->base.timeout_ms = 100;
    t_grpc_submit(ready);
    t_grpc_wait_for(ready);
    t_grpc_expect_failure(ready, ARN_GRPC_DEADLINE_EXCEEDED, "no connection");
    arn_grpc_channel_release(channel);
}

static void becomes_ready(void **state) {
    t_h2 *server = t_h2_start(NULL);
    arn_grpc_channel *channel = t_grpc_channel_to(server);
    arn_grpc_op *ready = arn_grpc_op_new(channel, NULL, NULL, 0);

    (void)state;
    t_grpc_submit(ready);
    t_grpc_wait_for(ready);
    assert_int_equal(ready->base.status, ARN_OK);
    arn_op_unref(&ready->base);
    assert_int_equal(t_h2_accepted(server), 1);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, t_grpc_set_up, t_grpc_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(echoes),
        TEST(headers_of_requests),
        TEST(what_may_be_metadata),
        TEST(many_at_once),
        TEST(more_connections_when_the_server_limits_them),
        TEST(idle_connections_are_closed),
        TEST(calls_keep_their_connections),
        TEST(calls_while_idle_connections_are_closed),
        TEST(failures),
        TEST(connections_that_break),
        TEST(no_grpc_server),
        TEST(nobody_listens),
        TEST(becomes_ready),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
