"""arshai_native.memory on a real server: the same conversations as arshai's own manager, byte for
byte and in both directions, the same errors, and what ours does besides.
"""

import asyncio
import gc
import inspect
import json
import logging
import math
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
import redis.exceptions as errors
from faultkit import run, until, wait_until
from redis.client import Redis

from arshai_native.memory import AsyncRedisMemoryManager, MemoryInput, WorkingMemory

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")

KEY = "memory:WORKING_MEMORY:7"
STAMP = re.compile(rb'"(created_at|last_update)": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?"')


def timeless(payload):
    """The payload with its two timestamps, which must have arshai's form, replaced."""
    replaced, count = STAMP.subn(rb'"\1": "T"', payload)
    assert count == 2, payload
    return replaced


@pytest.fixture
def arshai():
    """arshai's names that the tests need."""
    reason = "arshai is not installed: nothing to be compatible with"
    memory = pytest.importorskip("arshai.memory.working_memory.redis_memory_manager", reason=reason)
    level = logging.getLogger().level
    from arshai.agents.hub.working_memory import WorkingMemoryAgent

    # Importing it has everything logged. Other tests must not meet that.
    logging.getLogger().setLevel(level)
    from arshai.core.interfaces import imemorymanager
    from arshai.core.interfaces.iagent import IAgentInput
    from arshai.memory import memory_types

    return SimpleNamespace(
        RedisWorkingMemoryManager=memory.RedisWorkingMemoryManager,
        WorkingMemoryAgent=WorkingMemoryAgent,
        IAgentInput=IAgentInput,
        IMemoryInput=imemorymanager.IMemoryInput,
        IWorkingMemory=imemorymanager.IWorkingMemory,
        types=(imemorymanager.ConversationMemoryType, memory_types.ConversationMemoryType),
    )


@pytest.fixture
def raw(server):
    """A plain redis-py client of the server."""
    with Redis(host=server.host, port=server.port) as client:
        yield client


@pytest.fixture
def theirs(server, arshai):
    manager = arshai.RedisWorkingMemoryManager(server.url, ttl=600)
    yield manager
    manager.redis_client.close()


@pytest.fixture(params=["sync", "async", "dict"])
def way(request):
    """way(manager, operation, input) calls a manager of ours in one of its three ways."""
    return WAYS[request.param]


WAYS = {
    "sync": lambda manager, operation, input: getattr(manager, operation)(input),
    "async": lambda manager, operation, input: run(
        lambda: getattr(manager, operation + "_async")(input)
    ),
    "dict": lambda manager, operation, input: run(lambda: getattr(manager, operation)(vars(input))),
}


def about(*texts, id="7", metadata=None, type="WORKING_MEMORY"):
    """An input that either manager takes, unchecked: an IMemoryInput refuses some of them."""
    data = [SimpleNamespace(working_memory=text) for text in texts] or None
    return SimpleNamespace(conversation_id=id, memory_type=type, data=data, metadata=metadata)


def logged(caplog):
    """Our warnings. (arshai, once imported, makes every logger tell everything.)"""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "arshai_native.memory" and record.levelno >= logging.WARNING
    ]


def outcome(function, *args):
    """What a call comes to: ("returned", value), or the exception's class and text."""
    try:
        value = function(*args)
    except Exception as error:
        return type(error), str(error)
    if isinstance(value, list):
        value = [item.working_memory for item in value]
    return "returned", value


TEXTS = [
    "", "plain", "héllo wörld", "emoji 😀👩‍👩‍👧", "\ud800 lone", 'a "b" \\ c/d',
    "\x00\x01\x1f\x7f\r\n\t\b\f", "\u2028\u2029\ufeff", "x" * 100_000, "é😀" * 20_000,
]  # fmt: skip
METADATA = [
    None, {}, {"a": 1, "b": [1, 2.5, None, True]}, {"nan": math.nan, "inf": [math.inf, -math.inf]},
    {1: "int", 2.5: "float", False: "bool", None: "none"}, {"ñ": {"deep": {"er": [{}, [], ""]}}},
    {"tuple": (1, (2,)), "big": 10**30, "tiny": 1e-300}, {"lone": "\udcff"}, {"b": 1, "a": 2},
]  # fmt: skip
CASES = [(text, {"m": 1}) for text in TEXTS] + [("text", metadata) for metadata in METADATA]


