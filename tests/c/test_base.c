/* The base room: status, arena, buf, queue, and the hook that makes allocations fail; base64;
 * and the packing of requests (redis/pack). */
#include "base/alloc.h"
#include "base/arena.h"
#include "base/base64.h"
#include "base/buf.h"
#include "base/queue.h"
#include "base/status.h"
#include "base/value.h"
#include "redis/pack.h"
#include "redis/reader.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define TEXT(literal) literal, sizeof(literal) - 1

static int hook_off(void **state) {
    (void)state;
    arn_alloc_fail_after(-1);
    return 0;
}

/* ---- status ---- */

static const struct {
    int status;
    const char *name;
    const char *message;
} statuses[] = {{ARN_OK, "OK", "success"},
#define XX(name, message) {ARN_##name, #name, message},
                ARN_STATUS_MAP(XX)
#undef XX
};

static void status_names(void **state) {
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(statuses); i++) {
        assert_int_equal(statuses[i].status, -(int)i); /* -1, -2, ... in the order of the map */
        assert_string_equal(arn_status_name(statuses[i].status), statuses[i].name);
        assert_string_equal(arn_status_message(statuses[i].status), statuses[i].message);
    }
    /* The numbers are what hosts compiled earlier know. */
    assert_int_equal(ARN_ENOMEM, -1);
    assert_string_equal(arn_status_name(ARN_EPROTO), "EPROTO");
    assert_string_equal(arn_status_message(ARN_EPROTO), "the peer broke the protocol");
}

static void status_unknown(void **state) {
    int unknown[] = {1, 100, -(int)COUNT(statuses), -100, -101, INT_MAX, INT_MIN};
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(unknown); i++) {
        assert_string_equal(arn_status_name(unknown[i]), "UNKNOWN");
        assert_string_equal(arn_status_message(unknown[i]), "unknown status");
    }
}

/* ---- arena ---- */

static void assert_aligned(const void *p) {
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % _Alignof(arn_value), 0);
}

static int is_within(const void *p, size_t size, const void *start, size_t len) {
    return (uintptr_t)p >= (uintptr_t)start && (uintptr_t)p + size <= (uintptr_t)start + len;
}

static void arena_alignment(void **state) {
    char lent[256];
    size_t offset, size;

    (void)state;
    for (offset = 0; offset < 16; offset++) {
        arn_arena arena;
        arn_arena_init(&arena, lent + offset, sizeof(lent) - offset);
        for (size = 0; size < 40; size++) {
            char *p = arn_arena_alloc(&arena, size);
            assert_aligned(p);
            memset(p, 0x5a, size);
        }
        arn_arena_free(&arena);
    }
}

/* Nothing is allocated before the lent piece is full, and nothing of it twice. */
static void arena_lent_piece(void **state) {
    _Alignas(8) char lent[64];
    arn_arena arena;
    char *p[8];
    size_t i;

    (void)state;
    arn_arena_init(&arena, lent, sizeof(lent));
    arn_alloc_fail_after(-1);
    for (i = 0; i < 8; i++) {
        p[i] = arn_arena_alloc(&arena, i == 0 ? 8 : 1);
        assert_ptr_equal(p[i], lent + 8 * i);
    }
    assert_int_equal(arn_alloc_fail_after(-1), 0);
    p[0] = arn_arena_alloc(&arena, 1);
    assert_non_null(p[0]);
    assert_false(is_within(p[0], 1, lent, sizeof(lent)));
    assert_int_equal(arn_alloc_fail_after(-1), 1);
    arn_arena_free(&arena);
}

/* Pieces too small to hold one aligned byte are not used; a byte behind them would be written. */
static void arena_useless_lent_piece(void **state) {
    _Alignas(8) char lent[16];
    size_t offset, size;

    (void)state;
    for (offset = 0; offset < 8; offset++) {
        for (size = 0; offset + size <= 8; size++) {
            arn_arena arena;
            char *p;
            arn_arena_init(&arena, lent + offset, size);
            p = arn_arena_alloc(&arena, 8);
            assert_aligned(p);
            assert_int_equal(is_within(p, 8, lent, 8), offset == 0 && size == 8);
            arn_arena_free(&arena);
        }
    }
}

