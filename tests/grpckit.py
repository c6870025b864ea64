"""What the tests of gRPC share: servers that may die, and a relay that interferes."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from servers import free_port

ECHO, SLEEP, SIZE, HEADERS, ERROR, CRASH = (
    f"/test.Echo/{name}" for name in ("echo", "sleep", "size", "headers", "error", "crash")
)


class GrpcServer:
    """grpc_server.py on a port (or a unix socket) of its own; a context manager.

    files: certificate and key in PEM, and perhaps the CA of the clients.
    """

    host = "127.0.0.1"

    def __init__(self, *files: str, path: str | None = None) -> None:
        self.files = files
        self.path = path
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def __enter__(self) -> GrpcServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start, or start again on the same port; returns when it serves."""
        address = f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"
        script = Path(__file__).with_name("grpc_server.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), address, *self.files],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 30)
        assert readable and self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class Nghttpd:
    """nghttpd, which answers a method with a file: a server that knows nothing of gRPC."""

    host = "127.0.0.1"

    def __init__(self, replies: dict[str, bytes], *options: str) -> None:
        self.dir = tempfile.mkdtemp(prefix="arn-nghttpd-")
        for path, body in replies.items():
            file = Path(self.dir, path.lstrip("/"))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
        self.port = free_port()
        self.process = subprocess.Popen(
            ["nghttpd", "--no-tls", "-a", self.host, "-d", self.dir, *options, str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(1000):
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port)):
                return
            assert self.process.poll() is None
            threading.Event().wait(0.01)
        raise AssertionError("nghttpd does not listen")

    def __enter__(self) -> Nghttpd:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def framed(message: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(message)) + message


class Relay:
    """Passes bytes on to a server, until told otherwise; a context manager.

    down_limit: after so many bytes of the server's, counted for each connection, it cuts.
    """

    host = "127.0.0.1"

    def __init__(self, port: int, down_limit: int | None = None, reset: bool = False) -> None:
        self.target = port
        self.down_limit = down_limit
        self.reset = reset
        self.accepted = 0
        self.flowing = threading.Event()
        self.flowing.set()
        self.socks: list[socket.socket] = []
        self.listener = socket.create_server((self.host, 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.flowing.set()
        # shutdown() wakes accept(); close() alone would not
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.accepted += 1
                server = socket.create_connection((self.host, self.target))
                self.socks += [client, server]
                for source, sink, limit in (
                    (client, server, None),
                    (server, client, self.down_limit),
                ):
                    threading.Thread(
                        target=self._pass, args=(source, sink, limit), daemon=True
                    ).start()

    def _pass(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.flowing.wait()
                if limit is not None and passed + len(data) >= limit:
                    sink.sendall(data[: limit - passed])
                    break
                sink.sendall(data)
                passed += len(data)
        for sock in (source, sink):
            self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self.reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RD)  # whoever waits in recv() keeps it open
                sock.close()
            else:
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End every connection."""
        for sock in self.socks:
            self._end(sock)
        self.socks = []


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def call(channel: Any, how: str, *args: Any, **options: Any) -> Any:
    """channel.unary(...), awaited on a loop of its own or (how "sync") by unary_sync."""
    from faultkit import run

    if how == "sync":
        return channel.unary_sync(*args, **options)

    async def main() -> Any:
        return await channel.unary(*args, **options)

    return run(main)
