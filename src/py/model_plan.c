#include "py/model.h"

#include "py/json_encode.h"

#include <structmember.h>

#include <stddef.h>
#include <string.h>

/* ---- tables of strings ---- */

static inline uint64_t load(const char *p, size_t n) {
    uint64_t x = 0;
    memcpy(&x, p, n);
    return x;
}

/* Of the length and both ends: the names of one model differ there, or are compared in full. */
static inline uint32_t hash_text(const char *text, size_t len) {
    uint64_t a, b;

    if (len >= 8) {
        a = load(text, 8);
        b = load(text + len - 8, 8);
    } else if (len >= 4) {
        a = load(text, 4);
        b = load(text + len - 4, 4);
    } else {
        a = len > 0 ? (unsigned char)text[0] : 0;
        b = len > 0 ? (unsigned char)text[len - 1] | (unsigned)(unsigned char)text[len / 2] << 8
                    : 0;
    }
    a = (a ^ len) * 0x9E3779B97F4A7C15u ^ (b + len) * 0xC2B2AE3D27D4EB4Fu;
    return (uint32_t)((a ^ a >> 29) * 0xBF58476D1CE4E5B9u >> 32);
}

int arn_py_keys_find(const arn_py_keys *keys, const char *text, size_t len) {
    uint32_t at;

    if (keys->count == 0)
        return -1;
    for (at = hash_text(text, len) & keys->mask; keys->slots[at] != 0; at = (at + 1) & keys->mask) {
        uint32_t i = keys->slots[at] - 1u;
        if (keys->lens[i] == len && memcmp(keys->texts[i], text, len) == 0)
            return (int)i;
    }
    return -1;
}

static void keys_clear(arn_py_keys *keys) {
    Py_CLEAR(keys->names);
    PyMem_Free(keys->texts);
    PyMem_Free(keys->lens);
    PyMem_Free(keys->slots);
    memset(keys, 0, sizeof(*keys));
}

/* On failure `keys` is to be cleared nevertheless. */
static int keys_init(arn_py_keys *keys, PyObject *names) {
    Py_ssize_t count = PyTuple_GET_SIZE(names), i;
    uint32_t size = 4;

    if (count > 20000) {
        PyErr_SetString(PyExc_ValueError, "too many names");
        return -1;
    }
    while (size < 2 * count)
        size *= 2;
    keys->names = Py_NewRef(names);
    keys->texts = PyMem_New(const char *, count + 1);
    keys->lens = PyMem_New(size_t, count + 1);
    keys->slots = PyMem_Calloc(size, sizeof(*keys->slots));
    keys->mask = size - 1;
    if (keys->texts == NULL || keys->lens == NULL || keys->slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (i = 0; i < count; i++) {
        Py_ssize_t len;
        const char *text = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(names, i), &len);
        uint32_t at;
        if (text == NULL)
            return -1;
        if (arn_py_keys_find(keys, text, (size_t)len) >= 0) {
            PyErr_SetString(PyExc_ValueError, "a name stands twice");
            return -1;
        }
        keys->texts[i] = text;
        keys->lens[i] = (size_t)len;
        for (at = hash_text(text, (size_t)len) & keys->mask; keys->slots[at] != 0;)
            at = (at + 1) & keys->mask;
        keys->slots[at] = (uint16_t)(i + 1);
        keys->count = (uint32_t)i + 1;
    }
    return 0;
}

/* ---- what a plan is made of ---- */

static int visit_compiled(arn_py_plan *plan, visitproc visit, void *arg) {
    Py_ssize_t i;

    switch (plan->kind) {
    case ARN_PY_PLAN_LITERAL:
        Py_VISIT(plan->u.literal.keys.names);
        break;
    case ARN_PY_PLAN_LIST:
    case ARN_PY_PLAN_DICT:
        Py_VISIT(plan->u.item);
        break;
    case ARN_PY_PLAN_MODEL:
        Py_VISIT(plan->u.model.cls);
        Py_VISIT(plan->u.model.initial);
        Py_VISIT(plan->u.model.last_set);
        Py_VISIT(plan->u.model.extra);
        Py_VISIT(plan->u.model.keys.names);
        for (i = 0; i < plan->u.model.count; i++) {
            Py_VISIT(plan->u.model.fields[i].name);
            Py_VISIT(plan->u.model.fields[i].initial);
            Py_VISIT(plan->u.model.fields[i].plan);
        }
        break;
    case ARN_PY_PLAN_UNION:
        Py_VISIT(plan->u.variants.variants);
        Py_VISIT(plan->u.variants.tag);
        Py_VISIT(plan->u.variants.tags.names);
        Py_VISIT(plan->u.variants.choices);
        break;
    default:
        break;
    }
    return 0;
}

