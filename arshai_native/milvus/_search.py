"""search and hybrid_search: a template for everything but the vectors, and these from C."""

from __future__ import annotations

import asyncio
import copy
import time
from typing import Any

import grpc
import numpy as np
from pymilvus.client import ts_utils
from pymilvus.client.abstract import AnnSearchRequest, BaseRanker
from pymilvus.client.prepare import Prepare
from pymilvus.client.search_result import SearchResult
from pymilvus.client.types import get_consistency_level
from pymilvus.grpc_gen import common_pb2

from arshai_native._gather import Gatherer

from . import _sdk, _wire
from ._sdk import PEER, SERVICE
from ._template import HYBRID, SEARCH, Timestamp, Unfreezable, freeze, template

_SEARCH = SERVICE + "Search"
_HYBRID = SERVICE + "HybridSearch"

_search_watch = _sdk.watch(
    "search",
    "search",
    "_execute_search",
    "_get_schema",
    prepare=("search_requests_with_expr", "_prepare_placeholder_str"),
    timestamps=("construct_guarantee_ts", "get_collection_ts"),
    result=True,
)

# Options that have a meaning before or beside the request.
UNUSUAL = frozenset(("log_level", "log-level", "schema", "context", "iterator"))
# Options that are about how it is sent, not what.
_APART = frozenset(("retry_times", "retry_on_rate_limit", "client_request_id", "client-request-id"))
# Options with which searches still travel together: the others may look at the request as a whole.
_COMBINABLE = frozenset(("consistency_level", "round_decimal", "guarantee_timestamp"))

# Queries in a request of several callers; Milvus takes 16,384. Milvus 2.3.5 answers 2,400 queries
# a second in requests of 10, 4,900 in those of 50, 5,400 in those of 100 and 5,800 in those of
# 200; more of them only make everybody wait for a longer request.
GATHERED_QUERIES = 100
# Requests under way for one kind of search.
_GATHERED_REQUESTS = 2
# Seconds that a search waits for one under way before it goes all the same.
_GATHERED_WAIT = 0.05
_GATHERED_BYTES = 8 << 20

# After these a request of several callers is not taken apart: it was none of theirs.
_NOT_THEIRS = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)


def follows_writes(options: dict[str, Any]) -> bool:
    """Whether pymilvus asks for what this client has written last to be seen."""
    level = options.get("consistency_level")
    return level is None or get_consistency_level(level) == common_pb2.ConsistencyLevel.Session


def last_write(collection: str, client: Any) -> int:
    address, database = client._handler.server_address, client._config.db_name
    written: int = ts_utils.get_collection_ts(collection, address, database)
    return written or ts_utils.get_eventually_ts()


class Unencodable(Exception):
    """Vectors that are for pymilvus to encode, or to refuse."""


# ---- vectors ----


def kind_of(data: Any) -> Any:
    """What the first vector, which decides it for pymilvus, makes of the others; None: unknown."""
    if type(data) is list:
        if not data:
            return None
        first = data[0]
        kind = type(first)
        if kind is np.ndarray:
            return (first.dtype.str, first.ndim)
        if kind is list:
            # A list of pairs is a sparse vector.
            return kind if first and type(first[0]) in (float, int) else "list"
        return kind
    if type(data) is np.ndarray:
        return (data.dtype.str, data.ndim - 1) if data.ndim == 2 and len(data) else None
    return None


# Of these several callers' vectors may stand in one list.
def _is_gatherable(kind: Any) -> bool:
    return kind is list or kind is bytes or kind is str or kind is dict or type(kind) is tuple


def encoded(data: Any, vector_type: Any) -> tuple[bytes, int]:
    """The vectors as a PlaceholderGroup, and their number."""
    vectors = _wire.placeholders(data, vector_type)
    if vectors is None:
        raise Unencodable
    return vectors, data.shape[0] if hasattr(data, "shape") else len(data)


