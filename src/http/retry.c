#include "http/retry.h"

#include "base/json.h"

#include <curl/curl.h>
#include <math.h>
#include <string.h>
#include <time.h>

#define FIRST_DELAY 0.5
#define LONGEST_DELAY 8.0

/* A number as Python's float() takes it, in any locale; infinite if it is beyond any double; NAN
 * for what is none (or is one that no delay can be: nan, and inf by that name). */
static double number_of(const char *text) {
    size_t len = strlen(text);
    const char *digits;
    char copy[512];
    double sign = 1;
    size_t n = 0;

    while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\t'))
        len--;
    while (len > 0 && (*text == ' ' || *text == '\t'))
        text++, len--;
    if (len > 0 && (*text == '-' || *text == '+')) {
        sign = *text == '-' ? -1 : 1;
        text++, len--;
    }
    if (len == 0)
        return NAN;
    for (digits = text; digits < text + len; digits++)
        if (strchr("0123456789.eE+-", *digits) == NULL)
            return NAN;
    /* JSON wants digits on both sides of the point, and no zero before others. */
    while (len > 1 && *text == '0' && text[1] >= '0' && text[1] <= '9')
        text++, len--;
    if (len > sizeof(copy) - 4) /* no double has as many digits before its point */
        return strspn(text, "0123456789") >= len ? sign * INFINITY : NAN;
    if (*text == '.')
        copy[n++] = '0';
    for (; len > 0; text++, len--) {
        copy[n++] = *text;
        if (*text == '.' && (len == 1 || text[1] < '0' || text[1] > '9'))
            copy[n++] = '0';
    }
    {
        arn_arena arena;
        arn_json_error error;
        arn_value value;
        int r;

        arn_arena_init(&arena, NULL, 0);
        r = arn_json_parse(&arena, copy, n, &value, &error);
        arn_arena_free(&arena);
        if (r != 0)
            return NAN;
        if (value.kind == ARN_INT)
            return sign * (double)value.u.integer;
        if (value.kind == ARN_DOUBLE)
            return sign * value.u.number;
        return value.kind == ARN_BIGINT ? sign * INFINITY : NAN;
    }
}

/* Seconds named by the headers; NAN: none. */
static double named_delay(const arn_http_reply *reply) {
    const char *text = arn_http_reply_header(reply, "retry-after-ms");
    double seconds;
    time_t date;

    if (text != NULL) {
        seconds = number_of(text) / 1000;
        if (!isnan(seconds))
            return seconds;
    }
    text = arn_http_reply_header(reply, "retry-after");
    if (text == NULL)
        return NAN;
    seconds = number_of(text);
    if (!isnan(seconds))
        return seconds;
    date = curl_getdate(text, NULL);
    return date == (time_t)-1 ? NAN : difftime(date, time(NULL));
}

int arn__http_should_retry(const arn_http_reply *reply, const arn_http_options *options,
                           double *named) {
    const char *word = arn_http_reply_header(reply, "x-should-retry");
    double seconds = named_delay(reply);
    int status = reply->status;

    *named = seconds > 0 && seconds <= options->max_retry_after ? seconds : -1;
    if (options->refuse_longer && seconds > options->max_retry_after)
        return 0;
    if (word != NULL && strcmp(word, "true") == 0)
        return 1;
    if (word != NULL && strcmp(word, "false") == 0)
        return 0;
    return status == 408 || status == 409 || status == 429 || status >= 500;
}

double arn__http_backoff(unsigned retries) {
    static _Thread_local uint64_t state;
    double seconds = retries < 8 ? FIRST_DELAY * (double)(1u << retries) : LONGEST_DELAY;

    if (state == 0)
        state = uv_hrtime() | 1;
    state ^= state << 13; /* xorshift: chance enough to keep clients apart */
    state ^= state >> 7;
    state ^= state << 17;
    if (seconds > LONGEST_DELAY)
        seconds = LONGEST_DELAY;
    return seconds * (1 - 0.25 * (double)(state >> 11) / 9007199254740992.0);
}
