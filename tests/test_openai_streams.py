"""Streams of the native OpenAI client are the SDK's, item by item and error by error."""

import asyncio
import gc
import json

import openai
import pytest
from openai._streaming import ServerSentEvent
from openai_fixtures import clean_environment, module_server, server  # noqa: F401
from openai_kit import assert_same_outcome, assert_same_requests, both, chunk, ours, run, theirs
from openai_server import Reply, document, events, sse

from arshai_native import _core
from arshai_native.openai import NativeStream, _calls

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}


async def open_stream(client, **more):
    return await client.chat.completions.create(**{**HELLO, **more})


async def items_of(client):
    """Every item; the exception that ends the stream, if there is one, is the last."""
    found = []
    try:
        async for item in await open_stream(client):
            found.append(item)
    except Exception as error:
        found.append(error)
    return found


def same_items(server, reply, call=items_of):
    server.script[:] = [reply]
    results = both(server, call)
    assert_same_requests(results)
    [(left, _), (right, _)] = results
    assert isinstance(left, list) and isinstance(right, list), (left, right)
    assert len(left) == len(right), (left, right)
    for pair in zip(left, right, strict=True):
        assert_same_outcome([(item, []) for item in pair])
    return right


# ---- items ----

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def test_chunks(server):
    tools = [
        {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
    ]
    last = chunk("", usage=USAGE)
    last["choices"] = []
    called = chunk(None)
    called["choices"][0]["delta"] = {"tool_calls": tools}
    found = same_items(server, events(chunk("grüß"), chunk("\U0001f600", extra=[1]), called, last))
    assert [len(item.choices) for item in found] == [1, 1, 1, 0]
    assert found[0].choices[0].delta.content == "grüß"
    assert found[3].usage.total_tokens == 3


def test_it_is_the_native_stream(server):
    server.default = events(chunk("a"))

    async def main():
        async with ours(server) as client:
            stream = await open_stream(client)
            assert type(stream) is NativeStream and isinstance(stream, openai.AsyncStream)
            assert stream.response.status_code == 200
            assert stream.response.headers["content-type"].startswith("text/event-stream")
            assert stream.response.request.method == "POST"
            assert json.loads(stream.response.request.content)["stream"] is True
            assert not stream.response.is_closed
            await stream.close()
            assert stream.response.is_closed

    run(main)


SPLITS = {
    "one piece": lambda data: [data],
    "bytes": lambda data: [bytes([byte]) for byte in data],
    "sevens": lambda data: [data[i : i + 7] for i in range(0, len(data), 7)],
}
WHOLE = b"".join(sse(chunk(text)) for text in ("a", "\U0001f600é", "c")) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=repr)
def test_splits(server, split, line_end):
    found = same_items(server, events(*split(WHOLE.replace(b"\n", line_end)), done=False))
    assert [item.choices[0].delta.content for item in found] == ["a", "\U0001f600é", "c"]


