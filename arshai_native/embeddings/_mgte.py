"""AsyncMGTEEmbedding: arshai's MGTEEmbedding, off the event loop."""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from arshai_native import _core
from arshai_native._api_client import DEFAULT, Settings
from arshai_native.embeddings._base import ApiEmbedding
from arshai_native.embeddings._openai import DEFAULT_BATCH, openai_tail

logger = logging.getLogger("arshai_native.embeddings")

# Names under which a server may send a text's sparse vector beside its "embedding".
_SPARSE = ("sparse", "sparse_embedding", "sparse_vector")


class AsyncMGTEEmbedding(ApiEmbedding):
    """
    Dense and sparse vectors of an MGTE model: in this process, without blocking the event loop, or
    on a server.

    The methods of arshai's MGTEEmbedding with awaitable twins of each. Results are
    {"dense": [lists of float], "sparse": [rows]}; for one text {"dense": list, "sparse": row}.

    config: arshai's EmbeddingConfig, a dict of its fields, or the model's name; model_name,
        batch_size (16), use_fp16 (False), device ("cpu") as keyword arguments or in its
        additional_params.
    Without base_url the model is pymilvus's (milvus_model.hybrid.MGTEEmbeddingFunction), imported
        and loaded when it is first needed. One batch at a time is computed, on a thread of its
        own; rows are scipy's, as milvus_model makes them.
    base_url: a server with OpenAI's /embeddings whose items carry the sparse vector beside the
        dense one, as "sparse", {index: weight} or {"indices": [...], "values": [...]}. Rows are
        dicts {index: weight}, which Milvus takes. api_key (optional), timeout, max_retries and the
        options of the engine's HttpClient: as AsyncOpenAIEmbedding's.
    gather, gather_wait, max_concurrency: as AsyncOpenAIEmbedding's.

    Source of the behaviour: arshai 1.15.0, embeddings/mgte_embeddings.py. Unlike there, no texts
    give {"dense": [], "sparse": []}, not a list.
    """

    def __init__(
        self,
        config: Any = None,
        *,
        model_name: str | None = None,
        model: str | None = None,
        batch_size: int | None = None,
        use_fp16: bool | None = None,
        device: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        gather: bool | None = None,
        gather_wait: float | None = None,
        max_concurrency: int | None = None,
        timeout: Any = DEFAULT,
        max_retries: int | None = None,
        default_headers: dict[str, str] | None = None,
        **http: Any,
    ) -> None:
        settings = Settings(config, {
            "model_name": model_name, "model": model, "batch_size": batch_size,
            "use_fp16": use_fp16, "device": device, "base_url": base_url, "api_key": api_key,
            "gather": gather, "gather_wait": gather_wait, "max_concurrency": max_concurrency,
            "max_retries": max_retries, "default_headers": default_headers,
        })  # fmt: skip
        self.model_name = settings.model
        self.use_fp16 = settings.get("use_fp16", False)
        self.device = settings.get("device", "cpu")
        self._set_up(settings, settings.get("batch_size", DEFAULT_BATCH))
        self._url: str | None = settings.get("base_url")
        self._dimension: int | None = None
        self._function: Any = None
        self._load_lock = threading.Lock()  # held for seconds: never taken on an event loop
        self._compute_lock = threading.Lock()  # likewise
        self._executor: ThreadPoolExecutor | None = None
        if self._url is None:
            # Requests "under way" would only queue up for the one thread: one runs, one waits, and
            # the rest gathers.
            self._gather_limit = 2
            http_names = sorted(http)
            if http_names:
                raise TypeError(f"unexpected keyword argument {http_names[0]!r}")
        else:
            key = settings.get("api_key")
            self._connect(settings, self._url, key, timeout=timeout, http=http)
            self._tail = openai_tail(self.model_name, None, "float")

    def __repr__(self) -> str:
        if self._url is not None:
            return super().__repr__()
        return f"<AsyncMGTEEmbedding model={self.model_name!r} device={self.device!r}>"

    @property
    def embedding_function(self) -> Any:
        """milvus_model's function; loads the model, blocking, if it is not loaded yet."""
        if self._url is not None:
            raise AttributeError("the model is on a server")
        with self._load_lock:
            if self._function is None:
                hybrid = importlib.import_module("milvus_model.hybrid")
                arguments = {"use_fp16": self.use_fp16, "device": self.device}
                if self.model_name is not None:
                    arguments["model_name"] = self.model_name
                self._function = hybrid.MGTEEmbeddingFunction(
                    batch_size=self.batch_size, **arguments
                )
                logger.info(
                    "Initialized MGTE embedding function with dimension: %s, device: %s",
                    self._function.dim["dense"],
                    self.device,
                )
            return self._function

    @property
    def dimension(self) -> int:
        """Length of the dense vectors. Blocks if the model is not loaded, or not asked yet."""
        if self._url is None:
            return int(self.embedding_function.dim["dense"])
        if self._dimension is None:
            self.embed_document("dimension")
        assert self._dimension is not None
        return self._dimension

    async def load_async(self) -> None:
        """Loads the model now, off the event loop."""
        if self._url is None:
            await self._in_thread(lambda: self.embedding_function)

    # ---- results ----

    def _results(self, vectors: list[Any]) -> dict[str, Any]:
        return {"dense": [v[0] for v in vectors], "sparse": [v[1] for v in vectors]}

    def _result(self, vector: Any) -> dict[str, Any]:
        return {"dense": vector[0], "sparse": vector[1]}

    # ---- in this process ----

    def _prepare(self, text: Any) -> Any:
        if self._url is not None:
            return super()._prepare(text)
        if not isinstance(text, str):
            raise TypeError(f"a text must be a str, not {type(text).__name__}")
        return text

    def _divisible(self, error: Exception) -> bool:
        return self._url is None or super()._divisible(error)

    def _compute(self, texts: list[str]) -> list[Any]:
        with self._compute_lock:
            found = self.embedding_function(texts)
        return [
            (dense.tolist(), found["sparse"][[row]]) for row, dense in enumerate(found["dense"])
        ]

    async def _in_thread(self, job: Any, *arguments: Any) -> Any:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "arshai_native mgte")
            executor = self._executor
        return await asyncio.get_running_loop().run_in_executor(executor, job, *arguments)

    async def _send(self, prepared: list[Any]) -> list[Any]:
        if self._url is None:
            found: list[Any] = await self._in_thread(self._compute, prepared)
            return found
        body = self._body(prepared)
        response = await self._client.post(self._PATH, body, _core.HTTP_JSON)
        return self._pairs(response.json(), len(prepared))

    def _send_sync(self, prepared: list[Any]) -> list[Any]:
        if self._url is None:
            return self._compute(prepared)
        response = self._client.post_sync(self._PATH, self._body(prepared), _core.HTTP_JSON)
        return self._pairs(response.json(), len(prepared))

    # ---- on a server ----

    def _pairs(self, reply: Any, count: int) -> list[Any]:
        try:
            items = sorted(reply["data"], key=lambda item: item["index"])
            pairs = [(item["embedding"], _sparse(item)) for item in items]
        except (KeyError, TypeError) as error:
            raise ValueError(f"the reply has no embeddings: {error!r}") from None
        if len(pairs) != count:
            raise ValueError(f"{count} texts were sent and {len(pairs)} embeddings came back")
        self._dimension = len(pairs[0][0])
        return pairs

    # ---- end ----

    def close_sync(self) -> None:
        """Ends the thread, or closes the connections. A later call begins anew."""
        if self._url is not None:
            super().close_sync()
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)


def _sparse(item: dict[str, Any]) -> dict[int, float]:
    """A text's sparse vector as {index: weight}; ValueError if the server sent none."""
    for name in _SPARSE:
        found = item.get(name)
        if isinstance(found, dict) and "indices" in found:
            return dict(zip(map(int, found["indices"]), found["values"], strict=True))
        if isinstance(found, dict):
            return {int(index): float(weight) for index, weight in found.items()}
        if isinstance(found, list):
            return {int(pair["index"]): float(pair["value"]) for pair in found}
    raise ValueError("the server sends no sparse vectors beside the dense ones")
