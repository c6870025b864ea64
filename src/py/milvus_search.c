/* milvus_search.c - replies to searches and queries as pymilvus's results. */
#include "py/milvus_replies.h"

#include "base/status.h"
#include "milvus/wire.h"

#include <string.h>

#define SELF(op) ((arn_py_milvus_replies *)(op))
#define NAME(name) (self->names[ARN_PY_MILVUS_NAME_##name])
#define SET(object, name, value) arn_py_milvus_set(self, object, ARN_PY_MILVUS_NAME_##name, value)

/* Enough for a few dozen hits with a few fields. */
#define FIRST_MEMORY 8192

/* What the hits of one reply share. */
typedef struct hits_context {
    const arn_milvus_search *search;
    PyObject *pk_name;
    PyObject **column_names; /* of the columns that are no lazy ones; else NULL */
    PyObject *round_to;      /* NULL: not rounded */
    PyObject *put_off;       /* the reply for what is put off; NULL: nothing is */
} hits_context;

/* What was raised while a reply was looked into that pymilvus would look into as well: ValueErrors
 * and such are pymilvus's to raise. */
static PyObject *leave_it(void) {
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_MemoryError) &&
        PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return NULL;
}

static PyObject *score_at(arn_py_milvus_replies *self, const hits_context *context, size_t i) {
    PyObject *score, *rounded, *args[2];
    float x;

    memcpy(&x, context->search->scores.u.floats + i * sizeof(x), sizeof(x));
    score = PyFloat_FromDouble((double)x);
    if (score == NULL || context->round_to == NULL)
        return score;
    args[0] = score;
    args[1] = context->round_to;
    rounded = PyObject_Vectorcall(self->round, args, 2, NULL);
    Py_DECREF(score);
    return rounded;
}

static PyObject *id_at(const arn_milvus_search *search, size_t i) {
    if (search->ids_are_text)
        return arn_py_milvus_text(search->ids.u.slices[i]);
    return PyLong_FromLongLong(search->ids.u.ints[i]);
}

static PyObject *entity_at(const hits_context *context, size_t i) {
    const arn_milvus_search *search = context->search;
    PyObject *entity = PyDict_New();
    size_t k;

    for (k = 0; entity != NULL && k < search->column_count; k++) {
        const arn_milvus_column *column = &search->columns[k];
        PyObject *value;

        if (context->column_names[k] == NULL)
            continue;
        value = arn_milvus_is_valid(column, i) ? arn_py_milvus_cell(column, i) : Py_NewRef(Py_None);
        if (value == NULL || PyDict_SetItem(entity, context->column_names[k], value) < 0)
            Py_CLEAR(entity);
        Py_XDECREF(value);
    }
    return entity;
}

static PyObject *hit_at(arn_py_milvus_replies *self, const hits_context *context, PyObject *id,
                        PyObject *score, PyObject *entity) {
    PyObject *hit = arn_py_milvus_new(self, self->hit);

    if (hit != NULL && (PyDict_SetItem(hit, context->pk_name, id) < 0 ||
                        PyDict_SetItem(hit, NAME(distance), score) < 0 ||
                        PyDict_SetItem(hit, NAME(entity), entity) < 0 ||
                        PyObject_SetAttr(hit, NAME(_pk_name), context->pk_name) < 0))
        Py_CLEAR(hit);
    /* Hits without containers in them are part of no cycle. The garbage collector is not shown
     * them, or it would look through all that there is for every few thousand: a dict shows itself
     * as soon as a container is put into it. */
    if (hit != NULL && !PyObject_GC_IsTracked(entity))
        PyObject_GC_UnTrack(hit);
    return hit;
}

/* HybridHits of the rows start to end - 1; `first` is what pymilvus would call its start. Takes the
 * reference to lazy over. */
