/* model.h - JSON value trees to the objects that the openai SDK's construct_type() makes of them.
 *
 * A ModelPlan says how values become objects of one type. arshai_native/openai/_plan.py compiles
 * it, when it is first used, into one of the kinds below. Two things can happen to a value, as in
 * the SDK: it is *constructed*, which takes whatever comes, or, within a union, *validated* by
 * pydantic. Validation is done here only where its result is beyond doubt; every other value is
 * turned into plain objects and given to the SDK's own construct_type(), so a plan never knows
 * better than the SDK and pydantic. All with the GIL.
 */
#ifndef ARN_PY_MODEL_H
#define ARN_PY_MODEL_H

#include "py/state.h"

#include <base/value.h>

#include <stdint.h>

typedef enum arn_py_plan_kind {
    ARN_PY_PLAN_LAZY = 0, /* not compiled yet */
    ARN_PY_PLAN_ANY,
    ARN_PY_PLAN_STR,
    ARN_PY_PLAN_INT,
    ARN_PY_PLAN_BOOL,
    ARN_PY_PLAN_FLOAT,
    ARN_PY_PLAN_NONE,
    ARN_PY_PLAN_LITERAL, /* keys and values: its strings */
    ARN_PY_PLAN_LIST,    /* item */
    ARN_PY_PLAN_DICT,    /* item; of str */
    ARN_PY_PLAN_MODEL,
    ARN_PY_PLAN_UNION,
    ARN_PY_PLAN_PYTHON /* always construct_type() */
} arn_py_plan_kind;

/* Strings that are looked up by their UTF-8. The texts belong to the str objects in `names`. */
typedef struct arn_py_keys {
    PyObject *names; /* tuple of str */
    const char **texts;
    size_t *lens;
    uint16_t *slots; /* open addressing: index + 1, or 0 */
    uint32_t count, mask;
} arn_py_keys;

typedef struct arn_py_plan arn_py_plan;

typedef struct arn_py_field {
    PyObject *name;    /* interned str */
    PyObject *initial; /* when the document has none, or null: what construct() takes */
    arn_py_plan *plan;
    int is_required;
    int has_factory; /* validated, a missing one is made by code of its own */
} arn_py_field;

/* What a key of a document means to a model: the field it fills, and whether it is an extra. */
#define ARN_PY_NO_FIELD (-1)
#define ARN_PY_RESERVED_KEY (-2) /* construct() takes it for an argument of its own */

typedef struct arn_py_model_key {
    int field;
    char is_extra_constructed, is_extra_validated;
} arn_py_model_key;

/* The compiled part of a plan of kind MODEL. */
typedef struct arn_py_model {
    PyTypeObject *cls;
    PyObject *initial;  /* dict of every field in order, copied for each instance */
    PyObject *last_set; /* the latest __pydantic_fields_set__, to be copied */
    uint64_t last_mask; /* the fields in it */
    arn_py_plan *extra; /* how extras are constructed; NULL: as they come */
    arn_py_field *fields;
    arn_py_keys keys;
    arn_py_model_key *key_infos; /* one for each of `keys` */
    Py_ssize_t count;
    Py_ssize_t fields_set_offset, extra_offset, private_offset;
} arn_py_model;

typedef struct arn_py_union {
    PyObject *variants; /* tuple of plans, without None */
    int is_nullable;
    int constructs_first; /* X | None: what is not valid is constructed as X */
    /* A key whose value says which variants can be valid at all; NULL: any. */
    PyObject *tag; /* str */
    arn_py_keys tags;
    PyObject *choices; /* tuple: for each tag, then for all other values, a tuple of plans */
} arn_py_union;

struct arn_py_plan {
    PyObject_HEAD
    PyObject *compile;   /* callable, until it is compiled: see _plan.py for what it returns */
    PyObject *construct; /* construct_type() for this type, called with value= */
    arn_py_state *st;
    arn_py_plan_kind kind;
    int validates; /* what pydantic does with it inside a union is known */
    union {
        arn_py_plan *item;
        struct {
            arn_py_keys keys;
            int is_closed; /* there are only strings in it */
        } literal;
        arn_py_model model;
        arn_py_union variants;
    } u;
};

/* What validation makes of a value. */
enum {
    ARN_PY_RAISED = -1, /* an exception is set */
    ARN_PY_EXACT,       /* valid, just as it is, no model in it */
    ARN_PY_VALID,       /* valid; another variant of a union may be preferred */
    ARN_PY_INVALID,     /* refused whatever the mode */
    ARN_PY_UNSURE       /* ask pydantic */
};

/* ---- for the other files of src/py ---- */

/* The value as an object of the plan's type: a new reference, or NULL. */
PyObject *arn_py_model_build(arn_py_state *st, PyObject *plan, const arn_value *value);
/* The same for a document. Not JSON: what json.loads() raises, JSONDecodeError for the most. */
PyObject *arn_py_model_build_text(arn_py_state *st, PyObject *plan, const char *text, size_t len);
/* The value as json.loads() would give it: a new reference, or NULL. */
PyObject *arn_py_value_to_python(const arn_value *value);
/* The list of a FLOAT32_ARRAY or FLOAT64_ARRAY. New reference or NULL. */
PyObject *arn_py_list_of_doubles(const arn_value *value);
/* json.loads() of a document that arn_json_parse() refused: raises, or knows better (a byte order
 * mark, UTF-16, a deeper nesting). */
PyObject *arn_py_json_loads(const char *text, size_t len);

/* ---- among the files model*.c ---- */

/* Borrowed; fails with TypeError. */
arn_py_plan *arn_py_plan_check(arn_py_state *st, PyObject *object);
/* Compiles the plan if need be. 0, or -1. */
int arn_py_plan_ready(arn_py_plan *plan);
/* Index of a string, or -1. */
int arn_py_keys_find(const arn_py_keys *keys, const char *text, size_t len);

PyObject *arn_py_text_to_python(const char *text, size_t len);
PyObject *arn_py_plan_construct(arn_py_plan *plan, const arn_value *value);
/* One of the above; *out is set when it is EXACT or VALID. `depth`: levels above, 0 at first. */
int arn_py_plan_validate(arn_py_plan *plan, const arn_value *value, unsigned depth, PyObject **out);
/* The same for a plan of kind UNION whose type's own annotations do not count. */
int arn_py_union_validate(arn_py_plan *plan, const arn_value *value, unsigned depth,
                          PyObject **out);
/* Steals the references, `dict` for __dict__; they may be NULL. NULL on failure. */
PyObject *arn_py_model_new(const arn_py_model *model, PyObject *dict, PyObject *fields_set,
                           PyObject *extra);
/* The set of the fields that have a value; new reference, or NULL. */
PyObject *arn_py_model_fields_set(arn_py_model *model, const arn_value *const *values);
/* The values of a mapping by field (the last of repeated ones), NULL for none. */
int arn_py_model_sort(const arn_py_model *model, const arn_value *map, const arn_value **values,
                      int *has_others);

#endif /* ARN_PY_MODEL_H */
