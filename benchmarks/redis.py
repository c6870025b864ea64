"""Redis: the native client beside its peers, in the same run.

    python benchmarks/redis.py [--quick] [--only NAME] [--rounds N] [--json PATH]

Starts a redis-server of its own. Every measurement is a fresh process (benchmarks/worker.py); the
clients take turns, round by round, so that a noisy moment of the machine meets all of them. Figures
are medians over the rounds, ratios are medians of the ratios within each round. CPU is the client
process's, all threads, per operation; the server's is not in it.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Run as a script, this file's folder would make `import redis` find this file.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks"]
sys.path.insert(0, str(ROOT / "tests"))

from servers import RedisServer  # noqa: E402

OURS, PEER, POOL, GLIDE, THREAD = (
    "ours",
    "redis.asyncio",
    "redis.asyncio pool 20",
    "valkey-glide",
    "redis in to_thread",
)

# name, work, loop, tasks, clients, [(bar, field path, required, aim)]; the peer of a ratio is the
# best of the listed clients at it.
SECTIONS: list[dict[str, Any]] = [
    {
        "name": f"SET and GET, 100 bytes, {tasks} task{'s' * (tasks > 1)}",
        "work": "set and get", "loop": "asyncio", "tasks": tasks,
        "clients": [OURS, PEER, POOL, *([GLIDE, THREAD] if tasks == 100 else [])],
        "bars": [("against redis.asyncio", (PEER, POOL), required, aim)]
        + ([("against valkey-glide", (GLIDE,), 4, 6)] if tasks == 100 else []),
        "cpu_bar": (4, 3) if tasks == 100 else None,
    }
    for tasks, required, aim in ((1, 2, 2.5), (20, 5, 8), (100, 10, 14), (1000, 10, 14))
] + [
    {
        "name": "SET and GET, 100 bytes, 100 tasks, uvloop",
        "work": "set and get", "loop": "uvloop", "tasks": 100, "clients": [OURS, PEER, POOL],
        "bars": [("against redis.asyncio on uvloop", (PEER, POOL), 12, 20)],
    },
    {
        "name": "latency of GET, 1 task", "work": "latency", "loop": "asyncio", "tasks": 1,
        "clients": [OURS, PEER], "latency": True,
    },
    {
        "name": "latency of GET, 100 tasks", "work": "latency", "loop": "asyncio", "tasks": 100,
        "clients": [OURS, PEER], "latency": True,
    },
    {
        "name": "100-byte GETs (20 tasks) beside SETs and GETs of 8 MB (2 tasks)",
        "work": "beside large", "loop": "asyncio", "tasks": 20, "clients": [OURS, PEER],
        "latency": True,
    },
    {
        "name": "SETEX of 4 KB, 100 tasks", "work": "setex", "loop": "asyncio", "tasks": 100,
        "clients": [OURS, PEER, POOL], "bars": [("against redis.asyncio", (PEER, POOL), 8, 10)],
    },
    {
        "name": "store_async + retrieve_async, 2 KB memory, 100 tasks",
        "work": "memory", "loop": "asyncio", "tasks": 100,
        "clients": [OURS, "RedisWorkingMemoryManager in to_thread"],
        "bars": [("against to_thread", ("RedisWorkingMemoryManager in to_thread",), 10, 20)],
    },
]  # fmt: skip


def measure(section: dict[str, Any], client: str, server: RedisServer, seconds: float) -> Any:
    """One worker's result, or a string that says why there is none."""
    case = {
        "client": client, "loop": section["loop"], "work": section["work"],
        "tasks": section["tasks"], "seconds": seconds, "host": server.host, "port": server.port,
    }  # fmt: skip
    # The environment of an installed user: no folder of this repository in the path.
    run = subprocess.run(
        [sys.executable, "-P", str(ROOT / "benchmarks" / "worker.py"), json.dumps(case)],
        capture_output=True, text=True, timeout=120, cwd="/",
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


def report(section: dict[str, Any], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    print(f"\n### {section['name']}\n")
    rows, bars = [], []
    latencies = section.get("latency", False)
    first = next(r[OURS] for r in rounds)
    for client in section["clients"]:
        bad = [r[client] for r in rounds if not isinstance(r[client], dict)]
        if bad:
            rows.append([client, bad[0], *[""] * (5 if latencies else 3)])
            for r in rounds:
                r[client] = bad[0]
            continue
        for part in parts(first):
            ops = median_of(rounds, client, part, "ops")
            row = [f"{client} {part.upper()}".strip(), f"{ops:,.0f}",
                   f"{median_of(rounds, client, part, 'cpu_us'):.1f}"]  # fmt: skip
            other = (client,) if client != OURS else ()
            row.append(f"{ratio_of(rounds, other, part, 'ops', False):.1f}x" if other else "")
            if latencies:
                for field in ("p50", "p99"):
                    row.append(f"{median_of(rounds, client, part, field):.0f}")
            rows.append(row)
    header = ["client", "operations/s", "CPU us/op", "ours is"]
    table(header + (["p50 us", "p99 us"] if latencies else []), rows)

    def bar(what: str, value: float, required: float, aim: float, lower: bool = False) -> None:
        met = verdict(value, required, aim, lower)
        bars.append({"bar": what, "value": value, "required": required, "aim": aim, "verdict": met})
        print(f"- {what}: {value:.2f} (required {required:g}, aim {aim:g}): {met}")

    print()
    for what, peers, required, aim in section.get("bars", []):
        there = tuple(peer for peer in peers if isinstance(rounds[0][peer], dict))
        if there:
            worst = min(ratio_of(rounds, there, part, "ops", False) for part in parts(first))
            bar(f"operations/s {what}", worst, required, aim)
    if section.get("cpu_bar"):
        worst = max(median_of(rounds, OURS, part, "cpu_us") for part in parts(first))
        bar("client CPU us per operation", worst, *section["cpu_bar"], lower=True)
    if latencies:
        fields = ("p99",) if section["work"] == "beside large" else ("p50", "p99")
        for field in fields:
            value = 1 / ratio_of(rounds, (PEER,), "", field, True)
            bar(f"{field}, ours to redis.asyncio's", value, 1, 0.5, lower=True)
    return {**section, "rounds": rounds, "verdicts": bars}


def summary(results: list[dict[str, Any]]) -> None:
    """The README's table: a row for each comparison, of SET and GET the one that gains less."""
    rows = []
    for section in results:
        rounds = section.get("rounds")
        if not rounds:
            continue
        for what, peers, _, _ in section.get("bars", []):
            peers = tuple(peer for peer in peers if isinstance(rounds[0][peer], dict))
            if not peers:
                continue
            ratio, part = min(
                (ratio_of(rounds, peers, part, "ops", False), part)
                for part in parts(rounds[0][OURS])
            )
            best = max(peers, key=lambda peer: median_of(rounds, peer, part, "ops"))
            rows.append([f"{section['name']}, {what}"] + [
                f"{median_of(rounds, client, part, 'ops'):,.0f}/s, "
                f"{median_of(rounds, client, part, 'cpu_us'):.1f} us" for client in (OURS, best)
            ] + [f"{ratio:.1f}x"])  # fmt: skip
        if section.get("latency"):
            for field in ("p50", "p99"):
                ours, theirs = (median_of(rounds, c, "", field) for c in (OURS, PEER))
                ratio = ratio_of(rounds, (PEER,), "", field, True)
                row = [f"{section['name']}, {field}", f"{ours:,.0f} us", f"{theirs:,.0f} us"]
                rows.append([*row, f"{ratio:.1f}x"])
    if rows:
        print("\n### Summary: operations/s and client CPU for each, or latency\n")
        table(["", "ours", "theirs", "ratio"], rows)


IMPORT = """
import os, sys, time
def rss():
    with open("/proc/self/statm") as f: return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before, start = rss(), time.perf_counter()
{what}
print(time.perf_counter() - start, rss() - before)
"""


def report_import(count: int) -> dict[str, Any]:
    """Time and memory of the import alone, in fresh interpreters."""
    print("\n### import arshai_native\n")
    figures: dict[str, tuple[float, float]] = {}
    for what in ("pass", "import arshai_native", "import redis.asyncio"):
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
    ms, mb = figures["import arshai_native"]
    print(f"\n- ms: {ms:.1f} (required 30, aim 15): {verdict(ms, 30, 15, True)}")
    print(f"- MB: {mb:.1f} (required 6, aim 4): {verdict(mb, 6, 4, True)}")
    return {"name": "import", "figures": figures}


def environment() -> dict[str, Any]:
    versions = {}
    for name in ("arshai-native", "redis", "uvloop", "valkey-glide", "arshai", "hiredis"):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds: a rough look")
    parser.add_argument("--only", default="", help="sections whose name contains this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", default=str(ROOT / "benchmarks" / "results" / "redis.json"))
    options = parser.parse_args()
    rounds, seconds = (2, 0.3) if options.quick else (options.rounds, 0.8)

    about = environment()
    print(f"# Redis: {about['date']}, commit {about['commit']}, Python {about['python']}, "
          f"{about['processors']} processors, {rounds} rounds")  # fmt: skip
    print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    results = []
    with RedisServer() as server:
        for section in SECTIONS:
            if options.only and options.only not in section["name"]:
                continue
            measured = []
            for number in range(rounds):
                sys.stderr.write(f"\r{section['name']}: round {number + 1}/{rounds} ...")
                sys.stderr.flush()
                server.command("FLUSHALL")
                measured.append(
                    {c: measure(section, c, server, seconds) for c in section["clients"]}
                )
            sys.stderr.write("\r" + " " * 90 + "\r")
            if not isinstance(measured[0][OURS], dict):
                raise SystemExit(f"{section['name']}: {measured[0][OURS]}")
            results.append(report(section, measured))
    if not options.only or options.only in "import":
        results.append(report_import(5 if options.quick else 15))
    summary(results)
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, "sections": results}, indent=1), encoding="utf-8")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
