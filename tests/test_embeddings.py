"""AsyncOpenAIEmbedding on real sockets: arshai's requests byte for byte, its results, batches,
errors, arrays, and what is never shown.
"""

import asyncio
import gzip
import logging
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from embedding_server import SECRET, Reply, error, vector_of
from faultkit import free_port, run, wait_until

from arshai_native import embeddings
from arshai_native.embeddings import AsyncOpenAIEmbedding, EmbeddingConfig

pytest_plugins = ("faultfixtures", "embeddingfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

SMALL = "text-embedding-3-small"
TEXTS = [f"text {n}" for n in range(40)]
SOON = {"retry_after_ms": "10"}


def make(api, config=SMALL, **arguments):
    arguments.setdefault("api_key", SECRET)
    arguments.setdefault("trust_env", False)
    return AsyncOpenAIEmbedding(config, base_url=api.url, **arguments)


def both(embedding, texts):
    """embed_documents() and its awaitable twins, which must agree."""

    async def main():
        return [
            await embedding.embed_documents_async(texts),
            await embedding.aembed_documents(texts),
        ]

    results = [embedding.embed_documents(texts), *run(main)]
    assert results[0] == results[1] == results[2]
    return results[0]


# ---- beside arshai's class ----


@pytest.fixture
def arshai(api, monkeypatch):
    """arshai's OpenAIEmbedding on the same server, through the real SDK."""
    module = pytest.importorskip(
        "arshai.embeddings.openai_embeddings", reason="arshai is not installed"
    )
    from arshai.core.interfaces.iembedding import EmbeddingConfig as Config

    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", api.url)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    return SimpleNamespace(OpenAIEmbedding=module.OpenAIEmbedding, EmbeddingConfig=Config)


SAME = {
    "plain": ["hello", "world"],
    "one": ["a"],
    "batches": TEXTS,
    "empty text": [""],
    "unicode": ["h\u00e9llo \u4f60\u597d \U0001f600", "\u2028\u2029", "\x7f\x80\ufeff"],
    "escapes": ['quote " back \\ slash / tab \t nl \n nul \x00 \x1f'],
    "token lists": [[1, 2, 3], [4]],
    "a tuple": ("x", "y"),
}


@pytest.mark.parametrize("what", SAME)
def test_requests_are_arshais_byte_for_byte(api, arshai, what):
    texts = SAME[what]
    config = arshai.EmbeddingConfig(model_name=SMALL)
    theirs, ours = arshai.OpenAIEmbedding(config), AsyncOpenAIEmbedding(config, trust_env=False)
    expected = theirs.embed_documents(texts)
    sent, api.requests = api.requests, []
    assert ours.embed_documents(texts) == expected
    again, api.requests = api.requests, []
    assert run(lambda: ours.embed_documents_async(texts)) == expected

    def bodies(requests):
        return sorted(request.body for request in requests)

    assert bodies(sent) == bodies(again) == bodies(api.requests)
    assert {request.path for request in sent + again} == {"/v1/embeddings"}
    for name in (
        "authorization", "content-type", "accept", "openai-organization", "openai-project",
        "x-stainless-retry-count", "host",
    ):  # fmt: skip
        assert sent[0].headers[name] == again[0].headers[name], name


def test_the_rest_of_arshais_surface(api, arshai):
    """The same names, results and properties; structural typing needs no more."""
    config = arshai.EmbeddingConfig(model_name=SMALL, batch_size=3)
    theirs, ours = arshai.OpenAIEmbedding(config), AsyncOpenAIEmbedding(config, trust_env=False)
    assert ours.embed_document("x") == theirs.embed_document("x") == {"dense": vector_of("x")}
    assert run(lambda: ours.aembed_documents(TEXTS)) == run(lambda: theirs.aembed_documents(TEXTS))
    assert ours.embed_documents([]) == theirs.embed_documents([]) == {"dense": []}
    assert (ours.model_name, ours.batch_size) == (theirs.model_name, theirs.batch_size)
    for model in (SMALL, "text-embedding-3-large", "text-embedding-ada-002", "unknown", None):
        config = arshai.EmbeddingConfig(model_name=model)
        expected = arshai.OpenAIEmbedding(config).dimension
        assert AsyncOpenAIEmbedding(config).dimension == expected, model


def test_the_same_errors(api, arshai):
    """What a program catches from arshai's class it catches from ours, with the same attributes."""
    openai = pytest.importorskip("openai")
    config = arshai.EmbeddingConfig(model_name=SMALL)
    theirs, ours = arshai.OpenAIEmbedding(config), AsyncOpenAIEmbedding(config, trust_env=False)
    for status in (400, 401, 403, 404, 413, 422):
        caught = []
        for embedding in (theirs, ours):
            api.script.append(error(status, "no", x_request_id="req-1"))
            with pytest.raises(openai.APIStatusError) as raised:
                embedding.embed_documents(["x"])
            caught.append(raised.value)
        a, b = caught
        assert type(a) is type(b) and str(a) == str(b)
        for name in ("status_code", "request_id", "body", "code", "param", "type", "message"):
            assert getattr(a, name) == getattr(b, name), name
        assert a.response.json() == b.response.json()
        assert b.response.headers["x-request-id"] == "req-1"
        assert a.request.url == b.request.url and a.request.method == b.request.method
    for embedding in (theirs, ours):
        api.script.append(Reply(418, b"<html>short and stout</html>"))
        with pytest.raises(openai.APIStatusError, match="^<html>short and stout</html>$") as raised:
            embedding.embed_documents(["x"])
        assert raised.value.body == "<html>short and stout</html>"


def test_a_packed_error(api):
    """The SDK's response shows the body unpacked, as it does with the SDK's own transport."""
    pytest.importorskip("openai")
    body = gzip.compress(b'{"error": {"message": "packed", "code": "c"}}')
    api.script.append(Reply(400, body, {"content-encoding": "gzip"}))
    with pytest.raises(embeddings.BadRequestError, match="packed") as raised:
        make(api).embed_document("x")
    assert raised.value.response.json()["error"]["code"] == raised.value.code == "c"


# ---- configuration ----


@pytest.mark.parametrize(
    "config",
    [
        EmbeddingConfig(SMALL, 5),
        {"model_name": SMALL, "batch_size": 5},
        SimpleNamespace(model_name=SMALL, batch_size=5, additional_params={}),
        EmbeddingConfig(SMALL, 99, {"batch_size": 5}),
    ],
    ids=["ours", "dict", "attributes", "additional_params"],
)
def test_configurations(api, config):
    with make(api, config) as embedding:
        assert both(embedding, TEXTS)["dense"] == [vector_of(text) for text in TEXTS]
    assert [len(inputs) for inputs in api.inputs] == [5] * 8 * 3
    assert {request.json["model"] for request in api.requests} == {SMALL}


def test_keyword_arguments_come_first(api):
    config = {"model_name": "a", "batch_size": 2, "additional_params": {"api_key": "wrong"}}
    embedding = make(api, config, model_name="b", batch_size=4, default_headers={"X-Mine": "1"})
    embedding.embed_documents(["x"])
    (request,) = api.requests
    assert request.json["model"] == "b" and embedding.batch_size == 4
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["x-mine"] == "1"


def test_dimensions(api):
    embedding = make(api, "text-embedding-3-large", dimensions=4)
    assert (
        embedding.embed_document("x") == {"dense": vector_of("x", 4)} and embedding.dimension == 4
    )
    assert api.requests[0].body == (
        b'{"input":["x"],"model":"text-embedding-3-large","dimensions":4,"encoding_format":"float"}'
    )
    assert make(api, "unknown", dimension=7).dimension == 7
    learns = make(api, "unknown")
    assert learns.dimension == 1536
    learns.embed_document("x")
    assert learns.dimension == 8
    assert make(api).dimension == 1536


def test_keys(monkeypatch, api):
    with pytest.raises(ValueError, match="OPENAI_API_KEY or EMBEDDINGS_OPENAI_API_KEY"):
        AsyncOpenAIEmbedding(EmbeddingConfig(SMALL))
    AsyncOpenAIEmbedding(EmbeddingConfig(SMALL, None, {"api_key": "k"}))
    monkeypatch.setenv("OPENAI_BASE_URL", api.url)
    with pytest.raises(ValueError):
        AsyncOpenAIEmbedding(EmbeddingConfig(SMALL))
    for name in ("EMBEDDINGS_OPENAI_API_KEY", "OPENAI_API_KEY"):  # the second goes first
        monkeypatch.setenv(name, f"from {name}")
        AsyncOpenAIEmbedding(SMALL, trust_env=False).embed_document("x")
        assert api.requests[-1].headers["authorization"] == f"Bearer from {name}"
        assert "openai-project" not in api.requests[-1].headers
    monkeypatch.delenv("EMBEDDINGS_OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    AsyncOpenAIEmbedding(SMALL, base_url=api.url, trust_env=False).embed_document("x")
    assert "authorization" not in api.requests[-1].headers


def test_addresses(api):
    for url in (api.url + "/", api.url + "?api-version=1&a=b", api.url + "/?api-version=1"):
        AsyncOpenAIEmbedding(SMALL, base_url=url, trust_env=False).embed_document("x")
    assert [request.path for request in api.requests] == [
        "/v1/embeddings", "/v1/embeddings?api-version=1&a=b", "/v1/embeddings?api-version=1",
    ]  # fmt: skip


def test_wrong_arguments(api):
    for arguments in ({"batch_size": 0}, {"max_concurrency": 0}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            make(api, **arguments)
    with pytest.raises(TypeError, match="'api_kye'"):
        make(api, api_kye=SECRET)
    with pytest.raises(ValueError) as raised:
        make(api, api_key=f"{SECRET}\r\nx: y")
    assert SECRET not in str(raised.value)
    embedding = make(api)
    for wrong in (["ok", object()], ["ok", b"bytes"], b"bytes"):
        with pytest.raises(TypeError):
            embedding.embed_documents(wrong)
        with pytest.raises(TypeError):
            run(lambda wrong=wrong: embedding.embed_documents_async(wrong))
    with pytest.raises(UnicodeEncodeError):
        embedding.embed_documents(["\ud800"])
    assert api.requests == []


# ---- batches ----


def test_batches_are_bounded_and_in_order(api):
    embedding = make(api, batch_size=2, max_concurrency=3)
    expected = [vector_of(text) for text in TEXTS]

    async def main():
        with api.hold():
            task = asyncio.ensure_future(embedding.embed_documents_async(TEXTS))
            while api.together < 3:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert api.together == 3
        return await task

    assert run(main) == {"dense": expected}
    assert api.most_together == 3 and len(api.requests) == 20
    assert sorted(sum(api.inputs, [])) == sorted(TEXTS)
    api.most_together = 0
    with ThreadPoolExecutor(1) as executor:
        with api.hold():
            done = executor.submit(embedding.embed_documents, TEXTS)
            assert wait_until(lambda: api.together == 3)
        assert done.result() == {"dense": expected}
    assert api.most_together == 3


def test_items_out_of_order(api):
    api.reverse = True
    assert both(make(api), TEXTS)["dense"] == [vector_of(text) for text in TEXTS]


def test_one_text_is_one_text(api):
    assert both(make(api, batch_size=2), "four")["dense"] == [vector_of("four")]


def test_iterables(api):
    embedding = make(api)
    assert embedding.embed_documents(iter(TEXTS)) == embedding.embed_documents(TEXTS)


def test_one_failing_batch_fails_the_call_and_ends_the_others(api):
    openai = pytest.importorskip("openai")
    embedding = make(api, batch_size=1, max_concurrency=4)
    api.refuse["text 5"] = lambda: error(400, "no 5")

    async def main():
        tasks = asyncio.all_tasks()
        with pytest.raises(openai.BadRequestError, match="no 5"):
            await embedding.embed_documents_async(TEXTS)
        assert asyncio.all_tasks() == tasks
        return len(api.requests)

    count = run(main)
    assert count < 20
    with pytest.raises(openai.BadRequestError, match="no 5"):
        embedding.embed_documents(TEXTS)


def test_cancelled_batches(api):
    embedding = make(api, batch_size=1)

    async def main():
        tasks = asyncio.all_tasks()
        with api.hold():
            task = asyncio.ensure_future(embedding.embed_documents_async(TEXTS))
            while api.together < 8:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == tasks
        return await embedding.embed_documents_async(["x"])

    assert run(main) == {"dense": [vector_of("x")]}
    assert len(api.requests) == 9


# ---- failures ----


def test_a_full_server_is_asked_again(api):
    embedding = make(api)
    api.script.extend([error(429, **SOON), error(503, **SOON)])
    assert embedding.embed_documents(["x"]) == {"dense": [vector_of("x")]}
    counts = [request.headers["x-stainless-retry-count"] for request in api.requests]
    assert counts == ["0", "1", "2"]
    assert len({request.body for request in api.requests}) == 1
    api.script.extend([error(429, **SOON)] * 3)
    with pytest.raises(embeddings.RateLimitError) as raised:
        run(lambda: embedding.embed_document_async("x"))
    assert raised.value.status_code == 429 and raised.value.code == "c429"
    api.script.append(error(429))
    with pytest.raises(embeddings.RateLimitError):
        make(api, max_retries=0).embed_document("x")


def test_no_server():
    api = SimpleNamespace(url=f"http://127.0.0.1:{free_port()}/v1")
    embedding = make(api, max_retries=0)
    with pytest.raises(embeddings.APIConnectionError, match="^Connection error.$") as raised:
        embedding.embed_documents(["x"])
    assert raised.value.__cause__ is not None
    with pytest.raises(embeddings.APIConnectionError):
        run(lambda: embedding.embed_document_async("x"))


def test_a_silent_server(api):
    embedding = make(api, timeout=0.2, max_retries=0)
    with api.hold():
        with pytest.raises(embeddings.APITimeoutError, match="^Request timed out.$"):
            embedding.embed_document("x")
        with pytest.raises(embeddings.APITimeoutError):
            run(lambda: embedding.embed_document_async("x"))


def test_a_reply_that_breaks_off(api):
    embedding = make(api, max_retries=0)
    for reply in (Reply(200, b"{" * 1000, cut=True), Reply(drop=True)):
        api.script.append(reply)
        with pytest.raises(embeddings.APIConnectionError):
            embedding.embed_document("x")
    assert embedding.embed_document("x") == {"dense": vector_of("x")}


def item(index, embedding):
    return {"object": "embedding", "index": index, "embedding": embedding}


WRONG = {
    "no JSON": b"<html></html>",
    "empty": b"",
    "no data": {"object": "list"},
    "an empty list": {"data": []},
    "one for two": {"data": [item(0, [1.0])]},
    "three for two": {"data": [item(n, [1.0]) for n in range(3)]},
    "different lengths": {"data": [item(0, [1.0]), item(1, [1.0, 2.0])]},
    "one index twice": {"data": [item(0, [1.0]), item(0, [1.0])]},
    "an index too large": {"data": [item(0, [1.0]), item(2, [1.0])]},
    "no number": {"data": [item(0, [1.0]), item(1, ["x"])]},
    "invalid base64": {"data": [item(0, "AACAPw=="), item(1, "AAC*Pw==")]},
    "base64 of no floats": {"data": [item(0, "AACAPw=="), item(1, "AACAPwA=")]},
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("as_numpy", [False, True])
def test_replies_that_are_none(api, what, as_numpy):
    embedding = make(api, as_numpy=as_numpy, gather=False)
    api.script.extend([Reply(200, WRONG[what])] * 2)
    with pytest.raises(ValueError) as raised:
        embedding.embed_documents(["x", "y"])
    assert str(raised.value)
    with pytest.raises(ValueError):
        run(lambda: embedding.embed_documents_async(["x", "y"]))
    assert list(embedding.embed_document("x")["dense"]) == vector_of("x")  # the next is answered


# ---- arrays ----


def test_as_numpy(api):
    numpy = pytest.importorskip("numpy")
    embedding = make(api, as_numpy=True)
    expected = numpy.array([vector_of(text) for text in TEXTS[:16]], dtype="float32")

    def check(vectors):
        assert all(type(vector) is numpy.ndarray for vector in vectors)
        assert {(vector.dtype.str, vector.shape) for vector in vectors} == {("<f4", (8,))}
        assert numpy.array_equal(numpy.stack(vectors), expected)
        # One memory for all, which is theirs by reference: nothing has been copied.
        addresses = [vector.__array_interface__["data"][0] for vector in vectors]
        assert {b - a for a, b in zip(addresses, addresses[1:], strict=False)} == {32}
        assert not any(vector.flags.owndata for vector in vectors)

    check(embedding.embed_documents(TEXTS[:16])["dense"])
    check(run(lambda: embedding.embed_documents_async(TEXTS[:16]))["dense"])
    assert {request.json["encoding_format"] for request in api.requests} == {"base64"}
    alone = embedding.embed_document("x")["dense"]
    assert alone.dtype == "float32" and alone.tolist() == vector_of("x")


def test_base64_without_numpy(api):
    embedding = make(api, encoding_format="base64")
    assert embedding.embed_document("x") == {"dense": vector_of("x")}
    assert api.requests[0].json["encoding_format"] == "base64"


def test_a_server_that_answers_as_it_likes(api):
    """Floats where base64 was asked for, as servers do that do not know it."""
    pytest.importorskip("numpy")

    def floats(body):
        for each, text in zip(body["data"], api.requests[-1].inputs, strict=True):
            each["embedding"] = vector_of(text)
        return body

    api.change = floats
    assert make(api, as_numpy=True).embed_document("x")["dense"].tolist() == vector_of("x")


# ---- threads, end ----


def test_threads(api):
    """One object, synchronous calls of many threads and loops of others."""
    embedding = make(api)
    expected = {"dense": [vector_of(text) for text in TEXTS]}

    def synchronous(_):
        return embedding.embed_documents(TEXTS) == expected

    def loop(_):
        return run(lambda: embedding.embed_documents_async(TEXTS)) == expected

    with ThreadPoolExecutor(8) as executor:
        jobs = [executor.submit(kind, n) for n in range(12) for kind in (synchronous, loop)]
        assert all(job.result() for job in jobs)
    assert len(api.requests) == 24 * 3


def test_a_synchronous_call_lets_others_run(api):
    embedding = make(api)
    ran = threading.Event()
    with api.hold():
        thread = threading.Thread(target=embedding.embed_document, args=("x",))
        thread.start()
        while api.together == 0:
            time.sleep(0.01)  # this thread and the server's need the GIL for it
        ran.set()
    thread.join()
    assert ran.is_set()


def test_close_and_on(api):
    async def main():
        async with make(api) as embedding:
            await embedding.embed_document_async("x")
            with api.hold():
                task = asyncio.ensure_future(embedding.embed_document_async("x"))
                while api.together == 0:
                    await asyncio.sleep(0.01)
                await embedding.close_async()
                with pytest.raises(embeddings.APIConnectionError):
                    await task
            return await embedding.embed_document_async("y")

    assert run(main) == {"dense": vector_of("y")}


# ---- what importing costs, and what is never shown ----


def child(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )


def test_imports():
    done = child("""
        import sys
        import arshai_native.embeddings, arshai_native.speech
        from arshai_native.embeddings import AsyncOpenAIEmbedding
        AsyncOpenAIEmbedding("m", api_key="k")
        for name in ("openai", "voyageai", "arshai", "numpy", "pymilvus", "httpx", "pydantic"):
            assert name not in sys.modules, name
        print("none")
    """)
    assert done.stdout == "none\n", done.stderr


def test_without_the_sdk(api):
    """Classes of openai's names where it is not installed."""
    api.refuse["bad"] = lambda: error(422, "bad one", x_request_id="req-2")
    done = child(f"""
        import asyncio, sys
        sys.modules["openai"] = None
        from arshai_native import embeddings
        embedding = embeddings.AsyncOpenAIEmbedding("m", base_url={api.url!r})
        for call in (
            lambda: embedding.embed_document("bad"),
            lambda: asyncio.run(embedding.embed_document_async("bad")),
        ):
            try:
                call()
            except embeddings.UnprocessableEntityError as error:
                assert isinstance(error, embeddings.APIStatusError)
                assert isinstance(error, embeddings.APIError)
                assert error.status_code == 422 and error.code == "c422"
                assert error.request_id == "req-2" and error.body["message"] == "bad one"
                print(error)
        embedding.close_sync()
        embedding = embeddings.AsyncOpenAIEmbedding(
            "m", base_url="http://127.0.0.1:{free_port()}", max_retries=0
        )
        try:
            embedding.embed_document("x")
        except embeddings.APIConnectionError as error:
            print(error)
        assert "httpx" not in sys.modules
    """)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[0] == lines[1] and lines[0].startswith("Error code: 422 - {'error'")
    assert lines[2] == "Connection error."


def test_the_first_error_does_not_block_the_loop(api):
    """Importing openai takes half a second; it is done beside the event loop."""
    api.refuse["bad"] = lambda: error(400)
    done = child(f"""
        import asyncio, sys, time
        from arshai_native import embeddings
        embedding = embeddings.AsyncOpenAIEmbedding("m", base_url={api.url!r})
        async def main():
            turns = []
            async def count():
                while True:
                    await asyncio.sleep(0)
                    turns.append("openai" in sys.modules)
            counting = asyncio.create_task(count())
            try:
                await embedding.embed_document_async("bad")
            except Exception as error:
                assert type(error).__module__ == "openai", type(error)
            counting.cancel()
            return turns.count(True)
        print(asyncio.run(main()))
    """)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5  # turns of the loop while openai was being imported


def test_nothing_shows_the_key(api, caplog):
    caplog.set_level(logging.DEBUG)
    url = api.url.replace("//", f"//user:{SECRET}@") + f"?key={SECRET}"
    shown = [repr(AsyncOpenAIEmbedding(SMALL, api_key=SECRET, base_url=url))]
    embedding = make(api)
    shown += [repr(embedding), str(vars(embedding)["_client"]), embedding.base_url]
    shown.append(repr(EmbeddingConfig(SMALL, 1, {"api_key": SECRET})))
    # A server that sends back what it got.
    api.refuse["bad"] = lambda: error(401, f"Incorrect API key provided: {SECRET}", x_echo=SECRET)
    for call in (
        lambda: embedding.embed_document("bad"),
        lambda: run(lambda: embedding.embed_document_async("bad")),
        lambda: AsyncOpenAIEmbedding(
            SMALL, api_key=SECRET, base_url=f"http://u:{SECRET}@127.0.0.1:{free_port()}",
            max_retries=0,
        ).embed_document("x"),
    ):  # fmt: skip
        with pytest.raises(embeddings.APIError) as raised:
            call()
        error_ = raised.value
        shown += [str(error_), repr(error_), repr(error_.__cause__), str(error_.body)]
        shown += [str(error_.request.url), str(error_.request.headers)]
        if hasattr(error_, "response"):
            shown += [error_.response.text, str(dict(error_.response.headers))]
    shown += [record.getMessage() for record in caplog.records]
    assert len(shown) > 20 and not [text for text in shown if SECRET in text]
