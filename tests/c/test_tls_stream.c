/* A stream with TLS, to a server that does what it is told: who is trusted, what breaks, much at
 * once. */
#include "arn.h"
#include "base/alloc.h"
#include "base/status.h"
#include "io/stream.h"
#include "redis_server.h"
#include "tls_kit.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MB ((size_t)1 << 20)

typedef enum moment { NEVER, ON_OPEN, ON_DATA } moment;

typedef struct peer {
    arn_runtime *rt;
    arn_tls *tls;
    arn_stream_target target;
    arn_stream *stream;
    const char *to_send;
    size_t send_len;
    size_t piece; /* bytes of it that are appended at a time */
    moment close_at;
    size_t got_len;
    size_t sent, most_in_flight;
    int opened, error, released, appended_refs, is_closed;
    int misled; /* an event that must not have been */
    char why[300];
    /* What the main thread may look at while the io thread is at work. */
    _Atomic size_t has_got;
    _Atomic int is_open;
    _Atomic int is_over; /* an error has come, or it was closed */
} peer;

/* What the peer of the running test has got. */
static char *got;
static size_t got_cap;

static void close_peer(peer *p) {
    if (!p->is_closed)
        arn__stream_close(p->stream);
    p->is_closed = 1;
    p->is_over = 1;
}

static void on_release(void *arg) {
    ((peer *)arg)->released++;
}

/* Small pieces are copied, large ones referenced, as the protocols do. */
static int append_all(peer *p) {
    size_t at, n;

    for (at = 0; at < p->send_len; at += n) {
        n = p->piece < p->send_len - at ? p->piece : p->send_len - at;
        if (n <= 4096 ? arn__stream_append(p->stream, p->to_send + at, n) != 0
                      : arn__stream_append_ref(p->stream, p->to_send + at, n, on_release, p) != 0)
            return ARN_ENOMEM;
        p->appended_refs += n > 4096;
    }
    arn__stream_flush(p->stream);
    return 0;
}

static void on_open(void *owner) {
    peer *p = owner;

    p->opened++;
    p->is_open = 1;
    if (p->close_at == ON_OPEN)
        close_peer(p);
    else
        arn__stream_flush(p->stream);
}

static void on_data(void *owner, const char *data, size_t len) {
    peer *p = owner;

    p->misled |= p->opened != 1;
    if (p->got_len + len > got_cap) {
        got_cap = 2 * (p->got_len + len);
        got = realloc(got, got_cap);
    }
    memcpy(got + p->got_len, data, len);
    p->got_len += len;
    p->has_got = p->got_len;
    if (p->close_at == ON_DATA)
        close_peer(p);
}

static void on_sent(void *owner, size_t n) {
    peer *p = owner;

    p->sent += n;
    if (arn__stream_in_flight(p->stream) > p->most_in_flight)
        p->most_in_flight = arn__stream_in_flight(p->stream);
}

static void on_error(void *owner, int error) {
    peer *p = owner;
    const char *why = arn__stream_why(p->stream);

    p->misled |= p->is_closed;
    p->error = error;
    snprintf(p->why, sizeof(p->why), "%s", why != NULL ? why : "");
    close_peer(p);
}

static const arn_stream_events events = {on_open, NULL, on_data, on_sent, on_error};

static void open_peer(void *arg) {
    peer *p = arg;

    p->stream = arn__stream_open(p->rt, &p->target, &events, p);
    if (p->stream == NULL)
        p->is_closed = p->is_over = 1;
    else if (append_all(p) != 0)
        close_peer(p);
}

static void end_peer(void *arg) {
    close_peer(arg);
}

static void start_peer(peer *p, const t_tls_server *server, const arn_tls_config *config) {
    p->rt = t_running();
    p->tls = t_tls_of(config);
    p->target = (arn_stream_target){.host = "127.0.0.1", .port = t_tls_port(server), .tls = p->tls};
    if (p->piece == 0)
        p->piece = 100000;
    t_on_io(p->rt, open_peer, p);
}

