"""What programs find on the memory manager besides conversations: the cache that arshai's own
decorators use, the synchronous redis-py client, and the synchronous methods in odd places.
"""

import subprocess
import sys
import textwrap
from datetime import timedelta

import pytest
import redis.exceptions as errors
from faultkit import child, run, until, wait_until
from redis.client import Redis

from arshai_native.memory import AsyncRedisMemoryManager, MemoryInput, WorkingMemory

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")

KEY = "memory:WORKING_MEMORY:7"


@pytest.fixture
def raw(server):
    """A plain redis-py client of the server."""
    with Redis(host=server.host, port=server.port, decode_responses=True) as client:
        yield client


@pytest.fixture
def decorators():
    reason = "arshai is not installed"
    return pytest.importorskip("arshai.cache.decorators", reason=reason)


def about(*texts, id="7"):
    return MemoryInput(id, data=[WorkingMemory(working_memory=text) for text in texts])


def test_the_plain_cache(kind, ours, raw):
    async def main():
        assert await ours.get("k") is None and ours.get_sync("k") is None
        assert await ours.set("k", "é", ttl=60) is True
        assert await ours.get("k") == ours.get_sync("k") == "é" and raw.ttl("cache:k") in (59, 60)
        assert ours.set_sync("k", b"bytes") is True and raw.ttl("cache:k") == -1
        assert await ours.get("k") == "bytes"
        assert await ours.set("n", 5, timedelta(minutes=1)) is True
        assert raw.ttl("cache:n") in (59, 60)
        for ttl in (0, -1, 1.5):
            with pytest.raises(errors.ResponseError):
                await ours.set("k", "x", ttl=ttl)
            with pytest.raises(errors.ResponseError):
                ours.set_sync("k", "x", ttl)
        raw.mset({f"cache:p:{i}": i for i in range(2500)})
        assert await ours.delete_pattern("p:*") == 2500
        assert sorted(raw.keys()) == ["cache:k", "cache:n"]
        assert await ours.delete_pattern("p:*") == 0

    run(main, kind)


# What is cached, the pattern, and what is left of it.
PATTERNS = [
    ("p:", ["q:1", "xp:1"]),
    ("p:*", ["q:1", "xp:1"]),
    ("p", ["q:1", "xp:1"]),
    ("*p:?", ["p:22", "q:1"]),
    ("[pq]:1", ["p:22", "xp:1"]),
    ("p:1", ["p:22", "q:1", "xp:1"]),
    ("none:", ["p:1", "p:22", "q:1", "xp:1"]),
    ("*", []),
]


@pytest.mark.parametrize(("pattern", "left"), PATTERNS)
@pytest.mark.parametrize("looped", [False, True], ids=["sync", "async"])
def test_patterns(ours, raw, pattern, left, looped):
    """A prefix or a glob, in the cache only: neither conversations nor others' keys are touched."""
    others = [ours.store(about("x")), "other", "p:1", "xcache:p:1"]
    raw.mset({"other": 1, "p:1": 1, "xcache:p:1": 1})
    for key in ("p:1", "p:22", "q:1", "xp:1"):
        ours.set_sync(key, "v")

    async def main():
        return await ours.delete_pattern(pattern)

    deleted = run(main) if looped else ours.delete_pattern(pattern)
    assert deleted == 4 - len(left)
    assert sorted(raw.keys()) == sorted([*others, *(f"cache:{key}" for key in left)])
    assert ours.retrieve(about())[0].working_memory == "x"


def test_what_delete_pattern_returns_without_a_loop_may_be_awaited(ours):
    ours.set_sync("k", "v")
    deleted = ours.delete_pattern("*")
    assert deleted == 1 and ours.get_sync("k") is None

    async def main():
        return await deleted

    assert run(main) == 1


