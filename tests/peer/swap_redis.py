"""
A pytest plugin for redis-py's own suite: `-p swap_redis`.

Environment:
    PEER_CLASS      "native" puts arshai_native.redis.Redis into the place of redis.asyncio.Redis;
                    anything else leaves redis-py's.
    PEER_PORT       the port of the server; the port of clients that name none.
    PEER_RESULTS    file that gets a line of JSON, [test, outcome, message], for each test, and at
                    the end one with the numbers of clients made and of those on the native engine.
"""

import functools
import os

import outcomes
import redis.asyncio
import redis.asyncio.client
import redis.asyncio.utils

# Some tests make a client without a port.
redis.asyncio.Redis.__init__.__kwdefaults__["port"] = int(os.environ["PEER_PORT"])

clients = {"made": 0, "native": 0}

if os.environ.get("PEER_CLASS") == "native":
    import arshai_native.redis

    make = arshai_native.redis.Redis.__init__

    @functools.wraps(make)
    def count(self, **kwargs):
        make(self, **kwargs)
        clients["made"] += 1
        clients["native"] += self._engine is not None

    arshai_native.redis.Redis.__init__ = count

    redis.asyncio.Redis = arshai_native.redis.Redis
    redis.asyncio.StrictRedis = arshai_native.redis.StrictRedis
    redis.asyncio.from_url = arshai_native.redis.from_url


def pytest_configure(config):
    outcomes.register(config, lambda: ["clients", clients["made"], clients["native"]])
