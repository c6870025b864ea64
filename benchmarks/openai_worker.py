"""One measurement in a process of its own: python benchmarks/openai_worker.py '{"client": ...}'.

The argument is a JSON object: client, work, tasks, inputs, seconds, url (up to /v1). Prints a JSON
object. Every client runs the same loop of awaits and looks at what it got.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

# This folder is not in the path, where its openai.py would stand in for the package.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from measuring import stalls, throughput  # noqa: E402

sys.path.remove(HERE)

KEY = "sk-benchmark"
CHAT_MODEL, EMBEDDING_MODEL = "gpt-4o-mini", "text-embedding-3-small"
MESSAGES: list[Any] = [
    {"role": "system", "content": "You explain things in a few plain sentences."},
    {"role": "user", "content": "Why should nothing that an event loop runs take long?"},
]
TEXT = "The user prefers short answers and lives in Lisbon."
DIMENSION = 1536


def sdk_client(name: str, url: str) -> Any:
    """ours, AsyncOpenAI, AsyncOpenAI on aiohttp, OpenAI in to_thread."""
    if name == "ours":
        from arshai_native.openai import AsyncOpenAI

        return AsyncOpenAI(api_key=KEY, base_url=url)
    import openai

    if name == "AsyncOpenAI":
        return openai.AsyncOpenAI(api_key=KEY, base_url=url)
    if name == "AsyncOpenAI on aiohttp":
        http = openai.DefaultAioHttpClient()
        return openai.AsyncOpenAI(api_key=KEY, base_url=url, http_client=http)
    if name == "OpenAI in to_thread":
        return openai.OpenAI(api_key=KEY, base_url=url)
    raise SystemExit(f"unknown client {name}")


class ByHand:
    """What one writes who knows the API well and wants it fast: aiohttp and orjson, no models."""

    def __init__(self, url: str) -> None:
        import aiohttp
        import orjson

        self.url, self.loads, self.dumps = url, orjson.loads, orjson.dumps
        connector = aiohttp.TCPConnector(limit=1000)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        self.session = aiohttp.ClientSession(connector=connector, headers=headers)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self.session.post(self.url + path, data=self.dumps(body))

    async def call(self, path: str, body: dict[str, Any]) -> Any:
        async with self.post(path, body) as answer:
            answer.raise_for_status()
            return self.loads(await answer.read())

    async def vectors(self, texts: list[str], encoding: str) -> list[list[float]]:
        body = {"model": EMBEDDING_MODEL, "input": texts, "encoding_format": encoding}
        data = (await self.call("/embeddings", body))["data"]
        if encoding == "float":
            return [item["embedding"] for item in data]
        import base64

        import numpy

        return [
            numpy.frombuffer(base64.b64decode(item["embedding"]), numpy.float32).tolist()
            for item in data
        ]

    async def events(self, body: dict[str, Any]) -> AsyncIterator[Any]:
        async with self.post("/chat/completions", body) as answer:
            async for line in answer.content:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    yield self.loads(line[6:])


def check(right: bool) -> None:
    if not right:
        raise SystemExit("a reply is not what it should be")


def chat(name: str, url: str) -> Callable[[int], Awaitable[Any]]:
    if name == "aiohttp + orjson by hand":
        by_hand = ByHand(url)

        async def operation(number: int) -> None:
            body = {"model": CHAT_MODEL, "messages": MESSAGES, "temperature": 0.2}
            answer = await by_hand.call("/chat/completions", body)
            check(len(answer["choices"][0]["message"]["content"]) > 200)
    else:
        client = sdk_client(name, url)
        create = client.chat.completions.create
        threaded = name == "OpenAI in to_thread"

        async def operation(number: int) -> None:
            arguments = {"model": CHAT_MODEL, "messages": MESSAGES, "temperature": 0.2}
            if threaded:
                answer = await asyncio.to_thread(create, **arguments)
            else:
                answer = await create(**arguments)
            check(len(answer.choices[0].message.content) > 200)

    return operation


def embeddings(name: str, url: str, inputs: int, floats: bool) -> Callable[[int], Awaitable[Any]]:
    texts = [f"{TEXT} ({i})" for i in range(inputs)]
    if name == "aiohttp + orjson by hand":
        by_hand = ByHand(url)
        encoding = "float" if floats else "base64"

        async def operation(number: int) -> None:
            found = await by_hand.vectors(texts, encoding)
            check(len(found) == inputs and len(found[-1]) == DIMENSION)
    else:
        client = sdk_client(name, url)
        create = client.embeddings.create
        threaded = name == "OpenAI in to_thread"
        arguments: dict[str, Any] = {"model": EMBEDDING_MODEL, "input": texts}
        if floats:
            arguments["encoding_format"] = "float"

        async def operation(number: int) -> None:
            if threaded:
                answer = await asyncio.to_thread(create, **arguments)
            else:
                answer = await create(**arguments)
            found = answer.data[-1].embedding
            check(len(answer.data) == inputs and len(found) == DIMENSION)
            check(type(found[0]) is float)

    return operation


CHUNKS = 200


def stream(name: str, url: str) -> Callable[[int], Awaitable[Any]]:
    arguments: dict[str, Any] = {
        "model": CHAT_MODEL, "messages": MESSAGES, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    if name == "aiohttp + orjson by hand":
        by_hand = ByHand(url)

        async def operation(number: int) -> None:
            chunks, text = 0, ""
            async for chunk in by_hand.events(arguments):
                chunks += 1
                for choice in chunk["choices"]:
                    text += choice["delta"].get("content") or ""
            check(chunks == CHUNKS and len(text) > 200)
    else:
        client = sdk_client(name, url)

        async def operation(number: int) -> None:
            chunks, text = 0, ""
            async for chunk in await client.chat.completions.create(**arguments):
                chunks += 1
                for choice in chunk.choices:
                    text += choice.delta.content or ""
            check(chunks == CHUNKS and len(text) > 200)

    return operation


def embedding_class(name: str, url: str) -> Callable[[int], Awaitable[Any]]:
    os.environ.update(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=url)
    if name == "OpenAIEmbedding in to_thread":
        from arshai.core.interfaces.iembedding import EmbeddingConfig
        from arshai.embeddings.openai_embeddings import OpenAIEmbedding

        shipped = OpenAIEmbedding(EmbeddingConfig(model_name=EMBEDDING_MODEL))

        async def operation(number: int) -> None:
            found = await asyncio.to_thread(shipped.embed_document, f"{TEXT} ({number})")
            check(len(found["dense"]) == DIMENSION)
    else:
        from arshai_native.embeddings import AsyncOpenAIEmbedding

        options: dict[str, Any] = {
            "ours": {}, "ours, base64": {"encoding_format": "base64"},
            "ours, as_numpy": {"as_numpy": True}, "ours, gather=False": {"gather": False},
        }[name]  # fmt: skip
        native = AsyncOpenAIEmbedding(model_name=EMBEDDING_MODEL, **options)

        async def operation(number: int) -> None:
            found = await native.embed_document_async(f"{TEXT} ({number})")
            check(len(found["dense"]) == DIMENSION)

    return operation


def memory_kb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def create(name: str, url: str) -> dict[str, float]:
    """Making a client: the first one (which imports nothing any more), then the mean of 40."""
    kept = []
    if name == "ours":
        import arshai_native.openai  # noqa: F401
    else:
        import openai  # noqa: F401
    start = time.perf_counter()
    kept.append(sdk_client(name, url))
    first = time.perf_counter() - start
    gc.collect()
    before, start = memory_kb(), time.perf_counter()
    kept += [sdk_client(name, url) for _ in range(40)]
    each = (time.perf_counter() - start) / 40
    return {"first_us": first * 1e6, "us": each * 1e6, "kb": (memory_kb() - before) / 40}


async def main(case: dict[str, Any]) -> dict[str, float]:
    name, work, url = case["client"], case["work"], case["url"]
    if work == "create":
        return create(name, url)
    tasks, seconds = case["tasks"], case["seconds"]
    if work == "chat":
        return await throughput(chat(name, url), tasks, seconds)
    if work in ("embeddings", "embeddings float"):
        operation = embeddings(name, url, case["inputs"], work.endswith("float"))
        return await throughput(operation, tasks, seconds)
    if work == "stream":
        return await throughput(stream(name, url), tasks, seconds, each=CHUNKS)
    if work == "embedding class":
        return await throughput(embedding_class(name, url), tasks, seconds)
    if work == "stall":
        return await stalls(embeddings(name, url, case["inputs"], True), tasks, seconds)
    raise SystemExit(f"unknown work {work}")


if __name__ == "__main__":
    result = asyncio.run(main(json.loads(sys.argv[1])))
    print(json.dumps(result), flush=True)
    os._exit(0)  # what is open may be closed by the system
