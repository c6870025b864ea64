/* grpc.c - GrpcChannel. */
#include "py/grpc.h"

#include "py/arguments.h"
#include "py/codec.h"

#include <structmember.h>

/* bytes messages from this size on are not copied. */
#define MESSAGE_REF_MIN (32u * 1024u)

/* What an op weighs beside its message when the port decides to send off what it gathers. */
#define OP_WEIGHT 512u

/* Methods whose headers are kept. No service has so many: then the names are made up as they go. */
#define HEADS_MAX 1024

#define HEAD_CAPSULE "arshai_native._core.grpc_head"

/* ---- the channel ---- */

/* Makes config.tls, unless there is one of this process: in a forked child the parent's may be
 * locked for ever. 0, or -1 with an exception set. */
static int make_tls(arn_py_grpc_channel *self) {
    unsigned generation = arn_runtime_generation();
    char why[200];

    if (self->config.tls != NULL && self->tls_generation == generation)
        return 0;
    self->tls_generation = generation;
    self->config.tls = arn_tls_new(&self->tls, why, sizeof(why));
    if (self->config.tls != NULL)
        return 0;
    PyErr_Format(PyExc_ValueError, "tls: %s", why);
    return -1;
}

static int keep_pem(PyObject *strings, PyObject *o, const char *name, arn_slice *out) {
    PyObject *bytes;
    int r;

    if (o == NULL || o == Py_None)
        return 0;
    if (!PyBytes_Check(o)) {
        PyErr_Format(PyExc_TypeError, "tls['%s'] must be bytes in PEM, not %.100s", name,
                     Py_TYPE(o)->tp_name);
        return -1;
    }
    bytes = o;
    r = PyList_Append(strings, bytes);
    out->data = PyBytes_AS_STRING(bytes);
    out->len = (size_t)PyBytes_GET_SIZE(bytes);
    return r;
}

/* tls=dict(ca=..., cert=..., key=..., server_name=..., verify=True) */
static int take_tls(arn_py_grpc_channel *self, PyObject *strings, PyObject *options) {
    static const char *const names[] = {"ca", "cert", "key", "server_name", "verify"};
    arn_tls_config *tls = &self->tls;
    PyObject *values[5];
    Py_ssize_t known = 0;
    int i;

    if (!PyDict_Check(options)) {
        PyErr_SetString(PyExc_TypeError, "tls must be a dict or None");
        return -1;
    }
    for (i = 0; i < 5; i++) {
        values[i] = PyDict_GetItemString(options, names[i]);
        known += values[i] != NULL;
    }
    if (known != PyDict_GET_SIZE(options)) {
        PyErr_SetString(PyExc_ValueError,
                        "tls takes ca, cert, key, server_name and verify, nothing else");
        return -1;
    }
    tls->alpn = "h2";
    tls->verify = values[4] == NULL ? 1 : PyObject_IsTrue(values[4]);
    if (tls->verify < 0 || keep_pem(strings, values[0], "ca", &tls->ca) < 0 ||
        keep_pem(strings, values[1], "cert", &tls->cert) < 0 ||
        keep_pem(strings, values[2], "key", &tls->key) < 0 ||
        arn_py_keep_string(strings, values[3], "tls['server_name']", &tls->server_name) < 0)
        return -1;
    return make_tls(self);
}

static void drop_tls(arn_py_grpc_channel *self) {
    if (self->tls_generation == arn_runtime_generation())
        arn_tls_unref(self->config.tls);
    self->config.tls = NULL;
}

/* The core's channel, made on first use and after a fork. Borrowed; NULL with an exception set. */
static arn_grpc_channel *core_of(arn_py_grpc_channel *self) {
    arn_runtime *rt;

    if (self->channel != NULL && arn_grpc_channel_runtime(self->channel) == arn_runtime_current())
        return self->channel;
    rt = arn_py_runtime();
    if (rt == NULL)
        return NULL;
    /* As in arn_py_http_core(): the parent process's is left alone, a stopped one is let go. */
    if (self->channel != NULL && self->generation == arn_runtime_generation())
        arn_grpc_channel_release(self->channel);
    self->channel = NULL;
    if (self->tls.alpn != NULL && make_tls(self) < 0)
        return NULL;
    self->generation = arn_runtime_generation();
    self->channel = arn_grpc_channel_new(rt, &self->config);
    if (self->channel == NULL)
        PyErr_NoMemory();
    return self->channel;
}