static PyObject *hits_of(arn_py_milvus_replies *self, const hits_context *context, size_t start,
                         size_t end, size_t first, PyObject *lazy) {
    const arn_milvus_search *search = context->search;
    Py_ssize_t count = (Py_ssize_t)(end - start), i;
    PyObject *hits = arn_py_milvus_new(self, self->hits);
    PyObject *ids = PyList_New(count), *scores = PyList_New(count), *items = PyList_New(count);
    PyObject *entities = PyTuple_New(count), *dynamic = NULL;

    if (hits == NULL || ids == NULL || scores == NULL || items == NULL || entities == NULL)
        goto fail;
    for (i = 0; i < count; i++) {
        PyObject *id = id_at(search, start + (size_t)i);
        PyObject *score = id == NULL ? NULL : score_at(self, context, start + (size_t)i);
        PyObject *hit, *entity;

        if (id != NULL)
            PyList_SET_ITEM(ids, i, id);
        if (score == NULL)
            goto fail;
        PyList_SET_ITEM(scores, i, score);
        entity = entity_at(context, start + (size_t)i);
        if (entity == NULL)
            goto fail;
        PyTuple_SET_ITEM(entities, i, entity);
        hit = hit_at(self, context, id, score, entity);
        if (hit == NULL)
            goto fail;
        PyList_SET_ITEM(items, i, hit);
    }
    if (PyList_SetSlice(hits, 0, 0, items) < 0)
        goto fail;
    Py_CLEAR(items);
    dynamic = arn_py_milvus_missing(&search->output_fields, search->columns, search->column_count);
    if (SET(hits, ids, Py_NewRef(ids)) < 0 || SET(hits, distances, Py_NewRef(scores)) < 0 ||
        SET(hits, dynamic_fields, Py_XNewRef(dynamic)) < 0 ||
        SET(hits, lazy_field_data, Py_NewRef(lazy)) < 0 ||
        SET(hits, has_materialized, Py_NewRef(Py_False)) < 0 ||
        SET(hits, start, PyLong_FromSize_t(first)) < 0 ||
        SET(hits, _prefix_sum_cache, PyDict_New()) < 0 ||
        (context->put_off != NULL && count > 0 &&
         arn_py_milvus_put_off(self, hits, context->put_off, entities, dynamic, start) < 0))
        goto fail;
    Py_DECREF(dynamic);
    Py_DECREF(entities);
    PyObject_GC_UnTrack(ids);
    PyObject_GC_UnTrack(scores);
    Py_DECREF(ids);
    Py_DECREF(scores);
    Py_DECREF(lazy);
    return hits;

fail:
    Py_XDECREF(items);
    Py_XDECREF(entities);
    Py_XDECREF(dynamic);
    Py_XDECREF(hits);
    Py_XDECREF(ids);
    Py_XDECREF(scores);
    Py_DECREF(lazy);
    return NULL;
}

/* SearchResult of its HybridHits: the attributes. */
static int finish_result(arn_py_milvus_replies *self, const arn_milvus_search *search,
                         PyObject *result, Py_ssize_t share, int with_session) {
    PyObject *extra = PyDict_New();

    if (extra == NULL || arn_py_milvus_put_extra(self, &search->status, extra, share) < 0) {
        Py_XDECREF(extra);
        return -1;
    }
    if (SET(result, recalls, Py_NewRef(Py_None)) < 0 || SET(result, extra, Py_NewRef(extra)) < 0 ||
        SET(result, _session_ts,
            PyLong_FromUnsignedLongLong(with_session ? search->session_ts : 0)) < 0)
        goto fail;
    if (search->has_iterator) {
        PyObject *bytes =
            PyBytes_FromStringAndSize(search->iterator.data, (Py_ssize_t)search->iterator.len);
        PyObject *made = bytes == NULL ? NULL : PyObject_CallOneArg(self->parse_iterator, bytes);
        Py_XDECREF(bytes);
        if (SET(result, _search_iterator_v2_results, made) < 0)
            goto fail;
    } else if (SET(result, _search_iterator_v2_results, PyObject_CallNoArgs(self->iterator)) < 0) {
        goto fail;
    }
    if (self->has_buckets && SET(result, agg_buckets, PyList_New(0)) < 0)
        goto fail;
    Py_DECREF(extra);
    return 0;

fail:
    Py_DECREF(extra);
    return -1;
}

/* Are there values for all rows that a search's topks speak of? Otherwise versions of pymilvus
 * differ in what they make of it. */
static int columns_reach(const arn_milvus_search *search, size_t end) {
    size_t k;

    for (k = 0; k < search->column_count; k++) {
        const arn_milvus_column *column = &search->columns[k];

        if (arn_py_milvus_is_lazy(column))
            continue;
        if (column->data.count < end || (column->valid.count > 0 && column->valid.count < end))
            return 0;
    }
    return 1;
}

/* A SearchResult with all of the reply's HybridHits; or with is_split a list of SearchResults with
 * one each. */
