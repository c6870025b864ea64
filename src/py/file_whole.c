/* file_whole.c - write_file(): open, write and close as one job that needs no GIL. */
#include "py/file.h"

#include <errno.h>
#include <fcntl.h>

/* Of the request's fields: client is the path as given, args the bytes. */

static arn_op *make_op(arn_py_request *req) {
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    arn_file_job *job;

    if (PySys_Audit("open", "Osi", req->client, "wb", flags | O_CLOEXEC) < 0)
        return NULL;
    req->rt = arn_py_runtime();
    job = req->rt == NULL ? NULL : arn_py_file_opening_job(req->client, flags);
    if (job == NULL)
        return NULL;
    job->steps |= ARN_FILE_WRITES | ARN_FILE_CLOSES;
    job->parts[0].data = PyBytes_AS_STRING(req->args);
    job->parts[0].len = (size_t)PyBytes_GET_SIZE(req->args);
    job->held[0] = Py_NewRef(req->args);
    return &job->op;
}

static PyObject *convert(arn_py_request *req, arn_op *op, double *again) {
    arn_file_job *job = ARN_CONTAINER_OF(op, arn_file_job, op);

    (void)again;
    if (op->status != ARN_OK) {
        PyErr_SetString(PyExc_RuntimeError, "no worker thread can be had, or they were stopped");
        return NULL;
    }
    if (job->error == 0)
        return PyLong_FromSize_t(job->written);
    errno = job->error;
    if (errno == ENOMEM)
        return PyErr_NoMemory();
    /* As with open() and write(): only what cannot be opened is named. */
    return job->file == NULL || errno == EISDIR
               ? PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, req->client)
               : PyErr_SetFromErrno(PyExc_OSError);
}

static void send_op(arn_py_request *req, arn_op *op) {
    (void)req;
    arn_workers_submit(&op->msg);
}

static const arn_py_request_class write_class = {
    .qualname = "write_file", .make_op = make_op, .convert = convert, .send = send_op};

PyDoc_STRVAR(write_file_doc,
             "write_file($module, path, data, /)\n--\n\n"
             "Awaitable: opens the file as open(path, \"wb\") does, writes the bytes and\n"
             "closes it, in one job; how many bytes. Cancelled before a thread has taken it\n"
             "up, nothing happens; later it goes on.");

static PyObject *write_file(PyObject *module, PyObject *args) {
    arn_py_request *req;
    PyObject *path, *data;

    if (!PyArg_ParseTuple(args, "OS:write_file", &path, &data))
        return NULL;
    path = PyOS_FSPath(path);
    if (path == NULL)
        return NULL;
    req = arn_py_request_new(arn_py_state_of(module), &write_class);
    if (req != NULL) {
        req->client = Py_NewRef(path);
        req->args = Py_NewRef(data);
    }
    Py_DECREF(path);
    return (PyObject *)req;
}

static PyMethodDef functions[] = {
    {"write_file", write_file, METH_VARARGS, write_file_doc},
    {NULL, NULL, 0, NULL},
};

int arn_py_init_file_whole(PyObject *module, arn_py_state *st) {
    (void)st;
    return PyModule_AddFunctions(module, functions);
}
