#include "http/redirect.h"

#include "base/alloc.h"
#include "base/status.h"

#include <curl/curl.h>
#include <string.h>
#include <strings.h>

#define REDIRECTS_MAX 20u /* httpx's */

int arn__http_is_redirect(const arn_http_op *op) {
    int status = op->reply.status;

    return op->options.follow_redirects &&
           (status == 301 || status == 302 || status == 303 || status == 307 || status == 308) &&
           arn_http_reply_header(&op->reply, "location") != NULL;
}

static int same_part(CURLU *a, CURLU *b, CURLUPart part) {
    char *x = NULL, *y = NULL;
    int same = curl_url_get(a, part, &x, CURLU_DEFAULT_PORT) == CURLUE_OK &&
               curl_url_get(b, part, &y, CURLU_DEFAULT_PORT) == CURLUE_OK && strcasecmp(x, y) == 0;

    curl_free(x);
    curl_free(y);
    return same;
}

static int is_part(CURLU *url, CURLUPart part, const char *text) {
    char *x = NULL;
    int same =
        curl_url_get(url, part, &x, CURLU_DEFAULT_PORT) == CURLUE_OK && strcasecmp(x, text) == 0;

    curl_free(x);
    return same;
}

/* Whether what is meant for the one may be shown to the other: the same origin, or its better
 * protected twin. */
static int is_trusted(CURLU *from, CURLU *to) {
    if (!same_part(from, to, CURLUPART_HOST))
        return 0;
    if (same_part(from, to, CURLUPART_SCHEME) && same_part(from, to, CURLUPART_PORT))
        return 1;
    return is_part(from, CURLUPART_SCHEME, "http") && is_part(from, CURLUPART_PORT, "80") &&
           is_part(to, CURLUPART_SCHEME, "https") && is_part(to, CURLUPART_PORT, "443");
}

static void change_method(arn_http_op *op) {
    int status = op->reply.status;
    int is_head = strcmp(op->method, "HEAD") == 0;

    if ((status == 303 && !is_head) || (status == 302 && !is_head) ||
        (status == 301 && strcmp(op->method, "POST") == 0)) {
        if (strcmp(op->method, "GET") == 0)
            return;
        op->method = "GET";
        op->body.data = NULL; /* its memory stays until the op goes */
        op->body.len = 0;
        op->without |= ARN_HTTP_NO_BODY_HEADERS;
    }
}

int arn__http_redirect(arn_http_op *op, const char **what) {
    const char *location = arn_http_reply_header(&op->reply, "location");
    CURLU *from, *to;
    char *text = NULL;
    char *copy;
    CURLUcode code;

    if (++op->redirects > REDIRECTS_MAX) {
        *what = "there were more than 20 redirects";
        return ARN_EPROTO;
    }
    from = curl_url();
    to = from == NULL ? NULL : curl_url();
    if (to == NULL) {
        curl_url_cleanup(from);
        return ARN_ENOMEM;
    }
    code = curl_url_set(from, CURLUPART_URL, op->url, 0);
    if (code == CURLUE_OK)
        code = curl_url_set(to, CURLUPART_URL, op->url, 0);
    if (code == CURLUE_OK)
        code = curl_url_set(to, CURLUPART_URL, location, CURLU_URLENCODE | CURLU_ALLOW_SPACE);
    if (code == CURLUE_OK)
        code = curl_url_get(to, CURLUPART_URL, &text, 0);
    if (code == CURLUE_OK && !is_trusted(from, to))
        op->without |= ARN_HTTP_NO_SECRETS;
    curl_url_cleanup(from);
    curl_url_cleanup(to);
    if (code == CURLUE_OUT_OF_MEMORY)
        return ARN_ENOMEM;
    if (code != CURLUE_OK) {
        curl_free(text);
        *what = "it redirects to an address that is no URL";
        return ARN_EPROTO;
    }
    copy = arn_strdup(text);
    curl_free(text);
    if (copy == NULL)
        return ARN_ENOMEM;
    arn_free(op->reply.url);
    op->url = op->reply.url = copy;
    change_method(op);
    return 0;
}
