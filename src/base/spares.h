/* spares.h - memory of large buffers, kept for the next ones.
 *
 * What malloc gives back to the system has to be asked for and zeroed again, page by page: for a
 * reply of 100 KB that costs as much as receiving it. Blocks of 64 KB to 1 MB are kept, 4 MB of
 * them. Any thread; whoever takes or gives owns the buffer.
 */
#ifndef ARN_BASE_SPARES_H
#define ARN_BASE_SPARES_H

#include "base/buf.h"

#include <stdatomic.h>

#define ARN_SPARES 16

/* Zeroed memory is an empty one. */
typedef struct arn_spares {
    _Atomic(void *) blocks[ARN_SPARES]; /* each begins with its size while it lies here */
    _Atomic size_t kept;                /* bytes */
} arn_spares;

/* Memory for `size` bytes or more as the empty buffer's, if there is a block that fits. */
void arn_spares_take(arn_spares *spares, arn_buf *buf, size_t size);

/* As arn_buf_free(). */
void arn_spares_give(arn_spares *spares, arn_buf *buf);

/* Frees all of it. Nobody else uses it any more. */
void arn_spares_free(arn_spares *spares);

#endif /* ARN_BASE_SPARES_H */
