"""_core.json_encode() against json.dumps(), in bytes and in exceptions."""

import collections
import enum
import json
import math
import random
import sys

import pytest

from arshai_native._core import json_encode


def dumps(obj):
    return json.dumps(obj, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


class Text(str):
    pass


class Number(int):
    def __repr__(self):
        return "not a number"

    __str__ = __repr__


class Real(float):
    def __repr__(self):
        return "not real"


class Level(enum.IntEnum):
    LOW = 1


class Colour(enum.StrEnum):
    RED = 'r"ed'


class Pairs(dict):
    def items(self):
        return [("from", "items"), *super().items()]


TEXTS = ["", "a", "role", 'say "hi"', "back\\slash", "\n\r\t\b\f", "\0\x01\x1f\x7f\x80\xff", "é"]
TEXTS += ["\u07ff\u0800\ud7ff\ue000\uffff", "\U00010000\U0010ffff", "日本語", "\u2028", "x" * 4000]
TEXTS += [
    "12345678",
    '1234567"',
    '12345678"',
    "\n" * 3000,
    "é" * 3000,
    "€\n" * 2000,
    "a\U0001f600" * 900,
]
NUMBERS = [0, 1, -1, 9, 10, -10, 2**31, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**400]
NUMBERS += [0.0, -0.0, 1.0, 0.1, 1e16, 1e22, 1.5e-7, 5e-324, 1.7976931348623157e308, math.pi]
SUBCLASSES = [Text('a"é'), Number(7), Number(10**30), Real(1.5), Level.LOW, Colour.RED, True, False]
SUBCLASSES += [collections.OrderedDict(b=1, a=2), collections.defaultdict(list, k=[1]), Pairs(x=1)]
SUBCLASSES += [Pairs(), collections.Counter("aab"), collections.namedtuple("P", "x y")(1, "b")]
KEYS = ["k", 'q"', "é", "", 1, -1, 10**30, 1.5, -0.0, True, False, None, Level.LOW, Colour.RED]
KEYS += [Text("t"), Number(3), Real(2.5)]


@pytest.mark.parametrize("values", [TEXTS, NUMBERS, SUBCLASSES, [None, [], {}, (), [[]], [{}]]])
def test_values(values):
    for value in values:
        assert json_encode(value) == dumps(value)
    assert json_encode(values) == dumps(values)
    assert json_encode(tuple(values)) == dumps(values)


def test_keys():
    for key in KEYS:
        assert json_encode({key: key}) == dumps({key: key})
    together = {key: i for i, key in enumerate(KEYS)}
    assert json_encode(together) == dumps(together)


def test_every_character():
    for start in range(0, 0x110000, 0x1000):
        text = "".join(
            map(chr, (c for c in range(start, start + 0x1000) if not 0xD800 <= c < 0xE000))
        )
        assert json_encode(text) == dumps(text)
    for byte in range(128):  # at each place of a word
        for length in range(1, 18):
            text = "." * (length - 1) + chr(byte) + "." * (byte % 9)
            assert json_encode(text) == dumps(text)


def random_object(r, depth=0):
    kind = r.randrange(9 if depth < 4 else 5)
    if kind == 0:
        return r.choice(TEXTS[:-6])
    if kind == 1:
        return "".join(chr(r.choice((r.randrange(128), r.randrange(0xD800)))) for _ in range(9))
    if kind == 2:
        return r.choice((r.getrandbits(r.randrange(1, 90)) - 2**60, r.uniform(-9, 9), r.random()))
    if kind == 3:
        return r.choice(NUMBERS[:-1] + [True, False, None])
    if kind == 4:
        return r.choice(SUBCLASSES)
    size = r.randrange(5)
    if kind < 7:
        return [random_object(r, depth + 1) for _ in range(size)]
    return {r.choice(KEYS): random_object(r, depth + 1) for _ in range(size)}


@pytest.mark.parametrize("seed", range(5))
def test_random_objects(seed):
    r = random.Random(seed)
    for _ in range(400):
        obj = random_object(r)
        assert json_encode(obj) == dumps(obj)


# ---- what is refused ----


def circle():
    inner = {"a": [1]}
    inner["a"].append(("x", inner))
    return [inner]


def wide_circle():
    """Followed to the recursion limit it would fill the memory."""
    obj = {"text": "x" * 1_000_000}
    obj["self"] = obj
    return obj


class Broken(dict):
    def items(self):
        raise KeyError("own error")


class NoPairs(dict):
    def items(self):
        return [1]


BAD = {
    "nan": lambda: [math.nan],
    "inf": lambda: {"a": math.inf},
    "nan as a key": lambda: {math.nan: 1},
    "object": lambda: [1, object()],
    "bytes": lambda: b"x",
    "set": lambda: {"a": {1}},
    "exception": lambda: ValueError("x"),
    "key": lambda: {(1, 2): 1},
    "bytes as a key": lambda: {b"k": 1},
    "surrogate": lambda: ["ok", "x\ud800y"],
    "surrogate in a key": lambda: {"\udfff": 1},
    "surrogates that would be a pair": lambda: "\ud83d\ude00",
    "circle": circle,
    "wide circle": wide_circle,
    "too many digits": lambda: 10**5000,
    "items() raises": lambda: Broken(a=1),
    "items() without pairs": lambda: NoPairs(a=1),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_as_json_does(name):
    obj = BAD[name]()
    raised = []
    for encode in (dumps, json_encode):
        with pytest.raises(Exception) as info:
            encode(obj)
        raised.append((type(info.value), str(info.value)))
    assert raised[0] == raised[1]


def test_too_deep():
    obj = []
    for _ in range(100_000):
        obj = [obj]
    with pytest.raises(RecursionError):
        json_encode(obj)
    while obj:  # freed level by level
        obj = obj.pop()
    obj = {}
    for _ in range(sys.getrecursionlimit() // 3):
        obj = {"a": [obj]}
    assert json_encode([obj]) == dumps([obj])


def test_the_same_object_twice_is_no_circle():
    shared = {"a": []}
    obj = [shared, shared, (shared, [shared])]
    assert json_encode(obj) == dumps(obj)


class Shrinking(dict):
    """Changes what it lies in while that is written."""

    def items(self):
        self.outer.clear()
        return [("k", "v")]


@pytest.mark.parametrize("outer", [{"a": None, "b": 1, "c": 2}, [None, 1, 2]])
def test_containers_that_change_meanwhile(outer):
    """No crash; json.dumps() does as it likes, too."""
    inner = Shrinking(k="v")
    inner.outer = outer
    outer["a" if isinstance(outer, dict) else 0] = inner
    assert json_encode(outer)[:1] in (b"{", b"[")
