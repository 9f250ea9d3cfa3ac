"""Reading a folder: every file from the same save, whatever is exchanged meanwhile, and nothing from outside it.

A file is opened by its plain name within the opened folder. Links are not followed, but for those that the Hugging
Face cache is made of: ``../../blobs/<name>``, from a subfolder one ``../`` more, and from there to the store that its
repositories share, ``../../blobs/<2 digits>/<64 digits>``. FIFOs, devices and folders are refused, without waiting.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from vedcore.config_files.plain import short, unique_keys
from vedcore.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointLimitError,
    CheckpointNotFoundError,
    CheckpointUnsafeError,
)
from vedcore.model_files import MANIFEST
from vedcore.weights.hashing import FileRecord

__all__ = ["Snapshot", "aside_of", "check_name", "json_object", "read_folder"]

T = TypeVar("T")

TEMPORARY = ".vedcore-tmp-"
"""What the names of unfinished folders start with."""
MAX_JSON_BYTES = 10_000_000
_AGAIN = "get the folder from its source again"
_ANEW = "load with verify=False, and save anew"
_CACHE_LINKS = (
    re.compile(r"(\.\./){2,}blobs/[A-Za-z0-9_-]+"),
    re.compile(r"\.\./\.\./blobs/([0-9a-f]{2})/\1[0-9a-f]{62}"),
)
"""From a snapshot to a blob, and from a blob to the shared store, where huggingface_hub keeps what came by hf_xet."""
_ATTEMPTS = 20


def check_name(name: object, path: object = None) -> str:
    """``name`` if it is the plain name of a file, on any system.

    Raises:
        CheckpointUnsafeError: folders, drives, ``..``, control characters, not a string, or too long.
    """
    plain = isinstance(name, str) and re.fullmatch(r"[^\x00-\x1f\x7f/\\:*?\"<>|]+", name) is not None
    if not plain or name in (".", "..") or len(os.fsencode(str(name))) > 255:
        raise CheckpointUnsafeError(f"{short(name)} is no plain file name", path=path, hint=_AGAIN)
    return str(name)


def aside_of(folder: Path) -> Path:
    """Where the old folder stands while a system that cannot exchange names replaces it."""
    return folder.with_name(f".vedcore-old-{hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:12]}")


def read_folder(folder: str | os.PathLike[str], read: Callable[[Snapshot], T]) -> T:
    """``read`` of the folder as one save left it; done again where the folder was replaced in the middle.

    Raises:
        CheckpointNotFoundError: no such folder, or not one.
        CheckpointError: whatever ``read`` raises.
    """
    for attempt in range(_ATTEMPTS):
        with Snapshot(folder) as snapshot:
            try:
                return read(snapshot)
            except CheckpointError:
                if attempt == _ATTEMPTS - 1 or not snapshot.replaced():
                    raise
    raise AssertionError  # the last attempt returns or raises


class Snapshot:
    """An opened folder. Files that were opened once stay readable when the folder is replaced and dropped.

    Raises:
        CheckpointNotFoundError: no such folder, or not one.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder)
        self._files: list[io.FileIO] = []
        self._descriptor = self._open_folder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files:
            file.close()
        os.close(self._descriptor)

    def _open_folder(self) -> int:
        for attempt in range(5):
            for path in (self.path, aside_of(Path(os.path.abspath(self.path)))):
                try:
                    return os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))
                except FileNotFoundError:
                    continue
                except (OSError, ValueError) as error:
                    raise self._not_there(error) from None
            time.sleep(0.002 * attempt)  # between two renames of a saver, perhaps
        raise self._not_there(FileNotFoundError(errno.ENOENT, "no such folder"))

    def _not_there(self, error: OSError | ValueError) -> CheckpointNotFoundError:
        what = {errno.ENOTDIR: "a file, not a folder", errno.EACCES: "permission denied"}
        reason = what.get(getattr(error, "errno", None) or 0) or getattr(error, "strerror", None) or str(error)
        hint = "give the folder that holds it" if "file, not" in reason else "check the path and its permissions"
        return CheckpointNotFoundError(reason.lower(), path=self.path, hint=hint)

    def replaced(self) -> bool:
        """Whether the folder's path means another folder by now."""
        try:
            return not os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except OSError:
            return True

    def names(self) -> list[str]:
        """What is in the folder, sorted."""
        return sorted(os.listdir(self._descriptor))

    def listing(self) -> str:
        """What is in the folder, for a message."""
        names = self.names()
        return f"there are: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}" if names else "it is empty"

    def has(self, name: str) -> bool:
        """Whether there is anything of that name."""
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def open(self, name: str) -> io.FileIO:
        """A regular file, open until the snapshot is closed.

        Raises:
            CheckpointUnsafeError: no plain name, a link that leads out, a FIFO, a device or a folder.
            CheckpointNotFoundError: not there, or not readable.
        """
        check_name(name, self.path)
        try:
            descriptor = self._follow(name)
        except FileNotFoundError:
            raise CheckpointNotFoundError("no such file", path=self.path / name, hint=self.listing()) from None
        except CheckpointError:
            raise
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            if error.errno in (errno.ENXIO, errno.ELOOP, errno.ENOTDIR):  # a socket; a link where the cache has none
                raise self._unsafe(name, "not a regular file", "put the file itself there") from None
            raise CheckpointNotFoundError(reason, path=self.path / name, hint="check its permissions") from None
        file = io.FileIO(descriptor, "r") if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
        if file is None:
            os.close(descriptor)
            raise self._unsafe(name, "not a regular file", "put the file itself there")
        self._files.append(file)
        return file

    def _follow(self, name: str) -> int:
        """Open the file, or what the cache has linked in its place."""
        path = name
        for allowed in _CACHE_LINKS:
            try:
                return self._open(path)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EMLINK):
                    raise
            link = os.readlink(path, dir_fd=self._descriptor)
            if not allowed.fullmatch(link):
                raise self._unsafe(name, f"a link to {link}", "put the file itself there")
            path = os.path.normpath(os.path.join(os.path.dirname(path), link))
        return self._open(path)

    def _open(self, path: str) -> int:
        """Open a file below the folder, or beside it in the cache; nothing on the way may be a link."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        passing = flags | os.O_DIRECTORY | getattr(os, "O_PATH", 0)  # through folders that may not be listed, too
        *folders, name = path.split("/")
        with contextlib.ExitStack() as stack:
            here = self._descriptor
            for folder in folders:
                here = os.open(folder, passing, dir_fd=here)
                stack.callback(os.close, here)
            return os.open(name, flags, dir_fd=here)

    def _unsafe(self, name: str, what: str, hint: str) -> CheckpointUnsafeError:
        return CheckpointUnsafeError(what, path=self.path / name, hint=hint)

    def read(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        """The bytes of a file of at most ``limit``.

        Raises:
            CheckpointLimitError: it is larger.
            CheckpointNotFoundError, CheckpointUnsafeError: as `open`.
        """
        file = self.open(name)
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            message = f"{size:,} bytes, and at most {limit:,} are read"
            raise CheckpointLimitError(message, path=self.path / name, hint="is it the right file?")
        return file.readall()

    def manifest(self) -> dict[str, FileRecord]:
        """What the save wrote, by name.

        Raises:
            CheckpointNotFoundError: there is no manifest.
            CheckpointCorruptError: it is damaged.
        """
        path = self.path / MANIFEST
        files = json_object(self.read(MANIFEST), path).get("files")
        if not isinstance(files, dict):
            raise CheckpointCorruptError("no list of files", path=path, hint=_ANEW)
        records = {}
        for name, record in files.items():
            found = FileRecord.from_json(record)
            if found is None:
                raise CheckpointCorruptError("no size and sha256", path=path, field=short(name), hint=_ANEW)
            records[check_name(name, path)] = found
        return records


def json_object(raw: bytes, path: object) -> dict[str, Any]:
    """The JSON object in ``raw``, in which no key occurs twice.

    Raises:
        CheckpointCorruptError: it is none.
    """
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON are ValueErrors
        raise CheckpointCorruptError(f"not JSON: {error}", path=path, hint=_AGAIN) from None
    if not isinstance(data, dict):
        raise CheckpointCorruptError(f"object expected, got {type(data).__name__}", path=path, hint=_AGAIN)
    return data
