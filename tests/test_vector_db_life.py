"""AsyncMilvus over time: many callers, threads and event loops; collections that change, servers
that end and come back.
"""

import asyncio
import logging
import subprocess
import sys
import threading
import time

import grpc
import pymilvus
import pytest
from faultkit import run, until
from milvusfake import FakeMilvus, Status, collection, search_reply
from milvuskit import same
from pymilvus.grpc_gen import common_pb2, milvus_pb2
from vectordbkit import config_of, documents, embeddings, vectors, without_ids

from arshai_native.vector_db import AsyncMilvus

pytest_plugins = ("milvusfixtures",)
# arshai uses what pymilvus 2.6 warns of.
pytestmark = [
    pytest.mark.usefixtures("milvus_environment"),
    pytest.mark.filterwarnings("ignore:.*ORM-style PyMilvus API"),
]


@pytest.fixture
def ours(lite):
    with AsyncMilvus(lite.uri) as client:
        yield client


@pytest.fixture
def fake():
    with FakeMilvus() as server:
        server.on("LoadCollection", lambda _: common_pb2.Status())
        server.on("GetLoadingProgress", lambda _: milvus_pb2.GetLoadingProgressResponse(
            progress=100))  # fmt: skip
        yield server


# ---- many ----


def test_a_hundred_at_once(lite):
    config = config_of()
    queries = vectors(100, seed=3)

    async def main():
        async with AsyncMilvus(lite.uri) as client, AsyncMilvus(lite.uri, gather=False) as one:
            await client.insert_entities_async(config, documents(50), embeddings(50))
            # The first hundred also find out together what the collection is.
            await client.disconnect_async()
            found = await asyncio.gather(
                *(client.search_by_vector_async(config, [query], limit=7) for query in queries)
            )
            for query, result in zip(queries, found, strict=True):
                same(result, await one.search_by_vector_async(config, [query], limit=7))

    run(main)


def test_they_travel_together(fake):
    config = config_of("c", pk_field="id", dense_field="vector")
    gate = threading.Event()
    held = []

    async def answer(request):
        if not held:
            held.append(request)
            while not gate.is_set():
                await asyncio.sleep(0.005)
        return search_reply(request)

    async def main():
        async with AsyncMilvus(fake.uri) as client:
            await client.search_by_vector_async(config, [[9.0] * 4])
            fake.on("Search", answer)
            tasks = [
                asyncio.ensure_future(client.search_by_vector_async(config, [[float(n)] * 4]))
                for n in range(31)
            ]
            assert await until(lambda: held)
            await asyncio.sleep(0.01)
            gate.set()
            await asyncio.gather(*tasks)
        assert [request.nq for request in fake.asked("Search")] == [1, 1, 30]
        assert fake.calls["DescribeCollection"] == 2

    run(main)


