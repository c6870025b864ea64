/* milvus.h - between Milvus's wire format (src/milvus) and Python: what the files py/milvus_*
 * share.
 *
 * Whatever these functions are not sure to do as pymilvus does they leave to it: they return None,
 * and the caller takes pymilvus's own path with the same arguments. So every error that a user can
 * make is raised by pymilvus, in its words.
 */
#ifndef ARN_PY_MILVUS_H
#define ARN_PY_MILVUS_H

#include "py/state.h"

#include "milvus/result.h"

/* The value of row i (the caller has checked that it is there and not null): scalars and arrays of
 * them. New reference; NULL with an exception set. */
PyObject *arn_py_milvus_cell(const arn_milvus_column *column, size_t i);

/* A str of a slice that is known to be UTF-8. */
PyObject *arn_py_milvus_text(arn_slice slice);

#endif /* ARN_PY_MILVUS_H */
