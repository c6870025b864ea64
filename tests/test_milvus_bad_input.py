"""What is wrong with a call, and what is odd about it, is with the Milvus client what it is with
pymilvus's: the same result, or the same exception, code and message.
"""

import functools

import pytest
from faultkit import run
from milvuskit import SCALARS, clients, make, name_of, outcome, rows_of, same

pytest_plugins = ("milvusfixtures",)
pytestmark = pytest.mark.usefixtures("milvus_environment")

VECTOR = [0.25 * n for n in range(8)]

QUERIES = [
    {"filter_params": {"low": 3}, "filter": "id > {low}"},
    {"filter": "id > 3", "limit": 4, "offset": 2},
    {"filter": "id >= 0", "output_fields": ["count(*)"]},
    {"filter": "id >= 0", "strict_float32": True, "output_fields": ["*"]},
    {"filter": "nonsense ("},
    {"filter": 7},
    {"filter": None},
    {"filter": "id > 1", "ids": [1]},
    {"filter": "", "limit": 3},
    {"filter": "id > 1", "output_fields": "varchar"},
    {"filter": "id > 1", "output_fields": []},
    {"filter": "id > 1", "output_fields": ["none"]},
    {"filter": "id > 1", "partition_names": ["none"]},
    {"filter": "id > 1000"},
    {"ids": []},
    {"ids": 3},
    {"ids": (1, 2)},
    {"ids": ["1", 2]},
    {"ids": [None]},
]

SEARCHES = [
    {"data": []},
    {"data": None},
    {"data": [[]]},
    {"data": VECTOR},
    {"data": [VECTOR[:4]]},
    {"data": [["a"] * 8]},
    {"data": ["text"]},
    {"data": [b"\1" * 32]},
    {"data": [VECTOR, VECTOR[:3]]},
    {"data": [VECTOR, "text"]},
    {"data": [[float("nan")] * 8]},
    {"data": [[float("inf")] * 8]},
    {"data": [[1e300] * 8]},
    {"data": [[None] * 8]},
    {"data": [tuple(VECTOR)]},
    {"data": (VECTOR,)},
    {"data": [{1: 0.5}]},
    {"data": [VECTOR], "limit": 0},
    {"data": [VECTOR], "limit": -1},
    {"data": [VECTOR], "limit": 100000},
    {"data": [VECTOR], "limit": "3"},
    {"data": [VECTOR], "limit": 3.0},
    {"data": [VECTOR], "anns_field": "none"},
    {"data": [VECTOR], "anns_field": 3},
    {"data": [VECTOR], "output_fields": ["none"]},
    {"data": [VECTOR], "output_fields": "varchar"},
    {"data": [VECTOR], "filter": "nonsense ("},
    {"data": [VECTOR], "filter": 3},
    {"data": [VECTOR], "filter": None},
    {"data": [VECTOR], "partition_names": ["none"]},
    {"data": [VECTOR], "search_params": {"params": 3}},
    {"data": [VECTOR], "search_params": {"metric_type": "L3"}},
    {"data": [VECTOR], "search_params": "x"},
    {"data": [VECTOR], "timeout": "x"},
    {"data": [VECTOR], "timeout": 0},
    {"data": [VECTOR], "round_decimal": "x"},
    {"data": [VECTOR], "round_decimal": 2},
    {"data": [VECTOR], "consistency_level": "Odd"},
    {"data": [VECTOR], "offset": "x"},
    {"data": [VECTOR], "ids": [1]},
    {"ids": [1]},
    {"data": [VECTOR], "context": 1},
    {"data": [VECTOR], "ranker": 1},
    {"data": [VECTOR], "unknown_option": 1},
]

