"""The torch blocks that encoders and decoders are built from; docs/stability.md lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vedcore.deprecated_names import getattr_for
from vedcore.layers.attention import CrossAttention, SelfAttention, attend, causal_mask
from vedcore.layers.block import DecoderLayer
from vedcore.layers.cache import DecoderCache, LayerCache
from vedcore.layers.context import LayerContext
from vedcore.layers.embeddings import sinusoid, sinusoid_2d
from vedcore.layers.injection import CrossAttentionInjection
from vedcore.layers.linear import Embedding, Linear, output_layer
from vedcore.layers.mlp import MLP, GatedMLP, activation
from vedcore.layers.positions import RelativePositionBias, alibi, rotary_angles, rotate_halves, rotate_pairs
from vedcore.layers.tracing import holds, is_traced
from vedcore.outputs import RunOutput

__all__ = [
    "MLP",
    "CrossAttention",
    "CrossAttentionInjection",
    "DecoderCache",
    "DecoderLayer",
    "Embedding",
    "GatedMLP",
    "LayerCache",
    "LayerContext",
    "Linear",
    "RelativePositionBias",
    "RunOutput",
    "SelfAttention",
    "activation",
    "alibi",
    "attend",
    "causal_mask",
    "holds",
    "is_traced",
    "output_layer",
    "rotary_angles",
    "rotate_halves",
    "rotate_pairs",
    "sinusoid",
    "sinusoid_2d",
]

if not TYPE_CHECKING:  # a type checker would take any name for one of this module
    __getattr__ = getattr_for(__name__)
