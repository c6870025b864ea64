"""What may happen to a Milvus client's connection and server, real ones where they can do it; and
that with all of it the exceptions are pymilvus's.
"""

import asyncio
import base64
import gc
import logging
import multiprocessing
import time
import weakref
from pathlib import Path

import grpc
import numpy as np
import pymilvus
import pytest
from faultkit import free_port, run, until
from grpc._cython import cygrpc
from milvusfake import FakeMilvus, Status, search_reply
from milvuskit import (
    IS_STANDALONE,
    SCALARS,
    VECTORS,
    clients,
    make,
    name_of,
    outcome,
    rows_of,
    same,
)
from pymilvus.grpc_gen import milvus_pb2

from arshai_native.milvus import AsyncMilvusClient, NativeChannel

pytest_plugins = ("faultfixtures", "httpfixtures", "milvusfixtures")
pytestmark = pytest.mark.usefixtures("bounded", "milvus_environment")

VECTOR = [[0.5, 0.25, 0.125, 1.0]]
SECRET = "root:very-secret-password"


@pytest.fixture
def fake():
    with FakeMilvus() as server:
        yield server


# ---- the server is not there, goes, comes back ----


def test_wrong_address():
    uri = f"http://127.0.0.1:{free_port()}"

    async def main():
        found = []
        for kind in (AsyncMilvusClient, pymilvus.AsyncMilvusClient):
            client = kind(uri, token=SECRET)
            found.append(await outcome(lambda client=client: client.search("c", data=VECTOR)))
            assert "very-secret" not in str(found[-1])
        same(*found)
        assert found[0][1][1] == 2 and "Fail connecting to server" in found[0][1][2]

    run(main)


def test_a_name_that_is_not_known():
    async def main():
        client = AsyncMilvusClient("http://no-such-host.invalid:19530", timeout=5)
        kind, (error, code, text) = await outcome(lambda: client.list_collections())
        assert (kind, error, code) == ("error", pymilvus.MilvusException, 2)
        assert "no-such-host.invalid" in text

    run(main)


def test_restarted(own_lite):
    """Searches fail while it is away, as pymilvus's do, and work again afterwards."""
    lite = own_lite

    async def main():
        async with clients(lite) as (ours, theirs):
            name = name_of()
            await make(ours, name, {}, rows=rows_of(10, {}))
            query = rows_of(1, {})[0]["float_vector"]
            before = await ours.search(name, data=[query], limit=3)
            await theirs.search(name, data=[query], limit=3)
            lite.kill()
            found = [
                await outcome(lambda client=client: client.search(name, data=[query], limit=3))
                for client in (ours, theirs)
            ]
            assert found[0][0] == found[1][0] == "error"
            assert found[0][1][0] is found[1][1][0] is pymilvus.MilvusException
            assert found[0][1][1] == found[1][1][1] == 2
            lite.start()
            await ours.load_collection(name)
            same(await ours.search(name, data=[query], limit=3), before)
            await ours.insert(name, rows_of(1, {}, first=500))
            assert await ours.get(name, 500, output_fields=["id"]) == [{"id": 500}]

    run(main)


def test_killed_under_way(fake):
    """A hundred searches fail over one connection, which is replaced once, not a hundred times."""

    async def main():
        async with AsyncMilvusClient(fake.uri, gather=False) as client:

            async def hang(_):
                await asyncio.sleep(100)

            fake.on("Search", hang)
            tasks = [
                asyncio.ensure_future(client.search("c", data=[[float(n)] * 4])) for n in range(100)
            ]
            assert await until(lambda: fake.calls["Search"] == 100)
            port = fake.port
            fake.close()
            again = FakeMilvus(port=port)
            try:
                results = await asyncio.gather(*tasks, return_exceptions=True)
                good = [result for result in results if not isinstance(result, Exception)]
                errors = {type(each) for each in results if isinstance(each, Exception)}
                assert errors <= {pymilvus.MilvusException}
                if good:
                    assert again.calls["Connect"] <= 3
                assert len(await client.search("c", data=VECTOR)) == 1
            finally:
                again.close()

    run(main)


