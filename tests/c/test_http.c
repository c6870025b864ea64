/* The HTTP client against a server that plays a script. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT */
#endif
#include "arn.h"
#include "base/alloc.h"
#include "fault_server.h"
#include "http/http.h"
#include "http/retry.h"
#include "http/vectors.h"
#include "job.h"

#include <dlfcn.h>
#include <math.h>
#include <netdb.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define WAIT_MS 10000

/* What the client sends for these, every byte of it. */
#define GET(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"
#define POST(path, length, body)                                                                   \
    "POST " path " HTTP/1.1\r\nHost: h\r\nContent-Length: " length "\r\n\r\n" body
#define OK(length, body) "HTTP/1.1 200 OK\r\nContent-Length: " length "\r\n\r\n" body
#define EVENTS                                                                                     \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

static arn_port *port;
static arn_http_headers *host_only;

static arn_http_client *new_client(unsigned max_connections) {
    arn_http_config config = {.max_connections = max_connections,
                              .max_keepalive = 10,
                              .keepalive_s = 60,
                              .verify = 1,
                              .http2 = 1};
    int status;
    arn_runtime *rt = arn_runtime_get(&status);
    arn_http_client *client;

    assert_non_null(rt);
    client = arn_http_client_new(rt, &config);
    assert_non_null(client);
    return client;
}

/* ---- the name service: "slow..." has no answer before the test lets it ---- */

static _Atomic int asking;
static uv_sem_t answers;

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **out) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(
            RTLD_NEXT, "getaddrinfo");

    if (strncmp(host, "slow", 4) != 0)
        return real(host, service, hints, out);
    atomic_fetch_add(&asking, 1);
    uv_sem_wait(&answers);
    atomic_fetch_sub(&asking, 1);
    return EAI_NONAME;
}

static void wait_until_asking(int count) {
    int i;

    for (i = 0; i < WAIT_MS && atomic_load(&asking) != count; i++)
        uv_sleep(1);
    assert_int_equal(atomic_load(&asking), count);
}

/* ---- requests ---- */

static const arn_http_options plain = {.max_retry_after = 60, .follow_redirects = 1};

static arn_http_options options_of(arn_http_mode mode, unsigned retries) {
    arn_http_options o = plain;

    o.mode = mode;
    o.max_retries = retries;
    return o;
}

static arn_http_op *new_op(arn_http_client *client, const t_fault *f, const char *method,
                           const char *path, const arn_http_options *o) {
    char url[128];
    arn_http_op *op;
    int n = snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", t_fault_port(f), path);

    op = arn_http_op_new(client, method, url, (size_t)n, host_only, o);
    assert_non_null(op);
    if (strcmp(method, "POST") == 0) {
        op->body.data = "body";
        op->body.len = 4;
    }
    return op;
}

static void submit(arn_http_op *op) {
    arn_op_set_port(&op->base, port);
    arn_op_ref(&op->base); /* the test's */
    arn_runtime_submit(arn_http_client_runtime(op->client), &op->base.msg, &op->base.msg);
}

/* Ops come in the order in which they end, and several at a time. */
static arn_op *taken;

static void wait_for(arn_op *op) {
    arn_op **p = &taken;

    while (*p != op) {
        if (*p != NULL)
            p = &(*p)->next_done;
        else
            assert_non_null(*p = arn_port_wait(port, WAIT_MS));
    }
    *p = op->next_done;
    arn_op_unref(op);
}

static void run(arn_http_op *op) {
    submit(op);
    wait_for(&op->base);
}

static arn_http_batch *read_batch(arn_http_stream *stream) {
    arn_http_read *reader = arn_http_read_new(stream);
    arn_http_batch *batch;

    assert_non_null(reader);
    arn_op_set_port(&reader->base, port);
    arn_op_ref(&reader->base);
    arn_runtime_submit(arn_http_stream_runtime(stream), &reader->base.msg, &reader->base.msg);
    wait_for(&reader->base);
    assert_int_equal(reader->base.status, ARN_OK);
    batch = arn_http_stream_take(stream);
    arn_op_unref(&reader->base);
    return batch;
}

