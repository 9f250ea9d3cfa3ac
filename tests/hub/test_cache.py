"""The cache: used offline, checked, repaired, and shared with other programs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store

from tests.hub.client import fails, fetch, offline
from tests.hub.conftest import fill
from tests.hub.server import Hub
from vedcore import hub as ours
from vedcore.cli.app import group
from vedcore.errors import CheckpointNotFoundError, CheckpointUnsafeError, HubError
from vedcore.weights.snapshot import Snapshot


def test_another_cache_folder(hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    folder = fetch(cache_dir=mine)
    assert folder.is_relative_to(mine)
    assert not cache.exists()
    assert fetch(cache_dir=str(mine), local_files_only=True) == folder
    where = f"HF_HUB_CACHE={mine}"
    fails(lambda: fetch(cache_dir=mine, local_files_only=True, revision="v2"), "org/model --revision v2`", where)
    (folder / "config.json").resolve().write_text("{}")
    fails(lambda: fetch(cache_dir=mine), "vedcore cache verify org/model", "vedcore pull org/model", where)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(mine))
    assert len(ours.verify("org/model")[1]) == 1
    assert CliRunner().invoke(group, ["pull", "org/model"]).stdout == f"{folder}\n"
    assert ours.verify() == (3, [])
    assert not cache.exists()


def test_local_files_only_is_offline_for_one_call(hub: Hub) -> None:
    fails(lambda: fetch(local_files_only=True), "not in the cache, and local_files_only is set", "vedcore pull")
    assert hub.requests == []
    folder = fetch()
    asked = len(hub.requests)
    assert fetch(local_files_only=True) == folder
    assert len(hub.requests) == asked


def test_offline(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    fails(fetch, "not in the cache", "vedcore pull org/model", "a cached commit")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = fetch()
    offline(monkeypatch)
    asked = len(hub.requests)
    assert fetch() == fetch(revision=folder.name) == folder
    fails(lambda: fetch(revision="v2"), "'v2'", "vedcore pull")
    fails(lambda: fetch(revision="0" * 40), "vedcore pull")
    (cache / "models--org--model/refs/main").unlink()
    fails(fetch, "a cached commit")
    assert fetch(revision=folder.name) == folder
    assert len(hub.requests) == asked


def test_a_cache_that_is_damaged(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch()
    ref = folder.parents[1] / "refs" / "main"

    def cut(name: str) -> None:
        os.truncate(folder / name, (folder / name).stat().st_size // 2)

    damages: list[Callable[[], object]] = [
        lambda: cut("config.json"),
        lambda: cut("model.safetensors"),
        lambda: os.remove(os.path.realpath(folder / "model.safetensors")),
        lambda: ref.write_text(""),
        lambda: ref.write_text("../../evil"),
    ]
    for damage in damages:
        damage()
        offline(monkeypatch)
        fails(fetch, "vedcore cache verify", "vedcore pull")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        damaged = ours.verify("org/model")[1]
        assert len(damaged) == 1
        result = CliRunner().invoke(group, ["cache", "verify", "--json"])
        assert json.loads(result.stdout)["damaged"][0]["repo"] == "org/model"
        assert isinstance(result.exception, HubError)
        result = CliRunner().invoke(group, ["pull", "org/model"])
        assert result.stdout.strip() == str(folder)
        assert ours.verify()[1] == []
    assert CliRunner().invoke(group, ["cache", "verify", "org/model"]).stdout == "3 files, 0 damaged\n"


def test_a_cache_that_cannot_be_written(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    fails(fetch, "cannot be cached", "HF_HUB_CACHE")


def test_a_cache_that_is_read_only_serves_what_it_has(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    folder = fetch()
    fill(hub.folder / "org/model", seed=1)
    with monkeypatch.context() as patch:  # root may write where no one may
        for owner, name in ((os, "replace"), (os, "makedirs"), (Path, "mkdir")):
            patch.setattr(owner, name, refuse)
        assert fetch(revision=folder.name) == folder
        fails(fetch, "cannot be cached: permission denied", "HF_HUB_CACHE")
    fill(hub.folder / "org/model")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        (cache / "models--org--model/refs/main").write_text("0" * 40)
        assert fetch() == folder


def test_large_files_of_the_cache_are_left_to_the_loader(hub: Hub) -> None:
    """Small files are hashed at each fetch; a file of 17 MB is not."""
    (hub.folder / "org/model/model.safetensors").write_bytes(bytes(17 << 20))
    folder = fetch()
    (folder / "model.safetensors").write_bytes(bytes((17 << 20) - 3) + b"cut")
    expected = ours.expected_hashes(fetch())
    assert expected["model.safetensors"] == hashlib.sha256(bytes(17 << 20)).hexdigest()
    assert len(ours.verify("org/model")[1]) == 1


@pytest.mark.parametrize("fault", ["", "elsewhere", "prefix", "third", "folder", "blobs", "gone", "device"])
def test_the_store_that_repositories_share(hub: Hub, cache: Path, tmp_path: Path, fault: str) -> None:
    """huggingface_hub makes it of files from hf_xet: a blob is a link into the store, and no other link is taken."""
    folder = fetch()
    data = (folder / "model.safetensors").read_bytes()
    blob = (folder / "model.safetensors").resolve()
    name = "ab" + "0" * 62
    assert publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash=name, cache_dir=cache, expected_size=len(data), replace_existing=False
    )
    assert os.readlink(blob) == f"../../blobs/ab/{name}"
    stored, outside = cache / "blobs" / "ab" / name, tmp_path / "outside"
    if fault == "elsewhere":  # where the link leads, or what stands there
        blob.unlink()
        blob.symlink_to(shutil.copy(stored, outside))
    elif fault == "prefix":
        blob.unlink()
        blob.symlink_to(f"../../blobs/cd/{name}")
        shutil.copytree(stored.parent, cache / "blobs" / "cd")
    elif fault == "third":
        shutil.move(stored, outside)
        stored.symlink_to(outside)
    elif fault in ("folder", "blobs"):
        moved = stored.parent if fault == "folder" else stored.parent.parent
        shutil.move(moved, outside)
        moved.symlink_to(outside)
    elif fault == "gone":
        stored.unlink()
    elif fault == "device":
        stored.unlink()
        os.mkfifo(stored)
    with Snapshot(folder) as snapshot:
        if fault:
            with pytest.raises(CheckpointNotFoundError if fault == "gone" else CheckpointUnsafeError):
                snapshot.open("model.safetensors")
            return
        assert snapshot.open("model.safetensors").readall() == data
    assert ours.verify() == (3, [])
    assert fetch() == folder
    stored.chmod(0o600)
    stored.write_bytes(b"x" * len(data))
    assert [damage.path for damage in ours.verify()[1]] == [str(blob)]
    ours.repair("org/model")
    assert (fetch() / "model.safetensors").read_bytes() == data
