"""Servers that break: at every stage an error that says which, and a client that goes on."""

import asyncio
import gzip
import random
import socket
import time

import pytest
from faultkit import run, until
from httpkit import (
    CLOSE,
    RESET,
    HttpServer,
    descriptors,
    echo,
    head,
    raw,
    reply,
    resident,
)

from arshai_native import _core
from arshai_native._core import HttpError

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

MB = 1 << 20
BROKEN = ("protocol", "read")  # the server's reply is none; which of them depends on the stage
MODES = [_core.HTTP_BODY, _core.HTTP_JSON, _core.HTTP_EMBEDDINGS]


def fails(fetch, client, url, kinds, method="GET", **options):
    """The request ends with an HttpError of one of these kinds, which is returned."""
    with pytest.raises(HttpError) as caught:
        fetch(client, method, url, **options)
    error = caught.value
    assert error.kind in ([kinds] if isinstance(kinds, str) else kinds), (error.kind, str(error))
    assert len(error.args) == 1 and str(error) == error.args[0]
    assert len(str(error)) > 5
    return error


def goes_on(fetch, client, server):
    """The client serves the next request, on a connection that nothing is left on."""
    server.handler = echo
    for n in range(3):
        # once more, as the server may be closing just now the connection that is used again
        response = fetch(client, "POST", f"{server.url}/next/{n}", body=b"next", max_retries=1)
        assert response.json()["target"] == f"/next/{n}"


# ---- URLs ----


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "example.com/x",
        "//example.com/x",
        "http://",
        "http:///path",
        "http://[::1",
        "http://host:port/",
        "http://host:99999/",
        "http://host:-1/",
        "http://ho st/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "ws://127.0.0.1/",
        "gopher://127.0.0.1/",
        "unknown://127.0.0.1/",
        "javascript:alert(1)",
        "http://127.0.0.1\r\nX-Evil: 1/",
        "http://127.0.0.1/\0",
        "http://127.0.0.1/a\r\nX-Evil:1",
    ],
)
def test_urls_that_are_none(http, fetch, url):
    client = http()
    with pytest.raises((HttpError, ValueError)) as caught:
        fetch(client, "GET", url)
    if isinstance(caught.value, HttpError):
        assert caught.value.kind == "url"


def test_control_characters_in_a_url_are_never_sent(http, fetch):
    """Refused or encoded, but no second line of the request."""
    with HttpServer() as server:
        for tail in (
            "/a\rb",
            "/a\nX-Evil: 1",
            "/a?\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
            "/\t",
            "/\x7f",
        ):
            try:
                fetch(http(), "GET", server.url + tail)
            except (HttpError, ValueError) as error:
                assert getattr(error, "kind", "url") == "url"
        for request in server.requests:
            assert request.all("x-evil") == []
            assert not set(request.target) & set("\r\n\t\x7f ")
        assert server.count("/evil") == 0


def test_credentials_of_a_url_are_in_no_error(http, fetch):
    client = http()
    with HttpServer() as server:
        server.refuse()
        for url in (
            f"http://user:s3cret-pw@127.0.0.1:{server.port}/",
            "http://user:s3cret-pw@host.invalid/",
            "http://user:s3cret-pw@[broken/",
            "nope://user:s3cret-pw@127.0.0.1/",
            "http://user:s3cret-pw@127.0.0.1:99999/",
        ):
            with pytest.raises((HttpError, ValueError)) as caught:
                fetch(client, "GET", url)
            assert "s3cret-pw" not in str(caught.value) + repr(caught.value)


def test_queries_are_in_no_error(http, fetch):
    """Keys are given in queries, too (Azure, Google)."""
    with HttpServer(raw(CLOSE)) as server:
        for handler in (raw(CLOSE), raw(b"garbage\r\n\r\n", CLOSE), raw(RESET)):
            server.handler = handler
            error = fails(fetch, http(), server.url + "/?key=s3cret-key", BROKEN)
            assert "s3cret-key" not in str(error)


# ---- no connection ----


