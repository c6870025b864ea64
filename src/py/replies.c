#include "py/replies.h"

#include <string.h>

/* Names as redis-py passes them to execute_command. A command that redis-py has a callback for and
 * that is not listed here gets that callback; so only names without one may be RAW. */
static const struct {
    int kind;
    arn_py_usage usage;
    const char *names;
} table[] = {
    {ARN_PY_REPLY_RAW, ARN_PY_USE_SHARED,
     "GET GETEX GETDEL GETSET GETRANGE SUBSTR SETRANGE APPEND STRLEN MGET INCR INCRBY DECR DECRBY "
     "DEL UNLINK EXISTS TTL PTTL EXPIRETIME PEXPIRETIME TYPE TOUCH KEYS RANDOMKEY DUMP RESTORE "
     "DBSIZE SETBIT GETBIT BITCOUNT BITPOS BITOP BITFIELD HGET HSET HDEL HINCRBY HKEYS HLEN HVALS "
     "HMGET HSETNX HSTRLEN HRANDFIELD LPUSH RPUSH LPUSHX RPUSHX LPOP RPOP LRANGE LLEN LINDEX LREM "
     "LINSERT LMOVE RPOPLPUSH LPOS SADD SREM SISMEMBER SMISMEMBER SCARD SPOP SRANDMEMBER "
     "SINTERSTORE SUNIONSTORE SDIFFSTORE SINTERCARD ZCARD ZCOUNT ZLEXCOUNT ZREM ZREMRANGEBYRANK "
     "ZREMRANGEBYSCORE ZREMRANGEBYLEX ZRANGEBYLEX ZREVRANGEBYLEX ZRANGESTORE ZINTERSTORE "
     "ZUNIONSTORE ZDIFFSTORE ZINTERCARD ZRANDMEMBER PFADD PFCOUNT XADD XLEN XDEL XTRIM XACK "
     "PUBLISH "
     "SPUBLISH ECHO EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL FCALL_RO GEOADD"},
    {ARN_PY_REPLY_BOOL, ARN_PY_USE_SHARED,
     "COPY EXPIRE EXPIREAT HEXISTS HMSET MOVE MSETNX PERSIST PSETEX PEXPIRE PEXPIREAT RENAMENX "
     "SETEX SETNX SMOVE"},
    {ARN_PY_REPLY_BOOL, ARN_PY_USE_DISCARD, "AUTH"},
    {ARN_PY_REPLY_OK, ARN_PY_USE_SHARED,
     "FLUSHALL FLUSHDB LSET LTRIM MSET PFMERGE READONLY READWRITE RENAME SAVE SWAPDB ASKING"},
    {ARN_PY_REPLY_OK, ARN_PY_USE_EXCLUSIVE, "SHUTDOWN"},
    {ARN_PY_REPLY_OK, ARN_PY_USE_DISCARD, "SELECT WATCH UNWATCH QUIT"},
    {ARN_PY_REPLY_FLOAT, ARN_PY_USE_SHARED, "HINCRBYFLOAT INCRBYFLOAT"},
    {ARN_PY_REPLY_FLOAT_OR_NONE, ARN_PY_USE_SHARED, "ZINCRBY ZSCORE GEODIST"},
    {ARN_PY_REPLY_SET, ARN_PY_USE_SHARED, "SDIFF SINTER SMEMBERS SUNION"},
    {ARN_PY_REPLY_DICT, ARN_PY_USE_SHARED, "HGETALL"},
    {ARN_PY_REPLY_TUPLE_OR_NONE, ARN_PY_USE_EXCLUSIVE, "BLPOP BRPOP"},
    {ARN_PY_REPLY_SET_COMMAND, ARN_PY_USE_SHARED, "SET"},
    {ARN_PY_REPLY_PONG, ARN_PY_USE_SHARED, "PING"},
    {ARN_PY_REPLY_SCORES, ARN_PY_USE_SHARED,
     "ZDIFF ZINTER ZPOPMAX ZPOPMIN ZRANGE ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYSCORE ZREVRANK "
     "ZUNION"},
    {ARN_PY_REPLY_PYTHON, ARN_PY_USE_EXCLUSIVE,
     "BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF"},
    {ARN_PY_REPLY_PYTHON, ARN_PY_USE_DISCARD, "HELLO RESET MULTI EXEC DISCARD"},
    {ARN_PY_REPLY_PYTHON, ARN_PY_USE_IF_BLOCK, "XREAD XREADGROUP"},
    {ARN_PY_REPLY_PYTHON, ARN_PY_USE_BY_SUBCOMMAND, "CLIENT"},
    {ARN_PY_REPLY_PYTHON, ARN_PY_USE_NONE,
     "SUBSCRIBE UNSUBSCRIBE PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUNSUBSCRIBE MONITOR SYNC PSYNC "
     "REPLCONF"},
};

