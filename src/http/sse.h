/* sse.h - server-sent events out of a stream of bytes, split anywhere.
 *
 * Lines end with LF, CR or CR LF. The events are those of the OpenAI SDK's decoder, which deviates
 * from the HTML standard in that an event with nothing but a name, an id or a retry time is an
 * event, too, that the id lasts, and that a last event without its blank line is none. Any thread,
 * one at a time.
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
    arn_buf id;    /* the last one seen */
    int64_t retry; /* -1: none */
    int data_lines;
    int after_cr; /* an LF that follows belongs to the CR that ended the last line */
} arn_sse;

/* An event; the slices are valid during the call. data NULL: there was no such field. 0, or an
 * error that ends arn_sse_feed() with itself. */
typedef int (*arn_sse_event_cb)(void *arg, arn_slice event, arn_slice data, arn_slice id,
                                int64_t retry);

void arn_sse_init(arn_sse *sse);
void arn_sse_free(arn_sse *sse);

/* 0, ARN_ENOMEM, or what the callback has returned. */
int arn_sse_feed(arn_sse *sse, const char *bytes, size_t len, arn_sse_event_cb cb, void *arg);

#endif /* ARN_HTTP_SSE_H */
