"""The Python layer of arshai_native.redis on a real server: what a drop-in for redis.asyncio is."""

import asyncio
import gc
import inspect
import os
import socket
import warnings

import pytest
import redis.asyncio as peer
import redis.asyncio.client
import redis.exceptions as errors
from faultkit import ONE, run, until
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider

import arshai_native.redis as native
from arshai_native import _core

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")


# ---- the surface ----


def test_every_public_attribute_is_there():
    missing = [name for name in dir(peer.Redis) if not hasattr(native.Redis, name)]
    assert missing == []
    assert native.Redis.__name__ == "Redis"
    assert issubclass(native.Redis, peer.Redis)
    assert native.AsyncRedis is native.StrictRedis is native.Redis


@pytest.mark.parametrize("name", sorted(n for n in dir(peer.Redis) if not n.startswith("_")))
def test_signature_is_redis_pys(name):
    theirs, ours = getattr(peer.Redis, name), getattr(native.Redis, name)
    if not callable(theirs) or ours is theirs:
        return
    try:
        expected = inspect.signature(theirs)
    except ValueError:
        return
    if float in [p.default for p in expected.parameters.values()]:
        return  # a default that the text signature of a C method cannot express
    found = inspect.signature(ours)
    # Behind self, which a method in C takes by position only.
    assert [(p.name, p.kind, p.default) for p in list(found.parameters.values())[1:]] == [
        (p.name, p.kind, p.default) for p in list(expected.parameters.values())[1:]
    ]


def test_constructor_is_redis_pys():
    assert inspect.signature(native.Redis) == inspect.signature(peer.Redis)


def test_module_replaces_redis_asyncio():
    for name in peer.__all__:
        assert hasattr(native, name), name
        assert name in native.__all__
    assert set(dir(peer)) - set(dir(native)) <= {n for n in dir(peer) if n.startswith("_")}
    assert native.ConnectionError is errors.ConnectionError
    assert native.NoScriptError is errors.NoScriptError
    assert native.RedisCluster is peer.RedisCluster
    assert native.Sentinel is peer.Sentinel
    assert issubclass(native.ConnectionPool, peer.ConnectionPool)
    assert issubclass(native.BlockingConnectionPool, peer.BlockingConnectionPool)
    with pytest.raises(AttributeError):
        _ = native.no_such_name
    with pytest.raises(AttributeError):
        _ = native._no_such_name


# ---- making clients ----


def test_the_seeds_call(server):
    """The exact call of the framework's users, with more tasks than connections."""

    async def main():
        client = native.from_url(
            server.url, decode_responses=True, max_connections=20, retry_on_timeout=True
        )
        assert client._engine is not None
        assert await client.setex("seed", 60, '{"a": "b"}') is True
        assert await client.get("seed") == '{"a": "b"}'
        assert (
            await asyncio.gather(*(client.get("seed") for _ in range(200))) == ['{"a": "b"}'] * 200
        )
        assert await client.ttl("seed") == 60
        assert await client.delete("seed") == 1
        assert await client.get("seed") is None
        await client.aclose()

    run(main)


def test_constructor_variants(server):
    async def main():
        options = dict(host=server.host, port=server.port)
        for client in (
            native.Redis(**options),
            native.Redis(**options, db="3"),
            native.Redis(unix_socket_path=server.path, db=3),
            native.Redis.from_url(f"redis://{server.host}:{server.port}?db=3"),
            native.from_url(f"unix://{server.path}?db=3"),
            native.Redis(**options, db=3, client_name="named", lib_name="lib", lib_version="1"),
            native.Redis(**options, lib_name=None, lib_version=None),
            native.Redis(**options, socket_timeout=5, socket_connect_timeout=5),
            native.Redis(
                **options, socket_keepalive=True, socket_keepalive_options={socket.TCP_KEEPIDLE: 30}
            ),
            native.Redis(**options, health_check_interval=1),
            native.Redis(
                **options, retry=Retry(NoBackoff(), 3), retry_on_error=[errors.TimeoutError]
            ),
            native.Redis(**options, encoding="latin-1", decode_responses=True),
            native.Redis(**options, max_connections=1),
        ):
            assert client._engine is not None
            kwargs = client.get_connection_kwargs()
            async with client:
                key = "variant"
                await client.set(key, "x")
                info = await client.client_info()
                assert str(info["db"]) == str(kwargs.get("db", 0))
                assert info["name"] == (kwargs.get("client_name") or "")
                if "lib-name" in info and "lib_name" in kwargs:
                    assert info["lib-name"] == (kwargs["lib_name"] or "")
                await client.delete(key)

    run(main)


