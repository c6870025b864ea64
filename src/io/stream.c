#include "io/stream.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/status.h"
#include "io/lookup.h"
#include "io/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/* One write call hands the kernel this much at most, so that a 64 MB value on one connection does
 * not hold up the others for longer than some 50 microseconds at a time. */
#define WRITE_SLICE (256u * 1024u)
#define IOVECS_MAX 16
/* And so much is read from one connection before the others have their turn. */
#define READ_SLICE (256u * 1024u)
/* What is decrypted at a time: a record of TLS. */
#define TLS_RECORD 16384u
/* A buffer that has grown past this is given back after it was written. */
#define KEEP_BUFFER (256u * 1024u)
/* Until the next attempt at a unix socket whose queue of connections is full. A blocking connect()
 * would wait there. */
#define FULL_QUEUE_MS 5

/* A piece of the outgoing bytes: in the batch's buffer (ext NULL) or elsewhere. */
typedef struct segment {
    size_t offset;
    size_t len;
    const char *ext;
    void (*release)(void *);
    void *arg;
} segment;

typedef struct batch {
    arn_buf bytes;
    segment *segments;
    unsigned count;
    unsigned cap;
    unsigned first; /* segments before it are written */
} batch;

struct arn_stream {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } u;
    arn_runtime *rt;
    const arn_stream_target *target;
    const arn_stream_events *events; /* NULL once closed */
    void *owner;
    uv_connect_t connect_req;
    uv_write_t write_req;
    uv_timer_t later; /* what must not happen within a call, or not yet */
    arn_lookup_waiter lookup;
    arn_tls_conn *tls;
    const struct addrinfo *next_address;
    arn_deferred resume; /* reading, in the next turn */
    int connect_error;   /* of the last address tried */
    int broken;          /* a write failed: the error that `later` reports */
    int tracked_fd;
    unsigned open : 1;
    unsigned writing : 1;
    unsigned has_handle : 1;
    unsigned reported : 1;
    unsigned muted : 1;
    unsigned secured : 1;     /* the TLS handshake is over */
    unsigned closing_handles; /* close callbacks still to come, and one until the owner closes */
    size_t read;              /* in this turn, or a few */
    size_t sent;              /* not yet reported */
    size_t encrypted;         /* plain bytes in `flying`; reported when all of it is written */
    batch filling;
    batch flying;
};

static void try_next_address(arn_stream *s);
static void start_pipe(arn_stream *s);

/* ---- batches ---- */

static segment *batch_add(batch *b) {
    if (b->count == b->cap) {
        unsigned cap = b->cap > 0 ? b->cap * 2 : 8;
        segment *segments = arn_realloc(b->segments, cap * sizeof(*segments));
        if (segments == NULL)
            return NULL;
        b->segments = segments;
        b->cap = cap;
    }
    return &b->segments[b->count++];
}

static void segment_done(segment *seg) {
    if (seg->release != NULL)
        seg->release(seg->arg);
    seg->release = NULL;
}

static void batch_reset(batch *b) {
    for (; b->first < b->count; b->first++)
        segment_done(&b->segments[b->first]);
    b->first = b->count = 0;
    arn_buf_reset(&b->bytes, KEEP_BUFFER);
}

static void batch_free(batch *b) {
    batch_reset(b);
    arn_buf_free(&b->bytes);
    arn_free(b->segments);
    memset(b, 0, sizeof(*b));
}

static unsigned batch_iovecs(const batch *b, uv_buf_t *iov) {
    size_t room = WRITE_SLICE;
    unsigned n = 0;
    unsigned i;

    for (i = b->first; i < b->count && n < IOVECS_MAX && room > 0; i++) {
        const segment *seg = &b->segments[i];
        const char *base = seg->ext != NULL ? seg->ext : b->bytes.data;
        size_t len = seg->len < room ? seg->len : room;
        iov[n++] = uv_buf_init((char *)base + seg->offset, (unsigned)len);
        room -= len;
    }
    return n;
}

static void batch_advance(batch *b, size_t n) {
    while (b->first < b->count) {
        segment *seg = &b->segments[b->first];
        if (n < seg->len) {
            seg->offset += n;
            seg->len -= n;
            return;
        }
        n -= seg->len;
        segment_done(seg);
        b->first++;
    }
}

