/* openai_endpoint.c - OpenAIEndpoint: a method of the API from argument to result.
 *
 * A call goes: the arguments by their names into slots; the client's prepared OpenAICall; the JSON
 * body straight from the arguments; a request on the engine; the reply's document, parsed on the io
 * thread, into the SDK's model. Whatever is unusual on the way there calls the SDK's own method
 * with the same arguments, and whatever is unusual in the reply goes to the SDK's own code.
 */
#include "py/openai.h"

#include "py/json_encode.h"
#include "py/model.h"

#include <base/alloc.h>
#include <base/buf.h>

#include <structmember.h>

/* Arguments of a method that are members of its body. */
#define SLOTS_MAX 64

/* The others. */
enum { EXTRA_HEADERS = SLOTS_MAX, EXTRA_QUERY, EXTRA_BODY, TIMEOUT, ARGUMENTS_MAX };

/* Prepared calls a client keeps: more come from headers or timeouts that differ each time. */
#define CALLS_MAX 64

typedef struct endpoint {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    arn_py_state *st;
    PyObject *dict;
    PyTypeObject *peer;                                             /* the SDK's resource */
    PyObject *name;                                                 /* of its method, interned */
    PyObject *recipe_of, *prepare, *settle, *failure, *open_stream; /* Python's part */
    PyObject *is_enabled_for;                                       /* of the SDK's logger */
    PyObject *level, *wants_log, *retried;                          /* about its lines */
    PyTypeObject *omit, *not_given;
    PyTypeObject *http_type;
    PyObject *keys[2]; /* of the plainest calls in a client's `calls`: a format was named, or not */

    unsigned int peer_tag; /* of the peer when what follows was read from it */
    PyObject *recipe;      /* None: the method is not one that C can call */
    PyObject *slots;       /* dict: argument -> slot */
    PyObject *labels;      /* tuple of bytes: "name": as it stands in the body */
    PyObject *plan;        /* ModelPlan of the result; None: it is no model */
    uint64_t required;
    int model_slot, stream_slot, format_slot;
    int is_base64; /* embeddings, as base64 unless a format is named */
    int streams;
} endpoint;

/* What a call was given. */
typedef struct arguments {
    PyObject *values[ARGUMENTS_MAX]; /* borrowed; NULL: not given */
    int is_stream;
    int is_defaulted; /* the format of embeddings was not named */
} arguments;

/* Whether the resource posts through its client's own method. */
static int posts_itself(endpoint *self, PyObject *resource, arn_py_openai_client *client) {
    PyObject *post = PyObject_GetAttr(resource, self->st->str_own_post);
    int itself = post != NULL && PyMethod_Check(post) &&
                 PyMethod_GET_SELF(post) == (PyObject *)client &&
                 PyMethod_GET_FUNCTION(post) == client->post;

    if (post == NULL)
        PyErr_Clear();
    Py_XDECREF(post);
    return itself;
}

/* Whether the SDK's log lines are asked for, which only its own path writes. Usually its logger
 * alone can tell. -1 with an exception set. */
static int is_logged(endpoint *self) {
    PyObject *answer = PyObject_CallOneArg(self->is_enabled_for, self->level);
    int r = answer == NULL ? -1 : PyObject_IsTrue(answer);

    if (r > 0) {
        Py_SETREF(answer, PyObject_CallNoArgs(self->wants_log));
        r = answer == NULL ? -1 : PyObject_IsTrue(answer);
    }
    Py_XDECREF(answer);
    return r;
}

/* ---- the recipe ---- */

static int slot_of(PyObject *slots, const char *name) {
    PyObject *slot = PyDict_GetItemString(slots, name);

    return slot == NULL ? -1 : (int)PyLong_AsLong(slot);
}

static PyObject *label_of(PyObject *name) {
    arn_buf buf = ARN_BUF_INIT;
    PyObject *label = NULL;

    if (arn_py_json_encode(&buf, name) == 0) {
        if (arn_buf_append(&buf, ":", 1) == 0)
            label = PyBytes_FromStringAndSize(buf.data, (Py_ssize_t)buf.len);
        else
            PyErr_NoMemory();
    }
    arn_buf_free(&buf);
    return label;
}

static int add_slot(PyObject *slots, PyObject *name, long slot) {
    PyObject *number = PyLong_FromLong(slot);
    int r = number == NULL ? -1 : PyDict_SetItem(slots, name, number);

    Py_XDECREF(number);
    return r;
}

