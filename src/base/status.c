#include "base/status.h"

const char *arn_status_name(int status) {
    switch (status) {
    case ARN_OK:
        return "OK";
#define XX(name, message)                                                                          \
    case ARN_##name:                                                                               \
        return #name;
        ARN_STATUS_MAP(XX)
#undef XX
    default:
        return "UNKNOWN";
    }
}

const char *arn_status_message(int status) {
    switch (status) {
    case ARN_OK:
        return "success";
#define XX(name, message)                                                                          \
    case ARN_##name:                                                                               \
        return message;
        ARN_STATUS_MAP(XX)
#undef XX
    default:
        return "unknown status";
    }
}
