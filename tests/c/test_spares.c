/* base/spares: memory of large buffers that is used again, by any thread. */
#include "base/spares.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KB 1024u

static arn_buf filled(size_t size) {
    arn_buf buf = ARN_BUF_INIT;

    assert_non_null(arn_buf_reserve(&buf, size));
    memset(buf.data, 'x', size);
    buf.len = size;
    return buf;
}

static void is_empty(const arn_buf *buf) {
    assert_null(buf->data);
    assert_int_equal(buf->len, 0);
    assert_int_equal(buf->cap, 0);
}

static void used_again(void **state) {
    arn_spares spares = {0};
    arn_buf buf = filled(200 * KB), next = ARN_BUF_INIT;
    char *memory = buf.data;
    size_t cap = buf.cap;

    (void)state;
    arn_spares_give(&spares, &buf);
    is_empty(&buf);
    arn_spares_take(&spares, &next, cap + 1); /* too small for that */
    is_empty(&next);
    arn_spares_take(&spares, &next, 150 * KB);
    assert_ptr_equal(next.data, memory);
    assert_int_equal(next.cap, cap);
    assert_int_equal(next.len, 0);
    assert_int_equal(spares.kept, 0);
    arn_spares_take(&spares, &buf, 150 * KB); /* there is no other */
    is_empty(&buf);
    arn_buf_free(&next);
    arn_spares_free(&spares);
}

static void what_is_not_kept(void **state) {
    size_t sizes[] = {0, 1, 32 * KB, 1025 * KB, 3000 * KB};
    arn_spares spares = {0};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        arn_buf buf = filled(sizes[i]);
        arn_spares_give(&spares, &buf);
        is_empty(&buf);
        assert_int_equal(spares.kept, 0);
    }
    {
        arn_buf none = ARN_BUF_INIT;
        arn_spares_give(&spares, &none);
        is_empty(&none);
    }
    arn_spares_free(&spares);
}

/* No more than 4 MB, nor more blocks than there are places. */
static void bounded(void **state) {
    size_t sizes[] = {1000 * KB, 60 * KB}, kept[] = {4096 * KB, ARN_SPARES * 64 * KB};
    size_t i, n;

    (void)state;
    for (i = 0; i < 2; i++) {
        arn_spares spares = {0};
        for (n = 0; n < 40; n++) {
            arn_buf buf = filled(sizes[i]);
            arn_spares_give(&spares, &buf);
        }
        assert_int_equal(spares.kept, kept[i]);
        arn_spares_free(&spares);
        assert_int_equal(spares.kept, 0);
    }
}

/* A small buffer does not get a large block's memory: it would be lost for a large one. */
static void not_for_small_ones(void **state) {
    arn_spares spares = {0};
    arn_buf buf = filled(100 * KB), small = ARN_BUF_INIT;

    (void)state;
    arn_spares_give(&spares, &buf);
    arn_spares_take(&spares, &small, 1000);
    is_empty(&small);
    arn_spares_free(&spares);
}

static arn_spares shared;

static void *take_and_give(void *arg) {
    unsigned mark = (unsigned)(uintptr_t)arg;
    size_t i, n;

    for (n = 0; n < 2000; n++) {
        size_t size = (64 + (n * 37 + mark * 11) % 400) * KB;
        arn_buf buf = ARN_BUF_INIT;
        arn_spares_take(&shared, &buf, size);
        if (arn_buf_reserve(&buf, size) == NULL)
            abort();
        for (i = 0; i < size; i += 16 * KB)
            buf.data[i] = (char)mark;
        for (i = 0; i < size; i += 16 * KB)
            if (buf.data[i] != (char)mark)
                abort();
        buf.len = size;
        arn_spares_give(&shared, &buf);
    }
    return NULL;
}

static void threads(void **state) {
    pthread_t ids[4];
    size_t i;

    (void)state;
    for (i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&ids[i], NULL, take_and_give, (void *)(uintptr_t)(i + 1)),
                         0);
    for (i = 0; i < 4; i++)
        pthread_join(ids[i], NULL);
    arn_spares_free(&shared);
    assert_int_equal(shared.kept, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(used_again), cmocka_unit_test(what_is_not_kept),
        cmocka_unit_test(bounded),    cmocka_unit_test(not_for_small_ones),
        cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
