"""Settings of small parts, and comparisons of models."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

VIT = {
    "name": "vit",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "patch_size": 8,
    "image_size": (16, 24),
}
GPT2 = {"name": "gpt2", "n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 20, "vocab_size": 50}
BERT = {
    "name": "bert",
    "hidden_size": 36,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "vocab_size": 150,
}


def without(section: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[name]) for name, t in ours.items())


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
