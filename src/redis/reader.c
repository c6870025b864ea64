#include "redis/reader.h"

#include "base/alloc.h"
#include "base/status.h"

#include <hiredis/hiredis.h>
#include <hiredis/read.h>
#include <stdio.h>
#include <string.h>

/* hiredis parses what is not an array. Arrays are put together here: in hiredis 0.14 they end at
 * seven levels, a header reserves memory for all the elements it claims, and large strings are only
 * found at the top. */

/* redisReader moves the rest of its buffer to the front once per reply past the first kilobyte.
 * Fed slice by slice that move is short; a reply longer than a slice gets all there is at once. */
#define SLICE 4096u

/* Deeper replies are refused: whoever converts them recurses. */
#define DEPTH_MAX 128

/* More elements than any reply can have. */
#define ELEMENTS_MAX (1u << 30)
/* A header is believed to this number; beyond it memory grows as the elements come. */
#define ELEMENTS_FIRST (64u * 1024u)

/* "*1073741824\r\n" and some more zeros. */
#define HEADER_MAX 24u

/* An idle reader keeps a buffer of this size instead of giving it back after every reply. */
#define KEEP_BUFFER (64u * 1024u)

/* A bulk string of this size goes round the parser, which would copy it twice. Above the limit
 * (Redis' own) the length is not trusted with an allocation in advance. */
#define DIRECT_MIN (64u * 1024u)
#define DIRECT_MAX (512u * 1024u * 1024u)

#if HIREDIS_MAJOR >= 1
typedef size_t element_count;
#define ROOT_TASK(parser) ((parser)->task[0])
#else
typedef int element_count;
#define ROOT_TASK(parser) (&(parser)->rstack[0])
#endif

/* An array whose elements are on their way. */
typedef struct level {
    arn_value *array;
    size_t count;
    size_t cap; /* of array->u.items */
} level;

struct arn_redis_reader {
    redisReader *parser;
    const char *data; /* lent by feed, not yet given to the parser */
    size_t len;
    arn_arena *arena; /* of the reply under construction */
    arn_value root;   /* the reply */
    arn_value *slot;  /* where the next value belongs: the root, or an element of the last level */
    level levels[DEPTH_MAX];
    unsigned depth;
    char *direct; /* a large bulk string and its CRLF; NULL when none is under way */
    size_t direct_len, direct_pos;
    int out_of_memory;
    const char *refused; /* why a value was not made, when memory is not the reason */
    char error[160];
};

/* ---- what hiredis calls for each value; it has no arrays to make ---- */

static void *make(const redisReadTask *task, arn_kind kind) {
    arn_value *v = ((arn_redis_reader *)task->privdata)->slot;

    v->kind = kind;
    v->len = 0;
    return v;
}

static const char not_terminated[] = "Protocol Error: bulk string is not terminated";

static void *create_string(const redisReadTask *task, char *s, size_t len) {
    arn_redis_reader *r = task->privdata;
    arn_value *v = make(task, task->type == REDIS_REPLY_ERROR ? ARN_ERROR : ARN_BYTES);

    /* The parser has seen that two more bytes are there, but not which. */
    if (task->type == REDIS_REPLY_STRING && (s[len] != '\r' || s[len + 1] != '\n')) {
        r->refused = not_terminated;
        return NULL;
    }
    v->len = len;
    v->u.bytes = arn_arena_copy(r->arena, s, len);
    if (v->u.bytes != NULL)
        return v;
    r->out_of_memory = 1;
    return NULL;
}

static void *create_integer(const redisReadTask *task, long long integer) {
    arn_value *v = make(task, ARN_INT);

    v->u.integer = integer;
    return v;
}

static void *create_nil(const redisReadTask *task) {
    return make(task, ARN_NIL);
}

/* Of the other aggregates that newer versions know. */
static void *create_array(const redisReadTask *task, element_count elements) {
    (void)elements;
    ((arn_redis_reader *)task->privdata)->refused = "Protocol Error: a reply of RESP3";
    return NULL;
}

/* The arena frees. */
static void free_object(void *object) {
    (void)object;
}

#if HIREDIS_MAJOR >= 1
static void *create_double(const redisReadTask *task, double number, char *s, size_t len) {
    arn_value *v = make(task, ARN_DOUBLE);

    (void)s;
    (void)len;
    v->u.number = number;
    return v;
}