static void arena_without_lent_piece(void **state) {
    arn_arena arena;
    char *p;

    (void)state;
    arn_arena_init(&arena, NULL, 0);
    arn_arena_free(&arena); /* nothing to free */
    p = arn_arena_alloc(&arena, 0);
    assert_aligned(p);
    p = arn_arena_alloc(&arena, 1);
    assert_aligned(p);
    *p = 1;
    arn_arena_free(&arena);
}

/* Pieces do not overlap, however blocks change; few blocks for many values. */
static void arena_growth(void **state) {
    enum { PIECES = 2000 };
    static char *pieces[PIECES];
    static size_t sizes[PIECES];
    arn_arena arena;
    uint32_t random = 1;
    size_t i, k;

    (void)state;
    arn_arena_init(&arena, NULL, 0);
    for (i = 0; i < PIECES; i++) {
        random = random * 1664525u + 1013904223u;
        sizes[i] = (random >> 16) % (i % 50 == 0 ? 20000 : 100);
        pieces[i] = arn_arena_alloc(&arena, sizes[i]);
        assert_aligned(pieces[i]);
        memset(pieces[i], (int)(i & 0xff), sizes[i]);
    }
    for (i = 0; i < PIECES; i++)
        for (k = 0; k < sizes[i]; k++)
            assert_int_equal((unsigned char)pieces[i][k], i & 0xff);
    arn_arena_free(&arena);

    arn_alloc_fail_after(-1);
    for (i = 0; i < 1000; i++)
        assert_non_null(arn_arena_alloc(&arena, sizeof(arn_value)));
    assert_in_range(arn_alloc_fail_after(-1), 1, 10);
    arn_arena_free(&arena);
}

/* A big piece has a block of its own and leaves the rest of the current one in use. */
static void arena_big_blocks(void **state) {
    static const size_t big[] = {2049, 2056, 4088, 4095, 4096, 4097, 8192, 1024 * 1024};
    arn_arena arena;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(big); i++) {
        char *small, *p;
        arn_arena_init(&arena, NULL, 0);
        small = arn_arena_alloc(&arena, 2048);
        assert_aligned(small);
        arn_alloc_fail_after(-1);
        p = arn_arena_alloc(&arena, big[i]);
        assert_aligned(p);
        memset(p, 1, big[i]);
        assert_int_equal(arn_alloc_fail_after(-1), 1);
        assert_ptr_equal(arn_arena_alloc(&arena, 8), small + 2048);
        assert_int_equal(arn_alloc_fail_after(-1), 0);
        arn_arena_free(&arena);
    }
}

static void arena_copy(void **state) {
    static const char with_nul[] = {'a', '\0', 'b'};
    arn_arena arena;
    char *p;

    (void)state;
    arn_arena_init(&arena, NULL, 0);
    p = arn_arena_copy(&arena, with_nul, sizeof(with_nul));
    assert_aligned(p);
    assert_memory_equal(p, "a\0b", 4);
    p = arn_arena_copy(&arena, NULL, 0);
    assert_non_null(p);
    assert_int_equal(*p, '\0');
    memset(arn_arena_alloc(&arena, 4000), 0xff, 4000); /* the NUL must not be there by chance */
    p = arn_arena_copy(&arena, "12345678", 8);
    assert_string_equal(p, "12345678");
    arn_arena_free(&arena);
}

static void arena_overflow(void **state) {
    static const size_t sizes[] = {SIZE_MAX,      SIZE_MAX - 1,  SIZE_MAX - 7,    SIZE_MAX - 8,
                                   SIZE_MAX - 15, SIZE_MAX - 16, SIZE_MAX / 2 + 1};
    arn_arena arena;
    char *p;
    size_t i;

    (void)state;
    arn_arena_init(&arena, NULL, 0);
    p = arn_arena_alloc(&arena, 8);
    arn_alloc_fail_after(-1);
    for (i = 0; i < COUNT(sizes); i++) {
        assert_null(arn_arena_alloc(&arena, sizes[i]));
        assert_null(arn_arena_copy(&arena, "", sizes[i]));
    }
    assert_int_equal(arn_alloc_fail_after(-1), 0); /* refused before the heap is asked */
    assert_ptr_equal(arn_arena_alloc(&arena, 8), p + 8);
    arn_arena_free(&arena);
}

