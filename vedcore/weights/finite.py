"""Search for NaN and Inf, in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_finite"]


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or Inf.

    A finite sum proves it. Another sum may have overflowed, so then each value is checked.

    Args:
        values: a tensor of any type and shape.
    """
    if not (values.is_floating_point() or values.is_complex()):
        return True
    if values.dtype.itemsize == 1:  # torch cannot sum the 8-bit types
        values = values.float()
    total = values.sum(dtype=torch.float32 if values.dtype.itemsize == 2 else None)
    return bool(total.isfinite()) or bool(values.isfinite().all())
