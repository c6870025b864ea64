#include "py/express.h"

#include <redis/express.h>

/* Lone requests in a row before a connection is made for them. */
#define ALONE_ENOUGH 64
/* And after one could not be had, or a large reply has shown that the lanes serve better. */
#define ALONE_NOT_SOON (-4096)

/* So long after a lone request its reply is looked for without sleeping, if the loop has nothing
 * else to do. A thread that sleeps and is woken pays that much CPU time too, and three times as
 * much latency on a virtual machine; a server on the same network is too far for it, and then the
 * attempts soon stop: after each failed one twice as many requests pass without. */
#define SPIN_NS 50000u
#define SPIN_SKIP_MAX 1024u

typedef struct express {
    PyObject_HEAD
    arn_py_state *st;
    arn_py_engine *engine;  /* borrowed; NULL once the engine is gone */
    arn_py_loop_port *port; /* owned; NULL once closed */
    arn_redis_express *e;   /* owned; NULL once closed */
    int check_scheduled;
    PyObject *spin;  /* bound method, made once; NULL: no spinning */
    PyObject *ready; /* what asyncio's loop is about to call; NULL where that is not known */
    int spin_scheduled;
    unsigned spin_skip; /* requests to pass before the next attempt, and after another failure */
    unsigned spin_skip_next;
} express;

static int call_later(express *self, double delay) {
    PyObject *check = PyObject_GetAttrString((PyObject *)self, "_check");
    PyObject *handle = NULL;

    if (check != NULL)
        handle = PyObject_CallMethod(self->port->loop, "call_later", "dO", delay, check);
    Py_XDECREF(check);
    Py_XDECREF(handle);
    self->check_scheduled = handle != NULL;
    return handle == NULL ? -1 : 0;
}

static express *find(arn_py_engine *engine, const arn_py_loop_port *port) {
    Py_ssize_t i;

    for (i = 0; engine->expresses != NULL && i < PyList_GET_SIZE(engine->expresses); i++) {
        express *candidate = (express *)PyList_GET_ITEM(engine->expresses, i);
        if (candidate->port == port && candidate->e != NULL)
            return candidate;
    }
    return NULL;
}

static void ask_for_one(arn_py_engine *engine, arn_py_loop_port *port) {
    arn_py_request *req = arn_py_express_request(engine);

    engine->alone = ALONE_NOT_SOON;
    if (req == NULL || arn_py_request_start(req, port) < 0)
        PyErr_Clear();
    Py_XDECREF(req);
}

/* Through the loop, so that what is ready runs first and no await is without a turn of it. */
static void schedule_spin(express *self) {
    if (self->spin == NULL || self->spin_scheduled)
        return;
    if (self->spin_skip > 0)
        self->spin_skip--;
    else if (arn_py_port_call_soon(self->port, self->spin, NULL, NULL) == 0)
        self->spin_scheduled = 1;
    else
        PyErr_Clear(); /* the loop is closing */
}

int arn_py_express_send(arn_py_engine *engine, arn_py_loop_port *port, arn_redis_op *op) {
    express *self = find(engine, port);

    if (self == NULL) {
        if (port->submitted - engine->last_alone > 1 && engine->alone > 0)
            engine->alone = 0;
        engine->last_alone = port->submitted;
        if (++engine->alone >= ALONE_ENOUGH)
            ask_for_one(engine, port);
        return 0;
    }
    if (!arn_redis_express_send(self->e, op))
        return 0;
    if (arn_redis_express_deadline(self->e) != 0 && !self->check_scheduled &&
        call_later(self, (double)op->base.timeout_ms / 1000) < 0)
        PyErr_Clear();
    schedule_spin(self);
    return 1;
}

/* The connection's end: no reader, no descriptor, out of the engine's list. An exception that is
 * set stays set. */
static void close_express(express *self) {
    arn_redis_express *e = self->e;
    arn_py_loop_port *port = self->port;
    PyObject *error;
    Py_ssize_t i;

    if (e == NULL)
        return;
    error = PyErr_Occurred() != NULL ? arn_py_take_error() : NULL;
    self->e = NULL;
    self->port = NULL;
    Py_CLEAR(self->spin);
    Py_CLEAR(self->ready);
    if (port->loop != NULL) {
        PyObject *r =
            PyObject_CallMethod(port->loop, "remove_reader", "i", arn_redis_express_fd(e));
        if (r == NULL)
            PyErr_Clear(); /* the loop is closed: nothing watches */
        Py_XDECREF(r);
    }
    arn_redis_express_free(e);
    Py_DECREF(port);
    for (i = 0; self->engine != NULL && i < PyList_GET_SIZE(self->engine->expresses); i++) {
        if (PyList_GET_ITEM(self->engine->expresses, i) != (PyObject *)self)
            continue;
        if (PySequence_DelItem(self->engine->expresses, i) < 0)
            PyErr_Clear();
        break;
    }
    if (error != NULL) {
        arn_py_raise(error);
        Py_DECREF(error);
    }
}

