/* h2_server.h - an HTTP/2 server that does what a test tells it to, for what gRPC's own do not do
 * on demand.
 *
 * One thread serves all connections. A complete request is given to the test's handler, on that
 * thread, which answers with the functions below; it may keep the request's numbers and answer
 * later from there.
 */
#ifndef T_H2_SERVER_H
#define T_H2_SERVER_H

#include <stddef.h>
#include <stdint.h>

typedef struct t_h2 t_h2;

typedef struct t_h2_request {
    t_h2 *server;
    int conn; /* from 0, in the order in which they were accepted */
    int32_t stream;
    const char *path;
    const char *headers; /* "name: value\n" for each */
    const unsigned char *body;
    size_t len;
} t_h2_request;

typedef void (*t_h2_handler)(const t_h2_request *request, void *arg);

typedef struct t_h2_options {
    t_h2_handler handler; /* NULL: t_h2_echo() */
    void *arg;
    unsigned max_streams; /* 0: as many as come */
    unsigned window;      /* of each stream; 0: the usual */
    size_t pieces;        /* bytes for each write; 0: as they come */
    const char *raw;      /* says this to whoever connects, and is no HTTP/2 server; "": nothing */
    int deaf;             /* answers no ping */
    int frozen;           /* reads nothing once a request has been begun */
} t_h2_options;

t_h2 *t_h2_start(const t_h2_options *options); /* NULL: could not be started */
int t_h2_port(const t_h2 *server);
int t_h2_accepted(const t_h2 *server);
int t_h2_requests(const t_h2 *server); /* complete ones */
int t_h2_begun(const t_h2 *server);    /* whose headers have come */
int t_h2_resets(const t_h2 *server);   /* RST_STREAM frames that have come */
int t_h2_last_reset(const t_h2 *server);
int t_h2_pings(const t_h2 *server);
int t_h2_goaways(const t_h2 *server); /* GOAWAY frames that have come */
int t_h2_closed(const t_h2 *server);  /* connections that are over */
void t_h2_stop(t_h2 *server);

/* ---- for handlers ---- */

/* headers, trailers: name, value ... NULL; trailers NULL: the body ends the stream. body NULL: the
 * headers do. */
void t_h2_respond(const t_h2_request *r, const char *const *headers, const void *body, size_t len,
                  const char *const *trailers);
/* A message, and status 0. */
void t_h2_message(const t_h2_request *r, const void *message, size_t len);
/* Trailers only. */
void t_h2_status(const t_h2_request *r, const char *status, const char *message);
void t_h2_echo(const t_h2_request *r, void *arg);
void t_h2_reset(const t_h2_request *r, uint32_t error);
void t_h2_goaway(const t_h2_request *r, int32_t last_stream, uint32_t error, const char *text);
/* Past nghttp2, behind what it has to say. */
void t_h2_raw(const t_h2_request *r, const void *bytes, size_t len);
void t_h2_close(const t_h2_request *r); /* when all is sent */
void t_h2_abort(const t_h2_request *r); /* with RST, at once */

#endif /* T_H2_SERVER_H */
