"""
Runs aiofiles' own tests with aiofiles, then with arshai_native.aiofiles in its place, and compares
them test by test. Used by `make peer-files`.

    python tests/peer/run_files.py [--build DIR] [-k EXPRESSION] [--verbose]

The suite comes from the source distribution, the packages it needs go into a virtual environment of
its own, both under --build (default: build/peer), where they are kept. One of the tests is about
what an ordinary user must not do: root runs them without its capabilities. Every test that passes
with aiofiles has to pass with the native module: exit code 0; 1 if that is not so; 2 if the suite
cannot be run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
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

VERSION = "25.1.0"
REQUIREMENTS = (
    f"aiofiles=={VERSION}",
    "pytest==8.4.1",
    "pytest-asyncio==1.0.0",
    "pytest-timeout==2.4.0",
)
NAMES = {"aiofiles": "aiofiles", "native": "the native module"}
TEST_TIMEOUT = 60  # seconds for one test; the slowest takes two
SUITE_TIMEOUT = 900  # seconds for one run


def as_ordinary_user() -> list[str]:
    """The words before a command that take root's capabilities from it."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        print("no setpriv: the tests are run with all that root may do")
        return []
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]


def run(
    python: Path, suite: Path, path: Path, module: str, arguments: list[str]
) -> tuple[Outcomes, str, tuple[int, int]]:
    """Outcomes with one module, what pytest printed, and the numbers of files opened and native."""
    with tempfile.TemporaryDirectory() as folder:
        # The tests write into their own folder.
        shutil.copytree(suite, Path(folder) / suite.name)
        results = Path(folder) / "results"
        results.touch()
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTEST")
        }
        environment.update(
            PEER_CLASS=module,
            PEER_RESULTS=str(results),
            PYTHONPATH=os.pathsep.join((str(HERE), str(path))),
            PYTHONDONTWRITEBYTECODE="1",
            PYTHONFAULTHANDLER="1",
        )
        command = [
            *as_ordinary_user(),
            *(str(python), "-m", "pytest", "-p", "swap_aiofiles", "-p", "no:cacheprovider"),
            *("-q", "--no-header", "--tb=short", "-W", "ignore"),
            *(f"--timeout={TEST_TIMEOUT}", f"--basetemp={folder}/tmp", "tests", *arguments),
        ]
        try:
            done = subprocess.run(
                command,
                cwd=Path(folder) / suite.name,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=SUITE_TIMEOUT,
            )
            output, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as expired:
            output, code = f"{expired.output or ''}\npytest was ended: it took too long", -1
        lines = [json.loads(line) for line in results.read_text().splitlines()]
    files = next(((a, b) for test, a, b in lines if test == "files"), (0, 0))
    outcomes = {test: (outcome, message) for test, outcome, message in lines if test != "files"}
    if code not in (0, 1, 5):
        output += f"\npytest ended with code {code}\n"
        if module != "native":
            raise CannotRun(output)
    return outcomes, output, files


def show_table(theirs: Outcomes, ours: Outcomes) -> None:
    print(f"\n{'passed/failed/skipped':<38}{'aiofiles':>14}{'native':>14}")
    for file in sorted({test.partition("::")[0] for test in theirs}):
        shown = [
            summary({test: what for test, what in some.items() if test.startswith(f"{file}::")})
            for some in (theirs, ours)
        ]
        print(f"{file:<38}{shown[0]:>14}{shown[1]:>14}")
    print(f"{'all':<38}{summary(theirs):>14}{summary(ours):>14}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "peer")
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests that match, as pytest's -k")
    parser.add_argument("--verbose", action="store_true", help="print what pytest says")
    options = parser.parse_args()
    build = options.build.resolve()
    build.mkdir(parents=True, exist_ok=True)
    arguments = ["-k", options.k] if options.k else []
    outcomes: dict[str, Outcomes] = {}
    output: dict[str, str] = {}
    try:
        suite = get_suite(build, "aiofiles", VERSION, "tests")
        path = link_package(build)
        python = get_python(build, REQUIREMENTS, "venv-aiofiles")
        for module, name in NAMES.items():
            print(f"aiofiles {VERSION}'s tests with {name}", flush=True)
            outcomes[module], output[module], files = run(python, suite, path, module, arguments)
            if options.verbose:
                print(output[module])
    except CannotRun as error:
        print(error, file=sys.stderr)
        return 2
    theirs, ours = outcomes["aiofiles"], outcomes["native"]
    if count(theirs, "passed") == 0:
        print(f"no test was run\n{output['aiofiles']}", file=sys.stderr)
        return 2

    if not ours:
        print(f"no test was run with the native module\n{output['native']}")
        return 1
    show_table(theirs, ours)
    print(f"{files[0]} files were opened, {files[1]} of them are served by C")
    worse, better = compare(theirs, ours)
    for test in better:
        print(f"passes with the native module only: {test}")
    for test, what in worse.items():
        print(f"passes with aiofiles only: {test}: {what}")
    if worse and not options.verbose:
        print(output["native"])
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
