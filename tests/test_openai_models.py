# ruff: noqa: UP006, UP007, UP035, UP045 (the SDK spells its types so)
"""_core.build_model() against the SDK's construct_type(): random documents, good and broken, for
every class of the SDK, and types made to be difficult.
"""

import datetime
import gc
import json
import math
import random
import threading
import typing
import weakref
from typing import Annotated, Any, Dict, Generic, List, Literal, Optional, TypeVar, Union

import modelkit
import openai.pagination
import pydantic
import pytest
from modelkit import Maker, check, text_of
from openai import BaseModel
from openai._models import GenericModel, construct_type
from openai._utils import PropertyInfo
from openai.types import CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.shared import CompoundFilter
from typing_extensions import TypeAliasType, TypedDict

from arshai_native._core import ModelPlan, build_model
from arshai_native.openai import _plan
from arshai_native.openai._plan import plan_of

MODELS = modelkit.all_models()
PARTS = 8


def test_all_classes_are_there():
    assert len(MODELS) > 800 and ChatCompletion in MODELS and Response in MODELS


@pytest.mark.parametrize("part", range(PARTS))
def test_documents_of_every_class(part):
    """One good document, then broken ones."""
    r = random.Random(part)
    maker = Maker(r)
    for cls in MODELS[part::PARTS]:
        for errors in (0, 0, 0, 1, 1, 1, 2, 2, 3, 4) * 2:
            document = maker.value(cls)
            for _ in range(errors):
                document = maker.broken(document)
            check(cls, text_of(r, document))


LARGE = [ChatCompletion, ChatCompletionChunk, Response, ResponseStreamEvent, CompoundFilter]


@pytest.mark.parametrize("type_", LARGE, ids=str)
def test_documents_of_large_types(type_):
    """Also what the results say of themselves."""
    r = random.Random(str(type_))
    maker = Maker(r)
    for errors in (0, 0, 1, 2, 3) * 30:
        document = maker.value(type_)
        for _ in range(errors):
            document = maker.broken(document)
        check(type_, text_of(r, document), dump=errors < 2)


def test_dumps_of_a_sample():
    r = random.Random(7)
    maker = Maker(r)
    for cls in r.sample(MODELS, 60):
        check(cls, text_of(r, maker.value(cls)), dump=True)
        check(cls, text_of(r, maker.broken(maker.value(cls))), dump=True)


# ---- types made to be difficult ----

T = TypeVar("T")
Bound = TypeVar("Bound", bound=BaseModel)


class Leaf(BaseModel):
    name: str
    size: Optional[int] = None


class Wide(BaseModel):
    """Unions where more than one variant fits, or nearly."""

    number: Optional[Union[int, float]] = None
    turned: Union[float, int, None] = None
    real: Optional[float] = None
    mixed: Union[str, int, List[str], Dict[str, int], None] = None
    truth: Union[bool, int, None] = None
    order: Union[int, bool, None] = None
    anything: Union[Leaf, object, None] = None
    either: Union[Leaf, "Other", None] = None
    leaves: Union[List[Leaf], Leaf, str, None] = None
    one_of: Literal["a", 1, True, "b"] = "a"
    perhaps: Optional[Literal["a", 1, True]] = None
    many: Optional[Dict[str, Union[str, float, bool]]] = None
    nested: Optional[List[List[Optional[Leaf]]]] = None
    vectors: Optional[List[List[float]]] = None
    whole: Optional[List[int]] = None
    first_none: Union[None, Leaf] = None
    nothing: None = None


class Other(BaseModel):
    name: Optional[str] = None
    extra_size: int = 3


Wide.model_rebuild()


class Renamed(BaseModel):
    schema_: Optional[Dict[str, object]] = pydantic.Field(alias="schema", default=None)
    from_: str = pydantic.Field(alias="from")
    to: Optional["Renamed"] = None


class Crossed(BaseModel):
    """A name that is another field's alias."""

    a: Optional[int] = pydantic.Field(alias="b", default=None)
    b: Optional[int] = pydantic.Field(alias="c", default=None)


class Holder(BaseModel):
    crossed: Optional[Crossed] = None
    renamed: Optional[Renamed] = None


class Times(BaseModel):
    at: datetime.datetime
    on: datetime.date
    later: Optional[datetime.datetime] = None
    times: List[datetime.datetime]


class Factory(BaseModel):
    items: List[str] = pydantic.Field(default_factory=list)
    names: Dict[str, str] = {}
    text: str = "default"


