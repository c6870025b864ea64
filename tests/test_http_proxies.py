"""Proxies, by argument and from the environment."""

import pytest
from httpkit import HttpServer, Proxy, reply

from arshai_native._core import HttpClient, HttpError

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")


@pytest.fixture
def servers(certificates):
    """(plain server, TLS server, proxy)"""
    with HttpServer() as plain, HttpServer(tls=certificates.context()) as secure, Proxy() as proxy:
        yield plain, secure, proxy


def test_by_argument(http, fetch, servers, certificates):
    plain, secure, proxy = servers
    client = http(proxy=proxy.url, verify=certificates.ca)
    secret = [("Authorization", "Bearer secret"), ("X-A", "1")]
    for server in (plain, secure):
        response = fetch(client, "POST", server.url + "/p?q", secret, b"body")
        assert response.json()["target"] == "/p?q"
        assert response.json()["body"] == "body"
        assert response.http_version == "HTTP/1.1"
    assert proxy.requests[0].target == plain.url + "/p?q"
    assert (proxy.requests[1].method, proxy.requests[1].target) == (
        "CONNECT",
        f"127.0.0.1:{secure.port}",
    )
    # what the tunnel is for is none of the proxy's business
    assert b"secret" not in proxy.requests[1].raw
    assert proxy.requests[1].all("x-a") == []


def test_headers_of_the_tunnel_are_not_the_replys(http, fetch, servers, certificates):
    _, secure, proxy = servers
    response = fetch(http(proxy=proxy.url, verify=certificates.ca), "GET", secure.url)
    assert [name for name, _ in response.headers] == [b"content-type", b"content-length"]
    assert response.reason == "Fine"


def test_tunnels_are_kept(http, fetch, servers, certificates):
    _, secure, proxy = servers
    client = http(proxy=proxy.url, verify=certificates.ca)
    for _ in range(5):
        fetch(client, "GET", secure.url)
    assert (proxy.accepted, secure.accepted) == (1, 1)


@pytest.mark.parametrize("case", [str.upper, str.lower])
@pytest.mark.parametrize(
    "name, used", [("http_proxy", "http"), ("https_proxy", "https"), ("all_proxy", "http https")]
)
def test_from_the_environment(http, fetch, servers, certificates, monkeypatch, case, name, used):
    plain, secure, proxy = servers
    monkeypatch.setenv(case(name), proxy.url)
    client = http(verify=certificates.ca)
    assert fetch(client, "GET", plain.url).status == 200
    assert len(proxy.requests) == ("http" in used.split())
    assert fetch(client, "GET", secure.url).status == 200
    assert len(proxy.requests) == len(used.split())
    # not looked at
    client = http(verify=certificates.ca, trust_env=False)
    assert fetch(client, "GET", plain.url).status == 200
    assert len(proxy.requests) == len(used.split())


def test_the_environment_is_read_when_the_client_is_made(http, fetch, servers, monkeypatch):
    plain, _, proxy = servers
    client = http()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert fetch(client, "GET", plain.url).status == 200
    assert proxy.requests == []


@pytest.mark.parametrize(
    "value, through",
    [
        ("127.0.0.1", False),
        ("*", False),
        ("other.example, 127.0.0.1", False),
        ("other.example", True),
        ("", True),
    ],
)
def test_no_proxy(http, fetch, servers, monkeypatch, value, through):
    plain, _, proxy = servers
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", value)
    assert fetch(http(), "GET", plain.url).status == 200
    assert bool(proxy.requests) == through


@pytest.mark.parametrize(
    "value, through",
    [(".example.test", False), ("example.test", False), ("api.example.test", False),
     ("ample.test", True), ("x.api.example.test", True)],
)  # fmt: skip
def test_no_proxy_with_domains(http, fetch, servers, monkeypatch, value, through):
    """A name that nobody knows: through the proxy it is found, without it is not."""
    plain, _, _ = servers
    with Proxy(to=("127.0.0.1", plain.port)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", value)
        if through:
            assert fetch(http(), "GET", "http://api.example.test:80/").status == 200
        else:
            with pytest.raises(HttpError) as caught:
                fetch(http(), "GET", "http://api.example.test:80/")
            assert caught.value.kind == "dns"
        assert bool(proxy.requests) == through


def test_an_argument_outweighs_the_environment(http, fetch, servers, monkeypatch):
    plain, _, proxy = servers
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "*")
    assert fetch(http(proxy=proxy.url), "GET", plain.url).status == 200
    assert len(proxy.requests) == 1


