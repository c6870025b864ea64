"""The examples of the README and of docs/classes.md run as they are printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import recorded
from httpservers import NginxServer

pytest_plugins = ("faultfixtures", "milvusfixtures")

ROOT = Path(__file__).resolve().parent.parent
REDIS, OPENAI, MILVUS, MEMORY, ARSHAI, FILES = [
    example
    for page in ("README.md", "docs/classes.md")
    for example in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
]


def run(code, url, folder, **environ):
    code = re.sub(r"redis://localhost:6379/\d", url, code)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={**os.environ, **environ},
    )


@pytest.mark.parametrize(
    "code, output",
    [(REDIS, ["'hello', 'hello'", "[1, True]"]), (MEMORY, ["Prefers short answers."])],
    ids=["redis", "memory"],
)
def test_examples(code, output, server, tmp_path):
    done = run(code, server.url, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for text in output:
        assert text in done.stdout


def test_the_example_for_arshai(server, tmp_path):
    pytest.importorskip("arshai", reason="arshai is not installed")
    code = ARSHAI.replace("(ttl", f'("{server.url}", ttl').replace("agent =", "llm = None\nagent =")
    done = run(code + "print(agent.memory_manager)", server.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "AsyncRedisMemoryManager" in done.stdout


def test_the_example_for_openai(tmp_path):
    with NginxServer({"/v1/chat/completions": recorded.stream(20)}) as server:
        environ = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "sk-test"}
        done = run(OPENAI, "", tmp_path, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    chunks = re.findall(r'"content": ?"([^"]+)"', recorded.stream(20).decode())
    assert len(chunks) > 10 and done.stdout == "".join(chunks)


def test_the_example_for_milvus(lite, tmp_path):
    code = MILVUS.replace("http://localhost:19530", lite.uri)
    done = run(code, "", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("'id'") == 1000


def test_the_example_for_files(tmp_path):
    pytest.importorskip("yaml")
    done = run(FILES, "", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "['llm:\\n', '  model: gpt-4o\\n']\ngpt-4o 0.7\n"
