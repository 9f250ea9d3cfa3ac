"""Opening of files that users name: regular files only, with the true reason for a failure."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from vedcore.errors import VedcoreError


def open_regular(path: str | os.PathLike[str], error: type[VedcoreError], hint: str) -> BinaryIO:
    """The regular file ``path``, open for reading bytes.

    FIFOs, sockets and devices are never opened, as that can block or have side effects.

    Args:
        path: a file; links are followed.
        error: type of the error to raise.
        hint: the next step, for its message.

    Raises:
        error: no such file, a folder, not a regular file, no permission, a loop of links, an invalid name.
    """
    try:
        _require_regular(os.stat(path).st_mode)
        # O_NONBLOCK: it may have been replaced by a FIFO since, and opening one blocks.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        file = open(os.open(path, flags), "rb")  # noqa: SIM115 - the caller closes it
        try:
            _require_regular(os.fstat(file.fileno()).st_mode)
        except BaseException:
            file.close()
            raise
        return file
    except FileNotFoundError:
        reason = "no such file"
    except (OSError, ValueError) as problem:  # ValueError: a null character, a lone surrogate
        reason = (getattr(problem, "strerror", None) or str(problem)).lower()
    raise error(reason, path=os.fsdecode(path), hint=hint)


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(0, "a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
