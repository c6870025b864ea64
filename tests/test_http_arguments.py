"""What is handed in: refused where it is wrong, with a word that helps and without its content."""

import asyncio
import gc
import sys
import threading
import time
import warnings

import pytest
from faultkit import run
from httpkit import HttpServer, echo, head, raw

from arshai_native import _core
from arshai_native._core import HttpClient, HttpError, HttpHeaders

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")


@pytest.fixture
def server():
    """A server that nothing may get to, or all that does is looked at."""
    with HttpServer() as server:
        yield server


SECRET = "s3cret-value"
EVIL_VALUES = [f"{SECRET}\r\nX-Evil: 1", f"{SECRET}\n", f"\r{SECRET}", f"a\0{SECRET}"]
EVIL_NAMES = [
    "X-Evil: a", "X Evil", "", "X-Evil\r\n", "X-Evil\n", "X\0Evil", "X-\u00e9", ":path", "X\tY",
]  # fmt: skip


@pytest.mark.parametrize("value", EVIL_VALUES)
def test_values_with_line_ends(http, fetch, server, value):
    """The name is told, the value, which may be a key, is not."""
    for make in (HttpHeaders, lambda headers: fetch(http(), "GET", server.url, headers)):
        with pytest.raises(ValueError, match="X-Name") as caught:
            make([("X-Fine", "1"), ("X-Name", value)])
        assert SECRET not in str(caught.value) + repr(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_names_that_are_none(http, fetch, server, name):
    for make in (HttpHeaders, lambda headers: fetch(http(), "GET", server.url, headers)):
        with pytest.raises(ValueError) as caught:
            make([(name, SECRET)])
        assert SECRET not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        None,
        1,
        "text",
        [("X-A",)],
        [("X-A", "1", "2")],
        ["X-A: 1"],
        [("X-A", None)],
        [("X-A", 1)],
        [(1, "x")],
        [None],
        [[["X-A"], "1"]],
    ],
    ids=repr,
)
def test_headers_that_are_none(http, fetch, server, headers):
    for make in (HttpHeaders, lambda given: fetch(http(), "GET", server.url, given)):
        with pytest.raises((TypeError, ValueError)):
            make(headers)
    assert server.requests == []


def test_values_outside_latin_1(http, fetch, server):
    """Either way but silently wrong."""
    try:
        fetch(http(), "GET", server.url, [("X-A", "\u20ac")])
    except (ValueError, TypeError):
        assert server.requests == []
    else:
        assert server.requests[0].get("x-a").encode("latin-1") == "\u20ac".encode()


def test_a_headers_sequence_that_misbehaves(http, fetch, server):
    class Evil(list):
        def __len__(self):
            return 1 << 40

    class Raises:
        def __len__(self):
            return 2

        def __getitem__(self, i):
            raise KeyError(i)

    class Grows(list):
        def __iter__(self):
            yield ("X-A", "1")
            self.append(("X-B", "2"))
            yield from list.__iter__(self)

    for headers in (Evil([("X-A", "1")]), Raises(), Grows()):
        try:
            response = fetch(http(), "GET", server.url, headers)
            assert response.status == 200
        except (TypeError, ValueError, KeyError, MemoryError, OverflowError):
            pass


def test_headers_of_text_subclasses(http, fetch, server):
    class Text(str):
        pass

    fetch(http(), "GET", server.url, [(Text("X-A"), Text("1"))])
    assert server.requests[0].get("x-a") == "1"


@pytest.mark.parametrize("method", ["", "GE T", "GET\r\nX-Evil: 1", "G\0T", "M\u00e9"])
def test_methods_that_are_none(http, fetch, server, method):
    with pytest.raises(ValueError):
        fetch(http(), method, server.url)
    assert server.requests == []


@pytest.mark.parametrize("args", [(), ("GET",), (None, "http://x/"), ("GET", None), (1, 2)])
def test_missing_and_wrong_arguments(http, fetch, args):
    with pytest.raises(TypeError):
        fetch(http(), *args)


