#include "py/state.h"

#include "py/blocking.h"
#include "py/loop_port.h"
#include "py/replies.h"

#include <stddef.h>

PyObject *arn_py_take_error(void) {
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL && value != NULL)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

PyObject *arn_py_raise(PyObject *exception) {
    PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    return NULL;
}

PyObject *arn_py_raise_returned(PyObject *returned, const char *hook) {
    if (returned == NULL)
        return NULL;
    if (PyExceptionInstance_Check(returned))
        arn_py_raise(returned);
    else
        PyErr_Format(PyExc_TypeError, "%s() must return an exception", hook);
    Py_DECREF(returned);
    return NULL;
}

void arn_py_ignore_error(void) {
    if (PyErr_Occurred() == NULL)
        return;
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
        PyErr_Clear();
        PyErr_SetInterrupt();
    } else if (PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
    } else {
        PyErr_WriteUnraisable(NULL);
    }
}

PyDoc_STRVAR(
    shutdown_doc,
    "_shutdown(timeout=2.0, at_exit=False)\n--\n\n"
    "Stop the io thread and the workers. Commands under way fail, or with at_exit are never\n"
    "heard of again. A later command starts a new thread.\n\n"
    "timeout: seconds to wait for the threads. Returns whether they ended; in a\n"
    "subinterpreter nothing is stopped, and at_exit waits for its own calls on workers.");

static PyObject *shutdown_runtime(PyObject *module, PyObject *args) {
    double timeout = 2.0;
    int at_exit = 0;
    int r, workers;
    uint64_t until, now;

    if (!PyArg_ParseTuple(args, "|dp:_shutdown", &timeout, &at_exit))
        return NULL;
    if (!(timeout >= 0 && timeout < 1e6)) {
        PyErr_SetString(PyExc_ValueError, "timeout must be a number of seconds >= 0");
        return NULL;
    }
    /* The io thread is the process's, not a subinterpreter's that comes to its end. */
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        if (at_exit)
            arn_py_wait_for_calls(arn_py_state_of(module));
        Py_RETURN_FALSE;
    }
    if (at_exit)
        arn_py_abandon_ports(arn_py_state_of(module));
    Py_BEGIN_ALLOW_THREADS
    until = uv_hrtime() + (uint64_t)(timeout * 1e9);
    workers = arn_workers_stop((int)(timeout * 1000));
    now = uv_hrtime();
    r = arn_runtime_stop(now < until ? (int)((until - now) / 1000000u) : 0);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(r == ARN_OK && workers == ARN_OK);
}

static PyMethodDef methods[] = {
    {"_shutdown", shutdown_runtime, METH_VARARGS, shutdown_doc},
    {NULL, NULL, 0, NULL},
};

static int import_attribute(PyObject **out, const char *module_name, const char *name) {
    PyObject *module = PyImport_ImportModule(module_name);

    if (module == NULL)
        return -1;
    *out = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return *out == NULL ? -1 : 0;
}

static int intern_names(arn_py_state *st) {
    static const struct {
        size_t offset;
        const char *text;
    } names[] = {
        {offsetof(arn_py_state, str_call_soon), "call_soon"},
        {offsetof(arn_py_state, str_call_later), "call_later"},
        {offsetof(arn_py_state, str_context), "context"},
        {offsetof(arn_py_state, str_call_exception_handler), "call_exception_handler"},
        {offsetof(arn_py_state, str_execute_command), "execute_command"},
        {offsetof(arn_py_state, str_execute_python), "_execute_python"},
        {offsetof(arn_py_state, str_response_callbacks), "response_callbacks"},
        {offsetof(arn_py_state, str_upper), "upper"},
        {offsetof(arn_py_state, str_running_loop), "__asyncio_running_event_loop__"},
        {offsetof(arn_py_state, str_nest_patched), "_nest_patched"},
        {offsetof(arn_py_state, str_flush), "_flush"},
        {offsetof(arn_py_state, str_drain), "_drain"},
        {offsetof(arn_py_state, str_drain_rest), "_drain_rest"},
        {offsetof(arn_py_state, str_spin), "_spin"},
        {offsetof(arn_py_state, str_check), "_check"},
        {offsetof(arn_py_state, str_resume), "_resume"},
        {offsetof(arn_py_state, str_lower), "lower"},
        {offsetof(arn_py_state, str_client), "_client"},
        {offsetof(arn_py_state, str_post), "post"},
        {offsetof(arn_py_state, str_own_post), "_post"},
        {offsetof(arn_py_state, str_custom_headers), "_custom_headers"},
        {offsetof(arn_py_state, str_custom_query), "_custom_query"},
        {offsetof(arn_py_state, str_file), "_file"},
        {offsetof(arn_py_state, str_decode), "decode"},
        {offsetof(arn_py_state, str_request_id), "_request_id"},
        {offsetof(arn_py_state, str_item_of), "_item_of"},
        {offsetof(arn_py_state, str_failure_of), "_failure_of"},
    };
    size_t i;

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        PyObject *s = PyUnicode_InternFromString(names[i].text);
        if (s == NULL)
            return -1;
        *(PyObject **)((char *)st + names[i].offset) = s;
    }
    st->kwnames_context = PyTuple_Pack(1, st->str_context);
    return st->kwnames_context == NULL ? -1 : 0;
}

