/* milvus_replies.c - MilvusReplies: pymilvus's classes of results, and what is made of them.
 *
 * Instances are made without running __init__: the attributes are set as __init__ sets them. That
 * this is what the installed pymilvus's does, the Python side makes sure of once, by comparing.
 */
#include "py/milvus_replies.h"

#include "milvus/field.h"
#include "milvus/wire.h"

#include <stddef.h>

#define SELF(op) ((arn_py_milvus_replies *)(op))

int arn_py_milvus_set(arn_py_milvus_replies *self, PyObject *object, int name, PyObject *value) {
    int r;

    if (value == NULL)
        return -1;
    r = PyObject_SetAttr(object, self->names[name], value);
    Py_DECREF(value);
    return r;
}

PyObject *arn_py_milvus_leave_it(void) {
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_MemoryError) &&
        PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return NULL;
}

int arn_py_milvus_check_count(const char *name, Py_ssize_t count, Py_ssize_t wanted) {
    if (count == wanted)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", name, wanted, count);
    return -1;
}

int arn_py_milvus_names_clash(const arn_milvus_column *columns, size_t count) {
    size_t i, j;

    for (i = 1; i < count; i++)
        for (j = 0; j < i; j++)
            if (arn_pb_same(columns[i].name, columns[j].name))
                return 1;
    return 0;
}

PyObject *arn_py_milvus_missing(const arn_milvus_values *output_fields,
                                const arn_milvus_column *columns, size_t count) {
    PyObject *set = PySet_New(NULL);
    size_t i, j;

    for (i = 0; set != NULL && i < output_fields->count; i++) {
        PyObject *name;

        for (j = 0; j < count; j++)
            if (arn_pb_same(output_fields->u.slices[i], columns[j].name))
                break;
        if (j < count)
            continue;
        name = arn_py_milvus_text(output_fields->u.slices[i]);
        if (name == NULL || PySet_Add(set, name) < 0)
            Py_CLEAR(set);
        Py_XDECREF(name);
    }
    return set;
}

static PyObject *parse_message(PyObject *parse, arn_slice message) {
    PyObject *bytes = PyBytes_FromStringAndSize(message.data, (Py_ssize_t)message.len);
    PyObject *made = bytes == NULL ? NULL : PyObject_CallOneArg(parse, bytes);

    Py_XDECREF(bytes);
    return made;
}

PyObject *arn_py_milvus_lazy(arn_py_milvus_replies *self, const arn_milvus_column *columns,
                             size_t count, int cut, size_t start, size_t end) {
    PyObject *list = PyList_New(0);
    arn_buf buf = ARN_BUF_INIT;
    size_t i;

    for (i = 0; list != NULL && i < count; i++) {
        arn_slice message = columns[i].message;
        PyObject *made;

        if (!arn_py_milvus_is_lazy(&columns[i]))
            continue;
        if (cut) {
            int r;

            buf.len = 0;
            r = arn_milvus_cut(&columns[i], start, end, &buf);
            if (r != 0) {
                arn_buf_free(&buf);
                Py_DECREF(list);
                if (r == ARN_MILVUS_OTHER)
                    Py_RETURN_NONE;
                return PyErr_NoMemory();
            }
            message.data = buf.data;
            message.len = buf.len;
        }
        made = parse_message(self->parse_field, message);
        if (made == NULL || PyList_Append(list, made) < 0)
            Py_CLEAR(list);
        Py_XDECREF(made);
    }
    arn_buf_free(&buf);
    return list;
}

/* int(text), or float(text), a share of it. */
static PyObject *number_of(arn_slice slice, int is_float, Py_ssize_t share) {
    PyObject *text = arn_py_milvus_text(slice);
    PyObject *number = NULL, *by, *divided;

    if (text != NULL)
        number = is_float ? PyFloat_FromString(text) : PyLong_FromUnicodeObject(text, 10);
    Py_XDECREF(text);
    if (number == NULL || is_float || share == 1)
        return number;
    by = PyLong_FromSsize_t(share);
    divided = by == NULL ? NULL : PyNumber_FloorDivide(number, by);
    Py_XDECREF(by);
    Py_DECREF(number);
    return divided;
}

