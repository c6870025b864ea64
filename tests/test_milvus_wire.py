"""Milvus's wire format: what _core makes of vectors and replies against pymilvus's own code, over
random input with a seed. Where the native side returns None pymilvus decides, which is always
right; so these tests also say for what it must not return None.
"""

import copy
import gc
import math
import random
import struct
import sys
import weakref

import numpy as np
import pytest
from pymilvus.client import entity_helper
from pymilvus.client.prepare import Prepare
from pymilvus.client.search_result import HybridHits, SearchResult
from pymilvus.client.types import DataType
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2
from scipy import sparse

from arshai_native import _core, _milvus_wire

SCALARS = {
    DataType.BOOL: ("bool_data", lambda r: r.random() < 0.5),
    DataType.INT8: ("int_data", lambda r: r.randint(-128, 127)),
    DataType.INT16: ("int_data", lambda r: r.randint(-(1 << 15), (1 << 15) - 1)),
    DataType.INT32: ("int_data", lambda r: r.choice([-(1 << 31), (1 << 31) - 1, r.randint(-9, 9)])),
    DataType.INT64: (
        "long_data",
        lambda r: r.choice([-(1 << 63), (1 << 63) - 1, r.randint(-9, 9)]),
    ),
    DataType.FLOAT: ("float_data", lambda r: np.float32(r.gauss(0, 100)).item()),
    DataType.DOUBLE: ("double_data", lambda r: r.choice([r.gauss(0, 1), math.inf, -0.0, 1e300])),
    DataType.VARCHAR: ("string_data", lambda r: text(r)),
}
VECTORS = [
    DataType.BINARY_VECTOR,
    DataType.FLOAT_VECTOR,
    DataType.FLOAT16_VECTOR,
    DataType.BFLOAT16_VECTOR,
    DataType.SPARSE_FLOAT_VECTOR,
    DataType.INT8_VECTOR,
]


def text(r):
    return "".join(r.choice("abc é€😀\0\n") for _ in range(r.choice([0, 1, 7, 40])))


def json_text(r):
    return r.choice(
        ['{"a": 1, "b": [null, "é"]}', "[]", "{}", "3", '"x"', "null", '{"a": {"c": 2}}']
    )


# ---- everything about a value ----


def seen(value):
    """What a program can see of a result, without looking into what it has put off."""
    if isinstance(value, dict):
        pairs = zip(dict.keys(value), dict.values(value), strict=True)
        content = [(seen(k), seen(v)) for k, v in pairs]
    elif isinstance(value, list):
        content = [seen(v) for v in list.__iter__(value)]
    elif isinstance(value, set):
        content = sorted(map(repr, value))
    elif hasattr(value, "SerializeToString"):
        content = value.SerializeToString(deterministic=True)
    elif isinstance(value, np.ndarray):
        content = (value.dtype, value.tolist())
    else:
        content = repr(value)
    attributes = {
        k: list(v) if k == "_materialized_bitmap" else v  # ours completes rows
        for k, v in getattr(value, "__dict__", {}).items()
        if "_cache" not in k and k != "materialize"
    }
    return type(value), content, [(k, seen(v)) for k, v in attributes.items()]


def looked_into(result):
    """The result after a program has used it in every way it has."""
    str(result), repr(result)
    if isinstance(result, SearchResult):
        for hits in result:
            hits[:2], list(hits), str(hits)
            for hit in hits:
                hit.id, hit.pk, hit.distance, hit.score, hit.fields, hit.entity, hit.get("a")
                hit.to_dict(), hit.get("text"), hit["entity"]
        result.materialize()
    else:
        list(result), result[:2], result.materialize()
    return seen(result)


def outcome(function):
    try:
        return function()
    except Exception as error:
        return error


def same_in_the_end(ours, theirs):
    """Used up, both give the same, be it an error."""
    assert seen(ours) == seen(theirs)
    mine, other = outcome(lambda: looked_into(ours)), outcome(lambda: looked_into(theirs))
    if isinstance(other, Exception):
        assert type(mine) is type(other) and str(mine) == str(other)
    else:
        assert mine == other and str(ours) == str(theirs)


