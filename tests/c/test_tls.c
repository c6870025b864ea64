/* TLS between two buffers: its settings, and an OpenSSL server in the same thread. */
#include "arn.h"
#include "base/alloc.h"
#include "redis_server.h"
#include "tls_kit.h"

#include <openssl/err.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- settings ---- */

static void settings_that_cannot_be(void **state) {
    const arn_slice rubbish =
        t_pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    const arn_slice none = {"", 0};
    const arn_slice cert = t_pem(t_ids.client->cert_pem), key = t_pem(t_ids.client->key_pem);
    static char long_name[300];
    const struct {
        arn_tls_config config;
        const char *part;
    } cases[] = {
        {{.ca = none}, "CA"},
        {{.ca = rubbish}, "CA"},
        {{.ca = key}, "CA"},
        {{.cert = cert}, "come together"},
        {{.key = key}, "come together"},
        {{.cert = cert, .key = none}, "key"},
        {{.cert = cert, .key = t_pem(t_ids.good->key_pem)}, "key"},
        {{.cert = rubbish, .key = key}, "certificate"},
        {{.server_name = ""}, "name"},
        {{.server_name = long_name}, "name"},
    };
    size_t i;

    (void)state;
    memset(long_name, 'a', sizeof(long_name) - 1);
    for (i = 0; i < COUNT(cases); i++) {
        char why[200] = "";
        if (arn_tls_new(&cases[i].config, why, sizeof(why)) != NULL)
            fail_msg("case %zu", i);
        t_expect_part(why, cases[i].part);
        assert_null(strstr(why, "AAAA"));
        assert_null(strstr(why, "PRIVATE"));
        assert_int_equal(ERR_peek_error(), 0);
    }
}

/* ---- between two buffers ---- */

typedef struct pair {
    arn_tls *tls;
    arn_tls_conn *conn;
    SSL_CTX *context;
    SSL *server;
    int secured; /* 1, or -1: the client has failed */
    int ended;   /* -1: close_notify has come, -2: reading has failed */
    char got[4096];
    size_t got_len;
} pair;

static void pair_open(pair *p, const arn_tls_config *config, const t_tls_options *options) {
    memset(p, 0, sizeof(*p));
    p->tls = t_tls_of(config);
    p->context = t_tls_context(options);
    p->server = t_tls_side(p->context);
}

static void pair_close(pair *p) {
    t_tls_is_client = 1;
    arn__tls_conn_free(p->conn);
    t_tls_is_client = 0;
    arn_tls_unref(p->tls);
    SSL_free(p->server);
    SSL_CTX_free(p->context);
    ERR_clear_error();
}

static void client_turn(pair *p, const char *data, size_t len) {
    t_tls_is_client = 1;
    if (p->conn == NULL)
        p->conn = arn__tls_conn_new(p->tls, "localhost");
    if (p->conn == NULL) {
        p->secured = -1;
    } else {
        arn__tls_feed(p->conn, data, len);
        if (p->secured == 0)
            p->secured = arn__tls_handshake(p->conn);
        while (p->secured == 1 && p->ended == 0) {
            ptrdiff_t n = arn__tls_read(p->conn, p->got + p->got_len, sizeof(p->got) - p->got_len);
            if (n == 0)
                break;
            if (n > 0)
                p->got_len += (size_t)n;
            else
                p->ended = (int)n;
        }
    }
    t_tls_is_client = 0;
    assert_int_equal(ERR_peek_error(), 0);
}

/* What the client has to say reaches the server. */
static void to_server(pair *p) {
    arn_buf *out = p->conn != NULL ? arn__tls_out(p->conn) : NULL;
    char data[4096];

    if (out != NULL && out->len > 0)
        assert_int_equal(BIO_write(SSL_get_rbio(p->server), out->data, (int)out->len), out->len);
    if (out != NULL)
        arn_buf_reset(out, 0);
    if (!SSL_is_init_finished(p->server))
        SSL_do_handshake(p->server);
    while (SSL_is_init_finished(p->server) && SSL_read(p->server, data, sizeof(data)) > 0)
        ;
    ERR_clear_error();
}

/* So many bytes of the server's, at most, reach the client: how many. They are where nothing is
 * behind them, for the sanitizer. */