/* Reads the Recipe `recipe`. 0, or -1 with an exception set. */
static int take_recipe(endpoint *self, PyObject *recipe) {
    static const char *const others[] = {"extra_headers", "extra_query", "extra_body", "timeout"};
    PyObject *order = PyObject_GetAttrString(recipe, "order");
    PyObject *required = PyObject_GetAttrString(recipe, "required");
    PyObject *chunk = PyObject_GetAttrString(recipe, "chunk");
    PyObject *base64 = PyObject_GetAttrString(recipe, "base64");
    PyObject *plan = PyObject_GetAttrString(recipe, "plan");
    PyObject *slots = PyDict_New();
    PyObject *labels = NULL;
    Py_ssize_t count, i;
    int r = -1;

    if (order == NULL || required == NULL || chunk == NULL || base64 == NULL || plan == NULL ||
        slots == NULL)
        goto done;
    if (!PyTuple_Check(order) || !PyTuple_Check(required) || PyTuple_GET_SIZE(order) > SLOTS_MAX) {
        PyErr_SetString(PyExc_TypeError, "not a recipe");
        goto done;
    }
    count = PyTuple_GET_SIZE(order);
    labels = PyTuple_New(count);
    for (i = 0; labels != NULL && i < count; i++) {
        PyObject *label = label_of(PyTuple_GET_ITEM(order, i));
        if (label == NULL || add_slot(slots, PyTuple_GET_ITEM(order, i), (long)i) < 0) {
            Py_XDECREF(label);
            goto done;
        }
        PyTuple_SET_ITEM(labels, i, label);
    }
    if (labels == NULL)
        goto done;
    self->required = 0;
    for (i = 0; i < PyTuple_GET_SIZE(required); i++) {
        PyObject *slot = PyDict_GetItemWithError(slots, PyTuple_GET_ITEM(required, i));
        if (slot == NULL)
            goto done;
        self->required |= (uint64_t)1 << PyLong_AsLong(slot);
    }
    for (i = 0; i < 4; i++) {
        PyObject *name = PyUnicode_InternFromString(others[i]);
        int failed = name == NULL || add_slot(slots, name, EXTRA_HEADERS + (long)i) < 0;
        Py_XDECREF(name);
        if (failed)
            goto done;
    }
    self->model_slot = slot_of(slots, "model");
    self->stream_slot = slot_of(slots, "stream");
    self->format_slot = slot_of(slots, "encoding_format");
    self->is_base64 = base64 == Py_True && self->format_slot >= 0;
    self->streams = chunk != Py_None;
    Py_XSETREF(self->slots, Py_NewRef(slots));
    Py_XSETREF(self->labels, Py_NewRef(labels));
    Py_XSETREF(self->plan, Py_NewRef(plan));
    r = 0;

done:
    if (r < 0 && !PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "not a recipe");
    Py_XDECREF(order);
    Py_XDECREF(required);
    Py_XDECREF(chunk);
    Py_XDECREF(base64);
    Py_XDECREF(plan);
    Py_XDECREF(slots);
    Py_XDECREF(labels);
    return r;
}

/* 1 if the peer's method is one that C can call; 0; -1 with an exception set. */
static int ready(endpoint *self) {
    unsigned int tag = arn_py_type_tag(self->peer);
    PyObject *recipe;

    if (tag != 0 && tag == self->peer_tag)
        return self->recipe != Py_None;
    recipe =
        PyObject_CallFunctionObjArgs(self->recipe_of, (PyObject *)self->peer, self->name, NULL);
    if (recipe == NULL)
        return -1;
    if (recipe != Py_None && take_recipe(self, recipe) < 0) {
        Py_DECREF(recipe);
        return -1;
    }
    Py_XSETREF(self->recipe, recipe);
    self->peer_tag = arn_py_type_tag(self->peer);
    return self->peer_tag != 0 && self->recipe != Py_None;
}

/* ---- arguments ---- */

static int is_absent(const endpoint *self, PyObject *value) {
    return Py_IS_TYPE(value, self->omit) || Py_IS_TYPE(value, self->not_given);
}