/* The end without telling anybody: the op under way comes to nobody. */
static void drop_express(express *self) {
    arn_redis_op *op;

    if (self->e == NULL)
        return;
    op = arn_redis_express_op(self->e);
    arn_redis_express_fail(self->e, ARN_ECLOSED, NULL);
    if (op != NULL) {
        PyObject *owner = op->base.owner;
        arn_queue_remove(&op->base.live);
        op->base.owner = NULL;
        if (owner != NULL)
            ((arn_py_request *)owner)->op = NULL;
        Py_XDECREF(owner);
        arn_op_unref(&op->base);
    }
    close_express(self);
}

/* Ends the op under way with the status, and the connection. */
static int fail_express(express *self, int status, const char *message) {
    arn_redis_op *op = arn_redis_express_op(self->e);
    arn_py_loop_port *port = (arn_py_loop_port *)Py_NewRef((PyObject *)self->port);
    int r = 0;

    arn_redis_express_fail(self->e, status, message);
    if (op != NULL) {
        arn_py_port_begin(port);
        r = arn_py_port_complete(port, &op->base);
        arn_py_port_end(port);
    }
    close_express(self);
    Py_DECREF(port);
    return r;
}

/* Reads what is there, waiting for it up to spin_ns after the request. 1: the op has ended and its
 * task was woken; 0: not; -1 with an exception that must end the callback. */
static int take_reply(express *self, uint64_t spin_ns) {
    arn_py_loop_port *port = self->port;
    arn_redis_op *op = arn_redis_express_op(self->e);
    int over, done;
    int r = 0;

    Py_INCREF(self);
    done = arn_redis_express_spin(self->e, spin_ns, &over);
    if (done) {
        Py_INCREF(port);
        arn_py_port_begin(port);
        r = arn_py_port_complete(port, &op->base);
        arn_py_port_end(port);
        Py_DECREF(port);
    }
    if (over && self->e != NULL && arn_redis_express_op(self->e) == NULL)
        close_express(self);
    Py_DECREF(self);
    return r < 0 ? -1 : done;
}

static int is_usable(const express *self) {
    return self->e != NULL && self->port->generation == arn_runtime_generation();
}

