/* The reader of replies (redis/reader). */
#define _GNU_SOURCE
#include "base/alloc.h"
#include "base/buf.h"
#include "base/status.h"
#include "redis/conn.h"
#include "redis/reader.h"
#include "values.h"

#include <dlfcn.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
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

/* Of reader.c. */
#define SLICE 4096u
#define DIRECT_MIN 65536u

static int hook_off(void **state) {
    (void)state;
    arn_alloc_fail_after(-1);
    return 0;
}

/* ---- the parser's own allocations, which the hook of alloc.h does not reach ---- */

static int parser_new_fails, parser_feed_fails;

redisReader *redisReaderCreateWithFunctions(redisReplyObjectFunctions *fn) {
    redisReader *(*real)(redisReplyObjectFunctions *) =
        (redisReader * (*)(redisReplyObjectFunctions *))
            dlsym(RTLD_NEXT, "redisReaderCreateWithFunctions");

    return parser_new_fails ? NULL : real(fn);
}

int redisReaderFeed(redisReader *parser, const char *data, size_t len) {
    int (*real)(redisReader *, const char *, size_t) =
        (int (*)(redisReader *, const char *, size_t))dlsym(RTLD_NEXT, "redisReaderFeed");

    if (parser_feed_fails && parser->err == 0) {
        parser->err = REDIS_ERR_OOM;
        strcpy(parser->errstr, "Out of memory");
    }
    return real(parser, data, len);
}

/* ---- one way of feeding ---- */

/* A first piece of `first` bytes, all others of `step`. */
typedef struct feeding {
    size_t first, step;
    int in_place; /* large values are put where space() says */
    int lend;     /* the arena starts in a lent piece */
} feeding;

typedef struct outcome {
    arn_buf text; /* all replies */
    int status;   /* 0: used up without an error */
    char error[160];
    size_t used;   /* bytes up to the end of the last reply */
    size_t spaces; /* pieces that went to their last place */
} outcome;

static outcome parse(const char *bytes, size_t len, feeding f) {
    _Alignas(8) char lent[128];
    size_t lent_size = f.lend ? sizeof(lent) : 0;
    arn_redis_reader *r = arn__redis_reader_new();
    outcome o = {.status = 0};
    arn_arena arena;
    arn_value value;
    size_t at = 0;

    assert_non_null(r);
    arn_arena_init(&arena, lent, lent_size);
    while (at < len && o.status == 0) {
        size_t n = at == 0 && f.first > 0 ? f.first : f.step;
        size_t room = 0;
        char *space = f.in_place ? arn__redis_reader_space(r, &room) : NULL;
        char *piece;

        n = n < len - at ? n : len - at;
        if (space != NULL) {
            assert_true(room > 0);
            n = n < room ? n : room;
            memcpy(space, bytes + at, n);
            arn__redis_reader_feed(r, space, n);
            o.spaces++;
        }
        /* A piece of exactly its size, gone after use: ASan sees every access beyond it. */
        piece = malloc(n);
        assert_non_null(piece);
        memcpy(piece, bytes + at, n);
        if (space == NULL)
            arn__redis_reader_feed(r, piece, n);
        at += n;
        while ((o.status = arn__redis_reader_next(r, &arena, &value)) == 1) {
            t_dump(&o.text, &value);
            o.used = at - arn__redis_reader_pending(r);
            arn_arena_free(&arena);
            arn_arena_init(&arena, lent, lent_size);
        }
        free(piece);
    }
    if (o.status < 0)
        snprintf(o.error, sizeof(o.error), "%s", arn__redis_reader_error(r));
    arn__redis_reader_free(r);
    arn_arena_free(&arena);
    return o;
}

static void assert_same(const outcome *o, const outcome *whole, const char *input, feeding f) {
    if (o->status == whole->status && o->text.len == whole->text.len && o->used == whole->used &&
        (o->text.len == 0 || memcmp(o->text.data, whole->text.data, o->text.len) == 0) &&
        strcmp(o->error, whole->error) == 0)
        return;
    fail_msg("%.60s: pieces of %zu, %zu: status %d \"%s\", used %zu of %zu, replies %.*s", input,
             f.first, f.step, o->status, o->error, o->used, whole->used,
             (int)(o->text.len < 200 ? o->text.len : 200),
             o->text.data != NULL ? o->text.data : "");
}

