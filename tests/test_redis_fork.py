"""A process that forks: the parent goes on as if nothing had happened, the child starts afresh."""

import subprocess
import textwrap

import pytest
from faultkit import PEER, child, run, wait_until
from faultproxy import stall

pytest_plugins = ("faultfixtures",)
# redis-py's connections would be shared by parent and child
pytestmark = [
    pytest.mark.usefixtures("bounded"),
    pytest.mark.skipif(PEER, reason="redis-py's clients do not survive a fork"),
]

# What the scripts share: work() proves that a process's replies are its own.
COMMON = """
import hashlib, signal, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads
port = int(sys.argv[1])
client = Redis(port=port, client_name="forks")

def value_of(key):
    return hashlib.sha1(key.encode()).hexdigest().encode() * 20

async def work(name, rounds=5):
    for n in range(rounds):
        keys = [f"{name}:{n}:{i}" for i in range(40)]
        await asyncio.gather(*(client.set(k, value_of(k)) for k in keys))
        assert await asyncio.gather(*(client.get(k) for k in keys)) == [value_of(k) for k in keys]
        pipe = client.pipeline()
        assert await pipe.get(keys[0]).echo(name).execute() == [value_of(keys[0]), name.encode()]

async def ids():
    return {c["id"] for c in await client.client_list() if c["name"] == "forks"}

def in_child(function):
    "fork; the child runs the function and leaves without any clean-up; its pid"
    pid = os.fork()
    if not pid:
        signal.alarm(25)
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid

def ended_well(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def script(code, target, *args):
    """Run COMMON and code; it must end well and say nothing."""
    done = child(COMMON + textwrap.dedent(code), target.port, *args)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_fork_with_an_idle_client(server):
    script(
        """
        asyncio.run(work("parent"))
        before = asyncio.run(ids())
        pids = [in_child(lambda i=i: asyncio.run(work(f"child{i}"))) for i in range(3)]
        asyncio.run(work("parent beside"))
        for pid in pids:
            ended_well(pid)
        asyncio.run(work("parent after"))
        after = asyncio.run(ids())
        # the parent's connections are still the same ones
        assert before and before <= after, (before, after)
        """,
        server,
    )


def test_fork_before_the_first_use(server):
    script(
        """
        pid = in_child(lambda: asyncio.run(work("child")))
        ended_well(pid)
        asyncio.run(work("parent"))
        """,
        server,
    )


def test_fork_with_commands_in_flight(proxy):
    """Stalled replies come after the fork: to the parent, all of them, and to nobody else."""
    fault = proxy.on(lambda args: args[0] == b"ECHO" and args[1][:1] == b"e", stall(), times=None)

    def go(args):
        """True of no command; INCR go opens the gate."""
        if args[:2] == [b"INCRBY", b"go"]:
            fault.release()
        return False

    proxy.on(go, stall())
    script(
        """
        async def main():
            await work("parent", 1)
            stalled = [asyncio.create_task(client.echo(f"e{i}")) for i in range(50)]
            pops = [asyncio.create_task(client.blpop(f"list{i}", 0)) for i in range(3)]
            await asyncio.sleep(0.3)
            assert not any(t.done() for t in stalled + pops)

            def fresh():
                asyncio.set_event_loop(None)
                loop = asyncio.new_event_loop()
                loop.run_until_complete(work("child"))
                loop.close()

            pid = in_child(fresh)
            await asyncio.to_thread(ended_well, pid)
            assert not any(t.done() for t in stalled + pops)
            other = Redis(port=port)
            await other.incr("go")
            assert await asyncio.gather(*stalled) == [b"e%d" % i for i in range(50)]
            for i in range(3):
                await client.rpush(f"list{i}", i)
            assert await asyncio.gather(*pops) == [
                (b"list%d" % i, b"%d" % i) for i in range(3)
            ]
            await work("parent after")
            await other.aclose()
            await client.aclose()

        asyncio.run(main())
        """,
        proxy,
    )


def test_fork_while_threads_work(server):
    """Forks at any moment: whatever lock another thread held is nothing to the child."""
    script(
        """
        stop = threading.Event()
        errors = []

        def steady(i):
            async def main():
                while not stop.is_set():
                    await work(f"thread{i}", 1)
            try:
                asyncio.run(main())
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=steady, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for n in range(25):
            pids = [in_child(lambda: asyncio.run(work(f"child{n}", 1))) for _ in range(2)]
            for pid in pids:
                ended_well(pid)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert not errors, errors
        assert not any(thread.is_alive() for thread in threads)
        """,
        server,
    )


def test_child_that_ends_in_order(server):
    """A child that closes the client, or runs the interpreter's whole end, harms nobody."""
    script(
        """
        asyncio.run(work("parent"))
        before = asyncio.run(ids())

        async def close():
            await client.aclose()

        async def use_and_close():
            await work("child", 1)
            await client.aclose()

        def drop():
            global client
            client = None
            gc.collect()

        for how in (lambda: None, drop, lambda: asyncio.run(close()),
                    lambda: asyncio.run(use_and_close())):
            pid = os.fork()
            if not pid:
                signal.alarm(25)
                how()
                sys.exit(0)
            ended_well(pid)
            asyncio.run(work("parent after"))
        assert before <= asyncio.run(ids())
        """,
        server,
    )


