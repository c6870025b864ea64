"""Connections that break, stall, lie or are refused; servers that go and come back."""

import asyncio
import os
import resource
import socket
import time

import pytest
import redis.exceptions as errors
from faultkit import ONE, PEER, better, free_port, raw_command, run, until, value_of
from faultproxy import (
    cut,
    delay,
    drop_after,
    drop_before,
    inject,
    split,
    stall,
    trickle,
)

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")

LOST = (errors.ConnectionError, errors.TimeoutError)


async def check_in_step(client, rounds=20):
    """Set and read keys in a batch; a reply that belongs to another command shows."""
    keys = [f"step{i}" for i in range(rounds)]
    await asyncio.gather(*(client.set(key, value_of(key)) for key in keys))
    values = await asyncio.gather(*(client.get(key) for key in keys))
    assert [v if isinstance(v, bytes) else v.encode() for v in values] == [
        value_of(key) for key in keys
    ]


def resident() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def test_connection_refused(client_class):
    port = free_port()

    async def main():
        async with client_class(host="127.0.0.1", port=port) as client:
            for _ in range(3):
                with pytest.raises(errors.ConnectionError) as caught:
                    await client.get("k")
                assert str(port) in str(caught.value)
            replies = await asyncio.gather(
                *(client.get("k") for _ in range(100)), return_exceptions=True
            )
            assert {type(r) for r in replies} == {errors.ConnectionError}

    run(main)


def test_refused_then_accepted(proxy, connect, kind):
    proxy.refuse()

    async def main():
        async with connect(proxy) as client:
            with pytest.raises(errors.ConnectionError):
                await client.get("k")
            proxy.accept()
            assert await client.set("k", "v")
            assert await client.get("k") == b"v"

    run(main, kind)


def test_unix_socket_that_is_not_there(client_class, tmp_path):
    (tmp_path / "file").write_text("not a socket")

    async def main():
        for path in (tmp_path / "missing", tmp_path / "file", tmp_path / ("x" * 200)):
            async with client_class(unix_socket_path=str(path)) as client:
                with pytest.raises(errors.ConnectionError):
                    await client.get("k")

    run(main)


def test_server_stopped_before(own_server, connect):
    server = own_server()
    server.kill()

    async def main():
        async with connect(server) as client:
            with pytest.raises(errors.ConnectionError):
                await client.get("k")
            server.start()
            await check_in_step(client)

    run(main)


def test_server_stopped_during(own_server, connect, kind):
    server = own_server()

    async def main():
        async with connect(server, client_name="during") as client:
            await client.set("k", "v")
            waiting = [asyncio.ensure_future(client.blpop("never", 0)) for _ in range(5)]
            await until(lambda: sum(c["flags"] == "b" for c in server.clients("during")) == 5)
            sleeping = [asyncio.ensure_future(client.execute_command("DEBUG", "SLEEP", "60"))]
            sleeping += [asyncio.ensure_future(client.get("k")) for _ in range(20)]
            await asyncio.sleep(0.1)
            server.kill()
            replies = await asyncio.gather(*waiting, *sleeping, return_exceptions=True)
            assert {type(r) for r in replies} == {errors.ConnectionError}

    run(main, kind)


def test_server_stopped_after_and_restarted(own_server, connect, kind):
    server = own_server()

    async def main():
        async with connect(server) as client:
            await check_in_step(client)
            server.kill()
            for _ in range(3):
                with pytest.raises(errors.ConnectionError):
                    await client.get("step1")
            server.start()
            assert await client.get("step1") is None
            await check_in_step(client)
            # restarted while the client has nothing to do: nobody notices
            server.kill()
            server.start()
            await asyncio.sleep(0.1)
            assert await client.get("step1") is None
            await check_in_step(client)

    run(main, kind)


def test_frozen_server(own_server, connect):
    server = own_server()

    async def main():
        async with connect(server, socket_timeout=0.3) as client:
            await check_in_step(client)
            server.freeze()
            replies = await asyncio.gather(
                *(client.set(f"late{i}", "x") for i in range(10)), return_exceptions=True
            )
            assert {type(r) for r in replies} == {errors.TimeoutError}
            with pytest.raises(errors.TimeoutError):
                await client.get("step1")
            server.thaw()
            # late replies of what timed out must reach nobody
            await until(lambda: server.command("PING"))
            await check_in_step(client)

    run(main)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("after", [0, 1, 2, 4, 5, 20, 1000, 4004, 4005])
def test_half_a_reply_then_a_close(proxy, connect, after, reset):
    value = value_of("k", 4000)  # $4000\r\n + 4000 + \r\n = 4009 bytes

    async def main():
        async with connect(proxy) as client:
            await client.set("k", value)
            fault = proxy.on("GET", cut(after, reset=reset))
            with pytest.raises(errors.ConnectionError):
                await client.get("k")
            assert fault.reached.is_set()
            assert await client.get("k") == value
            await check_in_step(client)

    run(main)


