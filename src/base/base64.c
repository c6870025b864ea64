#include "base/base64.h"

#include <stdint.h>

#define BAD 0xffu

/* Value of each character, BAD for those outside of the alphabet. */
static const uint8_t values[256] = {
#define B BAD
    B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,
    B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  62, B,  B,  B,  63,
    52, 53, 54, 55, 56, 57, 58, 59, 60, 61, B,  B,  B,  B,  B,  B,  B,  0,  1,  2,  3,  4,  5,  6,
    7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, B,  B,  B,  B,  B,
    B,  26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48,
    49, 50, 51, B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,
    B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,
    B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,
    B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,
    B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,
    B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,  B,
#undef B
};

int arn_base64_decode(const char *text, size_t len, void *out, size_t *out_len) {
    const unsigned char *p = (const unsigned char *)text;
    unsigned char *to = out;
    size_t whole = len / 4;
    size_t padding = 0;
    uint32_t bad = 0;
    size_t i;

    *out_len = 0;
    if (len % 4 != 0)
        return -1;
    if (len == 0)
        return 0;
    padding = p[len - 1] == '=' ? 1 + (p[len - 2] == '=') : 0;
    whole -= padding != 0;
    /* A bad character has bits above the sixth: they are looked at once, at the end. */
    for (i = 0; i < whole; i++, p += 4, to += 3) {
        uint32_t a = values[p[0]], b = values[p[1]], c = values[p[2]], d = values[p[3]];
        uint32_t v = a << 18 | b << 12 | c << 6 | d;

        bad |= a | b | c | d;
        to[0] = (unsigned char)(v >> 16);
        to[1] = (unsigned char)(v >> 8);
        to[2] = (unsigned char)v;
    }
    if (padding != 0) {
        uint32_t a = values[p[0]], b = values[p[1]], c = padding == 1 ? values[p[2]] : 0;
        uint32_t v = a << 18 | b << 12 | c << 6;

        bad |= a | b | c;
        to[0] = (unsigned char)(v >> 16);
        to[1] = (unsigned char)(v >> 8);
        to += 3 - padding;
    }
    if (bad & 0xc0u)
        return -1;
    *out_len = (size_t)(to - (unsigned char *)out);
    return 0;
}

void arn_base64_encode(const void *bytes, size_t len, char *out) {
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = bytes;

    while (len > 0) {
        size_t n = len < 3 ? len : 3;
        uint32_t v = (uint32_t)p[0] << 16;
        size_t i;

        v |= n > 1 ? (uint32_t)p[1] << 8 : 0;
        v |= n > 2 ? p[2] : 0;
        for (i = 0; i <= n; i++)
            *out++ = letters[v >> (18 - 6 * i) & 63];
        p += n;
        len -= n;
    }
}
