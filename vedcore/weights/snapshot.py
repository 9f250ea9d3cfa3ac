"""Reading of a folder: all files from the same save, even if the folder is replaced meanwhile, and none from outside.

A file is opened by its plain name. Links are not followed, except those of the Hugging Face cache: from a snapshot to
``../../blobs/<name>``, with another ``../`` from a subfolder, and from there to the store that repositories share,
``../../blobs/<2 digits>/<64 digits>``. FIFOs, devices and folders are refused without blocking. Everything works by
paths, so that it works on any system.
"""

from __future__ import annotations

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
from vedcore.weights.manifest import FileRecord

__all__ = [
    "FILE_AGAIN_HINT",
    "FOLDER_AGAIN_HINT",
    "TEMPORARY_PREFIX",
    "Snapshot",
    "backup_path",
    "check_name",
    "json_object",
    "read_folder",
]

MAX_LISTING = 120
"""Characters of the names of files in a message, which leave room for the path."""

T = TypeVar("T")

TEMPORARY_PREFIX = ".vedcore-tmp-"
"""Prefix of the names of unfinished folders."""
MAX_JSON_BYTES = 10_000_000
FILE_AGAIN_HINT = "get the file from its source again"
FOLDER_AGAIN_HINT = "get the folder from its source again"
_SAVE_AGAIN_HINT = "load with verify=False, and save again"
_CACHE_LINKS = (
    re.compile(r"(\.\./){2,}blobs/[A-Za-z0-9_-]+"),
    re.compile(r"\.\./\.\./blobs/([0-9a-f]{2})/\1[0-9a-f]{62}"),
)
"""From a snapshot to a blob, and from a blob to the shared store, where huggingface_hub keeps files of hf_xet."""
_MAX_ATTEMPTS = 20


def check_name(name: object, path: object = None) -> str:
    """``name``, if it is a plain file name on every system.

    Args:
        name: the name.
        path: the folder or file that it comes from, for messages.

    Raises:
        CheckpointUnsafeError: folders, drives, ``..``, control characters, not a string, or too long.
    """
    plain = isinstance(name, str) and re.fullmatch(r"[^\x00-\x1f\x7f/\\:*?\"<>|]+", name) is not None
    if not plain or name in (".", "..") or len(os.fsencode(str(name))) > 255:
        raise CheckpointUnsafeError(f"{short(name)} is not a plain file name", path=path, hint=FOLDER_AGAIN_HINT)
    return str(name)


def backup_path(folder: Path) -> Path:
    """The path of the old folder while it is replaced on a system that cannot swap two names."""
    return folder.with_name(f".vedcore-old-{hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:12]}")


def read_folder(folder: str | os.PathLike[str], read: Callable[[Snapshot], T]) -> T:
    """The result of ``read`` for one save of the folder; repeated where the folder was replaced meanwhile.

    Raises:
        CheckpointNotFoundError: no such folder, or not a folder.
        CheckpointError: raised by ``read``.
    """
    for attempt in range(_MAX_ATTEMPTS):
        with Snapshot(folder) as snapshot:
            try:
                return read(snapshot)
            except CheckpointError:
                if attempt == _MAX_ATTEMPTS - 1 or not snapshot.replaced():
                    raise
    raise AssertionError  # the last attempt returns or raises


