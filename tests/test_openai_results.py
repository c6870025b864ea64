"""What the native OpenAI client returns and raises is what the SDK's client does."""

import asyncio
import json
import logging
import math
import struct
import zlib

import openai
import pytest
from openai_fixtures import clean_environment, module_server, server  # noqa: F401
from openai_kit import (
    COMPLETION,
    HELLO,
    assert_same_outcome,
    assert_same_requests,
    both,
    embeddings,
    ours,
    run,
    theirs,
)
from openai_server import Reply, document

from arshai_native import _core
from arshai_native.openai import _calls


async def chat(client, **options):
    return await client.chat.completions.create(**HELLO, **options)


async def embed(client):
    return await client.embeddings.create(input=["a", "b"], model="e")


def same(server, call, *script, **options):
    server.script[:] = script
    results = both(server, call, **options)
    assert_same_requests(results)
    assert_same_outcome(results)
    return results[1]


# ---- embeddings ----

VECTOR = [0.0, -0.0, 1.0, -1.5, 3.4028234663852886e38, 1e-45, 0.1, math.pi] * 64


@pytest.mark.parametrize("as_base64", [True, False], ids=["base64", "float"])
def test_embeddings(server, as_base64):
    reply = document(embeddings(VECTOR, VECTOR[::-1], as_base64=as_base64))
    result, _ = same(server, embed, reply)
    expected = list(struct.unpack(f"<{len(VECTOR)}f", struct.pack(f"<{len(VECTOR)}f", *VECTOR)))
    assert result.data[0].embedding == (expected if as_base64 else VECTOR)
    assert all(type(number) is float for number in result.data[1].embedding)


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_embeddings_in_a_format(server, encoding_format):
    """What was asked for is returned as it came, text included."""

    async def call(client):
        return await client.embeddings.create(input="a", model="e", encoding_format=encoding_format)

    for as_base64 in (True, False):
        result, _ = same(server, call, document(embeddings([1.0, 2.5], as_base64=as_base64)))
        assert isinstance(result.data[0].embedding, str) is as_base64


ODD_EMBEDDINGS = {
    "none": embeddings(),
    "no data": {"object": "list"},
    "data null": {"object": "list", "data": None},
    "empty vector": embeddings([]),
    "integers": embeddings([1, 2, 3]),
    "mixed": embeddings([1, 2.5, None, "x"]),
    "no embedding": {"object": "list", "data": [{"index": 0}]},
    "padding": {"data": [{"index": 0, "embedding": "AACAPw="}]},
    "other letters": {"data": [{"index": 0, "embedding": "AA CA\nPw=="}]},
    "odd length": {"data": [{"index": 0, "embedding": "AACA"}]},
    "not base64": {"data": [{"index": 0, "embedding": "é"}]},
    "one bad": {"data": [{"index": 0, "embedding": "AACAPw=="}, {"index": 1, "embedding": "A"}]},
    "not a list": {"data": "x"},
    "not objects": {"data": [1, "x"]},
    "a list": [1, 2],
    "a number": 5,
    "null": None,
}


@pytest.mark.parametrize("value", ODD_EMBEDDINGS.values(), ids=ODD_EMBEDDINGS)
def test_odd_embeddings(server, value):
    same(server, embed, document(value), max_retries=0)


# ---- documents ----

