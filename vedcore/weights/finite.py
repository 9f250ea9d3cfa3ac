"""Whether numbers are finite, as fast as memory is read."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["is_finite"]

_SIGNED = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or Inf.

    The sum of the squares is finite only if all of them are, and one pass over the memory. Where it is not, or numpy
    has no fast product: NaN and Inf have the largest exponent that there is, so as whole numbers they are the largest
    of their sign, and two maxima tell. numpy lets other threads run meanwhile.

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
    if size > 2:
        numbers = values.detach().reshape(-1).numpy()
        with np.errstate(all="ignore"):
            if math.isfinite(numbers.dot(numbers)):
                return True
    bits = values.detach().reshape(-1).view(torch.uint8).numpy()
    infinity = _infinity(values.dtype)
    positive, negative = bits.view(f"i{size}").max(), bits.view(f"u{size}").max()
    return bool(positive < infinity and negative < infinity + (1 << 8 * size - 1))


@functools.cache
def _infinity(dtype: torch.dtype) -> int:
    """Its bits, as a whole number."""
    return int(torch.tensor(np.inf, dtype=dtype).view(_SIGNED[dtype.itemsize]))
