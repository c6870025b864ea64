"""The model the demo asks: the user's account with OpenAI, or llama.cpp with a small model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import openai
from display import first_line, say
from environ import environment
from httpservers import CannotStart, LlamaServer

OPENAI_URL = "https://api.openai.com/v1"
TIMEOUT = 60.0  # seconds; the clients' own is ten minutes


@dataclass(frozen=True, repr=False)  # a repr would show the key
class Model:
    base_url: str
    api_key: str
    chat: str
    embedding: str
    # On this machine: costs nothing, and says the same each time.
    local: bool

    @property
    def client_options(self) -> dict[str, Any]:
        return {"api_key": self.api_key, "base_url": self.base_url, "timeout": TIMEOUT}

    @property
    def exactly(self) -> dict[str, Any]:
        """For a chat: the likeliest words, of llama.cpp with nothing kept of earlier prompts."""
        extra = {"extra_body": {"cache_prompt": False}} if self.local else {}
        return {"model": self.chat, "temperature": 0, **extra}

    def in_environment(self) -> AbstractContextManager[None]:
        """Where arshai's classes look for key and address."""
        return environment(OPENAI_API_KEY=self.api_key, OPENAI_BASE_URL=self.base_url)

    def refusal(self, error: Exception) -> str:
        """One line for the user. Servers quote keys that they refuse: not that."""
        cause = error.__cause__ or error.__context__
        if isinstance(error, openai.AuthenticationError):
            what = "it refuses the key of OPENAI_API_KEY (401)"
        elif isinstance(error, openai.APIConnectionError) and cause is not None:
            what = f"{first_line(error)} {first_line(cause)}"
        else:
            what = first_line(error)
        return f"{self.where}: {type(error).__name__}: {what[:300]}".replace(self.api_key, "[key]")

    @property
    def where(self) -> str:
        if self.local:
            return "llama-server"
        host = self.base_url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        return host or "OPENAI_BASE_URL"


def account() -> Model | None:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        return None
    return Model(
        base_url=os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI_URL,
        api_key=key,
        chat=os.environ.get("DEMO_CHAT_MODEL", "gpt-4o-mini"),
        embedding=os.environ.get("DEMO_EMBEDDING_MODEL", "text-embedding-3-small"),
        local=False,
    )


@contextlib.contextmanager
def model_or_none() -> Iterator[Model | None]:
    """The model, as long as the context lasts; None, and a line that says why, without one."""
    if model := account():
        say(
            f"the model: OPENAI_API_KEY's account at {model.where}, {model.chat} and "
            f"{model.embedding}; some 2,000 tokens"
        )
        yield model
        return
    server = None
    try:
        server = LlamaServer()
    except CannotStart as error:
        say(f"no embeddings, no chat, no agent: {first_line(error)}; or set OPENAI_API_KEY")
    if server is None:
        yield None
        return
    with server:
        say(f"started a llama-server with {server.model} on port {server.port}")
        yield Model(server.base_url, "none", server.model, server.model, local=True)


@contextlib.contextmanager
def refusals(model: Model) -> Iterator[None]:
    """What a server or the address is at fault for ends the demo in one line."""
    try:
        yield
    except (openai.OpenAIError, ValueError) as error:
        raise SystemExit(model.refusal(error)) from None
