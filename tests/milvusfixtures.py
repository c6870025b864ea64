"""Fixtures of the tests of the Milvus client: real servers, and clients of both kinds.

Test modules load them with `pytest_plugins = ("milvusfixtures",)`. ARN_TEST_MILVUS=standalone runs
the tests on the whole Milvus server where they do not need one of their own.
With ARN_MILVUS_LITE3 (a virtual environment with milvus-lite 3 and pymilvus) that of nullable
fields is run, which the other servers do not have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from milvuskit import IS_STANDALONE
from milvusservers import STANDALONE, MilvusLite, MilvusStandalone, lite_packages


def _need_lite() -> None:
    if lite_packages() is None:
        pytest.skip("milvus-lite is not installed: make build/.milvus-lite says why")


@pytest.fixture(scope="session")
def standalone() -> Iterator[MilvusStandalone]:
    if not (STANDALONE / "bin" / "milvus-server").exists():
        pytest.skip("the Milvus server is not installed: make build/.milvus-standalone")
    with MilvusStandalone(quick=True) as server:
        yield server


@pytest.fixture(scope="module")
def lite(request: pytest.FixtureRequest) -> Iterator[MilvusLite | MilvusStandalone]:
    """
    A server that is not to be harmed. Each module has a milvus-lite of its own: grpc's channels to
    one address share connections, which pymilvus has pinged every ten seconds; milvus-lite ends
    those as attacks after a minute, and whoever calls just then finds no server.
    """
    if IS_STANDALONE:
        yield request.getfixturevalue("standalone")
        return
    _need_lite()
    with MilvusLite() as server:
        yield server


@pytest.fixture
def own_lite() -> Iterator[MilvusLite]:
    """milvus-lite for one test, which may end it."""
    _need_lite()
    with MilvusLite() as server:
        yield server


@pytest.fixture
def milvus_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """No proxy of the machine's; and pymilvus does not log a traceback with each error."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    caplog.set_level("CRITICAL", "pymilvus.decorators")
