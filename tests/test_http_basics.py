"""What goes out and what comes in when nothing is wrong."""

import asyncio
import gzip
import json
import threading
import time
import zlib

import pytest
from faultkit import run
from httpkit import (
    CLOSE,
    HttpServer,
    Nginx,
    by_path,
    chunk,
    chunked,
    echo,
    head,
    raw,
    reply,
    reply_json,
)

from arshai_native import _core
from arshai_native._core import HttpHeaders

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

MB = 1 << 20
BIG = bytes(range(256)) * (10 * MB // 256)


def test_the_modes_are_numbers():
    modes = ("HTTP_BODY", "HTTP_JSON", "HTTP_EMBEDDINGS", "HTTP_STREAM", "HTTP_EVENTS")
    assert [getattr(_core, name) for name in modes] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"])
@pytest.mark.parametrize("body", [None, b"", b"body"])
def test_methods(http, fetch, method, body):
    with HttpServer() as server:
        client = http()
        for _ in range(2):
            response = fetch(client, method, server.url + "/p?q=1", body=body)
            assert response.status == 200
            seen = response.json()
            assert (seen["method"], seen["target"]) == (method, "/p?q=1")
            assert seen["body"] == (body or b"").decode()
        sent = server.requests[0]
        assert sent.version == "HTTP/1.1"
        assert sent.get("host") == f"127.0.0.1:{server.port}"
        # what a body of none is may be left open only where none is usual
        if body or method in ("POST", "PUT", "PATCH"):
            assert sent.get("content-length") == str(len(body or b""))
        # curl's own ideas
        for name in ("content-type", "expect", "transfer-encoding", "user-agent", "accept"):
            assert sent.all(name) == [], name
        assert server.accepted == 1


def test_the_response(http, fetch):
    headers = [("Content-Type", "text/plain"), ("X-A", "1"), ("SET-cookie", "a"), ("X-a", "2")]
    with HttpServer(reply(201, b"hello", headers, reason="Quite so")) as server:
        client = http()
        response = fetch(client, "GET", server.url + "/path")
        assert type(response.status) is int
        assert (response.status, response.reason) == (201, "Quite so")
        assert response.http_version == "HTTP/1.1"
        assert response.url == server.url + "/path"
        assert response.headers == [
            (b"content-type", b"text/plain"),
            (b"x-a", b"1"),
            (b"set-cookie", b"a"),
            (b"x-a", b"2"),
            (b"content-length", b"5"),
        ]
        assert response.header("x-A") == "2"
        assert response.header("missing") is None
        assert response.retries == 0
        assert 0 < response.elapsed < 30
        assert response.body == b"hello"
        assert response.body is response.body or response.body == b"hello"
        with pytest.raises(AttributeError):
            response.status = 1


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"HTTP/1.1 200 OK", "OK"),
        (b"HTTP/1.1 200 ", ""),
        (b"HTTP/1.1 200", ""),
        (b"HTTP/1.1 299 Not Known Anywhere", "Not Known Anywhere"),
        (b"HTTP/1.1 200 Caf\xe9", "Caf\xe9"),
    ],
)
def test_reasons(http, fetch, line, reason):
    with HttpServer(raw(line + b"\r\nContent-Length: 0\r\n\r\n")) as server:
        response = fetch(http(), "GET", server.url)
        assert response.reason == reason
        assert response.status == int(line[9:12])


def test_headers_as_they_are_given(http, fetch):
    given = [
        ("Authorization", "Bearer abc"),
        ("X-Stainless-Lang", "python"),
        ("accept", "application/json"),
        ("X-Twice", "1"),
        ("User-Agent", "test/1"),
        ("X-Empty", ""),
        ("X-Twice", "2"),
        ("X-Colon", "a: b; c=d"),
        ("Content-Type", "application/json"),
    ]
    with HttpServer() as server:
        client = http()
        for headers in (given, tuple(given), HttpHeaders(given), [tuple(p) for p in given]):
            fetch(client, "POST", server.url, headers, b"{}")
        for request in server.requests:
            names = {name for name, _ in given}
            assert [pair for pair in request.headers if pair[0] in names] == given
            added = {name.lower() for name, _ in request.headers if name not in names}
            assert added <= {"host", "accept-encoding", "content-length", "connection"}
        assert len(server.requests) == 4


