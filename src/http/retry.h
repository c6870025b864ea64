/* retry.h - the OpenAI SDK's rules for trying a request again. Any thread; no state. */
#ifndef ARN_HTTP_RETRY_H
#define ARN_HTTP_RETRY_H

#include "http/http.h"

/* Whether a reply with this status and these headers is to be tried again, given that attempts are
 * left. *named: seconds the server asks to wait, as far as they are followed; else negative. */
int arn__http_should_retry(const arn_http_reply *reply, const arn_http_options *options,
                           double *named);

/* Seconds before the next attempt, after so many (0, 1, ...) earlier retries: from 0.5 to 8,
 * growing, less up to a quarter by chance. */
double arn__http_backoff(unsigned retries);

#endif /* ARN_HTTP_RETRY_H */
