"""Every family, and settings that change the arithmetic, keep the contract of decoders."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from vedcore.testing import check_registration, parametrize_with_checks
from vedcore_llama import register_decoders

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
PARTS = {
    "llama": ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama-gate": ("llama", {"cross_attention_every": 2, "cross_attention_gate": True, "attention_bias": True}),
    "mistral": ("mistral", {"sliding_window": 5, "cross_attention_hidden_size": 16}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
}


def build(name: str, fields: dict[str, Any]) -> Any:
    entry = next(entry for entry in register_decoders() if entry.name == name)
    cls = entry.load()
    return cls(cls.make_config(None, {**SIZES, **fields}))


@parametrize_with_checks({name: partial(build, *part) for name, part in PARTS.items()})
def test_contract(part: Any, check: Any) -> None:
    check(part)


def test_registration() -> None:
    check_registration("vedcore_llama")


def test_published_sizes() -> None:
    """Parameters of each variant without cross-attention, as published."""
    published = {
        "llama-3.2-1b": 1235814400,
        "llama-3.2-3b": 3212749824,
        "llama-3.1-8b": 8030261248,
        "llama-2-7b": 6738415616,
        "tinyllama": 1100048384,
        "smollm-135m": 134515008,
        "smollm-360m": 361821120,
        "smollm-1.7b": 1711376384,
        "smollm2-135m": 134515008,
        "smollm2-360m": 361821120,
        "smollm2-1.7b": 1711376384,
        "mistral-7b": 7241732096,
        "mistral-7b-v0.3": 7248023552,
        "qwen2-0.5b": 494032768,
        "qwen2-1.5b": 1543714304,
        "qwen2-7b": 7615616512,
        "qwen2.5-0.5b": 494032768,
        "qwen2.5-1.5b": 1543714304,
        "qwen2.5-3b": 3085938688,
        "qwen2.5-7b": 7615616512,
        "qwen3-0.6b": 596049920,
        "qwen3-1.7b": 1720574976,
        "qwen3-4b": 4022468096,
        "qwen3-8b": 8190735360,
    }
    counted = {}
    for entry in register_decoders():
        for variant in entry.variants:
            cls = entry.load()
            with torch.device("meta"):
                model = cls(cls.make_config(variant, {}))
            fresh = model.fresh_parameters()
            counted[variant] = sum(p.numel() for name, p in model.named_parameters() if name not in fresh)
            assert variant in cls.hub_repos
    assert counted == published
