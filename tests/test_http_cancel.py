"""Cancelling at every stage: nothing is left behind, the slot is free, nobody gets another's."""

import asyncio
import random
import threading
import time

import pytest
from faultkit import run, until
from httpkit import HttpServer, chunked, descriptors, echo, full_backlog, head, raw, reply

from arshai_native import _core
from arshai_native._core import HttpError

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

MB = 1 << 20
OK = head(200, [("Content-Length", "2")]) + b"ok"


async def cancelled(task):
    """Cancel the task and see that this, and nothing else, is how it ends."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def free_slots(client, server):
    """The only slot of the client is free, and its next replies are its own."""
    server.handler = echo
    for n in range(3):
        response = await client.request(
            "POST", f"{server.url}/after/{n}", body=b"after", pool_timeout=10
        )
        assert response.json()["target"] == f"/after/{n}"


@pytest.fixture
def client(http):
    """One connection: whatever keeps it is noticed."""
    return http(max_connections=1)


def test_before_the_first_await(client, kind):
    with HttpServer() as server:

        async def main():
            task = asyncio.create_task(client.request("GET", server.url))
            await cancelled(task)
            await asyncio.sleep(0.05)
            assert server.accepted == 0
            await free_slots(client, server)

        run(main, kind)


@pytest.mark.parametrize("after", [0, 0.001, 0.1])
def test_connecting(client, kind, after):
    with full_backlog() as (host, port), HttpServer() as server:

        async def main():
            await free_slots(client, server)
            before = descriptors()
            task = asyncio.create_task(client.request("GET", f"http://{host}:{port}/"))
            await asyncio.sleep(after)
            await cancelled(task)
            await free_slots(client, server)
            assert await until(lambda: descriptors() <= before)

        run(main, kind)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_looking_up_a_name(client, scheme):
    with HttpServer() as server:

        async def main():
            for i in range(20):
                url = f"{scheme}://name{i}.of.nobody.invalid/"
                task = asyncio.create_task(client.request("GET", url))
                await asyncio.sleep(0.001 * (i % 4))
                task.cancel()
                result = (await asyncio.gather(task, return_exceptions=True))[0]
                assert isinstance(result, (asyncio.CancelledError, HttpError))
            await free_slots(client, server)

        run(main)


def test_in_the_handshake(client, kind):
    with HttpServer() as server:

        async def main():
            url = f"https://127.0.0.1:{server.port}/"
            task = asyncio.create_task(client.request("GET", url))
            await until(lambda: server.accepted)
            await asyncio.sleep(0.02)
            await cancelled(task)
            assert await until(lambda: server.open == 0)
            await free_slots(client, server)

        run(main, kind)


def test_sending(client, kind):
    """Half a body is with the server: the connection ends, nothing else gets on it."""
    gate = threading.Event()
    with HttpServer(raw(gate, read=False)) as server:

        async def main():
            body = bytes(50 * MB)
            task = asyncio.create_task(client.request("POST", server.url, body=body))
            await until(lambda: server.requests)
            await asyncio.sleep(0.05)
            await cancelled(task)
            gate.set()
            await free_slots(client, server)
            assert server.accepted == 2
            assert not server.requests[0].complete

        run(main, kind)


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\nX-A:", OK[:-2], OK[:-1]])
def test_waiting_and_receiving(client, kind, before):
    gate = threading.Event()
    with HttpServer(raw(before, gate, OK[len(before) :])) as server:

        async def main():
            task = asyncio.create_task(client.request("GET", server.url))
            await until(lambda: server.requests)
            await asyncio.sleep(0.02)
            await cancelled(task)
            # the rest of the reply is nobody's
            assert await until(lambda: server.open == 0)
            gate.set()
            await free_slots(client, server)
            assert server.accepted == 2

        run(main, kind)


def test_receiving_a_large_body(client):
    with HttpServer(reply(200, bytes(50 * MB)), send_buffer=64 << 10) as server:

        async def main():
            for _ in range(5):
                server.handler = reply(200, bytes(50 * MB))
                task = asyncio.create_task(client.request("GET", server.url))
                seen = len(server.requests)
                await until(lambda seen=seen: len(server.requests) > seen)
                await asyncio.sleep(random.random() * 0.02)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await free_slots(client, server)

        run(main)


def test_waiting_to_try_again(client, kind):
    with HttpServer(reply(500, b"", [("Retry-After", "30")])) as server:

        async def main():
            task = asyncio.create_task(client.request("GET", server.url, max_retries=3))
            await until(lambda: server.requests)
            await asyncio.sleep(0.05)
            start = time.monotonic()
            await cancelled(task)
            assert time.monotonic() - start < 5
            await free_slots(client, server)
            assert server.count("/") == 1

        run(main, kind)


def test_waiting_in_the_pool(client, kind):
    """Cancelled in the queue; those behind get their turn."""
    gate = threading.Event()
    with HttpServer(raw(gate, OK)) as server:

        async def main():
            first = asyncio.create_task(client.request("GET", server.url + "/first"))
            await until(lambda: server.requests)
            waiting = [
                asyncio.create_task(client.request("GET", f"{server.url}/{i}")) for i in range(6)
            ]
            await asyncio.sleep(0.05)
            for task in waiting[::2]:
                await cancelled(task)
            gate.set()
            for response in await asyncio.gather(first, *waiting[1::2]):
                assert response.body == b"ok"
            assert [r.target for r in server.requests] == ["/first", "/1", "/3", "/5"]
            await free_slots(client, server)

        run(main, kind)


def test_the_first_of_the_pool(client, kind):
    """The one with the connection is cancelled: the next in the queue gets one."""
    gate = threading.Event()
    with HttpServer([raw(gate, OK), echo]) as server:

        async def main():
            first = asyncio.create_task(client.request("GET", server.url))
            await until(lambda: server.requests)
            second = asyncio.create_task(client.request("GET", server.url + "/second"))
            await asyncio.sleep(0.05)
            await cancelled(first)
            assert (await asyncio.wait_for(second, 10)).json()["target"] == "/second"
            gate.set()

        run(main, kind)


@pytest.mark.parametrize("mode", [_core.HTTP_STREAM, _core.HTTP_EVENTS])
def test_opening_a_stream(client, kind, mode):
    gate = threading.Event()
    with HttpServer(chunked(gate, b"data: x\n\n")) as server:

        async def main():
            # waiting for a head that does not come, or with one that just came
            for after in (0.02, 0.0, 0.001, 0.002, 0.003):
                task = asyncio.create_task(client.request("GET", server.url, mode=mode))
                await asyncio.sleep(after)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                del task
            gate.set()
            await free_slots(client, server)

        run(main, kind)


def test_after_the_reply(client):
    with HttpServer() as server:

        async def main():
            task = asyncio.create_task(client.request("GET", server.url))
            await task
            assert not task.cancel()
            await free_slots(client, server)
            assert server.accepted == 1

        run(main)


def test_wait_for_and_timeout(client, kind):
    gate = threading.Event()
    with HttpServer(raw(gate, OK)) as server:

        async def main():
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.request("GET", server.url), 0.1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.request("GET", server.url)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.request("GET", server.url), 0)
            gate.set()
            await free_slots(client, server)

        run(main, kind)


def test_a_task_group(http, kind):
    gate = threading.Event()

    def handler(x):
        if x.request.target == "/slow":
            x.pause(gate)
        echo(x)

    with HttpServer(handler) as server:
        client = http()

        async def main():
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    slow = group.create_task(client.request("GET", server.url + "/slow"))
                    await until(lambda: server.requests)
                    group.create_task(client.request("GET", "http://nobody.invalid/"))
            assert slow.cancelled()
            assert [e.kind for e in caught.value.exceptions] == ["dns"]
            gate.set()

        run(main, kind)


def test_a_cancellation_that_is_swallowed(client):
    gate = threading.Event()
    with HttpServer([raw(gate), echo]) as server:

        async def main():
            async def stubborn():
                try:
                    await client.request("GET", server.url)
                except asyncio.CancelledError:
                    gate.set()
                return await client.request("GET", server.url + "/second")

            task = asyncio.create_task(stubborn())
            await until(lambda: server.requests)
            task.cancel()
            assert (await task).json()["target"] == "/second"

        run(main)


def test_at_random(http, kind):
    """Hundreds of requests, each cancelled at some moment or not at all."""
    chance = random.Random(2)

    def handler(x):
        body = x.read_body()
        if len(x.server.requests) % 3 == 0:
            x.pause(0.003)
        x.send(head(200, [("Content-Length", str(len(body)))]) + body)

    with HttpServer(handler) as server:
        client = http(max_connections=10)

        async def main():
            before = None
            for _ in range(4):
                bodies = [b"%d " % i * (1 + i % 3000) for i in range(150)]
                tasks = [
                    asyncio.create_task(client.request("POST", server.url, body=body))
                    for body in bodies
                ]
                victims = [task for task in tasks if chance.random() < 0.5]
                for task in victims:
                    await asyncio.sleep(chance.random() * 0.004)
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                for task, body, result in zip(tasks, bodies, results, strict=True):
                    if isinstance(result, asyncio.CancelledError):
                        assert task in victims
                    else:
                        assert result.body == body
                before = before or descriptors()
            # a full load still finds all slots
            responses = await asyncio.gather(
                *(client.request("POST", server.url, body=b"%d" % i) for i in range(50))
            )
            assert [r.body for r in responses] == [b"%d" % i for i in range(50)]
            assert await until(lambda: descriptors() <= before + 12)

        run(main, kind)
