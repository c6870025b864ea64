"""What programs do to a redis.asyncio client besides calling it: derive from it, patch it, mock it,
instrument it, copy it, give it another pool; and which configurations the engine serves.
"""

import asyncio
import copy
import functools
import gc
import traceback
import weakref
from unittest import mock

import pytest
import redis.asyncio as peer
import redis.asyncio.client
import redis.exceptions as errors
from faultkit import lanes_only, run, until, value_of
from faultproxy import FaultProxy, inject
from redis.asyncio.connection import parse_url as redis_pys_parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from test_redis_faults import check_in_step

import arshai_native.redis as native
from arshai_native._redis_url import parse_url

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")


@pytest.fixture(params=[peer, native], ids=["redis-py", "native"])
def module(request):
    """redis.asyncio and the drop-in: the test holds for both."""
    return request.param


def to(server, **options):
    return {"host": server.host, "port": server.port, **options}


# ---- what is served natively ----


@pytest.mark.parametrize(
    ("make", "is_native"),
    [
        (lambda s: native.from_url(f"{s.url}?protocol=2"), True),
        (lambda s: native.Redis(**to(s), protocol="2"), True),
        (lambda s: native.Redis(**to(s), protocol=2), True),
        (lambda s: native.Redis(**to(s), protocol=None), True),
        (lambda s: native.Redis(**to(s)), True),
        (lambda s: native.Redis(connection_pool=native.ConnectionPool(**to(s))), True),
        (lambda s: native.Redis(connection_pool=peer.BlockingConnectionPool(**to(s))), True),
        (lambda s: native.from_url(f"{s.url}?protocol=3"), False),
        (lambda s: native.Redis(**to(s), protocol="3"), False),
        (lambda s: native.Redis(**to(s), protocol=3), False),
    ],
)
def test_protocol(server, make, is_native):
    async def main():
        client = make(server)
        assert (client._engine is not None) is is_native
        assert await client.set("k", "v") is True
        assert await client.hset("h", mapping={"a": 1}) == 1
        assert await client.hgetall("h") == {b"a": b"1"}
        assert await client.pipeline().get("k").execute() == [b"v"]
        await client.aclose(close_connection_pool=True)

    run(main)


# ---- another pool ----


def test_another_pool(server, module):
    async def main():
        client = module.Redis(**to(server))
        await client.set("where", "zero")
        first = client.connection_pool
        for make in (module.ConnectionPool, module.BlockingConnectionPool, peer.ConnectionPool):
            client.connection_pool = make(**to(server, db=5))
            await client.set("where", "five")
            assert await client.get("where") == b"five"
            assert (await client.client_info())["db"] == 5
            for transaction in (True, False):
                pipe = client.pipeline(transaction=transaction)
                assert await pipe.get("where").execute() == [b"five"]
            async with client.pipeline() as pipe:
                await pipe.watch("where")
                assert await pipe.get("where") == b"five"
            await client.connection_pool.disconnect()
            client.connection_pool = first
            assert await client.get("where") == b"zero"
            assert await client.pipeline().get("where").execute() == [b"zero"]
        # one that the engine does not serve, and back
        client.connection_pool = module.ConnectionPool(**to(server, db=6, protocol=3))
        assert await client.get("where") is None
        await client.connection_pool.disconnect()
        client.connection_pool = first
        assert await client.get("where") == b"zero"
        await client.aclose()

    run(main)


def test_a_copy(server, module):
    async def main():
        client = module.Redis(**to(server, client_name="copied"))
        await client.set("k", "v")
        twin = copy.copy(client)
        assert type(twin) is module.Redis and twin.connection_pool is client.connection_pool
        assert await twin.get("k") == b"v"
        assert await twin.pipeline().get("k").execute() == [b"v"]
        assert await client.get("k") == b"v"
        assert 1 <= len(server.clients("copied")) <= 2
        twin.set_response_callback("GET", lambda reply, **options: ("called", reply))
        assert await twin.get("k") == ("called", b"v")
        await client.aclose()
        del client
        gc.collect()
        assert await twin.set("k", "w") is True
        await twin.aclose()
        assert await until(lambda: not server.clients("copied"))

    run(main)


