"""Helpers of the tests of files: what a thread is asked to do, and turns of a loop."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
import threading

TURNS = 300  # so many turns of a loop that goes on while somebody blocks

# Of sys.audit(): what may wait for a disk. A hook stays for good.
_BLOCKING = ("open", "os.", "shutil.", "tempfile.", "pathlib.")
_watched: dict[str, object] = {"thread": None, "events": []}


def _hook(event, args):
    if threading.get_ident() == _watched["thread"] and event.startswith(_BLOCKING):
        _watched["events"].append((event, args[:1]))


sys.addaudithook(_hook)


@contextlib.contextmanager
def nothing_blocks_here(announced=()):
    """Fails if this thread is seen at what may wait for a disk. announced: events that are raised
    here for what a worker does."""
    _watched.update(thread=threading.get_ident(), events=[])
    try:
        yield
    finally:
        _watched["thread"] = None
    assert [event for event in _watched["events"] if event[0] not in announced] == []


async def turns(number=TURNS):
    for _ in range(number):
        await asyncio.sleep(0)


async def goes_on_until(task, release):
    """The loop turns while the task waits for what `release` does; the task's result."""
    await turns()
    assert not task.done()
    release()
    return await task


def outcome(call):
    """What a call returns or raises, to compare: the type, the number and the names of errors."""
    try:
        return call()
    except Exception as error:
        return failure(error)


async def outcome_of(awaitable):
    try:
        return await awaitable
    except Exception as error:
        return failure(error)


def failure(error):
    if isinstance(error, OSError) and error.errno is not None:
        return type(error), error.errno, error.filename, error.filename2
    return type(error), str(error)


def leftovers(folder):
    """The temporary files of writes beside."""
    return [name for name in os.listdir(folder) if name.endswith(".part")]


def ordinary_user(code, *args):
    """Runs code as an ordinary user would: root without its capabilities. What it prints."""
    before = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            return None
        before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    done = subprocess.run(
        [*before, sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