def test_a_name_that_nobody_knows(http, fetch):
    error = fails(fetch, http(), "http://no.such.host.invalid/", "dns")
    assert "no.such.host.invalid" in str(error)


def test_refused(http, fetch):
    with HttpServer() as server:
        client = http()
        server.refuse()
        error = fails(fetch, client, server.url, "connect")
        assert str(server.port) in str(error)
        fails(fetch, client, server.url.replace("127.0.0.1", "localhost"), "connect")
        server.listen()
        goes_on(fetch, client, server)


def test_a_unix_socket_that_is_not_there(http, fetch, tmp_path):
    (tmp_path / "file").write_text("no socket")
    for path in ("missing", "file"):
        fails(fetch, http(unix_socket=str(tmp_path / path)), "http://x/", "connect")
    with pytest.raises((HttpError, ValueError)):
        fetch(http(unix_socket=str(tmp_path / ("x" * 300))), "GET", "http://x/")


# ---- ends at every stage ----


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_gone_when_it_was_accepted(http, fetch, reset):
    def accept(sock):
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()

    with HttpServer(on_accept=accept) as server:
        client = http()
        fails(fetch, client, server.url, (*BROKEN, "write", "connect"), body=b"x", method="POST")
        assert server.accepted <= 2
        server.on_accept = None
        goes_on(fetch, client, server)


REPLY = head(200, [("Content-Type", "application/json"), ("Content-Length", "22")])
REPLY += b'{"a": [1, 2, 3, 4, 5]}'


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["fin", "rst"])
@pytest.mark.parametrize(
    "after", [0, 1, 8, 12, 17, 40, len(REPLY) - 23, len(REPLY) - 22, len(REPLY) - 1]
)
@pytest.mark.parametrize("mode", MODES)
def test_cut_off(http, fetch, end, after, mode):
    """A part of a reply is no reply, whichever part."""
    with HttpServer(raw(REPLY[:after], 0.02, end)) as server:
        client = http()
        fails(fetch, client, server.url, BROKEN, mode=mode, body=b"{}", method="POST")
        assert len(server.requests) == 1
        goes_on(fetch, client, server)


