"""arshai_native.config beside arshai's own classes: same results, same errors; the environment."""

import asyncio
import json
import logging
import os
import sys
import textwrap
import threading

import pytest
from faultkit import child, run
from fileskit import goes_on_until, nothing_blocks_here

from arshai_native import config
from arshai_native.config import AsyncConfigLoader, AsyncConfigManager, load_config

pytest_plugins = ("faultfixtures",)
pytestmark = pytest.mark.usefixtures("bounded")
pytest.importorskip("yaml")

YAML = """
llm:
  model: gpt-4o
  temperature: 0.25
  Api_Base: null
memory:
  working_memory: {ttl: 600}
list: [1, {a: b}]
2: number
"""
DOCUMENTS = {
    "plain.yaml": YAML,
    "empty.yaml": "",
    "null.yml": "null\n",
    "list.yaml": "- 1\n- 2\n",
    "scalar.yaml": "text",
    "bad.yaml": "a: [1\nb: 2",
    "tabs.yaml": "a:\n\t- b",
    "tag.yaml": "a: !!python/object:os.system {}",
    "two.yaml": "a: 1\n---\nb: 2\n",
    "anchors.yaml": "a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n",
    "deep.yaml": "llm: text\nmemory: {working_memory: 5, o: {x: 1}}\nlogging: {level: ERROR}\n",
    "unicode.yaml": "name: h\u00e9llo \U0001f600\n",
    "plain.json": '{"llm": {"model": "m", "extra": [1.5, null]}, "a": {"b": {"c": true}}}',
    "bad.json": '{"a": ',
    "list.json": "[1]",
    "empty.json": "",
    "plain.txt": "a: 1",
    "noname": "a: 1",
    "UPPER.YAML": "a: 1",
    "no-logging.yaml": "logging: null",
    "bad-level.yaml": "logging: {level: LOUD}",
}
BYTES = {"bad-utf8.yaml": b"a: \xff\xfe", "bad-utf8.json": b'{"a": "\xff"}', "nul.yaml": b"a: \0"}
KEYS = ["llm", "llm.model", "llm.model.x", "llm.missing", "", ".", "list.0", "a.b.c", "missing",
        "memory.working_memory.ttl", "logging.level", "2"]  # fmt: skip

# Both classes on every file, in a process of its own: arshai takes over its logging.
BESIDE = """
import asyncio, json, logging, os, sys, warnings
from arshai.config import ConfigLoader, ConfigManager, load_config as arshai_load
from arshai.config import config_manager
from arshai_native.config import AsyncConfigLoader, AsyncConfigManager, load_config

keys, names = json.loads(sys.argv[1]), json.loads(sys.argv[2])

class Logger:
    def __init__(self): self.lines = []
    def __getattr__(self, level): return lambda *a: self.lines.append((level, a[0] % a[1:]))

ours, theirs = Logger(), Logger()
config_manager.logger = theirs
import arshai_native.config
arshai_native.config.logger = ours

def said(error):
    return [type(error).__name__, str(error)]

def asked(c):
    found = [c.get(k) for k in keys] + [c.get(k, "default") for k in keys] + [c.get_all()]
    if hasattr(c, "has_key"):
        found += [c.has_key(k) for k in keys] + [c.get_section(k) for k in keys]
    for bad in (None, 5):
        try: found.append(c.get(bad))
        except Exception as error: found.append(said(error))
    return found

def theirs_of(make):
    try: return asked(make())
    except Exception as error: return said(error)

async def ours_of(make):
    try: return asked(await make())
    except Exception as error: return said(error)

def their_load(name):
    try: return arshai_load(name)
    except Exception as error: return said(error)

async def our_load(name):
    try: return await load_config(name)
    except Exception as error: return said(error)

def changes(manager):
    found = []
    for path, value in (("a.b.c", 1), ("llm.model", "x"), ("llm.model.y", 2), ("top", {}),
                        ("top.z", 3), ("llm.temperature.t", 1), (".", 1)):
        try: manager.set(path, value)
        except Exception as error: found.append(said(error))
    return [*found, manager.get_all()]

async def main():
    for name in [*names, None, "", 5]:
        if name is not None:
            assert await our_load(name) == their_load(name), name
            got = await ours_of(lambda: AsyncConfigLoader(name))
            expected = theirs_of(lambda: ConfigLoader(name))
            assert got == expected, (name, got, expected)
        ours.lines.clear()
        theirs.lines.clear()
        got = await ours_of(lambda: AsyncConfigManager(name))
        expected = theirs_of(lambda: ConfigManager(name))
        assert got == expected, (name, got, expected)
        assert ours.lines == theirs.lines, (name, ours.lines, theirs.lines)
        try: a, b = await AsyncConfigManager(name), ConfigManager(name)
        except Exception: continue
        assert changes(a) == changes(b), name
        for more in names:
            assert (await a.load_from_file(more)) is b.load_from_file(more) is None
            assert a.get_all() == b.get_all(), (name, more)
        assert ours.lines == theirs.lines
    # Logging is arshai's in both cases.
    from arshai.utils.logging import LoggingService
    first = LoggingService._default_handler_id
    await AsyncConfigManager()
    second = LoggingService._default_handler_id
    await AsyncConfigManager(configure_logging=False)
    assert first != second == LoggingService._default_handler_id
    print("same")

asyncio.run(main())
"""


