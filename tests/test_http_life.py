"""Clients, loops, threads and processes that come and go while requests are under way."""

import asyncio
import contextlib
import gc
import os
import textwrap
import threading
import time
import warnings

import pytest
from faultkit import run, until, wait_until
from httpkit import (
    HttpServer,
    child,
    chunked,
    descriptors,
    echo,
    head,
    raw,
    reply,
    stall,
)

from arshai_native import _core
from arshai_native._core import HttpClient, HttpError

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

OK = head(200, [("Content-Length", "2")]) + b"ok"


def closed_error(error):
    return isinstance(error, HttpError) and error.kind == "closed"


# ---- close() ----


def test_close(kind):
    with HttpServer() as server:
        client = HttpClient()
        assert client.closed is False

        async def main():
            assert (await client.request("GET", server.url)).status == 200
            client.close()
            assert client.closed is True
            client.close()
            assert await until(lambda: server.open == 0)

        run(main, kind)


def test_use_after_close(http, fetch):
    with HttpServer() as server:
        client = http()
        client.close()
        for mode in range(3):
            with pytest.raises(HttpError) as caught:
                fetch(client, "GET", server.url, mode=mode, max_retries=2)
            assert caught.value.kind == "closed"
        assert server.accepted == 0


def test_made_before_close_awaited_after(http):
    with HttpServer() as server:
        client = http()

        async def main():
            request = client.request("GET", server.url)
            client.close()
            with pytest.raises(HttpError) as caught:
                await request
            assert caught.value.kind == "closed"

        run(main)
        assert server.accepted == 0


@pytest.mark.parametrize("mode", range(5))
def test_close_with_requests_under_way(kind, mode):
    """At every stage: connected and waiting, waiting for the pool, waiting to try again."""

    def handler(x):
        if x.request.target == "/again":
            reply(500, b"", [("Retry-After", "30")])(x)
        else:
            x.pause(threading.Event())

    with HttpServer(handler) as server:
        client = HttpClient(max_connections=3)

        async def main():
            again = [
                asyncio.ensure_future(
                    client.request("GET", server.url + "/again", mode=mode, max_retries=2)
                )
                for _ in range(3)
            ]
            await until(lambda: server.count("/again") == 3)
            others = [
                asyncio.ensure_future(client.request("GET", server.url, mode=mode))
                for _ in range(8)
            ]
            await until(lambda: server.count("/") == 3)
            start = time.monotonic()
            client.close()
            results = await asyncio.gather(*again, *others, return_exceptions=True)
            assert all(map(closed_error, results)), results
            assert time.monotonic() - start < 10
            assert await until(lambda: server.open == 0)

        run(main, kind)


def test_close_with_a_stream(kind):
    with HttpServer(chunked(b"data: x\n\n", threading.Event())) as server:
        client = HttpClient()

        async def main():
            stream = await client.request("GET", server.url, mode=_core.HTTP_STREAM)
            events = await client.request("GET", server.url, mode=_core.HTTP_EVENTS)
            assert await stream.read() == b"data: x\n\n"
            assert await events.read_events()
            readers = [
                asyncio.create_task(stream.read()),
                asyncio.create_task(events.read_events()),
            ]
            await asyncio.sleep(0.05)
            client.close()
            results = await asyncio.gather(*readers, return_exceptions=True)
            assert all(map(closed_error, results)), results
            for read in (stream.read, events.read_events):
                with pytest.raises(HttpError):
                    await read()
            stream.close_stream()

        run(main, kind)


def test_close_from_another_thread(kind):
    with HttpServer(stall()) as server:
        client = HttpClient()

        async def main():
            tasks = [asyncio.ensure_future(client.request("GET", server.url)) for _ in range(20)]
            await until(lambda: len(server.requests) == 20)
            threading.Thread(target=client.close).start()
            assert all(map(closed_error, await asyncio.gather(*tasks, return_exceptions=True)))

        run(main, kind)


def test_close_while_another_thread_waits():
    with HttpServer(stall()) as server:
        client, results = HttpClient(), []

        def work():
            try:
                client.request_sync("GET", server.url)
            except HttpError as error:
                results.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: len(server.requests) == 4)
        client.close()
        for thread in threads:
            thread.join(20)
        assert len(results) == 4 and all(map(closed_error, results))


# ---- clients that are dropped ----


def test_dropped(kind):
    """The connections go with the client."""
    with HttpServer() as server:

        async def main():
            before = descriptors()
            for _ in range(10):
                client = HttpClient()
                await asyncio.gather(*(client.request("GET", server.url) for _ in range(5)))
                del client
            gc.collect()
            assert await until(lambda: server.open == 0)
            assert await until(lambda: descriptors() <= before + 6)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            run(main, kind)


