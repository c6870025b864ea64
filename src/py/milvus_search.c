/* milvus_search.c - replies to searches as pymilvus's results. */
#include "py/milvus_replies.h"

#include "base/status.h"

#include <string.h>

#define SELF(op) ((arn_py_milvus_replies *)(op))
#define NAME(name) (self->names[ARN_PY_MILVUS_NAME_##name])
#define SET(object, name, value) arn_py_milvus_set(self, object, ARN_PY_MILVUS_NAME_##name, value)

/* A reply and what its hits share. Zeroed but for the arena before it is opened. */
typedef struct hits_context {
    Py_buffer view; /* the reply, if the context keeps it */
    arn_arena arena;
    arn_milvus_search search; /* of slices of the reply and memory of the arena */
    size_t *starts;           /* with several searches: where the hits of each begin, and the end */
    PyObject *pk_name;
    PyObject **column_names; /* of the columns that are no lazy ones; else NULL */
    PyObject *names;         /* holds those */
    PyObject *round_to;      /* NULL: not rounded */
    PyObject *put_off;       /* the reply for what is put off; NULL: nothing is */
} hits_context;

static PyObject *score_at(arn_py_milvus_replies *self, const hits_context *context, size_t i) {
    PyObject *score, *rounded, *args[2];
    float x;

    memcpy(&x, context->search.scores.u.floats + i * sizeof(x), sizeof(x));
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
    const arn_milvus_search *search = &context->search;
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
    const arn_milvus_search *search = &context->search;
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

/* A SearchResult with all of the reply's HybridHits. */
static PyObject *whole_result(arn_py_milvus_replies *self, const hits_context *context,
                              int with_session) {
    const arn_milvus_search *search = &context->search;
    PyObject *result = arn_py_milvus_new(self, self->search_result);
    PyObject *shared = arn_py_milvus_lazy(self, search->columns, search->column_count, 0, 0, 0);
    size_t start = 0, end, i;

    for (i = 0; result != NULL && shared != NULL && i < search->topks.count; i++, start = end) {
        /* Each has a list of its own, of messages that are shared. */
        PyObject *lazy = PyList_GetSlice(shared, 0, PyList_GET_SIZE(shared));
        PyObject *hits;

        end = start + (size_t)search->topks.u.ints[i];
        hits = lazy == NULL ? NULL : hits_of(self, context, start, end, start, lazy);
        if (hits == NULL || PyList_Append(result, hits) < 0)
            Py_CLEAR(result);
        Py_XDECREF(hits);
    }
    if (shared == NULL || (result != NULL && finish_result(self, search, result, 1, with_session)))
        Py_CLEAR(result);
    Py_XDECREF(shared);
    return result;
}

/* A SearchResult with one of the HybridHits, as if its search had been alone; Py_None: in doubt. */
static PyObject *part_result(arn_py_milvus_replies *self, const hits_context *context, size_t i) {
    const arn_milvus_search *search = &context->search;
    size_t start = context->starts[i], end = context->starts[i + 1];
    PyObject *lazy = arn_py_milvus_lazy(self, search->columns, search->column_count, 1, start, end);
    PyObject *hits, *result;

    if (lazy == NULL || lazy == Py_None)
        return lazy;
    hits = hits_of(self, context, start, end, 0, lazy);
    result = hits == NULL ? NULL : arn_py_milvus_new(self, self->search_result);
    if (result != NULL &&
        (PyList_Append(result, hits) < 0 ||
         finish_result(self, search, result, (Py_ssize_t)search->topks.count, 1) < 0))
        Py_CLEAR(result);
    Py_XDECREF(hits);
    return result;
}

/* ---- a reply that is looked into ---- */

static PyObject *name_columns(hits_context *context) {
    const arn_milvus_search *search = &context->search;
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

static size_t count_hits(const arn_milvus_search *search) {
    size_t hits = 0, i;

    for (i = 0; i < search->topks.count; i++)
        hits += (size_t)search->topks.u.ints[i];
    return hits;
}

/* Whether it is beyond doubt what pymilvus makes of the reply. */
static int is_certain(const arn_milvus_search *search) {
    return search->status.code == 0 && search->status.error_code == 0 &&
           columns_reach(search, count_hits(search)) &&
           !arn_py_milvus_names_clash(search->columns, search->column_count);
}

/* Looks into a reply that outlives the context. object: the same as bytes; NULL: they are made if
 * there is need. 1; 0: leave it to pymilvus; -1 with an exception set. In any case close_context()
 * has to follow. */
static int open_context(arn_py_milvus_replies *self, hits_context *context, arn_slice reply,
                        PyObject *object, PyObject *round_decimal) {
    arn_milvus_search *search = &context->search;
    size_t i;
    int r;

    r = arn_milvus_parse_search(reply, &self->known, &context->arena, search);
    if (r != 0 && r != ARN_ENOMEM)
        return 0;
    if (r == 0 && !is_certain(search))
        return 0;
    if (r == 0)
        context->column_names =
            arn_arena_alloc(&context->arena, search->column_count * sizeof(*context->column_names));
    if (context->column_names == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (PyLong_Check(round_decimal)) {
        int overflow;
        long digits = PyLong_AsLongAndOverflow(round_decimal, &overflow);
        if (digits > 0 || overflow > 0)
            context->round_to = Py_NewRef(round_decimal);
    }
    context->pk_name = search->primary_name.len > 0 ? arn_py_milvus_text(search->primary_name)
                                                    : Py_NewRef(NAME(id));
    context->names = context->pk_name == NULL ? NULL : name_columns(context);
    if (context->names == NULL)
        return -1;
    for (i = 0; i < search->column_count; i++)
        if (arn_py_milvus_is_lazy(&search->columns[i])) {
            object = object != NULL ? Py_NewRef(object)
                                    : PyBytes_FromStringAndSize(reply.data, (Py_ssize_t)reply.len);
            if (object != NULL)
                context->put_off = arn_py_milvus_new_lazy_reply(self->state, object);
            Py_XDECREF(object);
            return context->put_off == NULL ? -1 : 1;
        }
    return 1;
}

/* The same with an object, which the context keeps. */
static int open_context_of(arn_py_milvus_replies *self, hits_context *context, PyObject *reply,
                           PyObject *round_decimal) {
    arn_slice slice;

    if (PyObject_GetBuffer(reply, &context->view, PyBUF_SIMPLE) < 0)
        return -1;
    slice.data = context->view.buf;
    slice.len = (size_t)context->view.len;
    return open_context(self, context, slice, PyBytes_CheckExact(reply) ? reply : NULL,
                        round_decimal);
}

static void close_context(hits_context *context) {
    Py_CLEAR(context->put_off);
    Py_CLEAR(context->names);
    Py_CLEAR(context->pk_name);
    Py_CLEAR(context->round_to);
    arn_arena_free(&context->arena);
    if (context->view.obj != NULL)
        PyBuffer_Release(&context->view);
}

/* opened: what open_context() has returned. */
static PyObject *close_with_result(arn_py_milvus_replies *self, hits_context *context, int opened,
                                   int with_session) {
    PyObject *made = opened > 0 ? whole_result(self, context, with_session) : NULL;

    if (made == NULL)
        made = opened == 0 ? Py_NewRef(Py_None) : arn_py_milvus_leave_it();
    close_context(context);
    return made;
}

PyObject *arn_py_milvus_search(PyObject *op, PyObject *const *args, Py_ssize_t count) {
    char memory[ARN_PY_MILVUS_FIRST_MEMORY];
    hits_context context = {.view = {.obj = NULL}};
    int with_session, r;

    if (arn_py_milvus_check_count("search", count, 3) < 0 ||
        (with_session = PyObject_IsTrue(args[2])) < 0)
        return NULL;
    arn_arena_init(&context.arena, memory, sizeof(memory));
    r = open_context_of(SELF(op), &context, args[0], args[1]);
    return close_with_result(SELF(op), &context, r, with_session);
}

PyObject *arn_py_milvus_search_message(PyObject *replies, arn_slice reply,
                                       PyObject *round_decimal) {
    char memory[ARN_PY_MILVUS_FIRST_MEMORY];
    hits_context context = {.view = {.obj = NULL}};
    int r;

    arn_arena_init(&context.arena, memory, sizeof(memory));
    r = open_context(SELF(replies), &context, reply, NULL, round_decimal);
    return close_with_result(SELF(replies), &context, r, 1);
}

/* ---- a reply to several searches ---- */

/* Their results are made one by one, when each is asked for: whoever has waited for one usually
 * looks at it and lets it go, so that those of a hundred searches are never there all at once, and
 * the garbage collector has no reason to look at them. */
typedef struct milvus_parts {
    PyObject_HEAD
    arn_py_milvus_replies *replies;
    hits_context context;
} milvus_parts;

#define PARTS(op) ((milvus_parts *)(op))

static Py_ssize_t count_parts(PyObject *op) {
    return (Py_ssize_t)PARTS(op)->context.search.topks.count;
}

static PyObject *part_at(PyObject *op, Py_ssize_t i) {
    PyObject *part;

    if (i < 0 || i >= count_parts(op)) {
        PyErr_SetString(PyExc_IndexError, "there are not so many searches");
        return NULL;
    }
    part = part_result(PARTS(op)->replies, &PARTS(op)->context, (size_t)i);
    return part != NULL ? part : arn_py_milvus_leave_it();
}

/* parts[i], parts[start:end] */
static PyObject *subscript(PyObject *op, PyObject *key) {
    Py_ssize_t start, stop, step, count, i;
    PyObject *list;

    if (!PySlice_Check(key)) {
        i = PyNumber_AsSsize_t(key, PyExc_IndexError);
        if (i == -1 && PyErr_Occurred())
            return NULL;
        return part_at(op, i < 0 ? i + count_parts(op) : i);
    }
    if (PySlice_Unpack(key, &start, &stop, &step) < 0)
        return NULL;
    count = PySlice_AdjustIndices(count_parts(op), &start, &stop, step);
    list = PyList_New(count);
    for (i = 0; list != NULL && i < count; i++) {
        PyObject *part = part_at(op, start + i * step);

        if (part == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, part);
    }
    return list;
}

static void dealloc_parts(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);

    close_context(&PARTS(op)->context);
    Py_XDECREF(PARTS(op)->replies);
    type->tp_free(op);
    Py_DECREF(type);
}

/* Not shown to the garbage collector: nothing that it refers to can refer to it. */
static PyType_Slot parts_slots[] = {
    {Py_tp_dealloc, dealloc_parts}, {Py_sq_length, count_parts},  {Py_sq_item, part_at},
    {Py_mp_length, count_parts},    {Py_mp_subscript, subscript}, {0, NULL},
};

static PyType_Spec parts_spec = {
    .name = "arshai_native._core.MilvusParts",
    .basicsize = sizeof(milvus_parts),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_SEQUENCE,
    .slots = parts_slots,
};

int arn_py_init_milvus_parts(PyObject *module, arn_py_state *st) {
    st->milvus_parts_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &parts_spec, NULL);
    return st->milvus_parts_type == NULL ? -1 : 0;
}

static int place_parts(hits_context *context) {
    const arn_milvus_values *topks = &context->search.topks;
    size_t i;

    context->starts = arn_arena_alloc(&context->arena, (topks->count + 1) * sizeof(size_t));
    if (context->starts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    context->starts[0] = 0;
    for (i = 0; i < topks->count; i++)
        context->starts[i + 1] = context->starts[i] + (size_t)topks->u.ints[i];
    return 1;
}

PyObject *arn_py_milvus_split(PyObject *op, PyObject *const *args, Py_ssize_t count) {
    PyTypeObject *type = SELF(op)->state->milvus_parts_type;
    Py_ssize_t searches;
    milvus_parts *parts;
    int r;

    if (arn_py_milvus_check_count("split", count, 3) < 0)
        return NULL;
    searches = PyLong_AsSsize_t(args[2]);
    if (searches < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a reply answers no negative number of searches");
        return NULL;
    }
    parts = (milvus_parts *)type->tp_alloc(type, 0);
    if (parts == NULL)
        return NULL;
    parts->replies = (arn_py_milvus_replies *)Py_NewRef(op);
    arn_arena_init(&parts->context.arena, NULL, 0);
    r = open_context_of(SELF(op), &parts->context, args[0], args[1]);
    if (r > 0 && (parts->context.search.topks.count != (size_t)searches ||
                  parts->context.search.has_iterator))
        r = 0;
    if (r > 0)
        r = place_parts(&parts->context);
    if (r > 0)
        return (PyObject *)parts;
    Py_DECREF(parts);
    return r == 0 ? Py_NewRef(Py_None) : arn_py_milvus_leave_it();
}