static int is_text(arn_slice s, const char *text) {
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

/* ---- replies ---- */

static void one_connection_for_all(void **state) {
    static const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                         {T_READ, 0, GET("/a?b=c"), 0},
                                         {T_SEND, 0, OK("7", "{\"a\":1}"), 0},
                                         {T_READ, 0, POST("/d", "4", "body"), 0},
                                         {T_SEND, 0, OK("2", "{}"), 0},
                                         {T_GONE, 0, NULL, 0},
                                         {0}};
    t_fault *f = t_fault_start(steps);
    arn_http_client *client = new_client(10);
    arn_http_options o = options_of(ARN_HTTP_JSON, 0);
    arn_http_op *op = new_op(client, f, "GET", "/a?b=c", &o);

    (void)state;
    run(op);
    assert_int_equal(op->base.status, ARN_OK);
    assert_int_equal(op->reply.status, 200);
    assert_int_equal(op->reply.version, 11);
    assert_string_equal(op->reply.head.data, "OK");
    assert_string_equal(arn_http_reply_header(&op->reply, "content-length"), "7");
    assert_null(arn_http_reply_header(&op->reply, "content"));
    assert_int_equal(op->reply.json, 0);
    assert_int_equal(op->base.value.kind, ARN_MAP);
    arn_op_unref(&op->base);

    op = new_op(client, f, "POST", "/d", &plain);
    run(op);
    assert_int_equal(op->reply.body.len, 2);
    assert_int_equal(op->reply.json, 1); /* nobody has asked */
    arn_op_unref(&op->base);

    arn_http_client_release(client);
    assert_int_equal(t_fault_finish(f), 0);
}

static void broken_replies(void **state) {
    static const struct {
        const char *reply;
        t_fault_kind end;
        arn_http_failure failure;
    } cases[] = {
        {"", T_CLOSE, ARN_HTTP_PROTOCOL},
        {"", T_RESET, ARN_HTTP_READ},
        {"rubbish\r\n\r\n", T_CLOSE, ARN_HTTP_PROTOCOL},
        {"HTTP/1.1 200 OK\r\nContent-Le", T_CLOSE, ARN_HTTP_PROTOCOL},
        {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", T_CLOSE, ARN_HTTP_PROTOCOL},
        {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", T_RESET, ARN_HTTP_READ},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", T_CLOSE,
         ARN_HTTP_PROTOCOL},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", T_GONE, ARN_HTTP_PROTOCOL},
        {"HTTP/1.1 200 OK\r\n\r\nuntil the end", T_CLOSE, ARN_HTTP_OK},
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                      {T_READ, 0, GET("/"), 0},
                                      {T_SEND, 0, cases[i].reply, 0},
                                      {cases[i].end, 0, NULL, 0},
                                      {0}};
        t_fault *f = t_fault_start(steps);
        arn_http_client *client = new_client(10);
        arn_http_op *op = new_op(client, f, "GET", "/", &plain);

        run(op);
        assert_int_equal(op->reply.failure, cases[i].failure);
        assert_int_equal(op->base.status, cases[i].failure == ARN_HTTP_OK ? ARN_OK : ARN_ECONN);
        arn_op_unref(&op->base);
        arn_http_client_release(client);
        assert_int_equal(t_fault_finish(f), 0);
    }
}

/* ---- retries ---- */

