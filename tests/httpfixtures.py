"""Fixtures of the tests of HTTP. Test modules load them, and faultfixtures, as pytest_plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faultkit import run
from httpkit import Certificates

from arshai_native._core import HttpClient

ENVIRONMENT = (
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "ssl_cert_file",
    "ssl_cert_dir",
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that an HttpClient looks at are not set."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def http() -> Iterator[Callable[..., HttpClient]]:
    """http(**options): a client that is closed after the test."""
    clients: list[HttpClient] = []

    def make(**options: Any) -> HttpClient:
        clients.append(HttpClient(**options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture(params=["await", "sync"])
def fetch(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """fetch(client, method, url, ...): the response, once awaited and once by request_sync."""

    def awaited(client: HttpClient, *args: Any, **options: Any) -> Any:
        async def main() -> Any:
            return await client.request(*args, **options)

        return run(main)

    def sync(client: HttpClient, *args: Any, **options: Any) -> Any:
        return client.request_sync(*args, **options)

    return awaited if request.param == "await" else sync


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))
