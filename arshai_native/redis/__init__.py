"""
The drop-in for redis.asyncio: `import arshai_native.redis as redis`.

Redis (also AsyncRedis and StrictRedis), from_url, ConnectionPool and BlockingConnectionPool are
the native ones. Every other name of redis.asyncio, and every exception class of redis-py, is
redis-py's own and found here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis.asyncio as _peer
import redis.exceptions as _exceptions

from .client import Redis as Redis
from .connection import BlockingConnectionPool as BlockingConnectionPool
from .connection import ConnectionPool as ConnectionPool

if TYPE_CHECKING:
    from redis.asyncio import Connection as Connection
    from redis.asyncio import RedisCluster as RedisCluster
    from redis.asyncio import Sentinel as Sentinel
    from redis.asyncio import SentinelConnectionPool as SentinelConnectionPool
    from redis.asyncio import SentinelManagedConnection as SentinelManagedConnection
    from redis.asyncio import SentinelManagedSSLConnection as SentinelManagedSSLConnection
    from redis.asyncio import SSLConnection as SSLConnection
    from redis.asyncio import UnixDomainSocketConnection as UnixDomainSocketConnection
    from redis.asyncio import default_backoff as default_backoff
    from redis.exceptions import AuthenticationError as AuthenticationError
    from redis.exceptions import (
        AuthenticationWrongNumberOfArgsError as AuthenticationWrongNumberOfArgsError,
    )
    from redis.exceptions import BusyLoadingError as BusyLoadingError
    from redis.exceptions import ChildDeadlockedError as ChildDeadlockedError
    from redis.exceptions import ConnectionError as ConnectionError
    from redis.exceptions import DataError as DataError
    from redis.exceptions import ExecAbortError as ExecAbortError
    from redis.exceptions import InvalidResponse as InvalidResponse
    from redis.exceptions import LockError as LockError
    from redis.exceptions import LockNotOwnedError as LockNotOwnedError
    from redis.exceptions import NoPermissionError as NoPermissionError
    from redis.exceptions import NoScriptError as NoScriptError
    from redis.exceptions import OutOfMemoryError as OutOfMemoryError
    from redis.exceptions import PubSubError as PubSubError
    from redis.exceptions import ReadOnlyError as ReadOnlyError
    from redis.exceptions import RedisError as RedisError
    from redis.exceptions import ResponseError as ResponseError
    from redis.exceptions import TimeoutError as TimeoutError
    from redis.exceptions import WatchError as WatchError

AsyncRedis = Redis
StrictRedis = Redis


def from_url(url: str, **kwargs: Any) -> Redis:
    """
    A client from a URL: redis://[[user]:password@]host[:port][/db][?option=value], rediss:// for
    TLS, unix://[user@]/path?db=0.

    kwargs: as the constructor's and the pool's; options in the URL win.
    Raises ValueError for another scheme or an option that cannot be converted.
    """
    return Redis.from_url(url, **kwargs)


__all__ = sorted({*_peer.__all__, "AsyncRedis"})


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        for module in (_peer, _exceptions):
            try:
                return getattr(module, name)
            except AttributeError:
                continue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    names = {*globals(), *dir(_peer), *dir(_exceptions)}
    return sorted(name for name in names if not name.startswith("_"))
