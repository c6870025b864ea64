/* buf.h - a growing byte buffer. Owned and used by one thread at a time. */
#ifndef ARN_BASE_BUF_H
#define ARN_BASE_BUF_H

#include <stddef.h>

typedef struct arn_buf {
    char *data;
    size_t len;
    size_t cap;
} arn_buf;

#define ARN_BUF_INIT                                                                               \
    { NULL, 0, 0 }

/* Room for `more` bytes behind len; NULL when out of memory (the content stays). The pointer is
 * valid until the next call on this buffer. */
char *arn_buf_reserve(arn_buf *buf, size_t more);

/* 0 or ARN_ENOMEM (the content stays). */
int arn_buf_append(arn_buf *buf, const void *data, size_t len);

/* Forgets the content; gives the memory back when it has grown past `keep` bytes. */
void arn_buf_reset(arn_buf *buf, size_t keep);

void arn_buf_free(arn_buf *buf);

#endif /* ARN_BASE_BUF_H */