static void release_core(arn_py_grpc_channel *self) {
    if (self->channel != NULL && self->generation == arn_runtime_generation())
        arn_grpc_channel_release(self->channel);
    self->channel = NULL;
}

static int check_address(const arn_grpc_config *c) {
    if ((c->host == NULL) == (c->path == NULL)) {
        PyErr_SetString(PyExc_ValueError, "a channel needs host and port, or the path of a unix "
                                          "socket");
        return -1;
    }
    if (c->host != NULL && (c->port < 1 || c->port > 65535)) {
        PyErr_SetString(PyExc_ValueError, "port must be between 1 and 65535");
        return -1;
    }
    return 0;
}

static int check_text(const char *text, const char *name) {
    if (text != NULL && arn_grpc_metadata_is_bad("x", 1, text, strlen(text)) != 0) {
        PyErr_Format(PyExc_ValueError, "%s must be visible ASCII", name);
        return -1;
    }
    return 0;
}

static int init_channel(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"host",
                            "port",
                            "path",
                            "authority",
                            "tls",
                            "metadata",
                            "user_agent",
                            "max_receive",
                            "connect_timeout",
                            "keepalive",
                            "keepalive_timeout",
                            "max_connections",
                            NULL};
    arn_py_grpc_channel *self = (arn_py_grpc_channel *)op;
    arn_grpc_config c = {.max_receive = -1,
                         .connect_ms = 20000,
                         .keepalive_ms = 10000,
                         .keepalive_timeout_ms = 5000,
                         .idle_ms = ARN_GRPC_IDLE_MS};
    PyObject *host = NULL, *path = NULL, *authority = NULL, *tls = NULL, *metadata = NULL;
    PyObject *user_agent = NULL, *connect = NULL, *keepalive = NULL, *keepalive_timeout = NULL;
    PyObject *strings, *all;
    long long max_receive = -1;
    int max_connections = 4;
    arn_py_grpc_pairs p;
    int r;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OiO$OOOOLOOOi:GrpcChannel", names, &host,
                                     &c.port, &path, &authority, &tls, &metadata, &user_agent,
                                     &max_receive, &connect, &keepalive, &keepalive_timeout,
                                     &max_connections))
        return -1;
    if (self->strings != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "GrpcChannel.__init__ may be called once");
        return -1;
    }
    if (max_receive < -1 || max_connections < 1) {
        PyErr_SetString(PyExc_ValueError, "max_receive must be >= -1 and max_connections >= 1");
        return -1;
    }
    if ((connect != NULL && arn_py_to_ms(connect, "connect_timeout", &c.connect_ms) < 0) ||
        (keepalive != NULL && arn_py_to_ms(keepalive, "keepalive", &c.keepalive_ms) < 0) ||
        (keepalive_timeout != NULL &&
         arn_py_to_ms(keepalive_timeout, "keepalive_timeout", &c.keepalive_timeout_ms) < 0))
        return -1;
    c.max_receive = max_receive;
    c.max_connections = (unsigned)max_connections;
    if (arn_py_grpc_take_pairs(&p, metadata) < 0)
        return -1;
    all = p.owner != NULL ? Py_NewRef(p.owner) : PyTuple_New(0);
    arn_py_grpc_clear_pairs(&p);
    strings = all == NULL ? NULL : PyList_New(0);
    r = strings == NULL ? -1 : 0;
    if (r == 0 && (arn_py_keep_string(strings, host, "host", &c.host) < 0 ||
                   arn_py_keep_string(strings, path, "path", &c.path) < 0 ||
                   arn_py_keep_string(strings, authority, "authority", &c.authority) < 0 ||
                   arn_py_keep_string(strings, user_agent, "user_agent", &c.user_agent) < 0 ||
                   check_address(&c) < 0 || check_text(c.authority, "authority") < 0 ||
                   check_text(c.user_agent, "user_agent") < 0))
        r = -1;
    if (r == 0 && tls != NULL && tls != Py_None)
        r = take_tls(self, strings, tls);
    if (r == 0)
        self->heads = PyDict_New();
    if (r < 0 || self->heads == NULL) {
        drop_tls(self);
        Py_XDECREF(strings);
        Py_XDECREF(all);
        return -1;
    }
    if (c.user_agent == NULL)
        c.user_agent = "grpc-c-arshai-native";
    c.tls = self->config.tls;
    self->config = c;
    self->metadata = all;
    self->strings = strings;
    return 0;
}

