"""What all file objects share: aiofiles.base over native files and workers."""

from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from functools import partial, wraps
from typing import Any

from arshai_native._core import File, FileOpening, run_blocking


def wrap(func: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A coroutine function that calls func on a worker, or on the executor it is given."""

    @wraps(func)
    async def run(
        *args: Any,
        loop: AbstractEventLoop | None = None,
        executor: Executor | None = None,
        **kwargs: Any,
    ) -> Any:
        if executor is None:
            return await run_blocking(func, *args, **kwargs)
        return await (loop or get_running_loop()).run_in_executor(
            executor, partial(func, *args, **kwargs)
        )

    return run


async def on_executor(
    file: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None, is_next: bool
) -> Any:
    """A method of a file that was given an executor."""
    call = partial(getattr(file._file, name), *args, **kwargs or {})
    result = await file._loop.run_in_executor(file._executor, call)
    if is_next and not result:
        raise StopAsyncIteration
    return result


class AsyncBase(File):
    """A file; its io object is made when it is asked for, or when C does not do."""


class AsyncIndirectBase(AsyncBase):
    """A file that is looked up anew for every call."""

    def __init__(
        self,
        name: str,
        loop: AbstractEventLoop | None,
        executor: Executor | None,
        indirect: Callable[[], Any],
    ) -> None:
        self._indirect = indirect
        self._name = name
        super().__init__(None, loop, executor)

    @property
    def _file(self) -> Any:
        return self._indirect()

    @_file.setter
    def _file(self, v: Any) -> None:
        pass


class AiofilesContextManager(Awaitable[Any], AbstractAsyncContextManager[Any]):
    """What open() returns: to be awaited, or entered."""

    __slots__ = ("_coro", "_obj")

    def __init__(self, coro: Awaitable[Any]) -> None:
        self._coro = coro
        self._obj: Any = None

    def __await__(self) -> Any:
        if self._obj is None:
            self._obj = yield from self._coro.__await__()
        return self._obj

    async def __aenter__(self) -> Any:
        return await self

    async def __aexit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        await run_blocking(self._obj._file.__exit__, exc_type, exc_val, exc_tb)
        self._obj = None


AiofilesContextManager.register(FileOpening)
