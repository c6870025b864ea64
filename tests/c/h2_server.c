#define _GNU_SOURCE /* accept4 */

#include "h2_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNS 64

typedef struct stream stream;

typedef struct conn {
    t_h2 *server;
    int fd; /* -1: none, or closed */
    nghttp2_session *h2;
    unsigned char *out; /* not yet with the kernel */
    size_t out_len, out_cap;
    int is_ending;
    stream *streams;
} conn;

struct stream {
    stream *next;
    char path[256];
    char headers[4096];
    unsigned char *body;
    size_t len, cap;
    unsigned char *reply;
    size_t reply_len, reply_sent;
    const char *const *trailers;
};

struct t_h2 {
    t_h2_options options;
    int listener, port;
    int wake[2];
    pthread_t thread;
    conn conns[CONNS];
    _Atomic int accepted, requests, begun, resets, last_reset, pings, goaways, closed, stop;
};

static void *grown(void *p, size_t *cap, size_t need) {
    if (need > *cap) {
        *cap = need * 2;
        p = realloc(p, *cap);
        if (p == NULL)
            abort();
    }
    return p;
}

static void put(conn *c, const void *bytes, size_t len) {
    c->out = grown(c->out, &c->out_cap, c->out_len + len);
    if (len > 0)
        memcpy(c->out + c->out_len, bytes, len);
    c->out_len += len;
}

static conn *conn_of(const t_h2_request *r) {
    return &r->server->conns[r->conn % CONNS];
}

/* ---- what handlers call ---- */

static size_t take_headers(nghttp2_nv *nv, const char *const *headers) {
    size_t n = 0;

    for (; headers != NULL && headers[2 * n] != NULL; n++)
        nv[n] = (nghttp2_nv){(uint8_t *)headers[2 * n], (uint8_t *)headers[2 * n + 1],
                             strlen(headers[2 * n]), strlen(headers[2 * n + 1]), 0};
    return n;
}

static ssize_t read_reply(nghttp2_session *h2, int32_t id, uint8_t *to, size_t room,
                          uint32_t *flags, nghttp2_data_source *source, void *arg) {
    stream *s = source->ptr;
    size_t left = s->reply_len - s->reply_sent;
    size_t n = left < room ? left : room;

    (void)arg;
    memcpy(to, s->reply + s->reply_sent, n);
    s->reply_sent += n;
    if (n == left) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (s->trailers != NULL) {
            nghttp2_nv nv[64];
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            nghttp2_submit_trailer(h2, id, nv, take_headers(nv, s->trailers));
        }
    }
    return (ssize_t)n;
}

void t_h2_respond(const t_h2_request *r, const char *const *headers, const void *body, size_t len,
                  const char *const *trailers) {
    conn *c = conn_of(r);
    stream *s = nghttp2_session_get_stream_user_data(c->h2, r->stream);
    nghttp2_data_provider provider = {{.ptr = s}, read_reply};
    nghttp2_nv nv[64];

    if (s == NULL)
        return;
    if (body != NULL) {
        free(s->reply);
        s->reply = malloc(len + 1);
        memcpy(s->reply, body, len);
        s->reply_len = len;
        s->reply_sent = 0;
        s->trailers = trailers;
    }
    nghttp2_submit_response(c->h2, r->stream, nv, take_headers(nv, headers),
                            body != NULL ? &provider : NULL);
}

static const char *const usual[] = {":status", "200", "content-type", "application/grpc", NULL};

void t_h2_message(const t_h2_request *r, const void *message, size_t len) {
    static const char *const fine[] = {"grpc-status", "0", NULL};
    unsigned char *body = malloc(len + 5);

    body[0] = 0;
    body[1] = (unsigned char)(len >> 24);
    body[2] = (unsigned char)(len >> 16);
    body[3] = (unsigned char)(len >> 8);
    body[4] = (unsigned char)len;
    if (len > 0)
        memcpy(body + 5, message, len);
    t_h2_respond(r, usual, body, len + 5, fine);
    free(body);
}

void t_h2_status(const t_h2_request *r, const char *status, const char *message) {
    const char *headers[] = {":status",          "200",         "content-type",
                             "application/grpc", "grpc-status", status,
                             "grpc-message",     message,       NULL};

    if (message == NULL)
        headers[6] = NULL;
    t_h2_respond(r, headers, NULL, 0, NULL);
}

void t_h2_echo(const t_h2_request *r, void *arg) {
    (void)arg;
    t_h2_message(r, r->body + 5, r->len >= 5 ? r->len - 5 : 0);
}

