/* setup.c - what a connection says first: AUTH, CLIENT SETNAME, CLIENT SETINFO, SELECT, all in one
 * write, in redis-py's order. Texts of errors are redis-py's. */
#include "base/status.h"
#include "redis/conn.h"

#include <string.h>

#define COMMANDS_MAX 5

typedef enum setup_kind { SETUP_AUTH, SETUP_NAME, SETUP_INFO, SETUP_SELECT } setup_kind;

typedef struct setup_command {
    setup_kind kind;
    unsigned count;
    arn_slice args[4];
} setup_command;

static arn_slice slice(const char *s) {
    return (arn_slice){s, strlen(s)};
}

static unsigned list_commands(const arn_redis_conn *conn, setup_command *out) {
    const arn_redis_config *c = &conn->client->config;
    const char *info[2][2] = {{"LIB-NAME", c->lib_name}, {"LIB-VER", c->lib_version}};
    unsigned n = 0;
    unsigned i;

    if (c->password != NULL || c->username != NULL) {
        const char *password = c->password != NULL ? c->password : "";
        setup_command *auth = &out[n++];
        auth->kind = SETUP_AUTH;
        auth->args[0] = slice("AUTH");
        auth->count = 2;
        if (c->username != NULL && !conn->plain_auth) {
            auth->args[1] = slice(c->username);
            auth->args[2] = slice(password);
            auth->count = 3;
        } else {
            auth->args[1] = slice(password);
        }
    }
    if (c->client_name != NULL)
        out[n++] = (setup_command){
            SETUP_NAME, 3, {slice("CLIENT"), slice("SETNAME"), slice(c->client_name)}};
    for (i = 0; i < 2; i++)
        if (info[i][1] != NULL)
            out[n++] = (setup_command){
                SETUP_INFO,
                4,
                {slice("CLIENT"), slice("SETINFO"), slice(info[i][0]), slice(info[i][1])}};
    if (c->database != NULL)
        out[n++] = (setup_command){SETUP_SELECT, 2, {slice("SELECT"), slice(c->database)}};
    return n;
}

int arn__redis_setup_send(arn_redis_conn *conn) {
    setup_command commands[COMMANDS_MAX];
    unsigned count, i;

    conn->plain_auth = conn->client->legacy_auth;
    count = list_commands(conn, commands);
    for (i = 0; i < count; i++) {
        size_t size = arn_redis_packed_size(commands[i].args, commands[i].count);
        char *packed = arn_arena_alloc(&conn->scratch, size);
        int r = ARN_ENOMEM;

        if (packed != NULL) {
            arn_redis_pack(packed, commands[i].args, commands[i].count);
            r = arn__stream_append(conn->stream, packed, size);
            memset(packed, 0, size); /* it may hold the password */
        }
        if (r != ARN_OK)
            return r;
        conn->unsent += size;
    }
    arn_arena_free(&conn->scratch);
    return (int)count;
}

static int starts_with(const arn_value *v, const char *prefix) {
    size_t n = strlen(prefix);

    return v->len >= n && memcmp(v->u.bytes, prefix, n) == 0;
}

static int is_ok(const arn_value *v) {
    return v->kind == ARN_BYTES && v->len == 2 && memcmp(v->u.bytes, "OK", 2) == 0;
}

/* A server that does not know AUTH says so with the arguments: with the password. */
static void cut_arguments(const arn_value *reply) {
    static const char beginning[] = ", with args beginning with";
    char *text = (char *)reply->u.bytes; /* in the connection's arena */
    char *p = strstr(text, beginning);

    if (p != NULL)
        memset(p, '\0', reply->len - (size_t)(p - text));
}

int arn__redis_setup_reply(arn_redis_conn *conn, uint32_t index, const arn_value *reply,
                           const char **message) {
    setup_command commands[COMMANDS_MAX];
    unsigned count = list_commands(conn, commands);
    const setup_command *command = &commands[index];

    if (index >= count)
        return ARN_OK;
    if (is_ok(reply))
        return ARN_OK;
    *message = reply->kind == ARN_ERROR ? reply->u.bytes : "unexpected reply while connecting";

    /* Servers older than 7.2 do not know CLIENT SETINFO, and an ACL may forbid it; but an error
     * that concerns the whole connection must not be passed over. */
    if (command->kind == SETUP_INFO && reply->kind == ARN_ERROR &&
        (starts_with(reply, "NOPERM") ||
         (starts_with(reply, "ERR") && !starts_with(reply, "ERR max number of clients"))))
        return ARN_OK;

    if (reply->kind != ARN_ERROR)
        return ARN_EPROTO;
    if (command->kind == SETUP_AUTH) {
        /* A server before 6.0 takes the password alone: connect once more its way. */
        if (command->count == 3 && starts_with(reply, "ERR wrong number of arguments")) {
            conn->client->legacy_auth = 1;
            return ARN_REDIS_SETUP_AGAIN;
        }
        if (starts_with(reply, "ERR unknown command"))
            cut_arguments(reply);
    }
    return ARN_EAUTH;
}
