/* Host names to addresses (io/lookup), by itself and below a client. */
#define _GNU_SOURCE /* RTLD_NEXT */

#include "arn.h"
#include "base/alloc.h"
#include "fault_server.h"
#include "io/lookup.h"
#include "redis/client.h"
#include "redis_server.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- the name service, as far as it is the test's own ---- */

static _Atomic int asked;   /* for a name */
static _Atomic int asking;  /* waits for let_answer() */
static _Atomic int open_to; /* signals that one of its threads takes */
static uv_sem_t answers;
static struct { int result, error; /* of "broken" */ } broken;

/* "slow..." is 127.0.0.1, but not at once. */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **out) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(
            RTLD_NEXT, "getaddrinfo");
    sigset_t mask;

    if (hints != NULL && (hints->ai_flags & AI_NUMERICHOST) != 0)
        return real(host, service, hints, out);
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    if (arn_runtime_on_io_thread() || !sigismember(&mask, SIGTERM) || !sigismember(&mask, SIGINT))
        atomic_fetch_add(&open_to, 1);
    atomic_fetch_add(&asked, 1);
    if (strcmp(host, "broken") == 0) {
        errno = broken.error;
        return broken.result;
    }
    if (strncmp(host, "slow", 4) == 0) {
        host = "127.0.0.1";
        atomic_fetch_add(&asking, 1);
        uv_sem_wait(&answers);
        atomic_fetch_sub(&asking, 1);
    }
    return real(host, service, hints, out);
}

static int no_threads; /* for the io thread */

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                   void *arg) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
        (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(
            RTLD_NEXT, "pthread_create");

    if (no_threads && arn_runtime_on_io_thread())
        return EAGAIN;
    return real(thread, attributes, run, arg);
}

static void let_answer(int count) {
    while (count-- > 0)
        uv_sem_post(&answers);
}

static int threads(void) {
    DIR *dir = opendir("/proc/self/task");
    int count = 0;

    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

static int threads_before;

static int set_up(void **state) {
    asked = 0;
    no_threads = 0;
    uv_sem_init(&answers, 0);
    if (t_set_up(state) != 0)
        return -1;
    t_barrier(t_rt);
    threads_before = threads();
    return 0;
}

/* Every test ends with no look-up under way: what they do last is part of the test. */
static int tear_down(void **state) {
    int r;

    UNTIL(threads() <= threads_before);
    r = t_tear_down(state);
    uv_sem_destroy(&answers);
    assert_int_equal(asking, 0);
    assert_int_equal(open_to, 0);
    return r;
}

/* ---- who asks ---- */

typedef struct asker {
    arn_lookup_waiter waiter;
    const char *host;
    int port;
    int started; /* what arn__lookup_start() has returned */
    int starting;
    int error;
    const struct addrinfo *addresses;
    void (*then)(struct asker *self); /* within done */
    void *arg;
    _Atomic int ended; /* calls of done */
} asker;

static void on_done(arn_lookup_waiter *waiter, int error, const struct addrinfo *addresses) {
    asker *a = ARN_CONTAINER_OF(waiter, asker, waiter);

    a->error = a->starting || !arn_runtime_on_io_thread() ? 1 : error;
    a->addresses = addresses;
    if (a->then != NULL)
        a->then(a);
    atomic_fetch_add(&a->ended, 1);
}

static void start(void *arg) {
    asker *a = arg;

    arn_queue_init(&a->waiter.node);
    a->waiter.done = on_done;
    a->starting = 1;
    a->started = arn__lookup_start(t_rt, a->host, a->port, &a->waiter);
    a->starting = 0;
}

static void release(void *arg) {
    arn__lookup_release(&((asker *)arg)->waiter);
}

static void ask(asker *a, const char *host, int port) {
    a->host = host;
    a->port = port;
    t_on_io(t_rt, start, a);
    assert_int_equal(a->started, 0);
}

static void let_go(asker *a) {
    t_on_io(t_rt, release, a);
    t_on_io(t_rt, release, a); /* once more does nothing */
    assert_null(a->waiter.lookup);
}

/* Of the first address; to be called before the release. */
static const char *text_of(const asker *a, char *out, size_t size) {
    const struct sockaddr *address = a->addresses->ai_addr;
    const void *bytes = address->sa_family == AF_INET
                            ? (const void *)&((const struct sockaddr_in *)address)->sin_addr
                            : (const void *)&((const struct sockaddr_in6 *)address)->sin6_addr;

    return inet_ntop(address->sa_family, bytes, out, (socklen_t)size);
}

static void check_loopback(const asker *a, int port) {
    const struct addrinfo *i;
    char text[64];

    assert_int_equal(a->error, 0);
    assert_non_null(a->addresses);
    for (i = a->addresses; i != NULL; i = i->ai_next) {
        /* The port is at the same place in both. */
        assert_int_equal(ntohs(((const struct sockaddr_in *)i->ai_addr)->sin_port), port);
        assert_int_equal(i->ai_socktype, SOCK_STREAM);
    }
    text_of(a, text, sizeof(text));
    assert_true(strcmp(text, "127.0.0.1") == 0 || strcmp(text, "::1") == 0);
}

/* ---- answers ---- */

static void literals(void **state) {
    static const struct {
        const char *host;
        int family;
        const char *address;
    } cases[] = {{"127.0.0.1", AF_INET, "127.0.0.1"},
                 {"::1", AF_INET6, "::1"},
                 {"2001:db8:0::7", AF_INET6, "2001:db8::7"}};
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        asker a = {.then = NULL};
        char text[64];
        ask(&a, cases[i].host, 6379 + (int)i);
        UNTIL(a.ended == 1);
        assert_int_equal(a.error, 0);
        assert_int_equal(a.addresses->ai_family, cases[i].family);
        assert_string_equal(text_of(&a, text, sizeof(text)), cases[i].address);
        assert_int_equal(ntohs(((struct sockaddr_in *)a.addresses->ai_addr)->sin_port), 6379 + i);
        let_go(&a);
        assert_int_equal(a.ended, 1);
    }
    assert_int_equal(asked, 0); /* nobody, so on no thread */
}

