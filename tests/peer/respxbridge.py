"""
What the SDK's tests mock with respx, for a client that speaks to sockets.

respx puts itself into httpcore, which the native engine does not use. So a real server stands in
between: every native client has it as its proxy, for https with a certificate that no client of
this run checks. A request of a test with a respx router is answered by that router, over the wire;
any other goes on to where it was sent.

A mock may also raise, which has no likeness on the wire. Such an exception is raised by the
transport, on behalf of which the request came; without one the connection just ends.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from httpservers import make_certificate

# respx for httpx; the copy of it for httpx2 that the SDK's tests bring.
MOCKS = ("respx.mocks", "tests.respx2.mocks")
BY_TRANSPORT = "x-peer-transport"
RAISED = "x-peer-raised"
# Of one connection only.
OWN = ("connection", "proxy-connection", "transfer-encoding", "keep-alive", BY_TRANSPORT)


def active() -> Iterator[tuple[ModuleType, Any]]:
    """respx's modules and mockers that have a router now."""
    for name in MOCKS:
        module = sys.modules.get(name)
        for mocker in module.Mocker.registry.values() if module else ():
            if mocker.routers:
                yield module, mocker


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    origin = ""  # of the tunnel that this connection is
    bridge: Bridge

    def log_message(self, *_: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.send_response_only(200)
        self.end_headers()
        self.origin = f"https://{self.path.removesuffix(':443')}"
        self.connection = self.bridge.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        url = self.origin + self.path
        headers = [(n, v) for n, v in self.headers.items() if n.lower() not in OWN]
        self.bridge.count(BY_TRANSPORT in self.headers)
        for module, mocker in active():
            asyncio.run(self.mocked(module, mocker, url, headers, body))
            return
        self.forward(url, headers, body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = answer

    async def mocked(
        self, module: ModuleType, mocker: Any, url: str, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        request = module.httpx.Request(self.command, url, headers=headers, content=body)
        try:
            response = await mocker.async_handler(request)
        except module.PassThrough:
            self.forward(url, headers, body)
        except Exception as error:
            if BY_TRANSPORT not in self.headers:
                self.close_connection = True
                return
            self.send([(RAISED, self.bridge.keep(error)), ("content-length", "0")], 599)
        else:
            raw = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in response.headers.raw]
            self.send(raw, response.status_code)
            if isinstance(response.stream, module.httpx.SyncByteStream):
                for chunk in response.stream:
                    self.write(chunk)
            else:
                async for chunk in response.stream:
                    self.write(chunk)
            self.end()

    def forward(self, url: str, headers: list[tuple[str, str]], body: bytes) -> None:
        parts = urlsplit(url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        peer = kinds[parts.scheme](parts.netloc, timeout=60)
        try:
            peer.putrequest(
                self.command, url.removeprefix(f"{parts.scheme}://{parts.netloc}") or "/",
                skip_host=True, skip_accept_encoding=True,
            )  # fmt: skip
            for name, value in headers:
                peer.putheader(name, value)
            peer.endheaders(body)
            response = peer.getresponse()
            self.send(response.getheaders(), response.status)
            while chunk := response.read1(65536):
                self.write(chunk)
            self.end()
        except (OSError, http.client.HTTPException):
            self.close_connection = True
        finally:
            peer.close()

    def send(self, headers: list[tuple[str, str]], status: int) -> None:
        """The head of a response, whose body is as long as it says or comes in chunks."""
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in OWN:
                self.send_header(name, value)
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        self.chunked = not lengths and status not in (204, 304) and self.command != "HEAD"
        if self.chunked:
            self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def write(self, chunk: bytes) -> None:
        if chunk and self.command != "HEAD":
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self.chunked else chunk)

    def end(self) -> None:
        if self.chunked:
            self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: Any) -> None:
        pass  # a client that has gone away


class Bridge:
    """Stands between the native clients and whatever they speak to, from its making on."""

    def __init__(self) -> None:
        self.raised: dict[str, BaseException] = {}
        self.numbers = itertools.count()
        self.requests = self.unmarked = 0  # all of them; those made in C
        self.lock = threading.Lock()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            self.tls.load_cert_chain(*make_certificate(Path(folder)))
        self.server = Server(("127.0.0.1", 0), type("Handler", (Handler,), {"bridge": self}))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.interpose()

    def count(self, is_marked: bool) -> None:
        with self.lock:
            self.requests += 1
            self.unmarked += not is_marked

    def keep(self, error: BaseException) -> str:
        """The number under which an exception waits for the transport that raises it."""
        number = str(next(self.numbers))
        self.raised[number] = error
        return number

    def interpose(self) -> None:
        from arshai_native.openai import _transport

        make = _transport.NativeTransport.__init__
        handle = _transport.NativeTransport.handle_async_request
        headers_of = _transport.headers_of
        proxy = f"http://127.0.0.1:{self.server.server_port}"

        def init(transport: Any, **options: Any) -> None:
            make(transport, **{"proxy": proxy, "verify": False, **options})

        async def handle_async_request(transport: Any, request: Any) -> Any:
            response = await handle(transport, request)
            if (number := response.headers.get(RAISED)) is not None:
                await response.aclose()
                raise self.raised.pop(number)
            return response

        _transport.NativeTransport.__init__ = init
        _transport.NativeTransport.handle_async_request = handle_async_request
        # Only the transport looks it up here: calls in C are not marked.
        _transport.headers_of = lambda request: [*headers_of(request), (BY_TRANSPORT, "1")]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
