"""Types of the native engine. Its public face is the package's Python modules."""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from os import PathLike
from typing import Any, Final, Self, final, overload

# bytes, str (decode_responses), int, None, or lists of these; exception instances in lists
Reply = Any
Argument = bytes | memoryview | str | int | float

@final
class Request(Coroutine[Any, Any, Any]):
    """What native methods return: a coroutine that sends nothing before its first await."""

    def send(self, value: Any, /) -> Any: ...
    def throw(self, typ: Any, val: Any = ..., tb: Any = ..., /) -> Any: ...
    def close(self) -> None: ...
    def __await__(self) -> Any: ...

@final
class RedisEngine:
    def __init__(
        self,
        *,
        host: str | None = "localhost",
        port: int = 6379,
        path: str | bytes | None = None,
        db: int | str | None = 0,
        username: str | bytes | None = None,
        password: str | bytes | None = None,
        client_name: str | bytes | None = None,
        lib_name: str | bytes | None = None,
        lib_version: str | bytes | None = None,
        socket_timeout: float | None = None,
        socket_connect_timeout: float | None = None,
        keepalive: bool = False,
        keepalive_idle: int = 0,
        keepalive_interval: int = 0,
        keepalive_count: int = 0,
        health_check_interval: float | None = 0,
        max_connections: int = ...,
        pool_timeout: float | None = None,
        encoding: str = "utf-8",
        encoding_errors: str = "strict",
        decode_responses: bool = False,
        error_factory: Callable[[str, str], BaseException],
        retry_policy: Callable[[Exception, int], float | None] | None = None,
        large_bytes: int = 65536,
        queue_bytes: int = 67108864,
        express_after: int = 64,
    ) -> None: ...
    @property
    def decode_responses(self) -> bool: ...
    def execute(self, *args: Argument, never_decode: bool = False) -> Request: ...
    def call(self, *args: Argument, never_decode: bool = False) -> Reply: ...
    def pipeline(self, commands: Iterable[Iterable[Argument]], /) -> Request: ...
    def pipeline_call(self, commands: Iterable[Iterable[Argument]], /) -> list[Reply]: ...
    def needs_own(self, commands: Iterable[Iterable[Argument]], /) -> bool: ...
    def session(self) -> Request: ...
    def disconnect(self) -> None: ...
    def stats(self) -> dict[str, int]: ...

@final
class RedisSession:
    @property
    def closed(self) -> bool: ...
    @property
    def engine(self) -> RedisEngine: ...
    def execute(self, *args: Argument, never_decode: bool = False) -> Request: ...
    def pipeline(self, commands: Iterable[Iterable[Argument]], /) -> Request: ...
    def release(self, discard: bool = False) -> None: ...

class RedisCommands:
    """
    The native commands. They have the names and types of redis-py's, the next class in the MRO of
    arshai_native.redis.Redis, whose annotations therefore hold and are not repeated here.
    """

    _engine: RedisEngine | RedisSession | None
    _custom_callbacks: bool
    def _execute_python(self, *args: Any, **options: Any) -> Awaitable[Any]: ...

@final
class ModelPlan:
    """How JSON values become objects of one type; made by arshai_native.openai._plan."""

    def __new__(
        cls,
        compile: Callable[[], tuple[str, bool, tuple[Any, ...]]],
        construct: Callable[..., Any],
    ) -> ModelPlan: ...
    @property
    def kind(self) -> str: ...
    @property
    def validates(self) -> bool: ...

HTTP_BODY: Final = 0
HTTP_JSON: Final = 1
HTTP_EMBEDDINGS: Final = 2
HTTP_STREAM: Final = 3
HTTP_EVENTS: Final = 4

class HttpError(Exception):
    """What failed below HTTP. kind: "dns", "connect", "connect_timeout", "pool_timeout",
    "write_timeout", "read_timeout", "total_timeout", "tls", "proxy", "protocol", "read", "write",
    "url" or "closed"."""

    kind: str

@final
class GrpcError(Exception):
    code: int
    details: str
    metadata: tuple[tuple[str, str | bytes], ...]

_Metadata = Iterable[tuple[str, str | bytes]]

