"""Between pymilvus's classes and the native encoding and decoding of arshai_native._core.

What is native is used only where it does what the installed pymilvus does. Its results are made
without running its constructors, so once, when they are first needed, both ways read the same
replies and everything about the results is compared; a pymilvus that differs keeps its own path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from . import _core

logger = logging.getLogger("arshai_native.milvus")

_UNKNOWN: Any = object()
_replies: Any = _UNKNOWN
_rows_agree: bool | None = None
_vectors_agree: bool | None = None


def replies() -> _core.MilvusReplies | None:
    """What reads replies into pymilvus's results; None: pymilvus itself must."""
    global _replies
    if _replies is _UNKNOWN:
        agree = _agrees(lambda: _difference(_make()), "replies are read by pymilvus")
        _replies = _make() if agree else None
    return _replies


def _make() -> _core.MilvusReplies:
    import orjson
    from pymilvus.client import search_result, types
    from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

    messages = [
        common_pb2.Status,
        milvus_pb2.SearchResults,
        schema_pb2.SearchResultData,
        milvus_pb2.QueryResults,
        schema_pb2.FieldData,
        schema_pb2.ScalarField,
        schema_pb2.VectorField,
    ]
    return _core.MilvusReplies(
        search_result=search_result.SearchResult,
        hybrid_hits=search_result.HybridHits,
        hit=search_result.Hit,
        hybrid_extra_list=types.HybridExtraList,
        rows_extra=types.OmitZeroDict,
        field_data=schema_pb2.FieldData,
        iterator=schema_pb2.SearchIteratorV2Results,
        known={m.DESCRIPTOR.name: [f.number for f in m.DESCRIPTOR.fields] for m in messages},
        has_buckets=hasattr(search_result.SearchResult, "_split_agg_buckets"),
        loads=orjson.loads,
    )


# ---- does it do what pymilvus does? ----


def _difference(made: _core.MilvusReplies) -> str | None:
    """What both ways make another result of, or None."""
    from pymilvus.client.search_result import SearchResult
    from pymilvus.grpc_gen import milvus_pb2

    for strings in (False, True):
        reply = _sample_search(strings)
        theirs = milvus_pb2.SearchResults.FromString(reply)
        for decimals in (-1, 3):
            expected = SearchResult(
                theirs.results, decimals, status=theirs.status, session_ts=theirs.session_ts
            )
            ours = made.search(reply, decimals, True)
            if _shape(ours) != _shape(expected) or str(ours) != str(expected):
                return "SearchResult"
            if _shape(ours) != _shape(expected):  # str() has looked into it
                return "SearchResult that has been looked into"
    reply = _sample_query()
    for strict in (False, True):
        rows, expected_rows = made.query(reply, strict), _rows(reply, strict)
        if _shape(rows) != _shape(expected_rows) or str(rows) != str(expected_rows):
            return "HybridExtraList"
        if _shape(rows) != _shape(expected_rows):
            return "HybridExtraList that has been looked into"
    return None


def _shape(value: Any) -> Any:
    """Everything about a value that a program can see, comparable."""
    if isinstance(value, dict):
        content: Any = [
            (_shape(k), _shape(v))
            for k, v in zip(dict.keys(value), dict.values(value), strict=True)
        ]
    elif isinstance(value, list):
        content = [_shape(v) for v in list.__iter__(value)]
    elif isinstance(value, set):
        content = sorted(map(repr, value))
    elif hasattr(value, "SerializeToString"):
        content = value.SerializeToString(deterministic=True)
    else:
        content = repr(value)
    # The cache's keys are addresses; ours has its own means to complete entities and rows.
    attributes = {
        k: list(v) if k == "_materialized_bitmap" else v
        for k, v in getattr(value, "__dict__", {}).items()
        if "_cache" not in k and k != "materialize"
    }
    return type(value), content, [(k, _shape(v)) for k, v in attributes.items()]


