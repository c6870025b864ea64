#include "py/loop_port.h"

#include "py/codec.h"
#include "py/express.h"
#include "py/request.h"

/* While results are being handed out, requests made by the woken tasks go to the io thread in
 * bundles of this size, so that it and the server work while the next tasks are woken. */
#define FLUSH_EVERY 24

/* So many bytes are work enough for the io thread to begin with. */
#define FLUSH_BYTES (128u * 1024u)

/* After so long the loop gets a turn before more results are handed out: a batch of embeddings
 * takes 0.2 ms to become Python objects, and twenty of them may come at once. */
#define DRAIN_NS 500000u

/* A blocking caller looks for signals this often (milliseconds): Ctrl-C works while it waits. */
#define SIGNAL_CHECK_MS 50

static void flush_pending(arn_py_loop_port *self) {
    arn_msg *first = self->pending;
    arn_msg *last = self->pending_last;

    if (first == NULL)
        return;
    self->pending = self->pending_last = NULL;
    self->pending_count = 0;
    self->pending_bytes = 0;
    arn_runtime_submit(self->rt, first, last);
}

/* False in a forked child: the C side is then left alone. After a shutdown of the io thread in this
 * process everything still works, and every op ends with ARN_ESHUTDOWN. */
static int is_usable(const arn_py_loop_port *self) {
    return arn_runtime_generation() == self->generation;
}

void arn_py_flush_ports(arn_py_state *st) {
    arn_py_loop_port *port;

    for (port = st->ports; port != NULL; port = port->next)
        if (is_usable(port))
            flush_pending(port);
}

