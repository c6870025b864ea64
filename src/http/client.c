#include "base/alloc.h"
#include "base/status.h"
#include "http/internal.h"
#include "io/timer.h"

#include <pthread.h>
#include <string.h>
#include <strings.h>

static void run_op(arn_msg *msg, int aborted);

static arn_http_op *op_of(arn_queue *node) {
    return ARN_CONTAINER_OF(node, arn_http_op, base.node);
}

uint64_t arn__http_now(const arn_http_client *client) {
    return uv_now(arn__runtime_loop(client->rt));
}

/* ---- host side ---- */

static void init_libcurl(void) {
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* Copies the config and its strings. */
static int copy_config(arn_http_client *client, const arn_http_config *config) {
    const char **fields[] = {
        &client->config.ca_file,     &client->config.ca_dir,       &client->config.cert_file,
        &client->config.key_file,    &client->config.key_password, &client->config.proxy_http,
        &client->config.proxy_https, &client->config.no_proxy,     &client->config.unix_socket,
    };

    client->config = *config;
    client->strings = arn_own_strings(fields, sizeof(fields) / sizeof(fields[0]));
    return client->strings != NULL ? 0 : ARN_ENOMEM;
}

arn_http_client *arn_http_client_new(arn_runtime *rt, const arn_http_config *config) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    arn_http_client *client = arn_calloc(1, sizeof(*client));

    if (client == NULL)
        return NULL;
    pthread_once(&once, init_libcurl);
    if (copy_config(client, config) != 0) {
        arn_free(client);
        return NULL;
    }
    atomic_init(&client->refs, 1);
    client->rt = rt;
    arn_queue_init(&client->waiting);
    arn_queue_init(&client->sleeping);
    arn_queue_init(&client->active);
    return client;
}

void arn_http_client_ref(arn_http_client *client) {
    atomic_fetch_add_explicit(&client->refs, 1, memory_order_relaxed);
}

void arn_http_client_unref(arn_http_client *client) {
    if (atomic_fetch_sub_explicit(&client->refs, 1, memory_order_acq_rel) != 1)
        return;
    arn_spares_free(&client->spares);
    arn_free(client->strings);
    arn_free(client);
}

arn_runtime *arn_http_client_runtime(const arn_http_client *client) {
    return client->rt;
}

static void close_client(arn_http_client *client);

static void run_release(arn_msg *msg, int aborted) {
    arn_http_client *client = ARN_CONTAINER_OF(msg, arn_http_client, release_msg);

    if (!aborted)
        close_client(client);
    arn_http_client_unref(client);
}

void arn_http_client_release(arn_http_client *client) {
    client->release_msg.run = run_release;
    arn_runtime_submit(client->rt, &client->release_msg, &client->release_msg);
}

arn_http_headers *arn_http_headers_new(void) {
    arn_http_headers *headers = arn_calloc(1, sizeof(*headers));

    if (headers != NULL)
        atomic_init(&headers->refs, 1);
    return headers;
}

static int is_named(const char *name, size_t len, const char *other) {
    return strlen(other) == len && strncasecmp(name, other, len) == 0;
}

int arn__http_add_line(struct curl_slist **list, const char *line) {
    struct curl_slist *longer = curl_slist_append(*list, line);

    if (longer == NULL)
        return ARN_ENOMEM;
    *list = longer;
    return 0;
}

int arn_http_headers_add(arn_http_headers *headers, const char *name, size_t name_len,
                         const char *value, size_t value_len) {
    size_t size = name_len + value_len + 3;
    char first[256];
    char *line = size > sizeof(first) ? arn_malloc(size) : first;
    int r;

    if (line == NULL)
        return ARN_ENOMEM;
    memcpy(line, name, name_len);
    if (value_len > 0) {
        memcpy(line + name_len, ": ", 2);
        memcpy(line + name_len + 2, value, value_len);
        line[name_len + 2 + value_len] = '\0';
    } else {
        memcpy(line + name_len, ";", 2); /* libcurl's way to send no value */
    }
    r = arn__http_add_line(&headers->list, line);
    if (line != first)
        arn_free(line);
    headers->has_accept_encoding |= is_named(name, name_len, "accept-encoding");
    headers->has_accept |= is_named(name, name_len, "accept");
    headers->has_content_type |= is_named(name, name_len, "content-type");
    headers->has_expect |= is_named(name, name_len, "expect");
    return r;
}

int arn_http_headers_finish(arn_http_headers *headers) {
    int r = 0;

    /* A name without a value keeps libcurl from adding that header on its own. */
    if (!headers->has_accept)
        r = arn__http_add_line(&headers->list, "Accept:");
    if (r == 0 && !headers->has_content_type)
        r = arn__http_add_line(&headers->list, "Content-Type:");
    if (r == 0 && !headers->has_expect)
        r = arn__http_add_line(&headers->list, "Expect:");
    return r;
}