int arn__stream_append(arn_stream *s, const char *data, size_t len) {
    batch *b = &s->filling;
    segment *last = b->count > b->first ? &b->segments[b->count - 1] : NULL;
    size_t offset = b->bytes.len;

    if (len == 0)
        return ARN_OK;
    if (arn_buf_append(&b->bytes, data, len) != 0)
        return ARN_ENOMEM;
    if (last != NULL && last->ext == NULL && last->offset + last->len == offset) {
        last->len += len;
        return ARN_OK;
    }
    last = batch_add(b);
    if (last == NULL) {
        b->bytes.len = offset;
        return ARN_ENOMEM;
    }
    *last = (segment){offset, len, NULL, NULL, NULL};
    return ARN_OK;
}

int arn__stream_append_ref(arn_stream *s, const char *data, size_t len, void (*release)(void *),
                           void *arg) {
    segment *seg = batch_add(&s->filling);

    if (seg == NULL)
        return ARN_ENOMEM;
    *seg = (segment){0, len, data, release, arg};
    return ARN_OK;
}

/* ---- closing ---- */

static void unhold(arn_stream *s) {
    if (--s->closing_handles > 0)
        return;
    batch_free(&s->filling);
    batch_free(&s->flying);
    arn__tls_conn_free(s->tls);
    arn_free(s);
}

static void on_handle_closed(uv_handle_t *handle) {
    unhold(handle->data);
}

static void close_handle(arn_stream *s, uv_close_cb on_closed) {
    if (!s->has_handle)
        return;
    s->has_handle = 0;
    s->open = 0;
    arn__runtime_untrack_fd(s->tracked_fd);
    s->tracked_fd = -1;
    uv_close(&s->u.handle, on_closed);
}

int arn__stream_dup(const arn_stream *s) {
    uv_os_fd_t fd;
    int copy;
    int r = uv_fileno(&s->u.handle, &fd);

    if (r < 0)
        return r;
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return copy < 0 ? -errno : copy;
}

void arn__stream_close(arn_stream *s) {
    if (s->events == NULL)
        return;
    s->events = NULL;
    close_handle(s, on_handle_closed);
    uv_close((uv_handle_t *)&s->later, on_handle_closed);
    arn__lookup_release(&s->lookup);
    /* What was being written stays referenced until libuv's close callback has run. */
    batch_reset(&s->filling);
    unhold(s);
}

/* ---- errors ---- */

static void report(arn_stream *s, int error) {
    if (s->events == NULL || s->reported)
        return;
    s->reported = 1;
    s->events->on_error(s->owner, error);
}

static void on_broken(uv_timer_t *timer) {
    arn_stream *s = timer->data;

    report(s, s->broken);
}

static void report_later(arn_stream *s, int error) {
    s->broken = error;
    uv_timer_start(&s->later, on_broken, 0, 0);
}

/* ---- reading ---- */

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    arn_stream *s = handle->data;
    size_t size;

    (void)suggested;
    buf->base = NULL;
    if (s->events != NULL && s->events->get_space != NULL && s->tls == NULL)
        buf->base = s->events->get_space(s->owner, &size);
    if (buf->base == NULL)
        buf->base = arn__runtime_scratch(s->rt, &size);
    buf->len = size < READ_SLICE ? size : READ_SLICE;
}

static void on_resume(arn_deferred *d) {
    arn_stream *s = ARN_CONTAINER_OF(d, arn_stream, resume);

    s->read = 0;
    if (s->events != NULL && s->open && !s->reported)
        uv_read_start(&s->u.stream, on_alloc, on_read);
}

/* libuv reads on as long as there is something, up to 32 buffers: stop it, until the others have
 * had their turn. Deferred calls run before libuv's close callbacks, so the stream is still there.
 */
static void count_read(arn_stream *s, size_t n) {
    s->read += n;
    if (s->read < READ_SLICE || !s->open)
        return;
    uv_read_stop(&s->u.stream);
    arn__runtime_defer(s->rt, &s->resume);
}