void t_h2_reset(const t_h2_request *r, uint32_t error) {
    nghttp2_submit_rst_stream(conn_of(r)->h2, 0, r->stream, error);
}

void t_h2_goaway(const t_h2_request *r, int32_t last_stream, uint32_t error, const char *text) {
    nghttp2_submit_goaway(conn_of(r)->h2, 0, last_stream, error, (const uint8_t *)text,
                          strlen(text));
}

static void drain_h2(conn *c) {
    const uint8_t *data;
    ssize_t n;

    while ((n = nghttp2_session_mem_send(c->h2, &data)) > 0)
        put(c, data, (size_t)n);
}

void t_h2_raw(const t_h2_request *r, const void *bytes, size_t len) {
    drain_h2(conn_of(r));
    put(conn_of(r), bytes, len);
}

void t_h2_close(const t_h2_request *r) {
    conn_of(r)->is_ending = 1;
}

void t_h2_abort(const t_h2_request *r) {
    const struct linger reset = {1, 0};

    setsockopt(conn_of(r)->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    conn_of(r)->is_ending = 2;
}

/* ---- what comes ---- */

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *arg) {
    conn *c = arg;
    stream *s = calloc(1, sizeof(*s));

    s->next = c->streams;
    c->streams = s;
    nghttp2_session_set_stream_user_data(h2, frame->hd.stream_id, s);
    atomic_fetch_add(&c->server->begun, 1);
    return 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *arg) {
    stream *s = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);
    size_t used = strlen(s->headers);

    (void)flags;
    (void)arg;
    if (name_len == 5 && memcmp(name, ":path", 5) == 0)
        snprintf(s->path, sizeof(s->path), "%.*s", (int)value_len, value);
    snprintf(s->headers + used, sizeof(s->headers) - used, "%.*s: %.*s\n", (int)name_len, name,
             (int)value_len, value);
    return 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
                   void *arg) {
    stream *s = nghttp2_session_get_stream_user_data(h2, id);

    (void)flags;
    (void)arg;
    s->body = grown(s->body, &s->cap, s->len + len);
    memcpy(s->body + s->len, data, len);
    s->len += len;
    return 0;
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *arg) {
    conn *c = arg;
    t_h2 *server = c->server;
    stream *s = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);

    if (frame->hd.type == NGHTTP2_RST_STREAM) {
        atomic_store(&server->last_reset, (int)frame->rst_stream.error_code);
        atomic_fetch_add(&server->resets, 1);
    }
    if (frame->hd.type == NGHTTP2_GOAWAY)
        atomic_fetch_add(&server->goaways, 1);
    if (frame->hd.type == NGHTTP2_PING && !(frame->hd.flags & NGHTTP2_FLAG_ACK))
        atomic_fetch_add(&server->pings, 1);
    if (s != NULL && (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
        t_h2_request r = {
            server, (int)(c - server->conns), frame->hd.stream_id, s->path, s->headers, s->body,
            s->len};
        atomic_fetch_add(&server->requests, 1);
        if (server->options.handler != NULL)
            server->options.handler(&r, server->options.arg);
        else
            t_h2_echo(&r, NULL);
    }
    return 0;
}

static void free_stream(stream **at) {
    stream *s = *at;

    *at = s->next;
    free(s->body);
    free(s->reply);
    free(s);
}

static int on_close(nghttp2_session *h2, int32_t id, uint32_t error, void *arg) {
    stream *s = nghttp2_session_get_stream_user_data(h2, id);
    stream **at = &((conn *)arg)->streams;

    (void)error;
    while (*at != NULL && *at != s)
        at = &(*at)->next;
    if (*at != NULL)
        free_stream(at);
    return 0;
}

/* ---- connections ---- */

