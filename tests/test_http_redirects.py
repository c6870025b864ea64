"""Redirects are followed as httpx follows them."""

import pytest
from httpkit import HttpServer, by_path, echo, head, raw, reply

from arshai_native._core import HttpError

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

STATUSES = (301, 302, 303, 307, 308)


def to(location, status=302, body=b"moved"):
    return reply(status, body, [("Location", location)])


def seen(server):
    """Methods and paths of the requests that arrived."""
    return [f"{r.method} {r.target}" for r in server.requests]


@pytest.mark.parametrize("status", STATUSES)
def test_not_followed(http, fetch, status):
    with HttpServer(to("/there", status)) as server:
        response = fetch(http(), "POST", server.url, body=b"x", follow_redirects=False)
        assert (response.status, response.body) == (status, b"moved")
        assert response.header("location") == "/there"
        assert response.url == server.url
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_method_and_body(http, fetch, status, method):
    """Who becomes a GET without body, and who is sent again as it was."""
    again = (
        method in ("GET", "HEAD") or status in (307, 308) or (status == 301 and method != "POST")
    )
    body = None if method in ("GET", "HEAD") else b"the body"
    headers = [("Content-Type", "text/x"), ("X-A", "1")]
    with HttpServer(by_path({"/here": to("/there?q=1", status), "*": echo})) as server:
        client = http()
        for _ in range(2):
            response = fetch(client, method, server.url + "/here", headers, body)
            assert response.status == 200
            assert response.url == server.url + "/there?q=1"
        expected = method if again else "GET"
        assert seen(server) == [f"{method} /here", f"{expected} /there?q=1"] * 2
        last = server.requests[-1]
        assert last.body == ((body or b"") if again else b"")
        assert last.get("x-a") == "1"
        if not again:
            assert last.get("content-length") in (None, "0")
        assert server.accepted == 1


@pytest.mark.parametrize(
    "location, target",
    [
        ("/abs", "/abs"),
        ("sibling", "/a/sibling"),
        ("../up?x=1", "/up?x=1"),
        ("?only=query", "/a/b?only=query"),
        ("//127.0.0.1:{port}/scheme", "/scheme"),
        ("http://127.0.0.1:{port}/full#part", "/full"),
        ("http://127.0.0.1:{port}", "/"),
        ("/with space", "/with%20space"),
        ("/caf\u00c3\u00a9", "/caf%C3%A9"),  # UTF-8, as latin-1 in a header
    ],
)
def test_locations(http, fetch, location, target):
    with HttpServer() as server:
        location = location.format(port=server.port)
        server.handler = [to(location), echo]
        response = fetch(http(), "GET", server.url + "/a/b?c=d")
        assert response.status == 200
        assert server.requests[1].target.replace("%c3%a9", "%C3%A9") == target
        assert server.requests[1].get("host") == f"127.0.0.1:{server.port}"


def test_without_a_location(http, fetch):
    with HttpServer(reply(302, b"where?")) as server:
        response = fetch(http(), "GET", server.url)
        assert (response.status, response.body) == (302, b"where?")


@pytest.mark.parametrize("status", [300, 304, 305, 306])
def test_other_3xx(http, fetch, status):
    with HttpServer(to("/there", status)) as server:
        assert fetch(http(), "GET", server.url).status == status
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://x/",
        "dict://x/",
        "http://[broken/",
        "x:y",
    ],
)
def test_locations_that_are_not_http(http, fetch, location):
    """No server makes the client read a file or speak to something else."""
    with HttpServer(to(location)) as server:
        with pytest.raises(HttpError) as caught:
            fetch(http(), "GET", server.url)
        assert caught.value.kind in ("url", "protocol")
        assert len(server.requests) == 1


def test_headers_of_another_host(http, fetch):
    """Credentials stay with the host that they were given for; a port is another host, too."""
    secret = [
        ("Authorization", "Bearer secret"),
        ("Cookie", "session=secret"),
        ("X-A", "1"),
        ("Accept", "application/json"),
    ]
    with HttpServer() as other, HttpServer() as server:
        client = http()
        for name in ("127.0.0.1", "localhost"):
            server.handler = to(f"http://{name}:{other.port}/there", 307)
            response = fetch(client, "POST", server.url, secret, b"body")
            assert response.status == 200
        for request in other.requests:
            assert request.body == b"body"
            assert b"secret" not in request.raw
            assert request.all("x-a") == ["1"]
            assert request.get("host").endswith(str(other.port))
        # the same host under another name is another
        server.handler = [to(f"http://localhost:{server.port}/there"), echo]
        server.requests.clear()
        fetch(client, "GET", server.url, secret)
        assert server.requests[0].get("authorization") == "Bearer secret"
        assert server.requests[1].get("authorization") is None
        # and within one host it goes along
        server.requests.clear()
        server.handler = [to("/there"), echo]
        fetch(client, "GET", server.url, secret)
        assert [r.get("authorization") for r in server.requests] == ["Bearer secret"] * 2


def test_credentials_in_a_url_of_another_host(http, fetch):
    with HttpServer() as other, HttpServer(to("http://x/")) as server:
        server.handler = to(f"{other.url}/there")
        fetch(http(), "GET", f"http://user:secret@127.0.0.1:{server.port}/")
        assert other.requests[0].get("authorization") is None


def test_own_host_header_of_another_host(http, fetch):
    with HttpServer() as other, HttpServer() as server:
        server.handler = to(f"http://localhost:{other.port}/there")
        fetch(http(), "GET", server.url, [("Host", "virtual")])
        assert server.requests[0].get("host") == "virtual"
        assert other.requests[0].get("host") == f"localhost:{other.port}"


@pytest.mark.parametrize("hops", [1, 19, 20])
def test_as_many_as_allowed(http, fetch, hops):
    with HttpServer([to(f"/{i}") for i in range(hops)] + [echo]) as server:
        response = fetch(http(), "GET", server.url + "/start")
        assert response.status == 200
        assert response.url == f"{server.url}/{hops - 1}"
        assert len(server.requests) == hops + 1


def test_too_many(http, fetch):
    with HttpServer([to(f"/{i}") for i in range(30)]) as server:
        with pytest.raises(HttpError, match="redirect"):
            fetch(http(), "GET", server.url + "/start")
        assert len(server.requests) == 21


def test_a_circle(http, fetch):
    with HttpServer(to("/")) as server:
        client = http()
        with pytest.raises(HttpError, match="redirect"):
            fetch(client, "GET", server.url)
        server.handler = echo
        assert fetch(client, "GET", server.url).status == 200


def test_a_redirect_with_a_large_body(http, fetch):
    """What it says itself is read over, and is not part of the answer."""
    with HttpServer([to("/there", 307, b"m" * 3_000_000), echo]) as server:
        response = fetch(http(), "POST", server.url, body=b"b" * 3_000_000)
        assert response.json()["body"] == "b" * 3_000_000
        assert server.accepted == 1
        assert response.header("location") is None


def test_a_redirect_that_breaks_off(http, fetch):
    broken = raw(head(302, [("Location", "/there"), ("Content-Length", "100")]), b"x")

    def handler(x):
        broken(x)
        x.close()

    with HttpServer([handler, echo]) as server:
        client = http()
        # httpx reads it to its end; whoever follows at once is not wrong either
        try:
            assert fetch(client, "GET", server.url).status == 200
        except HttpError as error:
            assert error.kind == "protocol"
        assert fetch(client, "GET", server.url).status == 200
