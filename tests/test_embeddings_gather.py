"""Gathering: which calls travel together, that each gets its own answer or its own error, that
nobody is harmed by somebody else's text, cancellation or slow reply.
"""

import asyncio
import gc
import random
import threading
import time
import weakref

import pytest
from embedding_server import SECRET, Reply, error, vector_of
from faultkit import run, until

from arshai_native import embeddings
from arshai_native.embeddings import AsyncOpenAIEmbedding

pytest_plugins = ("faultfixtures", "embeddingfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

NEVER = 1000  # seconds: what is said to wait for a reply does


def make(api, **arguments):
    arguments.setdefault("gather_wait", NEVER)
    arguments.setdefault("max_retries", 0)
    return AsyncOpenAIEmbedding("m", api_key=SECRET, base_url=api.url, trust_env=False, **arguments)


def tasks_of(embedding, texts):
    return [asyncio.ensure_future(embedding.embed_document_async(text)) for text in texts]


def texts_of(count):
    return [f"text {n}" for n in range(count)]


def answers(texts):
    return [{"dense": vector_of(text)} for text in texts]


async def behind(api, embedding, texts):
    """Tasks for the texts, all of which wait while one call, the first task, is under way."""
    first = tasks_of(embedding, ["first"])
    assert await until(lambda: api.together == 1)
    tasks = first + tasks_of(embedding, texts)
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


def sizes(api):
    return [len(inputs) for inputs in api.inputs]


# ---- what travels together ----


def test_alone_it_goes_at_once(api):
    embedding = make(api)

    async def main():
        for text in texts_of(5):
            assert await embedding.embed_document_async(text) == {"dense": vector_of(text)}

    run(main)
    assert api.inputs == [[text] for text in texts_of(5)]


def test_what_waits_goes_when_a_reply_comes(api, kind):
    embedding = make(api)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(10))
            await asyncio.sleep(0.1)
            assert sizes(api) == [1]
            api.release()
            assert await until(lambda: len(api.requests) == 2)
        return await asyncio.gather(*tasks)

    assert run(main, kind) == answers(["first", *texts_of(10)])
    assert api.inputs == [["first"], texts_of(10)]


def test_a_full_request_waits_for_nobody(api):
    embedding = make(api, batch_size=4)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(10))
            assert await until(lambda: len(api.requests) == 3)
            await asyncio.sleep(0.1)
            assert sorted(sizes(api)) == [1, 4, 4]  # two wait
            api.release()
            assert await until(lambda: len(api.requests) == 4)
        return await asyncio.gather(*tasks)

    assert run(main) == answers(["first", *texts_of(10)])
    assert sorted(sizes(api)) == [1, 2, 4, 4]


def test_waiting_has_a_bound(api):
    """A request that is not answered does not hold up the others."""
    embedding = make(api, gather_wait=0.05)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(3))
            assert await until(lambda: len(api.requests) == 2)
            more = tasks_of(embedding, ["more"])
            assert await until(lambda: len(api.requests) == 3)
        return await asyncio.gather(*tasks, *more)

    assert run(main) == answers(["first", *texts_of(3), "more"])
    assert api.inputs == [["first"], texts_of(3), ["more"]]


def test_requests_under_way_are_bounded(api):
    """As many texts as a thousand single requests would carry; the others wait their turn."""
    embedding = make(api, batch_size=200, max_concurrency=2)  # five requests

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(2000))
            assert await until(lambda: api.together == 5)
            await asyncio.sleep(0.1)
            assert api.together == 5
        return await asyncio.gather(*tasks)

    assert run(main) == answers(["first", *texts_of(2000)])
    assert api.most_together == 5 and sorted(sizes(api)) == [1] + [200] * 10


def test_a_thousand_calls(api, kind):
    embedding = make(api, gather_wait=0.05)

    async def main():
        return await asyncio.gather(*tasks_of(embedding, texts_of(1000)))

    assert run(main, kind) == answers(texts_of(1000))
    # One alone, 62 full ones, the rest in one or two.
    assert 64 <= len(api.requests) <= 66 and max(sizes(api)) == 16
    assert sorted(sum(api.inputs, [])) == sorted(texts_of(1000))