def test_dropped_in_a_cycle():
    class Owner:
        pass

    with HttpServer() as server:
        owner = Owner()
        owner.client, owner.self = HttpClient(), owner
        owner.client.request_sync("GET", server.url)
        assert server.open == 1
        del owner
        gc.collect()
        assert wait_until(lambda: server.open == 0)


def test_dropped_with_requests_under_way(kind):
    """A request keeps what it needs: its reply still comes."""
    gate = threading.Event()
    with HttpServer(raw(gate, OK)) as server:

        async def main():
            client = HttpClient()
            tasks = [asyncio.create_task(client.request("GET", server.url)) for _ in range(10)]
            await until(lambda: len(server.requests) == 10)
            del client
            gc.collect()
            await asyncio.sleep(0.05)
            gate.set()
            assert [r.body for r in await asyncio.gather(*tasks)] == [b"ok"] * 10
            del tasks
            gc.collect()
            assert await until(lambda: server.open == 0)

        run(main, kind)


def test_dropped_with_a_stream(kind):
    """A stream that is being read keeps what it needs, too."""
    gate = threading.Event()
    with HttpServer(chunked(b"x", gate, b"y")) as server:

        async def main():
            response = await HttpClient().request("GET", server.url, mode=_core.HTTP_STREAM)
            gc.collect()
            assert await response.read() == b"x"
            gate.set()
            assert await response.read() == b"y"
            assert await response.read() == b""

        run(main, kind)


def test_a_temporary_client(kind):
    with HttpServer() as server:

        async def main():
            response = await HttpClient().request("POST", server.url, body=b"x" * 1000)
            assert response.json()["body"] == "x" * 1000

        run(main, kind)


# ---- loops and threads ----


def test_many_loops_and_threads(http):
    """One client, loops in several threads, blocking callers beside them."""
    with HttpServer() as server:
        client, failed = http(max_connections=20), []

        async def ask(name):
            async def one(n):
                path = f"/{name}/{n}"
                response = await client.request("POST", server.url + path, body=path.encode() * 9)
                assert response.json()["target"] == path
                assert response.json()["body"] == path * 9

            for start in range(0, 60, 20):
                await asyncio.gather(*(one(n) for n in range(start, start + 20)))

        def work(name):
            try:
                if name % 3:
                    run(lambda: ask(name))
                else:
                    for n in range(30):
                        path = f"/{name}/{n}"
                        response = client.request_sync("GET", server.url + path)
                        assert response.json()["target"] == path
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failed == []
        assert server.accepted <= 20


def test_one_loop_after_the_other(http, kind):
    with HttpServer() as server:
        client = http()
        for i in range(20):
            response = run(lambda i=i: client.request("GET", f"{server.url}/{i}"), kind)
            assert response.json()["target"] == f"/{i}"
        assert server.accepted == 1


def test_a_loop_closed_with_requests_under_way(http, kind):
    """Its results are dropped; the client serves the next loop."""
    gate = threading.Event()
    with HttpServer(raw(gate, OK)) as server:
        client = http(max_connections=5)

        def leave(count):
            # not run(): nobody cancels what is left
            loop = asyncio.new_event_loop()
            if kind == "uvloop":
                loop.close()
                loop = pytest.importorskip("uvloop").new_event_loop()

            async def main():
                tasks = [
                    asyncio.ensure_future(client.request("GET", server.url)) for _ in range(count)
                ]
                await until(lambda: len(server.requests) >= 5)
                return tasks

            tasks = loop.run_until_complete(main())
            loop.set_exception_handler(lambda loop, context: None)
            loop.close()
            return tasks

        tasks = leave(10)
        gate.set()
        assert run(lambda: client.request("GET", server.url), kind).body == b"ok"
        for task in tasks:
            task._log_destroy_pending = False
        del tasks
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
        assert client.request_sync("GET", server.url).body == b"ok"


@pytest.mark.parametrize("mode", [_core.HTTP_STREAM, _core.HTTP_EVENTS])
def test_a_loop_closed_during_a_stream(http, kind, mode):
    with HttpServer(chunked(b"data: x\n\n", threading.Event())) as server:
        client = http(max_connections=1)
        kept = []

        async def main():
            response = await client.request("GET", server.url, mode=mode)
            read = response.read if mode == _core.HTTP_STREAM else response.read_events
            await read()
            kept.append(response)
            reader = asyncio.ensure_future(read())
            await asyncio.sleep(0.02)
            reader._log_destroy_pending = False

        run(main, kind)
        kept.clear()
        gc.collect()
        assert wait_until(lambda: server.open == 0)
        server.handler = echo
        assert client.request_sync("GET", server.url, pool_timeout=20).status == 200


