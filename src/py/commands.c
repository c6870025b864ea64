/* commands.c - RedisCommands, the C base of the client class: execute_command and the commands
 * that are called most, from argument to result without Python in between.
 *
 * A method here takes the plain form of its command. Whatever is unusual (keywords, durations,
 * flags) goes to the same method of the next class in the MRO, redis-py's, which builds the
 * arguments and comes back through execute_command. So there is one source of truth for everything
 * that is not hot, and TypeErrors are redis-py's own.
 */
#include "py/engine.h"

#include <string.h>

typedef struct commands {
    PyObject_HEAD
    arn_py_state *st;
    PyObject *target; /* RedisEngine or RedisSession; NULL: redis-py's own path */
    int custom;       /* response callbacks were changed: replies go through Python */
} commands;

/* ---- the way to the next class ---- */

static PyObject *super_call(commands *self, PyObject *name, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames) {
    PyObject *proxy = PyObject_CallFunctionObjArgs(
        (PyObject *)&PySuper_Type, (PyObject *)self->st->commands_type, (PyObject *)self, NULL);
    PyObject *method = proxy == NULL ? NULL : PyObject_GetAttr(proxy, name);
    PyObject *result =
        method == NULL ? NULL : PyObject_Vectorcall(method, args, (size_t)nargs, kwnames);

    Py_XDECREF(proxy);
    Py_XDECREF(method);
    return result;
}

static PyObject *super_call_named(commands *self, const char *name, PyObject *const *args,
                                  Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *text = PyUnicode_InternFromString(name);
    PyObject *result = text == NULL ? NULL : super_call(self, text, args, nargs, kwnames);

    Py_XDECREF(text);
    return result;
}

static PyObject *execute_command(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames);

/* Whether execute_command is still the one below: a subclass may have its own, a test may have
 * patched the client or its class, and all commands are to pass through that one then. */
static int is_asked_directly(commands *self) {
    PyObject *method = PyObject_GetAttr((PyObject *)self, self->st->str_execute_command);
    int ours = method != NULL && PyCFunction_CheckExact(method) &&
               PyCFunction_GetFunction(method) == (PyCFunction)(void (*)(void))execute_command &&
               PyCFunction_GetSelf(method) == (PyObject *)self;

    if (method == NULL)
        PyErr_Clear(); /* redis-py's method will say so */
    Py_XDECREF(method);
    return ours;
}

static int is_native(commands *self) {
    /* In this order: looking may run any code. */
    return is_asked_directly(self) && self->target != NULL && !self->custom;
}

/* A command on its way: its arguments, and the engine or session it goes to, which is kept, as the
 * conversion of arguments may run any code. */
typedef struct command {
    PyObject *object; /* owned */
    arn_py_target target;
    arn_py_args args;
} command;

static int begin(commands *self, command *c, const char *name, size_t len) {
    if (arn_py_target_of(self->st, self->target, &c->target) < 0)
        return -1;
    c->object = Py_NewRef(self->target);
    arn_py_args_init(&c->args, &c->target.engine->codec);
    if (arn_py_args_literal(&c->args, name, len) == 0)
        return 0;
    arn_py_args_clear(&c->args);
    Py_DECREF(c->object);
    return -1;
}

/* error: an exception is set, which the awaitable is to raise. */
static PyObject *finish(command *c, int error, int kind) {
    arn_py_reply_spec reply = {kind, 0, NULL, NULL};
    PyObject *result =
        arn_py_command_request(&c->target, &c->args, error, ARN_PY_USE_SHARED, &reply);

    arn_py_args_clear(&c->args);
    Py_DECREF(c->object);
    return result;
}

#define BEGIN(self, c, name) begin((self), (c), (name), sizeof(name) - 1)
#define LITERAL(c, s) arn_py_args_literal(&(c)->args, (s), sizeof(s) - 1)
#define OBJECT(c, o) arn_py_args_object(&(c)->args, (o))

/* ---- plain commands: arguments are sent as they come ---- */

