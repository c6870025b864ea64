"""Random operations on files: ours against the builtin file object, result by result and byte by
byte. ARN_FILES_SEED runs one seed, ARN_FILES_ROUNDS so many from it on."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from arshai_native import aiofiles

FIRST = int(os.environ.get("ARN_FILES_SEED", "0"))
ROUNDS = int(os.environ.get("ARN_FILES_ROUNDS", "1" if "ARN_FILES_SEED" in os.environ else "60"))

BINARY = ["rb", "wb", "ab", "xb", "r+b", "w+b", "a+b", "x+b"]
TEXT = ["r", "w", "a", "x", "r+", "w+", "a+", "x+", "rt"]
ENCODINGS = [None, "utf-8", "utf-8", "UTF8", "ascii", "latin-1", "utf-16", "cp1252", "utf-8-sig"]
ERRORS = [None, "strict", "replace", "ignore", "surrogateescape", "backslashreplace"]
NEWLINES = [None, None, "", "\n", "\r", "\r\n"]
SIZES = [0, 1, 5, 100, 4095, 4096, 4097, 8191, 8192, 8193, 20000, 70000, 300000]


def text(rng, size):
    pieces = ["a", "bc", "\n", "\r", "\r\n", "é", "日本", "😀", "word ", "x" * 50, "\n" * 3]
    if rng.random() < 0.5:  # what most files are
        pieces = ["some words ", "line\n", "\n", "x" * 80]
    out, length = [], 0
    while length < size:
        piece = rng.choice(pieces)
        out.append(piece)
        length += len(piece)
    return "".join(out)


def content(rng, encoding):
    size = rng.choice(SIZES)
    kind = rng.random()
    if kind < 0.15:
        return rng.randbytes(size)
    data = text(rng, size).encode(encoding or "utf-8", "ignore")
    if kind < 0.3 and data:  # nearly right
        data = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    # Something that is split by the edge of a chunk or a buffer.
    if kind > 0.8 and encoding in (None, "utf-8", "UTF8"):
        edge = rng.choice([4096, 8192, 16384, 65536, 262144]) - rng.randint(0, 4)
        filler = b"y" * 60 + b"\n"
        data = (filler * (edge // len(filler) + 1))[:edge]
        data += rng.choice([b"\r\n", "é".encode(), "😀".encode(), b"\r", b"\xff", b"\r\r\n"])
        data += filler * rng.randint(0, 300)
    return bytes(data)


def operation(rng, is_text, size):
    """(name, arguments)"""
    some = rng.choice([-1, None, 0, 1, 2, 10, 100, 4096, 8192, 9000, 70000, size])
    payload = text(rng, rng.choice([0, 1, 10, 100, 5000, 70000]))
    choices = [
        ("read", (some,)),
        ("read", (rng.randint(1, 300),)),
        ("read", (4096,)),
        ("readline", ()),
        ("readline", (rng.choice([-1, 0, 1, 5, 100, 10000]),)),
        ("readlines", (rng.choice([-1, 1, 100, 5000]),)),
        ("next", ()),
        ("next", ()),
        ("tell", ()),
        ("again", ()),
        ("seek", (0,)),
        ("seek", (0, 2)),
        ("flush", ()),
        ("write", (payload if is_text else payload.encode("utf-8", "replace"),)),
        ("write", (payload[:20] if is_text else payload[:20].encode("utf-8", "replace"),)),
        ("writelines", ([payload, "x\n"] if is_text else [payload.encode(), b"x\n"],)),
        ("truncate", (rng.choice([0, 10, 5000, size]),)),
        ("isatty", ()),
        ("seekable", ()),
        ("writable", ()),
        ("wrong", (rng.choice(["read", "write", "seek", "readline", "truncate"]),)),
        ("attributes", ()),
    ]
    if not is_text:
        choices += [
            ("seek", (rng.randint(0, size + 10),)),
            ("seek", (rng.randint(-size - 5, size + 5), 1)),
            ("seek", (-rng.randint(0, size + 5), 2)),
            ("readinto", (rng.choice([0, 1, 100, 5000, 200000]),)),
            ("read1", (rng.choice([0, 1, 100]),)),
            ("peek", ()),
            ("truncate", ()),
        ]
    return rng.choice(choices)


# io's tell() may make `newlines` forget what has been seen, so it is not compared after one.
ATTRIBUTES = ("closed", "name", "mode", "encoding", "errors", "line_buffering", "newlines")


class Sync:
    """The builtin's side, with the same calls."""

    def __init__(self, file):
        self.file = file

    async def call(self, name, *args):
        return getattr(self.file, name)(*args)


class Ours:
    def __init__(self, file):
        self.file = file

    async def call(self, name, *args):
        return await getattr(self.file, name)(*args)


