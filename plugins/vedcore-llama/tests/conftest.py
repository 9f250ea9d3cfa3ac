"""Tiny decoders of each family, and transformers' models of the same settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers

from vedcore import Entry, TextDecoder
from vedcore_llama import register_decoders

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in register_decoders()}
ORIGINAL = 12
"""Tokens of the longest text in training."""
SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": ORIGINAL,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
THEIRS = {"llama": "Llama", "smollm": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


@dataclass(frozen=True)
class Family:
    """A family under some settings, with builders of our decoder and transformers'."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of both."""
        return {**SIZES, **self.fields}

    def build(self, seed: int = 0, **fields: Any) -> TextDecoder:
        """Our decoder in eval mode, with weights spread widely."""
        cls = ENTRIES[self.name].load()
        model: TextDecoder = cls(cls.make_config(None, {**self.settings, **fields}))
        return spread(model, seed).eval()

    def build_theirs(self, seed: int = 0) -> Any:
        """transformers' model in eval mode, with weights spread widely."""
        config = getattr(transformers, f"{THEIRS[self.name]}Config")(**self.settings, attn_implementation="eager")
        return spread(getattr(transformers, f"{THEIRS[self.name]}ForCausalLM")(config), seed).eval()


def spread(model: Any, seed: int) -> Any:
    """Draw every parameter anew, widely, so that nothing agrees by being zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + ("norm" in name))
    return model


def of(name: str, **fields: Any) -> Family:
    """A family with some settings besides the sizes."""
    return Family(name, fields)


def rope(kind: str, **fields: Any) -> dict[str, Any]:
    """Rotary positions of a kind."""
    return {"rope_type": kind, "rope_theta": 1000.0, **fields}


LONG = [1.0, 1.5, 2.0, 4.0]
ROPES = {
    "default": rope("default"),
    "linear": rope("linear", factor=2.5),
    "dynamic": rope("dynamic", factor=3.0),
    "yarn": rope("yarn", factor=4.0, original_max_position_embeddings=8),
    "yarn, its own length, every setting": rope("yarn", factor=2.0, beta_fast=8.0, beta_slow=2.0, truncate=False),
    "yarn, mscale": rope("yarn", factor=4.0, mscale=0.7, mscale_all_dim=1.3),
    "yarn, attention factor": rope("yarn", factor=4.0, attention_factor=1.4),
    "longrope": rope("longrope", short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=LONG, factor=2.0),
    "longrope, by its lengths": rope(
        "longrope", short_factor=[1.0, 1.0, 1.2, 1.3], long_factor=LONG, original_max_position_embeddings=6
    ),
    "longrope, attention factor": rope("longrope", short_factor=LONG, long_factor=LONG, attention_factor=0.8),
    "llama3": rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8),
    "proportional": rope("proportional", partial_rotary_factor=0.5, factor=2.0),
}
CASES: dict[str, Family] = {
    **{f"llama, {name}": of("llama", rope_parameters=dict(given)) for name, given in ROPES.items()},
    "smollm": of("smollm", tie_word_embeddings=True),
    "llama, untied, biases, head_dim": of(
        "llama", tie_word_embeddings=False, attention_bias=True, mlp_bias=True, head_dim=6, hidden_act="gelu"
    ),
    "llama, as many heads": of("llama", num_key_value_heads=3),
    "mistral": of("mistral", sliding_window=None, head_dim=10),
    "mistral, window": of("mistral", sliding_window=4, num_attention_heads=6, num_key_value_heads=2, head_dim=8),
    "qwen2": of("qwen2", rope_parameters=rope("yarn", factor=2.0)),
    "qwen2, window": of("qwen2", use_sliding_window=True, sliding_window=3, max_window_layers=1),
    "qwen2, layer types": of(
        "qwen2",
        use_sliding_window=True,
        sliding_window=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "qwen3": of("qwen3", head_dim=12, rope_parameters=rope("dynamic", factor=2.0)),
    "qwen3, biases, window": of(
        "qwen3", head_dim=8, attention_bias=True, use_sliding_window=True, sliding_window=5, max_window_layers=2
    ),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``case`` runs over all cases, ``family`` over one of each family."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES.values(), ids=CASES)
    if "family" in metafunc.fixturenames:
        some = {"llama": of("llama"), "mistral": CASES["mistral, window"], "qwen2": CASES["qwen2, window"]}
        some["qwen3"] = CASES["qwen3, biases, window"]
        metafunc.parametrize("family", some.values(), ids=some)


@pytest.fixture
def tiny() -> Any:
    """A family with some settings besides the sizes."""
    return of
