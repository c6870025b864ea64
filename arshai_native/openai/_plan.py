"""Compiles the SDK's types into plans, by which C builds instances (src/py/model.h).

plan_of(T) stands for openai._models.construct_type(type_=T). A plan is compiled on its first use,
one level at a time: a model's fields are plans of their own, not compiled before a document has
that field. What is not understood here becomes "python", which is construct_type() itself.

A compiled plan is the tuple (kind, validates, arguments):

    any, str, int, bool, float, none   ()
    literal  (strings, are they all there is)
    list     (plan of the items,)
    dict     (plan of the values,)
    model    (class, (fields_set, extra, private slots), fields, keys, infos, plan of extras | None)
             field: (name, default, plan, is required, has a default_factory)
             info of a key: (index of its field | -1 | -2, extra if constructed, extra if validated)
    union    (plans but None's, is None among them, is it X | None, tag, tags, choices)
    python   ()

`validates` says that nothing but the kind decides what pydantic makes of a value, inside a union.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

import pydantic
from openai import _models
from openai._compat import PYDANTIC_V1, field_get_default, get_model_config, get_model_fields
from openai._utils import PropertyInfo, is_type_alias_type
from pydantic.fields import FieldInfo

from arshai_native._core import ModelPlan

Spec = tuple[str, bool, tuple[Any, ...]]

PYTHON: Spec = ("python", False, ())
_SCALARS = {str: "str", int: "int", bool: "bool", float: "float", type(None): "none"}
_SLOTS = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
# What says nothing about how a mapping is validated.
_HARMLESS_CONFIG = {"extra", "defer_build", "title", "protected_namespaces"}
_ATOMS = (type(None), bool, int, float, str)
_NO_FIELD, _RESERVED = -1, -2

_plans: dict[int, tuple[Any, ModelPlan]] = {}
_PLANS_MAX = 4096


def plan_of(type_: Any) -> ModelPlan:
    """The plan of a class or any other type; kept. By identity: int | str == str | int."""
    entry = _plans.get(id(type_))
    if entry is None:
        if len(_plans) >= _PLANS_MAX:  # of types made on the fly
            _plans.clear()
        entry = _plans[id(type_)] = (type_, _make(type_, None))
    return entry[1]


def _make(type_: Any, metadata: list[Any] | None) -> ModelPlan:
    return ModelPlan(
        functools.partial(_compile, type_, metadata),
        functools.partial(_models.construct_type, type_=type_, metadata=metadata),
    )


def _child(type_: Any, metadata: list[Any] | None = None) -> ModelPlan:
    """A class has one plan wherever it stands, so a model may contain itself."""
    if isinstance(type_, type) and not metadata:
        return plan_of(type_)
    return _make(type_, metadata)


def _compile(type_: Any, metadata: list[Any] | None) -> Spec:
    if PYDANTIC_V1 or is_type_alias_type(type_):
        return PYTHON
    is_annotated = typing.get_origin(type_) is Annotated
    if metadata:
        if is_annotated:
            return PYTHON
        notes: Iterable[Any] = metadata
    elif is_annotated:
        type_, *notes = typing.get_args(type_)
        if is_type_alias_type(type_):
            return PYTHON
    else:
        notes = ()
    kind, validates, args = _spec(type_)
    return kind, validates and all(_is_harmless(note, kind) for note in notes), args


def _is_harmless(note: Any, kind: str) -> bool:
    """Whether pydantic passes over it, at least where a value fits exactly."""
    if isinstance(note, PropertyInfo):
        return True
    return isinstance(note, pydantic.Strict) and kind in ("str", "int", "bool", "float")


def _spec(type_: Any) -> Spec:
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin is Union or origin is types.UnionType:
        return _union(args)
    if origin is Literal:
        return _literal(args)
    if origin is list and len(args) == 1:
        return "list", True, (_child(args[0]),)
    if origin is dict and len(args) == 2:
        return "dict", args[0] is str, (_child(args[1]),)
    if origin is None:
        if isinstance(type_, type):
            return _class(type_)
        if type_ is Any:
            return "any", True, ()
        if isinstance(type_, TypeVar):
            return "any", False, ()
    return PYTHON


def _class(cls: type) -> Spec:
    if cls in _SCALARS:
        return _SCALARS[cls], True, ()
    if cls is object:
        return "any", True, ()
    if issubclass(cls, _models.BaseModel):
        return _model(cls)
    return PYTHON


def _literal(values: tuple[Any, ...]) -> Spec:
    strings = tuple(dict.fromkeys(value for value in values if type(value) is str))
    validates = all(type(value) in (str, int, bool) for value in values)
    return "literal", validates, (strings, all(type(value) is str for value in values))


# ---- models ----


def _function(method: Any) -> Any:
    """What a class method is made of; None if it is none."""
    return getattr(method, "__func__", None)


def _model(cls: type[_models.BaseModel]) -> Spec:
    fields = get_model_fields(cls)
    if not _constructs_plainly(cls, fields):
        return PYTHON
    names = list(fields)
    aliases = {field.alias or name: i for i, (name, field) in enumerate(fields.items())}
    if len(aliases) != len(fields):
        return PYTHON
    infos = {
        key: (aliases.get(key, _NO_FIELD), key not in fields, key not in aliases)
        for key in (*aliases, *names)
    }
    code = _function(cls.construct).__code__
    for key in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        infos[key] = (_RESERVED, False, False)
    extra = _models._get_extra_fields_type(cls) if _types_extras(cls) else None
    arguments = (
        cls,
        tuple(pydantic.BaseModel.__dict__[slot] for slot in _SLOTS),
        tuple(
            (
                name,
                field_get_default(field),
                _child(field.annotation, field.metadata),
                field.is_required(),
                field.default_factory is not None,
            )
            for name, field in fields.items()
        ),
        tuple(infos),
        tuple(infos.values()),
        None if extra is None else _child(extra),
    )
    return "model", _validates_plainly(cls), arguments


def _constructs_plainly(cls: type[_models.BaseModel], fields: Mapping[str, FieldInfo]) -> bool:
    """Whether BaseModel.construct(), which C does, is what builds it."""
    return (
        _function(cls.construct) is _function(_models.BaseModel.construct)
        and cls.__new__ is object.__new__
        and not getattr(cls, "__abstractmethods__", None)
        and not get_model_config(cls).get("populate_by_name")
        and getattr(cls, "__pydantic_fields_complete__", True)
        and all(_is_simple(field) for field in fields.values())
    )


def _is_simple(field: FieldInfo) -> bool:
    return (
        field.annotation is not None
        and type(field_get_default(field)) in _ATOMS
        and not _has_forward_reference(field.annotation)
    )


def _has_forward_reference(type_: Any) -> bool:
    if isinstance(type_, (str, typing.ForwardRef)):
        return True
    if typing.get_origin(type_) is Literal:
        return False
    if typing.get_origin(type_) is Annotated:
        return _has_forward_reference(typing.get_args(type_)[0])
    return any(_has_forward_reference(argument) for argument in typing.get_args(type_))


def _types_extras(cls: type) -> bool:
    """Whether a class below pydantic's own says of what type extras are."""
    below = cls.__mro__[: cls.__mro__.index(pydantic.BaseModel)]
    return any("__pydantic_extra__" in base.__dict__.get("__annotations__", ()) for base in below)


