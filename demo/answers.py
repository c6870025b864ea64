"""Text embedded and put into Milvus, questions answered from what is found there; arshai's agent.

Each step is done twice: as a program does it today, with arshai's OpenAIEmbedding, MilvusClient and
RedisWorkingMemoryManager in asyncio.to_thread and the SDK's AsyncOpenAI, and with ours. What a
conversation was about is kept in Redis between its questions. Where the model is asked, nearly all
of the time is its own; what differs is this process's CPU and how long its event loop is held up.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import searches
from display import Meter, say, table
from memories import HAS_ARSHAI, RUN, Conversation, in_thread
from models import TIMEOUT, Model
from passages import PASSAGES, QUESTIONS
from searches import Vector

import arshai_native.openai as native
from arshai_native.embeddings import AsyncOpenAIEmbedding

if HAS_ARSHAI:
    from arshai.agents.hub.working_memory import WorkingMemoryAgent
    from arshai.core.interfaces.iagent import IAgentInput
    from arshai.core.interfaces.iembedding import EmbeddingConfig
    from arshai.core.interfaces.imemorymanager import IMemoryInput
    from arshai.embeddings.openai_embeddings import OpenAIEmbedding

ANSWER = 60  # tokens at most

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

    try:
        yield f"{name} in to_thread", in_thread(embed_documents)
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


def messages(question: str, passages: list[str], memory: str) -> list[dict[str, str]]:
    notes = "".join(f"- {passage}\n" for passage in passages)
    earlier = f"Earlier in this conversation:\n{memory}\n" if memory else ""
    system = f"{earlier}Notes:\n{notes}\nQuestions about the notes, answered in full sentences."
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


async def search_passages(
    ours: AsyncOpenAIEmbedding, questions: list[str], vectors: list[Vector]
) -> tuple[list[list[str]], searches.Steps]:
    """(for each question the nearest passages, the steps)"""
    # Calls that wait at the same moment travel as one request.
    asked = await asyncio.gather(*map(ours.embed_document_async, questions))
    # Seen from the middle of the passages: of a small model all vectors point much the same way.
    middle = [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]
    return await searches.run(
        searches.from_middle(vectors, middle),
        searches.from_middle([vector["dense"] for vector in asked], middle),
    )


async def answer_questions(
    model: Model, questions: list[str], found: list[list[str]], manager: Any, theirs: Any
) -> searches.Steps:
    say("answers from the nearest passages, as they come, and remembered")
    steps = [
        ("memory", [Meter(f"{type(theirs).__name__} in to_thread"), Meter(type(manager).__name__)]),
        ("chat", [Meter("AsyncOpenAI, the SDK's"), Meter("AsyncOpenAI, ours")]),
    ]
    talks = [
        Conversation("sdk", in_thread(theirs.store), in_thread(theirs.retrieve)),
        Conversation("ours", manager.store_async, manager.retrieve_async),
    ]
    async with (
        openai.AsyncOpenAI(**model.client_options) as sdk,
        native.AsyncOpenAI(**model.client_options) as native_client,
    ):
        for client in (sdk, native_client):  # connected
            await client.chat.completions.create(
                messages=[{"role": "user", "content": "Hello."}], max_tokens=1, **model.exactly
            )
        for question, passages in zip(questions, found, strict=True):
            print(f"    {question}")
            texts = []
            for client, talk, remembering, chatting in zip(
                (sdk, native_client), talks, steps[0][1], steps[1][1], strict=True
            ):
                print(f"      {chatting.name + ':':<24}", end="", flush=True)
                async with remembering:
                    memory = await talk.recall()
                async with chatting:
                    text = await streamed(client, model, messages(question, passages, memory))
                print()
                async with remembering:
                    await talk.remember(f"{memory}- {question} {text}\n")
                texts.append(text)
            if model.local and texts[0] != texts[1]:
                raise SystemExit("the answers differ")
    return steps


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


async def run(model: Model, manager: Any, theirs: Any) -> None:
    questions = QUESTIONS if model.local else QUESTIONS[:1]
    async with our_embedding(model) as ours:
        vectors, embedded = await embed_passages(model, ours)
        found, searched = await search_passages(ours, questions, vectors)
    answered = await answer_questions(model, questions, found, manager, theirs)
    rows = []
    for what, pair in (("embed", embedded), *searched, *answered):
        for meter in pair:
            time = f"{pair[0].seconds / max(meter.seconds, 1e-6):.1f}x"
            cpu = f"{pair[0].cpu / max(meter.cpu, 1e-6):.1f}x"
            rows.append(
                [f"{what}: {meter.name}", f"{meter.seconds:.3f}", f"{meter.cpu * 1e3:.1f}",
                 f"{meter.stall * 1e3:.1f}", "-" if what in ("embed", "chat") else time, cpu]
            )  # fmt: skip
    table(["step", "seconds", "CPU ms", "stall ms", "time ratio", "CPU ratio"], rows)
    print(
        "    The seconds of embed and chat are the model's, whoever asks. CPU is this process's;\n"
        "    a stall is how late a heartbeat on the loop was, less its thread's wait to be run.\n"
    )
