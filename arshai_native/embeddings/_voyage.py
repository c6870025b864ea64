"""AsyncVoyageAIEmbedding and AsyncVoyageReranker: arshai's classes for Voyage AI on the native
engine.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
from json.encoder import encode_basestring_ascii
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
from arshai_native._api_errors import VoyageErrors
from arshai_native.embeddings._base import ApiEmbedding
from arshai_native.embeddings._rerank import ranked, rerank_texts
from arshai_native.embeddings._types import as_rerank_input

logger = logging.getLogger("arshai_native.embeddings")

# voyageai's own batches.
DEFAULT_BATCH = 128

# Model: its dimension, and those that may be asked for.
_FLEXIBLE = (1024, (256, 512, 1024, 2048))
MODEL_DIMENSIONS: dict[str, tuple[int, tuple[int, ...]]] = {
    "voyage-3-large": _FLEXIBLE,
    "voyage-3.5": _FLEXIBLE,
    "voyage-3.5-lite": _FLEXIBLE,
    "voyage-code-3": _FLEXIBLE,
    "voyage-finance-2": (1024, (1024,)),
    "voyage-law-2": (1024, (1024,)),
    "voyage-code-2": (1536, (1536,)),
    "voyage-3": (1024, (1024,)),
    "voyage-3-lite": (512, (512,)),
    "voyage-multilingual-2": (1024, (1024,)),
    "voyage-large-2-instruct": (1024, (1024,)),
    "voyage-large-2": (1536, (1536,)),
    "voyage-2": (1024, (1024,)),
}


def voyage_url(key: str) -> str:
    """Voyage AI's address: keys of MongoDB's have another."""
    return "https://ai.mongodb.com/v1" if key.startswith("al-") else "https://api.voyageai.com/v1"


class AsyncVoyageAIEmbedding(ApiEmbedding):
    """
    Embeddings from Voyage AI, without blocking the event loop.

    The methods of arshai's VoyageAIEmbedding with awaitable twins of each. The arguments are
    AsyncOpenAIEmbedding's, with these differences:

    api_key: default VOYAGE_API_KEY; ValueError without one.
    batch_size: 128 unless it is given (arshai's class sends any number of texts at once, and has no
        use for the default of its configuration).
    dimension (or output_dimension): one of those that the model has, else ValueError.
    input_type: "query", "document" or None. truncation (True): whether long texts are cut.

    Errors are voyageai's exceptions (of the same names where voyageai is not installed). Limits of
    the rate are waited for up to max_retries (2) times, which voyageai does not.
    Source of the behaviour: arshai 1.15.0, embeddings/voyageai_embedding.py; voyageai 0.3.7.
    """

    _ERRORS = VoyageErrors
    # As requests sends what voyageai makes: json.dumps' defaults.
    _HEAD = b'{"input": ['
    _COMMA = b", "

    def __init__(
        self,
        config: Any = None,
        *,
        model_name: str | None = None,
        model: str | None = None,
        batch_size: int | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        dimension: int | None = None,
        output_dimension: int | None = None,
        input_type: str | None = None,
        truncation: bool | None = None,
        as_numpy: bool | None = None,
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
            "api_key": api_key, "base_url": base_url, "dimension": dimension,
            "output_dimension": output_dimension, "input_type": input_type,
            "truncation": truncation, "as_numpy": as_numpy, "gather": gather,
            "gather_wait": gather_wait, "max_concurrency": max_concurrency,
            "max_retries": max_retries, "default_headers": default_headers,
        })  # fmt: skip
        self.model_name = settings.model
        known = MODEL_DIMENSIONS.get(self.model_name)
        if known is None:
            logger.warning("Model %s is not known: its dimension is taken as 1024", self.model_name)
        self.default_dimension, self.allowed_dimensions = known or (1024, (1024,))
        given = settings.get("dimension") or settings.get("output_dimension")
        if given is not None and given not in self.allowed_dimensions:
            raise ValueError(
                f"Invalid dimension {given} for model {self.model_name}. "
                f"Allowed dimensions are: {list(self.allowed_dimensions)}"
            )
        self._dimension = given or self.default_dimension
        key = _voyage_key(settings.get("api_key"))
        self._set_up(settings, settings.explicit("batch_size", DEFAULT_BATCH))
        self._connect(
            settings, settings.get("base_url") or voyage_url(key), key, timeout=timeout, http=http
        )
        self._truncation = settings.get("truncation", True)
        rest = {
            "model": self.model_name,
            "input_type": settings.get("input_type"),
            "truncation": self._truncation,
            "output_dtype": None,
            "output_dimension": self._dimension,
            "encoding_format": "base64",
        }
        self._tail = ("], " + json.dumps(rest)[1:]).encode()
        logger.info("Initialized %r", self)

    @property
    def dimension(self) -> int:
        return self._dimension

    def _prepare(self, text: Any) -> bytes:
        if not isinstance(text, str):
            raise TypeError(f"a text must be a str, not {type(text).__name__}")
        return encode_basestring_ascii(text).encode()

    # ---- texts and images ----

    def _multimodal_body(self, inputs: list[Any]) -> bytes:
        return json.dumps({
            "inputs": [{"content": [_segment(part) for part in input]} for input in inputs],
            "model": self.model_name,
            "input_type": None,
            "truncation": True,
            "output_dtype": None,
            "output_dimension": None,
            "encoding_format": "base64",
        }).encode()  # fmt: skip

    def _multimodal_sync(self, inputs: list[Any]) -> list[Any]:
        body = self._multimodal_body(inputs)
        response = self._client.post_sync("/multimodalembeddings", body, _core.HTTP_EMBEDDINGS)
        return self._vectors(response, len(inputs))

    async def _multimodal(self, inputs: list[Any]) -> list[Any]:
        body = await asyncio.to_thread(self._multimodal_body, inputs)  # images take their time
        response = await self._client.post("/multimodalembeddings", body, _core.HTTP_EMBEDDINGS)
        return self._vectors(response, len(inputs))

    def multimodel_embed(self, input: list[Any]) -> Any:
        """One vector for texts and PIL images together. (The name is arshai's.)"""
        return self._multimodal_sync([list(input)])[0]

    async def multimodel_embed_async(self, input: list[Any]) -> Any:
        """multimodel_embed(), awaitable."""
        return (await self._multimodal([list(input)]))[0]

    def multimodel_embed_bulk(self, inputs: list[Any]) -> list[Any]:
        """A vector for each input: a text, a PIL image, or a tuple of both."""
        return self._multimodal_sync(_multimodal_inputs(inputs))

    async def multimodel_embed_bulk_async(self, inputs: list[Any]) -> list[Any]:
        """multimodel_embed_bulk(), awaitable."""
        return await self._multimodal(_multimodal_inputs(inputs))


def _voyage_key(given: str | None) -> str:
    key = given or os.environ.get("VOYAGE_API_KEY")
    if not key:
        raise ValueError(
            "VoyageAI API key not found. Please set VOYAGE_API_KEY environment variable."
        )
    return key


def _multimodal_inputs(inputs: list[Any]) -> list[list[Any]]:
    return [
        [part for part in input if part] if isinstance(input, (tuple, list)) else [input]
        for input in inputs
    ]


def _segment(part: Any) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not hasattr(part, "convert") or not hasattr(part, "save"):
        raise ValueError(f"Invalid input type: {type(part)}. Expected str or PIL Image")
    buffer = io.BytesIO()
    part.convert("RGB").save(buffer, format="WEBP", lossless=True)
    image = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_base64", "image_base64": f"data:image/webp;base64,{image}"}


class AsyncVoyageReranker(OwnsClient):
    """
    Reranking by Voyage AI, without blocking the event loop; arshai's VoyageReranker.

    model_name, top_k (documents returned; None: all), api_key (default VOYAGE_API_KEY; ValueError
    without one): as arshai's. base_url, timeout, max_retries and the options of the engine's
    HttpClient: as AsyncOpenAIEmbedding's.
    raise_errors: as in arshai's class an error is logged and the documents come back as they were,
        unless this is True.
    """

    def __init__(
        self,
        model_name: str = "rerank-2",
        top_k: int | None = None,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        timeout: Any = DEFAULT,
        max_retries: int = MAX_RETRIES,
        raise_errors: bool = False,
        **http: Any,
    ) -> None:
        self.model_name = model_name
        self.top_k = top_k
        self.raise_errors = raise_errors
        try:
            key = _voyage_key(api_key)
        except ValueError:
            raise ValueError(
                "Voyage API key not provided. Set it as parameter or VOYAGE_API_KEY environment "
                "variable."
            ) from None
        self._client = ApiClient(
            base_url or voyage_url(key),
            api_key=key,
            errors=VoyageErrors,
            timeout=timeout,
            max_retries=max_retries,
            http=http_options(http),
        )

    def __repr__(self) -> str:
        url = show_url(self._client.base_url)
        return f"<AsyncVoyageReranker {url} model={self.model_name!r} top_k={self.top_k}>"

    def _body(self, input: Any) -> bytes:
        texts = rerank_texts(input)
        return json.dumps({
            "query": input.query, "documents": texts, "model": self.model_name,
            "top_k": self.top_k or len(texts), "truncation": True,
        }).encode()  # fmt: skip

    def _failed(self, input: Any, error: Exception) -> list[Any]:
        logger.error("Voyage reranking error: %s", error)
        return list(input.documents)

    def rerank(self, input: Any) -> list[Any]:
        """
        The documents of an IRerankInput (or a dict of query and documents), most relevant first;
        each with relevance_score in its metadata. Blocks the calling thread.
        """
        input = as_rerank_input(input)
        try:
            response = self._client.post_sync("/rerank", self._body(input), _core.HTTP_JSON)
            return ranked(input, response.json(), "data")
        except Exception as error:
            if self.raise_errors:
                raise
            return self._failed(input, error)

    async def arerank(self, input: Any) -> list[Any]:
        """rerank(), awaitable."""
        input = as_rerank_input(input)
        try:
            response = await self._client.post("/rerank", self._body(input), _core.HTTP_JSON)
            return ranked(input, response.json(), "data")
        except Exception as error:
            if self.raise_errors:
                raise
            return self._failed(input, error)

    async def rerank_async(self, input: Any) -> list[Any]:
        """rerank(), awaitable."""
        return await self.arerank(input)