@pytest.mark.parametrize("body", [1, 1.5, ["x"], {"a": 1}, object(), iter([])], ids=repr)
def test_bodies_that_are_none(http, fetch, server, body):
    with pytest.raises(TypeError):
        fetch(http(), "POST", server.url, body=body)
    assert server.requests == []


@pytest.mark.parametrize("name", ["timeout", "retries", "json", "data", "Mode"])
def test_unknown_options(http, fetch, server, name):
    with pytest.raises(TypeError, match=name):
        fetch(http(), "GET", server.url, **{name: 1})
    assert server.requests == []


@pytest.mark.parametrize("mode", [-1, 5, 1 << 40, "json", None, 1.5])
def test_modes_that_are_none(http, fetch, server, mode):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        fetch(http(), "GET", server.url, mode=mode)
    assert server.requests == []


@pytest.mark.parametrize("value", [-1, "2", None, 1.5, 1 << 80])
def test_max_retries_that_are_none(http, fetch, server, value):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        fetch(http(), "GET", server.url, max_retries=value)
    assert server.requests == []


def test_max_retries_without_end(http, fetch, server):
    assert fetch(http(), "GET", server.url, max_retries=(1 << 31) - 1).status == 200


@pytest.mark.parametrize("value", ["X-Evil\r\n", "a b", "", 1, b"a b"])
def test_retry_count_headers_that_are_none(http, fetch, server, value):
    with pytest.raises((TypeError, ValueError)):
        fetch(http(), "GET", server.url, max_retries=1, retry_count_header=value)
    assert server.requests == []


@pytest.mark.parametrize("value", [-1.0, float("nan"), "1"])
def test_max_retry_after_that_is_none(http, fetch, server, value):
    with pytest.raises((TypeError, ValueError)):
        fetch(http(), "GET", server.url, max_retry_after=value)
    assert server.requests == []


@pytest.mark.parametrize("mode", [_core.HTTP_STREAM, _core.HTTP_EVENTS])
def test_no_streams_without_a_loop(http, server, mode):
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        http().request_sync("GET", server.url, mode=mode)
    assert server.requests == []


