"""The express connection, with real servers: lone commands that the event loop's own thread sends.

ARN_TEST_EXPRESS=1 runs the other tests with it, too (see faultkit).
"""

import asyncio
import gc
import time

import pytest
import redis.exceptions as errors
from faultkit import EXPRESS, PEER, express, run, stats_of, until, value_of, wait_until
from faultproxy import cut, delay, drop_after, drop_before, hold, inject, split, stall
from test_redis_bridge import script
from test_redis_faults import check_in_step

from arshai_native import _core
from arshai_native._redis_errors import error_factory
from arshai_native.memory import AsyncRedisMemoryManager, MemoryInput, WorkingMemory
from arshai_native.redis import _engine as engines

pytest_plugins = ("faultfixtures",)
pytestmark = [
    pytest.mark.usefixtures("bounded"),
    pytest.mark.skipif(PEER, reason="redis-py has no such thing"),
]


# ---- when there is one ----


@pytest.mark.skipif(EXPRESS, reason="about the default")
def test_how_many_lone_commands(server, connect, kind):
    """64 in a row; others in between begin the count anew."""
    assert engines.EXPRESS_AFTER == 64

    async def main():
        async with connect(server) as client:
            for _ in range(5):
                for _ in range(60):
                    await client.get("k")
                await asyncio.gather(client.get("k"), client.get("k"))
            await asyncio.sleep(0.1)
            assert stats_of(client)["connections"] == 1
            for _ in range(64):
                await client.get("k")
            assert await until(lambda: stats_of(client)["connections"] == 2)

    run(main, kind)


@pytest.mark.parametrize("after", [0, 1, 5, None])
def test_express_after(server, kind, after):
    """The engine's option; 0: never, None: not given."""
    options = {} if after is None else {"express_after": after}
    native = _core.RedisEngine(port=server.port, error_factory=error_factory, **options)

    async def main():
        for _ in range(max((64 if after is None else after) - 1, 0)):
            await native.execute("PING")
        await asyncio.sleep(0.05)
        assert native.stats()["connections"] <= 1
        for _ in range(200 if after == 0 else 1):
            await native.execute("PING")
        await asyncio.sleep(0.1)
        assert native.stats()["connections"] == (1 if after == 0 else 2)
        native.disconnect()

    run(main, kind)
    with pytest.raises(ValueError):
        _core.RedisEngine(error_factory=error_factory, express_after=-1)


def test_it_counts_as_no_dedicated_one(server, connect, kind):
    """A luxury: with max_connections=1 it takes nobody's place, and BLPOP comes through."""

    async def main():
        async with connect(server, max_connections=1) as client:
            await express(client)
            assert stats_of(client)["dedicated"] == 0
            pop = asyncio.create_task(client.blpop("l", 0))
            await asyncio.sleep(0.05)
            for n in range(20):
                assert await client.rpush("other", n) == n + 1
            await client.rpush("l", "x")
            assert await pop == (b"l", b"x")
        gc.collect()  # a loop before this one may have ended just when its connection came
        assert await until(lambda: not server.clients())

    run(main, kind)


# ---- it is a connection like the others ----