static void localhost(void **state) {
    asker a = {.then = NULL};

    (void)state;
    ask(&a, "localhost", 1234);
    UNTIL(a.ended == 1);
    check_loopback(&a, 1234);
    assert_int_equal(asked, 1);
    let_go(&a);
}

static void no_such_name(void **state) {
    static const char *const hosts[] = {
        "nowhere.invalid", "x.0123456789012345678901234567890123456789012345678901234567890123456",
        "two words", ""};
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(hosts); i++) {
        asker a = {.then = NULL};
        ask(&a, hosts[i], 1);
        UNTIL(a.ended == 1);
        assert_true(a.error == UV_EAI_NONAME || a.error == UV_EAI_AGAIN || a.error == UV_EAI_FAIL);
        assert_null(a.addresses);
        let_go(&a);
    }
}

static void errors(void **state) {
    static const struct {
        int result, error, uv;
    } cases[] = {{EAI_NONAME, 0, UV_EAI_NONAME},    {EAI_NODATA, 0, UV_EAI_NONAME},
                 {EAI_AGAIN, EINVAL, UV_EAI_AGAIN}, {EAI_FAIL, 0, UV_EAI_FAIL},
                 {EAI_SERVICE, 0, UV_EAI_FAIL},     {EAI_MEMORY, 0, UV_EAI_MEMORY},
                 {EAI_SYSTEM, EMFILE, UV_EMFILE},   {EAI_SYSTEM, 0, UV_EAI_FAIL},
                 {EAI_SYSTEM, EACCES, UV_EACCES},   {12345, 0, UV_EAI_FAIL}};
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        asker a = {.then = NULL};
        broken.result = cases[i].result;
        broken.error = cases[i].error;
        ask(&a, "broken", 1);
        UNTIL(a.ended == 1);
        assert_int_equal(a.error, cases[i].uv);
        assert_null(a.addresses);
        let_go(&a);
    }
}

/* ---- waiters ---- */

