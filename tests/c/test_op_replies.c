/* How an op takes its replies from the reader (client.c), and a tombstone those that come late. */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/status.h"
#include "redis/conn.h"
#include "redis/reader.h"
#include "values.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static int hook_off(void **state) {
    (void)state;
    arn_alloc_fail_after(-1);
    return 0;
}

static arn_redis_client client;

static void op_init(arn_redis_op *op, uint32_t count) {
    memset(op, 0, sizeof(*op));
    arn_op_init(&op->base, NULL, NULL, NULL, 0);
    op->client = &client;
    op->replies = count;
}

static int op_feed(arn_redis_op *op, arn_redis_reader *r, const char *data, size_t len, int late) {
    int status;

    arn__redis_reader_feed(r, data, len);
    do
        status = arn__redis_op_read(op, r, late);
    while (status == 1 && op->got < op->replies);
    return status;
}

static void op_replies(void **state) {
    static const char bytes[] = "+OK\r\n-ERR one\r\n*1\r\n:1\r\n";
    arn_redis_reader *r = arn__redis_reader_new();
    arn_buf text = ARN_BUF_INIT;
    arn_redis_op op;
    size_t i;

    (void)state;
    atomic_store(&client.stats.errors, 0);
    for (i = 0; i < sizeof(bytes); i++) {
        op_init(&op, 3);
        if (i > 0)
            op_feed(&op, r, bytes, i, 0);
        if (i < sizeof(bytes) - 1)
            assert_int_equal(op_feed(&op, r, bytes + i, sizeof(bytes) - 1 - i, 0), 1);
        arn_buf_reset(&text, SIZE_MAX);
        t_dump(&text, &op.base.value);
        assert_int_equal(text.len, strlen("['OK' !ERR one' [1 ] ] "));
        assert_memory_equal(text.data, "['OK' !ERR one' [1 ] ] ", text.len);
        arn_arena_free(&op.base.arena);
    }
    assert_int_equal(atomic_load(&client.stats.errors), sizeof(bytes));
    op_init(&op, 1);
    assert_int_equal(op_feed(&op, r, TEXT(":8\r\n"), 0), 1);
    assert_int_equal(op.base.value.kind, ARN_INT);
    assert_int_equal(op.base.value.u.integer, 8);
    arn_arena_free(&op.base.arena);
    op_init(&op, 3);
    arn_alloc_fail_after(0);
    assert_int_equal(op_feed(&op, r, TEXT(":8\r\n"), 0), ARN_ENOMEM);
    arn_buf_free(&text);
    arn__redis_reader_free(r);
}

/* From the late moment on the value is the caller's; the replies are counted all the same, a large
 * one under way is finished, and the next op's reply is right. */
static void late_replies(void **state) {
    arn_buf bytes = ARN_BUF_INIT;
    arn_redis_op op, next;
    size_t cut;

    (void)state;
    t_put(&bytes, TEXT("+OK\r\n"));
    t_put_bulk(&bytes, 70000);
    t_put(&bytes, TEXT("*2\r\n:1\r\n-ERR\r\n"));
    for (cut = 0; cut < bytes.len; cut += cut < 40 || cut + 40 > bytes.len ? 1 : 997) {
        arn_redis_reader *r = arn__redis_reader_new();
        arn_value before;

        op_init(&op, 3);
        if (cut > 0)
            assert_int_equal(op_feed(&op, r, bytes.data, cut, 0), 0);
        before = op.base.value;
        assert_int_equal(op_feed(&op, r, bytes.data + cut, bytes.len - cut, 1), 1);
        assert_int_equal(op.got, 3);
        assert_int_equal(arn__redis_reader_pending(r), 0);
        assert_memory_equal(&op.base.value, &before, sizeof(before));
        arn_arena_free(&op.base.arena);

        op_init(&next, 1);
        assert_int_equal(op_feed(&next, r, TEXT(":42\r\n"), 0), 1);
        assert_int_equal(next.base.value.u.integer, 42);
        arn_arena_free(&next.base.arena);
        arn__redis_reader_free(r);
    }
    arn_buf_free(&bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(op_replies, hook_off),
        cmocka_unit_test(late_replies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
