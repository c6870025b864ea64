"""Fixtures of the tests of files. Test modules load them as pytest_plugins."""

import asyncio

import pytest
import uvloop


@pytest.fixture(params=["asyncio", "uvloop"])
def on_loop(request):
    """Runs a coroutine, on a loop of each kind."""
    if request.param == "asyncio":
        return asyncio.run
    return lambda main: asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main)
