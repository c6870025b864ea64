"""Where the event loop, tasks and the interpreter meet the C side in unusual ways.

Each case is a Python of its own: what once went wrong here were crashes, hangs, lost exceptions.
"""

import textwrap

import pytest
from faultkit import PEER, child

pytest_plugins = ("faultfixtures",)
pytestmark = [
    pytest.mark.usefixtures("bounded"),
    pytest.mark.skipif(PEER, reason="about the native bridge"),
]

# A server that answers nil to everything until told otherwise, and a client that has been alone
# for long enough to have its express connection.
COMMON = """
import signal, socket, threading
from arshai_native import _core

class Fake:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.mode = "ok"
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            threading.Thread(
                target=self.serve, args=(self.listener.accept()[0],), daemon=True
            ).start()

    def serve(self, sock):
        stream = sock.makefile("rb")
        while head := stream.readline():
            words = []
            for _ in range(int(head[1:])):
                words.append(stream.read(int(stream.readline()[1:]) + 2)[:-2])
            if words[0] in (b"CLIENT", b"SELECT"):
                sock.sendall(b"+OK\\r\\n")
            elif self.mode == "ok":
                sock.sendall(b"$-1\\r\\n")
            elif self.mode == "surplus":
                sock.sendall(b"$-1\\r\\n$-1\\r\\n")
            elif self.mode == "close":
                sock.shutdown(socket.SHUT_RDWR)
                return

def factory(kind, message):
    return ConnectionError(kind, message)

def engine(port, error_factory=factory):
    return _core.RedisEngine(host="127.0.0.1", port=port, error_factory=error_factory)

async def alone(get):
    for _ in range(120):
        await get("nothing")
    await asyncio.sleep(0.05)
    for _ in range(5):
        await get("nothing")
"""


def script(code, *args, says="", code_of_exit=0, common=""):
    done = child(COMMON + common + textwrap.dedent(code), *args)
    assert done.returncode == code_of_exit, done.stdout + done.stderr
    assert says in done.stdout
    return done


@pytest.mark.parametrize("what", ["raise", "aclose", "exit"])
def test_a_closed_loop_with_a_lone_command_under_way(what):
    """Its tasks are not run by another loop that uses the client later."""
    done = script(
        """
        what = sys.argv[1]
        fake = Fake()
        client = Redis(port=fake.port)
        log = []

        async def job():
            try:
                await client.get("x")
            except GeneratorExit:
                raise
            except BaseException as error:
                log.append(error)
                if what == "aclose":
                    await client.aclose()
                if what == "exit":
                    sys.exit(9)
                raise

        async def first():
            await alone(client.get)
            fake.mode = "silent"
            task = asyncio.ensure_future(job())
            await asyncio.sleep(0.05)
            return task

        loop = asyncio.new_event_loop()
        task = loop.run_until_complete(first())
        loop.close()
        fake.mode = "ok"
        asyncio.run(alone(client.get))
        assert not log, log
        print("well")
        """,
        what,
        says="well",
    )
    assert "Segmentation" not in done.stderr


@pytest.mark.parametrize("mode", ["close", "silent", "surplus"])
def test_exit_in_a_task_that_a_failure_woke(mode):
    script(
        """
        fake = Fake()

        async def main():
            client = Redis(port=fake.port, socket_timeout=0.5)
            await alone(client.get)
            fake.mode = sys.argv[1]
            try:
                await client.get("x")
            except Exception:
                sys.exit(7)
            sys.exit(7)

        asyncio.run(main())
        """,
        mode,
        code_of_exit=7,
    )


def test_an_engine_that_goes_while_an_exception_is_on_its_way():
    script(
        """
        fake = Fake()

        def make():
            native = engine(fake.port)
            asyncio.run(alone(lambda key: native.execute("GET", key)))
            return native

        try:
            len(make())
        except TypeError:
            print("TypeError")
        """,
        says="TypeError",
    )


def test_shutdown_under_a_running_loop(server):
    script(
        """
        async def main():
            client = Redis(port=int(sys.argv[1]))
            await client.get("a")
            task = asyncio.ensure_future(client.blpop("nolist", 20))
            await asyncio.sleep(0.1)
            assert _core._shutdown()
            try:
                await asyncio.wait_for(task, 5)
            except ConnectionError as error:
                raise AssertionError("redis-py has a class for it") from error
            except Exception as error:
                print(type(error).__name__)
            before = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - before < 0.25, "the loop spins"
            assert await client.get("a") is None
            await client.aclose()

        asyncio.run(main())
        """,
        server.port,
        says="ConnectionError",
    )


