"""The rows and problems of a source while it is read, and images that a source names by a path."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from vedcore.data.columns import texts_of
from vedcore.data.rows import Data, Problem, Row
from vedcore.errors import DataError, VedcoreError

__all__ = ["IMAGE_ENDS", "Folder", "Found", "image_of", "refuse_empty"]

IMAGE_ENDS = (
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif"),
    ".pdf",
)
"""Ends of the names of images, in lower case."""
WRONG_NAME = "correct the name, or leave the row out"
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


class Folder:
    """A folder whose source names images by paths."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._inside: dict[str, bool] = {}

    def file(self, name: object) -> str:
        """The path of the regular file of that name.

        Raises:
            DataError: no such file, not a regular one, or one outside of the folder, by ``..``, a whole path or a link.
        """
        if not isinstance(name, str) or not name:
            raise DataError("no name of an image", hint="give its path, relative to the folder")
        path = os.path.join(self._path, name)
        try:
            parts = name.replace("\\", "/").split("/")
            outside = os.path.isabs(name) or bool(os.path.splitdrive(name)[0]) or ".." in parts
            if not outside:
                mode = os.lstat(path).st_mode
                outside = not self._has(os.path.dirname(path))
                if stat.S_ISLNK(mode):
                    outside = outside or not self._has(os.path.realpath(path))
                    mode = 0 if outside else os.stat(path).st_mode
        except FileNotFoundError:
            raise DataError(f"{name}: no such file", hint=WRONG_NAME) from None
        except (OSError, ValueError) as error:  # ValueError: a null character, a lone surrogate
            reason = getattr(error, "strerror", None) or "not the name of a file"
            raise DataError(f"{name}: {reason.lower()}", hint=WRONG_NAME) from None
        if outside:
            raise DataError(f"{name}: leaves the folder", hint="move the image into the folder")
        if not stat.S_ISREG(mode):
            raise DataError(f"{name}: not a regular file", hint="give a file")
        return path

    def _has(self, path: str) -> bool:
        """Whether a path is within the folder, behind all links."""
        if path not in self._inside:
            real, root = os.path.realpath(path), os.path.realpath(self._path)
            self._inside[path] = os.path.commonpath([real, root]) == root
        return self._inside[path]


def image_of(value: Any, folder: Folder | None) -> Any:
    """An image as a column holds it: bytes, the ``{bytes, path}`` of Hugging Face's ``datasets``, a path, or any other.

    Args:
        value: of the column.
        folder: the one that paths are relative to; None takes them as they are.

    Raises:
        DataError: none, or a path that `Folder` refuses.
    """
    if isinstance(value, Mapping) and "bytes" in value:
        value = value.get("path") if value["bytes"] is None else value["bytes"]
    if getattr(value, "filename", "") and getattr(value, "fp", None) is not None:  # opened by Pillow, and not read yet
        value = value.filename  # two processes that read one open file would disturb each other
    if value is None:
        raise DataError("no image", hint="give one, or leave the row out")
    return folder.file(value) if isinstance(value, str) and folder is not None else value
