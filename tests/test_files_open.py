"""arshai_native.aiofiles: the surface of aiofiles 25.1.0, and what files answer."""

import asyncio
import contextlib
import inspect
import io
import os
import pathlib
import warnings
from concurrent.futures import ThreadPoolExecutor

import aiofiles as peer
import aiofiles.base as peer_base
import aiofiles.threadpool.binary as peer_binary
import aiofiles.threadpool.text as peer_text
import pytest
from filekit import path_with

from arshai_native import _core, aiofiles
from arshai_native.aiofiles import base, threadpool
from arshai_native.aiofiles.threadpool import binary, text

MODES = ["r", "w", "a", "x", "r+", "w+", "a+", "x+"]

pytest_plugins = ("filefixtures",)


# ---- the surface ----


@pytest.mark.parametrize("theirs,ours", [(peer_binary, binary), (peer_text, text)])
def test_classes(theirs, ours):
    for name, cls in vars(theirs).items():
        if not inspect.isclass(cls) or cls.__module__ != theirs.__name__:
            continue
        own = getattr(ours, name)
        bases = [b.__name__ for b in cls.__mro__ if b.__module__.startswith("aiofiles")]
        assert [b for b in bases if b in [c.__name__ for c in own.__mro__]] == bases
        public = {n for n in dir(cls) if not n.startswith("_")}
        assert {n for n in dir(own) if not n.startswith("_")} == public


def test_signature_and_names():
    assert inspect.signature(aiofiles.open) == inspect.signature(peer.open)
    assert set(threadpool.__all__) == set(peer.threadpool.__all__)
    for name in ("AsyncBase", "AsyncIndirectBase", "AiofilesContextManager"):
        assert inspect.isclass(getattr(base, name)) and hasattr(peer_base, name)