static void tried_again(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0},
        {T_READ, 0, "POST / HTTP/1.1\r\nHost: h\r\nX-Count: 0\r\nContent-Length: 4\r\n\r\nbody", 0},
        {T_SEND, 0, "HTTP/1.1 429 No\r\nretry-after-ms: 20\r\nContent-Length: 3\r\n\r\nno!", 0},
        {T_READ, 0, "POST / HTTP/1.1\r\nHost: h\r\nX-Count: 1\r\nContent-Length: 4\r\n\r\nbody", 0},
        {T_SEND, 0, "HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\n{}", 0},
        {0}};
    t_fault *f = t_fault_start(steps);
    arn_http_client *client = new_client(10);
    arn_http_options o = options_of(ARN_HTTP_JSON, 5);
    arn_http_op *op;

    (void)state;
    o.retry_count_header = "X-Count";
    op = new_op(client, f, "POST", "/", &o);
    run(op);
    assert_int_equal(op->base.status, ARN_OK);
    assert_int_equal(op->reply.status, 400);
    assert_int_equal(op->reply.retries, 1);
    assert_int_equal(op->reply.json, 1); /* an error's body is not parsed */
    arn_op_unref(&op->base);
    arn_http_client_release(client);
    assert_int_equal(t_fault_finish(f), 0);
}

/* While an origin wants to be left alone, other requests wait as well. */
static void held_back(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0},
        {T_READ, 0, GET("/1"), 0},
        {T_SEND, 0, "HTTP/1.1 429 No\r\nretry-after-ms: 200\r\nContent-Length: 0\r\n\r\n", 0},
        {T_READ, 0, GET("/1"), 0}, /* not the other one */
        {T_SEND, 0, OK("0", ""), 0},
        {T_READ, 0, GET("/2"), 0},
        {T_SEND, 0, OK("0", ""), 0},
        {0}};
    t_fault *f = t_fault_start(steps);
    arn_http_client *client = new_client(1);
    arn_http_options o = options_of(ARN_HTTP_BODY, 2);
    arn_http_op *first = new_op(client, f, "GET", "/1", &o);
    arn_http_op *second = new_op(client, f, "GET", "/2", &o);
    uint64_t before = uv_hrtime();

    (void)state;
    submit(first);
    assert_int_equal(t_fault_wait(f, 3), 0);
    uv_sleep(20);
    submit(second);
    wait_for(&first->base);
    assert_true(uv_hrtime() - before >= 200 * 1000000ull);
    wait_for(&second->base);
    assert_int_equal(first->reply.retries, 1);
    assert_int_equal(second->reply.retries, 0);
    arn_op_unref(&first->base);
    arn_op_unref(&second->base);
    arn_http_client_release(client);
    assert_int_equal(t_fault_finish(f), 0);
}

static void rules(void **state) {
    static const struct {
        int status;
        const char *name, *value;
        int refuse;
        int again;
        double named; /* negative: none */
    } cases[] = {
        {200, "x", "y", 0, 0, -1},
        {400, "x", "y", 0, 0, -1},
        {400, "x-should-retry", "true", 0, 1, -1},
        {500, "x-should-retry", "false", 0, 0, -1},
        {408, "x", "y", 0, 1, -1},
        {409, "x", "y", 0, 1, -1},
        {429, "x", "y", 0, 1, -1},
        {599, "x", "y", 0, 1, -1},
        {429, "retry-after", "2", 0, 1, 2},
        {429, "retry-after", " 0.25 ", 0, 1, 0.25},
        {429, "retry-after", ".5", 0, 1, 0.5},
        {429, "retry-after", "007.", 0, 1, 7},
        {429, "retry-after", "1e1", 0, 1, 10},
        {429, "retry-after", "0", 0, 1, -1},
        {429, "retry-after", "-3", 0, 1, -1},
        {429, "retry-after", "60", 0, 1, 60},
        {429, "retry-after", "61", 0, 1, -1},
        {429, "retry-after", "61", 1, 0, -1},
        {429, "retry-after", "nan", 1, 1, -1},
        {429, "retry-after", "", 1, 1, -1},
        {429, "retry-after", "soon", 1, 1, -1},
        {429, "retry-after", "Wed, 21 Oct 2015 07:28:00 GMT", 1, 1, -1},
        {429, "retry-after", "Wed, 21 Oct 2055 07:28:00 GMT", 1, 0, -1},
        {429, "retry-after-ms", "1500", 0, 1, 1.5},
        {429, "retry-after", "123456789012345678901234567890", 1, 0, -1},
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        arn_http_reply reply = {.status = cases[i].status};
        arn_http_options o = plain;
        double named;

        o.refuse_longer = cases[i].refuse;
        arn_buf_append(&reply.head, "reason", 7);
        arn_buf_append(&reply.head, cases[i].name, strlen(cases[i].name) + 1);
        arn_buf_append(&reply.head, cases[i].value, strlen(cases[i].value) + 1);
        assert_int_equal(arn__http_should_retry(&reply, &o, &named), cases[i].again);
        assert_true(named == cases[i].named || (named < 0 && cases[i].named < 0));
        arn_buf_free(&reply.head);
    }
    for (i = 0; i < 100; i++) {
        double d = arn__http_backoff((unsigned)i);
        double most = i < 4 ? 0.5 * (1 << i) : 8;
        assert_true(d <= most && d >= 0.75 * most);
    }
}

