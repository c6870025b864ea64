"""Files that are missing, full, cut, no files at all; and what is under way when something ends."""

import asyncio
import contextlib
import errno
import os
import pathlib
import subprocess
import textwrap

import pytest
from filekit import path_with, script

from arshai_native import aiofiles

BIG = 4 << 30

pytest_plugins = ("filefixtures",)


# ---- opening ----


def same_error(opened):
    """The builtin's exception and ours for the same arguments."""
    with pytest.raises(OSError) as builtin:
        open(*opened).close()

    async def main():
        with pytest.raises(OSError) as ours:
            await aiofiles.open(*opened)
        return ours.value

    ours, theirs = asyncio.run(main()), builtin.value
    assert type(ours) is type(theirs) and str(ours) == str(theirs)
    assert (ours.errno, ours.filename) == (theirs.errno, theirs.filename)
    return ours


@pytest.mark.parametrize("mode", ["r", "rb", "w", "r+"])
def test_what_cannot_be_opened(tmp_path, mode):
    missing = str(tmp_path / "no" / "f")
    assert isinstance(same_error((missing, mode)), FileNotFoundError)
    assert isinstance(same_error((os.fsencode(missing), mode)), FileNotFoundError)
    assert isinstance(same_error((str(tmp_path), mode)), IsADirectoryError)
    below = path_with(tmp_path, b"") + "/f"
    assert isinstance(same_error((below, mode)), NotADirectoryError)
    same_error((str(tmp_path / ("x" * 300)), mode))
    os.symlink("loop", tmp_path / "loop")
    assert same_error((str(tmp_path / "loop"), mode)).errno == errno.ELOOP


def test_exclusive(tmp_path):
    assert isinstance(same_error((path_with(tmp_path, b""), "x")), FileExistsError)
    assert isinstance(same_error((path_with(tmp_path, b""), "xb")), FileExistsError)


def test_no_permission(tmp_path):
    path = path_with(tmp_path, b"secret")
    os.chmod(path, 0)
    if os.geteuid() != 0:
        assert isinstance(same_error((path, "r")), PermissionError)
        assert isinstance(same_error((path, "w")), PermissionError)
        return
    code = """
        import asyncio, os, sys
        from arshai_native import aiofiles
        os.setuid(65534)
        async def main():
            for mode in ("r", "wb", "a", "r+"):
                try:
                    await aiofiles.open(sys.argv[1], mode)
                except PermissionError as error:
                    assert error.filename == sys.argv[1], error
                else:
                    raise SystemExit("opened")
        asyncio.run(main())
    """
    os.chmod(tmp_path, 0o755)
    with contextlib.ExitStack() as stack:
        for folder in tmp_path.parents:  # others must get here
            mode = os.stat(folder).st_mode
            if not mode & 1:
                os.chmod(folder, mode | 1)
                stack.callback(os.chmod, folder, mode)
        done = script(code, path)
    assert done.returncode == 0, done.stderr


def test_a_read_only_descriptor_refuses(on_loop, tmp_path):
    async def main():
        async with aiofiles.open(path_with(tmp_path, b"x")) as f:
            with pytest.raises(OSError, match="not writable"):
                await f.write("y")
        async with aiofiles.open(str(tmp_path / "w"), "w") as f:
            with pytest.raises(OSError, match="not readable"):
                await f.read()

    on_loop(main())


# ---- what is no file with a size ----


def test_proc_and_devices(on_loop):
    async def main():
        for path in ("/proc/self/status", "/proc/self/maps", "/proc/cpuinfo"):
            async with aiofiles.open(path) as f:
                text = await f.read()
            assert len(text) > 100 and text.endswith("\n")
            async with aiofiles.open(path, "rb") as f:
                lines = [line async for line in f]
            assert len(lines) > 5 and all(line.endswith(b"\n") for line in lines)
        async with aiofiles.open("/proc/version", "rb") as f:
            assert await f.read() == pathlib.Path("/proc/version").read_bytes()
            assert await f.read() == b"" and await f.seek(0) == 0 and await f.read(5) == b"Linux"
        async with aiofiles.open("/dev/zero", "rb") as f:
            assert await f.read(100000) == bytes(100000)
        async with aiofiles.open("/dev/null", "wb") as f:
            assert await f.write(b"x" * 200000) == 200000
        async with aiofiles.open("/dev/null") as f:
            assert await f.read() == ""

    on_loop(main())


