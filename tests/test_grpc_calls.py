"""GrpcChannel against grpcio's server: what arrives there and what comes back."""

import asyncio
import gc
import threading
import time
import weakref

import pytest
from faultkit import run
from grpckit import CRASH, ECHO, ERROR, HEADERS, SIZE, SLEEP, GrpcServer, Nghttpd, framed

from arshai_native._core import GrpcChannel, GrpcError

pytest_plugins = ("faultfixtures", "grpcfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

MB = 1 << 20
TOKEN = "c2VjcmV0OnNlY3JldA=="


def seen(reply):
    """(metadata, seconds left) as the server saw them."""
    pairs, left = eval(reply.decode(), {"inf": float("inf")})
    return dict(pairs), left


@pytest.mark.parametrize("size", [0, 1, 4091, 4096, 16384, 40_000, 3 * MB])
@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_echo(channel_to, unary, grpc_server, size, form):
    message = bytes(i * 7 % 251 for i in range(size))
    assert unary(channel_to(grpc_server), ECHO, form(message)) == message


def test_64_mb_there_and_back(channel_to, unary, grpc_server):
    channel = channel_to(grpc_server)
    reply = unary(channel, SIZE, b"%d" % (64 * MB), 60)
    assert len(reply) == 64 * MB and reply[:512] == bytes(range(256)) * 2
    assert unary(channel, ECHO, reply, 60) == reply


def test_metadata(channel_to, unary, grpc_server):
    channel = channel_to(grpc_server, metadata=(("authorization", TOKEN),), user_agent="mine/1")
    own = (("dbname", "books"), ("raw-bin", b"\x00\xff\n"), ("spaces", "a b"), ("many", "x" * 5000))
    got, left = seen(unary(channel, HEADERS, b"", 30.0, own))
    assert left is not None and 25 < left <= 30
    assert got.pop("user-agent").startswith("mine/1")
    assert got == {"authorization": TOKEN, **dict(own)}
    got, left = seen(unary(channel, HEADERS, b""))
    assert "dbname" not in got and (left is None or left > 1e6)
    thirty = tuple((f"name-{n}", str(n)) for n in range(60))
    got, _ = seen(unary(channel, HEADERS, b"", metadata=thirty))
    assert got.items() >= dict(thirty).items()


def test_too_much_metadata(channel_to, unary, grpc_server):
    channel = channel_to(grpc_server)
    with pytest.raises(GrpcError, match="larger than 64 KB") as caught:
        unary(channel, ECHO, b"x", 20, [("a", "x" * 100_000)])
    assert caught.value.code == 8
    assert unary(channel, ECHO, b"x", 20) == b"x"


def test_errors_of_the_server(channel_to, unary, grpc_server):
    channel = channel_to(grpc_server)
    with pytest.raises(GrpcError) as caught:
        unary(channel, ERROR, "NOT_FOUND no such café: 100%".encode())
    error = caught.value
    assert (error.code, error.details) == (5, "no such café: 100%")
    assert error.metadata == (("reason", "because"), ("more-bin", b"\x00\xff\n"))
    assert str(error) == "NOT_FOUND: no such café: 100%"
    with pytest.raises(GrpcError) as caught:
        unary(channel, CRASH, b"why")
    assert caught.value.code == 2 and "why" in caught.value.details
    with pytest.raises(GrpcError) as caught:
        unary(channel, "/test.Echo/none", b"")
    assert caught.value.code == 12
    assert unary(channel, ECHO, b"x") == b"x"


def test_a_limit_of_replies(channel_to, unary, grpc_server):
    channel = channel_to(grpc_server, max_receive=1000)
    assert len(unary(channel, SIZE, b"1000")) == 1000
    with pytest.raises(GrpcError, match=r"larger than max \(1001 vs\. 1000\)") as caught:
        unary(channel, SIZE, b"1001")
    assert caught.value.code == 8
    assert unary(channel, ECHO, b"x") == b"x"


def test_a_thousand_at_once(channel_to, grpc_server, kind):
    channel = channel_to(grpc_server)

    async def main():
        calls = [channel.unary(ECHO, b"%d" % n, 60.0, (("n", str(n)),)) for n in range(1000)]
        assert await asyncio.gather(*calls) == [b"%d" % n for n in range(1000)]

    run(main, kind)


def test_many_loops_and_threads_share_a_channel(channel_to, grpc_server):
    channel = channel_to(grpc_server)
    wrong = []

    def work(who):
        async def main():
            for n in range(20):
                got = await asyncio.gather(
                    *(channel.unary(ECHO, b"%d %d" % (who, i)) for i in range(20))
                )
                if got != [b"%d %d" % (who, i) for i in range(20)]:
                    wrong.append((who, n))

        run(main)
        if channel.unary_sync(ECHO, b"%d" % who) != b"%d" % who:
            wrong.append(who)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_unix_socket(tmp_path):
    path = str(tmp_path / "s")
    with GrpcServer(path=path):
        channel = GrpcChannel(path=path)
        assert channel.unary_sync(ECHO, b"x" * MB, 20) == b"x" * MB
        assert path in repr(channel)
        channel.close()


def test_a_server_that_knows_nothing_of_grpc(channel_to, unary):
    replies = {"/a.B/Good": framed(b"good"), "/a.B/Short": framed(b"good")[:-1], "/a.B/No": b""}
    with Nghttpd(replies, "--trailer=grpc-status: 0") as server:
        channel = channel_to(server)
        assert unary(channel, "/a.B/Good", b"?") == b"good"
        for path, code in (("/a.B/Short", 13), ("/a.B/No", 13), ("/a.B/Unknown", 13)):
            with pytest.raises(GrpcError) as caught:
                unary(channel, path, b"?")
            assert caught.value.code == code, path
    with Nghttpd(replies) as server:
        channel = channel_to(server)
        for path, code in (("/a.B/Good", 2), ("/a.B/Unknown", 12)):
            with pytest.raises(GrpcError) as caught:
                unary(channel, path, b"?")
            assert caught.value.code == code, path


def test_more_connections_where_the_server_limits_them(channel_to):
    with Nghttpd({"/a": framed(b"x")}, "--trailer=grpc-status: 0", "-m", "3") as server:
        channel = channel_to(server, max_connections=2)

        async def main():
            assert set(await asyncio.gather(*(channel.unary("/a", b"") for _ in range(500)))) == {
                b"x"
            }

        run(main)


# ---- arguments ----


@pytest.mark.parametrize(
    ("args", "options", "kind"),
    [
        ((), {}, ValueError),
        (("h",), {}, ValueError),
        (("h", 70_000), {}, ValueError),
        (("h", 1, "/path"), {}, ValueError),
        (("h\0", 1), {}, ValueError),
        ((5, 1), {}, TypeError),
        (("h", 1), {"metadata": [("X", "y")]}, ValueError),
        (("h", 1), {"metadata": "ab"}, TypeError),
        (("h", 1), {"metadata": [("a", 5)]}, TypeError),
        (("h", 1), {"authority": "a\nb"}, ValueError),
        (("h", 1), {"user_agent": "é"}, ValueError),
        (("h", 1), {"max_receive": -2}, ValueError),
        (("h", 1), {"max_connections": 0}, ValueError),
        (("h", 1), {"connect_timeout": -1}, ValueError),
        (("h", 1), {"keepalive": "often"}, TypeError),
        (("h", 1), {"tls": True}, TypeError),
    ],
)
def test_channels_that_cannot_be(args, options, kind):
    with pytest.raises(kind):
        GrpcChannel(*args, **options)


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        ((), TypeError),
        (("/a/b",), TypeError),
        ((b"/a/b", b""), TypeError),
        (("a/b", b""), ValueError),
        (("", b""), ValueError),
        (("/a b", b""), ValueError),
        (("/é", b""), ValueError),
        (("/a/b", "text"), TypeError),
        (("/a/b", None), TypeError),
        (("/a/b", b"", -1), ValueError),
        (("/a/b", b"", float("nan")), ValueError),
        (("/a/b", b"", "soon"), TypeError),
        (("/a/b", b"", 1, [("grpc-timeout", "1S")]), ValueError),
        (("/a/b", b"", 1, [("a", "b", "c")]), TypeError),
        (("/a/b", b"", 1, 5), TypeError),
        (("/a/b", b"", 1, (), False, 1), TypeError),
    ],
)
def test_calls_that_cannot_be(args, kind):
    channel = GrpcChannel("127.0.0.1", 1)
    with pytest.raises(kind):
        channel.unary(*args)
    with pytest.raises(kind):
        channel.unary_sync(*args)
    with pytest.raises(TypeError):
        channel.unary("/a", b"", tiemout=1)
    with pytest.raises(TypeError):
        channel.unary("/a", b"", message=b"")


