/* sse.h - server-sent events out of a stream of bytes, split anywhere.
 *
 * Lines end with LF, CR or CR LF. The events are those of the OpenAI SDK's decoder, which deviates
 * from the HTML standard in that an event with nothing but a name, an id or a retry time is an
 * event, too, that the id lasts, and that a last event without its blank line is none. A line must
 * be UTF-8, whatever it is for. Any thread, one at a time.
 */
#ifndef ARN_HTTP_SSE_H
#define ARN_HTTP_SSE_H

#include "base/buf.h"
#include "base/slice.h"

#include <stdint.h>

typedef struct arn_sse {
    arn_buf line;  /* the beginning of a line that is not yet whole */
    arn_buf data;  /* of the event that is being read; its lines, each with a LF behind it */
    arn_buf event; /* its name */
    arn_buf retry; /* its retry time, as arn_sse_event has it */
    arn_buf id;    /* the last one seen */
    int data_lines;
    int has_id;
    int is_new_id; /* since the last event */
    int after_cr;  /* an LF that follows belongs to the CR that ended the last line */
} arn_sse;

typedef struct arn_sse_event {
    arn_slice event; /* empty: it has no name */
    arn_slice data;
    arn_slice id;    /* data NULL: there was none so far */
    int is_new_id;   /* else it is the last event's */
    arn_slice retry; /* empty: none. Else a sign perhaps, and digits; of any size */
} arn_sse_event;

/* The event and what it points to are valid during the call. 0, or an error that ends
 * arn_sse_feed() with itself. */
typedef int (*arn_sse_event_cb)(void *arg, const arn_sse_event *event);

void arn_sse_init(arn_sse *sse);
void arn_sse_free(arn_sse *sse);

/* 0, ARN_ENOMEM, what the callback has returned, or ARN_EPROTO: a line is not UTF-8; it is in
 * sse->line. After an error there is nothing more to feed. */
int arn_sse_feed(arn_sse *sse, const char *bytes, size_t len, arn_sse_event_cb cb, void *arg);

/* The stream has ended as it should. 0, or ARN_EPROTO of its unfinished last line. */
int arn_sse_end(const arn_sse *sse);

#endif /* ARN_HTTP_SSE_H */
