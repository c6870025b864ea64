"""What a caller can get wrong, and what a server says no to."""

import asyncio
import logging
import traceback

import pytest
import redis.exceptions as errors
from faultkit import run, value_of
from faultproxy import inject

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")

SECRET = "hunter2-S3cret"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:6379/0",
        "127.0.0.1:6379",
        "",
        "redis//127.0.0.1",
        "redis://127.0.0.1:notaport/0",
        "redis://127.0.0.1:99999/0",
        "redis://127.0.0.1/?socket_timeout=soon",
        "redis://127.0.0.1/?max_connections=many",
    ],
)
def test_wrong_url(client_class, url):
    with pytest.raises(ValueError):
        client_class.from_url(url)


def test_unknown_option(client_class):
    with pytest.raises(TypeError):
        client_class(no_such_option=1)


def test_unresolvable_host(client_class):
    async def main():
        async with client_class(host="no-such-host.invalid", socket_connect_timeout=20) as client:
            # a resolver that does not answer is a time-out, one that does is a failure
            with pytest.raises((errors.ConnectionError, errors.TimeoutError)):
                await client.get("k")

    run(main)


@pytest.mark.parametrize("username", [None, "default", "nobody"])
def test_wrong_password(own_server, connect, caplog, username):
    server = own_server("--requirepass", "the-right-one")
    caplog.set_level(logging.DEBUG)

    async def main():
        async with connect(server, username=username, password=SECRET) as client:
            for _ in range(2):
                with pytest.raises(errors.AuthenticationError) as caught:
                    await client.get("k")
                shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
                assert SECRET not in shown
                assert SECRET not in repr(caught.value.args)
            pipe = client.pipeline()
            pipe.get("k")
            with pytest.raises(errors.AuthenticationError):
                await pipe.execute()
            for shown in (repr(client), repr(client.connection_pool), str(client)):
                assert SECRET not in shown

    run(main)
    assert SECRET not in caplog.text


def test_missing_password(own_server, connect):
    server = own_server("--requirepass", "the-right-one")

    async def main():
        async with connect(server) as client:
            with pytest.raises(errors.AuthenticationError):
                await client.get("k")

    run(main)


def test_password_where_none_is_configured(server, connect):
    async def main():
        # Redis 6 and later: the default user has no password, so any password is fine for it,
        # but AUTH with only a password is refused
        async with connect(server, password=SECRET) as client:
            with pytest.raises(errors.AuthenticationError) as caught:
                await client.get("k")
            assert SECRET not in str(caught.value)

    run(main)


def test_right_password_and_user(own_server, connect):
    server = own_server(
        "--requirepass", "s p:a/c@e", *["--user", "bob", "on", ">b%40b", "~*", "+@all"]
    )

    async def main():
        async with connect(server, password="s p:a/c@e") as client:
            assert await client.set("k", "1")
        async with connect(server, username="bob", password="b%40b") as client:
            assert await client.get("k") == b"1"
        async with connect(server, username="bob", password="b@b") as client:
            with pytest.raises(errors.AuthenticationError):
                await client.get("k")

    run(main)


def test_credentials_in_url(own_server, client_class):
    server = own_server("--requirepass", "p@ss/word")

    async def main():
        url = f"redis://:p%40ss%2Fword@{server.host}:{server.port}/0"
        async with client_class.from_url(url) as client:
            assert await client.ping()
            assert "p@ss" not in repr(client) and "p%40ss" not in repr(client)

    run(main)


OUT_OF_RANGE = "^DB index is out of range$"


def test_wrong_database(server, connect):
    async def main():
        async with connect(server, db=99) as client:
            for _ in range(2):
                with pytest.raises(errors.ResponseError, match=OUT_OF_RANGE):
                    await client.get("k")
            for transaction in (True, False):
                with pytest.raises(errors.ResponseError, match=OUT_OF_RANGE):
                    await client.pipeline(transaction=transaction).get("k").execute()
            with pytest.raises(errors.ResponseError, match=OUT_OF_RANGE):
                async with client.pipeline() as pipe:
                    await pipe.watch("k")
            with pytest.raises(errors.ResponseError, match=OUT_OF_RANGE):
                await client.client().get("k")
            with pytest.raises(errors.ResponseError, match=OUT_OF_RANGE):
                await client.blpop("k", 1)
        async with connect(server, db=15) as client:
            assert await client.set("k", "fifteen")
        async with connect(server, db=0) as client:
            assert await client.get("k") is None

    run(main)


