"""A real model behind the OpenAI API (llama.cpp): chat, streams and embeddings through the native
clients, beside what the SDK's own client makes of the same server.
"""

import asyncio
import json
from typing import Literal

import openai
import pytest
from httpservers import LlamaServer, NotInstalled
from pydantic import BaseModel

import arshai_native.openai as native
from arshai_native.embeddings import AsyncOpenAIEmbedding

QUESTION = [
    {"role": "system", "content": "Questions about cities, answered in full sentences."},
    {"role": "user", "content": "What is Rome known for?"},
    {"role": "assistant", "content": "Rome is known for the Colosseum, the Vatican and fountains."},
    {"role": "user", "content": "What is Paris known for?"},
]
# Greedy, nothing kept of earlier requests, one slot: the same text each time (see LlamaServer).
SETTINGS = {
    "temperature": 0, "seed": 7, "max_tokens": 24,
    "extra_body": {"cache_prompt": False, "ignore_eos": True},
}  # fmt: skip
TEXTS = ["The loop runs one task.", "Ein Satz mit Umlauten: äöü.", "日本語と 🙂", "x" * 99]
# More than the server takes.
TOO_LONG = "word " * 3000


@pytest.fixture(scope="module")
def llama():
    try:
        server = LlamaServer()
    except NotInstalled as error:
        pytest.skip(f"no model to ask: {error}")
    with server:
        yield server


def with_both(llama, use):
    """What use(client) returns for the native client and for the SDK's."""

    async def run(kind):
        async with kind(api_key="none", base_url=llama.base_url, max_retries=0) as client:
            return await use(client)

    return asyncio.run(run(native.AsyncOpenAI)), asyncio.run(run(openai.AsyncOpenAI))


def lasting(model):
    """A model's fields but for those that are new each time."""
    return {
        name: value
        for name, value in model.model_dump().items()
        if name not in ("id", "created", "timings")
    }


def error_of(llama, use):
    """What the callers of both see of an error."""

    async def failing(client):
        with pytest.raises(openai.APIStatusError) as caught:
            await use(client)
        error = caught.value
        return type(error), str(error), error.status_code, error.body, error.code, error.type

    ours, theirs = with_both(llama, failing)
    assert ours == theirs
    return ours


def test_it_is_ours():
    assert native.AsyncOpenAI is not openai.AsyncOpenAI
    assert issubclass(native.AsyncOpenAI, openai.AsyncOpenAI)


def test_chat(llama):
    async def use(client):
        return await client.chat.completions.create(
            model=llama.model, messages=QUESTION, **SETTINGS
        )

    ours, theirs = with_both(llama, use)
    assert type(ours) is type(theirs)
    assert "Paris" in ours.choices[0].message.content and ours.usage.completion_tokens == 24
    assert lasting(ours) == lasting(theirs)
    assert ours.model_fields_set == theirs.model_fields_set


def test_log_probabilities(llama):
    """Lists within lists of small objects, and numbers of many digits."""

    async def use(client):
        return await client.chat.completions.create(
            model=llama.model, messages=QUESTION, logprobs=True, top_logprobs=3,
            **{**SETTINGS, "max_tokens": 4},
        )  # fmt: skip

    ours, theirs = with_both(llama, use)
    assert len(ours.choices[0].logprobs.content) == 4
    assert lasting(ours) == lasting(theirs)


def test_completions(llama):
    async def use(client):
        return await client.completions.create(
            model=llama.model, prompt="The capital of France is", **{**SETTINGS, "max_tokens": 8}
        )

    ours, theirs = with_both(llama, use)
    assert type(ours) is type(theirs) and len(ours.choices[0].text) > 10
    assert lasting(ours) == lasting(theirs)


class City(BaseModel):
    known: bool
    river: Literal["Seine", "Tiber"]


SCHEMA = {
    "name": "city", "strict": True,
    "schema": {
        "type": "object", "additionalProperties": False, "required": ["known", "river"],
        "properties": {"known": {"type": "boolean"}, "river": {"enum": ["Seine", "Tiber"]}},
    },
}  # fmt: skip


