"""Turn the image of one printed line into the map that the encoder sees, both in training and in reading.

The map is grey, 32 px high, with background 0 and ink towards 1. Colour, polarity (dark on light or light on dark),
uneven light, a small rotation, margins and size are normalised away.

Shape letters: H, W height and width of the image, N blocks along the width, A angles tried.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["HEIGHT", "Affine", "normalise_line", "place_line"]

HEIGHT = 32
"""Height of every map in pixels."""

WORK_HEIGHT = 128  # approximate; an image twice as high is halved first
MAX_WORK_WIDTH = 6400  # a wider image is squeezed first
INK_HEIGHT = 27.0  # pixels of the map between top and bottom of the ink; the rest is margin
SIDE_MARGIN = 4.0  # pixels of the map left and right of the ink
MAX_ANGLE = 2.25  # largest rotation in degrees that is undone
PAPER_LEVEL = 64  # grey level of the paper in 8-bit images of the ink
MIN_CONTRAST = 4.0  # grey levels of 255; less counts as blank paper

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): what is at (u, v) of the map lies at (a u + b v + c, d u + e v + f) of the image."""


def normalise_line(image: Image.Image, *, max_width: int = 1600, rng: np.random.Generator | None = None) -> Floats:
    """Normalise the image of one line.

    Args:
        image: the line, of any mode and size; transparent parts count as white paper.
        max_width: widest map in pixels; a wider line is squeezed.
        rng: for training only: varies the remaining angle, the crop, the scale and the contrast a little.

    Returns:
        ``(32, width)`` float32 in 0 to 1, background 0. Blank paper gives a map of zeros, 32 px wide.
    """
    return place_line(image, max_width=max_width, rng=rng)[0]


def place_line(
    image: Image.Image, *, max_width: int = 1600, rng: np.random.Generator | None = None
) -> tuple[Floats, Affine]:
    """`normalise_line`, and where the pixels of the map lie in the image."""
    blank = np.zeros((HEIGHT, HEIGHT), np.float32)
    whole = (image.width / HEIGHT, 0.0, 0.0, 0.0, image.height / HEIGHT, 0.0)
    grey = _grey(image)
    if min(grey.shape) < 2:
        return blank, whole
    ink = _ink(grey)
    floor, grain = _paper_level(ink)
    ink -= floor
    peak = float(ink.max())
    if peak < MIN_CONTRAST:
        return blank, whole
    # In 8 bits, with room below the paper's level, so that clipping does not shift the mean of the noise.
    drawn = Image.fromarray(np.clip(ink * ((255.0 - PAPER_LEVEL) / peak) + PAPER_LEVEL, 0, 255).astype(np.uint8))
    soft = _smoothed(drawn) * (peak / (255.0 - PAPER_LEVEL))
    # The first estimate includes clustered grain but also dense letters; the others include less of those.
    noise = min(_paper_level(soft)[1], 0.8 * grain, 0.8 * _grain(ink))
    strongest = float(soft.max())
    threshold = max(0.22 * strongest, min(4.5 * noise, 0.45 * strongest))
    few = float((soft > 4.5 * noise).mean()) < 0.005  # grain alone exceeds the noise level rarely and by little
    if strongest < max(MIN_CONTRAST / 2, (9.0 if few else 5.5) * noise):
        return blank, whole

    slope = _slope(np.clip(soft, 0.0, 0.7 * strongest), threshold)
    if rng is not None:
        slope += math.tan(math.radians(rng.normal(0.0, 0.2)))
    drawn = _levelled(drawn, slope)
    mask = _smoothed(drawn) > threshold / peak * (255.0 - PAPER_LEVEL)
    along, down = image.width / ink.shape[1], image.height / ink.shape[0]
    if (box := _distant_line(mask, ink.shape, slope)) is not None:
        left, top, right, bottom = box
        cropped = (math.floor(left * along), math.floor(top * down), math.ceil(right * along), math.ceil(bottom * down))
        line, (a, b, c, d, e, f) = place_line(image.crop(cropped), max_width=max_width, rng=rng)
        return line, (a, b, c + cropped[0], d, e, f + cropped[1])
    line, (left, top, right, bottom) = _fitted(drawn, _ink_box(mask, ink.shape[0]), max_width, rng)
    a, e = (right - left) / line.shape[1], (bottom - top) / HEIGHT  # of the levelled canvas
    pad_x, pad_y = (drawn.width - ink.shape[1]) / 2, (drawn.height - ink.shape[0]) / 2
    risen = top + slope * (left - drawn.width / 2) - pad_y
    return line, (along * a, 0.0, along * (left - pad_x), down * slope * a, down * e, down * risen)


