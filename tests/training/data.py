"""Labelled images that the tests of training learn from: their colour is the text; and the files of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

WORDS = ("one", "two", "six", "ten")
CONFIG = {
    "encoder": {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1, "image_size": 32},
    "decoder": {
        "name": "gpt2",
        "n_layer": 1,
        "n_embd": 32,
        "n_head": 2,
        "n_positions": 16,
        "resid_pdrop": 0.1,
    },
    "tokenizer": "char",
}
"""A small model, with dropout."""
STILL = {**CONFIG, "decoder": {**CONFIG["decoder"], "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}  # type: ignore[dict-item]
"""The model without dropout."""
QUICK = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "generation_max_length": 6}
"""A few steps."""


def image(number: int, seed: int) -> Image.Image:
    """Noise of a colour."""
    pixels = np.random.default_rng(seed).integers(150, 255, (32, 32, 3), dtype=np.uint8)
    if number < 3:
        pixels[:, :, number] //= 8
    return Image.fromarray(pixels)


def write_folder(folder: Path, rows: int = 24, words: tuple[str, ...] = WORDS) -> Path:
    """A folder with metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(rows):
        image(i % 4, i).save(folder / f"{i:03}.png")
        lines.append(json.dumps({"file_name": f"{i:03}.png", "text": words[i % 4]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def losses(output: Path) -> list[float]:
    logged = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in logged if "loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def assert_close_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5)