@pytest.mark.parametrize("helper", [False, True], ids=["create", "parse"])
def test_json_of_a_schema(llama, helper):
    settings = {**SETTINGS, "max_tokens": 120, "extra_body": {"cache_prompt": False}}

    async def use(client):
        create = client.chat.completions.parse if helper else client.chat.completions.create
        return await create(
            model=llama.model, messages=QUESTION, **settings,
            response_format=City if helper else {"type": "json_schema", "json_schema": SCHEMA},
        )  # fmt: skip

    ours, theirs = with_both(llama, use)
    assert type(ours) is type(theirs)
    assert lasting(ours) == lasting(theirs)
    message = ours.choices[0].message
    assert ours.choices[0].finish_reason == "stop"
    assert set(json.loads(message.content)) == {"known", "river"}
    if helper:
        assert message.parsed == City(**json.loads(message.content))


def test_many_at_once(llama):
    async def use(client):
        calls = (
            client.chat.completions.create(
                model=llama.model, messages=QUESTION, **{**SETTINGS, "max_tokens": 1 + i}
            )
            for i in range(8)
        )
        return [answer.usage.completion_tokens for answer in await asyncio.gather(*calls)]

    ours, theirs = with_both(llama, use)
    assert ours == theirs == list(range(1, 9))


def test_stream(llama):
    async def use(client):
        stream = await client.chat.completions.create(
            model=llama.model, messages=QUESTION, stream=True,
            stream_options={"include_usage": True}, **SETTINGS,
        )  # fmt: skip
        return [chunk async for chunk in stream]

    ours, theirs = with_both(llama, use)
    assert [lasting(chunk) for chunk in ours] == [lasting(chunk) for chunk in theirs]
    # The usage chunk is the last: [DONE] is none.
    assert ours[-1].choices == [] and ours[-1].usage.completion_tokens == 24
    assert [choice.finish_reason for chunk in ours for choice in chunk.choices][-1] == "length"
    assert len({chunk.id for chunk in ours}) == 1


def test_stream_comes_as_it_is_made(llama):
    """The first words are there before the model has made the last."""

    async def use(client):
        loop = asyncio.get_running_loop()
        settings = {**SETTINGS, "max_tokens": 60}
        stream = await client.chat.completions.create(
            model=llama.model, messages=QUESTION, stream=True, **settings
        )
        return [loop.time() async for chunk in stream if chunk.choices]

    times, _ = with_both(llama, use)
    assert len(times) > 40
    assert times[10] - times[0] < (times[-1] - times[0]) / 2


def test_stream_given_up(llama):
    async def use(client):
        settings = {**SETTINGS, "max_tokens": 400}
        async with await client.chat.completions.create(
            model=llama.model, messages=QUESTION, stream=True, **settings
        ) as stream:
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    break
        answer = await client.chat.completions.create(
            model=llama.model, messages=QUESTION, **SETTINGS
        )
        return answer.usage.completion_tokens

    assert with_both(llama, use) == (24, 24)


def embed(llama, **options):
    async def use(client):
        options.setdefault("input", TEXTS)
        return await client.embeddings.create(model=llama.model, **options)

    return with_both(llama, use)


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"input": TEXTS[1]}])
def test_embeddings(llama, options):
    count = 1 if "input" in options else len(TEXTS)
    ours, theirs = embed(llama, **options)
    assert type(ours) is type(theirs) and type(ours.data[0]) is type(theirs.data[0])
    assert [len(item.embedding) for item in ours.data] == [640] * count
    assert all(type(number) is float for item in ours.data for number in item.embedding)
    assert len({tuple(item.embedding) for item in ours.data}) == count
    assert lasting(ours) == lasting(theirs)


def test_embeddings_as_base64_stay_so_when_asked_for(llama):
    ours, theirs = embed(llama, encoding_format="base64")
    assert isinstance(ours.data[0].embedding, str)
    assert [item.embedding for item in ours.data] == [item.embedding for item in theirs.data]
    assert ours.usage == theirs.usage and ours.model == theirs.model


def test_both_encodings_are_the_same_vectors(llama):
    """Base64 holds float32; as text they are written with fewer digits."""
    (floats, _), (defaults, _) = embed(llama, encoding_format="float"), embed(llama)
    for one, other in zip(floats.data, defaults.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, rel=1e-5, abs=1e-7)


# ---- arshai_native.embeddings ----


def embedding_of(llama, **options):
    return AsyncOpenAIEmbedding(model_name=llama.model, base_url=llama.base_url, **options)


