"""Pipelines and transactions when something breaks, and optimistic locking."""

import asyncio

import pytest
import redis.exceptions as errors
from faultkit import run, until, value_of
from faultproxy import cut, drop_after, drop_before, hold, inject, stall
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from test_redis_faults import check_in_step

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")


def of_twenty(pipe):
    for i in range(20):
        pipe.get(f"k{i}")
    return pipe


TWENTY = [value_of(f"k{i}") for i in range(20)]


async def fill(client):
    await client.mset({f"k{i}": value_of(f"k{i}") for i in range(20)})


@pytest.mark.parametrize("where", [b"k0", b"k10", b"k19"])
@pytest.mark.parametrize("after", [0, 3])
def test_cut_in_a_pipeline(proxy, connect, kind, where, after):
    async def main():
        async with connect(proxy) as client:
            await fill(client)
            proxy.on("GET", cut(after), key=where)
            pipe = of_twenty(client.pipeline(transaction=False))
            with pytest.raises(errors.ConnectionError):
                await pipe.execute()
            # the pipeline is empty again, and usable
            assert await pipe.execute() == []
            assert await of_twenty(pipe).execute() == TWENTY
            await check_in_step(client)

    run(main, kind)


@pytest.mark.parametrize("name, key", [("MULTI", None), ("GET", b"k10"), ("EXEC", None)])
@pytest.mark.parametrize("fault", [cut, drop_before, drop_after])
def test_cut_in_a_transaction(proxy, connect, name, key, fault):
    async def main():
        async with connect(proxy) as client:
            await fill(client)
            proxy.on(name, fault(2) if fault is cut else fault(), key=key)
            pipe = of_twenty(client.pipeline())
            with pytest.raises(errors.ConnectionError):
                await pipe.execute()
            assert await of_twenty(pipe).execute() == TWENTY
            await check_in_step(client)

    run(main)


def test_all_or_nothing(proxy, connect):
    """A transaction cut before EXEC has changed nothing."""

    async def main():
        async with connect(proxy) as client:
            proxy.on("EXEC", drop_before())
            pipe = client.pipeline()
            with pytest.raises(errors.ConnectionError):
                await pipe.set("a", "1").incr("b").execute()
            assert await client.mget("a", "b") == [None, None]
            assert await pipe.set("a", "1").incr("b").execute() == [True, 1]

    run(main)


def test_stalled_pipeline(proxy, connect, kind):
    async def main():
        async with connect(proxy, socket_timeout=0.4) as client:
            await fill(client)
            for transaction in (False, True):
                fault = proxy.on("GET", stall(), key=b"k10")
                with pytest.raises(errors.TimeoutError):
                    await of_twenty(client.pipeline(transaction=transaction)).execute()
                fault.release()
                await check_in_step(client)

    run(main, kind)


@pytest.mark.parametrize("transaction", [False, True])
def test_garbage_in_a_pipeline(proxy, connect, transaction):
    async def main():
        async with connect(proxy, socket_timeout=5) as client:
            await fill(client)
            proxy.on("GET", inject(b"@@@@\r\n"), key=b"k10")
            with pytest.raises((errors.InvalidResponse, errors.ConnectionError)):
                await of_twenty(client.pipeline(transaction=transaction)).execute()
            await check_in_step(client)

    run(main)


@pytest.mark.parametrize("transaction", [False, True])
def test_retried_as_a_whole(proxy, connect, transaction):
    options = {"retry": Retry(NoBackoff(), 3), "retry_on_error": [errors.ConnectionError]}

    async def main():
        async with connect(proxy, **options) as client:
            await fill(client)
            proxy.on("GET", cut(3), key=b"k10", times=2)
            pipe = of_twenty(client.pipeline(transaction=transaction))
            assert await pipe.execute() == TWENTY
            assert proxy.count("GET") >= 40

    run(main)


@pytest.mark.parametrize("transaction", [False, True])
def test_error_replies(server, connect, kind, transaction):
    async def main():
        async with connect(server) as client:
            await client.set("text", "x")
            pipe = client.pipeline(transaction=transaction)
            pipe.set("a", "1").lpush("text", "x").get("a")
            with pytest.raises(errors.ResponseError) as caught:
                await pipe.execute()
            assert str(caught.value).startswith(
                "Command # 2 (LPUSH text x) of pipeline caused error: "
            )
            assert "WRONGTYPE" in str(caught.value)
            pipe.set("a", "2").lpush("text", "x").get("a")
            replies = await pipe.execute(raise_on_error=False)
            assert replies[0] is True and replies[2] == b"2"
            assert type(replies[1]) is errors.ResponseError

    run(main, kind)


