"""redis-py's retry rules in the form the engine asks for them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis import backoff as _backoff
from redis.asyncio.client import Redis
from redis.asyncio.retry import Retry

T = TypeVar("T")

# redis-py 5 retries a command only after errors that retry_on_error names, whatever else the Retry
# object supports. Later versions ask the Retry object alone.
ONLY_NAMED = hasattr(Redis, "_disconnect_raise")

# Backoffs whose compute() depends on its argument alone: one object may serve all commands.
_STATELESS = frozenset(
    getattr(_backoff, name)
    for name in (
        "NoBackoff",
        "ConstantBackoff",
        "ExponentialBackoff",
        "FullJitterBackoff",
        "EqualJitterBackoff",
        "ExponentialWithJitterBackoff",
    )
    if hasattr(_backoff, name)
)


class RetryRules:
    """
    Decides whether, and after how long, a failed command is sent again.

    The rules are those of a redis-py connection: an error is retried if the connection's Retry
    object supports its class and, with redis-py 5, its retry_on_error names it, at most as often as
    the Retry object says (a negative number: for ever), with the delays of its backoff.

    redis-py runs one command at a time on a connection, so that a backoff may keep the state
    of that command in itself. Here many commands share the rules. What a backoff remembers is
    therefore rebuilt for each failure: a copy of it is reset and asked for the delays of
    all failures of the command so far, the last of which is the answer.
    """

    __slots__ = ("_retry", "_retry_on_error")

    def __init__(self, retry: Retry, retry_on_error: list | None) -> None:
        """
        retry: the Retry object of a connection; it is never changed.
        retry_on_error: the connection's list of exception classes, or None.
        """
        self._retry = retry
        self._retry_on_error = retry_on_error

    @property
    def retry(self) -> Retry:
        return self._retry

    def replace(self, retry: Retry) -> None:
        """Takes over another Retry object, as a new connection would: a copy of it."""
        retry = copy.deepcopy(retry)
        if self._retry_on_error:
            retry.update_supported_errors(self._retry_on_error)
        self._retry = retry

    @property
    def can_retry(self) -> bool:
        """False if no error of any command would ever be retried, whatever set_retry does."""
        return bool(self._retry_on_error) or not ONLY_NAMED

    def supports(self, error: BaseException) -> bool:
        """True if redis-py would call its failure handler for this error."""
        return isinstance(error, self._retry._supported_errors)

    def names(self, error: BaseException) -> bool:
        """True if retry_on_error names the error's class, or need not."""
        named = self._retry_on_error
        if not ONLY_NAMED:
            return True
        return named is not None and isinstance(error, tuple(named))

    def delay(self, failures: int) -> float | None:
        """Seconds until the next attempt after so many failures of a command; None: give up."""
        retry = self._retry
        if 0 <= retry._retries < failures:
            return None
        backoff = retry._backoff
        if type(backoff) in _STATELESS:
            return max(0.0, backoff.compute(failures))
        backoff = copy.deepcopy(backoff)
        backoff.reset()
        seconds = 0.0
        for failure in range(1, failures + 1):
            seconds = backoff.compute(failure)
        return max(0.0, seconds)

    def __call__(self, error: BaseException, failures: int) -> float | None:
        """
        The engine's question: error has just been the failures-th failure of a command.

        Returns the seconds to wait before the command is sent again, None to raise the error.
        """
        if not self.supports(error) or not self.names(error):
            return None
        return self.delay(failures)

    async def run(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[[Exception], Awaitable[Any]],
    ) -> T:
        """
        Retry.call_with_retry for work whose failure handling stays in Python.

        do: the operation.
        fail: called with each supported error before the next attempt; raises to give up.
        """
        failures = 0
        while True:
            try:
                return await do()
            except Exception as error:
                if not self.supports(error):
                    raise
                failures += 1
                await fail(error)
                seconds = self.delay(failures)
                if seconds is None:
                    raise
            if seconds > 0:
                await asyncio.sleep(seconds)
