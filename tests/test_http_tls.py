"""TLS: who is trusted, who is not and what is said then; HTTP/2."""

import asyncio
import os
import shutil
import socket
import subprocess
import threading

import pytest
from faultkit import run, until
from httpkit import HttpServer, Nginx, chunked, echo, reply

from arshai_native import _core
from arshai_native._core import HttpClient, HttpError

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

MB = 1 << 20


@pytest.fixture
def secure(certificates):
    """A server with a certificate that is good for who knows our CA."""
    with HttpServer(tls=certificates.context()) as server:
        yield server


def test_own_ca(http, fetch, secure, certificates):
    client = http(verify=certificates.ca)
    for host in ("127.0.0.1", "localhost"):
        for _ in range(3):
            response = fetch(client, "POST", f"https://{host}:{secure.port}/p", body=b"x" * 100_000)
            assert response.json()["body"] == "x" * 100_000
    assert secure.accepted == 2


def test_own_ca_in_a_directory(http, fetch, secure, certificates, tmp_path):
    shutil.copy(certificates.ca, tmp_path / "ca.pem")
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True)
    assert fetch(http(verify=str(tmp_path)), "GET", secure.url).status == 200


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_own_ca_from_the_environment(
    http, fetch, secure, certificates, tmp_path, monkeypatch, name
):
    if name == "SSL_CERT_DIR":
        shutil.copy(certificates.ca, tmp_path / "ca.pem")
        subprocess.run(["openssl", "rehash", str(tmp_path)], check=True)
        monkeypatch.setenv(name, str(tmp_path))
    else:
        monkeypatch.setenv(name, certificates.ca)
    assert fetch(http(), "GET", secure.url).status == 200
    with pytest.raises(HttpError) as caught:
        fetch(http(trust_env=False), "GET", secure.url)
    assert caught.value.kind == "tls"


WORDS = {  # of the server's certificate: what the message must have one of
    "good": "self-signed certificate in certificate chain|unable to get local issuer",
    "expired": "expired",
    "wrong_host": "host|name|match",
    "self_signed": "self-signed|self signed",
}


@pytest.mark.parametrize("name", WORDS)
def test_who_is_not_trusted(http, fetch, certificates, name):
    """The error names the cause, and nothing of the request has been sent."""
    pair = getattr(certificates, name)()
    verify = True if name in ("good", "self_signed") else certificates.ca
    with HttpServer(tls=certificates.context(pair)) as server:
        client = http(verify=verify)
        for _ in range(2):
            with pytest.raises(HttpError, match=f"(?i){WORDS[name]}") as caught:
                fetch(client, "POST", server.url, [("Authorization", "Bearer secret")], b"secret")
            assert caught.value.kind == "tls"
            assert "secret" not in str(caught.value)
        assert server.requests == []


@pytest.mark.parametrize("name", WORDS)
def test_without_verification(http, fetch, certificates, name):
    with HttpServer(tls=certificates.context(getattr(certificates, name)())) as server:
        assert fetch(http(verify=False), "GET", server.url).status == 200


def test_a_client_that_does_not_verify_vouches_for_nobody(http, fetch, secure):
    """Connections, sessions and whatever else is shared do not get from one client to another."""
    careless, careful = http(verify=False), http()
    assert fetch(careless, "GET", secure.url).status == 200
    with pytest.raises(HttpError) as caught:
        fetch(careful, "GET", secure.url)
    assert caught.value.kind == "tls"
    assert fetch(careless, "GET", secure.url).status == 200


@pytest.mark.parametrize("verify", ["/nowhere/ca.pem", os.devnull, __file__])
def test_ca_that_is_none(secure, verify):
    """Said when the client is made, or when it connects; never ignored."""
    with pytest.raises((HttpError, OSError, ValueError)) as caught:
        client = HttpClient(verify=verify)
        try:
            client.request_sync("GET", secure.url)
        finally:
            client.close()
    if isinstance(caught.value, HttpError):
        assert caught.value.kind == "tls"
    assert secure.requests == []


