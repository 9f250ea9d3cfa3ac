"""Small models, ids and labels for tests of `vedcore.model`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import vedcore

VOCABULARY, START, EOS, PAD = 50, 2, 3, 1
IMAGE = (16, 24)
VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "patch_size": 8,
    "image_size": list(IMAGE),
    "layer_norm_eps": 1e-12,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 30,
}
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 30,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 30}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
DECODERS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2, "identity"),
    "bert": ("BertConfig", "BertLMHeadModel", BERT, "linear"),
    "trocr": ("TrOCRConfig", "TrOCRForCausalLM", {**BART, "cross_attention_hidden_size": 24}, "identity"),
}
"""transformers' config and class, the settings of both sides, and the projector that must come out."""


def spread(model: nn.Module, seed: int) -> None:
    """Draw every parameter anew, widely, so that nothing agrees by being zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name.lower() or ".ln_" in name
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25 + (norm and "weight" in name))


def ids(rows: int = 3, length: int = 7, seed: int = 1) -> Tensor:
    return torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def some_labels(rows: int = 3) -> Tensor:
    labels = ids(rows)
    labels[0, 4:] = -100
    labels[1, 2] = -100
    return labels


def tiny(decoder: str = "gpt2", **options: Any) -> Any:
    """A small model; ``gpt2`` keeps the encoder's width, ``bert`` needs a projector."""
    options = {"token_ids": {"start": START, "eos": (EOS,), "pad": PAD}, "seed": 0, **options}
    return vedcore.compose({"name": "vit", **VIT}, {"name": decoder, **DECODERS[decoder][2]}, **options)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
