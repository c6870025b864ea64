"""The operations of AsyncMilvus, each one round trip once its collection is known."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
from pymilvus import AnnSearchRequest, CollectionSchema, WeightedRanker
from pymilvus.client import ts_utils
from pymilvus.client.constants import DEFAULT_CONSISTENCY_LEVEL
from pymilvus.client.prepare import Prepare
from pymilvus.client.search_result import SearchResult
from pymilvus.client.types import DataType, Status
from pymilvus.client.utils import check_status
from pymilvus.decorators import IGNORE_RETRY_CODES
from pymilvus.exceptions import (
    DataTypeNotMatchException,
    ErrorCode,
    ExceptionsMessage,
    MilvusException,
)
from pymilvus.grpc_gen import common_pb2, schema_pb2
from pymilvus.orm.mutation import MutationResult
from pymilvus.orm.schema import check_schema
from pymilvus.settings import Config

from arshai_native import _core, _milvus_wire
from arshai_native._gather import Gatherer
from arshai_native._milvus_uri import hide
from arshai_native._original import drive
from arshai_native.milvus import _sdk, _wire
from arshai_native.milvus._connection import QuietConfig
from arshai_native.milvus._hybrid import _HybridPlan
from arshai_native.milvus._query import _QueryPlan
from arshai_native.milvus._sdk import SERVICE
from arshai_native.milvus._search import (
    SearchPlan,
    Unencodable,
    encoded,
    is_bytes,
)
from arshai_native.milvus._template import DELETE, INSERT, Plans, template
from arshai_native.milvus._together import gathered

from . import _collection
from ._collection import NativeCollection
from ._connection import Blocking, Connection, Waiting
from ._entities import Documents, Rows

logger = logging.getLogger("arshai_native.vector_db")

_SEARCH, _HYBRID, _QUERY = SERVICE + "Search", SERVICE + "HybridSearch", SERVICE + "Query"
_INSERT, _DELETE = SERVICE + "Insert", SERVICE + "Delete"

# Left out of the fields that come back when nobody names any.
_LARGE = (DataType.FLOAT_VECTOR, DataType.SPARSE_FLOAT_VECTOR)
_SEARCH_PARAMS: dict[str, Any] = {"metric_type": "IP", "params": {}}
_HYBRID_PARAMS: list[dict[str, Any]] = [
    {"metric_type": "IP", "params": {"nprobe": 10}},
    {"metric_type": "IP"},
]

_IO = Waiting | Blocking


_Operation = TypeVar("_Operation", bound=Callable[..., Coroutine[Any, Any, Any]])


def _logged(operation: _Operation) -> _Operation:
    """Errors are in the log as well, as arshai's are."""

    @functools.wraps(operation)
    async def logged(*args: Any) -> Any:
        try:
            return await operation(*args)
        except Exception as error:
            logger.error("Error in operation: %s", error)
            raise

    return logged  # type: ignore[return-value]


class _Known:
    """A collection that exists and has been loaded, as far as we know.

    checks: how often the server was asked about it. Whoever fails with what was known compares it
    with the number that he began with: somebody else may have asked since.
    """

    __slots__ = ("checks", "description", "name", "native", "outputs", "plans")

    def __init__(self, name: str, description: dict[str, Any]) -> None:
        self.name = name
        self.description = description
        self.checks = 1
        self.plans = Plans()
        self.native = _milvus_wire.schema(description)
        self.outputs = [
            field["name"] for field in description["fields"] if field["type"] not in _LARGE
        ]


