/* tls.h - TLS of a connection's bytes: OpenSSL between two buffers. It knows no socket: a stream
 * whose target names an arn_tls does the reading and the writing.
 *
 *   arn_tls       certificates and settings, for any number of connections; any thread
 *   arn_tls_conn  one connection's state; io thread only
 */
#ifndef ARN_IO_TLS_H
#define ARN_IO_TLS_H

#include "base/buf.h"
#include "base/slice.h"

#include <stddef.h>

typedef struct arn_tls arn_tls;
typedef struct arn_tls_conn arn_tls_conn;

typedef struct arn_tls_config {
    arn_slice ca;   /* PEM; data NULL: what the system trusts. The same for the two below */
    arn_slice cert; /* of the client, with its chain; data NULL: none */
    arn_slice key;
    const char *server_name; /* that the certificate must bear; NULL: the target's host */
    int verify;              /* the server's certificate and name */
    const char *alpn;        /* the protocol that the server must agree to; NULL: none */
} arn_tls_config;

/* The config is copied. One reference; NULL: not possible, and `why` says what is wrong. Another
 * process must make its own, see runtime.h on forks. */
arn_tls *arn_tls_new(const arn_tls_config *config, char *why, size_t why_size);
void arn_tls_ref(arn_tls *tls);
void arn_tls_unref(arn_tls *tls); /* NULL is allowed */

/* A connection to a target of that host (NULL: a unix socket). NULL: out of memory. */
arn_tls_conn *arn__tls_conn_new(arn_tls *tls, const char *host);
void arn__tls_conn_free(arn_tls_conn *conn); /* NULL is allowed */

/* Bytes from the server, which must stay until everything was read of them. */
void arn__tls_feed(arn_tls_conn *conn, const char *data, size_t len);

/* Goes on with the handshake: 1, done; 0, the server must say something first; -1, it failed. */
int arn__tls_handshake(arn_tls_conn *conn);

/* The server's bytes, decrypted: how many; 0, no more for now; -1, the server has ended it; -2, it
 * has failed. */
ptrdiff_t arn__tls_read(arn_tls_conn *conn, char *to, size_t size);

/* Encrypts. 0; 1, nothing of it: the server is within a message of TLS itself (a ticket that comes
 * in several records), to be tried again when more has been read; -1, it has failed. */
int arn__tls_write(arn_tls_conn *conn, const char *data, size_t len);

/* What is to be sent to the server; whoever sends it empties it. */
arn_buf *arn__tls_out(arn_tls_conn *conn);

/* Why it has failed; "" if it has not. */
const char *arn__tls_why(const arn_tls_conn *conn);

#endif /* ARN_IO_TLS_H */
