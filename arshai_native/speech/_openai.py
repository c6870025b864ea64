"""AsyncOpenAISpeech: arshai's speech classes on the native engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from arshai_native import _core
from arshai_native._api_client import (
    DEFAULT,
    MAX_RETRIES,
    ApiClient,
    OwnsClient,
    Settings,
    http_options,
)
from arshai_native._api_client import show_url as show
from arshai_native._api_errors import OpenAIErrors
from arshai_native._file_writer import FileWriter
from arshai_native.speech._audio import (
    is_url,
    multipart,
    read_audio,
    read_audio_sync,
)
from arshai_native.speech._types import (
    STTInput,
    STTOutput,
    TTSInput,
    TTSOutput,
    output_class,
    plain,
)

logger = logging.getLogger("arshai_native.speech")

DEFAULT_URL = "https://api.openai.com/v1"
_TEXTS = ("text", "srt", "vtt")
# Of the explanation of an error that comes as a stream.
_MAX_ERROR = 1 << 20


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


class AsyncOpenAISpeech(OwnsClient):
    """
    Speech to text and text to speech by OpenAI's API, without blocking the event loop.

    Serves both of arshai's interfaces:

    - ISpeechProcessor (to 1.5.4): transcribe(ISTTInput) and synthesize(ITTSInput) are synchronous
      and return ISTTOutput and ITTSOutput; given the same as a dict they return an awaitable. The
      _async twins are always awaitable and take either.
    - ISpeechTranscriber (from 1.15): `await transcribe(audio, language, response_format, hints)`
      returns a dict of text, language, segments and upstream_request_id. A URL is handed to the
      server, as arshai's Qwen3ASR does (JSON; OpenAI itself does not take it, arshai's gateway
      does); anything else is uploaded.

    Audio is a path, bytes, a file or another object with read() (asynchronous, too), an iterator or
    async iterator of bytes, or (filename, any of these). Files are read and written on worker
    threads.

    config: arshai's ISpeechConfig (or anything with its attributes), or a dict of its fields.
    stt_model ("whisper-1"), tts_model ("tts-1"), tts_voice ("alloy"): in place of the config's.
    api_key: default OPENAI_API_KEY; ValueError without one, unless there is a base_url.
    base_url: default OPENAI_BASE_URL, else OpenAI's. organization, project: default OPENAI_ORG_ID,
        OPENAI_PROJECT_ID. timeout, max_retries, default_headers and the options of the engine's
        HttpClient: as AsyncOpenAIEmbedding's.

    Errors are openai's exceptions (of the same names where openai is not installed), and OSError
    (FileNotFoundError ...) for files.
    Source of the behaviour: arshai 1.5.4, speech/openai.py; 1.15.0, llms/qwen_asr.py.
    """

    def __init__(
        self,
        config: Any = None,
        *,
        stt_model: str | None = None,
        tts_model: str | None = None,
        tts_voice: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        timeout: Any = DEFAULT,
        max_retries: int | None = None,
        default_headers: dict[str, str] | None = None,
        **http: Any,
    ) -> None:
        settings = Settings(config, {
            "stt_model": stt_model, "tts_model": tts_model, "tts_voice": tts_voice,
            "api_key": api_key, "base_url": base_url, "organization": organization,
            "project": project, "max_retries": max_retries, "default_headers": default_headers,
        })  # fmt: skip
        self.config = config
        self.stt_model: str = settings.get("stt_model", "whisper-1")
        self.tts_model: str = settings.get("tts_model", "tts-1")
        self.tts_voice: str = settings.get("tts_voice", "alloy")
        if timeout is DEFAULT:
            timeout = settings.get("timeout", DEFAULT)
        self._client = self._make_client(settings, timeout, http_options(http))
        logger.info("Initialized %r", self)

    def _make_client(self, settings: Settings, timeout: Any, http: dict[str, Any]) -> ApiClient:
        url = settings.get("base_url")
        key = settings.get("api_key") or os.environ.get("OPENAI_API_KEY")
        if not key and url is None:
            raise ValueError(
                "OpenAI API key not found. Please set OPENAI_API_KEY environment variable."
            )
        headers = {
            "OpenAI-Organization": settings.get("organization") or os.environ.get("OPENAI_ORG_ID"),
            "OpenAI-Project": settings.get("project") or os.environ.get("OPENAI_PROJECT_ID"),
        }
        return ApiClient(
            url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL,
            api_key=key,
            errors=OpenAIErrors,
            headers={
                **{name: value for name, value in headers.items() if value},
                **settings.get("default_headers", {}),
            },
            timeout=timeout,
            max_retries=settings.get("max_retries", MAX_RETRIES),
            http=http,
        )

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {show(self._client.base_url)} stt_model={self.stt_model!r} "
            f"tts_model={self.tts_model!r}>"
        )

    def _path(self, end: str, model: str) -> str:
        return f"/audio/{end}"

    # ---- speech to text: what is sent, and what comes back ----

    @staticmethod
    def _stt_input(input: Any, fields: dict[str, Any]) -> Any:
        if isinstance(input, dict):
            return STTInput(**{**input, **fields})
        if hasattr(input, "audio_file"):
            if fields:
                raise TypeError("the input says everything: no further arguments")
            return input
        return STTInput(input, **fields)

    def _upload(self, input: Any, filename: str, content: bytes) -> tuple[Any, bytes]:
        """Headers and body. In the order of the SDK's arguments; what is None is left out."""
        fields = (
            ("model", self.stt_model),
            ("language", input.language),
            ("prompt", input.prompt),
            ("response_format", plain(input.response_format)),
            ("temperature", input.temperature),
        )
        kind, body = multipart(
            [(name, value) for name, value in fields if value is not None], filename, content
        )
        return self._client.headers_with({"Content-Type": kind}), body

    def _by_url(self, input: Any) -> bytes:
        body = {
            "model": self.stt_model,
            "audio": input.audio_file,
            "response_format": plain(input.response_format),
        }
        if input.language is not None:
            body["language"] = input.language
        return _json(body)

    async def _transcribed(self, input: Any) -> Any:
        path = self._path("transcriptions", self.stt_model)
        if is_url(input.audio_file):
            return await self._client.post(path, self._by_url(input), _core.HTTP_BODY)
        filename, content = await read_audio(input.audio_file)
        # Off the loop: megabytes are copied.
        headers, body = await _core.run_blocking(self._upload, input, filename, content)
        return await self._client.post(path, body, _core.HTTP_BODY, headers)

    def _transcribed_sync(self, input: Any) -> Any:
        path = self._path("transcriptions", self.stt_model)
        if is_url(input.audio_file):
            return self._client.post_sync(path, self._by_url(input), _core.HTTP_BODY)
        headers, body = self._upload(input, *read_audio_sync(input.audio_file))
        return self._client.post_sync(path, body, _core.HTTP_BODY, headers)

    @staticmethod
    def _parsed(input: Any, response: Any) -> dict[str, Any]:
        if plain(input.response_format) in _TEXTS:
            return {"text": response.body.decode("utf-8")}
        reply = response.json()
        if not isinstance(reply, dict) or not isinstance(reply.get("text"), str):
            raise ValueError("the reply is no transcription: it has no text")
        return reply

    def _stt_output(self, input: Any, response: Any) -> Any:
        reply = self._parsed(input, response)
        return output_class(STTOutput)(
            text=reply["text"],
            language=reply.get("language") or input.language,
            segments=reply.get("segments"),
            duration=reply.get("duration"),
        )

    # ---- speech to text: methods ----

    def transcribe(
        self,
        audio: Any,
        language: str | None = None,
        response_format: str | None = None,
        hints: Iterable[str] | None = None,
    ) -> Any:
        """
        For an ISTTInput: its ISTTOutput, blocking the thread. For a dict of its fields: the same,
        to be awaited. For audio: a dict as ISpeechTranscriber promises it, to be awaited.

        response_format: default "json". hints: words that the model should know; uploaded as the
        prompt, left out with a URL as arshai does.
        """
        if hasattr(audio, "audio_file"):
            input = self._stt_input(audio, {})
            return self._stt_output(input, self._transcribed_sync(input))
        if isinstance(audio, dict):
            return self.transcribe_async(audio)
        prompt = ", ".join(hints) if hints else None
        input = STTInput(audio, language, response_format or "json", prompt, None)
        return self._as_transcriber(input)

    async def _as_transcriber(self, input: Any) -> dict[str, Any]:
        response = await self._transcribed(input)
        reply = self._parsed(input, response)
        request_id = reply.get("upstream_request_id") or response.header("x-upstream-request-id")
        return {
            "text": reply["text"],
            "language": reply.get("language") or input.language,
            "segments": reply.get("segments") or [],
            "upstream_request_id": request_id or response.header("x-request-id") or "",
        }

    async def transcribe_async(self, input: Any, **fields: Any) -> Any:
        """
        The ISTTOutput for an ISTTInput, a dict of its fields, or audio with fields as keyword
        arguments: language, response_format ("text"), prompt, temperature.
        """
        input = self._stt_input(input, fields)
        return self._stt_output(input, await self._transcribed(input))

    def transcribe_sync(self, input: Any, **fields: Any) -> Any:
        """transcribe_async() for a thread without an event loop."""
        input = self._stt_input(input, fields)
        return self._stt_output(input, self._transcribed_sync(input))

    # ---- text to speech ----

    @staticmethod
    def _tts_input(input: Any, fields: dict[str, Any]) -> Any:
        if isinstance(input, dict):
            return TTSInput(**{**input, **fields})
        if isinstance(input, str):
            return TTSInput(input, **fields)
        if fields:
            raise TypeError("the input says everything: no further arguments")
        return input

    def _speech(self, input: Any) -> tuple[str, bytes, Any]:
        """Path, body and headers of a synthesis; the body in the order of the SDK's."""
        body = {
            "input": input.text,
            "model": self.tts_model,
            "voice": input.voice or self.tts_voice,
            "response_format": plain(input.output_format),
            "speed": input.speed,
        }
        body = {name: value for name, value in body.items() if value is not None}
        headers = self._client.headers_with({"Accept": "application/octet-stream"})
        return self._path("speech", self.tts_model), _json(body), headers

    @staticmethod
    def _tts_output(input: Any, response: Any) -> Any:
        return output_class(TTSOutput)(audio_data=response.body, format=input.output_format)

    def synthesize(self, input: Any) -> Any:
        """
        For an ITTSInput: its ITTSOutput, blocking the thread. For a dict of its fields, or a text:
        the same, to be awaited.
        """
        if isinstance(input, (dict, str)):
            return self.synthesize_async(input)
        return self.synthesize_sync(input)

    async def synthesize_async(self, input: Any, **fields: Any) -> Any:
        """
        The ITTSOutput for an ITTSInput, a dict of its fields, or a text with fields as keyword
        arguments: voice, output_format ("mp3"), speed.
        """
        input = self._tts_input(input, fields)
        path, body, headers = self._speech(input)
        return self._tts_output(
            input, await self._client.post(path, body, _core.HTTP_BODY, headers)
        )

    def synthesize_sync(self, input: Any, **fields: Any) -> Any:
        """synthesize_async() for a thread without an event loop."""
        input = self._tts_input(input, fields)
        path, body, headers = self._speech(input)
        return self._tts_output(input, self._client.post_sync(path, body, _core.HTTP_BODY, headers))

    async def synthesize_stream(self, input: Any, **fields: Any) -> AsyncGenerator[bytes, None]:
        """
        Yields the audio as it comes, in pieces of up to 256 KB; arguments as synthesize_async().

        A caller that stops before the end should close it (contextlib.aclosing), which gives up
        the rest.
        """
        path, body, headers = self._speech(self._tts_input(input, fields))
        client = self._client
        response = await client.stream(path, body, headers, _MAX_ERROR)
        try:
            while chunk := await client.read(response, path):
                yield chunk
        finally:
            response.close_stream()

    async def synthesize_to_file_async(self, input: Any, path: Any, **fields: Any) -> str:
        """
        Writes the audio to a file as it comes, on a worker thread; returns its path.

        The file takes its place when it is whole: after an error or a cancellation the one that
        was there before still is. Arguments besides path as synthesize_async().
        """
        writer = FileWriter(path)
        try:
            async with contextlib.aclosing(self.synthesize_stream(input, **fields)) as chunks:
                async for chunk in chunks:
                    await _core.run_blocking(writer.write, chunk)
            await _core.run_blocking(writer.commit)
        except BaseException:
            # Waits for a write under way; a second cancellation leaves it to the thread.
            await asyncio.shield(_core.run_blocking(writer.abort))
            raise
        return os.fsdecode(path)

    def synthesize_to_file(self, input: Any, path: Any, **fields: Any) -> str:
        """synthesize_to_file_async() for a thread without an event loop."""
        output = self.synthesize_sync(input, **fields)
        writer = FileWriter(path)
        try:
            writer.write(output.audio_data)
            writer.commit()
        except BaseException:
            writer.abort()
            raise
        return os.fsdecode(path)
