"""
Runs redis-py's own asyncio tests with redis-py's client, then with the native one in its place,
and compares them test by test. Used by `make peer`.

    python tests/peer/run_redis.py [--build DIR] [--only FILE ...] [-k EXPRESSION] [--verbose]

The suite comes from the redis source distribution, the packages it needs go into a virtual
environment of its own, both under --build (default: build/peer), where they are kept. A
redis-server is started on a free port. Every test that passes with redis-py's client has to
pass with the native one, and nearly all of its clients have to be on the native engine: exit
code 0; 1 if that is not so; 2 if the suite cannot be run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from suites import (
    HERE,
    ROOT,
    CannotRun,
    Outcomes,
    compare,
    count,
    get_python,
    get_suite,
    link_package,
    summary,
)

VERSION = "5.3.1"
REQUIREMENTS = (
    f"redis=={VERSION}",
    "pytest==8.3.5",
    "pytest-asyncio==0.23.8",
    "pytest-timeout==2.3.1",
    "mock==5.1.0",
    "PyJWT>=2.9",
    "packaging",
    "redis-entraid>=1,<2",
)
REQUIRED = ("commands", "pipeline", "encoding", "scripting")
EXTRA = ("lock", "pubsub", "monitor", "cwe_404")
TEST_TIMEOUT = 60  # seconds for one test; the slowest of redis-py's takes about ten
FILE_TIMEOUT = 1800  # seconds for one file
NATIVE_SHARE = 0.9  # the rest may ask for what redis-py's own path serves, as UTF-16


@contextlib.contextmanager
def server() -> Iterator[int]:
    """The port of a redis-server of its own."""
    sys.path.insert(0, str(HERE.parent))
    from servers import RedisServer

    if shutil.which("redis-server") is None:
        raise CannotRun("redis-server is not installed: apt-get install redis-server")
    with RedisServer() as started:
        yield started.port


def run_file(
    python: Path, suite: Path, path: Path, client: str, name: str, arguments: list[str]
) -> tuple[Outcomes, str, tuple[int, int]]:
    """Outcomes of one file's tests with one client, what pytest printed, and the numbers of clients
    made and native."""
    with server() as port, tempfile.NamedTemporaryFile() as results:
        environment = dict(
            os.environ,
            PEER_CLASS=client,
            PEER_PORT=str(port),
            PEER_RESULTS=results.name,
            PYTHONPATH=os.pathsep.join((str(HERE), str(path))),
            PYTHONDONTWRITEBYTECODE="1",
        )
        command = [
            *(str(python), "-m", "pytest", "-p", "swap_redis", "-p", "no:cacheprovider"),
            *("-q", "--no-header", "--tb=short", "-W", "ignore", "-o", "asyncio_mode=auto"),
            f"--timeout={TEST_TIMEOUT}",
            f"--redis-url=redis://127.0.0.1:{port}/9",
            # Modules would be looked for here, on a port that is nobody's.
            "--redis-mod-url=redis://127.0.0.1:1",
            f"tests/test_asyncio/test_{name}.py",
            *arguments,
        ]
        try:
            done = subprocess.run(
                command,
                cwd=suite,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=FILE_TIMEOUT,
            )
            output, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as expired:
            output, code = str(expired.output or ""), -1
        lines = [json.loads(line) for line in Path(results.name).read_text().splitlines()]
    made, native = next(((m, n) for test, m, n in lines if test == "clients"), (0, 0))
    outcomes = {test: (outcome, message) for test, outcome, message in lines if test != "clients"}
    if code not in (0, 1, 5) and client != "native":
        raise CannotRun(output)
    if code not in (0, 1, 5):
        output += f"\npytest ended with code {code}\n"
    return outcomes, output, (made, native)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "peer")
    parser.add_argument(
        "--only", nargs="+", metavar="FILE", help="of " + " ".join(REQUIRED + EXTRA)
    )
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests that match, as pytest's -k")
    parser.add_argument("--verbose", action="store_true", help="print what pytest says")
    options = parser.parse_args()
    build = options.build.resolve()
    build.mkdir(parents=True, exist_ok=True)

    try:
        suite = get_suite(build, "redis", VERSION, "tests/test_asyncio")
        path = link_package(build)
        python = get_python(build, REQUIREMENTS)
    except CannotRun as error:
        print(error, file=sys.stderr)
        return 2

    arguments = ["-k", options.k] if options.k else []
    every_worse: list[str] = []
    every_better: list[str] = []
    foreign: list[str] = []
    passed = [0, 0]
    heading = f"{'passed/failed/skipped':<24}{'redis-py':>14}{'native':>14}"
    print(f"{heading}{'clients on the engine':>24}", flush=True)
    for name in options.only or REQUIRED + EXTRA:
        try:
            theirs, output, _ = run_file(python, suite, path, "redis-py", name, arguments)
            ours, our_output, clients = run_file(python, suite, path, "native", name, arguments)
        except CannotRun as error:
            print(error, file=sys.stderr)
            return 2
        if options.verbose:
            print(output, our_output, sep="\n")
        made, native = clients
        share = f"{native} of {made}"
        print(f"test_{name:<19}{summary(theirs):>14}{summary(ours):>14}{share:>24}", flush=True)
        if native < made * NATIVE_SHARE:
            foreign.append(f"test_{name}: {made - native} of {made} clients")
        worse, better = compare(theirs, ours)
        if worse and not options.verbose:
            (build / f"{name}.log").write_text(our_output)
        every_worse += [f"{test.rpartition('/')[2]}: {what}" for test, what in worse.items()]
        every_better += [test.rpartition("/")[2] for test in better]
        passed[0] += count(theirs, "passed")
        passed[1] += count(ours, "passed")
    print(f"{'passed in all':<24}{passed[0]:>14}{passed[1]:>14}")

    for name in every_better:
        print(f"passes with the native client only: {name}")
    for name in every_worse:
        print(f"passes with redis-py's client only: {name}")
    if passed[0] == 0:
        print("no test was run", file=sys.stderr)
        return 2
    for name in foreign:
        print(f"not on the native engine: {name}")
    if every_worse:
        print(f"{len(every_worse)} tests are worse; the output is in {build}/*.log")
    return 1 if every_worse or foreign else 0


if __name__ == "__main__":
    sys.exit(main())
