"""The boxes of words lie where their ink is, in pixels of the image that was given."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import vedcore
from vedcore_printed.normalise import place_line

TEXT = "The quick brown fox jumps"


def drawn(size: tuple[int, int], at: tuple[int, int], font_size: int, angle: float = 0.0) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text(at, TEXT, fill="black", font=ImageFont.load_default(font_size))
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor="white")


IMAGES = {
    "line": ((400, 50), (20, 10), 24, 0.0),
    "tilted": ((900, 120), (60, 30), 48, 1.5),
    "large": ((1400, 200), (100, 40), 100, 0.0),
    "in a page": ((1200, 900), (300, 500), 40, -1.0),
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_pixels_of_the_map_lie_where_the_placement_says(name: str) -> None:
    image = drawn(*IMAGES[name])
    line, placement = place_line(image)
    found = image.convert("L").transform(
        line.shape[::-1], Image.Transform.AFFINE, placement, Image.Resampling.BILINEAR, fillcolor=255
    )
    assert np.corrcoef(255.0 - np.asarray(found).ravel(), line.ravel())[0, 1] > 0.97


@pytest.fixture(scope="module")
def model() -> vedcore.VisionEncoderDecoder:
    return vedcore.load("printed-line")


@pytest.mark.parametrize("name", IMAGES)
def test_words_go_from_left_to_right_and_cover_their_ink(name: str, model: vedcore.VisionEncoderDecoder) -> None:
    size, at, font_size, angle = IMAGES[name]
    found = model.explain(drawn(size, at, font_size, angle))
    assert found.text == TEXT
    assert [word.text for word in found.words] == TEXT.split()
    boxes = [word.box for word in found.words]
    font, last = ImageFont.load_default(font_size), -1
    for word, (left, top, right, bottom) in zip(re.finditer(r"\S+", TEXT), boxes, strict=True):
        begin, end = (at[0] + font.getlength(TEXT[:edge]) for edge in word.span())
        covered = min(right, end) - max(left, begin)
        assert covered > 0.75 * (end - begin)
        assert right - left < 1.3 * (end - begin)
        assert left >= last
        assert top < at[1] + font_size / 2 < bottom or angle
        last = right


def test_the_attention_goes_from_left_to_right(model: vedcore.VisionEncoderDecoder) -> None:
    found = model.explain(drawn(*IMAGES["line"]))
    assert found.grid[0] == 1
    strongest = np.array([int(token.map.argmax()) for token in found.tokens])
    assert (np.diff(strongest) >= 0).mean() > 0.9


def test_blank_paper_lies_on_the_whole_image(model: vedcore.VisionEncoderDecoder) -> None:
    image = Image.new("RGB", (320, 64), "white")
    assert model.processor.placement_of(image) == (10.0, 0.0, 0.0, 0.0, 2.0, 0.0)
    assert model.explain(image, max_new_tokens=2).original.size == (320, 64)
