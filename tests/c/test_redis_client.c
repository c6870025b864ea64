/* The Redis client through its own interface, on a real server. */
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

/* ---- the ordinary ---- */

static void tcp_and_unix(void **state) {
    arn_redis_config config = t_config(t_server.port);
    int round;

    (void)state;
    for (round = 0; round < 2; round++) {
        arn_redis_client *client;
        config.database = round == 0 ? NULL : "1";
        config.client_name = round == 0 ? NULL : "name";
        config.lib_name = config.lib_version = "1"; /* unknown to this server, and passed over */
        client = t_client_of(&config);
        assert_non_null(client);
        assert_ptr_equal(arn_redis_client_runtime(client), t_rt);
        ASK(client, "OK", "SET", "k", round == 0 ? "tcp" : "unix");
        ASK(client, round == 0 ? "tcp" : "unix", "GET", "k");
        ASK(client, "nil", "GET", "missing");
        ASK(client, ":1", "DEL", "k");
        ASK(client, "-ERR unknown command 'NOPE', with args beginning with: ", "NOPE");
        ASK(client, round == 0 ? "nil" : "name", "CLIENT", "GETNAME");
        assert_int_equal(STAT(client, commands), 6);
        assert_int_equal(STAT(client, replies), 6);
        assert_int_equal(STAT(client, errors), 1);
        assert_int_equal(STAT(client, connects), 1);
        assert_int_equal(arn_redis_queued_bytes(client), 0);
        t_close(client);
        config.host = NULL;
        config.path = t_server.path;
    }
}

#define ASKERS 6
#define QUESTIONS 2000
#define WINDOW 64

typedef struct asker {
    pthread_t thread;
    arn_redis_client *client;
    int number;
    int wrong;
} asker;

static arn_redis_op *question(const asker *a, int i) {
    char word[32];

    snprintf(word, sizeof(word), "%d:%d", a->number, i);
    return OP(a->client, SHARED, "ECHO", word);
}

static void *ask_all(void *arg) {
    asker *a = arg;
    int status, sent = 0, got = 0;
    arn_port *own = arn_port_new(ARN_PORT_WAIT, &status);
    arn_op *left = NULL;

    while (got < QUESTIONS) {
        arn_redis_op *op;
        char expected[32], text[64];
        while (sent < QUESTIONS && sent - got < WINDOW)
            t_submit(question(a, sent++), own);
        op = t_next(own, &left);
        if (op == NULL) {
            a->wrong += 1000000;
            break;
        }
        snprintf(expected, sizeof(expected), "%d:%d", a->number, got++);
        a->wrong += op->base.status != ARN_OK ||
                    strcmp(t_text(&op->base.value, text, sizeof(text)), expected) != 0;
        arn_op_unref(&op->base);
    }
    arn_port_unref(own);
    return NULL;
}

static void many_threads(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    asker askers[ASKERS];
    int i;

    (void)state;
    for (i = 0; i < ASKERS; i++) {
        askers[i] = (asker){.client = client, .number = i};
        pthread_create(&askers[i].thread, NULL, ask_all, &askers[i]);
    }
    for (i = 0; i < ASKERS; i++) {
        pthread_join(askers[i].thread, NULL);
        assert_int_equal(askers[i].wrong, 0);
    }
    assert_int_equal(STAT(client, replies), ASKERS * QUESTIONS);
    assert_int_equal(STAT(client, connections), 1);
    t_close(client);
}

static void pipelines(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_op *op = t_pipeline(client, "*2\r\n$4\r\nINCR\r\n$1\r\np\r\n", 1000);
    int i;

    (void)state;
    t_start(op);
    assert_ptr_equal(arn_port_wait(t_port, 8000), &op->base);
    assert_int_equal(op->base.value.kind, ARN_ARRAY);
    assert_int_equal(op->base.value.len, 1000);
    for (i = 0; i < 1000; i++)
        assert_int_equal(op->base.value.u.items[i].u.integer, i + 1);
    arn_op_unref(&op->base);
    ASK(client, "OK", "SET", "p", "no number");
    op = t_pipeline(client, "*2\r\n$4\r\nINCR\r\n$1\r\np\r\n", 3);
    t_start(op);
    assert_ptr_equal(arn_port_wait(t_port, 8000), &op->base);
    for (i = 0; i < 3; i++) /* an error among the replies ends nothing */
        assert_int_equal(op->base.value.u.items[i].kind, ARN_ERROR);
    arn_op_unref(&op->base);
    assert_int_equal(STAT(client, errors), 3);
    ASK(client, ":1", "DEL", "p");
    t_close(client);
}

