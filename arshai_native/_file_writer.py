"""A file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from typing import Any


def write_all(descriptor: int, data: Any) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]


class FileWriter:
    """
    A file that takes its place when it is whole: written beside it under another name, then
    renamed. Any thread, one call at a time: an abort() waits for a write() under way.

    The mode of the file that is replaced stays, and its owner if this process may give files away;
    other names of it (hard links) keep what they had. What is no regular file, as a device or a
    pipe, is written to where it is. fsync: what commit() has put in place outlives a power cut.
    """

    def __init__(self, path: Any, fsync: bool = False) -> None:
        self._given = path
        # A link stays one, and what it points to is replaced.
        self._path = os.path.realpath(os.fsdecode(path))
        folder, name = os.path.split(self._path)
        self._part = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(6)}.part")
        self._fsync = fsync
        self._lock = threading.Lock()
        self._descriptor = -1
        self._is_beside = True
        self._over = False

    def write(self, data: Any) -> None:
        """Opens the file at the first call."""
        with self._lock:
            if self._over:
                return
            if self._descriptor < 0:
                self._open()
            write_all(self._descriptor, data)

    def commit(self, guard: contextlib.AbstractContextManager[object] | None = None) -> None:
        """The file is whole. guard is held while it takes its place, or does not let it."""
        self.write(b"")  # one of no bytes is a file too
        with self._lock:
            if self._over:
                return
            if self._fsync:
                self._sync()
            self._close()
            if not self._is_beside:
                return
            try:
                with guard or contextlib.nullcontext():
                    os.replace(self._part, self._path)
            except BaseException as error:
                os.unlink(self._part)
                if isinstance(error, OSError):
                    raise self._named(error) from None
                raise
            if self._fsync:
                folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def abort(self) -> None:
        """Nothing has happened. After commit() it does nothing."""
        with self._lock:
            if not self._over:
                opened = self._descriptor >= 0 and self._is_beside
                self._close()
                if opened:
                    with contextlib.suppress(OSError):  # why it ended is what counts
                        os.unlink(self._part)

    def _open(self) -> None:
        try:
            before = os.stat(self._path)
        except FileNotFoundError:
            before = None
        except OSError as error:
            raise self._named(error) from None
        if before is not None and not stat.S_ISREG(before.st_mode):
            self._is_beside = False
            self._descriptor = os.open(self._given, os.O_WRONLY | os.O_CLOEXEC)
            return
        if before is not None:
            # Who must not write to it must not replace it: fails as open(path, "wb").
            os.close(os.open(self._given, os.O_WRONLY | os.O_CLOEXEC))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._part, flags, 0o666)
        except OSError as error:
            raise self._named(error) from None
        if before is not None:
            made = os.fstat(self._descriptor)
            if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
                with contextlib.suppress(OSError):
                    os.fchown(self._descriptor, before.st_uid, before.st_gid)
            os.fchmod(self._descriptor, stat.S_IMODE(before.st_mode))

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if self._is_beside or error.errno != errno.EINVAL:  # a pipe has no disk
                raise

    def _named(self, error: OSError) -> OSError:
        """The error with the name that the caller knows."""
        return type(error)(error.errno, error.strerror, self._given)

    def _close(self) -> None:
        self._over = True
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
