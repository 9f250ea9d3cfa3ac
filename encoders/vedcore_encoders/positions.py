"""Sizes of images and maps, and tables of positions resampled for them, with transformers' arithmetic.

Shape letters: Y rows and X columns of patches or of a window, D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vedcore.layers.tracing import holds

__all__ = [
    "Grid",
    "crop_offsets",
    "is_same",
    "relative_rows",
    "resample_absolute",
    "resample_relative",
    "sides",
    "stored_grid",
    "window_rows",
]

Grid = tuple[int, int]
"""Rows and columns."""
_RELATIVE_EXTRAS = 3
"""Rows of BEiT's table for pairs with the class token."""


def sides(images: Tensor, axis: int) -> Grid:
    """The sizes along ``axis`` and the axis after it; a trace of ``torch.jit`` keeps those that it is made with."""
    height, width = images.shape[axis], images.shape[axis + 1]
    return (int(height), int(width)) if torch.jit.is_tracing() else (height, width)  # type: ignore[attr-defined, no-untyped-call]


def is_same(one: Grid, other: Grid) -> bool:
    """Whether two grids are equal: in a recorded program, for every size that it takes."""
    return holds(one[0] == other[0]) and holds(one[1] == other[1])


def stored_grid(rows: int, rows_of: Callable[[Grid], int], new: Grid, known: Grid | None) -> Grid | None:
    """The grid of a stored table, or None where that is ``new`` or cannot be told.

    Args:
        rows: of the stored table.
        rows_of: the number of rows of a table for a grid.
        new: the grid that a table is needed for.
        known: the grid of the stored table; None takes ``new`` where it has as many rows, else a square.
    """
    if known is None and rows != rows_of(new):
        known = next(((n, n) for n in range(1, math.isqrt(max(rows, 0)) + 1) if rows_of((n, n)) == rows), None)
    return known if known is not None and known != new and rows_of(known) == rows else None


def resample_absolute(table: Tensor, old: Grid, new: Grid, extra: int) -> Tensor:
    """(1, extra + Y * X, D) for another grid, bicubic; the first ``extra`` rows, of other tokens, are kept."""
    if is_same(old, new):
        return table
    cells = table[:, extra:].reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, D, Y, X)
    cells = F.interpolate(cells, size=new, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :extra], cells.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def resample_relative(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """BEiT's ((2 Y - 1) * (2 X - 1) + 3, H) for another grid, bilinear; the last rows, of the class token, are kept."""
    if is_same(old, new):
        return table
    offsets = table[:-_RELATIVE_EXTRAS].reshape(*_offsets(old), -1).permute(2, 0, 1)[None]  # (1, H, 2 Y - 1, 2 X - 1)
    offsets = F.interpolate(offsets, size=_offsets(new), mode="bilinear", align_corners=False)
    return torch.cat([offsets[0].permute(1, 2, 0).flatten(0, 1), table[-_RELATIVE_EXTRAS:]])


def relative_rows(grid: Grid) -> int:
    """Rows of BEiT's table for a grid."""
    return window_rows(grid) + _RELATIVE_EXTRAS


def window_rows(window: Grid) -> int:
    """Rows of Swin's table for a window."""
    return math.prod(_offsets(window))


def crop_offsets(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Swin's ((2 Y - 1) * (2 X - 1), H) for another window: each pair of cells keeps the row of its distance.

    A distance that the old window does not have takes the row of the nearest that it has.
    """
    if old == new:
        return table
    rows, columns = (
        torch.arange(1 - n, n, device=table.device).clamp(1 - o, o - 1) + (o - 1) for n, o in zip(new, old, strict=True)
    )
    kept: Tensor = table.reshape(*_offsets(old), -1)[rows[:, None], columns]  # (2 Y - 1, 2 X - 1, H)
    return kept.flatten(0, 1)


def _offsets(grid: Grid) -> Grid:
    """Numbers of different distances along each axis."""
    return 2 * grid[0] - 1, 2 * grid[1] - 1
