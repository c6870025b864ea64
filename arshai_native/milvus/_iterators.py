"""What pymilvus's asynchronous client lacks: its iterators, and list_loaded_segments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, TypeVar

from pymilvus import MilvusClient
from pymilvus.client.grpc_handler import GrpcHandler
from pymilvus.client.search_iterator import SearchIteratorV2
from pymilvus.orm.iterator import QueryIterator, SearchIterator

from ._asyncify import asyncified, opening

_Self = TypeVar("_Self", bound="_Pages")


@functools.cache
def query_segment_info() -> Any:
    return asyncified(GrpcHandler.get_query_segment_info)


@functools.cache
def _list_loaded_segments() -> Any:
    return asyncified(MilvusClient.list_loaded_segments)


@functools.cache
def _query_iterator() -> Any:
    return asyncified(
        MilvusClient.query_iterator, {"QueryIterator": opening(asyncified(QueryIterator))}
    )


@functools.cache
def _search_iterator() -> Any:
    return asyncified(
        MilvusClient.search_iterator,
        {
            "SearchIterator": opening(asyncified(SearchIterator)),
            "SearchIteratorV2": opening(asyncified(SearchIteratorV2)),
        },
    )


class _Pages:
    """
    An iterator of pymilvus's whose next() is awaited.

    It opens with the first page, or when it is awaited itself, and then raises what pymilvus's
    constructor raises. Like pymilvus's it is one task's.
    """

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self._make = make
        self._iterator: Any = None

    async def _opened(self: _Self) -> _Self:
        if self._iterator is None:
            self._iterator = await self._make()
        return self

    def __await__(self: _Self) -> Generator[Any, Any, _Self]:
        return self._opened().__await__()

    async def next(self) -> Any:
        """The next page; an empty one, or None, when there are no more."""
        await self._opened()
        return await self._iterator.next()

    async def close(self) -> None:
        if self._iterator is not None:
            self._iterator.close()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self  # type: ignore[return-value]

    async def __anext__(self) -> Any:
        page = await self.next()
        if page is None or len(page) == 0:
            raise StopAsyncIteration
        return page

    async def __aenter__(self: _Self) -> _Self:
        return await self._opened()

    async def __aexit__(self, *_: Any) -> None:
        await self.close()


class AsyncSearchIterator(_Pages):
    """Pages of a search: `async for page in client.search_iterator(...)`."""


class AsyncQueryIterator(_Pages):
    """Pages of a query: `async for page in client.query_iterator(...)`."""

    def get_cursor(self) -> Any:
        """As pymilvus's, of an iterator that is open."""
        return self._iterator.get_cursor()


_WORDS = ("__doc__", "__name__", "__qualname__")


class IteratorMethods:
    """Methods of MilvusClient for a client whose _get_connection() is a coroutine."""

    # pymilvus's documentation of them is kept; their arguments are looked at when they are called.
    @functools.wraps(MilvusClient.search_iterator, assigned=_WORDS)
    def search_iterator(self, *args: Any, **kwargs: Any) -> AsyncSearchIterator:
        _bound(MilvusClient.search_iterator, self, args, kwargs)
        return AsyncSearchIterator(functools.partial(_search_iterator(), self, *args, **kwargs))

    @functools.wraps(MilvusClient.query_iterator, assigned=_WORDS)
    def query_iterator(self, *args: Any, **kwargs: Any) -> AsyncQueryIterator:
        _bound(MilvusClient.query_iterator, self, args, kwargs)
        return AsyncQueryIterator(functools.partial(_query_iterator(), self, *args, **kwargs))

    @functools.wraps(MilvusClient.list_loaded_segments, assigned=_WORDS)
    async def list_loaded_segments(self, *args: Any, **kwargs: Any) -> list[Any]:
        found: list[Any] = await _list_loaded_segments()(self, *args, **kwargs)
        return found


def _bound(function: Any, client: Any, args: Any, kwargs: Any) -> None:
    """A wrong call is a TypeError at once, not with the first page."""
    inspect.signature(function).bind(client, *args, **kwargs)
