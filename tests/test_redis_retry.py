"""retry, retry_on_error and retry_on_timeout: the same attempts and delays as redis-py's."""

import asyncio
import copy
import random

import pytest
import redis.asyncio as peer
import redis.exceptions as errors
from faultkit import run, until
from redis import backoff as backoffs
from redis.asyncio.retry import Retry

import arshai_native.redis as native
from arshai_native.redis._retry import RetryRules

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")


class Fibonacci(backoffs.AbstractBackoff):
    """A backoff that keeps the state of one command."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.last, self.next = 0, 1

    def compute(self, failures):
        self.last, self.next = self.next, self.last + self.next
        return self.last / 1000


async def redis_pys_delays(retry, error, attempts, monkeypatch):
    """The delays that redis-py's Retry makes for an operation that always fails."""
    delays = []

    async def record(seconds):
        delays.append(seconds)

    monkeypatch.setattr("redis.asyncio.retry.sleep", record)
    tries = 0

    async def do():
        nonlocal tries
        tries += 1
        if tries > attempts:
            raise KeyError
        raise error

    async def fail(error):
        pass

    with pytest.raises((type(error), KeyError)):
        await retry.call_with_retry(do, fail)
    return tries, delays


@pytest.mark.parametrize("retries", [0, 1, 5, -1])
@pytest.mark.parametrize(
    "backoff",
    [
        backoffs.NoBackoff(),
        backoffs.ConstantBackoff(0.25),
        backoffs.ExponentialBackoff(1, 0.1),
        backoffs.FullJitterBackoff(1, 0.1),
        backoffs.EqualJitterBackoff(1, 0.1),
        backoffs.ExponentialWithJitterBackoff(1, 0.1),
        backoffs.DecorrelatedJitterBackoff(1, 0.1),
        Fibonacci(),
    ],
    ids=lambda backoff: type(backoff).__name__,
)
def test_delays(backoff, retries, monkeypatch):
    error = errors.ConnectionError("lost")
    retry = Retry(backoff, retries)
    rules = RetryRules(copy.deepcopy(retry), [errors.ConnectionError])
    random.seed(1)
    monkeypatch.setattr(random, "random", lambda: 0.5)
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)
    tries, expected = asyncio.run(redis_pys_delays(retry, error, 12, monkeypatch))
    found = []
    for failure in range(1, 13):
        seconds = rules(error, failure)
        if seconds is None:
            break
        if seconds > 0:
            found.append(seconds)
        # Another command fails for the first time meanwhile.
        assert rules(error, 1) is not None
    assert found == pytest.approx(expected)
    assert tries == (13 if retries < 0 else retries + 1)
    assert rules(error, 1) is None if retries == 0 else rules(error, 1) is not None


def test_which_errors():
    supported = RetryRules(Retry(backoffs.NoBackoff(), 3), [])
    assert supported.supports(errors.ConnectionError()) and supported.supports(
        errors.TimeoutError()
    )
    assert not supported.can_retry
    assert supported(errors.ConnectionError(), 1) is None
    named = RetryRules(Retry(backoffs.NoBackoff(), 3), [errors.ConnectionError])
    assert named(errors.ConnectionError(), 3) == 0
    assert named(errors.ConnectionError(), 4) is None
    assert named(errors.BusyLoadingError(), 1) == 0
    assert named(errors.TimeoutError(), 1) is None
    assert named(errors.ResponseError(), 1) is None
    connection = peer.Connection(
        retry=Retry(backoffs.NoBackoff(), 1), retry_on_error=[errors.ReadOnlyError]
    )
    rules = RetryRules(connection.retry, connection.retry_on_error)
    assert rules(errors.ReadOnlyError(), 1) == 0
    assert rules(errors.ResponseError(), 1) is None
    unnamed = RetryRules(Retry(backoffs.NoBackoff(), 1), None)
    assert unnamed(errors.ConnectionError(), 1) is None


class Server:
    """
    Answers a connection's setup, closes the connection at the first `failing` other requests and
    answers +DONE (or what `answer` says) to the rest.
    """

    def __init__(self, failing, error=None):
        self.failing, self.error, self.requests = failing, error, 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.host, self.port = self.server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *exc_info):
        self.server.close()

    async def serve(self, reader, writer):
        try:
            while True:
                words = []
                for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
                    size = int((await reader.readuntil(b"\r\n"))[1:])
                    words.append((await reader.readexactly(size + 2))[:-2].upper())
                if words[0] in (b"CLIENT", b"WATCH", b"UNWATCH", b"MULTI"):
                    writer.write(b"+OK\r\n")
                    continue
                if words[0] == b"EXEC":
                    writer.write(b"*1\r\n+DONE\r\n")
                    continue
                self.requests += 1
                if self.requests > self.failing:
                    writer.write(b"+DONE\r\n")
                elif self.error is not None:
                    writer.write(self.error)
                else:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def options(retries):
    return {
        "retry": Retry(backoffs.ConstantBackoff(0.01), retries),
        "retry_on_error": [errors.ConnectionError, errors.ReadOnlyError],
    }


async def by_command(client):
    return await client.get("k")


async def by_callback(client):
    client.set_response_callback("OTHER", str)
    return await client.get("k")