static size_t to_client(pair *p, size_t size) {
    char *data = malloc(size);
    int n = BIO_read(SSL_get_wbio(p->server), data, (int)size);
    char *exact = n > 0 ? malloc((size_t)n) : NULL;

    if (n > 0)
        memcpy(exact, data, (size_t)n);
    free(data);
    client_turn(p, exact, n > 0 ? (size_t)n : 0);
    free(exact);
    return n > 0 ? (size_t)n : 0;
}

/* Both say all that they have to, in pieces. */
static void settle(pair *p, size_t piece) {
    int quiet = 0;

    while (quiet < 2 && p->secured >= 0 && p->ended == 0) {
        size_t n = to_client(p, piece);
        to_server(p);
        quiet = n == 0 ? quiet + 1 : 0;
    }
}

static void pieces_of_any_size(void **state) {
    static const size_t pieces[] = {1, 2, 5, 100, 100000};
    arn_tls_config config = t_tls_trusting(t_ids.ca);
    size_t i, k;

    (void)state;
    for (i = 0; i < T_TLS_VERSIONS; i++) {
        for (k = 0; k < COUNT(pieces); k++) {
            t_tls_options options = t_tls_serving(t_ids.good);
            pair p;
            options.version = t_tls_versions[i];
            pair_open(&p, &config, &options);
            settle(&p, pieces[k]);
            assert_int_equal(p.secured, 1);
            assert_int_equal(SSL_version(p.server), t_tls_versions[i]);
            assert_int_equal(SSL_write(p.server, "hello", 5), 5);
            settle(&p, pieces[k]);
            assert_int_equal(p.got_len, 5);
            assert_memory_equal(p.got, "hello", 5);
            assert_int_equal(SSL_shutdown(p.server), 0);
            settle(&p, pieces[k]);
            assert_int_equal(p.ended, -1);
            assert_string_equal(arn__tls_why(p.conn), "");
            pair_close(&p);
        }
    }
}

/* A server's message after the handshake that is half there keeps nothing from being written. */
static void writes_within_a_message_of_the_servers(void **state) {
    arn_tls_config config = t_tls_trusting(t_ids.ca);
    t_tls_options options = t_tls_serving(t_ids.good);
    int refused = 0;
    pair p;

    (void)state;
    config.cert =
        t_pem(t_ids.client->cert_pem); /* which goes into the ticket, so that it is long */
    config.key = t_pem(t_ids.client->key_pem);
    options.client_ca = t_ids.ca;
    options.fragment = 512;
    options.version = TLS1_3_VERSION;
    pair_open(&p, &config, &options);
    while (p.secured == 0) {
        to_client(&p, 1);
        if (p.secured == 0)
            to_server(&p);
    }
    assert_int_equal(p.secured, 1);
    to_server(&p); /* its tickets are on their way */
    assert_true(BIO_pending(SSL_get_wbio(p.server)) > 1024);
    do {
        int r;
        t_tls_is_client = 1;
        r = arn__tls_write(p.conn, "x", 1);
        t_tls_is_client = 0;
        if (r < 0)
            fail_msg("%s", arn__tls_why(p.conn));
        refused += r == 1;
    } while (to_client(&p, 1) > 0);
    assert_true(refused > 0);
    t_tls_is_client = 1;
    assert_int_equal(arn__tls_write(p.conn, "x", 1), 0);
    t_tls_is_client = 0;
    assert_int_equal(p.ended, 0);
    pair_close(&p);
}

/* Any byte of the server's side of the handshake changed: an error with a reason, or none. */
static void every_byte_of_the_handshake_spoilt(void **state) {
    arn_tls_config config = t_tls_trusting(t_ids.ca);
    size_t i, at, failed;

    (void)state;
    for (i = 0; i < T_TLS_VERSIONS; i++) {
        t_tls_options options = t_tls_serving(t_ids.good);
        size_t len = 1;
        failed = 0;
        options.version = t_tls_versions[i];
        for (at = 0; at < len; at++) {
            char *data;
            pair p;
            pair_open(&p, &config, &options);
            client_turn(&p, NULL, 0);
            to_server(&p);
            len = (size_t)BIO_get_mem_data(SSL_get_wbio(p.server), &data);
            if (at < len) /* signatures are not all as long */
                data[at] ^= 0x55;
            settle(&p, len);
            if (p.secured < 0 || p.ended == -2) {
                failed++;
                assert_string_not_equal(arn__tls_why(p.conn), "");
            }
            pair_close(&p);
        }
        assert_true(len > 500);
        assert_in_range(failed, len / 2, len);
    }
}