@pytest.fixture(scope="module")
def vectors(llama):
    """What the SDK receives for TEXTS, as text and as base64."""

    async def ask():
        async with openai.AsyncOpenAI(api_key="none", base_url=llama.base_url) as client:
            for encoding in ({"encoding_format": "float"}, {}):
                reply = await client.embeddings.create(model=llama.model, input=TEXTS, **encoding)
                yield [item.embedding for item in reply.data]

    async def both():
        return [vectors async for vectors in ask()]

    return asyncio.run(both())


def test_embedding_class(llama, vectors):
    """One request, several batches at once, one text at a time, and those gathered."""

    async def use(embedding):
        async with embedding:
            assert embedding.dimension == 1536  # arshai's guess, until a vector has said it
            whole = await embedding.embed_documents_async(TEXTS)
            assert embedding.dimension == 640
            single = [await embedding.embed_document_async(text) for text in TEXTS]
            at_once = await asyncio.gather(*map(embedding.embed_document_async, TEXTS[::-1]))
            return whole["dense"], [r["dense"] for r in single], [r["dense"] for r in at_once]

    for options in ({}, {"batch_size": 2}, {"gather": False}):
        whole, single, at_once = asyncio.run(use(embedding_of(llama, **options)))
        assert whole == single == vectors[0]
        assert at_once == vectors[0][::-1]


def test_embedding_class_without_a_loop(llama, vectors):
    embedding = embedding_of(llama, encoding_format="base64", batch_size=3)
    assert embedding.embed_documents(TEXTS)["dense"] == vectors[1]
    assert embedding.embed_document(TEXTS[2])["dense"] == vectors[1][2]
    embedding.close_sync()


def test_embedding_class_with_numpy(llama, vectors):
    numpy = pytest.importorskip("numpy")

    async def use():
        async with embedding_of(llama, as_numpy=True) as embedding:
            return (await embedding.aembed_documents(TEXTS))["dense"]

    found = asyncio.run(use())
    assert all(vector.dtype == numpy.float32 for vector in found)
    assert [vector.tolist() for vector in found] == vectors[1]


def test_embedding_class_as_arshai(llama, vectors, monkeypatch):
    module = pytest.importorskip(
        "arshai.embeddings.openai_embeddings", reason="arshai is not installed"
    )
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", llama.base_url)
    config = module.EmbeddingConfig(model_name=llama.model, batch_size=3)
    theirs = module.OpenAIEmbedding(config)
    assert theirs.embed_documents(TEXTS) == {"dense": vectors[0]}
    with AsyncOpenAIEmbedding(config) as ours:
        assert ours.embed_documents(TEXTS) == {"dense": vectors[0]}
        assert ours.embed_document(TEXTS[3]) == theirs.embed_document(TEXTS[3])
    theirs.client.close()


def test_a_text_too_long_fails_alone(llama, vectors):
    """llama.cpp answers with 500 to all of a request: what was gathered is asked for anew."""

    async def use():
        async with embedding_of(llama, max_retries=0) as embedding:
            calls = map(embedding.embed_document_async, [TEXTS[0], TOO_LONG, TEXTS[2]])
            return await asyncio.gather(*calls, return_exceptions=True)

    first, error, last = asyncio.run(use())
    assert (first["dense"], last["dense"]) == (vectors[0][0], vectors[0][2])
    assert type(error) is openai.InternalServerError and "too large" in str(error)


# ---- errors ----


def test_error(llama):
    kind, *_ = error_of(
        llama,
        lambda client: client.chat.completions.create(
            model=llama.model, messages=[{"role": "user"}]
        ),
    )
    assert issubclass(kind, openai.APIStatusError)


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_a_chat(llama, stream):
    message = {"role": "user", "content": TOO_LONG}
    kind, text, status, *_, type_ = error_of(
        llama,
        lambda client: client.chat.completions.create(
            model=llama.model, messages=[message], stream=stream, max_tokens=5
        ),
    )
    assert kind is openai.BadRequestError and status == 400
    assert "exceeds the available context size" in text and type_ == "exceed_context_size_error"


@pytest.mark.parametrize(
    "texts, kind", [(TOO_LONG, openai.InternalServerError), ([], openai.BadRequestError)]
)
def test_embeddings_that_are_refused(llama, texts, kind):
    found, *_ = error_of(
        llama, lambda client: client.embeddings.create(model=llama.model, input=texts)
    )
    assert found is kind


def test_models(llama):
    async def use(client):
        return [model.id async for model in client.models.list()]

    assert with_both(llama, use) == ([llama.model], [llama.model])
