"""A batch drawn as the model gets it, with its labels as they are decoded."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Sequence
from typing import TypeAlias

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vedcore.config import Preprocessing
from vedcore.data.doctor.findings import Sample
from vedcore.errors import printable

__all__ = ["draw"]

CELL = 480
"""Pixels of the width of an image on the sheet, at most; its height too."""
MARGIN = 12
LINE = 22
"""Pixels of a line of text."""
MAX_LINES = 3
"""Lines of a label."""
COLUMNS = 2
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial.ttf")
"""Fonts of systems."""
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(samples: Sequence[Sample], preprocessing: Preprocessing) -> Image.Image:
    """The images as the model gets them, after resizing, each with the text of its label's ids.

    Args:
        samples: of an `Examination`.
        preprocessing: ``model.processor.preprocessing``, whose mean and std are undone.
    """
    font = _font()
    cells = [_cell(each, preprocessing, font) for each in samples]
    rows = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (COLUMNS * (CELL + MARGIN) + MARGIN, sum(heights) + MARGIN), "white")
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            sheet.paste(cell, (MARGIN + column * (CELL + MARGIN), MARGIN + sum(heights[:number])))
    return sheet


def _font() -> Font:
    """The font of matplotlib, which has most alphabets, or one of the system; Pillow's own has ASCII alone."""
    found = importlib.util.find_spec("matplotlib")
    folders = [] if found is None else found.submodule_search_locations or []
    for name in [*(os.path.join(folder, "mpl-data/fonts/ttf/DejaVuSans.ttf") for folder in folders), *FONTS]:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, 16)
    return ImageFont.load_default(16)


def _cell(sample: Sample, preprocessing: Preprocessing, font: Font) -> Image.Image:
    image = _image(sample.pixels, preprocessing)
    scale = min(CELL / image.width, CELL / image.height)
    image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    height, width = sample.pixels.shape[1:]
    lines = [f"{sample.name} ({width} x {height})", *_wrapped(sample.decoded, font)]
    cell = Image.new("RGB", (CELL, image.height + LINE * len(lines) + 2 * MARGIN), "white")
    cell.paste(image, (0, 0))
    pen = ImageDraw.Draw(cell)
    pen.rectangle((0, 0, image.width - 1, image.height - 1), outline="grey")
    for number, line in enumerate(lines):
        colour = "grey" if number == 0 else "black"
        pen.text((0, image.height + 4 + LINE * number), printable(line), colour, font)
    return cell


def _image(pixels: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """Pixels (C, H, W) as an image; those of an encoder that prepares images itself are spread over all greys."""
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (preprocessing.image_mean, preprocessing.image_std))
    pixels = pixels.float().cpu()
    values = pixels * std + mean if len(mean) == len(pixels) else pixels
    if values.min() < -0.01 or values.max() > 1.01:
        values = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-6)
    grey = (values.clamp(0, 1) * 255).round().to(torch.uint8)[:3]
    return Image.fromarray((grey.permute(1, 2, 0) if len(grey) == 3 else grey[0]).numpy()).convert("RGB")


def _wrapped(text: str, font: Font) -> list[str]:
    """The text in a few lines that fit a cell."""
    lines, line = [], ""
    for character in printable(text):
        if font.getlength(line + character) > CELL:
            lines.append(line)
            line = ""
        line += character
    lines.append(line)
    return lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], lines[MAX_LINES - 1][:-1] + "…"]