static void clear_model(arn_py_model *model) {
    Py_ssize_t i, count = model->count;

    model->count = 0;
    for (i = 0; i < count; i++) {
        Py_CLEAR(model->fields[i].name);
        Py_CLEAR(model->fields[i].initial);
        Py_CLEAR(model->fields[i].plan);
    }
    PyMem_Free(model->fields);
    model->fields = NULL;
    PyMem_Free(model->key_infos);
    model->key_infos = NULL;
    Py_CLEAR(model->cls);
    Py_CLEAR(model->initial);
    Py_CLEAR(model->last_set);
    Py_CLEAR(model->extra);
    keys_clear(&model->keys);
}

/* Also of one that is half filled; all else in it is zero. */
static void clear_compiled(arn_py_plan *plan, arn_py_plan_kind kind) {
    plan->kind = ARN_PY_PLAN_LAZY;
    switch (kind) {
    case ARN_PY_PLAN_LITERAL:
        keys_clear(&plan->u.literal.keys);
        break;
    case ARN_PY_PLAN_LIST:
    case ARN_PY_PLAN_DICT:
        Py_CLEAR(plan->u.item);
        break;
    case ARN_PY_PLAN_MODEL:
        clear_model(&plan->u.model);
        break;
    case ARN_PY_PLAN_UNION:
        Py_CLEAR(plan->u.variants.variants);
        Py_CLEAR(plan->u.variants.tag);
        keys_clear(&plan->u.variants.tags);
        Py_CLEAR(plan->u.variants.choices);
        break;
    default:
        break;
    }
    memset(&plan->u, 0, sizeof(plan->u));
}

/* ---- compiling: from the tuples that _plan.py gives ---- */

static const char *const kind_names[] = {
    [ARN_PY_PLAN_ANY] = "any",         [ARN_PY_PLAN_STR] = "str",
    [ARN_PY_PLAN_INT] = "int",         [ARN_PY_PLAN_BOOL] = "bool",
    [ARN_PY_PLAN_FLOAT] = "float",     [ARN_PY_PLAN_NONE] = "none",
    [ARN_PY_PLAN_LITERAL] = "literal", [ARN_PY_PLAN_LIST] = "list",
    [ARN_PY_PLAN_DICT] = "dict",       [ARN_PY_PLAN_MODEL] = "model",
    [ARN_PY_PLAN_UNION] = "union",     [ARN_PY_PLAN_PYTHON] = "python",
};

static int fill_literal(arn_py_plan *plan, PyObject *args) {
    PyObject *names;

    if (!PyArg_ParseTuple(args, "O!p:literal", &PyTuple_Type, &names, &plan->u.literal.is_closed))
        return -1;
    return keys_init(&plan->u.literal.keys, names);
}

static int fill_item(arn_py_plan *plan, PyObject *args) {
    PyObject *item;

    if (!PyArg_ParseTuple(args, "O!:item", plan->st->plan_type, &item))
        return -1;
    plan->u.item = (arn_py_plan *)Py_NewRef(item);
    return 0;
}

/* The place of a slot of pydantic's in instances of cls. */
static int slot_offset(PyTypeObject *cls, PyObject *slot, Py_ssize_t *offset) {
    const PyMemberDef *member;

    if (Py_IS_TYPE(slot, &PyMemberDescr_Type) && PyType_IsSubtype(cls, PyDescr_TYPE(slot))) {
        member = ((PyMemberDescrObject *)slot)->d_member;
        if (member->type == T_OBJECT_EX && member->flags == 0) {
            *offset = member->offset;
            return 0;
        }
    }
    PyErr_SetString(PyExc_TypeError, "not a slot of the model");
    return -1;
}