class Text(str):
    pass


@pytest.mark.parametrize(("text", "metadata"), [*CASES, (Text("sub\xe9"), None)])
def test_payload_is_byte_equal(way, ours, theirs, raw, text, metadata):
    input = about(text, metadata=metadata)
    assert theirs.store(input) == KEY
    expected = raw.get(KEY)
    raw.flushall()
    assert way(ours, "store", input) == KEY
    assert timeless(raw.get(KEY)) == timeless(expected)
    stored = json.loads(raw.get(KEY))
    age = datetime.now() - datetime.fromisoformat(stored["created_at"])
    assert timedelta(0) <= age < timedelta(seconds=30)
    # And so is what update makes of it, whoever made it first.
    change = about("changed \u00e9")
    theirs.update(change)
    expected = raw.get(KEY)
    way(ours, "update", change)
    assert timeless(raw.get(KEY)) == timeless(expected)


@pytest.mark.parametrize("text", TEXTS)
def test_each_reads_the_others(way, ours, theirs, text):
    """Or fails as the other does: pydantic refuses a lone surrogate."""
    ours.store(about(text, id="mine"))
    theirs.store(about(text, id="yours"))
    expected = outcome(theirs.retrieve, about(id="yours"))
    assert expected[0] == "returned" and expected[1] == [text] or "\ud800" in text
    assert outcome(theirs.retrieve, about(id="mine")) == expected
    for id in ("mine", "yours"):
        assert outcome(way, ours, "retrieve", about(id=id)) == expected


def test_dtos_both_ways(ours, theirs, arshai):
    input = arshai.IMemoryInput(
        conversation_id="d",
        data=[arshai.IWorkingMemory(working_memory="mémoire")],
        metadata={"user": 1},
    )
    assert ours.store(input) == theirs.store(input) == "memory:SHORT_TERM_MEMORY:d"
    for found in (ours.retrieve(input), run(lambda: ours.retrieve_async(input))):
        assert [type(item) for item in found] == [arshai.IWorkingMemory]
        assert found == theirs.retrieve(input)
    own = MemoryInput("d2", data=[WorkingMemory(working_memory="x")], metadata=None)
    assert ours.store(own) == theirs.store(own) == "memory:WORKING_MEMORY:d2"
    assert WorkingMemory(working_memory="x") == theirs.retrieve(own)[0]


@pytest.mark.parametrize("id", ["1", "a:b:c", "ñ😀", "with space", "", "*?[x]", 42, "x" * 5000])
def test_keys(way, ours, theirs, arshai, raw, id):
    for name in ("SHORT_TERM_MEMORY", "LONG_TERM_MEMORY", "WORKING_MEMORY"):
        for kind in (name, *(enum(name) for enum in arshai.types)):
            raw.flushall()
            key = way(ours, "store", about("x", id=id, type=kind))
            assert key == f"memory:{name}:{id}"
            assert raw.keys() == [key.encode()]
            assert theirs.store(about("y", id=id, type=kind)) == key
            assert raw.keys() == [key.encode()]
            assert way(ours, "retrieve", about(id=id, type=kind))[0].working_memory == "y"
            way(ours, "delete", about(id=id, type=kind))
            assert raw.keys() == []


def test_ttl(way, ours, theirs, raw):
    key = way(ours, "store", about("x", metadata={"kept": 1}))
    assert 595 < raw.ttl(key) <= 600
    first = json.loads(raw.get(key))
    for update in (lambda i: way(ours, "update", i), theirs.update):
        raw.expire(key, 50)
        time.sleep(0.002)
        assert update(about("y", metadata={"ignored": 2})) is None
        assert 595 < raw.ttl(key) <= 600
        stored = json.loads(raw.get(key))
        assert stored["created_at"] == first["created_at"]
        assert stored["last_update"] > first["last_update"]
        assert stored["metadata"] == {"kept": 1}
        assert stored["data"] == {"working_memory": "y"}
    raw.expire(key, 50)
    way(ours, "retrieve", about())
    assert raw.ttl(key) <= 50
    ours.ttl, ours.prefix = 100, "other"
    assert raw.ttl(way(ours, "store", about("x"))) in (99, 100)
    assert raw.exists("other:WORKING_MEMORY:7")
    assert AsyncRedisMemoryManager("redis://localhost").ttl == 43200