@functools.cache
def _validates_plainly(cls: type[_models.BaseModel]) -> bool:
    """Whether pydantic validates a mapping by its fields alone, and keeps extras as they are."""
    decorators = cls.__pydantic_decorators__
    config = get_model_config(cls)
    return (
        config.get("extra") == "allow"
        and set(config) <= _HARMLESS_CONFIG
        and not _types_extras(cls)
        and cls.__pydantic_post_init__ is None  # private attributes are made there, too
        and cls.__init__ is pydantic.BaseModel.__init__
        and not cls.__pydantic_root_model__
        and _function(cls.__get_pydantic_core_schema__)
        is _function(pydantic.BaseModel.__get_pydantic_core_schema__)
        and not (
            decorators.validators
            or decorators.field_validators
            or decorators.root_validators
            or decorators.model_validators
        )
        and all(
            field.validation_alias == field.alias
            and not field.validate_default
            and field.discriminator is None
            and getattr(field, "init", None) is not False
            for field in get_model_fields(cls).values()
        )
    )


# ---- unions ----


def _union(args: tuple[Any, ...]) -> Spec:
    variants = [variant for variant in args if variant is not type(None)]
    plans = tuple(_child(variant) for variant in variants)
    is_nullable = len(variants) < len(args)
    constructs_first = len(plans) == 1 and args[0] is variants[0]
    return "union", True, (plans, is_nullable, constructs_first, *_choices(variants, plans))


def _choices(
    variants: list[Any], plans: tuple[ModelPlan, ...]
) -> tuple[str | None, tuple[str, ...], tuple[tuple[ModelPlan, ...], ...]]:
    """
    The key by which most variants tell themselves apart, its values, and for each, then for all
    others, the variants that can be valid at all.
    """
    literals = [_required_literals(variant) for variant in variants]
    counts: dict[str, int] = {}
    for keys in literals:
        for key in keys:
            counts[key] = counts.get(key, 0) + 1
    tag = max(counts, key=lambda key: counts[key], default=None)
    if tag is None or len(variants) < 2:
        return None, (), ()
    tags = tuple(dict.fromkeys(value for keys in literals for value in keys.get(tag, ())))
    choices = [
        tuple(
            plan
            for keys, plan in zip(literals, plans, strict=True)
            if tag not in keys or value in keys[tag]
        )
        for value in (*tags, None)
    ]
    return tag, tags, tuple(choices)


def _required_literals(variant: Any) -> dict[str, tuple[str, ...]]:
    """By key: the strings that alone a model accepts there, and insists on."""
    if (
        not isinstance(variant, type)
        or not issubclass(variant, _models.BaseModel)
        or not getattr(variant, "__pydantic_fields_complete__", True)
        or not _validates_plainly(variant)
    ):
        return {}
    return {
        field.alias or name: typing.get_args(field.annotation)
        for name, field in get_model_fields(variant).items()
        if field.is_required()
        and typing.get_origin(field.annotation) is Literal
        and not field.metadata
        and all(type(value) is str for value in typing.get_args(field.annotation))
    }