/* Handshake, and a word each way, with the n-th of the client's allocations failing; 1: it went
 * well. */
static int without_memory_at(long n, const arn_tls_config *config, const t_tls_options *options) {
    int wrote = -1, fine;
    pair p;

    pair_open(&p, config, options);
    arn_alloc_fail_after(n);
    settle(&p, 100000);
    if (p.secured == 1) {
        t_tls_is_client = 1;
        wrote = arn__tls_write(p.conn, "hello", 5);
        t_tls_is_client = 0;
        SSL_write(p.server, "hello", 5);
        settle(&p, 100000);
    }
    fine = wrote == 0 && p.got_len == 5;
    if (p.conn != NULL && (p.secured < 0 || wrote < 0 || p.ended == -2))
        assert_string_not_equal(arn__tls_why(p.conn), "");
    if (options->identity == t_ids.expired)
        assert_int_equal(p.secured, -1);
    pair_close(&p);
    return fine;
}

/* Without memory at any point: an error, nothing leaks, and nothing is trusted that should not. */
static void between_buffers_without_memory(void **state) {
    const t_identity *const servers[] = {t_ids.good, t_ids.expired};
    arn_tls_config config = t_tls_trusting(t_ids.ca);
    size_t i, k;

    (void)state;
    for (i = 0; i < T_TLS_VERSIONS; i++) {
        for (k = 0; k < COUNT(servers); k++) {
            t_tls_options options = t_tls_serving(servers[k]);
            long n, total, failed = 0;
            options.version = t_tls_versions[i];
            assert_int_equal(without_memory_at(-1, &config, &options), k == 0);
            arn_alloc_fail_after(-1);
            without_memory_at(-1, &config, &options);
            total = arn_alloc_fail_after(-1);
            assert_true(total > 100);
            for (n = 0; n < total; n += 1 + n / 100)
                failed += !without_memory_at(n, &config, &options);
            arn_alloc_fail_after(-1);
            assert_true(failed > 100);
        }
    }
}

static void no_memory_for_what_is_encrypted(void **state) {
    arn_tls_config config = t_tls_trusting(t_ids.ca);
    t_tls_options options = t_tls_serving(t_ids.good);
    pair p;

    (void)state;
    pair_open(&p, &config, &options);
    settle(&p, 100000);
    assert_int_equal(p.secured, 1);
    arn_alloc_fail_after(0); /* OpenSSL's own memory is not hooked here */
    assert_int_equal(arn__tls_write(p.conn, "x", 1), -1);
    arn_alloc_fail_after(-1);
    assert_string_equal(arn__tls_why(p.conn), "out of memory");
    pair_close(&p);
}

static void settings_without_memory(void **state) {
    arn_tls_config config = t_tls_trusting(t_ids.ca);
    long n, total = 0, failed = 0;

    (void)state;
    config.cert = t_pem(t_ids.client->cert_pem);
    config.key = t_pem(t_ids.client->key_pem);
    config.server_name = "elsewhere.example";
    arn_alloc_fail_after(-1);
    for (n = -1; n < total; n += 1 + n / 100) {
        char why[200] = "";
        arn_tls *tls;
        arn_alloc_fail_after(n);
        t_tls_is_client = 1;
        tls = arn_tls_new(&config, why, sizeof(why));
        t_tls_is_client = 0;
        if (n == -1)
            total = arn_alloc_fail_after(-1);
        arn_alloc_fail_after(-1);
        if (tls == NULL)
            assert_string_not_equal(why, "");
        failed += tls == NULL;
        assert_int_equal(ERR_peek_error(), 0);
        arn_tls_unref(tls);
    }
    assert_true(total > 100);
    assert_true(failed > 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settings_that_cannot_be),
        cmocka_unit_test(pieces_of_any_size),
        cmocka_unit_test(writes_within_a_message_of_the_servers),
        cmocka_unit_test(every_byte_of_the_handshake_spoilt),
        cmocka_unit_test(between_buffers_without_memory),
        cmocka_unit_test(no_memory_for_what_is_encrypted),
        cmocka_unit_test(settings_without_memory),
    };

    t_tls_hook_memory();
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, t_make_identities, t_drop_identities);
}