def test_a_copy_with_an_attribute_of_its_own(server):
    class Named(native.Redis):
        def __init__(self, name, **options):
            super().__init__(**options)
            self.name = name

        async def get(self, name):
            return (self.name, await super().get(name))

    async def main():
        client = Named("first", **to(server))
        twin = copy.copy(client)
        twin.name = "second"
        await client.set("k", "v")
        assert await asyncio.gather(client.get("k"), twin.get("k")) == [
            ("first", b"v"),
            ("second", b"v"),
        ]
        await client.aclose()

    run(main)


# ---- derived, patched, instrumented ----

COMMANDS = ["GET", "SET", "ZADD", "INFO", "HSET", "MGET", "INCRBY", "PING", "EVAL"]


async def some(client):
    """One command of each way in which they come about."""
    await client.get("a")
    await client.set("a", 1)
    await client.zadd("z", {"m": 1}, nx=True)
    await client.info()
    await client.hset("h", mapping={"a": 1})
    await client.mget(["a", "b"])
    await client.incr("a")
    await client.ping()
    await client.eval("return 1", 0)


def test_a_subclass_sees_every_command(server, module):
    seen = []

    class Mixin:
        async def execute_command(self, *args, **options):
            seen.append(("mixin", args[0]))
            return await super().execute_command(*args, **options)

    class Direct(module.Redis):
        async def execute_command(self, *args, **options):
            seen.append(("direct", args[0]))
            return await super().execute_command(*args, **options)

    class Mixed(Mixin, module.Redis):
        pass

    class Grandchild(Mixed):
        async def execute_command(self, *args, **options):
            seen.append(("child", args[0]))
            return await super().execute_command(*args, **options)

    class Late(module.Redis):
        pass

    async def later(self, *args, **options):
        seen.append(("late", args[0]))
        return await module.Redis.execute_command(self, *args, **options)

    async def main():
        for cls, names in (
            (Direct, ["direct"]),
            (Mixed, ["mixin"]),
            (Grandchild, ["child", "mixin"]),
        ):
            seen.clear()
            async with cls(**to(server)) as client:
                await some(client)
            assert seen == [(name, command) for command in COMMANDS for name in names]
        async with Late(**to(server)) as client:
            await client.ping()
            seen.clear()
            Late.execute_command = later  # while there is a client already
            await some(client)
            assert seen == [("late", command) for command in COMMANDS]

    run(main)


def test_a_subclass_that_overrides_and_calls_super(server, module):
    class Prefixed(module.Redis):
        async def get(self, name):
            return await super().get(f"p:{name}")

        async def set(self, name, value, *args, **options):
            return await super().set(f"p:{name}", value, *args, **options)

        async def mget(self, keys, *args):
            return await super().mget([f"p:{key}" for key in keys], *args)

        def pipeline(self, *args, **options):
            self.pipelines = getattr(self, "pipelines", 0) + 1
            return super().pipeline(*args, **options)

        async def initialize(self):
            self.initialized = True
            return await super().initialize()

        async def execute_command(self, *args, **options):
            self.last = args
            return await super().execute_command(*args, **options)

    async def main():
        async with await Prefixed(**to(server)) as client:
            assert client.initialized
            assert await client.set("k", "v", ex=60) is True
            assert await client.get("k") == b"v"
            assert client.last == ("GET", "p:k")
            assert await client.mget(["k", "none"]) == [b"v", None]
            assert await client.execute_command("GET", "p:k") == b"v"
            await client.transaction(lambda pipe: pipe.multi(), "k")
            assert client.pipelines == 1

    run(main)


def recorder(seen, original):
    async def execute_command(*args, **options):
        seen.append(args[0] if isinstance(args[0], str) else args[1])
        return await original(*args, **options)

    return execute_command