def test_redirects_of_cgi_do_not_count(http, fetch, servers, monkeypatch):
    """HTTP_PROXY in a CGI program is a header of the client's (httpoxy)."""
    plain, _, proxy = servers
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert fetch(http(), "GET", plain.url).status == 200
    assert proxy.requests == []


BASIC = "Basic dXNlcjpzM2NyZXQtcHc="  # user:s3cret-pw


@pytest.mark.parametrize("tunnel", [False, True])
def test_credentials(http, fetch, certificates, servers, tunnel):
    plain, secure, _ = servers
    target = secure if tunnel else plain
    with Proxy(auth=BASIC) as proxy:
        url = f"http://user:s3cret-pw@127.0.0.1:{proxy.port}"
        client = http(proxy=url, verify=certificates.ca)
        assert fetch(client, "GET", target.url).status == 200
        assert "s3cret-pw" not in repr(client)
        assert all(r.get("proxy-authorization") is None for r in target.requests)
        # wrong ones
        client = http(proxy=url.replace("s3cret-pw", "wr0ng-pw"), verify=certificates.ca)
        assert "wr0ng-pw" not in repr(client)
        if tunnel:
            with pytest.raises(HttpError, match="407") as caught:
                fetch(client, "GET", target.url)
            assert caught.value.kind == "proxy"
            assert "wr0ng-pw" not in str(caught.value)
        else:
            assert fetch(client, "GET", target.url).status == 407


def test_credentials_in_the_environment(http, fetch, servers, monkeypatch):
    plain, _, _ = servers
    with Proxy(auth=BASIC) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://user:s3cret-pw@127.0.0.1:{proxy.port}")
        assert fetch(http(), "GET", plain.url).status == 200


def test_credentials_are_in_no_error(http, fetch, certificates):
    with HttpServer() as server:
        server.refuse()
        url = f"http://user:s3cret-pw@127.0.0.1:{server.port}"
        client = http(proxy=url)
        for target in ("http://example.test/", "https://example.test/"):
            with pytest.raises(HttpError) as caught:
                fetch(client, "GET", target)
            assert caught.value.kind in ("proxy", "connect")
            assert "s3cret-pw" not in str(caught.value) + repr(caught.value)


def test_a_proxy_that_says_no(http, fetch, certificates):
    """The tunnel is refused: an error of its own; a plain request gets what the proxy says."""
    with Proxy(to=("127.0.0.1", 1)) as proxy:
        client = http(proxy=proxy.url)
        with pytest.raises(HttpError, match="502") as caught:
            fetch(client, "GET", "https://example.test/")
        assert caught.value.kind == "proxy"
        assert fetch(client, "GET", "http://example.test:80/").status == 502


def test_a_proxy_whose_name_is_not_known(http, fetch):
    with pytest.raises(HttpError) as caught:
        fetch(http(proxy="http://proxy.invalid:3128"), "GET", "http://127.0.0.1:1/")
    assert caught.value.kind in ("proxy", "dns")


@pytest.mark.parametrize("proxy", ["nonsense://x", "http://", "http://a:s3cret-pw@[", "http://x:y"])
def test_proxies_that_are_none(servers, proxy):
    """Refused when the client is made or used, and never left out."""
    plain = servers[0]
    with pytest.raises((ValueError, HttpError)) as caught:
        client = HttpClient(proxy=proxy)
        try:
            client.request_sync("GET", plain.url)
        finally:
            client.close()
    assert "s3cret-pw" not in str(caught.value)
    assert plain.requests == []


def test_redirects_through_a_proxy(http, fetch, servers, certificates):
    plain, secure, proxy = servers
    plain.handler = reply(302, b"", [("Location", secure.url + "/there")])
    client = http(proxy=proxy.url, verify=certificates.ca)
    response = fetch(client, "GET", plain.url, [("Authorization", "Bearer secret")])
    assert response.json()["target"] == "/there"
    assert secure.requests[0].get("authorization") is None
    assert [r.method for r in proxy.requests] == ["GET", "CONNECT"]
