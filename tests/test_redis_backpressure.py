"""What is under way is bounded in bytes; what is not yet under way, or goes elsewhere, does not
count: nobody waits for a request that nobody has awaited, or for others' large ones.
"""

import asyncio
import threading

import pytest
from faultkit import PEER, run, until, value_of
from faultproxy import hold
from test_redis_loops import in_threads

from arshai_native import _core
from arshai_native._redis_errors import error_factory
from arshai_native.memory import AsyncRedisMemoryManager

pytest_plugins = ("faultfixtures",)
pytestmark = [
    pytest.mark.usefixtures("bounded"),
    pytest.mark.skipif(PEER, reason="redis-py has no queue"),
]

MB = 1 << 20


def engine_of(client):
    return client.connection_pool._native.engine


def call_in_time(engine, *args, limit=15):
    """engine.call() in a thread that may hang without hanging the test."""
    found = []

    def work():
        found.append(engine.call(*args))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit)
    assert found, f"{args[0]} did not return within {limit} s"
    return found[0]


# 70 MB: above the bound of 64 MB that holds by default.
UNAWAITED = {
    "one of bytes": lambda client: [client.set("big", b"x" * 70_000_000)],
    "many of str": lambda client: [client.set(f"k{i}", "x" * 100_000) for i in range(700)],
    "small ones": lambda client: [client.set(f"k{i}", b"x" * 20_000) for i in range(3500)],
    "pipelines": lambda client: [
        engine_of(client).pipeline([("SET", f"k{i}", b"x" * MB)] * 2) for i in range(35)
    ],
}


@pytest.mark.parametrize("made", UNAWAITED)
def test_what_is_not_awaited_holds_up_nobody(server, connect, kind, made):
    async def main():
        async with connect(server) as client:
            requests = UNAWAITED[made](client)
            try:
                assert await asyncio.wait_for(client.ping(), 15)
                assert call_in_time(engine_of(client), "PING") == b"PONG"
                # neither does closing them, or sending them after all
                requests.pop().close()
                if requests:
                    assert await asyncio.wait_for(requests.pop(), 15)
                assert await asyncio.wait_for(client.ping(), 15)
            finally:
                for request in requests:
                    request.close()
            assert await asyncio.wait_for(client.get("nothing"), 15) is None
            assert engine_of(client).stats()["queued_bytes"] == 0

    run(main, kind)


def test_many_that_were_not_awaited_are_sent_after_all(server, connect):
    async def main():
        async with connect(server) as client:
            requests = [client.set(f"k{i}", value_of(f"k{i}", 100_000)) for i in range(1000)]
            assert await client.ping()
            assert await asyncio.gather(*requests) == [True] * 1000
            for i in (0, 500, 640, 999):
                assert await client.get(f"k{i}") == value_of(f"k{i}", 100_000)

    run(main)


def test_small_commands_beside_a_large_one_that_does_not_get_on(proxy, connect, kind):
    """More is under way than the bound allows, in the lane for large requests: GETs go past it."""
    value = b"x" * (80 * MB)
    fault = proxy.on("SET", hold(), key=b"big")

    async def main():
        async with connect(proxy) as client:
            await client.set("small", "1")
            large = asyncio.create_task(client.set("big", value))
            assert await until(lambda: engine_of(client).stats()["queued_bytes"] > len(value))
            for _ in range(20):
                assert await asyncio.wait_for(client.get("small"), 15) == b"1"
            assert call_in_time(engine_of(client), "GET", "small") == b"1"
            # one more large one waits for its turn, and does not matter to the small ones either
            second = asyncio.create_task(client.set("second", b"y" * MB))
            assert await asyncio.gather(*(client.get("small") for _ in range(50))) == [b"1"] * 50
            assert await until(fault.reached.is_set)
            assert not large.done() and not second.done()
            fault.release()
            assert await large and await second
            assert await client.strlen("big") == len(value)
            assert engine_of(client).stats()["queued_bytes"] == 0

    run(main, kind)


