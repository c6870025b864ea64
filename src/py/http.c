/* http.c - HttpClient and HttpHeaders. */
#include "py/http.h"

#include "py/arguments.h"
#include "py/codec.h"

#include <structmember.h>

/* bytes bodies from this size on are not copied. */
#define BODY_REF_MIN (32u * 1024u)

/* What an op weighs beside its body when the port decides to send off what it gathers. */
#define OP_WEIGHT 512u

/* ---- errors ---- */

/* What to do about it, where that can be said. */
static const char *advice(arn_http_failure failure) {
    switch (failure) {
    case ARN_HTTP_DNS:
        return " (check the host name in base_url and the name server)";
    case ARN_HTTP_CONNECT:
        return " (is the server running, and are host and port right?)";
    case ARN_HTTP_TLS:
        return " (a certificate of your own is trusted with verify='/path/to/ca.pem' or "
               "SSL_CERT_FILE)";
    case ARN_HTTP_PROXY:
        return " (check the proxy's address: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY)";
    case ARN_HTTP_URL:
        return " (a URL looks like https://host/path)";
    default:
        return "";
    }
}

/* scheme://host:port without user, password, path and query, which may hold secrets. */
static PyObject *origin_of(const char *url) {
    const char *p = strstr(url, "://");
    PyObject *scheme, *host, *both;
    const char *end, *at;

    if (p == NULL)
        return PyUnicode_FromString("");
    p += 3;
    end = p + strcspn(p, "/?#");
    for (at = end; at > p && at[-1] != '@'; at--)
        continue;
    scheme = PyUnicode_DecodeUTF8(url, p - url, "replace");
    host = PyUnicode_DecodeUTF8(at, end - at, "replace");
    both = scheme == NULL || host == NULL ? NULL : PyUnicode_Concat(scheme, host);
    Py_XDECREF(scheme);
    Py_XDECREF(host);
    return both;
}

PyObject *arn_py_http_raise(arn_py_state *st, arn_http_failure failure, const char *message,
                            const char *method, const char *url) {
    PyObject *origin, *text, *error, *kind;

    if (failure == ARN_HTTP_MEMORY)
        return PyErr_NoMemory();
    origin = origin_of(url);
    text = origin == NULL
               ? NULL
               : PyUnicode_FromFormat("%s %U: %s%s", method, origin, message, advice(failure));
    error = text == NULL ? NULL : PyObject_CallOneArg(st->http_error, text);
    kind = error == NULL ? NULL : PyUnicode_FromString(arn_http_failure_name(failure));
    if (kind != NULL && PyObject_SetAttrString(error, "kind", kind) == 0)
        arn_py_raise(error);
    Py_XDECREF(origin);
    Py_XDECREF(text);
    Py_XDECREF(error);
    Py_XDECREF(kind);
    return NULL;
}

PyObject *arn_py_http_raise_op(arn_py_state *st, const arn_http_op *op) {
    arn_http_failure failure = op->reply.failure;

    if (failure == ARN_HTTP_OK)
        failure = op->base.status == ARN_ENOMEM ? ARN_HTTP_MEMORY : ARN_HTTP_CLOSED;
    return arn_py_http_raise(st, failure, op->base.message, op->method, op->url);
}

/* ---- headers ---- */

static int header_text(PyObject *o, const char *what, const char **text, Py_ssize_t *len) {
    if (PyBytes_Check(o))
        return PyBytes_AsStringAndSize(o, (char **)text, len);
    if (PyUnicode_Check(o)) {
        *text = PyUnicode_AsUTF8AndSize(o, len);
        return *text == NULL ? -1 : 0;
    }
    PyErr_Format(PyExc_TypeError, "a header's %s must be a str or bytes, not %.100s", what,
                 Py_TYPE(o)->tp_name);
    return -1;
}

