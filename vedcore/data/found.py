"""The rows and problems of a source while it is read, and images that a source names by a path."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from vedcore.data.columns import texts_of
from vedcore.data.rows import Data, Problem, Row
from vedcore.errors import DataError, VedcoreError

__all__ = ["IMAGE_ENDS", "Found", "image_of", "path_inside", "refuse_empty"]

IMAGE_ENDS = (
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif"),
    ".pdf",
)
"""Ends of the names of images, in lower case."""
NO_ROWS = "give a source with an image and its text, one or more"


class Found:
    """Rows and problems so far."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.problems: list[Problem] = []

    def add(
        self, name: str, image: Any, value: Any, source: str, split: str | None = None, page: int | None = None
    ) -> None:
        """A row; a value that is no label becomes a problem."""
        try:
            self.rows += [Row(name, image, text, source, page, split) for text in texts_of(value)]
        except DataError as error:
            self.fail(name, source, error)

    def fail(self, name: str, source: str, error: VedcoreError) -> None:
        """A row that cannot be read."""
        self.problems.append(Problem(name, source, str(error)))

    def data(self, source: str) -> Data:
        """All of it.

        Raises:
            DataError: no row can be read.
        """
        if not self.rows:
            refuse_empty(source, self.problems)
        return Data(source, self.rows, problems=self.problems)


def refuse_empty(source: str, problems: list[Problem]) -> None:
    """Raise the error of a source without a row that can be read."""
    if not problems:
        raise DataError("no rows", path=source, hint=NO_ROWS)
    message = f"none of {len(problems):,} rows can be read; the first: {problems[0]}"
    raise DataError(message, path=source, details="\n".join(map(str, problems)))


def path_inside(folder: str, name: object) -> str:
    """The path of the regular file that a source in ``folder`` names.

    Raises:
        DataError: no such file, not a regular one, or one outside of the folder, by ``..``, a whole path or a link.
    """
    if not isinstance(name, str) or not name:
        raise DataError("no name of an image", hint="give its path, relative to the folder")
    path = os.path.join(folder, name)
    try:
        outside = os.path.isabs(name) or bool(os.path.splitdrive(name)[0]) or ".." in name.replace("\\", "/").split("/")
        if not outside:
            real, root = os.path.realpath(path), os.path.realpath(folder)
            outside = os.path.commonpath([real, root]) != root
        mode = 0 if outside else os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a null character, a lone surrogate
        reason = "no such file" if isinstance(error, FileNotFoundError) else (getattr(error, "strerror", 0) or error)
        raise DataError(f"{name}: {str(reason).lower()}", hint="correct the name, or leave the row out") from None
    if outside:
        raise DataError(f"{name}: leaves the folder", hint="move the image into the folder")
    if not stat.S_ISREG(mode):
        raise DataError(f"{name}: not a regular file", hint="give a file")
    return path


def image_of(value: Any, folder: str | None) -> Any:
    """An image as a column holds it: bytes, the ``{bytes, path}`` of Hugging Face's ``datasets``, a path, or any other.

    Args:
        value: of the column.
        folder: the one that paths are relative to; None takes them as they are.

    Raises:
        DataError: none, or a path that `path_inside` refuses.
    """
    if isinstance(value, Mapping) and "bytes" in value:
        value = value.get("path") if value["bytes"] is None else value["bytes"]
    if value is None:
        raise DataError("no image", hint="give one, or leave the row out")
    return path_inside(folder, value) if isinstance(value, str) and folder is not None else value
