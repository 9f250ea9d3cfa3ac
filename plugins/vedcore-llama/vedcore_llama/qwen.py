"""Qwen2 (Yang et al. 2024) and Qwen3 (Yang et al. 2025): Llamas whose later layers may have a window.

Queries, keys and values have a bias in Qwen2, and queries and keys a norm of each head in Qwen3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from vedcore import ConfigSchemaError
from vedcore.config import Size, TokenId
from vedcore.transformers_checkpoints import ConfigField, Row
from vedcore_llama.checkpoints import RotaryClass, key_map, shared_fields
from vedcore_llama.decoder import HeadSize, RotaryConfig, RotaryDecoder, sizes

__all__ = ["Qwen2Config", "Qwen2Decoder", "Qwen3Config", "Qwen3Decoder"]

_SLIDING: Literal["sliding_attention"] = "sliding_attention"


class _QwenConfig(RotaryConfig):
    """The settings of both."""

    max_position_embeddings: Size = 32768
    """Tokens of the longest text in training; longer ones are taken too."""
    bos_token_id: TokenId | None = None
    """Id that starts a text."""
    eos_token_id: TokenId | tuple[TokenId, ...] | None = None
    """Id or ids that end a text."""
    use_sliding_window: bool = False
    """Whether any layer has a window."""
    sliding_window: Size | None = 4096
    """Tokens that each token attends to, where a layer has a window: itself and those before it."""
    max_window_layers: int = 28
    """Number of first layers without a window."""
    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] | None = None
    """Which layers have a window; None means those from ``max_window_layers`` on."""

    @field_validator("layer_types", mode="before")
    @classmethod
    def _as_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _check_layer_types(self) -> Self:
        if self.layer_types is None:
            return self
        if len(self.layer_types) != self.num_hidden_layers:
            raise ConfigSchemaError(
                f"{len(self.layer_types)} types for {self.num_hidden_layers} layers", field="layer_types"
            )
        if _SLIDING in self.layer_types and not (self.use_sliding_window and self.sliding_window):
            raise ConfigSchemaError(f"{_SLIDING!r} without a window", field="layer_types")
        return self

    def window(self, layer: int) -> int | None:
        """The window of a layer; None where it attends to all tokens."""
        if not self.use_sliding_window:
            return None
        slides = layer >= self.max_window_layers if self.layer_types is None else self.layer_types[layer] == _SLIDING
        return self.sliding_window if slides else None


class Qwen2Config(_QwenConfig):
    """Settings of a Qwen2 decoder."""

    def biases(self) -> tuple[str, ...]:
        """All but the output."""
        return ("query", "key", "value")


class Qwen3Config(_QwenConfig):
    """Settings of a Qwen3 decoder."""

    head_dim: HeadSize | None = 128
    """Width of a head, K; None means ``hidden_size`` divided by ``num_attention_heads``."""
    attention_bias: bool = False
    """Whether the layers of self-attention have a bias."""

    def biases(self) -> tuple[str, ...]:
        """All or none."""
        return ("query", "key", "value", "output") if self.attention_bias else ()


@dataclass(frozen=True)
class _QwenClass(RotaryClass):
    """A class of Qwen's, whose ``layer_types`` are left out where ``max_window_layers`` says the same."""

    def read(self, section: Mapping[str, Any], *, path: object = None, prefix: str = "") -> dict[str, Any]:
        """As `TransformersClass.read`."""
        window = {"sliding_window": 4096} if section.get("use_sliding_window") else {}
        settings = super().read({**window, **section}, path=path, prefix=prefix)
        used = settings["use_sliding_window"] and settings["sliding_window"]
        try:
            slides = [used and i >= settings["max_window_layers"] for i in range(settings["num_hidden_layers"])]
        except TypeError:  # the config refuses it
            return settings
        if settings["layer_types"] == [_SLIDING if each else "full_attention" for each in slides]:
            settings["layer_types"] = None
        return settings


