"""The passages in Milvus: arshai's class beside ours, on a milvus-lite that the demo starts.

Each has a collection of its own, which it creates, fills and searches: arshai's MilvusClient in
asyncio.to_thread, and AsyncMilvus. What both find has to be the same. Where arshai cannot be
installed (Python 3.13), pymilvus's MilvusClient stands in for it; where milvus-lite cannot, the
nearest passages are looked for in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pymilvus
from display import Meter, first_line, say
from environ import environment
from memories import HAS_ARSHAI, in_thread
from milvusservers import MilvusLite, lite_packages
from passages import PASSAGES

from arshai_native.vector_db import AsyncMilvus, CollectionConfig

if HAS_ARSHAI:
    from arshai.core.interfaces.ivector_db_client import ICollectionConfig as Config
    from arshai.vector_db.milvus_client import MilvusClient
else:
    Config = CollectionConfig

NEAREST = 3  # passages found for a question
AT_ONCE = 100  # searches
TEXT = "text"

Vector = list[float]


def inner_product(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def from_middle(vectors: list[Vector], middle: Vector) -> list[Vector]:
    """The vectors as seen from there, of length 1: the inner product of two is their cosine."""
    moved = [[a - b for a, b in zip(vector, middle, strict=True)] for vector in vectors]
    lengths = [math.hypot(*vector) or 1.0 for vector in moved]
    return [[a / length for a in vector] for vector, length in zip(moved, lengths, strict=True)]


def in_memory(question: Vector, vectors: list[Vector]) -> list[str]:
    near = {
        passage: inner_product(question, vector)
        for passage, vector in zip(PASSAGES, vectors, strict=True)
    }
    return sorted(near, key=near.__getitem__, reverse=True)[:NEAREST]


class PymilvusClient:
    """pymilvus's client by the names of arshai's, where arshai is not to be had."""

    def __init__(self, uri: str) -> None:
        self.client = pymilvus.MilvusClient(uri)

    def insert_entities(self, config: Any, data: list[Any], embedding: dict[str, Any]) -> None:
        schema = self.client.create_schema()
        text = pymilvus.DataType.VARCHAR
        schema.add_field(config.pk_field, text, is_primary=True, auto_id=True, max_length=100)
        schema.add_field(config.text_field, text, max_length=65535)
        schema.add_field(config.metadata_field, pymilvus.DataType.JSON)
        schema.add_field(config.dense_field, pymilvus.DataType.FLOAT_VECTOR, dim=config.dense_dim)
        index = self.client.prepare_index_params()
        index.add_index(config.dense_field, index_type="AUTOINDEX", metric_type="IP")
        self.client.create_collection(config.collection_name, schema=schema, index_params=index)
        rows = [
            {TEXT: document["content"], config.metadata_field: {}, config.dense_field: vector}
            for document, vector in zip(data, embedding["dense"], strict=True)
        ]
        self.client.insert(config.collection_name, rows)
        self.client.flush(config.collection_name)

    def search_by_vector(self, config: Any, vectors: list[Vector], **options: Any) -> Any:
        return self.client.search(config.collection_name, vectors, **options)

    def disconnect(self) -> None:
        self.client.close()


Steps = list[tuple[str, list[Meter]]]


@contextlib.contextmanager
def milvus_or_none() -> Iterator[MilvusLite | None]:
    """The server, as long as the context lasts; None, and a line that says why, without one."""
    server = None
    if lite_packages() is None:
        say("no Milvus: milvus-lite is not installed (make build/.milvus-lite); in memory instead")
    else:
        try:
            server = MilvusLite()
        except (RuntimeError, OSError) as error:
            say(f"no Milvus: {first_line(error)[:300]}; in memory instead")
    if server is None:
        yield None
        return
    with server:
        say(f"started a milvus-lite on port {server.port}")
        try:
            yield server
        except pymilvus.MilvusException as error:
            what = first_line(error)[:300]
            raise SystemExit(f"milvus-lite: {type(error).__name__}: {what}") from None


@contextlib.contextmanager
def threads() -> Iterator[None]:
    """asyncio's threads, of which none runs any more when the context ends. pymilvus asks a server
    that has gone again and again, for minutes: who is interrupted would wait as long.
    """
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor()
    loop.set_default_executor(executor)
    try:
        yield
    finally:
        loop.set_default_executor(ThreadPoolExecutor())
        executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def clients(server: MilvusLite) -> Iterator[tuple[Any, AsyncMilvus]]:
    """(theirs, ours), both with the address from where arshai's class looks for it."""
    address = environment(
        MILVUS_HOST=server.host, MILVUS_PORT=str(server.port), MILVUS_DB_NAME="default",
        MILVUS_BATCH_SIZE="50", no_grpc_proxy=server.host,
    )  # fmt: skip
    with address, AsyncMilvus() as ours:
        theirs = MilvusClient() if HAS_ARSHAI else PymilvusClient(server.uri)
        try:
            with threads():
                yield theirs, ours
        finally:
            theirs.disconnect()


