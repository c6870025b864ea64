#if !__has_include("py/model.h")
#include "py/model_stub.h"
PyObject *arn_py_model_build(arn_py_state *st, PyObject *plan, const arn_value *value){(void)st;(void)plan;return arn_py_value_to_python(value);}
PyObject *arn_py_value_to_python(const arn_value *v){
 size_t i; PyObject *o;
 switch(v->kind){
 case ARN_NIL: Py_RETURN_NONE;
 case ARN_BOOL: return PyBool_FromLong((long)v->u.integer);
 case ARN_INT: return PyLong_FromLongLong(v->u.integer);
 case ARN_DOUBLE: return PyFloat_FromDouble(v->u.number);
 case ARN_TEXT: return PyUnicode_DecodeUTF8(v->u.bytes,(Py_ssize_t)v->len,"surrogatepass");
 case ARN_ARRAY: o=PyList_New(0); for(i=0;i<v->len;i++){PyObject*x=arn_py_value_to_python(&v->u.items[i]);PyList_Append(o,x);Py_DECREF(x);} return o;
 case ARN_FLOAT64_ARRAY: o=PyList_New(0); for(i=0;i<v->len;i++){PyObject*x=PyFloat_FromDouble(v->u.doubles[i]);PyList_Append(o,x);Py_DECREF(x);} return o;
 case ARN_MAP: o=PyDict_New(); for(i=0;i<v->len;i++){PyObject*k=arn_py_value_to_python(&v->u.items[2*i]);PyObject*x=arn_py_value_to_python(&v->u.items[2*i+1]);PyDict_SetItem(o,k,x);Py_DECREF(x);Py_DECREF(k);} return o;
 default: Py_RETURN_NONE; }
}
#endif
