"""What all file objects share: aiofiles.base over native workers."""

from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from functools import partial, wraps
from typing import Any, Self

from arshai_native._core import run_blocking


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


class AsyncBase:
    readline: Callable[..., Awaitable[Any]]

    def __init__(
        self, file: Any, loop: AbstractEventLoop | None, executor: Executor | None
    ) -> None:
        self._file = file
        self._executor = executor
        self._ref_loop = loop

    @property
    def _loop(self) -> AbstractEventLoop:
        return self._ref_loop or get_running_loop()

    def __aiter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        return super().__repr__() + " wrapping " + repr(self._file)

    async def __anext__(self) -> Any:
        if line := await self.readline():
            return line
        raise StopAsyncIteration


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
        pass  # what __init__ sets


class AiofilesContextManager(Awaitable[Any], AbstractAsyncContextManager[Any]):
    """What open() returns: to be awaited, or entered."""

    __slots__ = ("_coro", "_obj")

    def __init__(self, coro: Awaitable[Any]) -> None:
        self._coro = coro
        self._obj = None

    def __await__(self) -> Any:
        if self._obj is None:
            self._obj = yield from self._coro.__await__()
        return self._obj

    async def __aenter__(self) -> Any:
        return await self

    async def __aexit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        assert self._obj is not None
        await run_blocking(self._obj._file.__exit__, exc_type, exc_val, exc_tb)
        self._obj = None