static void shared(void **state) {
    asker same[3] = {{.then = NULL}}, other_port = {.then = NULL}, other_name = {.then = NULL};
    int i;

    (void)state;
    for (i = 0; i < 3; i++)
        ask(&same[i], "slow", 1);
    ask(&other_port, "slow", 2);
    ask(&other_name, "slow2", 1);
    UNTIL(asking == 3);
    for (i = 0; i < 3; i++)
        assert_int_equal(same[i].ended, 0);
    let_answer(3);
    UNTIL(other_port.ended == 1 && other_name.ended == 1);
    for (i = 0; i < 3; i++) {
        UNTIL(same[i].ended == 1);
        check_loopback(&same[i], 1);
        assert_ptr_equal(same[i].addresses, same[0].addresses);
    }
    check_loopback(&other_port, 2);
    check_loopback(&other_name, 1);
    assert_int_equal(asked, 3);
    let_go(&same[0]);

    /* An answer is not kept: who asks now asks anew. */
    ask(&same[0], "slow", 1);
    let_answer(1);
    UNTIL(same[0].ended == 2);
    assert_int_equal(asked, 4);
    assert_ptr_not_equal(same[0].addresses, same[1].addresses);
    for (i = 0; i < 3; i++) {
        check_loopback(&same[i], 1); /* until it is released */
        let_go(&same[i]);
    }
    let_go(&other_port);
    let_go(&other_name);
}

static void addresses_stay(void **state) {
    asker a[2] = {{.then = NULL}}, later = {.then = NULL};

    (void)state;
    ask(&a[0], "slow", 7);
    ask(&a[1], "slow", 7);
    let_answer(1);
    UNTIL(a[0].ended == 1 && a[1].ended == 1);
    UNTIL(threads() <= threads_before); /* who has looked is gone */
    ask(&later, "127.0.0.1", 8);
    UNTIL(later.ended == 1);
    let_go(&later);
    check_loopback(&a[0], 7);
    let_go(&a[0]);
    check_loopback(&a[1], 7);
    let_go(&a[1]);
}

static void released_before_the_answer(void **state) {
    asker a = {.then = NULL}, b = {.then = NULL}, alone = {.then = NULL};

    (void)state;
    ask(&a, "slow", 1);
    ask(&b, "slow", 1);
    ask(&alone, "slow3", 1);
    UNTIL(asking == 2);
    let_go(&a);
    let_go(&alone);
    /* Nobody waits for it, but it is under way and serves who comes. */
    ask(&a, "slow3", 1);
    let_answer(2);
    UNTIL(a.ended == 1 && b.ended == 1);
    t_barrier(t_rt);
    assert_int_equal(alone.ended, 0);
    assert_int_equal(asked, 2);
    check_loopback(&a, 1);
    check_loopback(&b, 1);
    let_go(&a);
    let_go(&b);

    ask(&alone, "slow", 1);
    let_go(&alone);
    let_answer(1);
    UNTIL(threads() <= threads_before);
    t_barrier(t_rt);
    assert_int_equal(alone.ended, 0);
}

/* Lets go of itself and of one behind it, and asks anew. */
static void release_all(asker *a) {
    asker *others = a->arg;

    release(a);
    release(&others[0]);
    start(&others[1]);
}

static void from_within_an_answer(void **state) {
    asker others[2] = {{.then = NULL}, {.host = "slow", .port = 1}};
    asker first = {.then = release_all, .arg = others};

    (void)state;
    ask(&first, "slow", 1);
    ask(&others[0], "slow", 1);
    let_answer(1);
    UNTIL(first.ended == 1);
    UNTIL(asking == 1 && asked == 2);
    t_barrier(t_rt);
    assert_int_equal(others[0].ended, 0);
    assert_int_equal(others[1].ended, 0);
    let_answer(1);
    UNTIL(others[1].ended == 1);
    check_loopback(&others[1], 1);
    let_go(&others[1]);
}

