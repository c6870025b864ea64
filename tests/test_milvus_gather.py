"""Gathered searches: which travel together, that each gets its own answer or its own error, and
that results are those of single requests.
"""

import asyncio
import functools
import gc
import random
import re
import threading
import weakref

import grpc
import numpy as np
import pymilvus
import pytest
from faultkit import run, until
from milvusfake import FakeMilvus, Status, search_reply
from milvuskit import SCALARS, clients, floats, make, name_of, outcome, rows_of, same
from pymilvus import DataType
from pymilvus.client import ts_utils
from pymilvus.grpc_gen import milvus_pb2

from arshai_native.milvus import AsyncMilvusClient, _together

pytest_plugins = ("milvusfixtures",)
pytestmark = pytest.mark.usefixtures("milvus_environment")


@pytest.fixture
def fake():
    with FakeMilvus() as server:
        yield server


def vector(number):
    """A vector whose hit has a known id."""
    return [np.frombuffer(number.to_bytes(4, "little"), dtype=np.float32)[0].item(), 0.0, 0.0, 0.0]


def id_of(result):
    return result[0][0]["id"]


def sizes(fake):
    return [request.nq for request in fake.asked("Search")]


class Gate:
    """Searches that are answered when the test says so."""

    def __init__(self, fake, first=1):
        self.open = threading.Event()
        self.held = 0
        self._first = first
        fake.on("Search", self.answer)

    async def answer(self, request):
        if self.held < self._first:
            self.held += 1
            while not self.open.is_set():
                await asyncio.sleep(0.005)
        return search_reply(request)


