/* gRPC calls against an HTTP/2 server that does what it is told. */
#include "arn.h"
#include "base/alloc.h"
#include "grpc/internal.h"
#include "h2_server.h"

#include <nghttp2/nghttp2.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define WAIT_MS 20000
#define GRPC ":status", "200", "content-type", "application/grpc"

static arn_port *port;

static arn_grpc_config config_of(int server_port) {
    return (arn_grpc_config){.host = "127.0.0.1",
                             .port = server_port,
                             .user_agent = "test",
                             .max_receive = -1,
                             .connect_ms = 10000,
                             .keepalive_ms = 10000,
                             .keepalive_timeout_ms = 5000,
                             .max_connections = 4};
}

static arn_grpc_channel *new_channel(const arn_grpc_config *config) {
    int status;
    arn_runtime *rt = arn_runtime_get(&status);
    arn_grpc_channel *channel;

    assert_non_null(rt);
    channel = arn_grpc_channel_new(rt, config);
    assert_non_null(channel);
    return channel;
}

static arn_grpc_channel *channel_to(const t_h2 *server) {
    arn_grpc_config config = config_of(t_h2_port(server));

    return new_channel(&config);
}

static arn_grpc_op *new_op(arn_grpc_channel *channel, const char *path, const void *message,
                           size_t len) {
    arn_grpc_config config = config_of(1);
    arn_grpc_head *head = arn_grpc_head_new(&config, path, strlen(path), NULL, 0);
    arn_grpc_op *op;

    assert_non_null(head);
    op = arn_grpc_op_new(channel, head, NULL, 0);
    arn_grpc_head_unref(head);
    assert_non_null(op);
    op->message = (arn_slice){message, len};
    return op;
}

static void submit(arn_grpc_op *op) {
    arn_op_set_port(&op->base, port);
    arn_op_ref(&op->base); /* the test's */
    arn_runtime_submit(arn_grpc_channel_runtime(op->channel), &op->base.msg, &op->base.msg);
}

/* Ops come in the order in which they end, and several at a time. */
static arn_op *taken;

static arn_op *next_op(void) {
    arn_op *op;

    if (taken == NULL)
        taken = arn_port_wait(port, WAIT_MS);
    op = taken;
    if (op != NULL)
        taken = op->next_done;
    return op;
}

static void wait_for(arn_grpc_op *op) {
    arn_op **p = &taken;

    while (*p != &op->base) {
        if (*p != NULL) {
            p = &(*p)->next_done;
            continue;
        }
        *p = arn_port_wait(port, WAIT_MS);
        assert_non_null(*p);
    }
    *p = op->base.next_done;
    arn_op_unref(&op->base);
}

static arn_grpc_op *run(arn_grpc_channel *channel, const char *path, const void *message,
                        size_t len) {
    arn_grpc_op *op = new_op(channel, path, message, len);

    submit(op);
    wait_for(op);
    return op;
}

static void expect_echo(arn_grpc_channel *channel, const void *message, size_t len) {
    arn_grpc_op *op = run(channel, "/t/echo", message, len);
    arn_slice reply;

    if (op->base.status != ARN_OK)
        print_message("%d %s\n", op->reply.code, op->base.message);
    assert_int_equal(op->base.status, ARN_OK);
    assert_int_equal(op->reply.code, ARN_GRPC_OK);
    reply = arn_grpc_reply_message(&op->reply);
    assert_int_equal(reply.len, len);
    assert_true(len == 0 || memcmp(reply.data, message, len) == 0);
    arn_op_unref(&op->base);
}

static void expect_failure(arn_grpc_op *op, int code, const char *part) {
    if (op->reply.code != code || (part != NULL && strstr(op->base.message, part) == NULL))
        print_message("%d %s\n", op->reply.code, op->base.message);
    assert_int_equal(op->reply.code, code);
    assert_true(op->base.status < 0);
    if (part != NULL)
        assert_non_null(strstr(op->base.message, part));
    arn_op_unref(&op->base);
}

