"""Weights that are copied outlive their file; weights that are mapped are the same, and may be written to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vedcore
from vedcore.errors import CheckpointCorruptError, UsageError
from vedcore.weights.loading import Weights

ENCODER = {
    "name": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 8,
    "image_size": (16, 32),
}
DECODER = {"name": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 20}
CHILD = """
import os, sys, warnings
import torch
import vedcore
warnings.simplefilter("ignore")
model = vedcore.load(sys.argv[1])
os.truncate(os.path.join(sys.argv[1], "model.safetensors"), 0)
with torch.no_grad():
    print(model(torch.zeros(1, 3, 16, 32), torch.ones(1, 3, dtype=torch.long)).logits.isfinite().all().item())
"""


@pytest.fixture(params=["native", "transformers"])
def folder(tmp_path: Path, request: Any) -> Path:
    vedcore.compose(ENCODER, DECODER, tokenizer="char", seed=3).save_pretrained(tmp_path / "m", format=request.param)
    return tmp_path / "m"


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(a[name].equal(b[name]) for name in a)


def test_a_file_that_is_cut_after_the_load(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


@pytest.mark.parametrize("mmap", [False, True])
def test_a_file_that_is_cut_between_its_header_and_its_tensors(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mmap: bool
) -> None:
    check = Weights.check

    def cut(self: Weights, *arguments: Any, **options: Any) -> Any:
        os.truncate(folder / "model.safetensors", os.path.getsize(folder / "model.safetensors") // 2)
        return check(self, *arguments, **options)

    monkeypatch.setattr(Weights, "check", cut)
    with pytest.raises(CheckpointCorruptError, match=r"model.safetensors.*was truncated"):
        vedcore.load(folder, mmap=mmap)


@pytest.mark.parametrize("verify", [False, True])
def test_mapped_is_the_same(folder: Path, verify: bool) -> None:
    copied, mapped = vedcore.load(folder), vedcore.load(folder, mmap=True, verify=verify)
    assert same(copied, mapped)
    mapped.save_pretrained(folder)  # which puts another file in its place
    assert same(copied, mapped)
    assert same(copied, vedcore.load(folder))


def test_mapped_weights_train_in_memory_alone(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    model = vedcore.load(folder, mmap=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_flipped_bit_is_found_in_what_is_mapped(folder: Path) -> None:
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-2] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(CheckpointCorruptError, match="another sha256"):
        vedcore.load(folder, mmap=True)


def test_a_pickle_is_not_mapped(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    vedcore.compose(ENCODER, DECODER, tokenizer="char", seed=3).save_pretrained(folder, format="transformers")
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"mmap.*vedcore convert"):
        vedcore.load(folder, mmap=True, verify=False)
    assert vedcore.load(folder, verify=False)
