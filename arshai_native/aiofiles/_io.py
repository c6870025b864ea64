"""io objects where C does not do: how one takes over a file that is open, and what it would say."""

import io
import os
import sys
from typing import Any, cast


def reopen(
    fd: int,
    name: str | bytes,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    pending: bytes | None,
    at: int = 0,
    flag: int = 0,
    used: int = 0,
) -> Any:
    """The io object for a descriptor, which it owns, as open(name, ...) would have made it; -1: a
    closed one. If there is none to be had, the descriptor is closed. pending: what is still to be
    written, None if this is no regular file; at: where in the file. For text that is read, flag:
    whether a "\\r" was held back there; used: how many characters of the chunk that begins there
    have been read."""
    is_closed = fd < 0
    if is_closed:
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    elif pending is not None:
        os.lseek(fd, at, os.SEEK_SET)
    is_taken = False

    def opener(*_: object) -> int:
        nonlocal is_taken
        is_taken = True
        return fd

    # So that what is pending fits: it is not written here, on the event loop's thread. Python 3.13
    # writes as much as a whole buffer at once.
    if pending and len(pending) >= buffering:
        buffering = max(len(pending) + 1, io.DEFAULT_BUFFER_SIZE)
    try:
        file = open(name, mode, buffering, encoding, errors, newline, opener=opener)  # noqa: SIM115
    except BaseException:
        if not is_taken:  # else open() has closed it
            os.close(fd)
        raise
    try:
        if is_closed:
            file.close()
            return file
        if flag or (pending is not None and mode[0] == "a"):
            file.seek(at | flag << 64)
        if used:
            file.read(used)
        if pending:
            getattr(file, "buffer", file).write(pending)
    except BaseException:
        file.close()
        raise
    return file


def newlines(before: str | tuple[str, ...], now: str | tuple[str, ...] | None) -> Any:
    """A text file's attribute, when an io object goes on with what has been begun."""
    seen = {*(before if isinstance(before, tuple) else [before])}
    seen |= {*(now if isinstance(now, tuple) else [now])} - {None}
    found = tuple(kind for kind in ("\r", "\n", "\r\n") if kind in seen)
    return found if len(found) > 1 else found[0]


class _Chunk(io.BufferedIOBase):
    """A file of which there are only the bytes of one chunk."""

    def __init__(self, at: int, data: bytes) -> None:
        self.at = self.place = at
        self.data = data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        start = self.place - self.at
        data = self.data[start:] if size < 0 else self.data[start : start + size]
        self.place += len(data)
        return data

    def read(self, size: int | None = -1) -> bytes:
        return self.read1(-1 if size is None else size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = offset
        return offset

    def tell(self) -> int:
        return self.place


def cookie(
    encoding: str,
    errors: str,
    newline: str | None,
    at: int,
    flag: int,
    data: bytes,
    used: int,
) -> int:
    """What io.TextIOWrapper.tell() returns after so many characters of a chunk, before which a
    "\\r" was held back or not."""
    text = io.TextIOWrapper(cast(Any, _Chunk(at, data)), encoding, errors, newline)
    text.seek(at | flag << 64)
    text.read(used)
    place = text.tell()
    text.detach()
    return place


def default_encoding() -> str | None:
    """open()'s, as the attribute of a file says it; None: to open without one is warned of."""
    if sys.flags.warn_default_encoding:
        return None
    return io.TextIOWrapper(io.BytesIO()).encoding
