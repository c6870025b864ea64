#include "py/engine.h"

#include "py/arguments.h"
#include "py/express.h"

#include <structmember.h>

/* Requests and keys above this use the lane for large payloads. Below it, a value passes in less
 * time than a small command would notice (64 KB: about 20 us on loopback). */
#define DEFAULT_LARGE_BYTES (64u * 1024u)
/* Lone requests in a row before a loop gets an express connection for them. */
#define DEFAULT_EXPRESS_AFTER 64
/* Request bytes under way before further callers wait. */
#define DEFAULT_QUEUE_BYTES (64u * 1024u * 1024u)

arn_redis_client *arn_py_engine_client(arn_py_engine *self) {
    arn_runtime *rt;

    if (self->client != NULL && arn_redis_client_runtime(self->client) == arn_runtime_current())
        return self->client;
    rt = arn_py_runtime();
    if (rt == NULL)
        return NULL;
    /* A client of another runtime is the parent process's: its memory is left alone. Or there was a
     * shutdown in this process: the stop has ended it and only the struct remains. */
    if (self->client != NULL && self->generation == arn_runtime_generation())
        arn_redis_client_release(self->client);
    self->generation = arn_runtime_generation();
    self->client = arn_redis_client_new(rt, &self->config);
    if (self->client == NULL)
        PyErr_NoMemory();
    return self->client;
}

/* ---- construction ---- */

/* A name with letters beyond ASCII goes to the name server as Python's own sockets send it. */
static int keep_host(PyObject *strings, PyObject *host, const char **out) {
    PyObject *ascii;
    int r;

    if (host == NULL || !PyUnicode_Check(host) || PyUnicode_IS_ASCII(host))
        return arn_py_keep_string(strings, host, "host", out);
    ascii = PyUnicode_AsEncodedString(host, "idna", NULL);
    r = ascii == NULL ? -1 : arn_py_keep_string(strings, ascii, "host", out);
    Py_XDECREF(ascii);
    return r;
}

static int set_database(arn_redis_config *c, PyObject *strings, PyObject *db) {
    PyObject *text;
    int truth = db == NULL || db == Py_None ? 0 : PyObject_IsTrue(db);
    int r;

    if (truth <= 0)
        return truth; /* 0, "", None: the server's default, not selected */
    text = PyObject_Str(db);
    if (text == NULL)
        return -1;
    r = arn_py_keep_string(strings, text, "db", &c->database);
    Py_DECREF(text);
    return r;
}