TTLS = ["60", 60, 0, -1, 1.5, "x", None, True, [], timedelta(seconds=90), timedelta(days=2), b"60"]


@pytest.mark.parametrize("ttl", TTLS, ids=repr)
def test_ttls_are_taken_and_refused_alike(way, server, arshai, raw, ttl):
    theirs = arshai.RedisWorkingMemoryManager(server.url, ttl=ttl)
    expected = outcome(theirs.store, about("x"))
    left = raw.ttl(KEY)
    raw.flushall()
    with AsyncRedisMemoryManager(server.url, ttl=ttl) as ours:
        found = outcome(way, ours, "store", about("x"))
    assert abs(raw.ttl(KEY) - left) <= 1
    assert found[0] is expected[0] or found == expected
    theirs.redis_client.close()


def test_several_items(way, ours, theirs, raw):
    input = about("one", "two", "three")
    theirs.store(input)
    expected = timeless(raw.get(KEY))
    before = raw.info("commandstats")["cmdstat_setex"]["calls"]
    way(ours, "store", input)
    assert raw.info("commandstats")["cmdstat_setex"]["calls"] == before + 3
    assert timeless(raw.get(KEY)) == expected
    assert [m.working_memory for m in way(ours, "retrieve", input)] == ["three"]
    assert way(ours, "update", about("four", "five")) is None
    assert [m.working_memory for m in theirs.retrieve(input)] == ["five"]


def test_missing_keys(way, ours, raw, caplog):
    assert way(ours, "retrieve", about(id="none")) == []
    assert way(ours, "delete", about(id="none")) is None
    assert logged(caplog) == []
    assert way(ours, "update", about("x", id="none")) is None
    assert logged(caplog) == ["No existing data found for key: memory:WORKING_MEMORY:none"]
    assert raw.keys() == []


# ---- 5: errors ----

FOREIGN = [
    b"{", b"not json", b"\xff\xfe\xfd", b'{"x": 1}', b"{}", b"[]", b'"text"', b"5", b"null", b" ",
    b"{} x", b"", b'{"data": {}}', b'{"data": []}', b'{"data": null}', b'{"data": {"a"',
    b'{"\xff": 1}', b'{"data": {"working_memory": 5}}', b'{"data": {"working_memory": null}}',
    b'{"data": {"working_memory": ["x"]}}', b'{"data": {"working_memory": "lone \xed\xa0\x80"}}',
    b'{"data": {"working_memory": "control \x01"}}', b'{"data": {"working_memory": NaN}}',
    b'\xef\xbb\xbf{"data": {"working_memory": "BOM"}}', b"[" * 100_000,
    b'{"data": {"working_memory": "ok"}, "more": [NaN, 1e999]}',
    b'  {"data": {"working_memory": "spaces \xc3\xa9"}} \n ',
    '{"data": {"working_memory": "sixteen"}}'.encode("utf-16"),
]  # fmt: skip


@pytest.mark.parametrize("payload", FOREIGN, ids=lambda p: repr(p[:44]))
@pytest.mark.parametrize("operation", ["retrieve", "update"])
def test_foreign_payloads(way, ours, theirs, raw, operation, payload):
    """The same result or the same exception with the same text, and then things go on."""
    raw.set(KEY, payload)
    expected = outcome(getattr(theirs, operation), about("new"))
    after = raw.get(KEY)
    raw.set(KEY, payload)
    assert outcome(way, ours, operation, about("new")) == expected
    pattern = rb'"last_update": "[^"]*"'
    assert re.sub(pattern, b"", raw.get(KEY)) == re.sub(pattern, b"", after)
    way(ours, "store", about("again"))
    assert way(ours, "retrieve", about())[0].working_memory == "again"


