"""One connection, used in two ways: awaited, or blocking.

An operation is written once, as a coroutine over one of the two; over the blocking one it waits
for nothing that an event loop would have to give it, and is driven to its end on the spot.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from pymilvus.client.call_context import CallContext
from pymilvus.client.connection_manager import ConnectionConfig
from pymilvus.client.grpc_handler import GrpcHandler
from pymilvus.client.prepare import Prepare
from pymilvus.client.types import Status
from pymilvus.client.utils import check_status
from pymilvus.decorators import retry_on_rpc_failure
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import milvus_pb2

from arshai_native._gather import Gatherer
from arshai_native._original import drive
from arshai_native.milvus._connection import AnyLoopLock, NativeHandler
from arshai_native.milvus._sdk import SERVICE

from ._blocking import BlockingChannel, send

CONNECT_TIMEOUT = 10.0  # as pymilvus's


class Connection:
    """The channel, and what goes with each of its calls."""

    def __init__(self, config: ConnectionConfig, timeout: float | None) -> None:
        self.config = config
        options = config.get_handler_kwargs()
        arguments = {
            "uri": config.uri, "address": config.address, "token": config.token,
            "db_name": config.db_name,
        } | options  # fmt: skip
        self.handler = NativeHandler(**arguments)
        native = self.handler.native
        if native is None:
            raise NotImplementedError(
                f"{config.address} is reached through a proxy, or with an option of grpc's that "
                "the native connection does not have"
            )
        self.channel = native
        self.sync_handler = GrpcHandler(channel=BlockingChannel(native), **arguments)
        self._context = CallContext(config.db_name)
        self._timeout = CONNECT_TIMEOUT if timeout is None else timeout
        self._constant = native.added_metadata() or ()
        self.waiting = Waiting(self)
        self.blocking = Blocking(self)

    @property
    def context(self) -> CallContext:
        return self._context

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return (*self._context.to_grpc_metadata(), *self._constant)

    async def introduce(self, io: Waiting | Blocking) -> None:
        """The call with which pymilvus opens a connection."""
        user = self.config.get_handler_kwargs().get("user") or ""
        request = Prepare.register_request(user, socket.gethostname())
        try:
            reply = await io.unary(
                SERVICE + "Connect", request.SerializeToString(), self._timeout, named=False
            )
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                return  # a server of before 2.2 knows nobody by name
            raise MilvusException(
                code=Status.CONNECT_FAILED,
                message=f"Fail connecting to server on {self.config.address}, illegal connection "
                "params or server unavailable",
            ) from error
        response = milvus_pb2.ConnectResponse.FromString(reply)
        check_status(response.status)
        self._constant = (
            *(self.channel.added_metadata() or ()),
            ("identifier", str(response.identifier)),
        )

    def unnamed(self) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata of a call before introduce()."""
        return self.channel.added_metadata() or ()

    def close(self) -> None:
        drive(self.channel.close())


class Waiting:
    """Calls that are awaited, on any event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._locks: dict[str, AnyLoopLock] = {}
        self._flushers: dict[tuple[int, str], tuple[Any, Gatherer]] = {}

    async def unary(
        self, method: str, message: bytes, timeout: float | None = None, named: bool = True
    ) -> bytes:
        connection = self._connection
        metadata = connection.metadata() if named else connection.unnamed()
        return await connection.channel.send(method, message, timeout, metadata)

    async def handle(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A method of pymilvus's handler."""
        connection = self._connection
        method = getattr(connection.handler, name)
        return await method(*args, context=connection.context, **kwargs)

    def alone(self, collection: str) -> Any:
        """A lock for one collection: async with."""
        return self._locks.setdefault(collection, AnyLoopLock())

    async def retried(
        self, name: str, operation: Callable[[], Awaitable[Any]], first: Exception | None
    ) -> Any:
        """As often as pymilvus would. first: how the first attempt has ended, if there was one."""
        outcomes = [] if first is None else [first]

        async def attempt(_: Any) -> Any:
            if outcomes:
                raise outcomes.pop()
            return await operation()

        attempt.__name__ = name
        return await retry_on_rpc_failure()(attempt)(self)

    async def flush(self, collection: str) -> None:
        """One flush does for all who ask for it while another one is under way."""
        loop = asyncio.get_running_loop()
        key = (id(loop), collection)
        found = self._flushers.get(key)
        if found is None or found[0] is not loop:
            for each in [e for e, kept in list(self._flushers.items()) if kept[0].is_closed()]:
                self._flushers.pop(each, None)

            async def send(callers: list[Any]) -> list[Any]:
                await self.handle("flush", [collection])
                return callers

            never = 1 << 60
            gatherer = Gatherer(
                send, batch=never, max_bytes=never, limit=1, wait=60, divisible=lambda _: False
            )
            self._flushers[key] = found = (loop, gatherer)
        await found[1].call([None], 0)


class Blocking:
    """Calls that block their thread. Coroutines over them never wait: see drive()."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._locks: dict[str, threading.Lock] = {}

    async def unary(
        self, method: str, message: bytes, timeout: float | None = None, named: bool = True
    ) -> bytes:
        connection = self._connection
        metadata = connection.metadata() if named else connection.unnamed()
        return send(connection.channel, method, message, timeout, metadata)

    async def handle(self, name: str, *args: Any, **kwargs: Any) -> Any:
        connection = self._connection
        method = getattr(connection.sync_handler, name)
        return method(*args, context=connection.context, **kwargs)

    @asynccontextmanager
    async def alone(self, collection: str) -> AsyncIterator[None]:
        with self._locks.setdefault(collection, threading.Lock()):
            yield

    async def retried(
        self, name: str, operation: Callable[[], Awaitable[Any]], first: Exception | None
    ) -> Any:
        outcomes = [] if first is None else [first]

        def attempt(_: Any) -> Any:
            if outcomes:
                raise outcomes.pop()
            coroutine: Any = operation()
            return drive(coroutine)

        attempt.__name__ = name
        return retry_on_rpc_failure()(attempt)(self)

    async def flush(self, collection: str) -> None:
        await self.handle("flush", [collection])
