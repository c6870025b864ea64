"""
A pytest plugin for the OpenAI SDK's own suite: `-p swap_openai`.

Environment:
    PEER_CLASS      "native" puts arshai_native.openai's classes into the place of
                    openai.AsyncOpenAI and openai.AsyncAzureOpenAI; anything else leaves the SDK's.
    PEER_RESULTS    file that gets a line of JSON, [test, outcome, message], for each test, and at
                    the end one with the numbers of clients made and of those that are native.

Only tests of the asynchronous client are run: the others are the same with both.
"""

import functools
import inspect
import os

import openai
import openai.lib.azure
import outcomes
import respxbridge

clients = {"made": 0, "native": 0}

if os.environ.get("PEER_CLASS") == "native":
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


def pytest_configure(config):
    outcomes.register(config, lambda: ["clients", clients["made"], clients["native"]])
    if os.environ.get("PEER_CLASS") == "native":
        config.pluginmanager.register(respxbridge.Bridge(config), "peer-respx")
