#include "py/codec.h"

#include <base/alloc.h>
#include <redis/pack.h>

#include <string.h>

/* ---- errors ---- */

PyObject *arn_py_make_error(const arn_py_codec *codec, const char *kind, const char *message,
                            size_t len) {
    PyObject *text = PyUnicode_DecodeUTF8(message, (Py_ssize_t)len, "replace");
    PyObject *error = NULL;

    if (text != NULL)
        error = PyObject_CallFunction(codec->error_factory, "sO", kind, text);
    Py_XDECREF(text);
    if (error != NULL && PyExceptionInstance_Check(error))
        return error;
    if (error != NULL) {
        Py_DECREF(error);
        PyErr_SetString(PyExc_TypeError, "error_factory must return an exception");
    }
    return arn_py_take_error();
}

PyObject *arn_py_status_error(const arn_py_codec *codec, const arn_op *op) {
    const char *message = op->message != NULL ? op->message : arn_status_message(op->status);
    const char *kind;

    switch (op->status) {
    case ARN_ENOMEM:
        PyErr_NoMemory();
        return arn_py_take_error();
    case ARN_ETIMEDOUT:
    case ARN_ECONNTIMEDOUT:
        kind = "timeout";
        break;
    case ARN_EPROTO:
        kind = "protocol";
        break;
    case ARN_EAUTH:
        kind = "auth";
        break;
    case ARN_EBUSY:
        kind = "busy";
        break;
    default:
        kind = "connection";
    }
    return arn_py_make_error(codec, kind, message, strlen(message));
}

/* ---- values to objects ---- */

static PyObject *from_text(const arn_py_codec *codec, const arn_value *value, int decode) {
    if (!decode)
        return PyBytes_FromStringAndSize(value->u.bytes, (Py_ssize_t)value->len);
    if (codec->is_utf8_strict)
        return PyUnicode_DecodeUTF8(value->u.bytes, (Py_ssize_t)value->len, NULL);
    return PyUnicode_Decode(value->u.bytes, (Py_ssize_t)value->len, codec->encoding, codec->errors);
}

