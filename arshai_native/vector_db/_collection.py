"""Collections as arshai makes them, and as pymilvus's objects."""

from __future__ import annotations

import datetime
import inspect
import json
import uuid
from collections.abc import Callable
from typing import Any

import pymilvus
from pymilvus import CollectionSchema, DataType, FieldSchema
from pymilvus.orm.index import Index

from ._entities import annotations_of

_KINDS: dict[Any, tuple[DataType, dict[str, Any]]] = {
    str: (DataType.VARCHAR, {"max_length": 65535}),
    int: (DataType.INT64, {}),
    float: (DataType.FLOAT, {}),
    bool: (DataType.BOOL, {}),
    dict: (DataType.JSON, {}),
    list: (DataType.JSON, {}),
    uuid.UUID: (DataType.VARCHAR, {"max_length": 40}),
    datetime.datetime: (DataType.JSON, {}),
}
_JSON: tuple[DataType, dict[str, Any]] = (DataType.JSON, {})

SPARSE_INDEX = {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"}
DENSE_INDEX = {"index_type": "AUTOINDEX", "metric_type": "IP"}


def schema_of(config: Any) -> CollectionSchema:
    """arshai's schema for a collection."""
    fields = [
        FieldSchema(
            name=config.pk_field, dtype=DataType.VARCHAR, is_primary=True, auto_id=True,
            max_length=100,
        ),
        FieldSchema(name=config.text_field, dtype=DataType.VARCHAR, max_length=65535),
        FieldSchema(name=config.metadata_field, dtype=DataType.JSON),
        FieldSchema(name=config.dense_field, dtype=DataType.FLOAT_VECTOR, dim=config.dense_dim),
    ]  # fmt: skip
    if config.is_hybrid:
        fields.append(FieldSchema(name=config.sparse_field, dtype=DataType.SPARSE_FLOAT_VECTOR))
    for name, annotation in annotations_of(config).items():
        try:
            kind, options = _KINDS.get(annotation, _JSON)
        except TypeError:  # not hashable
            kind, options = _JSON
        fields.append(FieldSchema(name=name, dtype=kind, **options))
    return CollectionSchema(fields)


class NativeCollection(pymilvus.Collection):
    """
    pymilvus's Collection, whose methods (all of them synchronous) go through a native connection.

    connect: returns pymilvus's synchronous handler and the context of a call.
    """

    def __init__(
        self,
        name: str,
        schema: CollectionSchema,
        consistency_level: int,
        connect: Callable[..., tuple[Any, Any]],
    ) -> None:
        # Not the base's, which asks the server for what is known here.
        self._name = name
        self._using = "default"
        self._kwargs: dict[str, Any] = {}
        self._num_shards = None
        self._schema = schema
        self._consistency_level = consistency_level
        self._schema_dict = schema.to_dict()
        self._schema_dict["consistency_level"] = consistency_level
        self._connect = connect

    def _get_connection(self, **kwargs: Any) -> tuple[Any, Any]:
        return self._connect(**kwargs)


# Without the warning that pymilvus gives of its own class.
_make_index = inspect.unwrap(Index.__init__)


def indexes_of(collection: NativeCollection, descriptions: Any) -> list[Index]:
    """Collection.indexes, of what the handler's list_indexes() has returned."""
    found = []
    for each in descriptions:
        if each is None:
            continue
        params = {pair.key: pair.value for pair in each.params}
        if params.get("params"):
            params["params"] = json.loads(params["params"])
        index = Index.__new__(Index)
        _make_index(
            index, collection, each.field_name, params, index_name=each.index_name,
            construct_only=True,
        )  # fmt: skip
        found.append(index)
    return found