static int add_header(arn_http_headers *headers, PyObject *pair) {
    PyObject *both = PySequence_Fast(pair, "a header is a pair (name, value)");
    const char *name, *value;
    Py_ssize_t name_len, value_len;
    int r = -1;

    if (both == NULL)
        return -1;
    if (PySequence_Fast_GET_SIZE(both) != 2) {
        PyErr_SetString(PyExc_ValueError, "a header is a pair (name, value)");
    } else if (header_text(PySequence_Fast_GET_ITEM(both, 0), "name", &name, &name_len) == 0 &&
               header_text(PySequence_Fast_GET_ITEM(both, 1), "value", &value, &value_len) == 0) {
        /* Never the value: it may be a key. */
        switch (arn_http_header_is_bad(name, (size_t)name_len, value, (size_t)value_len)) {
        case 1:
            PyErr_Format(PyExc_ValueError, "invalid header name %R",
                         PySequence_Fast_GET_ITEM(both, 0));
            break;
        case 2:
            PyErr_Format(PyExc_ValueError,
                         "the value of header %R has a line break or a null character",
                         PySequence_Fast_GET_ITEM(both, 0));
            break;
        default:
            r = arn_http_headers_add(headers, name, (size_t)name_len, value, (size_t)value_len);
            if (r != 0)
                PyErr_NoMemory();
        }
    }
    Py_DECREF(both);
    return r == 0 ? 0 : -1;
}

arn_http_headers *arn_py_http_headers_of(arn_py_state *st, PyObject *headers) {
    arn_http_headers *made;
    PyObject *list;
    Py_ssize_t i;
    int r = 0;

    if (headers != NULL && Py_IS_TYPE(headers, st->http_headers_type)) {
        made = ((arn_py_http_headers *)headers)->headers;
        arn_http_headers_ref(made);
        return made;
    }
    list = headers == NULL ? PyTuple_New(0)
                           : PySequence_Tuple(headers); /* nobody changes it meanwhile */
    if (list == NULL)
        return NULL;
    made = arn_http_headers_new();
    if (made == NULL) {
        Py_DECREF(list);
        PyErr_NoMemory();
        return NULL;
    }
    for (i = 0; r == 0 && i < PyTuple_GET_SIZE(list); i++)
        r = add_header(made, PyTuple_GET_ITEM(list, i));
    Py_DECREF(list);
    if (r == 0 && arn_http_headers_finish(made) != 0) {
        PyErr_NoMemory();
        r = -1;
    }
    if (r == 0)
        return made;
    arn_http_headers_unref(made);
    return NULL;
}

