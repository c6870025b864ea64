"""Milvus URIs, and errors about them, without the user, password or token that a URI may name."""

from __future__ import annotations

import re
from typing import Any

_PARTS = re.compile(r"([^:/@]*://)?(.*)@(.*)", re.DOTALL)
_QUOTED = re.compile(r"(['\"])(.*)\1", re.DOTALL)


def shown(uri: str) -> str:
    """Whatever was meant as a URI: all up to its last @ may be a password."""
    parts = _PARTS.fullmatch(uri)
    return uri if parts is None else (parts[1] or "") + parts[3]


def hide(error: Exception, uri: Any) -> None:
    """
    Takes who asks out of the words of an error about a URI; they are pymilvus's or urllib's, which
    quotes what it took for the port or the host.
    """
    parts = _PARTS.fullmatch(uri) if isinstance(uri, str) else None
    if parts is None:
        return
    # pathlib makes one slash of several.
    user = re.compile("/+".join(map(re.escape, re.split("/+", parts[2]))) + "@")
    rest = parts[3]

    def known(quoted: re.Match[str]) -> str:
        text = quoted[2]
        return quoted[0] if rest.startswith(text) or f":{text}" in rest else "'***'"

    def masked(text: Any) -> Any:
        return _QUOTED.sub(known, user.sub("", text)) if isinstance(text, str) else text

    error.args = tuple(map(masked, error.args))
    if hasattr(error, "_message"):  # MilvusException's, which has no args
        error._message = masked(error._message)
