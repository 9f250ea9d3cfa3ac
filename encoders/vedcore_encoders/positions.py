"""Tables of positions resampled for images of another size, with transformers' arithmetic.

Shape letters: Y rows and X columns of patches or of a window, D width, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Grid",
    "crop_offsets",
    "relative_grid",
    "resample_absolute",
    "resample_relative",
    "square_of",
    "table_rows",
]

Grid = tuple[int, int]
"""Rows and columns."""
_RELATIVE_EXTRAS = 3
"""Rows of BEiT's table for pairs with the class token."""


def square_of(cells: int) -> Grid | None:
    """The square grid of so many cells, or None."""
    side = math.isqrt(max(cells, 0))
    return (side, side) if side and side * side == cells else None


def resample_absolute(table: Tensor, old: Grid, new: Grid, extra: int) -> Tensor:
    """(1, extra + Y * X, D) for another grid, bicubic; the first ``extra`` rows, of other tokens, are kept."""
    if old == new:
        return table
    cells = table[:, extra:].unflatten(1, old).permute(0, 3, 1, 2)  # (1, D, Y, X)
    cells = F.interpolate(cells, size=new, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :extra], cells.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def resample_relative(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """BEiT's ((2 Y - 1) * (2 X - 1) + 3, H) for another grid, bilinear; the last rows, of the class token, are kept."""
    if old == new:
        return table
    offsets = table[:-_RELATIVE_EXTRAS].unflatten(0, _offsets(old)).permute(2, 0, 1)[None]  # (1, H, 2 Y - 1, 2 X - 1)
    offsets = F.interpolate(offsets, size=_offsets(new), mode="bilinear", align_corners=False)
    return torch.cat([offsets[0].permute(1, 2, 0).flatten(0, 1), table[-_RELATIVE_EXTRAS:]])


def table_rows(grid: Grid) -> int:
    """Rows of BEiT's table for a grid."""
    return math.prod(_offsets(grid)) + _RELATIVE_EXTRAS


def relative_grid(rows: int) -> Grid | None:
    """The square grid whose table for BEiT has so many rows, or None."""
    sides = square_of(rows - _RELATIVE_EXTRAS)
    return None if sides is None or sides[0] % 2 == 0 else ((sides[0] + 1) // 2,) * 2


def crop_offsets(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Swin's ((2 Y - 1) * (2 X - 1), H) for another window: each pair of cells keeps the row of its distance.

    A distance that the old window does not have takes the row of the nearest that it has.
    """
    if old == new:
        return table
    rows, columns = (
        torch.arange(1 - n, n, device=table.device).clamp(1 - o, o - 1) + (o - 1) for n, o in zip(new, old, strict=True)
    )
    return table.unflatten(0, _offsets(old))[rows[:, None], columns].flatten(0, 1)


def _offsets(grid: Grid) -> Grid:
    """Numbers of different distances along each axis."""
    return 2 * grid[0] - 1, 2 * grid[1] - 1
