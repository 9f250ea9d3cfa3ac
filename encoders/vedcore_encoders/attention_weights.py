"""Attention weights of models that do not return them.

Shape letters: N images or windows, H heads, T tokens, D_h width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["AttentionWeights"]

_SOFTMAX_FUNCTIONS = (F.softmax, torch.softmax, Tensor.softmax)


class AttentionWeights(TorchFunctionMode):
    """While active, collects the weights of each attention that this thread computes, in ``weights``.

    The fused kernel keeps no weights, so two products and a softmax are computed in its place. Elsewhere the output of
    the softmax is taken. The model is not changed: other threads run as before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        out = func(*args, **kwargs)
        # a softmax over the last of four axes is attention; over another axis it mixes branches of a convolution
        if func in _SOFTMAX_FUNCTIONS and out.ndim == 4 and (kwargs["dim"] if "dim" in kwargs else args[1]) in (-1, 3):
            self.weights.append(out)
        return out

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """(N, H, T, D_h) each; the arithmetic in torch's documentation of ``scaled_dot_product_attention``."""
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)  # (N, H, T, T)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        self.weights.append(weights)
        return F.dropout(weights, dropout_p) @ value
