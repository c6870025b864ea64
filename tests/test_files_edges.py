"""What must not be lost, or read from elsewhere, when something unusual happens to an open file."""

import asyncio
import ctypes
import errno
import gc
import mmap
import os
import pathlib
import stat
import sys
import threading
import time

import pytest
from filekit import path_with, script
from fileskit import leftovers, ordinary_user

from arshai_native import _core, aiofiles, files

pytest_plugins = ("filefixtures",)

BOTH = pytest.mark.parametrize("mode", ["r", "rb"])


# ---- reading ----


def test_what_is_read_into_keeps_its_size_meanwhile(on_loop, tmp_path):
    path = path_with(tmp_path, bytes(range(256)) * 16384)

    async def main():
        target = bytearray(4 << 20)
        async with aiofiles.open(path, "rb") as f:
            task = asyncio.create_task(f.readinto(target))
            await asyncio.sleep(0)
            assert not task.done()
            with pytest.raises(BufferError):
                del target[10:]
            assert await task == len(target)
            assert target == bytes(range(256)) * 16384
            del target[10:]
            task = asyncio.create_task(f.readinto(view := memoryview(bytearray(1000))))
            await asyncio.sleep(0)
            assert await task == 0
            view.release()

    on_loop(main())


def test_a_read_of_all_that_is_given_up_in_its_second_job(tmp_path):
    async def main():
        text = "x" + "\u20ac" * 100_000
        for turns in range(1, 60):
            path = path_with(tmp_path, text.encode())
            async with aiofiles.open(path) as f:
                await f.read(1)
                with open(path, "ab") as more:
                    more.write(b"y" * (1 << 20))
                task = asyncio.create_task(f.read())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                rest = await f.read(20_000)
                assert len(rest) <= 20_000 and set(rest) <= {"x", "\u20ac", "y"}

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="reads its own memory")
@pytest.mark.parametrize("how", ["read", "all", "lines"])
def test_an_error_behind_data_is_no_end(on_loop, tmp_path, how):
    """/proc/self/mem is a regular file with EIO where there is no memory, its first byte too, and
    where a file ends before its mapping does."""
    size = 4 << 20
    with open(tmp_path / "mapped", "w+b") as mapped:
        mapped.truncate(size)
        memory = mmap.mmap(mapped.fileno(), size)
        mapped.truncate(size // 2)
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def builtin():
        with open("/proc/self/mem", "rb") as f:
            f.seek(at)
            call = {"read": lambda: f.read(size), "all": f.read, "lines": f.readlines}
            call[how]()

    async def main():
        async with aiofiles.open("/proc/self/mem", "rb") as f:
            await f.seek(at)
            assert await f.read(4) == b"\0\0\0\0"
            call = {"read": lambda: f.read(size), "all": f.read, "lines": f.readlines}
            with pytest.raises(OSError) as info:
                await call[how]()
            assert info.value.errno == errno.EIO

    with pytest.raises(OSError) as info:
        builtin()
    assert info.value.errno == errno.EIO
    on_loop(main())


@BOTH
@pytest.mark.parametrize("how", ["read", "lines", "iterate", "some"])
def test_what_was_read_to_the_end_is_read_anew(on_loop, tmp_path, mode, how):
    """As those do who look at a file of /proc or /sys again and again."""
    path = tmp_path / "f"
    first, second = b"first\nno end", b"other\nno END"

    async def all_of(f):
        if how == "read":
            return await f.read()
        if how == "lines":
            return (await f.read(0)).join(await f.readlines())
        if how == "some":
            return await f.read(7) + await f.read(100)
        lines = [line async for line in f]
        return lines[0][:0].join(lines)

    async def main():
        path.write_bytes(first)
        async with aiofiles.open(path, mode) as f:
            for content in (first, second, first):
                with open(path, "r+b") as other:
                    other.write(content)
                assert await all_of(f) == (content if mode == "rb" else content.decode())
                assert await f.seek(0) == 0

    on_loop(main())


@BOTH
def test_much_at_once_is_not_read_on_the_loops_thread(on_loop, tmp_path, mode):
    path = path_with(tmp_path, b"x" * (8 << 20))

    async def main():
        for call in ("read", "readline") if mode == "rb" else ("read",):
            async with aiofiles.open(path, mode) as f:
                task = asyncio.create_task(getattr(f, call)(7 << 20))
                await asyncio.sleep(0)
                assert not task.done()
                assert len(await task) == 7 << 20

    on_loop(main())


def test_text_that_the_io_object_cannot_decode_any_more(tmp_path):
    path = path_with(tmp_path, b"a" * 100)

    async def main():
        f = await aiofiles.open(path)
        assert await f.read(50) == "a" * 50
        pathlib.Path(path).write_bytes(b"\xff" * 100)
        descriptor = f.fileno()
        with pytest.raises(UnicodeDecodeError):
            f.buffer  # noqa: B018
        other = os.open(path_with(tmp_path, b"other", "g"), os.O_RDONLY)
        try:
            assert other == descriptor
            assert f.closed
            with pytest.raises(ValueError, match="closed"):
                await f.read()
            await f.close()
            del f
            gc.collect()
            assert os.read(other, 10) == b"other"
        finally:
            os.close(other)

    asyncio.run(main())


# ---- writing ----


def test_an_io_object_that_takes_over_writes_nothing_yet(on_loop, tmp_path):
    """What waits in the buffer is not written on the loop's thread, where it might fail, too."""
    path = tmp_path / "f"

    async def main():
        for mode in ("wb", "w"):
            f = await aiofiles.open(path, mode)
            await f.write(b"x" * 50_000 if mode == "wb" else "x" * 50_000)
            assert f._file.name == str(path)
            assert path.stat().st_size == 0
            await f.write(b"y" if mode == "wb" else "y")
            await f.close()
            assert path.read_bytes() == b"x" * 50_000 + b"y"

    on_loop(main())


def test_truncated_where_all_is_written_that_was_appended(on_loop, tmp_path):
    path = tmp_path / "f"

    async def main():
        for mode in ("ab", "a"):
            path.write_bytes(b"")
            f = await aiofiles.open(path, mode)
            with open(path, "ab") as other:
                other.write(b"others' " * 20)
            await f.write(b"mine" if mode == "ab" else "mine")
            assert await f.truncate() == 164
            assert path.read_bytes() == b"others' " * 20 + b"mine"
            await f.close()

    on_loop(main())


@pytest.mark.parametrize("call", ["flush", "write", "close"])
def test_what_cannot_be_sent_loses_nothing(tmp_path, call):
    path = tmp_path / "f"
    f = asyncio.run(opened(path))
    asyncio.run(written(f, b"abc"))
    method = getattr(f, call)
    with pytest.raises(RuntimeError, match="no running event loop"):
        (method(b"x" * 100_000) if call == "write" else method()).send(None)
    asyncio.run(closed(f))
    assert path.read_bytes() == b"abc"


async def opened(path):
    return await aiofiles.open(path, "wb")


async def written(f, data):
    await f.write(data)


async def closed(f):
    await f.close()


@pytest.mark.parametrize("call", ["flush", "close"])
@pytest.mark.parametrize("has_ended", [False, True])
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_loop_that_goes_takes_nothing_with_it(tmp_path, call, has_ended):
    """A flush() or close() that no thread has taken up when its loop and its file go."""
    path = tmp_path / "f"
    release = threading.Event()
    reached = []

    def hold():
        reached.append(1)
        release.wait(30)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)

    async def main():
        f = await aiofiles.open(path, "wb")
        await f.write(b"not lost")
        held = [asyncio.ensure_future(_core.run_blocking(hold)) for _ in range(40)]
        while len(reached) < min(32, len(os.sched_getaffinity(0)) + 4):
            await asyncio.sleep(0.01)
        task = asyncio.ensure_future(getattr(f, call)())
        await asyncio.sleep(0)
        return f, [*held, task]

    try:
        f, tasks = loop.run_until_complete(main())
        loop.close()
        if has_ended:
            release.set()
            until = time.monotonic() + 30
            while len(reached) < 7 and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(0.2)
        del loop, tasks, main
        gc.collect()
        del f
        gc.collect()
        assert path.read_bytes() == b"not lost"
    finally:
        release.set()


