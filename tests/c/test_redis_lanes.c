/* The Redis client's lanes: what goes over which, in which order, and how much at a time. */
#include "arn.h"
#include "fault_server.h"
#include "redis/client.h"
#include "redis_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check_word(arn_redis_op *op, const char *word, size_t len) {
    assert_int_equal(op->base.status, ARN_OK);
    assert_int_equal(op->base.value.len, len);
    assert_memory_equal(op->base.value.u.bytes, word, len);
    arn_op_unref(&op->base);
}

/* Large values have a lane of their own, both ways, and come unhurt; small ones go beside them. */
static void large_values(void **state) {
    const size_t sizes[] = {4 << 10, 63 << 10, 65 << 10, 3 << 20};
    arn_redis_client *client = t_client(t_server.port);
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(sizes); i++) {
        char *word = t_word(sizes[i]);
        arn_redis_op *op;
        int round;
        RUN(OP(client, SHARED, "SET", "large", word), ARN_OK, "OK");
        assert_int_equal(STAT(client, connections), sizes[i] > 64 << 10 ? 2 : 1);
        for (round = 0; round < 2; round++) {
            op = OP(client, SHARED, "GET", "large");
            assert_int_equal(t_run(op, t_port), ARN_OK);
            check_word(op, word, sizes[i]);
        }
        ASK(client, "small", "ECHO", "small");
        free(word);
    }
    t_close(client);
}

/* What comes for a key behind a large value of it does not overtake that on the other lane. */
static void order_over_the_lanes(void **state) {
    enum { KEYS = 4, STEPS = 3, ROUNDS = 40 };
    static const char *const keys[KEYS] = {"order:0", "order:1", "order:2", "order:3"};
    char *large = t_word(200 << 10);
    arn_redis_client *client = NULL;
    int round, i;

    (void)state;
    for (round = 0; round < ROUNDS; round++) {
        arn_redis_op *ops[STEPS * KEYS];
        arn_op *left = NULL;
        /* Every second time it does not know yet which keys are large. */
        if (round % 2 == 0)
            client = t_client(t_server.port);
        ASK(client, "x", "ECHO", "x"); /* the small lane is the quicker one */
        for (i = 0; i < STEPS * KEYS; i++) {
            const char *key = keys[(i + round) % KEYS];
            ops[i] = i < 2 * KEYS ? OP(client, SHARED, "SET", key, i < KEYS ? large : "small")
                                  : OP(client, SHARED, "GET", key);
            t_start(ops[i]);
        }
        for (i = 0; i < STEPS * KEYS; i++) {
            arn_redis_op *op = t_next(t_port, &left);
            assert_non_null(op);
            assert_int_equal(op->base.status, ARN_OK);
        }
        for (i = 0; i < STEPS * KEYS; i++) {
            char text[16];
            assert_string_equal(t_text(&ops[i]->base.value, text, sizeof(text)),
                                i < 2 * KEYS ? "OK" : "small");
            arn_op_unref(&ops[i]->base);
        }
        for (i = 0; i < KEYS; i++)
            ASK(client, "small", "GET", keys[i]);
        if (round % 2 == 1)
            t_close(client);
    }
    free(large);
}

/* A GET of the key that was under way before the large SET, and whose reply comes before that has
 * arrived, says nothing of it. */
static void order_behind_an_earlier_reply(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    char *large = t_word(20 << 20), *word = t_word(100);
    arn_redis_op *get, *set, *small;

    (void)state;
    ASK(client, "OK", "SET", "k", word);
    t_redis_freeze(&t_server);
    get = t_start(OP(client, SHARED, "GET", "k"));
    set = t_start(OP(client, SHARED, "SET", "k", large));
    t_barrier(t_rt);
    t_redis_thaw(&t_server);
    NEXT(get, ARN_OK, word);
    small = t_start(OP(client, SHARED, "SET", "k", "small"));
    NEXT(set, ARN_OK, "OK");
    NEXT(small, ARN_OK, "OK");
    ASK(client, "small", "GET", "k");
    free(large);
    free(word);
    t_close(client);
}

/* Nor does a large value of another key that shares a slot of large_keys. */
static void order_of_two_large_keys(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    uint32_t slot = arn_redis_key_hash("k", 1), hash;
    char *large = t_word(20 << 20);
    arn_redis_op *ops[3];
    char other[32];
    int i = 0;

    (void)state;
    do {
        snprintf(other, sizeof(other), "other%d", i++);
        hash = arn_redis_key_hash(other, strlen(other));
    } while (((hash ^ hash >> 16) & 255) != ((slot ^ slot >> 16) & 255));
    ASK(client, "PONG", "PING");
    ops[0] = t_start(OP(client, SHARED, "SET", "k", large));
    ops[1] = t_start(OP(client, SHARED, "SET", other, large));
    ops[2] = t_start(OP(client, SHARED, "SET", "k", "small"));
    for (i = 0; i < 3; i++)
        NEXT(ops[i], ARN_OK, "OK");
    ASK(client, "small", "GET", "k");
    free(large);
    t_close(client);
}

