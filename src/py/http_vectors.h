/* http_vectors.h - replies in the shape of OpenAI's embeddings. */
#ifndef ARN_PY_HTTP_VECTORS_H
#define ARN_PY_HTTP_VECTORS_H

#include "py/state.h"

/* (vectors, rest), see HttpResponse.embeddings(). The document is op's, which arrays then keep.
 * NULL with an exception set. */
PyObject *arn_py_embeddings_of(arn_py_state *st, arn_op *op, const arn_value *document,
                               int as_numpy);

#endif /* ARN_PY_HTTP_VECTORS_H */