CHUNKED = head(200, [("Transfer-Encoding", "chunked")])


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["fin", "rst"])
@pytest.mark.parametrize(
    "body",
    [b"", b"5", b"5\r\n", b"5\r\nhel", b"5\r\nhello", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n"],
)
def test_chunked_and_cut_off(http, fetch, body, end):
    with HttpServer(raw(CHUNKED + body, 0.02, end)) as server:
        client = http()
        fails(fetch, client, server.url, BROKEN)
        goes_on(fetch, client, server)


@pytest.mark.parametrize(
    "body",
    [
        b"xyz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5 hello\r\n\r\n",
        b"1" * 100_000,
    ],
)
def test_chunks_that_are_none(http, fetch, body):
    with HttpServer(raw(CHUNKED + body, CLOSE)) as server:
        client = http()
        fails(fetch, client, server.url, BROKEN)
        goes_on(fetch, client, server)


GARBAGE = {
    "binary": bytes(range(128, 256)) * 10 + b"\r\n\r\n",
    "zeros": b"\0" * 1000,
    "redis": b"-ERR unknown command 'GET'\r\n",
    "smtp": b"220 mail.example ESMTP\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "tls alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "http/0.9": b"<html>hello</html>",
    "status not a number": b"HTTP/1.1 abc OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "version": b"HTTP/9.9 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "empty lines": b"\r\n" * 100,
}


@pytest.mark.parametrize("name", GARBAGE)
def test_no_http(http, fetch, name):
    with HttpServer(raw(GARBAGE[name], 0.02, CLOSE)) as server:
        client = http()
        fails(fetch, client, server.url, BROKEN)
        goes_on(fetch, client, server)


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: abc\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 99999999999999999999999999\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: nonsense\r\n",
        b"no colon at all\r\nContent-Length: 2\r\n",
        b": no name\r\nContent-Length: 2\r\n",
        b"X-Nul: a\0b\r\nContent-Length: 2\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 2\r\n",
        b"Content-Encoding: gzip, gzip, gzip, gzip, gzip, gzip, gzip\r\nContent-Length: 2\r\n",
        b"Content-Encoding: unheard-of\r\nContent-Length: 2\r\n",
    ],
)
def test_header_garbage(http, fetch, lines):
    """An error or a reply whose body is what was sent; the next request has its own reply."""
    with HttpServer(raw(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\nok", 0.02, CLOSE)) as server:
        client = http()
        try:
            response = fetch(client, "GET", server.url)
            assert response.status == 200
            assert response.body in (b"ok", b"")
            assert all(type(name) is type(value) is bytes for name, value in response.headers)
        except HttpError as error:
            assert error.kind in BROKEN
        goes_on(fetch, client, server)


@pytest.mark.parametrize("size", [8_000, 90_000])
def test_a_long_header_line(http, fetch, size):
    value = "x" * size
    with HttpServer(reply(200, b"ok", [("X-Long", value)])) as server:
        response = fetch(http(), "GET", server.url)
        assert (response.header("x-long"), response.body) == (value, b"ok")


def test_many_header_lines(http, fetch):
    lines = [(f"X-{i}", "y" * 1000) for i in range(250)]
    with HttpServer(reply(200, b"ok", lines)) as server:
        response = fetch(http(), "GET", server.url)
        assert (response.body, response.header("x-249")) == (b"ok", "y" * 1000)


@pytest.mark.parametrize("what", ["one line", "many lines", "no end"])
def test_headers_without_end(http, fetch, what):
    """More than anybody needs is refused, before it costs memory."""
    headers = {
        "one line": b"X-Long: " + b"x" * 200_000 + b"\r\n",
        "many lines": b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(20_000)),
        "no end": b"X-Long: " + b"x" * 30_000_000,
    }[what]
    with HttpServer(raw(b"HTTP/1.1 200 OK\r\n", headers, b"\r\n", CLOSE)) as server:
        client = http()
        before = resident()
        fails(fetch, client, server.url, ("protocol",))
        assert resident() - before < 64 * MB
        goes_on(fetch, client, server)


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_compressed_and_broken(http, fetch, coding):

    packed = gzip.compress(b"hello " * 1000)
    if coding == b"deflate":
        packed = packed[10:-8]
    for body in (
        packed[:-30],
        b"\x1f\x8b garbage, no end",
        packed[:20] + b"xxxxxxxx" + packed[28:],
    ):
        start = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\n" % coding
        start += b"Content-Length: %d\r\n\r\n" % len(body)
        with HttpServer(raw(start + body)) as server:
            client = http()
            try:
                response = fetch(client, "GET", server.url)
                # a missing end is what zlib alone cannot tell from a pause
                assert body == packed[:-30]
                assert (b"hello " * 1000).startswith(response.body)
            except HttpError as error:
                assert error.kind in BROKEN
            goes_on(fetch, client, server)


def test_a_decompression_bomb_costs_what_it_holds(http, fetch):
    """64 MB out of 64 KB: given as it is, memory once or twice, the process lives."""

    packed = gzip.compress(bytes(64 * MB), 9)
    with HttpServer(reply(200, packed, [("Content-Encoding", "gzip")])) as server:
        client = http()
        before = resident()
        try:
            response = fetch(client, "GET", server.url)
            assert len(response.body) == 64 * MB
        except HttpError as error:
            assert error.kind in ("memory", *BROKEN)
        assert resident() - before < 400 * MB


def test_a_length_that_is_a_lie(http, fetch):
    """No memory is taken for what was only announced."""
    with HttpServer(
        raw(head(200, [("Content-Length", str(1 << 40))]), b"x" * 1000, 0.05, CLOSE)
    ) as s:
        client = http()
        before = resident()
        fails(fetch, client, s.url, (*BROKEN, "memory"))
        assert resident() - before < 64 * MB
        goes_on(fetch, client, s)


@pytest.mark.parametrize("mode", MODES)
def test_large_error_pages(http, fetch, mode):
    page = b"<html>" + b"no " * (10 * MB // 3)
    with HttpServer(reply(502, page, [("Content-Type", "text/html")])) as server:
        client = http()
        response = fetch(client, "GET", server.url, mode=mode)
        assert (response.status, response.body) == (502, page)
        with pytest.raises(ValueError):
            response.json()
        goes_on(fetch, client, server)


@pytest.mark.parametrize("rest", [b"EVIL", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"])
def test_more_than_was_asked_for(http, fetch, rest):
    """What comes behind a reply is not the reply to the next request."""
    with HttpServer(raw(head(200, [("Content-Length", "2")]) + b"ok" + rest)) as server:
        client = http()
        assert fetch(client, "GET", server.url).body == b"ok"
        time.sleep(0.05)
        goes_on(fetch, client, server)


def test_a_reply_before_the_request(http, fetch):
    """A server that answers at once, and closes before it has read the body."""

    def handler(x):
        x.send(head(413, [("Content-Length", "5"), ("Connection", "close")]) + b"large")
        x.closed_by_client(2)
        x.close()

    with HttpServer(handler) as server:
        client = http()
        response = fetch(client, "POST", server.url, body=b"x" * 20 * MB)
        assert (response.status, response.body) == (413, b"large")
        goes_on(fetch, client, server)


def test_reset_while_the_body_is_sent(http, fetch):
    with HttpServer(raw(0.05, RESET, read=False)) as server:
        client = http()
        fails(fetch, client, server.url, ("write", *BROKEN), method="POST", body=b"x" * 50 * MB)
        goes_on(fetch, client, server)


# ---- kept-alive connections that the server closes ----


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["fin", "rst"])
def test_closed_while_idle(http, fetch, method, end):
    """Nobody notices that the server has ended an idle connection."""
    body = b"body" if method == "POST" else None
    ok = head(200, [("Content-Length", "2")]) + b"ok"
    with HttpServer(raw(ok, end)) as server:
        client = http()
        for _ in range(5):
            assert fetch(client, method, server.url, body=body).body == b"ok"
            time.sleep(0.02)
        assert len(server.requests) == server.accepted == 5


# What may be repeated: a method that does nothing twice, or a caller that has asked for retries.
REPEATED = [("PUT", 0), ("DELETE", 0), ("POST", 1), ("PATCH", 2)]
ONCE = ["POST", "PATCH", "INVENTED"]


@pytest.mark.parametrize("method, retries", REPEATED)
@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["fin", "rst"])
@pytest.mark.parametrize("size", [10, 300_000])
def test_closed_just_as_the_next_request_comes(http, fetch, end, size, method, retries):
    """Nothing of a reply has come: the request goes out again on a fresh connection, whole."""
    body = b"x" * size
    with HttpServer([echo, raw(end), echo]) as server:
        client = http()
        fetch(client, "GET", server.url)
        url = server.url + "/again"
        response = fetch(client, method, url, body=body, max_retries=retries)
        assert response.json()["body"] == body.decode()
        assert [r.connection for r in server.requests] == [1, 1, 2]
        assert server.requests[2].body == body
        assert response.retries == 0


@pytest.mark.parametrize("method", ONCE)
@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["fin", "rst"])
@pytest.mark.parametrize("size", [10, 300_000])
def test_what_is_not_repeated(http, fetch, end, size, method):
    """The server may have acted on it, and nobody has asked for a retry."""
    with HttpServer([echo, raw(end), echo]) as server:
        client = http()
        fetch(client, "GET", server.url)
        fails(fetch, client, server.url, BROKEN, method=method, body=b"x" * size)
        assert len(server.requests) == 2
        goes_on(fetch, client, server)


@pytest.mark.parametrize("method, retries", REPEATED)
def test_closed_while_the_next_request_is_sent(http, fetch, method, retries):
    with HttpServer([echo, raw(RESET, read=False), echo]) as server:
        client = http()
        fetch(client, "GET", server.url)
        body = b"x" * 20 * MB
        response = fetch(client, method, server.url + "/again", body=body, max_retries=retries)
        assert response.json()["target"] == "/again"
        assert server.requests[2].body == body


@pytest.mark.parametrize("method", ONCE)
def test_what_is_not_sent_twice(http, fetch, method):
    with HttpServer([echo, raw(RESET, read=False), echo]) as server:
        client = http()
        fetch(client, "GET", server.url)
        fails(fetch, client, server.url, (*BROKEN, "write"), method=method, body=b"x" * 20 * MB)
        assert len(server.requests) == 2


def test_not_again_when_something_has_come(http, fetch):
    """The server has begun to answer: who knows what it did."""
    with HttpServer([echo, raw(b"HTTP/1.1 2", 0.02, CLOSE), echo]) as server:
        client = http()
        fetch(client, "GET", server.url)
        fails(fetch, client, server.url, BROKEN, method="POST", body=b"x")
        assert len(server.requests) == 2


def test_not_again_on_a_fresh_connection(http, fetch):
    with HttpServer([raw(CLOSE), echo]) as server:
        client = http()
        fails(fetch, client, server.url, BROKEN, method="POST", body=b"x")
        assert len(server.requests) == 1


def test_not_again_and_again(http, fetch):
    """A server that ends every connection with the second request is no endless loop."""

    def handler(x):
        first = not any(r.connection == x.request.connection for r in server.requests[:-1])
        if first and x.request.target == "/first":
            echo(x)
        else:
            x.read_body()
            x.close()

    with HttpServer(handler) as server:
        client = http()

        async def main():
            await asyncio.gather(*(client.request("GET", server.url + "/first") for _ in range(10)))

        run(main)
        fails(fetch, client, server.url + "/x", (*BROKEN, "write"))
        assert server.count("/x") <= 12


def test_all_under_way_fail_once(http, kind):
    """A server that is gone: everybody is told, nobody hangs."""
    with HttpServer(raw(60)) as server:
        client = http()

        async def main():
            tasks = [asyncio.ensure_future(client.request("GET", server.url)) for _ in range(100)]
            await until(lambda: len(server.requests) == 100)
            server.refuse()
            server.drop_all()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(r) for r in results} == {HttpError}
            assert {r.kind for r in results} <= {*BROKEN, "connect"}
            server.listen()
            server.handler = echo
            assert (await client.request("GET", server.url)).status == 200

        run(main, kind)


