"""Which commands may share a connection: the core's rules, for pipelines put together here."""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Sequence
from typing import Any


class Route(enum.Enum):
    SHARED = 0
    OWN = 1  # blocks the connection or changes its state
    NEVER = 2  # makes the connection something that gives no replies
    LOOK = 3  # OWN or SHARED, depending on the arguments


_ROUTES = {
    Route.OWN: "AUTH HELLO RESET SELECT QUIT SHUTDOWN MULTI EXEC DISCARD WATCH UNWATCH "
    "BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF",
    Route.NEVER: "SUBSCRIBE UNSUBSCRIBE PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUNSUBSCRIBE "
    "MONITOR SYNC PSYNC",
    Route.LOOK: "CLIENT XREAD XREADGROUP",
}
_BY_WORD = {word: route for route, words in _ROUTES.items() for word in words.split()}
_CLIENT_STATE = frozenset(("REPLY", "TRACKING", "CACHING"))


def _word(argument: Any) -> str:
    if isinstance(argument, bytes):
        argument = argument.decode("latin-1")
    return argument.upper() if isinstance(argument, str) else ""


@functools.lru_cache(maxsize=1024)
def _route_of_name(name: Any) -> Route:
    words = _word(name).split()
    route = _BY_WORD.get(words[0] if words else "", Route.SHARED)
    if route is Route.LOOK and len(words) > 1:
        return Route.OWN if words[1] in _CLIENT_STATE else Route.SHARED
    return route


def route_of(args: Sequence[Any]) -> Route:
    """SHARED, OWN or NEVER for a command's name and arguments."""
    name = args[0]
    if not isinstance(name, (str, bytes)):
        return Route.SHARED
    route = _route_of_name(name)
    if route is not Route.LOOK:
        return route
    if _word(name) == "CLIENT":
        state = len(args) > 1 and _word(args[1]) in _CLIENT_STATE
        return Route.OWN if state else Route.SHARED
    for argument in args[1:]:
        word = _word(argument)
        if word == "BLOCK":
            return Route.OWN
        if word == "STREAMS":
            break
    return Route.SHARED


def need_own(commands: Iterable[Sequence[Any]]) -> bool:
    """
    True if one of the commands must not share a connection.

    Raises NotImplementedError for a command that cannot be sent as one at all.
    """
    own = False
    for args in commands:
        route = route_of(args)
        if route is Route.NEVER:
            raise NotImplementedError(
                f"{_word(args[0])} turns the connection into a stream of messages and cannot be "
                "sent as a command: use pubsub() or monitor()"
            )
        own = own or route is Route.OWN
    return own