static PyObject *new_headers(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"headers", NULL};
    arn_py_state *st = arn_py_state_of_type(type);
    arn_py_http_headers *self;
    PyObject *headers;

    if (st == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O:HttpHeaders", names, &headers))
        return NULL;
    self = (arn_py_http_headers *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->headers = arn_py_http_headers_of(st, headers);
    if (self->headers == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void dealloc_headers(PyObject *op) {
    arn_py_http_headers *self = (arn_py_http_headers *)op;
    PyTypeObject *type = Py_TYPE(op);

    if (self->headers != NULL)
        arn_http_headers_unref(self->headers);
    type->tp_free(op);
    Py_DECREF(type);
}

/* ---- the client ---- */

arn_http_client *arn_py_http_core(arn_py_http_client *self) {
    arn_runtime *rt;

    if (self->strings == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "HttpClient.__init__ was not called");
        return NULL;
    }
    if (self->client != NULL && arn_http_client_runtime(self->client) == arn_runtime_current())
        return self->client;
    rt = arn_py_runtime();
    if (rt == NULL)
        return NULL;
    /* A client of another runtime is the parent process's: its memory is left alone. Or there was a
     * shutdown in this process: the stop has ended it and only the struct remains. */
    if (self->client != NULL && self->generation == arn_runtime_generation())
        arn_http_client_release(self->client);
    self->generation = arn_runtime_generation();
    self->client = arn_http_client_new(rt, &self->config);
    if (self->client == NULL)
        PyErr_NoMemory();
    return self->client;
}

static void release_core(arn_py_http_client *self) {
    if (self->client != NULL && self->generation == arn_runtime_generation())
        arn_http_client_release(self->client);
    self->client = NULL;
}

/* arshai_native._http.client_options(...): what the environment adds to the arguments. A dict. */
static PyObject *read_environment(PyObject *verify, PyObject *cert, PyObject *proxy,
                                  int trust_env) {
    PyObject *module = PyImport_ImportModule("arshai_native._http");
    PyObject *options = NULL;

    if (module != NULL)
        options =
            PyObject_CallMethod(module, "client_options", "OOOi", verify, cert, proxy, trust_env);
    Py_XDECREF(module);
    if (options != NULL && !PyDict_Check(options)) {
        PyErr_SetString(PyExc_TypeError, "client_options() must return a dict");
        Py_CLEAR(options);
    }
    return options;
}

static int init_client(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {
        "max_connections", "max_keepalive", "keepalive_expiry", "verify", "cert", "proxy",
        "trust_env",       "http2",         "unix_socket",      NULL};
    arn_py_http_client *self = (arn_py_http_client *)op;
    arn_http_config c = {.max_connections = 1000, .max_keepalive = 100, .verify = 1};
    PyObject *verify = Py_True, *cert = Py_None, *proxy = Py_None, *unix_socket = NULL;
    PyObject *strings, *options = NULL;
    int max_connections = 1000, max_keepalive = 100;
    double keepalive = 118.0; /* libcurl's */
    int trust_env = 1, http2 = 1;
    const struct {
        const char *name;
        const char **field;
    } from_options[] = {
        {"ca_file", &c.ca_file},           {"ca_dir", &c.ca_dir},
        {"cert_file", &c.cert_file},       {"key_file", &c.key_file},
        {"key_password", &c.key_password}, {"proxy_http", &c.proxy_http},
        {"proxy_https", &c.proxy_https},   {"no_proxy", &c.no_proxy},
    };
    size_t i;
    int r = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$iidOOOppO:HttpClient", names,
                                     &max_connections, &max_keepalive, &keepalive, &verify, &cert,
                                     &proxy, &trust_env, &http2, &unix_socket))
        return -1;
    if (self->strings != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "HttpClient.__init__ may be called once");
        return -1;
    }
    if (max_connections < 1 || max_keepalive < 0) {
        PyErr_SetString(PyExc_ValueError, "max_connections must be >= 1 and max_keepalive >= 0");
        return -1;
    }
    if (!(keepalive >= 0)) {
        PyErr_SetString(PyExc_ValueError, "keepalive_expiry must be a number of seconds >= 0");
        return -1;
    }
    strings = PyList_New(0);
    if (strings != NULL)
        options = read_environment(verify, cert, proxy, trust_env);
    if (options == NULL) {
        Py_XDECREF(strings);
        return -1;
    }
    for (i = 0; r == 0 && i < sizeof(from_options) / sizeof(from_options[0]); i++)
        r = arn_py_keep_string(strings, PyDict_GetItemString(options, from_options[i].name),
                               from_options[i].name, from_options[i].field);
    if (r == 0)
        r = arn_py_keep_string(strings, unix_socket, "unix_socket", &c.unix_socket);
    if (r == 0)
        c.verify = PyDict_GetItemString(options, "verify") != Py_False;
    Py_DECREF(options);
    if (r != 0) {
        Py_DECREF(strings);
        return -1;
    }
    c.max_connections = (unsigned)max_connections;
    c.max_keepalive = keepalive > 0 ? (unsigned)max_keepalive : 0;
    c.keepalive_s = keepalive < 1 ? 1 : keepalive > 1e9 ? 1000000000u : (unsigned)keepalive;
    c.http2 = http2;
    self->config = c;
    self->strings = strings;
    return 0;
}

static PyObject *new_client(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    arn_py_state *st = arn_py_state_of_type(type);
    arn_py_http_client *self = st == NULL ? NULL : (arn_py_http_client *)type->tp_alloc(type, 0);

    (void)args, (void)kwargs;
    if (self != NULL)
        self->st = arn_py_state_hold(st);
    return (PyObject *)self;
}

