#include "base/arena.h"

#include "base/alloc.h"

#include <stdint.h>
#include <string.h>

#define ALIGNMENT 8u
/* Small enough not to waste memory on a reply of a few values, large enough that one of a thousand
 * takes a handful of blocks. */
#define BLOCK_SIZE 4096u

struct arn__arena_block {
    struct arn__arena_block *next;
    size_t pad; /* keeps the payload aligned */
};

void arn_arena_init(arn_arena *arena, void *first, size_t size) {
    uintptr_t start = ((uintptr_t)first + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1);
    size_t skip = (size_t)(start - (uintptr_t)first);

    if (first == NULL || size <= skip) {
        arena->pos = arena->end = NULL;
    } else {
        arena->pos = (char *)first + skip;
        arena->end = (char *)first + size;
    }
    arena->blocks = NULL;
}

void *arn_arena_alloc(arn_arena *arena, size_t size) {
    struct arn__arena_block *block;
    size_t want;
    void *p;

    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if ((size_t)(arena->end - arena->pos) >= size && arena->pos != NULL) {
        p = arena->pos;
        arena->pos += size;
        return p;
    }

    /* A large piece gets a block of its own; the current one keeps its free tail. */
    want = size > BLOCK_SIZE / 2 ? size : BLOCK_SIZE;
    block = arn_malloc(sizeof(*block) + want);
    if (block == NULL)
        return NULL;
    block->next = arena->blocks;
    arena->blocks = block;
    p = block + 1;
    if (size <= BLOCK_SIZE / 2) {
        arena->pos = (char *)p + size;
        arena->end = (char *)p + want;
    }
    return p;
}

char *arn_arena_copy(arn_arena *arena, const char *s, size_t len) {
    char *copy = len == SIZE_MAX ? NULL : arn_arena_alloc(arena, len + 1);

    if (copy == NULL)
        return NULL;
    if (len > 0)
        memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

void arn_arena_free(arn_arena *arena) {
    struct arn__arena_block *block = arena->blocks;

    while (block != NULL) {
        struct arn__arena_block *next = block->next;
        arn_free(block);
        block = next;
    }
    arena->blocks = NULL;
    arena->pos = arena->end = NULL;
}
