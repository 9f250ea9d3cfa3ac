"""The files of a model, or of adapters, at one commit, from the cache or the hub."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointUnsafeError, HubError, UsageError
from vedcore.hub import cache
from vedcore.hub.failures import with_hub_errors
from vedcore.hub.names import (
    COMMIT_PATTERN,
    check_path,
    check_repo,
    check_revision,
    check_subfolder,
    masked,
    parse_repo,
)
from vedcore.model_files import CONFIG, SETTINGS_FILES, WEIGHT_LAYOUTS
from vedcore.weights.snapshot import Snapshot, check_name, json_object
from vedcore.weights.unwrapping import ADAPTER_CONFIG, ADAPTER_WEIGHTS

__all__ = ["FetchOptions", "fetch_folder", "from_hub"]

T = TypeVar("T")

MAX_REHASHED_BYTES = 16 << 20
"""Size of the largest cached file that each fetch hashes again; the loader hashes larger files."""


class FetchOptions(TypedDict, total=False):
    """Options of `fetch_folder`; see there."""

    subfolder: str | None
    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool


def from_hub(name: str, revision: str | None = None, **options: Unpack[FetchOptions]) -> Path:
    """The cached folder of the repo that ``name`` means, see `parse_repo`.

    Args:
        name: ``org/name``, with or without ``hub:`` before it and ``@revision`` after it.
        revision: a branch, a tag or a commit; None takes that in ``name``, else ``main``.
        options: as `fetch_folder`.

    Raises:
        UsageError: two different revisions.
        HubError, CheckpointUnsafeError: as `fetch_folder`.
    """
    parsed = parse_repo(name)
    assert parsed is not None  # its callers have a name with a prefix, or one that parses
    repo, named = parsed
    if named is not None and revision not in (None, named):
        raise UsageError(f"{revision!r}, but {name!r} names {named!r}", field="revision", hint="give only one of them")
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
    """The folder in huggingface_hub's cache with a model's files at one commit; missing files are fetched.

    The files are settings, the tokenizer and one set of weights. A commit that is cached completely is used without the
    network. Offline (``HF_HUB_OFFLINE=1``) a branch or tag means the commit that was last fetched for it.

    Args:
        repo: ``org/name``.
        revision: a branch, a tag or a commit of 40 digits; None is ``main``.
        subfolder: the folder of the repo with the model; None is the repo itself.
        token: as huggingface_hub takes it; None is ``HF_TOKEN`` or the login's.
        cache_dir: the cache; None is ``HF_HUB_CACHE``.
        local_files_only: do not use the network, as offline.

    Raises:
        HubError: no such repo, revision or file; no access; no answer in time; a file that does not match the hub's
            hash; a cache that is damaged, incomplete or not writable.
        CheckpointUnsafeError: a file name, or ``subfolder``, that leads out of the folder.
    """
    from huggingface_hub import constants

    token = masked(token)
    revision = "main" if revision is None else check_revision(revision)
    fetch = _Fetch(check_repo(repo), revision, check_subfolder(subfolder, repo), token, cache_dir)
    if local_files_only or constants.HF_HUB_OFFLINE:
        return fetch.offline("local_files_only" if local_files_only else "HF_HUB_OFFLINE")
    if COMMIT_PATTERN.fullmatch(revision):
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
        """The snapshot of the commit that was last fetched for the revision."""
        if COMMIT_PATTERN.fullmatch(self.revision):
            return self.from_cache(self.revision)
        ref = self._ref_path()
        if not ref.exists():
            what = f"revision {self.revision!r} is not in the cache, and {setting} is set"
            hint = f"name a cached commit, or run {self._pull_command('online')}"
            raise HubError(what, path=self.repo, hint=hint)
        commit = cache.read_ref(ref)
        if commit is None:
            raise self._damaged(ref, cache.REF_WITHOUT_COMMIT)
        return self.from_cache(commit)

    def from_cache(self, commit: str) -> Path:
        """The snapshot of a commit, without the network.

        Raises:
            HubError: a file of the model is missing or damaged.
        """
        folder = self._snapshot(commit)
        names = os.listdir(folder) if os.access(folder, os.R_OK) else []
        due = ADAPTER_WEIGHTS if CONFIG not in names else (name for layout in WEIGHT_LAYOUTS for name in layout)
        if not any(name in names for name in due):  # a fetch was interrupted
            what = f"no {'weights' if names else 'files'} in the cache for {self.revision!r}"
            raise HubError(what, path=self.repo, hint=f"run {self._pull_command('online')}")
        return self._complete(commit, names, online=False)

    def from_hub(self) -> Path:
        """The snapshot of the commit that the revision now means; missing files are fetched."""
        from huggingface_hub import HfApi, constants

        timeout = constants.HF_HUB_ETAG_TIMEOUT  # the library's calls for a listing have none
        ask = partial(HfApi(token=self.token).model_info, self.repo, revision=self.revision, timeout=timeout)
        info = self._with_hub_errors(ask, self.repo)
        commit = str(info.sha)
        if not COMMIT_PATTERN.fullmatch(commit):
            raise HubError(f"{short(commit)} is not a commit", path=self.repo, hint="check HF_ENDPOINT")
        paths = [check_path(sibling.rfilename, self.repo) for sibling in info.siblings or []]
        names = {path.removeprefix(self._prefix) for path in paths if path.startswith(self._prefix)}
        if not names & {CONFIG, ADAPTER_CONFIG}:
            what = f"no {self._prefix}{CONFIG} in it at {self.revision!r}"
            raise HubError(what, path=self.repo, hint="name a model's repo, or another revision or subfolder")
        folder = self._complete(commit, names, online=True)
        self._write_ref(commit)
        return folder

    def _complete(self, commit: str, names: Collection[str], *, online: bool) -> Path:
        """The snapshot of a commit with all files of ``names`` that a model needs; small files match their hashes."""
        folder = self._snapshot(commit)
        for name in _needed_files(names, folder):
            path = folder / name
            if name not in names:
                hint = "name another revision" if online else f"run {self._pull_command('online')}"
                raise HubError(
                    f"{short(name)} is named in the index of the weights, and is missing", path=self.repo, hint=hint
                )
            if not path.exists():
                if not online:
                    raise self._damaged(path, cache.DANGLING_LINK)
                download = partial(self._download, commit, f"{self._prefix}{name}", path)
                self._with_hub_errors(download, f"{self.repo}/{self._prefix}{name}")
            elif path.stat().st_size <= MAX_REHASHED_BYTES and not cache.intact(path, cache.etag_of(path)):
                raise self._damaged(path, cache.HASH_MISMATCH)
        return folder

    def _download(self, commit: str, file: str, path: Path) -> None:
        """Fetch one file, and compare it with its hash, as the library compares sizes only.

        It runs in this thread, where Ctrl-C ends it at once; ``snapshot_download`` ends when its threads have their
        files.
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

        where = f"{self.repo}/{file}"
        url, timeout = hf_hub_url(self.repo, file, revision=commit), constants.HF_HUB_ETAG_TIMEOUT
        announced = get_hf_file_metadata(url, token=self.token, timeout=timeout, retry_on_errors=True)
        if announced.commit_hash != commit:
            raise HubError(f"the hub answers for commit {short(announced.commit_hash)}", path=where, hint="try again")
        if not cache.ETAG_PATTERN.fullmatch(announced.etag or ""):  # the library writes to a path made of it
            what = f"{short(announced.etag)} is not the hash of a file"
            raise CheckpointUnsafeError(what, path=where, hint="check HF_ENDPOINT")
        cache_dir = cache.cache_folder(self.cache_dir)
        hf_hub_download(self.repo, file, revision=commit, token=self.token, cache_dir=cache_dir)
        if not cache.intact(path, announced.etag):
            cache.remove(path, cache_dir)
            hint = f"is a proxy in between? run `vedcore cache verify {self.repo}`, and {self._pull_command('again')}"
            raise HubError("the bytes that came do not match the hub's hash", path=where, hint=hint)

    def _with_hub_errors(self, call: Callable[[], T], where: str) -> T:
        setting = "HF_HUB_CACHE" if self.cache_dir is None else "cache_dir="
        return with_hub_errors(call, where, self.revision, cached=partial(self.offline, ""), cache_setting=setting)

    def _write_ref(self, commit: str) -> None:
        """Record the revision's commit, after all of its files: offline, a ref never means an incomplete commit."""
        ref = self._ref_path()
        if self.revision == commit or cache.read_ref(ref) == commit:
            return
        staged = ref.with_name(f"{ref.name}.{secrets.token_hex(4)}.tmp")
        with contextlib.suppress(OSError):  # a read-only cache still serves its files
            ref.parent.mkdir(parents=True, exist_ok=True)
            staged.write_text(commit)
            os.replace(staged, ref)

    @property
    def _prefix(self) -> str:
        return f"{self.subfolder}/" if self.subfolder else ""

    def _snapshot(self, commit: str) -> Path:
        return cache.repo_folder(self.repo, self.cache_dir) / "snapshots" / commit / self.subfolder

    def _ref_path(self) -> Path:
        return cache.repo_folder(self.repo, self.cache_dir) / "refs" / self.revision

    def _damaged(self, path: Path, problem: str) -> HubError:
        hint = f"`vedcore cache verify {self.repo}` lists the damage, {self._pull_command('gets it again')}"
        return HubError(problem, path=path, hint=hint)

    def _pull_command(self, then: str) -> str:
        """The command that fetches the same, followed by ``then`` and the cache, if it is not the default."""
        revision = ["--revision", self.revision] if self.revision != "main" else []
        subfolder = ["--subfolder", self.subfolder] if self.subfolder else []
        cache_dir = f", with HF_HUB_CACHE={os.fspath(self.cache_dir)}" if self.cache_dir is not None else ""
        return f"`vedcore pull {shlex.join([self.repo, *revision, *subfolder])}` {then}{cache_dir}"


def _needed_files(names: Collection[str], folder: Path) -> Iterator[str]:
    """The files of ``names`` that a model needs, weights last; an index is read after the caller has fetched it."""
    yield from sorted(filter(SETTINGS_FILES.fullmatch, names))
    if ADAPTER_CONFIG in names:
        yield from (ADAPTER_CONFIG, *[name for name in ADAPTER_WEIGHTS if name in names][:1])
    for single, index in WEIGHT_LAYOUTS:
        if single in names:
            yield single
            return
        if index in names:
            yield index
            with Snapshot(folder) as snapshot:
                weight_map = json_object(snapshot.read(index), folder / index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise HubError("no weight_map in it", path=folder / index, hint="name another revision")
            yield from sorted({check_name(name, folder / index) for name in weight_map.values()})
            return
