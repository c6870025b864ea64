/* plain.h - are the arguments those of an earlier call, and is the peer's class as it was then? */
#ifndef ARN_PY_PLAIN_H
#define ARN_PY_PLAIN_H

#include "py/state.h"

/* As plain_key() and unchanged(), which are documented in plain.c. A new reference, Py_None among
 * them; and 1 or 0; NULL and -1 with an exception set. */
PyObject *arn_py_plain_key(PyObject *const *values, Py_ssize_t count);
int arn_py_unchanged(PyObject *places);

#endif /* ARN_PY_PLAIN_H */
