"""make demo: arshai's own memory classes beside ours, on a real Redis.

1,000 conversations are stored and read back through arshai's RedisWorkingMemoryManager in
asyncio.to_thread (what a program does today to keep its event loop free) and through
AsyncRedisMemoryManager; then each reads what the other wrote, all of it, and arshai's own
WorkingMemoryAgent runs with our manager. Uses the Redis that REDIS_URL names, or starts one on a
free port; removes what it wrote. Where arshai cannot be installed (Python 3.13), a copy of what its
class does with redis-py stands in for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
# arshai's models warn about pydantic's settings.
warnings.filterwarnings("ignore", category=UserWarning, module="pydantic")
# Its log tells every step, and the URL with the password.
logging.disable(logging.INFO)

import redis  # noqa: E402
from servers import RedisServer  # noqa: E402

from arshai_native.memory import (  # noqa: E402
    AsyncRedisMemoryManager,
    MemoryInput,
    WorkingMemory,
)

try:
    from arshai.agents.hub.working_memory import WorkingMemoryAgent
    from arshai.core.interfaces.iagent import IAgentInput
    from arshai.core.interfaces.imemorymanager import IMemoryInput, IWorkingMemory
    from arshai.memory.working_memory.redis_memory_manager import RedisWorkingMemoryManager
    from loguru import logger  # what arshai logs with

    HAS_ARSHAI = True
except ImportError:
    HAS_ARSHAI = False

CONVERSATIONS = 1000
AT_ONCE = 100  # tasks
TURNS = 5  # how often each conversation is stored and read in the measured part
RUN = f"demo-{os.getpid()}"  # prefix of this run's conversation ids


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


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
PEER = f"{THEIRS.__name__} in to_thread"


@contextlib.contextmanager
def redis_url() -> Iterator[str]:
    if url := os.environ.get("REDIS_URL"):
        say("using the Redis of REDIS_URL")
        yield url
        return
    with RedisServer() as server:
        say(f"started a redis-server on port {server.port}")
        yield server.url


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
) -> tuple[str, float, float]:  # fmt: skip
    """Stores and reads all items TURNS times: (name, operations/s, client CPU us/operation)."""
    usage, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for turn in range(TURNS):
        await in_tasks(store, items)
        found = await in_tasks(retrieve, items)
        for item, memories in zip(items, found, strict=True):
            if [m.working_memory for m in memories] != [item.data[0].working_memory]:
                raise SystemExit(f"{name}: {item.conversation_id} came back different")
        done = 2 * CONVERSATIONS * (turn + 1)
        print(f"    {name}: {done:,} operations", end="\r", flush=True)
    elapsed = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    count = 2 * CONVERSATIONS * TURNS
    print(" " * 78, end="\r")
    return name, count / elapsed, cpu / count * 1e6


class Model:
    """Stands where a user's LLM client stands; the agent only needs its chat()."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def chat(self, input: Any) -> dict[str, str]:
        self.seen.append(input.user_message)
        return {"llm_response": f"Memory after {len(self.seen)} messages"}


async def run_agent(manager: AsyncRedisMemoryManager, theirs: Any) -> None:
    model = Model()
    agent = WorkingMemoryAgent(model, memory_manager=manager)
    metadata = {"conversation_id": f"{RUN}-agent"}
    for message in ("hi", "my name is Ana"):
        answer = await agent.process(IAgentInput(message=message, metadata=metadata))
        if answer != "success":
            raise SystemExit(f"the agent answered {answer!r}")
    if "Memory after 1 messages" not in model.seen[1]:
        raise SystemExit("the agent's second run did not see the memory of its first")
    key = IMemoryInput(conversation_id=f"{RUN}-agent", memory_type="WORKING_MEMORY")
    (stored,) = await asyncio.to_thread(theirs.retrieve, key)
    if stored.working_memory != "Memory after 2 messages":
        raise SystemExit("arshai's manager did not read what the agent stored")


async def remove(url: str) -> None:
    client = redis.from_url(url)
    removed = 0
    for key in client.scan_iter(f"memory:*:{RUN}-*", count=1000):
        removed += client.unlink(key)
    client.close()
    say(f"removed {removed:,} keys")


async def demo(url: str) -> None:
    try:
        ours = AsyncRedisMemoryManager(url, ttl=3600)
    except (ValueError, NotImplementedError) as error:
        raise SystemExit(f"REDIS_URL: {error}") from None
    theirs = THEIRS(url, ttl=3600)
    if not await ours.health_check_async():
        raise SystemExit("the Redis does not answer: see the warning above, and REDIS_URL")
    their_inputs, our_inputs = inputs("arshai"), inputs("native")

    async def store(item: Any) -> Any:
        return await asyncio.to_thread(theirs.store, item)

    async def retrieve(item: Any) -> Any:
        return await asyncio.to_thread(theirs.retrieve, item)

    try:
        say(f"{CONVERSATIONS:,} conversations, {AT_ONCE} at once, stored and read {TURNS} times")
        before = await measure(PEER, store, retrieve, their_inputs)
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

        if HAS_ARSHAI:
            say("arshai's WorkingMemoryAgent with our manager, twice")
            await run_agent(ours, theirs)
            print("    success, and arshai's manager reads what it stored")
        else:
            say("without arshai, which supports Python 3.11 and 3.12: no agent to run")

        print(f"\n| {'2 KB memories, store and retrieve':<40} | operations/s | CPU us/op | ratio |")
        print(f"|{'-' * 42}|{'-' * 14}|{'-' * 11}|{'-' * 7}|")
        for name, ops, cpu in (before, after):
            print(f"| {name:<40} | {ops:>12,.0f} | {cpu:>9.1f} | {ops / before[1]:>4.1f}x |")
        print()
    finally:
        await remove(url)
        await ours.close_async()
        theirs.redis_client.close()


if __name__ == "__main__":
    if HAS_ARSHAI:
        logger.disable("arshai")
    with redis_url() as address:
        asyncio.run(demo(address))