ODD = {
    "empty object": {},
    "other types": {"id": 5, "choices": "none", "usage": [1]},
    "null choices": {"choices": None},
    "choices of null": {"choices": [None, {"message": None}]},
    "deep": {"x": [[[[[[1]]]]]]},
    "numbers": {"created": 1.5, "big": 10**40, "exp": 1e300, "float": 1.0},
    "names": {"_private": 1, "model_": 2, "self": 3, "copy": 4, "": 5, "model_fields": 6},
    "text": "just text",
    "list": [1, 2],
    "null": None,
    "true": True,
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_odd_documents(server, value):
    same(server, chat, document(value))


RAW = {
    "no JSON": Reply(b"<html>no</html>"),
    "no JSON, and says so": Reply(b"<html>no</html>", content_type="text/html"),
    "JSON, and says text": Reply(json.dumps(COMPLETION).encode(), content_type="text/plain"),
    "JSON without a type": Reply(json.dumps(COMPLETION).encode(), content_type=None),
    "a charset": Reply(
        json.dumps(COMPLETION).encode(), content_type="application/json; charset=utf-8"
    ),
    "problem+json": Reply(b'{"id": "x"}', content_type="application/problem+json"),
    "empty": Reply(b""),
    "empty text": Reply(b"", content_type="text/plain"),
    "truncated JSON": Reply(b'{"id": "x", "choices": ['),
    "byte order mark": Reply(b'\xef\xbb\xbf{"id": "x"}'),
    "UTF-16": Reply('{"id": "ü"}'.encode("utf-16")),
    "bad UTF-8": Reply(b'{"id": "\xff"}'),
    "surrogates": Reply(b'{"id": "\\ud83d\\ude00 \\ud800"}'),
    "repeated keys": Reply(b'{"id": "a", "id": "b"}'),
    "not finite": Reply(b'{"created": NaN, "x": [Infinity]}'),
    "204": Reply(b"", status=204, content_type=None),
    "201": document(COMPLETION, 201),
    "206": document(COMPLETION, 206),
}


@pytest.mark.parametrize("reply", RAW.values(), ids=RAW)
def test_odd_bodies(server, reply):
    same(server, chat, reply)


def test_request_id(server):
    result, _ = same(server, chat, document(COMPLETION, **{"x-request-id": "req_1"}))
    assert result._request_id == "req_1"
    result, _ = same(server, chat, document(COMPLETION))
    assert result._request_id is None


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed(server, coding):
    plain = json.dumps(COMPLETION).encode()
    packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    packed = packer.compress(plain) + packer.flush()
    same(server, chat, Reply(packed, headers={"Content-Encoding": coding}))
    error = packed_error(coding)
    result, _ = same(server, chat, Reply(error, 400, {"Content-Encoding": coding}))
    assert result.body == {"message": "no"}
    assert result.response.headers["content-encoding"] == coding


def packed_error(coding):
    packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    return packer.compress(b'{"error": {"message": "no"}}') + packer.flush()


def test_large_documents(server):
    """Bodies of megabytes, both ways."""
    text = "é" * 1_000_000
    reply = document({**COMPLETION, "padding": text})

    async def call(client):
        return await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": text}]
        )

    result, [request] = same(server, call, reply)
    assert result.padding == text
    assert request.json["messages"][0]["content"] == text


def test_speech(server):
    async def call(client):
        result = await client.audio.speech.create(input="x", model="t", voice="v")
        chunks = [chunk async for chunk in await result.aiter_bytes(7)]
        return (type(result), result.content, chunks, result.response.headers["content-type"],
                result.response.request.url.path)  # fmt: skip

    sound = bytes(range(256)) * 1000
    result, _ = same(server, call, Reply(sound, content_type="audio/mpeg"))
    assert result[1] == sound


# ---- statuses ----

ERRORS = {
    status: getattr(openai, name)
    for status, name in {
        400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError",
        404: "NotFoundError", 409: "ConflictError", 422: "UnprocessableEntityError",
        429: "RateLimitError", 418: "APIStatusError", 500: "InternalServerError",
        503: "InternalServerError", 304: "APIStatusError",
    }.items()
}  # fmt: skip
TOLD = {"error": {"message": "it is so", "code": "why", "param": "model", "type": "kind"}}


@pytest.mark.parametrize("status", ERRORS)
def test_error_statuses(server, status):
    reply = document(TOLD if status != 304 else {}, status, **{"x-request-id": "r9"})
    if status == 304:
        reply.body = b""
    error, [request] = same(server, chat, reply, max_retries=0)
    assert type(error) is ERRORS[status]
    assert error.status_code == error.response.status_code == status
    assert error.request_id == "r9"
    if status != 304:
        assert error.code == "why" and error.param == "model" and error.type == "kind"
    assert error.request.content == request.body
    assert error.response.request is error.request
    assert error.response.http_version == "HTTP/1.1"
    assert error.response.elapsed.total_seconds() >= 0
    assert error.response.is_closed


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"plain words", 400, content_type="text/plain"),
        Reply(b"", 500),
        Reply(b"[1]", 400),
        Reply(b'{"message": "no error within"}', 404),
        Reply(b'{"error": "a string"}', 400),
        Reply(b'{"error": null}', 400),
        Reply(b"\xff\xfe", 400, content_type="text/plain; charset=utf-8"),
        Reply(b"{", 429),
    ],
    ids=lambda reply: repr(reply.body),
)
def test_error_bodies(server, reply):
    same(server, chat, reply, max_retries=0)


