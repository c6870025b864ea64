"""Searches that C makes from argument to result: which do, which have to go the long way, and that
nobody can tell by what the server sees or by what comes of it.
"""

import math
from functools import partial

import grpc
import numpy as np
import pymilvus
import pytest
from faultkit import run
from milvuscallkit import OTHER, VECTOR, Text, gathers, id_of, known, told, vector
from milvusfake import SEARCH_OPTIONS
from milvuskit import SCALARS, clients, make, name_of, outcome, peers_refuse, rows_of, same
from pymilvus.client import call_context, ts_utils
from pymilvus.client.async_grpc_handler import AsyncGrpcHandler
from pymilvus.client.call_context import CallContext
from pymilvus.client.prepare import Prepare
from pymilvus.client.search_result import SearchResult
from pymilvus.grpc_gen import milvus_pb2

from arshai_native.milvus import AsyncMilvusClient

pytest_plugins = ("faultfixtures", "milvusfixtures", "milvuscallfixtures")
pytestmark = pytest.mark.usefixtures("bounded", "milvus_environment")

# ---- which way, what is sent, what comes of it ----


@gathers
def test_from_the_second_one_of_a_kind_on(fake, ways, gather):
    async def main():
        async with AsyncMilvusClient(fake.uri, gather=gather) as client:
            for options in ({}, {"limit": 3}, {"filter": "id > 1"}, {"round_decimal": 2}):
                for number in range(3):
                    assert id_of(await client.search("c", [vector(number)], **options)) == number
                assert ways == ["long", "C", "C"]
                ways.clear()
            await client.search("d", data=VECTOR)
            await client.search("c", data=VECTOR)
            assert ways == ["long", "C"]

    run(main)


DATA = {
    "list": VECTOR,
    "ints and floats": [[1, 0.5, -0.0, math.inf]],
    "numpy's numbers": [[np.float32(0.3), np.float64(0.1), np.int8(3), 0.5]],
    "several": [*VECTOR, *OTHER, [0.0] * 4],
    "an array in a list": [np.array(VECTOR[0], dtype=np.float32)],
    "two arrays": [np.array(VECTOR[0], dtype=np.float32), np.array(OTHER[0], dtype=np.float32)],
    "an array of doubles": [np.array(VECTOR[0])],
    "two dimensions": np.array(VECTOR + OTHER, dtype=np.float32),
    "two dimensions of doubles": np.array(VECTOR + OTHER),
    "one dimension": np.array(VECTOR[0], dtype=np.float32),
    "columns of another": np.array(np.arange(8.0).reshape(4, 2).T),
    "float16": [np.array(VECTOR[0], dtype=np.float16)],
    "int8": [np.array([1, -2, 3, 4], dtype=np.int8)],
    "sparse": [{7: 0.5, 3: 0.25}],
    "sparse ones": [{7: 0.5, 3: 0.25}, {1: 1.0}],
    "pairs": [[(7, 0.5), (3, 0.25)]],
    "texts": ["a text", "ä"],
    "many": [[float(n), 0.0, 1.0, 2.0] for n in range(200)],
    "large": [[0.25] * 20_000],
}

# Of those pymilvus decides.
NOT_C = ("one dimension",)


@gathers
@pytest.mark.parametrize("name", DATA)
def test_vectors(fake, ways, name, gather):
    async def main():
        async with clients(fake, gather=gather, token="me:secret", db_name="mine") as both:
            asked = []
            for client in both:
                made = []
                for _ in range(2):  # of which the second one goes through C
                    made.append(await outcome(partial(client.search, "c", data=DATA[name])))
                if made[1][0] == "result":
                    asked.append((fake.asked("Search")[-1], told(fake), made))
                else:
                    asked.append((made,))
            mine, expected = asked
            assert mine[:2] == expected[:2]
            same(mine[-1], expected[-1])
            assert mine[-1][1][0] == "error" or mine[1]["dbname"] == "mine"

    run(main)
    assert ways == ["long", "long" if name in NOT_C else "C"]


