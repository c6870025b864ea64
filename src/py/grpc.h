/* grpc.h - the bridge to src/grpc: channel, and what is shared with the clients that stand on it.
 */
#ifndef ARN_PY_GRPC_H
#define ARN_PY_GRPC_H

#include "py/request.h"
#include "py/state.h"

#include <grpc/grpc.h>

typedef struct arn_py_grpc_channel {
    PyObject_HEAD
    arn_py_state *st;
    arn_grpc_config config;    /* its strings are held by `strings` */
    PyObject *strings;         /* list of bytes; NULL: __init__ was not called */
    PyObject *metadata;        /* tuple of pairs: of every call */
    PyObject *heads;           /* dict: method path -> capsule of its arn_grpc_head */
    arn_grpc_channel *channel; /* of the runtime it was made for; see core_of() */
    unsigned generation;
    arn_tls_config tls; /* its bytes are held by `strings`; config.tls is made of it */
    unsigned tls_generation;
    int is_closed;
    PyObject *weakrefs;
} arn_py_grpc_channel;

/* What a call is made of beside its message. */
typedef struct arn_py_grpc_options {
    PyObject *timeout;  /* seconds; NULL or None: none */
    PyObject *metadata; /* sequence of pairs; NULL: none */
    int waits;          /* for a server that cannot be reached */
} arn_py_grpc_options;

/* An op for the method; its message is still to be set. NULL with an exception set. */
arn_grpc_op *arn_py_grpc_op(arn_py_grpc_channel *self, PyObject *path,
                            const arn_py_grpc_options *options);

/* The headers of a method with metadata, the channel's own among it: one reference; NULL with an
 * exception set. */
arn_grpc_head *arn_py_grpc_head(arn_py_grpc_channel *self, PyObject *path, PyObject *metadata);

/* An op of such headers and of metadata of its own. Runs no Python code. NULL with an exception
 * set. */
arn_grpc_op *arn_py_grpc_op_of_head(arn_py_grpc_channel *self, arn_grpc_head *head,
                                    const arn_slice *metadata, size_t count);

/* Sets the message: bytes are referenced where that is cheaper, all else is copied. 0, or -1 with
 * an exception set. */
int arn_py_grpc_set_message(arn_grpc_op *op, PyObject *message);

/* A request of the class for the op, whose reference it takes over (also on failure). */
arn_py_request *arn_py_grpc_request(arn_py_grpc_channel *self, const arn_py_request_class *cls,
                                    arn_grpc_op *op);

/* For request classes: how many bytes an op is. */
size_t arn_py_grpc_submitting(arn_op *op);

/* A sequence of pairs as slices of the objects in it, which stay as long as `owner` does. */
typedef struct arn_py_grpc_pairs {
    PyObject *owner; /* tuple */
    arn_slice *slices;
    size_t count;
    arn_slice first[16];
} arn_py_grpc_pairs;

/* Metadata (NULL, None: none) that may be sent. 0, or -1 with an exception set and nothing to
 * clear.
 */
int arn_py_grpc_take_pairs(arn_py_grpc_pairs *p, PyObject *metadata);
void arn_py_grpc_clear_pairs(arn_py_grpc_pairs *p);

/* Raises GrpcError for an op that has failed. Returns NULL. */
PyObject *arn_py_grpc_raise(arn_py_state *st, const arn_grpc_op *op);

#endif /* ARN_PY_GRPC_H */
