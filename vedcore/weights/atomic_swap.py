"""The system calls that a folder is replaced with: exchange, fsync, a lock. They know nothing of checkpoints."""

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
except ImportError:  # Windows: savers there must not run at once
    fcntl = None  # type: ignore[assignment]

__all__ = ["LockedError", "fsync_folder", "locked", "recover_folder", "replace_folder"]

_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL}


class LockedError(OSError):
    """Somebody else holds the lock; ``owner`` says who."""

    def __init__(self, owner: str) -> None:
        super().__init__(errno.EWOULDBLOCK, f"locked by {owner}")
        self.owner = owner


def replace_folder(new: Path, target: Path, aside: Path) -> None:
    """Put the folder ``new`` in the place of ``target``; a folder that stood there is at ``new`` afterwards.

    In one step where the system can exchange two names; else the old folder stands at ``aside`` between two renames,
    where readers look for it too, and from where `recover_folder` takes it back.
    """
    if not os.path.lexists(target):
        try:
            os.rename(new, target)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another saver was faster
                raise
    if _exchange(new, target):
        return
    os.rename(target, aside)
    os.rename(new, target)
    with contextlib.suppress(OSError):  # what stays aside is dropped by `recover_folder`
        os.rename(aside, new)


def recover_folder(target: Path, aside: Path) -> None:
    """Finish what `replace_folder` left when it was stopped between its renames."""
    if aside.is_dir():
        if os.path.lexists(target):
            shutil.rmtree(aside)
        else:
            os.rename(aside, target)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or the file system has no such call."""
    call = _renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """The C library's function, if it has that; Python's own way to errno goes with it."""
    try:
        call: Any = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or too old
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return call  # type: ignore[no-any-return]


def fsync_folder(folder: Path) -> None:
    """Make the names in ``folder`` last through a power cut."""
    if not hasattr(os, "O_DIRECTORY"):  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that have no such thing
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock file ``path``, which is made and removed; the system frees it when its holder dies.

    Args:
        path: the lock file.
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
                os.unlink(path)  # before the lock is freed, so that no second holder loses its file
        finally:
            _release(file)


def _acquire(path: Path, deadline: float) -> io.FileIO:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        file = io.FileIO(path, "r+", opener=lambda name, _: os.open(name, flags, 0o666))
        try:
            if _flock(file) and _is_at(file, path):
                with contextlib.suppress(OSError):  # a full disk; the text is for messages only
                    file.truncate(0)
                    file.write(f"pid {os.getpid()} on {socket.gethostname()}".encode())
                return file
            owner = (file.read(200) or b"another saver").decode("utf-8", "replace")
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
                fcntl.flock(file, fcntl.LOCK_UN)  # processes forked meanwhile have the file too
    finally:
        with contextlib.suppress(OSError):
            file.close()


def _flock(file: io.FileIO) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:  # saves are whole without it, only not one after the other
            return True
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _is_at(file: io.FileIO, path: Path) -> bool:
    """Whether ``path`` is still the file that was opened, and not one made after its holder removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