def test_the_end_of_a_subinterpreter(server):
    """It does not stop the io thread of the main one."""
    script(
        """
        try:
            from _testcapi import run_in_subinterp
        except ImportError:
            print("well: no subinterpreters here")
            sys.exit()
        code = f'''
        import sys; sys.path[:] = {sys.path!r}
        try:
            from arshai_native import _core
        except ImportError:
            pass
        else:
            native = _core.RedisEngine(
                host="127.0.0.1", port={sys.argv[1]}, error_factory=ConnectionError
            )
            native.call("PING")
        '''

        async def main():
            client = Redis(port=int(sys.argv[1]))
            task = asyncio.ensure_future(client.blpop("nolist", 1))
            await asyncio.sleep(0.1)
            run_in_subinterp(textwrap.dedent(code))
            assert await asyncio.wait_for(task, 10) is None
            await client.aclose()
            print("well")

        import textwrap
        asyncio.run(main())
        """,
        server.port,
        says="well",
    )


def test_a_command_in_one_string(server):
    """It is routed by its first word."""
    script(
        """
        async def main():
            client = Redis(port=int(sys.argv[1]), socket_timeout=20)
            await client.set("one", 1)
            task = asyncio.ensure_future(client.execute_command("BLPOP nolist 20"))
            await asyncio.sleep(0.1)
            assert await asyncio.wait_for(client.get("one"), 5) == b"1"
            await client.rpush("nolist", "x")
            assert await task == [b"nolist", b"x"]
            await client.execute_command("SELECT 5")
            assert await client.get("one") == b"1"
            try:
                await client.execute_command("SUBSCRIBE ch")
            except NotImplementedError as error:
                assert str(error).startswith("SUBSCRIBE turns"), error
            assert await client.get("one") == b"1"
            await client.aclose()
            print("well")

        asyncio.run(main())
        """,
        server.port,
        says="well",
    )


def test_cancelled_during_the_conversion(server):
    script(
        """
        async def main():
            box = {}

            def cancelling(kind, message):
                assert box["task"].cancel()
                return ConnectionError(kind, message)

            async def job():
                await engine(int(sys.argv[1]), cancelling).execute("NOSUCH")

            box["task"] = task = asyncio.create_task(job())
            await asyncio.wait([task])
            assert task.cancelled(), task
            print("well")

        asyncio.run(main())
        """,
        server.port,
        says="well",
    )


def test_interrupted_during_the_conversion(server):
    script(
        """
        def interrupting(kind, message):
            os.kill(os.getpid(), signal.SIGINT)
            return ConnectionError(kind, message)

        async def main():
            try:
                await engine(int(sys.argv[1]), interrupting).execute("NOSUCH")
            except ConnectionError:
                pass
            await asyncio.sleep(5)

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("well")
        """,
        server.port,
        says="well",
    )


def test_a_second_loop_inside_a_woken_task(server):
    """As bridges from synchronous code do."""
    script(
        """
        client, other = Redis(port=int(sys.argv[1])), Redis(port=int(sys.argv[1]))

        async def inner():
            return await asyncio.wait_for(other.get("k"), 5)

        async def main():
            await client.set("k", "v")
            task, loop = asyncio.current_task(), asyncio.get_running_loop()
            asyncio.tasks._leave_task(loop, task)
            asyncio.events._set_running_loop(None)
            try:
                second = asyncio.new_event_loop()
                print(second.run_until_complete(inner()))
                second.close()
            finally:
                asyncio.events._set_running_loop(loop)
                asyncio.tasks._enter_task(loop, task)
            assert await client.get("k") == b"v"

        asyncio.run(main())
        """,
        server.port,
        says="b'v'",
    )


def test_misuse_is_told():
    script(
        """
        class Bad:
            def __bool__(self):
                raise ValueError("neither")

        unmade = _core.RedisEngine.__new__(_core.RedisEngine)
        client = Redis(port=1)
        for attempt in (
            lambda: setattr(client, "_engine", unmade),
            lambda: unmade.pipeline([("PING",)]),
            lambda: client.execute_command("SET", "k", "v", get=Bad()),
        ):
            try:
                attempt()
            except (RuntimeError, ValueError) as error:
                print(error)
            else:
                raise AssertionError(attempt)
        """,
        says="neither",
    )


def test_two_callbacks_see_the_result(server):
    script(
        """
        async def main():
            client = Redis(port=int(sys.argv[1]))
            await client.set("k", "v")
            request = client.get("k")
            seen = []

            async def job():
                return await request

            task = asyncio.create_task(job())
            await asyncio.sleep(0)
            request.add_done_callback(lambda r: seen.append(r.result()))
            assert await task == b"v"
            await asyncio.sleep(0)
            print(seen)
            await client.aclose()

        asyncio.run(main())
        """,
        server.port,
        says="[b'v']",
    )
