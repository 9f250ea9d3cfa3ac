"""The cache of huggingface_hub: the folder of a repo, and files compared with the hashes in their names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vedcore.errors import HubError
from vedcore.hub.failures import with_hub_errors
from vedcore.hub.names import COMMIT_PATTERN, check_repo

__all__ = [
    "DANGLING_LINK",
    "ETAG_PATTERN",
    "HASH_MISMATCH",
    "REF_WITHOUT_COMMIT",
    "Damage",
    "cache_folder",
    "etag_of",
    "expected_hashes",
    "intact",
    "read_ref",
    "remove",
    "repair",
    "repo_folder",
    "verify",
]

ETAG_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""Names of blobs: sha256, git's sha1, or another hub's etags."""

# problems of cached files, links and refs
HASH_MISMATCH = "its bytes do not match its hash"
DANGLING_LINK = "a link to a file that is not there"
REF_WITHOUT_COMMIT = "no commit in it"


def expected_hashes(folder: str | os.PathLike[str]) -> dict[str, str]:
    """The sha256 of a cached folder's large files, by name, from the targets of their links.

    Files without a sha256 are left out: git's small files, and all files of a folder outside the cache.
    """
    etags = {name: etag_of(Path(folder, name)) for name in (os.listdir(folder) if os.path.isdir(folder) else ())}
    return {name: etag for name, etag in etags.items() if etag and re.fullmatch(r"[0-9a-f]{64}", etag)}


class Damage(NamedTuple):
    """A damaged file, link or ref of the cache."""

    repo: str
    path: str
    """The file, link or ref."""
    problem: str


def verify(repo: str | None = None) -> tuple[int, list[Damage]]:
    """Read all cached files of a repo, or of every repo, and compare them with the hashes in their names.

    Returns:
        The number of files read, and the damage: files that do not match their hash, links to files that are not there,
        refs without a commit.

    Raises:
        HubError: the repo is not in the cache.
    """
    if repo is not None and not repo_folder(check_repo(repo)).is_dir():
        raise HubError("not in the cache", path=repo, hint=f"run `vedcore pull {repo}`")
    folders = sorted(cache_folder().glob("models--*")) if repo is None else [repo_folder(repo)]
    count, damaged = 0, []
    for folder in folders:
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        blobs = [path for path in _files(folder / "blobs") if not path.name.endswith(".incomplete")]
        count += len(blobs)
        found = [(path, HASH_MISMATCH) for path in blobs if not intact(path, path.name)]
        found += [(path, DANGLING_LINK) for path in _files(folder / "snapshots") if not path.exists()]
        refs = [path for path in _files(folder / "refs") if not path.name.endswith(".tmp")]
        found += [(path, REF_WITHOUT_COMMIT) for path in refs if read_ref(path) is None]
        damaged += [Damage(name, str(path), problem) for path, problem in found]
    return count, damaged


def repair(repo: str) -> list[Damage]:
    """Remove the damaged files of a repo's cache, and return them; `fetch_folder` then fetches them again."""
    damaged = verify(repo)[1] if repo_folder(check_repo(repo)).is_dir() else []
    for damage in damaged:
        with_hub_errors(partial(remove, Path(damage.path), cache_folder()), repo)
    return damaged


def remove(path: Path, cache: Path) -> None:
    """Remove a file of a cache, and the target of its link if it is in the cache: a blob, which repos may share."""
    target = Path(os.path.realpath(path))
    path.unlink(missing_ok=True)
    if cache.resolve() in target.parents:
        target.unlink(missing_ok=True)


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a cache; None is ``HF_HUB_CACHE``."""
    from huggingface_hub import constants

    return Path(os.path.abspath(os.path.expanduser(constants.HF_HUB_CACHE if cache_dir is None else cache_dir)))


def repo_folder(repo: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a repo in a cache."""
    return cache_folder(cache_dir) / f"models--{repo.replace('/', '--')}"


def read_ref(path: Path) -> str | None:
    """The commit in a ref; None if it holds none."""
    text = path.read_bytes().decode("ascii", "replace").strip() if path.is_file() else ""
    return text if COMMIT_PATTERN.fullmatch(text) else None


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def etag_of(path: Path) -> str | None:
    """The name of the blob that a cached file links to; None if it does not link to a blob."""
    match = re.fullmatch(
        rf"(?:\.\./){{2,}}blobs/({ETAG_PATTERN.pattern})", os.readlink(path) if path.is_symlink() else ""
    )
    return match[1] if match else None


def intact(path: Path, etag: str | None) -> bool:
    """Whether a file matches its etag, a sha256 or git's sha1; True for an etag that is neither."""
    if etag is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        return True
    try:
        with open(path, "rb") as file:
            git = partial(hashlib.sha1, b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
            return hashlib.file_digest(file, git if len(etag) == 40 else hashlib.sha256).hexdigest() == etag
    except OSError:
        return False