static void assert_parse(const char *bytes, size_t len, feeding f, const outcome *whole) {
    outcome o = parse(bytes, len, f);

    assert_same(&o, whole, bytes, f);
    arn_buf_free(&o.text);
}

/* Parses it whole, split in two everywhere, and in pieces of 1, 2, 3 ... bytes. */
static outcome parse_all_ways(const char *bytes, size_t len) {
    outcome whole = parse(bytes, len, (feeding){len, len, 0, 0});
    size_t i;

    for (i = 0; i <= len; i++)
        assert_parse(bytes, len, (feeding){i, len + 1, 0, (int)i & 1}, &whole);
    for (i = 1; i < len; i++)
        assert_parse(bytes, len, (feeding){0, i, 1, (int)i & 1}, &whole);
    return whole;
}

/* ---- replies ---- */

static const struct {
    const char *bytes;
    size_t len;
    const char *expect;
    size_t expect_len;
} replies[] = {
    {TEXT("+OK\r\n"), TEXT("'OK' ")},
    {TEXT("+\r\n"), TEXT("'' ")},
    {TEXT("-ERR no such key\r\n"), TEXT("!ERR no such key' ")},
    {TEXT("-\r\n"), TEXT("!' ")},
    {TEXT(":0\r\n"), TEXT("0 ")},
    {TEXT(":1\r\n"), TEXT("1 ")},
    {TEXT(":-1\r\n"), TEXT("-1 ")},
    {TEXT(":1234567890123\r\n"), TEXT("1234567890123 ")},
    {TEXT(":9223372036854775807\r\n"), TEXT("9223372036854775807 ")},
    {TEXT(":-9223372036854775808\r\n"), TEXT("-9223372036854775808 ")},
    {TEXT("$-1\r\n"), TEXT("nil ")},
    {TEXT("$0\r\n\r\n"), TEXT("'' ")},
    {TEXT("$1\r\nx\r\n"), TEXT("'x' ")},
    {TEXT("$11\r\nhello world\r\n"), TEXT("'hello world' ")},
    {TEXT("$8\r\n\0\r\n$1\r\n\xff\r\n"), TEXT("'\0\r\n$1\r\n\xff' ")},
    {TEXT("*-1\r\n"), TEXT("nil ")},
    {TEXT("*0\r\n"), TEXT("[] ")},
    {TEXT("*1\r\n$1\r\na\r\n"), TEXT("['a' ] ")},
    {TEXT("*6\r\n+s\r\n-e\r\n:-7\r\n$-1\r\n$2\r\nbb\r\n*-1\r\n"),
     TEXT("['s' !e' -7 nil 'bb' nil ] ")},
    {TEXT("*3\r\n*0\r\n*2\r\n*1\r\n:1\r\n*0\r\n$0\r\n\r\n"), TEXT("[[] [[1 ] [] ] '' ] ")},
    /* deeper than hiredis 0.14 goes */
    {TEXT("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*2\r\n:5\r\n*0\r\n"),
     TEXT("[[[[[[[[[[5 [] ] ] ] ] ] ] ] ] ] ] ")},
#if HIREDIS_MAJOR < 1
    {TEXT("+a\rb\nc\r\r\n"), TEXT("'a\rb\nc\r' ")},
#else
    {TEXT("_\r\n"), TEXT("nil ")},
    {TEXT("#t\r\n"), TEXT("true ")},
    {TEXT("#f\r\n"), TEXT("false ")},
    {TEXT(",1.5\r\n"), TEXT("1.5 ")},
    {TEXT("(123456789012345678901234567890\r\n"), TEXT("'123456789012345678901234567890' ")},
#endif
};

static void assert_text(const outcome *o, const char *expect, size_t len) {
    if (o->text.len == len && (len == 0 || memcmp(o->text.data, expect, len) == 0))
        return;
    fail_msg("%.*s is not %.*s (%d %s)", (int)o->text.len, o->text.data != NULL ? o->text.data : "",
             (int)len, expect, o->status, o->error);
}

static void each_reply(void **state) {
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(replies); i++) {
        outcome o = parse_all_ways(replies[i].bytes, replies[i].len);
        assert_int_equal(o.status, 0);
        assert_text(&o, replies[i].expect, replies[i].expect_len);
        assert_int_equal(o.used, replies[i].len);
        arn_buf_free(&o.text);
    }
}

