"""search and hybrid_search: a template for everything but the vectors, and these from C."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from pymilvus.client import ts_utils
from pymilvus.client.prepare import Prepare
from pymilvus.client.types import get_consistency_level
from pymilvus.grpc_gen import common_pb2

from arshai_native import _core, _milvus_wire
from arshai_native._gather import Gatherer

from . import _sdk, _wire
from ._channel import NativeChannel
from ._sdk import PEER, SERVICE
from ._template import SEARCH, Timestamp, template
from ._together import Together, gathered

try:
    from pymilvus.client import call_context
except ImportError:  # another version of pymilvus
    call_context = None  # type: ignore[assignment]

_SEARCH = SERVICE + "Search"

_search_watch = _sdk.watch(
    "search",
    "search",
    "_execute_search",
    "_get_schema",
    prepare=("search_requests_with_expr", "_prepare_placeholder_str"),
    timestamps=("construct_guarantee_ts", "get_collection_ts"),
    result=True,
)

# Who writes the metadata of each call.
_context_watch = call_context and _sdk.Watch(
    (call_context.CallContext, "__init__"),
    (call_context.CallContext, "to_grpc_metadata"),
    (call_context, "current_time_ms"),
)

# Options that have a meaning before or beside the request.
UNUSUAL = frozenset(("log_level", "log-level", "schema", "context", "iterator"))
# Options that are about how it is sent, not what.
_APART = frozenset(("retry_times", "retry_on_rate_limit", "client_request_id", "client-request-id"))
# Options with which searches still travel together: the others may look at the request as a whole.
_COMBINABLE = frozenset(("consistency_level", "round_decimal", "guarantee_timestamp"))
_METADATA = ["dbname", "client-request-id", "client-request-unixmsec"]


def follows_writes(options: dict[str, Any]) -> bool:
    """Whether pymilvus asks for what this client has written last to be seen."""
    level = options.get("consistency_level")
    return level is None or get_consistency_level(level) == common_pb2.ConsistencyLevel.Session


def last_write(collection: str, client: Any, database: str | None = None) -> int:
    """database: the client's, unless it has another one by now."""
    if database is None:
        database = client._config.db_name
    written: int = ts_utils.get_collection_ts(collection, client._handler.server_address, database)
    return written or ts_utils.get_eventually_ts()


class Unencodable(Exception):
    """Something that is for pymilvus to encode, or to refuse."""


# ---- vectors ----


def is_bytes(data: Any) -> bool:
    """Of such vectors only the collection's schema says what they are."""
    return type(data) is list and bool(data) and type(data[0]) is bytes


def encoded(data: Any, vector_type: int) -> tuple[int, int, bytes]:
    """The vectors' placeholder type, their number, their encoding."""
    if type(data) is list:
        if any([type(vector) is tuple for vector in data]):
            raise Unencodable  # a tuple is a list to the encoder, but not to pymilvus's check
    elif type(data) is not np.ndarray:
        raise Unencodable
    if not _milvus_wire.vectors_agree():
        raise Unencodable
    vectors = _core.milvus_vectors(data, vector_type)
    if vectors is None:
        raise Unencodable
    return vectors