static int init_engine(PyObject *op, PyObject *args, PyObject *kwargs) {
    arn_py_engine *self = (arn_py_engine *)op;
    arn_redis_config *c = &self->config;
    static char *names[] = {"host",
                            "port",
                            "path",
                            "db",
                            "username",
                            "password",
                            "client_name",
                            "lib_name",
                            "lib_version",
                            "socket_timeout",
                            "socket_connect_timeout",
                            "keepalive",
                            "keepalive_idle",
                            "keepalive_interval",
                            "keepalive_count",
                            "health_check_interval",
                            "max_connections",
                            "pool_timeout",
                            "encoding",
                            "encoding_errors",
                            "decode_responses",
                            "error_factory",
                            "retry_policy",
                            "large_bytes",
                            "queue_bytes",
                            "express_after",
                            NULL};
    PyObject *host = NULL, *path = NULL, *db = NULL, *username = NULL, *password = NULL;
    PyObject *client_name = NULL, *lib_name = NULL, *lib_version = NULL;
    PyObject *timeout = NULL, *connect_timeout = NULL, *health = NULL, *pool_timeout = NULL;
    PyObject *encoding = NULL, *errors = NULL, *factory = NULL, *policy = NULL;
    PyObject *strings;
    const char *encoding_s, *errors_s;
    int port = 6379, keepalive = 0, decode = 0, express_after = DEFAULT_EXPRESS_AFTER;
    Py_ssize_t max_connections = 2147483647;
    Py_ssize_t large_bytes = DEFAULT_LARGE_BYTES, queue_bytes = DEFAULT_QUEUE_BYTES;

    if (self->strings != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "RedisEngine is already initialised");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "|$OiOOOOOOOOOpiiiOnOOOpOOnni:RedisEngine", names, &host, &port, &path,
            &db, &username, &password, &client_name, &lib_name, &lib_version, &timeout,
            &connect_timeout, &keepalive, &c->keepalive_idle, &c->keepalive_interval,
            &c->keepalive_count, &health, &max_connections, &pool_timeout, &encoding, &errors,
            &decode, &factory, &policy, &large_bytes, &queue_bytes, &express_after))
        return -1;
    if (factory == NULL || !PyCallable_Check(factory)) {
        PyErr_SetString(PyExc_TypeError, "error_factory must be callable");
        return -1;
    }
    if (port < 0 || port > 65535) {
        PyErr_SetString(PyExc_ValueError, "port must be 0-65535");
        return -1;
    }
    if (max_connections < 1 || large_bytes < 1 || queue_bytes < 1 || express_after < 0) {
        PyErr_SetString(PyExc_ValueError, "max_connections, large_bytes and queue_bytes must be "
                                          "positive, express_after not negative");
        return -1;
    }
    strings = PyList_New(0);
    if (strings == NULL)
        return -1;
    if (keep_host(strings, host, &c->host) < 0 ||
        arn_py_keep_string(strings, path, "path", &c->path) < 0 ||
        arn_py_keep_string(strings, username, "username", &c->username) < 0 ||
        arn_py_keep_string(strings, password, "password", &c->password) < 0 ||
        arn_py_keep_string(strings, client_name, "client_name", &c->client_name) < 0 ||
        arn_py_keep_string(strings, lib_name, "lib_name", &c->lib_name) < 0 ||
        arn_py_keep_string(strings, lib_version, "lib_version", &c->lib_version) < 0 ||
        arn_py_keep_string(strings, encoding, "encoding", &encoding_s) < 0 ||
        arn_py_keep_string(strings, errors, "encoding_errors", &errors_s) < 0 ||
        set_database(c, strings, db) < 0 ||
        arn_py_to_ms(timeout, "socket_timeout", &c->timeout_ms) < 0 ||
        arn_py_to_ms(connect_timeout, "socket_connect_timeout", &c->connect_timeout_ms) < 0 ||
        arn_py_to_ms(pool_timeout, "pool_timeout", &c->pool_timeout_ms) < 0)
        goto fail;
    /* 0 is redis-py's "no health check". */
    if (health != NULL && health != Py_None) {
        int wanted = PyObject_IsTrue(health);
        if (wanted < 0 ||
            (wanted && arn_py_to_ms(health, "health_check_interval", &c->health_check_ms) < 0))
            goto fail;
    }
    if (c->path != NULL)
        c->host = NULL;
    else if (c->host == NULL)
        c->host = "localhost";
    c->port = port;
    c->keepalive = keepalive;
    c->max_dedicated = max_connections > 2147483647 ? 2147483647u : (unsigned)max_connections;
    c->large_bytes = (size_t)large_bytes;
    c->queue_bytes = (size_t)queue_bytes;
    self->express_after = express_after;
    self->codec.encoding = encoding_s != NULL ? encoding_s : "utf-8";
    self->codec.errors = errors_s != NULL ? errors_s : "strict";
    self->codec.is_utf8_strict = strcmp(self->codec.errors, "strict") == 0 &&
                                 (PyOS_stricmp(self->codec.encoding, "utf-8") == 0 ||
                                  PyOS_stricmp(self->codec.encoding, "utf8") == 0);
    self->codec.decode = decode;
    self->codec.error_factory = Py_NewRef(factory);
    self->retry_policy = policy == NULL || policy == Py_None ? NULL : Py_NewRef(policy);
    self->strings = strings;
    return 0;

fail:
    Py_DECREF(strings);
    memset(c, 0, sizeof(*c));
    return -1;
}

