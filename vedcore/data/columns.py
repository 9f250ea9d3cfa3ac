"""Which columns hold images and labels, and what a label's value is as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vedcore import fields
from vedcore.data.splitting import split_named
from vedcore.errors import ConfigError, DataError, did_you_mean

__all__ = ["IMAGE_COLUMNS", "TEXT_COLUMNS", "Columns", "find_column", "texts_of"]

TEXT_COLUMNS = ("text", "label", "caption", "transcription", "transcript", "ground_truth", "sentence", "target")
"""Usual names of the column with labels; the first of them wins over the others."""
IMAGE_COLUMNS = ("file_name", "image", "filename", "file", "image_path", "path", "img", "image_file")
"""Usual names of the column with images; the first of them wins over the others."""


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are read."""

    image: str
    text: str
    split: str | None

    @classmethod
    def find(cls, names: Iterable[str], text: str | None, image: str | None, path: object) -> Columns:
        """The columns among ``names``, those that the user chose or those of usual names.

        Raises:
            DataError: none, or more than one usual name, with the columns there are.
        """
        names = list(names)
        return cls(
            find_column(names, image, IMAGE_COLUMNS, "image_column", path),
            find_column(names, text, TEXT_COLUMNS, "text_column", path),
            "split" if "split" in names else None,
        )

    def split_of(self, row: Mapping[str, Any]) -> str | None:
        """The split of a row, if the source has such a column and its value is a split."""
        return None if self.split is None else split_named(row.get(self.split))


def find_column(names: Iterable[str], chosen: str | None, usual: tuple[str, ...], option: str, path: object) -> str:
    """The column that the user chose, or the one of a usual name.

    Args:
        names: those there are.
        chosen: by the user; None looks for a usual one.
        usual: usual names; the first wins over the others.
        option: that chooses, for messages.
        path: the source, for messages.

    Raises:
        DataError: none, or more than one usual name, with the columns there are.
    """
    names = list(names)
    there = f"there are: {', '.join(names) or 'none'}"
    if chosen is not None:
        if chosen in names:
            return chosen
        hint = did_you_mean(chosen, names) or there
        raise DataError(f"no column {chosen!r}", path=path, field=option, hint=hint)
    found = [name for name in usual if name in names]
    if len(found) == 1 or usual[0] in found:
        return found[0]
    what = "images" if option == "image_column" else "labels"
    if found:
        message = f"{len(found)} columns that may hold the {what}: {', '.join(found)}"
        raise DataError(message, path=path, hint=f"choose one: {option}={found[0]!r}")
    columns = ", ".join(map(repr, names)) or "none"
    message = f"no column of {what} among {columns}"
    raise DataError(message, path=path, hint=f"name it: {option}='…'; usual are {', '.join(usual[:4])}")


def texts_of(value: Any) -> list[str]:
    """The labels in a value of the column of labels: mostly one; several of Donut's ``gt_parses``.

    A dictionary or list is written as text with tags. Donut's ``ground_truth`` is a dictionary, or JSON of one, whose
    ``gt_parse`` counts.

    Raises:
        DataError: an empty label, or a value that is none.
    """
    if isinstance(value, str) and value.lstrip().startswith("{") and '"gt_parse' in value:
        try:
            value = json.loads(value)
        except ValueError:
            pass  # a text that begins so
    if isinstance(value, Mapping) and "gt_parse" in value:
        value = value["gt_parse"]
    elif isinstance(value, Mapping) and value.get("gt_parses"):
        return [text for each in value["gt_parses"] for text in texts_of(each)]
    if isinstance(value, (Mapping, list)) and value:
        try:
            value = fields.write(value)
        except ConfigError as error:
            raise DataError(f"fields that cannot be written: {error.message}", hint=error.hint) from None
    if value is None or value == "" or value == {} or value == [] or (isinstance(value, str) and not value.strip()):
        raise DataError("an empty label", hint="write one, or leave the row out")
    if not isinstance(value, str):
        raise DataError(f"a label of type {type(value).__name__}, not text", hint="write it in quotes")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError("a label that is not UTF-8", hint="save it as UTF-8")
    return [value]
