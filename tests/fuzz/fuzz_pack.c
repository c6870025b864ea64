/* What is packed fills exactly its size and reads back as the same arguments. */
#include "base/arena.h"
#include "redis/pack.h"
#include "redis/reader.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARGS_MAX 300

#define CHECK(condition) ((condition) ? (void)0 : stop(#condition, __LINE__))

static void stop(const char *what, int line) {
    fprintf(stderr, "line %d: not so: %s\n", line, what);
    abort();
}

static void check_read(const char *packed, size_t size, const arn_slice *args, size_t count) {
    arn_redis_reader *r = arn__redis_reader_new();
    arn_arena arena;
    arn_value value;
    size_t i;

    CHECK(r != NULL);
    arn_arena_init(&arena, NULL, 0);
    arn__redis_reader_feed(r, packed, size);
    CHECK(arn__redis_reader_next(r, &arena, &value) == 1);
    CHECK(arn__redis_reader_pending(r) == 0);
    CHECK(value.kind == ARN_ARRAY && value.len == count);
    for (i = 0; i < count; i++) {
        const arn_value *v = &value.u.items[i];
        CHECK(v->kind == ARN_BYTES && v->len == args[i].len);
        CHECK(v->len == 0 || memcmp(v->u.bytes, args[i].data, v->len) == 0);
    }
    arn__redis_reader_free(r);
    arn_arena_free(&arena);
}

/* The first byte picks the argument to leave out; each argument is a byte for its length (times
 * 100 when above 200) and as much of that as there is. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    arn_slice args[ARGS_MAX];
    size_t count = 0, at = 1, skipped_at = 0;
    size_t skip, packed_size, rest;
    char *packed, *around;

    if (size == 0)
        return 0;
    while (at < size && count < ARGS_MAX) {
        size_t n = data[at] > 200 ? (data[at] - 200u) * 100u : data[at];
        at++;
        n = n < size - at ? n : size - at;
        args[count++] = (arn_slice){n > 0 ? (const char *)data + at : NULL, n};
        at += n;
    }
    packed_size = arn_redis_packed_size(args, count);
    packed = malloc(packed_size);
    CHECK(packed != NULL);
    CHECK(arn_redis_pack(packed, args, count) == packed + packed_size);
    check_read(packed, packed_size, args, count);

    if (count > 0) {
        skip = data[0] % count;
        rest = packed_size - args[skip].len;
        around = malloc(rest);
        CHECK(around != NULL);
        CHECK(arn_redis_pack_around(around, args, count, skip, &skipped_at) == around + rest);
        CHECK(skipped_at <= rest);
        CHECK(memcmp(around, packed, skipped_at) == 0);
        CHECK(memcmp(around + skipped_at, packed + skipped_at + args[skip].len,
                     rest - skipped_at) == 0);
        free(around);
    }
    free(packed);
    return 0;
}
