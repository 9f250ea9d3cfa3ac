"""Tiny models of several families, and their recorded folders."""

from __future__ import annotations

from typing import Any

import torch

import vedcore

_VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40, "patch_size": 8}
_SWIN = {"name": "swin", "embed_dim": 12, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4, "patch_size": 2}
_BERT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}
_BART = {
    "d_model": 24,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 40,
    "init_std": 0.3,
}
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": {"name": "vit", **_VIT, "image_size": (16, 32)},
    "deit": {"name": "deit_tiny_distilled_patch16_224", **_VIT, "image_size": (16, 32)},
    "beit": {"name": "beit", **_VIT, "image_size": (16, 32)},
    "swin": {**_SWIN, "image_size": (32, 32)},
    "donut-swin": {**_SWIN, "use_absolute_embeddings": True, "image_size": (32, 32)},
    "convnext": {"name": "timm/convnext_atto", "image_size": (64, 64)},
}
DECODERS: dict[str, dict[str, Any]] = {
    "bert": {"name": "bert", **_BERT},
    "roberta": {"name": "roberta", **_BERT},
    "distilbert": {
        "name": "distilbert",
        "dim": 24,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 40,
        "max_position_embeddings": 40,
        "initializer_range": 0.3,
    },
    "gpt2": {"name": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 40, "initializer_range": 0.3},
    "mbart": {"name": "mbart", **_BART},
    "trocr": {"name": "trocr", **_BART, "use_learned_position_embeddings": False},
}
PAIRS = list(zip(ENCODERS, ("gpt2", "mbart", "distilbert", "roberta", "bert", "trocr"), strict=True))


def tiny(encoder: str = "vit", decoder: str = "gpt2", **options: Any) -> Any:
    """A model with random weights, in eval mode."""
    ids = {"start": 2, "eos": (3,), "pad": 1}
    given = {"decoder_vocab_size": 50, "tokenizer": None, "seed": 7, "token_ids": ids, **options}
    return vedcore.compose(ENCODERS[encoder], DECODERS[decoder], **given)


def images(model: Any, count: int = 3) -> torch.Tensor:
    """Images as the model takes them."""
    height, width = model.encoder.preprocessing.image_size
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(count)) * 2


def texts(rows: int = 3, length: int = 6) -> torch.Tensor:
    """Ids (rows, length) that are no special ones."""
    return torch.randint(4, 50, (rows, length), generator=torch.Generator().manual_seed(length))
