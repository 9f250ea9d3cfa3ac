"""Lists of rows that Python holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vedcore.data.columns import Columns, texts_of
from vedcore.data.rows import Data, Problem, Row
from vedcore.errors import DataError

__all__ = ["open_sequence"]


def open_sequence(source: Sequence[Any], *, text_column: str | None = None, image_column: str | None = None) -> Data:
    """Mappings with an image and a text, or pairs of them.

    Raises:
        DataError: rows of another kind, or an empty list.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    if not source:
        raise DataError("no rows", path="list", hint="give one or more")
    columns: Columns | None = None
    for number, item in enumerate(source):
        where = f"rows[{number}]"
        if isinstance(item, Row):
            rows.append(item)
            continue
        split = None
        if isinstance(item, Mapping):
            columns = columns or Columns.find(item, text_column, image_column, where)
            image, value, split = item.get(columns.image), item.get(columns.text), columns.split_of(item)
        elif isinstance(item, (tuple, list)) and len(item) == 2:
            image, value = item
        else:
            message = f"{type(item).__name__} is not an image and its text"
            raise DataError(message, path=where, hint="give pairs (image, text), or mappings of image and text")
        name = str(image) if isinstance(image, str) else f"row-{number}"
        try:
            if image is None:
                raise DataError("no image", hint="give one, or leave the row out")
            rows += [Row(name, image, text, where, split=split) for text in texts_of(value)]
        except DataError as error:
            problems.append(Problem(name, where, str(error)))
    return Data("list", rows, problems=problems)
