"""The end of the interpreter, whatever still lives then: no memory is used after it was freed.

The children run with memory that is overwritten when it is freed: Python's (PYTHONMALLOC) and C's.
"""

import contextlib
import os
import textwrap

import pytest
from faultkit import child, run
from grpckit import GrpcServer
from httpkit import HttpServer, by_path, chunked, echo
from milvusservers import MilvusLite, lite_packages
from servers import RedisServer

# Each is a `client`; use() returns all kinds of its objects, some at work; pend() returns
# awaitables that will never end. What imports little is less likely to be kept alive by somebody
# else's module when the last collection comes.
ENGINE = """
from arshai_native._core import RedisEngine
client = RedisEngine(port=int(sys.argv[1]), error_factory=lambda kind, message: OSError(message))

async def use():
    for _ in range(70):  # lone requests: the loop gets a connection of its own
        await client.execute("PING")
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    request = client.execute("PING")
    await request
    return [client, request, await client.session(), client.execute]

def pend():
    return [client.execute("BLPOP", "never", 0), client.execute("BRPOP", "never", 0),
            client.execute("XREAD", "BLOCK", 0, "STREAMS", "s", "$")]
"""

REDIS = """
from arshai_native.redis import Redis
client = Redis(port=int(sys.argv[1]))

async def use():
    await client.client_getname()
    for _ in range(70):  # lone requests: the loop gets a connection of its own
        await client.set("k", "v")
        await asyncio.sleep(0)
    engine = client._engine
    request = client.get("k")
    await request
    pipe = client.pipeline()
    await pipe.watch("k")
    return [client, engine, request, await engine.session(), client.get, pipe]

def pend():
    return [client.blpop("never", 0), client.blpop("never", 0), client.xread({"never": 0}, block=0),
            client.execute_command("WAIT", 1, 0)]
"""

HTTP = """
from arshai_native import _core
client = _core.HttpClient()

async def use():
    request = client.request("POST", sys.argv[1], body="x")
    response = await request
    events = await client.request("GET", sys.argv[1] + "/endless", mode=_core.HTTP_EVENTS)
    await events.read_events()
    stream = await client.request("GET", sys.argv[1] + "/endless", mode=_core.HTTP_STREAM)
    reply = await client.request("GET", sys.argv[1] + "/v1/embeddings", mode=_core.HTTP_EMBEDDINGS)
    arrays = reply.embeddings(True)
    headers = _core.HttpHeaders([("a", "b")])
    return [client, request, response, response.json(), events, stream, arrays, headers,
            client.request]

def pend():
    async def read():
        events = await client.request("GET", sys.argv[1] + "/endless", mode=_core.HTTP_EVENTS)
        while True:
            await events.read_events()
    slow = [client.request("GET", sys.argv[1] + "/slow") for _ in range(3)]
    return [read(), read(), *slow]
"""

OPENAI = """
from arshai_native.openai import AsyncOpenAI
client = AsyncOpenAI(api_key="k", base_url=sys.argv[1] + "/v1", max_retries=0)
chat = dict(model="m", messages=[{"role": "user", "content": "x"}])

async def use():
    made = await client.embeddings.create(model="m", input="x")
    assert made.data[0].embedding == [1.0], made
    stream = await client.chat.completions.create(stream=True, **chat)
    chunk = await stream.__anext__()
    request = client.embeddings.create(model="m", input="x")
    await request
    items = stream.__aiter__()
    return [client, made, stream, chunk, items, request, type(client.embeddings).create,
            client.embeddings.create]

def pend():
    async def read():
        async for chunk in await client.chat.completions.create(stream=True, **chat):
            pass
    return [read(), read(), client.completions.create(model="m", prompt="x")]
"""

# The second channel's server is not there.
GRPC = """
from arshai_native._core import GrpcChannel, GrpcError
client = GrpcChannel("127.0.0.1", int(sys.argv[1]), metadata=[("a", "b")])

async def use():
    request = client.unary("/test.Echo/echo", b"x")
    assert await request == b"x"
    assert len(await client.unary("/test.Echo/echo", bytes(1_000_000), 30.0)) == 1_000_000
    try:
        await client.unary("/test.Echo/error", b"NOT_FOUND x")
    except GrpcError as e:
        error = e
    ready = client.ready()
    await ready
    return [client, request, error, ready, client.unary("/test.Echo/echo", b"y"), client.ready(),
            client.unary]

def pend():
    other = GrpcChannel("127.0.0.1", 1)
    return [client.unary("/test.Echo/sleep", b"5"), client.unary("/test.Echo/sleep", b"5", 60.0),
            other.unary("/test.Echo/echo", b"x", wait_for_ready=True), other.ready()]
"""