def test_execute_command_replaced_on_a_client(server, module):
    async def main():
        async with module.Redis(**to(server)) as client:
            await client.ping()
            seen = []
            client.execute_command = recorder(seen, client.execute_command)
            await some(client)
            assert seen == COMMANDS
            del client.execute_command
            await some(client)
            assert seen == COMMANDS

    run(main)


def test_mocks(server, module):
    async def main():
        async with module.Redis(**to(server)) as client:
            await client.set("k", "v")
            for target in (client, module.Redis):
                fake = mock.AsyncMock(return_value=b"mocked")
                with mock.patch.object(target, "execute_command", new=fake):
                    assert await client.get("k") == b"mocked"
                    assert await client.hgetall("h") == b"mocked"
                    assert await client.mget(["a", "b"]) == b"mocked"
                    assert await client.set("k", "w", ex=5) == b"mocked"
                assert [call.args[0] for call in fake.await_args_list] == [
                    "GET", "HGETALL", "MGET", "SET",
                ]  # fmt: skip
                assert await client.get("k") == b"v"
            with mock.patch.object(module.Redis, "get", new=mock.AsyncMock(return_value=1)):
                assert await client.get("k") == 1
            with (
                mock.patch.object(module.Redis, "execute_command", side_effect=KeyError("mine")),
                pytest.raises(KeyError),
            ):
                await client.get("k")
            assert await client.get("k") == b"v"

    run(main)


@pytest.mark.parametrize("how", ["function", "functools.wraps", "wrapt"])
def test_instrumentation(server, module, monkeypatch, how):
    """What OpenTelemetry, Sentry and others put around redis-py's methods."""
    seen = []

    class Wrapper:
        """As wrapt's FunctionWrapper: no function, a descriptor."""

        def __init__(self, function):
            self.__wrapped__ = function
            self.__module__ = function.__module__

        def __get__(self, instance, owner):
            return self if instance is None else recorder(seen, self.__wrapped__.__get__(instance))

        def __call__(self, instance, *args, **options):
            return recorder(seen, self.__wrapped__)(instance, *args, **options)

    def wrapped(cls, name, label=None):
        original = vars(cls)[name]
        if how == "wrapt":
            return Wrapper(original)

        async def method(self, *args, **options):
            seen.append(label or args[0])
            return await original(self, *args, **options)

        return functools.wraps(original)(method) if how == "functools.wraps" else method

    peers = redis.asyncio.client
    monkeypatch.setattr(peers.Redis, "execute_command", wrapped(peers.Redis, "execute_command"))

    async def main():
        async with module.Redis(**to(server)) as client:
            await some(client)
            assert seen == COMMANDS
            assert await client.get("a") == b"2"
        monkeypatch.undo()
        if how != "wrapt":
            monkeypatch.setattr(
                peers.Pipeline, "execute", wrapped(peers.Pipeline, "execute", "pipeline")
            )
            monkeypatch.setattr(
                peers.Pipeline,
                "immediate_execute_command",
                wrapped(peers.Pipeline, "immediate_execute_command", "immediate"),
            )
            seen.clear()
            async with module.Redis(**to(server)) as client:
                await client.set("a", 2)
                pipe = client.pipeline()
                assert await pipe.get("a").incr("a").execute() == [b"2", 3]
                await pipe.watch("a")
                assert await pipe.get("a") == b"3"
                await pipe.reset()
            assert seen[0] == "pipeline" and set(seen[1:]) == {"immediate"}
            monkeypatch.undo()
        # and no longer
        seen.clear()
        async with module.Redis(**to(server)) as client:
            await some(client)
            assert await client.pipeline().get("a").execute()
            assert seen == []
            assert module is peer or client._engine is not None

    run(main)


def test_subclasses_are_collected(server):
    """Tables of callbacks and pools know their clients only weakly."""

    async def main():
        pool = native.ConnectionPool(**to(server))
        gone = []
        for _ in range(20):
            client = native.Redis(connection_pool=pool)
            twin = copy.copy(client)
            await twin.ping()
            gone += [weakref.ref(client), weakref.ref(twin)]
        del client, twin
        gc.collect()
        assert {reference() for reference in gone} == {None}
        await pool.disconnect()

    run(main)


