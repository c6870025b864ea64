"""AsyncMilvus beside arshai's MilvusClient on a real server: what one has made and written the
other reads, and both answer the same.
"""

import dataclasses
import datetime
import decimal
import enum
import inspect
import logging
import re
import uuid
from typing import Any

import numpy as np
import pymilvus
import pytest
from faultkit import run
from milvuskit import IS_STANDALONE, same
from pymilvus.exceptions import ConnectionConfigException
from pymilvus.orm.collection import Collection
from vectordbkit import (
    DIMENSION,
    METHODS,
    Flavour,
    config_of,
    documents,
    embeddings,
    shipped,
    shipped_config,
    sparse_rows,
    vectors,
    without_ids,
)

from arshai_native.milvus._channel import NativeChannel
from arshai_native.vector_db import (
    AsyncMilvus,
    AsyncMilvusClientWrapper,
    CollectionConfig,
    VectorDBConfig,
    _blocking,
    _connection,
)

pytest_plugins = ("milvusfixtures",)
# arshai uses what pymilvus 2.6 warns of.
pytestmark = [
    pytest.mark.usefixtures("milvus_environment"),
    pytest.mark.filterwarnings("ignore:.*ORM-style PyMilvus API"),
]


# Milvus 2.3.5 has no sparse vectors.
HYBRID = [False] if IS_STANDALONE else [False, True]
needs_hybrid = pytest.mark.skipif(IS_STANDALONE, reason="no sparse vectors in Milvus 2.3.5")


@pytest.fixture
def theirs(lite, monkeypatch):
    with shipped(lite, monkeypatch) as client:
        yield client


@pytest.fixture
def ours(lite):
    with AsyncMilvus(lite.uri) as client:
        yield client


@pytest.fixture(params=["sync", "async"])
def either(request, ours):
    return Flavour(request.param, ours)


@pytest.fixture
def calls(monkeypatch):
    """The methods that are called over native channels, in order."""
    seen: list[str] = []
    send, send_sync = NativeChannel.send, _blocking.send

    async def counted(self, method, *args):
        seen.append(method.rpartition("/")[2])
        return await send(self, method, *args)

    def counted_sync(native, method, *args):
        seen.append(method.rpartition("/")[2])
        return send_sync(native, method, *args)

    monkeypatch.setattr(NativeChannel, "send", counted)
    monkeypatch.setattr(_blocking, "send", counted_sync)
    monkeypatch.setattr(_connection, "send", counted_sync)
    return seen


def described(lite, name):
    """All that the server says of a collection but for its name, keys and times."""
    handler = pymilvus.MilvusClient(lite.uri)
    found = handler.describe_collection(name)
    for key in ("collection_name", "collection_id", "created_timestamp", "update_timestamp"):
        found.pop(key, None)
    indexes = []
    for index in handler.list_indexes(name):
        indexes.append(handler.describe_index(name, index))
    handler.close()
    return found, sorted(indexes, key=str)


# ---- the surface ----


def test_every_method_of_theirs_is_here_twice():
    module = pytest.importorskip("arshai.vector_db.milvus_client")
    public = {name for name in vars(module.MilvusClient) if not name.startswith("_")}
    assert public == set(METHODS)
    for name in METHODS:
        parameters = list(inspect.signature(getattr(module.MilvusClient, name)).parameters.values())
        for found in (getattr(AsyncMilvus, name), getattr(AsyncMilvus, name + "_async")):
            given = list(inspect.signature(found).parameters.values())
            assert [(p.name, p.default) for p in given] == [(p.name, p.default) for p in parameters]
        assert inspect.iscoroutinefunction(getattr(AsyncMilvus, name + "_async"))
    assert AsyncMilvusClientWrapper is AsyncMilvus


