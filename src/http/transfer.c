/* transfer.c - the attempts of an op: an easy handle set up, its callbacks, its end. */
#include "base/alloc.h"
#include "base/status.h"
#include "http/internal.h"
#include "http/redirect.h"
#include "http/retry.h"
#include "http/vectors.h"

#include <stdio.h>
#include <string.h>

/* Bodies up to here are libcurl's to send whenever it likes; it asks for larger ones piece by
 * piece, and that tells how far the server takes them. */
#define WHOLE_BODY (64 * 1024)

/* A reply that is not wanted is read up to here, to keep its connection; beyond, that is closed. */
#define DISCARD_MAX (256u * 1024u)

/* And of a stream's rest for so long, in milliseconds, between two pieces of it. */
#define DISCARD_MS 5000u

/* Read from a socket at a time: large replies are what costs. */
#define READ_SIZE (256 * 1024L)

/* Space that a Content-Length may claim before a byte of it is there. */
#define RESERVE_MAX (64u * 1024u * 1024u)

/* Never libcurl's own five minutes: the deadlines are this room's. */
#define NO_TIMEOUT_MS (1000L * 3600 * 24 * 20)

/* ---- libcurl's callbacks: they end nothing, they return ---- */

static void alive(arn_http_op *op, arn_http_phase phase, uint64_t ms) {
    op->phase = phase;
    op->due = ms != 0 ? arn__http_now(op->client) + ms : 0;
    arn__http_client_due(op->client, op->due);
}

static int attempts_left(const arn_http_op *op) {
    return op->attempt < op->options.max_retries && !op->client->is_closed;
}

