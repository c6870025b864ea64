"""One client and many event loops: in threads, one after another, and loops that go too early."""

import asyncio
import gc
import threading
import time
import warnings

import pytest
from faultkit import PEER, express, run, until, value_of, wait_until
from faultproxy import delay, split, stall
from test_redis_faults import check_in_step

pytest_plugins = ("faultfixtures",)
# redis-py ties the connections of a client to the event loop that made them
pytestmark = [
    pytest.mark.usefixtures("bounded"),
    pytest.mark.skipif(PEER, reason="redis-py's clients belong to one event loop"),
]


def in_threads(*functions, limit=60):
    """Run the functions in threads of their own; the first error is raised here."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:  # handed to the test's thread
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


async def exercise(client, name, rounds=30):
    """Commands in batches whose replies tell the caller apart."""
    for n in range(rounds):
        keys = [f"{name}:{n}:{i}" for i in range(30)]
        await asyncio.gather(*(client.set(key, value_of(key)) for key in keys))
        assert await asyncio.gather(*(client.get(key) for key in keys)) == [
            value_of(key) for key in keys
        ]
        assert await client.echo(keys[0]) == keys[0].encode()


def test_two_loops_in_two_threads(server, connect, kind):
    client = connect(server)
    in_threads(
        lambda: run(lambda: exercise(client, "one"), kind),
        lambda: run(lambda: exercise(client, "two"), kind),
    )
    run(client.aclose, kind)


def test_both_kinds_of_loop_and_many_threads(server, connect):
    client = connect(server, client_name="shared")
    start = threading.Barrier(8)

    def worker(i):
        start.wait(20)
        run(lambda: exercise(client, f"t{i}", 10), ("asyncio", "uvloop")[i % 2])

    in_threads(*(lambda i=i: worker(i) for i in range(8)))
    # they shared the connections
    assert len(server.clients("shared")) <= 4
    run(client.aclose)


def test_threads_with_pipelines_and_blocking_commands(server, connect, kind):
    client = connect(server)

    async def consumer():
        got = [await client.blpop("jobs", 20) for _ in range(50)]
        assert [int(value) for _, value in got] == list(range(50))

    async def producer():
        for i in range(50):
            async with client.pipeline() as pipe:
                assert (await pipe.rpush("jobs", i).incr("n").execute())[1] == i + 1

    async def watcher():
        async def add(pipe):
            value = int(await pipe.get("m") or 0)
            pipe.multi()
            pipe.set("m", value + 1)

        for _ in range(50):
            await client.transaction(add, "m")
        assert await client.get("m") == b"50"

    in_threads(*(lambda f=f: run(f, kind) for f in (consumer, producer, watcher)))
    run(client.aclose)


def test_successive_runs(server, connect, kind):
    """asyncio.run after asyncio.run: each makes a loop of its own and closes it."""
    client = connect(server, client_name="again")
    for n in range(20):
        run(lambda n=n: exercise(client, f"run{n}", 2), kind)
    assert 1 <= len(server.clients("again")) <= 4
    run(client.aclose, kind)
    assert wait_until(lambda: not server.clients("again"))


def test_cancelled_by_the_end_of_run(proxy, connect, kind):
    """asyncio.run cancels what is still under way; the next run is not disturbed by its reply."""
    client = connect(proxy)
    for after in (None, 3):
        fault = proxy.on("GET", stall() if after is None else split(after), key=b"k")

        async def main(fault=fault):
            await client.set("k", "v")
            task = asyncio.create_task(client.get("k"))
            await until(fault.reached.is_set)
            return task

        task = run(main, kind)
        assert task.cancelled()
        fault.release()
        run(lambda: check_in_step(client), kind)
    run(client.aclose)


def unfinished(loop, client, proxy, count=20):
    """Starts commands in a loop that will not be around for their replies; the tasks."""
    fault = proxy.on("GET", stall(), times=None)
    tasks = []

    async def begin():
        await client.set("k", "v")
        tasks.extend(asyncio.ensure_future(client.get("k")) for _ in range(count))
        await until(fault.reached.is_set)

    loop.run_until_complete(begin())
    assert not any(task.done() for task in tasks)
    return tasks


def quietly_close(loop):
    """Close a loop with tasks in it, and forget them: what is said about that is not the point."""
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()


@pytest.mark.parametrize("before", [True, False], ids=["replies-after", "replies-before"])
def test_loop_closed_with_commands_in_flight(proxy, connect, kind, before):
    client = connect(proxy)
    factory = pytest.importorskip("uvloop").new_event_loop if kind == "uvloop" else (
        asyncio.new_event_loop
    )  # fmt: skip
    for _ in range(3):
        loop = factory()
        tasks = unfinished(loop, client, proxy)
        if not before:
            # the replies are there and wait for a loop that never runs again
            proxy.clear()
            wait_until(lambda: False, 0.2)
        quietly_close(loop)
        proxy.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for task in tasks:
                task._log_destroy_pending = False
            del task, tasks, loop
            gc.collect()
        run(lambda: check_in_step(client), kind)
    run(client.aclose)


def test_loop_closed_in_one_thread_while_another_works(proxy, connect):
    client = connect(proxy)
    stop = threading.Event()

    def steady():
        async def main():
            while not stop.is_set():
                await exercise(client, "steady", 1)

        run(main)

    def careless():
        try:
            for _ in range(20):
                loop = asyncio.new_event_loop()
                tasks = []

                async def begin(tasks=tasks):
                    tasks += [asyncio.ensure_future(client.get("steady:0:1")) for _ in range(20)]
                    await asyncio.sleep(0)

                loop.run_until_complete(begin())
                quietly_close(loop)
                for task in tasks:
                    task._log_destroy_pending = False
                del tasks, task, loop
                gc.collect()
        finally:
            stop.set()

    in_threads(steady, careless)
    run(client.aclose)


def test_loop_stopped_and_resumed(proxy, connect, kind):
    """Replies that come while the loop does not run are there when it runs again."""
    client = connect(proxy)
    factory = pytest.importorskip("uvloop").new_event_loop if kind == "uvloop" else (
        asyncio.new_event_loop
    )  # fmt: skip
    loop = factory()
    tasks = unfinished(loop, client, proxy)
    proxy.clear()
    wait_until(lambda: False, 0.2)
    assert loop.run_until_complete(asyncio.gather(*tasks)) == [b"v"] * len(tasks)
    loop.run_until_complete(client.aclose())
    loop.close()


def test_awaited_in_another_loop_than_it_was_made_in(server, connect):
    """A command belongs to the loop that awaits it, like a coroutine."""
    client = connect(server)

    async def make():
        return client.set("k", "v")

    async def wait(command):
        return await command

    command = run(make)
    assert run(lambda: wait(command)) is True
    run(client.aclose)


def test_made_without_a_loop(server, connect):
    """Neither a client nor a command needs a running loop to be made."""
    client = connect(server)
    command = client.set("k", "v")
    assert run(lambda: command_of(command)) is True
    run(client.aclose)


async def command_of(command):
    return await command


def test_awaited_outside_any_loop(server, connect):
    """Driven by hand, without a running loop: an error, no crash, nothing sent."""
    client = connect(server)
    command = client.set("k", "v")
    with pytest.raises(RuntimeError):
        command.send(None)
    assert server.command("EXISTS", "k") == b":0\r\n"
    run(client.aclose)


def test_client_shared_by_threads_that_cancel(server, connect, kind):
    client = connect(server)

    async def canceller():
        for n in range(100):
            tasks = [asyncio.ensure_future(client.get("steady")) for _ in range(20)]
            for _ in range(n % 4):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result == value_of("steady") or isinstance(result, asyncio.CancelledError)

    async def fill():
        await client.set("steady", value_of("steady"))

    run(fill, kind)
    in_threads(
        lambda: run(canceller, kind),
        lambda: run(canceller, kind),
        lambda: run(lambda: exercise(client, "beside", 30), kind),
    )
    run(client.aclose)


def test_closed_by_another_thread(server, connect, kind):
    """aclose in one thread while another works: its commands fail or succeed, none hangs."""
    from redis.exceptions import ConnectionError as Lost

    client = connect(server)
    stop = threading.Event()
    seen = {"done": 0}

    def worker():
        async def main():
            while not stop.is_set():
                keys = [f"c{i}" for i in range(30)]
                await asyncio.gather(
                    *(client.set(key, value_of(key)) for key in keys), return_exceptions=True
                )
                replies = await asyncio.gather(
                    *(client.get(key) for key in keys), return_exceptions=True
                )
                for key, reply in zip(keys, replies, strict=True):
                    assert reply in (None, value_of(key)) or isinstance(reply, Lost)
                    seen["done"] += reply == value_of(key)

        run(main, kind)

    def closer():
        try:
            for _ in range(20):
                wait_until(lambda: False, 0.02)
                run(client.aclose, kind)
        finally:
            stop.set()

    in_threads(worker, closer)
    assert seen["done"] > 0
    run(client.aclose)


def test_lone_commands_give_others_their_turn(server, connect, kind):
    """However fast the replies are, each await is a turn of the loop."""

    async def main():
        turns = 0
        over = False

        async def other():
            nonlocal turns
            while not over:
                turns += 1
                await asyncio.sleep(0)

        async with connect(server) as client:
            await express(client)
            beside = asyncio.create_task(other())
            await asyncio.sleep(0)
            before = turns
            for n in range(500):
                assert await client.incr("n") == n + 1
            assert turns - before >= 499
            over = True
            await beside

    run(main, kind)


def test_many_replies_at_once_give_others_their_turn(server, connect, kind):
    """What has come at the same moment is handed out in pieces, in order, if it takes long."""

    async def main():
        turns = 0
        seen = []
        over = False

        async def other():
            nonlocal turns
            while not over:
                turns += 1
                await asyncio.sleep(0)

        async def ask(client, n):
            assert await client.echo(f"{n}") == b"%d" % n
            time.sleep(0.001)  # what becomes of it takes a while
            seen.append((n, turns))

        async with connect(server) as client:
            await asyncio.gather(*(client.ping() for _ in range(2)))
            asked = [asyncio.create_task(ask(client, n)) for n in range(40)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # they are on their way
            time.sleep(0.1)
            beside = asyncio.create_task(other())
            await asyncio.gather(*asked)
            over = True
            await beside
        assert [n for n, _ in seen] == list(range(40))
        assert len({turn for _, turn in seen}) > 20

    run(main, kind)


@pytest.mark.parametrize("seconds", [0, 0.0002, 0.003])
def test_lone_commands_to_a_server_further_away(proxy, connect, kind, seconds):
    """Replies that come sooner or later than the client looks for them without sleeping."""

    async def main():
        async with connect(proxy, socket_timeout=20) as client:
            await express(client)
            proxy.on("INCR", delay(seconds), times=200)
            for n in range(200):
                assert await client.incr("n") == n + 1

    run(main, kind)
