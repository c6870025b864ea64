"""Gathering: small calls that wait at the same moment travel as one request.

A call that finds nothing under way goes at once, alone. While requests are under way, further
calls wait together; they go out when one of these has returned, when they fill a request, or when
the first of them has waited for `wait` seconds. That last is no pause to see who else might come,
as nobody waits who is alone: it bounds what a slow reply, or one that never comes, costs the
others. When a request of several returns, those that it has answered have their turn first: what
they ask next, if it is at once, goes with the others.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from arshai_native._api_errors import copy_of


class _Call:
    """One caller that waits, and what it asks for."""

    __slots__ = ("alone", "future", "items", "request", "size", "waiting")

    def __init__(self, future: asyncio.Future[Any], items: list[Any], size: int) -> None:
        self.future = future
        self.items = items
        self.size = size
        self.alone = False  # has been in a request that failed, and is tried again by itself
        self.waiting = True  # in the queue, not given up
        self.request: _Request | None = None


class _Request:
    """A request of several callers, and how many of them still want it."""

    __slots__ = ("calls", "task", "wanted")

    def __init__(self, calls: list[_Call]) -> None:
        self.calls = calls
        self.wanted = len(calls)
        self.task: asyncio.Task[None] | None = None


class Gatherer:
    """
    Gathers the calls of one event loop; used on its thread only.

    send: coroutine function, items to their results in order, as anything that can be sliced.
    batch, max_bytes: items of a request at most, and of their sizes. limit: requests under way at
    most. wait: see above. divisible: whether an error may be due to one of the inputs, so that
    each of the request's calls is worth another attempt by itself.
    """

    def __init__(
        self,
        send: Callable[[list[Any]], Awaitable[Any]],
        *,
        batch: int,
        max_bytes: int,
        limit: int,
        wait: float,
        divisible: Callable[[Exception], bool],
    ) -> None:
        self._send = send
        self._batch = batch
        self._max_bytes = max_bytes
        self._limit = limit
        self._wait = wait
        self._divisible = divisible
        self._under_way = 0
        self._queue: deque[_Call] = deque()  # with those given up, until their turn comes
        self._items = 0  # in the queue, without those
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._turning = False  # what waits goes when this turn of the loop is over
        self._requests: set[_Request] = set()  # a loop holds its tasks weakly
        # Of those that wait. Not held: who keeps a gatherer for a loop looks it up by that.
        self._loop: Callable[[], asyncio.AbstractEventLoop | None] = lambda: None

    async def call(self, items: list[Any], size: int) -> Any:
        """The results for one caller's items; size: their bytes. Fewer items than a batch."""
        if self._under_way == 0 and not self._turning:
            self._under_way = 1
            try:
                return await self._send(items)
            finally:
                self._returned()
        loop = asyncio.get_running_loop()
        self._loop = weakref.ref(loop)
        call = _Call(loop.create_future(), items, size)
        self._queue.append(call)
        self._items += len(items)
        self._bytes += size
        if self._full():
            self._pump(False)
        elif self._timer is None and not self._turning:
            self._timer = loop.call_later(self._wait, self._waited)
        try:
            results, start, end = await call.future
        except asyncio.CancelledError:
            self._given_up(call)
            raise
        # Only now, as results may be made when they are asked for: see MilvusParts.
        return results[start:end]

    def _full(self) -> bool:
        return self._items >= self._batch or self._bytes >= self._max_bytes

    def _returned(self, answered: int = 1) -> None:
        self._under_way -= 1
        if (self._queue or answered > 1) and not self._turning and self._loop_runs():
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turned)

    def _loop_runs(self) -> bool:
        """False: what runs here is thrown away together with its loop, and so are all who wait."""
        loop = self._loop()
        return loop is not None and asyncio._get_running_loop() is loop

    def _turned(self) -> None:
        self._turning = False
        self._pump(True)

    def _waited(self) -> None:
        self._timer = None
        self._pump(True)

    def _given_up(self, call: _Call) -> None:
        if call.waiting:
            self._leaves(call)
            if self._items == 0:
                self._queue.clear()
                self._stop_timer()
        elif call.request is not None:
            call.request.wanted -= 1
            if call.request.wanted == 0 and call.request.task is not None:
                call.request.task.cancel()

    def _leaves(self, call: _Call) -> None:
        """The call is no longer one that waits in the queue."""
        call.waiting = False
        self._items -= len(call.items)
        self._bytes -= call.size

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pump(self, everything: bool) -> None:
        """Sends what may go: full requests, or all that waits."""
        while self._items and self._under_way < self._limit and (everything or self._full()):
            calls = self._take()
            if calls:
                self._start(calls)
        if self._items == 0:
            self._queue.clear()
            self._stop_timer()

    def _take(self) -> list[_Call]:
        """The next request's calls; none if those that wait have all been given up."""
        taken: list[_Call] = []
        count = size = 0
        while self._queue:
            call = self._queue[0]
            if call.waiting and call.future.done():
                self._leaves(call)  # given up in this turn: it has not been told yet
            if call.waiting:
                if taken and (
                    call.alone
                    or count + len(call.items) > self._batch
                    or size + call.size > self._max_bytes
                ):
                    break
                taken.append(call)
                count += len(call.items)
                size += call.size
                self._leaves(call)
            self._queue.popleft()
            if call.alone and taken:
                break
        return taken

    def _start(self, calls: list[_Call]) -> None:
        request = _Request(calls)
        for call in calls:
            call.request = request
        self._under_way += 1
        self._requests.add(request)
        request.task = asyncio.get_running_loop().create_task(self._run(request))
        # For a task that somebody cancels before its first step, which runs nothing of _run().
        request.task.add_done_callback(lambda _: self._finished(request))

    def _finished(self, request: _Request) -> None:
        if request in self._requests:
            self._requests.remove(request)
            for call in request.calls:
                if not call.future.done() and call.request is request and self._loop_runs():
                    call.future.cancel()
            answered = len(request.calls)
            # Calls know their request, too: in a circle they, and the results that their futures
            # hold, would stay until the garbage collector has found them.
            request.calls = []
            self._returned(answered)

    async def _run(self, request: _Request) -> None:
        calls = request.calls
        try:
            results = await self._send([item for call in calls for item in call.items])
            start = 0
            for call in calls:
                end = start + len(call.items)
                if not call.future.done():
                    call.future.set_result((results, start, end))
                start = end
        except Exception as error:
            self._failed(calls, error)
        finally:
            self._finished(request)

    def _failed(self, calls: list[_Call], error: Exception) -> None:
        if len(calls) > 1 and self._divisible(error):
            for call in reversed(calls):
                if not call.future.done():
                    call.request = None
                    call.alone = call.waiting = True
                    self._queue.appendleft(call)
                    self._items += len(call.items)
                    self._bytes += call.size
            return
        for call in calls:
            if not call.future.done():
                call.future.set_exception(error if len(calls) == 1 else copy_of(error))