/* Puts the arguments into their slots. 1; 0 when the call is not a plain one; -1. */
static int sort_arguments(endpoint *self, PyObject *const *values, PyObject *names, arguments *a) {
    uint64_t given = 0;
    PyObject *stream;
    Py_ssize_t i;

    memset(a, 0, sizeof(*a));
    for (i = 0; i < PyTuple_GET_SIZE(names); i++) {
        PyObject *slot = PyDict_GetItemWithError(self->slots, PyTuple_GET_ITEM(names, i));
        long at;
        if (slot == NULL)
            return PyErr_Occurred() ? -1 : 0;
        at = PyLong_AsLong(slot);
        if (is_absent(self, values[i]))
            continue;
        a->values[at] = values[i];
        if (at < SLOTS_MAX)
            given |= (uint64_t)1 << at;
    }
    if ((given & self->required) != self->required)
        return 0;
    for (i = EXTRA_HEADERS; i <= EXTRA_BODY; i++)
        if (a->values[i] == Py_None)
            a->values[i] = NULL;
    if (a->values[EXTRA_QUERY] != NULL ||
        (a->values[EXTRA_HEADERS] != NULL && !PyDict_CheckExact(a->values[EXTRA_HEADERS])) ||
        (a->values[EXTRA_BODY] != NULL && !PyDict_CheckExact(a->values[EXTRA_BODY])))
        return 0;
    stream = self->stream_slot < 0 ? NULL : a->values[self->stream_slot];
    if (stream != NULL && stream != Py_None && !PyBool_Check(stream))
        return 0;
    a->is_stream = stream == Py_True;
    if (a->is_stream && !self->streams)
        return 0;
    a->is_defaulted = self->is_base64 && a->values[self->format_slot] == NULL;
    return 1;
}

static int append(arn_buf *buf, const char *data, size_t len) {
    if (arn_buf_append(buf, data, len) == 0)
        return 0;
    PyErr_NoMemory();
    return -1;
}

static int encode_plain(endpoint *self, const arguments *a, arn_buf *buf) {
    Py_ssize_t i;

    for (i = 0; i < PyTuple_GET_SIZE(self->labels); i++) {
        PyObject *label = PyTuple_GET_ITEM(self->labels, i);
        int is_format = a->is_defaulted && i == self->format_slot;
        if (a->values[i] == NULL && !is_format)
            continue;
        if (append(buf, buf->len == 0 ? "{" : ",", 1) < 0 ||
            append(buf, PyBytes_AS_STRING(label), (size_t)PyBytes_GET_SIZE(label)) < 0)
            return -1;
        if (is_format ? append(buf, "\"base64\"", 8) < 0
                      : arn_py_json_encode(buf, a->values[i]) < 0)
            return -1;
    }
    return append(buf, buf->len == 0 ? "{}" : "}", buf->len == 0 ? 2 : 1);
}

/* With members of the caller's own, which replace or follow the method's. */
static int encode_merged(endpoint *self, const arguments *a, arn_buf *buf) {
    PyObject *body = PyDict_New();
    PyObject *name, *slot, *base64 = NULL;
    Py_ssize_t at = 0;
    int r = body == NULL ? -1 : 0;

    /* `slots` has the names in the order of the body. */
    while (r == 0 && PyDict_Next(self->slots, &at, &name, &slot)) {
        long i = PyLong_AsLong(slot);
        if (i >= SLOTS_MAX)
            break;
        if (a->is_defaulted && i == self->format_slot) {
            base64 = PyUnicode_FromString("base64");
            r = base64 == NULL ? -1 : PyDict_SetItem(body, name, base64);
            Py_XDECREF(base64);
        } else if (a->values[i] != NULL) {
            r = PyDict_SetItem(body, name, a->values[i]);
        }
    }
    if (r == 0)
        r = PyDict_Update(body, a->values[EXTRA_BODY]);
    if (r == 0)
        r = arn_py_json_encode(buf, body);
    Py_XDECREF(body);
    return r;
}

/* ---- prepared calls ---- */

