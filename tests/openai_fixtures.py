"""
Fixtures of the tests of the OpenAI clients.

To be imported, not to be a plugin: a plugin's fixtures are every module's, and there are other
servers than this one.
"""

import os

import pytest
from openai_server import Server


@pytest.fixture(scope="module")
def module_server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(module_server):
    module_server.reset()
    return module_server


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "AZURE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
