/* milvus_call.c - a client's searches from argument to result.
 *
 * A MilvusCaller knows a client as it was when one of its searches went the long way, through
 * arshai_native.milvus: its connection, its database, the classes that have a say. As long as all
 * of that is the same, a search whose plan is known needs none of it again.
 */
#include "py/arguments.h"
#include "py/grpc.h"
#include "py/milvus_numbers.h"
#include "py/milvus_replies.h"
#include "py/plain.h"

#include "base/status.h"
#include "milvus/wire.h"

#include <stddef.h>
#include <stdio.h>
#include <structmember.h>
#include <time.h>

/* ---- plans ---- */

/* What the searches of a kind have in common; the base of arshai_native.milvus's SearchPlan. */
typedef struct milvus_plan {
    PyObject_HEAD
    PyObject *head;          /* bytes: SearchRequest without vectors, their number and timestamp */
    PyObject *round_decimal; /* any object */
    unsigned int timestamp;  /* the number of the field for the last write's; 0: it has none */
    char combinable;         /* with others of its kind into one request */
} milvus_plan;

#define PLAN(op) ((milvus_plan *)(op))

static int init_plan(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"head", "round_decimal", "timestamp", "combinable", NULL};
    PyObject *head, *round_decimal;
    unsigned int timestamp;
    int combinable;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "SOIp:MilvusPlan", names, &head, &round_decimal,
                                     &timestamp, &combinable))
        return -1;
    if (PLAN(op)->head != NULL) { /* searches under way know it as it is */
        PyErr_SetString(PyExc_RuntimeError, "MilvusPlan.__init__ may be called once");
        return -1;
    }
    PLAN(op)->head = Py_NewRef(head);
    PLAN(op)->round_decimal = Py_NewRef(round_decimal);
    PLAN(op)->timestamp = timestamp;
    PLAN(op)->combinable = (char)combinable;
    return 0;
}

static int traverse_plan(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(PLAN(op)->head);
    Py_VISIT(PLAN(op)->round_decimal);
    return 0;
}

static int clear_plan(PyObject *op) {
    Py_CLEAR(PLAN(op)->round_decimal);
    return 0;
}

