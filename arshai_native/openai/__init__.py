"""
A drop-in for the openai SDK's asynchronous clients.

    from arshai_native.openai import AsyncOpenAI

Everything else that openai has can be imported from here, too, and is openai's own: the
exceptions, the types, the synchronous OpenAI.
"""

from __future__ import annotations

from typing import Any

import openai as _peer
from openai import *  # noqa: F403

from ._client import AsyncAzureOpenAI as AsyncAzureOpenAI
from ._client import AsyncClient as AsyncClient
from ._client import AsyncOpenAI as AsyncOpenAI
from ._stream import NativeStream as NativeStream
from ._transport import NativeHttpClient as NativeHttpClient
from ._transport import NativeTransport as NativeTransport

__all__ = sorted({*_peer.__all__, "NativeHttpClient", "NativeStream", "NativeTransport"})


def __getattr__(name: str) -> Any:
    return getattr(_peer, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_peer)})
