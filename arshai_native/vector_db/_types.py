"""The data objects of vector databases: stand-ins for arshai's, which are as good."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class CollectionConfig:
    """
    A collection, and what its fields are called; stands in for arshai's ICollectionConfig.

    schema_model: a class whose annotations are further fields. is_hybrid: whether there is a
    sparse vector besides the dense one.
    """

    collection_name: str
    dense_dim: int
    text_field: str
    pk_field: str = "doc_id"
    dense_field: str = "dense_vector"
    sparse_field: str | None = "sparse_vector"
    metadata_field: str = "metadata"
    schema_model: type | None = None
    is_hybrid: bool = False


@dataclasses.dataclass
class VectorDBConfig:
    """
    Where the database is; stands in for arshai's IVectorDBConfig.

    additional_params: further arguments of AsyncMilvus by name. They may contain a password.
    """

    host: str
    port: str
    db_name: str
    batch_size: int = 50
    additional_params: dict[str, Any] | None = dataclasses.field(default=None, repr=False)
