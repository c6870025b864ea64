"""The iterators that pymilvus's asynchronous client lacks, beside its synchronous client's."""

import asyncio
import random

import pymilvus
import pytest
from faultkit import run
from milvusfake import FakeMilvus, collection
from milvuskit import SCALARS, floats, make, name_of, outcome, rows_of, same
from pymilvus import DataType
from pymilvus.client.types import DataType as ClientType
from pymilvus.grpc_gen import milvus_pb2

from arshai_native.milvus import AsyncMilvusClient, AsyncQueryIterator, AsyncSearchIterator

pytest_plugins = ("milvusfixtures",)
pytestmark = pytest.mark.usefixtures("milvus_environment")

FIELDS = {"varchar": SCALARS["varchar"]}


@pytest.fixture
def sync(lite):
    client = pymilvus.MilvusClient(lite.uri)
    yield client
    client.close()


@pytest.fixture
def filled(lite):
    """The name of a collection with 95 rows."""
    name = name_of("iterated")

    async def main():
        client = AsyncMilvusClient(lite.uri)
        await make(client, name, FIELDS, rows=rows_of(95, FIELDS))
        await client.close()

    run(main)
    return name


async def pages_of(iterator):
    return [page async for page in iterator]


def sync_pages(iterator):
    pages = []
    while True:
        page = iterator.next()
        if page is None or len(page) == 0:
            iterator.close()
            return pages
        pages.append(page)


QUERIES = {
    "all": {"batch_size": 20},
    "filter": {"batch_size": 7, "filter": "id > 10 and id < 40"},
    "limit": {"batch_size": 20, "limit": 33},
    "fields": {"batch_size": 50, "output_fields": ["varchar"]},
    "offset": {"batch_size": 20, "offset": 13},
    "nothing": {"filter": "id > 1000"},
}


@pytest.mark.parametrize("options", QUERIES.values(), ids=QUERIES)
def test_query_iterator(lite, sync, filled, options):
    async def main():
        async with AsyncMilvusClient(lite.uri) as client:
            return await pages_of(client.query_iterator(filled, **options))

    pages = run(main)
    expected = sync_pages(sync.query_iterator(filled, **options))
    same([list(page) for page in pages], [list(page) for page in expected])
    if "offset" not in options and "filter" not in options:
        assert sum(map(len, pages)) == options.get("limit", 95)


SEARCHES = {
    "all": {"batch_size": 20},
    "filter": {"batch_size": 7, "filter": "id > 10 and id < 40"},
    "limit": {"batch_size": 20, "limit": 33},
    "fields": {"batch_size": 50, "output_fields": ["varchar"]},
}


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
def test_search_iterator(lite, sync, filled, options):
    data = [floats(random.Random(3))]
    # Without search_iterator V2 pymilvus needs to know the metric.
    options = {"search_params": {"metric_type": "COSINE"}, **options}

    def ids(pages):
        return [list(zip(page.ids(), page.distances(), strict=True)) for page in pages]

    async def main():
        async with AsyncMilvusClient(lite.uri) as client:
            return await pages_of(client.search_iterator(filled, data, **options))

    pages = run(main)
    expected = sync_pages(sync.search_iterator(filled, data, **options))
    assert type(pages[0]) is type(expected[0])
    assert ids(pages) == ids(expected)
    assert sum(map(len, pages)) > 20


def test_opened_first_used_step_by_step_and_closed(lite, filled, tmp_path):
    checkpoint = tmp_path / "cp"

    async def main():
        async with AsyncMilvusClient(lite.uri) as client:
            iterator = client.query_iterator(filled, batch_size=30)
            assert isinstance(iterator, AsyncQueryIterator)
            assert await iterator is iterator
            first, second = await iterator.next(), await iterator.next()
            assert [row["id"] for row in first + second] == list(range(60))
            assert iterator.get_cursor().int_pk == 59
            await iterator.close()
            # A checkpoint is written, read by the next one and removed in the end.
            async with client.query_iterator(
                filled, batch_size=30, iterator_cp_file=str(checkpoint)
            ) as iterator:
                await iterator.next()
                assert checkpoint.exists()
                other = client.query_iterator(
                    filled, batch_size=30, iterator_cp_file=str(checkpoint)
                )
                assert [row["id"] for row in await other.next()] == list(range(30, 60))
            assert not checkpoint.exists()
            search = client.search_iterator(filled, [floats(random.Random(1))], batch_size=10)
            assert isinstance(search, AsyncSearchIterator)
            async with search:
                assert len(await search.next()) == 10

    run(main)