def test_wrong_type(server, connect, kind):
    async def main():
        async with connect(server) as client:
            await client.set("text", "x")
            await client.rpush("list", "x")
            for wrong in (
                client.lpush("text", "1"),
                client.hgetall("text"),
                client.smembers("list"),
                client.zrange("list", 0, -1),
                client.get("list"),
                client.incr("text"),
            ):
                with pytest.raises(errors.ResponseError) as caught:
                    await wrong
                assert type(caught.value) is errors.ResponseError
            assert str(caught.value) == "value is not an integer or out of range"
            assert await client.get("text") == b"x"
            results = await asyncio.gather(
                *(client.get(("text", "list")[i % 2]) for i in range(100)), return_exceptions=True
            )
            assert results[::2] == [b"x"] * 50
            assert {type(r) for r in results[1::2]} == {errors.ResponseError}

    run(main, kind)


def test_huge_key(server, connect):
    key = value_of("huge key", 8 << 20)

    async def main():
        async with connect(server) as client:
            assert await client.set(key, "v")
            assert await client.get(key) == b"v"
            assert await client.exists(key, key) == 2
            assert await client.keys("*") == [key]
            assert await client.delete(key) == 1

    run(main)


def test_64_mb_value(server, connect, kind):
    value = value_of("64 MB", 64 << 20)

    async def main():
        async with connect(server) as client:
            await client.set("small", "1")
            assert await client.set("big", value)
            big = asyncio.ensure_future(client.get("big"))
            assert await client.get("small") == b"1"
            assert await big == value
            assert await client.strlen("big") == len(value)
            # several under way at once, small ones between them
            replies = await asyncio.gather(
                *(client.get("small" if i % 5 else "big") for i in range(10))
            )
            assert [r == value for r in replies] == [not i % 5 for i in range(10)]

    run(main, kind)


def test_value_above_the_servers_limit(own_server, connect):
    server = own_server("--proto-max-bulk-len", "1mb")

    async def main():
        async with connect(server, socket_timeout=20) as client:
            # the server complains in the middle of the value and closes: which of the two the
            # client notices first is the kernel's choice
            with pytest.raises((errors.ResponseError, errors.ConnectionError)):
                await client.set("k", b"x" * (16 << 20))
            assert await client.set("k", "small")
            assert await client.get("k") == b"small"

    run(main)


BAD_ARGUMENTS = [None, True, False, {}, {"a": 1}, [], ["x"], ("x",), {1}, object(), bytearray(b"x")]


@pytest.mark.parametrize("bad", BAD_ARGUMENTS, ids=lambda bad: repr(bad)[:12])
def test_data_error(server, connect, bad):
    from redis._parsers.encoders import Encoder

    try:
        Encoder("utf-8", "strict", False).encode(bad)
    except errors.DataError as error:
        expected = str(error)

    async def main():
        async with connect(server) as client:
            for attempt in (
                lambda: client.set("k", bad),
                lambda: client.hset("h", "f", bad),
                lambda: client.rpush("l", "fine", bad),
                lambda: client.execute_command("SET", "k", bad),
                lambda: client.execute_command("SET", bad, "v"),
            ):
                with pytest.raises(errors.DataError) as caught:
                    await attempt()
                assert str(caught.value) == expected
            for transaction in (True, False):
                pipe = client.pipeline(transaction=transaction)
                pipe.set("before", "1").set("k", bad).set("after", "1")
                with pytest.raises(errors.DataError):
                    await pipe.execute()
            # nothing of it has reached the server, and the connection is in step
            assert await client.keys("*") == []
            assert await client.echo("in step") == b"in step"

    run(main)


def test_accepted_arguments(server, connect):
    class Text(str):
        pass

    class Number(int):
        pass

    values = {
        b"bytes\x00\r\n\xff": b"bytes\x00\r\n\xff",
        "täxt €": "täxt €".encode(),
        "": b"",
        0: b"0",
        -7: b"-7",
        10**40: b"1" + b"0" * 40,
        1.5: b"1.5",
        1e300: b"1e+300",
        float("inf"): b"inf",
        memoryview(b"view"): b"view",
        Text("sub"): b"sub",
        Number(12): b"12",
    }

    async def main():
        async with connect(server) as client:
            for given, stored in values.items():
                await client.set("k", given)
                assert await client.get("k") == stored
            await client.set("k", memoryview(b"x" * 100000)[1:-1])
            assert await client.get("k") == b"x" * 99998

    run(main)


def test_unencodable_text(server, connect):
    async def main():
        async with connect(server) as client:
            for attempt in (lambda: client.set("k", "\udc80"), lambda: client.get("\udc80")):
                with pytest.raises(UnicodeEncodeError):
                    await attempt()
            assert await client.exists("k") == 0
        async with connect(server, encoding="latin-1") as client:
            with pytest.raises(UnicodeEncodeError):
                await client.set("k", "€")
            assert await client.set("k", "ä")
            assert await client.get("k") == b"\xe4"
        async with connect(server, encoding="ascii", encoding_errors="replace") as client:
            await client.set("k", "a€b")
            assert await client.get("k") == b"a?b"

    run(main)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16-le", "cp1252", "ascii"])
