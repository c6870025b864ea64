"""Pipelines, transactions, WATCH, scripts and locks of arshai_native.redis on a real server."""

import asyncio
import gc

import pytest
import redis.asyncio as peer
import redis.asyncio.client
import redis.exceptions as errors
from faultkit import run, until

import arshai_native.redis as native

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")


@pytest.fixture(params=[True, False], ids=["multi", "plain"])
def transaction(request):
    return request.param


@pytest.fixture
def both(server):
    """both(**options): a client of each kind, to compare them."""

    def make(**options):
        return [
            cls(host=server.host, port=server.port, **options) for cls in (peer.Redis, native.Redis)
        ]

    return make


async def close(*clients):
    for client in clients:
        await client.aclose()


def test_results_are_redis_pys(both, transaction):
    """One long pipeline of replies of all kinds, compared result by result."""

    def fill(pipe):
        pipe.set("k", 1).get("k").incr("k").incrbyfloat("f", 1.5).mget("k", "none")
        pipe.hset("h", mapping={"a": 1, "b": 2}).hgetall("h").hincrbyfloat("h", "a", 0.5)
        pipe.rpush("l", 1, 2, 3).lrange("l", 0, -1).ltrim("l", 0, 1).sadd("s", 1).smembers("s")
        pipe.zadd("z", {"a": 1, "b": 2}).zrange("z", 0, -1, withscores=True).zscore("z", "a")
        pipe.zrange("z", 0, -1).expire("k", 60).ttl("k").type("k").object("encoding", "k")
        pipe.set("k", 2, nx=True).set("k", 3, get=True).scan(0, count=1000).ping().echo("x")
        pipe.config_get("maxmemory").client_id().mget([]).xadd("x", {"a": 1}, id="1-1").xrange("x")
        return pipe

    async def main():
        for decode in (False, True):
            clients = both(decode_responses=decode)
            results = []
            for client in clients:
                await client.flushdb()
                async with client.pipeline(transaction=transaction) as pipe:
                    assert len(fill(pipe)) == 31 and bool(pipe)
                    results.append(await pipe.execute())
                    assert len(pipe) == 0 and await pipe.execute() == []
            ids = [result.pop(27) for result in results]
            assert all(isinstance(client_id, int) for client_id in ids)
            assert results[0] == results[1]
            assert [type(item) for item in results[0]] == [type(item) for item in results[1]]
            await close(*clients)

    run(main)


def test_errors_are_redis_pys(both, transaction):
    async def main():
        seen = []
        clients = both()
        for client in clients:
            await client.flushdb()
            await client.set("k", "text")
            async with client.pipeline(transaction=transaction) as pipe:
                pipe.set("a", 1).incr("k").lpush("k", 1).get("a")
                result = await pipe.execute(raise_on_error=False)
                seen.append([(type(item), getattr(item, "args", item)) for item in result])
                pipe.set("a", 1).incr("k").get("a")
                with pytest.raises(errors.ResponseError) as caught:
                    await pipe.execute()
                seen[-1].append(caught.value.args)
                assert len(pipe) == 0
                pipe.set("a", 2).execute_command("NOSUCH", "x").get("a")
                with pytest.raises(errors.ResponseError) as caught:
                    await pipe.execute()
                seen[-1].append((type(caught.value), caught.value.args))
                seen[-1].append(await client.get("a"))
                pipe.set("a", 3).set("b", True)
                with pytest.raises(errors.DataError):
                    await pipe.execute()
                seen[-1].append(await client.get("a"))
                assert await pipe.get("a").execute() == [await client.get("a")]
        assert seen[0] == seen[1]
        await close(*clients)

    run(main)


def test_a_unit_is_contiguous(server, transaction):
    """Others' commands on the same connection do not come between."""

    async def main():
        client = native.Redis(host=server.host, port=server.port)
        monitored = native.Redis(host=server.host, port=server.port)
        async with monitored.monitor() as monitor:

            async def unit(i):
                pipe = client.pipeline(transaction=transaction)
                for j in range(5):
                    pipe.set(f"unit:{i}", j)
                await pipe.execute()

            others = [client.get(f"other:{i}") for i in range(50)]
            await asyncio.gather(*(unit(i) for i in range(20)), *others)
            seen = []
            while len(seen) < 150:
                words = (await monitor.next_command())["command"].split()
                if words[0] in ("SET", "GET"):
                    seen.append(words)
        await close(client, monitored)
        for i in range(20):
            places = [n for n, words in enumerate(seen) if words[1] == f"unit:{i}"]
            assert places == list(range(places[0], places[0] + 5))

    run(main)


