/* The io room without a protocol: ops and the ports they come back through. */
#include "arn.h"
#include "base/alloc.h"
#include "job.h"
#include "redis_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* Far more than one hand-over; the order of posting is kept. */
static void ports(void **state) {
    arn_port_kind kind = *(arn_port_kind *)*state;
    arn_runtime *rt = t_running();
    arn_port *port = t_port_new(kind);
    int round, expected;

    if (kind == ARN_PORT_FD) {
        assert_false(t_fd_readable(arn_port_fd(port), 0));
        assert_null(arn_port_take(port));
    }
    for (round = 0; round < 3; round++) {
        int count = round == 0 ? 1 : 3000;
        int i;
        for (i = 0; i < count; i++)
            t_job_submit(rt, port, i);
        for (expected = 0; expected < count;) {
            arn_op *op;
            if (kind == ARN_PORT_FD)
                assert_true(t_fd_readable(arn_port_fd(port), 5000));
            op = kind == ARN_PORT_FD ? arn_port_take(port) : arn_port_wait(port, 5000);
            if (kind == ARN_PORT_WAIT)
                assert_non_null(op);
            while (op != NULL) {
                arn_op *next = op->next_done;
                assert_int_equal(ARN_CONTAINER_OF(op, t_job, op)->number, expected++);
                assert_int_equal(op->status, ARN_OK);
                assert_int_equal(op->state, ARN_OP_DONE);
                arn_op_unref(op);
                op = next;
            }
        }
        if (kind == ARN_PORT_FD)
            assert_false(t_fd_readable(arn_port_fd(port), 0));
        assert_null(arn_port_take(port));
    }
    t_barrier(rt);
    arn_port_unref(port);
    assert_int_equal(t_jobs, 0);
}

static void wait_times_out(void **state) {
    arn_port *port = t_port_new(ARN_PORT_WAIT);
    uint64_t start = uv_hrtime();

    (void)state;
    assert_null(arn_port_wait(port, 0));
    assert_null(arn_port_wait(port, 40));
    assert_true(uv_hrtime() - start >= 40 * 1000000u);
    assert_true(uv_hrtime() - start < 2000 * 1000000ull);
    arn_port_unref(port);
}

static void closed_port(void **state) {
    arn_runtime *rt = t_running();
    arn_port *port = t_port_new(ARN_PORT_FD);

    (void)state;
    t_job_submit(rt, port, 0);
    assert_true(t_fd_readable(arn_port_fd(port), 5000));
    assert_int_equal(t_jobs, 1);
    arn_port_close(port); /* drops what is there */
    assert_int_equal(t_jobs, 0);
    t_job_submit(rt, port, 1); /* and what is still to come */
    arn_port_unref(port);      /* the op has the last reference */
    t_barrier(rt);
    t_barrier(rt);
    assert_int_equal(t_jobs, 0);
}

static void job_after_stop(void **state) {
    arn_runtime *rt = t_running();
    arn_port *port = t_port_new(ARN_PORT_WAIT);
    arn_op *op;

    (void)state;
    assert_int_equal(arn_runtime_stop(5000), ARN_OK);
    t_job_submit(rt, port, 7);
    op = arn_port_wait(port, 0);
    assert_non_null(op);
    assert_int_equal(op->status, ARN_ESHUTDOWN);
    assert_string_equal(op->message, arn_status_message(ARN_ESHUTDOWN));
    arn_op_unref(op);
    arn_port_unref(port);
    assert_int_equal(t_jobs, 0);
}

