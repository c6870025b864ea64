/* client.h - a Redis client: a few shared connections that carry everybody's commands, and
 * dedicated ones for what may not share.
 *
 * Host side (caller's threads): make a client, make ops, submit them, release the client.
 * Everything else happens on the io thread (conn.h).
 *
 * Routing. Small commands share lane 0. Requests above config.large_bytes, and commands on a key
 * whose value lately was that large, share lane 1, so that nothing small waits behind megabytes.
 * Commands that do not wait for one another may therefore run in another order, as over the
 * connections of a pool; but none overtakes a large request for its own key, and for a second none
 * at all a large one that its caller has given up, lest an old value replace a new one.
 * Commands that block the server's side of the connection or change its state get a dedicated
 * connection, at most config.max_dedicated at a time; further ones wait for one.
 */
#ifndef ARN_REDIS_CLIENT_H
#define ARN_REDIS_CLIENT_H

#include "io/op.h"
#include "io/port.h"
#include "io/runtime.h"
#include "redis/pack.h"

#include <stdatomic.h>
#include <stdint.h>

typedef struct arn_redis_client arn_redis_client;
typedef struct arn_redis_session arn_redis_session;
typedef struct arn_redis_op arn_redis_op;

/* Strings may be NULL where said; times are in milliseconds, 0 means none. */
typedef struct arn_redis_config {
    const char *host; /* NULL: path */
    const char *path;
    int port;
    const char *username;        /* may be NULL */
    const char *password;        /* may be NULL */
    const char *database;        /* decimal number; NULL: not selected */
    const char *client_name;     /* may be NULL */
    const char *lib_name;        /* may be NULL */
    const char *lib_version;     /* may be NULL */
    uint64_t timeout_ms;         /* from start to reply of each op */
    uint64_t connect_timeout_ms; /* until a connection is set up */
    uint64_t pool_timeout_ms;    /* for a dedicated connection to become free */
    uint64_t health_check_ms;    /* PING a connection that was silent for so long before use */
    int keepalive;
    int keepalive_idle, keepalive_interval, keepalive_count; /* seconds, 0: system's */
    unsigned max_dedicated;
    size_t large_bytes;
    size_t queue_bytes; /* see arn_redis_is_full() */
} arn_redis_config;

typedef enum arn_redis_route {
    ARN_REDIS_SHARED,    /* any lane */
    ARN_REDIS_EXCLUSIVE, /* a dedicated connection, free again after the reply */
    ARN_REDIS_DISCARD,   /* the same, closed after the reply because its state has changed */
    ARN_REDIS_LEASE,     /* no request: done when the session has its connection */
    ARN_REDIS_SESSION,   /* on the session's connection */
    ARN_REDIS_EXPRESS,   /* no request: the value is a descriptor for express.h; who takes it sets
                          * the value to nil, or it is closed with the op */
    ARN_REDIS_GATE       /* no request: done when the client is no longer full */
} arn_redis_route;

struct arn_redis_op {
    arn_op base;
    arn_redis_client *client;   /* referenced */
    arn_redis_session *session; /* referenced; LEASE and SESSION only */
    arn_redis_route route;
    uint32_t key_hash;           /* of the first key, 0: none */
    uint32_t replies;            /* expected: 1, or the commands of a pipeline */
    uint32_t got;                /* io thread */
    struct arn_redis_conn *conn; /* io thread: whose queues it is in */
    uint64_t ends_at;            /* io thread, SENT: offset in the connection's requests */
    int express;    /* under way on an express connection: the io thread does not know it */
    int lanes_only; /* not for express connections: it is about the connection itself */
    int large;      /* of more than config.large_bytes; a GATE: for one that is */
    int noted;      /* io thread: as a large one for its key */
    int given_up;   /* io thread: counted in client->given_up */
    int submitted;  /* arn_redis_op_submitted() was called */
    int ended;      /* no longer under way */
    /* A large argument that is not copied: it belongs at payload_at of the request. Whoever sets
     * it sets release too, which is called with `payload_owner` when the op is freed, on whatever
     * thread that is. */
    arn_slice payload;
    size_t payload_at;
    void (*release)(void *payload_owner);
    void *payload_owner;
    size_t len;     /* of the whole request, payload included */
    char request[]; /* the request without the payload, then the arena's first piece */
};

