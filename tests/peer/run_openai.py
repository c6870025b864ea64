"""
Runs the OpenAI SDK's own tests of its asynchronous client with the SDK's class, then with the
native one in its place, and compares them test by test. Used by `make peer-openai`.

    python tests/peer/run_openai.py [--build DIR] [--versions V ...] [--only PATH ...]
                                    [-k EXPRESSION] [--verbose]

The suites come from the source distributions of openai, the packages that they need go into virtual
environments of their own, all of it under --build (default: build/peer), where it is kept. They run
against Steady (npm, @stdy/cli), which checks every request against the specification of the API:
the file that OPENAI_SPEC names, else the one that the SDK's own scripts/mock takes, downloaded.
Every test that passes with the SDK's class has to pass with the native one, but for those in
EXCUSED: exit code 0; 1 if that is not so; 2 if the suite cannot be run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
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

sys.path.insert(0, str(HERE.parent))

from httpservers import CannotStart, SteadyServer

REPOSITORY = "https://raw.githubusercontent.com/openai/openai-python"
COMMON = (
    "aiohttp",
    "httpx-aiohttp>=0.1.8",
    "pandas",
    "pytest==8.4.1",
    "pytest-timeout==2.3.1",
    "inline-snapshot==0.28.0",
    "rich>=13.7.1",
    "nest-asyncio==1.6.0",
    "dirty-equals>=0.6.0",
    "time-machine>=2.9",
    "websockets>=13",
)
REQUIREMENTS = {
    "1.109.1": ("pytest-asyncio==0.24.0", "respx==0.22.0"),
    "3.54.0": ("pytest-asyncio==1.4.0", "respx==0.22.0", "azure-identity>=1.14.1", "trio>=0.22.2"),
}
RESOURCES = (
    *("audio", "chat", "responses", "uploads"),
    *("batches", "completions", "embeddings", "files", "images", "models", "moderations"),
)
# Of the tests outside of api_resources those of what the class does or hands on.
OTHERS = (
    *("client", "streaming", "response", "legacy_response", "module_client"),
    *("stream_mode", "sse_framing", "status_error_messages", "retry_after_overflow"),
    *(
        "debug_logging",
        "large_payload_contract",
        "multipart_encoding",
        "request_body_routing_order",
    ),
)
LIBRARIES = (
    *("lib/chat", "lib/responses", "lib/streaming", "lib/test_azure.py", "lib/test_audio.py"),
    *("lib/test_assistants.py", "lib/test_embeddings.py", "lib/test_embedding_request_context.py"),
)
NAMES = {"sdk": "the SDK's class", "native": "the native class"}
TEST_TIMEOUT = 60  # seconds for one test
SUITE_TIMEOUT = 1800  # seconds for one run
SILENCE = 15  # seconds between lines about its progress

# What may fail with the native class: (pattern of the test's name, reason).
EXCUSED: list[tuple[str, str]] = [
    (
        r"test_retrying_(timeout|status)_errors_doesnt_leak$",
        "counts the requests in httpx's pool, which the engine has none of; "
        "test_failed_attempts_hold_no_connection is the same test for any client",
    ),
]


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


def fetch_specification(version: str) -> bytes:
    """The specification that this version of the SDK was made from, by way of its scripts/mock."""
    if int(version.partition(".")[0]) >= 3:
        return fetch(f"{REPOSITORY}/v{version}/api_reference/openapi.transformed.yml")
    for line in fetch(f"{REPOSITORY}/v{version}/.stats.yml").decode().splitlines():
        name, _, url = line.partition(": ")
        if name == "openapi_spec_url":
            return fetch(url)
    raise CannotRun(f".stats.yml of openai {version} names no specification")


def get_specification(build: Path, version: str) -> Path:
    if named := os.environ.get("OPENAI_SPEC"):
        path = Path(named).resolve()
        if not path.is_file():
            raise CannotRun(f"OPENAI_SPEC: there is no file {path}")
        return path
    path = build / f"openai-{version}-openapi.yml"
    if not path.exists():
        print(f"fetching the specification of openai {version}", flush=True)
        try:
            text = fetch_specification(version)
        except OSError as error:
            raise CannotRun(
                f"the specification cannot be fetched ({error}): fetch openai's openapi.yml "
                "elsewhere and run  make peer-openai OPENAI_SPEC=PATH"
            ) from None
        if not text.startswith(b"openapi:"):
            raise CannotRun(f"what was fetched for openai {version} is no specification")
        path.write_bytes(text)
    return path


def files_of(suite: Path) -> list[str]:
    """The files and folders to run, as they are in this version."""
    tests = suite / "tests"
    wanted = [f"api_resources/{name}" for name in RESOURCES]
    wanted += [f"api_resources/test_{name}.py" for name in RESOURCES]
    wanted += [f"test_{name}.py" for name in OTHERS] + list(LIBRARIES)
    return [f"tests/{name}" for name in wanted if (tests / name).exists()]


@dataclass
class Result:
    """What came of the tests with one class."""

    outcomes: Outcomes
    output: str  # pytest's
    clients: tuple[int, ...] = (0, 0, 0, 0)  # see swap_openai


def read_results(path: Path) -> tuple[Outcomes, int, tuple[int, ...]]:
    """Outcomes, how many there will be, and the numbers of clients, from what is there by now."""
    outcomes: Outcomes = {}
    collected, clients = 0, (0, 0, 0, 0)
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        name, *rest = json.loads(line)
        if name == "collected":
            collected = rest[0]
        elif name == "clients":
            clients = tuple(rest)
        else:
            outcomes[name] = (rest[0], rest[1])
    return outcomes, collected, clients


class Progress:
    """Shows where a run is: in a line that is overwritten, or now and then in one of its own."""

    def __init__(self, label: str, path: Path) -> None:
        self.label = label
        self.path = path
        self.is_terminal = sys.stdout.isatty()
        self.next = time.monotonic() + SILENCE

    def show(self, is_last: bool = False) -> None:
        if not (is_last or self.is_terminal or time.monotonic() >= self.next):
            return
        self.next = time.monotonic() + SILENCE
        outcomes, collected, _ = read_results(self.path)
        text = f"{self.label}: {len(outcomes)} of {collected} tests, "
        text += f"{count(outcomes, 'passed')} passed"
        end = "" if self.is_terminal and not is_last else "\n"
        print("\r" * self.is_terminal + text, end=end, flush=True)


def run(
    python: Path, suite: Path, path: Path, client: str, url: str, arguments: list[str], label: str
) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        results, log = Path(folder) / "results", Path(folder) / "log"
        results.touch()
        # Nothing of the user's account, proxies or settings.
        environment = {
            name: value for name, value in os.environ.items()
            if not name.upper().startswith(("OPENAI", "AZURE", "PYTEST"))
            and not name.upper().endswith("_PROXY")
        }  # fmt: skip
        environment.update(
            PEER_CLASS=client,
            PEER_RESULTS=str(results),
            TEST_API_BASE_URL=url,
            DEFER_PYDANTIC_BUILD="false",
            PYTHONPATH=os.pathsep.join((str(HERE), str(path))),
            PYTHONDONTWRITEBYTECODE="1",
            PYTHONFAULTHANDLER="1",
        )
        command = [
            *(str(python), "-m", "pytest", "-p", "swap_openai", "-p", "no:cacheprovider"),
            *("-q", "--no-header", "--tb=short", "-o", "addopts=", "-o", "filterwarnings="),
            *("-W", "ignore", f"--timeout={TEST_TIMEOUT}", *arguments),
        ]
        with open(log, "wb") as file:
            process = subprocess.Popen(
                command, cwd=suite, env=environment, stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        progress = Progress(label, results)
        deadline = time.monotonic() + SUITE_TIMEOUT
        try:
            while process.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
                progress.show()
        finally:
            # With whatever the tests themselves have started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        progress.show(is_last=True)
        outcomes, _, clients = read_results(results)
        output = log.read_text(errors="replace")
    if code not in (0, 1, 5):
        last = next(reversed(outcomes), "none")
        output += f"\npytest ended with code {code}; the last test that it finished: {last}\n"
        if client != "native":
            raise CannotRun(output)
        print(output.strip().rpartition("\n")[2])
    return Result(outcomes, output, clients)


def excuse(test: str) -> str | None:
    return next((reason for pattern, reason in EXCUSED if re.search(pattern, test)), None)


@dataclass
class Comparison:
    """One version of the SDK: how many tests pass, and how many only with the SDK's class."""

    version: str
    theirs: int
    ours: int
    excused: int
    worse: int


