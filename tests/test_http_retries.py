"""Retries as the OpenAI SDK does them, and the gate that a rate limit closes."""

import asyncio
import email.utils
import threading
import time

import pytest
from faultkit import run, until
from httpkit import CLOSE, RESET, HttpServer, by_path, chunked, echo, head, raw, reply, reply_json

from arshai_native import _core
from arshai_native._core import HttpError

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

COUNT = "x-stainless-retry-count"
SOON = ("Retry-After-Ms", "1")
OK = reply(200, b"ok")


def failing(status, *headers):
    return reply(status, b"no", list(headers))


def gaps(server):
    """Seconds between one request and the next."""
    times = [r.time for r in server.requests]
    return [b - a for a, b in zip(times, times[1:], strict=False)]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529, 599])
def test_statuses_that_are_tried_again(http, fetch, status):
    with HttpServer([failing(status, SOON)] * 2 + [OK]) as server:
        response = fetch(
            http(), "POST", server.url, body=b"body", max_retries=2, retry_count_header=COUNT
        )
        assert (response.status, response.body, response.retries) == (200, b"ok", 2)
        assert [r.get(COUNT) for r in server.requests] == ["0", "1", "2"]
        assert [r.body for r in server.requests] == [b"body"] * 3


@pytest.mark.parametrize("status", [200, 201, 204, 400, 401, 403, 404, 410, 413, 422, 425, 499])
def test_statuses_that_are_not(http, fetch, status):
    with HttpServer([failing(status, SOON), OK]) as server:
        response = fetch(http(), "GET", server.url, max_retries=2, retry_count_header=COUNT)
        assert (response.status, response.retries) == (status, 0)
        assert [r.get(COUNT) for r in server.requests] == ["0"]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_no_more_than_allowed(http, fetch, retries):
    with HttpServer(failing(500, SOON)) as server:
        response = fetch(http(), "GET", server.url, max_retries=retries)
        assert (response.status, response.body, response.retries) == (500, b"no", retries)
        assert len(server.requests) == retries + 1


def test_no_count_unless_wanted(http, fetch):
    with HttpServer([failing(500, SOON), OK]) as server:
        fetch(http(), "GET", server.url, max_retries=1)
        assert [r.all(COUNT) for r in server.requests] == [[], []]


@pytest.mark.parametrize("name", [COUNT, COUNT.title()])
def test_the_count_replaces_one_of_that_name(http, fetch, name):
    with HttpServer([failing(500, SOON), OK]) as server:
        given = [("X-A", "1"), (name, "given"), ("X-B", "2")]
        headers = _core.HttpHeaders(given)
        fetch(http(), "GET", server.url, headers, max_retries=1, retry_count_header=COUNT)
        fetch(http(), "GET", server.url, given, max_retries=1, retry_count_header=COUNT)
        assert [r.get(COUNT) for r in server.requests] == ["0", "1", "0"]
        assert server.requests[1].get("x-b") == "2"
        # without the option the caller's own is left
        fetch(http(), "GET", server.url, headers)
        assert server.requests[-1].get(COUNT) == "given"


@pytest.mark.parametrize(
    "status, value, again",
    [
        (200, "true", True),
        (400, "true", True),
        (404, "true", True),
        (500, "false", False),
        (429, "false", False),
        (408, "false", False),
        (500, "maybe", True),
        (400, "maybe", False),
        (400, "TRUE", False),
        (500, "False", True),
        (500, "", True),
    ],
)
def test_what_the_server_says(http, fetch, status, value, again):
    """x-should-retry outweighs the status; only the two words that the SDK knows do."""
    first = failing(status, SOON, ("X-Should-Retry", value))
    with HttpServer([first, OK]) as server:
        # a 2xx is no error to the SDK, which then does not look at the header
        expected = again and status >= 400
        response = fetch(http(), "GET", server.url, max_retries=1)
        assert (response.retries, len(server.requests)) == ((1, 2) if expected else (0, 1))


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["fin", "rst"])
@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_connections_that_break(http, fetch, end, before):
    body = b"x" * 200_000
    with HttpServer([raw(before, end), raw(before, end), echo]) as server:
        response = fetch(
            http(), "POST", server.url, body=body, max_retries=2, retry_count_header=COUNT
        )
        assert response.retries == 2
        assert [r.get(COUNT) for r in server.requests] == ["0", "1", "2"]
        assert response.json()["body"] == body.decode()
        assert [r.body for r in server.requests] == [body] * 3
        assert server.accepted == 3
        # the SDK's waits: 0.5 s and 1 s less up to a quarter
        assert gaps(server)[0] > 0.35 and gaps(server)[1] > 0.7