typedef struct simple_spec {
    const char *method;
    const char *command;
    unsigned char command_len;
    signed char min, max; /* positional arguments; max -1: any number */
    unsigned char ints;   /* bit i: argument i must be an int to be plain */
    unsigned char kind;
    const char *extra; /* one more argument when there are only min: a default */
} simple_spec;

static PyObject *simple(PyObject *op, const simple_spec *spec, PyObject *const *args,
                        Py_ssize_t nargs, PyObject *kwnames) {
    commands *self = (commands *)op;
    int plain = is_native(self) && kwnames == NULL && nargs >= spec->min &&
                (spec->max < 0 || nargs <= spec->max);
    command c;
    Py_ssize_t i;
    int error = 0;

    for (i = 0; plain && i < nargs && i < 8; i++)
        if ((spec->ints >> i) & 1)
            plain = PyLong_CheckExact(args[i]);
    if (!plain)
        return super_call_named(self, spec->method, args, nargs, kwnames);
    if (begin(self, &c, spec->command, spec->command_len) < 0)
        return NULL;
    for (i = 0; !error && i < nargs; i++)
        error = OBJECT(&c, args[i]) < 0;
    if (!error && spec->extra != NULL && nargs == spec->min)
        error = arn_py_args_literal(&c.args, spec->extra, strlen(spec->extra)) < 0;
    return finish(&c, error, spec->kind);
}

