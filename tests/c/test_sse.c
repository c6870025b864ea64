/* Server-sent events (http/sse): what makes an event, and that it does not matter how the stream is
 * cut into pieces or when memory is short. */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/status.h"
#include "base/utf8.h"
#include "http/sse.h"

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

/* What a decoder has said, as text: "event|data|id|retry;" of each event, '~' where there is no id,
 * and at the end '!' and the line if one was not UTF-8. */
typedef struct said {
    char text[8192];
    size_t len;
    int no_more; /* refuse the next event with this */
} said;

static void say(said *to, const char *text, size_t len) {
    assert_true(to->len + len < sizeof(to->text));
    memcpy(to->text + to->len, text, len);
    to->len += len;
    to->text[to->len] = '\0';
}

static int take_event(void *arg, const arn_sse_event *event) {
    said *to = arg;

    if (to->no_more != 0)
        return to->no_more;
    say(to, event->event.data, event->event.len);
    say(to, "|", 1);
    say(to, event->data.data, event->data.len);
    say(to, "|", 1);
    if (event->id.data == NULL)
        say(to, "~", 1);
    else
        say(to, event->id.data, event->id.len);
    say(to, "|", 1);
    say(to, event->retry.data, event->retry.len);
    say(to, ";", 1);
    return 0;
}

/* A copy of the piece in memory of its own size: a sanitizer sees what is read beside it. */
static int feed(arn_sse *sse, const char *bytes, size_t len, said *to) {
    char *copy = malloc(len > 0 ? len : 1);
    int status;

    assert_non_null(copy);
    if (len > 0)
        memcpy(copy, bytes, len);
    status = arn_sse_feed(sse, copy, len, take_event, to);
    free(copy);
    return status;
}

static void end(arn_sse *sse, int status, said *to) {
    if (status == 0)
        status = arn_sse_end(sse);
    if (status == ARN_EPROTO) {
        say(to, "!", 1);
        say(to, sse->line.data, sse->line.len);
    } else {
        assert_int_equal(status, 0);
    }
    arn_sse_free(sse);
}

/* In pieces that end at the offsets a <= b. */
static void decode(const char *bytes, size_t len, size_t a, size_t b, said *to) {
    arn_sse sse;
    int status;

    memset(to, 0, sizeof(*to));
    arn_sse_init(&sse);
    status = feed(&sse, bytes, a, to);
    if (status == 0)
        status = feed(&sse, bytes + a, b - a, to);
    if (status == 0)
        status = feed(&sse, bytes + b, len - b, to);
    end(&sse, status, to);
}

static void decode_bytes(const char *bytes, size_t len, said *to) {
    arn_sse sse;
    int status = 0;
    size_t i;

    memset(to, 0, sizeof(*to));
    arn_sse_init(&sse);
    for (i = 0; i < len && status == 0; i++)
        status = feed(&sse, bytes + i, 1, to);
    end(&sse, status, to);
}

