"""Streams of the fast path: instances of the SDK's AsyncStream whose items come from C."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from openai import APIConnectionError, APIError, APITimeoutError, AsyncStream
from openai._streaming import ServerSentEvent
from openai._utils import is_mapping

from arshai_native import _core

from ._calls import request_of, response_of
from ._sdk import httpx, wraps_stream_errors
from ._transport import TIMEOUTS, error_of

_T = TypeVar("_T")


class _Body(httpx.AsyncByteStream):  # type: ignore[misc]
    """The body of a stream's response, for who reads that instead of the stream."""

    def __init__(self, stream: NativeStream[Any]) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while events := await self._stream._read_events():
            for event, data, ident, retry in events:
                lines = []
                if event is not None:
                    lines.append(f"event: {event}")
                if ident is not None:
                    lines.append(f"id: {ident}")
                if retry is not None:
                    lines.append(f"retry: {retry}")
                lines += [f"data: {line}" for line in data.split("\n")]
                yield "\n".join([*lines, "", ""]).encode()

    async def aclose(self) -> None:
        self._stream._give_up()


class NativeStream(_core.OpenAIStream, AsyncStream[_T], Generic[_T]):  # type: ignore[misc]
    """
    openai.AsyncStream with its items made in C.

    `response` is the httpx.Response with status and headers. Its body, if somebody reads that
    instead, is put together again from the events.
    """

    def __init__(
        self, client: Any, call: _core.OpenAICall, body: bytes, reply: _core.HttpResponse
    ) -> None:
        recipe = call.recipe
        super().__init__(reply, recipe.chunk_plan)
        self._client = client
        self._cast_to = recipe.chunk
        self._options = call.options
        self._parts = (call, body, reply)
        self._response: Any = None

    if not TYPE_CHECKING:  # type checkers see the SDK's attributes

        @property
        def response(self) -> Any:
            response = self._response
            if response is None:
                call, body, reply = self._parts
                request = request_of(call, body, reply.retries, reply.url)
                response = self._response = response_of(reply, request, _Body(self))
            return response

        @property
        def _iterator(self) -> AsyncIterator[_T]:
            return self

        @property
        def _decoder(self) -> Any:
            return self._client._make_sse_decoder()

    async def _iter_events(self) -> AsyncIterator[ServerSentEvent]:
        while events := await self._read_events():
            for event, data, ident, retry in events:
                yield ServerSentEvent(event=event, data=data, id=ident, retry=retry)

    async def close(self) -> None:
        """Closes the response and its connection, unless it has been read to its end."""
        self._give_up()
        if self._response is not None:
            await self._response.aclose()

    def _item_of(self, event: str | None, data: str) -> Any:
        """An event that is no plain object, or that tells of an error, as the SDK takes it."""
        sse = ServerSentEvent(event=event, data=data)
        is_thread = event is not None and event.startswith("thread.")
        content = sse.json()
        told = is_mapping(content) and content.get("error")
        if told and not is_thread:
            message = told.get("message") if is_mapping(told) else None
            if not message or not isinstance(message, str):
                message = "An error occurred during streaming"
            raise APIError(message=message, request=self.response.request, body=told)
        if is_thread:
            content = {"data": content, "event": event}
        return self._client._process_response_data(
            data=content, cast_to=self._cast_to, response=self.response
        )

    def _failure_of(self, error: _core.HttpError) -> Exception:
        request = self.response.request
        cause = error_of(error, request)
        cause.__cause__ = error
        if not wraps_stream_errors:
            return cause
        kind = APITimeoutError if error.kind in TIMEOUTS else APIConnectionError
        wrapped = kind(request=request)
        wrapped.__cause__ = cause
        return wrapped


def open_stream(
    client: Any, call: _core.OpenAICall, body: bytes, reply: _core.HttpResponse
) -> NativeStream[Any]:
    """The stream of a call whose response begins well."""
    return NativeStream(client, call, body, reply)
