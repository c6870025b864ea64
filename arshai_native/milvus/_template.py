"""Requests in two parts: what is the same from call to call, built by pymilvus once, and the rest.

Messages of protobuf may be put together from pieces: of a field that comes twice the last one
counts, so the fields that a call adds are simply written behind the others.
"""

from __future__ import annotations

from typing import Any

from pymilvus.grpc_gen import milvus_pb2

# Of plans that a client keeps; beyond, the oldest go.
_MOST = 512


class Plans(dict[Any, Any]):
    """What is known of earlier calls, by their frozen arguments."""

    def keep(self, key: Any, plan: Any) -> None:
        while len(self) >= _MOST:
            try:
                self.pop(next(iter(self)), None)
            except (StopIteration, RuntimeError):  # another thread was here
                break
        self[key] = plan


def varint(value: int) -> bytes:
    if value < 0:
        value += 1 << 64
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


class Field:
    """One field of a message, by the number that pymilvus's own description of it gives."""

    __slots__ = ("_bytes", "_integer", "number")

    def __init__(self, message: Any, name: str) -> None:
        self.number: int = message.DESCRIPTOR.fields_by_name[name].number
        self._integer = varint(self.number << 3)
        self._bytes = varint(self.number << 3 | 2)

    def integer(self, value: int) -> bytes:
        return self._integer + varint(value)

    def data(self, value: bytes) -> bytes:
        return self._bytes + varint(len(value)) + value


class _Fields:
    """The fields that calls add."""

    def __init__(self, message: Any, *names: str) -> None:
        for name in names:
            setattr(self, name, Field(message, name))

    def __getattr__(self, name: str) -> Field:
        raise AttributeError(name)


SEARCH = _Fields(milvus_pb2.SearchRequest, "guarantee_timestamp")
HYBRID = _Fields(milvus_pb2.HybridSearchRequest, "requests", "guarantee_timestamp")
QUERY = _Fields(milvus_pb2.QueryRequest, "expr", "guarantee_timestamp")
DELETE = _Fields(milvus_pb2.DeleteRequest, "expr")
INSERT = _Fields(milvus_pb2.InsertRequest, "num_rows", "schema_timestamp")
UPSERT = _Fields(milvus_pb2.UpsertRequest, "num_rows", "schema_timestamp")


def template(request: Any, *fields: str) -> bytes:
    """The request without these fields, which each call adds."""
    head = type(request)()
    head.CopyFrom(request)
    for name in fields:
        head.ClearField(name)
    data: bytes = head.SerializeToString()
    return data


class Timestamp:
    """
    The guarantee timestamp of a plan's calls: pymilvus takes that of the client's last write to
    the collection, unless the consistency level says otherwise.
    """

    __slots__ = ("_field", "_last")

    def __init__(self, field: Field) -> None:
        self._field = field
        self._last = (-1, b"")

    def bytes(self, value: int) -> bytes:
        last = self._last
        if last[0] != value:
            self._last = last = (value, self._field.integer(value))
        return last[1]
