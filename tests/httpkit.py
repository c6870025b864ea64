"""A scripted HTTP/1.1 server on raw sockets, and what the tests of HTTP share.

The server answers with exact bytes, in exact pieces, after exact pauses, and records what it was
sent. One handler answers every request, or a list of them one request each (the last one also all
that follow):

    with HttpServer(reply(body=b"hello")) as server:
    with HttpServer([reply(500), raw(b"HTTP/1.1 200 OK\\r\\nContent-Le", RESET)]) as server:

A handler is a function of an Exchange, called on the connection's own thread when the head of a
request has arrived.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faultkit import child as plain_child
from servers import free_port

CHUNK = 1 << 16
GATE_LIMIT = 60.0  # seconds; a gate that nobody opens must not keep a thread for ever

CLOSE = object()  # steps of raw(): end the connection with FIN,
RESET = object()  # or with RST


class Gone(Exception):
    """The client has closed its connection."""


@dataclass
class Request:
    """What a client sent: the head as it came, the body without its framing."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    raw: bytes
    connection: int  # which of the server's connections, from 1
    time: float = field(default_factory=time.monotonic)
    body: bytes = b""
    complete: bool = False  # the body has been read to its end

    def all(self, name: str) -> list[str]:
        """The values of all headers of this name."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The value of the only header of this name."""
        values = self.all(name)
        assert len(values) <= 1, values
        return values[0] if values else None


