/* multi.c - libcurl's multi interface on the io thread's loop.
 *
 * libcurl says which sockets it wants watched and when it wants to be called; the loop does both.
 * Connections that libcurl keeps between transfers are taken off its watch and put back on with the
 * next transfer: here they stay watched, because that would be five system calls a transfer, until
 * something comes while nobody is interested. Other sockets (attempts to connect, the resolver's)
 * libcurl may close by itself as soon as it has taken them off its watch, so here they are
 * forgotten at once: libuv aborts the process over a watched descriptor that has been closed.
 */
#include "base/alloc.h"
#include "base/status.h"
#include "http/internal.h"
#include "io/timer.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct arn_http_socket {
    uv_poll_t poll;
    arn_http_client *client;
    curl_socket_t fd;
    int watched; /* UV_* events the loop looks for */
    int wanted;  /* those libcurl wants */
    int is_kept; /* a connection: the end of such a socket comes through close_socket() */
} arn_http_socket;

static void check_done(arn_http_client *client) {
    CURLMsg *msg;
    int left;

    while (!client->is_closed && (msg = curl_multi_info_read(client->multi, &left)) != NULL) {
        arn_http_op *op = NULL;
        CURLcode code = msg->data.result;

        if (msg->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &op);
        arn__http_transfer_done(op, code);
    }
}

static void act(arn_http_client *client, curl_socket_t fd, int flags) {
    int running;

    arn_http_client_ref(client);
    if (!client->is_closed)
        curl_multi_socket_action(client->multi, fd, flags, &running);
    check_done(client);
    if (client->has_failed && !client->is_closed) {
        client->has_failed = 0;
        arn__http_client_end_active(client, ARN_HTTP_MEMORY, NULL);
    }
    arn_http_client_unref(client);
}

static void on_socket(uv_poll_t *poll, int status, int events);

static arn_http_socket *find_socket(arn_http_client *client, curl_socket_t fd) {
    return fd >= 0 && (size_t)fd < client->sockets_cap ? client->sockets[fd] : NULL;
}

static int watch(arn_http_socket *s) {
    if (s->watched == s->wanted || s->wanted == 0)
        return 0;
    if (uv_poll_start(&s->poll, s->wanted, on_socket) != 0)
        return -1;
    s->watched = s->wanted;
    return 0;
}

static void on_socket(uv_poll_t *poll, int status, int events) {
    arn_http_socket *s = poll->data;
    arn_http_client *client = s->client;
    curl_socket_t fd = s->fd;
    int flags = 0;

    if (s->wanted == 0) {
        /* An idle connection. When libcurl wants to use it, it looks whether it is at its end; but
         * it takes an error for life, so that is read away here, which leaves the end. */
        char byte;
        while (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EINTR)
            continue;
        uv_poll_stop(poll);
        s->watched = 0;
        return;
    }
    if (status < 0) {
        s->watched = 0; /* libuv has stopped; libcurl sees the error when it reads or writes */
        events = s->wanted;
    }
    if (events & s->wanted & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & s->wanted & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    arn_http_client_ref(client);
    act(client, fd, flags);
    if (find_socket(client, fd) == s)
        watch(s);
    arn_http_client_unref(client);
}

static void on_poll_closed(uv_handle_t *handle) {
    arn_http_socket *s = handle->data;

    arn_http_client_unref(s->client);
    arn_free(s);
}

static void forget_socket(arn_http_socket *s) {
    s->client->sockets[s->fd] = NULL;
    arn__runtime_untrack_fd(s->fd);
    uv_poll_stop(&s->poll);
    uv_close((uv_handle_t *)&s->poll, on_poll_closed);
}

static int has_place(arn_http_client *client, size_t fd) {
    size_t cap = client->sockets_cap > 0 ? client->sockets_cap : 32;
    arn_http_socket **sockets;
    char *kept;

    if (fd < client->sockets_cap)
        return 1;
    while (cap <= fd)
        cap *= 2;
    sockets = arn_realloc(client->sockets, cap * sizeof(*sockets));
    if (sockets == NULL)
        return 0;
    memset(sockets + client->sockets_cap, 0, (cap - client->sockets_cap) * sizeof(*sockets));
    client->sockets = sockets;
    kept = arn_realloc(client->kept, cap);
    if (kept == NULL)
        return 0;
    memset(kept + client->sockets_cap, 0, cap - client->sockets_cap);
    client->kept = kept;
    client->sockets_cap = cap;
    return 1;
}

static arn_http_socket *new_socket(arn_http_client *client, curl_socket_t fd) {
    arn_http_socket *s = has_place(client, (size_t)fd) ? arn_calloc(1, sizeof(*s)) : NULL;

    if (s == NULL)
        return NULL;
    if (uv_poll_init_socket(arn__runtime_loop(client->rt), &s->poll, fd) != 0) {
        arn_free(s);
        return NULL;
    }
    s->poll.data = s;
    s->client = client;
    s->fd = fd;
    s->is_kept = client->kept[fd];
    arn_http_client_ref(client);
    client->sockets[fd] = s;
    arn__runtime_track_fd(fd);
    return s;
}

/* libcurl would give up all its work for good if it were told. Instead every transfer that is under
 * way ends as soon as this is possible. */
static void watch_failed(arn_http_client *client) {
    client->has_failed = 1;
    arn__http_multi_kick(client);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *of_socket) {
    arn_http_client *client = arg;
    arn_http_socket *s = of_socket;
    int wanted = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        s = find_socket(client, fd);
        if (s != NULL && s->is_kept)
            s->wanted = 0;
        else if (s != NULL)
            forget_socket(s);
        return 0;
    }
    if (s == NULL) {
        s = find_socket(client, fd);
        if (s == NULL)
            s = new_socket(client, fd);
        if (s == NULL) {
            watch_failed(client);
            return 0;
        }
        curl_multi_assign(client->multi, fd, s);
    }
    s->wanted = wanted;
    if (watch(s) < 0)
        watch_failed(client);
    return 0;
}