async def by_single(client):
    async with client.client() as single:
        return await single.get("k")


async def by_pipeline(client):
    return (await client.pipeline(transaction=False).get("k").execute())[0]


async def by_immediate(client):
    async with client.pipeline() as pipe:
        return await pipe.immediate_execute_command("GET", "k")


async def by_blocking(client):
    return await client.brpoplpush("a", "b", 5)


WAYS = [by_command, by_callback, by_single, by_pipeline, by_immediate]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("error", [None, b"-READONLY no writing\r\n"], ids=["lost", "readonly"])
@pytest.mark.parametrize("cls", [peer.Redis, native.Redis], ids=["redis-py", "native"])
def test_attempts(cls, way, error):
    """Two retries: two failures are survived, three are not, and nothing is sent a fourth time."""

    async def main():
        for failing in (0, 2, 3):
            async with Server(failing, error) as server:
                client = cls(host=server.host, port=server.port, **options(2))
                try:
                    result = await way(client)
                except (errors.ConnectionError, errors.ReadOnlyError) as caught:
                    result = type(caught)
                wrong = errors.ConnectionError if error is None else errors.ReadOnlyError
                assert result == (wrong if failing > 2 else b"DONE")
                assert server.requests == min(failing + 1, 3)
                await client.aclose()

    run(main)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("cls", [peer.Redis, native.Redis], ids=["redis-py", "native"])
def test_no_attempts_without_a_named_error(cls, way):
    async def main():
        for kwargs in ({}, {"retry": Retry(backoffs.NoBackoff(), 3)}, {"retry_on_timeout": True}):
            async with Server(1) as server:
                client = cls(host=server.host, port=server.port, **kwargs)
                with pytest.raises(errors.ConnectionError):
                    await way(client)
                assert server.requests == 1
                assert await way(client) == b"DONE"
                await client.aclose()

    run(main)


@pytest.mark.parametrize("cls", [peer.Redis, native.Redis], ids=["redis-py", "native"])
def test_a_watching_pipeline_is_not_retried(cls):
    async def main():
        async with Server(1) as server:
            client = cls(host=server.host, port=server.port, **options(3))
            async with client.pipeline() as pipe:
                await pipe.watch("k")
                with pytest.raises(errors.WatchError):
                    await pipe.get("k")
            assert server.requests == 1
            await client.aclose()

    run(main)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_set_retry_counts_at_once(way):
    async def main():
        async with Server(3) as server:
            client = native.Redis(host=server.host, port=server.port, **options(0))
            same_pool = native.Redis(connection_pool=client.connection_pool)
            client.set_retry(Retry(backoffs.NoBackoff(), 3))
            assert client.get_retry()._retries == 3
            assert await way(same_pool) == b"DONE"
            await client.aclose()

    run(main)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_retry_on_timeout(way):
    """A reply that does not come in time is asked for once more."""

    async def main():
        silent = 1

        async def serve(reader, writer):
            nonlocal silent
            try:
                while data := await reader.read(4096):
                    if b"GET" in data:
                        if silent:
                            silent -= 1
                        else:
                            writer.write(b"+DONE\r\n")
                    else:
                        writer.write(b"+OK\r\n" * data.count(b"*"))
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        client = native.Redis(
            host=host,
            port=port,
            retry_on_timeout=True,
            socket_timeout=0.2,
            socket_connect_timeout=5,
        )
        assert await way(client) == b"DONE"
        assert silent == 0
        await client.aclose()
        server.close()

    run(main)


@pytest.mark.parametrize("cls", [peer.Redis, native.Redis], ids=["redis-py", "native"])
def test_cancelled_during_the_backoff(cls):
    """It ends at once, and the command is not sent again."""
    retry = Retry(backoffs.ConstantBackoff(0.5), 3)

    async def one(way, cancel):
        async with Server(1) as server:
            client = cls(
                host=server.host,
                port=server.port,
                retry=retry,
                retry_on_error=[errors.ConnectionError],
            )
            task = asyncio.ensure_future(way(client))
            assert await until(lambda: server.requests == 1)
            await asyncio.sleep(0.02)
            with pytest.raises(asyncio.CancelledError if cancel else TimeoutError):
                if cancel:
                    task.cancel()
                    await task
                else:
                    await asyncio.wait_for(task, 0)
            assert server.requests == 1
            await asyncio.sleep(0.7)
            assert server.requests == 1
            assert await way(client) == b"DONE"
            await client.aclose()

    async def main():
        ways = [*WAYS, by_blocking]
        await asyncio.gather(*(one(way, cancel) for way in ways for cancel in (True, False)))

    run(main)


def test_closed_during_the_backoff():
    """aclose() ends nobody's wait; the command connects again, as redis-py's does."""

    async def main():
        async with Server(1) as server:
            client = native.Redis(host=server.host, port=server.port, **options(1))
            client.set_retry(Retry(backoffs.ConstantBackoff(0.2), 1))
            task = asyncio.ensure_future(client.get("k"))
            assert await until(lambda: server.requests == 1)
            await client.aclose()
            assert await asyncio.wait_for(task, 5) == b"DONE"
            await client.aclose()

    run(main)
