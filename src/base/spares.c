#include "base/spares.h"

#include "base/alloc.h"

#define LEAST (64u * 1024u)
#define LARGEST (1024u * 1024u)
#define KEPT_MAX (4u * 1024u * 1024u)

static size_t size_of(void *block) {
    return *(size_t *)block;
}

/* NULL, or the block if there was no place for it. */
static void *put(arn_spares *spares, void *block) {
    size_t i;

    for (i = 0; i < ARN_SPARES; i++) {
        void *none = NULL;
        if (atomic_compare_exchange_strong_explicit(&spares->blocks[i], &none, block,
                                                    memory_order_release, memory_order_relaxed))
            return NULL;
    }
    return block;
}

static void drop(arn_spares *spares, void *block) {
    if (block == NULL)
        return;
    atomic_fetch_sub_explicit(&spares->kept, size_of(block), memory_order_relaxed);
    arn_free(block);
}

void arn_spares_take(arn_spares *spares, arn_buf *buf, size_t size) {
    size_t i;

    if (buf->data != NULL || size > LARGEST || size < LEAST / 2)
        return;
    for (i = 0; i < ARN_SPARES; i++) {
        void *block = atomic_load_explicit(&spares->blocks[i], memory_order_relaxed);
        if (block != NULL)
            block = atomic_exchange_explicit(&spares->blocks[i], NULL, memory_order_acquire);
        if (block == NULL)
            continue;
        if (size_of(block) >= size) {
            buf->cap = size_of(block);
            buf->data = block;
            atomic_fetch_sub_explicit(&spares->kept, buf->cap, memory_order_relaxed);
            return;
        }
        drop(spares, put(spares, block));
    }
}

void arn_spares_give(arn_spares *spares, arn_buf *buf) {
    size_t size = buf->cap;
    void *block = buf->data;

    if (size < LEAST || size > LARGEST ||
        atomic_load_explicit(&spares->kept, memory_order_relaxed) + size > KEPT_MAX) {
        arn_buf_free(buf);
        return;
    }
    *(size_t *)block = size;
    atomic_fetch_add_explicit(&spares->kept, size, memory_order_relaxed);
    drop(spares, put(spares, block));
    buf->data = NULL;
    buf->len = buf->cap = 0;
}

void arn_spares_free(arn_spares *spares) {
    size_t i;

    for (i = 0; i < ARN_SPARES; i++)
        drop(spares, atomic_exchange_explicit(&spares->blocks[i], NULL, memory_order_acquire));
}