/* ---- streams ---- */

static void events(void **state) {
    static const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                         {T_READ, 0, GET("/"), 0},
                                         {T_SEND, 0, EVENTS "f\r\ndata: {\"i\": 1}\n\r\n", 0},
                                         {T_WAIT, 0, NULL, 0},
                                         {T_SEND, 0, "1\r\n\n\r\n8\r\ndata: ab\r\n", 0},
                                         {T_WAIT, 0, NULL, 0},
                                         {T_SEND, 0, "4\r\ncd\n\n\r\n0\r\n\r\n", 0},
                                         {0}};
    t_fault *f = t_fault_start(steps);
    arn_http_client *client = new_client(10);
    arn_http_options o = options_of(ARN_HTTP_EVENTS, 0);
    arn_http_op *op = new_op(client, f, "GET", "/", &o);
    arn_http_batch *batch;

    (void)state;
    run(op);
    assert_int_equal(op->base.status, ARN_OK);
    assert_non_null(op->stream);
    assert_true(op->batch == NULL || op->batch->count == 0);
    t_fault_go(f);
    batch = read_batch(op->stream);
    assert_int_equal(batch->count, 1);
    assert_true(is_text(batch->events[0].data, "{\"i\": 1}"));
    assert_int_equal(batch->events[0].json, 0);
    assert_int_equal(batch->events[0].value.kind, ARN_MAP);
    assert_false(batch->is_end);
    arn_http_batch_free(batch);
    t_fault_go(f);
    batch = read_batch(op->stream);
    assert_int_equal(batch->count, 1);
    assert_true(is_text(batch->events[0].data, "abcd"));
    if (!batch->is_end) {
        arn_http_batch_free(batch);
        batch = read_batch(op->stream);
    }
    assert_true(batch->is_end);
    assert_int_equal(batch->failure, ARN_HTTP_OK);
    arn_http_batch_free(batch);
    batch = read_batch(op->stream); /* once more, after the end */
    assert_true(batch->is_end && batch->count == 0);
    arn_http_batch_free(batch);
    arn_op_unref(&op->base);
    arn_http_client_release(client);
    assert_int_equal(t_fault_finish(f), 0);
}

