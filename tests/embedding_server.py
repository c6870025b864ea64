"""A server with the HTTP APIs of embeddings, reranking and speech, on real sockets, that answers by
what it gets and fails as scripted. Nothing here needs pytest.
"""

from __future__ import annotations

import base64
import contextlib
import email.parser
import email.policy
import hashlib
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIMENSION = 8
# A key that must not be seen anywhere.
SECRET = "sk-very-secret-0123456789"


def vector_of(text: Any, dimension: int = DIMENSION) -> list[float]:
    """The vector that belongs to a text and to no other; exact as float32 and in decimal."""
    digest = hashlib.sha256(json.dumps(text).encode()).digest()
    return [(digest[i % 32] - 128) / 256 for i in range(dimension)]


class Received:
    """A request as it came."""

    def __init__(self, path: str, headers: Any, body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def inputs(self) -> list[Any]:
        return self.json["input"]

    @property
    def form(self) -> dict[str, Any]:
        """The parts of a multipart body: text, or (filename, content type, bytes)."""
        kind = self.headers["content-type"].encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
            b"content-type: " + kind + b"\r\n\r\n" + self.body
        )
        assert message.is_multipart() and not message.defects, message.defects
        parts: dict[str, Any] = {}
        for part in message.iter_parts():
            name = part.get_param("name", header="content-disposition")
            content = part.get_payload(decode=True)
            if part.get_filename() is not None:
                parts[name] = (part.get_filename(), part.get_content_type(), content)
            else:
                parts[name] = content.decode()
        return parts


class Reply:
    """A scripted answer. cut: send half of the body, then close. drop: close without an answer."""

    def __init__(
        self,
        status: int = 200,
        body: Any = b"",
        headers: dict[str, str] | None = None,
        *,
        cut: bool = False,
        drop: bool = False,
        delay: float = 0,
    ) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = headers or {}
        self.cut = cut
        self.drop = drop
        self.delay = delay


def error(status: int, message: str = "scripted", **headers: str) -> Reply:
    """An error in OpenAI's form."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(
        status,
        {"error": {"message": message, "type": "test", "code": f"c{status}", "param": None}},
        {"content-type": "application/json", **names},
    )


class EmbeddingServer:
    """
    script: replies for the next requests, in order; afterwards answers follow from the inputs.
    refuse: text -> Reply for any request that has it among its inputs. reverse: items out of order.
    hold(): requests wait, to be counted or ended, until the block ends or release() lets some go.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.script: deque[Reply] = deque()
        self.refuse: dict[Any, Callable[[], Reply]] = {}
        self.change: Callable[[dict[str, Any]], Any] = lambda body: body
        self.reverse = False
        self.sparse = False
        self.audio = b"RIFF" + bytes(range(256)) * 4000
        self.text = "h\u00e9llo w\u00f6rld"
        self._gate: threading.Semaphore | None = None
        self._lock = threading.Lock()
        self.together = 0
        self.most_together = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 1024
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass  # a client that went away

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> EmbeddingServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._gate = None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def inputs(self) -> list[list[Any]]:
        """The inputs of each request so far."""
        return [request.inputs for request in self.requests]

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        gate = self._gate = threading.Semaphore(0)
        try:
            yield
        finally:
            self._gate = None
            gate.release(10_000)

    def release(self, count: int = 1) -> None:
        """Lets some of the requests that wait be answered."""
        assert self._gate is not None
        self._gate.release(count)

    # ---- on the threads of the connections ----

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        received = Received(handler.path, handler.headers, body)
        with self._lock:
            self.requests.append(received)
            self.together += 1
            self.most_together = max(self.most_together, self.together)
            scripted = self.script.popleft() if self.script else None
        try:
            gate = self._gate
            if gate is not None:
                gate.acquire(timeout=60)
            reply = scripted or self._reply(received)
        finally:
            with self._lock:
                self.together -= 1
        self._send(handler, reply)

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.delay:
            time.sleep(reply.delay)
        if reply.drop:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(reply.body)))
        handler.end_headers()
        body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
        for start in range(0, len(body), 65536):
            handler.wfile.write(body[start : start + 65536])
        if reply.cut:
            handler.close_connection = True

    def _reply(self, received: Received) -> Reply:
        last = received.path.partition("?")[0].rpartition("/")[2]
        return getattr(self, f"_{last}")(received)

    def _embeddings(self, received: Received) -> Reply:
        asked = received.json
        for text in asked["input"]:
            if isinstance(text, str) and text in self.refuse:
                return self.refuse[text]()
        size = asked.get("dimensions") or asked.get("output_dimension") or DIMENSION
        items = []
        for index, text in enumerate(asked["input"]):
            vector: Any = vector_of(text, size)
            if asked.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
            item = {"object": "embedding", "index": index, "embedding": vector}
            if self.sparse:
                item["sparse"] = {str(index): 0.5, "7": 0.25}
            items.append(item)
        if self.reverse:
            items.reverse()
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        body = {"object": "list", "data": items, "model": asked.get("model"), "usage": usage}
        return Reply(200, self.change(body), {"content-type": "application/json"})

    def _multimodalembeddings(self, received: Received) -> Reply:
        asked = received.json
        items = [
            {"object": "embedding", "index": index, "embedding": vector_of(item)}
            for index, item in enumerate(asked["inputs"])
        ]
        return Reply(200, {"object": "list", "data": items, "usage": {"total_tokens": 1}})

    def _rerank(self, received: Received) -> Reply:
        """The longest document first."""
        asked = received.json
        texts = asked["documents"]
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        top = asked.get("top_k") or asked.get("top_n") or len(texts)
        items = [
            {"index": index, "relevance_score": len(texts[index]) / 1000} for index in order[:top]
        ]
        return Reply(200, {"data": items, "results": items, "usage": {"total_tokens": 3}})

    def _transcriptions(self, received: Received) -> Reply:
        multipart = received.headers["content-type"].startswith("multipart/")
        asked = received.form if multipart else received.json
        form = asked.get("response_format", "json")
        headers = {"x-request-id": "req-7"}
        if form in ("text", "srt", "vtt"):
            return Reply(200, f"{form}: {self.text}\n".encode(), headers)
        body: dict[str, Any] = {"text": self.text}
        if form == "verbose_json":
            segment = {"id": 0, "start": 0.0, "end": 1.5, "text": self.text}
            body |= {"language": "english", "duration": 1.5, "segments": [segment]}
        return Reply(200, body, headers)

    def _speech(self, received: Received) -> Reply:
        return Reply(200, self.audio, {"content-type": "audio/mpeg"})
