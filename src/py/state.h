/* state.h - the extension's module state and what its files share.
 *
 * Everything in src/py runs with the GIL held unless a comment says otherwise.
 */
#ifndef ARN_PY_STATE_H
#define ARN_PY_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <arn.h>

struct arn_py_loop_port;

/* The state lies in the module and lives as long as it. An object that keeps a pointer to it holds
 * the module for that: arn_py_state_hold() when it is made, ARN_PY_VISIT_STATE in tp_traverse,
 * arn_py_state_release() at the very end of tp_dealloc, nothing in tp_clear. Its type does not do
 * instead: when all is garbage together, as at the end of the interpreter, the collector clears
 * types, which lets the module go, before the last of their objects is deallocated.
 *
 * For the same reason what is in the state stays whole to the last: the module has no m_clear. The
 * cycles module -> state -> type -> module are broken by the types' own tp_clear. */
typedef struct arn_py_state {
    PyObject *module; /* borrowed: the state is part of it */

    PyTypeObject *request_type;
    PyTypeObject *loop_port_type;
    PyTypeObject *engine_type;
    PyTypeObject *session_type;
    PyTypeObject *commands_type;
    PyTypeObject *express_type;
    PyTypeObject *plan_type; /* ModelPlan */
    PyTypeObject *http_client_type;
    PyTypeObject *http_headers_type;
    PyTypeObject *http_response_type;
    PyTypeObject *vectors_type;
    PyTypeObject *ready_type; /* see ready.h */
    PyTypeObject *openai_call_type;
    PyTypeObject *openai_client_type;
    PyTypeObject *milvus_lazy_reply_type;
    PyTypeObject *milvus_lazy_hits_type;
    PyTypeObject *milvus_lazy_rows_type;
    PyTypeObject *grpc_channel_type;
    PyTypeObject *milvus_parts_type;
    PyTypeObject *milvus_plan_type;
    PyTypeObject *milvus_replies_type;
    PyTypeObject *file_type;
    PyTypeObject *file_opening_type;

    PyObject *get_running_loop; /* asyncio.get_running_loop */
    PyObject *cancelled_error;  /* asyncio.CancelledError */
    PyObject *invalid_state_error;
    PyObject *http_error; /* the exception class HttpError */
    PyObject *grpc_error; /* the exception class GrpcError */
    /* Classes; NULL: not met yet. */
    PyObject *ndarray, *np_integer, *np_floating, *csr_matrix, *csr_array;

    /* arshai_native.aiofiles' own, see file_open.c; NULL before it is imported. */
    PyObject *file_text_class, *file_reader_class, *file_writer_class;
    PyObject *file_wrap, *file_reopen, *file_cookie, *file_on_executor, *file_encoding,
        *file_translator, *file_newlines;

    PyObject *specs; /* dict: upper-case command name -> int, see replies.h */

    /* Interned names. */
    PyObject *str_call_soon, *str_call_later, *str_context, *str_call_exception_handler;
    PyObject *str_execute_command, *str_execute_python, *str_response_callbacks, *str_upper;
    PyObject *str_running_loop, *str_nest_patched, *str_flush, *str_drain, *str_drain_rest,
        *str_spin, *str_check;
    PyObject *str_resume, *str_lower;
    PyObject *str_client, *str_post, *str_own_post, *str_custom_headers, *str_custom_query;
    PyObject *str_file, *str_decode;
    PyObject *str_request_id, *str_item_of, *str_failure_of;
    PyObject *kwnames_context; /* ("context",) */
    PyObject *kwnames_value;   /* ("value",) */

    int is_ending;          /* the interpreter: see arn_py_abandon_ports() */
    unsigned long ended_by; /* the thread that has said so */
    _Atomic unsigned calls; /* a subinterpreter's, with the workers: it ends after them */

    /* Every live LoopPort, most recently used first; borrowed, each removes itself. */
    struct arn_py_loop_port *ports;
} arn_py_state;

extern struct PyModuleDef arn_py_module;