@pytest.mark.parametrize("form", ["one file", "pair", "pair with password"])
def test_client_certificate(http, fetch, certificates, tmp_path, form):
    cert, key = certificates.client("pass word" if "password" in form else None)
    if form == "one file":
        both = tmp_path / "both.pem"
        with open(cert) as a, open(key) as b:
            both.write_text(a.read() + b.read())
        option = str(both)
    elif form == "pair":
        option = (cert, key, None)
    else:
        option = (cert, key, "pass word")
    with HttpServer(tls=certificates.context(ask_client=True)) as server:
        client = http(verify=certificates.ca, cert=option)
        assert fetch(client, "GET", server.url).status == 200


def test_client_certificate_missing(http, fetch, certificates):
    with HttpServer(tls=certificates.context(ask_client=True)) as server:
        with pytest.raises(HttpError) as caught:
            fetch(http(verify=certificates.ca), "GET", server.url)
        # with TLS 1.3 the server says so after the handshake
        assert caught.value.kind in ("tls", "read", "write")
        assert server.requests == []


def test_client_certificate_that_cannot_be_used(certificates, secure):
    cert, key = certificates.client("right")
    other = certificates.self_signed()[1]
    for option in ((cert, key, "wrong-secret"), (cert, "/nowhere", None), (cert, other, None)):
        with pytest.raises((HttpError, OSError, ValueError)) as caught:
            client = HttpClient(verify=certificates.ca, cert=option)
            try:
                client.request_sync("GET", secure.url)
            finally:
                client.close()
        assert "wrong-secret" not in str(caught.value)
        if isinstance(caught.value, HttpError):
            assert caught.value.kind == "tls"
    assert secure.requests == []


def test_no_tls_at_all(http, fetch):
    """https to a server that speaks plain HTTP."""

    def accept(sock: socket.socket) -> None:
        sock.recv(10_000)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with HttpServer(on_accept=accept) as plain:
        with pytest.raises(HttpError) as caught:
            fetch(http(), "GET", f"https://127.0.0.1:{plain.port}/")
        assert caught.value.kind == "tls"


def test_plain_http_to_tls(http, fetch, secure):
    with pytest.raises(HttpError) as caught:
        fetch(http(), "GET", f"http://127.0.0.1:{secure.port}/")
    assert caught.value.kind in ("protocol", "read")


@pytest.mark.parametrize("reset", [False, True])
def test_gone_in_the_handshake(http, fetch, reset):
    def accept(sock: socket.socket) -> None:
        sock.recv(10 if reset else 10_000)  # what is unread makes it a reset
        sock.close()

    with HttpServer(on_accept=accept) as server:
        with pytest.raises(HttpError) as caught:
            fetch(http(), "GET", f"https://127.0.0.1:{server.port}/")
        assert caught.value.kind in ("tls", "connect", "read")


def test_a_handshake_that_does_not_get_on(http, fetch):
    """It is part of connecting."""
    with HttpServer() as server:
        with pytest.raises(HttpError) as caught:
            fetch(http(), "GET", f"https://127.0.0.1:{server.port}/", connect_timeout=0.3)
        assert caught.value.kind == "connect_timeout"


def test_cut_off_without_a_farewell(http, fetch, certificates):
    """The end of the connection is the end of a body only if TLS says so; with a length, never."""

    def handler(x):
        x.read_body()
        x.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        x.close()

    with HttpServer(handler, tls=certificates.context()) as server:
        with pytest.raises(HttpError) as caught:
            fetch(http(verify=False), "GET", server.url)
        assert caught.value.kind in ("protocol", "read")


# ---- HTTP/2 ----


@pytest.fixture
def h2(certificates):
    """nginx with HTTP/2 in front of an echoing server; (nginx, server)."""
    with HttpServer(echo) as server:
        block = f"""
            location / {{ proxy_pass {server.url}; proxy_http_version 1.1;
                proxy_buffering off; proxy_read_timeout 60s; }}
            location /fast {{ add_header X-Uri $request_uri; return 200 $request_uri; }}"""
        with Nginx(block, tls=certificates.good()) as nginx:
            yield nginx, server


