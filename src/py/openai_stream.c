/* openai_stream.c - OpenAIStream: the items of a streamed reply, out of the batch in hand.
 *
 * The io thread splits the stream into events and parses them; a batch is all that has come since
 * the last one was taken. As long as a batch has items, an item costs no trip to the event loop.
 */
#include "py/openai.h"

#include "py/model.h"
#include "py/ready.h"

typedef struct stream {
    PyObject_HEAD
    arn_py_state *st;   /* NULL, like the response: __init__ was not called */
    PyObject *response; /* HttpResponse */
    PyObject *plan;     /* of an item */
    arn_http_batch *batch;
    size_t next; /* event of it */
    int is_over;
} stream;

static arn_http_op *op_of(const stream *self) {
    return ((arn_py_http_response *)self->response)->op;
}

static void drop_batch(stream *self) {
    arn_http_batch_free(self->batch);
    self->batch = NULL;
    self->next = 0;
}

static void give_up(stream *self) {
    arn_http_stream *s = self->response == NULL ? NULL : op_of(self)->stream;

    self->is_over = 1;
    if (s != NULL && arn_http_stream_runtime(s) == arn_runtime_current())
        arn_http_stream_abandon(s);
}

/* "[DONE]": what follows is nobody's, but it may come, so that the connection can be used again. */
static void finish(stream *self) {
    arn_http_stream *s = op_of(self)->stream;

    self->is_over = 1;
    if (!self->batch->is_end && arn_http_stream_runtime(s) == arn_runtime_current())
        arn_http_stream_finish(s);
}

/* ---- items ---- */

static int begins(arn_slice s, const char *with, size_t len) {
    return s.len >= len && memcmp(s.data, with, len) == 0;
}

/* The item of an event as the SDK makes it: raises, too. */
static PyObject *odd_item(stream *self, const arn_http_event *event) {
    PyObject *name = arn_py_http_text_or_none(event->event);
    PyObject *data = name == NULL ? NULL : arn_py_http_text(event->data);
    PyObject *item =
        data == NULL
            ? NULL
            : PyObject_CallMethodObjArgs((PyObject *)self, self->st->str_item_of, name, data, NULL);

    Py_XDECREF(name);
    Py_XDECREF(data);
    return item;
}

static PyObject *item_of(stream *self, const arn_http_event *event) {
    if (event->json != 0 || event->value.kind != ARN_MAP || self->plan == Py_None ||
        begins(event->event, "thread.", 7) || arn_value_member(&event->value, "error") != NULL)
        return odd_item(self, event);
    return arn_py_model_build(self->st, self->plan, &event->value);
}

/* Makes the SDK's of an HttpError that is set. Returns NULL. */
static PyObject *raise_failure(stream *self) {
    PyObject *error, *raised;

    if (!PyErr_ExceptionMatches(self->st->http_error))
        return NULL;
    error = arn_py_take_error();
    raised = PyObject_CallMethodOneArg((PyObject *)self, self->st->str_failure_of, error);
    Py_DECREF(error);
    return arn_py_raise_returned(raised, "_failure_of");
}

/* The batch has no more events: NULL with nothing set if another is to be read. */
static PyObject *end_of_batch(stream *self) {
    arn_http_batch *batch = self->batch;

    if (!batch->is_end) {
        drop_batch(self);
        return NULL;
    }
    self->is_over = 1;
    if (batch->failure == ARN_HTTP_OK) {
        PyErr_SetNone(PyExc_StopAsyncIteration);
    } else {
        arn_py_http_raise_end((arn_py_http_response *)self->response, batch);
        raise_failure(self);
    }
    drop_batch(self);
    return NULL;
}

/* The next item; NULL with an exception set, StopAsyncIteration at the end; or NULL without one:
 * the next batch is to be read. */
