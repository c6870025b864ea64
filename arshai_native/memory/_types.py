"""The data objects of a memory manager, for programs that do not import arshai's."""

from __future__ import annotations

import sys
from typing import Any

# Where arshai keeps its own; looked for, never imported.
_ARSHAI = "arshai.core.interfaces.imemorymanager"

WORKING_MEMORY = "WORKING_MEMORY"


class WorkingMemory:
    """
    One conversation's working memory; stands in for arshai's IWorkingMemory.

    working_memory: the text. ValueError if it is no str.
    """

    __slots__ = ("working_memory",)

    def __init__(self, *, working_memory: str) -> None:
        if not isinstance(working_memory, str):
            raise ValueError(
                f"working_memory must be a string, not {type(working_memory).__name__}"
            )
        self.working_memory = working_memory

    def to_dict(self) -> dict[str, str]:
        return {"working_memory": self.working_memory}

    model_dump = to_dict

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> WorkingMemory:
        return cls(working_memory=data["working_memory"])

    def __eq__(self, other: object) -> bool:
        if not hasattr(other, "working_memory"):
            return NotImplemented
        return self.working_memory == other.working_memory

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"WorkingMemory(working_memory={self.working_memory!r})"


class MemoryInput:
    """
    What a memory operation is about; stands in for arshai's IMemoryInput.

    conversation_id: whose memory. memory_type: an enum member or its name. data: objects with
    working_memory, for store and update. metadata: JSON-serialisable, stored beside it.
    """

    __slots__ = ("conversation_id", "data", "memory_type", "metadata")

    def __init__(
        self,
        conversation_id: str,
        memory_type: Any = WORKING_MEMORY,
        data: list[Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.conversation_id = conversation_id
        self.memory_type = memory_type
        self.data = data
        self.metadata = metadata

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> MemoryInput:
        """
        From the dict that arshai's agents pass: conversation_id, and working_memory (text) or
        data (list of texts, dicts or objects with working_memory), metadata, memory_type
        (WORKING_MEMORY if absent). KeyError 'conversation_id' if that is absent.
        """
        data = fields.get("data")
        if data is None and fields.get("working_memory") is not None:
            data = [fields["working_memory"]]
        return cls(
            fields["conversation_id"],
            fields.get("memory_type") or WORKING_MEMORY,
            None if data is None else [_as_memory(item) for item in data],
            fields.get("metadata"),
        )


def _as_memory(item: Any) -> Any:
    if isinstance(item, dict):
        return WorkingMemory.from_dict(item)
    if isinstance(item, str):
        return WorkingMemory(working_memory=item)
    if not hasattr(item, "working_memory"):
        raise TypeError(
            f"a memory must be a str, a dict or have working_memory, not {type(item).__name__}"
        )
    return item


def working_memory_class() -> type:
    """arshai's IWorkingMemory if the program has imported it, else WorkingMemory."""
    module = sys.modules.get(_ARSHAI)
    return getattr(module, "IWorkingMemory", WorkingMemory)
