"""What a call in C is made of: asked of the SDK once, then kept.

A method of a resource says what it sends when it is called with a marker for each argument
(recipe_of). The client says which URL and headers that has (prepare). Both are the SDK's own code,
so that nothing of it stands here twice. As soon as somebody has put their own code into that path,
or an argument is unusual, the call is the SDK's (see eligible).
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
from openai import APIConnectionError, APITimeoutError, NotGiven
from openai._legacy_response import HttpxBinaryResponseContent
from openai._models import BaseModel, FinalRequestOptions
from openai._streaming import extract_stream_chunk_type

from arshai_native import _core
from arshai_native._original import drive, is_from

from ._plan import plan_of
from ._sdk import MAJOR as MAJOR
from ._sdk import MAX_RETRY_AFTER, REFUSE_LONGER, base, httpx
from ._transport import TIMEOUTS, NativeHttpClient, error_of, headers_of

_SDK = os.path.join(str(Path(openai.__file__).parent), "")
_HTTPX = os.path.join(str(Path(httpx.__file__).parent), "")

_UNUSUAL = frozenset(("extra_headers", "extra_query", "extra_body", "timeout"))
_RETRY_COUNT = "x-stainless-retry-count"
# Headers by which the SDK's wrappers ask for something other than the result.
_WRAPPER_HEADERS = frozenset((base.RAW_RESPONSE_HEADER.lower(), base.OVERRIDE_CAST_TO_HEADER))

# Everything of a client that has a say in a request or its result.
_HOOKS = (
    "request", "post", "_build_request", "_build_headers", "_prepare_options", "_prepare_request",
    "_prepare_url", "_send_request", "_send_with_auth_retry", "_process_response",
    "_process_response_data", "_should_stream_response_body", "_maybe_override_cast_to",
    "_make_status_error", "_make_status_error_from_response", "_make_sse_decoder",
    "_should_retry", "_sleep_for_retry", "_calculate_retry_timeout", "_parse_retry_after_header",
    "_retry_request", "_idempotency_key", "_validate_headers", "_refresh_api_key",
    "_get_azure_ad_token", "_auth_headers", "_auth_query", "_custom_auth", "_bearer_auth",
    "_admin_api_key_auth", "auth_headers", "custom_auth", "default_headers", "default_query",
    "platform_headers", "user_agent", "base_url", "qs",
)  # fmt: skip
# What, if a client has it, makes each request another one.
_PROVIDERS = (
    "_api_key_provider", "_azure_ad_token_provider", "_provider", "_provider_runtime",
    "workload_identity", "_workload_identity_auth", "_idempotency_header",
)  # fmt: skip
_HTTP_HOOKS = ("send", "build_request", "_send_handling_auth", "_send_single_request")


def _is_original(owner: type, names: tuple[str, ...], *folders: str) -> bool:
    """Whether all of these methods are where the package put them."""
    return all(
        any(is_from(value, folder) for folder in folders)
        for name in names
        if (value := inspect.getattr_static(owner, name, None)) is not None
    )


# ---- recipes ----


class Recipe:
    """
    What a method of the SDK sends.

    path: of the request.
    order: names of the arguments that are members of its body, in that order.
    required: names of arguments that must be given.
    cast_to, chunk: types of the result and of a stream's items; chunk None: it does not stream.
    plan, chunk_plan: how they are made in C; None: by the SDK.
    options: the method's own request options, when a format was asked for and when not.
    base64: embeddings, which are asked for as base64 unless the caller names a format.
    """

    __slots__ = (
        "path", "order", "required", "cast_to", "chunk", "options", "base64", "plan", "chunk_plan",
    )  # fmt: skip

    def __init__(self, peer: type, name: str) -> None:
        function = getattr(peer, name)
        parameters = inspect.signature(function).parameters
        names = [each for each in list(parameters)[1:] if each not in _UNUSUAL]
        signature = [parameters[each] for each in names]
        self.required = tuple(
            each.name for each in signature if each.default is inspect.Parameter.empty
        )
        sent = _sent_by(peer, function, {each: f"\0{each}" for each in names})
        least = _sent_by(peer, function, {each: f"\0{each}" for each in self.required})
        body = sent["body"]
        if any(value != f"\0{key}" for key, value in body.items()) or set(body) != set(names):
            raise LookupError("an argument is sent as something else")
        extra = {
            key: value
            for key, value in least["body"].items()
            if key not in self.required and not isinstance(value, (NotGiven, openai.Omit))
        }
        self.base64 = extra == {"encoding_format": "base64"}
        if (extra and not self.base64) or sent["path"] != least["path"] or sent.get("files"):
            raise LookupError("something else is sent")
        self.path = sent["path"]
        self.order = tuple(body)
        self.cast_to = sent["cast_to"]
        self.options = (sent["options"], least["options"])
        streams = sent.get("stream_cls")
        self.chunk = None if streams is None else extract_stream_chunk_type(streams)
        is_model = isinstance(self.cast_to, type) and issubclass(self.cast_to, BaseModel)
        self.plan = plan_of(self.cast_to) if is_model else None
        self.chunk_plan = None if self.chunk is None else plan_of(self.chunk)


def _sent_by(peer: type, function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    sent: dict[str, Any] = {}

    async def post(path: str, **options: Any) -> None:
        sent.update(options, path=path)

    resource: Any = object.__new__(peer)
    resource._post = post
    drive(function(resource, **arguments))
    return sent


def recipe_of(peer: type, name: str) -> Recipe | None:
    """The recipe of a method, None if it is not the SDK's or not of the simple kind."""
    function = inspect.getattr_static(peer, name)
    inner = getattr(function, "__wrapped__", function)
    if not is_from(function, _SDK) or not is_from(inner, _SDK):
        return None
    try:
        recipe = Recipe(peer, name)
    except (LookupError, TypeError, AttributeError, KeyError):
        return None
    cast_to = recipe.cast_to
    if not isinstance(cast_to, type):
        return None
    return recipe if issubclass(cast_to, (BaseModel, HttpxBinaryResponseContent)) else None