/* A reply that is cut off is no reply. */
static void each_prefix(void **state) {
    size_t i, n;

    (void)state;
    for (i = 0; i < COUNT(replies); i++) {
        for (n = 0; n < replies[i].len; n++) {
            outcome o = parse(replies[i].bytes, n, (feeding){n, n, 0, 1});
            assert_int_equal(o.status, 0);
            assert_int_equal(o.text.len, 0);
            arn_buf_free(&o.text);
        }
    }
}

static void several_replies(void **state) {
    arn_buf bytes = ARN_BUF_INIT, expect = ARN_BUF_INIT;
    outcome o;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(replies); i++) {
        t_put(&bytes, replies[i].bytes, replies[i].len);
        t_put(&expect, replies[i].expect, replies[i].expect_len);
    }
    o = parse_all_ways(bytes.data, bytes.len);
    assert_int_equal(o.status, 0);
    assert_text(&o, expect.data, expect.len);
    assert_int_equal(o.used, bytes.len);
    arn_buf_free(&o.text);
    arn_buf_free(&bytes);
    arn_buf_free(&expect);
}

/* What is pending behind each reply is what was fed and is not of it: also across slices. */
static void many_replies(void **state) {
    static const size_t steps[] = {1, 7, 1000, 4095, 4096, 4097, 8192, 1000000};
    arn_buf bytes = ARN_BUF_INIT, expect = ARN_BUF_INIT;
    arn_redis_reader *r = arn__redis_reader_new();
    arn_arena arena;
    arn_value value;
    size_t ends[600];
    size_t i, k;

    (void)state;
    for (i = 0; i < COUNT(ends); i++) {
        char frame[64];
        t_put(&bytes, frame,
              (size_t)snprintf(frame, sizeof(frame), "*2\r\n:%zu\r\n$21\r\n%021zu\r\n", i, i));
        t_put(&expect, frame, (size_t)snprintf(frame, sizeof(frame), "[%zu '%021zu' ] ", i, i));
        ends[i] = bytes.len;
    }
    for (k = 0; k < COUNT(steps); k++) {
        outcome o = parse(bytes.data, bytes.len, (feeding){0, steps[k], 0, 1});
        assert_int_equal(o.status, 0);
        assert_text(&o, expect.data, expect.len);
        arn_buf_free(&o.text);
    }
    arn_arena_init(&arena, NULL, 0);
    arn__redis_reader_feed(r, bytes.data, bytes.len);
    for (i = 0; i < COUNT(ends); i++) {
        assert_int_equal(arn__redis_reader_next(r, &arena, &value), 1);
        assert_int_equal(bytes.len - arn__redis_reader_pending(r), ends[i]);
    }
    assert_int_equal(arn__redis_reader_next(r, &arena, &value), 0);
    assert_int_equal(arn__redis_reader_pending(r), 0);
    arn__redis_reader_free(r);
    arn_arena_free(&arena);
    arn_buf_free(&bytes);
    arn_buf_free(&expect);
}

/* ---- bytes that are no replies ---- */

#define DEEP2 "*1\r\n*1\r\n"
#define DEEP8 DEEP2 DEEP2 DEEP2 DEEP2
#define DEEP128                                                                                    \
    DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8

