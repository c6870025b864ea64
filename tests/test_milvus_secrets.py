"""Who asks is in no error, log line or repr of the Milvus clients', however the URI is wrong."""

import base64
import logging
import traceback

import grpc
import pymilvus
import pytest
from faultkit import run
from milvusfake import FakeMilvus, Status
from milvuskit import outcome
from servers import free_port
from vectordbkit import config_of

from arshai_native.milvus import AsyncMilvusClient
from arshai_native.vector_db import AsyncMilvus

pytest_plugins = ("milvusfixtures",)
pytestmark = pytest.mark.usefixtures("milvus_environment")

SCHEMES = "is illegal, needs start with [unix, http, https, tcp] or a local file endswith [.db]"
PORT = "Port could not be cast to integer value as "
NFKC = "contains invalid characters under NFKC normalization"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ftp://me:s3cr3t@host:1/db", f"uri: ftp://host:1/db {SCHEMES}"),
        ("ftp://s3cr3t@host", f"uri: ftp://host {SCHEMES}"),
        ("ftp://me:@s3://cr3t@host", f"uri: ftp://host {SCHEMES}"),
        ("me:s3cr3t@host:1", f"uri: host:1 {SCHEMES}"),
        ("http://me:s3cr3t@host:one", f"{PORT}'one'"),
        ("http://me:s3/cr3t@host:1", f"{PORT}'***'"),
        ("http://me:s3#\ncr3t@host", f"{PORT}'***'"),
        ("http://me:s3'\\/cr3t@host:1", f"{PORT}'***'"),
        ("http://me:s3cr3t@host:99999", "Port out of range 0-65535"),
        ("http://me:s3cr3t@[::1", "Invalid IPv6 URL"),
        ("http://me:s3cr3t@h\u2100st", f"netloc 'h\u2100st' {NFKC}"),
        ("http://me:s3'\u2100/cr3t@host", f"netloc '***' {NFKC}"),
        ("http://me:s3cr3t@host/m.db", "Open local milvus failed, dir: http:/host not exists"),
        ("http://me:s3//cr3t@host/m.db", "Open local milvus failed, dir: http:/host not exists"),
        ("ftp://host", f"uri: ftp://host {SCHEMES}"),
        ("http://host:one", f"{PORT}'one'"),
    ],
)
def test_uris_that_are_none(uri, words):
    with pytest.raises((pymilvus.MilvusException, ValueError)) as expected:
        pymilvus.AsyncMilvusClient(uri)
    if "@" not in uri:
        assert words in str(expected.value)
    for make in (
        AsyncMilvusClient,
        lambda uri: AsyncMilvusClient(uri=uri),
        lambda uri: AsyncMilvus(uri).connect(),
    ):
        with pytest.raises((pymilvus.MilvusException, ValueError)) as caught:
            make(uri)
        error = caught.value
        assert type(error) is type(expected.value)
        for name in ("code", "compatible_code"):
            assert getattr(error, name, None) == getattr(expected.value, name, None)
        assert getattr(error, "message", None) in (None, words) and words in str(error)
        assert "cr3t" not in "".join(traceback.format_exception(error)) + repr(AsyncMilvus(uri))


def test_what_is_no_uri():
    for uri in (7, None, b"http://me:s3cr3t@host"):
        with pytest.raises((TypeError, AttributeError)) as caught:
            AsyncMilvusClient(uri)
        assert "cr3t" not in str(caught.value)


@pytest.mark.parametrize("refused", [False, True], ids=["nobody there", "wrong password"])
def test_those_that_are_one(refused, caplog):
    """Neither where there is no server nor where there is one to which it is not the password."""

    def refuse(_):
        raise Status(grpc.StatusCode.UNAUTHENTICATED, "auth check failure")

    async def main(port):
        uri = f"http://me:s3cr3t@127.0.0.1:{port}"
        client, documents = AsyncMilvusClient(uri), AsyncMilvus(uri)
        found = [
            await outcome(lambda: client.list_collections()),
            await outcome(lambda: documents.query_by_expr_async(config_of("c"), "x > 1")),
        ]
        assert [kind for kind, _ in found] == ["error"] * 2
        connection = documents._backend.connection
        held = (client, client._config, documents, connection.config, connection.channel)
        for secret in ("s3cr3t", base64.b64encode(b"me:s3cr3t").decode()):
            assert secret not in repr((found, held)) + caplog.text
        await documents.close_async()

    with caplog.at_level(logging.DEBUG), FakeMilvus() as fake:
        caplog.set_level(logging.DEBUG, "pymilvus.decorators")
        fake.on("Connect", refuse)
        run(lambda: main(fake.port if refused else free_port()))
    assert "pymilvus" in caplog.text or "arshai_native" in caplog.text


def test_a_global_cluster(monkeypatch, caplog):
    """Whose topology pymilvus asks for at the URI, and logs what comes of it."""
    topology = pymilvus.client.global_topology
    asked = []

    def get(url, **options):
        asked.append((url, options["headers"]))
        raise topology.requests.exceptions.InvalidURL(f"Failed to parse: {url}")

    monkeypatch.setattr(topology.requests, "get", get)
    monkeypatch.setattr(topology.time, "sleep", lambda _: None)

    async def main():
        client = AsyncMilvusClient("tcp://me:s3cr3t@a-global-cluster.invalid")
        _, (error, _, text) = await outcome(lambda: client.list_collections())
        assert error is pymilvus.MilvusException and "Failed to fetch" in text
        assert "s3cr3t" not in text

    with caplog.at_level(logging.DEBUG):
        run(main)
    assert "s3cr3t" not in caplog.text and "Topology fetch" in caplog.text
    assert [headers["Authorization"] for _, headers in asked] == ["Bearer me:s3cr3t"] * 3
