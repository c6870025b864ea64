"""Connection pools that also close the connections of their native engine."""

from __future__ import annotations

from typing import Any

import redis.asyncio.connection as _peer
from redis.asyncio.connection import Connection as Connection
from redis.asyncio.connection import SSLConnection as SSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection as UnixDomainSocketConnection
from redis.asyncio.connection import parse_url as parse_url
from redis.asyncio.retry import Retry

# What a repr may show of the arguments that a pool hands to its connections.
_SHOWN = ("host", "port", "path", "db", "client_name", "service_name")


def describe(pool: Any) -> str:
    """The repr of a pool without its secrets; redis-py 6 and later print the password."""
    kind = type(pool)
    try:
        made, kwargs = pool.connection_class, pool.connection_kwargs
        pieces = {name: kwargs[name] for name in _SHOWN if kwargs.get(name) is not None}
    except (AttributeError, TypeError):
        return f"<{kind.__module__}.{kind.__name__}>"
    if issubclass(made, Connection):
        pieces = {"host": "localhost", "port": 6379, "db": 0, **pieces}
    shown = ",".join(f"{name}={value}" for name, value in pieces.items())
    return f"<{kind.__module__}.{kind.__name__}(<{made.__module__}.{made.__name__}({shown})>)>"


class _EnginePool:
    """The engine's part of a pool. `_native` appears when a client is made for the pool."""

    __dict__: dict[str, Any]

    def __repr__(self) -> str:
        return describe(self)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """
        Disconnects the connections of the pool and of its native engine.

        inuse_connections: False leaves alone those that are in use; the engine's are shared by
            all tasks and count as in use. Commands in flight on a connection that is closed fail
            with ConnectionError. The pool can be used again afterwards.
        """
        native = self.__dict__.get("_native")
        if native is not None and inuse_connections:
            native.engine.disconnect()
        await super().disconnect(inuse_connections)  # type: ignore[misc]

    def set_retry(self, retry: Retry) -> None:
        """Replaces the Retry object of the connections that exist, the engine's included."""
        super().set_retry(retry)  # type: ignore[misc]
        native = self.__dict__.get("_native")
        if native is not None:
            native.rules.replace(retry)


class ConnectionPool(_EnginePool, _peer.ConnectionPool):
    """
    redis.asyncio.ConnectionPool. The native engine of its clients multiplexes commands over
    connections of its own; max_connections limits the ones that serve a single task (blocking
    commands, WATCH, single_connection_client), for which tasks wait.
    """


class BlockingConnectionPool(_EnginePool, _peer.BlockingConnectionPool):
    """
    redis.asyncio.BlockingConnectionPool. As ConnectionPool; timeout (seconds, None: no limit) is
    how long a task waits for a connection of its own before ConnectionError.
    """


def __getattr__(name: str) -> Any:
    return getattr(_peer, name)
