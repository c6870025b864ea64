#include "py/model.h"

#include <string.h>

/* What pydantic's smart mode makes of a value of a document, where that is beyond doubt.
 *
 * Refused for certain is only what no mode of pydantic's takes. Taken for certain is what fits
 * without any conversion, with one exception: an integer for a float. Everything between (a string
 * of digits for an integer, two models that both fit) is UNSURE. The reasoning is kept free of how
 * versions of pydantic-core rank several variants that fit.
 */

/* Recursive types: deeper than this pydantic decides, it has limits of its own. */
#define DEPTH_MAX 60

#define FIRST_FIELDS 48

static int done(PyObject *object, PyObject **out, int verdict) {
    *out = object;
    return object == NULL ? ARN_PY_RAISED : verdict;
}

static int as_it_is(const arn_value *value, PyObject **out, int verdict) {
    return done(arn_py_value_to_python(value), out, verdict);
}

/* A str is valid if it can be encoded: pydantic refuses lone surrogates. */
static int valid_text(const arn_value *value, PyObject **out) {
    *out = PyUnicode_DecodeUTF8(value->u.bytes, (Py_ssize_t)value->len, NULL);
    if (*out != NULL)
        return ARN_PY_EXACT;
    if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
        return ARN_PY_RAISED;
    PyErr_Clear();
    return ARN_PY_UNSURE;
}

static int is_container(const arn_value *value) {
    return value->kind == ARN_ARRAY || value->kind == ARN_MAP || value->kind == ARN_FLOAT64_ARRAY ||
           value->kind == ARN_FLOAT32_ARRAY;
}

/* Where a number, a boolean or a string may become one another. */
static int other_scalar(const arn_value *value) {
    return value->kind == ARN_NIL || is_container(value) ? ARN_PY_INVALID : ARN_PY_UNSURE;
}

static int validate_float(const arn_value *value, PyObject **out) {
    const int64_t whole = (int64_t)1 << 53; /* every integer up to it is a double */

    if (value->kind == ARN_DOUBLE)
        return as_it_is(value, out, ARN_PY_EXACT);
    if (value->kind == ARN_INT && value->u.integer >= -whole && value->u.integer <= whole)
        return done(PyFloat_FromDouble((double)value->u.integer), out, ARN_PY_VALID);
    return other_scalar(value);
}

static int validate_literal(arn_py_plan *plan, const arn_value *value, PyObject **out) {
    const arn_py_keys *keys = &plan->u.literal.keys;

    if (value->kind == ARN_TEXT) {
        int at = arn_py_keys_find(keys, value->u.bytes, value->len);
        if (at >= 0)
            return done(Py_NewRef(PyTuple_GET_ITEM(keys->names, at)), out, ARN_PY_EXACT);
    }
    return plan->u.literal.is_closed ? ARN_PY_INVALID : ARN_PY_UNSURE;
}

