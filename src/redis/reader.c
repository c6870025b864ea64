#include "redis/reader.h"

#include "base/alloc.h"
#include "base/status.h"

#include <hiredis/hiredis.h>
#include <hiredis/read.h>
#include <stdio.h>
#include <string.h>

/* redisReader moves the rest of its buffer to the front once per reply past the first kilobyte.
 * Fed slice by slice that move is short; a reply longer than a slice gets all there is at once. */
#define SLICE 4096u

/* More elements than any sane reply has: a corrupt header must not reserve gigabytes. */
#define ELEMENTS_MAX (64u * 1024u * 1024u)

/* Deeper replies are refused: whoever converts them recurses. hiredis 0.14's own limit is 7. */
#define DEPTH_MAX 128

/* An idle reader keeps a buffer of this size instead of giving it back after every reply. */
#define KEEP_BUFFER (64u * 1024u)

/* A reply that is one bulk string of this size goes round the parser, which would copy it twice.
 * Above the limit (Redis' own) the length is not trusted with an allocation in advance. */
#define DIRECT_MIN (64u * 1024u)
#define DIRECT_MAX (512u * 1024u * 1024u)

#if HIREDIS_MAJOR >= 1
typedef size_t element_count;
#define ROOT_TASK(parser) ((parser)->task[0])
#else
typedef int element_count;
#define ROOT_TASK(parser) (&(parser)->rstack[0])
#endif

struct arn_redis_reader {
    redisReader *parser;
    const char *data; /* lent by feed, not yet given to the parser */
    size_t len;
    arn_arena *arena; /* of the reply under construction */
    char *direct;     /* a large bulk string and its CRLF; NULL when none is under way */
    size_t direct_len, direct_pos;
    int out_of_memory;
    const char *refused; /* why a value was not made, when memory is not the reason */
    char error[160];
};

/* Where the value of this task goes: its place in the parent, or a new root. */
static arn_value *place(const redisReadTask *task) {
    arn_redis_reader *r = task->privdata;

    if (task->parent != NULL) {
        arn_value *parent = task->parent->obj;
        return &parent->u.items[task->idx];
    }
    return arn_arena_alloc(r->arena, sizeof(arn_value));
}

static arn_value *fail(const redisReadTask *task) {
    ((arn_redis_reader *)task->privdata)->out_of_memory = 1;
    return NULL;
}

static const char not_terminated[] = "Protocol Error: bulk string is not terminated";

static void *create_string(const redisReadTask *task, char *s, size_t len) {
    arn_redis_reader *r = task->privdata;
    arn_value *v = place(task);

    /* The parser has seen that two more bytes are there, but not which. */
    if (task->type == REDIS_REPLY_STRING && (s[len] != '\r' || s[len + 1] != '\n')) {
        r->refused = not_terminated;
        return NULL;
    }
    if (v == NULL)
        return fail(task);
    v->kind = task->type == REDIS_REPLY_ERROR ? ARN_ERROR : ARN_BYTES;
    v->len = len;
    v->u.bytes = arn_arena_copy(r->arena, s, len);
    return v->u.bytes != NULL ? v : fail(task);
}

static void *create_array(const redisReadTask *task, element_count elements) {
    arn_redis_reader *r = task->privdata;
    size_t count = elements > 0 ? (size_t)elements : 0;
    const redisReadTask *t;
    unsigned depth = 0;
    arn_value *v;

    if (count > ELEMENTS_MAX)
        r->refused = "Protocol Error: too many elements in a reply";
    for (t = task; t != NULL && depth <= DEPTH_MAX; t = t->parent)
        depth++;
    if (depth > DEPTH_MAX)
        r->refused = "Protocol Error: reply is nested too deeply";
    if (r->refused != NULL)
        return NULL;
    v = place(task);
    if (v == NULL)
        return fail(task);
    v->kind = ARN_ARRAY;
    v->len = count;
    v->u.items = arn_arena_alloc(r->arena, count * sizeof(arn_value));
    return v->u.items != NULL ? v : fail(task);
}

static void *create_integer(const redisReadTask *task, long long integer) {
    arn_value *v = place(task);

    if (v == NULL)
        return fail(task);
    v->kind = ARN_INT;
    v->len = 0;
    v->u.integer = integer;
    return v;
}

static void *create_nil(const redisReadTask *task) {
    arn_value *v = place(task);

    if (v == NULL)
        return fail(task);
    v->kind = ARN_NIL;
    v->len = 0;
    return v;
}

/* The arena frees. */
static void free_object(void *object) {
    (void)object;
}

#if HIREDIS_MAJOR >= 1
static void *create_double(const redisReadTask *task, double number, char *s, size_t len) {
    arn_value *v = place(task);

    (void)s;
    (void)len;
    if (v == NULL)
        return fail(task);
    v->kind = ARN_DOUBLE;
    v->len = 0;
    v->u.number = number;
    return v;
}

static void *create_bool(const redisReadTask *task, int truth) {
    arn_value *v = create_integer(task, truth != 0);

    if (v != NULL)
        v->kind = ARN_BOOL;
    return v;
}
#endif

static redisReplyObjectFunctions functions = {
    .createString = create_string,
    .createArray = create_array,
    .createInteger = create_integer,
    .createNil = create_nil,
    .freeObject = free_object,
#if HIREDIS_MAJOR >= 1
    .createDouble = create_double,
    .createBool = create_bool,
#endif
};