def test_what_it_carries(server, connect, kind):
    """Replies of every kind and size, errors, and what it does not carry, one after the other."""

    async def main():
        async with connect(server) as client:
            await express(client)
            for n in range(3):
                assert await client.set("k", value_of("k", 15_000)) is True
                assert await client.get("k") == value_of("k", 15_000)
                assert await client.set("k", value_of("k", 17_000)) is True
                assert await client.get("k") == value_of("k", 17_000)
                assert await client.set("big", value_of("big", 3 << 20)) is True
                assert await client.get("big") == value_of("big", 3 << 20)
                assert await client.get("none") is None
                with pytest.raises(errors.ResponseError, match="WRONGTYPE"):
                    await client.lpush("k", 1)
                with pytest.raises(errors.DataError):
                    await client.set("k", object())
                await client.delete("l", "h", "z")
                await client.rpush("l", *range(500))
                assert await client.lrange("l", 0, -1) == [b"%d" % i for i in range(500)]
                await client.hset("h", mapping={str(i): i for i in range(100)})
                assert len(await client.hgetall("h")) == 100
                await client.zadd("z", {"a": 1.5, "b": 2})
                assert await client.zrange("z", 0, -1, withscores=True) == [(b"a", 1.5), (b"b", 2)]
                assert await client.blpop("none", 0.01) is None
                async with client.pipeline() as pipe:
                    assert await pipe.set("p", n).get("p").execute() == [True, b"%d" % n]
                assert await client.eval("return {1, {2, {'x'}}, false}", 0) == [
                    1, [2, [b"x"]], None,
                ]  # fmt: skip
            await check_in_step(client)

    run(main, kind)


def test_who_it_is(server, connect, kind):
    """CLIENT SETNAME, GETNAME and ID mean the same connection for a program that is alone."""

    async def main():
        async with connect(server, client_name="before") as client:
            ids = set()
            for n in range(300):
                if n == 200:
                    await express(client)
                assert await client.client_getname() == "before"
                if n % 7 == 0:
                    await client.get("k")
                ids.add(await client.client_id())
            assert len(ids) == 1
            assert await client.client_setname("mine") is True
            for n in range(200):
                assert await client.client_getname() == "mine"
                if n % 3:
                    await client.incr("n")
                assert await client.client_id() in ids
            assert stats_of(client)["connections"] == 2
            assert {c["name"] for c in server.clients()} == {"before", "mine"}
            info = await client.client_info()
            assert info["name"] == "mine" and info["id"] in ids

    run(main, kind)


def test_its_configuration(own_server, connect, kind):
    """Password, database and names: everything that the other connections have."""
    server = own_server("--requirepass", "s3cret")
    options = {"password": "s3cret", "db": 3, "client_name": "mine", "lib_name": "lib"}

    async def main():
        async with connect(server, **options) as client:
            await express(client)
            await client.set("where", "three")
            assert await client.get("where") == b"three"
            rows = await client.client_list()
            assert [(row["name"], row["db"], row["user"]) for row in rows] == [
                ("mine", "3", "default")
            ] * 2
            assert {row.get("lib-name", "lib") for row in rows} == {"lib"}

    run(main, kind)


# ---- faults ----


@pytest.mark.parametrize("idle", [False, True], ids=["at once", "after a while"])
def test_server_restarted(own_server, connect, kind, idle):
    """Found out before the next command is sent: it costs nobody an error."""
    server = own_server()

    async def main():
        async with connect(server) as client:
            for _ in range(3):
                await express(client)
                server.kill()
                server.start()
                if idle:
                    await asyncio.sleep(0.1)
                assert await client.incr("n") == 1
                await check_in_step(client)

    run(main, kind)


def test_server_gone(own_server, connect, kind):
    server = own_server()

    async def main():
        async with connect(server) as client:
            await express(client)
            server.kill()
            for _ in range(3):
                with pytest.raises(errors.ConnectionError):
                    await client.get("k")
            server.start()
            await check_in_step(client)
            await express(client)

    run(main, kind)


def test_connections_killed_between_commands(server, connect, kind):
    async def main():
        async with connect(server) as client:
            for n in range(10):
                await express(client)
                server.command("CLIENT", "KILL", "TYPE", "normal")
                # the io thread has seen it; the loop finds out about its own only now
                assert wait_until(lambda: stats_of(client)["connections"] == 1)
                assert await client.incr("n") == n + 1

    run(main, kind)


