#include "grpc_kit.h"

#include "arn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_MS 20000
#define GRPC ":status", "200", "content-type", "application/grpc"

arn_port *t_grpc_port;

arn_grpc_config t_grpc_config_of(int server_port) {
    return (arn_grpc_config){.host = "127.0.0.1",
                             .port = server_port,
                             .user_agent = "test",
                             .max_receive = -1,
                             .connect_ms = 10000,
                             .keepalive_ms = 10000,
                             .keepalive_timeout_ms = 5000,
                             .max_connections = 4};
}

arn_grpc_channel *t_grpc_channel(const arn_grpc_config *config) {
    int status;
    arn_runtime *rt = arn_runtime_get(&status);
    arn_grpc_channel *channel;

    assert_non_null(rt);
    channel = arn_grpc_channel_new(rt, config);
    assert_non_null(channel);
    return channel;
}

arn_grpc_channel *t_grpc_channel_to(const t_h2 *server) {
    arn_grpc_config config = t_grpc_config_of(t_h2_port(server));

    return t_grpc_channel(&config);
}

arn_grpc_op *t_grpc_op(arn_grpc_channel *channel, const char *path, const void *message,
                       size_t len) {
    arn_grpc_config config = t_grpc_config_of(1);
    arn_grpc_head *head = arn_grpc_head_new(&config, path, strlen(path), NULL, 0);
    arn_grpc_op *op;

    assert_non_null(head);
    op = arn_grpc_op_new(channel, head, NULL, 0);
    arn_grpc_head_unref(head);
    assert_non_null(op);
    op->message = (arn_slice){message, len};
    return op;
}

void t_grpc_submit(arn_grpc_op *op) {
    arn_op_set_port(&op->base, t_grpc_port);
    arn_op_ref(&op->base); /* the test's */
    arn_runtime_submit(arn_grpc_channel_runtime(op->channel), &op->base.msg, &op->base.msg);
}

/* Ops come in the order in which they end, and several at a time. */
static arn_op *taken;

arn_op *t_grpc_next_op(void) {
    arn_op *op;

    if (taken == NULL)
        taken = arn_port_wait(t_grpc_port, WAIT_MS);
    op = taken;
    if (op != NULL)
        taken = op->next_done;
    return op;
}

void t_grpc_wait_for(arn_grpc_op *op) {
    arn_op **p = &taken;

    while (*p != &op->base) {
        if (*p != NULL) {
            p = &(*p)->next_done;
            continue;
        }
        *p = arn_port_wait(t_grpc_port, WAIT_MS);
        assert_non_null(*p);
    }
    *p = op->base.next_done;
    arn_op_unref(&op->base);
}

arn_grpc_op *t_grpc_run(arn_grpc_channel *channel, const char *path, const void *message,
                        size_t len) {
    arn_grpc_op *op = t_grpc_op(channel, path, message, len);

    t_grpc_submit(op);
    t_grpc_wait_for(op);
    return op;
}

void t_grpc_expect_echo(arn_grpc_channel *channel, const void *message, size_t len) {
    arn_grpc_op *op = t_grpc_run(channel, "/t/echo", message, len);
    arn_slice reply;

    if (op->base.status != ARN_OK)
        print_message("%d %s\n", op->reply.code, op->base.message);
    assert_int_equal(op->base.status, ARN_OK);
    assert_int_equal(op->reply.code, ARN_GRPC_OK);
    reply = arn_grpc_reply_message(&op->reply);
    assert_int_equal(reply.len, len);
    assert_true(len == 0 || memcmp(reply.data, message, len) == 0);
    arn_op_unref(&op->base);
}

void t_grpc_expect_failure(arn_grpc_op *op, int code, const char *part) {
    if (op->reply.code != code || (part != NULL && strstr(op->base.message, part) == NULL))
        print_message("%d %s\n", op->reply.code, op->base.message);
    assert_int_equal(op->reply.code, code);
    assert_true(op->base.status < 0);
    if (part != NULL)
        assert_non_null(strstr(op->base.message, part));
    arn_op_unref(&op->base);
}

void t_grpc_until(int (*counter)(const t_h2 *), const t_h2 *server, int count) {
    int i;

    for (i = 0; i < 10000 && counter(server) < count; i++)
        usleep(1000);
    assert_true(counter(server) >= count);
}

char *t_grpc_bytes_of(size_t len) {
    char *bytes = malloc(len);
    size_t i;

    assert_non_null(bytes);
    for (i = 0; i < len; i++)
        bytes[i] = (char)(i * 31 + (i >> 8));
    return bytes;
}

