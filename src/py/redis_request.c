/* redis_request.c - commands as requests (awaited) and as calls (blocking). */
#include "py/engine.h"
#include "py/express.h"

#include <string.h>

/* bytes objects from this size on are not copied into the request. */
#define PAYLOAD_MIN (32u * 1024u)

static arn_op *make_op(arn_py_request *req);
static PyObject *convert(arn_py_request *req, arn_op *op, double *again);
static PyObject *convert_lease(arn_py_request *req, arn_op *op, double *again);
static arn_op *make_lease_op(arn_py_request *req);

static int send_alone(arn_py_request *req, arn_op *op);
static int forget(arn_py_request *req, arn_op *op);
static arn_op *make_express_op(arn_py_request *req);
static PyObject *convert_express(arn_py_request *req, arn_op *op, double *again);

static size_t submitting(arn_op *op);

static const arn_py_request_class command_class = {.qualname = "Redis.execute_command",
                                                   .make_op = make_op,
                                                   .convert = convert,
                                                   .submitting = submitting,
                                                   .send_alone = send_alone,
                                                   .forget = forget};
static const arn_py_request_class lease_class = {.qualname = "RedisEngine.session",
                                                 .make_op = make_lease_op,
                                                 .convert = convert_lease,
                                                 .submitting = submitting};
static const arn_py_request_class express_class = {.qualname = "RedisEngine.express",
                                                   .make_op = make_express_op,
                                                   .convert = convert_express,
                                                   .submitting = submitting};

int arn_py_target_of(arn_py_state *st, PyObject *object, arn_py_target *target) {
    if (Py_IS_TYPE(object, st->engine_type)) {
        target->engine = (arn_py_engine *)object;
        target->session = NULL;
        if (target->engine->strings != NULL)
            return 0;
        PyErr_SetString(PyExc_RuntimeError, "RedisEngine.__init__ was not called");
        return -1;
    }
    if (Py_IS_TYPE(object, st->session_type)) {
        target->session = (arn_py_session *)object;
        target->engine = target->session->engine;
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "expected a RedisEngine or a RedisSession, not %.100s",
                 Py_TYPE(object)->tp_name);
    return -1;
}

/* ---- ops ---- */

static arn_redis_route route_of(const arn_py_target *target, arn_py_usage usage) {
    if (target->session != NULL)
        return ARN_REDIS_SESSION;
    if (usage == ARN_PY_USE_EXCLUSIVE)
        return ARN_REDIS_EXCLUSIVE;
    return usage == ARN_PY_USE_DISCARD ? ARN_REDIS_DISCARD : ARN_REDIS_SHARED;
}

static arn_redis_client *client_of(const arn_py_target *target) {
    return target->session != NULL ? arn_redis_session_client(target->session->session)
                                   : arn_py_engine_client(target->engine);
}

static arn_redis_op *new_op(const arn_py_target *target, arn_redis_route route, size_t size,
                            size_t payload_len, uint32_t replies) {
    arn_redis_client *client = client_of(target);
    arn_redis_op *op;

    if (client == NULL)
        return NULL;
    op = arn_redis_op_new(client, route, size, payload_len, replies);
    if (op == NULL)
        PyErr_NoMemory();
    else if (target->session != NULL)
        arn_redis_op_set_session(op, target->session->session);
    return op;
}

/* When a request may be packed. */
typedef enum pack_when {
    PACK_AHEAD,  /* before it is known that it will ever be sent: only if there is room for it */
    PACK_TO_SEND /* now; if too much is under way, a gate comes first */
} pack_when;

/* For a request of so many bytes: 1, pack it; 0, the time has not come, and *gate is the op to send
 * first or, AHEAD, NULL; -1 with an exception set. A session's commands do not wait for others'. */