class Made(BaseModel):
    """Without anything else that only Python can build."""

    items: List[str] = pydantic.Field(default_factory=list)
    names: Optional[Dict[str, str]] = pydantic.Field(default_factory=dict)


class Private(BaseModel):
    name: str
    _secret: int = pydantic.PrivateAttr(default=5)


class PostInit(BaseModel):
    name: str

    def model_post_init(self, context: Any) -> None:
        self.name = self.name.upper()


class Checked(BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def upper(cls, value: str) -> str:
        return value.upper()


class Before(BaseModel):
    type: Literal["before"]

    @pydantic.model_validator(mode="before")
    @classmethod
    def put_type(cls, value: Any) -> Any:
        return {**value, "type": "before"} if isinstance(value, dict) else value


class After(BaseModel):
    type: Literal["after"]
    n: Optional[int] = None


class Limits(BaseModel):
    n: int = pydantic.Field(gt=10)
    s: Annotated[str, pydantic.StringConstraints(to_upper=True)] = "x"


class Initialised(BaseModel):
    name: str

    def __init__(self, **data: Any) -> None:
        super().__init__(**{**data, "name": "init"})


class Built(BaseModel):
    name: str

    @classmethod
    def construct(cls, _fields_set=None, **values):
        return super().construct(_fields_set, **values, built=True)

    model_construct = construct


class Stripped(BaseModel):
    model_config = pydantic.ConfigDict(str_strip_whitespace=True, extra="allow")
    name: str


class Forbidding(BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str


class ByName(BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)
    name: str = pydantic.Field(alias="the-name")


class TypedExtra(BaseModel):
    name: Optional[str] = None
    __pydantic_extra__: Dict[str, Leaf]


class Page(GenericModel, Generic[T]):
    data: List[T]
    first: Optional[T] = None


class Tree(BaseModel):
    name: str
    children: Optional[List["Tree"]] = None
    parent: Optional["Tree"] = None


class Plain(pydantic.BaseModel):
    name: str


class Mapping(TypedDict):
    name: str


class Serialized(BaseModel):
    name: str

    @pydantic.field_serializer("name")
    def shout(self, value: str) -> str:
        return f"{value}!"


Tree.model_rebuild()
Renamed.model_rebuild()
DISCRIMINATED = Annotated[Union[Before, After, Leaf], PropertyInfo(discriminator="type")]
ALIAS = TypeAliasType("ALIAS", Union[str, List["ALIAS"], Leaf])


class Everything(BaseModel):
    """Each within a union, so that pydantic validates it."""

    wide: Optional[Wide] = None
    renamed: Optional[Renamed] = None
    crossed: Optional[Crossed] = None
    times: Optional[Times] = None
    factory: Optional[Factory] = None
    made: Optional[Made] = None
    private: Optional[Private] = None
    post: Optional[PostInit] = None
    checked: Optional[Checked] = None
    discriminated: Optional[DISCRIMINATED] = None
    limits: Optional[Limits] = None
    initialised: Optional[Initialised] = None
    built: Optional[Built] = None
    stripped: Optional[Stripped] = None
    forbidding: Optional[Forbidding] = None
    by_name: Optional[ByName] = None
    typed: Optional[TypedExtra] = None
    page: Optional[Page[Leaf]] = None
    tree: Optional[Tree] = None
    plain: Optional[Plain] = None
    mapping: Optional[Mapping] = None
    serialized: Optional[Serialized] = None


DIFFICULT = [
    Leaf, Wide, Renamed, Crossed, Holder, Times, Factory, Made, Private, PostInit, Checked, Before,
    After, Limits, Initialised, Built, Stripped, Forbidding, ByName, TypedExtra, Page[Leaf], Page,
    Page[int], Tree, Plain, Mapping, Serialized, Everything, Optional[Everything], DISCRIMINATED,
    ALIAS, object, Any, str, int, float, bool, None, type(None), list, dict, List, Dict, tuple,
    bytes, set,
    List[float], List[int], List[object], List[Any], List[Optional[float]], List[List[float]],
    List[Leaf], list[Leaf], List[DISCRIMINATED], List[datetime.datetime], List[Union[int, float]],
    Dict[str, Leaf], dict[str, float], Dict[str, object], Dict[int, Leaf], Dict[str, DISCRIMINATED],
    Union[Leaf, str], Union[str, Leaf], Leaf | None, Union[None, int], Union[List[Leaf], Leaf],
    Optional[Dict[str, Leaf]], Optional[Dict[int, str]], Union[Dict[str, int], Dict[str, str]],
    Literal["a", 1], Literal["a", None], Annotated[Leaf, "note"], Annotated[Leaf | None, "note"],
    List[Annotated[int, pydantic.Field(gt=3)]], Optional[Annotated[int, pydantic.Field(gt=3)]],
    Optional[Annotated[float, pydantic.Strict()]], datetime.datetime, datetime.date, T, Bound,
    Optional[T], typing.Tuple[int, str], Optional[typing.Tuple[int, str]], typing.Iterable[Leaf],
    Optional[typing.Iterable[int]], openai.pagination.SyncPage[Model],
    openai.pagination.AsyncCursorPage[Leaf], Optional[openai.pagination.AsyncPage[Leaf]],
    Union[Annotated[str, pydantic.Strict()], Annotated[bool, pydantic.Strict()], float],
    type("Local", (Leaf,), {"__annotations__": {"more": Optional[int]}, "more": None}),
]  # fmt: skip

VALUES: list[Any] = [
    None,
    True,
    0,
    1,
    -5,
    2**53 + 1,
    2**63,
    10**400,
    1.0,
    1.5,
    math.inf,
    "",
    "5",
    "a",
]
VALUES += ["true", "2024-02-03", "2024-02-03T04:05:06Z", 1700000000, "été", "\ud800", [], {}, [[]]]
VALUES += [[1.5, 2.5], [1.5, 2], [1.5, None], [1.0, 2.0], ["a", 1], [{}], [{"name": "x"}, 5]]
VALUES += [[[1.5], [2.5, 3.5]], {"name": "x"}, {"name": 5}, {"name": None}, {"a": 1}, {"a": 1.5}]
VALUES += [{"name": "x", "size": "7"}, {"name": "x", "size": 7.0, "z": 1}, {"type": "before"}]
VALUES += [{"type": "after"}, {"type": "after", "n": "x"}, {"type": "x", "name": "y"}, {"n": 3}]
VALUES += [{"b": 1, "c": 2, "a": 3}, {"from": "x", "from_": 5, "schema": {}, "schema_": 1}]
VALUES += [{"the-name": "x"}, {"name": " x "}, {"x": {"name": "y"}}, {"\ud800": "x", "name": "y"}]
VALUES += [{"_fields_set": ["name"], "name": "x"}, {"_BaseModel__cls": 1}, {"self": 1, "cls": 2}]
VALUES += [{"data": [{"name": "x"}], "first": {"name": 7}}, {"crossed": {"b": 1, "a": 2, "c": 3}}]
VALUES += [{"at": "2024-02-03T04:05:06Z", "on": "2024-02-03", "times": [1, "x"], "later": "5"}]
VALUES += [{"name": "x", "children": [{"name": "y", "children": []}], "parent": {"name": 1}}]


@pytest.mark.parametrize("type_", DIFFICULT, ids=str)
def test_difficult_types(type_):
    r = random.Random(str(type_))
    maker = Maker(r)
    for value in VALUES:
        check(type_, json.dumps(value).encode(), dump=True)
    for errors in (0, 0, 0, 1, 1, 2) * 4:
        document = maker.value(type_)
        for _ in range(errors):
            document = maker.broken(document)
        check(type_, text_of(r, document), dump=True)


def test_difficult_types_inside_of_unions():
    for name in Everything.model_fields:
        for value in VALUES:
            check(Everything, json.dumps({name: value}).encode(), dump=True)
    for name in Wide.model_fields:
        for value in VALUES:
            check(Wide, json.dumps({name: value}).encode())
            check(Optional[Wide], json.dumps({name: value}).encode())


def test_metadata_of_fields_does_not_matter_at_the_top():
    class Limited(BaseModel):
        n: Optional[Annotated[int, pydantic.Field(gt=3)]] = None
        m: Annotated[Optional[int], pydantic.Field(gt=3)] = None
        k: Optional[int] = pydantic.Field(gt=3, default=None)

    for name in "nmk":
        for value in VALUES:
            check(Limited, json.dumps({name: value}).encode())
            check(Optional[Limited], json.dumps({name: value}).encode())


def test_deep_trees():
    document: dict[str, Any] = {"name": "leaf"}
    for depth in range(90):
        document = {"name": "x", "children" if depth % 2 else "parent": document}
        if depth % 2:
            document["children"] = [document["children"]]
    check(Tree, json.dumps(document).encode())
    for i in range(400):
        document = {"name": i, "parent": document}
    result = []
    for build in (
        build_model,
        lambda plan, text: construct_type(value=json.loads(text), type_=Tree),
    ):
        try:
            result.append(type(build(plan_of(Tree), json.dumps(document).encode())))
        except RecursionError:
            result.append(RecursionError)
    assert set(result) <= {Tree, RecursionError}


# ---- documents ----


def test_vectors_are_lists_of_floats():
    vector = [math.sin(i) for i in range(1536)]
    document = {"object": "list", "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    document["data"] = [{"object": "embedding", "index": 0, "embedding": vector}]
    built = build_model(plan_of(CreateEmbeddingResponse), json.dumps(document).encode())
    assert type(built) is CreateEmbeddingResponse and built.data[0].embedding == vector
    check(CreateEmbeddingResponse, json.dumps(document).encode(), dump=True)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b'{"a": tru}', b"[1,]", b"\xff", b"\x80{}", "é!".encode(), b"{} x", b'"\\x"'],
)
def test_invalid_json_raises_as_json_does(text):
    with pytest.raises(ValueError) as theirs:
        json.loads(text)
    with pytest.raises(ValueError) as ours:
        build_model(plan_of(Leaf), text)
    assert type(ours.value) is type(theirs.value) and str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_other_encodings_as_json_does(encoding):
    check(Leaf, '{"name": "é", "size": 3}'.encode(encoding))


def test_repeated_keys():
    check(Leaf, b'{"size": 1, "name": "a", "x": 1, "size": 2, "name": "b", "x": [], "name": null}')
    check(Optional[Leaf], b'{"name": 1, "x": 1, "name": "b", "x": [], "x": 2}')
    check(Optional[Leaf], b'{"name": "b", "name": 1}')
    check(Dict[str, int], b'{"a": "x", "b": 2, "a": 1}')
    check(Optional[Dict[str, int]], b'{"a": "x", "b": 2, "a": 1}')
    check(DISCRIMINATED, b'{"type": "before", "type": "after"}')


# ---- speed is not lost unseen ----


def test_no_class_of_the_sdk_is_left_to_python():
    assert [cls for cls in MODELS if plan_of(cls).kind != "model"] == []
    # Pages have private attributes; parsed completions type variables, which is another matter.
    rest = {cls.__module__ for cls in MODELS if not plan_of(cls).validates}
    assert rest <= {"openai.pagination", *(m for m in rest if m.startswith("openai.types.evals"))}


MESSAGE = {"role": "assistant", "content": "Hi", "refusal": None, "annotations": []}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHAT = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "service_tier": "new"}
COMMON = [
    (ChatCompletion, {**CHAT, "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 0}},
                      "choices": [{"index": 0, "message": {**MESSAGE, "tool_calls": [CALL]},
                                   "logprobs": None, "finish_reason": "stop", "extra": {"a": 1}}]}),
    (ChatCompletion, {"choices": [{"message": {"role": "other"}}], "usage": {"total_tokens": 1}}),
    (ChatCompletionChunk, {**CHAT, "object": "chat.completion.chunk",
                           "choices": [{"index": 0, "delta": {"content": "a"},
                                        "finish_reason": None}]}),
    (ChatCompletionChunk, {"choices": [], "usage": USAGE}),
    (CreateEmbeddingResponse, {"object": "list", "data": [{"embedding": [0.5, 1.5], "index": 0}]}),
    (ResponseStreamEvent, {"type": "response.output_text.delta", "content_index": 0, "delta": "a",
                           "item_id": "i", "logprobs": [], "output_index": 0,
                           "sequence_number": 1}),
    (Response, {"id": "r", "temperature": 1, "tools": [], "model": "m", "metadata": {"k": "v"},
                "output": [{"type": "message", "id": "m", "role": "assistant",
                            "status": "completed",
                            "content": [{"type": "output_text", "text": "a", "annotations": []}]}],
                "text": {"format": {"type": "text"}}}),
]  # fmt: skip


