"""Rows of queries that are completed when somebody looks at them: ours beside pymilvus's own, used
in the same way step by step. After each step everything about both is the same.
"""

import collections
import copy
import gc
import json
import pickle
import random
import struct
import sys
import weakref

import numpy as np
import pytest
from pymilvus.client.types import DataType, HybridExtraList
from pymilvus.grpc_gen import milvus_pb2
from test_milvus_wire import VECTORS, outcome, random_column, random_query, seen, their_rows

from arshai_native import _milvus_wire


@pytest.fixture(scope="module")
def replies():
    made = _milvus_wire.replies()
    assert made is not None
    return made


@pytest.fixture
def refused(monkeypatch):
    """pymilvus completes no row: what is complete has been completed by us."""

    def extract(self, *_):
        raise AssertionError("pymilvus completes a row")

    monkeypatch.setattr(HybridExtraList, "_extract_lazy_fields", extract)


def reply_of(*columns, output_fields=()):
    return milvus_pb2.QueryResults(
        fields_data=columns, output_fields=output_fields
    ).SerializeToString()


def json_column(*texts, name="json", **more):
    return {"field_name": name, "type": 23, "scalars": {"json_data": {"data": texts}}, **more}


def float_column(count, dim=3, name="vector", **more):
    vectors = {"dim": dim, "float_vector": {"data": [0.1 * i for i in range(dim * count)]}}
    return {"field_name": name, "type": 101, "vectors": vectors, **more}


def pair(replies, *columns, strict=False, **options):
    """The rows of a reply, ours and pymilvus's."""
    reply = reply_of(*columns, **options)
    return replies.query(reply, strict), their_rows(reply, strict)


def same(mine, other):
    if isinstance(other, Exception):
        assert type(mine) is type(other) and str(mine) == str(other)
    else:
        assert seen(mine) == seen(other)


def same_step(step, ours, theirs):
    same(outcome(lambda: step(ours)), outcome(lambda: step(theirs)))
    assert seen(ours) == seen(theirs)


# ---- used in the same way ----


def change(row, key):
    if isinstance(row, dict):
        row[key] = "changed"


def assign(rows, i, row):
    rows[i] = row


def delete(rows, i):
    del rows[i]


def take_some(rows, count):
    return [row for _, row in zip(range(count), rows, strict=False)]


def step_of(r):
    """Something a program may do with rows; gives the same with equal rows."""
    i = r.randint(-14, 13)
    part = slice(*(r.choice([None, r.randint(-13, 13)]) for _ in range(2)), r.choice([1, None, -2]))
    count = r.randint(0, 12)
    protocol = r.randint(0, pickle.HIGHEST_PROTOCOL)
    looks = [
        lambda rows: rows[i],
        lambda rows: rows[i],
        lambda rows: rows[part],
        lambda rows: rows[np.int64(i)],
        lambda rows: rows[True],
        lambda rows: rows[i + (1 << 70)],
        lambda rows: rows["x"],
        lambda rows: take_some(rows, count),
        lambda rows: list.__getitem__(rows, i),
        lambda rows: (list.copy(rows), len(rows), bool(rows), rows.extra),
        lambda rows: (str(rows), repr(rows)),
        lambda rows: next(reversed(rows), None),
        lambda rows: rows.materialize() is rows,
        list,
        lambda rows: [dict(row) for row in rows],
        lambda rows: rows + rows,
        lambda rows: rows * 2,
        lambda rows: json.dumps(rows),
        lambda rows: json.dumps(list(rows)),
        lambda rows: rows == list(rows),
        lambda rows: rows[i] in rows,
        lambda rows: rows.index(list.__getitem__(rows, i)),
        copy.copy,
        copy.deepcopy,
        lambda rows: copy.deepcopy(rows)[i],
        lambda rows: list(copy.copy(rows)),
        lambda rows: pickle.loads(pickle.dumps(rows, protocol)),
        lambda rows: list(pickle.loads(pickle.dumps(rows, protocol))),
        lambda rows: collections.deque(rows),
        lambda rows: list(rows._materialized_bitmap)[i],
    ]
    changes = [
        lambda rows: rows.append({"id": 1}),
        lambda rows: rows.append(None),
        lambda rows: rows.insert(count, {"text": "x"}),
        lambda rows: rows.pop(i),
        lambda rows: rows.reverse(),
        lambda rows: rows.sort(key=lambda row: len(str(row))),
        lambda rows: rows.extend([{}, {"more": 5}]),
        lambda rows: assign(rows, i, {"more": 5}),
        lambda rows: assign(rows, i, [1]),
        lambda rows: delete(rows, i),
        lambda rows: change(list.__getitem__(rows, i), "more"),
        lambda rows: change(list.__getitem__(rows, i), "text"),
        lambda rows: change(rows[i], "more"),
        lambda rows: change(list.__getitem__(rows, i), "_original_idx"),
        lambda rows: rows.extra.update(cost=5),
        lambda rows: rows.clear(),
        lambda rows: setattr(rows, "_strict_float32", count % 2 == 0),
        lambda rows: setattr(rows, "_strict_float32", 1),
        lambda rows: setattr(rows, "_dynamic_fields", {"more"}),
        lambda rows: setattr(rows, "_dynamic_fields", ["more"]),
        lambda rows: rows._lazy_field_data.clear(),
        lambda rows: rows._materialized_bitmap.append(False),
        lambda rows: assign(rows._materialized_bitmap, i, count % 2 == 0),
    ]
    return r.choice(changes if r.random() < 0.2 else looks)


