/* floats.h - lists of floats: vectors. */
#ifndef ARN_PY_FLOATS_H
#define ARN_PY_FLOATS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* A list of so many floats is not shown to the garbage collector, as CPython does with tuples and
 * dicts of atoms: it would look at each of a vector's 1536 floats, twice, whenever it runs, which
 * with a hundred vectors about held the event loop up for 5 ms. What it cannot free then is a
 * cycle through such a list: somebody would have to put a container into a vector that holds on to
 * that vector. */
#define ARN_PY_UNTRACKED_LENGTH 64

/* To be called with a new list of floats, once it is complete. */
static inline void arn_py_untrack_floats(PyObject *list) {
    if (PyList_GET_SIZE(list) >= ARN_PY_UNTRACKED_LENGTH)
        PyObject_GC_UnTrack(list);
}

#endif /* ARN_PY_FLOATS_H */
