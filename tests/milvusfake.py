"""A gRPC server that answers as tests tell it to, for what no real Milvus does when it is asked to:
errors of every kind, replies of any content, slow ones; and it remembers what it was asked.

It is grpc's own server, on a real port, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from pymilvus.client.types import DataType
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

PREFIX = "/milvus.proto.milvus.MilvusService/"
_MESSAGES = {
    "Connect": milvus_pb2.ConnectRequest,
    "Search": milvus_pb2.SearchRequest,
    "HybridSearch": milvus_pb2.HybridSearchRequest,
    "Query": milvus_pb2.QueryRequest,
    "Insert": milvus_pb2.InsertRequest,
    "Upsert": milvus_pb2.UpsertRequest,
    "Delete": milvus_pb2.DeleteRequest,
    "DescribeCollection": milvus_pb2.DescribeCollectionRequest,
}


def search_reply(request: Any, **status: Any) -> Any:
    """One hit for each query; its id is the first byte of the vector."""
    group = common_pb2.PlaceholderGroup.FromString(request.placeholder_group)
    values = [value for each in group.placeholders for value in each.values]
    return milvus_pb2.SearchResults(
        status=status,
        results=schema_pb2.SearchResultData(
            num_queries=len(values),
            top_k=1,
            topks=[1] * len(values),
            ids={"int_id": {"data": [key_of(value) for value in values]}},
            scores=[0.5] * len(values),
            primary_field_name="id",
        ),
    )


def key_of(vector: bytes) -> int:
    """What tells vectors apart: their first four bytes."""
    return int.from_bytes(vector[:4], "little")


def collection(dimension: int = 4, timestamp: int = 1, **more: Any) -> Any:
    fields = [
        schema_pb2.FieldSchema(
            fieldID=100, name="id", is_primary_key=True, data_type=DataType.INT64.value
        ),
        schema_pb2.FieldSchema(
            fieldID=101, name="vector", data_type=DataType.FLOAT_VECTOR.value,
            type_params=[common_pb2.KeyValuePair(key="dim", value=str(dimension))],
        ),
    ]  # fmt: skip
    for name, kind in more.items():
        fields.append(
            schema_pb2.FieldSchema(fieldID=102 + len(fields), name=name, data_type=kind.value)
        )
    return milvus_pb2.DescribeCollectionResponse(
        schema=schema_pb2.CollectionSchema(name="c", fields=fields), update_timestamp=timestamp
    )


class FakeMilvus:
    """
    on(method, answer): answer(request) returns a reply (a message, bytes, a coroutine of these) or
    raises Status.
    """

    def __init__(self, credentials: Any = None, port: int = 0) -> None:
        self.calls: Counter[str] = Counter()
        self.requests: list[tuple[str, Any, dict[str, Any]]] = []
        self.answers: dict[str, Callable[[Any], Any]] = {
            "Connect": lambda _: milvus_pb2.ConnectResponse(identifier=77),
            "Search": search_reply,
            "DescribeCollection": lambda _: collection(),
            "Insert": lambda request: milvus_pb2.MutationResult(
                insert_cnt=request.num_rows, timestamp=1000,
                IDs={"int_id": {"data": range(request.num_rows)}},
            ),
            "Delete": lambda _: milvus_pb2.MutationResult(delete_cnt=1, timestamp=1001),
        }  # fmt: skip
        self._credentials = credentials
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop: asyncio.Event | None = None
        self.port = port
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(self, method: str, answer: Callable[[Any], Any]) -> None:
        self.answers[method] = answer

    def asked(self, method: str) -> list[Any]:
        return [request for name, request, _ in self.requests if name == method]

    def metadata(self, method: str) -> dict[str, Any]:
        """Of the last call of that method."""
        return [metadata for name, _, metadata in self.requests if name == method][-1]

    def __enter__(self) -> FakeMilvus:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        if self._thread.is_alive():
            assert self._stop is not None
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        server.add_generic_rpc_handlers((_Handler(self),))
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, self._credentials)
        await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop(0)


class Status(Exception):
    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        super().__init__(details)
        self.code = code
        self.details = details


# Arguments of searches beside collection and data.
SEARCH_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "filter": {"filter": "id > 3 and a == 'ä'"},
    "filter parameters": {"filter": "id in {ids}", "filter_params": {"ids": [1, 2]}},
    "limit": {"limit": 77},
    "fields": {"output_fields": ["a", "b"], "partition_names": ["p", "q"]},
    "parameters": {"search_params": {"metric_type": "L2", "params": {"nprobe": 3, "x": [1.5]}}},
    "radius": {"search_params": {"params": {"radius": 0.5, "range_filter": 0.9}}},
    "field": {"anns_field": "vector"},
    "strong": {"consistency_level": "Strong"},
    "bounded": {"consistency_level": "Bounded"},
    "session": {"consistency_level": "Session"},
    "eventually": {"consistency_level": "Eventually"},
    "customized": {"consistency_level": "Customized", "guarantee_timestamp": 12345},
    "level as a number": {"consistency_level": 1},
    "rounding": {"round_decimal": 3},
    "offset": {"offset": 5},
    "group": {"group_by_field": "a", "group_size": 2, "strict_group_size": True},
    "growing": {"ignore_growing": True},
    "hints": {"search_params": {"hints": "iterative_filter"}},
    "timezone": {"timezone": "UTC"},
    "timestamp": {"guarantee_timestamp": 7},
    "timeout": {"timeout": 30},
    "a timeout in fractions": {"timeout": 29.5},
}


# Answers to a search that are errors, no replies, or nothing.
SEARCH_ERRORS: dict[str, Any] = {
    "status": lambda _: milvus_pb2.SearchResults(status={"code": 100, "reason": "no collection"}),
    "old status": lambda _: milvus_pb2.SearchResults(status={"error_code": 1, "reason": "old"}),
    "not allowed": Status(grpc.StatusCode.PERMISSION_DENIED, "not you"),
    "unauthenticated": Status(grpc.StatusCode.UNAUTHENTICATED, "who?"),
    "invalid": Status(grpc.StatusCode.INVALID_ARGUMENT, "bad – ä"),
    "unimplemented": Status(grpc.StatusCode.UNIMPLEMENTED, "cannot"),
    "corrupt": lambda _: b"\x0a\xff\xff\xff\xff\x0f",
    "truncated": lambda request: search_reply(request).SerializeToString()[:-3],
    "empty": lambda _: b"",
}


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, fake: FakeMilvus) -> None:
        self._fake = fake

    def service(self, details: Any) -> Any:
        method = details.method.removeprefix(PREFIX)
        metadata = dict(details.invocation_metadata)

        async def answer(message: bytes, context: Any) -> bytes:
            fake = self._fake
            kind = _MESSAGES.get(method)
            request = kind.FromString(message) if kind is not None else message
            fake.calls[method] += 1
            fake.requests.append((method, request, metadata))
            if method not in fake.answers:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no {method}")
            try:
                reply = fake.answers[method](request)
                if isinstance(reply, Awaitable):
                    reply = await reply
            except Status as status:
                await context.abort(status.code, status.details)
            return reply if isinstance(reply, bytes) else reply.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)