def test_connections_that_break_until_the_end(http, fetch):
    with HttpServer(raw(CLOSE)) as server:
        with pytest.raises(HttpError) as caught:
            fetch(http(), "POST", server.url, body=b"x", max_retries=1)
        assert caught.value.kind in ("protocol", "read")
        assert len(server.requests) == 2


def test_refused_and_then_not(http):
    with HttpServer(echo) as server:
        client = http()
        server.refuse()

        async def main():
            task = asyncio.create_task(
                client.request("GET", server.url, max_retries=4, retry_count_header=COUNT)
            )
            await asyncio.sleep(0.2)
            server.listen()
            response = await task
            assert response.retries >= 1
            assert server.requests[0].get(COUNT) == str(response.retries)

        run(main)


@pytest.mark.parametrize("name", ["read_timeout", "total_timeout"])
def test_timeouts(http, fetch, name):
    """Each attempt has its time. The first answer of all is the last attempt's."""
    with HttpServer([raw(threading.Event()), raw(threading.Event()), OK]) as server:
        options = {name: 0.3, "max_retries": 2}
        if name == "total_timeout":
            # all that there is for the request and its retries, or for each attempt
            try:
                assert fetch(http(), "GET", server.url, **options).retries == 2
            except HttpError as error:
                assert error.kind == name
            return
        response = fetch(http(), "GET", server.url, **options)
        assert (response.status, response.retries) == (200, 2)
        assert server.accepted == 3


@pytest.mark.parametrize("kind", ["tls", "url"])
def test_errors_that_no_retry_mends(http, fetch, kind, certificates):
    """At once or after the retries, the error is the same."""
    with HttpServer(tls=certificates.context(certificates.expired())) as server:
        url = server.url if kind == "tls" else "nope://x/"
        with pytest.raises(HttpError) as caught:
            fetch(http(), "GET", url, max_retries=1)
        assert caught.value.kind == kind


def test_a_broken_stream_is_not_tried_again(http):
    """Its headers are with the caller."""
    with HttpServer(chunked(b"begun", 0.05, CLOSE)) as server:
        client = http()

        async def main():
            response = await client.request(
                "GET", server.url, mode=_core.HTTP_STREAM, max_retries=3
            )
            with pytest.raises(HttpError):
                while await response.read():
                    pass
            assert len(server.requests) == 1

        run(main)


@pytest.mark.parametrize("mode", [_core.HTTP_STREAM, _core.HTTP_EVENTS])
def test_before_a_stream_there_are_retries(http, mode):
    # a fresh connection for the second attempt: on a kept one the first end is no failure
    failed = failing(503, SOON, ("Connection", "close"))
    with HttpServer([failed, raw(CLOSE), chunked(b"data: x\n\n")]) as server:
        client = http()

        async def main():
            response = await client.request("GET", server.url, mode=mode, max_retries=2)
            assert (response.status, response.retries) == (200, 2)
            if mode == _core.HTTP_STREAM:
                assert await response.read() == b"data: x\n\n"
            else:
                assert [e[1] for e in await response.read_events()] == ["x"]
            assert len(server.requests) == 3

        run(main)


def test_a_retry_uses_the_connection_again(http, fetch):
    with HttpServer([failing(500, SOON), failing(503, SOON), OK]) as server:
        assert fetch(http(), "GET", server.url, max_retries=2).status == 200
        assert server.accepted == 1


def test_a_retry_with_a_redirect(http, fetch):
    """Each attempt starts at the first URL."""
    there = [failing(500, SOON), OK]
    server = HttpServer(
        by_path(
            {
                "/here": reply(307, b"", [("Location", "/there")]),
                "/there": lambda x: there.pop(0)(x),
            }
        )
    )
    with server:
        response = fetch(http(), "POST", server.url + "/here", body=b"b", max_retries=2)
        assert response.status == 200
        assert response.retries == 1
        assert [r.target for r in server.requests][0] == "/here"
        assert [r.target for r in server.requests][-1] == "/there"
        assert all(r.body == b"b" for r in server.requests)


# ---- how long ----


# Headers of a reply: seconds that are waited for at least.
WAITS = [
    ([("Retry-After-Ms", "700")], 0.69),
    ([("Retry-After-Ms", "650.5")], 0.64),
    ([("Retry-After", "1")], 0.99),
    ([("Retry-After", "0.8")], 0.79),
    ([("Retry-After", " 0.9 ")], 0.89),
    ([("Retry-After-Ms", "700"), ("Retry-After", "30")], 0.69),
    ([("Retry-After-Ms", "soon"), ("Retry-After", "0.8")], 0.79),
    # the SDK's own wait: 0.5 s less up to a quarter
    ([], 0.37),
    ([("Retry-After", "soon")], 0.37),
    ([("Retry-After", "")], 0.37),
    ([("Retry-After", "-5")], 0.37),
    ([("Retry-After", "0")], 0.37),
    ([("Retry-After", "nan")], 0.37),
    ([("Retry-After", "inf")], 0.37),
    ([("Retry-After", "61")], 0.37),
    ([("Retry-After", "1" * 400)], 0.37),
    ([("Retry-After-Ms", "99999999")], 0.37),
    ([("Retry-After-Ms", "-1"), ("Retry-After", "30")], 0.37),
    ([("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT")], 0.37),
    ([("Retry-After", "Wed, 21 Oct 9999 07:28:00 GMT")], 0.37),
    ([("Retry-After", "Wed, 99 Xyz 2015 99:28:00 GMT")], 0.37),
]


