#define _GNU_SOURCE /* accept4 */

#include "tls_peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct t_tls_server {
    t_tls_options options;
    SSL_CTX *context;
    int listener, port;
    int wake[2];
    pthread_t thread;
    _Atomic int greeted, ended;
    _Atomic size_t sent;
};

static void check(int ok) {
    if (!ok) {
        ERR_print_errors_fp(stderr);
        abort();
    }
}

/* ---- certificates ---- */

static void extend(X509 *certificate, X509V3_CTX *context, int nid, const char *value) {
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, context, nid, value);

    check(extension != NULL && X509_add_ext(certificate, extension, -1));
    X509_EXTENSION_free(extension);
}

static char *text_of(BIO *bio) {
    char *data;
    long len = BIO_get_mem_data(bio, &data);
    char *text = malloc((size_t)len + 1);

    check(text != NULL);
    memcpy(text, data, (size_t)len);
    text[len] = '\0';
    BIO_free(bio);
    return text;
}

t_identity *t_identity_new(const t_identity *issuer, const char *names, long from, long until) {
    static int serial;
    t_identity *made = calloc(1, sizeof(*made));
    X509 *certificate = X509_new();
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509_NAME *subject = X509_get_subject_name(certificate);
    BIO *cert_bio = BIO_new(BIO_s_mem()), *key_bio = BIO_new(BIO_s_mem());
    X509V3_CTX context;
    char name[40];

    snprintf(name, sizeof(name), "%s %d", names == NULL ? "test CA" : "test", ++serial);
    check(X509_set_version(certificate, 2) && X509_set_pubkey(certificate, key) &&
          ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial) &&
          X509_gmtime_adj(X509_getm_notBefore(certificate), from) != NULL &&
          X509_gmtime_adj(X509_getm_notAfter(certificate), until) != NULL &&
          X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1,
                                     -1, 0) &&
          X509_set_issuer_name(
              certificate, issuer == NULL ? subject : X509_get_subject_name(issuer->certificate)));
    X509V3_set_ctx(&context, issuer == NULL ? certificate : issuer->certificate, certificate, NULL,
                   NULL, 0);
    extend(certificate, &context, NID_basic_constraints,
           names == NULL ? "critical,CA:TRUE" : "critical,CA:FALSE");
    extend(certificate, &context, NID_subject_key_identifier, "hash");
    if (names != NULL)
        extend(certificate, &context, NID_subject_alt_name, names);
    check(X509_sign(certificate, issuer == NULL ? key : issuer->key, EVP_sha256()) > 0 &&
          PEM_write_bio_X509(cert_bio, certificate) &&
          PEM_write_bio_PrivateKey(key_bio, key, NULL, NULL, 0, NULL, NULL));
    *made = (t_identity){certificate, key, text_of(cert_bio), text_of(key_bio)};
    return made;
}

void t_identity_free(t_identity *identity) {
    X509_free(identity->certificate);
    EVP_PKEY_free(identity->key);
    free(identity->cert_pem);
    free(identity->key_pem);
    free(identity);
}

arn_slice t_pem(const char *text) {
    return (arn_slice){text, strlen(text)};
}

/* ---- between two buffers ---- */

static int choose(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                  const unsigned char *in, unsigned in_len, void *arg) {
    (void)ssl;
    (void)in;
    (void)in_len;
    *out = arg;
    *out_len = (unsigned char)strlen(arg);
    return SSL_TLSEXT_ERR_OK;
}

SSL_CTX *t_tls_context(const t_tls_options *o) {
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());

    check(context != NULL && SSL_CTX_use_certificate(context, o->identity->certificate) &&
          SSL_CTX_use_PrivateKey(context, o->identity->key));
    check(SSL_CTX_set_session_id_context(context, (const unsigned char *)"t", 1));
    if (o->version != 0)
        check(SSL_CTX_set_min_proto_version(context, o->version) &&
              SSL_CTX_set_max_proto_version(context, o->version));
    if (o->fragment != 0)
        check((int)SSL_CTX_set_max_send_fragment(context, (long)o->fragment));
    if (o->alpn != NULL)
        SSL_CTX_set_alpn_select_cb(context, choose, (void *)o->alpn);
    if (o->client_ca != NULL) {
        check(X509_STORE_add_cert(SSL_CTX_get_cert_store(context), o->client_ca->certificate));
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    return context;
}

SSL *t_tls_side(SSL_CTX *context) {
    SSL *ssl = SSL_new(context);

    check(ssl != NULL);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_accept_state(ssl);
    return ssl;
}

char t_tls_byte(size_t i) {
    return (char)(i * 31 + (i >> 8));
}

/* ---- on a port ---- */

/* One connection; `over` once nothing more is to be done for it. */
typedef struct conn {
    t_tls_server *server;
    const t_tls_options *o;
    SSL *ssl;
    int fd;
    int over;
    size_t sent, received, updated, made;
} conn;

/* Whether the descriptor is ready; 0: the server is to stop. */
static int ready(const t_tls_server *server, int fd, short events) {
    struct pollfd fds[] = {{server->wake[0], POLLIN, 0}, {fd, events, 0}};

    while (poll(fds, 2, -1) < 0)
        check(errno == EINTR);
    return fds[0].revents == 0;
}

