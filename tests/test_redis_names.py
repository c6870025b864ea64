"""Names of commands in any form in which redis-py takes them: what a command does to its connection
does not depend on how it is spelt.
"""

import asyncio
import contextlib
import enum

import pytest
import redis.exceptions as errors
from faultkit import PEER, run, until

pytest_plugins = ("faultfixtures",)
pytestmark = [
    pytest.mark.usefixtures("bounded"),
    pytest.mark.skipif(PEER, reason="redis-py's connections are their users' own"),
]


class Text(str):
    pass


class Name(str, enum.Enum):  # noqa: UP042 - its str() is "Name.SELECT"
    SELECT = "SELECT"
    BLPOP = "BLPOP"
    SUBSCRIBE = "SUBSCRIBE"
    MULTI = "MULTI"
    MONITOR = "MONITOR"
    REPLCONF = "REPLCONF"


SPELLINGS = {
    "as it is": lambda name: name,
    "subclass": Text,
    "enum": lambda name: Name[name],
    "lower": str.lower,
    "mixed": str.capitalize,
    "bytes": str.encode,
    "lower bytes": lambda name: name.lower().encode(),
    "trailing space": lambda name: name + " ",
    "leading space": lambda name: " " + name,
    "tabs": lambda name: f"\t{name}\t ",
    "newline": lambda name: name + "\r\n",
    "spaced subclass": lambda name: Text(f" {name.lower()} "),
    "spaced bytes": lambda name: f" {name} ".encode(),
}


@pytest.fixture(params=SPELLINGS)
def spelt(request):
    return SPELLINGS[request.param]


async def by_client(client, *args):
    return await client.execute_command(*args)


async def by_pipeline(client, *args):
    pipe = client.pipeline(transaction=False)
    pipe.execute_command(*args)
    return (await pipe.execute())[0]


async def by_multi(client, *args):
    pipe = client.pipeline()
    pipe.execute_command(*args)
    return (await pipe.execute())[0]


async def by_callbacks(client, *args):
    """By the way through Python that changed callbacks lead to."""
    client.set_response_callback("NO-SUCH", str)
    return await client.execute_command(*args)


async def by_engine(client, *args):
    return await client.connection_pool._native.engine.execute(*args)


WAYS = [by_client, by_pipeline, by_multi, by_callbacks, by_engine]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request):
    return request.param


def test_select_concerns_nobody_else(server, connect, spelt, way):
    async def main():
        async with connect(server, client_name="names") as client:
            await client.set("where", "zero")
            assert await way(client, spelt("SELECT"), 5) in (True, b"OK")
            for _ in range(3):
                assert await client.get("where") == b"zero"
            assert await client.pipeline().get("where").execute() == [b"zero"]
            assert await until(lambda: {c["db"] for c in server.clients("names")} == {"0"})

    run(main)


@pytest.mark.parametrize(
    "way", [way for way in WAYS if way is not by_multi], ids=lambda way: way.__name__
)
def test_blpop_holds_up_nobody(server, connect, spelt, way):
    async def main():
        async with connect(server, client_name="names") as client:
            await client.set("k", "v")
            pop = asyncio.create_task(way(client, spelt("BLPOP"), "l", 0))
            assert await until(lambda: [c for c in server.clients("names") if c["flags"] == "b"])
            for _ in range(5):
                assert await asyncio.wait_for(client.get("k"), 15) == b"v"
            assert not pop.done()
            await client.rpush("l", "x")
            assert list(await asyncio.wait_for(pop, 15)) == [b"l", b"x"]

    run(main)


@pytest.mark.parametrize("name", ["SUBSCRIBE", "MONITOR", "REPLCONF"])
def test_what_is_no_command(server, connect, spelt, way, name):
    """Refused before anything is sent, and no reply is out of step afterwards."""

    async def main():
        async with connect(server) as client:
            await client.set("k", "v")
            with pytest.raises(NotImplementedError, match=rf"(?i){name} turns .* pubsub"):
                await way(client, spelt(name), "ACK", "0")
            assert await asyncio.gather(client.get("k"), client.echo("x")) == [b"v", b"x"]
            # what is taken back is no half pipeline either
            assert await client.pipeline().get("k").execute() == [b"v"]

    run(main)


def test_multi_concerns_nobody_else(server, connect, spelt):
    async def main():
        async with connect(server, client_name="names") as client:
            assert await client.execute_command(spelt("MULTI")) in (True, b"OK")
            assert await client.set("k", "v") is True
            assert await client.get("k") == b"v"
            assert await until(
                lambda: not [c for c in server.clients("names") if c["multi"] != "-1"]
            )

    run(main)


CHANGING = [
    ("CLIENT", "TRACKING", "ON"),
    (b"client tracking", "on"),
    ("Client", b"Tracking", "On"),
    ("CLIENT TRACKING ON",),
    (" client\ttracking ", "ON"),
    (Text("CLIENT"), Text("TRACKING"), Text("ON")),
    ("AUTH", "default", ""),
    ("RESET",),
    (b" reset ",),
    ("HELLO", "2"),
    ("WATCH", "k"),
    ("watch k",),
]


@pytest.mark.parametrize("args", CHANGING, ids=repr)
def test_state_of_a_connection(server, connect, args):
    """Whatever it changes, it changes it on a connection that nobody uses any more."""

    async def main():
        async with connect(server, client_name="state", db=1) as client:
            assert client.connection_pool._native.engine.needs_own([args])
            await client.set("k", "v")
            with contextlib.suppress(errors.AuthenticationError):
                await client.execute_command(*args)
            assert await client.get("k") == b"v"
            of_all = lambda: {(c["name"], c["db"], c["flags"]) for c in server.clients()}  # noqa: E731
            assert await until(lambda: of_all() == {("state", "1", "N")}), of_all()

    run(main)


SHARED = [
    ("GET", "k"),
    ("CLIENT", "LIST"),
    ("CLIENT LIST",),
    ("client id",),
    ("XREAD", "STREAMS", "BLOCK", "0"),
    ("XREAD", "COUNT", 1, "STREAMS", "s", "0"),
    ("SETX", "k"),
    ("SELECTION", 5),
    ("CLIENT", "INFO"),
]


@pytest.mark.parametrize("args", SHARED, ids=repr)
def test_what_needs_no_connection_of_its_own(server, connect, args):
    client = connect(server)
    assert not client.connection_pool._native.engine.needs_own([args])
    for block in (("XREAD", "BLOCK", 0, "STREAMS", "s", "$"), ("xread", b"block", "5", "STREAMS")):
        assert client.connection_pool._native.engine.needs_own([args, block])


def test_empty_and_unspeakable_names(server, connect):
    async def main():
        async with connect(server) as client:
            for name in ("", " ", b"", "\t\n"):
                with pytest.raises(errors.ResponseError, match="unknown command ''"):
                    await client.execute_command(name)
            for name in (5, None, 1.5, object(), ["GET"], ("SELECT", 5)):
                with pytest.raises(errors.DataError):
                    await client.execute_command(name, "k")
            with pytest.raises(errors.ResponseError, match="unknown command"):
                await client.execute_command("SELECT\0", 5)
            with pytest.raises(TypeError):
                client.execute_command()
            assert await client.get("k") is None

    run(main)