/* Whether the request may go out once more although the server may have acted on it. */
static int may_repeat(const arn_http_op *op) {
    static const char *const methods[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"};
    size_t i;

    for (i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
        if (strcmp(op->method, methods[i]) == 0)
            return 1;
    return attempts_left(op);
}

/* Called once more in the same attempt when a kept connection has turned out to be closed: libcurl
 * begins anew on a fresh one by itself, whatever the method is. */
static int on_connected(void *arg, char *ip, char *local_ip, int port, int local_port) {
    arn_http_op *op = arg;

    (void)ip, (void)local_ip, (void)port, (void)local_port;
    if (op->is_sent && !may_repeat(op)) {
        op->refusal = ARN_HTTP_READ;
        return CURL_PREREQFUNC_ABORT;
    }
    op->is_sent = 1;
    op->base.state = ARN_OP_SENT;
    if (op->body.len > WHOLE_BODY)
        alive(op, ARN_HTTP_SENDING, op->options.write_ms);
    else
        alive(op, ARN_HTTP_RECEIVING, op->options.read_ms);
    return CURL_PREREQFUNC_OK;
}

static size_t on_send(char *out, size_t size, size_t count, void *arg) {
    arn_http_op *op = arg;
    size_t n = op->body.len - op->sent;

    if (n > size * count)
        n = size * count;
    memcpy(out, op->body.data + op->sent, n);
    op->sent += n;
    if (op->sent == op->body.len)
        alive(op, ARN_HTTP_RECEIVING, op->options.read_ms);
    else
        alive(op, ARN_HTTP_SENDING, op->options.write_ms);
    return n;
}

static int on_seek(void *arg, curl_off_t offset, int origin) {
    arn_http_op *op = arg;

    if (origin != SEEK_SET || offset < 0 || (size_t)offset > op->body.len)
        return CURL_SEEKFUNC_FAIL;
    op->sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* "HTTP/1.1 200 OK": a response begins. */
static int take_status_line(arn_http_op *op, const char *line, size_t len) {
    arn_http_reply *reply = &op->reply;
    const char *end = line + len;
    const char *p = line + 5;

    reply->version = 10 * (p < end ? *p - '0' : 1);
    if (p + 2 < end && p[1] == '.')
        reply->version += p[2] - '0';
    while (p < end && *p != ' ')
        p++;
    while (p < end && *p == ' ')
        p++;
    reply->status = 0;
    while (p < end && *p >= '0' && *p <= '9' && reply->status < 1000)
        reply->status = reply->status * 10 + (*p++ - '0');
    if (p < end && *p == ' ')
        p++;
    op->is_final = 0;
    arn_buf_reset(&reply->head, 4096);
    if (arn_buf_append(&reply->head, p, (size_t)(end - p)) != 0)
        return ARN_ENOMEM;
    return arn_buf_append(&reply->head, "", 1);
}

static int take_header(arn_http_op *op, const char *line, size_t len) {
    const char *colon = memchr(line, ':', len);
    size_t name_len, value_len, i;
    const char *value;
    char *out;

    if (colon == NULL)
        return 0;
    name_len = (size_t)(colon - line);
    value = colon + 1;
    value_len = (size_t)(line + len - value);
    while (value_len > 0 && (*value == ' ' || *value == '\t'))
        value++, value_len--;
    while (value_len > 0 && (value[value_len - 1] == ' ' || value[value_len - 1] == '\t'))
        value_len--;
    out = arn_buf_reserve(&op->reply.head, name_len + value_len + 2);
    if (out == NULL)
        return ARN_ENOMEM;
    for (i = 0; i < name_len; i++)
        out[i] = line[i] >= 'A' && line[i] <= 'Z' ? (char)(line[i] + 32) : line[i];
    out[name_len] = '\0';
    if (value_len > 0)
        memcpy(out + name_len + 1, value, value_len);
    out[name_len + 1 + value_len] = '\0';
    op->reply.head.len += name_len + value_len + 2;
    return 0;
}

/* Whether the body goes to the stream. An error's body belongs to the error, but for those who want
 * to see everything themselves. */
static int is_streamed(const arn_http_op *op) {
    return op->options.mode == ARN_HTTP_STREAM ||
           (op->options.mode == ARN_HTTP_EVENTS && op->reply.status < 400);
}

static int headers_complete(arn_http_op *op) {
    double named;

    if (op->reply.status < 200 || arn__http_is_redirect(op))
        return 0;
    op->is_final = 1;
    op->is_discarding = attempts_left(op) && op->reply.status >= 400 &&
                        arn__http_should_retry(&op->reply, &op->options, &named);
    op->discarded = 0;
    if (!is_streamed(op) || op->is_discarding)
        return 0;
    op->stream = arn__http_stream_new(op);
    if (op->stream == NULL)
        return ARN_ENOMEM;
    arn__http_stream_announce(op->stream);
    return 0;
}

static size_t on_header(char *line, size_t size, size_t count, void *arg) {
    arn_http_op *op = arg;
    size_t all = size * count;
    size_t len = all;
    int r;

    alive(op, op->phase == ARN_HTTP_SENDING ? ARN_HTTP_SENDING : ARN_HTTP_RECEIVING,
          op->options.read_ms);
    if (op->is_final)
        return all; /* trailers: the op may have been posted */
    while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == '\n'))
        len--;
    if (len >= 5 && memcmp(line, "HTTP/", 5) == 0)
        r = take_status_line(op, line, len);
    else if (len > 0)
        r = take_header(op, line, len);
    else
        r = headers_complete(op);
    return r == 0 ? all : 0;
}

static int collect(arn_http_op *op, const char *bytes, size_t len) {
    arn_buf *body = &op->reply.body;

    if (body->len == 0) {
        curl_off_t length = -1;
        curl_easy_getinfo(op->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
        /* One more byte: hosts like a NUL behind it. */
        if (length > 0 && (uint64_t)length < RESERVE_MAX) {
            arn_spares_take(&op->client->spares, body, (size_t)length + 1);
            if (arn_buf_reserve(body, (size_t)length + 1) == NULL)
                return ARN_ENOMEM;
        }
    }
    return arn_buf_append(body, bytes, len);
}

static size_t on_body(char *bytes, size_t size, size_t count, void *arg) {
    arn_http_op *op = arg;
    size_t len = size * count;
    int r;

    alive(op, op->phase == ARN_HTTP_SENDING ? ARN_HTTP_SENDING : ARN_HTTP_RECEIVING,
          op->options.read_ms);
    if (!op->is_final)
        return len; /* of a redirect */
    if (op->is_discarding) {
        op->discarded += len;
        return op->discarded <= DISCARD_MAX ? len : 0;
    }
    if (op->stream == NULL)
        return collect(op, bytes, len) == 0 ? len : 0;
    r = arn__http_stream_push(op->stream, bytes, len);
    if (r == 1) {
        op->phase = ARN_HTTP_PAUSED;
        op->due = 0;
        return CURL_WRITEFUNC_PAUSE;
    }
    if (r == ARN_EPROTO)
        op->refusal = ARN_HTTP_NO_UTF8;
    return r == 0 ? len : 0;
}

/* ---- an attempt ---- */

static CURL *new_easy(arn_http_client *client) {
    const arn_http_config *c = &client->config;
    CURL *easy;

    if (client->free_count > 0)
        return client->free_easy[--client->free_count];
    easy = curl_easy_init();
    if (easy == NULL)
        return NULL;
    /* What is the same for all of the client's requests stays set. */
    arn__http_multi_set_easy(client, easy);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    /* Or the io thread would wait for the end of a look-up that nobody wants any more. */
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, NO_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, READ_SIZE);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_send);
    curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_seek);
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_connected);
    curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
                     c->http2 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PIPEWAIT, 0L);
    curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, (long)c->keepalive_s);
    if (c->max_keepalive == 0)
        curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, c->verify ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, c->verify ? 2L : 0L);
    if (c->ca_file != NULL)
        curl_easy_setopt(easy, CURLOPT_CAINFO, c->ca_file);
    if (c->ca_dir != NULL)
        curl_easy_setopt(easy, CURLOPT_CAPATH, c->ca_dir);
    if (c->cert_file != NULL)
        curl_easy_setopt(easy, CURLOPT_SSLCERT, c->cert_file);
    if (c->key_file != NULL)
        curl_easy_setopt(easy, CURLOPT_SSLKEY, c->key_file);
    if (c->key_password != NULL)
        curl_easy_setopt(easy, CURLOPT_KEYPASSWD, c->key_password);
    if (c->unix_socket != NULL)
        curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, c->unix_socket);
    /* Explicitly, or libcurl would read the environment, which Python may be changing. */
    curl_easy_setopt(easy, CURLOPT_NOPROXY, c->no_proxy != NULL ? c->no_proxy : "");
    return easy;
}

