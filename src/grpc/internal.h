/* internal.h - what the files of this room share. io thread, unless said otherwise.
 *
 *   channel.c   the queue of calls, deadlines, connecting
 *   conn.c      one connection: a session on a stream, keepalive
 *   session.c   HTTP/2 and gRPC between bytes and calls; knows neither sockets nor time
 *   call.c      one call: its headers, its message, its reply
 *   codes.c     what the numbers of gRPC, HTTP and HTTP/2 mean to each other
 */
#ifndef ARN_GRPC_INTERNAL_H
#define ARN_GRPC_INTERNAL_H

#include "base/spares.h"
#include "grpc/grpc.h"
#include "io/stream.h"

#include <nghttp2/nghttp2.h>

#define ARN_GRPC_PREFIX 5u

typedef struct arn_grpc_conn arn_grpc_conn;

struct arn_grpc_head {
    _Atomic uint32_t refs;
    size_t count;
    nghttp2_nv nv[]; /* then the strings */
};

/* ---- call.c ---- */

typedef enum arn_grpc_verdict {
    ARN_GRPC_GOES_ON,
    ARN_GRPC_ENDED /* reply.code and details say how; the rest of the reply is of no use */
} arn_grpc_verdict;

/* Ends the call with a reason of this side's. `details` is static or in the op's arena. */
void arn__grpc_call_fail(arn_grpc_op *op, int code, const char *details);

/* Before each attempt; ms_left: until its deadline, 0: it has none. */
void arn__grpc_call_begin(arn_grpc_op *op, uint64_t ms_left);

/* The request's headers: how many at most, and they themselves; how many they are. What they refer
 * to is the op's. */
size_t arn__grpc_call_nv_max(const arn_grpc_op *op);
size_t arn__grpc_call_nv(const arn_grpc_op *op, nghttp2_nv *nv);

/* Bytes of prefix and message behind op->sent, and the next piece of them, which is either all of
 * the message's rest or, made in `prefix`, the prefix's. */
size_t arn__grpc_call_left(const arn_grpc_op *op);
arn_slice arn__grpc_call_next(arn_grpc_op *op, char prefix[ARN_GRPC_PREFIX]);

/* One header of the reply; is_last: of the block that ends the stream. */
arn_grpc_verdict arn__grpc_call_header(arn_grpc_op *op, const char *name, size_t name_len,
                                       const char *value, size_t value_len, int is_last);
arn_grpc_verdict arn__grpc_call_data(arn_grpc_op *op, const char *data, size_t len);

/* The server has ended the stream as it should, or (an error of HTTP/2) has not. */
void arn__grpc_call_complete(arn_grpc_op *op);
void arn__grpc_call_reset(arn_grpc_op *op, uint32_t error);

/* Finishes the op with reply.code and details, and drops the io thread's reference; rt NULL: there
 * is no io thread any more. */
void arn__grpc_call_finish(arn_runtime *rt, arn_grpc_op *op);

/* ---- codes.c ---- */

int arn__grpc_code_of_http(int status);
int arn__grpc_code_of_h2(uint32_t error);

/* ---- session.c ---- */

typedef struct arn_grpc_session_events {
    /* 0 or ARN_ENOMEM. The second one keeps a reference, see arn__stream_append_ref(). */
    int (*write)(void *owner, const char *data, size_t len);
    int (*write_ref)(void *owner, const char *data, size_t len, void (*release)(void *), void *arg);
    /* The call is no longer the session's and has ended, see reply.code. */
    void (*on_end)(void *owner, arn_grpc_op *op);
    /* The call is no longer the session's; the server has not processed it. */
    void (*on_refused)(void *owner, arn_grpc_op *op);
    /* The server's settings have come; it may say so again. */
    void (*on_settings)(void *owner);
    /* No more calls on this connection. */
    void (*on_goaway)(void *owner, uint32_t error);
    void (*on_pong)(void *owner);
} arn_grpc_session_events;

typedef struct arn_grpc_session {
    nghttp2_session *h2;
    const arn_grpc_session_events *events;
    void *owner;
    arn_queue calls; /* each with the io thread's reference on it */
    unsigned count;
    uint64_t appended; /* bytes given to write */
    uint64_t written;  /* of these, bytes that are with the kernel; the owner counts them */
    int has_settings;
    int is_draining; /* takes no more calls */
    int is_held;     /* flush has stopped because too much waits to be written */
    int has_failed;  /* ARN_E*: write() has */
    char error[200]; /* what the peer has done wrong, or says that we have */
} arn_grpc_session;

/* 0 or ARN_ENOMEM. The preface and our settings are the first bytes that go out. */
int arn__grpc_session_open(arn_grpc_session *s, const arn_grpc_session_events *events, void *owner);

