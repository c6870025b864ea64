"""Calls of several callers in one request: a Gatherer for each kind of them and each event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from arshai_native._gather import Gatherer

# Queries in a request of several callers; Milvus takes 16,384. Milvus 2.3.5 answers 2,400 queries
# a second in requests of 10, 4,900 in those of 50, 5,400 in those of 100 and 5,800 in those of
# 200; more of them only make everybody wait for a longer request.
GATHERED_QUERIES = 100
# Requests under way for one kind of call.
GATHERED_REQUESTS = 2
# Seconds that a call waits for one under way before it goes all the same.
_WAIT = 0.05
_BYTES = 8 << 20

# After these a request of several callers is not taken apart: it was none of theirs.
_NOT_THEIRS = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)


class Together:
    """The gatherers of one plan."""

    __slots__ = ("_gatherers",)

    def __init__(self) -> None:
        self._gatherers: dict[Any, tuple[Any, Gatherer]] = {}

    def find(self, group: Any) -> Gatherer | None:
        """Of the running loop's calls of that group."""
        loop = asyncio.get_running_loop()
        found = self._gatherers.get((id(loop), group))
        return found[1] if found is not None and found[0] is loop else None

    def make(
        self, group: Any, send: Callable[[list[Any]], Awaitable[Any]], most: int = _BYTES
    ) -> Gatherer:
        """most: of a request, in whatever the callers give the size of their items in."""
        loop = asyncio.get_running_loop()
        # A loop that has ended may have had the same address.
        for key, (other, _) in list(self._gatherers.items()):
            if other.is_closed():
                self._gatherers.pop(key, None)
        gatherer = Gatherer(
            send,
            batch=GATHERED_QUERIES,
            max_bytes=most,
            limit=GATHERED_REQUESTS,
            wait=_WAIT,
            divisible=_is_divisible,
        )
        self._gatherers[id(loop), group] = (loop, gatherer)
        return gatherer


def gathered(gatherer: Gatherer, item: Any, size: int, timeout: Any) -> Awaitable[Any]:
    """
    A list of one caller's result, None in it if it has to go alone; TimeoutError when its time is
    over. A request that nobody waits for any longer is cancelled, so it needs no deadline of its
    own.
    """
    call = gatherer.call([item], size)
    return call if timeout is None else _in_time(call, timeout)


async def _in_time(call: Awaitable[Any], timeout: float) -> Any:
    async with asyncio.timeout(timeout):
        return await call


def _is_divisible(error: Exception) -> bool:
    return not (isinstance(error, grpc.RpcError) and error.code() in _NOT_THEIRS)
