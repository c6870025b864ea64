"""Bodies that are read piece by piece."""

import asyncio
import contextlib
import gc
import gzip
import threading
import time

import pytest
from faultkit import run, until
from httpkit import CLOSE, RESET, HttpServer, chunked, descriptors, echo, head, raw, reply, resident

from arshai_native import _core
from arshai_native._core import HttpError

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

MB = 1 << 20
STREAM = _core.HTTP_STREAM
PIECE_MAX = 768 << 10  # 256 KB, and what libcurl hands over at a time


def opened(client, server, **options):
    return client.request("GET", server.url, mode=STREAM, **options)


async def rest_of(response):
    pieces = []
    while piece := await response.read():
        assert type(piece) is bytes and len(piece) <= PIECE_MAX
        pieces.append(piece)
    return b"".join(pieces)


DATA = bytes(range(256)) * (5 * MB // 256)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [0, 1, 100_000, len(DATA)])
def test_read_to_the_end(http, kind, framing, size):
    data = DATA[:size]
    handler = {
        "length": reply(200, data, [("X-A", "1")]),
        "chunked": chunked(data, headers=[("X-A", "1")])
        if data
        else chunked(headers=[("X-A", "1")]),
        "close": raw(head(200, [("X-A", "1")]), data, CLOSE),
    }[framing]
    with HttpServer(handler) as server:
        client = http()

        async def main():
            for _ in range(2):
                response = await opened(client, server)
                assert (response.status, response.header("x-a")) == (200, "1")
                assert response.body == b""
                assert await rest_of(response) == data
                # the end stays the end
                assert await response.read() == b""
                assert await response.read() == b""
            # read to its end, the connection serves the next
            assert server.accepted == (2 if framing == "close" else 1)

        run(main, kind)


def test_pieces_as_they_come(http, kind):
    """Nothing waits for more than there is."""
    gates = [threading.Event() for _ in range(4)]
    steps = [step for i, gate in enumerate(gates) for step in (b"piece %d" % i, gate)]
    with HttpServer(chunked(*steps)) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            for i, gate in enumerate(gates):
                assert await response.read() == b"piece %d" % i
                gate.set()
            assert await response.read() == b""

        run(main, kind)


def test_headers_before_any_body(http):
    gate = threading.Event()
    with HttpServer(chunked(gate, b"x")) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            assert response.status == 200
            reader = asyncio.create_task(response.read())
            await asyncio.sleep(0.1)
            assert not reader.done()
            gate.set()
            assert await reader == b"x"

        run(main)


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_stream_of_an_error(http, status):
    """Its body is read like any other."""
    with HttpServer(reply(status, b"what is wrong")) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            assert response.status == status
            assert await rest_of(response) == b"what is wrong"

        run(main)


def test_compressed(http):
    packed = gzip.compress(DATA)
    with HttpServer(reply(200, packed, [("Content-Encoding", "gzip")])) as server:
        client = http()

        async def main():
            assert await rest_of(await opened(client, server)) == DATA
            assert await rest_of(await opened(client, server, decompress=False)) == packed

        run(main)


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["fin", "rst"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [0, 1, 3 * MB])
def test_cut_off(http, framing, size, end):
    """What came is given, then the error; and it stays one."""
    pieces = [DATA[:size]] if size else []
    if framing == "length":
        handler = raw(head(200, [("Content-Length", str(size + 10))]), *pieces, 0.1, end)
    else:
        handler = chunked(*pieces, 0.1, end)
    with HttpServer(handler) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            got = b""
            with pytest.raises(HttpError) as caught:
                while piece := await response.read():
                    got += piece
            assert caught.value.kind in ("protocol", "read")
            # a reset may destroy what is on its way
            assert got == DATA[:size] or (end is RESET and DATA.startswith(got))
            for _ in range(2):
                with pytest.raises(HttpError):
                    await response.read()
            server.handler = echo
            assert (await client.request("GET", server.url)).status == 200

        run(main)


def test_a_reader_that_stops(http):
    """The server is held up, the client's memory does not grow, and then it goes on."""
    total = 200 * MB
    block = bytes(MB)
    sent, full = [0], threading.Event()

    def handler(x):
        x.read_body()
        x.send(head(200, [("Content-Length", str(total))]))
        while True:
            n = x.send_some(block, 0.7)
            sent[0] += n
            if n < len(block):
                break
        full.set()
        while sent[0] < total:
            n = min(len(block), total - sent[0])
            x.send(block[:n])
            sent[0] += n

    with HttpServer(handler, send_buffer=64 << 10) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            first = await response.read()
            assert 0 < len(first) <= PIECE_MAX
            before = resident()
            assert await until(full.is_set, 30)
            # two kernels' buffers and the client's
            assert sent[0] < 24 * MB
            assert resident() - before < 24 * MB
            # others are not held up
            with HttpServer() as other:
                assert (await client.request("GET", other.url)).status == 200
            got = len(first)
            while piece := await response.read():
                got += len(piece)
            assert got == total

        run(main)


def test_many_readers_that_stop(http):
    """Each of them holds up its own connection only."""
    with HttpServer(reply(200, bytes(8 * MB)), send_buffer=64 << 10) as server:
        client = http()

        async def main():
            stopped = [await opened(client, server) for _ in range(10)]
            await asyncio.sleep(0.2)
            assert len(await rest_of(await opened(client, server))) == 8 * MB
            for response in stopped[:5]:
                response.close_stream()
            for response in stopped[5:]:
                assert len(await rest_of(response)) == 8 * MB

        run(main)


@pytest.mark.parametrize("when", ["at once", "after a piece", "while held up", "at the end"])
def test_closed_early(http, when):
    """The server sees the end of the connection, and read() says what happened."""
    closed = []

    def handler(x):
        x.read_body()
        try:
            x.send(head(200, [("Content-Length", str(100 * MB))]))
            x.send(bytes(100_000 if when != "while held up" else 50 * MB))
            closed.append(x.closed_by_client())
        except BaseException:
            closed.append(True)
            raise

    if when == "at the end":
        handler = reply(200, b"x" * 1000)
    with HttpServer(handler) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            if when in ("after a piece", "at the end"):
                assert await response.read()
            if when == "at the end":
                assert await response.read() == b""
            if when == "while held up":
                await asyncio.sleep(0.3)
            response.close_stream()
            response.close_stream()
            if when == "at the end":
                assert server.open == 1
                return
            assert await until(lambda: closed)
            assert closed == [True]
            try:
                assert await response.read() == b""
            except (HttpError, RuntimeError) as error:
                assert getattr(error, "kind", "closed") == "closed"
            assert await until(lambda: server.open == 0)
            server.handler = echo
            assert (await client.request("GET", server.url)).status == 200

        run(main)


@pytest.mark.parametrize("whole", [False, True])
def test_closed_with_something_unread(http, whole):
    """What has come and was not read is given up, too, and is not taken for the end."""
    handler = reply(200, b"x" * 1000) if whole else chunked(b"x" * 1000, threading.Event())
    with HttpServer(handler) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            await asyncio.sleep(0.05)
            response.close_stream()
            for _ in range(2):
                with pytest.raises(HttpError) as caught:
                    await response.read()
                assert caught.value.kind == "closed"

        run(main)


def test_closed_while_a_reader_waits(http, kind):
    """The reader is told; it does not wait for ever."""
    with HttpServer(chunked(b"x", threading.Event())) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            assert await response.read() == b"x"
            reader = asyncio.create_task(response.read())
            await asyncio.sleep(0.05)
            response.close_stream()
            done, _ = await asyncio.wait([reader], timeout=10)
            assert done
            result = (await asyncio.gather(reader, return_exceptions=True))[0]
            assert result == b"" or isinstance(result, (HttpError, RuntimeError))
            assert await until(lambda: server.open == 0)

        run(main, kind)


def test_dropped(http, kind):
    """A response that nobody holds any more gives its connection up."""
    with HttpServer(chunked(b"x", threading.Event())) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            assert await response.read() == b"x"
            del response
            gc.collect()
            assert await until(lambda: server.open == 0)
            # and before it was ever read
            await opened(client, server)
            gc.collect()
            assert await until(lambda: server.open == 0)

        run(main, kind)


def test_dropped_while_a_reader_waits(http):
    """The reader under way holds what it needs."""
    gate = threading.Event()
    with HttpServer(chunked(b"x", gate, b"y")) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            assert await response.read() == b"x"
            reader = asyncio.ensure_future(response.read())
            await asyncio.sleep(0.05)
            del response
            gc.collect()
            gate.set()
            assert await reader == b"y"

        run(main)


def test_a_cancelled_read_loses_nothing(http, kind):
    """The next read() gets what the cancelled one would have got."""
    gates = [threading.Event() for _ in range(30)]
    steps = [step for i, gate in enumerate(gates) for step in (gate, b"<%d>" % i)]
    with HttpServer(chunked(*steps)) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            got = b""
            for i, gate in enumerate(gates):
                reader = asyncio.create_task(response.read())
                await asyncio.sleep(0 if i % 3 else 0.005)
                if i % 2:
                    gate.set()
                    await asyncio.sleep(0.001 * (i % 7))
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    got += await reader
                gate.set()
                while not got.endswith(b"<%d>" % i):
                    got += await asyncio.wait_for(response.read(), 10)
            assert got == b"".join(b"<%d>" % i for i in range(30))
            assert await response.read() == b""

        run(main, kind)


def test_cancelled_when_it_has_come(http, kind):
    """The loop has not heard of it: the next read() has what was there for the cancelled one."""
    gate = threading.Event()
    with HttpServer(chunked(b"1", gate, b"2", 0.05, b"3")) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            assert await response.read() == b"1"
            reader = asyncio.create_task(response.read())
            await asyncio.sleep(0.02)
            gate.set()
            time.sleep(0.02)  # the loop is busy
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            got = b""
            while piece := await response.read():
                got += piece
            assert got == b"23"

        run(main, kind)


def test_read_with_a_timeout_of_ones_own(http, kind):
    gate = threading.Event()
    with HttpServer(chunked(b"1", gate, b"2")) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            assert await response.read() == b"1"
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(response.read(), 0.03)
            gate.set()
            assert await response.read() == b"2"
            assert await response.read() == b""

        run(main, kind)


def test_two_readers(http, kind):
    """The second is refused; the first is not affected."""
    gate = threading.Event()
    with HttpServer(chunked(gate, b"x")) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            first = asyncio.create_task(response.read())
            await asyncio.sleep(0.02)
            with pytest.raises(RuntimeError, match="read"):
                await response.read()
            gate.set()
            assert await first == b"x"
            assert await response.read() == b""

        run(main, kind)


def test_reads_that_are_not_awaited(http):
    """read() takes nothing before it is awaited."""
    with HttpServer(chunked(b"x")) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            response.read().close()
            one, two = response.read(), response.read()
            assert await one == b"x"
            assert await two == b""

        run(main)


def test_the_wrong_way_to_read(http):
    """Each mode has its own; the others say so."""
    with HttpServer(reply(200, b"{}")) as server:
        client = http()

        async def main():
            body = await client.request("GET", server.url)
            stream = await opened(client, server)
            events = await client.request("GET", server.url, mode=_core.HTTP_EVENTS)
            for response, name in (
                (body, "read"),
                (body, "read_events"),
                (stream, "read_events"),
                (events, "read"),
                (body, "embeddings"),
                (stream, "embeddings"),
            ):
                with pytest.raises((RuntimeError, ValueError, TypeError)):
                    result = getattr(response, name)()
                    if name != "embeddings":
                        await result
            with pytest.raises((RuntimeError, ValueError)):
                stream.json()
            body.close_stream()  # nothing to close is no error
            assert await stream.read() == b"{}"

        run(main)


def test_another_loop(http):
    """A stream belongs to the loop that opened it, or works on another: but it does not hang."""
    gate = threading.Event()
    with HttpServer(chunked(b"x", gate, b"y")) as server:
        client = http()
        kept = []

        async def first():
            kept.append(await opened(client, server))
            assert await kept[0].read() == b"x"

        async def second():
            gate.set()
            with contextlib.suppress(RuntimeError, HttpError):
                assert await kept[0].read() == b"y"
            kept[0].close_stream()

        run(first)
        run(second)
        assert (client.request_sync("GET", server.url)).body == b"xy"


def test_many_streams_at_once(http, kind):
    data = DATA[: 300 * 1024]
    with HttpServer(chunked(data[:1000], 0.01, data[1000:200_000], 0.01, data[200_000:])) as server:
        client = http()

        async def main():
            async def one():
                return await rest_of(await opened(client, server))

            assert all(r == data for r in await asyncio.gather(*(one() for _ in range(60))))

        run(main, kind)


def test_descriptors_of_streams(http):
    with HttpServer(chunked(b"x", 0.01, b"y")) as server:
        client = http()

        async def main():
            await rest_of(await opened(client, server))
            before = descriptors()
            for i in range(30):
                response = await opened(client, server)
                if i % 3 == 0:
                    response.close_stream()
                elif i % 3 == 1:
                    del response
                else:
                    await rest_of(response)
            assert await until(lambda: descriptors() <= before + 4)
            assert descriptors() <= before + 4

        run(main)


def test_redirected_stream(http):
    with HttpServer([reply(302, b"no" * 1000, [("Location", "/x")]), chunked(b"yes")]) as server:
        client = http()

        async def main():
            response = await opened(client, server)
            assert response.url == server.url + "/x"
            assert await rest_of(response) == b"yes"

        run(main)


def test_elapsed_of_a_stream(http):
    """Up to its headers or its end, but some time."""
    with HttpServer(raw(0.1, head(200, [("Content-Length", "1")]), b"x")) as server:
        client = http()

        async def main():
            start = time.monotonic()
            response = await opened(client, server)
            assert 0.05 < response.elapsed <= time.monotonic() - start + 0.05
            await rest_of(response)

        run(main)
