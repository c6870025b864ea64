/* openai.h - the OpenAI API's calls from argument to result in C: what openai_*.c share.
 *
 *   OpenAIClient    base of the client classes: knows when a client is no longer as it was
 *   OpenAIEndpoint  in the place of a resource's method: takes plain calls, leaves the others to it
 *   OpenAICall      URL, headers and options of the requests of one kind, prepared
 *   OpenAIStream    base of the streams: items out of the batch in hand
 *
 * Everything that is not hot, and every decision about what the SDK would do, is in the Python
 * functions of arshai_native/openai/_calls.py, which ask the SDK itself.
 */
#ifndef ARN_PY_OPENAI_H
#define ARN_PY_OPENAI_H

#include "py/http.h"
#include "py/state.h"

typedef struct arn_py_openai_client {
    PyObject_HEAD
    PyObject *calls; /* dict: key -> OpenAICall, or None: the SDK's path. NULL: to be asked anew */
    PyObject *post;  /* the class's method of that name when `calls` was made */
    PyObject *snapshot; /* (custom headers, custom query): dicts that can change in place */
    unsigned int tag;   /* of the client's class, see arn_py_type_tag() */
    unsigned int http_tag;
    unsigned long changes; /* attributes set so far */
} arn_py_openai_client;

typedef struct arn_py_openai_call {
    PyObject_HEAD
    PyObject *engine;  /* HttpClient */
    PyObject *headers; /* HttpHeaders */
    PyObject *method;  /* str; ASCII, like the url */
    PyObject *url;
    PyObject *model;   /* str the URL is made for, or NULL: for any */
    PyObject *request; /* of httpx, without its body */
    PyObject *options; /* FinalRequestOptions */
    PyObject *recipe;
    arn_http_options http; /* but for the mode */
} arn_py_openai_call;

/* 1 if nobody has touched the client, its class or http_type since `calls` was made; 0, and `calls`
 * is empty. -1 with an exception set. */
int arn_py_openai_refresh(arn_py_state *st, arn_py_openai_client *client, PyTypeObject *http_type);

/* A number that changes when the class or one of its bases does; 0: it has none, ask again. */
unsigned int arn_py_type_tag(PyTypeObject *type);

#endif /* ARN_PY_OPENAI_H */
