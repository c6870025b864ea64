"""The architecture's rules, read from the sources: who includes and imports whom, sizes, names, and
that the table of replies agrees with redis-py's.
"""

import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
import redis.asyncio as peer
import redis.exceptions as errors

from arshai_native import _redis_errors

pytest_plugins = ("faultfixtures",)

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
MAX_LINES = 800

# Room -> rooms of src it may include from, its own among them. What is not named is a protocol:
# it stands on base and io, and knows no other protocol.
ARROWS = {"base": {"base"}, "io": {"base", "io"}}
ROOMS = {path.name for path in SRC.iterdir()}
ARROWS |= {room: {"base", "io", room} for room in ROOMS - {"base", "io", "py"}}
ARROWS["py"] = set(ARROWS) | {"py"}
# Library -> rooms that may know it.
LIBRARIES = {
    "Python.h": {"py"},
    "structmember.h": {"py"},
    "hiredis": {"redis"},
    "curl": {"http"},
    "nghttp2": {"grpc"},
    "openssl": {"io"},
    "uv.h": ROOMS - {"base", "py"},
}


def c_files():
    return sorted(path for path in SRC.rglob("*") if path.suffix in (".c", ".h"))


def without_comments(text):
    """C without comments, and with empty strings."""
    pattern = r'/\*.*?\*/|//[^\n]*|("(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')'
    return re.sub(pattern, lambda m: '""' if m[1] else " ", text, flags=re.S)


def top_level(text):
    """C's declarations outside of every brace, without preprocessor lines, one string each."""
    text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", "", without_comments(text), flags=re.M)
    depth, kept = 0, []
    for piece in re.split(r"([{}])", text):
        if piece == "{":
            depth += 1
        elif piece == "}":
            depth -= 1
            kept.append("{}" * (depth == 0))
        elif depth == 0:
            kept.append(piece)
    assert depth == 0
    # A function's body ends a declaration without a semicolon.
    return [" ".join(d.split()) for d in re.split(r";|(?<=\)) *\{\}", "".join(kept)) if d.strip()]


def includes(path):
    """(name, is it one of src/, room it belongs to) for every include of the file."""
    for name in re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.M):
        inside = (SRC / name).is_file()
        yield name, inside, name.partition("/")[0]


def test_the_rooms():
    assert {"base", "io", "redis", "py"} <= ROOMS and set(ARROWS) == ROOMS
    assert ARROWS["redis"] == {"base", "io", "redis"} and ARROWS["py"] == ROOMS
    assert {path.parent.parent for path in c_files()} == {SRC}


@pytest.mark.parametrize("path", c_files(), ids=lambda path: str(path.relative_to(SRC)))
def test_includes_follow_the_arrows(path):
    room = path.parent.name
    for name, inside, other in includes(path):
        if inside:
            assert other in ARROWS[room], f"{path}: {name}"
            continue
        # What is no file of ours is the system's: nothing goes by ../ or by a bare name.
        assert not name.startswith(".") and not (path.parent / name).exists(), f"{path}: {name}"
        for library, rooms in LIBRARIES.items():
            if name == library or name.startswith(library + "/"):
                assert room in rooms, f"{path}: {name}"
        if name == "arn.h":  # the core's public face is for the hosts
            assert room == "py", path


def test_the_public_header_is_the_cores():
    for path in (ROOT / "include").glob("*.h"):
        for name, inside, other in includes(path):
            assert inside and other in ROOMS - {"py"}, f"{path}: {name}"


def test_the_core_does_not_know_python():
    """Not by its API either, whatever it includes."""
    for path in c_files():
        if path.parent.name != "py":
            found = re.search(r"\bPy[A-Z_]\w*|\barn_py\w*", without_comments(path.read_text()))
            assert found is None, f"{path}: {found[0]}"


def project_files():
    patterns = ["*.py", "src/**/*.[ch]", "include/*.h"]
    for folder in ("arshai_native", "tests", "tools", "demo", "benchmarks"):
        patterns += [f"{folder}/**/*.{suffix}" for suffix in ("py", "pyi", "c", "h")]
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def test_no_file_is_too_long():
    files = project_files()
    assert len(files) > 60 and Path(__file__) in files
    lengths = {str(path): path.read_text().count("\n") for path in files}
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}


# ---- src/py: state belongs to the module ----

OBJECT = (
    r"(?:Py\w*Object|PyThreadState|PyInterpreterState|arn_py_state|arn_py_request|arn_py_engine)"
)


def test_no_python_objects_in_globals():
    """Objects in static storage would be shared by sub-interpreters and outlive the module."""
    for path in sorted((SRC / "py").glob("*.[ch]")):
        for declaration in top_level(path.read_text()):
            head = declaration.partition("=")[0]
            if re.match(r"(typedef|struct|enum|union|extern struct PyModuleDef)\b", head):
                continue
            mutable = re.search(rf"\b{OBJECT}\b[^()]*$", head) and not re.search(r"\)\s*$", head)
            assert not mutable or "static const" in head, f"{path}: {declaration[:80]}"
        # Inside of functions.
        text = without_comments(path.read_text())
        for line in re.findall(rf"^[ \t]+static\b[^;={{(]*\b{OBJECT}\b[^;={{(]*[;=]", text, re.M):
            raise AssertionError(f"{path}: {line.strip()}")
        assert not re.search(r"\b_Py_IDENTIFIER|\bPyTypeObject\s+\w+\s*=", text), path


