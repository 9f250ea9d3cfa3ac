"""Mistral (Jiang et al. 2023, "Mistral 7B"): Llama whose tokens attend to a window of the last ones alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vedcore.config import Size
from vedcore.transformers_checkpoints import ConfigField
from vedcore_llama.checkpoints import RotaryClass, key_map, shared_fields
from vedcore_llama.decoder import RotaryConfig, RotaryDecoder, sizes

__all__ = ["MistralConfig", "MistralDecoder"]


class MistralConfig(RotaryConfig):
    """Settings of a Mistral decoder."""

    max_position_embeddings: Size = 131072
    """Tokens of the longest text in training; longer ones are taken too."""
    sliding_window: Size | None = 4096
    """Tokens that each token attends to: itself and those before it; None means all."""

    def window(self, layer: int) -> int | None:
        """The window of a layer: all have the same."""
        return self.sliding_window


MISTRAL_MODEL = RotaryClass(
    model_type="mistral",
    name="MistralForCausalLM",
    fields=(
        *shared_fields(
            vocab_size=32000,
            intermediate_size=14336,
            max_position_embeddings=131072,
            num_key_value_heads=8,
            bos=1,
            eos=2,
        ),
        ConfigField("sliding_window", 4096),
    ),
    key_map=key_map(),
    flags=("add_cross_attention",),
)


_SIZES = sizes(4096, 14336, 32, 32, 8, max_position_embeddings=32768, rms_norm_eps=1e-5)


class MistralDecoder(RotaryDecoder):
    """Mistral as a decoder: ``decoder(input_ids, encoder_hidden_states=...)``, see `TextDecoder.forward`."""

    config_class: ClassVar[type[MistralConfig]] = MistralConfig
    config: MistralConfig
    transformers = (MISTRAL_MODEL,)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mistral-7b": {"vocab_size": 32000, **_SIZES},
        "mistral-7b-v0.3": {
            "vocab_size": 32768,
            **_SIZES,
            "rope_parameters": {"rope_theta": 1e6},
            "sliding_window": None,
        },
    }
    hub_repos: ClassVar[Mapping[str, str]] = {
        "mistral-7b": "mistralai/Mistral-7B-v0.1",
        "mistral-7b-v0.3": "mistralai/Mistral-7B-v0.3",
    }
