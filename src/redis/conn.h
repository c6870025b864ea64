/* conn.h - one connection to a Redis server and the client that owns it. io thread only, but for
 * what express.c uses: arn__redis_op_read(), arn__redis_op_uncount(),
 * arn__redis_client_has_large().
 *
 * A connection takes ops in order, writes them, and matches replies to them in the same order:
 *
 *   submit -> [queued] --append to the stream--> [sent] --reply--> finished
 *
 * An op in `sent` that was finished early (timed out, cancelled) stays there as a tombstone until
 * its reply has been read, so a late reply can never reach another op. If not all of its request
 * has been written, the rest never will be: what is behind it moves to the next connection, and
 * this one only waits for replies to what is before it. If all has been written, on the large
 * lane, newer commands wait for its reply, up to a second: it must not take effect after them.
 */
#ifndef ARN_REDIS_CONN_H
#define ARN_REDIS_CONN_H

#include "io/stream.h"
#include "io/timer.h"
#include "redis/client.h"
#include "redis/reader.h"

#define ARN_REDIS_LANES 2
#define ARN_REDIS_LANE_SMALL 0
#define ARN_REDIS_LANE_LARGE 1

typedef enum arn_redis_conn_state {
    ARN_REDIS_IDLE,       /* no stream */
    ARN_REDIS_BACKOFF,    /* waiting before the next attempt */
    ARN_REDIS_CONNECTING, /* stream opening */
    ARN_REDIS_HANDSHAKE,  /* AUTH, SETNAME, SETINFO, SELECT under way */
    ARN_REDIS_READY,
    ARN_REDIS_CHECKING /* a PING under way after a silence; ops wait */
} arn_redis_conn_state;

typedef enum arn_redis_role {
    ARN_REDIS_LANE,     /* shared, reconnects as long as ops wait */
    ARN_REDIS_RETIRED,  /* a lane's former connection that only waits for late replies */
    ARN_REDIS_DEDICATED /* of one op or one session at a time */
} arn_redis_role;

typedef struct arn_redis_conn {
    arn_redis_client *client; /* owns the connection */
    arn_queue node;           /* client: idle, busy or retired */
    arn_queue dirty;          /* client: to be pumped in this turn */
    arn_redis_role role;
    arn_redis_conn_state state;
    arn_stream *stream; /* NULL in IDLE and BACKOFF */
    arn_redis_reader *reader;
    uv_timer_t *timer; /* its own allocation: libuv closes it later than the conn ends */
    arn_queue queued;
    arn_queue sent;
    size_t unsent;       /* bytes appended to the stream and not yet with the kernel */
    uint64_t appended;   /* bytes of the requests of this stream so far */
    uint64_t sent_since; /* loop time: when `sent` was last empty */
    uint64_t connect_by; /* loop time; 0: no limit */
    uint64_t last_read;  /* loop time */
    uint64_t bytes_in;   /* of this stream */
    uint64_t bytes_used; /* of them, up to the end of the last reply */
    uint32_t setup_got;  /* replies of the handshake read */
    uint32_t setup_expect;
    unsigned plain_auth;        /* AUTH went out without the user name */
    unsigned in_data;           /* depth of on_data: the conn must not be freed under it */
    unsigned doomed;            /* to be freed when on_data returns */
    unsigned was_ready;         /* this stream has been READY */
    uint64_t order_by;          /* loop time: until when requests given up hold others back */
    unsigned discard;           /* close instead of reuse */
    arn_redis_session *session; /* that leases it; referenced */
    arn_arena scratch;          /* replies that no op asked for */
} arn_redis_conn;

struct arn_redis_session {
    _Atomic uint32_t refs;
    arn_redis_client *client; /* referenced */
    arn_redis_conn *conn;     /* io thread; NULL before the lease and after the loss */
    _Atomic int open;
    arn_msg release_msg;
    int discard;
    int released;
};

struct arn_redis_client {
    _Atomic uint32_t refs;
    arn_runtime *rt;
    arn_redis_config config; /* strings owned */
    arn_stream_target target;
    char *label; /* "host:port" or the path, for messages */
    arn_redis_stats stats;
    arn_msg disconnect_msg;
    _Atomic int disconnecting; /* the message is under way */
    arn_msg release_msg;

