#define _GNU_SOURCE /* accept4 */

#include "fault_server.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STEP_MS 8000 /* a step that takes longer has failed */

struct t_fault {
    const t_fault_step *steps;
    int listener;
    int port;
    int conns[T_FAULT_CONNS];
    sem_t go;
    pthread_t thread;
    _Atomic int done;
    _Atomic int failed; /* step, from 1 */
};

static int readable(int fd) {
    struct pollfd p = {fd, POLLIN, 0};

    return poll(&p, 1, STEP_MS) == 1;
}

static int close_conn(t_fault *f, int conn) {
    int r = f->conns[conn] >= 0 ? close(f->conns[conn]) : 0;

    f->conns[conn] = -1;
    return r == 0;
}

static int expect(int fd, const char *text) {
    size_t len = strlen(text);
    char got[1024];
    size_t n = 0;

    while (n < len) {
        ssize_t r = readable(fd) ? recv(fd, got, len - n < 1024 ? len - n : 1024, 0) : -1;
        if (r <= 0 || memcmp(got, text + n, (size_t)r) != 0) {
            fprintf(stderr, "fault server: not the expected bytes behind %.*s\n", (int)n, text);
            return 0;
        }
        n += (size_t)r;
    }
    return 1;
}

static int send_all(int fd, const char *text) {
    size_t len = strlen(text);

    return send(fd, text, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static int await_end(int fd) {
    char got[4096];
    ssize_t r = 1;

    while (r > 0 && readable(fd))
        r = recv(fd, got, sizeof(got), 0);
    return r <= 0;
}

static int await_go(t_fault *f) {
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STEP_MS / 1000;
    return sem_timedwait(&f->go, &until) == 0;
}

static int play(t_fault *f, const t_fault_step *s) {
    const struct linger reset = {1, 0};
    int *conn = &f->conns[s->conn];

    switch (s->kind) {
    case T_ACCEPT:
        *conn = readable(f->listener) ? accept4(f->listener, NULL, NULL, SOCK_CLOEXEC) : -1;
        return *conn >= 0;
    case T_READ:
        return expect(*conn, s->text);
    case T_SEND:
        return send_all(*conn, s->text);
    case T_SLEEP:
        usleep((unsigned)s->ms * 1000u);
        return 1;
    case T_WAIT:
        return await_go(f);
    case T_RESET:
        setsockopt(*conn, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        return close_conn(f, s->conn);
    case T_CLOSE:
        return close_conn(f, s->conn);
    case T_GONE:
        return await_end(*conn);
    case T_REFUSE:
        close(f->listener);
        f->listener = -1;
        return 1;
    case T_END:
        break;
    }
    return 0;
}

static void *thread_main(void *arg) {
    t_fault *f = arg;
    int i;

    for (i = 0; f->steps[i].kind != T_END; i++) {
        if (!play(f, &f->steps[i])) {
            atomic_store(&f->failed, i + 1);
            break;
        }
        atomic_store(&f->done, i + 1);
    }
    return NULL;
}

t_fault *t_fault_start(const t_fault_step *steps) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof(address);
    t_fault *f = calloc(1, sizeof(*f));
    int i;

    f->steps = steps;
    for (i = 0; i < T_FAULT_CONNS; i++)
        f->conns[i] = -1;
    sem_init(&f->go, 0, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    f->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(f->listener, (struct sockaddr *)&address, sizeof(address)) == 0 &&
        listen(f->listener, 16) == 0 &&
        getsockname(f->listener, (struct sockaddr *)&address, &size) == 0 &&
        pthread_create(&f->thread, NULL, thread_main, f) == 0) {
        f->port = ntohs(address.sin_port);
        return f;
    }
    close(f->listener);
    sem_destroy(&f->go);
    free(f);
    return NULL;
}

int t_fault_port(const t_fault *f) {
    return f->port;
}

int t_fault_wait(t_fault *f, int steps) {
    while (atomic_load(&f->done) < steps && atomic_load(&f->failed) == 0)
        usleep(500);
    return atomic_load(&f->done) >= steps ? 0 : -1;
}

void t_fault_go(t_fault *f) {
    sem_post(&f->go);
}

int t_fault_finish(t_fault *f) {
    int failed;
    int i;

    pthread_join(f->thread, NULL);
    failed = atomic_load(&f->failed);
    for (i = 0; i < T_FAULT_CONNS; i++)
        close_conn(f, i);
    if (f->listener >= 0)
        close(f->listener);
    sem_destroy(&f->go);
    free(f);
    return failed;
}
