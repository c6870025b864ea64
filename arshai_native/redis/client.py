"""The drop-in for redis.asyncio's client."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import redis.asyncio.client as _peer
from redis.asyncio.client import Monitor as Monitor
from redis.asyncio.client import PubSub as PubSub
from redis.asyncio.retry import Retry
from redis.client import NEVER_DECODE
from redis.exceptions import ResponseError

from arshai_native import _core

from ._callbacks import ResponseCallbacks, finish
from ._engine import REPLIES_KNOWN, Native, is_original, native_of
from ._pipeline import Pipeline as Pipeline
from ._session import SessionConnection
from .connection import describe

# Methods that redis-py's own path calls for each command. Whoever replaces one of them, in a class
# of their own or, as instrumentation does, in redis-py's, means to be asked: such clients take
# that path.
_PATH_METHODS = (
    "parse_response",
    "_send_command_parse_response",
    "_disconnect_raise",
    "_close_connection",
    "initialize",
)


def _announce(client: Redis) -> None:
    """Tells the event dispatcher of a single connection, as redis-py does since 5.3."""
    if not hasattr(client, "_event_dispatcher"):
        return
    from redis.event import AfterSingleConnectionInstantiationEvent, ClientType

    client._event_dispatcher.dispatch(
        AfterSingleConnectionInstantiationEvent(
            client.connection, ClientType.ASYNC, client._single_conn_lock
        )
    )


class Redis(_core.RedisCommands, _peer.Redis):  # type: ignore[misc]
    """
    redis.asyncio.Redis on the native engine: the same constructor, methods, results and errors.

    Commands of all tasks, event loops and threads go over a few shared connections. Commands
    that block or change a connection's state, WATCH, client() and single_connection_client get
    connections of their own, at most max_connections, for which they wait. pubsub() and monitor()
    are redis-py's. So is everything else if the pool asks for TLS, RESP3, Sentinel, a credential
    provider, a connect function, or a connection, encoder or parser class of its own.
    """

    # The C base keeps _engine (None: every method is redis-py's) and _custom_callbacks
    # (True: every command goes through _execute_python).
    _native: Native | None = None

    _callbacks: Any
    _connection: Any = None

    if not TYPE_CHECKING:  # type checkers see redis-py's constructor

        @functools.wraps(_peer.Redis.__init__)
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            callbacks = ResponseCallbacks(self._callbacks)
            callbacks.attach(self)
            self._callbacks = callbacks
            self._custom_callbacks = self.single_connection_client or not REPLIES_KNOWN

    @classmethod
    def _uses_native_path(cls) -> bool:
        return is_original(_peer.Redis, "execute_command") and all(
            getattr(cls, name, None) is getattr(Redis, name, None)
            and is_original(_peer.Redis, name)
            for name in _PATH_METHODS
        )

    def __copy__(self) -> Redis:
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._bind()
        copy._custom_callbacks = self._custom_callbacks
        if isinstance(copy._callbacks, ResponseCallbacks):
            copy._callbacks.attach(copy)
        return copy

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__}({describe(self.connection_pool)})>"

    def _bind(self) -> None:
        """Takes the native path unless somebody put a connection of redis-py's into place."""
        connection = self._connection
        foreign = connection is not None and not isinstance(connection, SessionConnection)
        native = self._native
        self._engine = None if native is None or foreign else native.engine

    @property
    def connection_pool(self) -> Any:
        """The pool, whose configuration the engine has; another one has another engine."""
        return self._pool

    @connection_pool.setter
    def connection_pool(self, pool: Any) -> None:
        self._pool = pool
        self._native = native_of(pool) if self._uses_native_path() else None
        self._bind()

    @property
    def connection(self) -> Any:
        """The connection of a single_connection_client once it has one, else None."""
        return self._connection

    @connection.setter
    def connection(self, connection: Any) -> None:
        self._connection = connection
        self._bind()

    @connection.deleter
    def connection(self) -> None:
        del self._connection

    @property
    def response_callbacks(self) -> Any:
        """The table that turns replies into results, by command name; changes take effect."""
        return self._callbacks

    @response_callbacks.setter
    def response_callbacks(self, callbacks: Any) -> None:
        self._callbacks = callbacks
        self._callbacks_changed()

    def _callbacks_changed(self) -> None:
        self._custom_callbacks = True

    async def initialize(self) -> Redis:
        """
        Connects a single_connection_client; other clients connect with their first command.

        Raises what redis-py raises when it cannot connect: ConnectionError, TimeoutError,
        AuthenticationError, ResponseError. Returns the client.
        """
        native = self._native
        if native is None or self._engine is None or not self.single_connection_client:
            await super().initialize()
            return self
        async with self._single_conn_lock:
            if self._connection is None:
                connection = SessionConnection(native)
                await connection.connect()
                self.connection = connection
        _announce(self)
        return self

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """
        Closes the client's own connection, and the pool if it is the client's.

        close_connection_pool: True or False decides about the pool; None leaves it to
            auto_close_connection_pool, which is True if the client made its pool.
        """
        connection = self._connection
        if isinstance(connection, SessionConnection):
            self.connection = None
            # Commands may have changed its state (SELECT, CLIENT SETNAME): nobody else's.
            await connection.disconnect()
        await super().aclose(close_connection_pool)
        close = close_connection_pool
        if self._native is not None and (
            self.auto_close_connection_pool if close is None else close
        ):
            # A pool of a user's own class does not know of the engine.
            self._native.engine.disconnect()

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """
        A pipeline that buffers commands and sends them as one unit.

        transaction: wrap them in MULTI and EXEC.
        """
        return Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def set_retry(self, retry: Retry) -> None:
        """Replaces the Retry object for all clients of the pool, at once."""
        super().set_retry(retry)
        if self._native is not None:
            self._native.rules.replace(retry)

    async def _execute_python(self, *args: Any, **options: Any) -> Any:
        """
        A command whose reply is converted by self.response_callbacks alone.

        The C methods and execute_command call it while _custom_callbacks is set.
        """
        native = self._native
        assert native is not None  # or there would be no way here
        never_decode = NEVER_DECODE in options
        try:
            if self.single_connection_client:
                reply = await self._execute_single(native, args, never_decode)
            else:
                reply = await native.engine.execute(*args, never_decode=never_decode)
        except ResponseError as error:
            reply = error
        return await finish(self._callbacks, args[0], reply, options)

    async def _execute_single(self, native: Native, args: Any, never_decode: bool) -> Any:
        """One command at a time on the client's own connection, in the order of the calls."""
        if self._connection is None:
            await self.initialize()
        connection = self._connection
        async with self._single_conn_lock:

            async def fail(error: Exception) -> None:
                await connection.disconnect()
                if not native.rules.names(error):
                    raise error

            return await native.rules.run(
                lambda: connection.execute(*args, never_decode=never_decode), fail
            )


StrictRedis = Redis


def __getattr__(name: str) -> Any:
    return getattr(_peer, name)
