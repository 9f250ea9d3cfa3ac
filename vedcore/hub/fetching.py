"""A model's files, of one commit, from the cache or the hub."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointUnsafeError, HubError, UsageError
from vedcore.hub import cache
from vedcore.hub.failures import translated
from vedcore.hub.names import COMMIT, check_path, check_repo, check_revision, check_subfolder, masked, parse_repo
from vedcore.model_files import CONFIG, SETTINGS_FILES, WEIGHT_LAYOUTS
from vedcore.weights.snapshot import Snapshot, check_name, json_object

__all__ = ["FetchOptions", "fetch_folder", "from_hub"]

_SMALL = 16 << 20
"""Bytes of a file that is hashed at every fetch."""


class FetchOptions(TypedDict, total=False):
    """Options of `fetch_folder`, which says what they mean."""

    subfolder: str | None
    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool


def from_hub(name: str, revision: str | None = None, **options: Unpack[FetchOptions]) -> Path:
    """The folder of a repo: ``org/name``, with ``hub:`` before it and ``@revision`` behind it or without.

    Raises:
        UsageError: two revisions.
        HubError, CheckpointUnsafeError: as `fetch_folder`.
    """
    parsed = parse_repo(name)
    if parsed is None:
        raise HubError(f"{short(name)} is no repository", hint="write org/name, or org/name@revision")
    repo, named = parsed
    if named is not None and revision not in (None, named):
        raise UsageError(f"{revision!r}, but {name!r} names {named!r}", field="revision", hint="give one of them")
    return fetch_folder(repo, revision or named, **options)


def fetch_folder(
    repo: str,
    revision: str | None = None,
    *,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder, in huggingface_hub's cache, with a model's files as one commit has them; missing ones are fetched.

    These are settings, the tokenizer and one set of weights. A commit of which all is cached is used without the
    network. Offline (``HF_HUB_OFFLINE=1``) a branch or tag is the commit that was fetched for it last.

    Args:
        repo: ``org/name``.
        revision: a branch, a tag or a commit of 40 digits; None is ``main``.
        subfolder: the folder of the repo that has the model; None is the repo itself.
        token: as huggingface_hub takes it; None is ``HF_TOKEN`` or the login's.
        cache_dir: the cache; None is ``HF_HUB_CACHE``.
        local_files_only: do without the network, as offline.

    Raises:
        HubError: no such repo, revision or file; no access; no answer in time; other bytes than were promised; a
            cache that is damaged, incomplete or not writable.
        CheckpointUnsafeError: a file name, or ``subfolder``, that leads out of the folder.
    """
    from huggingface_hub import constants

    token = masked(token)
    revision = "main" if revision is None else check_revision(revision)
    fetch = _Fetch(check_repo(repo), revision, check_subfolder(subfolder, repo), token, cache_dir)
    if local_files_only or constants.HF_HUB_OFFLINE:
        return fetch.offline("local_files_only" if local_files_only else "HF_HUB_OFFLINE")
    if COMMIT.fullmatch(revision):
        with contextlib.suppress(HubError):  # the hub gives what is missing
            return fetch.from_cache(revision)
    return fetch.from_hub()


