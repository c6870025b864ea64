"""Conversation memory in Redis for the arshai framework.

Importing this module imports neither arshai nor redis-py.
"""

from arshai_native.memory._manager import AsyncRedisMemoryManager
from arshai_native.memory._types import MemoryInput, WorkingMemory

__all__ = ["AsyncRedisMemoryManager", "MemoryInput", "WorkingMemory"]
