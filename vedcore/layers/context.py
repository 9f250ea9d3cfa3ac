"""The context of one call of a decoder: all that its layers are told, and where they leave their attention weights.

Shape letters: B rows of text, N images (B is a multiple of N), T new tokens, L tokens so far, S encoder tokens,
D width, E width of encoder states, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from vedcore.layers.cache import LayerCache

__all__ = ["LayerContext", "run_again"]


@dataclass
class LayerContext:
    """One layer's view of one call: ``layer(hidden_states, context)`` gives the new (B, T, D)."""

    positions: Tensor | None = None
    """(1 or B, T) of the new tokens; -1 marks padding."""
    mask: Tensor | None = None
    """(1 or B, 1, T, L) bool, True where a token attends; None where a single token attends to everything."""
    encoder_hidden_states: Tensor | None = None
    """(N, S, E); None where the cache holds what is needed of them, and where there is no image."""
    encoder_mask: Tensor | None = None
    """(N, 1, 1, S) bool, True where an encoder token counts; None where all do."""
    position_states: tuple[Tensor, ...] = ()
    """Result of `TextDecoder.position_states`, such as the cosines and sines of rotary ones."""
    score_bias: Tensor | None = None
    """(1 or B, H, T, L) added to the scores of self-attention; the lowest number where the mask is False."""
    cache: LayerCache | None = None
    """The cache of this layer."""
    needs_weights: bool = False
    """Whether the layer is to record its attention weights."""
    attention: Tensor | None = None
    """(B, H, T, L) that self-attention records where ``needs_weights``."""
    cross_attention: Tensor | None = None
    """(B, H, T, S) that cross-attention records likewise."""


_TENSORS = ("positions", "mask", "encoder_hidden_states", "encoder_mask", "score_bias")


def run_again(
    checkpoint: Callable[..., Any], layer: Callable[..., Any], hidden_states: Tensor, context: LayerContext
) -> Tensor:
    """A layer whose activations ``checkpoint`` computes again in the backward pass.

    Every tensor is an argument of the function that runs again, and the recorded weights are results of it: torch's
    older implementation passes gradients on to no others. What runs again records in a context of its own.
    """

    def run(hidden_states: Tensor, *tensors: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
        named = dict(zip(_TENSORS, tensors, strict=False))
        inner = replace(context, **named, position_states=tensors[len(_TENSORS) :])
        return layer(hidden_states, inner), inner.attention, inner.cross_attention

    tensors = [getattr(context, name) for name in _TENSORS]
    out: Tensor
    out, context.attention, context.cross_attention = checkpoint(run, hidden_states, *tensors, *context.position_states)
    return out
