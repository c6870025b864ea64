"""
Files whole, and what is done with folders: each function is one job on a worker thread.

    from arshai_native import files

    text = await files.read_text("prompt.txt")
    await files.write_json("state.json", state, atomic=True, fsync=True)
    await files.copytree("models", "backup", progress=lambda now: print(now.copied, now.path))

What they do, and what goes wrong, is as with the synchronous functions of the same names (of
pathlib, json, os and shutil). Reading more than 64 KB takes a second job.

Cancelled while it waits for a thread, a call does nothing. Later: a file that is written in place
is written to its end all the same; one that is written with atomic=True is not put in place any
more; a copy stops after the piece that is under way, and only then does its await end (a second
cancellation does not wait).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any, AnyStr, NamedTuple, TypeVar

from arshai_native._core import run_blocking, write_file
from arshai_native._file_writer import FileWriter, write_all
from arshai_native.aiofiles.threadpool import open as _open

__all__ = [
    "CopyProgress",
    "copyfile",
    "copytree",
    "read_bytes",
    "read_json",
    "read_text",
    "scandir",
    "walk",
    "write_bytes",
    "write_json",
    "write_text",
]

# So much is copied, or written, between two looks at whether it is still wanted.
_PIECE = 4 << 20

# Text up to this size (characters) is encoded by the thread that brings it.
_SMALL = 64 << 10

_Path = str | bytes | PathLike[str] | PathLike[bytes]
_T = TypeVar("_T", bound=_Path)


class CopyProgress(NamedTuple):
    """How far a copy has come."""

    path: str  # what is being copied, or was the last
    copied: int  # bytes, of all files
    total: int  # bytes of this file
    files: int  # that are done


# ---- jobs that can be given up ----


class _GivenUp(Exception):
    """In a job: nobody waits for it."""


class _Job:
    """A call on a worker thread, and what it and its caller on the event loop tell each other."""

    def __init__(self, progress: Callable[[CopyProgress], object] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._progress = progress
        self._lock = threading.Lock()
        self._is_given_up = False
        self._is_running = False
        self._stopped: asyncio.Future[None] | None = None
        self._told: CopyProgress | None = None
        self._latest: CopyProgress | None = None
        self._is_telling = False
        self._error: BaseException | None = None

    async def run(self, function: Callable[..., Any], *args: Any, wait: bool = False) -> Any:
        """function(self, *args) on a worker. wait: a cancellation waits until it has stopped."""
        try:
            result = await run_blocking(self._call, function, *args)
            if self._error is not None:
                raise self._error
            self._tell()
            return result
        except _GivenUp:
            assert self._error is not None
            raise self._error from None
        except asyncio.CancelledError:
            self._give_up()
            self._stopped = self._loop.create_future()
            if wait and self._is_running:
                await self._stopped
            raise
        finally:
            self._progress = None

    # On the loop's thread.

    def _give_up(self) -> None:
        with self._lock:
            self._is_given_up = True
        self._progress = None

    def _tell(self) -> None:
        self._is_telling = False
        progress, latest = self._progress, self._latest
        if progress is None or latest is None or latest == self._told:
            return
        self._told = latest
        try:
            progress(latest)
        except BaseException as error:
            self._error = error
            self._give_up()

    def _note_stop(self) -> None:
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    # On the worker.

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        with self._lock:
            if self._is_given_up:
                raise _GivenUp
            self._is_running = True
        try:
            return function(self, *args)
        finally:
            with self._lock:
                self._is_running = False
                if self._is_given_up:
                    self._on_loop(self._note_stop)

    def _on_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # closed
            self._loop.call_soon_threadsafe(function)

    def check(self) -> None:
        if self._is_given_up or self._loop.is_closed():
            raise _GivenUp

    @contextlib.contextmanager
    def still_wanted(self) -> Iterator[None]:
        """What is done within is done before the caller gives up, or not at all."""
        with self._lock:
            self.check()
            yield

    def report(self, progress: CopyProgress) -> None:
        """To the caller's function, on its thread; as often as that thread has time for it."""
        self._latest = progress
        if self._progress is not None and not self._is_telling:
            self._is_telling = True
            self._on_loop(self._tell)


# ---- whole files ----


async def read_bytes(path: int | _Path) -> bytes:
    """The file's bytes."""
    async with _open(path, "rb") as file:
        return await file.read()


