"""A connection of one's own: what `client.connection` and `pipeline.connection` hold."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis.exceptions import DataError, ResponseError

from ._engine import Native

# What a refused command raises before anything was sent.
_REFUSED = (DataError, NotImplementedError)


class SessionConnection:
    """
    An engine's exclusive connection behind the part of redis-py's Connection that clients use.

    Like redis-py's it connects when first used and again after it was lost or disconnected, and
    any failure but an error reply or a refused argument closes it: nobody knows what state a
    connection is in whose command was cut off. Configuration (host, port, db, retry, encoder,
    pack_command, ...) is read from the redis-py connection the engine was made from.

    Used by one task at a time; its user takes care of that.
    """

    def __init__(self, native: Native) -> None:
        self._native = native
        self._session: Any | None = None
        self._sent: deque[asyncio.Task[Any]] = deque()
        self._changed = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._native.connection, name)

    def __repr__(self) -> str:
        pieces = ",".join(f"{key}={value}" for key, value in self.repr_pieces())
        return f"<{type(self).__module__}.{type(self).__name__}({pieces})>"

    def __del__(self) -> None:
        self._close()

    @property
    def is_connected(self) -> bool:
        """True while a connection is held and not known to be lost."""
        return self._session is not None and not self._session.closed

    async def connect(self) -> None:
        """Takes a connection if none is held. Waits while max_connections are in use."""
        if not self.is_connected:
            self._close()
            self._session = await self._native.engine.session()
            self._changed = False

    async def disconnect(self, nowait: bool = False) -> None:
        """Closes the connection; the next command opens another."""
        self._close()

    def mark_changed(self) -> None:
        """Says that commands changed the connection's state, so that nobody else gets it."""
        self._changed = True

    def release(self) -> None:
        """Gives the connection back for others to use, if it still is as it was."""
        if self._sent or self._changed:
            self._close()
        session, self._session = self._session, None
        if session is not None:
            session.release(discard=session.closed)

    def _close(self) -> None:
        session, self._session = self.__dict__.get("_session"), None
        sent, self._sent = self.__dict__.get("_sent", ()), deque()
        for task in sent:
            task.cancel()
        if session is not None:
            session.release(discard=True)

    async def execute(self, *args: Any, never_decode: bool = False) -> Any:
        """Sends one command and returns its raw reply; an error reply is raised."""
        await self.connect()
        # WATCH and UNWATCH come in pairs here; the pipeline that watches sees to it.
        if args[0] not in ("WATCH", "UNWATCH") and self._native.engine.needs_own((args,)):
            self._changed = True
        options = {"never_decode": True} if never_decode else {}
        try:
            return await self._session.execute(*args, **options)  # type: ignore[union-attr]
        except (ResponseError, *_REFUSED):
            raise
        except BaseException:
            self._close()
            raise

    async def pipeline(self, commands: list[Sequence[Any]]) -> list[Any]:
        """Sends commands as one unit; error replies are in the list as exception instances."""
        await self.connect()
        try:
            return await self._session.pipeline(commands)  # type: ignore[union-attr]
        except _REFUSED:
            raise
        except BaseException:
            self._close()
            raise

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        """Sends a command whose reply is fetched by read_response(), in order."""
        await self.connect()
        self._sent.append(asyncio.ensure_future(self.execute(*args, never_decode=True)))
        await asyncio.sleep(0)

    async def read_response(
        self,
        disable_decoding: bool = False,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        The reply of the oldest command sent by send_command().

        timeout: seconds to wait; None is returned when they are over, and the reply can still be
            fetched by another call.
        """
        if not self._sent:
            raise ResponseError("no command was sent")
        task = self._sent[0]
        if timeout is not None:
            await asyncio.wait([task], timeout=timeout)
            if not task.done():
                return None
        try:
            reply = await asyncio.shield(task)
        finally:
            if task.done() and self._sent and self._sent[0] is task:
                self._sent.popleft()
        return reply if disable_decoding else self._decode(reply)

    def _decode(self, reply: Any) -> Any:
        if isinstance(reply, list):
            return [self._decode(item) for item in reply]
        return self._native.connection.encoder.decode(reply)