/* asyncio costs more to import than all of this package and is only needed by who awaits: its
 * names are looked up by the first request. */
int arn_py_import_asyncio(arn_py_state *st) {
    PyObject *cancelled = NULL, *invalid = NULL, *get_loop = NULL;

    if (st->get_running_loop != NULL)
        return 0;
    if (import_attribute(&cancelled, "asyncio", "CancelledError") == 0 &&
        import_attribute(&invalid, "asyncio", "InvalidStateError") == 0 &&
        import_attribute(&get_loop, "asyncio", "get_running_loop") == 0) {
        /* All at once: the imports have let other threads in. */
        Py_XSETREF(st->cancelled_error, cancelled);
        Py_XSETREF(st->invalid_state_error, invalid);
        Py_XSETREF(st->get_running_loop, get_loop);
        return 0;
    }
    Py_XDECREF(cancelled);
    Py_XDECREF(invalid);
    return -1;
}

static int exec_module(PyObject *module) {
    arn_py_state *st = arn_py_state_of(module);

    st->module = module;
    if (intern_names(st) < 0)
        return -1;
    st->specs = arn_py_make_specs();
    if (st->specs == NULL)
        return -1;
    if (arn_py_init_request(module, st) < 0 || arn_py_init_loop_port(module, st) < 0 ||
        arn_py_init_engine(module, st) < 0 || arn_py_init_session(module, st) < 0 ||
        arn_py_init_commands(module, st) < 0 || arn_py_init_express(module, st) < 0 ||
        arn_py_init_http(module, st) < 0 || arn_py_init_http_response(module, st) < 0 ||
        arn_py_init_http_vectors(module, st) < 0 || arn_py_init_ready(module, st) < 0 ||
        arn_py_init_openai_client(module, st) < 0 || arn_py_init_openai_endpoint(module, st) < 0 ||
        arn_py_init_openai_stream(module, st) < 0 || arn_py_init_blocking(module, st) < 0 ||
        arn_py_init_grpc(module, st) < 0 || arn_py_init_milvus_replies(module, st) < 0 ||
        arn_py_init_milvus_vectors(module, st) < 0 || arn_py_init_milvus_schema(module, st) < 0 ||
        arn_py_init_file(module, st) < 0 || arn_py_init_file_open(module, st) < 0 ||
        arn_py_init_file_whole(module, st) < 0 || arn_py_init_plain(module, st) < 0 ||
        arn_py_init_milvus_lazy(module, st) < 0 || arn_py_init_milvus_lazy_rows(module, st) < 0 ||
        arn_py_init_milvus_parts(module, st) < 0 || arn_py_init_milvus_call(module, st) < 0)
        return -1;
    if (arn_py_init_model(module, st) < 0)
        return -1;
    return 0;
}

static int traverse_module(PyObject *module, visitproc visit, void *arg) {
    arn_py_state *st = arn_py_state_of(module);

    Py_VISIT(st->request_type);
    Py_VISIT(st->loop_port_type);
    Py_VISIT(st->engine_type);
    Py_VISIT(st->session_type);
    Py_VISIT(st->commands_type);
    Py_VISIT(st->express_type);
    Py_VISIT(st->plan_type);
    Py_VISIT(st->http_client_type);
    Py_VISIT(st->http_headers_type);
    Py_VISIT(st->http_response_type);
    Py_VISIT(st->vectors_type);
    Py_VISIT(st->http_error);
    Py_VISIT(st->grpc_error);
    Py_VISIT(st->grpc_channel_type);
    Py_VISIT(st->milvus_parts_type);
    Py_VISIT(st->milvus_plan_type);
    Py_VISIT(st->milvus_replies_type);
    Py_VISIT(st->ready_type);
    Py_VISIT(st->openai_call_type);
    Py_VISIT(st->openai_client_type);
    Py_VISIT(st->milvus_lazy_reply_type);
    Py_VISIT(st->milvus_lazy_hits_type);
    Py_VISIT(st->milvus_lazy_rows_type);
    Py_VISIT(st->file_type);
    Py_VISIT(st->file_opening_type);
    Py_VISIT(st->file_text_class);
    Py_VISIT(st->file_reader_class);
    Py_VISIT(st->file_writer_class);
    Py_VISIT(st->file_wrap);
    Py_VISIT(st->file_reopen);
    Py_VISIT(st->file_newlines);
    Py_VISIT(st->file_cookie);
    Py_VISIT(st->file_on_executor);
    Py_VISIT(st->file_encoding);
    Py_VISIT(st->file_translator);
    Py_VISIT(st->get_running_loop);
    Py_VISIT(st->cancelled_error);
    Py_VISIT(st->invalid_state_error);
    Py_VISIT(st->ndarray);
    Py_VISIT(st->np_integer);
    Py_VISIT(st->np_floating);
    Py_VISIT(st->csr_matrix);
    Py_VISIT(st->csr_array);
    Py_VISIT(st->specs);
    return 0;
}

