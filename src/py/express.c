#include "py/express.h"

#include <base/alloc.h>
#include <redis/express.h>

#include <unistd.h>

/* So many lone requests pass before one that could not be had is asked for again. */
#define ALONE_NOT_SOON (-4096)

/* So long after a lone request its reply is looked for without sleeping, if the loop has nothing
 * else to do. A thread that sleeps and is woken pays that much CPU time too, and three times as
 * much latency on a virtual machine; a server on the same network is too far for it, and then the
 * attempts soon stop: after each failed one twice as many requests pass without. */
#define SPIN_NS 50000u
#define SPIN_SKIP_MAX 1024u

/* Belongs to the event loop: its reader callback holds it. Once closed it is an empty shell. */
typedef struct express {
    PyObject_HEAD
    arn_py_state *st;
    arn_py_loop_port *port; /* owned; NULL once closed */
    arn_redis_express *e;   /* owned; NULL once closed */
    PyObject *ready;        /* what asyncio's loop is about to call; NULL where that is not known */
    int may_spin;
    int spin_scheduled;
    int check_scheduled;
    unsigned spin_skip; /* requests to pass before the next attempt, and after another failure */
    unsigned spin_skip_next;
} express;

/* What an event loop and an engine have to do with each other: a node of port->lones, made at the
 * first lone request, gone with the port or the engine. */
typedef struct arn_py_lone {
    struct arn_py_lone *next;
    arn_py_engine *engine; /* borrowed: the engine removes the node */
    express *express;      /* borrowed: it sets this to NULL when it closes; may be NULL */
    unsigned long last;    /* port->submitted at the last lone request */
    int alone;             /* how many in a row */
    unsigned epoch;        /* the engine's when a connection was asked for */
} arn_py_lone;

static arn_py_lone *find_lone(const arn_py_loop_port *port, const arn_py_engine *engine) {
    arn_py_lone *lone = port->lones;

    while (lone != NULL && lone->engine != engine)
        lone = lone->next;
    return lone;
}

/* NULL when there is no memory for it. */
static arn_py_lone *lone_of(arn_py_loop_port *port, arn_py_engine *engine) {
    arn_py_lone *lone = find_lone(port, engine);

    if (lone != NULL)
        return lone;
    lone = arn_calloc(1, sizeof(*lone));
    if (lone == NULL)
        return NULL;
    lone->engine = engine;
    lone->next = port->lones;
    port->lones = lone;
    return lone;
}

static void count_lone(arn_py_loop_port *port, arn_py_lone *lone) {
    if (port->submitted - lone->last > 1 && lone->alone > 0)
        lone->alone = 0;
    lone->last = port->submitted;
    if (++lone->alone < lone->engine->express_after)
        return;
    lone->alone = ALONE_NOT_SOON;
    lone->epoch = lone->engine->epoch;
    {
        arn_py_request *req = arn_py_express_request(lone->engine);
        if (req == NULL || arn_py_request_start(req, port) < 0)
            arn_py_ignore_error();
        Py_XDECREF(req);
    }
}

/* Through the loop, so that what is ready runs first and no await is without a turn of it. */
static void schedule_spin(express *self) {
    if (!self->may_spin || self->spin_scheduled)
        return;
    if (self->spin_skip > 0) {
        self->spin_skip--;
        return;
    }
    self->spin_scheduled = 1;
    if (arn_py_port_call_method(self->port, (PyObject *)self, self->st->str_spin, 0) < 0) {
        self->spin_scheduled = 0;
        arn_py_ignore_error(); /* the loop is closing */
    }
}

static void close_express(express *self);

static int is_usable(const express *self) {
    return self->e != NULL && self->port->generation == arn_runtime_generation();
}

int arn_py_express_send(arn_py_engine *engine, arn_py_loop_port *port, arn_redis_op *op) {
    arn_py_lone *lone = lone_of(port, engine);
    express *self = lone == NULL ? NULL : lone->express;

    if (lone == NULL || engine->express_after == 0)
        return 0;
    if (arn_py_port_is_nested(port)) {
        if (self != NULL)
            close_express(self);
        return 0;
    }
    if (self == NULL) {
        count_lone(port, lone);
        return 0;
    }
    if (!arn_redis_express_send(self->e, op))
        return 0;
    if (arn_redis_express_deadline(self->e) != 0 && !self->check_scheduled) {
        self->check_scheduled = 1;
        if (arn_py_port_call_method(port, (PyObject *)self, self->st->str_check,
                                    (double)op->base.timeout_ms / 1000) < 0) {
            self->check_scheduled = 0;
            arn_py_ignore_error();
        }
    }
    schedule_spin(self);
    return 1;
}

/* The connection's end: no reader, no descriptor, no lone request's any more. An exception that is
 * set stays set. watched: the loop may still hold the reader callback. */
static void end_express(express *self, int watched) {
    arn_redis_express *e = self->e;
    arn_py_loop_port *port = self->port;
    arn_py_lone *lone;

    if (e == NULL)
        return;
    self->e = NULL;
    self->port = NULL;
    for (lone = port->lones; lone != NULL; lone = lone->next)
        if (lone->express == self)
            lone->express = NULL;
    Py_CLEAR(self->ready);
    if (watched && port->loop != NULL) {
        PyObject *error = PyErr_Occurred() != NULL ? arn_py_take_error() : NULL;
        PyObject *r =
            PyObject_CallMethod(port->loop, "remove_reader", "i", arn_redis_express_fd(e));
        if (r == NULL)
            arn_py_ignore_error(); /* the loop is closed: nothing watches */
        Py_XDECREF(r);
        if (error != NULL) {
            arn_py_raise(error);
            Py_DECREF(error);
        }
    }
    arn_redis_express_free(e);
    Py_DECREF(port);
}

