"""A Redis proxy that breaks on purpose: real sockets, a real server behind, faults by rule.

The proxy understands where a command and a reply end (RESP2), so a fault hits exactly the command
it is meant for, also when a client sends many commands down one connection:

    with FaultProxy(server.host, server.port) as proxy:
        proxy.on("GET", cut(5))                  # 5 bytes of the reply, then the connection closes
        proxy.on("SET", drop_after(), times=2)   # the server executes it, nobody hears of it

Every connection has two threads, one in each direction; a rule is looked up when a command has
arrived in full, and its fault travels to the reply side in command order. Counters (accepted,
seen, malformed) tell a test how often a client connected and what it really sent.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from respframes import CHUNK, Frames, Malformed, words

GATE_LIMIT = 60.0  # seconds; a gate nobody opens must not keep a thread for ever


@dataclass
class Fault:
    """What happens to one command and its reply.

    forward: whether the server gets to see the command.
    raw: bytes sent to the client in place of the server's reply.
    keep: relay only so many bytes of the reply, then close.
    split: relay so many bytes, then wait for the gate, then relay the rest.
    held: nothing of the reply is relayed before the gate is open.
    hold_request: the command itself waits for the gate before it goes to the server.
    delay: seconds before the reply is relayed.
    trickle: relay one byte at a time.
    close: close after the reply, or at once if there is none.
    reset: close with RST rather than FIN.
    """

    forward: bool = True
    raw: bytes | None = None
    keep: int | None = None
    split: int | None = None
    held: bool = False
    hold_request: bool = False
    delay: float = 0.0
    trickle: bool = False
    close: bool = False
    reset: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let whatever waits at this fault's gate go on."""
        self.gate.set()


def cut(after: int, *, reset: bool = False) -> Fault:
    """Relay `after` bytes of the reply, then close."""
    return Fault(keep=after, close=True, reset=reset)


def drop_before(*, reset: bool = False) -> Fault:
    """Close when the command arrives; the server never sees it."""
    return Fault(forward=False, close=True, reset=reset)


def drop_after(*, reset: bool = False) -> Fault:
    """The server executes the command; its reply is lost and the connection closes."""
    return Fault(keep=0, close=True, reset=reset)


def stall() -> Fault:
    """The command is executed, its reply and all later ones wait for release()."""
    return Fault(held=True)


def hold() -> Fault:
    """The command and all later ones of the connection wait for release()."""
    return Fault(hold_request=True)


def split(after: int) -> Fault:
    """`after` bytes of the reply arrive, the rest waits for release()."""
    return Fault(split=after)


def inject(raw: bytes, *, close: bool = False) -> Fault:
    """Answer with these bytes; the server never sees the command."""
    return Fault(forward=False, raw=raw, close=close)


def delay(seconds: float) -> Fault:
    """The reply comes so much later."""
    return Fault(delay=seconds)


def trickle() -> Fault:
    """The reply comes byte by byte, each in a packet of its own."""
    return Fault(trickle=True)


PASS = Fault()


@dataclass
class Rule:
    match: Callable[[list[bytes]], bool]
    fault: Fault
    times: int | None


class FaultProxy:
    """A proxy in front of a Redis server; a context manager.

    Parameters: host, port or path of the server; listen_path: a unix socket to listen on instead
    of a free TCP port on 127.0.0.1.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        path: str | None = None,
        listen_path: str | None = None,
    ) -> None:
        self._target = (host, port)
        self._target_path = path
        self.path = listen_path
        self.host = "127.0.0.1"
        self.port = 0
        self.accepted = 0
        self.seen: Counter[str] = Counter()
        self.log: list[list[bytes]] = []  # commands, arguments cut to 100 bytes
        self.malformed: list[bytes] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._listener: socket.socket | None = None
        self._closed = False
        self._reading = threading.Event()
        self._reading.set()
        self._silent = False

    def __enter__(self) -> FaultProxy:
        self.accept()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The redis:// or unix:// URL of the proxy."""
        return f"unix://{self.path}" if self.path else f"redis://{self.host}:{self.port}/0"

    @property
    def open(self) -> int:
        """How many client connections are open now."""
        with self._lock:
            return len(self._links)

    def on(
        self,
        match: str | Callable[[list[bytes]], bool],
        fault: Fault,
        *,
        key: bytes | None = None,
        times: int | None = 1,
    ) -> Fault:
        """Apply `fault` to the next `times` commands that match (None: to all of them).

        match: a command's name, "*" for any, or a function of its arguments. key: also its first
        argument. Earlier rules win. Returns the fault.
        """
        if callable(match):
            test = match
        else:
            name = match.upper().encode()

            def test(args: list[bytes]) -> bool:
                if name != b"*" and args[0].upper() != name:
                    return False
                return key is None or (len(args) > 1 and args[1] == key)

        with self._lock:
            self._rules.append(Rule(test, fault, times))
        return fault

    def clear(self) -> None:
        """Forget all rules and open all their gates."""
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.fault.release()

    def refuse(self) -> None:
        """Stop listening: connections are refused until accept(). Open ones live on."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            # close alone would leave a blocked accept() with the descriptor
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            if self.path:
                os.unlink(self.path)

    def accept(self) -> None:
        """Listen, on the same port or path as before."""
        if self.path:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.path)
        else:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            self.port = listener.getsockname()[1]
        listener.listen(1024)
        self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def pause_reading(self) -> None:
        """Read nothing more from any client: its kernel buffers, then its own queues, fill up."""
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    def silence(self, on: bool = True) -> None:
        """New connections are accepted and never answered; off lets only later ones through."""
        self._silent = on

    def drop_all(self, *, reset: bool = False) -> None:
        """Close all connections now."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.close(reset)

    def close(self) -> None:
        """Stop listening and close all connections."""
        self._closed = True
        self.refuse()
        self.clear()
        self._reading.set()
        self.drop_all()

    def count(self, name: str) -> int:
        """How many commands of this name have arrived."""
        return self.seen[name.upper()]

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
            link = _Link(self, client, self._silent)
            with self._lock:
                self._links.add(link)
            link.start()

    def _connect(self) -> socket.socket:
        if self._target_path:
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target_path)
            return server
        server = socket.create_connection(self._target, timeout=10)
        server.settimeout(None)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server

    def _fault_for(self, args: list[bytes]) -> Fault:
        with self._lock:
            self.seen[args[0].decode("latin-1").upper()] += 1
            self.log.append([arg[:100] for arg in args])
            for rule in self._rules:
                if rule.match(args):
                    if rule.times is not None:
                        rule.times -= 1
                        if not rule.times:
                            self._rules.remove(rule)
                    return rule.fault
        return PASS

    def _forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)


