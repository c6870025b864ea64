"""Native I/O for asyncio: clients whose sockets live on a C io thread.

    from arshai_native import redis       # drop-in for redis.asyncio
    from arshai_native.memory import AsyncRedisMemoryManager

Importing this package imports nothing but the extension; each submodule imports the SDK whose
surface it inherits when it is first asked for.
"""

import atexit
import importlib
from typing import Any

from arshai_native import _core

__all__ = ["memory", "redis"]
__version__ = "0.1.0"

# The io thread ends before the interpreter does, so that nothing arrives at a half-gone one.
atexit.register(_core._shutdown)


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"arshai_native.{name}")
    raise AttributeError(f"module 'arshai_native' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
