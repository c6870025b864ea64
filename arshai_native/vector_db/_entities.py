"""Documents as rows of a collection, by arshai's rules; and what its own cannot insert.

Of those rules one is not kept: in metadata a float stays a number (arshai makes a string of it).
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

# Milvus's numbers of its types.
_FLOAT, _DOUBLE, _VARCHAR, _JSON = 10, 11, 21, 23

_ATOMS = frozenset((str, int, float, bool, type(None)))
_TIMES = (datetime.date, datetime.time)  # a datetime is a date
_TEXTS = (str, uuid.UUID, *_TIMES, enum.Enum)
_ABSENT: Any = object()


def plain(value: Any) -> Any:
    """The value in terms of JSON's types; what is none of ours to translate stays as it is."""
    if type(value) in _ATOMS:
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, dict):
        for each in value.values():
            if type(each) not in _ATOMS:
                return {key: plain(each) for key, each in value.items()}
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if isinstance(value, (uuid.UUID, bytes)):
        return str(value)
    if isinstance(value, _TIMES):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if type(value).__module__ == "numpy":
        return plain(value.tolist())
    return value


def _json(value: Any, is_text: bool) -> Any:
    """
    A value of a JSON field as pymilvus takes it, to whom a string is JSON already.

    is_text: whether a string is meant as one. Otherwise it is taken for JSON if it can be, as
    arshai does.
    """
    import orjson

    value = plain(value)
    if value is None:
        return "null"
    if type(value) is not str:
        return value
    if not is_text:
        try:
            orjson.loads(value)
            return value
        except ValueError:
            pass
    return orjson.dumps(value).decode()


def _text(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        value = value.value
    if hasattr(value, "hex"):
        return str(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, decimal.Decimal) else value


def _may_be_text(annotation: Any) -> bool:
    """Whether a field that is declared so may hold what is written as a string."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return issubclass(annotation, _TEXTS)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_may_be_text(each) for each in typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Literal:
        return any(isinstance(each, str) for each in typing.get_args(annotation))
    return False


def _default(model: Any, name: str, annotation: Any) -> Any:
    """What a field is that is not given; _ABSENT if it has to be."""
    field = getattr(model, "model_fields", {}).get(name)
    if field is not None and not field.is_required():
        return field.get_default(call_default_factory=True)
    if type(None) in typing.get_args(annotation):
        return None
    return _ABSENT


def annotations_of(config: Any) -> dict[str, Any]:
    """The fields that the model has besides the collection's own, as they are declared."""
    if config.schema_model is None:
        return {}
    own = {
        config.pk_field, config.text_field, config.metadata_field, config.sparse_field,
        config.dense_field,
    }  # fmt: skip
    declared = config.schema_model.__annotations__
    return {name: kind for name, kind in declared.items() if name not in own}


def _resolved(model: Any) -> dict[str, Any]:
    """Annotations that are strings as what they stand for, if that can be found out."""
    try:
        return typing.get_type_hints(model)
    except Exception:  # whatever a name in somebody else's module may raise
        return {}


def _null(name: str) -> ValueError:
    # pymilvus sends it as a column without values, which ends milvus-lite 2.5.1.
    return ValueError(f"Field '{name}' is None, and the collection takes no null there.")


class _Extra:
    """One field of the schema model."""

    def __init__(self, model: Any, name: str, annotation: Any, field: dict[str, Any]) -> None:
        self.name = name
        self._kind = int(field["type"]) if field else None
        self._takes_null = not field or field.get("nullable") or field.get("default_value")
        self._is_text = _may_be_text(annotation)
        default = _default(model, name, annotation)
        if default is None and self._kind != _JSON:
            default = _ABSENT  # only JSON has a way to write it
        self.default = default

    def value(self, value: Any) -> Any:
        kind = self._kind
        if value is None and kind != _JSON and not self._takes_null:
            raise _null(self.name)
        if kind == _JSON:
            return _json(value, self._is_text)
        if kind == _VARCHAR:
            return _text(value)
        if kind in (_FLOAT, _DOUBLE):
            return _number(value)
        return plain(value)


def _is_column(values: Any, count: int) -> bool:
    """Whether these are vectors of that many rows, and slices of them are, too."""
    if type(values) is list:
        return len(values) >= count
    # A csr_array's rows are refused by pymilvus. SciPy need not be there.
    if type(values).__name__ != "csr_matrix" and type(values) is not np.ndarray:
        return False
    return len(values.shape) == 2 and values.shape[0] >= count


class Documents:
    """Rows of a collection; their vectors are in them, or beside them as whole columns."""

    def __init__(self, rows: list[dict[str, Any]], vectors: dict[str, Any]) -> None:
        self._rows = rows
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, start: int, end: int) -> list[dict[str, Any]]:
        rows = self._rows[start:end]
        for name, values in self._vectors.items():
            rows = [row | {name: values[i]} for i, row in enumerate(rows, start)]
        return rows

    def columns(self, start: int, end: int) -> dict[str, Any] | None:
        """None if they are in the rows, or these have not all the same fields."""
        rows = self._rows[start:end]
        names = rows[0].keys()
        if not self._vectors or any([row.keys() != names for row in rows]):
            return None
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in names}
        for name, values in self._vectors.items():
            columns[name] = values[start : start + len(rows)]
        return columns


