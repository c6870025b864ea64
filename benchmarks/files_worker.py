"""One measurement in a process of its own: python benchmarks/files_worker.py '{"client": ...}'.

The argument is a JSON object: client, work, tasks, seconds, folder. Prints a JSON object. Every
client runs the same loop of awaits and looks at what it got.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from measuring import cpu_seconds, throughput  # noqa: E402

sys.path.remove(HERE)

SIZES = {"4 KB": 4096, "1 MB": 1 << 20, "64 MB": 64 << 20}
LINE = b"a line of a text file, as long as many lines are\n"
LINES = 20000
HANDLE_READS = 200  # of an open file in one call

Operation = Callable[[int], Awaitable[Any]]


def path_of(folder: str, name: str) -> str:
    return os.path.join(folder, name.replace(" ", "-"))


def opener(client: str) -> Any:
    if client == "ours":
        from arshai_native import aiofiles

        return aiofiles.open
    import aiofiles as peer

    return peer.open


def read_whole(client: str, path: str, size: int) -> Operation:
    def sync() -> bytes:
        with open(path, "rb") as f:
            return f.read()

    def checked(data: bytes) -> bytes:
        assert len(data) == size
        return data

    async def plain(_: int) -> bytes:
        return checked(sync())

    async def thread(_: int) -> bytes:
        return checked(await asyncio.to_thread(sync))

    if client in SYNC:
        return plain if client == "plain" else thread
    aopen = opener(client)

    async def read(_: int) -> bytes:
        async with aopen(path, "rb") as f:
            return checked(await f.read())

    return read


def write_whole(client: str, folder: str) -> Operation:
    data = b"x" * 4096

    def sync(number: int) -> None:
        with open(f"{folder}/{number}", "wb") as f:
            f.write(data)

    async def plain(number: int) -> None:
        sync(number)

    async def thread(number: int) -> None:
        await asyncio.to_thread(sync, number)

    if client in SYNC:
        return plain if client == "plain" else thread
    aopen = opener(client)

    async def write(number: int) -> None:
        async with aopen(f"{folder}/{number}", "wb") as f:
            assert await f.write(data) == 4096

    return write


def read_handle(client: str, path: str) -> Operation:
    """So many reads of 4 KB of a file that stays open."""
    files: dict[int, Any] = {}

    async def plain(number: int) -> None:
        if number not in files:
            files[number] = open(path, "rb")  # noqa: SIM115
        f = files[number]
        for _ in range(HANDLE_READS):
            assert len(f.read(4096)) == 4096
        f.seek(0)

    async def thread(number: int) -> None:
        if number not in files:
            files[number] = open(path, "rb")  # noqa: SIM115
        f = files[number]
        for _ in range(HANDLE_READS):
            assert len(await asyncio.to_thread(f.read, 4096)) == 4096
        f.seek(0)

    if client in SYNC:
        return plain if client == "plain" else thread
    aopen = opener(client)

    async def read(number: int) -> None:
        if number not in files:
            files[number] = await aopen(path, "rb")
        f = files[number]
        for _ in range(HANDLE_READS):
            assert len(await f.read(4096)) == 4096
        await f.seek(0)

    return read


def iterate(client: str, path: str, mode: str) -> Operation:
    async def plain(_: int) -> None:
        count = 0
        with open(path, mode) as f:
            for _line in f:
                count += 1
        assert count == LINES

    if client == "plain":
        return plain
    aopen = opener(client)

    async def lines(_: int) -> None:
        count = 0
        async with aopen(path, mode) as f:
            async for _line in f:
                count += 1
        assert count == LINES

    return lines


SYNC = ("plain", "to_thread")


def operation(case: dict[str, Any]) -> tuple[Operation, int]:
    """What is to be repeated, and how many operations it is."""
    client, work, folder = case["client"], case["work"], case["folder"]
    if work in SIZES:
        return read_whole(client, path_of(folder, work), SIZES[work]), 1
    if work == "write":
        return write_whole(client, case["written"]), 1
    if work == "handle":
        return read_handle(client, path_of(folder, "1 MB")), HANDLE_READS
    mode = "rb" if work == "lines, bytes" else "r"
    return iterate(client, path_of(folder, "lines"), mode), LINES


class Ticker:
    """A task that sleeps half a millisecond again and again, and how late it was at most."""

    def __init__(self) -> None:
        self.longest, self.over = 0.0, False
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        last = time.perf_counter()
        while not self.over:
            await asyncio.sleep(0.0005)
            now = time.perf_counter()
            self.longest, last = max(self.longest, now - last - 0.0005), now

    async def stop(self) -> float:
        await asyncio.sleep(0)
        self.over = True
        await self.task
        return self.longest


async def gap(case: dict[str, Any]) -> dict[str, float]:
    """The longest time that the loop does not come round, while one task reads a large file: the
    median over several reads, which are timed. The data is dropped between them."""
    op, _ = operation(case)
    gaps, times = [], []
    await op(0)
    for _ in range(7):
        ticker = Ticker()
        await asyncio.sleep(0)
        start = time.perf_counter()
        data = await op(0)
        times.append(time.perf_counter() - start)
        gaps.append(await ticker.stop())
        del data
    cpu = cpu_seconds()
    await op(0)
    cpu = cpu_seconds() - cpu
    return {
        "ops": 1 / sorted(times)[3], "cpu_us": cpu * 1e6, "ms": sorted(times)[3] * 1e3,
        "gap": sorted(gaps)[3] * 1e3,
    }  # fmt: skip


async def measure(case: dict[str, Any]) -> dict[str, float]:
    if case["work"] == "64 MB":
        return await gap(case)
    op, each = operation(case)
    return await throughput(op, case["tasks"], case["seconds"], each)


if __name__ == "__main__":
    parsed = json.loads(sys.argv[1])
    gc.freeze()
    print(json.dumps(asyncio.run(measure(parsed))))
