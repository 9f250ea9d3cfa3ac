"""What encoders on timm share on the way to transformers' classes and back: words, names, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from timm import layers
from timm.layers import activations
from torch import Tensor, nn

from vedcore.errors import CheckpointMismatchError
from vedcore.transformers_class import Word, only, unused
from vedcore.weights.keymap import Row, ignored, to_theirs
from vedcore_encoders.timm_building import Activation, as_square

__all__ = [
    "HEADS",
    "LAYER_WORDS",
    "activation_name",
    "first",
    "image_words",
    "misfit",
    "odd_layers",
    "of_both_eras",
    "size",
    "stands_for",
]


def stands_for(model_type: str, variant: str) -> Word:
    """The row that opens a ``model_type`` as ``variant``, of which the other rows set everything else."""
    return Word("model_type", model_type, "variant", read=lambda _: variant, write=lambda _: model_type)


def size(value: tuple[int, int] | int) -> list[int] | int:
    """A height and a width in transformers' words: one number for a square."""
    square = as_square(value)
    return square if isinstance(square, int) else list(square)


def image_words(patch_size: int) -> tuple[Word, ...]:
    """What every class takes of an image; ``patch_size`` is its default."""
    return (
        Word("image_size", 224, write=size),
        Word("patch_size", patch_size, write=size),
        only("num_channels", 3),
    )


LAYER_WORDS: tuple[Word, ...] = (
    Word("hidden_act", "gelu"),
    Word("hidden_dropout_prob", 0.0),
    Word("attention_probs_dropout_prob", 0.0),
    unused("initializer_range"),
    unused("encoder_stride"),
)
"""What every class takes of its layers, and what is only read by heads or when weights are drawn."""

HEADS: tuple[Row, ...] = (
    ignored("classifier"),
    ignored("decoder.0"),  # pixels of masked patches
    ignored("embeddings.mask_token"),
)
"""What larger classes of every family have beside the encoder."""

_NEW_NAMES = (
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


def of_both_eras(rows: Iterable[Row]) -> tuple[Row, ...]:
    """``rows`` of names as files have them, and for reading those that transformers 5 has in memory, and may save."""
    old = tuple(rows)
    new = []
    for row in old:
        name = row.theirs
        for before, after in _NEW_NAMES:
            name = name.replace(before, after)
        if name != row.theirs:
            new.append(replace(row, theirs=name, read_only=True))
    return (*old, *new)


def first(module: nn.Module, name: str) -> Any:
    """The attribute ``name`` of the first module in ``module`` that has one, or None."""
    return next((getattr(m, name) for m in module.modules() if getattr(m, name, None) is not None), None)


_NAMES: Mapping[type[nn.Module], str] = {
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
    """transformers' name of the activation in ``blocks``; None where it has none."""
    act = first(blocks, "act")
    if isinstance(act, Activation):
        return act.name
    if isinstance(act, nn.GELU) and act.approximate == "tanh":
        return "gelu_pytorch_tanh"
    return _NAMES.get(type(act))


def odd_layers(model: Any, blocks: nn.Module) -> str:
    """What all of transformers' classes lack that timm's patches, feed-forward layers, norms or biases have."""
    outputs = [m for name, m in blocks.named_modules() if name.endswith("attn.proj") and isinstance(m, nn.Linear)]
    # of query, key and value the settings say whether they have a bias
    projections = [m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and _has_bias(name)]
    norms = [m for m in model.modules() if "norm" in type(m).__name__.lower()]
    reasons = {
        "its patches come from a convolutional network": type(model.patch_embed) is not layers.PatchEmbed,
        "its feed-forward layers are gated": any(not isinstance(m.mlp, layers.Mlp) for m in _with_mlp(blocks)),
        "its activation has no name there": activation_name(blocks) is None,
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


def _has_bias(name: str) -> bool:
    return not name.endswith((".qkv", ".reduction"))


def misfit(part: nn.Module, rows: Iterable[Row]) -> str:
    """Which tensors of ``part`` a key map has no place for, or misses; an empty string where it fits."""
    state: dict[str, Tensor] = {name: torch.empty_like(t, device="meta") for name, t in part.state_dict().items()}
    try:
        to_theirs(state, rows)
    except CheckpointMismatchError as error:
        return f"its tensors are others: {error.message}"
    return ""