def test_http2(http, fetch, h2, certificates):
    nginx, server = h2
    client = http(verify=certificates.ca)
    given = [("X-A", "1"), ("Content-Type", "application/json"), ("X-Empty", "")]
    for body in (b"", b"x", b"y" * MB * 3):
        response = fetch(client, "POST", nginx.url + "/p?q=1", given, body)
        assert response.http_version == "HTTP/2"
        assert response.status == 200
        assert all(name == name.lower() for name, _ in response.headers)
        assert not any(name.startswith(b":") for name, _ in response.headers)
        assert response.json()["target"] == "/p?q=1"
        assert response.json()["body"] == body.decode()
    assert server.requests[-1].get("x-a") == "1"
    assert server.requests[-1].get("content-type") == "application/json"


def test_http2_not_wanted(http, fetch, h2, certificates):
    response = fetch(http(verify=certificates.ca, http2=False), "GET", h2[0].url + "/fast")
    assert (response.http_version, response.body) == ("HTTP/1.1", b"/fast")


def test_http2_many_at_once(http, h2, certificates, kind):
    nginx, _ = h2
    client = http(verify=certificates.ca)

    async def main():
        urls = [f"{nginx.url}/fast/{i}" for i in range(500)]
        responses = await asyncio.gather(*(client.request("GET", url) for url in urls))
        for i, response in enumerate(responses):
            assert response.body == b"/fast/%d" % i
            assert response.http_version == "HTTP/2"

    run(main, kind)


def test_http2_one_given_up_of_many(http, h2, certificates):
    """A stream is given up, those beside it on the same connection are not."""
    nginx, server = h2
    gate = threading.Event()

    def handler(x):
        if x.request.target == "/slow":
            x.pause(gate)
        echo(x)

    server.handler = handler
    client = http(verify=certificates.ca)

    async def main():
        await client.request("GET", nginx.url + "/first")
        slow = [asyncio.create_task(client.request("GET", nginx.url + "/slow")) for _ in range(6)]
        await until(lambda: server.count("/slow") == 6)
        for task in slow[:3]:
            task.cancel()
        for task in slow[:3]:
            with pytest.raises(asyncio.CancelledError):
                await task
        for _ in range(5):
            assert (await client.request("GET", nginx.url + "/next")).status == 200
        gate.set()
        for response in await asyncio.gather(*slow[3:]):
            assert response.json()["target"] == "/slow"

    run(main)


def test_http2_streams(http, h2, certificates):
    nginx, server = h2
    gate = threading.Event()
    server.handler = chunked(b"data: 1\n\n", b"data: 2\n\ndata:", gate, b" 3\n\n")
    client = http(verify=certificates.ca)

    async def main():
        response = await client.request("GET", nginx.url + "/events", mode=_core.HTTP_EVENTS)
        assert response.http_version == "HTTP/2"
        data = []
        while len(data) < 2:
            data += [event[1] for event in await response.read_events()]
        assert data == ["1", "2"]
        gate.set()
        assert [event[1] for event in await response.read_events()] == ["3"]
        assert await response.read_events() == []

    run(main)


def test_http2_a_reply_that_is_cut_off(http, fetch, h2, certificates):
    nginx, server = h2

    def handler(x):
        x.read_body()
        x.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")
        x.close()

    server.handler = handler
    client = http(verify=certificates.ca)
    with pytest.raises(HttpError) as caught:
        fetch(client, "GET", nginx.url + "/cut")
    assert caught.value.kind in ("protocol", "read")
    server.handler = reply(200, b"fine")
    assert fetch(client, "GET", nginx.url + "/next").body == b"fine"


def test_http2_server_gone(http, certificates):
    """nginx ends under way: an error, not a hang; afterwards there is a new connection."""
    client = http(verify=certificates.ca)

    async def main():
        with HttpServer(echo) as server:
            gate = threading.Event()

            def handler(x):
                x.pause(gate)
                echo(x)

            server.handler = handler
            block = f"location / {{ proxy_pass {server.url}; }}"
            with Nginx(block, tls=certificates.good()) as nginx:
                tasks = [
                    asyncio.create_task(client.request("GET", nginx.url + "/slow"))
                    for _ in range(5)
                ]
                await until(lambda: server.count("/slow") == 5)
                nginx.kill()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert {type(r) for r in results} == {HttpError}, results
                assert {r.kind for r in results} <= {"read", "protocol", "connect", "tls"}
                gate.set()

    run(main)
