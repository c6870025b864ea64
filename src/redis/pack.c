#include "redis/pack.h"

#include <string.h>

static size_t digits(size_t n) {
    size_t count = 1;

    while (n >= 10) {
        n /= 10;
        count++;
    }
    return count;
}

size_t arn_format_u64(char *out, unsigned long long n) {
    char reversed[20];
    size_t count = 0;
    size_t i;

    do {
        reversed[count++] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    for (i = 0; i < count; i++)
        out[i] = reversed[count - 1 - i];
    return count;
}

static char *header(char *out, char type, size_t n) {
    *out++ = type;
    out += arn_format_u64(out, n);
    *out++ = '\r';
    *out++ = '\n';
    return out;
}

size_t arn_redis_packed_size(const arn_slice *args, size_t count) {
    size_t size = 3 + digits(count);
    size_t i;

    for (i = 0; i < count; i++)
        size += 5 + digits(args[i].len) + args[i].len;
    return size;
}

char *arn_redis_pack_around(char *out, const arn_slice *args, size_t count, size_t skip,
                            size_t *skipped_at) {
    char *start = out;
    size_t i;

    out = header(out, '*', count);
    for (i = 0; i < count; i++) {
        out = header(out, '$', args[i].len);
        if (i == skip) {
            *skipped_at = (size_t)(out - start);
        } else {
            if (args[i].len > 0)
                memcpy(out, args[i].data, args[i].len);
            out += args[i].len;
        }
        *out++ = '\r';
        *out++ = '\n';
    }
    return out;
}

char *arn_redis_pack(char *out, const arn_slice *args, size_t count) {
    return arn_redis_pack_around(out, args, count, count, NULL);
}