@gathers
@pytest.mark.parametrize("name", SEARCH_OPTIONS)
def test_options(fake, ways, name, gather):
    """Each before and after the client has written."""
    options = SEARCH_OPTIONS[name]

    async def main():
        async with clients(fake, gather=gather, token="me:secret") as both:
            asked = []
            for client in both:
                pymilvus.client.cache.GlobalCache._reset_for_testing()
                requests = []
                for written in (None, 1234, 2**63 + 5):
                    if written is not None:
                        ts_utils.update_collection_ts(
                            "c", written, client._handler.server_address, client._config.db_name
                        )
                    for data in (VECTOR, OTHER):
                        found = await client.search("c", data=data, **options)
                    requests.append((fake.asked("Search")[-1], told(fake), found))
                asked.append(requests)
            for mine, expected in zip(*asked, strict=True):
                assert mine[:2] == expected[:2]
                same(mine[2], expected[2])

    run(main)
    assert ways == ["long"] + ["C"] * 5


def test_what_it_has_inserted_is_asked_for(fake, ways):
    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            await known(client, ways)
            await client.insert("c", [{"id": 1, "vector": [1.0] * 4}])
            await client.search("c", data=VECTOR)
            assert fake.asked("Search")[-1].guarantee_timestamp == 1000
            fake.on("Delete", lambda _: milvus_pb2.MutationResult(delete_cnt=1, timestamp=2**62))
            await client.delete("c", ids=[1])
            await client.search("c", data=VECTOR)
            assert fake.asked("Search")[-1].guarantee_timestamp == 2**62
        assert ways == ["C", "C"]

    run(main)


@gathers
def test_real_results(lite, ways, gather):
    rows = rows_of(60, SCALARS, ("float_vector", "sparse_vector"))
    query = [rows[3]["float_vector"]]
    every = {"output_fields": ["*"], "limit": 5, "anns_field": "float_vector"}
    kinds = [
        (query, every),
        (query, {**every, "round_decimal": 2}),
        (query, {**every, "filter": "int8 > 0", "limit": 60}),
        (query, {**every, "offset": 3}),
        (query, {**every, "group_by_field": "bool", "output_fields": ["bool"]}),
        (query, {**every, "search_params": {"metric_type": "COSINE", "params": {}}}),
        (query, {**every, "filter": "id < 0"}),
        (query, {**every, "filter": "no such thing"}),
        (query, {**every, "search_params": {"metric_type": "L2"}}),
        ([row["float_vector"] for row in rows[:7]], every),
        (np.array(query, dtype=np.float32), every),
        (np.array(query), every),
        ([np.array(query[0])], every),
        ([[0.5] * 3], every),
        ([row["sparse_vector"] for row in rows[:2]], {**every, "anns_field": "sparse_vector"}),
        (
            [rows[5]["sparse_vector"]],
            {"anns_field": "sparse_vector", "partition_names": ["_default"]},
        ),
    ]

    async def main():
        name = name_of()
        async with clients(lite, gather=gather) as (ours, theirs):
            await make(ours, name, SCALARS, ("float_vector", "sparse_vector"), rows=rows)
            for data, options in kinds:
                calls = [
                    await outcome(partial(client.search, name, data=data, **options))
                    for client in (theirs, ours, ours)
                ]
                same(calls[1], calls[0])
                same(calls[2], calls[0])
                if calls[0][0] == "result":
                    for mine, expected in zip(calls[2][1], calls[0][1], strict=True):
                        same([*mine], [*expected])  # what was put off, too
                assert ways[-1] == "C", options
                ways.clear()
            await ours.drop_collection(name)

    run(main)


# ---- what has to go the long way ----


def _reranker():
    return pymilvus.Function(
        name="f",
        input_field_names=["a"],
        function_type=pymilvus.FunctionType.RERANK,
        params={"reranker": "decay", "function": "gauss", "origin": 1, "scale": 2},
    )


class Levels(list):
    pass


