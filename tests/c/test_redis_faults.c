/* The Redis client and servers that refuse, fall silent, break off, answer late or nonsense. */
#define _GNU_SOURCE /* accept4 */

#include "arn.h"
#include "base/alloc.h"
#include "fault_server.h"
#include "redis/client.h"
#include "redis_server.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

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
        t_fault *f = t_play(steps);
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

/* The fault is the first reply's; those behind it merely lose their connection. */
static void garbage_before_others(void **state) {
    static const char *const replies[] = {"rubbish\r\n", "$5\r\nhelloXX", "*x\r\n",
                                          "*2\r\n+a\r\n?"};
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(replies); i++) {
        const t_fault_step steps[] = {
            {T_ACCEPT, 0, NULL, 0},      {T_READ, 0, GET("a") GET("b") GET("c"), 0},
            {T_SEND, 0, replies[i], 0},  {T_GONE, 0, NULL, 0},
            {T_ACCEPT, 1, NULL, 0},      {T_READ, 1, GET("d"), 0},
            {T_SEND, 1, "+fine\r\n", 0}, {0}};
        const char *keys[] = {"a", "b", "c"};
        t_fault *f = t_play(steps);
        arn_redis_client *client = t_client(t_fault_port(f));
        arn_redis_op *ops[3];
        int k;
        for (k = 0; k < 3; k++)
            ops[k] = t_start(OP(client, SHARED, "GET", keys[k]));
        for (k = 0; k < 3; k++) {
            arn_op_ref(&ops[k]->base);
            NEXT(ops[k], k == 0 ? ARN_EPROTO : ARN_ECONN, NULL);
            assert_true(ops[k]->base.message[0] != '\0');
            arn_op_unref(&ops[k]->base);
        }
        ASK(client, "fine", "GET", "d");
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
        t_fault *f = t_play(steps);
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

/* The answer comes before the server has read the whole request, of which it reads no more. */
static void answered_too_early(void **state) {
    static const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},
                                         {T_WAIT, 0, NULL, 0},
                                         {T_SEND, 0, "-ERR too large\r\n", 0},
                                         {T_WAIT, 0, NULL, 0},
                                         {0}};
    const size_t len = 16 << 20; /* more than sockets hold */
    t_fault *f = t_play(steps);
    arn_redis_client *client = t_client(t_fault_port(f));
    char *word = malloc(len + 1);
    arn_redis_op *set, *get;

    (void)state;
    memset(word, 'a', len);
    word[len] = '\0';
    set = t_start(OP(client, SHARED, "SET", "k", word));
    free(word);
    UNTIL(STAT(client, bytes_out) > 0);
    t_fault_go(f);
    NEXT(set, ARN_OK, "-ERR too large");
    get = OP(client, SHARED, "GET", "k"); /* behind what is unsent: on the same lane */
    get->base.timeout_ms = 150;
    RUN(get, ARN_ETIMEDOUT, NULL);
    assert_int_equal(STAT(client, connects), 1);
    t_fault_go(f);
    assert_int_equal(t_fault_finish(f), 0);
    t_close(client);
}

/* So much of a value is there that it must be a large one: what is small goes round it. */
static void large_in_transit(void **state) {
    static const struct {
        const char *begin, *element;
    } cases[] = {{"$1000000\r\n", "x"},
                 {"*1000000\r\n", "$5\r\nabcde\r\n"},
                 {"*2\r\n+a\r\n*1000000\r\n", ":12345\r\n"},
                 {"*1000000\r\n", "*1\r\n+a\r\n"}};
    static char reply[128 * 1024];
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},   {T_READ, 0, GET("l"), 0},
                                      {T_SEND, 0, reply, 0},    {T_ACCEPT, 1, NULL, 0},
                                      {T_READ, 1, GET("b"), 0}, {T_SEND, 1, "+b\r\n", 0},
                                      {T_WAIT, 1, NULL, 0},     {0}};
        size_t step = strlen(cases[i].element);
        size_t len = strlen(strcpy(reply, cases[i].begin));
        arn_redis_client *client;
        arn_redis_op *large;
        t_fault *f;
        for (; len + step < sizeof(reply); len += step)
            memcpy(reply + len, cases[i].element, step + 1);
        f = t_play(steps);
        client = t_client(t_fault_port(f));
        large = t_start(OP(client, SHARED, "GET", "l"));
        UNTIL(STAT(client, bytes_in) > 64 * 1024);
        ASK(client, "b", "GET", "b");
        assert_int_equal(STAT(client, connections), 2);
        NOTHING();
        arn_redis_client_disconnect(client);
        NEXT(large, ARN_ECLOSED, NULL);
        t_fault_go(f);
        assert_int_equal(t_fault_finish(f), 0);
        t_close(client);
    }
}

