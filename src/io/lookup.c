#define _GNU_SOURCE /* EAI_NODATA */
#include "io/lookup.h"

#include "base/alloc.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* getaddrinfo() with the name service's modules; the default of 8 MB is much for a machine that
 * limits address space. */
#define STACK_SIZE (512u * 1024u)

struct arn_lookup {
    arn_msg msg;       /* the answer's way to the io thread */
    arn_queue node;    /* the runtime's list, while under way */
    arn_queue waiters; /* for the answer */
    arn_runtime *rt;
    unsigned refs; /* io thread: the message's and one for each waiter, until it releases */
    int error;
    int port;
    struct addrinfo *addresses;
    char host[];
};

static void unref(arn_lookup *l) {
    if (--l->refs > 0)
        return;
    arn_queue_remove(&l->node);
    if (l->addresses != NULL)
        freeaddrinfo(l->addresses);
    arn_free(l);
}

static int to_uv(int eai) {
    switch (eai) {
    case 0:
        return 0;
    case EAI_AGAIN:
        return UV_EAI_AGAIN;
    case EAI_MEMORY:
        return UV_EAI_MEMORY;
    case EAI_SYSTEM:
        return errno != 0 ? uv_translate_sys_error(errno) : UV_EAI_FAIL;
    case EAI_NONAME:
#if defined(EAI_NODATA) && EAI_NODATA != EAI_NONAME
    case EAI_NODATA:
#endif
        return UV_EAI_NONAME;
    default:
        return UV_EAI_FAIL;
    }
}

static int look_up(arn_lookup *l, int flags) {
    struct addrinfo hints;
    char service[16];
    int r;

    memset(&hints, 0, sizeof(hints));
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags;
    snprintf(service, sizeof(service), "%d", l->port);
    errno = 0;
    r = to_uv(getaddrinfo(l->host, service, &hints, &l->addresses));
    if (r != 0)
        l->addresses = NULL;
    return r;
}

/* The answer has arrived. */
static void answer(arn_msg *msg, int aborted) {
    arn_lookup *l = ARN_CONTAINER_OF(msg, arn_lookup, msg);
    arn_queue *node;

    /* The runtime has been stopped and this is the looking thread: the io thread may be at its last
     * turns and find the look-up in its list. It stays, as the runtime's own memory does. */
    if (!arn_runtime_on_io_thread())
        return;
    arn_queue_remove(&l->node);
    while (!aborted && (node = arn_queue_pop(&l->waiters)) != NULL) {
        arn_lookup_waiter *waiter = ARN_CONTAINER_OF(node, arn_lookup_waiter, node);
        waiter->done(waiter, l->error, l->addresses);
    }
    unref(l);
}

/* Touches what nobody else does before the answer: error and addresses. */
static void *thread_main(void *arg) {
    arn_lookup *l = arg;

    l->error = look_up(l, 0);
    arn_runtime_submit(l->rt, &l->msg, &l->msg);
    return NULL;
}

/* The io thread's signal mask, all blocked, is the new thread's too. */
static int start_thread(arn_lookup *l) {
    pthread_attr_t attributes;
    pthread_t thread;
    int r = pthread_attr_init(&attributes);

    if (r != 0)
        return uv_translate_sys_error(r);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    r = pthread_create(&thread, &attributes, thread_main, l);
    pthread_attr_destroy(&attributes);
    return r == 0 ? 0 : uv_translate_sys_error(r);
}

static arn_lookup *find(arn_queue *under_way, const char *host, int port) {
    arn_queue *node;

    for (node = under_way->next; node != under_way; node = node->next) {
        arn_lookup *l = ARN_CONTAINER_OF(node, arn_lookup, node);
        if (l->port == port && strcmp(l->host, host) == 0)
            return l;
    }
    return NULL;
}

static void add(arn_lookup *l, arn_lookup_waiter *waiter) {
    l->refs++;
    waiter->lookup = l;
    arn_queue_push(&l->waiters, &waiter->node);
}

int arn__lookup_start(arn_runtime *rt, const char *host, int port, arn_lookup_waiter *waiter) {
    arn_queue *under_way = arn__runtime_lookups(rt);
    arn_lookup *l = find(under_way, host, port);
    int r = 0;

    if (l != NULL) {
        add(l, waiter);
        return 0;
    }
    l = arn_calloc(1, sizeof(*l) + strlen(host) + 1);
    if (l == NULL)
        return UV_ENOMEM;
    l->msg.run = answer;
    l->rt = rt;
    l->port = port;
    strcpy(l->host, host);
    l->refs = 1;
    arn_queue_init(&l->waiters);
    arn_queue_push(under_way, &l->node);
    add(l, waiter);
    /* A literal address asks nobody and needs no thread. */
    if (look_up(l, AI_NUMERICHOST) == 0)
        arn_runtime_submit(rt, &l->msg, &l->msg);
    else
        r = start_thread(l);
    if (r != 0) {
        unref(l);
        arn__lookup_release(waiter);
    }
    return r;
}

void arn__lookup_release(arn_lookup_waiter *waiter) {
    arn_lookup *l = waiter->lookup;

    if (l == NULL)
        return;
    waiter->lookup = NULL;
    arn_queue_remove(&waiter->node);
    unref(l);
}