def test_the_wait(http):
    """Each with a client of its own, so that no gate of one holds back another."""

    async def one(headers, at_least):
        with HttpServer([failing(503, *headers), OK]) as server:
            response = await http().request("GET", server.url, max_retries=1)
            assert response.retries == 1
            gap = gaps(server)[0]
            return None if at_least <= gap < at_least + 8 else (headers, at_least, gap)

    async def main():
        wrong = await asyncio.gather(*(one(*case) for case in WAITS))
        assert [case for case in wrong if case] == []

    run(main)


@pytest.mark.parametrize("zone", ["GMT", "+0200"])
def test_the_wait_until_a_date(http, fetch, zone):
    def first(x):
        when = int(time.time()) + 3  # at least two whole seconds from now
        if zone == "GMT":
            text = email.utils.formatdate(when, usegmt=True)
        else:
            text = email.utils.formatdate(when + 7200).replace("-0000", zone)
        failing(429, ("Retry-After", text))(x)

    with HttpServer([first, OK]) as server:
        assert fetch(http(), "GET", server.url, max_retries=1).retries == 1
        assert 1.9 < gaps(server)[0] < 12


def test_the_cap_is_the_callers(http, fetch):
    with HttpServer([failing(503, ("Retry-After", "2")), OK]) as server:
        client = http()
        fetch(client, "GET", server.url, max_retries=1, max_retry_after=1.0)
        assert 0.37 <= gaps(server)[0] < 1.9


@pytest.mark.parametrize("value", ["61", "3600", "1e300", "9" * 400])
def test_too_long_refused(http, fetch, value):
    """openai 3.x: whoever is told to wait longer than it may is given the reply."""
    with HttpServer([failing(429, ("Retry-After", value)), OK]) as server:
        start = time.monotonic()
        response = fetch(http(), "GET", server.url, max_retries=3, refuse_longer=True)
        assert (response.status, response.retries) == (429, 0)
        assert time.monotonic() - start < 10
        assert len(server.requests) == 1
        # and x-should-retry does not change it
        server.requests.clear()
        server.handler = failing(429, ("Retry-After", value), ("X-Should-Retry", "true"))
        assert fetch(http(), "GET", server.url, max_retries=3, refuse_longer=True).retries == 0


@pytest.mark.parametrize("value", ["nan", "inf", "soon", "0.001"])
def test_not_too_long_not_refused(http, fetch, value):
    with HttpServer([failing(429, ("Retry-After", value)), OK]) as server:
        assert fetch(http(), "GET", server.url, max_retries=1, refuse_longer=True).status == 200


def test_waits_grow(http, fetch):
    """0.5, 1, 2 s, each less up to a quarter."""
    with HttpServer([failing(500)] * 3 + [OK]) as server:
        assert fetch(http(), "GET", server.url, max_retries=3).retries == 3
        for gap, least in zip(gaps(server), (0.37, 0.74, 1.49), strict=True):
            assert least <= gap < least + 8


def test_waits_do_not_hold_a_connection(http):
    """While one waits to try again, another uses max_connections=1."""
    with HttpServer(by_path({"/fails": failing(500, ("Retry-After", "1.5")), "*": OK})) as server:
        client = http(max_connections=1)

        async def main():
            waiting = asyncio.create_task(
                client.request("GET", server.url + "/fails", max_retries=1)
            )
            await until(lambda: server.count("/fails") == 1)
            for _ in range(3):
                start = time.monotonic()
                assert (await client.request("GET", server.url, pool_timeout=30)).status == 200
                assert time.monotonic() - start < 1.2
            assert server.count("/fails") == 1
            assert (await waiting).status == 500

        run(main)


# ---- the gate of a rate limit ----


def limited(seconds, times=1, status=429):
    """The first requests to /limited are told to wait, everything else is answered."""
    left = [times]

    def handler(x):
        if x.request.target == "/limited" and left[0] > 0:
            left[0] -= 1
            failing(status, ("Retry-After", str(seconds)))(x)
        else:
            OK(x)

    return handler


