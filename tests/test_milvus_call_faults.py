"""Searches that C makes, and errors, cancellation, threads, processes; what they leave."""

import asyncio
import gc
import logging
import multiprocessing
import sys
import threading
import warnings
import weakref
from collections import Counter
from functools import partial

import grpc
import numpy as np
import pymilvus
import pytest
from faultkit import free_port, run, until
from milvuscallkit import OTHER, VECTOR, gathers, id_of, known, vector
from milvusfake import SEARCH_ERRORS, FakeMilvus, Status, search_reply
from milvuskit import clients, make, name_of, outcome, rows_of, same
from pymilvus import DataType
from pymilvus.client.call_context import CallContext
from pymilvus.client.search_result import SearchResult
from pymilvus.grpc_gen import milvus_pb2

from arshai_native import _core
from arshai_native.milvus import AsyncMilvusClient, _search

pytest_plugins = ("faultfixtures", "milvusfixtures", "milvuscallfixtures")
pytestmark = pytest.mark.usefixtures("bounded", "milvus_environment")

# ---- errors ----


@gathers
@pytest.mark.parametrize("error", SEARCH_ERRORS.values(), ids=SEARCH_ERRORS)
def test_errors(fake, ways, error, gather):
    def answer(request):
        if isinstance(error, Status):
            raise error
        return error(request)

    async def main():
        async with clients(fake, gather=gather) as (ours, theirs):
            await known(ours, ways)
            await theirs.search("c", data=VECTOR)
            fake.on("Search", answer)
            before = fake.calls["Search"]
            mine = await outcome(partial(ours.search, "c", data=VECTOR))
            assert ways == ["C"] and fake.calls["Search"] == before + 1
            expected = await outcome(partial(theirs.search, "c", data=VECTOR))
            if "rror parsing" in str(mine[1]):  # which grpc only logs
                assert mine[1][:2] == expected[1][:2]
            else:
                same(mine, expected)
            fake.on("Search", search_reply)
            assert len(await ours.search("c", data=VECTOR)) == 1
            assert ways == ["C", "C"]

    run(main)


def doubtful(request):
    """pymilvus's versions differ in what they make of a column that is too short."""
    reply = search_reply(request)
    column = reply.results.fields_data.add(field_name="a", type=DataType.INT64.value)
    column.scalars.long_data.data.extend([])
    return reply


def twice(request):
    reply = search_reply(request)
    for _ in range(2):
        column = reply.results.fields_data.add(field_name="a", type=DataType.INT64.value)
        column.scalars.long_data.data.extend([1] * len(reply.results.topks))
    return reply


@gathers
@pytest.mark.parametrize("answer", [doubtful, twice])
def test_a_reply_in_doubt_is_pymilvuss_to_read(fake, ways, answer, gather):
    fake.on("Search", answer)

    async def main():
        async with clients(fake, gather=gather) as (ours, theirs):
            made = [
                await outcome(partial(client.search, "c", data=VECTOR, round_decimal=3))
                for client in (theirs, ours, ours)
            ]
            same(made[1], made[0])
            same(made[2], made[0])

    run(main)
    assert ways == ["long", "C"]


@gathers
def test_what_is_tried_again(fake, ways, gather):
    left = [0]
    failures = {
        "rate limit": lambda: milvus_pb2.SearchResults(status={"code": 8, "reason": "slow"}),
        "internal": Status(grpc.StatusCode.INTERNAL, "oh"),
    }

    async def main(failure):
        def answer(request):
            if left[0]:
                left[0] -= 1
                if isinstance(failure, Status):
                    raise failure
                return failure()
            return search_reply(request)

        async with AsyncMilvusClient(fake.uri, gather=gather) as client:
            await known(client, ways)
            fake.on("Search", answer)
            left[0] = 2
            before = fake.calls["Search"]
            assert len(await client.search("c", data=VECTOR, timeout=30)) == 1
            assert fake.calls["Search"] == before + 3
            assert ways == ["C"]

    for failure in failures.values():
        run(lambda failure=failure: main(failure))


@gathers
def test_the_server_goes_and_comes_back(ways, gather):
    port = free_port()

    async def main():
        with FakeMilvus(port=port) as server:
            async with clients(server, gather=gather) as (ours, theirs):
                await known(ours, ways)
                await theirs.search("c", data=VECTOR)
                await asyncio.to_thread(server.close)
                mine = await outcome(partial(ours.search, "c", data=VECTOR, timeout=0.5))
                expected = await outcome(partial(theirs.search, "c", data=VECTOR, timeout=0.5))
                assert ways == ["C"]
                same(mine, expected)
                with FakeMilvus(port=port) as again:
                    assert id_of(await ours.search("c", data=[vector(9)], timeout=30)) == 9
                    ways.clear()
                    for number in range(3):
                        assert id_of(await ours.search("c", data=[vector(number)])) == number
                    assert ways[-1] == "C" and again.calls["Search"] >= 4

    run(main)