static void dealloc_client(PyObject *op) {
    arn_py_http_client *self = (arn_py_http_client *)op;
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;

    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    release_core(self);
    Py_CLEAR(self->strings);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

static int traverse_client(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(((arn_py_http_client *)op)->st);
    Py_VISIT(((arn_py_http_client *)op)->strings);
    return 0;
}

static PyObject *repr_client(PyObject *op) {
    const arn_py_http_client *self = (arn_py_http_client *)op;

    return PyUnicode_FromFormat("<HttpClient max_connections=%u%s>", self->config.max_connections,
                                self->is_closed ? " closed" : "");
}

static PyObject *close_client(PyObject *op, PyObject *ignored) {
    arn_py_http_client *self = (arn_py_http_client *)op;

    (void)ignored;
    self->is_closed = 1;
    arn_py_flush_ports(self->st); /* what was asked for before */
    release_core(self);
    Py_RETURN_NONE;
}

/* ---- requests ---- */

size_t arn_py_http_submitting(arn_op *base) {
    return ARN_CONTAINER_OF(base, arn_http_op, base)->body.len + OP_WEIGHT;
}

static PyObject *convert_response(arn_py_request *req, arn_op *base, double *again) {
    arn_http_op *op = ARN_CONTAINER_OF(base, arn_http_op, base);

    (void)again;
    if (base->status != ARN_OK)
        return arn_py_http_raise_op(req->st, op);
    return arn_py_http_response_new(req->st, req->client, op);
}

static const arn_py_request_class response_class = {.qualname = "HttpClient.request",
                                                    .convert = convert_response,
                                                    .submitting = arn_py_http_submitting};

arn_http_op *arn_py_http_op(arn_py_http_client *self, const char *method, const char *url,
                            size_t url_len, arn_http_headers *headers,
                            const arn_http_options *options, const char *body, size_t body_len) {
    arn_http_client *client;
    arn_http_op *op;
    char *copy = NULL;

    if (self->is_closed)
        return (arn_http_op *)(void *)arn_py_http_raise(self->st, ARN_HTTP_CLOSED,
                                                        "the client has been closed", method, url);
    client = arn_py_http_core(self);
    if (client == NULL)
        return NULL;
    op = arn_http_op_new(client, method, url, url_len, headers, options);
    if (op != NULL && body != NULL) {
        /* In the op's own arena; the reply's values come behind it. */
        copy = arn_arena_copy(&op->base.arena, body, body_len);
        op->body.data = copy;
        op->body.len = body_len;
        if (copy == NULL) {
            arn_op_unref(&op->base);
            op = NULL;
        }
    }
    if (op == NULL)
        PyErr_NoMemory();
    return op;
}

arn_py_request *arn_py_http_request(arn_py_http_client *self, const arn_py_request_class *cls,
                                    arn_http_op *op) {
    arn_py_request *req = arn_py_request_new(self->st, cls);

    if (req == NULL) {
        arn_op_unref(&op->base);
        return NULL;
    }
    req->client = Py_NewRef((PyObject *)self);
    req->op = &op->base;
    req->rt = arn_http_client_runtime(op->client);
    return req;
}

static int is_plain(PyObject *url) {
    const char *text = PyUnicode_IS_ASCII(url) ? (const char *)PyUnicode_1BYTE_DATA(url) : NULL;
    Py_ssize_t len = PyUnicode_GET_LENGTH(url);
    Py_ssize_t i;

    for (i = 0; text != NULL && i < len; i++)
        if (text[i] <= ' ' || strchr("\"<>\\^`{|}\x7f", text[i]) != NULL)
            return 0;
    return text != NULL;
}

/* The URL in ASCII: percent-encoded and, the host, in IDNA where it is not. */
static PyObject *ascii_url(PyObject *url) {
    PyObject *module, *made;

    if (!PyUnicode_Check(url)) {
        PyErr_Format(PyExc_TypeError, "url must be a str, not %.100s", Py_TYPE(url)->tp_name);
        return NULL;
    }
    if (is_plain(url))
        return Py_NewRef(url);
    module = PyImport_ImportModule("arshai_native._http");
    made = module == NULL ? NULL : PyObject_CallMethod(module, "ascii_url", "O", url);
    Py_XDECREF(module);
    if (made != NULL && !(PyUnicode_Check(made) && PyUnicode_IS_ASCII(made))) {
        PyErr_SetString(PyExc_ValueError, "url cannot be written in ASCII");
        Py_CLEAR(made);
    }
    return made;
}

static int set_body(arn_http_op *op, PyObject *body) {
    const char *data;
    Py_ssize_t len;

    if (PyBytes_CheckExact(body) && PyBytes_GET_SIZE(body) >= (Py_ssize_t)BODY_REF_MIN) {
        op->body.data = PyBytes_AS_STRING(body);
        op->body.len = (size_t)PyBytes_GET_SIZE(body);
        op->body_owner = Py_NewRef(body);
        op->release = arn_py_release_anywhere;
        return 0;
    }
    if (PyUnicode_Check(body)) {
        data = PyUnicode_AsUTF8AndSize(body, &len);
        if (data == NULL)
            return -1;
    } else if (PyBytes_Check(body)) {
        data = PyBytes_AS_STRING(body);
        len = PyBytes_GET_SIZE(body);
    } else {
        PyErr_Format(PyExc_TypeError, "body must be bytes, a str or None, not %.100s",
                     Py_TYPE(body)->tp_name);
        return -1;
    }
    op->body.data = arn_arena_copy(&op->base.arena, data, (size_t)len);
    op->body.len = (size_t)len;
    if (op->body.data != NULL)
        return 0;
    PyErr_NoMemory();
    return -1;
}

static const char *header_name(PyObject *name) {
    const char *text = NULL;
    Py_ssize_t len;

    if (header_text(name, "name", &text, &len) < 0)
        return NULL;
    if (strlen(text) == (size_t)len && !arn_http_header_is_bad(text, (size_t)len, "", 0))
        return text;
    PyErr_Format(PyExc_ValueError, "invalid header name %R", name);
    return NULL;
}

static arn_http_op *parse_request(arn_py_http_client *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"method",
                            "url",
                            "headers",
                            "body",
                            "mode",
                            "connect_timeout",
                            "read_timeout",
                            "write_timeout",
                            "pool_timeout",
                            "total_timeout",
                            "max_retries",
                            "retry_count_header",
                            "max_retry_after",
                            "refuse_longer",
                            "decompress",
                            "follow_redirects",
                            NULL};
    arn_http_options o = {.connect_ms = 5000,
                          .read_ms = 600000,
                          .write_ms = 600000,
                          .pool_ms = 600000,
                          .max_retry_after = 60.0,
                          .decompress = 1,
                          .follow_redirects = 1};
    PyObject *url, *headers = NULL, *body = Py_None, *count_header = Py_None;
    PyObject *connect = NULL, *read = NULL, *write = NULL, *pool = NULL, *total = NULL;
    PyObject *max_retries = NULL;
    const char *method;
    arn_http_headers *lines;
    arn_http_op *op = NULL;
    int mode = ARN_HTTP_BODY;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO|OO$iOOOOOOOdppp:request", names, &method,
                                     &url, &headers, &body, &mode, &connect, &read, &write, &pool,
                                     &total, &max_retries, &count_header, &o.max_retry_after,
                                     &o.refuse_longer, &o.decompress, &o.follow_redirects))
        return NULL;
    if (mode < ARN_HTTP_BODY || mode > ARN_HTTP_EVENTS) {
        PyErr_SetString(PyExc_ValueError, "mode must be one of the HTTP_* constants");
        return NULL;
    }
    if (arn_http_header_is_bad(method, strlen(method), "", 0)) {
        PyErr_SetString(PyExc_ValueError, "invalid method");
        return NULL;
    }
    if (!(o.max_retry_after >= 0)) {
        PyErr_SetString(PyExc_ValueError, "max_retry_after must be a number of seconds >= 0");
        return NULL;
    }
    o.mode = (arn_http_mode)mode;
    if ((connect != NULL && arn_py_to_ms(connect, "connect_timeout", &o.connect_ms) < 0) ||
        (read != NULL && arn_py_to_ms(read, "read_timeout", &o.read_ms) < 0) ||
        (write != NULL && arn_py_to_ms(write, "write_timeout", &o.write_ms) < 0) ||
        (pool != NULL && arn_py_to_ms(pool, "pool_timeout", &o.pool_ms) < 0) ||
        (total != NULL && arn_py_to_ms(total, "total_timeout", &o.total_ms) < 0))
        return NULL;
    if (max_retries != NULL) {
        long n = PyLong_AsLong(max_retries);
        if (n == -1 && PyErr_Occurred())
            return NULL;
        if (n < 0) {
            PyErr_SetString(PyExc_ValueError, "max_retries must be >= 0");
            return NULL;
        }
        o.max_retries = n > 1000000 ? 1000000 : (unsigned)n;
    }
    if (count_header != Py_None) {
        o.retry_count_header = header_name(count_header);
        if (o.retry_count_header == NULL)
            return NULL;
    }
    url = ascii_url(url);
    if (url == NULL)
        return NULL;
    lines = arn_py_http_headers_of(self->st, headers);
    if (lines != NULL) {
        op = arn_py_http_op(self, method, (const char *)PyUnicode_1BYTE_DATA(url),
                            (size_t)PyUnicode_GET_LENGTH(url), lines, &o, NULL, 0);
        arn_http_headers_unref(lines);
    }
    if (op != NULL && strlen(op->url) != (size_t)PyUnicode_GET_LENGTH(url)) {
        PyErr_SetString(PyExc_ValueError, "url must not contain a null character");
        arn_op_unref(&op->base);
        op = NULL;
    }
    Py_DECREF(url);
    if (op != NULL && body != Py_None && set_body(op, body) < 0) {
        arn_op_unref(&op->base);
        op = NULL;
    }
    return op;
}