def _columns() -> list[Any]:
    from pymilvus.client.types import DataType
    from pymilvus.grpc_gen.schema_pb2 import FieldData

    def column(name: str, kind: DataType, **more: Any) -> Any:
        return FieldData(field_name=name, type=int(kind), field_id=7, **more)

    return [
        column("flag", DataType.BOOL, scalars={"bool_data": {"data": [True, False, True]}}),
        column(
            "number", DataType.INT32, scalars={"int_data": {"data": [1, -2, 3]}},
            valid_data=[True, False, True],
        ),
        column("big", DataType.INT64, scalars={"long_data": {"data": [1, -2, 1 << 62]}}),
        column("real", DataType.FLOAT, scalars={"float_data": {"data": [0.1, 2, -3]}}),
        column("double", DataType.DOUBLE, scalars={"double_data": {"data": [0.1, 2, -3]}}),
        column("text", DataType.VARCHAR, scalars={"string_data": {"data": ["a", "", "ü"]}}),
        column(
            "list", DataType.ARRAY,
            scalars={"array_data": {
                "data": [{"long_data": {"data": [1, 2]}}, {"long_data": {}}, {}],
                "element_type": int(DataType.INT64),
            }},
        ),
        column("json", DataType.JSON, scalars={"json_data": {"data": [b"1", b"[]", b'{"k": 2}']}}),
        column(
            "$meta", DataType.JSON, is_dynamic=True,
            scalars={"json_data": {"data": [b'{"more": 1, "other": 2}', b"{}", b'{"more": "x"}']}},
        ),
        column(
            "vector", DataType.FLOAT_VECTOR,
            vectors={"dim": 2, "float_vector": {"data": [1, 2, 3, 4, 5, 6]}},
        ),
        column(
            "nullable", DataType.FLOAT_VECTOR, valid_data=[False, True, True],
            vectors={"dim": 2, "float_vector": {"data": [1, 2, 3, 4]}},
        ),
        column("bits", DataType.BINARY_VECTOR, vectors={"dim": 8, "binary_vector": b"123"}),
        column("half", DataType.FLOAT16_VECTOR, vectors={"dim": 1, "float16_vector": b"123456"}),
        column("brain", DataType.BFLOAT16_VECTOR, vectors={"dim": 1, "bfloat16_vector": b"123456"}),
        column("bytes", DataType.INT8_VECTOR, vectors={"dim": 2, "int8_vector": b"123456"}),
        column(
            "sparse", DataType.SPARSE_FLOAT_VECTOR,
            vectors={"sparse_float_vector": {"contents": [bytes(8), b"", b"12345678"]}},
        ),
    ]  # fmt: skip


def _sample_search(strings: bool) -> bytes:
    from pymilvus.grpc_gen import milvus_pb2

    ids = {"str_id": {"data": ["a", "b", "c"]}} if strings else {"int_id": {"data": [7, 8, 9]}}
    return milvus_pb2.SearchResults(
        status={"extra_info": {"report_value": "12", "cache_hit_ratio": "0.5"}},
        session_ts=99,
        results={
            "num_queries": 2,
            "top_k": 2,
            "scores": [0.9, 0.8123456, 0.7],
            "ids": ids,
            "topks": [2, 1],
            "output_fields": ["flag", "more"],
            "primary_field_name": "pk" if strings else "",
            "fields_data": _columns(),
        },
    ).SerializeToString()


def _sample_query() -> bytes:
    from pymilvus.grpc_gen import milvus_pb2

    return milvus_pb2.QueryResults(
        status={"extra_info": {"report_value": "12"}},
        session_ts=99,
        output_fields=["flag", "more"],
        fields_data=_columns(),
    ).SerializeToString()


def _rows(reply: bytes, strict: bool) -> Any:
    """As pymilvus's handlers make the rows of a reply; their code is within a coroutine."""
    from pymilvus.client import entity_helper
    from pymilvus.client.constants import ITERATOR_SESSION_TS_FIELD
    from pymilvus.client.types import HybridExtraList, get_extra_info
    from pymilvus.client.utils import len_of
    from pymilvus.grpc_gen import milvus_pb2

    response = milvus_pb2.QueryResults.FromString(reply)
    _, dynamic_fields = entity_helper.extract_dynamic_field_from_result(response)
    names = [field.field_name for field in response.fields_data if field.field_name != "$meta"]
    rows: list[dict[str, Any]] = [
        dict.fromkeys(names) for _ in range(len_of(response.fields_data[0]))
    ]
    waiting = [
        field
        for field in response.fields_data
        if entity_helper.extract_row_data_from_fields_data_v2(field, rows)
    ]
    extra = get_extra_info(response.status)
    extra[ITERATOR_SESSION_TS_FIELD] = response.session_ts
    return HybridExtraList(
        waiting, rows, extra=extra, dynamic_fields=dynamic_fields, strict_float32=strict
    )


# ---- inserts ----

_SCALARS = frozenset((1, 2, 3, 4, 5, 10, 11, 21))  # BOOL to DOUBLE, VARCHAR
_TYPES = _SCALARS | {22, 23, 100, 101, 102, 103, 104, 105}  # ARRAY, JSON, vectors


def schema(description: dict[str, Any]) -> _core.MilvusSchema | None:
    """What writes rows for a collection, of what describe_collection() says of it; None: pymilvus
    must. To be made once for a schema.
    """
    global _rows_agree
    if _rows_agree is None:
        _rows_agree = _agrees(_check_rows, "inserts are encoded by pymilvus")
    return _compile(description) if _rows_agree else None


def _compile(description: dict[str, Any]) -> _core.MilvusSchema | None:
    import orjson
    from pymilvus.settings import Config

    fields = description.get("fields")
    if not fields or description.get("struct_array_fields"):
        return None
    if Config.EncodeProtocol.lower() != "utf-8":
        return None
    columns, outputs = [], []
    for field in fields:
        if field.get("is_function_output", False):
            outputs.append(field["name"])
            continue
        column = _column(field)
        if column is None:
            return None
        columns.append(column)
    if len({column[0] for column in columns} | set(outputs)) != len(fields):
        return None
    if sum(bool(field.get("is_primary", False)) for field in fields) != 1:
        return None
    return _core.MilvusSchema(
        columns,
        outputs,
        dynamic=bool(description.get("enable_dynamic_field", False)),
        dumps=orjson.dumps,
        loads=orjson.loads,
    )


