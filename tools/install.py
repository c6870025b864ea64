"""Installs what takes long, and shows how far it is: python tools/install.py LOG REQUIREMENTS

pip's output, and that of the compilers it runs, goes to LOG. Ends as pip ends, and with the last
lines of LOG where that fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

# How far make is, of those that CMake writes; what pip does.
STEPS = re.compile(r"^\s*(?:\[ *(\d+%)\] |(Downloading|Building wheel|Installing) )", re.MULTILINE)
EVERY = (1, 20)  # seconds between two looks: a terminal, a file
TAIL = 64 * 1024


def progress(log: Path) -> str:
    """The last step in the log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        steps = STEPS.findall(file.read().decode(errors="replace"))
    percent, doing = steps[-1] if steps else ("", "starting")
    return f"compiling {percent}" if percent else doing.lower()


def main(log: Path, requirements: str) -> int:
    terminal = sys.stdout.isatty()
    start = shown = time.monotonic()
    # Verbose: else pip keeps what the compilers say to itself.
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-v",
        "--progress-bar", "off", "-r", requirements,
    ]  # fmt: skip
    with log.open("wb") as out, subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
    ) as pip:  # fmt: skip
        while pip.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            if now - shown >= EVERY[not terminal]:
                shown = now
                minutes, seconds = divmod(int(now - start), 60)
                line = f"    {minutes}:{seconds:02} {progress(log):<20}"
                print(f"\r{line}" if terminal else line, end="" if terminal else "\n", flush=True)
    if terminal:
        print("\r" + " " * 40 + "\r", end="")
    if pip.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        errors = [line.strip() for line in lines if re.match(r"\s*(ERROR|error):", line)]
        print("\n".join((errors or lines)[-3:]))
    return pip.returncode


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(130)
