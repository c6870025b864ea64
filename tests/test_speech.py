"""arshai_native.speech on real sockets: both of arshai's interfaces, every kind of audio in, files
that are whole or not there, and requests beside the SDK's.
"""

import asyncio
import contextlib
import io
import logging
import os
import sys
import threading
from enum import StrEnum
from types import ModuleType, SimpleNamespace

import pytest
from embedding_server import SECRET, Reply, error
from faultkit import free_port, run

from arshai_native import embeddings
from arshai_native.speech import (
    AsyncAzureSpeech,
    AsyncOpenAISpeech,
    STTInput,
    STTOutput,
    TTSInput,
    TTSOutput,
)

pytest_plugins = ("faultfixtures", "embeddingfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

WAV = b"RIFF\x24\x00\x00\x00WAVE" + bytes(range(256)) * 40 + b"\r\n--boundary--\r\n"
TEXT = "h\u00e9llo w\u00f6rld"


def make(api, config=None, **arguments):
    arguments.setdefault("max_retries", 0)
    return AsyncOpenAISpeech(config, api_key=SECRET, base_url=api.url, trust_env=False, **arguments)


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / 'a \u00e4 "q".wav'
    path.write_bytes(WAV)
    return path


# ---- speech to text ----


def test_transcribe_as_arshais_processor(api, wav):
    """Synchronous for a DTO, awaitable for a dict, and the _async twin takes either."""
    speech = make(api, {"stt_model": "whisper-9"})
    input = STTInput(str(wav), language="en", prompt="names", temperature=0.5)
    expected = STTOutput(f"text: {TEXT}\n", "en")
    assert speech.transcribe(input) == expected
    fields = {"audio_file": str(wav), "language": "en", "prompt": "names", "temperature": 0.5}

    async def main():
        return [
            await speech.transcribe(fields),
            await speech.transcribe_async(input),
            await speech.transcribe_async(fields),
            await speech.transcribe_async(str(wav), language="en", prompt="names", temperature=0.5),
        ]

    assert run(main) == [expected] * 4
    assert speech.transcribe_sync(wav, language="en", prompt="names", temperature=0.5) == expected
    assert len(api.requests) == 6
    for request in api.requests:
        assert request.path == "/v1/audio/transcriptions"
        assert request.headers["authorization"] == f"Bearer {SECRET}"
        assert request.form == {
            "model": "whisper-9", "language": "en", "prompt": "names", "response_format": "text",
            "temperature": "0.5", "file": ("a \u00e4 %22q%22.wav", "audio/wav", WAV),
        }  # fmt: skip
    boundaries = {request.headers["content-type"] for request in api.requests}
    assert len(boundaries) == 6  # nobody can guess them


def test_transcribe_as_arshais_transcriber(api, wav):
    """await transcribe(audio, language, response_format, hints)."""
    interface = pytest.importorskip("arshai.core.interfaces.ispeech_transcriber")
    speech = make(api)
    assert isinstance(speech, interface.ISpeechTranscriber)

    async def main():
        return [
            await speech.transcribe(wav),
            await speech.transcribe(WAV, "fa", "verbose_json", ["Arshai", "Milvus"]),
            await speech.transcribe("https://files/a.wav", language="en", hints=["x"]),
        ]

    plain, verbose, by_url = run(main)
    assert plain == {
        "text": TEXT, "language": None, "segments": [], "upstream_request_id": "req-7",
    }  # fmt: skip
    assert verbose["language"] == "english" and verbose["segments"][0]["end"] == 1.5
    assert by_url == {**plain, "language": "en"}
    first, second, third = api.requests
    assert sorted(first.form) == ["file", "model", "response_format"]
    assert first.form["response_format"] == "json"
    assert second.form["prompt"] == "Arshai, Milvus" and second.form["language"] == "fa"
    # As arshai's Qwen3ASR sends it.
    assert third.json == {
        "model": "whisper-1", "audio": "https://files/a.wav", "response_format": "json",
        "language": "en",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["text", "json", "verbose_json", "srt", "vtt"])
def test_formats(api, form):
    speech = make(api)
    found = speech.transcribe(STTInput(WAV, response_format=form))
    assert run(lambda: speech.transcribe_async(WAV, response_format=form)) == found
    if form in ("text", "srt", "vtt"):
        assert found == STTOutput(f"{form}: {TEXT}\n")
    elif form == "json":
        assert found == STTOutput(TEXT)
    else:
        segments = [{"id": 0, "start": 0.0, "end": 1.5, "text": TEXT}]
        assert found == STTOutput(TEXT, "english", segments, 1.5)
    assert api.requests[0].form["response_format"] == form


class Stream:
    """What aiofiles and others give: read() and seek() to be awaited."""

    name = "/some/where/talk.flac"

    def __init__(self):
        self.sought = False

    async def seek(self, position):
        assert position == 0
        self.sought = True

    async def read(self):
        await asyncio.sleep(0)
        assert self.sought
        return WAV


async def chunks():
    for start in range(0, len(WAV), 1000):
        yield WAV[start : start + 1000]


class OnAThread(io.BytesIO):
    """A file that tells when it is read on the event loop's thread."""

    def read(self, *args):
        assert threading.current_thread() is not threading.main_thread()
        return super().read(*args)


def at_its_end(file):
    file.seek(0, 2)
    return file


def sources(wav):
    return {
        "a path": (str(wav), "a \u00e4 %22q%22.wav"),
        "pathlib": (wav, "a \u00e4 %22q%22.wav"),
        "bytes": (WAV, "audio.wav"),
        "bytearray": (bytearray(WAV), "audio.wav"),
        "memoryview": (memoryview(WAV), "audio.wav"),
        "mp3 by its bytes": (b"ID3" + WAV, "audio.mp3"),
        "flac by its bytes": (b"fLaC" + WAV, "audio.flac"),
        "named bytes": (("talk.m4a", WAV), "talk.m4a"),
        "a file": (open(wav, "rb"), "a \u00e4 %22q%22.wav"),
        "a file at its end": (at_its_end(io.BytesIO(WAV)), "audio.wav"),
        "an iterator": (iter([WAV[:5], WAV[5:]]), "audio.wav"),
    }


def only_async():
    return {
        "an async file": (Stream(), "talk.flac"),
        "an async iterator": (chunks(), "audio.wav"),
        "a file on a thread": (OnAThread(WAV), "audio.wav"),
    }


def check_upload(api, what, filename):
    name, _, content = api.requests[-1].form["file"]
    assert name == filename and content.endswith(WAV), what


def test_every_kind_of_audio(api, wav):
    speech = make(api)

    async def main():
        for what, (audio, filename) in {**sources(wav), **only_async()}.items():
            assert (await speech.transcribe(audio))["text"] == TEXT
            check_upload(api, what, filename)

    run(main)
    for what, (audio, filename) in sources(wav).items():
        assert speech.transcribe_sync(audio, response_format="json").text == TEXT
        check_upload(api, what, filename)


def test_a_stream_reader(api):
    speech = make(api)

    async def main():
        reader = asyncio.StreamReader()
        reader.feed_data(WAV)
        reader.feed_eof()
        return await speech.transcribe(reader)

    assert run(main)["text"] == TEXT
    check_upload(api, "StreamReader", "audio.wav")


def test_a_pipe(api):
    """It has a seek() that fails."""
    read, write = os.pipe()
    os.write(write, WAV[:5000])
    os.close(write)
    with open(read, "rb") as pipe:
        assert run(lambda: make(api).transcribe(("a.wav", pipe)))["text"] == TEXT
    assert api.requests[0].form["file"][2] == WAV[:5000]


def test_audio_that_is_none(api, tmp_path):
    speech = make(api)
    missing = tmp_path / "missing.wav"
    with pytest.raises(FileNotFoundError):
        speech.transcribe(STTInput(str(missing)))
    for wrong, kind in (
        (missing, FileNotFoundError),
        (tmp_path, IsADirectoryError),
        (3, TypeError),
        (io.StringIO("text"), TypeError),
        (["text"], TypeError),
    ):
        with pytest.raises(kind):
            run(lambda wrong=wrong: speech.transcribe(wrong))
        with pytest.raises(kind):
            speech.transcribe_sync(wrong)
    with pytest.raises(TypeError, match="transcribe_async"):
        speech.transcribe_sync(Stream())
    with pytest.raises(TypeError):
        speech.transcribe_sync(STTInput(WAV), language="en")
    assert api.requests == []


def test_replies_that_are_no_transcription(api):
    speech = make(api)
    for body in (b"<html>", b"[]", b"{}", b'{"text": 3}'):
        api.script.extend([Reply(200, body)] * 2)
        with pytest.raises(ValueError):
            speech.transcribe_sync(WAV, response_format="json")
        with pytest.raises(ValueError):
            run(lambda: speech.transcribe(WAV))


# ---- text to speech ----


def test_synthesize(api):
    speech = make(api, tts_voice="nova")
    expected = TTSOutput(api.audio, "mp3")
    assert speech.synthesize(TTSInput("say \u00e4")) == expected
    assert speech.synthesize_sync("say \u00e4") == expected

    async def main():
        return [
            await speech.synthesize("say \u00e4"),
            await speech.synthesize({"text": "say \u00e4"}),
            await speech.synthesize_async(TTSInput("say \u00e4")),
            await speech.synthesize_async("say \u00e4", voice="echo", output_format="wav", speed=2),
        ]

    *same, other = run(main)
    assert same == [expected] * 3 and other == TTSOutput(api.audio, "wav")
    *same, other = api.requests
    assert {request.body.decode() for request in same} == {
        '{"input":"say \u00e4","model":"tts-1","voice":"nova","response_format":"mp3","speed":1.0}'
    }
    assert other.json["voice"] == "echo" and other.json["response_format"] == "wav"
    assert {r.path for r in api.requests} == {"/v1/audio/speech"}
    assert same[0].headers["accept"] == "application/octet-stream"


def test_synthesize_streams(api):
    speech = make(api)

    async def main():
        pieces = [piece async for piece in speech.synthesize_stream("say")]
        assert len(pieces) > 1
        async with contextlib.aclosing(speech.synthesize_stream("say")) as stream:
            async for _ in stream:
                break  # the rest is given up
        return b"".join(pieces)

    assert run(main) == api.audio


@pytest.fixture
def threads(monkeypatch):
    """Fails when a file is written on the event loop's thread; counts the writes."""
    from arshai_native.speech import _audio

    writes = []
    real = os.write

    def write(descriptor, data):
        writes.append(threading.current_thread() is threading.main_thread())
        return real(descriptor, data)

    monkeypatch.setattr(_audio.os, "write", write)
    return writes


def test_synthesize_to_a_file(api, tmp_path, threads):
    speech = make(api)
    path = tmp_path / "out.mp3"

    async def main():
        assert await speech.synthesize_to_file_async("say", path) == str(path)
        assert path.read_bytes() == api.audio
        path.write_bytes(b"old")
        path.chmod(0o600)
        assert await speech.synthesize_to_file_async(TTSInput("say"), str(path)) == str(path)

    run(main)
    assert threads and not any(threads)
    assert path.read_bytes() == api.audio and path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"old")
    assert speech.synthesize_to_file("say", path) == str(path)
    assert path.read_bytes() == api.audio
    assert os.listdir(tmp_path) == ["out.mp3"]
    link = tmp_path / "link.mp3"
    link.symlink_to(path)
    path.write_bytes(b"old")
    run(lambda: speech.synthesize_to_file_async("say", link))
    assert link.is_symlink() and path.read_bytes() == api.audio
    # Nothing is said: a file of nothing.
    api.script.append(Reply(200))
    run(lambda: speech.synthesize_to_file_async("say", path))
    assert path.read_bytes() == b""


