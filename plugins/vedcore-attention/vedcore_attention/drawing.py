"""Attention maps as one picture: the image once a token, red where the attention is, the token's text below."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import vedcore
from vedcore_attention.maps import AttentionMaps

__all__ = ["check_name", "draw", "write"]

SHEET_WIDTH = 1200
"""Width of the picture in pixels, but for one wide tile."""
MIN_SIDE, MAX_SIDE = 160, 400
"""Bounds of a tile's longer side in pixels."""
MARGIN, FONT_SIZE = 6, 16
RED = (255, 32, 0)
STRENGTH = 0.8
"""Share of red where the attention is strongest."""


def check_name(output: str) -> None:
    """Refuse a file name whose ending is not a picture's.

    Raises:
        UsageError: naming the endings.
    """
    ending = os.path.splitext(output)[1].lower()
    if ending not in (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"):
        raise vedcore.UsageError(f"{output!r} is not the name of a picture", field="output", hint="end it in .png")


def draw(found: AttentionMaps) -> Image.Image:
    """The picture of all tokens; of the image alone where there are none."""
    grey = Image.fromarray((found.pixels * 255).byte().permute(1, 2, 0).numpy()).convert("L").convert("RGB")
    scale = min(max(1.0, MIN_SIDE / max(grey.size)), MAX_SIDE / max(grey.size))
    grey = grey.resize((max(1, round(grey.width * scale)), max(1, round(grey.height * scale))))
    if not found.tokens:
        return grey
    font = ImageFont.load_default(FONT_SIZE)
    width, height = grey.width + MARGIN, grey.height + FONT_SIZE + 2 * MARGIN
    columns = min(len(found.tokens), max(1, SHEET_WIDTH // width))
    rows = -(-len(found.tokens) // columns)
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (token, weights) in enumerate(zip(found.tokens, found.maps, strict=True)):
        x, y = MARGIN + index % columns * width, MARGIN + index // columns * height
        strength = (weights / weights.max().clamp(min=1e-9) * 255 * STRENGTH).byte().numpy()
        mask = Image.fromarray(strength).resize(grey.size, Image.Resampling.BILINEAR)
        sheet.paste(Image.composite(Image.new("RGB", grey.size, RED), grey, mask), (x, y))
        pen.text((x, y + grey.height), repr(token)[1:-1], fill="black", font=font)
    return sheet


def write(picture: Image.Image, path: Path) -> None:
    """Write a picture as a whole: another one of that name stays until then."""
    content = io.BytesIO()
    picture.save(content, Image.registered_extensions()[path.suffix.lower()])
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content.getvalue())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