def test_common_documents_need_no_python(monkeypatch):
    for type_, document in COMMON:
        check(type_, json.dumps(document).encode(), dump=True)

    def refused(**options):
        raise AssertionError(f"construct_type() was called: {options}")

    monkeypatch.setattr(_plan, "_plans", {})
    monkeypatch.setattr(_plan._models, "construct_type", refused)
    for type_, document in COMMON:
        build_model(plan_of(type_), json.dumps(document).encode())


# ---- instances are like any others ----


def test_instances_are_alive():
    document = json.dumps(COMMON[0][1]).encode()
    built = build_model(plan_of(ChatCompletion), document)
    theirs = construct_type(value=json.loads(document), type_=ChatCompletion)
    for mine, other in ((built, theirs), (built.usage, theirs.usage)):
        for part in ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__"):
            assert gc.is_tracked(getattr(mine, part)) == gc.is_tracked(getattr(other, part)), part
        assert gc.is_tracked(mine)
    built.model = "other"
    built._request_id = "id"
    assert built.model_dump()["model"] == "other" and built._request_id == "id"
    assert built.model_copy(deep=True) == built
    again = build_model(plan_of(ChatCompletion), document)
    assert again.model == "m" and again.model_fields_set is not built.model_fields_set
    again.model_fields_set.add("new")
    assert "new" not in build_model(plan_of(ChatCompletion), document).model_fields_set
    built.itself = built
    reference = weakref.ref(built)
    del built
    gc.collect()
    assert reference() is None


