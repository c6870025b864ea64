"""What tests of the Milvus client share: both clients, data of every type, exact comparisons."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableSequence
from typing import Any

import numpy as np
import pymilvus
from pymilvus import DataType

from arshai_native.milvus import AsyncMilvusClient

IS_STANDALONE = os.environ.get("ARN_TEST_MILVUS") == "standalone"

_numbers = itertools.count()


def name_of(prefix: str = "c") -> str:
    """The name of a collection that there is not yet."""
    return f"{prefix}_{os.getpid()}_{next(_numbers)}"


@contextlib.asynccontextmanager
async def clients(server: Any, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Ours and pymilvus's."""
    ours = AsyncMilvusClient(server.uri, **options)
    options.pop("gather", None)
    theirs = pymilvus.AsyncMilvusClient(server.uri, **options)
    try:
        yield ours, theirs
    finally:
        await ours.close()
        # Its shared connections would otherwise outlive the event loop.
        handler = theirs._handler
        await theirs.close()
        if handler is not None:
            await handler.close()
            pymilvus.client.connection_manager.AsyncConnectionManager._instances.clear()


def peers_refuse(monkeypatch: Any, *names: str) -> None:
    """
    From now on pymilvus's methods of these names are not to be what serves a call of ours.

    What our methods call when they leave a call to pymilvus is super()'s, which is found by the
    class's order: there a class is put in front of pymilvus's.
    """
    from arshai_native.milvus import _client

    def refusing(name: str) -> Any:
        async def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError(f"{name} was left to pymilvus")

        return refuse

    for name in names:
        monkeypatch.setattr(_client.IteratorMethods, name, refusing(name), raising=False)


async def outcome(call: Callable[[], Awaitable[Any]]) -> tuple[str, Any]:
    """What comes of it: ("result", it) or ("error", what identifies it)."""
    try:
        return "result", await call()
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        code = getattr(error, "code", None)
        message = getattr(error, "message", None) or str(error)
        # milvus-lite numbers its plans.
        message = re.sub(r"plan node id: \d+", "plan node id: #", message)
        return "error", (type(error), code() if callable(code) else code, message)


def anonymous(value: Any, name: str) -> Any:
    """The same for two collections; a whole server speaks of them by their numbers, too."""
    if type(value) is str:
        return re.sub(r"\d{15,}", "#", value.replace(name, "NAME"))
    if type(value) in (list, tuple):
        return type(value)(anonymous(each, name) for each in value)
    if type(value) is dict:
        return {key: anonymous(each, name) for key, each in value.items()}
    if isinstance(value, MutableSequence) and not isinstance(value, list):  # protobuf's
        return [anonymous(each, name) for each in value]
    return value


def same(left: Any, right: Any, path: str = "result") -> None:
    """Fails unless both are equal in type, order and value, and in their attributes."""
    assert type(left) is type(right), (path, type(left), type(right))
    if isinstance(left, dict):
        # Not their own methods: Hit's look into its entity, too.
        names = [list(dict.keys(each)) for each in (left, right)]
        if IS_STANDALONE:  # the server puts fields in another order each time
            names = [sorted(each) for each in names]
        assert names[0] == names[1], path
        for key in dict.keys(left):
            same(dict.__getitem__(left, key), dict.__getitem__(right, key), f"{path}[{key!r}]")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), (path, len(left), len(right))
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            same(one, other, f"{path}[{index}]")
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype and left.shape == right.shape, path
        assert left.tobytes() == right.tobytes(), path
    elif isinstance(left, (float, np.floating)):
        assert left == right or (math.isnan(left) and math.isnan(right)), (path, left, right)
    else:
        assert left == right, (path, left, right)
    for name in ("extra", "recalls", "distances", "ids", "id", "distance", "score", "pk", "fields"):
        if hasattr(type(left), name) or name in getattr(left, "__dict__", {}):
            if isinstance(left, dict) and name in left:
                continue
            _same_attribute(left, right, name, path)


def _same_attribute(left: Any, right: Any, name: str, path: str) -> None:
    one, other = getattr(left, name), getattr(right, name)
    if hasattr(one, "__iter__") and not isinstance(one, (str, bytes, dict)):
        assert list(one) == list(other), f"{path}.{name}"
    else:
        assert one == other, f"{path}.{name}"


# ---- data ----

DIMENSION = 8

