/* http.h - an HTTP client on the io thread: libcurl's multi interface driven by the thread's loop.
 *
 * Host side (caller's threads): make a client, make ops, submit them, release the client.
 * Everything else happens on the io thread.
 *
 *   op        one request with all its attempts. Posted when the whole reply is there; in the two
 *             streaming modes, when its headers are (or the first events, if they come with them).
 *   stream    the rest of a streamed reply. The io thread fills a batch and lays it ready; a read
 *             op says that it is there, and whoever has waited takes it. When nobody reads, the
 *             transfer is paused.
 *
 * Transfers beyond config.max_connections wait; nothing fails for want of a connection. A reply 429
 * or 503 that names a time holds the client's other requests to that origin back until then.
 */
#ifndef ARN_HTTP_HTTP_H
#define ARN_HTTP_HTTP_H

#include "base/buf.h"
#include "base/json.h"
#include "base/slice.h"
#include "io/op.h"
#include "io/port.h"
#include "io/runtime.h"

#include <stdatomic.h>
#include <stdint.h>

typedef struct arn_http_client arn_http_client;
typedef struct arn_http_headers arn_http_headers;
typedef struct arn_http_stream arn_http_stream;

/* Strings may be NULL. */
typedef struct arn_http_config {
    unsigned max_connections; /* transfers under way at a time; 0: no limit */
    unsigned max_keepalive;   /* connections kept when their transfers are done */
    unsigned keepalive_s;     /* for so long */
    int verify;               /* the server's certificate */
    int http2;                /* over TLS, if the server offers it */
    const char *ca_file;      /* NULL: libcurl's own */
    const char *ca_dir;
    const char *cert_file;
    const char *key_file;
    const char *key_password;
    const char *proxy_http; /* for http:// URLs; NULL: none */
    const char *proxy_https;
    const char *no_proxy; /* hosts, in libcurl's notation */
    const char *unix_socket;
} arn_http_config;

typedef enum arn_http_mode {
    ARN_HTTP_BODY,
    ARN_HTTP_JSON,       /* the body is parsed, too */
    ARN_HTTP_EMBEDDINGS, /* the same, and base64 vectors in it are decoded */
    ARN_HTTP_STREAM,     /* the body comes through a stream, as bytes */
    ARN_HTTP_EVENTS      /* the body comes through a stream, as server-sent events */
} arn_http_mode;

/* What failed below HTTP. */
typedef enum arn_http_failure {
    ARN_HTTP_OK,
    ARN_HTTP_DNS,
    ARN_HTTP_CONNECT,
    ARN_HTTP_CONNECT_TIMEOUT,
    ARN_HTTP_POOL_TIMEOUT,
    ARN_HTTP_WRITE_TIMEOUT,
    ARN_HTTP_READ_TIMEOUT,
    ARN_HTTP_TOTAL_TIMEOUT,
    ARN_HTTP_TLS,
    ARN_HTTP_PROXY,
    ARN_HTTP_PROTOCOL,
    ARN_HTTP_READ,
    ARN_HTTP_WRITE,
    ARN_HTTP_URL,
    ARN_HTTP_CLOSED,
    ARN_HTTP_MEMORY,
    ARN_HTTP_NO_UTF8 /* an event stream: the line that is none is in the batch's bytes */
} arn_http_failure;

/* The name that hosts see: "dns", "connect_timeout" ... Static. */
const char *arn_http_failure_name(arn_http_failure failure);

/* Times in milliseconds, 0 means none. */
typedef struct arn_http_options {
    arn_http_mode mode;
    uint64_t connect_ms; /* until connected, name look-up and TLS included */
    uint64_t read_ms;    /* of silence from the server */
    uint64_t write_ms;   /* without any of the body being taken */
    uint64_t pool_ms;    /* waiting for one of max_connections */
    uint64_t total_ms;   /* all of it, with all attempts */
    unsigned max_retries;
    double max_retry_after; /* seconds; a longer Retry-After is not followed */
    int refuse_longer;      /* and a reply with one is not retried */
    int decompress;
    int follow_redirects;
    const char *retry_count_header; /* NULL, or a header that counts earlier attempts */
} arn_http_options;

typedef struct arn_http_reply {
    int status;
    int version; /* 10, 11, 20, 30 */
    unsigned retries;
    uint64_t elapsed_us;
    arn_http_failure failure;
    arn_buf head; /* of the last response: the reason phrase, then name, value, name, value ...
                   * each with a NUL behind it, names in lower case */
    arn_buf body;
    char *url;        /* after redirects; NULL: the request's own */
    int json;         /* JSON modes: 0, the op's value is the document; ARN_EPROTO with error set,
                       * ARN_ENOMEM, or 1: it was not parsed */
    const char *what; /* ARN_EPROTO: what is wrong with the document, and at which byte */
    size_t offset;
} arn_http_reply;

typedef struct arn_http_event {
    arn_slice event, data, id, retry; /* see arn_sse_event; each with a NUL behind it */
    int json;                         /* as arn_http_reply.json, of `data` */
    arn_value value;                  /* in the batch's arena */
} arn_http_event;

/* What a stream hands over at a time. */
typedef struct arn_http_batch {
    arn_arena arena;
    arn_buf bytes; /* ARN_HTTP_STREAM; see ARN_HTTP_NO_UTF8 */
    arn_http_event *events;
    size_t count, cap;
    size_t size;              /* bytes of memory, about */
    int is_end;               /* nothing comes after this */
    arn_http_failure failure; /* why it ended; 0: as it should */
    char message[200];
} arn_http_batch;