def test_fifo(on_loop, tmp_path):
    path = str(tmp_path / "fifo")
    os.mkfifo(path)

    async def main():
        opening = asyncio.create_task(aiofiles.open(path, "rb").__aenter__())
        await asyncio.sleep(0.05)
        assert not opening.done()  # until somebody writes; the loop goes on
        async with aiofiles.open(path, "w") as writer:
            reader = await opening
            line = asyncio.create_task(reader.readline())
            await asyncio.sleep(0.02)
            assert not line.done()
            await writer.write("one\n")
            await writer.flush()
            assert await line == b"one\n"
            assert reader.name == path and await reader.seekable() is False
            rest = asyncio.create_task(reader.read())
            await writer.write("two\n")
        assert await rest == b"two\n"
        await reader.close()

    on_loop(main())


# ---- the content changes, or is wrong ----


def test_truncated_while_read(on_loop, tmp_path):
    async def main():
        path = path_with(tmp_path, os.urandom(1 << 20))
        async with aiofiles.open(path, "rb") as f:
            first = await f.read(10)
            os.truncate(path, 500000)
            rest = await f.read()
            assert len(first) + len(rest) == 500000
            os.truncate(path, 100)
            assert await f.read() == b"" and await f.read(5) == b"" and await f.readline() == b""
            await f.seek(0)
            assert len(await f.read()) == 100

    on_loop(main())


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_grown_while_read(on_loop, tmp_path, mode):
    def some(text):
        return text if mode == "r" else text.encode()

    async def main():
        path = path_with(tmp_path, b"one\n")
        async with aiofiles.open(path, mode) as f:
            with open(path, "ab") as more:
                more.write(b"two\n")
            assert await f.read() == some("one\ntwo\n")
            assert await f.read() == some("") and await f.readline() == some("")
            for _ in range(3):
                with open(path, "ab") as more:
                    more.write(b"x" * 300000 + b"\n")
                assert len(await f.readline()) == 300001
                with pytest.raises(StopAsyncIteration):
                    await anext(f)
            with open(path, "ab") as more:
                more.write(b"y" * 5000000)
            assert len(await f.read()) == 5000000

    on_loop(main())


