"""Clients that are dropped, and interpreters that end, with work in flight."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
from faultkit import PEER, child, run, until, wait_until
from faultproxy import stall

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")

# Ways to end a program that has commands in flight; the reply to GET never comes.
ENDINGS = {
    "tasks pending when run returns": """
        async def main():
            await client.set("k", "v")
            tasks = [asyncio.create_task(client.get("k")) for _ in range(50)]
            tasks.append(asyncio.create_task(client.blpop("never", 0)))
            await asyncio.sleep(0.2)
        asyncio.run(main())
        """,
    "sys.exit in the loop": """
        async def main():
            await client.set("k", "v")
            tasks = [asyncio.create_task(client.get("k")) for _ in range(50)]
            await asyncio.sleep(0.2)
            sys.exit(0)
        asyncio.run(main())
        """,
    "client in a module's global, loop never closed": """
        loop = asyncio.new_event_loop()
        async def main():
            await client.set("k", "v")
        loop.run_until_complete(main())
        """,
    "os._exit": """
        async def main():
            await client.set("k", "v")
            tasks = [asyncio.create_task(client.get("k")) for _ in range(50)]
            await asyncio.sleep(0.2)
            os._exit(0)
        asyncio.run(main())
        """,
    "a daemon thread with a loop": """
        import threading
        started = threading.Event()
        async def main():
            await client.set("k", "v")
            tasks = [asyncio.create_task(client.get("k")) for _ in range(50)]
            await asyncio.sleep(0.1)
            started.set()
            await asyncio.gather(*tasks)
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        started.wait(20)
        """,
    "a daemon thread that is busy": """
        import threading
        started = threading.Event()
        async def main():
            while True:
                await asyncio.gather(*(client.set(f"k{i}", "v") for i in range(50)))
                started.set()
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        started.wait(20)
        time.sleep(0.1)
        """,
    "closed in order": """
        async def main():
            async with client:
                await client.set("k", "v")
        asyncio.run(main())
        """,
    "never used": """
        client.get("k").close()
        """,
    "commands at exit": """
        import atexit
        async def last():
            await client.set("last", "v")
            assert await client.mget("last") == [b"v"]
        asyncio.run(last())
        atexit.register(lambda: asyncio.run(last()))
        """,
    "kept alive by a cycle and a __del__": """
        class Keeper:
            def __init__(self, client):
                self.client, self.self = client, self
            def __del__(self):
                self.client.get("k").close()
                repr(self.client)
        keeper = Keeper(client)
        async def main():
            await client.set("k", "v")
            tasks = [asyncio.create_task(client.get("k")) for _ in range(5)]
            await asyncio.sleep(0.2)
        asyncio.run(main())
        """,
}

OURS_ONLY = {"commands at exit", "a daemon thread that is busy", "a daemon thread with a loop"}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_interpreter_exit(proxy, ending, loop):
    """Exit code 0, no traceback, and soon."""
    if PEER and ending in OURS_ONLY:
        pytest.skip("more than redis-py does")
    proxy.on("GET", stall(), times=None)
    setup = "client = Redis(port=int(sys.argv[1]))\n"
    if loop == "uvloop":
        pytest.importorskip("uvloop")
        setup += "import uvloop\nasyncio.set_event_loop_policy(uvloop.EventLoopPolicy())\n"
    start = time.monotonic()
    done = child(setup + textwrap.dedent(ENDINGS[ending]), proxy.port)
    assert time.monotonic() - start < 15
    said = [line for line in done.stderr.splitlines() if "Warning" not in line]
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert PEER or not said, done.stderr


@pytest.mark.skipif(PEER, reason="redis-py's clients belong to one event loop")
def test_results_that_come_while_the_interpreter_ends(server, kind, monkeypatch):
    """To loops in daemon threads, which run on until the very end: nobody touches them again."""
    if kind == "uvloop":
        pytest.importorskip("uvloop")
    monkeypatch.setenv("MALLOC_PERTURB_", "165")  # memory that was freed is no valid op any more
    for _ in range(10):
        done = child(
            """
            import threading
            if sys.argv[2] == "uvloop":
                import uvloop
                asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
            client = Redis(port=int(sys.argv[1]))
            begun = threading.Barrier(9)

            async def main():
                tasks = [asyncio.create_task(client.get("k")) for _ in range(500)]
                tasks += [asyncio.create_task(client.blpop(f"l{i}", 0)) for i in range(10)]
                await asyncio.sleep(0)
                begun.wait(20)
                await asyncio.gather(*tasks)

            for _ in range(8):
                threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
            begun.wait(20)
            """,
            server.port,
            kind,
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_signals(proxy, sign):
    """Control-C in asyncio.run with commands in flight: KeyboardInterrupt, as ever."""
    fault = proxy.on("GET", stall())
    package = "redis.asyncio" if PEER else "arshai_native.redis"
    code = f"""
