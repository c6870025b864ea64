"""make leak: repeats the main operations and fails when memory, objects or connections grow.

python leak/run.py [word ...]: only the scenarios whose names contain one of the words.

Each scenario runs in rounds on a real server. After every round what is garbage is collected and
the process is measured; the first rounds warm up. The table shows the median growth of the later
rounds for each operation. A scenario leaks if something grew in at least three of four of those
rounds and by more than LIMITS in their median, twice in a row: one allocation for every operation
is far above, what the allocator and the interpreter do now and then is not steady.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import ctypes
import gc
import logging
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import api
import filework
from redis.exceptions import (
    ConnectionError,
    DataError,
    ResponseError,
    TimeoutError,
    WatchError,
)
from servers import RedisServer, free_port

from arshai_native._core import ModelPlan, build_model, json_encode
from arshai_native.memory import AsyncRedisMemoryManager, MemoryInput, WorkingMemory
from arshai_native.redis import Redis, from_url

WARM_UP, ROUNDS = 4, 9
ROUND_SECONDS = 0.22  # the warm-up finds out how many operations that is
LARGE = 8 << 20

try:
    from uvloop import new_event_loop as other_loop
except ImportError:
    other_loop = None

# What is measured: growth for an operation and growth for a round that are still no leak; both have
# to be exceeded.
LIMITS = {
    "rss": (64, 192 << 10),  # bytes; only this sees mappings, and it moves in steps
    "heap": (8, 6 << 10),  # bytes in use of malloc's, where the C library can tell
    "blocks": (0.1, 24),  # Python's small objects
    "objects": (0.1, 12),  # references in a debug build, else objects known to the collector
    "fds": (0, 0),
    "threads": (0, 0),
    "clients": (0, 0),  # connections, as the server counts them
}

# ---- measuring ----


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")
        + ("uordblks", "fordblks", "keepcost")
    ]


_libc = ctypes.CDLL(None)
_mallinfo2 = getattr(_libc, "mallinfo2", None)
if _mallinfo2 is not None:
    _mallinfo2.restype = _Mallinfo2
_malloc_trim = getattr(_libc, "malloc_trim", None)
_total_references = getattr(sys, "gettotalrefcount", None)


def heap_bytes() -> int:
    if _mallinfo2 is None:
        return 0
    info = _mallinfo2()
    return info.uordblks + info.hblkhd


def rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def measure(server: RedisServer, expected_clients: int | None) -> dict[str, int]:
    """The numbers of LIMITS, after what is on its way out had a while to go."""
    deadline = time.monotonic() + 3
    gc.collect()
    while True:
        clients, fds = len(server.clients()), len(os.listdir("/proc/self/fd"))
        if expected_clients is None or clients <= expected_clients or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    time.sleep(0.03)  # the io thread frees what belonged to a connection after closing it
    gc.collect()
    if _malloc_trim is not None:
        _malloc_trim(0)
    return {
        "rss": rss_bytes(),
        "heap": heap_bytes(),
        "blocks": sys.getallocatedblocks(),
        "objects": _total_references() if _total_references else len(gc.get_objects()),
        "fds": fds,
        "threads": len(os.listdir("/proc/self/task")),
        "clients": clients,
    }


# ---- what is repeated ----


class Scenario:
    """make(server) gives once(count), which does about `count` operations; and an end, or None."""

    def __init__(self, name: str, make: Callable[[RedisServer], Any], least: int) -> None:
        self.name, self.make, self.least = name, make, least


SCENARIOS: list[Scenario] = []


def scenario(name: str, least: int = 50) -> Callable[[Any], Any]:
    """Registers a function of the server and a count. least: operations of a round, at least."""

    def register(function: Callable[[RedisServer, int], None]) -> Any:
        SCENARIOS.append(
            Scenario(name, lambda server: (lambda n: function(server, n), None), least)
        )
        return function

    return register


def with_client(name: str, least: int = 50, **options: Any) -> Callable[[Any], Any]:
    """Registers a coroutine function of a client, which lives as long as the scenario."""

    def register(function: Callable[[Redis, int], Awaitable[None]]) -> Any:
        def make(server: RedisServer) -> Any:
            runner = asyncio.Runner()
            client = Redis(host=server.host, port=server.port, **options)

            def end() -> None:
                runner.run(client.aclose())
                runner.close()

            return lambda n: runner.run(function(client, n)), end

        SCENARIOS.append(Scenario(name, make, least))
        return function

    return register


@with_client("get, set, one after the other")
async def one_by_one(client: Redis, count: int) -> None:
    for i in range(count // 2):
        await client.set("k", f"value {i}")
        assert await client.get("k") == b"value %d" % i


@with_client("many kinds of replies, together", decode_responses=True)
async def replies(client: Redis, count: int) -> None:
    await client.hset("hash", mapping={str(i): i for i in range(20)})
    await client.zadd("zset", {str(i): i for i in range(20)})
    await client.sadd("set", *range(20))
    for _ in range(count // 100 + 1):
        await asyncio.gather(
            *(client.hgetall("hash") for _ in range(20)),
            *(client.mget([f"k{i}" for i in range(20)] + ["hash2"]) for _ in range(20)),
            *(client.zrange("zset", 0, -1, withscores=True) for _ in range(20)),
            *(client.smembers("set") for _ in range(20)),
            *(client.incrbyfloat("float", 0.5) for _ in range(10)),
            *(client.execute_command("CLIENT LIST") for _ in range(5)),
            *(client.info("memory") for _ in range(5)),
        )


@with_client("pipelines, with and without MULTI")
async def pipelines(client: Redis, count: int) -> None:
    await client.delete("list")
    for i in range(count // 40 + 1):
        async with client.pipeline(transaction=bool(i % 2)) as pipe:
            for j in range(38):
                pipe.set(f"p{j}", j)
            pipe.rpush("p0", 1).hgetall("hash")
            results = await pipe.execute(raise_on_error=False)
            assert isinstance(results[38], ResponseError)


@with_client("8 MB values", least=4)
async def large(client: Redis, count: int) -> None:
    value = bytes(LARGE)
    for _ in range(count // 4 + 1):
        await client.set("large", value)
        assert len(await client.get("large")) == LARGE
        small = [client.get("k") for _ in range(10)]
        await asyncio.gather(client.get("large"), client.set("large2", value), *small)


@with_client("error replies, bad arguments")
async def bad(client: Redis, count: int) -> None:
    await client.set("string", "x")
    for _ in range(count // 5 + 1):
        for call, error in (
            (client.lpush("string", 1), ResponseError),
            (client.execute_command("NO-SUCH", 1), ResponseError),
            (client.eval("return nothing()", 0), ResponseError),
            (client.evalsha("0" * 40, 0), ResponseError),
        ):
            with contextlib.suppress(error):
                await call
                raise SystemExit("an error was expected")
        with contextlib.suppress(DataError):
            await client.set("k", object())


@with_client("cancelled while waiting and before")
async def cancelled(client: Redis, count: int) -> None:
    for _ in range(count // 40 + 1):
        tasks = [asyncio.create_task(client.get("k")) for _ in range(30)]
        tasks += [asyncio.create_task(client.blpop("nothing", timeout=0)) for _ in range(10)]
        await asyncio.sleep(0)
        for task in tasks[:15]:
            task.cancel()
        await asyncio.sleep(0.002)
        for task in tasks[15:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        client.get("k").close()  # a coroutine that was never awaited


@with_client("time limits", socket_timeout=0.02)
async def timeouts(client: Redis, count: int) -> None:
    for _ in range(count // 20 + 1):
        calls = [client.blpop("nothing", timeout=0) for _ in range(20)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, TimeoutError) for result in results), results
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(client.xread({"none": 0}, block=0), 0.005)


@with_client("blocking commands that are served")
async def blocking(client: Redis, count: int) -> None:
    for _ in range(count // 20 + 1):
        waiting = [asyncio.create_task(client.brpop("queue", timeout=5)) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.gather(*(client.rpush("queue", i) for i in range(10)))
        assert len(await asyncio.gather(*waiting)) == 10


@with_client("sessions: WATCH, client(), locks, scripts")
async def sessions(client: Redis, count: int) -> None:
    script = client.register_script("return {KEYS[1], ARGV}")
    for i in range(count // 10 + 1):
        async with client.pipeline() as pipe:
            await pipe.watch("watched")
            await pipe.get("watched")
            if i % 2:
                await client.set("watched", i)
            pipe.multi()
            pipe.set("watched", i)
            with contextlib.suppress(WatchError):
                await pipe.execute()
        async with client.client() as single:
            await single.get("k")
        async with client.lock("lock", timeout=5):
            await script(keys=["k"], args=[1, 2])


@scenario("nobody listens", least=8)
def refused(server: RedisServer, count: int) -> None:
    async def main() -> None:
        for _ in range(count // 8 + 1):
            client = Redis(host="127.0.0.1", port=free_port())
            calls = [client.get("k") for _ in range(8)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, ConnectionError) for result in results), results

    asyncio.run(main())


@scenario("clients made, used, closed; from_url")
def closed_clients(server: RedisServer, count: int) -> None:
    async def main() -> None:
        for i in range(count):
            client = from_url(server.url, decode_responses=bool(i % 2), max_connections=20)
            await client.get("k")
            await client.aclose()

    asyncio.run(main())


@scenario("clients made, used, dropped")
def dropped_clients(server: RedisServer, count: int) -> None:
    async def main() -> None:
        for i in range(count):
            client = Redis(host=server.host, port=server.port)
            if i % 3 == 0:
                client.get("k").close()  # never connected
            else:
                await client.get("k")
            if i % 3 == 1:
                asyncio.create_task(client.blpop("nothing", timeout=0))
                await asyncio.sleep(0)
            del client

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.run(main())


def _loops(server: RedisServer) -> Any:
    client = Redis(host=server.host, port=server.port)

    async def use() -> None:
        await asyncio.gather(*(client.get("k") for _ in range(5)))
        asyncio.create_task(client.blpop("nothing", timeout=0))
        await asyncio.sleep(0)

    def once(count: int) -> None:
        for i in range(count):
            with asyncio.Runner(loop_factory=other_loop if i % 2 else None) as runner:
                runner.run(use())

    return once, lambda: asyncio.run(client.aclose())


SCENARIOS.append(Scenario("event loops made and closed, one client", _loops, 20))


@scenario("threads with loops and clients of their own", least=8)
def threads(server: RedisServer, count: int) -> None:
    async def main() -> None:
        async with Redis(host=server.host, port=server.port) as client:
            await asyncio.gather(*(client.get("k") for _ in range(10)))

    for _ in range(count // 4 + 1):
        workers = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def _input(i: int, text: str | None = "mémoire" * 50) -> MemoryInput:
    data = None if text is None else [WorkingMemory(working_memory=text)]
    return MemoryInput(f"c{i % 50}", data=data, metadata={"i": i})


def _memory(server: RedisServer) -> Any:
    runner = asyncio.Runner()
    manager = AsyncRedisMemoryManager(server.url, ttl=600)

    async def use(count: int) -> None:
        for i in range(count // 8 + 1):
            fields = {"conversation_id": i % 50, "working_memory": "mémoire", "metadata": {"i": i}}
            await manager.store(fields)
            await manager.update_async(_input(i))
            await manager.retrieve(fields)
            await manager.delete({"conversation_id": i % 50})
            await asyncio.gather(*(manager.store_async(_input(j)) for j in range(4)))
        await manager.store_batch_async(_input(j) for j in range(50))
        await manager.retrieve_batch_async(_input(j) for j in range(50))
        await manager.get_memory_stats_async()
        with contextlib.suppress(ValueError):
            await manager.store_async(_input(1, None))

    def end() -> None:
        manager.close_sync()
        runner.close()

    return lambda count: runner.run(use(count)), end


SCENARIOS.append(Scenario("memory manager, awaited", _memory, 50))


@scenario("memory manager, synchronous, in threads")
def memory_sync(server: RedisServer, count: int) -> None:
    def work(_: int) -> None:
        for i in range(count // 12 + 1):
            manager.store(_input(i))
            manager.retrieve(_input(i))
            manager.update(_input(i))

    with AsyncRedisMemoryManager(server.url, ttl=600) as manager:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        with contextlib.suppress(ResponseError):
            manager.ttl = 0
            manager.store(_input(1))
    dropped = AsyncRedisMemoryManager(server.url)
    assert dropped.set_sync("k", "v", ttl=600) and dropped.get_sync("k") == "v"
    del dropped


def _models(server: RedisServer) -> Any:
    import modelkit
    from openai.types.chat import ChatCompletion
    from openai.types.responses import Response

    from arshai_native.openai._plan import plan_of

    r = random.Random(1)
    maker = modelkit.Maker(r)
    documents = []
    for type_ in (ChatCompletion, Response, list[ChatCompletion]):
        for _ in range(15):
            document = maker.value(type_)
            documents.append((type_, modelkit.text_of(r, document)))
            documents.append((type_, modelkit.text_of(r, maker.broken(document))))
    documents.append((ChatCompletion, b"{"))

    def once(count: int) -> None:
        for i in range(count):
            type_, document = documents[i % len(documents)]
            if i % 40 == 0:
                plan = ModelPlan(ModelPlan, plan_of)  # compile() that raises
                with contextlib.suppress(TypeError, ValueError):
                    build_model(plan, document)
            with contextlib.suppress(ValueError, TypeError, AttributeError, OverflowError):
                build_model(plan_of(type_), document)

    return once, None


SCENARIOS.append(Scenario("models of the openai SDK", _models, 200))


@scenario("plans compiled anew", least=4)
def plans(server: RedisServer, count: int) -> None:
    from openai.types.chat import ChatCompletion

    from arshai_native.openai import _plan

    for _ in range(count):
        _plan._plans.clear()
        build_model(_plan.plan_of(ChatCompletion), b'{"choices": [{"message": {}}], "usage": {}}')
        for spec in (None, ("list", True, (5,)), ("literal", True, (("a", "a"), True))):
            with contextlib.suppress(TypeError, ValueError):
                build_model(ModelPlan(lambda spec=spec: spec, dict), b"[]")


def _milvus(server: RedisServer) -> Any:
    import test_milvus_rows as inserts
    import test_milvus_wire as wire

    from arshai_native import _core, _milvus_wire

    replies = _milvus_wire.replies()
    assert replies is not None
    seeds = [random.Random(seed) for seed in range(12)]
    searches = [wire.random_search(r, [3, 2]).SerializeToString() for r in seeds]
    queries = [wire.random_query(r).SerializeToString() for r in seeds]
    schemas = [inserts.Schema(r) for r in seeds]
    good = [(schema, schema.rows(3, True)) for schema in schemas]
    bad = [
        (schema, [schema.rows(1, True)[0] | {field["name"]: strange}])
        for schema in schemas
        for field, strange in zip(schema.fields, inserts.STRANGE, strict=False)
    ]
    vectors = [make(random.Random(1), 3) for make in wire.GOOD.values()]
    looks = [itemgetter(0), itemgetter(slice(2)), list, copy.deepcopy, id]

    def once(count: int) -> None:
        for i in range(count):
            reply = searches[i % len(searches)]
            for result in (replies.search(reply, 3, True), *(replies.split(reply, -1, 2) or ())):
                if result is not None and i % 2:
                    with contextlib.suppress(Exception):
                        result.materialize()
            cut = reply[: i % len(reply)]
            assert replies.search(cut, -1, True) is None or len(cut) < len(reply)
            rows = replies.query(queries[i % len(queries)], i % 3 == 0)
            with contextlib.suppress(Exception):  # looked at in part, whole, or not at all
                looks[i % len(looks)](rows)
            schema, rows = good[i % len(good)]
            assert schema.native.rows(rows) and schema.native.rows(rows, upsert=True)
            schema, rows = bad[i % len(bad)]
            schema.native.rows(rows)
            schema.native.columns({name: [value] * 3 for name, value in rows[0].items()})
            made = _core.milvus_vectors(vectors[i % len(vectors)])
            _core.milvus_search_request(b"", made[0], made[1], (made[2],))
            _core.milvus_vectors(list(wire.LEFT.values())[i % len(wire.LEFT)])
            inserts._milvus_wire._compile({"fields": schema.fields})

    return once, None


SCENARIOS.append(Scenario("Milvus: rows, vectors, replies; refused", _milvus, 24))


def _milvus_calls(server: RedisServer) -> Any:
    import test_milvus_call_types as calls

    from arshai_native import _core

    plans = [_core.MilvusPlan(b"x" * 5000, -1, number, True) for number in (0, 9)]
    vectors = [[0.5] * 1000]

    def once(count: int) -> None:
        for i in range(count):
            client = calls.Client(plans[i % 2], gather=i % 4 > 1)
            caller = calls.known_caller(client, metadata=(("dbname", "x" * 5000),))
            for data in (vectors, vectors * 2, ["x"], [["x"]], []):
                calls.search(caller, client, data=data)
            calls.search(caller, client, timeout=-1)
            caller.bind(*calls.bound_to(client, path="/x/y"))

    return once, None


SCENARIOS.append(Scenario("Milvus: searches made in C", _milvus_calls, 24))


@scenario("JSON encoded, and refused", least=200)
def encoded(server: RedisServer, count: int) -> None:
    circle: list[Any] = []
    circle.append(circle)
    good = {"a": [1, 2.5, 10**30, None, True, "é\n", {"k" * 100: ("x",)}], 5: "\U0001f600", 1.5: {}}
    for i in range(count):
        json_encode([good, i])
        for bad in (circle, {"a": object()}, {(1,): 1}, [float("nan")], "\ud800", {"\ud800": 1}):
            with contextlib.suppress(ValueError, TypeError):
                json_encode(bad)


# ---- the clients of APIs ----


def _api(make: Callable[[str], Any]) -> Callable[[RedisServer], Any]:
    """A scenario on the API's server, which is started for it."""

    def started(server: RedisServer) -> Any:
        stack = contextlib.ExitStack()
        once, end = make(stack.enter_context(api.ServerProcess()).url)
        if end is not None:
            stack.callback(end)
        return once, stack.close

    return started