@pytest.fixture
def narrow(proxy):
    """An engine through the proxy that lets 2 MB be under way."""
    return _core.RedisEngine(
        host=proxy.host, port=proxy.port, error_factory=error_factory, queue_bytes=2 * MB
    )


def text_of(key, size):
    return value_of(key, size).decode()


@pytest.mark.parametrize("of", [value_of, text_of], ids=["bytes", "str"])
def test_many_large_values_are_bounded(proxy, narrow, kind, of):
    async def main():
        await narrow.execute("PING")
        proxy.pause_reading()
        tasks = [
            asyncio.ensure_future(narrow.execute("SET", f"k{i}", of(f"k{i}", MB)))
            for i in range(200)
        ]
        assert await until(lambda: narrow.stats()["queued_bytes"] > 2 * MB)
        await asyncio.sleep(0.2)
        # the one that filled it may be as large as it likes
        assert narrow.stats()["queued_bytes"] <= 3 * MB + 10_000
        assert not any(task.done() for task in tasks)
        proxy.resume_reading()
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, narrow.stats()["queued_bytes"])
            await asyncio.sleep(0.001)
        assert most <= 3 * MB + 10_000
        assert [await task for task in tasks] == [b"OK"] * 200
        for i in (0, 1, 100, 199):
            assert await narrow.execute("GET", f"k{i}") == value_of(f"k{i}", MB)
        assert narrow.stats()["queued_bytes"] == 0

    run(main, kind)


def test_blocking_threads_wait_with_the_others(proxy, narrow):
    """Eight threads and an event loop fill the same queue; all are served."""
    errors = []

    def work(thread):
        try:
            for i in range(10):
                key = f"t{thread}:{i}"
                value = (value_of, text_of)[i % 2](key, MB)
                assert narrow.call("SET", key, value) == b"OK"
                assert narrow.pipeline_call([("GET", key), ("PING",)]) == [
                    value_of(key, MB),
                    b"PONG",
                ]
        except BaseException as error:
            errors.append(error)

    async def main():
        await narrow.execute("PING")
        proxy.pause_reading()
        threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
        for thread in threads:
            thread.start()
        tasks = [
            asyncio.ensure_future(narrow.execute("SET", f"k{i}", value_of(f"k{i}", MB)))
            for i in range(50)
        ]
        assert await until(lambda: narrow.stats()["queued_bytes"] > 2 * MB)
        await asyncio.sleep(0.3)
        # each thread may have found room before another took it
        assert narrow.stats()["queued_bytes"] <= 11 * MB
        # the small ones have a count of their own, but this proxy reads nothing at all
        proxy.resume_reading()
        assert await asyncio.wait_for(asyncio.gather(*tasks), 40) == [b"OK"] * 50
        assert await until(lambda: not any(thread.is_alive() for thread in threads), 40)
        assert errors == []
        assert await narrow.execute("GET", "k49") == value_of("k49", MB)
        assert narrow.stats()["queued_bytes"] == 0

    run(main)


def test_disconnect_lets_go_of_whoever_waits_for_room(proxy, narrow):
    """Those under way fail, those behind them go out over new connections; nobody hangs."""

    async def main():
        await narrow.execute("PING")
        proxy.pause_reading()
        tasks = [
            asyncio.ensure_future(narrow.execute("SET", f"k{i}", b"x" * MB)) for i in range(20)
        ]
        assert await until(lambda: narrow.stats()["queued_bytes"] > 2 * MB)
        narrow.disconnect()
        await asyncio.sleep(0.1)
        proxy.resume_reading()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 40)
        lost = [outcome for outcome in outcomes if outcome != b"OK"]
        assert 1 <= len(lost) <= 3
        assert {type(outcome).__name__ for outcome in lost} == {"ConnectionError"}
        assert narrow.stats()["queued_bytes"] == 0

    run(main)


# ---- each awaited as soon as it is made ----

