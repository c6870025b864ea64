/* arguments.h - Python arguments that several types take, as the core wants them. */
#ifndef ARN_PY_ARGUMENTS_H
#define ARN_PY_ARGUMENTS_H

#include "py/state.h"

/* Seconds (None: no limit, 0) as milliseconds, at least one; -1 with an exception that says `name`.
 */
int arn_py_to_ms(PyObject *seconds, const char *name, uint64_t *out);

/* Appends the UTF-8 of a str (or the bytes) to the list `strings`, which holds it; NULL and Py_None
 * give NULL. */
int arn_py_keep_string(PyObject *strings, PyObject *o, const char *name, const char **out);

#endif /* ARN_PY_ARGUMENTS_H */
