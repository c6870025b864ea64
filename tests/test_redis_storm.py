"""Thousands of operations, cancellations and lost connections; every value tells whose it is."""

import asyncio
import contextlib
import random

import pytest
import redis.exceptions as errors
from faultkit import PEER, run, value_of
from faultproxy import cut, drop_after, drop_before
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")

# redis-py on uvloop lets "the handler is closed" through when a connection goes while it writes
LOST = (errors.ConnectionError, RuntimeError) if PEER else errors.ConnectionError
KEYS = [f"key:{i}" for i in range(400)]


class Ledger:
    """Runs random commands and checks that each reply is the one of its command."""

    def __init__(self, client, seed):
        self.client = client
        self.random = random.Random(seed)
        self.done = 0
        self.counter = 0  # INCRs that were confirmed
        self.maybe = 0  # INCRs of which only the server knows

    async def fill(self):
        await self.client.mset({key: value_of(key) for key in KEYS})
        for i in range(0, len(KEYS), 10):
            await self.client.rpush(
                f"list:{i}", *(value_of(f"list:{i}:{n}", 60) for n in range(20))
            )
            await self.client.hset(f"hash:{i}", mapping={f"f{i}": value_of(f"hash:{i}")})

    async def one(self):
        """One random command; AssertionError if the reply is another's."""
        client, pick = self.client, self.random.randrange(len(KEYS))
        key, ten = KEYS[pick], pick // 10 * 10
        what = self.random.randrange(10)
        if what < 4:
            assert await client.get(key) == value_of(key)
        elif what == 4:
            assert await client.echo(key) == key.encode()
        elif what == 5:
            assert await client.set(key, value_of(key)) is True
        elif what == 6:
            assert await client.lrange(f"list:{ten}", 0, -1) == [
                value_of(f"list:{ten}:{n}", 60) for n in range(20)
            ]
        elif what == 7:
            assert await client.hgetall(f"hash:{ten}") == {b"f%d" % ten: value_of(f"hash:{ten}")}
        elif what == 8:
            async with client.pipeline(transaction=bool(pick % 2)) as pipe:
                pipe.get(key).echo(f"{pick}").strlen(key)
                assert await pipe.execute() == [
                    value_of(key),
                    str(pick).encode(),
                    len(value_of(key)),
                ]
        else:
            self.maybe += 1
            before = self.counter
            assert await client.incr("counter") > before
            self.maybe -= 1
            self.counter += 1
        self.done += 1

    async def verify(self):
        """Everything is there, and as many INCRs as were confirmed or in doubt."""
        for key in KEYS:
            assert await self.client.get(key) == value_of(key)
        count = int(await self.client.get("counter") or 0)
        assert self.counter <= count <= self.counter + self.maybe


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_cancellations(server, connect, kind, seed):
    async def main():
        async with connect(server) as client:
            ledger = Ledger(client, seed)
            await ledger.fill()
            cancelled = 0
            for _ in range(60):
                tasks = [asyncio.ensure_future(ledger.one()) for _ in range(60)]
                victims = ledger.random.sample(tasks, 20)
                for victim in victims:
                    # from not yet begun to nearly always done
                    for _ in range(ledger.random.choice((0, 0, 1, 1, 2, 3))):
                        await asyncio.sleep(0)
                    victim.cancel()
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(result, asyncio.CancelledError):
                        cancelled += 1
                    elif result is not None:
                        raise result
            assert cancelled > 100
            assert ledger.done > 2000
            await ledger.verify()

    run(main, kind)


def test_random_timeouts(server, connect, kind):
    """wait_for with limits about as long as a command takes."""

    async def main():
        async with connect(server) as client:
            ledger = Ledger(client, 4)
            await ledger.fill()

            async def worker():
                for _ in range(60):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ledger.one(), ledger.random.random() * 0.02)

            await asyncio.gather(*(worker() for _ in range(50)))
            while ledger.done < 1000:
                await ledger.one()
            await ledger.verify()

    run(main, kind)


@pytest.mark.parametrize("seed", [5, 6])
def test_random_losses_and_cancellations(proxy, connect, kind, seed):
    async def main():
        async with connect(proxy, socket_timeout=20) as client:
            ledger = Ledger(client, seed)
            await ledger.fill()
            lost = cancelled = 0
            for _ in range(100):
                for fault in ledger.random.sample(
                    [cut(0), cut(3), cut(30), cut(900, reset=True), drop_before(), drop_after()], 2
                ):
                    after = [ledger.random.randrange(60)]

                    def match(args, after=after):
                        after[0] -= 1
                        return after[0] < 0 and args[0] not in (b"CLIENT", b"SELECT")

                    proxy.on(match, fault)
                tasks = [asyncio.ensure_future(ledger.one()) for _ in range(60)]
                await asyncio.sleep(ledger.random.random() * 0.01)
                for victim in ledger.random.sample(tasks, 5):
                    victim.cancel()
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(result, asyncio.CancelledError):
                        cancelled += 1
                    elif isinstance(result, LOST):
                        lost += 1
                    elif result is not None:
                        raise result
                proxy.clear()
            assert lost >= 20 and ledger.done > 500
            await ledger.verify()

    run(main, kind)


def test_losses_under_retry(proxy, connect, kind):
    """With a retry policy nobody notices; a command is executed at least once."""
    retry = Retry(ConstantBackoff(0.005), 50)

    async def main():
        async with connect(proxy, retry=retry, retry_on_error=[errors.ConnectionError]) as client:
            ledger = Ledger(client, 7)
            await ledger.fill()
            for _ in range(15):
                after = [30]

                def match(args, after=after):
                    after[0] -= 1
                    return after[0] < 0 and args[0] not in (b"CLIENT", b"SELECT")

                proxy.on(match, cut(2))
                await asyncio.gather(*(ledger.one() for _ in range(40)))
                proxy.clear()
            assert ledger.done == 600
            assert int(await client.get("counter")) >= ledger.counter

    run(main, kind)


@pytest.mark.skipif(PEER, reason="redis-py's limit is the number of connections")
def test_ten_thousand_tasks_on_twenty_connections(server, client_class, kind):
    """The setting the framework uses, far above its limit: all are served."""
    url = f"{server.url}?max_connections=20"

    async def main():
        async with client_class.from_url(
            url, decode_responses=True, max_connections=20, retry_on_timeout=True
        ) as client:

            async def one(i):
                key = f"t{i}"
                await client.set(key, value_of(key))
                assert await client.get(key) == value_of(key).decode()

            await asyncio.gather(*(one(i) for i in range(10_000)))
            assert await client.dbsize() == 10_000
        assert len(server.clients()) <= 22

    run(main, kind)
