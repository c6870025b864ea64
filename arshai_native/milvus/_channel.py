"""A channel for pymilvus's handler over the native engine: what grpc.aio's channel is to it.

Errors are grpc's own (AioRpcError), so that pymilvus retries, maps and words them as ever.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import grpc
from grpc._cython import cygrpc
from grpc.aio import AioRpcError, ClientCallDetails, Metadata
from pymilvus.client import async_interceptor

from arshai_native import _core

_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Seconds: see NativeChannel._exchange().
_NEAR = 0.05
_LATER = 0.01
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXIES = ("no_grpc_proxy", "no_proxy")
_PORTS = {False: 80, True: 443}  # as grpc's, of an address without one

# What pymilvus sets itself, or what the engine does anyway.
_IGNORED = frozenset(
    (
        "grpc.enable_retries",
        "grpc.keepalive_permit_without_calls",
        "grpc.http2.max_pings_without_data",
        "grpc.max_send_message_length",
        "grpc.max_metadata_size",
        "grpc.enable_http_proxy",
    )
)
_OPTIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "grpc.max_receive_message_length": ("max_receive", int),
    "grpc.keepalive_time_ms": ("keepalive", lambda ms: ms / 1000),
    "grpc.keepalive_timeout_ms": ("keepalive_timeout", lambda ms: ms / 1000),
    "grpc.primary_user_agent": ("user_agent", str),
    "grpc.default_authority": ("authority", str),
}


class NativeChannel(grpc.aio.Channel):
    """Unary calls over _core.GrpcChannel. Serves any number of event loops and threads."""

    def __init__(self, target: str, core: _core.GrpcChannel) -> None:
        self.target = target
        self._core = core
        self._unary_unary_interceptors: list[Any] = []
        self._added: tuple[int, tuple[tuple[str, str | bytes], ...] | None] = (0, ())
        self._under_way = 0
        self._answered = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.target}{' closed' if self._closed else ''}>"

    # ---- calls ----

    async def send(
        self,
        method: str,
        message: bytes,
        timeout: float | None = None,
        metadata: tuple[tuple[str, str | bytes], ...] = (),
        wait_for_ready: bool = False,
    ) -> bytes:
        """One call: the reply's bytes, or grpc's AioRpcError."""
        if self._closed:
            raise cygrpc.UsageError("Channel is closed.")
        reply: bytes = await self.outcome(
            self._core.unary(method, message, timeout, metadata, wait_for_ready)
        )
        return reply

    async def outcome(self, request: Awaitable[Any]) -> Any:
        """That of a request of the core's: the same with grpc's AioRpcError."""
        # No lock: between reading and writing an attribute CPython does not change threads.
        self._under_way += 1
        try:
            reply = await request
        except _core.GrpcError as error:
            raise self.error_of(error) from None
        finally:
            self._under_way -= 1
        self._answered = True
        return reply

    def error_of(self, error: _core.GrpcError) -> AioRpcError:
        """The exception that grpc.aio raises. It knows its channel: see _connection.py."""
        code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
        result = AioRpcError(
            code,
            Metadata(),
            Metadata(*error.metadata),
            details=error.details,
            debug_error_string=f"{code.name}:{error.details}" if error.details else code.name,
        )
        result._arn_channel = self  # type: ignore[attr-defined]
        return result

    def added_metadata(self) -> tuple[tuple[str, str | bytes], ...] | None:
        """
        What the interceptors add to every call, None if they do anything else.

        pymilvus has no others than those that add headers, to which it only ever appends more.
        """
        return self.added()[1]

    def added(self) -> tuple[int, tuple[tuple[str, str | bytes], ...] | None]:
        """added_metadata(), and the number of interceptors that it is of."""
        added = self._added
        interceptors = self._unary_unary_interceptors
        if added[0] != len(interceptors):
            interceptors = list(interceptors)
            added = self._added = (len(interceptors), _headers_of(interceptors))
        return added

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        def call(
            request: Any,
            *,
            timeout: float | None = None,
            metadata: Any = None,
            credentials: Any = None,
            wait_for_ready: bool | None = None,
            compression: Any = None,
        ) -> NativeCall:
            if credentials is not None:
                raise cygrpc.UsageError("Call credentials are not supported by this channel.")
            details = ClientCallDetails(
                method, timeout, tuple(metadata or ()), credentials, wait_for_ready
            )

            async def last(details: ClientCallDetails, request: Any) -> NativeCall:
                return NativeCall(
                    self._exchange(details, request, request_serializer, response_deserializer)
                )

            interceptors = self._unary_unary_interceptors
            if not interceptors:
                return NativeCall(
                    self._exchange(details, request, request_serializer, response_deserializer)
                )
            return NativeCall(_intercepted(list(interceptors), last, details, request))

        return call

    async def _exchange(
        self, details: ClientCallDetails, request: Any, serialize: Any, deserialize: Any
    ) -> Any:
        message = serialize(request) if serialize is not None else request
        method = details.method
        if isinstance(method, bytes):
            method = method.decode("ascii")
        metadata = tuple(details.metadata or ())
        started = time.monotonic()
        try:
            reply = await self.send(
                method, message, details.timeout, metadata, bool(details.wait_for_ready)
            )
        except AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and details.timeout is not None:
                # pymilvus waits for as long itself, and is to be the first to notice, as it is
                # with grpc, whose deadline is that of a call that begins a little later.
                left = started + details.timeout - time.monotonic()
                await asyncio.sleep(max(left, 0) + _LATER if left < _NEAR else 0)
            raise
        return deserialize(reply) if deserialize is not None else reply

    def _streams(self, method: str, *_: Any, **__: Any) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(f"{method}: this channel makes unary calls only")

        return call

    unary_stream = stream_unary = stream_stream = _streams

    # ---- life ----

    async def channel_ready(self) -> None:
        """Waits until the server answers, however long that takes, as grpc.aio's does."""
        while not self._closed:
            try:
                await self._core.ready(None)
            except _core.GrpcError:
                await asyncio.sleep(0.1)
                continue
            self._answered = True
            return
        raise cygrpc.UsageError("Channel is closed.")

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self._answered:
            return grpc.ChannelConnectivity.READY
        return grpc.ChannelConnectivity.IDLE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        while self.get_state() == last_observed_state:
            await asyncio.sleep(0.05)

    async def close(self, grace: float | None = None) -> None:
        """No more calls; those under way have until grace is over."""
        self._closed = True
        if grace:
            end = time.monotonic() + grace
            while self._under_way and time.monotonic() < end:
                await asyncio.sleep(0.05)
        self._core.close()

    async def __aenter__(self) -> NativeChannel:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()


