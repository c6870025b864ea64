"""The native OpenAI client itself: who may have it, where it runs, how it ends."""

import asyncio
import functools
import gc
import inspect
import json
import os
import subprocess
import sys
import textwrap
import threading
import unittest.mock
import weakref

import openai
import openai._base_client
import pytest
from openai_fixtures import clean_environment, module_server, server  # noqa: F401
from openai_kit import (
    COMPLETION,
    HELLO,
    KEY,
    assert_same_outcome,
    assert_same_requests,
    both,
    embeddings,
    goes_natively,
    ours,
    run,
)
from openai_server import Reply, document
from test_openai_requests import NATIVE, REPLIES

import arshai_native.openai as native
from arshai_native import _core
from arshai_native.openai import NativeHttpClient, _calls
from arshai_native.openai._sdk import MAJOR, base, httpx

# ---- the surface ----


def test_everything_of_the_sdk_is_there():
    for name in [*openai.__all__, "AsyncAzureOpenAI", "AzureOpenAI", "pydantic_function_tool"]:
        assert hasattr(native, name), name
        if name not in ("AsyncOpenAI", "AsyncClient", "AsyncAzureOpenAI"):
            assert getattr(native, name) is getattr(openai, name), name
    assert set(openai.__all__) <= set(native.__all__) and set(dir(openai)) <= set(dir(native))
    with pytest.raises(AttributeError):
        _ = native.no_such_name


def test_classes():
    client = native.AsyncOpenAI(api_key="x")
    assert isinstance(client, openai.AsyncOpenAI)
    assert issubclass(native.AsyncAzureOpenAI, openai.AsyncAzureOpenAI)
    assert issubclass(native.AsyncAzureOpenAI, native.AsyncOpenAI)
    assert native.AsyncClient is native.AsyncOpenAI
    assert client.user_agent == openai.AsyncOpenAI(api_key="x").user_agent
    assert isinstance(client._client, base._DefaultAsyncHttpxClient)
    for path in NATIVE:
        ours_, theirs_ = (
            functools.reduce(getattr, path[:-1], each)
            for each in (client, openai.AsyncOpenAI(api_key="x"))
        )
        assert isinstance(ours_, type(theirs_)) and type(ours_).__name__ == type(theirs_).__name__


@pytest.mark.parametrize("path", NATIVE, ids=".".join)
def test_methods_look_like_the_sdks(path):
    ours_, theirs_ = (
        functools.reduce(getattr, path, make(api_key="x"))
        for make in (native.AsyncOpenAI, openai.AsyncOpenAI)
    )
    assert inspect.signature(ours_) == inspect.signature(theirs_)
    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        assert getattr(ours_, name) == getattr(theirs_, name)
    assert inspect.ismethod(ours_)
    assert ours_.__wrapped__ is inspect.unwrap(theirs_.__func__, stop=lambda f: True)
    assert asyncio.iscoroutinefunction(ours_) == asyncio.iscoroutinefunction(theirs_)
    if sys.version_info >= (3, 12):
        assert inspect.iscoroutinefunction(ours_) == inspect.iscoroutinefunction(theirs_)
    cls = type(ours_.__self__)
    assert inspect.signature(getattr(cls, path[-1])) == inspect.signature(theirs_.__func__)


def test_signatures_of_the_clients():
    for name in ("AsyncOpenAI", "AsyncAzureOpenAI"):
        assert inspect.signature(getattr(native, name)) == inspect.signature(getattr(openai, name))


def test_missing_key():
    with pytest.raises(openai.OpenAIError) as theirs:
        openai.AsyncOpenAI()
    with pytest.raises(openai.OpenAIError) as raised:
        native.AsyncOpenAI()
    assert str(raised.value) == str(theirs.value)
    with pytest.raises(TypeError):
        native.AsyncOpenAI(api_key="x", no_such=1)
    with pytest.raises(TypeError, match="http_client"):
        native.AsyncOpenAI(api_key="x", timeout=1, http_client=object())


def test_environment(monkeypatch, server):
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    server.default = document(COMPLETION)

    async def main():
        async with native.AsyncOpenAI() as client:
            await client.chat.completions.create(**HELLO)

    run(main)
    request = server.take()
    assert request.header("authorization") == "Bearer from the environment"
    assert request.header("openai-organization") == "org"


