"""arn_json_parse() beside CPython's json.loads(), bit by bit.

python tests/fuzz/diff_json.py [--seed N] [--documents N] [--doubles N]

Compiles the reader as a shared library of its own (CC, default cc) and walks its trees with ctypes.
"""

import argparse
import ctypes
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ["json.c", "json_number.c", "arena.c", "alloc.c"]
NIL, BOOL, INT, BIGINT, DOUBLE, _, TEXT, ARRAY, MAP = range(9)
FLOAT64_ARRAY = 13
DEPTH_MAX = 1000


class Value(ctypes.Structure):
    pass


class Payload(ctypes.Union):
    _fields_ = [
        ("integer", ctypes.c_int64),
        ("number", ctypes.c_double),
        ("address", ctypes.c_void_p),
        ("items", ctypes.POINTER(Value)),
    ]


Value._fields_ = [("kind", ctypes.c_int), ("len", ctypes.c_size_t), ("u", Payload)]


class Arena(ctypes.Structure):
    _fields_ = [("pos", ctypes.c_void_p), ("end", ctypes.c_void_p), ("blocks", ctypes.c_void_p)]


class Error(ctypes.Structure):
    _fields_ = [("what", ctypes.c_char_p), ("offset", ctypes.c_size_t)]


class Refused(Exception):
    pass


class Pairs(list):
    """A map, with its order and its repeated keys."""