static void op_references(void **state) {
    arn_runtime *rt = t_running();
    arn_port *port = t_port_new(ARN_PORT_WAIT);
    arn_port *other = t_port_new(ARN_PORT_WAIT);
    char text[] = "what went wrong";
    t_job *j = t_job_new(rt, other, 0);

    (void)state;
    arn_op_set_port(&j->op, port); /* lets go of the other */
    arn_port_unref(other);
    arn_port_unref(port); /* the op's own reference is enough for it to come back */
    arn_port_ref(port);
    j->status = ARN_EPROTO;
    j->message = text;
    arn_op_ref(&j->op);
    arn_runtime_submit(rt, &j->op.msg, &j->op.msg);
    assert_ptr_equal(arn_port_wait(port, 5000), &j->op);
    assert_null(j->op.next_done);
    memset(text, 'x', sizeof(text) - 1);
    assert_string_equal(j->op.message, "what went wrong"); /* a copy */
    assert_int_equal(j->op.status, ARN_EPROTO);
    arn_op_unref(&j->op);
    assert_int_equal(t_jobs, 1);
    arn_op_unref(&j->op);
    assert_int_equal(t_jobs, 0);
    t_barrier(rt);
    arn_port_unref(port);
}

static void cancel_before_start(void **state) {
    arn_runtime *rt = t_running();
    arn_port *port = t_port_new(ARN_PORT_WAIT);
    t_blocker b;
    t_job *j;

    (void)state;
    t_block(rt, &b);
    j = t_job_submit(rt, port, 0);
    j->op.on_cancel = t_job_cancel;
    arn_op_cancel(rt, &j->op);
    arn_op_cancel(rt, &j->op); /* the second does nothing: there is one message */
    t_unblock(&b);
    assert_ptr_equal(arn_port_wait(port, 5000), &j->op);
    t_barrier(rt);
    assert_true(j->saw_cancel);
    assert_int_equal(j->cancel_calls, 0); /* it had ended by itself */
    assert_int_equal(j->op.status, ARN_OK);
    arn_op_unref(&j->op);
    assert_int_equal(t_jobs, 0);
    arn_port_unref(port);
}

static void cancel_after_start(void **state) {
    arn_runtime *rt = t_running();
    arn_port *port = t_port_new(ARN_PORT_WAIT);
    t_job *j = t_job_new(rt, port, 0);

    (void)state;
    j->hold = 1;
    j->op.on_cancel = t_job_cancel;
    arn_runtime_submit(rt, &j->op.msg, &j->op.msg);
    t_barrier(rt);
    assert_false(j->saw_cancel);
    assert_null(arn_port_take(port));
    arn_op_cancel(rt, &j->op);
    arn_op_cancel(rt, &j->op);
    assert_ptr_equal(arn_port_wait(port, 5000), &j->op);
    t_barrier(rt);
    assert_null(arn_port_take(port)); /* posted once */
    assert_int_equal(j->cancel_calls, 1);
    assert_int_equal(j->op.status, ARN_ECANCELED);
    assert_int_equal(j->op.state, ARN_OP_CANCELLED);

    arn_op_cancel(rt, &j->op); /* when it is over: no harm */
    arn_op_unref(&j->op);
    t_barrier(rt);
    assert_int_equal(t_jobs, 0);

    /* Not yet taken when it is cancelled, and then dropped by its owner at once. */
    j = t_job_submit(rt, port, 1);
    t_barrier(rt);
    arn_op_cancel(rt, &j->op);
    assert_ptr_equal(arn_port_wait(port, 5000), &j->op);
    arn_op_unref(&j->op);
    t_barrier(rt);
    assert_int_equal(t_jobs, 0);
    arn_port_unref(port);
}

int main(void) {
    static arn_port_kind fd = ARN_PORT_FD, wait = ARN_PORT_WAIT;
    const struct CMUnitTest tests[] = {
        {"ports_fd", ports, NULL, t_stop_runtime, &fd},
        {"ports_wait", ports, NULL, t_stop_runtime, &wait},
        cmocka_unit_test_teardown(wait_times_out, t_stop_runtime),
        cmocka_unit_test_teardown(closed_port, t_stop_runtime),
        cmocka_unit_test_teardown(job_after_stop, t_stop_runtime),
        cmocka_unit_test_teardown(op_references, t_stop_runtime),
        cmocka_unit_test_teardown(cancel_before_start, t_stop_runtime),
        cmocka_unit_test_teardown(cancel_after_start, t_stop_runtime),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