static void arena_free_and_use_again(void **state) {
    _Alignas(8) char lent[64];
    arn_arena arena;
    char *p;
    int i;

    (void)state;
    arn_arena_init(&arena, lent, sizeof(lent));
    for (i = 0; i < 3; i++) {
        p = arn_arena_alloc(&arena, 5000);
        assert_non_null(p);
        memset(p, 1, 5000);
        arn_arena_free(&arena);
    }
    arn_arena_free(&arena);
    /* The lent piece may be gone by now. */
    p = arn_arena_alloc(&arena, 8);
    assert_false(is_within(p, 8, lent, sizeof(lent)));
    arn_arena_free(&arena);
}

static void arena_out_of_memory(void **state) {
    static const size_t sizes[] = {8, 2048, 4096, 100000};
    _Alignas(8) char lent[16];
    arn_arena arena;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(sizes); i++) {
        char *p;
        arn_arena_init(&arena, lent, sizeof(lent));
        p = arn_arena_alloc(&arena, 16);
        assert_non_null(p);
        memset(p, 7, 16);
        arn_alloc_fail_after(0);
        assert_null(arn_arena_alloc(&arena, sizes[i]));
        arn_alloc_fail_after(0);
        assert_null(arn_arena_copy(&arena, "abc", 3));
        p = arn_arena_copy(&arena, "abc", 3);
        assert_string_equal(p, "abc");
        assert_int_equal(lent[15], 7);
        arn_arena_free(&arena);
    }
}

/* ---- buf ---- */

static void buf_append(void **state) {
    arn_buf buf = ARN_BUF_INIT;
    size_t i, cap;

    (void)state;
    assert_int_equal(arn_buf_append(&buf, NULL, 0), 0);
    assert_int_equal(buf.len, 0);
    for (i = 0; i < 20000; i++) {
        char piece[2] = {(char)i, (char)(i >> 8)};
        assert_int_equal(arn_buf_append(&buf, piece, i % 3), 0);
    }
    assert_int_equal(buf.len, 6666 * 3 + 1);
    assert_true(buf.cap >= buf.len);
    for (i = 0, cap = 0; i < 20000; i++) {
        if (i % 3 > 0)
            assert_int_equal(buf.data[cap], (char)i);
        cap += i % 3;
    }
    arn_buf_free(&buf);
    assert_null(buf.data);
    assert_int_equal(buf.len, 0);
    assert_int_equal(buf.cap, 0);
    arn_buf_free(&buf);
}

static void buf_reserve(void **state) {
    arn_buf buf = ARN_BUF_INIT;
    char *p, *q;

    (void)state;
    p = arn_buf_reserve(&buf, 0);
    assert_non_null(p);
    assert_ptr_equal(p, buf.data);
    assert_int_equal(arn_buf_append(&buf, "abc", 3), 0);
    arn_alloc_fail_after(-1);
    p = arn_buf_reserve(&buf, buf.cap - 3);
    assert_ptr_equal(p, buf.data + 3);
    assert_int_equal(arn_alloc_fail_after(-1), 0); /* exactly full: no growth */
    memset(p, 'x', buf.cap - 3);
    assert_int_equal(buf.len, 3); /* reserving is not appending */
    q = arn_buf_reserve(&buf, buf.cap - 2);
    assert_int_equal(arn_alloc_fail_after(-1), 1);
    assert_ptr_equal(q, buf.data + 3);
    assert_memory_equal(buf.data, "abcxxx", 6);
    p = arn_buf_reserve(&buf, 1000000);
    assert_non_null(p);
    memset(p, 'y', 1000000);
    assert_memory_equal(buf.data, "abc", 3);
    arn_buf_free(&buf);
}

static void buf_reset(void **state) {
    arn_buf buf = ARN_BUF_INIT;
    size_t cap;
    char *data;

    (void)state;
    arn_buf_reset(&buf, 0);
    assert_int_equal(arn_buf_append(&buf, "abc", 3), 0);
    cap = buf.cap;
    data = buf.data;
    arn_buf_reset(&buf, cap);
    assert_int_equal(buf.len, 0);
    assert_int_equal(buf.cap, cap);
    assert_ptr_equal(buf.data, data);
    assert_int_equal(arn_buf_append(&buf, "d", 1), 0);
    assert_int_equal(buf.data[0], 'd');
    arn_buf_reset(&buf, cap - 1);
    assert_null(buf.data);
    assert_int_equal(buf.cap, 0);
    assert_int_equal(arn_buf_append(&buf, "again", 5), 0);
    assert_memory_equal(buf.data, "again", 5);
    arn_buf_free(&buf);
}