def test_grandchildren(server):
    script(
        """
        asyncio.run(work("parent"))

        def first():
            asyncio.run(work("child"))
            pid = in_child(lambda: asyncio.run(work("grandchild")))
            asyncio.run(work("child beside"))
            ended_well(pid)

        pid = in_child(first)
        asyncio.run(work("parent beside"))
        ended_well(pid)
        asyncio.run(work("parent after"))
        """,
        server,
    )


def test_fork_holding_a_command_and_a_session(server):
    """What the parent had begun is of no use to the child, which is told so and not stuck."""
    script(
        """
        async def main():
            await work("parent", 1)
            await client.set("w", "1")
            unsent = client.get("w")
            pipe = client.pipeline()
            await pipe.watch("w")

            def fresh():
                asyncio.set_event_loop(None)

                async def use():
                    try:
                        await unsent
                    except RuntimeError as error:
                        assert "call the method again" in str(error)
                    try:
                        await asyncio.wait_for(pipe.get("w"), 10)
                    except TimeoutError:
                        raise AssertionError("stuck")
                    except Exception:
                        pass
                    await work("child", 1)

                loop = asyncio.new_event_loop()
                loop.run_until_complete(use())

            pid = in_child(fresh)
            await asyncio.to_thread(ended_well, pid)
            # the parent's watch still holds
            assert await unsent == b"1"
            assert await pipe.get("w") == b"1"
            pipe.multi()
            assert await pipe.set("w", "2").execute() == [True]
            await client.aclose()

        asyncio.run(main())
        """,
        server,
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(server, method):
    script(
        """
        import multiprocessing

        def job(n):
            asyncio.run(work(f"job{n}", 2))
            return n

        if __name__ == "__main__":
            stop = threading.Event()

            async def steady():
                while not stop.is_set():
                    await work("parent", 1)

            thread = threading.Thread(target=lambda: asyncio.run(steady()))
            thread.start()
            try:
                with multiprocessing.get_context(sys.argv[2]).Pool(3) as pool:
                    assert pool.map_async(job, range(12)).get(30) == list(range(12))
                    pool.close()
                    pool.join()
            finally:
                stop.set()
                thread.join(20)
            asyncio.run(work("parent after"))
        """,
        server,
        method,
    )


def test_programs_started_inherit_nothing(server, connect):
    """A program that is started without closing descriptors does not keep our sockets open."""

    async def main():
        client = connect(server, client_name="inherit")
        await client.set("k", "v")
        assert server.clients("inherit")
        sleeper = subprocess.Popen(["sleep", "30"], close_fds=False)
        try:
            await client.aclose()
            assert wait_until(lambda: not server.clients("inherit"))
        finally:
            sleeper.kill()
            sleeper.wait()

    run(main)