int arn_py_milvus_put_extra(arn_py_milvus_replies *self, const arn_milvus_status *status,
                            PyObject *extra, Py_ssize_t share) {
    static const struct {
        const char *key;
        int name;
    } wanted[] = {
        {"report_value", ARN_PY_MILVUS_NAME_cost},
        {"scanned_remote_bytes", ARN_PY_MILVUS_NAME_scanned_remote_bytes},
        {"scanned_total_bytes", ARN_PY_MILVUS_NAME_scanned_total_bytes},
        {"cache_hit_ratio", ARN_PY_MILVUS_NAME_cache_hit_ratio},
    };
    size_t i, k;

    for (k = 0; status->extra_count > 0 && k < sizeof(wanted) / sizeof(wanted[0]); k++) {
        arn_slice key = {wanted[k].key, strlen(wanted[k].key)};

        for (i = status->extra_count; i-- > 0;) {
            PyObject *number;
            int r;

            if (!arn_pb_same(status->extra[i].key, key))
                continue;
            number = number_of(status->extra[i].value,
                               wanted[k].name == ARN_PY_MILVUS_NAME_cache_hit_ratio, share);
            if (number == NULL)
                return -1;
            r = PyDict_SetItem(extra, self->names[wanted[k].name], number);
            Py_DECREF(number);
            if (r < 0)
                return -1;
            break;
        }
    }
    return 0;
}

/* ---- the type ---- */

static int traverse_replies(PyObject *op, visitproc visit, void *arg) {
    arn_py_milvus_replies *self = SELF(op);

    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->search_result);
    Py_VISIT(self->hits);
    Py_VISIT(self->hit);
    Py_VISIT(self->rows);
    Py_VISIT(self->rows_extra);
    Py_VISIT(self->parse_field);
    Py_VISIT(self->iterator);
    Py_VISIT(self->parse_iterator);
    Py_VISIT(self->loads);
    Py_VISIT(self->round);
    return 0;
}

static int clear_replies(PyObject *op) {
    arn_py_milvus_replies *self = SELF(op);
    size_t i;

    Py_CLEAR(self->search_result);
    Py_CLEAR(self->hits);
    Py_CLEAR(self->hit);
    Py_CLEAR(self->rows);
    Py_CLEAR(self->rows_extra);
    Py_CLEAR(self->parse_field);
    Py_CLEAR(self->iterator);
    Py_CLEAR(self->parse_iterator);
    Py_CLEAR(self->loads);
    Py_CLEAR(self->round);
    Py_CLEAR(self->empty);
    for (i = 0; i < ARN_PY_MILVUS_NAME_COUNT; i++)
        Py_CLEAR(self->names[i]);
    return 0;
}

static void dealloc_replies(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    clear_replies(op);
    type->tp_free(op);
    Py_DECREF(type);
}

/* A class that is made and compared as `base` is, but for what __init__ sets. */
static int is_plain(PyObject *o, PyTypeObject *base) {
    PyTypeObject *type = (PyTypeObject *)o;

    return PyType_Check(o) && PyType_IsSubtype(type, base) && type->tp_new == base->tp_new &&
           type->tp_setattro == PyObject_GenericSetAttr;
}

static int intern_names(arn_py_milvus_replies *self) {
    static const char *const texts[] = {
#define XX(name) #name,
        ARN_PY_MILVUS_NAMES(XX)
#undef XX
    };
    size_t i;

    for (i = 0; i < ARN_PY_MILVUS_NAME_COUNT; i++) {
        self->names[i] = PyUnicode_InternFromString(texts[i]);
        if (self->names[i] == NULL)
            return -1;
    }
    return 0;
}