# ---- retries ----


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_retried(server, status):
    again = document(TOLD, status, **{"retry-after-ms": "5"})
    result, requests = same(server, chat, again, again, document(COMPLETION))
    assert result.id == COMPLETION["id"]
    assert [request.header("x-stainless-retry-count") for request in requests] == ["0", "1", "2"]


@pytest.mark.parametrize("count", ["7", "0", openai.Omit()], ids=["7", "0", "none"])
@pytest.mark.parametrize("name", ["x-stainless-retry-count", "X-Stainless-Retry-Count"])
def test_a_count_of_the_callers_own(server, name, count):
    """The SDK leaves it as it is, or leaves it out, with every attempt."""
    again = document(TOLD, 500, **{"retry-after-ms": "5"})
    _, requests = same(
        server,
        lambda client: chat(client, extra_headers={name: count}),
        again,
        document(COMPLETION),
    )
    expected = count if isinstance(count, str) else None
    assert [request.header("x-stainless-retry-count") for request in requests] == [expected] * 2


def test_retries_have_an_end(server):
    again = document(TOLD, 429, **{"retry-after-ms": "5"})
    error, requests = same(server, chat, *[again] * 5)
    assert type(error) is openai.RateLimitError and len(requests) == 3
    assert error.request.headers["x-stainless-retry-count"] == "2"
    for count in (0, 1, 4):
        _, requests = same(server, chat, *[again] * 6, max_retries=count)
        assert len(requests) == count + 1


@pytest.mark.parametrize(
    ("status", "told", "count"), [(400, "true", 3), (500, "false", 1), (400, "other", 1)]
)
def test_server_decides_about_retries(server, status, told, count):
    again = document(TOLD, status, **{"x-should-retry": told, "retry-after-ms": "5"})
    _, requests = same(server, chat, *[again] * 5)
    assert len(requests) == count


def test_longer_pauses_than_the_sdk_follows(server):
    """1.x retries after its usual pause, 3.x not at all."""
    again = document(TOLD, 429, **{"retry-after": "1000"})
    _, requests = same(server, chat, again, document(COMPLETION))
    assert len(requests) == (2 if _calls.MAJOR < 3 else 1)


def test_connection_that_breaks_is_retried(server):
    result, requests = same(server, chat, Reply(drop=True), document(COMPLETION))
    assert result.id == COMPLETION["id"] and len(requests) == 2


def test_with_options_changes_retries(server):
    again = document(TOLD, 500, **{"retry-after-ms": "5"})

    async def call(client):
        return await chat(client.with_options(max_retries=1))

    _, requests = same(server, call, *[again] * 4)
    assert len(requests) == 2


# ---- what fails below HTTP ----


def failing(server, call, script=(), **options):
    options = {"max_retries": 0, **options}
    server.script[:] = script
    [(left, _), (right, _)] = both(server, call, **options)
    assert type(left) is type(right), (left, right)
    assert type(left.__cause__) is type(right.__cause__), (left.__cause__, right.__cause__)
    assert str(left) == str(right)
    assert right.request.method == "POST"
    assert b"hello" in right.request.content
    assert isinstance(right.__cause__.__cause__, _core.HttpError)
    return right


def test_nobody_listens(server):
    error = failing(server, chat, base_url="http://127.0.0.1:9/v1")
    assert type(error) is openai.APIConnectionError
    assert "is the server running" in str(error.__cause__)


def test_no_such_host(server):
    error = failing(server, chat, base_url="http://no-such-host.invalid/v1")
    assert type(error) is openai.APIConnectionError


def test_no_answer(server):
    error = failing(server, chat, [Reply(drop=True)])
    assert type(error) is openai.APIConnectionError