A = json.dumps(chunk("a")).encode()
ODD = {
    "nothing": b"",
    "only done": b"data: [DONE]\n\n",
    "comments": b": hi\n\ndata: " + A + b"\n\n: there\n\ndata: [DONE]\n\n",
    "several lines": b"data: {\ndata: \"id\": \"x\"}\n\ndata: [DONE]\n\n",
    "no space": b"data:" + A + b"\n\ndata:[DONE]\n\n",
    "done and more": b"data: [DONE] really\n\ndata: " + A + b"\n\n",
    "without done": b"data: " + A + b"\n\n",
    "named events": b"event: x\ndata: " + A + b"\n\nevent: y\nid: 7\ndata: " + A + b"\n\n",
    "no last blank line": b"data: " + A + b"\n\ndata: " + A,
    "not an object": b"data: 5\n\ndata: [1]\n\ndata: \"x\"\n\ndata: null\n\ndata: true\n\n",
    "empty object": b"data: {}\n\n",
    "error null": b'data: {"error": null, "id": "x"}\n\ndata: {"error": ""}\n\n',
    "error": b'data: {"error": {"message": "so it is", "code": "c"}}\n\ndata: ' + A + b"\n\n",
    "error text": b'data: ' + A + b'\n\ndata: {"error": "text"}\n\n',
    "error without message": b'data: {"error": {"message": 5}}\n\n',
    "error list": b'data: {"error": [1]}\n\n',
    "no JSON": b"data: " + A + b"\n\ndata: {oops\n\ndata: " + A + b"\n\n",
    "empty data": b"event: x\n\ndata: " + A + b"\n\n",
    "thread event": b'event: thread.run\ndata: {"id": "x"}\n\n',
    "thread error": b'event: thread.run\ndata: {"error": {"message": "x"}}\n\n',
    "error event": b'event: error\ndata: {"error": {"message": "x"}}\n\n',
    "bad UTF-8": b"data: " + A + b'\n\ndata: {"id": "\xff"}\n\n',
    "deep": b'data: {"x": ' + b"[" * 500 + b"]" * 500 + b"}\n\n",
}  # fmt: skip


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_odd_streams(server, data):
    same_items(server, events(*([data] if data else []), done=False))


def test_many_chunks(server):
    """More than is buffered at a time, all there and in order."""
    found = same_items(server, events(*(chunk(str(i)) for i in range(5000))))
    assert [item.choices[0].delta.content for item in found] == [str(i) for i in range(5000)]


def test_no_stream_at_all(server):
    """A server that knows no streams."""
    same_items(server, document(chunk("x")))
    same_items(server, Reply(b"", content_type=None))


