"""Servers that are slow at each stage, against the timeout that is meant for it."""

import asyncio
import threading
import time

import pytest
from faultkit import run, until
from httpkit import HttpServer, chunked, echo, full_backlog, head, raw, reply, stall

from arshai_native import _core
from arshai_native._core import HttpError

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

MB = 1 << 20
OK = head(200, [("Content-Length", "2")]) + b"ok"
# Timeouts far too long for a test, so that the one that is meant ends it.
LONG = {name: 80.0 for name in ("connect_timeout", "read_timeout", "write_timeout", "pool_timeout")}


def overdue(fetch, client, url, kind, method="GET", at_least=0.15, **options):
    """The request ends with that kind of timeout, neither at once nor much too late."""
    start = time.monotonic()
    with pytest.raises(HttpError) as caught:
        fetch(client, method, url, **{**LONG, **options})
    assert caught.value.kind == kind, str(caught.value)
    assert at_least <= time.monotonic() - start < 20
    return caught.value


def test_connecting(http, fetch):
    with full_backlog() as (host, port):
        client = http()
        overdue(fetch, client, f"http://{host}:{port}/", "connect_timeout", connect_timeout=0.2)
        overdue(fetch, client, f"https://{host}:{port}/", "connect_timeout", connect_timeout=0.2)
        # at the client's next server nothing is left of it
        with HttpServer() as server:
            assert fetch(client, "GET", server.url, connect_timeout=5.0).status == 200


def test_connecting_to_a_proxy(http, fetch):
    with full_backlog() as (host, port):
        client = http(proxy=f"http://{host}:{port}")
        for url in ("http://example.test/", "https://example.test/"):
            overdue(fetch, client, url, "connect_timeout", connect_timeout=0.2)


def test_a_proxy_that_does_not_answer(http, fetch):
    """The tunnel is part of connecting."""
    with HttpServer(stall()) as proxy:
        client = http(proxy=proxy.url)
        overdue(fetch, client, "https://example.test/", "connect_timeout", connect_timeout=0.3)


@pytest.mark.parametrize("before", [b"", OK[:10], OK[:-4], OK[:-1]])
def test_reading(http, fetch, before):
    with HttpServer(raw(before, threading.Event())) as server:
        client = http()
        overdue(fetch, client, server.url, "read_timeout", read_timeout=0.2)
        assert server.accepted == 1
        server.handler = echo
        assert fetch(client, "GET", server.url).status == 200
        # what had been waited for in vain serves nobody else
        assert server.accepted == 2


def test_reading_counts_pauses_not_the_whole(http, fetch):
    """A reply that takes long but never pauses long is in time."""
    pieces = [step for i in range(12) for step in (b"%d" % (i % 10), 0.1)]
    with HttpServer(chunked(*pieces)) as server:
        response = fetch(http(), "GET", server.url, read_timeout=0.9)
        assert response.body == b"012345678901"
        assert response.elapsed > 1.0


def test_a_long_upload_is_not_reading(http, fetch):
    """The time that the server takes for the request does not count."""

    def handler(x):
        for _ in range(12):
            x.pause(0.1)
            for _ in range(8):
                x._more()
        x.read_body()
        x.send(OK)

    with HttpServer(handler, receive_buffer=65_536) as server:
        body = b"x" * 12 * MB
        response = fetch(http(), "POST", server.url, body=body, read_timeout=0.9, write_timeout=20)
        assert response.body == b"ok"
        assert server.requests[0].body == body


def test_writing(http, fetch):
    """A server that reads nothing of a large body."""
    with HttpServer(raw(threading.Event(), read=False)) as server:
        client = http()
        body = b"x" * 50 * MB
        overdue(fetch, client, server.url, "write_timeout", "POST", body=body, write_timeout=0.3)
        server.handler = echo
        assert fetch(client, "GET", server.url).status == 200


def test_total(http, fetch):
    pieces = [step for _ in range(100) for step in (b"x", 0.05)]
    for handler in (stall(), chunked(*pieces), raw(threading.Event(), read=False)):
        with HttpServer(handler) as server:
            client = http()
            overdue(fetch, client, server.url, "total_timeout", total_timeout=0.3)
            body = b"x" * 20 * MB
            overdue(
                fetch, client, server.url, "total_timeout", "POST", body=body, total_timeout=0.3
            )
    with full_backlog() as (host, port):
        overdue(fetch, http(), f"http://{host}:{port}/", "total_timeout", total_timeout=0.3)