static const struct {
    const char *bytes;
    size_t len;
    const char *before; /* what is read before it */
    const char *error;
} broken[] = {
    {TEXT("x"), "", "Protocol error, got \"x\" as reply type byte"},
    {TEXT("HTTP/1.1 400 Bad Request\r\n"), "", "Protocol error, got \"H\" as reply type byte"},
    {TEXT("\0"), "", "Protocol error, got \"\\x00\" as reply type byte"},
    {TEXT("+OK\r\n\r\n"), "'OK' ", "Protocol error, got \"\\r\" as reply type byte"},
    {TEXT("*2\r\n:1\r\n?\r\n"), "", "Protocol error, got \"?\" as reply type byte"},
    {TEXT("$2\r\nabc\r\n:1\r\n"), "", "Protocol Error: bulk string is not terminated"},
    {TEXT(":\r\n"), "", "Bad integer value"},
    {TEXT(":1x\r\n"), "", "Bad integer value"},
    {TEXT(":+1\r\n"), "", "Bad integer value"},
    {TEXT(":-\r\n"), "", "Bad integer value"},
    {TEXT(": 1\r\n"), "", "Bad integer value"},
    {TEXT(":9223372036854775808\r\n"), "", "Bad integer value"},
    {TEXT(":-9223372036854775809\r\n"), "", "Bad integer value"},
    {TEXT(":99999999999999999999999\r\n"), "", "Bad integer value"},
    {TEXT("$\r\n"), "", "Bad bulk string length"},
    {TEXT("$a\r\n"), "", "Bad bulk string length"},
    {TEXT("$5 \r\nhello\r\n"), "", "Bad bulk string length"},
    {TEXT("$070000\r\nhello"), "", "Bad bulk string length"},
    {TEXT("$-2\r\n"), "", "Bulk string length out of range"},
    {TEXT("$99999999999999999999999\r\n"), "", "Bad bulk string length"},
    {TEXT("*\r\n"), "", "Protocol Error: bad array length"},
    {TEXT("*1a\r\n"), "", "Protocol Error: bad array length"},
    {TEXT("*+1\r\n"), "", "Protocol Error: bad array length"},
    {TEXT("*-\r\n"), "", "Protocol Error: bad array length"},
    {TEXT("*-2\r\n"), "", "Protocol Error: bad array length"},
    {TEXT("*1\rx"), "", "Protocol Error: bad array length"},
    {TEXT("*000000000000000000000000000000001\r\n"), "", "Protocol Error: bad array length"},
    {TEXT("*99999999999999\r\n"), "", "Protocol Error: too many elements in a reply"},
    {TEXT("*1\r\n*1073741825\r\n"), "", "Protocol Error: too many elements in a reply"},
    {TEXT(":1\r\n" DEEP128 "*1\r\n:1\r\n"), "1 ", "Protocol Error: reply is nested too deeply"},
#if HIREDIS_MAJOR >= 1
    {TEXT("~2\r\n:1\r\n:2\r\n"), "", "Protocol Error: a reply of RESP3"},
    {TEXT("*1\r\n%1\r\n:1\r\n:2\r\n"), "", "Protocol Error: a reply of RESP3"},
#else
    {TEXT("_\r\n"), "", "Protocol error, got \"_\" as reply type byte"},
    {TEXT(">1\r\n:1\r\n"), "", "Protocol error, got \">\" as reply type byte"},
#endif
};

static void each_broken(void **state) {
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(broken); i++) {
        outcome o = parse_all_ways(broken[i].bytes, broken[i].len);
        assert_text(&o, broken[i].before, strlen(broken[i].before));
        assert_int_equal(o.status, ARN_EPROTO);
        assert_string_equal(o.error, broken[i].error);
        arn_buf_free(&o.text);
    }
}

static void stays_broken(void **state) {
    arn_redis_reader *r = arn__redis_reader_new();
    arn_arena arena;
    arn_value value;
    int i;

    (void)state;
    arn_arena_init(&arena, NULL, 0);
    arn__redis_reader_feed(r, TEXT("!bad"));
    for (i = 0; i < 3; i++) {
        assert_int_equal(arn__redis_reader_next(r, &arena, &value), ARN_EPROTO);
        assert_string_equal(arn__redis_reader_error(r),
                            "Protocol error, got \"!\" as reply type byte");
        arn__redis_reader_feed(r, TEXT("+OK\r\n"));
    }
    arn__redis_reader_free(r);
    arn__redis_reader_free(NULL);
    arn_arena_free(&arena);
}

/* ---- large bulk strings ---- */

static void put_expected_bulk(arn_buf *out, size_t len) {
    t_put(out, "'", 1);
    t_put_payload(out, len);
    t_put(out, "' ", 2);
}