def _column(field: dict[str, Any]) -> tuple[str, int, int, int, bool, bool] | None:
    """(name, type, element type, dim, takes null, is auto_id), or None: not native."""
    name, kind = field["name"], int(field["type"])
    params = field.get("params", {})
    element, dim = 0, 0
    auto_id = bool(field.get("auto_id", False))
    if kind not in _TYPES or field.get("is_dynamic", False) or name == "$meta":
        return None
    if auto_id and not field.get("is_primary", False):
        return None
    if kind == 21 and int(params.get("max_length", 65535)) < 1:
        return None  # pymilvus compares it with the length of a character
    if kind == 22:
        element = int(field.get("element_type") or 0)
        if element not in _SCALARS:
            return None
    if kind >= 100:
        dim = int(params.get("dim", 0))
        if dim < 0:
            return None
    takes_null = bool(field.get("nullable", False) or field.get("default_value"))
    return name, kind, element, dim, takes_null, auto_id


def vectors_agree() -> bool:
    """Does milvus_vectors() encode as the installed pymilvus?"""
    global _vectors_agree
    if _vectors_agree is None:
        _vectors_agree = _agrees(_check_vectors, "vectors are encoded by pymilvus")
    return _vectors_agree


def _agrees(check: Callable[[], str | None], what: str) -> bool:
    try:
        problem = check()
    except Exception as error:  # whatever another version of pymilvus may bring
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        logger.debug("%s: they differ (%s)", what, problem)
    return problem is None


def _check_vectors() -> str | None:
    import numpy
    from pymilvus.client.prepare import Prepare
    from pymilvus.grpc_gen import milvus_pb2

    samples: list[Any] = [[[0.5, 1]], [{7: 0.5, 3: 0.25}], [b"12"], ["text"]]
    samples += [numpy.ones((2, 3), kind) for kind in ("f4", "f8", "f2", "i1", "u1")]
    for data in samples:
        made = _core.milvus_vectors(data)
        if made is None:
            return f"{data!r} is left"
        kind, count, values = made
        request = _core.milvus_search_request(b"", kind, count, (values,))
        group = milvus_pb2.SearchRequest.FromString(request).placeholder_group
        if group != Prepare._prepare_placeholder_str(data, False):
            return repr(data)
    return None


def _check_rows() -> str | None:
    from pymilvus.client.prepare import Prepare
    from pymilvus.client.types import DataType
    from pymilvus.grpc_gen import milvus_pb2

    values: dict[DataType, Any] = {
        DataType.BOOL: True,
        DataType.INT32: -3,
        DataType.FLOAT: 0.1,
        DataType.DOUBLE: 0.1,
        DataType.VARCHAR: "text",
        DataType.JSON: {"a": [1, None]},
        DataType.ARRAY: ["a", "b"],
        DataType.FLOAT_VECTOR: [0.5, 2.0],
        DataType.BINARY_VECTOR: b"1",
        DataType.FLOAT16_VECTOR: b"1234",
        DataType.BFLOAT16_VECTOR: [0.5, 2.0],
        DataType.SPARSE_FLOAT_VECTOR: {7: 0.5, 3: 0.25},
        DataType.INT8_VECTOR: b"12",
    }
    fields: list[dict[str, Any]] = [{"name": "pk", "type": DataType.INT64, "is_primary": True}]
    for kind in values:
        field = {"name": kind.name, "type": kind, "params": {"dim": 2, "max_length": 9}}
        field["element_type"] = DataType.VARCHAR
        fields += [field, field | {"name": kind.name + "?", "nullable": True}]
    made = _compile({"fields": fields, "enable_dynamic_field": True})
    if made is None:
        return "the schema is left"
    full = {name: value for kind, value in values.items() for name in (kind.name, kind.name + "?")}
    least = {kind.name: value for kind, value in values.items()}
    rows = [{"pk": 1, "more": [1]} | full, {"pk": 2} | least]
    ours = made.rows(rows)
    theirs = Prepare.row_insert_param("", rows, "", fields, None, enable_dynamic=True)
    if ours is None or milvus_pb2.InsertRequest.FromString(ours) != theirs:
        return "insert"
    for partial in (False, True):
        rows = [{"pk": 1, "VARCHAR": "x"}] if partial else rows
        ours = made.rows(rows, upsert=True, partial=partial)
        upsert = Prepare.row_upsert_param(
            "", rows, "", fields, None, enable_dynamic=True, partial_update=partial
        )
        upsert.ClearField("partial_update")
        if ours is None or milvus_pb2.UpsertRequest.FromString(ours) != upsert:
            return "upsert"
    return None