def test_importing_the_package_imports_no_openai():
    code = """
        import sys
        import arshai_native
        assert not {"openai", "pydantic", "httpx"} & set(sys.modules)
        from arshai_native import openai
        assert openai.__name__ == "arshai_native.openai" and "openai" in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60, cwd="/")


def test_a_client_is_light():
    """No TLS context and nothing else of weight is made for a client that sends nothing."""
    before = len(os.listdir("/proc/self/fd"))
    with unittest.mock.patch("ssl.create_default_context", side_effect=AssertionError):
        clients = [native.AsyncOpenAI(api_key="x") for _ in range(100)]
    assert len(os.listdir("/proc/self/fd")) == before
    seen = [weakref.ref(client) for client in clients]
    del clients
    gc.collect()
    assert not any(reference() for reference in seen)


# ---- when the SDK has to make the request ----


def chat_is(server, client, expected):
    assert goes_natively(client) is expected

    async def main():
        result = await client.chat.completions.create(**HELLO)
        await client.close()
        return result

    server.default = document(COMPLETION)
    assert run(main).id == COMPLETION["id"]
    return server.take()


def test_plain_clients_are_native(server):
    chat_is(server, ours(server), True)
    chat_is(server, ours(server).with_options(timeout=5), True)
    chat_is(server, ours(server, default_headers={"a": "b"}, max_retries=0), True)


def test_http_client_of_the_user(server):
    """It sends everything, as it is."""
    seen = []

    async def note(request):
        seen.append(request)

    http = httpx.AsyncClient(event_hooks={"request": [note]})
    client = ours(server, http_client=http)
    assert client._client is http
    chat_is(server, client, False)
    assert len(seen) == 1


def test_event_hooks(server):
    client = ours(server)
    seen = []

    async def note(request):
        seen.append(request)

    client._client.event_hooks = {"request": [note]}
    chat_is(server, client, False)
    assert len(seen) == 1


def derived(**members):
    return type("Derived", (native.AsyncOpenAI,), members)


async def prepare_request(self, request):
    request.headers["X-Added"] = "1"


async def prepare_options(self, options):
    options.headers = {"X-Added": "1"}
    return options


HOOKED = {
    "prepare request": {"_prepare_request": prepare_request},
    "prepare options": {"_prepare_options": prepare_options},
    "headers": {
        "default_headers": property(
            lambda self: {**openai.AsyncOpenAI.default_headers.fget(self), "X-Added": "1"}
        )
    },
    "query": {"default_query": property(lambda self: {"added": "1"})},
}


@pytest.mark.parametrize("members", HOOKED.values(), ids=HOOKED)
def test_subclass_with_a_hook(server, members):
    client = derived(**members)(api_key=KEY, base_url=server.url)
    request = chat_is(server, client, False)
    assert request.header("x-added") == "1" or "added=1" in request.target


def test_subclass_without_hooks(server):
    request = chat_is(server, derived(extra=1)(api_key=KEY, base_url=server.url), True)
    assert request.header("user-agent").startswith("Derived/Python")


def test_patched_instance(server):
    client = ours(server)
    assert goes_natively(client)
    with unittest.mock.patch.object(client, "post") as post:
        fresh = type(client.embeddings)(client)
        assert not isinstance(fresh.create(input="x", model="e"), _core.Request)
        post.assert_not_called()  # nothing was awaited
        assert not goes_natively(client)
    assert goes_natively(client)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (openai.AsyncOpenAI, "_prepare_options"),
        (openai._base_client.AsyncAPIClient, "request"),
        (openai._base_client.BaseClient, "_build_headers"),
        (native.AsyncOpenAI, "_make_status_error"),
        (httpx.AsyncClient, "send"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_patched_class(server, owner, name):
    """Instrumentation that puts its own function into the SDK sees every call."""
    original = getattr(owner, name)
    seen = []

    @functools.wraps(original)
    def patched(*args, **options):
        seen.append(args)
        return original(*args, **options)

    client = ours(server)
    assert goes_natively(client)
    with unittest.mock.patch.object(owner, name, patched):
        assert not goes_natively(client)
        chat_is(server, ours(server), False)
        assert seen or name == "_make_status_error"
    assert goes_natively(client)


def test_patched_method(server):
    """As OpenTelemetry does it: the SDK's resource is patched, and ours is asked."""
    from openai.resources.chat.completions import AsyncCompletions

    original = AsyncCompletions.create
    seen = []

    async def patched(self, *args, **options):
        seen.append(options)
        return await original(self, *args, **options)

    client = ours(server)
    assert goes_natively(client)
    with unittest.mock.patch.object(AsyncCompletions, "create", patched):
        chat_is(server, client, False)
    assert len(seen) == 1 and seen[0]["model"] == "m"
    assert goes_natively(ours(server))