def test_decode_responses(server, connect, encoding):
    text = "plain" if encoding == "ascii" else "grün"

    async def main():
        async with connect(server, encoding=encoding, decode_responses=True) as client:
            await client.set("k", text)
            assert await client.get("k") == text
            await client.rpush("l", text, "x")
            assert await client.lrange("l", 0, -1) == [text, "x"]
            await client.hset("h", mapping={text: text})
            assert await client.hgetall("h") == {text: text}
        async with connect(server) as client:
            assert await client.get("k".encode(encoding)) == text.encode(encoding)

    run(main)


def test_undecodable_reply(server, connect, kind):
    async def main():
        async with connect(server) as raw:
            await raw.set("bad", b"a\xff\xfeb")
            await raw.rpush("list", b"fine", b"\xff")
        async with connect(server, decode_responses=True) as client:
            for attempt in (lambda: client.get("bad"), lambda: client.lrange("list", 0, -1)):
                with pytest.raises(UnicodeDecodeError):
                    await attempt()
            assert await client.set("k", "v")
            assert await client.get("k") == "v"
        async with connect(server, decode_responses=True, encoding_errors="replace") as client:
            assert await client.get("bad") == "a\ufffd\ufffdb"
        async with connect(server, decode_responses=True, encoding_errors="ignore") as client:
            assert await client.get("bad") == "ab"
            assert await client.lrange("list", 0, -1) == ["fine", ""]
        async with connect(
            server, decode_responses=True, encoding_errors="surrogateescape"
        ) as client:
            assert await client.get("bad") == "a\udcff\udcfeb"

    run(main, kind)


ERRORS = {
    "ERR unknown command 'X'": errors.ResponseError,
    "WRONGTYPE Operation against": errors.ResponseError,
    "OOM command not allowed when used memory > 'maxmemory'.": errors.OutOfMemoryError,
    "LOADING Redis is loading the dataset in memory": errors.BusyLoadingError,
    "NOSCRIPT No matching script.": errors.NoScriptError,
    "READONLY You can't write against a read only replica.": errors.ReadOnlyError,
    "NOPERM this user has no permissions": errors.NoPermissionError,
    "NOAUTH Authentication required.": errors.AuthenticationError,
    "WRONGPASS invalid username-password pair": errors.AuthenticationError,
    "EXECABORT Transaction discarded because of previous errors.": errors.ExecAbortError,
    "ERR max number of clients reached": errors.ConnectionError,
    "ERR invalid password": errors.AuthenticationError,
    "ERR Error loading the extension. Please check the server logs.": errors.ModuleError,
    "BUSY Redis is busy running a script.": errors.ResponseError,
    "CUSTOM an error of a script's own": errors.ResponseError,
    "NOSPACE": errors.ResponseError,
}


@pytest.mark.parametrize("text", ERRORS)
def test_error_classes(proxy, connect, text):
    """Every error reply becomes the class, with the message, that redis-py makes of it."""
    from redis._parsers.base import BaseParser

    expected = BaseParser.parse_error(text)
    assert type(expected) is ERRORS[text]
    proxy.on("GET", inject(f"-{text}\r\n".encode()))

    async def main():
        async with connect(proxy) as client:
            with pytest.raises(errors.RedisError) as caught:
                await client.get("k")
            assert type(caught.value) is type(expected)
            assert str(caught.value) == str(expected)
            await client.set("k", "v")
            assert await client.get("k") == b"v"

    run(main)


def test_out_of_memory(own_server, connect):
    server = own_server("--maxmemory", "2mb", "--maxmemory-policy", "noeviction")

    async def main():
        async with connect(server) as client:
            stored = {}
            with pytest.raises(errors.OutOfMemoryError):
                for i in range(100):
                    await client.set(f"k{i}", value_of(f"k{i}", 100_000))
                    stored[f"k{i}"] = value_of(f"k{i}", 100_000)
            for key, value in stored.items():
                assert await client.get(key) == value
            pipe = client.pipeline(transaction=False)
            pipe.get("k0").set("more", "x" * 100_000).get("k0")
            replies = await pipe.execute(raise_on_error=False)
            assert isinstance(replies[1], errors.OutOfMemoryError)
            assert replies[0] == replies[2] == stored["k0"]
            await client.delete(*stored)
            assert await client.set("more", "x")

    run(main)
