"""Render lines of text as cameras, screens and printers show them.

Four conditions: ``clean`` (24 to 35 px), ``small`` (13 to 18 px), ``dark`` (light on dark, and coloured) and
``photo`` (rotated, blurred, unevenly lit, noisy, JPEG). ``wide``, for training, exceeds those ranges somewhat and adds
other defects, so that the reader does not depend on their absence; evaluation does without it.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from fonts import Face
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = ["CONDITIONS", "Style", "pick_style", "render"]

CONDITIONS = ("clean", "small", "dark", "photo")
NO_LIGATURES = ["-liga", "-clig", "-calt", "-dlig"]  # else code fonts draw one arrow for "->"
CODE_FONTS = re.compile(
    r"mono|code|hack|typewriter|cursor|agave|hermit|cousine|inconsolata|courier|3270", re.IGNORECASE
)


@dataclass
class Style:
    """The font at its size, and the options to render lines with."""

    font: ImageFont.FreeTypeFont
    features: list[str] | None
    size: float
    condition: str
    wide: bool


def pick_style(rng: np.random.Generator, families: dict[str, list[Face]], condition: str, *, wide: bool) -> Style:
    """A random font at the condition's size.

    Families are equally likely; within one, an upright face is five times as likely as a slanted one.
    """
    members = families[sorted(families)[int(rng.integers(len(families)))]]
    weights = np.array([0.2 if face.slanted else 1.0 for face in members])
    face = members[int(rng.choice(len(members), p=weights / weights.sum()))]
    low, high = (13, 18) if condition == "small" else (24, 35)
    if wide:
        low, high = (11, 20) if condition == "small" else (16, 46) if rng.random() < 0.4 else (22, 38)
    size = float(rng.uniform(low, high)) if wide else float(rng.integers(low, high + 1))
    basic = wide and rng.random() < 0.5
    font = ImageFont.truetype(face.path, size, layout_engine=ImageFont.Layout.BASIC if basic else ImageFont.Layout.RAQM)
    plain = not basic and (bool(CODE_FONTS.search(face.family)) and not (wide and rng.random() < 0.15))
    return Style(font, NO_LIGATURES if plain else None, size, condition, wide)


def render(text: str, style: Style, rng: np.random.Generator) -> Image.Image:
    """The image of one line, ``L`` or ``RGB``."""
    wide = style.wide
    cover = _cover(text, style, rng)
    if wide:
        cover = _printed(cover, style.size, rng)
    photo = style.condition == "photo"
    if photo:
        cover = cover.rotate(rng.uniform(-1.5, 1.5) * (1.2 if wide else 1.0), Image.Resampling.BICUBIC, expand=True)
    ink, paper = _colours(style.condition, wide, rng)
    alpha = np.asarray(cover, np.float32)[..., None] / 255.0
    pixels = paper + (ink - paper) * alpha  # (H, W, 1 or 3)
    if photo:
        return _photographed(pixels, wide, rng)
    if wide:
        return _worn(pixels, rng)
    return _image(pixels)


def _cover(text: str, style: Style, rng: np.random.Generator) -> Image.Image:
    """Coverage of each pixel by letters, in 0 to 255, with margins."""
    wide, size, font = style.wide, style.size, style.font
    spaced = wide and rng.random() < 0.12
    left, top, right, bottom = font.getbbox(text, features=style.features)
    if spaced:
        extra, blank = rng.uniform(-0.03, 0.16) * size, rng.uniform(-0.05, 0.3) * size
        right += max(0.0, (extra + blank) * len(text)) + size * 0.3
    if wide and rng.random() < 0.12:  # cropped at the ink or a pixel into it
        margins = rng.uniform(-0.6, 1.5, 4)
    elif wide:
        margins = rng.uniform(0.05, 0.7, 4) * size * rng.choice([0.5, 1.0, 2.0], p=[0.4, 0.5, 0.1])
    else:
        margins = rng.uniform(0.15, 0.5, 4) * size
    # Half of the images leave room for the font's full height, as the line boxes of a layout do.
    if rng.random() < 0.5:
        ascent, descent = font.getmetrics()
        top, bottom = (
            min(top, int(ascent * 0.1)),
            max(bottom, min(ascent + descent, int(ascent + 0.3 * size))),
        )
    width = max(4, round(right - left + margins[0] + margins[1]))
    height = max(4, round(bottom - top + margins[2] + margins[3]))
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    if wide and rng.random() < 0.04:
        draw.fontmode = "1"
    x, y = float(margins[0] - left), float(margins[2] - top)
    if not wide:
        x, y = round(x), round(y)
    if spaced:
        for char in text:
            if char != " ":
                draw.text((x, y), char, fill=255, font=font, features=style.features)
            x += font.getlength(char, features=style.features) + extra + (blank if char == " " else 0.0)
        end = canvas.getbbox()
        return canvas.crop((0, 0, min(width, max(4, (end or (0, 0, width, 0))[2] + max(0, round(margins[1])))), height))
    draw.text((x, y), text, fill=255, font=font, features=style.features)
    return canvas


def _printed(cover: Image.Image, size: float, rng: np.random.Generator) -> Image.Image:
    """Sometimes: bleeding or worn ink, another resolution, stretching, blur."""
    kind = rng.random()
    if kind < 0.05 and size > 20:
        cover = cover.filter(ImageFilter.MaxFilter(3))
    elif kind < 0.12:
        grey = rng.uniform(0.6, 1.7)
        cover = cover.point([round(255 * (value / 255) ** grey) for value in range(256)])
    elif kind < 0.22:
        part = rng.uniform(0.5, 0.85) if size > 22 else rng.uniform(0.75, 0.95)
        less = (max(4, round(cover.width * part)), max(4, round(cover.height * part)))
        ways = [
            Image.Resampling.BILINEAR,
            Image.Resampling.BICUBIC,
            Image.Resampling.NEAREST,
            Image.Resampling.LANCZOS,
        ]
        small = cover.resize(less, ways[int(rng.choice([0, 1, 3]))])
        cover = small if rng.random() < 0.4 else small.resize(cover.size, ways[int(rng.choice([0, 1]))])
    elif kind < 0.32:
        cover = cover.resize(
            (max(4, round(cover.width * rng.uniform(0.8, 1.2))), cover.height), Image.Resampling.BICUBIC
        )
    elif kind < 0.42:
        cover = cover.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7 if size < 22 else 1.1)))
    return cover


def _colours(condition: str, wide: bool, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colours of ink and paper, each ``(1,)`` or ``(3,)`` in 0 to 255."""
    if condition == "dark":
        least = 70 if wide else 90
        coloured = rng.random() < 0.5
        while True:
            ink, paper = (rng.uniform(0, 255, 3 if rng.random() < 0.8 else 1) for _ in range(2))
            if not coloured:
                ink, paper = 255 - 0.35 * ink, 0.35 * paper
            weights = np.array([0.299, 0.587, 0.114])
            if abs(float(((ink - paper) * np.ones(3)) @ weights)) > least:
                return ink.astype(np.float32), paper.astype(np.float32)
    darkest, palest = ((100, 180) if condition == "photo" else (120, 160)) if wide else (70, 200)
    ink, paper = rng.uniform(0, darkest, 1), rng.uniform(palest, 255, 1)
    if condition != "photo" and rng.random() < 0.4:
        ink, paper = np.zeros(1), np.full(1, 255.0)
    if wide and rng.random() < 0.15:
        ink, paper = ink + rng.uniform(0, 25, 3), paper - rng.uniform(0, 25, 3)
    return ink.astype(np.float32), paper.astype(np.float32)