# ---- a client's requests ----


# The level of the SDK's lines that only its own path writes. What is there at INFO, retries, calls
# in C tell of themselves; but who sets OPENAI_LOG wants the SDK's words.
LOG_LEVEL = logging.INFO if os.environ.get("OPENAI_LOG") == "info" else logging.DEBUG


def wants_log() -> bool:
    """
    Whether somebody has asked for those lines: has set the level of one of the SDK's loggers, as
    OPENAI_LOG does, or that of the root logger, for the lines of the whole program.

    NOTSET of the root logger is nobody's wish and counts as WARNING, which it begins with: a
    library that directs all logging elsewhere leaves it so.
    """
    logger: logging.Logger = base.log
    while logger.level == logging.NOTSET and logger.parent is not None:
        logger = logger.parent
    return logging.NOTSET < logger.level <= LOG_LEVEL


def retried(call: _core.OpenAICall, retries: int) -> None:
    """Tells of a request that took more than one attempt, when it is over."""
    base.log.info("Request to %s was retried %d times", call.options.url, retries)


@functools.cache
def _platform() -> Any:
    return base.get_platform()


@functools.cache
def _default_encodings() -> str:
    return str(httpx.AsyncClient(transport=httpx.AsyncBaseTransport()).headers["accept-encoding"])


class _Asyncio:
    """Within it the SDK believes that asyncio runs, as it will when the request is sent."""

    def __enter__(self) -> None:
        import sniffio

        self._local = sniffio.thread_local
        self._before, self._local.name = self._local.name, "asyncio"

    def __exit__(self, *_: object) -> None:
        self._local.name = self._before


def eligible(client: Any) -> bool:
    """Whether a client's requests are none but the SDK's own doing."""
    http = client._client
    own = vars(client)
    return (
        type(http) is NativeHttpClient
        and not http.is_closed
        and not client._strict_response_validation
        and isinstance(client.max_retries, int)
        and not any(own.get(name) for name in _PROVIDERS)
        and not any(name in own for name in _HOOKS)
        and _is_original(type(client), _HOOKS, _SDK)
        and _is_original(httpx.AsyncClient, _HTTP_HOOKS, _HTTPX)
        and not any(
            not is_from(hook, _SDK) for hooks in http.event_hooks.values() for hook in hooks
        )
    )


