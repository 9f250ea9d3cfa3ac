"""The text of an image, with where the model looked for it.

Shape letters: Y x X the grid of the image's tokens, H x W pixels of the image.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vedcore.errors import UsageError
from vedcore.explaining.drawing import Tile, heated, heatmap, sheet
from vedcore.notebook import coloured_tokens, confidence_bar, framed, picture_html, shown_text
from vedcore.processing.placement import Placement

__all__ = ["ExplainedToken", "ExplainedWord", "Explanation"]

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
"""Of pictures that `Explanation.save` writes."""
MAX_PNG = 200_000
"""Bytes of a PNG in a page; a larger picture is a JPEG."""


@dataclass(frozen=True, eq=False)
class ExplainedToken:
    """A token of the text."""

    text: str
    probability: float
    map: Tensor
    """(Y, X) float32 shares of the attention; they sum to 1, less the share of tokens before the grid."""


@dataclass(frozen=True)
class ExplainedWord:
    """A word of the text: what stands between white space."""

    text: str
    confidence: float
    """Geometric mean of the probabilities of its tokens."""
    box: tuple[int, int, int, int]
    """Left, top, right and bottom in pixels of the image: the smallest box that holds the place of each token, which is
    its strongest cell and what is joined to it of at least a tenth of that cell's share."""
    tokens: tuple[int, ...]
    """Indices of its tokens."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """The text of an image, and where the model looked for each token; `vedcore.VisionEncoderDecoder.explain` gives it.

    All pixels are those of ``original``.
    """

    text: str
    confidence: float
    """As in `vedcore.TextResult`."""
    tokens: tuple[ExplainedToken, ...]
    """Those that the model wrote, without end tokens."""
    words: tuple[ExplainedWord, ...]
    original: Image.Image
    """The image as it was read: RGB, turned as its EXIF data say."""
    placement: Placement
    """From pixels that the encoder got to those of ``original``."""
    input_size: tuple[int, int]
    """Height and width in pixels of what the encoder got."""

    @property
    def grid(self) -> tuple[int, int]:
        """Y and X; 0 and 0 of a text without tokens."""
        return (self.tokens[0].map.shape[0], self.tokens[0].map.shape[1]) if self.tokens else (0, 0)

    def pixel_map(self, token: int | None = None) -> NDArray[np.float32]:
        """(H, W) the attention of a token at each pixel, interpolated between cells; None takes the mean of all.

        It is 0 where the encoder got nothing of the image.

        Raises:
            UsageError: a token that the text does not have.
        """
        return heatmap(self._map(token), self.placement, self.input_size, self.original.size, self.original.size)

    def image(self, token: int | None = None) -> Image.Image:
        """The image in grey, red where the attention of a token is; in its own size.

        None draws all on one sheet: the image with the boxes of the words and the mean of all tokens, then one picture
        a token.

        Raises:
            UsageError: a token that the text does not have.
        """
        if token is not None:
            return heated(self.original, self.pixel_map(token))
        tiles = [Tile(each.text, each.map) for each in self.tokens]
        boxes = [word.box for word in self.words]
        return sheet(self.original, self._map(None), boxes, tiles, self.placement, self.input_size)

    def save(self, path: str | os.PathLike[str], token: int | None = None) -> None:
        """Write `image` to a file, which is there as a whole or not at all.

        Args:
            path: ends in .png, .jpg, .jpeg, .webp, .tif or .tiff.
            token: as `image` takes it.

        Raises:
            UsageError: another ending, or a token that the text does not have.
        """
        path = os.fspath(path)
        if (ending := os.path.splitext(path)[1].lower()) not in ENDINGS:
            raise UsageError(f"{path!r} is not the name of a picture", field="path", hint="end it in .png")
        content = io.BytesIO()
        self.image(token).save(content, Image.registered_extensions()[ending])
        part = f"{path}.part"
        try:
            with open(part, "wb") as file:
                file.write(content.getvalue())
            os.replace(part, path)
        finally:
            if os.path.exists(part):
                os.unlink(part)

    def to_bytes(self, token: int | None = None) -> bytes:
        """`image` as a PNG, or as a JPEG where that would be large, to be put into a page."""
        picture, content = self.image(token), io.BytesIO()
        picture.save(content, "PNG")
        if content.tell() > MAX_PNG:
            content = io.BytesIO()
            picture.save(content, "JPEG", quality=80)
        return content.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """All but the image, as JSON takes it."""
        return {
            "text": self.text,
            "confidence": self.confidence,
            "tokens": [
                {"text": each.text, "probability": each.probability, "map": each.map.tolist()} for each in self.tokens
            ],
            "words": [
                {"text": each.text, "confidence": each.confidence, "box": list(each.box), "tokens": list(each.tokens)}
                for each in self.words
            ],
        }

    def _map(self, token: int | None) -> Tensor | None:
        if token is None:
            return sum(each.map for each in self.tokens) / len(self.tokens) if self.tokens else None  # type: ignore[return-value]
        if isinstance(token, int) and 0 <= token < len(self.tokens):
            return self.tokens[token].map
        raise UsageError(
            f"{token!r}, and the text has {len(self.tokens)} tokens", field="token", hint="leave it out for all of them"
        )

    def _repr_html_(self) -> str:
        return framed(
            shown_text(self.text),
            confidence_bar(self.confidence),
            picture_html(self.to_bytes(), "cross-attention of each token"),
            coloured_tokens((each.text, each.probability) for each in self.tokens),
        )

    def __repr__(self) -> str:
        return f"Explanation({self.text!r}, {len(self.tokens)} tokens, {len(self.words)} words)"