# ---- plans ----


def test_plans_are_kept_by_identity():
    assert plan_of(ChatCompletion) is plan_of(ChatCompletion)
    first, second = Union[int, float], Union[float, int]
    assert first == second
    assert repr(build_model(plan_of(first), b"1")) == "1"
    check(List[second], b"[1, 1.5]")


def test_types_made_on_the_fly_do_not_pile_up():
    for i in range(_plan._PLANS_MAX + 10):
        plan_of(Literal[f"value {i}"])
    assert len(_plan._plans) <= _plan._PLANS_MAX
    check(Leaf, b'{"name": "x"}')


BAD_SPECS: list[Any] = [
    None, (), ("list",), ("nothing", True, ()), ("list", True, (5,)),
    ("literal", True, (("a", 5), 1)),
    ("literal", True, (("a", "a"), True)), ("union", True, ((), True, True, None, (), ())),
    ("union", True, ((1,), True, True, None, (), ())), ("model", True, (Leaf,)),
    ("model", True, (Leaf, (1, 2, 3), (), (), (), None)), ("python", True, []), ("", True, ()),
    ("model", True, (int, tuple(pydantic.BaseModel.__dict__[s] for s in _plan._SLOTS),
                     (), (), (), None)),
    ("model", True, (Leaf, tuple(pydantic.BaseModel.__dict__[s] for s in _plan._SLOTS),
                     (("a", None, ModelPlan(int, int), False, False),), ("a",), ((5, 0, 0),),
                     None)),
    ("literal", True, (("\ud800",), True)),
]  # fmt: skip


