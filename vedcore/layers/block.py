"""The decoder layer that all families share; they differ in the order of the norms and in sizes.

Shape letters: B rows of text, N images, T tokens, S encoder tokens, D width, E width of encoder states, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn

from vedcore.layers.attention import CrossAttention, SelfAttention
from vedcore.layers.cache import LayerCache
from vedcore.layers.mlp import MLP

__all__ = ["DecoderLayer"]


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and a feed-forward block, each with a residual connection and a norm.

    Args:
        self_attention: over the text.
        cross_attention: over the image.
        mlp: the feed-forward block.
        hidden_size: D.
        norm_eps: epsilon of the layer norms.
        norm_first: norm before each block (GPT2, mBART) or after its residual (BERT, BART, TrOCR).
        dropout: dropout rate of both attentions' outputs.
        mlp_dropout: dropout rate of the feed-forward block's output; None means ``dropout``.
    """

    def __init__(
        self,
        self_attention: SelfAttention,
        cross_attention: CrossAttention,
        mlp: MLP,
        *,
        hidden_size: int,
        norm_eps: float,
        norm_first: bool,
        dropout: float,
        mlp_dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attention = self_attention
        self.self_attention_norm = nn.LayerNorm(hidden_size, norm_eps)
        self.cross_attention = cross_attention
        self.cross_attention_norm = nn.LayerNorm(hidden_size, norm_eps)
        self.mlp = mlp
        self.mlp_norm = nn.LayerNorm(hidden_size, norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.mlp_dropout = nn.Dropout(dropout if mlp_dropout is None else mlp_dropout)

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None,
        encoder_hidden_states: Tensor | None,
        encoder_mask: Tensor | None,
        cache: LayerCache | None,
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """One layer.

        Args:
            hidden_states: (B, T, D).
            mask: (B, 1, T, L), see `vedcore.layers.attention.causal_mask`.
            encoder_hidden_states: (N, S, E); None takes the cross-attention keys and values of the cache, and skips
                cross-attention where it has none (a language model alone).
            encoder_mask: (N, 1, 1, S).
            cache: the cache of this layer.
            need_weights: return the weights of both attentions.

        Returns:
            (B, T, D), self-attention weights or None, cross-attention weights or None.
        """
        x = hidden_states
        out, weights = self.self_attention(self._before(x, self.self_attention_norm), mask, cache, need_weights)
        x = self._after(x, out, self.dropout, self.self_attention_norm)

        cross = cache.cross if cache is not None else None
        if cross is None and encoder_hidden_states is not None:
            cross = self.cross_attention.project(encoder_hidden_states)
            if cache is not None:  # else the products of every later step would copy them
                cache.cross = cross = cross[0].contiguous(), cross[1].contiguous()
        cross_weights = None
        if cross is not None:
            out, cross_weights = self.cross_attention(
                self._before(x, self.cross_attention_norm), cross, encoder_mask, need_weights
            )
            x = self._after(x, out, self.dropout, self.cross_attention_norm)

        out = self.mlp(self._before(x, self.mlp_norm))
        return self._after(x, out, self.mlp_dropout, self.mlp_norm), weights, cross_weights

    def _before(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x) if self.norm_first else x

    def _after(self, x: Tensor, out: Tensor, dropout: nn.Module, norm: nn.Module) -> Tensor:
        if dropout.training:
            out = dropout(out)
        return x + out if self.norm_first else norm(x + out)