static PyObject *new_engine(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    arn_py_state *st = arn_py_state_of_type(type);
    arn_py_engine *self = st == NULL ? NULL : (arn_py_engine *)type->tp_alloc(type, 0);

    (void)args;
    (void)kwargs;
    if (self != NULL)
        self->st = arn_py_state_hold(st);
    return (PyObject *)self;
}

static int is_ready(const arn_py_engine *self) {
    if (self->strings != NULL)
        return 1;
    PyErr_SetString(PyExc_RuntimeError, "RedisEngine.__init__ was not called");
    return 0;
}

/* ---- methods ---- */

/* never_decode is all that may be said of a command here. */
static int parse_options(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                         arn_py_reply_spec *reply) {
    Py_ssize_t i;
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);

    for (i = 0; i < n; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(name, "never_decode") != 0) {
            PyErr_Format(PyExc_TypeError, "unexpected keyword argument '%U'", name);
            return -1;
        }
        reply->never_decode = PyObject_IsTrue(args[nargs + i]);
        if (reply->never_decode < 0)
            return -1;
    }
    return 0;
}

static PyObject *execute_on(const arn_py_target *target, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames, int blocking) {
    arn_py_reply_spec reply = {ARN_PY_REPLY_RAW, 0, NULL, NULL};
    arn_py_usage usage = ARN_PY_USE_SHARED;
    PyObject *result = NULL;
    arn_py_args packed;
    int kind, r;

    if (!is_ready(target->engine) || parse_options(args, nargs, kwnames, &reply) < 0)
        return NULL;
    arn_py_args_init(&packed, &target->engine->codec);
    r = arn_py_parse_command(target->engine->st, args, nargs, &packed, &usage, &kind);
    if (blocking)
        result = r != 0 ? NULL : arn_py_command_call(target->engine, &packed, usage, &reply);
    else if (r >= 0)
        result = arn_py_command_request(target, &packed, r, usage, &reply);
    arn_py_args_clear(&packed);
    return result;
}

PyDoc_STRVAR(execute_doc,
             "execute($self, /, *args, never_decode=False)\n--\n\n"
             "Send a command and return an awaitable of its raw reply.\n\n"
             "args: name and arguments (str, bytes, memoryview, int or float).\n"
             "never_decode: leave text as bytes although decode_responses is set.\n"
             "Returns bytes or str, int, None or (nested) lists of these. Error replies and\n"
             "failures are raised as error_factory makes them.");

static PyObject *engine_execute(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    arn_py_target target = {(arn_py_engine *)op, NULL};

    return execute_on(&target, args, nargs, kwnames, 0);
}

PyDoc_STRVAR(call_doc, "call($self, /, *args, never_decode=False)\n--\n\n"
                       "Send a command and wait for its raw reply: execute() without an event\n"
                       "loop. The GIL is released meanwhile; Ctrl-C ends the wait.");

static PyObject *engine_call(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    arn_py_target target = {(arn_py_engine *)op, NULL};

    return execute_on(&target, args, nargs, kwnames, 1);
}

PyDoc_STRVAR(pipeline_doc,
             "pipeline($self, commands, /)\n--\n\n"
             "Send commands as one unit and return an awaitable of the list of their replies.\n\n"
             "commands: iterable of iterables of arguments. Nothing of others comes between.\n"
             "Error replies are exceptions in the list; only a failure of the whole is raised.");

static PyObject *engine_pipeline(PyObject *op, PyObject *commands) {
    arn_py_engine *self = (arn_py_engine *)op;
    arn_py_target target = {self, NULL};

    return is_ready(self) ? arn_py_pipeline_request(&target, commands) : NULL;
}

PyDoc_STRVAR(pipeline_call_doc, "pipeline_call($self, commands, /)\n--\n\n"
                                "pipeline() without an event loop: waits for the list.");

static PyObject *engine_pipeline_call(PyObject *op, PyObject *commands) {
    arn_py_engine *self = (arn_py_engine *)op;

    return is_ready(self) ? arn_py_pipeline_call(self, commands) : NULL;
}

