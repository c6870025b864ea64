/* http.h - the bridge to src/http: client, headers, response, and what is shared with the clients
 * of particular APIs that stand on it. */
#ifndef ARN_PY_HTTP_H
#define ARN_PY_HTTP_H

#include "py/request.h"
#include "py/state.h"

#include <http/http.h>

typedef struct arn_py_http_client {
    PyObject_HEAD
    arn_py_state *st;
    arn_http_config config;  /* its strings are held by `strings` */
    PyObject *strings;       /* list of bytes; NULL: __init__ was not called */
    arn_http_client *client; /* of the runtime it was made for; see arn_py_http_core() */
    unsigned generation;
    int is_closed;
    PyObject *weakrefs;
} arn_py_http_client;

typedef struct arn_py_http_headers {
    PyObject_HEAD
    arn_http_headers *headers;
} arn_py_http_headers;

typedef struct arn_py_http_response {
    PyObject_HEAD
    arn_py_state *st;
    arn_http_op *op;   /* referenced, posted */
    PyObject *client;  /* its HttpClient */
    PyObject *body;    /* cached */
    PyObject *headers; /* cached */
    int reading;       /* streaming: a read is under way */
} arn_py_http_response;

/* The core's client, made on first use and after a fork. Borrowed; NULL with an exception set. */
arn_http_client *arn_py_http_core(arn_py_http_client *self);

/* An op with a copy of the body (data NULL: none). The url is ASCII. NULL with an exception set. */
arn_http_op *arn_py_http_op(arn_py_http_client *self, const char *method, const char *url,
                            size_t url_len, arn_http_headers *headers,
                            const arn_http_options *options, const char *body, size_t body_len);

/* A request of the class for the op, whose reference it takes over (also on failure). */
arn_py_request *arn_py_http_request(arn_py_http_client *self, const arn_py_request_class *cls,
                                    arn_http_op *op);

/* For request classes: how many bytes an op is. */
size_t arn_py_http_submitting(arn_op *op);

/* A response for the op that has ended well: takes a reference on it. New reference or NULL. */
PyObject *arn_py_http_response_new(arn_py_state *st, PyObject *client, arn_http_op *op);

/* Raises HttpError for what failed. Returns NULL. */
PyObject *arn_py_http_raise(arn_py_state *st, arn_http_failure failure, const char *message,
                            const char *method, const char *url);

/* The same for an op that has failed. */
PyObject *arn_py_http_raise_op(arn_py_state *st, const arn_http_op *op);

/* header lines of a sequence of (name, value), or of an HttpHeaders. New reference on the core's
 * object; NULL with an exception set. */
arn_http_headers *arn_py_http_headers_of(arn_py_state *st, PyObject *headers);

/* Raises json.JSONDecodeError for a document of the op that is none. Returns NULL. */
PyObject *arn_py_http_raise_json(const char *what, size_t offset, const char *document, size_t len);

/* Raises what the end of a batch means that ends with a failure. Returns NULL. */
PyObject *arn_py_http_raise_end(arn_py_http_response *self, const arn_http_batch *batch);

/* Text of an event, and None where it is empty; the event as (event, data, id, retry), which shares
 * its id with `last` (may be NULL), made of the event before it in the batch. New references, or
 * NULL with an exception set. */
PyObject *arn_py_http_text(arn_slice s);
PyObject *arn_py_http_text_or_none(arn_slice s);
PyObject *arn_py_http_event(const arn_http_event *event, PyObject *last);

/* For request classes that read: how many bytes a read op is. */
size_t arn_py_http_submitting_read(arn_op *op);

/* A request that reads the next batch of the stream; `cls` converts it. */
arn_py_request *arn_py_http_read(arn_py_http_response *self, const arn_py_request_class *cls);

#endif /* ARN_PY_HTTP_H */
