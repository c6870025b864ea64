/* milvus_lazy.h - what is put off until somebody looks at hits or rows: what both share of it. */
#ifndef ARN_PY_MILVUS_LAZY_H
#define ARN_PY_MILVUS_LAZY_H

#include "py/milvus_replies.h"

/* A reply that is kept for what is put off, with its columns once they are parsed. */
typedef struct arn_py_milvus_lazy_reply {
    PyObject_HEAD
    PyObject *bytes;
    int is_parsed;
    arn_arena arena;
    const arn_milvus_column *columns; /* in the arena and in bytes */
    size_t column_count;
} arn_py_milvus_lazy_reply;

/* How a column's values get into the dicts of hits or rows. */
typedef struct arn_py_milvus_filling {
    PyObject *loads;   /* orjson's */
    PyObject *dynamic; /* set: what is wanted of the dynamic field; empty: all of it */
    int is_row; /* vectors of bytes in lists; what is in the dynamic field replaces nothing */
} arn_py_milvus_filling;

/* Puts the value of row i into the dict; a vector is at a place of its own among those that are
 * stored, because those that are null are not. 0, ARN_MILVUS_OTHER, or -1 with an exception set. */
int arn_py_milvus_fill(const arn_py_milvus_filling *how, const arn_milvus_column *column,
                       PyObject *name, PyObject *dict, size_t i, size_t place);

/* What a weak reference leads to, as a new reference; or NULL without an exception: it is gone. */
PyObject *arn_py_milvus_alive(PyObject *weak);

#endif /* ARN_PY_MILVUS_LAZY_H */
