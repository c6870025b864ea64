"""arshai_native.aiofiles besides open(): os, ospath, tempfile and the standard streams, beside the
synchronous functions. aiofiles' own tests of them are run by `make peer-files`."""

import asyncio
import inspect
import io
import os
import subprocess
import sys
import tempfile as sync_tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from faultkit import run
from fileskit import goes_on_until, nothing_blocks_here, outcome, outcome_of

import arshai_native.aiofiles.os as aios
from arshai_native import aiofiles
from arshai_native.aiofiles import ospath, tempfile
from arshai_native.aiofiles.base import wrap
from arshai_native.aiofiles.tempfile import temptypes

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")

# As in aiofiles 25.1.0.
OS = [
    *("access", "getcwd", "link", "listdir", "makedirs", "mkdir", "path", "readlink", "remove"),
    *("removedirs", "rename", "renames", "replace", "rmdir", "scandir", "sendfile", "stat"),
    *("statvfs", "symlink", "unlink", "wrap"),
]
OSPATH = [
    *("abspath", "exists", "getatime", "getctime", "getmtime", "getsize", "isdir", "isfile"),
    *("islink", "ismount", "samefile", "sameopenfile"),
]


def test_the_names():
    assert sorted(aios.__all__) == OS
    assert sorted(ospath.__all__) == OSPATH
    assert aios.path is ospath
    assert tempfile.__all__ == [
        "NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile", "TemporaryDirectory",
    ]  # fmt: skip
    assert "tempfile" in aiofiles.__all__
    for name in {*OS} - {"path", "wrap"}:
        assert inspect.iscoroutinefunction(getattr(aios, name)), name
        assert getattr(aios, name).__wrapped__ is getattr(os, name)


# ---- os and ospath ----


def make(folder):
    (folder / "a").write_bytes(b"0123456789")
    (folder / "sub").mkdir()
    (folder / "sub" / "b").write_text("b")
    (folder / "link").symlink_to("a")
    (folder / "dangling").symlink_to("nothing")


# (name, arguments), one after the other; paths are below the folder.
STEPS = [
    ("getcwd", []),
    ("listdir", ["."]),
    ("listdir", ["a"]),
    ("listdir", ["missing"]),
    ("access", ["a", os.R_OK]),
    ("access", ["missing", os.R_OK]),
    ("readlink", ["link"]),
    ("readlink", ["a"]),
    ("mkdir", ["new"]),
    ("mkdir", ["new"]),
    ("makedirs", ["x/y/z"]),
    ("makedirs", ["x/y/z"]),
    ("removedirs", ["x/y/z"]),
    ("rmdir", ["new"]),
    ("rmdir", ["sub"]),
    ("rmdir", ["a"]),
    ("symlink", ["a", "link2"]),
    ("symlink", ["a", "link2"]),
    ("link", ["a", "hard"]),
    ("link", ["missing", "hard2"]),
    ("rename", ["hard", "harder"]),
    ("rename", ["missing", "b"]),
    ("renames", ["harder", "deep/er/harder"]),
    ("replace", ["deep/er/harder", "sub/b"]),
    ("replace", ["a", "sub"]),
    ("unlink", ["link2"]),
    ("unlink", ["missing"]),
    ("remove", ["sub/b"]),
    ("remove", ["sub"]),
    ("stat", ["missing"]),
    ("statvfs", ["missing"]),
    ("scandir", ["missing"]),
    *[(name, ["a"]) for name in ("exists", "isdir", "isfile", "islink", "ismount", "getsize")],
    *[(name, ["link"]) for name in ("exists", "isdir", "isfile", "islink", "getsize", "getmtime")],
    *[(name, ["dangling"]) for name in ("exists", "islink", "getsize", "getatime", "getctime")],
    *[(name, ["a"]) for name in ("getatime", "getmtime", "getctime")],
    ("samefile", ["a", "link"]),
    ("samefile", ["a", "missing"]),
    ("sameopenfile", [0, 0]),
    ("sameopenfile", [0, -1]),
    ("abspath", ["a/../b"]),
    ("stat", [3.5]),
    ("mkdir", []),
]
TIMES = ("getatime", "getmtime", "getctime")