def _fields() -> tuple[ConfigField, ...]:
    return (
        *shared_fields(vocab_size=151936, intermediate_size=22016, max_position_embeddings=32768),
        ConfigField("use_sliding_window", False),
        ConfigField("sliding_window",     None),
        ConfigField("max_window_layers",  28),
        ConfigField("layer_types",        ["full_attention"] * 32),
    )  # fmt: skip


QWEN2_MODEL = _QwenClass(
    model_type="qwen2",
    name="Qwen2ForCausalLM",
    fields=_fields(),
    key_map=key_map(),
    derived=("head_dim", "layer_types"),
    flags=("add_cross_attention",),
)
QWEN3_MODEL = _QwenClass(
    model_type="qwen3",
    name="Qwen3ForCausalLM",
    fields=(*_fields(), ConfigField("attention_bias", False)),
    derived=("layer_types",),
    key_map=key_map(
        Row("[model.]layers.{}.self_attn.q_norm", "layers.{}.layer.self_attention.query_norm"),
        Row("[model.]layers.{}.self_attn.k_norm", "layers.{}.layer.self_attention.key_norm"),
    ),
    flags=("add_cross_attention",),
)


def _variant(*numbers: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 151936,
        **sizes(*numbers),
        "rope_parameters": {"rope_theta": 1e6},
        "tie_word_embeddings": True,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        **more,
    }


_LONG = {"max_position_embeddings": 131072}
_LARGE = {"vocab_size": 152064, "tie_word_embeddings": False, **_LONG}


class Qwen2Decoder(RotaryDecoder):
    """Qwen2 as a decoder: ``decoder(input_ids, encoder_hidden_states=...)``, see `TextDecoder.forward`."""

    config_class: ClassVar[type[Qwen2Config]] = Qwen2Config
    config: Qwen2Config
    transformers = (QWEN2_MODEL,)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "qwen2-0.5b": _variant(896, 4864, 24, 14, 2, **_LONG),
        "qwen2-1.5b": _variant(1536, 8960, 28, 12, 2, **_LONG),
        "qwen2-7b": _variant(3584, 18944, 28, 28, 4, **_LARGE),
        "qwen2.5-0.5b": _variant(896, 4864, 24, 14, 2),
        "qwen2.5-1.5b": _variant(1536, 8960, 28, 12, 2, **_LONG),
        "qwen2.5-3b": _variant(2048, 11008, 36, 16, 2),
        "qwen2.5-7b": _variant(3584, 18944, 28, 28, 4, **_LARGE),
    }
    hub_repos: ClassVar[Mapping[str, str]] = {
        "qwen2-0.5b": "Qwen/Qwen2-0.5B",
        "qwen2-1.5b": "Qwen/Qwen2-1.5B",
        "qwen2-7b": "Qwen/Qwen2-7B",
        "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B",
        "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B",
        "qwen2.5-3b": "Qwen/Qwen2.5-3B",
        "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    }


class Qwen3Decoder(RotaryDecoder):
    """Qwen3 as a decoder: ``decoder(input_ids, encoder_hidden_states=...)``, see `TextDecoder.forward`."""

    config_class: ClassVar[type[Qwen3Config]] = Qwen3Config
    config: Qwen3Config
    transformers = (QWEN3_MODEL,)
    head_norm = True
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "qwen3-0.6b": _variant(1024, 3072, 28, 16, 8),
        "qwen3-1.7b": _variant(2048, 6144, 28, 16, 8),
        "qwen3-4b": _variant(2560, 9728, 36, 32, 8),
        "qwen3-8b": _variant(4096, 12288, 36, 32, 8, tie_word_embeddings=False),
    }
    hub_repos: ClassVar[Mapping[str, str]] = {
        "qwen3-0.6b": "Qwen/Qwen3-0.6B-Base",
        "qwen3-1.7b": "Qwen/Qwen3-1.7B-Base",
        "qwen3-4b": "Qwen/Qwen3-4B-Base",
        "qwen3-8b": "Qwen/Qwen3-8B-Base",
    }