/* {message name: iterable of field numbers} */
static int read_known(arn_milvus_known *known, PyObject *fields) {
    static const char *const messages[] = {"Status",       "SearchResults", "SearchResultData",
                                           "QueryResults", "FieldData",     "ScalarField",
                                           "VectorField"};
    size_t i;

    for (i = 0; i < ARN_MILVUS_MESSAGES; i++) {
        PyObject *numbers = PyMapping_GetItemString(fields, messages[i]);
        PyObject *list = numbers == NULL ? NULL : PySequence_List(numbers);
        Py_ssize_t k;

        Py_XDECREF(numbers);
        for (k = 0; list != NULL && k < PyList_GET_SIZE(list); k++) {
            long number = PyLong_AsLong(PyList_GET_ITEM(list, k));
            if (number == -1 && PyErr_Occurred()) {
                Py_DECREF(list);
                return -1;
            }
            if (number > 0 && number < 64)
                known->fields[i] |= (uint64_t)1 << number;
        }
        if (list == NULL)
            return -1;
        Py_DECREF(list);
    }
    return 0;
}

static PyObject *new_replies(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"search_result", "hybrid_hits", "hit",      "hybrid_extra_list",
                            "rows_extra",    "field_data",  "iterator", "known",
                            "has_buckets",   "loads",       NULL};
    PyObject *search_result, *hits, *hit, *rows, *rows_extra, *field, *iterator, *known, *loads;
    arn_py_state *st = arn_py_state_of_type(type);
    arn_py_milvus_replies *self;
    PyObject *builtins;
    int has_buckets;

    if (st == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "$OOOOOOOOpO:MilvusReplies", names,
                                                   &search_result, &hits, &hit, &rows, &rows_extra,
                                                   &field, &iterator, &known, &has_buckets, &loads))
        return NULL;
    if (!is_plain(search_result, &PyList_Type) || !is_plain(hits, &PyList_Type) ||
        !is_plain(hit, &PyDict_Type) || !is_plain(rows, &PyList_Type)) {
        PyErr_SetString(PyExc_TypeError, "a class of results is not made as it is known to be");
        return NULL;
    }
    self = (arn_py_milvus_replies *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->search_result = (PyTypeObject *)Py_NewRef(search_result);
    self->hits = (PyTypeObject *)Py_NewRef(hits);
    self->hit = (PyTypeObject *)Py_NewRef(hit);
    self->rows = (PyTypeObject *)Py_NewRef(rows);
    self->rows_extra = Py_NewRef(rows_extra);
    self->iterator = Py_NewRef(iterator);
    self->has_buckets = has_buckets;
    self->loads = Py_NewRef(loads);
    self->state = st;
    builtins = PyImport_ImportModule("builtins");
    if (builtins != NULL)
        self->round = PyObject_GetAttrString(builtins, "round");
    Py_XDECREF(builtins);
    if (self->round == NULL || (self->empty = PyTuple_New(0)) == NULL ||
        (self->parse_field = PyObject_GetAttrString(field, "FromString")) == NULL ||
        (self->parse_iterator = PyObject_GetAttrString(iterator, "FromString")) == NULL ||
        intern_names(self) < 0 || read_known(&self->known, known) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMethodDef replies_methods[] = {
    {"search", (PyCFunction)(void (*)(void))arn_py_milvus_search, METH_FASTCALL, NULL},
    {"split", (PyCFunction)(void (*)(void))arn_py_milvus_split, METH_FASTCALL, NULL},
    {"query", (PyCFunction)(void (*)(void))arn_py_milvus_query, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot replies_slots[] = {
    {Py_tp_new, new_replies},           {Py_tp_dealloc, dealloc_replies},
    {Py_tp_traverse, traverse_replies}, {Py_tp_clear, clear_replies},
    {Py_tp_methods, replies_methods},   {0, NULL},
};

static PyType_Spec replies_spec = {
    .name = "arshai_native._core.MilvusReplies",
    .basicsize = sizeof(arn_py_milvus_replies),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = replies_slots,
};

int arn_py_init_milvus_replies(PyObject *module, arn_py_state *st) {
    st->milvus_replies_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &replies_spec, NULL);
    return st->milvus_replies_type == NULL ? -1 : PyModule_AddType(module, st->milvus_replies_type);
}
