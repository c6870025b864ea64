#include "http/sse.h"

#include "base/status.h"
#include "base/utf8.h"

#include <string.h>

/* What a buffer may keep of its memory from one event to the next. */
#define KEEP (64u * 1024u)

/* Python's int() refuses more. */
#define RETRY_DIGITS_MAX 4300u

void arn_sse_init(arn_sse *sse) {
    memset(sse, 0, sizeof(*sse));
}

void arn_sse_free(arn_sse *sse) {
    arn_buf_free(&sse->line);
    arn_buf_free(&sse->data);
    arn_buf_free(&sse->event);
    arn_buf_free(&sse->retry);
    arn_buf_free(&sse->id);
}

static int set(arn_buf *buf, const char *value, size_t len) {
    arn_buf_reset(buf, KEEP);
    return arn_buf_append(buf, value, len);
}

static arn_slice slice_of(const arn_buf *buf, size_t len) {
    arn_slice s = {buf->data != NULL ? buf->data : "", len};

    return s;
}

static int is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* As Python's int() reads ASCII: white space around it, a sign, underscores between digits. What
 * it does not read changes nothing. */
static int set_retry(arn_sse *sse, const char *value, size_t len) {
    size_t digits = 0;
    size_t i, first;
    char *to;

    while (len > 0 && is_space(*value))
        value++, len--;
    while (len > 0 && is_space(value[len - 1]))
        len--;
    first = len > 0 && (*value == '+' || *value == '-');
    for (i = first; i < len; i++) {
        if (value[i] >= '0' && value[i] <= '9')
            digits++;
        else if (value[i] != '_' || i == first || value[i - 1] == '_' || i + 1 == len)
            return 0;
    }
    if (digits == 0 || digits > RETRY_DIGITS_MAX)
        return 0;
    arn_buf_reset(&sse->retry, KEEP);
    to = arn_buf_reserve(&sse->retry, len);
    if (to == NULL)
        return ARN_ENOMEM;
    for (i = 0; i < len; i++)
        if (value[i] != '_')
            *to++ = value[i];
    sse->retry.len = (size_t)(to - sse->retry.data);
    return 0;
}

static int dispatch(arn_sse *sse, arn_sse_event_cb cb, void *arg) {
    size_t data_len = sse->data_lines > 0 ? sse->data.len - 1 : 0; /* less the last LF */
    arn_sse_event event = {.event = slice_of(&sse->event, sse->event.len),
                           .data = slice_of(&sse->data, data_len),
                           .id = slice_of(&sse->id, sse->id.len),
                           .is_new_id = sse->is_new_id,
                           .retry = slice_of(&sse->retry, sse->retry.len)};
    int r;

    if (sse->event.len == 0 && sse->data_lines == 0 && sse->id.len == 0 && sse->retry.len == 0)
        return 0;
    if (!sse->has_id)
        event.id.data = NULL;
    r = cb(arg, &event);
    arn_buf_reset(&sse->event, KEEP);
    arn_buf_reset(&sse->data, KEEP);
    arn_buf_reset(&sse->retry, KEEP);
    sse->data_lines = sse->is_new_id = 0;
    return r;
}

static int take_line(arn_sse *sse, const char *line, size_t len, arn_sse_event_cb cb, void *arg) {
    const char *colon;
    const char *value;
    size_t name_len, value_len;

    if (len == 0)
        return dispatch(sse, cb, arg);
    if (!arn_utf8_is_valid(line, len))
        return ARN_EPROTO;
    colon = memchr(line, ':', len);
    name_len = colon != NULL ? (size_t)(colon - line) : len;
    value = colon != NULL ? colon + 1 : line + len;
    value_len = (size_t)(line + len - value);
    if (value_len > 0 && *value == ' ')
        value++, value_len--;

    if (name_len == 4 && memcmp(line, "data", 4) == 0) {
        char *at = arn_buf_reserve(&sse->data, value_len + 1);
        if (at == NULL)
            return ARN_ENOMEM;
        if (value_len > 0)
            memcpy(at, value, value_len);
        at[value_len] = '\n';
        sse->data.len += value_len + 1;
        sse->data_lines++;
    } else if (name_len == 5 && memcmp(line, "event", 5) == 0) {
        return set(&sse->event, value, value_len);
    } else if (name_len == 2 && memcmp(line, "id", 2) == 0) {
        if (memchr(value, '\0', value_len) == NULL) {
            sse->has_id = sse->is_new_id = 1;
            return set(&sse->id, value, value_len);
        }
    } else if (name_len == 5 && memcmp(line, "retry", 5) == 0) {
        return set_retry(sse, value, value_len);
    }
    return 0;
}

/* Where the next line end is in [p, end): end if there is none. *lf is the next LF at or behind p,
 * found once for all the CRs before it. */
static const char *line_end(const char *p, const char *end, const char **lf) {
    const char *cr;

    if (*lf < p) {
        *lf = memchr(p, '\n', (size_t)(end - p));
        if (*lf == NULL)
            *lf = end;
    }
    cr = memchr(p, '\r', (size_t)(*lf - p));
    return cr != NULL ? cr : *lf;
}

int arn_sse_feed(arn_sse *sse, const char *bytes, size_t len, arn_sse_event_cb cb, void *arg) {
    const char *p = bytes;
    const char *end = bytes + len;
    const char *lf = NULL;

    while (p < end) {
        const char *stop;
        int r;

        if (sse->after_cr) {
            sse->after_cr = 0;
            if (*p == '\n') {
                p++;
                continue;
            }
        }
        stop = line_end(p, end, &lf);
        if (stop == end)
            return arn_buf_append(&sse->line, p, (size_t)(end - p));
        if (sse->line.len > 0) {
            r = arn_buf_append(&sse->line, p, (size_t)(stop - p));
            if (r == 0)
                r = take_line(sse, sse->line.data, sse->line.len, cb, arg);
        } else {
            r = take_line(sse, p, (size_t)(stop - p), cb, arg);
            if (r == ARN_EPROTO && arn_buf_append(&sse->line, p, (size_t)(stop - p)) != 0)
                r = ARN_ENOMEM;
        }
        if (r != 0)
            return r;
        arn_buf_reset(&sse->line, KEEP);
        sse->after_cr = *stop == '\r';
        p = stop + 1;
    }
    return 0;
}

int arn_sse_end(const arn_sse *sse) {
    if (sse->line.len == 0 || arn_utf8_is_valid(sse->line.data, sse->line.len))
        return 0;
    return ARN_EPROTO;
}
