"""Many tasks, blocking commands, full queues, and awaitables that behave like coroutines."""

import asyncio
import gc
import inspect
import os
import resource
import threading
import time
import warnings

import pytest
from faultkit import PEER, run, until, value_of
from test_redis_faults import check_in_step, resident

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")

queueing = pytest.mark.skipif(PEER, reason="redis-py's pool raises instead of queueing")


@queueing
def test_fifty_blpop_on_twenty_connections(server, connect, kind):
    """A blocking command waits for a connection; the other commands do not wait for it."""

    async def main():
        async with connect(server, max_connections=20, client_name="pops") as client:
            pops = [asyncio.create_task(client.blpop(f"l{i}", 0)) for i in range(50)]
            blocked = lambda: sum(c["flags"] == "b" for c in server.clients("pops"))  # noqa: E731
            assert await until(lambda: blocked() == 20)
            await asyncio.sleep(0.1)
            assert blocked() == 20
            await check_in_step(client)
            for i in range(50):
                assert await client.rpush(f"l{i}", value_of(f"l{i}")) == 1
            assert await asyncio.gather(*pops) == [
                (f"l{i}".encode(), value_of(f"l{i}")) for i in range(50)
            ]
            assert await client.keys("l*") == []

    run(main, kind)


def test_blpop_beside_commands(server, connect, kind):
    """What blocks does not share a connection with what does not."""

    async def main():
        async with connect(server, socket_timeout=30) as client:
            pop = asyncio.create_task(client.blpop("l", 0))
            read = asyncio.create_task(client.xread({"s": "$"}, block=20_000))
            await asyncio.sleep(0.1)
            for _ in range(20):
                await check_in_step(client)
            assert not pop.done() and not read.done()
            await client.rpush("l", "x")
            await client.xadd("s", {"f": "v"})
            assert await pop == (b"l", b"x")
            assert (await read)[0][1][0][1] == {b"f": b"v"}
            assert await client.blpop("l", 0.1) is None
            assert await client.brpop(["l", "m"], timeout=0.1) is None

    run(main, kind)


def test_blocking_longer_than_socket_timeout(server, connect):
    """BLPOP's own time-out does not lengthen socket_timeout: redis-py raises TimeoutError."""
    from redis.exceptions import TimeoutError as RedisTimeout

    async def main():
        async with connect(server, socket_timeout=0.3) as client:
            with pytest.raises(RedisTimeout):
                await client.blpop("l", 20)
            await client.rpush("l", "kept")
            assert await client.llen("l") == 1
            assert await client.blpop("l", 0.1) == (b"l", b"kept")

    run(main)


def test_backpressure(proxy, connect, server, client_class):
    """2,000 SETs of 256 KB against a peer that reads nothing: they wait, within bounded memory."""
    count, size = 2000, 256 << 10
    values = {i: value_of(f"big{i}", size) for i in range(8)}

    async def main():
        options = {} if not PEER else {"max_connections": 2**31}
        async with connect(proxy, **options) as client:
            await client.ping()
            before = resident()
            proxy.pause_reading()
            tasks = [
                asyncio.create_task(client.set(f"big{i}", values[i % 8])) for i in range(count)
            ]
            await asyncio.sleep(1.5)
            assert not any(task.done() for task in tasks[1000:])
            if not PEER:
                # 500 MB want to be sent; only what the queue's bound lets in has been copied
                assert resident() - before < 200 << 20
            proxy.resume_reading()
            assert await asyncio.gather(*tasks) == [True] * count
            for i in (0, 1, 777, count - 1):
                assert await client.get(f"big{i}") == values[i % 8]
            assert await client.dbsize() == count

    try:
        run(main)
    finally:
        server.command("FLUSHALL")


@queueing
def test_cancelled_while_the_queue_is_full(proxy, connect, server):
    """Waiting for room in the queue is a stage at which one can be cancelled, too."""

    async def main():
        async with connect(proxy) as client:
            await client.ping()
            proxy.pause_reading()
            tasks = [
                asyncio.create_task(client.set(f"big{i}", b"x" * (1 << 20))) for i in range(300)
            ]
            await asyncio.sleep(0.5)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.sleep(0.1)
            proxy.resume_reading()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert results[1::2] == [True] * 150
            assert all(isinstance(r, asyncio.CancelledError) for r in results[::2])
            # most of them had not been sent; they never are
            assert await client.dbsize() < 300
            await check_in_step(client)

    try:
        run(main)
    finally:
        server.command("FLUSHALL")


def test_large_pipelines(server, connect, kind):
    """A pipeline above any queue bound goes through, too."""

    async def main():
        async with connect(server) as client:
            for transaction in (False, True):
                pipe = client.pipeline(transaction=transaction)
                for i in range(300):
                    pipe.set(f"p{i}", value_of(f"p{i}", 512 << 10))
                assert await pipe.execute() == [True] * 300
            pipe = client.pipeline(transaction=False)
            for i in range(300):
                pipe.get(f"p{i}")
            assert await pipe.execute() == [value_of(f"p{i}", 512 << 10) for i in range(300)]
            await client.flushall()

    run(main, kind)


