"""The OpenAI API: the native client beside its peers, in the same run.

    python benchmarks/openai.py [--quick] [--only NAME] [--rounds N] [--json PATH]

Starts an nginx of its own that answers every request with a recorded reply: what is compared is the
clients. Every measurement is a fresh process (benchmarks/openai_worker.py); the clients take turns,
round by round. Figures are medians over the rounds, ratios are medians of the ratios within each
round. CPU is the client process's, all threads, per operation; the server's is not in it, but it
runs on the same machine.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from common import (
    OURS,
    ROOT,
    comparisons,
    heading,
    import_section,
    in_rounds,
    measure,
    median_of,
    options_of,
    report,
    selected,
    table,
    write_results,
)

# Run as a script, this file's folder would make `import openai` find this file.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks"]
sys.path.insert(0, str(ROOT / "tests"))

import recorded  # noqa: E402
from httpservers import HttpServer, NginxServer  # noqa: E402

PACKAGES = ("openai", "httpx", "aiohttp", "httpx-aiohttp", "orjson", "pydantic", "numpy", "arshai")
SDK, AIOHTTP, THREAD, BY_HAND, ARSHAI = (
    "AsyncOpenAI",
    "AsyncOpenAI on aiohttp",
    "OpenAI in to_thread",
    "aiohttp + orjson by hand",
    "OpenAIEmbedding in to_thread",
)
BASE64, NUMPY, ALONE = "ours, base64", "ours, as_numpy", "ours, gather=False"

# name, work, reply (the recorded one), tasks, clients, bars: (against whom, clients, required, aim)
SECTIONS: list[dict[str, Any]] = [
    {
        "name": "embeddings.create, 16 x 1536, encoding_format float, 20 tasks",
        "work": "embeddings float", "reply": "16-float", "inputs": 16, "tasks": 20,
        "clients": [OURS, SDK, AIOHTTP, BY_HAND, THREAD], "unit": "request",
        "bars": [("against AsyncOpenAI", (SDK,), 40, 60)],
    },
    {
        "name": "embeddings.create, 16 x 1536, default format, 20 tasks",
        "work": "embeddings", "reply": "16-base64", "inputs": 16, "tasks": 20,
        "clients": [OURS, SDK, AIOHTTP, BY_HAND, THREAD], "unit": "request",
        "bars": [("against AsyncOpenAI", (SDK,), 10, 15)],
    },
    {
        "name": "embeddings.create, 1 x 1536, default format, 100 tasks",
        "work": "embeddings", "reply": "1-base64", "inputs": 1, "tasks": 100,
        "clients": [OURS, SDK, AIOHTTP, BY_HAND, THREAD], "unit": "request",
        "bars": [("against AsyncOpenAI", (SDK,), 15, 30)],
    },
    *(
        {
            "name": f"chat.completions.create, 0.9 KB, {tasks} tasks",
            "work": "chat", "reply": "chat", "tasks": tasks, "unit": "request",
            "clients": [OURS, SDK, AIOHTTP, BY_HAND, *([THREAD] if tasks == 100 else [])],
            "bars": [
                ("against AsyncOpenAI", (SDK,), 15, 30),
                ("against AsyncOpenAI on aiohttp", (AIOHTTP,), 7, 15),
                ("against aiohttp + orjson by hand", (BY_HAND,), 1.3, 2.5),
            ],
        }
        for tasks in (20, 100)
    ),
    {
        "name": "stream of 200 chunks, 20 tasks", "work": "stream", "reply": "stream",
        "tasks": 20, "clients": [OURS, SDK, AIOHTTP, BY_HAND], "unit": "chunk",
        "bars": [("against AsyncOpenAI", (SDK,), 20, 40)],
    },
    {
        # Small calls that ours gathers become few requests: the reply depends on how many inputs a
        # request has, which nginx cannot tell. This one's server (benchmarks/batchserver.py) can.
        "name": "embed_document_async, 1 x 1536, 100 tasks", "work": "embedding class",
        "reply": None, "tasks": 100, "unit": "text",
        "clients": [OURS, BASE64, NUMPY, ALONE, ARSHAI],
        "bars": [("against OpenAIEmbedding in to_thread", (ARSHAI,), 20, 50)],
    },
    {
        "name": "longest stall of the event loop, 16 x 1536, encoding_format float, 20 tasks",
        "work": "stall", "reply": "16-float", "inputs": 16, "tasks": 20, "unit": "request",
        "clients": [OURS, SDK, AIOHTTP, BY_HAND, THREAD],
    },
]  # fmt: skip
STALLS = (
    ("stall", "stall, ms", ".2f"),
    ("stall_p99", "p99, ms", ".2f"),
    ("away", "away, ms", ".2f"),
    ("own", "own, ms", ".2f"),
)
STALLS_NOTE = """
stall: how late a task runs that sleeps 1 ms; away: from the selector; own: the same without
waiting for a processor, of which two are too few for client and server at full speed"""


class BatchServer(HttpServer):
    """A server of embeddings that looks how many a request wants."""

    name = "batch"

    def __init__(self) -> None:
        super().__init__()
        script = str(ROOT / "benchmarks" / "batchserver.py")
        self.launch([sys.executable, "-P", script, str(self.port)], "/ready", 20)


def bodies() -> dict[str, bytes]:
    """Path -> recorded reply; each kind has a base URL of its own, /KIND/v1."""
    made = {
        "/chat/v1/chat/completions": recorded.chat(),
        "/stream/v1/chat/completions": recorded.stream(200),
    }
    for count in (1, 16):
        for encoding in ("float", "base64"):
            path = f"/{count}-{encoding}/v1/embeddings"
            made[path] = recorded.embeddings(count, encoding)
    return made


def report_section(section: dict[str, Any], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    stalls = section["work"] == "stall"
    bars = report(section, rounds, STALLS if stalls else ())
    if stalls:
        print(STALLS_NOTE)
        bars.add("longest stall in ms", median_of(rounds, OURS, "", "stall"), 3, 1, lower=True)
    return {**section, "rounds": rounds, "verdicts": bars}


def report_clients(server: NginxServer, count: int) -> dict[str, Any]:
    """What it costs to make a client (no request yet), each class in fresh processes."""
    print("\n### making a client\n")
    rows, figures = [], {}
    for client in (OURS, SDK, AIOHTTP):
        runs = [
            measure("openai_worker.py", {"client": client, "work": "create", "url": server.url})
            for _ in range(count)
        ]
        if bad := [run for run in runs if not isinstance(run, dict)]:
            rows.append([client, bad[0], "", ""])
            continue
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        figures[client] = medians
        rows.append([client] + [f"{medians[key]:,.0f}" for key in ("first_us", "us", "kb")])
    table(["class", "the first, us", "each further, us", "KB"], rows)
    return {"name": "making a client", "figures": figures}


def summary(results: list[dict[str, Any]]) -> None:
    """The README's table."""
    rows = []
    for section in results:
        if "rounds" not in section:
            continue
        rows += comparisons(section)
        if section["work"] == "stall":
            ours, theirs = (median_of(section["rounds"], c, "", "stall") for c in (OURS, SDK))
            ratio = f"{theirs / ours:.0f}x"
            rows.append([section["name"], f"{ours:.1f} ms", f"{theirs:,.0f} ms", ratio])
    if rows:
        print("\n### Summary: operations/s and client CPU for each, or the stall\n")
        table(["", "ours", "theirs", "ratio"], rows)


def main() -> None:
    options = options_of(__doc__.splitlines()[0], "openai.json")
    about = heading("OpenAI", PACKAGES, options.rounds)
    results = []
    with NginxServer(bodies()) as nginx, BatchServer() as batch:
        for section in selected(SECTIONS, options.only):
            url = f"{nginx.url}/{section['reply']}/v1" if section["reply"] else f"{batch.url}/v1"

            def one(client: str, section: dict[str, Any] = section, url: str = url) -> Any:
                return measure("openai_worker.py", {
                    "client": client, "work": section["work"], "tasks": section["tasks"],
                    "inputs": section.get("inputs", 1), "seconds": options.seconds, "url": url,
                })  # fmt: skip

            results.append(report_section(section, in_rounds(section, options.rounds, one)))
        if not options.only or options.only in "making a client":
            results.append(report_clients(nginx, 2 if options.quick else 5))
    modules = ("arshai_native.embeddings", "arshai_native.openai", "openai")
    results += import_section(modules, options)
    summary(results)
    write_results(options.json, about, results)


if __name__ == "__main__":
    main()
