/* utf8.h - what is UTF-8. Any thread. */
#ifndef ARN_BASE_UTF8_H
#define ARN_BASE_UTF8_H

#include <stddef.h>

/* Length of the sequence at p, whose first byte is not ASCII; 0 if it is not UTF-8. Surrogates
 * are let through. */
static inline size_t arn_utf8_sequence(const char *text, const char *end) {
    const unsigned char *p = (const unsigned char *)text;
    size_t room = (size_t)(end - text);

#define FOLLOWS(i) ((p[i] & 0xc0) == 0x80)
    if (p[0] < 0xc2)
        return 0;
    if (p[0] < 0xe0)
        return room >= 2 && FOLLOWS(1) ? 2 : 0;
    if (p[0] < 0xf0)
        return room >= 3 && FOLLOWS(1) && FOLLOWS(2) && (p[0] > 0xe0 || p[1] >= 0xa0) ? 3 : 0;
    if (p[0] < 0xf5)
        return room >= 4 && FOLLOWS(1) && FOLLOWS(2) && FOLLOWS(3) &&
                       (p[0] > 0xf0 || p[1] >= 0x90) && (p[0] < 0xf4 || p[1] < 0x90)
                   ? 4
                   : 0;
#undef FOLLOWS
    return 0;
}

/* Whether all of it is UTF-8, in which there are no surrogates. */
int arn_utf8_is_valid(const char *text, size_t len);

#endif /* ARN_BASE_UTF8_H */