ROWS = [
    [{"id": 1}],
    [{"id": 1, "float_vector": VECTOR[:3], "varchar": "x"}],
    [{"id": 1, "float_vector": VECTOR + VECTOR, "varchar": "x"}],
    [{"id": "1", "float_vector": VECTOR, "varchar": "x"}],
    [{"id": 1.5, "float_vector": VECTOR, "varchar": "x"}],
    [{"id": True, "float_vector": VECTOR, "varchar": "x"}],
    [{"id": 1 << 70, "float_vector": VECTOR, "varchar": "x"}],
    [{"id": 1, "float_vector": VECTOR, "varchar": 3}],
    [{"id": 1, "float_vector": VECTOR, "varchar": "x", "more": 1}],
    [{"id": 1, "float_vector": VECTOR, "varchar": "x" * 1000}],
    [{"id": 1, "float_vector": VECTOR, "varchar": "\ud800"}],
    [{"id": 1, "float_vector": [float("nan")] * 8, "varchar": "x"}],
    [{"id": 1, "float_vector": "text", "varchar": "x"}],
    [{"id": 1, "float_vector": ["x"] * 8, "varchar": "x"}],
    [{"id": 1, "float_vector": None, "varchar": "x"}],
    [{"id": 801, "float_vector": VECTOR, "varchar": "a"}, {"id": 802, "varchar": "b"}],
    [{"id": 801, "float_vector": VECTOR, "varchar": "a"}, 7],
    [1],
    [],
    [{}],
    "rows",
    None,
    ({"id": 803, "float_vector": VECTOR, "varchar": "x"},),
    {"id": 900, "float_vector": VECTOR, "varchar": "one"},
]

DELETES = [
    {},
    {"ids": []},
    {"ids": [1.5]},
    {"ids": [1], "filter": "id > 1"},
    {"ids": [], "filter": "id > 10000"},
    {"filter": "nonsense ("},
    {"filter": 3},
    {"filter": ""},
    {"ids": [10005], "partition_name": "none"},
    {"ids": [10006], "partition_name": 3},
    {"pks": [10001]},
    {"ids": 10002},
    {"ids": "x"},
    {"ids": [True]},
    {"ids": [10003], "consistency_level": "Odd"},
    {"filter": "id in {ids}", "filter_params": {"ids": [10004]}},
]

CALLS = [
    ("search", (None, [VECTOR])),
    ("search", (7, [VECTOR])),
    ("search", ("", [VECTOR])),
    ("search", ("unknown_collection", [VECTOR])),
    ("query", (None, "id > 1")),
    ("query", ("unknown_collection", "id > 1")),
    ("insert", (None, [{"id": 1}])),
    ("insert", ("unknown_collection", [{"id": 1}])),
    ("get", ("unknown_collection", [1])),
    ("delete", ("unknown_collection", [1])),
    ("get", ("NAME", None)),
    ("get", ("NAME", {"a": 1})),
    ("get", ("NAME", ())),
    ("get", ("NAME", "x")),
    ("get", ("NAME", [1], ["none"])),
    ("hybrid_search", ("NAME", [], None)),
    ("hybrid_search", ("NAME", None, None)),
    ("hybrid_search", ("NAME", [1], 2)),
]


@pytest.fixture
def compare(lite):
    """compare(method, args and kwargs of calls): each with both clients on one collection."""

    def compared(calls):
        async def main():
            async with clients(lite) as (ours, theirs):
                name = name_of()
                fields = {"varchar": SCALARS["varchar"]}
                await make(theirs, name, fields, rows=rows_of(20, fields))
                different = []
                for method, args, kwargs in calls:
                    args = [name if arg == "NAME" else arg for arg in args]
                    # What a server cannot do pymilvus would try for minutes.
                    found = [
                        await outcome(
                            functools.partial(
                                getattr(client, method), *args, retry_times=0, **kwargs
                            )
                        )
                        for client in (ours, theirs)
                    ]
                    try:
                        same(*found)
                    except AssertionError:
                        different.append((method, args, kwargs, *found))
                assert not different

        run(main)

    return compared


def test_queries(compare):
    compare([("query", ["NAME"], options) for options in QUERIES])


def test_searches(compare):
    compare([("search", ["NAME"], options) for options in SEARCHES])


def test_searches_after_a_good_one(compare):
    """When there is a template already, too."""
    good = ("search", ["NAME"], {"data": [VECTOR]})
    compare([good] + [("search", ["NAME"], options) for options in SEARCHES] + [good])


@pytest.mark.parametrize("method", ["insert", "upsert"])
def test_rows(compare, method):
    compare([(method, ["NAME", rows], {}) for rows in ROWS])


def test_deletes(compare):
    compare([("delete", ["NAME"], options) for options in DELETES])


def test_other_calls(compare):
    compare([(method, args, {}) for method, args in CALLS])