static int add_spec(PyObject *specs, const char *name, size_t len, int kind, arn_py_usage usage) {
    PyObject *key = PyUnicode_FromStringAndSize(name, (Py_ssize_t)len);
    PyObject *spec = PyLong_FromLong(((long)usage << 8) | kind);
    int r = -1;

    if (key != NULL && spec != NULL) {
        PyUnicode_InternInPlace(&key);
        r = PyDict_SetItem(specs, key, spec);
    }
    Py_XDECREF(key);
    Py_XDECREF(spec);
    return r;
}

PyObject *arn_py_make_specs(void) {
    PyObject *specs = PyDict_New();
    size_t i;

    for (i = 0; specs != NULL && i < sizeof(table) / sizeof(table[0]); i++) {
        const char *p = table[i].names;
        while (specs != NULL && *p != '\0') {
            size_t len = strcspn(p, " ");
            if (add_spec(specs, p, len, table[i].kind, table[i].usage) < 0)
                Py_CLEAR(specs);
            p += len;
            p += *p == ' ';
        }
    }
    return specs;
}

static long look_up(arn_py_state *st, PyObject *name) {
    PyObject *spec = PyDict_GetItemWithError(st->specs, name);

    if (spec != NULL)
        return PyLong_AsLong(spec);
    return PyErr_Occurred() ? -1 : 0;
}

long arn_py_spec_of(arn_py_state *st, PyObject *name) {
    PyObject *text, *upper;
    long spec;

    if (PyUnicode_CheckExact(name)) {
        spec = look_up(st, name);
        if (spec != 0)
            return spec;
        text = Py_NewRef(name);
    } else if (PyUnicode_Check(name)) {
        text = PyUnicode_FromObject(name); /* an enum, perhaps: its text alone counts */
    } else if (PyBytes_Check(name)) {
        text = PyUnicode_DecodeLatin1(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), NULL);
    } else {
        return 0;
    }
    if (text == NULL)
        return -1;
    upper = PyObject_CallMethodNoArgs(text, st->str_upper);
    Py_DECREF(text);
    if (upper == NULL)
        return -1;
    spec = look_up(st, upper);
    Py_DECREF(upper);
    return spec;
}

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

static int is_one_of(const arn_slice *s, const char *const *words) {
    while (*words != NULL && !is_word(s, *words))
        words++;
    return *words != NULL;
}

int arn_py_usage_of(arn_py_state *st, long spec, const arn_slice *args, size_t count) {
    static const char *const state_words[] = {"REPLY", "TRACKING", "CACHING", NULL};
    static const char *const own_words[] = {"SETNAME",  "GETNAME",  "SETINFO",      "ID",
                                            "INFO",     "NO-EVICT", "TRACKINGINFO", "NO-TOUCH",
                                            "GETREDIR", NULL};
    arn_py_usage usage;
    size_t i;

    if (spec == 0 && count > 0) {
        /* "BLPOP list 0" in one string, or " select": the first word says what it does. */
        PyObject *word = PyBytes_FromStringAndSize(args[0].data, (Py_ssize_t)args[0].len);
        spec = word == NULL ? -1 : arn_py_spec_of(st, word);
        Py_XDECREF(word);
        if (spec < 0)
            return -1;
    }
    usage = ARN_PY_SPEC_USAGE(spec);
    if (usage == ARN_PY_USE_BY_SUBCOMMAND) {
        if (count > 1 && is_one_of(&args[1], state_words))
            return ARN_PY_USE_DISCARD;
        return count > 1 && is_one_of(&args[1], own_words) ? ARN_PY_USE_LANE : ARN_PY_USE_SHARED;
    }
    if (usage != ARN_PY_USE_IF_BLOCK)
        return (int)usage;
    for (i = 1; i < count && !is_word(&args[i], "STREAMS"); i++)
        if (is_word(&args[i], "BLOCK"))
            return ARN_PY_USE_EXCLUSIVE;
    return ARN_PY_USE_SHARED;
}

static int is_text(const arn_value *v, const char *text) {
    size_t len = strlen(text);

    return v->kind == ARN_BYTES && v->len == len && memcmp(v->u.bytes, text, len) == 0;
}

