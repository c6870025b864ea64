/* job.h - ops of no protocol, for the tests of the io room. */
#ifndef T_JOB_H
#define T_JOB_H

#include "io/op.h"
#include "io/port.h"

extern _Atomic int t_jobs; /* alive */

typedef struct t_job {
    arn_op op;
    arn_runtime *rt;
    int number;
    int hold; /* start, but do not finish */
    int saw_cancel, cancel_calls;
    int status;
    const char *message;
    char tail[64];
} t_job;

t_job *t_job_new(arn_runtime *rt, arn_port *port, int number);
void t_job_cancel(arn_op *op); /* an on_cancel that ends the op */
t_job *t_job_submit(arn_runtime *rt, arn_port *port, int number);

arn_port *t_port_new(arn_port_kind kind);
int t_fd_readable(int fd, int timeout_ms);

#endif /* T_JOB_H */
