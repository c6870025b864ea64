"""query, get and delete: a template for everything but the expression."""

from __future__ import annotations

import copy
from typing import Any

from pymilvus.client import ts_utils
from pymilvus.client.types import DataType, OmitZeroDict

from arshai_native._core import plain_key
from arshai_native._gather import Gatherer

from . import _sdk, _wire
from ._sdk import PEER, SERVICE
from ._search import (
    first_channel,
    follows_writes,
    is_timeout,
    last_write,
    metadata_of,
    native_channel_of,
    split_options,
)
from ._template import DELETE, QUERY, Timestamp, template
from ._together import GATHERED_QUERIES, Together, gathered

_QUERY = SERVICE + "Query"
_DELETE = SERVICE + "Delete"

_TIMESTAMPS = ("construct_guarantee_ts", "get_collection_ts")
_WATCHES = {
    "query": _sdk.watch(
        "query", "query", "_get_schema", prepare=("query_request",), timestamps=_TIMESTAMPS
    ),
    "get": _sdk.watch(
        "get", "query", "_get_schema", prepare=("query_request",), timestamps=_TIMESTAMPS
    ),
    "delete": _sdk.watch(
        "delete",
        "delete",
        "_get_schema",
        prepare=("delete_request",),
        timestamps=("update_collection_ts",),
    ),
}


# Keys of a call that is still gathered.
GATHERED_KEYS = 16
# Options with which rows are still fetched together.
_COMBINABLE = frozenset(("consistency_level", "guarantee_timestamp"))


class _QueryPlan:
    """
    A kind of query: all of its request but the expression and the timestamp.

    in_order: as far as is known the server returns rows in the order of their keys, so that those
    of several callers can be told apart in the order that each would have got them in.
    """

    __slots__ = ("combinable", "head", "in_order", "strict", "timestamp", "together")

    def __init__(self, captured: _sdk.Captured, options: dict[str, Any]) -> None:
        cleared = ["expr"]
        self.timestamp = None
        if follows_writes(options):
            cleared.append("guarantee_timestamp")
            self.timestamp = Timestamp(QUERY.guarantee_timestamp)
        self.head = template(captured.request, *cleared)
        self.strict = bool(options.get("strict_float32", False))
        self.combinable = _COMBINABLE.issuperset(options)
        self.together = Together()
        self.in_order = True

    def message(
        self, client: Any, collection: str, expression: str, database: str | None = None
    ) -> bytes:
        head = self.head
        if self.timestamp is not None:
            head += self.timestamp.bytes(last_write(collection, client, database))
        return head + QUERY.expr.data(expression.encode()) if expression else head


async def query(
    client: Any,
    name: str,
    collection: Any,
    filter: Any,
    ids: Any,
    options: dict[str, Any],
    timeout: Any,
    kwargs: dict[str, Any],
) -> Any:
    """query or get (name). options: output_fields, partition_names. PEER: it is for pymilvus."""
    if (
        not _WATCHES[name].intact()
        or type(collection) is not str
        or type(filter) is not str
        or not is_timeout(timeout)
    ):
        return PEER
    if ids is not None and not (type(ids) is list and ids and not filter):
        return PEER
    channel = native_channel_of(client, kwargs) or await first_channel(client, kwargs)
    if channel is None:
        return PEER
    named, apart = split_options(kwargs)
    try:
        expression, schema = filter, None
        if ids is not None:
            expression, schema = await _expression(client, collection, ids, timeout, kwargs)
        kind = plain_key(name, collection, options, named)
        if kind is None:
            return PEER
        plan = client._plans.get(kind)
        if plan is None:
            arguments = copy.deepcopy(options | named)
            if name == "get":
                arguments["ids"] = ids
            captured = _sdk.record(client, schema, name, collection, **arguments)
            if captured is None or captured.method != "Query":
                return PEER
            plan = _QueryPlan(captured, named)
            client._plans.keep(kind, plan)
        keys = None
        if ids is not None and client._gather and plan.combinable and not apart:
            keys = _gatherable(client, schema, plan, ids)
        if keys is None:
            metadata = metadata_of(client, channel, apart)
            message = plan.message(client, collection, expression)
    except Exception:  # pymilvus says it in its own words
        return PEER
    begun = _sdk.begin(client)
    try:
        if keys is not None:
            gatherer = _gatherer(plan, client, collection)
            (found,) = await gathered(gatherer, keys, len(keys), timeout)
            return found
        reply = await channel.send(_QUERY, message, timeout, metadata)
        return _wire.query_result(reply, plan.strict)
    except Exception as error:
        arguments = options | kwargs
        if name == "query":
            arguments["filter"] = filter
        return await _sdk.replay(
            client, name, "query", error, begun, timeout, collection, ids=ids, **arguments
        )


