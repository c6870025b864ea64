"""Functions of the os module on native workers: aiofiles.os."""

import os
import sys
from asyncio import AbstractEventLoop
from concurrent.futures import Executor
from typing import Any, AnyStr, overload

from . import ospath as path
from .base import wrap

_Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_Loop = AbstractEventLoop | None
_Executor = Executor | None

__all__ = [
    "path",
    "stat",
    "rename",
    "renames",
    "replace",
    "remove",
    "unlink",
    "mkdir",
    "makedirs",
    "rmdir",
    "removedirs",
    "symlink",
    "readlink",
    "listdir",
    "scandir",
    "access",
    "wrap",
    "getcwd",
    "link",
    "sendfile",
    "statvfs",
]

async def access(
    path: int | _Path,
    mode: int,
    *,
    dir_fd: int | None = None,
    effective_ids: bool = False,
    follow_symlinks: bool = True,
    loop: _Loop = ...,
    executor: _Executor = ...,
) -> bool: ...
async def getcwd(*, loop: _Loop = ..., executor: _Executor = ...) -> str: ...
@overload
async def listdir(
    path: int | str | os.PathLike[str] | None = None,
    *,
    loop: _Loop = ...,
    executor: _Executor = ...,
) -> list[str]: ...
@overload
async def listdir(
    path: bytes | os.PathLike[bytes], *, loop: _Loop = ..., executor: _Executor = ...
) -> list[bytes]: ...
async def makedirs(
    name: _Path,
    mode: int = 0o777,
    exist_ok: bool = False,
    *,
    loop: _Loop = ...,
    executor: _Executor = ...,
) -> None: ...
async def mkdir(
    path: _Path,
    mode: int = 0o777,
    *,
    dir_fd: int | None = None,
    loop: _Loop = ...,
    executor: _Executor = ...,
) -> None: ...
@overload
async def readlink(
    path: os.PathLike[AnyStr],
    *,
    dir_fd: int | None = None,
    loop: _Loop = ...,
    executor: _Executor = ...,
) -> AnyStr: ...
@overload
async def readlink(
    path: AnyStr, *, dir_fd: int | None = None, loop: _Loop = ..., executor: _Executor = ...
) -> AnyStr: ...
async def remove(
    path: _Path, *, dir_fd: int | None = None, loop: _Loop = ..., executor: _Executor = ...
) -> None: ...
async def removedirs(name: _Path, *, loop: _Loop = ..., executor: _Executor = ...) -> None: ...
async def rename(
    src: _Path,
    dst: _Path,
    *,
    src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None,
    loop: _Loop = ...,
    executor: _Executor = ...,
) -> None: ...
async def renames(
    old: _Path, new: _Path, *, loop: _Loop = ..., executor: _Executor = ...
) -> None: ...
async def replace(
    src: _Path,
    dst: _Path,
    *,
    src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None,
    loop: _Loop = ...,
    executor: _Executor = ...,
) -> None: ...
async def rmdir(
    path: _Path, *, dir_fd: int | None = None, loop: _Loop = ..., executor: _Executor = ...
) -> None: ...

# os.scandir()'s iterator: its first step is done, each of the next may block.
@overload
async def scandir(
    path: None = None, *, loop: _Loop = ..., executor: _Executor = ...
) -> os._ScandirIterator[str]: ...
@overload
async def scandir(
    path: int, *, loop: _Loop = ..., executor: _Executor = ...
) -> os._ScandirIterator[str]: ...
@overload
async def scandir(
    path: AnyStr | os.PathLike[AnyStr], *, loop: _Loop = ..., executor: _Executor = ...
) -> os._ScandirIterator[AnyStr]: ...
async def stat(
    path: int | _Path,
    *,
    dir_fd: int | None = None,
    follow_symlinks: bool = True,
    loop: _Loop = ...,
    executor: _Executor = ...,
) -> os.stat_result: ...
async def symlink(
    src: _Path,
    dst: _Path,
    target_is_directory: bool = False,
    *,
    dir_fd: int | None = None,
    loop: _Loop = ...,
    executor: _Executor = ...,
) -> None: ...
async def unlink(
    path: _Path, *, dir_fd: int | None = None, loop: _Loop = ..., executor: _Executor = ...
) -> None: ...
async def link(
    src: _Path,
    dst: _Path,
    *,
    src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None,
    follow_symlinks: bool = True,
    loop: _Loop = ...,
    executor: _Executor = ...,
) -> None: ...

if sys.platform == "linux":
    async def sendfile(
        out_fd: int,
        in_fd: int,
        offset: int | None,
        count: int,
        *,
        loop: _Loop = ...,
        executor: _Executor = ...,
    ) -> int: ...

else:
    async def sendfile(
        out_fd: int,
        in_fd: int,
        offset: int,
        count: int,
        headers: Any = ...,
        trailers: Any = ...,
        flags: int = 0,
        *,
        loop: _Loop = ...,
        executor: _Executor = ...,
    ) -> int: ...

async def statvfs(
    path: int | _Path, *, loop: _Loop = ..., executor: _Executor = ...
) -> os.statvfs_result: ...