static int may_pack(const arn_py_target *target, size_t size, pack_when when, arn_redis_op **gate) {
    arn_redis_client *client = client_of(target);

    *gate = NULL;
    if (client == NULL)
        return -1;
    if (when == PACK_AHEAD)
        return arn_redis_has_room(client, size) && !arn_redis_is_full(client, size);
    if (target->session != NULL || !arn_redis_is_full(client, size))
        return 1;
    /* What fills the client may itself wait for the caller's loop to come round. */
    arn_py_flush_ports(target->engine->st);
    *gate = arn_redis_gate_new(client, size);
    if (*gate != NULL)
        return 0;
    PyErr_NoMemory();
    return -1;
}

/* The first argument that is large and immutable: it is sent from where it is. args->count when
 * there is none. */
static size_t find_payload(const arn_py_args *args) {
    size_t i;

    for (i = 1; i < args->count; i++)
        if (args->slices[i].len >= PAYLOAD_MIN && args->objects[i] != NULL &&
            PyBytes_CheckExact(args->objects[i]))
            return i;
    return args->count;
}

/* As may_pack(); 1 with the op in *op, 0 with the gate or NULL there. */
static int pack_command(const arn_py_target *target, const arn_py_args *args, arn_py_usage usage,
                        pack_when when, arn_redis_op **op) {
    size_t size = arn_redis_packed_size(args->slices, args->count);
    size_t large = find_payload(args);
    size_t payload_len = large < args->count ? args->slices[large].len : 0;
    arn_redis_op *made;
    int r = may_pack(target, size, when, op);

    if (r <= 0)
        return r;
    made = new_op(target, route_of(target, usage), size, payload_len, 1);
    if (made == NULL)
        return -1;
    arn_redis_pack_around(made->request, args->slices, args->count, large, &made->payload_at);
    if (payload_len > 0) {
        made->payload = args->slices[large];
        made->payload_owner = Py_NewRef(args->objects[large]);
        made->release = arn_py_release_anywhere;
    }
    if (args->count > 1)
        made->key_hash = arn_redis_key_hash(args->slices[1].data, args->slices[1].len);
    made->lanes_only = usage == ARN_PY_USE_LANE;
    *op = made;
    return 1;
}

/* A tuple of tuples, which nobody changes; NULL with an exception set. */
static PyObject *freeze_commands(PyObject *commands) {
    PyObject *list = PySequence_List(commands);
    PyObject *tuple;
    Py_ssize_t i;

    for (i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *command = PySequence_Tuple(PyList_GET_ITEM(list, i));
        if (command != NULL && PyTuple_GET_SIZE(command) == 0) {
            PyErr_SetString(PyExc_ValueError, "a command needs at least its name");
            Py_CLEAR(command);
        }
        if (command == NULL || PyList_SetItem(list, i, command) < 0)
            Py_CLEAR(list);
    }
    if (list != NULL && PyList_GET_SIZE(list) == 0) {
        PyErr_SetString(PyExc_ValueError, "a pipeline needs at least one command");
        Py_CLEAR(list);
    }
    tuple = list == NULL ? NULL : PyList_AsTuple(list);
    Py_XDECREF(list);
    return tuple;
}

/* Frozen commands into one op; results as pack_command(). One arn_py_args holds all of them,
 * `counts` how many arguments each has. */