static void without_memory_or_threads(void **state) {
    static const char *const hosts[] = {"127.0.0.1", "slow"};
    asker a = {.then = NULL, .port = 1};
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(hosts); i++) {
        a.host = hosts[i];
        arn_alloc_fail_after(0);
        t_on_io(t_rt, start, &a);
        arn_alloc_fail_after(-1);
        assert_int_equal(a.started, UV_ENOMEM);
        assert_null(a.waiter.lookup);
    }
    no_threads = 1;
    t_on_io(t_rt, start, &a);
    assert_int_equal(a.started, UV_EAGAIN);
    assert_null(a.waiter.lookup);
    let_go(&a);
    ask(&a, "127.0.0.1", 1); /* needs none */
    UNTIL(a.ended == 1);
    let_go(&a);
    no_threads = 0;
    ask(&a, "slow", 1); /* nothing is left of the attempt before */
    let_answer(1);
    UNTIL(a.ended == 2);
    let_go(&a);
    assert_int_equal(asked, 1);
}

/* ---- the end of the runtime ---- */

typedef struct owner {
    asker asker;
    arn_stopper stopper;
    int answers; /* that arrive just then */
} owner;

static void on_stop(arn_stopper *stopper) {
    owner *o = ARN_CONTAINER_OF(stopper, owner, stopper);

    let_answer(o->answers);
    /* One more is that which waits for the stop. */
    for (; o->answers > 0 && threads() > threads_before + 1; usleep(1000))
        continue;
    release(&o->asker);
}

static void start_owner(void *arg) {
    owner *o = arg;

    o->stopper.stop = on_stop;
    arn__runtime_add_stopper(t_rt, &o->stopper);
    start(&o->asker);
}

static void *stop_runtime(void *arg) {
    *(int *)arg = arn_runtime_stop(5000);
    return NULL;
}

enum { BEFORE, WHILE, AFTER, ALL_MOMENTS };

/* The answers arrive before, while or after the runtime stops. */
static void stopped(void **state) {
    /* Waits to the end: its look-up stays with the runtime. */
    static asker patient[ALL_MOMENTS];
    int moment;

    (void)state;
    for (moment = 0; moment < ALL_MOMENTS; moment++) {
        owner o = {.asker = {.host = "slow1", .port = 1}, .answers = moment == WHILE ? 3 : 0};
        asker released = {.then = NULL};
        uint64_t begun = uv_hrtime();
        t_blocker b;
        pthread_t thread;
        int r = 1;
        ask(&released, "slow2", 1);
        ask(&patient[moment], "slow3", 1);
        t_on_io(t_rt, start_owner, &o);
        UNTIL(asking == 3);
        let_go(&released);
        if (moment == BEFORE) {
            t_block(t_rt, &b);
            let_answer(3);
            UNTIL(threads() <= threads_before);
        }
        pthread_create(&thread, NULL, stop_runtime, &r);
        if (moment == BEFORE) {
            UNTIL(arn_runtime_current() == NULL);
            t_unblock(&b);
        }
        pthread_join(thread, NULL);
        assert_int_equal(r, ARN_OK);
        if (moment == AFTER)
            let_answer(3);
        UNTIL(threads() < threads_before); /* also less the io thread */
        assert_true(uv_hrtime() - begun < 4000 * 1000000ull);
        assert_int_equal(released.ended, 0);
        if (moment != BEFORE) {
            assert_int_equal(o.asker.ended, 0);
            assert_int_equal(patient[moment].ended, 0);
        }
        tear_down(state);
        set_up(state);
    }
}

/* ---- below a client ---- */

#define SLOW_HOSTS 8

