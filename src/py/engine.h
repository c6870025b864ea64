/* engine.h - RedisEngine and RedisSession, and the requests made on them. */
#ifndef ARN_PY_ENGINE_H
#define ARN_PY_ENGINE_H

#include "py/codec.h"
#include "py/replies.h"
#include "py/request.h"
#include "py/state.h"

#include <redis/client.h>

/* The native client of one pool. It outlives forks and shutdowns: the C client is made anew when
 * the runtime it belonged to is not this process's. */
typedef struct arn_py_engine {
    PyObject_HEAD
    arn_py_state *st;
    arn_redis_client *client; /* owned; NULL until first used */
    arn_redis_config config;  /* strings point into `strings` */
    PyObject *strings;        /* tuple of bytes */
    PyObject *retry_policy;   /* callable or NULL */
    arn_py_codec codec;
    unsigned generation; /* of the process that made `client` */
    int express_after;   /* lone requests in a row; 0: never */
    unsigned epoch;      /* grows with each disconnect: what was asked for before is void */
    PyObject *weakrefs;
} arn_py_engine;

/* The right to a dedicated connection; made by RedisEngine.session(). */
typedef struct arn_py_session {
    PyObject_HEAD
    arn_py_state *st;
    arn_py_engine *engine;      /* owned */
    arn_redis_session *session; /* owned */
    int released;
} arn_py_session;

/* What a command is sent on: an engine's shared connections or a session's own. */
typedef struct arn_py_target {
    arn_py_engine *engine;   /* borrowed */
    arn_py_session *session; /* borrowed, or NULL */
} arn_py_target;

/* object: RedisEngine or RedisSession, which must stay. 0, or -1 with TypeError set. */
int arn_py_target_of(arn_py_state *st, PyObject *object, arn_py_target *target);

/* The C client for this process, started if need be. Borrowed; NULL with an exception set. */
arn_redis_client *arn_py_engine_client(arn_py_engine *engine);

/* How the reply of a request is to be made. */
typedef struct arn_py_reply_spec {
    int kind;
    int never_decode;
    PyObject *callback; /* borrowed, or NULL: called with the reply and options */
    PyObject *options;  /* borrowed dict, or NULL */
} arn_py_reply_spec;

/* An awaitable for the command in `args`; consumes nothing. If args_error is set, an exception is
 * pending that the first await is to raise instead. New reference or NULL. */
PyObject *arn_py_command_request(const arn_py_target *target, arn_py_args *args, int args_error,
                                 arn_py_usage usage, const arn_py_reply_spec *reply);

/* The same for a list of argument sequences sent as one unit. */
PyObject *arn_py_pipeline_request(const arn_py_target *target, PyObject *commands);

/* An awaitable that results in `session` when it has its connection. */
PyObject *arn_py_lease_request(arn_py_session *session);

/* A request that results in the descriptor of an express connection (see express.h). */
arn_py_request *arn_py_express_request(arn_py_engine *engine);

/* Blocking forms: the GIL is released while waiting. */
PyObject *arn_py_command_call(arn_py_engine *engine, arn_py_args *args, arn_py_usage usage,
                              const arn_py_reply_spec *reply);
PyObject *arn_py_pipeline_call(arn_py_engine *engine, PyObject *commands);

/* Parses engine.execute's arguments: fills args, usage and reply. 0, 1 (an exception is set that
 * belongs to the awaitable), -1 (one that is to be raised now). */
int arn_py_parse_command(arn_py_state *st, PyObject *const *args, Py_ssize_t nargs,
                         arn_py_args *out, arn_py_usage *usage, int *kind);

/* Whether one of the commands (an iterable of iterables) must not share a connection: 0 or 1, -1
 * with an exception set, e.g. because one cannot be sent as a command at all. */
int arn_py_needs_own(arn_py_engine *engine, PyObject *commands);

PyObject *arn_py_new_session(arn_py_engine *engine);

#endif /* ARN_PY_ENGINE_H */