static PyObject *new_channel(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    arn_py_state *st = arn_py_state_of_type(type);
    arn_py_grpc_channel *self = st == NULL ? NULL : (arn_py_grpc_channel *)type->tp_alloc(type, 0);

    (void)args, (void)kwargs;
    if (self != NULL)
        self->st = arn_py_state_hold(st);
    return (PyObject *)self;
}

static void dealloc_channel(PyObject *op) {
    arn_py_grpc_channel *self = (arn_py_grpc_channel *)op;
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;

    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    release_core(self);
    drop_tls(self);
    Py_CLEAR(self->heads);
    Py_CLEAR(self->metadata);
    Py_CLEAR(self->strings);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

static int traverse_channel(PyObject *op, visitproc visit, void *arg) {
    arn_py_grpc_channel *self = (arn_py_grpc_channel *)op;

    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(self->st);
    Py_VISIT(self->strings);
    Py_VISIT(self->metadata);
    Py_VISIT(self->heads);
    return 0;
}

static PyObject *repr_channel(PyObject *op) {
    const arn_py_grpc_channel *self = (arn_py_grpc_channel *)op;
    const arn_grpc_config *c = &self->config;
    const char *closed = self->is_closed ? " closed" : "";
    const char *tls = c->tls != NULL ? " tls" : "";

    if (c->host != NULL)
        return PyUnicode_FromFormat("<GrpcChannel %s:%d%s%s>", c->host, c->port, tls, closed);
    return PyUnicode_FromFormat("<GrpcChannel %s%s%s>", c->path != NULL ? c->path : "", tls,
                                closed);
}

static PyObject *close_channel(PyObject *op, PyObject *ignored) {
    arn_py_grpc_channel *self = (arn_py_grpc_channel *)op;

    (void)ignored;
    self->is_closed = 1;
    arn_py_flush_ports(self->st); /* what was asked for before */
    release_core(self);
    Py_RETURN_NONE;
}

/* ---- calls ---- */

static void free_head(PyObject *capsule) {
    arn_grpc_head_unref(PyCapsule_GetPointer(capsule, HEAD_CAPSULE));
}

arn_grpc_head *arn_py_grpc_head(arn_py_grpc_channel *self, PyObject *path, PyObject *metadata) {
    arn_grpc_head *head;
    const char *text;
    Py_ssize_t len;
    arn_py_grpc_pairs p;

    if (!PyUnicode_Check(path)) {
        PyErr_Format(PyExc_TypeError, "the method's path must be a str, not %.100s",
                     Py_TYPE(path)->tp_name);
        return NULL;
    }
    text = PyUnicode_AsUTF8AndSize(path, &len);
    if (text == NULL)
        return NULL;
    if (len == 0 || text[0] != '/' || memchr(text, ' ', (size_t)len) != NULL ||
        arn_grpc_metadata_is_bad("x", 1, text, (size_t)len) != 0) {
        PyErr_SetString(PyExc_ValueError,
                        "the method's path must look like /package.Service/Method");
        return NULL;
    }
    if (arn_py_grpc_take_pairs(&p, metadata) < 0)
        return NULL;
    head = arn_grpc_head_new(&self->config, text, (size_t)len, p.slices, p.count);
    arn_py_grpc_clear_pairs(&p);
    if (head == NULL)
        PyErr_NoMemory();
    return head;
}

static arn_grpc_head *make_head(arn_py_grpc_channel *self, PyObject *path) {
    arn_grpc_head *head = arn_py_grpc_head(self, path, self->metadata);
    PyObject *capsule;

    if (head == NULL)
        return NULL;
    if (PyDict_GET_SIZE(self->heads) >= HEADS_MAX)
        PyDict_Clear(self->heads);
    capsule = PyCapsule_New(head, HEAD_CAPSULE, free_head);
    if (capsule == NULL) {
        arn_grpc_head_unref(head);
        return NULL;
    }
    if (PyDict_SetItem(self->heads, path, capsule) < 0)
        head = NULL;
    Py_DECREF(capsule); /* the dict holds it */
    return head;
}

/* Borrowed, until the next call of this function; NULL with an exception set. */
static arn_grpc_head *head_of(arn_py_grpc_channel *self, PyObject *path) {
    PyObject *capsule = PyDict_GetItemWithError(self->heads, path);

    if (capsule != NULL)
        return PyCapsule_GetPointer(capsule, HEAD_CAPSULE);
    return PyErr_Occurred() ? NULL : make_head(self, path);
}

static int check_open(const arn_py_grpc_channel *self) {
    if (self->strings == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "GrpcChannel.__init__ was not called");
        return -1;
    }
    if (self->is_closed) {
        PyErr_SetString(PyExc_ValueError, "the channel has been closed");
        return -1;
    }
    return 0;
}