# What a task sends with 1 MB in it, or little by little.
DIRECT = {
    "bytes": (MB, lambda client, i: client.set(f"k{i}", value_of(f"k{i}", MB))),
    "str": (MB, lambda client, i: client.set(f"k{i}", text_of(f"k{i}", MB))),
    "mset": (MB, lambda client, i: client.mset({f"k{i}": value_of(f"k{i}", MB), f"m{i}": "v"})),
    "pipeline": (
        MB,
        lambda client, i: (
            client.pipeline().set(f"k{i}", value_of(f"k{i}", MB)).exists(f"k{i}").execute()
        ),
    ),
    "small": (20_000, lambda client, i: client.set(f"k{i}", value_of(f"k{i}", 20_000))),
}


@pytest.mark.parametrize("what", DIRECT)
def test_awaited_directly_they_are_bounded(own_server, connect, kind, engine_options, what):
    """Each in a task of its own, against a server that does not get on."""
    server = own_server()
    engine_options(queue_bytes=2 * MB)
    size, make = DIRECT[what]
    count = 100 * MB // size // (1 if size == MB else 10)

    async def main():
        async with connect(server) as client:

            async def one(i):
                return await make(client, i)

            await client.ping()
            server.freeze()
            tasks = [asyncio.create_task(one(i)) for i in range(count)]
            queued = lambda: engine_of(client).stats()["queued_bytes"]  # noqa: E731
            assert await until(lambda: queued() > 2 * MB)
            await asyncio.sleep(0.2)
            most = queued()
            assert not any(task.done() for task in tasks)
            server.thaw()
            while not all(task.done() for task in tasks):
                most = max(most, queued())
                await asyncio.sleep(0.001)
            # the one that filled it may be as large as it likes
            assert most <= 2 * MB + size + 10_000
            assert all([await task for task in tasks])
            for i in (0, 1, count // 2, count - 1):
                assert await client.get(f"k{i}") == value_of(f"k{i}", size)
            assert queued() == 0

    run(main, kind)


# ---- waiting for room in a callback of the loop whose requests take it ----

# How many the loop has begun and how long they are, each below or above what it sends off without
# being told; all above queue_bytes.
BEGUN = {
    "two small": (2, 20_000),
    "many small": (100, 1000),
    "two large": (2, 100_000),
    "many large": (20, MB),
}
# What the same callback waits for.
BLOCKING = {
    "call": lambda manager, text: manager._engine.call("SET", "cache:last", text),
    "pipeline": lambda manager, text: manager._engine.pipeline_call([("SET", "cache:last", text)]),
    "manager": lambda manager, text: manager.set_sync("last", text),
    "a loop in a thread": lambda manager, text: in_threads(
        lambda: run(lambda: manager.set("last", text)), limit=20
    ),
    "calls in threads": lambda manager, text: in_threads(
        *[lambda: manager.set_sync("last", text)] * 3, limit=20
    ),
}


@pytest.mark.parametrize("woken", [False, True], ids=["", "woken"])
@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("wait", BLOCKING)
def test_blocking_behind_what_the_loop_has_begun(server, kind, engine_options, wait, begun, woken):
    """The loop gathers its requests: none of them may stay with it while its thread waits."""
    engine_options(queue_bytes=8000)
    count, size = BEGUN[begun]

    async def main():
        manager = AsyncRedisMemoryManager(server.url)

        async def one(i):
            if woken:  # by a reply, together with the others
                await manager._engine.execute("PING")
            await manager.set(f"k{i}", text_of(f"k{i}", size))

        async def last():
            if woken:
                await manager._engine.execute("PING")
            BLOCKING[wait](manager, text_of("last", size))

        tasks = [asyncio.create_task(one(i)) for i in range(count)]
        await asyncio.gather(asyncio.create_task(last()), *tasks)
        for key in ("last", "k0", f"k{count - 1}"):
            assert await manager.get(key) == text_of(key, size)
        await manager.close_async()

    run(main, kind)
