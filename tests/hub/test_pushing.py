"""Folders that are pushed: one commit each, and no commit where a request fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hub.client import fails
from tests.hub.conftest import TOKEN, fill
from tests.hub.server import Fault, Hub
from vedcore import hub as ours
from vedcore.config import Preprocessing
from vedcore.errors import CheckpointUnsafeError
from vedcore.processing.processor import Processor, make_tokenizer


@pytest.mark.usefixtures("no_xet")
def test_push_is_one_commit_and_comes_back(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    fill(folder, seed=3)
    (folder / ".hidden").write_text("mine")
    (folder / "model-2.safetensors").write_bytes(b"more")
    url = ours.push_folder(folder, "me/new", private=True, commit_message="First", token=TOKEN)
    assert url.startswith(f"{hub.url}/me/new/commit/")
    [pushed] = hub.pushed
    assert pushed["summary"] == "First"
    kinds = {line["value"]["path"]: line["key"] for line in pushed["lines"][1:]}
    assert kinds["model.safetensors"] == kinds["model-2.safetensors"] == "lfsFile"
    assert kinds["config.json"] == "file"
    assert set(kinds) == {name for name in os.listdir(folder) if name not in (".hidden", "onnx")}
    back = ours.fetch_folder("me/new")
    assert (back / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert ours.push_folder(folder, "me/new", create_pr=True).endswith("/discussions/1")


@pytest.mark.usefixtures("no_xet")
@pytest.mark.parametrize("match", ["/api/repos/create", "/preupload/", "/info/lfs", "/storage/", "/commit/"])
@pytest.mark.parametrize(
    "fault", [Fault("status", status=403), Fault("status", status=500), Fault("hang")], ids=["403", "500", "hang"]
)
def test_faults_of_a_push(hub: Hub, tmp_path: Path, match: str, fault: Fault) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    fill(folder)
    hub.faults = [Fault(fault.kind, match, status=fault.status)]
    hub.patience = 0.3  # the library sets no timeout to what it sends
    fails(lambda: ours.push_folder(folder, "me/new"), "me/new")
    assert hub.asked(match) <= 6
    assert hub.pushed == []


@pytest.mark.usefixtures("no_xet")
def test_a_processor_is_pushed_alone(hub: Hub) -> None:
    processor = Processor(Preprocessing(image_size=(8, 12)), make_tokenizer("char"))
    url = processor.push_to_hub("me/new", commit_message="Processor", token=TOKEN)
    assert url.startswith(f"{hub.url}/me/new/commit/")
    [pushed] = hub.pushed
    assert {line["value"]["path"] for line in pushed["lines"][1:]} == {
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }


def test_nothing_to_push(hub: Hub, tmp_path: Path) -> None:
    fails(lambda: ours.push_folder(tmp_path / "none", "me/new"), "no such file")
    fails(lambda: ours.push_folder(hub.folder, "me/new"), "no files")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.json").symlink_to("/etc/hostname")
    fails(lambda: ours.push_folder(tmp_path / "made", "me/new"), "a link", kind=CheckpointUnsafeError)
    assert hub.requests == []
