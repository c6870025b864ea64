"""The lock that tasks of several event loops wait for, whatever becomes of a loop."""

import asyncio
import gc
import threading

import pytest

from arshai_native.milvus._connection import AnyLoopLock

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


async def use(lock):
    async with lock:
        pass


async def a_few_turns():
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("when", ["waits", "has_it", "cancelled"])
def test_a_waiter_is_thrown_away_with_its_loop(when):
    lock = AnyLoopLock()
    own, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    own.run_until_complete(lock.__aenter__())
    task = other.create_task(use(lock))
    other.run_until_complete(a_few_turns())
    if when != "waits":
        own.run_until_complete(lock.__aexit__())
    if when == "cancelled":
        task.cancel()
    other.set_exception_handler(lambda *_: None)
    other.close()
    del task
    gc.collect()
    if when == "waits":
        own.run_until_complete(lock.__aexit__())
    own.run_until_complete(asyncio.wait_for(use(lock), 10))
    own.close()


def test_it_is_had_by_one_at_a_time_in_any_thread():
    lock = AnyLoopLock()
    inside, most, times = 0, 0, 0

    async def often():
        nonlocal inside, most, times
        for turn in range(100):
            entering = asyncio.ensure_future(lock.__aenter__())
            if turn % 7 == 0:
                await asyncio.sleep(0)
                entering.cancel()
            try:
                await entering
            except asyncio.CancelledError:
                continue
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            times += 1
            inside -= 1
            await lock.__aexit__()

    async def several():
        await asyncio.wait_for(asyncio.gather(*[often() for _ in range(5)]), 60)

    threads = [threading.Thread(target=lambda: asyncio.run(several())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1 and inside == 0 and times >= 3 * 5 * 85
    asyncio.run(asyncio.wait_for(use(lock), 10))
