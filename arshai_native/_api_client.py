"""What embeddings and speech share: one API's address, credentials and limits, on the native
engine.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, TypedDict, TypeVar
from urllib.parse import urlsplit, urlunsplit

from arshai_native import _core
from arshai_native._api_errors import load

# openai's defaults, in seconds.
TIMEOUT = 600.0
CONNECT_TIMEOUT = 5.0
MAX_RETRIES = 2
RETRY_COUNT_HEADER = "x-stainless-retry-count"

# Keyword arguments that go to the engine's HttpClient as they are.
HTTP_OPTIONS = (
    "max_connections", "max_keepalive", "keepalive_expiry", "verify", "cert", "proxy", "trust_env",
    "http2", "unix_socket",
)  # fmt: skip

# Stands for "not given" where None means "no limit".
DEFAULT: Any = type("Default", (), {"__repr__": lambda self: "DEFAULT"})()


def show_url(url: str) -> str:
    """The URL without what may be secret in it: user, password and query."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        return "(unreadable URL)"


class Timeouts(TypedDict):
    """The engine's limits in seconds; None: no limit."""

    connect_timeout: float | None
    read_timeout: float | None
    write_timeout: float | None
    pool_timeout: float | None


class RequestOptions(Timeouts):
    """Arguments of the engine's request() that all requests of a client share."""

    max_retries: int
    retry_count_header: str


def timeouts(timeout: Any) -> Timeouts:
    """
    The engine's four limits from seconds for each of them, None (no limit), DEFAULT (openai's:
    600, to connect 5) or an object with connect, read, write and pool, as httpx.Timeout is.
    """
    if timeout is DEFAULT:
        limits: list[Any] = [CONNECT_TIMEOUT, TIMEOUT, TIMEOUT, TIMEOUT]
    elif timeout is None or isinstance(timeout, (int, float)):
        limits = [timeout] * 4
    else:
        limits = [getattr(timeout, name) for name in ("connect", "read", "write", "pool")]
    connect, read, write, pool = (None if value is None else float(value) for value in limits)
    return {
        "connect_timeout": connect,
        "read_timeout": read,
        "write_timeout": write,
        "pool_timeout": pool,
    }


def http_options(given: dict[str, Any]) -> dict[str, Any]:
    """The engine's part of keyword arguments; TypeError for a name that nobody knows."""
    for name in given:
        if name not in HTTP_OPTIONS:
            raise TypeError(f"unexpected keyword argument {name!r}")
    return given


_Self = TypeVar("_Self", bound="OwnsClient")


class Settings:
    """
    Arguments by name: a keyword argument that is not None, else one of config.additional_params,
    else the config's own: an attribute of a DTO, a key of a dict. A config that is a str names the
    model.
    """

    def __init__(self, config: Any, given: dict[str, Any]) -> None:
        if isinstance(config, str):
            config = {"model_name": config}
        extra = (
            config.get("additional_params")
            if isinstance(config, dict)
            else getattr(config, "additional_params", None)
        )
        self._config = config
        self._sources = [
            {name: value for name, value in given.items() if value is not None},
            extra or {},
        ]
        if isinstance(config, dict):
            self._sources.append(config)

    def get(self, name: str, default: Any = None) -> Any:
        """The argument; default if it is nowhere or None."""
        for source in self._sources:
            if source.get(name) is not None:
                return source[name]
        if self._config is None or isinstance(self._config, dict):
            return default
        value = getattr(self._config, name, None)
        return default if value is None else value

    def explicit(self, name: str, default: Any) -> Any:
        """get(), but a DTO's own default does not count."""
        fields = getattr(self._config, "model_fields_set", None)
        if fields is not None and name not in fields:
            for source in self._sources:
                if source.get(name) is not None:
                    return source[name]
            return default
        return self.get(name, default)

    @property
    def model(self) -> Any:
        """model_name, or model."""
        for source in self._sources:
            for name in ("model_name", "model"):
                if source.get(name) is not None:
                    return source[name]
        return getattr(self._config, "model_name", None)


