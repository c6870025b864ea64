"""One measurement in a process of its own: python benchmarks/worker.py '{"client": ...}'.

The argument is a JSON object: client, loop (asyncio or uvloop), work, tasks, seconds, host, port.
Prints a JSON object. Every client runs the same loop of awaits; operations are counted until the
time is up, client CPU is that of the whole process with all its threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

# This folder is not in the path, where its redis.py would stand in for the package.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from measuring import latency, throughput  # noqa: E402

sys.path.remove(HERE)

VALUE = b"x" * 100
LARGE = b"y" * (8 * 1024 * 1024)
MEMORY_TEXT = "The user prefers short answers and lives in Lisbon. " * 40  # 2 KB


class Threaded:
    """A synchronous client behind asyncio.to_thread: the executor pattern."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def get(self, key: str) -> Any:
        return await asyncio.to_thread(self.client.get, key)

    async def set(self, key: str, value: bytes) -> Any:
        return await asyncio.to_thread(self.client.set, key, value)

    async def setex(self, key: str, ttl: int, value: bytes) -> Any:
        return await asyncio.to_thread(self.client.setex, key, ttl, value)


async def make_client(name: str, host: str, port: int) -> Any:
    if name == "ours":
        from arshai_native.redis import Redis

        return Redis(host=host, port=port)
    if name == "redis.asyncio":
        import redis.asyncio

        return redis.asyncio.Redis(host=host, port=port)
    if name == "redis.asyncio pool 20":
        import redis.asyncio as peer

        pool = peer.BlockingConnectionPool(host=host, port=port, max_connections=20, timeout=60)
        return peer.Redis(connection_pool=pool)
    if name == "valkey-glide":
        import glide

        addresses = [glide.NodeAddress(host, port)]
        configuration = glide.GlideClientConfiguration(addresses, request_timeout=60000)
        return await glide.GlideClient.create(configuration)
    if name == "redis in to_thread":
        import redis

        return Threaded(redis.Redis(host=host, port=port))
    raise SystemExit(f"unknown client {name}")


async def beside_large(client: Any, tasks: int, seconds: float) -> dict[str, float]:
    """GETs of 100 bytes while two tasks SET and GET values of 8 MB."""
    stop = False
    moved = 0

    async def mover(number: int) -> None:
        nonlocal moved
        while not stop:
            await client.set(f"large{number}", LARGE)
            value = await client.get(f"large{number}")
            if len(value) != len(LARGE):
                raise SystemExit("a large value came back with another length")
            moved += 2

    movers = [asyncio.create_task(mover(i)) for i in range(2)]
    await asyncio.sleep(0.1)
    moved = 0
    start = time.perf_counter()
    result = await latency(lambda i: client.get(f"key{i}"), tasks, seconds)
    result["large_per_s"] = moved / (time.perf_counter() - start)
    stop = True
    await asyncio.gather(*movers)
    return result


async def memory(client: str, url: str, tasks: int, seconds: float) -> dict[str, float]:
    """Store and retrieve of a 2 KB memory; two operations a turn."""
    from arshai.core.interfaces.imemorymanager import IMemoryInput, IWorkingMemory

    inputs = [
        IMemoryInput(
            conversation_id=str(i),
            data=[IWorkingMemory(working_memory=MEMORY_TEXT[:2048])],
            metadata={"user": i},
        )
        for i in range(tasks)
    ]
    if client == "ours":
        from arshai_native.memory import AsyncRedisMemoryManager

        manager = AsyncRedisMemoryManager(url)
        store, retrieve = manager.store_async, manager.retrieve_async
    else:
        from arshai.memory.working_memory.redis_memory_manager import RedisWorkingMemoryManager

        shipped = RedisWorkingMemoryManager(url)

        async def store(input: Any) -> str:
            return await asyncio.to_thread(shipped.store, input)

        async def retrieve(input: Any) -> Any:
            return await asyncio.to_thread(shipped.retrieve, input)

    async def turn(number: int) -> None:
        await store(inputs[number])
        (item,) = await retrieve(inputs[number])
        if len(item.working_memory) != 2048:
            raise SystemExit("a memory came back with another length")

    return await throughput(turn, tasks, seconds, each=2)


async def main(case: dict[str, Any]) -> dict[str, Any]:
    work, tasks, seconds = case["work"], case["tasks"], case["seconds"]
    if work == "memory":
        url = f"redis://{case['host']}:{case['port']}/2"
        return await memory(case["client"], url, tasks, seconds)
    client = await make_client(case["client"], case["host"], case["port"])
    await asyncio.gather(*(client.set(f"key{i}", VALUE) for i in range(tasks)))
    keys = [f"key{i}" for i in range(tasks)]
    if work == "set and get":
        return {
            "set": await throughput(lambda i: client.set(keys[i], VALUE), tasks, seconds),
            "get": await throughput(lambda i: client.get(keys[i]), tasks, seconds),
        }
    if work == "latency":
        return await latency(lambda i: client.get(keys[i]), tasks, seconds)
    if work == "setex":
        value = b"z" * 4096
        return await throughput(lambda i: client.setex(keys[i], 600, value), tasks, seconds)
    if work == "beside large":
        return await beside_large(client, tasks, seconds)
    raise SystemExit(f"unknown work {work}")


if __name__ == "__main__":
    case = json.loads(sys.argv[1])
    if case["loop"] == "uvloop":
        import uvloop

        uvloop.install()
    print(json.dumps(asyncio.run(main(case))))
