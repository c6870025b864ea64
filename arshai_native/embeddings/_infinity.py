"""AsyncInfinityEmbedding: a server of sentence-transformers (Infinity, or one like it)."""

from __future__ import annotations

import logging
import os
from typing import Any

from arshai_native import _core
from arshai_native._api_client import Settings
from arshai_native.embeddings._openai import AsyncOpenAIEmbedding, json_value
from arshai_native.embeddings._rerank import ranked, rerank_texts
from arshai_native.embeddings._types import as_rerank_input

logger = logging.getLogger("arshai_native.embeddings")

DEFAULT_URL = "http://localhost:7997"


class AsyncInfinityEmbedding(AsyncOpenAIEmbedding):
    """
    Embeddings and reranking from an Infinity server, which batches what arrives together.

    Arguments as AsyncOpenAIEmbedding, but for base_url (default INFINITY_BASE_URL, else
    http://localhost:7997; with Infinity's --url-prefix, that included), api_key (default
    INFINITY_API_KEY; none is needed), rerank_model (default: model_name) and top_k (documents that
    reranking returns; default all).

    dimension: learned from the first vectors; asked of the server, blocking, if it is read before.
    rerank and arerank have arshai's IReranker's form; their errors are raised.
    """

    def __init__(
        self,
        config: Any = None,
        *,
        rerank_model: str | None = None,
        top_k: int | None = None,
        **arguments: Any,
    ) -> None:
        self._rerank_model = rerank_model
        self._top_k = top_k
        super().__init__(config, **arguments)

    def _configure(self, settings: Settings, timeout: Any, http: dict[str, Any]) -> None:
        super()._configure(settings, timeout, http)
        self._learns = self._dimension is None
        self.rerank_model = self._rerank_model or settings.get("rerank_model", self.model_name)
        self.top_k = self._top_k or settings.get("top_k")

    def _server(self, settings: Settings) -> tuple[str, str | None, dict[str, str]]:
        url = settings.get("base_url") or os.environ.get("INFINITY_BASE_URL") or DEFAULT_URL
        return url, settings.get("api_key") or os.environ.get("INFINITY_API_KEY"), {}

    @property
    def dimension(self) -> int:
        if self._dimension is None:
            self.embed_document("dimension")
        assert self._dimension is not None
        return self._dimension

    def _rerank_body(self, query: str, documents: list[str]) -> bytes:
        body = {"query": query, "documents": documents, "return_documents": False}
        if self.rerank_model is not None:
            body["model"] = self.rerank_model
        if self.top_k:
            body["top_n"] = self.top_k
        return json_value(body).encode()

    def rerank(self, input: Any) -> list[Any]:
        """
        The documents of an IRerankInput (or a dict of query and documents), most relevant first;
        each with relevance_score in its metadata. Blocks the calling thread.
        """
        input = as_rerank_input(input)
        if not input.documents:
            return []
        body = self._rerank_body(input.query, rerank_texts(input))
        response = self._client.post_sync("/rerank", body, _core.HTTP_JSON)
        return ranked(input, response.json(), "results")

    async def arerank(self, input: Any) -> list[Any]:
        """rerank(), awaitable."""
        input = as_rerank_input(input)
        if not input.documents:
            return []
        body = self._rerank_body(input.query, rerank_texts(input))
        response = await self._client.post("/rerank", body, _core.HTTP_JSON)
        return ranked(input, response.json(), "results")

    async def rerank_async(self, input: Any) -> list[Any]:
        """rerank(), awaitable."""
        return await self.arerank(input)