/* The key of what differs from the plainest call, NULL for the plainest. -1 with an exception. */
static int key_of(endpoint *self, const arguments *a, PyObject *model, PyObject **key) {
    PyObject *headers = a->values[EXTRA_HEADERS];
    PyObject *timeout = a->values[TIMEOUT];
    PyObject *items = NULL;

    *key = NULL;
    if (headers == NULL && timeout == NULL && model == NULL)
        return 0;
    if (headers != NULL) {
        PyObject *list = PyDict_Items(headers);
        items = list == NULL ? NULL : PyList_AsTuple(list);
        Py_XDECREF(list);
        if (items == NULL)
            return -1;
    }
    *key = PyTuple_Pack(4, self->keys[a->is_defaulted], items != NULL ? items : Py_None,
                        timeout != NULL ? timeout : (PyObject *)self->not_given,
                        model != NULL ? model : (PyObject *)self->not_given);
    Py_XDECREF(items);
    return *key == NULL ? -1 : 0;
}

static PyObject *prepare(endpoint *self, arn_py_openai_client *client, const arguments *a) {
    PyObject *model = self->model_slot < 0 ? NULL : a->values[self->model_slot];

    return PyObject_CallFunctionObjArgs(
        self->prepare, (PyObject *)client, self->recipe, a->is_defaulted ? Py_True : Py_False,
        model != NULL ? model : Py_None,
        a->values[EXTRA_HEADERS] != NULL ? a->values[EXTRA_HEADERS] : Py_None,
        a->values[TIMEOUT] != NULL ? a->values[TIMEOUT] : (PyObject *)self->not_given, NULL);
}

static int is_for(PyObject *call, PyObject *model) {
    PyObject *only = call == Py_None ? NULL : ((arn_py_openai_call *)call)->model;

    return only == NULL ||
           (model != NULL && PyUnicode_Check(model) && PyUnicode_Compare(only, model) == 0);
}

/* The prepared call, None when the SDK is to make the request. New reference; NULL with an
 * exception set. */
static PyObject *call_of(endpoint *self, arn_py_openai_client *client, const arguments *a) {
    PyObject *plain = self->keys[a->is_defaulted];
    PyObject *model = self->model_slot < 0 ? NULL : a->values[self->model_slot];
    PyObject *key = NULL, *call;
    unsigned long changes;

    if (model != NULL && !PyUnicode_CheckExact(model))
        model = NULL;
    if (key_of(self, a, NULL, &key) < 0)
        return NULL;
    call = PyDict_GetItemWithError(client->calls, key != NULL ? key : plain);
    if (call != NULL && !is_for(call, model)) {
        Py_XDECREF(key);
        if (key_of(self, a, model, &key) < 0)
            return NULL;
        call = key == NULL ? NULL : PyDict_GetItemWithError(client->calls, key);
    }
    if (call != NULL) {
        Py_INCREF(call);
        Py_XDECREF(key);
        return call;
    }
    if (PyErr_Occurred()) { /* a timeout that cannot be a key */
        if (!PyErr_ExceptionMatches(PyExc_TypeError)) {
            Py_XDECREF(key);
            return NULL;
        }
        PyErr_Clear();
        Py_XDECREF(key);
        return prepare(self, client, a);
    }
    changes = client->changes;
    call = prepare(self, client, a);
    if (call != NULL && call != Py_None && !Py_IS_TYPE(call, self->st->openai_call_type)) {
        PyErr_SetString(PyExc_TypeError, "prepare() must return an OpenAICall or None");
        Py_CLEAR(call);
    }
    /* Unless an attribute was set meanwhile, which the call may not know of. */
    if (call != NULL && client->calls != NULL && client->changes == changes) {
        if (PyDict_GET_SIZE(client->calls) >= CALLS_MAX)
            PyDict_Clear(client->calls);
        if (PyDict_SetItem(client->calls, key != NULL ? key : plain, call) < 0)
            Py_CLEAR(call);
    }
    Py_XDECREF(key);
    return call;
}

/* ---- requests ---- */

static PyObject *convert(arn_py_request *req, arn_op *op, double *again);

static const arn_py_request_class call_class = {
    .qualname = "AsyncOpenAI.request", .convert = convert, .submitting = arn_py_http_submitting};

static arn_http_mode mode_of(const endpoint *self, const arguments *a) {
    if (a->is_stream)
        return ARN_HTTP_EVENTS;
    if (self->plan == Py_None)
        return ARN_HTTP_BODY;
    return a->is_defaulted ? ARN_HTTP_EMBEDDINGS : ARN_HTTP_JSON;
}

