"""Temporary files and directories: aiofiles.tempfile over native workers."""

import sys
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial, singledispatch
from io import BufferedRandom, BufferedReader, BufferedWriter, FileIO, TextIOBase
from os import PathLike
from tempfile import NamedTemporaryFile as syncNamedTemporaryFile
from tempfile import SpooledTemporaryFile as syncSpooledTemporaryFile
from tempfile import TemporaryDirectory as syncTemporaryDirectory
from tempfile import TemporaryFile as syncTemporaryFile
from tempfile import _TemporaryFileWrapper as syncTemporaryFileWrapper
from typing import Any

from arshai_native._core import run_blocking

from ..base import AiofilesContextManager
from ..threadpool.binary import AsyncBufferedIOBase, AsyncBufferedReader, AsyncFileIO
from ..threadpool.text import AsyncTextIOWrapper
from .temptypes import AsyncSpooledTemporaryFile, AsyncTemporaryDirectory

__all__ = [
    "NamedTemporaryFile",
    "TemporaryFile",
    "SpooledTemporaryFile",
    "TemporaryDirectory",
]

_Name = str | bytes | None
_Dir = str | bytes | PathLike[str] | PathLike[bytes] | None

if sys.version_info >= (3, 12):

    def NamedTemporaryFile(
        mode: str = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: _Name = None,
        prefix: _Name = None,
        dir: _Dir = None,
        delete: bool = True,
        delete_on_close: bool = True,
        loop: AbstractEventLoop | None = None,
        executor: Executor | None = None,
    ) -> AiofilesContextManager:
        """A temporary file with a name, to be awaited or entered."""
        make = partial(
            syncNamedTemporaryFile,
            delete=delete,
            delete_on_close=delete_on_close,
            **_arguments(mode, buffering, encoding, newline, suffix, prefix, dir),
        )
        return AiofilesContextManager(_made(make, _wrap_file, loop, executor))

else:

    def NamedTemporaryFile(
        mode: str = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: _Name = None,
        prefix: _Name = None,
        dir: _Dir = None,
        delete: bool = True,
        loop: AbstractEventLoop | None = None,
        executor: Executor | None = None,
    ) -> AiofilesContextManager:
        """A temporary file with a name, to be awaited or entered."""
        make = partial(
            syncNamedTemporaryFile,
            delete=delete,
            **_arguments(mode, buffering, encoding, newline, suffix, prefix, dir),
        )
        return AiofilesContextManager(_made(make, _wrap_file, loop, executor))


def TemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: _Name = None,
    prefix: _Name = None,
    dir: _Dir = None,
    loop: AbstractEventLoop | None = None,
    executor: Executor | None = None,
) -> AiofilesContextManager:
    """A temporary file without a name, to be awaited or entered."""
    make = partial(
        syncTemporaryFile, **_arguments(mode, buffering, encoding, newline, suffix, prefix, dir)
    )
    return AiofilesContextManager(_made(make, _wrap_file, loop, executor))


def SpooledTemporaryFile(
    max_size: int = 0,
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: _Name = None,
    prefix: _Name = None,
    dir: _Dir = None,
    loop: AbstractEventLoop | None = None,
    executor: Executor | None = None,
) -> AiofilesContextManager:
    """A temporary file that is in memory up to a size, to be awaited or entered."""
    make = partial(
        syncSpooledTemporaryFile,
        max_size=max_size,
        **_arguments(mode, buffering, encoding, newline, suffix, prefix, dir),
    )
    return AiofilesContextManager(_made(make, AsyncSpooledTemporaryFile, loop, executor))


def TemporaryDirectory(
    suffix: _Name = None,
    prefix: _Name = None,
    dir: _Dir = None,
    loop: AbstractEventLoop | None = None,
    executor: Executor | None = None,
) -> "AiofilesContextManagerTempDir":
    """A temporary directory: awaited it is an object, entered its name."""
    make = partial(syncTemporaryDirectory, suffix, prefix, dir)  # type: ignore[arg-type]
    return AiofilesContextManagerTempDir(_made(make, AsyncTemporaryDirectory, loop, executor))


def _arguments(
    mode: str,
    buffering: int,
    encoding: str | None,
    newline: str | None,
    suffix: _Name,
    prefix: _Name,
    dir: _Dir,
) -> dict[str, Any]:
    return {
        "mode": mode,
        "buffering": buffering,
        "encoding": encoding,
        "newline": newline,
        "suffix": suffix,
        "prefix": prefix,
        "dir": dir,
    }


async def _made(
    make: Callable[[], Any],
    wrap: Callable[..., Any],
    loop: AbstractEventLoop | None,
    executor: Executor | None,
) -> Any:
    """What `make` makes on a worker, or on the executor, wrapped."""
    if loop is None:
        loop = get_running_loop()
    if executor is None:
        file = await run_blocking(make)
    else:
        file = await loop.run_in_executor(executor, make)
    return wrap(file, loop=loop, executor=executor)


def _wrap_file(file: Any, *, loop: AbstractEventLoop, executor: Executor | None) -> Any:
    if type(file) is not syncTemporaryFileWrapper:
        return wrap(file, file, loop=loop, executor=executor)
    result = wrap(file.file, file, loop=loop, executor=executor)
    if sys.version_info >= (3, 12):
        result._closer = file._closer
    else:
        result.delete = file.delete
    return result


class AiofilesContextManagerTempDir(AiofilesContextManager):
    """Entered it is the directory's name, as with the synchronous one."""

    async def __aenter__(self) -> Any:
        return (await self).name


@singledispatch
def wrap(
    base_io_obj: Any,
    file: Any,
    *,
    loop: AbstractEventLoop | None = None,
    executor: Executor | None = None,
) -> Any:
    """The asynchronous object for `file`, by the type of the io object behind it."""
    msg = f"Unsupported IO type: {base_io_obj}"
    raise TypeError(msg)


@wrap.register(TextIOBase)
def _(base_io_obj: Any, file: Any, *, loop: Any = None, executor: Any = None) -> Any:
    return AsyncTextIOWrapper(file, loop=loop, executor=executor)


@wrap.register(BufferedWriter)
def _(base_io_obj: Any, file: Any, *, loop: Any = None, executor: Any = None) -> Any:
    return AsyncBufferedIOBase(file, loop=loop, executor=executor)


@wrap.register(BufferedReader)
@wrap.register(BufferedRandom)
def _(base_io_obj: Any, file: Any, *, loop: Any = None, executor: Any = None) -> Any:
    return AsyncBufferedReader(file, loop=loop, executor=executor)


@wrap.register(FileIO)
def _(base_io_obj: Any, file: Any, *, loop: Any = None, executor: Any = None) -> Any:
    return AsyncFileIO(file, loop=loop, executor=executor)
