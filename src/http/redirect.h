/* redirect.h - where a reply sends the request to next, by httpx's rules. io thread. */
#ifndef ARN_HTTP_REDIRECT_H
#define ARN_HTTP_REDIRECT_H

#include "http/http.h"

/* Whether the reply is a redirect that the op follows. */
int arn__http_is_redirect(const arn_http_op *op);

/* Points the op at the reply's location: URL, method, whether the body goes along, and which
 * headers do not (op->without). 0; ARN_EPROTO: there is no such place, with a static text in *what;
 * ARN_ENOMEM. */
int arn__http_redirect(arn_http_op *op, const char **what);

#endif /* ARN_HTTP_REDIRECT_H */
