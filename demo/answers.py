"""Real text embedded, questions answered from it in a stream, arshai's agent with a real model.

Each step is done twice: as a program does it today, with arshai's OpenAIEmbedding in
asyncio.to_thread and the SDK's AsyncOpenAI, and with ours. The model's own time is nearly all of
what a step takes; what differs is this process's CPU and how long its event loop is held up.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
from display import Meter, say, table
from memories import HAS_ARSHAI, RUN
from models import TIMEOUT, Model
from passages import PASSAGES, QUESTIONS

import arshai_native.openai as native
from arshai_native.embeddings import AsyncOpenAIEmbedding

if HAS_ARSHAI:
    from arshai.agents.hub.working_memory import WorkingMemoryAgent
    from arshai.core.interfaces.iagent import IAgentInput
    from arshai.core.interfaces.iembedding import EmbeddingConfig
    from arshai.core.interfaces.imemorymanager import IMemoryInput
    from arshai.embeddings.openai_embeddings import OpenAIEmbedding

NEAREST = 3  # passages given to the chat model
ANSWER = 60  # tokens at most

Vector = list[float]
Embed = Callable[[list[str]], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def their_embedding(model: Model) -> AsyncIterator[tuple[str, Embed]]:
    """(name, embed): arshai's class in to_thread, or what it does with the SDK."""
    client: Any
    if HAS_ARSHAI:
        with model.in_environment():
            theirs = OpenAIEmbedding(EmbeddingConfig(model_name=model.embedding))
        # With its own ten minutes, an interrupted demo could wait as long for the thread.
        client = theirs.client = theirs.client.with_options(timeout=TIMEOUT)
        name, embed_documents = "OpenAIEmbedding", theirs.embed_documents
    else:
        client, name = openai.OpenAI(**model.client_options), "the SDK's OpenAI"

        def embed_documents(texts: list[str]) -> dict[str, Any]:
            reply = client.embeddings.create(
                model=model.embedding, input=texts, encoding_format="float"
            )
            return {"dense": [item.embedding for item in reply.data]}

    async def embed(texts: list[str]) -> dict[str, Any]:
        return await asyncio.to_thread(embed_documents, texts)

    try:
        yield f"{name} in to_thread", embed
    finally:
        client.close()


def our_embedding(model: Model) -> AsyncOpenAIEmbedding:
    return AsyncOpenAIEmbedding(
        model_name=model.embedding, api_key=model.api_key, base_url=model.base_url, timeout=TIMEOUT
    )


def cosine(one: Vector, other: Vector) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


def compare(theirs: list[Vector], ours: list[Vector], local: bool) -> str:
    count = f"{len(ours)} vectors of {len(ours[0]):,} numbers"
    if theirs == ours:
        return f"the same {count} from both"
    # A hosted model's vectors differ in the last digits from one request to the next.
    least = min(map(cosine, theirs, ours))
    if local or least < 0.99:
        raise SystemExit(f"the vectors of both differ (cosine {least:.4f})")
    return f"{count}, from both the same but for what differs with each request: {least:.6f}"


async def embed_passages(model: Model, ours: AsyncOpenAIEmbedding) -> tuple[list[Vector], Any]:
    """(the passages' vectors, the meters)"""
    times = 2 if model.local else 1
    say(f"{len(PASSAGES)} passages embedded by both, {times} time{'s' * (times > 1)}")
    await ours.embed_document_async("Hello.")  # connected, and known to work
    async with their_embedding(model) as (name, embed):
        await embed(["Hello."])
        found, meters = [], []
        for meter, call in (
            (Meter(name), embed),
            (Meter("AsyncOpenAIEmbedding"), ours.embed_documents_async),
        ):
            async with meter:
                for _ in range(times):
                    result = await call(PASSAGES)
            found.append(result["dense"])
            meters.append(meter)
    print(f"    {compare(*found, model.local)}")
    return found[1], meters


def nearest(question: Vector, vectors: list[Vector]) -> list[str]:
    """The passages closest to the question, seen from the middle of all of them: of a small model
    all vectors point much the same way.
    """
    middle = [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]

    def from_middle(vector: Vector) -> Vector:
        return [a - b for a, b in zip(vector, middle, strict=True)]

    asked = from_middle(question)
    near = {
        passage: cosine(asked, from_middle(vector))
        for passage, vector in zip(PASSAGES, vectors, strict=True)
    }
    return sorted(near, key=near.__getitem__, reverse=True)[:NEAREST]


def messages(question: str, passages: list[str]) -> list[dict[str, str]]:
    notes = "".join(f"- {passage}\n" for passage in passages)
    system = f"Notes:\n{notes}\nQuestions about the notes, answered in full sentences."
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


