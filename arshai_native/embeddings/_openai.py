"""AsyncOpenAIEmbedding: arshai's OpenAIEmbedding on the native engine."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from arshai_native._api_client import DEFAULT, Settings
from arshai_native.embeddings._base import ApiEmbedding

logger = logging.getLogger("arshai_native.embeddings")

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_BATCH = 16

DIMENSIONS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}


def json_value(value: Any) -> str:
    """JSON as httpx writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def openai_tail(model: Any, dimensions: int | None, encoding_format: str) -> bytes:
    """The body behind the inputs, in the order of the SDK."""
    parts = [f'],"model":{json_value(model)}']
    if dimensions is not None:
        parts.append(f'"dimensions":{json_value(dimensions)}')
    parts.append(f'"encoding_format":{json_value(encoding_format)}}}')
    return ",".join(parts).encode()


class AsyncOpenAIEmbedding(ApiEmbedding):
    """
    Embeddings from OpenAI's API, or a server that speaks it, without blocking the event loop.

    The methods of arshai's OpenAIEmbedding (embed_documents, embed_document, aembed_documents)
    with awaitable twins of each, the same requests and the same results. One object serves any
    number of event loops and threads.

    config: arshai's EmbeddingConfig (or anything with its attributes), a dict of its fields, or
        the model's name. Each of the following may also stand in its additional_params.
    model_name (or model), batch_size (16): in place of the config's.
    api_key: default OPENAI_API_KEY, else EMBEDDINGS_OPENAI_API_KEY; ValueError without one, unless
        there is a base_url. organization, project: default OPENAI_ORG_ID, OPENAI_PROJECT_ID.
    base_url: default OPENAI_BASE_URL, else OpenAI's. For Infinity, vLLM, llama.cpp and others:
        the address in front of /embeddings.
    dimensions: asked of the server. dimension: what that property says, for models it does not
        know; else it is arshai's 1536 or, with a base_url, the length of the last vector received.
    as_numpy: vectors as float32 arrays of numpy in place of lists; those of one request share
        their memory. encoding_format: "float" or "base64"; default base64 with as_numpy, else
        float, as arshai's class.
    gather (True): whether small calls that wait at the same moment travel as one request; False
        for a server whose vectors depend on what else is in the request (llama.cpp, some models).
        gather_wait (0.05): seconds that one waits at most for requests under way to return.
    max_concurrency (8): requests of one call under way at the same time.
    timeout: seconds to connect, read and write each, an httpx.Timeout, or None; default 600, to
        connect 5. max_retries (2): as openai's, with its backoff. default_headers: sent besides.
    http: max_connections, max_keepalive, keepalive_expiry, verify, cert, proxy, trust_env, http2,
        unix_socket, as _core.HttpClient takes them.

    Errors are openai's exceptions (of the same names where openai is not installed); besides
    ValueError for a reply without the vectors asked for, TypeError for a text that is none.
    Source of the behaviour: arshai 1.15.0, embeddings/openai_embeddings.py.
    """

    def __init__(
        self,
        config: Any = None,
        *,
        model_name: str | None = None,
        model: str | None = None,
        batch_size: int | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        dimensions: int | None = None,
        dimension: int | None = None,
        as_numpy: bool | None = None,
        encoding_format: str | None = None,
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
            "api_key": api_key, "base_url": base_url, "organization": organization,
            "project": project, "dimensions": dimensions, "dimension": dimension,
            "as_numpy": as_numpy, "encoding_format": encoding_format, "gather": gather,
            "gather_wait": gather_wait, "max_concurrency": max_concurrency,
            "max_retries": max_retries, "default_headers": default_headers,
        })  # fmt: skip
        self._configure(settings, timeout, http)

    def _configure(self, settings: Settings, timeout: Any, http: dict[str, Any]) -> None:
        url, key, headers = self._server(settings)
        self.model_name = settings.model
        self._set_up(settings, settings.get("batch_size", DEFAULT_BATCH))
        self._connect(settings, url, key, headers=headers, timeout=timeout, http=http)
        dimensions = settings.get("dimensions")
        self._dimension: int | None = (
            settings.get("dimension") or dimensions or DIMENSIONS.get(self.model_name)
        )
        # Of a server of one's own, the first vector says what arshai's 1536 would only guess.
        self._learns = self._dimension is None and settings.get("base_url") is not None
        encoding = settings.get("encoding_format") or ("base64" if self._as_numpy else "float")
        self._tail = openai_tail(self.model_name, dimensions, encoding)
        logger.info("Initialized %r", self)

    def _server(self, settings: Settings) -> tuple[str, str | None, dict[str, str]]:
        """The address, the key and the headers that belong to them."""
        url = settings.get("base_url")
        key = (
            settings.get("api_key")
            or os.environ.get("OPENAI_API_KEY")
            or os.environ.get("EMBEDDINGS_OPENAI_API_KEY")
        )
        if not key and url is None:
            raise ValueError(
                "OpenAI API key not found. Please set either OPENAI_API_KEY or "
                "EMBEDDINGS_OPENAI_API_KEY environment variable."
            )
        headers = {
            "OpenAI-Organization": settings.get("organization") or os.environ.get("OPENAI_ORG_ID"),
            "OpenAI-Project": settings.get("project") or os.environ.get("OPENAI_PROJECT_ID"),
        }
        return (
            url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL,
            key,
            {name: value for name, value in headers.items() if value},
        )

    @property
    def dimension(self) -> int:
        """Length of the vectors; 1536 where the model is unknown and nothing else says it."""
        return self._dimension or DIMENSIONS["text-embedding-3-small"]

    def _vectors(self, response: Any, count: int) -> list[Any]:
        vectors = super()._vectors(response, count)
        if self._learns:
            self._dimension = len(vectors[0])
        return vectors