import asyncio, sys
from {package} import Redis
async def main():
    client = Redis(port=int(sys.argv[1]))
    await client.set("k", "v")
    await asyncio.gather(*(client.get("k") for _ in range(10)))
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(proxy.port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert wait_until(fault.reached.is_set)
        process.send_signal(sign)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    if sign == signal.SIGINT:
        assert (process.returncode, out) == (0, "interrupted\n"), err
    else:
        assert process.returncode == -signal.SIGTERM
    assert "Traceback" not in err


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_dropped_without_close(server, connect, kind):
    """The connections go with the client."""

    async def main():
        await connect(server).ping()
        await asyncio.sleep(0.1)
        before = descriptors()
        for _ in range(10):
            client = connect(server, client_name="dropped")
            await asyncio.gather(*(client.set(f"k{i}", "v") for i in range(5)))
            assert server.clients("dropped")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # redis-py: unclosed Connection
                del client
                gc.collect()
        assert await until(lambda: not server.clients("dropped"))
        assert await until(lambda: descriptors() <= before + 4)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(main, kind)
        gc.collect()


def test_dropped_in_a_cycle(server, connect):
    class Owner:
        pass

    async def main():
        owner = Owner()
        owner.client, owner.self = connect(server, client_name="cycle"), owner
        await owner.client.set("k", "v")
        assert server.clients("cycle")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del owner
            gc.collect()
        assert await until(lambda: not server.clients("cycle"))

    run(main)


def test_dropped_with_commands_in_flight(proxy, connect, kind):
    """A command under way keeps what it needs: its reply still comes."""

    async def main():
        client = connect(proxy, client_name="flying")
        await client.set("k", "v")
        fault = proxy.on("GET", stall())
        tasks = [asyncio.create_task(client.get("k")) for _ in range(10)]
        await until(fault.reached.is_set)
        del client
        gc.collect()
        await asyncio.sleep(0.1)
        fault.release()
        assert await asyncio.gather(*tasks) == [b"v"] * 10
        del tasks
        gc.collect()
        assert await until(lambda: proxy.open == 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(main, kind)


@pytest.mark.skipif(PEER, reason="redis-py's transports live as long as their loop")
def test_dropped_outside_any_loop(server, connect, kind):
    client = connect(server, client_name="outside")
    run(lambda: client.set("k", "v"), kind)
    assert server.clients("outside")
    client = None
    gc.collect()
    assert wait_until(lambda: not server.clients("outside"))


@pytest.mark.skipif(PEER, reason="redis-py's transports live as long as their loop")
def test_dropped_with_its_loop(proxy, connect, kind):
    """Loop and client go together, commands in flight and all."""
    fault = proxy.on("GET", stall(), times=None)

    async def main():
        client = connect(proxy)
        tasks = [asyncio.ensure_future(client.get("k")) for _ in range(10)]
        await until(fault.reached.is_set)
        assert proxy.open >= 1
        return len(tasks)

    before = descriptors()
    for _ in range(5):
        assert run(main, kind) == 10
        fault.reached.clear()
    gc.collect()
    assert wait_until(lambda: proxy.open == 0)
    assert wait_until(lambda: descriptors() <= before + 4)


def test_temporary_client(server, connect, kind):
    async def main():
        await connect(server, client_name="temporary").rpush("l", "x")
        assert await connect(server, client_name="temporary").blpop("l", 5) == (b"l", b"x")
        pipe = connect(server, client_name="temporary").pipeline()
        assert await pipe.set("k", "v").get("k").execute() == [True, b"v"]
        del pipe
        gc.collect()
        assert await until(lambda: not server.clients("temporary"))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(main, kind)
        gc.collect()
