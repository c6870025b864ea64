"""Memory of conversations: arshai's class beside ours, on a real Redis.

1,000 conversations are stored and read back through arshai's RedisWorkingMemoryManager in
asyncio.to_thread (what a program does today to keep its event loop free) and through
AsyncRedisMemoryManager; then each reads what the other wrote, all of it. Where arshai cannot be
installed (Python 3.13), a copy of what its class does with redis-py stands in for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime
from typing import Any

import redis
from display import Meter, say, table
from servers import RedisServer

from arshai_native.memory import (
    AsyncRedisMemoryManager,
    MemoryInput,
    WorkingMemory,
)

try:
    from arshai.core.interfaces.imemorymanager import IMemoryInput, IWorkingMemory
    from arshai.memory.working_memory.redis_memory_manager import RedisWorkingMemoryManager

    HAS_ARSHAI = True
except ImportError:
    HAS_ARSHAI = False

CONVERSATIONS = 1000
AT_ONCE = 100  # tasks
TURNS = 5  # how often each conversation is stored and read in the measured part
RUN = f"demo-{os.getpid()}"  # prefix of this run's conversation ids


class RedisPyMemory:
    """What RedisWorkingMemoryManager does with redis-py, where arshai is not to be had."""

    def __init__(self, url: str, ttl: int) -> None:
        self.redis_client, self.ttl = redis.from_url(url), ttl

    def store(self, input: Any) -> None:
        now = datetime.now().isoformat()
        for item in input.data:
            value = {
                "data": {"working_memory": item.working_memory},
                "metadata": input.metadata,
                "created_at": now,
                "last_update": now,
            }
            key = f"memory:{input.memory_type}:{input.conversation_id}"
            self.redis_client.setex(key, self.ttl, json.dumps(value))

    def retrieve(self, input: Any) -> list[WorkingMemory]:
        value = self.redis_client.get(f"memory:{input.memory_type}:{input.conversation_id}")
        return [WorkingMemory(**json.loads(value)["data"])] if value else []


if HAS_ARSHAI:
    THEIRS, Input, Memory = RedisWorkingMemoryManager, IMemoryInput, IWorkingMemory
else:
    THEIRS, Input, Memory = RedisPyMemory, MemoryInput, WorkingMemory


def in_thread(method: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """What blocks, awaitable, as a program that keeps its event loop free does it today."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(method, *args, **kwargs)

    return call


class Conversation:
    """What is remembered of one conversation, through a manager's methods."""

    def __init__(
        self, writer: str, store: Callable[[Any], Awaitable[Any]],
        retrieve: Callable[[Any], Awaitable[Any]],
    ) -> None:  # fmt: skip
        self.id, self.store, self.retrieve = f"{RUN}-{writer}", store, retrieve

    def input(self, *data: Any) -> Any:
        return Input(
            conversation_id=self.id, memory_type="WORKING_MEMORY", data=list(data), metadata={}
        )

    async def recall(self) -> str:
        memories = await self.retrieve(self.input())
        return memories[0].working_memory if memories else ""

    async def remember(self, text: str) -> None:
        await self.store(self.input(Memory(working_memory=text)))


@contextlib.contextmanager
def redis_url() -> Iterator[str]:
    """REDIS_URL, or that of a server of the demo's own."""
    if url := os.environ.get("REDIS_URL"):
        say("using the Redis of REDIS_URL")
        yield url
        return
    with RedisServer() as server:
        say(f"started a redis-server on port {server.port}")
        yield server.url


@contextlib.asynccontextmanager
async def managers(url: str) -> AsyncIterator[tuple[AsyncRedisMemoryManager, Any]]:
    """(ours, theirs); in the end what they wrote is removed."""
    try:
        ours = AsyncRedisMemoryManager(url, ttl=3600)
    except (ValueError, NotImplementedError) as error:
        raise SystemExit(f"REDIS_URL: {error}") from None
    theirs = THEIRS(url, ttl=3600)
    try:
        theirs.redis_client.ping()
    except redis.RedisError as error:
        raise SystemExit(f"the Redis of REDIS_URL: {type(error).__name__}: {error}") from None
    try:
        yield ours, theirs
    finally:
        if os.environ.get("REDIS_URL"):  # a server of the demo's own goes with all it has
            remove(url)
        await ours.close_async()
        theirs.redis_client.close()


