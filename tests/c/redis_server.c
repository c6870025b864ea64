#include "redis_server.h"

#include "base/alloc.h"
#include "base/status.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SERVERS_MAX 8
#define WAIT_MS 10000

static t_redis *servers[SERVERS_MAX];
static pid_t owner;

/* ---- the server ---- */

static void kill_all(void) {
    int i;

    if (getpid() != owner)
        return; /* a forked child of the test */
    for (i = 0; i < SERVERS_MAX; i++)
        if (servers[i] != NULL)
            t_redis_kill(servers[i]);
}

static void remember(t_redis *server) {
    int i;

    if (owner == 0) {
        owner = getpid();
        atexit(kill_all);
    }
    for (i = 0; i < SERVERS_MAX; i++) {
        if (servers[i] == server)
            return;
        if (servers[i] == NULL) {
            servers[i] = server;
            return;
        }
    }
    abort();
}

int t_free_port(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int port = -1;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
        getsockname(fd, (struct sockaddr *)&address, &size) == 0)
        port = ntohs(address.sin_port);
    close(fd);
    return port;
}

/* By TCP, because the unix socket is there sooner. */
static int answers(const t_redis *server) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)server->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char reply[16];
    int ok;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ok = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
         write(fd, "PING\r\n", 6) == 6 && read(fd, reply, sizeof(reply)) >= 5;
    close(fd);
    return ok && access(server->path, F_OK) == 0;
}

int t_redis_restart(t_redis *server) {
    char port[16];
    int waited;
    pid_t parent = getpid();

    snprintf(port, sizeof(port), "%d", server->port);
    unlink(server->path);
    server->pid = fork();
    if (server->pid == 0) {
        int null = open("/dev/null", O_RDWR);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execlp("redis-server", "redis-server", "--bind", "127.0.0.1", "--port", port,
               "--unixsocket", server->path, "--save", "", "--appendonly", "no", "--dir", "/tmp",
               "--requirepass", server->password, (char *)NULL);
        _exit(127);
    }
    remember(server);
    for (waited = 0; server->pid > 0 && waited < WAIT_MS; waited += 10) {
        if (answers(server))
            return 0;
        if (waitpid(server->pid, NULL, WNOHANG) != 0) {
            server->pid = 0;
            return -1;
        }
        usleep(10000);
    }
    t_redis_kill(server);
    return -1;
}

int t_redis_start(t_redis *server, const char *password) {
    int attempt;

    memset(server, 0, sizeof(*server));
    snprintf(server->password, sizeof(server->password), "%s", password);
    for (attempt = 0; attempt < 5; attempt++) { /* another may take the port before the server */
        server->port = t_free_port();
        snprintf(server->path, sizeof(server->path), "/tmp/arn-test-%d-%d.sock", (int)getpid(),
                 server->port);
        if (t_redis_restart(server) == 0)
            return 0;
    }
    return -1;
}

void t_redis_kill(t_redis *server) {
    if (server->pid <= 0)
        return;
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
    server->pid = 0;
    unlink(server->path);
}

void t_redis_freeze(t_redis *server) {
    kill(server->pid, SIGSTOP);
}

void t_redis_thaw(t_redis *server) {
    kill(server->pid, SIGCONT);
}

/* ---- ops ---- */

arn_redis_op *t_op(arn_redis_client *client, arn_redis_route route, ...) {
    arn_slice words[16];
    size_t count = 0;
    const char *word;
    arn_redis_op *op;
    va_list args;

    va_start(args, route);
    while (count < 16 && (word = va_arg(args, const char *)) != NULL)
        words[count++] = (arn_slice){word, strlen(word)};
    va_end(args);
    if (count == 0)
        return arn_redis_op_new(client, route, 0, 0, 0);
    op = arn_redis_op_new(client, route, arn_redis_packed_size(words, count), 0, 1);
    if (op == NULL)
        return NULL;
    arn_redis_pack(op->request, words, count);
    if (count > 1)
        op->key_hash = arn_redis_key_hash(words[1].data, words[1].len);
    return op;
}

