#include "job.h"

#include "base/status.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

_Atomic int t_jobs;

static void free_job(arn_op *op) {
    atomic_fetch_sub(&t_jobs, 1);
    free(ARN_CONTAINER_OF(op, t_job, op));
}

static void run_job(arn_msg *msg, int aborted) {
    t_job *j = ARN_CONTAINER_OF(ARN_CONTAINER_OF(msg, arn_op, msg), t_job, op);

    if (aborted) {
        arn__op_finish(NULL, &j->op, ARN_ESHUTDOWN, NULL);
        return;
    }
    j->saw_cancel = arn_op_is_cancelled(&j->op);
    j->op.state = ARN_OP_SENT;
    if (!j->hold)
        arn__op_finish(j->rt, &j->op, j->status, j->message);
}

void t_job_cancel(arn_op *op) {
    t_job *j = ARN_CONTAINER_OF(op, t_job, op);

    j->cancel_calls += arn_runtime_on_io_thread();
    arn__op_finish(j->rt, op, ARN_ECANCELED, NULL);
    arn__op_finish(j->rt, op, ARN_OK, NULL); /* too late: nothing */
}

t_job *t_job_new(arn_runtime *rt, arn_port *port, int number) {
    t_job *j = calloc(1, sizeof(*j));

    arn_op_init(&j->op, run_job, free_job, j->tail, sizeof(j->tail));
    atomic_fetch_add(&t_jobs, 1);
    j->rt = rt;
    j->number = number;
    arn_op_set_port(&j->op, port);
    return j;
}

t_job *t_job_submit(arn_runtime *rt, arn_port *port, int number) {
    t_job *j = t_job_new(rt, port, number);

    arn_runtime_submit(rt, &j->op.msg, &j->op.msg);
    return j;
}

arn_port *t_port_new(arn_port_kind kind) {
    int status = 1;
    arn_port *port = arn_port_new(kind, &status);

    assert_non_null(port);
    assert_int_equal(status, ARN_OK);
    return port;
}

int t_fd_readable(int fd, int timeout_ms) {
    struct pollfd p = {fd, POLLIN, 0};

    return poll(&p, 1, timeout_ms) == 1;
}
