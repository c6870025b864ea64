"""Servers that are not there, stop, come back, take their time; calls that are given up."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest
from faultkit import run
from grpckit import ECHO, SIZE, SLEEP, GrpcServer, Relay, call

from arshai_native._core import GrpcChannel, GrpcError

pytest_plugins = ("faultfixtures", "grpcfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

MB = 1 << 20
DEADLINE, UNAVAILABLE = 4, 14


@contextlib.contextmanager
def fails(code, match=None):
    with pytest.raises(GrpcError, match=match) as caught:
        yield caught
    assert caught.value.code == code, caught.value


# ---- where nobody is ----


def test_nobody_listens(channel_to, unary):
    with GrpcServer() as server:
        pass
    channel = channel_to(server)
    for _ in range(5):
        start = time.monotonic()
        with fails(UNAVAILABLE, f"127.0.0.1:{server.port}.*is the server running"):
            unary(channel, ECHO, b"x", 10)
        assert time.monotonic() - start < 3


def test_no_such_host(unary):
    channel = GrpcChannel("no-such-host.invalid", 1)
    with fails(UNAVAILABLE, r"no-such-host\.invalid:1"):
        unary(channel, ECHO, b"x", 10)


def test_no_such_path(unary, tmp_path):
    for path in (str(tmp_path / "none"), str(tmp_path / ("x" * 200))):
        with fails(UNAVAILABLE, "failed to connect"):
            unary(GrpcChannel(path=path), ECHO, b"x", 10)


def test_a_server_that_accepts_and_says_nothing(unary):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with fails(UNAVAILABLE, "timed out"):
            unary(GrpcChannel("127.0.0.1", port, connect_timeout=0.2), ECHO, b"x", 10)
        with fails(DEADLINE, "no connection"):
            unary(GrpcChannel("127.0.0.1", port), ECHO, b"x", 0.2)


def test_ready(channel_to):
    """It waits for a server that comes later; unary() does so when asked to."""
    with GrpcServer() as server:
        server.kill()
        channel = channel_to(server)
        with fails(DEADLINE):
            channel.ready_sync(0.2)

        async def main():
            with fails(DEADLINE):
                await channel.ready(0.2)
            ready = asyncio.ensure_future(channel.ready(30))
            patient = asyncio.ensure_future(channel.unary(ECHO, b"x", 30, wait_for_ready=True))
            await asyncio.sleep(0.1)
            assert not ready.done() and not patient.done()
            await asyncio.to_thread(server.start)
            assert await ready is None
            assert await patient == b"x"

        run(main)
        channel.ready_sync(5)


# ---- servers that stop ----


def test_restarted_server(channel_to, unary, own_grpc_server):
    """Between calls nobody notices; a call under way ends."""
    channel = channel_to(own_grpc_server)
    for _ in range(3):
        assert unary(channel, ECHO, b"x", 20) == b"x"
        own_grpc_server.kill()
        with fails(UNAVAILABLE):
            unary(channel, ECHO, b"x", 20)
        own_grpc_server.start()
        assert unary(channel, ECHO, b"x", 20) == b"x"
        own_grpc_server.kill()
        own_grpc_server.start()
        assert unary(channel, ECHO, b"x", 20) == b"x"


def test_killed_with_calls_under_way(channel_to, own_grpc_server):
    channel = channel_to(own_grpc_server)

    async def main():
        await channel.ready(10)
        calls = [asyncio.ensure_future(channel.unary(SLEEP, b"30")) for _ in range(30)]
        await asyncio.sleep(0.3)
        own_grpc_server.kill()
        for done in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(done, GrpcError) and done.code == UNAVAILABLE
            assert "was lost" in done.details

    run(main)


def test_keepalive_without_a_timeout_ends_no_connection(channel_to, grpc_server, unary):
    channel = channel_to(grpc_server, keepalive=0.05, keepalive_timeout=None)
    unary(channel, SLEEP, b"0.5", 20)


def test_frozen_server(channel_to, own_grpc_server, unary):
    """A deadline ends the call; the keepalive finds out without one."""
    channel = channel_to(own_grpc_server, keepalive=0.3, keepalive_timeout=0.3)
    assert unary(channel, ECHO, b"x") == b"x"
    own_grpc_server.freeze()
    start = time.monotonic()
    with fails(DEADLINE):
        unary(channel, ECHO, b"x", 0.2)
    with fails(UNAVAILABLE, "keepalive"):
        unary(channel, ECHO, b"x" * MB)
    assert time.monotonic() - start < 10
    own_grpc_server.thaw()
    assert unary(channel, ECHO, b"x", 20) == b"x"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("limit", [1, 8, 9, 30, 60, 90, 1000, 20_000, 3 * MB])
def test_cut_off_anywhere(grpc_server, limit, reset):
    with Relay(grpc_server.port, down_limit=limit, reset=reset) as relay:
        channel = GrpcChannel(relay.host, relay.port)
        with fails(UNAVAILABLE):
            channel.unary_sync(SIZE, b"%d" % (4 * MB), 20)
        relay.down_limit = None
        assert len(channel.unary_sync(SIZE, b"%d" % (4 * MB), 20)) == 4 * MB
        channel.close()


def test_lost_between_calls(channel_to, grpc_server):
    """What was never sent goes over the next connection, without a word."""
    with Relay(grpc_server.port) as relay:
        channel = channel_to(relay)

        async def main():
            for n in range(30):
                assert await channel.unary(ECHO, b"%d" % n, 20) == b"%d" % n
                relay.cut()
                await asyncio.sleep(0.02)
            assert relay.accepted == 30

        run(main)


# ---- given up ----


def test_deadlines(channel_to, unary, grpc_server):
    channel = channel_to(grpc_server)
    for seconds in (0, 1e-6, 0.05, 0.3):
        start = time.monotonic()
        with fails(DEADLINE):
            unary(channel, SLEEP, b"1", seconds)
        assert seconds - 0.002 <= time.monotonic() - start < seconds + 3
    assert unary(channel, ECHO, b"x", 1e12) == b"x"


def test_cancelled_at_every_stage(channel_to, grpc_server, kind):
    """A moment later each: while connecting, sent, answered. Others go on."""
    with Relay(grpc_server.port) as relay:

        async def main():
            for n in range(60):
                channel = channel_to(relay)
                given_up = [
                    asyncio.ensure_future(channel.unary(method, message))
                    for method, message in (
                        (ECHO, b"x" * 300_000),
                        (SIZE, b"300000"),
                        (SLEEP, b"0.1"),
                    )
                ]
                wanted = asyncio.ensure_future(channel.unary(ECHO, b"%d" % n, 20))
                for _ in range(n % 20):
                    await asyncio.sleep(0)
                if n >= 20:
                    await asyncio.sleep(0.0003 * (n - 20))
                for task in given_up:
                    task.cancel()
                for done in await asyncio.gather(*given_up, return_exceptions=True):
                    assert isinstance(done, (bytes, asyncio.CancelledError))
                assert await wanted == b"%d" % n
                assert await channel.unary(ECHO, b"after", 20) == b"after"
                channel.close()

        run(main, kind)


def test_wait_for(channel_to, grpc_server):
    channel = channel_to(grpc_server)

    async def main():
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(channel.unary(SLEEP, b"0.5"), 0.02)
        assert await channel.unary(ECHO, b"x", 20) == b"x"

    run(main)


def test_late_replies_reach_nobody(channel_to, grpc_server):
    """Every reply belongs to its call, however many are given up in between."""
    channel = channel_to(grpc_server)

    async def one(n):
        message = b"%d " % n * 2000
        try:
            reply = await asyncio.wait_for(channel.unary(ECHO, message, 20), 0.002 * (n % 7))
        except TimeoutError:
            return 0
        assert reply == message
        return 1

    async def main():
        total = sum(await asyncio.gather(*(one(n) for n in range(400))))
        assert await channel.unary(ECHO, b"x", 20) == b"x"
        return total

    assert run(main) < 400


def test_what_nobody_takes(channel_to, grpc_server):
    """A request that the server does not read: cancelled and overdue, it holds nobody up."""
    with Relay(grpc_server.port) as relay:
        channel = channel_to(relay)

        async def main():
            assert await channel.unary(ECHO, b"x", 20) == b"x"
            relay.flowing.clear()
            big = [asyncio.ensure_future(channel.unary(ECHO, bytes(40 * MB))) for _ in range(3)]
            await asyncio.sleep(0.2)
            with fails(DEADLINE):
                await channel.unary(ECHO, b"x", 0.1)
            big[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await big[0]
            relay.flowing.set()
            assert await channel.unary(ECHO, b"x", 20) == b"x"
            assert [len(reply) for reply in await asyncio.gather(*big[1:])] == [40 * MB] * 2

        run(main)


def test_signals_while_waiting(grpc_server):
    """A blocking call serves signals: an exception of a handler ends it."""
    import signal

    class Stop(Exception):
        pass

    def handler(*_):
        raise Stop

    channel = GrpcChannel(grpc_server.host, grpc_server.port)
    before = signal.signal(signal.SIGUSR1, handler)
    main_thread = threading.main_thread().ident
    threading.Timer(0.2, lambda: signal.pthread_kill(main_thread, signal.SIGUSR1)).start()
    try:
        with pytest.raises(Stop):
            channel.unary_sync(SLEEP, b"5")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert call(channel, "sync", ECHO, b"x", 20) == b"x"