class ApiClient:
    """
    Posts to one API; any number of event loops and threads may use it at the same time.

    errors: makes the exceptions, see _api_errors. http: options of the engine's HttpClient.
    The key is in no repr, and is taken out of whatever the server sends back with an error.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None,
        errors: Any,
        headers: Mapping[str, str] | None = None,
        timeout: Any = DEFAULT,
        max_retries: int = MAX_RETRIES,
        http: dict[str, Any] | None = None,
        key_header: tuple[str, str] = ("Authorization", "Bearer "),
    ) -> None:
        base, mark, query = base_url.partition("?")
        self.base_url = base.rstrip("/")
        self._query = mark + query  # behind the path of each request
        self.errors = errors
        self.timeouts = timeouts(timeout)
        self._key = api_key
        named = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "arshai_native",
            RETRY_COUNT_HEADER: "0",  # the engine counts on from here
        }
        if api_key:
            named[key_header[0]] = key_header[1] + api_key
        self._named = self._merged(named, headers)
        self.headers = _core.HttpHeaders(list(self._named.items()))
        self._options: RequestOptions = {
            **self.timeouts,
            "max_retries": max_retries,
            "retry_count_header": RETRY_COUNT_HEADER,
        }
        self._http_options = http or {}
        self._http: _core.HttpClient | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<ApiClient {show_url(self.base_url)}>"

    @staticmethod
    def _merged(named: dict[str, str], more: Mapping[str, str] | None) -> dict[str, str]:
        """Both; a header of `more` takes the place of one of its name in any case of letters."""
        more = dict(more or {})
        replaced = {name.lower() for name in more}
        return {**{n: v for n, v in named.items() if n.lower() not in replaced}, **more}

    def headers_with(self, more: Mapping[str, str]) -> Any:
        """This client's headers and some of one request."""
        return _core.HttpHeaders(list(self._merged(self._named, more).items()))

    def redact(self, text: str) -> str:
        """The text without the key, should the server have sent it back."""
        return text.replace(self._key, "***") if self._key else text

    @property
    def http(self) -> _core.HttpClient:
        return self._http or self._open()

    def _open(self) -> _core.HttpClient:
        with self._lock:
            if self._http is None:
                self._http = _core.HttpClient(**self._http_options)
            return self._http

    def close(self) -> None:
        """Closes the connections. What is under way fails; a later request connects again."""
        with self._lock:
            http, self._http = self._http, None
        if http is not None:
            http.close()

    def _url(self, path: str) -> str:
        return self.base_url + path + self._query

    async def post(self, path: str, body: bytes, mode: int, headers: Any = None) -> Any:
        """
        The reply to a POST.

        Raises the API's exceptions for a status of 400 or above (after the retries) and where
        there is no reply.
        """
        url = self._url(path)
        try:
            response = await self.http.request(
                "POST", url, headers or self.headers, body, mode=mode, **self._options
            )
        except _core.HttpError as error:
            raise await self.connection_error(error, path) from error
        if response.status >= 400:
            raise await self.status_error(response, path)
        return response

    def post_sync(self, path: str, body: bytes, mode: int, headers: Any = None) -> Any:
        """post() for a thread without an event loop: blocks it, without holding the GIL."""
        url = self._url(path)
        try:
            response = self.http.request_sync(
                "POST", url, headers or self.headers, body, mode=mode, **self._options
            )
        except _core.HttpError as error:
            raise self.errors.connection(error, show_url(url)) from error
        if response.status >= 400:
            raise self.errors.status(response, response.body, show_url(url), self.redact)
        return response

    async def stream(self, path: str, body: bytes, headers: Any, max_error: int) -> Any:
        """
        post() in mode HTTP_STREAM: the reply, whose body is to be read() and close_stream()ed.
        max_error: bytes of an error's explanation that are read.
        """
        url = self._url(path)
        try:
            response = await self.http.request(
                "POST", url, headers or self.headers, body, mode=_core.HTTP_STREAM, **self._options
            )
        except _core.HttpError as error:
            raise await self.connection_error(error, path) from error
        if response.status < 400:
            return response
        explanation = b""
        try:
            while len(explanation) < max_error and (chunk := await response.read()):
                explanation += chunk
        except _core.HttpError:
            pass  # the status says enough
        finally:
            response.close_stream()
        raise await self.status_error(response, path, explanation)

    async def read(self, response: Any, path: str) -> bytes:
        """The next piece of a stream; b"" at its end."""
        try:
            chunk: bytes = await response.read()
            return chunk
        except _core.HttpError as error:
            raise await self.connection_error(error, path) from error

    async def status_error(self, response: Any, path: str, body: bytes | None = None) -> Exception:
        """The exception for a reply; body: what was read of it, if it came as a stream."""
        await load(self.errors)
        body = response.body if body is None else body
        return self.errors.status(response, body, show_url(self.base_url + path), self.redact)

    async def connection_error(self, error: Any, path: str) -> Exception:
        """The exception for an HttpError."""
        await load(self.errors)
        return self.errors.connection(error, show_url(self.base_url + path))


class OwnsClient:
    """What has an ApiClient in `_client`, and ends with it."""

    _client: ApiClient

    def close_sync(self) -> None:
        """Closes the connections. What is under way fails; a later call connects again."""
        self._client.close()

    async def close_async(self) -> None:
        """close_sync(), awaitable."""
        self.close_sync()

    async def __aenter__(self: _Self) -> _Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close_sync()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close_sync()
