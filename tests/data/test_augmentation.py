"""Augmentation: seeded, in bounds, and none by default."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vedcore.data.augmentation import augment
from vedcore.data.settings import Augment, DataConfig


@pytest.mark.parametrize("kind", get_args(Augment))
@pytest.mark.parametrize("size", [(600, 30), (1, 1), (40, 40), (3, 500)])
def test_the_same_seed_gives_the_same_image(kind: Any, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).line((0, size[1] // 2, size[0], size[1] // 2), "black")
    before = image.tobytes()
    drawn = [augment(image, kind, f"seed {n}") for n in range(40)]
    again = [augment(image, kind, f"seed {n}") for n in range(40)]
    assert [one.tobytes() for one in drawn] == [one.tobytes() for one in again]
    assert image.tobytes() == before
    different = len({one.tobytes() for one in drawn})
    assert different == 1 if kind == "none" else different > 5 or size == (1, 1)
    assert all(one.mode == "RGB" and min(one.size) >= 1 for one in drawn)
    if kind == "line":
        assert all(one.height <= 1.7 * size[1] + 2 for one in drawn)


def test_a_line_stays_whole_and_a_photo_is_not_mirrored() -> None:
    line = Image.new("RGB", (400, 20), "white")
    ImageDraw.Draw(line).rectangle((2, 8, 397, 11), "black")
    for n in range(40):
        dark = np.asarray(augment(line, "line", f"{n}").convert("L")) < 128  # (H, W)
        assert dark.any(0).mean() > 0.95
    photo = Image.new("RGB", (40, 40), "blue")
    photo.paste("red", (0, 0, 20, 40))
    for n in range(40):
        pixels = np.asarray(augment(photo, "photo", f"{n}"), np.int64)
        assert pixels[:, 0, 0].mean() > pixels[:, 0, 2].mean()
        assert pixels[:, -1, 0].mean() < pixels[:, -1, 2].mean()


def test_none_is_the_default() -> None:
    assert DataConfig().augment == "none"