def test_user_name_and_password(own_server):
    server = own_server("--requirepass", "pa ss:wörd/%")
    server_url = f"redis://{server.host}:{server.port}"

    async def main():
        admin = native.Redis(host=server.host, port=server.port, password="pa ss:wörd/%")
        assert await admin.ping() is True
        await admin.acl_setuser(
            "u", enabled=True, passwords=["+sécret"], keys=["*"], categories=["+@all"]
        )
        await admin.acl_setuser(
            "nopass", enabled=True, nopass=True, keys=["*"], categories=["+@all"]
        )
        for client in (
            native.from_url(f"{server_url}?username=u&password=s%C3%A9cret"),
            native.from_url(f"redis://u:s%C3%A9cret@{server.host}:{server.port}/2"),
            native.Redis(host=server.host, port=server.port, username="nopass"),
        ):
            name = client.get_connection_kwargs()["username"]
            assert client._engine is not None
            assert await client.acl_whoami() == name
            text = repr(client) + repr(client.connection_pool) + repr(client._engine)
            assert "cret" not in text and "wörd" not in text
            await client.aclose()
        wrong = native.from_url(f"redis://u:not-this@{server.host}:{server.port}")
        with pytest.raises(errors.AuthenticationError) as caught:
            await wrong.get("k")
        assert "not-this" not in str(caught.value)
        assert "not-this" not in repr(wrong)
        await wrong.aclose()
        await admin.aclose()

    run(main)


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis://localhost?db=x"])
def test_wrong_urls_are_refused(url):
    with pytest.raises(ValueError):
        native.from_url(url)


def test_what_redis_py_refuses_at_the_first_command(server):
    async def main():
        for kwargs, error in (
            (dict(protocol=4), errors.ConnectionError),
            (
                dict(
                    password="x",
                    credential_provider=UsernamePasswordCredentialProvider("a", "b"),
                ),
                errors.DataError,
            ),
        ):
            client = native.Redis(host=server.host, port=server.port, **kwargs)
            with pytest.raises(error):
                await client.get("k")
        client = native.from_url(server.url + "?no_such_option=1")
        with pytest.raises(TypeError):
            await client.get("k")

    run(main)


def test_a_database_that_does_not_exist(server):
    async def main():
        client = native.Redis(host=server.host, port=server.port, db=77)
        with pytest.raises(errors.ResponseError, match="DB index is out of range"):
            await client.get("k")
        await client.aclose()

    run(main)


# ---- who is served natively ----


class OtherConnection(peer.Connection):
    pass


class OtherPool(peer.ConnectionPool):
    def make_connection(self):
        return super().make_connection()


class OtherEncoder(redis.asyncio.connection.Encoder):
    pass


class OtherRetry(Retry):
    async def call_with_retry(self, do, fail):
        return await super().call_with_retry(do, fail)


async def connect_callback(connection):
    await connection.on_connect()