/* Deeper than hiredis goes by itself. */
static void deep_replies(void **state) {
    enum { DEPTH = 20 };
    static const char script[] =
        "local t = redis.call('ECHO', 'core') for i = 1, 20 do t = {t, i} end return t";
    static const char *const more[][2] = {{"COMMAND", "DOCS"}, {"COMMAND", "INFO"}};
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_op *op = OP(client, SHARED, "EVAL", script, "0");
    const arn_value *v = &op->base.value;
    char text[16];
    size_t i;

    (void)state;
    assert_int_equal(t_run(op, t_port), ARN_OK);
    for (i = DEPTH; i > 0; i--) {
        assert_int_equal(v->kind, ARN_ARRAY);
        assert_int_equal(v->len, 2);
        assert_int_equal(v->u.items[1].u.integer, i);
        v = &v->u.items[0];
    }
    assert_string_equal(t_text(v, text, sizeof(text)), "core");
    arn_op_unref(&op->base);
    for (i = 0; i < COUNT(more); i++) {
        op = OP(client, SHARED, more[i][0], more[i][1]);
        assert_int_equal(t_run(op, t_port), ARN_OK);
        assert_int_equal(op->base.value.kind, ARN_ARRAY);
        assert_true(op->base.value.len > 200);
        arn_op_unref(&op->base);
    }
    t_close(client);
}

/* What comes for a key behind a large value of it does not overtake that on the other lane. */
/* ---- dedicated connections ---- */

static void check_popped(arn_redis_op *op, const char *value) {
    char text[32];

    assert_int_equal(op->base.status, ARN_OK);
    assert_int_equal(op->base.value.kind, ARN_ARRAY);
    assert_string_equal(t_text(&op->base.value.u.items[1], text, sizeof(text)), value);
    arn_op_unref(&op->base);
}

static void exclusive(void **state) {
    arn_redis_config config = t_config(t_server.port);
    arn_redis_client *client;
    arn_redis_op *pops[4], *ended[4];
    const char *keys[] = {"l0", "l1", "l2", "l3"};
    int i;

    (void)state;
    config.max_dedicated = 2;
    client = t_client_of(&config);
    for (i = 0; i < 4; i++)
        pops[i] = t_start(OP(client, EXCLUSIVE, "BLPOP", keys[i], "0"));
    UNTIL(STAT(client, dedicated) == 2);
    ASK(client, ":1", "RPUSH", "l2", "c"); /* whose BLPOPs wait for a connection */
    ASK(client, ":1", "RPUSH", "l3", "d");
    NOTHING();
    ended[0] = pops[1];
    ended[1] = pops[2]; /* the same connection, one after the other */
    ended[2] = pops[3];
    ended[3] = t_start(OP(client, SHARED, "RPUSH", "l1", "b"));
    t_all_end(ended, 4);
    check_popped(pops[1], "b");
    check_popped(pops[2], "c");
    check_popped(pops[3], "d");
    arn_op_unref(&ended[3]->base);
    assert_int_equal(STAT(client, connects), 3);
    ended[0] = pops[0];
    ended[1] = t_start(OP(client, SHARED, "RPUSH", "l0", "a"));
    t_all_end(ended, 2);
    check_popped(pops[0], "a");
    arn_op_unref(&ended[1]->base);
    t_barrier(t_rt);
    assert_int_equal(STAT(client, dedicated), 2); /* kept */
    t_close(client);
}

static void pool_timeout(void **state) {
    arn_redis_config config = t_config(t_server.port);
    arn_redis_client *client;
    arn_redis_op *holder, *waiting;

    (void)state;
    config.max_dedicated = 1;
    config.pool_timeout_ms = 60;
    client = t_client_of(&config);
    holder = t_start(OP(client, EXCLUSIVE, "BLPOP", "nothing", "0"));
    waiting = t_start(OP(client, EXCLUSIVE, "ECHO", "x"));
    assert_ptr_equal(arn_port_wait(t_port, 8000), &waiting->base);
    assert_int_equal(waiting->base.status, ARN_EBUSY);
    assert_string_equal(waiting->base.message, "No connection available.");
    arn_op_unref(&waiting->base);
    arn_op_cancel(t_rt, &holder->base);
    NEXT(holder, ARN_ECANCELED, NULL);
    RUN(OP(client, EXCLUSIVE, "ECHO", "x"), ARN_OK, "x");
    t_close(client);
}