@pytest.mark.parametrize("operation", ["retrieve", "update"])
def test_wrong_type_of_key(way, ours, theirs, raw, operation):
    raw.rpush(KEY, "x")
    expected = outcome(getattr(theirs, operation), about("x"))
    assert expected[0] is errors.ResponseError and "WRONGTYPE" in expected[1]
    assert outcome(way, ours, operation, about("x")) == expected


@pytest.mark.parametrize("operation", ["store", "update"])
@pytest.mark.parametrize("data", [None, [], ()])
def test_no_data(way, ours, theirs, caplog, operation, data):
    input = about()
    input.data = data
    expected = (ValueError, f"No data provided to {operation}")
    assert outcome(getattr(theirs, operation), input) == expected
    caplog.clear()
    assert outcome(way, ours, operation, input) == expected
    assert logged(caplog) == [f"No data provided to {operation}"]


CIRCULAR: dict = {}
CIRCULAR["self"] = CIRCULAR
NO_JSON = [{"at": datetime.now()}, {"b": b"x"}, {(1, 2): 3}, {"s": {1}}, CIRCULAR]


@pytest.mark.parametrize("metadata", NO_JSON)
def test_metadata_that_json_does_not_know(way, ours, theirs, metadata):
    expected = outcome(theirs.store, about("x", metadata=metadata))
    assert expected[0] in (TypeError, ValueError)
    assert outcome(way, ours, "store", about("x", metadata=metadata)) == expected


@pytest.mark.parametrize("input", [None, 5, "text", [], object(), b"x"], ids=repr)
@pytest.mark.parametrize("operation", ["store", "retrieve", "update", "delete"])
def test_no_input_at_all(ours, theirs, operation, input):
    expected = outcome(getattr(theirs, operation), input)
    assert expected[0] is AttributeError
    assert outcome(getattr(ours, operation), input) == expected
    assert outcome(WAYS["async"], ours, operation, input) == expected


BAD_DICTS = [
    ({}, KeyError), ({"working_memory": "x"}, KeyError),
    ({"conversation_id": "7"}, ValueError), ({"conversation_id": "7", "data": []}, ValueError),
    ({"conversation_id": "7", "working_memory": 5}, TypeError),
    ({"conversation_id": "7", "data": 5}, TypeError),
    ({"conversation_id": "7", "data": [5]}, TypeError),
    ({"conversation_id": "7", "data": [{"x": 1}]}, KeyError),
    ({"conversation_id": "7", "data": [{"working_memory": None}]}, ValueError),
    ({"conversation_id": "\ud800", "working_memory": "x"}, UnicodeEncodeError),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "error"), BAD_DICTS)
def test_bad_dicts(ours, raw, fields, error):
    """Nothing is raised before the await, nothing is stored, and the manager goes on."""

    async def main():
        operations = [ours.store, ours.store_async]
        if "conversation_id" not in fields:
            operations += [ours.retrieve, ours.retrieve_async, ours.delete, ours.delete_async]
        for operation in operations:
            awaitable = operation(fields)
            assert inspect.isawaitable(awaitable)
            with pytest.raises(error):
                await awaitable
        assert raw.keys() == []
        assert await ours.store({"conversation_id": "ok", "working_memory": "x"})

    run(main)


# ---- servers that are down, deaf, or want a password ----


@pytest.mark.parametrize("operation", ["store", "retrieve", "update", "delete"])
def test_a_server_that_is_down(way, own_server, arshai, operation):
    server = own_server()
    with AsyncRedisMemoryManager(server.url) as ours, AsyncRedisMemoryManager(server.url) as used:
        way(used, "store", about("x"))
        server.kill()
        theirs = arshai.RedisWorkingMemoryManager(server.url)
        assert outcome(getattr(theirs, operation), about("x"))[0] is errors.ConnectionError
        for manager in (ours, used):
            start = time.monotonic()
            with pytest.raises(errors.ConnectionError):
                way(manager, operation, about("x"))
            assert time.monotonic() - start < 3
        assert run(ours.health_check_async) is False
        server.start()
        assert way(used, "store", about("back")) == KEY
        assert way(ours, "retrieve", about())[0].working_memory == "back"
        assert run(ours.health_check_async) is True


