"""Types of the native engine. Its public face is the package's Python modules."""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, final

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

def build_model(plan: ModelPlan, document: bytes, /) -> Any: ...
def json_encode(obj: Any, /) -> bytes: ...
def _shutdown(timeout: float = 2.0, at_exit: bool = False, /) -> bool: ...