static PyObject *to_float(const arn_py_codec *codec, const arn_value *v) {
    PyObject *raw, *number;

    if (v->kind == ARN_BYTES) {
        double d = PyOS_string_to_double(v->u.bytes, NULL, NULL);
        if (d != -1.0 || !PyErr_Occurred())
            return PyFloat_FromDouble(d);
        PyErr_Clear(); /* float() knows more spellings and says what is wrong */
    }
    raw = arn_py_from_value(codec, v, 0);
    if (raw == NULL)
        return NULL;
    number = PyNumber_Float(raw);
    Py_DECREF(raw);
    return number;
}

static int truth(const arn_value *v) {
    switch (v->kind) {
    case ARN_NIL:
        return 0;
    case ARN_INT:
    case ARN_BOOL:
        return v->u.integer != 0;
    case ARN_DOUBLE:
        return v->u.number != 0;
    default:
        return v->len > 0;
    }
}

static PyObject *to_set(const arn_py_codec *codec, const arn_value *v, int decode) {
    PyObject *set = PySet_New(NULL);
    size_t i;

    for (i = 0; set != NULL && i < v->len; i++) {
        PyObject *item = arn_py_from_value(codec, &v->u.items[i], decode);
        if (item == NULL || PySet_Add(set, item) < 0)
            Py_CLEAR(set);
        Py_XDECREF(item);
    }
    return set;
}

static PyObject *to_dict(const arn_py_codec *codec, const arn_value *v, int decode) {
    PyObject *dict = PyDict_New();
    size_t i;

    for (i = 0; dict != NULL && i + 1 < v->len; i += 2) {
        PyObject *key = arn_py_from_value(codec, &v->u.items[i], decode);
        PyObject *item = key == NULL ? NULL : arn_py_from_value(codec, &v->u.items[i + 1], decode);
        if (item == NULL || PyDict_SetItem(dict, key, item) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(key);
        Py_XDECREF(item);
    }
    return dict;
}

static PyObject *to_tuple(const arn_py_codec *codec, const arn_value *v, int decode) {
    PyObject *list, *tuple;

    if (v->kind != ARN_ARRAY || v->len == 0)
        Py_RETURN_NONE;
    list = arn_py_from_value(codec, v, decode);
    tuple = list == NULL ? NULL : PyList_AsTuple(list);
    Py_XDECREF(list);
    return tuple;
}

static PyObject *to_pairs(const arn_py_codec *codec, const arn_value *v, int decode) {
    PyObject *list;
    size_t i;

    if (v->kind != ARN_ARRAY)
        return arn_py_from_value(codec, v, decode);
    list = PyList_New((Py_ssize_t)(v->len / 2));
    for (i = 0; list != NULL && i + 1 < v->len; i += 2) {
        PyObject *member = arn_py_from_value(codec, &v->u.items[i], decode);
        PyObject *score = member == NULL ? NULL : to_float(codec, &v->u.items[i + 1]);
        PyObject *pair = score == NULL ? NULL : PyTuple_Pack(2, member, score);
        Py_XDECREF(member);
        Py_XDECREF(score);
        if (pair == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)(i / 2), pair);
    }
    return list;
}

PyObject *arn_py_convert_reply(const arn_py_codec *codec, int kind, const arn_value *v,
                               int decode) {
    switch (kind) {
    case ARN_PY_REPLY_BOOL:
        return PyBool_FromLong(truth(v));
    case ARN_PY_REPLY_OK:
        return PyBool_FromLong(is_text(v, "OK"));
    case ARN_PY_REPLY_PONG:
        return PyBool_FromLong(is_text(v, "PONG"));
    case ARN_PY_REPLY_SET_COMMAND:
        if (v->kind == ARN_NIL)
            Py_RETURN_NONE;
        return PyBool_FromLong(is_text(v, "OK"));
    case ARN_PY_REPLY_FLOAT:
        return to_float(codec, v);
    case ARN_PY_REPLY_FLOAT_OR_NONE:
        if (v->kind == ARN_NIL)
            Py_RETURN_NONE;
        return to_float(codec, v);
    case ARN_PY_REPLY_SET:
        if (v->kind == ARN_ARRAY || v->kind == ARN_SET || v->kind == ARN_NIL)
            return to_set(codec, v, decode);
        break;
    case ARN_PY_REPLY_DICT:
        if (v->kind == ARN_ARRAY || v->kind == ARN_NIL)
            return to_dict(codec, v, decode);
        break;
    case ARN_PY_REPLY_TUPLE_OR_NONE:
        return to_tuple(codec, v, decode);
    case ARN_PY_REPLY_SCORE_PAIRS:
        return to_pairs(codec, v, decode);
    default:
        break;
    }
    return arn_py_from_value(codec, v, decode);
}
