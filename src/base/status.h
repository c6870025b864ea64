/* status.h - results as negative integers with a name and a message, like libuv's.
 *
 * 0 is success. The hosts map them to exception classes (src/py) and must treat a code they do
 * not know as ARN_ECONN: the transport failed in some way.
 */
#ifndef ARN_BASE_STATUS_H
#define ARN_BASE_STATUS_H

#define ARN_STATUS_MAP(XX)                                                                         \
    XX(ENOMEM, "out of memory")                                                                    \
    XX(ECONN, "connection failed")                                                                 \
    XX(ECLOSED, "connection closed by this client")                                                \
    XX(ETIMEDOUT, "operation timed out")                                                           \
    XX(ECONNTIMEDOUT, "timed out while connecting")                                                \
    XX(EPROTO, "the peer broke the protocol")                                                      \
    XX(EAUTH, "the server refused the connection's set-up")                                        \
    XX(EBUSY, "no connection became free in time")                                                 \
    XX(ECANCELED, "operation cancelled")                                                           \
    XX(EINVAL, "invalid argument")                                                                 \
    XX(ERESOURCE, "too many open files or threads: raise the limit (ulimit -n, ulimit -u)")        \
    XX(ESHUTDOWN, "the io thread has been stopped")

enum {
    ARN_OK = 0,
    ARN__STATUS_BASE = -100,
#define XX(name, message) ARN__STATUS_INDEX_##name,
    ARN_STATUS_MAP(XX)
#undef XX
};

/* Codes are -1, -2, ... in the order of the map. */
#define XX(name, message) enum { ARN_##name = -(ARN__STATUS_INDEX_##name - ARN__STATUS_BASE) };
ARN_STATUS_MAP(XX)
#undef XX

/* Both accept any integer and never return NULL. The strings are static. */
const char *arn_status_name(int status);
const char *arn_status_message(int status);

#endif /* ARN_BASE_STATUS_H */