async def vector_type_of(
    client: Any, collection: Any, field: Any, timeout: Any, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """The schema, and the type of one of its fields."""
    context = client._generate_call_context(**kwargs)
    schema, _ = await client._handler._get_schema(
        collection, timeout=timeout, context=context, **kwargs
    )
    return schema, (Prepare._get_vector_type_from_schema(schema, field) if field else None) or 0


# ---- what both have in common ----


def is_timeout(timeout: Any) -> bool:
    return timeout is None or (type(timeout) in (int, float) and timeout > 0)


def native_channel_of(client: Any, kwargs: dict[str, Any]) -> Any:
    """The channel for a call, None if pymilvus must make it."""
    if client._closed or not client._plain.still(client):
        return None
    if kwargs and not UNUSUAL.isdisjoint(kwargs):
        return None
    channel = getattr(client._handler, "_async_channel", None)
    if type(channel) is not NativeChannel or channel.added_metadata() is None:
        return None
    return channel


async def first_channel(client: Any, kwargs: dict[str, Any]) -> Any:
    """native_channel_of() for a client that has not connected yet."""
    if client._handler is not None or client._closed or not client._plain.still(client):
        return None
    await client._get_connection()
    return native_channel_of(client, kwargs)


def metadata_of(client: Any, channel: Any, apart: dict[str, Any]) -> tuple[Any, ...]:
    """A call's metadata, its context's and the connection's."""
    context = client._generate_call_context(**apart)
    return (*context.to_grpc_metadata(), *channel.added_metadata())


def split_options(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that are part of the request, and those that are not."""
    if not kwargs or _APART.isdisjoint(kwargs):
        return kwargs, {}
    return (
        {name: value for name, value in kwargs.items() if name not in _APART},
        {name: value for name, value in kwargs.items() if name in _APART},
    )


# ---- search ----


class SearchPlan(_core.MilvusPlan):
    """A kind of search: all of its request but the vectors and the timestamp."""

    __slots__ = ("_timestamp", "together")

    def __init__(self, captured: _sdk.Captured, options: dict[str, Any]) -> None:
        cleared = ["nq", "placeholder_group"]
        field = None
        if follows_writes(options):
            field = SEARCH.guarantee_timestamp
            cleared.append("guarantee_timestamp")
        self._timestamp = None if field is None else Timestamp(field)
        self.together = Together()
        super().__init__(
            template(captured.request, *cleared),
            captured.round_decimal,
            0 if field is None else field.number,
            _COMBINABLE.issuperset(options),
        )

    def message(
        self,
        client: Any,
        collection: str,
        kind: int,
        count: int,
        vectors: list[bytes],
        database: str | None = None,
    ) -> bytes:
        head = self.head
        if self._timestamp is not None:
            head += self._timestamp.bytes(last_write(collection, client, database))
        return _core.milvus_search_request(head, kind, count, vectors)


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
    channel = native_channel_of(client, kwargs) or await first_channel(client, kwargs)
    if channel is None:
        return PEER
    named, apart = split_options(kwargs)
    schema, vector_type = None, 0
    try:
        if is_bytes(data):
            schema, vector_type = await vector_type_of(
                client, collection, options["anns_field"], timeout, kwargs
            )
        kind, count, vectors = encoded(data, vector_type)
        key = _core.plain_key(collection, *options.values(), named)
        if key is None:
            return PEER
        plan = client._plans.get(key)
        if plan is None:
            plan = _search_plan(client, collection, data, schema, options, named)
            client._plans.keep(key, plan)
        if schema is None and not apart:  # else all searches like it go this way
            _bind(client, channel)
        gathers = count == 1 and client._gather and plan.combinable and not apart
        if not gathers:
            metadata = metadata_of(client, channel, apart)
            message = plan.message(client, collection, kind, count, [vectors])
    except Exception:  # pymilvus says it in its own words
        return PEER
    begun = _sdk.begin(client)
    try:
        if gathers:
            gatherer = _gatherer(plan, client, collection, kind)
            (found,) = await gathered(gatherer, vectors, len(vectors), timeout)
            if found is None:
                raise _sdk.Indivisible
            return found
        reply = await channel.send(_SEARCH, message, timeout, metadata)
        return _wire.search_result(reply, plan.round_decimal)
    except Exception as error:
        return await _sdk.replay(
            client, "search", "search", error, begun, timeout, collection, data=data,
            **options, **kwargs,
        )  # fmt: skip


# ---- searches in C, from the second one of a kind on ----


def caller() -> _core.MilvusCaller | None:
    """What makes a client's searches; None: another version of pymilvus is installed."""
    if _wire.replies is None or _context_watch is None or not _milvus_wire.vectors_agree():
        return None
    return _core.MilvusCaller(_wire.replies, UNUSUAL | _APART | {"ids"}, last_write)


def _bind(client: Any, channel: NativeChannel) -> None:
    """
    The client's caller knows it as this search, one of pymilvus's own kind, has found it: not as
    it is by now, as another thread may be changing it.
    """
    if client._caller is None or not _context_watch.intact():
        return
    metadata = client._generate_call_context().to_grpc_metadata()
    names = [name for name, _ in metadata]
    # The last of them is the time, which is another one for each call.
    if names != _METADATA or metadata[1][1] or not metadata[2][1].isdecimal():
        return
    database = metadata[0][1]
    count, added = channel.added()
    if type(database) is not str or added is None:
        return
    kind = type(client)
    tag, attributes = client._plain.known()
    client._caller.bind(
        kind,
        attributes,
        database,
        client._handler,
        channel,
        channel._core,
        channel._unary_unary_interceptors,
        count,
        (
            (kind, tag),
            (NativeChannel, _core.type_tag(NativeChannel)),
            *_search_watch.places(),
            *_context_watch.places(),
        ),
        (*metadata[:2], *added),
        _SEARCH,
    )


async def started(
    client: Any,
    request: Any,
    collection: str,
    data: Any,
    options: dict[str, Any],
    timeout: Any,
    kwargs: dict[str, Any],
) -> Any:
    """The outcome of what the client's caller has made of these arguments; PEER as search()."""
    begun = _sdk.begin(client)
    try:
        if type(request) is not tuple:
            channel = getattr(client._handler, "_async_channel", None)
            if type(channel) is not NativeChannel:  # another thread was here
                request.close()
                return PEER
            found = await channel.outcome(request)
            return _wire.search_result(*found) if type(found) is tuple else found
        plan, kind, vectors = request
        gatherer = _gatherer(plan, client, collection, kind)
        (found,) = await gathered(gatherer, vectors, len(vectors), timeout)
        if found is None:
            raise _sdk.Indivisible
        return found
    except Exception as error:
        return await _sdk.replay(
            client, "search", "search", error, begun, timeout, collection, data=data,
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


def _gatherer(plan: SearchPlan, client: Any, collection: str, kind: int) -> Gatherer:
    """Of searches that are alike, in one database: a client may change its own meanwhile."""
    database = client._config.db_name
    found = plan.together.find((database, kind))
    if found is not None:
        return found
    context = client._generate_call_context()

    async def send(vectors: list[bytes]) -> Any:
        channel = native_channel_of(client, {})
        if channel is None:  # it was replaced by one of grpc's
            raise _sdk.Indivisible
        metadata = (*context.to_grpc_metadata(), *channel.added_metadata())
        count = len(vectors)
        message = plan.message(client, collection, kind, count, vectors, database)
        reply = await channel.send(_SEARCH, message, None, metadata)
        if count == 1:
            return [_wire.search_result(reply, plan.round_decimal)]
        return _wire.search_results(reply, plan.round_decimal, count)

    return plan.together.make((database, kind), send)
