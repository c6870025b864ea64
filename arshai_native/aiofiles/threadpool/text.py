"""The classes of text files: aiofiles.threadpool.text."""

from ..base import AsyncBase, AsyncIndirectBase
from .utils import members_of_file

_TEXT = members_of_file("detach", "buffer", "encoding", "errors", "line_buffering", "newlines")


@_TEXT
class AsyncTextIOWrapper(AsyncBase):
    """The asynchronous io.TextIOWrapper."""


@_TEXT
class AsyncTextIndirectIOWrapper(AsyncIndirectBase):
    """The indirect asynchronous io.TextIOWrapper."""
