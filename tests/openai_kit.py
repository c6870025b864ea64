"""What the tests of the OpenAI clients share."""

import asyncio
import base64
import struct

import openai

import arshai_native.openai as native
from arshai_native import _core

KEY = "sk-secret"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def run(main, timeout=30):
    """Runs main(), a coroutine function, in a loop of its own, not for ever."""

    async def bounded():
        return await asyncio.wait_for(main(), timeout)

    return asyncio.run(bounded())


def ours(server, **options):
    return native.AsyncOpenAI(**{"api_key": KEY, "base_url": server.url, **options})


def theirs(server, **options):
    return openai.AsyncOpenAI(**{"api_key": KEY, "base_url": server.url, **options})


def is_native(awaitable):
    """Whether a call went the way through C; the call is dropped."""
    awaitable.close()
    return isinstance(awaitable, _core.Request)


def goes_natively(client):
    return is_native(client.chat.completions.create(**HELLO))


def both(server, call, make=(theirs, ours), **options):
    """
    What call(client), a coroutine function, returns or raises with the SDK's client and with ours,
    and the requests that came in: [(outcome, requests), (outcome, requests)].
    """

    async def one(client):
        try:
            return await call(client)
        except Exception as error:  # compared by the caller
            return error

    results = []
    script = list(server.script)
    for maker in make:
        server.requests.clear()
        server.script[:] = script

        async def main(maker=maker):
            async with maker(server, **options) as client:
                return await one(client)

        outcome = run(main)
        results.append((outcome, list(server.requests)))
    return results


# Whose value is a matter of the HTTP client, not of the API.
OWN = {"accept-encoding", "connection"}


def form_of(request):
    """A request as something to compare."""
    headers = sorted(
        (name.lower(), value) for name, value in request.headers if name.lower() not in OWN
    )
    body = request.body
    content_type = request.header("content-type") or ""
    if "boundary=" in content_type:
        boundary = content_type.partition("boundary=")[2]
        body = body.replace(boundary.encode(), b"BOUNDARY")
        headers = [(name, value.replace(boundary, "BOUNDARY")) for name, value in headers]
    return request.method, request.target, headers, body


def assert_same_requests(results):
    [(_, left), (_, right)] = results
    assert [form_of(request) for request in left] == [form_of(request) for request in right]
    assert left


def assert_same_outcome(results):
    [(left, _), (right, _)] = results
    assert type(left) is type(right), (left, right)
    if isinstance(left, openai.BaseModel):
        assert left == right or "nan" in repr(left)
        assert repr(left) == repr(right)
        assert repr(left.model_dump(warnings=False)) == repr(right.model_dump(warnings=False))
        assert left.model_fields_set == right.model_fields_set
        assert getattr(left, "_request_id", 0) == getattr(right, "_request_id", 0)
    elif isinstance(left, Exception):
        if not isinstance(left, UnicodeError):  # the SDK's names the line, ours its data
            assert str(left) == str(right)
        assert getattr(left, "body", 0) == getattr(right, "body", 0)
        assert getattr(left, "code", 0) == getattr(right, "code", 0)
        assert getattr(left, "request_id", 0) == getattr(right, "request_id", 0)
        assert type(left.__cause__) is type(right.__cause__)
    else:
        assert left == right


# ---- documents ----

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": "grüß Gott", "refusal": None},
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "something_new": {"nested": [1, 2.5, None, "x"]},
}


def chunk(text, **more):
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
        **more,
    }


def embeddings(*vectors, as_base64=False):
    def form(vector):
        if not as_base64:
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

    return {
        "object": "list",
        "model": "e",
        "data": [
            {"object": "embedding", "index": i, "embedding": form(vector)}
            for i, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }


RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1700000000,
    "model": "m",
    "status": "completed",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "hello", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 1,
        "output_tokens": 1,
        "total_tokens": 2,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    },
}
MODERATION = {"id": "modr_1", "model": "o", "results": [{"flagged": False, "categories": {}}]}
IMAGES = {"created": 1, "data": [{"b64_json": "aGk="}]}
TEXT = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": []}
