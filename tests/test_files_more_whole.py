"""Whole files by arshai_native.files, beside pathlib and json: faults, cancellation."""

import asyncio
import contextlib
import errno
import gc
import json
import os
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from faultkit import run, wait_until
from fileskit import (
    goes_on_until,
    leftovers,
    nothing_blocks_here,
    ordinary_user,
    outcome,
    outcome_of,
    turns,
)

from arshai_native import files
from arshai_native._core import run_blocking, write_file

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")

SIZES = [0, 1, 4096, 262_143, 262_144, 262_145, 3_000_000]
both = pytest.mark.parametrize("atomic", [False, True])


# ---- reading ----


@pytest.mark.parametrize("size", SIZES)
def test_read_bytes(size, tmp_path):
    path = tmp_path / "f"
    data = os.urandom(size)
    path.write_bytes(data)

    async def main():
        with nothing_blocks_here(announced=["open"]):
            for given in (path, str(path), os.fsencode(path)):
                assert await files.read_bytes(given) == data
        descriptor = os.open(path, os.O_RDONLY)
        assert await files.read_bytes(descriptor) == data
        with pytest.raises(OSError):
            os.fstat(descriptor)  # closed, as by open()

    run(main)


TEXTS = [
    b"",
    b"a\r\nb\rc\n",
    "h\u00e9 \U0001f600\n".encode() * 50_000,
    b"\xff\xfe",
    b"a\xffb\r",
    b"\xef\xbb\xbfx",
]
OPTIONS = [
    {},
    {"encoding": "utf-8", "newline": ""},
    {"encoding": "utf-8", "errors": "surrogateescape"},
    {"encoding": "latin-1", "newline": "\r"},
    {"encoding": "utf-16"},
    {"encoding": "utf-8-sig", "errors": "replace"},
    {"encoding": "no-such"},
    {"newline": "x"},
    {"errors": "no-such", "encoding": "ascii"},
]


def sync_read(path, **options):
    with open(path, **options) as file:
        return file.read()


def sync_write(path, text, **options):
    with open(path, "w", **options) as file:
        return file.write(text)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_text_beside_open(options, tmp_path):
    path, other = tmp_path / "f", tmp_path / "g"

    async def main():
        for data in TEXTS:
            path.write_bytes(data)
            got = await outcome_of(files.read_text(path, **options))
            assert got == outcome(lambda: sync_read(path, **options)), data[:20]
        for text in ("", "a\nb\r\nc\r", "h\u00e9\U0001f600\n" * 1000, "\udc80"):
            expected = outcome(lambda: sync_write(other, text, **options))  # noqa: B023
            for atomic in (False, True):
                path.write_bytes(b"before")
                with nothing_blocks_here(announced=["open"]):
                    got = await outcome_of(files.write_text(path, text, **options, atomic=atomic))
                assert got == expected, text[:20]
                if isinstance(expected, tuple):
                    assert path.read_bytes() == b"before"
                else:
                    assert path.read_bytes() == other.read_bytes()

    run(main)


def test_json(tmp_path):
    path = tmp_path / "f.json"
    values = [
        None,
        1.5,
        "h\u00e9\ud800",
        [1, {"a": [True, float("inf")]}],
        {"k" * 10: "v" * 300_000},
    ]
    options = [{}, {"indent": 2, "sort_keys": True}, {"separators": (",", ":")}]

    async def main():
        for value in values:
            for some in options:
                with nothing_blocks_here():
                    await files.write_json(path, value, **some)
                assert path.read_text() == json.dumps(value, **some)
                with nothing_blocks_here(announced=["open"]):
                    assert await files.read_json(path) == value
        await files.write_json(path, ["\u00e9"], ensure_ascii=False, atomic=True)
        assert path.read_bytes() == '["\u00e9"]'.encode()
        path.write_text('{"a": 1.50, "b": [NaN]}')
        where = []
        got = await files.read_json(
            path,
            parse_float=lambda text: where.append(threading.get_ident()) or text,
            parse_constant=lambda text: f"<{text}>",
        )
        assert got == {"a": "1.50", "b": ["<NaN>"]}
        assert where != [threading.get_ident()]
        path.write_text("{")
        with pytest.raises(json.JSONDecodeError):
            await files.read_json(path)
        # What is no JSON does not touch the file.
        for bad in ({1: {2}}, object()):
            with pytest.raises(TypeError):
                await files.write_json(path, bad)
        with pytest.raises(ValueError):
            await files.write_json(path, float("nan"), allow_nan=False)
        assert path.read_text() == "{"

    run(main)


# ---- writing ----


