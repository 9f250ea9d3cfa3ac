"""Attention of a text over itself and over an image.

A mask is boolean everywhere in vedcore and True where a query may attend; None lets it attend everywhere.

Shape letters: B rows of text, N images (B is a multiple of N: the captions or beams of one image are adjacent
rows), T queries, L keys, S encoder tokens, D width of the decoder, E width of the encoder states, H heads of queries,
G heads of keys and values (H is a multiple of G: adjacent query heads share one), K head size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vedcore.errors import IncompatibleError
from vedcore.layers.context import LayerContext
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
        key: (B, G, L, K).
        value: (B, G, L, K).
        mask: broadcastable to (B, H, T, L): bool, True where a query may attend, or floats that are added to the
            scores. One of fewer heads than H has one head.
        scaling: factor of the query-key products.
        dropout: share of the weights that is dropped.
        need_weights: return the weights too, which rules out the fused kernels.
        upcast: compute the scores in float32 (GPT2's ``reorder_and_upcast_attn``).

    Returns:
        (B, H, T, K), and the weights (B, H, T, L) before dropout or None.
    """
    few, shape, groups = holds(query.shape[2] <= MAX_UNFUSED_QUERIES), query.shape, key.shape[1]
    if groups != shape[1]:  # the heads of a group become queries of one head: its keys and values need no copy
        query, mask = _grouped(query, groups), None if mask is None else _grouped_mask(mask, shape[1], groups)
    if not need_weights and not upcast:
        if few and query.device.type == "cpu" and not torch.is_grad_enabled() and not dropout:
            out = _attend_unfused(query, key, value, mask, scaling)
        else:
            out = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scaling)
        return out if groups == shape[1] else out.reshape(shape), None
    if upcast:
        with torch.autocast(query.device.type, enabled=False):
            scores = query.float() @ key.float().transpose(-1, -2) * scaling  # (B, H, T, L)
    else:
        scores = query @ key.transpose(-1, -2) * scaling  # (B, H, T, L)
    weights = _masked(scores, mask).softmax(-1, dtype=torch.float32).to(value.dtype)
    out = F.dropout(weights, dropout, dropout > 0) @ value
    if groups != shape[1]:
        out, weights = out.reshape(shape), weights.reshape(*shape[:3], -1)
    return out, weights if need_weights else None


def _attend_unfused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """`attend` for a few queries, in few calls of torch, whose overhead dominates then."""
    key, value = key.flatten(0, 1), value.flatten(0, 1)  # (B*H, L, K)
    scores = torch.bmm((query * scaling).flatten(0, 1), key.transpose(1, 2))  # (B*H, T, L)
    if mask is not None:
        scores = _masked(scores.view(*query.shape[:3], -1), mask).flatten(0, 1)  # by way of (B, H, T, L)
    return torch.bmm(scores.softmax(-1), value).view(*query.shape[:3], -1)  # (B, H, T, K)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores (B, H, T, L) with the lowest number where a boolean mask is False, or with a mask of floats added."""
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask.to(scores.dtype)


def _grouped(states: Tensor, groups: int) -> Tensor:
    """(B, H, T, K) to (B, G, H/G*T, K)."""
    return states.reshape(states.shape[0], groups, -1, states.shape[3])


