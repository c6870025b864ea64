"""Inserts and upserts: the bytes that _core.MilvusSchema makes of rows and of columns parse to the
message that pymilvus's Prepare makes of the same rows, over random schemas and rows with a seed.
What pymilvus refuses or converts in its own way is left to it.
"""

import enum
import math
import random

import numpy as np
import pytest
from pymilvus.client.prepare import Prepare
from pymilvus.client.types import DataType
from pymilvus.grpc_gen import milvus_pb2
from scipy import sparse

from arshai_native import _milvus_wire

D = DataType


def text(r):
    return "".join(r.choice("abc é€😀\0") for _ in range(r.choice([0, 1, 7, 40])))


def json_value(r, depth=0):
    simple = [None, True, -1, 0.5, 1 << 60, text(r), math.nan]
    if depth > 2 or r.random() < 0.4:
        return r.choice(simple)
    if r.random() < 0.5:
        return [json_value(r, depth + 1) for _ in range(r.randint(0, 3))]
    return {text(r): json_value(r, depth + 1) for _ in range(r.randint(0, 3))}


def real(r):
    return r.choice([r.gauss(0, 1), r.randint(-5, 5), math.inf, math.nan, 1e-320, 1e39, True])


SCALARS = {
    D.BOOL: lambda r: r.random() < 0.5,
    D.INT8: lambda r: r.randint(-128, 127),
    D.INT16: lambda r: r.choice([-(1 << 15), np.int16(7), r.randint(-9, 9)]),
    D.INT32: lambda r: r.choice([-(1 << 31), (1 << 31) - 1, r.randint(-9, 9)]),
    D.INT64: lambda r: r.choice([-(1 << 63), (1 << 63) - 1, np.int64(-5), r.randint(-9, 9)]),
    D.FLOAT: lambda r: r.choice([r.gauss(0, 1), 3, np.float32(0.1), np.float64(0.1), 1e39]),
    D.DOUBLE: lambda r: r.choice([r.gauss(0, 1), 3, np.float32(0.1), math.nan, 1e300]),
    D.VARCHAR: text,
}


def floats(r, dim):
    made = [r.choice([r.gauss(0, 1), r.randint(-5, 5), math.inf, 1e-320, 1e39]) for _ in range(dim)]
    kind = r.randrange(6)
    if kind == 0:
        return tuple(made)
    if kind == 1:
        return np.array(made, "f8")
    if kind == 2:
        return np.random.default_rng(dim).random(dim, "f4")
    if kind == 3:
        return list(np.random.default_rng(dim).random(dim, "f4"))
    return made


def halves(r, dim, as_numbers, kind):
    if not as_numbers:
        numpys = kind == D.FLOAT16_VECTOR and r.random() < 0.5
        return np.ones(dim, "f2") if numpys else r.randbytes(2 * dim)
    made = [r.gauss(0, 1) for _ in range(dim)]
    return r.choice([made, np.array(made), np.array(made, "f4")])


def sparse_row(r):
    pairs = {i: r.gauss(0, 1) for i in r.sample(range(50), r.randint(0, 5))}
    kind = r.randrange(4)
    if kind == 0:
        return [(i, v) for i, v in pairs.items()]
    if kind == 1:
        return sparse.random(1, 50, 0.1, format="csr", random_state=r.randrange(1 << 30))
    return pairs


