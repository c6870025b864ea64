"""pymilvus's handler and connection manager over native channels.

A channel belongs to no event loop. So one manager serves all loops of the process, and clients of
several loops share a connection, where pymilvus has a manager for each loop.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import os
import pkgutil
import threading
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlparse

import grpc
from grpc._cython import cygrpc
from pymilvus.client.async_grpc_handler import AsyncGrpcHandler
from pymilvus.client.connection_manager import (
    AsyncConnectionManager,
    AsyncGlobalStrategy,
    AsyncRegularStrategy,
    ConnectionConfig,
    ConnectionStrategy,
    ManagedConnection,
)

from ._channel import NativeChannel, native_channel
from ._iterators import query_segment_info

logger = logging.getLogger("arshai_native.milvus")


class AnyLoopLock:
    """
    What asyncio.Lock is, for tasks of any event loops in any threads.

    It belongs to a waiter from the moment that this is taken from the queue, whatever becomes of
    that task or its loop: its coroutine then hands it on, be it when it is thrown away.
    """

    def __init__(self) -> None:
        # Again in the same thread: the garbage collector throws coroutines away at any place.
        self._guard = threading.RLock()
        self._held = False
        self._waiters: collections.deque[tuple[Any, asyncio.Future[None]]] = collections.deque()

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        waiter = (loop, loop.create_future())
        with self._guard:
            if not self._held:
                self._held = True
                return
            self._waiters.append(waiter)
        try:
            await waiter[1]
        except BaseException:  # also when the coroutine is thrown away with its loop
            with self._guard:
                waits = waiter in self._waiters
                if waits:
                    self._waiters.remove(waiter)
            if not waits:  # it is this one's already
                self._release()
            raise

    async def __aexit__(self, *_: Any) -> None:
        self._release()

    def _release(self) -> None:
        with self._guard:
            while self._waiters:
                loop, future = self._waiters.popleft()
                try:
                    loop.call_soon_threadsafe(_wake, future)
                except RuntimeError:  # its loop is closed
                    continue
                return
            self._held = False


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class QuietConfig(ConnectionConfig):
    """pymilvus's, which knows who asks from its token only, and does not show that."""

    def __init__(self, uri: str, *args: Any, **kwargs: Any) -> None:
        parsed = urlparse(uri)
        if "@" in parsed.netloc:
            uri = parsed._replace(netloc=parsed.netloc.rpartition("@")[2]).geturl()
        super().__init__(uri, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"


class NativeHandler(AsyncGrpcHandler):
    """pymilvus's handler, whose channels are native wherever the engine can serve them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reconnect_lock = AnyLoopLock()

    @property
    def native(self) -> NativeChannel | None:
        """The channel, None if it is grpc's own."""
        channel = self._async_channel
        return channel if type(channel) is NativeChannel else None

    @property
    def _stub(self) -> Any:
        return self._async_stub

    async def get_query_segment_info(self, *args: Any, **kwargs: Any) -> Any:
        return await query_segment_info()(self, *args, **kwargs)

    def _create_channel(self, address: str) -> Any:
        options: dict[str, Any] = {
            "grpc.keepalive_time_ms": 10000,
            "grpc.keepalive_timeout_ms": 5000,
            **self._grpc_options,
        }
        tls = None
        if self._secure:
            override = options.pop("grpc.ssl_target_name_override", "")
            tls = self._tls(self._server_name or override)
        channel = native_channel(address, options, tls)
        if channel is None:
            logger.debug("the connection to %s is grpc's own", address)
            return super()._create_channel(address)
        return channel

    def _tls(self, server_name: str) -> dict[str, Any]:
        """The files that pymilvus reads, of the same combinations of arguments."""
        ca = key = cert = None
        if self._server_pem_path:
            ca = Path(self._server_pem_path).read_bytes()
        elif self._client_pem_path and self._client_key_path and self._ca_pem_path:
            ca = Path(self._ca_pem_path).read_bytes()
            key = Path(self._client_key_path).read_bytes()
            cert = Path(self._client_pem_path).read_bytes()
        return {
            "ca": ca or _grpc_roots(os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")),
            "cert": cert,
            "key": key,
            "server_name": server_name or None,
            "verify": True,
        }


@cache
def _grpc_roots(path: str | None) -> bytes | None:
    """The certificates that grpc trusts by default; None for the system's."""
    if path:
        return Path(path).read_bytes()
    try:
        return pkgutil.get_data(cygrpc.__name__.rpartition(".")[0], "_credentials/roots.pem")
    except OSError:
        return None


class _RegularStrategy(AsyncRegularStrategy):
    def create_handler(self, config: ConnectionConfig) -> AsyncGrpcHandler:
        return NativeHandler(
            uri=config.uri,
            address=config.address,
            token=config.token,
            db_name=config.db_name,
            **config.get_handler_kwargs(),
        )


class _GlobalStrategy(AsyncGlobalStrategy):
    def create_handler(self, config: ConnectionConfig) -> AsyncGrpcHandler:
        topology = self._fetch_and_start_refresher(config)
        return NativeHandler(
            uri=topology.primary.endpoint,
            token=config.token,
            db_name=config.db_name,
            **config.get_handler_kwargs(),
        )


class NativeConnectionManager(AsyncConnectionManager):
    """The process's connections to Milvus."""

    _instances: ClassVar[dict[int, AsyncConnectionManager]] = {}
    _instances_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        super().__init__()
        self._any_lock = AnyLoopLock()

    def _get_lock(self) -> Any:
        return self._any_lock

    @classmethod
    def get_instance(cls) -> AsyncConnectionManager:
        with cls._instances_lock:
            if 0 not in cls._instances:
                cls._instances[0] = cls()
            return cls._instances[0]

    @classmethod
    def _after_fork(cls) -> None:
        cls._instances_lock = threading.Lock()
        cls._instances = {}

    def _get_strategy(self, config: ConnectionConfig) -> ConnectionStrategy:
        return _GlobalStrategy() if config.is_global else _RegularStrategy()

    async def release(self, handler: AsyncGrpcHandler, client: Any = None) -> None:
        # pymilvus keeps a shared connection whose last client has been closed until the process
        # ends; ours ends with it.
        await super().release(handler, client)
        async with self._get_lock():
            managed = self._get_managed(handler)
            if managed is None or managed.has_clients:
                return
            self._registry.pop(managed.config.key, None)
        await managed.strategy.close_async(managed)

    async def handle_error(self, handler: AsyncGrpcHandler, error: Exception) -> bool:
        # Many calls may fail over one connection; the first to get here has replaced it.
        channel = getattr(error, "_arn_channel", None)
        if (
            channel is not None
            and isinstance(error, grpc.RpcError)
            and error.code() == grpc.StatusCode.UNAVAILABLE
        ):
            async with self._get_lock():
                managed = self._get_managed(handler)
                if managed is not None and handler._async_channel is not channel:
                    return True
        return await super().handle_error(handler, error)

    def _get_managed(self, handler: AsyncGrpcHandler) -> ManagedConnection | None:
        # As pymilvus's, but for a registry that another thread may change meanwhile.
        handler_id = id(handler)
        if handler_id in self._dedicated:
            return self._dedicated[handler_id]
        for managed in list(self._registry.values()):
            if managed.handler is handler:
                return managed
        return None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=NativeConnectionManager._after_fork)
