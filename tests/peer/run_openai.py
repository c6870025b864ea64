"""
Runs the OpenAI SDK's own tests of its asynchronous client with the SDK's class, then with the
native one in its place, and compares them test by test. Used by `make peer-openai`.

    python tests/peer/run_openai.py [--build DIR] [--versions V ...] [--only PATH ...]
                                    [-k EXPRESSION] [--verbose]

The suites come from the source distributions of openai, the packages that they need go into virtual
environments of their own, all of it under --build (default: build/peer), where it is kept. They run
against Steady (npm, @stdy/cli), which checks every request against the specification of the API:
the file that OPENAI_SPEC names, else downloaded. Every test that passes with the SDK's class has to
pass with the native one, but for those in EXCUSED: exit code 0; 1 if that is not so; 2 if the suite
cannot be run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
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

SPEC_URL = "https://app.stainless.com/api/spec/documented/openai/openapi.documented.yml"
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
TEST_TIMEOUT = 60  # seconds for one test
SUITE_TIMEOUT = 1800  # seconds for one run

# What may fail with the native class: (pattern of the test's name, reason).
EXCUSED: list[tuple[str, str]] = []


def get_specification(build: Path) -> Path:
    if named := os.environ.get("OPENAI_SPEC"):
        path = Path(named).resolve()
        if not path.is_file():
            raise CannotRun(f"OPENAI_SPEC: there is no file {path}")
        return path
    path = build / "openai-openapi.yml"
    if not path.exists():
        print("fetching the specification of the OpenAI API", flush=True)
        try:
            with urllib.request.urlopen(SPEC_URL, timeout=60) as answer:
                text = answer.read()
        except OSError as error:
            raise CannotRun(
                f"the specification cannot be fetched from {SPEC_URL} ({error}): "
                "fetch it elsewhere and run  make peer-openai OPENAI_SPEC=PATH"
            ) from None
        if not text.startswith(b"openapi:"):
            raise CannotRun(f"{SPEC_URL} is no OpenAPI specification (any more)")
        path.write_bytes(text)
    return path


def files_of(suite: Path) -> list[str]:
    """The files and folders to run, as they are in this version."""
    tests = suite / "tests"
    wanted = [f"api_resources/{name}" for name in RESOURCES]
    wanted += [f"api_resources/test_{name}.py" for name in RESOURCES]
    wanted += [f"test_{name}.py" for name in OTHERS] + list(LIBRARIES)
    return [f"tests/{name}" for name in wanted if (tests / name).exists()]


def run(
    python: Path, suite: Path, path: Path, client: str, url: str, arguments: list[str]
) -> tuple[Outcomes, str, tuple[int, int]]:
    """Outcomes of the tests with one class, what pytest printed, and the numbers of clients made
    and native."""
    with tempfile.NamedTemporaryFile() as results:
        # Nothing of the user's account, proxies or settings.
        environment = {
            name: value for name, value in os.environ.items()
            if not name.upper().startswith(("OPENAI", "AZURE", "PYTEST"))
            and not name.upper().endswith("_PROXY")
        }  # fmt: skip
        environment.update(
            PEER_CLASS=client,
            PEER_RESULTS=results.name,
            TEST_API_BASE_URL=url,
            DEFER_PYDANTIC_BUILD="false",
            PYTHONPATH=os.pathsep.join((str(HERE), str(path))),
            PYTHONDONTWRITEBYTECODE="1",
        )
        command = [
            *(str(python), "-m", "pytest", "-p", "swap_openai", "-p", "no:cacheprovider"),
            *("-q", "--no-header", "--tb=short", "-o", "addopts=", "-o", "filterwarnings="),
            *("-W", "ignore", f"--timeout={TEST_TIMEOUT}", *arguments),
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
                timeout=SUITE_TIMEOUT,
            )
            output, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as expired:
            output, code = (expired.output or b"").decode(errors="replace"), -1
        lines = [json.loads(line) for line in Path(results.name).read_text().splitlines()]
    made, native = next(((m, n) for test, m, n in lines if test == "clients"), (0, 0))
    outcomes = {test: (outcome, message) for test, outcome, message in lines if test != "clients"}
    if code not in (0, 1, 5):
        output += f"\npytest ended with code {code}\n"
        if client != "native":
            raise CannotRun(output)
    return outcomes, output, (made, native)


def excuse(test: str) -> str | None:
    return next((reason for pattern, reason in EXCUSED if re.search(pattern, test)), None)


def run_version(version: str, build: Path, spec: Path, options: argparse.Namespace) -> int:
    """Prints the comparison for one version of the SDK; the number of tests that are worse."""
    suite = get_suite(build, "openai", version, "tests")
    requirements = (f"openai=={version}", *REQUIREMENTS[version], *COMMON)
    python = get_python(build, requirements, f"venv-openai-{version}")
    path = link_package(build)
    arguments = options.only or files_of(suite)
    arguments += ["-k", options.k] if options.k else []
    results: dict[str, tuple[Outcomes, str, tuple[int, int]]] = {}
    for client in ("sdk", "native"):
        with SteadyServer(spec, build / "steady") as steady:
            results[client] = run(python, suite, path, client, steady.url, arguments)
        (build / f"openai-{version}-{client}.log").write_text(results[client][1])
        if options.verbose:
            print(results[client][1])
    theirs, ours = results["sdk"][0], results["native"][0]
    if count(theirs, "passed") == 0:
        raise CannotRun(f"no test was run\n{results['sdk'][1]}")

    print(f"\nopenai {version:<10}{'SDK':>22}{'native':>22}   (passed/failed/skipped)")
    groups = sorted({"/".join(test.partition("::")[0].split("/")[1:3]) for test in theirs})
    for group in groups:
        shown = [
            summary({t: o for t, o in some.items() if t.startswith(f"tests/{group}")})
            for some in (theirs, ours)
        ]
        print(f"{group:<34}{shown[0]:>15}{shown[1]:>22}")
    print(f"{'all':<34}{summary(theirs):>15}{summary(ours):>22}")
    made, native = results["native"][2]
    print(f"{native} of {made} clients had no http_client of their own")

    worse, better = compare(theirs, ours)
    excused = {test: reason for test in worse if (reason := excuse(test))}
    for reason in sorted(set(excused.values())):
        tests = [test for test in excused if excused[test] == reason]
        print(f"{len(tests)} excused: {reason}")
        for test in tests if options.verbose else ():
            print(f"    {test}")
    for pattern, _ in EXCUSED:
        if not options.only and not options.k:
            passing = [t for t in theirs if re.search(pattern, t) and t not in worse]
            for test in passing if options.verbose else ():
                print(f"excused for nothing: {test}")
    for test in better:
        print(f"passes with the native class only: {test}")
    rest = {test: what for test, what in worse.items() if test not in excused}
    for test, what in rest.items():
        print(f"passes with the SDK's class only: {test}: {what}")
    return len(rest)


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
    worse = 0
    try:
        spec = get_specification(build)
        for version in options.versions:
            worse += run_version(version, build, spec, options)
    except (CannotRun, CannotStart) as error:
        print(error, file=sys.stderr)
        return 2
    if worse:
        print(f"\n{worse} tests are worse; what pytest said is in {build}/openai-*.log")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