class Rows:
    """
    Makes rows of documents for one collection.

    fields: what the server says of each of the collection's.
    """

    def __init__(self, config: Any, fields: list[dict[str, Any]]) -> None:
        self._text_field = config.text_field
        self._metadata_field = config.metadata_field
        self._dense_field = config.dense_field
        self._sparse_field = config.sparse_field if config.is_hybrid else None
        declared = annotations_of(config)
        self._extras = []
        if declared:
            model = config.schema_model
            resolved = _resolved(model)
            by_name = {field["name"]: field for field in fields}
            self._extras = [
                _Extra(model, name, resolved.get(name, annotation), by_name.get(name, {}))
                for name, annotation in declared.items()
            ]

    def row(self, document: dict[str, Any]) -> dict[str, Any]:
        """All but the vectors."""
        name = self._text_field
        if "content" in document:
            row = {name: document["content"]}
        elif name in document:
            row = {name: document[name]}
        else:
            raise KeyError(f"Text field 'content' or '{name}' not found in data.")
        if row[name] is None:
            raise _null(name)
        name = self._metadata_field
        metadata = document["metadata"] if "metadata" in document else document.get(name)
        row[name] = {} if metadata is None else plain(metadata)
        for extra in self._extras:
            value = document.get(extra.name, _ABSENT)
            if value is _ABSENT:
                value = extra.default
                if value is _ABSENT:
                    continue
            row[extra.name] = extra.value(value)
        return row

    def _vectors(self, embedding: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """By the names of their fields."""
        if "dense" in embedding:
            yield self._dense_field, embedding["dense"]
        if self._sparse_field is not None and "sparse" in embedding:
            yield self._sparse_field, embedding["sparse"]

    def one(self, document: dict[str, Any], embedding: dict[str, Any]) -> Documents:
        """embedding: one dense vector, one sparse row."""
        row = self.row(document)
        for name, vector in self._vectors(embedding):
            row[name] = vector
        return Documents([row], {})

    def many(self, documents: list[dict[str, Any]], embedding: dict[str, Any]) -> Documents:
        """embedding: a dense vector and a sparse row for each document."""
        vectors = [pair for pair in self._vectors(embedding) if pair[1] is not None]
        together = all(_is_column(values, len(documents)) for _, values in vectors)
        rows = []
        for index, document in enumerate(documents):
            row = self.row(document)
            if not together:
                for name, values in vectors:
                    row[name] = values[index]
            rows.append(row)
        return Documents(rows, dict(vectors) if together else {})
