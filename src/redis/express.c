#include "redis/express.h"

#include "base/alloc.h"
#include "base/status.h"
#include "redis/conn.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A socket with an empty send buffer takes this much at once. */
#define REQUEST_MAX (16u * 1024u)
#define READ_SIZE (64u * 1024u)
/* Bytes read in one call at most: the owner's loop has other things to do. */
#define READ_BUDGET (4u * READ_SIZE)

struct arn_redis_express {
    arn_redis_client *client; /* referenced */
    arn_redis_reader *reader;
    arn_redis_op *op; /* under way; the caller's */
    int fd;
    int over;
    pid_t pid;         /* that owns the descriptor */
    uint64_t deadline; /* ns; 0: none */
    uint64_t last_use; /* ns */
    char *buffer;
};

arn_redis_express *arn_redis_express_new(arn_redis_client *client, int fd) {
    arn_redis_express *e = arn_calloc(1, sizeof(*e));

    if (e != NULL) {
        e->reader = arn__redis_reader_new();
        e->buffer = arn_malloc(READ_SIZE);
    }
    if (e == NULL || e->reader == NULL || e->buffer == NULL) {
        if (e != NULL) {
            arn__redis_reader_free(e->reader);
            arn_free(e->buffer);
        }
        arn_free(e);
        close(fd);
        return NULL;
    }
    e->client = client;
    arn_redis_client_ref(client);
    e->fd = fd;
    e->pid = getpid();
    e->last_use = uv_hrtime();
    arn__runtime_track_fd(fd);
    atomic_fetch_add_explicit(&client->stats.connections, 1, memory_order_relaxed);
    return e;
}

void arn_redis_express_free(arn_redis_express *e) {
    /* In a forked child the descriptor is closed already and its number may be another's. */
    if (getpid() == e->pid) {
        arn__runtime_untrack_fd(e->fd);
        close(e->fd);
    }
    atomic_fetch_sub_explicit(&e->client->stats.connections, 1, memory_order_relaxed);
    arn__redis_reader_free(e->reader);
    arn_free(e->buffer);
    arn_redis_client_unref(e->client);
    arn_free(e);
}

int arn_redis_express_fd(const arn_redis_express *e) {
    return e->fd;
}

arn_redis_op *arn_redis_express_op(const arn_redis_express *e) {
    return e->op;
}

uint64_t arn_redis_express_deadline(const arn_redis_express *e) {
    return e->deadline;
}

void arn_redis_express_shutdown(arn_redis_express *e) {
    shutdown(e->fd, SHUT_RDWR);
}

int arn_redis_express_send(arn_redis_express *e, arn_redis_op *op) {
    const arn_redis_config *config = &e->client->config;
    uint64_t now = uv_hrtime();
    ssize_t n;

    /* Not a pipeline: if the socket takes only a part of it, the commands in that part take effect,
     * and would once more when the lanes send the whole. */
    if (e->op != NULL || e->over || op->route != ARN_REDIS_SHARED || op->replies != 1 ||
        op->len > REQUEST_MAX)
        return 0;
    /* Behind a large request of another loop's, which may just now be given up. */
    if (arn__redis_client_has_large(e->client))
        return 0;
    /* A server that has gone away must not cost a command: the end of the stream may be waiting to
     * be read. Nothing else can be, as nothing was asked. */
    if (arn__socket_peek(e->fd) != 0 ||
        (config->health_check_ms != 0 &&
         (now - e->last_use) / 1000000u >= config->health_check_ms)) {
        e->over = 1;
        shutdown(e->fd, SHUT_RDWR);
        return 0;
    }
    do
        n = send(e->fd, op->request, op->len, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)op->len) {
        /* A part of a command takes no effect if the connection ends with it. */
        e->over = n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
        if (e->over)
            shutdown(e->fd, SHUT_RDWR);
        return 0;
    }
    e->op = op;
    op->express = 1;
    arn__redis_op_uncount(op); /* in no lane, so in nobody's way */
    op->base.state = ARN_OP_SENT;
    e->last_use = now;
    e->deadline = op->base.timeout_ms != 0 ? now + op->base.timeout_ms * 1000000u : 0;
    atomic_fetch_add_explicit(&e->client->stats.commands, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&e->client->stats.bytes_out, op->len, memory_order_relaxed);
    return 1;
}

/* Nothing is posted: the caller has the op. */
static void finish(arn_redis_express *e, int status, const char *message) {
    arn__op_end(&e->op->base, status, message);
    e->op = NULL;
    e->deadline = 0;
}

void arn_redis_express_fail(arn_redis_express *e, int status, const char *message) {
    e->over = 1;
    if (e->op != NULL)
        finish(e, status, message);
}

/* Uses up what was fed. 1 when the op has ended. */
static int read_reply(arn_redis_express *e) {
    int r = arn__redis_op_read(e->op, e->reader, 0);

    if (r == 0)
        return 0;
    if (r < 0) {
        arn_redis_express_fail(e, r, arn__redis_reader_error(e->reader));
        return 1;
    }
    if (arn__redis_reader_pending(e->reader) > 0)
        e->over = 1; /* more than was asked for */
    atomic_fetch_add_explicit(&e->client->stats.replies, 1, memory_order_relaxed);
    finish(e, ARN_OK, NULL);
    return 1;
}

int arn_redis_express_read(arn_redis_express *e, int *over) {
    size_t budget = READ_BUDGET;
    int done = 0;

    while (!done && !e->over && budget > 0) {
        size_t room = READ_SIZE;
        char *space = arn__redis_reader_space(e->reader, &room);
        ssize_t n;

        if (space == NULL)
            space = e->buffer;
        n = recv(e->fd, space, room < budget ? room : budget, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            break;
        if (n <= 0) {
            char message[384];
            if (n == 0)
                snprintf(message, sizeof(message), "Connection closed by server.");
            else
                snprintf(message, sizeof(message), "Error %d while talking to %s. %s.", errno,
                         e->client->label, strerror(errno));
            done = e->op != NULL;
            arn_redis_express_fail(e, ARN_ECONN, message);
            break;
        }
        atomic_fetch_add_explicit(&e->client->stats.bytes_in, (uint64_t)n, memory_order_relaxed);
        if (e->op == NULL) {
            e->over = 1; /* nobody asked */
            break;
        }
        arn__redis_reader_feed(e->reader, space, (size_t)n);
        done = read_reply(e);
        budget -= (size_t)n < budget ? (size_t)n : budget;
        if ((size_t)n < READ_SIZE && (size_t)n < room)
            break; /* the socket is empty */
    }
    *over = e->over;
    return done;
}

int arn_redis_express_spin(arn_redis_express *e, uint64_t ns, int *over) {
    uint64_t until = e->last_use + ns;
    int done;

    do
        done = arn_redis_express_read(e, over);
    while (!done && !*over && uv_hrtime() < until);
    return done;
}