arn_grpc_op *arn_py_grpc_op_of_head(arn_py_grpc_channel *self, arn_grpc_head *head,
                                    const arn_slice *metadata, size_t count) {
    arn_grpc_channel *channel = check_open(self) < 0 ? NULL : core_of(self);
    arn_grpc_op *op;

    if (channel == NULL)
        return NULL;
    op = arn_grpc_op_new(channel, head, metadata, count);
    if (op == NULL)
        PyErr_NoMemory();
    return op;
}

arn_grpc_op *arn_py_grpc_op(arn_py_grpc_channel *self, PyObject *path,
                            const arn_py_grpc_options *options) {
    arn_grpc_head *head = NULL;
    arn_grpc_op *op = NULL;
    uint64_t timeout_ms;
    arn_py_grpc_pairs p;

    if (check_open(self) < 0 || arn_py_to_ms(options->timeout, "timeout", &timeout_ms) < 0 ||
        arn_py_grpc_take_pairs(&p, options->metadata) < 0)
        return NULL;
    /* Reading the arguments may run any code, which may have closed the channel: only what comes
     * now runs none. */
    if (path == NULL || (head = head_of(self, path)) != NULL)
        op = arn_py_grpc_op_of_head(self, head, p.slices, p.count);
    arn_py_grpc_clear_pairs(&p);
    if (op == NULL)
        return NULL;
    op->base.timeout_ms = timeout_ms;
    op->waits = options->waits;
    return op;
}

static int copy_message(arn_grpc_op *op, const char *data, size_t len) {
    op->message.data = arn_arena_copy(&op->base.arena, data, len);
    op->message.len = len;
    if (op->message.data != NULL)
        return 0;
    PyErr_NoMemory();
    return -1;
}

