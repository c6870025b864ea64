/* milvus_schema.h - the type MilvusSchema, between its files. */
#ifndef ARN_PY_MILVUS_SCHEMA_H
#define ARN_PY_MILVUS_SCHEMA_H

#include "py/milvus_numbers.h"

#include "milvus/rows.h"

typedef struct arn_py_milvus_column {
    PyObject *name;
    arn_slice utf8; /* its memory is the name's */
    arn_milvus_type type;
    arn_milvus_type element; /* ARRAY */
    int64_t dim;             /* vectors, as the schema says */
    int takes_null;          /* nullable or with a default value: has valid_data */
    int is_auto_id;          /* written only by an upsert, or if the first row has it */
} arn_py_milvus_column;

typedef struct arn_py_milvus_schema {
    PyObject_HEAD
    arn_py_state *state;
    Py_ssize_t count;
    arn_py_milvus_column *columns;
    PyObject *index;   /* {name: place} */
    PyObject *outputs; /* frozenset: names of fields that functions fill */
    int is_dynamic;
    PyObject *dumps; /* orjson's */
    PyObject *loads;
} arn_py_milvus_schema;

/* A column under construction. */
typedef struct arn_py_milvus_build {
    const arn_py_milvus_column *column;
    int is_written; /* it belongs into the request */
    size_t seen;    /* the last row that had it, counted from 1 */
    int has_floats; /* FLOAT16 and BFLOAT16: given as numbers ... */
    int has_bytes;  /* ... or as bytes; not both */
    arn_milvus_builder builder;
} arn_py_milvus_build;

/* All return 0; ARN_MILVUS_OTHER: pymilvus must decide; -1 with an exception set. */

/* A row's value. The caller holds it. */
int arn_py_milvus_pack(arn_py_milvus_schema *schema, arn_py_milvus_build *build, PyObject *value);
/* A null for each of the rows. */
int arn_py_milvus_pack_null(arn_py_milvus_build *build, size_t rows);
/* JSON of a Python object as the next row. */
int arn_py_milvus_pack_json(arn_py_milvus_schema *schema, arn_milvus_builder *builder,
                            PyObject *value);
/* All rows at once: a sequence, a numpy array, a csr matrix. The caller holds them; there are as
 * many of them as are wanted, or it is none of ours. */
int arn_py_milvus_pack_all(arn_py_milvus_schema *schema, arn_py_milvus_build *build,
                           PyObject *values, Py_ssize_t rows);

#endif /* ARN_PY_MILVUS_SCHEMA_H */
