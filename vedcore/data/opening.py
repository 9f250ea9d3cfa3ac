"""Sources of labelled images, told apart by what they are."""

from __future__ import annotations

from typing import Any

from vedcore.data.in_memory import open_sequence
from vedcore.data.rows import Data

__all__ = ["open_data"]


def open_data(source: Any, *, text_column: str | None = None, image_column: str | None = None) -> Data:
    """The labelled images of a source.

    Args:
        source: a folder, file, pattern of tar shards, list, dataset or stream.
        text_column: name of the labels; None takes ``text``, or the only other usual name.
        image_column: name of the images; None takes the only usual name.

    Raises:
        DataError: a source that cannot be used as a whole.
        MissingExtraError: a package that reads it is not installed.
    """
    return open_sequence(source, text_column=text_column, image_column=image_column)
