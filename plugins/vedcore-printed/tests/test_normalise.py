"""The normaliser of printed lines: all images of a line give the same map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vedcore_printed.normalise import HEIGHT, normalise_line

Floats = NDArray[np.float32]
WORDS = ("Hamburg", "quick brown fox", "plain paper 1984", "a-b, c; d")


def drawn(text: str, size: int = 28, margin: int = 12) -> Image.Image:
    """Black text on white, in Pillow's own font."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = (round(x) for x in font.getbbox(text))
    image = Image.new("L", (right - left + 2 * margin, bottom - top + 2 * margin), 255)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=0, font=font)
    return image


def likeness(one: Floats, other: Floats) -> float:
    """Correlation of two maps, the second stretched to the width of the first."""
    stretched = Image.fromarray(other).resize((one.shape[1], HEIGHT), Image.Resampling.BICUBIC)
    return float(np.corrcoef(one.ravel(), np.asarray(stretched).ravel())[0, 1])


def check(line: Floats, max_width: int = 1600) -> None:
    assert line.dtype == np.float32
    assert line.shape[0] == HEIGHT
    assert 1 <= line.shape[1] <= max_width
    assert np.isfinite(line).all()
    assert line.min() >= 0
    assert line.max() <= 1


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=80)))
def test_any_grey_picture_gives_a_map(pixels: NDArray[np.uint8]) -> None:
    check(normalise_line(Image.fromarray(pixels)))
    check(normalise_line(Image.fromarray(pixels), rng=np.random.default_rng(0)))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 9))
def test_any_size_of_noise_gives_a_map(width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    check(normalise_line(Image.fromarray(pixels)))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2), (300, 40)])
@pytest.mark.parametrize("level", [0, 127, 255])
def test_blank_paper_gives_a_small_empty_map(size: tuple[int, int], level: int) -> None:
    line = normalise_line(Image.new("L", size, level))
    assert line.shape == (HEIGHT, HEIGHT)
    assert not line.any()


@pytest.mark.parametrize("strength", [3, 12, 25])
def test_grain_alone_is_blank_paper(strength: int) -> None:
    grain = np.random.default_rng(1).normal(200, strength, (40, 400)).clip(0, 255).astype(np.uint8)
    assert not normalise_line(Image.fromarray(grain)).any()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(WORDS), st.integers(14, 48), st.integers(2, 30))
def test_light_on_dark_is_the_same_line(text: str, size: int, margin: int) -> None:
    image = drawn(text, size, margin)
    one, other = normalise_line(image), normalise_line(ImageOps.invert(image))
    assert one.shape == other.shape
    assert np.abs(one - other).max() < 0.05


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(WORDS), st.integers(4, 20))
def test_margins_do_not_matter(text: str, margin: int) -> None:
    one, other = normalise_line(drawn(text)), normalise_line(drawn(text, margin=margin))
    assert abs(one.shape[1] / other.shape[1] - 1) < 0.05
    assert likeness(one, other) > 0.9


@pytest.mark.parametrize("text", ["quick brown fox", "Ham"])
@pytest.mark.parametrize("margin", [60, 150])
def test_margins_far_wider_than_the_line_do_not_matter(text: str, margin: int) -> None:
    one, other = normalise_line(drawn(text)), normalise_line(drawn(text, margin=margin))
    assert abs(one.shape[1] / other.shape[1] - 1) < 0.1
    assert likeness(one, other) > 0.85


@settings(max_examples=20, deadline=None)
@given(st.floats(-1.9, 1.9))
def test_a_turned_line_comes_back(angle: float) -> None:
    image = drawn("the quick brown fox jumps over it")
    turned = image.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=255)
    one, other = normalise_line(image), normalise_line(turned)
    assert abs(one.shape[1] / other.shape[1] - 1) < 0.08
    assert likeness(one, other) > 0.8


@pytest.mark.parametrize("paper", [(255, 255, 255), (30, 30, 120), (200, 160, 20)])
@pytest.mark.parametrize("ink", [(0, 0, 0), (250, 60, 60), (90, 200, 255)])
def test_colours_do_not_matter(ink: tuple[int, int, int], paper: tuple[int, int, int]) -> None:
    image = drawn("coloured line")
    coloured = ImageOps.colorize(image, ink, paper)
    assert likeness(normalise_line(image), normalise_line(coloured)) > 0.98


def test_uneven_light_does_not_matter() -> None:
    image = drawn("lit from the left side")
    light = np.linspace(1.0, 0.55, image.width)[None, :] * np.linspace(0.9, 1.0, image.height)[:, None]
    uneven = Image.fromarray((np.asarray(image, np.float64) * light).astype(np.uint8))
    assert likeness(normalise_line(image), normalise_line(uneven)) > 0.95


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_modes(mode: str) -> None:
    image = drawn("every mode")
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    elif mode in ("YCbCr", "HSV", "CMYK"):
        converted = image.convert("RGB").convert(mode)
    else:
        converted = image.convert(mode)
    assert likeness(normalise_line(image), normalise_line(converted)) > 0.9


def test_transparent_counts_as_white() -> None:
    image = drawn("on nothing")
    clear = Image.new("RGBA", image.size, (0, 0, 0, 0))
    clear.putalpha(ImageOps.invert(image))
    assert likeness(normalise_line(image), normalise_line(clear)) > 0.98


def test_not_a_number_is_no_ink() -> None:
    values = np.asarray(drawn("torn"), np.float32).copy()
    values[:3, :3] = [np.nan, np.inf, -np.inf]
    check(normalise_line(Image.fromarray(values)))


def test_width_is_limited() -> None:
    long = drawn("a long line " * 20)
    assert normalise_line(long).shape[1] == 1600
    assert normalise_line(long, max_width=200).shape[1] == 200
    check(normalise_line(Image.effect_noise((20_000, 4), 90)))


def test_a_dash_stays_a_dash_and_a_dot_low() -> None:
    canvas = Image.new("L", (60, 40), 255)
    ImageDraw.Draw(canvas).rectangle((20, 18, 40, 20), fill=0)
    dash = normalise_line(canvas)
    assert (dash > 0.5).any(axis=1).sum() < HEIGHT // 2
    canvas = Image.new("L", (60, 40), 255)
    ImageDraw.Draw(canvas).rectangle((28, 28, 31, 31), fill=0)
    dot = np.flatnonzero((normalise_line(canvas) > 0.5).any(axis=1))
    assert dot.mean() > HEIGHT / 2


def test_the_same_generator_gives_the_same_map() -> None:
    image = drawn("same again")
    one, other = (normalise_line(image, rng=np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, other)
    assert likeness(normalise_line(image), one) > 0.6
