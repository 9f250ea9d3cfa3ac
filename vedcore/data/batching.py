"""The rows of each batch: shuffled by a seed, and put together by size."""

from __future__ import annotations

import io
import math
import os
import random
import warnings
from collections.abc import Sequence
from typing import Any

from PIL import Image

from vedcore.data.rows import Problem, Row
from vedcore.errors import VedcoreError
from vedcore.files import open_regular

__all__ = ["WINDOW", "batches_of", "image_shape"]

WINDOW = 50
"""Batches whose rows are put together by size; a stream keeps the rows of so many in memory."""
FORMATS = ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF"]
"""Formats whose sizes are read."""


def batches_of(
    sizes: Sequence[Sequence[int]] | None, count: int, batch_size: int, seed: str | None, world_size: int = 1
) -> list[list[int]]:
    """The numbers of the rows of each batch.

    Args:
        sizes: of each row; rows of similar ones come together, the first number before the second. None for any rows.
        count: of rows.
        batch_size: rows of a batch; the last one may have fewer.
        seed: of the order; None keeps that of the rows, and then ``sizes`` do not count.
        world_size: the number of batches is a multiple of it; the first come again where it is not.
    """
    order = list(range(count))
    if seed is None:
        return [order[i : i + batch_size] for i in range(0, count, batch_size)]
    draw = random.Random(seed)
    draw.shuffle(order)
    batches: list[list[int]] = []
    window = batch_size * (WINDOW if sizes is not None else 1)
    for start in range(0, count, window):
        rows = order[start : start + window]
        if sizes is not None:
            rows.sort(key=lambda row: tuple(sizes[row]))
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    draw.shuffle(batches)
    missing = -len(batches) % world_size
    return batches + [batches[i % len(batches)] for i in range(missing)]


def image_shape(row: Row | Problem) -> tuple[int, int]:
    """Proportions of a row's image, in eighths of a power of two, and its pixels; zeros where its head does not tell.

    Proportions come first, as most encoders scale images to one height or area.
    """
    width, height = _size_of(row)
    return (round(8 * math.log2(width / height)), width * height) if width and height else (0, 0)


def _size_of(row: Row | Problem) -> tuple[int, int]:
    image: Any = getattr(row, "image", None)
    try:
        if isinstance(image, Image.Image):
            return image.size
        if isinstance(image, (str, os.PathLike)):
            with open_regular(image, VedcoreError, "") as file:
                return _size_in(file)
        return _size_in(io.BytesIO(image)) if isinstance(image, (bytes, bytearray)) else (0, 0)
    except Exception:  # it is told when the image is decoded
        return 0, 0


def _size_in(file: Any) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's of large images, whose limit is the processor's
        with Image.open(file, formats=FORMATS) as image:
            return image.size