def test_a_server_that_does_not_answer(way, own_server):
    server = own_server()
    with AsyncRedisMemoryManager(server.url, socket_timeout=0.2) as ours:
        way(ours, "store", about("x"))
        server.freeze()
        start = time.monotonic()
        with pytest.raises(errors.TimeoutError):
            way(ours, "retrieve", about())
        assert 0.15 < time.monotonic() - start < 3
        assert run(ours.health_check_async) is False
        server.thaw()
        assert wait_until(lambda: outcome(way, ours, "retrieve", about()))[1] == ["x"]


@pytest.mark.parametrize("options", [("--requirepass", "right"), ()])  # (): none is configured
@pytest.mark.parametrize("user", ["", "someone"])
@pytest.mark.parametrize("in_query", [False, True])
def test_a_wrong_password(way, own_server, arshai, caplog, user, options, in_query):
    """The exception class is redis-py's; the password is in no message, repr or log."""
    loguru = pytest.importorskip("loguru").logger
    server, password = own_server(*options), "s3cr3t-wörd"
    host = f"{server.host}:{server.port}"
    url = f"redis://{user}:s3cr3t-w%C3%B6rd@{host}/0"
    if in_query:
        url = f"redis://{host}/0?username={user}&password=s3cr3t-w%C3%B6rd"
    theirs = arshai.RedisWorkingMemoryManager(url)
    expected = outcome(theirs.store, about("x"))[0]
    caplog.clear()
    caplog.set_level(1)
    lines, texts = [], []
    sink = loguru.add(lines.append, level=0)
    for name in ("storage_url", "redis_url"):
        with AsyncRedisMemoryManager(**{name: url}) as ours:
            for operation in ("store", "retrieve", "update", "delete"):
                with pytest.raises(expected) as caught:
                    way(ours, operation, about("x"))
                assert caught.type is expected
                error = caught.value
                while error is not None:
                    texts += [str(error), repr(error), repr(error.args)]
                    error = error.__cause__ or error.__context__
            assert run(ours.health_check_async) is False
            texts += [repr(ours), str(ours), repr(ours._engine), repr(ours._engine.stats())]
    loguru.remove(sink)
    texts += [str(line) for line in lines] + [repr(vars(r)) for r in caplog.records]
    assert any("health check" in record.getMessage() for record in caplog.records)
    assert "s3cr3t" not in "".join(texts) and password not in "".join(texts)


@pytest.mark.parametrize("password", ["12/s3cr3t", "12?s3cr3t", "12#s3cr3t", "s3cr3t/"])
def test_a_password_that_was_not_quoted_is_not_logged(caplog, password):
    """It ends the host where it should not; whatever is made of it, it is still a secret."""
    caplog.set_level(1)
    texts = []
    try:
        texts.append(repr(AsyncRedisMemoryManager(f"redis://:{password}@localhost:6379/0")))
    except ValueError as error:
        texts.append(str(error))
    texts += [record.getMessage() for record in caplog.records]
    assert "s3cr3t" not in "".join(texts)


def test_the_right_password(own_server, way):
    server = own_server("--requirepass", "pa ss/wörd")
    url = f"redis://:pa%20ss%2Fw%C3%B6rd@{server.host}:{server.port}/3"
    with AsyncRedisMemoryManager(url) as ours:
        way(ours, "store", about("x"))
        assert ours.redis_client.get(KEY)
        assert ours.redis_client.connection_pool.connection_kwargs["db"] == 3


class Model:
    def __init__(self):
        self.seen = []

    async def chat(self, input):
        self.seen.append(input.user_message)
        return {"llm_response": f"mémoire {len(self.seen)}"}


def test_working_memory_agent(kind, ours, theirs, arshai, raw):
    theirs.store(about("of old", id="42"))

    async def main():
        model = Model()
        agent = arshai.WorkingMemoryAgent(model, memory_manager=ours)
        for message in ("hi", "again"):
            input = arshai.IAgentInput(message=message, metadata={"conversation_id": "42"})
            assert await agent.process(input) == "success"
        assert "of old" in model.seen[0] and "mémoire 1" in model.seen[1]

    run(main, kind)
    assert [m.working_memory for m in theirs.retrieve(about(id="42"))] == ["mémoire 2"]
    assert json.loads(raw.get("memory:WORKING_MEMORY:42"))["metadata"] == {"conversation_id": "42"}