@pytest.mark.parametrize(
    "make",
    [
        lambda kw: native.Redis(**kw, protocol=3),
        lambda kw: native.Redis(**kw, redis_connect_func=connect_callback),
        lambda kw: native.Redis(
            **kw, retry=OtherRetry(NoBackoff(), 1), retry_on_error=[errors.ConnectionError]
        ),
        lambda kw: native.Redis(connection_pool=OtherPool(**kw)),
        lambda kw: native.Redis(
            connection_pool=native.ConnectionPool(connection_class=OtherConnection, **kw)
        ),
        lambda kw: native.Redis(
            connection_pool=native.ConnectionPool(encoder_class=OtherEncoder, **kw)
        ),
    ],
    ids=["resp3", "connect-func", "retry-class", "pool-class", "connection-class", "encoder"],
)
@pytest.mark.parametrize("single", [False, True])
def test_redis_pys_own_path(server, make, single):
    """Where the engine cannot know what is asked for, every method is redis-py's."""

    async def main():
        client = make(dict(host=server.host, port=server.port))
        if single:
            client = client.client()
        assert client._engine is None
        async with client:
            assert await client.set("k", "v") is True
            assert await client.get("k") == b"v"
            assert await client.hset("h", mapping={"a": 1}) == 1
            assert await client.hgetall("h") == {b"a": b"1"}
            async with client.pipeline() as pipe:
                assert await pipe.set("k", 1).incr("k").execute() == [True, 2]
            async with client.pipeline() as pipe:
                await pipe.watch("k")
                value = int(await pipe.get("k"))
                pipe.multi()
                pipe.set("k", value + 1)
                assert await pipe.execute() == [True]
            async with client.lock("l", timeout=5):
                assert await client.exists("l") == 1
            script = client.register_script("return redis.call('GET', KEYS[1])")
            assert await script(keys=["k"]) == b"3"
            if single:
                assert isinstance(client.connection, peer.Connection)

    run(main)


def test_tls_takes_redis_pys_path(server):
    async def main():
        client = native.from_url(
            f"rediss://{server.host}:{server.port}", socket_connect_timeout=0.5
        )
        assert client._engine is None
        assert client.connection_pool.connection_class is peer.SSLConnection
        with pytest.raises((errors.ConnectionError, errors.TimeoutError)):
            await client.ping()
        await client.aclose()

    run(main)


def test_a_connection_put_into_place_is_used(server):
    """redis-py's own tests replace client.connection by one of their own."""

    async def main():
        client = native.Redis(host=server.host, port=server.port)
        connection = await client.connection_pool.get_connection()
        client.connection = connection
        assert client._engine is None
        assert await client.set("k", "v") is True
        assert await client.get("k") == b"v"
        client.connection = None
        await client.connection_pool.release(connection)
        assert client._engine is not None
        assert await client.get("k") == b"v"
        await client.aclose()

    run(main)


def test_subclasses_that_override_are_asked(server):
    class Counting(native.Redis):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.seen = []

        async def execute_command(self, *args, **options):
            self.seen.append(args[0])
            return await super().execute_command(*args, **options)

    class Parsing(native.Redis):
        async def parse_response(self, connection, command_name, **options):
            return (command_name, await super().parse_response(connection, command_name, **options))

    async def main():
        async with Counting(host=server.host, port=server.port) as client:
            assert client._engine is not None
            await client.set("k", 1)
            await client.incr("k")
            await client.hgetall("h")
            assert client.seen == ["SET", "INCRBY", "HGETALL"]
        async with Parsing(host=server.host, port=server.port) as client:
            assert await client.get("k") == ("GET", b"2")
        async with native.Redis(host=server.host, port=server.port) as client:
            assert await client.get("k") == b"2"

    run(main)


# ---- pools ----


def test_pools(server):
    async def main():
        options = dict(host=server.host, port=server.port)
        for make in (
            peer.ConnectionPool,
            native.ConnectionPool,
            peer.BlockingConnectionPool,
            native.BlockingConnectionPool,
        ):
            pool = make(client_name="of-pool", **options)
            one, two = native.Redis(connection_pool=pool), native.Redis(connection_pool=pool)
            assert one._engine is two._engine is not None
            await one.set("k", "v")
            assert await two.get("k") == b"v"
            await one.aclose()  # the pool is not the client's
            assert 1 <= len(server.clients("of-pool")) <= ONE
            assert await two.get("k") == b"v"
            await pool.disconnect()
            assert await until(lambda: not server.clients("of-pool"))
            assert await two.get("k") == b"v"  # connects again
            owner = native.Redis.from_pool(pool)
            await owner.aclose()
            assert await until(lambda: not server.clients("of-pool"))

    run(main)


def test_aclose_decides_about_the_pool(server):
    async def main():
        client = native.Redis(host=server.host, port=server.port, client_name="closing")
        await client.ping()
        await client.aclose(close_connection_pool=False)
        assert 1 <= len(server.clients("closing")) <= ONE
        await client.aclose()
        assert await until(lambda: not server.clients("closing"))
        assert await client.ping()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            await client.close()
        assert await until(lambda: not server.clients("closing"))

    run(main)