@pytest.mark.parametrize("errors", ["strict", "ignore", "replace", "surrogateescape", "no such"])
@pytest.mark.parametrize("at", [0, 5, 8190, 8191, 8192, 65535, 65536, 262144, 300000])
def test_invalid_utf8(tmp_path, errors, at):
    data = bytearray((b"some text, " * 10 + b"\n") * 3000)
    data[at : at + 1] = b"\xe6\x97"  # the beginning of a character
    path = path_with(tmp_path, bytes(data))

    def builtin():
        with open(path, encoding="utf-8", errors=errors) as f:
            return list(iter(f.readline, ""))

    async def main():
        async with aiofiles.open(path, encoding="utf-8", errors=errors) as f:
            return [line async for line in f]

    try:
        expected = builtin()
    except (UnicodeDecodeError, LookupError) as error:
        with pytest.raises(type(error)) as ours:
            asyncio.run(main())
        assert str(ours.value) == str(error)
    else:
        assert asyncio.run(main()) == expected


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n", b"\r\r\n", b"\n\r"])
def test_newlines_over_edges(tmp_path, newline, ending):
    """Line ends wherever chunks and buffers may be split, "é" so that bytes are not characters."""
    paths = []
    for edge in (8192, 65536, 262144):
        for off in range(-3, 2):
            head = b"z" * 99 + b"\n"
            body = (head * (edge // 100 + 1))[: edge + off]
            data = body + ending + b"after" + ending + "é".encode() + ending
            paths.append(path_with(tmp_path, data, f"{edge}{off}"))

    async def main():
        for path in paths:
            with open(path, encoding="utf-8", newline=newline) as f:
                expected, seen = list(iter(f.readline, "")), f.newlines
            async with aiofiles.open(path, encoding="utf-8", newline=newline) as f:
                assert [line async for line in f] == expected
                assert f.newlines == seen
            async with aiofiles.open(path, encoding="utf-8", newline=newline) as f:
                pieces = []
                while piece := await f.read(1021):
                    pieces.append(piece)
                assert "".join(pieces) == "".join(expected)
            async with aiofiles.open(path, encoding="utf-8", newline=newline) as f:
                await f.readline()
                assert await f.read() == "".join(expected[1:])
                assert await f.readlines() == []

    asyncio.run(main())


def test_sparse_file_over_4_gb(on_loop, tmp_path):
    path = str(tmp_path / "sparse")
    with open(path, "wb") as f:
        f.truncate(BIG + 4096)
        f.seek(BIG - 10)
        f.write(b"0123456789line\nrest")

    async def main():
        async with aiofiles.open(path, "rb") as f:
            assert await f.seek(BIG - 10) == BIG - 10
            assert await f.readline() == b"0123456789line\n"
            assert await f.tell() == BIG + 5
            assert await f.read(4) == b"rest"
            assert await f.seek(-4, 2) == BIG + 4092 and await f.read() == bytes(4)
            assert await f.seek(-BIG, 1) == 4096 and await f.read(3) == bytes(3)
        async with aiofiles.open(path) as f:
            assert await f.seek(BIG) == BIG
            assert await f.readline() == "line\n" and await f.tell() == BIG + 5
        async with aiofiles.open(path, "ab") as f:
            assert await f.tell() == BIG + 4096
            await f.write(b"end")
            assert await f.truncate(BIG + 4098) == BIG + 4098
        async with aiofiles.open(path, "rb") as f:
            await f.seek(BIG + 4096)
            assert await f.read() == b"en"

    on_loop(main())


# ---- no room ----


def test_device_that_is_full(on_loop, tmp_path):
    async def main():
        f = await aiofiles.open("/dev/full", "wb")
        await f.write(b"x" * 10)
        with pytest.raises(OSError) as flushed:
            await f.flush()
        assert flushed.value.errno == errno.ENOSPC
        with pytest.raises(OSError):
            await f.close()
        assert f.closed

    on_loop(main())


def limited(code, path, limit=100000):
    """With files limited in size: as a disk that is full, with EFBIG for ENOSPC."""
    return script(
        """
        import asyncio, errno, os, resource, signal, sys
        from arshai_native import aiofiles
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        """
        + textwrap.indent(textwrap.dedent(code), " " * 8),
        path,
        str(limit),
    )


def test_file_that_becomes_too_large(tmp_path):
    path = str(tmp_path / "w")
    done = limited(
        """
        async def main():
            f = await aiofiles.open(sys.argv[1], "wb")
            assert await f.write(b"a" * 60000) == 60000       # gathered
            try:
                await f.write(b"b" * 60000)                    # goes out, half of it
            except OSError as error:
                assert error.errno == errno.EFBIG and error.filename is None, error
            else:
                raise SystemExit("written")
            assert os.path.getsize(sys.argv[1]) == 100000
            assert await f.write(b"c") == 1
            try:
                await f.flush()
            except OSError as error:
                assert error.errno == errno.EFBIG
            try:
                await f.close()
            except OSError as error:
                assert error.errno == errno.EFBIG and f.closed
            else:
                raise SystemExit("closed without a word")
            await f.close()

            f = await aiofiles.open(sys.argv[1], "w")
            await f.write("x" * 60000)
            await f.flush()
            await f.write("y" * 60000)                         # gathered: fails at the end
            try:
                await f.close()
            except OSError as error:
                assert error.errno == errno.EFBIG
            else:
                raise SystemExit("lost")
            assert os.path.getsize(sys.argv[1]) == 100000
        asyncio.run(main())
        """,
        path,
    )
    assert done.returncode == 0, done.stderr


def test_disk_that_is_full(tmp_path):
    """A file system of its own, where one may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("tmpfs cannot be mounted")

    async def main():
        f = await aiofiles.open(folder / "f", "wb")
        with pytest.raises(OSError) as failed:
            await f.write(b"x" * 200000)
        assert failed.value.errno == errno.ENOSPC
        await f.close()  # nothing is left to be written
        assert (folder / "f").stat().st_size == 65536
        f = await aiofiles.open(folder / "g", "w")
        await f.write("kept")
        with pytest.raises(OSError) as failed:
            await f.close()
        assert failed.value.errno == errno.ENOSPC and f.closed
        (folder / "f").unlink()
        async with aiofiles.open(folder / "h", "w") as f:
            await f.write("fits")
        async with aiofiles.open(folder / "h") as f:  # a file system without RWF_NOWAIT, perhaps
            assert await f.read() == "fits"
            (folder / "h").write_text("fits now")
            assert await f.read() == " now"

    try:
        asyncio.run(main())
    finally:
        subprocess.run(["umount", str(folder)], check=True)
