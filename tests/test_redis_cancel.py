"""Cancelling at every stage: nobody's reply is lost, and nobody gets another's."""

import asyncio
import random

import pytest
import redis.exceptions as errors
from faultkit import PEER, run, until, value_of
from faultproxy import drop_before, hold, split, stall
from test_redis_faults import check_in_step

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")


async def cancelled(task):
    """Cancel the task and see that this, and nothing else, is how it ends."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


def test_before_the_first_await(proxy, connect, kind):
    """A task cancelled before it ran sends nothing."""

    async def main():
        async with connect(proxy) as client:
            await client.ping()
            task = asyncio.create_task(client.set("k", "v"))
            await cancelled(task)
            await check_in_step(client)
            assert proxy.count("SET") == 20
            assert await client.exists("k") == 0

    run(main, kind)


def test_while_connecting(proxy, connect, kind):
    """The connection is being set up and does not get on."""
    fault = proxy.on("SELECT", hold(), times=None)

    async def main():
        async with connect(proxy, db=2) as client:
            tasks = [asyncio.create_task(client.set(f"k{i}", "v")) for i in range(10)]
            kept = asyncio.create_task(client.set("kept", "v"))
            await until(fault.reached.is_set)
            for task in tasks:
                await cancelled(task)
            proxy.clear()
            assert await kept
            await check_in_step(client)
            assert await client.exists(*(f"k{i}" for i in range(10))) == 0

    run(main, kind)


def test_while_nothing_accepts(proxy, connect):
    proxy.silence()

    async def main():
        async with connect(proxy, db=2) as client:
            task = asyncio.create_task(client.set("k", "v"))
            await asyncio.sleep(0.2)
            await cancelled(task)
            proxy.silence(False)
            proxy.drop_all()
            await asyncio.sleep(0.1)  # until the client has seen it
            await check_in_step(client)

    run(main)


def test_sent(proxy, connect, kind):
    """The server has executed it, the reply is on its way: it is thrown away."""

    async def main():
        async with connect(proxy) as client:
            await client.mset({"a": "A", "b": "B"})
            fault = proxy.on("GET", stall(), key=b"a")
            task = asyncio.create_task(client.get("a"))
            await until(fault.reached.is_set)
            await cancelled(task)
            others = [asyncio.create_task(client.get("b")) for _ in range(5)]
            await asyncio.sleep(0.05)
            fault.release()
            assert await asyncio.gather(*others) == [b"B"] * 5
            await check_in_step(client)

    run(main, kind)


@pytest.mark.parametrize("after", [0, 1, 5, 6, 2000, 4006, 4007, 4008])
def test_while_the_reply_arrives(proxy, connect, kind, after):
    """A part of the reply has been read: the rest of it is nobody's reply either."""

    async def main():
        async with connect(proxy) as client:
            await client.set("a", value_of("a", 4000))
            await client.set("b", "B")
            fault = proxy.on("GET", split(after), key=b"a")
            task = asyncio.create_task(client.get("a"))
            await until(fault.reached.is_set)
            await asyncio.sleep(0.02)
            await cancelled(task)
            other = asyncio.create_task(client.get("b"))
            await asyncio.sleep(0.02)
            fault.release()
            assert await other == b"B"
            assert await client.get("a") == value_of("a", 4000)
            await check_in_step(client)

    run(main, kind)


def test_while_a_large_array_arrives(proxy, connect):
    async def main():
        async with connect(proxy) as client:
            await client.rpush("l", *(value_of(f"{i}") for i in range(1000)))
            for after in (4, 5000, 1_000_000):
                fault = proxy.on("LRANGE", split(after))
                task = asyncio.create_task(client.lrange("l", 0, -1))
                await until(fault.reached.is_set)
                await cancelled(task)
                fault.release()
                await check_in_step(client)
            assert await client.lrange("l", 0, -1) == [value_of(f"{i}") for i in range(1000)]

    run(main)


def test_while_a_large_value_is_sent(proxy, connect):
    """Half the request is with the kernel: either all of it is sent or the connection goes."""

    async def main():
        async with connect(proxy) as client:
            await client.set("small", "1")
            proxy.pause_reading()
            task = asyncio.create_task(client.set("big", value_of("big", 32 << 20)))
            await asyncio.sleep(0.2)
            await cancelled(task)
            proxy.resume_reading()
            assert await client.get("small") == b"1"
            await check_in_step(client)
            assert await client.get("big") in (None, value_of("big", 32 << 20))

    run(main)


def test_after_the_reply(server, connect):
    """Cancelling what is done changes nothing."""

    async def main():
        async with connect(server) as client:
            task = asyncio.create_task(client.set("k", "v"))
            await task
            assert not task.cancel()
            assert await client.get("k") == b"v"

    run(main)


def test_blocking_command(server, connect, kind):
    """A cancelled BLPOP takes nothing from the list, now or later."""

    async def main():
        async with connect(server, client_name="pops") as client:
            for _ in range(5):
                task = asyncio.create_task(client.blpop("l", 0))
                await until(lambda: [c for c in server.clients("pops") if c["flags"] == "b"])
                await cancelled(task)
                assert await until(
                    lambda: not [c for c in server.clients("pops") if c["flags"] == "b"]
                )
            await client.rpush("l", "x")
            assert await client.llen("l") == 1
            assert await client.blpop("l", 1) == (b"l", b"x")

    run(main, kind)


