/* stream.c - a streamed reply: filled on the io thread, read in batches. */
#include "base/alloc.h"
#include "base/status.h"
#include "http/internal.h"

#include <string.h>

/* Past either of them the transfer is paused. */
#define BATCH_BYTES (256u * 1024u)
#define BATCH_EVENTS 1024u

struct arn_http_stream {
    _Atomic uint32_t refs;
    arn_runtime *rt;
    arn_http_client *client; /* referenced */
    _Atomic int abandoned;
    arn_msg abandon_msg;
    _Atomic(arn_http_batch *) ready; /* laid here by the io thread, if there is none */

    /* The io thread's. */
    arn_http_op *op; /* its transfer's, as long as that lasts; or to announce */
    int is_live;     /* the transfer is under way */
    int announced;   /* the op is to be posted at the end of this turn */
    int is_events;
    int json;
    int ended;
    arn_http_batch *batch; /* being filled; NULL: empty */
    arn_http_read *reader; /* waits until a batch is ready; referenced by its post */
    arn_deferred deliver;
    arn_sse sse;
};

/* ---- batches ---- */

void arn_http_batch_free(arn_http_batch *batch) {
    if (batch == NULL)
        return;
    arn_arena_free(&batch->arena);
    arn_buf_free(&batch->bytes);
    arn_free(batch->events);
    arn_free(batch);
}

static arn_http_batch *batch_of(arn_http_stream *s) {
    if (s->batch == NULL) {
        s->batch = arn_calloc(1, sizeof(*s->batch));
        if (s->batch != NULL)
            arn_arena_init(&s->batch->arena, NULL, 0);
    }
    return s->batch;
}

static int copy_slice(arn_http_batch *batch, arn_slice from, arn_slice *to) {
    to->len = from.len;
    if (from.data == NULL)
        return 0;
    to->data = arn_arena_copy(&batch->arena, from.data, from.len);
    return to->data != NULL ? 0 : ARN_ENOMEM;
}

static int add_event(void *arg, const arn_sse_event *from) {
    arn_http_stream *s = arg;
    arn_slice data = from->data;
    int has_id;
    arn_http_batch *batch = batch_of(s);
    arn_json_error error;
    arn_http_event *event;

    if (batch == NULL)
        return ARN_ENOMEM;
    if (batch->count == batch->cap) {
        size_t cap = batch->cap > 0 ? 2 * batch->cap : 16;
        arn_http_event *events = arn_realloc(batch->events, cap * sizeof(*events));
        if (events == NULL)
            return ARN_ENOMEM;
        batch->events = events;
        batch->cap = cap;
    }
    event = &batch->events[batch->count];
    memset(event, 0, sizeof(*event));
    /* The id lasts, and with it every empty line is an event: they share its copy. */
    has_id = batch->count > 0 && !from->is_new_id;
    if (has_id)
        event->id = event[-1].id;
    if (copy_slice(batch, from->event, &event->event) != 0 ||
        copy_slice(batch, from->data, &event->data) != 0 ||
        (!has_id && copy_slice(batch, from->id, &event->id) != 0) ||
        copy_slice(batch, from->retry, &event->retry) != 0)
        return ARN_ENOMEM;
    event->json = 1;
    if (data.len > 0 && (data.data[0] == '{' || data.data[0] == '[') &&
        !(data.len >= 6 && memcmp(data.data, "[DONE]", 6) == 0))
        event->json =
            arn_json_parse(&batch->arena, event->data.data, data.len, &event->value, &error);
    batch->count++;
    batch->size += sizeof(*event) + from->event.len + 3 * data.len + (has_id ? 0 : from->id.len);
    return event->json == ARN_ENOMEM ? ARN_ENOMEM : 0;
}

/* ---- life ---- */

static void deliver_later(arn_deferred *d);

arn_http_stream *arn__http_stream_new(arn_http_op *op) {
    arn_http_stream *s = arn_calloc(1, sizeof(*s));

    if (s == NULL)
        return NULL;
    atomic_init(&s->refs, 1); /* the op's */
    atomic_init(&s->abandoned, 0);
    atomic_init(&s->ready, NULL);
    s->rt = op->client->rt;
    s->client = op->client;
    s->op = op;
    s->is_live = 1;
    s->is_events = op->options.mode == ARN_HTTP_EVENTS;
    s->deliver.fn = deliver_later;
    arn_sse_init(&s->sse);
    arn_http_client_ref(s->client);
    return s;
}

