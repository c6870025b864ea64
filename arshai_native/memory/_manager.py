"""AsyncRedisMemoryManager: arshai's RedisWorkingMemoryManager on the native engine.

The bytes in Redis are those that arshai 1.15.0's shipped manager writes and reads, so both can
serve the same conversations at the same time.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Awaitable, Generator, Iterable
from datetime import datetime, timedelta
from json.encoder import encode_basestring_ascii
from typing import Any, overload

from arshai_native import _core
from arshai_native._redis_errors import error_factory, exceptions
from arshai_native._redis_url import parse_url, redact
from arshai_native.memory._types import MemoryInput, working_memory_class

# Warnings, and one line when a manager is made. No line for each operation: arshai's logging set-up
# handles every level, and a debug line costs more than the operation.
logger = logging.getLogger("arshai_native.memory")

DEFAULT_URL = "redis://localhost:6379/1"
DEFAULT_TTL = 60 * 60 * 12

# Commands of a batch that go out as one unit: large enough to need one wake, small enough not to
# keep other callers waiting.
_UNIT = 500

# Keyword arguments and URL options that go to the engine as they are. Others are ignored, as
# arshai's class ignores them.
_ENGINE_OPTIONS = (
    "host", "port", "path", "db", "username", "password", "client_name",
    "socket_timeout", "socket_connect_timeout", "health_check_interval",
)  # fmt: skip


def _retry_timeouts(error: BaseException, failures: int) -> float | None:
    """retry_on_timeout as in redis-py: one more attempt, at once."""
    return 0.0 if failures == 1 and isinstance(error, exceptions().TimeoutError) else None


def _engine(options: dict[str, Any]) -> _core.RedisEngine:
    arguments = {name: options[name] for name in _ENGINE_OPTIONS if options.get(name) is not None}
    if options.get("socket_keepalive"):
        arguments["keepalive"] = True
    limited = options.get("socket_timeout") or options.get("socket_connect_timeout")
    if options.get("retry_on_timeout") and limited:
        arguments["retry_policy"] = _retry_timeouts
    return _core.RedisEngine(
        lib_name="arshai_native",
        max_connections=options["max_connections"] or 2**31 - 1,
        error_factory=error_factory,
        **arguments,
    )


def _payload(text: Any, metadata: Any) -> str:
    """json.dumps() of {"data": {"working_memory": text}, "metadata": ..., two timestamps}.

    The order of the keys and json.dumps' defaults are part of the format. Put together from its
    parts, which costs a third of one json.dumps() call for 2 KB of text.
    """
    now = datetime.now().isoformat()
    encoded = encode_basestring_ascii(text) if type(text) is str else json.dumps(text)
    return (
        f'{{"data": {{"working_memory": {encoded}}}, "metadata": {json.dumps(metadata or {})}, '
        f'"created_at": "{now}", "last_update": "{now}"}}'
    )


_scan_once: Any = vars(json.JSONDecoder())["scan_once"]


def _parse(reply: bytes) -> Any:
    """json.loads(reply), past its preliminaries where the reply looks like our own."""
    if reply.startswith(b'{"'):
        try:
            text = reply.decode("utf-8", "surrogatepass")
            value, end = _scan_once(text, 0)
            if end == len(text):
                return value
        except (StopIteration, ValueError):
            pass  # json.loads() says what is wrong, in its own words
    return json.loads(reply)


class _Count(int):
    """A number that may be awaited, for callers of what has been done already."""

    def __await__(self) -> Generator[Any, Any, int]:
        yield from ()
        return int(self)


def _running_loop() -> Any:
    """The running event loop or None, without importing asyncio: if one runs, it is imported."""
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


class AsyncRedisMemoryManager:
    """
    Working memory of conversations in Redis, without blocking the event loop.

    store, retrieve, update and delete take an IMemoryInput (arshai's, or anything with its
    attributes) and work synchronously, as in RedisWorkingMemoryManager; given a dict, as arshai's
    WorkingMemoryAgent calls them, they return an awaitable. The _async twins are always awaitable
    and take either. One manager serves any number of event loops and threads; the synchronous
    methods need neither redis-py nor an event loop.

    storage_url: Redis URL; also accepted as redis_url. Default: environment REDIS_URL, else
        redis://localhost:6379/1 with a warning.
    ttl: seconds (int, or timedelta) until a memory expires, counted anew by store and update.
    max_connections: limit of dedicated connections; commands of any number share others.
    retry_on_timeout: try once more after a TimeoutError.
    kwargs: redis-py's names of connection options: socket_timeout, socket_connect_timeout (both
        seconds), socket_keepalive, health_check_interval (seconds), client_name, db, username,
        password. Options of the URL win.

    Errors are redis-py's exception classes (of the same names where redis-py is not installed):
    ConnectionError, TimeoutError, AuthenticationError, ResponseError; besides ValueError for an
    input without data, json.JSONDecodeError and KeyError for a foreign value, TypeError for
    metadata that JSON does not know.
    Source of the behaviour: arshai 1.15.0, memory/working_memory/redis_memory_manager.py.
    """

    def __init__(
        self,
        storage_url: str | None = None,
        *,
        redis_url: str | None = None,
        ttl: Any = DEFAULT_TTL,
        max_connections: int = 20,
        retry_on_timeout: bool = True,
        **kwargs: Any,
    ) -> None:
        given = storage_url or redis_url or os.environ.get("REDIS_URL")
        if not given:
            logger.warning("No REDIS_URL environment variable set, using default: %s", DEFAULT_URL)
        self.storage_url = given or DEFAULT_URL
        self.prefix = "memory"
        self.ttl = ttl
        options = {
            **kwargs,
            "max_connections": max_connections,
            "retry_on_timeout": retry_on_timeout,
            **parse_url(self.storage_url),
        }
        self._options = options
        self._engine = _engine(options)
        self._redis_client: Any = None
        self._tasks: set[Any] = set()
        logger.info(
            "Initialized Redis working memory manager with URL: %s", redact(self.storage_url)
        )

    def __repr__(self) -> str:
        return f"<AsyncRedisMemoryManager {redact(self.storage_url)} ttl={self.ttl!r}>"

    @property
    def redis_url(self) -> str:
        """storage_url by its other name."""
        return self.storage_url

    @property
    def redis_client(self) -> Any:
        """
        A synchronous redis-py client for the same database, made when first asked for; or what was
        put in its place.

        The manager does not use it; it is there for programs that reached through
        RedisWorkingMemoryManager to its client.
        """
        if self._redis_client is None:
            import redis

            given = {name: self._options[name] for name in _ENGINE_OPTIONS if name in self._options}
            self._redis_client = redis.Redis(unix_socket_path=given.pop("path", None), **given)
        return self._redis_client

    @redis_client.setter
    def redis_client(self, client: Any) -> None:
        self._redis_client = client

    # ---- keys and values ----

    def _get_key(self, conversation_id: Any, memory_type: Any) -> str:
        return f"{self.prefix}:{getattr(memory_type, 'value', memory_type)}:{conversation_id}"

    def _key(self, input: Any) -> str:
        return self._get_key(input.conversation_id, input.memory_type)

    def _seconds(self) -> Any:
        ttl = self.ttl
        return int(ttl.total_seconds()) if isinstance(ttl, timedelta) else ttl

    @staticmethod
    def _input(input: Any) -> Any:
        return MemoryInput.from_dict(input) if isinstance(input, dict) else input

    @staticmethod
    def _check_data(input: Any, what: str) -> None:
        if not input.data:
            logger.warning("No data provided to %s", what)
            raise ValueError(f"No data provided to {what}")

    def _store_commands(self, input: Any) -> tuple[str, list[tuple[Any, ...]]]:
        self._check_data(input, "store")
        key = self._key(input)
        ttl = self._seconds()
        metadata = input.metadata
        return key, [
            ("SETEX", key, ttl, _payload(item.working_memory, metadata)) for item in input.data
        ]

    @staticmethod
    def _loaded(reply: bytes | None) -> list[Any]:
        if not reply:
            return []
        text = _parse(reply)["data"]["working_memory"]
        return [working_memory_class()(working_memory=text)]

    def _updated(self, input: Any, key: str, reply: bytes | None) -> tuple[Any, ...] | None:
        if not reply:
            logger.warning("No existing data found for key: %s", key)
            return None
        stored = _parse(reply)
        for item in input.data:
            stored["data"]["working_memory"] = item.working_memory
            stored["last_update"] = datetime.now().isoformat()
        return ("SETEX", key, self._seconds(), json.dumps(stored))

    # ---- arshai's interface: synchronous for a DTO, awaitable for a dict ----

    @overload
    def store(self, input: dict[str, Any]) -> Awaitable[str]: ...
    @overload
    def store(self, input: Any) -> str: ...
    def store(self, input: Any) -> Any:
        """
        Stores each item of input.data; the last one stays. Returns the key.

        Raises ValueError("No data provided to store") if there is none.
        """
        if isinstance(input, dict):
            return self.store_async(input)
        key, commands = self._store_commands(input)
        for command in commands:
            self._engine.call(*command)
        return key

    @overload
    def retrieve(self, input: dict[str, Any]) -> Awaitable[list[Any]]: ...
    @overload
    def retrieve(self, input: Any) -> list[Any]: ...
    def retrieve(self, input: Any) -> Any:
        """
        Returns a list of the one item stored, or an empty one. Its items have working_memory;
        they are arshai's IWorkingMemory if the program has imported arshai.
        """
        if isinstance(input, dict):
            return self.retrieve_async(input)
        return self._loaded(self._engine.call("GET", self._key(input)))

    @overload
    def update(self, input: dict[str, Any]) -> Awaitable[None]: ...
    @overload
    def update(self, input: Any) -> None: ...
    def update(self, input: Any) -> Any:
        """
        Replaces the text of a stored memory, keeps its metadata and created_at, counts the ttl
        anew. A memory that is not there is a warning in the log, no error.

        Raises ValueError("No data provided to update") if input.data is empty.
        """
        if isinstance(input, dict):
            return self.update_async(input)
        self._check_data(input, "update")
        key = self._key(input)
        command = self._updated(input, key, self._engine.call("GET", key))
        if command is not None:
            self._engine.call(*command)
        return None

    @overload
    def delete(self, input: dict[str, Any]) -> Awaitable[None]: ...
    @overload
    def delete(self, input: Any) -> None: ...
    def delete(self, input: Any) -> Any:
        """Deletes the memory if it is there."""
        if isinstance(input, dict):
            return self.delete_async(input)
        self._engine.call("DEL", self._key(input))
        return None

    # ---- the same, always awaitable ----

    async def store_async(self, input: Any) -> str:
        """store(), awaitable."""
        key, commands = self._store_commands(self._input(input))
        for command in commands:
            await self._engine.execute(*command)
        return key

    async def retrieve_async(self, input: Any) -> list[Any]:
        """retrieve(), awaitable."""
        return self._loaded(await self._engine.execute("GET", self._key(self._input(input))))

    async def update_async(self, input: Any) -> None:
        """update(), awaitable."""
        input = self._input(input)
        self._check_data(input, "update")
        key = self._key(input)
        command = self._updated(input, key, await self._engine.execute("GET", key))
        if command is not None:
            await self._engine.execute(*command)

    async def delete_async(self, input: Any) -> None:
        """delete(), awaitable."""
        await self._engine.execute("DEL", self._key(self._input(input)))

    # ---- many at once ----

    async def _pipeline(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """The replies of all commands; the first error among them is raised after all are done."""
        replies: list[Any] = []
        for start in range(0, len(commands), _UNIT):
            replies += await self._engine.pipeline(commands[start : start + _UNIT])
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def store_batch_async(self, inputs: Iterable[Any]) -> list[str]:
        """
        store() for many inputs in few round trips. Returns their keys in order.

        Nothing is sent if one of the inputs has no data (ValueError).
        """
        keys = []
        commands: list[tuple[Any, ...]] = []
        for input in inputs:
            key, more = self._store_commands(self._input(input))
            keys.append(key)
            commands += more
        await self._pipeline(commands)
        return keys

    async def retrieve_batch_async(self, inputs: Iterable[Any]) -> list[list[Any]]:
        """retrieve() for many inputs in few round trips. One list for each input, in order."""
        keys = [self._key(self._input(input)) for input in inputs]
        replies = await self._pipeline([("GET", key) for key in keys])
        return [self._loaded(reply) for reply in replies]

    async def delete_batch_async(self, inputs: Iterable[Any]) -> int:
        """delete() for many inputs. Returns how many memories there were."""
        keys = [self._key(self._input(input)) for input in inputs]
        return sum(await self._pipeline([("DEL", key) for key in keys]))

    # ---- a plain cache, as arshai's cache_result() expects of `memory` ----
    # Its keys have a prefix of their own: "everything" means the cache, not the conversations.

    @staticmethod
    def _cache_key(key: str) -> str:
        return f"cache:{key}"

    def _set_command(self, key: str, value: Any, ttl: Any) -> tuple[Any, ...]:
        key = self._cache_key(key)
        if isinstance(ttl, timedelta):
            ttl = int(ttl.total_seconds())
        return ("SET", key, value) if ttl is None else ("SETEX", key, ttl, value)

    async def get(self, key: str) -> str | None:
        """The text that was cached under the key, or None."""
        reply = await self._engine.execute("GET", self._cache_key(key))
        return None if reply is None else reply.decode("utf-8")

    async def set(self, key: str, value: Any, ttl: Any = None) -> bool:
        """Caches str, bytes or a number under the key, for ttl seconds (None: for ever)."""
        await self._engine.execute(*self._set_command(key, value, ttl))
        return True

    def get_sync(self, key: str) -> str | None:
        """get() without an event loop."""
        reply = self._engine.call("GET", self._cache_key(key))
        return None if reply is None else reply.decode("utf-8")

    def set_sync(self, key: str, value: Any, ttl: Any = None) -> bool:
        """set() without an event loop."""
        self._engine.call(*self._set_command(key, value, ttl))
        return True

    def delete_pattern(self, pattern: str) -> Awaitable[int]:
        """
        Deletes what is cached under keys that match.

        pattern: a Redis glob, or without *, ? and [ the beginning of the keys.
        Returns how many there were, to be awaited or not: arshai's invalidate_cache() does not.
        Where no event loop runs it is done on return; where one runs, by a task of that loop.
        """
        if not any(mark in pattern for mark in "*?["):
            pattern += "*"
        pattern = self._cache_key(pattern)
        loop = _running_loop()
        if loop is None:
            return self._delete_now(pattern)
        task = loop.create_task(self._delete(pattern))
        self._tasks.add(task)  # a loop holds its tasks weakly
        task.add_done_callback(self._tasks.discard)
        return task

    def _delete_now(self, pattern: str) -> _Count:
        cursor: Any = 0
        deleted = 0
        while True:
            cursor, keys = self._engine.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            if keys:
                deleted += self._engine.call("UNLINK", *keys)
            if int(cursor) == 0:
                return _Count(deleted)

    async def _delete(self, pattern: str) -> int:
        cursor: Any = 0
        deleted = 0
        while True:
            cursor, keys = await self._engine.execute(
                "SCAN", cursor, "MATCH", pattern, "COUNT", 1000
            )
            if keys:
                deleted += await self._engine.execute("UNLINK", *keys)
            if int(cursor) == 0:
                return deleted

    # ---- health, numbers, end ----

    async def health_check_async(self) -> bool:
        """Whether the server answers a PING. Never raises but when cancelled."""
        try:
            return await self._engine.execute("PING") == b"PONG"
        except Exception as error:
            logger.warning("Redis health check failed: %s", error)
            return False

    async def get_memory_stats_async(self) -> dict[str, Any]:
        """
        Numbers of what is stored and of this client.

        total: memories under the prefix; by_type: {memory type: count}; used_memory: bytes used
        by the Redis server, all its data included; ttl: as configured; connection: commands,
        replies, errors, bytes_in, bytes_out, connections ... of this manager's engine.
        Counting walks the keys with SCAN: its time grows with the database.
        """
        by_type: dict[str, int] = {}
        cursor: Any = 0
        while True:
            cursor, keys = await self._engine.execute(
                "SCAN", cursor, "MATCH", f"{self.prefix}:*", "COUNT", 1000
            )
            for key in keys:
                parts = key.split(b":", 2)
                if len(parts) == 3:
                    name = parts[1].decode("utf-8", "replace")
                    by_type[name] = by_type.get(name, 0) + 1
            if int(cursor) == 0:
                break
        info = (await self._engine.execute("INFO", "memory")).decode("utf-8", "replace")
        used = [line for line in info.splitlines() if line.startswith("used_memory:")]
        return {
            "total": sum(by_type.values()),
            "by_type": by_type,
            "used_memory": int(used[0].partition(":")[2]) if used else None,
            "ttl": self.ttl,
            "connection": self._engine.stats(),
        }

    def close_sync(self) -> None:
        """Closes the connections. What is under way fails; a later call connects again."""
        self._engine.disconnect()
        if self._redis_client is not None:
            self._redis_client.close()
            self._redis_client = None

    async def close_async(self) -> None:
        """close_sync(), awaitable."""
        self.close_sync()

    async def __aenter__(self) -> AsyncRedisMemoryManager:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close_sync()

    def __enter__(self) -> AsyncRedisMemoryManager:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close_sync()