@pytest.fixture(scope="module")
def replies():
    made = _milvus_wire.replies()
    assert made is not None  # the versions that are tested are those that are known
    return made


# ---- random replies ----


def random_column(r, name, kind, rows):
    valid = [r.random() < 0.7 for _ in range(rows)] if r.random() < 0.4 else []
    column = schema_pb2.FieldData(
        field_name=name, type=int(kind), field_id=r.randint(0, 300), valid_data=valid
    )
    if kind in SCALARS:
        slot, value = SCALARS[kind]
        getattr(column.scalars, slot).data.extend([value(r) for _ in range(rows)])
        getattr(column.scalars, slot).SetInParent()
    elif kind == DataType.JSON:
        column.scalars.json_data.SetInParent()
        column.scalars.json_data.data.extend([json_text(r).encode() for _ in range(rows)])
    elif kind == DataType.ARRAY:
        element = r.choice(list(SCALARS))
        slot, value = SCALARS[element]
        arrays = column.scalars.array_data
        arrays.SetInParent()
        arrays.element_type = int(element)
        for _ in range(rows):
            row = arrays.data.add()
            if r.random() < 0.9:
                getattr(row, slot).SetInParent()
                getattr(row, slot).data.extend([value(r) for _ in range(r.randint(0, 4))])
    else:
        dim = 8 * r.randint(1, 3)
        stored = sum(valid) if valid else rows
        vectors = column.vectors
        vectors.SetInParent()
        if kind == DataType.SPARSE_FLOAT_VECTOR:
            vectors.sparse_float_vector.SetInParent()
            for _ in range(stored):
                pairs = sorted(r.sample(range(1000), r.randint(0, 4)))
                row = b"".join(struct.pack("<If", i, r.random()) for i in pairs)
                vectors.sparse_float_vector.contents.append(row)
            vectors.sparse_float_vector.dim = vectors.dim = 1000
            return column
        vectors.dim = dim
        if kind == DataType.FLOAT_VECTOR:
            vectors.float_vector.SetInParent()
            vectors.float_vector.data.extend([r.gauss(0, 1) for _ in range(dim * stored)])
        else:
            slot, size = {
                DataType.BINARY_VECTOR: ("binary_vector", dim // 8),
                DataType.FLOAT16_VECTOR: ("float16_vector", 2 * dim),
                DataType.BFLOAT16_VECTOR: ("bfloat16_vector", 2 * dim),
                DataType.INT8_VECTOR: ("int8_vector", dim),
            }[kind]
            setattr(vectors, slot, r.randbytes(size * stored))
    return column


def random_columns(r, rows):
    kinds = [*SCALARS, DataType.JSON, DataType.ARRAY, *VECTORS]
    chosen = r.sample(kinds, r.randint(0, len(kinds)))
    columns = [random_column(r, f"f{i}-é" if i else "text", kind, rows)
               for i, kind in enumerate(chosen)]  # fmt: skip
    if r.random() < 0.4:
        meta = schema_pb2.FieldData(field_name="$meta", type=int(DataType.JSON), is_dynamic=True)
        meta.scalars.json_data.SetInParent()
        meta.scalars.json_data.data.extend(
            [b'{"more": 1, "text": "own", "%d": 2}' % i for i in range(rows)]
        )
        columns.insert(r.randint(0, len(columns)), meta)
    return columns


def random_status(r):
    extra = {}
    if r.random() < 0.5:
        extra = {"report_value": str(r.randint(0, 99)), "cache_hit_ratio": "0.25", "other": "x"}
        extra |= {"scanned_remote_bytes": "12", "scanned_total_bytes": " 13 "}
    return common_pb2.Status(extra_info=extra, reason=text(r), retriable=r.random() < 0.5)


def random_search(r, topks=None):
    topks = (
        [r.choice([0, 1, 3, 10]) for _ in range(r.choice([0, 1, 1, 1, 3]))]
        if topks is None
        else topks
    )
    rows = sum(topks)
    data = schema_pb2.SearchResultData(
        num_queries=len(topks),
        top_k=max(topks, default=0),
        topks=topks,
        scores=[r.choice([r.gauss(0, 1), math.nan, math.inf]) for _ in range(rows)],
        fields_data=random_columns(r, rows),
        output_fields=r.sample(["text", "more", "0", "$meta", "f1-é"], r.randint(0, 4)),
        primary_field_name=r.choice(["", "pk", "entity", "distance"]),
        all_search_count=r.randint(0, 1 << 40),
    )
    if r.random() < 0.9 or rows:
        if r.random() < 0.5:
            data.ids.int_id.data.extend([r.randint(-(1 << 63), (1 << 63) - 1) for _ in range(rows)])
            data.ids.int_id.SetInParent()
        else:
            data.ids.str_id.data.extend([text(r) for _ in range(rows)])
            data.ids.str_id.SetInParent()
    if r.random() < 0.1:
        data.search_iterator_v2_results.token = "token"
        data.search_iterator_v2_results.last_bound = 0.5
    return milvus_pb2.SearchResults(
        status=random_status(r), results=data, session_ts=r.getrandbits(64), collection_name="c"
    )


def random_query(r):
    rows = r.choice([0, 1, 3, 12])
    return milvus_pb2.QueryResults(
        status=random_status(r), session_ts=r.getrandbits(64), collection_name="c",
        fields_data=random_columns(r, rows) or [random_column(r, "text", DataType.INT64, rows)],
        output_fields=r.sample(["text", "more", "0", "$meta", "f1-é"], r.randint(0, 4)),
    )  # fmt: skip


def their_search(reply, decimals=-1, with_session=True):
    parsed = milvus_pb2.SearchResults.FromString(reply)
    session = {"session_ts": parsed.session_ts} if with_session else {}
    return SearchResult(parsed.results, decimals, status=parsed.status, **session)


def their_rows(reply, strict=False):
    return _milvus_wire._rows(reply, strict)


# ---- replies ----


@pytest.mark.parametrize("seed", range(300))
def test_search_results(replies, seed):
    r = random.Random(seed)
    reply = random_search(r).SerializeToString()
    decimals = r.choice([-1, 0, 1, 3, None, True, 400])
    with_session = r.random() < 0.8
    ours = replies.search(reply, decimals, with_session)
    assert ours is not None
    same_in_the_end(ours, their_search(reply, decimals, with_session))


@pytest.mark.parametrize("seed", range(200))
def test_query_results(replies, seed):
    r = random.Random(seed)
    reply = random_query(r).SerializeToString()
    strict = r.random() < 0.3
    ours = replies.query(reply, strict)
    assert ours is not None
    same_in_the_end(ours, their_rows(reply, strict))


def test_results_are_the_classes_themselves(replies):
    r = random.Random(5)
    reply = random_search(r, [3, 2]).SerializeToString()
    ours = replies.search(reply, -1, True)
    assert type(ours) is SearchResult and {type(hits) for hits in ours} == {HybridHits}
    assert looked_into(copy.deepcopy(ours)) == looked_into(ours)
    assert seen(list(ours[0])[0]) == seen(list(their_search(reply)[0])[0])


def json_hits(replies, *texts):
    count = len(texts)
    reply = milvus_pb2.SearchResults(
        results={
            "topks": [count],
            "scores": range(count),
            "ids": {"int_id": {"data": range(count)}},
            "fields_data": [
                {"field_name": "json", "type": 23, "scalars": {"json_data": {"data": texts}}},
                {"field_name": "$meta", "type": 23, "is_dynamic": True,
                 "scalars": {"json_data": {"data": [b'{"json": 1, "x": 2}'] * count}}},
            ],
        }
    ).SerializeToString()  # fmt: skip
    return replies.search(reply, -1, True)[0], their_search(reply)[0]


def test_what_is_put_off(replies):
    """Until somebody looks, and then for good; copies of what was not looked at are complete."""
    ours, theirs = json_hits(replies, b"[1]", b"null")
    assert (
        ours.get_raw_item(0) == theirs.get_raw_item(0) == {"id": 0, "distance": 0.0, "entity": {}}
    )
    assert not ours.has_materialized and "materialize" in vars(ours)
    shallow = copy.copy(ours)
    assert shallow[0]["entity"] == theirs[0]["entity"] == {"json": 1, "x": 2}
    assert ours.materialize() is None and ours.has_materialized
    assert vars(ours).keys() == vars(theirs).keys()
    entity = ours[0]["entity"]
    entity["json"] = "changed"
    assert ours[0]["entity"] is entity and list(ours)[0]["entity"]["json"] == "changed"
    assert ours.materialize() is None

    ours, theirs = json_hits(replies, b"[1]", b"null")
    complete = ours.materialize
    items = list.copy(ours)
    del ours
    complete()  # nobody but the items has them any more
    assert items == list(theirs)
    with pytest.raises(TypeError):
        complete(1)


def test_json_that_is_none(replies):
    """The same error as pymilvus's, as often as one looks."""
    ours, theirs = json_hits(replies, b"[1]", b"{")
    for _ in range(2):
        errors = [outcome(lambda hits=hits: hits[0]) for hits in (ours, theirs)]
        assert type(errors[0]) is type(errors[1]) and str(errors[0]) == str(errors[1])
        assert seen(ours) == seen(theirs)
    complete = json_hits(replies, b"{")[0].materialize
    with pytest.raises(ValueError):  # of hits that are gone
        complete()


def test_hits_are_freed(replies):
    """At once, without the garbage collector."""
    for used in (False, True):
        ours, _ = json_hits(replies, b"[1]")
        if used:
            list(ours)
        gone = weakref.ref(ours)
        del ours
        assert gone() is None


def test_long_vectors_of_hits(replies):
    """The garbage collector is not shown them."""
    for dim in (63, 64):
        vectors = {"dim": dim, "float_vector": {"data": [0.5] * dim}}
        reply = milvus_pb2.SearchResults(
            results={
                "topks": [1],
                "scores": [1],
                "ids": {"int_id": {"data": [1]}},
                "fields_data": [{"field_name": "v", "type": 101, "vectors": vectors}],
            }
        ).SerializeToString()
        vector = replies.search(reply, -1, True)[0][0]["entity"]["v"]
        assert vector == [0.5] * dim and gc.is_tracked(vector) == (dim < 64)


@pytest.mark.parametrize("seed", range(200))
def test_corrupt_replies(replies, seed):
    """Cut short and corrupted: either pymilvus must decide, or both say the same."""
    r = random.Random(seed)
    for kind in ("search", "query"):
        whole = (random_search(r) if kind == "search" else random_query(r)).SerializeToString()
        for _ in range(20):
            reply = bytearray(whole)
            if r.random() < 0.3:
                del reply[r.randrange(len(reply) + 1) :]
            for _ in range(r.choice([1, 1, 2, 5])):
                if reply:
                    at = r.randrange(len(reply))
                    choice = r.random()
                    if choice < 0.6:
                        reply[at] = r.randrange(256)
                    elif choice < 0.8:
                        del reply[at]
                    else:
                        reply[at:at] = reply[r.randrange(len(reply)) :][:20]
            reply = bytes(reply)
            is_search = kind == "search"
            ours = replies.search(reply, -1, True) if is_search else replies.query(reply, False)
            if ours is not None:  # else it is pymilvus's, which may need any amount of memory
                same_in_the_end(ours, their_search(reply) if is_search else their_rows(reply))


@pytest.mark.parametrize("change", [
    {"status": {"code": 100, "reason": "no"}},
    {"status": {"error_code": 1}},
    {"results": {"recalls": [0.5]}},
    {"results": {"element_indices": {"data": [1]}}},
    {"results": {"highlight_results": [{"field_name": "x"}]}},
    {"results": {"group_by_field_value": {"type": 5}}},
    {"results": {"topks": [1]}},
    {"results": {"topks": [-1]}},
    {"results": {"fields_data": [{"type": 200, "field_name": "s"}]}},
    {"results": {"fields_data": [{"type": 106, "field_name": "s"}]}},
    {"results": {"fields_data": [{"type": 24, "field_name": "s"}]}},
    {"results": {"fields_data": [{"type": 999, "field_name": "s"}]}},
    {"results": {"fields_data": [{"type": 5, "field_name": "s", "vectors": {"dim": 1}}]}},
    {"status": {"extra_info": {"report_value": "many"}}},
])  # fmt: skip
def test_what_is_left_to_pymilvus(replies, change):
    reply = milvus_pb2.SearchResults(**change).SerializeToString()
    assert replies.search(reply, -1, True) is None


def test_unknown_fields(replies):
    """Skipped as pymilvus skips them; those that only a newer pymilvus knows, too."""
    reply = their = milvus_pb2.SearchResults(results={"topks": [0]}).SerializeToString()
    unknown = b"\x90\x03\x05"  # 50: 5
    assert seen(replies.search(reply + unknown, -1, True)) == seen(their_search(their))
    group = b"\x93\x03\x94\x03"
    assert replies.search(reply + group, -1, True) is None
    data = milvus_pb2.SearchResults(results={"topks": [0]}).results.SerializeToString() + unknown
    reply = b"\x12" + bytes([len(data)]) + data
    assert seen(replies.search(reply, -1, True)) == seen(their_search(reply))


def test_numbers_may_be_packed_or_not(replies):
    def varint(n):
        n &= (1 << 64) - 1
        out = bytearray()
        while n > 127:
            out.append(n & 127 | 128)
            n >>= 7
        return bytes([*out, n])

    scores = b"".join(b"\x25" + struct.pack("<f", x) for x in (0.5, 0.25))  # 4, fixed32
    scores += b"\x22\x08" + struct.pack("<2f", 1, 2)
    ids = b"\x08\x01\x0a\x02\x02\x03\x08" + varint(-4)
    ids = b"\x0a" + bytes([len(ids)]) + ids
    data = scores + b"\x2a" + bytes([len(ids)]) + ids + b"\x30\x01\x32\x02\x02\x01"
    reply = b"\x12" + bytes([len(data)]) + data
    ours = replies.search(reply, -1, True)
    assert [hits.ids for hits in ours] == [[1], [2, 3], [-4]]
    assert [hits.distances for hits in ours] == [[0.5], [0.25, 1.0], [2.0]]
    same_in_the_end(ours, their_search(reply))


# ---- gathered searches ----


def cut(column, start, end):
    """The rows of a column by pymilvus's own messages, for comparison."""
    made = schema_pb2.FieldData()
    made.CopyFrom(column)
    valid = list(column.valid_data)
    if valid:
        made.valid_data[:] = valid[start:end]
    if column.WhichOneof("field") == "scalars":
        slot = column.scalars.WhichOneof("data")
        data = getattr(made.scalars, slot).data
        rows = list(getattr(column.scalars, slot).data)[start:end]
        del data[:]
        data.extend(rows)
        return made
    first = sum(valid[:start]) if valid else start
    count = sum(valid[start:end]) if valid else end - start
    slot = column.vectors.WhichOneof("data")
    if slot == "sparse_float_vector":
        contents = made.vectors.sparse_float_vector.contents
        rows = list(contents)[first : first + count]
        del contents[:]
        contents.extend(rows)
        made.vectors.sparse_float_vector.ClearField("dim")  # of the whole; nobody reads it
    elif slot == "float_vector":
        dim, data = column.vectors.dim, made.vectors.float_vector.data
        data[:] = list(data)[first * dim : (first + count) * dim]
    elif slot is not None:
        whole = getattr(column.vectors, slot)
        rows = sum(valid) if valid else -1
        one = {
            "binary_vector": column.vectors.dim // 8,
            "int8_vector": column.vectors.dim,
        }.get(slot, 2 * column.vectors.dim)
        assert rows != 0 or whole == b""
        setattr(made.vectors, slot, whole[first * one : (first + count) * one])
    return made


@pytest.mark.parametrize("seed", range(200))
def test_one_reply_for_several_searches(replies, seed):
    """Each gets what it would have got alone."""
    r = random.Random(seed)
    topks = [r.choice([0, 1, 3, 5]) for _ in range(r.randint(1, 5))]
    whole = random_search(r, topks)
    whole.results.ClearField("search_iterator_v2_results")
    decimals = r.choice([-1, 2])
    split = replies.split(whole.SerializeToString(), decimals, len(topks))
    assert split is not None and len(split) == len(topks)
    start = 0
    for topk, ours in zip(topks, split, strict=True):
        end = start + topk
        alone = milvus_pb2.SearchResults()
        alone.CopyFrom(whole)
        results = alone.results
        results.topks[:] = [topk]
        results.scores[:] = list(whole.results.scores)[start:end]
        for ids in (results.ids.int_id, results.ids.str_id):
            if ids.data:
                rows = list(ids.data)[start:end]
                ids.data[:] = rows
        del results.fields_data[:]
        results.fields_data.extend(cut(f, start, end) for f in whole.results.fields_data)
        for key in ("report_value", "scanned_remote_bytes", "scanned_total_bytes"):
            if key in alone.status.extra_info:  # a share of what all have cost
                value = int(alone.status.extra_info[key]) // len(topks)
                alone.status.extra_info[key] = str(value)
        same_in_the_end(ours, their_search(alone.SerializeToString(), decimals))
        start = end


def test_results_of_one_reply_are_made_when_asked_for(replies):
    whole = random_search(random.Random(3), [2, 1, 0])
    whole.results.ClearField("search_iterator_v2_results")
    reply = whole.SerializeToString()
    owners = sys.getrefcount(replies)
    parts = replies.split(reply, -1, 3)
    one = parts[1]
    assert len(parts) == 3 and one is not parts[1] and seen(one) == seen(parts[-2])
    assert [seen(each) for each in parts[0:2]] == [seen(parts[0]), seen(parts[1])]
    assert [seen(each) for each in parts[::-2]] == [seen(parts[2]), seen(parts[0])]
    assert parts[3:] == [] and [seen(each) for each in parts] == [seen(each) for each in parts[:]]
    for index in (3, -4):
        with pytest.raises(IndexError):
            parts[index]
    with pytest.raises(TypeError):
        parts["1"]
    del parts, reply
    assert sys.getrefcount(replies) == owners
    assert len(one[0]) == 1  # and what is put off is still to be had
    looked_into(one)


def test_one_of_a_reply_in_doubt(replies):
    """A column of vectors that has none for the last search's hits."""
    message = milvus_pb2.SearchResults(
        results={
            "num_queries": 2, "top_k": 1, "topks": [1, 1], "scores": [1, 2],
            "ids": {"int_id": {"data": [1, 2]}},
            "fields_data": [schema_pb2.FieldData(
                type=DataType.FLOAT_VECTOR, field_name="v",
                vectors={"dim": 2, "float_vector": {"data": [1, 2]}},
            )],
        }
    )  # fmt: skip
    first, second = replies.split(message.SerializeToString(), -1, 2)
    assert first[0][0]["entity"]["v"] == [1, 2] and second is None


def test_a_reply_for_another_number_of_searches(replies):
    reply = random_search(random.Random(1), [2, 2]).SerializeToString()
    assert replies.split(reply, -1, 3) is None and replies.split(reply, -1, 1) is None
    with pytest.raises(ValueError):
        replies.split(reply, -1, -1)


# ---- vectors ----


def native_group(data, vector_type=0):
    """(PlaceholderGroup, nq), or None."""
    made = _core.milvus_vectors(data, vector_type)
    if made is None:
        return None
    kind, count, values = made
    request = _core.milvus_search_request(b"", kind, count, (values,))
    parsed = milvus_pb2.SearchRequest.FromString(request)
    return common_pb2.PlaceholderGroup.FromString(parsed.placeholder_group), parsed.nq


def their_group(data, vector_type=None):
    group = Prepare._prepare_placeholder_str(data, False, vector_type)
    return common_pb2.PlaceholderGroup.FromString(group), entity_helper.get_input_num_rows(data)


def floats(r, dim):
    return [r.choice([r.gauss(0, 1), r.randint(-5, 5), math.inf, 1e-40]) for _ in range(dim)]


def pairs(r):
    return {i: r.gauss(0, 1) for i in r.sample(range(2**32 - 2), r.randint(0, 6))}


def csr(r, rows, kind, dtype):
    return kind(sparse.random(rows, 50, 0.1, format="csr", dtype=dtype,
                              random_state=r.randrange(1 << 30)))  # fmt: skip


GOOD = {
    "list": lambda r, n: [floats(r, r.choice([1, 8, 768])) for _ in range(n)],
    "tuples": lambda r, n: [tuple(floats(r, 8)) for _ in range(n)],
    "tuple of lists": lambda r, n: tuple(floats(r, 8) for _ in range(n)),
    "NaN": lambda r, n: [[math.nan, 1.0]] * n,
    "f4": lambda r, n: [np.random.default_rng(n).random(8, "f4") for _ in range(n)],
    "f8": lambda r, n: [np.random.default_rng(n).random(8) for _ in range(n)],
    "f4, f8 and lists": lambda r, n: [np.zeros(3, "f4"), np.ones(3), [1.0, 2, 3]],
    "block f4": lambda r, n: np.random.default_rng(n).random((n, 8), "f4"),
    "block f8": lambda r, n: np.random.default_rng(n).random((n, 8)),
    "every second": lambda r, n: np.random.default_rng(n).random((2 * n, 16), "f4")[::2, ::2],
    "reversed": lambda r, n: [np.arange(8, dtype="f8")[::-1]] * n,
    "f2": lambda r, n: [np.random.default_rng(n).random(8).astype("f2") for _ in range(n)],
    "i1": lambda r, n: np.random.default_rng(n).integers(-128, 127, (n, 8), "i1"),
    "u1": lambda r, n: [np.random.default_rng(n).integers(0, 255, 8, "u1") for _ in range(n)],
    "bytes": lambda r, n: [r.randbytes(r.choice([0, 1, 200])) for _ in range(n)],
    "str": lambda r, n: [text(r) for _ in range(n)],
    "dicts": lambda r, n: [pairs(r) for _ in range(n)],
    "numpy's doubles": lambda r, n: [{3: np.float64(0.5)}] * n,
    "pairs": lambda r, n: [[(i, v) for i, v in pairs(r).items()] for _ in range(n)],
    "lists of pairs": lambda r, n: [[[5, 1.0], [3, 2.0], [5, 3.0], [3, 4.0]]] * n,
    "csr_matrix": lambda r, n: csr(r, n, sparse.csr_matrix, "f4"),
    "csr_array": lambda r, n: csr(r, n, sparse.csr_array, "f8"),
    "csr rows": lambda r, n: [csr(r, 1, sparse.csr_array, "f4") for _ in range(n)],
    "dicts and csr rows": lambda r, n: [{1: 0.5}, csr(r, 1, sparse.csr_matrix, "f8")],
}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_vectors(kind, count):
    data = GOOD[kind](random.Random(f"{kind} {count}"), count)
    ours = native_group(data)
    assert ours is not None
    group, nq = their_group(data)
    assert ours[1] == nq and ours[0].SerializeToString() == group.SerializeToString()


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 16, 71, 80])
def test_numbers_among_floats(dim):
    """Wherever they are: floats are written in groups."""
    base = [0.1 * n for n in range(dim)]
    largest = 3.4028234663852886e38
    for where in range(dim):
        for number in (3, -0.0, math.inf, -math.inf, largest, np.float32(0.3), np.int8(4)):
            vector = [*base[:where], number, *base[where + 1 :]]
            assert native_group([vector]) == their_group([vector])
        nan = [*base[:where], math.nan, *base[where + 1 :]]
        (values,) = native_group([nan])[0].placeholders[0].values
        assert values == struct.pack(f"<{dim}f", *nan)
        for refused in (1e39, -1e39, 10**400, "1", None, [1.0]):
            assert _core.milvus_vectors([[0.5, *base[:where], refused, *base[where:]]]) is None


