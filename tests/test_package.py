"""The package as its users meet it: built where something is missing, and checked by mypy."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APT = "apt-get install build-essential pkg-config python3-dev libuv1-dev libhiredis-dev"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what a build needs."""
    setuptools = pytest.importorskip("setuptools", reason="built with --no-build-isolation")
    assert setuptools
    copy = tmp_path_factory.mktemp("tree")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", "include", "tools", "arshai_native"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__py*"))
    return copy


def pkg_config_file(folder, name, version):
    (folder / f"{name}.pc").write_text(f"Name: {name}\nDescription: x\nVersion: {version}\n")


MISSING = {
    "libuv": ({}, "the development files of libuv 1.44 or newer are missing"),
    "hiredis": ({"libuv": "1.48"}, "the development files of hiredis 0.14 or newer are missing"),
    "an older libuv": (
        {"libuv": "1.30", "hiredis": "1.0"},
        "the development files of libuv 1.44 or newer are missing",
    ),
}


def build(tree, **environment):
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--force"],
        cwd=tree,
        env={**os.environ, "PKG_CONFIG_PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert APT in done.stderr
    # Neither a traceback nor anything of a compiler's.
    output = done.stdout + done.stderr
    assert not re.search(r"Traceback|fatal error|error: command|building '", output), output
    assert list(tree.rglob("*.o")) == []
    return done.stderr


@pytest.mark.parametrize("what", MISSING)
def test_a_missing_library_is_named(tree, tmp_path, what):
    there, text = MISSING[what]
    for name, version in there.items():
        pkg_config_file(tmp_path, name, version)
    assert f"arshai_native: {text}." in build(tree, PKG_CONFIG_LIBDIR=str(tmp_path))


def test_a_missing_program_is_named(tree, tmp_path):
    assert "the program pkg-config is missing" in build(tree, PATH=str(tmp_path))
    for name in ("libuv", "hiredis"):
        pkg_config_file(tmp_path, name, "9.0")
    said = build(tree, CC="no-such-cc", PKG_CONFIG_LIBDIR=str(tmp_path))
    assert "the C compiler no-such-cc is missing" in said


def test_a_source_tree_that_hides_the_package(tree):
    """Python started inside it finds the sources first; it says so."""
    done = subprocess.run(
        [sys.executable, "-c", "import arshai_native"],
        cwd=tree, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "has no compiled extension" in done.stderr
    assert "run Python from another directory" in done.stderr


# ---- types ----

GOOD = """
    import asyncio

    from arshai_native import redis
    from arshai_native.memory import AsyncRedisMemoryManager, MemoryInput

    async def main() -> str:
        client = redis.Redis(host="localhost", port=6379, decode_responses=True, max_connections=20)
        await client.set("k", "v", ex=60)
        url: redis.AsyncRedis = redis.from_url("redis://localhost/0", retry_on_timeout=True)
        async with url.pipeline(transaction=True) as pipe:
            pipe.incr("n")
            print(await pipe.execute())
        try:
            await asyncio.gather(client.get("k"), client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            pass
        await client.aclose()
        memory = AsyncRedisMemoryManager("redis://localhost/1", ttl=600)
        text: str = memory.store(MemoryInput("42"))
        return text + await memory.store({"conversation_id": "42"})
"""

# Each line that is wrong, and what is said of it.
BAD = {
    "redis.Redis(prot=6379)": 'Unexpected keyword argument "prot" for "Redis"',
    "redis.AsyncRedis(decode_response=True)": 'Unexpected keyword argument "decode_response"',
    "redis.Redis(port='6379x', db=[])": "incompatible type",
    "redis.Redis().gte('k')": '"Redis" has no attribute "gte"',
    "redis.Redis().get()": "Missing positional argument",
    "redis.Redis().set('k', 'v', nxx=True)": 'Unexpected keyword argument "nxx"',
    "redis.from_url('redis://h').pipline()": '"Redis" has no attribute "pipline"',
    "redis.Redis().pipeline().exeute()": '"Pipeline" has no attribute "exeute"',
    "AsyncRedisMemoryManager('redis://h').retreive({})": "has no attribute",
    "MemoryInput()": "Missing positional argument",
}


def test_mypy(tmp_path):
    """It accepts what is right and names what is misspelt in a user's program."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "good.py").write_text(textwrap.dedent(GOOD))
    header = (
        "from arshai_native import redis\n"
        "from arshai_native.memory import AsyncRedisMemoryManager, MemoryInput\n"
    )
    (tmp_path / "bad.py").write_text(header + "\n".join(BAD) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", os.devnull, "--strict",
         "--cache-dir", os.devnull, "--hide-error-codes", "good.py", "bad.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line for line in errors if not line.startswith("bad.py:")] == [], done.stderr
    for number, (line, text) in enumerate(BAD.items(), header.count("\n") + 1):
        said = [error for error in errors if error.startswith(f"bad.py:{number}: ")]
        assert said and text in said[0], (line, said)
