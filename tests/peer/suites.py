"""
What the runs of other projects' suites share: the suite from its source distribution, an
environment of its own for it, arshai_native within that, and the comparison of outcomes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

Outcomes = dict[str, tuple[str, str]]


class CannotRun(Exception):
    """The suite could not be run at all."""


def call(*command: object, **kwargs: object) -> None:
    result = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **kwargs,
    )
    if result.returncode != 0:
        raise CannotRun(f"{' '.join(map(str, command))}\n{result.stdout}")


def get_suite(build: Path, project: str, version: str, tests: str) -> Path:
    """The unpacked source distribution, in which the folder `tests` is."""
    suite = build / f"{project}-{version}"
    if (suite / tests).is_dir():
        return suite
    archive = build / f"{project}-{version}.tar.gz"
    if not archive.exists():
        print(f"fetching the source distribution of {project} {version}", flush=True)
        call(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--no-binary", project, "--dest", build, f"{project}=={version}"),
        )
    with tarfile.open(archive) as tar, tempfile.TemporaryDirectory(dir=build) as folder:
        tar.extractall(folder, filter="data")
        (Path(folder) / suite.name).rename(suite)  # all of it or nothing
    return suite


def get_python(build: Path, requirements: tuple[str, ...], name: str = "venv") -> Path:
    """The interpreter of the suite's own environment."""
    home = build / "{}-{}.{}".format(name, *sys.version_info)
    python = home / "bin" / "python"
    stamp = home / "requirements"
    if stamp.exists() and stamp.read_text() == "\n".join(requirements):
        return python
    print("making an environment for the suite", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    call(sys.executable, "-m", "venv", home)
    call(python, "-m", "pip", "install", "--quiet", *requirements)
    stamp.write_text("\n".join(requirements))
    return python


def link_package(build: Path) -> Path:
    """A directory that holds arshai_native, the one this interpreter imports, and nothing else."""
    try:
        import arshai_native._core
    except ImportError:
        sys.path.insert(0, str(ROOT))
        try:
            import arshai_native._core
        except ImportError as error:
            raise CannotRun(f"arshai_native is not built for {sys.executable}: {error}") from None
    path = build / "path-{}.{}".format(*sys.version_info)
    path.mkdir(exist_ok=True)
    link = path / "arshai_native"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(arshai_native.__file__).resolve().parent, target_is_directory=True)
    return path


def count(outcomes: Outcomes, wanted: str) -> int:
    return sum(outcome == wanted for outcome, _ in outcomes.values())


def summary(outcomes: Outcomes) -> str:
    failed = count(outcomes, "failed") + count(outcomes, "error")
    return f"{count(outcomes, 'passed')}/{failed}/{count(outcomes, 'skipped')}"


def compare(theirs: Outcomes, ours: Outcomes) -> tuple[dict[str, str], list[str]]:
    """The tests that only their client passes, with what ours does; those that only ours passes."""
    missing = ("not run", "")
    worse, better = {}, []
    for test, (outcome, _) in theirs.items():
        our_outcome, message = ours.get(test, missing)
        if outcome == "passed" and our_outcome != "passed":
            worse[test] = f"{our_outcome}: {message}"
        elif outcome in ("failed", "error") and our_outcome == "passed":
            better.append(test)
    return worse, better