static void send_all(conn *c, const char *data, size_t len) {
    while (len > 0 && !c->over) {
        size_t n = c->o->pieces != 0 && c->o->pieces < len ? c->o->pieces : len;
        ssize_t r;
        if (c->o->cut != 0 && n > c->o->cut - c->sent)
            n = c->o->cut - c->sent;
        r = n > 0 ? send(c->fd, data, n, MSG_NOSIGNAL) : 0;
        if (r < 0 && errno == EAGAIN && ready(c->server, c->fd, POLLOUT))
            continue;
        if (r > 0) {
            c->sent += (size_t)r;
            data += r;
            len -= (size_t)r;
            usleep(c->o->pause_ms * 1000);
        }
        c->over = r < 0 || (c->o->cut != 0 && c->sent == c->o->cut);
    }
}

static void send_records(conn *c) {
    char *data;
    long len = BIO_get_mem_data(SSL_get_wbio(c->ssl), &data);

    send_all(c, data, (size_t)len);
    (void)BIO_reset(SSL_get_wbio(c->ssl));
}

static void make_source(conn *c) {
    char data[16384];
    size_t i;

    while (c->made < c->o->source && !c->over) {
        size_t n = c->o->source - c->made < sizeof(data) ? c->o->source - c->made : sizeof(data);
        for (i = 0; i < n; i++)
            data[i] = t_tls_byte(c->made + i);
        check(SSL_write(c->ssl, data, (int)n) == (int)n);
        c->made += n;
        send_records(c);
    }
    SSL_shutdown(c->ssl);
    send_records(c);
    c->over = 1;
}

static void go_on(conn *c) {
    char data[16384];
    int n;

    while ((n = SSL_read(c->ssl, data, sizeof(data))) > 0) {
        c->received += (size_t)n;
        if (c->o->source == 0)
            check(SSL_write(c->ssl, data, n) == n);
        if (c->o->key_updates != 0 && c->received - c->updated >= c->o->key_updates) {
            c->updated = c->received;
            check(SSL_key_update(c->ssl, SSL_KEY_UPDATE_REQUESTED));
        }
    }
    n = SSL_get_error(c->ssl, n);
    send_records(c);
    if (SSL_is_init_finished(c->ssl) && c->o->source != 0 && !c->over)
        make_source(c);
    if (n != SSL_ERROR_WANT_READ)
        c->over = 1;
    ERR_clear_error();
}

static void serve(t_tls_server *server, int fd) {
    const struct linger reset = {1, 0};
    conn c = {.server = server, .o = &server->options, .fd = fd};
    char data[65536];
    int greeted = 0;

    c.ssl = t_tls_side(server->context);
    while (!c.over && ready(server, fd, POLLIN)) {
        ssize_t n = recv(fd, data, sizeof(data), 0);
        if (n < 0 && errno == EAGAIN)
            continue;
        if (n <= 0)
            break;
        if (!greeted++)
            atomic_fetch_add(&server->greeted, 1);
        if (c.o->silent)
            continue;
        if (c.o->raw.data != NULL) {
            send_all(&c, c.o->raw.data, c.o->raw.len);
            break;
        }
        check(BIO_write(SSL_get_rbio(c.ssl), data, (int)n) == (int)n);
        go_on(&c);
    }
    if (c.o->reset)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    else if (shutdown(fd, SHUT_WR) == 0)
        /* Closed with bytes unread, it would be reset, which takes away what was sent. */
        while (ready(server, fd, POLLIN) && recv(fd, data, sizeof(data), 0) > 0)
            ;
    SSL_free(c.ssl);
    close(fd);
    atomic_store(&server->sent, c.sent);
    atomic_fetch_add(&server->ended, 1);
}

static void *thread_main(void *arg) {
    t_tls_server *server = arg;

    while (ready(server, server->listener, POLLIN)) {
        int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            serve(server, fd);
    }
    OPENSSL_thread_stop();
    return NULL;
}

t_tls_server *t_tls_start(const t_tls_options *options) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof(address);
    t_tls_server *server = calloc(1, sizeof(*server));

    check(server != NULL);
    server->options = *options;
    server->context = t_tls_context(options);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(pipe(server->wake) == 0 &&
          bind(server->listener, (struct sockaddr *)&address, sizeof(address)) == 0 &&
          listen(server->listener, 16) == 0 &&
          getsockname(server->listener, (struct sockaddr *)&address, &size) == 0);
    server->port = ntohs(address.sin_port);
    check(pthread_create(&server->thread, NULL, thread_main, server) == 0);
    return server;
}

int t_tls_port(const t_tls_server *server) {
    return server->port;
}

int t_tls_greeted(const t_tls_server *server) {
    return atomic_load(&server->greeted);
}

int t_tls_ended(const t_tls_server *server) {
    return atomic_load(&server->ended);
}

size_t t_tls_sent(const t_tls_server *server) {
    return atomic_load(&server->sent);
}

void t_tls_stop(t_tls_server *server) {
    check(write(server->wake[1], "x", 1) == 1);
    pthread_join(server->thread, NULL);
    SSL_CTX_free(server->context);
    close(server->listener);
    close(server->wake[0]);
    close(server->wake[1]);
    free(server);
}