PyDoc_STRVAR(needs_own_doc,
             "needs_own($self, commands, /)\n--\n\n"
             "Whether one of the commands must not share a connection, because it blocks it or\n"
             "changes its state.\n\n"
             "Raises NotImplementedError for a command that can only be sent otherwise.");

static PyObject *engine_needs_own(PyObject *op, PyObject *commands) {
    arn_py_engine *self = (arn_py_engine *)op;
    int own = is_ready(self) ? arn_py_needs_own(self, commands) : -1;

    return own < 0 ? NULL : PyBool_FromLong(own);
}

PyDoc_STRVAR(session_doc,
             "session($self, /)\n--\n\n"
             "Return an awaitable of a RedisSession: a connection of one's own, at most\n"
             "max_connections at a time; waits for one up to pool_timeout seconds.");

static PyObject *engine_session(PyObject *op, PyObject *ignored) {
    PyObject *session, *request;

    (void)ignored;
    if (!is_ready((arn_py_engine *)op))
        return NULL;
    session = arn_py_new_session((arn_py_engine *)op);
    if (session == NULL)
        return NULL;
    request = arn_py_lease_request((arn_py_session *)session);
    Py_DECREF(session);
    return request;
}

PyDoc_STRVAR(disconnect_doc, "disconnect($self, /)\n--\n\n"
                             "Close all connections. Commands under way fail; later ones connect\n"
                             "again. Returns at once.");

static PyObject *engine_disconnect(PyObject *op, PyObject *ignored) {
    arn_py_engine *self = (arn_py_engine *)op;

    (void)ignored;
    if (self->client != NULL && arn_redis_client_runtime(self->client) == arn_runtime_current())
        arn_redis_client_disconnect(self->client);
    arn_py_express_shutdown(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stats_doc,
             "stats($self, /)\n--\n\n"
             "Counters as a dict: commands, replies, errors (error replies), bytes_in, bytes_out,\n"
             "connects, reconnects since the start; connections, dedicated, queued_bytes now.");

static PyObject *engine_stats(PyObject *op, PyObject *ignored) {
    arn_py_engine *self = (arn_py_engine *)op;
    static const arn_redis_stats none;
    const arn_redis_stats *s = &none;
    unsigned long long queued = 0;

    (void)ignored;
    if (self->client != NULL) {
        s = arn_redis_client_stats(self->client);
        queued = arn_redis_queued_bytes(self->client);
    }
#define GET(name) (unsigned long long)atomic_load_explicit(&s->name, memory_order_relaxed)
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsK}", "commands", GET(commands), "replies",
                         GET(replies), "errors", GET(errors), "bytes_in", GET(bytes_in),
                         "bytes_out", GET(bytes_out), "connects", GET(connects), "reconnects",
                         GET(reconnects), "connections", GET(connections), "dedicated",
                         GET(dedicated), "queued_bytes", queued);
#undef GET
}

static PyObject *repr_engine(PyObject *op) {
    arn_py_engine *self = (arn_py_engine *)op;
    const arn_redis_config *c = &self->config;
    const char *db = c->database != NULL ? c->database : "0";

    if (self->strings == NULL)
        return PyUnicode_FromString("<RedisEngine>");
    if (c->path != NULL)
        return PyUnicode_FromFormat("<RedisEngine path=%s db=%s>", c->path, db);
    return PyUnicode_FromFormat("<RedisEngine host=%s port=%d db=%s>", c->host, c->port, db);
}

static PyObject *get_decode(PyObject *op, void *closure) {
    (void)closure;
    return PyBool_FromLong(((arn_py_engine *)op)->codec.decode);
}

/* ---- life ---- */

static int traverse_engine(PyObject *op, visitproc visit, void *arg) {
    arn_py_engine *self = (arn_py_engine *)op;

    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(self->st);
    Py_VISIT(self->strings);
    Py_VISIT(self->retry_policy);
    Py_VISIT(self->codec.error_factory);
    return 0;
}