static void stream_ends(void **state) {
    static const struct {
        int abandon; /* 1: by the reader; 2: by the client */
        t_fault_kind end;
        arn_http_failure failure;
    } cases[] = {
        {0, T_CLOSE, ARN_HTTP_PROTOCOL},
        {0, T_RESET, ARN_HTTP_READ},
        {1, T_GONE, ARN_HTTP_CLOSED},
        {2, T_GONE, ARN_HTTP_CLOSED},
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                      {T_READ, 0, GET("/"), 0},
                                      {T_SEND, 0, EVENTS "9\r\ndata: 1\n\n\r\n", 0},
                                      {T_WAIT, 0, NULL, 0},
                                      {cases[i].end, 0, NULL, 0},
                                      {0}};
        t_fault *f = t_fault_start(steps);
        arn_http_client *client = new_client(10);
        arn_http_options o = options_of(ARN_HTTP_EVENTS, 3);
        arn_http_op *op = new_op(client, f, "GET", "/", &o);
        arn_http_batch *batch;

        run(op);
        batch = op->batch != NULL && op->batch->count > 0 ? op->batch : read_batch(op->stream);
        assert_int_equal(batch->count, 1);
        if (batch != op->batch)
            arn_http_batch_free(batch);
        t_fault_go(f);
        if (cases[i].abandon == 1)
            arn_http_stream_abandon(op->stream);
        else if (cases[i].abandon == 2)
            arn_http_client_release(client);
        batch = read_batch(op->stream);
        assert_int_equal(batch->count, 0);
        assert_true(batch->is_end);
        assert_int_equal(batch->failure, cases[i].failure);
        arn_http_batch_free(batch);
        arn_op_unref(&op->base);
        if (cases[i].abandon != 2)
            arn_http_client_release(client);
        assert_int_equal(t_fault_finish(f), 0);
    }
}

static void two_readers(void **state) {
    static const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                         {T_READ, 0, GET("/"), 0},
                                         {T_SEND, 0, EVENTS, 0},
                                         {T_WAIT, 0, NULL, 0},
                                         {T_SEND, 0, "9\r\ndata: 1\n\n\r\n0\r\n\r\n", 0},
                                         {0}};
    t_fault *f = t_fault_start(steps);
    arn_http_client *client = new_client(10);
    arn_http_options o = options_of(ARN_HTTP_EVENTS, 0);
    arn_http_op *op = new_op(client, f, "GET", "/", &o);
    arn_runtime *rt = arn_http_client_runtime(client);
    arn_http_read *readers[3];
    arn_http_batch *batch;
    int i;

    (void)state;
    run(op);
    for (i = 0; i < 3; i++) {
        readers[i] = arn_http_read_new(op->stream);
        arn_op_set_port(&readers[i]->base, port);
        arn_op_ref(&readers[i]->base);
        arn_runtime_submit(rt, &readers[i]->base.msg, &readers[i]->base.msg);
        if (i == 0)
            continue;
        if (i == 2) /* that one may wait once the first has gone */
            break;
        wait_for(&readers[i]->base);
        assert_int_equal(readers[i]->base.status, ARN_EBUSY);
        arn_op_cancel(rt, &readers[0]->base);
        wait_for(&readers[0]->base);
        assert_int_equal(readers[0]->base.status, ARN_ECANCELED);
    }
    t_fault_go(f);
    wait_for(&readers[2]->base);
    /* Given up when it had been answered already: what was ready for it is the next one's. */
    arn_op_cancel(rt, &readers[2]->base);
    batch = read_batch(op->stream);
    assert_non_null(batch);
    assert_int_equal(batch->count, 1);
    assert_null(arn_http_stream_take(op->stream));
    arn_http_batch_free(batch);
    for (i = 0; i < 3; i++)
        arn_op_unref(&readers[i]->base);
    arn_op_unref(&op->base);
    arn_http_client_release(client);
    assert_int_equal(t_fault_finish(f), 0);
}

/* ---- giving up ---- */

