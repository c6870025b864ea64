/* internal.h - what the files of this room share. io thread, unless said otherwise. */
#ifndef ARN_HTTP_INTERNAL_H
#define ARN_HTTP_INTERNAL_H

#include "base/spares.h"
#include "http/http.h"
#include "http/sse.h"

#include <curl/curl.h>

/* Easy handles kept for the next requests. */
#define ARN_HTTP_EASY_MAX 256u

/* Where an op is. */
typedef enum arn_http_phase {
    ARN_HTTP_NEW,
    ARN_HTTP_WAITING,    /* for one of max_connections: client->waiting */
    ARN_HTTP_SLEEPING,   /* until the next attempt may be made: client->sleeping */
    ARN_HTTP_CONNECTING, /* the rest: client->active */
    ARN_HTTP_SENDING,
    ARN_HTTP_RECEIVING,
    ARN_HTTP_PAUSED, /* for want of a reader */
    ARN_HTTP_GONE
} arn_http_phase;

/* An origin that has asked to be left alone for a while. */
typedef struct arn_http_hold {
    struct arn_http_hold *next;
    uint64_t until; /* loop time */
    size_t len;
    char origin[]; /* scheme://host:port as in the URL */
} arn_http_hold;

struct arn_http_client {
    _Atomic uint32_t refs;
    arn_runtime *rt;
    arn_http_config config;
    char *strings; /* the config's */
    arn_msg release_msg;
    arn_spares spares; /* bodies' memory */

    /* The io thread's. */
    CURLM *multi; /* NULL until the first request */
    arn_stopper stopper;
    uv_timer_t *curl_timer;           /* what libcurl has asked for */
    uv_timer_t *timer;                /* the ops' own deadlines */
    uint64_t timer_at;                /* when it fires; 0: not */
    arn_deferred kick;                /* let libcurl act once this turn is over */
    struct arn_http_socket **sockets; /* by descriptor */
    char *kept; /* by descriptor: it is a connection that libcurl keeps, see multi.c */
    size_t sockets_cap;
    arn_queue waiting, sleeping, active;
    unsigned active_count;
    CURL *free_easy[ARN_HTTP_EASY_MAX];
    unsigned free_count;
    arn_http_hold *holds;
    int has_failed; /* a socket could not be watched */
    int is_closed;
};

struct arn_http_headers {
    _Atomic uint32_t refs;
    struct curl_slist *list;
    int has_accept_encoding, has_accept, has_content_type, has_expect;
};

/* client.c */
int arn__http_add_line(struct curl_slist **list, const char *line); /* 0 or ARN_ENOMEM */
uint64_t arn__http_now(const arn_http_client *client);
void arn__http_client_start(arn_http_op *op);                      /* a new op: takes a reference */
void arn__http_client_due(arn_http_client *client, uint64_t when); /* see to it then */
void arn__http_client_sleep(arn_http_op *op, uint64_t ms);
void arn__http_client_hold(arn_http_op *op, uint64_t ms);
void arn__http_client_freed(arn_http_client *client); /* a transfer is over: start the next one */

/* Ends every transfer under way. */
void arn__http_client_end_active(arn_http_client *client, arn_http_failure failure,
                                 const char *message);

/* multi.c */
int arn__http_multi_open(arn_http_client *client); /* 0 or ARN_E* */
void arn__http_multi_close(arn_http_client *client);
void arn__http_multi_kick(arn_http_client *client);
void arn__http_multi_set_easy(arn_http_client *client, CURL *easy); /* sockets */
/* The handle's transfer is done: if its connection is kept, so is the watch on it. */
void arn__http_multi_keep(arn_http_client *client, CURL *easy);

/* transfer.c */
void arn__http_transfer_begin(arn_http_op *op);
/* libcurl is done with it. */
void arn__http_transfer_done(arn_http_op *op, CURLcode code);
/* Ends the attempt from outside; may be followed by another one. */
void arn__http_transfer_fail(arn_http_op *op, arn_http_failure failure, const char *message);
/* Ends the op wherever it is, without another attempt. */
void arn__http_transfer_end(arn_http_op *op, arn_http_failure failure, const char *message);
/* The stream has no reader any more: its rest is read and thrown away, if there is not much. */
void arn__http_transfer_discard(arn_http_op *op);
/* The reader has caught up. */
void arn__http_transfer_resume(arn_http_op *op);
void arn__http_transfer_free_easy(arn_http_client *client);

/* stream.c */
arn_http_stream *arn__http_stream_new(arn_http_op *op);
/* 0; CURL_WRITEFUNC_PAUSE's meaning: 1, the reader is behind; ARN_ENOMEM; ARN_EPROTO: it cannot be
 * events, the stream is to end with ARN_HTTP_NO_UTF8. */
int arn__http_stream_push(arn_http_stream *s, const char *bytes, size_t len);
void arn__http_stream_end(arn_http_stream *s, arn_http_failure failure, const char *message);
/* At the end of this turn, posts the op with what has come until then. */
void arn__http_stream_announce(arn_http_stream *s);
/* Posts the op now, if it is announced. */
void arn__http_stream_deliver(arn_http_stream *s);

#endif /* ARN_HTTP_INTERNAL_H */
