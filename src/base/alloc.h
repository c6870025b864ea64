/* alloc.h - the core's only way to the heap, so that a test can fail the n-th allocation.
 *
 * Every room but src/py allocates through these. All may be called on any thread.
 */
#ifndef ARN_BASE_ALLOC_H
#define ARN_BASE_ALLOC_H

#include <stddef.h>

void *arn_malloc(size_t size);
void *arn_calloc(size_t count, size_t size);
void *arn_realloc(void *p, size_t size);
void arn_free(void *p);
char *arn_strdup(const char *s);

/* Replaces the strings that the fields point to by copies in one block, in the fields' order; NULL
 * stays NULL. The block, or NULL: then nothing was changed. */
char *arn_own_strings(const char **const *fields, size_t count);

/* Test hook: let n more allocations of the process succeed, then fail exactly one; n < 0 turns
 * it off. Returns how many allocations were made since the last call. Not for production use. */
long arn_alloc_fail_after(long n);

#endif /* ARN_BASE_ALLOC_H */