void t_submit(arn_redis_op *op, arn_port *port) {
    arn_redis_op_submitted(op);
    arn_op_set_port(&op->base, port);
    arn_runtime_submit(arn_redis_client_runtime(op->client), &op->base.msg, &op->base.msg);
}

arn_redis_op *t_next(arn_port *port, arn_op **rest) {
    arn_op *op;

    if (*rest == NULL)
        *rest = arn_port_wait(port, WAIT_MS);
    op = *rest;
    if (op == NULL)
        return NULL;
    *rest = op->next_done;
    return ARN_CONTAINER_OF(op, arn_redis_op, base);
}

int t_run(arn_redis_op *op, arn_port *port) {
    arn_op *done;

    t_submit(op, port);
    done = arn_port_wait(port, WAIT_MS);
    if (done == NULL)
        return 1;
    if (done != &op->base || done->next_done != NULL)
        abort();
    return done->status;
}

typedef struct errand {
    arn_msg msg;
    void (*fn)(void *);
    void *arg;
    uv_sem_t done;
} errand;

static void run_errand(arn_msg *msg, int aborted) {
    errand *e = ARN_CONTAINER_OF(msg, errand, msg);

    (void)aborted;
    e->fn(e->arg);
    uv_sem_post(&e->done);
}

void t_on_io(arn_runtime *rt, void (*fn)(void *), void *arg) {
    errand e = {.msg.run = run_errand, .fn = fn, .arg = arg};

    uv_sem_init(&e.done, 0);
    arn_runtime_submit(rt, &e.msg, &e.msg);
    uv_sem_wait(&e.done);
    uv_sem_destroy(&e.done);
}

static void nothing(void *arg) {
    (void)arg;
}

void t_barrier(arn_runtime *rt) {
    t_on_io(rt, nothing, NULL);
}

static void block(arn_msg *msg, int aborted) {
    t_blocker *b = ARN_CONTAINER_OF(msg, t_blocker, msg);

    (void)aborted;
    uv_sem_post(&b->entered);
    uv_sem_wait(&b->leave);
}

void t_block(arn_runtime *rt, t_blocker *b) {
    b->msg.run = block;
    uv_sem_init(&b->entered, 0);
    uv_sem_init(&b->leave, 0);
    arn_runtime_submit(rt, &b->msg, &b->msg);
    uv_sem_wait(&b->entered);
}

void t_unblock(t_blocker *b) {
    uv_sem_post(&b->leave);
}

/* ---- a runtime and a port for each test ---- */

arn_runtime *t_rt;
arn_port *t_port;
static arn_op *rest;
static arn_runtime *kept[512]; /* a runtime is not freed by design; for the leak detector */
static size_t kept_count;

arn_runtime *t_running(void) {
    int status = 1;
    arn_runtime *rt = arn_runtime_get(&status);

    assert_non_null(rt);
    assert_int_equal(status, ARN_OK);
    if (kept_count == 0 || kept[kept_count - 1] != rt) {
        assert_true(kept_count < COUNT(kept));
        kept[kept_count++] = rt;
    }
    return rt;
}

int t_stop_runtime(void **state) {
    (void)state;
    arn_alloc_fail_after(-1);
    return arn_runtime_stop(5000);
}

int t_set_up(void **state) {
    int status;

    (void)state;
    t_rt = t_running();
    t_port = arn_port_new(ARN_PORT_WAIT, &status);
    rest = NULL;
    return t_port == NULL;
}

int t_tear_down(void **state) {
    int r = t_stop_runtime(state);

    arn_port_close(t_port);
    arn_port_unref(t_port);
    return r;
}

t_redis t_server;

int t_start_server(void **state) {
    (void)state;
    return t_redis_start(&t_server, "");
}

int t_kill_server(void **state) {
    (void)state;
    t_redis_kill(&t_server);
    return 0;
}