async def outcome(side, name, args, cookies):
    """What a call results in, comparable."""
    try:
        if name == "next":
            return await side.call("readline") if isinstance(side, Sync) else await next_of(side)
        if name == "again":  # a place that tell() has named before
            return await side.call("seek", cookies[-1]) if cookies else None
        if name == "wrong":
            return await side.call(args[0], {"no": "argument"})
        if name == "attributes":
            names = ATTRIBUTES[:-1] if cookies else ATTRIBUTES
            return [getattr(side.file, a, "none") for a in names], side.file.readable()
        if name == "readinto":
            buffer = bytearray(args[0])
            n = await side.call("readinto", buffer)
            return n, bytes(buffer[:n])
        if name in ("peek", "read1"):
            data = await side.call(name, *args)
            place = await side.call("tell")
            if name == "read1":  # how much there is depends on the buffer
                await side.call("seek", place - len(data))
            return bool(data), data[:1], place - (len(data) if name == "read1" else 0)
        return await side.call(name, *args)
    except AttributeError:
        return AttributeError
    except Exception as error:
        return type(error), str(error), getattr(error, "filename", None)


async def next_of(side):
    try:
        return await side.file.__anext__()
    except StopAsyncIteration:
        return "" if hasattr(side.file, "encoding") else b""


def report(*what):
    return "\n".join(repr(w)[:2000] for w in what)


async def run(seed, folder):
    rng = random.Random(seed)
    is_text = rng.random() < 0.6
    mode = rng.choice(TEXT if is_text else BINARY)
    kwargs = {"buffering": rng.choice([-1, -1, -1, -1, 2, 512, 100000])}
    if not is_text and rng.random() < 0.15:
        kwargs["buffering"] = 0
    if is_text:
        kwargs["encoding"] = rng.choice(ENCODINGS)
        kwargs["errors"] = rng.choice(ERRORS)
        kwargs["newline"] = rng.choice(NEWLINES)
        if rng.random() < 0.05:
            kwargs["buffering"] = 1
    data = content(rng, kwargs.get("encoding"))
    paths = [os.path.join(folder, side, "f") for side in ("sync", "ours")]
    exists = mode[0] != "x" or rng.random() < 0.1
    for path in paths:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.exists(path):
            os.remove(path)
        if exists:
            with open(path, "wb") as f:
                f.write(data)
    log = [(mode, kwargs, len(data), os.path.exists(paths[0]))]

    def same(expected, got):
        if isinstance(got, int) and "disabled by next()" in str(expected):
            return True  # an io object has taken over, which has not been iterated

        def plain(value):
            return (
                eval(repr(value).replace(paths[1], paths[0]), {"__builtins__": {}})
                if (isinstance(value, str) and paths[1] in value)
                else value
            )

        if isinstance(got, tuple) and isinstance(expected, tuple):
            return len(got) == len(expected) and all(map(same, expected, got))
        if isinstance(got, list) and isinstance(expected, list):
            return len(got) == len(expected) and all(map(same, expected, got))
        return plain(got) == expected and type(plain(got)) is type(expected)

    errors = []
    for path, opener in zip(paths, ("sync", "ours"), strict=True):
        try:
            if opener == "sync":
                sync = Sync(open(path, mode, **kwargs))  # noqa: SIM115
            else:
                ours = Ours(await aiofiles.open(path, mode, **kwargs))
        except Exception as error:
            errors.append((type(error), str(error).replace(path, paths[0])))
    assert len(errors) in (0, 2) and len(set(errors)) <= 1, (seed, log, errors)
    if errors:
        return
    cookies = []
    failed = False
    for _ in range(rng.randint(1, 40)):
        name, args = operation(rng, is_text, len(data))
        if failed and name in ("tell", "again"):
            continue  # io's answer depends on what else has been called before
        if kwargs["buffering"] == 0 and name in ("read1", "peek"):
            continue
        log.append((name, *(a if not isinstance(a, str | bytes | list) else len(a) for a in args)))
        expected = await outcome(sync, name, args, cookies)
        got = await outcome(ours, name, args, cookies)
        assert same(expected, got), report(seed, log, expected, got)
        failed |= is_text and isinstance(expected, tuple) and isinstance(expected[0], type)
        if name == "tell" and isinstance(expected, int):
            cookies.append(expected)
        if name == "flush":
            assert Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes(), (seed, log)
    for _ in range(2):
        expected = await outcome(sync, "close", (), cookies)
        got = await outcome(ours, "close", (), cookies)
        assert same(expected, got), report(seed, log, expected, got)
    name, args = operation(rng, is_text, len(data))
    expected = await outcome(sync, name, args, cookies)
    got = await outcome(ours, name, args, cookies)
    assert same(expected, got), report(seed, log, "closed", name, expected, got)
    with open(paths[0], "rb") as a, open(paths[1], "rb") as b:
        assert a.read() == b.read(), (seed, log)


@pytest.mark.parametrize("part", range(10))
def test_random_operations(part, tmp_path):
    async def main():
        for seed in range(FIRST + part, FIRST + ROUNDS * 10, 10):
            await run(seed, str(tmp_path))

    asyncio.run(main())
