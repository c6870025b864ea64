#include "py/milvus_numbers.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define OTHER ARN_MILVUS_OTHER

static int put_float(char *out, double x, arn_py_overflow overflow) {
    float y = (float)x;

    if (isinf(y) && !isinf(x) && overflow == ARN_PY_OVERFLOW_REFUSED)
        return OTHER;
    memcpy(out, &y, sizeof(y));
    return 0;
}

/* ---- numpy ---- */

/* A class of a module that is imported already; without it there are no instances either. */
static int known_class(PyObject **cache, const char *module_name, const char *name) {
    PyObject *modules, *module;

    if (*cache != NULL)
        return 1;
    modules = PyImport_GetModuleDict(); /* borrowed */
    module = modules == NULL ? NULL : PyDict_GetItemString(modules, module_name);
    if (module == NULL)
        return 0;
    Py_INCREF(module);
    Py_XSETREF(*cache, PyObject_GetAttrString(module, name));
    Py_DECREF(module);
    if (*cache != NULL)
        return 1;
    if (PyErr_ExceptionMatches(PyExc_AttributeError)) { /* it is being imported */
        PyErr_Clear();
        return 0;
    }
    return -1;
}

/* An instance of the class, or of one of numpy's that derive from it? */
static int is_scalar(PyObject **cache, const char *name, PyObject *o) {
    int r = known_class(cache, "numpy", name);

    return r <= 0 ? r
                  : PyType_Check(*cache) && !PyType_HasFeature(Py_TYPE(o), Py_TPFLAGS_HEAPTYPE) &&
                        PyType_IsSubtype(Py_TYPE(o), (PyTypeObject *)*cache);
}

int arn_py_is_numpy_integer(arn_py_state *st, PyObject *o) {
    return is_scalar(&st->np_integer, "integer", o);
}

int arn_py_milvus_double(arn_py_state *st, PyObject *o, double *out) {
    int r;

    if (!PyFloat_CheckExact(o) && !PyLong_CheckExact(o)) {
        r = is_scalar(&st->np_floating, "floating", o);
        if (r == 0)
            r = arn_py_is_numpy_integer(st, o);
        if (r <= 0)
            return r < 0 ? -1 : OTHER;
    }
    *out = PyFloat_AsDouble(o);
    if (*out == -1.0 && PyErr_Occurred()) { /* an int that is too large */
        PyErr_Clear();
        return OTHER;
    }
    return 0;
}

/* Floats are written in groups of so many, of which only the sums of doubts are looked at; and
 * asked for so far ahead, because a vector that was made long ago is in no cache. */
#define GROUP 8
#define AHEAD 64

/* Writes a group if all of it is float objects whose values a float can hold. */
static int put_group(char *out, PyObject *const *items) {
    float group[GROUP];
    int others = 0, large = 0, k;

    for (k = 0; k < GROUP; k++)
        others |= !PyFloat_CheckExact(items[k]);
    if (others)
        return 0;
    for (k = 0; k < GROUP; k++) {
        double x = PyFloat_AS_DOUBLE(items[k]);
        large |= !(fabs(x) <= (double)FLT_MAX); /* or no number */
        group[k] = (float)x;
    }
    if (large)
        return 0;
    memcpy(out, group, sizeof(group));
    return 1;
}

int arn_py_milvus_put_floats(arn_py_state *st, char *out, PyObject *sequence,
                             arn_py_overflow overflow) {
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence), i = 0, end;
    PyObject **items = PySequence_Fast_ITEMS(sequence);
    int k;

    /* No code of the program's runs here, so the list stays as it is. */
    while (i < count) {
        for (k = 0; count - i >= AHEAD + GROUP && k < GROUP; k += 2)
            __builtin_prefetch(items[i + AHEAD + k]);
        end = count - i < GROUP ? count : i + GROUP;
        if (end - i == GROUP && put_group(out + 4 * i, items + i))
            i = end;
        for (; i < end; i++) {
            PyObject *item = items[i];
            double x;

            if (PyFloat_CheckExact(item)) {
                x = PyFloat_AS_DOUBLE(item);
            } else {
                int r = arn_py_milvus_double(st, item, &x);
                if (r != 0)
                    return r;
            }
            if (put_float(out + 4 * i, x, overflow) != 0)
                return OTHER;
        }
    }
    return 0;
}