def _grey(image: Image.Image) -> Floats:
    """The image as ``(H, W)`` grey levels, projected on the direction in which its colours vary most."""
    if image.width < 1 or image.height < 1:
        return np.zeros((1, 1), np.float32)
    if image.mode.startswith("I") or image.mode == "F":
        wide = np.nan_to_num(np.asarray(image, np.float64), posinf=0.0, neginf=0.0)
        span = float(wide.max() - wide.min())
        levels = (wide - wide.min()) * (255.0 / span) if span > 0 else np.zeros_like(wide)
        image = Image.fromarray(levels.astype(np.uint8))
    elif image.has_transparency_data or image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image)
        image = paper.convert("RGB")
    elif image.mode == "LAB":
        image = image.getchannel(0)
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    down = max(1, round(image.height / WORK_HEIGHT))
    along = max(min(down, image.width // 2), math.ceil(image.width / MAX_WORK_WIDTH), 1)
    if down > 1 or along > 1:
        image = image.reduce((along, down))
    values = np.asarray(image, np.float32)
    if values.ndim == 2:
        return values.copy()
    flat = values.reshape(-1, 3)[:: max(1, values.size // 3 // 8192)]
    weights = np.linalg.eigh(np.cov(flat.T.astype(np.float64), bias=True))[1][:, -1]
    weights = weights / np.abs(weights).sum() * (1 if weights.sum() >= 0 else -1)
    grey: Floats = values @ weights.astype(np.float32)
    return grey


def _ink(grey: Floats) -> Floats:
    """``(H, W)`` difference of each pixel from the paper around it in grey levels; ink is positive."""
    height, width = grey.shape
    count = max(1, round(width / max(0.75 * height, 16.0)))
    size = math.ceil(width / count)
    count = math.ceil(width / size)
    half = height // 2
    padded = np.pad(grey, ((0, 0), (0, count * size - width)), mode="edge")
    blocks = padded[: 2 * half].reshape(2, half, count, size).swapaxes(1, 2).reshape(2, count, half * size)
    ordered = np.sort(blocks, axis=-1)  # (2, N, half * size): upper and lower half of the line
    last = ordered.shape[-1] - 1
    dark, middle, bright = (ordered[..., round(part * last)] for part in (0.02, 0.5, 0.98))

    # Ink covers less than half of the paper and little of the border.
    span = float((bright - dark).sum()) + 1e-6
    lean = float((2 * middle - bright - dark).sum()) / span
    across = np.linspace(0, count - 1, width).round().astype(np.int64)
    edges = grey[[0, -1]] - ((bright + dark) / 2)[:, across]
    border = 2 * float(edges.sum()) / (float((bright - dark)[:, across].sum()) + 1e-6)
    light_paper = lean + 0.7 * border >= 0

    paper = ordered[..., round((0.8 if light_paper else 0.2) * last)]  # (2, N)
    # Extrapolate uneven light beyond the centres of the outer blocks.
    if count > 1:
        beside = np.pad(paper, ((0, 0), (1, 1)), mode="reflect", reflect_type="odd")  # (2, N + 2)
    else:
        beside = paper.repeat(3, axis=1)
    beside[:, 1:-1] = (beside[:, :-2] + 2 * paper + beside[:, 2:]) / 4
    centres = (np.arange(-1, count + 1) + 0.5) * size
    upper, lower = (np.interp(np.arange(width), centres, row).astype(np.float32) for row in beside)
    down = ((np.arange(height, dtype=np.float32) / max(height - 1, 1) - 0.25) / 0.5)[:, None]
    ink: Floats = upper + (lower - upper) * down - grey
    return ink if light_paper else -ink


def _paper_level(values: Floats) -> tuple[float, float]:
    """Level of the paper and its noise, measured on the lower tail: only noise is lighter than the paper."""
    ordered = np.sort(values[:, :: max(1, values.shape[1] // 512)], axis=None)
    low, middle = float(ordered[len(ordered) // 10]), float(ordered[len(ordered) * 2 // 5])
    return middle, (middle - low) / 1.15


def _grain(ink: Floats) -> float:
    """Noise, from the lower quartile of differences between neighbours, which edges of letters do not reach."""
    steps = np.abs(ink[:, 2:] - ink[:, :-2])[:, :: max(1, ink.shape[1] // 512)].ravel()
    return float(np.partition(steps, steps.size // 4)[steps.size // 4]) / 0.45 if steps.size else 0.0


def _smoothed(drawn: Image.Image) -> Floats:
    """``(H, W)`` mean over 3 x 3 pixels, with the paper at 0."""
    return np.asarray(drawn.filter(ImageFilter.BoxBlur(1)), np.float32) - PAPER_LEVEL


def _slope(soft: Floats, threshold: float) -> float:
    """Rise of the line per pixel, from the angle at which the sums of neighbouring rows differ most."""
    columns = np.flatnonzero(soft.max(axis=0) > threshold)
    if len(columns) < 2:
        return 0.0
    soft = soft[:, columns[0] : columns[-1] + 1]
    height, width = soft.shape
    strip = max(4, width // 48)
    count = width // strip
    if count < 2:
        return 0.0
    strips = soft[:, : count * strip].reshape(height, count, strip).sum(axis=2)
    pad = math.ceil(width / 2 * math.tan(math.radians(MAX_ANGLE))) + 2
    strips = np.pad(strips, ((pad, pad), (0, 0)))
    strips[1:-1] = (strips[:-2] + 2 * strips[1:-1] + strips[2:]) / 4  # else shifts by half a pixel would score less
    rows = len(strips)
    flat = np.concatenate([strips.T.ravel(), np.zeros(1, np.float32)])  # one strip after the other
    centres = (np.arange(count) + 0.5 - count / 2) * strip
    angles = np.arange(-MAX_ANGLE, MAX_ANGLE + 1e-6, 0.25)
    shifts = np.tan(np.radians(angles))[:, None] * centres  # (A, N)
    whole = np.floor(shifts).astype(np.int64)
    part = (shifts - whole).astype(np.float32)[:, :, None]
    inner = np.arange(pad, rows - pad)
    index = (np.arange(count) * rows)[None, :, None] + inner[None, None, :] + whole[:, :, None]
    sums = (flat[index] * (1 - part) + flat[index + 1] * part).sum(axis=1)  # (A, H)
    scores = np.square(np.diff(sums, axis=1, prepend=0, append=0)).sum(axis=1)
    scores = scores * (1 - 0.015 * np.abs(angles))  # a short word is weak evidence: prefer no rotation
    best = int(scores.argmax())
    angle = float(angles[best])
    if 0 < best < len(angles) - 1:
        left, middle, right = (float(scores[best + step]) for step in (-1, 0, 1))
        curvature = left - 2 * middle + right
        angle += 0.25 * 0.5 * (left - right) / curvature if curvature < 0 else 0.0
    return math.tan(math.radians(angle)) if abs(angle) > 0.12 else 0.0


def _levelled(drawn: Image.Image, slope: float) -> Image.Image:
    """The line with its slope removed, on a canvas with an empty margin on all sides."""
    width, height = drawn.size
    pad = height // 2 + 8 + math.ceil(abs(slope) * width / 2)
    canvas = Image.new("L", (width + 2 * pad, height + 2 * pad), PAPER_LEVEL)
    canvas.paste(drawn, (pad, pad))
    if slope == 0.0:
        return canvas
    # At two degrees a vertical shear equals a rotation to within a thousandth, at half the cost.
    matrix = (1.0, 0.0, 0.0, slope, 1.0, -slope * canvas.width / 2)
    return canvas.transform(
        canvas.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=PAPER_LEVEL
    )


def _distant_line(mask: Mask, size: tuple[int, ...], slope: float) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of the crop of an image (H, W) whose line lies far from the edges.

    None for an ordinary image, and for ink that may be a dash or dots: their height within the image identifies them.
    ``mask`` is the ink of the levelled image.
    """
    height, width = size
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    pad_x, pad_y = (mask.shape[1] - width) // 2, (mask.shape[0] - height) // 2
    left, right = int(columns[0]) - pad_x, int(columns[-1]) + 1 - pad_x
    top, bottom = int(rows[0]) - pad_y, int(rows[-1]) + 1 - pad_y
    high, wide = bottom - top, right - left
    margin = min(left, top, width - right, height - bottom)
    far = margin > 4 * high  # further than a dash or dot of an ordinary image
    if 4 * high > height or high < (3 if far else 7):
        return None
    ink = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    tops = ink.argmax(axis=0)[ink.any(axis=0)]  # uneven for letters, level for a row of dashes or dots
    uneven = float(tops.std()) > max(0.05 * high, 0.7)
    if wide >= 6 * high:
        letters = uneven
    else:
        if uneven and wide > 1.2 * high:
            margin = min(top, height - bottom)
        letters = margin > 1.7 * high and (far or high > 0.08 * height) and float(ink.mean()) < 0.8
    around = 0.4 * high
    vertical = around + abs(slope) * max(width / 2 - left, right - width / 2)  # the image itself is not level
    upper, lower = max(top - vertical, 0.0), min(bottom + vertical, float(height))
    if not letters or not 0 < lower - upper < 0.75 * height:
        return None
    return max(left - around, 0.0), upper, min(right + around, float(width)), lower


def _ink_box(mask: Mask, height: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the ink; at least a third of the image high, so that a dash stays a dash."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return 0.0, 0.0, float(mask.shape[1]), float(mask.shape[0])
    top, bottom = float(rows[0]), float(rows[-1] + 1)
    lacking = height / 3 - (bottom - top)
    if lacking > 0:
        pad = (mask.shape[0] - height) / 2
        above = min(max((top - pad) / max(height - (bottom - top), 1.0), 0.0), 1.0)
        top, bottom = top - lacking * above, bottom + lacking * (1 - above)
    return float(columns[0]), top, float(columns[-1] + 1), bottom


def _fitted(
    drawn: Image.Image,
    box: tuple[float, float, float, float],
    max_width: int,
    rng: np.random.Generator | None,
) -> tuple[Floats, tuple[float, float, float, float]]:
    """The box and its margins, scaled to the map's height, with contrast stretched to 0 to 1; and what was scaled."""
    left, top, right, bottom = box
    above = below = (HEIGHT - INK_HEIGHT) / 2
    before = after = SIDE_MARGIN
    stretch = strength = 1.0
    if rng is not None:
        above, below = (float(x) for x in np.clip(rng.normal(above, 1.2, 2), 0.3, 7.0))
        before, after = (float(x) for x in rng.uniform(1.5, 7.5, 2))
        stretch, strength = float(rng.uniform(0.9, 1.1)), float(rng.uniform(0.8, 1.15))
    scale = (HEIGHT - above - below) / (bottom - top)
    across = scale * stretch
    wanted = (
        max(left - before / across, 0.0),
        max(top - above / scale, 0.0),
        min(right + after / across, float(drawn.width)),
        min(bottom + below / scale, float(drawn.height)),
    )
    width = min(max(round((wanted[2] - wanted[0]) * across), 8), max_width)
    resized = drawn.resize((width, HEIGHT), Image.Resampling.BICUBIC, box=wanted)
    result = np.asarray(resized, np.float32) - PAPER_LEVEL
    strong = result[result > 0.35 * float(result.max())]
    full = float(np.partition(strong, len(strong) * 3 // 4)[len(strong) * 3 // 4]) if len(strong) else 1.0
    line: Floats = np.clip(result * (strength / max(full, 1.0)), 0.0, 1.0)
    return line, wanted
