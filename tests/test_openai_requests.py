"""What the native OpenAI client sends is what the SDK's client sends, to a real server."""

import functools
import inspect
import typing

import openai
import pytest
from openai._utils import PropertyInfo
from openai_fixtures import clean_environment, module_server, server  # noqa: F401
from openai_kit import (
    COMPLETION,
    IMAGES,
    MODERATION,
    RESPONSE,
    TEXT,
    assert_same_outcome,
    assert_same_requests,
    both,
    embeddings,
    ours,
    run,
)
from openai_server import Reply, document

from arshai_native import _core
from arshai_native.openai import _calls

# ---- every method of every resource ----

FILES = {"file", "image", "mask", "data", "video", "audio_sample", "input_reference"}


def resources_of(client, path=()):
    """(path of attributes, resource) of every resource of a client, deeply."""
    for name in dir(type(client)):
        if name.startswith(("_", "with_")):
            continue
        part = inspect.getattr_static(type(client), name)
        if isinstance(part, functools.cached_property):
            resource = getattr(client, name)
            if isinstance(resource, openai.resources.chat.chat.AsyncAPIResource):
                yield (*path, name), resource
                yield from resources_of(resource, (*path, name))


def methods_of(client):
    """(path of attributes, method) of everything that sends a request."""
    for path, resource in resources_of(client):
        for name in dir(type(resource)):
            method = getattr(resource, name) if not name.startswith(("_", "with_")) else None
            if not inspect.ismethod(method):
                continue
            parameters = inspect.signature(method).parameters
            # Helpers that call others, wait or connect are made of these.
            if {"extra_headers", "extra_query"} <= set(parameters) and not name.endswith(
                ("poll", "and_stream", "stream", "connect", "wait_for_processing", "parse",
                 "upload_files", "tool_runner")
            ):  # fmt: skip
                yield (*path, name), parameters


ALL = dict(
    methods_of(
        openai.AsyncOpenAI(api_key="x", **({"admin_api_key": "a"} if _calls.MAJOR > 2 else {}))
    )
)


def sample(name, parameter):
    if name in FILES:
        return ("name.txt", b"the content")
    if name == "files":
        return [("name.txt", b"the content")]
    if "Literal[True]" in str(parameter.annotation):
        return True
    return "abc"


def test_there_are_many_methods():
    assert len(ALL) > 120
    assert ("chat", "completions", "create") in ALL and ("beta", "threads", "runs", "create") in ALL


@pytest.mark.parametrize("path", ALL, ids=".".join)
def test_every_method(server, path):
    parameters = ALL[path]
    required = {
        name: sample(name, parameter)
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name != "stream"
    }
    server.default = document({"object": "list", "data": [], "id": "x"}, **{"x-request-id": "req"})
    options = {"admin_api_key": "admin"} if _calls.MAJOR > 2 else {}

    async def call(client):
        method = functools.reduce(getattr, path, client)
        result = method(**required)
        return await result if inspect.isawaitable(result) else result

    results = both(server, call, **options)
    [(left, requests), (right, _)] = results
    if not requests:
        pytest.skip(f"sends nothing: {left!r}"[:80])
    assert_same_requests(results)
    assert type(left) is type(right)
    if isinstance(left, openai.BaseModel):
        assert left.to_json() == right.to_json()  # a page's private parts are its client's


# ---- the methods in C, with all of their arguments ----

SPEECH = {"input": "hi", "model": "tts-1", "voice": "alloy"}
NATIVE = {
    ("embeddings", "create"): {"input": ["a", "ü"], "model": "e"},
    ("chat", "completions", "create"): {
        "messages": [{"role": "user", "content": "Grüße \U0001f600"}],
        "model": "m",
    },
    ("completions", "create"): {"model": "m", "prompt": "x"},
    ("responses", "create"): {"model": "m", "input": "x"},
    ("moderations", "create"): {"input": "x"},
    ("images", "generate"): {"prompt": "x"},
    ("audio", "speech", "create"): SPEECH,
}
REPLIES = {
    "embeddings": document(embeddings([0.5, 0.25])),
    "chat": document(COMPLETION),
    "completions": document(TEXT),
    "responses": document(RESPONSE),
    "moderations": document(MODERATION),
    "images": document(IMAGES),
    "audio": Reply(b"sound", content_type="audio/mpeg"),
}
VALUES = [1, 0.5, True, None, "text", ["a", 1], {"key": {"deep": [1, None]}}, [], {}, 1e22, -7]