static PyObject *results_of(arn_py_milvus_replies *self, const hits_context *context, int is_split,
                            int with_session) {
    const arn_milvus_search *search = context->search;
    Py_ssize_t searches = (Py_ssize_t)search->topks.count, i;
    size_t start = 0, end;
    PyObject *shared = NULL;
    PyObject *results = is_split ? PyList_New(0) : arn_py_milvus_new(self, self->search_result);

    if (results == NULL)
        return NULL;
    if (!is_split) {
        shared = arn_py_milvus_lazy(self, search->columns, search->column_count, 0, 0, 0);
        if (shared == NULL)
            goto fail;
    }
    for (i = 0; i < searches; i++, start = end) {
        PyObject *lazy, *hits, *result;
        int r;

        end = start + (size_t)search->topks.u.ints[i];
        /* Each has a list of its own, of messages that are shared. */
        lazy = is_split
                   ? arn_py_milvus_lazy(self, search->columns, search->column_count, 1, start, end)
                   : PyList_GetSlice(shared, 0, PyList_GET_SIZE(shared));
        if (lazy == NULL)
            goto fail;
        if (lazy == Py_None) {
            Py_DECREF(results);
            return lazy;
        }
        hits = hits_of(self, context, start, end, is_split ? 0 : start, lazy);
        if (hits == NULL)
            goto fail;
        if (!is_split) {
            r = PyList_Append(results, hits);
        } else {
            result = arn_py_milvus_new(self, self->search_result);
            r = result == NULL || PyList_Append(result, hits) < 0 ||
                        finish_result(self, search, result, searches, with_session) < 0
                    ? -1
                    : PyList_Append(results, result);
            Py_XDECREF(result);
        }
        Py_DECREF(hits);
        if (r < 0)
            goto fail;
    }
    Py_XDECREF(shared);
    shared = NULL;
    if (!is_split && finish_result(self, search, results, 1, with_session) < 0)
        goto fail;
    return results;

fail:
    Py_XDECREF(shared);
    Py_DECREF(results);
    return NULL;
}

static PyObject *name_columns(hits_context *context) {
    const arn_milvus_search *search = context->search;
    PyObject *list = PyList_New(0); /* holds the names */
    size_t k;

    for (k = 0; list != NULL && k < search->column_count; k++) {
        context->column_names[k] = NULL;
        if (arn_py_milvus_is_lazy(&search->columns[k]))
            continue;
        context->column_names[k] = arn_py_milvus_text(search->columns[k].name);
        if (context->column_names[k] == NULL || PyList_Append(list, context->column_names[k]) < 0)
            Py_CLEAR(list);
        Py_XDECREF(context->column_names[k]);
    }
    return list;
}

static PyObject *make_results(arn_py_milvus_replies *self, const arn_milvus_search *search,
                              arn_arena *arena, PyObject *reply, PyObject *round_decimal,
                              Py_ssize_t split, int with_session) {
    hits_context context = {.search = search};
    PyObject *names, *results = NULL;
    size_t hits = 0, i;

    for (i = 0; i < search->topks.count; i++)
        hits += (size_t)search->topks.u.ints[i];
    if (search->status.code != 0 || search->status.error_code != 0 ||
        !columns_reach(search, hits) ||
        arn_py_milvus_names_clash(search->columns, search->column_count) ||
        (split >= 0 && ((size_t)split != search->topks.count || search->has_iterator)))
        Py_RETURN_NONE;
    if (PyLong_Check(round_decimal)) {
        int overflow;
        long digits = PyLong_AsLongAndOverflow(round_decimal, &overflow);
        if (digits > 0 || overflow > 0)
            context.round_to = round_decimal;
    }
    context.column_names =
        arn_arena_alloc(arena, search->column_count * sizeof(*context.column_names));
    if (context.column_names == NULL)
        return PyErr_NoMemory();
    context.pk_name = search->primary_name.len > 0 ? arn_py_milvus_text(search->primary_name)
                                                   : Py_NewRef(NAME(id));
    names = context.pk_name == NULL ? NULL : name_columns(&context);
    for (i = 0; names != NULL && i < search->column_count; i++)
        if (arn_py_milvus_is_lazy(&search->columns[i]) && PyBytes_CheckExact(reply)) {
            context.put_off = arn_py_milvus_new_lazy_reply(self->state, reply);
            if (context.put_off == NULL)
                Py_CLEAR(names);
            break;
        }
    if (names != NULL)
        results = results_of(self, &context, split >= 0, with_session);
    Py_XDECREF(names);
    Py_XDECREF(context.put_off);
    Py_XDECREF(context.pk_name);
    return results != NULL ? results : leave_it();
}

