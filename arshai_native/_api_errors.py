"""The exceptions of HTTP APIs: the SDK's own where it is installed, else their likeness.

Looked up when the first error is made. Importing openai takes half a second: in asynchronous code
it is done on a thread of its own (see load()), so that an error does not hold up the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import logging
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

logger = logging.getLogger("arshai_native")


# ---- openai's names and hierarchy, for machines without it ----


class OpenAIError(Exception):
    """Base of all of these."""


class APIError(OpenAIError):
    """
    message; body: the reply's JSON (or text, or None); code, param, type: of body if it has them.
    """

    def __init__(self, message: str, request: Any = None, *, body: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.request = request
        self.body = body
        fields = body if isinstance(body, dict) else {}
        self.code = fields.get("code")
        self.param = fields.get("param")
        self.type = fields.get("type")


class APIStatusError(APIError):
    """A reply with a status of 400 or above: status_code, request_id, response (native)."""

    def __init__(self, message: str, *, response: Any, body: Any) -> None:
        super().__init__(message, body=body)
        self.response = response
        self.status_code: int = response.status
        self.request_id: str | None = response.header("x-request-id")


class APIConnectionError(APIError):
    """No reply: __cause__ says why."""

    def __init__(self, *, message: str = "Connection error.", request: Any = None) -> None:
        super().__init__(message, request)


class APITimeoutError(APIConnectionError):
    """No reply in time."""

    def __init__(self, request: Any = None) -> None:
        super().__init__(message="Request timed out.", request=request)


class BadRequestError(APIStatusError):
    pass


class AuthenticationError(APIStatusError):
    pass


class PermissionDeniedError(APIStatusError):
    pass


class NotFoundError(APIStatusError):
    pass


class ConflictError(APIStatusError):
    pass


class UnprocessableEntityError(APIStatusError):
    pass


class RateLimitError(APIStatusError):
    pass


class InternalServerError(APIStatusError):
    pass


OPENAI_STATUS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}
OPENAI_NAMES = (
    "OpenAIError", "APIError", "APIStatusError", "APIConnectionError", "APITimeoutError",
    "InternalServerError", *OPENAI_STATUS.values(),
)  # fmt: skip


def _sdk(name: str) -> Any:
    """The module if it can be imported, else None. A broken installation is worth a line."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            logger.warning("%s cannot be imported: %s", name, error)
    except ImportError as error:
        logger.warning("%s cannot be imported: %s", name, error)
    return None


@functools.cache
def openai_exceptions() -> Any:
    """The module openai, or this one where it is not installed."""
    return _sdk("openai") or sys.modules[__name__]


@functools.cache
def _httpx() -> Any:
    """The HTTP library that openai's exceptions speak of: httpx, from 3.x on httpx2."""
    names = vars(importlib.import_module("openai._exceptions"))
    return names.get("httpx") or names["httpx2"]


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# What says how the body was sent: the body that is shown has been unpacked.
_TRANSPORT = (b"content-encoding", b"content-length", b"transfer-encoding")


def _httpx_response(response: Any, text: str, url: str, redact: Callable[[str], str]) -> Any:
    """The reply as an httpx.Response, to a request that shows no credentials."""
    httpx = _httpx()
    headers = [
        (name, redact(value.decode("latin-1")).encode("latin-1"))
        for name, value in response.headers
        if name not in _TRANSPORT
    ]
    return httpx.Response(
        response.status,
        headers=headers,
        content=text.encode("utf-8", "replace"),
        request=httpx.Request("POST", url),
    )


class OpenAIErrors:
    """Makes openai's exceptions from native replies."""

    load = staticmethod(openai_exceptions)

    @staticmethod
    def status(response: Any, body: bytes, url: str, redact: Callable[[str], str]) -> Exception:
        """The exception for a reply with a status of 400 or above."""
        module = openai_exceptions()
        text = redact(body.decode("utf-8", "replace").strip())
        document = _document(text)
        if document is text:
            message = text or f"Error code: {response.status}"
        else:
            message = f"Error code: {response.status} - {document}"
        if isinstance(document, dict):
            document = document.get("error", document)
        name = OPENAI_STATUS.get(response.status)
        if name is None:
            name = "InternalServerError" if response.status >= 500 else "APIStatusError"
        if module is not sys.modules[__name__]:
            response = _httpx_response(response, text, url, redact)
        return getattr(module, name)(message, response=response, body=document)

    @staticmethod
    def connection(error: Any, url: str) -> Exception:
        """The exception for an HttpError."""
        module = openai_exceptions()
        request = None
        if module is not sys.modules[__name__]:
            request = _httpx().Request("POST", url)
        if error.kind.endswith("timeout"):
            return module.APITimeoutError(request=request)
        return module.APIConnectionError(request=request)


