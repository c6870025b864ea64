"""A real model behind the OpenAI API (llama.cpp): chat, streams and embeddings through the native
client, beside what the SDK's own client makes of the same server.
"""

import asyncio

import openai
import pytest
from httpservers import LlamaServer, NotInstalled

import arshai_native.openai as native

QUESTION = [{"role": "user", "content": "Name the capital of France, and what it is known for."}]
# Greedy, and nothing kept of earlier requests: the same text each time.
SETTINGS = {"temperature": 0, "seed": 7, "max_tokens": 24, "extra_body": {"cache_prompt": False}}
TEXTS = ["The loop runs one task.", "Ein Satz mit Umlauten: äöü.", "日本語と 🙂", "x" * 400]


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
        async with kind(api_key="none", base_url=llama.base_url) as client:
            return await use(client)

    return asyncio.run(run(native.AsyncOpenAI)), asyncio.run(run(openai.AsyncOpenAI))


def lasting(model):
    """A model's fields but for those that are new each time."""
    return {
        name: value
        for name, value in model.model_dump().items()
        if name not in ("id", "created", "timings")
    }


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
    assert ours.choices[0].message.content and ours.usage.completion_tokens == 24
    assert lasting(ours) == lasting(theirs)
    assert ours.model_fields_set == theirs.model_fields_set


def test_many_at_once(llama):
    async def use(client):
        calls = (
            client.chat.completions.create(
                model=llama.model, messages=QUESTION, **{**SETTINGS, "max_tokens": 1 + i}
            )
            for i in range(12)
        )
        return [answer.usage.completion_tokens for answer in await asyncio.gather(*calls)]

    ours, theirs = with_both(llama, use)
    assert ours == theirs == list(range(1, 13))


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
        settings = {**SETTINGS, "max_tokens": 100}
        stream = await client.chat.completions.create(
            model=llama.model, messages=QUESTION, stream=True, **settings
        )
        return [loop.time() async for chunk in stream if chunk.choices]

    times, _ = with_both(llama, use)
    assert len(times) > 50
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
        return await client.embeddings.create(model=llama.model, input=TEXTS, **options)

    return with_both(llama, use)


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}])
def test_embeddings(llama, options):
    ours, theirs = embed(llama, **options)
    assert type(ours) is type(theirs) and type(ours.data[0]) is type(theirs.data[0])
    assert [len(item.embedding) for item in ours.data] == [640] * len(TEXTS)
    assert all(type(number) is float for item in ours.data for number in item.embedding)
    assert len({tuple(item.embedding) for item in ours.data}) == len(TEXTS)
    assert lasting(ours) == lasting(theirs)


def test_embeddings_as_base64_stay_so_when_asked_for(llama):
    ours, theirs = embed(llama, encoding_format="base64")
    assert isinstance(ours.data[0].embedding, str)
    assert lasting(ours) == lasting(theirs)


def test_both_encodings_are_the_same_vectors(llama):
    """Base64 holds float32; as text they are written with fewer digits."""
    (floats, _), (defaults, _) = embed(llama, encoding_format="float"), embed(llama)
    for one, other in zip(floats.data, defaults.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, rel=1e-5, abs=1e-7)


def test_error(llama):
    async def use(client):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model=llama.model, messages=[{"role": "user"}])
        error = caught.value
        return type(error), str(error), error.status_code, error.body, error.code

    ours, theirs = with_both(llama, use)
    assert ours == theirs


def test_models(llama):
    async def use(client):
        return [model.id async for model in client.models.list()]

    assert with_both(llama, use) == ([llama.model], [llama.model])