def load():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "json.so")
        command = [os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-shared", "-fPIC"]
        command += [f"-I{ROOT}/include", f"-I{ROOT}/src", "-o", path]
        subprocess.run(command + [f"{ROOT}/src/base/{name}" for name in SOURCES], check=True)
        library = ctypes.CDLL(path)
    library.arn_json_number.restype = ctypes.c_double
    library.arn_json_number.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.arn_json_parse.argtypes = [
        ctypes.POINTER(Arena),
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.POINTER(Value),
        ctypes.POINTER(Error),
    ]
    return library


def tree(v):
    """What json.loads() makes of it, but for maps."""
    if v.kind == NIL:
        return None
    if v.kind == BOOL:
        return bool(v.u.integer)
    if v.kind == INT:
        return v.u.integer
    if v.kind == DOUBLE:
        return v.u.number
    if v.kind in (BIGINT, TEXT):
        raw = ctypes.string_at(v.u.address, v.len + 1)
        assert raw[-1] == 0
        return int(raw[:-1]) if v.kind == BIGINT else raw[:-1].decode("utf-8", "surrogatepass")
    if v.kind == ARRAY:
        return [tree(v.u.items[i]) for i in range(v.len)]
    if v.kind == MAP:
        items = v.u.items
        return Pairs((tree(items[2 * i]), tree(items[2 * i + 1])) for i in range(v.len))
    assert v.kind == FLOAT64_ARRAY and v.len > 0
    return list(struct.unpack(f"{v.len}d", ctypes.string_at(v.u.address, 8 * v.len)))


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def ours(library, text):
    arena, value, error = Arena(), Value(), Error()
    status = library.arn_json_parse(arena, text, len(text), value, error)
    try:
        if status != 0:
            assert error.what and error.offset <= len(text), (status, text)
            raise Refused(f"{error.what.decode()} at {error.offset}")
        return tree(value)
    finally:
        library.arn_arena_free(ctypes.byref(arena))


def theirs(text):
    try:
        return json.loads(text.decode("utf-8", "surrogatepass"), object_pairs_hook=Pairs)
    except (ValueError, RecursionError) as e:
        raise Refused(e) from None


def compare(library, text):
    """Whether it was a document."""
    results = []
    for parse in (lambda: ours(library, text), lambda: theirs(text)):
        try:
            results.append((parse(),))
        except Refused as e:
            results.append(e)
    a, b = results
    if isinstance(a, Refused) and isinstance(b, Refused):
        return False
    if isinstance(a, Refused) or isinstance(b, Refused) or not same(a, b):
        sys.exit(f"different: {text!r}\n  ours:   {a!r}\n  theirs: {b!r}")
    return True


CHARACTERS = ["a", "bcdefghijkl", " ", "/", '"', "\\", "\n", "\x7f", "é", "ش", "€", "\ud800"]
CHARACTERS += ["\udfff", "\U0001f600", "\U0010ffff", "\0", "\x1f", "x" * 40, "\ud83d\\ude00"]
PIECES = ["\\ud83d", "\\ude00", "\\u", "\\uD8", "\\", '"', "-", "0", "1", ".", "e", "E", "+", ","]
PIECES += [":", "[", "]", "{", "}", "null", "true", "false", "NaN", "Infinity", " ", "\t", "\x0b"]
PIECES += ["1.5", ",1e5", ",1", "\ufeff", "\x00", "\x1f", "-0", "00", "1e400", "9" * 19, "[1.5,"]
BYTES = [b"\x80", b"\xc0\x80", b"\xc3", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]
BYTES += [b"\xff", b"\xf0\x8f\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf0\x9f\x98"]


def random_number(r):
    kind = r.randrange(8)
    if kind < 2:
        return str(r.randint(-1000, 1000))
    if kind == 2:
        return str(r.choice((1, -1)) * (2**63 + r.randint(-3, 3)))
    if kind == 3:
        return str(r.randint(-(10**40), 10**40))
    return random_double(r)


def random_double(r):
    kind = r.randrange(6)
    if kind == 0:
        x = struct.unpack("d", struct.pack("Q", r.getrandbits(64)))[0]
        if not math.isfinite(x):
            x = 0.1
    elif kind == 1:
        x = struct.unpack("f", struct.pack("f", r.gauss(0, 0.05)))[0]
    else:
        x = r.gauss(0, 1) * 10.0 ** r.randint(-30, 30)
    kind = r.randrange(12)
    if kind == 0:  # half way between two doubles, in full or nearly
        x = struct.unpack("d", struct.pack("Q", r.getrandbits(63) % 0x7FE0000000000000))[0]
        digits = half_way(x)
        return digits + r.choice(("", ".0", ".1", "." + "0" * 800 + "1")) + "e" + str(HALF_EXPONENT)
    if kind == 1:
        return f"{r.randint(0, 10 ** r.randint(1, 25))}e{r.randint(-350, 330)}"
    if kind == 2:
        return (
            f"{r.choice(('', '-'))}{r.randint(0, 99)}.{'0' * r.randint(0, 30)}{r.getrandbits(90)}"
        )
    if kind == 3:
        return f"{2**53 + r.randint(0, 2**11)}{'0' * r.randint(0, 3)}{r.choice(('.0', 'E0'))}"
    text = (repr(x), f"{x:.17g}", f"{x:.9g}", f"{x:.16e}", f"{x:.19g}", f"{x:.25f}")[kind % 6]
    return text if set(".eE") & set(text) else text + ".0"


HALF_EXPONENT = -1075


def half_way(x):
    """Digits that with HALF_EXPONENT stand for the point between x and the next double."""
    n, d = x.as_integer_ratio()
    n2, d2 = math.nextafter(x, math.inf).as_integer_ratio()
    return f"{(n * d2 + n2 * d) * 10**1075 // (2 * d * d2)}"


def random_text(r):
    s = "".join(r.choice(CHARACTERS) for _ in range(r.randrange(8)))
    return json.dumps(s, ensure_ascii=r.random() < 0.5)


def random_value(r, depth):
    kind = r.randrange(11 if depth < 5 else 7)
    if kind < 3:
        return random_text(r)
    if kind < 6:
        return random_number(r)
    if kind == 6:
        return r.choice(("null", "true", "false", "NaN", "Infinity", "-Infinity"))
    space = [r.choice(("", "", " ", "\n\t \r")) for _ in range(4)]
    separator = space[0] + "," + space[1]
    if kind == 7:
        elements = [random_double(r) for _ in range(r.randrange(1, 30))]
        if r.random() < 0.3:
            elements.insert(r.randrange(len(elements) + 1), random_value(r, depth + 1))
        return "[" + space[2] + separator.join(elements) + space[3] + "]"
    n = r.randrange(6)
    if kind == 8:
        elements = [random_value(r, depth + 1) for _ in range(n)]
        return "[" + space[2] + separator.join(elements) + space[3] + "]"
    elements = [random_text(r) + space[2] + ":" + random_value(r, depth + 1) for _ in range(n)]
    return "{" + space[2] + separator.join(elements) + space[3] + "}"


def mutated(r, text):
    data = bytearray(text)
    for _ in range(r.randrange(1, 4)):
        at = r.randrange(len(data) + 1)
        what = r.randrange(5)
        if what == 0:
            data[at:at] = r.choice(PIECES).encode("utf-8", "surrogatepass")
        elif what == 1:
            data[at:at] = r.choice(BYTES)
        elif what == 2:
            del data[at : at + r.randrange(1, 4)]
        elif what == 3 and at < len(data):
            data[at] = r.randrange(256)
        else:
            data = data[:at] if r.random() < 0.5 else data[at:]
    return bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--doubles", type=int, default=1_000_000)
    args = parser.parse_args()
    print(f"seed {args.seed}")
    r = random.Random(args.seed)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(10 * DEPTH_MAX)
    library = load()

    good = 0
    for i in range(args.documents):
        text = random_value(r, 0 if i % 4 else 3).encode("utf-8", "surrogatepass")
        if i % 2:
            text = mutated(r, text)
        good += compare(library, text)
    print(f"{args.documents} documents, {good} of them valid: the same")

    for _ in range(0, args.doubles, 1000):
        texts = [random_double(r) for _ in range(1000)]
        assert compare(library, f"[{','.join(texts)}]".encode())
        for text in texts[:100]:
            x = library.arn_json_number(text.encode(), len(text))
            assert same(x, float(text)), text
    print(f"{args.doubles} doubles: the same")


if __name__ == "__main__":
    main()