static const struct {
    const char *bytes;
    size_t len;
    const char *said;
} cases[] = {
    {TEXT(""), ""},
    {TEXT("\n\r\r\n\n"), ""},
    {TEXT("data: a\n\n"), "|a|~|;"},
    {TEXT("data: a\r\n\r\n"), "|a|~|;"},
    {TEXT("data: a\r\r"), "|a|~|;"},
    /* one line end each, whatever the mixture */
    {TEXT("data: a\r\ndata: b\ndata: c\r\rdata: d\n\ndata: e\r\n\r\n"), "|a\nb\nc|~|;|d|~|;|e|~|;"},
    {TEXT("data: a\r\r\ndata: b\n\r\ndata: c\n\r"), "|a|~|;|b|~|;|c|~|;"},
    {TEXT("data: a\r\n\ndata: b\r\n\r"), "|a|~|;|b|~|;"},
    /* all fields; the last of each counts, the data of all */
    {TEXT(
         "id: 1\nevent: x\ndata: a\nretry: 5\ndata:\ndata\ndata: b\nevent: y\nid: 2\nretry: 6\n\n"),
     "y|a\n\n\nb|2|6;"},
    /* the id lasts, also through empty lines */
    {TEXT("id: 7\n\ndata: a\n\n\n"), "||7|;|a|7|;||7|;"},
    {TEXT("data: a\n\nid\ndata: b\n\nid:\n\ndata: c\n\n"), "|a|~|;|b||;|c||;"},
    {TEXT("id: a\0b\ndata: x\n\nid: c\nid: \0\n\n"), "|x|~|;||c|;"},
    {TEXT("event: e\n\nretry: 0\n\nevent:\n\n"), "e||~|;||~|0;"},
    /* space: one behind the colon is no part of the value */
    {TEXT("data:a\ndata:  b \ndata:\tc\n\n"), "|a\n b \n\tc|~|;"},
    {TEXT("data: a: b:c\n\n"), "|a: b:c|~|;"},
    /* no fields of ours */
    {TEXT(": c\n:\n:x\nfoo: 1\nfoo\nData: x\ndata : x\n data: x\n\n"), ""},
    {TEXT(": c\n\ndata: a\n: c\ndata: b\n\n: c\n"), "|a\nb|~|;"},
    /* a byte order mark is part of the first field's name, as with the SDK */
    {TEXT("\xef\xbb\xbf"
          "data: a\n\ndata: b\n\n"),
     "|b|~|;"},
    /* without its empty line an event is none */
    {TEXT("data: a\n\ndata: b\n"), "|a|~|;"},
    {TEXT("data: a\n\ndata: b"), "|a|~|;"},
    {TEXT("retry: -12\n\nretry: +0_1\n\nretry: \t99999999999999999999 \n\n"),
     "||~|-12;||~|+01;||~|99999999999999999999;"},
    {TEXT(
         "retry: 1\nretry:\nretry: 1.5\nretry: 1__0\nretry: _1\nretry: 1_\nretry: -\nretry: x\n\n"),
     "||~|1;"},
    /* UTF-8 of two, three and four bytes */
    {TEXT("data: \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\nid: \xc3\x9f\n: \xc3\xa9\n\n"),
     "|\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80|\xc3\x9f|;"},
    {TEXT("data: a\n\ndata: \xff\n\ndata: b\n\n"), "|a|~|;!data: \xff"},
    {TEXT("data: a\n\n: \xe2\x82\rdata: b\n\n"), "|a|~|;!: \xe2\x82"},
    {TEXT("\xc0\x80: a\n"), "!\xc0\x80: a"},
    {TEXT("data: a\r\revent: \xed\xa0\x80\r\n"), "|a|~|;!event: \xed\xa0\x80"},
    {TEXT("data: a\n\ndata: \xf4\x90\x80\x80"), "|a|~|;!data: \xf4\x90\x80\x80"},
    {TEXT("data: a\n\ndata: \xe2\x82"), "|a|~|;!data: \xe2\x82"},
};

static void as_a_whole(void **state) {
    static said to;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        decode(cases[i].bytes, cases[i].len, 0, 0, &to);
        assert_string_equal(to.text, cases[i].said);
    }
}

static void cut_anywhere(void **state) {
    static said to;
    size_t i, a, b;

    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        size_t len = cases[i].len;
        for (a = 0; a <= len; a++)
            for (b = a; b <= len; b++) {
                decode(cases[i].bytes, len, a, b, &to);
                assert_string_equal(to.text, cases[i].said);
            }
        decode_bytes(cases[i].bytes, len, &to);
        assert_string_equal(to.text, cases[i].said);
    }
}

/* An event is there with its empty line, also if that ends in a CR which an LF may follow. */
static void as_soon_as_it_is_there(void **state) {
    static const char *const pieces[] = {"data: a\n",     "\n", "data: b\r", "\r",
                                         "\ndata: c\r\n", "\r"};
    static const size_t lengths[] = {0, 6, 6, 12, 12, 18};
    static said to;
    arn_sse sse;
    size_t i;

    (void)state;
    memset(&to, 0, sizeof(to));
    arn_sse_init(&sse);
    for (i = 0; i < COUNT(pieces); i++) {
        assert_int_equal(feed(&sse, pieces[i], strlen(pieces[i]), &to), 0);
        assert_int_equal(to.len, lengths[i]);
    }
    assert_string_equal(to.text, "|a|~|;|b|~|;|c|~|;");
    arn_sse_free(&sse);
}

static int count_event(void *arg, const arn_sse_event *event) {
    size_t *sizes = arg;

    sizes[0]++;
    sizes[1] += event->data.len;
    return 0;
}

/* There is no limit; and a line in many pieces is not looked through again with each of them. */
static void long_lines(void **state) {
    const size_t size = 20u << 20, piece = 100;
    size_t sizes[2] = {0, 0};
    char *text = malloc(size);
    arn_sse sse;
    size_t at;

    (void)state;
    assert_non_null(text);
    memset(text, 'x', size);
    arn_sse_init(&sse);
    assert_int_equal(arn_sse_feed(&sse, "data: ", 6, count_event, sizes), 0);
    for (at = 0; at < size; at += piece) {
        size_t n = size - at < piece ? size - at : piece;
        assert_int_equal(arn_sse_feed(&sse, text + at, n, count_event, sizes), 0);
    }
    assert_int_equal(sizes[0], 0);
    assert_int_equal(arn_sse_feed(&sse, "\n\n", 2, count_event, sizes), 0);
    assert_int_equal(sizes[0], 1);
    assert_int_equal(sizes[1], size);
    /* and the memory does not stay */
    assert_true(sse.line.cap + sse.data.cap < 1u << 20);
    arn_sse_free(&sse);
    free(text);
}