def test_a_dropped_client_closes_its_connections(server):
    async def main():
        client = native.Redis(host=server.host, port=server.port, client_name="dropped")
        await client.ping()
        assert 1 <= len(server.clients("dropped")) <= ONE
        del client
        gc.collect()
        assert await until(lambda: not server.clients("dropped"))

    run(main)


def test_a_blocking_pool_has_a_time_limit(server):
    async def main():
        pool = native.BlockingConnectionPool(
            host=server.host, port=server.port, max_connections=1, timeout=0.3
        )
        client = native.Redis(connection_pool=pool)
        async with client.pipeline() as pipe:
            await pipe.watch("k")
            with pytest.raises(errors.ConnectionError):
                await client.blpop("nothing", timeout=1)
            assert await client.get("k") is None  # shared connections are not counted
        assert await client.blpop("nothing", timeout=0.1) is None
        await pool.disconnect()

    run(main)


def test_repr_names_the_server_and_no_secret():
    client = native.from_url("redis://someone:hidden@example.invalid:1/5")
    text = repr(client)
    assert "example.invalid" in text and "hidden" not in text and "someone" not in text
    assert text.startswith("<arshai_native.redis")


# ---- single connections ----


def test_single_connection_client(server):
    async def main():
        client = native.Redis(
            host=server.host, port=server.port, client_name="single", single_connection_client=True
        )
        assert client.connection is None
        await client.set("k", "v")  # connects by itself
        assert client.connection and client.connection.is_connected
        assert (client.connection.host, client.connection.port) == (server.host, server.port)
        first = await client.client_id()
        assert {await client.client_id() for _ in range(5)} == {first}
        await client.select(5)
        assert await client.get("k") is None
        await client.select(0)
        results = await asyncio.gather(
            client.blpop("list", timeout=5), client.rpush("other", 1), native_push(server)
        )
        assert results[0] == (b"list", b"x") and results[1] == 1
        await client.connection.disconnect()
        assert not client.connection.is_connected
        assert await client.get("k") == b"v"  # connects again
        assert await client.client_id() != first
        await client.aclose()
        assert client.connection is None
        assert await until(lambda: not server.clients("single"))

    async def native_push(server):
        await asyncio.sleep(0.1)
        async with native.Redis(host=server.host, port=server.port) as other:
            await other.rpush("list", "x")

    run(main)


def test_initialize_and_await(server):
    async def main():
        client = await native.Redis(host=server.host, port=server.port)
        assert client.connection is None
        single = await client.client()
        assert single.connection.is_connected
        assert await single.ping() is True
        await single.aclose()
        async with client.client() as single:
            assert single.connection.is_connected
            assert await single.execute_command("CLIENT SETNAME", "mine") is not None
            assert await single.client_getname() in (b"mine", "mine")
        await client.aclose()

    run(main)


def test_a_single_connection_that_is_killed(server):
    async def main():
        client = native.Redis(host=server.host, port=server.port)
        single = await client.client()
        first = await single.client_id()
        task = asyncio.create_task(single.blpop("nothing", timeout=0))
        await asyncio.sleep(0.1)
        await client.client_kill_filter(_id=first)
        with pytest.raises(errors.ConnectionError):
            await task
        assert await single.get("k") is None  # connects again
        assert await single.client_id() != first
        await single.aclose()
        await client.aclose()

    run(main)


def test_a_cancelled_command_does_not_block_its_connection(server):
    async def main():
        async with native.Redis(host=server.host, port=server.port).client() as single:
            task = asyncio.create_task(single.blpop("nothing", timeout=0))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.wait_for(single.ping(), 5) is True

    run(main)


def test_an_unclosed_single_connection_warns(server):
    async def main():
        client = await native.Redis(host=server.host, port=server.port, client_name="lost").client()
        reported = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: reported.append(context["message"])
        )
        with pytest.warns(ResourceWarning, match="Unclosed client session"):
            del client
            gc.collect()
        assert reported == ["Unclosed Redis client"]
        assert await until(lambda: not server.clients("lost"))

    run(main)


