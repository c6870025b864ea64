"""The README's examples run as they are printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ("faultfixtures", "milvusfixtures")

README = Path(__file__).resolve().parent.parent / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def run(code, url, folder):
    code = re.sub(r"redis://localhost:6379/\d", url, code)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=folder
    )


def test_there_are_five():
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize(
    "number, output", [(0, ["'hello', 'hello'", "[1, True]"]), (1, ["Prefers short answers."])]
)
def test_examples(number, output, server, tmp_path):
    done = run(EXAMPLES[number], server.url, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for text in output:
        assert text in done.stdout


def test_the_example_for_arshai(server, tmp_path):
    pytest.importorskip("arshai", reason="arshai is not installed")
    code = (
        EXAMPLES[2]
        .replace("(ttl", f'("{server.url}", ttl')
        .replace("agent =", "llm = None\nagent =")
    )
    done = run(code + "print(agent.memory_manager)", server.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "AsyncRedisMemoryManager" in done.stdout


def test_the_example_for_milvus(lite, tmp_path):
    code = EXAMPLES[3].replace("http://localhost:19530", lite.uri)
    done = run(code, "", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("'id'") == 1000


def test_the_example_for_files(tmp_path):
    pytest.importorskip("yaml")
    done = run(EXAMPLES[4], "", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "['llm:\\n', '  model: gpt-4o\\n']\ngpt-4o 0.7\n"