/* method, COMMAND, min, max, ints, kind, extra, signature behind $self */
#define SIMPLE_COMMANDS(XX)                                                                        \
    XX(get, "GET", 1, 1, 0, RAW, NULL, "name")                                                     \
    XX(getdel, "GETDEL", 1, 1, 0, RAW, NULL, "name")                                               \
    XX(getset, "GETSET", 2, 2, 0, RAW, NULL, "name, value")                                        \
    XX(getrange, "GETRANGE", 3, 3, 0, RAW, NULL, "key, start, end")                                \
    XX(setrange, "SETRANGE", 3, 3, 0, RAW, NULL, "name, offset, value")                            \
    XX(append, "APPEND", 2, 2, 0, RAW, NULL, "key, value")                                         \
    XX(strlen, "STRLEN", 1, 1, 0, RAW, NULL, "name")                                               \
    XX(setex, "SETEX", 3, 3, 2, BOOL, NULL, "name, time, value")                                   \
    XX(psetex, "PSETEX", 3, 3, 2, BOOL, NULL, "name, time_ms, value")                              \
    XX(setnx, "SETNX", 2, 2, 0, BOOL, NULL, "name, value")                                         \
    XX(incrby, "INCRBY", 1, 2, 0, RAW, "1", "name, amount=1")                                      \
    XX(incr, "INCRBY", 1, 2, 0, RAW, "1", "name, amount=1")                                        \
    XX(decrby, "DECRBY", 1, 2, 0, RAW, "1", "name, amount=1")                                      \
    XX(decr, "DECRBY", 1, 2, 0, RAW, "1", "name, amount=1")                                        \
    XX(incrbyfloat, "INCRBYFLOAT", 2, 2, 0, FLOAT, NULL, "name, amount=1.0")                       \
    XX(delete, "DEL", 0, -1, 0, RAW, NULL, "*names")                                               \
    XX(unlink, "UNLINK", 0, -1, 0, RAW, NULL, "*names")                                            \
    XX(exists, "EXISTS", 0, -1, 0, RAW, NULL, "*names")                                            \
    XX(touch, "TOUCH", 0, -1, 0, RAW, NULL, "*args")                                               \
    XX(expire, "EXPIRE", 2, 2, 2, BOOL, NULL,                                                      \
       "name, time, nx=False, xx=False, gt=False, lt=False")                                       \
    XX(pexpire, "PEXPIRE", 2, 2, 2, BOOL, NULL,                                                    \
       "name, time, nx=False, xx=False, gt=False, lt=False")                                       \
    XX(expireat, "EXPIREAT", 2, 2, 2, BOOL, NULL,                                                  \
       "name, when, nx=False, xx=False, gt=False, lt=False")                                       \
    XX(pexpireat, "PEXPIREAT", 2, 2, 2, BOOL, NULL,                                                \
       "name, when, nx=False, xx=False, gt=False, lt=False")                                       \
    XX(persist, "PERSIST", 1, 1, 0, BOOL, NULL, "name")                                            \
    XX(ttl, "TTL", 1, 1, 0, RAW, NULL, "name")                                                     \
    XX(pttl, "PTTL", 1, 1, 0, RAW, NULL, "name")                                                   \
    XX(type, "TYPE", 1, 1, 0, RAW, NULL, "name")                                                   \
    XX(rename, "RENAME", 2, 2, 0, OK, NULL, "src, dst")                                            \
    XX(renamenx, "RENAMENX", 2, 2, 0, BOOL, NULL, "src, dst")                                      \
    XX(echo, "ECHO", 1, 1, 0, RAW, NULL, "value, **kwargs")                                        \
    XX(hget, "HGET", 2, 2, 0, RAW, NULL, "name, key")                                              \
    XX(hgetall, "HGETALL", 1, 1, 0, DICT, NULL, "name")                                            \
    XX(hdel, "HDEL", 1, -1, 0, RAW, NULL, "name, *keys")                                           \
    XX(hexists, "HEXISTS", 2, 2, 0, BOOL, NULL, "name, key")                                       \
    XX(hincrby, "HINCRBY", 2, 3, 0, RAW, "1", "name, key, amount=1")                               \
    XX(hincrbyfloat, "HINCRBYFLOAT", 3, 3, 0, FLOAT, NULL, "name, key, amount=1.0")                \
    XX(hkeys, "HKEYS", 1, 1, 0, RAW, NULL, "name")                                                 \
    XX(hlen, "HLEN", 1, 1, 0, RAW, NULL, "name")                                                   \
    XX(hvals, "HVALS", 1, 1, 0, RAW, NULL, "name")                                                 \
    XX(hsetnx, "HSETNX", 3, 3, 0, RAW, NULL, "name, key, value")                                   \
    XX(hstrlen, "HSTRLEN", 2, 2, 0, RAW, NULL, "name, key")                                        \
    XX(lpush, "LPUSH", 1, -1, 0, RAW, NULL, "name, *values")                                       \
    XX(rpush, "RPUSH", 1, -1, 0, RAW, NULL, "name, *values")                                       \
    XX(lpushx, "LPUSHX", 1, -1, 0, RAW, NULL, "name, *values")                                     \
    XX(rpushx, "RPUSHX", 1, -1, 0, RAW, NULL, "name, *values")                                     \
    XX(lpop, "LPOP", 1, 1, 0, RAW, NULL, "name, count=None")                                       \
    XX(rpop, "RPOP", 1, 1, 0, RAW, NULL, "name, count=None")                                       \
    XX(llen, "LLEN", 1, 1, 0, RAW, NULL, "name")                                                   \
    XX(lindex, "LINDEX", 2, 2, 0, RAW, NULL, "name, index")                                        \
    XX(lrange, "LRANGE", 3, 3, 0, RAW, NULL, "name, start, end")                                   \
    XX(lrem, "LREM", 3, 3, 0, RAW, NULL, "name, count, value")                                     \
    XX(lset, "LSET", 3, 3, 0, OK, NULL, "name, index, value")                                      \
    XX(ltrim, "LTRIM", 3, 3, 0, OK, NULL, "name, start, end")                                      \
    XX(sadd, "SADD", 1, -1, 0, RAW, NULL, "name, *values")                                         \
    XX(srem, "SREM", 1, -1, 0, RAW, NULL, "name, *values")                                         \
    XX(scard, "SCARD", 1, 1, 0, RAW, NULL, "name")                                                 \
    XX(sismember, "SISMEMBER", 2, 2, 0, RAW, NULL, "name, value")                                  \
    XX(smembers, "SMEMBERS", 1, 1, 0, SET, NULL, "name")                                           \
    XX(spop, "SPOP", 1, 1, 0, RAW, NULL, "name, count=None")                                       \
    XX(srandmember, "SRANDMEMBER", 1, 1, 0, RAW, NULL, "name, number=None")                        \
    XX(smove, "SMOVE", 3, 3, 0, BOOL, NULL, "src, dst, value")                                     \
    XX(zcard, "ZCARD", 1, 1, 0, RAW, NULL, "name")                                                 \
    XX(zcount, "ZCOUNT", 3, 3, 0, RAW, NULL, "name, min, max")                                     \
    XX(zincrby, "ZINCRBY", 3, 3, 0, FLOAT_OR_NONE, NULL, "name, amount, value")                    \
    XX(zscore, "ZSCORE", 2, 2, 0, FLOAT_OR_NONE, NULL, "name, value")                              \
    XX(zrank, "ZRANK", 2, 2, 0, RAW, NULL, "name, value, withscore=False")                         \
    XX(zrevrank, "ZREVRANK", 2, 2, 0, RAW, NULL, "name, value, withscore=False")                   \
    XX(zrem, "ZREM", 1, -1, 0, RAW, NULL, "name, *values")                                         \
    XX(zrangebyscore, "ZRANGEBYSCORE", 3, 3, 0, RAW, NULL,                                         \
       "name, min, max, start=None, num=None, withscores=False, score_cast_func=float")            \
    XX(publish, "PUBLISH", 2, 2, 0, RAW, NULL, "channel, message, **kwargs")                       \
    XX(ping, "PING", 0, 0, 0, PONG, NULL, "**kwargs")

