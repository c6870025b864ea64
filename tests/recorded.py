"""Replies as an OpenAI server sends them, made when they are needed, the same in every run: a chat
completion, embeddings as numbers and as base64, a stream. Nothing here needs pytest.
"""

from __future__ import annotations

import base64
import json
import random
import struct

ANSWER = (
    "An event loop runs one task until it waits for something, then the next. What blocks it, "
    "blocks all of them: a hundred users wait for the one whose vectors are being turned into "
    "Python objects. So whatever takes long belongs on another thread, and whatever belongs on "
    "the loop's has to be short."
)


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def usage(prompt: int, completion: int) -> dict[str, object]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def chat() -> bytes:
    """A completion, 0.9 KB."""
    message = {"role": "assistant", "content": ANSWER, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return compact(
        {
            "id": "chatcmpl-CfG4lVb6YxRiT1Tn4T3bqYkqvD1aS",
            "object": "chat.completion",
            "created": 1764051600,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [choice],
            "usage": usage(31, 60),
            "service_tier": "default",
            "system_fingerprint": "fp_560af6e559",
        }
    )


def stream(chunks: int = 200) -> bytes:
    """So many chunks as server-sent events: a role, words, the reason for the end, the usage."""
    words = (ANSWER.split(" ") * (chunks // 50 + 1))[: chunks - 3]

    def event(choices: list[object], used: object = None) -> bytes:
        value = {
            "id": "chatcmpl-CfG4lVb6YxRiT1Tn4T3bqYkqvD1aS",
            "object": "chat.completion.chunk",
            "created": 1764051600,
            "model": "gpt-4o-mini-2024-07-18",
            "service_tier": "default",
            "system_fingerprint": "fp_560af6e559",
            "choices": choices,
            "usage": used,
            "obfuscation": "b7Ue2Kq",
        }
        return b"data: " + compact(value) + b"\n\n"

    def choice(delta: dict[str, object], reason: str | None = None) -> list[object]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    return b"".join(
        [
            event(choice({"role": "assistant", "content": "", "refusal": None})),
            *(event(choice({"content": word + " "})) for word in words),
            event(choice({}, "stop")),
            event([], usage(31, len(words))),
            b"data: [DONE]\n\n",
        ]
    )


def vectors(count: int, dimension: int = 1536) -> list[list[float]]:
    """Numbers that are float32, written as the API writes them: with all of a double's digits."""
    rng = random.Random(count)
    packed = struct.pack(f"<{dimension}f", *(rng.gauss(0, 0.0255) for _ in range(dimension)))
    first = list(struct.unpack(f"<{dimension}f", packed))
    # Turned by one place for each further one: all different, for the cost of making one.
    return [first[-i % dimension :] + first[: -i % dimension] for i in range(count)]


def embeddings(count: int, encoding_format: str = "float", dimension: int = 1536) -> bytes:
    made: list[object] = list(vectors(count, dimension))
    if encoding_format == "base64":
        pack = struct.Struct(f"<{dimension}f").pack
        made = [base64.b64encode(pack(*v)).decode() for v in made]  # type: ignore[misc]
    return compact(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(made)
            ],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 12 * count, "total_tokens": 12 * count},
        }
    )
