"""Helpers of the fault tests: servers that may die, bounded event loops, telling values.

ARN_TEST_PEER=1 runs the same tests against redis.asyncio.Redis, which proves that the tests expect
what redis-py does; `better` marks those that ask for more than it does.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

PEER = os.environ.get("ARN_TEST_PEER") == "1"
TEST_LIMIT = 90  # seconds for one test before it is interrupted

better = pytest.mark.xfail(PEER, reason="more than redis-py does", strict=True)


class Server:
    """A redis-server on a port of its own that tests may stop, kill, freeze and start again."""

    def __init__(self, *options: str) -> None:
        self.options = options
        self.dir = tempfile.mkdtemp(prefix="arn-fault-")
        self.host = "127.0.0.1"
        self.port = free_port()
        self.path = os.path.join(self.dir, "s")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        """Start, or start again on the same port, empty; returns when it answers."""
        self.process = subprocess.Popen(
            [
                "redis-server", "--bind", self.host, "--port", str(self.port),
                "--unixsocket", self.path, "--dir", self.dir, "--save", "",
                "--logfile", os.path.join(self.dir, "log"), "--enable-debug-command", "yes",
                *self.options,
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with socket.create_connection((self.host, self.port), timeout=5) as sock:
                    sock.sendall(b"PING\r\n")
                    if sock.recv(100):
                        return
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        log = Path(self.dir, "log")
        raise RuntimeError(f"redis-server: {log.read_text() if log.exists() else 'no log'}")

    def kill(self) -> None:
        """End it at once; its sockets are closed by the kernel."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Stop it from answering without closing anything."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def command(self, *args: str | bytes) -> bytes:
        """One command over a connection of its own; the raw reply."""
        with socket.create_connection((self.host, self.port), timeout=20) as sock:
            return raw_command(sock, *args)

    def clients(self, name: str | None = None) -> list[dict[str, str]]:
        """CLIENT LIST without the connection that asks; optionally those of one name."""
        text = self.command("CLIENT", "LIST").decode()
        rows = [dict(f.split("=", 1) for f in line.split() if "=" in f) for line in text.split("\n")
                if line.startswith("id=")]  # fmt: skip
        rows = [row for row in rows if row.get("cmd") != "client|list"]
        return [row for row in rows if name is None or row["name"] == name]

    def close(self) -> None:
        if self.process is not None:
            self.thaw()
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def raw_command(sock: socket.socket, *args: str | bytes) -> bytes:
    """Send a command over a plain socket; the raw reply, complete for everything but arrays."""
    parts = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    sock.sendall(
        b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
    )
    data = b""
    while b"\r\n" not in data:
        chunk = sock.recv(1 << 20)
        if not chunk:
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n")
    while head[:1] == b"$" and head != b"$-1" and len(body) < int(head[1:]) + 2:
        chunk = sock.recv(1 << 20)
        if not chunk:
            break
        body += chunk
    return head + b"\r\n" + body


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


def value_of(key: str, size: int | None = None) -> bytes:
    """The value that belongs to a key and to no other, so that an exchanged reply is noticed.

    size: its length in bytes; None: one that also follows from the key, 40 to 4,000.
    """
    digest = hashlib.sha1(key.encode()).hexdigest().encode()
    if size is None:
        size = 40 + int(digest[:4], 16) % 3960
    return (digest * (size // 40 + 1))[:size]


def python_env() -> dict[str, str]:
    """The environment for a Python child that sees what this process sees."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def client_code() -> str:
    """The import line that gives a child process the class under test as `Redis`."""
    package = "redis.asyncio" if PEER else "arshai_native.redis"
    return f"from {package} import Redis"