@pytest.mark.parametrize(
    "options",
    [
        {"max_connections": 0},
        {"max_connections": -1},
        {"max_connections": "1"},
        {"max_connections": 1 << 80},
        {"max_keepalive": -1},
        {"keepalive_expiry": -1.0},
        {"keepalive_expiry": float("nan")},
        {"keepalive_expiry": "1"},
        {"verify": 1.5},
        {"verify": "a\0b"},
        {"cert": 1},
        {"cert": ("a",)},
        {"cert": ("a", "b", "c", "d")},
        {"cert": (None, None, None)},
        {"proxy": 1},
        {"proxy": "http://a\0b"},
        {"unix_socket": 1},
        {"unix_socket": "a\0b"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_options_of_a_client_that_are_none(options):
    with pytest.raises((TypeError, ValueError, OverflowError, OSError)):
        HttpClient(**options)


def test_a_client_takes_no_positional_arguments():
    with pytest.raises(TypeError):
        HttpClient(10)


def test_nothing_secret_in_a_repr(http, certificates, server):
    cert, key = certificates.client("s3cret-pass")
    client = http(cert=(cert, key, "s3cret-pass"), proxy="http://u:s3cret-pass@127.0.0.1:1")
    headers = HttpHeaders([("Authorization", "Bearer s3cret-pass")])
    awaitable = client.request("GET", server.url, headers, b"s3cret-pass")
    for thing in (client, headers, awaitable):
        assert "s3cret-pass" not in repr(thing) + str(thing)
    awaitable.close()


def test_nothing_secret_in_a_response(http, fetch, server):
    headers = [("Authorization", "Bearer s3cret-pass")]
    response = fetch(http(), "GET", server.url, headers, b"s3cret-pass")
    assert "s3cret-pass" not in repr(response)


def test_an_error_is_an_exception_like_others():
    error = HttpError("text")
    assert error.args == ("text",)
    assert issubclass(HttpError, Exception)


def test_references(http, server):
    """What was handed in is let go: headers, body, URL and the response's own."""
    client = http()
    body, url = b"x" * 100_001, server.url + "/some/path"
    pairs = [("X-" + "A" * 10, "v" * 1000)]
    shared = HttpHeaders(pairs)

    async def main():
        for headers in (pairs, shared):
            response = await client.request("POST", url, headers, body)
            assert response.status == 200
            client.request("POST", url, headers, body).close()
            task = asyncio.create_task(client.request("POST", url, headers, body))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(main)
    client.request_sync("GET", server.url)  # drops what the io thread has let go of
    gc.collect()
    watched = (body, url, pairs, shared, pairs[0], pairs[0][1])
    before = [sys.getrefcount(thing) for thing in watched]
    for _ in range(20):
        run(main)
    gc.collect()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        client.request_sync("GET", server.url)
        after = [sys.getrefcount(thing) for thing in watched]
        if all(now <= then for now, then in zip(after, before, strict=True)):
            break
        time.sleep(0.02)
    else:
        pytest.fail(f"{before} references became {after}")


# ---- what request() returns ----


def test_nothing_is_sent_before_the_first_await(http, server):
    client = http()

    async def main():
        request = client.request("GET", server.url)
        await asyncio.sleep(0.1)
        assert server.accepted == 0
        assert (await request).status == 200
        with pytest.raises(RuntimeError):
            await request

    run(main)


def test_never_awaited_warns(http, server):
    client = http()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        request = client.request("GET", server.url)
        del request
        gc.collect()
    assert server.accepted == 0


def test_closed_unawaited_does_not_warn(http, server):
    client = http()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.request("GET", server.url).close()
        gc.collect()
    assert server.accepted == 0


def test_ways_to_await(http, server, kind):
    client = http()

    async def main():
        url = server.url
        a = await client.request("GET", url)
        b = await asyncio.create_task(client.request("GET", url))
        c = await asyncio.wait_for(client.request("GET", url), 20)
        d, e = await asyncio.gather(client.request("GET", url), client.request("GET", url))
        async with asyncio.TaskGroup() as group:
            f = group.create_task(client.request("GET", url))
        g = await asyncio.shield(client.request("GET", url))
        done, _ = await asyncio.wait([asyncio.ensure_future(client.request("GET", url))])
        for response in (a, b, c, d, e, f.result(), g, done.pop().result()):
            assert response.status == 200

    run(main, kind)
    assert asyncio.run(_just(client, server.url)).status == 200


async def _just(client, url):
    return await client.request("GET", url)


def test_sync_inside_a_running_loop(http, server):
    """It blocks the loop, as everything that is synchronous does, and works."""
    client = http()

    async def main():
        task = asyncio.create_task(client.request("GET", server.url + "/task"))
        await asyncio.sleep(0)
        assert client.request_sync("GET", server.url + "/sync").json()["target"] == "/sync"
        assert (await task).json()["target"] == "/task"

    run(main)


def test_sync_lets_other_threads_run(http):
    gate = threading.Event()
    with HttpServer(raw(gate, head(200, [("Content-Length", "0")]))) as server:
        client, done = http(), []
        thread = threading.Thread(
            target=lambda: done.append(client.request_sync("GET", server.url).status)
        )
        thread.start()
        while not server.requests:
            time.sleep(0.01)  # the server's own threads run, so the GIL is free
        assert done == []
        gate.set()
        thread.join(20)
        assert done == [200]


def test_sync_from_several_threads(http):
    with HttpServer(echo) as server:
        client, failed = http(max_connections=4), []

        def work(name):
            try:
                for n in range(25):
                    path = f"/{name}/{n}"
                    body = path.encode() * 10
                    response = client.request_sync("POST", server.url + path, body=body)
                    assert response.json()["target"] == path
                    assert response.json()["body"] == body.decode()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failed == []
        assert server.accepted <= 4