@pytest.mark.parametrize("seed", range(400))
def test_used_step_by_step(replies, seed):
    r = random.Random(seed)
    reply = random_query(r).SerializeToString()
    strict = r.random() < 0.3
    ours, theirs = replies.query(reply, strict), their_rows(reply, strict)
    for _ in range(12):
        same_step(step_of(r), ours, theirs)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", [*VECTORS, DataType.JSON])
def test_every_type(replies, kind, strict, monkeypatch):
    """By us, and as pymilvus does it: with and without nulls."""
    for seed in range(30):
        r = random.Random(seed)
        reply = reply_of(random_column(r, "id", DataType.INT64, 7), random_column(r, "x", kind, 7))
        theirs = their_rows(reply, strict)
        ours, order = replies.query(reply, strict), r.sample(range(7), 7)
        expected = [seen(theirs[i]) for i in order]
        with monkeypatch.context() as patch:
            patch.setattr(HybridExtraList, "_extract_lazy_fields", None)
            assert [seen(ours[i]) for i in order] == expected
            assert all(list(ours._materialized_bitmap))
        assert seen(ours) == seen(theirs)


@pytest.mark.usefixtures("refused")
def test_one_row_is_completed_when_it_is_looked_at(replies):
    ours, _ = pair(replies, json_column(b"[1]", b"2", b"3"), float_column(3))
    assert ours[-1] == {"json": 3, "vector": ours[2]["vector"]}
    assert list(ours._materialized_bitmap) == [False, False, True]
    assert list.__getitem__(ours, 0) == {"json": None, "vector": None}
    assert ours.materialize() is ours and ours._materialized_bitmap == [True] * 3
    row = ours[0]
    row["json"] = "changed"
    assert ours[0] is row and next(iter(ours))["json"] == "changed"


DYNAMIC = [b'{"more": 1, "other": 2, "json": 3, "$meta": 4}', b"{}", b"null", b'{"other": [5]}']


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize("output_fields", [
    [], ["more"], ["other"], ["json", "more"], ["$meta"], ["none of them"], ["$meta", "more"],
])  # fmt: skip
@pytest.mark.parametrize("valid", [[], [True, False, True, True]])
def test_dynamic_field(replies, output_fields, valid, monkeypatch):
    """What is wanted of it, and never in the place of a field."""
    columns = [
        json_column(*DYNAMIC, name="$meta", is_dynamic=True, valid_data=valid),
        json_column(b"1", b"2", b"3", b"4"),
        json_column(*DYNAMIC, name="second", is_dynamic=True),
    ]
    ours, theirs = pair(replies, *columns, output_fields=output_fields)
    list.__getitem__(ours, 3)["other"] = list.__getitem__(theirs, 3)["other"] = "mine"
    list(ours)
    monkeypatch.undo()
    same_step(list, ours, theirs)
    assert ours[3]["other"] == "mine"


