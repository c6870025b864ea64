"""What is asked before a peer's method is served here: keys of arguments, and classes' tags."""

import itertools

import pytest

from arshai_native import _core

DIFFERENT = [
    None, True, False, 0, 1, -1, 2**62, -(2**63), 0.0, -0.0, 1.0, 0.5, "", "1", "None", "a", "ä",
    "\0", [], (), {}, [1], (1,), [[1]], [1, 1], {"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"},
    {"a": {"b": []}}, {"a": {"b": ()}}, {"a": {}, "b": 1}, {"b": 1, "a": {}}, ["a", "b"], ["ab"],
]  # fmt: skip


def test_same_values_have_the_same_key_and_others_another():
    keys = [_core.plain_key(value) for value in DIFFERENT]
    assert all(type(key) is bytes for key in keys)
    assert len(set(keys)) == len(keys)
    copies = [_core.plain_key(eval(repr(value))) for value in DIFFERENT]
    assert copies == keys


def test_several_values_are_told_from_one():
    keys = [_core.plain_key(*values) for values in itertools.product(DIFFERENT, repeat=2)]
    keys += [_core.plain_key(list(values)) for values in itertools.product(DIFFERENT, repeat=2)]
    assert len(set(keys)) == len(keys)
    assert _core.plain_key() == b""


class Number(int):
    pass


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        b"bytes",
        {1},
        object(),
        Number(1),
        {1: 2},
        {"a": [object()]},
        "\ud800",
        {"\ud800": 1},
        "x" * 100_000,
        ["x" * 1000] * 100,
        1j,
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_what_has_no_key(value):
    assert _core.plain_key(value) is None
    assert _core.plain_key("a", [value]) is None


def test_what_contains_itself_has_no_key():
    value = []
    value.append(value)
    assert _core.plain_key(value) is None
    mapping = {}
    mapping["a"] = {"b": mapping}
    assert _core.plain_key(mapping) is None


def test_a_class_has_a_tag_until_it_or_its_base_is_changed():
    class Base:
        pass

    class Derived(Base):
        pass

    tag = _core.type_tag(Derived)
    assert tag and _core.type_tag(Derived) == tag
    Base.something = 1
    assert _core.type_tag(Derived) != tag
    tag = _core.type_tag(Derived)
    Derived.other = 1
    assert _core.type_tag(Derived) != tag
    with pytest.raises(TypeError):
        _core.type_tag(3)


def test_places_are_as_they_were_or_not():
    class Kind:
        pass

    value = [1]
    names = {"a": value}
    places = ((Kind, _core.type_tag(Kind)), (names, "a", value))
    assert _core.unchanged(()) and _core.unchanged(places)
    names["a"] = [1]
    assert not _core.unchanged(places)
    del names["a"]
    assert not _core.unchanged(places)
    names["a"] = value
    assert _core.unchanged(places)
    Kind.something = 1
    assert not _core.unchanged(places)
    assert not _core.unchanged(((Kind, 0),))
    for wrong in ([], (1,), ((),), ((Kind,),), ((Kind, "x"),), ((Kind, -1),), ((names, 1),)):
        with pytest.raises((TypeError, OverflowError)):
            _core.unchanged(wrong)
    with pytest.raises(TypeError):
        _core.unchanged(((names, [], 1),))
