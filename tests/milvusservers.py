"""Real Milvus servers for tests and benchmarks, from the environments that make puts under build/.

milvus-lite is Milvus's engine in one process; the standalone is the whole server. Nothing here
needs pytest.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import ClassVar

from servers import free_port

BUILD = Path(__file__).resolve().parent.parent / "build"
LITE = Path(os.environ.get("ARN_MILVUS_LITE", BUILD / "milvus-lite"))
# An environment with milvus-lite 3 and pymilvus, for what only that one has.
LITE3 = os.environ.get("ARN_MILVUS_LITE3", "")
STANDALONE = Path(os.environ.get("ARN_MILVUS_STANDALONE", BUILD / "milvus-standalone"))


def lite_packages() -> Path | None:
    """The folder with milvus_lite in it, None if it is not installed."""
    found = sorted(LITE.glob("lib/python3*/site-packages/milvus_lite/lib/milvus"))
    return found[0].parents[2] if found else None


class _Server:
    """A server process in a session of its own, with a fresh folder for its data."""

    host = "127.0.0.1"
    start_time = 60.0

    def __init__(self) -> None:
        self.dir = tempfile.mkdtemp(prefix="arn-milvus-")
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def uri(self) -> str:
        return f"http://{self.host}:{self.port}"

    def _popen(self, arguments: list[str], **environment: str) -> None:
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.dir,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def _launch(self) -> None:
        raise NotImplementedError

    def _ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Start, or start again on the same port and data; returns when it answers."""
        self._launch()
        assert self.process is not None
        deadline = time.monotonic() + self.start_time
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._ready():
                return
            time.sleep(0.05)
        log = Path(self.dir, "log")
        raise RuntimeError(f"Milvus did not start: {log.read_text()[-2000:]}")

    def _signal(self, number: int) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End it at once; its sockets are closed by the kernel."""
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Stop it from answering without closing anything."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        if self.process is not None:
            try:
                self.thaw()
                self.kill()
            except ProcessLookupError:
                pass
        shutil.rmtree(self.dir, ignore_errors=True)


class MilvusLite(_Server):
    """milvus-lite's server."""

    def _launch(self) -> None:
        packages = lite_packages()
        if packages is None:
            raise RuntimeError(f"milvus-lite is not installed in {LITE}")
        folder = packages / "milvus_lite" / "lib"
        self._popen(
            [str(folder / "milvus"), os.path.join(self.dir, "m.db"), self.address, "ERROR"],
            LD_LIBRARY_PATH=str(folder),
            LD_PRELOAD="",  # a sanitizer's library is for us
        )

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def _ready(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=5).close()
        except OSError:
            return False
        return True


class MilvusLite3(MilvusLite):
    """milvus-lite 3, another one, in Python."""

    def _launch(self) -> None:
        self._popen(
            [
                os.path.join(LITE3, "bin", "python"), "-m", "milvus_lite", "server",
                "--data-dir", os.path.join(self.dir, "data"),
                "--host", self.host, "--port", str(self.port),
            ]
        )  # fmt: skip


class MilvusStandalone(_Server):
    """
    The standalone server. It finds ports for its parts; that of its health is 9091.

    quick: its clocks tick more often, so that tests spend less time on waiting: a strongly
    consistent read waits for the next tick, which otherwise comes every 200 ms.
    """

    start_time = 50.0
    # Milliseconds, and the last two seconds; each is a setting of milvus.yaml.
    QUICK: ClassVar[dict[str, str]] = {
        "PROXY_TIMETICKINTERVAL": "10",
        "QUERYCOORD_CHECKINTERVAL": "100",
        "QUERYCOORD_DISTPULLINTERVAL": "50",
        "QUERYCOORD_CHECKSEGMENTINTERVAL": "100",
        "QUERYCOORD_CHECKCHANNELINTERVAL": "100",
        "QUERYCOORD_CHECKINDEXINTERVAL": "100",
        "QUERYCOORD_UPDATENEXTTARGETINTERVAL": "1",
        "QUERYCOORD_LEADERVIEWUPDATEINTERVAL": "1",
    }

    def __init__(self, quick: bool = False) -> None:
        self.settings = self.QUICK if quick else {}
        super().__init__()

    def start(self) -> None:
        """Now and then it does not come up; then it gets fresh data."""
        for attempt in (1, 2, 3):
            try:
                return super().start()
            except RuntimeError:
                self.kill()
                if attempt == 3:
                    raise
                shutil.rmtree(os.path.join(self.dir, "data"), ignore_errors=True)

    def _launch(self) -> None:
        command = STANDALONE / "bin" / "milvus-server"
        if not command.exists():
            raise RuntimeError(f"the standalone server is not installed in {STANDALONE}")
        if self._ready():
            raise RuntimeError("another Milvus server has the port for its health, 9091")
        self._popen(
            [
                str(command), "--data", os.path.join(self.dir, "data"),
                "--proxy-port", str(self.port),
            ],
            **self.settings,
        )  # fmt: skip

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.host}:9091/healthz", timeout=2) as response:
                return response.read().strip() == b"OK"
        except OSError:
            return False