static void give_easy(arn_http_client *client, CURL *easy) {
    if (!client->is_closed && client->free_count < ARN_HTTP_EASY_MAX)
        client->free_easy[client->free_count++] = easy;
    else
        curl_easy_cleanup(easy);
}

void arn__http_transfer_free_easy(arn_http_client *client) {
    while (client->free_count > 0)
        curl_easy_cleanup(client->free_easy[--client->free_count]);
}

static int is_named_line(const char *line, const char *name) {
    size_t len = strlen(name);

    return strncasecmp(line, name, len) == 0 && (line[len] == ':' || line[len] == ';');
}

static int is_dropped(const arn_http_op *op, const char *line) {
    return ((op->without & ARN_HTTP_NO_SECRETS) &&
            (is_named_line(line, "authorization") || is_named_line(line, "proxy-authorization") ||
             is_named_line(line, "cookie") || is_named_line(line, "host") ||
             is_named_line(line, "api-key"))) ||
           ((op->without & ARN_HTTP_NO_BODY_HEADERS) &&
            (is_named_line(line, "content-length") || is_named_line(line, "transfer-encoding")));
}

/* The shared headers, with the count of earlier attempts in its place and without what a redirect
 * has made unfit. */
static int make_own_list(const arn_http_op *op, struct curl_slist **list) {
    const char *name = op->options.retry_count_header;
    struct curl_slist *from;
    char count[128] = "";
    int placed = name == NULL;
    int r = 0;

    if (name != NULL)
        snprintf(count, sizeof(count), "%s: %u", name, op->attempt);
    for (from = op->headers->list; r == 0 && from != NULL; from = from->next) {
        int here = name != NULL && is_named_line(from->data, name);
        if (here && placed)
            continue;
        placed |= here;
        if (!is_dropped(op, from->data))
            r = arn__http_add_line(list, here ? count : from->data);
    }
    if (r == 0 && !placed)
        r = arn__http_add_line(list, count);
    return r;
}

/* Whether the shared headers have the first attempt's count already. */
static int has_count(const arn_http_op *op) {
    const char *name = op->options.retry_count_header;
    const struct curl_slist *line = op->headers->list;

    while (line != NULL && !is_named_line(line->data, name))
        line = line->next;
    return line != NULL && strcmp(line->data + strlen(name), ": 0") == 0;
}

