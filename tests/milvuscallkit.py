"""What tests of the searches that C makes share."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from milvusfake import FakeMilvus

VECTOR = [[0.5, 0.25, 0.125, 1.0]]
OTHER = [[1.0, 2.0, 3.0, 4.0]]
gathers = pytest.mark.parametrize("gather", [True, False], ids=["gathered", "single"])


async def known(client: Any, ways: list[str], **options: Any) -> None:
    """From here on the client makes such searches in C."""
    for _ in range(2):
        await client.search("c", data=VECTOR, **options)
    assert ways[-1] == "C"
    ways.clear()


def vector(number: int) -> list[float]:
    """A vector whose hit has a known id."""
    return [np.frombuffer(number.to_bytes(4, "little"), dtype=np.float32)[0].item(), 0.0, 0.0, 0.0]


def id_of(result: Any) -> int:
    number: int = result[0][0]["id"]
    return number


def told(fake: FakeMilvus) -> dict[str, Any]:
    """The last search's metadata, but for what every library says of itself, and the time."""
    sent = fake.metadata("Search")
    now = int(sent.pop("client-request-unixmsec"))
    assert abs(now - time.time() * 1000) < 60_000
    apart = ("user-agent", "grpc-accept-encoding", "accept-encoding")
    return {name: value for name, value in sent.items() if name not in apart}


class Text(str):
    __slots__ = ()