static void frozen_server(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    const arn_redis_route routes[] = {ARN_REDIS_SHARED, ARN_REDIS_EXCLUSIVE};
    size_t i;

    (void)state;
    ASK(client, "OK", "SET", "k", "before");
    for (i = 0; i < COUNT(routes); i++) {
        arn_redis_op *op = t_op(client, routes[i], "ECHO", "late", NULL);
        t_redis_freeze(&t_server);
        op->base.timeout_ms = 60;
        RUN(op, ARN_ETIMEDOUT, NULL);
        t_redis_thaw(&t_server);
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

static void killed_and_restarted(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    arn_redis_op *op;
    int round;

    (void)state;
    for (round = 0; round < 2; round++) {
        ASK(client, "OK", "SET", "k", "v");
        op = t_start(OP(client, EXCLUSIVE, "BLPOP", "nothing", "0"));
        UNTIL(STAT(client, dedicated) == 1);
        t_redis_kill(&t_server);
        NEXT(op, ARN_ECONN, NULL);
        FAIL(client, ARN_ECONN, "GET", "k");
        assert_int_equal(t_redis_restart(&t_server), 0);
        ASK(client, "nil", "GET", "k");
    }
    t_close(client);
}

/* The io thread gets a command before it has got round to the end of the connection. */
static void closed_unnoticed(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0},   {T_READ, 0, GET("a"), 0}, {T_SEND, 0, "+a\r\n", 0},
        {T_WAIT, 0, NULL, 0},     {T_CLOSE, 0, NULL, 0},    {T_ACCEPT, 1, NULL, 0},
        {T_READ, 1, GET("b"), 0}, {T_SEND, 1, "+b\r\n", 0}, {0}};
    static const arn_redis_route routes[] = {ARN_REDIS_SHARED, ARN_REDIS_EXCLUSIVE};
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(routes); i++) {
        t_fault *f = t_play(steps);
        arn_redis_client *client = t_client(t_fault_port(f));
        t_blocker blocker;
        arn_redis_op *op;
        RUN(t_op(client, routes[i], "GET", "a", NULL), ARN_OK, "a");
        usleep(5000); /* not at once: then it takes the connection for a fresh one */
        t_block(t_rt, &blocker);
        op = t_start(t_op(client, routes[i], "GET", "b", NULL));
        t_fault_go(f);
        assert_int_equal(t_fault_wait(f, 5), 0);
        t_unblock(&blocker);
        NEXT(op, ARN_OK, "b");
        assert_int_equal(t_fault_finish(f), 0);
        t_close(client);
    }
}

/* ---- cancelling ---- */

static void cancels(void **state) {
    static const t_fault_step steps[] = {
        {T_ACCEPT, 0, NULL, 0},        {T_READ, 0, SETNAME, 0},  {T_WAIT, 0, NULL, 0},
        {T_SEND, 0, "+OK\r\n", 0},     {T_READ, 0, GET("b"), 0}, {T_WAIT, 0, NULL, 0},
        {T_SEND, 0, "$1\r\nb\r\n", 0}, {T_READ, 0, GET("c"), 0}, {T_SEND, 0, "$1\r\nc\r\n", 0},
        {T_ACCEPT, 1, NULL, 0},        {T_READ, 1, SETNAME, 0},  {T_SEND, 1, "+OK\r\n", 0},
        {T_READ, 1, GET("d"), 0},      {T_GONE, 1, NULL, 0},     {0}};
    t_fault *f = t_play(steps);
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
    arn_op_cancel(t_rt, &b->base); /* sent on a lane: its reply goes to nobody */
    NEXT(b, ARN_ECANCELED, NULL);
    assert_int_equal(arn_redis_queued_bytes(client), 0);
    t_fault_go(f);
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

/* ---- a host for any number of connections ---- */

#define CROWD 64

typedef struct host {
    pthread_t thread;
    int listener, port;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* "": TCP */
    int answers; /* the first request of each connection, which is closed at once otherwise */
    _Atomic int open, stop;
    int conns[CROWD];
    int count;
} host;

static void *receive(void *arg) {
    host *h = arg;
    struct pollfd p = {h->listener, POLLIN, 0};

    while (!atomic_load(&h->stop)) {
        char request[256];
        int fd;
        if (!atomic_load(&h->open) || h->count == CROWD || poll(&p, 1, 5) != 1) {
            usleep(1000);
            continue;
        }
        fd = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        if (h->answers && read(fd, request, sizeof(request)) > 0 && write(fd, "+ok\r\n", 5) == 5)
            h->conns[h->count++] = fd;
        else
            close(fd);
    }
    return NULL;
}

static host *open_host(int is_unix, int backlog, int answers, int open) {
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    socklen_t size = sizeof(in);
    host *h = calloc(1, sizeof(*h));

    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    h->answers = answers;
    h->open = open;
    h->listener = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (is_unix) {
        snprintf(h->path, sizeof(h->path), "/tmp/arn-test-%d.sock", (int)getpid());
        unlink(h->path);
        strcpy(un.sun_path, h->path);
        assert_int_equal(bind(h->listener, (struct sockaddr *)&un, sizeof(un)), 0);
    } else {
        assert_int_equal(bind(h->listener, (struct sockaddr *)&in, sizeof(in)), 0);
        getsockname(h->listener, (struct sockaddr *)&in, &size);
        h->port = ntohs(in.sin_port);
    }
    assert_int_equal(listen(h->listener, backlog), 0);
    assert_int_equal(pthread_create(&h->thread, NULL, receive, h), 0);
    return h;
}

static void close_host(host *h) {
    h->stop = 1;
    pthread_join(h->thread, NULL);
    while (h->count > 0)
        close(h->conns[--h->count]);
    close(h->listener);
    if (h->path[0] != '\0')
        unlink(h->path);
    free(h);
}

static void accepts_and_closes(void **state) {
    static const arn_redis_route routes[] = {ARN_REDIS_SHARED, ARN_REDIS_EXCLUSIVE};
    host *h = open_host(0, 16, 0, 1);
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(routes); i++) {
        arn_redis_client *client = t_client(h->port);
        uint64_t begun = uv_hrtime();
        long elapsed_ms = 0;
        while (elapsed_ms < 250) {
            RUN(t_op(client, routes[i], "GET", "k", NULL), ARN_ECONN, NULL);
            elapsed_ms = (long)((uv_hrtime() - begun) / 1000000u);
        }
        assert_true(STAT(client, connects) >= 2);
        /* Pauses grow to 32 ms; the test wants half of that. */
        assert_true(STAT(client, connects) <= elapsed_ms / 16 + 3);
        t_close(client);
    }
    close_host(h);
}

