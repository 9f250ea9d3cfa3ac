"""The system calls for replacing a folder: atomic swap, fsync, lock. They know nothing of checkpoints."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import io
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: saves there must not run at once
    fcntl = None  # type: ignore[assignment]

__all__ = ["LockedError", "fsync_folder", "locked", "recover_folder", "replace_folder"]

_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_SWAP_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
_LOCKS_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL}


class LockedError(OSError):
    """Another process or thread, ``owner``, holds the lock."""

    def __init__(self, owner: str) -> None:
        super().__init__(errno.EWOULDBLOCK, f"locked by {owner}")
        self.owner = owner


def replace_folder(new: Path, target: Path, backup: Path) -> None:
    """Move the folder ``new`` to ``target``; an old folder at ``target`` is at ``new`` afterwards.

    This is one step where the system can swap two names. Elsewhere the old folder is at ``backup`` between two renames:
    readers look there too, and `recover_folder` restores it from there.
    """
    if not os.path.lexists(target):
        try:
            os.rename(new, target)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another save was faster
                raise
    if _swap(new, target):
        return
    os.rename(target, backup)
    os.rename(new, target)
    with contextlib.suppress(OSError):  # `recover_folder` removes a backup that stays
        os.rename(backup, new)


def recover_folder(target: Path, backup: Path) -> None:
    """Restore or remove the backup of a `replace_folder` that was interrupted between its renames."""
    if backup.is_dir():
        if os.path.lexists(target):
            shutil.rmtree(backup)
        else:
            os.rename(backup, target)


def _swap(one: Path, other: Path) -> bool:
    """Swap two names atomically; False where the system or the file system cannot."""
    call = _renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _SWAP_UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(other))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """The function of the C library that swaps two names; None where it is missing."""
    try:
        call: Any = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or too old
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return call  # type: ignore[no-any-return]


def fsync_folder(folder: Path) -> None:
    """Flush the names in ``folder`` to disk, so that they survive a power failure."""
    if not hasattr(os, "O_DIRECTORY"):  # this system cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not supported by the file system
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold a lock on the file ``path``; the system frees it when the process dies.

    Args:
        path: the lock file, created here and removed at the end.
        timeout: seconds to wait for another holder.

    Raises:
        LockedError: another process or thread holds it for longer than ``timeout``.
    """
    file = _acquire(path, time.monotonic() + timeout)
    try:
        yield
    finally:
        try:
            with contextlib.suppress(OSError):
                os.unlink(path)  # while the lock is held: else this could remove the file of the next holder
        finally:
            _release(file)


def _acquire(path: Path, deadline: float) -> io.FileIO:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        file = io.FileIO(path, "r+", opener=lambda name, _: os.open(name, flags, 0o666))
        try:
            if _flock(file) and _is_at(file, path):
                with contextlib.suppress(OSError):  # the disk may be full, and the text is for messages only
                    file.truncate(0)
                    file.write(f"pid {os.getpid()} on {socket.gethostname()}".encode())
                return file
            owner = (file.read(200) or b"another save").decode("utf-8", "replace")
        except BaseException:
            file.close()
            raise
        file.close()
        if time.monotonic() >= deadline:
            raise LockedError(owner)
        time.sleep(0.02)


def _release(file: io.FileIO) -> None:
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # explicitly, as forked processes have the file open too
    finally:
        with contextlib.suppress(OSError):
            file.close()


def _flock(file: io.FileIO) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKS_UNSUPPORTED:  # saves are atomic without it too, but not serialised
            return True
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _is_at(file: io.FileIO, path: Path) -> bool:
    """Whether ``path`` is still the opened file, which its holder may have removed and another process replaced."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