/* The stream is gone, and nothing of it is left. */
static void finish_peer(peer *p) {
    t_on_io(p->rt, end_peer, p);
    t_barrier(p->rt); /* what libuv closes is closed by then */
    assert_int_equal(p->released, p->appended_refs);
    assert_int_equal(p->misled, 0);
    arn_tls_unref(p->tls);
}

static void wait_for(peer *p, size_t bytes) {
    UNTIL(p->is_over || p->has_got >= bytes);
}

static void expect_pattern(const peer *p, size_t len) {
    size_t i;

    assert_int_equal(p->got_len, len);
    for (i = 0; i < len; i++)
        if (got[i] != t_tls_byte(i))
            fail_msg("byte %zu of %zu", i, len);
}

static char *pattern(size_t len) {
    char *bytes = malloc(len);
    size_t i;

    assert_non_null(bytes);
    for (i = 0; i < len; i++)
        bytes[i] = t_tls_byte(i);
    return bytes;
}

/* ---- who is trusted ---- */

static void the_word_of_a_server(void **state) {
    const struct {
        const t_identity *identity, *client_ca;
        const char *alpn;
        const t_identity *client;
        const char *server_name;
        const char *part; /* of the reason, by version; NULL: it works */
        const char *part_1_3;
        int verify;
    } cases[] = {
        {t_ids.good, NULL, "h2", NULL, NULL, NULL, NULL, 1},
        {t_ids.good, NULL, "h2", NULL, "localhost", NULL, NULL, 1},
        {t_ids.good, NULL, "h2", NULL, "example.org", "mismatch", NULL, 1},
        {t_ids.elsewhere, NULL, "h2", NULL, NULL, "IP address mismatch", NULL, 1},
        {t_ids.elsewhere, NULL, "h2", NULL, "localhost", "ostname mismatch", NULL, 1},
        {t_ids.elsewhere, NULL, "h2", NULL, "elsewhere.example", NULL, NULL, 1},
        {t_ids.elsewhere, NULL, "h2", NULL, NULL, NULL, NULL, 0},
        {t_ids.expired, NULL, "h2", NULL, NULL, "expired", NULL, 1},
        {t_ids.early, NULL, "h2", NULL, NULL, "not yet valid", NULL, 1},
        {t_ids.stranger, NULL, "h2", NULL, NULL, "a CA of your own", NULL, 1},
        {t_ids.self_signed, NULL, "h2", NULL, NULL, "a CA of your own", NULL, 1},
        {t_ids.self_signed, NULL, "h2", NULL, NULL, NULL, NULL, 0},
        {t_ids.good, NULL, NULL, NULL, NULL, "does not speak h2", NULL, 1},
        /* Newer t_tls_versions of OpenSSL see themselves that this was not offered. */
        {t_ids.good, NULL, "http/1.1", NULL, NULL, "TLS", NULL, 1},
        {t_ids.good, NULL, "h2c", NULL, NULL, "TLS", NULL, 1},
        {t_ids.good, t_ids.ca, "h2", t_ids.client, NULL, NULL, NULL, 1},
        {t_ids.good, t_ids.ca, "h2", NULL, NULL, "handshake failure", "certificate required", 1},
        {t_ids.good, t_ids.other_ca, "h2", t_ids.client, NULL, "unknown ca", NULL, 1},
        {t_ids.good, t_ids.ca, "h2", t_ids.stranger, NULL, "unknown ca", NULL, 1},
    };
    size_t i, k;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        for (k = 0; k < T_TLS_VERSIONS; k++) {
            t_tls_options options = t_tls_serving(cases[i].identity);
            arn_tls_config config = t_tls_trusting(t_ids.ca);
            const char *part =
                k == 1 && cases[i].part_1_3 != NULL ? cases[i].part_1_3 : cases[i].part;
            peer p = {.to_send = "hello", .send_len = 5};
            t_tls_server *server;

            options.client_ca = cases[i].client_ca;
            options.alpn = cases[i].alpn;
            options.version = t_tls_versions[k];
            config.server_name = cases[i].server_name;
            config.verify = cases[i].verify;
            if (cases[i].client != NULL) {
                config.cert = t_pem(cases[i].client->cert_pem);
                config.key = t_pem(cases[i].client->key_pem);
            }
            server = t_tls_start(&options);
            start_peer(&p, server, &config);
            wait_for(&p, 5);
            finish_peer(&p);
            t_tls_stop(server);
            if (part == NULL) {
                if (p.error != 0)
                    fail_msg("case %zu: %s", i, p.why);
                assert_int_equal(p.opened, 1);
                assert_int_equal(p.sent, 5);
                continue;
            }
            assert_int_equal(p.error, UV_EPROTO);
            t_expect_part(p.why, part);
            /* TLS 1.3 is done before the server has looked at the client's certificate. */
            if (!(k == 1 && cases[i].client_ca != NULL))
                assert_int_equal(p.sent, 0);
            assert_int_equal(p.got_len, 0);
        }
    }
}

