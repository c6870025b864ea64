"""How the demo shows what it does, and how it measures it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Any

BEAT = 0.002  # seconds between two beats of the heartbeat


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print()
    for row in [header, ["-" * width for width in widths], *rows]:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


class Meter:
    """Time, CPU and longest stall of the event loop of what runs within `async with meter`; several
    times add up.

    While it runs a heartbeat asks the loop to be called every BEAT. The latest call is the longest
    that anything else on the loop would have had to wait, less what Linux says the thread spent
    ready to run while other programs had the processor. CPU is this process's, all threads,
    without what the heartbeat itself costs: the loop's rounds in which nothing but it came up.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds = self.cpu = self.stall = 0.0

    async def __aenter__(self) -> Meter:
        self.loop: Any = asyncio.get_running_loop()
        self.schedstat: int | None = None
        with contextlib.suppress(OSError):
            self.schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self.select = self.loop._selector.select
        self.loop._selector.select = self.watched_select
        self.only_beat, self.own, self.round = False, 0.0, time.thread_time()
        self.next_beat()
        self.cpu_start, self.start = time.process_time(), time.perf_counter()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        self.handle.cancel()
        self.loop._selector.select = self.select
        self.seconds += now - self.start
        self.cpu += cpu - self.cpu_start - self.own
        self.note_stall(now)
        if self.schedstat is not None:
            os.close(self.schedstat)

    def watched_select(self, timeout: float | None = None) -> Any:
        now = time.thread_time()
        if self.only_beat:
            self.own += now - self.round
        self.round = now
        events = self.select(timeout)
        self.only_beat = not events and timeout != 0
        return events

    def kept_waiting(self) -> float:
        """Seconds this thread has so far been ready to run and not on a processor."""
        if self.schedstat is None:
            return 0.0
        return int(os.pread(self.schedstat, 80, 0).split()[1]) / 1e9

    def note_stall(self, now: float) -> None:
        self.stall = max(self.stall, now - self.due - (self.kept_waiting() - self.waited))

    def next_beat(self) -> None:
        self.waited = self.kept_waiting()
        self.due = time.perf_counter() + BEAT
        self.handle = self.loop.call_later(BEAT, self.beat)

    def beat(self) -> None:
        self.note_stall(time.perf_counter())
        self.next_beat()


def first_line(error: Any) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