class Snapshot:
    """An opened folder. Files opened from it stay readable when the folder is replaced and removed.

    Raises:
        CheckpointNotFoundError: no such folder, or not a folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder)
        self.manifest_sha256: str | None = None
        """That of the manifest, once it was read."""
        self._files: list[io.FileIO] = []
        self._real_path = Path(os.path.realpath(self._find_folder()))
        self._descriptor = self._open_folder()
        self._identity = os.stat(self._real_path if self._descriptor is None else self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files:
            file.close()
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _find_folder(self) -> Path:
        """The path of the folder, or of its backup while a save replaces it."""
        for attempt in range(5):
            for path in (self.path, backup_path(Path(os.path.abspath(self.path)))):
                try:
                    if stat.S_ISDIR(os.stat(path).st_mode):
                        return path
                except FileNotFoundError:
                    continue
                except (OSError, ValueError) as error:
                    raise self._not_there(error) from None
                raise self._not_there(NotADirectoryError(errno.ENOTDIR, "")) from None
            time.sleep(0.002 * attempt)  # a save may be between its two renames
        raise self._not_there(FileNotFoundError(errno.ENOENT, "no such folder"))

    def _open_folder(self) -> int | None:
        """A descriptor, which keeps the inode number from being reused; None where folders cannot be opened."""
        if not hasattr(os, "O_DIRECTORY"):
            return None
        try:
            return os.open(self._real_path, os.O_RDONLY | os.O_DIRECTORY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise self._not_there(error) from None

    def _not_there(self, error: OSError | ValueError) -> CheckpointNotFoundError:
        what = {errno.ENOTDIR: "a file, not a folder", errno.EACCES: "permission denied"}
        reason = what.get(getattr(error, "errno", None) or 0) or getattr(error, "strerror", None) or str(error)
        hint = "give the folder that holds it" if "file, not" in reason else "check the path and its permissions"
        return CheckpointNotFoundError(reason.lower(), path=self.path, hint=hint)

    def replaced(self) -> bool:
        """Whether the folder's path is that of another folder by now."""
        try:
            return not os.path.samestat(self._identity, os.stat(self._real_path))
        except OSError:
            return True

    def names(self) -> list[str]:
        """The names in the folder, sorted."""
        try:
            return sorted(os.listdir(self._real_path))
        except OSError:  # removed meanwhile
            return []

    def listing(self) -> str:
        """The names in the folder, for a message."""
        names = self.names()
        shown = names[:8]
        while len(shown) > 1 and len(", ".join(shown)) > MAX_LISTING:
            shown.pop()
        return f"there are: {', '.join(shown)}{', …' if len(names) > len(shown) else ''}" if names else "it is empty"

    def has(self, name: str) -> bool:
        """Whether the folder has a file, or anything else, of that name."""
        exists = os.path.lexists(self._real_path / name)
        self._require_same_folder(name)
        return exists

    def open(self, name: str) -> io.FileIO:
        """A regular file, open until the snapshot is closed.

        Raises:
            CheckpointUnsafeError: not a plain name, a link out of the folder, a FIFO, a device or a folder.
            CheckpointNotFoundError: missing, not readable, or the folder was replaced meanwhile.
        """
        check_name(name, self.path)
        try:
            path = self._followed(name)
            if not stat.S_ISREG(os.lstat(path).st_mode):  # opening a FIFO can block for ever
                raise self._unsafe(name, "not a regular file")
            file = io.FileIO(path, "r", opener=_open_nonblocking)
        except FileNotFoundError:
            raise CheckpointNotFoundError("no such file", path=self.path / name, hint=self.listing()) from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise CheckpointNotFoundError(reason, path=self.path / name, hint="check its permissions") from None
        self._files.append(file)
        if not os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
            raise self._unsafe(name, "not a regular file")
        self._require_same_folder(name)
        return file

    def _followed(self, name: str) -> str:
        """The path of the file; links of the Hugging Face cache are followed."""
        path = os.path.join(self._real_path, name)
        for allowed in _CACHE_LINKS:
            if not os.path.islink(path):
                break
            link = os.readlink(path)
            if not allowed.fullmatch(link.replace(os.sep, "/")):
                raise self._unsafe(name, f"a link to {link}")
            path = os.path.normpath(os.path.join(os.path.dirname(path), link))
        if os.path.realpath(path) != path:
            raise self._unsafe(name, f"a link to {os.path.realpath(path)}")
        return path

    def _require_same_folder(self, name: str) -> None:
        """Refuse a name that was looked up after the folder was replaced; `read_folder` starts again then."""
        if self.replaced():
            message = "the folder was replaced while it was read"
            raise CheckpointNotFoundError(message, path=self.path / name, hint="load it again")

    def _unsafe(self, name: str, what: str) -> CheckpointUnsafeError:
        return CheckpointUnsafeError(what, path=self.path / name, hint="put the file itself there")

    def read(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        """The contents of a file of at most ``limit`` bytes.

        Raises:
            CheckpointLimitError: the file is larger.
            CheckpointNotFoundError, CheckpointUnsafeError: as in `open`.
        """
        file = self.open(name)
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            message = f"{size:,} bytes, and at most {limit:,} are read"
            raise CheckpointLimitError(message, path=self.path / name, hint="is it the right file?")
        return file.readall()

    def manifest(self) -> dict[str, FileRecord]:
        """The manifest: file names to entries.

        Raises:
            CheckpointNotFoundError: there is no manifest.
            CheckpointCorruptError: the manifest is damaged.
        """
        path = self.path / MANIFEST
        if not self.has(MANIFEST):
            raise CheckpointNotFoundError("no such file", path=path, hint=_SAVE_AGAIN_HINT)
        raw = self.read(MANIFEST)
        self.manifest_sha256 = hashlib.sha256(raw).hexdigest()
        files = json_object(raw, path).get("files")
        if not isinstance(files, dict):
            raise CheckpointCorruptError("no list of files", path=path, hint=_SAVE_AGAIN_HINT)
        records = {}
        for name, record in files.items():
            found = FileRecord.from_json(record)
            if found is None:
                raise CheckpointCorruptError("no size and sha256", path=path, field=short(name), hint=_SAVE_AGAIN_HINT)
            records[check_name(name, path)] = found
        return records


def _open_nonblocking(path: str, flags: int) -> int:
    """An opener that does not block on a FIFO that has just replaced the file, and follows no link."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))


def json_object(raw: bytes, path: object) -> dict[str, Any]:
    """The JSON object in ``raw``.

    Raises:
        CheckpointCorruptError: not JSON, not an object, or a duplicate key.
    """
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON are ValueErrors
        raise CheckpointCorruptError(f"not JSON: {error}", path=path, hint=FOLDER_AGAIN_HINT) from None
    if not isinstance(data, dict):
        raise CheckpointCorruptError(f"object expected, got {type(data).__name__}", path=path, hint=FOLDER_AGAIN_HINT)
    return data