static void large_split(const char *prefix, size_t len, const char *suffix, const char *before,
                        const char *after, int direct) {
    static const size_t steps[] = {1000, 4095, 4096, 4097, 10000, 65536};
    arn_buf bytes = ARN_BUF_INIT, expect = ARN_BUF_INIT;
    size_t i, end = strlen(prefix) + len, in_place = 0;
    outcome whole;

    t_put(&bytes, prefix, strlen(prefix));
    t_put_bulk(&bytes, len);
    t_put(&bytes, suffix, strlen(suffix));
    t_put(&expect, before, strlen(before));
    put_expected_bulk(&expect, len);
    t_put(&expect, after, strlen(after));

    whole = parse(bytes.data, bytes.len, (feeding){bytes.len, bytes.len, 0, 0});
    assert_int_equal(whole.status, 0);
    assert_text(&whole, expect.data, expect.len);
    assert_int_equal(whole.used, bytes.len);
    for (i = 0; i < COUNT(steps); i++)
        assert_parse(bytes.data, bytes.len, (feeding){0, steps[i], (int)i & 1, 1}, &whole);
    /* Near the start, the first slices, the least direct size and the end. */
    for (i = 0; i <= bytes.len; i++) {
        outcome o;
        if (i > 40 && i + 20 < end && (i + 8) % SLICE > 48 && i != DIRECT_MIN)
            continue;
        o = parse(bytes.data, bytes.len, (feeding){i, bytes.len, 1, (int)i & 1});
        assert_same(&o, &whole, bytes.data, (feeding){i, bytes.len, 1, (int)i & 1});
        in_place += o.spaces;
        arn_buf_free(&o.text);
    }
    assert_int_equal(in_place > 0, direct);
    arn_buf_free(&whole.text);
    arn_buf_free(&bytes);
    arn_buf_free(&expect);
}

static void large_bulk(void **state) {
    (void)state;
    large_split("", DIRECT_MIN - 1, "", "", "", 0);
    large_split("", DIRECT_MIN, "", "", "", 1);
    large_split("", DIRECT_MIN + 1, ":1\r\n", "", "1 ", 1);
    large_split("+OK\r\n$-1\r\n", 70001, "$3\r\nabc\r\n*1\r\n:5\r\n", "'OK' nil ", "'abc' [5 ] ",
                1);
    large_split("", 300000, "-ERR\r\n", "", "!ERR' ", 1);
}

static void large_bulk_in_array(void **state) {
    (void)state;
    large_split("*3\r\n:1\r\n", 100000, "$1\r\nx\r\n+OK\r\n", "[1 ", "'x' ] 'OK' ", 1);
    large_split("*1\r\n*1\r\n", 9000, ":1\r\n", "[[", "] ] 1 ", 0);
}

/* One after another, and behind something the parser has buffered. */
static void large_bulks(void **state) {
    static const size_t sizes[] = {70000, 65536, 5, 65535, 200000, 0, 65537};
    static const size_t steps[] = {333, 4096, 65536, 100000, 10000000};
    arn_buf bytes = ARN_BUF_INIT, expect = ARN_BUF_INIT;
    size_t i;
    int in_place;

    (void)state;
    t_put(&bytes, TEXT("*1\r\n"));
    t_put_bulk(&bytes, 9000);
    t_put(&expect, TEXT("["));
    put_expected_bulk(&expect, 9000);
    t_put(&expect, TEXT("] "));
    for (i = 0; i < COUNT(sizes); i++) {
        t_put_bulk(&bytes, sizes[i]);
        put_expected_bulk(&expect, sizes[i]);
    }
    for (i = 0; i < COUNT(steps); i++) {
        for (in_place = 0; in_place < 2; in_place++) {
            outcome o = parse(bytes.data, bytes.len, (feeding){0, steps[i], in_place, 1});
            assert_int_equal(o.status, 0);
            assert_text(&o, expect.data, expect.len);
            arn_buf_free(&o.text);
        }
    }
    arn_buf_free(&bytes);
    arn_buf_free(&expect);
}