def _grouped_mask(mask: Tensor, heads: int, groups: int) -> Tensor:
    """A mask of (B, H, T, L), or of one head, as one of (B, G, H/G*T, L)."""
    if mask.shape[1] == heads:
        return _grouped(mask, groups)
    return mask if holds(mask.shape[2] == 1) else mask.repeat(1, 1, heads // groups, 1)


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
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        biases: Collection[str] = ("query", "key", "value", "output"),
        dropout: float = 0.0,
        scaling: float | None = None,
        upcast: bool = False,
        std: float = 0.02,
        output_std: float | None = None,
        head_norm: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        groups = num_heads if num_key_value_heads is None else num_key_value_heads
        if head_dim is None and hidden_size % num_heads:
            raise IncompatibleError(
                f"a hidden size of {hidden_size} does not divide into {num_heads} attention heads",
                hint="change the decoder's hidden size or its number of heads",
            )
        if groups < 1 or num_heads % groups:
            raise IncompatibleError(
                f"{num_heads} attention heads do not divide into {groups} heads of keys and values",
                hint="change one of the two",
            )
        self.num_heads, self.num_key_value_heads = num_heads, groups
        self.head_dim = hidden_size // num_heads if head_dim is None else head_dim
        self.scaling = self.head_dim**-0.5 if scaling is None else scaling
        self.dropout = dropout
        self.upcast = upcast
        width, narrow = num_heads * self.head_dim, groups * self.head_dim
        self.query = Linear(hidden_size, width, "query" in biases, std=std)
        self.key = Linear(source_size, narrow, "key" in biases, std=std)
        self.value = Linear(source_size, narrow, "value" in biases, std=std)
        self.output = Linear(width, hidden_size, "output" in biases, std=std if output_std is None else output_std)
        self.query_norm = None if head_norm is None else head_norm()
        self.key_norm = None if head_norm is None else head_norm()

    def _heads(self, states: Tensor, norm: nn.Module | None = None) -> Tensor:
        heads = states.reshape(*states.shape[:2], -1, self.head_dim)
        return (heads if norm is None else norm(heads)).transpose(1, 2)  # (B, T, H K) -> (B, H, T, K)

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

    def _joined(self, heads: Tensor) -> Tensor:
        out: Tensor = self.output(heads.transpose(1, 2).flatten(2))  # (B, H, T, K) -> (B, T, D)
        return out


class SelfAttention(_Attention):
    """Attention of a text over itself.

    Args:
        hidden_size: D.
        num_heads: H.
        rotate: turns queries and keys by their positions: called with (B, H, T, K) and the call's position states,
            as `vedcore.layers.positions.rotate_halves` is; None turns none.
        **options: all further arguments as in `CrossAttention`.
    """

    on_the_same_input = ("query", "key", "value")

    def __init__(
        self, hidden_size: int, num_heads: int, *, rotate: Callable[..., Tensor] | None = None, **options: Any
    ) -> None:
        super().__init__(hidden_size, hidden_size, num_heads, **options)
        self.rotate = rotate

    def forward(self, hidden_states: Tensor, context: LayerContext) -> Tensor:
        """(B, T, D) to (B, T, D); the weights (B, H, T, L) go to the context where it needs them."""
        query, key, value = apply_together(hidden_states, self.query, self.key, self.value)
        query, key = self._heads(query, self.query_norm), self._heads(key, self.key_norm)
        value = self._heads(value)
        if self.rotate is not None:
            query, key = (self.rotate(states, *context.position_states) for states in (query, key))
        if context.cache is not None:
            key, value = context.cache.update(key, value)
        mask = context.mask if context.score_bias is None else context.score_bias
        out, context.attention = self._attend(query, key, value, mask, context.needs_weights)
        return self._joined(out)


class CrossAttention(_Attention):
    """Attention of a text over an image.

    Args:
        hidden_size: D.
        source_size: E.
        num_heads: H.
        num_key_value_heads: G, a divisor of H; None means H.
        head_dim: K; None means D / H, which must be whole then.
        biases: the layers, of ``"query"``, ``"key"``, ``"value"`` and ``"output"``, that have a bias.
        dropout: share of the weights dropped in training.
        scaling: factor of the query-key products; None means one over the square root of K.
        upcast: compute the scores in float32.
        std: standard deviation of the fresh weights.
        output_std: standard deviation of the output layer's fresh weights; None means ``std``.
        head_norm: makes the norm over K of the queries, and that of the keys; None means that they have none.
    """

    on_the_same_input = ("key", "value")

    def project(self, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (N, G, S, K) each, of encoder states (N, S, E): computed once per image."""
        key, value = apply_together(encoder_hidden_states, self.key, self.value)
        return self._heads(key, self.key_norm), self._heads(value)

    def images(self, context: LayerContext) -> tuple[Tensor, Tensor] | None:
        """The keys and values of a call's images, which the cache then keeps; None where there is no image."""
        cache = context.cache
        if cache is not None and cache.cross is not None:
            return cache.cross
        if context.encoder_hidden_states is None:
            return None
        cross = self.project(context.encoder_hidden_states)
        if cache is not None:  # else the products of every later step would copy them
            cache.cross = cross = cross[0].contiguous(), cross[1].contiguous()
        return cross

    def forward(self, hidden_states: Tensor, cross: tuple[Tensor, Tensor], context: LayerContext) -> Tensor:
        """Attend to the images.

        Args:
            hidden_states: (B, T, D).
            cross: keys and values of the images, as `images` gives them.
            context: its mask of the images is read; the weights (B, H, T, S) go to it where it needs them.

        Returns:
            (B, T, D).
        """
        key, value = cross
        rows, images = hidden_states.shape[0], key.shape[0]
        query = self._heads(self.query(hidden_states), self.query_norm)  # (B, H, T, K)
        if rows != images:  # the rows of an image become queries of one row: its keys and values need no copy
            query = _folded(query, images)  # (N, H, B/N*T, K)
        out, weights = self._attend(query, key, value, context.encoder_mask, context.needs_weights)
        if rows != images:
            out = _unfolded(out, rows)  # (B, H, T, K)
            weights = None if weights is None else _unfolded(weights, rows)  # (B, H, T, S)
        context.cross_attention = weights
        return self._joined(out)


def _folded(states: Tensor, images: int) -> Tensor:
    """(B, H, T, K) to (N, H, B/N*T, K)."""
    rows, heads, tokens, size = states.shape
    return states.reshape(images, rows // images, heads, tokens, size).transpose(1, 2).flatten(2, 3)


def _unfolded(states: Tensor, rows: int) -> Tensor:
    """(N, H, B/N*T, K) to (B, H, T, K)."""
    images, heads, queries, size = states.shape
    each = rows // images
    return states.reshape(images, heads, each, queries // each, size).transpose(1, 2).flatten(0, 1)