SCENARIOS += [Scenario(name, _api(make), least) for name, make, least in api.SCENARIOS]


# ---- files ----


def _files(work: filework.Work) -> Callable[[RedisServer], Any]:
    """A scenario with a folder and a loop of its own."""

    def started(server: RedisServer) -> Any:
        stack = contextlib.ExitStack()
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        runner = stack.enter_context(asyncio.Runner())
        return lambda n: runner.run(work(folder, n)), stack.close

    return started


SCENARIOS += [Scenario(name, _files(work), least) for name, work, least in filework.SCENARIOS]


# ---- judging ----


def run(
    scenario: Scenario, server: RedisServer, rounds: int
) -> dict[str, tuple[float, float, bool]]:
    """{what: (median growth for a round, for an operation, does it leak)} of one scenario."""
    server.command("FLUSHALL")
    server.command("SET", "k", "v")
    once, end = scenario.make(server)
    count = scenario.least
    for i in range(WARM_UP):
        start = time.monotonic()
        once(count)
        took = max(time.monotonic() - start, 1e-4)
        if i < WARM_UP - 2:
            count = max(scenario.least, min(count * 20, int(count * ROUND_SECONDS / took)))
    readings = [measure(server, None)]
    for _ in range(rounds):
        once(count)
        readings.append(measure(server, readings[0]["clients"]))
    if end is not None:
        end()
    verdicts = {}
    later = readings[len(readings) // 3 :]
    for what, (per_operation, per_round) in LIMITS.items():
        grown = [new[what] - old[what] for old, new in zip(later, later[1:], strict=False)]
        median = statistics.median(grown)
        steady = sum(growth > 0 for growth in grown) >= 0.75 * len(grown)
        leaks = steady and median > per_round and median / count > per_operation
        verdicts[what] = (median, median / count, leaks)
    return verdicts


def progress(text: str) -> None:
    """A line that the next one overwrites; nothing where the output is kept."""
    if sys.stdout.isatty():
        print(f"{text:<78}", end="\r", flush=True)


def main(words: list[str]) -> int:
    chosen = [s for s in SCENARIOS if not words or any(word in s.name for word in words)]
    start, leaking = time.monotonic(), []
    logging.getLogger("arshai_native.memory").setLevel(logging.ERROR)
    print(f"==> {len(chosen)} scenarios; growth for an operation (median of the later rounds)")
    print(f"    {'':<44}" + "".join(f"{what:>9}" for what in LIMITS))
    with RedisServer() as server:
        for number, scenario in enumerate(chosen, 1):
            progress(f"    {number}/{len(chosen)} {scenario.name} ...")
            verdicts = run(scenario, server, ROUNDS)
            if any(leaks for _, _, leaks in verdicts.values()):
                progress(f"    {number}/{len(chosen)} {scenario.name} ... again")
                verdicts = run(scenario, server, 2 * ROUNDS)
            cells = [f"{each:.2f}{'!' if leaks else ' '}" for _, each, leaks in verdicts.values()]
            print(f"    {scenario.name:<44}" + "".join(f"{cell:>9}" for cell in cells), flush=True)
            leaking += [
                f"{scenario.name}: {what} grows by {growth:,.0f} a round, {each:,.2f} an operation"
                for what, (growth, each, leaks) in verdicts.items()
                if leaks
            ]
    print(f"==> {time.monotonic() - start:.0f} s; " + ("leaks:" if leaking else "nothing grows"))
    for line in leaking:
        print(f"    {line}")
    return 1 if leaking else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
