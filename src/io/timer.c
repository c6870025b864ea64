#include "io/timer.h"

#include "base/alloc.h"

static void on_closed(uv_handle_t *handle) {
    arn_free(handle);
}

uv_timer_t *arn__timer_new(arn_runtime *rt, void *data) {
    uv_timer_t *timer = arn_malloc(sizeof(*timer));

    if (timer == NULL)
        return NULL;
    uv_timer_init(arn__runtime_loop(rt), timer);
    timer->data = data;
    return timer;
}

void arn__timer_free(uv_timer_t *timer) {
    if (timer == NULL)
        return;
    uv_timer_stop(timer);
    uv_close((uv_handle_t *)timer, on_closed);
}