/* ---- servers that fail ---- */

/* A handshake that ends anywhere is an error, of the socket's; nothing has been sent by then. */
static void cut_in_the_handshake(void **state) {
    size_t cut, i, len;
    int reset;

    (void)state;
    for (i = 0; i < T_TLS_VERSIONS; i++) {
        arn_tls_config config = t_tls_trusting(t_ids.ca);
        t_tls_options options = t_tls_serving(t_ids.good);
        len = 100000;
        options.version = t_tls_versions[i];
        options.pieces = 100;
        for (cut = 1; cut < len; cut += 37) {
            for (reset = 0; reset < 2; reset++) {
                peer p = {.to_send = "hello", .send_len = 5};
                t_tls_server *server;
                options.cut = cut;
                options.reset = reset;
                server = t_tls_start(&options);
                start_peer(&p, server, &config);
                wait_for(&p, 5);
                if (p.has_got == 5)
                    len = cut;
                finish_peer(&p);
                t_tls_stop(server);
                assert_true(p.got_len == 0 || p.opened);
                if (p.got_len == 5)
                    continue;
                assert_true(p.error == UV_EOF || p.error == UV_ECONNRESET || p.error == UV_EPIPE);
                assert_string_equal(p.why, "");
                if (!p.opened)
                    assert_int_equal(p.sent, 0);
            }
        }
        assert_in_range(len, 500, 20000);
    }
}

