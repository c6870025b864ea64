/* stream.h - a byte stream to a server: TCP (every address of the name is tried) or a unix socket,
 * with TLS on it where the target says so.
 *
 * io thread only. One stream is one connection: it is made by arn__stream_open(), reports to its
 * events, and is gone after arn__stream_close(). But for on_sent, events are never called from
 * within open, append, flush or close. Writing gathers: appended bytes go out at the next flush, in
 * order, small ones copied into one buffer, large ones referenced.
 */
#ifndef ARN_IO_STREAM_H
#define ARN_IO_STREAM_H

#include "io/runtime.h"
#include "io/tls.h"

#include <stddef.h>

typedef struct arn_stream arn_stream;

typedef struct arn_stream_target {
    const char *host; /* NULL: path is used */
    int port;
    const char *path;
    int keepalive;
    int keepalive_idle; /* seconds; 0: the system's default. The same for the two below */
    int keepalive_interval;
    int keepalive_count;
    arn_tls *tls; /* NULL: as it is */
} arn_stream_target;

typedef struct arn_stream_events {
    /* Connected; with TLS, the handshake is over. */
    void (*on_open)(void *owner);
    /* Where to read next, or NULL for a buffer of the runtime's. May be NULL itself. */
    char *(*get_space)(void *owner, size_t *len);
    /* Bytes have come; they are the stream's again afterwards. May close the stream. */
    void (*on_data)(void *owner, const char *data, size_t len);
    /* n more bytes are with the kernel. The one event that flush may call; it only counts: no
     * stream is written or closed from it. */
    void (*on_sent)(void *owner, size_t n);
    /* Could not connect (uv_error, or < -3000 of a name look-up) or broke, or ended (UV_EOF); TLS
     * has failed (UV_EPROTO). The owner must close the stream. Called at most once. */
    void (*on_error)(void *owner, int uv_error);
} arn_stream_events;

/* Starts connecting. `target` and its strings must outlive the stream. NULL: out of memory. */
arn_stream *arn__stream_open(arn_runtime *rt, const arn_stream_target *target,
                             const arn_stream_events *events, void *owner);

/* Any thread. What a target is called where people read it: host:port, or the path. To be freed
 * with arn_free(); NULL: out of memory. */
char *arn__stream_label(const arn_stream_target *target);

/* Appends a copy. 0 or ARN_ENOMEM. */
int arn__stream_append(arn_stream *s, const char *data, size_t len);

/* Appends a reference: release(arg) is called when the bytes are no longer needed, at the latest
 * when the stream closes. On ARN_ENOMEM release is not called. */
int arn__stream_append_ref(arn_stream *s, const char *data, size_t len, void (*release)(void *),
                           void *arg);

/* What TLS says of the stream's error, or NULL: it is not TLS's. Valid until the stream closes. */
const char *arn__stream_why(const arn_stream *s);

/* Starts writing what was appended, if the stream is open and no write is under way. */
void arn__stream_flush(arn_stream *s);

/* Bytes that are being written: they can no longer be held back, and on_sent has yet to tell. */
size_t arn__stream_in_flight(const arn_stream *s);

/* 0 if the server has closed the open stream, which the loop may not have got round to yet. */
int arn__stream_is_alive(const arn_stream *s);

/* Any thread. What a socket holds: 1, bytes to read; 0, nothing yet; -1, its end or an error. */
int arn__socket_peek(int fd);

/* Writes nothing more than what is in flight. */
void arn__stream_mute(arn_stream *s);

/* A second descriptor of the open stream's socket (non-blocking, close on exec), or -errno. */
int arn__stream_dup(const arn_stream *s);

/* No events any more; releases what is not written; frees the stream when libuv is done with it. */
void arn__stream_close(arn_stream *s);

#endif /* ARN_IO_STREAM_H */