LONG = {
    "bytes": ([np.array(VECTOR[0], dtype=np.float32).tobytes()], {}),
    "bytes among lists": ([VECTOR[0], b"12345678"], {}),
    "a tuple": ((VECTOR[0],), {}),
    "a tuple in a list": ([tuple(VECTOR[0])], {}),
    "a subclass of list": (Levels(VECTOR), {}),
    "nothing": ([], {}),
    "none": (None, {}),
    "a number": (3, {}),
    "what is no number": ([["x", 1.0, 2.0, 3.0]], {}),
    "too large": ([[1e300, 1.0, 2.0, 3.0]], {}),
    "of other types": ([VECTOR[0], {1: 0.5}], {}),
    "retry_times": (VECTOR, {"retry_times": 2}),
    "retry_on_rate_limit": (VECTOR, {"retry_on_rate_limit": False}),
    "client_request_id": (VECTOR, {"client_request_id": "of mine"}),
    "client-request-id": (VECTOR, {"client-request-id": "of mine"}),
    "log_level": (VECTOR, {"log_level": "debug"}),
    "ids": (None, {"ids": [1, 2]}),
    "ranker": (VECTOR, {"ranker": _reranker()}),
    "a wrong limit": (VECTOR, {"limit": "x"}),
    "a filter of another class": (VECTOR, {"filter": Text("id > 1")}),
    "an option that has no key": (VECTOR, {"search_params": {"params": {"x": {1, 2}}}}),
    "timeout 0": (VECTOR, {"timeout": 0}),
    "timeout 0.0": (VECTOR, {"timeout": 0.0}),
    "timeout -0.0": (VECTOR, {"timeout": -0.0}),
    "a negative timeout": (VECTOR, {"timeout": -1}),
    "a timeout that is a text": (VECTOR, {"timeout": "1"}),
    "a timeout that is a bool": (VECTOR, {"timeout": True}),
}


@gathers
@pytest.mark.parametrize("name", LONG)
def test_the_long_way(fake, ways, name, gather):
    data, options = LONG[name]

    async def main():
        async with clients(fake, gather=gather) as (ours, theirs):
            await known(ours, ways)
            await theirs.search("c", data=VECTOR)
            if "timeout" in name:  # that is no reason to have another plan
                await ours.search("c", data=VECTOR, timeout=30)
                assert ways == ["C"]
                ways.clear()
            for _ in range(2):
                made = []
                for client in (ours, theirs):
                    before = fake.calls["Search"]
                    what = await outcome(partial(client.search, "c", data=data, **options))
                    asked = fake.asked("Search")[before:]
                    made.append((what, asked, asked and told(fake)))
                mine, expected = made
                if name == "log_level":  # of which pymilvus's handler knows nothing
                    assert mine[0][1][:2] == expected[0][1][:2]
                else:
                    same(mine[0], expected[0])
                if mine[0][0] == "result":
                    assert mine[1:] == expected[1:]
            assert "C" not in ways
            await ours.search("c", data=VECTOR)
            assert ways[-1] == "C"

    run(main)


def test_a_timeout_that_is_no_number(fake, ways):
    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            await known(client, ways)
            with pytest.raises(pymilvus.MilvusException, match="timeout"):
                await client.search("c", data=VECTOR, timeout=math.nan)
            assert ways == ["long"]

    run(main)


def test_a_collection_that_is_no_plain_name(fake, ways):
    async def main():
        async with clients(fake) as (ours, theirs):
            await known(ours, ways)
            for name in (Text("c"), None, 3, b"c"):
                mine = await outcome(partial(ours.search, name, data=VECTOR))
                expected = await outcome(partial(theirs.search, name, data=VECTOR))
                same(mine, expected)
            assert "C" not in ways

    run(main)


PLACES = {
    "the client's method": (pymilvus.AsyncMilvusClient, "search"),
    "the client's context": (pymilvus.AsyncMilvusClient, "_generate_call_context"),
    "the handler's method": (AsyncGrpcHandler, "search"),
    "how it executes": (AsyncGrpcHandler, "_execute_search"),
    "how it is prepared": (Prepare, "search_requests_with_expr"),
    "the metadata": (CallContext, "to_grpc_metadata"),
    "the context's making": (CallContext, "__init__"),
    "the clock": (call_context, "current_time_ms"),
    "the last write": (ts_utils, "get_collection_ts"),
    "the result": (SearchResult, "__init__"),
}