static PyObject *next_item(stream *self) {
    for (;;) {
        const arn_http_event *event;
        PyObject *item;

        if (self->is_over) {
            PyErr_SetNone(PyExc_StopAsyncIteration);
            return NULL;
        }
        if (self->batch == NULL)
            return NULL;
        if (self->next == self->batch->count)
            return end_of_batch(self);
        event = &self->batch->events[self->next++];
        if (begins(event->data, "[DONE]", 6)) {
            finish(self);
            continue;
        }
        item = item_of(self, event);
        if (item == NULL && !self->is_over)
            give_up(self);
        return item;
    }
}

/* ---- reading ---- */

/* A read op has ended: puts the batch that is ready, if it still is, into the stream's hand. 0, or
 * -1 with an exception set. */
static int take_batch(stream *self, arn_op *base) {
    arn_http_batch *batch;

    if (base->status == ARN_EBUSY) {
        PyErr_SetString(PyExc_RuntimeError, "the stream is being read by another task already");
        return -1;
    }
    if (base->status != ARN_OK) {
        self->is_over = 1;
        arn_py_http_raise(self->st, base->status == ARN_ENOMEM ? ARN_HTTP_MEMORY : ARN_HTTP_CLOSED,
                          base->message != NULL ? base->message : "the stream was closed",
                          op_of(self)->method, op_of(self)->url);
        raise_failure(self);
        return -1;
    }
    batch = arn_http_stream_take(op_of(self)->stream);
    if (batch != NULL) { /* else another reader has it */
        drop_batch(self);
        self->batch = batch;
    }
    return 0;
}

static arn_op *make_read(arn_py_request *req) {
    stream *self = (stream *)req->args;
    arn_http_read *reader = arn_http_read_new(op_of(self)->stream);

    if (reader == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    req->op = &reader->base;
    req->rt = arn_http_stream_runtime(op_of(self)->stream);
    return req->op;
}

static PyObject *convert_item(arn_py_request *req, arn_op *base, double *again);
static PyObject *convert_events(arn_py_request *req, arn_op *base, double *again);

static const arn_py_request_class item_class = {.qualname = "AsyncStream.__anext__",
                                                .make_op = make_read,
                                                .convert = convert_item,
                                                .submitting = arn_py_http_submitting_read};
static const arn_py_request_class events_class = {.qualname = "AsyncStream._iter_events",
                                                  .make_op = make_read,
                                                  .convert = convert_events,
                                                  .submitting = arn_py_http_submitting_read};

static arn_py_request *new_read(stream *self, const arn_py_request_class *cls) {
    arn_py_request *req = arn_py_http_read((arn_py_http_response *)self->response, cls);

    if (req != NULL)
        req->args = Py_NewRef((PyObject *)self);
    return req;
}

static PyObject *convert_item(arn_py_request *req, arn_op *base, double *again) {
    stream *self = (stream *)req->args;

    PyObject *item;

    if (take_batch(self, base) < 0)
        return NULL;
    item = next_item(self);
    if (item != NULL || PyErr_Occurred())
        return item;
    *again = 0;
    Py_RETURN_NONE;
}

static int check(stream *self) {
    if (self->response != NULL)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "OpenAIStream.__init__ was not called");
    return -1;
}

static PyObject *anext_slot(PyObject *op) {
    stream *self = (stream *)op;
    PyObject *item;

    if (check(self) < 0)
        return NULL;
    item = next_item(self);
    if (item != NULL || PyErr_Occurred())
        return arn_py_ready(self->st, item);
    return (PyObject *)new_read(self, &item_class);
}

/* ---- events as they came ---- */

/* The batch's events as a list, [] at the end; NULL with an exception set, or without one. */
static PyObject *next_events(stream *self) {
    PyObject *list;

    if (self->is_over)
        return PyList_New(0);
    if (self->batch == NULL)
        return NULL;
    if (self->next == self->batch->count) {
        list = end_of_batch(self);
        if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_StopAsyncIteration)) {
            PyErr_Clear();
            list = PyList_New(0);
        }
        return list;
    }
    list = PyList_New(0);
    while (list != NULL && self->next < self->batch->count) {
        Py_ssize_t made = PyList_GET_SIZE(list);
        PyObject *event = arn_py_http_event(&self->batch->events[self->next++],
                                            made > 0 ? PyList_GET_ITEM(list, made - 1) : NULL);
        if (event == NULL || PyList_Append(list, event) < 0)
            Py_CLEAR(list);
        Py_XDECREF(event);
    }
    return list;
}