def test_a_server_that_does_not_answer(own_lite):
    """A timeout ends what waits for it, in pymilvus's words; afterwards everything works."""
    lite = own_lite

    async def main():
        async with clients(lite) as (ours, theirs):
            name = name_of()
            await make(ours, name, {}, rows=rows_of(10, {}))
            query = [rows_of(1, {})[0]["float_vector"]]
            await theirs.list_collections()
            lite.freeze()
            try:
                for call in (
                    lambda client: client.search(name, data=query, timeout=0.3),
                    lambda client: client.query(name, "id > 1", timeout=0.3),
                    lambda client: client.get(name, [1], timeout=0.3),
                    lambda client: client.insert(name, rows_of(1, {}, first=90), timeout=0.3),
                    lambda client: client.list_collections(timeout=0.3),
                ):
                    started = time.monotonic()
                    mine = await outcome(lambda call=call: call(ours))
                    assert time.monotonic() - started < 5
                    same(mine, await outcome(lambda call=call: call(theirs)))
                    assert "Retry timeout: 0.3s" in mine[1][2]
                kind, (error, code, _) = await outcome(
                    lambda: ours.delete(name, ids=[1], timeout=0.3)
                )
                assert (error, code) == (grpc.aio.AioRpcError, grpc.StatusCode.DEADLINE_EXCEEDED)
                assert kind == "error"
            finally:
                lite.thaw()
            assert len(await ours.search(name, data=query, limit=2)) == 1

    run(main)


# ---- cancellation ----


def test_cancelled_at_every_stage(fake):
    async def main():
        client = AsyncMilvusClient(fake.uri)
        for turns in range(12):
            for call in (
                lambda: client.search("c", data=VECTOR),
                lambda: client.insert("c", [{"id": 1, "vector": [1.0] * 4}]),
                lambda: client.delete("c", ids=[1]),
            ):
                task = asyncio.ensure_future(call())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if not task.cancel():  # the server was quicker
                    await task
                    continue
                with pytest.raises(asyncio.CancelledError):
                    await task
        assert len(await client.search("c", data=VECTOR)) == 1
        assert (await client.insert("c", {"id": 1, "vector": [1.0] * 4}))["insert_count"] == 1
        await client.close()

    run(main)


def test_cancelled_while_the_first_one_connects(fake):
    async def connect(_):
        await asyncio.sleep(0.3)
        return milvus_pb2.ConnectResponse(identifier=1)

    fake.on("Connect", connect)

    async def main():
        client = AsyncMilvusClient(fake.uri)
        first = asyncio.ensure_future(client.search("c", data=VECTOR))
        others = [asyncio.ensure_future(client.search("c", data=VECTOR)) for _ in range(20)]
        await asyncio.sleep(0.05)
        first.cancel()
        others[3].cancel()
        results = await asyncio.gather(first, *others, return_exceptions=True)
        cancelled = [isinstance(each, asyncio.CancelledError) for each in results]
        assert cancelled == [True] + [n == 3 for n in range(20)]
        await client.close()

    run(main)


# ---- many, and much ----


@pytest.mark.parametrize("gather", [True, False])
def test_1000_searches_at_once(lite, gather):
    rows = rows_of(300, {}, seed=21)

    async def main():
        async with clients(lite, gather=gather) as (ours, _):
            name = name_of()
            await make(ours, name, {}, rows=rows)
            found = await asyncio.gather(
                *(
                    ours.search(
                        name, data=[rows[n % 300]["float_vector"]], limit=1,
                        consistency_level="Strong",
                    )
                    for n in range(1000)
                )
            )  # fmt: skip
            assert [each[0][0]["id"] for each in found] == [n % 300 for n in range(1000)]

    run(main)