static int fill_field(arn_py_plan *plan, arn_py_field *field, PyObject *args) {
    PyObject *name, *initial, *child;

    if (!PyArg_ParseTuple(args, "UOO!pp:field", &name, &initial, plan->st->plan_type, &child,
                          &field->is_required, &field->has_factory))
        return -1;
    Py_INCREF(name);
    PyUnicode_InternInPlace(&name);
    field->name = name;
    field->initial = Py_NewRef(initial);
    field->plan = (arn_py_plan *)Py_NewRef(child);
    return PyDict_SetItem(plan->u.model.initial, name, initial);
}

static int fill_fields(arn_py_plan *plan, PyObject *fields) {
    arn_py_model *model = &plan->u.model;
    Py_ssize_t count = PyTuple_GET_SIZE(fields), i;

    model->fields = PyMem_Calloc((size_t)count + 1, sizeof(*model->fields));
    if (model->fields == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    model->initial = PyDict_New();
    if (model->initial == NULL)
        return -1;
    for (i = 0; i < count; i++) {
        PyObject *args = PyTuple_GET_ITEM(fields, i);
        model->count = i + 1;
        if (!PyTuple_Check(args)) {
            PyErr_SetString(PyExc_TypeError, "a field must be a tuple");
            return -1;
        }
        if (fill_field(plan, &model->fields[i], args) < 0)
            return -1;
    }
    return 0;
}

static int fill_keys(arn_py_model *model, PyObject *names, PyObject *infos) {
    Py_ssize_t count = PyTuple_GET_SIZE(names), i;

    if (keys_init(&model->keys, names) < 0)
        return -1;
    model->key_infos = PyMem_Calloc((size_t)count + 1, sizeof(*model->key_infos));
    if (model->key_infos == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (PyTuple_GET_SIZE(infos) != count) {
        PyErr_SetString(PyExc_ValueError, "one of `infos` for each key");
        return -1;
    }
    for (i = 0; i < count; i++) {
        int field, constructed, validated;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(infos, i), "ipp:key", &field, &constructed,
                              &validated))
            return -1;
        if (field < ARN_PY_RESERVED_KEY || field >= model->count) {
            PyErr_SetString(PyExc_ValueError, "no such field");
            return -1;
        }
        model->key_infos[i].field = field;
        model->key_infos[i].is_extra_constructed = (char)constructed;
        model->key_infos[i].is_extra_validated = (char)validated;
    }
    return 0;
}

static int fill_model(arn_py_plan *plan, PyObject *args) {
    arn_py_model *model = &plan->u.model;
    PyObject *cls, *slots[3], *fields, *names, *infos, *extra;

    if (!PyArg_ParseTuple(args, "O!(OOO)O!O!O!O:model", &PyType_Type, &cls, &slots[0], &slots[1],
                          &slots[2], &PyTuple_Type, &fields, &PyTuple_Type, &names, &PyTuple_Type,
                          &infos, &extra))
        return -1;
    model->cls = (PyTypeObject *)Py_NewRef(cls);
    if (slot_offset(model->cls, slots[0], &model->fields_set_offset) < 0 ||
        slot_offset(model->cls, slots[1], &model->extra_offset) < 0 ||
        slot_offset(model->cls, slots[2], &model->private_offset) < 0)
        return -1;
    if (extra != Py_None) {
        if (arn_py_plan_check(plan->st, extra) == NULL)
            return -1;
        model->extra = (arn_py_plan *)Py_NewRef(extra);
    }
    if (fill_fields(plan, fields) < 0)
        return -1;
    return fill_keys(model, names, infos);
}

static int check_plans(arn_py_plan *plan, PyObject *plans) {
    Py_ssize_t i;

    if (!PyTuple_Check(plans)) {
        PyErr_SetString(PyExc_TypeError, "a tuple of plans is needed");
        return -1;
    }
    for (i = 0; i < PyTuple_GET_SIZE(plans); i++)
        if (arn_py_plan_check(plan->st, PyTuple_GET_ITEM(plans, i)) == NULL)
            return -1;
    return 0;
}