static void until(int (*counter)(const t_h2 *), const t_h2 *server, int count) {
    int i;

    for (i = 0; i < 10000 && counter(server) < count; i++)
        usleep(1000);
    assert_true(counter(server) >= count);
}

static char *bytes_of(size_t len) {
    char *bytes = malloc(len);
    size_t i;

    assert_non_null(bytes);
    for (i = 0; i < len; i++)
        bytes[i] = (char)(i * 31 + (i >> 8));
    return bytes;
}

/* ---- calls ---- */

static void echoes(void **state) {
    static const size_t sizes[] = {0, 1, 4090, 4096, 4097, 16379, 16384, 100000, 5000000};
    static const t_h2_options variants[] = {
        {0}, {.window = 1000}, {.window = 3}, {.pieces = 1}, {.pieces = 9}};
    char *message = bytes_of(5000000);
    size_t i, k;

    (void)state;
    for (i = 0; i < COUNT(variants); i++) {
        t_h2 *server = t_h2_start(&variants[i]);
        arn_grpc_channel *channel = channel_to(server);
        for (k = 0; k < COUNT(sizes); k++)
            if ((variants[i].pieces == 0 && variants[i].window != 3) || sizes[k] <= 20000)
                expect_echo(channel, message, sizes[k]);
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
    arn_grpc_config config = config_of(t_h2_port(server));
    arn_grpc_channel *channel;
    arn_grpc_head *head;
    char expected[600];
    size_t i;

    (void)state;
    config.authority = "milvus.example:19530";
    channel = new_channel(&config);
    head = arn_grpc_head_new(&config, "/p.S/M", 6, always, 1);
    for (i = 0; i < 2 * COUNT(timeouts); i++) {
        arn_grpc_op *op = arn_grpc_op_new(channel, head, own, 3);
        const char *timeout = timeouts[i % COUNT(timeouts)].header;
        op->base.timeout_ms = timeouts[i % COUNT(timeouts)].ms;
        submit(op);
        wait_for(op);
        if (op->base.timeout_ms > 1)
            assert_int_equal(op->base.status, ARN_OK);
        arn_op_unref(&op->base);
        if (i == 0) /* connecting took longer than that */
            continue;
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

static void run_many(arn_grpc_channel *channel, size_t count) {
    char(*messages)[24] = calloc(count, 24);
    arn_grpc_op **ops = calloc(count, sizeof(*ops));
    size_t i;

    for (i = 0; i < count; i++) {
        snprintf(messages[i], 24, "%zu", i);
        ops[i] = new_op(channel, "/t/echo", messages[i], 24);
        submit(ops[i]);
    }
    for (i = 0; i < count; i++)
        arn_op_unref(next_op());
    for (i = 0; i < count; i++) {
        assert_int_equal(ops[i]->base.status, ARN_OK);
        assert_memory_equal(arn_grpc_reply_message(&ops[i]->reply).data, messages[i], 24);
        arn_op_unref(&ops[i]->base);
    }
    free(messages);
    free(ops);
}

static void many_at_once(void **state) {
    t_h2 *server = t_h2_start(NULL);
    arn_grpc_channel *channel = channel_to(server);

    (void)state;
    run_many(channel, 3000);
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
    arn_grpc_channel *channel = channel_to(server);

    (void)state;
    run_many(channel, 1000);
    assert_int_equal(t_h2_accepted(server), 4);
    run_many(channel, 1000);
    assert_int_equal(t_h2_accepted(server), 4);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

/* ---- replies that are none ---- */

static void scripted(const t_h2_request *r, void *arg) {
    static const char *const plain[] = {GRPC, NULL};
    static const char *const html[] = {":status", "200", "content-type", "text/html", NULL};
    static const char *const fine[] = {"grpc-status", "0", NULL};
    static const char *const rich[] = {
        "grpc-status", "5", "grpc-message", "caf%C3%A9 %zz%0", "x", "1", "k-bin", "AAH/", NULL};
    static const char *const odd[] = {"grpc-status", "five", NULL};
    static const char *const early[] = {GRPC, "grpc-status", "13", "grpc-message", "early", NULL};
    const char *status[] = {":status", r->path + 6, NULL};
    const char *p = r->path;

    (void)arg;
    if (strcmp(p, "/t/echo") == 0)
        t_h2_echo(r, NULL);
    else if (strcmp(p, "/rich") == 0)
        t_h2_respond(r, plain, "\0\0\0\0\1x", 6, rich);
    else if (strcmp(p, "/odd") == 0)
        t_h2_respond(r, plain, "\0\0\0\0\1x", 6, odd);
    else if (strcmp(p, "/only") == 0)
        t_h2_status(r, "7", "no%20way%21");
    else if (strcmp(p, "/only-ok") == 0)
        t_h2_status(r, "0", NULL);
    else if (strcmp(p, "/none") == 0)
        t_h2_respond(r, plain, "", 0, fine);
    else if (strcmp(p, "/short") == 0)
        t_h2_respond(r, plain, "\0\0\0\0\5abc", 8, fine);
    else if (strcmp(p, "/shorter") == 0)
        t_h2_respond(r, plain, "\0\0\0", 3, fine);
    else if (strcmp(p, "/two") == 0)
        t_h2_respond(r, plain, "\0\0\0\0\1a\0\0\0\0\1b", 12, fine);
    else if (strcmp(p, "/compressed") == 0)
        t_h2_respond(r, plain, "\1\0\0\0\1a", 6, fine);
    else if (strcmp(p, "/flag") == 0)
        t_h2_respond(r, plain, "\2\0\0\0\1a", 6, fine);
    else if (strcmp(p, "/huge") == 0)
        t_h2_respond(r, plain, "\0\377\377\377\377a", 6, fine);
    else if (strcmp(p, "/html") == 0)
        t_h2_respond(r, html, "<html>", 6, NULL);
    else if (strcmp(p, "/html-ok") == 0)
        t_h2_respond(r, html, "\0\0\0\0\1a", 6, fine);
    else if (strcmp(p, "/without") == 0)
        t_h2_respond(r, plain, "\0\0\0\0\1a", 6, NULL);
    else if (strcmp(p, "/early") == 0)
        t_h2_respond(r, early, "\0\0\0\0\1a", 6, fine);
    else if (strncmp(p, "/http/", 6) == 0)
        t_h2_respond(r, status, "\0\0\0\0\1a", 6, NULL);
    else if (strncmp(p, "/rst/", 5) == 0)
        t_h2_reset(r, (uint32_t)atoi(p + 5));
    else if (strcmp(p, "/close") == 0)
        t_h2_close(r);
    else if (strcmp(p, "/abort") == 0)
        t_h2_abort(r);
    else if (strcmp(p, "/rubbish") == 0)
        t_h2_raw(r, "\377\377\377\377\377\377\377\377\377\377\377\377", 12);
    else if (strcmp(p, "/calm") == 0)
        t_h2_goaway(r, r->stream, NGHTTP2_ENHANCE_YOUR_CALM, "too_many_pings");
    else if (strcmp(p, "/silence") != 0)
        fail_msg("%s", p);
}

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
    t_h2_options options = {.handler = scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = config_of(t_h2_port(server));
    arn_grpc_channel *channel;
    arn_grpc_op *op;
    size_t i;

    (void)state;
    config.max_receive = 1000000;
    channel = new_channel(&config);
    for (i = 0; i < COUNT(cases); i++) {
        expect_failure(run(channel, cases[i].path, "m", 1), cases[i].code, cases[i].part);
        expect_echo(channel, "still there", 11);
    }
    assert_int_equal(t_h2_accepted(server), 1);

    op = run(channel, "/rich", "", 0);
    assert_int_equal(op->reply.metadata.len, 15);
    assert_memory_equal(op->reply.metadata.data, "x\0001\0k-bin\0AAH/\0", 15);
    arn_op_unref(&op->base);
    /* A status counts where the stream ends, and says more than the type. */
    op = run(channel, "/early", "", 0);
    assert_int_equal(op->base.status, ARN_OK);
    arn_op_unref(&op->base);
    op = run(channel, "/html-ok", "", 0);
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
    t_h2_options options = {.handler = scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = channel_to(server);
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        arn_grpc_op *other = new_op(channel, "/silence", "m", 1);
        submit(other);
        expect_failure(run(channel, cases[i].path, "m", 1), ARN_GRPC_UNAVAILABLE, cases[i].part);
        wait_for(other);
        expect_failure(other, ARN_GRPC_UNAVAILABLE, cases[i].part);
        expect_echo(channel, "and again", 9);
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
        arn_grpc_config config = config_of(t_h2_port(server));
        arn_grpc_channel *channel;

        config.connect_ms = 200;
        channel = new_channel(&config);
        expect_failure(run(channel, "/p", "m", 1), ARN_GRPC_UNAVAILABLE, cases[i].part);
        arn_grpc_channel_release(channel);
        t_h2_stop(server);
    }
}

static void nobody_listens(void **state) {
    t_h2 *server = t_h2_start(NULL);
    arn_grpc_channel *channel = channel_to(server);
    arn_grpc_op *ready;
    int i;

    (void)state;
    t_h2_stop(server);
    for (i = 0; i < 5; i++)
        expect_failure(run(channel, "/p", "m", 1), ARN_GRPC_UNAVAILABLE, "failed to connect");
    /* One that waits, waits. */
    ready = arn_grpc_op_new(channel, NULL, NULL, 0);
    ready->waits = 1;
    ready->base.timeout_ms = 100;
    submit(ready);
    wait_for(ready);
    expect_failure(ready, ARN_GRPC_DEADLINE_EXCEEDED, "no connection");
    arn_grpc_channel_release(channel);
}

static void becomes_ready(void **state) {
    t_h2 *server = t_h2_start(NULL);
    arn_grpc_channel *channel = channel_to(server);
    arn_grpc_op *ready = arn_grpc_op_new(channel, NULL, NULL, 0);

    (void)state;
    submit(ready);
    wait_for(ready);
    assert_int_equal(ready->base.status, ARN_OK);
    arn_op_unref(&ready->base);
    assert_int_equal(t_h2_accepted(server), 1);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

/* ---- again ---- */

static int countdown;

static void refuse_some(const t_h2_request *r, void *arg) {
    (void)arg;
    if (countdown-- > 0)
        t_h2_reset(r, NGHTTP2_REFUSED_STREAM);
    else
        t_h2_echo(r, NULL);
}

static void refused_calls_are_made_again(void **state) {
    t_h2_options options = {.handler = refuse_some};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = channel_to(server);

    (void)state;
    countdown = 3;
    expect_echo(channel, "again", 5);
    assert_int_equal(t_h2_requests(server), 4);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

/* The first four requests wait for the fifth, which has the connection end: the first two are
 * answered, the others are not processed. */
static void go_away(const t_h2_request *r, void *arg) {
    static t_h2_request first[2];
    int n = t_h2_requests(r->server);

    (void)arg;
    if (r->conn > 0) {
        t_h2_echo(r, NULL);
        return;
    }
    if (n <= 2)
        first[n - 1] = *r;
    if (n < 5)
        return;
    t_h2_goaway(r, first[1].stream, NGHTTP2_NO_ERROR, "");
    t_h2_echo(&first[0], NULL);
    t_h2_echo(&first[1], NULL);
}

static void goaway_in_flight(void **state) {
    t_h2_options options = {.handler = go_away};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = channel_to(server);

    (void)state;
    run_many(channel, 5);
    assert_int_equal(t_h2_accepted(server), 2);
    assert_int_equal(t_h2_requests(server), 8);
    expect_echo(channel, "x", 1);
    assert_int_equal(t_h2_accepted(server), 2);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void goaway_with_an_error(void **state) {
    t_h2_options options = {.handler = scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = channel_to(server);
    arn_grpc_op *op;

    (void)state;
    op = new_op(channel, "/calm", "m", 1);
    op->base.timeout_ms = 300;
    submit(op);
    wait_for(op);
    expect_failure(op, ARN_GRPC_DEADLINE_EXCEEDED, NULL);
    expect_echo(channel, "x", 1);
    assert_int_equal(t_h2_accepted(server), 2);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static int on_write(void *owner, const char *data, size_t len) {
    (void)data;
    ((arn_grpc_session *)owner)->written += len;
    return 0;
}

static int on_write_ref(void *owner, const char *data, size_t len, void (*release)(void *),
                        void *arg) {
    release(arg);
    return on_write(owner, data, len);
}

static void on_end(void *owner, arn_grpc_op *op) {
    (void)owner;
    (void)op;
    fail_msg("nothing has ended");
}

static void on_nothing(void *owner) {
    (void)owner;
}

static void on_goaway(void *owner, uint32_t error) {
    (void)owner;
    (void)error;
}

/* After a billion calls a connection has no more numbers for streams: it answers what is under way
 * and takes nothing new. */
static void numbers_of_streams_run_out(void **state) {
    static const arn_grpc_session_events events = {on_write,   on_write_ref, on_end,    on_end,
                                                   on_nothing, on_goaway,    on_nothing};
    arn_grpc_config config = config_of(1);
    arn_grpc_channel *channel = new_channel(&config);
    arn_grpc_op *last = new_op(channel, "/p", "m", 1);
    arn_grpc_op *next = new_op(channel, "/p", "m", 1);
    arn_grpc_session s;

    (void)state;
    assert_int_equal(arn__grpc_session_open(&s, &events, &s), 0);
    assert_false(arn__grpc_session_has_room(&s)); /* before the server's settings */
    assert_int_equal(arn__grpc_session_feed(&s, "\0\0\0\4\0\0\0\0\0", 9), 0);
    assert_true(arn__grpc_session_has_room(&s));
    nghttp2_session_set_next_stream_id(s.h2, INT32_MAX);
    assert_int_equal(arn__grpc_session_start(&s, last), 0);
    assert_int_equal(last->stream, INT32_MAX);
    assert_int_equal(arn__grpc_session_start(&s, next), ARN_EBUSY);
    assert_int_equal(s.count, 1);
    assert_true(s.is_draining);
    assert_false(arn__grpc_session_has_room(&s));
    assert_int_equal(arn__grpc_session_flush(&s), 0);
    assert_ptr_equal(arn__grpc_session_pop(&s), last);
    assert_null(arn__grpc_session_pop(&s));
    arn__grpc_session_close(&s);
    arn_op_unref(&last->base);
    arn_op_unref(&next->base);
    arn_grpc_channel_unref(channel);
}

/* Given up while its headers are still nghttp2's to read: they stay until it has let go. */
static void given_up_before_it_was_framed(void **state) {
    static const arn_grpc_session_events events = {on_write,   on_write_ref, on_end,    on_end,
                                                   on_nothing, on_goaway,    on_nothing};
    arn_grpc_config config = config_of(1);
    arn_grpc_channel *channel = new_channel(&config);
    int flushed;

    (void)state;
    for (flushed = 0; flushed < 2; flushed++) {
        arn_grpc_op *op = new_op(channel, "/p", "m", 1);
        arn_grpc_session s;
        assert_int_equal(arn__grpc_session_open(&s, &events, &s), 0);
        assert_int_equal(arn__grpc_session_feed(&s, "\0\0\0\4\0\0\0\0\0", 9), 0);
        assert_int_equal(arn__grpc_session_start(&s, op), 0);
        arn__grpc_session_cancel(&s, op);
        arn_op_unref(&op->base); /* what finishing it would do */
        assert_int_equal(s.count, 1);
        if (flushed) {
            assert_int_equal(arn__grpc_session_flush(&s), 0);
            assert_int_equal(s.count, 0);
        }
        assert_null(arn__grpc_session_pop(&s));
        assert_int_equal(s.count, 0);
        arn__grpc_session_close(&s);
    }
    arn_grpc_channel_unref(channel);
}

/* ---- giving up ---- */

static void deadlines(void **state) {
    t_h2_options options = {.handler = scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = channel_to(server);
    int i;

    (void)state;
    for (i = 1; i <= 3; i++) {
        arn_grpc_op *op = new_op(channel, "/silence", "m", 1);
        op->base.timeout_ms = 50;
        submit(op);
        wait_for(op);
        assert_int_equal(op->base.status, ARN_ETIMEDOUT);
        expect_failure(op, ARN_GRPC_DEADLINE_EXCEEDED, "Deadline Exceeded");
        until(t_h2_resets, server, i);
        assert_int_equal(t_h2_last_reset(server), NGHTTP2_CANCEL);
    }
    expect_echo(channel, "x", 1);
    assert_int_equal(t_h2_accepted(server), 1);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void cancel(arn_grpc_op *op) {
    arn_op_cancel(arn_grpc_channel_runtime(op->channel), &op->base);
    wait_for(op);
    assert_true(op->base.status < 0);
    arn_op_unref(&op->base);
}

static void cancelled_at_every_stage(void **state) {
    t_h2_options options = {.handler = scripted, .max_streams = 1};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = config_of(t_h2_port(server));
    arn_grpc_channel *channel;
    arn_grpc_op *op, *other;

    (void)state;
    config.max_connections = 1;
    channel = new_channel(&config);
    /* while connecting */
    op = new_op(channel, "/silence", "m", 1);
    submit(op);
    cancel(op);
    /* sent */
    op = new_op(channel, "/silence", "m", 1);
    submit(op);
    until(t_h2_requests, server, 1);
    /* another is queued behind it */
    other = new_op(channel, "/silence", "m", 1);
    submit(other);
    usleep(20000);
    cancel(other);
    cancel(op);
    until(t_h2_resets, server, 1);
    assert_int_equal(t_h2_last_reset(server), NGHTTP2_CANCEL);
    expect_echo(channel, "x", 1);
    assert_int_equal(t_h2_requests(server), 2);
    assert_int_equal(t_h2_accepted(server), 1);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void cancelled_while_it_is_sent(void **state) {
    t_h2_options options = {.handler = scripted, .frozen = 1};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = channel_to(server);
    char *message = bytes_of(20000000);
    arn_grpc_op *op = new_op(channel, "/silence", message, 20000000);
    arn_grpc_op *small;

    (void)state;
    submit(op);
    until(t_h2_begun, server, 1);
    small = new_op(channel, "/t/echo", "m", 1); /* behind what the server does not take */
    submit(small);
    usleep(20000);
    cancel(small);
    cancel(op);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
    free(message);
}

static void closed_under_way(void **state) {
    t_h2_options options = {.handler = scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = channel_to(server);
    arn_grpc_op *ops[20];
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(ops); i++) {
        ops[i] = new_op(channel, "/silence", "m", 1);
        submit(ops[i]);
    }
    until(t_h2_requests, server, COUNT(ops));
    arn_grpc_channel_ref(channel);
    arn_grpc_channel_release(channel);
    for (i = 0; i < COUNT(ops); i++) {
        wait_for(ops[i]);
        expect_failure(ops[i], ARN_GRPC_CANCELLED, "closed");
    }
    expect_failure(run(channel, "/t/echo", "m", 1), ARN_GRPC_CANCELLED, "closed");
    arn_grpc_channel_unref(channel);
    t_h2_stop(server);
}

static void stopped_under_way(void **state) {
    t_h2_options options = {.handler = scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = channel_to(server);
    arn_grpc_op *op = new_op(channel, "/silence", "m", 1);

    (void)state;
    submit(op);
    until(t_h2_requests, server, 1);
    assert_int_equal(arn_runtime_stop(2000), ARN_OK);
    wait_for(op);
    assert_true(op->base.status < 0);
    arn_op_unref(&op->base);
    op = run(channel, "/t/echo", "m", 1);
    assert_int_equal(op->base.status, ARN_ESHUTDOWN);
    arn_op_unref(&op->base);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

/* ---- keepalive ---- */

static void silent_server_is_found_out(void **state) {
    t_h2_options options = {.handler = scripted, .deaf = 1};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = config_of(t_h2_port(server));
    arn_grpc_channel *channel;

    (void)state;
    config.keepalive_ms = 100;
    config.keepalive_timeout_ms = 100;
    channel = new_channel(&config);
    expect_failure(run(channel, "/silence", "m", 1), ARN_GRPC_UNAVAILABLE, "keepalive");
    assert_int_equal(t_h2_pings(server), 1);
    expect_echo(channel, "x", 1);
    assert_int_equal(t_h2_accepted(server), 2);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void server_that_takes_its_time(void **state) {
    t_h2_options options = {.handler = scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = config_of(t_h2_port(server));
    arn_grpc_channel *channel;
    arn_grpc_op *op;

    (void)state;
    config.keepalive_ms = 50;
    config.keepalive_timeout_ms = 1000;
    channel = new_channel(&config);
    op = new_op(channel, "/silence", "m", 1);
    op->base.timeout_ms = 600;
    submit(op);
    wait_for(op);
    expect_failure(op, ARN_GRPC_DEADLINE_EXCEEDED, NULL);
    assert_int_equal(t_h2_pings(server), 2); /* and no more: servers take that for an attack */
    usleep(100000);
    expect_echo(channel, "x", 1);
    until(t_h2_pings, server, 3);
    assert_int_equal(t_h2_accepted(server), 1);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

/* ---- memory ---- */

static void without_memory(void **state) {
    t_h2_options options = {.handler = scripted, .max_streams = 3};
    t_h2 *server = t_h2_start(&options);
    char *message = bytes_of(50000);
    int ended_well = 0;
    long n;

    (void)state;
    for (n = 0; n < 400 && ended_well < 20; n++) {
        static const char *const paths[] = {"/t/echo", "/rich", "/rst/8", "/t/echo", "/two"};
        arn_grpc_channel *channel = channel_to(server);
        arn_grpc_op *ops[COUNT(paths)];
        size_t i;
        int fine = 1;

        for (i = 0; i < COUNT(paths); i++)
            ops[i] = new_op(channel, paths[i], message, 50000);
        arn_alloc_fail_after(n);
        for (i = 0; i < COUNT(paths); i++)
            submit(ops[i]);
        for (i = 0; i < COUNT(paths); i++)
            wait_for(ops[i]);
        arn_alloc_fail_after(-1);
        for (i = 0; i < COUNT(paths); i++) {
            int is_echo = strcmp(paths[i], "/t/echo") == 0;
            if (is_echo && ops[i]->base.status == ARN_OK)
                assert_memory_equal(arn_grpc_reply_message(&ops[i]->reply).data, message, 50000);
            fine &= (ops[i]->base.status == ARN_OK) == is_echo;
            arn_op_unref(&ops[i]->base);
        }
        ended_well = fine ? ended_well + 1 : 0;
        arn_grpc_channel_release(channel);
    }
    assert_true(ended_well >= 20);
    assert_in_range(n, 40, 400);
    free(message);
    t_h2_stop(server);
}

/* ---- the program ---- */

static int set_up(void **state) {
    int status;

    (void)state;
    port = arn_port_new(ARN_PORT_WAIT, &status);
    return port == NULL;
}

static int tear_down(void **state) {
    (void)state;
    arn_port_close(port);
    arn_port_unref(port);
    return arn_runtime_stop(5000) != ARN_OK;
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(echoes),
        TEST(headers_of_requests),

        TEST(what_may_be_metadata),
        TEST(many_at_once),
        TEST(more_connections_when_the_server_limits_them),
        TEST(failures),
        TEST(connections_that_break),
        TEST(no_grpc_server),
        TEST(nobody_listens),
        TEST(becomes_ready),
        TEST(refused_calls_are_made_again),
        TEST(goaway_in_flight),
        TEST(goaway_with_an_error),
        TEST(numbers_of_streams_run_out),
        TEST(given_up_before_it_was_framed),
        TEST(deadlines),
        TEST(cancelled_at_every_stage),
        TEST(cancelled_while_it_is_sent),
        TEST(closed_under_way),
        TEST(stopped_under_way),
        TEST(silent_server_is_found_out),
        TEST(server_that_takes_its_time),
        TEST(without_memory),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
