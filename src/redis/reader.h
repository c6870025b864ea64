/* reader.h - RESP replies to arn_values: hiredis' redisReader with value constructors.
 *
 * io thread only. Works with hiredis 0.14 (RESP2) and later.
 */
#ifndef ARN_REDIS_READER_H
#define ARN_REDIS_READER_H

#include "base/arena.h"
#include "base/value.h"

typedef struct arn_redis_reader arn_redis_reader;

arn_redis_reader *arn__redis_reader_new(void);
void arn__redis_reader_free(arn_redis_reader *r);

/* Lends the next bytes of the connection, which must stay until next() has returned 0. The bytes
 * of an earlier feed must have been used up (next() returned 0). */
void arn__redis_reader_feed(arn_redis_reader *r, const char *data, size_t len);

/* While a large bulk string is on its way: where its next bytes belong, so that they can be read
 * from the socket to their last place at once (and fed from there). NULL when none is. The reply's
 * arena must still be there. */
char *arn__redis_reader_space(arn_redis_reader *r, size_t *len);

/* The next reply, built in `arena`. 1: *value is set. 0: more bytes are needed; call again with
 * the same arena after the next feed. ARN_EPROTO or ARN_ENOMEM: the connection is of no use any
 * more; arn__redis_reader_error() says why. */
int arn__redis_reader_next(arn_redis_reader *r, arn_arena *arena, arn_value *value);

/* Bytes that are in hand and belong to a reply that is not complete. */
size_t arn__redis_reader_pending(const arn_redis_reader *r);

/* Static, or valid until the reader is freed. */
const char *arn__redis_reader_error(const arn_redis_reader *r);

#endif /* ARN_REDIS_READER_H */
