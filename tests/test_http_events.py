"""Server-sent events: what the decoder of the OpenAI SDK makes of the same bytes."""

import asyncio
import contextlib
import json
import random
import threading
import time

import pytest
from faultkit import run, until
from httpkit import CLOSE, HttpServer, chunked, echo, head, raw, reply_json, resident
from openai._streaming import SSEDecoder

from arshai_native import _core
from arshai_native._core import HttpError

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

MB = 1 << 20
EVENTS = _core.HTTP_EVENTS


def expected(data):
    """(events, whether the SDK then fails): of the bytes as a whole."""
    events, decoder = [], SSEDecoder()
    try:
        for sse in decoder.iter_bytes(iter([data])):
            events.append((sse.event, sse.data, sse.id, sse.retry))
    except UnicodeDecodeError:
        return events, True
    return events, False


async def all_events(client, server, path="/"):
    response = await client.request("GET", server.url + path, mode=EVENTS)
    assert (response.status, response.body) == (200, b"")
    events = []
    while batch := await response.read_events():
        assert type(batch) is list
        events += batch
    assert await response.read_events() == []
    return events


CASES = {
    "one": b"data: hello\n\n",
    "several": b"data: 1\n\ndata: 2\n\ndata: 3\n\n",
    "crlf": b"data: 1\r\n\r\nevent: e\r\ndata: 2\r\n\r\n",
    "cr": b"data: 1\r\revent: e\rdata: 2\r\r",
    "mixed ends": b"data: 1\r\ndata: 2\ndata: 3\r\rdata: 4\n\ndata: 5\r\n\r\n",
    "cr and then crlf": b"data: 1\r\r\ndata: 2\r\n\r\n",
    "lf and then crlf": b"data: 1\n\r\ndata: 2\n\r\n",
    "multi-line": b"data: a\ndata: b\ndata:\ndata: c\n\n",
    "all fields": b"event: add\nid: 7\nretry: 1500\ndata: x\n\ndata: y\n\n",
    "fields in any order": b"data: x\nretry: 5\nevent: e\ndata: y\nid: z\n\n",
    "the last of each": b"event: a\nevent: b\nid: 1\nid: 2\nretry: 1\nretry: 2\ndata: x\n\n",
    "comments": b": hello\n\n:\n:x\ndata: 1\n: between\ndata: 2\n\n: end\n\n",
    "only comments": b": ping\n\n: ping\n\n",
    "empty lines": b"\n\n\ndata: 1\n\n\n\n\ndata: 2\n\n\n",
    "empty lines after an id": b"id: 1\ndata: a\n\n\n\ndata: b\n\n",
    "no space": b"data:x\nevent:y\n\n",
    "two spaces": b"data:  x \n\n",
    "a tab": b"data:\tx\n\n",
    "no colon": b"data\n\ndata\ndata\n\nevent\ndata: x\n\n",
    "only a colon": b"data:\n\ndata: \n\n",
    "colons": b"data: a: b:c\n\n",
    "unknown fields": b"foo: bar\ndata: x\n\nfoo\n\nDATA: x\n\n data: x\n\ndata : x\n\n",
    "event only": b"event: ping\n\n",
    "empty event": b"event:\ndata: x\n\nevent: \n\n",
    "id only": b"id: 5\n\ndata: x\n\n",
    "empty id": b"id: 5\ndata: x\n\nid\ndata: y\n\nid:\n\n",
    "nul in id": b"id: a\0b\ndata: x\n\nid: c\nid: \0\ndata: y\n\n",
    "nul in data": b"data: a\0b\n\nevent: \0\ndata: x\n\n",
    "retry only": b"retry: 10\n\n",
    "retry zero": b"retry: 0\n\n",
    "retry garbage": b"retry: abc\ndata: x\n\nretry:\ndata: y\n\nretry: 1.5\ndata: z\n\n",
    "retry garbage after a good one": b"retry: 1\nretry: x\ndata: y\n\n",
    "bom": b"\xef\xbb\xbfdata: x\n\ndata: y\n\n",
    "bom before a comment": b"\xef\xbb\xbf: x\n\ndata: y\n\n",
    "no final empty line": b"data: 1\n\ndata: 2\n",
    "no final line end": b"data: 1\n\ndata: 2",
    "an end in a line end": b"data: 1\r\n\r\ndata: 2\r\n\r",
    "nothing": b"",
    "an empty line": b"\n",
    "utf-8": "data: h\u00e9 \u20ac \U0001f600\nevent: \u00fc\nid: \u00df\n\n".encode(),
    "other line separators": "data: a\u2028b\u0085c\x0bd\x0ce\x1cf\n\n".encode(),
    "openai": b'data: {"a": 1}\n\ndata: {"b": [1, 2]}\n\ndata: [DONE]\n\n',
    "done and then more": b"data: [DONE]\n\ndata: x\n\n",
    "a long line": b"data: " + b"x" * 100_000 + b"\n\n",
    "many lines": b"data: y\n" * 5_000 + b"\n",
    "many events": b"".join(b"id: %d\ndata: %d\n\n" % (i, i) for i in range(5_000)),
}