#define DEFINE_SIMPLE(method, command, min, max, ints, kind, extra, signature)                     \
    static PyObject *command_##method(PyObject *self, PyObject *const *args, Py_ssize_t nargs,     \
                                      PyObject *kwnames) {                                         \
        static const simple_spec spec = {#method, command, sizeof(command) - 1, min,               \
                                         max,     ints,    ARN_PY_REPLY_##kind, extra};            \
        return simple(self, &spec, args, nargs, kwnames);                                          \
    }
SIMPLE_COMMANDS(DEFINE_SIMPLE)
#undef DEFINE_SIMPLE

/* ---- commands with a form of their own ---- */

/* The options of SET that are plain: int durations and true or false flags. */
typedef struct set_options {
    PyObject *ex, *px;
    int nx, xx, keepttl, get;
} set_options;

static int take_flag(PyObject *value, int *flag) {
    if (value != Py_True && value != Py_False)
        return 0;
    *flag = value == Py_True;
    return 1;
}

static int take_duration(PyObject *value, PyObject **duration) {
    if (value == Py_None)
        return 1;
    if (!PyLong_CheckExact(value))
        return 0;
    *duration = value;
    return 1;
}

/* 0 when an option is not plain. */
static int take_set_options(set_options *o, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames) {
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    Py_ssize_t i;
    int plain = 1;

    memset(o, 0, sizeof(*o));
    if (nargs == 3)
        plain = take_duration(args[2], &o->ex);
    for (i = 0; plain && i < n; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        PyObject *value = args[nargs + i];
        if (PyUnicode_CompareWithASCIIString(name, "ex") == 0)
            plain = nargs < 3 && take_duration(value, &o->ex);
        else if (PyUnicode_CompareWithASCIIString(name, "px") == 0)
            plain = take_duration(value, &o->px);
        else if (PyUnicode_CompareWithASCIIString(name, "nx") == 0)
            plain = take_flag(value, &o->nx);
        else if (PyUnicode_CompareWithASCIIString(name, "xx") == 0)
            plain = take_flag(value, &o->xx);
        else if (PyUnicode_CompareWithASCIIString(name, "keepttl") == 0)
            plain = take_flag(value, &o->keepttl);
        else if (PyUnicode_CompareWithASCIIString(name, "get") == 0)
            plain = take_flag(value, &o->get);
        else
            plain = 0;
    }
    return plain;
}

static PyObject *command_set(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    commands *self = (commands *)op;
    set_options o;
    command c;
    int error;

    if (!is_native(self) || nargs < 2 || nargs > 3 || !take_set_options(&o, args, nargs, kwnames))
        return super_call_named(self, "set", args, nargs, kwnames);
    if (BEGIN(self, &c, "SET") < 0)
        return NULL;
    error = OBJECT(&c, args[0]) < 0 || OBJECT(&c, args[1]) < 0;
    if (!error && o.ex != NULL)
        error = LITERAL(&c, "EX") < 0 || OBJECT(&c, o.ex) < 0;
    if (!error && o.px != NULL)
        error = LITERAL(&c, "PX") < 0 || OBJECT(&c, o.px) < 0;
    if (!error && o.keepttl)
        error = LITERAL(&c, "KEEPTTL") < 0;
    if (!error && o.nx)
        error = LITERAL(&c, "NX") < 0;
    if (!error && o.xx)
        error = LITERAL(&c, "XX") < 0;
    if (!error && o.get)
        error = LITERAL(&c, "GET") < 0;
    return finish(&c, error, o.get ? ARN_PY_REPLY_RAW : ARN_PY_REPLY_SET_COMMAND);
}

/* All pairs of a dict, in its order: key then value, or value then key. */
static int add_pairs(command *c, PyObject *dict, int value_first) {
    Py_ssize_t size = PyDict_GET_SIZE(dict);
    PyObject *key, *value;
    Py_ssize_t pos = 0;

    while (PyDict_Next(dict, &pos, &key, &value)) {
        int r;
        Py_INCREF(key); /* a conversion may change the dict */
        Py_INCREF(value);
        r = OBJECT(c, value_first ? value : key) < 0 || OBJECT(c, value_first ? key : value) < 0;
        Py_DECREF(key);
        Py_DECREF(value);
        if (r)
            return -1;
        if (PyDict_GET_SIZE(dict) != size) {
            PyErr_SetString(PyExc_RuntimeError, "dictionary changed size during iteration");
            return -1;
        }
    }
    return 0;
}

static PyObject *command_hset(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    commands *self = (commands *)op;
    PyObject *mapping = NULL;
    command c;
    int error;

    if (kwnames != NULL && PyTuple_GET_SIZE(kwnames) == 1 && nargs == 1 &&
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "mapping") == 0 &&
        PyDict_CheckExact(args[1]) && PyDict_GET_SIZE(args[1]) > 0)
        mapping = args[1];
    if (!is_native(self) ||
        (mapping == NULL && (kwnames != NULL || nargs != 3 || args[1] == Py_None)))
        return super_call_named(self, "hset", args, nargs, kwnames);
    if (BEGIN(self, &c, "HSET") < 0)
        return NULL;
    error = OBJECT(&c, args[0]) < 0;
    if (!error && mapping != NULL)
        error = add_pairs(&c, mapping, 0) < 0;
    else if (!error)
        error = OBJECT(&c, args[1]) < 0 || OBJECT(&c, args[2]) < 0;
    return finish(&c, error, ARN_PY_REPLY_RAW);
}