def test_headers_shared_by_many(http):
    """One HttpHeaders, many requests and clients: nothing of one gets into another."""
    shared = HttpHeaders([("X-A", "1"), ("Content-Type", "application/json")])
    with HttpServer() as server:
        clients = [http(), http()]

        async def main():
            return await asyncio.gather(
                *(
                    clients[i % 2].request("POST", f"{server.url}/{i}", shared, b"x" * i)
                    for i in range(50)
                )
            )

        for i, response in enumerate(run(main)):
            seen = response.json()
            assert (seen["target"], len(seen["body"])) == (f"/{i}", i)
            assert [v for k, v in seen["headers"] if k == "X-A"] == ["1"]


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Accept-Encoding", "Connection"])
def test_own_values_of_framing_headers(http, fetch, name):
    """What the engine adds by itself is there once, as the caller says."""
    value = {"Host": "elsewhere:1", "Content-Length": "4", "Accept-Encoding": "identity"}.get(
        name, "keep-alive"
    )
    with HttpServer() as server:
        fetch(http(), "POST", server.url, [(name, value)], b"body")
        assert server.requests[0].get(name) == value
        assert server.requests[0].body == b"body"


def test_text_as_body(http, fetch):
    with HttpServer() as server:
        fetch(http(), "POST", server.url, body="h\u00e9 \u20ac \U0001f600")
        assert server.requests[0].body == "h\u00e9 \u20ac \U0001f600".encode()


def test_text_that_is_no_utf8(http, fetch):
    with HttpServer() as server:
        with pytest.raises(UnicodeEncodeError):
            fetch(http(), "POST", server.url, body="\ud800")
        assert server.requests == []


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 70_000, MB, len(BIG)])
def test_bodies_up(http, fetch, size):
    with HttpServer(reply()) as server:
        assert fetch(http(), "POST", server.url, body=BIG[:size]).status == 200
        assert server.requests[0].body == BIG[:size]
        # no second round trip for large bodies
        assert server.requests[0].get("expect") is None


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [0, 1, 16_384, 70_000, len(BIG)])
def test_bodies_down(http, fetch, framing, size):
    data = BIG[:size]
    handler = {
        "length": reply(200, data),
        "chunked": chunked(*(data[i : i + 100_000] for i in range(0, size, 100_000))),
        "close": raw(head(200), data, CLOSE),
    }[framing]
    with HttpServer(handler) as server:
        client = http()
        for _ in range(2):
            response = fetch(client, "GET", server.url)
            assert response.body == data
            assert type(response.body) is bytes
        assert server.accepted == (2 if framing == "close" else 1)


def test_a_reply_byte_by_byte(http, fetch):
    text = head(200, [("X-A", "b"), ("Transfer-Encoding", "chunked")])
    text += chunk(b"hello ") + b"5;ext=1\r\nworld\r\n" + chunk(b"")
    steps = [step for i in range(len(text)) for step in (text[i : i + 1], 0.001)]
    with HttpServer([raw(*steps), reply(200, b"next")]) as server:
        client = http()
        response = fetch(client, "GET", server.url)
        assert (response.body, response.header("x-a")) == (b"hello world", "b")
        assert fetch(client, "GET", server.url).body == b"next"
        assert server.accepted == 1


