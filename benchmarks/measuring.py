"""What the workers share: loops of awaits that are counted, and the CPU time they take."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable
from typing import Any


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def percentile(latencies: list[float], fraction: float) -> float:
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))] * 1e6


# Of each task, to warm up and again to be measured, however long it takes: httpx, with a hundred
# tasks, needs several rounds of calls until it has its connections, and was measured making them.
LEAST_CALLS = 5


async def throughput(
    operation: Callable[[int], Awaitable[Any]], tasks: int, seconds: float, each: int = 1
) -> dict[str, float]:
    """Runs operation(task number) in a loop in so many tasks; `each` operations a call."""
    count = 0

    async def worker(number: int, end: float) -> None:
        nonlocal count
        calls = 0
        while time.perf_counter() < end or calls < LEAST_CALLS:
            await operation(number)
            count += each
            calls += 1

    async def span(duration: float) -> float:
        start = time.perf_counter()
        await asyncio.gather(*(worker(i, start + duration) for i in range(tasks)))
        return time.perf_counter() - start

    await span(min(0.25, seconds / 3))  # connections, caches, code
    count = 0
    cpu = cpu_seconds()
    elapsed = await span(seconds)
    return {"ops": count / elapsed, "cpu_us": (cpu_seconds() - cpu) / count * 1e6}


async def latency(
    operation: Callable[[int], Awaitable[Any]], tasks: int, seconds: float
) -> dict[str, float]:
    latencies: list[float] = []

    async def timed(number: int) -> None:
        start = time.perf_counter()
        await operation(number)
        latencies.append(time.perf_counter() - start)

    await throughput(operation, tasks, min(0.25, seconds / 3))
    result = await throughput(timed, tasks, seconds)
    return {**result, "p50": percentile(latencies, 0.5), "p99": percentile(latencies, 0.99)}


TICK = 0.001


def waits_for_processor() -> float:
    """Seconds that this thread was ready to run and did not, while others ran; 0 if not known."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0


async def stalls(
    operation: Callable[[int], Awaitable[Any]], tasks: int, seconds: float
) -> dict[str, float]:
    """How long the event loop leaves others waiting meanwhile: how much later than asked for a task
    that sleeps a millisecond again and again is run, in ms; the longest the loop was away from its
    selector, which is the same without the selector's rounding to whole milliseconds; and the
    longest without the time in which it could have run, had a processor been free.
    """
    loop: Any = asyncio.get_running_loop()
    late: list[float] = []
    away = own = 0.0
    left, waited = time.perf_counter(), waits_for_processor()
    select = loop._selector.select

    def watched(timeout: float | None = None) -> Any:
        nonlocal away, own, left, waited
        gone = time.perf_counter() - left
        away = max(away, gone)
        own = max(own, gone - (waits_for_processor() - waited))
        try:
            return select(timeout)
        finally:
            left, waited = time.perf_counter(), waits_for_processor()

    async def tick() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(TICK)
            late.append(time.perf_counter() - start - TICK)

    await throughput(operation, tasks, min(0.25, seconds / 3))
    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0)
    away = own = 0.0
    left, waited = time.perf_counter(), waits_for_processor()
    loop._selector.select = watched
    result = await throughput(operation, tasks, seconds)
    loop._selector.select = select
    ticker.cancel()
    late.sort()
    return {
        **result,
        "stall": late[-1] * 1e3,
        "stall_p99": late[int(len(late) * 0.99)] * 1e3,
        "away": away * 1e3,
        "own": own * 1e3,
    }
