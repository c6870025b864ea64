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

/* The vectors of a search. */
typedef struct arn_py_milvus_encoded {
    int type; /* common.PlaceholderType */
    Py_ssize_t count;
    PyObject *values; /* bytes; the caller's reference */
} arn_py_milvus_encoded;

/* vector_type: the field's, for vectors given as bytes; 0: unknown. 0; ARN_MILVUS_OTHER or -1 with
 * an exception set, and nothing to release. */
int arn_py_milvus_encode(arn_py_state *st, PyObject *data, int vector_type,
                         arn_py_milvus_encoded *out);

/* What a SearchRequest has beside its template. */
typedef struct arn_py_milvus_search_request {
    PyObject *values; /* list or tuple of encoded vectors; borrowed */
    long type;
    long long count; /* of vectors, all together */
    size_t inner, outer;
    size_t size; /* what is put */
} arn_py_milvus_search_request;

/* Sets the sizes. 0, or -1 with an exception set. */
int arn_py_milvus_measure(arn_py_milvus_search_request *request);
void arn_py_milvus_put_request(char *p, const arn_py_milvus_search_request *request);

#endif /* ARN_PY_MILVUS_H */
