"""Replies as pymilvus's objects, from C wherever it knows them as well as pymilvus does."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from pymilvus.client.abstract import MutationResult
from pymilvus.client.async_grpc_handler import AsyncGrpcHandler
from pymilvus.client.search_result import SearchResult
from pymilvus.client.types import HybridExtraList
from pymilvus.client.utils import check_status
from pymilvus.grpc_gen import milvus_pb2

from arshai_native import _milvus_wire
from arshai_native._original import drive

from ._sdk import Indivisible

replies = _milvus_wire.replies()

# What of a result's extra counts something, and so is the whole request's.
_COUNTS = frozenset(("cost", "scanned_remote_bytes", "scanned_total_bytes"))


def search_result(reply: bytes, round_decimal: Any, hybrid: bool = False) -> Any:
    """What the handler makes of a reply; raises what it raises for a status that is not success."""
    if replies is not None:
        result = replies.search(reply, round_decimal, not hybrid)
        if result is not None:
            return result
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


def search_results(reply: bytes, round_decimal: Any, searches: int) -> Any:
    """A result for each of several searches that went as one; None in place of one in doubt."""
    results = None if replies is None else replies.split(reply, round_decimal, searches)
    if results is None:
        check_status(milvus_pb2.SearchResults.FromString(reply).status)
        raise Indivisible
    return results


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
    """As the handler's query() returns it, or raises."""
    if replies is not None:
        result = replies.query(reply, strict_float32)
        if result is not None:
            return result
    response = milvus_pb2.QueryResults.FromString(reply)
    return drive(_raw_query(_ReplyHandler(response), "", "", [], strict_float32=strict_float32))


def rows_of(result: Any, primary: str, calls: list[tuple[Any, ...]]) -> list[Any]:
    """
    The result of a query for all these keys, backwards, as one for each call's. Of the counts in
    extra each gets an equal share.
    """
    extra = {
        name: value // len(calls) if type(value) is int and name in _COUNTS else value
        for name, value in result.extra.items()
    }
    rows: dict[Any, list[Any]] = {key: [] for keys in calls for key in keys}
    found = []
    for row in result.materialize():
        if row.get(primary) not in rows:
            raise Indivisible
        found.append(row[primary])
        rows[found[-1]].append(row)
    # Else nobody knows in which order the rows of one call would have come.
    if found != sorted(found) and any(len(keys) > 1 for keys in calls):
        raise Indivisible
    parts = []
    taken: set[Any] = set()
    for keys in calls:
        own = []
        for key in sorted(set(keys)):
            # Whoever asks for the same row gets one of its own.
            own += copy.deepcopy(rows[key]) if key in taken else rows[key]
        taken.update(keys)
        parts.append(HybridExtraList([], own, extra=extra, dynamic_fields=result._dynamic_fields))
    return parts
