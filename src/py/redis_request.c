/* redis_request.c - commands as requests (awaited) and as calls (blocking). */
#include "py/engine.h"
#include "py/express.h"

#include <string.h>

/* A blocking caller looks for signals this often (milliseconds): Ctrl-C works while it waits. */
#define SIGNAL_CHECK_MS 50

/* bytes objects from this size on are not copied into the request. */
#define PAYLOAD_MIN (32u * 1024u)

static arn_op *make_op(arn_py_request *req);
static PyObject *convert(arn_py_request *req, arn_op *op, double *again);
static PyObject *convert_lease(arn_py_request *req, arn_op *op, double *again);
static arn_op *make_lease_op(arn_py_request *req);

static int send_alone(arn_py_request *req, arn_op *op);
static int forget(arn_op *op);
static arn_op *make_express_op(arn_py_request *req);
static PyObject *convert_express(arn_py_request *req, arn_op *op, double *again);

static const arn_py_request_class command_class = {"Redis.execute_command", make_op, convert,
                                                   send_alone, forget};
static const arn_py_request_class lease_class = {"RedisEngine.session", make_lease_op,
                                                 convert_lease, NULL, NULL};
static const arn_py_request_class express_class = {"RedisEngine.express", make_express_op,
                                                   convert_express, NULL, NULL};

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