@gathers
def test_deadline(fake, ways, gather):
    async def slow(request):
        await asyncio.sleep(1.5)
        return search_reply(request)

    async def main():
        async with clients(fake, gather=gather) as (ours, theirs):
            await known(ours, ways)
            await theirs.search("c", data=VECTOR)
            fake.on("Search", slow)
            mine = await outcome(partial(ours.search, "c", data=VECTOR, timeout=0.2))
            expected = await outcome(partial(theirs.search, "c", data=VECTOR, timeout=0.2))
            assert ways == ["C"]
            same(mine, expected)

    run(main)


@gathers
def test_cancelled(fake, ways, gather):
    async def slow(request):
        await asyncio.sleep(0.2)
        return search_reply(request)

    async def main():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            async with AsyncMilvusClient(fake.uri, gather=gather) as client:
                await known(client, ways)
                before = fake.calls["Search"]
                task = asyncio.ensure_future(client.search("c", data=VECTOR))
                task.cancel()  # before its first step
                with pytest.raises(asyncio.CancelledError):
                    await task
                never = client.search("c", data=VECTOR)
                never.close()
                await asyncio.sleep(0.05)
                assert fake.calls["Search"] == before and ways == []
                fake.on("Search", slow)
                for turns in range(8):
                    task = asyncio.ensure_future(client.search("c", data=VECTOR))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                task = asyncio.ensure_future(client.search("c", data=VECTOR))
                seen = fake.calls["Search"]
                assert await until(lambda: fake.calls["Search"] > seen)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                task = asyncio.ensure_future(client.search("c", data=[vector(8)]))
                assert id_of(await task) == 8
                assert not task.cancel()
                assert "long" not in ways
            gc.collect()

    run(main)


# ---- loops, threads, processes ----


@gathers
def test_two_event_loops_share_a_client(fake, ways, gather):
    client = AsyncMilvusClient(fake.uri, db_name="first", gather=gather)
    run(lambda: known(client, ways))
    failed = []

    async def searches(first):
        for start in range(first, first + 400, 20):
            found = await asyncio.gather(
                *(client.search("c", data=[vector(n)]) for n in range(start, start + 20))
            )
            assert list(map(id_of, found)) == list(range(start, start + 20))
            client._config.db_name = "first" if start % 40 else "second"

    def work(first):
        try:
            asyncio.run(searches(first))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert "C" in ways
    asyncio.run(client.close())


def test_it_is_closed_by_another_thread_meanwhile(fake, ways):
    """Whatever comes of the searches, nothing else is raised than by searches of a closed one."""
    raised = set()

    async def main():
        for _ in range(20):
            client = AsyncMilvusClient(fake.uri, dedicated=True, gather=False)
            await known(client, ways)
            begun = threading.Event()

            def close(client=client, begun=begun):
                begun.wait()
                asyncio.run(client.close())

            thread = threading.Thread(target=close)
            thread.start()
            for number in range(200):
                what, found = await outcome(partial(client.search, "c", data=VECTOR))
                if number == 3:
                    begun.set()
                if what == "error":
                    raised.add(found[0])
                    break
            await asyncio.to_thread(thread.join)

    run(main)
    assert raised and AttributeError not in raised


@gathers
@pytest.mark.parametrize("how", ["closed", "replaced"])
def test_another_thread_is_quicker(fake, ways, monkeypatch, how, gather):
    """The client is closed, or its channel is another one, once C has made the request."""
    begin = _search._sdk.begin

    async def main():
        async with AsyncMilvusClient(fake.uri, dedicated=True, gather=gather) as client:
            await known(client, ways)
            handler = client._handler
            channel = handler._async_channel

            def slow_begin(*args):
                if how == "closed":
                    client._closed, client._handler = True, None
                else:
                    handler._async_channel = grpc.aio.insecure_channel(fake.uri[len("http://") :])
                return begin(*args)

            monkeypatch.setattr(_search._sdk, "begin", slow_begin)
            before = fake.calls["Search"]
            what, found = await outcome(partial(client.search, "c", data=VECTOR))
            assert ways == ["C"]
            if how == "closed":
                assert found == (pymilvus.MilvusException, 1, "should create connection first")
                assert fake.calls["Search"] == before
            else:
                assert what == "result" and fake.calls["Search"] == before + 1
                await handler._async_channel.close()
            handler._async_channel = channel
            client._closed, client._handler = False, handler

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main)
        gc.collect()


