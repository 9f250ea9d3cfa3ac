"""Llama (Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models") and SmolLM, small Llamas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vedcore.transformers_checkpoints import ConfigField
from vedcore_llama.checkpoints import RotaryClass, key_map, shared_fields
from vedcore_llama.decoder import RotaryConfig, RotaryDecoder, sizes

__all__ = ["LlamaConfig", "LlamaDecoder"]


class LlamaConfig(RotaryConfig):
    """Settings of a Llama decoder."""

    attention_bias: bool = False
    """Whether the layers of self-attention have a bias."""
    mlp_bias: bool = False
    """Whether the layers of the feed-forward blocks have a bias."""

    def biases(self) -> tuple[str, ...]:
        """All or none."""
        return ("query", "key", "value", "output") if self.attention_bias else ()

    def mlp_biases(self) -> bool:
        """As ``mlp_bias`` says."""
        return self.mlp_bias


LLAMA_MODEL = RotaryClass(
    model_type="llama",
    name="LlamaForCausalLM",
    fields=(
        *shared_fields(vocab_size=32000, intermediate_size=11008, max_position_embeddings=2048, bos=1, eos=2),
        ConfigField("attention_bias", False),
        ConfigField("mlp_bias",       False),
    ),
    key_map=key_map(),
    derived=("head_dim", "num_key_value_heads"),
    flags=("add_cross_attention",),
)  # fmt: skip


def _smollm(*numbers: int, **more: Any) -> dict[str, Any]:
    tokens = {"vocab_size": 49152, "bos_token_id": 0, "eos_token_id": 0}
    return {**tokens, **sizes(*numbers), "rms_norm_eps": 1e-5, "tie_word_embeddings": True, **more}


def _smollm2(*numbers: int, theta: float = 1e5, std: float = 0.02) -> dict[str, Any]:
    rope = {"rope_theta": theta}
    return _smollm(*numbers, max_position_embeddings=8192, rope_parameters=rope, initializer_range=std)


def _llama2(*numbers: int, positions: int) -> dict[str, Any]:
    return {"vocab_size": 32000, **sizes(*numbers), "max_position_embeddings": positions, "rms_norm_eps": 1e-5}


def _llama3(*numbers: int, factor: float, tied: bool) -> dict[str, Any]:
    return {
        "vocab_size": 128256,
        **sizes(*numbers),
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": tied,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    }


class LlamaDecoder(RotaryDecoder):
    """Llama as a decoder: ``decoder(input_ids, encoder_hidden_states=...)``, see `TextDecoder.forward`."""

    config_class: ClassVar[type[LlamaConfig]] = LlamaConfig
    config: LlamaConfig
    transformers = (LLAMA_MODEL,)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smollm-135m": _smollm(576, 1536, 30, 9, 3),
        "smollm-360m": _smollm(960, 2560, 32, 15, 5),
        "smollm-1.7b": _smollm(2048, 8192, 24, 32, 32),
        "smollm2-135m": _smollm2(576, 1536, 30, 9, 3, std=0.041666666666666664),
        "smollm2-360m": _smollm2(960, 2560, 32, 15, 5),
        "smollm2-1.7b": _smollm2(2048, 8192, 24, 32, 32, theta=1.3e5),
        "llama-3.2-1b": _llama3(2048, 8192, 16, 32, 8, factor=32.0, tied=True),
        "llama-3.2-3b": _llama3(3072, 8192, 28, 24, 8, factor=32.0, tied=True),
        "llama-3.1-8b": _llama3(4096, 14336, 32, 32, 8, factor=8.0, tied=False),
        "llama-2-7b": _llama2(4096, 11008, 32, 32, 32, positions=4096),
        "tinyllama": _llama2(2048, 5632, 22, 32, 4, positions=2048),
    }
    hub_repos: ClassVar[Mapping[str, str]] = {
        "smollm-135m": "HuggingFaceTB/SmolLM-135M",
        "smollm-360m": "HuggingFaceTB/SmolLM-360M",
        "smollm-1.7b": "HuggingFaceTB/SmolLM-1.7B",
        "smollm2-135m": "HuggingFaceTB/SmolLM2-135M",
        "smollm2-360m": "HuggingFaceTB/SmolLM2-360M",
        "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B",
        "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
        "llama-3.2-3b": "meta-llama/Llama-3.2-3B",
        "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
        "llama-2-7b": "meta-llama/Llama-2-7b-hf",
        "tinyllama": "TinyLlama/TinyLlama_v1.1",
    }
