#include "io/tls.h"

#include "base/alloc.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* Of a host's name; the limit is that of the names that TLS asks for. */
#define NAME_MAX_LEN 255u

struct arn_tls {
    _Atomic unsigned refs;
    SSL_CTX *ctx;
    char *server_name;
    char *alpn;
    int verify;
};

struct arn_tls_conn {
    arn_tls *tls; /* referenced */
    SSL *ssl;
    const char *in; /* fed and not yet read */
    size_t in_len;
    arn_buf out;
    char why[200];
};

/* ---- OpenSSL's side of the two buffers ---- */

static BIO_METHOD *method;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int bio_read(BIO *bio, char *to, int size) {
    arn_tls_conn *conn = BIO_get_data(bio);
    size_t n = (size_t)size < conn->in_len ? (size_t)size : conn->in_len;

    BIO_clear_retry_flags(bio);
    if (n == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(to, conn->in, n);
    conn->in += n;
    conn->in_len -= n;
    return (int)n;
}

static int bio_write(BIO *bio, const char *data, int len) {
    arn_tls_conn *conn = BIO_get_data(bio);

    BIO_clear_retry_flags(bio);
    if (arn_buf_append(&conn->out, data, (size_t)len) == 0)
        return len;
    snprintf(conn->why, sizeof(conn->why), "out of memory");
    return -1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *arg) {
    (void)bio;
    (void)number;
    (void)arg;
    return command == BIO_CTRL_FLUSH;
}

static void make_method(void) {
    int type = BIO_get_new_index();

    method = type == -1 ? NULL : BIO_meth_new(type | BIO_TYPE_SOURCE_SINK, "arn");
    if (method == NULL)
        return;
    BIO_meth_set_read(method, bio_read);
    BIO_meth_set_write(method, bio_write);
    BIO_meth_set_ctrl(method, bio_ctrl);
}

/* ---- settings ---- */

/* What OpenSSL says of its last failure, and forgets. Never a byte of what it was given. */
static void take_reason(char *out, size_t size, const char *what) {
    unsigned long code = ERR_peek_last_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

    snprintf(out, size, "%s%s%s", what, reason != NULL ? ": " : "", reason != NULL ? reason : "");
    ERR_clear_error();
}

/* A key with a password is refused instead of asking at the terminal. */
static int no_password(char *buf, int size, int writing, void *arg) {
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

static BIO *memory_of(arn_slice pem) {
    return BIO_new_mem_buf(pem.data, (int)pem.len);
}

/* Calls use(ctx, certificate, index) for each; how many there were, or -1. */
static int each_certificate(SSL_CTX *ctx, arn_slice pem, int (*use)(SSL_CTX *, X509 *, int)) {
    BIO *bio = memory_of(pem);
    int count = 0;

    while (bio != NULL && count >= 0) {
        X509 *certificate = PEM_read_bio_X509(bio, NULL, no_password, NULL);
        if (certificate == NULL)
            break;
        count = use(ctx, certificate, count) ? count + 1 : -1;
        X509_free(certificate);
    }
    /* "no start line": the end. */
    if (count > 0 && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE)
        ERR_clear_error();
    else
        count = -1;
    BIO_free(bio);
    return count;
}

static int trust(SSL_CTX *ctx, X509 *certificate, int index) {
    (void)index;
    return X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), certificate);
}

static int present(SSL_CTX *ctx, X509 *certificate, int index) {
    return index == 0 ? SSL_CTX_use_certificate(ctx, certificate)
                      : (int)SSL_CTX_add1_chain_cert(ctx, certificate);
}

static int use_key(SSL_CTX *ctx, arn_slice pem) {
    BIO *bio = memory_of(pem);
    EVP_PKEY *key = bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    int ok = key != NULL && SSL_CTX_use_PrivateKey(ctx, key) && SSL_CTX_check_private_key(ctx);

    EVP_PKEY_free(key);
    BIO_free(bio);
    return ok;
}

/* NULL, or what could not be done. */
static const char *configure(SSL_CTX *ctx, const arn_tls_config *config) {
    if (!SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION))
        return "cannot ask for TLS 1.2";
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_AUTO_RETRY);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    SSL_CTX_set_verify(ctx, config->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    if (config->ca.data != NULL && each_certificate(ctx, config->ca, trust) < 0)
        return "the CA certificates are no PEM";
    if (config->ca.data == NULL && config->verify && !SSL_CTX_set_default_verify_paths(ctx))
        return "the system's CA certificates cannot be read";
    if (config->server_name != NULL &&
        (config->server_name[0] == '\0' || strlen(config->server_name) > NAME_MAX_LEN))
        return "the server's name is empty or too long";
    if ((config->cert.data == NULL) != (config->key.data == NULL))
        return "a client certificate and its key come together";
    if (config->cert.data != NULL && each_certificate(ctx, config->cert, present) < 0)
        return "the client certificate is no PEM";
    if (config->key.data != NULL && !use_key(ctx, config->key))
        return "the client's key is no PEM without a password, or not the certificate's";
    return NULL;
}

static int set_alpn(SSL_CTX *ctx, const char *alpn) {
    unsigned char wire[32];
    size_t len = strlen(alpn);

    if (len + 1 > sizeof(wire))
        return 0;
    wire[0] = (unsigned char)len;
    memcpy(wire + 1, alpn, len);
    return SSL_CTX_set_alpn_protos(ctx, wire, (unsigned)len + 1) == 0;
}

static int copy(char **to, const char *from) {
    *to = from == NULL ? NULL : arn_strdup(from);
    return from == NULL || *to != NULL;
}

