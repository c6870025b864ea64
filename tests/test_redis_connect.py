"""Setting connections up: time limits, retries, health checks, names, unix sockets, keepalive."""

import asyncio
import os
import socket
import subprocess
import time

import pytest
import redis.exceptions as errors
from faultkit import EXPRESS, PEER, free_port, lanes_only, run, until, value_of, wait_until
from faultproxy import FaultProxy, cut, drop_after, drop_before, inject, stall
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, ExponentialBackoff, NoBackoff
from test_redis_faults import check_in_step

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")


def test_connect_timeout_in_the_handshake(proxy, connect, kind):
    """Something accepts the connection and says nothing."""
    proxy.silence()

    async def main():
        async with connect(proxy, socket_connect_timeout=0.3, socket_timeout=0.3, db=1) as client:
            start = time.monotonic()
            with pytest.raises(errors.TimeoutError):
                await client.get("k")
            assert time.monotonic() - start < 5
            proxy.silence(False)
            await check_in_step(client)

    run(main, kind)


def test_connect_timeout_when_nothing_accepts(connect):
    """A listener whose backlog is full: the kernel drops the SYN, connect() waits."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        time.sleep(0.1)
        target = FaultProxy()
        target.port = listener.getsockname()[1]

        async def main():
            async with connect(target, socket_connect_timeout=0.3) as client:
                start = time.monotonic()
                with pytest.raises(errors.TimeoutError):
                    await client.get("k")
                assert time.monotonic() - start < 5

        run(main)
        for filler in fillers:
            filler.close()


@lanes_only
def test_handshake_cut(proxy, connect, server):
    """The connection breaks, or garbage comes, while it is being set up; the next attempt works."""

    async def main():
        for fault in (cut(0), cut(2), drop_before(), drop_after(reset=True), inject(b"@@@\r\n")):
            async with connect(proxy, db=3) as client:
                proxy.on("SELECT", fault)
                with pytest.raises((errors.InvalidResponse, errors.ConnectionError)):
                    await client.get("k")
                assert await client.set("k", "in 3")
                assert await client.get("k") == b"in 3"
        assert server.command("GET", "k") == b"$-1\r\n"

    run(main)


@pytest.mark.parametrize(
    "options, attempts",
    [
        ({}, 1),
        ({"retry_on_timeout": True}, 1),
        ({"retry": Retry(NoBackoff(), 3)}, 1),
        ({"retry_on_error": [errors.ConnectionError]}, 2),
        ({"retry_on_error": [errors.TimeoutError]}, 1),
        ({"retry": Retry(NoBackoff(), 3), "retry_on_error": [errors.ConnectionError]}, 4),
        ({"retry": Retry(ConstantBackoff(0.01), 2), "retry_on_error": [errors.RedisError]}, 3),
        ({"retry": Retry(NoBackoff(), 0), "retry_on_error": [errors.ConnectionError]}, 1),
    ],
)
@pytest.mark.parametrize("pipelined", [False, True], ids=["command", "pipeline"])
def test_attempts_after_a_lost_connection(proxy, connect, options, attempts, pipelined):
    """A command is sent again exactly as often as retry and retry_on_error say."""
    proxy.on("GET", drop_after(), times=None)

    async def main():
        async with connect(proxy, **options) as client:
            await client.set("k", "v")
            with pytest.raises(errors.ConnectionError):
                if pipelined:
                    await client.pipeline(transaction=False).get("k").execute()
                else:
                    await client.get("k")
            assert proxy.count("GET") == attempts
            proxy.clear()
            assert await client.get("k") == b"v"

    run(main)


@pytest.mark.parametrize(
    "options, attempts",
    [
        ({}, 1),
        ({"retry_on_timeout": True}, 2),
        ({"retry_on_timeout": True, "retry": Retry(NoBackoff(), 2)}, 3),
        ({"retry_on_error": [errors.TimeoutError]}, 2),
        ({"retry_on_error": [errors.ConnectionError]}, 1),
        ({"retry": Retry(NoBackoff(), 2)}, 1),
    ],
)
def test_attempts_after_a_timeout(proxy, connect, options, attempts):
    proxy.on("GET", stall(), times=None)

    async def main():
        async with connect(proxy, socket_timeout=0.2, **options) as client:
            await client.set("k", "v")
            with pytest.raises(errors.TimeoutError):
                await client.get("k")
            assert proxy.count("GET") == attempts
            proxy.clear()
            assert await client.get("k") == b"v"

    run(main)


@pytest.mark.parametrize("failures", [1, 3])
def test_retry_succeeds(proxy, connect, kind, failures):
    proxy.on("GET", cut(3), times=failures)
    options = {
        "retry": Retry(ExponentialBackoff(cap=0.1, base=0.01), 3),
        "retry_on_error": [errors.ConnectionError],
    }

    async def main():
        async with connect(proxy, **options) as client:
            await client.set("k", "v")
            assert await client.get("k") == b"v"
            assert proxy.count("GET") == failures + 1

    run(main, kind)


def test_retry_of_many(proxy, connect):
    """All in flight when the connection broke are sent again and get their own replies."""
    options = {
        "retry": Retry(ConstantBackoff(0.01), 5),
        "retry_on_error": [errors.ConnectionError],
    }

    async def main():
        async with connect(proxy, **options) as client:
            keys = [f"k{i}" for i in range(300)]
            await client.mset({key: value_of(key) for key in keys})
            for i in (10, 100, 250):
                proxy.on("GET", cut(7), key=f"k{i}".encode())
            values = await asyncio.gather(*(client.get(key) for key in keys))
            assert values == [value_of(key) for key in keys]

    run(main)


def test_error_replies_are_not_retried(proxy, connect):
    proxy.on("GET", inject(b"-WRONGTYPE no\r\n"), times=None)
    options = {"retry": Retry(NoBackoff(), 5), "retry_on_error": [errors.ConnectionError]}

    async def main():
        async with connect(proxy, **options) as client:
            with pytest.raises(errors.ResponseError):
                await client.get("k")
            assert proxy.count("GET") == 1

    run(main)


def test_error_replies_that_are_to_be_retried(proxy, connect):
    """retry_on_error may name error replies."""
    proxy.on("GET", inject(b"-LOADING Redis is loading\r\n"), times=2)
    options = {"retry": Retry(NoBackoff(), 3), "retry_on_error": [errors.BusyLoadingError]}

    async def main():
        async with connect(proxy, **options) as client:
            await client.set("k", "v")
            assert await client.get("k") == b"v"
            assert proxy.count("GET") == 3

    run(main)


def test_own_backoff_is_asked(proxy, connect):
    class Counting(ConstantBackoff):
        asked = []

        def compute(self, failures):
            self.asked.append(failures)
            return 0.01

    proxy.on("GET", drop_before(), times=3)

    async def main():
        retry = Retry(Counting(0.01), 5)
        async with connect(proxy, retry=retry, retry_on_error=[errors.ConnectionError]) as client:
            assert await client.get("k") is None

    run(main)
    # for each failure it may be asked about the earlier ones again, in order, should it keep state
    assert Counting.asked[-3:] == [1, 2, 3]
    assert set(Counting.asked) == {1, 2, 3}


def test_set_retry(proxy, connect):
    async def main():
        async with connect(proxy, retry_on_error=[errors.ConnectionError]) as client:
            await client.set("k", "v")
            client.set_retry(Retry(NoBackoff(), 4))
            proxy.on("GET", drop_before(), times=4)
            assert await client.get("k") == b"v"
            assert proxy.count("GET") == 5

    run(main)


def test_server_restarted_under_a_retry(own_server, connect):
    """A command that waits when the server goes comes through when it is back."""
    server = own_server()
    options = {
        "retry": Retry(ConstantBackoff(0.1), 100),
        "retry_on_error": [errors.ConnectionError],
    }

    async def main():
        loop = asyncio.get_running_loop()
        async with connect(server, client_name="waits", **options) as client:
            await client.set("k", "v")
            waiting = asyncio.ensure_future(client.blpop("list", 0))
            await until(lambda: [c for c in server.clients("waits") if c["flags"] == "b"])
            server.kill()
            await asyncio.sleep(0.3)
            await loop.run_in_executor(None, server.start)
            server.command("RPUSH", "list", "there")
            assert await waiting == (b"list", b"there")

    run(main)


def test_health_check(proxy, connect):
    """A connection that was idle for the interval is tried with a PING before it is used."""

    async def main():
        async with connect(proxy, health_check_interval=1) as client:
            await client.set("k", "v")
            for _ in range(10):
                await client.get("k")
            # at most the one redis-py sends while it sets the connection up
            pings = proxy.count("PING")
            assert pings <= 1
            await asyncio.sleep(1.3)
            await client.get("k")
            assert proxy.count("PING") == pings + 1
            names = [args[0] for args in proxy.log]
            assert names[-2:] == [b"PING", b"GET"]

    run(main)


def test_health_check_finds_a_dead_connection(proxy, connect):
    """The PING is lost, the command is not: it goes over a new connection."""

    async def main():
        options = {"health_check_interval": 1, "retry_on_error": [errors.ConnectionError]}
        async with connect(proxy, **options) as client:
            await client.set("k", "v")
            await asyncio.sleep(1.3)
            proxy.on("PING", drop_before())
            assert await client.get("k") == b"v"
            assert 2 <= proxy.accepted <= 2 + 2 * EXPRESS

    run(main)


def test_client_name(server, connect, client_class):
    async def main():
        async with connect(server, client_name="the-name") as client:
            assert await client.client_getname() == "the-name"
            pops = [asyncio.ensure_future(client.blpop(f"l{i}", 0)) for i in range(3)]
            async with client.pipeline() as pipe:
                await pipe.watch("k")
                await until(lambda: len(server.clients("the-name")) >= 4)
                # every connection bears the name
                assert len(server.clients("the-name")) == len(server.clients()) >= 4
            for i in range(3):
                await client.rpush(f"l{i}", i)
            assert await asyncio.gather(*pops) == [(b"l%d" % i, b"%d" % i) for i in range(3)]
        url = f"redis://{server.host}:{server.port}/2?client_name=from-url"
        async with client_class.from_url(url) as client:
            assert await client.client_getname() == "from-url"
            assert {c["db"] for c in server.clients("from-url")} == {"2"}

    run(main)


def test_bad_client_name(server, connect):
    async def main():
        async with connect(server, client_name="two words") as client:
            with pytest.raises(errors.ResponseError):
                await client.get("k")

    run(main)


@lanes_only
def test_lib_name(proxy, connect):
    async def main():
        async with connect(proxy, lib_name="a-lib", lib_version="9.9") as client:
            await client.ping()
        async with connect(proxy, lib_name=None, lib_version=None) as client:
            await client.ping()

    run(main)
    said = [args for args in proxy.log if args[0] == b"CLIENT"]
    assert [a[1:] for a in said] == [
        [b"SETINFO", b"LIB-NAME", b"a-lib"],
        [b"SETINFO", b"LIB-VER", b"9.9"],
    ]


def test_unix_socket(server, client_class, tmp_path, kind):
    async def main():
        async with client_class(unix_socket_path=server.path, db=1, socket_timeout=5) as client:
            await check_in_step(client)
            assert server.path in repr(client)
        async with client_class.from_url(f"unix://{server.path}?db=1") as client:
            assert await client.get("step1") == value_of("step1")
        listen_path = str(tmp_path / "proxy")
        with FaultProxy(path=server.path, listen_path=listen_path) as proxy:
            async with client_class(unix_socket_path=listen_path, socket_timeout=0.5) as client:
                await check_in_step(client)
                proxy.on("GET", cut(4))
                with pytest.raises(errors.ConnectionError):
                    await client.get("step1")
                proxy.on("GET", stall())
                with pytest.raises(errors.TimeoutError):
                    await client.get("step1")
                proxy.drop_all()
                proxy.refuse()
                await asyncio.sleep(0.1)
                with pytest.raises(errors.ConnectionError):
                    await client.get("step1")
                proxy.accept()
                await check_in_step(client)

    run(main, kind)


def test_keepalive(server, connect):
    """The option reaches the socket: the kernel shows a keepalive timer."""
    ss = subprocess.run(["sh", "-c", "command -v ss"], capture_output=True, check=False)

    def timers(port):
        shown = subprocess.run(
            ["ss", "-tnoH", f"dport = :{port}"], capture_output=True, text=True, check=True
        ).stdout
        return [line for line in shown.splitlines() if "keepalive" in line]

    async def main():
        idle = {socket.TCP_KEEPIDLE: 100, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
        async with connect(server, socket_keepalive=True, socket_keepalive_options=idle) as client:
            assert await client.set("k", "v")
            if ss.returncode == 0:
                assert len(timers(server.port)) == len(server.clients())
        if ss.returncode == 0:
            await until(lambda: not timers(server.port))
            async with connect(server) as client:
                assert await client.get("k") == b"v"
                assert not timers(server.port)

    run(main)


def test_close_closes(server, connect, kind):
    async def main():
        client = connect(server, client_name="closes")
        await asyncio.gather(*(client.set(f"k{i}", "v") for i in range(50)))
        assert server.clients("closes")
        await client.aclose()
        assert await until(lambda: not server.clients("closes"))
        # redis-py's clients can be used again after aclose
        assert await client.get("k1") == b"v"
        await client.aclose()
        await client.aclose()

    run(main, kind)
    assert wait_until(lambda: not server.clients("closes"))


def test_connections_are_made_when_needed(proxy, client_class):
    """A client that is only made, or only asked for its repr, connects to nothing."""
    client = client_class.from_url(proxy.url)
    repr(client)
    pipe = client.pipeline()
    pipe.get("k")
    time.sleep(0.2)
    assert proxy.accepted == 0


@pytest.mark.skipif(PEER, reason="redis-py has a connection for each task")
def test_few_connections(proxy, connect):
    async def main():
        async with connect(proxy) as client:
            await asyncio.gather(*(client.set(f"k{i}", "v" * 100) for i in range(1000)))

    run(main)
    assert proxy.accepted <= 2


def test_reconnects_are_bounded(client_class):
    """A hundred failing commands on a dead port end, quickly, and leave nothing behind."""
    port = free_port()
    before = len(os.listdir("/proc/self/fd"))

    async def main():
        async with client_class(host="127.0.0.1", port=port) as client:
            start = time.monotonic()
            for _ in range(100):
                with pytest.raises(errors.ConnectionError):
                    await client.get("k")
            assert time.monotonic() - start < 20

    run(main)
    assert len(os.listdir("/proc/self/fd")) <= before + 6