/* The bytes are where space() said, in one allocation, and pending() knows of them. */
static void large_in_place(void **state) {
    arn_redis_reader *r = arn__redis_reader_new();
    arn_arena arena;
    arn_value value;
    size_t room = 0;
    char *space;

    (void)state;
    arn_arena_init(&arena, NULL, 0);
    assert_null(arn__redis_reader_space(r, &room));
    arn__redis_reader_feed(r, TEXT("$100000\r"));
    assert_int_equal(arn__redis_reader_next(r, &arena, &value), 0);
    assert_null(arn__redis_reader_space(r, &room));
    arn_alloc_fail_after(-1);
    arn__redis_reader_feed(r, TEXT("\nabc"));
    assert_int_equal(arn__redis_reader_next(r, &arena, &value), 0);
    assert_int_equal(arn_alloc_fail_after(-1), 1);
    space = arn__redis_reader_space(r, &room);
    assert_non_null(space);
    assert_int_equal(room, 100002 - 3);
    assert_int_equal(arn__redis_reader_pending(r), 3);

    memset(space, 'd', 50000);
    arn__redis_reader_feed(r, space, 50000);
    assert_int_equal(arn__redis_reader_next(r, &arena, &value), 0);
    assert_ptr_equal(arn__redis_reader_space(r, &room), space + 50000);
    assert_int_equal(room, 100002 - 50003);
    assert_int_equal(arn__redis_reader_pending(r), 50003);

    memset(space + 50000, 'e', room - 2);
    memcpy(space + 50000 + room - 2, "\r\n", 2);
    arn__redis_reader_feed(r, space + 50000, room);
    assert_int_equal(arn__redis_reader_next(r, &arena, &value), 1);
    assert_int_equal(value.kind, ARN_BYTES);
    assert_int_equal(value.len, 100000);
    assert_ptr_equal(value.u.bytes, space - 3);
    assert_memory_equal(value.u.bytes, "abcddd", 6);
    assert_memory_equal(value.u.bytes + 99998, "ee", 3);
    assert_null(arn__redis_reader_space(r, &room));
    assert_int_equal(arn__redis_reader_pending(r), 0);
    assert_int_equal(arn_alloc_fail_after(-1), 0);
    arn__redis_reader_free(r);
    arn_arena_free(&arena);
}

static void large_without_end(void **state) {
    static const char *const ends[] = {"xx", "\rx", "x\n", "\n\r"};
    arn_buf bytes = ARN_BUF_INIT;
    size_t i;

    (void)state;
    t_put_bulk(&bytes, 70000);
    for (i = 0; i < COUNT(ends); i++) {
        outcome o;
        memcpy(bytes.data + bytes.len - 2, ends[i], 2);
        o = parse(bytes.data, bytes.len, (feeding){0, 5000, (int)i & 1, 1});
        assert_int_equal(o.status, ARN_EPROTO);
        assert_string_equal(o.error, "Protocol Error: bulk string is not terminated");
        assert_int_equal(o.text.len, 0);
        arn_buf_free(&o.text);
    }
    arn_buf_free(&bytes);
}

/* A length above Redis' own limit is not believed before the bytes are there. */
static void large_beyond_limit(void **state) {
    static const struct {
        const char *header;
        int status;
    } cases[] = {{"$536870912\r\nabc", ARN_ENOMEM}, /* tried, and made to fail */
                 {"$536870913\r\nabc", 0},
                 {"$9223372036854775807\r\nabc", 0}};
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        arn_redis_reader *r = arn__redis_reader_new();
        arn_arena arena;
        arn_value value;
        size_t room;

        arn_arena_init(&arena, NULL, 0);
        arn__redis_reader_feed(r, cases[i].header, strlen(cases[i].header));
        arn_alloc_fail_after(0);
        assert_int_equal(arn__redis_reader_next(r, &arena, &value), cases[i].status);
        assert_int_equal(arn_alloc_fail_after(-1), cases[i].status != 0);
        assert_null(arn__redis_reader_space(r, &room));
        arn__redis_reader_free(r);
        arn_arena_free(&arena);
    }
}

/* A long array gets its memory as it comes, and what it says of its length costs nothing. */
static void long_array(void **state) {
    static const size_t steps[] = {1000, 70000, 10000000};
    arn_redis_reader *r = arn__redis_reader_new();
    size_t count = 300000, i, k;
    arn_buf bytes = ARN_BUF_INIT;
    arn_arena arena;
    arn_value value;
    char text[32];

    (void)state;
    t_put(&bytes, text, (size_t)snprintf(text, sizeof(text), "*%zu\r\n", count));
    for (i = 0; i < count; i++)
        t_put(&bytes, text,
              (size_t)snprintf(text, sizeof(text), i % 7 ? ":%zu\r\n" : "*1\r\n:%zu\r\n", i));
    arn_arena_init(&arena, NULL, 0);
    for (k = 0; k < COUNT(steps); k++) {
        size_t at = 0;
        int status = 0;
        while (at < bytes.len) {
            size_t n = steps[k] < bytes.len - at ? steps[k] : bytes.len - at;
            assert_int_equal(status, 0);
            arn__redis_reader_feed(r, bytes.data + at, n);
            at += n;
            status = arn__redis_reader_next(r, &arena, &value);
        }
        assert_int_equal(status, 1);
        assert_int_equal(value.len, count);
        for (i = 0; i < count; i++) {
            const arn_value *v = &value.u.items[i];
            assert_int_equal((i % 7 ? v : v->u.items)->u.integer, i);
        }
        assert_int_equal(arn__redis_reader_next(r, &arena, &value), 0);
        arn_arena_free(&arena);
    }
    arn__redis_reader_feed(r, TEXT("*1000000000\r\n:1\r\n"));
    arn_alloc_fail_after(-1);
    assert_int_equal(arn__redis_reader_next(r, &arena, &value), 0);
    assert_int_equal(arn_alloc_fail_after(-1), 1);
    arn__redis_reader_free(r);
    arn_arena_free(&arena);
    arn_buf_free(&bytes);
}

