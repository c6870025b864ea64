"""Files: arshai_native.aiofiles beside its peers, in the same run.

    python benchmarks/files.py [--quick] [--only NAME] [--rounds N] [--json PATH]

Files are in a folder of their own on the file system of the system's temporary files (TMPDIR), and
in the page cache: what is compared is the clients. Files are written in memory (MEMORY), and to
that disk besides: there the file system's work is nearly all. Every measurement is a fresh process
(benchmarks/files_worker.py); the clients take turns, round by round. Figures are medians over the
rounds, ratios are medians of the ratios within each round. CPU is the process's, all threads.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

from common import (
    OURS,
    comparisons,
    heading,
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
from files_worker import LINE, LINES, SIZES, path_of

PEER, PLAIN, THREAD = "aiofiles", "plain", "to_thread"
MEMORY = "/dev/shm"
CLIENTS = [OURS, PEER, THREAD, PLAIN]

# name, work, tasks, bars against aiofiles: (required, aim); plain: against plain sync, of CPU time
SECTIONS: list[dict[str, Any]] = [
    {"name": "read a 4 KB file whole, 1 task", "work": "4 KB", "tasks": 1, "bar": (3, 5)},
    {"name": "read a 4 KB file whole, 100 tasks", "work": "4 KB", "tasks": 100, "bar": (5, 8)},
    {"name": "4 KB reads on an open file", "work": "handle", "tasks": 1, "bar": (40, 60),
     "plain": 2, "unit": "read"},
    {"name": "async for line, bytes", "work": "lines, bytes", "tasks": 1, "bar": (200, 300),
     "plain": 1.5, "unit": "line", "clients": [OURS, PEER, PLAIN]},
    {"name": "async for line, text", "work": "lines, text", "tasks": 1, "bar": (200, 300),
     "plain": 1.5, "unit": "line", "clients": [OURS, PEER, PLAIN]},
    {"name": "write a 4 KB file, 1 task", "work": "write", "tasks": 1, "bar": (1.5, 2)},
    {"name": "write a 4 KB file, 100 tasks", "work": "write", "tasks": 100, "bar": (4, 6)},
    {"name": "write a 4 KB file to a disk, 1 task", "work": "write", "tasks": 1, "disk": True},
    {"name": "write a 4 KB file to a disk, 100 tasks", "work": "write", "tasks": 100,
     "disk": True},
    {"name": "read a 1 MB file whole, 1 task", "work": "1 MB", "tasks": 1, "bar": (1.5, 2)},
    {"name": "read a 1 MB file whole, 100 tasks", "work": "1 MB", "tasks": 100, "bar": (1.2, 2)},
    {"name": "read a 64 MB file whole, 1 task", "work": "64 MB", "tasks": 1},
]  # fmt: skip


def make_files(folder: str) -> None:
    for name, size in SIZES.items():
        with open(path_of(folder, name), "wb") as f:
            f.write(os.urandom(1 << 12) * (size >> 12))
    with open(path_of(folder, "lines"), "wb") as f:
        f.write(LINE * LINES)


def report_section(section: dict[str, Any], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    is_large = section["work"] == "64 MB"
    columns = (("ms", "ms", ".1f"), ("gap", "longest stall, ms", ".2f")) if is_large else ()
    bars = report(section, rounds, columns)
    if is_large:
        slower = 1 / ratio_of(rounds, (PLAIN,), "", "ms", True)
        bars.add("time against plain sync", slower, 1.1, 1, lower=True)
        bars.add("longest stall in ms", median_of(rounds, OURS, "", "gap"), 6, 2, lower=True)
    elif "bar" in section:
        cpu = ratio_of(rounds, (PEER,), "", "cpu_us", True)
        bars.add("CPU against aiofiles", cpu, *section["bar"])
    if "plain" in section:
        slower = 1 / ratio_of(rounds, (PLAIN,), "", "cpu_us", True)
        print(f"- CPU against plain sync: {slower:.2f} (aim {section['plain']:g})")
    return {**section, "rounds": rounds, "verdicts": bars}


def main() -> None:
    options = options_of(__doc__.splitlines()[0], "files.json")
    about = heading("Files", ("aiofiles", "uvloop"), options.rounds)
    results = []
    with tempfile.TemporaryDirectory(prefix="files-") as folder:
        make_files(folder)
        for section in selected(SECTIONS, options.only):
            section.setdefault("clients", CLIENTS)
            if "bar" in section:
                section["bars"] = [("against aiofiles", (PEER,), *section["bar"])]

            def one(client: str, section: dict[str, Any] = section) -> Any:
                case = {"client": client, "folder": folder, "seconds": options.seconds}
                case |= {key: section[key] for key in ("work", "tasks")}
                on = folder if "disk" in section or not os.path.isdir(MEMORY) else MEMORY
                with tempfile.TemporaryDirectory(prefix="written-", dir=on) as written:
                    return measure("files_worker.py", {**case, "written": written})

            results.append(report_section(section, in_rounds(section, options.rounds, one)))
    rows = [row for section in results for row in comparisons(section)]
    if rows:
        print("\n### Summary: operations/s and CPU for each\n")
        table(["", "ours", "aiofiles", "ratio"], rows)
    write_results(options.json, about, results)


if __name__ == "__main__":
    main()