void arn_http_stream_ref(arn_http_stream *s) {
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
}

void arn_http_stream_unref(arn_http_stream *s) {
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    arn_http_batch_free(s->batch);
    arn_http_batch_free(arn_http_stream_take(s));
    arn_sse_free(&s->sse);
    arn_http_client_unref(s->client);
    arn_free(s);
}

arn_runtime *arn_http_stream_runtime(const arn_http_stream *s) {
    return s->rt;
}

static void run_abandon(arn_msg *msg, int aborted) {
    static const char closed[] = "the stream was closed";
    arn_http_stream *s = ARN_CONTAINER_OF(msg, arn_http_stream, abandon_msg);

    if (!aborted) {
        arn_http_batch *ready = arn_http_stream_take(s);
        int was_unread = ready != NULL || s->batch != NULL;
        arn_http_batch_free(ready);
        arn_http_batch_free(s->batch);
        s->batch = NULL;
        if (s->is_live)
            arn__http_transfer_end(s->op, ARN_HTTP_CLOSED, closed);
        else if (was_unread)
            arn__http_stream_end(s, ARN_HTTP_CLOSED, closed); /* instead of its own end */
    }
    arn_http_stream_unref(s);
}

static void run_finish(arn_msg *msg, int aborted) {
    arn_http_stream *s = ARN_CONTAINER_OF(msg, arn_http_stream, abandon_msg);

    if (!aborted && s->is_live)
        arn__http_transfer_discard(s->op);
    arn_http_stream_unref(s);
}

static void give_up(arn_http_stream *s, void (*run)(arn_msg *msg, int aborted)) {
    if (atomic_exchange(&s->abandoned, 1))
        return;
    arn_http_stream_ref(s);
    s->abandon_msg.run = run;
    arn_runtime_submit(s->rt, &s->abandon_msg, &s->abandon_msg);
}

void arn_http_stream_abandon(arn_http_stream *s) {
    give_up(s, run_abandon);
}

void arn_http_stream_finish(arn_http_stream *s) {
    give_up(s, run_finish);
}

/* ---- from the transfer ---- */

static int is_full(const arn_http_stream *s) {
    const arn_http_batch *batch = s->batch;

    return batch != NULL && (batch->size >= BATCH_BYTES || batch->count >= BATCH_EVENTS);
}

static int has_something(const arn_http_stream *s) {
    const arn_http_batch *batch = s->batch;

    return s->ended || (batch != NULL && (batch->count > 0 || batch->bytes.len > 0));
}

static void deliver_soon(arn_http_stream *s) {
    if (s->deliver.queued || (!s->announced && (s->reader == NULL || !has_something(s))))
        return;
    arn_http_stream_ref(s);
    arn__runtime_defer(s->rt, &s->deliver);
}

int arn__http_stream_push(arn_http_stream *s, const char *bytes, size_t len) {
    int r;

    if (is_full(s))
        return 1;
    if (s->is_events) {
        r = arn_sse_feed(&s->sse, bytes, len, add_event, s);
    } else {
        arn_http_batch *batch = batch_of(s);
        r = batch == NULL ? ARN_ENOMEM : arn_buf_append(&batch->bytes, bytes, len);
        if (r == 0)
            batch->size += len;
    }
    deliver_soon(s);
    return r;
}

void arn__http_stream_end(arn_http_stream *s, arn_http_failure failure, const char *message) {
    arn_http_batch *batch = batch_of(s);

    if (failure == ARN_HTTP_OK && s->is_events && arn_sse_end(&s->sse) != 0)
        failure = ARN_HTTP_NO_UTF8;
    if (failure == ARN_HTTP_NO_UTF8 && batch != NULL &&
        arn_buf_append(&batch->bytes, s->sse.line.data, s->sse.line.len) != 0)
        failure = ARN_HTTP_MEMORY;
    s->is_live = 0;
    s->ended = 1;
    if (batch != NULL) { /* else the next read fails for want of memory, too */
        batch->is_end = 1;
        batch->failure = failure;
        strncpy(batch->message, message != NULL ? message : "", sizeof(batch->message) - 1);
    }
    deliver_soon(s);
}