void arn_http_headers_ref(arn_http_headers *headers) {
    atomic_fetch_add_explicit(&headers->refs, 1, memory_order_relaxed);
}

void arn_http_headers_unref(arn_http_headers *headers) {
    if (atomic_fetch_sub_explicit(&headers->refs, 1, memory_order_acq_rel) != 1)
        return;
    curl_slist_free_all(headers->list);
    arn_free(headers);
}

int arn_http_header_is_bad(const char *name, size_t name_len, const char *value, size_t value_len) {
    size_t i;

    if (name_len == 0)
        return 1;
    for (i = 0; i < name_len; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c <= ' ' || c >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", c) != NULL)
            return 1;
    }
    for (i = 0; i < value_len; i++)
        if (value[i] == '\r' || value[i] == '\n' || value[i] == '\0')
            return 2;
    return 0;
}

const char *arn_http_failure_name(arn_http_failure failure) {
    static const char *const names[] = {
        "ok",           "dns",           "connect",      "connect_timeout",
        "pool_timeout", "write_timeout", "read_timeout", "total_timeout",
        "tls",          "proxy",         "protocol",     "read",
        "write",        "url",           "closed",       "memory",
        "no_utf8",
    };

    return names[failure];
}

/* ---- ops ---- */

static void destroy_op(arn_op *base) {
    arn_http_op *op = ARN_CONTAINER_OF(base, arn_http_op, base);
    arn_http_client *client = op->client;

    arn_buf_free(&op->reply.head);
    arn_spares_give(&client->spares, &op->reply.body);
    arn_free(op->reply.url);
    arn_http_batch_free(op->batch);
    if (op->stream != NULL)
        arn_http_stream_unref(op->stream);
    arn_http_headers_unref(op->headers);
    curl_slist_free_all(op->own_list);
    if (op->release != NULL)
        op->release(op->body_owner);
    arn_free(op);
    arn_http_client_unref(client);
}

static void cancel_op(arn_op *base) {
    arn_http_op *op = ARN_CONTAINER_OF(base, arn_http_op, base);

    if (op->phase != ARN_HTTP_NEW) /* else run_op() will see the flag */
        arn__http_transfer_end(op, ARN_HTTP_CLOSED, NULL);
}

arn_http_op *arn_http_op_new(arn_http_client *client, const char *method, const char *url,
                             size_t url_len, arn_http_headers *headers,
                             const arn_http_options *options) {
    const char *name = options->retry_count_header;
    size_t method_size = strlen(method) + 1;
    size_t name_size = name != NULL ? strlen(name) + 1 : 0;
    arn_http_op *op = arn_malloc(sizeof(*op) + method_size + url_len + 1 + name_size);
    char *to;

    if (op == NULL)
        return NULL;
    memset(op, 0, sizeof(*op));
    arn_op_init(&op->base, run_op, destroy_op, NULL, 0);
    op->base.on_cancel = cancel_op;
    to = op->text;
    op->method = memcpy(to, method, method_size);
    to += method_size;
    op->url = memcpy(to, url, url_len);
    to += url_len;
    *to++ = '\0';
    op->options = *options;
    if (name != NULL)
        op->options.retry_count_header = memcpy(to, name, name_size);
    op->client = client;
    op->headers = headers;
    op->reply.json = 1;
    arn_http_client_ref(client);
    arn_http_headers_ref(headers);
    return op;
}

const char *arn_http_reply_header(const arn_http_reply *reply, const char *name) {
    const char *end = reply->head.data + reply->head.len;
    const char *found = NULL;
    const char *p = reply->head.data;

    if (p == NULL)
        return NULL;
    p += strlen(p) + 1; /* the reason phrase */
    while (p < end) {
        const char *value = p + strlen(p) + 1;
        if (strcmp(p, name) == 0)
            found = value;
        p = value + strlen(value) + 1;
    }
    return found;
}

void arn_http_op_parse(arn_http_op *op) {
    arn_http_reply *reply = &op->reply;
    arn_json_error error = {NULL, 0};

    reply->json = arn_json_parse(&op->base.arena, reply->body.data != NULL ? reply->body.data : "",
                                 reply->body.len, &op->base.value, &error);
    reply->what = error.what;
    reply->offset = error.offset;
}

/* ---- io thread: an op's way through the queues ---- */

static size_t origin_length(const char *url) {
    const char *p = strstr(url, "://");

    return p == NULL ? strlen(url) : (size_t)(p + 3 - url) + strcspn(p + 3, "/?#");
}

