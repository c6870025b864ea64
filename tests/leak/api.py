"""The leak runner's scenarios of the HTTP, OpenAI, embeddings and speech clients.

Their server is a process of its own (this file, run as a program), so that what it keeps is not
measured. What it does follows from the request: its path, and "model" in its body.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import json
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from embedding_server import vector_of
from openai_server import Reply, Request, Server, document, events

CHUNK = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "word"}, "finish_reason": None}],
}
COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
AUDIO = b"RIFF" + bytes(range(256)) * 200

# ---- the server ----


def _embeddings(asked: dict[str, Any]) -> Reply:
    items = []
    for index, text in enumerate(asked["input"]):
        vector: Any = vector_of(text)
        if asked.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        items.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return document({"object": "list", "data": items, "model": "m", "usage": usage})


def _chat(asked: dict[str, Any]) -> Reply:
    if not asked.get("stream"):
        return document(COMPLETION, **{"x-request-id": "r"})
    chunks = [CHUNK] * 20
    endings: dict[str, list[Any]] = {"endless": [60], "cut": [None], "odd": [b"data: {\n\n"]}
    return events(*chunks, *endings.get(asked["model"], []))


def reply_to(request: Request) -> Reply:
    """What the server answers."""
    last = request.target.rpartition("/")[2]
    if last == "transcriptions":
        return document({"text": "hello"})
    if last == "speech":
        return Reply(AUDIO, content_type="audio/mpeg")
    asked = request.json
    if asked["model"] == "never":
        return Reply(delay=60)
    if asked["model"] == "refused":
        failure = {"message": "no", "type": "test", "code": "c", "param": None}
        return document({"error": failure}, 400)
    if asked["model"] == "no json":
        return Reply(b'{"choices": [')
    if asked["model"] == "no answer":
        return Reply(drop=True)
    return _embeddings(asked) if last == "embeddings" else _chat(asked)


def serve() -> None:
    """The server: says where it is, and ends with its standard input."""
    server = Server()
    server.requests = collections.deque(maxlen=1)
    server.default = reply_to
    print(server.url, flush=True)
    sys.stdin.read()


class ServerProcess:
    """It, as a context manager; `url`."""

    def __enter__(self) -> ServerProcess:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.communicate()


# ---- what is repeated ----

# (name, make, least): as in run.py, make() being given the URL.
SCENARIOS: list[tuple[str, Callable[[str], Any], int]] = []


def with_client(
    name: str, make_client: Callable[[str], Any], least: int = 20
) -> Callable[[Any], Any]:
    """Registers a coroutine function of a client, which lives as long as the scenario."""

    def register(function: Callable[[Any, int], Awaitable[None]]) -> Any:
        def make(url: str) -> Any:
            runner = asyncio.Runner()
            client = make_client(url)

            def end() -> None:
                runner.run(client.close() if hasattr(client, "close") else client.close_async())
                runner.close()

            return lambda n: runner.run(function(client, n)), end

        SCENARIOS.append((name, make, least))
        return function

    return register


def openai(url: str, **options: Any) -> Any:
    from arshai_native.openai import AsyncOpenAI

    return AsyncOpenAI(api_key="k", base_url=url, max_retries=0, **options)


def chat(model: str = "m", **options: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **options}


@with_client("openai: calls, embeddings", openai)
async def calls(client: Any, count: int) -> None:
    for i in range(count // 20 + 1):
        await asyncio.gather(
            *(client.chat.completions.create(**chat(temperature=0.5)) for _ in range(10)),
            *(client.embeddings.create(model="m", input=[f"{i}", "x"]) for _ in range(5)),
            *(client.embeddings.create(model="m", input=["x"], encoding_format="float")
              for _ in range(3)),
        )  # fmt: skip
        await client.chat.completions.create(**chat(extra_headers={"x": str(i)}, timeout=5 + i))
        client.timeout = 30 + i  # what was prepared is prepared anew
        await client.with_options(timeout=9).chat.completions.create(**chat())


@with_client("openai: raw and streamed responses", openai)
async def raw(client: Any, count: int) -> None:
    for _ in range(count // 5 + 1):
        response = await client.chat.completions.with_raw_response.create(**chat())
        assert response.parse().id == "c" and response.headers["x-request-id"] == "r"
        response = await client.embeddings.with_raw_response.create(model="m", input=["x"])
        assert len(response.parse().data) == 1
        response = await client.chat.completions.with_raw_response.create(**chat(stream=True))
        assert len([chunk async for chunk in response.parse()]) == 20
        streaming = client.chat.completions.with_streaming_response
        async with streaming.create(**chat()) as response:
            assert b'"id"' in await response.read()
        async with streaming.create(**chat("endless", stream=True)) as response:
            async for _line in response.iter_lines():
                break


@with_client("openai: streams to their end", openai)
async def streams(client: Any, count: int) -> None:
    async def one() -> None:
        stream = await client.chat.completions.create(**chat(stream=True))
        assert len([chunk async for chunk in stream]) == 20

    for _ in range(count // 5 + 1):
        await asyncio.gather(*(one() for _ in range(5)))


@with_client("openai: streams abandoned or closed", openai)
async def abandoned(client: Any, count: int) -> None:
    for _ in range(count // 5 + 1):
        streams = [
            await client.chat.completions.create(**chat(model, stream=True))
            for model in ("endless", "endless", "endless", "m", "endless")
        ]
        for stream in streams:
            await stream.__anext__()
        await streams[0].close()
        async with streams[1]:
            pass
        streams[2].me = streams[2]
        reader = streams[4].__anext__()  # never awaited, or it is there already
        reader.close()


@with_client("openai: streams and calls cancelled", openai)
async def cancelled(client: Any, count: int) -> None:
    async def read(ready: asyncio.Event) -> None:
        stream = await client.chat.completions.create(**chat("endless", stream=True))
        async for _chunk in stream:
            ready.set()

    for _ in range(count // 10 + 1):
        ready = [asyncio.Event() for _ in range(4)]
        readers = [asyncio.create_task(read(each)) for each in ready]
        never = [
            asyncio.create_task(client.chat.completions.create(**chat("never"))) for _ in range(6)
        ]
        await asyncio.sleep(0)
        never[0].cancel()
        for each in ready:
            await each.wait()
        for task in readers + never:
            task.cancel()
        await asyncio.gather(*readers, *never, return_exceptions=True)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(client.chat.completions.create(**chat("never")), 0.002)
        client.chat.completions.create(**chat()).close()  # a coroutine that was never awaited


@with_client("openai: errors of every kind", openai)
async def errors(client: Any, count: int) -> None:
    from openai import APIError

    for _ in range(count // 8 + 1):
        for model in ("refused", "no json", "no answer"):
            for options in ({}, {"stream": True}):
                with contextlib.suppress(APIError, ValueError):
                    made = await client.chat.completions.create(**chat(model, **options))
                    if options:
                        async for _chunk in made:
                            pass
        for model in ("cut", "odd"):
            with contextlib.suppress(APIError, ValueError, Exception):
                async for _chunk in await client.chat.completions.create(
                    **chat(model, stream=True)
                ):
                    pass
        with contextlib.suppress(APIError):
            await client.chat.completions.create(**chat("never", timeout=0.001))
        for bad in (object(), {1: object()}, float("nan"), "\ud800"):
            with contextlib.suppress(TypeError, ValueError):
                await client.chat.completions.create(**chat(user=bad))


def _clients(url: str) -> Any:
    async def main(count: int) -> None:
        for i in range(count):
            client = openai(url)
            client.me = client
            if i % 3 == 0:
                client.chat.completions.create(**chat()).close()
            else:
                await client.chat.completions.create(**chat())
            if i % 3 == 1:
                stream = await client.chat.completions.create(**chat("endless", stream=True))
                await stream.__anext__()
                asyncio.create_task(stream.__anext__())
                await asyncio.sleep(0)
            if i % 3 == 2:
                await client.close()

    def once(count: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asyncio.run(main(count))

    return once, None


SCENARIOS.append(("openai: clients and loops made and dropped", _clients, 6))


def embedding(url: str, **options: Any) -> Any:
    from arshai_native.embeddings import AsyncOpenAIEmbedding

    return AsyncOpenAIEmbedding(
        "m", api_key="k", base_url=url, trust_env=False, max_retries=0, **options
    )


async def _embed(client: Any, count: int) -> None:
    from openai import APIError

    for i in range(count // 20 + 1):
        texts = [f"{i} {n}" for n in range(10)]
        together = [client.embed_document_async(text) for text in texts]
        await asyncio.gather(*together)
        found = await client.embed_documents_async(texts)
        assert len(found["dense"]) == 10
        kept = found["dense"][3]  # an array keeps the memory of its reply
        del found
        assert len(kept) == 8
        tasks = [asyncio.create_task(client.embed_document_async(text)) for text in texts]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        client.embed_document("alone")
        client.model_name, name = "refused", client.model_name
        with contextlib.suppress(APIError, Exception):
            await client.embed_documents_async(texts)
        client.model_name = name


with_client("embeddings, gathered, as lists", embedding)(_embed)
with_client("embeddings, as arrays", lambda url: embedding(url, as_numpy=True))(_embed)


def speech(url: str) -> Any:
    from arshai_native.speech import AsyncOpenAISpeech

    return AsyncOpenAISpeech(api_key="k", base_url=url, trust_env=False, max_retries=0)


@with_client("speech: both ways, streamed, given up", speech)
async def both_ways(client: Any, count: int) -> None:
    from arshai_native.speech import TTSInput

    for _ in range(count // 5 + 1):
        assert "hello" in (await client.transcribe_async(AUDIO)).text
        client.transcribe_sync(AUDIO)
        await client.synthesize_async(TTSInput("hello"))
        async for _part in client.synthesize_stream(TTSInput("hello")):
            pass
        parts = client.synthesize_stream(TTSInput("hello"))
        await parts.__anext__()
        await parts.aclose()
        task = asyncio.create_task(client.synthesize_async(TTSInput("hello")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _http(url: str) -> Any:
    from arshai_native import _core

    client = _core.HttpClient()
    never = json.dumps(chat("never"))
    body = json.dumps(chat("endless", stream=True))
    post = ("POST", url + "/chat/completions")

    async def main(count: int) -> None:
        for _ in range(count // 6 + 1):
            for mode in (_core.HTTP_BODY, _core.HTTP_JSON):
                response = await client.request(*post, (), json.dumps(chat()), mode=mode)
                assert response.json()["id"] == "c" and response.headers and response.body
            stream = await client.request(*post, (), body, mode=_core.HTTP_STREAM)
            await stream.read()
            stream.close_stream()
            stream = await client.request(*post, (), body, mode=_core.HTTP_EVENTS)
            await stream.read_events()
            task = asyncio.create_task(client.request(*post, [("a", "b")], never + " " * 40000))
            await asyncio.sleep(0.001)
            task.cancel()
            client.request(*post, (), never).close()
            with contextlib.suppress(_core.HttpError):
                await client.request(*post, (), never, total_timeout=0.001)
            for bad in ([("a\n", "b")], [("a", "b\n")], [("a",)], 5):
                with contextlib.suppress(TypeError, ValueError):
                    client.request(*post, bad)

    def once(count: int) -> None:
        asyncio.run(main(count))
        thread = threading.Thread(
            target=lambda: client.request_sync(*post, (), json.dumps(chat("refused")))
        )
        thread.start()
        thread.join()

    return once, client.close


SCENARIOS.append(("http: bodies, streams, cancelled, refused", _http, 12))


if __name__ == "__main__":
    serve()