static void close_express(express *self) {
    end_express(self, 1);
}

/* Nobody holds the reader callback any more: the loop has been closed, or it is uvloop and has seen
 * an error of the socket, of which it tells nobody. What is under way ends as if the io thread had
 * posted it, from a turn of the loop of its own. */
static void drop_express(express *self) {
    arn_redis_op *op;

    if (self->e == NULL)
        return;
    op = arn_redis_express_op(self->e);
    arn_redis_express_fail(self->e, ARN_ECONN, "Connection closed by server.");
    if (op != NULL && is_usable(self) && self->port->port != NULL) {
        arn_op_set_port(&op->base, self->port->port);
        arn_port_post(self->port->port, &op->base);
    } else if (op != NULL) {
        arn_py_port_drop(&op->base);
    }
    end_express(self, 0);
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
    uint64_t deadline = is_usable(self) ? arn_redis_express_deadline(self->e) : 0;

    (void)ignored;
    self->check_scheduled = 0;
    if (deadline == 0)
        Py_RETURN_NONE;
    if (deadline > now) {
        self->check_scheduled = 1;
        if (arn_py_port_call_method(self->port, object, self->st->str_check,
                                    (double)(deadline - now) / 1e9) < 0)
            return NULL;
    } else {
        const arn_redis_op *op = arn_redis_express_op(self->e);
        char message[320];
        snprintf(message, sizeof(message), "Timeout reading from %s",
                 arn_redis_client_label(op->client));
        if (fail_express(self, ARN_ETIMEDOUT, message) < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

int arn_py_express_open(arn_py_engine *engine, arn_py_loop_port *port, int fd) {
    arn_py_state *st = engine->st;
    arn_py_lone *lone = find_lone(port, engine);
    arn_redis_express *e;
    PyObject *readable, *r;
    express *self;

    /* The engine may have been disconnected since, or the loop patched. */
    if (lone == NULL || lone->epoch != engine->epoch || lone->express != NULL ||
        arn_py_port_is_nested(port)) {
        close(fd);
        return 0;
    }
    e = arn_redis_express_new(engine->client, fd);
    if (e == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self = (express *)st->express_type->tp_alloc(st->express_type, 0);
    if (self == NULL) {
        arn_redis_express_free(e);
        return -1;
    }
    self->st = arn_py_state_hold(st);
    self->e = e;
    self->port = (arn_py_loop_port *)Py_NewRef((PyObject *)port);
    self->may_spin = uv_available_parallelism() > 1;
    self->ready = PyObject_GetAttrString(port->loop, "_ready");
    if (self->ready == NULL)
        PyErr_Clear();
    /* In the list before Python code runs: a disconnect meanwhile must find it. */
    lone->express = self;
    lone->alone = 0;
    readable = PyObject_GetAttrString((PyObject *)self, "_readable");
    r = readable == NULL ? NULL : PyObject_CallMethod(port->loop, "add_reader", "iO", fd, readable);
    Py_XDECREF(readable);
    if (r == NULL)
        close_express(self);
    Py_XDECREF(r);
    Py_DECREF(self);
    return r == NULL ? -1 : 0;
}

void arn_py_express_give_up(arn_py_engine *engine, arn_py_loop_port *port) {
    arn_py_lone *lone = find_lone(port, engine);

    if (lone == NULL || lone->express == NULL)
        return;
    /* Of a forked child's parent the descriptors are closed, and perhaps others' by now. */
    if (port->generation == arn_runtime_generation())
        arn_redis_express_shutdown(lone->express->e);
    lone->express = NULL;
}

void arn_py_express_shutdown(arn_py_engine *engine) {
    arn_py_loop_port *port;

    engine->epoch++;
    for (port = engine->st->ports; port != NULL; port = port->next)
        arn_py_express_give_up(engine, port);
}

void arn_py_express_forget_engine(arn_py_engine *engine) {
    arn_py_loop_port *port;

    arn_py_express_shutdown(engine);
    for (port = engine->st->ports; port != NULL; port = port->next) {
        arn_py_lone **at = &port->lones;
        while (*at != NULL) {
            arn_py_lone *lone = *at;
            if (lone->engine == engine) {
                *at = lone->next;
                arn_free(lone);
            } else {
                at = &lone->next;
            }
        }
    }
}

void arn_py_express_forget_port(arn_py_loop_port *port) {
    while (port->lones != NULL) {
        arn_py_lone *lone = port->lones;
        port->lones = lone->next;
        arn_free(lone);
    }
}

static int traverse_express(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    ARN_PY_VISIT_STATE(((express *)object)->st);
    Py_VISIT((PyObject *)((express *)object)->port);
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
    arn_py_state *st = ((express *)object)->st;

    PyObject_GC_UnTrack(object);
    clear_express(object);
    type->tp_free(object);
    Py_DECREF(type);
    arn_py_state_release(st);
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