class Backend:
    """One AsyncMilvus's connection, and what it knows of the server's collections."""

    def __init__(
        self, uri: str, token: str, db_name: str, timeout: float | None, gather: bool,
        batch_size: int, flush: bool, options: dict[str, Any],
    ) -> None:  # fmt: skip
        try:
            self._config = QuietConfig.from_uri(uri, token=token, db_name=db_name, **options)
        except Exception as error:
            hide(error, uri)
            raise
        self.connection = Connection(self._config, timeout)
        self.waiting = self.connection.waiting
        self.blocking = self.connection.blocking
        self._handler = self.connection.handler  # with _config what plans ask of a client
        self._gather = gather
        self._batch_size = batch_size
        self._flush = flush
        self._introduced = False
        self._known: dict[str, _Known] = {}

    def close(self) -> None:
        self._known.clear()
        self.connection.close()

    # ---- collections ----

    async def connect(self, io: _IO, again: bool = True) -> None:
        if again or not self._introduced:
            await self.connection.introduce(io)
            self._introduced = True

    def _sync_connection(self, **_: Any) -> tuple[Any, Any]:
        return self.connection.sync_handler, self.connection.context

    async def _describe(self, io: _IO, config: Any) -> tuple[dict[str, Any], CollectionSchema]:
        """The collection's description, and its schema. Creates it if there is none."""
        name = config.collection_name
        self._handler._invalidate_schema(name, db_name=self._config.db_name)
        if await io.handle("has_collection", name):
            description = await io.handle("describe_collection", name)
            return description, CollectionSchema.construct_from_dict(description)
        logger.info("Creating new collection: %s", name)
        schema = _collection.schema_of(config)
        schema.verify()
        check_schema(schema)
        await io.handle("create_collection", name, schema)
        if config.is_hybrid:
            await self._index(io, name, config.sparse_field, _collection.SPARSE_INDEX)
        await self._index(io, name, config.dense_field, _collection.DENSE_INDEX)
        return await io.handle("describe_collection", name), schema

    async def _index(self, io: _IO, collection: str, field: str, params: dict[str, Any]) -> None:
        # The handler's create_index() waits half a second before it first asks whether the index
        # of an empty collection is there.
        request = Prepare.create_index_request(
            collection, field, dict(params), index_name=Config.IndexName
        )
        reply = await io.unary(SERVICE + "CreateIndex", request.SerializeToString())
        check_status(common_pb2.Status.FromString(reply))

    async def get_or_create(self, io: _IO, config: Any) -> NativeCollection:
        try:
            await self.connect(io, False)
            async with io.alone(config.collection_name):
                description, schema = await self._describe(io, config)
        except Exception as error:
            logger.error("Error in get_or_create_collection: %s", error)
            raise
        level = description.get("consistency_level", DEFAULT_CONSISTENCY_LEVEL)
        return NativeCollection(config.collection_name, schema, level, self._sync_connection)

    async def _prepare(self, io: _IO, config: Any, seen: int = 0) -> _Known:
        """
        What arshai does before each operation: connects, gets or creates the collection, loads it.

        seen: the number of checks with which an operation has failed.
        """
        name = config.collection_name
        async with io.alone(name):
            known = self._known.get(name)
            if known is not None and known.checks > seen:
                return known
            await self.connect(io, known is not None)
            description, _ = await self._describe(io, config)
            try:
                await io.handle("load_collection", name)
            except Exception as error:
                logger.info("Collection %s might already be loaded: %s", name, error)
            if known is not None and known.description == description:
                known.checks += 1
                return known
            made = _Known(name, description)
            if known is not None:
                made.checks = known.checks + 1
            self._known[name] = made
            return made

    async def _run(
        self,
        io: _IO,
        config: Any,
        name: str,
        attempt: Callable[[_Known], Awaitable[Any]],
        peer: Callable[[], Awaitable[Any]],
        by_schema: bool = False,
    ) -> Any:
        """
        One operation with what is known of its collection; after an error of the server's once
        more with what then is known, and with pymilvus's patience.

        attempt may raise Unencodable: then it is for peer, which lets pymilvus do it. by_schema:
        what can be encoded depends on the schema, which may be another one by now.
        """
        known = self._known.get(config.collection_name)
        if known is None:
            known = await self._prepare(io, config)
        else:
            seen = known.checks
            try:
                return await attempt(known)
            except Unencodable:
                if not by_schema or known.native is None:
                    return await peer()
            except Exception as error:
                if not _may_pass(error):
                    raise
            known = await self._prepare(io, config, seen)
        try:
            return await attempt(known)
        except Unencodable:
            return await peer()
        except Exception as error:
            if not _is_retried(error):
                raise
            first = error
        return await io.retried(name, lambda: attempt(known), first)

    # ---- requests ----

    def _plan(self, known: _Known, key: Any, make: Any, method: str, /, **arguments: Any) -> Any:
        """The plan of calls with the same key; of what pymilvus would send for the arguments."""
        handler = _sdk._RecordingHandler(self._config.address, known.description)
        try:
            drive(_sdk._RAW[method](handler, known.name, **copy.deepcopy(arguments)))
        except _sdk.Captured as captured:
            plan = make(captured)
        except Exception as error:  # pymilvus says it in its own words
            raise Unencodable from error
        else:
            raise Unencodable
        known.plans.keep(key, plan)
        return plan

    @_logged
    async def search(
        self, io: _IO, config: Any, vectors: Any, field: str | None, expr: Any, outputs: Any,
        limit: Any, params: Any,
    ) -> Any:  # fmt: skip
        if field is None:
            field = config.dense_field
        if params is None:
            params = _SEARCH_PARAMS
        gather = self._gather and io is self.waiting

        async def attempt(known: _Known) -> Any:
            try:
                kind, count, values = encoded(vectors, self._vector_type(known, vectors, field))
                key = _key("search", field, expr, outputs, limit, params)
            except Exception as error:
                raise Unencodable from error
            plan = known.plans.get(key)
            if plan is None:
                plan = self._plan(
                    known, key, lambda captured: SearchPlan(captured, {}), "search",
                    anns_field=field, param=params, limit=limit, data=vectors, expression=expr,
                    output_fields=known.outputs if outputs is None else outputs,
                )  # fmt: skip

            if gather and count == 1:
                gatherer = plan.together.find(kind) or self._gatherer(known, plan, kind)
                (found,) = await gathered(gatherer, values, len(values), None)
                if found is not None:
                    return found
            message = plan.message(self, known.name, kind, count, [values])
            return _wire.search_result(await io.unary(_SEARCH, message), plan.round_decimal)

        async def peer() -> Any:
            if expr is not None and not isinstance(expr, str):
                raise DataTypeNotMatchException(message=ExceptionsMessage.ExprType % type(expr))
            if isinstance(vectors, list) and not vectors:
                return SearchResult(schema_pb2.SearchResultData())
            return await io.handle(
                "search", config.collection_name, anns_field=field, param=params, limit=limit,
                data=vectors, expression=expr, output_fields=self._outputs(config, outputs),
            )  # fmt: skip

        return await self._run(io, config, "search", attempt, peer)

    def _gatherer(self, known: _Known, plan: SearchPlan, kind: int) -> Gatherer:
        """Of searches that are alike."""

        async def send(vectors: list[bytes]) -> Any:
            count = len(vectors)
            message = plan.message(self, known.name, kind, count, vectors)
            reply = await self.waiting.unary(_SEARCH, message)
            if count == 1:
                return [_wire.search_result(reply, plan.round_decimal)]
            return _wire.search_results(reply, plan.round_decimal, count)

        return plan.together.make(kind, send)

    def _outputs(self, config: Any, outputs: Any) -> Any:
        if outputs is not None:
            return outputs
        return self._known[config.collection_name].outputs

    @staticmethod
    def _vector_type(known: _Known, vectors: Any, field: str) -> int:
        if not is_bytes(vectors):
            return 0
        return Prepare._get_vector_type_from_schema(known.description, field) or 0

    @_logged
    async def hybrid_search(
        self, io: _IO, config: Any, dense: Any, sparse: Any, expr: Any, outputs: Any, limit: Any,
        params: Any,
    ) -> Any:  # fmt: skip
        if not config.is_hybrid:
            raise ValueError(
                "Hybrid search is not enabled in the database configuration. Set is_hybrid=True "
                "in VectoreDatabaseConfig."
            )
        if not params:
            params = _HYBRID_PARAMS

        def requests() -> list[AnnSearchRequest]:
            return [
                AnnSearchRequest(data=data, anns_field=field, param=param, limit=limit, expr=expr)
                for data, field, param in (
                    (dense, config.dense_field, params[0]),
                    (sparse, config.sparse_field, params[1]),
                )
            ]

        async def attempt(known: _Known) -> Any:
            try:
                vectors = [
                    encoded(data, self._vector_type(known, data, field))
                    for data, field in ((dense, config.dense_field), (sparse, config.sparse_field))
                ]
                fields = (config.dense_field, config.sparse_field)
                key = _key("hybrid", fields, expr, outputs, limit, params)
                plan = known.plans.get(key)
                if plan is None:
                    plan = self._plan(
                        known, key, lambda captured: _HybridPlan(captured, {}), "hybrid_search",
                        reqs=requests(), rerank=WeightedRanker(0.5, 0.5), limit=limit,
                        output_fields=known.outputs if outputs is None else outputs,
                    )  # fmt: skip
                message = plan.message(self, known.name, vectors)
            except Exception as error:
                raise Unencodable from error
            return _wire.search_result(await io.unary(_HYBRID, message), plan.round_decimal, True)

        async def peer() -> Any:
            return await io.handle(
                "hybrid_search", config.collection_name, requests(), WeightedRanker(0.5, 0.5),
                limit, output_fields=self._outputs(config, outputs),
            )  # fmt: skip

        return await self._run(io, config, "hybrid_search", attempt, peer)

    @_logged
    async def query(
        self, io: _IO, config: Any, expr: Any, outputs: Any, consistency_level: Any
    ) -> Any:
        if not isinstance(expr, str):
            raise DataTypeNotMatchException(message=ExceptionsMessage.ExprType % type(expr))
        options = {"consistency_level": consistency_level}

        async def attempt(known: _Known) -> Any:
            try:
                key = _key("query", outputs, consistency_level)
                plan = known.plans.get(key)
                if plan is None:
                    plan = self._plan(
                        known, key, lambda captured: _QueryPlan(captured, options), "query",
                        expr=expr, output_fields=known.outputs if outputs is None else outputs,
                        **options,
                    )  # fmt: skip
                message = plan.message(self, known.name, expr)
            except Exception as error:
                raise Unencodable from error
            try:
                return _wire.query_result(await io.unary(_QUERY, message), plan.strict)
            except MilvusException as error:
                if Status.EMPTY_COLLECTION in (error.code, error.compatible_code):
                    return []
                raise

        async def peer() -> Any:
            return await io.handle(
                "query", config.collection_name, expr, self._outputs(config, outputs), **options
            )

        return await self._run(io, config, "query", attempt, peer)

    @_logged
    async def delete(self, io: _IO, config: Any, expr: Any) -> Any:
        expr = expr.strip()
        if not expr:
            raise ValueError("Expression cannot be empty for delete operation")

        async def attempt(known: _Known) -> Any:
            head = known.plans.get(("delete",))
            if head is None:
                head = self._plan(
                    known, ("delete",), lambda captured: template(captured.request, "expr"),
                    "delete", expression=expr,
                )  # fmt: skip
            reply = await io.unary(_DELETE, head + DELETE.expr.data(expr.encode()))
            result = _wire.mutation_result(reply, True)
            self._written(known, result)
            return MutationResult(result)

        async def peer() -> Any:
            return MutationResult(await io.handle("delete", config.collection_name, expr))

        return await self._run(io, config, "delete", attempt, peer)

    def _written(self, known: _Known, result: Any) -> None:
        """What this process asks for later is to see what it has written."""
        ts_utils.update_collection_ts(
            known.name, result.timestamp, self._config.address, self._config.db_name
        )

    @_logged
    async def insert_one(self, io: _IO, config: Any, entity: Any, embedding: Any) -> None:
        await self._insert(io, config, lambda rows: rows.one(entity, embedding))

    @_logged
    async def insert_many(self, io: _IO, config: Any, data: Any, embedding: Any) -> None:
        await self._insert(io, config, lambda rows: rows.many(data, embedding))

    async def _insert(self, io: _IO, config: Any, make: Callable[[Rows], Documents]) -> None:
        name = config.collection_name
        known = self._known.get(name) or await self._prepare(io, config)
        made = (known, make(Rows(config, known.description["fields"])))
        count = len(made[1])
        for start in range(0, count, self._batch_size):
            part = (start, start + self._batch_size)

            async def attempt(known: _Known, part: tuple[int, int] = part) -> Any:
                nonlocal made
                if made[0] is not known:  # its fields may be others
                    made = (known, make(Rows(config, known.description["fields"])))
                return await self._insert_rows(io, known, made[1], part)

            async def peer(part: tuple[int, int] = part) -> Any:
                return await io.handle("insert_rows", name, made[1].rows(*part))

            await self._run(io, config, "insert_rows", attempt, peer, by_schema=True)
        if count and self._flush:
            await io.flush(name)

    async def _insert_rows(
        self, io: _IO, known: _Known, documents: Documents, part: tuple[int, int]
    ) -> None:
        if known.native is None:
            raise Unencodable
        head = known.plans.get(("insert",))
        if head is None:
            head = self._plan(
                known,
                ("insert",),
                lambda captured: (
                    template(captured.request, "fields_data", "num_rows", "schema_timestamp")
                    + INSERT.schema_timestamp.integer(known.description.get("update_timestamp", 0))
                ),
                "insert_rows",
                entities=documents.rows(*part)[:1],
            )
        columns = documents.columns(*part)
        message = None if columns is None else known.native.columns(columns, front=head)
        if message is None:
            message = known.native.rows(documents.rows(*part), front=head)
        if message is None:
            raise Unencodable
        result = _wire.mutation_result(await io.unary(_INSERT, message), True)
        self._written(known, result)

    @_logged
    async def stats(self, io: _IO, config: Any) -> dict[str, Any] | None:
        name = config.collection_name
        if name not in self._known:
            await self._prepare(io, config)
        collection = await self.get_or_create(io, config)
        try:
            stats = await io.handle("get_collection_stats", name)
            count = {stat.key: stat.value for stat in stats}["row_count"]
            indexes = await io.handle("list_indexes", name)
            return {
                "name": name,
                "num_entities": int(count),
                "schema": collection.schema,
                "indexes": _collection.indexes_of(collection, indexes),
            }
        except Exception as error:
            logger.error("Error getting collection stats: %s", error)
            return None


def _key(*values: Any) -> bytes:
    key = _core.plain_key(*values)
    if key is None:
        raise Unencodable
    return key


def _may_pass(error: Exception) -> bool:
    """Whether the same operation may go well once the collection has been looked after."""
    if isinstance(error, grpc.RpcError):
        return error.code() not in IGNORE_RETRY_CODES
    return isinstance(error, MilvusException)


def _is_retried(error: Exception) -> bool:
    """Whether pymilvus would try it again by itself."""
    if isinstance(error, grpc.RpcError):
        return error.code() not in IGNORE_RETRY_CODES
    return isinstance(error, MilvusException) and (
        error.code == ErrorCode.RATE_LIMIT or error.compatible_code == common_pb2.RateLimit
    )
