"""A real HTTP/1.1 server for the tests of the OpenAI clients, which records and has a script."""

import asyncio
import contextlib
import json
import threading
from dataclasses import dataclass, field

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests"}


@dataclass
class Request:
    """What came in; connection: a number that is the same for requests of one connection."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def header(self, name):
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return found[-1] if found else None

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Reply:
    """
    What goes out. body: bytes, or for a chunked reply a list of bytes, of numbers (seconds to wait)
    and of None (the connection breaks off here).
    """

    body: object = b""
    status: int = 200
    headers: dict = field(default_factory=dict)
    content_type: str | None = "application/json"
    delay: float = 0.0
    drop: bool = False  # close the connection without an answer


def document(value, status=200, **headers):
    return Reply(json.dumps(value).encode(), status, headers)


def events(*items, done=True, **options):
    """A stream of server-sent events."""
    parts = [item if not isinstance(item, dict) else sse(item) for item in items]
    if done:
        parts.append(b"data: [DONE]\n\n")
    return Reply(parts, content_type="text/event-stream; charset=utf-8", **options)


def sse(value, event=None):
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(value)}\n\n".encode()


class Server:
    """
    Answers each request with the next reply of `script`, or `default` when that is empty. A reply
    may be a function of the request.
    """

    def __init__(self):
        self.requests = []
        self.script = []
        self.default = document({})
        self.connections = 0
        self.closed_early = threading.Event()  # a client went away while a reply was under way
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._tasks = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        started = threading.Event()
        self._loop.call_soon(started.set)
        self._thread.start()
        started.wait()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**22), self._loop
        ).result()
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def reset(self):
        self.requests.clear()
        self.script.clear()
        self.default = document({})
        self.closed_early.clear()

    def take(self):
        """The only request so far."""
        [request] = self.requests
        self.requests.clear()
        return request

    def close(self):
        async def stop():
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader, writer):
        self.connections += 1
        number = self.connections
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while request := await self._read(reader, number):
                with self._lock:
                    self.requests.append(request)
                    reply = self.script.pop(0) if self.script else self.default
                if callable(reply):
                    reply = reply(request)
                if not await self._write(reader, writer, reply):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed_early.set()
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _read(self, reader, number):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = first.split(" ")
        headers = [
            (name, value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        lower = {name.lower(): value for name, value in headers}
        if lower.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size + 2)
                body = body[:-2]
            await reader.readline()
        else:
            body = await reader.readexactly(int(lower.get("content-length", 0)))
        return Request(method, target, headers, body, number)

    async def _write(self, reader, writer, reply):
        """False: the connection is not to be used again."""
        if reply.delay:
            await self._wait(reader, reply.delay)
        if reply.drop:
            return False
        chunked = isinstance(reply.body, list)
        headers = dict(reply.headers)
        if reply.content_type is not None:
            headers.setdefault("Content-Type", reply.content_type)
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers.setdefault("Content-Length", str(len(reply.body)))
        lines = [f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Whatever')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if not chunked:
            writer.write(reply.body)
            await writer.drain()
            return int(headers["Content-Length"]) == len(reply.body)
        for part in reply.body:
            if part is None:
                return False
            if isinstance(part, bytes):
                writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                await writer.drain()
            else:
                await self._wait(reader, part)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _wait(self, reader, seconds):
        """Sleeps; ConnectionError as soon as the client goes away."""
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            if not await asyncio.wait_for(reader.read(1), seconds):
                raise ConnectionResetError