def test_small_calls_of_several_texts(api):
    embedding = make(api, batch_size=6)

    async def main():
        with api.hold():
            first = await behind(api, embedding, [])
            calls = [["a", "b", "c"], ["d"], ["e", "f", "g"], ["h"]]
            tasks = [asyncio.ensure_future(embedding.aembed_documents(call)) for call in calls]
            whole = asyncio.ensure_future(embedding.aembed_documents(texts_of(6)))
            # abcd is as much as fits with efg behind; a whole batch has no reason to gather.
            assert await until(lambda: len(api.requests) == 3)
            api.release(3)
            assert await until(lambda: len(api.requests) == 4)
        results = await asyncio.gather(*tasks)
        assert [result["dense"] for result in results] == [
            [vector_of(text) for text in call] for call in calls
        ]
        assert (await whole)["dense"] == [vector_of(text) for text in texts_of(6)]
        await first[0]

    run(main)
    assert sorted(api.inputs) == sorted(
        [["first"], ["a", "b", "c", "d"], texts_of(6), ["e", "f", "g", "h"]]
    )


def test_large_texts_do_not_travel_together(api):
    embedding = make(api)
    texts = [f"{n}" * 700_000 for n in range(3)]

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts)
        return await asyncio.gather(*tasks)

    assert run(main) == answers(["first", *texts])
    assert sizes(api) == [1, 1, 1, 1]


def test_switched_off(api):
    embedding = make(api, gather=False)

    async def main():
        with api.hold():
            tasks = tasks_of(embedding, texts_of(20))
            assert await until(lambda: api.together == 20)
        return await asyncio.gather(*tasks)

    assert run(main) == answers(texts_of(20))
    assert sizes(api) == [1] * 20


# ---- errors ----


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_an_error_reaches_its_own_caller_only(api, status):
    embedding = make(api)
    api.refuse["bad"] = lambda: error(status, "no")

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, ["a", "bad", "b", "c"])
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, a, bad, b, c = run(main)
    assert [first, a, b, c] == answers(["first", "a", "b", "c"])
    assert isinstance(bad, embeddings.APIStatusError) and bad.status_code == status
    assert api.inputs[:2] == [["first"], ["a", "bad", "b", "c"]]
    assert sorted(api.inputs[2:]) == [["a"], ["b"], ["bad"], ["c"]]


def test_an_unusable_reply_is_asked_for_one_by_one(api):
    """A server that answers the first input only."""
    embedding = make(api)

    def first_only(body):
        return {**body, "data": body["data"][:1]}

    api.change = first_only

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(4))
        return await asyncio.gather(*tasks)

    assert run(main) == answers(["first", *texts_of(4)])


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_an_error_that_is_nobodys_fault_is_everybodys(api, status):
    embedding = make(api)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(4))
            api.script.append(error(status, "full"))
            api.release()
            assert await until(lambda: len(api.requests) == 2)
        return await asyncio.gather(*tasks, return_exceptions=True)

    _, *errors = run(main)
    assert len(api.requests) == 2
    assert all(isinstance(e, embeddings.APIStatusError) for e in errors)
    assert {e.status_code for e in errors} == {status}
    assert {str(e) for e in errors} == {str(errors[0])}
    assert len(set(map(id, errors))) == 4  # each has a traceback of its own
    assert {e.request_id for e in errors} == {None} and {e.code for e in errors} == {f"c{status}"}


def test_a_lost_connection_is_everybodys(api):
    embedding = make(api)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(4))
            api.script.append(Reply(200, b"{" * 99, cut=True))
            api.release()
            assert await until(lambda: len(api.requests) == 2)
        errors = (await asyncio.gather(*tasks, return_exceptions=True))[1:]
        assert all(type(e) is embeddings.APIConnectionError for e in errors), errors
        assert all(e.__cause__ is not None for e in errors)
        return await embedding.embed_document_async("next")

    assert run(main) == {"dense": vector_of("next")}
    assert len(api.requests) == 3