@dataclass(frozen=True)
class _Fetch:
    """One call of `fetch_folder`."""

    repo: str
    revision: str
    subfolder: str
    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None

    def offline(self, setting: str) -> Path:
        """The snapshot of the commit that the revision was when it was fetched last."""
        if COMMIT.fullmatch(self.revision):
            return self.from_cache(self.revision)
        ref = self._ref()
        if not ref.exists():
            what = f"revision {self.revision!r} is not in the cache, and {setting} is set"
            hint = f"set revision= to a cached commit, or run {self._pull('online')}"
            raise HubError(what, path=self.repo, hint=hint)
        commit = cache.read_ref(ref)
        if commit is None:
            raise self._damaged(ref, cache.NO_COMMIT)
        return self.from_cache(commit)

    def from_cache(self, commit: str) -> Path:
        """The snapshot of a commit, if all that a model needs is in it."""
        folder = self._folder(commit)
        names = os.listdir(folder) if os.access(folder, os.R_OK) else []
        if not any(name in names for layout in WEIGHT_LAYOUTS for name in layout):  # where a fetch was cut short
            what = f"no {'weights' if names else 'files'} in the cache for {self.revision!r}"
            raise HubError(what, path=self.repo, hint=f"run {self._pull('online')}")
        return self._take(commit, names, online=False)

    def from_hub(self) -> Path:
        """The snapshot of the commit that the revision is now, with what was missing fetched."""
        from huggingface_hub import HfApi, constants

        timeout = constants.HF_HUB_ETAG_TIMEOUT  # the library's own calls for a listing have none
        ask = partial(HfApi(token=self.token).model_info, self.repo, revision=self.revision, timeout=timeout)
        info = translated(ask, self.repo, self.revision)
        commit = str(info.sha)
        if not COMMIT.fullmatch(commit):
            raise HubError(f"{short(commit)} is no commit", path=self.repo, hint="check HF_ENDPOINT")
        paths = [check_path(sibling.rfilename, self.repo) for sibling in info.siblings or []]
        names = {path.removeprefix(self._start) for path in paths if path.startswith(self._start)}
        if CONFIG not in names:
            what = f"no {self._start}{CONFIG} in it at {self.revision!r}"
            raise HubError(what, path=self.repo, hint="name a model's repo, or another revision= or subfolder=")
        folder = self._take(commit, names, online=True)
        self._note(commit)
        return folder

    def _take(self, commit: str, names: Collection[str], *, online: bool) -> Path:
        """The snapshot of a commit, with all that a model needs of ``names``; small files are what their hash says."""
        folder = self._folder(commit)
        for name in _needed(names, folder):
            path = folder / name
            if name not in names:
                hint = "set another revision=" if online else f"run {self._pull('online')}"
                raise HubError(f"{short(name)} is in its index only", path=self.repo, hint=hint)
            if not path.exists():
                if not online:
                    raise self._damaged(path, cache.DANGLING)
                get = partial(self._download, commit, f"{self._start}{name}", path)
                translated(get, f"{self.repo}/{self._start}{name}", self.revision)
            elif path.stat().st_size <= _SMALL and not cache.intact(path, cache.etag_of(path)):
                raise self._damaged(path, cache.OTHER_BYTES)
        return folder

    def _download(self, commit: str, file: str, path: Path) -> None:
        """Fetch one file and compare it with its hash, for the library compares the size alone.

        In this thread: Ctrl-C ends it at once, and ``snapshot_download`` only when its threads have their files.
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

        where = f"{self.repo}/{file}"
        url, timeout = hf_hub_url(self.repo, file, revision=commit), constants.HF_HUB_ETAG_TIMEOUT
        promised = get_hf_file_metadata(url, token=self.token, timeout=timeout, retry_on_errors=True)
        if promised.commit_hash != commit:
            raise HubError(f"it answers for commit {short(promised.commit_hash)}", path=where, hint="run it again")
        if not cache.ETAG.fullmatch(promised.etag or ""):  # the library would write to where it leads
            what = f"{short(promised.etag)} is no hash of a file"
            raise CheckpointUnsafeError(what, path=where, hint="check HF_ENDPOINT")
        place = cache.cache_of(self.cache_dir)
        hf_hub_download(self.repo, file, revision=commit, token=self.token, cache_dir=place)
        if not cache.intact(path, promised.etag):
            cache.remove(path, place)
            hint = f"is a proxy in between? run `vedcore cache verify {self.repo}`, and {self._pull('again')}"
            raise HubError("other bytes came than the hub's hash says", path=where, hint=hint)

    def _note(self, commit: str) -> None:
        """Write what the revision was: the last step, so that offline it never means half a commit."""
        ref = self._ref()
        if self.revision == commit or cache.read_ref(ref) == commit:
            return
        staged = ref.with_name(f"{ref.name}.{secrets.token_hex(4)}.tmp")
        with contextlib.suppress(OSError):  # a cache that is read-only serves what it has
            ref.parent.mkdir(parents=True, exist_ok=True)
            staged.write_text(commit)
            os.replace(staged, ref)

    @property
    def _start(self) -> str:
        return f"{self.subfolder}/" if self.subfolder else ""

    def _folder(self, commit: str) -> Path:
        return cache.storage_of(self.repo, self.cache_dir) / "snapshots" / commit / self.subfolder

    def _ref(self) -> Path:
        return cache.storage_of(self.repo, self.cache_dir) / "refs" / self.revision

    def _damaged(self, path: Path, problem: str) -> HubError:
        hint = f"`vedcore cache verify {self.repo}` lists the damage, {self._pull('gets it again')}"
        return HubError(problem, path=path, hint=hint)

    def _pull(self, words: str) -> str:
        """The line to type that fetches the same, some words, and the cache if it is another one."""
        revision = ["--revision", self.revision] if self.revision != "main" else []
        subfolder = ["--subfolder", self.subfolder] if self.subfolder else []
        place = f", with HF_HUB_CACHE={os.fspath(self.cache_dir)}" if self.cache_dir is not None else ""
        return f"`vedcore pull {shlex.join([self.repo, *revision, *subfolder])}` {words}{place}"


def _needed(names: Collection[str], folder: Path) -> Iterator[str]:
    """What a model needs of ``names``, weights last; an index is read once it was taken."""
    yield from sorted(filter(SETTINGS_FILES.fullmatch, names))
    for single, index in WEIGHT_LAYOUTS:
        if single in names:
            yield single
            return
        if index in names:
            yield index
            with Snapshot(folder) as snapshot:
                weight_map = json_object(snapshot.read(index), folder / index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise HubError("no weight_map in it", path=folder / index, hint="set another revision=")
            yield from sorted({check_name(name, folder / index) for name in weight_map.values()})
            return