int arn_py_grpc_set_message(arn_grpc_op *op, PyObject *message) {
    Py_buffer view;
    int r;

    if (PyBytes_CheckExact(message) && (size_t)PyBytes_GET_SIZE(message) < MESSAGE_REF_MIN)
        return copy_message(op, PyBytes_AS_STRING(message), (size_t)PyBytes_GET_SIZE(message));
    if (PyObject_GetBuffer(message, &view, PyBUF_SIMPLE) < 0)
        return -1;
    if ((uint64_t)view.len > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a message of gRPC has at most 4 GB");
        r = -1;
    } else if (PyBytes_CheckExact(message)) {
        op->message.data = view.buf;
        op->message.len = (size_t)view.len;
        op->message_owner = Py_NewRef(message);
        op->release = arn_py_release_anywhere;
        r = 0;
    } else {
        r = copy_message(op, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    return r;
}

arn_py_request *arn_py_grpc_request(arn_py_grpc_channel *self, const arn_py_request_class *cls,
                                    arn_grpc_op *op) {
    arn_py_request *req = arn_py_request_new(self->st, cls);

    if (req == NULL) {
        arn_op_unref(&op->base);
        return NULL;
    }
    req->client = Py_NewRef((PyObject *)self);
    req->op = &op->base;
    req->rt = arn_grpc_channel_runtime(op->channel);
    return req;
}

size_t arn_py_grpc_submitting(arn_op *base) {
    return ARN_CONTAINER_OF(base, arn_grpc_op, base)->message.len + OP_WEIGHT;
}

static PyObject *result_of(arn_py_state *st, arn_grpc_op *op) {
    arn_slice message;

    if (op->base.status != ARN_OK)
        return arn_py_grpc_raise(st, op);
    if (op->head == NULL)
        Py_RETURN_NONE;
    message = arn_grpc_reply_message(&op->reply);
    return PyBytes_FromStringAndSize(message.data, (Py_ssize_t)message.len);
}

static PyObject *convert(arn_py_request *req, arn_op *base, double *again) {
    (void)again;
    return result_of(req->st, ARN_CONTAINER_OF(base, arn_grpc_op, base));
}

static const arn_py_request_class unary_class = {
    .qualname = "GrpcChannel.unary", .convert = convert, .submitting = arn_py_grpc_submitting};
static const arn_py_request_class ready_class = {
    .qualname = "GrpcChannel.ready", .convert = convert, .submitting = arn_py_grpc_submitting};

/* (method, message, timeout=None, metadata=(), wait_for_ready=False) */
static arn_grpc_op *parse_unary(arn_py_grpc_channel *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    static const char *const names[] = {"method", "message", "timeout", "metadata",
                                        "wait_for_ready"};
    PyObject *values[5] = {NULL};
    arn_py_grpc_options options = {NULL, NULL, 0};
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    arn_grpc_op *op;
    Py_ssize_t i;
    int n;

    if (nargs > 5) {
        PyErr_SetString(PyExc_TypeError, "unary() takes at most 5 arguments");
        return NULL;
    }
    for (i = 0; i < nargs; i++)
        values[i] = args[i];
    for (i = 0; i < nkw; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        for (n = 0; n < 5 && PyUnicode_CompareWithASCIIString(name, names[n]) != 0; n++)
            continue;
        if (n == 5 || values[n] != NULL) {
            PyErr_Format(PyExc_TypeError, "unary() got an unexpected argument %R", name);
            return NULL;
        }
        values[n] = args[nargs + i];
    }
    if (values[0] == NULL || values[1] == NULL) {
        PyErr_SetString(PyExc_TypeError, "unary() needs a method and a message");
        return NULL;
    }
    options.timeout = values[2];
    options.metadata = values[3];
    if (values[4] != NULL) {
        options.waits = PyObject_IsTrue(values[4]);
        if (options.waits < 0)
            return NULL;
    }
    op = arn_py_grpc_op(self, values[0], &options);
    if (op != NULL && arn_py_grpc_set_message(op, values[1]) < 0) {
        arn_op_unref(&op->base);
        op = NULL;
    }
    return op;
}

static arn_grpc_op *parse_ready(arn_py_grpc_channel *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"timeout", NULL};
    arn_py_grpc_options options = {NULL, NULL, 1};

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:ready", names, &options.timeout))
        return NULL;
    return arn_py_grpc_op(self, NULL, &options);
}

static PyObject *make_request(PyObject *self, const arn_py_request_class *cls, arn_grpc_op *op) {
    if (op == NULL)
        return NULL;
    return (PyObject *)arn_py_grpc_request((arn_py_grpc_channel *)self, cls, op);
}

static PyObject *wait_for(PyObject *self, arn_grpc_op *op) {
    arn_py_state *st = ((arn_py_grpc_channel *)self)->st;
    PyObject *result = NULL;

    if (op == NULL)
        return NULL;
    if (arn_py_wait(st, arn_grpc_channel_runtime(op->channel), &op->base) == 0)
        result = result_of(st, op);
    arn_op_unref(&op->base);
    return result;
}

static PyObject *unary_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    return make_request(self, &unary_class,
                        parse_unary((arn_py_grpc_channel *)self, args, nargs, kwnames));
}

static PyObject *unary_sync(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames) {
    return wait_for(self, parse_unary((arn_py_grpc_channel *)self, args, nargs, kwnames));
}

static PyObject *ready_method(PyObject *self, PyObject *args, PyObject *kwargs) {
    return make_request(self, &ready_class, parse_ready((arn_py_grpc_channel *)self, args, kwargs));
}

static PyObject *ready_sync(PyObject *self, PyObject *args, PyObject *kwargs) {
    return wait_for(self, parse_ready((arn_py_grpc_channel *)self, args, kwargs));
}

