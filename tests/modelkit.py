"""Random documents for the openai SDK's own classes, broken ones too, and the comparison of what
_core.build_model() and the SDK's construct_type() make of them.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import pkgutil
import types
import typing
import warnings
from typing import Annotated, Any, Literal, TypeVar, Union

import openai.pagination
import openai.types
import pydantic
from openai import BaseModel
from openai._models import construct_type

from arshai_native._core import build_model
from arshai_native.openai._plan import plan_of

TEXTS = ["", "a", "stop", "hello world", "été", "日本語\U0001f600", 'q"\\\n', "\ud800", "5", "1.5"]
TEXTS += ["true", "null", "x" * 300, "2024-01-01T00:00:00Z"]
INTEGERS = [0, 1, 2, -1, 7, 1741569952, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**64]
INTEGERS += [10**30]
FLOATS = [0.0, 1.0, -0.5, 0.1, 1e300, 2.0**60, math.nan, math.inf]
OTHERS = [None, True, False, {}, [], [[]], [{}], {"type": "other"}, {"a": 1}, [1.5, 2.5], [None]]


def all_models() -> list[type[BaseModel]]:
    """Every class of openai.types and the pages, in an order of their own."""
    for module in pkgutil.walk_packages(openai.types.__path__, "openai.types."):
        importlib.import_module(module.name)
    found: dict[str, type[BaseModel]] = {}
    rest = [BaseModel]
    while rest:
        for cls in rest.pop().__subclasses__():
            if cls.__module__.startswith(("openai.types", "openai.pagination")):
                found[f"{cls.__module__}.{cls.__qualname__}"] = cls
            rest.append(cls)
    return [found[name] for name in sorted(found)]


# ---- documents ----


class Maker:
    """Documents of a type, as a server would send them."""

    def __init__(self, r: Any) -> None:
        self.r = r

    def value(self, type_: Any, depth: int = 0) -> Any:
        r = self.r
        origin, args = typing.get_origin(type_), typing.get_args(type_)
        if hasattr(type_, "__value__"):
            return self.value(type_.__value__, depth)
        if origin is Annotated:
            return self.value(args[0], depth)
        if origin is Literal:
            return r.choice(args)
        if origin is Union or origin is types.UnionType:
            if type(None) in args and (depth > 5 or r.random() < 0.3):
                return None
            return self.value(r.choice(args), depth + 1)
        if origin is list:
            count = 0 if depth > 6 else r.choice((0, 1, 1, 2, 3))
            return [self.value(args[0] if args else Any, depth + 1) for _ in range(count)]
        if origin is dict:
            count = 0 if depth > 6 else r.randrange(3)
            return {
                r.choice(TEXTS): self.value(args[1] if args else Any, depth + 1)
                for _ in range(count)
            }
        return self.plain(type_, depth)

    def plain(self, type_: Any, depth: int) -> Any:
        r = self.r
        if type_ is type(None):
            return None
        if type_ is bool:
            return r.random() < 0.5
        if type_ is int:
            return r.choice(INTEGERS[:6])
        if type_ is float:
            return r.choice((r.random(), r.choice(FLOATS), r.choice(INTEGERS)))
        if type_ is str:
            return r.choice(TEXTS)
        if isinstance(type_, type) and issubclass(type_, pydantic.BaseModel):
            return self.model(type_, depth)
        if isinstance(type_, TypeVar) and type_.__bound__ is not None:
            return self.value(type_.__bound__, depth)
        return self.anything()

    def model(self, cls: type[pydantic.BaseModel], depth: int) -> dict[str, Any]:
        r = self.r
        document = {}
        for name, field in cls.model_fields.items():
            if field.is_required() or r.random() < (0.6 if depth < 4 else 0.15):
                document[field.alias or name] = self.value(field.annotation, depth + 1)
        if r.random() < 0.1:
            key = r.choice(["extra", "x-y", *cls.model_fields, "model_fields", "schema", "été"])
            document.setdefault(key, self.anything())
        if r.random() < 0.15:
            keys = list(document)
            r.shuffle(keys)
            document = {key: document[key] for key in keys}
        return document

    def anything(self) -> Any:
        return copy.deepcopy(self.r.choice((self.r.choice(TEXTS), *INTEGERS, *FLOATS, *OTHERS)))

    def broken(self, document: Any) -> Any:
        """The document with something wrong at one place."""
        places: list[tuple[Any, Any]] = []
        rest = [document]
        while rest:
            at = rest.pop()
            if isinstance(at, (dict, list)):
                keys = list(at) if isinstance(at, dict) else range(len(at))
                places += [(at, key) for key in keys]
                rest += [at[key] for key in keys]
        if not places or self.r.random() < 0.02:
            return self.anything()
        at, key = self.r.choice(places)
        self.spoil(at, key)
        return document

    def spoil(self, at: Any, key: Any) -> None:
        r, old = self.r, at[key]
        kind = r.randrange(9)
        if kind == 0:
            del at[key]
        elif kind == 1:
            at[key] = None
        elif kind == 2:
            at[key] = [old]
        elif kind == 3:
            at[key] = {"type": old}
        elif kind == 4:
            at[key] = old[0] if isinstance(old, list) and old else str(old)
        elif kind == 5 and isinstance(at, dict):
            name = r.choice(["_fields_set", "extra", "\udfff", "id", "type", "schema_", "self"])
            at[name] = self.anything()
        elif isinstance(old, bool) or old is None:
            at[key] = r.choice((0, 1, "yes", "x", 1.0, {}, []))
        elif isinstance(old, int):
            at[key] = r.choice((float(old) if abs(old) < 2**60 else 1.5, str(old), 10**400, True))
        elif isinstance(old, float):
            at[key] = r.choice((1, str(old), True, 2**53 + 1, 10**400))
        elif isinstance(old, str):
            at[key] = r.choice((1, "other", old + "x", [old], {"value": old}))
        else:
            at[key] = self.anything()


def text_of(r: Any, document: Any) -> bytes:
    text = json.dumps(document, ensure_ascii=r.random() < 0.5)
    if r.random() < 0.1:  # the first key of some object once more
        text = text.replace("{", '{"type": 5, "id": null, ', 1)
    return text.encode("utf-8", "surrogatepass")


# ---- comparison ----


def _fields_set(model: pydantic.BaseModel) -> Any:
    """Sorted; a document may have put anything there."""
    found: Any = model.model_fields_set
    return sorted(found) if isinstance(found, set) else found


def difference(ours: Any, theirs: Any, path: str = "") -> str | None:
    """Where two results differ in anything that can be seen."""
    if type(ours) is not type(theirs):
        return f"{path}: {type(ours)} instead of {type(theirs)}: {ours!r} {theirs!r}"
    if isinstance(theirs, pydantic.BaseModel):
        parts: list[tuple[str, Any, Any]] = [
            (".__dict__", ours.__dict__, theirs.__dict__),
            (".__pydantic_extra__", ours.__pydantic_extra__, theirs.__pydantic_extra__),
            (".__pydantic_private__", ours.__pydantic_private__, theirs.__pydantic_private__),
            (".fields_set", _fields_set(ours), _fields_set(theirs)),
        ]
    elif isinstance(theirs, dict):
        if list(ours) != list(theirs):
            return f"{path}: keys {list(ours)} instead of {list(theirs)}"
        parts = [(f"[{key!r}]", ours[key], theirs[key]) for key in theirs]
    elif isinstance(theirs, (list, tuple)):
        if len(ours) != len(theirs):
            return f"{path}: {len(ours)} items instead of {len(theirs)}"
        parts = [(f"[{i}]", a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    else:
        same = repr(ours) == repr(theirs)  # NaN, -0.0
        return None if same else f"{path}: {ours!r} instead of {theirs!r}"
    return next(filter(None, (difference(a, b, path + name) for name, a, b in parts)), None)


def outcome(call: Any) -> tuple[str, Any]:
    try:
        return "returned", call()
    except Exception as error:
        return "raised", type(error)


def dumped(model: pydantic.BaseModel) -> list[tuple[str, Any]]:
    return [
        outcome(lambda: repr(model.model_dump(warnings=False))),
        outcome(lambda: repr(model.model_dump(warnings=False, by_alias=True, exclude_unset=True))),
        outcome(lambda: model.model_dump_json(warnings=False)),
        outcome(lambda: repr(model)),
    ]


def check(type_: Any, document: bytes, dump: bool = False) -> None:
    """Fails unless both make the same of the document."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = outcome(lambda: construct_type(value=json.loads(document), type_=type_))
        ours = outcome(lambda: build_model(plan_of(type_), document))
        where = f"{type_}: {document!r}"
        assert ours[0] == theirs[0], (where, ours, theirs)
        if theirs[0] == "raised":
            assert ours[1] is theirs[1], (where, ours, theirs)
            return
        found = difference(ours[1], theirs[1])
        assert found is None, (where, found)
        if dump and isinstance(theirs[1], pydantic.BaseModel):
            assert dumped(ours[1]) == dumped(theirs[1]), where
            if "nan" not in repr(theirs[1]).lower():
                assert ours[1] == theirs[1], where
