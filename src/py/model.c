#include "py/model.h"

#include <base/arena.h>
#include <base/json.h>
#include <base/status.h>

#include <string.h>

/* Fields whose values are sorted on the C stack; a model with more asks the heap. */
#define FIRST_FIELDS 48

/* ---- instances ---- */

static inline void set_slot(PyObject *instance, Py_ssize_t offset, PyObject *value) {
    *(PyObject **)((char *)instance + offset) = value; /* NULL before, in a new instance */
}

PyObject *arn_py_model_new(const arn_py_model *model, PyObject *dict, PyObject *fields_set,
                           PyObject *extra) {
    PyObject *instance = NULL;

    if (dict != NULL && fields_set != NULL && extra != NULL)
        instance = model->cls->tp_alloc(model->cls, 0); /* all that object.__new__() does */
    if (instance == NULL) {
        Py_XDECREF(dict);
        Py_XDECREF(fields_set);
        Py_XDECREF(extra);
        return NULL;
    }
    set_slot(instance, model->fields_set_offset, fields_set);
    set_slot(instance, model->extra_offset, extra);
    set_slot(instance, model->private_offset, Py_NewRef(Py_None));
    if (PyObject_GenericSetDict(instance, dict, NULL) < 0)
        Py_CLEAR(instance);
    Py_DECREF(dict);
    return instance;
}

PyObject *arn_py_model_fields_set(arn_py_model *model, const arn_value *const *values) {
    PyObject *set, *copy;
    uint64_t mask = 0;
    Py_ssize_t i;
    int is_small = model->count <= 64;

    if (is_small) {
        for (i = 0; i < model->count; i++)
            mask |= (uint64_t)(values[i] != NULL) << i;
        if (model->last_set != NULL && mask == model->last_mask) {
            /* Documents of one kind mostly have the same fields. A copy needs no look-up. */
            set = Py_NewRef(model->last_set);
            copy = PySet_New(set);
            Py_DECREF(set);
            return copy;
        }
    }
    set = PySet_New(NULL);
    for (i = 0; set != NULL && i < model->count; i++)
        if (values[i] != NULL && PySet_Add(set, model->fields[i].name) < 0)
            Py_CLEAR(set);
    if (set == NULL || !is_small)
        return set;
    copy = PySet_New(set);
    if (copy == NULL) {
        Py_DECREF(set);
        return NULL;
    }
    Py_XSETREF(model->last_set, copy);
    model->last_mask = mask;
    return set;
}

/* Documents mostly have the keys in the order of the fields, so the one behind the last found is
 * tried before the table. */
static inline int find_key(const arn_py_keys *keys, const arn_value *name, uint32_t guess) {
    if (guess < keys->count && keys->lens[guess] == name->len &&
        memcmp(keys->texts[guess], name->u.bytes, name->len) == 0)
        return (int)guess;
    return arn_py_keys_find(keys, name->u.bytes, name->len);
}

int arn_py_model_sort(const arn_py_model *model, const arn_value *map, const arn_value **values,
                      int *has_others) {
    uint32_t guess = 0;
    size_t i;

    memset(values, 0, (size_t)model->count * sizeof(*values));
    *has_others = 0;
    for (i = 0; i < map->len; i++) {
        const arn_value *name = &map->u.items[2 * i];
        int at = find_key(&model->keys, name, guess);
        int field = at < 0 ? ARN_PY_NO_FIELD : model->key_infos[at].field;
        if (at >= 0)
            guess = (uint32_t)at + 1;
        if (field >= 0) {
            values[field] = name + 1;
            *has_others |= model->key_infos[at].is_extra_constructed;
        } else if (field == ARN_PY_RESERVED_KEY) {
            return 0;
        } else {
            *has_others = 1;
        }
    }
    return 1;
}

static PyObject *make_extra(const arn_py_model *model, const arn_value *map, int has_others) {
    PyObject *extra = PyDict_New();
    size_t i;

    for (i = 0; has_others && extra != NULL && i < map->len; i++) {
        const arn_value *name = &map->u.items[2 * i];
        int at = arn_py_keys_find(&model->keys, name->u.bytes, name->len);
        PyObject *key, *item;
        if (at >= 0 && !model->key_infos[at].is_extra_constructed)
            continue;
        key = arn_py_text_to_python(name->u.bytes, name->len);
        if (key == NULL)
            item = NULL;
        else
            item = model->extra == NULL ? arn_py_value_to_python(name + 1)
                                        : arn_py_plan_construct(model->extra, name + 1);
        if (item == NULL || PyDict_SetItem(extra, key, item) < 0)
            Py_CLEAR(extra);
        Py_XDECREF(key);
        Py_XDECREF(item);
    }
    return extra;
}

