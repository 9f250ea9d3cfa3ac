"""Attention of a text over itself and over an image.

A mask is boolean everywhere in vedcore and True where a query may attend; None lets it attend everywhere.

Shape letters: B rows of text, N images (B is a multiple of N: the captions or beams of one image are adjacent
rows), T queries, L keys, S encoder tokens, D width of the decoder, E width of the encoder states, H heads,
K head size.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vedcore.errors import IncompatibleError
from vedcore.layers.cache import LayerCache
from vedcore.layers.linear import Linear, apply_together
from vedcore.layers.tracing import holds

__all__ = ["CrossAttention", "SelfAttention", "attend", "causal_mask"]

MAX_UNFUSED_QUERIES = 8
"""Most queries for which two matrix products beat torch's fused attention on a CPU, in bfloat16 by far."""


def causal_mask(queries: int, keys: int, attention_mask: Tensor | None, device: torch.device) -> Tensor | None:
    """The keys that each of the last ``queries`` tokens may attend to: itself, and earlier tokens but padding.

    Args:
        queries: T.
        keys: L, at least T.
        attention_mask: (B, L) bool, False where a token is padding.
        device: of the mask.

    Returns:
        (1 or B, 1, T, L) bool, or None where a single query may attend to everything. A padding token attends to
        itself, so that no row of a softmax is empty; no other token attends to it.
    """
    if attention_mask is None and holds(queries == 1):
        return None
    own = torch.arange(keys - queries, keys, device=device)[:, None]  # (T, 1)
    key = torch.arange(keys, device=device)  # (L,)
    if attention_mask is None:
        return (key <= own)[None, None]  # (1, 1, T, L)
    return (((key <= own) & attention_mask[:, None]) | (key == own))[:, None]  # (B, 1, T, L)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    need_weights: bool = False,
    upcast: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention, "Attention Is All You Need", section 3.2.1.

    Args:
        query: (B, H, T, K).
        key: (B, H, L, K).
        value: (B, H, L, K).
        mask: bool, broadcastable to (B, H, T, L), True where a query may attend.
        scaling: factor of the query-key products.
        dropout: share of the weights that is dropped.
        need_weights: return the weights too, which rules out the fused kernels.
        upcast: compute the scores in float32 (GPT2's ``reorder_and_upcast_attn``).

    Returns:
        (B, H, T, K), and the weights (B, H, T, L) before dropout or None.
    """
    if not need_weights and not upcast:
        few = holds(query.shape[2] <= MAX_UNFUSED_QUERIES)
        if few and query.device.type == "cpu" and not torch.is_grad_enabled() and not dropout:
            return _attend_unfused(query, key, value, mask, scaling), None
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scaling), None
    if upcast:
        with torch.autocast(query.device.type, enabled=False):
            scores = query.float() @ key.float().transpose(-1, -2) * scaling  # (B, H, T, L)
    else:
        scores = query @ key.transpose(-1, -2) * scaling  # (B, H, T, L)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    return F.dropout(weights, dropout, dropout > 0) @ value, weights if need_weights else None


def _attend_unfused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """`attend` for a few queries, in few calls of torch, whose overhead dominates then."""
    key, value = key.flatten(0, 1), value.flatten(0, 1)  # (B*H, L, K)
    scores = torch.bmm((query * scaling).flatten(0, 1), key.transpose(1, 2))  # (B*H, T, L)
    if mask is not None:
        by_row = scores.view(*query.shape[:3], -1)  # (B, H, T, L)
        scores = by_row.masked_fill(~mask, torch.finfo(scores.dtype).min).flatten(0, 1)
    return torch.bmm(scores.softmax(-1), value).view(*query.shape[:3], -1)  # (B, H, T, K)


class _Attention(nn.Module):
    """Queries from the text; keys and values from states of width ``source_size``."""

    on_the_same_input: ClassVar[tuple[str, ...]]
    """Names of the layers that have the same input; see `vedcore.layers.linear.pack`."""

    def __init__(
        self,
        hidden_size: int,
        source_size: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        scaling: float | None = None,
        upcast: bool = False,
        std: float = 0.02,
        output_std: float | None = None,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise IncompatibleError(
                f"a hidden size of {hidden_size} does not divide into {num_heads} attention heads",
                hint="change the decoder's hidden size or its number of heads",
            )
        self.num_heads = num_heads
        self.scaling = (hidden_size // num_heads) ** -0.5 if scaling is None else scaling
        self.dropout = dropout
        self.upcast = upcast
        self.query = Linear(hidden_size, hidden_size, std=std)
        self.key = Linear(source_size, hidden_size, std=std)
        self.value = Linear(source_size, hidden_size, std=std)
        self.output = Linear(hidden_size, hidden_size, std=std if output_std is None else output_std)

    def _heads(self, states: Tensor) -> Tensor:
        rows, tokens, width = states.shape
        return states.reshape(rows, tokens, self.num_heads, width // self.num_heads).transpose(1, 2)  # (B, H, T, K)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        return attend(
            query,
            key,
            value,
            mask,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
            need_weights=need_weights,
            upcast=self.upcast,
        )


class SelfAttention(_Attention):
    """Attention of a text over itself.

    Args:
        hidden_size: D.
        num_heads: H; must divide D.
        dropout: share of the weights dropped in training.
        scaling: factor of the query-key products; None means one over the square root of the head size.
        upcast: compute the scores in float32.
        std: standard deviation of the fresh weights.
        output_std: standard deviation of the output layer's fresh weights; None means ``std``.
    """

    on_the_same_input = ("query", "key", "value")

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        scaling: float | None = None,
        upcast: bool = False,
        std: float = 0.02,
        output_std: float | None = None,
    ) -> None:
        super().__init__(
            hidden_size,
            hidden_size,
            num_heads,
            dropout=dropout,
            scaling=scaling,
            upcast=upcast,
            std=std,
            output_std=output_std,
        )

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None, cache: LayerCache | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) to (B, T, D) and, with ``need_weights``, the weights (B, H, T, L)."""
        query, key, value = map(self._heads, apply_together(hidden_states, self.query, self.key, self.value))
        if cache is not None:
            key, value = cache.update(key, value)
        context, weights = self._attend(query, key, value, mask, need_weights)
        return self.output(context.transpose(1, 2).flatten(2)), weights  # (B, H, T, K) -> (B, T, D)


class CrossAttention(_Attention):
    """Attention of a text over an image.

    Args:
        hidden_size: D.
        source_size: E.
        num_heads: H; this and all further arguments as in `SelfAttention`.
    """

    on_the_same_input = ("key", "value")

    def project(self, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (N, H, S, K) each, of encoder states (N, S, E): computed once per image."""
        key, value = map(self._heads, apply_together(encoder_hidden_states, self.key, self.value))
        return key, value

    def forward(
        self, hidden_states: Tensor, cross: tuple[Tensor, Tensor], mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attend to the images.

        Args:
            hidden_states: (B, T, D).
            cross: keys and values of the images, as `project` returns them.
            mask: (N, 1, 1, S).
            need_weights: return the weights too.

        Returns:
            (B, T, D), and the weights (B, H, T, S) or None.
        """
        key, value = cross
        rows, images = hidden_states.shape[0], key.shape[0]
        query = self._heads(self.query(hidden_states))  # (B, H, T, K)
        if rows != images:  # the rows of an image become queries of one row: its keys and values need no copy
            query = _folded(query, images)  # (N, H, B/N*T, K)
        context, weights = self._attend(query, key, value, mask, need_weights)
        if rows != images:
            context = _unfolded(context, rows)  # (B, H, T, K)
            weights = None if weights is None else _unfolded(weights, rows)  # (B, H, T, S)
        return self.output(context.transpose(1, 2).flatten(2)), weights  # (B, H, T, K) -> (B, T, D)


def _folded(states: Tensor, images: int) -> Tensor:
    """(B, H, T, K) to (N, H, B/N*T, K)."""
    rows, heads, tokens, size = states.shape
    return states.reshape(images, rows // images, heads, tokens, size).transpose(1, 2).flatten(2, 3)


def _unfolded(states: Tensor, rows: int) -> Tensor:
    """(N, H, B/N*T, K) to (B, H, T, K)."""
    images, heads, queries, size = states.shape
    each = rows // images
    return states.reshape(images, heads, each, queries // each, size).transpose(1, 2).flatten(0, 1)
