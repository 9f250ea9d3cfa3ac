"""Texts that a model generates of labelled images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from vedcore.data import Data, Row
from vedcore.errors import VedcoreError
from vedcore.model import VisionEncoderDecoder

__all__ = ["Reading", "read_rows"]


@dataclass(frozen=True)
class Reading:
    """A labelled image, and the text that a model generated of it."""

    row: Row
    text: str
    """Empty where the image could not be read."""
    confidence: float
    """Geometric mean of the probabilities of the tokens, from 0 to 1."""
    finish_reason: str
    """As `vedcore.TextResult` has it."""
    error: VedcoreError | None = None
    """Why the image could not be read; None where it was."""


def read_rows(model: VisionEncoderDecoder, data: Data, batch_size: int = 16, **options: Any) -> Iterator[Reading]:
    """The reading of each row, in order.

    Args:
        model: generates the texts, in eval mode; it is left in the mode that it was in.
        data: the rows; those that cannot be read at all are in its ``problems``.
        batch_size: images at a time.
        options: of ``generate_text``.
    """
    rows = iter(data)
    while batch := list(islice(rows, batch_size)):
        for page, group in groupby(batch, key=lambda row: row.page or 1):
            given = list(group)
            images = [row.image for row in given]
            results = model.generate_text(images, pages=page, batch_size=batch_size, on_error="return", **options)
            for row, result in zip(given, results, strict=True):
                yield Reading(row, result.text, result.confidence, result.finish_reason, result.error)