SCALARS: dict[str, tuple[DataType, dict[str, Any], Callable[[random.Random], Any]]] = {
    "bool": (DataType.BOOL, {}, lambda r: r.random() < 0.5),
    "int8": (DataType.INT8, {}, lambda r: r.randrange(-128, 128)),
    "int16": (DataType.INT16, {}, lambda r: r.randrange(-(2**15), 2**15)),
    "int32": (DataType.INT32, {}, lambda r: r.randrange(-(2**31), 2**31)),
    "int64": (DataType.INT64, {}, lambda r: r.randrange(-(2**63), 2**63)),
    "float": (DataType.FLOAT, {}, lambda r: r.uniform(-1e30, 1e30)),
    "double": (DataType.DOUBLE, {}, lambda r: r.uniform(-1e300, 1e300)),
    "varchar": (
        DataType.VARCHAR,
        {"max_length": 200},
        lambda r: "".join(r.choice("aä漢\U0001f600'\"\\ ") for _ in range(r.randrange(20))),
    ),
    "json": (
        DataType.JSON,
        {},
        lambda r: r.choice([
            {"a": r.randrange(100), "b": [1, "x", None, {"c": 2.5}]}, {}, {"x": "ä", "l": [1, 2]},
        ]),
    ),
    "array_int": (
        DataType.ARRAY,
        {"element_type": DataType.INT64, "max_capacity": 10},
        lambda r: [r.randrange(100) for _ in range(r.randrange(5))],
    ),
    "array_str": (
        DataType.ARRAY,
        {"element_type": DataType.VARCHAR, "max_capacity": 10, "max_length": 20},
        lambda r: [r.choice(["ä", "b", ""]) for _ in range(r.randrange(5))],
    ),
    "array_float": (
        DataType.ARRAY,
        {"element_type": DataType.FLOAT, "max_capacity": 10},
        lambda r: [r.random() for _ in range(r.randrange(5))],
    ),
    "array_bool": (
        DataType.ARRAY,
        {"element_type": DataType.BOOL, "max_capacity": 10},
        lambda r: [r.random() < 0.5 for _ in range(r.randrange(5))],
    ),
}  # fmt: skip


def floats(r: random.Random) -> list[float]:
    return [r.uniform(-1, 1) for _ in range(DIMENSION)]


def sparse(r: random.Random) -> dict[int, float]:
    return {r.randrange(1000): r.random() + 0.01 for _ in range(r.randrange(1, 6))}


VECTORS: dict[str, tuple[DataType, str, Callable[[random.Random], Any]]] = {
    "float_vector": (DataType.FLOAT_VECTOR, "COSINE", floats),
    "float16_vector": (
        DataType.FLOAT16_VECTOR, "L2", lambda r: np.array(floats(r), dtype=np.float16),
    ),
    "binary_vector": (
        DataType.BINARY_VECTOR, "HAMMING", lambda r: r.randbytes(DIMENSION // 8),
    ),
    "sparse_vector": (DataType.SPARSE_FLOAT_VECTOR, "IP", sparse),
    "bfloat16_vector": (
        DataType.BFLOAT16_VECTOR, "L2",
        lambda r: (np.array(floats(r), dtype=np.float32).view(np.uint32) >> 16)
        .astype(np.uint16).tobytes(),
    ),
}  # fmt: skip


async def make(
    client: Any,
    name: str,
    fields: dict[str, tuple[Any, ...]],
    vectors: tuple[str, ...] = ("float_vector",),
    *,
    pk: DataType = DataType.INT64,
    auto_id: bool = False,
    dynamic: bool = False,
    rows: list[dict[str, Any]] = (),  # type: ignore[assignment]
    **options: Any,
) -> None:
    """A collection with these fields, loaded, with rows."""
    schema = pymilvus.AsyncMilvusClient.create_schema(auto_id=auto_id, enable_dynamic_field=dynamic)
    schema.add_field(
        "id", pk, is_primary=True, **({"max_length": 100} if pk is DataType.VARCHAR else {})
    )
    for field, (kind, parameters, *_) in fields.items():
        schema.add_field(field, kind, **parameters)
    index = pymilvus.AsyncMilvusClient.prepare_index_params()
    for field in vectors:
        kind, metric, _ = VECTORS[field]
        schema.add_field(
            field, kind, **({} if kind is DataType.SPARSE_FLOAT_VECTOR else {"dim": DIMENSION})
        )
        index.add_index(field, index_type=INDEXES.get(kind, "FLAT"), metric_type=metric)
    await client.create_collection(name, schema=schema, index_params=index, **options)
    if rows:
        await client.insert(name, list(rows))
        await seen_by_all(client, name, len(rows))


async def seen_by_all(client: Any, name: str, count: int) -> None:
    """
    Returns when reads of whatever consistency see these rows. milvus-lite's always do; in the whole
    server what has been seen by a strong read stays seen, but those that are not wait for nothing.
    """
    while IS_STANDALONE:
        rows = await client.query(
            name, filter="", output_fields=["count(*)"], consistency_level="Strong"
        )
        weaker = await client.query(
            name, filter="", output_fields=["count(*)"], consistency_level="Bounded"
        )
        assert rows[0]["count(*)"] >= count
        if weaker[0]["count(*)"] >= count:
            return
        await asyncio.sleep(0.05)


INDEXES = {
    DataType.BINARY_VECTOR: "BIN_FLAT",
    DataType.SPARSE_FLOAT_VECTOR: "SPARSE_INVERTED_INDEX",
}


def rows_of(
    count: int,
    fields: dict[str, tuple[Any, ...]],
    vectors: tuple[str, ...] = ("float_vector",),
    *,
    seed: int = 1,
    first: int = 0,
    pk: DataType = DataType.INT64,
    auto_id: bool = False,
) -> list[dict[str, Any]]:
    r = random.Random(seed)
    rows = []
    for number in range(first, first + count):
        row: dict[str, Any] = {}
        if not auto_id:
            row["id"] = number if pk is DataType.INT64 else f"k{number:04}"
        for field, (_, _, value) in fields.items():
            row[field] = value(r)
        for field in vectors:
            row[field] = VECTORS[field][2](r)
        rows.append(row)
    return rows
