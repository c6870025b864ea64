"""What the benchmarks share: fresh processes for every measurement, tables, verdicts, the results'
file. Ratios are ours to theirs, the median over the rounds of the ratios within each round.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OURS = "ours"


def measure(worker: str, case: dict[str, Any], timeout: float = 120) -> Any:
    """One worker's result, or a string that says why there is none."""
    # The environment of an installed user: no folder of this repository in the path.
    run = subprocess.run(
        [sys.executable, "-P", str(ROOT / "benchmarks" / worker), json.dumps(case)],
        capture_output=True, text=True, timeout=timeout, cwd="/",
    )  # fmt: skip
    if run.returncode == 0:
        return json.loads(run.stdout.splitlines()[-1])
    return (run.stderr.strip().splitlines() or ["no output"])[-1][:100]


def verdict(value: float, required: float, aim: float, lower: bool = False) -> str:
    good = (lambda bar: value <= bar) if lower else (lambda bar: value >= bar)
    return "aim met" if good(aim) else "met" if good(required) else "MISSED"


def parts(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    return result if "get" in result else {"": result}


def median_of(rounds: list[dict[str, Any]], client: str, part: str, field: str) -> float:
    return statistics.median(parts(r[client])[part][field] for r in rounds)


def ratio_of(
    rounds: list[dict[str, Any]], peers: tuple[str, ...], part: str, field: str, lower: bool
) -> float:
    """Ours to the best peer's, the median over the rounds; above 1 is in our favour."""
    ratios = []
    for r in rounds:
        ours = parts(r[OURS])[part][field]
        others = [parts(r[peer])[part][field] for peer in peers if isinstance(r[peer], dict)]
        ratios.append(min(others) / ours if lower else ours / max(others))
    return statistics.median(ratios)


def table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("| " + " | ".join(cells) + " |")


class Bars(list[dict[str, Any]]):
    """What a section has to reach; printed as it is found out."""

    def add(
        self, what: str, value: float, required: float, aim: float, lower: bool = False
    ) -> None:
        met = verdict(value, required, aim, lower)
        self.append({"bar": what, "value": value, "required": required, "aim": aim, "verdict": met})
        print(f"- {what}: {value:.2f} (required {required:g}, aim {aim:g}): {met}")


def report(
    section: dict[str, Any],
    rounds: list[dict[str, Any]],
    columns: tuple[tuple[str, str, str], ...] = (),
) -> Bars:
    """Prints a section's table and whether it reaches its bars. columns: (field, heading, format)
    of what a result has besides operations and CPU.
    """
    print(f"\n### {section['name']}\n")
    rows = []
    first = next(r[OURS] for r in rounds)
    for client in section["clients"]:
        bad = [r[client] for r in rounds if not isinstance(r[client], dict)]
        if bad:
            rows.append([client, bad[0], *[""] * (2 + len(columns))])
            for r in rounds:
                r[client] = bad[0]
            continue
        for part in parts(first):
            ops = median_of(rounds, client, part, "ops")
            row = [f"{client} {part.upper()}".strip(), f"{ops:,.0f}",
                   f"{median_of(rounds, client, part, 'cpu_us'):,.1f}"]  # fmt: skip
            other = (client,) if client != OURS else ()
            row.append(f"{ratio_of(rounds, other, part, 'ops', False):.1f}x" if other else "")
            for field, _, shape in columns:
                row.append(f"{median_of(rounds, client, part, field):{shape}}")
            rows.append(row)
    unit = section.get("unit", "operation")
    heads = ["client", f"{unit}s/s", f"CPU us/{unit}", "ours is"]
    table(heads + [heading for _, heading, _ in columns], rows)
    print()
    bars = Bars()
    for what, peers, required, aim in section.get("bars", []):
        there = available(rounds, peers)
        if there:
            worst = min(ratio_of(rounds, there, part, "ops", False) for part in parts(first))
            bars.add(f"{unit}s/s {what}", worst, required, aim)
    if section.get("cpu_bar"):
        worst = max(median_of(rounds, OURS, part, "cpu_us") for part in parts(first))
        bars.add(f"client CPU us per {unit}", worst, *section["cpu_bar"], lower=True)
    return bars


def available(rounds: list[dict[str, Any]], clients: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(client for client in clients if isinstance(rounds[0][client], dict))


def comparisons(section: dict[str, Any]) -> list[list[str]]:
    """The section's rows of the summary; of parts the one that gains less."""
    rows, rounds = [], section["rounds"]
    for what, peers, _, _ in section.get("bars", []):
        peers = available(rounds, peers)
        if not peers:
            continue
        ratio, part = min(
            (ratio_of(rounds, peers, part, "ops", False), part) for part in parts(rounds[0][OURS])
        )
        best = max(peers, key=lambda peer: median_of(rounds, peer, part, "ops"))
        rows.append([f"{section['name']}, {what}"] + [
            f"{median_of(rounds, client, part, 'ops'):,.0f}/s, "
            f"{median_of(rounds, client, part, 'cpu_us'):,.1f} us" for client in (OURS, best)
        ] + [f"{ratio:.1f}x"])  # fmt: skip
    return rows


def selected(sections: list[dict[str, Any]], only: str) -> Iterator[dict[str, Any]]:
    return (section for section in sections if only in section["name"])


def in_rounds(
    section: dict[str, Any], count: int, one: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """one(client) for each client in turn, so many times. Ours has to work."""
    measured = []
    for number in range(count):
        sys.stderr.write(f"\r{section['name']}: round {number + 1}/{count} ...")
        sys.stderr.flush()
        measured.append({client: one(client) for client in section["clients"]})
    sys.stderr.write("\r" + " " * 100 + "\r")
    if not isinstance(measured[0][OURS], dict):
        raise SystemExit(f"{section['name']}: {measured[0][OURS]}")
    return measured


IMPORT = """
import os, sys, time
def rss():
    with open("/proc/self/statm") as f: return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before, start = rss(), time.perf_counter()
{what}
print(time.perf_counter() - start, rss() - before)
"""


def import_section(modules: tuple[str, ...], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A section about what importing each of them costs, if it is one of those that are wanted."""
    if options.only and options.only not in "import":
        return []
    print("\n### import\n")
    statements = tuple(f"import {name}" for name in modules)
    figures = import_figures(("pass", *statements), 3 if options.quick else 9)
    return [{"name": "import", "figures": figures}]


def import_figures(statements: tuple[str, ...], count: int) -> dict[str, tuple[float, float]]:
    """(ms, MB) of each statement alone, in fresh interpreters; prints them."""
    figures: dict[str, tuple[float, float]] = {}
    for what in statements:
        runs = []
        for _ in range(count):
            run = subprocess.run(
                [sys.executable, "-P", "-c", IMPORT.replace("{what}", what)],
                capture_output=True, text=True, check=True, cwd="/",
            )  # fmt: skip
            runs.append([float(x) for x in run.stdout.split()])
        figures[what] = (
            statistics.median(r[0] for r in runs) * 1e3,
            statistics.median(r[1] for r in runs) / 2**20,
        )
    rows = [[what, f"{ms:.1f}", f"{mb:.1f}"] for what, (ms, mb) in figures.items()]
    table(["statement", "ms", "MB"], rows)
    return figures


def environment(packages: tuple[str, ...]) -> dict[str, Any]:
    versions = {}
    for name in ("arshai-native", *packages):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": datetime.datetime.now().isoformat(timespec="seconds"), "commit": commit,
        "python": platform.python_version(), "system": platform.platform(),
        "processors": os.cpu_count(), "versions": versions,
    }  # fmt: skip


def options_of(description: str, results: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="two short rounds: a rough look")
    parser.add_argument("--only", default="", help="sections whose name contains this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", default=str(ROOT / "benchmarks" / "results" / results))
    options = parser.parse_args()
    options.rounds, options.seconds = (2, 0.3) if options.quick else (options.rounds, 0.8)
    return options


def heading(title: str, packages: tuple[str, ...], rounds: int) -> dict[str, Any]:
    about = environment(packages)
    print(f"# {title}: {about['date']}, commit {about['commit']}, Python {about['python']}, "
          f"{about['processors']} processors, {rounds} rounds")  # fmt: skip
    print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    return about


def write_results(to: str, about: dict[str, Any], results: list[dict[str, Any]]) -> None:
    path = Path(to)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, "sections": results}, indent=1), encoding="utf-8")
    print(f"\nwritten to {path}")