def remove(url: str) -> None:
    removed = 0
    try:
        with redis.from_url(url) as client:
            for key in client.scan_iter(f"memory:*:{RUN}-*", count=1000):
                removed += client.unlink(key)
        say(f"removed {removed:,} keys")
    except redis.RedisError as error:
        say(f"keys memory:*:{RUN}-* stay in the Redis for an hour: {type(error).__name__}")


def memory_of(writer: str, number: int) -> str:
    return f"### USER CONTEXT ({writer}, {number}):\nMaría prefers short answers. " * 20


def inputs(writer: str) -> list[Any]:
    return [
        Input(
            conversation_id=f"{RUN}-{writer}-{number}",
            data=[Memory(working_memory=memory_of(writer, number))],
            metadata={"user": number, "tags": ["demo", "señor"]},
        )
        for number in range(CONVERSATIONS)
    ]


async def in_tasks(operation: Callable[[Any], Awaitable[Any]], items: list[Any]) -> list[Any]:
    """operation(item) for all items, AT_ONCE at a time; results in order."""
    results: list[Any] = [None] * len(items)
    numbers = iter(range(len(items)))

    async def worker() -> None:
        for number in numbers:
            results[number] = await operation(items[number])

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return results


async def measure(
    name: str, store: Callable[[Any], Awaitable[Any]], retrieve: Callable[[Any], Awaitable[Any]],
    items: list[Any],
) -> Meter:  # fmt: skip
    """Stores and reads all items TURNS times."""
    meter = Meter(name)
    for turn in range(TURNS):
        async with meter:
            await in_tasks(store, items)
            found = await in_tasks(retrieve, items)
        for item, memories in zip(items, found, strict=True):
            if [m.working_memory for m in memories] != [item.data[0].working_memory]:
                raise SystemExit(f"{name}: {item.conversation_id} came back different")
        print(f"    {name}: {2 * CONVERSATIONS * (turn + 1):,} operations", end="\r", flush=True)
    print(" " * 78, end="\r")
    return meter


async def run(ours: AsyncRedisMemoryManager, theirs: Any) -> None:
    their_inputs, our_inputs = inputs("arshai"), inputs("native")

    store, retrieve = in_thread(theirs.store), in_thread(theirs.retrieve)
    say(f"{CONVERSATIONS:,} conversations, {AT_ONCE} at once, stored and read {TURNS} times")
    before = await measure(f"{THEIRS.__name__} in to_thread", store, retrieve, their_inputs)
    after = await measure(
        "AsyncRedisMemoryManager", ours.store_async, ours.retrieve_async, our_inputs
    )

    say("each reads what the other wrote")
    for reader, read, written in (
        ("ours", ours.retrieve_async, their_inputs),
        ("theirs", retrieve, our_inputs),
    ):
        found = await in_tasks(read, written)
        same = sum(
            [m.working_memory for m in memories] == [item.data[0].working_memory]
            for item, memories in zip(written, found, strict=True)
        )
        print(f"    {reader} read {same:,} of {len(written):,} of the other's memories")
        if same != len(written):
            raise SystemExit("they differ")

    count = 2 * CONVERSATIONS * TURNS
    table(
        ["2 KB memories, store and retrieve", "operations/s", "CPU us/op", "stall ms", "ratio"],
        [
            [
                meter.name, f"{count / meter.seconds:,.0f}", f"{meter.cpu / count * 1e6:.1f}",
                f"{meter.stall * 1e3:.1f}", f"{before.seconds / meter.seconds:.1f}x",
            ]
            for meter in (before, after)
        ],
    )  # fmt: skip
