"""
A pytest plugin for aiofiles' own suite: `-p swap_aiofiles`.

Environment:
    PEER_CLASS      "native" puts arshai_native.aiofiles into the place of aiofiles, with all of its
                    modules; anything else leaves aiofiles.
    PEER_RESULTS    file that gets a line of JSON for each test, [test, outcome, message], and at
                    the end ["files", opened, native]: files opened by their classes' own open(),
                    and how many of them C serves.
"""

import importlib
import os
import pkgutil
import sys

import aiofiles
import outcomes

files = {"opened": 0, "native": 0}


def modules_of(package):
    yield package.__name__
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        yield module.name


def is_of(module, name, value):
    """Whether it is defined there, and public."""
    return not name.startswith("_") and getattr(value, "__module__", None) == module


def swap():
    import arshai_native.aiofiles.threadpool as threadpool
    from arshai_native import aiofiles as native

    for name in list(modules_of(aiofiles)):
        own = importlib.import_module(f"arshai_native.{name}")
        theirs = importlib.import_module(name)
        interface = {n for n, value in vars(theirs).items() if is_of(name, n, value)}
        missing = interface.union(getattr(theirs, "__all__", ())) - vars(own).keys()
        if missing:
            raise ImportError(f"{own.__name__} lacks {', '.join(sorted(missing))}")
        sys.modules[name] = own
    assert native is sys.modules["aiofiles"]

    opening, made = threadpool.open_file, threadpool._open

    def open_file(*args):
        result = opening(*args)
        files["native"] += result is not None
        files["opened"] += result is not None
        return result

    def _open(*args, **kwargs):
        files["opened"] += 1
        return made(*args, **kwargs)

    threadpool.open_file, threadpool._open = open_file, _open


if os.environ.get("PEER_CLASS") == "native":
    swap()


def pytest_configure(config):
    outcomes.register(config, lambda: ["files", files["opened"], files["native"]])
