"""NaN and Inf, found in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_finite"]


def is_finite(values: Tensor) -> bool:
    """False where a value is NaN or Inf.

    A sum is finite only if all its terms are; where it is not, it may have overflowed, and each value is looked at.

    Args:
        values: of any type and shape.
    """
    if not (values.is_floating_point() or values.is_complex()):
        return True
    if values.dtype.itemsize == 1:  # torch adds up none of these
        values = values.float()
    total = values.sum(dtype=torch.float32 if values.dtype.itemsize == 2 else None)
    return bool(total.isfinite()) or bool(values.isfinite().all())