def test_the_environment_and_the_arguments(monkeypatch):
    for name in ("HOST", "PORT", "DB_NAME", "BATCH_SIZE"):
        monkeypatch.delenv(f"MILVUS_{name}", raising=False)
    plain = AsyncMilvus()
    assert (plain.uri, plain.db_name, plain.batch_size) == ("http://localhost:19530", None, 50)
    monkeypatch.setenv("MILVUS_HOST", "db.local")
    monkeypatch.setenv("MILVUS_PORT", "7")
    monkeypatch.setenv("MILVUS_DB_NAME", "things")
    monkeypatch.setenv("MILVUS_BATCH_SIZE", "9")
    given = AsyncMilvus()
    assert (given.host, given.port, given.db_name, given.batch_size) == (
        "db.local", "7", "things", 9,
    )  # fmt: skip
    assert given.uri == "http://db.local:7"
    explicit = AsyncMilvus("http://other:1", db_name="x", batch_size=3)
    assert (explicit.uri, explicit.db_name, explicit.batch_size) == ("http://other:1", "x", 3)
    config = VectorDBConfig("h", "8", "d", 5, {"token": "secret-token"})
    for each in (config, dataclasses.asdict(config)):
        made = AsyncMilvus(each)
        assert (made.uri, made.db_name, made.batch_size) == ("http://h:8", "d", 5)
        assert "secret" not in repr(made) + repr(config)
    assert "secret" not in repr(AsyncMilvus("http://me:secret@host:1"))
    with pytest.raises(ConnectionConfigException, match="ftp://host:1 is illegal"):
        AsyncMilvus("ftp://me:secret@host:1").connect()
    with pytest.raises(TypeError, match="configuration with host and port"):
        AsyncMilvus(7)
    with pytest.raises(ValueError, match="batch_size"):
        AsyncMilvus(batch_size=-1)


# ---- collections ----

STATUS = enum.Enum("STATUS", {"NEW": "new", "OLD": "old"})


class Plain:
    """Annotations are all that arshai looks at."""

    author: str
    pages: int
    rating: float
    public: bool
    owner: uuid.UUID
    written: datetime.datetime
    note: str | None
    tags: list[str]
    extra: dict[str, Any]
    text: str  # the collection's own


@pytest.mark.parametrize("hybrid", HYBRID)
@pytest.mark.parametrize("model", [None, Plain])
def test_the_same_collection_and_indexes(lite, theirs, either, hybrid, model):
    ours_config = config_of(is_hybrid=hybrid, schema_model=model)
    theirs_config = config_of(is_hybrid=hybrid, schema_model=model)
    made = either.get_or_create_collection(ours_config)
    expected = theirs.get_or_create_collection(_theirs(theirs_config))
    assert isinstance(made, Collection) and made.schema == expected.schema
    assert described(lite, made.name) == described(lite, expected.name)
    assert either.create_schema(ours_config) == theirs.create_schema(_theirs(theirs_config))
    # Each finds the other's.
    assert either.get_or_create_collection(theirs_config).schema == expected.schema
    assert theirs.get_or_create_collection(_theirs(ours_config)).schema == expected.schema
    assert made.num_entities == 0 and made.primary_field.name == "doc_id"
    assert [i.to_dict() | {"collection": 0} for i in made.indexes] == [
        i.to_dict() | {"collection": 0} for i in expected.indexes
    ]
    made.drop()
    assert not pymilvus.utility.has_collection(made.name)


def _theirs(config):
    """arshai's configuration wants a model of its own kind; its client looks at annotations."""
    if config.schema_model is None:
        return shipped_config(config)
    return config


# ---- rows ----


@pytest.mark.parametrize("hybrid", HYBRID)
def test_each_reads_what_the_other_has_written(theirs, either, hybrid):
    one, other = config_of(is_hybrid=hybrid), config_of(is_hybrid=hybrid)
    rows = embeddings(7, hybrid)
    either.insert_entities(one, documents(7), rows)
    theirs.insert_entities(shipped_config(other), documents(7), rows)
    queries = vectors(2, seed=9)
    for expr in (None, "metadata['tag'] == 'b'", "metadata['number'] < 3"):
        results = [
            client.search_by_vector(config, queries, expr=expr, limit=5)
            for client in (either, theirs)
            for config in (one, other)
        ]
        assert len({len(hits) for hits in results[0]}) == 1 and results[0][0]
        for result in results[1:]:
            assert without_ids(result) == without_ids(results[0])
        same(either.search_by_vector(one, queries, expr=expr), theirs.search_by_vector(
            one, queries, expr=expr))  # fmt: skip
        if expr is not None:
            same(either.query_by_expr(one, expr), theirs.query_by_expr(one, expr))
    hit = results[0][0][0]
    assert hit.fields["text"] == hit.get("text") == hit.entity.get("text")
    assert hit.id == hit.fields["doc_id"] and isinstance(hit.distance, float)
    if hybrid:
        arguments = (queries[:1], sparse_rows(1, seed=5))
        for expr in (None, "metadata['tag'] == 'a'"):
            found = either.hybrid_search(one, *arguments, expr=expr, limit=4)
            same(found, theirs.hybrid_search(one, *arguments, expr=expr, limit=4))
            assert len(found[0]) == 4


