"""Redis URLs without redis-py: what its parse_url() makes of them, and a form fit for logs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

_FALSE = ("0", "F", "FALSE", "N", "NO")


def _to_bool(value: str) -> bool | None:
    return None if value == "" else value.upper() not in _FALSE


_TYPES: dict[str, Callable[[str], Any]] = {
    "db": int,
    "socket_timeout": float,
    "socket_connect_timeout": float,
    "socket_keepalive": _to_bool,
    "retry_on_timeout": _to_bool,
    "max_connections": int,
    "health_check_interval": int,
    "ssl_check_hostname": _to_bool,
    "timeout": float,
}


def parse_url(url: str) -> dict[str, Any]:
    """
    The connection options that a Redis URL names.

    url: redis://[[user]:[password]@]host[:port][/db] or unix://[user@]/path[?db=n&password=...],
        with options in the query. Everything is percent-decoded.
    Returns host and port, or path, and db, username, password and the query's options.
    Raises ValueError for another scheme or an option that has the wrong type, and
    NotImplementedError for rediss:// (TLS).
    Source: redis-py 5.3.1, redis.asyncio.connection.parse_url.
    """
    try:
        parsed = urlparse(url)
        port = parsed.port
    except ValueError:
        # urllib's message quotes what it took for the port: it may be a piece of a password.
        raise ValueError(
            "Redis URL has an invalid host or port; special characters of a password must be "
            "percent-encoded, see urllib.parse.quote"
        ) from None
    options: dict[str, Any] = {}
    for name, values in parse_qs(parsed.query).items():
        value = unquote(values[0])
        try:
            options[name] = _TYPES.get(name, str)(value)
        except ValueError:
            raise ValueError(f"Invalid value for '{name}' in connection URL.") from None
    if parsed.username:
        options["username"] = unquote(parsed.username)
    if parsed.password:
        options["password"] = unquote(parsed.password)
    if parsed.scheme == "unix":
        if parsed.path:
            options["path"] = unquote(parsed.path)
    elif parsed.scheme == "redis":
        if parsed.hostname:
            options["host"] = unquote(parsed.hostname)
        if port:
            options["port"] = port
        if parsed.path and "db" not in options:
            # As redis-py: what is no number means the default.
            with contextlib.suppress(ValueError):
                options["db"] = int(unquote(parsed.path).replace("/", ""))
    elif parsed.scheme == "rediss":
        raise NotImplementedError(
            "rediss:// (TLS) is not supported here yet: use redis:// or unix://, or "
            "arshai_native.redis, which takes redis-py's own path for it"
        )
    else:
        raise ValueError(
            "Redis URL must specify one of the following schemes (redis://, rediss://, unix://)"
        )
    return options


def redact(url: str) -> str:
    """The URL without user name, password and query, for logs and reprs."""
    scheme, colon, rest = url.partition("://")
    credentials, at, rest = rest.rpartition("@")
    if not colon:
        return "(invalid URL)"
    if any(mark in credentials for mark in "/?#"):
        return f"{scheme}://***"  # a password that was not quoted, or one in the query
    return f"{scheme}://{'***@' if at else ''}{rest.partition('?')[0].partition('#')[0]}"