/* error_factory and retry_policy may be part of a cycle; without them nothing can be sent, so what
 * breaks the cycle is the policy alone, and the factory goes with the engine. */
static int clear_engine(PyObject *op) {
    Py_CLEAR(((arn_py_engine *)op)->retry_policy);
    return 0;
}

static void dealloc_engine(PyObject *op) {
    arn_py_engine *self = (arn_py_engine *)op;
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;

    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    arn_py_express_forget_engine(self);
    if (self->client != NULL && arn_redis_client_runtime(self->client) == arn_runtime_current())
        arn_redis_client_release(self->client);
    clear_engine(op);
    Py_CLEAR(self->codec.error_factory);
    Py_CLEAR(self->strings);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

static PyMethodDef engine_methods[] = {
    {"execute", (PyCFunction)(void (*)(void))engine_execute, METH_FASTCALL | METH_KEYWORDS,
     execute_doc},
    {"call", (PyCFunction)(void (*)(void))engine_call, METH_FASTCALL | METH_KEYWORDS, call_doc},
    {"pipeline", engine_pipeline, METH_O, pipeline_doc},
    {"pipeline_call", engine_pipeline_call, METH_O, pipeline_call_doc},
    {"needs_own", engine_needs_own, METH_O, needs_own_doc},
    {"session", engine_session, METH_NOARGS, session_doc},
    {"disconnect", engine_disconnect, METH_NOARGS, disconnect_doc},
    {"stats", engine_stats, METH_NOARGS, stats_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef engine_getset[] = {
    {"decode_responses", get_decode, NULL, "Whether text replies are str.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef engine_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(arn_py_engine, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    engine_doc,
    "RedisEngine(*, host='localhost', port=6379, path=None, db=0, username=None,\n"
    "            password=None, client_name=None, lib_name=None, lib_version=None,\n"
    "            socket_timeout=None, socket_connect_timeout=None, keepalive=False,\n"
    "            keepalive_idle=0, keepalive_interval=0, keepalive_count=0,\n"
    "            health_check_interval=0, max_connections=2**31-1, pool_timeout=None,\n"
    "            encoding='utf-8', encoding_errors='strict', decode_responses=False,\n"
    "            error_factory, retry_policy=None, large_bytes=65536,\n"
    "            queue_bytes=67108864, express_after=64)\n--\n\n"
    "A native Redis client for any number of event loops and threads.\n\n"
    "Times are in seconds (None: no limit), sizes in bytes. error_factory(kind, message)\n"
    "makes the exceptions; retry_policy(exception, failures) returns the seconds after\n"
    "which to try again, or None to raise it. After express_after lone requests in a row\n"
    "(0: never) an event loop gets one more connection, for those. Connects on first use.");

static PyType_Slot engine_slots[] = {
    {Py_tp_doc, (void *)engine_doc},
    {Py_tp_new, new_engine},
    {Py_tp_init, init_engine},
    {Py_tp_dealloc, dealloc_engine},
    {Py_tp_traverse, traverse_engine},
    {Py_tp_clear, clear_engine},
    {Py_tp_repr, repr_engine},
    {Py_tp_methods, engine_methods},
    {Py_tp_getset, engine_getset},
    {Py_tp_members, engine_members},
    {0, NULL},
};

static PyType_Spec engine_spec = {
    .name = "arshai_native._core.RedisEngine",
    .basicsize = sizeof(arn_py_engine),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = engine_slots,
};

int arn_py_init_engine(PyObject *module, arn_py_state *st) {
    st->engine_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &engine_spec, NULL);
    if (st->engine_type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "RedisEngine", (PyObject *)st->engine_type);
}

/* ---- sessions ---- */

PyObject *arn_py_new_session(arn_py_engine *engine) {
    arn_py_state *st = engine->st;
    arn_redis_client *client = arn_py_engine_client(engine);
    arn_py_session *self;

    if (client == NULL)
        return NULL;
    self = (arn_py_session *)st->session_type->tp_alloc(st->session_type, 0);
    if (self == NULL)
        return NULL;
    self->st = arn_py_state_hold(st);
    self->engine = (arn_py_engine *)Py_NewRef((PyObject *)engine);
    self->session = arn_redis_session_new(client);
    if (self->session == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void release_session(arn_py_session *self, int discard) {
    if (self->released || self->session == NULL)
        return;
    self->released = 1;
    if (arn_redis_client_runtime(arn_redis_session_client(self->session)) == arn_runtime_current())
        arn_redis_session_release(self->session, discard);
}

static PyObject *session_execute(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames) {
    arn_py_session *self = (arn_py_session *)op;
    arn_py_target target = {self->engine, self};

    return execute_on(&target, args, nargs, kwnames, 0);
}

static PyObject *session_pipeline(PyObject *op, PyObject *commands) {
    arn_py_session *self = (arn_py_session *)op;
    arn_py_target target = {self->engine, self};

    return arn_py_pipeline_request(&target, commands);
}

static PyObject *session_release_method(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"discard", NULL};
    int discard = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:release", names, &discard))
        return NULL;
    release_session((arn_py_session *)op, discard);
    Py_RETURN_NONE;
}

static PyObject *session_closed(PyObject *op, void *closure) {
    arn_py_session *self = (arn_py_session *)op;

    (void)closure;
    return PyBool_FromLong(self->released || !arn_redis_session_is_open(self->session));
}

static PyObject *session_engine(PyObject *op, void *closure) {
    (void)closure;
    return Py_NewRef((PyObject *)((arn_py_session *)op)->engine);
}

static int traverse_session(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(((arn_py_session *)op)->st);
    Py_VISIT((PyObject *)((arn_py_session *)op)->engine);
    return 0;
}

/* The engine is needed to the last: it takes part in no cycle through a session that its own
 * tp_clear does not break. */
static int clear_session(PyObject *op) {
    (void)op;
    return 0;
}

static void dealloc_session(PyObject *op) {
    arn_py_session *self = (arn_py_session *)op;
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;

    PyObject_GC_UnTrack(op);
    /* Nobody may assume anything of a connection that was not given back in order. */
    release_session(self, 1);
    if (self->session != NULL)
        arn_redis_session_unref(self->session);
    Py_CLEAR(self->engine);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

PyDoc_STRVAR(session_release_doc,
             "release($self, /, discard=False)\n--\n\n"
             "Give the connection back; discard closes it, and so does a command under way.\n"
             "Commands of the session fail from now on.");

PyDoc_STRVAR(session_pipeline_doc, "pipeline($self, commands, /)\n--\n\n"
                                   "RedisEngine.pipeline on this connection.");

static PyMethodDef session_methods[] = {
    {"execute", (PyCFunction)(void (*)(void))session_execute, METH_FASTCALL | METH_KEYWORDS,
     execute_doc},
    {"pipeline", session_pipeline, METH_O, session_pipeline_doc},
    {"release", (PyCFunction)(void (*)(void))session_release_method, METH_VARARGS | METH_KEYWORDS,
     session_release_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef session_getset[] = {
    {"closed", session_closed, NULL, "Whether the connection is lost or given back.", NULL},
    {"engine", session_engine, NULL, "The RedisEngine it belongs to.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot session_slots[] = {
    {Py_tp_doc, (void *)"A dedicated connection; see RedisEngine.session()."},
    {Py_tp_dealloc, dealloc_session},
    {Py_tp_traverse, traverse_session},
    {Py_tp_clear, clear_session},
    {Py_tp_methods, session_methods},
    {Py_tp_getset, session_getset},
    {0, NULL},
};

static PyType_Spec session_spec = {
    .name = "arshai_native._core.RedisSession",
    .basicsize = sizeof(arn_py_session),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = session_slots,
};

int arn_py_init_session(PyObject *module, arn_py_state *st) {
    st->session_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &session_spec, NULL);
    if (st->session_type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "RedisSession", (PyObject *)st->session_type);
}