@needs_hybrid
def test_one_entity(theirs, either):
    config = config_of(is_hybrid=True)
    mark = uuid.uuid4()
    entity = {"text": "alone", "metadata": {"id": mark, "n": 3}}
    embedding = {"dense": vectors(1)[0], "sparse": sparse_rows(1)[0]}
    assert either.insert_entity(config, entity, embedding) is None
    theirs.insert_entity(config, entity, embedding)
    either.insert_entity(config, {"content": "bare"}, embedding)
    rows = either.query_by_expr(config, "text == 'alone'")
    assert [row["metadata"] for row in rows] == [{"id": str(mark), "n": 3}] * 2
    same(rows, theirs.query_by_expr(config, "text == 'alone'"))
    assert either.query_by_expr(config, "text == 'bare'")[0]["metadata"] == {}


def test_batches(either, calls):
    config = config_of()
    either.insert_entities(config, documents(120), embeddings(120))
    assert calls.count("Insert") == 3 and calls.count("Flush") == 1
    del calls[:]
    either.client.batch_size = 50
    either.insert_entities(config, documents(50), {"dense": np.array(vectors(50), np.float32)})
    assert calls.count("Insert") == 1
    either.insert_entities(config, [], {"dense": []})
    assert calls.count("Insert") == 1
    stats = either.get_collection_stats(config)
    assert stats["num_entities"] == 170


def test_without_a_flush(lite, calls):
    config = config_of()
    with AsyncMilvus(lite.uri, flush=False) as client:
        client.insert_entities(config, documents(3), embeddings(3))
        assert "Flush" not in calls
        del calls[:]
        client.insert_entities(config, documents(3), embeddings(3))
        assert calls == ["Insert"]
        assert len(client.query_by_expr(config, "metadata['number'] >= 0", None, "Strong")) == 6


@needs_hybrid
def test_stats(theirs, either):
    config = config_of(is_hybrid=True)
    either.insert_entities(config, documents(4), embeddings(4, True))
    found, expected = either.get_collection_stats(config), theirs.get_collection_stats(config)
    assert list(found) == list(expected) and found["num_entities"] == 4
    assert (found["name"], found["num_entities"]) == (expected["name"], expected["num_entities"])
    assert found["schema"] == expected["schema"]
    assert [i.to_dict() for i in found["indexes"]] == [i.to_dict() for i in expected["indexes"]]


def test_deletes(theirs, either):
    config = config_of()
    either.insert_entities(config, documents(6), embeddings(6))
    result = either.delete_entity(config, "  metadata['number'] < 2 ")
    expected = theirs.delete_entity(config, "metadata['number'] == 2")
    assert type(result) is type(expected)
    rows = either.query_by_expr(config, "metadata['number'] >= 0", consistency_level="Strong")
    assert sorted(row["metadata"]["number"] for row in rows) == [3, 4, 5]
    with pytest.raises(ValueError, match="Expression cannot be empty"):
        either.delete_entity(config, "  ")


# ---- what arshai's own cannot insert ----