@pytest.mark.parametrize("name", CASES)
def test_as_the_sdk(http, name):
    """Sent at once, in two halves, byte by byte."""
    data = CASES[name]
    events, fails = expected(data)
    assert not fails
    ways = [[data] if data else []]
    ways.append(
        [data[: len(data) // 2], 0.01, data[len(data) // 2 :]] if len(data) > 1 else ways[0]
    )
    if len(data) < 200:
        ways.append([step for i in range(len(data)) for step in (data[i : i + 1], 0.0005)])
    # of no length, so that pieces are pieces
    with HttpServer([raw(head(200), *steps, CLOSE) for steps in ways]) as server:
        client = http()

        async def main():
            for _ in ways:
                assert await all_events(client, server) == events

        run(main)


EVERYWHERE = (
    "id: \u00e9\r\nevent: \u20ac\rdata: \U0001f600\n\r\n: c\r\ndata: b\r\rretry: 12\n\ndata\n\r"
)


def test_cut_at_every_byte(http):
    """Two pieces, wherever the cut: in a character, between CR and LF, between two empty lines."""
    data = EVERYWHERE.encode()
    events, _ = expected(data)
    assert len(events) >= 4
    server = HttpServer()

    def handler(x):
        cut = int(x.request.target[1:])
        raw(head(200), data[:cut], 0.02, data[cut:], CLOSE)(x)

    server.handler = handler
    with server:
        client = http()

        async def main():
            cuts = range(len(data) + 1)
            results = await asyncio.gather(*(all_events(client, server, f"/{cut}") for cut in cuts))
            for cut, result in zip(cuts, results, strict=True):
                assert result == events, cut

        run(main)


TOKENS = [
    b"data", b"event", b"id", b"retry", b":", b": ", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"x",
    b"\r\n\r\n", b"\r\r", b"12", b"\0", "\u20ac".encode(), "\U0001f600".encode(), b"\xef\xbb\xbf",
    b"data: y\n", b"event: e\n", b"id: 3\n", b"[DONE]", b": c\n",
]  # fmt: skip


def test_random_streams(http):
    """What no list of cases thinks of, in random pieces."""
    chance = random.Random(4)
    streams = [b"".join(chance.choices(TOKENS, k=chance.randrange(1, 60))) for _ in range(400)]
    pieces = []
    for data in streams:
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(4)))
        parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        pieces.append([step for part in parts if part for step in (part, 0.001)])

    def handler(x):
        chunked(*pieces[int(x.request.target[1:])])(x)

    with HttpServer(handler) as server:
        client = http(max_connections=20)

        async def main():
            results = await asyncio.gather(
                *(all_events(client, server, f"/{i}") for i in range(len(streams)))
            )
            for data, result in zip(streams, results, strict=True):
                assert result == expected(data)[0], data

        run(main)


@pytest.mark.parametrize(
    "text",
    [
        "12",
        "0",
        "007",
        "+5",
        "-5",
        " 12 ",
        "1_000",
        "1__0",
        "12x",
        "0x10",
        "1e3",
        "",
        " ",
        "99999999999999999999999",
        "-0",
        "-99999999999999999999999",
        "9" * 4300,
        "9" * 4301,
        "\x1c5\x1f",
        "_1",
        "1_",
        "+_1",
        "+",
        "- 1",
    ],
)
def test_retry(http, text):
    """As int() reads it, but for digits that are not ASCII's."""
    data = f"retry: {text}\ndata: x\n\n".encode()
    with HttpServer(raw(head(200), data, CLOSE)) as server:
        client = http()
        assert run(lambda: all_events(client, server)) == expected(data)[0]


