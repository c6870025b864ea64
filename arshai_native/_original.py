"""Whether a peer's method is still its own; what its coroutines return without a loop."""

from __future__ import annotations

import types
from collections.abc import Coroutine
from typing import Any


def code_of(value: Any) -> types.CodeType | None:
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    return getattr(value, "__code__", None) if type(value) is types.FunctionType else None


def is_from(value: Any, folder: str) -> bool:
    code = code_of(value)
    return code is not None and code.co_filename.startswith(folder)


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that need not wait for anything; LookupError if it does wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise LookupError("it waits")