# ---- voyageai's ----


class VoyageError(Exception):
    """What voyageai 0.3 raises: http_status, http_body, json_body, headers, request_id."""

    def __init__(
        self,
        message: str | None = None,
        http_body: str | None = None,
        http_status: int | None = None,
        json_body: Any = None,
        headers: dict[str, str] | None = None,
        code: Any = None,
    ) -> None:
        super().__init__(message)
        self.http_body = http_body
        self.http_status = http_status
        self.json_body = json_body
        self.headers = headers or {}
        self.code = code
        self.request_id = self.headers.get("request-id")

    @property
    def user_message(self) -> str | None:
        return self.args[0]

    def __str__(self) -> str:
        message = self.args[0] or "<empty message>"
        return message if self.request_id is None else f"Request {self.request_id}: {message}"


_VOYAGE_STATUS = {
    400: "InvalidRequestError",
    401: "AuthenticationError",
    422: "MalformedRequestError",
    429: "RateLimitError",
    500: "ServerError",
    502: "ServiceUnavailableError",
    503: "ServiceUnavailableError",
    504: "ServiceUnavailableError",
}


def _voyage_likeness() -> types.ModuleType:
    module = types.ModuleType("arshai_native._voyage_exceptions")
    module.__doc__ = "Exceptions of voyageai's names, used where voyageai is not installed."
    module.__dict__["VoyageError"] = VoyageError
    for name in ("APIError", "Timeout", "APIConnectionError", *_VOYAGE_STATUS.values()):
        setattr(module, name, type(name, (VoyageError,), {"__module__": module.__name__}))
    sys.modules[module.__name__] = module  # so that the exceptions can be pickled
    return module


@functools.cache
def voyage_exceptions() -> Any:
    """voyageai.error, or a module of the same names where voyageai is not installed."""
    return _sdk("voyageai.error") or _voyage_likeness()


class VoyageErrors:
    """Makes voyageai's exceptions from native replies."""

    load = staticmethod(voyage_exceptions)

    @staticmethod
    def status(response: Any, body: bytes, url: str, redact: Callable[[str], str]) -> Exception:
        module = voyage_exceptions()
        text = redact(body.decode("utf-8", "replace"))
        headers = {
            name.decode("latin-1"): redact(value.decode("latin-1"))
            for name, value in response.headers
        }
        status = response.status
        name = _VOYAGE_STATUS.get(status, "APIError")
        if status == 500:
            return module.ServerError(
                "The server failed to process the request.", text, status, headers=headers
            )
        if name == "ServiceUnavailableError":
            return module.ServiceUnavailableError(
                "The server is overloaded or not ready yet.", text, status, headers=headers
            )
        document = _document(text)
        if not isinstance(document, dict) or "detail" not in document:
            return module.APIError(f"HTTP code {status} from API ({text})", text, status, document)
        return getattr(module, name)(document["detail"], text, status, document, headers)

    @staticmethod
    def connection(error: Any, url: str) -> Exception:
        module = voyage_exceptions()
        if error.kind.endswith("timeout"):
            return module.Timeout("Request timed out")
        return module.APIConnectionError("Error communicating with Voyage")


async def load(errors: Any) -> None:
    """Has the SDK's exceptions imported, if they are not yet, without blocking the event loop."""
    if errors.load.cache_info().currsize == 0:
        executor = ThreadPoolExecutor(1, "arshai_native import")
        try:
            await asyncio.get_running_loop().run_in_executor(executor, errors.load)
        finally:
            executor.shutdown(wait=False)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception of either SDK stands for."""
    return getattr(error, "status_code", None) or getattr(error, "http_status", None)


def copy_of(error: Exception) -> Exception:
    """The same error for one more caller: each raises, and so marks, an object of its own."""
    try:
        copy: Exception = type(error).__new__(type(error))
        copy.args = error.args
        copy.__dict__.update(error.__dict__)
    except Exception:
        return error
    copy.__cause__ = error.__cause__
    return copy