static arn_redis_op *new_op(const arn_py_target *target, arn_redis_route route, size_t size,
                            size_t payload_len, uint32_t replies) {
    arn_redis_client *client = target->session != NULL
                                   ? arn_redis_session_client(target->session->session)
                                   : arn_py_engine_client(target->engine);
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

static arn_redis_op *pack_command(const arn_py_target *target, const arn_py_args *args,
                                  arn_py_usage usage) {
    size_t size = arn_redis_packed_size(args->slices, args->count);
    size_t large = find_payload(args);
    size_t payload_len = large < args->count ? args->slices[large].len : 0;
    arn_redis_op *op = new_op(target, route_of(target, usage), size, payload_len, 1);

    if (op == NULL)
        return NULL;
    arn_redis_pack_around(op->request, args->slices, args->count, large, &op->payload_at);
    if (payload_len > 0) {
        op->payload = args->slices[large];
        op->payload_owner = Py_NewRef(args->objects[large]);
        op->release = arn_py_release_anywhere;
    }
    if (args->count > 1)
        op->key_hash = arn_redis_key_hash(args->slices[1].data, args->slices[1].len);
    return op;
}

/* Encodes every command of a pipeline; one arn_py_args holds all of them, `counts` how many
 * arguments each has. */
static arn_redis_op *pack_pipeline(const arn_py_target *target, PyObject *commands) {
    PyObject *list = PySequence_Fast(commands, "commands must be a sequence of sequences");
    Py_ssize_t count = list == NULL ? 0 : PySequence_Fast_GET_SIZE(list);
    size_t *counts = NULL;
    arn_redis_op *op = NULL;
    arn_py_args args;
    size_t size = 0;
    size_t at = 0;
    char *out;
    Py_ssize_t i, j;

    if (list == NULL)
        return NULL;
    arn_py_args_init(&args, &target->engine->codec);
    if (count == 0) {
        PyErr_SetString(PyExc_ValueError, "a pipeline needs at least one command");
        goto done;
    }
    counts = PyMem_New(size_t, count);
    if (counts == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (i = 0; i < count; i++) {
        size_t before = args.count;
        PyObject *command = PySequence_Fast(PySequence_Fast_GET_ITEM(list, i),
                                            "each command must be a sequence of arguments");
        int r = command == NULL ? -1 : 0;
        Py_ssize_t n = command == NULL ? 0 : PySequence_Fast_GET_SIZE(command);

        if (command != NULL && n == 0) {
            PyErr_SetString(PyExc_ValueError, "a command needs at least its name");
            r = -1;
        }
        for (j = 0; r == 0 && j < n; j++) {
            PyObject *o = PySequence_Fast_GET_ITEM(command, j);
            r = j == 0 ? arn_py_args_name(&args, o) : arn_py_args_object(&args, o);
        }
        /* The list may be a temporary one: its objects must outlive the packing below. */
        if (r == 0 && command != PySequence_Fast_GET_ITEM(list, i)) {
            if (args.temporaries == NULL)
                args.temporaries = PyList_New(0);
            r = args.temporaries == NULL ? -1 : PyList_Append(args.temporaries, command);
        }
        Py_XDECREF(command);
        if (r < 0)
            goto done;
        counts[i] = args.count - before;
        size += arn_redis_packed_size(args.slices + before, counts[i]);
    }
    op = new_op(target, route_of(target, ARN_PY_USE_SHARED), size, 0, (uint32_t)count);
    if (op == NULL)
        goto done;
    out = op->request;
    for (i = 0; i < count; i++) {
        out = arn_redis_pack(out, args.slices + at, counts[i]);
        at += counts[i];
    }

done:
    PyMem_Free(counts);
    arn_py_args_clear(&args);
    Py_DECREF(list);
    return op;
}

/* ---- requests ---- */

/* A session's commands do not wait for others', and what its connection has lost (WATCH, SELECT)
 * is not brought back by one command sent again: neither gates nor retries for them. */
static int is_full(const arn_py_target *target) {
    return target->session == NULL && target->engine->client != NULL &&
           arn_redis_is_full(target->engine->client);
}

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

static void set_op(arn_py_request *req, arn_redis_op *op) {
    req->op = &op->base;
    req->rt = arn_redis_client_runtime(op->client);
}

/* For a later attempt, or a first one that had to wait: packed from the arguments kept. */
static arn_op *make_op(arn_py_request *req) {
    arn_py_target target;
    arn_redis_op *op;
    arn_py_args args;
    Py_ssize_t i;

    if (arn_py_target_of(req->st, req->client, &target) < 0)
        return NULL;
    if (is_full(&target)) {
        op = new_op(&target, ARN_REDIS_GATE, 0, 0, 0);
        req->gated = 1;
    } else if (req->reply_kind == ARN_PY_REPLY_PIPELINE) {
        op = pack_pipeline(&target, req->args);
        req->gated = 0;
    } else {
        int r = 0;
        arn_py_args_init(&args, &target.engine->codec);
        for (i = 0; r == 0 && i < PyTuple_GET_SIZE(req->args); i++)
            r = arn_py_args_object(&args, PyTuple_GET_ITEM(req->args, i));
        op = r < 0 ? NULL : pack_command(&target, &args, (arn_py_usage)req->usage);
        arn_py_args_clear(&args);
        req->gated = 0;
    }
    if (op == NULL)
        return NULL;
    set_op(req, op);
    return &op->base;
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
    arn_redis_op *op;

    if (req == NULL) {
        Py_XDECREF(error);
        return NULL;
    }
    set_reply(req, reply);
    req->usage = (int)usage;
    req->error = error;
    if (error != NULL)
        return (PyObject *)req;
    /* Packed now, while the arguments are at hand: unless so much is under way that the bytes of
     * one more command should not exist yet, or a retry may need to pack it again. */
    if (is_full(target) || may_retry(target)) {
        req->args = arn_py_args_tuple(args);
        if (req->args == NULL)
            goto fail;
        if (is_full(target))
            return (PyObject *)req;
    }
    op = pack_command(target, args, usage);
    if (op == NULL) {
        req->error = arn_py_take_error();
        return (PyObject *)req;
    }
    set_op(req, op);
    return (PyObject *)req;

fail:
    req->state = ARN_PY_CLOSED;
    Py_DECREF(req);
    return NULL;
}

PyObject *arn_py_pipeline_request(const arn_py_target *target, PyObject *commands) {
    arn_py_request *req = new_request(target, &command_class);
    arn_redis_op *op;

    if (req == NULL)
        return NULL;
    req->reply_kind = ARN_PY_REPLY_PIPELINE;
    if (is_full(target) || may_retry(target)) {
        req->args = PySequence_Tuple(commands);
        if (req->args == NULL) {
            req->error = arn_py_take_error();
            return (PyObject *)req;
        }
        if (is_full(target))
            return (PyObject *)req;
    }
    op = pack_pipeline(target, commands);
    if (op == NULL)
        req->error = arn_py_take_error();
    else
        set_op(req, op);
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
    if (result != NULL || req->args == NULL)
        return result;
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
    set_op(req, op);
    return &op->base;
}

static PyObject *convert_lease(arn_py_request *req, arn_op *op, double *again) {
    arn_py_session *session = (arn_py_session *)req->client;

    if (op->status != ARN_OK) {
        PyObject *error = arn_py_status_error(&session->engine->codec, op);
        arn_py_raise(error);
        Py_DECREF(error);
        if (!retry_delay(session->engine, ++req->failures, again))
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
    if (!Py_IS_TYPE(req->client, req->st->engine_type))
        return 0;
    return arn_py_express_send((arn_py_engine *)req->client, req->port,
                               ARN_CONTAINER_OF(op, arn_redis_op, base));
}

static int forget(arn_op *op) {
    return ARN_CONTAINER_OF(op, arn_redis_op, base)->express;
}

static arn_op *make_express_op(arn_py_request *req) {
    arn_py_target target = {(arn_py_engine *)req->client, NULL};
    arn_redis_op *op = new_op(&target, ARN_REDIS_EXPRESS, 0, 0, 0);

    if (op == NULL)
        return NULL;
    set_op(req, op);
    return &op->base;
}

static PyObject *convert_express(arn_py_request *req, arn_op *op, double *again) {
    (void)again;
    if (op->status == ARN_OK && op->value.kind == ARN_INT) {
        int fd = (int)op->value.u.integer;
        op->value.kind = ARN_NIL;
        if (arn_py_express_open((arn_py_engine *)req->client, req->port, fd) < 0)
            PyErr_Clear(); /* a luxury that could not be had */
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
static int wait_for_op(arn_op *op, arn_runtime *rt) {
    int status;
    arn_port *port = arn_port_new(ARN_PORT_WAIT, &status);
    arn_op *done = NULL;
    int signalled = 0;

    if (port == NULL) {
        arn_op_unref(op);
        PyErr_NoMemory();
        return -1;
    }
    arn_op_set_port(op, port);
    arn_op_ref(op); /* to cancel it; the other reference goes with the submission */
    arn_runtime_submit(rt, &op->msg, &op->msg);
    while (done == NULL && !signalled) {
        Py_BEGIN_ALLOW_THREADS
        done = arn_port_wait(port, SIGNAL_CHECK_MS);
        Py_END_ALLOW_THREADS
        signalled = done == NULL && PyErr_CheckSignals() < 0;
    }
    if (done != NULL)
        arn_op_unref(done);
    else
        arn_op_cancel(rt, op);
    arn_port_close(port);
    arn_port_unref(port);
    arn_py_release_pending(); /* there may be no event loop to do it */
    if (done == NULL) {
        arn_op_unref(op);
        return -1;
    }
    return 0;
}

/* Waits until the client has room. */
static int pass_gate(const arn_py_target *target) {
    while (is_full(target)) {
        arn_redis_op *gate = new_op(target, ARN_REDIS_GATE, 0, 0, 0);
        if (gate == NULL || wait_for_op(&gate->base, arn_redis_client_runtime(gate->client)) < 0)
            return -1;
        arn_op_unref(&gate->base);
    }
    return 0;
}

static PyObject *call_op(arn_redis_op *op, const arn_py_codec *codec,
                         const arn_py_reply_spec *reply) {
    PyObject *result;

    if (op == NULL || wait_for_op(&op->base, arn_redis_client_runtime(op->client)) < 0)
        return NULL;
    result = reply_of(codec, &op->base, reply);
    arn_op_unref(&op->base);
    return result;
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

PyObject *arn_py_command_call(arn_py_engine *engine, arn_py_args *args, arn_py_usage usage,
                              const arn_py_reply_spec *reply) {
    arn_py_target target = {engine, NULL};
    unsigned failures = 0;

    for (;;) {
        double delay = 0;
        PyObject *result;
        if (pass_gate(&target) < 0)
            return NULL;
        result = call_op(pack_command(&target, args, usage), &engine->codec, reply);
        if (result != NULL || !retry_delay(engine, ++failures, &delay) || sleep_seconds(delay) < 0)
            return result;
    }
}

PyObject *arn_py_pipeline_call(arn_py_engine *engine, PyObject *commands) {
    arn_py_target target = {engine, NULL};
    arn_py_reply_spec reply = {ARN_PY_REPLY_PIPELINE, 0, NULL, NULL};
    unsigned failures = 0;

    for (;;) {
        double delay = 0;
        PyObject *result;
        if (pass_gate(&target) < 0)
            return NULL;
        result = call_op(pack_pipeline(&target, commands), &engine->codec, &reply);
        if (result != NULL || !retry_delay(engine, ++failures, &delay) || sleep_seconds(delay) < 0)
            return result;
    }
}

/* ---- parsing ---- */

static int is_word(const arn_slice *s, const char *word) {
    size_t len = strlen(word);
    size_t i;

    if (s->len != len)
        return 0;
    for (i = 0; i < len; i++)
        if ((s->data[i] & ~0x20) != word[i])
            return 0;
    return 1;
}

static arn_py_usage resolve_usage(arn_py_usage usage, const arn_py_args *args) {
    size_t i;

    if (usage == ARN_PY_USE_BY_SUBCOMMAND)
        return args->count > 1 && (is_word(&args->slices[1], "REPLY") ||
                                   is_word(&args->slices[1], "TRACKING") ||
                                   is_word(&args->slices[1], "CACHING"))
                   ? ARN_PY_USE_DISCARD
                   : ARN_PY_USE_SHARED;
    if (usage != ARN_PY_USE_IF_BLOCK)
        return usage;
    for (i = 1; i < args->count && !is_word(&args->slices[i], "STREAMS"); i++)
        if (is_word(&args->slices[i], "BLOCK"))
            return ARN_PY_USE_EXCLUSIVE;
    return ARN_PY_USE_SHARED;
}

static long first_word_spec(arn_py_state *st, const arn_slice *word) {
    PyObject *name = PyBytes_FromStringAndSize(word->data, (Py_ssize_t)word->len);
    long spec = name == NULL ? -1 : arn_py_spec_of(st, name);

    Py_XDECREF(name);
    return spec;
}

int arn_py_parse_command(arn_py_state *st, const arn_py_codec *codec, PyObject *const *args,
                         Py_ssize_t nargs, arn_py_args *out, arn_py_usage *usage, int *kind) {
    Py_ssize_t i;
    long spec;

    (void)codec;
    if (nargs < 1) {
        PyErr_SetString(PyExc_TypeError, "a command needs at least its name");
        return -1;
    }
    spec = arn_py_spec_of(st, args[0]);
    if (spec < 0)
        return -1;
    *kind = ARN_PY_SPEC_KIND(spec);
    *usage = ARN_PY_SPEC_USAGE(spec);
    if (arn_py_args_name(out, args[0]) < 0)
        return 1;
    if (spec == 0 && out->count > 1) {
        /* "BLPOP list 0" in one string: the first word says what it does to the connection. */
        spec = first_word_spec(st, &out->slices[0]);
        if (spec < 0)
            return -1;
        *usage = ARN_PY_SPEC_USAGE(spec);
    }
    for (i = 1; i < nargs; i++)
        if (arn_py_args_object(out, args[i]) < 0)
            return 1;
    *usage = resolve_usage(*usage, out);
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