def test_timeout(server):
    error = failing(server, chat, [Reply(b"{}", delay=5)] * 2, timeout=0.2)
    assert type(error) is openai.APITimeoutError
    assert server.closed_early.wait(5)


def test_timeout_of_a_call(server):
    async def call(client):
        return await client.chat.completions.create(**HELLO, timeout=0.2)

    assert type(failing(server, call, [Reply(b"{}", delay=5)])) is openai.APITimeoutError


def test_cut_off_body(server):
    error = failing(server, chat, [Reply(b'{"id"', headers={"Content-Length": "100"})])
    assert type(error) is openai.APIConnectionError


def test_no_http(server):
    async def main():
        async def garbage(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"this is no HTTP\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(garbage, "127.0.0.1", 0) as tcp:
            port = tcp.sockets[0].getsockname()[1]
            for make in (theirs, ours):
                client = make(server, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)
                with pytest.raises(openai.APIConnectionError):
                    await chat(client)
                await client.close()

    run(main)


# ---- raw responses, pages ----


def test_raw_response(server):
    async def call(client):
        raw = await client.chat.completions.with_raw_response.create(**HELLO)
        assert type(raw) is openai._legacy_response.LegacyAPIResponse
        assert raw.retries_taken == 1
        return raw.status_code, raw.headers["x-a"], raw.content, raw.parse(), raw.request_id

    again = document(TOLD, 500, **{"retry-after-ms": "5"})
    same(server, call, again, document(COMPLETION, **{"x-a": "b", "x-request-id": "r"}))


def test_raw_response_of_embeddings(server):
    async def call(client):
        raw = await client.embeddings.with_raw_response.create(input="x", model="e")
        return raw.parse()

    result, _ = same(server, call, document(embeddings([1.0, 2.0], as_base64=True)))
    assert result.data[0].embedding == [1.0, 2.0]


def test_streaming_response(server):
    async def call(client):
        async with client.chat.completions.with_streaming_response.create(**HELLO) as response:
            lines = [line async for line in response.iter_lines()]
            return response.status_code, response.headers["content-type"], lines

    same(server, call, document(COMPLETION))


def test_pages(server):
    async def call(client):
        found = [model.id async for model in client.fine_tuning.jobs.list(limit=1)]
        page = await client.models.list()
        return found, [model.id for model in page.data]

    def job(name):
        return {"id": name, "object": "fine_tuning.job"}

    result, requests = same(
        server, call,
        document({"data": [job("a")], "has_more": True}),
        document({"data": [job("b")], "has_more": False}),
        document({"object": "list", "data": [{"id": "m", "object": "model"}]}),
    )  # fmt: skip
    assert result == (["a", "b"], ["m"])
    assert "after=a" in requests[1].target


def test_parse(server):
    class Answer(openai.BaseModel):
        value: int

    async def call(client):
        completion = await client.chat.completions.parse(**HELLO, response_format=Answer)
        return completion.choices[0].message.parsed

    message = {"role": "assistant", "content": '{"value": 7}'}
    reply = {**COMPLETION, "choices": [{**COMPLETION["choices"][0], "message": message}]}
    result, _ = same(server, call, document(reply))
    assert result.value == 7


def test_upload(server, tmp_path):
    """Files from the disk, from memory and from a path, on their way through httpx's own form."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"content " * 50_000)

    async def call(client):
        with path.open("rb") as opened:
            for file in (opened, path, b"bytes", ("n.txt", b"named")):
                await client.files.create(file=file, purpose="batch")

    results = both(server, call)
    assert_same_requests(results)
    assert b"content content" in results[1][1][0].body


# ---- when the SDK says more, or checks more ----


def test_debug_log_is_the_sdks(server, caplog):
    with caplog.at_level(logging.DEBUG, logger="openai"):
        same(server, chat, document(COMPLETION))
    lines = [record.message for record in caplog.records if record.name.startswith("openai")]
    assert len([line for line in lines if line.startswith("HTTP Response")]) == 2


def test_strict_validation(server):
    error, _ = same(
        server, chat, document({"id": 5, "choices": "x"}), _strict_response_validation=True
    )
    assert type(error) is openai.APIResponseValidationError
