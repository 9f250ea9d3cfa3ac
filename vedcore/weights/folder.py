"""Atomic writes of a folder: a reader, or a crash at any moment, finds the old folder or the new one, whole.

1. All files are written to a staging folder beside the target and fsynced, the manifest last.
2. The two folders are swapped in one step.
3. The parent folder is fsynced, and the old folder removed.

The user's own files in the target survive: they are hard-linked or copied into the new folder first. These are all
files that no save has written and that have no meaning in a model's folder, and a ``README.md`` that was edited. Where
the file system has locks, one save runs at a time; saves are atomic without them too.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vedcore.errors import CheckpointError, CheckpointWriteError
from vedcore.model_files import CARD, MANIFEST
from vedcore.weights.atomic_swap import LockedError, fsync_folder, locked, recover_folder, replace_folder
from vedcore.weights.manifest import FileRecord
from vedcore.weights.snapshot import TEMPORARY_PREFIX, Snapshot, backup_path, check_name

__all__ = ["FileWriter", "save_folder"]

LOCK_TIMEOUT_SECONDS = 10.0
_MAX_IDLE_SECONDS = 3600.0
"""Age past which a temporary folder is removed where its process cannot be looked up."""
_HOST_HASH = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class FileWriter:
    """A file that is too large to hold in memory."""

    size: int
    """Bytes, about."""
    write: Callable[[Path], FileRecord]
    """Creates the file at a path, and returns its entry for the manifest."""


def save_folder(
    folder: str | os.PathLike[str],
    files: Mapping[str, bytes | FileWriter],
    replaces: re.Pattern[str] | None = None,
    *,
    adds: bool = False,
) -> Path:
    """Create or replace ``folder``, so that it holds ``files``, their manifest and the user's own files.

    Args:
        folder: the target, whose parent must exist; a link to a folder is followed.
        files: contents by plain file name.
        replaces: pattern of names with a meaning in a model's folder: old files of these names are removed, whoever
            wrote them.
        adds: True keeps the other files of the earlier save, and their entries in the manifest.

    Returns:
        The folder's real path.

    Raises:
        CheckpointUnsafeError: a name that is not a plain file name.
        CheckpointWriteError: the folder cannot be written; its old contents are unchanged.
    """
    for name in files:
        check_name(name, folder)
        if name == MANIFEST or name.startswith(TEMPORARY_PREFIX):
            raise CheckpointWriteError(f"{name} is a reserved name", path=folder, hint="choose another file name")
    needed = sum(len(content) if isinstance(content, bytes) else content.size for content in files.values())
    with _as_write_errors(folder, needed):
        target = _target(folder)
        _check_space(target, needed)
        digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]
        with locked(target.with_name(f".vedcore-lock-{digest}"), LOCK_TIMEOUT_SECONDS):
            recover_folder(target, backup_path(target))
            _remove_abandoned(target.parent)
            _replace(target, files, replaces, adds)
    return target


def _replace(
    target: Path, files: Mapping[str, bytes | FileWriter], replaces: re.Pattern[str] | None, adds: bool
) -> None:
    old = _old_manifest(target)
    edited = {CARD} if _is_edited(target / CARD, old.get(CARD)) else set()
    new = {name: content for name, content in files.items() if name not in edited}
    superseded = {name for name in _names(target) if replaces is not None and replaces.fullmatch(name)}
    not_kept = {*new, *(() if adds else old), *superseded, MANIFEST} - edited
    _refuse_obstacles(target, new)
    inside = _working_folder_in(target)
    stage = target.with_name(f"{TEMPORARY_PREFIX}{_HOST_HASH}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        stage.mkdir()
        if target.is_dir():
            shutil.copymode(target, stage)
        _keep(target, stage, not_kept)
        records = {name: _write(stage / name, content) for name, content in new.items()}
        records = {**old, **records} if adds else records
        manifest = {"files": {name: record.as_json() for name, record in records.items()}}
        _write(stage / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        fsync_folder(stage)
        replace_folder(stage, target, backup_path(target))
        try:
            fsync_folder(target.parent)
            _keep(stage, target, not_kept)  # files that appeared meanwhile
        except OSError:
            _put_back(stage, target)
            raise
    finally:
        try:
            _clean_up(stage, target)
        finally:
            _clean_up(stage, target)  # again, as Ctrl-C may interrupt the first
        if inside is not None:
            with contextlib.suppress(OSError):
                os.chdir(target / inside)


def _clean_up(stage: Path, target: Path) -> None:
    """Remove the staging folder, which after the swap is the old one; a later save removes what this one cannot."""
    with contextlib.suppress(OSError):
        recover_folder(target, backup_path(target))
    with contextlib.suppress(OSError):
        shutil.rmtree(stage, ignore_errors=True)


def _put_back(stage: Path, target: Path) -> None:
    """Undo the swap: ``stage`` holds the old folder, if there was one."""
    if stage.is_dir():
        replace_folder(stage, target, backup_path(target))
    else:
        os.rename(target, stage)


def _write(path: Path, content: bytes | FileWriter) -> FileRecord:
    """Create and fsync a file; its entry for the manifest."""
    if isinstance(content, bytes):
        with open(path, "xb") as file:
            file.write(content)
        record = FileRecord.of(content)
    else:
        record = content.write(path)
    with open(path, "r+b", buffering=0) as written:  # Windows syncs writable files only
        os.chmod(path, path.parent.stat().st_mode & 0o666)
        os.fsync(written.fileno())
    return record


def _target(folder: str | os.PathLike[str]) -> Path:
    """The real path of a folder that can be created or replaced."""
    if not os.fspath(folder):
        raise CheckpointWriteError("an empty path", hint="name a folder")
    target = Path(os.path.realpath(folder))
    try:
        is_folder = stat.S_ISDIR(os.stat(target).st_mode)
    except FileNotFoundError:
        if not target.parent.is_dir():
            hint = f"create {target.parent} first"
            raise CheckpointWriteError("its parent folder is missing", path=folder, hint=hint) from None
        return target
    if not is_folder:
        raise CheckpointWriteError("a file, not a folder", path=folder, hint="name a folder")
    if os.path.ismount(target):
        raise CheckpointWriteError("a mount point, which cannot be replaced", path=folder, hint="name a folder in it")
    return target


def _check_space(target: Path, needed: int) -> None:
    if shutil.disk_usage(target.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _refuse_obstacles(target: Path, files: Mapping[str, object]) -> None:
    for path in (target / name for name in files):
        if path.is_symlink() or path.is_dir():
            what = f"a link to {os.readlink(path)}" if path.is_symlink() else "a folder"
            raise CheckpointWriteError(f"{what} is in the way", path=path, hint="remove it, or save elsewhere")


def _old_manifest(target: Path) -> dict[str, FileRecord]:
    """The manifest of an earlier save in ``target``; empty where there is none, or it is unreadable."""
    try:
        with Snapshot(target) as snapshot:
            return snapshot.manifest()
    except CheckpointError:
        return {}


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _is_edited(path: Path, record: FileRecord | None) -> bool:
    """Whether there is a file at ``path`` that differs from its entry in the manifest."""
    return path.is_file() and (record is None or FileRecord.of(path.read_bytes()).sha256 != record.sha256)


def _keep(source: Path, destination: Path, not_kept: set[str]) -> None:
    """Link or copy the files of ``source`` into ``destination``, but for ``not_kept`` and names that it has."""
    for name in _names(source):
        if name in not_kept or name.startswith(TEMPORARY_PREFIX):
            continue
        if not os.path.lexists(destination / name):
            _link(source / name, destination / name)


def _link(source: Path, destination: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        destination.mkdir()
        for name in os.listdir(source):
            _link(source / name, destination / name)
        shutil.copystat(source, destination)
        return
    try:
        os.link(source, destination, follow_symlinks=False)
    except FileExistsError:  # a newer file, created meanwhile
        pass
    except (OSError, NotImplementedError):  # no hard links here, or not to another user's file
        shutil.copy2(source, destination, follow_symlinks=False)


def _remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders of saves that died."""
    for path in (parent / name for name in os.listdir(parent) if name.startswith(TEMPORARY_PREFIX)):
        if not _is_abandoned(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    """Whether the process of a temporary folder is dead or, where that is unknown, has been idle for an hour."""
    match = re.fullmatch(re.escape(TEMPORARY_PREFIX) + rf"{_HOST_HASH}-(\d{{1,9}})-[0-9a-f]+", path.name)
    try:
        if match and os.name == "posix":  # elsewhere this would send Ctrl-C to the process
            os.kill(int(match[1]), 0)
            return False
        newest = max(os.lstat(p).st_mtime for p in (path, *(path.iterdir() if path.is_dir() else ())))
    except ProcessLookupError:
        return True
    except OSError:  # another user's process, or the folder is gone by now
        return False
    return time.time() - newest > _MAX_IDLE_SECONDS


def _working_folder_in(target: Path) -> Path | None:
    """The working folder relative to ``target``, if it is ``target`` or inside it: it must follow the swap."""
    try:
        return Path(os.path.realpath(os.getcwd())).relative_to(target)
    except (ValueError, FileNotFoundError):
        return None


@contextlib.contextmanager
def _as_write_errors(folder: str | os.PathLike[str], needed: int) -> Iterator[None]:
    """Raise errors of the system as `CheckpointWriteError`; ``needed`` is in bytes, for a full disk."""
    try:
        yield
    except CheckpointError:
        raise
    except LockedError as error:
        message = f"locked by {error.owner} for more than {LOCK_TIMEOUT_SECONDS:.0f} s"
        raise CheckpointWriteError(message, path=folder, hint="wait for it, or end that process") from None
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        code, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        message, hint = f"cannot be written: {reason.lower()}", "check the path, its permissions and the disk"
        if code in _DISK_FULL:
            message, hint = f"{message}: {needed:,} bytes needed, {_free(folder)} free", "make room, or save elsewhere"
        failure = CheckpointWriteError(message, path=folder, hint=hint)
        failure.errno = code
        raise failure from error


def _free(folder: str | os.PathLike[str]) -> str:
    try:
        return f"{shutil.disk_usage(Path(os.path.realpath(folder)).parent).free:,}"
    except OSError:
        return "unknown"
