"""Embeddings and reranking for the arshai framework, on the native engine.

Importing this module imports none of arshai, openai, voyageai, milvus_model and numpy. The
exceptions are openai's where that is installed, else of its names; they can be had from here:
`except embeddings.RateLimitError` imports openai if need be.
"""

from typing import Any

from arshai_native._api_errors import OPENAI_NAMES as _OPENAI_NAMES
from arshai_native.embeddings._cloudflare import AsyncCloudflareGatewayEmbedding
from arshai_native.embeddings._infinity import AsyncInfinityEmbedding
from arshai_native.embeddings._mgte import AsyncMGTEEmbedding
from arshai_native.embeddings._openai import AsyncOpenAIEmbedding
from arshai_native.embeddings._types import Document, EmbeddingConfig, RerankInput
from arshai_native.embeddings._voyage import AsyncVoyageAIEmbedding, AsyncVoyageReranker

__all__ = [
    "AsyncCloudflareGatewayEmbedding",
    "AsyncInfinityEmbedding",
    "AsyncMGTEEmbedding",
    "AsyncOpenAIEmbedding",
    "AsyncVoyageAIEmbedding",
    "AsyncVoyageReranker",
    "Document",
    "EmbeddingConfig",
    "RerankInput",
]


def __getattr__(name: str) -> Any:
    if name in _OPENAI_NAMES:
        from arshai_native._api_errors import openai_exceptions

        return getattr(openai_exceptions(), name)
    raise AttributeError(f"module 'arshai_native.embeddings' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OPENAI_NAMES})