def test_chunked_with_trailers(http, fetch):
    body = b"3\r\nabc\r\n0\r\nX-Trailer: evil\r\nContent-Length: 9\r\n\r\n"
    start = head(200, [("Transfer-Encoding", "chunked"), ("X-A", "1")])
    with HttpServer(raw(start + body)) as server:
        client = http()
        for _ in range(2):
            response = fetch(client, "GET", server.url)
            assert response.body == b"abc"
            assert response.headers == [(b"transfer-encoding", b"chunked"), (b"x-a", b"1")]
        assert server.accepted == 1


@pytest.mark.parametrize(
    "method, status", [("HEAD", 200), ("GET", 204), ("POST", 204), ("GET", 304)]
)
def test_replies_without_body(http, fetch, method, status):
    """They end with their headers, whatever those say of a length."""
    start = head(status, [] if status == 204 else [("Content-Length", "1000")])
    with HttpServer(raw(start)) as server:
        client = http()
        for _ in range(3):
            response = fetch(client, method, server.url)
            assert (response.status, response.body) == (status, b"")
        assert server.accepted == 1


def test_a_status_is_no_exception(http, fetch):
    for status in (400, 401, 403, 404, 418, 422, 429, 500, 503, 599):
        with HttpServer(reply_json({"error": status}, status)) as server:
            client = http()
            for mode in (_core.HTTP_BODY, _core.HTTP_JSON, _core.HTTP_EMBEDDINGS):
                response = fetch(client, "GET", server.url, mode=mode)
                assert response.status == status
                assert response.json() == {"error": status}
                assert response.body == json.dumps({"error": status}).encode()


# ---- compression ----

PLAIN = b"The same again. " * 5000


def deflate(data, bits):
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    return packer.compress(data) + packer.flush()


