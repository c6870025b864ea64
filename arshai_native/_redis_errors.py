"""The exceptions of Redis clients: redis-py's own where it is installed, else their likeness.

Looked up when the first error is made, so that nobody pays for importing redis-py before.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable


def _likeness() -> types.ModuleType:
    """Classes of redis-py's names and hierarchy, for machines without redis-py."""
    module = types.ModuleType("arshai_native._redis_exceptions")
    module.__doc__ = "Exceptions of redis-py's names, used where redis-py is not installed."
    bases: dict[str, tuple[str, ...]] = {
        "RedisError": (),
        "ConnectionError": ("RedisError",),
        "TimeoutError": ("RedisError",),
        "AuthenticationError": ("ConnectionError",),
        "AuthorizationError": ("ConnectionError",),
        "BusyLoadingError": ("ConnectionError",),
        "MaxConnectionsError": ("ConnectionError",),
        "InvalidResponse": ("RedisError",),
        "ResponseError": ("RedisError",),
        "DataError": ("RedisError",),
        "PubSubError": ("RedisError",),
        "WatchError": ("RedisError",),
        "NoScriptError": ("ResponseError",),
        "OutOfMemoryError": ("ResponseError",),
        "ExecAbortError": ("ResponseError",),
        "ReadOnlyError": ("ResponseError",),
        "NoPermissionError": ("ResponseError",),
        "ModuleError": ("ResponseError",),
        "AuthenticationWrongNumberOfArgsError": ("ResponseError",),
    }
    for name, parents in bases.items():
        classes = tuple(getattr(module, parent) for parent in parents) or (Exception,)
        setattr(module, name, type(name, classes, {"__module__": module.__name__}))
    sys.modules[module.__name__] = module  # so that the exceptions can be pickled
    return module


@functools.cache
def exceptions() -> types.ModuleType:
    """redis.exceptions, or a module of the same names where redis-py is not installed."""
    try:
        return importlib.import_module("redis.exceptions")
    except ModuleNotFoundError as error:
        if error.name not in ("redis", "redis.exceptions"):
            raise  # redis-py is there and broken: that must be seen
        return _likeness()


def _parse_error_alone(text: str) -> Exception:
    """redis-py's BaseParser.parse_error() without redis-py."""
    module = exceptions()
    code, _, rest = text.partition(" ")
    classes = {
        "OOM": "OutOfMemoryError",
        "WRONGPASS": "AuthenticationError",
        "EXECABORT": "ExecAbortError",
        "LOADING": "BusyLoadingError",
        "NOSCRIPT": "NoScriptError",
        "READONLY": "ReadOnlyError",
        "NOAUTH": "AuthenticationError",
        "NOPERM": "NoPermissionError",
    }
    if code in classes:
        return getattr(module, classes[code])(rest)
    if code != "ERR":
        return module.ResponseError(text)
    if rest == "max number of clients reached":
        return module.ConnectionError(rest)
    if rest == "invalid password" or "without any password configured" in rest:
        return module.AuthenticationError(rest)
    if rest.lower() == "wrong number of arguments for 'auth' command":
        return module.AuthenticationWrongNumberOfArgsError(rest)
    return module.ResponseError(rest)


@functools.cache
def _parse_error() -> Callable[[str], Exception]:
    try:
        return importlib.import_module("redis._parsers.base").BaseParser.parse_error
    except (ImportError, AttributeError):
        return _parse_error_alone


_CLASSES = {
    "connection": "ConnectionError",
    "busy": "ConnectionError",
    "timeout": "TimeoutError",
    "data": "DataError",
    "protocol": "InvalidResponse",
}


def error_factory(kind: str, message: str) -> Exception:
    """
    The exception for a failure that the engine reports.

    kind: "response" and "auth" (message is the server's error reply, text and code), "connection",
        "timeout", "data", "protocol" (the reply was no RESP) or "busy" (no connection became free).
    """
    if kind in ("response", "auth"):
        return _parse_error()(message)
    return getattr(exceptions(), _CLASSES[kind])(message)