static void timeouts(void **state) {
    static const t_fault_step silent[] = {
        {T_ACCEPT, 0, NULL, 0}, {T_READ, 0, GET("/"), 0}, {T_GONE, 0, NULL, 0}, {0}};
    static const struct {
        uint64_t read_ms, total_ms;
        arn_http_failure failure;
    } cases[] = {{30, 0, ARN_HTTP_READ_TIMEOUT}, {5000, 30, ARN_HTTP_TOTAL_TIMEOUT}};
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        t_fault *f = t_fault_start(silent);
        arn_http_client *client = new_client(1);
        arn_http_options o = options_of(ARN_HTTP_BODY, 0);
        arn_http_op *op, *behind;

        o.pool_ms = 10;
        behind = new_op(client, f, "GET", "/2", &o);
        o.read_ms = cases[i].read_ms;
        o.total_ms = cases[i].total_ms;
        op = new_op(client, f, "GET", "/", &o);
        submit(op);
        submit(behind); /* there is no second connection */
        wait_for(&behind->base);
        assert_int_equal(behind->reply.failure, ARN_HTTP_POOL_TIMEOUT);
        wait_for(&op->base);
        assert_int_equal(op->reply.failure, cases[i].failure);
        arn_op_unref(&op->base);
        arn_op_unref(&behind->base);
        assert_int_equal(t_fault_finish(f), 0);
        arn_http_client_release(client);
    }
}

/* At each stage: at once, when the request is out, when the next attempt is awaited, in the queue.
 */
/* Whoever gives up a request whose name is still looked up does not wait for the answer, and nor
 * does the io thread, which has others to serve. */
static void slow_lookups(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0}, {T_READ, 0, GET("/"), 0}, {T_SEND, 0, OK("0", ""), 0}, {0}};
    t_fault *f = t_fault_start(steps);
    arn_http_client *client = new_client(10), *other = new_client(10);
    arn_runtime *rt = arn_http_client_runtime(client);
    arn_http_options o = plain;
    arn_http_op *ops[3], *next;
    int i;

    (void)state;
    assert_int_equal(uv_sem_init(&answers, 0), 0);
    for (i = 0; i < 3; i++) {
        o.connect_ms = i == 1 ? 50 : 0;
        ops[i] = arn_http_op_new(i == 2 ? other : client, "GET", "http://slow/", 12, host_only, &o);
        assert_non_null(ops[i]);
        submit(ops[i]);
        wait_until_asking(i + 1);
    }
    arn_op_cancel(rt, &ops[0]->base);
    arn_http_client_release(other);
    for (i = 0; i < 3; i++)
        wait_for(&ops[i]->base);
    assert_int_equal(ops[0]->reply.failure, ARN_HTTP_CLOSED);
    assert_int_equal(ops[1]->reply.failure, ARN_HTTP_CONNECT_TIMEOUT);
    assert_int_equal(ops[2]->reply.failure, ARN_HTTP_CLOSED);
    next = new_op(client, f, "GET", "/", &plain);
    run(next);
    assert_int_equal(next->reply.status, 200);
    assert_int_equal(atomic_load(&asking), 3);
    for (i = 0; i < 3; i++) {
        uv_sem_post(&answers);
        arn_op_unref(&ops[i]->base);
    }
    wait_until_asking(0);
    uv_sleep(20); /* their threads end */
    uv_sem_destroy(&answers);
    arn_op_unref(&next->base);
    arn_http_client_release(client);
    assert_int_equal(t_fault_finish(f), 0);
}

