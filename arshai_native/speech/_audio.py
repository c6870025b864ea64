"""Audio in: multipart bodies, files read on worker threads."""

from __future__ import annotations

import inspect
import os
import secrets
from collections.abc import Iterable
from typing import Any

from arshai_native._core import run_blocking
from arshai_native.files import read_bytes

# By extension, without asking the system's tables of types (files, which would be read on the
# event loop's thread).
_TYPES = {
    "aac": "audio/aac",
    "flac": "audio/flac",
    "m4a": "audio/mp4",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "mpeg": "audio/mpeg",
    "mpga": "audio/mpeg",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "wav": "audio/wav",
    "webm": "audio/webm",
}

_URLS = ("http://", "https://")


def is_url(audio: Any) -> bool:
    return isinstance(audio, str) and audio.lower().startswith(_URLS)


def _extension_of(content: bytes) -> str:
    """What the first bytes say: servers judge a file by its name."""
    head = content[:12]
    if head[:4] == b"RIFF":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "webm"
    if head[4:8] == b"ftyp":
        return "m4a"
    return "mp3"


def _quoted(name: str) -> str:
    """A name in Content-Disposition, as browsers and httpx write it."""
    for character, code in (('"', "%22"), ("\r", "%0D"), ("\n", "%0A")):
        name = name.replace(character, code)
    return name


def multipart(
    fields: Iterable[tuple[str, Any]], filename: str, content: bytes
) -> tuple[str, bytes]:
    """Content type and body of multipart/form-data: the fields, then "file"."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for name, value in fields:
        pieces.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n'
            f"{value}\r\n".encode()
        )
    kind = _TYPES.get(filename.rpartition(".")[2].lower(), "application/octet-stream")
    pieces.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
        f'filename="{_quoted(filename)}"\r\nContent-Type: {kind}\r\n\r\n'.encode()
    )
    pieces.append(content)
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(pieces)


# ---- reading ----


def _file_name(audio: Any) -> str | None:
    name = getattr(audio, "name", None)
    return os.path.basename(os.fsdecode(name)) if isinstance(name, (str, bytes)) else None


def _checked(content: Any) -> bytes:
    if isinstance(content, str):
        raise TypeError("audio must be bytes: the file is open as text")
    return bytes(content)


def _split(audio: Any) -> tuple[str | None, Any]:
    """(filename, content) as given, as the SDK takes it too, else the name that audio has."""
    if isinstance(audio, tuple):
        return audio[0], audio[1]
    if isinstance(audio, (str, os.PathLike)):
        return os.path.basename(os.fspath(audio)), audio
    return _file_name(audio), audio


def _named(name: str | None, content: bytes) -> tuple[str, bytes]:
    return name or f"audio.{_extension_of(content)}", content


def _rewind(audio: Any) -> Any:
    """Back to the start, as arshai does, where there is one."""
    seek = getattr(audio, "seek", None)
    if seek is None:
        return None
    try:
        return seek(0)
    except (OSError, ValueError):
        return None  # a pipe


def _content(audio: Any) -> Any:
    """The audio's bytes. Blocks."""
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return bytes(audio)
    if isinstance(audio, (str, os.PathLike)):
        with open(audio, "rb") as file:
            return file.read()
    if hasattr(audio, "read"):
        _rewind(audio)
        return audio.read()
    if hasattr(audio, "__iter__"):
        return b"".join(map(_checked, audio))
    raise TypeError(f"audio must be a path, bytes or a stream of bytes, not {type(audio).__name__}")


def _is_asynchronous(audio: Any) -> bool:
    """Has a read() to be awaited, as far as that can be told without calling it."""
    return inspect.iscoroutinefunction(getattr(audio, "read", None))


def read_audio_sync(audio: Any) -> tuple[str, bytes]:
    """The audio's filename and bytes. Blocks."""
    name, audio = _split(audio)
    if _is_asynchronous(audio):
        raise TypeError("a stream that is read asynchronously needs transcribe_async()")
    return _named(name, _checked(_content(audio)))


async def read_audio(audio: Any) -> tuple[str, bytes]:
    """The audio's filename and bytes; what blocks is done on a worker thread."""
    name, audio = _split(audio)
    if isinstance(audio, bytes):
        return _named(name, audio)
    if hasattr(audio, "read"):
        asynchronous = _is_asynchronous(audio)
        rewound = _rewind(audio) if asynchronous else await run_blocking(_rewind, audio)
        if inspect.isawaitable(rewound):
            await rewound
            asynchronous = True
        content = audio.read() if asynchronous else await run_blocking(audio.read)
        if inspect.isawaitable(content):
            content = await content
        return _named(name, _checked(content))
    if isinstance(audio, (str, os.PathLike)):
        return _named(name, await read_bytes(audio))
    if hasattr(audio, "__aiter__"):
        return _named(name, b"".join([_checked(chunk) async for chunk in audio]))
    return _named(name, _checked(await run_blocking(_content, audio)))