@gathers
@pytest.mark.parametrize("early", [False, True], ids=["later", "from the start"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_patches_see_every_call(fake, ways, monkeypatch, place, early, gather):
    owner, name = place
    seen = []

    def patch():
        static = vars(owner).get(name)
        original = getattr(owner, name)

        def patched(*args, **kwargs):
            seen.append(name)
            if isinstance(static, classmethod):
                args = args[1:]
            return original(*args, **kwargs)

        monkeypatch.setattr(
            owner, name, classmethod(patched) if isinstance(static, classmethod) else patched
        )

    async def main():
        async with AsyncMilvusClient(fake.uri, gather=gather) as client:
            if early:
                patch()
            else:
                await known(client, ways)
                patch()
            for number in range(4):
                seen.clear()
                assert id_of(await client.search("c", data=[vector(number)])) == number
                if not (gather and name == "__init__"):  # one context for all that it gathers
                    assert name in seen
            assert "C" not in ways
            monkeypatch.undo()
            for number in range(3):
                seen.clear()
                assert id_of(await client.search("c", data=[vector(number)])) == number
                assert not seen

    run(main)


class Naming(AsyncMilvusClient):
    def _generate_call_context(self, **kwargs):
        return super()._generate_call_context(client_request_id="of a subclass")


@gathers
def test_a_subclass_has_its_say(fake, ways, gather):
    async def main():
        async with Naming(fake.uri, gather=gather) as client:
            for _ in range(3):
                await client.search("c", data=VECTOR)
                assert fake.metadata("Search")["client-request-id"] == "of a subclass"
        assert "C" not in ways

        class Harmless(AsyncMilvusClient):
            pass

        async with Harmless(fake.uri, gather=gather) as client:
            await known(client, ways)
            Harmless._generate_call_context = lambda self, **_: CallContext("", "of a class")
            for _ in range(2):
                await client.search("c", data=VECTOR)
                assert fake.metadata("Search")["client-request-id"] == "of a class"
        assert "C" not in ways

    run(main)


@gathers
def test_a_client_of_another_class_from_now_on(fake, ways, gather):
    async def main():
        async with AsyncMilvusClient(fake.uri, gather=gather) as client:
            await known(client, ways)
            client.__class__ = Naming
            for _ in range(2):
                await client.search("c", data=VECTOR)
                assert fake.metadata("Search")["client-request-id"] == "of a subclass"
            assert "C" not in ways
            client.__class__ = AsyncMilvusClient
            await client.search("c", data=VECTOR)
            assert ways[-1] == "C"
            assert fake.metadata("Search")["client-request-id"] == ""

    run(main)


@gathers
def test_an_attribute_of_the_clients_own(fake, ways, gather):
    async def main():
        async with AsyncMilvusClient(fake.uri, gather=gather) as client:
            await known(client, ways)
            client._generate_call_context = lambda **_: CallContext("", "of an attribute")
            for _ in range(2):
                await client.search("c", data=VECTOR)
                assert fake.metadata("Search")["client-request-id"] == "of an attribute"
            assert ways == ["long"] * 2
            del client._generate_call_context
            await client.search("c", data=VECTOR)
            assert fake.metadata("Search")["client-request-id"] == ""
            client.note = "harmless"
            ways.clear()
            await client.search("c", data=VECTOR)
            await client.search("c", data=VECTOR)
            assert ways == ["long", "C"]

    run(main)


@gathers
def test_an_interceptor_more(fake, ways, gather):
    seen = []

    class Interceptor(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, details, request):
            seen.append(details.method)
            return await continuation(details, request)

    async def main():
        async with AsyncMilvusClient(fake.uri, dedicated=True, gather=gather) as client:
            await known(client, ways)
            interceptors = client._handler._async_channel._unary_unary_interceptors
            adder = pymilvus.client.async_interceptor.async_header_adder_interceptor
            interceptors.append(adder(["added"], ["by us"]))
            await client.search("c", data=VECTOR)
            await client.search("c", data=VECTOR)
            assert ways == ["long", "C"] and told(fake)["added"] == "by us"
            interceptors.append(Interceptor())
            for _ in range(2):
                await client.search("c", data=VECTOR)
            assert len(seen) == 2 and ways[2:] == ["long"] * 2
            interceptors.pop()
            await client.search("c", data=VECTOR)
            assert ways[-1] == "C" and len(seen) == 2
            client._handler._async_channel._unary_unary_interceptors = interceptors[:1]
            await client.search("c", data=VECTOR)
            assert "added" not in told(fake)

    run(main)


@gathers
def test_another_database(fake, ways, monkeypatch, gather):
    fake.on("DescribeDatabase", lambda _: milvus_pb2.DescribeDatabaseResponse())

    async def main():
        async with AsyncMilvusClient(fake.uri, db_name="first", gather=gather) as client:
            await known(client, ways)
            for change in (client.use_database, client.using_database):
                for database in ("second", "ends"):
                    await change(database)
                    for expected in ("long", "C"):
                        ways.clear()
                        await client.search("c", data=VECTOR)
                        assert told(fake)["dbname"] == database
                        assert ways == [expected]
            client._config.db_name = "".join(["en", "ds"])  # the same, another object
            await client.search("c", data=VECTOR)
            assert ways[-1] == "C"
            client._config.db_name = Text("ends")
            peers_refuse(monkeypatch, "search")
            for _ in range(2):
                await client.search("c", data=VECTOR)
                assert told(fake)["dbname"] == "ends" and ways[-1] == "long"

    run(main)


def test_writes_are_of_the_database_they_were_made_in(fake, ways):
    async def main():
        async with AsyncMilvusClient(fake.uri, db_name="first") as client:
            await known(client, ways)
            await client.insert("c", [{"id": 1, "vector": [1.0] * 4}])
            for database, expected in (("first", 1000), ("second", 1), ("first", 1000)):
                client._config.db_name = database
                for _ in range(2):
                    await client.search("c", data=VECTOR)
                    assert fake.asked("Search")[-1].guarantee_timestamp == expected
                    assert told(fake)["dbname"] == database

    run(main)


@gathers
def test_closed(fake, ways, gather):
    closing = {
        "the client": lambda client: client.close(),
        "its channel": lambda client: client._handler._async_channel.close(),
    }

    async def main(close):
        async with clients(fake, dedicated=True, gather=gather) as (ours, theirs):
            await known(ours, ways)
            await theirs.search("c", data=VECTOR)
            await close(ours)
            await close(theirs)
            for _ in range(2):
                mine = await outcome(partial(ours.search, "c", data=VECTOR))
                expected = await outcome(partial(theirs.search, "c", data=VECTOR))
                assert mine == expected and mine[0] == "error"
            assert "C" not in ways

    for close in closing.values():
        run(lambda close=close: main(close))


@gathers
def test_the_core_is_closed(fake, ways, gather):
    async def main():
        async with AsyncMilvusClient(fake.uri, dedicated=True, gather=gather) as client:
            await known(client, ways)
            client._handler._async_channel._core.close()
            for _ in range(2):
                with pytest.raises(pymilvus.MilvusException, match="closed"):
                    await client.search("c", data=VECTOR)
            assert "C" not in ways

    run(main)


@gathers
def test_another_connection(fake, ways, gather):
    """Of the same handler, as after a reconnect; and of another one."""

    async def main():
        async with AsyncMilvusClient(fake.uri, dedicated=True, gather=gather) as client:
            await known(client, ways)
            handler = client._handler
            first = handler._async_channel
            second = handler._create_channel(handler._address)
            second._unary_unary_interceptors.extend(first._unary_unary_interceptors)
            handler._async_channel = second
            for _ in range(2):
                assert len(await client.search("c", data=VECTOR)) == 1
            assert ways == ["long", "C"]
            await first.close()
            assert len(await client.search("c", data=VECTOR)) == 1
            assert ways == ["long", "C", "C"]

    run(main)