int arn_py_is_array(arn_py_state *st, PyObject *o) {
    int r = known_class(&st->ndarray, "numpy", "ndarray");

    return r <= 0 ? r : (PyObject *)Py_TYPE(o) == st->ndarray;
}

static char kind_of(const Py_buffer *view) {
    const char *format = view->format;
    static const struct {
        char letter, kind;
        unsigned char size;
    } kinds[] = {{'?', '?', 1}, {'b', 'b', 1}, {'B', 'B', 1}, {'h', 'h', 2},
                 {'i', 'i', 4}, {'l', 'q', 8}, {'l', 'i', 4}, {'q', 'q', 8},
                 {'e', 'e', 2}, {'f', 'f', 4}, {'d', 'd', 8}};
    size_t i;

    if (format == NULL || format[0] == '\0' || format[1] != '\0')
        return 0;
    for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (kinds[i].letter == format[0] && kinds[i].size == view->itemsize)
            return kinds[i].kind;
    return 0;
}

int arn_py_block_take(arn_py_state *st, PyObject *o, arn_py_block *block) {
    int r = arn_py_is_array(st, o);

    if (r <= 0)
        return r < 0 ? -1 : OTHER;
    if (PyObject_GetBuffer(o, &block->view, PyBUF_STRIDED_RO | PyBUF_FORMAT) < 0) {
        if (PyErr_ExceptionMatches(PyExc_MemoryError))
            return -1;
        PyErr_Clear(); /* bfloat16 and objects have no buffers */
        return OTHER;
    }
    block->kind = kind_of(&block->view);
    block->item_size = block->view.itemsize;
    if (block->kind == 0 || (block->view.ndim != 1 && block->view.ndim != 2)) {
        PyBuffer_Release(&block->view);
        return OTHER;
    }
    if (block->view.ndim == 2) {
        block->rows = block->view.shape[0];
        block->row_step = block->view.strides[0];
    } else {
        block->rows = -1;
        block->row_step = 0;
    }
    block->columns = block->view.shape[block->view.ndim - 1];
    block->step = block->view.strides[block->view.ndim - 1];
    return 0;
}

static const char *element(const arn_py_block *block, Py_ssize_t i, Py_ssize_t column) {
    return (const char *)block->view.buf + i * block->row_step + column * block->step;
}

void arn_py_block_put_raw(const arn_py_block *block, Py_ssize_t i, char *out) {
    Py_ssize_t k;

    if (block->step == block->item_size) {
        memcpy(out, element(block, i, 0), (size_t)(block->columns * block->item_size));
        return;
    }
    for (k = 0; k < block->columns; k++, out += block->item_size)
        memcpy(out, element(block, i, k), (size_t)block->item_size);
}

int arn_py_block_put_floats(const arn_py_block *block, Py_ssize_t i, char *out,
                            arn_py_overflow overflow) {
    Py_ssize_t k;

    if (block->kind == 'f') {
        arn_py_block_put_raw(block, i, out);
        return 0;
    }
    if (block->kind != 'd')
        return OTHER;
    for (k = 0; k < block->columns; k++, out += 4) {
        double x;
        memcpy(&x, element(block, i, k), sizeof(x));
        if (put_float(out, x, overflow) != 0)
            return OTHER;
    }
    return 0;
}

int64_t arn_py_block_int(const arn_py_block *block, Py_ssize_t i, Py_ssize_t column) {
    const char *p = element(block, i, column);
    int64_t q;
    int32_t n;
    int16_t h;

    switch (block->kind) {
    case 'q':
        memcpy(&q, p, sizeof(q));
        return q;
    case 'i':
        memcpy(&n, p, sizeof(n));
        return n;
    case 'h':
        memcpy(&h, p, sizeof(h));
        return h;
    case 'b':
        return (signed char)*p;
    default:
        return (unsigned char)*p;
    }
}

