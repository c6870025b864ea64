"""Speech to text and text to speech for the arshai framework, on the native engine.

Importing this module imports neither arshai nor openai.
"""

from arshai_native.speech._azure import AsyncAzureSpeech
from arshai_native.speech._openai import AsyncOpenAISpeech
from arshai_native.speech._types import STTInput, STTOutput, TTSInput, TTSOutput

__all__ = [
    "AsyncAzureSpeech",
    "AsyncOpenAISpeech",
    "STTInput",
    "STTOutput",
    "TTSInput",
    "TTSOutput",
]