def test_the_agent_says_what_failed(own_server, arshai):
    server = own_server()
    server.kill()
    with AsyncRedisMemoryManager(server.url) as ours:
        agent = arshai.WorkingMemoryAgent(Model(), memory_manager=ours)
        input = arshai.IAgentInput(message="hi", metadata={"conversation_id": "42"})
        assert run(lambda: agent.process(input)).startswith("error: storage failed")


# ---- calling it ----


def test_dicts_await_and_dtos_do_not(ours):
    async def main():
        fields = {"conversation_id": 42, "working_memory": "x", "metadata": {"a": 1}}
        for operation, expected in (
            ("store", "memory:WORKING_MEMORY:42"), ("update", None), ("delete", None),
        ):  # fmt: skip
            awaitable = getattr(ours, operation)(fields)
            assert inspect.isawaitable(awaitable)
            assert await awaitable == expected
        assert await ours.retrieve({"conversation_id": 42}) == []
        # Inside a running loop, from its own thread.
        assert ours.store(about("sync", id=42)) == "memory:WORKING_MEMORY:42"
        assert ours.retrieve(about(id=42))[0].working_memory == "sync"
        assert (await ours.retrieve({"conversation_id": "42"}))[0].working_memory == "sync"
        assert ours.update(about("more", id=42)) is None
        assert (await ours.retrieve_async(about(id=42)))[0].working_memory == "more"
        assert ours.delete(about(id=42)) is None

    run(main)
    assert ours.retrieve(about(id=42)) == []


def test_data_objects():
    made = MemoryInput.from_dict({"conversation_id": "1", "data": ["a", {"working_memory": "b"}]})
    assert [item.working_memory for item in made.data] == ["a", "b"]
    assert made.memory_type == "WORKING_MEMORY" and made.metadata is None
    item = WorkingMemory.from_dict({"working_memory": "x"})
    assert item.to_dict() == item.model_dump() == {"working_memory": "x"}
    assert item == WorkingMemory(working_memory="x") != WorkingMemory(working_memory="y")
    assert item != 5 and repr(item) == "WorkingMemory(working_memory='x')"
    with pytest.raises(ValueError):
        WorkingMemory(working_memory=None)


def test_urls(server, monkeypatch, caplog):
    monkeypatch.setenv("REDIS_URL", server.url)
    manager = AsyncRedisMemoryManager()
    assert manager.storage_url == server.url and not logged(caplog)
    assert run(manager.health_check_async) is True
    for options in (
        {"redis_url": "redis://x/2"},
        {"storage_url": "redis://x/2", "redis_url": "redis://y"},
    ):
        assert AsyncRedisMemoryManager(**options).storage_url == "redis://x/2"
    monkeypatch.delenv("REDIS_URL")
    assert AsyncRedisMemoryManager().storage_url == "redis://localhost:6379/1"
    assert len(logged(caplog)) == 1
    for url in ("http://x", "x:6379", "redis://x?db=z"):
        with pytest.raises(ValueError):
            AsyncRedisMemoryManager(url)
    over_unix = AsyncRedisMemoryManager(f"unix://{server.path}?db=3", client_name="unix-memory")
    over_unix.store(about("x"))
    assert [row["db"] for row in server.clients("unix-memory")] == ["3"]
    over_unix.close_sync()
    manager.close_sync()


def test_options_of_the_framework(server):
    """What arshai's users pass; options that nobody knows are ignored, as its class does."""
    with AsyncRedisMemoryManager(
        server.url, ttl=60, max_connections=1, retry_on_timeout=True, socket_timeout=5,
        socket_connect_timeout=5, socket_keepalive=True, health_check_interval=30, unheard_of=1,
        decode_responses=True,
    ) as manager:  # fmt: skip
        manager.store(about("x"))
        assert manager.retrieve(about())[0].working_memory == "x"
        manager.set_sync("k", "v")
        assert run(lambda: manager.get("k")) == "v"


