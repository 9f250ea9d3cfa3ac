"""The decoder layer that all families share; they differ in the order and kind of the norms and in sizes.

Shape letters: B rows of text, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vedcore.layers.attention import CrossAttention
from vedcore.layers.context import LayerContext

__all__ = ["DecoderLayer"]


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and a feed-forward block, each with a residual connection and a norm.

    Args:
        self_attention: over the text: a `SelfAttention`, or another module that is called as it is.
        cross_attention: over the image; None where the layer does not see it.
        mlp: the feed-forward block, (B, T, D) to (B, T, D).
        norm: makes a norm over D; called for each block.
        norm_first: norm before each block (GPT2, mBART) or after its residual (BERT, BART, TrOCR).
        dropout: dropout rate of both attentions' outputs.
        mlp_dropout: dropout rate of the feed-forward block's output; None means ``dropout``.
    """

    def __init__(
        self,
        self_attention: nn.Module,
        cross_attention: CrossAttention | None,
        mlp: nn.Module,
        *,
        norm: Callable[[], nn.Module],
        norm_first: bool,
        dropout: float = 0.0,
        mlp_dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attention = self_attention
        self.self_attention_norm = norm()
        self.cross_attention = cross_attention
        self.cross_attention_norm = None if cross_attention is None else norm()
        self.mlp = mlp
        self.mlp_norm = norm()
        self.dropout = nn.Dropout(dropout)
        self.mlp_dropout = nn.Dropout(dropout if mlp_dropout is None else mlp_dropout)

    def forward(self, hidden_states: Tensor, context: LayerContext) -> Tensor:
        """(B, T, D) to (B, T, D); cross-attention is skipped where there is no image (a language model alone)."""
        x = hidden_states
        out = self.self_attention(self._before(x, self.self_attention_norm), context)
        x = self._after(x, out, self.dropout, self.self_attention_norm)
        cross_attention, norm = self.cross_attention, self.cross_attention_norm
        if cross_attention is not None and norm is not None:
            cross = cross_attention.images(context)
            if cross is not None:
                out = cross_attention(self._before(x, norm), cross, context)
                x = self._after(x, out, self.dropout, norm)
        out = self.mlp(self._before(x, self.mlp_norm))
        return self._after(x, out, self.mlp_dropout, self.mlp_norm)

    def _before(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x) if self.norm_first else x

    def _after(self, x: Tensor, out: Tensor, dropout: nn.Module, norm: nn.Module) -> Tensor:
        if dropout.training:
            out = dropout(out)
        return x + out if self.norm_first else norm(x + out)