# ---- passwords ----

SECRET = "hunter2-S3cret"


async def by_command(client):
    await client.get("k")


async def by_pipeline(client):
    await client.pipeline().get("k").execute()


async def by_session(client):
    async with client.client() as single:
        await single.get("k")


async def by_watch(client):
    async with client.pipeline() as pipe:
        await pipe.watch("k")


async def by_blocking_command(client):
    await client.blpop("k", 1)


@pytest.mark.parametrize(
    "way",
    [by_command, by_pipeline, by_session, by_watch, by_blocking_command],
    ids=lambda way: way.__name__,
)
@pytest.mark.parametrize("named", [errors.ConnectionError, errors.AuthenticationError])
@lanes_only
def test_a_wrong_password_is_presented_once(own_server, way, named):
    """However often the retry policy would have it: accounts get locked."""
    server = own_server("--requirepass", "right")

    async def main(proxy):
        retry = Retry(ConstantBackoff(0.01), 5)
        client = native.Redis(**to(proxy, password=SECRET), retry=retry, retry_on_error=[named])
        with pytest.raises(errors.AuthenticationError):
            await way(client)
        assert proxy.count("AUTH") == 1
        with pytest.raises(errors.AuthenticationError):
            await way(client)
        assert proxy.count("AUTH") == 2
        await client.aclose()

    with FaultProxy(server.host, server.port) as proxy:
        run(lambda: main(proxy))


@pytest.mark.parametrize("username", [None, "bob"])
@pytest.mark.parametrize("renamed", ["", "HIDDEN"])
def test_a_server_without_auth(own_server, caplog, username, renamed):
    """It says what it does not know, arguments and all: the password is not passed on."""
    server = own_server("--rename-command", "AUTH", renamed)
    caplog.set_level(1)
    said = []

    async def main():
        client = native.Redis(**to(server, password=SECRET, username=username))
        for way in (by_command, by_pipeline, by_session, by_watch):
            with pytest.raises(errors.RedisError) as caught:
                await way(client)
            said.extend([str(caught.value), *traceback.format_exception(caught.value)])
        await client.aclose()

    run(main)
    text = "".join(said) + caplog.text
    assert "unknown command" in text
    assert SECRET not in text and "hunter2" not in text and "bob" not in text


# ---- replies ----


def nested(depth):
    return b"*1\r\n" * depth + b":7\r\n"


def test_deeply_nested_replies(server, proxy, kind):
    """Twenty levels, as COMMAND DOCS or a script may have them, and what is near them."""

    async def main():
        async with native.Redis(**to(proxy)) as client:
            await client.set("k", "v")
            for depth in (1, 7, 8, 9, 20, 60):
                script = "return " + "{" * depth + "7" + "}" * depth
                got = await client.eval(script, 0) if depth < 60 else None
                if depth == 60:
                    proxy.on("GET", inject(nested(depth)), key=b"deep")
                    got = await client.get("deep")
                for _ in range(depth):
                    (got,) = got
                assert got == 7
                assert await client.get("k") == b"v"
            replies = await asyncio.gather(
                *(
                    client.eval("return {{{{{{{{{{1}}}}}}}}}}", 0)
                    if i % 10 == 5
                    else client.incr("n")
                    for i in range(100)
                )
            )
            # in any order: the first may have gone over an express connection
            counted = sorted(reply for reply in replies if isinstance(reply, int))
            assert counted == list(range(1, 91))
            docs = await client._engine.execute("COMMAND", "DOCS", "XADD", "SET", "CONFIG")
            assert set(docs[::2]) == {b"xadd", b"set", b"config"}

    run(main, kind)


