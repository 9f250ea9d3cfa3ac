"""Where a stored tensor goes: memory that is a model's, whatever the layout of the file."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Place", "empty"]

_LARGE = 1 << 21
"""Bytes from which memory comes in pages of this size, where the system has them."""
_CACHE_LINE = 64
"""Bytes."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As ``torch.empty`` on the CPU; a large tensor in huge pages, which are there in half the time.

    Args:
        shape: of the tensor.
        dtype: its type.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError):
        raise MemoryError(f"{size:,} bytes") from None
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class Place(NamedTuple):
    """Tensors that, side by side along ``dim``, are a stored tensor; of any type and layout."""

    parts: tuple[Tensor, ...]
    dim: int = 0

    def memory(self, dtype: torch.dtype) -> Tensor | None:
        """The memory, as bytes, that can take the stored tensor of ``dtype`` as it is in the file."""
        whole = self.parts[0]
        if len(self.parts) > 1 or whole.dtype != dtype or not whole.is_contiguous():
            return None
        return whole.view(-1).view(torch.uint8)

    def put(self, rows: Tensor, first: int = 0) -> None:
        """Write rows of the stored tensor, those from ``first`` on."""
        if not rows.ndim:
            _copy(self.parts[0], rows)
            return
        at = 0
        for part in self.parts:
            size = part.shape[self.dim]
            if self.dim:
                _copy(part[first : first + len(rows)], rows.narrow(self.dim, at, size))
            elif first < at + size and at < first + len(rows):
                low, high = max(first, at), min(first + len(rows), at + size)
                _copy(part[low - at : high - at], rows[low - first : high - first])
            at += size


def _copy(target: Tensor, source: Tensor) -> None:
    """In the calling thread alone, where the types are the same: others are at work beside it."""
    bits = _BITS.get(target.dtype.itemsize)
    if target.dtype != source.dtype or bits is None:
        target.copy_(source)
        return
    into, rows = target.view(bits).numpy(), source.view(bits).numpy()
    if into.ndim == 2 and into.strides[0] < into.strides[1]:
        rows = _apart(rows)
    into[...] = rows


def _apart(rows: NDArray[Any]) -> NDArray[Any]:
    """The same rows with a gap of a cache line between them, for who goes through columns.

    Where rows are as long as a weight's, a power of two or nearly, the numbers of a column are all kept in the same few
    places of the cache, and each line of it is fetched anew for each of its numbers.
    """
    count, width = rows.shape
    apart = np.empty((count, width + _CACHE_LINE // rows.itemsize), rows.dtype)[:, :width]
    apart[...] = rows
    return apart
