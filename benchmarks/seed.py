"""The project's first benchmark: 100 searches and 100 Redis SETs at once, native and by executor.

    python benchmarks/seed.py [--quick] [--rounds N] [--json PATH]

As it was written: all searches ask the same, with data=[[0.1] * 768], limit=10. The peers' own
asynchronous clients, which it called native, are shown as well. On the real Milvus (2.3.5) with
10,000 vectors and a redis-server; see benchmarks/milvus.py for the rest.
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
    in_rounds,
    measure,
    median_of,
    options_of,
    report,
    table,
    write_results,
)
from milvusdata import fill, standalone

# Run as a script, this file's folder would make `import redis` find benchmarks/redis.py.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks"]

from servers import RedisServer  # noqa: E402

PEERS, EXECUTOR, ALONE = "AsyncMilvusClient", "executor", "ours, gather=False"
SECTION: dict[str, Any] = {
    "name": "100 searches and 100 SETs at once", "unit": "operation",
    "clients": [OURS, ALONE, PEERS, EXECUTOR],
    "bars": [("against the executor", (EXECUTOR,), 4, 8)],
}  # fmt: skip


def main() -> None:
    options = options_of(__doc__.splitlines()[0], "seed.json")
    about = heading("Seed", ("pymilvus", "grpcio", "redis"), options.rounds)
    server = standalone()
    if server is None:
        raise SystemExit(1)
    with server, RedisServer() as redis:
        fill(server.uri)

        def one(client: str) -> Any:
            return measure("milvus_worker.py", {
                "client": client, "work": "seed", "tasks": 1, "seconds": options.seconds,
                "uri": server.uri, "redis": redis.url,
            })  # fmt: skip

        rounds = in_rounds(SECTION, options.rounds, one)
    section = {**SECTION, "rounds": rounds, "verdicts": report(SECTION, rounds)}
    print()
    for client in SECTION["clients"]:
        if isinstance(rounds[0][client], dict):
            print(f"- {client}: {200e3 / median_of(rounds, client, '', 'ops'):.0f} ms for all 200")
    print()
    table(["", "ours", "theirs", "ratio"], comparisons(section))
    write_results(options.json, about, [section])


if __name__ == "__main__":
    main()
