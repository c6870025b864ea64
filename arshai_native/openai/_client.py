"""AsyncOpenAI and AsyncAzureOpenAI: the SDK's clients on the native engine."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import openai

from arshai_native import _core

from . import _resources
from ._transport import NativeHttpClient


class AsyncOpenAI(_core.OpenAIClient, openai.AsyncOpenAI):  # type: ignore[misc]
    """
    openai.AsyncOpenAI on the native engine: the same constructor, methods, results and errors.

    One client serves any number of event loops and threads; its connections belong to none of
    them. Clients made by with_options() and copy() share them. A client that is given an
    http_client of the user's own sends everything with that, as the SDK's does.
    """

    if not TYPE_CHECKING:  # type checkers see the SDK's constructor and resources

        @functools.wraps(openai.AsyncOpenAI.__init__)
        def __init__(self, *, http_client: Any = None, **options: Any) -> None:
            super().__init__(http_client=http_client or NativeHttpClient(), **options)

        @functools.cached_property
        def chat(self) -> Any:
            return _resources.chat()(self)

        @functools.cached_property
        def completions(self) -> Any:
            return _resources.completions()(self)

        @functools.cached_property
        def embeddings(self) -> Any:
            return _resources.embeddings()(self)

        @functools.cached_property
        def moderations(self) -> Any:
            return _resources.moderations()(self)

        @functools.cached_property
        def responses(self) -> Any:
            return _resources.responses()(self)

        @functools.cached_property
        def images(self) -> Any:
            return _resources.images()(self)

        @functools.cached_property
        def audio(self) -> Any:
            return _resources.audio()(self)


class AsyncAzureOpenAI(AsyncOpenAI, openai.AsyncAzureOpenAI):  # type: ignore[misc]
    """openai.AsyncAzureOpenAI on the native engine, as AsyncOpenAI is."""

    if not TYPE_CHECKING:

        @functools.wraps(openai.AsyncAzureOpenAI.__init__)
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)


AsyncClient = AsyncOpenAI
