"""Where the pixels that an encoder gets lie in the image that they were made of."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Box", "Placement"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


class Placement(NamedTuple):
    """Pixel (u, v) of what was made lies at (a u + b v + c, d u + e v + f) of the image, as in Pillow's AFFINE.

    u and x count to the right, v and y down, from the upper left corner; the first pixel is from 0 to 1.
    """

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 1.0
    f: float = 0.0

    @classmethod
    def resized(cls, size: tuple[int, int], box: Box) -> Placement:
        """That of a box of an image, resized to ``size``, which is width and height."""
        left, top, right, bottom = box
        return cls((right - left) / size[0], 0.0, left, 0.0, (bottom - top) / size[1], top)

    def __matmul__(self, step: Placement) -> Placement:
        """That of what ``step`` made of what this one made of the image."""
        (a, b, c, d, e, f), (g, h, i, j, k, m) = self, step
        return Placement(
            a * g + b * j, a * h + b * k, a * i + b * m + c, d * g + e * j, d * h + e * k, d * i + e * m + f
        )

    def inverse(self) -> Placement:
        """From pixels of the image to what was made of it."""
        a, b, c, d, e, f = self
        area = a * e - b * d
        return Placement(e / area, -b / area, (b * f - c * e) / area, -d / area, a / area, (c * d - a * f) / area)

    def box(self, box: Box) -> Box:
        """The smallest box of the image that holds a box of what was made."""
        left, top, right, bottom = box
        points = [(u, v) for u in (left, right) for v in (top, bottom)]
        x = [self.a * u + self.b * v + self.c for u, v in points]
        y = [self.d * u + self.e * v + self.f for u, v in points]
        return min(x), min(y), max(x), max(y)
