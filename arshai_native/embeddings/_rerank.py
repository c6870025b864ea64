"""What rerankers share."""

from __future__ import annotations

from typing import Any

from arshai_native.embeddings._types import document_class


def rerank_texts(input: Any) -> list[str]:
    """The documents' texts."""
    return [document.page_content for document in input.documents]


def ranked(input: Any, reply: Any, key: str) -> list[Any]:
    """
    Documents in the order of the reply's items, which name them by index, each with its
    relevance_score in the metadata. ValueError for a reply that does not.
    """
    make = document_class()
    documents = []
    try:
        for item in reply[key]:
            index = item["index"]
            if not 0 <= index < len(input.documents):
                raise IndexError(index)
            document = input.documents[index]
            metadata = {**document.metadata, "relevance_score": item["relevance_score"]}
            documents.append(make(page_content=document.page_content, metadata=metadata))
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"the reply is no ranking of the documents sent: {error!r}") from None
    return documents
