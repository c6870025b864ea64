"""Spooled files and directories that are temporary: aiofiles.tempfile.temptypes."""

from asyncio import AbstractEventLoop
from collections.abc import Iterable
from concurrent.futures import Executor
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..base import AsyncBase
from ..threadpool.utils import (
    _call,
    cond_delegate_to_executor,
    delegate_to_executor,
    proxy_property_directly,
)


@delegate_to_executor("fileno", "rollover")
@cond_delegate_to_executor(
    "close",
    "flush",
    "isatty",
    "read",
    "readline",
    "readlines",
    "seek",
    "tell",
    "truncate",
)
@proxy_property_directly("closed", "encoding", "mode", "name", "newlines")
class AsyncSpooledTemporaryFile(AsyncBase):
    """The asynchronous tempfile.SpooledTemporaryFile: as long as it is in memory, nothing waits."""

    if TYPE_CHECKING:
        closed: bool
        encoding: str
        mode: str
        name: str | None
        newlines: Any

        async def fileno(self) -> int: ...
        async def rollover(self) -> None: ...
        async def close(self) -> None: ...
        async def flush(self) -> None: ...
        async def isatty(self) -> bool: ...
        async def read(self, n: int = -1, /) -> Any: ...
        async def readline(self, limit: int | None = -1, /) -> Any: ...
        async def readlines(self, hint: int = -1, /) -> list[Any]: ...
        async def seek(self, offset: int, whence: int = 0, /) -> int: ...
        async def tell(self) -> int: ...
        async def truncate(self, size: int | None = None) -> int: ...

    async def __anext__(self) -> Any:
        if line := await self.readline():
            return line
        raise StopAsyncIteration

    async def write(self, s: Any) -> int:
        return await self._into("write", s)

    async def writelines(self, iterable: Iterable[Any]) -> None:
        await self._into("writelines", iterable)

    async def _into(self, name: str, data: Any) -> Any:
        """The io object behind is asked while it is in memory: the spooled file itself would move
        to the disk in the middle of its own method, on this thread."""
        if self._file._rolled:
            return await _call(self, name, (data,), {})
        result = getattr(self._file._file, name)(data)
        await self._check()
        return result

    async def _check(self) -> None:
        size = self._file._max_size
        if size and not self._file._rolled and self._file.tell() > size:
            await self.rollover()


@delegate_to_executor("cleanup")
@proxy_property_directly("name")
class AsyncTemporaryDirectory:
    """The asynchronous tempfile.TemporaryDirectory."""

    if TYPE_CHECKING:
        name: Any

        async def cleanup(self) -> None: ...

    def __init__(
        self,
        file: TemporaryDirectory[Any],
        loop: AbstractEventLoop | None,
        executor: Executor | None,
    ) -> None:
        self._file = file
        self._loop = loop
        self._executor = executor

    async def close(self) -> None:
        await self.cleanup()