def test_what_waits_for_a_thread_at_the_end_is_written(tmp_path):
    """Nobody has given it up: a loop that is not asyncio.run()'s has just stopped."""
    code = """
        import asyncio, sys, time
        from arshai_native import _core, aiofiles
        async def main():
            global f, tasks
            f = await aiofiles.open(sys.argv[1], "wb")
            await f.write(b"not lost")
            calls = [_core.run_blocking(time.sleep, 0.3) for _ in range(40)]
            tasks = [asyncio.ensure_future(call) for call in [*calls, f.close()]]
            await asyncio.sleep(0)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        sys.kept = loop, tasks
    """
    done = script(code, str(tmp_path / "f"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f").read_bytes() == b"not lost"


def test_what_a_dropped_file_cannot_write_is_told(tmp_path):
    code = """
        import asyncio, gc, resource, signal, sys
        from arshai_native import aiofiles
        async def main():
            f = await aiofiles.open(sys.argv[1], "wb")
            await f.write(b"lost")
        told = []
        sys.unraisablehook = lambda info: told.append(info.exc_value)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        asyncio.run(main())
        gc.collect()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert [type(error) for error in told] == [OSError], told
    """
    done = script(code, str(tmp_path / "f"))
    assert done.returncode == 0, done.stderr


def test_closed_twice_with_no_descriptor_left(tmp_path):
    code = """
        import asyncio, os, resource, sys
        from arshai_native import aiofiles
        async def main():
            f = await aiofiles.open(sys.argv[1])
            await f.read()
            await f.close()
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
            await f.close()
        asyncio.run(main())
    """
    done = script(code, path_with(tmp_path, b"x"))
    assert done.returncode == 0, done.stderr


# ---- beside, then in place ----


def test_the_new_file_is_never_open_to_more_than_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o600)
    seen = []
    fchmod = os.fchmod

    def look(descriptor, mode):
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fchmod(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", look)
    before = os.umask(0o022)
    try:
        asyncio.run(files.write_bytes(path, b"new", atomic=True))
    finally:
        os.umask(before)
    assert seen == [0o600] and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_group_that_cannot_stay_gets_no_more_than_others(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    os.chown(path, os.geteuid(), 54321)
    path.chmod(0o2664)
    code = """
        import asyncio, os, sys
        from arshai_native import files
        asyncio.run(files.write_bytes(sys.argv[1], b"new", atomic=True))
        info = os.stat(sys.argv[1])
        print(oct(info.st_mode & 0o7777), info.st_gid == 54321)
    """
    assert ordinary_user(code, str(path)).split() == ["0o644", "False"]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["x" * 255, "\u20ac" * 85])
def test_names_as_long_as_they_can_be(tmp_path, name):
    asyncio.run(files.write_bytes(tmp_path / name, b"1", atomic=True))
    assert (tmp_path / name).read_bytes() == b"1" and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("call", ["close", "fsync"])
def test_what_fails_at_the_end_leaves_nothing_behind(tmp_path, monkeypatch, call):
    """As a disk in the network that is full, which says so when the file is closed."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    real = getattr(os, call)

    def fails(descriptor):
        size = os.fstat(descriptor).st_size
        real(descriptor)
        if size == 3_000:
            raise OSError(errno.EDQUOT, "no room")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="no room"):
        asyncio.run(files.write_bytes(path, b"n" * 3_000, atomic=True, fsync=True))
    assert path.read_bytes() == b"old" and leftovers(tmp_path) == []
