/* tls_peer.h - the other side of TLS: certificates made on the spot, an OpenSSL server between two
 * buffers, and one on a port that does what a test tells it to.
 */
#ifndef T_TLS_PEER_H
#define T_TLS_PEER_H

#include "base/slice.h"

#include <openssl/ssl.h>
#include <stddef.h>

typedef struct t_identity {
    X509 *certificate;
    EVP_PKEY *key;
    char *cert_pem, *key_pem;
} t_identity;

/* Valid from and until so many seconds from now. issuer NULL: its own. names: of its
 * subjectAltName, "DNS:localhost,IP:127.0.0.1"; NULL: a CA. */
t_identity *t_identity_new(const t_identity *issuer, const char *names, long from, long until);
void t_identity_free(t_identity *identity);
arn_slice t_pem(const char *text);

typedef struct t_tls_options {
    const t_identity *identity;
    const t_identity *client_ca; /* insists on a client's certificate of this one's */
    const char *alpn;            /* what it chooses; NULL: it knows nothing of ALPN */
    int version;                 /* TLS1_2_VERSION ...; 0: any */
    size_t fragment;             /* bytes of a record; 0: as many as fit */

    /* Of the server on a port. Without any of them it sends back what comes. */
    arn_slice raw;      /* says this to the first bytes that come, and is no TLS server */
    size_t cut;         /* so many bytes it sends, then the connection ends; 0: all */
    int reset;          /* with RST */
    int silent;         /* reads, and says nothing */
    size_t source;      /* sends so many bytes (t_tls_byte()) itself, then close_notify */
    size_t key_updates; /* asks for new keys each time that many bytes have come; 0: never */
    size_t pieces;      /* bytes for each write; 0: as they come */
    unsigned pause_ms;  /* behind each of them */
} t_tls_options;

/* ---- between two buffers ---- */

SSL_CTX *t_tls_context(const t_tls_options *options);

/* A server that is fed by SSL_get_rbio() and has its say in SSL_get_wbio(), both in memory. */
SSL *t_tls_side(SSL_CTX *context);

/* ---- on a port: one thread, one connection at a time ---- */

typedef struct t_tls_server t_tls_server;

t_tls_server *t_tls_start(const t_tls_options *options);
int t_tls_port(const t_tls_server *server);
int t_tls_greeted(const t_tls_server *server); /* connections of which bytes have come */
int t_tls_ended(const t_tls_server *server);   /* connections that are over */
size_t t_tls_sent(const t_tls_server *server); /* bytes of the last connection that was over */
void t_tls_stop(t_tls_server *server);

char t_tls_byte(size_t i);

#endif /* T_TLS_PEER_H */