static arn_http_hold *find_hold(arn_http_client *client, const char *url) {
    size_t len = origin_length(url);
    uint64_t now = arn__http_now(client);
    arn_http_hold **p = &client->holds;

    while (*p != NULL) {
        arn_http_hold *hold = *p;
        if (hold->until <= now) {
            *p = hold->next;
            arn_free(hold);
            continue;
        }
        if (hold->len == len && memcmp(hold->origin, url, len) == 0)
            return hold;
        p = &hold->next;
    }
    return NULL;
}

void arn__http_client_hold(arn_http_op *op, uint64_t ms) {
    arn_http_client *client = op->client;
    arn_http_hold *hold = find_hold(client, op->url);
    uint64_t until = arn__http_now(client) + ms;
    size_t len = origin_length(op->url);

    if (hold == NULL) {
        hold = arn_malloc(sizeof(*hold) + len);
        if (hold == NULL)
            return; /* a courtesy less */
        memcpy(hold->origin, op->url, len);
        hold->len = len;
        hold->until = 0;
        hold->next = client->holds;
        client->holds = hold;
    }
    if (hold->until < until)
        hold->until = until;
}

static void see_to_all(arn_http_client *client);

static void on_timer(uv_timer_t *timer) {
    arn_http_client *client = timer->data;

    client->timer_at = 0;
    see_to_all(client);
}

void arn__http_client_due(arn_http_client *client, uint64_t when) {
    uint64_t now = arn__http_now(client);

    if (when == 0 || (client->timer_at != 0 && client->timer_at <= when))
        return;
    client->timer_at = when;
    uv_timer_start(client->timer, on_timer, when > now ? when - now : 0, 0);
}

static void put(arn_http_op *op, arn_queue *queue, arn_http_phase phase, uint64_t due) {
    op->phase = phase;
    op->due = due;
    arn_queue_push(queue, &op->base.node);
    arn__http_client_due(op->client, due);
}

void arn__http_client_sleep(arn_http_op *op, uint64_t ms) {
    put(op, &op->client->sleeping, ARN_HTTP_SLEEPING, arn__http_now(op->client) + ms);
}

static int has_room(const arn_http_client *client) {
    return client->config.max_connections == 0 ||
           client->active_count < client->config.max_connections;
}

/* A new op, or one that has slept long enough. */
static void admit(arn_http_op *op) {
    arn_http_client *client = op->client;
    arn_http_hold *hold =
        op->options.max_retries > 0 && client->holds != NULL ? find_hold(client, op->url) : NULL;

    if (hold != NULL) {
        uint64_t wait = hold->until - arn__http_now(client);
        /* All in all no longer than the longest delay that is followed. */
        if ((double)(op->held_ms + wait) <= op->options.max_retry_after * 1000) {
            op->held_ms += wait;
            arn__http_client_sleep(op, wait);
            return;
        }
    }
    if (has_room(client) && arn_queue_empty(&client->waiting)) {
        arn__http_transfer_begin(op);
        return;
    }
    put(op, &client->waiting, ARN_HTTP_WAITING,
        op->options.pool_ms != 0 ? arn__http_now(client) + op->options.pool_ms : 0);
}

void arn__http_client_freed(arn_http_client *client) {
    while (!client->is_closed && has_room(client) && !arn_queue_empty(&client->waiting)) {
        arn_http_op *op = op_of(arn_queue_pop(&client->waiting));
        arn__http_transfer_begin(op);
    }
}

static const char *timeout_message(const arn_http_op *op) {
    switch (op->phase) {
    case ARN_HTTP_WAITING:
        return "timed out while waiting for one of max_connections to become free: raise the limit "
               "or send less at a time";
    case ARN_HTTP_CONNECTING:
        return "timed out while connecting to the server: is the address right, is it reachable?";
    case ARN_HTTP_SENDING:
        return "timed out while sending the request: the server has stopped taking it";
    default:
        return "timed out while waiting for the server's reply: raise the timeout if it needs "
               "longer";
    }
}

static arn_http_failure timeout_of(const arn_http_op *op) {
    switch (op->phase) {
    case ARN_HTTP_WAITING:
        return ARN_HTTP_POOL_TIMEOUT;
    case ARN_HTTP_CONNECTING:
        return ARN_HTTP_CONNECT_TIMEOUT;
    case ARN_HTTP_SENDING:
        return ARN_HTTP_WRITE_TIMEOUT;
    default:
        return ARN_HTTP_READ_TIMEOUT;
    }
}

/* Whose time has come, in one queue; `next` becomes the soonest of the other times. Ops that are
 * acted upon leave the queue, or stay with a later time; the others are looked at once. */