@pytest.mark.parametrize("columns", [
    [json_column(b"[1]", b"{", b"3")],
    [json_column(b"1", b"2", b"3"), json_column(b"{}", b"[]", b"{}", name="m", is_dynamic=True)],
    [json_column(b"\xff", b"", b"null")],
    [float_column(1, valid_data=[True, False, True])],  # fewer than there should be
    [float_column(3, valid_data=[True, False, True])],
    [float_column(0, dim=0, valid_data=[True, False, True])],
    [float_column(0, valid_data=[True, True, True])],
    [{"field_name": "b", "type": 100, "valid_data": [True] * 3,
      "vectors": {"dim": 12, "binary_vector": b"123"}}],
    [{"field_name": "h", "type": 102, "valid_data": [True] * 3,
      "vectors": {"dim": 1, "float16_vector": b"123"}}],
    [{"field_name": "s", "type": 104, "vectors": {
        "sparse_float_vector": {"contents": [bytes(8), bytes(7), bytes(24)]}}}],
    [{"field_name": "s", "type": 104, "valid_data": [True] * 3, "vectors": {
        "sparse_float_vector": {"contents": [bytes(8)]}}}],
    [json_column(name="none"), json_column(name="empty")],
    [json_column(b"1", b"2", b"3", name="_original_idx")],
])  # fmt: skip
@pytest.mark.parametrize("strict", [False, True])
def test_what_is_odd(replies, columns, strict):
    """The same values, or the same error as often as one looks."""
    ours, theirs = pair(replies, *columns, strict=strict)
    for step in (lambda rows: rows[1], lambda rows: rows[0], lambda rows: rows[-1], list, str) * 2:
        same_step(step, ours, theirs)


@pytest.mark.parametrize("grow", [
    lambda rows: rows.append({}),
    lambda rows: rows._materialized_bitmap.append(False),
    lambda rows: (rows.append({}), rows._materialized_bitmap.append(False)),
])  # fmt: skip
@pytest.mark.parametrize("valid", [[], [True] * 3])
@pytest.mark.parametrize("strict", [False, True])
def test_more_rows_than_the_reply_has(replies, grow, valid, strict):
    columns = [json_column(b"1", b"2", b"3", valid_data=valid), float_column(3)]
    ours, theirs = pair(replies, *columns, strict=strict)
    for step in (grow, lambda rows: rows[3], lambda rows: rows[-1], list):
        same_step(step, ours, theirs)


def test_strict_float32(replies):
    """Vectors are pieces of one array, as there."""
    more = {"field_name": "more", "type": 102, "vectors": {"dim": 1, "float16_vector": b"123456"}}
    columns = [float_column(3), more, float_column(2, name="n", valid_data=[True, False, True])]
    ours, theirs = pair(replies, *columns, strict=True)
    for rows in (ours, theirs):
        assert not rows._has_materialized_float_vector and not rows._float_vector_np_array
        vector = rows[1]["vector"]
        assert rows._has_materialized_float_vector
        whole = rows._float_vector_np_array["vector"]
        assert vector.base is whole and rows[2]["vector"].base is whole
        whole[3] = 7
        assert vector[0] == 7 and vector.flags.writeable and vector.dtype == np.float32
        assert rows[1]["n"] is None and rows[2]["n"].base is rows._float_vector_np_array["n"]
    same_step(list, ours, theirs)


# ---- their life ----


def test_copies_are_plain(replies):
    """A copy's rows are its own to complete."""
    ours, _ = pair(replies, json_column(b"[1]", b"2"))
    ours[0]
    bitmap = ours._materialized_bitmap
    assert type(bitmap) is not list and isinstance(bitmap, list)
    for copied in (copy.copy(bitmap), copy.deepcopy(bitmap), pickle.loads(pickle.dumps(bitmap))):
        assert type(copied) is list and copied == [True, False]
    assert repr(bitmap) == "[True, False]" and bitmap[:] == [True, False] and bitmap[-1] is True
    assert json.dumps(bitmap) == "[true, true]"
    for wrong in (2, -3, 1 << 70):
        with pytest.raises(IndexError):
            bitmap[wrong]
    with pytest.raises(TypeError):
        type(bitmap)()


def test_a_shallow_copy_shares_the_rows(replies):
    for rows in pair(replies, json_column(b"[1]", b"2")):
        copied = copy.copy(rows)
        assert type(copied) is HybridExtraList and copied[0] is rows[0]
        del rows
        assert list(copied) == [{"json": [1]}, {"json": 2}]


def test_who_outlives_whom(replies):
    """Rows need nobody's reply, and what completes them survives them."""
    reply = bytearray(reply_of(json_column(b"[1]", b"2")))
    ours = replies.query(memoryview(reply), False)
    reply[:] = bytes(len(reply))  # it was copied
    bitmap, row = ours._materialized_bitmap, list.__getitem__(ours, 1)
    assert ours[0] == {"json": [1]}
    gone = weakref.ref(ours)
    del ours
    assert gone() is None  # at once, without the garbage collector
    assert bitmap[0] is True and bitmap[1] is False and row == {"json": None}