@pytest.mark.parametrize("vector_type", VECTORS)
def test_vectors_as_bytes(vector_type):
    data = [b"12345678", b"", b"x" * 300]
    assert native_group(data, int(vector_type)) == their_group(data, vector_type)


LEFT = {
    "nothing": [],
    "a number": [1.0],
    "an array of one vector": np.zeros(3, "f4"),
    "no rows": np.zeros((0, 3), "f4"),
    "a cube": np.zeros((2, 3, 4), "f4"),
    "text among numbers": [[1.0, "2"]],
    "True": [[True, 1.0]],
    "None": [[1.0, None]],
    "too large": [[1e39]],
    "too large, array": [np.array([1e39])],
    "far too large": [[1 << 2000]],
    "lists and bytes": [[1.0], b"1234"],
    "bytes and lists": [b"1234", [1.0]],
    "int64": [np.zeros(3, "i8")],
    "other byte order": [np.zeros(3, ">f4")],
    "objects": [np.zeros(3, "O")],
    "kinds mixed": [np.zeros(3, "f4"), np.zeros(3, "i1")],
    "dict of ints": [{1: 2}],
    "dict of text": [{"1": "0.5"}],
    "negative": [{-1: 0.5}],
    "index too large": [{2**32 - 1: 0.5}],
    "index far too large": [{2**80: 0.5}],
    "NaN": [{1: math.nan}],
    "sparse and dense": [{1: 0.5}, [1.0]],
    "dense and sparse": [[1.0], {1: 0.5}],
    "triples": [[(1, 0.5, 2)]],
    "csc": sparse.csc_matrix(np.eye(3, dtype="f4")),
    "csr of two rows": [sparse.csr_matrix(np.eye(2, dtype="f4"))],
    "csr of ints": sparse.csr_matrix(np.eye(2, dtype="i4")),
    "csr with NaN": sparse.csr_matrix(np.array([[math.nan]])),
    "surrogates": ["\ud800"],
    "memoryview": [memoryview(b"1234")],
    "a generator": (x for x in [[1.0]]),
    "a dict": {1: 0.5},
    "None itself": None,
}


