/* timer.h - a timer of the io thread that its owner can let go of at once. */
#ifndef ARN_IO_TIMER_H
#define ARN_IO_TIMER_H

#include "io/runtime.h"

#include <stdint.h>

/* io thread. Not started; its memory is its own. NULL: out of memory. */
uv_timer_t *arn__timer_new(arn_runtime *rt, void *data);

/* io thread. Never fires again; NULL is allowed. */
void arn__timer_free(uv_timer_t *timer);

/* Of two loop times the sooner one; 0 means never. */
static inline uint64_t arn__sooner(uint64_t a, uint64_t b) {
    return a == 0 || (b != 0 && b < a) ? b : a;
}

#endif /* ARN_IO_TIMER_H */