static PyObject *command_zadd(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    commands *self = (commands *)op;
    command c;
    int error;

    if (!is_native(self) || kwnames != NULL || nargs != 2 || !PyDict_CheckExact(args[1]) ||
        PyDict_GET_SIZE(args[1]) == 0)
        return super_call_named(self, "zadd", args, nargs, kwnames);
    if (BEGIN(self, &c, "ZADD") < 0)
        return NULL;
    error = OBJECT(&c, args[0]) < 0 || add_pairs(&c, args[1], 1) < 0;
    return finish(&c, error, ARN_PY_REPLY_RAW);
}

static PyObject *command_mset(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    commands *self = (commands *)op;
    command c;

    if (!is_native(self) || kwnames != NULL || nargs != 1 || !PyDict_CheckExact(args[0]))
        return super_call_named(self, "mset", args, nargs, kwnames);
    if (BEGIN(self, &c, "MSET") < 0)
        return NULL;
    return finish(&c, add_pairs(&c, args[0], 0) < 0, ARN_PY_REPLY_OK);
}

/* mget(keys, *args) and hmget(name, keys, *args) with keys an exact list or tuple. */
static PyObject *get_many(PyObject *op, const char *method, const char *name, int prefix,
                          PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    commands *self = (commands *)op;
    PyObject *keys = nargs == prefix + 1 ? args[prefix] : NULL;
    command c;
    Py_ssize_t i;
    int error = 0;

    if (!is_native(self) || kwnames != NULL || keys == NULL ||
        !(PyList_CheckExact(keys) || PyTuple_CheckExact(keys)))
        return super_call_named(self, method, args, nargs, kwnames);
    if (PySequence_Fast_GET_SIZE(keys) == 0)
        return super_call_named(self, method, args, nargs, kwnames);
    if (begin(self, &c, name, strlen(name)) < 0)
        return NULL;
    for (i = 0; !error && i < prefix; i++)
        error = OBJECT(&c, args[i]) < 0;
    for (i = 0; !error && i < PySequence_Fast_GET_SIZE(keys); i++) {
        PyObject *key = Py_NewRef(PySequence_Fast_GET_ITEM(keys, i));
        error = OBJECT(&c, key) < 0;
        Py_DECREF(key);
    }
    return finish(&c, error, ARN_PY_REPLY_RAW);
}