def test_large_requests_and_replies(fake):
    """64 MB in each direction."""
    text = "x" * (64 << 20)
    fake.on(
        "Query",
        lambda request: milvus_pb2.QueryResults(
            fields_data=[
                {
                    "type": 21,
                    "field_name": "t",
                    "scalars": {"string_data": {"data": [request.expr[6:-1]]}},
                }
            ]
        ),
    )

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            assert await client.query("c", f't == "{text}"') == [{"t": text}]

    run(main)


def test_a_reply_that_is_larger_than_allowed(fake):
    more = b"\xba\x3e\x80\x80\x08" + bytes(1 << 17)  # a field that nobody knows
    fake.on("Search", lambda request: search_reply(request).SerializeToString() + more)

    async def main():
        options = {"grpc_options": {cygrpc.ChannelArgKey.max_receive_message_length: 1 << 16}}
        async with clients(fake, **options) as (ours, theirs):
            found = [
                await outcome(lambda client=client: client.search("c", data=VECTOR))
                for client in (ours, theirs)
            ]
            assert found[0][1][:2] == found[1][1][:2]
            assert found[0][1][1] is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(main)


# ---- TLS ----


def credentials(certificates, pair=None, ask_client=False):
    cert, key = pair or certificates.good()
    return grpc.ssl_server_credentials(
        [(Path(key).read_bytes(), Path(cert).read_bytes())],
        Path(certificates.ca).read_bytes() if ask_client else None,
        ask_client,
    )


def test_tls_with_an_own_ca(certificates):
    with FakeMilvus(credentials(certificates)) as fake:

        async def main():
            for uri, options in (
                (f"https://localhost:{fake.port}", {}),
                (f"http://localhost:{fake.port}", {"secure": True}),
                (f"https://127.0.0.1:{fake.port}", {"server_name": "localhost"}),
            ):
                client = AsyncMilvusClient(
                    uri, server_pem_path=certificates.ca, token=SECRET, **options
                )
                assert len(await client.search("c", data=VECTOR)) == 1
                assert type(client._handler._async_channel) is NativeChannel
                expected = base64.b64encode(SECRET.encode()).decode()
                assert fake.metadata("Search")["authorization"] == expected
                await client.close()

        run(main)


def test_tls_with_a_client_certificate(certificates):
    cert, key = certificates.client()
    with FakeMilvus(credentials(certificates, ask_client=True)) as fake:

        async def main():
            client = AsyncMilvusClient(
                f"https://localhost:{fake.port}", client_pem_path=cert, client_key_path=key,
                ca_pem_path=certificates.ca,
            )  # fmt: skip
            assert len(await client.search("c", data=VECTOR)) == 1
            await client.close()
            client = AsyncMilvusClient(
                f"https://localhost:{fake.port}", server_pem_path=certificates.ca, timeout=5
            )
            kind, (error, code, _) = await outcome(lambda: client.search("c", data=VECTOR))
            assert (kind, error, code) == ("error", pymilvus.MilvusException, 2)

        run(main)


@pytest.mark.parametrize("name", ["expired", "wrong_host", "self_signed"])
def test_tls_with_a_wrong_certificate(certificates, name, caplog):
    with FakeMilvus(credentials(certificates, getattr(certificates, name)())) as fake:

        async def main():
            found = []
            for kind in (AsyncMilvusClient, pymilvus.AsyncMilvusClient):
                client = kind(
                    f"https://localhost:{fake.port}", server_pem_path=certificates.ca,
                    token=SECRET, timeout=5,
                )  # fmt: skip
                found.append(await outcome(lambda client=client: client.search("c", data=VECTOR)))
                await client.close()
            assert found[0][1] == found[1][1]
            assert found[0][0] == "error" and found[0][1][1] == 2
            assert fake.calls["Connect"] == 0

        with caplog.at_level(logging.DEBUG):
            run(main)
        assert "very-secret" not in caplog.text