/* ---- out of memory ---- */

static void every_allocation(void **state) {
    static const size_t steps[] = {1000, 1000000};
    arn_buf bytes = ARN_BUF_INIT;
    size_t i, k;
    long n;

    (void)state;
    for (i = 0; i < COUNT(replies); i++)
        t_put(&bytes, replies[i].bytes, replies[i].len);
    t_put(&bytes, TEXT("*200\r\n"));
    for (i = 0; i < 200; i++)
        t_put(&bytes, TEXT("*2\r\n:1\r\n$25\r\n1234567890123456789012345\r\n"));
    t_put_bulk(&bytes, 5000);
    t_put_bulk(&bytes, 70000);
    for (k = 0; k < COUNT(steps); k++) {
        int failed = 1;
        for (n = 0; failed; n++) {
            arn_redis_reader *r;
            arn_arena arena;
            arn_value value;
            size_t at = 0;
            int status = 0;

            arn_arena_init(&arena, NULL, 0);
            arn_alloc_fail_after(n);
            r = arn__redis_reader_new();
            failed = r == NULL;
            while (r != NULL && at < bytes.len && status == 0) {
                size_t len = steps[k] < bytes.len - at ? steps[k] : bytes.len - at;
                arn__redis_reader_feed(r, bytes.data + at, len);
                at += len;
                while ((status = arn__redis_reader_next(r, &arena, &value)) == 1)
                    arn_arena_free(&arena);
            }
            if (status != 0) {
                failed = 1;
                assert_int_equal(status, ARN_ENOMEM);
                assert_string_equal(arn__redis_reader_error(r),
                                    "out of memory while reading a reply");
            }
            /* The hook has struck exactly when something failed. */
            assert_int_equal(failed, arn_alloc_fail_after(-1) > n);
            arn__redis_reader_free(r);
            arn_arena_free(&arena);
        }
        assert_true(n > 10);
    }
    arn_buf_free(&bytes);
}

static void parser_out_of_memory(void **state) {
    arn_redis_reader *r;
    arn_arena arena;
    arn_value value;

    (void)state;
    parser_new_fails = 1;
    assert_null(arn__redis_reader_new());
    parser_new_fails = 0;
    r = arn__redis_reader_new();
    arn_arena_init(&arena, NULL, 0);
    arn__redis_reader_feed(r, TEXT("+OK\r\n+O"));
    assert_int_equal(arn__redis_reader_next(r, &arena, &value), 1);
    assert_int_equal(arn__redis_reader_next(r, &arena, &value), 0);
    parser_feed_fails = 1;
    arn__redis_reader_feed(r, TEXT("K\r\n"));
    assert_int_equal(arn__redis_reader_next(r, &arena, &value), ARN_ENOMEM);
    parser_feed_fails = 0;
    assert_string_equal(arn__redis_reader_error(r), "out of memory while reading a reply");
    arn__redis_reader_free(r);
    arn_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_reply),
        cmocka_unit_test(each_prefix),
        cmocka_unit_test(several_replies),
        cmocka_unit_test(many_replies),
        cmocka_unit_test(each_broken),
        cmocka_unit_test(stays_broken),
        cmocka_unit_test(large_bulk),
        cmocka_unit_test(large_bulk_in_array),
        cmocka_unit_test(large_bulks),
        cmocka_unit_test(long_array),
        cmocka_unit_test_teardown(large_in_place, hook_off),
        cmocka_unit_test(large_without_end),
        cmocka_unit_test_teardown(large_beyond_limit, hook_off),
        cmocka_unit_test_teardown(every_allocation, hook_off),
        cmocka_unit_test(parser_out_of_memory),
    };
    return cmocka_run_group_tests_name("reader", tests, NULL, NULL);
}