static void garbage_in_place_of_a_hello(void **state) {
    static char zeros[20000], ones[20000];
    const arn_slice cases[] = {
        t_pem("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
        t_pem("-ERR unknown command\r\n"),
        {"\x15\x03\x03\x00\x02\x02\x28", 7},                      /* alert: handshake failure */
        {"\x15\x03\x03\x00\x02\x01\x00", 7},                      /* alert: close_notify */
        {"\x16\x03\x03\xff\xff\x02\x00\x00\x00", 9},              /* a record that is too long */
        {"\x16\x03\x03\x00\x04\x02\xff\xff\xff", 9},              /* a ServerHello of 16 MB */
        {"\x16\x03\x03\x00\x04\x0e\x00\x00\x00", 9},              /* ServerHelloDone at once */
        {"\x17\x03\x03\x00\x01x", 6},                             /* data at once */
        {"\x14\x03\x03\x00\x01\x01\x14\x03\x03\x00\x01\x01", 12}, /* ChangeCipherSpec, twice */
        {zeros, sizeof(zeros)},
        {ones, sizeof(ones)},
    };
    size_t i;

    (void)state;
    memset(ones, 0xff, sizeof(ones));
    for (i = 0; i < COUNT(cases); i++) {
        t_tls_options options = t_tls_serving(t_ids.good);
        arn_tls_config config = t_tls_trusting(t_ids.ca);
        peer p = {.to_send = "hello", .send_len = 5};
        t_tls_server *server;

        options.raw = cases[i];
        server = t_tls_start(&options);
        start_peer(&p, server, &config);
        wait_for(&p, 1);
        finish_peer(&p);
        t_tls_stop(server);
        assert_int_equal(p.opened, 0);
        assert_int_equal(p.sent, 0);
        if (p.error == UV_EOF) /* it still waited for more */
            assert_string_equal(p.why, "");
        else
            assert_int_equal(p.error, UV_EPROTO);
        if (p.error == UV_EPROTO)
            t_expect_part(p.why, "TLS handshake has failed");
    }
}

/* The connection is lost within a record: what was whole has come, then the end. */
static void cut_in_a_record(void **state) {
    size_t total, i;

    (void)state;
    for (i = 0; i < T_TLS_VERSIONS; i++) {
        t_tls_options options = t_tls_serving(t_ids.good);
        arn_tls_config config = t_tls_trusting(t_ids.ca);
        size_t cut;
        options.version = t_tls_versions[i];
        options.source = 100000;
        for (cut = 0, total = 0; cut < 3; cut++) {
            peer p = {.to_send = "x", .send_len = 1};
            /* All of it; cut within the close_notify; within the record before it. Signatures
             * are not all as long: that is some bytes. */
            t_tls_server *server;
            options.cut = cut == 0 ? 0 : cut == 1 ? total - 10 : total - 200;
            server = t_tls_start(&options);
            start_peer(&p, server, &config);
            UNTIL(p.is_over);
            t_on_io(p.rt, end_peer, &p);
            UNTIL(t_tls_ended(server) == 1);
            if (cut == 0)
                total = t_tls_sent(server);
            assert_int_equal(p.error, UV_EOF);
            assert_string_equal(p.why, "");
            expect_pattern(&p, cut < 2 ? 100000 : 100000 - 100000 % 16384);
            finish_peer(&p);
            t_tls_stop(server);
        }
    }
}

/* ---- much, and closing ---- */

static void much_both_ways(void **state) {
    static const size_t pieces[] = {3000, 100000, 8 * MB};
    char *bytes = pattern(8 * MB);
    size_t i, k;

    (void)state;
    for (i = 0; i < T_TLS_VERSIONS; i++) {
        for (k = 0; k < COUNT(pieces); k++) {
            t_tls_options options = t_tls_serving(t_ids.good);
            arn_tls_config config = t_tls_trusting(t_ids.ca);
            peer p = {.to_send = bytes, .send_len = 8 * MB, .piece = pieces[k]};
            t_tls_server *server;
            options.version = t_tls_versions[i];
            if (i == 1)
                options.key_updates = 300000;
            options.pieces = k == 0 ? 5000 : 0;
            server = t_tls_start(&options);
            start_peer(&p, server, &config);
            wait_for(&p, 8 * MB);
            finish_peer(&p);
            t_tls_stop(server);
            if (p.error != 0)
                fail_msg("%d %s", p.error, p.why);
            expect_pattern(&p, 8 * MB);
            assert_int_equal(p.sent, 8 * MB);
            assert_in_range(p.most_in_flight, 0, 256 * 1024);
        }
    }
    free(bytes);
}

static void append_byte(void *arg) {
    peer *p = arg;

    if (!p->is_closed && arn__stream_append(p->stream, p->to_send + p->send_len++, 1) == 0)
        arn__stream_flush(p->stream);
}

/* The server's tickets come in several records, with pauses: what is written meanwhile waits for
 * the rest of them. */
static void writes_while_tickets_come(void **state) {
    t_tls_options options = t_tls_serving(t_ids.good);
    arn_tls_config config = t_tls_trusting(t_ids.ca);
    char *bytes = pattern(200);
    peer p = {.to_send = bytes};
    t_tls_server *server;

    (void)state;
    config.cert = t_pem(t_ids.client->cert_pem);
    config.key = t_pem(t_ids.client->key_pem);
    options.client_ca = t_ids.ca;
    options.fragment = 512;
    options.version = TLS1_3_VERSION;
    options.pieces = 100;
    options.pause_ms = 2;
    server = t_tls_start(&options);
    start_peer(&p, server, &config);
    UNTIL(p.is_open || p.is_over);
    while (p.send_len < 200 && !p.is_over) {
        t_on_io(p.rt, append_byte, &p);
        usleep(500);
    }
    wait_for(&p, 200);
    finish_peer(&p);
    t_tls_stop(server);
    assert_string_equal(p.why, "");
    expect_pattern(&p, 200);
    free(bytes);
}

static void closed_in_the_handshake(void **state) {
    t_tls_options options = t_tls_serving(t_ids.good);
    arn_tls_config config = t_tls_trusting(t_ids.ca);
    char *bytes = pattern(MB);
    int stage;

    (void)state;
    /* At once; when the ClientHello is there; when the server's part has come but for its end. */
    for (stage = 0; stage < 3; stage++) {
        peer p = {.to_send = bytes, .send_len = MB};
        t_tls_server *server;
        options.silent = stage < 2;
        options.cut = stage == 2 ? 700 : 0;
        server = t_tls_start(&options);
        start_peer(&p, server, &config);
        if (stage > 0)
            UNTIL(t_tls_greeted(server) == 1);
        t_on_io(p.rt, end_peer, &p);
        finish_peer(&p);
        assert_int_equal(p.opened, 0);
        assert_int_equal(p.sent, 0);
        t_tls_stop(server);
    }
    free(bytes);
}

static void closed_from_its_events(void **state) {
    static const moment moments[] = {ON_OPEN, ON_DATA};
    char *bytes = pattern(MB);
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(moments); i++) {
        t_tls_options options = t_tls_serving(t_ids.good);
        arn_tls_config config = t_tls_trusting(t_ids.ca);
        peer p = {.to_send = bytes, .send_len = MB, .close_at = moments[i]};
        t_tls_server *server = t_tls_start(&options);
        start_peer(&p, server, &config);
        UNTIL(p.is_over);
        finish_peer(&p);
        t_tls_stop(server);
        assert_int_equal(p.opened, 1);
        assert_int_equal(p.error, 0);
    }
    free(bytes);
}