# Opening the pipe never ends. Nothing that is suspended has an `async with` of a file, which would
# want a running loop to close it.
FILES = """
from arshai_native import _core, aiofiles, files
client = aiofiles.open
folder = sys.argv[1]
pipe = folder + "/pipe"

async def use():
    file = await client(folder + "/data", "rb+")
    assert len(await file.read(10)) == 10
    await file.write(b"x")  # stays in memory
    text = await client(folder + "/data", encoding="utf-8")
    await text.readline()
    whole = _core.write_file(folder + "/whole", b"x" * 100_000)
    await whole
    async with client(folder + "/data") as closed:
        lines = aiter(closed)
        await anext(lines)
    read = await files.read_bytes(folder + "/data")
    return [file, text, whole, closed, lines, read, client(folder + "/data"), file.read(5),
            text.readline(), anext(aiter(text)), _core.write_file(folder + "/never", b"x"),
            _core.run_blocking(len, folder), file.read, file.write, client]

def pend():
    async def read():
        file = await client(pipe, "rb")
        await file.read()
    async def busy():
        while True:
            await _core.write_file(folder + "/busy", b"x" * 10_000)
    return [read(), busy(), _core.run_blocking(os.read, os.pipe()[0], 1), client(pipe)]
"""

# A search is always under way.
MILVUS = """
from arshai_native.milvus import AsyncMilvusClient
from arshai_native.vector_db import AsyncMilvus, CollectionConfig
client = AsyncMilvusClient(sys.argv[1])
store = AsyncMilvus(sys.argv[1])
fields = dict(pk_field="id", dense_field="vector", text_field="text")
config = CollectionConfig("exits", dense_dim=4, **fields)
query = [[1.0, 2.0, 3.0, 4.0]]

async def use():
    found = await client.search("exits", data=query)
    rows = await client.query("exits", filter="id >= 0", output_fields=["vector"])
    assert len(found[0]) == len(rows) == 2
    hits = await store.search_by_vector_async(config, query)
    pages = await client.query_iterator("exits", batch_size=1, output_fields=["id"])
    page = await pages.next()
    return [client, store, found, rows, hits, pages, page, client.search("exits", data=query),
            store.search_by_vector_async(config, query), client.query_iterator("exits"),
            client.search, store.search_by_vector_async]

def pend():
    async def search():
        while True:
            await client.search("exits", data=query)
    async def search_too():
        while True:
            await store.search_by_vector_async(config, query)
    async def insert():
        while True:
            await client.upsert("exits", [{"id": 1, "vector": query[0]}])
    return [search(), search(), search_too(), search_too(), insert()]
"""

CLIENTS = {
    "engine": ENGINE,
    "redis": REDIS,
    "http": HTTP,
    "openai": OPENAI,
    "grpc": GRPC,
    "files": FILES,
    "milvus": MILVUS,
}

# `begin()` makes the objects and starts what is pending. No task is made of a request itself:
# asyncio would keep its type, and with that the extension, beyond the last collection.
COMMON = """
tasks = []

async def wait(request):
    return await request

async def begin():
    things = await use()
    tasks.extend(asyncio.create_task(wait(each)) for each in pend())
    await asyncio.sleep(0.1)
    return things
"""

