/* gRPC calls that are made again, given up, or meet a server that is silent; and without memory. */
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
    arn_grpc_channel *channel = t_grpc_channel_to(server);

    (void)state;
    countdown = 3;
    t_grpc_expect_echo(channel, "again", 5);
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
    arn_grpc_channel *channel = t_grpc_channel_to(server);

    (void)state;
    t_grpc_run_many(channel, 5);
    assert_int_equal(t_h2_accepted(server), 2);
    assert_int_equal(t_h2_requests(server), 8);
    t_grpc_expect_echo(channel, "x", 1);
    assert_int_equal(t_h2_accepted(server), 2);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void goaway_with_an_error(void **state) {
    t_h2_options options = {.handler = t_grpc_scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = t_grpc_channel_to(server);
    arn_grpc_op *op;

    (void)state;
    op = t_grpc_op(channel, "/calm", "m", 1);
    op->base.timeout_ms = 300;
    t_grpc_submit(op);
    t_grpc_wait_for(op);
    t_grpc_expect_failure(op, ARN_GRPC_DEADLINE_EXCEEDED, NULL);
    t_grpc_expect_echo(channel, "x", 1);
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
    arn_grpc_config config = t_grpc_config_of(1);
    arn_grpc_channel *channel = t_grpc_channel(&config);
    arn_grpc_op *last = t_grpc_op(channel, "/p", "m", 1);
    arn_grpc_op *next = t_grpc_op(channel, "/p", "m", 1);
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
    arn_grpc_config config = t_grpc_config_of(1);
    arn_grpc_channel *channel = t_grpc_channel(&config);
    int flushed;

    (void)state;
    for (flushed = 0; flushed < 2; flushed++) {
        arn_grpc_op *op = t_grpc_op(channel, "/p", "m", 1);
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
    t_h2_options options = {.handler = t_grpc_scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = t_grpc_channel_to(server);
    int i;

    (void)state;
    for (i = 1; i <= 3; i++) {
        arn_grpc_op *op = t_grpc_op(channel, "/silence", "m", 1);
        op->base.timeout_ms = 50;
        t_grpc_submit(op);
        t_grpc_wait_for(op);
        assert_int_equal(op->base.status, ARN_ETIMEDOUT);
        t_grpc_expect_failure(op, ARN_GRPC_DEADLINE_EXCEEDED, "Deadline Exceeded");
        t_grpc_until(t_h2_resets, server, i);
        assert_int_equal(t_h2_last_reset(server), NGHTTP2_CANCEL);
    }
    t_grpc_expect_echo(channel, "x", 1);
    assert_int_equal(t_h2_accepted(server), 1);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void cancel(arn_grpc_op *op) {
    arn_op_cancel(arn_grpc_channel_runtime(op->channel), &op->base);
    t_grpc_wait_for(op);
    assert_true(op->base.status < 0);
    arn_op_unref(&op->base);
}

static void cancelled_at_every_stage(void **state) {
    t_h2_options options = {.handler = t_grpc_scripted, .max_streams = 1};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = t_grpc_config_of(t_h2_port(server));
    arn_grpc_channel *channel;
    arn_grpc_op *op, *other;

    (void)state;
    config.max_connections = 1;
    channel = t_grpc_channel(&config);
    /* while connecting */
    op = t_grpc_op(channel, "/silence", "m", 1);
    t_grpc_submit(op);
    cancel(op);
    /* sent */
    op = t_grpc_op(channel, "/silence", "m", 1);
    t_grpc_submit(op);
    t_grpc_until(t_h2_requests, server, 1);
    /* another is queued behind it */
    other = t_grpc_op(channel, "/silence", "m", 1);
    t_grpc_submit(other);
    usleep(20000);
    cancel(other);
    cancel(op);
    t_grpc_until(t_h2_resets, server, 1);
    assert_int_equal(t_h2_last_reset(server), NGHTTP2_CANCEL);
    t_grpc_expect_echo(channel, "x", 1);
    assert_int_equal(t_h2_requests(server), 2);
    assert_int_equal(t_h2_accepted(server), 1);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void cancelled_while_it_is_sent(void **state) {
    t_h2_options options = {.handler = t_grpc_scripted, .frozen = 1};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = t_grpc_channel_to(server);
    char *message = t_grpc_bytes_of(20000000);
    arn_grpc_op *op = t_grpc_op(channel, "/silence", message, 20000000);
    arn_grpc_op *small;

    (void)state;
    t_grpc_submit(op);
    t_grpc_until(t_h2_begun, server, 1);
    small = t_grpc_op(channel, "/t/echo", "m", 1); /* behind what the server does not take */
    t_grpc_submit(small);
    usleep(20000);
    cancel(small);
    cancel(op);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
    free(message);
}

static void closed_under_way(void **state) {
    t_h2_options options = {.handler = t_grpc_scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = t_grpc_channel_to(server);
    arn_grpc_op *ops[20];
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(ops); i++) {
        ops[i] = t_grpc_op(channel, "/silence", "m", 1);
        t_grpc_submit(ops[i]);
    }
    t_grpc_until(t_h2_requests, server, COUNT(ops));
    arn_grpc_channel_ref(channel);
    arn_grpc_channel_release(channel);
    for (i = 0; i < COUNT(ops); i++) {
        t_grpc_wait_for(ops[i]);
        t_grpc_expect_failure(ops[i], ARN_GRPC_CANCELLED, "closed");
    }
    t_grpc_expect_failure(t_grpc_run(channel, "/t/echo", "m", 1), ARN_GRPC_CANCELLED, "closed");
    arn_grpc_channel_unref(channel);
    t_h2_stop(server);
}

static void stopped_under_way(void **state) {
    t_h2_options options = {.handler = t_grpc_scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_channel *channel = t_grpc_channel_to(server);
    arn_grpc_op *op = t_grpc_op(channel, "/silence", "m", 1);

    (void)state;
    t_grpc_submit(op);
    t_grpc_until(t_h2_requests, server, 1);
    assert_int_equal(arn_runtime_stop(2000), ARN_OK);
    t_grpc_wait_for(op);
    assert_true(op->base.status < 0);
    arn_op_unref(&op->base);
    op = t_grpc_run(channel, "/t/echo", "m", 1);
    assert_int_equal(op->base.status, ARN_ESHUTDOWN);
    arn_op_unref(&op->base);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

/* ---- keepalive ---- */

static void silent_server_is_found_out(void **state) {
    t_h2_options options = {.handler = t_grpc_scripted, .deaf = 1};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = t_grpc_config_of(t_h2_port(server));
    arn_grpc_channel *channel;

    (void)state;
    config.keepalive_ms = 100;
    config.keepalive_timeout_ms = 100;
    channel = t_grpc_channel(&config);
    t_grpc_expect_failure(t_grpc_run(channel, "/silence", "m", 1), ARN_GRPC_UNAVAILABLE,
                          "keepalive");
    assert_int_equal(t_h2_pings(server), 1);
    t_grpc_expect_echo(channel, "x", 1);
    assert_int_equal(t_h2_accepted(server), 2);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

static void server_that_takes_its_time(void **state) {
    t_h2_options options = {.handler = t_grpc_scripted};
    t_h2 *server = t_h2_start(&options);
    arn_grpc_config config = t_grpc_config_of(t_h2_port(server));
    arn_grpc_channel *channel;
    arn_grpc_op *op;

    (void)state;
    config.keepalive_ms = 50;
    config.keepalive_timeout_ms = 1000;
    channel = t_grpc_channel(&config);
    op = t_grpc_op(channel, "/silence", "m", 1);
    op->base.timeout_ms = 600;
    t_grpc_submit(op);
    t_grpc_wait_for(op);
    t_grpc_expect_failure(op, ARN_GRPC_DEADLINE_EXCEEDED, NULL);
    assert_int_equal(t_h2_pings(server), 2); /* and no more: servers take that for an attack */
    usleep(100000);
    t_grpc_expect_echo(channel, "x", 1);
    t_grpc_until(t_h2_pings, server, 3);
    assert_int_equal(t_h2_accepted(server), 1);
    arn_grpc_channel_release(channel);
    t_h2_stop(server);
}

/* ---- memory ---- */

static void without_memory(void **state) {
    t_h2_options options = {.handler = t_grpc_scripted, .max_streams = 3};
    t_h2 *server = t_h2_start(&options);
    char *message = t_grpc_bytes_of(50000);
    int ended_well = 0;
    long n;

    (void)state;
    for (n = 0; n < 400 && ended_well < 20; n++) {
        static const char *const paths[] = {"/t/echo", "/rich", "/rst/8", "/t/echo", "/two"};
        arn_grpc_channel *channel = t_grpc_channel_to(server);
        arn_grpc_op *ops[COUNT(paths)];
        size_t i;
        int fine = 1;

        for (i = 0; i < COUNT(paths); i++)
            ops[i] = t_grpc_op(channel, paths[i], message, 50000);
        arn_alloc_fail_after(n);
        for (i = 0; i < COUNT(paths); i++)
            t_grpc_submit(ops[i]);
        for (i = 0; i < COUNT(paths); i++)
            t_grpc_wait_for(ops[i]);
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

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, t_grpc_set_up, t_grpc_tear_down)
    const struct CMUnitTest tests[] = {
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
