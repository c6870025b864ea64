/* base64.h - RFC 4648 text to bytes, and back. */
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

/* How many characters so many bytes become, without padding. */
static inline size_t arn_base64_encoded(size_t len) {
    return len / 3 * 4 + (len % 3 * 4 + 2) / 3;
}

/* Encodes bytes[0..len) into the arn_base64_encoded(len) characters at out: no padding, no NUL. Any
 * thread. */
void arn_base64_encode(const void *bytes, size_t len, char *out);

#endif /* ARN_BASE_BASE64_H */
