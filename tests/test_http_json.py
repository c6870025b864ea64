"""Bodies that are JSON, and embeddings made of them."""

import base64
import gc
import json
import math
import random
import struct

import pytest
from faultkit import run
from httpkit import HttpServer, chunked, echo, reply, reply_json

from arshai_native import _core

pytest_plugins = ("faultfixtures", "httpfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

MODES = {"body": _core.HTTP_BODY, "json": _core.HTTP_JSON, "embeddings": _core.HTTP_EMBEDDINGS}
EMBEDDINGS = _core.HTTP_EMBEDDINGS


@pytest.fixture
def answered(http):
    """answered(body, **options): the response to a request that is answered with that body."""
    server = HttpServer()
    client = http()

    def get(body, status=200, mode=EMBEDDINGS, **options):
        server.handler = reply(status, body, [("Content-Type", "application/json")])
        return client.request_sync("GET", server.url, mode=mode, **options)

    with server:
        yield get


def same(a, b):
    """Equal in value and in every type; NaN is itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b


DOCUMENTS = {
    "object": '{"a": 1, "b": [true, false, null], "c": {"d": "e"}}',
    "array": "[1, 2.5, -3e-7, 0.1, 1E400, -0.0, -0]",
    "empty": "{}",
    "empty array": "[]",
    "number": "12",
    "text": '"x"',
    "null": "null",
    "spaces": ' \t\r\n{ "a" : [ 1 , 2 ] } \n ',
    "big ints": "[9223372036854775807, 9223372036854775808, -9223372036854775809, "
    + "1" * 400
    + ", -"
    + "9" * 100
    + "]",
    "duplicate keys": '{"a": 1, "b": 2, "a": 3, "b": {"c": 1, "c": 2}}',
    "escapes": r'"\" \\ \/ \b \f \n \r \t \u00e9 \u20ac \ud83d\ude00 \u0000 \u001f"',
    "lone surrogates": r'["\ud800", "\udc00x", "\ud800\ud800\udc00", "a\udfff", {"\ud83d": 1}]',
    "raw utf-8": '{"\u00e9": "\u20ac\U0001f600\u2028\ufeff"}',
    "nan": "[NaN, Infinity, -Infinity]",
    "floats": json.dumps([random.Random(3).uniform(-1, 1) for _ in range(2000)]),
    "deep": "[" * 200 + "]" * 200,
    "wide": json.dumps({str(i): [i, str(i), i / 3] for i in range(5000)}),
    "keys": '{"": 1, " ": 2, "a\\u0000b": 3, "1": 4}',
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_as_json_loads(answered, name, mode):
    text = DOCUMENTS[name]
    response = answered(text.encode(), mode=MODES[mode])
    expected = json.loads(text)
    assert same(response.json(), expected)
    assert response.body == text.encode()
    # each call makes objects of its own
    first, second = response.json(), response.json()
    assert same(first, second)
    if isinstance(first, (dict, list)):
        assert first is not second


BAD = {
    "nothing": "",
    "spaces": "  ",
    "garbage": "<html>",
    "two": "{} {}",
    "cut": '{"a": [1, 2',
    "trailing comma": "[1, 2,]",
    "single quotes": "{'a': 1}",
    "no value": '{"a": }',
    "control character": '"a\nb"',
    "bad escape": r'"\x41"',
    "bad \\u": r'"\u12g4"',
    "leading zero": "[01]",
    "plus": "[+1]",
    "bare point": "[.5]",
    "comment": "{} // x",
    "nil": "nil",
    "number and letters": "12abc",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BAD)
def test_what_is_none(answered, name, mode):
    response = answered(BAD[name].encode(), mode=MODES[mode])
    assert response.status == 200
    assert response.body == BAD[name].encode()
    for _ in range(2):
        with pytest.raises(json.JSONDecodeError) as caught:
            response.json()
        assert 0 <= caught.value.pos <= len(BAD[name])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("data", [b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0"', b'{"\x80": 1}'])
def test_no_utf8(answered, data, mode):
    with pytest.raises(ValueError):
        answered(data, mode=MODES[mode]).json()


@pytest.mark.parametrize("mode", MODES)
def test_surrogates(answered, mode):
    """No UTF-8 either, but json.loads() lets them through."""
    data = b'["\xed\xa0\x80", {"\xed\xbf\xbf": "\\ud800"}]'
    assert answered(data, mode=MODES[mode]).json() == json.loads(data)


def test_where_it_is_none(answered):
    """In characters, as json.loads() says it, not in bytes."""
    data = '{"\u00e9\u20ac": "\U0001f600",\n"x" 1}'.encode()
    with pytest.raises(json.JSONDecodeError) as theirs:
        json.loads(data)
    with pytest.raises(json.JSONDecodeError) as ours:
        answered(data, mode=MODES["json"]).json()
    ours, theirs = ours.value, theirs.value
    assert (ours.pos, ours.lineno, ours.colno) == (theirs.pos, theirs.lineno, theirs.colno)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_other_unicode(answered, coding):
    """json.loads() detects them; whoever does not says so."""
    data = '{"a": "\u00e9"}'.encode(coding)
    for mode in MODES.values():
        response = answered(data, mode=mode)
        try:
            assert response.json() == json.loads(data)
        except ValueError:
            assert response.body == data


@pytest.mark.parametrize("mode", MODES)
def test_too_deep(answered, mode):
    """An error, or what it is, but no crash."""
    response = answered(b"[" * 100_000 + b"]" * 100_000, mode=MODES[mode])
    with pytest.raises((ValueError, RecursionError)):
        response.json()


def test_an_error_page(answered):
    for mode in MODES.values():
        response = answered(b'{"error": {"code": 1}}', 429, mode)
        assert response.json() == {"error": {"code": 1}}
        response = answered(b"Bad Gateway", 502, mode)
        assert response.body == b"Bad Gateway"
        with pytest.raises(json.JSONDecodeError):
            response.json()


# ---- embeddings ----


def document(vectors, **more):
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return json.dumps(
        {"object": "list", "data": data, "model": "m", "usage": usage, **more}
    ).encode()


def packed(*numbers):
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


REST = {"object": "list", "model": "m", "usage": {"prompt_tokens": 5, "total_tokens": 5}}


def test_floats(answered):
    """As json.loads() reads them, to the last bit."""
    chance = random.Random(5)
    vectors = [[chance.uniform(-1, 1) * 10 ** chance.randrange(-20, 3) for _ in range(256)]
               for _ in range(20)]  # fmt: skip
    got, rest = answered(document(vectors)).embeddings()
    assert same(got, vectors)
    assert rest == REST


def test_base64(answered):
    chance = random.Random(6)
    exact = [[struct.unpack("f", struct.pack("f", chance.uniform(-1, 1)))[0] for _ in range(256)]
             for _ in range(20)]  # fmt: skip
    got, rest = answered(document([packed(*v) for v in exact])).embeddings()
    assert same(got, exact)
    assert rest == REST


@pytest.mark.parametrize("form", ["float", "base64"])
def test_vectors_are_lists_that_the_collector_need_not_look_through(answered, form):
    vector = [0.5] * 1536
    (got,), _ = answered(document([vector if form == "float" else packed(*vector)])).embeddings()
    assert type(got) is list and got == vector
    assert not gc.is_tracked(got)
    for _ in range(3):
        got.append([1.0])
        gc.collect()
    assert got == [*vector, [1.0], [1.0], [1.0]]
    del got[0], got[-1]
    assert sorted(got[:-2], reverse=True) == vector[1:]
    del got
    gc.collect()


@pytest.mark.parametrize("form", ["float", "base64"])
def test_numpy(answered, form):
    numpy = pytest.importorskip("numpy")
    vectors = [[0.5, -0.25, 3.0], [1.5, 2.5, -1e-3], [0.0, -0.0, 1e30]]
    sent = vectors if form == "float" else [packed(*v) for v in vectors]
    response = answered(document(sent))
    got, rest = response.embeddings(as_numpy=True)
    assert rest == REST
    assert [type(v) for v in got] == [numpy.ndarray] * 3
    for vector, array in zip(vectors, got, strict=True):
        assert (array.dtype, array.shape, array.flags.c_contiguous) == (numpy.float32, (3,), True)
        assert (array == numpy.array(vector, dtype=numpy.float32)).all()
    # they live on without the response, and without each other
    kept = got[1]
    expected = kept.copy()
    del response, got
    junk = [bytes(1000) for _ in range(1000)]
    assert (kept == expected).all()
    del junk


def test_numpy_and_lists_of_one_response(answered):
    numpy = pytest.importorskip("numpy")
    response = answered(document([[0.5, 1.5], [2.5, 3.5]]))
    lists, _ = response.embeddings()
    arrays, _ = response.embeddings(as_numpy=True)
    arrays[0][0] = 9.0 if arrays[0].flags.writeable else arrays[0][0]
    again, _ = response.embeddings()
    assert lists == again == [[0.5, 1.5], [2.5, 3.5]]
    assert isinstance(arrays[0], numpy.ndarray)
    assert response.json()["data"][1]["embedding"] == [2.5, 3.5]


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2], [2, 1, 0]])
def test_the_order_is_that_of_the_index(answered, order):
    data = [{"index": i, "embedding": [float(i), 0.5]} for i in order]
    got, rest = answered(json.dumps({"data": data}).encode()).embeddings()
    assert got == [[0.0, 0.5], [1.0, 0.5], [2.0, 0.5]]
    assert rest == {}


def test_members_in_any_order(answered):
    text = (
        '{"usage": {"a": [1, {"b": 2}]}, "data": [{"embedding": [1.5], "x": {"y": [3]}, "index": 0,'
        ' "object": "embedding"}], "model": "caf\u00e9 \\ud83d\\ude00", "extra": null, "big": '
        + "9" * 30
        + "}"
    )
    got, rest = answered(text.encode()).embeddings()
    assert got == [[1.5]]
    assert rest == {k: v for k, v in json.loads(text).items() if k != "data"}


def test_ints_among_floats(answered):
    """0 and 1 are what some servers print for 0.0 and 1.0."""
    for numbers in ("0, 1, -2", "0.5, 0, 1.5", "1, 0.5", "12345678901234567890123, 0.5", "-0, 1e3"):
        text = f'{{"data": [{{"index": 0, "embedding": [{numbers}]}}]}}'
        got, _ = answered(text.encode()).embeddings()
        assert same(got, [[float(n) for n in json.loads(f"[{numbers}]")]])


@pytest.mark.parametrize("index", ["", '"index": null, '])
def test_nothing_is_numbered(answered, index):
    """Some servers do without: then the order is that of the inputs."""
    items = ", ".join(f'{{{index}"embedding": [{n}.5]}}' for n in range(3))
    got, _ = answered(f'{{"data": [{items}]}}'.encode()).embeddings()
    assert got == [[0.5], [1.5], [2.5]]


def test_numbers_that_are_none(answered):
    """JSON has none; Python's reader, and so the SDK, takes them nevertheless."""
    got, _ = answered(
        b'{"data": [{"index": 0, "embedding": [NaN, Infinity, -Infinity, 1e999]}]}'
    ).embeddings()
    assert math.isnan(got[0][0]) and got[0][1:] == [math.inf, -math.inf, math.inf]
    sent = packed(math.nan, math.inf, 1.0)
    got, _ = answered(document([sent])).embeddings()
    assert math.isnan(got[0][0]) and got[0][1:] == [math.inf, 1.0]


@pytest.mark.parametrize("form", ["float", "base64"])
def test_one_huge_and_many_small(answered, form):
    huge = [float(i % 1000) / 8 for i in range(300_000)]
    small = [[float(i)] for i in range(5000)]
    for vectors in ([huge], small):
        sent = vectors if form == "float" else [packed(*v) for v in vectors]
        assert answered(document(sent)).embeddings()[0] == vectors


def test_escaped_base64(answered):
    """A slash may be written as an escape: it is the same text."""
    text = packed(*[-1.7e38] * 3, 1e-40, 3.3e38, -1.9999999)
    assert "/" in text
    body = document([text]).replace(b"/", b"\\/")
    got, _ = answered(body).embeddings()
    assert got == answered(document([text])).embeddings()[0]
    body = document([text]).replace(b"/", b"\\u002f")
    assert answered(body).embeddings()[0] == got


WRONG = {
    "no data": '{"object": "list"}',
    "data is null": '{"data": null}',
    "data is an object": '{"data": {"index": 0}}',
    "data is a text": '{"data": "x"}',
    "data of numbers": '{"data": [1, 2]}',
    "data of null": '{"data": [null]}',
    "an array": "[1]",
    "a number": "1",
    "null": "null",
    "no embedding": '{"data": [{"index": 0}]}',
    "embedding is null": '{"data": [{"index": 0, "embedding": null}]}',
    "embedding is a number": '{"data": [{"index": 0, "embedding": 1.5}]}',
    "embedding is an object": '{"data": [{"index": 0, "embedding": {}}]}',
    "a text among numbers": '{"data": [{"index": 0, "embedding": [1.5, "2"]}]}',
    "null among numbers": '{"data": [{"index": 0, "embedding": [1.5, null]}]}',
    "true among numbers": '{"data": [{"index": 0, "embedding": [1.5, true]}]}',
    "a list among numbers": '{"data": [{"index": 0, "embedding": [1.5, [2.5]]}]}',
    "lists of lists": '{"data": [{"index": 0, "embedding": [[1.5]]}]}',
    "index twice": '{"data": [{"index": 0, "embedding": [1.5]}, {"index": 0, "embedding": [2.5]}]}',
    "index too large": '{"data": [{"index": 1, "embedding": [1.5]}]}',
    "index far too large": '{"data": [{"index": 99999999999999999999, "embedding": [1.5]}]}',
    "index negative": '{"data": [{"index": -1, "embedding": [1.5]}]}',
    "index a text": '{"data": [{"index": "0", "embedding": [1.5]}]}',
    "index a float": '{"data": [{"index": 0.5, "embedding": [1.5]}]}',
    "lengths differ": '{"data": [{"index": 0, "embedding": [1.5]}, '
    '{"index": 1, "embedding": [1.5, 2.5]}]}',
    "one is empty": '{"data": [{"index": 0, "embedding": [1.5]}, {"index": 1, "embedding": []}]}',
    "forms differ in length": '{"data": [{"index": 0, "embedding": [1.5]}, '
    '{"index": 1, "embedding": "AAAAAAAAAAA="}]}',
}


@pytest.mark.parametrize("as_numpy", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_documents(answered, name, as_numpy):
    """A clear word, and never a vector that is another's."""
    if as_numpy:
        pytest.importorskip("numpy")
    response = answered(WRONG[name].encode())
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            response.embeddings(as_numpy)
        assert len(str(caught.value)) > 8
    # what came is there nevertheless
    assert response.status == 200
    assert response.body == WRONG[name].encode()
    assert response.json() == json.loads(WRONG[name])


@pytest.mark.parametrize(
    "text",
    ["AAAA", "AAAAAAA=", "AAAAAA", "AAAAA", "A", "AAAAAA==A", "AAAAAA=", "AAAAAA===", "=", "====",
     "AAAA AA==", "AAA*AA==", "AAAA\\nAA==", "AAAA-_==", "AAAAA\u00e9==", "AAAA\\u0000A==",
     "AAAAAA==AAAAAA=="],
)  # fmt: skip
def test_wrong_base64(answered, text):
    """Bytes that make no floats, letters that are none, padding where none belongs."""
    body = f'{{"data": [{{"index": 0, "embedding": "{text}"}}]}}'.encode()
    with pytest.raises(ValueError, match="base64|embedding|float|length"):
        answered(body).embeddings()


def test_right_base64(answered):
    assert answered(b'{"data": [{"index": 0, "embedding": "AACAPw=="}]}').embeddings()[0] == [[1.0]]
    assert answered(b'{"data": [{"index": 0, "embedding": "////fw=="}]}').embeddings()[0] != [[]]
    body = b'{"data": [{"index": 0, "embedding": "AACAPwAAgD8AAIA/"}]}'
    assert answered(body).embeddings()[0] == [[1.0, 1.0, 1.0]]


def test_empty_data(answered):
    """No text, no vector: or a clear word."""
    try:
        got, rest = answered(b'{"data": [], "model": "m"}').embeddings()
        assert (got, rest) == ([], {"model": "m"})
    except ValueError as error:
        assert "data" in str(error)


def test_empty_vectors(answered):
    for text in ("[]", '""'):
        body = f'{{"data": [{{"index": 0, "embedding": {text}}}]}}'.encode()
        try:
            assert answered(body).embeddings()[0] == [[]]
        except ValueError as error:
            assert len(str(error)) > 8


def test_missing_index(answered):
    """In the order of the list, or a clear word; not in some other order."""
    body = b'{"data": [{"embedding": [1.5]}, {"embedding": [2.5]}]}'
    try:
        assert answered(body).embeddings()[0] == [[1.5], [2.5]]
    except ValueError as error:
        assert "index" in str(error)


@pytest.mark.parametrize("name", BAD)
def test_no_json(answered, name):
    with pytest.raises(ValueError):
        answered(BAD[name].encode()).embeddings()


def test_of_an_error(answered):
    response = answered(b'{"error": {"message": "no"}}', 401)
    with pytest.raises(ValueError):
        response.embeddings()
    assert response.json() == {"error": {"message": "no"}}


def test_in_another_mode(answered):
    response = answered(document([[1.5]]), mode=_core.HTTP_JSON)
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        response.embeddings()


def test_in_pieces(http, kind):
    """However it comes."""
    vectors = [[i / 7, -i / 3] for i in range(500)]
    body = document(vectors)
    steps = [body[i : i + 997] for i in range(0, len(body), 997)]
    with HttpServer(chunked(*steps)) as server:
        client = http()

        async def main():
            response = await client.request("POST", server.url, mode=EMBEDDINGS)
            assert response.embeddings()[0] == vectors

        run(main, kind)


def test_duplicate_members(answered):
    """The last one counts, as in a dict."""
    text = (
        '{"model": "a", "data": [{"index": 5, "embedding": [9.5], "index": 0, "embedding": [1.5]}],'
        ' "model": "b"}'
    )
    got, rest = answered(text.encode()).embeddings()
    assert (got, rest) == ([[1.5]], {"model": "b"})


def test_json_echo(http, fetch):
    with HttpServer([echo, reply_json([1])]) as server:
        client = http()
        response = fetch(client, "POST", server.url, body='{"\u00e9": 1}', mode=_core.HTTP_JSON)
        assert response.json()["body"].encode("latin-1").decode() == '{"\u00e9": 1}'
        assert fetch(client, "GET", server.url, mode=_core.HTTP_JSON).json() == [1]