/* Counters since the client was made; read with relaxed order, so only roughly of one moment. */
typedef struct arn_redis_stats {
    _Atomic uint64_t commands, replies, errors, bytes_in, bytes_out, connects, reconnects;
    _Atomic uint64_t connections, dedicated; /* now */
} arn_redis_stats;

/* The config and its strings are copied. NULL: out of memory. One reference. */
arn_redis_client *arn_redis_client_new(arn_runtime *rt, const arn_redis_config *config);

/* Any thread. Hold the struct; release is what ends the connections. */
void arn_redis_client_ref(arn_redis_client *client);
void arn_redis_client_unref(arn_redis_client *client);

arn_runtime *arn_redis_client_runtime(const arn_redis_client *client);
const arn_redis_stats *arn_redis_client_stats(const arn_redis_client *client);
const arn_redis_config *arn_redis_client_config(const arn_redis_client *client);
const char *arn_redis_client_label(const arn_redis_client *client); /* "host:port" or the path */

/* Closes every connection; what is under way ends with ARN_ECLOSED. Usable again afterwards. */
void arn_redis_client_disconnect(arn_redis_client *client);

/* The host is done with the client: disconnects and drops the host's reference. After a fork the
 * child must not call this on its parent's client; it leaves the memory alone. */
void arn_redis_client_release(arn_redis_client *client);

/* Backpressure. Small and large requests, which have lanes of their own, are counted apart, so that
 * nothing small waits for room behind something large; each op counts with its own memory too.
 *
 * Whoever submits an op calls arn_redis_op_submitted() just before, and before that lets a GATE op
 * pass if the client is full. An op that is made and perhaps never submitted is in nobody's way;
 * but when many such are about, another should rather be made later (has_room). */
void arn_redis_op_submitted(arn_redis_op *op);
int arn_redis_is_full(const arn_redis_client *client, size_t len);  /* for a request of len bytes */
int arn_redis_has_room(const arn_redis_client *client, size_t len); /* to make it ahead of time */
arn_redis_op *arn_redis_gate_new(arn_redis_client *client, size_t len); /* NULL: out of memory */
uint64_t arn_redis_queued_bytes(const arn_redis_client *client);        /* under way */

/* An op with room for a request of len bytes, which the caller fills in, less the payload_len
 * bytes of a payload that is referred to. NULL: out of memory. */
arn_redis_op *arn_redis_op_new(arn_redis_client *client, arn_redis_route route, size_t len,
                               size_t payload_len, uint32_t replies);

/* A hash of a key that is never 0. */
uint32_t arn_redis_key_hash(const char *key, size_t len);

/* A session: the right to a dedicated connection. Empty until its LEASE op has succeeded. */
arn_redis_session *arn_redis_session_new(arn_redis_client *client);
void arn_redis_session_ref(arn_redis_session *session);
void arn_redis_session_unref(arn_redis_session *session);
arn_redis_client *arn_redis_session_client(const arn_redis_session *session); /* borrowed */
void arn_redis_op_set_session(arn_redis_op *op, arn_redis_session *session);

/* Gives the connection back, or closes it if discard is set or something is still under way.
 * Drops no reference. Ops of the session submitted later end with ARN_ECLOSED. */
void arn_redis_session_release(arn_redis_session *session, int discard);

/* Any thread: 1 while the session has its connection. */
int arn_redis_session_is_open(const arn_redis_session *session);

#endif /* ARN_REDIS_CLIENT_H */