static void report_tls(arn_stream *s) {
    arn__stream_flush(s); /* the alert that tells the server */
    report(s, UV_EPROTO);
}

/* Goes on with the handshake; 1 when it is over and the owner, who knows, has not closed. */
static int secure(arn_stream *s) {
    int r = arn__tls_handshake(s->tls);

    if (r < 0) {
        report_tls(s);
        return 0;
    }
    s->secured = r == 1;
    arn__stream_flush(s);
    if (!s->secured || s->reported)
        return 0;
    s->events->on_open(s->owner);
    return s->events != NULL;
}

static void decrypt(arn_stream *s, const char *data, size_t len) {
    char record[TLS_RECORD];
    ptrdiff_t n;

    arn__tls_feed(s->tls, data, len);
    if (!s->secured && !secure(s))
        return;
    do {
        size_t size;
        char *to = s->events->get_space != NULL ? s->events->get_space(s->owner, &size) : NULL;
        if (to == NULL) {
            to = record;
            size = sizeof(record);
        }
        n = arn__tls_read(s->tls, to, size);
        if (n > 0)
            s->events->on_data(s->owner, to, (size_t)n);
    } while (n > 0 && s->events != NULL);
    if (s->events == NULL)
        return;
    if (n == -2)
        report_tls(s);
    else if (n == -1)
        report(s, UV_EOF);
    else
        arn__stream_flush(s); /* what TLS itself has to say */
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    arn_stream *s = stream->data;

    if (s->events == NULL || n == 0)
        return;
    if (n < 0) {
        report(s, (int)n);
        return;
    }
    count_read(s, (size_t)n);
    if (s->tls != NULL)
        decrypt(s, buf->base, (size_t)n);
    else
        s->events->on_data(s->owner, buf->base, (size_t)n);
}

/* ---- writing ---- */

/* So many bytes of `flying` are with the kernel. Encrypted ones have no counterpart each among the
 * owner's: those are reported when all of the batch is written. */
static void advance(arn_stream *s, size_t n) {
    batch_advance(&s->flying, n);
    if (s->tls != NULL) {
        n = s->flying.first == s->flying.count ? s->encrypted : 0;
        s->encrypted -= n;
    }
    if (n > 0)
        s->events->on_sent(s->owner, n);
}

/* Plain bytes of `filling`, a slice at most, into TLS, as far as it takes them: reading on flushes
 * again. 0, or -1: TLS has failed. */
static int encrypt(arn_stream *s) {
    batch *b = &s->filling;

    while (b->first < b->count && s->encrypted < WRITE_SLICE) {
        const segment *seg = &b->segments[b->first];
        const char *base = seg->ext != NULL ? seg->ext : b->bytes.data;
        size_t room = WRITE_SLICE - s->encrypted;
        size_t n = seg->len < room ? seg->len : room;
        int r = arn__tls_write(s->tls, base + seg->offset, n);

        if (r != 0)
            return r < 0 ? -1 : 0;
        s->encrypted += n;
        batch_advance(b, n);
    }
    if (b->first == b->count)
        batch_reset(b);
    return 0;
}

/* Makes what is to be written next the empty `flying`. 0, or a uv error. */
static int refill(arn_stream *s) {
    batch empty;

    batch_reset(&s->flying);
    if (s->tls != NULL) {
        arn_buf *out = arn__tls_out(s->tls);
        arn_buf bytes = s->flying.bytes;
        segment *seg;

        if (s->secured && encrypt(s) != 0)
            return UV_EPROTO;
        if (out->len == 0)
            return 0;
        seg = batch_add(&s->flying);
        if (seg == NULL)
            return UV_ENOMEM;
        *seg = (segment){0, out->len, NULL, NULL, NULL};
        s->flying.bytes = *out;
        *out = bytes;
    } else if (s->filling.count > 0) {
        empty = s->flying;
        s->flying = s->filling;
        s->filling = empty;
    }
    return 0;
}

static void on_written(uv_write_t *req, int status) {
    arn_stream *s = req->data;
    size_t n = s->sent;

    s->writing = 0;
    if (s->events == NULL)
        return;
    if (status < 0) {
        report(s, status);
        return;
    }
    s->sent = 0;
    advance(s, n);
    if (s->events != NULL)
        arn__stream_flush(s);
}