@pytest.mark.parametrize("spec", BAD_SPECS, ids=str)
def test_what_is_no_plan(spec):
    plan = ModelPlan(lambda: spec, dict)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError, SystemError)):
            build_model(plan, b"{}")
    with pytest.raises(TypeError):
        build_model(spec, b"{}")
    with pytest.raises(TypeError):
        build_model(plan_of(Leaf), "{}")
    with pytest.raises(TypeError):
        build_model(plan_of(Leaf))


def test_a_compiler_that_raises_is_asked_again():
    answers = iter([KeyError("once"), ("any", True, ())])

    def compile():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    plan = ModelPlan(compile, dict)
    with pytest.raises(KeyError):
        build_model(plan, b"1")
    assert build_model(plan, b"1") == 1 and plan.kind == "any"


def test_threads_that_compile_the_same_plan():
    failures: list[BaseException] = []
    for _ in range(5):
        _plan._plans.clear()
        plan = plan_of(ChatCompletion)
        document = json.dumps(COMMON[0][1]).encode()
        start = threading.Barrier(4)

        def work(plan=plan, document=document, start=start):
            try:
                start.wait()
                for _ in range(20):
                    assert type(build_model(plan, document).choices[0].message.tool_calls) is list
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_plans_that_refer_to_each_other_are_freed():
    plan = plan_of(Tree)
    build_model(plan, b'{"name": "x", "children": [{"name": "y"}], "parent": {"name": "z"}}')

    def count() -> int:
        gc.collect()
        return sum(type(each) is ModelPlan for each in gc.get_objects())

    before = count()
    del plan
    _plan._plans.clear()
    assert count() < before
    check(Tree, b'{"name": "x", "children": [{"name": "y"}], "parent": {"name": "z"}}')
