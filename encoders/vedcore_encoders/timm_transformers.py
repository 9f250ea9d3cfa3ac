"""Config fields and key map rows that transformers' encoders share, and reasons why its classes cannot hold one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from timm import layers
from timm.layers import activations
from torch import Tensor, nn

from vedcore.errors import CheckpointMismatchError
from vedcore.transformers_class import ConfigField, unused_fields
from vedcore.weights.keymap import Row, ignored, to_theirs
from vedcore_encoders.timm_building import Activation, as_square

__all__ = [
    "HEAD_ROWS",
    "LAYER_FIELDS",
    "activation_name",
    "first_attribute",
    "image_fields",
    "key_map_mismatch",
    "layer_mismatch",
    "model_type_field",
    "with_version_5_names",
]


def model_type_field(model_type: str, variant: str) -> ConfigField:
    """The field ``model_type``, read as timm's ``variant``, of which the other fields set everything else."""
    return ConfigField("model_type", model_type, "variant", read=lambda _: variant, write=lambda _: model_type)


def _write_size(value: tuple[int, int] | int) -> list[int] | int:
    """A height and width as transformers writes them: one number for a square."""
    square = as_square(value)
    return square if isinstance(square, int) else list(square)


def _read_channels(value: Any) -> int:
    if type(value) is not int or value not in (1, 3):
        raise ValueError
    return value


def image_fields(patch_size: int) -> tuple[ConfigField, ...]:
    """Fields of images that every class has; ``patch_size`` is the class's default."""
    return (
        ConfigField("image_size", 224, write=_write_size),
        ConfigField("patch_size", patch_size, write=_write_size),
        ConfigField("num_channels", 3, read=_read_channels),
    )


LAYER_FIELDS: tuple[ConfigField, ...] = (
    ConfigField("hidden_act", "gelu"),
    ConfigField("hidden_dropout_prob", 0.0),
    ConfigField("attention_probs_dropout_prob", 0.0),
    *unused_fields("initializer_range", "encoder_stride"),  # of fresh weights and of heads
)
"""Fields of layers that every class has."""

HEAD_ROWS: tuple[Row, ...] = (
    ignored("classifier"),
    ignored("decoder.0"),  # pixels of masked patches
    ignored("embeddings.mask_token"),
)
"""Tensors of heads, which transformers' larger classes of every family add to the encoder."""

_VERSION_5_NAMES = (
    ("encoder.layer.", "layers."),
    ("encoder.relative_position_bias.", "shared_position_bias."),
    ("attention.attention.relative_position_bias.", "relative_position_bias."),
    ("attention.self.relative_position", "attention.relative_position_bias.relative_position"),
    ("attention.attention.query+key+value", "attention.q_proj+k_proj+v_proj"),
    ("attention.self.query+key+value", "attention.q_proj+k_proj+v_proj"),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)


def with_version_5_names(rows: Iterable[Row]) -> tuple[Row, ...]:
    """``rows``, and read-only rows for the names that transformers 5 gives the same tensors in memory.

    transformers 5 writes the older names unless ``save_pretrained(save_original_format=False)`` is called.
    """
    older = tuple(rows)
    newer = []
    for row in older:
        name = row.theirs
        for before, after in _VERSION_5_NAMES:
            name = name.replace(before, after)
        if name != row.theirs:
            newer.append(replace(row, theirs=name, read_only=True))
    return (*older, *newer)


def first_attribute(module: nn.Module, name: str) -> Any:
    """The attribute ``name`` of the first submodule of ``module`` where it is not None; None where there is none."""
    return next((getattr(m, name) for m in module.modules() if getattr(m, name, None) is not None), None)


_ACTIVATION_NAMES: Mapping[type[nn.Module], str] = {
    nn.GELU: "gelu",
    layers.GELU: "gelu",
    layers.GELUTanh: "gelu_pytorch_tanh",
    activations.QuickGELU: "quick_gelu",
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    activations.Swish: "silu",
    nn.Tanh: "tanh",
    activations.Tanh: "tanh",
}


def activation_name(blocks: nn.Module) -> str | None:
    """transformers' name of the activation in ``blocks``; None where transformers lacks it."""
    act = first_attribute(blocks, "act")
    if isinstance(act, Activation):
        return act.name
    if isinstance(act, nn.GELU) and act.approximate == "tanh":
        return "gelu_pytorch_tanh"
    return _ACTIVATION_NAMES.get(type(act))


def layer_mismatch(model: Any, blocks: nn.Module) -> str:
    """The reason why none of transformers' classes can hold timm's layers; an empty string where one can."""
    outputs = [m for name, m in blocks.named_modules() if name.endswith("attn.proj") and isinstance(m, nn.Linear)]
    projections = [m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and _needs_bias(name)]
    norms = [m for m in model.modules() if "norm" in type(m).__name__.lower()]
    reasons = {
        "its patches come from a convolutional network": type(model.patch_embed) is not layers.PatchEmbed,
        "its feed-forward layers are gated": any(not isinstance(m.mlp, layers.Mlp) for m in _with_mlp(blocks)),
        "transformers lacks its activation": activation_name(blocks) is None,
        "its heads are not as wide as hidden_size / num_attention_heads": any(
            m.in_features != m.out_features for m in outputs
        ),
        "not all of its layers have a bias": any(m.bias is None for m in projections),
        "its norms are not layer norms with a bias": not all(
            isinstance(m, nn.LayerNorm) and m.bias is not None for m in norms
        ),
    }
    return next((reason for reason, found in reasons.items() if found), "")


def _with_mlp(blocks: nn.Module) -> list[Any]:
    return [m for m in blocks.modules() if isinstance(getattr(m, "mlp", None), nn.Module)]


def _needs_bias(name: str) -> bool:
    # of query, key and value a config field says whether they have one; Swin's reduction has none
    return not name.endswith((".qkv", ".reduction"))


def key_map_mismatch(part: nn.Module, rows: Iterable[Row]) -> str:
    """The reason why a key map does not cover the tensors of ``part``; an empty string where it does."""
    state: dict[str, Tensor] = {name: torch.empty_like(t, device="meta") for name, t in part.state_dict().items()}
    try:
        to_theirs(state, rows)
    except CheckpointMismatchError as error:
        return f"its tensors differ: {error.message}"
    return ""