static void discard(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    int i;

    (void)state;
    for (i = 1; i <= 3; i++) {
        RUN(OP(client, DISCARD, "CLIENT", "SETNAME", "changed"), ARN_OK, "OK");
        UNTIL(STAT(client, dedicated) == 0);
        RUN(OP(client, DISCARD, "CLIENT", "GETNAME"), ARN_OK, "nil");
        assert_int_equal(STAT(client, connects), 2 * i);
        UNTIL(STAT(client, dedicated) == 0);
    }
    t_close(client);
}

static arn_redis_op *of_session(arn_redis_op *op, arn_redis_session *session) {
    assert_non_null(op);
    arn_redis_op_set_session(op, session);
    return op;
}

#define LEASE(session) of_session(t_op(client, ARN_REDIS_LEASE, NULL), session)
#define IN(session, ...) of_session(OP(client, SESSION, __VA_ARGS__), session)

static int64_t connection_of(arn_redis_client *client, arn_redis_session *session) {
    arn_redis_op *op = IN(session, "CLIENT", "ID");
    int64_t id;

    assert_int_equal(t_run(op, t_port), ARN_OK);
    id = op->base.value.u.integer;
    arn_op_unref(&op->base);
    return id;
}

static arn_redis_session *leased(arn_redis_client *client) {
    arn_redis_session *session = arn_redis_session_new(client);

    assert_false(arn_redis_session_is_open(session));
    RUN(LEASE(session), ARN_OK, NULL);
    assert_true(arn_redis_session_is_open(session));
    assert_ptr_equal(arn_redis_session_client(session), client);
    return session;
}

static void give_back(arn_redis_session *session, int drop) {
    arn_redis_session_release(session, drop);
    arn_redis_session_release(session, drop); /* once only */
    t_barrier(t_rt);
    assert_false(arn_redis_session_is_open(session));
}

static void sessions(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_session *s = leased(client), *other = leased(client);
    int64_t id = connection_of(client, s);
    arn_redis_op *op;
    char word[32];

    (void)state;
    assert_int_not_equal(connection_of(client, other), id);
    ASK(client, "OK", "SET", "k", "0");
    RUN(IN(s, "WATCH", "k"), ARN_OK, "OK");
    RUN(IN(s, "MULTI"), ARN_OK, "OK");
    RUN(IN(s, "SET", "k", "1"), ARN_OK, "QUEUED");
    ASK(client, "0", "GET", "k"); /* no part of the transaction */
    RUN(IN(other, "SET", "k", "2"), ARN_OK, "OK");
    RUN(IN(s, "EXEC"), ARN_OK, "nil");
    assert_int_equal(connection_of(client, s), id);
    give_back(s, 0);
    op = IN(s, "GET", "k"); /* no connection any more */
    assert_true(t_run(op, t_port) < 0);
    arn_op_unref(&op->base);
    arn_redis_session_unref(s);

    s = leased(client);
    assert_int_equal(connection_of(client, s), id); /* used again */
    give_back(s, 1);
    arn_redis_session_unref(s);
    s = leased(client);
    assert_int_not_equal(connection_of(client, s), id);
    op = t_start(IN(s, "BLPOP", "nothing", "0"));
    give_back(s, 0); /* with something under way: the connection is closed */
    NEXT(op, ARN_ECLOSED, NULL);
    arn_redis_session_unref(s);

    snprintf(word, sizeof(word), "%lld", (long long)connection_of(client, other));
    ASK(client, ":1", "CLIENT", "KILL", "ID", word);
    UNTIL(!arn_redis_session_is_open(other));
    RUN(IN(other, "PING"), ARN_ECONN, NULL);
    give_back(other, 0);
    arn_redis_session_unref(other);
    UNTIL(STAT(client, dedicated) == 0);
    t_close(client);
}

/* The op of a session that was released while it had its connection, or before it got one. */
static void released_sessions(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    int leases;

    (void)state;
    for (leases = 0; leases < 2; leases++) {
        arn_redis_session *s = leases ? leased(client) : arn_redis_session_new(client);
        give_back(s, 0);
        RUN(IN(s, "PING"), ARN_ECLOSED, NULL);
        RUN(LEASE(s), ARN_ECLOSED, NULL);
        arn_redis_session_unref(s);
    }
    t_close(client);
}

static void *stop_the_runtime(void *arg) {
    *(int *)arg = arn_runtime_stop(5000);
    return NULL;
}

typedef struct probe {
    arn_msg msg;
    _Atomic int here; /* run by its submitter, because the runtime is being stopped */
} probe;

static void run_probe(arn_msg *msg, int aborted) {
    ARN_CONTAINER_OF(msg, probe, msg)->here = aborted && !arn_runtime_on_io_thread();
}