    /* io thread */
    arn_stopper stopper;
    arn_deferred pumping; /* holds a reference while queued */
    arn_queue dirty;
    int registered; /* with the runtime; holds a reference */
    int released;
    unsigned dedicated;
    int legacy_auth;   /* the server knows only AUTH password */
    unsigned failures; /* connection attempts in a row */
    uint64_t not_before;
    arn_redis_conn *lanes[ARN_REDIS_LANES];
    arn_queue retired;
    arn_queue idle;    /* dedicated, free */
    arn_queue busy;    /* dedicated, in use or connecting */
    arn_queue waiting; /* ops for a dedicated connection */
    uv_timer_t *waiting_timer;
    arn_queue gates[ARN_REDIS_LANES]; /* GATE ops, for small and for large requests */
    uint32_t large_keys[256];

    /* How many large requests for the keys of a slot there are; raised here, lowered when the op is
     * freed, on whatever thread. A slot is shared by few keys of those in use. */
    _Atomic uint16_t large_under_way[1024];

    /* Requests in the large lane's `sent` that were given up, which hold back newer ones. Written
     * by the io thread, read by any. */
    _Atomic unsigned given_up;

    /* Any thread: bytes of ops that are made and not yet submitted, and that are under way. */
    _Atomic uint64_t made_bytes;
    _Atomic uint64_t queued_bytes[ARN_REDIS_LANES];
};

static inline arn_redis_op *arn__redis_op_of(arn_queue *node) {
    return ARN_CONTAINER_OF(ARN_CONTAINER_OF(node, arn_op, node), arn_redis_op, base);
}

static inline uint64_t arn__redis_now(const arn_redis_client *client) {
    return uv_now(arn__runtime_loop(client->rt));
}

static inline int arn__redis_client_has_given_up(const arn_redis_client *client) {
    return atomic_load_explicit(&client->given_up, memory_order_relaxed) > 0;
}

/* conn.c */
arn_redis_conn *arn__redis_conn_new(arn_redis_client *client, arn_redis_role role);
/* Queues the op and does what can be done now: connect, write. */
void arn__redis_conn_submit(arn_redis_conn *conn, arn_redis_op *op);
/* Writes what is queued as far as the state and the stream allow. May free the connection. */
void arn__redis_conn_pump(arn_redis_conn *conn);
/* Makes sure that there is a connection or an attempt at one. */
void arn__redis_conn_start(arn_redis_conn *conn);
/* The caller of an op in `sent` of a lane does not want it any more. */
void arn__redis_conn_give_up(arn_redis_conn *conn, arn_redis_op *op);
/* Ends everything with the status and frees the connection. */
void arn__redis_conn_end(arn_redis_conn *conn, int status, const char *message);
/* A value larger than config.large_bytes is on its way in. */
int arn__redis_conn_in_large(const arn_redis_conn *conn);

/* setup.c: the first commands of a connection. */
/* Appends them to the stream; the number of replies to expect, or ARN_ENOMEM. */
int arn__redis_setup_send(arn_redis_conn *conn);
/* Looks at the index-th reply. 0; the status the connection is to end with, and *message is set; or
 * ARN_REDIS_SETUP_AGAIN: connect once more. */
#define ARN_REDIS_SETUP_AGAIN 1
int arn__redis_setup_reply(arn_redis_conn *conn, uint32_t index, const arn_value *reply,
                           const char **message);

/* client.c: what connections tell their client. */
void arn__redis_op_uncount(arn_redis_op *op); /* it is no longer under way */
/* Any thread: a large request is under way, or was given up and may still take effect. */
int arn__redis_client_has_large(const arn_redis_client *client);
/* Reads the op's next reply into its value (nowhere, when `late`) and counts it in op->got.
 * Results as arn__redis_reader_next(). */
int arn__redis_op_read(arn_redis_op *op, arn_redis_reader *reader, int late);
void arn__redis_op_finish(arn_redis_op *op, int status, const char *message);
void arn__redis_client_pump_later(arn_redis_conn *conn); /* at the end of this turn */
void arn__redis_client_unused(arn_redis_conn *conn);     /* dedicated and nothing under way */
void arn__redis_client_lost(arn_redis_conn *conn);       /* about to be freed: forget it */
void arn__redis_client_retire(arn_redis_conn *conn);     /* a lane that answers late: replace it */
void arn__redis_client_wait_again(arn_redis_op *op);     /* first for a dedicated connection */
/* After a reply of so many bytes: remembers large keys. */
void arn__redis_client_note_size(arn_redis_op *op, size_t size);

#endif /* ARN_REDIS_CONN_H */