def test_batches(kind, ours, theirs, raw):
    async def main():
        assert await ours.store_batch_async([]) == []
        assert await ours.retrieve_batch_async([]) == []
        assert await ours.delete_batch_async([]) == 0
        inputs = [about("old", f"text {i}", id=i, metadata={"i": i}) for i in range(700)]
        inputs += [{"conversation_id": i, "working_memory": f"text {i}"} for i in range(700, 1300)]
        keys = await ours.store_batch_async(iter(inputs))
        assert keys == [f"memory:WORKING_MEMORY:{i}" for i in range(1300)]
        found = await ours.retrieve_batch_async(
            about(id=i) if i % 2 else {"conversation_id": i} for i in range(1301)
        )
        assert [[m.working_memory for m in f] for f in found] == [
            [f"text {i}"] for i in range(1300)
        ] + [[]]
        assert raw.ttl(keys[-1]) > 590
        assert await ours.delete_batch_async({"conversation_id": i} for i in range(5, 2000)) == 1295

    run(main, kind)
    assert theirs.retrieve(about(id=4))[0].working_memory == "text 4"
    assert len(raw.keys()) == 5


def test_batches_with_errors(ours, raw):
    async def main():
        with pytest.raises(ValueError, match="No data provided to store"):
            await ours.store_batch_async([about("x"), about(id="2")])
        assert raw.keys() == []
        await ours.store_batch_async([about("x", id=i) for i in range(4)])
        raw.delete("memory:WORKING_MEMORY:1")
        raw.rpush("memory:WORKING_MEMORY:1", "list")
        with pytest.raises(errors.ResponseError, match="WRONGTYPE"):
            await ours.retrieve_batch_async(about(id=i) for i in range(4))
        ours.ttl = 0
        with pytest.raises(errors.ResponseError, match="invalid expire"):
            await ours.store_batch_async([about("x")])
        raw.set("memory:WORKING_MEMORY:2", "no json")
        with pytest.raises(json.JSONDecodeError):
            await ours.retrieve_batch_async([about(id="2")])
        assert await ours.delete_batch_async(about(id=i) for i in range(4)) == 4

    run(main)


def test_stats_and_health(kind, ours, raw):
    async def main():
        assert await ours.health_check_async() is True
        for type, count in (("WORKING_MEMORY", 3), ("SHORT_TERM_MEMORY", 2)):
            await ours.store_batch_async(about("x", id=f"a:{i}", type=type) for i in range(count))
        raw.mset({"memory": 1, "memory:odd": 1, "other:X:1": 1})
        stats = await ours.get_memory_stats_async()
        assert stats["total"] == 5
        assert stats["by_type"] == {"WORKING_MEMORY": 3, "SHORT_TERM_MEMORY": 2}
        assert stats["used_memory"] > 100_000 and stats["ttl"] == 600
        assert stats["connection"]["commands"] >= 7 and stats["connection"]["connections"] >= 1

    run(main, kind)