/* The calls must be gone. */
void arn__grpc_session_close(arn_grpc_session *s);

/* Whether another call may be started. */
int arn__grpc_session_has_room(const arn_grpc_session *s);

/* Whether that is the server's limit of streams. */
int arn__grpc_session_is_full(const arn_grpc_session *s);

/* Starts the call, which is the session's from now on. On an error it is not: ARN_ENOMEM, or
 * ARN_EBUSY, the connection takes no more. */
int arn__grpc_session_start(arn_grpc_session *s, arn_grpc_op *op);

/* Takes the call back; the server is told that nobody wants its reply. */
void arn__grpc_session_cancel(arn_grpc_session *s, arn_grpc_op *op);

/* Takes back any call, of a connection that is lost; NULL: there is none. */
arn_grpc_op *arn__grpc_session_pop(arn_grpc_session *s);

/* Takes no more calls, which the server is told. */
void arn__grpc_session_retire(arn_grpc_session *s);

int arn__grpc_session_ping(arn_grpc_session *s); /* 0 or ARN_ENOMEM */

/* Bytes from the server. 0 or ARN_E*: then the connection is to be closed. */
int arn__grpc_session_feed(arn_grpc_session *s, const char *data, size_t len);

/* Hands out what is to be sent, as long as not too much waits. 0 or ARN_E*, as above. */
int arn__grpc_session_flush(arn_grpc_session *s);

/* Neither side has anything to say any more. */
int arn__grpc_session_is_over(const arn_grpc_session *s);

/* ---- conn.c ---- */

struct arn_grpc_conn {
    arn_queue node; /* channel->conns */
    arn_grpc_channel *channel;
    arn_grpc_session session;
    arn_stream *stream;
    int is_ready;        /* the server's settings have come */
    uint64_t connect_by; /* loop time; 0: no limit */
    uint64_t last_read;  /* loop time */
    uint64_t ping_by;    /* loop time: the answer to a ping must be there; 0: none is under way */
    unsigned pings;      /* since the last call was started */
    uint64_t used;       /* loop time: at which a call of it was last seen */
};

/* Starts connecting; NULL: out of memory. */
arn_grpc_conn *arn__grpc_conn_new(arn_grpc_channel *channel);

/* Closes it. Calls that were sent end with the code and the details (copied); those that certainly
 * were not are the channel's again. */
void arn__grpc_conn_end(arn_grpc_conn *conn, int code, const char *details);

/* A call was started on it. */
void arn__grpc_conn_started(arn_grpc_conn *conn, uint64_t now);

/* Writes what is to be written. 0, or it was closed. */
int arn__grpc_conn_flush(arn_grpc_conn *conn);

/* Looks after connecting and keepalive: *next becomes the sooner of itself and when to do so again.
 * 0, or it was closed. */
int arn__grpc_conn_tick(arn_grpc_conn *conn, uint64_t now, uint64_t *next);

/* ---- channel.c ---- */

struct arn_grpc_channel {
    _Atomic uint32_t refs;
    arn_runtime *rt;
    arn_grpc_config config;
    arn_stream_target target;
    char *strings; /* the config's */
    char *label;   /* host:port, or the path */
    arn_msg release_msg;
    arn_spares spares; /* replies' memory */

    /* The io thread's. */
    arn_stopper stopper;
    arn_deferred pump;
    uv_timer_t *timer; /* NULL until the first call */
    uint64_t timer_at; /* when it fires; 0: not */
    arn_queue waiting; /* calls without a stream */
    arn_queue conns;
    unsigned conn_count;
    unsigned failures;   /* attempts at connecting, in a row */
    uint64_t not_before; /* loop time: of the next one */
    uint64_t keepalive_ms;
    int is_closed;
};

/* The op's run and on_cancel. */
void arn__grpc_channel_run(arn_msg *msg, int aborted);
void arn__grpc_channel_cancel(arn_op *op);

uint64_t arn__grpc_now(const arn_grpc_channel *channel);
void arn__grpc_channel_due(arn_grpc_channel *channel, uint64_t when); /* see to it then */
void arn__grpc_channel_kick(arn_grpc_channel *channel); /* pump at the end of this turn */

/* The call is to be made again, before those that wait. */
void arn__grpc_channel_again(arn_grpc_channel *channel, arn_grpc_op *op);

/* The call has ended: see reply.code. */
void arn__grpc_channel_finish(arn_grpc_channel *channel, arn_grpc_op *op);

/* An attempt at a connection has failed, or succeeded. */
void arn__grpc_channel_unreachable(arn_grpc_channel *channel, const char *details);
void arn__grpc_channel_reached(arn_grpc_channel *channel);

#endif /* ARN_GRPC_INTERNAL_H */