static void hook_this_thread(void *arg) {
    t_tls_is_client = *(int *)arg;
}

static void a_stream_without_memory(void **state) {
    t_tls_options options = t_tls_serving(t_ids.good);
    arn_tls_config config = t_tls_trusting(t_ids.ca);
    t_tls_server *server = t_tls_start(&options);
    char *bytes = pattern(100000);
    int ended_well = 0, on = 1, off = 0;
    long n;

    (void)state;
    for (n = 0; n < 5000 && ended_well < 5; n++) {
        peer p = {.to_send = bytes, .send_len = 100000, .piece = 100000};
        t_on_io(t_running(), hook_this_thread, &on);
        p.rt = t_running();
        p.tls = t_tls_of(&config);
        p.target =
            (arn_stream_target){.host = "127.0.0.1", .port = t_tls_port(server), .tls = p.tls};
        arn_alloc_fail_after(n);
        t_on_io(p.rt, open_peer, &p);
        wait_for(&p, 100000);
        arn_alloc_fail_after(-1);
        t_on_io(p.rt, hook_this_thread, &off);
        finish_peer(&p);
        if (p.got_len == 100000)
            expect_pattern(&p, 100000);
        else
            assert_true(p.error == UV_EPROTO || p.error == UV_ENOMEM || p.is_closed == 1);
        ended_well = p.got_len == 100000 ? ended_well + 1 : 0;
    }
    assert_int_equal(ended_well, 5);
    assert_true(n > 100);
    free(bytes);
    t_tls_stop(server);
}

static int drop_all(void **state) {
    free(got);
    return t_drop_identities(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(the_word_of_a_server, t_stop_runtime),
        cmocka_unit_test_teardown(cut_in_the_handshake, t_stop_runtime),
        cmocka_unit_test_teardown(garbage_in_place_of_a_hello, t_stop_runtime),
        cmocka_unit_test_teardown(cut_in_a_record, t_stop_runtime),
        cmocka_unit_test_teardown(much_both_ways, t_stop_runtime),
        cmocka_unit_test_teardown(writes_while_tickets_come, t_stop_runtime),
        cmocka_unit_test_teardown(closed_in_the_handshake, t_stop_runtime),
        cmocka_unit_test_teardown(closed_from_its_events, t_stop_runtime),
        cmocka_unit_test_teardown(a_stream_without_memory, t_stop_runtime),
    };

    t_tls_hook_memory();
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, t_make_identities, drop_all);
}
