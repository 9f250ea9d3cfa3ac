"""Random changes to images of text lines and to photographs, drawn anew by each seed.

Neither mirrors an image nor changes its hues, as texts name letters, sides and colours.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from vedcore.data.settings import Augment

__all__ = ["augment"]

MAX_TILT = 2.0
"""Limit of the rotation of a line, in degrees."""
MAX_RISE = 0.3
"""Limit of the height by which a rotated line rises or falls, as a share of its height."""
MAX_SHIFT = 8.0
"""Limit of the standard deviation of noise, of 255."""
MIN_QUALITY, MAX_QUALITY = 40, 95
"""Limits of the quality of JPEG."""
MIN_AREA = 0.8
"""Smallest share of a photograph that a crop keeps."""

_Draw = np.random.Generator


def augment(image: Image.Image, kind: Augment, seed: str) -> Image.Image:
    """An image (RGB) changed at random; the same for the same seed.

    Args:
        image: the image.
        kind: ``"line"`` stretches by up to a tenth, rotates slightly, blurs, adds noise, and changes contrast,
            brightness and JPEG quality. ``"photo"`` takes a part of at least 0.8 of the area, changes contrast,
            brightness, saturation and JPEG quality, and blurs slightly. ``"none"`` changes nothing.
        seed: any text.
    """
    if kind == "none":
        return image
    draw = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode(errors="surrogatepass")).digest()[:8]))
    for step, share in _STEPS[kind]:
        if draw.random() < share:
            image = step(image, draw)
    return image


def _stretched(image: Image.Image, draw: _Draw) -> Image.Image:
    width = max(1, round(image.width * draw.uniform(0.9, 1.1)))
    return image.resize((width, image.height), Image.Resampling.BILINEAR)


def _rotated(image: Image.Image, draw: _Draw) -> Image.Image:
    limit = min(MAX_TILT, math.degrees(math.atan(MAX_RISE * image.height / image.width)))
    edge = np.asarray(image)[[0, -1]].reshape(-1, 3)  # (2 W, 3), mostly background
    paper = tuple(int(value) for value in np.median(edge, axis=0))
    angle = draw.uniform(-limit, limit)
    return image.rotate(angle, Image.Resampling.BILINEAR, expand=True, fillcolor=paper)


def _cropped(image: Image.Image, draw: _Draw) -> Image.Image:
    area, ratio = draw.uniform(MIN_AREA, 1.0), math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
    width = min(1.0, math.sqrt(area * ratio))
    height = min(1.0, area / width)
    size = max(1, round(image.width * width)), max(1, round(image.height * height))
    left, top = (int(draw.integers(whole - part + 1)) for whole, part in zip(image.size, size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))


def _blurred(image: Image.Image, draw: _Draw) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(draw.uniform(0.2, max(0.3, min(image.size) / 50))))


def _noisy(image: Image.Image, draw: _Draw) -> Image.Image:
    pixels = np.asarray(image, np.float32)  # (H, W, 3)
    noise = draw.normal(0, draw.uniform(0, MAX_SHIFT), (*pixels.shape[:2], 1))
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _compressed(image: Image.Image, draw: _Draw) -> Image.Image:
    if max(image.size) > 65_000:  # JPEG has no more
        return image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(draw.integers(MIN_QUALITY, MAX_QUALITY + 1)))
    with Image.open(file, formats=["JPEG"]) as again:
        return again.convert("RGB")


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable[[Image.Image, _Draw], Image.Image]:
    return lambda image, draw: kind(image).enhance(draw.uniform(0.7, 1.3))


_STEPS: dict[str, list[tuple[Callable[[Image.Image, _Draw], Image.Image], float]]] = {
    "line": [
        (_stretched, 0.5),
        (_rotated, 0.5),
        (_enhanced(ImageEnhance.Contrast), 0.5),
        (_enhanced(ImageEnhance.Brightness), 0.5),
        (_blurred, 0.3),
        (_noisy, 0.3),
        (_compressed, 0.3),
    ],
    "photo": [
        (_cropped, 0.8),
        (_enhanced(ImageEnhance.Contrast), 0.5),
        (_enhanced(ImageEnhance.Brightness), 0.5),
        (_enhanced(ImageEnhance.Color), 0.5),
        (_blurred, 0.1),
        (_compressed, 0.3),
    ],
}
"""Steps of each kind, in order, and the share of images that they change."""