def test_total_when_connecting_was_slow(http, fetch):
    """The shorter one counts, whichever it is."""
    with full_backlog() as (host, port):
        url = f"http://{host}:{port}/"
        overdue(fetch, http(), url, "connect_timeout", connect_timeout=0.2, total_timeout=60.0)


def test_the_pool(http, kind):
    """max_connections are busy: who waits too long is told; the others get their turn."""
    gate = threading.Event()
    with HttpServer(raw(gate, OK)) as server:
        client = http(max_connections=1)

        async def main():
            first = asyncio.create_task(client.request("GET", server.url + "/first"))
            await until(lambda: server.requests)
            start = time.monotonic()
            waiting = asyncio.create_task(client.request("GET", server.url + "/w", pool_timeout=60))
            with pytest.raises(HttpError) as caught:
                await client.request("GET", server.url + "/late", pool_timeout=0.2)
            assert caught.value.kind == "pool_timeout"
            assert 0.15 <= time.monotonic() - start < 20
            # another server's requests wait for the same
            with HttpServer() as other:
                with pytest.raises(HttpError) as caught:
                    await client.request("GET", other.url, pool_timeout=0.2)
                assert caught.value.kind == "pool_timeout"
            gate.set()
            assert (await first).body == (await waiting).body == b"ok"
            assert server.count("/late") == 0
            assert server.accepted == 1

        run(main, kind)


def test_waiting_in_the_pool_is_not_reading_or_connecting(http):
    gate = threading.Event()
    with HttpServer(raw(gate, OK)) as server:
        client = http(max_connections=1)

        async def main():
            first = asyncio.create_task(client.request("GET", server.url))
            await until(lambda: server.requests)
            second = asyncio.create_task(
                client.request("GET", server.url, connect_timeout=0.3, read_timeout=0.3)
            )
            await asyncio.sleep(1.0)
            gate.set()
            assert (await first).status == (await second).status == 200

        run(main)


def test_the_pool_in_order(http):
    """Who came first is served first."""
    gate = threading.Event()
    with HttpServer(raw(gate, OK)) as server:
        client = http(max_connections=1)

        async def main():
            tasks = []
            for i in range(20):
                tasks.append(asyncio.create_task(client.request("GET", f"{server.url}/{i}")))
                await asyncio.sleep(0)
            await until(lambda: server.requests)
            gate.set()
            await asyncio.gather(*tasks)
            assert [r.target for r in server.requests] == [f"/{i}" for i in range(20)]

        run(main)


def test_a_stream_holds_its_connection(http):
    gate = threading.Event()
    with HttpServer(chunked(b"x", gate, b"y")) as server:
        client = http(max_connections=1)

        async def main():
            response = await client.request("GET", server.url, mode=_core.HTTP_STREAM)
            with pytest.raises(HttpError) as caught:
                await client.request("GET", server.url, pool_timeout=0.2)
            assert caught.value.kind == "pool_timeout"
            response.close_stream()
            gate.set()
            assert (await client.request("GET", server.url, pool_timeout=10)).body == b"xy"

        run(main)


NAMES = ("connect_timeout", "read_timeout", "write_timeout", "pool_timeout", "total_timeout")


@pytest.mark.parametrize("name", NAMES)
def test_none_is_no_limit(http, fetch, name):
    with HttpServer(raw(0.2, OK)) as server:
        assert fetch(http(), "POST", server.url, body=b"x", **{name: None}).body == b"ok"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [1e9, 1e300, float("inf")])
def test_very_long(http, fetch, name, value):
    """As good as none, and no overflow into the past."""
    with HttpServer(raw(0.05, OK)) as server:
        try:
            assert fetch(http(), "GET", server.url, **{name: value}).body == b"ok"
        except ValueError:
            assert value == float("inf")


@pytest.mark.parametrize("name", ["read_timeout", "total_timeout"])
@pytest.mark.parametrize("value", [0, 0.0, 1e-9, 1e-4, 0.0005, 1e-300])
def test_very_short(http, fetch, name, value):
    """No time at all is none, not all the time there is."""
    with HttpServer(stall()) as server:
        overdue(fetch, http(), server.url, name, at_least=0, **{name: value})


