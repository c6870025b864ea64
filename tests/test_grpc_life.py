"""Channels, loops, threads and processes that come and go while calls are under way."""

import asyncio
import gc
import threading
import time

import pytest
from faultkit import child, run, wait_until
from grpckit import ECHO, SLEEP, Relay, descriptors

from arshai_native import _core
from arshai_native._core import GrpcChannel, GrpcError

pytest_plugins = ("faultfixtures", "grpcfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

CANCELLED, UNAVAILABLE = 1, 14
PRELUDE = """
import asyncio, os, sys, threading, time
from arshai_native._core import GrpcChannel, GrpcError
ECHO, SLEEP = "/test.Echo/echo", "/test.Echo/sleep"
channel = GrpcChannel("127.0.0.1", int(sys.argv[1]))
"""


def script(code, server, **options):
    done = child(code, server.port, prelude=PRELUDE, **options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_close(channel_to, grpc_server, kind):
    channel = channel_to(grpc_server)

    async def main():
        assert await channel.unary(ECHO, b"x") == b"x"
        under_way = [asyncio.ensure_future(channel.unary(SLEEP, b"20")) for _ in range(5)]
        made = channel.unary(ECHO, b"x")
        await asyncio.sleep(0.05)
        assert channel.closed is False
        start = time.monotonic()
        channel.close()
        channel.close()
        assert channel.closed is True and "closed" in repr(channel)
        for done in await asyncio.gather(*under_way, made, return_exceptions=True):
            assert isinstance(done, GrpcError) and done.code == CANCELLED
        assert time.monotonic() - start < 5
        with pytest.raises(ValueError, match="closed"):
            channel.unary(ECHO, b"x")
        with pytest.raises(ValueError, match="closed"):
            channel.ready_sync()

    run(main, kind)


def test_nothing_is_left(grpc_server):
    """No descriptor of a channel that was closed or forgotten, with calls given up on it."""

    async def main():
        for n in range(20):
            channel = GrpcChannel(grpc_server.host, grpc_server.port)
            assert await channel.unary(ECHO, b"x") == b"x"
            task = asyncio.ensure_future(channel.unary(SLEEP, b"1"))
            await asyncio.sleep(0.01)
            task.cancel()
            if n % 2:
                channel.close()
            del channel, task
        gc.collect()

    run(main)
    before = descriptors()
    run(main)
    assert wait_until(lambda: descriptors() <= before)


def test_loops_that_end_before_their_calls(channel_to, grpc_server):
    channel = channel_to(grpc_server)
    for _ in range(5):
        loop = asyncio.new_event_loop()
        task = loop.create_task(channel.unary(SLEEP, b"0.3"))
        loop.run_until_complete(asyncio.sleep(0.02))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
    loop = asyncio.new_event_loop()
    task = loop.create_task(channel.unary(SLEEP, b"0.3"))
    loop.run_until_complete(asyncio.sleep(0.02))
    loop.close()
    del task, loop
    gc.collect()
    assert channel.unary_sync(ECHO, b"x", 20) == b"x"


def test_shutdown_of_the_io_thread(channel_to, grpc_server):
    channel = channel_to(grpc_server)

    async def main():
        under_way = asyncio.ensure_future(channel.unary(SLEEP, b"20"))
        await asyncio.sleep(0.1)
        assert _core._shutdown() is True
        with pytest.raises(GrpcError) as caught:
            await under_way
        assert caught.value.code in (CANCELLED, UNAVAILABLE)
        assert await channel.unary(ECHO, b"x", 20) == b"x"

    run(main)
    assert channel.unary_sync(ECHO, b"x", 20) == b"x"


def test_fork(grpc_server):
    """The child has a channel of its own; the parent goes on, and its connection lives."""
    code = """
    async def both(who):
        replies = await asyncio.gather(*(channel.unary(ECHO, b"%d" % n, 20) for n in range(50)))
        assert replies == [b"%d" % n for n in range(50)]
        return channel.unary_sync(ECHO, who, 20)

    assert asyncio.run(both(b"parent")) == b"parent"
    slow = []
    thread = threading.Thread(target=lambda: slow.append(channel.unary_sync(SLEEP, b"0.5", 20)))
    thread.start()
    time.sleep(0.1)
    pid = os.fork()
    if pid == 0:
        try:
            ok = asyncio.run(both(b"child")) == b"child"
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()
    assert slow == [b"0.5"]
    assert asyncio.run(both(b"parent")) == b"parent"
    print("fine")
    """
    assert script(code, grpc_server) == "fine\n"


def test_fork_with_tls(certificates):
    from grpckit import GrpcServer

    code = """
    channel = GrpcChannel("127.0.0.1", int(sys.argv[1]), tls={"ca": open(sys.argv[2], "rb").read()})
    assert channel.unary_sync(ECHO, b"x", 20) == b"x"
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            ok = False
            try:
                ok = channel.unary_sync(ECHO, b"x", 20) == b"x"
            finally:
                os._exit(0 if ok else 1)
        assert os.waitpid(pid, 0)[1] == 0
    assert channel.unary_sync(ECHO, b"x", 20) == b"x"
    """
    with GrpcServer(*certificates.good()) as server:
        done = child(code, server.port, certificates.ca, prelude=PRELUDE)
        assert (done.returncode, done.stderr) == (0, ""), done


@pytest.mark.parametrize("end", ["pass", "channel.close()", "del channel", "sys.exit(0)"])
def test_exit_with_calls_under_way(grpc_server, end):
    code = f"""
    async def main():
        await channel.ready(10)
        tasks = [asyncio.ensure_future(channel.unary(SLEEP, b"5")) for _ in range(5)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()

    asyncio.run(main())
    threading.Thread(target=lambda: time.sleep(0), daemon=True).start()
    print("end")
    {end}
    """
    start = time.monotonic()
    assert script(code, grpc_server) == "end\n"
    assert time.monotonic() - start < 15


def test_threads_that_close_it(grpc_server):
    for _ in range(10):
        channel = GrpcChannel(grpc_server.host, grpc_server.port)
        outcomes = []

        def work(channel=channel, outcomes=outcomes):
            for _ in range(200):
                try:
                    outcomes.append(channel.unary_sync(ECHO, b"x", 20))
                except (GrpcError, ValueError) as error:
                    outcomes.append(type(error))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.01)
        channel.close()
        for thread in threads:
            thread.join()
        assert set(outcomes) <= {b"x", GrpcError, ValueError}


def test_an_idle_connection_is_one(channel_to, grpc_server):
    """Calls one after the other, from loops that come and go, share it."""
    with Relay(grpc_server.port) as relay:
        channel = channel_to(relay)
        for n in range(10):
            assert channel.unary_sync(ECHO, b"%d" % n) == b"%d" % n

            async def main():
                assert await channel.unary(ECHO, b"y") == b"y"

            run(main)
        assert relay.accepted == 1
