"""The data objects of speech, for programs that do not import arshai's (1.5.4's ispeech)."""

from __future__ import annotations

import sys
from typing import Any

# Where arshai kept its own up to 1.5.4; looked for, never imported.
_ARSHAI = "arshai.core.interfaces.ispeech"


class _Fields:
    """Equality and repr by the attributes' values."""

    __slots__: tuple[str, ...] = ()
    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    model_dump = to_dict

    def __eq__(self, other: object) -> bool:
        missing = object()
        return all(getattr(self, name) == getattr(other, name, missing) for name in self.__slots__)


class STTInput(_Fields):
    """
    What to transcribe; stands in for arshai's ISTTInput.

    audio_file: path, bytes, or something with read(). language: ISO 639-1. response_format:
    "text", "json", "verbose_json", "srt" or "vtt". prompt: what guides the model. temperature: 0
    is deterministic.
    """

    __slots__ = ("audio_file", "language", "prompt", "response_format", "temperature")

    def __init__(
        self,
        audio_file: Any,
        language: str | None = None,
        response_format: Any = "text",
        prompt: str | None = None,
        temperature: float | None = 0.0,
    ) -> None:
        self.audio_file = audio_file
        self.language = language
        self.response_format = response_format
        self.prompt = prompt
        self.temperature = temperature


class STTOutput(_Fields):
    """
    A transcript; stands in for arshai's ISTTOutput. segments and duration (seconds): with
    response_format "verbose_json".
    """

    __slots__ = ("duration", "language", "segments", "text")

    def __init__(
        self,
        text: str,
        language: str | None = None,
        segments: list[dict[str, Any]] | None = None,
        duration: float | None = None,
    ) -> None:
        self.text = text
        self.language = language
        self.segments = segments
        self.duration = duration

    def __repr__(self) -> str:
        return f"STTOutput(text={self.text!r}, language={self.language!r})"


class TTSInput(_Fields):
    """
    What to say; stands in for arshai's ITTSInput.

    output_format: "mp3", "opus", "aac", "flac", "wav" or "pcm". speed: 0.25 to 4.
    """

    __slots__ = ("output_format", "speed", "text", "voice")

    def __init__(
        self,
        text: str,
        voice: str | None = None,
        output_format: Any = "mp3",
        speed: float | None = 1.0,
    ) -> None:
        self.text = text
        self.voice = voice
        self.output_format = output_format
        self.speed = speed


class TTSOutput(_Fields):
    """What was said; stands in for arshai's ITTSOutput. duration is None: no API tells it."""

    __slots__ = ("audio_data", "duration", "format")

    def __init__(self, audio_data: bytes, format: Any, duration: float | None = None) -> None:
        self.audio_data = audio_data
        self.duration = duration
        self.format = format

    def __repr__(self) -> str:
        return f"TTSOutput({len(self.audio_data)} bytes, format={self.format!r})"


def output_class(ours: type) -> type:
    """arshai's class, of that name with an I in front, if it has been imported, else ours."""
    module = sys.modules.get(_ARSHAI)
    found: type = getattr(module, f"I{ours.__name__}", ours)
    return found


def plain(value: Any) -> Any:
    """A format as text: arshai's are enums."""
    return getattr(value, "value", value)