static int fill_dict(const arn_py_model *model, const arn_value *const *values, PyObject *dict) {
    Py_ssize_t i;

    for (i = 0; i < model->count; i++) {
        const arn_py_field *field = &model->fields[i];
        PyObject *item;
        int r;
        if (values[i] == NULL || values[i]->kind == ARN_NIL)
            continue;
        item = arn_py_plan_construct(field->plan, values[i]);
        if (item == NULL)
            return -1;
        r = PyDict_SetItem(dict, field->name, item);
        Py_DECREF(item);
        if (r < 0)
            return -1;
    }
    return 0;
}

/* ---- construct_type() ---- */

/* The SDK's own, of a value as plain objects. */
static PyObject *ask_sdk(arn_py_plan *plan, const arn_value *value) {
    PyObject *object = arn_py_value_to_python(value), *result;

    if (object == NULL)
        return NULL;
    result = PyObject_Vectorcall(plan->construct, &object, 0, plan->st->kwnames_value);
    Py_DECREF(object);
    return result;
}

static PyObject *construct_mapping(arn_py_plan *plan, const arn_value *map) {
    arn_py_model *model = &plan->u.model;
    const arn_value *first[FIRST_FIELDS], **values = first;
    PyObject *result = NULL, *dict;
    int has_others;

    if (model->count > FIRST_FIELDS) {
        values = PyMem_New(const arn_value *, model->count);
        if (values == NULL)
            return PyErr_NoMemory();
    }
    if (!arn_py_model_sort(model, map, values, &has_others)) {
        result = ask_sdk(plan, map);
    } else {
        dict = PyDict_Copy(model->initial);
        if (dict != NULL && fill_dict(model, values, dict) < 0)
            Py_CLEAR(dict);
        if (dict != NULL)
            result = arn_py_model_new(model, dict, arn_py_model_fields_set(model, values),
                                      make_extra(model, map, has_others));
    }
    if (values != first)
        PyMem_Free(values);
    return result;
}

