/* milvus_numbers.h - vectors and numbers as Python programs hold them: lists, numpy arrays, scipy
 * rows. */
#ifndef ARN_PY_MILVUS_NUMBERS_H
#define ARN_PY_MILVUS_NUMBERS_H

#include "py/milvus.h"

/* What a double that is too large for a float becomes: struct.pack() refuses it, protobuf makes it
 * infinite. */
typedef enum arn_py_overflow {
    ARN_PY_OVERFLOW_REFUSED,
    ARN_PY_OVERFLOW_IS_INFINITE
} arn_py_overflow;

/* A float, an int or one of numpy's numbers. 0; ARN_MILVUS_OTHER; -1 with an exception set. */
int arn_py_milvus_double(arn_py_state *st, PyObject *o, double *out);

/* Is it an integer of numpy's? -1 with an exception set. */
int arn_py_is_numpy_integer(arn_py_state *st, PyObject *o);

/* All such numbers of a list or tuple as float32, 4 bytes each. As above. */
int arn_py_milvus_put_floats(arn_py_state *st, char *out, PyObject *sequence,
                             arn_py_overflow overflow);

static inline int arn_py_is_sequence(PyObject *o) {
    return PyList_CheckExact(o) || PyTuple_CheckExact(o);
}

/* A numpy array of one or two dimensions whose elements are in the machine's order. */
typedef struct arn_py_block {
    Py_buffer view;
    char kind;            /* struct's letter: ? b B h i q e f d; 0: not for us */
    Py_ssize_t rows;      /* -1: of one dimension */
    Py_ssize_t columns;   /* elements of a row, or all of them */
    Py_ssize_t row_step;  /* bytes */
    Py_ssize_t step;      /* bytes between elements */
    Py_ssize_t item_size; /* bytes of an element */
} arn_py_block;

/* 0: the block is held until released; ARN_MILVUS_OTHER: it is none that is known (nothing is
 * held); -1 with an exception set: out of memory. */
int arn_py_block_take(arn_py_state *st, PyObject *o, arn_py_block *block);

static inline void arn_py_block_release(arn_py_block *block) {
    PyBuffer_Release(&block->view);
}

/* Is it an array of numpy's at all? Subclasses are not. -1 with an exception set. */
int arn_py_is_array(arn_py_state *st, PyObject *o);

/* Bytes of row i one after the other, as they are. */
void arn_py_block_put_raw(const arn_py_block *block, Py_ssize_t i, char *out);

/* Row i of a block of kind f or d as float32. 0, or ARN_MILVUS_OTHER. */
int arn_py_block_put_floats(const arn_py_block *block, Py_ssize_t i, char *out,
                            arn_py_overflow overflow);

/* Element `column` of row i (0 if of one dimension), kind ? b B h i q, as an integer; e f d as a
 * double. */
int64_t arn_py_block_int(const arn_py_block *block, Py_ssize_t i, Py_ssize_t column);
double arn_py_block_double(const arn_py_block *block, Py_ssize_t i, Py_ssize_t column);

/* The sparse vector of a dict {int: float}, of a list of such pairs, or of a csr row, as Milvus
 * stores it: pairs of uint32 and float32 in the order of the former. *out is PyMem memory of *len
 * bytes. 0; ARN_MILVUS_OTHER; -1 with an exception set. */
int arn_py_milvus_sparse(arn_py_state *st, PyObject *row, char **out, size_t *len);

/* Does scipy call it a csr matrix or array? -1 with an exception set. */
int arn_py_is_csr(arn_py_state *st, PyObject *o);

/* A csr matrix's rows. */
typedef struct arn_py_csr {
    arn_py_block indices;
    arn_py_block data;
    arn_py_block starts;
    Py_ssize_t rows;
} arn_py_csr;

/* As arn_py_block_take(). */
int arn_py_csr_take(arn_py_state *st, PyObject *o, arn_py_csr *csr);
void arn_py_csr_release(arn_py_csr *csr);
/* As arn_py_milvus_sparse(). */
int arn_py_csr_row(const arn_py_csr *csr, Py_ssize_t i, char **out, size_t *len);

#endif /* ARN_PY_MILVUS_NUMBERS_H */
