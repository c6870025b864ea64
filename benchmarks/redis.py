"""Redis: the native client beside its peers, in the same run.

    python benchmarks/redis.py [--quick] [--only NAME] [--rounds N] [--json PATH]

Starts a redis-server of its own. Every measurement is a fresh process (benchmarks/worker.py); the
clients take turns, round by round, so that a noisy moment of the machine meets all of them. Figures
are medians over the rounds, ratios are medians of the ratios within each round. CPU is the client
process's, all threads, per operation; the server's is not in it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from common import (
    OURS,
    ROOT,
    comparisons,
    heading,
    import_figures,
    in_rounds,
    measure,
    median_of,
    options_of,
    ratio_of,
    report,
    selected,
    table,
    verdict,
    write_results,
)

# Run as a script, this file's folder would make `import redis` find this file.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks"]
sys.path.insert(0, str(ROOT / "tests"))

from servers import RedisServer  # noqa: E402

PACKAGES = ("redis", "uvloop", "valkey-glide", "arshai", "hiredis")
PEER, POOL, GLIDE, THREAD = (
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


LATENCIES = (("p50", "p50 us", ".0f"), ("p99", "p99 us", ".0f"))


def report_section(section: dict[str, Any], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    latencies = section.get("latency", False)
    bars = report(section, rounds, LATENCIES if latencies else ())
    if latencies:
        fields = ("p99",) if section["work"] == "beside large" else ("p50", "p99")
        for field in fields:
            value = 1 / ratio_of(rounds, (PEER,), "", field, True)
            bars.add(f"{field}, ours to redis.asyncio's", value, 1, 0.5, lower=True)
    return {**section, "rounds": rounds, "verdicts": bars}


def summary(results: list[dict[str, Any]]) -> None:
    """The README's table."""
    rows = []
    for section in results:
        rounds = section.get("rounds")
        if not rounds:
            continue
        rows += comparisons(section)
        if section.get("latency"):
            for field in ("p50", "p99"):
                ours, theirs = (median_of(rounds, c, "", field) for c in (OURS, PEER))
                ratio = ratio_of(rounds, (PEER,), "", field, True)
                row = [f"{section['name']}, {field}", f"{ours:,.0f} us", f"{theirs:,.0f} us"]
                rows.append([*row, f"{ratio:.1f}x"])
    if rows:
        print("\n### Summary: operations/s and client CPU for each, or latency\n")
        table(["", "ours", "theirs", "ratio"], rows)


def report_import(count: int) -> dict[str, Any]:
    print("\n### import arshai_native\n")
    figures = import_figures(("pass", "import arshai_native", "import redis.asyncio"), count)
    ms, mb = figures["import arshai_native"]
    print(f"\n- ms: {ms:.1f} (required 30, aim 15): {verdict(ms, 30, 15, True)}")
    print(f"- MB: {mb:.1f} (required 6, aim 4): {verdict(mb, 6, 4, True)}")
    return {"name": "import", "figures": figures}


def main() -> None:
    options = options_of(__doc__.splitlines()[0], "redis.json")
    about = heading(
        "Redis", ("redis", "uvloop", "valkey-glide", "arshai", "hiredis"), options.rounds
    )
    results = []
    with RedisServer() as server:
        for section in selected(SECTIONS, options.only):

            def one(client: str, section: dict[str, Any] = section) -> Any:
                if client == OURS:
                    server.command("FLUSHALL")
                return measure("worker.py", {
                    "client": client, "loop": section["loop"], "work": section["work"],
                    "tasks": section["tasks"], "seconds": options.seconds,
                    "host": server.host, "port": server.port,
                })  # fmt: skip

            results.append(report_section(section, in_rounds(section, options.rounds, one)))
    if not options.only or options.only in "import":
        results.append(report_import(5 if options.quick else 15))
    summary(results)
    write_results(options.json, about, results)


if __name__ == "__main__":
    main()