double arn_py_block_double(const arn_py_block *block, Py_ssize_t i, Py_ssize_t column) {
    const char *p = element(block, i, column);
    double d;
    float f;

    switch (block->kind) {
    case 'd':
        memcpy(&d, p, sizeof(d));
        return d;
    case 'f':
        memcpy(&f, p, sizeof(f));
        return (double)f;
    default:
        return (double)arn_py_block_int(block, i, column);
    }
}

/* ---- sparse vectors ---- */

typedef struct sparse_pair {
    uint32_t index;
    float value;
    size_t place; /* of equal indices the first stays first */
} sparse_pair;

static int compare_pairs(const void *a, const void *b) {
    const sparse_pair *x = a, *y = b;

    if (x->index != y->index)
        return x->index < y->index ? -1 : 1;
    return x->place < y->place ? -1 : 1;
}

static int set_pair(sparse_pair *pair, size_t place, int64_t index, double value) {
    char bytes[4];

    if (index < 0 || index >= (int64_t)UINT32_MAX || isnan(value) ||
        put_float(bytes, value, ARN_PY_OVERFLOW_REFUSED) != 0)
        return OTHER;
    pair->index = (uint32_t)index;
    pair->value = (float)value;
    pair->place = place;
    return 0;
}

static int set_python_pair(sparse_pair *pair, size_t place, PyObject *key, PyObject *value) {
    int overflow;
    long long index;

    if (!PyLong_CheckExact(key) || !PyFloat_Check(value))
        return OTHER; /* others, texts among them, pymilvus takes as well */
    index = PyLong_AsLongLongAndOverflow(key, &overflow);
    if (overflow != 0)
        return OTHER;
    return set_pair(pair, place, index, PyFloat_AS_DOUBLE(value));
}