class GrpcChannel:
    def __init__(
        self,
        host: str | None = None,
        port: int = 0,
        path: str | None = None,
        *,
        authority: str | None = None,
        tls: dict[str, Any] | None = None,
        metadata: _Metadata = (),
        user_agent: str | None = None,
        max_receive: int = -1,
        connect_timeout: float | None = 20.0,
        keepalive: float | None = 10.0,
        keepalive_timeout: float | None = 5.0,
        max_connections: int = 4,
    ) -> None: ...
    @property
    def closed(self) -> bool: ...
    def unary(
        self,
        method: str,
        message: bytes | bytearray | memoryview,
        timeout: float | None = None,
        metadata: _Metadata = (),
        wait_for_ready: bool = False,
    ) -> Awaitable[bytes]: ...
    def unary_sync(
        self,
        method: str,
        message: bytes | bytearray | memoryview,
        timeout: float | None = None,
        metadata: _Metadata = (),
        wait_for_ready: bool = False,
    ) -> bytes: ...
    def ready(self, timeout: float | None = None) -> Awaitable[None]: ...
    def ready_sync(self, timeout: float | None = None) -> None: ...
    def close(self) -> None: ...

class HttpHeaders:
    def __new__(cls, headers: Iterable[tuple[str | bytes, str | bytes]]) -> HttpHeaders: ...

class HttpClient:
    def __init__(
        self,
        *,
        max_connections: int = 1000,
        max_keepalive: int = 100,
        keepalive_expiry: float = 118.0,
        verify: bool | str = True,
        cert: str | tuple[str, str | None] | tuple[str, str | None, str | None] | None = None,
        proxy: str | None = None,
        trust_env: bool = True,
        http2: bool = True,
        unix_socket: str | None = None,
    ) -> None: ...
    @property
    def closed(self) -> bool: ...
    def request(
        self,
        method: str,
        url: str,
        headers: Iterable[tuple[str | bytes, str | bytes]] | HttpHeaders = (),
        body: bytes | str | None = None,
        *,
        mode: int = 0,
        connect_timeout: float | None = 5.0,
        read_timeout: float | None = 600.0,
        write_timeout: float | None = 600.0,
        pool_timeout: float | None = 600.0,
        total_timeout: float | None = None,
        max_retries: int = 0,
        retry_count_header: str | None = None,
        max_retry_after: float = 60.0,
        refuse_longer: bool = False,
        decompress: bool = True,
        follow_redirects: bool = True,
    ) -> Awaitable[HttpResponse]: ...
    def request_sync(
        self,
        method: str,
        url: str,
        headers: Iterable[tuple[str | bytes, str | bytes]] | HttpHeaders = (),
        body: bytes | str | None = None,
        *,
        mode: int = 0,
        connect_timeout: float | None = 5.0,
        read_timeout: float | None = 600.0,
        write_timeout: float | None = 600.0,
        pool_timeout: float | None = 600.0,
        total_timeout: float | None = None,
        max_retries: int = 0,
        retry_count_header: str | None = None,
        max_retry_after: float = 60.0,
        refuse_longer: bool = False,
        decompress: bool = True,
        follow_redirects: bool = True,
    ) -> HttpResponse: ...
    def close(self) -> None: ...

