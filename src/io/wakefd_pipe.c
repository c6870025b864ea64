#include "io/wakefd.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int configure(int fd) {
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
}

int arn__wakefd_open(arn_wakefd *w) {
    int fds[2];
    int r;

    if (pipe(fds) < 0)
        return -errno;
    r = configure(fds[0]);
    if (r == 0)
        r = configure(fds[1]);
    if (r < 0) {
        close(fds[0]);
        close(fds[1]);
        return r;
    }
    w->read_fd = fds[0];
    w->write_fd = fds[1];
    return 0;
}

void arn__wakefd_signal(const arn_wakefd *w) {
    ssize_t n;

    /* EAGAIN means that the pipe is full, so the reader is awake anyway. */
    do
        n = write(w->write_fd, "", 1);
    while (n < 0 && errno == EINTR);
}

void arn__wakefd_drain(const arn_wakefd *w) {
    char bytes[64];
    ssize_t n;

    do
        n = read(w->read_fd, bytes, sizeof(bytes));
    while (n == (ssize_t)sizeof(bytes) || (n < 0 && errno == EINTR));
}

void arn__wakefd_close(arn_wakefd *w) {
    if (w->read_fd >= 0)
        close(w->read_fd);
    if (w->write_fd >= 0)
        close(w->write_fd);
    w->read_fd = w->write_fd = -1;
}