/* Writes until the kernel takes no more or the slice is used up; the rest goes through libuv's
 * queue, one request at a time, so other streams have their turn in between. */
void arn__stream_flush(arn_stream *s) {
    uv_buf_t iov[IOVECS_MAX];
    unsigned count;
    unsigned i;
    int n;

    if (!s->open || s->writing || s->reported || s->muted || s->broken != 0)
        return;
    do {
        if (s->flying.first == s->flying.count) {
            n = refill(s);
            if (n < 0) {
                report_later(s, n);
                return;
            }
            if (s->flying.count == 0)
                return;
        }
        count = batch_iovecs(&s->flying, iov);
        n = uv_try_write(&s->u.stream, iov, count);
        if (n < 0 && n != UV_EAGAIN) {
            report_later(s, n);
            return;
        }
        if (n > 0)
            advance(s, (size_t)n);
    } while (s->flying.first == s->flying.count);
    if (n > 0)
        count = batch_iovecs(&s->flying, iov);

    s->sent = 0;
    for (i = 0; i < count; i++)
        s->sent += iov[i].len;
    s->write_req.data = s;
    n = uv_write(&s->write_req, &s->u.stream, iov, count, on_written);
    if (n < 0)
        report_later(s, n);
    else
        s->writing = 1;
}

size_t arn__stream_in_flight(const arn_stream *s) {
    if (s->tls != NULL)
        return s->encrypted;
    return s->writing ? s->sent : 0;
}

const char *arn__stream_why(const arn_stream *s) {
    return s->tls != NULL && arn__tls_why(s->tls)[0] != '\0' ? arn__tls_why(s->tls) : NULL;
}

int arn__socket_peek(int fd) {
    ssize_t n;
    char byte;

    do
        n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        return 1;
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : -1;
}

int arn__stream_is_alive(const arn_stream *s) {
    uv_os_fd_t fd;

    return uv_fileno(&s->u.handle, &fd) == 0 && arn__socket_peek(fd) >= 0;
}

void arn__stream_mute(arn_stream *s) {
    s->muted = 1;
}

/* ---- connecting ---- */

/* The handle has a socket from now on: a child forked meanwhile must not keep it. */
static void track(arn_stream *s) {
    uv_os_fd_t fd;

    if (uv_fileno(&s->u.handle, &fd) != 0)
        return;
    s->tracked_fd = fd;
    arn__runtime_track_fd(fd);
}

static void configure_socket(arn_stream *s) {
    const arn_stream_target *t = s->target;
    int fd = s->tracked_fd;

    if (fd < 0 || t->host == NULL)
        return;
    uv_tcp_nodelay(&s->u.tcp, 1);
    if (!t->keepalive)
        return;
    /* Not uv_tcp_keepalive(): it insists on an idle time and sets nothing else. Failures are left
     * to the kernel's defaults, as redis-py's users would see them only as a dead peer. */
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &t->keepalive, sizeof(t->keepalive));
#ifdef TCP_KEEPIDLE
    if (t->keepalive_idle > 0)
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &t->keepalive_idle, sizeof(int));
#endif
#ifdef TCP_KEEPINTVL
    if (t->keepalive_interval > 0)
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &t->keepalive_interval, sizeof(int));
#endif
#ifdef TCP_KEEPCNT
    if (t->keepalive_count > 0)
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &t->keepalive_count, sizeof(int));
#endif
}

static void on_retry_pipe(uv_timer_t *timer) {
    start_pipe(timer->data);
}

static void on_full_queue_closed(uv_handle_t *handle) {
    arn_stream *s = handle->data;

    if (s->events != NULL)
        uv_timer_start(&s->later, on_retry_pipe, FULL_QUEUE_MS, 0);
    unhold(s);
}

