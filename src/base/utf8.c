#include "base/utf8.h"

#include <stdint.h>
#include <string.h>

static const char *skip_ascii(const char *p, const char *end) {
    while (end - p >= 8) {
        uint64_t x;
        memcpy(&x, p, sizeof(x));
        if (x & UINT64_C(0x8080808080808080))
            break;
        p += 8;
    }
    while (p < end && (unsigned char)*p < 0x80)
        p++;
    return p;
}

int arn_utf8_is_valid(const char *text, size_t len) {
    const char *end = text + len;
    const char *p = text;

    while ((p = skip_ascii(p, end)) < end) {
        size_t n = arn_utf8_sequence(p, end);
        if (n == 0 || ((unsigned char)p[0] == 0xed && (unsigned char)p[1] >= 0xa0))
            return 0;
        p += n;
    }
    return 1;
}
