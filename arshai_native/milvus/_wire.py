"""Bytes to pymilvus's objects and back, in C; whatever C does not know is left to pymilvus."""

from __future__ import annotations

import inspect
from typing import Any

from pymilvus.client.abstract import MutationResult
from pymilvus.client.async_grpc_handler import AsyncGrpcHandler
from pymilvus.client.search_result import SearchResult
from pymilvus.client.utils import check_status
from pymilvus.grpc_gen import milvus_pb2

from arshai_native import _core
from arshai_native._original import drive

placeholders = _core.milvus_placeholders


def search_result(reply: bytes, round_decimal: Any, hybrid: bool = False) -> SearchResult:
    """What the handler makes of a reply; raises what it raises for a status that is not success."""
    result = _core.milvus_search_results(reply, round_decimal, hybrid)
    if result is None:
        response = milvus_pb2.SearchResults.FromString(reply)
        check_status(response.status)
        if hybrid:
            return SearchResult(response.results, round_decimal, status=response.status)
        return SearchResult(
            response.results,
            round_decimal,
            status=response.status,
            session_ts=response.session_ts,
        )
    return result


def mutation_result(reply: bytes, check: bool) -> MutationResult:
    response = milvus_pb2.MutationResult.FromString(reply)
    if check:
        check_status(response.status)
    return MutationResult(response)


class _Replied:
    """A handler's stub that has the reply already."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __getattr__(self, name: str) -> Any:
        async def call(*_: Any, **__: Any) -> Any:
            return self._response

        return call


class _ReplyHandler(AsyncGrpcHandler):
    def __init__(self, response: Any) -> None:
        self._address = ""
        self._async_stub = _Replied(response)


_raw_query = inspect.unwrap(AsyncGrpcHandler.query)


def query_result(reply: bytes, strict_float32: bool) -> Any:
    result = None if strict_float32 else _core.milvus_query_results(reply)
    if result is None:
        response = milvus_pb2.QueryResults.FromString(reply)
        handler = _ReplyHandler(response)
        return drive(_raw_query(handler, "", "", [], strict_float32=strict_float32))
    return result
