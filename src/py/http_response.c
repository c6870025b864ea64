/* http_response.c - HttpResponse: a reply, whole or as a stream. */
#include "py/http.h"

#include "py/http_vectors.h"
#include "py/model.h"

#include <structmember.h>

static arn_py_http_response *response_of(PyObject *op) {
    return (arn_py_http_response *)op;
}

PyObject *arn_py_http_response_new(arn_py_state *st, PyObject *client, arn_http_op *op) {
    PyTypeObject *type = st->http_response_type;
    arn_py_http_response *self = (arn_py_http_response *)type->tp_alloc(type, 0);

    if (self == NULL)
        return NULL;
    arn_op_ref(&op->base);
    self->st = arn_py_state_hold(st);
    self->op = op;
    self->client = Py_NewRef(client);
    return (PyObject *)self;
}

static void dealloc_response(PyObject *op) {
    arn_py_http_response *self = response_of(op);
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;

    PyObject_GC_UnTrack(op);
    if (self->op != NULL) {
        if (self->op->stream != NULL &&
            arn_http_stream_runtime(self->op->stream) == arn_runtime_current())
            arn_http_stream_abandon(self->op->stream);
        arn_op_unref(&self->op->base);
    }
    Py_CLEAR(self->client);
    Py_CLEAR(self->body);
    Py_CLEAR(self->headers);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

static int traverse_response(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(response_of(op)->st);
    Py_VISIT(response_of(op)->client);
    return 0;
}

static PyObject *repr_response(PyObject *op) {
    const arn_http_reply *reply = &response_of(op)->op->reply;

    return PyUnicode_FromFormat("<HttpResponse [%d %s]>", reply->status,
                                reply->head.data != NULL ? reply->head.data : "");
}

/* ---- what came ---- */

static PyObject *get_status(PyObject *op, void *closure) {
    (void)closure;
    return PyLong_FromLong(response_of(op)->op->reply.status);
}

static PyObject *get_reason(PyObject *op, void *closure) {
    const arn_buf *head = &response_of(op)->op->reply.head;

    (void)closure;
    return PyUnicode_DecodeLatin1(head->data != NULL ? head->data : "",
                                  head->data != NULL ? (Py_ssize_t)strlen(head->data) : 0, NULL);
}

static PyObject *get_version(PyObject *op, void *closure) {
    int version = response_of(op)->op->reply.version;

    (void)closure;
    if (version >= 20)
        return PyUnicode_FromFormat("HTTP/%d", version / 10);
    return PyUnicode_FromFormat("HTTP/%d.%d", version / 10, version % 10);
}

static PyObject *get_url(PyObject *op, void *closure) {
    const arn_http_op *http = response_of(op)->op;

    (void)closure;
    return PyUnicode_FromString(http->reply.url != NULL ? http->reply.url : http->url);
}

static PyObject *get_retries(PyObject *op, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(response_of(op)->op->reply.retries);
}

static PyObject *get_elapsed(PyObject *op, void *closure) {
    (void)closure;
    return PyFloat_FromDouble((double)response_of(op)->op->reply.elapsed_us / 1e6);
}

static PyObject *get_headers(PyObject *op, void *closure) {
    arn_py_http_response *self = response_of(op);
    const arn_buf *head = &self->op->reply.head;
    const char *end = head->data + head->len;
    const char *p = head->data;
    PyObject *list;

    (void)closure;
    if (self->headers != NULL)
        return Py_NewRef(self->headers);
    list = PyList_New(0);
    if (p != NULL)
        p += strlen(p) + 1;
    while (list != NULL && p != NULL && p < end) {
        const char *value = p + strlen(p) + 1;
        PyObject *pair = Py_BuildValue("(yy)", p, value);
        if (pair == NULL || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
        p = value + strlen(value) + 1;
    }
    self->headers = Py_XNewRef(list);
    return list;
}

static PyObject *get_body(PyObject *op, void *closure) {
    arn_py_http_response *self = response_of(op);
    const arn_buf *body = &self->op->reply.body;

    (void)closure;
    if (self->body == NULL)
        self->body = PyBytes_FromStringAndSize(body->data, (Py_ssize_t)body->len);
    return Py_XNewRef(self->body);
}

static PyObject *header_method(PyObject *op, PyObject *name) {
    const arn_http_reply *reply = &response_of(op)->op->reply;
    const char *value = NULL;
    PyObject *lower;

    if (!PyUnicode_Check(name)) {
        PyErr_SetString(PyExc_TypeError, "a header's name is a str");
        return NULL;
    }
    lower = PyObject_CallMethodNoArgs(name, response_of(op)->st->str_lower);
    if (lower == NULL)
        return NULL;
    if (PyUnicode_AsUTF8(lower) != NULL)
        value = arn_http_reply_header(reply, PyUnicode_AsUTF8(lower));
    Py_DECREF(lower);
    if (PyErr_Occurred())
        return NULL;
    if (value == NULL)
        Py_RETURN_NONE;
    return PyUnicode_DecodeLatin1(value, (Py_ssize_t)strlen(value), NULL);
}

/* ---- documents ---- */

PyObject *arn_py_http_raise_json(const char *what, size_t offset, const char *document,
                                 size_t len) {
    PyObject *module = PyImport_ImportModule("json");
    PyObject *class = module == NULL ? NULL : PyObject_GetAttrString(module, "JSONDecodeError");
    PyObject *text =
        class == NULL ? NULL : PyUnicode_DecodeUTF8(document, (Py_ssize_t)len, "replace");
    PyObject *before =
        text == NULL ? NULL : PyUnicode_DecodeUTF8(document, (Py_ssize_t)offset, "replace");
    PyObject *error = before == NULL ? NULL
                                     : PyObject_CallFunction(class, "sOn", what, text,
                                                             PyUnicode_GET_LENGTH(before));

    if (error != NULL)
        arn_py_raise(error);
    Py_XDECREF(module);
    Py_XDECREF(class);
    Py_XDECREF(text);
    Py_XDECREF(before);
    Py_XDECREF(error);
    return NULL;
}

/* The document's values: parsed by the io thread, or here on first use. NULL with an exception. */
static const arn_value *document_of(arn_py_http_response *self) {
    arn_http_op *op = self->op;
    arn_http_reply *reply = &op->reply;

    if (op->stream != NULL) {
        PyErr_SetString(PyExc_ValueError, "this response is a stream");
        return NULL;
    }
    if (reply->json == 1)
        arn_http_op_parse(op);
    if (reply->json == 0)
        return &op->base.value;
    if (reply->json == ARN_ENOMEM)
        PyErr_NoMemory();
    else
        arn_py_http_raise_json(reply->what, reply->offset, reply->body.data, reply->body.len);
    return NULL;
}

static PyObject *json_method(PyObject *op, PyObject *ignored) {
    arn_py_http_response *self = response_of(op);
    const arn_value *value = document_of(self);

    (void)ignored;
    if (value == NULL)
        return NULL;
    if (self->op->options.mode == ARN_HTTP_EMBEDDINGS) {
        /* The vectors in the tree are no longer what the server has sent. */
        PyObject *module = PyImport_ImportModule("json");
        PyObject *body = module == NULL ? NULL : get_body(op, NULL);
        PyObject *made = body == NULL ? NULL : PyObject_CallMethod(module, "loads", "O", body);
        Py_XDECREF(module);
        Py_XDECREF(body);
        return made;
    }
    return arn_py_value_to_python(value);
}

static PyObject *build_method(PyObject *op, PyObject *plan) {
    const arn_value *value = document_of(response_of(op));

    return value == NULL ? NULL : arn_py_model_build(response_of(op)->st, plan, value);
}

static PyObject *embeddings_method(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"as_numpy", NULL};
    arn_py_http_response *self = response_of(op);
    const arn_value *document;
    int as_numpy = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:embeddings", names, &as_numpy))
        return NULL;
    document = document_of(self);
    if (document == NULL)
        return NULL;
    if (self->op->options.mode != ARN_HTTP_EMBEDDINGS) {
        PyErr_SetString(PyExc_ValueError, "embeddings() is for responses in mode HTTP_EMBEDDINGS");
        return NULL;
    }
    return arn_py_embeddings_of(self->st, &self->op->base, document, as_numpy);
}

/* ---- streams ---- */

static arn_op *make_read(arn_py_request *req) {
    arn_http_stream *stream = response_of(req->client)->op->stream;
    arn_http_read *reader = arn_http_read_new(stream);

    if (reader == NULL)
        return (arn_op *)(void *)PyErr_NoMemory();
    req->rt = arn_http_stream_runtime(stream);
    return &reader->base;
}

arn_py_request *arn_py_http_read(arn_py_http_response *self, const arn_py_request_class *cls) {
    arn_py_request *req = arn_py_request_new(self->st, cls);

    if (req == NULL)
        return NULL;
    req->client = Py_NewRef((PyObject *)self);
    req->op = make_read(req);
    if (req->op == NULL)
        Py_CLEAR(req);
    return req;
}

size_t arn_py_http_submitting_read(arn_op *op) {
    (void)op;
    return 256;
}

PyObject *arn_py_http_text(arn_slice s) {
    return PyUnicode_DecodeUTF8(s.data, (Py_ssize_t)s.len, NULL);
}

PyObject *arn_py_http_text_or_none(arn_slice s) {
    if (s.len == 0)
        Py_RETURN_NONE;
    return arn_py_http_text(s);
}

PyObject *arn_py_http_raise_end(arn_py_http_response *self, const arn_http_batch *batch) {
    const arn_http_op *op = self->op;

    if (batch->failure == ARN_HTTP_NO_UTF8) { /* Python says where, and raises the SDK's error */
        PyObject *line =
            PyUnicode_DecodeUTF8(batch->bytes.data, (Py_ssize_t)batch->bytes.len, NULL);
        if (line == NULL)
            return NULL;
        Py_DECREF(line);
    }
    return arn_py_http_raise(self->st, batch->failure, batch->message, op->method, op->url);
}

static PyObject *id_of(const arn_http_event *event, PyObject *last) {
    if (event->id.data == NULL)
        Py_RETURN_NONE;
    if (last != NULL && event->id.data == event[-1].id.data)
        return Py_NewRef(PyTuple_GET_ITEM(last, 2));
    return arn_py_http_text(event->id);
}

PyObject *arn_py_http_event(const arn_http_event *event, PyObject *last) {
    PyObject *name = arn_py_http_text_or_none(event->event);
    PyObject *data = name == NULL ? NULL : arn_py_http_text(event->data);
    PyObject *id = data == NULL ? NULL : id_of(event, last);
    PyObject *retry = id == NULL              ? NULL
                      : event->retry.len == 0 ? Py_NewRef(Py_None)
                                              : PyLong_FromString(event->retry.data, NULL, 10);
    PyObject *made = retry == NULL ? NULL : PyTuple_Pack(4, name, data, id, retry);

    Py_XDECREF(name);
    Py_XDECREF(data);
    Py_XDECREF(id);
    Py_XDECREF(retry);
    return made;
}

/* A batch as Python sees it; takes nothing over. An end without anything else is b"" or []. */
static PyObject *from_batch(arn_py_http_response *self, const arn_http_batch *batch) {
    int is_events = self->op->options.mode == ARN_HTTP_EVENTS;
    PyObject *list;
    size_t i;

    if (batch->failure != ARN_HTTP_OK && (is_events ? batch->count : batch->bytes.len) == 0)
        return arn_py_http_raise_end(self, batch);
    if (!is_events)
        return PyBytes_FromStringAndSize(batch->bytes.data, (Py_ssize_t)batch->bytes.len);
    list = PyList_New((Py_ssize_t)batch->count);
    for (i = 0; list != NULL && i < batch->count; i++) {
        PyObject *last = i > 0 ? PyList_GET_ITEM(list, (Py_ssize_t)i - 1) : NULL;
        PyObject *event = arn_py_http_event(&batch->events[i], last);
        if (event == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, event);
    }
    return list;
}

static void forget_data(arn_http_batch *batch) {
    batch->count = 0;
    if (batch->failure != ARN_HTTP_NO_UTF8)
        arn_buf_free(&batch->bytes);
}

/* What a batch had beside its last data, for the next read: its end. */
static void keep_end(arn_py_http_response *self, arn_http_batch **batch) {
    arn_http_batch *b = *batch;

    if (!b->is_end || self->op->batch != NULL)
        return;
    forget_data(b);
    self->op->batch = b;
    *batch = NULL;
}

static PyObject *convert_read(arn_py_request *req, arn_op *base, double *again) {
    arn_py_http_response *self = response_of(req->client);
    arn_http_batch *batch;
    PyObject *made;

    if (base->status == ARN_EBUSY) {
        PyErr_SetString(PyExc_RuntimeError, "the stream is being read by another task already");
        return NULL;
    }
    if (base->status != ARN_OK)
        return arn_py_http_raise(self->st,
                                 base->status == ARN_ENOMEM ? ARN_HTTP_MEMORY : ARN_HTTP_CLOSED,
                                 base->message, self->op->method, self->op->url);
    batch = arn_http_stream_take(self->op->stream);
    if (batch == NULL) { /* another reader's */
        *again = 0;
        Py_RETURN_NONE;
    }
    made = from_batch(self, batch);
    keep_end(self, &batch);
    arn_http_batch_free(batch);
    return made;
}

/* A batch that is there is given at once, but not before it is awaited: until then the request may
 * be dropped. */
static int read_at_once(arn_py_request *req, PyObject **result) {
    arn_py_http_response *self = response_of(req->client);
    arn_http_batch *batch = self->op->batch;

    if (batch == NULL)
        return 0;
    self->op->batch = NULL;
    *result = from_batch(self, batch);
    keep_end(self, &batch);
    arn_http_batch_free(batch);
    return 1;
}

static const arn_py_request_class read_class = {.qualname = "HttpResponse.read",
                                                .make_op = make_read,
                                                .convert = convert_read,
                                                .submitting = arn_py_http_submitting_read,
                                                .at_once = read_at_once};

static PyObject *read_next(arn_py_http_response *self) {
    arn_py_request *req = arn_py_request_new(self->st, &read_class);

    if (req != NULL)
        req->client = Py_NewRef((PyObject *)self);
    return (PyObject *)req;
}

static PyObject *read_method(PyObject *op, PyObject *ignored) {
    arn_py_http_response *self = response_of(op);

    (void)ignored;
    if (self->op->options.mode != ARN_HTTP_STREAM || self->op->stream == NULL) {
        PyErr_SetString(PyExc_ValueError, "read() is for responses in mode HTTP_STREAM");
        return NULL;
    }
    return read_next(self);
}

static PyObject *read_events_method(PyObject *op, PyObject *ignored) {
    arn_py_http_response *self = response_of(op);

    (void)ignored;
    if (self->op->options.mode != ARN_HTTP_EVENTS || self->op->stream == NULL) {
        PyErr_SetString(PyExc_ValueError, "read_events() is for responses in mode HTTP_EVENTS with "
                                          "a status below 400");
        return NULL;
    }
    return read_next(self);
}

static PyObject *close_stream(PyObject *op, PyObject *ignored) {
    arn_py_http_response *self = response_of(op);
    arn_http_batch *batch = self->op->batch;

    (void)ignored;
    if (batch != NULL && (batch->count > 0 || batch->bytes.len > 0)) {
        batch->is_end = 1; /* later reads see nothing else */
        batch->failure = ARN_HTTP_CLOSED;
        strcpy(batch->message, "the stream was closed");
        forget_data(batch);
    }
    if (self->op->stream != NULL &&
        arn_http_stream_runtime(self->op->stream) == arn_runtime_current())
        arn_http_stream_abandon(self->op->stream);
    Py_RETURN_NONE;
}

/* ---- the type ---- */

PyDoc_STRVAR(response_doc, "A reply to HttpClient.request().");
PyDoc_STRVAR(header_doc, "header(name)\n--\n\nThe value of the last header of that name, or None.");
PyDoc_STRVAR(json_doc, "json()\n--\n\nThe document, as json.loads() would give it.");
PyDoc_STRVAR(build_doc, "build(plan)\n--\n\nThe document as an object of the plan's type.");
PyDoc_STRVAR(embeddings_doc,
             "embeddings(as_numpy=False)\n--\n\n"
             "(vectors, rest) of a reply in the shape of OpenAI's embeddings, vectors in the\n"
             "order of their index: lists of float, or float32 arrays.");
PyDoc_STRVAR(read_doc, "read()\n--\n\n"
                       "Return an awaitable of the bytes that have come; b'' at the end.");
PyDoc_STRVAR(read_events_doc, "read_events()\n--\n\n"
                              "Return an awaitable of the list of events that have come, each\n"
                              "(event, data, id, retry); [] at the end.");
PyDoc_STRVAR(close_stream_doc, "close_stream()\n--\n\nGive up the rest of the stream.");

static PyMethodDef response_methods[] = {
    {"header", header_method, METH_O, header_doc},
    {"json", json_method, METH_NOARGS, json_doc},
    {"build", build_method, METH_O, build_doc},
    {"embeddings", (PyCFunction)(void (*)(void))embeddings_method, METH_VARARGS | METH_KEYWORDS,
     embeddings_doc},
    {"read", read_method, METH_NOARGS, read_doc},
    {"read_events", read_events_method, METH_NOARGS, read_events_doc},
    {"close_stream", close_stream, METH_NOARGS, close_stream_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef response_getset[] = {
    {"status", get_status, NULL, "The status code.", NULL},
    {"reason", get_reason, NULL, "The reason phrase.", NULL},
    {"http_version", get_version, NULL, "'HTTP/1.1' or 'HTTP/2'.", NULL},
    {"url", get_url, NULL, "Where the reply came from, after redirects.", NULL},
    {"headers", get_headers, NULL, "[(name, value), ...] as bytes, names in lower case.", NULL},
    {"retries", get_retries, NULL, "How many attempts there were before.", NULL},
    {"elapsed", get_elapsed, NULL, "Seconds from the first attempt to the reply.", NULL},
    {"body", get_body, NULL, "The body; empty for a stream.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot response_slots[] = {
    {Py_tp_doc, (void *)response_doc},
    {Py_tp_dealloc, dealloc_response},
    {Py_tp_traverse, traverse_response},
    {Py_tp_repr, repr_response},
    {Py_tp_methods, response_methods},
    {Py_tp_getset, response_getset},
    {0, NULL},
};

static PyType_Spec response_spec = {
    .name = "arshai_native._core.HttpResponse",
    .basicsize = sizeof(arn_py_http_response),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = response_slots,
};

int arn_py_init_http_response(PyObject *module, arn_py_state *st) {
    st->http_response_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &response_spec, NULL);
    if (st->http_response_type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "HttpResponse", (PyObject *)st->http_response_type);
}