@final
class HttpResponse:
    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def http_version(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def retries(self) -> int: ...
    @property
    def elapsed(self) -> float: ...
    @property
    def body(self) -> bytes: ...
    def header(self, name: str, /) -> str | None: ...
    def json(self) -> Any: ...
    def build(self, plan: ModelPlan, /) -> Any: ...
    def embeddings(self, as_numpy: bool = False) -> tuple[list[Any], dict[str, Any]]: ...
    def read(self) -> Awaitable[bytes]: ...
    def read_events(
        self,
    ) -> Awaitable[list[tuple[str | None, str, str | None, int | None]]]: ...
    def close_stream(self) -> None: ...

class OpenAIClient:
    """Base of the native OpenAI clients: knows when an attribute was set."""

class OpenAIEndpoint:
    """In the place of a resource's method: takes plain calls, leaves the others to it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def __get__(self, instance: Any, owner: Any = None, /) -> Any: ...

class OpenAICall:
    """What all requests of a kind have in common."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    @property
    def options(self) -> Any: ...
    @property
    def recipe(self) -> Any: ...
    @property
    def request(self) -> Any: ...

class OpenAIStream:
    """The items of a response in mode HTTP_EVENTS."""

    def __init__(self, response: HttpResponse, plan: ModelPlan | None) -> None: ...
    def __aiter__(self) -> Any: ...
    def __anext__(self) -> Awaitable[Any]: ...
    def _read_events(self) -> Awaitable[Any]: ...
    def _give_up(self) -> None: ...

def build_model(plan: ModelPlan, document: bytes, /) -> Any: ...
def json_encode(obj: Any, /) -> bytes: ...
def _shutdown(timeout: float = 2.0, at_exit: bool = False, /) -> bool: ...
def run_blocking(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Request:
    """func(*args, **kwargs) on a worker thread, in a copy of the awaiting task's context (as
    asyncio.to_thread()). Nothing happens before the first await. Cancelled before a thread has
    taken it up, the call is not made; later it goes on and its outcome is dropped. After the
    interpreter's end has begun, or if no thread can be had: RuntimeError."""

# ---- Milvus: None means that pymilvus must decide, with the same arguments ----

@final
class MilvusReplies:
    """Reads replies into pymilvus's own classes. See arshai_native._milvus_wire.replies()."""

    def __init__(
        self,
        *,
        search_result: type,
        hybrid_hits: type,
        hit: type,
        hybrid_extra_list: type,
        rows_extra: type,
        field_data: type,
        iterator: type,
        known: dict[str, Iterable[int]],
        has_buckets: bool,
        loads: Callable[[bytes], Any],
    ) -> None:
        """known: by message, the fields that pymilvus knows; only others may be skipped."""
    def search(
        self, reply: bytes | memoryview, round_decimal: object, with_session: bool, /
    ) -> Any | None:  # SearchResult
        """SearchResults as a SearchResult; with_session: search() knows session_ts, hybrid_search()
        does not. None, too, if the status is not that of success.
        """
    def split(
        self, reply: bytes | memoryview, round_decimal: object, searches: int, /
    ) -> MilvusParts | None:
        """One reply that answers several searches (with one vector each), as a SearchResult for
        each, as if it had been alone. What cannot be known: of the counts in extra each gets an
        equal share, rounded down.
        """
    def query(self, reply: bytes | memoryview, strict_float32: bool, /) -> Any | None:
        """QueryResults as a HybridExtraList, as the handlers' query() returns it."""

class MilvusPlan:
    """What the searches of a kind have in common. head: SearchRequest without vectors, their number
    and timestamp; timestamp: the number of that field if the last write's is to be in it, else 0;
    combinable: with others of the kind into one request."""

    head: Final[bytes]
    round_decimal: Final[Any]
    timestamp: Final[int]
    combinable: Final[bool]
    def __init__(
        self, head: bytes, round_decimal: object, timestamp: int, combinable: bool
    ) -> None: ...

class MilvusCaller:
    """
    A client's searches from argument to result, as long as everything that has a say in them is as
    it was when bind() was called.

    unusual: options with which a search goes the long way. last_write: (collection, client) to the
    timestamp that its searches ask for.
    """

    def __init__(
        self,
        replies: MilvusReplies,
        unusual: frozenset[str],
        last_write: Callable[[str, Any], int],
    ) -> None: ...
    def bind(
        self,
        kind: type,
        attributes: int,
        database: str,
        handler: Any,
        channel: Any,
        core: GrpcChannel,
        interceptors: list[Any],
        count: int,
        places: tuple[tuple[Any, ...], ...],
        metadata: tuple[tuple[str, str | bytes], ...],
        path: str,
        /,
    ) -> None:
        """Know a client: its class, how many attributes it has, its database, its handler.
        channel: the handler's, core: its GrpcChannel; interceptors: the channel's, count of them.
        places: see unchanged(). metadata: pairs that each of its searches has, path: their
        method."""
    def search(
        self,
        client: Any,
        data: object,
        timeout: object,
        collection: object,
        filter: object,
        limit: object,
        output_fields: object,
        search_params: object,
        partition_names: object,
        anns_field: object,
        options: dict[str, Any],
        /,
    ) -> Any:
        """
        An awaitable of the search's SearchResult, or of (reply, round_decimal) for pymilvus to
        read; (plan, kind, vectors) of a search that may be gathered; None: it has to go the long
        way. The awaitable raises GrpcError. Nothing is sent before it is awaited. Plans are found
        in the client's _plans, by plain_key() of collection and what follows it.
        """

class MilvusParts(Sequence[Any | None]):
    """The SearchResults of searches that went as one, made when they are asked for. None: pymilvus
    must make that one."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> Any | None: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[Any | None]: ...

def milvus_vectors(data: object, vector_type: int = 0, /) -> tuple[int, int, bytes] | None:
    """The vectors of a search: placeholder type, how many, their encoding. vector_type: the
    field's, for vectors given as bytes.
    """

def milvus_search_request(
    template: bytes, type: int, count: int, values: list[bytes] | tuple[bytes, ...], /
) -> bytes:
    """The SearchRequest of a template's bytes (neither placeholder_group nor nq) and of vectors:
    one or more encodings of milvus_vectors(), all of that type, count vectors together.
    """

def milvus_append_messages(
    template: bytes, number: int, messages: list[bytes] | tuple[bytes, ...], /
) -> bytes:
    """template with the messages as fields of that number behind it: the requests (5) of a
    HybridSearchRequest, the fields_data (5) of an InsertRequest.
    """

@final
class MilvusSchema:
    """Writes the rows of inserts and upserts. See arshai_native._milvus_wire.schema()."""

    def __init__(
        self,
        columns: list[tuple[str, int, int, int, bool, bool]],
        outputs: Iterable[str],
        *,
        dynamic: bool,
        dumps: Callable[[Any], bytes],
        loads: Callable[[str], Any],
    ) -> None: ...
    def rows(
        self, data: object, *, upsert: bool = False, partial: bool = False, front: bytes = b""
    ) -> bytes | None:
        """A list of dicts: front, then fields_data and num_rows of an InsertRequest or
        UpsertRequest; front: the other fields' bytes. None, too, for whatever pymilvus refuses.
        """
    def columns(
        self, data: object, *, upsert: bool = False, partial: bool = False, front: bytes = b""
    ) -> bytes | None:
        """As rows(), of {field name: all its values}: lists, numpy arrays (of two dimensions for
        vectors), csr matrices. Names that are no fields go into the dynamic field.
        """

class File:
    """What the classes of arshai_native.aiofiles derive from. Methods and attributes are those of
    file_members, of which each class takes some."""

    def __init__(self, file: Any, loop: Any, executor: Any) -> None: ...
    _file: Any
    @property
    def _loop(self) -> Any: ...
    @property
    def _executor(self) -> Any: ...
    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Coroutine[Any, Any, Any]: ...

@final
class FileOpening:
    """A file to be opened: awaited, or entered."""

    def __await__(self) -> Any: ...
    def __aenter__(self) -> Coroutine[Any, Any, Any]: ...
    def __aexit__(self, *args: Any) -> Coroutine[Any, Any, None]: ...

file_members: dict[str, Any]

def open_file(
    file: Any,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    /,
) -> FileOpening | None:
    """None: these arguments need an io object."""

def write_file(path: str | bytes | PathLike[Any], data: bytes, /) -> Request:
    """Opens the file as open(path, "wb") does, writes the bytes and closes it, in one job without
    the interpreter's lock; how many bytes. Cancelled before a thread has taken it up, nothing
    happens; later it goes on."""

def set_file_classes(
    *,
    text: type[File],
    reader: type[File],
    writer: type[File],
    wrap: Callable[[Any], File],
    reopen: Callable[..., Any],
    cookie: Callable[..., int],
    on_executor: Callable[..., Coroutine[Any, Any, Any]],
    encoding: str | None,
    translator: Callable[..., Any],
    newlines: Callable[..., Any],
) -> None:
    """What open_file() makes, and the Python code that helps it."""

# ---- a peer's methods that are served here ----

def plain_key(*values: object) -> bytes | None:
    """The values as bytes that are the same for the same values of the same types only; None if
    one is not made of None, bool, int, float, str, list, tuple and dict.
    """

def type_tag(type: type, /) -> int:
    """A number that the class has until it or a base of it is changed; 0: unknown."""

def unchanged(places: tuple[tuple[Any, ...], ...], /) -> bool:
    """Whether all of these are as they were: (class, its type_tag()), of which 0 never is, and
    (dict, key, the value's very object)."""