@both
@pytest.mark.parametrize("size", [0, 1, 100_000, 9_000_000])
def test_write_bytes(size, atomic, tmp_path):
    data = os.urandom(size)

    async def main():
        for number, kind in enumerate((bytes, bytearray, memoryview)):
            path = tmp_path / str(number)
            for fsync in (False, True):
                with nothing_blocks_here(announced=["open"]):
                    got = await files.write_bytes(path, kind(data), atomic=atomic, fsync=fsync)
                assert got == size
                assert path.read_bytes() == data
        wide = memoryview(data[: size // 8 * 8]).cast("Q")
        assert await files.write_bytes(os.fsencode(path), wide, atomic=atomic) == wide.nbytes
        assert path.read_bytes() == data[: size // 8 * 8]
        assert leftovers(tmp_path) == []

    run(main)


def test_the_mode_stays_and_is_the_process_for_new_files(tmp_path):
    old, new, link, second = (tmp_path / name for name in ("old", "new", "link", "second"))
    old.write_bytes(b"old")
    old.chmod(0o604)
    link.symlink_to("old")
    os.link(old, second)
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(old, 12345, 54321)
        old.chmod(0o604)
    umask = os.umask(0o026)

    async def main():
        await files.write_bytes(link, b"1", atomic=True, fsync=True)
        assert link.is_symlink() and old.read_bytes() == b"1"
        assert second.read_bytes() == b"old"
        info = old.stat()
        assert stat.S_IMODE(info.st_mode) == 0o604
        assert not is_root or (info.st_uid, info.st_gid) == (12345, 54321)
        for atomic in (True, False):
            await files.write_bytes(new, b"2", atomic=atomic)
            assert stat.S_IMODE(new.stat().st_mode) == 0o640
            new.unlink()
        link.unlink()
        link.symlink_to("dangling")
        await files.write_text(link, "3", atomic=True)
        assert (tmp_path / "dangling").read_text() == "3" and link.is_symlink()

    try:
        run(main)
    finally:
        os.umask(umask)


def test_what_is_no_regular_file_is_written_to_where_it_is(tmp_path):
    before = os.stat("/dev/null")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main():
        for fsync in (False, True):
            assert await files.write_bytes("/dev/null", b"x" * 10, atomic=True) == 10
            reading = asyncio.ensure_future(files.read_bytes(fifo))
            assert await files.write_text(fifo, "through", atomic=True, fsync=fsync) == 7
            assert await reading == b"through"
        assert stat.S_ISFIFO(fifo.stat().st_mode)

    run(main)
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    assert leftovers("/dev") == leftovers(tmp_path) == []


# ---- what goes wrong ----


@both
def test_bad_arguments(atomic, tmp_path):
    path = tmp_path / "f"
    path.write_text("before")

    async def main():
        for call, sync in (
            (files.write_bytes(path, "text", atomic=atomic), lambda: path.write_bytes("text")),
            (files.write_text(path, b"bytes", atomic=atomic), lambda: path.write_text(b"bytes")),
            (files.write_bytes(path, None, atomic=atomic), lambda: path.write_bytes(None)),
            (files.read_bytes("a\0b"), lambda: sync_read("a\0b", mode="rb")),
            (files.read_bytes(1.5), lambda: sync_read(1.5, mode="rb")),
            (files.read_bytes(-1), lambda: sync_read(-1, mode="rb")),
        ):
            got, expected = await outcome_of(call), outcome(sync)
            assert got[:2] == expected[:2]
        for bad in ("a\0b", 1.5):
            got = await outcome_of(files.write_bytes(bad, b"", atomic=atomic))
            assert got[0] is outcome(lambda: sync_write(bad, ""))[0]  # noqa: B023
        assert path.read_text() == "before"

    run(main)


@both
def test_places_that_cannot_be(atomic, tmp_path):
    """The errors of open(), with the name that was given, whatever is done beside it."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    names = ["missing", "missing/f", "folder", "file/f", "loop", "n" * 300, ""]

    async def main():
        for name in names:
            path = str(tmp_path / name) if name else ""
            with nothing_blocks_here(announced=["open"]):
                got = await outcome_of(files.read_bytes(path))
                read = await outcome_of(files.read_text(path))
                parsed = await outcome_of(files.read_json(path))
            assert got == read == parsed == outcome(lambda: sync_read(path)), name  # noqa: B023
            if name == "missing":
                continue
            got = await outcome_of(files.write_bytes(path, b"y", atomic=atomic))
            assert got == outcome(lambda: sync_write(path, "y")), name  # noqa: B023
        assert leftovers(tmp_path) == []

    run(main)


def test_an_ordinary_user_who_must_not(tmp_path):
    """A file that must not be written is not replaced either; a folder in which nothing must be
    made."""
    (tmp_path / "read-only").write_text("before")
    (tmp_path / "read-only").chmod(0o444)
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "f").write_text("before")
    (tmp_path / "folder").chmod(0o555)
    said = ordinary_user(
        """
        import asyncio, os, sys
        from arshai_native import files

        async def main():
            os.chdir(sys.argv[1])
            for call in (
                files.read_bytes("secret"),
                files.write_bytes("read-only", b"y"),
                files.write_bytes("read-only", b"y", atomic=True),
                files.write_bytes("folder/new", b"y", atomic=True),
                files.write_bytes("folder/f", b"y", atomic=True),
            ):
                try:
                    print(await call)
                except PermissionError as error:
                    print(error.errno, error.filename)
            print(await files.write_bytes("folder/f", b"in place"))

        asyncio.run(main())
        """,
        tmp_path,
    )
    (tmp_path / "folder").chmod(0o755)
    if said is None:
        pytest.skip("root, and no setpriv")
    expected = ["13 secret", "13 read-only", "13 read-only", "13 folder/new", "13 folder/f", "8"]
    assert said.splitlines() == expected
    assert (tmp_path / "read-only").read_text() == "before"
    assert (tmp_path / "folder" / "f").read_text() == "in place"


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full(small_disk):
    path = small_disk / "f"
    path.write_bytes(b"before")

    async def main():
        for fsync in (False, True):
            with pytest.raises(OSError) as caught:
                await files.write_bytes(path, b"x" * 500_000, atomic=True, fsync=fsync)
            assert caught.value.errno == errno.ENOSPC
            assert path.read_bytes() == b"before"
            assert os.listdir(small_disk) == ["f"]
        with pytest.raises(OSError) as caught:
            await files.write_bytes(path, b"x" * 500_000)
        assert caught.value.errno == errno.ENOSPC
        for atomic in (False, True):
            with pytest.raises(OSError) as caught:
                await files.write_text("/dev/full", "x", atomic=atomic)
            assert caught.value.errno == errno.ENOSPC
        path.unlink()
        assert await files.write_bytes(path, b"x" * 100_000, atomic=True) == 100_000

    run(main)


# ---- the loop goes on ----


def test_the_loop_turns_while_a_file_keeps_one_waiting(tmp_path):
    """A pipe's other end is not there yet: whoever opens it is held up."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def write():
        with open(fifo, "wb") as file:
            file.write(b'["\xc3\xa9"]')

    def read():
        got.append(fifo.read_bytes())

    async def main():
        for call, expected in (
            (files.read_bytes(fifo), b'["\xc3\xa9"]'),
            (files.read_text(fifo, "utf-8"), '["\u00e9"]'),
            (files.read_json(fifo), ["\u00e9"]),
        ):
            thread = threading.Thread(target=write)
            task = asyncio.ensure_future(call)
            assert await goes_on_until(task, thread.start) == expected
            thread.join()
        for atomic in (False, True):
            for call in (
                files.write_bytes(fifo, b"[1]", atomic=atomic),
                files.write_text(fifo, "[1]", atomic=atomic),
                files.write_json(fifo, [1], atomic=atomic),
            ):
                thread = threading.Thread(target=read)
                await goes_on_until(asyncio.ensure_future(call), thread.start)
                thread.join()
                assert got.pop() == b"[1]"

    got = []
    run(main)


@both
def test_a_thousand_at_once(atomic, tmp_path):
    async def main():
        names = [tmp_path / str(n) for n in range(1000)]
        writes = [files.write_json(name, [n] * 20, atomic=atomic) for n, name in enumerate(names)]
        await asyncio.gather(*writes)
        assert await asyncio.gather(*map(files.read_json, names)) == [[n] * 20 for n in range(1000)]
        got = await asyncio.gather(*map(files.read_text, names))
        assert got == [json.dumps([n] * 20) for n in range(1000)]
        calls = [files.write_bytes(name, b"%d" % n, atomic=atomic) for n, name in enumerate(names)]
        assert await asyncio.gather(*calls) == [len(str(n)) for n in range(1000)]
        got = await asyncio.gather(*map(files.read_bytes, names))
        assert got == [b"%d" % n for n in range(1000)]
        # All of them one file: it is always a whole one.
        one = tmp_path / "one"
        await files.write_bytes(one, b"%4d" % 0 * 5000, atomic=True)
        calls = [files.write_bytes(one, b"%4d" % n * 5000, atomic=True) for n in range(200)]
        calls += [files.read_bytes(one) for _ in range(200)]
        results = await asyncio.gather(*calls)
        assert {len(set(map(bytes, zip(*[iter(r)] * 4)))) for r in results[200:]} == {1}  # noqa: B905
        assert leftovers(tmp_path) == []

    run(main)


# ---- cancellation ----


class Waits:
    """Is asked for its JSON on the worker, and answers when it is told."""

    def __init__(self):
        self.asked = threading.Event()
        self.answer = threading.Event()
        self.options = {"default": self._default}

    def _default(self, obj):
        self.asked.set()
        assert self.answer.wait(60)
        return "late"


async def begun(path, waits, **how):
    task = asyncio.ensure_future(files.write_json(path, waits, **waits.options, **how))
    while not waits.asked.is_set():
        await asyncio.sleep(0)
    return task


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_cancelled_write_beside_puts_nothing_in_place(tmp_path):
    path = tmp_path / "f"
    path.write_text("before")

    async def main():
        waits = Waits()
        task = await begun(path, waits, atomic=True)
        await cancelled(task)  # at once
        await files.write_text(path, "newer", atomic=True)
        waits.answer.set()
        # Behind it on every thread there may be.
        await asyncio.gather(*(run_blocking(os.listdir, tmp_path) for _ in range(100)))
        await asyncio.sleep(0.05)
        assert path.read_text() == "newer"
        assert leftovers(tmp_path) == []

    run(main)


def test_cancelled_when_all_is_written_but_not_in_place(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text("before")
    asked, release, sync = threading.Event(), threading.Event(), os.fsync

    def fsync(descriptor):
        asked.set()
        assert release.wait(60)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    async def main():
        task = asyncio.ensure_future(files.write_text(path, "late", atomic=True, fsync=True))
        while not asked.is_set():
            await asyncio.sleep(0)
        await cancelled(task)
        release.set()
        await asyncio.to_thread(wait_until, lambda: not leftovers(tmp_path))
        assert path.read_text() == "before" and os.listdir(tmp_path) == ["f"]

    run(main)


def test_a_cancelled_write_in_place_goes_on(tmp_path):
    path = tmp_path / "f"

    async def main():
        waits = Waits()
        await cancelled(await begun(path, waits))
        assert not path.exists()
        waits.answer.set()
        await asyncio.to_thread(wait_until, lambda: path.exists() and path.read_text())
        assert path.read_text() == '"late"'

    run(main)


def test_a_cancelled_write_of_bytes_goes_on(tmp_path):
    """What it writes is kept for it, whoever else lets it go."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main():
        task = asyncio.ensure_future(files.write_bytes(fifo, b"x" * 300_000))
        await asyncio.sleep(0.1)  # at work: it waits for somebody who reads
        await cancelled(task)
        gc.collect()
        assert await asyncio.to_thread(fifo.read_bytes) == b"x" * 300_000

    run(main)


def test_write_file_takes_paths_and_bytes(tmp_path):
    for args in ((), ("f",), ("f", "text"), ("f", bytearray()), (1, b""), (None, b"")):
        with pytest.raises(TypeError):
            write_file(*args)
    with pytest.warns(RuntimeWarning, match="never awaited"):
        write_file(tmp_path / "f", b"")
    assert os.listdir(tmp_path) == []


@both
def test_cancelled_before_a_thread_took_it_up(atomic, tmp_path):
    async def main():
        release = threading.Event()
        others = [asyncio.ensure_future(run_blocking(release.wait, 60)) for _ in range(100)]
        await turns()
        calls = [
            files.write_bytes(tmp_path / "a", b"x", atomic=atomic),
            files.write_json(tmp_path / "b", [], atomic=atomic),
            files.copyfile(__file__, tmp_path / "c"),
            files.copytree(Path(__file__).parent, tmp_path / "d"),
            files.read_bytes(__file__),
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await turns()
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(r, asyncio.CancelledError)
            for r in await asyncio.gather(*tasks, return_exceptions=True)
        )
        release.set()
        assert await asyncio.gather(*others) == [True] * 100
        assert os.listdir(tmp_path) == []

    run(main)


def test_reads_that_are_cancelled_leave_no_file_open(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 2_000_000)

    def is_open():
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}") == str(path):
                    return True
        return False

    async def main():
        for wait in range(60):
            tasks = [asyncio.ensure_future(files.read_bytes(path)) for _ in range(5)]
            for _ in range(wait):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, asyncio.CancelledError) or len(result) == 2_000_000
        gc.collect()
        await asyncio.to_thread(wait_until, lambda: not is_open())
        assert not is_open()

    run(main)


def test_a_loop_that_is_closed_meanwhile(tmp_path):
    """Nobody is left to be told: what was begun ends, what is beside goes away."""
    path = tmp_path / "f"
    waits = Waits()
    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(begun(path, waits, atomic=True))
    loop.close()
    waits.answer.set()
    time.sleep(0.3)
    assert os.listdir(tmp_path) == []
    run(lambda: files.write_text(path, "next", atomic=True))
    assert os.listdir(tmp_path) == ["f"] and path.read_text() == "next"
    task._log_destroy_pending = False
    del task
    gc.collect()