async def read_text(
    path: int | _Path,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> str:
    """The file's text, by the rules of open()."""
    async with _open(path, "r", -1, encoding, errors, newline) as file:
        return await file.read()


async def read_json(path: int | _Path, **options: Any) -> Any:
    """What the JSON document in the file says; options are those of json.loads(), whose functions
    are called on a worker thread."""
    data = await read_bytes(path)
    return await run_blocking(json.loads, data, **options) if options else json.loads(data)


async def write_bytes(
    path: int | _Path, data: Any, *, atomic: bool = False, fsync: bool = False
) -> int:
    """
    Writes a file of these bytes; returns how many they are.

    atomic: others see the file as it was or as it is to be, never a part, and it is as it was if
    something goes wrong. The mode of the one that is replaced stays.
    fsync: returns when it is on the disk.
    """
    if type(data) is bytes and not (atomic or fsync or isinstance(path, int)):
        return await write_file(path, data)
    size = memoryview(data).nbytes
    await _Job().run(_write, path, lambda: data, atomic, fsync)
    return size


async def write_text(
    path: int | _Path,
    data: str,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    *,
    atomic: bool = False,
    fsync: bool = False,
) -> int:
    """Writes a file of this text, by the rules of open(); returns how many characters it is. Text
    that cannot be encoded leaves the file alone. The rest as write_bytes()."""
    if not isinstance(data, str):
        raise TypeError(f"data must be str, not {type(data).__name__}")

    def encode() -> bytes:
        target = io.BytesIO()
        with io.TextIOWrapper(target, encoding, errors, newline) as text:
            text.write(data)
            text.flush()
            return target.getvalue()

    if len(data) <= _SMALL and not (atomic or fsync or isinstance(path, int)):
        await write_file(path, encode())
        return len(data)
    await _Job().run(_write, path, encode, atomic, fsync)
    return len(data)


async def write_json(
    path: int | _Path, obj: Any, *, atomic: bool = False, fsync: bool = False, **options: Any
) -> None:
    """Writes a file of the object as JSON in UTF-8; options are those of json.dumps(). The object
    is read on a worker thread and not to be changed meanwhile. What is no JSON leaves the file
    alone. The rest as write_bytes()."""

    def encode() -> bytes:
        return json.dumps(obj, **options).encode()

    await _Job().run(_write, path, encode, atomic, fsync)


def _write(job: _Job, path: Any, encode: Callable[[], Any], atomic: bool, fsync: bool) -> None:
    data = memoryview(encode()).cast("B")
    if not atomic:
        with open(path, "wb", 0) as file:
            write_all(file.fileno(), data)
            if fsync:
                os.fsync(file.fileno())
        return
    writer = FileWriter(path, fsync)
    try:
        for at in range(0, len(data), _PIECE):
            job.check()
            writer.write(data[at : at + _PIECE])
        writer.commit(job.still_wanted())
    except BaseException:
        writer.abort()
        raise


# ---- folders ----


async def scandir(
    path: int | AnyStr | PathLike[AnyStr] | None = None, *, stat: bool = False
) -> list[os.DirEntry[AnyStr]]:
    """The folder's entries, as a list. Their is_dir(), is_file() and is_symlink() do not block any
    more; with stat=True neither does their stat(follow_symlinks=False)."""
    return await run_blocking(_scandir, path, stat)


def _scandir(path: Any, stat: bool) -> list[os.DirEntry[Any]]:
    with os.scandir(path) as entries:
        found = list(entries)
    for entry in found:
        # Kept by the entry: for most it is known, links are followed here.
        with contextlib.suppress(OSError):
            entry.is_dir()
        if stat:
            with contextlib.suppress(OSError):
                entry.stat(follow_symlinks=False)
    return found


async def walk(
    top: AnyStr | PathLike[AnyStr],
    topdown: bool = True,
    onerror: Callable[[OSError], object] | None = None,
    followlinks: bool = False,
) -> list[tuple[AnyStr, list[AnyStr], list[AnyStr]]]:
    """What os.walk() gives, as a list. onerror is called on the worker thread."""
    return await _Job().run(_walk, top, topdown, onerror, followlinks)


def _walk(job: _Job, top: Any, *args: Any) -> list[Any]:
    found = []
    for folder in os.walk(top, *args):
        job.check()
        found.append(folder)
    return found


# ---- copies ----


async def copyfile(
    src: _Path,
    dst: _T,
    *,
    follow_symlinks: bool = True,
    progress: Callable[[CopyProgress], object] | None = None,
) -> _T:
    """shutil.copyfile(). progress is called on the event loop's thread, with the last state
    before this returns; what it raises ends the copy."""
    await _Job(progress).run(_Copy.one, src, dst, follow_symlinks, wait=True)
    return dst


async def copytree(
    src: _Path,
    dst: _T,
    symlinks: bool = False,
    ignore: Callable[[Any, list[str]], Iterable[str]] | None = None,
    ignore_dangling_symlinks: bool = False,
    dirs_exist_ok: bool = False,
    *,
    progress: Callable[[CopyProgress], object] | None = None,
) -> _T:
    """shutil.copytree(). progress as for copyfile(), at least once for each file unless the loop
    has other things to do; ignore is called on the worker thread."""
    await _Job(progress).run(
        _Copy.tree, src, dst, symlinks, ignore, ignore_dangling_symlinks, dirs_exist_ok, wait=True
    )
    return dst


class _Copy:
    """A copy on a worker thread."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._copied = 0
        self._files = 0

    @classmethod
    def one(cls, job: _Job, src: Any, dst: Any, follow_symlinks: bool) -> None:
        cls(job)._copy_file(src, dst, follow_symlinks)

    @classmethod
    def tree(
        cls, job: _Job, src: Any, dst: Any, symlinks: bool, ignore: Any, dangling: bool, ok: bool
    ) -> None:
        copy = cls(job)

        def look(folder: Any, names: list[str]) -> Iterable[str]:
            job.check()
            return ignore(folder, names) if ignore is not None else ()

        shutil.copytree(src, dst, symlinks, look, copy._copy_with_stat, dangling, ok)

    def _copy_with_stat(self, src: Any, dst: Any, *, follow_symlinks: bool = True) -> None:
        """shutil.copy2()"""
        if os.path.isdir(dst):
            dst = os.path.join(dst, os.path.basename(src))
        self._copy_file(src, dst, follow_symlinks)
        shutil.copystat(src, dst, follow_symlinks=follow_symlinks)

    def _copy_file(self, src: Any, dst: Any, follow_symlinks: bool) -> None:
        found: list[os.stat_result] = []
        pipe = None
        for path in (src, dst):
            with contextlib.suppress(OSError):
                found.append(os.stat(path))
                if pipe is None and stat.S_ISFIFO(found[-1].st_mode):
                    pipe = path
        if len(found) == 2 and os.path.samestat(*found):
            raise shutil.SameFileError(f"{src!r} and {dst!r} are the same file")
        if pipe is not None:
            raise shutil.SpecialFileError(f"`{os.fspath(pipe)}` is a named pipe")
        total = 0
        if not follow_symlinks and os.path.islink(src):
            os.symlink(os.readlink(src), dst)
        else:
            with open(src, "rb", 0) as source:
                try:
                    target = open(dst, "wb", 0)  # noqa: SIM115
                except IsADirectoryError as error:
                    if os.path.exists(dst):
                        raise
                    raise FileNotFoundError(f"Directory does not exist: {dst}") from error
                with target:
                    total = self._copy_data(source, target, os.fsdecode(src))
        self._files += 1
        self._job.report(CopyProgress(os.fsdecode(src), self._copied, total, self._files))

    def _copy_data(self, source: io.FileIO, target: io.FileIO, name: str) -> int:
        total = os.fstat(source.fileno()).st_size
        in_kernel = sys.platform == "linux"
        buffer = memoryview(b"")
        at = 0
        while True:
            self._job.check()
            if in_kernel:
                try:
                    size = os.sendfile(target.fileno(), source.fileno(), at, _PIECE)
                except OSError as error:
                    if at > 0 or error.errno == errno.ENOSPC:
                        raise OSError(
                            error.errno, error.strerror, source.name, None, target.name
                        ) from None
                    in_kernel = False  # between these two it is not possible
                    continue
            else:
                buffer = buffer or memoryview(bytearray(1 << 20))
                size = source.readinto(buffer)
                write_all(target.fileno(), buffer[:size])
            if size == 0:
                return total
            at += size
            self._copied += size
            self._job.report(CopyProgress(name, self._copied, total, self._files))