/* Takes over the buffer. NULL with an exception set. */
static PyObject *new_request(endpoint *self, arn_py_openai_client *client, arn_py_openai_call *call,
                             const arguments *a, arn_buf *body) {
    arn_http_options options = call->http;
    arn_py_request *req;
    arn_http_op *op;

    options.mode = mode_of(self, a);
    op = arn_py_http_op(
        (arn_py_http_client *)call->engine, (const char *)PyUnicode_1BYTE_DATA(call->method),
        (const char *)PyUnicode_1BYTE_DATA(call->url), (size_t)PyUnicode_GET_LENGTH(call->url),
        ((arn_py_http_headers *)call->headers)->headers, &options, NULL, 0);
    if (op == NULL) {
        arn_buf_free(body);
        return NULL;
    }
    op->body.data = body->data;
    op->body.len = body->len;
    op->body_owner = body->data;
    op->release = arn_free;
    req = arn_py_http_request((arn_py_http_client *)call->engine, &call_class, op);
    if (req == NULL)
        return NULL;
    req->args = Py_NewRef((PyObject *)client);
    req->reply_callback = Py_NewRef((PyObject *)self);
    req->reply_options = Py_NewRef((PyObject *)call);
    return (PyObject *)req;
}

/* 1 with the awaitable in *out; 0 when the SDK is to take the call; -1 with an exception set. */
static int call_natively(endpoint *self, PyObject *resource, PyObject *const *values,
                         PyObject *names, PyObject **out) {
    PyObject *object = NULL, *call = NULL;
    arn_py_openai_client *client;
    arn_buf body = ARN_BUF_INIT;
    arguments a;
    int logged, r = ready(self);

    if (r > 0)
        r = sort_arguments(self, values, names, &a);
    if (r <= 0)
        return r;
    object = PyObject_GetAttr(resource, self->st->str_client);
    if (object == NULL)
        return -1;
    if (!PyObject_TypeCheck(object, self->st->openai_client_type)) {
        Py_DECREF(object);
        return 0;
    }
    client = (arn_py_openai_client *)object;
    r = -1;
    logged = is_logged(self);
    if (logged < 0 || arn_py_openai_refresh(self->st, client, self->http_type) < 0)
        goto done;
    r = 0;
    if (logged || !posts_itself(self, resource, client))
        goto done;
    call = call_of(self, client, &a);
    if (call == NULL || call == Py_None ||
        ((arn_py_http_client *)((arn_py_openai_call *)call)->engine)->is_closed) {
        r = call == NULL ? -1 : 0;
        goto done;
    }
    r = a.values[EXTRA_BODY] != NULL ? encode_merged(self, &a, &body)
                                     : encode_plain(self, &a, &body);
    if (r == 0) {
        *out = new_request(self, client, (arn_py_openai_call *)call, &a, &body);
        r = *out != NULL ? 1 : -1;
    } else {
        arn_buf_free(&body);
    }

done:
    Py_XDECREF(call);
    Py_DECREF(object);
    return r;
}

static PyObject *call_peer(endpoint *self, PyObject *const *args, size_t nargsf,
                           PyObject *kwnames) {
    /* Looked up now: it may be instrumentation's. */
    PyObject *method = PyObject_GetAttr((PyObject *)self->peer, self->name);
    PyObject *result;

    if (method == NULL)
        return NULL;
    result = PyObject_Vectorcall(method, args, nargsf, kwnames);
    Py_DECREF(method);
    return result;
}

static PyObject *vectorcall(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
    endpoint *self = (endpoint *)op;
    PyObject *result = NULL;
    int r = 0;

    if (PyVectorcall_NARGS(nargsf) == 1 && kwnames != NULL)
        r = call_natively(self, args[0], args + 1, kwnames, &result);
    if (r > 0)
        return result;
    /* What is wrong with the arguments, the SDK says itself. */
    if (r < 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError))
            return NULL;
        PyErr_Clear();
    }
    return call_peer(self, args, nargsf, kwnames);
}

/* ---- replies ---- */

static PyObject *raise_failure(endpoint *self, PyObject *call, arn_http_op *op, PyObject *body) {
    PyObject *error, *raised;

    arn_py_http_raise_op(self->st, op);
    if (!PyErr_ExceptionMatches(self->st->http_error))
        return NULL;
    error = arn_py_take_error();
    raised = PyObject_CallFunctionObjArgs(self->failure, call, body, error, NULL);
    Py_DECREF(error);
    return arn_py_raise_returned(raised, "failure");
}