/* The SDK takes a list of mappings for a list of models, even where one model is expected. */
static PyObject *construct_models(arn_py_plan *plan, const arn_value *value) {
    PyObject *list = PyList_New((Py_ssize_t)value->len);
    size_t i;

    for (i = 0; list != NULL && i < value->len; i++) {
        const arn_value *entry = &value->u.items[i];
        PyObject *item =
            entry->kind == ARN_MAP ? construct_mapping(plan, entry) : arn_py_value_to_python(entry);
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return list;
}

static PyObject *construct_model(arn_py_plan *plan, const arn_value *value) {
    if (value->kind == ARN_MAP)
        return construct_mapping(plan, value);
    if (value->kind == ARN_ARRAY)
        return construct_models(plan, value);
    return arn_py_value_to_python(value);
}

static PyObject *construct_doubles(arn_py_plan *plan, const arn_value *value) {
    arn_py_plan *of = plan->u.item;
    arn_value number = {.kind = ARN_DOUBLE};
    PyObject *list;
    size_t i;

    if (arn_py_plan_ready(of) < 0)
        return NULL;
    /* All others leave a float as it is. */
    if (of->kind != ARN_PY_PLAN_PYTHON && of->kind != ARN_PY_PLAN_UNION)
        return arn_py_value_to_python(value);
    list = PyList_New((Py_ssize_t)value->len);
    for (i = 0; list != NULL && i < value->len; i++) {
        PyObject *item;
        number.u.number =
            value->kind == ARN_FLOAT64_ARRAY ? value->u.doubles[i] : (double)value->u.floats[i];
        item = arn_py_plan_construct(of, &number);
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return list;
}

static PyObject *construct_list(arn_py_plan *plan, const arn_value *value) {
    PyObject *list;
    size_t i;

    if (value->kind == ARN_FLOAT64_ARRAY || value->kind == ARN_FLOAT32_ARRAY)
        return construct_doubles(plan, value);
    if (value->kind != ARN_ARRAY)
        return arn_py_value_to_python(value);
    list = PyList_New((Py_ssize_t)value->len);
    for (i = 0; list != NULL && i < value->len; i++) {
        PyObject *item = arn_py_plan_construct(plan->u.item, &value->u.items[i]);
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return list;
}

static PyObject *construct_dict(arn_py_plan *plan, const arn_value *value) {
    PyObject *dict;
    size_t i;

    if (value->kind != ARN_MAP)
        return arn_py_value_to_python(value);
    dict = PyDict_New();
    for (i = 0; dict != NULL && i < value->len; i++) {
        const arn_value *name = &value->u.items[2 * i];
        PyObject *key = arn_py_text_to_python(name->u.bytes, name->len);
        PyObject *item = key == NULL ? NULL : arn_py_plan_construct(plan->u.item, name + 1);
        if (item == NULL || PyDict_SetItem(dict, key, item) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(key);
        Py_XDECREF(item);
    }
    return dict;
}

static PyObject *construct_union(arn_py_plan *plan, const arn_value *value) {
    PyObject *result = NULL;
    int verdict = arn_py_union_validate(plan, value, 0, &result);

    if (verdict == ARN_PY_INVALID && plan->u.variants.constructs_first) {
        result = arn_py_plan_construct(
            (arn_py_plan *)PyTuple_GET_ITEM(plan->u.variants.variants, 0), value);
        /* What a variant raises, the SDK drops and takes the next. */
        if (result != NULL || !PyErr_ExceptionMatches(PyExc_Exception))
            return result;
        PyErr_Clear();
    }
    if (verdict == ARN_PY_INVALID || verdict == ARN_PY_UNSURE)
        return ask_sdk(plan, value);
    return result;
}

static PyObject *construct_float(arn_py_plan *plan, const arn_value *value) {
    double x;

    if (value->kind == ARN_BIGINT)
        return ask_sdk(plan, value);
    if (value->kind == ARN_BOOL)
        return PyFloat_FromDouble(value->u.integer != 0);
    if (value->kind == ARN_INT) {
        x = (double)value->u.integer;
        /* 2**63 is what the largest are rounded to, and no int64_t. */
        if (x < 0x1p63 && (int64_t)x == value->u.integer)
            return PyFloat_FromDouble(x);
    }
    return arn_py_value_to_python(value);
}

static PyObject *construct_literal(arn_py_plan *plan, const arn_value *value) {
    const arn_py_keys *keys = &plan->u.literal.keys;
    int at;

    if (value->kind != ARN_TEXT)
        return arn_py_value_to_python(value);
    at = arn_py_keys_find(keys, value->u.bytes, value->len);
    if (at >= 0)
        return Py_NewRef(PyTuple_GET_ITEM(keys->names, at));
    return arn_py_text_to_python(value->u.bytes, value->len);
}

static PyObject *construct_container(arn_py_plan *plan, const arn_value *value) {
    switch (plan->kind) {
    case ARN_PY_PLAN_LIST:
        return construct_list(plan, value);
    case ARN_PY_PLAN_DICT:
        return construct_dict(plan, value);
    case ARN_PY_PLAN_MODEL:
        return construct_model(plan, value);
    default:
        return construct_union(plan, value);
    }
}

PyObject *arn_py_plan_construct(arn_py_plan *plan, const arn_value *value) {
    PyObject *result;

    if (plan->kind == ARN_PY_PLAN_LAZY && arn_py_plan_ready(plan) < 0)
        return NULL;
    switch (plan->kind) {
    case ARN_PY_PLAN_FLOAT:
        return construct_float(plan, value);
    case ARN_PY_PLAN_LITERAL:
        return construct_literal(plan, value);
    case ARN_PY_PLAN_PYTHON:
        return ask_sdk(plan, value);
    case ARN_PY_PLAN_LIST:
    case ARN_PY_PLAN_DICT:
    case ARN_PY_PLAN_MODEL:
    case ARN_PY_PLAN_UNION:
        if (Py_EnterRecursiveCall(" while building a model"))
            return NULL;
        result = construct_container(plan, value);
        Py_LeaveRecursiveCall();
        return result;
    default:
        return arn_py_value_to_python(value);
    }
}

/* ---- faces ---- */

PyObject *arn_py_model_build(arn_py_state *st, PyObject *plan, const arn_value *value) {
    arn_py_plan *checked = arn_py_plan_check(st, plan);
    PyObject *result;

    if (checked == NULL)
        return NULL;
    Py_INCREF(checked);
    result = arn_py_plan_construct(checked, value);
    Py_DECREF(checked);
    return result;
}

PyObject *arn_py_model_build_text(arn_py_state *st, PyObject *plan, const char *text, size_t len) {
    arn_py_plan *checked = arn_py_plan_check(st, plan);
    char first[4096];
    arn_arena arena;
    arn_json_error error;
    arn_value value;
    PyObject *result = NULL, *object;
    int r;

    if (checked == NULL)
        return NULL;
    arn_arena_init(&arena, first, sizeof(first));
    r = arn_json_parse(&arena, text, len, &value, &error);
    if (r == 0) {
        result = arn_py_model_build(st, plan, &value);
    } else if (r == ARN_ENOMEM) {
        PyErr_NoMemory();
    } else {
        object = arn_py_json_loads(text, len);
        if (object != NULL)
            result = PyObject_Vectorcall(checked->construct, &object, 0, st->kwnames_value);
        Py_XDECREF(object);
    }
    arn_arena_free(&arena);
    return result;
}