INVALID = {
    "a stray byte": b"\xff",
    "a stray continuation": b"\x80",
    "cut short": b"\xe2\x82",
    "overlong": b"\xc0\x80",
    "a surrogate": b"\xed\xa0\x80",
    "beyond": b"\xf4\x90\x80\x80",
}


@pytest.mark.parametrize(
    "where", ["data: %s", "event: %s", "id: %s", ": %s", "%s: x", "data: a%sb"]
)
@pytest.mark.parametrize("name", INVALID)
def test_no_utf8(http, name, where):
    """The events before it are given, then the SDK fails with UnicodeDecodeError: so do we."""
    line = where.encode().replace(b"%s", INVALID[name])
    data = b"data: before\n\n" + line + b"\ndata: x\n\ndata: after\n\n"
    events, fails = expected(data)
    assert fails and events == [(None, "before", None, None)]
    with HttpServer(chunked(data)) as server:
        client = http()

        async def main():
            response = await client.request("GET", server.url, mode=EVENTS)
            got = []
            with pytest.raises(UnicodeDecodeError):
                while batch := await response.read_events():
                    got += batch
            assert got == events
            response.close_stream()
            server.handler = echo
            assert (await client.request("GET", server.url)).status == 200

        run(main)


@pytest.mark.parametrize("size", [MB, 20 * MB])
def test_a_long_line(http, size):
    """Longer than what is buffered: there is no way but to keep it all."""
    text = b"0123456789abcdef" * (size // 16)
    data = b"data: " + text + b"\n\ndata: next\n\n"
    with HttpServer(chunked(data)) as server:
        client = http()
        events = run(lambda: all_events(client, server))
        assert [e[1] for e in events] == [text.decode(), "next"]


def test_a_long_id_that_lasts(http):
    """Every empty line is an event with it: they share it, or this would take 6 GB."""
    ident, count = "i" * 100_000, 60_000
    data = f"id: {ident}\n\n".encode() + b"\n" * count + b"id: x\ndata: y\n\n\n"
    with HttpServer(chunked(data)) as server:
        client = http()
        before = resident()
        events = run(lambda: all_events(client, server))
        assert events[: count + 1] == [(None, "", ident, None)] * (count + 1)
        assert events[count + 1 :] == [(None, "y", "x", None), (None, "", "x", None)]
        assert resident() - before < 256 * MB


def test_as_they_come(http, kind):
    """An event is given as soon as its empty line is there, not later."""
    gates = [threading.Event() for _ in range(5)]
    steps = []
    for i, gate in enumerate(gates):
        steps += [b"data: %d\n" % i, 0.01, b"\n", gate]
    with HttpServer(chunked(*steps)) as server:
        client = http()

        async def main():
            response = await client.request("GET", server.url, mode=EVENTS)
            for i, gate in enumerate(gates):
                assert await response.read_events() == [(None, str(i), None, None)]
                gate.set()
            assert await response.read_events() == []

        run(main, kind)


def test_an_event_that_ends_in_cr_is_there_at_once(http):
    """CR CR ends an event, whether or not an LF may still come."""
    gate = threading.Event()
    with HttpServer(chunked(b"data: 1\r\r", gate, b"data: 2\r\r")) as server:
        client = http()

        async def main():
            response = await client.request("GET", server.url, mode=EVENTS)
            assert [e[1] for e in await response.read_events()] == ["1"]
            gate.set()
            assert [e[1] for e in await response.read_events()] == ["2"]

        run(main)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_an_error_instead_of_events(http, status):
    """Its body is there whole."""
    with HttpServer(reply_json({"error": {"message": "no"}}, status)) as server:
        client = http()

        async def main():
            response = await client.request("GET", server.url, mode=EVENTS)
            assert response.status == status
            assert json.loads(response.body) == response.json() == {"error": {"message": "no"}}
            # it is at its end; whoever reads events nevertheless gets none
            with contextlib.suppress(RuntimeError, ValueError, HttpError):
                assert await response.read_events() == []

        run(main)


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_cut_off(http, framing):
    """The events that are complete are given, then the error."""
    data = b"data: 1\n\ndata: 2\n\ndata: 3"
    if framing == "chunked":
        handler = chunked(data, 0.05, CLOSE)
    else:
        handler = raw(head(200, [("Content-Length", "1000")]), data, 0.05, CLOSE)
    with HttpServer(handler) as server:
        client = http()

        async def main():
            response = await client.request("GET", server.url, mode=EVENTS)
            got = []
            with pytest.raises(HttpError) as caught:
                while batch := await response.read_events():
                    got += [event[1] for event in batch]
            assert caught.value.kind in ("protocol", "read")
            assert got == ["1", "2"]

        run(main)


@pytest.mark.parametrize("size", [10, 50_000])
def test_a_reader_that_stops(http, size):
    """No more than 1,024 events or 256 KB, and what the kernels hold, are taken."""
    event = b"data: " + b"x" * size + b"\n\n"
    block = event * (MB // len(event))
    total = 100 * len(block)
    sent, full = [0], threading.Event()

    def handler(x):
        x.read_body()
        x.send(head(200, [("Content-Length", str(total))]))
        while sent[0] < total:
            n = x.send_some(block, 0.7)
            sent[0] += n
            if n < len(block):
                break
        full.set()
        x.send(block[n:])
        for _ in range((total - sent[0]) // len(block)):
            x.send(block)

    with HttpServer(handler, send_buffer=64 << 10) as server:
        client = http()

        async def main():
            response = await client.request("GET", server.url, mode=EVENTS)
            count = len(await response.read_events())
            before = resident()
            assert await until(full.is_set, 30)
            assert sent[0] < 24 * MB
            assert resident() - before < 24 * MB
            while batch := await response.read_events():
                count += len(batch)
                assert {len(e[1]) for e in batch} == {size}
            assert count == total // len(event)

        run(main)


def test_cancelled_read_loses_nothing(http, kind):
    gates = [threading.Event() for _ in range(20)]
    steps = [step for i, gate in enumerate(gates) for step in (gate, b"data: %d\n\n" % i)]
    with HttpServer(chunked(*steps)) as server:
        client = http()

        async def main():
            response = await client.request("GET", server.url, mode=EVENTS)
            got = []
            for i, gate in enumerate(gates):
                reader = asyncio.create_task(response.read_events())
                await asyncio.sleep(0.002)
                if i % 2:
                    gate.set()
                    await asyncio.sleep(0.001 * (i % 5))
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    got += await reader
                gate.set()
                while len(got) <= i:
                    got += await asyncio.wait_for(response.read_events(), 10)
            assert [e[1] for e in got] == [str(i) for i in range(20)]

        run(main, kind)


def test_cancelled_when_they_have_come(http, kind):
    """The loop has not heard of them: the next read has what was there for the cancelled one."""
    gate = threading.Event()
    steps = [b"data: 1\n\n", gate, b"data: 2\n\n", 0.05, b"data: 3\n\n"]
    with HttpServer(chunked(*steps)) as server:
        client = http()

        async def main():
            response = await client.request("GET", server.url, mode=EVENTS)
            got = await response.read_events()
            reader = asyncio.create_task(response.read_events())
            await asyncio.sleep(0.02)
            gate.set()
            time.sleep(0.02)  # the loop is busy
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            while batch := await response.read_events():
                got += batch
            assert [e[1] for e in got] == ["1", "2", "3"]

        run(main, kind)


def test_two_readers(http):
    gate = threading.Event()
    with HttpServer(chunked(gate, b"data: x\n\n")) as server:
        client = http()

        async def main():
            response = await client.request("GET", server.url, mode=EVENTS)
            first = asyncio.create_task(response.read_events())
            await asyncio.sleep(0.02)
            with pytest.raises(RuntimeError, match="read"):
                await response.read_events()
            gate.set()
            assert [e[1] for e in await first] == ["x"]

        run(main)


def test_closed_early(http):
    closed = []

    def handler(x):
        x.read_body()
        x.send(head(200) + b"data: 1\n\n")
        closed.append(x.closed_by_client())

    with HttpServer(handler) as server:
        client = http()

        async def main():
            response = await client.request("GET", server.url, mode=EVENTS)
            assert [e[1] for e in await response.read_events()] == ["1"]
            response.close_stream()
            assert await until(lambda: closed == [True])
            assert closed == [True]

        run(main)


def test_many_streams(http, kind):
    """Each has its own events."""

    def handler(x):
        x.read_body()
        name = x.request.target[1:].encode()
        steps = [step for i in range(20) for step in (b"data: %s-%d\n\n" % (name, i), 0.002)]
        chunked(*steps)(x)

    with HttpServer(handler) as server:
        client = http()

        async def main():
            results = await asyncio.gather(
                *(all_events(client, server, f"/{n}") for n in range(50))
            )
            for n, events in enumerate(results):
                assert [e[1] for e in events] == [f"{n}-{i}" for i in range(20)]

        run(main, kind)
