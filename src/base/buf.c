#include "base/buf.h"

#include "base/alloc.h"
#include "base/status.h"

#include <stdint.h>
#include <string.h>

#define FIRST_CAPACITY 4096u

char *arn_buf_reserve(arn_buf *buf, size_t more) {
    size_t need;
    size_t cap;
    char *data;

    if (buf->cap - buf->len >= more && buf->data != NULL)
        return buf->data + buf->len;
    if (more > SIZE_MAX / 2 - buf->len)
        return NULL;
    need = buf->len + more;
    cap = buf->cap > 0 ? buf->cap : FIRST_CAPACITY;
    while (cap < need)
        cap *= 2;
    data = arn_realloc(buf->data, cap);
    if (data == NULL)
        return NULL;
    buf->data = data;
    buf->cap = cap;
    return data + buf->len;
}

int arn_buf_append(arn_buf *buf, const void *data, size_t len) {
    char *p = arn_buf_reserve(buf, len);

    if (p == NULL)
        return ARN_ENOMEM;
    if (len > 0)
        memcpy(p, data, len);
    buf->len += len;
    return 0;
}

void arn_buf_reset(arn_buf *buf, size_t keep) {
    buf->len = 0;
    if (buf->cap > keep)
        arn_buf_free(buf);
}

void arn_buf_free(arn_buf *buf) {
    arn_free(buf->data);
    buf->data = NULL;
    buf->len = buf->cap = 0;
}