int arn_py_port_call_soon(arn_py_loop_port *self, PyObject *callback, PyObject *argument,
                          PyObject *context) {
    PyObject *args[4] = {self->loop, callback, argument, context};
    PyObject *handle;

    if (context != NULL)
        handle = PyObject_VectorcallMethod(self->st->str_call_soon, args,
                                           3 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                           self->st->kwnames_context);
    else
        handle = PyObject_VectorcallMethod(
            self->st->str_call_soon, args,
            (argument != NULL ? 3 : 2) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

int arn_py_port_call_method(arn_py_loop_port *self, PyObject *object, PyObject *name,
                            double delay) {
    PyObject *method = PyObject_GetAttr(object, name);
    int r = -1;

    if (delay <= 0) {
        r = method == NULL ? -1 : arn_py_port_call_soon(self, method, NULL, NULL);
    } else if (method != NULL) {
        PyObject *seconds = PyFloat_FromDouble(delay);
        PyObject *handle = seconds == NULL
                               ? NULL
                               : PyObject_CallMethodObjArgs(self->loop, self->st->str_call_later,
                                                            seconds, method, NULL);
        Py_XDECREF(seconds);
        Py_XDECREF(handle);
        r = handle == NULL ? -1 : 0;
    }
    Py_XDECREF(method);
    return r;
}

/* The reader callback; a second time, in a fresh context. */
static int watch(arn_py_loop_port *self) {
    PyObject *drain = PyObject_GetAttr((PyObject *)self, self->st->str_drain);
    PyObject *r = drain == NULL ? NULL
                                : PyObject_CallMethod(self->loop, "add_reader", "iO",
                                                      arn_port_fd(self->port), drain);

    Py_XDECREF(drain);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

int arn_py_port_is_nested(arn_py_loop_port *self) {
    if (!self->nested && self->loop != NULL &&
        PyObject_HasAttr(self->loop, self->st->str_nest_patched)) {
        self->nested = 1;
        /* Perhaps just now, by a task that a drain has woken and that will run the loop. */
        if (self->draining && watch(self) < 0)
            arn_py_ignore_error();
    }
    return self->nested;
}

void arn_py_port_adopt(arn_py_loop_port *self, arn_op *op, PyObject *owner) {
    op->owner = owner;
    arn_queue_push(&self->live, &op->live);
    self->submitted++;
}

/* Python 3.11's get_running_loop() costs a system call, and most requests are made by tasks that
 * a drain has just woken. asyncio keeps the running loop in an object of its own in the thread's
 * dict, a new one whenever a loop starts or stops running: as long as it is the same, so is the
 * loop. NULL, and no short cut, where there is none. */
#if PY_VERSION_HEX < 0x030C0000
static PyObject *running_note(const arn_py_state *st) {
    PyObject *dict = PyThreadState_GetDict();

    return dict == NULL ? NULL : PyDict_GetItem(dict, st->str_running_loop);
}
#else
static PyObject *running_note(const arn_py_state *st) {
    (void)st;
    return NULL;
}
#endif

void arn_py_port_adopt_job(arn_py_loop_port *self, arn_op *op, PyObject *owner) {
    arn_op_set_port(op, self->port);
    op->owner = owner;
    arn_queue_push(&self->jobs, &op->live);
}

void arn_py_port_begin(arn_py_loop_port *self) {
    arn_py_port_is_nested(self);
    if (self->draining++ > 0)
        return;
    self->drainer = PyThread_get_thread_ident();
    self->running = Py_XNewRef(running_note(self->st));
}

void arn_py_port_end(arn_py_loop_port *self) {
    if (--self->draining == 0)
        Py_CLEAR(self->running);
    if (is_usable(self))
        flush_pending(self);
}

int arn_py_port_complete(arn_py_loop_port *self, arn_op *op) {
    PyObject *owner = op->owner;
    int r = 0;

    (void)self;
    arn_queue_remove(&op->live);
    op->owner = NULL;
    if (owner != NULL) {
        r = arn_py_request_complete((arn_py_request *)owner, op);
        Py_DECREF(owner);
    }
    arn_op_unref(op);
    return r;
}

void arn_py_port_submit(arn_py_loop_port *self, arn_op *op, size_t size, PyObject *owner) {
    int alone = arn_queue_empty(&self->live);

    arn_op_set_port(op, self->port);
    arn_py_port_adopt(self, op, owner);
    op->msg.next = NULL;
    if (self->pending == NULL)
        self->pending = &op->msg;
    else
        self->pending_last->next = &op->msg;
    self->pending_last = &op->msg;
    self->pending_count++;
    self->pending_bytes += size;
    if (self->pending_bytes >= FLUSH_BYTES) {
        flush_pending(self);
        return;
    }
    if (self->draining && (self->pending_count > 1 || !arn_py_port_is_nested(self))) {
        if (self->pending_count >= FLUSH_EVERY)
            flush_pending(self);
        return;
    }
    /* With nothing else under way somebody waits for just this: no reason to gather. */
    if (alone || self->draining) {
        flush_pending(self);
        return;
    }
    if (self->flush_scheduled)
        return;
    self->flush_scheduled = 1;
    if (arn_py_port_call_method(self, (PyObject *)self, self->st->str_flush, 0) < 0) {
        self->flush_scheduled = 0;
        flush_pending(self);
        arn_py_ignore_error(); /* the loop is closing: the op is on its way all the same */
    }
}

static PyObject *flush_method(PyObject *op, PyObject *ignored) {
    arn_py_loop_port *self = (arn_py_loop_port *)op;

    (void)ignored;
    self->flush_scheduled = 0;
    if (is_usable(self))
        flush_pending(self);
    Py_RETURN_NONE;
}

void arn_py_port_drop(arn_op *op) {
    PyObject *owner = op->owner;

    arn_queue_remove(&op->live);
    op->owner = NULL;
    if (owner != NULL)
        ((arn_py_request *)owner)->op = NULL;
    arn_op_unref(op);
    Py_XDECREF(owner);
}

static void drop_todo(arn_py_loop_port *self) {
    while (self->todo != NULL) {
        arn_op *done = self->todo;
        self->todo = done->next_done;
        arn_py_port_drop(done);
    }
}

/* 0 if the loop will go on with todo. */
static int schedule_rest(arn_py_loop_port *self) {
    if (arn_py_port_call_method(self, (PyObject *)self, self->st->str_drain_rest, 0) < 0) {
        arn_py_ignore_error(); /* the loop is closing */
        return -1;
    }
    self->rest_scheduled = 1;
    return 0;
}

/* Completes what has come and wakes the tasks that wait for it, right here: a trip through
 * call_soon would cost as much as all the rest. */
static PyObject *drain(arn_py_loop_port *self) {
    uint64_t until = uv_hrtime() + DRAIN_NS;
    int failed = 0;

    if (self->todo == NULL)
        self->todo = arn_port_take(self->port);
    if (self->abandoned) {
        drop_todo(self);
        Py_RETURN_NONE;
    }
    arn_py_port_begin(self);
    while (self->todo != NULL && !failed) {
        arn_op *done = self->todo;
        self->todo = done->next_done;
        failed = arn_py_port_complete(self, done) < 0;
        if (self->todo != NULL && !failed && uv_hrtime() >= until && schedule_rest(self) == 0)
            break;
    }
    arn_py_port_end(self);
    arn_py_release_pending();
    if (failed) {
        /* KeyboardInterrupt or SystemExit of a woken task ends this call; the rest is not lost. */
        PyObject *error = arn_py_take_error();
        if (self->todo != NULL)
            schedule_rest(self);
        arn_py_raise(error);
        Py_DECREF(error);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* The loop's reader callback. Once a rest has been seen to, or while one is still to be, it leaves
 * the descriptor readable for the next turn. */
static PyObject *drain_method(PyObject *op, PyObject *ignored) {
    arn_py_loop_port *self = (arn_py_loop_port *)op;

    (void)ignored;
    if (!is_usable(self) || self->rest_scheduled || self->had_turn) {
        self->had_turn = 0;
        Py_RETURN_NONE;
    }
    return drain(self);
}

static PyObject *drain_rest_method(PyObject *op, PyObject *ignored) {
    arn_py_loop_port *self = (arn_py_loop_port *)op;

    (void)ignored;
    self->rest_scheduled = 0;
    self->had_turn = 1;
    if (!is_usable(self))
        Py_RETURN_NONE;
    return drain(self);
}

/* Forgets every op under way. Their requests are dropped; the ops come to nobody, and those that
 * can be taken back are. */
static int clear_port(PyObject *op) {
    arn_py_loop_port *self = (arn_py_loop_port *)op;
    int usable = self->rt != NULL && is_usable(self);
    PyObject *owners = NULL;

    if (self->port != NULL) {
        owners = PyList_New(0);
        if (usable)
            flush_pending(self);
        arn_queue_append(&self->live, &self->jobs);
        while (!arn_queue_empty(&self->live)) {
            arn_op *under_way = ARN_CONTAINER_OF(self->live.next, arn_op, live);
            PyObject *owner = under_way->owner;

            arn_queue_remove(&under_way->live);
            under_way->owner = NULL;
            if (owner == NULL)
                continue;
            arn_py_request_orphaned((arn_py_request *)owner, under_way, usable);
            /* Dropped only when the list is whole again: their deallocation may run any code. */
            if (owners == NULL || PyList_Append(owners, owner) < 0)
                PyErr_Clear(); /* the reference stays for good */
            else
                Py_DECREF(owner);
        }
        arn_py_express_forget_port(self);
        if (usable) {
            drop_todo(self);
            arn_port_close(self->port);
            arn_port_unref(self->port);
        }
        self->port = NULL;
    }
    Py_XDECREF(owners);
    Py_CLEAR(self->loop);
    return 0;
}

static int traverse_port(PyObject *op, visitproc visit, void *arg) {
    arn_py_loop_port *self = (arn_py_loop_port *)op;
    arn_queue *lists[] = {&self->live, &self->jobs};
    arn_queue *node;
    size_t i;

    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(self->st);
    Py_VISIT(self->loop);
    for (i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        for (node = lists[i]->next; node != NULL && node != lists[i]; node = node->next) {
            arn_op *under_way = ARN_CONTAINER_OF(node, arn_op, live);
            Py_VISIT((PyObject *)under_way->owner);
        }
    }
    return 0;
}

void arn_py_abandon_ports(arn_py_state *st) {
    arn_py_loop_port *port;

    st->is_ending = 1;
    st->ended_by = PyThread_get_thread_ident();
    for (port = st->ports; port != NULL; port = port->next)
        port->abandoned = 1;
}

static void unlink_port(arn_py_loop_port *self) {
    if (self->prev != NULL)
        self->prev->next = self->next;
    else if (self->st->ports == self)
        self->st->ports = self->next;
    if (self->next != NULL)
        self->next->prev = self->prev;
    self->next = self->prev = NULL;
}

static void dealloc_port(PyObject *op) {
    arn_py_loop_port *self = (arn_py_loop_port *)op;
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;

    PyObject_GC_UnTrack(op);
    unlink_port(self);
    clear_port(op);
    Py_CLEAR(self->running);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

arn_runtime *arn_py_runtime(void) {
    int status;
    arn_runtime *rt = arn_runtime_get(&status);

    if (rt == NULL)
        PyErr_Format(PyExc_RuntimeError, "cannot start the io thread: %s",
                     arn_status_message(status));
    return rt;
}

/* In a daemon thread what ends with the interpreter is no news: the thread stays here until it is
 * taken away, as it would in any other call that blocks. */
static void stay_for_good(const arn_py_state *st) {
    while (st->is_ending && st->ended_by != PyThread_get_thread_ident()) {
        Py_BEGIN_ALLOW_THREADS
        uv_sleep(SIGNAL_CHECK_MS);
        Py_END_ALLOW_THREADS
    }
}

int arn_py_wait(arn_py_state *st, arn_runtime *rt, arn_op *op) {
    int status;
    arn_port *port = arn_port_new(ARN_PORT_WAIT, &status);
    arn_op *done = NULL;
    int signalled = 0;

    if (port == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    arn_op_set_port(op, port);
    arn_op_ref(op);         /* goes with the submission */
    arn_py_flush_ports(st); /* in the order in which they were made */
    arn_runtime_submit(rt, &op->msg, &op->msg);
    while (done == NULL && !signalled) {
        Py_BEGIN_ALLOW_THREADS
        done = arn_port_wait(port, SIGNAL_CHECK_MS);
        Py_END_ALLOW_THREADS
        signalled = done == NULL && PyErr_CheckSignals() < 0;
    }
    if (done != NULL && op->status != ARN_OK)
        stay_for_good(st);
    if (done != NULL)
        arn_op_unref(done);
    else
        arn_op_cancel(rt, op);
    arn_port_close(port);
    arn_port_unref(port);
    arn_py_release_pending(); /* there may be no event loop to do it */
    return done != NULL ? 0 : -1;
}

static arn_py_loop_port *make_port(arn_py_state *st, arn_runtime *rt, PyObject *loop) {
    arn_py_loop_port *self =
        (arn_py_loop_port *)st->loop_port_type->tp_alloc(st->loop_port_type, 0);
    int status;

    if (self == NULL)
        return NULL;
    arn_queue_init(&self->live);
    arn_queue_init(&self->jobs);
    self->st = arn_py_state_hold(st);
    self->rt = rt;
    self->generation = arn_runtime_generation();
    self->loop = Py_NewRef(loop);
    self->port = arn_port_new(ARN_PORT_FD, &status);
    if (self->port == NULL) {
        if (status == ARN_ENOMEM)
            PyErr_NoMemory();
        else
            PyErr_Format(PyExc_OSError, "cannot make a wake-up descriptor for the event loop: %s",
                         arn_status_message(status));
        goto fail;
    }
    if (watch(self) < 0)
        goto fail;
    self->next = st->ports;
    if (st->ports != NULL)
        st->ports->prev = self;
    st->ports = self;
    return self;

fail:
    Py_DECREF(self);
    return NULL;
}

arn_py_loop_port *arn_py_running_port(arn_py_state *st, arn_runtime *rt) {
    arn_py_loop_port *port;
    PyObject *loop;

    port = st->ports;
    if (port != NULL && port->draining && port->rt == rt && port->running != NULL &&
        port->drainer == PyThread_get_thread_ident() && port->running == running_note(st))
        return port;
    if (arn_py_import_asyncio(st) < 0)
        return NULL;
    loop = PyObject_CallNoArgs(st->get_running_loop);
    if (loop == NULL)
        return NULL;
    for (port = st->ports; port != NULL; port = port->next)
        if (port->loop == loop && port->rt == rt)
            break;
    if (port == NULL) {
        port = make_port(st, rt, loop);
        Py_XDECREF(port); /* the loop's reader callback holds it now */
    } else if (port != st->ports) {
        unlink_port(port);
        port->next = st->ports;
        st->ports->prev = port;
        st->ports = port;
    }
    Py_DECREF(loop);
    return port;
}

static PyMethodDef port_methods[] = {
    {"_drain", drain_method, METH_NOARGS, NULL},
    {"_drain_rest", drain_rest_method, METH_NOARGS, NULL},
    {"_flush", flush_method, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot port_slots[] = {
    {Py_tp_dealloc, dealloc_port},
    {Py_tp_traverse, traverse_port},
    {Py_tp_clear, clear_port},
    {Py_tp_methods, port_methods},
    {0, NULL},
};

static PyType_Spec port_spec = {
    .name = "arshai_native._core.LoopPort",
    .basicsize = sizeof(arn_py_loop_port),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = port_slots,
};

int arn_py_init_loop_port(PyObject *module, arn_py_state *st) {
    st->loop_port_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &port_spec, NULL);
    return st->loop_port_type == NULL ? -1 : 0;
}
