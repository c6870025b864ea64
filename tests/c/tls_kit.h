/* tls_kit.h - what the tests of TLS share: certificates of every kind, settings, and OpenSSL's
 * memory from the core's hook.
 */
#ifndef T_TLS_KIT_H
#define T_TLS_KIT_H

#include "io/tls.h"
#include "tls_peer.h"

#define T_TLS_VERSIONS 2u
extern const int t_tls_versions[T_TLS_VERSIONS];

/* For cmocka's group set-up and tear-down. */
extern struct t_identities {
    t_identity *ca, *good, *expired, *early, *elsewhere, *other_ca, *self_signed, *client,
        *stranger;
} t_ids;
int t_make_identities(void **state);
int t_drop_identities(void **state);

/* Before anything else of OpenSSL's: where it is the client's, its memory can fail like the core's.
 */
extern _Thread_local int t_tls_is_client;
void t_tls_hook_memory(void);

arn_tls_config t_tls_trusting(const t_identity *ca);
arn_tls *t_tls_of(const arn_tls_config *config);
t_tls_options t_tls_serving(const t_identity *identity);
void t_expect_part(const char *text, const char *part);

#endif /* T_TLS_KIT_H */
