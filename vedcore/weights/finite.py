"""Whether numbers are finite, as fast as memory is read."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

__all__ = ["is_finite"]

_SIGNED = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or Inf.

    NaN and Inf have the largest exponent that there is: read as whole numbers, they are the largest of their sign. So
    two maxima tell; numpy takes each in one pass and one thread, and lets other threads run.

    Args:
        values: of any type and shape, on the CPU and contiguous.
    """
    if values.is_complex():
        values = torch.view_as_real(values)
    if not values.is_floating_point() or not values.numel():
        return True
    size = values.dtype.itemsize
    if size == 1:  # not all of these have an infinity
        return bool(values.float().isfinite().all())
    bits = values.detach().reshape(-1).view(torch.uint8).numpy()
    infinity = _infinity(values.dtype)
    positive, negative = bits.view(f"i{size}").max(), bits.view(f"u{size}").max()
    return bool(positive < infinity and negative < infinity + (1 << 8 * size - 1))


@functools.cache
def _infinity(dtype: torch.dtype) -> int:
    """Its bits, as a whole number."""
    return int(torch.tensor(np.inf, dtype=dtype).view(_SIGNED[dtype.itemsize]))