/* Nothing keeps the state any more, see state.h. */
static void free_module(void *module) {
    arn_py_state *st = arn_py_state_of(module);

    assert(st->ports == NULL);
    Py_CLEAR(st->request_type);
    Py_CLEAR(st->loop_port_type);
    Py_CLEAR(st->engine_type);
    Py_CLEAR(st->session_type);
    Py_CLEAR(st->commands_type);
    Py_CLEAR(st->express_type);
    Py_CLEAR(st->plan_type);
    Py_CLEAR(st->http_client_type);
    Py_CLEAR(st->http_headers_type);
    Py_CLEAR(st->http_response_type);
    Py_CLEAR(st->vectors_type);
    Py_CLEAR(st->http_error);
    Py_CLEAR(st->grpc_error);
    Py_CLEAR(st->grpc_channel_type);
    Py_CLEAR(st->milvus_parts_type);
    Py_CLEAR(st->milvus_plan_type);
    Py_CLEAR(st->milvus_replies_type);
    Py_CLEAR(st->ready_type);
    Py_CLEAR(st->openai_call_type);
    Py_CLEAR(st->openai_client_type);
    Py_CLEAR(st->milvus_lazy_reply_type);
    Py_CLEAR(st->milvus_lazy_hits_type);
    Py_CLEAR(st->milvus_lazy_rows_type);
    Py_CLEAR(st->file_type);
    Py_CLEAR(st->file_opening_type);
    Py_CLEAR(st->file_text_class);
    Py_CLEAR(st->file_reader_class);
    Py_CLEAR(st->file_writer_class);
    Py_CLEAR(st->file_wrap);
    Py_CLEAR(st->file_reopen);
    Py_CLEAR(st->file_newlines);
    Py_CLEAR(st->file_cookie);
    Py_CLEAR(st->file_on_executor);
    Py_CLEAR(st->file_encoding);
    Py_CLEAR(st->file_translator);
    Py_CLEAR(st->get_running_loop);
    Py_CLEAR(st->cancelled_error);
    Py_CLEAR(st->invalid_state_error);
    Py_CLEAR(st->ndarray);
    Py_CLEAR(st->np_integer);
    Py_CLEAR(st->np_floating);
    Py_CLEAR(st->csr_matrix);
    Py_CLEAR(st->csr_array);
    Py_CLEAR(st->specs);
    Py_CLEAR(st->str_call_soon);
    Py_CLEAR(st->str_call_later);
    Py_CLEAR(st->str_context);
    Py_CLEAR(st->str_call_exception_handler);
    Py_CLEAR(st->str_execute_command);
    Py_CLEAR(st->str_execute_python);
    Py_CLEAR(st->str_response_callbacks);
    Py_CLEAR(st->str_upper);
    Py_CLEAR(st->str_running_loop);
    Py_CLEAR(st->str_nest_patched);
    Py_CLEAR(st->str_flush);
    Py_CLEAR(st->str_drain);
    Py_CLEAR(st->str_drain_rest);
    Py_CLEAR(st->str_spin);
    Py_CLEAR(st->str_check);
    Py_CLEAR(st->str_resume);
    Py_CLEAR(st->str_lower);
    Py_CLEAR(st->str_file);
    Py_CLEAR(st->str_decode);
    Py_CLEAR(st->str_client);
    Py_CLEAR(st->str_post);
    Py_CLEAR(st->str_own_post);
    Py_CLEAR(st->str_custom_headers);
    Py_CLEAR(st->str_custom_query);
    Py_CLEAR(st->str_request_id);
    Py_CLEAR(st->str_item_of);
    Py_CLEAR(st->str_failure_of);
    Py_CLEAR(st->kwnames_context);
    Py_CLEAR(st->kwnames_value);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec_module},
#ifdef Py_mod_multiple_interpreters
    /* References that the io thread lets go of are dropped under whichever interpreter comes next:
     * all must share one GIL. */
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

PyDoc_STRVAR(module_doc, "The native engine of arshai_native. Its classes are made public by the\n"
                         "package's Python modules.");

struct PyModuleDef arn_py_module = {
    PyModuleDef_HEAD_INIT,         .m_name = "arshai_native._core",
    .m_doc = module_doc,           .m_size = sizeof(arn_py_state),
    .m_methods = methods,          .m_slots = slots,
    .m_traverse = traverse_module, .m_free = free_module,
};

PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&arn_py_module);
}