static int set_headers(arn_http_op *op, CURL *easy) {
    struct curl_slist *list = NULL;
    int is_own = op->without != 0 ||
                 (op->options.retry_count_header != NULL && (op->attempt > 0 || !has_count(op)));

    curl_slist_free_all(op->own_list);
    op->own_list = NULL;
    if (is_own && make_own_list(op, &list) != 0) {
        curl_slist_free_all(list);
        return ARN_ENOMEM;
    }
    op->own_list = list;
    if (!is_own)
        list = op->headers->list;
    return curl_easy_setopt(easy, CURLOPT_HTTPHEADER, list) == CURLE_OK ? 0 : ARN_ENOMEM;
}

static int set_method(arn_http_op *op, CURL *easy) {
    int is_get = strcmp(op->method, "GET") == 0;
    int is_post = strcmp(op->method, "POST") == 0;
    int is_head = strcmp(op->method, "HEAD") == 0;
    int has_body = op->body.data != NULL || strcmp(op->method, "PUT") == 0 ||
                   strcmp(op->method, "PATCH") == 0; /* an empty one, as httpx */

    curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L); /* undoes what the last request was */
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, NULL);
    if (is_head && !has_body) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
        return 0;
    }
    if (is_post || has_body) {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)op->body.len);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS,
                         op->body.len > WHOLE_BODY ? NULL
                         : op->body.data != NULL   ? op->body.data
                                                   : "");
        curl_easy_setopt(easy, CURLOPT_READDATA, op);
        curl_easy_setopt(easy, CURLOPT_SEEKDATA, op);
    }
    if ((is_post || is_get) && (is_post || !has_body))
        return 0;
    return curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, op->method) == CURLE_OK ? 0 : ARN_ENOMEM;
}

static int is_tls(const char *url) {
    return strncasecmp(url, "https:", 6) == 0;
}

static int set_up(arn_http_op *op, CURL *easy) {
    const arn_http_config *c = &op->client->config;
    const char *proxy = is_tls(op->url) ? c->proxy_https : c->proxy_http;
    const char *encodings = op->options.decompress && !op->headers->has_accept_encoding ? "" : NULL;

    if (curl_easy_setopt(easy, CURLOPT_URL, op->url) != CURLE_OK || set_method(op, easy) != 0 ||
        set_headers(op, easy) != 0)
        return ARN_ENOMEM;
    curl_easy_setopt(easy, CURLOPT_PROXY, proxy != NULL ? proxy : "");
    curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, encodings);
    curl_easy_setopt(easy, CURLOPT_HTTP_CONTENT_DECODING, op->options.decompress ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, op);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, op);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, op);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, op);
    op->error[0] = '\0';
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, op->error);
    return 0;
}

void arn__http_transfer_begin(arn_http_op *op) {
    arn_http_client *client = op->client;
    CURL *easy = new_easy(client);

    op->sent = 0;
    op->is_sent = 0;
    op->is_final = op->is_discarding = 0;
    op->refusal = ARN_HTTP_OK;
    op->reply.status = 0;
    op->reply.retries = op->attempt;
    arn_buf_reset(&op->reply.head, 4096);
    arn_buf_reset(&op->reply.body, 0);
    if (easy == NULL || set_up(op, easy) != 0 ||
        curl_multi_add_handle(client->multi, easy) != CURLM_OK) {
        if (easy != NULL)
            curl_easy_cleanup(easy);
        arn__http_transfer_end(op, ARN_HTTP_MEMORY, NULL);
        return;
    }
    op->easy = easy;
    client->active_count++;
    arn_queue_push(&client->active, &op->base.node);
    alive(op, ARN_HTTP_CONNECTING, op->options.connect_ms);
    arn__http_multi_kick(client);
}

/* Takes the op out of whatever queue it is in, and its easy handle from libcurl. */
static void detach(arn_http_op *op) {
    arn_http_client *client = op->client;

    arn_queue_remove(&op->base.node);
    if (op->easy == NULL)
        return;
    curl_multi_remove_handle(client->multi, op->easy);
    curl_easy_setopt(op->easy, CURLOPT_ERRORBUFFER, NULL);
    curl_easy_setopt(op->easy, CURLOPT_HTTPHEADER, NULL);
    give_easy(client, op->easy);
    op->easy = NULL;
    client->active_count--;
}

/* ---- its end ---- */

