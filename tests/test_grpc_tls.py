"""gRPC over TLS: who is trusted, who is not, and what is said then."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
from faultkit import run
from grpckit import ECHO, SIZE, GrpcServer, Relay
from httpkit import HttpServer

from arshai_native._core import GrpcChannel, GrpcError

pytest_plugins = ("faultfixtures", "grpcfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

MB = 1 << 20
UNAVAILABLE = 14


@pytest.fixture(scope="module")
def secure(certificates):
    """A server with a certificate that is good for who knows our CA."""
    with GrpcServer(*certificates.good()) as server:
        yield server


@pytest.fixture(scope="module")
def ca(certificates):
    return Path(certificates.ca).read_bytes()


def pem(pair):
    return {"cert": Path(pair[0]).read_bytes(), "key": Path(pair[1]).read_bytes()}


def test_own_ca(channel_to, unary, secure, ca):
    for host in ("127.0.0.1", "localhost"):
        channel = channel_to(secure, host=host, tls={"ca": ca})
        for size in (0, 1, 20_000, 3 * MB):
            assert unary(channel, ECHO, b"x" * size, 20) == b"x" * size
        assert " tls" in repr(channel)


def test_64_mb(channel_to, secure, ca):
    channel = channel_to(secure, tls={"ca": ca})
    assert len(channel.unary_sync(SIZE, b"%d" % (64 * MB), 60)) == 64 * MB
    assert len(channel.unary_sync(ECHO, bytes(64 * MB), 60)) == 64 * MB


def test_many_at_once(channel_to, secure, ca, kind):
    channel = channel_to(secure, tls={"ca": ca})

    async def main():
        messages = [b"%d" % n * (n % 50) for n in range(1000)]
        assert await asyncio.gather(*(channel.unary(ECHO, m, 60.0) for m in messages)) == messages

    run(main, kind)


def test_the_systems_trust(channel_to, unary, secure, certificates, monkeypatch):
    with pytest.raises(GrpcError, match="not trusted"):
        unary(channel_to(secure, tls={}), ECHO, b"x", 20)
    monkeypatch.setenv("SSL_CERT_FILE", certificates.ca)
    assert unary(channel_to(secure, tls={}), ECHO, b"x", 20) == b"x"


WORDS = {"expired": "expired", "wrong_host": "mismatch", "self_signed": "self-signed|self signed"}


@pytest.mark.parametrize("name", WORDS)
def test_who_is_not_trusted(channel_to, unary, certificates, ca, name):
    """The error names the cause, and nothing of the call has been sent."""
    with GrpcServer(*getattr(certificates, name)()) as server:
        channel = channel_to(server, tls={"ca": ca}, metadata=[("authorization", "secret")])
        for _ in range(2):
            with pytest.raises(GrpcError, match=f"(?i)not trusted.*({WORDS[name]})") as caught:
                unary(channel, ECHO, b"secret", 20)
            assert caught.value.code == UNAVAILABLE
            assert "secret" not in str(caught.value)
        channel = channel_to(server, tls={"ca": ca, "verify": False})
        assert unary(channel, ECHO, b"x", 20) == b"x"


def test_server_name(channel_to, unary, certificates, ca, secure):
    with GrpcServer(*certificates.wrong_host()) as server:
        channel = channel_to(server, tls={"ca": ca, "server_name": "elsewhere.example"})
        assert unary(channel, ECHO, b"x", 20) == b"x"
    channel = channel_to(secure, tls={"ca": ca, "server_name": "elsewhere.example"})
    with pytest.raises(GrpcError, match="mismatch"):
        unary(channel, ECHO, b"x", 20)


def test_client_certificate(channel_to, unary, certificates, ca):
    with GrpcServer(*certificates.good(), certificates.ca) as server:
        channel = channel_to(server, tls={"ca": ca, **pem(certificates.client())})
        assert unary(channel, ECHO, b"x", 20) == b"x"
        with pytest.raises(GrpcError) as caught:
            unary(channel_to(server, tls={"ca": ca}), ECHO, b"x", 20)
        assert caught.value.code == UNAVAILABLE


def test_unix_socket(certificates, ca, tmp_path):
    path = str(tmp_path / "s")
    with GrpcServer(*certificates.good(), path=path):
        channel = GrpcChannel(path=path, tls={"ca": ca})
        assert channel.unary_sync(ECHO, b"x", 20) == b"x"
        channel.close()


def test_settings_that_cannot_be(certificates, ca):
    good, client = pem(certificates.good()), pem(certificates.client())
    sealed = pem(certificates.client("password"))
    for tls, kind in (
        ({"ca": b"none"}, ValueError),
        ({"ca": b""}, ValueError),
        ({"ca": certificates.ca}, TypeError),
        (
            {"ca": ca + b"-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n"},
            ValueError,
        ),
        ({"cert": client["cert"]}, ValueError),
        ({"key": client["key"]}, ValueError),
        ({"cert": client["cert"], "key": b"none"}, ValueError),
        ({"cert": client["cert"], "key": good["key"]}, ValueError),
        (sealed, ValueError),
        ({"server_name": 5}, TypeError),
        ({"server_name": "a\0"}, ValueError),
        ({"server_name": ""}, ValueError),
        ({"server_name": "a" * 300}, ValueError),
        ({"cafile": ca}, ValueError),
    ):
        with pytest.raises(kind) as caught:
            GrpcChannel("h", 1, tls=tls)
        assert "PRIVATE" not in str(caught.value)


def test_tls_to_who_has_none_and_the_other_way_round(channel_to, unary, grpc_server, secure, ca):
    for channel in (channel_to(grpc_server, tls={"ca": ca}), channel_to(secure)):
        with pytest.raises(GrpcError, match="failed to connect") as caught:
            unary(channel, ECHO, b"x", 5)
        assert caught.value.code == UNAVAILABLE


def test_a_server_that_does_not_speak_h2(unary, certificates, ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.good())
    with HttpServer(tls=context) as server:
        channel = GrpcChannel("127.0.0.1", server.port, tls={"ca": ca})
        with pytest.raises(GrpcError, match="h2"):
            unary(channel, ECHO, b"x", 5)
        channel.close()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("limit", [1, 200, 1500, 3000, 4000, 50_000, 2 * MB])
def test_cut_off_anywhere(secure, ca, limit, reset):
    with Relay(secure.port, down_limit=limit, reset=reset) as relay:
        channel = GrpcChannel(relay.host, relay.port, tls={"ca": ca})
        with pytest.raises(GrpcError) as caught:
            channel.unary_sync(SIZE, b"%d" % (3 * MB), 20)
        assert caught.value.code == UNAVAILABLE
        relay.down_limit = None
        assert len(channel.unary_sync(SIZE, b"%d" % (3 * MB), 20)) == 3 * MB
        channel.close()


def test_tls_1_2(certificates, ca, tmp_path):
    """openssl's own server does not speak HTTP/2: what counts is that it is understood."""
    cert, key = certificates.good()
    command = ["openssl", "s_server", "-accept", "0", "-cert", cert, "-key", key, "-tls1_2", "-www",
               "-naccept", "1"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            line = b""
            while b"ACCEPT" not in line:
                line = server.stdout.readline()
                assert line
            port = int(line.rsplit(b":", 1)[1])
            with pytest.raises(GrpcError, match="h2"):
                GrpcChannel("127.0.0.1", port, tls={"ca": ca}).unary_sync(ECHO, b"x", 5)
        finally:
            server.kill()


def test_a_server_that_is_not_there_any_more(channel_to, unary, certificates, ca):
    with GrpcServer(*certificates.good()) as server:
        channel = channel_to(server, tls={"ca": ca})
        assert unary(channel, ECHO, b"x", 20) == b"x"
        server.kill()
        with pytest.raises(GrpcError):
            unary(channel, ECHO, b"x", 20)
        server.start()
        assert unary(channel, ECHO, b"x", 20) == b"x"