@pytest.mark.parametrize("binary_mode", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_kinds_of_files(on_loop, tmp_path, mode, binary_mode):
    async def main():
        path = str(tmp_path / "f")
        if mode[0] == "r":
            path_with(tmp_path, b"")
        full = mode + "b" * binary_mode
        theirs = await peer.open(path, full)
        kind, name, said = type(theirs).__name__, theirs.name, theirs.mode
        await theirs.close()
        if mode[0] == "x":
            os.remove(path)
        opening = aiofiles.open(path, full)
        assert isinstance(opening, base.AiofilesContextManager)
        async with opening as ours:
            assert type(ours).__name__ == kind and isinstance(ours, base.AsyncBase)
            assert (ours.name, ours.mode, ours.closed) == (name, said, False)
            assert await ours.isatty() is False and await ours.seekable() is True
            assert await ours.writable() is ("+" in mode or mode[0] != "r")
            assert ours.readable() is ("+" in mode or mode[0] == "r")
            assert os.fstat(ours.fileno()).st_ino == os.stat(path).st_ino
            assert path in repr(ours) and "wrapping <_io." in repr(ours)
            if binary_mode:
                assert isinstance(ours.raw, io.FileIO)
            else:
                assert ours.encoding.lower() == "utf-8" and ours.errors == "strict"
                assert ours.line_buffering is False and ours.newlines is None
                assert isinstance(ours.buffer, io.BufferedIOBase)
            assert type(ours._file).__name__ in repr(ours)
        assert ours.closed

    on_loop(main())


def test_unbuffered(on_loop, tmp_path):
    async def main():
        path = path_with(tmp_path, b"abc")
        async with aiofiles.open(path, "rb", buffering=0) as f:
            assert type(f) is binary.AsyncFileIO and await f.readall() == b"abc"

    on_loop(main())


def test_awaited_and_entered(on_loop, tmp_path):
    async def main():
        path = path_with(tmp_path, b"one\ntwo\n")
        opening = aiofiles.open(path)
        f = await opening
        assert await opening is f
        assert [line async for line in f] == ["one\n", "two\n"]
        await f.close()
        async with aiofiles.open(pathlib.Path(path), "rb") as f:
            assert await anext(f) == b"one\n"
        async with contextlib.AsyncExitStack() as stack:
            f = await stack.enter_async_context(aiofiles.open(path))
            assert await f.read() == "one\ntwo\n"
        assert f.closed
        task = asyncio.create_task(aiofiles.open(path).__aenter__())
        async with contextlib.aclosing(_Closing(await task)) as closing:
            assert await closing.file.readlines() == ["one\n", "two\n"]

    on_loop(main())


class _Closing:
    def __init__(self, file):
        self.file = file

    async def aclose(self):
        await self.file.close()


def test_nothing_happens_before_the_await(tmp_path):
    path = str(tmp_path / "new")
    opening = aiofiles.open(path, "w")
    del opening
    assert not os.path.exists(path)

    async def main():
        f = await aiofiles.open(path_with(tmp_path, b"0123456789"), "rb")
        later = f.read(4)
        assert await f.read(2) == b"01"
        assert await later == b"2345"
        never = f.read(1)
        with pytest.warns(RuntimeWarning, match="File.read.* was never awaited"):
            del never
        await f.close()

    asyncio.run(main())


def test_loop_and_executor_are_accepted(on_loop, tmp_path):
    async def main():
        path = path_with(tmp_path, b"a\nb\n")
        loop = asyncio.get_running_loop()
        async with aiofiles.open(path, loop=loop) as f:
            assert await f.read() == "a\nb\n"
        with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
            async with aiofiles.open(path, executor=executor) as f:
                assert [line async for line in f] == ["a\n", "b\n"]
                await f.seek(0)
                assert await f.read(1) == "a" and f._executor is executor
            assert len(executor._threads) == 1
        # An opener, a descriptor, other encodings: io objects.
        used = []

        def opener(name, flags):
            used.append(name)
            return os.open(name, flags)

        async with aiofiles.open(path, opener=opener) as f:
            assert await f.read() == "a\nb\n" and used == [path]
        fd = os.open(path, os.O_RDONLY)
        async with aiofiles.open(fd, "rb", closefd=False) as f:
            assert await f.read() == b"a\nb\n" and f.name == fd
        os.close(fd)
        async with aiofiles.open(path, "w", encoding="utf-16") as f:
            await f.write("é")
        assert pathlib.Path(path).read_text("utf-16") == "é"

    on_loop(main())


def test_a_patched_open_is_called(tmp_path, monkeypatch):
    opened = []

    def patched(*args, **kwargs):
        opened.append(args[0])
        return open(*args, **kwargs)

    monkeypatch.setattr(threadpool, "sync_open", patched)

    async def main():
        async with aiofiles.open(path_with(tmp_path, b"x")) as f:
            assert await f.read() == "x"

    asyncio.run(main())
    assert opened == [str(tmp_path / "f")]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"mode": "rw"},
        {"mode": "q"},
        {"mode": ""},
        {"mode": "rbt"},
        {"mode": "rr"},
        {"mode": 7},
        {"mode": "rb", "encoding": "utf-8"},
        {"mode": "rb", "errors": "strict"},
        {"mode": "rb", "newline": ""},
        {"newline": "x"},
        {"newline": 1},
        {"encoding": "no such"},
        {"encoding": "hex"},
        {"encoding": 1},
        {"errors": 1},
        {"buffering": "x"},
        {"buffering": 0},
        {"closefd": False},
        {"file": "a\0b"},
        {"file": 3.5},
        {"file": None},
        {"file": b"\xff\0"},
        {"file": 987654},
    ],
)
def test_wrong_arguments(tmp_path, kwargs):
    kwargs = {"file": path_with(tmp_path, b"x"), **kwargs}

    async def main():
        opening = aiofiles.open(**kwargs)
        with pytest.raises(Exception) as ours:
            await opening
        return ours.value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as builtin:
            open(**kwargs)  # noqa: SIM115
        ours = asyncio.run(main())
    assert (type(ours), str(ours)) == (type(builtin.value), str(builtin.value))


