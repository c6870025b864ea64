"""The native engine of a connection pool: configuration, and who may have one."""

from __future__ import annotations

import logging
import socket
import threading
import types
from typing import Any

import redis
from redis._parsers import Encoder, _AsyncHiredisParser, _AsyncRESP2Parser
from redis.asyncio.connection import (
    BlockingConnectionPool,
    Connection,
    ConnectionPool,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry

from arshai_native import _core
from arshai_native._redis_errors import error_factory

from . import connection as _pools
from ._retry import RetryRules

logger = logging.getLogger("arshai_native.redis")

_MAX_CONNECTIONS = 2**31 - 1
# Commands that a loop has sent one at a time before it gets one more connection, for those.
EXPRESS_AFTER = 64

_MAJOR = int(redis.__version__.partition(".")[0])
# redis-py 8 speaks RESP3 unless told otherwise and keeps state on its connections that the engine
# has nothing of.
_SERVED = _MAJOR in (5, 6, 7)
# The engine's own conversion of replies is that of redis-py 5 and 6; 7 converts some otherwise.
REPLIES_KNOWN = _MAJOR in (5, 6)

# A pool that brings its own idea of how connections are made and handed out keeps it: the
# engine, which asks the pool for nothing, would pass it over.
_POOL_METHODS = (
    "make_connection",
    "get_connection",
    "get_available_connection",
    "ensure_connection",
    "release",
)

_KEEPALIVE_OPTIONS = {
    number: name
    for option, name in (
        ("TCP_KEEPIDLE", "keepalive_idle"),
        ("TCP_KEEPALIVE", "keepalive_idle"),
        ("TCP_KEEPINTVL", "keepalive_interval"),
        ("TCP_KEEPCNT", "keepalive_count"),
    )
    if (number := getattr(socket, option, None)) is not None
}

# A pool of redis-py's own class becomes one of ours when it gets an engine, so that whoever
# disconnects it also closes the engine's connections. To every other client that uses it, it stays
# what it was. Pools of classes derived from redis-py's are left as they are.
_OURS = {
    ConnectionPool: _pools.ConnectionPool,
    BlockingConnectionPool: _pools.BlockingConnectionPool,
}

_lock = threading.Lock()


class Unsupported(Exception):
    """The configuration is one that redis-py's own path has to serve."""


class Native:
    """
    A pool's engine and what was read from the pool to make it.

    engine: the RedisEngine, shared by all clients of the pool.
    connection: a redis-py connection that never connects; it holds the configuration.
    rules: the retry rules, replaced by set_retry.
    """

    __slots__ = ("engine", "connection", "rules")

    def __init__(self, pool: ConnectionPool) -> None:
        connection = pool.make_connection()
        self.connection = connection
        self.rules = RetryRules(connection.retry, connection.retry_on_error)
        options = _options(pool, connection)
        if self.rules.can_retry:
            options["retry_policy"] = self.rules
        self.engine = _core.RedisEngine(error_factory=error_factory, **options)


def _encoded(connection: Any, value: Any) -> bytes | None:
    """A name or password as redis-py would send it."""
    return None if value is None else bytes(connection.encoder.encode(value))


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


def _keepalive(connection: Any) -> dict[str, Any]:
    if not getattr(connection, "socket_keepalive", False):
        return {}
    options: dict[str, Any] = {"keepalive": True}
    for number, value in connection.socket_keepalive_options.items():
        if number not in _KEEPALIVE_OPTIONS or not isinstance(value, int):
            raise Unsupported(f"socket option {number}")
        options[_KEEPALIVE_OPTIONS[number]] = value
    return options


def _options(pool: ConnectionPool, connection: Any) -> dict[str, Any]:
    """The engine's arguments from a connection that pool made; Unsupported if there are none."""
    # redis-py takes the protocol as a string too, as it comes from a URL.
    protocol = str(connection.protocol or 2)
    if protocol != "2" or connection.credential_provider or connection.redis_connect_func:
        raise Unsupported("RESP3, credential provider or connect function")
    encoder = connection.encoder
    if type(encoder) is not Encoder or pool.encoder_class is not Encoder:
        raise Unsupported("an encoder class")
    if type(connection._parser) not in (_AsyncRESP2Parser, _AsyncHiredisParser):
        raise Unsupported("a parser class")
    if type(connection.retry).call_with_retry is not Retry.call_with_retry:
        raise Unsupported("a retry class with a loop of its own")
    options: dict[str, Any] = {
        "db": int(connection.db or 0),
        "client_name": _encoded(connection, connection.client_name or None),
        "lib_name": _encoded(connection, connection.lib_name or None),
        "lib_version": _encoded(connection, connection.lib_version or None),
        "socket_timeout": _seconds(connection.socket_timeout),
        "socket_connect_timeout": _seconds(connection.socket_connect_timeout),
        "health_check_interval": float(connection.health_check_interval or 0),
        "max_connections": min(pool.max_connections, _MAX_CONNECTIONS),
        "express_after": EXPRESS_AFTER,
        "encoding": encoder.encoding,
        "encoding_errors": encoder.encoding_errors,
        "decode_responses": bool(encoder.decode_responses),
        **_keepalive(connection),
    }
    if connection.username or connection.password:
        # redis-py sends an empty password where there is only a user name.
        options["username"] = _encoded(connection, connection.username or None)
        options["password"] = _encoded(connection, connection.password or "")
    if type(connection) is UnixDomainSocketConnection:
        options["path"] = connection.path
    else:
        options["host"] = connection.host or "localhost"
        options["port"] = connection.port
    if isinstance(pool, BlockingConnectionPool):
        options["pool_timeout"] = _seconds(pool.timeout)
    return options


def _is_standard(pool: ConnectionPool) -> bool:
    if not isinstance(pool, ConnectionPool):
        return False
    if pool.connection_class not in (Connection, UnixDomainSocketConnection):
        return False
    base = BlockingConnectionPool if isinstance(pool, BlockingConnectionPool) else ConnectionPool
    # Not every version has all of them.
    return all(
        getattr(type(pool), name, None) is getattr(base, name, None) for name in _POOL_METHODS
    )


def is_original(cls: type, name: str) -> bool:
    """
    Whether a method of a class of redis-py's is redis-py's own.

    Instrumentation (OpenTelemetry, Sentry and others) replaces it by a wrapper, before or after
    this module is imported, and would not see what goes past it.
    """
    method = vars(cls).get(name)
    if method is None:
        return True
    return (
        isinstance(method, types.FunctionType)
        and method.__module__ == cls.__module__
        and not hasattr(method, "__wrapped__")
    )


def _make(pool: ConnectionPool) -> Native | None:
    if not _SERVED or not _is_standard(pool):
        return None
    try:
        native = Native(pool)
    except Exception as error:
        # Whatever is wrong with the configuration, redis-py says so at the first command, in its
        # own words; its path is taken and does.
        logger.debug("redis-py's own path serves %s: %s", _pools.describe(pool), error)
        return None
    pool.__class__ = _OURS.get(type(pool), type(pool))
    return native


def native_of(pool: Any) -> Native | None:
    """
    The engine of a pool, made when first asked for; None if redis-py's own path serves the pool.

    Thread-safe. The pool owns the engine: its connections are closed by pool.disconnect() and
    when the pool is collected.
    """
    try:
        return pool.__dict__["_native"]
    except (AttributeError, KeyError):
        pass
    with _lock:
        attributes = getattr(pool, "__dict__", None)
        if attributes is None:
            return None
        if "_native" not in attributes:
            attributes["_native"] = _make(pool)
        return attributes["_native"]