static int validate_list(arn_py_plan *plan, const arn_value *value, unsigned depth,
                         PyObject **out) {
    int is_doubles = value->kind == ARN_FLOAT64_ARRAY || value->kind == ARN_FLOAT32_ARRAY;
    int verdict = ARN_PY_EXACT;
    arn_value number = {.kind = ARN_DOUBLE};
    PyObject *list;
    size_t i;

    if (value->kind != ARN_ARRAY && !is_doubles)
        return ARN_PY_INVALID;
    list = PyList_New((Py_ssize_t)value->len);
    if (list == NULL)
        return ARN_PY_RAISED;
    for (i = 0; i < value->len; i++) {
        const arn_value *entry = &number;
        PyObject *item = NULL;
        int r;
        if (is_doubles)
            number.u.number =
                value->kind == ARN_FLOAT64_ARRAY ? value->u.doubles[i] : (double)value->u.floats[i];
        else
            entry = &value->u.items[i];
        r = arn_py_plan_validate(plan->u.item, entry, depth + 1, &item);
        if (r != ARN_PY_EXACT && r != ARN_PY_VALID) {
            Py_DECREF(list);
            return r;
        }
        if (r == ARN_PY_VALID)
            verdict = ARN_PY_VALID;
        PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return done(list, out, verdict);
}

/* Steals `item`. EXACT when it is done. */
static int set_valid(PyObject *dict, const arn_value *name, PyObject *item) {
    PyObject *key = NULL;
    int r = valid_text(name, &key);

    if (r == ARN_PY_EXACT && PyDict_SetItem(dict, key, item) < 0)
        r = ARN_PY_RAISED;
    Py_XDECREF(key);
    Py_DECREF(item);
    return r;
}

static int validate_dict(arn_py_plan *plan, const arn_value *value, unsigned depth,
                         PyObject **out) {
    PyObject *dict;
    size_t i;

    if (value->kind != ARN_MAP)
        return ARN_PY_INVALID;
    dict = PyDict_New();
    if (dict == NULL)
        return ARN_PY_RAISED;
    for (i = 0; i < value->len; i++) {
        const arn_value *name = &value->u.items[2 * i];
        PyObject *item = NULL;
        int r = arn_py_plan_validate(plan->u.item, name + 1, depth + 1, &item);
        if (r == ARN_PY_EXACT || r == ARN_PY_VALID)
            r = set_valid(dict, name, item);
        else if (r == ARN_PY_INVALID)
            r = ARN_PY_UNSURE; /* it may be one of a repeated key, and not the last */
        if (r != ARN_PY_EXACT) {
            Py_DECREF(dict);
            return r;
        }
    }
    return done(dict, out, ARN_PY_VALID);
}

/* ---- models ---- */

/* What is missing: enough to refuse most of what does not fit before anything is made. */
static int check_fields(const arn_py_model *model, const arn_value *const *values) {
    Py_ssize_t i;

    for (i = 0; i < model->count; i++)
        if (values[i] == NULL && model->fields[i].is_required)
            return ARN_PY_INVALID;
    for (i = 0; i < model->count; i++)
        if (values[i] == NULL && model->fields[i].has_factory)
            return ARN_PY_UNSURE;
    return ARN_PY_VALID;
}

static int validate_fields(const arn_py_model *model, const arn_value *const *values,
                           unsigned depth, PyObject *dict) {
    Py_ssize_t i;

    for (i = 0; i < model->count; i++) {
        const arn_py_field *field = &model->fields[i];
        PyObject *item = NULL;
        int r;
        if (values[i] == NULL)
            continue;
        r = arn_py_plan_validate(field->plan, values[i], depth + 1, &item);
        if (r != ARN_PY_EXACT && r != ARN_PY_VALID)
            return r;
        r = PyDict_SetItem(dict, field->name, item);
        Py_DECREF(item);
        if (r < 0)
            return ARN_PY_RAISED;
    }
    return ARN_PY_VALID;
}

/* Unlike construct(), validation counts extras among the fields that are set. */
static int validate_extra(const arn_py_model *model, const arn_value *map, PyObject *extra,
                          PyObject *fields_set) {
    Py_ssize_t pos = 0;
    PyObject *key, *item;
    size_t i;

    for (i = 0; i < map->len; i++) {
        const arn_value *name = &map->u.items[2 * i];
        int at = arn_py_keys_find(&model->keys, name->u.bytes, name->len);
        int r;
        if (at >= 0 && !model->key_infos[at].is_extra_validated)
            continue;
        item = arn_py_value_to_python(name + 1);
        if (item == NULL)
            return ARN_PY_RAISED;
        r = set_valid(extra, name, item);
        if (r != ARN_PY_EXACT)
            return r;
    }
    while (PyDict_Next(extra, &pos, &key, &item))
        if (PySet_Add(fields_set, key) < 0)
            return ARN_PY_RAISED;
    return ARN_PY_VALID;
}

static int make_valid(arn_py_model *model, const arn_value *map, const arn_value **values,
                      unsigned depth, PyObject **out) {
    PyObject *dict, *extra, *fields_set;
    int has_others, r;

    if (!arn_py_model_sort(model, map, values, &has_others))
        return ARN_PY_UNSURE;
    r = check_fields(model, values);
    if (r != ARN_PY_VALID)
        return r;
    dict = PyDict_Copy(model->initial);
    extra = PyDict_New();
    fields_set = arn_py_model_fields_set(model, values);
    r = dict == NULL || extra == NULL || fields_set == NULL
            ? ARN_PY_RAISED
            : validate_fields(model, values, depth, dict);
    if (r == ARN_PY_VALID && has_others)
        r = validate_extra(model, map, extra, fields_set);
    if (r == ARN_PY_VALID)
        return done(arn_py_model_new(model, dict, fields_set, extra), out, ARN_PY_VALID);
    Py_XDECREF(dict);
    Py_XDECREF(extra);
    Py_XDECREF(fields_set);
    return r;
}

static int validate_model(arn_py_plan *plan, const arn_value *value, unsigned depth,
                          PyObject **out) {
    arn_py_model *model = &plan->u.model;
    const arn_value *first[FIRST_FIELDS], **values = first;
    int r;

    if (value->kind != ARN_MAP)
        return ARN_PY_INVALID;
    if (model->count > FIRST_FIELDS) {
        values = PyMem_New(const arn_value *, model->count);
        if (values == NULL) {
            PyErr_NoMemory();
            return ARN_PY_RAISED;
        }
    }
    r = make_valid(model, value, values, depth, out);
    if (values != first)
        PyMem_Free(values);
    return r;
}

/* ---- unions ---- */

/* The variants that can be valid: a tuple of plans, borrowed. */
static PyObject *choose(const arn_py_union *variants, const arn_value *value) {
    const arn_value *found = NULL;
    const char *tag;
    Py_ssize_t len;
    size_t i;
    int at = -1;

    if (variants->tag == NULL || value->kind != ARN_MAP)
        return variants->variants;
    tag = PyUnicode_AsUTF8AndSize(variants->tag, &len);
    if (tag == NULL)
        return NULL;
    for (i = 0; i < value->len; i++) {
        const arn_value *name = &value->u.items[2 * i];
        if (name->len == (size_t)len && memcmp(name->u.bytes, tag, name->len) == 0)
            found = name + 1;
    }
    if (found != NULL && found->kind == ARN_TEXT)
        at = arn_py_keys_find(&variants->tags, found->u.bytes, found->len);
    return PyTuple_GET_ITEM(variants->choices, at >= 0 ? at : (Py_ssize_t)variants->tags.count);
}

/* One after the other. The first that takes the value as it is wins in every version; a model or a
 * conversion wins if all others refuse. */
static int validate_variants(PyObject *variants, const arn_value *value, unsigned depth,
                             PyObject **out) {
    PyObject *best = NULL;
    Py_ssize_t i;

    for (i = 0; i < PyTuple_GET_SIZE(variants); i++) {
        PyObject *object = NULL;
        int r = arn_py_plan_validate((arn_py_plan *)PyTuple_GET_ITEM(variants, i), value, depth + 1,
                                     &object);
        if (r == ARN_PY_INVALID)
            continue;
        if (r == ARN_PY_EXACT && best == NULL) {
            *out = object;
            return ARN_PY_EXACT;
        }
        if (r != ARN_PY_VALID || best != NULL) {
            Py_XDECREF(best);
            Py_XDECREF(object);
            return r == ARN_PY_RAISED ? r : ARN_PY_UNSURE;
        }
        best = object;
    }
    *out = best;
    return best == NULL ? ARN_PY_INVALID : ARN_PY_VALID;
}

int arn_py_union_validate(arn_py_plan *plan, const arn_value *value, unsigned depth,
                          PyObject **out) {
    const arn_py_union *variants = &plan->u.variants;
    PyObject *chosen;

    if (variants->is_nullable && value->kind == ARN_NIL)
        return as_it_is(value, out, ARN_PY_EXACT);
    chosen = choose(variants, value);
    if (chosen == NULL)
        return ARN_PY_RAISED;
    /* The only one beside None is taken in whatever way it takes the value. */
    if (chosen == variants->variants && PyTuple_GET_SIZE(chosen) == 1)
        return arn_py_plan_validate((arn_py_plan *)PyTuple_GET_ITEM(chosen, 0), value, depth + 1,
                                    out);
    return validate_variants(chosen, value, depth, out);
}

int arn_py_plan_validate(arn_py_plan *plan, const arn_value *value, unsigned depth,
                         PyObject **out) {
    if (plan->kind == ARN_PY_PLAN_LAZY && arn_py_plan_ready(plan) < 0)
        return ARN_PY_RAISED;
    if (!plan->validates || depth > DEPTH_MAX)
        return ARN_PY_UNSURE;
    switch (plan->kind) {
    case ARN_PY_PLAN_ANY:
        return as_it_is(value, out, ARN_PY_VALID);
    case ARN_PY_PLAN_STR:
        return value->kind == ARN_TEXT ? valid_text(value, out) : ARN_PY_INVALID;
    case ARN_PY_PLAN_INT:
        return value->kind == ARN_INT ? as_it_is(value, out, ARN_PY_EXACT) : other_scalar(value);
    case ARN_PY_PLAN_BOOL:
        return value->kind == ARN_BOOL ? as_it_is(value, out, ARN_PY_EXACT) : other_scalar(value);
    case ARN_PY_PLAN_NONE:
        return value->kind == ARN_NIL ? as_it_is(value, out, ARN_PY_EXACT) : ARN_PY_INVALID;
    case ARN_PY_PLAN_FLOAT:
        return validate_float(value, out);
    case ARN_PY_PLAN_LITERAL:
        return validate_literal(plan, value, out);
    case ARN_PY_PLAN_LIST:
        return validate_list(plan, value, depth, out);
    case ARN_PY_PLAN_DICT:
        return validate_dict(plan, value, depth, out);
    case ARN_PY_PLAN_MODEL:
        return validate_model(plan, value, depth, out);
    case ARN_PY_PLAN_UNION:
        return arn_py_union_validate(plan, value, depth, out);
    default:
        return ARN_PY_UNSURE;
    }
}