def test_overridden_method(server):
    from arshai_native.openai import _resources

    class Mine(_resources.embeddings()):
        async def create(self, **arguments):
            result = await super().create(**arguments)
            return "mine", result

    async def main():
        async with ours(server) as client:
            return await Mine(client).create(input="x", model="e")

    server.default = document(embeddings([1.0], as_base64=True))
    mine, result = run(main)
    assert mine == "mine" and result.data[0].embedding == [1.0]


def test_api_key_function(server):
    keys = iter(["one", "two"])

    async def provide():
        return next(keys)

    client = ours(server, api_key=provide)
    assert not goes_natively(client)
    server.default = document(COMPLETION)

    async def main():
        async with client:
            for _ in range(2):
                await client.chat.completions.create(**HELLO)

    run(main)
    assert [request.header("authorization") for request in server.requests] == [
        "Bearer one",
        "Bearer two",
    ]


# ---- a client that changes ----


def test_attributes_that_are_set_take_effect(server):
    server.default = document(COMPLETION)
    changes = {
        "api_key": "other", "organization": "org", "project": "proj", "timeout": 33.0,
        "_custom_headers": {"X-A": "1"}, "_custom_query": {"q": "1"}, "max_retries": 5,
    }  # fmt: skip

    async def call(client):
        for name, value in changes.items():
            await client.chat.completions.create(**HELLO)
            setattr(client, name, value)
        client.base_url = str(client.base_url) + "deeper"
        await client.chat.completions.create(**HELLO)
        assert goes_natively(client) is type(client).__module__.startswith("arshai_native")

    results = both(server, call)
    assert_same_requests(results)
    assert "Bearer other" in str(results[1][1][-1]) and results[1][1][-1].target.endswith("q=1")
    assert "deeper" in results[1][1][-1].target


def test_mappings_that_change_in_place(server):
    server.default = document(COMPLETION)

    async def call(client):
        headers, query = {}, {}
        client = client.with_options(set_default_headers=headers, set_default_query=query)
        for number in range(3):
            await client.chat.completions.create(**HELLO)
            client._custom_headers["X-N"] = str(number)
            client._custom_query["n"] = str(number)

    results = both(server, call)
    assert_same_requests(results)
    assert results[1][1][2].header("x-n") == "1" and results[1][1][2].target.endswith("?n=1")


def test_many_kinds_of_calls(server):
    """More different headers and timeouts than are remembered."""
    server.default = document(COMPLETION)

    async def call(client):
        for number in range(150):
            await client.chat.completions.create(
                **HELLO, extra_headers={"X-N": str(number)}, timeout=100 + number
            )

    results = both(server, call)
    assert_same_requests(results)
    assert len(results[1][1]) == 150


def test_copies_share_the_connections(server):
    server.default = document(COMPLETION)

    async def main():
        async with ours(server) as client:
            copy = client.with_options(timeout=7, api_key="other")
            assert copy._client is client._client
            await client.chat.completions.create(**HELLO)
            await copy.chat.completions.create(**HELLO)
            assert copy.timeout == 7

    run(main)
    first, second = server.requests
    assert first.connection == second.connection
    assert second.header("authorization") == "Bearer other"
    assert second.header("x-stainless-read-timeout") == "7"


# ---- the end ----


def test_close(server):
    server.default = document(COMPLETION)

    async def call(client):
        assert not client.is_closed()
        await client.chat.completions.create(**HELLO)
        await client.close()
        await client.close()
        assert client.is_closed()
        with pytest.raises((openai.APIConnectionError, RuntimeError)) as raised:
            await client.chat.completions.create(**HELLO)
        return f"{type(raised.value)} {raised.value} {raised.value.__cause__}"

    assert_same_outcome(both(server, call, max_retries=0))


def test_close_ends_what_is_under_way(server):
    server.default = Reply(b"{}", delay=10)

    async def main():
        client = ours(server, max_retries=0)
        task = asyncio.create_task(client.chat.completions.create(**HELLO))
        other = asyncio.create_task(client.models.list()._get_page())
        while len(server.requests) < 2:
            await asyncio.sleep(0.01)
        await client.close()
        for each in (task, other):
            with pytest.raises(openai.APIConnectionError):
                await each

    run(main)


def test_dropped_client_keeps_its_requests(server):
    server.default = Reply(json.dumps(COMPLETION).encode(), delay=0.2)

    async def main():
        task = asyncio.create_task(ours(server).chat.completions.create(**HELLO))
        await asyncio.sleep(0.05)
        gc.collect()
        assert (await task).id == COMPLETION["id"]

    run(main)


# ---- cancelling ----


