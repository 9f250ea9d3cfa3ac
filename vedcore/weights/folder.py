"""Writing a folder so that a reader, or a crash at any moment, finds the old one or the new one, whole.

The order: everything is written to a folder beside the target and fsynced, the manifest last; the two folders are
exchanged in one step; the parent is fsynced; the old folder is dropped. What the user keeps in the target, that is,
all that no save of ours wrote or has a meaning for, and a ``README.md`` that was edited, is hard-linked (or copied)
into the new folder first and so survives. One saver works at a time where the file system has locks, and saves are
whole without them.
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
from vedcore.weights.snapshot import TEMPORARY, Snapshot, aside_of, check_name

__all__ = ["Written", "save_folder"]

LOCK_SECONDS = 10.0
_ABANDONED_SECONDS = 3600.0
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Written:
    """A file too large to hold: ``write`` makes it at a path, in about ``size`` bytes, and says what is in it."""

    size: int
    write: Callable[[Path], FileRecord]


def save_folder(
    folder: str | os.PathLike[str], files: Mapping[str, bytes | Written], replaces: re.Pattern[str] | None = None
) -> Path:
    """Make or replace ``folder`` such that it holds ``files``, a manifest of them, and what the user keeps there.

    Args:
        folder: its parent must exist; a link to a folder is followed.
        files: contents by plain file name.
        replaces: names that a model's folder has a meaning for: files of such names go, whoever wrote them.

    Returns:
        The folder's real path.

    Raises:
        CheckpointUnsafeError: a name that is no plain file name.
        CheckpointWriteError: it cannot be written; what was there before is unchanged.
    """
    for name in files:
        check_name(name, folder)
        if name == MANIFEST or name.startswith(TEMPORARY):
            raise CheckpointWriteError(f"{name} is a name of the folder's own", path=folder, hint="name it otherwise")
    needed = sum(len(content) if isinstance(content, bytes) else content.size for content in files.values())
    with _as_write_errors(folder, needed):
        target = _target(folder)
        _check_space(target, needed)
        digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]
        with locked(target.with_name(f".vedcore-lock-{digest}"), LOCK_SECONDS):
            recover_folder(target, aside_of(target))
            _sweep(target.parent)
            _replace(target, files, replaces)
    return target


def _replace(target: Path, files: Mapping[str, bytes | Written], replaces: re.Pattern[str] | None) -> None:
    old = _old_manifest(target)
    theirs = {CARD} if _edited(target / CARD, old.get(CARD)) else set()
    new = {name: content for name, content in files.items() if name not in theirs}
    superseded = {name for name in _names(target) if replaces is not None and replaces.fullmatch(name)}
    ours = {*new, *old, *superseded, MANIFEST} - theirs
    _check_in_the_way(target, new)
    inside = _working_folder_in(target)
    stage = target.with_name(f"{TEMPORARY}{_HOST}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        stage.mkdir()
        if target.is_dir():
            shutil.copymode(target, stage)
        _keep(target, stage, ours)
        records = {name: _write(stage / name, content) for name, content in new.items()}
        manifest = {"files": {name: record.as_json() for name, record in records.items()}}
        _write(stage / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        fsync_folder(stage)
        replace_folder(stage, target, aside_of(target))
        try:
            fsync_folder(target.parent)
            _keep(stage, target, ours)  # what came while we wrote
        except OSError:
            _put_back(stage, target)
            raise
    finally:
        try:
            _clean_up(stage, target)
        finally:
            _clean_up(stage, target)  # once more, where Ctrl-C came in between
        if inside is not None:
            with contextlib.suppress(OSError):
                os.chdir(target / inside)


def _clean_up(stage: Path, target: Path) -> None:
    """Drop the unfinished folder, or after the exchange the old one; what resists is left for a later save."""
    with contextlib.suppress(OSError):
        recover_folder(target, aside_of(target))
    with contextlib.suppress(OSError):
        shutil.rmtree(stage, ignore_errors=True)


def _put_back(stage: Path, target: Path) -> None:
    """Undo the exchange: ``stage`` holds the old folder, if there was one."""
    if stage.is_dir():
        replace_folder(stage, target, aside_of(target))
    else:
        os.rename(target, stage)


def _write(path: Path, content: bytes | Written) -> FileRecord:
    """Make a file, fsync it, and say what is in it."""
    if isinstance(content, bytes):
        with open(path, "xb") as file:
            file.write(content)
        record = FileRecord.of(content)
    else:
        record = content.write(path)
    with open(path, "r+b", buffering=0) as written:  # Windows syncs only what may be written
        os.chmod(path, path.parent.stat().st_mode & 0o666)
        os.fsync(written.fileno())
    return record


def _target(folder: str | os.PathLike[str]) -> Path:
    """The real path of a folder that may be made or replaced."""
    if not os.fspath(folder):
        raise CheckpointWriteError("an empty path", hint="name a folder")
    target = Path(os.path.realpath(folder))
    try:
        is_folder = stat.S_ISDIR(os.stat(target).st_mode)
    except FileNotFoundError:
        if not target.parent.is_dir():
            hint = f"make {target.parent} first"
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


def _check_in_the_way(target: Path, files: Mapping[str, object]) -> None:
    for path in (target / name for name in files):
        if path.is_symlink() or path.is_dir():
            what = f"a link to {os.readlink(path)}" if path.is_symlink() else "a folder"
            raise CheckpointWriteError(f"{what} is in the way", path=path, hint="remove it, or save elsewhere")


def _old_manifest(target: Path) -> dict[str, FileRecord]:
    """What an earlier save wrote to ``target``; empty where none did, or where its manifest is unreadable."""
    try:
        with Snapshot(target) as snapshot:
            return snapshot.manifest()
    except CheckpointError:
        return {}


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _edited(path: Path, record: FileRecord | None) -> bool:
    """Whether there is a file at ``path`` that is not the one of ``record``."""
    return path.is_file() and (record is None or FileRecord.of(path.read_bytes()).sha256 != record.sha256)


def _keep(source: Path, destination: Path, ours: set[str]) -> None:
    """Give ``destination`` all that is in ``source`` but ``ours`` and what it has, without taking it from there."""
    for name in _names(source):
        if name not in ours and not name.startswith(TEMPORARY) and not os.path.lexists(destination / name):
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
    except FileExistsError:  # it came meanwhile, and counts
        pass
    except (OSError, NotImplementedError):  # no hard links here, or none to a file of somebody else
        shutil.copy2(source, destination, follow_symlinks=False)


def _sweep(parent: Path) -> None:
    """Remove what savers that died left behind."""
    for path in (parent / name for name in os.listdir(parent) if name.startswith(TEMPORARY)):
        if not _abandoned(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _abandoned(path: Path) -> bool:
    """Whether the writer of a temporary name is dead, or, where that cannot be told, has been idle for an hour."""
    match = re.fullmatch(re.escape(TEMPORARY) + rf"{_HOST}-(\d{{1,9}})-[0-9a-f]+", path.name)
    try:
        if match and os.name == "posix":  # elsewhere this would send Ctrl-C to the process
            os.kill(int(match[1]), 0)
            return False
        newest = max(os.lstat(p).st_mtime for p in (path, *(path.iterdir() if path.is_dir() else ())))
    except ProcessLookupError:
        return True
    except OSError:  # another user's process; gone by now
        return False
    return time.time() - newest > _ABANDONED_SECONDS


def _working_folder_in(target: Path) -> Path | None:
    """The process's working folder relative to ``target``, if it is that or lies in it: it must move along."""
    try:
        return Path(os.path.realpath(os.getcwd())).relative_to(target)
    except (ValueError, FileNotFoundError):
        return None


@contextlib.contextmanager
def _as_write_errors(folder: str | os.PathLike[str], needed: int) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except LockedError as error:
        message = f"locked by {error.owner} for more than {LOCK_SECONDS:.0f} s"
        raise CheckpointWriteError(message, path=folder, hint="wait for it, or end that process") from None
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        code, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        message, hint = f"cannot be written: {reason.lower()}", "check the path, its permissions and the disk"
        if code in _FULL:
            message, hint = f"{message}: {needed:,} bytes needed, {_free(folder)} free", "make room, or save elsewhere"
        failure = CheckpointWriteError(message, path=folder, hint=hint)
        failure.errno = code
        raise failure from error


def _free(folder: str | os.PathLike[str]) -> str:
    try:
        return f"{shutil.disk_usage(Path(os.path.realpath(folder)).parent).free:,}"
    except OSError:
        return "unknown"