# ---- rows of several callers in one request ----


def _gatherable(
    client: Any, schema: Any, plan: _QueryPlan, ids: list[Any]
) -> tuple[Any, ...] | None:
    """The keys, if they are few, of the collection's kind, and only keys in an expression."""
    if len(ids) > (GATHERED_KEYS if plan.in_order else 1):
        return None
    kind = client._extract_primary_field(schema)["type"]
    if kind == DataType.INT64:
        alike = all([type(key) is int for key in ids])
    else:
        alike = kind == DataType.VARCHAR and all(
            [type(key) is str and "'" not in key and "\\" not in key for key in ids]
        )
    return tuple(ids) if alike else None


def _gatherer(plan: _QueryPlan, client: Any, collection: str) -> Gatherer:
    """Of rows that are fetched alike, in one database: as for searches."""
    database = client._config.db_name
    found = plan.together.find(database)
    if found is not None:
        return found
    context = client._generate_call_context()

    async def send(calls: list[tuple[Any, ...]]) -> list[Any]:
        channel = native_channel_of(client, {})
        if channel is None:  # it was replaced by one of grpc's
            raise _sdk.Indivisible
        # Backwards: rows that come in the order of their keys do so whatever is asked for.
        keys = list(calls[0]) if len(calls) == 1 else sorted(set().union(*calls), reverse=True)
        expression, schema = await _expression(client, collection, keys, None, {}, context)
        metadata = (*context.to_grpc_metadata(), *channel.added_metadata())
        message = plan.message(client, collection, expression, database)
        reply = await channel.send(_QUERY, message, None, metadata)
        result = _wire.query_result(reply, plan.strict)
        if len(calls) == 1:
            return [result]
        try:
            return _wire.rows_of(result, client._extract_primary_field(schema)["name"], calls)
        except _sdk.Indivisible:
            plan.in_order = False
            raise

    return plan.together.make(database, send, GATHERED_QUERIES)


async def _expression(
    client: Any,
    collection: str,
    ids: list[Any],
    timeout: Any,
    kwargs: dict[str, Any],
    context: Any = None,
) -> tuple[str, dict[str, Any]]:
    if context is None:
        context = client._generate_call_context(**kwargs)
    schema, _ = await client._handler._get_schema(
        collection, timeout=timeout, context=context, **kwargs
    )
    return client._pack_pks_expr(schema, ids), schema


async def delete(
    client: Any,
    collection: Any,
    ids: Any,
    filter: Any,
    partition: Any,
    timeout: Any,
    kwargs: dict[str, Any],
) -> Any:
    """PEER: it is for pymilvus."""
    if (
        not _WATCHES["delete"].intact()
        or type(collection) is not str
        or not is_timeout(timeout)
        or "pks" in kwargs
    ):
        return PEER
    if type(ids) is int or type(ids) is str:
        keys = [ids]
    elif type(ids) is list and all([type(each) in (int, str) for each in ids]):
        keys = ids
    else:
        keys = []
    if bool(keys) == (type(filter) is str and bool(filter)):
        return PEER
    if keys and filter is not None and filter != "":
        return PEER
    if not keys and ids is not None and ids != []:
        return PEER
    channel = native_channel_of(client, kwargs) or await first_channel(client, kwargs)
    if channel is None:
        return PEER
    named, apart = split_options(kwargs)
    try:
        expression = filter
        if keys:
            expression, _ = await _expression(client, collection, keys, timeout, kwargs)
        key = plain_key("delete", collection, partition, named)
        if key is None:
            return PEER
        head = client._plans.get(key)
        if head is None:
            captured = _sdk.record(
                client, None, "delete", collection, filter="x",
                partition_name=partition, **copy.deepcopy(named),
            )  # fmt: skip
            if captured is None or captured.method != "Delete":
                return PEER
            head = template(captured.request, "expr")
            client._plans.keep(key, head)
        metadata = metadata_of(client, channel, apart)
        message = head + DELETE.expr.data(expression.encode())
        database = client._config.db_name
    except Exception:
        return PEER
    begun = _sdk.begin(client)
    try:
        reply = await channel.send(_DELETE, message, timeout, metadata)
        result = _wire.mutation_result(reply, False)
    except Exception as error:
        return await _sdk.replay(
            client, "delete", "delete", error, begun, timeout, collection, ids=ids,
            filter=filter, partition_name=partition, **kwargs,
        )  # fmt: skip
    ts_utils.update_collection_ts(
        collection, result.timestamp, client._handler.server_address, database
    )
    if result.primary_keys:
        return list(result.primary_keys)
    return OmitZeroDict({"delete_count": result.delete_count, "cost": result.cost})
