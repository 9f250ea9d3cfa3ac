"""Small pictures of rows' images for a page."""

from __future__ import annotations

import io

from vedcore.data import Row
from vedcore.errors import VedcoreError

__all__ = ["picture_of"]

MAX_WIDTH, MAX_HEIGHT = 800, 480
"""Pixels of a picture."""
MAX_PNG_BYTES = 60_000
"""A picture whose PNG is larger becomes a JPEG."""


def picture_of(row: Row) -> bytes | None:
    """The image of a row as PNG or JPEG, at most 800 x 480 pixels; None where it cannot be read."""
    from vedcore.processing.images import load_image

    try:
        image = load_image(row.image, pages=row.page or 1)
    except VedcoreError:
        return None
    image.thumbnail((MAX_WIDTH, MAX_HEIGHT))
    file = io.BytesIO()
    image.save(file, "PNG")
    if file.tell() > MAX_PNG_BYTES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
    return file.getvalue()
