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

static t_redis server;

static t_fault *play(const t_fault_step *steps) {
    t_fault *f = t_fault_start(steps);

    assert_non_null(f);
    return f;
}

/* ---- the ordinary ---- */

static void tcp_and_unix(void **state) {
    arn_redis_config config = t_config(server.port);
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
        config.path = server.path;
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
    arn_redis_client *client = t_client(server.port);
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
    arn_redis_client *client = t_client(server.port);
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

static char *word_of(size_t len) {
    char *word = malloc(len + 1);
    size_t i;

    for (i = 0; i < len; i++)
        word[i] = (char)('a' + i % 23 + i / 65536 % 3);
    word[len] = '\0';
    return word;
}

static void check_word(arn_redis_op *op, const char *word, size_t len) {
    assert_int_equal(op->base.status, ARN_OK);
    assert_int_equal(op->base.value.len, len);
    assert_memory_equal(op->base.value.u.bytes, word, len);
    arn_op_unref(&op->base);
}

/* Large values have a lane of their own, both ways, and come unhurt; small ones go beside them. */
static void large_values(void **state) {
    const size_t sizes[] = {4 << 10, 63 << 10, 65 << 10, 3 << 20};
    arn_redis_client *client = t_client(server.port);
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(sizes); i++) {
        char *word = word_of(sizes[i]);
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

/* Deeper than hiredis goes by itself. */
static void deep_replies(void **state) {
    enum { DEPTH = 20 };
    static const char script[] =
        "local t = redis.call('ECHO', 'core') for i = 1, 20 do t = {t, i} end return t";
    static const char *const more[][2] = {{"COMMAND", "DOCS"}, {"COMMAND", "INFO"}};
    arn_redis_client *client = t_client(server.port);
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
static void order_over_the_lanes(void **state) {
    enum { KEYS = 4, STEPS = 3, ROUNDS = 40 };
    static const char *const keys[KEYS] = {"order:0", "order:1", "order:2", "order:3"};
    char *large = word_of(200 << 10);
    arn_redis_client *client = NULL;
    int round, i;

    (void)state;
    for (round = 0; round < ROUNDS; round++) {
        arn_redis_op *ops[STEPS * KEYS];
        arn_op *left = NULL;
        /* Every second time it does not know yet which keys are large. */
        if (round % 2 == 0)
            client = t_client(server.port);
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

/* ---- payloads that are referred to ---- */

static _Atomic int releases;

static void count_release(void *owner) {
    free(owner);
    atomic_fetch_add(&releases, 1);
}

static arn_redis_op *payload_op(arn_redis_client *client, size_t len) {
    char *word = word_of(len);
    arn_slice args[] = {{"SET", 3}, {"payload", 7}, {word, len}};
    arn_redis_op *op =
        arn_redis_op_new(client, ARN_REDIS_SHARED, arn_redis_packed_size(args, 3), len, 1);

    if (op == NULL) {
        free(word);
        return NULL;
    }
    arn_redis_pack_around(op->request, args, 3, 2, &op->payload_at);
    op->payload = args[2];
    op->payload_owner = word;
    op->release = count_release;
    return op;
}

static void payloads(void **state) {
    static const t_fault_step mute[] = {{T_ACCEPT, 0, NULL, 0}, {T_WAIT, 0, NULL, 0}, {0}};
    arn_redis_client *client = t_client(server.port);
    char *word = word_of(5 << 20);
    arn_redis_op *op;
    t_fault *f;
    int i;

    (void)state;
    releases = 0;
    RUN(payload_op(client, 5 << 20), ARN_OK, "OK");
    UNTIL(releases == 1);
    op = OP(client, SHARED, "GET", "payload");
    assert_int_equal(t_run(op, t_port), ARN_OK);
    check_word(op, word, 5 << 20);
    free(word);
    arn_op_unref(&payload_op(client, 100000)->base); /* never submitted */
    assert_int_equal(releases, 2);
    op = payload_op(client, 100000);
    arn_op_cancel(t_rt, &op->base); /* the flag is there when it starts */
    RUN(op, ARN_ECANCELED, NULL);
    t_close(client);
    assert_int_equal(releases, 3);

    client = t_client(t_free_port());
    RUN(payload_op(client, 100000), ARN_ECONN, NULL); /* refused */
    t_close(client);
    UNTIL(releases == 4);

    /* 8 MB do not fit into the sockets: the op ends while its bytes are being written. */
    for (i = 0; i < 4; i++) {
        f = play(mute);
        client = t_client(t_fault_port(f));
        op = payload_op(client, 8 << 20);
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
        UNTIL(releases == 5 + i);
        arn_redis_client_release(client);
        if (i != 2)
            t_fault_go(f), assert_int_equal(t_fault_finish(f), 0);
    }
    assert_int_equal(releases, 8);
}

/* ---- dedicated connections ---- */

/* These ops end, in any order, and no other. */
static void all_end(arn_redis_op **ops, int count) {
    arn_op *left = NULL;
    int i, k;

    for (i = 0; i < count; i++) {
        arn_redis_op *op = t_next(t_port, &left);
        assert_non_null(op);
        for (k = 0; k < count && ops[k] != op; k++)
            continue;
        assert_true(k < count);
    }
    assert_null(left);
}

static void check_popped(arn_redis_op *op, const char *value) {
    char text[32];

    assert_int_equal(op->base.status, ARN_OK);
    assert_int_equal(op->base.value.kind, ARN_ARRAY);
    assert_string_equal(t_text(&op->base.value.u.items[1], text, sizeof(text)), value);
    arn_op_unref(&op->base);
}

static void exclusive(void **state) {
    arn_redis_config config = t_config(server.port);
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
    all_end(ended, 4);
    check_popped(pops[1], "b");
    check_popped(pops[2], "c");
    check_popped(pops[3], "d");
    arn_op_unref(&ended[3]->base);
    assert_int_equal(STAT(client, connects), 3);
    ended[0] = pops[0];
    ended[1] = t_start(OP(client, SHARED, "RPUSH", "l0", "a"));
    all_end(ended, 2);
    check_popped(pops[0], "a");
    arn_op_unref(&ended[1]->base);
    t_barrier(t_rt);
    assert_int_equal(STAT(client, dedicated), 2); /* kept */
    t_close(client);
}

static void pool_timeout(void **state) {
    arn_redis_config config = t_config(server.port);
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
    arn_redis_client *client = t_client(server.port);
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
    arn_redis_client *client = t_client(server.port);
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
    arn_redis_client *client = t_client(server.port);
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
        arn_redis_client *client = t_client(server.port);
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
    arn_redis_config config = t_config(server.port);
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

/* ---- the limit of what is under way ---- */

static void gates(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0}, {T_READ, 0, GET("a") GET("b") GET("c") GET("d") GET("e"), 0},
        {T_WAIT, 0, NULL, 0},   {T_SEND, 0, "+a\r\n+b\r\n", 0},
        {T_WAIT, 0, NULL, 0},   {T_SEND, 0, "+c\r\n", 0},
        {T_WAIT, 0, NULL, 0},   {0}};
    const char *names[] = {"a", "b", "c", "d", "e"};
    t_fault *f = play(steps);
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
    arn_redis_client *client = t_client(server.port);
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
    arn_redis_config config = t_config(server.port);
    arn_redis_client *client;
    int large;

    (void)state;
    config.queue_bytes = 2000;
    client = t_client_of(&config);
    for (large = 0; large < 2; large++) {
        arn_redis_op *ops[16];
        int count = 0, i;
        t_redis_freeze(&server);
        while (count < 15 && !arn_redis_is_full(client, lens[large])) {
            ops[count] = large ? payload_op(client, lens[1]) : OP(client, SHARED, "ECHO", "x");
            t_start(ops[count++]);
        }
        assert_true(arn_redis_is_full(client, lens[large]));
        assert_false(arn_redis_is_full(client, lens[!large]));
        RUN(arn_redis_gate_new(client, lens[!large]), ARN_OK, NULL); /* open at once */
        ops[count++] = t_start(arn_redis_gate_new(client, lens[large]));
        NOTHING();
        t_redis_thaw(&server);
        all_end(ops, count);
        for (i = 0; i < count; i++) {
            assert_int_equal(ops[i]->base.status, ARN_OK);
            arn_op_unref(&ops[i]->base);
        }
        assert_int_equal(arn_redis_queued_bytes(client), 0);
    }
    t_close(client);
}

/* ---- ends ---- */

enum { SENT, BLOCKED, LEASED, WAITING, WAITING_LEASE, GATED, ALL };

/* One op of each kind under way, as far as it gets; BLOCKED holds the one dedicated connection. */
static arn_redis_client *busy_client(arn_redis_op **ops, arn_redis_session **s) {
    arn_redis_config config = t_config(server.port);
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
    t_redis_freeze(&server);
    ops[SENT] = t_start(OP(client, SHARED, "GET", "k"));
    ops[WAITING] = t_start(OP(client, EXCLUSIVE, "GET", "k"));
    ops[WAITING_LEASE] = t_start(LEASE(s[1]));
    ops[GATED] = t_start(arn_redis_gate_new(client, 1));
    NOTHING();
    return client;
}

static void check_ended(arn_redis_op **ops, arn_redis_session **s, int status) {
    int i;

    all_end(ops, ALL);
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
    t_redis_thaw(&server);
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
    t_redis_thaw(&server);
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
    t_redis_thaw(&server);
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
    survives(payload_op(client, 200000));
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
    arn_redis_config config = t_config(server.port);
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
    releases = 0;
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
        TEST(tcp_and_unix),
        TEST(many_threads),
        TEST(pipelines),
        TEST(large_values),
        TEST(deep_replies),
        TEST(order_over_the_lanes),
        TEST(payloads),
        TEST(exclusive),
        TEST(pool_timeout),
        TEST(discard),
        TEST(sessions),
        TEST(released_sessions),
        TEST(released_while_stopping),
        TEST(waiting_leases),
        TEST(gates),
        TEST(made_and_never_submitted),
        TEST(two_counts),
        TEST(disconnect),
        TEST(release),
        TEST(runtime_stop),
        TEST(allocation_failures),
    };

    return cmocka_run_group_tests(tests, start_server, kill_server);
}