@pytest.fixture
def documents(tmp_path):
    for name, text in DOCUMENTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name, data in BYTES.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to("nothing")
    return tmp_path


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="arshai is for 3.11 and 3.12")
def test_beside_arshais_classes(documents):
    pytest.importorskip("arshai.config")
    names = [
        *DOCUMENTS,
        *BYTES,
        "folder.yaml",
        "dangling.yaml",
        "missing.yaml",
        "plain.yaml/x.yaml",
    ]
    paths = [str(documents / name) for name in names]
    done = child(textwrap.dedent(BESIDE), json.dumps(KEYS), json.dumps(paths), prelude="")
    assert "same" in done.stdout.splitlines(), done.stdout[-3000:] + done.stderr[-3000:]


# ---- without arshai ----


def test_without_arshai_and_without_yaml(documents):
    """Neither is needed to import; JSON needs neither; what needs PyYAML says so."""
    done = child(
        """
        import asyncio, sys
        for name in ("yaml", "arshai"):
            sys.modules[name] = None
        import importlib.util
        found, importlib.util.find_spec = importlib.util.find_spec, lambda name: None
        from arshai_native.config import *

        async def main():
            folder = sys.argv[1]
            manager = await AsyncConfigManager(folder + "/plain.json")
            print(manager.get("llm.model"), manager.get("llm.provider"))
            for call in (load_config(folder + "/plain.yaml"), AsyncConfigLoader(folder + "/x")):
                try:
                    await call
                except ImportError as error:
                    print(error)

        asyncio.run(main())
        """,
        documents,
        prelude="",
    )
    text = "PyYAML is required for configuration loading. Install with: pip install PyYAML"
    assert done.stdout.splitlines() == ["m openai", text, text], done.stderr
    done = child("import sys, arshai_native.config; print('yaml' in sys.modules)", prelude="")
    assert done.stdout == "False\n"


# ---- the environment ----


