"""Fixtures of the tests of the searches that C makes: a server, and which way they went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from milvusfake import FakeMilvus

from arshai_native.milvus import _search


@pytest.fixture
def fake() -> Iterator[FakeMilvus]:
    with FakeMilvus() as server:
        yield server


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of each search that was ours which way it went: in C, or the long one."""
    gone: list[str] = []

    def spied(name: str, original: Any) -> Any:
        async def spy(*args: Any) -> Any:
            gone.append(name)
            return await original(*args)

        return spy

    monkeypatch.setattr(_search, "search", spied("long", _search.search))
    monkeypatch.setattr(_search, "started", spied("C", _search.started))
    return gone