/* The loop's reader callback. */
static PyObject *readable_method(PyObject *object, PyObject *ignored) {
    express *self = (express *)object;

    (void)ignored;
    if (is_usable(self) && take_reply(self, 0) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int is_loop_idle(const express *self) {
    Py_ssize_t n = self->ready == NULL ? 0 : PyObject_Size(self->ready);

    if (n < 0)
        PyErr_Clear();
    return n == 0;
}

static PyObject *spin_method(PyObject *object, PyObject *ignored) {
    express *self = (express *)object;
    int idle, done;

    (void)ignored;
    self->spin_scheduled = 0;
    if (!is_usable(self) || arn_redis_express_op(self->e) == NULL)
        Py_RETURN_NONE;
    idle = is_loop_idle(self);
    done = take_reply(self, idle ? SPIN_NS : 0);
    if (done < 0)
        return NULL;
    if (done) {
        self->spin_skip_next = 0;
    } else if (idle) {
        self->spin_skip_next = self->spin_skip_next == 0 ? 1 : self->spin_skip_next * 2;
        if (self->spin_skip_next > SPIN_SKIP_MAX)
            self->spin_skip_next = SPIN_SKIP_MAX;
        self->spin_skip = self->spin_skip_next;
    }
    Py_RETURN_NONE;
}

/* A timer of the loop: is the command under way too late? */
static PyObject *check_method(PyObject *object, PyObject *ignored) {
    express *self = (express *)object;
    uint64_t now = uv_hrtime();
    uint64_t deadline = self->e == NULL ? 0 : arn_redis_express_deadline(self->e);

    (void)ignored;
    self->check_scheduled = 0;
    if (deadline == 0)
        Py_RETURN_NONE;
    if (deadline > now) {
        if (call_later(self, (double)(deadline - now) / 1e9) < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    {
        const arn_redis_op *op = arn_redis_express_op(self->e);
        char message[320];
        snprintf(message, sizeof(message), "Timeout reading from %s",
                 arn_redis_client_label(op->client));
        if (fail_express(self, ARN_ETIMEDOUT, message) < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* Those whose loop was closed are of no use to anybody; as with the lanes, the tasks of a closed
 * loop are not woken. What is_closed() and deallocations do may change the list: a copy is read. */
static void drop_stale(arn_py_engine *engine) {
    PyObject *copy = PyList_GetSlice(engine->expresses, 0, PyList_GET_SIZE(engine->expresses));
    Py_ssize_t i;

    for (i = 0; copy != NULL && i < PyList_GET_SIZE(copy); i++) {
        express *other = (express *)PyList_GET_ITEM(copy, i);
        PyObject *closed;

        if (other->e == NULL || other->port->loop == NULL)
            continue;
        closed = PyObject_CallMethod(other->port->loop, "is_closed", NULL);
        if (closed == NULL)
            PyErr_Clear();
        if (closed == Py_True)
            drop_express(other);
        Py_XDECREF(closed);
    }
    Py_XDECREF(copy);
    PyErr_Clear(); /* without the copy they stay a little longer */
}

int arn_py_express_open(arn_py_engine *engine, arn_py_loop_port *port, int fd) {
    arn_py_state *st = engine->st;
    arn_redis_express *e = arn_redis_express_new(engine->client, fd);
    PyObject *readable, *r;
    express *self;

    if (e == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (engine->expresses == NULL)
        engine->expresses = PyList_New(0);
    self = (express *)st->express_type->tp_alloc(st->express_type, 0);
    if (engine->expresses == NULL || self == NULL) {
        arn_redis_express_free(e);
        Py_XDECREF(self);
        return -1;
    }
    drop_stale(engine);
    if (engine->expresses == NULL) { /* the engine was disconnected meanwhile */
        arn_redis_express_free(e);
        Py_DECREF(self);
        return 0;
    }
    self->st = st;
    self->e = e;
    self->port = (arn_py_loop_port *)Py_NewRef((PyObject *)port);
    self->engine = engine;
    if (uv_available_parallelism() > 1) {
        self->spin = PyObject_GetAttrString((PyObject *)self, "_spin");
        if (self->spin == NULL)
            PyErr_Clear();
        self->ready = PyObject_GetAttrString(port->loop, "_ready");
        if (self->ready == NULL)
            PyErr_Clear();
    }
    readable = PyObject_GetAttrString((PyObject *)self, "_readable");
    r = readable == NULL ? NULL : PyObject_CallMethod(port->loop, "add_reader", "iO", fd, readable);
    Py_XDECREF(readable);
    if (r == NULL || PyList_Append(engine->expresses, (PyObject *)self) < 0) {
        PyObject *error = arn_py_take_error();
        Py_XDECREF(r);
        close_express(self);
        Py_DECREF(self);
        arn_py_raise(error);
        Py_DECREF(error);
        return -1;
    }
    Py_DECREF(r);
    Py_DECREF(self);
    engine->alone = 0;
    return 0;
}

void arn_py_express_shutdown(arn_py_engine *engine) {
    PyObject *list = engine->expresses;
    Py_ssize_t i;

    if (list == NULL)
        return;
    engine->expresses = NULL;
    for (i = 0; i < PyList_GET_SIZE(list); i++) {
        express *self = (express *)PyList_GET_ITEM(list, i);
        self->engine = NULL;
        if (self->e != NULL && self->port->generation == arn_runtime_generation())
            arn_redis_express_shutdown(self->e);
    }
    Py_DECREF(list);
}

static int traverse_express(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)((express *)object)->port);
    Py_VISIT(((express *)object)->spin);
    Py_VISIT(((express *)object)->ready);
    return 0;
}

/* The loop is gone, or nobody can reach it. */
static int clear_express(PyObject *object) {
    drop_express((express *)object);
    return 0;
}

static void dealloc_express(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    clear_express(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef express_methods[] = {
    {"_readable", readable_method, METH_NOARGS, NULL},
    {"_check", check_method, METH_NOARGS, NULL},
    {"_spin", spin_method, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot express_slots[] = {
    {Py_tp_dealloc, dealloc_express},
    {Py_tp_traverse, traverse_express},
    {Py_tp_clear, clear_express},
    {Py_tp_methods, express_methods},
    {0, NULL},
};

static PyType_Spec express_spec = {
    .name = "arshai_native._core.Express",
    .basicsize = sizeof(express),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = express_slots,
};

int arn_py_init_express(PyObject *module, arn_py_state *st) {
    st->express_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &express_spec, NULL);
    return st->express_type == NULL ? -1 : 0;
}