def test_waiting_for_a_connection(proxy, connect):
    """Cancelled in the queue for a dedicated connection, which then goes to the next."""
    if PEER:
        pytest.skip("redis-py's pool raises instead of queueing")

    async def main():
        async with connect(proxy, max_connections=1) as client:
            first = asyncio.create_task(client.blpop("a", 0))
            await until(lambda: proxy.count("BLPOP") == 1)
            second = asyncio.create_task(client.blpop("b", 0))
            third = asyncio.create_task(client.blpop("c", 0))
            await asyncio.sleep(0.05)
            await cancelled(second)
            await client.rpush("c", "C")
            await client.rpush("b", "B")
            await client.rpush("a", "A")
            assert await first == (b"a", b"A")
            assert await third == (b"c", b"C")
            assert await client.llen("b") == 1

    run(main)


def test_pipelines(proxy, connect, kind):
    async def main():
        async with connect(proxy) as client:
            await client.mset({f"k{i}": value_of(f"k{i}") for i in range(50)})
            for transaction in (False, True):
                # in a transaction that is the reply QUEUED
                fault = proxy.on("GET", split(4), key=b"k25")
                async with client.pipeline(transaction=transaction) as pipe:
                    for i in range(50):
                        pipe.get(f"k{i}")
                    task = asyncio.create_task(pipe.execute())
                    await until(fault.reached.is_set)
                    await cancelled(task)
                    fault.release()
                await check_in_step(client)

    run(main, kind)


def test_watching(proxy, connect, server):
    """A pipeline cancelled while it watches gives its connection back clean."""

    async def main():
        async with connect(proxy) as client:
            await client.set("w", "1")
            async with client.pipeline() as pipe:
                await pipe.watch("w")
                fault = proxy.on("GET", stall(), key=b"w")
                task = asyncio.create_task(pipe.get("w"))
                await until(fault.reached.is_set)
                await cancelled(task)
                fault.release()
            for _ in range(3):
                async with client.pipeline() as pipe:
                    await pipe.watch("w")
                    assert await pipe.get("w") == b"1"
                    pipe.multi()
                    pipe.get("w")
                    assert await pipe.execute() == [b"1"]
            await check_in_step(client)

    run(main)


def test_wait_for_and_timeout(proxy, connect, kind):
    async def main():
        async with connect(proxy) as client:
            await client.set("a", "A")
            for way in ("wait_for", "timeout"):
                fault = proxy.on("GET", stall(), key=b"a")
                with pytest.raises(TimeoutError):
                    if way == "wait_for":
                        await asyncio.wait_for(client.get("a"), 0.2)
                    else:
                        async with asyncio.timeout(0.2):
                            await client.get("a")
                fault.release()
                assert await client.get("a") == b"A"
            assert await asyncio.wait_for(client.get("a"), 20) == b"A"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get("a"), 0)

    run(main, kind)


def test_task_group(proxy, connect, kind):
    """One fails, the group cancels the rest in flight."""

    async def main():
        async with connect(proxy) as client:
            await client.rpush("list", "x")
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    slow = group.create_task(client.blpop("never", 0))
                    wrong = group.create_task(client.incr("list"))
            assert slow.cancelled()
            assert [type(e) for e in caught.value.exceptions] == [errors.ResponseError]
            assert isinstance(wrong.exception(), errors.ResponseError)
            await check_in_step(client)

    run(main, kind)


def test_gather(server, connect, kind):
    async def main():
        async with connect(server) as client:
            await client.mset({f"k{i}": value_of(f"k{i}") for i in range(200)})
            gathered = asyncio.gather(*(client.get(f"k{i}") for i in range(200)))
            await asyncio.sleep(0)
            gathered.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gathered
            await check_in_step(client)

    run(main, kind)


def test_cancel_that_is_swallowed(proxy, connect):
    """A coroutine that catches the cancellation can go on with the client."""

    async def main():
        async with connect(proxy) as client:
            await client.mset({"a": "A", "b": "B"})
            fault = proxy.on("GET", stall(), key=b"a")

            async def stubborn():
                try:
                    await client.get("a")
                except asyncio.CancelledError:
                    fault.release()
                return await client.get("b")

            task = asyncio.create_task(stubborn())
            await until(fault.reached.is_set)
            task.cancel()
            assert await task == b"B"

    run(main)


def test_a_lost_connection_and_a_cancellation_at_once(proxy, connect):
    async def main():
        async with connect(proxy) as client:
            for _ in range(30):
                proxy.on("GET", drop_before(), key=b"a")
                tasks = [asyncio.create_task(client.get("a")) for _ in range(3)]
                await asyncio.sleep(random.random() * 0.004)
                for task in tasks:
                    task.cancel()
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    assert result is None or isinstance(
                        result, (asyncio.CancelledError, errors.ConnectionError)
                    )
                proxy.clear()
            await check_in_step(client)

    run(main)
