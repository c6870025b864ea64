"""What the tests of files share."""

import os
import pathlib
import subprocess
import sys
import textwrap


def path_with(folder, data, name="f"):
    path = os.path.join(folder, name)
    pathlib.Path(path).write_bytes(data)
    return path


def script(text, *args, **kwargs):
    """Runs Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(text), *args],
        capture_output=True, text=True, timeout=60, cwd="/", **kwargs,
    )  # fmt: skip
