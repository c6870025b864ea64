"""The one list of C sources, for setup.py and (printed) for the Makefile.

python tools/sources.py core|bindings|headers prints a list on one line.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE_ROOMS = ("base", "io", "redis", "http", "grpc", "milvus", "file")
# What is Linux's own has a portable twin.
TWINS = {"linux": ("wakefd_eventfd.c", "now_linux.c"), "any": ("wakefd_pipe.c", "now_portable.c")}


def _glob(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


def core() -> list[str]:
    """The rooms without Python, with what fits the system of each pair of twins."""
    linux = sys.platform == "linux" and os.environ.get("ARN_WAKEFD") != "pipe"
    others = TWINS["any" if linux else "linux"]
    found = [source for room in CORE_ROOMS for source in _glob(f"src/{room}/*.c")]
    return [source for source in found if not source.endswith(others)]


def bindings() -> list[str]:
    return _glob("src/py/*.c")


def headers() -> list[str]:
    return _glob("include/*.h") + _glob("src/*/*.h")


if __name__ == "__main__":
    print(" ".join({"core": core, "bindings": bindings, "headers": headers}[sys.argv[1]]()))
