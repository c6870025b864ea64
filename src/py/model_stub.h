#ifndef ARN_PY_MODEL_STUB_H
#define ARN_PY_MODEL_STUB_H
#include "py/state.h"
PyObject *arn_py_model_build(arn_py_state *st, PyObject *plan, const arn_value *value);
PyObject *arn_py_value_to_python(const arn_value *value);
#endif