def test_what_is_wrong_is_said_when_it_opens(lite, sync, filled):
    bad_queries = [
        {"filter": 3},
        {"batch_size": -1},
        {"batch_size": 100000},
        {"filter": "nonsense ("},
    ]
    bad_searches = [
        {"data": []},
        {"data": [floats(random.Random(1))] * 2},
        {"data": [floats(random.Random(1))], "batch_size": -1},
        {"data": [floats(random.Random(1))], "anns_field": "none"},
        {"data": [floats(random.Random(1))], "offset": 3},
    ]

    async def main():
        async with AsyncMilvusClient(lite.uri) as client:
            for method, calls in (
                ("query_iterator", bad_queries),
                ("search_iterator", bad_searches),
            ):
                for options in calls:

                    async def opened(method=method, options=options):
                        return await getattr(client, method)(filled, retry_times=0, **options)

                    async def expected(method=method, options=options):
                        return await asyncio.to_thread(
                            getattr(sync, method), filled, retry_times=0, **options
                        )

                    mine, theirs = await outcome(opened), await outcome(expected)
                    assert mine[0] == theirs[0] == "error", (options, mine, theirs)
                    assert mine[1][:2] == theirs[1][:2], options
            with pytest.raises(TypeError):
                client.query_iterator()
            with pytest.raises(pymilvus.MilvusException):
                await client.query_iterator("unknown_collection")

    run(main)


def test_strings_as_keys(lite, sync):
    name = name_of("iterated")

    async def main():
        async with AsyncMilvusClient(lite.uri) as client:
            await make(
                client, name, FIELDS, pk=DataType.VARCHAR,
                rows=rows_of(50, FIELDS, pk=DataType.VARCHAR),
            )  # fmt: skip
            return await pages_of(client.query_iterator(name, batch_size=20))

    pages = run(main)
    expected = sync_pages(sync.query_iterator(name, batch_size=20))
    same([list(page) for page in pages], [list(page) for page in expected])


def test_second_version_of_search_iterator():
    """What Milvus 2.5.2 and later do with it: a token, and the last bound sent back."""
    with FakeMilvus() as fake:
        pages = [[1, 2, 3], [4, 5, 6], [7]]

        def search(request):
            options = {pair.key: pair.value for pair in request.search_params}
            bound = float(options.get("search_iter_last_bound", 0))
            ids = pages[int(bound)] if bound < len(pages) else []
            if options["search_iter_batch_size"] == "1":
                ids = [1]
            return milvus_pb2.SearchResults(
                session_ts=99,
                results={
                    "num_queries": 1,
                    "top_k": len(ids),
                    "topks": [len(ids)],
                    "ids": {"int_id": {"data": ids}},
                    "scores": [0.5] * len(ids),
                    "search_iterator_v2_results": {"token": "t", "last_bound": bound + 1},
                },
            )

        fake.on("Search", search)
        fake.on("DescribeCollection", lambda _: collection(a=ClientType.INT64))

        async def main():
            async with AsyncMilvusClient(fake.uri) as client:
                iterator = client.search_iterator("c", [[1.0] * 4], batch_size=3)
                found = [page.ids() async for page in iterator]
                assert found == pages
                seen = []

                def odd(hits):
                    seen.append(len(hits))
                    return [hit for hit in hits if hit.id % 2]

                iterator = client.search_iterator(
                    "c", [[1.0] * 4], batch_size=3, external_filter_func=odd
                )
                assert [page.ids() async for page in iterator] == [[1, 3, 5], [7]]
                assert seen == [3, 3, 1]

        run(main)
        tokens = [
            {pair.key: pair.value for pair in request.search_params}.get("search_iter_id")
            for request in fake.asked("Search")
        ]
        assert tokens[:4] == [None, None, "t", "t"]
        assert fake.asked("Search")[1].guarantee_timestamp == 99
