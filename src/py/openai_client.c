/* openai_client.c - OpenAIClient and OpenAICall: what a client's requests have in common, kept as
 * long as nobody touches the client, its class or the HTTP client under it.
 */
#include "py/openai.h"

#include <structmember.h>

unsigned int arn_py_type_tag(PyTypeObject *type) {
#if PY_VERSION_HEX >= 0x030C0000
    if (type->tp_version_tag == 0)
        PyUnstable_Type_AssignVersionTag(type);
#endif
#if PY_VERSION_HEX < 0x030C0000
    if (!PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG)) {
        PyObject *any = PyObject_GetAttrString((PyObject *)type, "__init__"); /* assigns one */
        if (any == NULL)
            PyErr_Clear();
        Py_XDECREF(any);
    }
#endif
#if PY_VERSION_HEX < 0x030D0000
    if (!PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG))
        return 0;
#endif
    return type->tp_version_tag;
}

/* ---- the client, as long as it stays what it was ---- */

static PyObject *snapshot_of(arn_py_state *st, PyObject *client) {
    PyObject *headers = PyObject_GetAttr(client, st->str_custom_headers);
    PyObject *query = headers == NULL ? NULL : PyObject_GetAttr(client, st->str_custom_query);
    PyObject *pair = query == NULL ? NULL : Py_BuildValue("(NN)", headers, query);

    if (pair == NULL) {
        Py_XDECREF(headers);
        Py_XDECREF(query);
    }
    return pair;
}

/* Copies of what is in the pair: what may be changed in place. */
static PyObject *copy_snapshot(PyObject *pair) {
    PyObject *copy = PyTuple_New(2);
    Py_ssize_t i;

    for (i = 0; copy != NULL && i < 2; i++) {
        PyObject *dict = PyDict_New();
        if (dict == NULL || PyDict_Update(dict, PyTuple_GET_ITEM(pair, i)) < 0) {
            Py_XDECREF(dict);
            Py_CLEAR(copy);
        } else {
            PyTuple_SET_ITEM(copy, i, dict);
        }
    }
    return copy;
}

int arn_py_openai_refresh(arn_py_state *st, arn_py_openai_client *client, PyTypeObject *http_type) {
    PyTypeObject *type = Py_TYPE(client);
    PyObject *pair = snapshot_of(st, (PyObject *)client);
    PyObject *calls, *post;
    int same = 0;

    if (pair == NULL)
        return -1;
    if (client->calls != NULL && client->tag != 0 && client->tag == arn_py_type_tag(type) &&
        client->http_tag != 0 && client->http_tag == arn_py_type_tag(http_type))
        same = PyObject_RichCompareBool(pair, client->snapshot, Py_EQ);
    if (same != 0) {
        Py_DECREF(pair);
        return same;
    }
    Py_SETREF(pair, copy_snapshot(pair));
    post = pair == NULL ? NULL : PyObject_GetAttr((PyObject *)type, st->str_post);
    calls = post == NULL ? NULL : PyDict_New();
    if (calls == NULL) {
        Py_XDECREF(pair);
        Py_XDECREF(post);
        return -1;
    }
    Py_XSETREF(client->snapshot, pair);
    Py_XSETREF(client->post, post);
    Py_XSETREF(client->calls, calls);
    client->tag = arn_py_type_tag(type);
    client->http_tag = arn_py_type_tag(http_type);
    return 0;
}

/* ---- OpenAIClient ---- */

static int setattro_client(PyObject *op, PyObject *name, PyObject *value) {
    arn_py_openai_client *self = (arn_py_openai_client *)op;

    self->changes++;
    Py_CLEAR(self->calls);
    return PyObject_GenericSetAttr(op, name, value);
}

static int traverse_client(PyObject *op, visitproc visit, void *arg) {
    arn_py_openai_client *self = (arn_py_openai_client *)op;

    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->calls);
    Py_VISIT(self->post);
    Py_VISIT(self->snapshot);
    return 0;
}

static int clear_client(PyObject *op) {
    arn_py_openai_client *self = (arn_py_openai_client *)op;

    Py_CLEAR(self->calls);
    Py_CLEAR(self->post);
    Py_CLEAR(self->snapshot);
    return 0;
}

