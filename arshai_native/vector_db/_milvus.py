"""AsyncMilvus: arshai's MilvusClient on the native engine.

Collections, schemas, indexes, rows and results are those of arshai 1.15.0's
vector_db.milvus_client: both read what the other has written.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from arshai_native._milvus_uri import shown
from arshai_native._original import drive

if TYPE_CHECKING:
    from ._backend import Backend

logger = logging.getLogger("arshai_native.vector_db")

DEFAULT_URI = "http://localhost:19530"
DEFAULT_BATCH_SIZE = 50

_Result = Any  # of pymilvus's, which is not imported here


class AsyncMilvus:
    """
    Vectors and documents in Milvus, without blocking the event loop.

    The methods of arshai's MilvusClient work synchronously, as there; their _async twins are
    awaitable. The first operation on a collection creates it if there is none, and loads it. From
    then on an operation is one round trip: what is known of the collection is asked for again when
    the server refuses something. Searches with one vector each that wait at the same moment travel
    as one request. One object serves any number of event loops and threads.

    uri: the server, http(s)://host:port or unix:/path, or the file (.db) of an embedded one; or an
        object or a dict with host, port, db_name, batch_size, additional_params (IVectorDBConfig).
        Default: host and port, else the environment's MILVUS_HOST and MILVUS_PORT, else
        http://localhost:19530.
    user, password, token: who asks.
    db_name: default: environment MILVUS_DB_NAME.
    timeout: seconds until connecting has failed (10).
    batch_size: rows of one insert at most. Default: environment MILVUS_BATCH_SIZE, else 50.
    gather: whether searches may travel together.
    flush: whether inserts end with a flush, as arshai's do: the rows are on disk and counted, which
        takes the server long. Without it they are as safe, and found as soon.
    kwargs: pymilvus's names of further options of a connection: secure, server_pem_path,
        ca_pem_path, client_pem_path, client_key_path, server_name, grpc_options.

    A configuration (config) is arshai's ICollectionConfig, or anything with its attributes, such as
    CollectionConfig. Results and exceptions are pymilvus's.
    Source of the behaviour: arshai 1.15.0, vector_db/milvus_client.py.
    """

    def __init__(
        self,
        uri: Any = None,
        user: str = "",
        password: str = "",
        db_name: str | None = None,
        token: str = "",
        timeout: float | None = None,
        *,
        host: str | None = None,
        port: str | int | None = None,
        batch_size: int | None = None,
        gather: bool = True,
        flush: bool = True,
        **kwargs: Any,
    ) -> None:
        if uri is not None and not isinstance(uri, (str, os.PathLike)):
            given = uri if isinstance(uri, dict) else _attributes_of(uri)
            host, port = host or given.get("host"), port or given.get("port")
            db_name = db_name or given.get("db_name")
            batch_size = batch_size or given.get("batch_size")
            more = dict(given.get("additional_params") or {})
            user, password = user or more.pop("user", ""), password or more.pop("password", "")
            token = token or more.pop("token", "")
            kwargs = {**more, **kwargs}
            uri = kwargs.pop("uri", None)
        if uri is None:
            self.host = host or os.environ.get("MILVUS_HOST")
            self.port = port or os.environ.get("MILVUS_PORT")
            uri = f"http://{self.host or 'localhost'}:{self.port or 19530}"
        else:
            self.host, self.port = host, port
        self.uri = os.fspath(uri)
        self.db_name = db_name or os.environ.get("MILVUS_DB_NAME")
        self.batch_size = int(
            batch_size or os.environ.get("MILVUS_BATCH_SIZE") or DEFAULT_BATCH_SIZE
        )
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, not {self.batch_size}")
        self.logger = logger
        self._token = token or (f"{user}:{password}" if user else "")
        self._timeout = timeout
        self._gather = bool(gather)
        self._flush = bool(flush)
        self._options = kwargs
        self._backend: Backend | None = None
        self._making = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {shown(self.uri)}>"

    # ---- the connection ----

    def _opened(self) -> Backend:
        backend = self._backend
        if backend is not None:
            return backend
        with self._making:
            if self._backend is None:
                try:
                    from ._backend import Backend
                except ModuleNotFoundError as error:
                    if error.name != "pymilvus":
                        raise
                    raise ImportError(
                        "AsyncMilvus needs pymilvus: pip install 'arshai-native[milvus]'"
                    ) from error
                self._backend = Backend(
                    self.uri, self._token, self.db_name or "", self._timeout, self._gather,
                    self.batch_size, self._flush, dict(self._options),
                )  # fmt: skip
            return self._backend

    async def _opening(self) -> Backend:
        """_opened() on a thread: importing pymilvus takes half a second, starting a server more."""
        executor = ThreadPoolExecutor(1, "arshai_native import")
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, self._opened)
        finally:
            executor.shutdown(wait=False)

    def connect(self) -> None:
        """Asks the server whether it is there. Operations do that by themselves."""
        backend = self._opened()
        drive(backend.connect(backend.blocking))

    async def connect_async(self) -> None:
        """connect(), awaitable."""
        backend = self._backend or await self._opening()
        await backend.connect(backend.waiting)

    def disconnect(self) -> None:
        """Ends the connection; calls under way fail. The next operation makes another one."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    async def disconnect_async(self) -> None:
        """disconnect(), awaitable."""
        self.disconnect()

    close = close_sync = disconnect
    close_async = disconnect_async

    def __enter__(self) -> AsyncMilvus:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    async def __aenter__(self) -> AsyncMilvus:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.disconnect()

    # ---- collections ----

    def create_schema(self, config: Any) -> _Result:
        """The CollectionSchema of a configuration."""
        from ._collection import schema_of

        return schema_of(config)

    async def create_schema_async(self, config: Any) -> _Result:
        """create_schema(), awaitable."""
        await self._opening()
        return self.create_schema(config)

    def get_or_create_collection(self, config: Any) -> _Result:
        """
        The collection as pymilvus's Collection, created with its indexes if there is none. The
        methods of a Collection are synchronous.
        """
        backend = self._opened()
        return drive(backend.get_or_create(backend.blocking, config))

    async def get_or_create_collection_async(self, config: Any) -> _Result:
        """get_or_create_collection(), awaitable."""
        backend = self._backend or await self._opening()
        return await backend.get_or_create(backend.waiting, config)

    def get_collection_stats(self, config: Any) -> dict[str, Any] | None:
        """name, num_entities, schema, indexes; None if the server does not say."""
        backend = self._opened()
        stats: dict[str, Any] | None = drive(backend.stats(backend.blocking, config))
        return stats

    async def get_collection_stats_async(self, config: Any) -> dict[str, Any] | None:
        """get_collection_stats(), awaitable."""
        backend = self._backend or await self._opening()
        return await backend.stats(backend.waiting, config)

    # ---- writing ----

    def insert_entity(
        self, config: Any, entity: dict[str, Any], documents_embedding: dict[str, Any]
    ) -> None:
        """
        Inserts one document.

        entity: "content" (or the text field's name), "metadata", fields of the schema model.
        documents_embedding: "dense": a vector, "sparse": a row.
        Raises KeyError if there is no text.
        """
        backend = self._opened()
        drive(backend.insert_one(backend.blocking, config, entity, documents_embedding))

    async def insert_entity_async(
        self, config: Any, entity: dict[str, Any], documents_embedding: dict[str, Any]
    ) -> None:
        """insert_entity(), awaitable."""
        backend = self._backend or await self._opening()
        await backend.insert_one(backend.waiting, config, entity, documents_embedding)

    def insert_entities(
        self, config: Any, data: Iterable[dict[str, Any]], documents_embedding: dict[str, Any]
    ) -> None:
        """
        Inserts documents, batch_size in a request.

        documents_embedding: "dense": vectors (lists or a numpy block), "sparse": rows (or a csr
        matrix), in the documents' order. Blocks are written as a whole, which is faster.
        """
        backend = self._opened()
        drive(backend.insert_many(backend.blocking, config, list(data), documents_embedding))

    async def insert_entities_async(
        self, config: Any, data: Iterable[dict[str, Any]], documents_embedding: dict[str, Any]
    ) -> None:
        """insert_entities(), awaitable."""
        backend = self._backend or await self._opening()
        await backend.insert_many(backend.waiting, config, list(data), documents_embedding)

    def delete_entity(self, config: Any, filter_expr: str) -> _Result:
        """Deletes what an expression selects. Raises ValueError if it is empty."""
        backend = self._opened()
        return drive(backend.delete(backend.blocking, config, filter_expr))

    async def delete_entity_async(self, config: Any, filter_expr: str) -> _Result:
        """delete_entity(), awaitable."""
        backend = self._backend or await self._opening()
        return await backend.delete(backend.waiting, config, filter_expr)

    # ---- reading ----

    def query_by_expr(
        self,
        config: Any,
        expr: str,
        output_fields: list[str] | None = None,
        consistency_level: str = "Eventually",
    ) -> _Result:
        """The documents that an expression selects, as dicts. output_fields: default: all but the
        vectors.
        """
        backend = self._opened()
        return drive(
            backend.query(backend.blocking, config, expr, output_fields, consistency_level)
        )

    async def query_by_expr_async(
        self,
        config: Any,
        expr: str,
        output_fields: list[str] | None = None,
        consistency_level: str = "Eventually",
    ) -> _Result:
        """query_by_expr(), awaitable."""
        backend = self._backend or await self._opening()
        return await backend.query(backend.waiting, config, expr, output_fields, consistency_level)

    def search_by_vector(
        self,
        config: Any,
        query_vectors: Any,
        search_field: str | None = None,
        expr: str | None = None,
        output_fields: list[str] | None = None,
        limit: int = 3,
        search_params: dict[str, Any] | None = None,
    ) -> _Result:
        """
        The nearest documents to each of the vectors, as pymilvus's SearchResult: a list of hits
        for each, of which callers use id, distance, fields, get().

        search_field: default: the dense vector. search_params: default: inner product.
        """
        backend = self._opened()
        return drive(
            backend.search(
                backend.blocking, config, query_vectors, search_field, expr, output_fields, limit,
                search_params,
            )
        )  # fmt: skip

    async def search_by_vector_async(
        self,
        config: Any,
        query_vectors: Any,
        search_field: str | None = None,
        expr: str | None = None,
        output_fields: list[str] | None = None,
        limit: int = 3,
        search_params: dict[str, Any] | None = None,
    ) -> _Result:
        """search_by_vector(), awaitable."""
        backend = self._backend or await self._opening()
        return await backend.search(
            backend.waiting, config, query_vectors, search_field, expr, output_fields, limit,
            search_params,
        )  # fmt: skip

    async def search_async(
        self,
        config: Any,
        query_vectors: Any,
        *,
        limit: int = 10,
        output_fields: list[str] | None = None,
        filter: str | None = None,
        anns_field: str | None = None,
        search_params: dict[str, Any] | None = None,
    ) -> _Result:
        """search_by_vector_async() by pymilvus's names and defaults: ten hits with all of their
        fields, the index's own metric.
        """
        return await self.search_by_vector_async(
            config,
            query_vectors,
            anns_field,
            filter,
            ["*"] if output_fields is None else output_fields,
            limit,
            {} if search_params is None else search_params,
        )

    def hybrid_search(
        self,
        config: Any,
        dense_vectors: Any = None,
        sparse_vectors: Any = None,
        expr: str | None = None,
        output_fields: list[str] | None = None,
        limit: int = 3,
        search_params: list[dict[str, Any]] | None = None,
    ) -> _Result:
        """
        The nearest documents by both vectors, which count equally.

        search_params: those of the dense search, those of the sparse one. Raises ValueError if the
        configuration is not hybrid.
        """
        backend = self._opened()
        return drive(
            backend.hybrid_search(
                backend.blocking, config, dense_vectors, sparse_vectors, expr, output_fields,
                limit, search_params,
            )
        )  # fmt: skip

    async def hybrid_search_async(
        self,
        config: Any,
        dense_vectors: Any = None,
        sparse_vectors: Any = None,
        expr: str | None = None,
        output_fields: list[str] | None = None,
        limit: int = 3,
        search_params: list[dict[str, Any]] | None = None,
    ) -> _Result:
        """hybrid_search(), awaitable."""
        backend = self._backend or await self._opening()
        return await backend.hybrid_search(
            backend.waiting, config, dense_vectors, sparse_vectors, expr, output_fields, limit,
            search_params,
        )  # fmt: skip


def _attributes_of(config: Any) -> dict[str, Any]:
    names = ("host", "port", "db_name", "batch_size", "additional_params")
    if not hasattr(config, "host"):
        raise TypeError(
            f"uri must be a str or a configuration with host and port, not {type(config).__name__}"
        )
    return {name: getattr(config, name, None) for name in names}
