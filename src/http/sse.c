#include "http/sse.h"

#include "base/status.h"

#include <string.h>

/* What a buffer may keep of its memory from one event to the next. */
#define KEEP (64u * 1024u)

void arn_sse_init(arn_sse *sse) {
    memset(sse, 0, sizeof(*sse));
    sse->retry = -1;
}

void arn_sse_free(arn_sse *sse) {
    arn_buf_free(&sse->line);
    arn_buf_free(&sse->data);
    arn_buf_free(&sse->event);
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

/* As Python's int(): white space around it, a sign, underscores between digits. */
static void set_retry(arn_sse *sse, const char *value, size_t len) {
    int64_t n = 0;
    int negative = 0, digits = 0, after_digit = 0;

    while (len > 0 && (*value == ' ' || (*value >= '\t' && *value <= '\r')))
        value++, len--;
    while (len > 0 && (value[len - 1] == ' ' || (value[len - 1] >= '\t' && value[len - 1] <= '\r')))
        len--;
    if (len > 0 && (*value == '+' || *value == '-')) {
        negative = *value == '-';
        value++, len--;
    }
    for (; len > 0; value++, len--) {
        if (*value == '_' && after_digit && len > 1) {
            after_digit = 0;
            continue;
        }
        if (*value < '0' || *value > '9' || n > INT64_MAX / 10 - 1)
            return;
        n = n * 10 + (*value - '0');
        digits = after_digit = 1;
    }
    if (digits && !(negative && n != 0)) /* no reconnecting client waits a negative time */
        sse->retry = n;
}

static int dispatch(arn_sse *sse, arn_sse_event_cb cb, void *arg) {
    size_t data_len = sse->data_lines > 0 ? sse->data.len - 1 : 0; /* less the last LF */
    int r;

    if (sse->event.len == 0 && sse->data_lines == 0 && sse->id.len == 0 && sse->retry < 0)
        return 0;
    r = cb(arg, slice_of(&sse->event, sse->event.len), slice_of(&sse->data, data_len),
           slice_of(&sse->id, sse->id.len), sse->retry);
    arn_buf_reset(&sse->event, KEEP);
    arn_buf_reset(&sse->data, KEEP);
    sse->data_lines = 0;
    sse->retry = -1;
    return r;
}

static int take_line(arn_sse *sse, const char *line, size_t len, arn_sse_event_cb cb, void *arg) {
    const char *colon;
    const char *value;
    size_t name_len, value_len;

    if (len == 0)
        return dispatch(sse, cb, arg);
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
        if (memchr(value, '\0', value_len) == NULL)
            return set(&sse->id, value, value_len);
    } else if (name_len == 5 && memcmp(line, "retry", 5) == 0) {
        set_retry(sse, value, value_len);
    }
    return 0;
}

/* The end of the line that begins at p: its CR or LF, or NULL. */
static const char *line_end(const char *p, const char *end) {
    const char *lf = memchr(p, '\n', (size_t)(end - p));
    const char *cr = memchr(p, '\r', (size_t)((lf != NULL ? lf : end) - p));

    return cr != NULL ? cr : lf;
}

int arn_sse_feed(arn_sse *sse, const char *bytes, size_t len, arn_sse_event_cb cb, void *arg) {
    const char *p = bytes;
    const char *end = bytes + len;

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
        stop = line_end(p, end);
        if (stop == NULL)
            return arn_buf_append(&sse->line, p, (size_t)(end - p));
        if (sse->line.len > 0) {
            r = arn_buf_append(&sse->line, p, (size_t)(stop - p));
            if (r == 0)
                r = take_line(sse, sse->line.data, sse->line.len, cb, arg);
            arn_buf_reset(&sse->line, KEEP);
        } else {
            r = take_line(sse, p, (size_t)(stop - p), cb, arg);
        }
        if (r != 0)
            return r;
        sse->after_cr = *stop == '\r';
        p = stop + 1;
    }
    return 0;
}
