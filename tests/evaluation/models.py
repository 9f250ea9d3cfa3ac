"""A small model whose texts are told beforehand, and rows for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import vedcore
from tests.data.sources import png
from tests.training.data import CONFIG
from vedcore.errors import ImageDecodeError
from vedcore.outputs import TextResult

Answer = tuple[str, float, str]
"""Text, confidence and finish reason."""


def rows(labels: Mapping[str, str]) -> list[vedcore.data.Row]:
    """A row a name, whose image is different from the others."""
    return [
        vedcore.data.Row(name, png(name), label, f"rows.jsonl:{n}") for n, (name, label) in enumerate(labels.items(), 1)
    ]


def reader(answers: Mapping[str, Answer | str]) -> vedcore.VisionEncoderDecoder:
    """A model that answers the image of a row's name; an image that it has no answer for cannot be decoded."""
    model = vedcore.compose(**CONFIG, seed=0)
    by_image = {png(name): answer for name, answer in answers.items()}

    def generate_text(images: list[bytes], **options: Any) -> list[TextResult]:
        return [_result(by_image.get(image)) for image in images]

    told: Callable[..., list[TextResult]] = generate_text
    model.generate_text = told  # type: ignore[method-assign,assignment]
    return model


def _result(answer: Answer | str | None) -> TextResult:
    if answer is None:
        return TextResult("", 0.0, (), "error", error=ImageDecodeError("not an image"))
    text, confidence, reason = (answer, 0.9, "eos") if isinstance(answer, str) else answer
    return TextResult(text, confidence, (), reason)
