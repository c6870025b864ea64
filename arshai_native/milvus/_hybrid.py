"""hybrid_search: the templates of its searches within the template of the whole."""

from __future__ import annotations

import copy
from typing import Any

from pymilvus.client.abstract import AnnSearchRequest, BaseRanker, RRFRanker, WeightedRanker

from arshai_native import _core

from . import _sdk, _wire
from ._sdk import PEER, SERVICE
from ._search import (
    Unencodable,
    encoded,
    first_channel,
    follows_writes,
    is_bytes,
    is_timeout,
    last_write,
    metadata_of,
    native_channel_of,
    split_options,
    vector_type_of,
)
from ._template import HYBRID, SEARCH, Timestamp, template

_HYBRID = SERVICE + "HybridSearch"

_watch = _sdk.watch(
    "hybrid_search",
    "hybrid_search",
    "_execute_hybrid_search",
    "_get_schema",
    prepare=(
        "search_requests_with_expr",
        "hybrid_search_request_with_ranker",
        "_prepare_placeholder_str",
    ),
    timestamps=("construct_guarantee_ts", "get_collection_ts"),
    result=True,
)


class _HybridPlan:
    __slots__ = ("head", "parts", "round_decimal", "timestamps")

    def __init__(self, captured: _sdk.Captured, options: dict[str, Any]) -> None:
        dynamic = ["guarantee_timestamp"] if follows_writes(options) else []
        self.head = template(captured.request, "requests", *dynamic)
        self.parts = [
            template(each, "nq", "placeholder_group", *dynamic)
            for each in captured.request.requests
        ]
        self.round_decimal = captured.round_decimal
        self.timestamps = None
        if dynamic:
            self.timestamps = (
                Timestamp(HYBRID.guarantee_timestamp),
                Timestamp(SEARCH.guarantee_timestamp),
            )

    def message(self, client: Any, collection: str, vectors: list[tuple[int, int, bytes]]) -> bytes:
        whole = part = b""
        if self.timestamps is not None:
            written = last_write(collection, client)
            whole, part = (each.bytes(written) for each in self.timestamps)
        searches = [
            _core.milvus_search_request(head + part, kind, count, [values])
            for head, (kind, count, values) in zip(self.parts, vectors, strict=True)
        ]
        return _core.milvus_append_messages(self.head + whole, HYBRID.requests.number, searches)


def _ranking(ranker: Any) -> Any:
    if type(ranker) not in (RRFRanker, WeightedRanker):
        raise Unencodable
    return (type(ranker).__name__, ranker.dict())


def _asked(request: Any) -> Any:
    """What of a search is not its vectors."""
    if type(request) is not AnnSearchRequest:
        raise Unencodable
    return (request.anns_field, request.param, request.limit, request.expr, request.expr_params)


async def hybrid_search(
    client: Any,
    collection: Any,
    requests: Any,
    ranker: BaseRanker,
    options: dict[str, Any],
    timeout: Any,
    kwargs: dict[str, Any],
) -> Any:
    """PEER: it is for pymilvus."""
    if (
        not _watch.intact()
        or type(collection) is not str
        or type(requests) is not list
        or not is_timeout(timeout)
    ):
        return PEER
    channel = native_channel_of(client, kwargs) or await first_channel(client, kwargs)
    if channel is None:
        return PEER
    named, apart = split_options(kwargs)
    try:
        schema = None
        vectors: list[tuple[int, int, bytes]] = []
        for request in requests:
            vector_type = 0
            if is_bytes(request.data):
                schema, vector_type = await vector_type_of(
                    client, collection, request.anns_field, timeout, kwargs
                )
            vectors.append(encoded(request.data, vector_type))
        asked = [_asked(each) for each in requests]
        key = _core.plain_key("hybrid", collection, _ranking(ranker), asked, options, named)
        if key is None:
            return PEER
        plan = client._plans.get(key)
        if plan is None:
            captured = _sdk.record(
                client, schema, "hybrid_search", collection, copy.deepcopy(requests), ranker,
                **copy.deepcopy(options | named),
            )  # fmt: skip
            if captured is None or captured.method != "HybridSearch":
                return PEER
            plan = _HybridPlan(captured, named)
            client._plans.keep(key, plan)
        metadata = metadata_of(client, channel, apart)
        message = plan.message(client, collection, vectors)
    except Exception:  # pymilvus says it in its own words
        return PEER
    begun = _sdk.begin(client)
    try:
        reply = await channel.send(_HYBRID, message, timeout, metadata)
        return _wire.search_result(reply, plan.round_decimal, True)
    except Exception as error:
        return await _sdk.replay(
            client, "hybrid_search", "hybrid_search", error, begun, timeout, collection,
            requests, ranker, **options, **kwargs,
        )  # fmt: skip