def test_the_environment_goes_before_the_file(documents, monkeypatch):
    values = {
        "LLM__MODEL": "from-env",
        "LLM__API_BASE": "http://x",  # the file writes Api_Base
        "LLM__MAX_TOKENS": "12",
        "NEW__DEEP__KEY": "[1, {\"a\": null}]",
        "LIST": "false",
        "TEXT": "",
        "NUMBER": "1e3",
        "NOTHING": "null",
        "WORD": "NaN",
        "ZIP": "007",
        "MEMORY__WORKING_MEMORY__TTL": "5",
        "MEMORY__WORKING_MEMORY__TTL__UNIT": '"s"',
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv("APP_" + name, value)
    for name in ("APP_", "APP___X", "APP_A____B", "app_llm__model", "XAPP_LLM__MODEL"):
        monkeypatch.setenv(name, "ignored")

    def check(settings):
        get = settings.get
        assert get("llm.model") == "from-env"
        assert get("llm.max_tokens") == 12
        assert get("new.deep.key") == [1, {"a": None}]
        assert get("list") is False
        assert get("text", "default") == ""
        assert get("number") == 1000.0
        assert settings.get_all()["nothing"] is None
        assert (get("word"), get("zip")) == ("NaN", "007")
        assert get("memory.working_memory.ttl") == {"unit": "s"}
        assert "ignored" not in repr(settings.get_all())

    async def main():
        path = str(documents / "plain.yaml")
        loader = await AsyncConfigLoader(path, env_prefix="APP_")
        check(loader)
        assert loader.get("llm.Api_Base") == "http://x" and loader.get("llm.api_base") is None
        assert loader.get("llm.temperature") == 0.25
        assert (await load_config(path, env_prefix="APP_")) == loader.get_all()
        assert (await load_config(path)) == (await AsyncConfigLoader(path)).get_all()
        for where in (path, None, str(documents / "missing.yaml")):
            how = {"env_prefix": "APP_", "configure_logging": False}
            manager = await AsyncConfigManager(where, **how)
            check(manager)
            assert manager.get("llm.provider") == "openai"
        manager.set("llm.model", "set")
        assert manager.get("llm.model") == "set"
        await manager.load_from_file(path)
        check(manager)
        only = await AsyncConfigLoader(str(documents / "missing.yaml"), env_prefix="APP_")
        check(only)
        with pytest.raises(ValueError, match="env_prefix"):
            await load_config(path, env_prefix="")

    run(main)


# ---- life ----


def test_before_it_was_awaited(documents):
    async def main():
        loader = AsyncConfigLoader(str(documents / "plain.yaml"))
        manager = AsyncConfigManager(configure_logging=False)
        for call in (
            loader.get_all,
            lambda: loader.get("a"),
            lambda: loader.get_section("a"),
            lambda: manager.get("llm.model"),
            lambda: manager.set("a", 1),
        ):
            with pytest.raises(RuntimeError, match=r"await Async\w+\(\.\.\.\)"):
                call()
        with pytest.raises(RuntimeError):
            await manager.load_from_file(str(documents / "plain.yaml"))
        assert await loader is loader and await manager is manager

    run(main)


def test_awaited_again_it_is_read_anew(documents):
    path = documents / "plain.yaml"

    async def main():
        loader = await AsyncConfigLoader(str(path))
        path.write_text("a: 1")
        await loader
        assert loader.get_all() == {"a": 1}
        path.write_text("a: [")
        with pytest.raises(ValueError, match="Invalid YAML"):
            await loader
        assert loader.get_all() == {"a": 1}
        assert loader.get_all() is not loader.get_all()

    run(main)


def test_nothing_of_it_blocks_the_loop(tmp_path, documents):
    """Not the look at the disk, not the reading of a file that keeps one waiting."""
    fifo = tmp_path / "fifo.yaml"
    os.mkfifo(fifo)
    path = str(documents / "plain.yaml")

    async def main():
        how = {"configure_logging": False}
        manager = await AsyncConfigManager(**how)
        with nothing_blocks_here():
            await load_config(path)
            await AsyncConfigLoader(path, env_prefix="APP_")
            await AsyncConfigManager(path, **how)
            await manager.load_from_file(path)

        async def load():
            await manager.load_from_file(str(fifo))
            return manager

        async def awaited(object):
            return await object

        for call in (
            AsyncConfigLoader(str(fifo)),
            AsyncConfigManager(str(fifo), **how),
            load(),
        ):
            thread = threading.Thread(target=fifo.write_text, args=("a: {b: c}",))
            task = asyncio.ensure_future(awaited(call))
            assert (await goes_on_until(task, thread.start)).get("a.b") == "c"
            thread.join()

    run(main)


def test_cancelled_it_changes_nothing(tmp_path):
    fifo = tmp_path / "fifo.yaml"
    os.mkfifo(fifo)

    async def main():
        manager = await AsyncConfigManager(configure_logging=False)
        before = json.dumps(manager.get_all())
        task = asyncio.ensure_future(manager.load_from_file(str(fifo)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(fifo.write_text, "llm: {model: late}")
        await asyncio.sleep(0.05)
        assert json.dumps(manager.get_all()) == before

    run(main)


def test_a_thousand_at_once(documents):
    async def main():
        path = str(documents / "plain.json")
        got = await asyncio.gather(*(load_config(path) for _ in range(1000)))
        assert len(got) == 1000 and all(g == got[0] for g in got)

    run(main)


def test_no_value_is_logged(documents, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, "arshai_native.config")
    secret = "sk-very-secret"
    monkeypatch.setenv("APP_LLM__API_KEY", secret)
    (documents / "secret.yaml").write_text(f"key: {secret}\nbad: [1\nother: {secret}\n")
    (documents / "secret.json").write_text(f'{{"key": "{secret}", "bad": }}')
    (documents / "good.yaml").write_text(f"key: {secret}\n")

    async def main():
        for name in ("secret.yaml", "secret.json", "good.yaml", "missing.yaml"):
            path = str(documents / name)
            how = {"env_prefix": "APP_", "configure_logging": False}
            manager = await AsyncConfigManager(path, **how)
            assert manager.get("llm.api_key") == secret
            assert secret not in repr(manager)
            try:
                await AsyncConfigLoader(path, env_prefix="APP_")
            except ValueError as error:
                assert secret not in str(error)

    run(main)
    assert caplog.records and secret not in caplog.text
    assert {*config.__all__} == {"AsyncConfigLoader", "AsyncConfigManager", "load_config"}
