"""What native calls take from pymilvus instead of having it a second time.

A method of pymilvus's client says what it sends when it is called on a recorder in place of a
client that is connected (record). An attempt that failed is told to pymilvus's own method as its
first attempt's outcome (replay), so that retries, refreshed schemas, exceptions and log lines are
pymilvus's. And a method that somebody has replaced is noticed (Watch).
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pymilvus
from pymilvus.client import ts_utils
from pymilvus.client.async_grpc_handler import AsyncGrpcHandler
from pymilvus.client.prepare import Prepare
from pymilvus.client.search_result import SearchResult
from pymilvus.decorators import retry_on_rpc_failure, retry_on_schema_mismatch
from pymilvus.exceptions import MilvusException

from arshai_native._core import type_tag, unchanged
from arshai_native._original import drive, is_from

PEER = pymilvus.AsyncMilvusClient
SERVICE = "/milvus.proto.milvus.MilvusService/"
_SDK = os.path.join(str(Path(pymilvus.__file__).parent), "")
_OURS = os.path.join(str(Path(__file__).parent), "")


# ---- whether it is still pymilvus's ----


class Watch:
    """
    Whether functions are where pymilvus put them. Asked before each call, so it has to be quick:
    as long as nobody changes the classes they are as they were.
    """

    def __init__(self, *places: tuple[Any, str]) -> None:
        self._places = places
        self._classes = list({owner for owner, _ in places if isinstance(owner, type)})
        self._others = [place for place in places if not isinstance(place[0], type)]
        self._known: tuple[tuple[Any, ...], ...] = ((type, 0),)  # never as it was

    def intact(self) -> bool:
        return unchanged(self._known) or self._look()

    def places(self) -> tuple[tuple[Any, ...], ...]:
        """For unchanged(), if it was intact."""
        return self._known

    def _look(self) -> bool:
        known: list[tuple[Any, ...]] = [(each, type_tag(each)) for each in self._classes]
        known += [(vars(owner), name, vars(owner).get(name)) for owner, name in self._others]
        if not all(is_from(vars(owner).get(name), _SDK) for owner, name in self._places):
            return False
        self._known = tuple(known)
        return True


# What of a client has a say in each of its requests.
_CLIENT_HOOKS = (
    "_get_connection",
    "_connect",
    "_generate_call_context",
    "_with_cluster_id",
    "_pack_pks_expr",
    "_extract_primary_field",
)


class Plain:
    """Whether nobody has put code of their own beneath a client's methods."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known = (0, 0)

    def known(self) -> tuple[int, int]:
        """The class's tag and the number of attributes of a client that it was true of."""
        return self._known

    def still(self, client: Any) -> bool:
        kind = type(client)
        own = client.__dict__
        # An attribute more may be a hook.
        known = (type_tag(kind), len(own))
        if known == self._known and known[0]:
            return True
        values = [getattr(kind, name, None) for name in _CLIENT_HOOKS]
        if any(name in own for name in _CLIENT_HOOKS) or not all(
            value is None or is_from(value, _SDK) or is_from(value, _OURS) for value in values
        ):
            return False
        self._known = known
        return True


def watch(*methods: str, **others: Any) -> Watch:
    """Of methods that the peer's client and its handler have by the same or another name."""
    places: list[tuple[Any, str]] = [(PEER, methods[0])]
    places += [(AsyncGrpcHandler, name) for name in methods[1:]]
    places += [(Prepare, name) for name in others.get("prepare", ())]
    places += [(ts_utils, name) for name in others.get("timestamps", ())]
    if others.get("result"):
        places.append((SearchResult, "__init__"))
    return Watch(*places)


# ---- what a method sends ----


class Captured(BaseException):
    """A request that was about to be sent. No Exception: nothing in between is to catch it."""

    def __init__(self, method: str, request: Any, round_decimal: Any = -1) -> None:
        super().__init__()
        self.method = method
        self.request = request
        self.round_decimal = round_decimal


class _Stub:
    def __getattr__(self, name: str) -> Any:
        async def call(request: Any, **_: Any) -> None:
            raise Captured(name, request)

        return call


class _RecordingHandler(AsyncGrpcHandler):
    """A handler that has a schema and sends nothing."""

    def __init__(self, address: str, schema: dict[str, Any] | None) -> None:
        # Not the base's: there is no channel.
        self._address = address
        self._schema = schema
        self._async_stub = _Stub()

    async def _get_schema(self, *_: Any, **__: Any) -> tuple[dict[str, Any], int]:
        if self._schema is None:
            raise LookupError("the schema is not known")
        return self._schema, self._schema.get("update_timestamp", 0)

    async def _execute_search(self, request: Any, *_: Any, **options: Any) -> None:
        raise Captured("Search", request, options.get("round_decimal", -1))

    async def _execute_hybrid_search(self, request: Any, *_: Any, **options: Any) -> None:
        raise Captured("HybridSearch", request, options.get("round_decimal", -1))


