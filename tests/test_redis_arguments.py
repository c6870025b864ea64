"""Arguments whose conversion runs Python code, which changes what it was called from.

Each case is a Python of its own: what went wrong here were reads of freed memory. Either the server
gets the bytes that were there, or the caller a RuntimeError.
"""

import textwrap

import pytest
from faultkit import PEER
from test_redis_bridge import script

pytest_plugins = ("faultfixtures",)
pytestmark = [
    pytest.mark.usefixtures("bounded"),
    pytest.mark.skipif(PEER, reason="about the native bridge"),
]

COMMON = """
port = int(sys.argv[1])
plain = Redis(port=port)
junk = []

class Evil(int):
    "Its repr(), which is what is sent of it, first calls self.act."
    act = None

    def __repr__(self):
        act, self.act = self.act, None
        if act is not None:
            act()
            # what was freed is used again
            junk.extend("Z" * 40 + str(i) for i in range(2000))
            junk.extend(b"Z" * 40 + bytes([i]) for i in range(200))
            gc.collect()
        return str(int(self))

def change(box):
    "What sys.argv[2] does to a list or dict, to be called later."
    names = {"box": box, "is_list": isinstance(box, list)}
    return lambda: eval(sys.argv[2], names)

def keys(n, name="key"):
    return [f"{name}-{i}-" * 8 for i in range(n)]

async def fill():
    await plain.flushall()
    await plain.mset({key: key.upper() for key in keys(40)} | {"7": "seven"})

async def attempt(make):
    "The result, or RuntimeError, which is fine."
    try:
        return await make()
    except RuntimeError as error:
        return error
"""

END = """
async def all_of_it():
    await main()
    await plain.aclose()
    print("well")

asyncio.run(all_of_it())
"""


def goes_well(body, *args):
    """main() of the body comes to its end, in a Python of its own."""
    script(END, *args, common=COMMON + textwrap.dedent(body), says="well")