def test_retries_are_the_requests(api):
    embedding = make(api, max_retries=2)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(4))
            api.script.append(error(429, retry_after_ms="10"))
        return await asyncio.gather(*tasks)

    assert run(main) == answers(["first", *texts_of(4)])
    assert api.inputs == [["first"], texts_of(4), texts_of(4)]


def test_what_is_no_text_stays_with_its_caller(api):
    embedding = make(api)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, ["a", object(), "\ud800", "b"])
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, a, wrong, surrogate, b = run(main)
    assert [first, a, b] == answers(["first", "a", "b"])
    assert isinstance(wrong, TypeError) and isinstance(surrogate, UnicodeEncodeError)
    assert api.inputs == [["first"], ["a", "b"]]


# ---- cancellation ----


def test_given_up_before_it_was_sent(api):
    embedding = make(api)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(6))
            for number in (1, 3, 6):
                tasks[number].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = run(main)
    kept = ["text 1", "text 3", "text 4"]
    assert [r for r in results if isinstance(r, dict)] == answers(["first", *kept])
    assert sum(isinstance(r, asyncio.CancelledError) for r in results) == 3
    assert api.inputs == [["first"], kept]


def test_those_given_up_do_not_fill_a_request(api):
    embedding = make(api, batch_size=4)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(3))
            for task in tasks[1:3]:
                task.cancel()
            await asyncio.sleep(0)
            tasks += tasks_of(embedding, ["x"])
            await asyncio.sleep(0.1)
            assert len(api.requests) == 1
            tasks += tasks_of(embedding, ["y", "z"])
            assert await until(lambda: len(api.requests) == 2)
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main)
    assert api.inputs == [["first"], ["text 2", "x", "y", "z"]]


def test_given_up_while_under_way(api):
    embedding = make(api)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(4))
            api.release()
            assert await until(lambda: api.together == 1 and len(api.requests) == 2)
            tasks[2].cancel()
            await asyncio.sleep(0.02)
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = run(main)
    assert isinstance(results[2], asyncio.CancelledError)
    del results[2]
    assert results == answers(["first", "text 0", "text 2", "text 3"])
    assert len(api.requests) == 2


def test_the_lone_call_is_given_up(api):
    """Those that waited for its reply go at once."""
    embedding = make(api)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(3))
            tasks[0].cancel()
            assert await until(lambda: len(api.requests) == 2)
        return await asyncio.gather(*tasks[1:])

    assert run(main) == answers(texts_of(3))


def test_a_request_that_nobody_wants_is_given_up(api):
    embedding = make(api)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, texts_of(3))
            api.release()
            assert await until(lambda: len(api.requests) == 2)
            for task in tasks[1:]:
                task.cancel()
            # What comes then has nothing to wait for.
            await asyncio.sleep(0.02)
            assert len(asyncio.all_tasks()) <= 2
            more = tasks_of(embedding, ["more"])
            assert await until(lambda: len(api.requests) == 3)
        return await more[0]

    assert run(main) == {"dense": vector_of("more")}


def test_given_up_in_the_turn_that_sends(api):
    """It is not sent, though its caller has not been told yet."""
    embedding = make(api)

    async def main():
        with api.hold():
            tasks = await behind(api, embedding, ["a", "b"])
            (gatherer,) = embedding._gatherers.values()
            tasks[1].cancel()
            gatherer._waited()
            assert await until(lambda: len(api.requests) == 2)
            only = tasks_of(embedding, ["only"])
            await asyncio.sleep(0)
            only[0].cancel()
            gatherer._waited()
            await asyncio.sleep(0.05)
            assert gatherer._under_way == 2
        await asyncio.gather(*tasks, *only, return_exceptions=True)

    run(main)
    assert api.inputs == [["first"], ["b"]]


