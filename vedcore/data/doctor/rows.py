"""The rows that are examined, and their images as facts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

import numpy as np
from torch import Tensor

from vedcore.config import Preprocessing
from vedcore.data.doctor.findings import Finding, shown
from vedcore.data.rows import Data, Problem, Row
from vedcore.processing.processor import Processor

__all__ = ["Seen", "blank_finding", "picked", "see", "shared_finding", "size_finding"]

BLANK_LEVELS = 16
"""Grey levels of 256 that an image of one colour may span: JPEG's noise."""
MAX_STRETCH = 4.0
"""How often an image's proportions may differ from those that the model gets."""
MAX_SCALE = 20.0
"""How much larger or smaller an image may be than what the model gets; photographs are about 16 times as large."""


@dataclass(frozen=True)
class Seen:
    """A row, and what counts of its image."""

    name: str
    source: str
    text: str
    held: bool
    """Held back from training."""
    size: tuple[int, int]
    """Width and height."""
    shape: tuple[int, int]
    """Height and width as the model gets them."""
    levels: int
    """Grey levels from the darkest to the lightest."""
    digest: str
    """Hash of the pixels."""


def picked(data: Data, limit: int) -> Iterator[Row | Problem]:
    """At most ``limit`` rows, evenly spread; the first of a stream."""
    if data.rows is None:
        yield from (event for event, _ in islice(data.events(), limit))
        return
    count = len(data)
    yield from (data.row(number if count <= limit else number * count // limit) for number in range(min(count, limit)))


def see(processor: Processor, row: Row, held: bool) -> tuple[Seen, Tensor]:
    """The facts of a row's image, and the image as the model gets it, (C, H, W).

    Raises:
        ImageError: it cannot be decoded or prepared.
    """
    with processor.open_images([row.image], pages=row.page, first_page_only=True) as reader:
        image = reader.read(reader.origins[0])
    with processor.open_images([image]) as reader:
        pixels = processor.pixels_at(reader, reader.origins[0])
    levels = int(np.ptp(np.asarray(image.convert("L"))))
    digest = hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).hexdigest()
    shape = int(pixels.shape[1]), int(pixels.shape[2])
    return Seen(row.name, row.source, row.text, held, image.size, shape, levels, digest), pixels


def blank_finding(seen: Sequence[Seen]) -> Finding | None:
    """Images of one colour."""
    found = [each.source for each in seen if each.levels < BLANK_LEVELS]
    remedy = "look at these images, and leave out their rows, or export them anew"
    message = "images of one colour"
    return Finding("images_show_something", message, remedy, shown(found), len(found)) if found else None


def size_finding(seen: Sequence[Seen], preprocessing: Preprocessing) -> Finding | None:
    """Images that the model gets stretched, shrunk or enlarged a lot."""
    found = [each for each in seen if each.levels >= BLANK_LEVELS and _is_far(each, preprocessing)]
    if not found:
        return None
    width, height = (median(each.size[side] for each in found) for side in (0, 1))
    to_height, to_width = found[0].shape
    area = to_height * to_width
    better = [max(32, 32 * round((area * a / b) ** 0.5 / 32)) for a, b in ((height, width), (width, height))]
    message = f"images of about {width:.0f} x {height:.0f} pixels, of which the model makes {to_width} x {to_height}"
    remedy = (
        f"load or compose the model with image_size=({better[0]}, {better[1]}), or cut the images; leave it where the "
        "model was trained on such images"
    )
    return Finding("sizes_are_near", message, remedy, shown([each.source for each in found]), len(found))


def _is_far(each: Seen, preprocessing: Preprocessing) -> bool:
    (width, height), (to_height, to_width) = each.size, each.shape
    if preprocessing.do_align_long_axis and (to_width - to_height) * (width - height) < 0:
        width, height = height, width
    across, down = width / to_width, height / to_height
    stretch, scale = max(across / down, down / across), (across * down) ** 0.5
    return stretch > MAX_STRETCH or not 1 / MAX_SCALE <= scale <= MAX_SCALE


def shared_finding(seen: Sequence[Seen]) -> Finding | None:
    """Images, or names with the same text, on both sides of the split."""
    keys = {key: each for each in seen if each.held for key in _keys(each)}
    pairs = [(each, keys[key]) for each in seen if not each.held for key in _keys(each) if key in keys]
    found = list({(one.source, other.source): None for one, other in pairs})
    remedy = "leave one of each out, or put both into one split: a column 'split' with train or validation"
    message = "images that are both trained on and held back, so that the error looks too small"
    rows = shown([f"{one} = {other}" for one, other in found])
    return Finding("splits_share_nothing", message, remedy, rows, len(found)) if found else None


def _keys(each: Seen) -> tuple[object, ...]:
    return each.digest, (each.name, each.text)
