"""Real servers for tests, demo and benchmarks. Nothing here needs pytest."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


class RedisServer:
    """A redis-server on a port of its own that tests may stop, kill, freeze and start again."""

    def __init__(self, *options: str) -> None:
        self.options = options
        self.dir = tempfile.mkdtemp(prefix="arn-redis-")
        self.host = "127.0.0.1"
        self.port = free_port()
        self.path = os.path.join(self.dir, "s")
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:  # interrupted, too: nobody has the object yet that could close it
            self.close()
            raise

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

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
    sock.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
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