def test_a_request_that_somebody_cancels_before_its_first_step(api):
    """Its callers are told, and it is not counted as under way for ever."""
    embedding = make(api, batch_size=2)

    async def main():
        with api.hold():
            first = await behind(api, embedding, [])
            before = asyncio.all_tasks()
            tasks = tasks_of(embedding, ["a", "b"])
            await asyncio.sleep(0)
            (request,) = asyncio.all_tasks() - before - set(tasks)
            request.cancel()
            errors = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(error) for error in errors] == [asyncio.CancelledError] * 2
        await first[0]
        (gatherer,) = embedding._gatherers.values()
        assert gatherer._under_way == 0
        return await embedding.embed_document_async("x")

    assert run(main) == {"dense": vector_of("x")}
    assert api.inputs == [["first"], ["x"]]


def test_deadlines(api):
    embedding = make(api, gather_wait=0.01)

    async def main():
        with api.hold():
            for text in ("a", "b", "c"):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(embedding.embed_document_async(text), 0.05)
        return await embedding.embed_document_async("d")

    assert run(main) == {"dense": vector_of("d")}


# ---- loops ----


def test_two_loops_at_once(api):
    embedding = make(api, gather_wait=0.05)
    results = {}

    def work(number):
        texts = [f"{number}:{n}" for n in range(200)]

        async def main():
            return await asyncio.gather(*tasks_of(embedding, texts))

        results[number] = run(main) == answers(texts)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), True)
    for inputs in api.inputs:  # what travels together belongs to one loop
        assert len({text.partition(":")[0] for text in inputs}) == 1
    assert len(api.requests) < 4 * 20


def test_one_loop_after_another(api):
    embedding = make(api)
    loops = []

    async def main():
        loops.append(weakref.ref(asyncio.get_running_loop()))
        return await asyncio.gather(*tasks_of(embedding, texts_of(20)))

    for _ in range(5):
        assert run(main) == answers(texts_of(20))
    gc.collect()
    assert [loop() for loop in loops] == [None] * 5
    assert len(embedding._gatherers) == 0


def test_a_loop_that_ends_in_the_middle(api):
    embedding = make(api)

    async def main():
        await behind(api, embedding, texts_of(20))

    with api.hold():
        run(main)  # its tasks are cancelled

    async def after():
        return await embedding.embed_document_async("x")

    assert run(after) == {"dense": vector_of("x")}


def test_an_eager_loop(api):
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("from Python 3.12 on")
    embedding = make(api, gather_wait=0.02)

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        return await asyncio.gather(*tasks_of(embedding, texts_of(100)))

    assert run(main) == answers(texts_of(100))


def test_a_storm(api):
    """Calls of all sizes, cancelled and refused at random: each gets its own or its error."""
    embedding = make(api, gather_wait=0.005, batch_size=8)
    chance = random.Random(7)
    api.refuse = {f"bad {n}": (lambda: error(400)) for n in range(10)}

    async def one(number):
        await asyncio.sleep(chance.random() * 0.5)
        count = chance.choice((1, 1, 1, 2, 5, 9, 20))
        texts = [f"{number}:{n}" for n in range(count)]
        if chance.random() < 0.1:
            texts[-1] = f"bad {chance.randrange(10)}"
        call = embedding.embed_documents_async(texts)
        try:
            if chance.random() < 0.2:
                found = await asyncio.wait_for(call, chance.random() * 0.02)
            else:
                found = await call
        except TimeoutError:
            return "late"
        except embeddings.BadRequestError:
            assert texts[-1].startswith("bad")
            return "bad"
        assert found == {"dense": [vector_of(text) for text in texts]}
        assert not texts[-1].startswith("bad")
        return "good"

    async def main():
        start = time.monotonic()
        kinds = await asyncio.gather(*[one(n) for n in range(500)])
        assert time.monotonic() - start < 60
        (gatherer,) = embedding._gatherers.values()
        assert await until(lambda: gatherer._under_way == 0)
        assert (gatherer._items, gatherer._bytes, len(gatherer._queue)) == (0, 0, 0)
        assert gatherer._timer is None and not gatherer._requests
        return kinds

    kinds = run(main)
    assert kinds.count("good") > 250 and kinds.count("bad") > 10