static PyObject *command_mget(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    return get_many(op, "mget", "MGET", 0, args, nargs, kwnames);
}

static PyObject *command_hmget(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames) {
    return get_many(op, "hmget", "HMGET", 1, args, nargs, kwnames);
}

/* zrange and zrevrange by index, with scores or without. */
static PyObject *range(PyObject *op, const char *method, const char *name, PyObject *const *args,
                       Py_ssize_t nargs, PyObject *kwnames) {
    commands *self = (commands *)op;
    int plain = is_native(self) && nargs == 3;
    int scores = 0;
    int error = 0;
    command c;
    int i;

    if (plain && kwnames != NULL)
        plain = PyTuple_GET_SIZE(kwnames) == 1 &&
                PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "withscores") == 0 &&
                take_flag(args[3], &scores);
    if (!plain)
        return super_call_named(self, method, args, nargs, kwnames);
    if (begin(self, &c, name, strlen(name)) < 0)
        return NULL;
    for (i = 0; !error && i < 3; i++)
        error = OBJECT(&c, args[i]) < 0;
    if (!error && scores)
        error = LITERAL(&c, "WITHSCORES") < 0;
    return finish(&c, error, scores ? ARN_PY_REPLY_SCORE_PAIRS : ARN_PY_REPLY_RAW);
}

static PyObject *command_zrange(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    return range(op, "zrange", "ZRANGE", args, nargs, kwnames);
}

static PyObject *command_zrevrange(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames) {
    return range(op, "zrevrange", "ZREVRANGE", args, nargs, kwnames);
}

/* ---- execute_command ---- */

/* The keyword options as a dict without `keys`, which only a client-side cache wants. NULL when
 * there are none. 0, -1 (exception), or 1: options that only Python understands. */
static int take_options(PyObject *const *values, PyObject *kwnames, PyObject **options) {
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    Py_ssize_t i;

    *options = NULL;
    for (i = 0; i < n; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(name, "keys") == 0)
            continue;
        if (PyUnicode_CompareWithASCIIString(name, "NEVER_DECODE") == 0 ||
            PyUnicode_CompareWithASCIIString(name, "EMPTY_RESPONSE") == 0) {
            Py_CLEAR(*options);
            return 1;
        }
        if (*options == NULL)
            *options = PyDict_New();
        if (*options == NULL || PyDict_SetItem(*options, name, values[i]) < 0) {
            Py_CLEAR(*options);
            return -1;
        }
    }
    return 0;
}

/* Whether the known kind holds with these options; else Python's callback is asked. -1 with an
 * exception set. */
static int kind_with_options(int kind, PyObject *options) {
    PyObject *value;
    int truth;

    if (options == NULL || kind == ARN_PY_REPLY_PYTHON || kind == ARN_PY_REPLY_RAW)
        return kind;
    if (kind == ARN_PY_REPLY_SET_COMMAND) {
        value = PyDict_GetItemString(options, "get");
        truth = value == NULL ? 0 : PyObject_IsTrue(value);
        return truth < 0 ? -1 : truth ? ARN_PY_REPLY_RAW : kind;
    }
    if (kind == ARN_PY_REPLY_SCORES) {
        value = PyDict_GetItemString(options, "withscores");
        truth = value == NULL ? 0 : PyObject_IsTrue(value);
        if (truth <= 0)
            return truth < 0 ? -1 : ARN_PY_REPLY_RAW;
        value = PyDict_GetItemString(options, "score_cast_func");
        if (value == NULL || value == (PyObject *)&PyFloat_Type)
            return ARN_PY_REPLY_SCORE_PAIRS;
    }
    return ARN_PY_REPLY_PYTHON;
}