static PyObject *parse_and_make(arn_py_milvus_replies *self, PyObject *reply,
                                PyObject *round_decimal, Py_ssize_t split, int with_session) {
    char memory[FIRST_MEMORY];
    arn_milvus_search search;
    arn_arena arena;
    Py_buffer view;
    arn_slice slice;
    PyObject *made;
    int r;

    if (PyObject_GetBuffer(reply, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    slice.data = view.buf;
    slice.len = (size_t)view.len;
    arn_arena_init(&arena, memory, sizeof(memory));
    r = arn_milvus_parse_search(slice, &self->known, &arena, &search);
    if (r == 0)
        made = make_results(self, &search, &arena, reply, round_decimal, split, with_session);
    else
        made = r == ARN_ENOMEM ? PyErr_NoMemory() : Py_NewRef(Py_None);
    arn_arena_free(&arena);
    PyBuffer_Release(&view);
    return made;
}

static int check_count(const char *name, Py_ssize_t count, Py_ssize_t wanted) {
    if (count == wanted)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", name, wanted, count);
    return -1;
}

PyObject *arn_py_milvus_search(PyObject *op, PyObject *const *args, Py_ssize_t count) {
    int with_session;

    if (check_count("search", count, 3) < 0 || (with_session = PyObject_IsTrue(args[2])) < 0)
        return NULL;
    return parse_and_make(SELF(op), args[0], args[1], -1, with_session);
}

PyObject *arn_py_milvus_split(PyObject *op, PyObject *const *args, Py_ssize_t count) {
    Py_ssize_t searches;

    if (check_count("split", count, 3) < 0)
        return NULL;
    searches = PyLong_AsSsize_t(args[2]);
    if (searches < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a reply answers no negative number of searches");
        return NULL;
    }
    return parse_and_make(SELF(op), args[0], args[1], searches, 1);
}

/* ---- queries ---- */

static int is_meta(const arn_milvus_column *column) {
    return column->name.len == 5 && memcmp(column->name.data, "$meta", 5) == 0;
}

/* How many rows, or -1: pymilvus may raise, or count otherwise. */
static int64_t count_rows(const arn_milvus_query *query) {
    int64_t rows = -1;
    size_t k;

    for (k = 0; k < query->column_count; k++) {
        const arn_milvus_column *column = &query->columns[k];
        int64_t own = arn_milvus_column_rows(column);

        if (own < 0 || (k > 0 && own != rows) ||
            (column->valid.count > 0 && column->valid.count < (uint64_t)own) ||
            (is_meta(column) && !arn_py_milvus_is_lazy(column)))
            return -1;
        rows = own;
    }
    return rows;
}

/* {name: None}, in order, for all columns but the dynamic one; and their names, NULL for those that
 * wait. */
static PyObject *make_template(const arn_milvus_query *query, PyObject **names) {
    PyObject *row = PyDict_New();
    size_t k;

    for (k = 0; row != NULL && k < query->column_count; k++) {
        const arn_milvus_column *column = &query->columns[k];
        PyObject *name;

        names[k] = NULL;
        if (is_meta(column))
            continue;
        name = arn_py_milvus_text(column->name);
        if (name == NULL || PyDict_SetItem(row, name, Py_None) < 0)
            Py_CLEAR(row);
        else if (!arn_py_milvus_is_lazy(column))
            names[k] = name; /* the template holds it */
        Py_XDECREF(name);
    }
    return row;
}

static PyObject *row_at(const arn_milvus_query *query, PyObject *template, PyObject *const *names,
                        size_t i) {
    PyObject *row = PyDict_Copy(template);
    size_t k;

    for (k = 0; row != NULL && k < query->column_count; k++) {
        const arn_milvus_column *column = &query->columns[k];
        PyObject *value;

        if (names[k] == NULL || !arn_milvus_is_valid(column, i))
            continue;
        value = arn_py_milvus_cell(column, i);
        if (value == NULL || PyDict_SetItem(row, names[k], value) < 0)
            Py_CLEAR(row);
        Py_XDECREF(value);
    }
    return row;
}

static PyObject *rows_of(const arn_milvus_query *query, PyObject **names, Py_ssize_t count) {
    PyObject *template = make_template(query, names);
    PyObject *rows = template == NULL ? NULL : PyList_New(count);
    Py_ssize_t i;

    for (i = 0; rows != NULL && i < count; i++) {
        PyObject *row = row_at(query, template, names, (size_t)i);
        if (row == NULL)
            Py_CLEAR(rows);
        else
            PyList_SET_ITEM(rows, i, row);
    }
    Py_XDECREF(template);
    return rows;
}

/* pymilvus's: the cost even if it is none, and the session's time. */
static PyObject *extra_of(arn_py_milvus_replies *self, const arn_milvus_query *query) {
    PyObject *extra = PyDict_New(), *made = NULL;
    PyObject *zero = PyLong_FromLong(0);
    PyObject *session = PyLong_FromUnsignedLongLong(query->session_ts);

    if (extra != NULL && zero != NULL && session != NULL &&
        PyDict_SetItem(extra, NAME(cost), zero) == 0 &&
        arn_py_milvus_put_extra(self, &query->status, extra, 1) == 0 &&
        PyDict_SetItem(extra, NAME(iterator_session_ts), session) == 0)
        made = PyObject_CallOneArg(self->rows_extra, extra);
    Py_XDECREF(extra);
    Py_XDECREF(zero);
    Py_XDECREF(session);
    return made;
}

static PyObject *bitmap_of(Py_ssize_t count) {
    PyObject *bitmap = PyList_New(count);
    Py_ssize_t i;

    for (i = 0; bitmap != NULL && i < count; i++)
        PyList_SET_ITEM(bitmap, i, Py_NewRef(Py_False));
    return bitmap;
}

/* entity_helper.extract_dynamic_field_from_result(): none if the dynamic field itself is wanted. */
static PyObject *dynamic_of(const arn_milvus_query *query) {
    const arn_milvus_column *dynamic = NULL;
    size_t i;

    for (i = 0; i < query->column_count; i++)
        if (query->columns[i].is_dynamic)
            dynamic = &query->columns[i];
    for (i = 0; dynamic != NULL && i < query->output_fields.count; i++) {
        if (arn_pb_same(query->output_fields.u.slices[i], dynamic->name))
            return PySet_New(NULL);
    }
    return arn_py_milvus_missing(&query->output_fields, query->columns, query->column_count);
}

static PyObject *make_rows(arn_py_milvus_replies *self, const arn_milvus_query *query,
                           arn_arena *arena, PyObject *strict_float32) {
    PyObject *rows = NULL, *list = NULL;
    PyObject **names;
    int64_t count;

    count = count_rows(query);
    if (query->status.code != 0 || query->status.error_code != 0 || count < 0 ||
        arn_py_milvus_names_clash(query->columns, query->column_count))
        Py_RETURN_NONE;
    names = arn_arena_alloc(arena, query->column_count * sizeof(*names));
    if (names == NULL)
        return PyErr_NoMemory();
    rows = rows_of(query, names, (Py_ssize_t)count);
    list = rows == NULL ? NULL : arn_py_milvus_new(self, self->rows);
    if (list == NULL || PyList_SetSlice(list, 0, 0, rows) < 0 ||
        SET(list, _lazy_field_data,
            arn_py_milvus_lazy(self, query->columns, query->column_count, 0, 0, 0)) < 0 ||
        SET(list, _dynamic_fields, dynamic_of(query)) < 0 ||
        SET(list, extra, extra_of(self, query)) < 0 ||
        SET(list, _float_vector_np_array, PyDict_New()) < 0 ||
        SET(list, _has_materialized_float_vector, Py_NewRef(Py_False)) < 0 ||
        SET(list, _strict_float32, Py_NewRef(strict_float32)) < 0 ||
        SET(list, _materialized_bitmap, bitmap_of((Py_ssize_t)count)) < 0) {
        Py_XDECREF(rows);
        Py_XDECREF(list);
        return leave_it();
    }
    Py_DECREF(rows);
    return list;
}

PyObject *arn_py_milvus_query(PyObject *op, PyObject *const *args, Py_ssize_t count) {
    arn_py_milvus_replies *self = SELF(op);
    char memory[FIRST_MEMORY];
    arn_milvus_query query;
    arn_arena arena;
    Py_buffer view;
    arn_slice slice;
    PyObject *made;
    int r;

    if (check_count("query", count, 2) < 0 || PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    slice.data = view.buf;
    slice.len = (size_t)view.len;
    arn_arena_init(&arena, memory, sizeof(memory));
    r = arn_milvus_parse_query(slice, &self->known, &arena, &query);
    if (r == 0)
        made = make_rows(self, &query, &arena, args[1]);
    else
        made = r == ARN_ENOMEM ? PyErr_NoMemory() : Py_NewRef(Py_None);
    arn_arena_free(&arena);
    PyBuffer_Release(&view);
    return made;
}