static int fill_union(arn_py_plan *plan, PyObject *args) {
    arn_py_union *variants = &plan->u.variants;
    PyObject *plans, *tag, *tags, *choices;
    Py_ssize_t i;

    if (!PyArg_ParseTuple(args, "O!ppOO!O!:union", &PyTuple_Type, &plans, &variants->is_nullable,
                          &variants->constructs_first, &tag, &PyTuple_Type, &tags, &PyTuple_Type,
                          &choices) ||
        check_plans(plan, plans) < 0)
        return -1;
    variants->variants = Py_NewRef(plans);
    if (PyTuple_GET_SIZE(plans) == 0) {
        PyErr_SetString(PyExc_ValueError, "a union of nothing");
        return -1;
    }
    if (tag == Py_None)
        return 0;
    if (!PyUnicode_Check(tag) || PyTuple_GET_SIZE(choices) != PyTuple_GET_SIZE(tags) + 1) {
        PyErr_SetString(PyExc_ValueError, "tag and choices do not fit");
        return -1;
    }
    for (i = 0; i < PyTuple_GET_SIZE(choices); i++)
        if (check_plans(plan, PyTuple_GET_ITEM(choices, i)) < 0)
            return -1;
    variants->tag = Py_NewRef(tag);
    variants->choices = Py_NewRef(choices);
    return keys_init(&variants->tags, tags);
}

static int fill(arn_py_plan *plan, arn_py_plan_kind kind, PyObject *args) {
    switch (kind) {
    case ARN_PY_PLAN_LITERAL:
        return fill_literal(plan, args);
    case ARN_PY_PLAN_LIST:
    case ARN_PY_PLAN_DICT:
        return fill_item(plan, args);
    case ARN_PY_PLAN_MODEL:
        return fill_model(plan, args);
    case ARN_PY_PLAN_UNION:
        return fill_union(plan, args);
    default:
        return 0;
    }
}

static int kind_of(const char *name) {
    size_t i;

    for (i = 1; i < sizeof(kind_names) / sizeof(kind_names[0]); i++)
        if (strcmp(kind_names[i], name) == 0)
            return (int)i;
    PyErr_Format(PyExc_ValueError, "no such kind of plan: %s", name);
    return -1;
}

int arn_py_plan_ready(arn_py_plan *plan) {
    PyObject *spec, *args = NULL;
    const char *name;
    int kind, validates, r = -1;

    if (plan->kind != ARN_PY_PLAN_LAZY)
        return 0;
    if (plan->compile == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the plan has been cleared");
        return -1;
    }
    spec = PyObject_CallNoArgs(plan->compile);
    if (spec == NULL)
        return -1;
    if (plan->kind != ARN_PY_PLAN_LAZY) { /* another thread was here while Python code ran */
        Py_DECREF(spec);
        return 0;
    }
    if (!PyTuple_Check(spec))
        PyErr_SetString(PyExc_TypeError, "compile() must return a tuple");
    else if (PyArg_ParseTuple(spec, "spO!:plan", &name, &validates, &PyTuple_Type, &args)) {
        kind = kind_of(name);
        if (kind > 0 && fill(plan, (arn_py_plan_kind)kind, args) == 0) {
            plan->validates = validates;
            plan->kind = (arn_py_plan_kind)kind;
            r = 0;
        } else if (kind > 0) {
            clear_compiled(plan, (arn_py_plan_kind)kind);
        }
    }
    Py_DECREF(spec);
    if (r == 0)
        Py_CLEAR(plan->compile);
    return r;
}

/* ---- the type ---- */

arn_py_plan *arn_py_plan_check(arn_py_state *st, PyObject *object) {
    if (Py_IS_TYPE(object, st->plan_type))
        return (arn_py_plan *)object;
    PyErr_Format(PyExc_TypeError, "a ModelPlan is needed, not %.100s", Py_TYPE(object)->tp_name);
    return NULL;
}

static PyObject *new_slot(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"compile", "construct", NULL};
    arn_py_state *st = arn_py_state_of_type(type);
    PyObject *compile, *construct;
    arn_py_plan *plan;

    if (st == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "OO:ModelPlan", names, &compile, &construct))
        return NULL;
    plan = (arn_py_plan *)type->tp_alloc(type, 0);
    if (plan == NULL)
        return NULL;
    plan->st = arn_py_state_hold(st);
    plan->compile = Py_NewRef(compile);
    plan->construct = Py_NewRef(construct);
    return (PyObject *)plan;
}

