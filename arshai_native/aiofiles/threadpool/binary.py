"""The classes of binary files: aiofiles.threadpool.binary."""

from ..base import AsyncBase, AsyncIndirectBase
from .utils import members_of_file

_BUFFERED = members_of_file(
    "close",
    "flush",
    "isatty",
    "read",
    "read1",
    "readinto",
    "readline",
    "readlines",
    "seek",
    "seekable",
    "tell",
    "truncate",
    "writable",
    "write",
    "writelines",
    "detach",
    "fileno",
    "readable",
    "closed",
    "raw",
    "name",
    "mode",
)
_FILE_IO = members_of_file(
    "close",
    "flush",
    "isatty",
    "read",
    "readall",
    "readinto",
    "readline",
    "readlines",
    "seek",
    "seekable",
    "tell",
    "truncate",
    "writable",
    "write",
    "writelines",
    "fileno",
    "readable",
    "closed",
    "name",
    "mode",
)
_PEEK = members_of_file("peek")


@_BUFFERED
class AsyncBufferedIOBase(AsyncBase):
    """The asynchronous io.BufferedWriter and BufferedIOBase."""


@_PEEK
class AsyncBufferedReader(AsyncBufferedIOBase):
    """The asynchronous io.BufferedReader and BufferedRandom."""


@_FILE_IO
class AsyncFileIO(AsyncBase):
    """The asynchronous io.FileIO."""


@_BUFFERED
class AsyncIndirectBufferedIOBase(AsyncIndirectBase):
    """The indirect asynchronous io.BufferedWriter and BufferedIOBase."""


@_PEEK
class AsyncIndirectBufferedReader(AsyncIndirectBufferedIOBase):
    """The indirect asynchronous io.BufferedReader and BufferedRandom."""


@_FILE_IO
class AsyncIndirectFileIO(AsyncIndirectBase):
    """The indirect asynchronous io.FileIO."""
