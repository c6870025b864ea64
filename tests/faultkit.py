"""Helpers of the fault tests: servers that may die, bounded event loops, telling values.

ARN_TEST_PEER=1 runs the same tests against redis.asyncio.Redis, which proves that the tests expect
what redis-py does; `better` marks those that ask for more than it does.

ARN_TEST_EXPRESS=1 runs them with an express connection from each loop's first lone command on, so
that what usually meets the io thread's connections meets those that the loop drives.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from servers import free_port as free_port
from servers import raw_command as raw_command

PEER = os.environ.get("ARN_TEST_PEER") == "1"
EXPRESS = os.environ.get("ARN_TEST_EXPRESS") == "1"
# How many connections a client may have after a few small commands of one loop.
ONE = 1 + EXPRESS
TEST_LIMIT = 90  # seconds for one test before it is interrupted

better = pytest.mark.xfail(PEER, reason="more than redis-py does", strict=True)
lanes_only = pytest.mark.skipif(
    EXPRESS, reason="the fault, or what is counted, is that of the only connection"
)


def run(
    main: Callable[[], Awaitable[Any]], kind: str = "asyncio", limit: float = TEST_LIMIT - 30
) -> Any:
    """asyncio.run(main()) on the loop of that kind, for at most `limit` seconds."""
    factory = None
    if kind == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop

    async def bounded() -> Any:
        return await asyncio.wait_for(main(), limit)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(bounded())


def wait_until(test: Callable[[], Any], limit: float = 15) -> Any:
    """Ask again until the answer is true; the last answer."""
    deadline = time.monotonic() + limit
    while not (answer := test()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return answer


async def until(test: Callable[[], Any], limit: float = 15) -> Any:
    """wait_until for coroutines."""
    deadline = time.monotonic() + limit
    while not (answer := test()) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return answer


def stats_of(client: Any) -> dict[str, int]:
    """The counters of a client's engine."""
    return client.connection_pool._native.engine.stats()


async def express(client: Any, key: str = "express") -> None:
    """Sends lone commands until the running loop has a connection of its own for them."""
    await client.client_getname()  # over the lane: afterwards there is one
    for n in range(5000):
        await client.set(key, n)
        stats = stats_of(client)
        # not one that is still being set up
        if stats["connections"] == 2 and stats["dedicated"] == 0:
            return
        await asyncio.sleep(0)
    raise AssertionError(stats)


def value_of(key: str, size: int | None = None) -> bytes:
    """The value that belongs to a key and to no other, so that an exchanged reply is noticed.

    size: its length in bytes; None: one that also follows from the key, 40 to 4,000.
    """
    digest = hashlib.sha1(key.encode()).hexdigest().encode()
    if size is None:
        size = 40 + int(digest[:4], 16) % 3960
    return (digest * (size // 40 + 1))[:size]


def child(
    code: str, *args: object, limit: float = 40, prelude: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own, with the class under test as `Redis` and asyncio imported.

    args: what the code finds in sys.argv[1:]. limit: seconds after which it is killed, with all
    its children, and AssertionError is raised. prelude: runs before it instead of those imports.
    """
    if prelude is None:
        package = "redis.asyncio" if PEER else "arshai_native.redis"
        prelude = f"import asyncio, gc, os, sys, time\nfrom {package} import Redis\n"
        if EXPRESS:
            prelude += f"import {package}._engine as e\ne.EXPRESS_AFTER = 1\ndel e\n"
    with tempfile.TemporaryDirectory(prefix="arn-child-") as folder:
        script = Path(folder, "script.py")  # a file: multiprocessing's spawn imports it again
        script.write_text(prelude + textwrap.dedent(code))
        path = os.pathsep.join(filter(None, sys.path))
        process = subprocess.Popen(
            # From Python 3.12 on os.fork() warns of other threads, which is what some try.
            [
                sys.executable,
                "-W",
                "ignore:This process:DeprecationWarning",
                str(script),
                *map(str, args),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"no end after {limit} s\n{out}\n{err}") from error
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)
