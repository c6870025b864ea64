"""Fixtures of the tests of embeddings and speech: a server, and no key of the machine's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from embedding_server import EmbeddingServer

_NAMES = (
    "OPENAI_API_KEY", "EMBEDDINGS_OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID", "VOYAGE_API_KEY", "INFINITY_API_KEY", "INFINITY_BASE_URL",
    "CLOUDFLARE_GATEWAY_TOKEN", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT",
    "AZURE_OPENAI_API_VERSION", "AZURE_OPENAI_DEPLOYMENT_NAME",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names neither keys nor servers."""
    for name in _NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def api() -> Iterator[EmbeddingServer]:
    """A server of the test's own."""
    with EmbeddingServer() as server:
        yield server