def test_what_fails_leaves_the_file_as_it_was(api, tmp_path):
    speech = make(api)
    path = tmp_path / "out.mp3"
    path.write_bytes(b"old")
    for reply, kind in (
        (error(400), embeddings.BadRequestError),
        (Reply(200, api.audio, cut=True), embeddings.APIConnectionError),
    ):
        api.script.extend([reply] * 2)
        with pytest.raises(kind):
            run(lambda: speech.synthesize_to_file_async("say", path))
        with pytest.raises(kind):
            speech.synthesize_to_file("say", path)
    with pytest.raises(FileNotFoundError):
        run(lambda: speech.synthesize_to_file_async("say", tmp_path / "no" / "out.mp3"))
    (tmp_path / "folder").mkdir()
    for write in (
        lambda: run(lambda: speech.synthesize_to_file_async("say", tmp_path / "folder")),
        lambda: speech.synthesize_to_file("say", tmp_path / "folder"),
    ):
        with pytest.raises(IsADirectoryError):
            write()
    assert sorted(os.listdir(tmp_path)) == ["folder", "out.mp3"]
    assert path.read_bytes() == b"old"


def test_cancelled_while_it_is_written(api, tmp_path, monkeypatch):
    from arshai_native.speech import _audio

    speech = make(api)
    path = tmp_path / "out.mp3"
    path.write_bytes(b"old")
    writing, goes_on = threading.Event(), threading.Event()
    real = os.write

    def write(descriptor, data):
        writing.set()
        assert goes_on.wait(20)
        return real(descriptor, data)

    async def main():
        task = asyncio.ensure_future(speech.synthesize_to_file_async("say", path))
        while not writing.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()  # the write is still under way
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert os.listdir(tmp_path) == ["out.mp3"]

    monkeypatch.setattr(_audio.os, "write", write)
    run(main)
    assert path.read_bytes() == b"old"