def test_arshais_decorators(ours, raw, decorators, kind):
    class Agent:
        memory = ours
        runs = 0

        @decorators.cache_result(ttl=30, key_prefix="p")
        async def think(self, x):
            self.runs += 1
            return {"thought": x, "run": self.runs}

        @decorators.cache_result(ttl=30, key_prefix="q")
        def add(self, x, y=1):
            self.runs += 1
            return [x + y, self.runs]

        @decorators.cache_result(ttl=30, cache_none=True)
        def nothing(self):
            self.runs += 1

    agent = Agent()
    ours.store(about("stays"))

    async def main():
        first = await agent.think("é")
        assert await agent.think("é") == first == {"thought": "é", "run": first["run"]}
        assert await agent.think(2) == {"thought": 2, "run": first["run"] + 1}
        return first["run"]

    assert run(main, kind) == 1
    assert agent.add(1) == agent.add(1) == [2, 3]
    assert agent.nothing() is None and agent.nothing() is None and agent.runs == 4
    assert {key.partition(":")[0] for key in raw.keys("*")} == {"cache", "memory"}
    assert all(0 < raw.ttl(key) <= 30 for key in raw.keys("cache:*"))

    # by prefix, without a loop: done on return
    assert decorators.invalidate_cache(agent, "p:") is None
    assert sorted(key.split(":")[1] for key in raw.keys("cache:*")) == ["nothing", "q"]
    assert run(main, kind) == 5  # computed anew

    async def clear():
        decorators.invalidate_cache(agent)  # in a loop: soon
        assert await until(lambda: not raw.keys("cache:*"))

    run(clear, kind)
    assert agent.add(1) != [2, 3]
    decorators.invalidate_cache(agent, "*")
    assert raw.keys() == [KEY]
    assert ours.retrieve(about())[0].working_memory == "stays"


def test_decorators_without_a_server(own_server, decorators):
    """A cache that is down costs the cache, not the result."""
    server = own_server()
    server.kill()

    class Agent:
        memory = AsyncRedisMemoryManager(server.url, socket_connect_timeout=2)

        @decorators.cache_result()
        async def slow(self, x):
            return x

        @decorators.cache_result()
        def fast(self, x):
            return x

    agent = Agent()
    assert run(lambda: agent.slow(1)) == 1
    assert agent.fast(2) == 2
    decorators.invalidate_cache(agent)
    agent.memory.close_sync()


# ---- the client that programs reach through to ----


def test_redis_client(server, raw):
    with AsyncRedisMemoryManager(server.url) as manager:
        assert manager.redis_url == manager.storage_url == server.url
        assert isinstance(manager.redis_client, Redis)
        manager.store(about("x"))
        assert manager.redis_client.exists(KEY)
        # arshai's users put their own in its place
        manager.redis_client = raw
        assert manager.redis_client is raw
        assert manager.retrieve(about())[0].working_memory == "x"  # and we go on without it
    manager.redis_client = None
    assert manager.redis_client is not raw and manager.redis_client.ping()
    manager.close_sync()


def test_redis_client_is_of_the_same_database(own_server):
    """Keyword arguments count for it as they do for the engine."""
    server = own_server("--requirepass", "s3cret")
    url = f"redis://{server.host}:{server.port}"
    for manager in (
        AsyncRedisMemoryManager(url, db=7, password="s3cret"),
        AsyncRedisMemoryManager(f"{url}/7", password="s3cret", db=3),  # the URL's options win
        AsyncRedisMemoryManager(f"unix://{server.path}?db=7&password=s3cret"),
        AsyncRedisMemoryManager(url, db=7, username="default", password="s3cret"),
    ):
        with manager:
            manager.store(about("x"))
            assert manager.redis_client.get(KEY)
            assert manager.redis_client.client_info()["db"] == 7
            assert manager.redis_client.delete(KEY) == 1
            assert manager.retrieve(about()) == []