async def behind(client, fake, gate, count, first=1000, **options):
    """Tasks for searches, all of which wait while the first one is under way."""
    tasks = [asyncio.ensure_future(client.search("c", data=[vector(first)], **options))]
    assert await until(lambda: gate.held == 1)
    tasks += [
        asyncio.ensure_future(client.search("c", data=[vector(n)], **options)) for n in range(count)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def test_alone_it_goes_at_once(fake):
    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            for number in range(5):
                assert id_of(await client.search("c", data=[vector(number + 1)])) == number + 1
        assert sizes(fake) == [1] * 5

    run(main)


def test_what_waits_travels_together(fake):
    gate = Gate(fake)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            tasks = await behind(client, fake, gate, 20)
            gate.open.set()
            results = await asyncio.gather(*tasks)
            assert [id_of(each) for each in results] == [1000, *range(20)]
            assert sizes(fake) == [1, 20]
            assert all(type(each) is type(results[0]) and len(each) == 1 for each in results)

    run(main)


def test_a_call_is_of_the_database_it_was_made_in(fake):
    """What waits when the client changes its database goes to the one before."""
    gate = Gate(fake)
    fake.on("DescribeDatabase", lambda _: milvus_pb2.DescribeDatabaseResponse())

    async def main():
        async with AsyncMilvusClient(fake.uri, db_name="first") as client:
            tasks = await behind(client, fake, gate, 3)
            await client.use_database("second")
            tasks += [asyncio.ensure_future(client.search("c", data=[vector(9)]))]
            assert await until(lambda: len(sizes(fake)) == 2)
            gate.open.set()
            assert list(map(id_of, await asyncio.gather(*tasks))) == [1000, 0, 1, 2, 9]

    run(main)
    seen = [(each.nq, data["dbname"]) for name, each, data in fake.requests if name == "Search"]
    assert sorted(seen) == [(1, "first"), (1, "second"), (3, "first")]


def test_a_row_is_of_the_database_it_was_asked_for_in(fake):
    opened = threading.Event()
    fake.on("DescribeDatabase", lambda _: milvus_pb2.DescribeDatabaseResponse())

    async def answer(request):
        while not opened.is_set():
            await asyncio.sleep(0.005)
        keys = list(map(int, re.findall(r"\d+", request.expr)))
        column = {"type": 5, "field_name": "id", "scalars": {"long_data": {"data": keys}}}
        return milvus_pb2.QueryResults(fields_data=[column], output_fields=["id"])

    fake.on("Query", answer)

    async def main():
        async with AsyncMilvusClient(fake.uri, db_name="first") as client:
            tasks = [asyncio.ensure_future(client.get("c", 1))]
            assert await until(lambda: fake.calls["Query"] == 1)
            tasks += [asyncio.ensure_future(client.get("c", key)) for key in (2, 3)]
            await asyncio.sleep(0.01)
            await client.use_database("second")
            opened.set()
            assert await asyncio.gather(*tasks) == [[{"id": 1}], [{"id": 2}], [{"id": 3}]]

    run(main)
    assert [data["dbname"] for name, _, data in fake.requests if name == "Query"] == ["first"] * 2


ROWS = {
    "Query": lambda _: milvus_pb2.QueryResults(
        fields_data=[{"type": 5, "field_name": "id", "scalars": {"long_data": {"data": [1]}}}]
    ),
    "Search": search_reply,
    "HybridSearch": lambda _: milvus_pb2.SearchResults(),
}
CALLS = {
    "Search": lambda client: client.search("c", data=[vector(1)]),
    "HybridSearch": lambda client: client.hybrid_search(
        "c", [pymilvus.AnnSearchRequest([vector(1)], "vector", {}, 1)], pymilvus.RRFRanker()
    ),
    "Query": lambda client: client.query("c", filter="id > 1", timeout=20),
    "Query of keys": lambda client: client.get("c", 1),
    "Insert": lambda client: client.insert("c", [{"id": 1, "vector": vector(1)}]),
    "Upsert": lambda client: client.upsert("c", [{"id": 1, "vector": vector(1)}]),
    "Delete": lambda client: client.delete("c", ids=[1]),
}


@pytest.mark.parametrize("name", CALLS)
def test_another_attempt_is_made_in_the_same_database(name):
    """As pymilvus's is; and what has been written is known of that database."""
    method = name.split()[0]

    async def main(fake, kind, calls):
        opened = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def answer(request):
            if fake.calls[method] <= calls:
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(opened.wait(), loop))
                raise Status(grpc.StatusCode.ABORTED, "not yet")
            return ROWS.get(method, lambda _: milvus_pb2.MutationResult(timestamp=77))(request)

        fake.on(method, answer)
        fake.on("DescribeDatabase", lambda _: milvus_pb2.DescribeDatabaseResponse())
        client = kind(fake.uri, db_name="first")
        tasks = [asyncio.ensure_future(CALLS[name](client))]
        assert await until(lambda: fake.calls[method] == 1)
        tasks += [asyncio.ensure_future(CALLS[name](client)) for _ in range(calls - 1)]
        await asyncio.sleep(0.01)
        await client.use_database("second")
        opened.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        address = client._handler.server_address
        await client.close()
        return (
            [type(each) for each in results],
            [metadata["dbname"] for each, _, metadata in fake.requests if each == method],
            [ts_utils.get_collection_ts("c", address, each) for each in ("first", "second")],
        )

    outcomes = []
    for kind in (AsyncMilvusClient, pymilvus.AsyncMilvusClient):
        with FakeMilvus() as fake:
            outcomes.append(run(lambda kind=kind, fake=fake: main(fake, kind, 1)))
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0][1]) == {"first"} and len(outcomes[0][1]) == 2 - (name == "Delete")
    with FakeMilvus() as fake:  # together, apart, and again
        assert set(run(lambda: main(fake, AsyncMilvusClient, 3))[1]) == {"first"}


def test_not_when_told_so(fake):
    gate = Gate(fake)

    async def main():
        async with AsyncMilvusClient(fake.uri, gather=False) as client:
            tasks = await behind(client, fake, gate, 20)
            assert await until(lambda: len(sizes(fake)) == 21)
            gate.open.set()
            await asyncio.gather(*tasks)
            assert sizes(fake) == [1] * 21

    run(main)


