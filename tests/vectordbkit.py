"""What the tests of AsyncMilvus share: arshai's client on the same server, data, both flavours."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
from faultkit import run
from milvuskit import name_of
from pymilvus import connections

from arshai_native.vector_db import AsyncMilvus, CollectionConfig

DIMENSION = 8

METHODS = (
    "connect", "disconnect", "create_schema", "get_or_create_collection", "get_collection_stats",
    "insert_entity", "insert_entities", "query_by_expr", "search_by_vector", "hybrid_search",
    "delete_entity",
)  # fmt: skip


def config_of(name: str | None = None, **more: Any) -> CollectionConfig:
    return CollectionConfig(
        collection_name=name or name_of("v"), dense_dim=DIMENSION, text_field="text", **more
    )


def shipped_config(config: CollectionConfig) -> Any:
    """arshai's own configuration with the same values."""
    interfaces = pytest.importorskip("arshai.core.interfaces.ivector_db_client")
    return interfaces.ICollectionConfig(**vars(config))


@contextlib.contextmanager
def shipped(server: Any, monkeypatch: Any) -> Iterator[Any]:
    """arshai's MilvusClient."""
    module = pytest.importorskip("arshai.vector_db.milvus_client")
    monkeypatch.setenv("MILVUS_HOST", server.host)
    monkeypatch.setenv("MILVUS_PORT", str(server.port))
    monkeypatch.delenv("MILVUS_DB_NAME", raising=False)
    client = module.MilvusClient()
    client.db_name = ""  # it makes of a missing name one that it cannot connect with
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            connections.disconnect("default")


class Flavour:
    """AsyncMilvus by its synchronous methods, or by their twins."""

    def __init__(self, kind: str, client: AsyncMilvus) -> None:
        self.kind = kind
        self.client = client

    def __getattr__(self, name: str) -> Any:
        if self.kind == "sync":
            return getattr(self.client, name)
        twin = getattr(self.client, name + "_async")

        def call(*args: Any, **kwargs: Any) -> Any:
            async def main() -> Any:
                return await twin(*args, **kwargs)

            return run(main)

        return call


def vectors(count: int, seed: int = 1) -> list[list[float]]:
    r = random.Random(seed)
    return [[r.uniform(-1, 1) for _ in range(DIMENSION)] for _ in range(count)]


def sparse_rows(count: int, seed: int = 2) -> list[dict[int, float]]:
    r = random.Random(seed)
    return [{r.randrange(1000): r.random() + 0.01 for _ in range(5)} for _ in range(count)]


def documents(count: int) -> list[dict[str, Any]]:
    return [
        {"content": f"text {i}", "metadata": {"number": i, "tag": "ab"[i % 2]}}
        for i in range(count)
    ]


def embeddings(count: int, hybrid: bool = False) -> dict[str, Any]:
    made: dict[str, Any] = {"dense": vectors(count)}
    if hybrid:
        made["sparse"] = sparse_rows(count)
    return made


def without_ids(result: Any) -> list[Any]:
    """Hits but for their keys, which the server gives."""
    return [
        [(hit.distance, {k: v for k, v in hit.fields.items() if k != "doc_id"}) for hit in hits]
        for hits in result
    ]


async def together(*calls: Any) -> list[Any]:
    return list(await asyncio.gather(*calls))