def test_nobody_gets_anothers_reply(http, kind):
    """Connections break at random while hundreds of requests are under way."""

    chance = random.Random(1)

    def handler(x):
        body = x.read_body()
        text = head(200, [("Content-Length", str(len(body)))]) + body
        cut = chance.randrange(len(text)) if chance.random() < 0.2 else len(text)
        x.send(text[:cut])
        if cut < len(text):
            x.close()

    with HttpServer(handler) as server:
        client = http(max_connections=20)

        async def main():
            async def one(i):
                body = b"%d " % i * (1 + i % 50)
                try:
                    response = await client.request("POST", server.url, body=body)
                except HttpError as error:
                    assert error.kind in BROKEN
                    return 0
                assert response.body == body
                return 1

            done = await asyncio.gather(*(one(i) for i in range(600)))
            assert 300 < sum(done) < 600

        run(main, kind)


def test_descriptors_after_faults(http, fetch):
    with HttpServer() as server:
        client = http()
        goes_on(fetch, client, server)
        before = descriptors()
        for handler in (raw(CLOSE), raw(RESET), raw(b"xx\r\n\r\n"), raw(CHUNKED, b"xyz\r\n")):
            server.handler = handler
            for _ in range(10):
                with pytest.raises(HttpError):
                    fetch(client, "GET", server.url, read_timeout=5)
        deadline = time.monotonic() + 10
        while descriptors() > before + 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert descriptors() <= before + 4