void arn__http_multi_keep(arn_http_client *client, CURL *easy) {
    curl_socket_t fd = CURL_SOCKET_BAD;
    arn_http_socket *s;

    curl_easy_getinfo(easy, CURLINFO_ACTIVESOCKET, &fd);
    if (fd < 0 || (size_t)fd >= client->sockets_cap)
        return;
    client->kept[fd] = 1;
    s = client->sockets[fd];
    if (s != NULL) {
        s->is_kept = 1;
        return;
    }
    /* Its first transfer, and libcurl has taken it off its watch already. */
    s = new_socket(client, fd);
    if (s == NULL)
        return;
    s->wanted = UV_READABLE;
    watch(s);
    s->wanted = 0;
}

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address) {
    (void)arg, (void)purpose;
#ifdef SOCK_CLOEXEC
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
#else
    return socket(address->family, address->socktype, address->protocol);
#endif
}

static int close_socket(void *arg, curl_socket_t fd) {
    arn_http_client *client = arg;
    arn_http_socket *s = find_socket(client, fd);

    if (fd >= 0 && (size_t)fd < client->sockets_cap)
        client->kept[fd] = 0;
    if (s != NULL)
        forget_socket(s); /* first: the number may be somebody else's at once */
    return close(fd);
}

void arn__http_multi_set_easy(arn_http_client *client, CURL *easy) {
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, client);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, client);
}

static void run_kick(arn_deferred *d) {
    arn_http_client *client = ARN_CONTAINER_OF(d, arn_http_client, kick);

    act(client, CURL_SOCKET_TIMEOUT, 0);
    arn_http_client_unref(client);
}

void arn__http_multi_kick(arn_http_client *client) {
    if (client->kick.queued)
        return;
    client->kick.fn = run_kick;
    arn_http_client_ref(client);
    arn__runtime_defer(client->rt, &client->kick);
}

static void on_curl_timer(uv_timer_t *timer) {
    act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static int set_timer(CURLM *multi, long ms, void *arg) {
    arn_http_client *client = arg;

    (void)multi;
    if (ms < 0)
        uv_timer_stop(client->curl_timer);
    else if (ms == 0)
        arn__http_multi_kick(client); /* for all that are added in this turn at once */
    else
        uv_timer_start(client->curl_timer, on_curl_timer, (uint64_t)ms, 0);
    return 0;
}

int arn__http_multi_open(arn_http_client *client) {
    CURLM *multi = curl_multi_init();

    if (multi == NULL)
        return ARN_ENOMEM;
    client->curl_timer = arn__timer_new(client->rt, client);
    client->timer = arn__timer_new(client->rt, client);
    if (client->curl_timer == NULL || client->timer == NULL) {
        arn__timer_free(client->curl_timer);
        arn__timer_free(client->timer);
        client->curl_timer = client->timer = NULL;
        curl_multi_cleanup(multi);
        return ARN_ENOMEM;
    }
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, client);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, client);
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)client->config.max_keepalive);
    curl_multi_setopt(multi, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
    client->multi = multi;
    return 0;
}

void arn__http_multi_close(arn_http_client *client) {
    CURLM *multi = client->multi;
    size_t fd;

    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, NULL);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, NULL);
    curl_multi_cleanup(multi); /* closes the kept connections through close_socket() */
    for (fd = 0; fd < client->sockets_cap; fd++)
        if (client->sockets[fd] != NULL)
            forget_socket(client->sockets[fd]);
    arn_free(client->sockets);
    arn_free(client->kept);
    client->sockets = NULL;
    client->kept = NULL;
    client->sockets_cap = 0;
    arn__timer_free(client->curl_timer);
    arn__timer_free(client->timer);
    client->curl_timer = client->timer = NULL;
}
