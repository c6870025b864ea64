#include "py/json_encode.h"

#include <stdint.h>
#include <string.h>

/* Only what json.dumps() accepts is written here. Whatever it would refuse (a type it does not
 * know, a NaN, a circle, too deep a nesting, a lone surrogate) ends in REFUSED without an
 * exception; json.dumps() itself is then asked, and raises what it raises in this version of
 * Python. */
enum { DONE = 0, FAILED = -1 /* an exception is set */, REFUSED = -2 };

/* The containers around what is being written, on the C stack. Each is owned by the one around it
 * or by a caller's reference. */
typedef struct frame {
    PyObject *container;
    const struct frame *outer;
} frame;

static int no_memory(void) {
    PyErr_NoMemory();
    return FAILED;
}

static int put(arn_buf *out, const char *text, size_t len) {
    return arn_buf_append(out, text, len) == 0 ? DONE : no_memory();
}

/* ---- strings ---- */

static inline int is_plain(uint32_t c) {
    return c >= 0x20 && c != '"' && c != '\\';
}

/* Writes the escape of one that is not plain, at most 6 bytes. */
static char *escape(char *p, unsigned c) {
    static const char hex[] = "0123456789abcdef";

    *p++ = '\\';
    switch (c) {
    case '"':
    case '\\':
        *p++ = (char)c;
        break;
    case '\n':
        *p++ = 'n';
        break;
    case '\r':
        *p++ = 'r';
        break;
    case '\t':
        *p++ = 't';
        break;
    case '\f':
        *p++ = 'f';
        break;
    case '\b':
        *p++ = 'b';
        break;
    default:
        memcpy(p, "u00", 3);
        p[3] = hex[c >> 4 & 15];
        p[4] = hex[c & 15];
        p += 5;
    }
    return p;
}

/* How many bytes of ASCII text at s need no escape; eight at a time. */
static size_t plain_bytes(const char *s, size_t len) {
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    size_t i = 0;

    for (; i + 8 <= len; i += 8) {
        uint64_t x, quote, backslash;
        memcpy(&x, s + i, 8);
        quote = x ^ ones * '"';
        backslash = x ^ ones * '\\';
        /* No byte has its high bit set, so a borrow can only come from a byte that is a hit. */
        if (((x - ones * 0x20) | (quote - ones) | (backslash - ones)) & high)
            break;
    }
    while (i < len && is_plain((unsigned char)s[i]))
        i++;
    return i;
}

static int put_ascii(arn_buf *out, const char *s, size_t len) {
    char *p;

    for (;;) {
        size_t n = plain_bytes(s, len);
        p = arn_buf_reserve(out, n + 6);
        if (p == NULL)
            return no_memory();
        memcpy(p, s, n);
        out->len += n;
        if (n == len)
            return DONE;
        out->len = (size_t)(escape(p + n, (unsigned char)s[n]) - out->data);
        s += n + 1;
        len -= n + 1;
    }
}

static int put_wide(arn_buf *out, PyObject *text) {
    Py_ssize_t len = PyUnicode_GET_LENGTH(text), i = 0;
    const void *data = PyUnicode_DATA(text);
    int kind = PyUnicode_KIND(text);

    while (i < len) {
        /* A piece at a time: room for the worst case of all of it would be six times its size. */
        Py_ssize_t end = len - i > 1024 ? i + 1024 : len;
        char *p = arn_buf_reserve(out, (size_t)(end - i) * 6);
        if (p == NULL)
            return no_memory();
        for (; i < end; i++) {
            uint32_t c = PyUnicode_READ(kind, data, i);
            if (c < 0x80) {
                if (is_plain(c))
                    *p++ = (char)c;
                else
                    p = escape(p, c);
            } else if (c < 0x800) {
                *p++ = (char)(0xC0 | c >> 6);
                *p++ = (char)(0x80 | (c & 0x3F));
            } else if (c < 0x10000) {
                if (c >= 0xD800 && c < 0xE000)
                    return REFUSED;
                *p++ = (char)(0xE0 | c >> 12);
                *p++ = (char)(0x80 | (c >> 6 & 0x3F));
                *p++ = (char)(0x80 | (c & 0x3F));
            } else {
                *p++ = (char)(0xF0 | c >> 18);
                *p++ = (char)(0x80 | (c >> 12 & 0x3F));
                *p++ = (char)(0x80 | (c >> 6 & 0x3F));
                *p++ = (char)(0x80 | (c & 0x3F));
            }
        }
        out->len = (size_t)(p - out->data);
    }
    return DONE;
}

