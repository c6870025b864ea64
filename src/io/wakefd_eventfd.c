#include "io/wakefd.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int arn__wakefd_open(arn_wakefd *w) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        return -errno;
    w->read_fd = w->write_fd = fd;
    return 0;
}

void arn__wakefd_signal(const arn_wakefd *w) {
    uint64_t one = 1;
    ssize_t n;

    /* EAGAIN means that the counter is at its maximum, so the reader is awake anyway. */
    do
        n = write(w->write_fd, &one, sizeof(one));
    while (n < 0 && errno == EINTR);
}

void arn__wakefd_drain(const arn_wakefd *w) {
    uint64_t count;
    ssize_t n;

    do
        n = read(w->read_fd, &count, sizeof(count));
    while (n < 0 && errno == EINTR);
}

void arn__wakefd_close(arn_wakefd *w) {
    if (w->read_fd >= 0)
        close(w->read_fd);
    w->read_fd = w->write_fd = -1;
}