OTHERS = {
    "completions": (
        lambda client: client.completions.create(model="m", prompt="x", stream=True),
        [{"id": "c", "choices": [{"index": 0, "text": "t"}], "object": "text_completion"}],
    ),
    "responses": (
        lambda client: client.responses.create(model="m", input="x", stream=True),
        [
            {"type": "response.created", "sequence_number": 0, "response": {"id": "r"}},
            {"type": "response.output_text.delta", "delta": "x", "item_id": "i"},
            {"type": "something.new", "delta": "x"},
            {"type": "error", "message": "hm", "code": "c"},
            {"no": "type"},
        ],
    ),
    "images": (
        lambda client: client.images.generate(prompt="x", stream=True),
        [{"type": "image_generation.completed", "b64_json": "aGk="}],
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_streams(server, name):
    make, items = OTHERS[name]

    async def call(client):
        if type(client).__module__.startswith("arshai_native"):
            assert isinstance(request := make(client), _core.Request)
            return [item async for item in await request]
        return [item async for item in await make(client)]

    found = same_items(server, events(*items), call)
    assert len(found) == len(items)


# ---- ways to read one ----


async def by_anext(stream):
    found = []
    while (item := await anext(stream, None)) is not None:
        found.append(item)
    return found


async def by_dunder(stream):
    found = []
    with pytest.raises(StopAsyncIteration):
        while True:
            found.append(await stream.__anext__())
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    return found


async def by_wait_for(stream):
    found = []
    with pytest.raises(StopAsyncIteration):
        while True:
            found.append(await asyncio.wait_for(stream.__anext__(), 5))
    return found


async def by_task(stream):
    found = []
    with pytest.raises(RuntimeError, match="StopAsyncIteration"):
        while True:

            async def one():
                return await stream.__anext__()

            found.append(await asyncio.create_task(one()))
            if len(found) == 3:
                raise RuntimeError("StopAsyncIteration")
    return found


async def by_iterator(stream):
    return [item async for item in aiter(stream)]


async def in_parts(stream):
    found = []
    async for item in stream:
        found.append(item)
        break
    return found + [item async for item in stream]


async def within(stream):
    async with stream as same:
        assert same is stream
        return [item async for item in same]


READERS = [by_anext, by_dunder, by_wait_for, by_task, by_iterator, in_parts, within]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("pause", [0, 0.02])
def test_ways_to_read(server, read, pause):
    parts = [part for text in "abc" for part in (sse(chunk(text)), pause)]

    async def call(client):
        return await read(await open_stream(client))

    found = same_items(server, events(*parts), call)
    assert [item.choices[0].delta.content for item in found] == ["a", "b", "c"]


def test_events_as_they_come(server):
    async def call(client):
        stream = await open_stream(client)
        found = [event async for event in stream._iter_events()]
        assert all(isinstance(event, ServerSentEvent) for event in found)
        return [(event.event, event.data, event.id, event.retry) for event in found]

    data = b"event: a\nid: 1\nretry: 5\ndata: x\ndata: y\n\ndata: z\n\n"
    server.script[:] = [events(data)]
    assert_same_outcome(results := both(server, call))
    assert len(results[1][0]) == 3


def test_body_of_the_response(server):
    async def call(client):
        stream = await open_stream(client)
        return [line async for line in stream.response.aiter_lines() if line]

    server.script[:] = [events(chunk("a"), b"event: x\ndata: 1\ndata: 2\n\n")]
    assert_same_outcome(results := both(server, call))
    assert len(results[1][0]) == 5


# ---- the SDK's helpers on top ----


def test_stream_helper(server):
    async def call(client):
        kinds = []
        async with client.chat.completions.stream(
            model="m", messages=[{"role": "user", "content": "x"}]
        ) as stream:
            async for event in stream:
                kinds.append(event.type)
            final = await stream.get_final_completion()
        return kinds, final.choices[0].message.content

    last = chunk("")
    last["choices"][0] = {"index": 0, "delta": {}, "finish_reason": "stop"}
    first = chunk("he")
    first["choices"][0]["delta"]["role"] = "assistant"
    server.script[:] = [events(first, chunk("llo"), last)]
    results = both(server, call)
    assert_same_requests(results)
    assert_same_outcome(results)
    assert results[1][0][1] == "hello"


def test_responses_helper(server):
    async def call(client):
        kinds = []
        async with client.responses.stream(model="m", input="x") as stream:
            async for event in stream:
                kinds.append(event.type)
        return kinds

    response = {"id": "r", "object": "response", "output": [], "status": "in_progress"}
    items = [
        {"type": "response.created", "sequence_number": 0, "response": response},
        {"type": "response.in_progress", "sequence_number": 1, "response": response},
    ]
    server.script[:] = [events(*items)]
    results = both(server, call)
    assert_same_requests(results)
    assert_same_outcome(results)


def test_raw_response_of_a_stream(server):
    async def call(client):
        raw = await client.chat.completions.with_raw_response.create(**HELLO)
        return raw.headers["x-a"], [item.id async for item in raw.parse()]

    server.script[:] = [events(chunk("a"), headers={"x-a": "b"})]
    assert_same_outcome(both(server, call))


# ---- ends that are no ends ----


def test_error_status(server):
    server.script[:] = [document({"error": {"message": "no", "code": "c"}}, 401)]
    results = both(server, open_stream, max_retries=0)
    assert_same_outcome(results)
    assert type(results[1][0]) is openai.AuthenticationError


def test_retried_before_it_begins(server):
    server.script[:] = [document({}, 500, **{"retry-after-ms": "5"}), events(chunk("a"))]
    results = both(server, items_of)
    assert_same_requests(results)
    assert [type(item).__name__ for item in results[1][0]] == ["ChatCompletionChunk"]
    assert len(results[1][1]) == 2


def outcomes(server, reply, call=items_of, **options):
    server.script[:] = [reply]
    [(left, _), (right, _)] = both(server, call, **options)
    assert [type(item) for item in left] == [type(item) for item in right]
    return right


def test_broken_off(server):
    found = outcomes(server, events(chunk("a"), chunk("b"), None, done=False))
    assert [item.choices[0].delta.content for item in found[:2]] == ["a", "b"]
    kind = "APIConnectionError" if _calls.MAJOR > 2 else "RemoteProtocolError"
    assert type(found[2]).__name__ == kind


def test_silence(server):
    found = outcomes(server, events(chunk("a"), 5), timeout=0.3)
    kind = "APITimeoutError" if _calls.MAJOR > 2 else "ReadTimeout"
    assert [type(item).__name__ for item in found] == ["ChatCompletionChunk", kind]


@pytest.mark.parametrize("make", [theirs, ours])
def test_error_ends_the_stream(server, make):
    server.default = events(chunk("a"), {"error": {"message": "x"}}, chunk("b"))

    async def main():
        async with make(server) as client:
            stream = await open_stream(client)
            await anext(stream)
            with pytest.raises(openai.APIError, match="x") as caught:
                await anext(stream)
            assert caught.value.body == {"message": "x"}
            assert caught.value.request.url.path == "/v1/chat/completions"
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    run(main)


# ---- giving up ----

ENDLESS = [part for i in range(200) for part in (sse(chunk(str(i))), 0.05)]


def test_close_ends_the_connection(server):
    server.default = events(*ENDLESS)

    async def main():
        async with ours(server) as client:
            stream = await open_stream(client)
            async for _ in stream:
                break
            await stream.close()
            assert await asyncio.to_thread(server.closed_early.wait, 5)
            assert [item async for item in stream] == []

    run(main)


def test_dropping_it_ends_the_connection(server):
    server.default = events(*ENDLESS)

    async def main():
        async with ours(server) as client:
            stream = await open_stream(client)
            await anext(stream)
            del stream
            gc.collect()
            assert await asyncio.to_thread(server.closed_early.wait, 5)

    run(main)


def test_leaving_the_context_ends_the_connection(server):
    server.default = events(*ENDLESS)

    async def main():
        async with ours(server) as client, await open_stream(client) as stream:
            await anext(stream)
        assert await asyncio.to_thread(server.closed_early.wait, 5)

    run(main)


def test_closing_the_response_ends_the_connection(server):
    server.default = events(*ENDLESS)

    async def main():
        async with ours(server) as client:
            stream = await open_stream(client)
            await anext(stream)
            await stream.response.aclose()
            assert await asyncio.to_thread(server.closed_early.wait, 5)

    run(main)


def test_cancelled_while_it_waits(server):
    """The item that comes later is not lost: another may read on."""
    server.default = events(chunk("a"), 0.3, chunk("b"))

    async def main():
        async with ours(server) as client:
            stream = await open_stream(client)
            await anext(stream)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(stream), 0.05)
            rest = [item.choices[0].delta.content async for item in stream]
            assert rest == ["b"]

    run(main)


def test_two_readers_at_once(server):
    server.default = events(0.2, chunk("a"))

    async def main():
        async with ours(server) as client:
            stream = await open_stream(client)
            outcomes = await asyncio.gather(anext(stream), anext(stream), return_exceptions=True)
            kinds = sorted(type(outcome).__name__ for outcome in outcomes)
            assert kinds == ["ChatCompletionChunk", "RuntimeError"]

    run(main)


def test_connection_is_used_again(server):
    """A stream read to "[DONE]" leaves its connection to the next request."""
    server.default = events(chunk("a"))

    async def main():
        async with ours(server) as client:
            for _ in range(5):
                assert len(await items_of(client)) == 1
                await asyncio.sleep(0.05)

    run(main)
    assert len({request.connection for request in server.requests}) == 1


def test_done_does_not_wait_for_the_end(server):
    server.default = events(chunk("a"), b"data: [DONE]\n\n", 5, done=False)

    async def main():
        async with ours(server) as client:
            assert len(await items_of(client)) == 1

    run(main, timeout=4)


def test_many_streams_at_once(server):
    server.default = events(*(part for i in range(20) for part in (chunk(str(i)), 0.001)))

    async def main():
        async with ours(server) as client:
            results = await asyncio.gather(*(items_of(client) for _ in range(50)))
            for found in results:
                assert [item.choices[0].delta.content for item in found] == [
                    str(i) for i in range(20)
                ]

    run(main, timeout=60)