static void buf_overflow(void **state) {
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 3, SIZE_MAX / 2, SIZE_MAX / 2 - 2};
    arn_buf buf = ARN_BUF_INIT;
    size_t i;

    (void)state;
    assert_null(arn_buf_reserve(&buf, SIZE_MAX));
    assert_int_equal(arn_buf_append(&buf, "abc", 3), 0);
    arn_alloc_fail_after(-1);
    for (i = 0; i < COUNT(sizes); i++) {
        assert_null(arn_buf_reserve(&buf, sizes[i]));
        assert_int_equal(arn_buf_append(&buf, "", sizes[i]), ARN_ENOMEM);
    }
    assert_int_equal(arn_alloc_fail_after(-1), 0);
    assert_int_equal(buf.len, 3);
    assert_memory_equal(buf.data, "abc", 3);
    arn_buf_free(&buf);
}

static void buf_out_of_memory(void **state) {
    static const char zeros[5000];
    arn_buf buf = ARN_BUF_INIT;

    (void)state;
    arn_alloc_fail_after(0);
    assert_null(arn_buf_reserve(&buf, 1));
    arn_alloc_fail_after(0);
    assert_int_equal(arn_buf_append(&buf, "a", 1), ARN_ENOMEM);
    assert_null(buf.data);
    assert_int_equal(arn_buf_append(&buf, "abc", 3), 0);
    arn_alloc_fail_after(0);
    assert_int_equal(arn_buf_append(&buf, zeros, sizeof(zeros)), ARN_ENOMEM);
    assert_int_equal(buf.len, 3);
    assert_memory_equal(buf.data, "abc", 3);
    assert_int_equal(arn_buf_append(&buf, zeros, sizeof(zeros)), 0);
    assert_int_equal(buf.len, 3 + sizeof(zeros));
    arn_buf_free(&buf);
}

/* ---- queue ---- */

struct item {
    int number;
    arn_queue node;
};

static struct item items[6];

static void make_items(void) {
    int i;

    for (i = 0; i < (int)COUNT(items); i++) {
        items[i].number = i;
        arn_queue_init(&items[i].node);
    }
}

/* The queue holds these numbers (ended by -1), forwards and backwards. */
static void assert_queue(const arn_queue *q, const int *numbers) {
    const arn_queue *node = q;

    for (; *numbers >= 0; numbers++) {
        assert_ptr_equal(node->next->prev, node);
        node = node->next;
        assert_ptr_not_equal(node, q);
        assert_int_equal(ARN_CONTAINER_OF(node, struct item, node)->number, *numbers);
    }
    assert_ptr_equal(node->next, q);
    assert_ptr_equal(q->prev, node);
}

#define HOLDS(q, ...) assert_queue((q), (const int[]){__VA_ARGS__})

static void queue_push_pop(void **state) {
    arn_queue q;
    int i;

    (void)state;
    make_items();
    arn_queue_init(&q);
    assert_true(arn_queue_empty(&q));
    assert_null(arn_queue_pop(&q));
    for (i = 0; i < 3; i++)
        arn_queue_push(&q, &items[i].node);
    assert_false(arn_queue_empty(&q));
    HOLDS(&q, 0, 1, 2, -1);
    arn_queue_push_front(&q, &items[3].node);
    HOLDS(&q, 3, 0, 1, 2, -1);
    assert_ptr_equal(arn_queue_pop(&q), &items[3].node);
    assert_true(arn_queue_empty(&items[3].node)); /* unlinked */
    for (i = 0; i < 3; i++)
        assert_ptr_equal(arn_queue_pop(&q), &items[i].node);
    assert_true(arn_queue_empty(&q));
    assert_null(arn_queue_pop(&q));
    arn_queue_push_front(&q, &items[4].node);
    HOLDS(&q, 4, -1);
}

static void queue_remove(void **state) {
    arn_queue q;
    int i;

    (void)state;
    make_items();
    arn_queue_init(&q);
    for (i = 0; i < 4; i++)
        arn_queue_push(&q, &items[i].node);
    arn_queue_remove(&items[1].node);
    HOLDS(&q, 0, 2, 3, -1);
    arn_queue_remove(&items[1].node); /* of no queue: nothing */
    HOLDS(&q, 0, 2, 3, -1);
    arn_queue_remove(&items[0].node);
    arn_queue_remove(&items[3].node);
    HOLDS(&q, 2, -1);
    arn_queue_push(&q, &items[1].node);
    HOLDS(&q, 2, 1, -1);
    arn_queue_remove(&items[2].node);
    arn_queue_remove(&items[1].node);
    HOLDS(&q, -1);
}