static void cancelled(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0},
        {T_READ, 0, GET("/"), 0},
        {T_SEND, 0, "HTTP/1.1 500 No\r\nretry-after: 30\r\nContent-Length: 0\r\n\r\n", 0},
        {T_READ, 0, GET("/"), 0},
        {T_GONE, 0, NULL, 0},
        {T_ACCEPT, 0, NULL, 0},
        {T_READ, 0, GET("/"), 0},
        {T_SEND, 0, OK("0", ""), 0},
        {0}};
    t_fault *f = t_fault_start(steps);
    arn_http_client *client = new_client(1);
    arn_runtime *rt = arn_http_client_runtime(client);
    arn_http_options o = options_of(ARN_HTTP_BODY, 3);
    arn_http_op *op = new_op(client, f, "GET", "/", &o);
    arn_http_op *behind;

    (void)state;
    submit(op);
    assert_int_equal(t_fault_wait(f, 3), 0);
    uv_sleep(20);
    arn_op_cancel(rt, &op->base); /* sleeping */
    wait_for(&op->base);
    assert_int_equal(op->reply.failure, ARN_HTTP_CLOSED);
    arn_op_unref(&op->base);

    op = new_op(client, f, "GET", "/", &plain);
    behind = new_op(client, f, "GET", "/", &plain);
    submit(op);
    submit(behind);
    assert_int_equal(t_fault_wait(f, 4), 0);
    arn_op_cancel(rt, &behind->base); /* waiting for a connection */
    wait_for(&behind->base);
    arn_op_cancel(rt, &op->base); /* sent */
    wait_for(&op->base);
    arn_op_unref(&behind->base);
    arn_op_unref(&op->base);

    op = new_op(client, f, "GET", "/", &plain);
    atomic_store(&op->base.cancelled, 1);
    run(op);
    assert_int_equal(op->reply.failure, ARN_HTTP_CLOSED);
    arn_op_unref(&op->base);

    op = new_op(client, f, "GET", "/", &plain);
    run(op);
    assert_int_equal(op->reply.status, 200);
    arn_op_unref(&op->base);
    arn_http_client_release(client);
    assert_int_equal(t_fault_finish(f), 0);
}

static void released_and_stopped(void **state) {
    static const t_fault_step silent[] = {
        {T_ACCEPT, 0, NULL, 0}, {T_READ, 0, GET("/"), 0}, {T_GONE, 0, NULL, 0}, {0}};
    int stop;

    (void)state;
    for (stop = 0; stop < 2; stop++) {
        t_fault *f = t_fault_start(silent);
        arn_http_client *client = new_client(1);
        arn_http_op *op = new_op(client, f, "GET", "/", &plain);
        arn_http_op *behind = new_op(client, f, "GET", "/", &plain);

        submit(op);
        submit(behind);
        assert_int_equal(t_fault_wait(f, 2), 0);
        if (stop)
            assert_int_equal(arn_runtime_stop(5000), ARN_OK);
        arn_http_client_release(client);
        wait_for(&behind->base);
        wait_for(&op->base);
        assert_int_equal(op->reply.failure, ARN_HTTP_CLOSED);
        assert_int_equal(behind->reply.failure, ARN_HTTP_CLOSED);
        arn_op_unref(&op->base);
        arn_op_unref(&behind->base);
        assert_int_equal(t_fault_finish(f), 0);
    }
}

/* Whichever allocation fails, the op ends, well or for want of memory, and nothing is lost. */
static void out_of_memory(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0},
        {T_READ, 0, GET("/"), 0},
        {T_SEND, 0, EVENTS "13\r\nid: 1\ndata: [1.5]\n\n\r\n0\r\n\r\n", 0},
        {0}};
    long n;
    int ended_well = 0;

    (void)state;
    for (n = 0; n < 200 && ended_well < 3; n++) {
        t_fault *f = t_fault_start(steps);
        arn_http_client *client = new_client(10);
        arn_http_options o = options_of(ARN_HTTP_EVENTS, 0);
        arn_http_op *op = new_op(client, f, "GET", "/", &o);
        int well;

        arn_alloc_fail_after(n);
        run(op);
        well = op->base.status == ARN_OK;
        while (well && op->batch == NULL) {
            arn_http_read *reader = arn_http_read_new(op->stream);
            if (reader == NULL)
                continue; /* that was the one */
            arn_op_set_port(&reader->base, port);
            arn_op_ref(&reader->base);
            arn_runtime_submit(arn_http_client_runtime(client), &reader->base.msg,
                               &reader->base.msg);
            wait_for(&reader->base);
            op->batch = arn_http_stream_take(op->stream);
            well = reader->base.status == ARN_OK;
            arn_op_unref(&reader->base);
        }
        ended_well += well && op->batch->failure == ARN_HTTP_OK && arn_alloc_fail_after(-1) >= 0 &&
                      op->batch->count == 1;
        arn_alloc_fail_after(-1);
        arn_op_unref(&op->base);
        arn_http_client_release(client);
        /* Some never get as far as to connect: somebody must play the script to its end. */
        if (!well) {
            arn_http_client *other = new_client(1);
            arn_http_op *filler;
            o.read_ms = 100;
            filler = new_op(other, f, "GET", "/", &o);
            run(filler);
            arn_op_unref(&filler->base);
            arn_http_client_release(other);
        }
        t_fault_finish(f);
    }
    assert_int_equal(ended_well, 3);
}

