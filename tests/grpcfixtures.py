"""Fixtures of the tests of gRPC. Test modules load them, and faultfixtures, as pytest_plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grpckit import GrpcServer, call

from arshai_native._core import GrpcChannel


@pytest.fixture(scope="session")
def grpc_server() -> Iterator[GrpcServer]:
    """A server that no test stops."""
    with GrpcServer() as server:
        yield server


@pytest.fixture
def own_grpc_server() -> Iterator[GrpcServer]:
    """A server that the test may stop."""
    with GrpcServer() as server:
        yield server


@pytest.fixture
def channel_to() -> Iterator[Callable[..., GrpcChannel]]:
    """channel_to(server, **options): a channel that is closed after the test."""
    channels: list[GrpcChannel] = []

    def make(server: Any, **options: Any) -> GrpcChannel:
        options.setdefault("host", server.host)
        channels.append(GrpcChannel(options.pop("host"), server.port, **options))
        return channels[-1]

    yield make
    for channel in channels:
        channel.close()


@pytest.fixture(params=["await", "sync"])
def unary(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """unary(channel, method, message, ...): the reply, once awaited and once by unary_sync."""
    return lambda channel, *args, **options: call(channel, request.param, *args, **options)
