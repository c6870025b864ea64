/* base64.h - RFC 4648 text to bytes. */
#ifndef ARN_BASE_BASE64_H
#define ARN_BASE_BASE64_H

#include <stddef.h>

/* Bytes that text of so many characters may stand for, at most. */
static inline size_t arn_base64_bound(size_t len) {
    return len / 4 * 3 + 3;
}

/* Decodes text[0..len) into out, which has room for arn_base64_bound(len) bytes; *out_len is how
 * many there were. Padding is required, as Python's b64decode() requires it, and so is the
 * standard alphabet; nothing is skipped. 0, or -1: it is no such text. Any thread. */
int arn_base64_decode(const char *text, size_t len, void *out, size_t *out_len);

#endif /* ARN_BASE_BASE64_H */