def test_fork(lite, ways):
    context = multiprocessing.get_context("fork")
    rows = rows_of(10, {})

    async def main():
        client = AsyncMilvusClient(lite.uri, gather=False)
        name = name_of()
        await make(client, name, {}, rows=rows)
        query = [rows[4]["float_vector"]]
        for _ in range(2):
            found = await client.search(name, data=query, limit=3)
        assert ways == ["long", "C"]
        queue = context.Queue()
        process = context.Process(target=_in_child, args=(client, ways, name, query, queue))
        process.start()
        try:
            in_child, gone = await asyncio.to_thread(queue.get, True, 30)
        finally:
            process.join(10)
            if process.is_alive():
                process.kill()
        assert in_child == [hit["id"] for hit in found[0]] and gone == ["C", "C"]
        same(await client.search(name, data=query, limit=3), found)
        assert ways == ["long", "C", "C"]
        await client.drop_collection(name)
        await client.close()

    run(main)


def _in_child(client, ways, name, query, queue):
    async def main():
        ways.clear()
        for _ in range(2):
            found = await client.search(name, data=query, limit=3)
        queue.put(([hit["id"] for hit in found[0]], ways))

    asyncio.run(main())


# ---- what is left behind ----


@gathers
def test_a_client_that_is_not_closed_is_collected(fake, ways, gather):
    async def main():
        client = AsyncMilvusClient(fake.uri, dedicated=True, gather=gather)
        await known(client, ways)
        await asyncio.gather(*(client.search("c", data=VECTOR) for _ in range(30)))
        kept = (client, client._plans, *client._plans.values())
        return [weakref.ref(each) for each in kept if hasattr(type(each), "__weakref__")]

    references = run(main)
    gc.collect()
    assert references and not any(each() for each in references)


@gathers
def test_nothing_is_leaked(fake, ways, gather):
    """Neither by what succeeds nor by what does not, nor by what goes the long way."""

    def broken(request):
        raise Status(grpc.StatusCode.PERMISSION_DENIED, "not you")

    async def main():
        async with AsyncMilvusClient(fake.uri, gather=gather) as client:
            await known(client, ways)
            await known(client, ways, consistency_level="Strong")
            channel = client._handler._async_channel

            async def work():
                for _ in range(50):
                    await client.search("c", data=VECTOR)
                    await client.search("c", data=VECTOR + OTHER, consistency_level="Strong")
                    await client.search("c", data=np.array(VECTOR), timeout=30)
                    await outcome(partial(client.search, "c", data=[["x"]]))
                    await outcome(partial(client.search, "c", data=VECTOR, timeout=-1))
                    task = asyncio.ensure_future(client.search("c", data=VECTOR))
                    await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                await asyncio.gather(*(client.search("c", data=VECTOR) for _ in range(50)))
                fake.on("Search", broken)
                for _ in range(20):
                    await outcome(partial(client.search, "c", data=VECTOR))
                fake.on("Search", doubtful)
                for _ in range(20):
                    await outcome(partial(client.search, "c", data=VECTOR))
                fake.on("Search", search_reply)
                client._config.db_name = "other"
                await client.search("c", data=VECTOR)
                await client.search("c", data=VECTOR)
                client._config.db_name = ""
                await client.search("c", data=VECTOR)
                await client.search("c", data=VECTOR)
                fake.requests.clear()
                gc.collect()

            def counts():
                held = [
                    client, client._caller, client._handler, channel, channel._core, _core,
                    _search._wire.replies, *client._plans.values(),
                    VECTOR, VECTOR[0], *VECTOR[0], SearchResult, CallContext,
                ]  # fmt: skip
                # Of the server, which is in this process, nothing is counted.
                ours = ("arshai_native", "pymilvus", "builtins.coroutine")
                alive = Counter(
                    f"{type(each).__module__}.{type(each).__name__}" for each in gc.get_objects()
                )
                kinds = {kind: n for kind, n in alive.items() if kind.startswith(ours)}
                return [sys.getrefcount(each) for each in held], kinds

            await work()
            await work()
            before = counts()
            await work()
            after = counts()
            assert after[0] == before[0]
            grown = {kind: n - before[1].get(kind, 0) for kind, n in after[1].items()}
            assert not {kind: n for kind, n in grown.items() if n > 5}  # the server's among them

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main)


@pytest.fixture
def no_log():
    """A test's log is kept, each record with None in it; grpc's server may write one a call."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_nothing_is_leaked_by_replies_in_doubt(fake, ways, no_log):
    async def main():
        async with AsyncMilvusClient(fake.uri, gather=False) as client:
            await known(client, ways)
            fake.on("Search", twice)

            async def refer_to_none():
                for _ in range(400):
                    await client.search("c", data=VECTOR)
                fake.requests.clear()
                gc.collect()
                return sys.getrefcount(None)

            before = await refer_to_none()
            assert await refer_to_none() - before < 200

    run(main)
    assert set(ways) == {"C"}
