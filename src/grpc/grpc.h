/* grpc.h - gRPC unary calls over HTTP/2 (nghttp2) on the io thread.
 *
 * Host side (caller's threads): make a channel, make ops, submit them, release the channel.
 * Everything else happens on the io thread.
 *
 *   channel   the connections to one server, made when a call needs them. Calls share one until the
 *             server's limit of streams is reached, then as many as config.max_connections; beyond
 *             that they wait. Of several connections those are closed that have no calls for a
 *             while, all but one.
 *   head      a method's request headers, prepared once for any number of calls.
 *   op        one unary call, or (head NULL) the wait until there is a connection.
 *
 * A call that the server has certainly not processed (its stream was refused, or not sent before
 * the connection broke) is made again without a word. One that meets a server which cannot be
 * reached ends with UNAVAILABLE at once, unless it asks to wait.
 */
#ifndef ARN_GRPC_GRPC_H
#define ARN_GRPC_GRPC_H

#include "base/buf.h"
#include "base/slice.h"
#include "io/op.h"
#include "io/port.h"
#include "io/runtime.h"
#include "io/tls.h"

#include <stdatomic.h>
#include <stdint.h>

typedef struct arn_grpc_channel arn_grpc_channel;
typedef struct arn_grpc_head arn_grpc_head;

/* The protocol's numbers. */
typedef enum arn_grpc_code {
    ARN_GRPC_OK,
    ARN_GRPC_CANCELLED,
    ARN_GRPC_UNKNOWN,
    ARN_GRPC_INVALID_ARGUMENT,
    ARN_GRPC_DEADLINE_EXCEEDED,
    ARN_GRPC_NOT_FOUND,
    ARN_GRPC_ALREADY_EXISTS,
    ARN_GRPC_PERMISSION_DENIED,
    ARN_GRPC_RESOURCE_EXHAUSTED,
    ARN_GRPC_FAILED_PRECONDITION,
    ARN_GRPC_ABORTED,
    ARN_GRPC_OUT_OF_RANGE,
    ARN_GRPC_UNIMPLEMENTED,
    ARN_GRPC_INTERNAL,
    ARN_GRPC_UNAVAILABLE,
    ARN_GRPC_DATA_LOSS,
    ARN_GRPC_UNAUTHENTICATED
} arn_grpc_code;

/* "UNAVAILABLE"; of any number, static. */
const char *arn_grpc_code_name(int code);

/* For config.idle_ms. Bursts come again within seconds, and a connection (TLS, settings) costs some
 * round trips: those in between keep it. After half a minute what it holds at the server and on the
 * way there, a socket and buffers, is held for nothing. */
#define ARN_GRPC_IDLE_MS 30000u

/* Strings may be NULL unless said otherwise. Times in milliseconds, 0 means none. */
typedef struct arn_grpc_config {
    const char *host; /* NULL: path, of a unix socket */
    int port;
    const char *path;
    const char *authority; /* NULL: host:port, or localhost */
    const char *user_agent;
    arn_tls *tls;        /* referenced by the channel; NULL: without TLS */
    int64_t max_receive; /* bytes of a reply's message; -1: no limit */
    uint64_t connect_ms; /* for one attempt: addresses, handshakes and the server's settings */
    uint64_t keepalive_ms;
    uint64_t keepalive_timeout_ms;
    uint64_t idle_ms;         /* without a call, until one of several connections is closed */
    unsigned max_connections; /* at least 1 */
} arn_grpc_config;

typedef struct arn_grpc_reply {
    int code;         /* the server's own number, or one of arn_grpc_code for what failed here */
    arn_buf body;     /* a prefix of 5 bytes, then the message */
    arn_buf metadata; /* initial and trailing: name, value ... each with a NUL behind it */
} arn_grpc_reply;

typedef struct arn_grpc_op {
    arn_op base;
    arn_grpc_channel *channel; /* referenced */
    arn_grpc_head *head;       /* referenced; NULL: waits for a connection */
    arn_slice message;
    /* Set by who sets a message that is not copied: called when the op is freed, on any thread. */
    void (*release)(void *message_owner);
    void *message_owner;
    int waits; /* for a server that cannot be reached, as long as its time lasts */
    arn_grpc_reply reply;

    /* The io thread's. */
    struct arn_grpc_session *session; /* its stream is there; NULL: it waits, or is done */
    int32_t stream;
    unsigned refused; /* so often */
    uint64_t begins;  /* of the connection's outgoing bytes, how many are certainly before it */
    size_t sent;      /* bytes of prefix and message that are framed */
    size_t expected;  /* bytes of prefix and message that the reply is to have; 0: unknown */
    size_t trailer_bytes;
    int http_status; /* 0: no headers yet */
    int server_code; /* grpc-status; -1: it was no number */
    unsigned has_status : 1;
    unsigned is_foreign : 1;   /* not a gRPC server's reply: its body is not looked at */
    unsigned is_framed : 1;    /* the headers are */
    unsigned is_abandoned : 1; /* posted, but nghttp2 still refers to the headers */
    unsigned no_memory : 1;
    const char *details; /* grpc-message, decoded; in the arena */
    char timeout[16];    /* the grpc-timeout header of this attempt */
    size_t metadata_count;
    arn_slice metadata[]; /* name, value, name, value ... of this call alone; then their bytes */
} arn_grpc_op;

/* The config and its strings are copied. NULL: out of memory. One reference. Any thread. */
arn_grpc_channel *arn_grpc_channel_new(arn_runtime *rt, const arn_grpc_config *config);
void arn_grpc_channel_ref(arn_grpc_channel *channel);
void arn_grpc_channel_unref(arn_grpc_channel *channel);
arn_runtime *arn_grpc_channel_runtime(const arn_grpc_channel *channel);

/* The host is done: what is under way ends with CANCELLED, connections close; drops the host's
 * reference. In a forked child the parent's channel is left alone. */
void arn_grpc_channel_release(arn_grpc_channel *channel);

/* The headers of a method ("/package.Service/Method"), with metadata for every call. One reference;
 * NULL: out of memory. Names and values must have been checked with arn_grpc_metadata_is_bad().
 * They belong to no channel, only to its config's names. Not thread-safe until the first call is
 * made; any thread afterwards. */
arn_grpc_head *arn_grpc_head_new(const arn_grpc_config *config, const char *path, size_t path_len,
                                 const arn_slice *metadata, size_t count);
void arn_grpc_head_ref(arn_grpc_head *head);
void arn_grpc_head_unref(arn_grpc_head *head);

/* 0: may be sent; 1: the name is not lower case, not a token or reserved; 2: the value has other
 * characters than visible ASCII and spaces. A name that ends in -bin takes any value: it is sent in
 * base64. */
int arn_grpc_metadata_is_bad(const char *name, size_t name_len, const char *value,
                             size_t value_len);

/* The call's own metadata (name, value, name, value ...; count of pairs) is copied; the message is
 * not, see arn_grpc_op. head and channel are referenced. NULL: out of memory. */
arn_grpc_op *arn_grpc_op_new(arn_grpc_channel *channel, arn_grpc_head *head,
                             const arn_slice *metadata, size_t count);

/* The message of a reply whose code is OK. */
arn_slice arn_grpc_reply_message(const arn_grpc_reply *reply);

#endif /* ARN_GRPC_GRPC_H */