/* Whether the vectors are there and, if they came as base64, decoded. */
static int has_vectors(const arn_value *document) {
    const arn_value *data = arn_value_member(document, "data");
    size_t i;

    if (data == NULL || data->kind != ARN_ARRAY || data->len == 0)
        return 0;
    for (i = 0; i < data->len; i++) {
        const arn_value *vector = arn_value_member(&data->u.items[i], "embedding");
        if (vector == NULL || vector->kind == ARN_TEXT)
            return 0;
    }
    return 1;
}

/* The usual reply as a model. */
static PyObject *model_of(endpoint *self, const arn_http_op *op) {
    const char *id = arn_http_reply_header(&op->reply, "x-request-id");
    PyObject *model = arn_py_model_build(self->st, self->plan, &op->base.value);
    PyObject *text;
    int r;

    if (model == NULL)
        return NULL;
    text =
        id == NULL ? Py_NewRef(Py_None) : PyUnicode_DecodeLatin1(id, (Py_ssize_t)strlen(id), NULL);
    r = text == NULL ? -1 : PyObject_GenericSetAttr(model, self->st->str_request_id, text);
    Py_XDECREF(text);
    if (r < 0)
        Py_CLEAR(model);
    return model;
}

static int tell_retries(endpoint *self, PyObject *call, unsigned retries) {
    PyObject *r = PyObject_CallFunction(self->retried, "OI", call, retries);

    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

static PyObject *convert(arn_py_request *req, arn_op *base, double *again) {
    arn_http_op *op = ARN_CONTAINER_OF(base, arn_http_op, base);
    endpoint *self = (endpoint *)req->reply_callback;
    PyObject *body, *response, *result = NULL;
    int is_ok = base->status == ARN_OK && op->reply.status >= 200 && op->reply.status < 300;

    (void)again;
    if (op->reply.retries > 0 && tell_retries(self, req->reply_options, op->reply.retries) < 0)
        return NULL;
    if (is_ok && self->plan != Py_None && op->options.mode <= ARN_HTTP_EMBEDDINGS &&
        op->reply.json == 0 && base->value.kind == ARN_MAP &&
        (op->options.mode != ARN_HTTP_EMBEDDINGS || has_vectors(&base->value)))
        return model_of(self, op);
    body = PyBytes_FromStringAndSize(op->body.data, (Py_ssize_t)op->body.len);
    if (body == NULL)
        return NULL;
    if (base->status != ARN_OK) {
        raise_failure(self, req->reply_options, op, body);
    } else {
        response = arn_py_http_response_new(req->st, req->client, op);
        if (response != NULL)
            result = PyObject_CallFunctionObjArgs(
                is_ok && op->options.mode == ARN_HTTP_EVENTS ? self->open_stream : self->settle,
                req->args, req->reply_options, body, response, NULL);
        Py_XDECREF(response);
    }
    Py_DECREF(body);
    return result;
}

/* ---- OpenAIEndpoint ---- */

static int take_hook(PyObject *hooks, const char *name, PyObject **out) {
    *out = PyObject_GetAttrString(hooks, name);
    return *out == NULL ? -1 : 0;
}

static int take_type(PyObject *hooks, const char *name, PyTypeObject **out) {
    PyObject *type;

    if (take_hook(hooks, name, &type) < 0)
        return -1;
    if (!PyType_Check(type)) {
        PyErr_Format(PyExc_TypeError, "%s must be a type", name);
        Py_DECREF(type);
        return -1;
    }
    *out = (PyTypeObject *)type;
    return 0;
}

static PyObject *new_endpoint(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"peer", "name", "hooks", NULL};
    arn_py_state *st = arn_py_state_of_type(type);
    PyObject *peer, *name, *hooks, *log = NULL;
    endpoint *self;
    int r;

    if (st == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!UO:OpenAIEndpoint", names,
                                                   &PyType_Type, &peer, &name, &hooks))
        return NULL;
    self = (endpoint *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->st = arn_py_state_hold(st);
    self->vectorcall = vectorcall;
    self->peer = (PyTypeObject *)Py_NewRef(peer);
    self->name = Py_NewRef(name);
    PyUnicode_InternInPlace(&self->name);
    self->recipe = Py_NewRef(Py_None);
    self->keys[0] = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type);
    self->keys[1] = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type);
    r = self->keys[0] == NULL || self->keys[1] == NULL;
    r = r || take_hook(hooks, "recipe_of", &self->recipe_of) < 0 ||
        take_hook(hooks, "prepare", &self->prepare) < 0 ||
        take_hook(hooks, "settle", &self->settle) < 0 ||
        take_hook(hooks, "failure", &self->failure) < 0 ||
        take_hook(hooks, "open_stream", &self->open_stream) < 0 ||
        take_hook(hooks, "log_level", &self->level) < 0 ||
        take_hook(hooks, "wants_log", &self->wants_log) < 0 ||
        take_hook(hooks, "retried", &self->retried) < 0 ||
        take_type(hooks, "omit", &self->omit) < 0 ||
        take_type(hooks, "not_given", &self->not_given) < 0 ||
        take_type(hooks, "http_type", &self->http_type) < 0 || take_hook(hooks, "log", &log) < 0;
    if (!r)
        r = take_hook(log, "isEnabledFor", &self->is_enabled_for) < 0;
    Py_XDECREF(log);
    if (r)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyObject *descr_get(PyObject *self, PyObject *instance, PyObject *owner) {
    (void)owner;
    if (instance == NULL || instance == Py_None)
        return Py_NewRef(self);
    return PyMethod_New(self, instance);
}

