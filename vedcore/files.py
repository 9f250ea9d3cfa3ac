"""Opening of files that users name: regular files only, with the true reason for a failure."""

from __future__ import annotations

import os
import re
import stat
from typing import BinaryIO, TypeVar

from vedcore.errors import VedcoreError

E = TypeVar("E", bound=VedcoreError)


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


def other_content_error(head: bytes, path: object, error: type[E]) -> E | None:
    """The error for a pointer of git-lfs, or a web page, that was saved in the place of a file; else None.

    Args:
        head: the first bytes of the file.
        path: its name in the message.
        error: type of the error.
    """
    if head.startswith(b"version https://git-lfs"):
        message, hint = "a pointer of git-lfs, not the file itself", "run: git lfs pull"
    elif re.match(rb"\s*<(!doctype|html|\?xml|head|body)\b", head, re.IGNORECASE):
        message, hint = "a web page, not the file itself", "download the file, not the page about it"
    else:
        return None
    return error(message, path=path, hint=hint)


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(0, "a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
