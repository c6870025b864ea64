/* slice.h - bytes that belong to somebody else. */
#ifndef ARN_BASE_SLICE_H
#define ARN_BASE_SLICE_H

#include <stddef.h>

typedef struct arn_slice {
    const char *data;
    size_t len;
} arn_slice;

#endif /* ARN_BASE_SLICE_H */