def test_beside_the_synchronous_functions(tmp_path, monkeypatch):
    """The same steps in two folders that are alike: same results, same errors, same folders."""
    folders = [tmp_path / "ours", tmp_path / "theirs"]
    for folder in folders:
        folder.mkdir()
        make(folder)

    async def ours():
        found = []
        for name, args in STEPS:
            function = getattr(aios, name, None) or getattr(ospath, name)
            with nothing_blocks_here():
                found.append(await outcome_of(function(*args)))
        return found

    def theirs():
        return [
            outcome(lambda: (getattr(os, name, None) or getattr(os.path, name))(*args))  # noqa: B023
            for name, args in STEPS
        ]

    results = []
    for folder, call in zip(folders, (lambda: run(ours), theirs), strict=True):
        monkeypatch.chdir(folder)
        results.append(call())
    for (name, args), got, expected in zip(STEPS, *results, strict=True):
        if name in ("getcwd", "abspath"):
            expected = expected.replace("theirs", "ours")
        if name == "listdir" and isinstance(got, list):
            got, expected = sorted(got), sorted(expected)
        if name in TIMES and isinstance(got, float):
            assert isinstance(expected, float)
            continue
        assert got == expected, (name, args)
    trees = [sorted(str(p.relative_to(f)) for p in f.rglob("*")) for f in folders]
    assert trees[0] == trees[1]


def test_stat_statvfs_scandir_sendfile(tmp_path):
    make(tmp_path)

    async def main():
        assert await aios.stat(tmp_path / "a") == os.stat(tmp_path / "a")
        got = await aios.stat(
            "link", dir_fd=(folder := os.open(tmp_path, 0)), follow_symlinks=False
        )
        assert got == os.lstat(tmp_path / "link")
        os.close(folder)
        assert (await aios.statvfs("/")).f_bsize == os.statvfs("/").f_bsize
        with await aios.scandir(tmp_path) as entries:
            assert sorted(e.name for e in entries) == ["a", "dangling", "link", "sub"]
        with open(tmp_path / "a", "rb") as source, open(tmp_path / "out", "wb") as target:
            assert await aios.sendfile(target.fileno(), source.fileno(), 2, 5) == 5
        assert (tmp_path / "out").read_bytes() == b"23456"

    run(main)


def test_wrap_keeps_loop_and_executor():
    """What is wrapped may be anything that blocks; with an executor it is that one's thread."""

    def where(*args, **kwargs):
        """doc"""
        return threading.current_thread().name, args, kwargs

    wrapped = wrap(where)
    assert (wrapped.__name__, wrapped.__doc__) == ("where", "doc")

    async def main():
        name, args, kwargs = await wrapped(1, a=2)
        assert (args, kwargs) == ((1,), {"a": 2})
        assert name != threading.current_thread().name
        with ThreadPoolExecutor(1, "mine") as executor:
            name, args, kwargs = await wrapped(1, executor=executor)
            assert name.startswith("mine") and kwargs == {}
            loop = asyncio.get_running_loop()
            assert (await wrapped(executor=executor, loop=loop))[0].startswith("mine")

        event = threading.Event()
        task = asyncio.ensure_future(wrap(event.wait)(30))
        assert await goes_on_until(task, event.set) is True

    run(main)


def test_a_thousand_at_once(tmp_path):
    async def main():
        names = [tmp_path / str(n) for n in range(1000)]
        await asyncio.gather(*map(aios.mkdir, names))
        assert await asyncio.gather(*map(ospath.isdir, names)) == [True] * 1000
        assert len(await aios.listdir(tmp_path)) == 1000
        await asyncio.gather(*map(aios.rmdir, names))
        assert await aios.listdir(tmp_path) == []

    run(main)


