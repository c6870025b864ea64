/* json_encode.h - Python objects to JSON text, byte for byte what
 * json.dumps(obj, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() gives.
 */
#ifndef ARN_PY_JSON_ENCODE_H
#define ARN_PY_JSON_ENCODE_H

#include "py/state.h"

#include <base/buf.h>

/* Appends the text. 0; -1 with an exception set, json's own. What the buffer holds then behind its
 * earlier length is of no use; its length is the earlier one. */
int arn_py_json_encode(arn_buf *out, PyObject *obj);

#endif /* ARN_PY_JSON_ENCODE_H */
