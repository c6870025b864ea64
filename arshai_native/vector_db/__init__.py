"""arshai's vector database class on the native engine.

Importing this module imports neither arshai nor pymilvus; pymilvus is needed, and imported, with
the first operation.
"""

from arshai_native.vector_db._milvus import AsyncMilvus
from arshai_native.vector_db._types import CollectionConfig, VectorDBConfig

AsyncMilvusClientWrapper = AsyncMilvus

__all__ = ["AsyncMilvus", "AsyncMilvusClientWrapper", "CollectionConfig", "VectorDBConfig"]
