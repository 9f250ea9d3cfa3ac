"""Texts that a model generates of labelled images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from vedcore.data import Data, Row
from vedcore.errors import VedcoreError
from vedcore.evaluation.tagged import has_fields
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

    Special tokens are left out of the texts, except of rows whose labels have fields, where they may be tags. A prompt
    is left out where the label does not begin with it.

    Args:
        model: generates the texts, in eval mode; it is left in the mode that it was in.
        data: the rows; those that cannot be read at all are in its ``problems``.
        batch_size: images at a time.
        options: of ``generate_text``.
    """
    rows = iter(data)
    while batch := list(islice(rows, batch_size)):
        for (page, tagged), group in groupby(batch, key=lambda row: (row.page or 1, has_fields(row.text))):
            given = list(group)
            images = [row.image for row in given]
            chosen = {"skip_special_tokens": not tagged, **options, "num_return_sequences": 1}
            results = model.generate_text(images, pages=page, batch_size=batch_size, on_error="return", **chosen)
            for row, result in zip(given, results, strict=True):
                text = _without_ends(model, result.text) if tagged else result.text
                if not row.text.startswith(prompt := options.get("prompt") or ""):
                    text = text.removeprefix(prompt)
                yield Reading(row, text, result.confidence, result.finish_reason, result.error)


def _without_ends(model: VisionEncoderDecoder, text: str) -> str:
    """The text without the names of the start and the end token."""
    name = model.processor.token_text
    if (start := model.token_ids.start) is not None:
        text = text.removeprefix(name(start))
    for end in model.token_ids.eos:
        text = text.removesuffix(name(end))
    return text.strip()
