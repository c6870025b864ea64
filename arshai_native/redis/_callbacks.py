"""Response callbacks: a table that tells its clients when somebody changes it."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from redis.client import EMPTY_RESPONSE, NEVER_DECODE, CaseInsensitiveDict
from redis.exceptions import ResponseError


class ResponseCallbacks(CaseInsensitiveDict):
    """
    redis-py's table of response callbacks, keys in upper case.

    The native client converts the replies of the commands it knows without looking here. That
    is right only as long as the table holds redis-py's own callbacks, so every change is
    reported to the clients that use the table, which then send everything through Python.
    """

    def __init__(self, data: Mapping[str, Callable[..., Any]]) -> None:
        # The entries of another table have their keys in upper case already.
        if isinstance(data, CaseInsensitiveDict):
            dict.update(self, data)
        else:
            for key, value in data.items():
                dict.__setitem__(self, key.upper(), value)
        self._clients: list[weakref.ref] = []

    def attach(self, client: Any) -> None:
        """Reports changes to client from now on, by client._callbacks_changed(). Held weakly."""
        self._clients.append(weakref.ref(client))

    def _changed(self) -> None:
        clients, self._clients = self._clients, []
        for reference in clients:
            client = reference()
            if client is not None:
                client._callbacks_changed()

    def __setitem__(self, key: str, callback: Callable[..., Any]) -> None:
        super().__setitem__(key, callback)
        self._changed()

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._changed()

    def __ior__(self, other: Any) -> ResponseCallbacks:  # type: ignore[misc]
        self.update(other)
        return self

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, callback in dict(*args, **kwargs).items():
            dict.__setitem__(self, key.upper(), callback)
        self._changed()

    def setdefault(self, key: str, default: Any = None) -> Any:
        value = super().setdefault(key.upper(), default)
        self._changed()
        return value

    def pop(self, key: str, *default: Any) -> Any:
        value = super().pop(key.upper(), *default)
        self._changed()
        return value

    def popitem(self) -> Any:
        item = super().popitem()
        self._changed()
        return item

    def clear(self) -> None:
        super().clear()
        self._changed()


async def finish(
    callbacks: MutableMapping[Any, Callable[..., Any]],
    name: Any,
    reply: Any,
    options: Mapping[str, Any],
) -> Any:
    """
    What redis-py's parse_response makes of a reply.

    callbacks: the client's table.
    name: the command's first argument, the key in the table.
    reply: the raw reply; a ResponseError instance for an error reply, which is raised.
    options: the options of the command; EMPTY_RESPONSE replaces an error reply, the ones that are
        not internal go to the callback. Not changed.
    """
    if isinstance(reply, ResponseError):
        if EMPTY_RESPONSE in options:
            return options[EMPTY_RESPONSE]
        raise reply
    if name not in callbacks:
        return reply
    if options:
        options = dict(options)
        for internal in (NEVER_DECODE, EMPTY_RESPONSE, "keys"):
            options.pop(internal, None)
    value = callbacks[name](reply, **options)
    return await value if inspect.isawaitable(value) else value
