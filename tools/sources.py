"""The one list of C sources, for setup.py and (printed) for the Makefile.

python tools/sources.py core|bindings|headers prints a list on one line.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE_ROOMS = ("base", "io", "redis", "http", "grpc", "milvus")


def _glob(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


def core() -> list[str]:
    """The rooms without Python, with the wake-up descriptor that fits the system."""
    linux = sys.platform == "linux" and os.environ.get("ARN_WAKEFD") != "pipe"
    twin = "wakefd_pipe.c" if linux else "wakefd_eventfd.c"
    found = [source for room in CORE_ROOMS for source in _glob(f"src/{room}/*.c")]
    return [source for source in found if not source.endswith(twin)]


def bindings() -> list[str]:
    return _glob("src/py/*.c")


def headers() -> list[str]:
    return _glob("include/*.h") + _glob("src/*/*.h")


if __name__ == "__main__":
    print(" ".join({"core": core, "bindings": bindings, "headers": headers}[sys.argv[1]]()))