# ---- temporary files ----

KINDS = [
    ("w+b", -1, "AsyncBufferedReader"),
    ("wb", -1, "AsyncBufferedIOBase"),
    ("w+b", 0, "AsyncFileIO"),
    ("w+", -1, "AsyncTextIOWrapper"),
]


@pytest.mark.parametrize("maker", ["TemporaryFile", "NamedTemporaryFile"])
@pytest.mark.parametrize("mode, buffering, kind", KINDS)
def test_temporary_files(maker, mode, buffering, kind, tmp_path):
    data = "some\ntext\n" if "b" not in mode else b"some\ntext\n"

    async def main():
        with nothing_blocks_here():
            file = await getattr(tempfile, maker)(mode, buffering, dir=tmp_path)
        assert type(file).__name__ == kind
        with nothing_blocks_here():
            assert await file.write(data) == len(data)
            await file.flush()
            if "+" in mode:
                await file.seek(0)
                assert [line async for line in file] == data.splitlines(keepends=True)
                await file.seek(0)
                assert await file.read() == data
        if maker == "NamedTemporaryFile":
            assert os.path.getsize(file.name) == len(data)
            assert os.path.dirname(file.name) == str(tmp_path)
        await file.close()
        assert file.closed
        assert os.listdir(tmp_path) == []

    run(main)


def test_named_temporary_files_that_stay(tmp_path):
    async def main():
        async with tempfile.NamedTemporaryFile(
            "w", delete=False, dir=tmp_path, prefix="p-", suffix=".s", encoding="latin-1"
        ) as file:
            await file.write("h\u00e9")
            name = file.name
            assert os.path.basename(name).startswith("p-") and name.endswith(".s")
        with open(name, "rb") as written:
            assert written.read() == b"h\xe9"
        if sys.version_info < (3, 12):
            assert file.delete is False
            return
        async with tempfile.NamedTemporaryFile(delete_on_close=False, dir=tmp_path) as file:
            await file.close()
            assert os.path.exists(file.name)
        assert not os.path.exists(file.name)

    run(main)


@pytest.mark.parametrize("mode", ["w+b", "w+"])
def test_spooled_files(mode, tmp_path):
    """In memory up to the size, then on the disk, by a worker; the results are those of the
    synchronous one."""

    def part(text):
        return text if "b" not in mode else text.encode()

    def steps(file):
        return [
            lambda: file.write(part("12345\n")),
            lambda: file.writelines([part("67"), part("8\n")]),
            lambda: file.tell(),
            lambda: file.seek(0),
            lambda: file.readline(),
            lambda: file.readlines(),
            lambda: file.isatty(),
            lambda: file.truncate(12),
            lambda: file.flush(),
            lambda: file.write(part("a" * 20)),
            lambda: file.seek(0),
            lambda: file.read(8),
            lambda: file.read(),
            lambda: file.truncate(4),
            lambda: file.seek(0),
            lambda: file.read(),
            lambda: file.writelines([part("x"), part("\n")]),
            lambda: file.tell(),
        ]

    async def main():
        theirs = sync_tempfile.SpooledTemporaryFile(20, mode, dir=tmp_path)  # noqa: SIM115
        async with tempfile.SpooledTemporaryFile(20, mode, dir=tmp_path) as ours:
            assert type(ours) is temptypes.AsyncSpooledTemporaryFile
            for number, (step, expected) in enumerate(zip(steps(ours), steps(theirs), strict=True)):
                with nothing_blocks_here():
                    got = await step()
                assert got == expected(), number
                assert ours._file._rolled == theirs._rolled, number
                if number == 3:
                    assert [line async for line in ours] == list(theirs)
                    await ours.seek(0)
                    theirs.seek(0)
            assert ours._file._rolled
            assert isinstance(await ours.fileno(), int)
            for name in ("closed", "encoding", "mode", "newlines"):
                assert outcome(lambda: getattr(ours, name)) == outcome(  # noqa: B023
                    lambda: getattr(theirs, name)  # noqa: B023
                )
        assert ours.closed
        got = await outcome_of(ours.read())
        theirs.close()
        assert got == outcome(theirs.read)

    run(main)