static PyObject *convert_events(arn_py_request *req, arn_op *base, double *again) {
    stream *self = (stream *)req->args;
    PyObject *list;

    if (take_batch(self, base) < 0)
        return NULL;
    list = next_events(self);
    if (list != NULL || PyErr_Occurred())
        return list;
    *again = 0;
    Py_RETURN_NONE;
}

static PyObject *read_events_method(PyObject *op, PyObject *ignored) {
    stream *self = (stream *)op;
    PyObject *list;

    (void)ignored;
    if (check(self) < 0)
        return NULL;
    list = next_events(self);
    if (list != NULL || PyErr_Occurred())
        return arn_py_ready(self->st, list);
    return (PyObject *)new_read(self, &events_class);
}

static PyObject *close_method(PyObject *op, PyObject *ignored) {
    (void)ignored;
    give_up((stream *)op);
    drop_batch((stream *)op);
    Py_RETURN_NONE;
}

/* ---- the type ---- */

static int init_stream(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"response", "plan", NULL};
    arn_py_state *st = arn_py_state_of_type(Py_TYPE(op));
    stream *self = (stream *)op;
    PyObject *response, *plan;

    if (st == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!O:OpenAIStream", names,
                                                   st->http_response_type, &response, &plan))
        return -1;
    if (self->response != NULL || ((arn_py_http_response *)response)->op->stream == NULL) {
        PyErr_SetString(PyExc_ValueError,
                        "OpenAIStream takes an open response in mode HTTP_EVENTS");
        return -1;
    }
    self->st = arn_py_state_hold(st);
    self->response = Py_NewRef(response);
    self->plan = Py_NewRef(plan);
    self->batch = op_of(self)->batch;
    op_of(self)->batch = NULL;
    return 0;
}

static int traverse_stream(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(((stream *)op)->st);
    Py_VISIT(((stream *)op)->response);
    Py_VISIT(((stream *)op)->plan);
    return 0;
}

static void dealloc_stream(PyObject *op) {
    stream *self = (stream *)op;
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;

    PyObject_GC_UnTrack(op);
    drop_batch(self);
    Py_CLEAR(self->response); /* which gives up the rest */
    Py_CLEAR(self->plan);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

PyDoc_STRVAR(stream_doc, "OpenAIStream(response, plan)\n--\n\n"
                         "The items of a response in mode HTTP_EVENTS. A subclass has\n"
                         "_item_of(event, data) for the unusual ones and _failure_of(HttpError).");
PyDoc_STRVAR(read_doc, "_read_events()\n--\n\n"
                       "Await the next events as tuples (event, data, id, retry), [] at the end.");
PyDoc_STRVAR(close_doc, "_give_up()\n--\n\nClose the connection unless the reply is complete.");

static PyMethodDef stream_methods[] = {
    {"_read_events", read_events_method, METH_NOARGS, read_doc},
    {"_give_up", close_method, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, (void *)stream_doc},  {Py_tp_init, init_stream},
    {Py_tp_dealloc, dealloc_stream},  {Py_tp_traverse, traverse_stream},
    {Py_am_aiter, PyObject_SelfIter}, {Py_am_anext, anext_slot},
    {Py_tp_methods, stream_methods},  {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "arshai_native._core.OpenAIStream",
    .basicsize = sizeof(stream),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = stream_slots,
};

int arn_py_init_openai_stream(PyObject *module, arn_py_state *st) {
    PyObject *type = PyType_FromModuleAndSpec(module, &stream_spec, NULL);
    int r = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);

    (void)st;
    Py_XDECREF(type);
    return r;
}
