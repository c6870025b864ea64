/* arena.h - memory that is allocated piece by piece and freed at once.
 *
 * An arena starts in a piece of memory its owner lends it (an op lends its own tail, so a small
 * reply costs no allocation) and continues in blocks of its own. Not thread-safe: whoever owns the
 * op owns its arena.
 */
#ifndef ARN_BASE_ARENA_H
#define ARN_BASE_ARENA_H

#include <stddef.h>

struct arn__arena_block;

typedef struct arn_arena {
    char *pos;
    char *end;
    struct arn__arena_block *blocks;
} arn_arena;

/* `first` may be NULL with size 0. It must outlive the arena and is never freed by it. */
void arn_arena_init(arn_arena *arena, void *first, size_t size);

/* Memory aligned for any arn_value; NULL when out of memory. size 0 is allowed. */
void *arn_arena_alloc(arn_arena *arena, size_t size);

/* A copy of len bytes with a NUL behind them; NULL when out of memory. */
char *arn_arena_copy(arn_arena *arena, const char *s, size_t len);

/* Frees every block; what was allocated is gone. The arena is empty afterwards. */
void arn_arena_free(arn_arena *arena);

#endif /* ARN_BASE_ARENA_H */