@pytest.mark.parametrize("value", [0, 1e-9, 1e-4])
def test_very_short_connecting(http, fetch, value):
    with full_backlog() as (host, port):
        url = f"http://{host}:{port}/"
        overdue(fetch, http(), url, "connect_timeout", at_least=0, connect_timeout=value)


@pytest.mark.parametrize("value", [0, 1e-9, 1e-4])
def test_very_short_writing(http, fetch, value):
    with HttpServer(raw(threading.Event(), read=False)) as server:
        options = {"body": b"x" * 30 * MB, "write_timeout": value}
        overdue(fetch, http(), server.url, "write_timeout", "POST", at_least=0, **options)


@pytest.mark.parametrize("value", [0, 1e-9, 1e-4])
def test_very_short_waiting_for_the_pool(http, value):
    with HttpServer(stall()) as server:
        client = http(max_connections=1)

        async def main():
            first = asyncio.create_task(client.request("GET", server.url))
            await until(lambda: server.requests)
            with pytest.raises(HttpError) as caught:
                await client.request("GET", server.url, pool_timeout=value)
            assert caught.value.kind == "pool_timeout"
            first.cancel()
            # no waiting, no timeout
            server.handler = echo
            await until(lambda: server.open == 0)
            assert (await client.request("GET", server.url, pool_timeout=value)).status == 200

        run(main)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-1, -0.001, float("nan"), float("-inf")])
def test_no_times(http, fetch, name, value):
    with HttpServer() as server:
        with pytest.raises(ValueError, match=name):
            fetch(http(), "GET", server.url, **{name: value})
        assert server.requests == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["1", b"1", [1], (1, 2), 1j, object()], ids=repr)
def test_no_numbers(http, fetch, name, value):
    with HttpServer() as server:
        with pytest.raises(TypeError):
            fetch(http(), "GET", server.url, **{name: value})
        assert server.requests == []


def test_a_slow_stream(http):
    """read() has the read timeout; what came before it is not lost."""
    gate = threading.Event()
    with HttpServer(chunked(b"first", gate, b"never")) as server:
        client = http()

        async def main():
            response = await client.request(
                "GET", server.url, mode=_core.HTTP_STREAM, read_timeout=0.3
            )
            assert await response.read() == b"first"
            with pytest.raises(HttpError) as caught:
                await response.read()
            assert caught.value.kind == "read_timeout"
            with pytest.raises(HttpError):
                await response.read()
            await until(lambda: server.open == 0)
            assert server.open == 0

        run(main)


def test_a_reader_that_takes_its_time(http):
    """The reader's own pauses are not the server's."""
    data = b"x" * 20 * MB
    with HttpServer(reply(200, data)) as server:
        client = http()

        async def main():
            response = await client.request(
                "GET", server.url, mode=_core.HTTP_STREAM, read_timeout=0.4, write_timeout=0.4
            )
            got = len(await response.read())
            await asyncio.sleep(1.5)
            while piece := await response.read():
                got += len(piece)
            assert got == len(data)

        run(main)


def test_total_of_a_stream(http):
    pieces = [step for _ in range(200) for step in (b"x", 0.05)]
    with HttpServer(chunked(*pieces)) as server:
        client = http()

        async def main():
            start = time.monotonic()
            response = await client.request(
                "GET", server.url, mode=_core.HTTP_STREAM, total_timeout=0.6
            )
            with pytest.raises(HttpError) as caught:
                while await response.read():
                    pass
            assert caught.value.kind == "total_timeout"
            assert 0.5 < time.monotonic() - start < 8

        run(main)


def test_one_slow_among_many(http, kind):
    """Another's timeout is another's."""

    def handler(x):
        if x.request.target == "/slow":
            x.pause(threading.Event())
        echo(x)

    with HttpServer(handler) as server:
        client = http()

        async def main():
            slow = [
                asyncio.create_task(client.request("GET", server.url + "/slow", read_timeout=0.3))
                for _ in range(5)
            ]
            for i in range(50):
                response = await client.request("GET", f"{server.url}/{i}", read_timeout=30)
                assert response.json()["target"] == f"/{i}"
            for result in await asyncio.gather(*slow, return_exceptions=True):
                assert isinstance(result, HttpError) and result.kind == "read_timeout"

        run(main, kind)
