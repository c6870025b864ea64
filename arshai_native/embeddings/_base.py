"""What the embedding classes share: batches, gathering, the synchronous and awaitable methods."""

from __future__ import annotations

import asyncio
import json
import threading
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from json.encoder import encode_basestring
from typing import Any

from arshai_native import _core
from arshai_native._api_client import (
    DEFAULT,
    MAX_RETRIES,
    ApiClient,
    OwnsClient,
    Settings,
    http_options,
    show_url,
)
from arshai_native._api_errors import OpenAIErrors, status_of
from arshai_native._gather import Gatherer

# Requests of one call under way at the same time. A call of many batches ends eight times sooner
# than one after another; more brings little (a hosted API answers with 429, a server of one's own
# has as many threads or slots), and the other callers' requests have to get through.
MAX_CONCURRENCY = 8

# Texts of gathered requests under way on one event loop. The SDK's pool of 1,000 connections
# carries as many single ones: nobody has to wait who would not have had to before.
_GATHERED_TEXTS = 1000
# OpenAI takes 300,000 tokens a request, of about four bytes each.
_GATHERED_BYTES = 1 << 20

# Seconds after which waiting calls no longer wait for a request under way to return.
GATHER_WAIT = 0.05

# Replies that may be due to one of several inputs. 500: llama.cpp's for an input that is too long.
_DIVISIBLE = (400, 413, 422, 500)


def as_list(texts: Any) -> list[Any]:
    """The texts as a list; one str is one text."""
    if isinstance(texts, (bytes, bytearray)):
        raise TypeError("texts must be str, not bytes")
    return [texts] if isinstance(texts, str) else list(texts)


