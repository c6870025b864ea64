"""Milvus: the native client beside its peers, in the same run.

    python benchmarks/milvus.py [--quick] [--only NAME] [--rounds N] [--json PATH]

Starts two servers of its own: one that knows nothing of Milvus and answers every call with a
recorded reply (nghttpd), so that what is compared is the clients; and the real one (2.3.5), with
10,000 vectors in an HNSW index, on the same processors as the clients. Every measurement is a fresh
process (benchmarks/milvus_worker.py); the clients take turns, round by round. Figures are medians
over the rounds, ratios are medians of the ratios within each round. CPU is the client process's,
all threads, per operation.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from common import (
    OURS,
    ROOT,
    Bars,
    comparisons,
    heading,
    import_section,
    in_rounds,
    measure,
    median_of,
    options_of,
    ratio_of,
    report,
    selected,
    table,
    write_results,
)
from milvusdata import LIMIT, fill, null_replies, standalone

# Run as a script, this file's folder would make `import redis` find benchmarks/redis.py.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks"]

from grpckit import Nghttpd  # noqa: E402

PACKAGES = ("pymilvus", "grpcio", "arshai", "numpy")
PEER, THREAD = "AsyncMilvusClient", "MilvusClient in to_thread"
ALONE, ARSHAI = "ours, gather=False", "arshai's MilvusClient in to_thread"

# name, work, server, tasks, clients, bars: (against whom, clients, required, aim); ours: which of
# ours the bars are about, if there are several. cpu: bars on the ratio of the clients' CPU.
SECTIONS: list[dict[str, Any]] = [
    {
        "name": "search, null server, gather off, 100 tasks", "work": "search", "server": "null",
        "tasks": 100, "gather": False, "clients": [OURS, PEER, THREAD],
        "bars": [("against AsyncMilvusClient", (PEER,), 8, 12)], "cpu": (6, 20),
    },
    {
        "name": "search, null server, 1 task", "work": "latency", "server": "null",
        "tasks": 1, "clients": [OURS, PEER, THREAD], "latency": (0.5, 0.25),
    },
    {
        "name": "search, Milvus 2.3.5, gather off, 100 tasks", "work": "search", "server": "real",
        "tasks": 100, "gather": False, "clients": [OURS, PEER, THREAD],
        "bars": [("against AsyncMilvusClient", (PEER,), 1.4, 1.7),
                 ("against to_thread", (THREAD,), 2, 3)], "cpu": (6, 20),
    },
    {
        "name": "search, Milvus 2.3.5, gathered, 100 tasks", "work": "search", "server": "real",
        "tasks": 100, "clients": [OURS, ALONE, PEER, THREAD],
        "bars": [("against AsyncMilvusClient", (PEER,), 3, 6),
                 ("against to_thread", (THREAD,), 6, 10)],
    },
    {
        "name": "insert of 1,000 rows of lists, null server, 1 task", "work": "insert lists",
        "server": "null", "tasks": 1, "unit": "insert", "clients": [OURS, PEER, THREAD],
        "cpu": (5, 10),
    },
    {
        "name": "insert of one numpy block of 1,000, null server, 1 task", "work": "insert numpy",
        "server": "null", "tasks": 1, "unit": "insert", "clients": [OURS, PEER, THREAD],
        "cpu": (20, 50),
    },
    {
        "name": "AsyncMilvus.search_by_vector_async, Milvus 2.3.5, 100 tasks", "work": "arshai",
        "server": "real", "tasks": 100, "clients": [OURS, ALONE, ARSHAI],
        "bars": [("against arshai's MilvusClient in to_thread", (ARSHAI,), 5, 10)],
    },
]  # fmt: skip
# The reply's last header; one thread; as many streams, and as large windows, as clients may want.
NULL_OPTIONS = ("--trailer=grpc-status: 0", "-n", "1", "-m", "1000", "-w", "24", "-W", "24")
LATENCIES = (("p50", "p50 us", ".0f"), ("p99", "p99 us", ".0f"))


def report_section(section: dict[str, Any], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    bars: Bars = report(section, rounds, LATENCIES if "latency" in section else ())
    if "cpu" in section and isinstance(rounds[0][PEER], dict):
        value = ratio_of(rounds, (PEER,), "", "cpu_us", True)
        unit = section.get("unit", "operation")
        bars.add(f"client CPU of an {unit}, AsyncMilvusClient's to ours", value, *section["cpu"])
    if "latency" in section and isinstance(rounds[0][PEER], dict):
        value = 1 / ratio_of(rounds, (PEER,), "", "p50", True)
        bars.add("p50, ours to AsyncMilvusClient's", value, *section["latency"], lower=True)
    return {**section, "rounds": rounds, "verdicts": bars}


def summary(results: list[dict[str, Any]]) -> None:
    """The README's table."""
    rows = []
    for section in results:
        rounds = section.get("rounds")
        if not rounds:
            continue
        rows += comparisons(section)
        if not isinstance(rounds[0].get(PEER), dict):
            continue
        if "latency" in section:
            ours, theirs = (median_of(rounds, c, "", "p50") for c in (OURS, PEER))
            ratio = ratio_of(rounds, (PEER,), "", "p50", True)
            rows.append([f"{section['name']}, p50", f"{ours:,.0f} us", f"{theirs:,.0f} us",
                         f"{ratio:.1f}x"])  # fmt: skip
        elif "cpu" in section:
            ours, theirs = (median_of(rounds, c, "", "cpu_us") for c in (OURS, PEER))
            ratio = ratio_of(rounds, (PEER,), "", "cpu_us", True)
            rows.append([f"{section['name']}, client CPU", f"{ours:,.1f} us", f"{theirs:,.1f} us",
                         f"{ratio:.1f}x"])  # fmt: skip
    if rows:
        print("\n### Summary: operations/s and client CPU for each, or latency\n")
        table(["", "ours", "theirs", "ratio"], rows)


def main() -> None:
    options = options_of(__doc__.splitlines()[0], "milvus.json")
    about = heading("Milvus", PACKAGES, options.rounds)
    print(f"768 dimensions, the nearest {LIMIT}, one output field; distinct queries")
    results = []
    sections = list(selected(SECTIONS, options.only))
    with contextlib.ExitStack() as stack:
        uris: dict[str, str] = {}
        if any(section["server"] == "null" for section in sections):
            null = Nghttpd(null_replies(), *NULL_OPTIONS)
            uris["null"] = f"http://{stack.enter_context(null).host}:{null.port}"
        if any(section["server"] == "real" for section in sections):
            real = standalone()
            if real is not None:
                uris["real"] = stack.enter_context(real).uri
                fill(real.uri)
        for section in sections:
            if section["server"] not in uris:
                continue

            def one(client: str, section: dict[str, Any] = section) -> Any:
                named = ALONE if client == OURS and not section.get("gather", True) else client
                return measure("milvus_worker.py", {
                    "client": named, "work": section["work"], "tasks": section["tasks"],
                    "seconds": options.seconds, "uri": uris[section["server"]],
                })  # fmt: skip

            results.append(report_section(section, in_rounds(section, options.rounds, one)))
    modules = ("arshai_native.vector_db", "arshai_native.milvus", "pymilvus")
    results += import_section(modules, options)
    summary(results)
    write_results(options.json, about, results)


if __name__ == "__main__":
    main()
