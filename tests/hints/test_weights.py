"""Hints about files of weights: each is given by `load`, followed, and the model comes."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vedcore
from tests.composer.tiny import same_weights
from tests.hints.templates import told
from tests.hints.test_checkpoints import original, saved, saved_once, theirs

__all__ = ["original", "saved", "saved_once", "theirs"]


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "weights")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save(torch.ones(1), path),
        lambda path: torch.save({}, path),
        lambda path: torch.save({1: torch.ones(1)}, path),
        lambda path: torch.save({"a": 3, "b": torch.ones(1)}, path),
        lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path),
        lambda path: torch.jit.script(torch.nn.Linear(2, 2)).save(str(path)),
        lambda path: path.write_bytes(b"\x80\x02K\x01."),
        write_tar,
    ],
    ids=["tensor", "empty", "numbers", "other values", "sparse", "TorchScript", "pickle", "tar"],
)
def test_files_that_are_not_a_state(theirs: Path, original: Any, write: Callable[[Path], object]) -> None:
    weights = load_file(theirs / "model.safetensors")
    (theirs / "model.safetensors").unlink()
    (theirs / "manifest.json").unlink()
    write(path := theirs / "pytorch_model.bin")
    told("get it as safetensors, or save only the state_dict()", vedcore.load, theirs)
    torch.save(weights, path)
    assert same_weights(vedcore.load(theirs), original)
    write(path)
    told("get it as safetensors, or save only the state_dict()", vedcore.load, theirs)
    save_file(weights, theirs / "model.safetensors")
    assert same_weights(vedcore.load(theirs), original)


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: index["weight_map"].clear(),
        lambda index: index["weight_map"].update(more=next(iter(index["weight_map"].values()))),
        lambda index: index["weight_map"].update(more="model-00009-of-00009.safetensors"),
        lambda index: index["weight_map"].update(more="config.json"),
        lambda index: index["weight_map"].update(more="../model.safetensors"),
    ],
    ids=["empty", "a name that no shard has", "a shard that is missing", "no weights", "outside"],
)
def test_indexes(saved: Path, original: Any, damage: Callable[[dict[str, Any]], object]) -> None:
    original.save_pretrained(source := saved.parent / "source", max_shard_size="20KB")
    shutil.copytree(source, copy := saved.parent / "copy")
    index = json.loads((path := copy / "model.safetensors.index.json").read_text())
    damage(index)
    path.write_text(json.dumps(index))
    told("get the folder from its source again", vedcore.load, copy)
    shutil.rmtree(copy)
    shutil.copytree(source, copy)
    assert same_weights(vedcore.load(copy), original)


def test_a_folder_without_weights(saved: Path, original: Any) -> None:
    (saved / "model.safetensors").rename(elsewhere := saved.parent / "weights")
    listed = told("there are: {…}{…}", vedcore.load, saved).hint
    assert "model.safetensors" not in listed
    elsewhere.rename(saved / "model.safetensors")
    assert same_weights(vedcore.load(saved), original)


def test_adapters_within_the_weights(saved: Path, original: Any) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(vedcore.load(saved), LoraConfig(target_modules=["query"], init_lora_weights=False))
    shutil.copytree(saved, unmerged := saved.parent / "unmerged")
    state = {name.removeprefix("base_model.model."): t.clone() for name, t in adapted.state_dict().items()}
    save_file(state, unmerged / "model.safetensors")
    template = "open it with peft, call merge_and_unload() and save the model again"
    told(template, vedcore.load, unmerged, verify=False)
    (merged := adapted.merge_and_unload()).save_pretrained(unmerged)
    assert same_weights(vedcore.load(unmerged), merged)