def test_neighbours_of_garbage(proxy, kind):
    """Theirs was no bad reply: they have lost their connection, which is what they are told."""

    async def main():
        async with native.Redis(**to(proxy), socket_timeout=20) as client:
            keys = [f"k{i}" for i in range(100)]
            await client.mset({key: value_of(key) for key in keys})
            for raw in (b"@garbage\r\n", b"*1\r\n" * 100_000, b"$-7\r\n"):
                proxy.on("GET", inject(raw), key=b"k50")
                replies = await asyncio.gather(
                    *(client.get(key) for key in keys), return_exceptions=True
                )
                assert replies[:50] == [value_of(key) for key in keys[:50]]
                assert type(replies[50]) in (errors.InvalidResponse, errors.ConnectionError)
                others = {type(reply) for reply in replies[51:] if isinstance(reply, Exception)}
                assert others == {errors.ConnectionError}
                for key, reply in zip(keys, replies, strict=True):
                    assert isinstance(reply, Exception) or reply == value_of(key)
                await check_in_step(client)

    run(main, kind)


# ---- URLs ----

URLS = [
    "redis://", "redis://h", "redis://h/", "redis://h/0", "redis://h/1", "redis://h/15",
    "redis://h/01", "redis://h/-1", "redis://h/x", "redis://h/1/2", "redis://h//2", "redis://h/%31",
    "redis://h/ 1", "redis://h/1x", "redis://h/1?db=2", "redis://h?db=2", "redis://h?db=",
    "redis://h?db=x", "redis://h?db=1&db=2", "redis://h?db=-1", "redis://h/3?db=",
    "redis://h:1234", "redis://h:0/1", "redis://h:/1", "redis://h:x", "redis://h:99999",
    "redis://[::1]:7/2", "redis://H.Example:7", "redis://h%41", "redis://:p@h", "redis://u@h/1",
    "redis://u:p@h", "redis://u%40:p%2Fw%25@h/1", "redis://:@h", "redis://@h", "redis://u:p:q@h",
    "redis://u:p@q@h/2", "unix:///s", "unix://u:p@/s?db=3", "unix:///a%20b?db=x", "unix:///s/3",
    "unix://", "unix://h/s", "REDIS://h/1", "redis://h/0#frag", "redis://h/1?x=%2541&y=a+b",
    "redis://h?socket_timeout=1.5&socket_connect_timeout=x", "redis://h?socket_timeout=",
    "redis://h?socket_keepalive=no&retry_on_timeout=TRUE&decode_responses=0",
    "redis://h?protocol=3", "redis://h?protocol=x",
    "redis://h?max_connections=5&health_check_interval=2", "redis://h?health_check_interval=2.5",
    "redis://h?max_connections=", "redis://h?timeout=3",
    "redis://h?username=a&password=b%20c", "redis://u:p@h?username=a&password=b",
    "redis://h?ssl_check_hostname=f", "redis://h?client_name=x+y&encoding=latin-1",
    "http://h", "h:6379", "", "redis:/h", "redis:h", "//h", "redis://h?a", "redis:///2",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_urls_are_read_as_redis_py_does(url):
    """The same options, or an exception of the same kind."""

    def outcome(parse):
        try:
            options = dict(parse(url))
        except Exception as error:
            return type(error)
        options.pop("connection_class", None)
        return {name: (type(value), value) for name, value in options.items()}

    assert outcome(parse_url) == outcome(redis_pys_parse_url)


def test_tls_urls_are_refused_by_the_memory_manager():
    assert "connection_class" in redis_pys_parse_url("rediss://h")
    with pytest.raises(NotImplementedError, match="TLS"):
        parse_url("rediss://h")


@pytest.mark.parametrize(
    ("path", "db"), [("/5", 5), ("/05", 5), ("/5?db=6", 6), ("?db=5", 5), ("/x", 0), ("", 0)]
)
def test_databases_of_urls(server, path, db):
    async def main():
        async with native.from_url(f"redis://{server.host}:{server.port}{path}") as client:
            assert client._engine is not None
            assert (await client.client_info())["db"] == db

    run(main)
