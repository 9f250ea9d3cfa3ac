"""Names of repos, revisions and files of the hub: each is checked before it is sent there or looked up in the cache."""

from __future__ import annotations

import re

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointUnsafeError, HubError

__all__ = [
    "COMMIT_PATTERN",
    "check_path",
    "check_repo",
    "check_revision",
    "check_subfolder",
    "is_hub_name",
    "masked",
    "parse_repo",
]

COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")
_NAME_PATTERN = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO_PATTERN = re.compile(rf"{_NAME_PATTERN}(?:/{_NAME_PATTERN})?")
_PREFIXES = ("hub:", "hf://")
_REVISION_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")


def is_hub_name(name: str) -> bool:
    """Whether ``name`` begins with a prefix of the hub, ``hub:`` or ``hf://``."""
    return name.startswith(_PREFIXES)


def parse_repo(text: str) -> tuple[str, str | None] | None:
    """The repo and the revision that ``text`` names; None if it cannot name a repo.

    Names of repos are ``hub:org/name``, ``hf://org/name`` and ``org/name``, each with or without ``@revision``. A name
    without an owner, such as ``gpt2``, needs a prefix.

    Raises:
        HubError: a prefix that no valid repo or revision follows.
    """
    prefix = next((prefix for prefix in _PREFIXES if text.startswith(prefix)), "")
    repo, at, revision = text.removeprefix(prefix).partition("@")
    if prefix:
        return check_repo(repo), check_revision(revision) if at else None
    if "/" not in repo or not _is_repo(repo) or (at and not _is_revision(revision)):
        return None
    return repo, revision if at else None


class _MaskedToken(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def masked(token: str | bool | None) -> str | bool | None:
    """The token, with a ``repr`` that hides it from crash reports."""
    return _MaskedToken(token) if isinstance(token, str) else token


def _is_repo(repo: str) -> bool:
    return (
        _REPO_PATTERN.fullmatch(repo) is not None
        and not any(part in repo for part in ("--", ".."))
        and repo[-4:] != ".git"
    )


def _is_revision(revision: str) -> bool:
    return _REVISION_PATTERN.fullmatch(revision) is not None and ".." not in revision and len(revision) <= 200


def check_repo(repo: str) -> str:
    if not isinstance(repo, str) or not _is_repo(repo):
        raise HubError(
            f"{short(repo)} is not the name of a repo", hint="a name is org/name, such as openai-community/gpt2"
        )
    return repo


def check_revision(revision: str) -> str:
    if not isinstance(revision, str) or not _is_revision(revision):
        hint = "name a branch, a tag or a commit of 40 digits"
        raise HubError(f"{short(revision)} is not a revision", hint=hint)
    return revision


def check_path(name: object, path: object, hint: str = "take another repo") -> str:
    """``name``, if it is a path within a folder on any system.

    Args:
        name: a file's or folder's name.
        path: the repo or folder, for messages.
        hint: the hint of the error.

    Raises:
        CheckpointUnsafeError: it is not.
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    unsafe = any(part in ("", ".", "..") or re.search(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:", part) for part in parts)
    if unsafe or max(len(part.encode("utf-8", "replace")) for part in parts) > 255:
        raise CheckpointUnsafeError(f"{short(name)} is not a path within it", path=path, hint=hint)
    return str(name)


def check_subfolder(subfolder: str | None, path: object) -> str:
    """``subfolder`` without a slash at its end, if it is a path within the repo or folder ``path``; "" for None.

    Raises:
        CheckpointUnsafeError: it is not.
    """
    hint = "set subfolder= to a folder in it"
    return check_path(str(subfolder).rstrip("/"), path, hint) if subfolder else ""