void t_grpc_run_many(arn_grpc_channel *channel, size_t count) {
    char(*messages)[24] = calloc(count, 24);
    arn_grpc_op **ops = calloc(count, sizeof(*ops));
    size_t i;

    for (i = 0; i < count; i++) {
        snprintf(messages[i], 24, "%zu", i);
        ops[i] = t_grpc_op(channel, "/t/echo", messages[i], 24);
        t_grpc_submit(ops[i]);
    }
    for (i = 0; i < count; i++)
        arn_op_unref(t_grpc_next_op());
    for (i = 0; i < count; i++) {
        assert_int_equal(ops[i]->base.status, ARN_OK);
        assert_memory_equal(arn_grpc_reply_message(&ops[i]->reply).data, messages[i], 24);
        arn_op_unref(&ops[i]->base);
    }
    free(messages);
    free(ops);
}

void t_grpc_scripted(const t_h2_request *r, void *arg) {
    static const char *const plain[] = {GRPC, NULL};
    static const char *const html[] = {":status", "200", "content-type", "text/html", NULL};
    static const char *const fine[] = {"grpc-status", "0", NULL};
    static const char *const rich[] = {
        "grpc-status", "5", "grpc-message", "caf%C3%A9 %zz%0", "x", "1", "k-bin", "AAH/", NULL};
    static const char *const odd[] = {"grpc-status", "five", NULL};
    static const char *const early[] = {GRPC, "grpc-status", "13", "grpc-message", "early", NULL};
    const char *status[] = {":status", r->path + 6, NULL};
    const char *p = r->path;

    (void)arg;
    if (strcmp(p, "/t/echo") == 0)
        t_h2_echo(r, NULL);
    else if (strcmp(p, "/rich") == 0)
        t_h2_respond(r, plain, "\0\0\0\0\1x", 6, rich);
    else if (strcmp(p, "/odd") == 0)
        t_h2_respond(r, plain, "\0\0\0\0\1x", 6, odd);
    else if (strcmp(p, "/only") == 0)
        t_h2_status(r, "7", "no%20way%21");
    else if (strcmp(p, "/only-ok") == 0)
        t_h2_status(r, "0", NULL);
    else if (strcmp(p, "/none") == 0)
        t_h2_respond(r, plain, "", 0, fine);
    else if (strcmp(p, "/short") == 0)
        t_h2_respond(r, plain, "\0\0\0\0\5abc", 8, fine);
    else if (strcmp(p, "/shorter") == 0)
        t_h2_respond(r, plain, "\0\0\0", 3, fine);
    else if (strcmp(p, "/two") == 0)
        t_h2_respond(r, plain, "\0\0\0\0\1a\0\0\0\0\1b", 12, fine);
    else if (strcmp(p, "/compressed") == 0)
        t_h2_respond(r, plain, "\1\0\0\0\1a", 6, fine);
    else if (strcmp(p, "/flag") == 0)
        t_h2_respond(r, plain, "\2\0\0\0\1a", 6, fine);
    else if (strcmp(p, "/huge") == 0)
        t_h2_respond(r, plain, "\0\377\377\377\377a", 6, fine);
    else if (strcmp(p, "/html") == 0)
        t_h2_respond(r, html, "<html>", 6, NULL);
    else if (strcmp(p, "/html-ok") == 0)
        t_h2_respond(r, html, "\0\0\0\0\1a", 6, fine);
    else if (strcmp(p, "/without") == 0)
        t_h2_respond(r, plain, "\0\0\0\0\1a", 6, NULL);
    else if (strcmp(p, "/early") == 0)
        t_h2_respond(r, early, "\0\0\0\0\1a", 6, fine);
    else if (strncmp(p, "/http/", 6) == 0)
        t_h2_respond(r, status, "\0\0\0\0\1a", 6, NULL);
    else if (strncmp(p, "/rst/", 5) == 0)
        t_h2_reset(r, (uint32_t)atoi(p + 5));
    else if (strcmp(p, "/close") == 0)
        t_h2_close(r);
    else if (strcmp(p, "/abort") == 0)
        t_h2_abort(r);
    else if (strcmp(p, "/rubbish") == 0)
        t_h2_raw(r, "\377\377\377\377\377\377\377\377\377\377\377\377", 12);
    else if (strcmp(p, "/calm") == 0)
        t_h2_goaway(r, r->stream, NGHTTP2_ENHANCE_YOUR_CALM, "too_many_pings");
    else if (strcmp(p, "/silence") != 0)
        fail_msg("%s", p);
}

int t_grpc_set_up(void **state) {
    int status;

    (void)state;
    t_grpc_port = arn_port_new(ARN_PORT_WAIT, &status);
    return t_grpc_port == NULL;
}

int t_grpc_tear_down(void **state) {
    (void)state;
    arn_port_close(t_grpc_port);
    arn_port_unref(t_grpc_port);
    return arn_runtime_stop(5000) != ARN_OK;
}