/* The pairs in order, as bytes; they are no longer needed then. */
static int pack_pairs(sparse_pair *pairs, size_t count, char **out, size_t *len) {
    size_t i;
    char *p;

    for (i = 1; i < count && pairs[i - 1].index <= pairs[i].index; i++)
        ;
    if (i < count)
        qsort(pairs, count, sizeof(*pairs), compare_pairs);
    p = PyMem_Malloc(count > 0 ? 8 * count : 1);
    if (p == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (i = 0; i < count; i++) {
        memcpy(p + 8 * i, &pairs[i].index, 4);
        memcpy(p + 8 * i + 4, &pairs[i].value, 4);
    }
    *out = p;
    *len = 8 * count;
    return 0;
}

static sparse_pair *new_pairs(size_t count) {
    sparse_pair *pairs = PyMem_New(sparse_pair, count > 0 ? count : 1);

    if (pairs == NULL)
        PyErr_NoMemory();
    return pairs;
}

static int sparse_of_dict(PyObject *dict, char **out, size_t *len) {
    size_t count = (size_t)PyDict_GET_SIZE(dict), i = 0;
    sparse_pair *pairs = new_pairs(count);
    PyObject *key, *value;
    Py_ssize_t pos = 0;
    int r = 0;

    if (pairs == NULL)
        return -1;
    while (r == 0 && PyDict_Next(dict, &pos, &key, &value)) {
        r = set_python_pair(&pairs[i], i, key, value);
        i++;
    }
    if (r == 0)
        r = pack_pairs(pairs, count, out, len);
    PyMem_Free(pairs);
    return r;
}

static int sparse_of_list(PyObject *list, char **out, size_t *len) {
    size_t count = (size_t)PyList_GET_SIZE(list), i;
    sparse_pair *pairs = new_pairs(count);
    int r = 0;

    if (pairs == NULL)
        return -1;
    for (i = 0; r == 0 && i < count; i++) {
        PyObject *pair = PyList_GET_ITEM(list, (Py_ssize_t)i);
        if (!arn_py_is_sequence(pair) || PySequence_Fast_GET_SIZE(pair) != 2)
            r = OTHER;
        else
            r = set_python_pair(&pairs[i], i, PySequence_Fast_GET_ITEM(pair, 0),
                                PySequence_Fast_GET_ITEM(pair, 1));
    }
    if (r == 0)
        r = pack_pairs(pairs, count, out, len);
    PyMem_Free(pairs);
    return r;
}

int arn_py_is_csr(arn_py_state *st, PyObject *o) {
    int r = known_class(&st->csr_matrix, "scipy.sparse", "csr_matrix");

    if (r > 0 && (PyObject *)Py_TYPE(o) == st->csr_matrix)
        return 1;
    if (r >= 0)
        r = known_class(&st->csr_array, "scipy.sparse", "csr_array");
    return r <= 0 ? r : (PyObject *)Py_TYPE(o) == st->csr_array;
}

static int take_attribute(arn_py_state *st, PyObject *o, const char *name, arn_py_block *block) {
    PyObject *array = PyObject_GetAttrString(o, name);
    int r;

    if (array == NULL)
        return -1;
    r = arn_py_block_take(st, array, block);
    Py_DECREF(array); /* the buffer holds it */
    if (r == 0 && block->rows >= 0) {
        arn_py_block_release(block);
        return OTHER;
    }
    return r;
}

static int is_index(const arn_py_block *block) {
    return block->kind == 'i' || block->kind == 'q';
}

int arn_py_csr_take(arn_py_state *st, PyObject *o, arn_py_csr *csr) {
    int r = arn_py_is_csr(st, o);

    if (r <= 0)
        return r < 0 ? -1 : OTHER;
    if ((r = take_attribute(st, o, "indices", &csr->indices)) != 0)
        return r;
    if ((r = take_attribute(st, o, "data", &csr->data)) != 0)
        goto release_indices;
    if ((r = take_attribute(st, o, "indptr", &csr->starts)) != 0)
        goto release_data;
    csr->rows = csr->starts.columns - 1;
    if (is_index(&csr->indices) && is_index(&csr->starts) && csr->rows >= 0 &&
        (csr->data.kind == 'f' || csr->data.kind == 'd'))
        return 0;
    r = OTHER;
    arn_py_block_release(&csr->starts);
release_data:
    arn_py_block_release(&csr->data);
release_indices:
    arn_py_block_release(&csr->indices);
    return r;
}

void arn_py_csr_release(arn_py_csr *csr) {
    arn_py_block_release(&csr->starts);
    arn_py_block_release(&csr->data);
    arn_py_block_release(&csr->indices);
}

int arn_py_csr_row(const arn_py_csr *csr, Py_ssize_t i, char **out, size_t *len) {
    int64_t start = arn_py_block_int(&csr->starts, 0, i);
    int64_t end = arn_py_block_int(&csr->starts, 0, i + 1);
    sparse_pair *pairs;
    int64_t k;
    int r = 0;

    if (start < 0 || end < start || end > csr->indices.columns || end > csr->data.columns)
        return OTHER;
    pairs = new_pairs((size_t)(end - start));
    if (pairs == NULL)
        return -1;
    for (k = start; r == 0 && k < end; k++)
        r = set_pair(&pairs[k - start], (size_t)(k - start),
                     arn_py_block_int(&csr->indices, 0, (Py_ssize_t)k),
                     arn_py_block_double(&csr->data, 0, (Py_ssize_t)k));
    if (r == 0)
        r = pack_pairs(pairs, (size_t)(end - start), out, len);
    PyMem_Free(pairs);
    return r;
}

int arn_py_milvus_sparse(arn_py_state *st, PyObject *row, char **out, size_t *len) {
    arn_py_csr csr;
    int r;

    if (PyDict_CheckExact(row))
        return sparse_of_dict(row, out, len);
    if (PyList_CheckExact(row))
        return sparse_of_list(row, out, len);
    r = arn_py_csr_take(st, row, &csr);
    if (r != 0)
        return r;
    /* Of a row without a matrix pymilvus takes all that is stored. */
    r = csr.rows == 1 && arn_py_block_int(&csr.starts, 0, 1) == csr.indices.columns &&
                csr.indices.columns == csr.data.columns
            ? arn_py_csr_row(&csr, 0, out, len)
            : OTHER;
    arn_py_csr_release(&csr);
    return r;
}