static void dealloc_plan(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    clear_plan(op);
    Py_CLEAR(PLAN(op)->head);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef plan_members[] = {
    {"head", T_OBJECT_EX, offsetof(milvus_plan, head), READONLY, NULL},
    {"round_decimal", T_OBJECT_EX, offsetof(milvus_plan, round_decimal), READONLY, NULL},
    {"timestamp", T_UINT, offsetof(milvus_plan, timestamp), READONLY, NULL},
    {"combinable", T_BOOL, offsetof(milvus_plan, combinable), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot plan_slots[] = {
    {Py_tp_init, init_plan},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, dealloc_plan},
    {Py_tp_traverse, traverse_plan},
    {Py_tp_clear, clear_plan},
    {Py_tp_members, plan_members},
    {0, NULL},
};

static PyType_Spec plan_spec = {
    .name = "arshai_native._core.MilvusPlan",
    .basicsize = sizeof(milvus_plan),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = plan_slots,
};

/* ---- what a caller knows ---- */

#define CALLER_NAMES(XX)                                                                           \
    XX(__dict__)                                                                                   \
    XX(_closed)                                                                                    \
    XX(_handler)                                                                                   \
    XX(_gather)                                                                                    \
    XX(_plans)                                                                                     \
    XX(_config)                                                                                    \
    XX(db_name)                                                                                    \
    XX(_async_channel)                                                                             \
    XX(_unary_unary_interceptors)

enum {
#define XX(name) NAME_##name,
    CALLER_NAMES(XX)
#undef XX
        NAME_COUNT
};

/* A client as bind() was told of it. All of it is there, or nothing: places is NULL. It is replaced
 * as a whole, because letting go of an object may run any code, a search of this client's too. */
typedef struct milvus_bound {
    PyObject *places;      /* see unchanged() */
    PyObject *kind;        /* the client's class */
    Py_ssize_t attributes; /* how many the client has */
    PyObject *database;    /* exactly a str */
    PyObject *handler;
    PyObject *channel;
    arn_py_grpc_channel *core;
    PyObject *interceptors; /* list */
    Py_ssize_t interceptor_count;
    arn_grpc_head *head;
} milvus_bound;

typedef struct milvus_caller {
    PyObject_HEAD
    arn_py_state *st;
    PyObject *replies;    /* MilvusReplies */
    PyObject *unusual;    /* set of options with which a search goes the long way */
    PyObject *last_write; /* (collection, client) -> the timestamp to ask for */
    PyObject *names[NAME_COUNT];
    milvus_bound bound;
} milvus_caller;

#define CALLER(op) ((milvus_caller *)(op))
#define NAME(name) (self->names[NAME_##name])

static void release_bound(milvus_bound bound) {
    if (bound.places == NULL)
        return;
    arn_grpc_head_unref(bound.head);
    Py_DECREF(bound.places);
    Py_DECREF(bound.kind);
    Py_DECREF(bound.database);
    Py_DECREF(bound.handler);
    Py_DECREF(bound.channel);
    Py_DECREF((PyObject *)bound.core);
    Py_DECREF(bound.interceptors);
}

/* bound: its references are taken over. */
static void set_bound(milvus_caller *self, milvus_bound bound) {
    milvus_bound old = self->bound;

    self->bound = bound;
    release_bound(old);
}

/* Is object.name this very object? -1 with an exception set. */
static int is_still(PyObject *object, PyObject *name, PyObject *value) {
    PyObject *found = PyObject_GetAttr(object, name);

    Py_XDECREF(found); /* still somebody else's, or not what is looked for */
    return found == NULL ? -1 : found == value;
}

static int is_in_database(milvus_caller *self, PyObject *config) {
    PyObject *name = PyObject_GetAttr(config, NAME(db_name));
    int r = name == NULL ? -1 : name == self->bound.database;

    if (r == 0 && PyUnicode_CheckExact(name))
        r = PyUnicode_Compare(name, self->bound.database) == 0;
    Py_XDECREF(name);
    return r;
}

static int is_channel_as_it_was(milvus_caller *self, PyObject *channel) {
    int r = is_still(channel, NAME(_closed), Py_False);

    if (r > 0)
        r = is_still(channel, NAME(_unary_unary_interceptors), self->bound.interceptors);
    return r <= 0 ? r
                  : PyList_GET_SIZE(self->bound.interceptors) == self->bound.interceptor_count &&
                        !self->bound.core->is_closed;
}

/* Whether the client, whose attributes these are, is as it was. 1, 0, or -1 with an exception
 * set. */
static int is_as_it_was(milvus_caller *self, PyObject *client, PyObject *attributes) {
    PyObject *config, *handler, *channel, *places;
    int r;

    if (self->bound.places == NULL || (PyObject *)Py_TYPE(client) != self->bound.kind ||
        PyDict_GET_SIZE(attributes) != self->bound.attributes ||
        PyDict_GetItemWithError(attributes, NAME(_closed)) != Py_False ||
        PyDict_GetItemWithError(attributes, NAME(_handler)) != self->bound.handler ||
        (config = PyDict_GetItemWithError(attributes, NAME(_config))) == NULL)
        return PyErr_Occurred() ? -1 : 0;
    /* Looking at attributes may run code that binds anew. */
    Py_INCREF(config);
    handler = Py_NewRef(self->bound.handler);
    channel = Py_NewRef(self->bound.channel);
    places = Py_NewRef(self->bound.places);
    r = is_in_database(self, config);
    if (r > 0)
        r = is_still(handler, NAME(_async_channel), channel);
    if (r > 0)
        r = is_channel_as_it_was(self, channel);
    if (r > 0)
        r = arn_py_unchanged(places);
    if (r > 0)
        r = places == self->bound.places;
    Py_DECREF(config);
    Py_DECREF(handler);
    Py_DECREF(channel);
    Py_DECREF(places);
    return r;
}

static int is_usual(milvus_caller *self, PyObject *options) {
    PyObject *name, *value;
    Py_ssize_t i = 0;
    int r = 0;

    if (!PyDict_CheckExact(options))
        return 0;
    while (r == 0 && PyDict_Next(options, &i, &name, &value))
        r = PyUnicode_CheckExact(name) ? PySet_Contains(self->unusual, name) : 1;
    return r < 0 ? -1 : !r;
}

/* 1 and *ms, or 0. */
static int take_timeout(PyObject *timeout, uint64_t *ms) {
    *ms = 0;
    if (timeout == Py_None)
        return 1;
    if (!PyLong_CheckExact(timeout) && !PyFloat_CheckExact(timeout))
        return 0;
    if (arn_py_to_ms(timeout, "timeout", ms) < 0) {
        PyErr_Clear(); /* for pymilvus to say */
        return 0;
    }
    return *ms > 0 && PyObject_IsTrue(timeout) > 0; /* no time at all is a millisecond there */
}

/* Lists and numpy's arrays. The encoder takes more than pymilvus: matrices of scipy, and tuples in
 * a list; and of bytes only the schema says what they are. -1 with an exception set. */
static int is_usual_data(milvus_caller *self, PyObject *data) {
    Py_ssize_t i;

    if (!PyList_CheckExact(data))
        return arn_py_is_array(self->st, data);
    for (i = 0; i < PyList_GET_SIZE(data); i++)
        if (PyTuple_CheckExact(PyList_GET_ITEM(data, i)) || PyBytes_Check(PyList_GET_ITEM(data, i)))
            return 0;
    return 1;
}

/* ---- a call ---- */

static PyObject *convert_search(arn_py_request *req, arn_op *base, double *again) {
    arn_grpc_op *op = ARN_CONTAINER_OF(base, arn_grpc_op, base);
    PyObject *round_decimal = PLAN(req->reply_options)->round_decimal;
    PyObject *result;
    arn_slice message;

    (void)again;
    if (base->status != ARN_OK)
        return arn_py_grpc_raise(req->st, op);
    message = arn_grpc_reply_message(&op->reply);
    result = arn_py_milvus_search_message(req->args, message, round_decimal);
    if (result != Py_None)
        return result;
    Py_DECREF(result);
    return Py_BuildValue("(y#O)", message.data, (Py_ssize_t)message.len, round_decimal);
}

static const arn_py_request_class search_class = {.qualname = "AsyncMilvusClient.search",
                                                  .convert = convert_search,
                                                  .submitting = arn_py_grpc_submitting};

/* The message, in the op's own memory. */
static int put_message(arn_grpc_op *op, milvus_plan *plan, uint64_t timestamp,
                       const arn_py_milvus_encoded *vectors) {
    arn_py_milvus_search_request request = {.type = vectors->type, .count = vectors->count};
    size_t head = (size_t)PyBytes_GET_SIZE(plan->head);
    size_t extra = 0;
    char *p = NULL;

    request.values = PyTuple_Pack(1, vectors->values);
    if (request.values == NULL)
        return -1;
    if (arn_py_milvus_measure(&request) < 0) {
        Py_DECREF(request.values);
        return -1;
    }
    if (plan->timestamp != 0)
        extra = arn_pb_varint_size(plan->timestamp << 3) + arn_pb_varint_size(timestamp);
    op->message.len = head + extra + request.size;
    if (op->message.len <= UINT32_MAX)
        p = arn_arena_alloc(&op->base.arena, op->message.len);
    op->message.data = p;
    if (p != NULL) {
        memcpy(p, PyBytes_AS_STRING(plan->head), head);
        p += head;
        if (plan->timestamp != 0) {
            p = arn_pb_put_varint(p, (uint64_t)plan->timestamp << 3);
            p = arn_pb_put_varint(p, timestamp);
        }
        arn_py_milvus_put_request(p, &request);
    } else { /* or it is more than a message of gRPC may be: the long way says which */
        PyErr_NoMemory();
    }
    Py_DECREF(request.values);
    return p == NULL ? -1 : 0;
}

/* The only metadata that is another one for each call, as pymilvus's CallContext writes it. */
static size_t write_now(char *out, size_t size) {
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (size_t)snprintf(out, size, "%lld",
                            (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

static PyObject *make_request(milvus_caller *self, milvus_plan *plan, uint64_t timestamp,
                              const arn_py_milvus_encoded *vectors, uint64_t timeout_ms) {
    static const char key[] = "client-request-unixmsec";
    char now[24];
    arn_slice metadata[2] = {{key, sizeof(key) - 1}, {now, 0}};
    arn_py_grpc_channel *core = (arn_py_grpc_channel *)Py_NewRef((PyObject *)self->bound.core);
    arn_grpc_op *op;
    arn_py_request *req = NULL;

    metadata[1].len = write_now(now, sizeof(now));
    op = arn_py_grpc_op_of_head(core, self->bound.head, metadata, 1);
    if (op != NULL && put_message(op, plan, timestamp, vectors) < 0) {
        arn_op_unref(&op->base);
        op = NULL;
    }
    if (op != NULL) {
        op->base.timeout_ms = timeout_ms;
        req = arn_py_grpc_request(core, &search_class, op);
    }
    if (req != NULL) {
        req->args = Py_NewRef(self->replies);
        req->reply_options = Py_NewRef((PyObject *)plan);
    }
    Py_DECREF(core);
    return (PyObject *)req;
}

/* The timestamp of the client's last write to the collection. 0, or -1 with an exception set. */
static int look_up_write(milvus_caller *self, PyObject *collection, PyObject *client,
                         uint64_t *timestamp) {
    PyObject *args[2] = {collection, client};
    PyObject *found = PyObject_Vectorcall(self->last_write, args, 2, NULL);

    *timestamp = found == NULL ? 0 : PyLong_AsUnsignedLongLong(found);
    Py_XDECREF(found);
    return PyErr_Occurred() ? -1 : 0;
}

enum {
    ARG_CLIENT,
    ARG_DATA,
    ARG_TIMEOUT,
    ARG_KEY, /* from here on what a plan is known by */
    ARG_COLLECTION = ARG_KEY,
    ARG_OPTIONS = 10, /* the last one: those by name only */
    ARG_COUNT
};

static PyObject *find_plan(milvus_caller *self, PyObject *attributes, PyObject *const *args) {
    PyObject *plans = PyDict_GetItemWithError(attributes, NAME(_plans));
    PyObject *key, *plan;

    if (plans == NULL || !PyDict_Check(plans))
        return NULL;
    key = arn_py_plain_key(args + ARG_KEY, ARG_COUNT - ARG_KEY);
    if (key == NULL)
        return NULL;
    plan = key == Py_None ? NULL : PyDict_GetItemWithError(plans, key);
    Py_DECREF(key);
    if (plan == NULL || !PyObject_TypeCheck(plan, self->st->milvus_plan_type) ||
        PLAN(plan)->head == NULL || PLAN(plan)->round_decimal == NULL)
        return NULL;
    return Py_NewRef(plan);
}

/* A request; (plan, kind, vectors) of one to be gathered; NULL without an exception: none of it. */
static PyObject *start(milvus_caller *self, PyObject *attributes, PyObject *const *args) {
    arn_py_milvus_encoded vectors;
    PyObject *client = args[ARG_CLIENT];
    PyObject *plan, *made = NULL, *gather;
    uint64_t timeout_ms, timestamp = 0;
    int gathers;

    if (is_as_it_was(self, client, attributes) <= 0 ||
        !PyUnicode_CheckExact(args[ARG_COLLECTION]) ||
        !take_timeout(args[ARG_TIMEOUT], &timeout_ms) || is_usual_data(self, args[ARG_DATA]) <= 0 ||
        is_usual(self, args[ARG_OPTIONS]) <= 0)
        return NULL;
    gather = PyDict_GetItemWithError(attributes, NAME(_gather));
    gathers = gather == Py_True;
    plan = gather == NULL ? NULL : find_plan(self, attributes, args);
    if (plan == NULL)
        return NULL;
    if (arn_py_milvus_encode(self->st, args[ARG_DATA], 0, &vectors) != 0) {
        Py_DECREF(plan);
        return NULL;
    }
    if (gathers && vectors.count == 1 && PLAN(plan)->combinable)
        made = Py_BuildValue("(OiO)", plan, vectors.type, vectors.values);
    /* Python code has run since the first look: what is used from here on is looked at anew. */
    else if ((PLAN(plan)->timestamp == 0 ||
              look_up_write(self, args[ARG_COLLECTION], client, &timestamp) == 0) &&
             is_as_it_was(self, client, attributes) > 0)
        made = make_request(self, PLAN(plan), timestamp, &vectors, timeout_ms);
    Py_DECREF(vectors.values);
    Py_DECREF(plan);
    return made;
}

PyDoc_STRVAR(
    search_doc,
    "search(client, data, timeout, collection, filter, limit, output_fields,\n"
    "       search_params, partition_names, anns_field, options, /)\n--\n\n"
    "An awaitable of the search's SearchResult, or of (reply, round_decimal) for pymilvus\n"
    "to read; (plan, kind, vectors) of a search that may be gathered; None: it has to go\n"
    "the long way. The awaitable raises GrpcError. Nothing is sent before it is awaited.");

static PyObject *search_method(PyObject *op, PyObject *const *args, Py_ssize_t count) {
    milvus_caller *self = CALLER(op);
    PyObject *attributes, *made;

    if (count != ARG_COUNT) {
        PyErr_Format(PyExc_TypeError, "search() takes %d arguments", ARG_COUNT);
        return NULL;
    }
    if (self->bound.places == NULL)
        Py_RETURN_NONE;
    attributes = PyObject_GetAttr(args[ARG_CLIENT], NAME(__dict__));
    made = attributes != NULL && PyDict_Check(attributes) ? start(self, attributes, args) : NULL;
    Py_XDECREF(attributes);
    if (made != NULL)
        return made;
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear(); /* on the long way it comes up again, and is said as it should be */
    }
    Py_RETURN_NONE;
}

/* ---- binding ---- */

PyDoc_STRVAR(
    bind_doc,
    "bind(kind, attributes, database, handler, channel, core, interceptors, count, places,\n"
    "     metadata, path, /)\n--\n\n"
    "Know a client: its class, how many attributes it has, its database, its handler.\n"
    "channel: the handler's, core: its GrpcChannel; interceptors: the channel's, count of\n"
    "them. places: see unchanged(). metadata: pairs that each of its searches has, path:\n"
    "their method.");

static PyObject *bind_method(PyObject *op, PyObject *args) {
    milvus_caller *self = CALLER(op);
    PyObject *metadata, *path, *all = NULL;
    milvus_bound bound;

    if (!PyArg_ParseTuple(args, "O!nUOOO!O!nO!OO:bind", &PyType_Type, &bound.kind,
                          &bound.attributes, &bound.database, &bound.handler, &bound.channel,
                          self->st->grpc_channel_type, &bound.core, &PyList_Type,
                          &bound.interceptors, &bound.interceptor_count, &PyTuple_Type,
                          &bound.places, &metadata, &path))
        return NULL;
    if (!PyUnicode_CheckExact(bound.database)) {
        PyErr_SetString(PyExc_TypeError, "the database must be exactly a str");
        return NULL;
    }
    if (bound.core->metadata == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "GrpcChannel.__init__ was not called");
        return NULL;
    }
    all = PySequence_Concat(bound.core->metadata, metadata);
    bound.head = all == NULL ? NULL : arn_py_grpc_head(bound.core, path, all);
    Py_XDECREF(all);
    if (bound.head == NULL)
        return NULL;
    Py_INCREF(bound.places);
    Py_INCREF(bound.kind);
    Py_INCREF(bound.database);
    Py_INCREF(bound.handler);
    Py_INCREF(bound.channel);
    Py_INCREF((PyObject *)bound.core);
    Py_INCREF(bound.interceptors);
    set_bound(self, bound);
    Py_RETURN_NONE;
}

/* ---- the type ---- */

static int traverse_caller(PyObject *op, visitproc visit, void *arg) {
    milvus_caller *self = CALLER(op);

    Py_VISIT(Py_TYPE(op));
    ARN_PY_VISIT_STATE(self->st);
    Py_VISIT(self->replies);
    Py_VISIT(self->unusual);
    Py_VISIT(self->last_write);
    Py_VISIT(self->bound.places);
    Py_VISIT(self->bound.kind);
    Py_VISIT(self->bound.handler);
    Py_VISIT(self->bound.channel);
    Py_VISIT((PyObject *)self->bound.core);
    Py_VISIT(self->bound.interceptors);
    return 0;
}

static int clear_caller(PyObject *op) {
    milvus_caller *self = CALLER(op);

    set_bound(self, (milvus_bound){.places = NULL});
    Py_CLEAR(self->replies);
    Py_CLEAR(self->unusual);
    Py_CLEAR(self->last_write);
    return 0;
}

static void dealloc_caller(PyObject *op) {
    milvus_caller *self = CALLER(op);
    PyTypeObject *type = Py_TYPE(op);
    arn_py_state *st = self->st;
    size_t i;

    PyObject_GC_UnTrack(op);
    clear_caller(op);
    for (i = 0; i < NAME_COUNT; i++)
        Py_CLEAR(self->names[i]);
    type->tp_free(op);
    Py_DECREF(type);
    arn_py_state_release(st);
}

static PyObject *new_caller(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static const char *const texts[] = {
#define XX(name) #name,
        CALLER_NAMES(XX)
#undef XX
    };
    static char *names[] = {"replies", "unusual", "last_write", NULL};
    arn_py_state *st = arn_py_state_of_type(type);
    PyObject *replies, *unusual, *last_write;
    milvus_caller *self;
    size_t i;

    if (st == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "O!OO:MilvusCaller", names,
                                     st->milvus_replies_type, &replies, &unusual, &last_write))
        return NULL;
    if (!PyAnySet_Check(unusual)) {
        PyErr_SetString(PyExc_TypeError, "unusual must be a set");
        return NULL;
    }
    self = (milvus_caller *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->st = arn_py_state_hold(st);
    self->replies = Py_NewRef(replies);
    self->unusual = Py_NewRef(unusual);
    self->last_write = Py_NewRef(last_write);
    for (i = 0; i < NAME_COUNT; i++) {
        self->names[i] = PyUnicode_InternFromString(texts[i]);
        if (self->names[i] == NULL) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static PyMethodDef caller_methods[] = {
    {"search", (PyCFunction)(void (*)(void))search_method, METH_FASTCALL, search_doc},
    {"bind", bind_method, METH_VARARGS, bind_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot caller_slots[] = {
    {Py_tp_new, new_caller},     {Py_tp_dealloc, dealloc_caller}, {Py_tp_traverse, traverse_caller},
    {Py_tp_clear, clear_caller}, {Py_tp_methods, caller_methods}, {0, NULL},
};

static PyType_Spec caller_spec = {
    .name = "arshai_native._core.MilvusCaller",
    .basicsize = sizeof(milvus_caller),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = caller_slots,
};

int arn_py_init_milvus_call(PyObject *module, arn_py_state *st) {
    PyObject *type;
    int r;

    st->milvus_plan_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &plan_spec, NULL);
    if (st->milvus_plan_type == NULL || PyModule_AddType(module, st->milvus_plan_type) < 0)
        return -1;
    type = PyType_FromModuleAndSpec(module, &caller_spec, NULL);
    if (type == NULL)
        return -1;
    r = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return r;
}
