"""The cache of huggingface_hub: where a repo is in it, and whether its bytes are those that their names say."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vedcore.errors import HubError
from vedcore.hub.names import COMMIT, check_repo
from vedcore.hub.patience import cache_error

__all__ = [
    "Damage",
    "damaged_error",
    "etag_of",
    "expected_hashes",
    "intact",
    "read_ref",
    "repair",
    "storage_of",
    "verify",
]

_LINK = re.compile(r"\.\./\.\./blobs/([A-Za-z0-9_-]+)")


def expected_hashes(folder: str | os.PathLike[str]) -> dict[str, str]:
    """The sha256 of a cached folder's large files, by name, from where their links lead.

    Files without one, such as git's small ones and all files of a folder that is not of the cache, are left out.
    """
    etags = {name: etag_of(Path(folder, name)) for name in (os.listdir(folder) if os.path.isdir(folder) else ())}
    return {name: etag for name, etag in etags.items() if etag and re.fullmatch(r"[0-9a-f]{64}", etag)}


class Damage(NamedTuple):
    """What is wrong in the cache."""

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
    folders = sorted(_cache().glob("models--*")) if repo is None else [storage_of(repo)]
    count, damaged = 0, []
    for folder in folders:
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        blobs = [path for path in _files(folder / "blobs") if not path.name.endswith(".incomplete")]
        count += len(blobs)
        found = [(path, "not the bytes that its hash says") for path in blobs if not intact(path, path.name)]
        found += [(path, "a link that leads nowhere") for path in _files(folder / "snapshots") if not path.exists()]
        refs = [path for path in _files(folder / "refs") if not path.name.endswith(".tmp")]
        found += [(path, "no commit in it") for path in refs if read_ref(path) is None]
        damaged += [Damage(name, str(path), problem) for path, problem in found]
    return count, damaged


def repair(repo: str) -> list[Damage]:
    """Remove what is damaged of a repo's cache, so that the next `fetch_folder` gets it again; what was removed."""
    if not storage_of(check_repo(repo)).is_dir():
        return []
    damaged = verify(repo)[1]
    failure: HubError | None = None
    try:
        for damage in damaged:
            for path in {damage.path, os.path.realpath(damage.path)}:  # a blob may be a link to one that repos share
                Path(path).unlink(missing_ok=True)
    except OSError as error:
        failure = cache_error(error, repo)
    if failure:
        raise failure
    return damaged


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(os.path.abspath(os.path.expanduser(constants.HF_HUB_CACHE)))


def storage_of(repo: str) -> Path:
    return _cache() / f"models--{repo.replace('/', '--')}"


def read_ref(path: Path) -> str | None:
    """The commit in a ref; None where it holds none."""
    try:
        text = path.read_bytes()[:100].decode("ascii", "replace").strip()
    except OSError:
        return None
    return text if COMMIT.fullmatch(text) else None


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def etag_of(path: Path) -> str | None:
    """The name of the blob that a file of the cache is a link to."""
    try:
        match = _LINK.fullmatch(os.readlink(path))
    except OSError:
        return None
    return match[1] if match else None


def intact(path: Path, etag: str) -> bool:
    """Whether a file's bytes are those of its etag: sha256, or git's sha1; True where it is neither."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        return True
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256() if len(etag) == 64 else hashlib.sha1(usedforsecurity=False)
            if len(etag) == 40:
                digest.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    except OSError:
        return False
    return digest.hexdigest() == etag


def damaged_error(repo: str, path: Path, problem: str) -> HubError:
    hint = f"`vedcore cache verify {repo}` lists the damage, `vedcore pull {repo}` gets it again"
    return HubError(problem, path=path, hint=hint)
