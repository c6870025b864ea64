"""
A pytest plugin for the OpenAI SDK's own suite: `-p swap_openai`.

Environment:
    PEER_CLASS      "native" puts arshai_native.openai's classes into the place of
                    openai.AsyncOpenAI and openai.AsyncAzureOpenAI; anything else leaves the SDK's.
    PEER_RESULTS    file that gets a line of JSON for each test, [test, outcome, message]; before
                    the first ["collected", number], and at the end ["clients", made, native,
                    requests, in_c]: clients made, those without an http_client of their own, the
                    requests of these and how many of them were made in C.

Only tests of the asynchronous client are run: the others are the same with both.
"""

import functools
import inspect
import logging
import os
import sys

import openai
import openai.lib.azure
import outcomes

IS_NATIVE = os.environ.get("PEER_CLASS") == "native"

clients = {"made": 0, "native": 0}
bridge = None

if IS_NATIVE:
    import respxbridge

    import arshai_native.openai as native

    def counted(kind):
        make = kind.__init__

        @functools.wraps(make)
        def count(self, *args, **kwargs):
            make(self, *args, **kwargs)
            clients["made"] += 1
            clients["native"] += kwargs.get("http_client") is None

        kind.__init__ = count

    counted(native.AsyncOpenAI)
    openai.AsyncOpenAI = openai.AsyncClient = native.AsyncOpenAI
    openai.AsyncAzureOpenAI = openai.lib.azure.AsyncAzureOpenAI = native.AsyncAzureOpenAI
    bridge = respxbridge.Bridge()


def is_async(item):
    function = getattr(item, "function", None)
    return (
        inspect.iscoroutinefunction(function)
        or "async_client" in item.fixturenames
        or "async" in item.nodeid.lower()
    )


def pytest_collection_modifyitems(config, items):
    other = [item for item in items if not is_async(item)]
    items[:] = [item for item in items if is_async(item)]
    config.hook.pytest_deselected(items=other)
    # 3.x's own clients would be given an http_client that is what they have anyway.
    sys.modules["tests.conftest"].test_http_client = None


def pytest_collection_finish(session):
    writer = session.config.pluginmanager.get_plugin("peer-outcomes")
    writer.write(["collected", len(session.items)])


def pytest_runtest_setup(item):
    # The suite's conftest asks for the SDK's debug lines, with which no call is made in C: they are
    # for the tests that look at them.
    wants_lines = "caplog" in item.fixturenames or "log" in item.nodeid.lower()
    logging.getLogger("openai").setLevel(logging.DEBUG if wants_lines else logging.NOTSET)


def pytest_configure(config):
    outcomes.register(
        config,
        lambda: [
            *("clients", clients["made"], clients["native"]),
            *((bridge.requests, bridge.unmarked) if bridge else (0, 0)),
        ],
    )


def pytest_unconfigure():
    if bridge is not None:
        bridge.close()
