/* Requests of the Redis client's lanes that their callers give up: what the server still sees of
 * them, what comes behind them, and which connection it takes. */
#include "arn.h"
#include "fault_server.h"
#include "redis/client.h"
#include "redis_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

/* Both lanes are connected, and the server frozen. The bytes sent so far. */
static long freeze(arn_redis_client *client, const char *large) {
    ASK(client, "PONG", "PING");
    ASK(client, "OK", "SET", "warm", large);
    assert_int_equal(STAT(client, connections), 2);
    t_redis_freeze(&t_server);
    return STAT(client, bytes_out);
}

static void give_up(arn_redis_op *op) {
    arn_op_cancel(t_rt, &op->base);
    NEXT(op, ARN_ECANCELED, NULL);
}

/* So much that the rest does not fit into the sockets. */
static void wait_until_full(arn_redis_client *client, long before) {
    long out;

    UNTIL(STAT(client, bytes_out) - before > 1 << 20);
    do {
        out = STAT(client, bytes_out);
        usleep(20000);
    } while (out != STAT(client, bytes_out));
}

/* What is given up and not yet all sent is never sent, and what is behind it is sent once, over the
 * next connection. */
static void cut(void **state) {
    enum { COUNT_ALL = 300, GIVEN_UP = 250 }; /* 25 MB: more than the two sockets can hold */
    arn_redis_client *client = t_client(t_server.port);
    char *word = t_word(100 << 10), key[32];
    arn_redis_op *ops[COUNT_ALL];
    long out;
    int i;

    (void)state;
    out = freeze(client, word);
    for (i = 0; i < COUNT_ALL; i++) {
        snprintf(key, sizeof(key), "cut:%d", i);
        ops[i] = t_start(i < GIVEN_UP ? OP(client, SHARED, "SET", key, word)
                                      : OP(client, SHARED, "APPEND", "cut", word));
    }
    wait_until_full(client, out);
    for (i = GIVEN_UP - 1; i >= 0; i--) { /* what was begun comes last: one cut is enough */
        give_up(ops[i]);
    }
    UNTIL(STAT(client, connects) == 3);
    t_redis_thaw(&t_server);
    for (i = GIVEN_UP; i < COUNT_ALL; i++) {
        snprintf(key, sizeof(key), ":%d", (i - GIVEN_UP + 1) * (100 << 10));
        NEXT(ops[i], ARN_OK, key);
    }
    snprintf(key, sizeof(key), "cut:%d", GIVEN_UP - 1);
    ASK(client, "nil", "GET", key);
    assert_int_equal(STAT(client, connects), 3);
    assert_int_equal(arn_redis_queued_bytes(client), 0);
    ASK(client, "OK", "FLUSHALL");
    free(word);
    t_close(client);
}

/* The same for one that its time is up for. */
static void cut_when_late(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    char *large = t_word(30 << 20), *medium = t_word(100 << 10);
    int pipelined;

    (void)state;
    for (pipelined = 0; pipelined < 2; pipelined++) {
        arn_redis_op *late, *other;
        long connects;
        ASK(client, "OK", "SET", "late", "old");
        freeze(client, medium);
        connects = STAT(client, connects);
        late = OP(client, SHARED, "APPEND", "late", large);
        late->base.timeout_ms = 100;
        t_start(late);
        other = pipelined ? t_start(OP(client, SHARED, "APPEND", "late", "new")) : NULL;
        NEXT(late, ARN_ETIMEDOUT, NULL);
        t_redis_thaw(&t_server);
        if (pipelined)
            NEXT(other, ARN_OK, ":6");
        ASK(client, pipelined ? "oldnew" : "old", "GET", "late");
        assert_true(STAT(client, connects) >= connects + pipelined);
    }
    free(large);
    free(medium);
    t_close(client);
}

/* A connection on which somebody else's command is under way stays for that, and writes nothing
 * more of the request that was given up. */
static void held_back(void **state) {
    enum { ROUNDS = 10 };
    arn_redis_client *client = t_client(t_server.port);
    char *large = t_word(20 << 20), *medium = t_word(100 << 10);
    int round;

    (void)state;
    for (round = 0; round < ROUNDS; round++) {
        arn_redis_op *ops[3], *given_up;
        long out;
        int i;
        out = freeze(client, medium);
        ops[0] = t_start(OP(client, SHARED, "SET", "kept", medium));
        given_up = t_start(OP(client, SHARED, "MSET", "a", "old", "b", large, "c", "old"));
        ops[1] = t_start(OP(client, SHARED, "APPEND", "a", medium)); /* waits behind it */
        wait_until_full(client, out);
        give_up(given_up);
        ops[2] = t_start(OP(client, SHARED, "SET", "c", "new"));
        t_barrier(t_rt);
        t_redis_thaw(&t_server);
        t_all_end(ops, 3);
        for (i = 0; i < 3; i++) {
            assert_int_equal(ops[i]->base.status, ARN_OK);
            arn_op_unref(&ops[i]->base);
        }
        UNTIL(STAT(client, connections) == 2);
        ASK(client, "new", "GET", "c");
        ASK(client, ":102400", "STRLEN", "a");
        ASK(client, ":3", "DEL", "kept", "a", "b", "c");
        assert_int_equal(arn_redis_queued_bytes(client), 0);
    }
    free(large);
    free(medium);
    t_close(client);
}

