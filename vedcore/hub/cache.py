"""The cache of huggingface_hub: where a repo is in it, and whether its bytes are those that their names say."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vedcore.errors import HubError
from vedcore.hub.failures import translated
from vedcore.hub.names import COMMIT, check_repo

__all__ = [
    "DANGLING",
    "ETAG",
    "NO_COMMIT",
    "OTHER_BYTES",
    "Damage",
    "cache_of",
    "etag_of",
    "expected_hashes",
    "intact",
    "read_ref",
    "remove",
    "repair",
    "storage_of",
    "verify",
]

ETAG = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""The name of a blob: sha256, git's sha1, or what another hub has in their place."""
DANGLING, NO_COMMIT = "a link that leads nowhere", "no commit in it"
OTHER_BYTES = "not the bytes that its hash says"


def expected_hashes(folder: str | os.PathLike[str]) -> dict[str, str]:
    """The sha256 of a cached folder's large files, by name, from where their links lead.

    Files without one, such as git's small ones and all files of a folder that is not of the cache, are left out.
    """
    etags = {name: etag_of(Path(folder, name)) for name in (os.listdir(folder) if os.path.isdir(folder) else ())}
    return {name: etag for name, etag in etags.items() if etag and re.fullmatch(r"[0-9a-f]{64}", etag)}


class Damage(NamedTuple):
    """A damaged place in the cache."""

    repo: str
    path: str
    """The file, link or ref."""
    problem: str


def verify(repo: str | None = None) -> tuple[int, list[Damage]]:
    """Read every cached file of a repo, or of all, and compare it with its name.

    Returns:
        How many files were read, and what is damaged: files of other bytes than their hash says, links that lead
        nowhere, branches without a commit.

    Raises:
        HubError: the repo is not in the cache.
    """
    if repo is not None and not storage_of(check_repo(repo)).is_dir():
        raise HubError("not in the cache", path=repo, hint=f"run `vedcore pull {repo}`")
    folders = sorted(cache_of().glob("models--*")) if repo is None else [storage_of(repo)]
    count, damaged = 0, []
    for folder in folders:
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        blobs = [path for path in _files(folder / "blobs") if not path.name.endswith(".incomplete")]
        count += len(blobs)
        found = [(path, OTHER_BYTES) for path in blobs if not intact(path, path.name)]
        found += [(path, DANGLING) for path in _files(folder / "snapshots") if not path.exists()]
        refs = [path for path in _files(folder / "refs") if not path.name.endswith(".tmp")]
        found += [(path, NO_COMMIT) for path in refs if read_ref(path) is None]
        damaged += [Damage(name, str(path), problem) for path, problem in found]
    return count, damaged


def repair(repo: str) -> list[Damage]:
    """Remove what is damaged of a repo's cache, so that the next `fetch_folder` gets it again; what was removed."""
    damaged = verify(repo)[1] if storage_of(check_repo(repo)).is_dir() else []
    for damage in damaged:
        translated(partial(remove, Path(damage.path), cache_of()), repo)
    return damaged


def remove(path: Path, cache: Path) -> None:
    """Remove a file of a cache, and the one that it leads to within it: a blob, or one that repos share."""
    target = Path(os.path.realpath(path))
    path.unlink(missing_ok=True)
    if cache.resolve() in target.parents:
        target.unlink(missing_ok=True)


def cache_of(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a cache; None is ``HF_HUB_CACHE``."""
    from huggingface_hub import constants

    return Path(os.path.abspath(os.path.expanduser(constants.HF_HUB_CACHE if cache_dir is None else cache_dir)))


def storage_of(repo: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a repo in a cache."""
    return cache_of(cache_dir) / f"models--{repo.replace('/', '--')}"


def read_ref(path: Path) -> str | None:
    """The commit in a ref; None where it holds none."""
    text = path.read_bytes().decode("ascii", "replace").strip() if path.is_file() else ""
    return text if COMMIT.fullmatch(text) else None


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def etag_of(path: Path) -> str | None:
    """The name of the blob that a file of the cache is a link to; None where it is not one."""
    match = re.fullmatch(rf"(?:\.\./){{2,}}blobs/({ETAG.pattern})", os.readlink(path) if path.is_symlink() else "")
    return match[1] if match else None


def intact(path: Path, etag: str | None) -> bool:
    """Whether a file's bytes are those of its etag: sha256, or git's sha1; True where it is neither."""
    if etag is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        return True
    try:
        with open(path, "rb") as file:
            git = partial(hashlib.sha1, b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
            return hashlib.file_digest(file, git if len(etag) == 40 else hashlib.sha256).hexdigest() == etag
    except OSError:
        return False