def test_a_spooled_file_without_a_bound_stays_in_memory():
    async def main():
        file = await tempfile.SpooledTemporaryFile()
        with nothing_blocks_here():
            for _ in range(100):
                await file.write(b"x" * 10_000)
            await file.seek(0)
            assert len(await file.read()) == 1_000_000
        assert type(file._file._file) is io.BytesIO
        with nothing_blocks_here():
            await file.rollover()
        assert file._file._rolled and await file.tell() == 1_000_000
        await file.close()

    run(main)


def test_temporary_directories(tmp_path):
    async def main():
        with nothing_blocks_here():
            async with tempfile.TemporaryDirectory("s", "p", tmp_path) as name:
                pass
        assert os.path.basename(name).startswith("p") and name.endswith("s")
        assert os.listdir(tmp_path) == []
        folder = await tempfile.TemporaryDirectory(dir=tmp_path)
        assert type(folder) is temptypes.AsyncTemporaryDirectory
        await aios.mkdir(os.path.join(folder.name, "x"))
        await folder.cleanup()
        assert os.listdir(tmp_path) == []
        await folder.close()  # nothing to be done
        missing = tempfile.TemporaryDirectory(dir=tmp_path / "missing")
        with pytest.raises(FileNotFoundError):
            await missing

    run(main)


def test_temporary_files_on_an_executor(tmp_path):
    async def main():
        with ThreadPoolExecutor(1, "mine") as executor:
            loop = asyncio.get_running_loop()
            for kind, args in (
                (tempfile.NamedTemporaryFile, ()),
                (tempfile.TemporaryFile, ()),
                (tempfile.SpooledTemporaryFile, (5,)),
            ):
                async with kind(*args, dir=tmp_path, loop=loop, executor=executor) as file:
                    assert await file.write(b"12345678") == 8
                    assert await file.tell() == 8
                    assert file._executor is executor
            async with tempfile.TemporaryDirectory(executor=executor) as name:
                assert os.path.isdir(name)

    run(main)


def test_a_spooled_file_that_cannot_move(tmp_path):

    async def main():
        file = await tempfile.SpooledTemporaryFile(4, dir=tmp_path / "missing")
        with pytest.raises(FileNotFoundError):
            await file.write(b"12345")
        await file.close()

    run(main)


# ---- the standard streams ----

STREAMS = """
import asyncio, io, sys
from arshai_native import aiofiles

async def main():
    await aiofiles.stdout.write(await aiofiles.stdin.readline())
    await aiofiles.stdout.flush()
    await aiofiles.stdout_bytes.write(await aiofiles.stdin_bytes.read())
    await aiofiles.stdout_bytes.flush()
    await aiofiles.stderr.write("error ")
    await aiofiles.stderr_bytes.write(b"bytes")
    await aiofiles.stderr_bytes.flush()
    # Whatever takes their places is found at the next call.
    before, sys.stdout = sys.stdout, io.StringIO()
    await aiofiles.stdout.write("into memory")
    text, sys.stdout = sys.stdout.getvalue(), before
    print(text, aiofiles.stdin.encoding, aiofiles.stdin.fileno(), aiofiles.stderr_bytes.mode)

asyncio.run(main())
"""


def test_standard_streams():
    done = subprocess.run(
        [sys.executable, "-c", STREAMS],
        input=b"line\nrest \xff",
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
             "PYTHONIOENCODING": "utf-8:surrogateescape"},
    )  # fmt: skip
    assert done.stderr == b"error bytes"
    # The text object has read ahead: what is left for the bytes object is what a buffer left.
    assert done.stdout.startswith(b"line\n")
    assert done.stdout.endswith(b"into memory utf-8 0 wb\n")
