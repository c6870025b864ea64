/* pack.h - commands to RESP. Any thread; no state but the caller's.
 *
 * A command is an array of arguments. The size is known before a byte is written, so the caller
 * can pack straight into the memory of an op.
 */
#ifndef ARN_REDIS_PACK_H
#define ARN_REDIS_PACK_H

#include "base/slice.h"

#include <stddef.h>

/* Bytes that arn_redis_pack() will write. */
size_t arn_redis_packed_size(const arn_slice *args, size_t count);

/* The same as arn_redis_pack(), but the bytes of argument `skip` are left out: *skipped_at is where
 * in the output they belong. */
char *arn_redis_pack_around(char *out, const arn_slice *args, size_t count, size_t skip,
                            size_t *skipped_at);

/* Writes "*count\r\n$len\r\narg\r\n..."; returns the end. */
char *arn_redis_pack(char *out, const arn_slice *args, size_t count);

/* Decimal digits of n into out (room for 20); returns how many. */
size_t arn_format_u64(char *out, unsigned long long n);

#endif /* ARN_REDIS_PACK_H */
