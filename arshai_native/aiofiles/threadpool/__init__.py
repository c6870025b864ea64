"""open() and the standard streams: aiofiles.threadpool over native workers."""

import asyncio
import sys
from functools import partial, singledispatch
from io import (
    BufferedIOBase,
    BufferedRandom,
    BufferedReader,
    BufferedWriter,
    FileIO,
    IncrementalNewlineDecoder,
    TextIOBase,
)

from arshai_native._core import open_file, run_blocking, set_file_classes

from .._io import cookie, default_encoding, newlines, reopen
from ..base import AiofilesContextManager, on_executor
from .binary import (
    AsyncBufferedIOBase,
    AsyncBufferedReader,
    AsyncFileIO,
    AsyncIndirectBufferedIOBase,
)
from .text import AsyncTextIndirectIOWrapper, AsyncTextIOWrapper

sync_open = _builtin_open = open

__all__ = (
    "open",
    "stdin",
    "stdout",
    "stderr",
    "stdin_bytes",
    "stdout_bytes",
    "stderr_bytes",
)


def open(
    file,
    mode="r",
    buffering=-1,
    encoding=None,
    errors=None,
    newline=None,
    closefd=True,
    opener=None,
    *,
    loop=None,
    executor=None,
):
    # Whoever has put another in the place of the builtin function means it to be called.
    if executor is None and opener is None and closefd is True and sync_open is _builtin_open:
        opening = open_file(file, mode, buffering, encoding, errors, newline)
        if opening is not None:
            return opening
    args = (file, mode, buffering, encoding, errors, newline, closefd, opener)
    return AiofilesContextManager(_open(args, loop, executor))


async def _open(args, loop, executor):
    """An io object, opened on a worker."""
    if executor is None:
        file = await run_blocking(sync_open, *args)
    else:
        running = loop or asyncio.get_running_loop()
        file = await running.run_in_executor(executor, partial(sync_open, *args))
    return wrap(file, loop=loop, executor=executor)


@singledispatch
def wrap(file, *, loop=None, executor=None):
    msg = f"Unsupported io type: {file}."
    raise TypeError(msg)


@wrap.register(TextIOBase)
def _(file, *, loop=None, executor=None):
    return AsyncTextIOWrapper(file, loop=loop, executor=executor)


@wrap.register(BufferedWriter)
@wrap.register(BufferedIOBase)
def _(file, *, loop=None, executor=None):
    return AsyncBufferedIOBase(file, loop=loop, executor=executor)


@wrap.register(BufferedReader)
@wrap.register(BufferedRandom)
def _(file, *, loop=None, executor=None):
    return AsyncBufferedReader(file, loop=loop, executor=executor)


@wrap.register(FileIO)
def _(file, *, loop=None, executor=None):
    return AsyncFileIO(file, loop=loop, executor=executor)


stdin = AsyncTextIndirectIOWrapper("sys.stdin", None, None, indirect=lambda: sys.stdin)
stdout = AsyncTextIndirectIOWrapper("sys.stdout", None, None, indirect=lambda: sys.stdout)
stderr = AsyncTextIndirectIOWrapper("sys.stderr", None, None, indirect=lambda: sys.stderr)
stdin_bytes = AsyncIndirectBufferedIOBase(
    "sys.stdin.buffer", None, None, indirect=lambda: sys.stdin.buffer
)
stdout_bytes = AsyncIndirectBufferedIOBase(
    "sys.stdout.buffer", None, None, indirect=lambda: sys.stdout.buffer
)
stderr_bytes = AsyncIndirectBufferedIOBase(
    "sys.stderr.buffer", None, None, indirect=lambda: sys.stderr.buffer
)

set_file_classes(
    text=AsyncTextIOWrapper,
    reader=AsyncBufferedReader,
    writer=AsyncBufferedIOBase,
    wrap=partial(wrap, loop=None, executor=None),
    reopen=reopen,
    cookie=cookie,
    on_executor=on_executor,
    encoding=default_encoding(),
    translator=IncrementalNewlineDecoder,
    newlines=newlines,
)
