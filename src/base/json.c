#include "base/json.h"

#include "base/alloc.h"
#include "base/json_number.h"
#include "base/status.h"
#include "base/utf8.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Values that lie on the C stack before the heap is asked: enough for a usual reply. */
#define FIRST_VALUES 64u

static inline const char *skip_space(const char *p, const char *end) {
    while (p < end && (unsigned char)*p <= ' ' &&
           (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    return p;
}

/* ---- the parser ---- */

typedef struct parser {
    const char *text;
    const char *p;
    const char *end;
    arn_arena *arena;
    arn_json_error *error;
    /* Complete values, and for each container still open a place holder with its kind and in
     * `len` the index of the one around it; its elements follow. */
    arn_value *values;
    size_t len, cap;
    size_t open; /* index of the innermost place holder; NONE */
    unsigned depth;
    double *doubles; /* of the array that is being read */
    size_t doubles_cap;
    arn_value first[FIRST_VALUES];
} parser;

#define NONE SIZE_MAX

/* What comes next: a value; nothing more, as one is complete; the end of the document. */
enum { WANTED = 1, COMPLETE, FINISHED };

static COLD int fail(parser *s, const char *at, const char *what) {
    s->error->what = what;
    s->error->offset = (size_t)(at - s->text);
    return ARN_EPROTO;
}

static COLD int grow_values(parser *s) {
    size_t size = s->cap * sizeof(*s->values);
    arn_value *values;

    if (size > SIZE_MAX / 4)
        return ARN_ENOMEM;
    values = s->values == s->first ? arn_malloc(2 * size) : arn_realloc(s->values, 2 * size);
    if (values == NULL)
        return ARN_ENOMEM;
    if (s->values == s->first)
        memcpy(values, s->first, size);
    s->values = values;
    s->cap *= 2;
    return 0;
}

/* NULL when out of memory; good until the next call. */
static inline arn_value *push(parser *s, arn_kind kind) {
    arn_value *v;

    if (UNLIKELY(s->len == s->cap) && grow_values(s) < 0)
        return NULL;
    v = &s->values[s->len++];
    v->kind = kind;
    v->len = 0;
    return v;
}

/* ---- strings ---- */

/* The first byte that is more than a character for itself. */
static inline const char *skip_plain(const char *p, const char *end) {
#if EIGHT_AT_ONCE
    while (end - p >= 8) {
        uint64_t x = load8(p);
        uint64_t special =
            (x | (x - BYTES(' ')) | marks_of(x, '"') | marks_of(x, '\\')) & BYTES(0x80);
        if (special != 0)
            return p + first_mark(special);
        p += 8;
    }
#endif
    while (p < end && (unsigned char)*p >= ' ' && (unsigned char)*p < 0x80 && *p != '"' &&
           *p != '\\')
        p++;
    return p;
}

static inline size_t utf8_length(uint32_t code) {
    return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

static inline char *utf8_put(char *to, uint32_t code) {
    if (code < 0x80) {
        *to++ = (char)code;
        return to;
    }
    if (code < 0x800) {
        *to++ = (char)(0xc0 | code >> 6);
    } else {
        if (code < 0x10000) {
            *to++ = (char)(0xe0 | code >> 12);
        } else {
            *to++ = (char)(0xf0 | code >> 18);
            *to++ = (char)(0x80 | (code >> 12 & 0x3f));
        }
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
    }
    *to++ = (char)(0x80 | (code & 0x3f));
    return to;
}

/* Four hexadecimal digits. Where they end; NULL with *bad at what is not one (or at end). */
static inline const char *read_hex4(const char *p, const char *end, uint32_t *code,
                                    const char **bad) {
    const char *stop = p + 4;

    if (end - p < 4)
        stop = NULL;
    for (*code = 0; p != stop; p++) {
        unsigned char c = p < end ? (unsigned char)*p : 0;
        unsigned letter = (c | 0x20u) - 'a';
        if (is_digit((char)c)) {
            *code = *code << 4 | (uint32_t)(c - '0');
        } else if (letter < 6) {
            *code = *code << 4 | (letter + 10);
        } else {
            *bad = p;
            return NULL;
        }
    }
    return p;
}

/* p is at the backslash. Where the escape ends (two of them, if they are a surrogate pair); NULL
 * with *bad at what does not fit. */
static inline const char *read_escape(const char *p, const char *end, uint32_t *code,
                                      const char **bad) {
    const char *next;
    uint32_t low;

    *bad = ++p;
    if (p == end)
        return NULL;
    switch (*p++) {
    case '"':
    case '\\':
    case '/':
        *code = (unsigned char)p[-1];
        return p;
    case 'b':
        *code = '\b';
        return p;
    case 'f':
        *code = '\f';
        return p;
    case 'n':
        *code = '\n';
        return p;
    case 'r':
        *code = '\r';
        return p;
    case 't':
        *code = '\t';
        return p;
    case 'u':
        break;
    default:
        return NULL;
    }
    p = read_hex4(p, end, code, bad);
    if (p == NULL || *code < 0xd800 || *code > 0xdbff)
        return p;
    if (end - p < 2 || p[0] != '\\' || p[1] != 'u')
        return p;
    next = read_hex4(p + 2, end, &low, bad);
    if (next == NULL)
        return NULL;
    if (low < 0xdc00 || low > 0xdfff)
        return p;
    *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    return next;
}

/* [p, end) is known to be good; `to` has room for what it stands for. */
static char *unescape(char *to, const char *p, const char *end) {
    const char *bad;
    uint32_t code = 0;

    while (p < end) {
        if (*p != '\\') {
            const char *next = memchr(p, '\\', (size_t)(end - p));
            size_t n = (size_t)((next != NULL ? next : end) - p);
            memcpy(to, p, n);
            to += n;
            p += n;
        } else {
            p = read_escape(p, end, &code, &bad);
            to = utf8_put(to, code);
        }
    }
    return to;
}

/* s->p is at the opening quote. 0 or an error. */
static int read_text(parser *s) {
    const char *start = s->p + 1;
    const char *end = s->end;
    const char *p = start;
    const char *bad;
    size_t saved = 0; /* by escapes; each saves at least one byte */
    arn_value *v;
    char *copy;

    for (;;) {
        p = skip_plain(p, end);
        if (UNLIKELY(p == end))
            return fail(s, p, "a string without its end");
        if (*p == '"')
            break;
        if (*p == '\\') {
            const char *from = p;
            uint32_t code;
            p = read_escape(p, end, &code, &bad);
            if (UNLIKELY(p == NULL))
                return fail(s, bad, "not an escape sequence");
            saved += (size_t)(p - from) - utf8_length(code);
        } else if ((unsigned char)*p < ' ') {
            return fail(s, p, "a control character in a string");
        } else {
            do {
                size_t n = arn_utf8_sequence(p, end);
                if (UNLIKELY(n == 0))
                    return fail(s, p, "not UTF-8");
                p += n;
            } while (p < end && (unsigned char)*p >= 0x80);
        }
    }
    s->p = p + 1;

    v = push(s, ARN_TEXT);
    if (UNLIKELY(v == NULL))
        return ARN_ENOMEM;
    v->len = (size_t)(p - start) - saved;
    if (saved == 0) {
        copy = arn_arena_copy(s->arena, start, v->len);
        if (UNLIKELY(copy == NULL))
            return ARN_ENOMEM;
    } else {
        copy = arn_arena_alloc(s->arena, v->len + 1);
        if (UNLIKELY(copy == NULL))
            return ARN_ENOMEM;
        *unescape(copy, start, p) = '\0';
    }
    v->u.bytes = copy;
    return 0;
}

/* A key and its colon. WANTED or an error. */
static int read_key(parser *s) {
    int status;

    s->p = skip_space(s->p, s->end);
    if (UNLIKELY(s->p == s->end || *s->p != '"'))
        return fail(s, s->p, "expecting a key in double quotes");
    status = read_text(s);
    if (UNLIKELY(status < 0))
        return status;
    s->p = skip_space(s->p, s->end);
    if (UNLIKELY(s->p == s->end || *s->p != ':'))
        return fail(s, s->p, "expecting ':'");
    s->p++;
    return WANTED;
}

/* ---- single values ---- */

static int read_number(parser *s) {
    const uint64_t most = INT64_MAX;
    const char *what;
    arn_value *v;
    number n;

    what = scan_number(s->p, s->end, &n);
    if (UNLIKELY(what != NULL))
        return fail(s, n.end, what);
    v = push(s, ARN_DOUBLE);
    if (UNLIKELY(v == NULL))
        return ARN_ENOMEM;
    if (n.is_float) {
        v->u.number = to_double(&n);
    } else if (!n.overlong && n.mantissa <= most) {
        v->kind = ARN_INT;
        v->u.integer = n.negative ? -(int64_t)n.mantissa : (int64_t)n.mantissa;
    } else if (!n.overlong && n.negative && n.mantissa == most + 1) {
        v->kind = ARN_INT;
        v->u.integer = INT64_MIN;
    } else {
        v->kind = ARN_BIGINT;
        v->len = (size_t)(n.end - s->p);
        v->u.bytes = arn_arena_copy(s->arena, s->p, v->len);
        if (UNLIKELY(v->u.bytes == NULL))
            return ARN_ENOMEM;
    }
    s->p = n.end;
    return COMPLETE;
}

/* 0, or an error at the first byte that is not of the word. */
static int read_word(parser *s, const char *word) {
    for (; *word != '\0'; word++, s->p++)
        if (s->p == s->end || *s->p != *word)
            return fail(s, s->p, "expecting a value");
    return 0;
}

static int read_constant(parser *s) {
    arn_kind kind = ARN_DOUBLE;
    int64_t integer = 0;
    double number = 0;
    int status;
    arn_value *v;

    switch (*s->p) {
    case 'n':
        kind = ARN_NIL;
        status = read_word(s, "null");
        break;
    case 't':
        kind = ARN_BOOL;
        integer = 1;
        status = read_word(s, "true");
        break;
    case 'f':
        kind = ARN_BOOL;
        status = read_word(s, "false");
        break;
    case 'N':
        number = NAN;
        status = read_word(s, "NaN");
        break;
    case 'I':
        number = INFINITY;
        status = read_word(s, "Infinity");
        break;
    case '-':
        number = -INFINITY;
        status = read_word(s, "-Infinity");
        break;
    default:
        return fail(s, s->p, "expecting a value");
    }
    if (UNLIKELY(status < 0))
        return status;
    v = push(s, kind);
    if (UNLIKELY(v == NULL))
        return ARN_ENOMEM;
    if (kind == ARN_DOUBLE)
        v->u.number = number;
    else
        v->u.integer = integer;
    return COMPLETE;
}

/* ---- containers ---- */

static int open_container(parser *s, arn_kind kind) {
    arn_value *v;

    if (UNLIKELY(s->depth == ARN_JSON_DEPTH_MAX))
        return fail(s, s->p, "nested too deeply");
    v = push(s, kind);
    if (UNLIKELY(v == NULL))
        return ARN_ENOMEM;
    v->len = s->open;
    s->open = s->len - 1;
    s->depth++;
    s->p = skip_space(s->p + 1, s->end);
    return 0;
}

/* The place holder becomes the value. The caller sets what it holds. */
static inline arn_value *close_container(parser *s) {
    arn_value *v = &s->values[s->open];

    s->len = s->open + 1;
    s->open = v->len;
    s->depth--;
    s->p++;
    return v;
}

static int close_with_items(parser *s) {
    size_t n = s->len - s->open - 1;
    arn_value *items = NULL;
    arn_value *v;

    if (n > 0) {
        items = arn_arena_alloc(s->arena, n * sizeof(*items));
        if (UNLIKELY(items == NULL))
            return ARN_ENOMEM;
        memcpy(items, &s->values[s->open + 1], n * sizeof(*items));
    }
    v = close_container(s);
    v->len = v->kind == ARN_MAP ? n / 2 : n;
    v->u.items = items;
    return COMPLETE;
}

static COLD int grow_doubles(parser *s) {
    /* Numbers in vectors seldom take less than 16 bytes. */
    size_t guess = (size_t)(s->end - s->p) / 16 + 16;
    size_t cap = s->doubles_cap > 0 ? s->doubles_cap * 2 : guess < 65536 ? guess : 65536;
    double *doubles;

    if (cap > SIZE_MAX / 2 / sizeof(*doubles))
        return ARN_ENOMEM;
    doubles = arn_realloc(s->doubles, cap * sizeof(*doubles));
    if (doubles == NULL)
        return ARN_ENOMEM;
    s->doubles = doubles;
    s->doubles_cap = cap;
    return 0;
}

/* s->p is at the first element of an array. Reads as many doubles as there are: the whole array
 * (COMPLETE), or up to an element that is something else (WANTED). */
static int read_doubles(parser *s) {
    const char *end = s->end;
    const char *p = s->p;
    size_t len = 0;
    size_t i;
    arn_value *v;
    number n;

    while (p < end && (is_digit(*p) || *p == '-') && scan_number(p, end, &n) == NULL &&
           n.is_float) {
        if (UNLIKELY(len == s->doubles_cap) && grow_doubles(s) < 0)
            return ARN_ENOMEM;
        s->doubles[len++] = to_double(&n);
        p = skip_space(n.end, end);
        if (LIKELY(p < end && *p == ',')) {
            p = skip_space(p + 1, end);
        } else if (p < end && *p == ']') {
            double *exact = arn_arena_alloc(s->arena, len * sizeof(*exact));
            if (UNLIKELY(exact == NULL))
                return ARN_ENOMEM;
            memcpy(exact, s->doubles, len * sizeof(*exact));
            s->p = p;
            v = close_container(s);
            v->kind = ARN_FLOAT64_ARRAY;
            v->len = len;
            v->u.doubles = exact;
            return COMPLETE;
        } else {
            return fail(s, p, "expecting ',' or ']'");
        }
    }

    s->p = p;
    for (i = 0; i < len; i++) {
        v = push(s, ARN_DOUBLE);
        if (UNLIKELY(v == NULL))
            return ARN_ENOMEM;
        v->u.number = s->doubles[i];
    }
    return WANTED;
}

/* COMPLETE: the value is on the stack. WANTED: a container has been opened, and its first value
 * comes next. */
static int read_value(parser *s) {
    int status;

    s->p = skip_space(s->p, s->end);
    if (UNLIKELY(s->p == s->end))
        return fail(s, s->p, "expecting a value");
    switch (*s->p) {
    case '"':
        status = read_text(s);
        return status < 0 ? status : COMPLETE;
    case '{':
        status = open_container(s, ARN_MAP);
        if (status < 0)
            return status;
        return s->p < s->end && *s->p == '}' ? close_with_items(s) : read_key(s);
    case '[':
        status = open_container(s, ARN_ARRAY);
        if (status < 0)
            return status;
        return s->p < s->end && *s->p == ']' ? close_with_items(s) : read_doubles(s);
    case '-':
        if (s->end - s->p > 1 && s->p[1] == 'I')
            return read_constant(s);
        return read_number(s);
    default:
        return is_digit(*s->p) ? read_number(s) : read_constant(s);
    }
}

/* Behind a value. COMPLETE: it was the last one of a container, which is complete by that. */
static int read_separator(parser *s) {
    int is_map;
    char c;

    s->p = skip_space(s->p, s->end);
    c = s->p < s->end ? *s->p : '\0';
    if (s->open == NONE)
        return s->p == s->end ? FINISHED : fail(s, s->p, "more behind the document");
    is_map = s->values[s->open].kind == ARN_MAP;
    if (c == ',') {
        s->p++;
        return is_map ? read_key(s) : WANTED;
    }
    if (c == (is_map ? '}' : ']'))
        return close_with_items(s);
    return fail(s, s->p, is_map ? "expecting ',' or '}'" : "expecting ',' or ']'");
}

int arn_json_parse(arn_arena *arena, const char *text, size_t len, arn_value *out,
                   arn_json_error *error) {
    parser s;
    int status = WANTED;

    s.text = s.p = text;
    s.end = text + len;
    s.arena = arena;
    s.error = error;
    s.values = s.first;
    s.len = 0;
    s.cap = FIRST_VALUES;
    s.open = NONE;
    s.depth = 0;
    s.doubles = NULL;
    s.doubles_cap = 0;

    while (status == WANTED || status == COMPLETE)
        status = status == WANTED ? read_value(&s) : read_separator(&s);
    if (status == FINISHED) {
        *out = s.values[0];
        status = 0;
    }
    if (s.values != s.first)
        arn_free(s.values);
    arn_free(s.doubles);
    return status;
}