def native_methods(test):
    return pytest.mark.parametrize("path", NATIVE, ids=".".join)(test)


def call_of(path, **more):
    async def call(client):
        awaitable = functools.reduce(getattr, path, client)(**{**NATIVE[path], **more})
        if type(client).__module__.startswith("arshai_native"):
            assert isinstance(awaitable, _core.Request), "it went the SDK's way"
        result = await awaitable
        return (
            result.content
            if isinstance(result, openai._legacy_response.HttpxBinaryResponseContent)
            else result
        )

    return call


def check(server, path, *, options=None, **more):
    server.default = REPLIES[path[0]]
    results = both(server, call_of(path, **more), **(options or {}))
    assert_same_requests(results)
    assert_same_outcome(results)


@native_methods
def test_plain(server, path):
    check(server, path)


@native_methods
def test_all_arguments(server, path):
    """Each one with a value of each kind that JSON has."""
    names = [
        name
        for name in ALL[path]
        if not name.startswith("extra_") and name not in ("timeout", "stream", *NATIVE[path])
    ]
    for shift in range(0, len(VALUES), 3):
        values = [VALUES[(i + shift) % len(VALUES)] for i in range(len(names))]
        if "response_format" in names:
            values[names.index("response_format")] = {"type": "json_object"}
        check(server, path, **dict(zip(names, values, strict=True)))


@native_methods
def test_extra_body(server, path):
    first = next(iter(NATIVE[path]))
    check(server, path, extra_body={"top_k": 5, first: "replaced", "nested": {"a": [1]}})
    check(server, path, extra_body={})


@native_methods
def test_extra_headers(server, path):
    check(server, path, extra_headers={"X-Mine": "1", "User-Agent": "me", "accept": "x/y"})
    check(server, path, extra_headers={"x-stainless-retry-count": "7"})


@native_methods
@pytest.mark.parametrize("timeout", [30, 2.5, None, openai.Timeout(7.0, connect=3.0)], ids=str)
def test_timeout_is_sent(server, path, timeout):
    check(server, path, timeout=timeout)


CLIENTS = {
    "organization": {"organization": "org", "project": "proj"},
    "default headers": {"default_headers": {"X-Mine": "a b", "Authorization": "Bearer other"}},
    "default query": {"default_query": {"a": "b c", "list": [1, 2]}},
    "timeout": {"timeout": 12.5},
    "no timeout": {"timeout": None},
    "timeouts": {"timeout": openai.Timeout(3.0, read=9.0)},
    "user agent": {"default_headers": {"User-Agent": "mine/1"}},
    "no retry count": {"default_headers": {"x-stainless-retry-count": openai.Omit()}},
}


@native_methods
@pytest.mark.parametrize("options", CLIENTS.values(), ids=CLIENTS)
def test_options_of_the_client(server, path, options):
    check(server, path, options=options)


@pytest.mark.parametrize("form", ["/", "", "/deep/er/", "?api-version=1"])
@pytest.mark.parametrize("path", [("chat", "completions", "create"), ("embeddings", "create")])
def test_base_url(server, path, form):
    check(server, path, options={"base_url": server.url + form})


def test_no_key(server):
    check(server, ("embeddings", "create"), options={"api_key": ""} if _calls.MAJOR < 3 else {})


def test_not_given(server):
    check(server, ("chat", "completions", "create"), temperature=openai.NOT_GIVEN,
          top_p=openai.omit, stream=False, extra_headers=None, extra_query=None)  # fmt: skip
    check(server, ("chat", "completions", "create"), stream=None)
    check(server, ("embeddings", "create"), encoding_format="float")
    check(server, ("embeddings", "create"), encoding_format="base64")


# ---- arguments that only the SDK can take ----


class Iterable:
    def __iter__(self):
        return iter([{"role": "user", "content": "x"}])