def test_cancelled(server):
    server.default = Reply(b"{}", delay=10)

    async def main():
        async with ours(server) as client:
            task = asyncio.create_task(client.chat.completions.create(**HELLO))
            while not server.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.closed_early.wait, 5)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.embeddings.create(input="x", model="e"), 0.05)
            # Over the transport, too.
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.models.retrieve("m"), 0.05)
            server.default = document(COMPLETION)
            assert (await client.chat.completions.create(**HELLO)).id

    run(main)


def test_nothing_is_sent_before_the_first_await(server):
    async def main():
        async with ours(server) as client:
            request = client.chat.completions.create(**HELLO)
            await asyncio.sleep(0.05)
            assert server.requests == []
            server.default = document(COMPLETION)
            await request
            with pytest.raises(RuntimeError, match="already awaited"):
                await request

    run(main)
    assert len(server.requests) == 1


def test_never_awaited_warns(server):
    client = ours(server)
    with pytest.warns(RuntimeWarning, match="never awaited"):
        client.chat.completions.create(**HELLO)
        gc.collect()


def test_made_outside_of_the_loop(server):
    """The argument of asyncio.run() is made before there is a loop."""
    server.default = document(COMPLETION)
    client = ours(server)
    assert isinstance(request := client.chat.completions.create(**HELLO), _core.Request)

    async def main():
        return await request

    assert asyncio.run(main()).id
    assert server.take().header("x-stainless-async") == "async:asyncio"


# ---- loops and threads ----


def test_one_client_many_loops(server):
    server.default = document(COMPLETION)
    client = ours(server)

    async def main():
        return await asyncio.gather(
            client.chat.completions.create(**HELLO), client.models.retrieve("m")
        )

    for _ in range(5):
        assert run(main)[0].id == COMPLETION["id"]
    assert len(server.requests) == 10
    assert len({request.connection for request in server.requests}) <= 2


def test_one_client_many_threads(server):
    server.default = document(COMPLETION)
    client = ours(server)
    errors = []

    async def main():
        for _ in range(20):
            await client.chat.completions.create(**HELLO)

    def work():
        try:
            run(main)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(server.requests) == 160


def test_a_thousand_tasks(server):
    def answer(request):
        return document({**COMPLETION, "id": request.json["user"]})

    server.default = answer

    async def main():
        async with ours(server) as client:

            async def one(number):
                result = await client.chat.completions.create(**HELLO, user=str(number))
                assert result.id == str(number)

            await asyncio.gather(*map(one, range(1000)))

    run(main, timeout=60)
    assert len(server.requests) == 1000


def test_forked_child(server):
    server.default = document(COMPLETION)
    client = ours(server)

    async def main():
        return await client.chat.completions.create(**HELLO)

    assert run(main).id
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if run(main, 10).id == COMPLETION["id"] else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run(main).id
    assert len(server.requests) == 3


# ---- Azure ----


def azure(cls, server, **options):
    return cls(**{
        "api_key": KEY, "api_version": "2024-10-21",
        "azure_endpoint": server.url.removesuffix("/v1"), **options,
    })  # fmt: skip


AZURE = [
    functools.partial(lambda cls, server, **o: azure(cls, server, **o), cls)
    for cls in (openai.AsyncAzureOpenAI, native.AsyncAzureOpenAI)
]


@pytest.mark.parametrize(
    "options",
    [{}, {"azure_deployment": "dep"}, {"azure_ad_token": "token", "api_key": None}],
    ids=["endpoint", "deployment", "token"],
)
def test_azure(server, options):
    async def call(client):
        found = []
        for path, arguments in NATIVE.items():
            if path[0] == "responses" and MAJOR < 2:
                continue
            server.default = REPLIES[path[0]]
            for model in ("gpt 4/o", "other", "gpt 4/o"):
                method = functools.reduce(getattr, path, client)
                awaitable = method(**{**arguments, "model": model})
                if isinstance(client, native.AsyncOpenAI):
                    assert isinstance(awaitable, _core.Request), path
                found.append(type(await awaitable))
        await client.models.list()
        return found

    results = both(server, call, make=AZURE, **options)
    assert_same_requests(results)
    assert_same_outcome(results)
    chat = [request.target for request in results[1][1] if "chat" in request.target]
    assert all("api-version=2024-10-21" in target for target in chat)
    assert len(set(chat)) == (1 if "azure_deployment" in options else 2)


def test_azure_token_function(server):
    server.default = document(COMPLETION)

    async def call(client):
        for _ in range(2):
            await client.chat.completions.create(**HELLO)

    for provide in (lambda: "sync", make_token):
        results = both(server, call, make=AZURE, azure_ad_token_provider=provide, api_key=None)
        assert_same_requests(results)
        assert results[1][1][0].header("authorization").startswith("Bearer ")