/* The io thread is still at the session's connection when its owner lets go of it. */
static void released_while_stopping(void **state) {
    enum { PROBES = 1000 };
    probe *probes = calloc(PROBES, sizeof(*probes));
    int round, i;

    (void)state;
    for (round = 0; round < 4; round++) {
        arn_redis_client *client = t_client(t_server.port);
        arn_redis_session *s = leased(client);
        arn_redis_op *op = NULL;
        pthread_t thread;
        t_blocker b;
        int r = 1;
        if (round > 1)
            op = t_start(IN(s, "BLPOP", "nothing", "0"));
        t_block(t_rt, &b);
        pthread_create(&thread, NULL, stop_the_runtime, &r);
        for (i = 0; i < PROBES; i++) {
            probes[i] = (probe){.msg.run = run_probe};
            arn_runtime_submit(t_rt, &probes[i].msg, &probes[i].msg);
            if (probes[i].here)
                break;
            usleep(1000);
        }
        assert_true(i < PROBES);
        arn_redis_session_release(s, round % 2);
        assert_false(arn_redis_session_is_open(s));
        arn_redis_session_unref(s);
        t_unblock(&b);
        pthread_join(thread, NULL);
        assert_int_equal(r, ARN_OK);
        if (op != NULL)
            NEXT(op, ARN_ESHUTDOWN, NULL);
        assert_int_equal(STAT(client, connections), 0);
        arn_redis_client_release(client);
        t_tear_down(state);
        t_set_up(state);
    }
    free(probes);
}

static void waiting_leases(void **state) {
    arn_redis_config config = t_config(t_server.port);
    arn_redis_client *client;
    arn_redis_session *s[3];
    arn_redis_op *second, *third;
    int64_t id;

    (void)state;
    config.max_dedicated = 1;
    client = t_client_of(&config);
    s[0] = leased(client);
    s[1] = arn_redis_session_new(client);
    s[2] = arn_redis_session_new(client);
    id = connection_of(client, s[0]);
    second = t_start(LEASE(s[1]));
    third = t_start(LEASE(s[2]));
    NOTHING();
    give_back(s[1], 0); /* before it has got anything */
    give_back(s[0], 0);
    NEXT(second, ARN_ECLOSED, NULL);
    NEXT(third, ARN_OK, NULL);
    assert_int_equal(connection_of(client, s[2]), id);
    RUN(LEASE(s[1]), ARN_ECLOSED, NULL);
    give_back(s[2], 0);
    for (int i = 0; i < 3; i++)
        arn_redis_session_unref(s[i]);
    t_close(client);
}

/* ---- ends ---- */

enum { SENT, BLOCKED, LEASED, WAITING, WAITING_LEASE, GATED, ALL };

/* One op of each kind under way, as far as it gets; BLOCKED holds the one dedicated connection. */
static arn_redis_client *busy_client(arn_redis_op **ops, arn_redis_session **s) {
    arn_redis_config config = t_config(t_server.port);
    arn_redis_client *client;

    config.max_dedicated = 2;
    config.queue_bytes = 10;
    client = t_client_of(&config);
    ASK(client, "OK", "SET", "k", "v");
    s[0] = leased(client);
    s[1] = arn_redis_session_new(client);
    ops[LEASED] = t_start(IN(s[0], "BLPOP", "nothing", "0"));
    ops[BLOCKED] = t_start(OP(client, EXCLUSIVE, "BLPOP", "nothing", "0"));
    UNTIL(STAT(client, connects) == 3);
    RUN(OP(client, SHARED, "ECHO", "x"), ARN_OK, "x");
    t_redis_freeze(&t_server);
    ops[SENT] = t_start(OP(client, SHARED, "GET", "k"));
    ops[WAITING] = t_start(OP(client, EXCLUSIVE, "GET", "k"));
    ops[WAITING_LEASE] = t_start(LEASE(s[1]));
    ops[GATED] = t_start(arn_redis_gate_new(client, 1));
    NOTHING();
    return client;
}

static void check_ended(arn_redis_op **ops, arn_redis_session **s, int status) {
    int i;

    t_all_end(ops, ALL);
    assert_false(arn_redis_session_is_open(s[0]));
    for (i = 0; i < ALL; i++) {
        assert_int_equal(ops[i]->base.status, i == GATED ? ARN_OK : status);
        arn_op_unref(&ops[i]->base);
    }
    for (i = 0; i < 2; i++) {
        arn_redis_session_release(s[i], 0);
        arn_redis_session_unref(s[i]);
    }
}