def test_metadata(either):
    config = config_of()
    mark, when = uuid.uuid4(), datetime.datetime(2026, 1, 2, 3, 4, 5)
    metadata = {
        "float": 0.5, "int": 7, "bool": True, "none": None, "uuid": mark, "time": when,
        "day": when.date(), "nested": {"uuid": mark, "list": [mark, 1.5, (1, 2)]},
        "set": {4}, "decimal": decimal.Decimal("1.5"), "enum": STATUS.NEW,
        "numpy": np.float32(0.25), "array": np.arange(3), "text": "ä'\"漢",
    }  # fmt: skip
    either.insert_entity(config, {"content": "x", "metadata": metadata}, embeddings(1) | {
        "dense": vectors(1)[0]})  # fmt: skip
    row = either.query_by_expr(config, "metadata['float'] == 0.5")[0]
    assert row["metadata"] == {
        "float": 0.5, "int": 7, "bool": True, "none": None, "uuid": str(mark),
        "time": "2026-01-02T03:04:05", "day": "2026-01-02",
        "nested": {"uuid": str(mark), "list": [str(mark), 1.5, [1, 2]]},
        "set": [4], "decimal": 1.5, "enum": "new", "numpy": 0.25, "array": [0, 1, 2],
        "text": "ä'\"漢",
    }  # fmt: skip


def models():
    pydantic = pytest.importorskip("pydantic")

    class Part(pydantic.BaseModel):
        name: str
        when: datetime.datetime

    class Model(pydantic.BaseModel):
        author: str
        pages: int
        rating: float
        public: bool
        owner: uuid.UUID
        written: datetime.datetime
        day: datetime.date
        note: str | None
        number: int | None = None
        kind: STATUS = STATUS.OLD
        part: Part
        parts: list[Part] = []
        raw: dict[str, Any] = pydantic.Field(default_factory=lambda: {"made": 1})

    return Part, Model


WHEN = datetime.datetime(2026, 1, 2, 3, 4, 5)
OWNER = uuid.UUID(int=7)


@pytest.mark.skipif(IS_STANDALONE, reason="Milvus 2.3.5 takes only objects in a JSON field")
def test_fields_of_a_model(theirs, either):
    part, model = models()
    config = config_of(schema_model=model)
    full = {
        "content": "full", "author": "A", "pages": 3, "rating": 0.5, "public": True,
        "owner": OWNER, "written": WHEN, "day": WHEN.date(), "note": "123", "number": 4,
        "kind": STATUS.NEW, "part": part(name="p", when=WHEN),
        "parts": [part(name="q", when=WHEN)], "raw": '{"a": [1]}',
    }  # fmt: skip
    least = {
        "content": "least", "author": "B", "pages": 1, "rating": 2, "public": False,
        "owner": str(OWNER), "written": "2026-01-02T03:04:05", "day": WHEN.date(), "part": {},
    }  # fmt: skip
    either.insert_entities(config, [full, least], embeddings(2))
    rows = {row["text"]: row for row in either.query_by_expr(config, "pages > 0")}
    other = {"name": "p", "when": WHEN.isoformat()}
    assert {k: v for k, v in rows["full"].items() if k not in ("doc_id", "metadata")} == {
        "text": "full", "author": "A", "pages": 3, "rating": 0.5, "public": True,
        "owner": str(OWNER), "written": WHEN.isoformat(), "day": "2026-01-02", "note": "123",
        "number": 4, "kind": "new", "part": other, "parts": [other | {"name": "q"}],
        "raw": {"a": [1]},
    }  # fmt: skip
    assert {k: rows["least"][k] for k in ("note", "number", "kind", "parts", "raw", "written")} == {
        "note": None, "number": None, "kind": "old", "parts": [], "raw": {"made": 1},
        "written": WHEN.isoformat(),
    }  # fmt: skip
    assert without_ids(either.search_by_vector(config, vectors(1), expr="rating < 1.0")) == (
        without_ids(theirs.search_by_vector(config, vectors(1), expr="rating < 1.0"))
    )
    with pytest.raises(Exception) as failed:
        theirs.insert_entity(config, full, {"dense": vectors(1)[0]})
    assert isinstance(failed.value, pymilvus.MilvusException)


def test_a_missing_field_is_refused_as_by_them(theirs, either):
    _, model = models()
    config = config_of(schema_model=model)
    problems = []
    for client in (either, theirs):
        with pytest.raises(pymilvus.MilvusException) as failed:
            client.insert_entity(config, {"content": "x", "pages": 3}, {"dense": vectors(1)[0]})
        problems.append((type(failed.value), failed.value.message))
    assert problems[0] == problems[1] and "author" in problems[0][1]


