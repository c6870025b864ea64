"""The surroundings of a client in its process: loops run within loops, signals, the interpreter's
end, and what loops leave behind. Each case is a Python of its own.
"""

import pytest
from faultkit import PEER, lanes_only
from test_redis_bridge import script

pytest_plugins = ("faultfixtures",)
pytestmark = [
    pytest.mark.usefixtures("bounded"),
    pytest.mark.skipif(PEER, reason="about the native bridge"),
]


# ---- loops within loops ----

NESTED = """
import faulthandler
faulthandler.dump_traceback_later(25, exit=True)
import nest_asyncio

def inner(loop, client):
    assert loop.run_until_complete(client.get("k")) == b"v"
    async def twice():
        return await client.get("k"), await client.get("k")
    assert loop.run_until_complete(twice()) == (b"v", b"v")
    assert loop.run_until_complete(asyncio.gather(*(client.get("k") for _ in range(5))))

async def use(client):
    await client.set("k", "v")
    assert await client.get("k") == b"v"

async def outer(client):
    loop = asyncio.get_running_loop()
    await use(client)
    for _ in range(3):
        inner(loop, client)
        # and the outer one goes on
        assert await client.get("k") == b"v"
        assert await asyncio.gather(*(client.get("k") for _ in range(20))) == [b"v"] * 20
    async def one(i):
        await client.incr("n")
        if i == 3:
            inner(loop, client)
        return await client.get("k")
    assert await asyncio.gather(*(one(i) for i in range(8))) == [b"v"] * 8
"""


# Not in a task that an express connection has woken: the loop may have another callback to call in
# the same turn, and then asyncio's unpatched _run_once() fails, whatever the callbacks are.
@pytest.mark.parametrize(
    ("applied", "express"),
    [
        ("before", False),
        ("before", True),
        ("in the task", False),
        ("in the task", True),
        ("in a woken task", False),
    ],
)
def test_run_until_complete_in_a_task(server, applied, express):
    """nest_asyncio, as notebooks have it: the loop runs inside a callback of the loop."""
    pytest.importorskip("nest_asyncio")
    script(
        """
        applied, express = sys.argv[2:]

        async def main():
            client = Redis(port=int(sys.argv[1]))
            if applied == "in the task":
                nest_asyncio.apply()
            if express:
                await use(client)
                await alone(client.get)
            if applied == "in a woken task":
                await client.ping()
                nest_asyncio.apply()
                assert asyncio.get_running_loop().run_until_complete(client.ping())
            await outer(client)
            await client.aclose()
            print("well")

        if applied == "before":
            nest_asyncio.apply()
        asyncio.run(main())
        """,
        server.port,
        applied,
        "express" if express else "",
        says="well",
        common=NESTED,
    )


def test_run_until_complete_between_two_awaits_of_many(server):
    """Some tasks of a drain are still to be woken when one of them runs the loop."""
    pytest.importorskip("nest_asyncio")
    script(
        """
        async def main():
            client = Redis(port=int(sys.argv[1]))
            loop = asyncio.get_running_loop()
            nest_asyncio.apply()
            await use(client)

            async def one(i):
                assert await client.get("k") == b"v"
                if i % 7 == 0:
                    inner(loop, client)
                return i

            assert await asyncio.gather(*(one(i) for i in range(50))) == list(range(50))
            await client.aclose()
            print("well")

        asyncio.run(main())
        """,
        server.port,
        says="well",
        common=NESTED,
    )


# ---- Control-C and signals ----


def test_interrupted_while_the_loop_is_called(server):
    """A signal whose handler runs inside loop.call_soon(), called from the C side."""
    script(
        """
        class Loop(asyncio.SelectorEventLoop):
            armed = False

            def call_soon(self, callback, *args, context=None):
                if self.armed and "_flush" in repr(callback):
                    self.armed = False
                    signal.raise_signal(signal.SIGINT)
                    for _ in range(1000):
                        pass
                return super().call_soon(callback, *args, context=context)

        async def main():
            client = Redis(port=int(sys.argv[1]))
            await client.set("k", "v")
            asyncio.get_running_loop().armed = True
            await asyncio.gather(*(client.get("k") for _ in range(3)))
            await asyncio.sleep(1)
            print("swallowed", asyncio.get_running_loop().armed)

        try:
            Loop().run_until_complete(main())
        except KeyboardInterrupt:
            print("well")
        """,
        server.port,
        says="well",
    )


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit"])
def test_what_error_factory_raises(server, error):
    """In a pipeline's reply, in a lone one and in a blocking call."""
    script(
        """
        raised = {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit}[sys.argv[2]]

        def raising(kind, message):
            raise raised

        native = engine(int(sys.argv[1]), raising)
        commands = [("NOSUCH",), ("PING",)]
        for attempt in (
            lambda: asyncio.run(pipeline()),
            lambda: asyncio.run(single()),
            lambda: native.pipeline_call(commands),
            lambda: native.call("NOSUCH"),
        ):
            async def pipeline():
                return await native.pipeline(commands)
            async def single():
                return await native.execute("NOSUCH")
            try:
                result = attempt()
            except raised:
                continue
            raise SystemError(result)
        assert native.call("PING") == b"PONG"
        print("well")
        """,
        server.port,
        error,
        says="well",
    )


