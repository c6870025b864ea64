"""Pipelines that leave in one piece through the native engine."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import redis.asyncio.client as _peer
from redis.asyncio.client import CommandStackT, ResponseCallbackT
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import (
    ConnectionError,
    ExecAbortError,
    RedisError,
    ResponseError,
    WatchError,
)

from ._callbacks import finish
from ._engine import Native, is_original, native_of
from ._retry import ONLY_NAMED
from ._session import SessionConnection


def _is_untouched() -> bool:
    # Instrumentation wraps these two.
    return is_original(_peer.Pipeline, "execute") and is_original(
        _peer.Pipeline, "immediate_execute_command"
    )


def _lost(error: Exception) -> WatchError:
    # In the words of redis-py, which changed with version 6.
    if ONLY_NAMED:
        return WatchError("A ConnectionError occurred on while watching one or more keys")
    return WatchError(f"A {type(error).__name__} occurred while watching one or more keys")


def _raise_lost(replies: list[Any]) -> None:
    # LOADING and NOAUTH are no answers to a command: redis-py gives up the whole unit.
    for reply in replies:
        if isinstance(reply, ConnectionError):
            raise reply


class Pipeline(_peer.Pipeline):
    """
    redis.asyncio's Pipeline over the native engine.

    Buffered commands go out as one contiguous unit on a connection they share with other
    tasks. Only WATCH, and what is executed at once between WATCH and multi(), needs a connection
    of its own, which is held until reset(). Where the pool has no native engine every method
    is redis-py's.
    """

    connection: Any | None

    def __init__(
        self,
        connection_pool: Any,
        response_callbacks: MutableMapping[str | bytes, ResponseCallbackT],
        transaction: bool,
        shard_hint: str | None,
    ) -> None:
        super().__init__(connection_pool, response_callbacks, transaction, shard_hint)
        self._native = native_of(connection_pool) if _is_untouched() else None
        # The last failure of a unit sent by the engine, which has applied the retry rules itself.
        self._engine_error: Exception | None = None

    async def reset(self) -> None:
        """Forgets buffered commands and watched keys and gives the connection back."""
        if self._native is None:
            await super().reset()
            return
        self.command_stack = []
        self.scripts = set()
        connection, self.connection = self.connection, None
        watching, self.watching = self.watching, False
        self.explicit_transaction = False
        if connection is None:
            return
        try:
            if watching and connection.is_connected:
                await connection.execute("UNWATCH")
        except RedisError:
            # A connection that is closed watches nothing either.
            await connection.disconnect()
        finally:
            connection.release()

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """
        Executes a command at once, on a connection of the pipeline's own.

        Raises WatchError if the connection is lost while keys are watched: the transaction has
        to be started again.
        """
        native = self._native
        if native is None:
            return await super().immediate_execute_command(*args, **options)
        connection = self.connection
        if connection is None:
            connection = SessionConnection(native)
            await connection.connect()
            self.connection = connection

        async def do() -> Any:
            self._check_watch(connection)
            try:
                reply = await connection.execute(*args, never_decode=NEVER_DECODE in options)
            except ResponseError as error:
                reply = error
            return await self._finish(args[0], reply, options)

        async def fail(error: Exception) -> None:
            await connection.disconnect()
            if self.watching:
                await self.aclose()
                raise _lost(error) from error
            if not native.rules.names(error):
                await self.aclose()
                raise error

        return await native.rules.run(do, fail)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """
        Sends the buffered commands and returns their results in order.

        raise_on_error: raise the first error reply; else it stands in the list as an instance.
        Raises WatchError if a watched key was changed or the connection that watched it is gone.
        """
        native = self._native
        if native is None:
            return await super().execute(raise_on_error)
        stack = self.command_stack
        if not stack and not self.watching:
            return []

        async def do() -> list[Any]:
            if self.is_transaction or self.explicit_transaction:
                return await self._run_transaction(native, stack, raise_on_error)
            return await self._run_pipeline(native, stack, raise_on_error)

        async def fail(error: Exception) -> None:
            if self.connection is not None:
                await self.connection.disconnect()
            if self.watching:
                raise _lost(error) from error
            if error is self._engine_error or not native.rules.names(error):
                raise error

        try:
            if self.scripts:
                await self.load_scripts()
            return await native.rules.run(do, fail)
        finally:
            self._engine_error = None
            await self.reset()

    async def load_scripts(self) -> None:
        """Loads the scripts that the buffered commands run and that the server does not have."""
        native = self._native
        if native is None:
            await super().load_scripts()
            return
        scripts = list(self.scripts)
        exists = await self._now(native, "SCRIPT EXISTS", *(script.sha for script in scripts))
        for script, exist in zip(scripts, exists, strict=True):
            if not exist:
                script.sha = await self._now(native, "SCRIPT LOAD", script.script)

    async def _now(self, native: Native, *args: Any) -> Any:
        """Executes a command that may share a connection, unless the pipeline has its own."""
        if self.connection is not None:
            return await self.immediate_execute_command(*args)
        return await self._finish(args[0], await native.engine.execute(*args), {})

    def _check_watch(self, connection: Any) -> None:
        # Connecting again would go on without the WATCH, and the transaction would no longer
        # notice what others write.
        if self.watching and not connection.is_connected:
            raise ConnectionError("Connection lost while watching")

    async def _finish(self, name: Any, reply: Any, options: Mapping[str, Any]) -> Any:
        result = await finish(self.response_callbacks, name, reply, options)
        if name in self.UNWATCH_COMMANDS:
            self.watching = False
        elif name == "WATCH":
            self.watching = True
        return result

    async def _send(
        self, native: Native, commands: Sequence[Sequence[Any]], transaction: bool
    ) -> list[Any]:
        """Raw replies of commands sent as one unit, in MULTI and EXEC; errors as instances."""
        own = bool(commands) and native.engine.needs_own(commands)
        unit = [("MULTI",), *commands, ("EXEC",)] if transaction else list(commands)
        connection = self.connection
        if not unit:
            return []
        if connection is not None:
            self._check_watch(connection)
            if own:
                connection.mark_changed()
            return await connection.pipeline(unit)
        if own:
            connection = SessionConnection(native)
            try:
                return await connection.pipeline(unit)
            finally:
                await connection.disconnect()
        try:
            return await native.engine.pipeline(unit)
        except Exception as error:
            self._engine_error = error
            raise

    async def _send_undecoded(self, native: Native, commands: CommandStackT) -> list[Any]:
        """As _send, for commands some of whose replies are not to be decoded."""
        own = native.engine.needs_own(args for args, _ in commands)
        connection = self.connection or SessionConnection(native)
        try:
            await connection.connect()
            # Each of them is sent when its task starts: in this order, with nothing between,
            # because the connection is the pipeline's.
            replies = await asyncio.gather(
                *(
                    connection.execute(*args, never_decode=NEVER_DECODE in options)
                    for args, options in commands
                ),
                return_exceptions=True,
            )
        finally:
            if own:
                connection.mark_changed()
            if connection is not self.connection:
                connection.release()
        for reply in replies:
            if isinstance(reply, BaseException) and not isinstance(reply, ResponseError):
                raise reply
        return replies

    async def _run_transaction(
        self, native: Native, commands: CommandStackT, raise_on_error: bool
    ) -> list[Any]:
        sent = [args for args, options in commands if EMPTY_RESPONSE not in options]
        replies = await self._send(native, sent, transaction=True)
        _raise_lost(replies)
        queued = iter(replies[:-1])

        # Places of the results that EXEC does not give: commands that were not sent, and
        # the errors of those that were refused.
        missing: list[tuple[int, Any]] = []
        begun = next(queued)
        if isinstance(begun, ResponseError):
            missing.append((0, begun))
        for place, (args, options) in enumerate(commands):
            if EMPTY_RESPONSE in options:
                missing.append((place, options[EMPTY_RESPONSE]))
                continue
            reply = next(queued)
            if isinstance(reply, ResponseError):
                self.annotate_exception(reply, place + 1, args)
                missing.append((place, reply))

        response = replies[-1]
        if isinstance(response, ExecAbortError) and missing:
            raise missing[0][1] from response
        if isinstance(response, Exception):
            raise response

        self.watching = False
        if response is None:
            raise WatchError("Watched variable changed.")
        response = list(response)
        for place, answer in missing:
            response.insert(place, answer)
        if len(response) != len(commands):
            if self.connection is not None:
                await self.connection.disconnect()
            raise ResponseError("Wrong number of response items from pipeline execution")
        if raise_on_error:
            self.raise_first_error(commands, response)

        results = []
        item: Any
        for item, (args, options) in zip(response, commands, strict=True):
            if not isinstance(item, Exception) and args[0] in self.response_callbacks:
                # Unlike parse_response, redis-py's transactions hand on every option but this.
                options = {name: value for name, value in options.items() if name != "keys"}
                item = self.response_callbacks[args[0]](item, **options)
                if inspect.isawaitable(item):
                    item = await item
            results.append(item)
        return results

    async def _run_pipeline(
        self, native: Native, commands: CommandStackT, raise_on_error: bool
    ) -> list[Any]:
        decode = native.connection.encoder.decode_responses
        if decode and any(NEVER_DECODE in options for _, options in commands):
            replies = await self._send_undecoded(native, commands)
        else:
            replies = await self._send(native, [args for args, _ in commands], transaction=False)
        _raise_lost(replies)
        response = []
        for (args, options), reply in zip(commands, replies, strict=True):
            try:
                response.append(await self._finish(args[0], reply, options))
            except ResponseError as error:
                response.append(error)
        if raise_on_error:
            self.raise_first_error(commands, response)
        return response