# A fault of the reply to a lone GET, and what becomes of it.
FAULTS = {
    "half a reply": (lambda: cut(5), errors.ConnectionError),
    "nothing": (lambda: drop_after(), errors.ConnectionError),
    "not executed": (lambda: drop_before(), errors.ConnectionError),
    "garbage": (lambda: inject(b"@@@@\r\n"), (errors.InvalidResponse, errors.ConnectionError)),
    "error": (lambda: inject(b"-WRONGTYPE no\r\n"), errors.ResponseError),
    "no reply": (lambda: stall(), errors.TimeoutError),
    "endless half": (lambda: split(4), errors.TimeoutError),
    "not read": (lambda: hold(), errors.TimeoutError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(proxy, connect, kind, name):
    make, error = FAULTS[name]

    async def main():
        async with connect(proxy, socket_timeout=0.3) as client:
            await express(client)
            await client.set("k", "v")
            fault = proxy.on("GET", make(), key=b"k")
            start = time.monotonic()
            with pytest.raises(error):
                await client.get("k")
            assert time.monotonic() - start < 5
            assert await client.get("k") == b"v"
            fault.release()
            await check_in_step(client)
            assert proxy.count("GET") == 1 + 1 + 20  # no retry was asked for

    run(main, kind)


def test_reset(proxy, connect, kind):
    """RST instead of FIN, while a reply is awaited."""

    async def main():
        async with connect(proxy) as client:
            await express(client)
            fault = proxy.on("GET", stall())
            task = asyncio.create_task(client.get("k"))
            assert await until(fault.reached.is_set)
            proxy.drop_all(reset=True)
            with pytest.raises(errors.ConnectionError):
                await asyncio.wait_for(task, 5)
            await asyncio.sleep(0.1)  # the lane was reset as well
            await check_in_step(client)

    run(main, kind)


def test_reset_behind_half_a_reply(proxy, kind):
    """Both are there when the loop looks, and uvloop drops the reader of a socket with an error.

    In a process of its own: it was a crash.
    """
    pytest.importorskip("uvloop")
    # so far away that replies are no longer looked for without sleeping
    proxy.on("GET", delay(0.005), times=24)
    proxy.on("GET", cut(3, reset=True))
    script(
        """
        from faultkit import express

        async def main():
            async with Redis(port=int(sys.argv[1])) as client:
                await express(client)
                await client.set("k", "v")
                for _ in range(24):
                    assert await client.get("k") == b"v"
                task = asyncio.create_task(client.get("k"))
                await asyncio.sleep(0)
                time.sleep(0.3)
                done, pending = await asyncio.wait([task], timeout=3)
                assert not pending, "the command waits for ever"
                assert "Connection" in type(task.exception()).__name__
                assert await client.get("k") == b"v"
            print("well")

        if sys.argv[2] == "uvloop":
            import uvloop
            uvloop.run(main())
        else:
            asyncio.run(main())
        """,
        proxy.port,
        kind,
        says="well",
    )


@pytest.mark.parametrize("surplus", [b"$4\r\nEVIL\r\n", b"+EVIL\r\n", b"$4\r\nEV"])
def test_more_than_was_asked_for(proxy, connect, kind, surplus):
    async def main():
        async with connect(proxy, socket_timeout=20) as client:
            await express(client)
            proxy.on("GET", inject(b"$1\r\n1\r\n" + surplus), key=b"k")
            assert await client.get("k") == b"1"
            for _ in range(10):
                assert await client.get("none") is None
            await check_in_step(client)

    run(main, kind)


def test_cancelled(proxy, connect, kind):
    """The next reply is the next command's."""

    async def main():
        async with connect(proxy) as client:
            await client.mset({"a": "A", "b": "B"})
            for way in ("cancel", "wait_for", "timeout"):
                for released in (False, True):
                    await express(client)
                    fault = proxy.on("GET", stall(), key=b"a")
                    task = asyncio.create_task(client.get("a"))
                    assert await until(fault.reached.is_set)
                    if way == "cancel":
                        if released:
                            fault.release()
                            time.sleep(0.05)  # the reply is there and nobody has read it
                        task.cancel()
                        with pytest.raises(asyncio.CancelledError):
                            await task
                    else:
                        with pytest.raises(TimeoutError):
                            if way == "wait_for":
                                await asyncio.wait_for(task, 0.02)
                            else:
                                async with asyncio.timeout(0.02):
                                    await task
                    assert await client.get("b") == b"B"
                    fault.release()
                    for _ in range(5):
                        assert await client.get("b") == b"B"
                        assert await client.get("a") == b"A"
                    proxy.clear()
            await check_in_step(client)

    run(main, kind)


@pytest.mark.parametrize("fault", [stall, hold, lambda: split(3)], ids=["stall", "hold", "split"])
def test_of_a_command_given_up_it_is_closed(server, proxy, connect, kind, fault):
    """It may be dead. The next commands go over the lane, later ones over a new one."""

    async def main():
        async with connect(proxy, client_name="mine") as client:
            await client.mset({"a": "A", "b": "B"})
            for _ in range(3):
                await express(client)
                lane = await client.client_id()
                (its,) = {int(c["id"]) for c in server.clients("mine")} - {lane}
                silent = proxy.on("GET", fault(), key=b"a")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.get("a"), 0.3)
                for _ in range(5):
                    assert await asyncio.wait_for(client.get("b"), 20) == b"B"
                silent.release()  # or the proxy does not see that it is closed
                assert await until(
                    lambda its=its: its not in {int(c["id"]) for c in server.clients("mine")}
                )
                assert await client.client_id() == lane
            await check_in_step(client)

    run(main, kind)


def test_beside_others(proxy, connect, kind):
    """While it waits, others' commands go over the lanes, in any order of their replies."""

    async def main():
        async with connect(proxy) as client:
            await express(client)
            await client.mset({f"k{i}": value_of(f"k{i}") for i in range(50)})
            for _ in range(5):
                fault = proxy.on("GET", stall(), key=b"k0")
                lone = asyncio.create_task(client.get("k0"))
                assert await until(fault.reached.is_set)
                others = [client.get(f"k{i}") for i in range(1, 50)]
                assert await asyncio.gather(*others) == [value_of(f"k{i}") for i in range(1, 50)]
                assert not lone.done()
                fault.release()
                assert await lone == value_of("k0")

    run(main, kind)


def test_retry(proxy, connect, kind):
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    options = {"retry": Retry(NoBackoff(), 3), "retry_on_error": [errors.ConnectionError]}

    async def main():
        async with connect(proxy, **options) as client:
            await client.set("k", "v")
            for failures in (1, 3):
                await express(client)
                before = proxy.count("GET")
                proxy.on("GET", cut(3), times=failures)
                assert await client.get("k") == b"v"
                assert proxy.count("GET") == before + failures + 1
            await express(client)
            before = proxy.count("GET")
            proxy.on("GET", drop_after(), times=4)
            with pytest.raises(errors.ConnectionError):
                await client.get("k")
            assert proxy.count("GET") == before + 4

    run(main, kind)


def test_late_but_in_time(proxy, connect):
    """A deadline that is not reached leaves no timer that hits a later command."""

    async def main():
        async with connect(proxy, socket_timeout=0.6) as client:
            await express(client)
            for _ in range(3):
                proxy.on("INCRBY", delay(0.25))
                assert await client.incr("n") > 0
            assert stats_of(client)["connections"] == 2

    run(main)


def test_health_check(proxy, connect):
    """A connection that was idle for too long is not used without being asked first."""

    async def main():
        async with connect(proxy, health_check_interval=1) as client:
            await express(client)
            pings = proxy.count("PING")
            await asyncio.sleep(1.2)
            assert await client.set("k", "v")
            assert proxy.count("PING") == pings + 1
            assert [args[0] for args in proxy.log[-2:]] == [b"PING", b"SET"]

    run(main)


# ---- its end ----


def test_closed_while_it_opens(server, connect, kind, express_after):
    """aclose() at any moment of its making leaves no connection behind."""
    express_after(2)

    async def main():
        kept = []
        for n in range(100):
            client = connect(server, client_name="opens")
            for _ in range(1 + n % 4):
                await client.get("k")
            if n % 3:
                await asyncio.sleep(n % 7 / 5000)
            await client.aclose()
            kept.append(client)
        assert await until(lambda: not server.clients("opens")), len(server.clients("opens"))
        assert len(kept) == 100

    run(main, kind)


def test_closed_when_it_is_open_and_nobody_has_looked(server, connect, kind, express_after):
    """The io thread has made it, the loop has not yet taken it."""
    express_after(2)

    async def main():
        kept = []
        for _ in range(10):
            client = connect(server, client_name="opens")
            await client.get("k")
            await client.get("k")
            time.sleep(0.03)
            await client.aclose()
            kept.append(client)
        await asyncio.sleep(0.1)
        assert await until(lambda: not server.clients("opens")), len(server.clients("opens"))

    run(main, kind)


def memory(i):
    return MemoryInput(str(i), data=[WorkingMemory(working_memory=str(i))])


def test_managers_closed_while_it_opens(server, kind, express_after):
    express_after(2)

    async def main():
        kept = []
        for n in range(100):
            manager = AsyncRedisMemoryManager(server.url, client_name="opens")
            for i in range(1 + n % 4):
                await manager.store_async(memory(i))
            if n % 3:
                await asyncio.sleep(n % 7 / 5000)
            manager.close_sync()
            kept.append(manager)
        assert await until(lambda: not server.clients("opens")), len(server.clients("opens"))

    run(main, kind)


def test_disconnected_by_another_thread(server, connect, kind):
    """While lone commands are under way: they end well or lost, and a new one is made."""

    async def main():
        loop = asyncio.get_running_loop()
        async with connect(server) as client:
            await client.set("k", "v")
            over = False

            def work():
                for _ in range(100):
                    stats_before = client._engine.stats()["connections"]
                    client._engine.disconnect()
                    time.sleep(0.001 * (stats_before % 3))

            async def steady():
                done = 0
                while not over:
                    try:
                        assert await client.get("k") == b"v"
                        done += 1
                    except errors.ConnectionError:
                        pass
                return done

            task = asyncio.create_task(steady())
            await loop.run_in_executor(None, work)
            over = True
            assert await task > 10
            await express(client)
            await check_in_step(client)

    run(main, kind)


def test_collected_with_its_client(server, connect, kind):
    async def main():
        for _ in range(5):
            client = connect(server, client_name="dropped")
            await express(client)
            del client
            gc.collect()
        assert await until(lambda: not server.clients("dropped"))

    run(main, kind)


def test_fifty_loops(server, connect, kind):
    """One after another: each makes its own, and takes it along."""
    client = connect(server, client_name="loops")

    async def use(n):
        await express(client)
        for i in range(10):
            assert await client.incr("n") == n * 10 + i + 1

    for n in range(50):
        run(lambda n=n: use(n), kind)
    gc.collect()
    assert wait_until(lambda: len(server.clients("loops")) == 1), len(server.clients("loops"))
    assert stats_of(client)["connections"] == 1
    run(client.aclose, kind)
    assert wait_until(lambda: not server.clients("loops"))


def test_closed_loops_that_were_about_to_get_one(proxy, connect, express_after):
    """Closing the client closes that connection, too."""
    express_after(2)
    client = connect(proxy, db=1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(client.get("k"))
    fault = proxy.on("SELECT", hold())
    loop.run_until_complete(client.get("k"))
    assert fault.reached.wait(10)
    loop.close()
    gc.collect()  # the request for it and the closed loop's port hold each other
    fault.release()
    run(client.aclose)
    assert wait_until(lambda: proxy.open == 0), proxy.open