static int traverse_slot(PyObject *op, visitproc visit, void *arg) {
    arn_py_plan *plan = (arn_py_plan *)op;

    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(plan->st);
    Py_VISIT(plan->compile);
    Py_VISIT(plan->construct);
    return visit_compiled(plan, visit, arg);
}

static int clear_slot(PyObject *op) {
    arn_py_plan *plan = (arn_py_plan *)op;

    Py_CLEAR(plan->compile);
    Py_CLEAR(plan->construct);
    clear_compiled(plan, plan->kind);
    return 0;
}

static void dealloc_slot(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = ((arn_py_plan *)op)->st;

    PyObject_GC_UnTrack(op);
    clear_slot(op);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

static PyObject *get_kind(PyObject *op, void *closure) {
    arn_py_plan *plan = (arn_py_plan *)op;

    (void)closure;
    if (arn_py_plan_ready(plan) < 0)
        return NULL;
    return PyUnicode_FromString(kind_names[plan->kind]);
}

static PyObject *get_validates(PyObject *op, void *closure) {
    arn_py_plan *plan = (arn_py_plan *)op;

    (void)closure;
    if (arn_py_plan_ready(plan) < 0)
        return NULL;
    return PyBool_FromLong(plan->validates);
}

static PyGetSetDef plan_getset[] = {
    {"kind", get_kind, NULL, "How values are made: \"model\", \"list\", \"python\" ...", NULL},
    {"validates", get_validates, NULL, "Whether it is known what pydantic does with it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(plan_doc, "ModelPlan(compile, construct)\n--\n\n"
                       "How JSON values become objects of one type. compile() is called once, on\n"
                       "first use, and returns the tuple that arshai_native/openai/_plan.py\n"
                       "describes; construct(value=...) is the SDK's own way.");

static PyType_Slot plan_slots[] = {
    {Py_tp_new, new_slot},
    {Py_tp_dealloc, dealloc_slot},
    {Py_tp_traverse, traverse_slot},
    {Py_tp_clear, clear_slot},
    {Py_tp_getset, plan_getset},
    {Py_tp_doc, (void *)plan_doc},
    {0, NULL},
};

static PyType_Spec plan_spec = {
    .name = "arshai_native._core.ModelPlan",
    .basicsize = sizeof(arn_py_plan),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = plan_slots,
};

/* ---- functions of the module ---- */

static PyObject *build_model(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2 || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "build_model() takes a plan and bytes");
        return NULL;
    }
    return arn_py_model_build_text(arn_py_state_of(module), args[0], PyBytes_AS_STRING(args[1]),
                                   (size_t)PyBytes_GET_SIZE(args[1]));
}

static PyObject *json_encode(PyObject *module, PyObject *obj) {
    arn_buf out = ARN_BUF_INIT;
    PyObject *bytes = NULL;

    (void)module;
    if (arn_py_json_encode(&out, obj) == 0)
        bytes = PyBytes_FromStringAndSize(out.data, (Py_ssize_t)out.len);
    arn_buf_free(&out);
    return bytes;
}

static PyMethodDef methods[] = {
    {"build_model", (PyCFunction)(void (*)(void))build_model, METH_FASTCALL,
     "build_model(plan, document, /)\n--\n\nThe JSON document as the SDK's construct_type() would\n"
     "build it."},
    {"json_encode", json_encode, METH_O,
     "json_encode(obj, /)\n--\n\nUTF-8 of json.dumps(obj, ensure_ascii=False, separators=(\",\", "
     "\":\"),\nallow_nan=False)."},
    {NULL, NULL, 0, NULL},
};

int arn_py_init_model(PyObject *module, arn_py_state *st) {
    st->plan_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &plan_spec, NULL);
    if (st->plan_type == NULL)
        return -1;
    st->kwnames_value = Py_BuildValue("(s)", "value");
    if (st->kwnames_value == NULL || PyModule_AddFunctions(module, methods) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "ModelPlan", (PyObject *)st->plan_type);
}
