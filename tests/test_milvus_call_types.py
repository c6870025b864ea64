"""MilvusCaller, MilvusPlan and MilvusParts by themselves, with arguments of any kind."""

import gc
import sys
import weakref

import pytest
from milvuscallkit import VECTOR, Text, id_of, vector
from milvusfake import search_reply
from pymilvus.grpc_gen import milvus_pb2

from arshai_native import _core
from arshai_native.milvus import _search


def make_caller(unusual=frozenset(), last_write=lambda *_: int("1234567")):
    return _core.MilvusCaller(_search._wire.replies, unusual, last_write)


class Channel:
    def __init__(self, interceptors):
        self._closed = False
        self._unary_unary_interceptors = interceptors


class Handler:
    pass


class Config:
    db_name = "mine"


class Client:
    """As much of one as a MilvusCaller looks at."""

    def __init__(self, plan=None, gather=False):
        self._closed = False
        self._handler = Handler()
        self._handler._async_channel = Channel([])
        self._gather = gather
        self._plans = {_core.plain_key(*ARGUMENTS): plan}
        self._config = Config()


ARGUMENTS = ("c", "", 10, None, None, None, None, {})


def bound_to(client, **changes):
    channel = client._handler._async_channel
    arguments = {
        "kind": type(client),
        "attributes": len(vars(client)),
        "database": "mine",
        "handler": client._handler,
        "channel": channel,
        "core": _core.GrpcChannel("127.0.0.1", 1),
        "interceptors": channel._unary_unary_interceptors,
        "count": 0,
        "places": (),
        "metadata": (("dbname", "mine"),),
        "path": "/x/Search",
    }
    assert changes.keys() <= arguments.keys()
    return tuple((arguments | changes).values())


def known_caller(client, **changes):
    caller = make_caller()
    caller.bind(*bound_to(client, **changes))
    return caller


def search(caller, client, *more, data=VECTOR, timeout=None):
    made = caller.search(client, data, timeout, *(more or ARGUMENTS))
    if type(made).__name__ == "Request":
        made.close()
        return "request"
    return made


def test_a_caller_by_itself():
    plan = _core.MilvusPlan(b"", -1, 0, True)
    client = Client(plan)
    caller = make_caller()
    assert search(caller, client) is None  # nobody is known yet
    caller.bind(*bound_to(client))
    assert search(caller, client) == "request"
    client._gather = True
    assert search(caller, client) == (plan, 101, caller_encoding(VECTOR))
    assert search(caller, client, data=VECTOR * 2) == "request"
    del client._gather
    client.another = 1  # as many attributes as before
    assert search(caller, client) is None
    del client.another
    client._gather = False
    client._plans = [plan]
    assert search(caller, client) is None
    client._plans = {_core.plain_key(*ARGUMENTS): object()}
    assert search(caller, client) is None
    client._plans = {_core.plain_key(*ARGUMENTS): _core.MilvusPlan.__new__(_core.MilvusPlan)}
    assert search(caller, client) is None
    client._plans = {_core.plain_key(*ARGUMENTS): plan}
    assert search(caller, client) == "request"
    for other in (3, None, object(), Client, Client(plan)):
        assert search(caller, other) is None
    client._handler._async_channel._closed = True  # though the core is not yet
    assert search(caller, client) is None
    client._handler._async_channel._closed = False
    assert search(caller, client) == "request"
    del client._handler._async_channel
    assert search(caller, client) is None


def caller_encoding(data):
    return _core.milvus_vectors(data)[2]


