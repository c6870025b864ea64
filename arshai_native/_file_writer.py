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

    The mode of the file that is replaced stays, and its owner and group if this process may give
    files away (a group that does not stay leaves the new one what others may do); other names of it
    (hard links) keep what they had. What is no regular file, as a device or a
    pipe, is written to where it is. fsync: what commit() has put in place outlives a power cut.
    """

    def __init__(self, path: Any, fsync: bool = False) -> None:
        self._given = path
        # A link stays one, and what it points to is replaced.
        self._path = os.path.realpath(os.fsdecode(path))
        folder, name = os.path.split(self._path)
        # The whole name may be as long as names can be: 255 bytes.
        self._part = os.path.join(folder, f".{name[:50]}.{secrets.token_hex(6)}.part")
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
            try:
                if self._fsync:
                    self._sync()
                self._close()
            except BaseException:
                self._remove_part()
                raise
            if not self._is_beside:
                return
            try:
                with guard or contextlib.nullcontext():
                    os.replace(self._part, self._path)
            except BaseException as error:
                self._remove_part()
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
                opened = self._descriptor >= 0
                with contextlib.suppress(OSError):
                    self._close()
                if opened:
                    self._remove_part()

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
            # At no time may it be open to more than the one that it replaces.
            self._descriptor = os.open(self._part, flags, 0o666 if before is None else 0o600)
        except OSError as error:
            raise self._named(error) from None
        if before is not None:
            self._be_like(before)

    def _be_like(self, before: os.stat_result) -> None:
        made = os.fstat(self._descriptor)
        mode = stat.S_IMODE(before.st_mode)
        if made.st_gid != before.st_gid:
            try:
                os.fchown(self._descriptor, -1, before.st_gid)
            except OSError:
                # Another group: it may no more than others may.
                mode = mode & ~(stat.S_ISGID | stat.S_IRWXG) | (mode & stat.S_IRWXG & mode << 3)
        if made.st_uid != before.st_uid:
            try:
                os.fchown(self._descriptor, before.st_uid, -1)
            except OSError:
                mode &= ~stat.S_ISUID
        os.fchmod(self._descriptor, mode)

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if self._is_beside or error.errno != errno.EINVAL:  # a pipe has no disk
                raise

    def _named(self, error: OSError) -> OSError:
        """The error with the name that the caller knows."""
        return type(error)(error.errno, error.strerror, self._given)

    def _remove_part(self) -> None:
        if self._is_beside:
            with contextlib.suppress(OSError):  # why it ended is what counts
                os.unlink(self._part)

    def _close(self) -> None:
        self._over = True
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
