/* replies.h - what is known of Redis commands by name: how their replies become Python objects
 * (redis-py's response callbacks, in C) and which connection they may use. */
#ifndef ARN_PY_REPLIES_H
#define ARN_PY_REPLIES_H

#include "py/codec.h"

typedef enum arn_py_reply_kind {
    ARN_PY_REPLY_PYTHON = 0, /* not known here: look into response_callbacks */
    ARN_PY_REPLY_RAW,
    ARN_PY_REPLY_BOOL,
    ARN_PY_REPLY_OK,
    ARN_PY_REPLY_FLOAT,
    ARN_PY_REPLY_FLOAT_OR_NONE,
    ARN_PY_REPLY_SET, /* the Python type */
    ARN_PY_REPLY_DICT,
    ARN_PY_REPLY_TUPLE_OR_NONE,
    ARN_PY_REPLY_SET_COMMAND, /* SET: None or whether it said OK */
    ARN_PY_REPLY_PONG,
    ARN_PY_REPLY_SCORES,      /* raw unless options say withscores */
    ARN_PY_REPLY_SCORE_PAIRS, /* [(member, float), ...] */
    ARN_PY_REPLY_PIPELINE     /* list of raw replies, errors as instances */
} arn_py_reply_kind;

typedef enum arn_py_usage {
    ARN_PY_USE_SHARED,
    ARN_PY_USE_LANE,         /* shared, and always the same connection: it is about that */
    ARN_PY_USE_EXCLUSIVE,    /* blocks */
    ARN_PY_USE_DISCARD,      /* changes the connection's state */
    ARN_PY_USE_NONE,         /* turns the connection into something else: not this way */
    ARN_PY_USE_IF_BLOCK,     /* exclusive when there is a BLOCK argument */
    ARN_PY_USE_BY_SUBCOMMAND /* CLIENT ...: see the next word */
} arn_py_usage;

/* A spec is (usage << 8) | kind. */
#define ARN_PY_SPEC_KIND(spec) ((int)(spec)&0xff)
#define ARN_PY_SPEC_USAGE(spec) ((arn_py_usage)((spec) >> 8))

/* dict: "GET" -> spec. New reference or NULL. */
PyObject *arn_py_make_specs(void);

/* The spec of a command's name (str or bytes, any case); 0 when it is unknown, -1 on error. */
long arn_py_spec_of(arn_py_state *st, PyObject *name);

/* What a command does to its connection, SHARED, LANE, EXCLUSIVE, DISCARD or NONE, given the spec
 * of its name and its arguments; -1 on error. */
int arn_py_usage_of(arn_py_state *st, long spec, const arn_slice *args, size_t count);

/* The reply as redis-py's callback for the kind returns it. */
PyObject *arn_py_convert_reply(const arn_py_codec *codec, int kind, const arn_value *value,
                               int decode);

#endif /* ARN_PY_REPLIES_H */
