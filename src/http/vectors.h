/* vectors.h - what a reply to an embeddings request needs beyond parsing. Any thread. */
#ifndef ARN_HTTP_VECTORS_H
#define ARN_HTTP_VECTORS_H

#include "base/arena.h"
#include "base/value.h"

/* In a document {"data": [{"embedding": "base64 ..."}, ...], ...} every such text that is base64 of
 * whole float32 values (little endian) becomes an ARN_FLOAT32_ARRAY; all lie one after the other in
 * one piece of memory. Anything else is left as it is, for the host to complain of. 0 or
 * ARN_ENOMEM.
 */
int arn__http_decode_vectors(arn_arena *arena, arn_value *document);

#endif /* ARN_HTTP_VECTORS_H */
