"""What a native method returns, in all the hands that a coroutine can get into."""

import asyncio
import contextlib
import inspect
import warnings

import pytest
import redis.exceptions as errors
from faultkit import PEER, run, until
from faultproxy import stall

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")

native_only = pytest.mark.skipif(PEER, reason="coroutines are no futures")


async def awaited(request):
    return await request


# Ways to wait for a request.
WAYS = {
    "await": lambda request: request,
    "gather": lambda request: asyncio.gather(request),
    "wait_for": lambda request: asyncio.wait_for(request, 20),
    "shield": lambda request: asyncio.shield(request),
    "ensure_future": lambda request: asyncio.ensure_future(request),
    "create_task": lambda request: asyncio.create_task(request),
    "as_completed": lambda request: next(iter(asyncio.as_completed([request]))),
    "another coroutine": awaited,
}


@pytest.mark.parametrize("first", ["await", "create_task", "another coroutine"])
@pytest.mark.parametrize("again", WAYS)
def test_waiting_a_second_time(server, connect, kind, first, again):
    """RuntimeError, whatever became of it the first time, as for a coroutine. Nothing is sent."""

    async def main():
        async with connect(server) as client:
            await client.set("text", "x")
            for make in (
                lambda: client.incr("n"),
                lambda: client.lpush("text", 1),  # WRONGTYPE
                lambda: client.set("k", object()),  # refused before anything is sent
            ):
                request = make()
                with contextlib.suppress(errors.RedisError):
                    await WAYS[first](request)
                for _ in range(2):
                    with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
                        await asyncio.wait_for(awaited(WAYS[again](request)), 20)
            assert await client.get("n") == b"1"

    run(main, kind)


@pytest.mark.parametrize("again", WAYS)
def test_waiting_after_close_or_cancel(server, connect, again):
    async def main():
        async with connect(server) as client:
            closed = client.incr("n")
            closed.close()
            cancelled = client.blpop("l", 0)
            task = asyncio.create_task(cancelled)
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.wait([task])
            for request in (closed, cancelled):
                with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
                    await asyncio.wait_for(awaited(WAYS[again](request)), 20)
            assert await client.get("n") is None

    run(main)


def test_run_until_complete(server, connect):
    """Without any coroutine of the program's own, and refused when it is over."""
    client = connect(server)
    loop = asyncio.new_event_loop()
    try:
        request = client.set("k", "v")
        assert loop.run_until_complete(request) is True
        with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
            loop.run_until_complete(request)
        assert loop.run_until_complete(client.get("k")) == b"v"
        assert loop.run_until_complete(asyncio.wait_for(client.get("k"), 20)) == b"v"
        loop.run_until_complete(client.aclose())
    finally:
        loop.close()
    second = connect(server).get("k")
    assert asyncio.run(second) == b"v"
    with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
        asyncio.run(second)


# ---- watched by others than the task that awaits it ----


def outcome(request):
    """What a done callback can learn of it, in all ways it can ask."""
    assert request.done()
    found = [request.cancelled()]
    for ask in (request.result, request.exception):
        try:
            found.append(ask())
        except asyncio.CancelledError as error:
            found.append(type(error))
        except errors.RedisError as error:
            found.append(type(error))
    if isinstance(found[2], errors.RedisError):
        found[2] = type(found[2])
    return found


ENDS = {
    "result": [False, b"v", None],
    "error": [False, errors.ResponseError, errors.ResponseError],
    "cancelled": [True, asyncio.CancelledError, asyncio.CancelledError],
    "lost": [False, errors.ConnectionError, errors.ConnectionError],
}


@native_only
@pytest.mark.parametrize("end", ENDS)
def test_a_second_callback_sees_the_outcome(proxy, connect, kind, end):
    async def main():
        async with connect(proxy) as client:
            await client.set("k", "v")
            fault = proxy.on(lambda args: args[0] in (b"GET", b"LPUSH"), stall())
            request = client.lpush("k", 1) if end == "error" else client.get("k")
            task = asyncio.create_task(awaited(request))
            assert await until(fault.reached.is_set)
            seen = []
            request.add_done_callback(lambda r: seen.append(outcome(r)))
            forget = seen.append
            request.add_done_callback(forget)
            assert request.remove_done_callback(forget) == 1
            request.add_done_callback(lambda r: seen.append(outcome(r)), context=None)
            with pytest.raises(asyncio.InvalidStateError):
                request.result()
            if end == "cancelled":
                task.cancel()
            elif end == "lost":
                proxy.drop_all()
            fault.release()
            await asyncio.wait([task])
            await asyncio.sleep(0)
            assert seen == [ENDS[end]] * 2
            # and so does one that comes late
            request.add_done_callback(lambda r: seen.append(outcome(r)))
            await asyncio.sleep(0)
            assert seen == [ENDS[end]] * 3
            if end == "cancelled":
                assert task.cancelled()
            elif end == "result":
                assert task.result() == b"v"
            else:
                assert type(task.exception()) is ENDS[end][1]

    run(main, kind)


@native_only
def test_cancelled_as_a_future(proxy, connect, kind):
    """By somebody who has got hold of what the task waits for."""

    async def main():
        async with connect(proxy) as client:
            await client.set("k", "v")
            fault = proxy.on("GET", stall())
            request = client.get("k")
            task = asyncio.create_task(awaited(request))
            assert await until(fault.reached.is_set)
            assert request.cancel("enough")
            assert not request.cancel()
            with pytest.raises(asyncio.CancelledError, match="enough"):
                await task
            fault.release()
            assert await client.get("k") == b"v"

    run(main, kind)


# ---- what tools ask of a coroutine ----


def test_inspection(server, connect, kind):
    async def main():
        async with connect(server) as client:
            request = client.get("k")
            assert inspect.isawaitable(request) and asyncio.iscoroutine(request)
            assert inspect.getcoroutinestate(request) != inspect.CORO_RUNNING
            assert await request is None

            task = asyncio.create_task(client.blpop("l", 0), name="waits")
            await asyncio.sleep(0.05)
            coroutine = task.get_coro()
            assert inspect.getcoroutinestate(coroutine) in (
                inspect.CORO_SUSPENDED,
                inspect.CORO_CLOSED,  # there is no frame
            )
            for name in ("cr_await", "cr_frame", "cr_running", "__name__", "__qualname__"):
                getattr(coroutine, name)
            assert coroutine.__qualname__.endswith(coroutine.__name__)
            assert "waits" in repr(task)
            task.get_stack()
            task.cancel()
            await asyncio.wait([task])
            assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED

    run(main, kind)


def test_debug_mode(server, connect, kind, caplog):
    """asyncio's debug mode looks closer at tasks and callbacks."""

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 60
        async with connect(server) as client:
            assert await asyncio.gather(*(client.incr("n") for _ in range(50))) == list(
                range(1, 51)
            )
            with pytest.raises(errors.ResponseError):
                await asyncio.create_task(client.execute_command("NOSUCH"))
            task = asyncio.create_task(client.blpop("l", 0))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def debugged():
        asyncio.get_running_loop().set_debug(True)
        await main()

    run(debugged, kind)
    assert "Error" not in caplog.text


@native_only
def test_thrown_into(server, connect):
    async def main():
        async with connect(server) as client:
            request = client.get("k")
            with pytest.raises(KeyError, match="mine"):
                request.throw(KeyError("mine"))
            with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
                await request
            with pytest.raises(TypeError):
                client.get("k").throw(5)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last one was never awaited
        run(main)
