"""The SDK's log lines: who asks for them gets them, nobody else pays for them."""

import logging
import os
import subprocess
import sys
import textwrap

import openai
import pytest
from openai_fixtures import clean_environment, module_server, server  # noqa: F401
from openai_kit import COMPLETION, HELLO, KEY, goes_natively, ours, run
from openai_server import Reply, document

import arshai_native.openai as native
from arshai_native.openai._sdk import base

# Levels of the root logger, of "openai" and of the one that the SDK writes to; whether the SDK's
# lines are asked for.
LEVELS = [
    ("WARNING", "NOTSET", "NOTSET", False),
    ("INFO", "NOTSET", "NOTSET", False),
    ("DEBUG", "NOTSET", "NOTSET", True),
    (5, "NOTSET", "NOTSET", True),
    ("NOTSET", "NOTSET", "NOTSET", False),
    ("NOTSET", "DEBUG", "NOTSET", True),
    ("NOTSET", "INFO", "NOTSET", False),
    ("WARNING", "DEBUG", "NOTSET", True),
    ("NOTSET", "NOTSET", "DEBUG", True),
    ("DEBUG", "WARNING", "NOTSET", False),
    ("DEBUG", "DEBUG", "WARNING", False),
]


@pytest.fixture
def loggers():
    """The three of them, which get their levels back."""
    found = [logging.getLogger(name) for name in (None, "openai", base.log.name)]
    before = [logger.level for logger in found]
    yield found
    for logger, level in zip(found, before, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize("root, package, module, is_asked_for", LEVELS)
def test_log_lines_that_are_asked_for(loggers, root, package, module, is_asked_for):
    for logger, level in zip(loggers, (root, package, module), strict=True):
        logger.setLevel(level)
    client = native.AsyncOpenAI(api_key=KEY)
    assert goes_natively(client) is not is_asked_for
    logging.disable(logging.CRITICAL)
    try:
        assert goes_natively(client)
    finally:
        logging.disable(logging.NOTSET)
    assert goes_natively(client) is not is_asked_for


@pytest.mark.parametrize("level, is_asked_for", [("debug", True), ("info", True), ("error", False)])
def test_log_lines_that_the_environment_asks_for(level, is_asked_for):
    program = """
        import logging
        from arshai_native.openai import AsyncOpenAI
        from arshai_native import _core
        logging.getLogger().setLevel(logging.NOTSET)
        call = AsyncOpenAI(api_key="x").embeddings.create(model="m", input="x")
        print(isinstance(call, _core.Request))
        call.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "OPENAI_LOG": level}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(not is_asked_for)


@pytest.mark.parametrize("status", [200, 500])
def test_retries_are_told_of(server, caplog, status):
    failing = Reply(b"", 500, {"retry-after-ms": "1"})
    server.script[:] = [failing, failing, document(COMPLETION, status)]

    async def main():
        client = ours(server)
        assert goes_natively(client)
        try:
            await client.chat.completions.create(**HELLO)
        except openai.InternalServerError:
            assert status == 500
        await client.close()

    with caplog.at_level(logging.INFO):
        run(main)
    lines = [record.message for record in caplog.records if record.name.startswith("openai")]
    assert lines == ["Request to /chat/completions was retried 2 times"]