def test_many_pipelines_at_once(server, transaction):
    async def main():
        client = native.from_url(server.url, max_connections=2)

        async def one(i):
            pipe = client.pipeline(transaction=transaction)
            return await pipe.set(f"k{i}", i).get(f"k{i}").delete(f"k{i}").execute()

        results = await asyncio.gather(*(one(i) for i in range(500)))
        assert results == [[True, str(i).encode(), 1] for i in range(500)]
        await client.aclose()

    run(main)


def test_commands_that_change_a_connection_keep_to_themselves(server, transaction):
    async def main():
        client = native.Redis(host=server.host, port=server.port, client_name="kept")
        await client.set("where", "zero")
        pipe = client.pipeline(transaction=transaction)
        pipe.execute_command("SELECT", 7)
        pipe.set("where", "seven").get("where")
        assert (await pipe.execute())[1:] == [True, b"seven"]
        assert await client.get("where") == b"zero"
        assert await client.pipeline(transaction=transaction).get("where").execute() == [b"zero"]
        async with client.pipeline() as pipe:
            await pipe.watch("where")
            await pipe.execute_command("SELECT", 7)
            assert await pipe.get("where") == b"seven"
        async with client.pipeline() as pipe:
            await pipe.watch("where")
            assert await pipe.get("where") == b"zero"
        if not transaction:
            pipe = client.pipeline(transaction=False)
            pipe.execute_command("MULTI")
            pipe.set("where", "open")
            await pipe.execute()  # never ended: nobody else is in it
            assert await client.set("where", "zero") is True
            pipe.blpop("nothing", timeout=0.2).execute_command(
                "XREAD", "BLOCK", 100, "STREAMS", "x", 0
            )
            waiting = asyncio.create_task(pipe.execute())
            await asyncio.sleep(0.05)
            assert await asyncio.wait_for(client.get("where"), 0.1) == b"zero"
            assert await waiting == [None, []]
            pipe.execute_command("CLIENT REPLY", "SKIP")
            assert len(pipe) == 1
            await pipe.reset()
        await client.aclose()

    run(main)


# ---- WATCH ----


def test_watch(server):
    async def main():
        client = native.Redis(host=server.host, port=server.port)
        await client.set("k", 1)
        async with client.pipeline() as pipe:
            await pipe.watch("k")
            assert pipe.watching and pipe.connection.is_connected
            value = int(await pipe.get("k"))
            assert await pipe.hgetall("none") == {}
            pipe.multi()
            pipe.set("k", value + 1).get("k")
            assert await pipe.execute() == [True, b"2"]
            assert not pipe.watching and pipe.connection is None
            await pipe.watch("k")
            await client.set("k", 5)
            pipe.multi()
            pipe.set("k", 6)
            with pytest.raises(errors.WatchError):
                await pipe.execute()
            assert await client.get("k") == b"5" and not pipe.watching
            await pipe.watch("k")
            await client.set("k", 7)
            await pipe.unwatch()
            assert not pipe.watching
            pipe.set("k", 8)
            assert await pipe.execute() == [True]
            with pytest.raises(errors.RedisError):
                pipe.multi()
                pipe.multi()
            await pipe.reset()
            pipe.get("k")
            with pytest.raises(errors.RedisError):
                pipe.multi()
        for transaction in (True, False):
            async with client.pipeline(transaction=transaction) as pipe:
                await pipe.watch("k")
                assert await pipe.execute() == []
        await client.aclose()

    run(main)


def test_watch_and_reset_give_the_connection_back(server):
    async def main():
        client = native.from_url(server.url, max_connections=1, client_name="watching")
        for _ in range(20):
            async with client.pipeline() as pipe:
                await pipe.watch("k")
                ids = {await pipe.client_id()}
        async with client.pipeline() as pipe:
            await pipe.watch("k")
            assert {await pipe.client_id()} == ids
            await client.set("k", "changed")
        pipe = client.pipeline()
        await pipe.watch("other")
        pipe.multi()
        pipe.get("k")
        assert await pipe.execute() == [b"changed"]  # the WATCH before it was given up
        await client.aclose()
        assert await until(lambda: not server.clients("watching"))

    run(main)


@pytest.mark.parametrize("step", ["immediate", "execute"])
def test_a_connection_lost_while_watching(server, step):
    async def main():
        client = native.from_url(server.url, retry_on_error=[errors.ConnectionError])
        pipe = client.pipeline()
        await pipe.watch("k")
        await client.client_kill_filter(_id=await pipe.client_id())
        with pytest.raises(errors.WatchError):
            if step == "immediate":
                await pipe.get("k")
            pipe.multi()
            pipe.set("k", "lost")
            await pipe.execute()
        assert not pipe.watching and pipe.connection is None
        assert await client.get("k") is None
        pipe.set("k", "found")
        assert await pipe.execute() == [True]
        await client.aclose()

    run(main)