static void open_session(conn *c) {
    const t_h2_options *o = &c->server->options;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    nghttp2_settings_entry settings[2];
    size_t n = 0;

    if (o->max_streams != 0)
        settings[n++] =
            (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, o->max_streams};
    if (o->window != 0)
        settings[n++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, o->window};
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_option_new(&option);
    nghttp2_option_set_no_auto_ping_ack(option, o->deaf);
    nghttp2_session_server_new2(&c->h2, callbacks, c, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(c->h2, 0, settings, n);
}

static void close_conn(conn *c) {
    if (c->fd < 0)
        return;
    close(c->fd);
    c->fd = -1;
    atomic_fetch_add(&c->server->closed, 1);
    nghttp2_session_del(c->h2);
    c->h2 = NULL;
    while (c->streams != NULL)
        free_stream(&c->streams);
    free(c->out);
    c->out = NULL;
    c->out_len = c->out_cap = 0;
}

static void accept_one(t_h2 *server) {
    int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    conn *c = &server->conns[atomic_load(&server->accepted) % CONNS];

    if (fd < 0)
        return;
    while (c->fd >= 0) /* an old one that is still there */
        c = &server->conns[(c - server->conns + 1) % CONNS];
    memset(c, 0, sizeof(*c));
    c->server = server;
    c->fd = fd;
    if (server->options.raw != NULL)
        put(c, server->options.raw, strlen(server->options.raw));
    else
        open_session(c);
    atomic_fetch_add(&server->accepted, 1);
}

static int is_frozen(const conn *c) {
    return c->server->options.frozen && atomic_load(&c->server->begun) > 0;
}

static void read_some(conn *c) {
    unsigned char buf[65536];
    ssize_t n = recv(c->fd, buf, sizeof(buf), 0);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || (c->h2 != NULL && nghttp2_session_mem_recv(c->h2, buf, (size_t)n) < 0))
        close_conn(c);
}

static void write_some(conn *c) {
    size_t max = c->server->options.pieces;
    ssize_t n;

    if (c->h2 != NULL)
        drain_h2(c);
    while (c->out_len > 0) {
        n = send(c->fd, c->out, max != 0 && max < c->out_len ? max : c->out_len, MSG_NOSIGNAL);
        if (n < 0)
            break;
        memmove(c->out, c->out + n, c->out_len - (size_t)n);
        c->out_len -= (size_t)n;
    }
    if (c->is_ending == 2 || (c->is_ending == 1 && c->out_len == 0))
        close_conn(c);
}

static void *thread_main(void *arg) {
    t_h2 *server = arg;
    struct pollfd fds[CONNS + 2];
    conn *conns[CONNS];

    while (!atomic_load(&server->stop)) {
        int n = 2;
        int i;

        fds[0] = (struct pollfd){server->wake[0], POLLIN, 0};
        fds[1] = (struct pollfd){server->listener, POLLIN, 0};
        for (i = 0; i < CONNS; i++) {
            conn *c = &server->conns[i];
            if (c->fd < 0)
                continue;
            conns[n - 2] = c;
            fds[n++] = (struct pollfd){
                c->fd, (short)((is_frozen(c) ? 0 : POLLIN) | (c->out_len > 0 ? POLLOUT : 0)), 0};
        }
        if (poll(fds, (nfds_t)n, -1) < 0)
            continue;
        if (fds[1].revents)
            accept_one(server);
        for (i = 2; i < n; i++) {
            conn *c = conns[i - 2];
            if (c->fd == fds[i].fd && (fds[i].revents & (POLLIN | POLLHUP | POLLERR)))
                read_some(c);
        }
        for (i = 0; i < CONNS; i++)
            if (server->conns[i].fd >= 0)
                write_some(&server->conns[i]);
    }
    return NULL;
}

t_h2 *t_h2_start(const t_h2_options *options) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof(address);
    t_h2 *server = calloc(1, sizeof(*server));
    int i;

    if (options != NULL)
        server->options = *options;
    for (i = 0; i < CONNS; i++)
        server->conns[i].fd = -1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (pipe(server->wake) != 0 ||
        bind(server->listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(server->listener, 64) != 0 ||
        getsockname(server->listener, (struct sockaddr *)&address, &size) != 0)
        abort();
    server->port = ntohs(address.sin_port);
    if (pthread_create(&server->thread, NULL, thread_main, server) != 0)
        abort();
    return server;
}

int t_h2_port(const t_h2 *server) {
    return server->port;
}

#define COUNTER(name)                                                                              \
    int t_h2_##name(const t_h2 *server) {                                                          \
        return atomic_load(&server->name);                                                         \
    }

COUNTER(accepted)
COUNTER(requests)
COUNTER(begun)
COUNTER(resets)
COUNTER(last_reset)
COUNTER(pings)
COUNTER(goaways)
COUNTER(closed)

void t_h2_stop(t_h2 *server) {
    int i;

    atomic_store(&server->stop, 1);
    if (write(server->wake[1], "x", 1) != 1)
        abort();
    pthread_join(server->thread, NULL);
    for (i = 0; i < CONNS; i++)
        close_conn(&server->conns[i]);
    close(server->listener);
    close(server->wake[0]);
    close(server->wake[1]);
    free(server);
}
