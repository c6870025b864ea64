"""The SDK's resources with their most-called methods in C.

Each class is the SDK's with an Endpoint in the place of a method: it takes the call if it is a
plain one and gives it to the SDK's method otherwise. The classes are made when they are first asked
for: the SDK imports its resources late, too.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any

import openai

from arshai_native import _core

from . import _calls, _stream
from ._sdk import base
from ._transport import NativeHttpClient


def endpoint(peer: type, name: str) -> Any:
    """A method in C for the peer's one of that name, which it looks like to whoever inspects it."""
    function = getattr(peer, name)
    made = _core.OpenAIEndpoint(peer, name, _Hooks)
    functools.update_wrapper(made, function)
    if inspect.iscoroutinefunction(function):
        if hasattr(inspect, "markcoroutinefunction"):
            inspect.markcoroutinefunction(made)
        else:
            made._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return made


class _Hooks:
    """What an Endpoint asks Python for."""

    log = base.log
    log_level = _calls.LOG_LEVEL
    wants_log = staticmethod(_calls.wants_log)
    retried = staticmethod(_calls.retried)
    omit = openai.Omit
    not_given = openai.NotGiven
    http_type = NativeHttpClient
    recipe_of = staticmethod(_calls.recipe_of)
    prepare = staticmethod(_calls.prepare)
    settle = staticmethod(_calls.settle)
    failure = staticmethod(_calls.failure)
    open_stream = staticmethod(_stream.open_stream)


def _derive(peer: type, *names: str, **members: Any) -> type:
    """A class like the peer, by the same name, with endpoints."""
    namespace = {name: endpoint(peer, name) for name in names} | members
    namespace |= {
        "__module__": __name__,
        "__doc__": peer.__doc__,
        "__qualname__": peer.__qualname__,
    }
    return type(peer.__name__, (peer,), namespace)


def _part(name: str, make: Any) -> Any:
    """A resource of a resource."""

    def get(self: Any) -> Any:
        return make()(self._client)

    get.__name__ = name
    part = functools.cached_property(get)
    part.__set_name__(object, name)
    return part


@functools.cache
def embeddings() -> type:
    from openai.resources.embeddings import AsyncEmbeddings

    return _derive(AsyncEmbeddings, "create")


@functools.cache
def chat_completions() -> type:
    from openai.resources.chat.completions import AsyncCompletions

    return _derive(AsyncCompletions, "create")


@functools.cache
def chat() -> type:
    from openai.resources.chat import AsyncChat

    return _derive(AsyncChat, completions=_part("completions", chat_completions))


@functools.cache
def completions() -> type:
    from openai.resources.completions import AsyncCompletions

    return _derive(AsyncCompletions, "create")


@functools.cache
def responses() -> type:
    from openai.resources.responses import AsyncResponses

    return _derive(AsyncResponses, "create")


@functools.cache
def moderations() -> type:
    from openai.resources.moderations import AsyncModerations

    return _derive(AsyncModerations, "create")


@functools.cache
def images() -> type:
    from openai.resources.images import AsyncImages

    return _derive(AsyncImages, "generate")


@functools.cache
def speech() -> type:
    from openai.resources.audio.speech import AsyncSpeech

    return _derive(AsyncSpeech, "create")


@functools.cache
def audio() -> type:
    from openai.resources.audio import AsyncAudio

    return _derive(AsyncAudio, speech=_part("speech", speech))