static int put_string(arn_buf *out, PyObject *text) {
    int r;

#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(text) < 0)
        return FAILED;
#endif
    r = put(out, "\"", 1);
    if (r == DONE)
        r = PyUnicode_IS_ASCII(text) ? put_ascii(out, (const char *)PyUnicode_1BYTE_DATA(text),
                                                 (size_t)PyUnicode_GET_LENGTH(text))
                                     : put_wide(out, text);
    return r == DONE ? put(out, "\"", 1) : r;
}

/* ---- numbers ---- */

static int put_int(arn_buf *out, PyObject *number) {
    int overflow;
    long long n = PyLong_AsLongLongAndOverflow(number, &overflow);
    PyObject *text;
    int r;

    if (!overflow) {
        char digits[24];
        size_t len = sizeof(digits);
        unsigned long long rest = n < 0 ? 0ull - (unsigned long long)n : (unsigned long long)n;
        if (n == -1 && PyErr_Occurred())
            return FAILED;
        do
            digits[--len] = (char)('0' + rest % 10);
        while ((rest /= 10) > 0);
        if (n < 0)
            digits[--len] = '-';
        return put(out, digits + len, sizeof(digits) - len);
    }
    /* As json: int's own, whatever the subclass says. It refuses what has too many digits. */
    text = PyLong_Type.tp_repr(number);
    if (text == NULL)
        return FAILED;
    r = put(out, (const char *)PyUnicode_1BYTE_DATA(text), (size_t)PyUnicode_GET_LENGTH(text));
    Py_DECREF(text);
    return r;
}

static int put_float(arn_buf *out, PyObject *number) {
    double x = PyFloat_AS_DOUBLE(number);
    char *text;
    int r;

    if (!Py_IS_FINITE(x))
        return REFUSED;
    text = PyOS_double_to_string(x, 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
    if (text == NULL)
        return FAILED;
    r = put(out, text, strlen(text));
    PyMem_Free(text);
    return r;
}

/* ---- containers ---- */

static int put_object(arn_buf *out, PyObject *o, const frame *outer);

static int put_list(arn_buf *out, PyObject *list, const frame *outer) {
    frame own = {list, outer};
    int is_list = PyList_Check(list), r = DONE;
    Py_ssize_t i;

    /* The length is asked for each time: a dict subclass inside may run code. */
    for (i = 0; r == DONE; i++) {
        Py_ssize_t size = is_list ? PyList_GET_SIZE(list) : PyTuple_GET_SIZE(list);
        PyObject *item;
        if (i >= size)
            break;
        item = Py_NewRef(is_list ? PyList_GET_ITEM(list, i) : PyTuple_GET_ITEM(list, i));
        r = put(out, i == 0 ? "[" : ",", 1);
        if (r == DONE)
            r = put_object(out, item, &own);
        Py_DECREF(item);
    }
    if (r == DONE)
        r = i == 0 ? put(out, "[]", 2) : put(out, "]", 1);
    return r;
}

static int put_key(arn_buf *out, PyObject *key) {
    int r;

    if (PyUnicode_Check(key))
        return put_string(out, key);
    if (key == Py_True)
        return put(out, "\"true\"", 6);
    if (key == Py_False)
        return put(out, "\"false\"", 7);
    if (key == Py_None)
        return put(out, "\"null\"", 6);
    if (!PyFloat_Check(key) && !PyLong_Check(key))
        return REFUSED;
    r = put(out, "\"", 1);
    if (r == DONE)
        r = PyFloat_Check(key) ? put_float(out, key) : put_int(out, key);
    return r == DONE ? put(out, "\"", 1) : r;
}

static int put_member(arn_buf *out, PyObject *key, PyObject *item, int is_first, const frame *own) {
    int r = put(out, is_first ? "{" : ",", 1);

    if (r == DONE)
        r = put_key(out, key);
    if (r == DONE)
        r = put(out, ":", 1);
    return r == DONE ? put_object(out, item, own) : r;
}

/* A subclass's own items() is asked, as json does. */
static int put_mapping(arn_buf *out, PyObject *dict, const frame *own) {
    PyObject *items = PyMapping_Items(dict);
    int r = DONE;
    Py_ssize_t i;

    if (items == NULL)
        return FAILED;
    for (i = 0; r == DONE && i < PyList_GET_SIZE(items); i++) {
        PyObject *pair = Py_NewRef(PyList_GET_ITEM(items, i));
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2)
            r = REFUSED;
        else
            r = put_member(out, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1), i == 0, own);
        Py_DECREF(pair);
    }
    Py_DECREF(items);
    if (r == DONE)
        r = i == 0 ? put(out, "{}", 2) : put(out, "}", 1);
    return r;
}