ENCODINGS = {
    "gzip": gzip.compress(PLAIN),
    "deflate": deflate(PLAIN, 15),
    "deflate, raw": deflate(PLAIN, -15),
    "identity": PLAIN,
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_compressed(http, fetch, name):
    headers = [("Content-Encoding", name.split(",")[0])]
    with HttpServer(
        [reply(200, ENCODINGS[name], headers), chunked(ENCODINGS[name], headers=headers)]
    ) as s:
        client = http()
        for _ in range(2):
            assert fetch(client, "GET", s.url).body == PLAIN
        assert {"gzip", "deflate"} <= set(s.requests[0].get("accept-encoding").split(", "))
        assert s.accepted == 1


def test_brotli(http, fetch):
    """If libcurl has it, it is asked for and undone."""
    # an empty line and "hello", not compressed: a stream made by hand
    packed = b"\x0b\x02\x80hello\x03"
    with HttpServer(reply(200, packed, [("Content-Encoding", "br")])) as server:
        client = http()
        response = fetch(client, "GET", server.url, [("Accept-Encoding", "br")])
        assert response.body == packed  # the caller's own wish: the caller's own work
        response = fetch(client, "GET", server.url)
        if "br" not in server.requests[1].get("accept-encoding"):
            pytest.skip("libcurl without brotli")
        assert response.body == b"hello"


def test_decompression_that_was_not_wanted(http, fetch):
    packed = ENCODINGS["gzip"]
    with HttpServer(reply(200, packed, [("Content-Encoding", "gzip")])) as server:
        client = http()
        response = fetch(client, "GET", server.url, decompress=False)
        assert response.body == packed
        assert response.header("content-encoding") == "gzip"
        assert response.header("content-length") == str(len(packed))
        assert server.requests[0].get("accept-encoding") in (None, "identity")
        # an Accept-Encoding of the caller's own
        response = fetch(client, "GET", server.url, [("accept-encoding", "gzip")])
        assert response.body == packed
        assert server.requests[1].get("accept-encoding") == "gzip"


def test_compressed_json(http, fetch):
    packed = gzip.compress(json.dumps({"a": [1, 2.5, None]}).encode())
    with HttpServer(reply(200, packed, [("Content-Encoding", "gzip")])) as server:
        response = fetch(http(), "GET", server.url, mode=_core.HTTP_JSON)
        assert response.json() == {"a": [1, 2.5, None]}


# ---- connections ----


def test_connections_are_kept(http, kind):
    with HttpServer() as server:
        client = http()

        async def main():
            for i in range(20):
                response = await client.request("POST", f"{server.url}/{i}", body=b"x" * i * 1000)
                assert response.json()["target"] == f"/{i}"

        run(main, kind)
        assert server.accepted == 1
        # by another loop and by no loop, too
        run(main, kind)
        client.request_sync("GET", server.url)
        assert server.accepted == 1


def test_connections_are_not_kept_when_the_server_closes(http, fetch):
    with HttpServer(raw(head(200, [("Connection", "close"), ("Content-Length", "2")]), b"ok")) as s:
        client = http()
        for _ in range(3):
            assert fetch(client, "GET", s.url).body == b"ok"
        assert s.accepted == 3


@pytest.mark.parametrize("keep", [False, True])
def test_http_1_0(http, fetch, keep):
    headers = [("Content-Length", "2"), ("Connection", "keep-alive")] if keep else []
    steps = [head(200, headers, version="1.0"), b"ok"] + ([] if keep else [CLOSE])
    with HttpServer(raw(*steps)) as server:
        client = http()
        for _ in range(2):
            response = fetch(client, "GET", server.url)
            assert (response.body, response.http_version) == (b"ok", "HTTP/1.0")
        assert server.accepted == (1 if keep else 2)


def test_keepalive_expiry(http):
    with HttpServer() as server:
        client = http(keepalive_expiry=0.3)
        client.request_sync("GET", server.url)
        client.request_sync("GET", server.url)
        time.sleep(2.2)  # libcurl counts whole seconds
        client.request_sync("GET", server.url)
        assert [r.connection for r in server.requests] == [1, 1, 2]


def test_max_keepalive(http):
    gate = threading.Event()
    with HttpServer(raw(gate, head(200, [("Content-Length", "0")]))) as server:
        client = http(max_keepalive=2)

        async def main():
            tasks = [asyncio.create_task(client.request("GET", server.url)) for _ in range(10)]
            while server.open < 10:
                await asyncio.sleep(0.01)
            gate.set()
            await asyncio.gather(*tasks)
            deadline = time.monotonic() + 10
            while server.open > 2 and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            assert server.open == 2

        run(main)


def test_max_connections_with_several_hosts(http):
    """An idle connection to one server does not keep requests from another."""
    with HttpServer() as one, HttpServer() as two:
        client = http(max_connections=1)

        async def main():
            for _ in range(3):
                for server in (one, two):
                    response = await client.request("GET", server.url, pool_timeout=5)
                    assert response.status == 200
            await asyncio.gather(
                *(client.request("GET", s.url, pool_timeout=20) for s in (one, two) * 10)
            )

        run(main)


def test_no_cookies_are_kept(http, fetch):
    with HttpServer(reply(200, b"", [("Set-Cookie", "session=1; Path=/")])) as server:
        client = http()
        for _ in range(2):
            fetch(client, "GET", server.url)
        assert [r.all("cookie") for r in server.requests] == [[], []]


def test_unix_socket(http, fetch, tmp_path):
    path = str(tmp_path / "s")
    with HttpServer(path=path) as server:
        client = http(unix_socket=path)
        for _ in range(2):
            response = fetch(client, "POST", "http://some.host/p", body=b"x")
            assert response.json()["target"] == "/p"
        assert server.requests[0].get("host") == "some.host"
        assert server.accepted == 1


def test_many_at_once(http, kind):
    """2,000 requests, no more than 1,000 connections, all answered with what is theirs."""
    block = "location / { add_header X-Uri $request_uri always; return 200 $request_uri; }"
    with Nginx(block) as nginx:
        client = http(max_connections=1000)

        async def main():
            urls = [f"{nginx.url}/{i}" for i in range(2000)]
            responses = await asyncio.gather(*(client.request("GET", url) for url in urls))
            for i, response in enumerate(responses):
                assert (response.status, response.body) == (200, b"/%d" % i)

        run(main, kind)


def test_max_connections_is_the_limit(http):
    with HttpServer(raw(0.01, head(200, [("Content-Length", "0")]))) as server:
        client = http(max_connections=7)

        async def main():
            await asyncio.gather(*(client.request("GET", server.url) for _ in range(200)))

        run(main)
        assert server.accepted <= 7
        assert len(server.requests) == 200


# ---- 1xx ----


@pytest.mark.parametrize(
    "before",
    [
        [b"HTTP/1.1 100 Continue\r\n\r\n"],
        [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-A: early\r\n\r\n"],
        [b"HTTP/1.1 102 Processing\r\n\r\n", 0.05] * 5,
        [b"HTTP/1.1 100 Continue\r\n\r\n", 0.05, b"HTTP/1.1 103 Early Hints\r\nX-E: 1\r\n\r\n"],
    ],
)
def test_informational_replies(http, fetch, before):
    """They are read over: only the last reply's status and headers count."""
    last = head(200, [("X-A", "last"), ("Content-Length", "2")]) + b"ok"
    with HttpServer(raw(*before, last)) as server:
        client = http()
        for method in ("GET", "POST"):
            response = fetch(client, method, server.url, body=b"x" if method == "POST" else None)
            assert (response.status, response.reason, response.body) == (200, "Fine", b"ok")
            assert response.headers == [(b"x-a", b"last"), (b"content-length", b"2")]
        assert server.accepted == 1


# ---- URLs ----


@pytest.mark.parametrize(
    "path, target",
    [
        ("", "/"),
        ("?a=1", "/?a=1"),
        ("/a%20b%2Fc?x=%C3%A9&y=a%26b", "/a%20b%2Fc?x=%C3%A9&y=a%26b"),
        ("/h\u00e9?k=\u20ac", "/h%C3%A9?k=%E2%82%AC"),
        ("/\U0001f600", "/%F0%9F%98%80"),
        ("/p?q=1#fragment", "/p?q=1"),
        ("/a?b?c=[1]&d={2}|", None),
        ("/a b?c d", "/a%20b?c%20d"),
        ("/a/../b/./c", None),
        ("/" + "x" * 8000, "/" + "x" * 8000),
        ("/?" + "y" * 60_000, "/?" + "y" * 60_000),
        ("/openai/deployments/d/chat?api-version=2024-02-01", None),
        ("/@user:x/?u=http://a:b@c/", "/@user:x/?u=http://a:b@c/"),
    ],
)
def test_targets(http, fetch, path, target):
    """As the URL says; what no URL may hold is percent-encoded UTF-8."""
    with HttpServer() as server:
        response = fetch(http(), "GET", server.url + path)
        assert response.status == 200
        sent = server.requests[0].target
        if target is not None:
            assert sent == target
        assert " " not in sent and sent.isascii()


def test_case_of_scheme_and_host(http, fetch):
    with HttpServer(by_path({"/": echo})) as server:
        client = http()
        for start in ("http://LOCALHOST", "HTTP://localhost"):
            response = fetch(client, "GET", f"{start}:{server.port}/")
            assert response.status == 200


def test_credentials_in_the_url(http, fetch):
    """As httpx: basic authorization."""
    with HttpServer() as server:
        url = f"http://us%20er:p%40ss@127.0.0.1:{server.port}/x"
        fetch(http(), "GET", url)
        assert server.requests[0].get("authorization") == "Basic dXMgZXI6cEBzcw=="
        assert server.requests[0].target == "/x"
        # unless the caller has an authorization of its own
        fetch(http(), "GET", url, [("Authorization", "Bearer b")])
        assert "Bearer b" in server.requests[1].all("authorization")
