"""The data objects of embeddings and rerankers.

arshai's own are taken wherever one of these is; it is looked for, never imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

_DOCUMENT = "arshai.core.interfaces.idocument"


class EmbeddingConfig:
    """
    Configuration of an embedding class; stands in for arshai's EmbeddingConfig.

    model_name: the model. batch_size: texts of one request at most; None: the class's default.
    additional_params: further arguments of the class by name.
    """

    __slots__ = ("additional_params", "batch_size", "model_name")

    def __init__(
        self,
        model_name: str | None = None,
        batch_size: int | None = None,
        additional_params: dict[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.batch_size = batch_size
        self.additional_params = dict(additional_params or {})

    def __repr__(self) -> str:
        names = sorted(self.additional_params)  # not the values: a key may be among them
        return (
            f"EmbeddingConfig(model_name={self.model_name!r}, batch_size={self.batch_size!r}, "
            f"additional_params={names})"
        )


class Document:
    """A text and what is known of it; stands in for arshai's Document."""

    __slots__ = ("metadata", "page_content")

    def __init__(self, page_content: str, metadata: dict[str, Any] | None = None) -> None:
        self.page_content = page_content
        self.metadata = dict(metadata or {})

    def __eq__(self, other: object) -> bool:
        if not hasattr(other, "page_content") or not hasattr(other, "metadata"):
            return NotImplemented
        return (self.page_content, self.metadata) == (other.page_content, other.metadata)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Document(page_content={self.page_content[:50]!r}, metadata={self.metadata!r})"


class RerankInput:
    """
    What to rank; stands in for arshai's IRerankInput.

    query: the text to compare with. documents: texts, dicts with page_content (and metadata), or
    objects with these attributes.
    """

    __slots__ = ("documents", "query")

    def __init__(self, query: str, documents: Iterable[Any]) -> None:
        self.query = query
        self.documents = [_as_document(document) for document in documents]


def _as_document(document: Any) -> Any:
    if isinstance(document, str):
        return document_class()(page_content=document)
    if isinstance(document, dict):
        return document_class()(
            page_content=document["page_content"], metadata=document.get("metadata") or {}
        )
    if not hasattr(document, "page_content"):
        raise TypeError(
            f"a document must be a str, a dict or have page_content, not {type(document).__name__}"
        )
    return document


def as_rerank_input(input: Any) -> Any:
    """IRerankInput, or the same as a dict of query and documents."""
    if isinstance(input, dict):
        return RerankInput(input["query"], input["documents"])
    return input


def document_class() -> type:
    """arshai's Document if the program has imported it, else ours."""
    module = sys.modules.get(_DOCUMENT)
    return getattr(module, "Document", Document)
