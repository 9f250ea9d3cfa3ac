"""A small model with uneven attention, and its image."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import vedcore

TINY = {
    "encoder": {"name": "vit", "image_size": (32, 64), "patch_size": 8, "hidden_size": 12, "num_hidden_layers": 1}
    | {"num_attention_heads": 2},
    "decoder": {"name": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2},
    "tokenizer": "char",
    "seed": 0,
}
"""Its images have 4 x 8 patches, and a class token before them."""


@pytest.fixture(scope="module")
def model() -> vedcore.VisionEncoderDecoder:
    made = vedcore.compose(TINY)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4)
    return made


@pytest.fixture(scope="module")
def image() -> Image.Image:
    torch.manual_seed(0)
    return Image.fromarray(torch.randint(0, 256, (90, 200, 3), dtype=torch.uint8).numpy())