arn_redis_reader *arn__redis_reader_new(void) {
    arn_redis_reader *r = arn_calloc(1, sizeof(*r));

    if (r == NULL)
        return NULL;
    r->parser = redisReaderCreateWithFunctions(&functions);
    if (r->parser == NULL) {
        arn_free(r);
        return NULL;
    }
    r->parser->privdata = r;
    r->parser->maxbuf = KEEP_BUFFER;
#if HIREDIS_MAJOR >= 1
    r->parser->maxelements = ELEMENTS_MAX;
#endif
    return r;
}

void arn__redis_reader_free(arn_redis_reader *r) {
    if (r == NULL)
        return;
    redisReaderFree(r->parser);
    arn_free(r);
}

void arn__redis_reader_feed(arn_redis_reader *r, const char *data, size_t len) {
    r->data = data;
    r->len = len;
}

/* Gives the parser its next slice. 0, 1 (there was one) or ARN_ENOMEM. */
static int feed_slice(arn_redis_reader *r) {
    size_t n = r->len;

    if (n == 0)
        return 0;
    if (n > SLICE && r->parser->len - r->parser->pos < SLICE)
        n = SLICE;
    if (redisReaderFeed(r->parser, r->data, n) != REDIS_OK)
        return ARN_ENOMEM;
    r->data += n;
    r->len -= n;
    return 1;
}

/* The parser waits for the rest of something. If that is a large bulk string by itself, takes it
 * over: what has come of it is moved to its last place and the parser is as before the reply. */
static int go_direct(arn_redis_reader *r) {
    redisReader *parser = r->parser;
    const char *p = parser->buf + parser->pos;
    const char *end = parser->buf + parser->len;
    size_t n = 0;
    size_t have;

    if (parser->ridx != 0 || ROOT_TASK(parser)->type != REDIS_REPLY_STRING)
        return 0;
    for (; p < end && *p >= '0' && *p <= '9'; p++) {
        n = n * 10 + (size_t)(*p - '0');
        if (n > DIRECT_MAX)
            return 0;
    }
    if (n < DIRECT_MIN || end - p < 2 || p[0] != '\r' || p[1] != '\n')
        return 0;
    p += 2;
    have = (size_t)(end - p);
    if (have >= n + 2)
        return 0;
    r->direct = arn_arena_alloc(r->arena, n + 2);
    if (r->direct == NULL) {
        r->out_of_memory = 1;
        return ARN_ENOMEM;
    }
    memcpy(r->direct, p, have);
    r->direct_len = n + 2;
    r->direct_pos = have;
    parser->pos = parser->len;
    parser->ridx = -1;
    return 1;
}

/* Adds what was fed to the bulk string. 1 when it is complete; else as next(). */
static int read_direct(arn_redis_reader *r, arn_value *value) {
    size_t room = r->direct_len - r->direct_pos;
    size_t n = r->len < room ? r->len : room;

    if (n > 0 && r->data != r->direct + r->direct_pos)
        memcpy(r->direct + r->direct_pos, r->data, n);
    r->direct_pos += n;
    r->data += n;
    r->len -= n;
    if (r->direct_pos < r->direct_len)
        return 0;
    if (memcmp(r->direct + r->direct_len - 2, "\r\n", 2) != 0) {
        snprintf(r->error, sizeof(r->error), "%s", not_terminated);
        return ARN_EPROTO;
    }
    value->kind = ARN_BYTES;
    value->len = r->direct_len - 2;
    value->u.bytes = r->direct;
    r->direct[value->len] = '\0';
    r->direct = NULL;
    return 1;
}

char *arn__redis_reader_space(arn_redis_reader *r, size_t *len) {
    if (r->direct == NULL)
        return NULL;
    *len = r->direct_len - r->direct_pos;
    return r->direct + r->direct_pos;
}

static int broken(arn_redis_reader *r) {
    if (r->refused != NULL) {
        snprintf(r->error, sizeof(r->error), "%s", r->refused);
    } else if (r->out_of_memory || r->parser->err == REDIS_ERR_OOM) {
        snprintf(r->error, sizeof(r->error), "out of memory while reading a reply");
        return ARN_ENOMEM;
    } else {
        snprintf(r->error, sizeof(r->error), "%s", r->parser->errstr);
    }
    return ARN_EPROTO;
}

int arn__redis_reader_next(arn_redis_reader *r, arn_arena *arena, arn_value *value) {
    void *reply = NULL;
    int fed;

    r->arena = arena;
    for (;;) {
        if (r->direct != NULL)
            return read_direct(r, value);
        if (redisReaderGetReply(r->parser, &reply) != REDIS_OK)
            return broken(r);
        if (reply != NULL) {
            *value = *(arn_value *)reply;
            return 1;
        }
        fed = go_direct(r);
        if (fed == 0) {
            fed = feed_slice(r);
            if (fed == 0)
                return 0;
        }
        if (fed < 0)
            return broken(r);
    }
}

size_t arn__redis_reader_pending(const arn_redis_reader *r) {
    return r->parser->len - r->parser->pos + r->len + (r->direct != NULL ? r->direct_pos : 0);
}

const char *arn__redis_reader_error(const arn_redis_reader *r) {
    return r->error;
}