# ---- one round trip ----


@needs_hybrid
def test_an_operation_is_one_round_trip(either, calls):
    config = config_of(is_hybrid=True)
    either.insert_entities(config, documents(3), embeddings(3, True))
    assert calls.count("Connect") == 1
    either.search_by_vector(config, vectors(1))
    for operation, expected in (
        (lambda: either.search_by_vector(config, vectors(2)), "Search"),
        (lambda: either.search_by_vector(config, vectors(1), expr="text != ''"), "Search"),
        (lambda: either.hybrid_search(config, vectors(1), sparse_rows(1)), "HybridSearch"),
        (lambda: either.query_by_expr(config, "text != ''"), "Query"),
        (lambda: either.delete_entity(config, "text == 'none'"), "Delete"),
    ):
        del calls[:]
        operation()
        assert calls == [expected]


def test_a_collection_that_exists_is_looked_up_once(lite, theirs, calls):
    config = config_of()
    theirs.insert_entities(shipped_config(config), documents(3), embeddings(3))
    with AsyncMilvus(lite.uri) as client:
        client.search_by_vector(config, vectors(1))
    assert calls == [
        "Connect", "DescribeCollection", "DescribeCollection", "LoadCollection",
        "GetLoadingProgress", "Search",
    ]  # fmt: skip


def test_search_async(lite):
    config = config_of()

    async def main():
        async with AsyncMilvus(lite.uri) as client:
            await client.insert_entities_async(config, documents(12), embeddings(12))
            found = await client.search_async(config, vectors(1))
            assert len(found[0]) == 10 and len(found[0][0].fields["dense_vector"]) == DIMENSION
            peer = pymilvus.AsyncMilvusClient(lite.uri)
            same(found, await peer.search(
                config.collection_name, vectors(1), limit=10, output_fields=["*"]))  # fmt: skip
            await peer.close()
            less = await client.search_async(
                config, vectors(1), limit=2, output_fields=["text"], filter="text != 'text 3'"
            )
            assert [sorted(hit.fields) for hit in less[0]] == [["text"]] * 2

    run(main)


# ---- bad input ----

BAD_SEARCHES: list[dict[str, Any]] = [
    {"query_vectors": []},
    {"query_vectors": None},
    {"query_vectors": [[]]},
    {"query_vectors": vectors(1)[0]},
    {"query_vectors": [[0.5] * 3]},
    {"query_vectors": [["a"] * DIMENSION]},
    {"query_vectors": [[float("nan")] * DIMENSION]},
    {"query_vectors": [tuple(vectors(1)[0])]},
    {"query_vectors": [b"\1" * 4 * DIMENSION]},
    {"query_vectors": np.array(vectors(2))},
    {"search_field": "none"},
    {"search_field": 7},
    {"expr": "nonsense ("},
    {"expr": 7},
    {"expr": ""},
    {"limit": 0},
    {"limit": -1},
    {"limit": "3"},
    {"limit": None},
    {"output_fields": ["none"]},
    {"output_fields": "text"},
    {"output_fields": []},
    {"output_fields": ["*"]},
    {"search_params": {"metric_type": "L2"}},
    {"search_params": {}},
    {"search_params": 7},
]


def outcome(call):
    try:
        return "result", call()
    except Exception as error:
        message = re.sub(r"plan node id: \d+", "", getattr(error, "message", None) or str(error))
        return "error", (type(error), getattr(error, "code", None), message)


def compared(found, expected):
    assert found[0] == expected[0], (found, expected)
    assert "Fail connecting" not in str(expected), "the server is gone"
    if found[0] == "result":
        same(found[1], expected[1])
    else:
        assert found == expected


@pytest.fixture(scope="module")
def filled(lite):
    config = config_of(is_hybrid=HYBRID[-1])
    with AsyncMilvus(lite.uri) as client:
        client.insert_entities(config, documents(5), embeddings(5, True))
    return config


