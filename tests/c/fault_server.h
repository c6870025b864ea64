/* fault_server.h - a server that plays a script, for what a real one does not do on demand.
 *
 * One thread, one listening socket, and steps that run one after the other. A step names the
 * connection it is about, so that several can be open at once. When the script is at its end, the
 * connections stay open and silent until t_fault_finish().
 */
#ifndef T_FAULT_SERVER_H
#define T_FAULT_SERVER_H

#define T_FAULT_CONNS 4

typedef enum t_fault_kind {
    T_END = 0,
    T_ACCEPT, /* the next connection, which becomes conn */
    T_READ,   /* exactly these bytes come */
    T_SEND,   /* text */
    T_SLEEP,  /* ms */
    T_WAIT,   /* for t_fault_go() */
    T_CLOSE,  /* in order */
    T_RESET,  /* with RST */
    T_GONE,   /* the client closes, whatever it sent before that */
    T_REFUSE  /* nobody listens any more */
} t_fault_kind;

typedef struct t_fault_step {
    t_fault_kind kind;
    int conn;
    const char *text;
    int ms;
} t_fault_step;

typedef struct t_fault t_fault;

/* `steps` ends with T_END and must stay. NULL when it could not be started. */
t_fault *t_fault_start(const t_fault_step *steps);
int t_fault_port(const t_fault *f);

/* Waits until that many steps are done; 0, or -1 when the script has failed. */
int t_fault_wait(t_fault *f, int steps);
void t_fault_go(t_fault *f);

/* Waits for the end of the script and closes everything. 0, or the number (from 1) of the step
 * that did not go as written. */
int t_fault_finish(t_fault *f);

#endif /* T_FAULT_SERVER_H */