def test_discarded_by_the_server(server, connect):
    """A command the server refuses to queue: EXECABORT, raised as the refusal itself."""

    async def main():
        async with connect(server) as client:
            pipe = client.pipeline()
            pipe.set("a", "1")
            pipe.execute_command("NOSUCHCOMMAND", "x")
            with pytest.raises(errors.ResponseError) as caught:
                await pipe.execute()
            assert "Command # 2 (NOSUCHCOMMAND x) of pipeline caused error" in str(caught.value)
            assert isinstance(caught.value.__cause__, errors.ExecAbortError)
            assert await client.exists("a") == 0
            assert await pipe.set("a", "1").execute() == [True]

    run(main)


def test_watch_without_conflict(server, connect, kind):
    async def main():
        async with connect(server) as client:
            await client.set("n", "1")
            async with client.pipeline() as pipe:
                await pipe.watch("n")
                value = int(await pipe.get("n"))
                pipe.multi()
                pipe.set("n", value + 1).get("n")
                assert await pipe.execute() == [True, b"2"]

    run(main, kind)


def test_watch_conflict(server, connect, kind):
    async def main():
        async with connect(server) as client:
            await client.set("n", "1")
            async with client.pipeline() as pipe:
                await pipe.watch("n", "other")
                assert await pipe.get("n") == b"1"
                await client.set("n", "changed")
                pipe.multi()
                pipe.set("n", "2")
                with pytest.raises(errors.WatchError):
                    await pipe.execute()
                assert await client.get("n") == b"changed"
                # and the next attempt succeeds
                await pipe.watch("n")
                pipe.multi()
                assert await pipe.set("n", "2").execute() == [True]

    run(main, kind)


def test_transactions_that_compete(server, connect, kind):
    """20 tasks count to 100 by WATCH, GET, MULTI, SET: no increment is lost."""

    async def main():
        async with connect(server, max_connections=30) as client:
            await client.set("n", "0")

            async def add(pipe):
                value = int(await pipe.get("n"))
                pipe.multi()
                pipe.set("n", value + 1)

            async def worker():
                for _ in range(5):
                    assert await client.transaction(add, "n") == [True]

            await asyncio.gather(*(worker() for _ in range(20)))
            assert await client.get("n") == b"100"

    run(main, kind)


@pytest.mark.parametrize("stage", ["before GET", "in GET", "before EXEC", "in EXEC"])
def test_connection_lost_while_watching(proxy, connect, kind, stage):
    """The watch is gone with the connection, so that the transaction must not go through."""

    async def main():
        async with connect(proxy) as client:
            await client.set("n", "1")
            async with client.pipeline() as pipe:
                await pipe.watch("n")
                if stage.endswith("GET"):
                    proxy.on("GET", drop_before() if stage.startswith("before") else cut(2))
                    with pytest.raises(errors.WatchError):
                        await pipe.get("n")
                else:
                    assert await pipe.get("n") == b"1"
                    pipe.multi()
                    pipe.set("n", "2")
                    if stage.startswith("before"):
                        proxy.drop_all()
                        await asyncio.sleep(0.1)
                    else:
                        proxy.on("EXEC", drop_before())
                    with pytest.raises(errors.WatchError):
                        await pipe.execute()
                assert await client.get("n") == b"1"
                await pipe.watch("n")
                pipe.multi()
                assert await pipe.set("n", "3").execute() == [True]
            await check_in_step(client)

    run(main, kind)


def test_connection_lost_in_watch_itself(proxy, connect):
    async def main():
        async with connect(proxy) as client, client.pipeline() as pipe:
            proxy.on("WATCH", drop_before())
            with pytest.raises(errors.ConnectionError):
                await pipe.watch("n")
            await pipe.watch("n")
            pipe.multi()
            assert await pipe.set("n", "1").execute() == [True]

    run(main)


def test_transactions_are_one_unit(proxy, connect, server):
    """What other tasks send meanwhile does not get between MULTI and EXEC."""
    fault = proxy.on("GET", hold(), key=b"k3")

    async def main():
        async with connect(proxy) as client:
            await fill(client)
            first = asyncio.create_task(of_twenty(client.pipeline()).execute())
            await until(fault.reached.is_set)
            others = [asyncio.create_task(client.echo(f"{i}")) for i in range(50)]
            others += [
                asyncio.create_task(client.pipeline().echo(f"{i}").execute()) for i in range(5)
            ]
            await asyncio.sleep(0.1)
            fault.release()
            assert await first == TWENTY
            replies = await asyncio.gather(*others)
            assert replies == [b"%d" % i for i in range(50)] + [[b"%d" % i] for i in range(5)]

    run(main)


def test_connections_after_watches(server, connect):
    """A watching pipeline that is left gives its connection back, unwatched."""

    async def main():
        async with connect(server, client_name="w") as client:
            for _ in range(30):
                async with client.pipeline() as pipe:
                    await pipe.watch("n")
            assert len(server.clients("w")) <= 4
            await client.set("n", "changed")
            async with client.pipeline() as pipe:
                assert await pipe.get("n").execute() == [b"changed"]

    run(main)