async def vector_type_of(
    client: Any, handler: Any, collection: Any, field: Any, timeout: Any, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Of vectors in bytes only the collection's schema says what they are."""
    context = client._generate_call_context(**kwargs)
    schema, _ = await handler._get_schema(collection, timeout=timeout, context=context, **kwargs)
    return schema, Prepare._get_vector_type_from_schema(schema, field) if field else None


# ---- what both have in common ----


def is_timeout(timeout: Any) -> bool:
    return timeout is None or (type(timeout) in (int, float) and timeout > 0)


async def native_channel_of(client: Any, kwargs: dict[str, Any]) -> Any:
    """The channel for a call, None if pymilvus must make it."""
    if client._closed or not _sdk.is_plain(client) or not UNUSUAL.isdisjoint(kwargs):
        return None
    handler = client._handler
    if handler is None:
        handler = await client._get_connection()
    channel = getattr(handler, "native", None)
    return None if channel is None or channel.added_metadata() is None else channel


def split_options(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that are part of the request, and those that are not."""
    if not kwargs or _APART.isdisjoint(kwargs):
        return kwargs, {}
    return (
        {name: value for name, value in kwargs.items() if name not in _APART},
        {name: value for name, value in kwargs.items() if name in _APART},
    )


# ---- search ----


class SearchPlan:
    """A kind of search: all of its request but the vectors and the timestamp."""

    __slots__ = ("combinable", "gatherers", "head", "round_decimal", "timestamp")

    def __init__(self, captured: _sdk.Captured, options: dict[str, Any]) -> None:
        cleared = ["nq", "placeholder_group"]
        self.timestamp = None
        if follows_writes(options):
            cleared.append("guarantee_timestamp")
            self.timestamp = Timestamp(SEARCH.guarantee_timestamp)
        self.head = template(captured.request, *cleared)
        self.round_decimal = captured.round_decimal
        self.combinable = _COMBINABLE.issuperset(options)
        self.gatherers: dict[Any, tuple[Any, Gatherer]] = {}

    def message(self, client: Any, collection: str, vectors: bytes, count: int) -> bytes:
        head = self.head
        if self.timestamp is not None:
            head += self.timestamp.bytes(last_write(collection, client))
        return head + SEARCH.placeholder_group.data(vectors) + SEARCH.nq.integer(count)


async def search(
    client: Any,
    collection: Any,
    data: Any,
    options: dict[str, Any],
    timeout: Any,
    kwargs: dict[str, Any],
) -> Any:
    """options: search's other named arguments. Returns PEER if the call is for pymilvus."""
    if not _search_watch.intact() or type(collection) is not str or not is_timeout(timeout):
        return PEER
    kind = kind_of(data)
    if kind is None:
        return PEER
    channel = await native_channel_of(client, kwargs)
    if channel is None:
        return PEER
    named, apart = split_options(kwargs)
    schema = vector_type = None
    try:
        if kind is bytes:
            schema, vector_type = await vector_type_of(
                client, client._handler, collection, options["anns_field"], timeout, kwargs
            )
        key = ("search", collection, vector_type, freeze(options), freeze(named))
        plan = client._plans.get(key)
        if plan is None:
            plan = _search_plan(client, collection, data, schema, options, named)
            client._plans.keep(key, plan)
    except Exception:  # pymilvus says it in its own words
        return PEER
    started = time.monotonic()
    try:
        if (
            client._gather
            and plan.combinable
            and not apart
            and _is_gatherable(kind)
            and len(data) < GATHERED_QUERIES
        ):
            return await _gathered(
                plan, client, collection, list(data), (kind, vector_type, timeout)
            )
        context = client._generate_call_context(**apart)
        return await _send(plan, client, collection, data, vector_type, timeout, context)
    except Unencodable:
        return PEER
    except Exception as error:
        return await _sdk.replay(
            client, "search", "search", error, started, timeout, collection, data=data,
            **options, **kwargs,
        )  # fmt: skip


def _search_plan(
    client: Any,
    collection: str,
    data: Any,
    schema: Any,
    options: dict[str, Any],
    named: dict[str, Any],
) -> SearchPlan:
    captured = _sdk.record(
        client, schema, "search", collection, data=data, **copy.deepcopy(options | named)
    )
    if captured is None or captured.method != "Search":
        raise Unencodable
    return SearchPlan(captured, named)


async def _send(
    plan: SearchPlan,
    client: Any,
    collection: str,
    data: Any,
    vector_type: Any,
    timeout: Any,
    context: Any,
) -> SearchResult:
    vectors, count = encoded(data, vector_type)
    channel = client._handler.native
    metadata = (*context.to_grpc_metadata(), *channel.added_metadata())
    message = plan.message(client, collection, vectors, count)
    reply = await channel.send(_SEARCH, message, timeout, metadata)
    result = _wire.search_result(reply, plan.round_decimal)
    if result.extra:
        # What the search has cost is told of the request: each search gets one of its own.
        client._gather = False
    return result


# ---- searches of several callers in one request ----


class _Answers:
    """The result of a request, of which each caller takes its part."""

    __slots__ = ("result",)

    def __init__(self, result: SearchResult) -> None:
        self.result = result

    def __getitem__(self, part: slice) -> SearchResult:
        result = SearchResult.__new__(SearchResult)
        result.__dict__.update(self.result.__dict__)
        result.extra = dict(self.result.extra)
        if self.result.recalls is not None:
            result.recalls = self.result.recalls[part]
        list.extend(result, list.__getitem__(self.result, part))
        return result


class _Incomplete(Exception):
    """There is not one answer for each query."""


async def _gathered(
    plan: SearchPlan, client: Any, collection: str, rows: list[Any], group: tuple[Any, Any, Any]
) -> SearchResult:
    _, vector_type, timeout = group
    loop = asyncio.get_running_loop()
    found = plan.gatherers.get((id(loop), group))
    if found is None or found[0] is not loop:

        async def send(rows: list[Any]) -> Any:
            context = client._generate_call_context()
            result = await _send(plan, client, collection, rows, vector_type, timeout, context)
            if len(result) != len(rows):
                raise _Incomplete
            return _Answers(result)

        for each in [each for each, kept in plan.gatherers.items() if kept[0].is_closed()]:
            plan.gatherers.pop(each, None)
        found = (
            loop,
            Gatherer(
                send,
                batch=GATHERED_QUERIES,
                limit=_GATHERED_REQUESTS,
                wait=_GATHERED_WAIT,
                divisible=_is_divisible,
                max_bytes=_GATHERED_BYTES,
            ),
        )
        plan.gatherers[(id(loop), group)] = found
    size = sum(map(_size, rows))
    async with asyncio.timeout(timeout):
        answer = await found[1].call(rows, size)
    return answer.result if type(answer) is _Answers else answer


def _size(vector: Any) -> int:
    return vector.nbytes if type(vector) is np.ndarray else 8 * len(vector)


def _is_divisible(error: Exception) -> bool:
    return not (isinstance(error, grpc.RpcError) and error.code() in _NOT_THEIRS)