/* Posts the op, which has no stream. */
static void post(arn_http_op *op, arn_http_failure failure, const char *message) {
    arn_http_reply *reply = &op->reply;
    int status = failure == ARN_HTTP_OK       ? ARN_OK
                 : failure == ARN_HTTP_MEMORY ? ARN_ENOMEM
                 : failure == ARN_HTTP_CLOSED ? ARN_ECLOSED
                                              : ARN_ECONN;

    if (status == ARN_OK && reply->status < 400 &&
        (op->options.mode == ARN_HTTP_JSON || op->options.mode == ARN_HTTP_EMBEDDINGS)) {
        arn_http_op_parse(op);
        if (reply->json == 0 && op->options.mode == ARN_HTTP_EMBEDDINGS)
            reply->json = arn__http_decode_vectors(&op->base.arena, &op->base.value);
    }
    reply->failure = failure;
    reply->elapsed_us = (uv_hrtime() - op->started_ns) / 1000;
    arn__op_finish(op->client->rt, &op->base, status, message);
}

static void finish(arn_http_op *op, arn_http_failure failure, const char *message) {
    arn_http_client *client = op->client;

    op->phase = ARN_HTTP_GONE;
    if (op->stream != NULL) {
        arn__http_stream_end(op->stream, failure, message);
        arn__http_stream_deliver(op->stream); /* the headers are good news, whatever came after */
    } else {
        post(op, failure, message);
    }
    arn_op_unref(&op->base);
    arn__http_client_freed(client);
}

void arn__http_transfer_end(arn_http_op *op, arn_http_failure failure, const char *message) {
    detach(op);
    finish(op, failure, message);
}

static void again(arn_http_op *op, double seconds) {
    detach(op);
    op->attempt++;
    arn__http_client_sleep(op, (uint64_t)(seconds * 1000));
    arn__http_client_freed(op->client);
}

void arn__http_transfer_fail(arn_http_op *op, arn_http_failure failure, const char *message) {
    /* Once a stream has been handed out, what it has brought cannot be taken back. */
    if (op->stream == NULL && attempts_left(op) && failure != ARN_HTTP_URL &&
        failure != ARN_HTTP_MEMORY && failure != ARN_HTTP_CLOSED)
        again(op, arn__http_backoff(op->attempt));
    else
        arn__http_transfer_end(op, failure, message);
}

static arn_http_failure failure_of(CURLcode code) {
    switch (code) {
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return ARN_HTTP_URL;
    case CURLE_COULDNT_RESOLVE_HOST:
        return ARN_HTTP_DNS;
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_PROXY:
        return ARN_HTTP_PROXY;
    case CURLE_COULDNT_CONNECT:
    case CURLE_INTERFACE_FAILED:
        return ARN_HTTP_CONNECT;
    case CURLE_OPERATION_TIMEDOUT:
        return ARN_HTTP_CONNECT_TIMEOUT;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_CLIENTCERT:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_SSL_ENGINE_SETFAILED:
    case CURLE_USE_SSL_FAILED:
        return ARN_HTTP_TLS;
    case CURLE_SEND_ERROR:
    case CURLE_SEND_FAIL_REWIND:
        return ARN_HTTP_WRITE;
    case CURLE_RECV_ERROR:
        return ARN_HTTP_READ;
    case CURLE_OUT_OF_MEMORY:
        return ARN_HTTP_MEMORY;
    default:
        return ARN_HTTP_PROTOCOL;
    }
}

/* The same op on its way to another place: no new attempt, and no waiting. */
static void follow(arn_http_op *op) {
    const char *what = NULL;
    int r;

    detach(op);
    r = arn__http_redirect(op, &what);
    if (r == 0)
        arn__http_transfer_begin(op);
    else
        arn__http_transfer_end(op, r == ARN_ENOMEM ? ARN_HTTP_MEMORY : ARN_HTTP_PROTOCOL, what);
}

/* A kept connection that the server has closed, noticed while the request was being sent. libcurl
 * itself begins anew on a fresh one unless it has got as far as to wait for the socket. */
static int is_stale(const arn_http_op *op, CURLcode code) {
    long fresh = 1;

    if ((code != CURLE_SEND_ERROR && code != CURLE_RECV_ERROR) || op->reply.status != 0 ||
        op->has_resent || !may_repeat(op))
        return 0;
    curl_easy_getinfo(op->easy, CURLINFO_NUM_CONNECTS, &fresh);
    return fresh == 0;
}

/* libcurl quotes a proxy it does not understand, with the password that may be in it. */
static int shows_proxy(const arn_http_op *op) {
    const arn_http_config *c = &op->client->config;

    return (c->proxy_http != NULL && strstr(op->error, c->proxy_http) != NULL) ||
           (c->proxy_https != NULL && strstr(op->error, c->proxy_https) != NULL);
}