UNUSUAL = {
    "iterator": {"messages": Iterable()},
    "generator": {"messages": ({"role": "user", "content": c} for c in "ab")},
    "model": {"messages": [openai.types.chat.ChatCompletionMessage(role="assistant", content="x")]},
    "extra query": {"extra_query": {"a": 1}},
    "omitted within": {"messages": [{"role": "user", "content": "x", "name": openai.omit}]},
    "omitted header": {"extra_headers": {"User-Agent": openai.Omit()}},
    "nothing": {"messages": None},
}


@pytest.mark.parametrize("arguments", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_arguments(server, arguments):
    server.default = document(COMPLETION)

    async def call(client):
        made = dict(arguments)
        if inspect.isgenerator(made.get("messages")):
            made["messages"] = ({"role": "user", "content": c} for c in "ab")
        return await client.chat.completions.create(
            **{"model": "m", "messages": [{"role": "user", "content": "x"}], **made}
        )

    results = both(server, call)
    assert_same_requests(results)
    assert_same_outcome(results)


WRONG = {
    "unknown": {"model": "m", "messages": [], "no_such": 1},
    "missing": {"model": "m"},
    "no number": {"model": "m", "messages": [], "temperature": float("nan")},
    "no JSON": {"model": "m", "messages": [object()]},
    "surrogate": {"model": "\ud800", "messages": []},
    "a class": {"model": "m", "messages": [], "response_format": openai.BaseModel},
    "a header's value": {"model": "m", "messages": [], "extra_headers": {"X-A": "a\r\nX-B: b"}},
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_wrong_arguments(server, arguments):
    async def call(client):
        return await client.chat.completions.create(**arguments)

    results = both(server, call, max_retries=0)
    [(left, sent), (right, sent_too)] = results
    assert isinstance(left, Exception) and type(left) is type(right), (left, right)
    assert sent == sent_too == []
    if not isinstance(left, openai.APIConnectionError):
        assert str(left) == str(right)


# ---- what the SDK's transform() would do to plain values: nothing ----


def annotations_within(type_, seen):
    """Every annotation that transform() would come by, from a TypedDict on."""
    if id(type_) in seen:
        return
    seen[id(type_)] = type_
    yield type_
    if typing.is_typeddict(type_) or hasattr(type_, "__required_keys__"):
        for each in openai._utils._transform.get_type_hints(type_, include_extras=True).values():
            yield from annotations_within(each, seen)
    for each in typing.get_args(type_):
        if not isinstance(each, (str, int, bool, PropertyInfo)):
            yield from annotations_within(each, seen)


@native_methods
def test_no_argument_is_renamed(path, monkeypatch):
    """The C code writes arguments as they are: no name of them may have an alias in the SDK."""
    seen = []
    for name in ("maybe_transform", "async_maybe_transform"):
        module = inspect.getmodule(peer_of(path))
        if not hasattr(module, name):
            continue
        if name.startswith("async"):

            async def note(data, type_):
                seen.append(type_)
                return data
        else:

            def note(data, type_):
                seen.append(type_)
                return data

        monkeypatch.setattr(module, name, note)
    peer = peer_of(path)
    _calls.Recipe(peer, path[-1])
    assert seen
    found = [info for type_ in seen for each in annotations_within(type_, {})
             for info in typing.get_args(each) if isinstance(info, PropertyInfo)]  # fmt: skip
    assert [info for info in found if info.alias is not None] == []


def peer_of(path):
    client = openai.AsyncOpenAI(api_key="x")
    return type(functools.reduce(getattr, path[:-1], client))


def test_the_search_for_aliases_finds_them():
    class Inner(typing.TypedDict):
        from_: typing.Annotated[str, PropertyInfo(alias="from")]

    class Outer(typing.TypedDict):
        items: list[typing.Union[int, Inner]]  # noqa: UP007

    found = [info for each in annotations_within(Outer, {}) for info in typing.get_args(each)
             if isinstance(info, PropertyInfo)]  # fmt: skip
    assert [info.alias for info in found] == ["from"]


def test_secrets_stay_out_of_reprs(server):
    async def main():
        async with ours(server) as client:
            request = client.embeddings.create(input="x", model="e")
            text = repr(request) + repr(client.embeddings.create) + repr(vars(request_type()))
            server.default = document(embeddings([1.0]))
            await request
            return text

    assert "sk-secret" not in run(main)


def request_type():
    return _core.Request