def _photographed(pixels: NDArray[np.float32], wide: bool, rng: np.random.Generator) -> Image.Image:
    """Blur, light that falls off to one side or from a point, noise, JPEG."""
    image = _image(pixels).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.25) if wide else rng.uniform(0.5, 1.1)))
    pixels = np.asarray(image, np.float32)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    height, width = pixels.shape[:2]
    least = rng.uniform(0.5 if wide else 0.6, 1.0)
    across = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None] * (rng.uniform(0, 0.6) if wide else height / width)
    if rng.random() < 0.5:
        across = 1 - across
    way = across + (down if rng.random() < 0.5 else float(down.max()) - down)
    if wide and rng.random() < 0.3:
        way = np.abs(way - rng.uniform(0, 1)) ** float(rng.uniform(1, 2))
    light = 1 - (1 - least) * way / max(float(way.max()), 1e-6)
    noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(
        rng.uniform(4, 20) if wide else rng.uniform(6, 18)
    )
    pixels = pixels * light[..., None] + noise
    return _jpeg(_image(pixels), int(rng.integers(28, 80) if wide else rng.integers(35, 71)))


def _worn(pixels: NDArray[np.float32], rng: np.random.Generator) -> Image.Image:
    """Sometimes a little paper grain, a gradient, or JPEG."""
    kind = rng.random()
    if kind < 0.12:
        pixels = pixels + rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(1, 7))
    elif kind < 0.2:
        grain = rng.standard_normal((pixels.shape[0] // 4 + 2, pixels.shape[1] // 4 + 2), np.float32) * rng.uniform(
            2, 8
        )
        size = (pixels.shape[1], pixels.shape[0])
        pixels = (
            pixels
            + np.asarray(Image.fromarray(grain.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))[..., None]
        )
    elif kind < 0.28:
        pixels = pixels * np.linspace(1, rng.uniform(0.7, 1), pixels.shape[1], dtype=np.float32)[None, :, None]
    image = _image(pixels)
    return _jpeg(image, int(rng.integers(40, 95))) if rng.random() < 0.15 else image


def _image(pixels: NDArray[np.float32]) -> Image.Image:
    values = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    decoded = Image.open(buffer)
    decoded.load()
    return decoded