static void on_connected(uv_connect_t *req, int status) {
    arn_stream *s = req->data;

    /* A handle that was closed while connecting (its stream closed, or the next address being
     * tried) ends here with UV_ECANCELED. */
    if (s->events == NULL || status == UV_ECANCELED)
        return;
    if (status == UV_EAGAIN && s->target->host == NULL) {
        close_handle(s, on_full_queue_closed);
        return;
    }
    if (status < 0) {
        s->connect_error = status;
        try_next_address(s);
        return;
    }
    s->open = 1;
    configure_socket(s);
    status = uv_read_start(&s->u.stream, on_alloc, on_read);
    if (status < 0) {
        report(s, status);
        return;
    }
    if (s->target->tls == NULL) {
        s->events->on_open(s->owner);
        return;
    }
    s->tls = arn__tls_conn_new(s->target->tls, s->target->host);
    if (s->tls == NULL)
        report(s, UV_ENOMEM);
    else
        secure(s);
}

static void on_retry_handle_closed(uv_handle_t *handle) {
    arn_stream *s = handle->data;

    if (s->events != NULL)
        try_next_address(s);
    unhold(s);
}

static void try_next_address(arn_stream *s) {
    const struct addrinfo *address = s->next_address;
    int r;

    if (s->has_handle) {
        /* libuv has no second connect on one handle: a fresh one takes the next address. */
        if (address == NULL)
            report(s, s->connect_error);
        else
            close_handle(s, on_retry_handle_closed);
        return;
    }
    if (address == NULL) {
        report(s, s->connect_error);
        return;
    }
    s->next_address = address->ai_next;
    r = uv_tcp_init(arn__runtime_loop(s->rt), &s->u.tcp);
    if (r == 0) {
        s->u.handle.data = s;
        s->has_handle = 1;
        s->closing_handles++;
        s->connect_req.data = s;
        r = uv_tcp_connect(&s->connect_req, &s->u.tcp, address->ai_addr, on_connected);
        track(s);
    }
    if (r < 0) {
        s->connect_error = r;
        try_next_address(s);
    }
}

static void on_resolved(arn_lookup_waiter *waiter, int error, const struct addrinfo *addresses) {
    arn_stream *s = ARN_CONTAINER_OF(waiter, arn_stream, lookup);

    if (error != 0) {
        report(s, error);
        return;
    }
    s->next_address = addresses;
    try_next_address(s);
}

static void start_tcp(arn_stream *s) {
    int r = arn__lookup_start(s->rt, s->target->host, s->target->port, &s->lookup);

    if (r < 0)
        report_later(s, r);
}

static void start_pipe(arn_stream *s) {
    int r = UV_ENAMETOOLONG;

    /* libuv before 1.46 cuts a long path short without a word. */
    if (strlen(s->target->path) < sizeof(((struct sockaddr_un *)0)->sun_path))
        r = uv_pipe_init(arn__runtime_loop(s->rt), &s->u.pipe, 0);
    if (r < 0) {
        report_later(s, r);
        return;
    }
    s->u.handle.data = s;
    s->has_handle = 1;
    s->closing_handles++;
    s->connect_req.data = s;
    uv_pipe_connect(&s->connect_req, &s->u.pipe, s->target->path, on_connected);
    track(s);
}

char *arn__stream_label(const arn_stream_target *target) {
    size_t size = strlen(target->host != NULL ? target->host : target->path) + 16;
    char *label = arn_malloc(size);

    if (label != NULL && target->host != NULL)
        snprintf(label, size, "%s:%d", target->host, target->port);
    else if (label != NULL)
        snprintf(label, size, "%s", target->path);
    return label;
}

arn_stream *arn__stream_open(arn_runtime *rt, const arn_stream_target *target,
                             const arn_stream_events *events, void *owner) {
    arn_stream *s = arn_calloc(1, sizeof(*s));

    if (s == NULL)
        return NULL;
    s->rt = rt;
    s->target = target;
    s->events = events;
    s->owner = owner;
    s->tracked_fd = -1;
    s->resume.fn = on_resume;
    s->lookup.done = on_resolved;
    arn_queue_init(&s->lookup.node);
    uv_timer_init(arn__runtime_loop(rt), &s->later);
    s->later.data = s;
    s->closing_handles = 2; /* the timer, and the owner until it closes */
    if (target->host != NULL)
        start_tcp(s);
    else
        start_pipe(s);
    return s;
}
