"""Fixtures of the fault tests: the client under test, servers that may die, the fault proxy.

Test modules load them with `pytest_plugins = ("faultfixtures",)`.
"""

from __future__ import annotations

import faulthandler
import functools
import signal
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faultkit import EXPRESS, PEER, TEST_LIMIT
from faultproxy import FaultProxy
from servers import RedisServer


class Overdue(BaseException):
    """A test ran longer than TEST_LIMIT."""


@pytest.fixture
def engine_options(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """engine_options(**options): the engines of clients and managers made from now on have them,
    too. Of what a client passes on itself, its own counts."""
    from arshai_native.memory import _manager
    from arshai_native.redis import _engine

    def set_them(**options: Any) -> None:
        for module in (_engine, _manager):
            engine = functools.partial(module._core.RedisEngine, **options)
            monkeypatch.setattr(module, "_core", types.SimpleNamespace(RedisEngine=engine))

    return set_them


@pytest.fixture
def express_after(
    monkeypatch: pytest.MonkeyPatch, engine_options: Callable[..., None]
) -> Callable[[int], None]:
    """express_after(n): clients and managers made from now on get a loop's express connection with
    its n-th lone command in a row."""
    from arshai_native.redis import _engine

    def set_it(after: int) -> None:
        monkeypatch.setattr(_engine, "EXPRESS_AFTER", after)
        engine_options(express_after=after)

    return set_it


@pytest.fixture(autouse=EXPRESS)
def express_mode(request: pytest.FixtureRequest) -> None:
    if EXPRESS:
        request.getfixturevalue("express_after")(1)


@pytest.fixture(scope="session")
def client_class() -> type:
    """The class under test."""
    if PEER:
        from redis.asyncio import Redis
    else:
        from arshai_native.redis import Redis
    return Redis


@pytest.fixture
def bounded() -> Iterator[None]:
    """Interrupt the test after TEST_LIMIT; end the process if even that does not help."""

    def overdue(signum: int, frame: Any) -> None:
        raise Overdue(f"test ran for more than {TEST_LIMIT} s")

    before = signal.signal(signal.SIGALRM, overdue)
    signal.alarm(TEST_LIMIT)
    faulthandler.dump_traceback_later(TEST_LIMIT + 30, exit=True)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=["asyncio", "uvloop"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of event loop, for run()."""
    return request.param


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """A server that the test leaves alive; empty."""
    shared_server.command("FLUSHALL")
    return shared_server


@pytest.fixture
def ours(server: RedisServer) -> Iterator[Any]:
    """A memory manager of ours."""
    from arshai_native.memory import AsyncRedisMemoryManager

    with AsyncRedisMemoryManager(server.url, ttl=600) as manager:
        yield manager


@pytest.fixture
def own_server() -> Iterator[Callable[..., RedisServer]]:
    """own_server(*options): a server of the test's own, to be killed as it likes."""
    servers: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        servers.append(RedisServer(*options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultProxy]:
    """A fault proxy in front of `server`; what comes through it must be RESP."""
    with FaultProxy(server.host, server.port) as proxy:
        yield proxy
        assert proxy.malformed == []


@pytest.fixture
def connect(client_class: type) -> Callable[..., Any]:
    """connect(server or proxy, **options): a client of the class under test."""

    def make(target: RedisServer | FaultProxy, **options: Any) -> Any:
        return client_class(host=target.host, port=target.port, **options)

    return make