static void *create_bool(const redisReadTask *task, int truth) {
    arn_value *v = make(task, ARN_BOOL);

    v->u.integer = truth != 0;
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
    r->slot = &r->root;
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

/* ---- large bulk strings ---- */

/* The parser waits for the rest of something. If that is a large bulk string, takes it over: what
 * has come of it is moved to its last place and the parser is as before it. */
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
static int read_direct(arn_redis_reader *r) {
    arn_value *value = r->slot;
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
        r->refused = not_terminated;
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

/* ---- arrays ---- */

static int refuse(arn_redis_reader *r, const char *why) {
    r->refused = why;
    return ARN_EPROTO;
}

/* Is the parser between two values, with the header of an array before it? */
static int at_array(const arn_redis_reader *r) {
    const redisReader *parser = r->parser;

    return parser->pos < parser->len && parser->buf[parser->pos] == '*' &&
           (parser->ridx == -1 || (parser->ridx == 0 && ROOT_TASK(parser)->type < 0));
}

/* "*N\r\n" at the parser's position: N, or -1 for a null array, in *count. 1 when it was read; else
 * as next(). */
static int read_header(arn_redis_reader *r, long long *count) {
    redisReader *parser = r->parser;
    const char *p = parser->buf + parser->pos + 1;
    size_t have = parser->len - parser->pos - 1;
    const char *end = memchr(p, '\r', have < HEADER_MAX ? have : HEADER_MAX);
    long long n = 0;

    if (end == NULL && have < HEADER_MAX)
        return 0;
    if (end == NULL || end == p)
        return refuse(r, "Protocol Error: bad array length");
    if (end + 1 == p + have)
        return 0;
    if (end - p == 2 && p[0] == '-' && p[1] == '1') {
        n = -1;
        p = end;
    }
    for (; p < end; p++) {
        if (*p < '0' || *p > '9')
            return refuse(r, "Protocol Error: bad array length");
        n = n * 10 + (*p - '0');
        if (n > (long long)ELEMENTS_MAX)
            return refuse(r, "Protocol Error: too many elements in a reply");
    }
    if (end[1] != '\n')
        return refuse(r, "Protocol Error: bad array length");
    parser->pos = (size_t)(end + 2 - parser->buf);
    *count = n;
    return 1;
}

/* Room for one more element of the last level. */
static int grow(arn_redis_reader *r) {
    level *l = &r->levels[r->depth - 1];
    size_t cap = l->cap == 0 ? ELEMENTS_FIRST : l->cap * 2;
    arn_value *items;

    if (l->array->len < l->cap)
        return 1;
    if (cap > l->count)
        cap = l->count;
    items = arn_arena_alloc(r->arena, cap * sizeof(*items));
    if (items == NULL) {
        r->out_of_memory = 1;
        return ARN_ENOMEM;
    }
    if (l->cap > 0)
        memcpy(items, l->array->u.items, l->cap * sizeof(*items));
    l->array->u.items = items;
    l->cap = cap;
    return 1;
}

/* The slot has its value. Goes on to the next slot; 1 when the reply is complete, 0 when not. */
static int filled(arn_redis_reader *r) {
    while (r->depth > 0) {
        level *l = &r->levels[r->depth - 1];
        if (++l->array->len < l->count)
            return 0;
        r->depth--;
    }
    return 1;
}

/* Opens an array in the slot. As filled(), or ARN_E*. */
static int open_array(arn_redis_reader *r) {
    arn_value *array = r->slot;
    long long count;
    int status = read_header(r, &count);

    if (status <= 0)
        return status;
    array->kind = count < 0 ? ARN_NIL : ARN_ARRAY;
    array->len = 0;
    array->u.items = NULL;
    if (count <= 0)
        return filled(r) ? 1 : 2;
    if (r->depth == DEPTH_MAX)
        return refuse(r, "Protocol Error: reply is nested too deeply");
    r->levels[r->depth++] = (level){array, (size_t)count, 0};
    return 2;
}

/* Reads one value or header into the slot from what the parser has. 2: more to do; 1: the reply is
 * complete; 0: the parser needs more; ARN_E*. */
static int step(arn_redis_reader *r) {
    void *leaf = NULL;

    if (r->depth > 0) {
        level *l = &r->levels[r->depth - 1];
        if (grow(r) < 0)
            return ARN_ENOMEM;
        r->slot = &l->array->u.items[l->array->len];
    } else {
        r->slot = &r->root;
    }
    if (r->direct != NULL) {
        int status = read_direct(r);
        return status <= 0 ? status : filled(r) ? 1 : 2;
    }
    if (at_array(r))
        return open_array(r);
    if (redisReaderGetReply(r->parser, &leaf) != REDIS_OK)
        return ARN_EPROTO;
    if (leaf == NULL)
        return 0;
    return filled(r) ? 1 : 2;
}

int arn__redis_reader_next(arn_redis_reader *r, arn_arena *arena, arn_value *value) {
    int status;

    r->arena = arena;
    for (;;) {
        status = step(r);
        if (status == 1) {
            *value = r->root;
            return 1;
        }
        if (status == 0 && r->direct == NULL) {
            status = go_direct(r);
            if (status == 0)
                status = feed_slice(r);
        }
        if (status == 0)
            return 0;
        if (status < 0)
            return broken(r);
    }
}

size_t arn__redis_reader_pending(const arn_redis_reader *r) {
    return r->parser->len - r->parser->pos + r->len + (r->direct != NULL ? r->direct_pos : 0);
}

const char *arn__redis_reader_error(const arn_redis_reader *r) {
    return r->error;
}