void arn__http_stream_announce(arn_http_stream *s) {
    s->announced = 1;
    deliver_soon(s);
}

static arn_http_batch *take_batch(arn_http_stream *s) {
    arn_http_batch *batch = s->batch;

    s->batch = NULL;
    return batch;
}

void arn__http_stream_deliver(arn_http_stream *s) {
    arn_http_op *op = s->op;

    if (!s->announced)
        return;
    s->announced = 0;
    if (has_something(s))
        op->batch = take_batch(s);
    if (!s->is_live)
        s->op = NULL;
    op->reply.elapsed_us = (uv_hrtime() - op->started_ns) / 1000;
    arn__op_finish(s->rt, &op->base, ARN_OK, NULL);
    if (s->is_live)
        arn__http_transfer_resume(op); /* it may have filled the batch before it was announced */
}

/* ---- to the reader ---- */

arn_http_batch *arn_http_stream_take(arn_http_stream *s) {
    return atomic_exchange_explicit(&s->ready, NULL, memory_order_acq_rel);
}

/* A batch may be ready already, for a reader that has been given up since. */
static int is_ready(arn_http_stream *s) {
    return atomic_load_explicit(&s->ready, memory_order_acquire) != NULL;
}

static int make_ready(arn_http_stream *s) {
    arn_http_batch *batch;

    if (is_ready(s))
        return 0;
    batch = take_batch(s);
    if (batch == NULL && s->ended && batch_of(s) != NULL) {
        batch = take_batch(s); /* read once more, after the end */
        batch->is_end = 1;
    }
    atomic_store_explicit(&s->ready, batch, memory_order_release);
    return batch != NULL ? 0 : ARN_ENOMEM;
}

static void answer(arn_http_stream *s) {
    arn_http_read *reader = s->reader;

    s->reader = NULL;
    arn__op_finish(s->rt, &reader->base, make_ready(s), NULL);
    if (s->is_live)
        arn__http_transfer_resume(s->op);
}

static void deliver_later(arn_deferred *d) {
    arn_http_stream *s = ARN_CONTAINER_OF(d, arn_http_stream, deliver);

    if (s->announced)
        arn__http_stream_deliver(s);
    else if (s->reader != NULL && has_something(s))
        answer(s);
    arn_http_stream_unref(s);
}

static void run_read(arn_msg *msg, int aborted) {
    arn_http_read *reader = ARN_CONTAINER_OF(msg, arn_http_read, base.msg);
    arn_http_stream *s = reader->stream;

    if (aborted) {
        arn__op_finish(NULL, &reader->base, ARN_ESHUTDOWN, NULL);
    } else if (arn_op_is_cancelled(&reader->base)) {
        arn__op_finish(s->rt, &reader->base, ARN_ECANCELED, NULL);
    } else if (s->reader != NULL) {
        arn__op_finish(s->rt, &reader->base, ARN_EBUSY, "the stream is being read already");
    } else {
        s->reader = reader;
        if (is_ready(s) || has_something(s))
            answer(s);
    }
}

static void cancel_read(arn_op *base) {
    arn_http_read *reader = ARN_CONTAINER_OF(base, arn_http_read, base);

    if (reader->stream->reader != reader)
        return;
    reader->stream->reader = NULL;
    arn__op_finish(reader->stream->rt, base, ARN_ECANCELED, NULL);
}

static void destroy_read(arn_op *base) {
    arn_http_read *reader = ARN_CONTAINER_OF(base, arn_http_read, base);

    arn_http_stream_unref(reader->stream);
    arn_free(reader);
}

arn_http_read *arn_http_read_new(arn_http_stream *stream) {
    arn_http_read *reader = arn_calloc(1, sizeof(*reader));

    if (reader == NULL)
        return NULL;
    arn_op_init(&reader->base, run_read, destroy_read, NULL, 0);
    reader->base.on_cancel = cancel_read;
    reader->stream = stream;
    arn_http_stream_ref(stream);
    return reader;
}
