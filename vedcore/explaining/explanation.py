"""The text of an image, with where the model looked for it.

Shape letters: Y x X the grid of the image's tokens, H x W pixels of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from vedcore.processing.placement import Placement

__all__ = ["ExplainedToken", "ExplainedWord", "Explanation"]


@dataclass(frozen=True, eq=False)
class ExplainedToken:
    """A token of the text."""

    text: str
    probability: float
    map: Tensor
    """(Y, X) float32 shares of the attention; they sum to 1, less the share of tokens before the grid."""


@dataclass(frozen=True)
class ExplainedWord:
    """What stands between white space in the text."""

    text: str
    confidence: float
    """Geometric mean of its tokens' probabilities."""
    box: tuple[int, int, int, int]
    """Left, top, right and bottom in pixels of the image."""
    tokens: tuple[int, ...]
    """Indices of its tokens."""


@dataclass(frozen=True, eq=False)
class Explanation:
    text: str
    confidence: float
    tokens: tuple[ExplainedToken, ...]
    words: tuple[ExplainedWord, ...]
    original: Image.Image
    placement: Placement
    size: tuple[int, int]