def test_wrong_token(fake, caplog):
    def refuse(_):
        raise Status(grpc.StatusCode.UNAUTHENTICATED, "auth check failure")

    fake.on("Connect", refuse)

    async def main():
        found = []
        for kind in (AsyncMilvusClient, pymilvus.AsyncMilvusClient):
            client = kind(fake.uri, token=SECRET)
            found.append(await outcome(lambda client=client: client.search("c", data=VECTOR)))
        same(*found)
        for word in ("very-secret", base64.b64encode(SECRET.encode()).decode()):
            assert word not in str(found) + caplog.text + repr(client)

    with caplog.at_level(logging.DEBUG):
        run(main)


# ---- what is left behind ----


def test_a_client_that_is_not_closed_is_collected(fake):
    async def main():
        client = AsyncMilvusClient(fake.uri)
        await asyncio.gather(*(client.search("c", data=VECTOR) for _ in range(30)))
        await client.insert("c", [{"id": 1, "vector": [1.0] * 4}])
        return weakref.ref(client)

    reference = run(main)
    gc.collect()
    assert reference() is None


@pytest.mark.skipif(IS_STANDALONE, reason="Milvus 2.3.5 gives float16 searches any result, or none")
def test_vectors_of_bytes_after_the_schema_has_changed(lite):
    """What bytes are says the schema: float16 in one collection, bfloat16 in its successor."""

    async def main():
        async with clients(lite) as (ours, theirs):
            name = name_of()
            for field, kind in (("float16_vector", np.float16), ("bfloat16_vector", None)):
                made = await outcome(lambda field=field: make(ours, name, {}, (field,)))
                assert made[0] == "result", made
                rows = rows_of(10, {}, (field,))
                await ours.insert(name, rows)
                query = rows[3][field]
                data = [query.tobytes() if kind is not None else query]
                how = {"anns_field": field, "limit": 2, "consistency_level": "Strong"}
                found = await ours.search(name, data=data, **how)
                assert found[0][0]["id"] == 3
                same(found, await theirs.search(name, data=data, **how))
                await ours.drop_collection(name)

    assert {"float16_vector", "bfloat16_vector"} <= set(VECTORS)
    run(main)


def test_dropped_and_made_again_with_another_schema(lite):
    """By another client: this one's cached schema is not what the collection is any more."""

    async def main():
        async with clients(lite) as (ours, theirs):
            name = name_of()
            await make(ours, name, {}, rows=rows_of(5, {}))
            await theirs.drop_collection(name)
            fields = {"varchar": SCALARS["varchar"]}
            other = AsyncMilvusClient(lite.uri)
            await make(other, name, fields)
            await other.close()
            rows = rows_of(5, fields)
            assert (await ours.insert(name, rows))["insert_count"] == 5
            found = await ours.query(
                name, "id >= 0", output_fields=["*"], consistency_level="Strong"
            )
            found.sort(key=lambda row: row["id"])
            assert [row["varchar"] for row in found] == [row["varchar"] for row in rows]

    run(main)


def test_fork(lite):
    """A child has connections of its own; the parent's go on."""
    context = multiprocessing.get_context("fork")

    async def main():
        client = AsyncMilvusClient(lite.uri)
        before = sorted(await client.list_collections())
        queue = context.Queue()
        process = context.Process(target=_in_child, args=(lite.uri, queue))
        process.start()
        try:
            assert await asyncio.to_thread(queue.get, True, 30) == before
        finally:
            process.join(10)
            if process.is_alive():
                process.kill()
        assert sorted(await client.list_collections()) == before
        await client.close()

    run(main)


def _in_child(uri, queue):
    async def main():
        client = AsyncMilvusClient(uri)
        queue.put(sorted(await client.list_collections()))
        await client.close()

    asyncio.run(main())