def test_sigwait(server):
    """A blocked signal stays pending until the program waits for it: no thread of ours takes it."""
    script(
        """
        import urllib.parse
        client = Redis(host="localhost", port=int(sys.argv[1]))

        async def use():
            await client.set("k", "v")
            await alone(client.get)

        asyncio.run(use())
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
            time.sleep(0.2)
            assert signal.sigwait([number]) == number
        asyncio.run(client.aclose())
        print("well")
        """,
        server.port,
        says="well",
    )


def test_sigwait_in_a_forked_child(server):
    script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        async def use():
            client = Redis(port=int(sys.argv[1]))
            await client.set("k", "v")

        asyncio.run(use())
        pid = os.fork()
        if not pid:
            asyncio.run(use())  # an io thread of its own
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
            os._exit(0 if signal.sigwait([signal.SIGTERM]) == signal.SIGTERM else 1)
        assert os.waitpid(pid, 0)[1] == 0
        print("well")
        """,
        server.port,
        says="well",
    )


def test_a_daemon_threads_loop_does_not_spin_at_exit(server):
    """What else the program does at its exit has the processor for itself."""
    done = script(
        """
        import atexit

        def last():
            before = time.process_time()
            time.sleep(0.6)
            print("used", time.process_time() - before)

        # So that it runs behind it.
        atexit.unregister(_core._shutdown)
        atexit.register(last)
        atexit.register(_core._shutdown, 2.0, True)
        started = threading.Event()

        async def main():
            client = Redis(port=int(sys.argv[1]))
            await client.set("k", "v")

            async def worker():
                while True:
                    await client.get("k")

            tasks = [asyncio.create_task(worker()) for _ in range(300)]
            tasks += [asyncio.create_task(client.blpop("none", 0)) for _ in range(30)]
            await asyncio.sleep(0.2)
            started.set()
            await asyncio.gather(*tasks)

        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        started.wait(20)
        """,
        server.port,
        says="used",
    )
    assert float(done.stdout.split()[1]) < 0.3


# ---- what a loop leaves behind ----

LOOPS = """
gc.disable()  # or it would tidy up
fds = lambda: len(os.listdir("/proc/self/fd"))
client = Redis(port=int(sys.argv[1]))

async def use(n):
    for _ in range(n):
        await client.get("k")

for _ in range(3):
    asyncio.run(use(1))
"""


@lanes_only
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_descriptors_of_many_loops(server, kind):
    pytest.importorskip("uvloop")
    script(
        """
        import uvloop
        if sys.argv[2] == "uvloop":
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        before = fds()
        for n in range(200):
            asyncio.run(use(n % 5))
        assert fds() <= before + 4, (before, fds())
        asyncio.run(client.aclose())
        print("well")
        """,
        server.port,
        kind,
        says="well",
        common=LOOPS,
    )


@pytest.mark.parametrize("express", [0, 120], ids=["", "express"])
def test_a_closed_loop_is_collected(server, express):
    """Although the client it used lives on."""
    script(
        """
        import weakref
        client = Redis(port=int(sys.argv[1]))

        async def use():
            await client.get("k")
            for _ in range(int(sys.argv[2])):
                await client.get("k")
            await asyncio.sleep(0.1)
            await client.get("k")
            return weakref.ref(asyncio.get_running_loop())

        gone = [asyncio.run(use()) for _ in range(3)]
        gc.collect()
        assert [loop() for loop in gone] == [None] * 3, gone
        asyncio.run(client.aclose())
        print("well")
        """,
        server.port,
        express,
        says="well",
    )