_RAW = {
    name: inspect.unwrap(getattr(AsyncGrpcHandler, name))
    for name in ("search", "hybrid_search", "query", "insert_rows", "upsert_rows", "delete")
}
for _name, _function in _RAW.items():
    setattr(_RecordingHandler, _name, _function)


class _Standin:
    """A client whose connection is another one, and whose database may be."""

    def __init__(self, client: Any, handler: Any, database: str | None = None) -> None:
        self._client = client
        self._standin_handler = handler
        self._config = copy.copy(client._config)
        if database is not None:
            self._config.db_name = database

    def _generate_call_context(self, **kwargs: Any) -> Any:
        return type(self._client)._generate_call_context(self, **kwargs)

    async def _get_connection(self) -> Any:
        return self._standin_handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def record(
    client: Any, schema: dict[str, Any] | None, name: str, *args: Any, **kwargs: Any
) -> Captured | None:
    """
    What the peer's method of that name would send for these arguments; None if it would not send
    anything, or not at once: then it has something else to say, and gets to say it.
    """
    handler = _RecordingHandler(client._handler.server_address, schema)
    coroutine = getattr(PEER, name)(_Standin(client, handler), *args, **kwargs)
    try:
        drive(coroutine)
    except Captured as captured:
        # Its traceback would be a cycle through this frame, which keeps the caller's, too.
        return captured.with_traceback(None)
    except Exception:
        return None
    return None


# ---- attempts after the first ----

# A deadline that is exceeded so shortly before the timeout is over, in seconds, is that one: the
# server may have been the first to notice.
_NEAR = 0.05


class _Replaying:
    """A handler that answers the first call of one method with what is known to come of it."""

    def __init__(self, handler: Any, name: str, error: Exception) -> None:
        self._handler = handler
        self._first = [] if isinstance(error, Indivisible) else [error]
        setattr(self, name, functools.partial(_replayed(name), handler, _first=self._first))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)


@functools.cache
def _replayed(name: str) -> Callable[..., Any]:
    """The handler's method with pymilvus's decorators, and a first outcome that is given."""
    raw = _RAW[name]

    @functools.wraps(raw)
    async def attempt(handler: Any, *args: Any, _first: list[Exception], **kwargs: Any) -> Any:
        if _first:
            raise _first.pop()
        return await raw(handler, *args, **kwargs)

    decorated: Callable[..., Any] = attempt
    if name in ("insert_rows", "upsert_rows"):
        decorated = retry_on_schema_mismatch()(decorated)
    if _is_retried(name):
        decorated = retry_on_rpc_failure()(decorated)
    return decorated


def _is_retried(name: str) -> bool:
    return hasattr(getattr(AsyncGrpcHandler, name), "__wrapped__")


class Indivisible(Exception):
    """What went as one request has not come back as one answer for each call in it."""


def begin(client: Any, database: str | None = None) -> tuple[float, str]:
    """When an attempt has begun, and in which database; the client may change its own meanwhile."""
    return time.monotonic(), client._config.db_name if database is None else database


async def replay(
    client: Any,
    name: str,
    method: str,
    error: Exception,
    begun: tuple[float, str],
    timeout: float | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """
    The peer's method (name) whose handler's method has had a first attempt that ended with an
    error; one that was Indivisible is none.
    """
    started, database = begun
    handler = client._handler
    if handler is None:
        if isinstance(error, Indivisible):
            return PEER
        raise error
    left = None
    if timeout is not None and _is_retried(method):
        left = started + timeout - time.monotonic()
        if isinstance(error, TimeoutError) or (left < _NEAR and _is_deadline(error)):
            # pymilvus waits no longer than that itself, and says so in its own words.
            error = TimeoutError()
            left = None
    standin = _Standin(client, _Replaying(handler, method, error), database)
    coroutine = getattr(PEER, name)(standin, *args, timeout=timeout, **kwargs)
    if left is None:
        return await coroutine
    try:
        return await asyncio.wait_for(coroutine, max(left, 0.001))
    except TimeoutError as late:
        raise MilvusException(message=f"[{method}] Retry timeout: {timeout}s") from late


def _is_deadline(error: Exception) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