@pytest.mark.parametrize("after", [3, 8, 30, 90])
def test_half_an_array_then_a_close(proxy, connect, kind, after):
    async def main():
        async with connect(proxy) as client:
            await client.rpush("l", *(value_of(f"{i}", 20) for i in range(10)))
            proxy.on("LRANGE", cut(after))
            with pytest.raises(errors.ConnectionError):
                await client.lrange("l", 0, -1)
            assert await client.lrange("l", 0, -1) == [value_of(f"{i}", 20) for i in range(10)]

    run(main, kind)


@pytest.mark.parametrize("fault, executed", [(drop_before, False), (drop_after, True)])
def test_dropped_around_the_request(proxy, connect, server, kind, fault, executed):
    async def main():
        async with connect(proxy) as client:
            assert await client.ping()
            proxy.on("INCRBY", fault())
            with pytest.raises(errors.ConnectionError):
                await client.incr("n")
            # sent once: the client has no leave to send it again
            assert proxy.count("INCRBY") == 1
            assert await client.get("n") == (b"1" if executed else None)
            await check_in_step(client)

    run(main, kind)


def test_all_in_flight_fail_once(proxy, connect):
    """A connection that breaks under many commands: those answered have their own answers."""

    async def main():
        async with connect(proxy) as client:
            keys = [f"k{i}" for i in range(200)]
            await client.mset({key: value_of(key) for key in keys})
            proxy.on("GET", cut(10), key=b"k100")
            replies = await asyncio.gather(*(client.get(k) for k in keys), return_exceptions=True)
            lost = 0
            for key, reply in zip(keys, replies, strict=True):
                if isinstance(reply, Exception):
                    assert type(reply) is errors.ConnectionError
                    lost += 1
                else:
                    assert reply == value_of(key)
            assert isinstance(replies[100], errors.ConnectionError)
            assert 1 <= lost <= 100
            await check_in_step(client)

    run(main)


def test_a_reply_that_never_comes(proxy, connect, kind):
    fault = proxy.on("GET", stall(), key=b"slow")

    async def main():
        async with connect(proxy, socket_timeout=0.4) as client:
            await check_in_step(client)
            for attempt in (client.get("slow"), client.blpop("l", 60)):
                start = time.monotonic()
                with pytest.raises(errors.TimeoutError):
                    await attempt
                assert 0.3 < time.monotonic() - start < 5
            await check_in_step(client)
            fault.release()
            await check_in_step(client)

    run(main, kind)


def test_half_a_reply_that_never_ends(proxy, connect):
    fault = proxy.on("GET", split(2000), key=b"k")

    async def main():
        async with connect(proxy, socket_timeout=0.4) as client:
            await client.set("k", value_of("k", 4000))
            with pytest.raises(errors.TimeoutError):
                await client.get("k")
            fault.release()
            await check_in_step(client)
            assert await client.get("k") == value_of("k", 4000)

    run(main)


def test_late_but_in_time(proxy, connect):
    proxy.on("GET", delay(0.5))

    async def main():
        async with connect(proxy, socket_timeout=20) as client:
            await client.set("k", "v")
            assert await client.get("k") == b"v"

    run(main)
    assert proxy.accepted <= ONE


def test_byte_by_byte(proxy, connect, kind):
    proxy.on("*", trickle(), times=None)

    async def main():
        async with connect(proxy) as client:
            await client.set("k", value_of("k", 300))
            await client.rpush("l", "a", "bb", "")
            await client.hset("h", mapping={"f": "1", "g": "2"})
            for _ in range(3):
                assert await client.get("k") == value_of("k", 300)
                assert await client.get("missing") is None
                assert await client.lrange("l", 0, -1) == [b"a", b"bb", b""]
                assert await client.hgetall("h") == {b"f": b"1", b"g": b"2"}
                assert await client.incr("n") >= 1
                with pytest.raises(errors.ResponseError):
                    await client.incr("k")
            pipe = client.pipeline()
            replies = await pipe.get("k").lrange("l", 0, -1).exists("k").execute()
            assert replies == [value_of("k", 300), [b"a", b"bb", b""], 1]

    run(main, kind)


