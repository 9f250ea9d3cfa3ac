"""A model's files, of one commit, from the cache or the hub."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from vedcore.config_files.plain import short
from vedcore.errors import HubError
from vedcore.hub.cache import damaged_error, etag_of, intact, read_ref, storage_of
from vedcore.hub.names import COMMIT, Token, check_path, check_repo, check_revision
from vedcore.hub.patience import Patience
from vedcore.weights.snapshot import MAX_JSON_BYTES, check_name, json_object

__all__ = ["fetch_folder"]

_SETTINGS = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "manifest.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt",
)  # fmt: skip
_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_SMALL = 16 << 20
"""Bytes of a file that is hashed at every fetch."""


def fetch_folder(
    repo: str,
    revision: str | None = None,
    *,
    only: Callable[[str], bool] | None = None,
    token: str | bool | None = None,
) -> Path:
    """The folder, in huggingface_hub's cache, with a model's files as one commit has them; missing ones are fetched.

    A commit of which all is cached is used without the network. Offline (``HF_HUB_OFFLINE=1``) a branch or tag is the
    commit that was fetched for it last.

    Args:
        repo: ``org/name``.
        revision: a branch, a tag or a commit of 40 digits; None is ``main``.
        only: which of the files to fetch, by name; None is settings, tokenizer and one set of weights.
        token: as huggingface_hub takes it; None is ``HF_TOKEN`` or the login's.

    Raises:
        HubError: no such repo, revision or file; no access; no answer in time; other bytes than were promised; a
            cache that is damaged, incomplete or not writable.
        CheckpointUnsafeError: a file name that leads out of the folder.
    """
    token = Token(token) if isinstance(token, str) else token
    check_repo(repo)
    revision = "main" if revision is None else check_revision(revision)
    fetch = _Fetch(repo, revision, token)
    if fetch.offline():
        return fetch.from_cache(fetch.cached_commit(), only)
    if COMMIT.fullmatch(revision) and only is None:
        with contextlib.suppress(_IncompleteError):
            return fetch.from_cache(revision, only)
    return fetch.from_hub(only)


class _IncompleteError(HubError):
    """Something that is not in the cache."""


class _Fetch:
    """One call of `fetch_folder`."""

    def __init__(self, repo: str, revision: str, token: str | bool | None) -> None:
        self.repo, self.revision, self.token = repo, revision, token
        self.storage = storage_of(repo)

    def offline(self) -> bool:
        from huggingface_hub import constants

        return bool(constants.HF_HUB_OFFLINE)

    def cached_commit(self) -> str:
        """The commit that the revision was when it was fetched last."""
        if COMMIT.fullmatch(self.revision):
            return self.revision
        path = self.storage / "refs" / self.revision
        if not path.exists():
            hint = f"run `vedcore pull {self.repo}` online, or set revision= to a cached commit"
            raise _IncompleteError(
                f"revision {self.revision!r} is not in the cache, and HF_HUB_OFFLINE is set", path=self.repo, hint=hint
            )
        commit = read_ref(path)
        if commit is None:
            raise damaged_error(self.repo, path, "no commit in it")
        return commit

    def from_cache(self, commit: str, only: Callable[[str], bool] | None) -> Path:
        """The snapshot of a commit, if all that a model needs is in it."""
        folder = self.storage / "snapshots" / commit
        try:
            names = os.listdir(folder)
        except OSError:
            names = []
        wanted = list(self._needed(names, folder, only))
        hint = f"run `vedcore pull {self.repo}` online"
        if not wanted or (only is None and not any(name in pair for pair in _WEIGHTS for name in wanted)):
            what = "weights" if wanted else "files"  # weights come last: a fetch that was cut short has none
            raise _IncompleteError(f"no {what} in the cache for {self.revision!r}", path=self.repo, hint=hint)
        for name in wanted:
            path = folder / name
            if name not in names:
                raise _IncompleteError(f"{name} is not in the cache", path=self.repo, hint=hint)
            if not path.exists():
                raise damaged_error(self.repo, path, "a link that leads nowhere")
            self._check(path, fresh=False)
        return folder

    def from_hub(self, only: Callable[[str], bool] | None) -> Path:
        """The snapshot of the commit that the revision is now, with what was missing fetched."""
        from huggingface_hub import HfApi, hf_hub_download

        api = HfApi(token=self.token)
        patience = Patience(self.repo, self.revision)
        info = patience.attempt(lambda: api.model_info(self.repo, revision=self.revision))
        commit = str(info.sha)
        if not COMMIT.fullmatch(commit):
            raise HubError(f"{short(commit)} is no commit", path=self.repo, hint="check HF_ENDPOINT")
        names = [check_path(sibling.rfilename, self.repo) for sibling in info.siblings or []]
        if "config.json" not in names and (only is None or only("config.json")):
            hint = "name a model's repo, or another revision="
            raise HubError(f"no config.json in it at {self.revision!r}", path=self.repo, hint=hint)
        folder = self.storage / "snapshots" / commit
        for name in self._needed(names, folder, only):
            if name not in names:
                raise HubError(f"{short(name)} is in its index only", path=self.repo, hint="set another revision=")
            fresh = not (folder / name).exists()
            if fresh:
                patience = Patience(self.repo, self.revision, commit=commit)
                patience.attempt(partial(hf_hub_download, self.repo, name, revision=commit, token=self.token))
            self._check(folder / name, fresh=fresh, etag=patience.etag if fresh else None)
        if only is None or read_ref(self.storage / "refs" / self.revision) is None:
            self._write_ref(commit)  # else offline, a part of this commit would hide the whole of an older one
        return folder

    def _needed(self, names: Collection[str], folder: Path, only: Callable[[str], bool] | None) -> Iterator[str]:
        """What a model needs of ``names``, weights last; an index is read once it was taken."""
        single, index = next((pair for pair in _WEIGHTS if pair[0] in names or pair[1] in names), ("", ""))
        settings = [*_SETTINGS, *sorted(name for name in names if re.fullmatch(r"[^/]+\.model", name))]
        weights = single if single in names else index
        for name in [*settings, weights]:
            if name in names and (only is None or only(name)):
                yield name
                if name == index:
                    shards = _shards(folder / index)
                    yield from (shard for shard in shards if only is None or only(shard))

    def _check(self, path: Path, *, fresh: bool, etag: str | None = None) -> None:
        """Compare a file with its etag where it is new or small; a new one that is wrong is removed."""
        etag = etag_of(path) or etag
        if etag is None or not (fresh or path.stat().st_size <= _SMALL) or intact(path, etag):
            return
        if not fresh:
            raise damaged_error(self.repo, path, "not the bytes that its hash says")
        blob = Path(os.path.realpath(path))
        for place in {path, blob}:
            place.unlink(missing_ok=True)
        hint = f"run `vedcore pull {self.repo}` again, and `vedcore cache verify`; is a proxy in between?"
        raise HubError(f"{path.name}: other bytes came than the hub's hash says", path=self.repo, hint=hint)

    def _write_ref(self, commit: str) -> None:
        """Note what the revision was: the last step, so that the cache never points to half a commit."""
        path = self.storage / "refs" / self.revision
        if self.revision == commit or read_ref(path) == commit:
            return
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        with contextlib.suppress(OSError):  # a cache that is read-only serves what it has
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(commit)
            os.replace(temporary, path)


def _shards(index: Path) -> list[str]:
    """The files that an index names, in order."""
    try:
        with open(index, "rb") as file:
            raw = file.read(MAX_JSON_BYTES + 1)
    except OSError:
        raise HubError("a link that leads nowhere", path=index, hint="run `vedcore cache verify`") from None
    if len(raw) > MAX_JSON_BYTES:
        raise HubError(f"{index.name} has more than {MAX_JSON_BYTES:,} bytes", path=index, hint="set another revision=")
    weight_map = json_object(raw, index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise HubError("no weight_map in it", path=index, hint="set another revision=")
    return sorted({check_name(name, index) for name in weight_map.values()})
