#include "tls_kit.h"

#include "base/alloc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define YEAR (365L * 24 * 3600)
#define NAMES "DNS:localhost,IP:127.0.0.1"

const int t_tls_versions[T_TLS_VERSIONS] = {TLS1_2_VERSION, TLS1_3_VERSION};

struct t_identities t_ids;

_Thread_local int t_tls_is_client;

static void *hooked_malloc(size_t size, const char *file, int line) {
    (void)file;
    (void)line;
    return t_tls_is_client ? arn_malloc(size) : malloc(size);
}

static void *hooked_realloc(void *p, size_t size, const char *file, int line) {
    (void)file;
    (void)line;
    return t_tls_is_client ? arn_realloc(p, size) : realloc(p, size);
}

static void hooked_free(void *p, const char *file, int line) {
    (void)file;
    (void)line;
    free(p);
}

void t_tls_hook_memory(void) {
    if (!CRYPTO_set_mem_functions(hooked_malloc, hooked_realloc, hooked_free))
        abort();
}

arn_tls_config t_tls_trusting(const t_identity *ca) {
    return (arn_tls_config){.ca = t_pem(ca->cert_pem), .verify = 1, .alpn = "h2"};
}

arn_tls *t_tls_of(const arn_tls_config *config) {
    char why[200] = "";
    arn_tls *tls = arn_tls_new(config, why, sizeof(why));

    if (tls == NULL)
        fail_msg("%s", why);
    return tls;
}

t_tls_options t_tls_serving(const t_identity *identity) {
    return (t_tls_options){.identity = identity, .alpn = "h2"};
}

void t_expect_part(const char *text, const char *part) {
    if (strstr(text, part) == NULL)
        fail_msg("not \"%s\" in \"%s\"", part, text);
}

int t_make_identities(void **state) {
    (void)state;
    t_ids.ca = t_identity_new(NULL, NULL, -YEAR, YEAR);
    t_ids.other_ca = t_identity_new(NULL, NULL, -YEAR, YEAR);
    t_ids.good = t_identity_new(t_ids.ca, NAMES, -YEAR, YEAR);
    t_ids.expired = t_identity_new(t_ids.ca, NAMES, -YEAR, -3600);
    t_ids.early = t_identity_new(t_ids.ca, NAMES, 3600, YEAR);
    t_ids.elsewhere = t_identity_new(t_ids.ca, "DNS:elsewhere.example", -YEAR, YEAR);
    t_ids.self_signed = t_identity_new(NULL, NAMES, -YEAR, YEAR);
    t_ids.client = t_identity_new(t_ids.ca, "DNS:client", -YEAR, YEAR);
    t_ids.stranger = t_identity_new(t_ids.other_ca, NAMES, -YEAR, YEAR);
    return 0;
}

int t_drop_identities(void **state) {
    t_identity **all = (t_identity **)&t_ids;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(t_ids) / sizeof(*all); i++)
        t_identity_free(all[i]);
    return 0;
}
