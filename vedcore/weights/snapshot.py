"""Reading a folder: every file from the same save, whatever is exchanged meanwhile, and nothing from outside it.

A file is opened by its plain name. Links are not followed, but for those that the Hugging Face cache is made of:
``../../blobs/<name>``, from a subfolder one ``../`` more, and from there to the store that its repositories share,
``../../blobs/<2 digits>/<64 digits>``. FIFOs, devices and folders are refused without waiting on them. All of it works
by paths, as every system has them.
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
    """An opened folder. A file that it has opened stays readable when the folder is replaced and dropped.

    Raises:
        CheckpointNotFoundError: no such folder, or not one.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder)
        self._files: list[io.FileIO] = []
        self._where = Path(os.path.realpath(self._find_folder()))
        self._pin = self._opened_folder()
        self._identity = os.stat(self._where if self._pin is None else self._pin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files:
            file.close()
        if self._pin is not None:
            os.close(self._pin)

    def _find_folder(self) -> Path:
        """The folder, or where a saver keeps it for a moment."""
        for attempt in range(5):
            for path in (self.path, aside_of(Path(os.path.abspath(self.path)))):
                try:
                    if stat.S_ISDIR(os.stat(path).st_mode):
                        return path
                except FileNotFoundError:
                    continue
                except (OSError, ValueError) as error:
                    raise self._not_there(error) from None
                raise self._not_there(NotADirectoryError(errno.ENOTDIR, "")) from None
            time.sleep(0.002 * attempt)  # between two renames of a saver, perhaps
        raise self._not_there(FileNotFoundError(errno.ENOENT, "no such folder"))

    def _opened_folder(self) -> int | None:
        """A descriptor, held so that no other folder gets this one's number; None where folders cannot be opened."""
        if not hasattr(os, "O_DIRECTORY"):
            return None
        try:
            return os.open(self._where, os.O_RDONLY | os.O_DIRECTORY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise self._not_there(error) from None

    def _not_there(self, error: OSError | ValueError) -> CheckpointNotFoundError:
        what = {errno.ENOTDIR: "a file, not a folder", errno.EACCES: "permission denied"}
        reason = what.get(getattr(error, "errno", None) or 0) or getattr(error, "strerror", None) or str(error)
        hint = "give the folder that holds it" if "file, not" in reason else "check the path and its permissions"
        return CheckpointNotFoundError(reason.lower(), path=self.path, hint=hint)

    def replaced(self) -> bool:
        """True where the folder's path means another folder by now."""
        try:
            return not os.path.samestat(self._identity, os.stat(self._where))
        except OSError:
            return True

    def names(self) -> list[str]:
        """The names in the folder, sorted."""
        try:
            return sorted(os.listdir(self._where))
        except OSError:  # dropped meanwhile
            return []

    def listing(self) -> str:
        """The names in the folder, for a message."""
        names = self.names()
        return f"there are: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}" if names else "it is empty"

    def has(self, name: str) -> bool:
        """True where there is anything of that name."""
        there = os.path.lexists(self._where / name)
        self._require_here(name)
        return there

    def open(self, name: str) -> io.FileIO:
        """A regular file, open until the snapshot is closed.

        Raises:
            CheckpointUnsafeError: no plain name, a link that leads out, a FIFO, a device or a folder.
            CheckpointNotFoundError: not there, or not readable; the folder was replaced meanwhile.
        """
        check_name(name, self.path)
        try:
            path = self._followed(name)
            if not stat.S_ISREG(os.lstat(path).st_mode):  # opening a FIFO could wait for ever
                raise self._unsafe(name, "not a regular file")
            file = io.FileIO(path, "r", opener=_open_without_waiting)
        except FileNotFoundError:
            raise CheckpointNotFoundError("no such file", path=self.path / name, hint=self.listing()) from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise CheckpointNotFoundError(reason, path=self.path / name, hint="check its permissions") from None
        self._files.append(file)
        if not os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
            raise self._unsafe(name, "not a regular file")
        self._require_here(name)
        return file

    def _followed(self, name: str) -> str:
        """The path of the file, or of what the cache has linked in its place."""
        path = os.path.join(self._where, name)
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

    def _require_here(self, name: str) -> None:
        """Refuse a name that was looked up in another folder, put in place of this one: `read_folder` starts anew."""
        if self.replaced():
            message = "the folder was replaced while it was read"
            raise CheckpointNotFoundError(message, path=self.path / name, hint="load it again")

    def _unsafe(self, name: str, what: str) -> CheckpointUnsafeError:
        return CheckpointUnsafeError(what, path=self.path / name, hint="put the file itself there")

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


def _open_without_waiting(path: str, flags: int) -> int:
    """Not even on a FIFO that was put in the file's place a moment ago; nor through a link."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))


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