CHANGES = {
    "clear": "box.clear()",
    "shrink": "[box.pop() if is_list else box.popitem() for _ in range(20)]",
    "grow": "box.extend(['more'] * 500) if is_list else "
    "box.update({f'm{i}': i for i in range(500)})",
    "replace": "box.__setitem__(slice(None), ['other'] * len(box)) if is_list else "
    "box.update(dict.fromkeys(box, 5))",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("retry", [False, True], ids=["", "retry"])
def test_lists(server, change, retry):
    """mget, hmget, and the commands of a pipeline."""
    goes_well(
        """
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as Lost
        options = dict(retry=Retry(NoBackoff(), 1), retry_on_error=[Lost]) if sys.argv[3] else {}

        async def main():
            client = Redis(port=port, **options)
            native = client._engine
            await fill()
            await plain.hset("h", mapping={key: key.upper() for key in keys(40)} | {"7": "seven"})
            names = keys(40)
            expected = [key.upper().encode() for key in names[:20]] + [b"seven"]

            for make in (
                lambda box: client.mget(box),
                lambda box: client.hmget("h", box),
                lambda box: client.execute_command("MGET", *box),
            ):
                box = names[:20] + [Evil(7)] + names[20:]
                box[20].act = change(box)
                values = await attempt(lambda: make(box))
                if not isinstance(values, RuntimeError):
                    assert values[:21] == expected, values

            # A pipeline keeps commands of its own, of which the list that it was given is a copy.
            commands = [["ECHO", key] for key in names]
            inner = ["ECHO", Evil(7)]
            inner[1].act = change(commands)
            commands.insert(20, inner)
            replies = await attempt(lambda: native.pipeline(commands))
            if not isinstance(replies, RuntimeError):
                echoed = [key.encode() for key in names]
                echoed.insert(20, b"7")
                assert replies == echoed, replies
            command = ["MGET", *names[:20], Evil(7), *names[20:]]
            command[21].act = change(command)
            ((values),) = await attempt(lambda: native.pipeline([command]))
            assert values[:21] == expected

            pipe = client.pipeline(transaction=False)
            pipe.mget(names[:20] + [evil := Evil(7)])
            evil.act = change(pipe.command_stack)
            for key in names:
                pipe.get(key)
            try:
                await pipe.execute()
            except ValueError:
                pass  # redis-py's own part of it cannot match replies with commands

            assert await client.mget(names) == [key.upper().encode() for key in names]
            await client.aclose()
        """,
        server.port,
        CHANGES[change],
        "retry" if retry else "",
    )


@pytest.mark.parametrize("change", CHANGES)
def test_dicts(server, change):
    """hset, mset and zadd: a dict that changes its size is an error, as in Python."""
    goes_well(
        """
        async def main():
            client = Redis(port=port)
            await fill()
            for name, make, read in (
                ("h", lambda box: client.hset("h", mapping=box), lambda: client.hgetall("h")),
                ("m", lambda box: client.mset(box), lambda: client.keys("*")),
                ("z", lambda box: client.zadd("z", box), lambda: client.zrange("z", 0, -1)),
            ):
                for as_key in (False, True):
                    await client.flushall()
                    box = {key: n for n, key in enumerate(keys(20, name))}
                    evil = Evil(7)
                    if as_key:
                        box[evil] = 5
                    else:
                        box["evil"] = evil
                    box |= {key: n for n, key in enumerate(keys(20, "more"))}
                    before = dict(box)
                    evil.act = change(box)
                    result = await attempt(lambda: make(box))
                    found = await read()
                    if isinstance(result, RuntimeError):
                        assert "changed size" in str(result), result
                        assert len(found) == 0
                        continue
                    # not before that one, and nothing that was in neither
                    sent = {str(key).encode() for key in before} | {b"more"}
                    assert set(found) <= sent, found
                    assert len(found) == len(before), (len(found), len(before))
            assert await client.ping()
            await client.aclose()
        """,
        server.port,
        CHANGES[change],
    )


def test_the_engine_goes_meanwhile(server):
    """The client loses its engine, and nobody else has it, while its command is put together."""
    goes_well(
        """
        def methods(client, evil):
            return (
                lambda: client.set("k", evil),
                lambda: client.set(evil, "v", ex=Evil(60)),
                lambda: client.get(evil),
                lambda: client.setex("k", 60, evil),
                lambda: client.lpush("l", "a", evil, "b"),
                lambda: client.hset("h", evil, evil),
                lambda: client.hset("h", mapping={"a": 1, "e": evil, "b": 2}),
                lambda: client.mset({"a": 1, "e": evil, "b": 2}),
                lambda: client.zadd("z", {"a": evil}),
                lambda: client.mget(["a", evil, "b"]),
                lambda: client.hmget("h", ["a", evil, "b"]),
                lambda: client.zrange("z", evil, -1, withscores=True),
                lambda: client.execute_command("ECHO", evil),
                lambda: client.pipeline(transaction=False).set("k", evil).execute(),
                lambda: client._engine.execute("ECHO", evil),
                lambda: client._engine.pipeline([("ECHO", evil), ("PING",)]),
            )

        async def main():
            for n in range(len(methods(None, None))):
                for how in ("none", "pool"):
                    client = Redis(port=port, client_name="goes")
                    evil = Evil(7)

                    def act():
                        client._engine = None
                        if how == "pool":
                            client._native = None
                            client.connection_pool = None

                    evil.act = act
                    await attempt(methods(client, evil)[n])
                    del client
            assert await plain.get("k") == b"7"
            assert await plain.lrange("l", 0, -1) == [b"b", b"7", b"a"] * 2
            assert await plain.hgetall("h") == {b"7": b"7", b"a": b"1", b"e": b"7", b"b": b"2"}
        """,
        server.port,
    )


def test_the_engine_goes_while_execute_command_is_looked_up(server):
    """A property of a subclass, say, which a C method asks for to see whether it is replaced."""
    goes_well(
        """
        class Own(Redis):
            armed = False

            @property
            def execute_command(self):
                method = super().execute_command
                if self.armed:
                    self._engine = None
                return method

        async def main():
            for make in (
                lambda client: client.get("k"),
                lambda client: client.set("k", "v"),
                lambda client: client.mget(["a", "b"]),
                lambda client: client.hset("h", mapping={"a": 1}),
                lambda client: client.zrange("z", 0, -1),
            ):
                client = Own(port=port)
                await client.ping()
                client.armed = True
                await attempt(lambda: make(client))
                await client.aclose()
        """,
        server.port,
    )


def test_conversions_that_raise(server):
    """What they raise is raised when the command is awaited; nothing of it is sent."""
    goes_well(
        """
        class Worse(int):
            def __repr__(self):
                raise KeyError("mine")

        class NoText(int):
            def __repr__(self):
                return 5

        class Float(float):
            def __repr__(self):
                return "1.5"

        async def main():
            async with Redis(port=port) as client:
                for bad, error in ((Worse(1), KeyError), (NoText(1), TypeError)):
                    for make in (
                        lambda: client.set("k", bad),
                        lambda: client.mset({"k": bad}),
                        lambda: client.hset("k", mapping={"a": 1, "b": bad}),
                        lambda: client.mget(["a", bad]),
                        lambda: client.execute_command("SET", "k", bad),
                        lambda: client.pipeline().set("a", 1).set("k", bad).execute(),
                        lambda: client._engine.execute("SET", "k", bad),
                    ):
                        awaitable = make()
                        try:
                            await awaitable
                        except error:
                            pass
                        else:
                            raise AssertionError(make)
                assert await client.keys() == []
                assert await client.set("k", Float(2)) and await client.get("k") == b"1.5"
        """,
        server.port,
    )


def test_the_cycle_through_a_request_is_collected(server):
    """Arguments, options and callbacks that know the request they belong to."""
    goes_well(
        """
        import weakref

        class Owner:
            pass

        async def main():
            client = Redis(port=port, retry_on_timeout=True, socket_timeout=20)
            owners = []
            for _ in range(10):
                owner = Owner()
                owner.request = client.get("k")
                owner.task = asyncio.ensure_future(owner.request)
                owner.task.owner = owner if hasattr(owner.task, "__dict__") else None
                owner.task.add_done_callback(lambda task, owner=owner: None)
                await owner.task
                owner.unsent = client.execute_command("GET", "k", owner=owner)
                owner.unsent.close()
                owners.append(weakref.ref(owner))
            del owner
            gc.collect()
            assert [owner() for owner in owners] == [None] * 10
            await client.aclose()
        """,
        server.port,
    )
