#include "base/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#ifdef ARN_ALLOC_TEST
static _Atomic long fail_after = -1;
static _Atomic long made;

static int must_fail(void) {
    atomic_fetch_add(&made, 1);
    if (atomic_load(&fail_after) < 0)
        return 0;
    return atomic_fetch_sub(&fail_after, 1) == 0;
}

long arn_alloc_fail_after(long n) {
    atomic_store(&fail_after, n);
    return atomic_exchange(&made, 0);
}
#else
#define must_fail() 0

long arn_alloc_fail_after(long n) {
    (void)n;
    return 0;
}
#endif

void *arn_malloc(size_t size) {
    return must_fail() ? NULL : malloc(size);
}

void *arn_calloc(size_t count, size_t size) {
    return must_fail() ? NULL : calloc(count, size);
}

void *arn_realloc(void *p, size_t size) {
    return must_fail() ? NULL : realloc(p, size);
}

void arn_free(void *p) {
    free(p);
}

char *arn_strdup(const char *s) {
    size_t n = strlen(s) + 1;
    char *copy = arn_malloc(n);
    if (copy != NULL)
        memcpy(copy, s, n);
    return copy;
}

char *arn_own_strings(const char **const *fields, size_t count) {
    size_t size = 1;
    size_t i;
    char *block, *at;

    for (i = 0; i < count; i++)
        size += *fields[i] != NULL ? strlen(*fields[i]) + 1 : 0;
    at = block = arn_malloc(size);
    for (i = 0; block != NULL && i < count; i++) {
        size_t len;
        if (*fields[i] == NULL)
            continue;
        len = strlen(*fields[i]) + 1;
        *fields[i] = memcpy(at, *fields[i], len);
        at += len;
    }
    return block;
}