typedef struct arn_http_op {
    arn_op base;
    arn_http_client *client;   /* referenced */
    arn_http_headers *headers; /* referenced */
    arn_http_options options;
    const char *method; /* in text; after a redirect perhaps another one, static */
    const char *url;    /* in text; after a redirect reply.url */
    arn_slice body;
    /* Set by who sets a body that is not copied: called when the op is freed, on any thread. */
    void (*release)(void *body_owner);
    void *body_owner;
    arn_http_reply reply;
    arn_http_stream *stream; /* referenced; streaming modes */
    arn_http_batch *batch;   /* the stream's first, owned by the op until taken; may be NULL */

    /* The io thread's. */
    void *easy;      /* CURL, while an attempt is under way */
    char error[256]; /* what libcurl says of its failure: CURL_ERROR_SIZE */
    int phase;
    int is_final;             /* the reply's headers are complete and no other response follows */
    int is_discarding;        /* this response is only read to its end */
    arn_http_failure refusal; /* why a callback has refused what came; OK: for want of memory */
    size_t discarded;
    int is_sent;    /* this attempt has got a connection */
    int has_resent; /* see is_stale() in transfer.c */
    size_t sent;    /* of the body, by this attempt */
    unsigned attempt;
    uint64_t due;     /* loop time: of what its queue waits for */
    uint64_t ends;    /* loop time: total_ms; 0: never */
    uint64_t held_ms; /* it has been held back for so long */
    uint64_t started_ns;
    unsigned redirects;
    int without;    /* headers that a redirect has made unfit: ARN_HTTP_NO_* */
    void *own_list; /* curl_slist, where its headers are not just the shared ones */
    char text[];
} arn_http_op;

enum {
    ARN_HTTP_NO_SECRETS = 1,     /* Authorization, cookies, and the Host that was given by hand */
    ARN_HTTP_NO_BODY_HEADERS = 2 /* Content-Length, Transfer-Encoding */
};

/* A read op: it ends well when a batch is ready. It does not carry the batch, so that nothing is
 * lost with an op that is given up. */
typedef struct arn_http_read {
    arn_op base;
    arn_http_stream *stream; /* referenced */
} arn_http_read;

/* The config and its strings are copied. NULL: out of memory. One reference. Any thread. */
arn_http_client *arn_http_client_new(arn_runtime *rt, const arn_http_config *config);
void arn_http_client_ref(arn_http_client *client);
void arn_http_client_unref(arn_http_client *client);
arn_runtime *arn_http_client_runtime(const arn_http_client *client);

/* The host is done: what is under way ends with ARN_HTTP_CLOSED, connections close; drops the
 * host's reference. In a forked child the parent's client is left alone. */
void arn_http_client_release(arn_http_client *client);

/* Header lines, prepared once for any number of requests. One reference; NULL: out of memory. Names
 * and values must have been checked with arn_http_header_is_bad(). Not thread-safe until
 * arn_http_headers_finish(), which comes last; any thread afterwards. */
arn_http_headers *arn_http_headers_new(void);
int arn_http_headers_add(arn_http_headers *headers, const char *name, size_t name_len,
                         const char *value, size_t value_len); /* 0 or ARN_ENOMEM */
int arn_http_headers_finish(arn_http_headers *headers);        /* the same */
void arn_http_headers_ref(arn_http_headers *headers);
void arn_http_headers_unref(arn_http_headers *headers);
/* 0: may be sent; 1: the name is no token; 2: the value has a CR, LF or NUL. */
int arn_http_header_is_bad(const char *name, size_t name_len, const char *value, size_t value_len);

/* Takes no reference on body, see arn_http_op; headers and client are referenced. NULL: out of
 * memory. */
arn_http_op *arn_http_op_new(arn_http_client *client, const char *method, const char *url,
                             size_t url_len, arn_http_headers *headers,
                             const arn_http_options *options);

/* The value of the reply's last header of that (lower-case) name, or NULL. */
const char *arn_http_reply_header(const arn_http_reply *reply, const char *name);

/* Parses the reply's body into the op's value and notes in reply.json how that went. By whoever
 * owns the op at the time. */
void arn_http_op_parse(arn_http_op *op);

/* A read op for the stream, and the stream's references. Any thread. */
arn_http_read *arn_http_read_new(arn_http_stream *stream);
/* The batch that is ready: the caller's from now on. NULL: none, or another reader has taken it.
 * Any thread. */
arn_http_batch *arn_http_stream_take(arn_http_stream *stream);
void arn_http_stream_ref(arn_http_stream *stream);
void arn_http_stream_unref(arn_http_stream *stream);
arn_runtime *arn_http_stream_runtime(const arn_http_stream *stream);

/* Nobody wants the rest: ends the transfer. Any thread, any number of times. */
void arn_http_stream_abandon(arn_http_stream *stream);

/* The same, but what is still to come may come for a while, so that the connection can be kept. */
void arn_http_stream_finish(arn_http_stream *stream);

/* Any thread: frees a batch and its arena; NULL is allowed. */
void arn_http_batch_free(arn_http_batch *batch);

#endif /* ARN_HTTP_HTTP_H */