static void one_slow_name(void **state) {
    static const t_fault_step steps[] = {{T_ACCEPT, 0, NULL, 0},      {T_READ, 0, PING, 0},
                                         {T_SEND, 0, "+PONG\r\n", 0}, {T_ACCEPT, 1, NULL, 0},
                                         {T_READ, 1, GET("k"), 0},    {T_SEND, 1, "+v\r\n", 0},
                                         {T_ACCEPT, 2, NULL, 0},      {T_READ, 2, GET("l"), 0},
                                         {T_SEND, 2, "+w\r\n", 0},    {0}};
    t_fault *f = t_fault_start(steps);
    arn_redis_config config = t_config(t_fault_port(f));
    arn_redis_client *slow[SLOW_HOSTS], *quick, *named;
    arn_redis_op *ops[SLOW_HOSTS];
    char hosts[SLOW_HOSTS][16];
    int i;

    (void)state;
    quick = t_client_of(&config);
    config.host = "localhost";
    named = t_client_of(&config);
    for (i = 0; i < SLOW_HOSTS; i++) {
        snprintf(hosts[i], sizeof(hosts[i]), "slow%d", i);
        config.host = hosts[i];
        config.connect_timeout_ms = i == 0 ? 50 : 8000;
        slow[i] = t_client_of(&config);
        ops[i] = t_start(OP(slow[i], SHARED, "GET", i == 1 ? "l" : "x"));
    }
    UNTIL(asking == SLOW_HOSTS);
    ASK(quick, "PONG", "PING");
    ASK(named, "v", "GET", "k");
    NEXT(ops[0], ARN_ECONNTIMEDOUT, NULL);
    for (i = 2; i < SLOW_HOSTS; i++) {
        arn_redis_client_disconnect(slow[i]);
        NEXT(ops[i], ARN_ECLOSED, NULL);
    }
    let_answer(SLOW_HOSTS);
    NEXT(ops[1], ARN_OK, "w"); /* the one that still waits */
    for (i = 0; i < SLOW_HOSTS; i++)
        assert_int_equal(STAT(slow[i], connections), i == 1);
    assert_int_equal(t_fault_finish(f), 0);
    t_close(quick);
    t_close(named);
    for (i = 0; i < SLOW_HOSTS; i++)
        t_close(slow[i]);
}

static void clients_messages(void **state) {
    static const struct {
        int result, error;
        int threadless;
        int status;
        const char *message;
    } cases[] = {
        {EAI_NONAME, 0, 0, ARN_ECONN, "Error -2 connecting to broken:1. "},
        {EAI_AGAIN, 0, 0, ARN_ECONN, "Error -3 connecting to broken:1. "},
        {EAI_MEMORY, 0, 0, ARN_ENOMEM, "out of memory"},
        {EAI_SYSTEM, ENOMEM, 0, ARN_ENOMEM, "out of memory"},
        {0, 0, 1, ARN_ECONN, "Error 11 connecting to broken:1. "},
    };
    arn_redis_config config = t_config(1);
    size_t i;

    (void)state;
    config.host = "broken";
    for (i = 0; i < COUNT(cases); i++) {
        arn_redis_client *client = t_client_of(&config);
        arn_redis_op *op = OP(client, SHARED, "PING");
        broken.result = cases[i].result;
        broken.error = cases[i].error;
        no_threads = cases[i].threadless;
        assert_int_equal(t_run(op, t_port), cases[i].status);
        assert_memory_equal(op->base.message, cases[i].message, strlen(cases[i].message));
        arn_op_unref(&op->base);
        t_close(client);
    }
}

static void stopped_with_a_client(void **state) {
    arn_redis_config config = t_config(1);
    arn_redis_client *client;
    arn_redis_op *shared_op, *dedicated;

    (void)state;
    config.host = "slow";
    client = t_client_of(&config);
    shared_op = t_start(OP(client, SHARED, "PING"));
    dedicated = t_start(OP(client, EXCLUSIVE, "PING"));
    UNTIL(asking == 1); /* for both */
    assert_int_equal(arn_runtime_stop(5000), ARN_OK);
    NEXT(shared_op, ARN_ESHUTDOWN, NULL);
    NEXT(dedicated, ARN_ESHUTDOWN, NULL);
    arn_redis_client_release(client);
    assert_int_equal(asking, 1);
    let_answer(1);
    UNTIL(threads() < threads_before);
}

#define LOOKUP_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        LOOKUP_TEST(literals),
        LOOKUP_TEST(localhost),
        LOOKUP_TEST(no_such_name),
        LOOKUP_TEST(errors),
        LOOKUP_TEST(shared),
        LOOKUP_TEST(addresses_stay),
        LOOKUP_TEST(released_before_the_answer),
        LOOKUP_TEST(from_within_an_answer),
        LOOKUP_TEST(without_memory_or_threads),
        LOOKUP_TEST(stopped),
        LOOKUP_TEST(one_slow_name),
        LOOKUP_TEST(clients_messages),
        LOOKUP_TEST(stopped_with_a_client),
    };

    /* For a machine whose name server does not answer. */
    setenv("RES_OPTIONS", "timeout:1 attempts:1", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