/* self.response_callbacks[name]: a new reference in *callback, or NULL when there is none. */
static int find_callback(commands *self, PyObject *name, PyObject **callback) {
    PyObject *callbacks = PyObject_GetAttr((PyObject *)self, self->st->str_response_callbacks);
    int found;

    *callback = NULL;
    if (callbacks == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    found = PyUnicode_Check(name) ? PySequence_Contains(callbacks, name) : 0;
    if (found > 0) {
        *callback = PyObject_GetItem(callbacks, name);
        found = *callback == NULL ? -1 : 0;
    }
    Py_DECREF(callbacks);
    return found;
}

static PyObject *call_python(commands *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    PyObject *method = PyObject_GetAttr((PyObject *)self, self->st->str_execute_python);
    PyObject *result =
        method == NULL ? NULL : PyObject_Vectorcall(method, args, (size_t)nargs, kwnames);

    Py_XDECREF(method);
    return result;
}

static PyObject *execute_command(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames) {
    commands *self = (commands *)op;
    arn_py_usage usage = ARN_PY_USE_SHARED;
    arn_py_reply_spec reply = {ARN_PY_REPLY_PYTHON, 0, NULL, NULL};
    PyObject *options = NULL, *callback = NULL, *result = NULL, *object;
    arn_py_target target;
    arn_py_args a;
    int r;

    if (self->target == NULL)
        return super_call(self, self->st->str_execute_command, args, nargs, kwnames);
    if (self->custom)
        return call_python(self, args, nargs, kwnames);
    r = take_options(args + nargs, kwnames, &options);
    if (r != 0)
        return r < 0 ? NULL : call_python(self, args, nargs, kwnames);
    if (arn_py_target_of(self->st, self->target, &target) < 0) {
        Py_XDECREF(options);
        return NULL;
    }
    object = Py_NewRef(self->target);
    arn_py_args_init(&a, &target.engine->codec);
    r = arn_py_parse_command(self->st, args, nargs, &a, &usage, &reply.kind);
    if (r == 0) {
        reply.kind = kind_with_options(reply.kind, options);
        if (reply.kind == ARN_PY_REPLY_SCORES)
            reply.kind = ARN_PY_REPLY_RAW;
        if (reply.kind < 0)
            r = -1;
        else if (reply.kind == ARN_PY_REPLY_PYTHON && find_callback(self, args[0], &callback) < 0)
            r = -1;
        reply.callback = callback;
        reply.options = options;
    }
    if (r >= 0)
        result = arn_py_command_request(&target, &a, r, usage, &reply);
    arn_py_args_clear(&a);
    Py_DECREF(object);
    Py_XDECREF(callback);
    Py_XDECREF(options);
    return result;
}

/* ---- the type ---- */

static PyObject *new_commands(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    arn_py_state *st = arn_py_state_of_type(type);
    commands *self = st == NULL ? NULL : (commands *)type->tp_alloc(type, 0);

    (void)args;
    (void)kwargs;
    if (self != NULL)
        self->st = arn_py_state_hold(st);
    return (PyObject *)self;
}

static PyObject *get_engine(PyObject *op, void *closure) {
    commands *self = (commands *)op;

    (void)closure;
    return Py_NewRef(self->target != NULL ? self->target : Py_None);
}

static int set_engine(PyObject *op, PyObject *value, void *closure) {
    commands *self = (commands *)op;
    arn_py_target target;

    (void)closure;
    if (value == Py_None)
        value = NULL;
    if (value != NULL && arn_py_target_of(self->st, value, &target) < 0)
        return -1;
    Py_XSETREF(self->target, Py_XNewRef(value));
    return 0;
}

static PyObject *get_custom(PyObject *op, void *closure) {
    (void)closure;
    return PyBool_FromLong(((commands *)op)->custom);
}

static int set_custom(PyObject *op, PyObject *value, void *closure) {
    int truth = value == NULL ? 0 : PyObject_IsTrue(value);

    (void)closure;
    if (truth < 0)
        return -1;
    ((commands *)op)->custom = truth;
    return 0;
}

static int traverse_commands(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(((commands *)op)->st);
    Py_VISIT(((commands *)op)->target);
    return 0;
}

static int clear_commands(PyObject *op) {
    Py_CLEAR(((commands *)op)->target);
    return 0;
}

static void dealloc_commands(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = ((commands *)op)->st;

    PyObject_GC_UnTrack(op);
    clear_commands(op);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

#define FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS
#define SEE_REDIS_PY "\n\nredis-py's command of this name, native from argument to result."

static PyMethodDef command_methods[] = {
    {"execute_command", FAST(execute_command),
     "execute_command($self, /, *args, **options)\n--\n\n"
     "Send a command and return an awaitable of its reply, converted as redis-py does.\n\n"
     "args: name and arguments. options: of the reply's conversion, as redis-py's commands\n"
     "pass them. Raises redis-py's exceptions when awaited."},
#define LIST_SIMPLE(method, command, min, max, ints, kind, extra, signature)                       \
    {#method, FAST(command_##method), #method "($self, /, " signature ")\n--" SEE_REDIS_PY},
    SIMPLE_COMMANDS(LIST_SIMPLE)
#undef LIST_SIMPLE
        {"set", FAST(command_set),
         "set($self, /, name, value, ex=None, px=None, nx=False, xx=False, keepttl=False, "
         "get=False, "
         "exat=None, pxat=None)\n--" SEE_REDIS_PY},
    {"hset", FAST(command_hset),
     "hset($self, /, name, key=None, value=None, mapping=None, items=None)\n--" SEE_REDIS_PY},
    {"zadd", FAST(command_zadd),
     "zadd($self, /, name, mapping, nx=False, xx=False, ch=False, incr=False, gt=False, lt=False)"
     "\n--" SEE_REDIS_PY},
    {"mset", FAST(command_mset), "mset($self, /, mapping)\n--" SEE_REDIS_PY},
    {"mget", FAST(command_mget), "mget($self, /, keys, *args)\n--" SEE_REDIS_PY},
    {"hmget", FAST(command_hmget), "hmget($self, /, name, keys, *args)\n--" SEE_REDIS_PY},
    {"zrange", FAST(command_zrange),
     "zrange($self, /, name, start, end, desc=False, withscores=False, score_cast_func=float, "
     "byscore=False, bylex=False, offset=None, num=None)\n--" SEE_REDIS_PY},
    {"zrevrange", FAST(command_zrevrange),
     "zrevrange($self, /, name, start, end, withscores=False, score_cast_func=float)"
     "\n--" SEE_REDIS_PY},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"_engine", get_engine, set_engine,
     "RedisEngine or RedisSession that serves this client; None: redis-py's own path.", NULL},
    {"_custom_callbacks", get_custom, set_custom,
     "Whether replies go through _execute_python() because callbacks were changed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot command_slots[] = {
    {Py_tp_doc,
     (void *)"The native commands of a Redis client; a base of arshai_native.redis.Redis."},
    {Py_tp_new, new_commands},
    {Py_tp_dealloc, dealloc_commands},
    {Py_tp_traverse, traverse_commands},
    {Py_tp_clear, clear_commands},
    {Py_tp_methods, command_methods},
    {Py_tp_getset, properties},
    {0, NULL},
};

static PyType_Spec command_spec = {
    .name = "arshai_native._core.RedisCommands",
    .basicsize = sizeof(commands),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = command_slots,
};

int arn_py_init_commands(PyObject *module, arn_py_state *st) {
    st->commands_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &command_spec, NULL);
    if (st->commands_type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "RedisCommands", (PyObject *)st->commands_type);
}