@pytest.mark.parametrize("status", [429, 503])
def test_a_rate_limit_holds_others_back(http, kind, status):
    """Requests to the same host that may be retried wait for as long; others do not."""
    with HttpServer(limited(1, status=status)) as server, HttpServer(OK) as other:
        client = http()

        async def main():
            first = asyncio.create_task(
                client.request("GET", server.url + "/limited", max_retries=2)
            )
            await until(lambda: server.requests)
            await asyncio.sleep(0.2)
            held = [
                asyncio.create_task(client.request("GET", f"{server.url}/held", max_retries=2))
                for _ in range(10)
            ]
            free = asyncio.create_task(client.request("GET", server.url + "/free"))
            elsewhere = asyncio.create_task(
                client.request(
                    "GET", other.url.replace("127.0.0.1", "localhost") + "/x", max_retries=2
                )
            )
            assert (await free).status == (await elsewhere).status == 200
            assert server.count("/held") == 0
            for response in await asyncio.gather(first, *held):
                assert response.status == 200
            assert [r.retries for r in await asyncio.gather(*held)] == [0] * 10

        run(main, kind)
        start = server.requests[0].time
        for request in server.requests[1:]:
            if request.target in ("/held", "/limited"):
                assert request.time - start >= 0.95
            else:
                assert request.time - start < 0.95
        assert other.requests[0].time - start < 0.95


def test_the_gate_does_not_stay_closed(http):
    with HttpServer(limited(0.5)) as server:
        client = http()

        async def main():
            await client.request("GET", server.url + "/limited", max_retries=2)
            start = time.monotonic()
            for _ in range(5):
                await client.request("GET", server.url + "/x", max_retries=2)
            assert time.monotonic() - start < 5

        run(main)


def test_the_gate_of_a_server_that_always_says_no(http):
    """Everybody's waiting is bounded by the retries that they have."""
    with HttpServer(failing(429, ("Retry-After", "0.3"))) as server:
        client = http()

        async def main():
            start = time.monotonic()
            tasks = [client.request("GET", server.url, max_retries=2) for _ in range(20)]
            for response in await asyncio.gather(*tasks):
                assert (response.status, response.retries) == (429, 2)
            assert time.monotonic() - start < 20

        run(main)
        assert len(server.requests) == 60


def test_the_gate_and_a_cancellation(http):
    """Who waits at the gate can be cancelled; the others are not affected."""
    with HttpServer(limited(1)) as server:
        client = http()

        async def main():
            first = asyncio.create_task(
                client.request("GET", server.url + "/limited", max_retries=2)
            )
            await until(lambda: server.requests)
            await asyncio.sleep(0.1)
            held = [
                asyncio.create_task(client.request("GET", f"{server.url}/{i}", max_retries=1))
                for i in range(4)
            ]
            await asyncio.sleep(0.1)
            held[0].cancel()
            held[2].cancel()
            results = await asyncio.gather(first, *held, return_exceptions=True)
            kinds = [type(r).__name__ for r in results]
            assert kinds[1] == kinds[3] == "CancelledError"
            assert results[0].status == results[2].status == results[4].status == 200
            assert server.count("/0") == server.count("/2") == 0

        run(main)


def test_a_long_gate_ends_with_the_callers_time(http):
    """Longer than a caller's whole time: it is told then, not a minute later."""
    with HttpServer(limited(50)) as server:
        client = http()

        async def main():
            first = asyncio.create_task(
                client.request("GET", server.url + "/limited", max_retries=2)
            )
            await until(lambda: server.requests)
            await asyncio.sleep(0.1)
            start = time.monotonic()
            results = await asyncio.gather(
                client.request("GET", server.url, max_retries=1, total_timeout=0.5),
                return_exceptions=True,
            )
            assert time.monotonic() - start < 15
            assert isinstance(results[0], HttpError) and results[0].kind == "total_timeout"
            first.cancel()

        run(main)


def test_an_error_body_that_was_retried_is_not_kept(http, fetch):
    with HttpServer([reply_json({"error": 1}, 500, [SOON]), reply_json({"fine": 1})]) as server:
        response = fetch(http(), "GET", server.url, mode=_core.HTTP_JSON, max_retries=1)
        assert response.json() == {"fine": 1}
        assert response.header("retry-after-ms") is None


def test_a_large_error_body_and_a_retry(http, fetch):
    big = b"e" * (5 << 20)
    with HttpServer([reply(500, big, [SOON]), OK]) as server:
        assert fetch(http(), "GET", server.url, max_retries=1).body == b"ok"


def test_heads_are_what_the_server_says(http, fetch):
    """The count is also in a reply that was the last of its kind."""
    with HttpServer(raw(head(500, [SOON, ("Content-Length", "0")]))) as server:
        response = fetch(http(), "HEAD", server.url, max_retries=2, retry_count_header=COUNT)
        assert (response.status, response.retries) == (500, 2)
        assert [r.get(COUNT) for r in server.requests] == ["0", "1", "2"]