class Embedding:
    """
    The part of an embedding class that knows nothing of HTTP. One object serves any number of
    event loops and threads.

    A subclass prepares each text (_prepare, on the caller's behalf: what is wrong with a text is
    raised there) and embeds a batch of prepared ones (_send, _send_sync); _results makes what the
    public methods return.
    """

    model_name: Any
    batch_size: int

    def _set_up(self, settings: Settings, batch_size: Any) -> None:
        """The arguments that all of these classes have."""
        max_concurrency = settings.get("max_concurrency", MAX_CONCURRENCY)
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be 1 or more, not {max_concurrency}")
        self.batch_size = batch_size
        self.max_concurrency = max_concurrency
        self.gather = bool(settings.get("gather", True))
        self.gather_wait = settings.get("gather_wait", GATHER_WAIT)
        self._gather_limit = max(max_concurrency, -(-_GATHERED_TEXTS // batch_size))
        self._gatherers: weakref.WeakKeyDictionary[Any, Gatherer] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        # The loop that asked last, as most programs have but one, and its gatherer.
        self._last: tuple[Any, Gatherer | None] = (lambda: None, None)

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        raise NotImplementedError

    # ---- for subclasses ----

    def _prepare(self, text: Any) -> Any:
        return text

    def _size(self, prepared: Any) -> int:
        return len(prepared)

    async def _send(self, prepared: list[Any]) -> list[Any]:
        raise NotImplementedError

    def _send_sync(self, prepared: list[Any]) -> list[Any]:
        raise NotImplementedError

    def _divisible(self, error: Exception) -> bool:
        """Whether the error of a batch may be due to one of its texts."""
        # ValueError: the server answered, but not with one vector for each input.
        return isinstance(error, ValueError) or status_of(error) in _DIVISIBLE

    def _results(self, vectors: list[Any]) -> dict[str, Any]:
        return {"dense": vectors}

    def _result(self, vector: Any) -> dict[str, Any]:
        return {"dense": vector}

    # ---- synchronous ----

    def embed_documents(self, texts: Iterable[str]) -> dict[str, Any]:
        """
        {"dense": [a vector for each text, in order]}.

        Blocks the calling thread; batches beyond the first go out at the same time, on threads.
        """
        texts = as_list(texts)
        batches = [texts[i : i + self.batch_size] for i in range(0, len(texts), self.batch_size)]
        if len(batches) <= 1:
            return self._results(self._batch_sync(texts) if texts else [])
        with ThreadPoolExecutor(min(self.max_concurrency, len(batches))) as executor:
            parts = executor.map(self._batch_sync, batches)
            return self._results([vector for part in parts for vector in part])

    def _batch_sync(self, texts: list[Any]) -> list[Any]:
        return self._send_sync([self._prepare(text) for text in texts])

    def embed_document(self, text: str) -> dict[str, Any]:
        """{"dense": the text's vector}."""
        return self._result(self._send_sync([self._prepare(text)])[0])

    # ---- awaitable ----

    async def embed_documents_async(self, texts: Iterable[str]) -> dict[str, Any]:
        """
        embed_documents(), awaitable.

        Batches go out at the same time, max_concurrency of them. Fewer texts than a batch are
        gathered with those of other callers.
        """
        texts = as_list(texts)
        if not texts:
            return self._results([])
        if len(texts) < self.batch_size and self.gather:
            return self._results(await self._gathered([self._prepare(text) for text in texts]))
        if len(texts) <= self.batch_size:
            return self._results(await self._send([self._prepare(text) for text in texts]))
        return self._results(await self._batches(texts))

    async def embed_document_async(self, text: str) -> dict[str, Any]:
        """
        embed_document(), awaitable. Calls that wait at the same moment are gathered into one
        request, unless gather=False; an error of one text reaches its own caller only.
        """
        prepared = [self._prepare(text)]
        if self.gather and self.batch_size > 1:
            vectors = await self._gathered(prepared)
        else:
            vectors = await self._send(prepared)
        return self._result(vectors[0])

    async def aembed_documents(self, texts: Iterable[str]) -> dict[str, Any]:
        """embed_documents_async() by arshai's name."""
        return await self.embed_documents_async(texts)

    async def aembed_document(self, text: str) -> dict[str, Any]:
        """embed_document_async() by arshai's name."""
        return await self.embed_document_async(text)

    def _gathered(self, prepared: list[Any]) -> Any:
        loop = asyncio.get_running_loop()
        last, gatherer = self._last
        if gatherer is None or last() is not loop:
            gatherer = self._gatherer(loop)
        size = sum(map(self._size, prepared))
        return gatherer.call(prepared, size)

    def _gatherer(self, loop: Any) -> Gatherer:
        with self._lock:
            gatherer = self._gatherers.get(loop)
            if gatherer is None:
                gatherer = self._gatherers[loop] = Gatherer(
                    self._send,
                    batch=self.batch_size,
                    max_bytes=_GATHERED_BYTES,
                    limit=self._gather_limit,
                    wait=self.gather_wait,
                    divisible=self._divisible,
                )
            self._last = (weakref.ref(loop), gatherer)
            return gatherer

    async def _batches(self, texts: list[Any]) -> list[Any]:
        """The vectors of more than one batch."""
        starts = range(0, len(texts), self.batch_size)
        parts: list[list[Any]] = [[]] * len(starts)
        todo = iter(enumerate(starts))

        async def work() -> None:
            for number, start in todo:
                batch = texts[start : start + self.batch_size]
                parts[number] = await self._send([self._prepare(text) for text in batch])

        loop = asyncio.get_running_loop()
        workers = [loop.create_task(work()) for _ in starts[: self.max_concurrency]]
        try:
            await asyncio.gather(*workers)
        except BaseException:
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)  # nothing of this call is under way when it has failed
            raise
        return [vector for part in parts for vector in part]


class ApiEmbedding(OwnsClient, Embedding):
    """Embedding classes on a server with OpenAI's API, or one like it."""

    _PATH = "/embeddings"
    _ERRORS: Any = OpenAIErrors
    # The body's form: what httpx makes of openai's arguments.
    _HEAD = b'{"input":['
    _COMMA = b","
    _tail: bytes  # what follows the inputs, their closing bracket first

    def _connect(
        self,
        settings: Settings,
        base_url: str,
        api_key: str | None,
        *,
        timeout: Any,
        http: dict[str, Any],
        headers: dict[str, str] | None = None,
        default_timeout: Any = DEFAULT,
        max_retries: int = MAX_RETRIES,
    ) -> None:
        """
        The client, from the arguments that all of these classes have.

        timeout: the caller's, DEFAULT if there was none; default_timeout, max_retries: the class's.
        """
        if timeout is DEFAULT:
            timeout = settings.get("timeout", default_timeout)
        self._as_numpy = bool(settings.get("as_numpy", False))
        self._client = ApiClient(
            base_url,
            api_key=api_key,
            errors=self._ERRORS,
            headers={**(headers or {}), **settings.get("default_headers", {})},
            timeout=timeout,
            max_retries=settings.get("max_retries", max_retries),
            http=http_options(http),
        )

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {show_url(self._client.base_url)} model={self.model_name!r} "
            f"batch_size={self.batch_size}>"
        )

    @property
    def base_url(self) -> str:
        """Where the API is, without user and password."""
        return show_url(self._client.base_url)

    def _prepare(self, text: Any) -> bytes:
        if type(text) is str:
            return encode_basestring(text).encode()
        return json.dumps(text, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

    def _body(self, prepared: list[bytes]) -> bytes:
        return self._HEAD + self._COMMA.join(prepared) + self._tail

    def _vectors(self, response: Any, count: int) -> list[Any]:
        vectors: list[Any] = response.embeddings(self._as_numpy)[0]
        if len(vectors) != count:
            raise ValueError(f"{count} texts were sent and {len(vectors)} embeddings came back")
        return vectors

    async def _send(self, prepared: list[bytes]) -> list[Any]:
        response = await self._client.post(self._PATH, self._body(prepared), _core.HTTP_EMBEDDINGS)
        return self._vectors(response, len(prepared))

    def _send_sync(self, prepared: list[bytes]) -> list[Any]:
        response = self._client.post_sync(self._PATH, self._body(prepared), _core.HTTP_EMBEDDINGS)
        return self._vectors(response, len(prepared))