@pytest.mark.parametrize("bad", BAD_SEARCHES, ids=str)
def test_bad_searches(theirs, either, filled, bad):
    arguments = {"query_vectors": vectors(1)} | bad
    for _ in range(2):
        compared(
            outcome(lambda: either.search_by_vector(filled, **arguments)),
            outcome(lambda: theirs.search_by_vector(filled, **arguments)),
        )


BAD_HYBRIDS: list[dict[str, Any]] = [
    {"dense_vectors": None},
    {"sparse_vectors": None},
    {"dense_vectors": [[0.5]]},
    {"expr": "nonsense ("},
    {"expr": 7},
    {"limit": 0},
    {"search_params": [{"metric_type": "IP"}]},
    {"search_params": [{"metric_type": "IP"}, {"metric_type": "IP"}]},
]


@needs_hybrid
@pytest.mark.parametrize("bad", BAD_HYBRIDS, ids=str)
def test_bad_hybrid_searches(theirs, either, filled, bad):
    arguments = {"dense_vectors": vectors(1), "sparse_vectors": sparse_rows(1)} | bad
    compared(
        outcome(lambda: either.hybrid_search(filled, **arguments)),
        outcome(lambda: theirs.hybrid_search(filled, **arguments)),
    )


@pytest.mark.parametrize("expr", ["nonsense (", "", 7, None, "text == 'text 1'", "number > 1"])
def test_bad_queries(theirs, either, filled, expr):
    for more in ({}, {"output_fields": ["none"]}, {"consistency_level": "Nonsense"}):
        compared(
            outcome(lambda more=more: either.query_by_expr(filled, expr, **more)),
            outcome(lambda more=more: theirs.query_by_expr(filled, expr, **more)),
        )


BAD_ENTITIES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"dense": vectors(1)[0]}),
    ({"content": "x"}, {}),
    ({"content": "x"}, {"dense": [0.5]}),
    ({"content": "x"}, {"dense": ["a"] * DIMENSION}),
    ({"content": 7}, {"dense": vectors(1)[0]}),
    ({"content": "x" * 70000}, {"dense": vectors(1)[0]}),
    ({"content": "x", "metadata": {1: 2}}, {"dense": vectors(1)[0]}),
    ({"content": "x", "metadata": {"a": object}}, {"dense": vectors(1)[0]}),
]


@pytest.mark.parametrize("entity, embedding", BAD_ENTITIES, ids=[str(e)[:50] for e in BAD_ENTITIES])
def test_bad_entities(theirs, either, entity, embedding):
    config = config_of()
    compared(
        outcome(lambda: either.insert_entity(config, entity, embedding)),
        outcome(lambda: theirs.insert_entity(config, entity, embedding)),
    )


def test_none_where_there_is_no_null(either):
    """pymilvus sends it, and milvus-lite ends of it."""

    class Model:
        pages: int

    config = config_of(schema_model=Model)
    dense = {"dense": vectors(1)[0]}
    with pytest.raises(ValueError, match="Field 'text' is None"):
        either.insert_entity(config, {"content": None, "pages": 1}, dense)
    with pytest.raises(ValueError, match="Field 'pages' is None"):
        either.insert_entity(config, {"content": "x", "pages": None}, dense)
    either.insert_entity(config, {"content": "x", "pages": 1}, dense)


def test_what_is_not_hybrid(theirs, either):
    config = config_of()
    compared(
        outcome(lambda: either.hybrid_search(config, vectors(1), sparse_rows(1))),
        outcome(lambda: theirs.hybrid_search(config, vectors(1), sparse_rows(1))),
    )


def test_errors_are_in_the_log(either, filled, caplog):
    with caplog.at_level(logging.ERROR, "arshai_native.vector_db"), pytest.raises(Exception):  # noqa: B017
        either.query_by_expr(filled, "nonsense (")
    assert [r.name for r in caplog.records].count("arshai_native.vector_db") == 1


def test_a_configuration_of_theirs_and_ours_are_alike():
    theirs = shipped_config(CollectionConfig("c", 3, "t"))
    for field in dataclasses.fields(CollectionConfig):
        assert getattr(theirs, field.name) == getattr(CollectionConfig("c", 3, "t"), field.name)