static PyObject *from_items(const arn_py_codec *codec, const arn_value *value, int decode) {
    PyObject *list = PyList_New((Py_ssize_t)value->len);
    size_t i;

    if (list == NULL)
        return NULL;
    for (i = 0; i < value->len; i++) {
        PyObject *item = arn_py_from_value(codec, &value->u.items[i], decode);
        if (item == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return list;
}

static PyObject *from_map(const arn_py_codec *codec, const arn_value *value, int decode) {
    PyObject *dict = PyDict_New();
    size_t i;

    for (i = 0; dict != NULL && i < value->len; i++) {
        PyObject *key = arn_py_from_value(codec, &value->u.items[2 * i], decode);
        PyObject *item = arn_py_from_value(codec, &value->u.items[2 * i + 1], decode);
        if (key == NULL || item == NULL || PyDict_SetItem(dict, key, item) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(key);
        Py_XDECREF(item);
    }
    return dict;
}

static PyObject *from_error(const arn_py_codec *codec, const arn_value *value) {
    PyObject *error = arn_py_make_error(codec, "response", value->u.bytes, value->len);

    if (PyErr_GivenExceptionMatches(error, PyExc_Exception))
        return error;
    arn_py_raise(error); /* Ctrl-C while it was made is not an item of a reply */
    Py_DECREF(error);
    return NULL;
}

PyObject *arn_py_from_value(const arn_py_codec *codec, const arn_value *value, int decode) {
    PyObject *list, *set;

    switch (value->kind) {
    case ARN_NIL:
        Py_RETURN_NONE;
    case ARN_BOOL:
        return PyBool_FromLong(value->u.integer != 0);
    case ARN_INT:
        return PyLong_FromLongLong(value->u.integer);
    case ARN_DOUBLE:
        return PyFloat_FromDouble(value->u.number);
    case ARN_BYTES:
        return from_text(codec, value, decode);
    case ARN_TEXT:
        return PyUnicode_DecodeUTF8(value->u.bytes, (Py_ssize_t)value->len, NULL);
    case ARN_ARRAY:
    case ARN_PUSH:
        return from_items(codec, value, decode);
    case ARN_SET:
        list = from_items(codec, value, decode);
        set = list == NULL ? NULL : PySet_New(list);
        Py_XDECREF(list);
        return set;
    case ARN_MAP:
        return from_map(codec, value, decode);
    case ARN_ERROR:
        return from_error(codec, value);
    case ARN_BIGINT:
    case ARN_FLOAT32_ARRAY:
    case ARN_FLOAT64_ARRAY:
        break;
    }
    PyErr_Format(PyExc_SystemError, "reply of unexpected kind %d", (int)value->kind);
    return NULL;
}

/* ---- objects to arguments ---- */

void arn_py_args_init(arn_py_args *a, const arn_py_codec *codec) {
    a->codec = codec;
    a->slices = a->first_slices;
    a->objects = a->first_objects;
    a->count = 0;
    a->cap = ARN_PY_ARGS_INLINE;
    a->temporaries = NULL;
    arn_arena_init(&a->numbers, a->first_numbers, sizeof(a->first_numbers));
}

void arn_py_args_clear(arn_py_args *a) {
    size_t i;

    for (i = 0; i < a->count; i++)
        Py_XDECREF(a->objects[i]);
    if (a->slices != a->first_slices) {
        arn_free(a->slices);
        arn_free(a->objects);
    }
    Py_XDECREF(a->temporaries);
    arn_arena_free(&a->numbers);
}

static int grow(arn_py_args *a) {
    size_t cap = a->cap * 2;
    int heap = a->slices != a->first_slices;
    arn_slice *slices = arn_realloc(heap ? a->slices : NULL, cap * sizeof(*slices));
    PyObject **objects;

    if (slices == NULL)
        goto no_memory;
    if (!heap)
        memcpy(slices, a->first_slices, sizeof(a->first_slices));
    objects = arn_realloc(heap ? a->objects : NULL, cap * sizeof(*objects));
    if (objects == NULL) {
        if (heap)
            a->slices = slices;
        else
            arn_free(slices);
        goto no_memory;
    }
    if (!heap)
        memcpy(objects, a->first_objects, sizeof(a->first_objects));
    a->slices = slices;
    a->objects = objects;
    a->cap = cap;
    return 0;

no_memory:
    PyErr_NoMemory();
    return -1;
}

static int add(arn_py_args *a, const char *data, size_t len, PyObject *origin) {
    if (a->count == a->cap && grow(a) < 0)
        return -1;
    a->slices[a->count].data = data;
    a->slices[a->count].len = len;
    a->objects[a->count++] = Py_XNewRef(origin);
    return 0;
}

/* Takes over the reference on `object`, which keeps the bytes of a slice alive. */
static int keep(arn_py_args *a, PyObject *object) {
    int r;

    if (object == NULL)
        return -1;
    if (a->temporaries == NULL)
        a->temporaries = PyList_New(0);
    r = a->temporaries == NULL ? -1 : PyList_Append(a->temporaries, object);
    Py_DECREF(object);
    return r;
}

static int add_bytes(arn_py_args *a, PyObject *bytes, PyObject *origin) {
    if (bytes != NULL && !PyBytes_Check(bytes)) {
        Py_DECREF(bytes);
        PyErr_SetString(PyExc_TypeError, "encoding did not return bytes");
        return -1;
    }
    if (keep(a, bytes) < 0)
        return -1;
    return add(a, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes), origin);
}

int arn_py_args_literal(arn_py_args *a, const char *s, size_t len) {
    return add(a, s, len, NULL);
}

static int add_int(arn_py_args *a, long long n, PyObject *origin) {
    char *text = arn_arena_alloc(&a->numbers, 24);
    size_t len = 0;

    if (text == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (n < 0)
        text[len++] = '-';
    len += arn_format_u64(text + len, n < 0 ? 0ull - (unsigned long long)n : (unsigned long long)n);
    return add(a, text, len, origin);
}

static int add_text(arn_py_args *a, PyObject *text) {
    const char *data;
    Py_ssize_t len;

    /* Asking a long non-ASCII string for its UTF-8 would leave a second copy inside it. */
    if (a->codec->is_utf8_strict &&
        (PyUnicode_IS_ASCII(text) || PyUnicode_GET_LENGTH(text) < 512)) {
        data = PyUnicode_AsUTF8AndSize(text, &len);
        return data == NULL ? -1 : add(a, data, (size_t)len, text);
    }
    return add_bytes(a, PyUnicode_AsEncodedString(text, a->codec->encoding, a->codec->errors),
                     text);
}

static int add_repr(arn_py_args *a, PyObject *number) {
    PyObject *text = PyObject_Repr(number);
    int r;

    if (text == NULL)
        return -1;
    r = add_bytes(a, PyUnicode_AsUTF8String(text), number);
    Py_DECREF(text);
    return r;
}

static int add_float(arn_py_args *a, PyObject *number) {
    char *text = PyOS_double_to_string(PyFloat_AS_DOUBLE(number), 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
    size_t len;
    char *copy;

    if (text == NULL)
        return -1;
    len = strlen(text);
    copy = arn_arena_copy(&a->numbers, text, len);
    PyMem_Free(text);
    if (copy == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return add(a, copy, len, number);
}

static int wrong_type(arn_py_args *a, PyObject *o, const char *what) {
    PyObject *name = PyType_GetName(Py_TYPE(o));
    PyObject *text, *error;
    const char *s = NULL;
    Py_ssize_t len = 0;

    if (name == NULL)
        return -1;
    text = PyUnicode_FromFormat("Invalid input of type: '%U'. Convert to a %s first.", name, what);
    Py_DECREF(name);
    if (text != NULL)
        s = PyUnicode_AsUTF8AndSize(text, &len);
    if (s == NULL) {
        Py_XDECREF(text);
        return -1;
    }
    error = arn_py_make_error(a->codec, "data", s, (size_t)len);
    Py_DECREF(text);
    arn_py_raise(error);
    Py_DECREF(error);
    return -1;
}

int arn_py_args_object(arn_py_args *a, PyObject *o) {
    if (PyUnicode_Check(o))
        return add_text(a, o);
    if (PyBytes_Check(o))
        return add(a, PyBytes_AS_STRING(o), (size_t)PyBytes_GET_SIZE(o), o);
    if (PyLong_CheckExact(o)) {
        int overflow;
        long long n = PyLong_AsLongLongAndOverflow(o, &overflow);
        if (overflow)
            return add_repr(a, o);
        if (n == -1 && PyErr_Occurred())
            return -1;
        return add_int(a, n, o);
    }
    if (PyFloat_CheckExact(o))
        return add_float(a, o);
    if (PyBool_Check(o))
        return wrong_type(a, o, "bytes, string, int or float");
    if (PyLong_Check(o) || PyFloat_Check(o))
        return add_repr(a, o); /* of a subclass: its own repr, as redis-py */
    if (PyMemoryView_Check(o)) {
        PyObject *bytes = PyBytes_FromObject(o);
        int r = bytes == NULL
                    ? -1
                    : add(a, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes), bytes);
        Py_XDECREF(bytes);
        return r;
    }
    return wrong_type(a, o, "bytes, string, int or float");
}

int arn_py_args_name(arn_py_args *a, PyObject *name) {
    const char *data, *p, *end;
    size_t before = a->count;
    Py_ssize_t len;

    if (PyUnicode_Check(name)) {
        data = PyUnicode_AsUTF8AndSize(name, &len);
        if (data == NULL)
            return -1;
    } else if (PyBytes_Check(name)) {
        data = PyBytes_AS_STRING(name);
        len = PyBytes_GET_SIZE(name);
    } else {
        return wrong_type(a, name, "bytes or string");
    }
    for (p = data, end = data + len; p < end;) {
        const char *word;
        while (p < end && (*p == ' ' || (*p >= '\t' && *p <= '\r')))
            p++;
        word = p;
        while (p < end && *p != ' ' && !(*p >= '\t' && *p <= '\r'))
            p++;
        if (p > word &&
            add(a, word, (size_t)(p - word), word == data && p == end ? name : NULL) < 0)
            return -1;
    }
    if (a->count == before)
        return add(a, data, 0, name);
    /* The words are in the name, which none of them owns. */
    return a->objects[before] == NULL ? keep(a, Py_NewRef(name)) : 0;
}

PyObject *arn_py_args_tuple(const arn_py_args *a) {
    PyObject *tuple = PyTuple_New((Py_ssize_t)a->count);
    size_t i;

    for (i = 0; tuple != NULL && i < a->count; i++) {
        PyObject *o = a->objects[i];
        if (o != NULL)
            Py_INCREF(o);
        else
            o = PyBytes_FromStringAndSize(a->slices[i].data, (Py_ssize_t)a->slices[i].len);
        if (o == NULL) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, o);
    }
    return tuple;
}

/* ---- references that the io thread drops ---- */

typedef struct released {
    struct released *next;
    PyObject *object;
} released;

/* Of the process: the io thread serves all interpreters. Nodes are pushed one by one and taken all
 * at once, so there is no ABA to fear. */
static _Atomic(released *) released_objects;

void arn_py_release_anywhere(void *object) {
    released *node;

    if (!arn_runtime_on_io_thread() &&
        !arn_workers_on_worker()) { /* all others work with the GIL held */
        Py_DECREF((PyObject *)object);
        return;
    }
    node = arn_malloc(sizeof(*node));
    if (node == NULL)
        return; /* out of memory, without the GIL: the object stays for good */
    node->object = object;
    node->next = atomic_load_explicit(&released_objects, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&released_objects, &node->next, node,
                                                  memory_order_release, memory_order_relaxed))
        continue;
}

void arn_py_release_pending(void) {
    released *node;

    if (atomic_load_explicit(&released_objects, memory_order_relaxed) == NULL)
        return;
    node = atomic_exchange_explicit(&released_objects, NULL, memory_order_acquire);
    while (node != NULL) {
        released *next = node->next;
        Py_DECREF(node->object);
        arn_free(node);
        node = next;
    }
}