static int pack_pipeline(const arn_py_target *target, PyObject *commands, pack_when when,
                         arn_redis_op **op) {
    Py_ssize_t count = PyTuple_GET_SIZE(commands);
    size_t *counts = PyMem_New(size_t, count);
    arn_py_args args;
    size_t size = 0;
    size_t at = 0;
    Py_ssize_t i, j;
    char *out;
    int r = 0;

    if (counts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    arn_py_args_init(&args, &target->engine->codec);
    for (i = 0; r == 0 && i < count; i++) {
        PyObject *command = PyTuple_GET_ITEM(commands, i);
        size_t before = args.count;

        r = arn_py_args_name(&args, PyTuple_GET_ITEM(command, 0));
        for (j = 1; r == 0 && j < PyTuple_GET_SIZE(command); j++)
            r = arn_py_args_object(&args, PyTuple_GET_ITEM(command, j));
        counts[i] = args.count - before;
        size += arn_redis_packed_size(args.slices + before, counts[i]);
    }
    if (r == 0)
        r = may_pack(target, size, when, op);
    if (r == 1) {
        *op = new_op(target, route_of(target, ARN_PY_USE_SHARED), size, 0, (uint32_t)count);
        if (*op == NULL)
            r = -1;
    }
    if (r == 1) {
        out = (*op)->request;
        for (i = 0; i < count; i++) {
            out = arn_redis_pack(out, args.slices + at, counts[i]);
            at += counts[i];
        }
    }
    PyMem_Free(counts);
    arn_py_args_clear(&args);
    return r;
}

/* ---- requests ---- */

/* What a session's connection has lost (WATCH, SELECT) is not brought back by one command sent
 * again. */
static int may_retry(const arn_py_target *target) {
    return target->session == NULL && target->engine->retry_policy != NULL;
}

static arn_py_request *new_request(const arn_py_target *target,
                                   const arn_py_request_class *request_class) {
    arn_py_request *req = arn_py_request_new(target->engine->st, request_class);

    if (req != NULL)
        req->client = Py_NewRef(target->session != NULL ? (PyObject *)target->session
                                                        : (PyObject *)target->engine);
    return req;
}

static arn_op *set_op(arn_py_request *req, arn_redis_op *op) {
    req->op = &op->base;
    req->rt = arn_redis_client_runtime(op->client);
    return req->op;
}

/* For a later attempt, or a first one that had to wait: packed from the arguments kept. */
static arn_op *make_op(arn_py_request *req) {
    arn_redis_op *op = NULL;
    arn_py_target target;
    Py_ssize_t i;
    int r = 0;

    if (arn_py_target_of(req->st, req->client, &target) < 0)
        return NULL;
    if (req->reply_kind == ARN_PY_REPLY_PIPELINE) {
        r = pack_pipeline(&target, req->args, PACK_TO_SEND, &op);
    } else {
        arn_py_args args;
        arn_py_args_init(&args, &target.engine->codec);
        for (i = 0; r == 0 && i < PyTuple_GET_SIZE(req->args); i++)
            r = arn_py_args_object(&args, PyTuple_GET_ITEM(req->args, i));
        if (r == 0)
            r = pack_command(&target, &args, (arn_py_usage)req->usage, PACK_TO_SEND, &op);
        arn_py_args_clear(&args);
    }
    if (r < 0)
        return NULL;
    req->gated = r == 0;
    return set_op(req, op);
}

static size_t submitting(arn_op *base) {
    arn_redis_op *op = ARN_CONTAINER_OF(base, arn_redis_op, base);

    arn_redis_op_submitted(op);
    return op->len;
}

static void set_reply(arn_py_request *req, const arn_py_reply_spec *reply) {
    req->reply_kind = reply->kind;
    req->never_decode = reply->never_decode;
    req->reply_callback = Py_XNewRef(reply->callback);
    req->reply_options = Py_XNewRef(reply->options);
}

PyObject *arn_py_command_request(const arn_py_target *target, arn_py_args *args, int args_error,
                                 arn_py_usage usage, const arn_py_reply_spec *reply) {
    PyObject *error = args_error ? arn_py_take_error() : NULL;
    arn_py_request *req = new_request(target, &command_class);
    arn_redis_op *op = NULL;
    int r;

    if (req == NULL) {
        Py_XDECREF(error);
        return NULL;
    }
    set_reply(req, reply);
    req->usage = (int)usage;
    req->error = error;
    if (error != NULL)
        return (PyObject *)req;
    /* Packed now, while the arguments are at hand, if that is no waste; and they are kept if they
     * may be needed once more. */
    r = pack_command(target, args, usage, PACK_AHEAD, &op);
    if (r == 0 || (r > 0 && may_retry(target))) {
        req->args = arn_py_args_tuple(args);
        if (req->args == NULL)
            r = -1;
    }
    if (op != NULL)
        set_op(req, op);
    if (r < 0)
        req->error = arn_py_take_error();
    return (PyObject *)req;
}

PyObject *arn_py_pipeline_request(const arn_py_target *target, PyObject *commands) {
    arn_py_request *req = new_request(target, &command_class);
    arn_redis_op *op = NULL;
    int r = -1;

    if (req == NULL)
        return NULL;
    req->reply_kind = ARN_PY_REPLY_PIPELINE;
    req->args = freeze_commands(commands);
    if (req->args != NULL)
        r = pack_pipeline(target, req->args, PACK_AHEAD, &op);
    if (op != NULL)
        set_op(req, op);
    if (r > 0 && !may_retry(target))
        Py_CLEAR(req->args);
    if (r < 0)
        req->error = arn_py_take_error();
    return (PyObject *)req;
}

/* ---- replies ---- */

/* The result of a finished op, or NULL with an exception set. */
static PyObject *reply_of(const arn_py_codec *codec, const arn_op *base,
                          const arn_py_reply_spec *reply) {
    const arn_redis_op *op = ARN_CONTAINER_OF(base, arn_redis_op, base);
    int decode = codec->decode && !reply->never_decode;
    PyObject *error, *raw, *result, *no_args;

    if (base->status != ARN_OK) {
        error = arn_py_status_error(codec, base);
        arn_py_raise(error);
        Py_DECREF(error);
        return NULL;
    }
    if (reply->kind == ARN_PY_REPLY_PIPELINE) {
        if (op->replies > 1)
            return arn_py_from_value(codec, &base->value, decode);
        raw = arn_py_from_value(codec, &base->value, decode);
        return raw == NULL ? NULL : Py_BuildValue("[N]", raw);
    }
    if (base->value.kind == ARN_ERROR) {
        error = arn_py_make_error(codec, "response", base->value.u.bytes, base->value.len);
        arn_py_raise(error);
        Py_DECREF(error);
        return NULL;
    }
    raw = arn_py_convert_reply(codec, reply->kind, &base->value, decode);
    if (raw == NULL || reply->callback == NULL)
        return raw;
    no_args = PyTuple_Pack(1, raw);
    Py_DECREF(raw);
    if (no_args == NULL)
        return NULL;
    result = PyObject_Call(reply->callback, no_args, reply->options);
    Py_DECREF(no_args);
    return result;
}

/* Asks the retry policy about the exception that is set. 1: again after *delay seconds, the
 * exception is gone. 0: no. */
static int retry_delay(const arn_py_engine *engine, unsigned failures, double *delay) {
    PyObject *error, *answer;

    if (engine->retry_policy == NULL || !PyErr_ExceptionMatches(PyExc_Exception))
        return 0;
    error = arn_py_take_error();
    answer = PyObject_CallFunction(engine->retry_policy, "OI", error, failures);
    if (answer == NULL || answer == Py_None) {
        if (answer != NULL)
            arn_py_raise(error);
        Py_XDECREF(answer);
        Py_DECREF(error);
        return 0;
    }
    Py_DECREF(error);
    *delay = PyFloat_AsDouble(answer);
    Py_DECREF(answer);
    if (*delay == -1.0 && PyErr_Occurred())
        return 0;
    if (!(*delay > 0))
        *delay = 0;
    return 1;
}

static PyObject *convert(arn_py_request *req, arn_op *op, double *again) {
    arn_py_reply_spec reply = {req->reply_kind, req->never_decode, req->reply_callback,
                               req->reply_options};
    arn_py_target target;
    PyObject *result;

    if (arn_py_target_of(req->st, req->client, &target) < 0)
        return NULL;
    if (req->gated && op->status == ARN_OK) {
        *again = 0; /* there is room: now the command itself, or another gate */
        Py_RETURN_NONE;
    }
    result = reply_of(&target.engine->codec, op, &reply);
    if (result != NULL || !may_retry(&target) || op->status == ARN_EAUTH)
        return result; /* a password that was refused once is not presented again and again */
    if (!retry_delay(target.engine, ++req->failures, again))
        return NULL;
    Py_RETURN_NONE;
}

/* ---- leases ---- */

static arn_op *make_lease_op(arn_py_request *req) {
    arn_py_session *session = (arn_py_session *)req->client;
    arn_py_target target = {session->engine, session};
    arn_redis_op *op = new_op(&target, ARN_REDIS_LEASE, 0, 0, 0);

    if (op == NULL)
        return NULL;
    return set_op(req, op);
}

static PyObject *convert_lease(arn_py_request *req, arn_op *op, double *again) {
    arn_py_session *session = (arn_py_session *)req->client;

    if (op->status != ARN_OK) {
        PyObject *error = arn_py_status_error(&session->engine->codec, op);
        arn_py_raise(error);
        Py_DECREF(error);
        if (op->status == ARN_EAUTH || !retry_delay(session->engine, ++req->failures, again))
            return NULL;
        Py_RETURN_NONE;
    }
    return Py_NewRef((PyObject *)session);
}

PyObject *arn_py_lease_request(arn_py_session *session) {
    arn_py_target target = {session->engine, session};

    return (PyObject *)new_request(&target, &lease_class);
}

/* ---- the express connection ---- */

static int send_alone(arn_py_request *req, arn_op *op) {
    arn_redis_op *command = ARN_CONTAINER_OF(op, arn_redis_op, base);

    if (!Py_IS_TYPE(req->client, req->st->engine_type) || command->lanes_only)
        return 0;
    return arn_py_express_send((arn_py_engine *)req->client, req->port, command);
}

/* The connection of a command that was given up may be dead: it is not used again. */
static int forget(arn_py_request *req, arn_op *op) {
    if (!ARN_CONTAINER_OF(op, arn_redis_op, base)->express)
        return 0;
    if (req->client != NULL && req->port != NULL) /* not cleared by the garbage collector */
        arn_py_express_give_up((arn_py_engine *)req->client, req->port);
    return 1;
}

static arn_op *make_express_op(arn_py_request *req) {
    arn_py_target target = {(arn_py_engine *)req->client, NULL};
    arn_redis_op *op = new_op(&target, ARN_REDIS_EXPRESS, 0, 0, 0);

    if (op == NULL)
        return NULL;
    return set_op(req, op);
}

static PyObject *convert_express(arn_py_request *req, arn_op *op, double *again) {
    (void)again;
    if (op->status == ARN_OK && op->value.kind == ARN_INT) {
        int fd = (int)op->value.u.integer;
        op->value.kind = ARN_NIL;
        if (arn_py_express_open((arn_py_engine *)req->client, req->port, fd) < 0)
            arn_py_ignore_error(); /* a luxury that could not be had */
    }
    Py_RETURN_NONE;
}

arn_py_request *arn_py_express_request(arn_py_engine *engine) {
    arn_py_target target = {engine, NULL};

    return new_request(&target, &express_class);
}

/* ---- blocking ---- */

/* Submits the op and waits for it. 0, or -1 with an exception set (a signal's). The op is the
 * caller's again on success; on failure it is gone. */
static int wait_for_op(arn_py_state *st, arn_redis_op *command) {
    int r;

    arn_redis_op_submitted(command);
    r = arn_py_wait(st, arn_redis_client_runtime(command->client), &command->base);
    if (r < 0)
        arn_op_unref(&command->base);
    return r;
}

/* Sleeps before a further attempt, signals served. */
static int sleep_seconds(double delay) {
    PyObject *time_module, *r;

    if (delay <= 0)
        return 0;
    time_module = PyImport_ImportModule("time");
    r = time_module == NULL ? NULL : PyObject_CallMethod(time_module, "sleep", "d", delay);
    Py_XDECREF(time_module);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* pack(what, &op) makes the op or a gate, as pack_command() does. */
static PyObject *call(arn_py_engine *engine, int (*pack)(void *what, arn_redis_op **op), void *what,
                      const arn_py_reply_spec *reply) {
    unsigned failures = 0;

    for (;;) {
        arn_redis_op *op = NULL;
        double delay = 0;
        PyObject *result;
        int gated = pack(what, &op) == 0;
        int status;

        if (op == NULL || wait_for_op(engine->st, op) < 0)
            return NULL;
        status = op->base.status;
        result = gated && status == ARN_OK ? NULL : reply_of(&engine->codec, &op->base, reply);
        arn_op_unref(&op->base);
        if (gated && status == ARN_OK)
            continue;
        if (result != NULL || status == ARN_EAUTH || !retry_delay(engine, ++failures, &delay) ||
            sleep_seconds(delay) < 0)
            return result;
    }
}

typedef struct command_call {
    arn_py_target target;
    const arn_py_args *args;
    arn_py_usage usage;
} command_call;

static int pack_command_call(void *what, arn_redis_op **op) {
    const command_call *c = what;

    return pack_command(&c->target, c->args, c->usage, PACK_TO_SEND, op);
}

PyObject *arn_py_command_call(arn_py_engine *engine, arn_py_args *args, arn_py_usage usage,
                              const arn_py_reply_spec *reply) {
    command_call c = {{engine, NULL}, args, usage};

    return call(engine, pack_command_call, &c, reply);
}

typedef struct pipeline_call {
    arn_py_target target;
    PyObject *commands;
} pipeline_call;

static int pack_pipeline_call(void *what, arn_redis_op **op) {
    const pipeline_call *c = what;

    return pack_pipeline(&c->target, c->commands, PACK_TO_SEND, op);
}

PyObject *arn_py_pipeline_call(arn_py_engine *engine, PyObject *commands) {
    arn_py_reply_spec reply = {ARN_PY_REPLY_PIPELINE, 0, NULL, NULL};
    pipeline_call c = {{engine, NULL}, freeze_commands(commands)};
    PyObject *result = c.commands == NULL ? NULL : call(engine, pack_pipeline_call, &c, &reply);

    Py_XDECREF(c.commands);
    return result;
}

/* ---- parsing ---- */

int arn_py_parse_command(arn_py_state *st, PyObject *const *args, Py_ssize_t nargs,
                         arn_py_args *out, arn_py_usage *usage, int *kind) {
    Py_ssize_t i;
    long spec;
    int used;

    if (nargs < 1) {
        PyErr_SetString(PyExc_TypeError, "a command needs at least its name");
        return -1;
    }
    spec = arn_py_spec_of(st, args[0]);
    if (spec < 0)
        return -1;
    *kind = ARN_PY_SPEC_KIND(spec);
    if (arn_py_args_name(out, args[0]) < 0)
        return 1;
    for (i = 1; i < nargs; i++)
        if (arn_py_args_object(out, args[i]) < 0)
            return 1;
    used = arn_py_usage_of(st, spec, out->slices, out->count);
    if (used < 0)
        return -1;
    *usage = (arn_py_usage)used;
    if (*usage == ARN_PY_USE_NONE) {
        PyObject *word =
            PyUnicode_DecodeLatin1(out->slices[0].data, (Py_ssize_t)out->slices[0].len, NULL);
        if (word != NULL)
            PyErr_Format(PyExc_NotImplementedError,
                         "%U turns the connection into a stream of messages and cannot be sent as "
                         "a command: use pubsub() or monitor()",
                         word);
        Py_XDECREF(word);
        return 1;
    }
    return 0;
}

int arn_py_needs_own(arn_py_engine *engine, PyObject *commands) {
    PyObject *frozen = freeze_commands(commands);
    int own = frozen == NULL ? -1 : 0;
    Py_ssize_t i;

    for (i = 0; own == 0 && i < PyTuple_GET_SIZE(frozen); i++) {
        PyObject *command = PyTuple_GET_ITEM(frozen, i);
        arn_py_usage usage;
        arn_py_args args;
        int kind, r;

        arn_py_args_init(&args, &engine->codec);
        r = arn_py_parse_command(engine->st, PySequence_Fast_ITEMS(command),
                                 PyTuple_GET_SIZE(command), &args, &usage, &kind);
        arn_py_args_clear(&args);
        own = r != 0 ? -1 : usage == ARN_PY_USE_EXCLUSIVE || usage == ARN_PY_USE_DISCARD;
    }
    Py_XDECREF(frozen);
    return own;
}
