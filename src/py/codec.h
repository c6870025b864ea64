/* codec.h - between Python objects and the bytes and values of the core. */
#ifndef ARN_PY_CODEC_H
#define ARN_PY_CODEC_H

#include "py/state.h"

#include <redis/pack.h>

/* How text is encoded and replies are decoded: redis-py's Encoder. */
typedef struct arn_py_codec {
    const char *encoding; /* owned by the engine; never NULL */
    const char *errors;   /* likewise */
    int is_utf8_strict;
    int decode;              /* decode_responses */
    PyObject *error_factory; /* callable(kind, message) */
} arn_py_codec;

/* A reply tree as Python objects: bytes or str, int, float, bool, None, list, dict, set; nested
 * errors as exception instances. decode: whether text is decoded. New reference or NULL. */
PyObject *arn_py_from_value(const arn_py_codec *codec, const arn_value *value, int decode);

/* codec's exception for kind and message; never NULL: at worst what went wrong instead, which may
 * be a KeyboardInterrupt. */
PyObject *arn_py_make_error(const arn_py_codec *codec, const char *kind, const char *message,
                            size_t len);

/* The exception of a failed op; NULL is never returned. */
PyObject *arn_py_status_error(const arn_py_codec *codec, const arn_op *op);

/* The arguments of one command, or of a pipeline, on their way to the wire. Lives on the stack of
 * one call. It owns a reference on each object behind a slice: turning the next one into bytes may
 * run any code, which may change the list or dict they come from. */
#define ARN_PY_ARGS_INLINE 12

typedef struct arn_py_args {
    const arn_py_codec *codec;
    arn_slice *slices;
    PyObject **objects; /* owned origin of each slice; NULL: a literal */
    size_t count;
    size_t cap;
    PyObject *temporaries; /* list of objects made on the way; or NULL */
    arn_arena numbers;
    arn_slice first_slices[ARN_PY_ARGS_INLINE];
    PyObject *first_objects[ARN_PY_ARGS_INLINE];
    char first_numbers[192];
} arn_py_args;

void arn_py_args_init(arn_py_args *a, const arn_py_codec *codec);
void arn_py_args_clear(arn_py_args *a);

/* All return 0, or -1 with an exception set (DataError of the codec's for a wrong type). */
int arn_py_args_literal(arn_py_args *a, const char *s, size_t len); /* s must stay */
int arn_py_args_object(arn_py_args *a, PyObject *o);
/* The name of a command: split at white space as redis-py does. */
int arn_py_args_name(arn_py_args *a, PyObject *name);

/* All as a tuple from which the same command can be packed later. */
PyObject *arn_py_args_tuple(const arn_py_args *a);

/* Drops a reference on any thread: on the io thread, which never holds the GIL, or on a worker when
 * arn_py_release_pending() is next called. For memory that these may let go last. */
void arn_py_release_anywhere(void *object);
void arn_py_release_pending(void);

#endif /* ARN_PY_CODEC_H */
