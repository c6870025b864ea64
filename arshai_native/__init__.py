"""Native I/O for asyncio: clients whose sockets live on a C io thread.

    from arshai_native import redis       # drop-in for redis.asyncio
    from arshai_native.memory import AsyncRedisMemoryManager
    from arshai_native.embeddings import AsyncOpenAIEmbedding
    from arshai_native.speech import AsyncOpenAISpeech
    from arshai_native.vector_db import AsyncMilvus
    from arshai_native import aiofiles    # drop-in for aiofiles
    from arshai_native import files       # whole files and folders
    from arshai_native.config import AsyncConfigLoader

Importing this package imports nothing but the extension; each submodule imports the SDK whose
surface it inherits when it is first asked for.
"""

import atexit
import importlib
from typing import Any

try:
    from arshai_native import _core
except ImportError as error:
    from pathlib import Path

    here = Path(__file__).resolve().parent
    if any(here.glob("_core.*.so")):
        raise  # it is there and does not load: its own message says why
    raise ImportError(
        f"{here} has no compiled extension. If that is a source tree, it hides the installed "
        "package: run Python from another directory"
    ) from error

__all__ = ["aiofiles", "config", "embeddings", "files", "memory", "redis", "speech", "vector_db"]
__version__ = "0.1.0"

# The io thread ends before the interpreter does, so that nothing arrives at a half-gone one.
atexit.register(_core._shutdown, 2.0, True)


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"arshai_native.{name}")
    raise AttributeError(f"module 'arshai_native' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