static PyObject *request_method(PyObject *self, PyObject *args, PyObject *kwargs) {
    arn_http_op *op = parse_request((arn_py_http_client *)self, args, kwargs);

    if (op == NULL)
        return NULL;
    return (PyObject *)arn_py_http_request((arn_py_http_client *)self, &response_class, op);
}

static PyObject *request_sync(PyObject *self, PyObject *args, PyObject *kwargs) {
    arn_py_state *st = ((arn_py_http_client *)self)->st;
    arn_http_op *op = parse_request((arn_py_http_client *)self, args, kwargs);
    PyObject *result = NULL;

    if (op == NULL)
        return NULL;
    if (op->options.mode >= ARN_HTTP_STREAM) {
        PyErr_SetString(PyExc_ValueError, "a stream is read by an event loop: use request()");
    } else if (arn_py_wait(st, arn_http_client_runtime(op->client), &op->base) == 0) {
        result = op->base.status != ARN_OK ? arn_py_http_raise_op(st, op)
                                           : arn_py_http_response_new(st, self, op);
    }
    arn_op_unref(&op->base);
    return result;
}

static PyObject *get_closed(PyObject *op, void *closure) {
    (void)closure;
    return PyBool_FromLong(((arn_py_http_client *)op)->is_closed);
}

/* ---- types ---- */