def prepare(
    client: Any,
    recipe: Recipe,
    defaulted: bool,
    model: Any,
    extra_headers: dict[str, str] | None,
    timeout: Any,
) -> _core.OpenAICall | None:
    """
    Everything of a request that does not depend on its body, None if the SDK must build it.

    defaulted: no format of embeddings was named. timeout: the class NotGiven for the client's own.
    """
    if not eligible(client):
        return None
    if client._platform is None:
        client._platform = _platform()
    own = dict(recipe.options[defaulted])
    if extra_headers:
        if any(name.lower() in _WRAPPER_HEADERS for name in extra_headers):
            return None
        own["headers"] = {**own.get("headers", {}), **extra_headers}
    if timeout is not NotGiven:
        own["timeout"] = timeout
    options = FinalRequestOptions.construct(
        method="post", url=recipe.path, json_data={"model": model}, **own
    )
    try:
        with _Asyncio():
            options = drive(client._prepare_options(options))
            request = client._build_request(options)
    except LookupError:
        return None
    if request.url.userinfo or client.custom_auth is not None:
        return None
    headers = [(name, value) for name, value in headers_of(request) if name.lower() != "cookie"]
    if request.headers.get("accept-encoding") == _default_encodings():
        # Then the engine asks for what it can undo.
        headers = [pair for pair in headers if pair[0].lower() != "accept-encoding"]
        decompress = True
    elif request.headers.get("accept-encoding", "identity") == "identity":
        decompress = False
    else:
        return None
    limits = request.extensions["timeout"]
    return _core.OpenAICall(
        client._client.native.engine,
        "POST",
        str(request.url),
        _core.HttpHeaders(headers),
        connect_timeout=limits.get("connect"),
        read_timeout=limits.get("read"),
        write_timeout=limits.get("write"),
        pool_timeout=limits.get("pool"),
        max_retries=min(max(options.get_max_retries(client.max_retries), 0), 2**31 - 1),
        max_retry_after=MAX_RETRY_AFTER,
        refuse_longer=REFUSE_LONGER,
        counts_retries=_counts_retries(options, request),
        decompress=decompress,
        model=model if isinstance(client, openai.AsyncAzureOpenAI) else None,
        request=request,
        options=options,
        recipe=recipe,
    )


def _counts_retries(options: Any, request: Any) -> bool:
    """Not with a count that the call itself has brought along: the SDK leaves that."""
    own = options.headers or {}
    return _RETRY_COUNT in request.headers and not any(n.lower() == _RETRY_COUNT for n in own)


# ---- results that are not the usual ones ----


def request_of(call: _core.OpenAICall, body: bytes, retries: int = 0, url: str = "") -> Any:
    """The request of a call as httpx would have sent it."""
    first = call.request
    headers = [
        (name, value) for name, value in first.headers.raw if name.lower() != b"content-length"
    ]
    request = httpx.Request(
        first.method, url or first.url, headers=headers, content=body, extensions=first.extensions
    )
    if retries and _counts_retries(call.options, first):
        request.headers[_RETRY_COUNT] = str(retries)
    return request


def response_of(response: _core.HttpResponse, request: Any, stream: Any = None) -> Any:
    """A response of httpx; its body is there unless a stream is given."""
    head = httpx.Headers(response.headers)
    plain = head.copy()
    plain.pop("content-encoding", None)  # the engine has undone it
    content = {"content": response.body} if stream is None else {"stream": stream}
    result = httpx.Response(
        response.status,
        headers=plain,
        request=request,
        extensions={
            "http_version": response.http_version.encode("ascii"),
            "reason_phrase": response.reason.encode("latin-1", "replace"),
        },
        **content,
    )
    result.headers = head
    result.elapsed = timedelta(seconds=response.elapsed)
    return result


def settle(client: Any, call: _core.OpenAICall, body: bytes, response: _core.HttpResponse) -> Any:
    """The result of a call as the SDK makes it of the response; raises what the SDK raises."""
    request = request_of(call, body, response.retries, response.url)
    http = response_of(response, request)
    if not http.is_success:
        raise client._make_status_error_from_response(http) from None
    recipe = call.recipe
    return drive(
        client._process_response(
            cast_to=recipe.cast_to,
            options=call.options,
            response=http,
            stream=False,
            stream_cls=None,
            retries_taken=response.retries,
        )
    )


def failure(call: _core.OpenAICall, body: bytes, error: _core.HttpError) -> Exception:
    """The exception that the SDK raises when a request got no response."""
    request = request_of(call, body)
    cause = error_of(error, request)
    cause.__cause__ = error
    kind = APITimeoutError if error.kind in TIMEOUTS else APIConnectionError
    result = kind(request=request)
    result.__cause__ = cause
    return result
