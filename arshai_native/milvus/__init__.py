"""
A drop-in for pymilvus's asynchronous client.

    from arshai_native.milvus import AsyncMilvusClient

Everything else that pymilvus has can be imported from here, too, and is pymilvus's own: the
types, the exceptions, the synchronous MilvusClient.
"""

from __future__ import annotations

from typing import Any

import pymilvus as _peer
from pymilvus import *  # noqa: F403

from ._channel import NativeChannel as NativeChannel
from ._client import AsyncMilvusClient as AsyncMilvusClient
from ._iterators import AsyncQueryIterator as AsyncQueryIterator
from ._iterators import AsyncSearchIterator as AsyncSearchIterator

__all__ = sorted({*_peer.__all__, "AsyncQueryIterator", "AsyncSearchIterator", "NativeChannel"})


def __getattr__(name: str) -> Any:
    return getattr(_peer, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_peer)})
