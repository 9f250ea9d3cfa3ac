"""Sinusoidal position embeddings.

Shape letters: T positions, D width, Y rows and X columns of a map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sinusoid", "sinusoid_2d"]


def sinusoid(positions: Tensor, width: int) -> Tensor:
    """Sines in the first half of the width and cosines in the second half, as fairseq and tensor2tensor have them.

    "Attention Is All You Need", section 3.5, with the halves concatenated instead of interleaved.

    Args:
        positions: (…, T) position numbers.
        width: D, at least 4; where it is odd the last value is zero.

    Returns:
        (…, T, D) float32.
    """
    half = width // 2
    steps = torch.arange(half, device=positions.device, dtype=torch.float32)
    frequencies = torch.exp(steps * (-math.log(10000) / max(half - 1, 1)))  # (D/2,)
    angles = positions.float()[..., None] * frequencies  # (…, T, D/2)
    out = torch.cat([angles.sin(), angles.cos()], -1)
    return torch.nn.functional.pad(out, (0, width % 2))


def sinusoid_2d(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Embeddings of the positions of a feature map, row by row: half of the channels for the row, half for the column.

    Args:
        height: Y.
        width: X.
        channels: D.
        device: of the result.

    Returns:
        (Y * X, D) float32.
    """
    rows = sinusoid(torch.arange(height, device=device), channels // 2)  # (Y, D/2)
    columns = sinusoid(torch.arange(width, device=device), channels - channels // 2)  # (X, D/2)
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], -1).flatten(
        0, 1
    )  # (Y, X, D) -> (Y*X, D)