class Exchange:
    """One request and how it is answered."""

    def __init__(self, server: HttpServer, sock: socket.socket, request: Request, rest: bytes):
        self.server = server
        self.sock = sock
        self.request = request
        self._rest = rest  # read from the socket and not yet used

    def send(self, data: bytes) -> None:
        """Raises Gone if nobody reads any more."""
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise Gone from error

    def send_some(self, data: bytes, seconds: float) -> int:
        """How much of the data the client takes when it is offered no longer than that."""
        self.sock.settimeout(seconds)
        sent = 0
        try:
            while sent < len(data):
                sent += self.sock.send(data[sent : sent + CHUNK])
        except TimeoutError:
            pass
        finally:
            self.sock.settimeout(None)
        return sent

    def pause(self, gate: threading.Event | float) -> None:
        """Wait for seconds or until the gate is open; Gone if the client or the server goes."""
        limit = GATE_LIMIT if isinstance(gate, threading.Event) else gate
        is_open = gate.is_set if isinstance(gate, threading.Event) else lambda: False
        deadline = time.monotonic() + limit
        watched = [] if isinstance(self.sock, ssl.SSLSocket) else [self.sock]
        while not is_open() and (left := deadline - time.monotonic()) > 0:
            if self.server.closing.is_set():
                raise Gone
            try:
                if select.select(watched, [], [], min(left, 0.01))[0]:
                    if not self.sock.recv(1, socket.MSG_PEEK):
                        raise Gone
                    watched = []  # it has sent more, so it is there
            except (OSError, ValueError) as error:
                raise Gone from error
        assert is_open() or not isinstance(gate, threading.Event), "nobody opened the gate"

    def _more(self) -> None:
        try:
            data = self.sock.recv(CHUNK)
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self._rest += data

    def _line(self) -> bytes:
        while b"\r\n" not in self._rest:
            self._more()
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line

    def _exactly(self, n: int) -> bytes:
        pieces = [self._rest[:n]]
        self._rest = self._rest[n:]
        n -= len(pieces[0])
        while n > 0:
            self._more()
            pieces.append(self._rest[:n])
            self._rest = self._rest[n:]
            n -= len(pieces[-1])
        return b"".join(pieces)

    def read_body(self) -> bytes:
        """The request's body, read to its end."""
        request = self.request
        if request.complete:
            return request.body
        if "chunked" in (request.get("transfer-encoding") or ""):
            pieces = []
            while size := int(self._line().split(b";")[0], 16):
                pieces.append(self._exactly(size))
                self._line()
            while self._line():
                pass
            request.body = b"".join(pieces)
        else:
            request.body = self._exactly(int(request.get("content-length") or 0))
        request.complete = True
        return request.body

    def closed_by_client(self, limit: float = 10) -> bool:
        """Whether the client ends the connection in that time; what it sends is thrown away."""
        self.sock.settimeout(limit)
        try:
            while self.sock.recv(CHUNK):
                pass
            return True
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                self.sock.settimeout(None)

    def close(self) -> None:
        """End the connection with FIN."""
        # unwrap() would wait for the client's own farewell
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def reset(self) -> None:
        """End the connection with RST."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def steps(self, steps: Iterable[Any]) -> None:
        """Bytes are sent; numbers and events are waited for; CLOSE and RESET do it."""
        for step in steps:
            if step is CLOSE:
                return self.close()
            if step is RESET:
                return self.reset()
            if isinstance(step, (bytes, bytearray)):
                self.send(step)
            elif callable(step):
                step(self)
            else:
                self.pause(step)


Handler = Callable[[Exchange], None]


def head(
    status: int = 200,
    headers: Iterable[tuple[str, str]] = (),
    *,
    reason: str = "Fine",
    version: str = "1.1",
) -> bytes:
    """Status line, headers and the empty line."""
    lines = [f"HTTP/{version} {status} {reason}", *(f"{k}: {v}" for k, v in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def reply(
    status: int = 200,
    body: bytes | str = b"",
    headers: Iterable[tuple[str, str]] = (),
    *,
    reason: str = "Fine",
) -> Handler:
    """Reads the request and answers with Content-Length; HEAD, 204 and 304 without the body."""
    if isinstance(body, str):
        body = body.encode()
    headers = list(headers)

    def handler(x: Exchange) -> None:
        x.read_body()
        length = [] if status in (204, 304) else [("Content-Length", str(len(body)))]
        bare = x.request.method == "HEAD" or status in (204, 304)
        x.send(head(status, [*headers, *length], reason=reason) + (b"" if bare else body))

    return handler


def reply_json(value: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Handler:
    headers = [("Content-Type", "application/json"), *headers]
    return reply(status, json.dumps(value), headers)


def raw(*steps: Any, read: bool = True) -> Handler:
    """Reads the request, if it shall, and does the steps (see Exchange.steps)."""

    def handler(x: Exchange) -> None:
        if read:
            x.read_body()
        x.steps(steps)

    return handler


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; the last one without data."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def chunked(*steps: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Handler:
    """A chunked reply: bytes are a chunk each, everything else is as in raw()."""
    body = [chunk(s) if isinstance(s, bytes) else s for s in steps]
    ends = bool(steps) and steps[-1] in (CLOSE, RESET)
    start = head(status, [*headers, ("Transfer-Encoding", "chunked")])
    return raw(start, *body, *([] if ends else [chunk(b"")]))


def echo(x: Exchange) -> None:
    """Answers with the request as JSON."""
    body = x.read_body()
    r = x.request
    answer = {
        "method": r.method,
        "target": r.target,
        "headers": r.headers,
        "body": body.decode("latin-1"),
    }
    data = json.dumps(answer).encode()
    x.send(head(200, [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]))
    if r.method != "HEAD":
        x.send(data)


def stall(gate: threading.Event | None = None) -> Handler:
    """Answers nothing (before the gate is open, then an empty 200)."""
    return raw(gate or threading.Event(), head(200, [("Content-Length", "0")]))


def by_path(handlers: dict[str, Handler]) -> Handler:
    """One handler for each path; "*" for all others."""

    def handler(x: Exchange) -> None:
        handlers.get(x.request.target.partition("?")[0], handlers.get("*", reply(404)))(x)

    return handler


class HttpServer:
    """See the module's description. A context manager.

    handler: one function, or a list of one for each request. tls: a server's SSLContext. path: a
    unix socket instead of a free port of 127.0.0.1. on_accept: called with each new socket before
    anything is read from it; what it closes is not read. send_buffer: the kernel's, in bytes.
    """

    def __init__(
        self,
        handler: Handler | Sequence[Handler] = echo,
        *,
        tls: ssl.SSLContext | None = None,
        path: str | None = None,
        on_accept: Callable[[socket.socket], None] | None = None,
        send_buffer: int | None = None,
        receive_buffer: int | None = None,
        port: int = 0,
    ) -> None:
        self.handler = handler
        self.tls = tls
        self.path = path
        self.port = port
        self.on_accept = on_accept
        self.send_buffer = send_buffer
        self.receive_buffer = receive_buffer
        self.closing = threading.Event()
        self.accepted = 0
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []  # of handlers
        self.tls_errors: list[str] = []
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.listen()

    def __enter__(self) -> HttpServer:
        return self

    def __exit__(self, kind: type | None, *exc: object) -> None:
        self.close()
        # a handler's failed assertion is the test's
        if kind is None and self.errors:
            raise self.errors[0]

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections are open now."""
        with self._lock:
            return len(self._sockets)

    def listen(self) -> None:
        """Listen, again if it was refused, on the same port."""
        if self.path:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.path)
        else:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for option, size in (
                (socket.SO_SNDBUF, self.send_buffer),
                (socket.SO_RCVBUF, self.receive_buffer),
            ):
                if size is not None:
                    listener.setsockopt(socket.SOL_SOCKET, option, size)
            listener.bind(("127.0.0.1", self.port))
            self.port = listener.getsockname()[1]
        listener.listen(4096)
        self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def refuse(self) -> None:
        """Stop listening; open connections live on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # close alone would leave a blocked accept() with the descriptor
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            if self.path:
                os.unlink(self.path)

    def drop_all(self) -> None:
        """Close all connections."""
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.closing.set()
        self.refuse()
        self.drop_all()

    def count(self, path: str) -> int:
        """How many requests had this target."""
        return sum(r.target == path for r in self.requests)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
                self._sockets.add(sock)
                number = self.accepted
            thread = threading.Thread(target=self._connection, args=(sock, number), daemon=True)
            thread.start()

    def _connection(self, plain: socket.socket, number: int) -> None:
        sock = plain
        try:
            if not self.path:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.on_accept is not None:
                self.on_accept(plain)
            if self.tls is not None:
                try:
                    sock = self.tls.wrap_socket(plain, server_side=True)
                except OSError as error:
                    self.tls_errors.append(str(error))
                    return
                with self._lock:
                    self._sockets.discard(plain)
                    self._sockets.add(sock)
            rest = b""
            while True:
                x = self._exchange(sock, number, rest)
                if x is None:
                    return
                self._handler_of(x)(x)
                if sock.fileno() < 0:
                    return
                x.read_body()
                rest = x._rest
        except Gone:
            pass
        except BaseException as error:
            if not self.closing.is_set():
                self.errors.append(error)
        finally:
            with self._lock:
                self._sockets.discard(plain)
                self._sockets.discard(sock)
            sock.close()
            plain.close()

    def _exchange(self, sock: socket.socket, number: int, rest: bytes) -> Exchange | None:
        while b"\r\n\r\n" not in rest:
            try:
                data = sock.recv(CHUNK)
            except OSError:
                return None
            if not data:
                return None
            rest += data
        top, _, rest = rest.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        pairs = [line.split(":", 1) for line in lines]
        headers = [(name, value.strip()) for name, value in pairs]
        request = Request(method, target, version, headers, top, number)
        return Exchange(self, sock, request, rest)

    def _handler_of(self, x: Exchange) -> Handler:
        with self._lock:
            n = len(self.requests)
            self.requests.append(x.request)
        if callable(self.handler):
            return self.handler
        return self.handler[min(n, len(self.handler) - 1)]


class Proxy(HttpServer):
    """A forward proxy: CONNECT, and plain requests with an absolute URL.

    auth: the value of Proxy-Authorization without which it answers 407. to: host and port where
    every connection goes, whatever it was asked for.
    """

    def __init__(
        self, *, auth: str | None = None, to: tuple[str, int] | None = None, **options: Any
    ) -> None:
        self.auth = auth
        self.to = to
        super().__init__(self._proxy, **options)

    def _proxy(self, x: Exchange) -> None:
        request = x.request
        if self.auth is not None and request.get("proxy-authorization") != self.auth:
            x.read_body()
            x.send(head(407, [("Proxy-Authenticate", "Basic"), ("Content-Length", "0")]))
            return
        tunnel = request.method == "CONNECT"
        host, _, rest = request.target.removeprefix("http://").partition("/")
        name, _, port = host.rpartition(":")
        try:
            there = socket.create_connection(self.to or (name, int(port)), timeout=10)
        except OSError:
            x.send(head(502, [("Content-Length", "0")]))
            return
        there.settimeout(None)
        if tunnel:
            x.send(head(200))
        else:
            line = f"{request.method} /{rest} HTTP/1.1\r\n".encode()
            kept = [
                f"{k}: {v}\r\n".encode("latin-1")
                for k, v in request.headers
                if not k.lower().startswith("proxy-")
            ]
            there.sendall(line + b"".join(kept) + b"\r\n" + x._rest)
        back = threading.Thread(target=_pump, args=(there, x.sock), daemon=True)
        back.start()
        _pump(x.sock, there, x._rest if tunnel else b"")
        back.join(GATE_LIMIT)
        there.close()
        raise Gone


def _pump(source: socket.socket, target: socket.socket, first: bytes = b"") -> None:
    with contextlib.suppress(OSError):
        if first:
            target.sendall(first)
        while data := source.recv(CHUNK):
            target.sendall(data)
    for sock in (source, target):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class Certificates:
    """A CA of our own and certificates of it, made when they are asked for, in a directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "index.txt").touch()
        (folder / "index.txt.attr").write_text("unique_subject = no\n")
        (folder / "serial").write_text("1000\n")
        (folder / "ca.cnf").write_text(
            "[ca]\ndefault_ca = own\n[own]\n"
            f"dir = {folder}\ndatabase = $dir/index.txt\nserial = $dir/serial\n"
            "new_certs_dir = $dir\ncertificate = $dir/ca.pem\nprivate_key = $dir/ca.key\n"
            "default_md = sha256\ndefault_days = 30\npolicy = any\n[any]\ncommonName = supplied\n"
        )
        self._key("ca")
        self._openssl(
            "req", "-x509", "-key", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA",
            "-days", "30",
        )  # fmt: skip
        self.ca = str(folder / "ca.pem")

    def _openssl(self, *args: str) -> None:
        done = subprocess.run(
            ["openssl", *args], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def _key(self, name: str) -> None:
        self._openssl(
            "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key"
        )  # fmt: skip

    @functools.cache  # noqa: B019 - one for each session
    def pair(
        self, name: str, names: str = "DNS:localhost,IP:127.0.0.1", *dates: str
    ) -> tuple[str, str]:
        """Paths of a certificate for these names and of its key; dates: options of openssl ca."""
        self._key(name)
        (self.folder / f"{name}.ext").write_text(f"subjectAltName = {names}\n")
        self._openssl(
            "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr"
        )
        self._openssl(
            "ca", "-batch", "-notext", "-config", "ca.cnf", "-in", f"{name}.csr",
            "-out", f"{name}.pem", "-extfile", f"{name}.ext", *dates,
        )  # fmt: skip
        return str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")

    def good(self) -> tuple[str, str]:
        return self.pair("good")

    def expired(self) -> tuple[str, str]:
        dates = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
        return self.pair("expired", "DNS:localhost,IP:127.0.0.1", *dates)

    def wrong_host(self) -> tuple[str, str]:
        return self.pair("wrong", "DNS:elsewhere.example")

    @functools.cache  # noqa: B019
    def self_signed(self) -> tuple[str, str]:
        self._key("self")
        self._openssl(
            "req", "-x509", "-key", "self.key", "-out", "self.pem", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "30",
        )  # fmt: skip
        return str(self.folder / "self.pem"), str(self.folder / "self.key")

    def client(self, password: str | None = None) -> tuple[str, str]:
        """A client's certificate, its key encrypted if there is a password."""
        cert, key = self.pair("client", "DNS:client")
        if password is None:
            return cert, key
        sealed = str(self.folder / "sealed.key")
        self._openssl("ec", "-in", key, "-aes256", "-passout", f"pass:{password}", "-out", sealed)
        return cert, sealed

    def context(
        self, pair: tuple[str, str] | None = None, *, ask_client: bool = False
    ) -> ssl.SSLContext:
        """A server's context with this certificate (None: the good one)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*(pair or self.good()))
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


class Nginx:
    """An nginx on a port of its own, with a server block of the caller's; a context manager."""

    def __init__(self, server_block: str, *, tls: tuple[str, str] | None = None) -> None:
        self.dir = tempfile.mkdtemp(prefix="arn-nginx-")
        os.chmod(self.dir, 0o755)  # its workers may be nobody
        self.port = free_port()
        listen = f"listen 127.0.0.1:{self.port} backlog=4096"
        if tls:
            listen += f" ssl http2; ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]}"
        Path(self.dir, "nginx.conf").write_text(
            f"""daemon off; pid {self.dir}/pid; error_log {self.dir}/error.log; worker_processes 1;
            events {{ worker_connections 8192; }}
            http {{
                access_log off; client_max_body_size 100m; client_body_temp_path {self.dir}/b;
                proxy_temp_path {self.dir}/p; fastcgi_temp_path {self.dir}/f;
                uwsgi_temp_path {self.dir}/u; scgi_temp_path {self.dir}/s;
                server {{ {listen}; {server_block} }}
            }}"""
        )
        self.process = subprocess.Popen(
            ["nginx", "-c", f"{self.dir}/nginx.conf", "-p", self.dir],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        log = Path(self.dir, "error.log")
        raise RuntimeError(f"nginx: {log.read_text() if log.exists() else 'no log'}")

    def __enter__(self) -> Nginx:
        return self

    def kill(self) -> None:
        """End it at once, and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __exit__(self, *exc: object) -> None:
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


@contextlib.contextmanager
def full_backlog():
    """The address of a socket that listens and whose queue is full: connecting gets no answer."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(8):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(address)
        time.sleep(0.05)
        yield address


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """Bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


CHILD = """
import asyncio, gc, os, sys, time
from arshai_native import _core
from arshai_native._core import HttpClient, HttpError
"""


def child(code: str, *args: object, limit: float = 40) -> subprocess.CompletedProcess[str]:
    """faultkit.child() with what the tests of HTTP need."""
    return plain_child(code, *args, limit=limit, prelude=CHILD)