# ---- errors, keys ----


def test_errors(api, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    speech = make(api)

    async def streamed():
        return [piece async for piece in speech.synthesize_stream("x")]

    calls = (
        lambda: speech.transcribe(STTInput(WAV)),
        lambda: run(lambda: speech.transcribe(WAV)),
        lambda: speech.synthesize(TTSInput("x")),
        lambda: run(lambda: speech.synthesize("x")),
        lambda: run(streamed),
    )
    shown = [repr(speech)]
    for call in calls:
        api.script.append(error(401, f"bad {SECRET}"))
        with pytest.raises(embeddings.AuthenticationError, match="bad \\*\\*\\*") as raised:
            call()
        assert raised.value.code == "c401"
        shown += [repr(raised.value), raised.value.response.text]
        api.script.append(Reply(200, b"{" * 99, cut=True))
        with pytest.raises(embeddings.APIConnectionError):
            call()
    nobody = make(SimpleNamespace(url=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(embeddings.APIConnectionError):
        run(lambda: nobody.synthesize("x"))
    shown += [record.getMessage() for record in caplog.records]
    assert not [text for text in shown if SECRET in text]
    # Retried, as there is something to retry with.
    api.requests.clear()
    api.script.append(error(429, retry_after_ms="10"))
    assert run(lambda: make(api, max_retries=2).transcribe(WAV))["text"] == TEXT
    first, second = api.requests
    assert first.body == second.body and second.headers["x-stainless-retry-count"] == "1"


def test_keys(api, monkeypatch):
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        AsyncOpenAISpeech()
    with pytest.raises(TypeError, match="'stt'"):
        make(api, stt="x")
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    monkeypatch.setenv("OPENAI_BASE_URL", api.url)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    with AsyncOpenAISpeech(trust_env=False) as speech:
        speech.synthesize(TTSInput("x"))
    assert api.requests[0].headers["authorization"] == "Bearer from the environment"
    assert api.requests[0].headers["openai-organization"] == "org-1"

    async def main():
        async with make(api) as speech:
            return await speech.transcribe(WAV)

    assert run(main)["text"] == TEXT


def test_azure(api, monkeypatch):
    with pytest.raises(ValueError, match="AZURE_OPENAI_API_KEY"):
        AsyncAzureSpeech()
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", SECRET)
    with pytest.raises(ValueError, match="AZURE_OPENAI_ENDPOINT"):
        AsyncAzureSpeech()
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", api.url + "/")
    speech = AsyncAzureSpeech({"stt_model": "hear", "tts_model": "say it"}, trust_env=False)
    assert speech.transcribe(STTInput(WAV)).text == f"text: {TEXT}\n"
    assert run(lambda: speech.synthesize("x")).audio_data == api.audio
    monkeypatch.setenv("AZURE_OPENAI_DEPLOYMENT_NAME", "mine")
    monkeypatch.setenv("AZURE_OPENAI_API_VERSION", "2025-01-01")
    AsyncAzureSpeech(trust_env=False).synthesize(TTSInput("x"))
    assert [request.path for request in api.requests] == [
        "/v1/openai/deployments/hear/audio/transcriptions?api-version=2024-02-15",
        "/v1/openai/deployments/say%20it/audio/speech?api-version=2024-02-15",
        "/v1/openai/deployments/mine/audio/speech?api-version=2025-01-01",
    ]
    assert api.requests[0].headers["api-key"] == SECRET
    assert "authorization" not in api.requests[0].headers and SECRET not in repr(speech)


# ---- beside the SDK, and with arshai's classes ----


def test_requests_are_the_sdks(api, wav):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(api_key=SECRET, base_url=api.url) as client:
        with open(wav, "rb") as file:
            client.audio.transcriptions.create(
                model="whisper-1", file=file, language="en", response_format="verbose_json",
                prompt="p", temperature=0.0,
            )  # fmt: skip
        client.audio.speech.create(
            model="tts-1", voice="alloy", input="say \u00e4", speed=1.0, response_format="mp3"
        )
    speech = make(api)
    speech.transcribe(STTInput(str(wav), language="en", response_format="verbose_json", prompt="p"))
    speech.synthesize(TTSInput("say \u00e4"))
    theirs, theirs_said, ours, ours_said = api.requests
    assert list(ours.form) == list(theirs.form)
    ours_name, _, ours_content = ours.form.pop("file")
    theirs_name, _, theirs_content = theirs.form.pop("file")
    assert (ours_name, ours_content) == (theirs_name, theirs_content)
    for name in theirs.form.keys() - {"file"}:
        assert ours.form[name] == theirs.form[name], name
    assert ours_said.body == theirs_said.body
    for name in ("accept", "content-type", "authorization"):
        assert ours_said.headers[name] == theirs_said.headers[name]


def test_arshais_classes(api, monkeypatch, wav):
    """1.5.4's DTOs go in and come out where the program has imported them."""

    class STTFormat(StrEnum):
        JSON = "json"

    class TTSFormat(StrEnum):
        FLAC = "flac"

    class ISTTOutput(SimpleNamespace):
        pass

    class ITTSOutput(SimpleNamespace):
        pass

    module = ModuleType("ispeech")
    module.ISTTOutput, module.ITTSOutput = ISTTOutput, ITTSOutput
    monkeypatch.setitem(sys.modules, "arshai.core.interfaces.ispeech", module)
    config = SimpleNamespace(stt_model="w", tts_model=None, tts_voice=None, region=None)
    speech = make(api, config)
    with open(wav, "rb") as file:
        heard = speech.transcribe(SimpleNamespace(
            audio_file=file, language=None, response_format=STTFormat.JSON, prompt=None,
            temperature=0.0,
        ))  # fmt: skip
    assert heard == ISTTOutput(text=TEXT, language=None, segments=None, duration=None)
    said = speech.synthesize(
        SimpleNamespace(text="x", voice=None, output_format=TTSFormat.FLAC, speed=1.0)
    )
    assert said == ITTSOutput(audio_data=api.audio, format=TTSFormat.FLAC)
    assert api.requests[0].form["response_format"] == "json"
    assert api.requests[1].json["response_format"] == "flac"