class Schema:
    """A random collection, and random rows for it."""

    def __init__(self, r):
        self.r = r
        kinds = [*SCALARS, D.JSON, D.ARRAY, D.FLOAT_VECTOR, D.FLOAT16_VECTOR, D.BFLOAT16_VECTOR,
                 D.BINARY_VECTOR, D.SPARSE_FLOAT_VECTOR, D.INT8_VECTOR]  # fmt: skip
        self.fields = []
        for i, kind in enumerate(r.sample(kinds, r.randint(1, 9))):
            field = {"field_id": 100 + i, "name": f"f{i}-é", "description": "", "type": kind}
            field["params"] = {"dim": r.choice([8, "16"])} if kind >= 100 else {}
            if kind == D.VARCHAR:
                field["params"] = {"max_length": r.choice([1, 100, "65535"])}
            if kind == D.ARRAY:
                field |= {"element_type": r.choice(list(SCALARS)), "params": {"max_capacity": 9}}
            if r.random() < 0.4:
                field["nullable"] = True
            elif r.random() < 0.2:
                field["default_value"] = object()
            if r.random() < 0.1:
                field["is_partition_key"] = True
            self.fields.append(field)
        self.auto_id = r.random() < 0.4
        key = {
            "name": "pk",
            "type": r.choice([D.INT64, D.VARCHAR]),
            "is_primary": True,
            "params": {},
        }
        if self.auto_id:
            key["auto_id"] = True
        self.fields.insert(r.randint(0, len(self.fields)), key)
        if r.random() < 0.2:
            output = {"name": "out", "type": D.SPARSE_FLOAT_VECTOR, "is_function_output": True}
            self.fields.insert(r.randint(0, len(self.fields)), output)
        self.is_dynamic = r.random() < 0.5
        self.as_numbers = r.random() < 0.5
        self.native = _milvus_wire.schema(
            {"fields": self.fields, "enable_dynamic_field": self.is_dynamic}
        )
        assert self.native is not None

    def value(self, field):
        r, kind = self.r, field["type"]
        dim = int(field["params"].get("dim", 0))
        if kind in SCALARS:
            return SCALARS[kind](r)
        if kind == D.JSON:
            value = json_value(r)
            if isinstance(value, str):
                value = r.choice(['{"a": 1}', "[1, 2]", "3", '"é"'])
            return [] if value is None else value
        if kind == D.ARRAY:
            cells = [SCALARS[field["element_type"]](r) for _ in range(r.randint(0, 4))]
            return cells
        if kind == D.FLOAT_VECTOR:
            return floats(r, dim)
        if kind == D.SPARSE_FLOAT_VECTOR:
            return sparse_row(r)
        if kind == D.BINARY_VECTOR:
            return r.choice([r.randbytes(dim // 8), np.ones(dim // 8, "u1")])
        if kind == D.INT8_VECTOR:
            return r.choice([r.randbytes(dim), np.ones(dim, "i1")])
        return halves(r, dim, self.as_numbers, kind)

    def rows(self, count, with_key, chosen=None):
        r, made = self.r, []
        for _ in range(count):
            row = {}
            for field in self.fields:
                name = field["name"]
                if name == "out" or (name == "pk" and not with_key):
                    continue
                if chosen is not None and name not in chosen:
                    continue
                nullable = field.get("nullable") or "default_value" in field
                if nullable and chosen is None and r.random() < 0.2:
                    continue
                row[name] = None if nullable and r.random() < 0.2 else self.value(field)
            if self.is_dynamic and r.random() < 0.7:
                row |= {text(r): json_value(r) for _ in range(r.randint(0, 3))}
            if r.random() < 0.3:
                row = dict(r.sample(list(row.items()), len(row)))
            made.append(row)
        return made

    def theirs(self, rows, upsert=False, partial=False):
        if not upsert:
            return Prepare.row_insert_param(
                "c", rows, "p", self.fields, None, enable_dynamic=self.is_dynamic,
                schema_timestamp=7,
            )  # fmt: skip
        return Prepare.row_upsert_param(
            "c", rows, "p", self.fields, None, enable_dynamic=self.is_dynamic, schema_timestamp=7,
            partial_update=partial,
        )  # fmt: skip

    def ours(self, rows, upsert=False, partial=False, by="rows"):
        made = getattr(self.native, by)(rows, upsert=upsert, partial=partial)
        if made is None:
            return None
        kind = milvus_pb2.UpsertRequest if upsert else milvus_pb2.InsertRequest
        head = kind(collection_name="c", partition_name="p", schema_timestamp=7)
        if partial:
            head.partial_update = True
        return kind.FromString(head.SerializeToString() + made)


def outcome(function):
    try:
        return function()
    except Exception as error:
        return error


def same(ours, theirs):
    """Equal, with NaN equal to itself."""
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("seed", range(300))
def test_inserts(seed):
    r = random.Random(seed)
    schema = Schema(r)
    rows = schema.rows(r.choice([1, 2, 10]), not schema.auto_id or r.random() < 0.3)
    ours = schema.ours(rows)
    assert ours is not None
    same(ours, schema.theirs(rows))


@pytest.mark.parametrize("seed", range(300))
def test_upserts(seed):
    r = random.Random(seed)
    schema = Schema(r)
    rows = schema.rows(r.choice([1, 2, 10]), True)
    ours = schema.ours(rows, upsert=True)
    assert ours is not None
    same(ours, schema.theirs(rows, upsert=True))
    names = ["pk"] + [f["name"] for f in schema.fields if r.random() < 0.5]
    rows = schema.rows(r.choice([1, 3]), True, names)
    ours = schema.ours(rows, upsert=True, partial=True)
    assert ours is not None
    same(ours, schema.theirs(rows, upsert=True, partial=True))


class Colour(enum.IntEnum):
    RED = 1


STRANGE = [
    None, True, 0, -1, 1 << 40, 1 << 70, 0.5, math.nan, 1e39, "", "x", "\ud800", b"", b"12345678",
    [], [1.0], [None], ["1"], [[1, 0.5]], [1 << 2000], (1.0, 2.0), {}, {1: 0.5}, {"1": "0.5"},
    {-1: 0.5}, {1: math.nan}, {1: 2}, {"a": object()}, {1: "a"}, np.float32(1), np.int64(1),
    np.bool_(True), np.zeros(8), np.zeros(8, "f4"), np.zeros(8, "f2"), np.zeros(8, "i1"),
    np.zeros(8, "u1"), np.zeros((2, 8)), np.zeros(8, "O"), np.zeros(8, ">f4"), np.float64(0.5),
    bytearray(b"12345678"), memoryview(b"12345678"), Colour.RED, object(), {"a": np.float32(1)},
    [np.float32(1)], {"a": [np.int64(1)]}, range(8), sparse.csr_matrix(np.eye(2)),
    sparse.csc_matrix(np.ones((1, 3))), '{"a":', [True, False], {True: 0.5}, [1, "a"],
]  # fmt: skip


@pytest.mark.parametrize("seed", range(400))
def test_strange_rows(seed):
    """Whatever is in a row: pymilvus raises and ours leaves it, or both make the same."""
    r = random.Random(seed)
    schema = Schema(r)
    for _ in range(10):
        rows = schema.rows(r.choice([1, 3]), r.random() < 0.7)
        for _ in range(r.randint(1, 2)):
            row = r.choice([row for row in rows if isinstance(row, dict)] or [{}])
            change = r.randrange(5)
            if change == 0 and row:
                del row[r.choice(list(row))]
            elif change == 1:
                row[r.choice(["out", "pk", "unknown", "$meta", 5, ""])] = r.choice(STRANGE)
            elif change == 2 and r.random() < 0.2:
                rows[r.randrange(len(rows))] = r.choice(STRANGE)
            else:
                row[r.choice(schema.fields)["name"]] = r.choice(STRANGE)
        upsert = r.random() < 0.5
        partial = upsert and r.random() < 0.5
        ours = schema.ours(rows, upsert, partial)
        if ours is not None:
            theirs = outcome(lambda: schema.theirs(rows, upsert, partial))  # noqa: B023
            assert not isinstance(theirs, Exception), (rows, theirs)
            same(ours, theirs)


FIELDS = [
    {"name": "pk", "type": D.INT64, "is_primary": True},
    {"name": "text", "type": D.VARCHAR, "params": {"max_length": 10}},
    {"name": "vector", "type": D.FLOAT_VECTOR, "params": {"dim": 4}},
]
ROW = {"pk": 1, "text": "a", "vector": [1.0, 2, 3, 4]}


@pytest.mark.parametrize("rows", [
    [], {}, None, "x", [None], [[1]], (ROW,), [ROW, {}], [ROW | {"more": 1}], [ROW | {"text": 5}],
    [ROW | {"pk": "1"}], [ROW | {"pk": 1.0}], [ROW | {"pk": True}], [ROW | {"vector": None}],
    [ROW | {"vector": ["1"]}], [ROW | {"vector": b"1234"}], [ROW | {"text": None}],
    [ROW | {"text": "\ud800"}], [{"pk": 1, "text": "a"}],
], ids=repr)  # fmt: skip
def test_rows_left_to_pymilvus(rows):
    assert _milvus_wire.schema({"fields": FIELDS}).rows(rows) is None


@pytest.mark.parametrize("description", [
    {},
    {"fields": []},
    {"fields": FIELDS, "struct_array_fields": [{"name": "s"}]},
    {"fields": FIELDS + FIELDS},
    {"fields": FIELDS[1:]},
    {"fields": [*FIELDS, {"name": "g", "type": D.GEOMETRY}]},
    {"fields": [*FIELDS, {"name": "a", "type": D.ARRAY, "element_type": D.JSON}]},
    {"fields": [*FIELDS, {"name": "$meta", "type": D.JSON, "is_dynamic": True}]},
    {"fields": [*FIELDS, {"name": "t", "type": D.VARCHAR, "params": {"max_length": 0}}]},
])  # fmt: skip
def test_schemas_left_to_pymilvus(description):
    assert _milvus_wire.schema(description) is None


def test_rows_that_change_while_they_are_read():
    """JSON may run the program's own code."""
    fields = [*FIELDS, {"name": "json", "type": D.JSON}]
    description = {"fields": fields, "enable_dynamic_field": True}
    made = _milvus_wire._compile(description)
    kinds = [(f["name"], int(f["type"]), 0, 4, False, False) for f in fields]
    rows = []

    def dumps(value):
        rows[0].clear()
        rows[0].update({f"k{i}": i for i in range(100)})
        rows.append(rows[0])
        return b"{}"

    native = type(made)(kinds, [], dynamic=True, dumps=dumps, loads=lambda text: text)
    for _ in range(50):
        rows[:] = [ROW | {"json": {}, "more": 1} for _ in range(3)]
        assert native.rows(rows) is None
    for wrong in (lambda value: "text", lambda value: 1 // 0):
        native = type(made)(kinds, [], dynamic=True, dumps=wrong, loads=lambda text: text)
        assert native.rows([ROW | {"json": {}}]) is None

    def interrupted(value):
        raise KeyboardInterrupt

    native = type(made)(kinds, [], dynamic=True, dumps=interrupted, loads=lambda text: text)
    with pytest.raises(KeyboardInterrupt):
        native.rows([ROW | {"json": {}}])


# ---- columns ----


@pytest.mark.parametrize("seed", range(300))
def test_columns_of_lists(seed):
    """Columns are the rows turned round."""
    r = random.Random(seed)
    schema = Schema(r)
    count = r.choice([1, 2, 10])
    names = [f["name"] for f in schema.fields if f["name"] not in ("pk", "out")]
    with_key = not schema.auto_id or r.random() < 0.3
    columns = {
        f["name"]: [schema.value(f) for _ in range(count)]
        for f in schema.fields
        if f["name"] in names and not (f.get("nullable") and r.random() < 0.3)
    }
    if with_key:
        key = next(f for f in schema.fields if f["name"] == "pk")
        columns["pk"] = [schema.value(key) for _ in range(count)]
    if schema.is_dynamic and r.random() < 0.5:
        columns["more"] = [json_value(r) for _ in range(count)]
    if not columns:
        return
    rows = [{name: column[i] for name, column in columns.items()} for i in range(count)]
    for upsert, partial in ((False, False), (True, False), (True, True)):
        if upsert and not with_key and not partial:
            continue
        ours = schema.ours(columns, upsert, partial, "columns")
        assert ours is not None
        same(ours, schema.theirs(rows, upsert, partial))


BLOCKS = {
    D.BOOL: [np.array([True, False, True])],
    D.INT8: [np.arange(3, dtype="i1"), np.arange(3)],
    D.INT16: [np.arange(3, dtype="i2"), np.arange(3, dtype="u1")],
    D.INT32: [np.arange(6)[::2], np.array([-5, 5, 7], "i4")],
    D.INT64: [np.arange(3, dtype="i4"), np.array([-(1 << 63), 0, (1 << 63) - 1])],
    D.FLOAT: [np.array([0.1, 1e39, math.nan]), np.array([0.1, 2, 3], "f4"), np.arange(3)],
    D.DOUBLE: [np.array([0.1, 1e300, math.nan]), np.array([0.1, 2, 3], "f4"), np.arange(3)],
    D.VARCHAR: [np.array(["a", "é", "abc"]), np.array(["a", "b", ""], "O")],
    D.JSON: [np.array([1, 2, 3])],
    D.FLOAT_VECTOR: [
        np.random.default_rng(1).random((3, 8), "f4"),
        np.random.default_rng(1).random((3, 8)) * 1e39,
        np.random.default_rng(1).random((6, 16), "f4")[::2, ::2],
        np.asfortranarray(np.random.default_rng(1).random((3, 8))),
    ],
    D.FLOAT16_VECTOR: [np.ones((3, 8), "f2"), np.ones((3, 8), "f4"), np.ones((3, 8))],
    D.BFLOAT16_VECTOR: [np.ones((3, 8), "f4"), np.ones((3, 8))],
    D.INT8_VECTOR: [np.ones((3, 8), "i1")],
    D.BINARY_VECTOR: [np.ones((3, 1), "u1")],
    D.SPARSE_FLOAT_VECTOR: [
        sparse.csr_matrix(np.eye(3, dtype="f4")),
        sparse.csr_array(np.eye(3)),
        sparse.csr_array(np.zeros((3, 4))),
    ],
}


@pytest.mark.parametrize("nullable", [False, True])
@pytest.mark.parametrize("kind", BLOCKS)
def test_columns_of_blocks(kind, nullable):
    for block in BLOCKS[kind]:
        fields = [
            {"name": "pk", "type": D.INT64, "is_primary": True},
            {"name": "x", "type": kind, "params": {"dim": 8}, "nullable": nullable},
        ]
        native = _milvus_wire.schema({"fields": fields})
        made = native.columns({"x": block, "pk": np.arange(3)})
        assert made is not None
        front = b"what comes before them"
        assert native.columns({"x": block, "pk": np.arange(3)}, front=front) == front + made
        # Rows of Python's values where pymilvus takes numpy's in another way.
        values = list(block)
        if kind in (D.BOOL, D.JSON) or block.dtype.kind in "UO":
            values = block.tolist()
        if kind == D.SPARSE_FLOAT_VECTOR:
            values = [sparse.csr_matrix(block[[i]]) for i in range(3)]
        rows = [{"pk": i, "x": values[i]} for i in range(3)]
        same(
            milvus_pb2.InsertRequest.FromString(made),
            Prepare.row_insert_param("", rows, "", fields, None),
        )


@pytest.mark.parametrize("columns", [
    {}, None, [], {"pk": [1]}, {"pk": [1], "text": ["a"], "vector": np.zeros((2, 4), "f4")},
    {"pk": [1], "text": ["a"], "vector": np.zeros(4, "f4")},
    {"pk": [1], "text": ["a"], "vector": np.zeros((1, 4), "i8")},
    {"pk": [1], "text": ["a"], "vector": np.zeros((1, 4), "f2")},
    {"pk": [1], "text": "a", "vector": np.zeros((1, 4), "f4")},
    {"pk": np.array([0.5]), "text": ["a"], "vector": np.zeros((1, 4), "f4")},
    {"pk": [], "text": [], "vector": []},
    {"pk": 1, "text": ["a"], "vector": [[1.0]]},
    {"pk": [1], "text": ["a"], "vector": [[1.0]], "more": [1]},
    {"pk": [1], "text": ["a"], "vector": [[1.0]], 5: [1]},
    {"pk": sparse.csr_array(np.eye(1)), "text": ["a"], "vector": [[1.0]]},
], ids=repr)  # fmt: skip
def test_columns_that_are_none(columns):
    assert _milvus_wire.schema({"fields": FIELDS}).columns(columns) is None