static PyObject *get_closed(PyObject *op, void *closure) {
    (void)closure;
    return PyBool_FromLong(((arn_py_grpc_channel *)op)->is_closed);
}

/* ---- type ---- */

PyDoc_STRVAR(
    channel_doc,
    "GrpcChannel(host=None, port=0, path=None, *, authority=None, tls=None, metadata=(),\n"
    "            user_agent=None, max_receive=-1, connect_timeout=20.0, keepalive=10.0,\n"
    "            keepalive_timeout=5.0, max_connections=4)\n--\n\n"
    "A gRPC channel on the io thread, for any number of event loops and threads.\n\n"
    "host and port, or the path of a unix socket. metadata: pairs sent with every call.\n"
    "max_receive: bytes of a reply, -1: no limit. keepalive: seconds of silence before the\n"
    "server is pinged, keepalive_timeout: until it must have answered; None: never. tls:\n"
    "dict(ca, cert, key in PEM; server_name; verify=True), each may be left out.\n"
    "max_connections: opened one by one where the server limits the calls on each.");

PyDoc_STRVAR(unary_doc,
             "unary(method, message, timeout=None, metadata=(), wait_for_ready=False)\n--\n\n"
             "Return an awaitable of the reply's message, as bytes.\n\n"
             "method: its path, /package.Service/Method. Raises GrpcError; a server that cannot\n"
             "be reached is one at once, unless wait_for_ready.");

PyDoc_STRVAR(unary_sync_doc, "unary_sync(...)\n--\n\n"
                             "unary() without an event loop: waits, with the GIL released.");

PyDoc_STRVAR(ready_doc, "ready(timeout=None)\n--\n\n"
                        "Return an awaitable that is done when there is a connection to the "
                        "server.");

PyDoc_STRVAR(ready_sync_doc, "ready_sync(timeout=None)\n--\n\nready() without an event loop.");

PyDoc_STRVAR(close_doc, "close()\n--\n\nClose every connection. Calls under way end with "
                        "GrpcError.");

#define FAST(function) (PyCFunction)(void (*)(void)) function, METH_FASTCALL | METH_KEYWORDS
#define WITH_KEYWORDS(function) (PyCFunction)(void (*)(void)) function, METH_VARARGS | METH_KEYWORDS

static PyMethodDef channel_methods[] = {
    {"unary", FAST(unary_method), unary_doc},
    {"unary_sync", FAST(unary_sync), unary_sync_doc},
    {"ready", WITH_KEYWORDS(ready_method), ready_doc},
    {"ready_sync", WITH_KEYWORDS(ready_sync), ready_sync_doc},
    {"close", close_channel, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef channel_getset[] = {
    {"closed", get_closed, NULL, "Whether close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef channel_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(arn_py_grpc_channel, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_doc, (void *)channel_doc},   {Py_tp_new, new_channel},
    {Py_tp_init, init_channel},         {Py_tp_dealloc, dealloc_channel},
    {Py_tp_traverse, traverse_channel}, {Py_tp_repr, repr_channel},
    {Py_tp_methods, channel_methods},   {Py_tp_getset, channel_getset},
    {Py_tp_members, channel_members},   {0, NULL},
};

static PyType_Spec channel_spec = {
    .name = "arshai_native._core.GrpcChannel",
    .basicsize = sizeof(arn_py_grpc_channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = channel_slots,
};

int arn_py_init_grpc(PyObject *module, arn_py_state *st) {
    PyObject *members = Py_BuildValue(
        "{s:i,s:s,s:(),s:s}", "code", ARN_GRPC_UNKNOWN, "details", "", "metadata", "__doc__",
        "A call has failed: `code` is gRPC's number, `details` the reason, "
        "`metadata` the trailers.");

    if (members != NULL)
        st->grpc_error = PyErr_NewException("arshai_native._core.GrpcError", NULL, members);
    Py_XDECREF(members);
    st->grpc_channel_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &channel_spec, NULL);
    if (st->grpc_error == NULL || st->grpc_channel_type == NULL)
        return -1;
    if (PyModule_AddObjectRef(module, "GrpcError", st->grpc_error) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "GrpcChannel", (PyObject *)st->grpc_channel_type);
}
