"""Cancelling at every stage: nobody's reply is lost, and nobody gets another's."""

import asyncio
import random

import pytest
import redis.exceptions as errors
from faultkit import EXPRESS, ONE, PEER, run, stats_of, until, value_of
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


def test_while_a_large_value_is_sent(own_server, connect):
    """Half the request is with the kernel: either all of it is sent or the connection goes."""
    server = own_server()

    async def main():
        async with connect(server) as client:
            before, value = value_of("before", 100_000), value_of("big", 32 << 20)
            await asyncio.gather(client.set("small", "1"), client.set("big", before))
            server.freeze()
            task = asyncio.create_task(client.set("big", value))
            await asyncio.sleep(0.2)
            await cancelled(task)
            server.thaw()
            assert await client.get("small") == b"1"
            await check_in_step(client)
            assert await client.get("big") in (before, value)

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


# ---- a large write that was given up ----

MB = 1 << 20
# So much no socket takes at once: a frozen server has only a part of it.
PARTLY = 30 * MB

# Writes of a large value, given away for the key "k" or beside it.
WRITES = {
    "set": lambda client, value: client.set("k", value),
    "mset": lambda client, value: client.mset({"big": value, "k": "old"}),
    "mset, large last": lambda client, value: client.mset({"k": "old", "big": value}),
    "pipeline": lambda client, value: (
        client.pipeline(transaction=False).set("big", value).set("k", "old").execute()
    ),
    "transaction": lambda client, value: (
        client.pipeline().set("big", value).set("k", "old").execute()
    ),
    "eval": lambda client, value: client.eval(
        "return redis.call('SET', KEYS[2], 'old')", 2, "big", "k", value.decode()
    ),
}


async def given_up(server, client, write, size):
    """Gives a write up that a frozen server has in part or not yet read, and writes anew at once.

    Returns whether it must not take effect behind that: for a second, newer commands are held back
    by what the kernel has all of.
    """
    loop = asyncio.get_running_loop()
    await client.set("big", b"x" * 100_000)  # the lane for large requests is there
    server.freeze()
    task = asyncio.ensure_future(WRITES[write](client, b"x" * size))
    await asyncio.sleep(random.choice((0, 0.001, 0.02, 0.15)))
    start = loop.time()
    task.cancel()
    newer = asyncio.ensure_future(client.set("k", "new"))
    await asyncio.sleep(random.choice((0, 0.02)))
    server.thaw()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await newer
    # behind whatever still goes over its connection
    assert await client.set("big", b"y" * 100_000)
    return loop.time() - start < 0.9


@pytest.mark.skipif(PEER, reason="redis-py's connection is closed, the server reads what it has")
@pytest.mark.parametrize("write", WRITES)
def test_a_large_write_given_up_replaces_nothing_newer(own_server, connect, kind, write):
    server = own_server()

    async def main():
        for size in (70_000, MB, 3 * MB, 10 * MB, PARTLY) * (1 if EXPRESS else 3):
            for attempt in range(20):
                name = f"{size}:{attempt}"
                async with connect(server, client_name=name) as client:
                    settled = await given_up(server, client, write, size)
                assert await until(lambda name=name: not server.clients(name))
                if settled:
                    assert server.command("GET", "k") == b"$3\r\nnew\r\n", size
                    break
            server.command("FLUSHALL")

    run(main, kind)


@pytest.mark.skipif(PEER, reason="more than redis-py does")
@pytest.mark.parametrize("before", [True, False], ids=["behind another", "before another"])
def test_a_large_write_given_up_beside_another(own_server, connect, kind, before):
    """The other one goes on, or out anew, and is whole."""
    server = own_server()

    async def main():
        async with connect(server, client_name="beside") as client:
            for n in range(4):
                await client.set("big", b"x" * 100_000)
                server.freeze()
                keys = ["other", "big"] if before else ["big", "other"]
                values = {key: value_of(f"{key}{n}", PARTLY + n) for key in keys}
                tasks = {
                    key: asyncio.create_task(client.mset({key: values[key], f"of {key}": "old"}))
                    for key in keys
                }
                await asyncio.sleep(0.05)
                await cancelled(tasks["big"])
                newer = asyncio.create_task(client.set("of big", "new"))
                await asyncio.sleep(0.01)
                server.thaw()
                assert await tasks["other"] and await newer
                await client.set("big", b"y" * 100_000)
                assert await client.get("other") == values["other"]
                assert await client.mget("of other", "of big") == [b"old", b"new"]
                await check_in_step(client)
        assert await until(lambda: not server.clients("beside"))
        assert server.command("GET", "of big") == b"$3\r\nnew\r\n"

    run(main, kind)


@pytest.mark.skipif(PEER, reason="redis-py's connection is closed, the server reads what it has")
def test_a_large_write_that_times_out_replaces_nothing_newer(own_server, connect, kind):
    """What a frozen server has only a part of is never whole."""
    server = own_server()

    async def main():
        async with connect(server, socket_timeout=0.3, client_name="late") as client:
            await client.set("big", b"x" * 100_000)
            server.freeze()
            with pytest.raises(errors.TimeoutError):
                await client.mset({"big": b"x" * PARTLY, "k": "old"})
            server.thaw()
            async with connect(server) as other:
                assert await other.set("k", "new")
        assert await until(lambda: not server.clients("late"))
        assert server.command("GET", "k") == b"$3\r\nnew\r\n"

    run(main, kind)


# ---- a connection that has gone silent ----

# Commands on "b" that are given up after a while, and the length of its value.
ATTEMPTS = {
    "get": (10, lambda client: client.get("b")),
    "large": (100_000, lambda client: client.get("b")),
    "pipeline": (10, lambda client: client.pipeline(transaction=False).get("b").execute()),
    "transaction": (10, lambda client: client.pipeline().get("b").execute()),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("fault", [stall, hold])
def test_a_silent_connection_is_replaced(proxy, connect, kind, fault, attempt):
    """Without socket_timeout, when commands are given up; what nobody gave up stays under way."""
    size, make = ATTEMPTS[attempt]
    a, b = value_of("a", size), value_of("b", size)

    async def main():
        async with connect(proxy) as client:
            for comes_alive in (True, False):
                await asyncio.gather(client.set("a", a), client.set("b", b))
                silent = proxy.on("GET", fault(), key=b"a")
                kept = asyncio.create_task(client.get("a"))
                assert await until(silent.reached.is_set)
                reply = None
                failures = 0
                while reply is None and failures < 20:
                    try:
                        reply = await asyncio.wait_for(make(client), 0.3)
                    except TimeoutError:
                        failures += 1
                assert reply in (b, [b])
                assert failures > 0 or PEER or EXPRESS  # there is another connection
                for _ in range(5):
                    assert await asyncio.wait_for(client.get("b"), 20) == b
                await asyncio.wait_for(check_in_step(client), 20)
                assert not kept.done()
                if comes_alive:
                    silent.release()
                    assert await asyncio.wait_for(kept, 20) == a
                else:
                    await cancelled(kept)
                await check_in_step(client)
                # nobody waits for it any more: it is gone
                if not PEER:
                    assert await until(lambda: stats_of(client)["connections"] <= 1 + ONE)

    run(main, kind)