def test_run_again_after_an_error(http, kind):
    with HttpServer() as server:
        client = http()

        async def fails():
            await client.request("GET", server.url)
            raise KeyError("own")

        for _ in range(5):
            with pytest.raises(KeyError):
                run(fails, kind)
        assert run(lambda: client.request("GET", server.url), kind).status == 200


def test_descriptors(kind):
    """Clients, loops, requests that went well and that did not: all is closed."""
    with HttpServer() as server:

        async def main():
            client = HttpClient()
            await asyncio.gather(*(client.request("GET", server.url) for _ in range(10)))
            for url in ("http://127.0.0.1:1/", "http://nobody.invalid/", "nope:"):
                with pytest.raises((HttpError, ValueError)):
                    await client.request("GET", url)
            tasks = [asyncio.create_task(client.request("GET", server.url)) for _ in range(10)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            client.close()

        run(main, kind)
        assert wait_until(lambda: server.open == 0)
        gc.collect()
        before = descriptors()
        for _ in range(10):
            run(main, kind)
        gc.collect()
        assert wait_until(lambda: server.open == 0)
        assert wait_until(lambda: descriptors() <= before)


# ---- processes ----


def ends_well(code, *args):
    """The script ends with 0 and says nothing."""
    done = child(code, *args)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


ENDINGS = {
    "tasks pending when run returns": """
        async def main():
            tasks = [asyncio.create_task(client.request("GET", slow)) for _ in range(50)]
            await asyncio.sleep(0.2)
        asyncio.run(main())
        """,
    "sys.exit in the loop": """
        async def main():
            tasks = [asyncio.create_task(client.request("GET", slow)) for _ in range(50)]
            await asyncio.sleep(0.2)
            sys.exit(0)
        asyncio.run(main())
        """,
    "loop never closed": """
        loop = asyncio.new_event_loop()
        async def main():
            await client.request("GET", fast)
        loop.run_until_complete(main())
        """,
    "a stream in a global": """
        async def main():
            global stream, events
            stream = await client.request("GET", endless, mode=_core.HTTP_STREAM)
            events = await client.request("GET", endless, mode=_core.HTTP_EVENTS)
            await stream.read()
            await events.read_events()
        asyncio.run(main())
        """,
    "readers of streams pending": """
        async def main():
            global stream, events
            stream = await client.request("GET", endless, mode=_core.HTTP_STREAM)
            events = await client.request("GET", endless, mode=_core.HTTP_EVENTS)
            await stream.read()
            await events.read_events()
            tasks = [asyncio.create_task(stream.read()), asyncio.create_task(events.read_events())]
            await asyncio.sleep(0.1)
        asyncio.run(main())
        """,
    "a daemon thread with a loop": """
        import threading
        started = threading.Event()
        async def main():
            tasks = [asyncio.create_task(client.request("GET", slow)) for _ in range(20)]
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
                await asyncio.gather(*(client.request("GET", fast) for i in range(20)))
                started.set()
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        started.wait(20)
        time.sleep(0.1)
        """,
    "a daemon thread that blocks": """
        import threading
        threading.Thread(target=lambda: client.request_sync("GET", slow), daemon=True).start()
        time.sleep(0.3)
        """,
    "waiting to try again": """
        async def main():
            tasks = [asyncio.create_task(client.request("GET", again, max_retries=5))
                     for _ in range(5)]
            await asyncio.sleep(0.2)
        asyncio.run(main())
        """,
    "closed in order": """
        async def main():
            assert (await client.request("GET", fast)).status == 200
            client.close()
        asyncio.run(main())
        """,
    "never used": """
        client.request("GET", fast).close()
        """,
    "requests at exit": """
        import atexit
        async def last():
            assert (await client.request("GET", fast)).status == 200
        asyncio.run(last())
        atexit.register(lambda: asyncio.run(last()))
        """,
    "kept alive by a cycle and a __del__": """
        class Keeper:
            def __init__(self, client):
                self.client, self.self = client, self
            def __del__(self):
                self.client.request("GET", fast).close()
                repr(self.client)
                self.client.close()
        keeper = Keeper(client)
        async def main():
            tasks = [asyncio.create_task(client.request("GET", slow)) for _ in range(5)]
            await asyncio.sleep(0.1)
        asyncio.run(main())
        """,
    "many clients": """
        clients = [HttpClient() for _ in range(30)]
        async def main():
            await asyncio.gather(*(c.request("GET", fast) for c in clients))
        asyncio.run(main())
        """,
}


@pytest.fixture(scope="module")
def endings_server():
    def handler(x):
        if x.request.target == "/slow":
            x.pause(60)
        elif x.request.target == "/endless":
            chunked(b"data: x\n\n", 60)(x)
        elif x.request.target == "/again":
            reply(500, b"", [("Retry-After", "30")])(x)
        else:
            echo(x)

    with HttpServer(handler) as server:
        yield server


SETUP = """
fast, slow, endless, again = (sys.argv[1] + "/" + p for p in ("fast", "slow", "endless", "again"))
client = HttpClient()
"""


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(endings_server, name):
    """An interpreter ends with requests and streams under way: in time and without a word."""

    start = time.monotonic()
    ends_well(SETUP + textwrap.dedent(ENDINGS[name]), endings_server.url)
    assert time.monotonic() - start < 20


FORKS = """
import signal, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads

def in_child(function):
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

async def work(name):
    async def one(n):
        path = f"/{name}/{n}"
        response = await client.request("POST", sys.argv[1] + path, body=path.encode())
        assert response.json()["target"] == path
    for _ in range(3):
        await asyncio.gather(*(one(n) for n in range(20)))
"""

FORK_CASES = {
    "a client that was used": """
        asyncio.run(work("before"))
        pid = in_child(lambda: asyncio.run(work("child")))
        asyncio.run(work("parent"))
        ended_well(pid)
        asyncio.run(work("after"))
        """,
    "a client that was not used": """
        pid = in_child(lambda: asyncio.run(work("child")))
        asyncio.run(work("parent"))
        ended_well(pid)
        """,
    "blocking requests": """
        assert client.request_sync("GET", fast).status == 200
        def fork():
            assert client.request_sync("GET", fast).status == 200
        ended_well(in_child(fork))
        assert client.request_sync("GET", fast).status == 200
        """,
    "with requests under way": """
        async def main():
            tasks = [asyncio.create_task(client.request("GET", sys.argv[1] + "/pause"))
                     for _ in range(10)]
            await asyncio.sleep(0.2)
            def fork():
                asyncio._set_running_loop(None)
                asyncio.run(work("child"))
            pid = in_child(fork)
            for response in await asyncio.gather(*tasks):
                assert response.json()["target"] == "/pause"
            ended_well(pid)
        asyncio.run(main())
        """,
    "with a stream": """
        async def main():
            stream = await client.request("GET", sys.argv[1] + "/stream", mode=_core.HTTP_STREAM)
            assert await stream.read() == b"one"
            def fork():
                asyncio._set_running_loop(None)
                stream.close_stream()
                asyncio.run(work("child"))
            ended_well(in_child(fork))
            assert await stream.read() == b"two"
            assert await stream.read() == b""
        asyncio.run(main())
        """,
    "the child closes and drops it": """
        asyncio.run(work("before"))
        def fork():
            global client
            client.close()
            del client
            gc.collect()
        ended_well(in_child(fork))
        asyncio.run(work("after"))
        """,
    "a child that ends as usual": """
        asyncio.run(work("before"))
        pid = os.fork()
        if not pid:
            asyncio.run(work("child"))
            sys.exit(0)
        ended_well(pid)
        asyncio.run(work("after"))
        """,
    "one child after the other": """
        for n in range(5):
            asyncio.run(work(f"parent{n}"))
            ended_well(in_child(lambda: asyncio.run(work(f"child{n}"))))
        """,
}


@pytest.mark.parametrize("name", FORK_CASES)
def test_fork(name):
    """The child starts afresh, the parent notices nothing."""

    def handler(x):
        if x.request.target == "/pause":
            x.pause(0.8)
        if x.request.target == "/stream":
            chunked(b"one", 0.8, b"two")(x)
        else:
            echo(x)

    with HttpServer(handler) as server:
        ends_well(SETUP + FORKS + textwrap.dedent(FORK_CASES[name]), server.url)
        # two processes have never spoken over one connection
        for number in {r.connection for r in server.requests}:
            paths = {r.target.split("/")[1] for r in server.requests if r.connection == number}
            assert not ("child" in paths and len(paths) > 1), paths


def test_multiprocessing():
    """The way programs really do it."""
    code = """
        import multiprocessing
        def job(url):
            global client
            return client.request_sync("GET", url).status
        if __name__ == "__main__":
            client.request_sync("GET", fast)
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(job, [fast] * 8) == [200] * 8
            assert client.request_sync("GET", fast).status == 200
        """

    with HttpServer() as server:
        quiet = "import warnings; warnings.simplefilter('ignore')\n"
        ends_well(quiet + SETUP + textwrap.dedent(code), server.url)


def test_threads_have_names_and_take_no_signals(http):
    """One io thread serves all clients: threads do not grow with them."""
    with HttpServer() as server:
        clients = [http() for _ in range(20)]
        clients[0].request_sync("GET", server.url)
        server.drop_all()
        wait_until(lambda: server.open == 0)
        before = len(os.listdir("/proc/self/task"))
        for client in clients:
            client.request_sync("GET", server.url)
        during = len(os.listdir("/proc/self/task"))
        # the server has a thread for each connection
        assert during - before <= server.open
        for client in clients:
            with contextlib.suppress(HttpError):
                client.close()
