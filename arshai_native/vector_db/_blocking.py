"""A synchronous grpc channel over the native engine, for pymilvus's synchronous handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from grpc._cython import cygrpc

from arshai_native import _core
from arshai_native.milvus._channel import NativeChannel


def send(
    native: NativeChannel,
    method: str,
    message: bytes,
    timeout: float | None = None,
    metadata: tuple[tuple[str, str | bytes], ...] = (),
    wait_for_ready: bool = False,
) -> bytes:
    """NativeChannel.send() that blocks the calling thread."""
    if native._closed:
        raise cygrpc.UsageError("Channel is closed.")
    try:
        return native._core.unary_sync(method, message, timeout, metadata, wait_for_ready)
    except _core.GrpcError as error:
        raise native.error_of(error) from None


class BlockingChannel(grpc.Channel):
    """
    Unary calls that block the calling thread, without the GIL, over a NativeChannel's connections.

    Closing it does nothing: the connections are the other one's.
    """

    def __init__(self, native: NativeChannel) -> None:
        self._native = native

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._native.target}>"

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return _Call(self._native, method, request_serializer, response_deserializer)

    def _streams(self, method: str, *_: Any, **__: Any) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(f"{method}: this channel makes unary calls only")

        return call

    unary_stream = stream_unary = stream_stream = _streams

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        pass

    def unsubscribe(self, callback: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> BlockingChannel:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


class _Call(grpc.UnaryUnaryMultiCallable):
    def __init__(
        self, native: NativeChannel, method: str, serialize: Any, deserialize: Any
    ) -> None:
        self._native = native
        self._method = method
        self._serialize = serialize
        self._deserialize = deserialize

    def _send(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        message = request if self._serialize is None else self._serialize(request)
        reply = send(
            self._native, self._method, message, timeout, tuple(metadata or ()),
            bool(wait_for_ready),
        )  # fmt: skip
        return reply if self._deserialize is None else self._deserialize(reply)

    def __call__(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return self._send(request, *args, **kwargs)

    def with_call(self, request: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        answered = _Answered(self._send(request, *args, **kwargs), None)
        return answered.result(), answered

    def future(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        # pymilvus asks for the result at once.
        try:
            return _Answered(self._send(request, *args, **kwargs), None)
        except grpc.RpcError as error:
            return _Answered(None, error)


class _Answered:
    """A call that is over."""

    def __init__(self, response: Any, error: Any) -> None:
        self._response = response
        self._error = error

    def result(self, timeout: float | None = None) -> Any:
        if self._error is not None:
            raise self._error
        return self._response

    def exception(self, timeout: float | None = None) -> Any:
        return self._error

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK if self._error is None else self._error.code()

    def details(self) -> str | None:
        return "" if self._error is None else self._error.details()

    def initial_metadata(self) -> tuple[Any, ...]:
        return ()

    def trailing_metadata(self) -> tuple[Any, ...]:
        return ()

    def done(self) -> bool:
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False