def test_sync_calls_from_eight_threads(ours, theirs):
    barrier = threading.Barrier(8)

    def work(thread):
        barrier.wait(20)
        for i in range(150):
            id = f"{thread}-{i}"
            ours.store(about(f"text {id}", id=id))
            ours.update(about(f"new {id}", id=id))
            assert [m.working_memory for m in ours.retrieve(about(id=id))] == [f"new {id}"]
            if i % 2:
                ours.delete(about(id=id))
        return thread

    async def main():
        """An event loop uses the same manager meanwhile."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(8) as pool:
            threads = asyncio.gather(*(loop.run_in_executor(pool, work, i) for i in range(8)))
            rounds = 0
            while not threads.done():
                id = f"loop-{rounds}"
                await ours.store({"conversation_id": id, "working_memory": id})
                assert (await ours.retrieve({"conversation_id": id}))[0].working_memory == id
                rounds += 1
            assert await threads == list(range(8)) and rounds > 10

    run(main)
    assert [m.working_memory for m in theirs.retrieve(about(id="3-148"))] == ["new 3-148"]
    assert theirs.retrieve(about(id="3-149")) == []


def test_two_event_loops_at_once_and_one_after_the_other(ours):
    async def use(name):
        for i in range(100):
            id = f"{name}-{i}"
            await ours.store({"conversation_id": id, "working_memory": id})
            assert (await ours.retrieve({"conversation_id": id}))[0].working_memory == id
        return name

    for kind in ("asyncio", "uvloop", "asyncio"):
        assert run(lambda: use("after"), kind) == "after"
    with ThreadPoolExecutor(3) as pool:
        loops = pool.map(
            lambda kind: run(lambda: use(kind), kind), ("asyncio", "uvloop", "asyncio")
        )
        assert list(loops) == ["asyncio", "uvloop", "asyncio"]


def test_a_thousand_at_once(kind, server, ours):
    async def main():
        async def one(i):
            text = f"{i} " + "é" * (i * 37 % 9000)
            await ours.store_async(about("first", id=i, metadata={"i": i}))
            await ours.update_async(about(text, id=i))
            (found,) = await ours.retrieve_async(about(id=i))
            assert found.working_memory == text
            await ours.delete({"conversation_id": i})
            return await ours.retrieve({"conversation_id": i})

        assert await asyncio.gather(*(one(i) for i in range(1000))) == [[]] * 1000

    run(main, kind)
    assert len(server.clients()) < 10


def test_cancelled(kind, own_server):
    """Cancelled calls end at once and their replies reach nobody else."""
    server = own_server()

    async def main():
        async with AsyncRedisMemoryManager(server.url) as ours:
            await ours.store_batch_async(about(f"text {i}", id=i) for i in range(200))
            server.freeze()
            tasks = [asyncio.create_task(ours.retrieve_async(about(id=i))) for i in range(200)]
            await asyncio.sleep(0.1)
            for task in tasks[::2]:
                task.cancel()
            start = time.monotonic()
            results = await asyncio.gather(*tasks[::2], return_exceptions=True)
            assert time.monotonic() - start < 1
            assert {type(result) for result in results} == {asyncio.CancelledError}
            server.thaw()
            for i in range(1, 200, 2):
                assert [m.working_memory for m in await tasks[i]] == [f"text {i}"]
            for i in range(200):
                (found,) = await ours.retrieve({"conversation_id": i})
                assert found.working_memory == f"text {i}"
            server.freeze()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ours.store_async(about("x", id="late")), 0.1)
            server.thaw()
            assert await ours.health_check_async() is True

    run(main, kind)


def test_close_and_use_after_close(way, server):
    manager = AsyncRedisMemoryManager(server.url, client_name="closing")
    for close in (manager.close_sync, lambda: run(manager.close_async)):
        way(manager, "store", about("x"))
        assert len(server.clients("closing")) >= 1
        close()
        close()
        assert wait_until(lambda: not server.clients("closing"))
        assert way(manager, "retrieve", about())[0].working_memory == "x"
    manager.close_sync()


def test_close_ends_what_is_under_way(kind, own_server):
    server = own_server()

    async def main():
        manager = AsyncRedisMemoryManager(server.url)
        await manager.store_async(about("x"))
        server.freeze()
        task = asyncio.create_task(manager.retrieve_async(about()))
        await asyncio.sleep(0.1)
        await manager.close_async()
        with pytest.raises(errors.ConnectionError):
            await asyncio.wait_for(task, 5)
        server.thaw()
        assert (await manager.retrieve_async(about()))[0].working_memory == "x"
        manager.close_sync()

    run(main, kind)


def test_context_managers_and_the_sync_client(server):
    async def main():
        async with AsyncRedisMemoryManager(server.url, client_name="with") as manager:
            await manager.store_async(about("x"))
            assert manager.redis_client is manager.redis_client
            assert manager.redis_client.ttl(KEY) > 43000
        assert await until(lambda: not server.clients("with"))

    run(main)
    with AsyncRedisMemoryManager(server.url, client_name="with") as manager:
        assert manager.retrieve(about())
    assert wait_until(lambda: not server.clients("with"))
    with pytest.raises(RuntimeError), AsyncRedisMemoryManager(server.url, client_name="with") as m:
        m.retrieve(about())
        raise RuntimeError
    assert wait_until(lambda: not server.clients("with"))
    manager = AsyncRedisMemoryManager(server.url, client_name="with")
    manager.retrieve(about())
    del manager
    gc.collect()  # arshai's log handler keeps the frames of its callers until then
    assert wait_until(lambda: not server.clients("with"))