PyDoc_STRVAR(
    client_doc,
    "HttpClient(*, max_connections=1000, max_keepalive=100, keepalive_expiry=118.0, verify=True,\n"
    "           cert=None, proxy=None, trust_env=True, http2=True, unix_socket=None)\n--\n\n"
    "An HTTP client on the io thread, for any number of event loops and threads.\n\n"
    "max_connections: transfers under way at a time; more wait. max_keepalive,\n"
    "keepalive_expiry: connections kept for later requests, and for how many seconds.\n"
    "verify: True, False or the path of a file or directory of CA certificates. cert:\n"
    "path of a client certificate, or (certificate, key, password). proxy: URL;\n"
    "trust_env: the usual environment variables name proxies and certificates.");

PyDoc_STRVAR(
    request_doc,
    "request(method, url, headers=(), body=None, *, mode=HTTP_BODY, connect_timeout=5.0,\n"
    "        read_timeout=600.0, write_timeout=600.0, pool_timeout=600.0, total_timeout=None,\n"
    "        max_retries=0, retry_count_header=None, max_retry_after=60.0, refuse_longer=False,\n"
    "        decompress=True, follow_redirects=True)\n--\n\n"
    "Return an awaitable of the HttpResponse. Times are in seconds, None: no limit.\n\n"
    "Raises HttpError for what fails below HTTP; a status of 400 or more is no error\n"
    "here. Retries follow the OpenAI SDK's rules.");