/* Looks up what the state needs of asyncio, once. 0, or -1 with an exception set. */
int arn_py_import_asyncio(arn_py_state *st);

int arn_py_init_request(PyObject *module, arn_py_state *st);
int arn_py_init_loop_port(PyObject *module, arn_py_state *st);
int arn_py_init_engine(PyObject *module, arn_py_state *st);
int arn_py_init_session(PyObject *module, arn_py_state *st);
int arn_py_init_commands(PyObject *module, arn_py_state *st);
int arn_py_init_express(PyObject *module, arn_py_state *st);
int arn_py_init_model(PyObject *module, arn_py_state *st);
int arn_py_init_http(PyObject *module, arn_py_state *st);
int arn_py_init_http_response(PyObject *module, arn_py_state *st);
int arn_py_init_http_vectors(PyObject *module, arn_py_state *st);
int arn_py_init_grpc(PyObject *module, arn_py_state *st);
int arn_py_init_ready(PyObject *module, arn_py_state *st);
int arn_py_init_blocking(PyObject *module, arn_py_state *st);
int arn_py_init_file(PyObject *module, arn_py_state *st);
int arn_py_init_file_open(PyObject *module, arn_py_state *st);
int arn_py_init_file_whole(PyObject *module, arn_py_state *st);
int arn_py_init_openai_client(PyObject *module, arn_py_state *st);
int arn_py_init_openai_endpoint(PyObject *module, arn_py_state *st);
int arn_py_init_openai_stream(PyObject *module, arn_py_state *st);
int arn_py_init_milvus_replies(PyObject *module, arn_py_state *st);
int arn_py_init_milvus_vectors(PyObject *module, arn_py_state *st);
int arn_py_init_milvus_lazy(PyObject *module, arn_py_state *st);
int arn_py_init_milvus_lazy_rows(PyObject *module, arn_py_state *st);
int arn_py_init_milvus_parts(PyObject *module, arn_py_state *st);
int arn_py_init_milvus_call(PyObject *module, arn_py_state *st);
int arn_py_init_milvus_schema(PyObject *module, arn_py_state *st);
int arn_py_init_plain(PyObject *module, arn_py_state *st);

static inline arn_py_state *arn_py_state_of(PyObject *module) {
    return PyModule_GetState(module);
}

/* The state for a heap type of ours or a subclass of it; NULL with an exception set. */
static inline arn_py_state *arn_py_state_of_type(PyTypeObject *type) {
    PyObject *module = PyType_GetModuleByDef(type, &arn_py_module);
    return module == NULL ? NULL : PyModule_GetState(module);
}

/* For an object that is going to keep it: with a reference on the module. */
static inline arn_py_state *arn_py_state_hold(arn_py_state *st) {
    Py_INCREF(st->module);
    return st;
}

/* Gives that back; st may be NULL: the object was not finished. */
static inline void arn_py_state_release(arn_py_state *st) {
    if (st != NULL)
        Py_DECREF(st->module);
}

#define ARN_PY_VISIT_STATE(st)                                                                     \
    do {                                                                                           \
        if ((st) != NULL)                                                                          \
            Py_VISIT((st)->module);                                                                \
    } while (0)

/* The exception that is set, as a new reference, cleared; never NULL if one was set. */
PyObject *arn_py_take_error(void);
/* Raises an exception instance (borrowed). Returns NULL for the caller to return. */
PyObject *arn_py_raise(PyObject *exception);

/* Raises what `hook` has returned in place of an exception, whose reference it takes over; NULL: it
 * has failed itself. Returns NULL. */
PyObject *arn_py_raise_returned(PyObject *returned, const char *hook);

/* For a failure that is no reason to stop: forgets the exception that is set. Python code was run,
 * so it may be a signal handler's: a KeyboardInterrupt is raised again as soon as Python runs on,
 * any other that is no Exception is reported. */
void arn_py_ignore_error(void);

#endif /* ARN_PY_STATE_H */