def test_the_connections_own_methods(server):
    async def main():
        client = await native.from_url(server.url, decode_responses=True).client()
        connection = client.connection
        await connection.send_command("SET", "k", "é")
        await connection.send_command("GET", "k")
        await connection.send_command("LRANGE", "none", 0, -1)
        assert await connection.read_response() == "OK"
        assert await connection.read_response(disable_decoding=True) == "é".encode()
        assert await connection.read_response() == []
        await connection.send_command("BLPOP", "nothing", 0)
        assert await connection.read_response(timeout=0.1) is None
        await connection.disconnect()
        await connection.connect()
        assert connection.is_connected
        assert connection.pack_command("GET", "k")[0].startswith(b"*2")
        assert server.host in repr(connection)
        await client.aclose()

    run(main)


# ---- replies ----


def test_decoding(server):
    async def main():
        raw = native.Redis(host=server.host, port=server.port)
        text = native.from_url(server.url, decode_responses=True)
        latin = native.from_url(server.url, decode_responses=True, encoding="latin-1")
        lenient = native.from_url(server.url, decode_responses=True, encoding_errors="replace")
        await raw.set("k", "é")
        assert await raw.get("k") == "é".encode()
        assert await text.get("k") == "é"
        assert await latin.get("k") == "é".encode().decode("latin-1")
        await latin.set("l", "é")
        assert await raw.get("l") == b"\xe9"
        assert await lenient.get("l") == "\ufffd"
        with pytest.raises(UnicodeDecodeError):
            await text.get("l")
        assert await text.get("k") == "é"
        dump = await text.dump("k")
        assert isinstance(dump, bytes)
        assert await text.restore("copy", 0, dump) in ("OK", b"OK")
        async with text.pipeline(transaction=False) as pipe:
            assert await pipe.get("k").dump("k").get("copy").execute() == ["é", dump, "é"]
        for client in (raw, text, latin, lenient):
            await client.aclose()

    run(main)


@pytest.mark.parametrize(
    "change",
    [
        lambda client, callback: client.set_response_callback("get", callback),
        lambda client, callback: client.response_callbacks.__setitem__("Get", callback),
        lambda client, callback: client.response_callbacks.update({"get": callback}),
        lambda client, callback: client.response_callbacks.setdefault("GET", callback),
        lambda client, callback: client.response_callbacks.__ior__({"get": callback}),
        lambda client, callback: setattr(
            client, "response_callbacks", {**client.response_callbacks, "GET": callback}
        ),
        lambda client, callback: client.pipeline().set_response_callback("GET", callback),
    ],
    ids=["set", "item", "update", "setdefault", "or", "replace", "pipeline"],
)
@pytest.mark.parametrize("awaitable", [False, True])
def test_callbacks_may_be_changed(server, change, awaitable):
    def callback(response, **options):
        return ("seen", response, options)

    async def slow(response, **options):
        await asyncio.sleep(0)
        return callback(response, **options)

    async def main():
        client = native.Redis(host=server.host, port=server.port)
        untouched = native.Redis(host=server.host, port=server.port)
        await client.set("k", "v")
        assert not client._custom_callbacks
        change(client, slow if awaitable else callback)
        assert await client.get("k") == ("seen", b"v", {})
        assert await client.execute_command("GET", "k", extra=1) == ("seen", b"v", {"extra": 1})
        assert await client.set("k", "w") is True
        assert await client.hgetall("none") == {}
        async with client.pipeline() as pipe:
            assert await pipe.get("k").exists("k").execute() == [("seen", b"w", {}), 1]
        assert await untouched.get("k") == b"w"
        await untouched.aclose()
        await client.aclose()

    run(main)


def test_callbacks_may_be_deleted(server):
    async def main():
        client = native.Redis(host=server.host, port=server.port)
        await client.hset("h", "a", 1)
        assert await client.hgetall("h") == {b"a": b"1"}
        del client.response_callbacks["hgetall"]
        assert await client.hgetall("h") == [b"a", b"1"]
        callback = client.response_callbacks.pop("ping")
        assert callable(callback)
        assert await client.ping() == b"PONG"
        client.response_callbacks.clear()
        assert await client.set("k", "v") == b"OK"
        await client.aclose()

    run(main)