/* What failed, where libcurl's code alone does not tell. */
static arn_http_failure cause_of(const arn_http_op *op, CURLcode code) {
    int has_connected = op->base.state == ARN_OP_SENT;
    long system_error = 0, proxy_status = 0;

    curl_easy_getinfo(op->easy, CURLINFO_OS_ERRNO, &system_error);
    curl_easy_getinfo(op->easy, CURLINFO_HTTP_CONNECTCODE, &proxy_status);
    switch (code) {
    case CURLE_WRITE_ERROR: /* only the callbacks' own refusals */
        return op->refusal != ARN_HTTP_OK ? op->refusal : ARN_HTTP_MEMORY;
    case CURLE_ABORTED_BY_CALLBACK:
        return op->refusal;
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        if (!op->is_sent && proxy_status >= 300)
            return ARN_HTTP_PROXY;
        /* With TLS 1.3 a server refuses a client's certificate after the handshake. */
        if (strstr(op->error, "SSL routines") != NULL &&
            strstr(op->error, "unexpected eof") == NULL)
            return ARN_HTTP_TLS;
        if (code == CURLE_RECV_ERROR && system_error == 0)
            return ARN_HTTP_PROTOCOL; /* its name for a bad chunk, too */
        break;
    case CURLE_OUT_OF_MEMORY:
        /* And for a header line that is too long; else it has little to allocate by then. */
        if (op->is_sent && !op->is_final)
            return ARN_HTTP_PROTOCOL;
        break;
    default:
        break;
    }
    if (failure_of(code) == ARN_HTTP_URL && has_connected)
        return ARN_HTTP_PROTOCOL; /* its name for a reply that is no HTTP */
    return failure_of(code);
}

static const char *words_for(const arn_http_op *op, CURLcode code, arn_http_failure failure) {
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return "the server has closed the connection without an answer";
    if (code == CURLE_OUT_OF_MEMORY && failure == ARN_HTTP_PROTOCOL)
        return "a header of the reply is too long";
    return op->error[0] != '\0' && !shows_proxy(op) ? op->error : curl_easy_strerror(code);
}

void arn__http_transfer_done(arn_http_op *op, CURLcode code) {
    double named = -1;
    char message[256];
    arn_http_failure failure;

    if (code == CURLE_OK)
        arn__http_multi_keep(op->client, op->easy);

    if (op->is_discarding && op->stream == NULL &&
        (code == CURLE_OK || code == CURLE_WRITE_ERROR)) {
        arn__http_should_retry(&op->reply, &op->options, &named);
        if (named >= 0 && (op->reply.status == 429 || op->reply.status == 503))
            arn__http_client_hold(op, (uint64_t)(named * 1000));
        if (named >= 0)
            op->held_ms += (uint64_t)(named * 1000);
        again(op, named >= 0 ? named : arn__http_backoff(op->attempt));
        return;
    }
    if (code == CURLE_OK && op->is_final) {
        arn__http_transfer_end(op, ARN_HTTP_OK, NULL);
        return;
    }
    if (code == CURLE_OK && op->reply.status >= 300 && arn__http_is_redirect(op)) {
        follow(op);
        return;
    }
    if (code == CURLE_OK)
        code = CURLE_WEIRD_SERVER_REPLY; /* it ended within its headers */
    if (is_stale(op, code)) {
        op->has_resent = 1;
        detach(op);
        arn__http_transfer_begin(op);
        return;
    }
    failure = cause_of(op, code);
    snprintf(message, sizeof(message), "%s", words_for(op, code, failure));
    arn__http_transfer_fail(op, failure, message);
}

void arn__http_transfer_discard(arn_http_op *op) {
    op->is_discarding = 1;
    op->discarded = 0;
    op->options.read_ms = DISCARD_MS;
    arn__http_transfer_resume(op);
    if (op->easy != NULL)
        alive(op, ARN_HTTP_RECEIVING, DISCARD_MS);
}

void arn__http_transfer_resume(arn_http_op *op) {
    if (op->easy == NULL || op->phase != ARN_HTTP_PAUSED)
        return;
    alive(op, ARN_HTTP_RECEIVING, op->options.read_ms);
    curl_easy_pause(op->easy, CURLPAUSE_CONT);
    arn__http_multi_kick(op->client);
}
