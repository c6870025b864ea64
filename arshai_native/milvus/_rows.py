"""insert and upsert: the rows from C, by the collection's schema in pymilvus's cache."""

from __future__ import annotations

import copy
from typing import Any

from pymilvus.client import ts_utils
from pymilvus.client.types import OmitZeroDict

from arshai_native import _milvus_wire
from arshai_native._core import plain_key

from . import _sdk, _wire
from ._sdk import PEER, SERVICE
from ._search import first_channel, is_timeout, native_channel_of, split_options
from ._template import INSERT, UPSERT, template


def rows_of(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Columns as pymilvus's rows; ValueError if they are not of one length."""
    names = list(columns)
    values = [list(column) for column in columns.values()]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _first_row(data: Any) -> list[Any]:
    if type(data) is list:
        return data[:1]
    return rows_of({name: column[:1] for name, column in data.items()})


class _Kind:
    """What tells insert from upsert."""

    def __init__(self, name: str, handler: str, prepare: str, fields: Any, count: str) -> None:
        self.name = name
        self.handler = handler
        self.method = SERVICE + name.capitalize()
        self.fields = fields
        self.count = count
        self.watch = _sdk.watch(
            name,
            handler,
            "_get_schema",
            prepare=(prepare, f"_parse_{'upsert_' if name == 'upsert' else ''}row_request"),
            timestamps=("update_collection_ts",),
        )


INSERT_KIND = _Kind("insert", "insert_rows", "row_insert_param", INSERT, "insert_count")
UPSERT_KIND = _Kind("upsert", "upsert_rows", "row_upsert_param", UPSERT, "upsert_count")

# With these rows say what is to be done with each field, or are no rows.
_OTHERS = frozenset(("field_ops", "upsert_param"))


def compiled(client: Any, collection: str, schema: dict[str, Any]) -> Any:
    """The schema for C, None if it is pymilvus's. The dict in pymilvus's cache is never changed,
    only replaced."""
    key = (client._handler.server_address, client._config.db_name, collection)
    known = client._schemas.get(key)
    if known is None or known[0] is not schema:
        known = (schema, _milvus_wire.schema(schema))
        client._schemas.keep(key, known)
    return known[1]


async def write(
    kind: _Kind,
    client: Any,
    collection: Any,
    data: Any,
    partition: Any,
    timeout: Any,
    kwargs: dict[str, Any],
    by_column: bool = False,
) -> Any:
    """data: rows, or columns by their names. PEER: it is for pymilvus."""
    if (
        not kind.watch.intact()
        or type(collection) is not str
        or not is_timeout(timeout)
        or not _OTHERS.isdisjoint(kwargs)
    ):
        return PEER
    channel = native_channel_of(client, kwargs) or await first_channel(client, kwargs)
    if channel is None:
        return PEER
    named, apart = split_options(kwargs)
    fields = kind.fields
    try:
        context = client._generate_call_context(**kwargs)
        schema, updated = await client._handler._get_schema(
            collection, timeout=timeout, context=context, **kwargs
        )
        native = compiled(client, collection, schema)
        if native is None:
            return PEER
        key = plain_key(kind.name, collection, partition, named)
        if key is None:
            return PEER
        head = client._plans.get(key)
        if head is None:
            captured = _sdk.record(
                client, schema, kind.name, collection, _first_row(data),
                partition_name=partition, **copy.deepcopy(named),
            )  # fmt: skip
            if captured is None or captured.method != kind.name.capitalize():
                return PEER
            head = template(captured.request, "fields_data", "num_rows", "schema_timestamp")
            client._plans.keep(key, head)
        metadata = (*context.to_grpc_metadata(), *channel.added_metadata())
        # pymilvus asks no more of it than that it is true.
        partial = bool(kwargs.get("partial_update", False)) and kind is UPSERT_KIND
        message = (native.columns if by_column else native.rows)(
            data,
            upsert=kind is UPSERT_KIND,
            partial=partial,
            front=head + fields.schema_timestamp.integer(updated),
        )
        if message is None:
            return PEER
    except Exception:  # pymilvus says it in its own words
        return PEER
    begun = _sdk.begin(client, context.get_db_name())
    try:
        reply = await channel.send(kind.method, message, timeout, metadata)
        result = _wire.mutation_result(reply, True)
    except Exception as error:
        rows = rows_of(data) if by_column else data
        return await _sdk.replay(
            client, kind.name, kind.handler, error, begun, timeout, collection, rows,
            partition_name=partition, **kwargs,
        )  # fmt: skip
    ts_utils.update_collection_ts(
        collection, result.timestamp, client._handler.server_address, context.get_db_name()
    )
    if kind is INSERT_KIND:
        return OmitZeroDict(
            {
                "insert_count": result.insert_count,
                "ids": result.primary_keys,
                "cost": result.cost,
            }
        )
    return OmitZeroDict(
        {
            "upsert_count": result.upsert_count,
            "cost": result.cost,
            "ids": result.primary_keys,
        }
    )
