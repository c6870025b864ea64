"""One measurement in a process of its own: python benchmarks/milvus_worker.py '{"client": ...}'.

The argument is a JSON object: client, work, tasks, seconds, uri; redis for the seed's own
benchmark. Prints a JSON object. Every client runs the same loop of awaits and looks at what it got.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

# Threads of numpy's that wait for work in a loop would be counted, too.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from measuring import latency, throughput  # noqa: E402
from milvusdata import (  # noqa: E402
    COLLECTION,
    DIMENSION,
    INSERTED,
    LIMIT,
    TEXT,
    arshai_config,
    block,
)

sys.path.remove(HERE)

Operation = Callable[[int], Awaitable[Any]]
QUERIES = 16  # different ones of each task


def check(right: bool) -> None:
    if not right:
        raise SystemExit("a reply is not what it should be")


def client_of(name: str, uri: str) -> Any:
    """What is called: a method of the client's that is awaited."""
    if name.startswith("ours"):
        from arshai_native.milvus import AsyncMilvusClient

        return AsyncMilvusClient(uri, gather="gather=False" not in name)
    import pymilvus

    if name == "AsyncMilvusClient":
        return pymilvus.AsyncMilvusClient(uri)
    return Threaded(pymilvus.MilvusClient(uri))


class Threaded:
    """A synchronous client behind asyncio.to_thread: the executor pattern."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: asyncio.to_thread(method, *args, **kwargs)


def search(name: str, uri: str, tasks: int) -> Operation:
    client = client_of(name, uri)
    queries = block(tasks * QUERIES, 5).tolist()
    turns = [0] * tasks

    async def operation(number: int) -> None:
        query = queries[number * QUERIES + turns[number] % QUERIES]
        turns[number] += 1
        found = await client.search(
            COLLECTION, [query], anns_field="vector", limit=LIMIT, output_fields=["text"],
            search_params={"metric_type": "IP", "params": {"ef": 32}},
        )  # fmt: skip
        check(len(found[0]) == LIMIT and found[0][0]["entity"]["text"].startswith(TEXT))

    return operation


def arshai_search(name: str, uri: str, tasks: int) -> Operation:
    queries = block(tasks * QUERIES, 5).tolist()
    turns = [0] * tasks
    if name.startswith("ours"):
        from arshai_native.vector_db import AsyncMilvus, CollectionConfig

        config = arshai_config(CollectionConfig)
        call = AsyncMilvus(uri, gather="gather=False" not in name).search_by_vector_async
    else:
        logging.disable(logging.CRITICAL)  # it says everything it does on the console
        address = urlsplit(uri)
        os.environ.update(
            MILVUS_HOST=str(address.hostname), MILVUS_PORT=str(address.port), MILVUS_DB_NAME=""
        )
        from arshai.core.interfaces.ivector_db_client import ICollectionConfig
        from arshai.vector_db.milvus_client import MilvusClient

        config = arshai_config(ICollectionConfig)
        call = Threaded(MilvusClient()).search_by_vector

    async def operation(number: int) -> None:
        query = queries[number * QUERIES + turns[number] % QUERIES]
        turns[number] += 1
        found = await call(config, [query], limit=LIMIT, output_fields=["text"])
        check(len(found[0]) == LIMIT and found[0][0].get("text").startswith(TEXT))

    return operation


def insert(name: str, uri: str, numpy: bool) -> Operation:
    """INSERTED rows of lists; or a numpy block, of which others have to make rows."""
    client = client_of(name, uri)
    vectors = block(INSERTED, 3)
    texts = [f"{TEXT}{number}" for number in range(INSERTED)]
    rows = [
        {"id": number, "vector": vector, "text": text}
        for number, (vector, text) in enumerate(zip(vectors.tolist(), texts, strict=True))
    ]
    keys = list(range(INSERTED))

    async def operation(number: int) -> None:
        if not numpy:
            done = await client.insert(COLLECTION, rows)
        elif name.startswith("ours"):
            columns = {"id": keys, "vector": vectors, "text": texts}
            done = await client.insert_columns(COLLECTION, columns)
        else:
            done = await client.insert(COLLECTION, [
                {"id": key, "vector": vectors[key], "text": texts[key]} for key in keys
            ])  # fmt: skip
        check(done["insert_count"] == INSERTED)

    return operation


SEARCHES = SETS = 100


def seed(name: str, uri: str, redis_url: str) -> Operation:
    """The benchmark of the seed: 100 searches and 100 SETs at once, as it wrote them."""
    client = client_of(name, uri)
    if name.startswith("ours"):
        from arshai_native import redis as native

        redis: Any = native.from_url(redis_url)
    elif name == "AsyncMilvusClient":
        import redis.asyncio as peer

        redis = peer.from_url(redis_url)
    else:
        import redis as sync

        redis = Threaded(sync.from_url(redis_url))

    async def operation(_: int) -> None:
        tasks = []
        for i in range(SEARCHES):
            tasks.append(
                client.search(collection_name=COLLECTION, data=[[0.1] * DIMENSION], limit=LIMIT)
            )
            tasks.append(redis.set(f"key_{i}", f"value_{i}"))
        done = await asyncio.gather(*tasks)
        check(len(done[0][0]) == LIMIT and len(done[-2][0]) == LIMIT and bool(done[-1]))

    return operation


async def main(case: dict[str, Any]) -> dict[str, float]:
    name, work, uri = case["client"], case["work"], case["uri"]
    tasks, seconds = case["tasks"], case["seconds"]
    if work == "search":
        return await throughput(search(name, uri, tasks), tasks, seconds)
    if work == "latency":
        return await latency(search(name, uri, tasks), tasks, seconds)
    if work == "arshai":
        return await throughput(arshai_search(name, uri, tasks), tasks, seconds)
    if work in ("insert lists", "insert numpy"):
        return await throughput(insert(name, uri, work.endswith("numpy")), tasks, seconds)
    if work == "seed":
        operation = seed(name, uri, case["redis"])
        return await throughput(operation, tasks, seconds, each=SEARCHES + SETS)
    raise SystemExit(f"unknown work {work}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of pymilvus's about arshai's use of it
    result = asyncio.run(main(json.loads(sys.argv[1])))
    print(json.dumps(result), flush=True)
    os._exit(0)  # what is open may be closed by the system