async def make_token():
    return "async"


def test_azure_with_options(server):
    server.default = document(COMPLETION)

    async def call(client):
        await client.with_options(timeout=5).chat.completions.create(**HELLO)

    assert_same_requests(both(server, call, make=AZURE))


# ---- redirects ----


def test_redirects(server):
    def elsewhere(request):
        if request.target.endswith("/chat/completions"):
            return Reply(b"", 307, {"Location": "/v1/other"})
        return document(COMPLETION)

    server.default = elsewhere

    async def call(client):
        return await client.chat.completions.create(**HELLO)

    results = both(server, call)
    assert_same_requests(results)
    assert_same_outcome(results)
    assert results[1][1][1].header("authorization") == f"Bearer {KEY}"
    assert results[1][1][1].json["model"] == "m"


@pytest.mark.parametrize("make", [ours, functools.partial(azure, native.AsyncAzureOpenAI)])
def test_redirect_to_another_origin_takes_no_key_along(server, make):
    def elsewhere(request):
        if "other" in request.target:
            return document(COMPLETION)
        return Reply(b"", 307, {"Location": f"http://localhost:{server.port}/other"})

    server.default = elsewhere

    async def main():
        async with make(server) as client:
            return await client.chat.completions.create(**HELLO)

    assert run(main).id
    first, second = server.requests
    assert KEY in str(first) and KEY not in str(second)


# ---- the transport by itself ----


def test_transport_for_any_httpx_client(server):
    server.default = Reply(b"hello " * 1000, content_type="text/plain")

    async def main():
        async with httpx.AsyncClient(transport=native.NativeTransport()) as http:
            response = await http.get(server.url, params={"a": "b"})
            assert response.text == "hello " * 1000 and response.http_version == "HTTP/1.1"
            assert response.reason_phrase == "OK"
            async with http.stream("POST", server.url, content=pieces()) as response:
                assert b"".join([part async for part in response.aiter_raw(100)])
            with pytest.raises(httpx.UnsupportedProtocol):
                await http.get("ftp://x/")
            with pytest.raises(httpx.ConnectError):
                await http.get("http://127.0.0.1:9/")
            server.default = Reply(b"", delay=5)
            with pytest.raises(httpx.ReadTimeout):
                await http.get(server.url, timeout=0.2)

    async def pieces():
        yield b"one "
        yield b"two"

    run(main)
    assert [request.body for request in server.requests][:2] == [b"", b"one two"]


def test_pool_timeout(server):
    server.default = Reply(b"", delay=5)

    async def main():
        http = NativeHttpClient(max_connections=1)
        client = ours(server, http_client=http, max_retries=0, timeout=httpx.Timeout(5, pool=0.2))
        assert goes_natively(client)
        first = asyncio.create_task(client.chat.completions.create(**HELLO))
        while not server.requests:
            await asyncio.sleep(0.01)
        with pytest.raises(openai.APITimeoutError) as raised:
            await client.chat.completions.create(**HELLO)
        assert type(raised.value.__cause__).__name__ == "PoolTimeout"
        first.cancel()
        await client.close()

    run(main)


@pytest.mark.parametrize("is_silent", [False, True])
def test_failed_attempts_hold_no_connection(server, is_silent):
    """As the SDK's own tests, which count the requests in httpx's pool."""

    async def main():
        http = NativeHttpClient(max_connections=1)
        client = ours(server, http_client=http, max_retries=2, timeout=httpx.Timeout(20, pool=5))
        hurried = client.with_options(timeout=httpx.Timeout(20, read=0.2)) if is_silent else client
        # More than is taken of a reply that nobody reads: it has to be given up.
        failing = Reply(b" " * 2**21, 500, {"retry-after-ms": "1"})
        if is_silent:
            failing = Reply(delay=5)
        server.script[:] = [failing] * 3 + [document(COMPLETION)]
        with pytest.raises(openai.APITimeoutError if is_silent else openai.InternalServerError):
            create = hurried.chat.completions.with_streaming_response.create
            await create(**HELLO).__aenter__()
        assert len(server.requests) == 3
        assert (await client.chat.completions.create(**HELLO)).id == COMPLETION["id"]
        await client.close()

    run(main)


def test_hooks_are_named_as_the_sdk_names_them():
    """A hook that the SDK has renamed would be missed: most of them must be there."""
    there = [name for name in _calls._HOOKS if hasattr(native.AsyncAzureOpenAI, name)]
    assert len(there) >= 25