/* All of it is with the kernel: it takes effect, and what is newer waits, whatever its keys. */
static void nothing_overtakes(void **state) {
    enum { ROUNDS = 20 };
    arn_redis_client *client = t_client(t_server.port);
    char *medium = t_word(1500 << 10), *small = t_word(100 << 10);
    arn_redis_op *given_up, *newer;
    int round;
    long out;

    (void)state;
    for (round = 0; round < ROUNDS; round++) {
        out = freeze(client, small);
        given_up = t_start(OP(client, SHARED, "MSET", "a", "old", "b", medium, "c", "old"));
        UNTIL(STAT(client, bytes_out) - out > 1500 << 10);
        give_up(given_up);
        newer = t_start(OP(client, SHARED, "SET", "c", "new"));
        t_barrier(t_rt);
        t_redis_thaw(&t_server);
        NEXT(newer, ARN_OK, "OK");
        ASK(client, "old", "GET", "a");
        ASK(client, "new", "GET", "c");
        assert_int_equal(STAT(client, connects), 2);
    }
    /* But it is not waited for for ever. */
    out = freeze(client, small);
    given_up = t_start(OP(client, SHARED, "SET", "b", medium));
    UNTIL(STAT(client, bytes_out) - out > 1500 << 10);
    give_up(given_up);
    newer = t_start(OP(client, SHARED, "GET", "c"));
    t_barrier(t_rt);
    assert_int_equal(STAT(client, connects), 2);
    UNTIL(STAT(client, connects) == 3);
    t_redis_thaw(&t_server);
    NEXT(newer, ARN_OK, "new");
    ASK(client, ":3", "DEL", "a", "b", "c");
    free(medium);
    free(small);
    t_close(client);
}

/* One that is all sent holds back what is newer, and so it does with a second one behind it, of
 * which no more is written in the end; what is held back is given up in its time. */
static void one_behind_the_other(void **state) {
    enum { ROUNDS = 10 };
    arn_redis_client *client = t_client(t_server.port);
    char *large = t_word(20 << 20), *medium = t_word(1500 << 10), *small = t_word(100 << 10);
    int round, i;

    (void)state;
    for (round = 0; round < ROUNDS; round++) {
        arn_redis_op *ops[2], *newer, *late;
        long out;
        out = freeze(client, small);
        ops[0] = t_start(OP(client, SHARED, "MSET", "a", medium, "c", "old"));
        ops[1] = t_start(OP(client, SHARED, "MSET", "b", large, "c", "older"));
        wait_until_full(client, out);
        for (i = 0; i < 2; i++) {
            give_up(ops[i]);
        }
        late = OP(client, SHARED, "SET", "c", "late");
        late->base.timeout_ms = 20;
        t_start(late);
        newer = t_start(OP(client, SHARED, "SET", "c", "new"));
        NEXT(late, ARN_ETIMEDOUT, NULL);
        t_redis_thaw(&t_server);
        NEXT(newer, ARN_OK, "OK");
        ASK(client, "new", "GET", "c");
        ASK(client, ":2", "DEL", "a", "b", "c");
        assert_int_equal(arn_redis_queued_bytes(client), 0);
    }
    free(large);
    free(medium);
    free(small);
    t_close(client);
}

/* Given up after a silence: whoever else waits there goes on waiting, the next ones do not. */
static void silent_lane(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0},         {T_READ, 0, GET("a") GET("b"), 0},
        {T_ACCEPT, 1, NULL, 0},         {T_READ, 1, GET("c"), 0},
        {T_SEND, 1, "+c\r\n", 0},       {T_WAIT, 0, NULL, 0},
        {T_SEND, 0, "+a\r\n+b\r\n", 0}, {T_GONE, 0, NULL, 0},
        {T_READ, 1, GET("d"), 0},       {T_GONE, 1, NULL, 0},
        {T_ACCEPT, 2, NULL, 0},         {T_READ, 2, GET("e"), 0},
        {T_SEND, 2, "+e\r\n", 0},       {0}};
    t_fault *f = t_play(steps);
    arn_redis_client *client = t_client(t_fault_port(f));
    arn_redis_op *a, *b, *d;

    (void)state;
    a = t_start(OP(client, SHARED, "GET", "a"));
    b = t_start(OP(client, SHARED, "GET", "b"));
    assert_int_equal(t_fault_wait(f, 2), 0);
    usleep(150000);
    give_up(a);
    ASK(client, "c", "GET", "c");
    assert_int_equal(STAT(client, connections), 2);
    t_fault_go(f);
    NEXT(b, ARN_OK, "b");
    UNTIL(STAT(client, connections) == 1);
    d = t_start(OP(client, SHARED, "GET", "d"));
    assert_int_equal(t_fault_wait(f, 9), 0);
    usleep(150000);
    give_up(d); /* nobody else waits there */
    ASK(client, "e", "GET", "e");
    assert_int_equal(t_fault_finish(f), 0);
    t_close(client);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(cut),
        TEST(cut_when_late),
        TEST(held_back),
        TEST(nothing_overtakes),
        TEST(one_behind_the_other),
        TEST(silent_lane),
    };

    return cmocka_run_group_tests(tests, t_start_server, t_kill_server);
}