def run_version(version: str, build: Path, options: argparse.Namespace) -> Comparison:
    """Runs both and prints the comparison."""
    spec = get_specification(build, version)
    suite = get_suite(build, "openai", version, "tests")
    requirements = (f"openai=={version}", *REQUIREMENTS[version], *COMMON)
    python = get_python(build, requirements, f"venv-openai-{version}")
    path = link_package(build)
    arguments = list(options.only or files_of(suite))
    arguments += ["-k", options.k] if options.k else []
    results: dict[str, Result] = {}
    for client in ("sdk", "native"):
        with SteadyServer(spec, build / "steady") as steady:
            label = f"openai {version} with {NAMES[client]}"
            results[client] = run(python, suite, path, client, steady.url, arguments, label)
        (build / f"openai-{version}-{client}.log").write_text(results[client].output)
        if options.verbose:
            print(results[client].output)
    theirs, ours = results["sdk"].outcomes, results["native"].outcomes
    if count(theirs, "passed") == 0:
        raise CannotRun(f"no test was run\n{results['sdk'].output}")

    print(f"\nopenai {version:<10}{'SDK':>22}{'native':>22}   (passed/failed/skipped)")
    groups = sorted({"/".join(test.partition("::")[0].split("/")[1:3]) for test in theirs})
    for group in groups:
        shown = [
            summary({t: o for t, o in some.items() if t.startswith(f"tests/{group}")})
            for some in (theirs, ours)
        ]
        print(f"{group:<34}{shown[0]:>15}{shown[1]:>22}")
    print(f"{'all':<34}{summary(theirs):>15}{summary(ours):>22}")
    made, native, requests, in_c = results["native"].clients
    print(f"{native} of {made} clients had no http_client of their own;", end=" ")
    print(f"{in_c} of their {requests} requests were made in C")

    worse, better = compare(theirs, ours)
    excused = {test: reason for test in worse if (reason := excuse(test))}
    for reason in sorted(set(excused.values())):
        print(f"excused, {reason}:")
        for test in excused:
            if excused[test] == reason:
                print(f"    {test}")
    if not options.only and not options.k:
        for pattern, _ in EXCUSED:
            if not any(re.search(pattern, test) for test in excused):
                print(f"excused for nothing: {pattern}")
    for test in better:
        print(f"passes with the native class only: {test}")
    rest = {test: what for test, what in worse.items() if test not in excused}
    for test, what in rest.items():
        print(f"passes with the SDK's class only: {test}: {what}")
    return Comparison(
        version, count(theirs, "passed"), count(ours, "passed"), len(excused), len(rest)
    )