def test_a_database_that_does_not_exist(server):
    """As redis-py says it, from every method, and nothing lands elsewhere."""
    fields = {"conversation_id": "7", "working_memory": "x"}
    for manager in (
        AsyncRedisMemoryManager(f"redis://{server.host}:{server.port}/99"),
        AsyncRedisMemoryManager(server.url.rpartition("/")[0], db=99),
    ):
        for attempt in (
            lambda m=manager: m.store(about("x")),
            lambda m=manager: m.retrieve(about("x")),
            lambda m=manager: m.update(about("x")),
            lambda m=manager: m.delete(about("x")),
            lambda m=manager: m.get_sync("k"),
            lambda m=manager: m.delete_pattern("*"),
            lambda m=manager: run(lambda: m.store(fields)),
            lambda m=manager: run(lambda: m.retrieve(fields)),
            lambda m=manager: run(lambda: m.store_batch_async([fields])),
            lambda m=manager: run(lambda: m.get("k")),
        ):
            with pytest.raises(errors.ResponseError, match="^DB index is out of range$"):
                attempt()
        assert run(manager.health_check_async) is False
        manager.close_sync()
    assert server.command("DBSIZE") == b":0\r\n"


# ---- synchronous methods ----


def test_sync_methods_in_a_forked_child(server, ours):
    ours.store(about("before"))
    ours.set_sync("k", "v")
    done = child(
        """
        import signal, warnings
        from arshai_native.memory import AsyncRedisMemoryManager, MemoryInput, WorkingMemory

        warnings.simplefilter("ignore", DeprecationWarning)
        manager = AsyncRedisMemoryManager(sys.argv[1])
        assert manager.get_sync("k") == "v"
        asyncio.run(manager.get("k"))
        pids = []
        for n in range(3):
            pid = os.fork()
            if not pid:
                signal.alarm(20)
                status = 1
                try:
                    assert manager.get_sync("k") == "v"
                    assert manager.retrieve(MemoryInput("7"))[0].working_memory == "before"
                    text = WorkingMemory(working_memory=str(n))
                    manager.store(MemoryInput(f"child{n}", data=[text]))
                    assert asyncio.run(manager.get("k")) == "v"
                    manager.close_sync()
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)
        assert manager.get_sync("k") == "v"
        for pid in pids:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert manager.get_sync("k") == "v"
        for n in range(3):
            assert manager.retrieve(MemoryInput(f"child{n}"))[0].working_memory == str(n)
        print("well")
        """,
        server.url,
    )
    assert done.stdout == "well\n", done.stderr


def test_server_restarted_between_sync_calls(own_server):
    server = own_server()
    with AsyncRedisMemoryManager(server.url) as manager:
        for _ in range(3):
            assert manager.store(about("x")) == KEY
            assert manager.retrieve(about())[0].working_memory == "x"
            server.kill()
            with pytest.raises(errors.ConnectionError):
                manager.retrieve(about())
            with pytest.raises(errors.ConnectionError):
                manager.set_sync("k", "v")
            server.start()
            # empty, and served at the first attempt
            assert manager.get_sync("k") is None
            assert manager.retrieve(about()) == []
            # restarted while nobody asks
            server.kill()
            server.start()
            assert wait_until(lambda: not server.clients())
            assert manager.retrieve(about()) == []


def test_no_event_loop_is_needed(server):
    """Nor asyncio imported, as long as nothing is awaited."""
    code = """
        import sys
        from arshai_native.memory import AsyncRedisMemoryManager, MemoryInput

        manager = AsyncRedisMemoryManager(sys.argv[1])
        fields = {"conversation_id": "7", "working_memory": "x"}
        input = MemoryInput.from_dict(fields)
        assert manager.store(input) == "memory:WORKING_MEMORY:7"
        manager.update(input)
        assert manager.retrieve(input)[0].working_memory == "x"
        manager.set_sync("k", "v")
        assert manager.get_sync("k") == "v"
        assert manager.delete_pattern("*") == 1
        awaitables = [manager.store(fields), manager.retrieve(fields)]
        assert not {"asyncio", "redis", "arshai"} & set(sys.modules), sys.modules
        for awaitable in awaitables:
            try:
                awaitable.send(None)
            except RuntimeError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), server.url],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("no running event loop\n" * 2, "")
    assert server.command("EXISTS", KEY) == b":1\r\n"