static void dealloc_client(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    clear_client(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(client_doc, "Base of the native OpenAI clients: knows when an attribute was set.");

static PyType_Slot client_slots[] = {
    {Py_tp_doc, (void *)client_doc}, {Py_tp_setattro, setattro_client},
    {Py_tp_dealloc, dealloc_client}, {Py_tp_traverse, traverse_client},
    {Py_tp_clear, clear_client},     {0, NULL},
};

static PyType_Spec client_spec = {
    .name = "arshai_native._core.OpenAIClient",
    .basicsize = sizeof(arn_py_openai_client),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = client_slots,
};

/* ---- OpenAICall ---- */

/* Seconds from a keyword, None being no limit. */
static int to_ms(PyObject *seconds, uint64_t *out) {
    double s;

    *out = 0;
    if (seconds == Py_None)
        return 0;
    s = PyFloat_AsDouble(seconds);
    if (s == -1.0 && PyErr_Occurred())
        return -1;
    if (!(s > 0))
        *out = 1;
    else
        *out = s > 1e9 ? (uint64_t)1e12 : s < 0.001 ? 1 : (uint64_t)(s * 1000);
    return 0;
}

static PyObject *new_call(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"engine",          "method",          "url",
                            "headers",         "connect_timeout", "read_timeout",
                            "write_timeout",   "pool_timeout",    "max_retries",
                            "max_retry_after", "refuse_longer",   "counts_retries",
                            "decompress",      "model",           "request",
                            "options",         "recipe",          NULL};
    arn_py_state *st = arn_py_state_of_type(type);
    PyObject *engine, *method, *url, *headers, *connect, *read, *write, *pool, *model;
    PyObject *request, *options, *recipe;
    arn_http_options o = {.follow_redirects = 1};
    arn_py_openai_call *self;
    unsigned int max_retries;
    int counts_retries;

    if (st == NULL ||
        !PyArg_ParseTupleAndKeywords(
            args, kwargs, "O!UUO!$OOOOIdpppOOOO:OpenAICall", names, st->http_client_type, &engine,
            &method, &url, st->http_headers_type, &headers, &connect, &read, &write, &pool,
            &max_retries, &o.max_retry_after, &o.refuse_longer, &counts_retries, &o.decompress,
            &model, &request, &options, &recipe))
        return NULL;
    if (!PyUnicode_IS_ASCII(method) || !PyUnicode_IS_ASCII(url)) {
        PyErr_SetString(PyExc_ValueError, "method and url must be ASCII");
        return NULL;
    }
    if (to_ms(connect, &o.connect_ms) < 0 || to_ms(read, &o.read_ms) < 0 ||
        to_ms(write, &o.write_ms) < 0 || to_ms(pool, &o.pool_ms) < 0)
        return NULL;
    o.max_retries = max_retries;
    o.retry_count_header = counts_retries ? "x-stainless-retry-count" : NULL;
    self = (arn_py_openai_call *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->engine = Py_NewRef(engine);
    self->headers = Py_NewRef(headers);
    self->method = Py_NewRef(method);
    self->url = Py_NewRef(url);
    self->model = model == Py_None ? NULL : Py_NewRef(model);
    self->request = Py_NewRef(request);
    self->options = Py_NewRef(options);
    self->recipe = Py_NewRef(recipe);
    self->http = o;
    return (PyObject *)self;
}

static int traverse_call(PyObject *op, visitproc visit, void *arg) {
    arn_py_openai_call *self = (arn_py_openai_call *)op;

    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->engine);
    Py_VISIT(self->model);
    Py_VISIT(self->request);
    Py_VISIT(self->options);
    Py_VISIT(self->recipe);
    return 0;
}

static int clear_call(PyObject *op) {
    arn_py_openai_call *self = (arn_py_openai_call *)op;

    Py_CLEAR(self->model);
    Py_CLEAR(self->request);
    Py_CLEAR(self->options);
    Py_CLEAR(self->recipe);
    return 0;
}

static void dealloc_call(PyObject *op) {
    arn_py_openai_call *self = (arn_py_openai_call *)op;
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    clear_call(op);
    Py_CLEAR(self->engine);
    Py_CLEAR(self->headers);
    Py_CLEAR(self->method);
    Py_CLEAR(self->url);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef call_members[] = {
    {"request", T_OBJECT, offsetof(arn_py_openai_call, request), READONLY, NULL},
    {"options", T_OBJECT, offsetof(arn_py_openai_call, options), READONLY, NULL},
    {"recipe", T_OBJECT, offsetof(arn_py_openai_call, recipe), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(call_doc,
             "OpenAICall(engine, method, url, headers, *, connect_timeout, read_timeout,\n"
             "           write_timeout, pool_timeout, max_retries, max_retry_after,\n"
             "           refuse_longer, counts_retries, decompress, model, request, options,\n"
             "           recipe)\n--\n\n"
             "What all requests of a kind have in common. model: the only one that the URL\n"
             "is right for, or None.");

static PyType_Slot call_slots[] = {
    {Py_tp_doc, (void *)call_doc},
    {Py_tp_new, new_call},
    {Py_tp_dealloc, dealloc_call},
    {Py_tp_traverse, traverse_call},
    {Py_tp_clear, clear_call},
    {Py_tp_members, call_members},
    {0, NULL},
};

static PyType_Spec call_spec = {
    .name = "arshai_native._core.OpenAICall",
    .basicsize = sizeof(arn_py_openai_call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = call_slots,
};

int arn_py_init_openai_client(PyObject *module, arn_py_state *st) {
    st->openai_call_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &call_spec, NULL);
    st->openai_client_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &client_spec, NULL);
    if (st->openai_call_type == NULL || st->openai_client_type == NULL ||
        PyModule_AddType(module, st->openai_call_type) < 0)
        return -1;
    return PyModule_AddType(module, st->openai_client_type);
}
