"""The SDK's HTTP client on the native engine: every request that has no shorter way goes here."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

from arshai_native import _core

from ._sdk import base, constants, httpx

# Names that the engine, or the connection, has to decide about itself.
_OWN_HEADERS = frozenset((b"content-length", b"transfer-encoding", b"connection"))


def _errors() -> dict[str, type[Exception]]:
    return {
        "dns": httpx.ConnectError,
        "connect": httpx.ConnectError,
        "tls": httpx.ConnectError,
        "connect_timeout": httpx.ConnectTimeout,
        "pool_timeout": httpx.PoolTimeout,
        "write_timeout": httpx.WriteTimeout,
        "read_timeout": httpx.ReadTimeout,
        "total_timeout": httpx.ReadTimeout,
        "proxy": httpx.ProxyError,
        "protocol": httpx.RemoteProtocolError,
        "read": httpx.ReadError,
        "write": httpx.WriteError,
        "url": httpx.UnsupportedProtocol,
        "closed": httpx.ReadError,
    }


_ERRORS = _errors()
TIMEOUTS = frozenset(
    ("connect_timeout", "pool_timeout", "write_timeout", "read_timeout", "total_timeout")
)


def error_of(error: _core.HttpError, request: Any) -> Exception:
    """The exception of httpx that says the same; its cause is for the caller to set."""
    if error.kind == "memory":
        return MemoryError(str(error))
    return _ERRORS.get(error.kind, httpx.TransportError)(str(error), request=request)


class Body(httpx.AsyncByteStream):  # type: ignore[misc]
    """What is still to come of a response."""

    def __init__(self, response: _core.HttpResponse, request: Any) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        response = self._response
        while True:
            try:
                chunk = await response.read()
            except _core.HttpError as error:
                raise error_of(error, self._request) from error
            if not chunk:
                return
            yield chunk

    async def aclose(self) -> None:
        self._response.close_stream()


def _reads_files(stream: Any) -> bool:
    """Whether reading the parts of a multipart body may have to wait for a disk."""
    return any(
        not isinstance(getattr(field, "file", b""), (str, bytes, io.BytesIO, io.StringIO))
        for field in getattr(stream, "fields", ())
    )


async def _body_of(request: Any) -> bytes | None:
    stream = request.stream
    if isinstance(stream, httpx.ByteStream):
        return b"".join(stream) if "content-length" in request.headers else None
    if isinstance(stream, httpx.SyncByteStream):
        # A multipart form: to httpx an asynchronous stream too, but it reads its files in place.
        if _reads_files(stream):
            return await asyncio.to_thread(b"".join, stream)
        return b"".join(stream)
    return b"".join([chunk async for chunk in stream])


def headers_of(request: Any) -> list[tuple[str, str]]:
    """A request's headers for the engine, which writes those that are its own itself."""
    netloc = request.url.netloc
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in request.headers.raw
        if (lower := name.lower()) not in _OWN_HEADERS and (lower != b"host" or value != netloc)
    ]


class NativeTransport(httpx.AsyncBaseTransport):  # type: ignore[misc]
    """
    A transport for httpx.AsyncClient whose connections belong to no event loop.

    Proxies and certificates that the environment names are the engine's to use. options: see
    _core.HttpClient.
    """

    def __init__(self, **options: Any) -> None:
        self.engine = _core.HttpClient(**options)

    async def handle_async_request(self, request: Any) -> Any:
        """Sends one request, as it is: redirects, retries and decoding are the callers'."""
        extensions = request.extensions
        timeout = extensions.get("timeout", {})
        streamed = extensions.get(STREAMED, True)
        body = await _body_of(request)
        try:
            response = await self.engine.request(
                request.method,
                str(request.url),
                headers_of(request),
                body,
                mode=_core.HTTP_STREAM if streamed else _core.HTTP_BODY,
                connect_timeout=timeout.get("connect"),
                read_timeout=timeout.get("read"),
                write_timeout=timeout.get("write"),
                pool_timeout=timeout.get("pool"),
                max_retries=0,
                decompress=False,
                follow_redirects=False,
            )
        except _core.HttpError as error:
            raise error_of(error, request) from error
        except ValueError as error:  # a header that cannot be sent
            raise httpx.LocalProtocolError(str(error), request=request) from error
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=Body(response, request) if streamed else httpx.ByteStream(response.body),
            extensions={
                "http_version": response.http_version.encode("ascii"),
                "reason_phrase": response.reason.encode("latin-1", "replace"),
            },
        )

    async def aclose(self) -> None:
        """Closes the connections; requests under way end with an error."""
        self.engine.close()


# In a request's extensions: False if its response is wanted whole.
STREAMED = "arshai_native.streamed"


class NativeHttpClient(base.AsyncHttpxClientWrapper):  # type: ignore[misc]
    """
    The httpx.AsyncClient of a native client, with the SDK's defaults, on NativeTransport.

    options: see _core.HttpClient.
    """

    def __init__(self, **options: Any) -> None:
        limits = constants.DEFAULT_CONNECTION_LIMITS
        options.setdefault("max_connections", limits.max_connections)
        options.setdefault("max_keepalive", limits.max_keepalive_connections)
        self.native = NativeTransport(**options)
        super().__init__(transport=self.native, trust_env=False)

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        request.extensions[STREAMED] = stream
        return await super().send(request, stream=stream, **options)

    def __del__(self) -> None:
        pass  # the engine closes its connections when it goes; no event loop is needed for it
