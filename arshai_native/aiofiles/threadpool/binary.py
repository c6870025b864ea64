"""The classes of binary files: aiofiles.threadpool.binary."""

from ..base import AsyncBase, AsyncIndirectBase
from .utils import members_of_file

_BUFFERED = members_of_file("read1", "readinto", "detach", "raw")
_READER = members_of_file("peek")
_FILE_IO = members_of_file("readall", "readinto")


@_BUFFERED
class AsyncBufferedIOBase(AsyncBase):
    """The asynchronous io.BufferedWriter and BufferedIOBase."""


@_READER
class AsyncBufferedReader(AsyncBufferedIOBase):
    """The asynchronous io.BufferedReader and BufferedRandom."""


@_FILE_IO
class AsyncFileIO(AsyncBase):
    """The asynchronous io.FileIO."""


@_BUFFERED
class AsyncIndirectBufferedIOBase(AsyncIndirectBase):
    """The indirect asynchronous io.BufferedWriter and BufferedIOBase."""


@_READER
class AsyncIndirectBufferedReader(AsyncIndirectBufferedIOBase):
    """The indirect asynchronous io.BufferedReader and BufferedRandom."""


@_FILE_IO
class AsyncIndirectFileIO(AsyncIndirectBase):
    """The indirect asynchronous io.FileIO."""