/* ---- payloads that are referred to ---- */

static void payloads(void **state) {
    static const t_fault_step mute[] = {{T_ACCEPT, 0, NULL, 0}, {T_WAIT, 0, NULL, 0}, {0}};
    arn_redis_client *client = t_client(t_server.port);
    char *word = t_word(5 << 20);
    arn_redis_op *op;
    t_fault *f;
    int i;

    (void)state;
    t_releases = 0;
    RUN(t_payload_op(client, 5 << 20), ARN_OK, "OK");
    UNTIL(t_releases == 1);
    op = OP(client, SHARED, "GET", "payload");
    assert_int_equal(t_run(op, t_port), ARN_OK);
    check_word(op, word, 5 << 20);
    free(word);
    arn_op_unref(&t_payload_op(client, 100000)->base); /* never submitted */
    assert_int_equal(t_releases, 2);
    op = t_payload_op(client, 100000);
    arn_op_cancel(t_rt, &op->base); /* the flag is there when it starts */
    RUN(op, ARN_ECANCELED, NULL);
    t_close(client);
    assert_int_equal(t_releases, 3);

    client = t_client(t_free_port());
    RUN(t_payload_op(client, 100000), ARN_ECONN, NULL); /* refused */
    t_close(client);
    UNTIL(t_releases == 4);

    /* 8 MB do not fit into the sockets: the op ends while its bytes are being written. */
    for (i = 0; i < 4; i++) {
        f = t_play(mute);
        client = t_client(t_fault_port(f));
        op = t_payload_op(client, 8 << 20);
        op->base.timeout_ms = i == 0 ? 100 : 0;
        t_start(op);
        UNTIL(STAT(client, bytes_out) > 0);
        if (i == 1)
            arn_redis_client_disconnect(client);
        else if (i == 2)
            t_fault_go(f), assert_int_equal(t_fault_finish(f), 0);
        else if (i == 3)
            assert_int_equal(arn_runtime_stop(5000), ARN_OK);
        NEXT(op,
             i == 0   ? ARN_ETIMEDOUT
             : i == 1 ? ARN_ECLOSED
             : i == 2 ? ARN_ECONN
                      : ARN_ESHUTDOWN,
             NULL);
        UNTIL(t_releases == 5 + i);
        arn_redis_client_release(client);
        if (i != 2)
            t_fault_go(f), assert_int_equal(t_fault_finish(f), 0);
    }
    assert_int_equal(t_releases, 8);
}

/* ---- the limit of what is under way ---- */

static void gates(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0}, {T_READ, 0, GET("a") GET("b") GET("c") GET("d") GET("e"), 0},
        {T_WAIT, 0, NULL, 0},   {T_SEND, 0, "+a\r\n+b\r\n", 0},
        {T_WAIT, 0, NULL, 0},   {T_SEND, 0, "+c\r\n", 0},
        {T_WAIT, 0, NULL, 0},   {0}};
    const char *names[] = {"a", "b", "c", "d", "e"};
    t_fault *f = t_play(steps);
    arn_redis_config config = t_config(t_fault_port(f));
    arn_redis_client *client;
    arn_redis_op *ops[5], *gate, *cancelled;
    int i;

    (void)state;
    client = t_client_of(&config);
    ops[0] = OP(client, SHARED, "GET", "a");
    arn_redis_op_submitted(ops[0]);
    config.queue_bytes = 4 * arn_redis_queued_bytes(client);
    arn_op_unref(&ops[0]->base);
    assert_int_equal(arn_redis_queued_bytes(client), 0);
    t_close(client);
    client = t_client_of(&config);
    RUN(arn_redis_gate_new(client, 1), ARN_OK, NULL); /* open at once */
    for (i = 0; i < 5; i++) {
        assert_false(arn_redis_is_full(client, 1));
        ops[i] = t_start(OP(client, SHARED, "GET", names[i]));
    }
    assert_true(arn_redis_is_full(client, 1));
    gate = t_start(arn_redis_gate_new(client, 1));
    cancelled = t_start(arn_redis_gate_new(client, 1));
    arn_op_cancel(t_rt, &cancelled->base);
    NEXT(cancelled, ARN_ECANCELED, NULL);
    t_fault_go(f);
    NEXT(ops[0], ARN_OK, "a");
    NEXT(ops[1], ARN_OK, "b"); /* three of four left: not yet */
    NOTHING();
    t_fault_go(f);
    NEXT(ops[2], ARN_OK, "c");
    NEXT(gate, ARN_OK, NULL);
    for (i = 0; i < 3; i++)
        ops[i] = t_start(OP(client, SHARED, "GET", "x"));
    gate = t_start(arn_redis_gate_new(client, 1));
    NOTHING();
    arn_redis_client_disconnect(client);
    t_barrier(t_rt);
    NEXT(ops[3], ARN_ECLOSED, NULL);
    NEXT(ops[4], ARN_ECLOSED, NULL);
    for (i = 0; i < 3; i++) {
        arn_redis_op *op = i == 0 ? ops[0] : i == 1 ? gate : ops[1];
        NEXT(op, op == gate ? ARN_OK : ARN_ECLOSED, NULL);
    }
    NEXT(ops[2], ARN_ECLOSED, NULL);
    t_fault_go(f);
    assert_int_equal(t_fault_finish(f), 0);
    t_close(client);
}

