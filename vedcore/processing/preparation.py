"""An image to pixels, as a `Preprocessing` says.

Shape letters: C channels, H x W pixels of the result, h x w of the image on its way there.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vedcore.config import Preprocessing
from vedcore.errors import ImageLimitError
from vedcore.processing.images import MAX_PIXELS, load_image
from vedcore.processing.placement import Box, Placement

__all__ = ["place_image", "prepare_image"]


def prepare_image(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """The pixels of `place_image`."""
    return place_image(image, preprocessing)[0]


def place_image(image: Image.Image, preprocessing: Preprocessing) -> tuple[Tensor, Placement]:
    """An image as (C, H, W) float32: resized, scaled to 0 to 1, minus mean, divided by std; and where its pixels lie.

    C is the number of means in ``preprocessing``: 3 for RGB, 1 for the luminance alone.

    The steps, of which ``preprocessing`` selects some, in order: cut the margins, turn, resize, shrink to a thumbnail,
    pad, crop, normalise. Resize modes: ``squash`` stretches the image to H x W. ``crop`` resizes the largest centred
    part with the proportions of H x W. ``pad`` makes the image as large as fits, centred, and fills the rest with the
    mean, which is zero afterwards. H x W is ``image_size``; for the other modes see `Preprocessing.resize_mode`.

    Raises:
        ImageLimitError: an image so long that it would have more than 50 million pixels after resizing.
    """
    if image.mode != "RGB":
        image = load_image(image)
    if len(preprocessing.image_mean) == 1:
        image = image.convert("L")
    placed = Placement()
    if preprocessing.do_crop_margin:
        inside = _inside_margin(image)
        image, placed = image.crop(inside), Placement(c=inside[0], f=inside[1])
    height, width = preprocessing.image_size
    if preprocessing.do_align_long_axis and (width - height) * (image.width - image.height) < 0:
        placed @= Placement(0.0, 1.0, 0.0, -1.0, 0.0, image.height)
        image = image.transpose(Image.Transpose.ROTATE_270)
    if preprocessing.resize_mode == "pad":
        scale = min(width / image.width, height / image.height)
        size = max(1, min(width, round(image.width * scale))), max(1, min(height, round(image.height * scale)))
        pixels = _normalise(_resize(image, size, preprocessing), preprocessing)  # (C, h, w)
        left, top = (width - size[0]) // 2, (height - size[1]) // 2
        padded = torch.nn.functional.pad(pixels, (left, width - size[0] - left, top, height - size[1] - top))
        return padded, placed @ Placement.resized(size, (0, 0, *image.size)) @ Placement(c=-left, f=-top)
    size, box = _target(image, preprocessing)
    placed @= Placement.resized(size, box)
    if size != image.size or box != (0, 0, *image.size):
        image = _resize(image, size, preprocessing, box)
    if preprocessing.thumbnail is not None:
        whole = image.size
        image = _thumbnail(image, preprocessing)
        placed @= Placement.resized(image.size, (0, 0, *whole))
    if preprocessing.do_pad:
        left, top = -((width - image.width) // 2), -((height - image.height) // 2)
        image, placed = _window(image, left, top, width, height), placed @ Placement(c=left, f=top)
    if preprocessing.do_center_crop:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image, placed = _window(image, left, top, width, height), placed @ Placement(c=left, f=top)
    return _normalise(image, preprocessing), placed


def _inside_margin(image: Image.Image) -> tuple[int, int, int, int]:
    """The box without the light rows and columns at the edges: greys of 200 or more, stretched to 0 to 255."""
    grey = np.array(image.convert("L"))  # (H, W)
    low, high = int(grey.min()), int(grey.max())
    if low == high:
        return 0, 0, *image.size
    dark = ((np.arange(256) - low) / (high - low) * 255 < 200)[grey]
    rows, columns = (np.flatnonzero(dark.any(axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _target(image: Image.Image, preprocessing: Preprocessing) -> tuple[tuple[int, int], Box]:
    """Width and height to resize to, and the part of the image to resize."""
    height, width = preprocessing.resize_size or preprocessing.image_size
    whole = (0, 0, *image.size)
    match preprocessing.resize_mode:
        case "crop":
            scale = max(width / image.width, height / image.height)
            half_width, half_height = width / scale / 2, height / scale / 2
            middle_x, middle_y = image.width / 2, image.height / 2
            return (width, height), (
                max(0.0, middle_x - half_width),
                max(0.0, middle_y - half_height),
                min(float(image.width), middle_x + half_width),
                min(float(image.height), middle_y + half_height),
            )
        case "squash":
            return (width, height), whole
        case "shortest_edge":
            short = min(height, width)
            long = int(short * max(image.size) / min(image.size))
            return ((short, long) if image.width <= image.height else (long, short)), whole
        case _:
            return image.size, whole


def _thumbnail(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    height, width = (min(pair) for pair in zip(preprocessing.image_size, (image.height, image.width), strict=True))
    if (width, height) == image.size:
        return image
    if image.height > image.width:
        width = max(1, int(image.width * height / image.height))
    elif image.width > image.height:
        height = max(1, int(image.height * width / image.width))
    if preprocessing.thumbnail == "bicubic":
        return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    if preprocessing.interpolation == "nearest":  # as Donut's class, which reads its number, 0, as unset
        preprocessing = preprocessing.model_copy(update={"interpolation": "bicubic"})
    return _resize(image, (width, height), preprocessing)


def _resize(
    image: Image.Image,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    box: Box | None = None,
) -> Image.Image:
    """Resize to ``size``, which is (width, height) as in Pillow, from the part in ``box``."""
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageLimitError(
            f"{image.width} x {image.height} would be resized to {size[0]} x {size[1]}, {size[0] * size[1]:,} pixels",
            hint=f"cut it into parts that give at most {MAX_PIXELS:,}",
        )
    return image.resize(size, Image.Resampling[preprocessing.interpolation.upper()], box)


def _window(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    """The part of ``width`` x ``height`` pixels at ``left`` and ``top``; black outside of the image."""
    return image.crop((left, top, left + width, top + height))


def _normalise(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    values = np.atleast_3d(np.array(image))  # (H, W, C)
    pixels = torch.from_numpy(values).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    mean = torch.tensor(preprocessing.image_mean)[:, None, None]  # (C, 1, 1)
    std = torch.tensor(preprocessing.image_std)[:, None, None]
    return pixels.div_(255).sub_(mean).div_(std)