async def streamed(client: Any, model: Model, prompt: Any, limit: int = ANSWER) -> str:
    """The answer, printed as it comes."""
    stream = await client.chat.completions.create(
        messages=prompt, stream=True, max_tokens=limit, stop=["\n"], **model.exactly
    )
    text = ""
    async for chunk in stream:
        piece = chunk.choices[0].delta.content if chunk.choices else None
        if piece:
            piece = piece if text else piece.lstrip()
            text += piece
            print(piece, end="", flush=True)
    return text


async def answer_questions(
    model: Model, ours: AsyncOpenAIEmbedding, vectors: list[Vector]
) -> list[Meter]:
    questions = QUESTIONS if model.local else QUESTIONS[:1]
    say("answers from the nearest passages, as they come")
    # Calls that wait at the same moment travel as one request.
    asked = await asyncio.gather(*map(ours.embed_document_async, questions))
    meters = [Meter("AsyncOpenAI, the SDK's"), Meter("AsyncOpenAI, ours")]
    async with (
        openai.AsyncOpenAI(**model.client_options) as theirs,
        native.AsyncOpenAI(**model.client_options) as native_client,
    ):
        for client in (theirs, native_client):  # connected
            await client.chat.completions.create(
                messages=[{"role": "user", "content": "Hello."}], max_tokens=1, **model.exactly
            )
        for question, vector in zip(questions, asked, strict=True):
            prompt = messages(question, nearest(vector["dense"], vectors))
            print(f"    {question}")
            texts = []
            for meter, client in zip(meters, (theirs, native_client), strict=True):
                print(f"      {meter.name + ':':<24}", end="", flush=True)
                async with meter:
                    texts.append(await streamed(client, model, prompt))
                print()
            if model.local and texts[0] != texts[1]:
                raise SystemExit("the answers differ")
    return meters


class AgentModel:
    """What arshai's agent asks of an LLM client."""

    def __init__(self, client: Any, model: Model) -> None:
        self.client, self.model = client, model
        self.seen: list[str] = []
        self.said: list[str] = []

    async def chat(self, input: Any) -> dict[str, str]:
        self.seen.append(input.user_message)
        reply = await self.client.chat.completions.create(
            messages=[
                {"role": "system", "content": input.system_prompt},
                {"role": "user", "content": input.user_message},
            ],
            max_tokens=ANSWER, **self.model.exactly,
        )  # fmt: skip
        self.said.append(reply.choices[0].message.content or "")
        return {"llm_response": self.said[-1]}


async def run_agent(model: Model, manager: Any, theirs: Any) -> None:
    """arshai's WorkingMemoryAgent with our memory manager and our client, twice."""
    say("arshai's WorkingMemoryAgent with our manager and our client, twice")
    async with native.AsyncOpenAI(**model.client_options) as client:
        asked = AgentModel(client, model)
        agent = WorkingMemoryAgent(asked, memory_manager=manager)
        metadata = {"conversation_id": f"{RUN}-agent"}
        for message in ("Hi, I am Ana.", "I live in Lisbon."):
            outcome = await agent.process(IAgentInput(message=message, metadata=metadata))
            if outcome != "success":
                raise SystemExit(f"the agent answered {outcome!r}")
    if asked.said[0] not in asked.seen[1]:
        raise SystemExit("the agent's second run did not see the memory of its first")
    key = IMemoryInput(conversation_id=f"{RUN}-agent", memory_type="WORKING_MEMORY")
    (stored,) = await asyncio.to_thread(theirs.retrieve, key)
    if stored.working_memory != asked.said[1]:
        raise SystemExit("arshai's manager did not read what the agent stored")
    print("    success, and arshai's manager reads what it stored")


async def run(model: Model) -> None:
    async with our_embedding(model) as ours:
        vectors, embedded = await embed_passages(model, ours)
        answered = await answer_questions(model, ours, vectors)
    rows = [
        [f"{what}: {meter.name}", f"{meter.seconds:.2f}", f"{meter.cpu * 1e3:.1f}",
         f"{meter.stall * 1e3:.1f}", f"{pair[0].cpu / max(meter.cpu, 1e-6):.1f}x"]
        for what, pair in (("embed", embedded), ("chat", answered))
        for meter in pair
    ]  # fmt: skip
    table(["with a model", "seconds", "CPU ms", "stall ms", "CPU ratio"], rows)
    print(
        "    The seconds are the model's, whoever asks. CPU is this process's; a stall is how\n"
        "    late a heartbeat on the loop was, less its thread's wait for a processor.\n"
    )
