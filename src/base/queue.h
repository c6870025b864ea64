/* queue.h - intrusive doubly linked queue. A node is in at most one queue at a time; whoever owns
 * the queue owns the links. Ring with a sentinel: an unlinked node points to itself. */
#ifndef ARN_BASE_QUEUE_H
#define ARN_BASE_QUEUE_H

#include <stddef.h>

typedef struct arn_queue {
    struct arn_queue *next;
    struct arn_queue *prev;
} arn_queue;

#define ARN_CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static inline void arn_queue_init(arn_queue *q) {
    q->next = q->prev = q;
}

static inline int arn_queue_empty(const arn_queue *q) {
    return q->next == q;
}

static inline void arn_queue_push(arn_queue *q, arn_queue *node) {
    node->next = q;
    node->prev = q->prev;
    q->prev->next = node;
    q->prev = node;
}

static inline void arn_queue_push_front(arn_queue *q, arn_queue *node) {
    arn_queue_push(q->next, node);
}

static inline void arn_queue_remove(arn_queue *node) {
    node->prev->next = node->next;
    node->next->prev = node->prev;
    arn_queue_init(node);
}

/* The first node, unlinked, or NULL. */
static inline arn_queue *arn_queue_pop(arn_queue *q) {
    arn_queue *node = q->next;

    if (node == q)
        return NULL;
    arn_queue_remove(node);
    return node;
}

/* Moves all of `from` behind the last node of `to`. */
static inline void arn_queue_append(arn_queue *to, arn_queue *from) {
    if (arn_queue_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    arn_queue_init(from);
}

#endif /* ARN_BASE_QUEUE_H */