def test_the_reply_is_let_go_of(replies):
    """As soon as all rows are complete."""
    reply = reply_of(json_column(b"[1]", b"2"))
    before = sys.getrefcount(reply)
    ours = replies.query(reply, False)
    assert ours[0] == ours[-2] and sys.getrefcount(reply) > before
    assert ours[1] and sys.getrefcount(reply) == before
    for rows in (replies.query(reply, False), replies.query(reply_of(float_column(0)), False)):
        del rows
    assert sys.getrefcount(reply) == before


@pytest.mark.parametrize("is_complete", [False, True])
def test_cycles_are_found(replies, is_complete):
    ours, _ = pair(replies, json_column(b"[1]", b"2"))
    if is_complete:
        list(ours)
    list.__getitem__(ours, 0)["rows"] = ours
    ours._materialized_bitmap.append(ours)
    gone = weakref.ref(ours)
    del ours
    assert gone() is not None
    gc.collect()
    assert gone() is None


def test_long_vectors_are_not_shown_to_the_garbage_collector(replies):
    for dim in (63, 64):
        ours, theirs = pair(replies, float_column(2, dim=dim))
        assert gc.is_tracked(ours[0]["vector"]) == (dim < 64)
        vector = ours[0]["vector"]
        vector.append(1.0)
        assert vector[:-1] == theirs[0]["vector"]


MEANWHILE = [
    lambda rows: rows.materialize(),
    lambda rows: rows[1],
    lambda rows: rows.clear(),
    lambda rows: rows.append(1),
    lambda rows: rows._lazy_field_data.clear(),
    lambda rows: rows._materialized_bitmap.clear(),
    lambda rows: rows._materialized_bitmap.extend(rows._materialized_bitmap),
]


@pytest.mark.parametrize("meanwhile", MEANWHILE[:4])
def test_what_happens_before_a_row_is_completed(replies, monkeypatch, meanwhile):
    own = HybridExtraList._pre_materialize_float_vector

    def pre_materialize(self):
        own(self)
        if self.extra.pop("cost", None):
            meanwhile(self)

    monkeypatch.setattr(HybridExtraList, "_pre_materialize_float_vector", pre_materialize)
    ours, theirs = pair(replies, json_column(b"1", b"2", b"3"), float_column(3), strict=True)
    for rows in (ours, theirs):
        rows.extra["cost"] = 1
    for step in (lambda rows: rows[1], lambda rows: rows[1], list):
        same_step(step, ours, theirs)


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_what_happens_while_a_row_is_completed(meanwhile):
    """Whatever it is, nothing is used that is gone."""

    def loads(data):
        if not looked:
            looked.append(True)
            meanwhile(ours)
        return json.loads(data)

    looked: list[bool] = []
    reply = reply_of(json_column(b"1", b"2", b"3"), float_column(3))
    ours = remade(loads).query(reply, False)
    row = list.__getitem__(ours, 1)
    outcome(lambda: ours[1])
    assert looked and row["json"] == 2 and row["vector"] == their_rows(reply)[1]["vector"]
    assert outcome(lambda: list(ours)) is not None


def test_interrupted(replies):
    """What is no Exception passes through, and the row is completed by the next one who looks."""

    def loads(data):
        if data == b"2" and errors:
            raise errors.pop()
        return json.loads(data)

    made = remade(loads)
    errors = [KeyboardInterrupt(), ValueError(), MemoryError()]
    ours = made.query(reply_of(json_column(b"1", b"2")), False)
    assert ours[0] == {"json": 1} and ours[1] == {"json": 2}  # by pymilvus: MemoryError
    ours = made.query(reply_of(json_column(b"1", b"2")), False)
    assert ours[1] == {"json": 2}  # by pymilvus: ValueError
    ours = made.query(reply_of(json_column(b"1", b"2")), False)
    with pytest.raises(KeyboardInterrupt):
        ours[1]
    assert list(ours._materialized_bitmap) == [False, False]
    assert list(ours) == [{"json": 1}, {"json": 2}]


def remade(loads):
    """MilvusReplies that decode JSON in another way."""
    import orjson

    own = orjson.loads
    orjson.loads = loads
    try:
        return _milvus_wire._make()
    finally:
        orjson.loads = own


def test_sparse_vectors_keep_their_order(replies):
    row = struct.pack("<IfIfIf", 9, 0.5, 3, 0.25, 9, 2.0)
    column = {
        "field_name": "s",
        "type": 104,
        "vectors": {"sparse_float_vector": {"contents": [row]}},
    }
    ours, theirs = pair(replies, column)
    same_step(lambda rows: list(rows[0]["s"].items()), ours, theirs)
    assert ours[0]["s"] == {9: 2.0, 3: 0.25}