class NativeCall:
    """A call as grpc.aio hands it out: awaited for the response, asked for its status."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine: Coroutine[Any, Any, Any] | None = coroutine
        self._task: asyncio.Future[Any] | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._task is None:
            # The first and usually only one who waits needs no task for it.
            if self._coroutine is None:
                raise cygrpc.UsageError("The call has been awaited.")
            coroutine, self._coroutine = self._coroutine, None
            return coroutine.__await__()
        return self._task.__await__()

    def _started(self) -> asyncio.Future[Any]:
        if self._task is None:
            if self._coroutine is None:
                raise cygrpc.UsageError("The call has been awaited.")
            self._task = asyncio.ensure_future(self._coroutine)
            self._coroutine = None
        return self._task

    async def _error(self) -> AioRpcError | None:
        try:
            await self._started()
        except AioRpcError as error:
            return error
        return None

    async def code(self) -> grpc.StatusCode:
        error = await self._error()
        return grpc.StatusCode.OK if error is None else error.code()

    async def details(self) -> str | None:
        error = await self._error()
        return "" if error is None else error.details()

    async def initial_metadata(self) -> Metadata:
        return Metadata()

    async def trailing_metadata(self) -> Metadata:
        error = await self._error()
        return Metadata() if error is None else error.trailing_metadata()

    async def wait_for_connection(self) -> None:
        await self._error()

    def cancel(self) -> bool:
        return self._started().cancel()

    def cancelled(self) -> bool:
        return self._task is not None and self._task.cancelled()

    def done(self) -> bool:
        return self._task is not None and self._task.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._started().add_done_callback(lambda _: callback(self))


async def _intercepted(
    interceptors: list[Any], last: Any, details: ClientCallDetails, request: Any
) -> Any:
    async def continuation(details: ClientCallDetails, request: Any, index: int = 0) -> Any:
        if index == len(interceptors):
            return await last(details, request)
        return await interceptors[index].intercept_unary_unary(
            lambda details, request: continuation(details, request, index + 1), details, request
        )

    result = await continuation(details, request)
    return await result if hasattr(result, "__await__") else result


_ADDER = async_interceptor._GenericAsyncClientInterceptor
_ADDER_CODE = async_interceptor.async_header_adder_interceptor([], [])._fn.__code__


def _headers_of(interceptors: list[Any]) -> tuple[tuple[str, str | bytes], ...] | None:
    added: list[tuple[str, str | bytes]] = []
    for interceptor in interceptors:
        if type(interceptor) is not _ADDER or interceptor._fn.__code__ is not _ADDER_CODE:
            return None
        details, _ = interceptor._fn(ClientCallDetails("", None, None, None, None), None)
        added.extend(details.metadata)
    return tuple(added)


# ---- making one ----


def native_channel(
    address: str, options: dict[str, Any], tls: dict[str, Any] | None
) -> NativeChannel | None:
    """
    A channel to an address as pymilvus gives it to grpc; None if grpc's own has to serve it:
    an option that the engine does not know, a proxy, a scheme of grpc's name resolution.
    """
    target = _target_of(address, tls is not None)
    if target is None or ("host" in target and _has_proxy(target["host"], options)):
        return None
    arguments: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(name, bytes):  # as grpc's own names of them are
            name = name.decode("ascii", "replace")
        if name in _IGNORED:
            continue
        if name not in _OPTIONS:
            return None
        key, convert = _OPTIONS[name]
        arguments[key] = convert(value)
    if tls is not None and tls.get("server_name"):
        arguments.setdefault("authority", tls["server_name"])
    core = _core.GrpcChannel(**target, tls=tls, **arguments)
    return NativeChannel(address, core)


def _target_of(address: str, secure: bool) -> dict[str, Any] | None:
    """Of host:port, [host]:port, unix:path, unix:///path."""
    if address.startswith("unix:"):
        path = address[len("unix:") :]
        if path.startswith("//"):
            path = path[2:]
            if not path.startswith("/"):
                return None
        return {"path": path} if path else None
    if "/" in address:
        return None
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    elif address.count(":") == 1:
        host, port = address.split(":")
    elif ":" in address:
        # pymilvus writes an IPv6 address without its brackets in front of the port.
        host, _, port = address.rpartition(":")
    else:
        host, port = address, ""
    if port and not port.isascii():
        return None
    if port and not port.isdigit():
        return None
    number = int(port) if port else _PORTS[secure]
    return {"host": host, "port": number} if host and 0 < number < 65536 else None


def _has_proxy(host: str, options: dict[str, Any]) -> bool:
    """Whether grpc would go through a proxy."""
    if options.get("grpc.enable_http_proxy", 1) in (0, False):
        return False
    if not any(os.environ.get(name) for name in _PROXIES):
        return False
    excluded = next(filter(None, map(os.environ.get, _NO_PROXIES)), "")
    return not proxy_bypass_environment(host, {"no": excluded})
