"""Labelled images that the tests of training learn from: their colour is the text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

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
