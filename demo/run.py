"""make demo: arshai's own classes and the OpenAI SDK beside ours, on real parts.

1. memories.py   1,000 conversations in a real Redis: REDIS_URL's, or one it starts
2. answers.py    text embedded, questions answered in a stream, arshai's agent: by the account of
                 OPENAI_API_KEY (OPENAI_BASE_URL, DEMO_CHAT_MODEL, DEMO_EMBEDDING_MODEL), or by
                 llama.cpp with a small model; left out where there is neither
3. searches.py   of that: the text in a milvus-lite that it starts, and found there

Everything is checked on the way: what both ways store, embed, find and answer has to be the same.
Ends with 0, or with one line that says what is wrong; leaves nothing running and nothing in the
Redis.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
# arshai's models warn about pydantic's settings.
warnings.filterwarnings("ignore", category=UserWarning, module="pydantic")
# It uses what pymilvus 2.6 warns of.
warnings.filterwarnings("ignore", message=".*ORM-style PyMilvus API")
# Its log tells every step, and the URL with the password; what goes wrong the demo says itself.
logging.disable(logging.CRITICAL)

import answers  # noqa: E402
import memories  # noqa: E402
from display import say  # noqa: E402
from models import Model, model_or_none, refusals  # noqa: E402


async def demo() -> None:
    # The servers end before asyncio waits for the threads that may be asking them.
    with memories.redis_url() as url, model_or_none() as model:
        async with memories.managers(url) as (ours, theirs):
            await memories.run(ours, theirs)
            if model is not None:
                await with_model(model, ours, theirs)


async def with_model(model: Model, ours: Any, theirs: Any) -> None:
    with refusals(model):
        await answers.run(model, ours, theirs)
        if memories.HAS_ARSHAI:
            await answers.run_agent(model, ours, theirs)
        else:
            say("without arshai, which supports Python 3.11 and 3.12: no agent to run")


def main() -> int:
    if memories.HAS_ARSHAI:
        from loguru import logger  # what arshai logs with

        logger.disable("arshai")

    def end(number: int, frame: Any) -> None:
        sys.exit(128 + number)  # and so through every `with`, which stops the servers

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    try:
        asyncio.run(demo())
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