def test_in_threads_and_within_a_running_loop(ours):
    config = config_of()
    ours.insert_entities(config, documents(20), embeddings(20))
    expected = [without_ids(ours.search_by_vector(config, [query])) for query in vectors(8)]
    found: dict[int, list] = {}

    def search(number):
        found[number] = [
            without_ids(ours.search_by_vector(config, [query])) for query in vectors(8)
        ]

    threads = [threading.Thread(target=search, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {number: expected for number in range(6)}

    async def main():
        # As arshai's: it blocks, and answers.
        within = [without_ids(ours.search_by_vector(config, [query])) for query in vectors(8)]
        assert within == expected
        twins = await asyncio.gather(
            *(ours.search_by_vector_async(config, [query]) for query in vectors(8))
        )
        assert [without_ids(each) for each in twins] == expected
        in_thread = await asyncio.to_thread(ours.search_by_vector, config, vectors(1))
        assert without_ids(in_thread) == expected[0]

    run(main)
    run(main)  # another loop


def test_one_flush_for_many(lite):
    config = config_of()

    async def main():
        async with AsyncMilvus(lite.uri) as client:
            await client.get_or_create_collection_async(config)
            await asyncio.gather(
                *(
                    client.insert_entity_async(config, document, {"dense": vector})
                    for document, vector in zip(documents(30), vectors(30), strict=True)
                )
            )
            assert (await client.get_collection_stats_async(config))["num_entities"] == 30

    run(main)


def test_a_new_collection_by_many_at_once(lite):
    config = config_of()

    async def main():
        async with AsyncMilvus(lite.uri) as client:
            results = await asyncio.gather(
                *(client.search_by_vector_async(config, vectors(1)) for _ in range(20))
            )
            assert all(len(result[0]) == 0 for result in results)

    run(main)


# ---- change ----


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_collection_that_goes_and_comes_back_otherwise(lite, ours, kind):
    def call(name, *args):
        if kind == "sync":
            return getattr(ours, name)(*args)

        async def main():
            return await getattr(ours, name + "_async")(*args)

        return run(main)

    config = config_of()
    call("insert_entities", config, documents(3), embeddings(3))
    assert len(call("search_by_vector", config, vectors(1))[0]) == 3
    outside = pymilvus.MilvusClient(lite.uri)
    outside.release_collection(config.collection_name)
    assert len(call("search_by_vector", config, vectors(1))[0]) == 3
    # Dropped: arshai makes it anew.
    outside.drop_collection(config.collection_name)
    assert len(call("search_by_vector", config, vectors(1))[0]) == 0
    # Another dimension, another field.
    outside.drop_collection(config.collection_name)

    class Model:
        author: str

    other = config_of(config.collection_name, schema_model=Model)
    other.dense_dim = 4
    with AsyncMilvus(lite.uri) as second:
        second.insert_entity(other, {"content": "x", "author": "A"}, {"dense": [0.5] * 4})
    call("insert_entity", other, {"content": "y", "author": "B"}, {"dense": [0.25] * 4})
    rows = call("query_by_expr", other, "author != ''")
    assert sorted(row["author"] for row in rows) == ["A", "B"]
    outside.close()


def test_a_refusal_is_asked_about_once_for_all(fake, caplog):
    caplog.set_level(logging.CRITICAL, "arshai_native.vector_db")
    config = config_of("c", pk_field="id", dense_field="vector")

    async def main():
        async with AsyncMilvus(fake.uri, gather=False) as client:
            await client.search_by_vector_async(config, [[9.0] * 4])
            assert fake.calls["DescribeCollection"] == 2
            fake.on("Search", lambda request: search_reply(request, code=65535, reason="no",
                                                           error_code=1))  # fmt: skip
            results = await asyncio.gather(
                *(client.search_by_vector_async(config, [[9.0] * 4]) for _ in range(10)),
                return_exceptions=True,
            )
            assert {(type(each), each.message) for each in results} == {
                (pymilvus.MilvusException, "no")
            }
            assert fake.calls["DescribeCollection"] == 4
            # What was known is known still.
            fake.on("Search", search_reply)
            await client.search_by_vector_async(config, [[9.0] * 4])
            assert fake.calls["DescribeCollection"] == 4

    run(main)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_rate_limit_is_waited_for(fake, kind):
    config = config_of("c", pk_field="id", dense_field="vector")
    refusals = iter(range(3))

    def answer(request):
        if next(refusals, None) is None:
            return search_reply(request)
        return search_reply(request, code=8, error_code=49, reason="slowly")

    with AsyncMilvus(fake.uri) as client:
        fake.on("Search", answer)
        if kind == "sync":
            result = client.search_by_vector(config, [[9.0] * 4])
        else:
            result = run(lambda: client.search_by_vector_async(config, [[9.0] * 4]))
        assert len(result[0]) == 1 and fake.calls["Search"] == 4


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_is_not_tried_again(fake, kind, caplog):
    caplog.set_level(logging.CRITICAL)
    config = config_of("c", pk_field="id", dense_field="vector")

    def refuse(_):
        raise Status(grpc.StatusCode.PERMISSION_DENIED, "not you")

    with AsyncMilvus(fake.uri) as client:
        client.search_by_vector(config, [[9.0] * 4])
        fake.on("Search", refuse)
        with pytest.raises(grpc.RpcError) as failed:
            if kind == "sync":
                client.search_by_vector(config, [[9.0] * 4])
            else:
                run(lambda: client.search_by_vector_async(config, [[9.0] * 4]))
    assert failed.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert fake.calls["Search"] == 2


def test_default_fields_follow_the_schema(fake):
    config = config_of("c", pk_field="id", dense_field="vector")
    with AsyncMilvus(fake.uri) as client:
        client.search_by_vector(config, [[9.0] * 4])
        fake.on("DescribeCollection", lambda _: collection(
            timestamp=2, more=pymilvus.DataType.INT64))  # fmt: skip
        once = iter([search_reply])
        fake.on("Search", lambda request: next(once)(request, code=100, reason="changed"))
        answers = iter([
            lambda request: search_reply(request, code=100, error_code=1, reason="changed"),
            search_reply,
        ])  # fmt: skip
        fake.on("Search", lambda request: next(answers)(request))
        client.search_by_vector(config, [[9.0] * 4])
    assert [list(r.output_fields) for r in fake.asked("Search")] == [
        ["id"], ["id"], ["id", "more"],
    ]  # fmt: skip


# ---- servers ----


def test_nobody_there(free_port_uri, caplog):
    caplog.set_level(logging.CRITICAL)
    client = AsyncMilvus(free_port_uri)
    for call in (
        client.connect,
        lambda: client.search_by_vector(config_of(), vectors(1)),
        lambda: client.get_or_create_collection(config_of()),
        lambda: run(lambda: client.search_by_vector_async(config_of(), vectors(1))),
        lambda: run(lambda: client.connect_async()),
    ):
        started = time.monotonic()
        with pytest.raises(pymilvus.MilvusException, match="Fail connecting to server on") as e:
            call()
        assert e.value.code == 2 and time.monotonic() - started < 15


@pytest.fixture
def free_port_uri():
    from servers import free_port

    return f"http://127.0.0.1:{free_port()}"


def test_a_server_that_comes_back(own_lite, caplog):
    caplog.set_level(logging.CRITICAL)
    config = config_of()
    with AsyncMilvus(own_lite.uri) as client:
        client.insert_entities(config, documents(3), embeddings(3))
        own_lite.kill()
        with pytest.raises(pymilvus.MilvusException, match="Fail connecting"):
            client.search_by_vector(config, vectors(1))
        own_lite.start()
        assert len(client.search_by_vector(config, vectors(1))[0]) == 3

        async def main():
            assert len((await client.search_by_vector_async(config, vectors(1)))[0]) == 3

        run(main)


def test_credentials_and_database(fake):
    config = config_of("c", pk_field="id", dense_field="vector")
    with AsyncMilvus(fake.uri, "me", "secret", "things") as client:
        client.search_by_vector(config, [[9.0] * 4])
        run(lambda: client.search_by_vector_async(config, [[9.0] * 4]))
        for method in ("Connect", "Search", "DescribeCollection"):
            metadata = fake.metadata(method)
            assert metadata["authorization"] == "bWU6c2VjcmV0"
            assert method == "Connect" or metadata["dbname"] == "things"
        assert fake.metadata("Search")["identifier"] == "77"
        assert "secret" not in repr(client) + repr(vars(client._backend.connection.channel))


def test_disconnected_it_connects_again(ours):
    config = config_of()
    ours.insert_entities(config, documents(2), embeddings(2))
    ours.disconnect()
    ours.disconnect()
    assert len(ours.search_by_vector(config, vectors(1))[0]) == 2
    run(lambda: ours.close_async())
    assert len(ours.search_by_vector(config, vectors(1))[0]) == 2


def test_cancelled(fake):
    config = config_of("c", pk_field="id", dense_field="vector")

    async def never(request):
        await asyncio.sleep(30)

    async def main():
        async with AsyncMilvus(fake.uri) as client:
            await client.search_by_vector_async(config, [[9.0] * 4])
            fake.on("Search", never)
            task = asyncio.ensure_future(client.search_by_vector_async(config, [[9.0] * 4]))
            assert await until(lambda: fake.calls["Search"] == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            fake.on("Search", search_reply)
            await client.search_by_vector_async(config, [[9.0] * 4])

    run(main)


# ---- imports ----


def test_neither_pymilvus_nor_arshai_until_they_are_needed():
    code = (
        "import sys, arshai_native.vector_db as v; v.AsyncMilvus(); "
        "others = 'pymilvus', 'grpc', 'arshai', 'pydantic', 'numpy'; "
        "print([m for m in others if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_without_pymilvus():
    code = (
        "import sys; sys.modules['pymilvus'] = None\n"
        "from arshai_native.vector_db import AsyncMilvus\n"
        "try: AsyncMilvus().connect()\n"
        "except ImportError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "AsyncMilvus needs pymilvus: pip install" in done.stdout