def test_no_request_is_larger_than_the_bound(fake):
    gate = Gate(fake)
    bound = _together.GATHERED_QUERIES

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            tasks = await behind(client, fake, gate, 3 * bound + 7)
            gate.open.set()
            results = await asyncio.gather(*tasks)
            assert [id_of(each) for each in results][1:] == list(range(3 * bound + 7))
            assert max(sizes(fake)) == bound
            assert len(sizes(fake)) < 10

    run(main)


def test_tasks_that_go_on_searching_stay_together(fake):
    async def main():
        async with AsyncMilvusClient(fake.uri) as client:

            async def work(start):
                for number in range(start, start + 10):
                    assert id_of(await client.search("c", data=[vector(number)])) == number

            await asyncio.gather(*(work(n * 100) for n in range(1, 51)))
        assert sum(sizes(fake)) == 500
        assert len(sizes(fake)) <= 15  # 10, and those at both ends

    run(main)


def test_a_slow_request_does_not_hold_the_others_up(fake):
    gate = Gate(fake)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            first, *rest = await behind(client, fake, gate, 10)
            await asyncio.wait_for(asyncio.gather(*rest), 5)
            assert not first.done()
            gate.open.set()
            await first

    run(main)


OTHERS = {
    "collection": lambda client, v: client.search("d", data=v),
    "filter": lambda client, v: client.search("c", data=v, filter="id > 1"),
    "limit": lambda client, v: client.search("c", data=v, limit=3),
    "output fields": lambda client, v: client.search("c", data=v, output_fields=["a"]),
    "parameters": lambda client, v: client.search("c", data=v, search_params={"params": {"ef": 9}}),
    "a number that equals True": lambda client, v: client.search(
        "c", data=v, search_params={"params": {"ef": True}}
    ),
    "partitions": lambda client, v: client.search("c", data=v, partition_names=["p"]),
    "consistency": lambda client, v: client.search("c", data=v, consistency_level="Strong"),
    "rounding": lambda client, v: client.search("c", data=v, round_decimal=2),
    "field": lambda client, v: client.search("c", data=v, anns_field="v"),
    "type of vector": lambda client, v: client.search("c", data=[np.array(v[0], dtype=np.float16)]),
    "group": lambda client, v: client.search("c", data=v, group_by_field="a"),
    "several vectors": lambda client, v: client.search("c", data=v * 2),
    "request id": lambda client, v: client.search("c", data=v, client_request_id="x"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_searches_do_not_travel_with_it(fake, other):
    gate = Gate(fake)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            tasks = await behind(client, fake, gate, 3, search_params={"params": {"ef": 1}})
            tasks.append(asyncio.ensure_future(OTHERS[other](client, [vector(77)])))
            assert await until(lambda: tasks[-1].done())
            gate.open.set()
            results = await asyncio.gather(*tasks)
            assert [id_of(each) for each in results][:4] == [1000, 0, 1, 2]
            assert sorted(sizes(fake))[-1] == 3

    run(main)


def test_the_timestamp_is_that_of_the_last_write(fake):
    """What waits while something is written sees it, too: it is sent afterwards."""
    gate = Gate(fake)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            tasks = await behind(client, fake, gate, 3)
            await client.insert("c", [{"id": 1, "vector": [1.0] * 4}])
            gate.open.set()
            await asyncio.gather(*tasks)
            assert [r.guarantee_timestamp for r in fake.asked("Search")] == [1, 1000]

    run(main)


def test_an_error_is_only_its_own_callers(fake):
    gate = Gate(fake)
    bad = {3, 7}

    async def answer(request):
        reply = await gate.answer(request)
        if any(key in bad for key in reply.results.ids.int_id.data):
            return milvus_pb2.SearchResults(status={"code": 1100, "reason": "a bad vector"})
        return reply

    fake.on("Search", answer)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            tasks = await behind(client, fake, gate, 10)
            gate.open.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for number, result in enumerate(results[1:]):
                if number in bad:
                    assert isinstance(result, pymilvus.MilvusException)
                    assert (result.code, result.message) == (1100, "a bad vector")
                else:
                    assert id_of(result) == number
            errors = [result for result in results if isinstance(result, Exception)]
            assert errors[0] is not errors[1]
            # The one of all of them, and each alone.
            assert sizes(fake) == [1, 10] + [1] * 10

    run(main)


def test_a_message_that_is_too_large_is_taken_apart(fake):
    gate = Gate(fake)

    async def answer(request):
        if request.nq > 2:
            raise Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
        return await gate.answer(request)

    fake.on("Search", answer)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            tasks = await behind(client, fake, gate, 6)
            gate.open.set()
            results = await asyncio.gather(*tasks)
            assert [id_of(each) for each in results[1:]] == list(range(6))

    run(main)


def test_given_up_before_it_was_sent(fake):
    gate = Gate(fake)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            tasks = await behind(client, fake, gate, 6)
            tasks[2].cancel()
            gate.open.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(results[2], asyncio.CancelledError)
            assert sizes(fake) == [1, 5]
            assert [id_of(r) for r in results[1:2] + results[3:]] == [0, 2, 3, 4, 5]

    run(main)


def test_given_up_under_way(fake):
    gate = Gate(fake, first=2)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            tasks = await behind(client, fake, gate, 4)
            assert await until(lambda: gate.held == 2)  # the others did not wait any longer
            tasks[1].cancel()
            await asyncio.sleep(0.01)
            assert tasks[1].cancelled()
            gate.open.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [id_of(r) for r in results[2:]] == [1, 2, 3]
            assert id_of(results[0]) == 1000

    run(main)


def test_a_callers_timeout_is_its_own(fake):
    gate = Gate(fake, first=2)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            tasks = await behind(client, fake, gate, 2)
            with pytest.raises(pymilvus.MilvusException) as caught:
                await client.search("c", data=[vector(5)], timeout=0.2)
            assert caught.value.message == "[search] Retry timeout: 0.2s"
            late = asyncio.ensure_future(client.search("c", data=[vector(6)], timeout=20))
            await asyncio.sleep(0)
            gate.open.set()
            results = await asyncio.gather(*tasks, late)
            assert [id_of(result) for result in results[1:]] == [0, 1, 6]

    run(main)


def test_what_it_cost_is_shared(fake):
    gate = Gate(fake)

    async def answer(request):
        reply = await gate.answer(request)
        reply.status.extra_info["report_value"] = str(6 * request.nq)
        return reply

    fake.on("Search", answer)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            tasks = await behind(client, fake, gate, 4)
            gate.open.set()
            results = await asyncio.gather(*tasks)
            assert [each.extra for each in results] == [{"cost": 6}] * 5
            assert sizes(fake) == [1, 4]

    run(main)


def test_two_loops_gather_apart(fake):
    results = {}

    def work(name):
        async def main():
            found = await asyncio.gather(
                *(client.search("c", data=[vector(n)]) for n in range(1, 101))
            )
            results[name] = [id_of(each) for each in found]

        asyncio.run(main())

    client = AsyncMilvusClient(fake.uri)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {n: list(range(1, 101)) for n in range(3)}
    asyncio.run(client.close())


@pytest.mark.parametrize("output", [None, ["*"], ["varchar", "json"]], ids=str)
def test_results_are_those_of_single_requests(lite, output):
    """On a real server: 150 different searches, gathered, against single ones."""
    fields = {name: SCALARS[name] for name in ("varchar", "json", "array_int", "float")}
    rows = rows_of(500, fields, seed=11)
    r = random.Random(12)
    queries = [floats(r) for _ in range(150)]

    async def main():
        async with clients(lite) as (ours, theirs):
            name = name_of()
            await make(theirs, name, fields, dynamic=True, rows=rows)
            arguments = {"limit": 7, "output_fields": output, "consistency_level": "Strong"}
            gathered = await asyncio.gather(
                *(ours.search(name, data=[query], **arguments) for query in queries)
            )
            single = await asyncio.gather(
                *(theirs.search(name, data=[query], **arguments) for query in queries)
            )
            for result, expected in zip(gathered, single, strict=True):
                same(result, expected)

    run(main)


def test_results_without_hits(lite):
    async def main():
        async with clients(lite) as (ours, theirs):
            name = name_of()
            await make(theirs, name, {}, rows=rows_of(10, {}))
            queries = [floats(random.Random(n)) for n in range(30)]
            for filter in ("id > 1000", "id == 3"):
                gathered = await asyncio.gather(
                    *(ours.search(name, data=[query], filter=filter) for query in queries)
                )
                for query, result in zip(queries, gathered, strict=True):
                    same(result, await theirs.search(name, data=[query], filter=filter))

    run(main)


# ---- get ----


@pytest.mark.parametrize("pk", [DataType.INT64, DataType.VARCHAR], ids=["int", "str"])
@pytest.mark.parametrize("output", [None, ["varchar"], ["id"], ["float_vector", "json"]], ids=str)
def test_rows_are_those_of_single_requests(lite, pk, output):
    """Of which some are not there, and some are asked for more than once."""
    fields = {name: SCALARS[name] for name in ("varchar", "json", "array_int")}
    rows = rows_of(100, fields, seed=4, pk=pk)
    random.Random(5).shuffle(rows)

    async def main():
        async with clients(lite) as (ours, theirs):
            name = name_of()
            await make(theirs, name, fields, pk=pk, dynamic=True, rows=rows)
            wanted = [row["id"] for row in rows[:60]] + [rows[3]["id"]] * 3
            wanted += [5000] if pk is DataType.INT64 else ["none", "it's", "back\\slash", ""]
            options = {"output_fields": output, "consistency_level": "Strong"}
            for method in ("get", "query"):
                calls = [getattr(ours, method)(name, ids=[key], **options) for key in wanted]
                gathered = await asyncio.gather(*calls, return_exceptions=True)
                for key, result in zip(wanted, gathered, strict=True):
                    expected = await outcome(
                        functools.partial(getattr(theirs, method), name, ids=[key], **options)
                    )
                    if expected[0] == "result":
                        same(result, expected[1], str(key))
                    else:
                        assert type(result) is expected[1][0], key
                same_rows = [r for r in gathered if not isinstance(r, Exception) and len(r)]
                assert len({id(r[0]) for r in same_rows}) == len(same_rows)

    run(main)


def test_single_rows_travel_together(fake):
    def answer(request):
        listed = request.expr.removeprefix("id in [").removesuffix("]").split(",")
        keys = sorted(int(key) for key in listed if int(key) < 500)
        return milvus_pb2.QueryResults(
            fields_data=[{"type": 5, "field_name": "id", "scalars": {"long_data": {"data": keys}}}]
        )

    fake.on("Query", answer)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            assert await client.get("c", 7) == [{"id": 7}]
            keys = [*range(30), 600, 3]
            found = await asyncio.gather(*(client.get("c", key) for key in keys))
            assert found == [[{"id": key}] for key in range(30)] + [[], [{"id": 3}]]
            assert 2 <= fake.calls["Query"] <= 4
        async with AsyncMilvusClient(fake.uri, gather=False) as client:
            before = fake.calls["Query"]
            await asyncio.gather(*(client.get("c", key) for key in range(20)))
            assert fake.calls["Query"] == before + 20

    run(main)


@pytest.mark.parametrize("pk", [DataType.INT64, DataType.VARCHAR], ids=["int", "str"])
@pytest.mark.parametrize("output", [None, ["varchar"]], ids=str)
def test_several_rows_are_those_of_single_requests(lite, pk, output):
    """In the server's order; some are not there, and some are asked for more than once."""
    fields = {name: SCALARS[name] for name in ("varchar", "json")}
    rows = rows_of(100, fields, seed=6, pk=pk)
    r = random.Random(7)
    r.shuffle(rows)

    async def main():
        async with clients(lite) as (ours, theirs):
            name = name_of()
            await make(theirs, name, fields, pk=pk, dynamic=True, rows=rows[:60])
            await theirs.insert(name, rows[60:])
            await theirs.upsert(name, r.sample(rows, 20))
            missing = [5000, 5001] if pk is DataType.INT64 else ["none", "\ud7ff", "\U0001f600"]
            keys = [row["id"] for row in rows] + missing
            wanted = [r.choices(keys, k=r.choice([1, 2, 5, 16, 20])) for _ in range(60)]
            options = {"output_fields": output, "consistency_level": "Strong"}
            calls = [ours.get(name, ids=each, **options) for each in wanted]
            gathered = await asyncio.gather(*calls)
            for each, result in zip(wanted, gathered, strict=True):
                same(result, await theirs.get(name, ids=each, **options), str(each))
            own = [row for result in gathered for row in result]
            assert len({id(row) for row in own}) == len(own)

    run(main)


@pytest.mark.parametrize("by_key", [True, False], ids=["by key", "as asked for"])
def test_several_rows_travel_together(fake, by_key):
    """Where the server's order is that of the keys; elsewhere they do not, once that is known."""
    opened = threading.Event()
    asked = []

    async def answer(request):
        while not opened.is_set():
            await asyncio.sleep(0.005)
        listed = list(map(int, re.findall(r"\d+", request.expr)))
        asked.append(listed)
        keys = sorted(set(listed)) if by_key else list(dict.fromkeys(listed))
        column = {"type": 5, "field_name": "id", "scalars": {"long_data": {"data": keys}}}
        return milvus_pb2.QueryResults(
            status={"extra_info": {"report_value": "30"}}, fields_data=[column]
        )

    fake.on("Query", answer)
    wanted = [[7], [3, 1, 3], [2], [5, 4], [1, 2], list(range(16)), list(range(17))]

    def expected(keys):
        keys = list(dict.fromkeys(keys))
        return [{"id": key} for key in (sorted(keys) if by_key else keys)]

    async def together(client):
        opened.clear()
        del asked[:]
        fake.calls["Query"] = 0
        first = asyncio.ensure_future(client.get("c", [9, 8, 9]))
        assert await until(lambda: fake.calls["Query"] == 1)
        tasks = [asyncio.ensure_future(client.get("c", keys)) for keys in wanted]
        assert await until(lambda: fake.calls["Query"] > 1)  # the last of them goes by itself
        opened.set()
        assert await first == expected([9, 8])
        asked.remove([9, 8, 9])
        return await asyncio.gather(*tasks)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            for once in (True, False):
                results = await together(client)
                assert results == list(map(expected, wanted))
                if by_key:
                    assert sorted(map(len, asked)) == [16, 17]
                    assert [each.extra["cost"] for each in results] == [5] * 6 + [30]
                elif not once:
                    assert sorted(map(len, asked)) == sorted(map(len, wanted))
            # No request is for more keys than that.
            del asked[:]
            opened.set()
            many = [list(range(16 * n, 16 * n + 16)) for n in range(40)]
            assert await asyncio.gather(*(client.get("c", keys) for keys in many)) == list(
                map(expected, many)
            )
            assert max(map(len, asked)) == (96 if by_key else 16)

    run(main)


def test_results_go_when_nobody_has_them(fake):
    """Without the garbage collector, for which a hundred results at once are a lot of work."""

    async def main():
        gate = Gate(fake)
        async with AsyncMilvusClient(fake.uri) as client:
            tasks = await behind(client, fake, gate, 5)
            gate.open.set()
            kept = [weakref.ref(result) for result in await asyncio.gather(*tasks)]
            assert all(each() is not None for each in kept[1:])
            del tasks
            await asyncio.sleep(0)
            assert [each() for each in kept] == [None] * 6

    gc.collect()
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()
