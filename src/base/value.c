#include "base/value.h"

#include <string.h>

arn_value *arn_value_member(const arn_value *map, const char *name) {
    size_t len = strlen(name);
    size_t i;

    if (map == NULL || map->kind != ARN_MAP)
        return NULL;
    for (i = map->len; i > 0; i--) {
        arn_value *key = &map->u.items[2 * (i - 1)];
        if (key->len == len && memcmp(key->u.bytes, name, len) == 0)
            return key + 1;
    }
    return NULL;
}
