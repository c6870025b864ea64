"""make demo: arshai's own memory classes beside ours, on a real Redis.

1,000 conversations are stored and read back through arshai's RedisWorkingMemoryManager in
asyncio.to_thread (what a program does today to keep its event loop free) and through
AsyncRedisMemoryManager; then each reads what the other wrote, all of it, and arshai's own
WorkingMemoryAgent runs with our manager. Uses the Redis that REDIS_URL names, or starts one on a
free port; removes what it wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
# arshai's models warn about pydantic's settings.
warnings.filterwarnings("ignore", category=UserWarning, module="pydantic")

from arshai.agents.hub.working_memory import WorkingMemoryAgent  # noqa: E402
from arshai.core.interfaces.iagent import IAgentInput  # noqa: E402
from arshai.core.interfaces.imemorymanager import IMemoryInput, IWorkingMemory  # noqa: E402
from arshai.memory.working_memory.redis_memory_manager import (  # noqa: E402
    RedisWorkingMemoryManager,
)
from loguru import logger  # noqa: E402  (what arshai logs with)
from servers import RedisServer  # noqa: E402

from arshai_native.memory import AsyncRedisMemoryManager  # noqa: E402

CONVERSATIONS = 1000
AT_ONCE = 100  # tasks
TURNS = 5  # how often each conversation is stored and read in the measured part
RUN = f"demo-{os.getpid()}"  # prefix of this run's conversation ids


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


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


def inputs(writer: str) -> list[IMemoryInput]:
    return [
        IMemoryInput(
            conversation_id=f"{RUN}-{writer}-{number}",
            data=[IWorkingMemory(working_memory=memory_of(writer, number))],
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


async def run_agent(manager: AsyncRedisMemoryManager, theirs: RedisWorkingMemoryManager) -> None:
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


async def demo(url: str) -> None:
    theirs = RedisWorkingMemoryManager(url, ttl=3600)
    ours = AsyncRedisMemoryManager(url, ttl=3600)
    their_inputs, our_inputs = inputs("arshai"), inputs("native")

    async def store(item: Any) -> Any:
        return await asyncio.to_thread(theirs.store, item)

    async def retrieve(item: Any) -> Any:
        return await asyncio.to_thread(theirs.retrieve, item)

    try:
        say(f"{CONVERSATIONS:,} conversations, {AT_ONCE} at once, stored and read {TURNS} times")
        before = await measure(
            "RedisWorkingMemoryManager in to_thread", store, retrieve, their_inputs
        )
        after = await measure(
            "AsyncRedisMemoryManager", ours.store_async, ours.retrieve_async, our_inputs
        )

        say("each reads what the other wrote")
        for reader, read, written in (
            ("ours", ours.retrieve_async, their_inputs),
            ("arshai's", retrieve, our_inputs),
        ):
            found = await in_tasks(read, written)
            same = sum(
                [m.working_memory for m in memories] == [item.data[0].working_memory]
                for item, memories in zip(written, found, strict=True)
            )
            print(f"    {reader} read {same:,} of {len(written):,} of the other's memories")
            if same != len(written):
                raise SystemExit("they differ")

        say("arshai's WorkingMemoryAgent with our manager, twice")
        await run_agent(ours, theirs)
        print("    success, and arshai's manager reads what it stored")

        print(f"\n| {'2 KB memories, store and retrieve':<40} | operations/s | CPU us/op | ratio |")
        print(f"|{'-' * 42}|{'-' * 14}|{'-' * 11}|{'-' * 7}|")
        for name, ops, cpu in (before, after):
            print(f"| {name:<40} | {ops:>12,.0f} | {cpu:>9.1f} | {ops / before[1]:>4.1f}x |")
        print()
    finally:
        removed = await ours.delete_pattern(f"memory:*:{RUN}-*")
        say(f"removed {removed:,} keys")
        await ours.close_async()
        theirs.redis_client.close()


if __name__ == "__main__":
    logger.disable("arshai")  # it tells every step of its agent
    with redis_url() as address:
        asyncio.run(demo(address))