t_fault *t_play(const t_fault_step *steps) {
    t_fault *f = t_fault_start(steps);

    assert_non_null(f);
    return f;
}

arn_redis_config t_config(int port) {
    return (arn_redis_config){.host = "127.0.0.1",
                              .port = port,
                              .timeout_ms = 8000,
                              .connect_timeout_ms = 8000,
                              .max_dedicated = 4,
                              .large_bytes = 64 * 1024,
                              .queue_bytes = 64 * 1024 * 1024};
}

arn_redis_client *t_client_of(const arn_redis_config *config) {
    arn_redis_client *client = arn_redis_client_new(t_rt, config);

    assert_non_null(client);
    return client;
}

arn_redis_client *t_client(int port) {
    arn_redis_config config = t_config(port);

    return t_client_of(&config);
}

void t_close(arn_redis_client *client) {
    arn_redis_client_release(client);
    t_barrier(t_rt);
}

arn_redis_op *t_pipeline(arn_redis_client *client, const char *command, unsigned count) {
    size_t len = strlen(command);
    arn_redis_op *op = arn_redis_op_new(client, ARN_REDIS_SHARED, len * count, 0, count);
    unsigned i;

    for (i = 0; op != NULL && i < count; i++)
        memcpy(op->request + i * len, command, len);
    return op;
}

char *t_word(size_t len) {
    char *word = malloc(len + 1);
    size_t i;

    for (i = 0; i < len; i++)
        word[i] = (char)('a' + i % 23 + i / 65536 % 3);
    word[len] = '\0';
    return word;
}

_Atomic int t_releases;

static void count_release(void *owner) {
    free(owner);
    atomic_fetch_add(&t_releases, 1);
}

arn_redis_op *t_payload_op(arn_redis_client *client, size_t len) {
    char *word = t_word(len);
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

const char *t_text(const arn_value *v, char *out, size_t size) {
    switch (v->kind) {
    case ARN_BYTES:
        snprintf(out, size, "%.*s", (int)v->len, v->u.bytes);
        break;
    case ARN_ERROR:
        snprintf(out, size, "-%s", v->u.bytes);
        break;
    case ARN_INT:
        snprintf(out, size, ":%lld", (long long)v->u.integer);
        break;
    default:
        snprintf(out, size, "%s", v->kind == ARN_NIL ? "nil" : "?");
    }
    return out;
}

static void check(arn_redis_op *op, int status, const char *reply, int line) {
    char text[256];

    if (op->base.status != status)
        fail_msg("line %d: %s (%s) instead of %s", line, arn_status_name(op->base.status),
                 op->base.status < 0 ? op->base.message : "", arn_status_name(status));
    if (reply != NULL && strcmp(t_text(&op->base.value, text, sizeof(text)), reply) != 0)
        fail_msg("line %d: '%s' instead of '%s'", line, text, reply);
    arn_op_unref(&op->base);
}

void t_expect(arn_redis_op *op, int status, const char *reply, int line) {
    assert_non_null(op);
    if (t_run(op, t_port) == 1)
        fail_msg("line %d: the op did not end", line);
    check(op, status, reply, line);
}

void t_expect_next(arn_redis_op *expected, int status, const char *reply, int line) {
    arn_redis_op *op = t_next(t_port, &rest);

    if (op == NULL || op != expected)
        fail_msg("line %d: %s", line, op == NULL ? "no op has ended" : "another op");
    check(op, status, reply, line);
}

arn_redis_op *t_start(arn_redis_op *op) {
    assert_non_null(op);
    t_submit(op, t_port);
    return op;
}

void t_expect_nothing(int line) {
    t_barrier(t_rt);
    t_barrier(t_rt);
    if (rest != NULL || arn_port_take(t_port) != NULL)
        fail_msg("line %d: an op has ended", line);
}

void t_all_end(arn_redis_op **ops, int count) {
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