static void see_to(arn_queue *queue, uint64_t now, uint64_t *next) {
    arn_queue todo;

    arn_queue_init(&todo);
    arn_queue_append(&todo, queue);
    while (!arn_queue_empty(&todo)) {
        arn_http_op *op = op_of(arn_queue_pop(&todo));
        uint64_t due = arn__sooner(op->due, op->ends);

        if (due == 0 || due > now) {
            arn_queue_push(queue, &op->base.node);
            *next = arn__sooner(*next, due);
        } else if (op->ends != 0 && op->ends <= now) {
            arn_queue_push(queue, &op->base.node);
            arn__http_transfer_end(op, ARN_HTTP_TOTAL_TIMEOUT,
                                   "the request took longer than its total timeout");
        } else if (op->phase == ARN_HTTP_SLEEPING) {
            admit(op);
        } else {
            arn_queue_push(queue, &op->base.node);
            arn__http_transfer_fail(op, timeout_of(op), timeout_message(op));
        }
    }
}

/* The timer's: looks at every op, which is cheap because it is rare. Deadlines of transfers move
 * with each byte; only when one has passed is the timer set anew. */
static void see_to_all(arn_http_client *client) {
    uint64_t now = arn__http_now(client);
    uint64_t next = 0;

    arn_http_client_ref(client);
    see_to(&client->active, now, &next);
    see_to(&client->waiting, now, &next);
    see_to(&client->sleeping, now, &next);
    if (!client->is_closed)
        arn__http_client_due(client, next);
    arn_http_client_unref(client);
}

/* ---- start and stop ---- */

static void end_all(arn_queue *queue, arn_http_failure failure, const char *message) {
    arn_queue todo;

    arn_queue_init(&todo);
    arn_queue_append(&todo, queue);
    while (!arn_queue_empty(&todo))
        arn__http_transfer_end(op_of(todo.next), failure, message);
}

void arn__http_client_end_active(arn_http_client *client, arn_http_failure failure,
                                 const char *message) {
    end_all(&client->active, failure, message);
}

static void close_client(arn_http_client *client) {
    static const char message[] = "the client was closed";

    if (client->is_closed)
        return;
    client->is_closed = 1;
    if (client->multi == NULL)
        return;
    arn__runtime_remove_stopper(&client->stopper);
    end_all(&client->waiting, ARN_HTTP_CLOSED, message);
    end_all(&client->sleeping, ARN_HTTP_CLOSED, message);
    end_all(&client->active, ARN_HTTP_CLOSED, message);
    arn__http_transfer_free_easy(client);
    arn__http_multi_close(client);
    while (client->holds != NULL) {
        arn_http_hold *hold = client->holds;
        client->holds = hold->next;
        arn_free(hold);
    }
    arn_http_client_unref(client); /* what open_client() took */
}

static void stop_client(arn_stopper *stopper) {
    close_client(ARN_CONTAINER_OF(stopper, arn_http_client, stopper));
}

static int open_client(arn_http_client *client) {
    int r;

    if (client->multi != NULL)
        return 0;
    r = arn__http_multi_open(client);
    if (r != 0)
        return r;
    client->stopper.stop = stop_client;
    arn__runtime_add_stopper(client->rt, &client->stopper);
    arn_http_client_ref(client);
    return 0;
}

/* libcurl would guess a scheme, and take a path for a host. */
static int is_complete(const char *url) {
    size_t len = strncasecmp(url, "http://", 7) == 0    ? 7
                 : strncasecmp(url, "https://", 8) == 0 ? 8
                                                        : 0;

    return len > 0 && url[len] != '\0' && strchr("/?#", url[len]) == NULL;
}

static void run_op(arn_msg *msg, int aborted) {
    arn_http_op *op = ARN_CONTAINER_OF(msg, arn_http_op, base.msg);
    arn_http_client *client = op->client;
    int r;

    if (aborted || client->is_closed || arn_op_is_cancelled(&op->base)) {
        op->reply.failure = ARN_HTTP_CLOSED;
        arn__op_finish(aborted ? NULL : client->rt, &op->base,
                       aborted ? ARN_ESHUTDOWN : ARN_ECLOSED,
                       client->is_closed ? "the client was closed" : NULL);
        return;
    }
    if (!is_complete(op->url)) {
        op->reply.failure = ARN_HTTP_URL;
        arn__op_finish(client->rt, &op->base, ARN_ECONN, "this is no URL of http or https");
        return;
    }
    r = open_client(client);
    if (r != 0) {
        op->reply.failure = ARN_HTTP_MEMORY;
        arn__op_finish(client->rt, &op->base, r, NULL);
        return;
    }
    arn_op_ref(&op->base); /* the transfer's; the first one goes with the post */
    op->base.state = ARN_OP_QUEUED;
    op->started_ns = uv_hrtime();
    if (op->options.total_ms != 0)
        op->ends = arn__http_now(client) + op->options.total_ms;
    arn__http_client_due(client, op->ends);
    admit(op);
}