def show_table(comparisons: list[Comparison]) -> None:
    headings = ("passed with the SDK's class", "with the native", "excused", "worse")
    print(f"\n{'':<16}" + "".join(f"{heading:>{len(heading) + 3}}" for heading in headings))
    for each in comparisons:
        numbers = (each.theirs, each.ours, each.excused, each.worse)
        cells = zip(numbers, headings, strict=True)
        row = "".join(f"{number:>{len(heading) + 3}}" for number, heading in cells)
        print(f"openai {each.version:<9}{row}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "peer")
    parser.add_argument("--versions", nargs="+", default=list(REQUIREMENTS), metavar="VERSION")
    parser.add_argument("--only", nargs="+", metavar="PATH", help="as tests/test_client.py")
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests that match, as pytest's -k")
    parser.add_argument("--verbose", action="store_true", help="print what pytest says")
    options = parser.parse_args()
    build = options.build.resolve()
    build.mkdir(parents=True, exist_ok=True)
    # As an exception, so that the server and pytest end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    comparisons = []
    try:
        for version in options.versions:
            comparisons.append(run_version(version, build, options))
    except (CannotRun, CannotStart) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    show_table(comparisons)
    worse = sum(each.worse for each in comparisons)
    if worse:
        print(f"\n{worse} tests are worse; what pytest said is in {build}/openai-*.log")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