static PyObject *repr_endpoint(PyObject *op) {
    endpoint *self = (endpoint *)op;

    return PyUnicode_FromFormat("<native method %U of %s>", self->name, self->peer->tp_name);
}

#define ENDPOINT_REFERENCES(XX)                                                                    \
    XX(dict)                                                                                       \
    XX(peer)                                                                                       \
    XX(recipe_of)                                                                                  \
    XX(prepare)                                                                                    \
    XX(settle)                                                                                     \
    XX(failure)                                                                                    \
    XX(open_stream)                                                                                \
    XX(is_enabled_for)                                                                             \
    XX(wants_log)                                                                                  \
    XX(retried)                                                                                    \
    XX(omit)                                                                                       \
    XX(not_given)                                                                                  \
    XX(http_type)                                                                                  \
    XX(recipe)                                                                                     \
    XX(slots)                                                                                      \
    XX(labels)                                                                                     \
    XX(plan)

static int traverse_endpoint(PyObject *op, visitproc visit, void *arg) {
    endpoint *self = (endpoint *)op;

    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(self->st);
#define XX(name) Py_VISIT(self->name);
    ENDPOINT_REFERENCES(XX)
#undef XX
    return 0;
}

static int clear_endpoint(PyObject *op) {
    endpoint *self = (endpoint *)op;

    Py_CLEAR(self->dict);
    Py_CLEAR(self->recipe);
    self->peer_tag = 0;
    return 0;
}

static void dealloc_endpoint(PyObject *op) {
    endpoint *self = (endpoint *)op;
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;

    PyObject_GC_UnTrack(op);
#define XX(name) Py_CLEAR(self->name);
    ENDPOINT_REFERENCES(XX)
#undef XX
    Py_CLEAR(self->name);
    Py_CLEAR(self->level);
    Py_CLEAR(self->keys[0]);
    Py_CLEAR(self->keys[1]);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

static PyMemberDef endpoint_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(endpoint, vectorcall), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(endpoint, dict), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef endpoint_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot endpoint_slots[] = {
    {Py_tp_new, new_endpoint},           {Py_tp_dealloc, dealloc_endpoint},
    {Py_tp_traverse, traverse_endpoint}, {Py_tp_clear, clear_endpoint},
    {Py_tp_call, PyVectorcall_Call},     {Py_tp_descr_get, descr_get},
    {Py_tp_repr, repr_endpoint},         {Py_tp_members, endpoint_members},
    {Py_tp_getset, endpoint_getset},     {0, NULL},
};

static PyType_Spec endpoint_spec = {
    .name = "arshai_native._core.OpenAIEndpoint",
    .basicsize = sizeof(endpoint),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = endpoint_slots,
};

int arn_py_init_openai_endpoint(PyObject *module, arn_py_state *st) {
    PyObject *type = PyType_FromModuleAndSpec(module, &endpoint_spec, NULL);
    int r = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);

    (void)st;
    Py_XDECREF(type);
    return r;
}