def test_internal_options(server):
    async def main():
        text = native.from_url(server.url, decode_responses=True)
        await text.set("k", "v")
        for _ in range(2):
            assert await text.execute_command("GET", "k", NEVER_DECODE=[]) == b"v"
            assert (
                await text.execute_command("LPUSH", "k", 1, EMPTY_RESPONSE="nothing") == "nothing"
            )
            assert await text.execute_command("GET", "k", keys=["k"]) == "v"
            assert await text.mget([]) == []
            with pytest.raises(errors.ResponseError, match="WRONGTYPE"):
                await text.lpush("k", 1)
            text.set_response_callback("NOTHING", str)
        await text.aclose()

    run(main)


def test_commands_that_make_no_command(server):
    async def main():
        client = native.Redis(host=server.host, port=server.port)
        for name in ("SUBSCRIBE", "psubscribe", "MONITOR"):
            with pytest.raises(NotImplementedError, match="pubsub"):
                await client.execute_command(name, "x")
            for transaction in (True, False):
                pipe = client.pipeline(transaction=transaction)
                pipe.set("k", 1)
                pipe.execute_command(name, "x")
                with pytest.raises(NotImplementedError, match="pubsub"):
                    await pipe.execute()
        async with client.client() as single:
            with pytest.raises(NotImplementedError):
                await single.execute_command("SUBSCRIBE", "x")
            assert single.connection.is_connected
        assert await client.get("k") is None
        await client.aclose()

    run(main)


# ---- what is redis-py's own, over the same pool ----


def test_pubsub_and_monitor(server):
    async def main():
        client = native.from_url(server.url, decode_responses=True)
        async with (
            client.pubsub(ignore_subscribe_messages=True) as pubsub,
            client.monitor() as monitor,
        ):
            await pubsub.subscribe("news")
            await pubsub.psubscribe("n*")
            await until_subscribed(client)
            assert await client.publish("news", "hello") == 2
            kinds = []
            while len(kinds) < 2:
                if message := await pubsub.get_message(timeout=5):
                    kinds.append((message["type"], message["data"]))
            assert sorted(kinds) == [("message", "hello"), ("pmessage", "hello")]
            assert await pubsub.get_message(timeout=0.1) is None
            while "PUBLISH" not in (await monitor.next_command())["command"]:
                pass
        await client.aclose()

    async def until_subscribed(client):
        while await client.pubsub_numsub("news") != [("news", 1)]:
            await asyncio.sleep(0.01)
        while await client.pubsub_numpat() != 1:
            await asyncio.sleep(0.01)

    run(main)


def test_scan_and_modules_are_redis_pys(server):
    async def main():
        client = native.Redis(host=server.host, port=server.port)
        await client.mset({f"scan:{i}": i for i in range(500)})
        await client.hset("hash", mapping={str(i): i for i in range(300)})
        await client.zadd("zset", {str(i): i for i in range(300)})
        await client.sadd("set", *range(300))
        assert len([key async for key in client.scan_iter("scan:*", count=50)]) == 500
        assert len([item async for item in client.hscan_iter("hash")]) == 300
        assert len([item async for item in client.zscan_iter("zset")]) == 300
        assert len([item async for item in client.sscan_iter("set")]) == 300
        assert callable(client.json().get) and callable(client.ft("index").search)
        with pytest.raises(errors.ResponseError):
            await client.json().get("k")
        await client.aclose()

    run(main)


def test_engine_is_what_was_asked_for(server):
    """Everything above runs natively, not by way of redis-py's connections."""

    async def main():
        client = native.Redis(host=server.host, port=server.port)
        before = client._engine.stats()["commands"]
        await client.set("k", 1)
        async with client.pipeline() as pipe:
            await pipe.incr("k").incr("k").execute()
        async with client.lock("l"):
            pass
        assert client._engine.stats()["commands"] > before
        pool = client.connection_pool
        assert not pool._available_connections and not pool._in_use_connections
        assert isinstance(client._engine, _core.RedisEngine)
        await client.aclose()

    run(main)


def test_fork_is_the_engines_business(server):
    """A client made before a fork works in the child and in the parent."""

    async def use(client):
        await client.incr("forked")
        return int(await client.get("forked"))

    client = native.Redis(host=server.host, port=server.port)
    assert run(lambda: use(client)) == 1
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if asyncio.run(use(client)) == 2 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run(lambda: use(client)) == 3
    run(client.aclose)