def test_no_python_objects_in_globals_sees_them():
    bad = "static PyObject *cache;\nPyTypeObject T = {0};\nint f(PyObject *a) {\n  return 0;\n}\n"
    found = [d for d in top_level(bad) if re.search(rf"\b{OBJECT}\b[^()]*$", d.partition("=")[0])]
    assert found == ["static PyObject *cache", "PyTypeObject T = {}"]


# ---- names ----


def functions_of(text):
    """Names of the non-static functions that a header declares."""
    for declaration in top_level(text):
        if declaration.startswith(("static ", "typedef ")) or re.match(r"\w+\(", declaration):
            continue  # the last: a macro's expansion
        found = re.match(r"[\w\s*]*?\b(\w+) ?\([^()]*(?:\([^()]*\)[^()]*)*\)$", declaration)
        if found:
            yield found[1]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_names_of_functions(room):
    """arn_* for every room, arn__* inside one; arn_py_* for the bindings."""
    names = [
        (path.name, name)
        for path in sorted((SRC / room).glob("*.h"))
        for name in functions_of(path.read_text())
    ]
    assert len(names) > 4, names
    prefix = "arn_py_" if room == "py" else "arn_"
    assert [pair for pair in names if not pair[1].startswith(prefix)] == []
    assert max(Counter(name for _, name in names).values()) == 1
    # What one room keeps for itself, no other uses.
    own = [name for _, name in names if name.startswith("arn__")]
    for path in c_files():
        if path.parent.name == room or not own:
            continue
        text = without_comments(path.read_text())
        if room == "io" and path.parent.name not in ("base", "py"):
            continue  # a protocol runs on the io thread and may use what is for it
        found = set(own) & set(re.findall(r"\barn__\w+", text))
        assert not found, f"{path}: {found}"


def test_functions_of_sees_them():
    header = """
        int arn_a(void); /* int hidden(void); */
        static inline int inner(int x) { return x; }
        typedef int (*callback)(int x);
        struct s { int (*member)(void); };
        const char *wrong(int x, void (*f)(int));
        void  *
        arn__b(void);
    """
    assert list(functions_of(header)) == ["arn_a", "wrong", "arn__b"]


# ---- tools/sources.py ----


def listed(what, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools/sources.py"), what],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True, cwd="/",
    ).stdout.split()  # fmt: skip


@pytest.mark.parametrize("wakefd", ["", "pipe"])
def test_sources_are_listed_once(wakefd):
    """Every C file, and of each pair of twins the one that is asked for."""
    found = Counter(listed("core", ARN_WAKEFD=wakefd) + listed("bindings", ARN_WAKEFD=wakefd))
    linux = sys.platform == "linux" and wakefd != "pipe"
    absent = (
        {"src/io/wakefd_pipe.c", "src/file/now_portable.c"}
        if linux
        else {"src/io/wakefd_eventfd.c", "src/file/now_linux.c"}
    )
    there = {str(path.relative_to(ROOT)) for path in SRC.rglob("*.c")}
    assert absent <= there
    assert found == Counter(there - absent)
    assert all(name.startswith("src/py/") for name in listed("bindings"))
    assert not any(name.startswith("src/py/") for name in listed("core"))


def test_headers_are_listed_once():
    there = {
        str(p.relative_to(ROOT))
        for folder in ("src", "include")
        for p in ROOT.glob(f"{folder}/**/*.h")
    }
    assert Counter(listed("headers")) == Counter(there)


# ---- src/py/replies.c against redis-py ----


def reply_table():
    """(kind, usage, name of a command) for every entry of the table, as C spells it."""
    text = (SRC / "py/replies.c").read_text()
    begin = text.index("} table[] = {")
    body = text[begin : text.index("\n};", begin)]
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.S)
    rows = re.findall(r'\{\s*ARN_PY_REPLY_(\w+),\s*ARN_PY_USE_(\w+),\s*((?:"[^"]*"\s*)+)\}', body)
    assert len(rows) == body.count("ARN_PY_REPLY_")
    return [
        (kind, usage, name)
        for kind, usage, strings in rows
        for name in "".join(re.findall(r'"([^"]*)"', strings)).split()
    ]


@pytest.fixture(scope="module")
def callbacks():
    return peer.Redis().response_callbacks


def test_every_command_is_listed_once():
    names = Counter(name for _, _, name in reply_table())
    assert len(names) > 150 and "GET" in names and "WATCH" in names
    assert [name for name, count in names.items() if count > 1 or name != name.upper()] == []


def test_raw_replies_lose_no_conversion(callbacks):
    """A command that redis-py has a callback for must not be marked RAW, in any protocol."""
    raw = [name for kind, _, name in reply_table() if kind == "RAW"]
    assert len(raw) > 100
    assert [name for name in raw if name in callbacks] == []