@pytest.mark.parametrize("kind", LEFT)
def test_vectors_left_to_pymilvus(kind):
    assert _core.milvus_vectors(LEFT[kind]) is None


def test_vectors_of_another_type():
    assert _core.milvus_vectors([b"12"], int(DataType.VARCHAR)) is None
    with pytest.raises(TypeError):
        _core.milvus_vectors([b"12"], "x")


def test_search_request_from_a_template():
    full = Prepare.search_requests_with_expr(
        "name", "vector", {"metric_type": "IP"}, 3, data=[[1.0, 2.0]] * 3, expr="a > 1",
        output_fields=["text"],
    )  # fmt: skip
    template = copy.deepcopy(full)
    template.ClearField("placeholder_group")
    template.ClearField("nq")
    one, two = (
        _core.milvus_vectors([[1.0, 2.0]]),
        _core.milvus_vectors(np.array([[1.0, 2], [1, 2]])),
    )
    request = _core.milvus_search_request(template.SerializeToString(), one[0], 3, (one[2], two[2]))
    assert milvus_pb2.SearchRequest.FromString(request) == full
    hybrid = milvus_pb2.HybridSearchRequest(collection_name="name", requests=[full, full])
    made = _core.milvus_append_messages(
        milvus_pb2.HybridSearchRequest(collection_name="name").SerializeToString(),
        5,
        (request,) * 2,
    )
    assert milvus_pb2.HybridSearchRequest.FromString(made) == hybrid


@pytest.mark.parametrize("arguments", [
    (), (b"",), ("", 101, 1, ()), (b"", 101, 1, ("x",)), (b"", 101, -1, ()), (b"", -2, 1, ()),
    (b"", "101", 1, ()), (b"", 101, 1 << 70, ()), (b"", 101, 1, None),
])  # fmt: skip
def test_search_request_arguments(arguments):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        _core.milvus_search_request(*arguments)