class _Link:
    """One client connection and the server connection behind it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, silent: bool) -> None:
        self.proxy = proxy
        self.client = client
        self.silent = silent
        self.server: socket.socket | None = None
        self.faults: queue.SimpleQueue[Fault] = queue.SimpleQueue()
        self.closing = threading.Event()
        self._close_lock = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._requests, daemon=True).start()

    def close(self, reset: bool = False) -> None:
        """Close both sides, from any thread; both threads end."""
        with self._close_lock:
            if self.closing.is_set():
                return
            self.closing.set()
        if reset:
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        for sock in (self.client, self.server):
            if sock is not None:
                # a plain close would not wake a thread that is blocked in recv; after RST was
                # asked for, shutdown would send FIN first
                try:
                    if not (reset and sock is self.client):
                        sock.shutdown(socket.SHUT_RDWR)
                    else:
                        sock.shutdown(socket.SHUT_RD)
                except OSError:
                    pass
                sock.close()
        self.faults.put(PASS)
        self.proxy._forget(self)

    def _wait(self, gate: threading.Event) -> bool:
        """Wait for a gate; False when the connection has gone in the meantime."""
        waited = 0.0
        while not gate.wait(0.02):
            waited += 0.02
            if self.closing.is_set() or waited > GATE_LIMIT:
                return False
        return not self.closing.is_set()

    def _requests(self) -> None:
        try:
            if self.client.family != socket.AF_UNIX:
                self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.silent:
                while self.client.recv(CHUNK):
                    pass
                return
            self.server = self.proxy._connect()
            threading.Thread(target=self._replies, daemon=True).start()
            frames = Frames(self.client)
            while self._wait(self.proxy._reading):
                frame = frames.next()
                if frame is None:
                    return
                fault = self.proxy._fault_for(words(frame))
                if fault.hold_request:
                    fault.reached.set()
                    if not self._wait(fault.gate):
                        return
                if not fault.forward and fault.raw is None:
                    fault.reached.set()
                    self.close(fault.reset)
                    return
                self.faults.put(fault)
                if fault.forward:
                    self.server.sendall(frame)
        except Malformed as error:
            self.proxy.malformed.append(error.args[0])
        except OSError:
            pass
        finally:
            self.close()

    def _replies(self) -> None:
        assert self.server is not None
        frames = Frames(self.server)
        try:
            while True:
                fault = self.faults.get()
                if self.closing.is_set():
                    return
                frame = frames.next() if fault.forward else fault.raw
                if frame is None:
                    # a reply the server has begun and not finished still belongs to the client
                    self.client.sendall(frames.rest())
                    return
                if not self._deliver(fault, frame):
                    return
        except (OSError, Malformed):
            pass
        finally:
            self.close()

    def _deliver(self, fault: Fault, frame: bytes) -> bool:
        """Send one reply the fault's way; False when the connection is over."""
        if fault.delay and self.closing.wait(fault.delay):
            return False
        if fault.held:
            fault.reached.set()
            if not self._wait(fault.gate):
                return False
        if fault.split is not None:
            self.client.sendall(frame[: fault.split])
            fault.reached.set()
            if not self._wait(fault.gate):
                return False
            frame = frame[fault.split :]
        if fault.keep is not None:
            frame = frame[: fault.keep]
        if fault.trickle:
            for at in range(len(frame)):
                self.client.sendall(frame[at : at + 1])
        else:
            self.client.sendall(frame)
        if fault is not PASS:
            fault.reached.set()
        if fault.close:
            self.close(fault.reset)
            return False
        return True