/* ---- vectors ---- */

static void vectors(void **state) {
    static const char text[] = "{\"data\": [{\"embedding\": \"AACAPwAAAEA=\"}, {\"embedding\": "
                               "\"AABAQA==\"}, {\"embedding\": \"no\"}, {\"embedding\": \"Zg==\"},"
                               " {\"embedding\": [1.5]}, 3], \"x\": 1}";
    arn_arena arena;
    arn_value document;
    arn_json_error error;
    const arn_value *items;

    (void)state;
    arn_arena_init(&arena, NULL, 0);
    assert_int_equal(arn_json_parse(&arena, text, strlen(text), &document, &error), 0);
    assert_int_equal(arn__http_decode_vectors(&arena, &document), 0);
    items = document.u.items[1].u.items;
    assert_int_equal(items[0].u.items[1].kind, ARN_FLOAT32_ARRAY);
    assert_int_equal(items[0].u.items[1].len, 2);
    assert_true(items[0].u.items[1].u.floats[0] == 1.0f);
    assert_true(items[0].u.items[1].u.floats[1] == 2.0f);
    assert_true(items[1].u.items[1].u.floats[0] == 3.0f);
    assert_ptr_equal(items[1].u.items[1].u.floats, items[0].u.items[1].u.floats + 2);
    assert_int_equal(items[2].u.items[1].kind, ARN_TEXT);
    assert_int_equal(items[3].u.items[1].kind, ARN_TEXT); /* no whole float32 */
    assert_int_equal(items[4].u.items[1].kind, ARN_FLOAT64_ARRAY);
    arn_arena_free(&arena);
}

static void headers(void **state) {
    (void)state;
    assert_int_equal(arn_http_header_is_bad("Name", 4, "value", 5), 0);
    assert_int_equal(arn_http_header_is_bad("", 0, "value", 5), 1);
    assert_int_equal(arn_http_header_is_bad("a b", 3, "", 0), 1);
    assert_int_equal(arn_http_header_is_bad("a:", 2, "", 0), 1);
    assert_int_equal(arn_http_header_is_bad("a\xc3", 2, "", 0), 1);
    assert_int_equal(arn_http_header_is_bad("a", 1, "b\r\nc: d", 7), 2);
    assert_int_equal(arn_http_header_is_bad("a", 1, "\0", 1), 2);
}

static int set_up(void **state) {
    (void)state;
    port = t_port_new(ARN_PORT_WAIT);
    host_only = arn_http_headers_new();
    return host_only == NULL || arn_http_headers_add(host_only, "Host", 4, "h", 1) != 0 ||
           arn_http_headers_finish(host_only) != 0;
}

static int tear_down(void **state) {
    (void)state;
    arn_runtime_stop(5000);
    arn_port_close(port);
    arn_port_unref(port);
    arn_http_headers_unref(host_only);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_connection_for_all),
        cmocka_unit_test(broken_replies),
        cmocka_unit_test(tried_again),
        cmocka_unit_test(held_back),
        cmocka_unit_test(rules),
        cmocka_unit_test(events),
        cmocka_unit_test(stream_ends),
        cmocka_unit_test(two_readers),
        cmocka_unit_test(timeouts),
        cmocka_unit_test(cancelled),
        cmocka_unit_test(slow_lookups),
        cmocka_unit_test(released_and_stopped),
        cmocka_unit_test(out_of_memory),
        cmocka_unit_test(vectors),
        cmocka_unit_test(headers),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
