/* milvus_replies.h - the type MilvusReplies, between its files. */
#ifndef ARN_PY_MILVUS_REPLIES_H
#define ARN_PY_MILVUS_REPLIES_H

#include "py/milvus.h"

/* Interned names: those of attributes first, in the order in which pymilvus sets them. */
#define ARN_PY_MILVUS_NAMES(XX)                                                                    \
    XX(ids)                                                                                        \
    XX(distances)                                                                                  \
    XX(dynamic_fields)                                                                             \
    XX(lazy_field_data)                                                                            \
    XX(materialize)                                                                                \
    XX(has_materialized)                                                                           \
    XX(start)                                                                                      \
    XX(_prefix_sum_cache)                                                                          \
    XX(_pk_name)                                                                                   \
    XX(recalls)                                                                                    \
    XX(extra)                                                                                      \
    XX(_session_ts)                                                                                \
    XX(_search_iterator_v2_results)                                                                \
    XX(agg_buckets)                                                                                \
    XX(_lazy_field_data)                                                                           \
    XX(_dynamic_fields)                                                                            \
    XX(_float_vector_np_array)                                                                     \
    XX(_has_materialized_float_vector)                                                             \
    XX(_strict_float32)                                                                            \
    XX(_materialized_bitmap)                                                                       \
    XX(distance)                                                                                   \
    XX(entity)                                                                                     \
    XX(id)                                                                                         \
    XX(cost)                                                                                       \
    XX(scanned_remote_bytes)                                                                       \
    XX(scanned_total_bytes)                                                                        \
    XX(cache_hit_ratio)                                                                            \
    XX(iterator_session_ts)                                                                        \
    XX(_original_idx)                                                                              \
    XX(_pre_materialize_float_vector)

enum {
#define XX(name) ARN_PY_MILVUS_NAME_##name,
    ARN_PY_MILVUS_NAMES(XX)
#undef XX
        ARN_PY_MILVUS_NAME_COUNT
};

typedef struct arn_py_milvus_replies {
    PyObject_HEAD
    arn_py_state *state;
    arn_milvus_known known;
    int has_buckets;             /* SearchResult has agg_buckets (pymilvus 3) */
    PyTypeObject *search_result; /* list */
    PyTypeObject *hits;          /* list */
    PyTypeObject *hit;           /* dict */
    PyTypeObject *rows;          /* list */
    PyObject *rows_extra;        /* class: dict */
    PyObject *parse_field;       /* FieldData.FromString */
    PyObject *iterator;          /* class */
    PyObject *parse_iterator;    /* its FromString */
    PyObject *loads;             /* orjson's */
    PyObject *round;             /* builtins.round */
    PyObject *empty;             /* () */
    PyObject *names[ARN_PY_MILVUS_NAME_COUNT];
} arn_py_milvus_replies;

/* Enough for a reply of a few dozen rows with a few fields. */
#define ARN_PY_MILVUS_FIRST_MEMORY 8192

/* A new, empty instance of a list or dict class, made without its __init__. */
static inline PyObject *arn_py_milvus_new(arn_py_milvus_replies *self, PyTypeObject *type) {
    return type->tp_new(type, self->empty, NULL);
}

/* object.name = value, whose reference is taken over; NULL: an exception is set. */
int arn_py_milvus_set(arn_py_milvus_replies *self, PyObject *object, int name, PyObject *value);

/* As FieldData messages of pymilvus's, in a list: the columns that are only looked into when
 * somebody asks for them. With cut, of the rows start to end - 1 only. Py_None: leave it to
 * pymilvus. */
PyObject *arn_py_milvus_lazy(arn_py_milvus_replies *self, const arn_milvus_column *columns,
                             size_t count, int cut, size_t start, size_t end);

static inline int arn_py_milvus_is_lazy(const arn_milvus_column *column) {
    return column->type == ARN_MILVUS_JSON || column->type >= ARN_MILVUS_BINARY_VECTOR;
}

/* The set of the output fields that are no columns: those within the dynamic field. */
PyObject *arn_py_milvus_missing(const arn_milvus_values *output_fields,
                                const arn_milvus_column *columns, size_t count);

/* Do two columns share a name? */
int arn_py_milvus_names_clash(const arn_milvus_column *columns, size_t count);

/* What pymilvus takes of a status's extra_info, divided by `share` searches, into a dict. 0; or -1
 * with an exception set, a ValueError if it is no number. */
int arn_py_milvus_put_extra(arn_py_milvus_replies *self, const arn_milvus_status *status,
                            PyObject *extra, Py_ssize_t share);

/* Gives the hits what will complete their entities (a tuple of dicts) when they are looked at:
 * `reply`, of which they are the rows from `start` on. 0, or -1 with an exception set. */
int arn_py_milvus_put_off(arn_py_milvus_replies *replies, PyObject *hits, PyObject *reply,
                          PyObject *entities, PyObject *dynamic, size_t start);

/* What says which of a query's rows are complete, in place of `bitmap`, and completes them: `reply`
 * is theirs and parsed, `messages` what arn_py_milvus_lazy() has made of it. */
PyObject *arn_py_milvus_lazy_rows(arn_py_milvus_replies *replies, PyObject *rows, PyObject *reply,
                                  PyObject *messages, PyObject *bitmap);
PyObject *arn_py_milvus_new_lazy_reply(arn_py_state *st, PyObject *bytes);

/* None, if what has been raised is an exception that pymilvus would raise as well when it looks
 * into the reply (ValueErrors and such): it shall. Else NULL. */
PyObject *arn_py_milvus_leave_it(void);

/* 0, or -1 with a TypeError set. */
int arn_py_milvus_check_count(const char *name, Py_ssize_t count, Py_ssize_t wanted);

/* Methods of the type, all METH_FASTCALL; the documentation is in _core.pyi. */
PyObject *arn_py_milvus_search(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *arn_py_milvus_split(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *arn_py_milvus_query(PyObject *self, PyObject *const *args, Py_ssize_t count);

/* search() of a reply that lies in memory. */
PyObject *arn_py_milvus_search_message(PyObject *replies, arn_slice reply, PyObject *round_decimal);

#endif /* ARN_PY_MILVUS_REPLIES_H */