static int put_dict(arn_buf *out, PyObject *dict, const frame *outer) {
    frame own = {dict, outer};
    PyObject *key, *item;
    Py_ssize_t pos = 0, size = PyDict_GET_SIZE(dict);
    int is_first = 1, r = DONE;

    if (size == 0)
        return put(out, "{}", 2);
    if (!PyDict_CheckExact(dict))
        return put_mapping(out, dict, &own);
    while (r == DONE && PyDict_Next(dict, &pos, &key, &item)) {
        Py_INCREF(key);
        Py_INCREF(item);
        r = put_member(out, key, item, is_first, &own);
        is_first = 0;
        Py_DECREF(key);
        Py_DECREF(item);
        if (r == DONE && PyDict_GET_SIZE(dict) != size)
            r = REFUSED; /* a subclass inside has run code that changed it */
    }
    return r == DONE ? put(out, "}", 1) : r;
}

static int put_container(arn_buf *out, PyObject *o, const frame *outer) {
    const frame *f;
    int r;

    for (f = outer; f != NULL; f = f->outer)
        if (f->container == o)
            return REFUSED;
    if (Py_EnterRecursiveCall(" while encoding a JSON object"))
        return FAILED;
    r = PyDict_Check(o) ? put_dict(out, o, outer) : put_list(out, o, outer);
    Py_LeaveRecursiveCall();
    return r;
}

static int put_object(arn_buf *out, PyObject *o, const frame *outer) {
    if (PyUnicode_Check(o))
        return put_string(out, o);
    if (o == Py_None)
        return put(out, "null", 4);
    if (o == Py_True)
        return put(out, "true", 4);
    if (o == Py_False)
        return put(out, "false", 5);
    if (PyLong_Check(o))
        return put_int(out, o);
    if (PyFloat_Check(o))
        return put_float(out, o);
    if (PyDict_Check(o) || PyList_Check(o) || PyTuple_Check(o))
        return put_container(out, o, outer);
    return REFUSED;
}

/* ---- what is not written here ---- */

static int ask_json(arn_buf *out, PyObject *obj) {
    PyObject *json = PyImport_ImportModule("json");
    PyObject *dumps = json == NULL ? NULL : PyObject_GetAttrString(json, "dumps");
    PyObject *args = dumps == NULL ? NULL : PyTuple_Pack(1, obj);
    PyObject *options = args == NULL ? NULL
                                     : Py_BuildValue("{s:O,s:O,s:(ss)}", "ensure_ascii", Py_False,
                                                     "allow_nan", Py_False, "separators", ",", ":");
    PyObject *text = options == NULL ? NULL : PyObject_Call(dumps, args, options);
    PyObject *bytes = text == NULL ? NULL : PyUnicode_AsUTF8String(text);
    int r = bytes == NULL ? FAILED
                          : put(out, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));

    Py_XDECREF(bytes);
    Py_XDECREF(text);
    Py_XDECREF(options);
    Py_XDECREF(args);
    Py_XDECREF(dumps);
    Py_XDECREF(json);
    return r;
}

int arn_py_json_encode(arn_buf *out, PyObject *obj) {
    size_t before = out->len;
    int r = put_object(out, obj, NULL);

    if (r == REFUSED) {
        out->len = before;
        r = ask_json(out, obj);
    }
    if (r != DONE)
        out->len = before;
    return r == DONE ? 0 : -1;
}