def test_a_caller_asks_again_what_the_last_write_may_have_changed():
    plan = _core.MilvusPlan(b"", -1, 9, False)
    client = Client(plan)
    answers = []

    def last_write(collection, of):
        assert (collection, of) == ("c", client)
        answer = answers.pop()
        return answer() if callable(answer) else answer

    caller = make_caller(last_write=last_write)
    caller.bind(*bound_to(client))
    for answer, expected in ((7, "request"), (2**64 - 1, "request"), (2**64, None), (-1, None),
                             ("x", None), (None, None), (lambda: 1 // 0, None)):  # fmt: skip
        answers[:] = [answer]
        assert search(caller, client) == expected
    changes = {
        "closed": lambda: setattr(client, "_closed", True),
        "another database": lambda: setattr(client._config, "db_name", "other"),
        "bound anew": lambda: caller.bind(*bound_to(client, database="other")),
    }
    for change in changes.values():
        client._closed, client._config.db_name = False, "mine"
        caller.bind(*bound_to(client))
        answers[:] = [lambda change=change: change() or 7]
        assert search(caller, client) is None
    client._config.db_name = "other"

    def interrupted():
        raise KeyboardInterrupt

    answers[:] = [interrupted]
    with pytest.raises(KeyboardInterrupt):
        search(caller, client)


class Rude(str):
    """An option's name that takes itself out of the options when it is looked at."""

    __slots__ = ()
    options: dict = {}

    def __hash__(self):
        Rude.options.clear()
        return 1

    __eq__ = str.__eq__


def test_options_of_any_kind():
    plan = _core.MilvusPlan(b"", -1, 0, False)
    client = Client(plan)
    caller = make_caller(unusual={"log_level"})
    caller.bind(*bound_to(client))
    unusual = {"log_level": 1}
    client._plans[_core.plain_key(*ARGUMENTS[:-1], unusual)] = plan
    client._plans[_core.plain_key(*ARGUMENTS[:-1], {"usual": 1})] = plan
    assert search(caller, client, *ARGUMENTS[:-1], {"usual": 1}) == "request"
    for other in (unusual, {1: 2}, {b"x": 1}, [], None, Text(""), {"x": 1}):
        assert search(caller, client, *ARGUMENTS[:-1], other) is None
    for _ in range(100):
        Rude.options = dict.fromkeys(map(Rude, "abc"))
        assert search(caller, client, *ARGUMENTS[:-1], Rude.options) is None
    assert search(caller, client) == "request"


WRONG = {
    "kind": (None, 3, "x"),
    "attributes": ("x", None, 2**70),
    "database": (None, b"mine", Text("mine")),
    "core": (None, object(), _core.GrpcChannel.__new__(_core.GrpcChannel)),
    "interceptors": (None, ()),
    "count": (None, "x"),
    "places": (None, []),
    "metadata": (None, 3, [("a", "b")], (("a",),), (("A", "b"),), (("a", "\n"),), ((1, 2),)),
    "path": (None, "", "x", b"/x/y", "/x y", "/\ud800"),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_wrong_arguments_of_bind(name, value):
    client = Client(_core.MilvusPlan(b"", -1, 0, False))
    caller = known_caller(client)
    with pytest.raises((TypeError, ValueError, OverflowError, RuntimeError)):
        caller.bind(*bound_to(client, **{name: value}))
    assert search(caller, client) == "request"  # as it was


def test_wrong_arguments_of_the_types():
    replies = _search._wire.replies
    caller = make_caller()
    for wrong in ((), (replies,), (replies, set()), (None, set(), print), (replies, [], print),
                  (replies, set(), print, 1)):  # fmt: skip
        with pytest.raises(TypeError):
            _core.MilvusCaller(*wrong)
    for wrong in ((), (1,), (None,) * 10, (None,) * 12):
        with pytest.raises(TypeError):
            caller.search(*wrong)
        with pytest.raises(TypeError):
            caller.bind(*wrong)
    for wrong in ((), (b"",), ("", -1, 0, True), (b"", -1, "x", True), (b"", -1, 0)):
        with pytest.raises(TypeError):
            _core.MilvusPlan(*wrong)
    plan = _core.MilvusPlan(head=b"x", round_decimal="any", timestamp=3, combinable=2)
    assert (plan.head, plan.round_decimal, plan.timestamp) == (b"x", "any", 3)
    assert plan.combinable is True
    for name in ("head", "round_decimal", "timestamp", "combinable"):
        with pytest.raises(AttributeError):
            setattr(plan, name, 1)
    with pytest.raises(RuntimeError):
        plan.__init__(b"yy", -1, 0, False)
    assert plan.head == b"x"
    with pytest.raises(AttributeError):
        _ = _core.MilvusPlan.__new__(_core.MilvusPlan).head


def test_binding_anew_from_what_is_let_go():
    """An object that was known may do anything when it goes; bind itself, for one."""
    client = Client(_core.MilvusPlan(b"", -1, 0, False))
    caller = make_caller()
    seen = []

    class Last(dict):
        def __del__(self):
            seen.append(search(caller, client))
            caller.bind(*bound_to(client))
            seen.append(search(caller, client))

    for _ in range(3):
        caller.bind(*bound_to(client, places=((Last(), "x", 1),)))
        assert search(caller, client) is None
        caller.bind(*bound_to(client))
        assert search(caller, client) == "request"
    assert seen == ["request"] * 6


def test_what_is_bound_is_let_go():
    client = Client(_core.MilvusPlan(b"", -1, 0, False))
    caller = known_caller(client)
    arguments = bound_to(Client(), places=((client, "x", 1),), database="-".join(["d", "b"]))
    held = [each for each in arguments if type(each) not in (int, str) or each == "d-b"]
    before = [sys.getrefcount(each) for each in held]
    for _ in range(10):
        caller.bind(*arguments)
    assert [sys.getrefcount(each) for each in held] != before
    with pytest.raises(TypeError):
        caller.bind(*bound_to(client, places=None))
    caller.bind(*bound_to(client))
    after = [sys.getrefcount(each) for each in held]
    # The class is that of what the client now bound is, too.
    assert [n - (each is Client) for n, each in zip(after, held, strict=True)] == [
        n - (each is Client) for n, each in zip(before, held, strict=True)
    ]


def test_parts_by_any_slice():
    request = milvus_pb2.SearchRequest.FromString(
        _core.milvus_search_request(b"", *_core.milvus_vectors([vector(n) for n in range(5)])[:2],
                                    (caller_encoding([vector(n) for n in range(5)]),))
    )  # fmt: skip
    parts = _search._wire.replies.split(search_reply(request).SerializeToString(), -1, 5)
    numbers = list(range(5))
    for start in (None, 0, 1, 4, -1, 7, -sys.maxsize):
        for stop in (None, 0, 3, -1, sys.maxsize):
            for step in (None, 1, 2, -1, -3, sys.maxsize, -sys.maxsize):
                cut = slice(start, stop, step)
                assert list(map(id_of, parts[cut])) == numbers[cut]
    assert list(map(id_of, parts)) == numbers and id_of(parts[-1]) == 4
    for wrong in (5, -6, sys.maxsize, 2**70):
        with pytest.raises(IndexError):
            parts[wrong]
    with pytest.raises(ValueError, match="zero"):
        parts[::0]
    with pytest.raises(TypeError):
        parts["x"]


class Holder(dict):
    pass


def test_a_caller_is_collected_with_what_it_knows():
    for name in ("handler", "channel", "interceptors", "places", "plan"):
        client, holder = Client(), Holder()
        if name == "plan":
            holder["it"] = _core.MilvusPlan(b"", holder, 0, True)
        else:
            known = {"interceptors": [holder], "places": ((holder, "x", 1),)}.get(name, holder)
            holder["it"] = known_caller(client, **{name: known})
        reference = weakref.ref(holder)
        del holder, client
        known = None
        gc.collect()
        assert reference() is None, name