static void full_backlog(void **state) {
    enum { OPS = 50 };
    host *h = open_host(1, 1, 1, 0);
    arn_redis_config config = t_config(0);
    arn_redis_client *client, *impatient;
    arn_op *left = NULL;
    int i;

    (void)state;
    config.host = NULL;
    config.path = h->path;
    config.max_dedicated = OPS;
    client = t_client_of(&config);
    config.connect_timeout_ms = 60;
    impatient = t_client_of(&config);
    for (i = 0; i < OPS; i++)
        t_start(OP(client, EXCLUSIVE, "GET", "k"));
    NOTHING();
    RUN(OP(impatient, SHARED, "GET", "k"), ARN_ECONNTIMEDOUT, NULL);
    h->open = 1;
    for (i = 0; i < OPS; i++) {
        arn_redis_op *op = t_next(t_port, &left);
        assert_non_null(op);
        if (op->base.status != ARN_OK)
            fail_msg("%s", op->base.message);
        arn_op_unref(&op->base);
    }
    assert_int_equal(STAT(client, connects), OPS);
    assert_int_equal(STAT(client, dedicated), OPS);
    t_close(client);
    t_close(impatient);
    close_host(h);
}

/* The peer has gone before anybody looks: the write fails, without a signal. */
static void gone_before_a_write(void **state) {
    host *h = open_host(1, 4, 1, 1);
    arn_redis_config config = t_config(0);
    arn_redis_client *client;
    arn_redis_op *op;
    t_blocker b;

    (void)state;
    signal(SIGPIPE, SIG_DFL);
    config.host = NULL;
    config.path = h->path;
    client = t_client_of(&config);
    ASK(client, "ok", "GET", "k");
    t_block(t_rt, &b);
    op = t_start(OP(client, SHARED, "GET", "k"));
    close_host(h);
    t_unblock(&b);
    NEXT(op, ARN_ECONN, NULL);
    t_close(client);
}

/* ---- out of memory ---- */

static void messages_of_failures(void **state) {
    arn_redis_client *client = t_client(t_server.port);
    long n = -1, made = 0;
    int failures = 0;

    (void)state;
    while (made > n) {
        arn_redis_op *op = t_pipeline(client, PING, 1000);
        int status;
        ASK(client, "PONG", "PING"); /* it is connected */
        arn_alloc_fail_after(++n);
        status = t_run(op, t_port);
        made = arn_alloc_fail_after(-1);
        if (status != ARN_OK) {
            assert_int_equal(status, ARN_ENOMEM);
            if (op->base.message[0] == '\0')
                fail_msg("no message when allocation %ld fails", n);
            failures++;
        }
        arn_op_unref(&op->base);
    }
    assert_true(failures > 2);
    t_close(client);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(broken_replies),
        TEST(garbage_before_others),
        TEST(late_replies),
        TEST(answered_too_early),
        TEST(large_in_transit),
        TEST(frozen_server),
        TEST(refused),
        TEST(closed_unnoticed),
        TEST(cancels),
        TEST(accepts_and_closes),
        TEST(full_backlog),
        TEST(gone_before_a_write),
        TEST(messages_of_failures),
        TEST(killed_and_restarted),
    };

    return cmocka_run_group_tests(tests, t_start_server, t_kill_server);
}
