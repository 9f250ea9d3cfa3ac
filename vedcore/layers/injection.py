"""Cross-attention behind the layers of a language model that has none.

Shape letters: B rows of text, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vedcore.errors import IncompatibleError
from vedcore.layers.attention import CrossAttention
from vedcore.layers.context import LayerContext

__all__ = ["CrossAttentionInjection"]


class CrossAttentionInjection(nn.Module):
    """A layer of a causal language model, as it is, and behind it a norm, cross-attention and a residual.

    The layer's parameters keep their names below ``layer``. Those of the block begin with ``cross_attention``, by which
    `TextDecoder.fresh_parameters` knows them. A subclass whose layers are not called as ``layer(hidden_states,
    context)`` overrides `call_layer`.

    Args:
        layer: the language model's.
        cross_attention: over the image; None where only the layer runs.
        norm: makes the norm of what cross-attention reads.
        gated: multiply the block's output by the tanh of a parameter that starts at zero, so that the language model
            begins as it was (Alayrac et al. 2022, "Flamingo").
        dropout: rate of the block's output.
    """

    cross_attention: CrossAttention | None
    cross_attention_norm: nn.Module
    cross_attention_gate: nn.Parameter | None

    def __init__(
        self,
        layer: nn.Module,
        cross_attention: CrossAttention | None,
        *,
        norm: Callable[[], nn.Module],
        gated: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.cross_attention = cross_attention
        if cross_attention is not None:
            self.cross_attention_norm = norm()
            self.cross_attention_gate = nn.Parameter(torch.zeros(())) if gated else None
            self.dropout = nn.Dropout(dropout)

    @classmethod
    def into(
        cls, layers: Iterable[nn.Module], cross_attention: Callable[[], CrossAttention], *, every: int = 1, **block: Any
    ) -> nn.ModuleList:
        """The layers of a language model as those of a decoder that sees images.

        Args:
            layers: in their order.
            cross_attention: makes the cross-attention of one layer.
            every: 2 gives every second layer a block, the second one first.
            **block: ``norm`` and the further arguments of the class.

        Raises:
            IncompatibleError: no layer would see the image.
        """
        given = list(layers)
        if not 1 <= every <= len(given):
            raise IncompatibleError(
                f"cross-attention after every {every} of {len(given)} layers: none would see the image",
                hint=f"give a number from 1 to {len(given)}",
            )
        seeing = [number % every == 0 for number in range(1, len(given) + 1)]
        return nn.ModuleList(
            cls(layer, cross_attention() if sees else None, **block) for layer, sees in zip(given, seeing, strict=True)
        )

    def call_layer(self, hidden_states: Tensor, context: LayerContext) -> Tensor:
        """The language model's layer alone, (B, T, D) to (B, T, D)."""
        out: Tensor = self.layer(hidden_states, context)
        return out

    def forward(self, hidden_states: Tensor, context: LayerContext) -> Tensor:
        """(B, T, D) to (B, T, D); the block is skipped where there is no image."""
        x = self.call_layer(hidden_states, context)
        cross = None if self.cross_attention is None else self.cross_attention.images(context)
        if self.cross_attention is None or cross is None:
            return x
        out: Tensor = self.dropout(self.cross_attention(self.cross_attention_norm(x), cross, context))
        return x + out if self.cross_attention_gate is None else x + out * self.cross_attention_gate.tanh()