def test_arguments_that_close_the_channel(channel_to, unary, grpc_server):
    """Reading them may run anything; the call is then none of a channel that is gone."""
    channel = channel_to(grpc_server)
    assert unary(channel, ECHO, b"x", 20) == b"x"

    def pairs():
        channel.close()
        time.sleep(0.1)  # the io thread lets go of it
        yield "a", "b"

    with pytest.raises(ValueError, match="closed"):
        unary(channel, ECHO, b"x", 20, pairs())


def test_no_secret_is_shown():
    """Neither a value that cannot be sent nor one that is sent is in an error or a repr."""
    with pytest.raises(ValueError) as caught:
        GrpcChannel("h", 1, metadata=[("authorization", "secret\n")])
    assert "secret" not in str(caught.value)
    channel = GrpcChannel("127.0.0.1", 1, metadata=[("authorization", "secret")])
    assert "secret" not in repr(channel)
    with pytest.raises(ValueError) as caught:
        channel.unary("/a", b"", None, [("authorization", "secretés")])
    assert "secret" not in str(caught.value)
    with pytest.raises(GrpcError) as caught_error:
        channel.unary_sync("/a", b"secret", 5, [("authorization", "secret")])
    assert "secret" not in repr(caught_error.value) + repr(vars(caught_error.value))


def test_many_methods_and_much_metadata_leave_nothing(channel_to, grpc_server):
    channel = channel_to(grpc_server)
    for n in range(3000):
        channel.unary(f"/test.Echo/{n}", b"").close()
    assert channel.unary_sync(ECHO, b"x") == b"x"
    own = GrpcChannel(grpc_server.host, grpc_server.port)
    ref = weakref.ref(own)
    own.unary_sync(ECHO, b"x")
    del own
    gc.collect()
    assert ref() is None


def test_a_slow_call_holds_up_nobody(channel_to, grpc_server):
    channel = channel_to(grpc_server)

    async def main():
        slow = asyncio.ensure_future(channel.unary(SLEEP, b"1.5"))
        await asyncio.sleep(0.05)
        for _ in range(50):
            await channel.unary(ECHO, b"x")
        assert not slow.done()
        assert await slow == b"1.5"

    run(main)