GARBAGE = {
    "http": b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
    "binary": bytes(range(128, 256)) * 4,
    "zeros": b"\0" * 64,
    "unknown type": b"?what\r\n",
    "bulk below -1": b"$-5\r\n",
    "array below -1": b"*-2\r\n",
    "bulk not a number": b"$abc\r\nabc\r\n",
    "bulk number overflows": b"$99999999999999999999999\r\nabc\r\n",
    "array number overflows": b"*99999999999999999999999\r\n",
    "integer not a number": b":12x4\r\n",
    "integer overflows": b":9999999999999999999999999\r\n",
    "tls alert": b"\x15\x03\x03\x00\x02\x02\x28",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_instead_of_resp(proxy, connect, name):
    proxy.on("GET", inject(GARBAGE[name]), key=b"k")

    async def main():
        async with connect(proxy, socket_timeout=5) as client:
            await check_in_step(client)
            with pytest.raises((errors.InvalidResponse, errors.ConnectionError)):
                await client.get("k")
            # that connection is worth nothing any more
            await check_in_step(client)
            assert proxy.accepted >= 2

    run(main)


def test_garbage_under_load(proxy, connect, kind):
    """Whoever waits behind the garbage fails; nobody gets a part of it as an answer."""
    proxy.on("GET", inject(b"@garbage\r\n+k\r\n$3\r\nabc\r\n"), key=b"k50")

    async def main():
        async with connect(proxy, socket_timeout=20) as client:
            keys = [f"k{i}" for i in range(100)]
            await client.mset({key: value_of(key) for key in keys})
            replies = await asyncio.gather(*(client.get(k) for k in keys), return_exceptions=True)
            for key, reply in zip(keys, replies, strict=True):
                if isinstance(reply, Exception):
                    assert isinstance(reply, (errors.InvalidResponse, errors.ConnectionError))
                else:
                    assert reply == value_of(key)
            assert isinstance(replies[50], Exception)
            await check_in_step(client)

    run(main, kind)


EVIL = {
    "array of 2^31-1": b"*2147483647\r\n",
    "array of 2^31-1, begun": b"*2147483647\r\n$1\r\na\r\n:1\r\n",
    "array of 2^62": b"*4611686018427387904\r\n",
    "nested arrays of 2^31-1": b"*2147483647\r\n" * 7,
    "bulk of 512 MB": b"$536870912\r\nabc",
    "bulk of 2^62": b"$4611686018427387904\r\nabc",
    "nesting of 100,000": b"*1\r\n" * 100_000,
    "nesting of 1,000, complete": b"*1\r\n" * 1000 + b":1\r\n",
    "endless line": b"+" + b"x" * (4 << 20),
    "endless number": b":" + b"1" * (1 << 20),
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.skipif(PEER, reason="hiredis-py allocates what the header announces")
def test_evil_replies(proxy, connect, name):
    """A reply that announces more than it brings costs neither the memory nor the process."""
    proxy.on("GET", inject(EVIL[name]), key=b"k")

    async def main():
        async with connect(proxy, socket_timeout=1) as client:
            await check_in_step(client)
            before = resident()
            # refused at once, or waited for in vain; deep and complete, it is a reply after all
            (reply,) = await asyncio.gather(client.get("k"), return_exceptions=True)
            if "complete" not in name:
                assert isinstance(reply, (errors.InvalidResponse, *LOST))
            assert resident() - before < 256 << 20
            await check_in_step(client)

    run(main)


@pytest.mark.parametrize(
    "raw",
    [
        b"$1\r\n1\r\n$4\r\nEVIL\r\n",
        b"$1\r\n1\r\n+EVIL\r\n",
        pytest.param(b"$1\r\n1\r\n$4\r\nEV", marks=better),
    ],
)
def test_more_replies_than_commands(proxy, connect, raw, kind):
    """What nobody asked for is not kept for the next one who asks."""
    proxy.on("GET", inject(raw), key=b"k")

    async def main():
        async with connect(proxy, socket_timeout=10) as client:
            assert await client.get("k") == b"1"
            await asyncio.sleep(0.1)
            await check_in_step(client)

    run(main, kind)


# redis-py, too, finds it out as often as it reads before it writes
FULL = None if PEER else r"^max number of clients reached$"


def test_maxclients(own_server, connect):
    server = own_server("--maxclients", "4")
    others = [socket.create_connection((server.host, server.port)) for _ in range(4)]
    try:
        for other in others:
            assert raw_command(other, "PING") == b"+PONG\r\n"

        async def main():
            for options in ({}, {"client_name": "n"}, {"db": 1}, {"lib_name": None}):
                async with connect(server, **options) as client:
                    with pytest.raises(errors.ConnectionError, match=FULL):
                        await client.get("k")
                    with pytest.raises(errors.ConnectionError, match=FULL):
                        await client.pipeline().get("k").execute()
                    with pytest.raises(errors.ConnectionError, match=FULL):
                        await client.blpop("l", 1)
            async with connect(server) as client:
                for other in others[:3]:
                    other.close()
                await until(lambda: len(server.clients()) <= 1)
                await check_in_step(client, rounds=1)

        run(main)
    finally:
        for other in others:
            other.close()


def test_descriptors_after_faults(proxy, connect):
    """Connections that were lost are closed on our side, too."""

    async def main():
        async with connect(proxy) as client:
            await client.set("k", "v")
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(50):
                proxy.on("GET", cut(3))
                with pytest.raises(errors.ConnectionError):
                    await client.get("k")
            assert await client.get("k") == b"v"
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before + 6)
            assert len(os.listdir("/proc/self/fd")) <= before + 6

    run(main)
