"""Attention over an image: red where it is strong, and one picture a token on a sheet.

Shape letters: Y x X the grid of the image's tokens, H x W pixels of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vedcore.processing.placement import Placement

__all__ = ["Tile", "heated", "heatmap", "sheet"]

SHEET_WIDTH = 1200
"""Limit of a sheet's width in pixels."""
MIN_SIDE, MAX_SIDE = 160, 400
"""Bounds of a tile's longer side in pixels."""
MAX_TILE_PIXELS = 4_000_000
"""Limit of all tiles of a sheet together: those of a long text are smaller."""
MARGIN, FONT_SIZE = 6, 16
RED = (255, 32, 0)
BLUE = (0, 90, 220)
STRENGTH = 0.8
"""Share of red where the attention is strongest."""


class Tile(NamedTuple):
    """A token on a sheet."""

    text: str
    map: Tensor
    """(Y, X)."""


def heatmap(
    weights: Tensor | None,
    placement: Placement,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """(H, W) the weights of a grid at each pixel of a picture of the image.

    Args:
        weights: (Y, X); None is none.
        placement: from pixels that the encoder got to those of the image.
        input_size: height and width of what it got.
        image_size: width and height of the image.
        size: width and height of the picture.
    """
    if weights is None:
        return np.zeros(size[::-1], np.float32)
    rows, columns = weights.shape
    cells = Placement.resized((columns, rows), (0, 0, *input_size[::-1]))  # to the encoder's pixels
    picture = Placement.resized(size, (0, 0, *image_size))  # to the image's
    to_cells = (placement @ cells).inverse() @ picture
    grid = Image.fromarray(weights.numpy().astype(np.float32))
    found = grid.transform(size, Image.Transform.AFFINE, tuple(to_cells), Image.Resampling.BILINEAR)
    return np.asarray(found, np.float32)


def heated(image: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """An image in grey, red where a map (H, W) of its size is strong."""
    grey = image.convert("L").convert("RGB")
    strength = heat / max(float(heat.max(initial=0)), 1e-9) * (255 * STRENGTH)
    return Image.composite(Image.new("RGB", image.size, RED), grey, Image.fromarray(strength.astype(np.uint8)))


def sheet(
    image: Image.Image,
    mean: Tensor | None,
    boxes: Sequence[tuple[int, int, int, int]],
    tiles: Sequence[Tile],
    placement: Placement,
    input_size: tuple[int, int],
) -> Image.Image:
    """The image with boxes, over the tiles of all tokens.

    Args:
        image: the image.
        mean: (Y, X) drawn on it above the tiles.
        boxes: left, top, right and bottom in its pixels.
        tiles: one a token.
        placement: see `heatmap`.
        input_size: see `heatmap`.
    """

    def drawn(weights: Tensor | None, scale: float) -> Image.Image:
        small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        return heated(small, heatmap(weights, placement, input_size, image.size, small.size))

    longer = max(image.size)
    most = math.sqrt(MAX_TILE_PIXELS / max(1, len(tiles)) * longer / min(image.size))  # side of a tile
    side = min(max(longer, MIN_SIDE), MAX_SIDE, max(most, 1.0))
    first = drawn(mean, min(max(1.0, 2 * MAX_SIDE / longer), (SHEET_WIDTH - 2 * MARGIN) / longer))
    pen = ImageDraw.Draw(first)
    for box in boxes:
        left, top, right, bottom = (value * first.width / image.width for value in box)
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=BLUE, width=2)
    each = [drawn(tile.map, side / longer) for tile in tiles]
    width, height = (each[0].width + MARGIN, each[0].height + FONT_SIZE + 2 * MARGIN) if each else (1, 0)
    columns = min(len(each), max(1, (SHEET_WIDTH - MARGIN) // width))
    rows = -(-len(each) // max(1, columns))
    upper = first.height + 2 * MARGIN
    page = Image.new("RGB", (max(columns * width, first.width + MARGIN) + MARGIN, upper + rows * height), "white")
    page.paste(first, (MARGIN, MARGIN))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(FONT_SIZE)
    for index, (tile, picture) in enumerate(zip(tiles, each, strict=True)):
        x, y = MARGIN + index % columns * width, upper + index // columns * height
        page.paste(picture, (x, y))
        pen.text((x, y + picture.height), repr(tile.text)[1:-1], fill="black", font=font)
    return page