arn_tls *arn_tls_new(const arn_tls_config *config, char *why, size_t why_size) {
    arn_tls *tls = arn_calloc(1, sizeof(*tls));
    const char *wrong = "out of memory";

    pthread_once(&once, make_method);
    ERR_clear_error();
    if (tls != NULL)
        atomic_init(&tls->refs, 1);
    if (tls != NULL && method != NULL) {
        tls->verify = config->verify;
        tls->ctx = SSL_CTX_new(TLS_client_method());
        if (tls->ctx != NULL && copy(&tls->server_name, config->server_name) &&
            copy(&tls->alpn, config->alpn) &&
            (config->alpn == NULL || set_alpn(tls->ctx, config->alpn)))
            wrong = configure(tls->ctx, config);
    }
    if (wrong == NULL)
        return tls;
    take_reason(why, why_size, wrong);
    arn_tls_unref(tls);
    return NULL;
}

void arn_tls_ref(arn_tls *tls) {
    atomic_fetch_add_explicit(&tls->refs, 1, memory_order_relaxed);
}

void arn_tls_unref(arn_tls *tls) {
    if (tls == NULL || atomic_fetch_sub_explicit(&tls->refs, 1, memory_order_acq_rel) != 1)
        return;
    SSL_CTX_free(tls->ctx);
    arn_free(tls->server_name);
    arn_free(tls->alpn);
    arn_free(tls);
}

/* ---- one connection ---- */

/* An address is looked for among the certificate's addresses, and not told to the server. */
static int set_name(SSL *ssl, const char *name) {
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

    if (X509_VERIFY_PARAM_set1_ip_asc(param, name))
        return 1;
    ERR_clear_error();
    return SSL_set1_host(ssl, name) && SSL_set_tlsext_host_name(ssl, name);
}

arn_tls_conn *arn__tls_conn_new(arn_tls *tls, const char *host) {
    arn_tls_conn *conn = arn_calloc(1, sizeof(*conn));
    BIO *bio = NULL;

    if (conn == NULL)
        return NULL;
    conn->tls = tls;
    arn_tls_ref(tls);
    conn->ssl = SSL_new(tls->ctx);
    if (tls->server_name != NULL)
        host = tls->server_name;
    if (conn->ssl != NULL && set_name(conn->ssl, host != NULL ? host : "localhost"))
        bio = BIO_new(method);
    if (bio == NULL) {
        arn__tls_conn_free(conn);
        ERR_clear_error();
        return NULL;
    }
    BIO_set_data(bio, conn);
    BIO_set_init(bio, 1);
    SSL_set_bio(conn->ssl, bio, bio);
    SSL_set_connect_state(conn->ssl);
    return conn;
}

void arn__tls_conn_free(arn_tls_conn *conn) {
    if (conn == NULL)
        return;
    SSL_free(conn->ssl);
    arn_buf_free(&conn->out);
    arn_tls_unref(conn->tls);
    arn_free(conn);
}

void arn__tls_feed(arn_tls_conn *conn, const char *data, size_t len) {
    conn->in = data;
    conn->in_len = len;
}

static const char *advice(long verdict) {
    switch (verdict) {
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        return " (a CA of your own must be given in the settings of TLS)";
    default:
        return "";
    }
}

/* Of the certificate OpenSSL knows more than "certificate verify failed". */
static void note_failure(arn_tls_conn *conn, const char *what) {
    long verdict = SSL_get_verify_result(conn->ssl);

    if (conn->why[0] != '\0') {
        ERR_clear_error();
        return;
    }
    if (conn->tls->verify && verdict != X509_V_OK) {
        snprintf(conn->why, sizeof(conn->why), "the server's certificate is not trusted: %s%s",
                 X509_verify_cert_error_string(verdict), advice(verdict));
        ERR_clear_error();
        return;
    }
    take_reason(conn->why, sizeof(conn->why), what);
}

static int agreed(arn_tls_conn *conn) {
    const char *wanted = conn->tls->alpn;
    const unsigned char *chosen;
    unsigned len;

    if (wanted == NULL)
        return 1;
    SSL_get0_alpn_selected(conn->ssl, &chosen, &len);
    if (len == strlen(wanted) && memcmp(chosen, wanted, len) == 0)
        return 1;
    snprintf(conn->why, sizeof(conn->why), "the server does not speak %s over TLS (ALPN)", wanted);
    return 0;
}

int arn__tls_handshake(arn_tls_conn *conn) {
    int r;

    ERR_clear_error();
    r = SSL_do_handshake(conn->ssl);
    if (r == 1)
        return agreed(conn) ? 1 : -1;
    if (SSL_get_error(conn->ssl, r) == SSL_ERROR_WANT_READ)
        return 0;
    note_failure(conn, "the TLS handshake has failed");
    return -1;
}

ptrdiff_t arn__tls_read(arn_tls_conn *conn, char *to, size_t size) {
    size_t n;

    ERR_clear_error();
    if (SSL_read_ex(conn->ssl, to, size, &n) == 1)
        return (ptrdiff_t)n;
    switch (SSL_get_error(conn->ssl, 0)) {
    case SSL_ERROR_WANT_READ:
        return 0;
    case SSL_ERROR_ZERO_RETURN:
        return -1;
    default:
        note_failure(conn, "TLS has failed");
        return -2;
    }
}

int arn__tls_write(arn_tls_conn *conn, const char *data, size_t len) {
    size_t n;

    ERR_clear_error();
    if (SSL_write_ex(conn->ssl, data, len, &n) == 1)
        return 0;
    if (SSL_get_error(conn->ssl, 0) == SSL_ERROR_WANT_READ)
        return 1;
    note_failure(conn, "TLS has failed");
    return -1;
}

arn_buf *arn__tls_out(arn_tls_conn *conn) {
    return &conn->out;
}

const char *arn__tls_why(const arn_tls_conn *conn) {
    return conn->why;
}
