#include "http/vectors.h"

#include "base/base64.h"
#include "base/status.h"

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
static void to_host_order(float *floats, size_t count) {
    size_t i;

    for (i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &floats[i], sizeof(bits));
        bits = __builtin_bswap32(bits);
        memcpy(&floats[i], &bits, sizeof(bits));
    }
}
#else
static void to_host_order(float *floats, size_t count) {
    (void)floats, (void)count;
}
#endif

int arn__http_decode_vectors(arn_arena *arena, arn_value *document) {
    arn_value *data = arn_value_member(document, "data");
    size_t bound = 0;
    char *to;
    size_t i;

    if (data == NULL || data->kind != ARN_ARRAY)
        return 0;
    for (i = 0; i < data->len; i++) {
        const arn_value *text = arn_value_member(&data->u.items[i], "embedding");
        if (text != NULL && text->kind == ARN_TEXT)
            bound += arn_base64_bound(text->len);
    }
    if (bound == 0)
        return 0;
    to = arn_arena_alloc(arena, bound + sizeof(float));
    if (to == NULL)
        return ARN_ENOMEM;
    for (i = 0; i < data->len; i++) {
        arn_value *text = arn_value_member(&data->u.items[i], "embedding");
        size_t len;

        if (text == NULL || text->kind != ARN_TEXT ||
            arn_base64_decode(text->u.bytes, text->len, to, &len) != 0 || len % sizeof(float) != 0)
            continue;
        text->kind = ARN_FLOAT32_ARRAY;
        text->len = len / sizeof(float);
        text->u.floats = (const float *)(void *)to;
        to_host_order((float *)(void *)to, text->len);
        to += len; /* whole floats: the next one is aligned, too */
    }
    return 0;
}