ENDS = {
    "globals": """
        things = asyncio.run(begin())
        """,
    "loop never closed": """
        loop = asyncio.new_event_loop()
        things = loop.run_until_complete(begin())
        """,
    "a cycle through the globals": """
        things = asyncio.run(begin())
        def keep():
            return things
        things += [keep, things]
        """,
    "the same, loop never closed": """
        loop = asyncio.new_event_loop()
        things = loop.run_until_complete(begin())
        def keep():
            return things
        things += [keep, things]
        """,
    "a cycle": """
        gc.disable()
        loop = asyncio.new_event_loop()
        things = loop.run_until_complete(begin())
        things.append(things)
        del things, loop, client
        """,
    "builtins": """
        import builtins
        builtins.things = asyncio.run(begin())
        """,
    "builtins, in a cycle, loop never closed": """
        import builtins
        loop = asyncio.new_event_loop()
        builtins.things = loop.run_until_complete(begin())
        builtins.things += [loop, tasks, builtins.things]
        """,
    "a class of its own": """
        class Keeper:
            things = asyncio.run(begin())
            def method(self):
                return self.things
        Keeper.me = Keeper()
        """,
    "sys.exit in the loop": """
        async def main():
            things = await begin()
            things.append(things)
            sys.exit(0)
        asyncio.run(main())
        """,
    "the loop is running": """
        loop = asyncio.new_event_loop()
        def ended(task):
            global things
            things = task.result()
            sys.exit(0)
        starter = loop.create_task(begin())
        starter.add_done_callback(ended)
        loop.run_forever()
        """,
    "in a coroutine that is suspended": """
        loop = asyncio.new_event_loop()
        async def main(reached):
            things = await begin()
            try:
                reached.set_result(things)
                await asyncio.sleep(60)
            finally:
                things.clear()
        reached = loop.create_future()
        task = loop.create_task(main(reached))
        loop.run_until_complete(reached)
        """,
    "a daemon thread's loop": """
        import threading
        begun = threading.Event()
        async def main():
            things = await begin()
            begun.set()
            await asyncio.gather(*tasks)
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        assert begun.wait(20)
        """,
    "a busy daemon thread": """
        import threading
        begun = threading.Event()
        async def main():
            while True:
                things = await use()
                begun.set()
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        assert begun.wait(20)
        """,
    "thread-local, context variable, traceback": """
        import contextvars, threading
        local = threading.local()
        variable = contextvars.ContextVar("variable")
        loop = asyncio.new_event_loop()
        def fail():
            local.things = things = loop.run_until_complete(begin())
            variable.set(things)
            raise ValueError
        try:
            fail()
        except ValueError as error:
            sys.last_value = error
        """,
    # It has no __dict__, so the collector does not know it and calls __del__ only when it breaks
    # cycles, with parts of the extension gone already.
    "used by a __del__ in the last collection": """
        gc.disable()
        import contextlib
        loop = asyncio.new_event_loop()
        things = loop.run_until_complete(begin())
        class Late:
            __slots__ = ()
            def __del__(self, things=things, pend=pend, suppress=contextlib.suppress):
                with suppress(Exception):
                    for each in things:
                        repr(each)
                    for each in pend():
                        each.close()
        things += [Late(), things]
        import builtins
        builtins.things = things
        """,
    "the package's modules were removed before": """
        things = asyncio.run(begin())
        for name in list(sys.modules):
            if name.startswith("arshai_native"):
                del sys.modules[name]
        gc.collect()
        things.clear()
        """,
    "all is dropped and collected": """
        things = asyncio.run(begin())
        tasks.clear()
        del things, client
        for name in list(sys.modules):
            if name.startswith(("arshai_native", "openai", "redis")):
                del sys.modules[name]
        del use, pend
        gc.collect()
        """,
}

# What the interpreter, and redis-py of a pipeline, say of things that were left open.
MENTIONED = (
    "Unclosed Pipeline client",
    "client: <arshai_native.redis._pipeline",
    "Task was destroyed but it is pending!",
    "task: <Task ",
    "RuntimeWarning: coroutine",
    "was never awaited",
    "ResourceWarning",
    "source_traceback",
    "Enable tracemalloc",
    "failed to get mvccTs",  # pymilvus's iterator, of milvus-lite
)


@contextlib.contextmanager
def milvus():
    """The address of a server with what MILVUS looks for; None: it is not installed."""
    if lite_packages() is None:
        yield None
        return
    from arshai_native.milvus import AsyncMilvusClient

    async def fill(uri):
        async with AsyncMilvusClient(uri) as client:
            await client.create_collection("exits", dimension=4, metric_type="IP")
            rows = [{"id": n, "vector": [float(n)] * 4} for n in (1, 2)]
            await client.insert("exits", rows)

    with MilvusLite() as server:
        run(lambda: fill(server.uri))
        yield server.uri


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exit")
    (folder / "data").write_text("line\n" * 100_000)
    os.mkfifo(folder / "pipe")
    vectors = chunked(b'{"data": [{"index": 0, "embedding": "AACAPw=="}], "usage": {}}')
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n'
    paths = {
        "/slow": lambda x: x.pause(60),
        "/v1/completions": lambda x: x.pause(60),
        "/endless": chunked(event, event, 60),
        "/v1/chat/completions": chunked(event, event, 60),
        "/v1/embeddings": vectors,
        "*": echo,
    }
    with (
        RedisServer() as redis,
        HttpServer(by_path(paths)) as http,
        GrpcServer() as grpc,
        milvus() as uri,
    ):
        yield {
            "engine": redis.port,
            "redis": redis.port,
            "http": http.url,
            "openai": http.url,
            "grpc": grpc.port,
            "files": folder,
            "milvus": uri,
        }


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("client", CLIENTS)
def test_exit(servers, monkeypatch, client, end):
    if servers[client] is None:
        pytest.skip("milvus-lite is not installed: make build/.milvus-lite says why")
    monkeypatch.setenv("PYTHONMALLOC", os.environ.get("PYTHONMALLOC", "debug"))
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    monkeypatch.setenv("MALLOC_PERTURB_", "165")
    code = CLIENTS[client] + COMMON + textwrap.dedent(ENDS[end])
    done = child(code, servers[client], prelude="import asyncio, gc, os, sys, time\n")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("  ")]
    said = [line for line in lines if not any(m in line for m in MENTIONED)]  # but for details
    assert not said, done.stderr