static void disconnect(void **state) {
    arn_redis_op *ops[ALL];
    arn_redis_session *s[2];
    arn_redis_client *client = busy_client(ops, s);

    (void)state;
    arn_redis_client_disconnect(client);
    arn_redis_client_disconnect(client);
    t_barrier(t_rt);
    t_redis_thaw(&t_server);
    check_ended(ops, s, ARN_ECLOSED);
    assert_int_equal(STAT(client, connections), 0);
    assert_int_equal(STAT(client, connects), 3); /* none for those that waited */
    assert_int_equal(STAT(client, dedicated), 0);
    assert_int_equal(arn_redis_queued_bytes(client), 0);
    ASK(client, "v", "GET", "k");
    RUN(OP(client, EXCLUSIVE, "GET", "k"), ARN_OK, "v");
    t_close(client);
}

static void release(void **state) {
    arn_redis_op *ops[ALL];
    arn_redis_session *s[2];
    arn_redis_client *client = busy_client(ops, s);

    (void)state;
    arn_redis_client_ref(client);
    t_close(client);
    t_redis_thaw(&t_server);
    check_ended(ops, s, ARN_ECLOSED);
    FAIL(client, ARN_ECLOSED, "GET", "k");
    RUN(OP(client, EXCLUSIVE, "GET", "k"), ARN_ECLOSED, NULL);
    arn_redis_client_disconnect(client);
    t_barrier(t_rt);
    assert_int_equal(STAT(client, connections), 0);
    arn_redis_client_unref(client);
}

static void runtime_stop(void **state) {
    arn_redis_op *ops[ALL];
    arn_redis_session *s[2];
    arn_redis_client *client = busy_client(ops, s);

    (void)state;
    assert_int_equal(arn_runtime_stop(5000), ARN_OK);
    t_redis_thaw(&t_server);
    check_ended(ops, s, ARN_ESHUTDOWN);
    FAIL(client, ARN_ESHUTDOWN, "GET", "k");
    assert_int_equal(arn_redis_queued_bytes(client), 0);
    arn_redis_client_disconnect(client);
    arn_redis_client_release(client);
}

/* ---- out of memory ---- */

/* 1 if the op was made. It ends, one way or the other. */
static int survives(arn_redis_op *op) {
    int status;

    if (op == NULL)
        return 0;
    status = t_run(op, t_port);
    if (status != ARN_OK && status != ARN_ENOMEM)
        fail_msg("an op has ended with %s", arn_status_name(status));
    arn_op_unref(&op->base);
    return 1;
}

static void round_trip(arn_redis_client *client) {
    survives(OP(client, SHARED, "SET", "k", "v"));
    survives(OP(client, SHARED, "GET", "k"));
}

static void large_round_trip(arn_redis_client *client) {
    survives(t_payload_op(client, 200000));
    survives(OP(client, SHARED, "GET", "payload"));
    survives(t_pipeline(client, GET("k"), 50));
}

static void dedicated_round_trip(arn_redis_client *client) {
    arn_redis_session *s = arn_redis_session_new(client);
    arn_redis_op *op;

    survives(OP(client, EXCLUSIVE, "GET", "k"));
    if (s == NULL)
        return;
    op = t_op(client, ARN_REDIS_LEASE, NULL);
    if (op != NULL)
        survives(of_session(op, s));
    op = arn_redis_session_is_open(s) ? OP(client, SESSION, "GET", "k") : NULL;
    if (op != NULL)
        survives(of_session(op, s));
    arn_redis_session_release(s, 0);
    arn_redis_session_unref(s);
}

static void allocation_failures(void **state) {
    void (*trips[])(arn_redis_client *) = {round_trip, large_round_trip, dedicated_round_trip};
    arn_redis_config config = t_config(t_server.port);
    size_t i;

    (void)state;
    config.client_name = "n"; /* something to say while connecting */
    config.password = NULL;
    for (i = 0; i < COUNT(trips); i++) {
        long n = -1, made = 1;
        while (made > n) {
            arn_redis_client *client;
            arn_alloc_fail_after(++n);
            client = arn_redis_client_new(t_rt, &config);
            if (client != NULL) {
                trips[i](client);
                t_close(client);
            }
            made = arn_alloc_fail_after(-1);
            assert_true(n < 1000);
        }
        assert_true(n > 10);
    }
    t_releases = 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(tcp_and_unix),
        TEST(many_threads),
        TEST(pipelines),
        TEST(deep_replies),
        TEST(exclusive),
        TEST(pool_timeout),
        TEST(discard),
        TEST(sessions),
        TEST(released_sessions),
        TEST(released_while_stopping),
        TEST(waiting_leases),
        TEST(disconnect),
        TEST(release),
        TEST(runtime_stop),
        TEST(allocation_failures),
    };

    return cmocka_run_group_tests(tests, t_start_server, t_kill_server);
}