def test_converted_replies_have_a_conversion(callbacks):
    converted = [name for kind, _, name in reply_table() if kind not in ("RAW", "PYTHON")]
    assert [name for name in converted if name not in callbacks] == []


SAMPLES = {  # kind: raw replies and what redis-py makes of them
    "BOOL": [(0, False), (1, True), (None, False), (b"OK", True)],
    "OK": [(b"OK", True), (b"other", False), (None, False)],
    "PONG": [(b"PONG", True), (b"other", False)],
    "SET_COMMAND": [(b"OK", True), (None, None)],
    "FLOAT": [(b"1.5", 1.5), (b"inf", float("inf"))],
    "FLOAT_OR_NONE": [(b"1.5", 1.5), (None, None)],
    "SET": [([b"a", b"b"], {b"a", b"b"}), ([], set()), (None, set())],
    "DICT": [([b"a", b"1"], {b"a": b"1"}), ([], {}), (None, {})],
    "TUPLE_OR_NONE": [([b"k", b"v"], (b"k", b"v")), (None, None), ([], None)],
    "SCORES": [([b"a", b"1"], [b"a", b"1"]), ([], []), (None, None)],
}


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_kinds_are_what_redis_py_does(callbacks, kind):
    names = [name for of, _, name in reply_table() if of == kind]
    assert names
    for name in names:
        for raw, expected in SAMPLES[kind]:
            assert callbacks[name](raw) == expected, (name, raw)


def test_every_kind_is_tested():
    kinds = {kind for kind, _, _ in reply_table()}
    assert kinds == set(SAMPLES) | {"RAW", "PYTHON"}


# ---- what importing arshai_native.memory brings along ----

HIDE = """
    import sys

    class Without:
        def __init__(self, finder):
            self.finder = finder
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {hidden}:
                return None
            return self.finder.find_spec(name, path, target)

    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def python(code, *args, hidden=()):
    """Runs code in a Python of its own, where the hidden packages are not installed."""
    code = textwrap.dedent(HIDE).replace("{hidden}", repr(tuple(hidden))) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_importing_it_imports_neither_arshai_nor_redis():
    code = """
        import arshai_native.memory
        loaded = {name.partition(".")[0] for name in sys.modules}
        print(sorted(loaded & {"arshai", "redis", "pydantic", "uvloop"}))
    """
    assert python(code) == "[]\n"


@pytest.mark.parametrize("hidden", [("redis", "arshai"), ("arshai",), ()])
def test_without_redis_py(own_server, hidden):
    server = own_server("--requirepass", "right")
    closed = own_server()
    closed.kill()
    code = """
        import asyncio, logging, pickle
        from arshai_native.memory import AsyncRedisMemoryManager, MemoryInput, WorkingMemory

        logging.basicConfig(level=100)
        right, wrong, closed = (
            AsyncRedisMemoryManager(url, socket_timeout=0.2) for url in sys.argv[1:]
        )
        fields = {"conversation_id": "7", "working_memory": "mémoire"}

        async def main():
            assert await right.store(fields) == "memory:WORKING_MEMORY:7"
            assert await right.retrieve(fields) == [WorkingMemory(working_memory="mémoire")]
            await right.update(fields)
            assert (await right.get_memory_stats_async())["total"] == 1

        asyncio.run(main())
        assert type(right.retrieve(MemoryInput("7"))[0]) is WorkingMemory
        for call in (
            lambda: right._engine.call("LPUSH", "memory:WORKING_MEMORY:7", "x"),
            lambda: right._engine.call("EVALSHA", "0" * 40, 0),
            lambda: right._engine.call("SET", "k", None),
            lambda: right._engine.call("BLPOP", "k", 0),
            lambda: closed.get_sync("k"),
            lambda: wrong.get_sync("k"),
            lambda: asyncio.run(wrong.get("k")),
            lambda: right.redis_client.config_set("no-such", 1),
        ):
            try:
                call()
            except Exception as error:
                again = pickle.loads(pickle.dumps(error))
                assert type(again) is type(error) and str(again) == str(error)
                print(type(error).__module__.partition(".")[0], type(error).__name__)
    """
    host = f"{server.host}:{server.port}"
    printed = python(
        code, f"redis://:right@{host}", f"redis://:wrong@{host}", closed.url, hidden=hidden
    )
    kinds = ["Response", "NoScript", "Data", "Timeout", "Connection"] + ["Authentication"] * 2
    module = "arshai_native" if "redis" in hidden else "redis"
    last = "builtins ModuleNotFoundError" if "redis" in hidden else "redis ResponseError"
    assert printed.splitlines() == [f"{module} {kind}Error" for kind in kinds] + [last]


def test_error_classes_are_redis_pys_by_name():
    for name, kind in vars(_redis_errors._likeness()).items():
        if isinstance(kind, type):
            theirs = getattr(errors, name)
            assert [c.__name__ for c in kind.__mro__] == [c.__name__ for c in theirs.__mro__]
