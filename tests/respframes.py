"""Where commands and replies end in a stream of RESP2 bytes."""

from __future__ import annotations

import socket

CHUNK = 1 << 18


class Malformed(Exception):
    """Bytes that are not RESP."""


class Frames:
    """Cuts a byte stream into RESP2 commands or replies."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buf = bytearray()
        self._used = 0

    def _fill(self) -> bool:
        data = self._sock.recv(CHUNK)
        self._buf += data
        return bool(data)

    def _line(self, at: int) -> int | None:
        """The index after the line that starts at `at`; None when the stream ends before."""
        start = at
        while True:
            end = self._buf.find(b"\r\n", start)
            if end >= 0:
                return end + 2
            start = max(at, len(self._buf) - 1)
            if not self._fill():
                return None

    def _element(self, at: int) -> int | None:
        """The index after the RESP value that starts at `at`."""
        pending = 1
        while pending:
            end = self._line(at)
            if end is None:
                return None
            kind, number = self._buf[at : at + 1], bytes(self._buf[at + 1 : end - 2])
            at = end
            pending -= 1
            if kind in (b"+", b"-", b":"):
                continue
            if kind not in (b"$", b"*"):
                raise Malformed(bytes(self._buf[at : at + 40]))
            size = int(number)
            if kind == b"*":
                pending += max(size, 0)
            elif size >= 0:
                while len(self._buf) < at + size + 2:
                    if not self._fill():
                        return None
                at += size + 2
        return at

    def next(self) -> bytes | None:
        """The next whole value, as it came over the wire; None at the end of the stream."""
        try:
            end = self._element(0)
        except ValueError as error:
            raise Malformed(bytes(self._buf[:40])) from error
        if end is None:
            return None
        frame = bytes(self._buf[:end])
        del self._buf[:end]
        return frame

    def rest(self) -> bytes:
        """What has been read beyond the last whole value."""
        return bytes(self._buf)


def words(frame: bytes) -> list[bytes]:
    """The arguments of a command frame."""
    if frame[:1] != b"*":
        raise Malformed(frame[:40])
    at = frame.index(b"\r\n") + 2
    args = []
    for _ in range(int(frame[1 : at - 2])):
        end = frame.index(b"\r\n", at)
        if frame[at : at + 1] != b"$":
            raise Malformed(frame[at : at + 40])
        size = int(frame[at + 1 : end])
        args.append(frame[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return args
