#include "grpc/internal.h"

int arn__grpc_code_of_http(int status) {
    switch (status) {
    case 400:
        return ARN_GRPC_INTERNAL;
    case 401:
        return ARN_GRPC_UNAUTHENTICATED;
    case 403:
        return ARN_GRPC_PERMISSION_DENIED;
    case 404:
        return ARN_GRPC_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return ARN_GRPC_UNAVAILABLE;
    default:
        return ARN_GRPC_UNKNOWN;
    }
}

int arn__grpc_code_of_h2(uint32_t error) {
    switch (error) {
    case NGHTTP2_REFUSED_STREAM:
        return ARN_GRPC_UNAVAILABLE;
    case NGHTTP2_CANCEL:
        return ARN_GRPC_CANCELLED;
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return ARN_GRPC_RESOURCE_EXHAUSTED;
    case NGHTTP2_INADEQUATE_SECURITY:
        return ARN_GRPC_PERMISSION_DENIED;
    case NGHTTP2_STREAM_CLOSED:
    case NGHTTP2_HTTP_1_1_REQUIRED:
        return ARN_GRPC_UNKNOWN;
    default:
        return ARN_GRPC_INTERNAL;
    }
}

const char *arn_grpc_code_name(int code) {
    static const char *const names[] = {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    };

    return code >= 0 && code <= ARN_GRPC_UNAUTHENTICATED ? names[code] : "UNKNOWN";
}