def test_a_cancelled_command_while_watching(server):
    """The transaction does not go on without its WATCH."""

    async def main():
        client = native.Redis(host=server.host, port=server.port)
        pipe = client.pipeline()
        await pipe.watch("k")
        task = asyncio.create_task(pipe.blpop("nothing", timeout=0))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pipe.multi()
        pipe.set("k", "unwatched")
        with pytest.raises(errors.WatchError):
            await pipe.execute()
        assert await client.get("k") is None
        await client.aclose()

    run(main)


def test_transactions_of_many_tasks(server):
    async def main():
        client = native.from_url(server.url, max_connections=5)

        async def one():
            async def increment(pipe):
                value = int(await pipe.get("sum") or 0)
                pipe.multi()
                pipe.set("sum", value + 1)

            return await client.transaction(increment, "sum")

        assert await asyncio.gather(*(one() for _ in range(40))) == [[True]] * 40
        assert await client.get("sum") == b"40"

        async def value(pipe):
            pipe.multi()
            pipe.get("sum")
            return "mine"

        assert await client.transaction(value, "sum", value_from_callable=True) == "mine"
        await client.aclose()

    run(main)


def test_an_unclosed_watching_pipeline_warns(server):
    async def main():
        client = native.Redis(host=server.host, port=server.port, max_connections=1)
        pipe = client.pipeline()
        await pipe.watch("k")
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        with pytest.warns(ResourceWarning):
            del pipe
            gc.collect()
        async with client.pipeline() as pipe:
            await pipe.watch("k")  # the connection has come back
        await client.aclose()

    run(main)


# ---- scripts, locks, types ----


def test_scripts(server, transaction):
    async def main():
        client = native.Redis(host=server.host, port=server.port)
        await client.script_flush()
        double = client.register_script("return 2 * redis.call('GET', KEYS[1])")
        argument = client.register_script("return {ARGV[1], KEYS[1]}")
        await client.set("k", 21)
        assert await double(keys=["k"]) == 42
        await client.script_flush()
        assert await double(keys=["k"]) == 42
        await client.script_flush()
        async with client.pipeline(transaction=transaction) as pipe:
            pipe.set("k", 4)
            await double(keys=["k"], client=pipe)
            await argument(keys=["k"], args=["x"], client=pipe)
            assert await pipe.execute() == [True, 8, [b"x", b"k"]]
            assert pipe.scripts == set()
        await client.script_flush()
        async with client.pipeline() as pipe:
            await pipe.watch("k")
            pipe.multi()
            await double(keys=["k"], client=pipe)
            assert await pipe.execute() == [8]
        await client.aclose()

    run(main)


def test_locks(server):
    async def main():
        client = native.Redis(host=server.host, port=server.port)
        other = native.from_url(server.url, decode_responses=True)
        async with client.lock("l", timeout=10) as lock:
            assert await lock.locked() and await lock.owned()
            assert not await other.lock("l", blocking=False).acquire()
            assert await lock.extend(10) and await lock.reacquire()
        assert not await lock.locked()
        lock = client.lock("l", timeout=0.05)
        assert await lock.acquire()
        await asyncio.sleep(0.2)
        with pytest.raises(errors.LockNotOwnedError):
            await lock.release()
        order = []

        async def hold(i):
            async with client.lock("l", sleep=0.01):
                order.append(i)
                await asyncio.sleep(0.01)
                order.append(i)

        await asyncio.gather(*(hold(i) for i in range(10)))
        assert order[::2] == order[1::2]
        await close(client, other)

    run(main)


def test_pipelines_are_redis_pys_pipelines(server):
    async def main():
        client = native.Redis(host=server.host, port=server.port)
        pipe = client.pipeline()
        assert isinstance(pipe, redis.asyncio.client.Pipeline)
        assert pipe.response_callbacks is client.response_callbacks
        assert await pipe is pipe
        pipe.set("a", 1)
        await pipe.aclose()
        assert len(pipe) == 0
        direct = native.client.Pipeline(
            client.connection_pool, client.response_callbacks, True, None
        )
        assert await direct.set("a", 1).get("a").execute() == [True, b"1"]
        single = await client.client()
        assert await single.pipeline().get("a").execute() == [b"1"]
        await close(single, client)

    run(main)