/* A million lines that end in CR, in one piece, after an id that makes an event of each. */
static void many_lines_without_lf(void **state) {
    const size_t count = 1u << 20;
    size_t sizes[2] = {0, 0};
    char *text = malloc(count);
    arn_sse sse;

    (void)state;
    assert_non_null(text);
    memset(text, '\r', count);
    arn_sse_init(&sse);
    assert_int_equal(arn_sse_feed(&sse, "id: 1\r", 6, count_event, sizes), 0);
    assert_int_equal(arn_sse_feed(&sse, text, count, count_event, sizes), 0);
    assert_int_equal(sizes[0], count);
    arn_sse_free(&sse);
    free(text);
}

/* What the callback says ends the feed. */
static void refused(void **state) {
    static said to;
    arn_sse sse;

    (void)state;
    memset(&to, 0, sizeof(to));
    to.no_more = ARN_EBUSY;
    arn_sse_init(&sse);
    assert_int_equal(feed(&sse, TEXT("event: e\n"), &to), 0);
    assert_int_equal(feed(&sse, TEXT("\ndata: x\n\n"), &to), ARN_EBUSY);
    arn_sse_free(&sse);
}

/* Whichever allocation fails, the decoder says so, has told nothing wrong, and can be freed. */
static void out_of_memory(void **state) {
    static const char input[] = "id: 1\nevent: e\ndata: a\ndata: b\nretry: 5\n\n"
                                "data: cut here, and not UTF-8: \xff\n";
    static const char expected[] = "e|a\nb|1|5;";
    static said to;
    size_t cut;
    long n;

    (void)state;
    for (cut = 0; cut < sizeof(input); cut++) {
        int status = ARN_ENOMEM;
        for (n = 0; status == ARN_ENOMEM; n++) {
            arn_sse sse;
            assert_true(n < 100);
            memset(&to, 0, sizeof(to));
            arn_sse_init(&sse);
            arn_alloc_fail_after(n);
            status = feed(&sse, input, cut, &to);
            if (status == 0)
                status = feed(&sse, input + cut, sizeof(input) - 1 - cut, &to);
            arn_alloc_fail_after(-1);
            assert_true(to.len == 0 || strcmp(to.text, expected) == 0);
            arn_sse_free(&sse);
        }
        assert_true(n > 4);
        assert_int_equal(status, ARN_EPROTO);
        assert_string_equal(to.text, expected);
    }
}

/* ---- UTF-8 ---- */

/* The bounds of each length, and what is beyond them. */
static void utf8(void **state) {
    static const struct {
        const char *text;
        size_t len;
        int is_valid;
    } texts[] = {
        {TEXT(""), 1},
        {TEXT("abc\0\x7f"), 1},
        {TEXT("\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf"), 1},
        {TEXT("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"), 1},
        {TEXT("12345678\xe2\x82\xac"
              "12345678\xe2\x82\xac"),
         1},
        {TEXT("\x80"), 0},
        {TEXT("\xc0\x80"), 0},
        {TEXT("\xc1\xbf"), 0},
        {TEXT("\xe0\x9f\xbf"), 0},
        {TEXT("\xed\xa0\x80"), 0},
        {TEXT("\xed\xbf\xbf"), 0},
        {TEXT("\xf0\x8f\xbf\xbf"), 0},
        {TEXT("\xf4\x90\x80\x80"), 0},
        {TEXT("\xf5\x80\x80\x80"), 0},
        {TEXT("\xff"), 0},
        {TEXT("1234567\xe2\x82"), 0},
        {TEXT("\xe2\x28\xa1"), 0},
        {TEXT("\xf0\x9f\x98"), 0},
        {TEXT("\xf0\x9f\x98\xc0"), 0},
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(texts); i++) {
        char *copy = malloc(texts[i].len > 0 ? texts[i].len : 1);
        assert_non_null(copy);
        memcpy(copy, texts[i].text, texts[i].len);
        assert_int_equal(arn_utf8_is_valid(copy, texts[i].len), texts[i].is_valid);
        free(copy);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_a_whole),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(as_soon_as_it_is_there),
        cmocka_unit_test(long_lines),
        cmocka_unit_test(many_lines_without_lf),
        cmocka_unit_test(refused),
        cmocka_unit_test_teardown(out_of_memory, hook_off),
        cmocka_unit_test(utf8),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