def test_detach_and_inner_objects(on_loop, tmp_path):
    async def main():
        path = path_with(tmp_path, b"one\ntwo\nthree\n")
        f = await aiofiles.open(path)
        assert await f.readline() == "one\n"
        buffer = f.detach()
        assert isinstance(buffer, io.BufferedReader)
        buffer.close()
        f = await aiofiles.open(path, "rb")
        assert await f.read(4) == b"one\n"
        raw = f.raw
        assert raw.fileno() == f.fileno() and await f.readline() == b"two\n"
        await f.close()
        assert raw.closed
        f = await aiofiles.open(path, "w")
        await f.write("x" * 100)
        assert f.buffer.tell() in (0, 100)  # what was gathered is there
        await f.close()
        assert os.path.getsize(path) == 100

    on_loop(main())


def test_the_descriptor_moves_as_with_io(on_loop, tmp_path):
    """What else uses the descriptor finds it where the file is, as far as buffers allow."""

    async def main():
        path = path_with(tmp_path, b"x" * 1000)
        async with aiofiles.open(path, "rb") as f:
            await f.read()
            assert os.lseek(f.fileno(), 0, os.SEEK_CUR) == 1000
        async with aiofiles.open(path, "wb") as f:
            await f.write(b"y" * 10)
            await f.flush()
            assert os.lseek(f.fileno(), 0, os.SEEK_CUR) == 10
            assert os.get_inheritable(f.fileno()) is False

    on_loop(main())


def test_audit_event(tmp_path):
    path = path_with(tmp_path, b"")
    code = (
        "import asyncio, sys\nfrom arshai_native import aiofiles\nseen = []\n"
        "sys.addaudithook(lambda e, a: seen.append(a[:2]) if e == 'open' else None)\n"
        "async def main():\n    (await aiofiles.open(sys.argv[1], 'rb')).fileno()\n"
        "asyncio.run(main())\nassert (sys.argv[1], 'rb') in seen, seen\n"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-W", "ignore", "-c", code, path], check=True, cwd="/")


def test_unclosed_files_warn_and_are_written(tmp_path):
    async def main():
        f = await aiofiles.open(str(tmp_path / "w"), "w")
        await f.write("kept")
        with pytest.warns(ResourceWarning, match="unclosed file"):
            del f
        f = await aiofiles.open(str(tmp_path / "w"))
        fd = f.fileno()
        with pytest.warns(ResourceWarning, match="unclosed file"):
            del f
        with pytest.raises(OSError):
            os.fstat(fd)

    asyncio.run(main())
    assert (tmp_path / "w").read_text() == "kept"


def test_run_blocking(on_loop):
    import contextvars
    import threading

    variable = contextvars.ContextVar("variable", default=0)

    async def main():
        variable.set(5)
        got = await _core.run_blocking(lambda *a, **k: (a, k, variable.get()), 1, x=2)
        assert got == ((1,), {"x": 2}, 5)
        assert await _core.run_blocking(threading.get_ident) != threading.get_ident()
        await _core.run_blocking(variable.set, 9)
        assert variable.get() == 5
        with pytest.raises(KeyError, match="k"):
            await _core.run_blocking({}.__getitem__, "k")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await _core.run_blocking(next, iter(()))
        with pytest.raises(TypeError):
            _core.run_blocking()
        with pytest.raises(TypeError):
            _core.run_blocking(7)
        made, go = [], threading.Event()
        waiting = [asyncio.ensure_future(_core.run_blocking(go.wait)) for _ in range(40)]
        late = asyncio.ensure_future(_core.run_blocking(made.append, 1))
        await asyncio.sleep(0.05)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        go.set()
        assert await asyncio.gather(*waiting) == [True] * 40
        await _core.run_blocking(int)
        assert made == []

    on_loop(main())