/* It is in nobody's way, but others should be made later. */
static void made_and_never_submitted(void **state) {
    const size_t len = 70 << 20; /* more than config.queue_bytes */
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_op *op, *small;

    (void)state;
    assert_true(arn_redis_has_room(client, len)); /* one of any size */
    op = arn_redis_op_new(client, ARN_REDIS_SHARED, len, 0, 1);
    assert_non_null(op);
    assert_false(arn_redis_is_full(client, 1) || arn_redis_is_full(client, len));
    assert_false(arn_redis_has_room(client, 1) || arn_redis_has_room(client, len));
    assert_int_equal(arn_redis_queued_bytes(client), 0);
    RUN(arn_redis_gate_new(client, 1), ARN_OK, NULL);
    RUN(arn_redis_gate_new(client, len), ARN_OK, NULL);
    ASK(client, "x", "ECHO", "x");
    arn_redis_op_submitted(op); /* from now on it counts there instead */
    assert_true(arn_redis_is_full(client, len) && !arn_redis_is_full(client, 1));
    assert_true(arn_redis_has_room(client, len));
    assert_true(arn_redis_queued_bytes(client) > len);
    arn_op_unref(&op->base);
    assert_false(arn_redis_is_full(client, len));
    assert_int_equal(arn_redis_queued_bytes(client), 0);

    op = arn_redis_op_new(client, ARN_REDIS_SHARED, len, 0, 1);
    small = OP(client, SHARED, "ECHO", "x");
    arn_op_unref(&op->base);
    assert_true(arn_redis_has_room(client, 1));
    arn_op_unref(&small->base);
    assert_true(arn_redis_has_room(client, len));
    t_close(client);
}

static void two_counts(void **state) {
    const size_t lens[] = {1, 200000};
    arn_redis_config config = t_config(t_server.port);
    arn_redis_client *client;
    int large;

    (void)state;
    config.queue_bytes = 2000;
    client = t_client_of(&config);
    for (large = 0; large < 2; large++) {
        arn_redis_op *ops[16];
        int count = 0, i;
        t_redis_freeze(&t_server);
        while (count < 15 && !arn_redis_is_full(client, lens[large])) {
            ops[count] = large ? t_payload_op(client, lens[1]) : OP(client, SHARED, "ECHO", "x");
            t_start(ops[count++]);
        }
        assert_true(arn_redis_is_full(client, lens[large]));
        assert_false(arn_redis_is_full(client, lens[!large]));
        RUN(arn_redis_gate_new(client, lens[!large]), ARN_OK, NULL); /* open at once */
        ops[count++] = t_start(arn_redis_gate_new(client, lens[large]));
        NOTHING();
        t_redis_thaw(&t_server);
        t_all_end(ops, count);
        for (i = 0; i < count; i++) {
            assert_int_equal(ops[i]->base.status, ARN_OK);
            arn_op_unref(&ops[i]->base);
        }
        assert_int_equal(arn_redis_queued_bytes(client), 0);
    }
    t_close(client);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(large_values),
        TEST(order_over_the_lanes),
        TEST(order_behind_an_earlier_reply),
        TEST(order_of_two_large_keys),
        TEST(payloads),
        TEST(gates),
        TEST(made_and_never_submitted),
        TEST(two_counts),
    };

    return cmocka_run_group_tests(tests, t_start_server, t_kill_server);
}
