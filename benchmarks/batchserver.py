"""Embeddings by the number of inputs: python benchmarks/batchserver.py PORT

A POST is answered with as many vectors as its body has inputs, in the encoding it asks for, from
bytes that are made once. For benchmarks: it looks at nothing else of a request.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import recorded

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
items = {
    encoding: json.dumps(json.loads(recorded.embeddings(1, encoding))["data"][0]["embedding"],
                         separators=(",", ":")).encode()
    for encoding in ("float", "base64")
}  # fmt: skip
replies: dict[tuple[int, str], bytes] = {}


def reply(count: int, encoding: str) -> bytes:
    if (count, encoding) not in replies:
        item = b'{"object":"embedding","index":%d,"embedding":' + items[encoding] + b"}"
        used = b'{"prompt_tokens":%d,"total_tokens":%d}' % (12 * count, 12 * count)
        body = b'{"object":"list","data":[' + b",".join(item % i for i in range(count))
        body += b'],"model":"text-embedding-3-small","usage":' + used + b"}"
        replies[count, encoding] = HEAD % len(body) + body
    return replies[count, encoding]


class Server(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while True:
            head, end, rest = self.data.partition(b"\r\n\r\n")
            length = int(found[1]) if (found := LENGTH.search(head)) else 0
            if not end or len(rest) < length:
                return
            self.data = rest[length:]
            self.transport.write(self.answer(rest[:length]))  # type: ignore[attr-defined]

    def answer(self, body: bytes) -> bytes:
        if not body:
            return HEAD % 0
        request = json.loads(body)
        texts = request["input"]
        count = 1 if isinstance(texts, str) else len(texts)
        return reply(count, request.get("encoding_format", "float"))


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(
        Server, "127.0.0.1", int(sys.argv[1]), backlog=1000
    )
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop as loops
    except ImportError:
        loops = asyncio
    loops.run(main())