def test_never_awaited(proxy, connect):
    """A command nobody awaits is a RuntimeWarning, and nothing is sent."""

    async def main():
        async with connect(proxy) as client:
            await client.ping()
            for make in (
                lambda: client.set("k", "v"),
                lambda: client.execute_command("SET", "k", "v"),
                lambda: client.lpush("l", "v"),
            ):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    awaitable = make()
                    del awaitable
                    gc.collect()
                assert [w.category for w in caught] == [RuntimeWarning]
                assert "was never awaited" in str(caught[0].message)
            await asyncio.sleep(0.1)
            assert proxy.count("SET") == proxy.count("LPUSH") == 0
            assert await client.exists("k", "l") == 0

    run(main)


def test_awaited_twice(server, connect, kind):
    async def main():
        async with connect(server) as client:
            awaitable = client.set("k", "v")
            assert await awaitable
            with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
                await awaitable
            await check_in_step(client)

    run(main, kind)


def test_awaited_by_two(proxy, connect):
    """The second one to await what is under way is refused, the first gets its reply."""

    async def main():
        async with connect(proxy) as client:
            await client.set("k", "v")
            awaitable = client.get("k")

            async def wait():
                return await awaitable

            results = await asyncio.gather(wait(), wait(), return_exceptions=True)
            assert sorted(map(type, results), key=str) == [RuntimeError, bytes]

    if PEER:
        pytest.skip("what a coroutine object does here depends on the Python version")
    run(main)


def test_behaves_like_a_coroutine(server, connect, kind):
    async def main():
        async with connect(server) as client:
            awaitable = client.get("k")
            assert inspect.isawaitable(awaitable)
            assert asyncio.iscoroutine(awaitable)
            assert await awaitable is None
            task = asyncio.create_task(client.set("k", "v"), name="named")
            assert task.get_name() == "named"
            assert await task
            closed = client.set("k", "closed")
            closed.close()
            with pytest.raises(RuntimeError):
                await closed
            assert await client.get("k") == b"v"
            assert await asyncio.shield(client.get("k")) == b"v"
            done, pending = await asyncio.wait([asyncio.ensure_future(client.get("k"))])
            assert not pending and done.pop().result() == b"v"
            assert [await f for f in asyncio.as_completed([client.get("k")])] == [b"v"]

    run(main, kind)


def test_run_coroutine_threadsafe(server, connect):
    async def main():
        loop = asyncio.get_running_loop()
        async with connect(server) as client:

            def work():
                for i in range(100):
                    future = asyncio.run_coroutine_threadsafe(client.incr("n"), loop)
                    assert future.result(20) == i + 1

            await asyncio.to_thread(work)

    run(main)


def test_the_loop_stays_awake(server, connect, kind):
    """While megabytes come in, the event loop still runs its timers."""

    async def main():
        async with connect(server) as client:
            await client.set("big", b"x" * (16 << 20))
            ticks = 0
            done = False

            async def ticker():
                nonlocal ticks
                while not done:
                    await asyncio.sleep(0.001)
                    ticks += 1

            ticking = asyncio.create_task(ticker())
            for _ in range(5):
                assert len(await client.get("big")) == 16 << 20
            done = True
            await ticking
            assert ticks >= 5

    run(main, kind)


def test_memory_after_large_replies(server, connect):
    """What was needed for large values is given back."""

    async def main():
        async with connect(server) as client:
            await client.set("big", b"x" * (32 << 20))
            for _ in range(2):
                await client.get("big")
            before = resident()
            for _ in range(20):
                await client.get("big")
            assert resident() - before < 100 << 20
            await client.delete("big")

    run(main)


def test_threads_and_descriptors_do_not_grow(server, connect):
    """Clients that come and go leave neither threads nor descriptors behind."""

    async def main():
        for _ in range(3):
            async with connect(server) as client:
                await client.set("k", "v")
        await asyncio.sleep(0.2)
        fds, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        for _ in range(100):
            async with connect(server) as client:
                await client.get("k")
        enough = lambda: len(os.listdir("/proc/self/fd")) <= fds + 4  # noqa: E731
        assert await until(enough)
        assert len(os.listdir("/proc/self/task")) <= threads + 1

    run(main)


def test_idle_costs_nothing(server, connect):
    """A connected client that does nothing burns no processor time, and no thread of Python's."""
    threads = threading.active_count()  # of other tests' clients

    async def main():
        async with connect(server) as client:
            await client.set("k", "v")
            pop = asyncio.create_task(client.blpop("l", 0))
            await asyncio.sleep(0.2)
            before = time.process_time()
            await asyncio.sleep(1)
            assert time.process_time() - before < 0.3
            await client.rpush("l", "x")
            await pop

    run(main)
    assert threading.active_count() <= threads
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20