static void queue_append(void **state) {
    arn_queue a, b;

    (void)state;
    make_items();
    arn_queue_init(&a);
    arn_queue_init(&b);
    arn_queue_append(&a, &b);
    HOLDS(&a, -1);
    HOLDS(&b, -1);
    arn_queue_push(&b, &items[0].node);
    arn_queue_push(&b, &items[1].node);
    arn_queue_append(&a, &b);
    HOLDS(&a, 0, 1, -1);
    HOLDS(&b, -1);
    arn_queue_append(&a, &b);
    HOLDS(&a, 0, 1, -1);
    arn_queue_push(&b, &items[2].node);
    arn_queue_append(&a, &b);
    HOLDS(&a, 0, 1, 2, -1);
    arn_queue_push(&b, &items[3].node);
    HOLDS(&b, 3, -1);
    arn_queue_append(&b, &a);
    HOLDS(&b, 3, 0, 1, 2, -1);
    HOLDS(&a, -1);
}

/* ---- alloc ---- */

static void alloc_hook(void **state) {
    void *p;
    char *s;
    int i;

    (void)state;
    arn_alloc_fail_after(2);
    for (i = 0; i < 2; i++) {
        p = arn_malloc(8);
        assert_non_null(p);
        arn_free(p);
    }
    assert_null(arn_malloc(8)); /* exactly this one */
    p = arn_malloc(8);
    assert_non_null(p);
    arn_alloc_fail_after(0);
    assert_null(arn_realloc(p, 16)); /* p stays */
    p = arn_realloc(p, 16);
    assert_non_null(p);
    arn_free(p);

    arn_alloc_fail_after(0);
    assert_null(arn_calloc(2, 8));
    arn_alloc_fail_after(0);
    assert_null(arn_strdup("abc"));
    arn_alloc_fail_after(-1);
    s = arn_strdup("abc");
    assert_string_equal(s, "abc");
    arn_free(s);
    p = arn_calloc(4, 4);
    assert_memory_equal(p, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    arn_free(p);
    arn_free(NULL);
    assert_int_equal(arn_alloc_fail_after(-1), 2);
}

/* ---- requests ---- */

static void pack_numbers(void **state) {
    unsigned long long n = 1;
    char digits[20], expect[32];
    int i, k;

    (void)state;
    for (i = 0; i < 21; i++) {
        for (k = -1; k <= 1; k++) {
            unsigned long long value = i == 20 ? ULLONG_MAX : n + (unsigned long long)k;
            size_t len = arn_format_u64(digits, value);
            assert_int_equal(len, snprintf(expect, sizeof(expect), "%llu", value));
            assert_memory_equal(digits, expect, len);
        }
        n *= 10;
    }
}

/* Packs into exactly the room that was announced; the reader gives the arguments back. */
static void assert_packs(const arn_slice *args, size_t count, const char *expect, size_t len) {
    size_t size = arn_redis_packed_size(args, count);
    char *whole = malloc(size);
    arn_redis_reader *r = arn__redis_reader_new();
    arn_arena arena;
    arn_value value;
    size_t skip;

    assert_non_null(whole);
    assert_ptr_equal(arn_redis_pack(whole, args, count), whole + size);
    if (expect != NULL) {
        assert_int_equal(size, len);
        assert_memory_equal(whole, expect, len);
    }
    for (skip = 0; skip < count; skip++) {
        size_t at = SIZE_MAX, rest = size - args[skip].len;
        char *around = malloc(rest);
        assert_non_null(around);
        assert_ptr_equal(arn_redis_pack_around(around, args, count, skip, &at), around + rest);
        assert_true(at <= rest);
        assert_memory_equal(around, whole, at);
        assert_memory_equal(whole + at, args[skip].len ? args[skip].data : "", args[skip].len);
        assert_memory_equal(around + at, whole + at + args[skip].len, rest - at);
        free(around);
    }
    arn_arena_init(&arena, NULL, 0);
    arn__redis_reader_feed(r, whole, size);
    assert_int_equal(arn__redis_reader_next(r, &arena, &value), 1);
    assert_int_equal(value.len, count);
    for (skip = 0; skip < count; skip++) {
        assert_int_equal(value.u.items[skip].len, args[skip].len);
        assert_memory_equal(value.u.items[skip].u.bytes, args[skip].len ? args[skip].data : "",
                            args[skip].len);
    }
    arn__redis_reader_free(r);
    arn_arena_free(&arena);
    free(whole);
}

static void pack_requests(void **state) {
    static char big[100000];
    arn_slice args[101] = {{TEXT("SET")}, {TEXT("k\0\r\n$1")}, {NULL, 0}};
    size_t i;

    (void)state;
    assert_packs(args, 0, TEXT("*0\r\n"));
    assert_packs(args, 1, TEXT("*1\r\n$3\r\nSET\r\n"));
    assert_packs(args, 3, TEXT("*3\r\n$3\r\nSET\r\n$6\r\nk\0\r\n$1\r\n$0\r\n\r\n"));
    args[1] = (arn_slice){TEXT("0123456789")};
    assert_packs(args, 2, TEXT("*2\r\n$3\r\nSET\r\n$10\r\n0123456789\r\n"));
    memset(big, '\r', sizeof(big));
    for (i = 0; i < COUNT(args); i++)
        args[i] = (arn_slice){big, i};
    for (i = 9; i <= COUNT(args); i += i < 11 ? 1 : 89)
        assert_packs(args, i, NULL, 0);
    for (i = 1; i <= sizeof(big); i *= 10) {
        args[1] = (arn_slice){big, i - 1};
        args[2] = (arn_slice){big, i};
        assert_packs(args, 3, NULL, 0);
    }
    /* No byte is touched for a size. */
    args[0] = (arn_slice){NULL, 1000000000000u};
    assert_int_equal(arn_redis_packed_size(args, 1), 4 + 1 + 13 + 2 + 1000000000000u + 2);
}

/* ---- base64 ---- */

static void base64(void **state) {
    static const struct {
        const char *text, *bytes;
    } good[] = {{"", ""},
                {"Zg==", "f"},
                {"Zm8=", "fo"},
                {"Zm9v", "foo"},
                {"Zm9vYmFyZm8=", "foobarfo"},
                {"+/+/", "\xfb\xff\xbf"}};
    static const char *const wrong[] = {
        "Z", "Zg", "Zg=", "Zm9v=", "Z===", "====", "Zm 9", "Zm9-", "Zm9v\n", "Zg==Zg==", "Z\xff=="};
    char out[32];
    size_t len;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        assert_int_equal(arn_base64_decode(good[i].text, strlen(good[i].text), out, &len), 0);
        assert_int_equal(len, strlen(good[i].bytes));
        assert_memory_equal(out, good[i].bytes, len);
    }
    for (i = 0; i < COUNT(wrong); i++)
        assert_int_equal(arn_base64_decode(wrong[i], strlen(wrong[i]), out, &len), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_names),
        cmocka_unit_test(status_unknown),
        cmocka_unit_test_teardown(arena_alignment, hook_off),
        cmocka_unit_test_teardown(arena_lent_piece, hook_off),
        cmocka_unit_test_teardown(arena_useless_lent_piece, hook_off),
        cmocka_unit_test_teardown(arena_without_lent_piece, hook_off),
        cmocka_unit_test_teardown(arena_growth, hook_off),
        cmocka_unit_test_teardown(arena_big_blocks, hook_off),
        cmocka_unit_test_teardown(arena_copy, hook_off),
        cmocka_unit_test_teardown(arena_overflow, hook_off),
        cmocka_unit_test_teardown(arena_free_and_use_again, hook_off),
        cmocka_unit_test_teardown(arena_out_of_memory, hook_off),
        cmocka_unit_test_teardown(buf_append, hook_off),
        cmocka_unit_test_teardown(buf_reserve, hook_off),
        cmocka_unit_test_teardown(buf_reset, hook_off),
        cmocka_unit_test_teardown(buf_overflow, hook_off),
        cmocka_unit_test_teardown(buf_out_of_memory, hook_off),
        cmocka_unit_test(queue_push_pop),
        cmocka_unit_test(queue_remove),
        cmocka_unit_test(queue_append),
        cmocka_unit_test_teardown(alloc_hook, hook_off),
        cmocka_unit_test(pack_numbers),
        cmocka_unit_test(pack_requests),
        cmocka_unit_test(base64),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