PyDoc_STRVAR(sync_doc, "request_sync(...)\n--\n\n"
                       "request() without an event loop: waits, with the GIL released.");

PyDoc_STRVAR(close_doc, "close()\n--\n\nClose every connection. Requests under way end with "
                        "HttpError; later ones, too.");

static PyMethodDef client_methods[] = {
    {"request", (PyCFunction)(void (*)(void))request_method, METH_VARARGS | METH_KEYWORDS,
     request_doc},
    {"request_sync", (PyCFunction)(void (*)(void))request_sync, METH_VARARGS | METH_KEYWORDS,
     sync_doc},
    {"close", close_client, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef client_getset[] = {
    {"closed", get_closed, NULL, "Whether close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef client_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(arn_py_http_client, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot client_slots[] = {
    {Py_tp_doc, (void *)client_doc},   {Py_tp_new, new_client},
    {Py_tp_init, init_client},         {Py_tp_dealloc, dealloc_client},
    {Py_tp_traverse, traverse_client}, {Py_tp_repr, repr_client},
    {Py_tp_methods, client_methods},   {Py_tp_getset, client_getset},
    {Py_tp_members, client_members},   {0, NULL},
};

static PyType_Spec client_spec = {
    .name = "arshai_native._core.HttpClient",
    .basicsize = sizeof(arn_py_http_client),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = client_slots,
};

PyDoc_STRVAR(headers_doc, "HttpHeaders(headers)\n--\n\n"
                          "A list of (name, value), checked and prepared once for many requests.");

static PyType_Slot headers_slots[] = {
    {Py_tp_doc, (void *)headers_doc},
    {Py_tp_new, new_headers},
    {Py_tp_dealloc, dealloc_headers},
    {0, NULL},
};

static PyType_Spec headers_spec = {
    .name = "arshai_native._core.HttpHeaders",
    .basicsize = sizeof(arn_py_http_headers),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = headers_slots,
};

int arn_py_init_http(PyObject *module, arn_py_state *st) {
    static const char *const modes[] = {"HTTP_BODY", "HTTP_JSON", "HTTP_EMBEDDINGS", "HTTP_STREAM",
                                        "HTTP_EVENTS"};
    PyObject *members = Py_BuildValue("{s:s,s:s}", "kind", "", "__doc__",
                                      "What failed below HTTP; `kind` says what.");
    int i;

    if (members != NULL)
        st->http_error = PyErr_NewException("arshai_native._core.HttpError", NULL, members);
    Py_XDECREF(members);
    st->http_client_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &client_spec, NULL);
    st->http_headers_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &headers_spec, NULL);
    if (st->http_error == NULL || st->http_client_type == NULL || st->http_headers_type == NULL)
        return -1;
    for (i = 0; i < 5; i++)
        if (PyModule_AddIntConstant(module, modes[i], i) < 0)
            return -1;
    if (PyModule_AddObjectRef(module, "HttpError", st->http_error) < 0 ||
        PyModule_AddObjectRef(module, "HttpClient", (PyObject *)st->http_client_type) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "HttpHeaders", (PyObject *)st->http_headers_type);
}
