/* wakefd.h - a descriptor that one thread makes readable and another waits for.
 *
 * wakefd_eventfd.c is Linux's version, wakefd_pipe.c the portable twin; a build has one of them.
 * signal may be called on any thread; drain and close on the owner's.
 */
#ifndef ARN_IO_WAKEFD_H
#define ARN_IO_WAKEFD_H

typedef struct arn_wakefd {
    int read_fd;
    int write_fd; /* the same descriptor with eventfd */
} arn_wakefd;

int arn__wakefd_open(arn_wakefd *w); /* 0, or -errno */
void arn__wakefd_signal(const arn_wakefd *w);
void arn__wakefd_drain(const arn_wakefd *w);
void arn__wakefd_close(arn_wakefd *w);

#endif /* ARN_IO_WAKEFD_H */