def same(theirs: list[Any], ours: list[Any]) -> bool:
    """Whether both found the same passages, and as near."""
    pairs = [
        (one, other)
        for hits in zip(theirs, ours, strict=True)
        for one, other in zip(*(found[0] for found in hits), strict=True)
    ]
    return len(pairs) == NEAREST * len(ours) and all(
        one.get(TEXT) == other.get(TEXT)
        and math.isclose(one.distance, other.distance, rel_tol=1e-5, abs_tol=1e-6)
        for one, other in pairs
    )


async def run(vectors: list[Vector], questions: list[Vector]) -> tuple[list[list[str]], Steps]:
    """(for each question the nearest passages, the steps with both ways' meters)"""
    with milvus_or_none() as server:
        if server is None:
            return [in_memory(question, vectors) for question in questions], []
        with clients(server) as (theirs, ours):
            return await both_ways(theirs, ours, vectors, questions)


async def both_ways(
    theirs: Any, ours: AsyncMilvus, vectors: list[Vector], questions: list[Vector]
) -> tuple[list[list[str]], Steps]:
    say(f"{len(PASSAGES)} passages in a collection of each, searched; {AT_ONCE} searches at once")
    await ours.connect_async()
    if HAS_ARSHAI:
        await in_thread(theirs.connect)()
    documents = [{"content": passage, "metadata": {}} for passage in PASSAGES]
    # Somewhere between two passages, each somewhere else.
    between = [
        [2 * a + b for a, b in zip(*pair, strict=True)]
        for pair in itertools.islice(itertools.permutations(vectors, 2), AT_ONCE)
    ]
    steps: Steps = [("create, insert", []), ("search", []), (f"{AT_ONCE} searches", [])]
    found = []
    for name, make_config, insert, search in (
        (f"{type(theirs).__name__} in to_thread", Config,
         in_thread(theirs.insert_entities), in_thread(theirs.search_by_vector)),
        ("AsyncMilvus", CollectionConfig,
         ours.insert_entities_async, ours.search_by_vector_async),
    ):  # fmt: skip
        config = make_config(
            collection_name=name.split()[0], dense_dim=len(vectors[0]), text_field=TEXT
        )

        def nearest(vector: Vector, config: Any = config, search: Any = search) -> Awaitable[Any]:
            return search(config, [vector], limit=NEAREST, output_fields=[TEXT])

        inserted, asked, at_once = (Meter(name) for _ in steps)
        async with inserted:
            await insert(config, documents, {"dense": vectors})
        await nearest(vectors[0])  # the first one imports scipy
        async with asked:
            hits = [await nearest(question) for question in questions]
        async with at_once:
            hits += await asyncio.gather(*map(nearest, between))
        found.append(hits)
        for (_, meters), meter in zip(steps, (inserted, asked, at_once), strict=True):
            meters.append(meter)
    if not same(*found):
        raise SystemExit("the searches of both differ")
    print(f"    the same from both: {len(questions) + AT_ONCE} times the {NEAREST} nearest")
    return [[hit.get(TEXT) for hit in hits[0]] for hits in found[1][: len(questions)]], steps
