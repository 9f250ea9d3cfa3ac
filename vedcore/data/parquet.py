"""Parquet files: labels are read at once, images one row group at a time.

An image is a column of bytes, of ``{bytes, path}`` as Hugging Face's ``datasets`` writes it, or of paths relative to
the file's folder.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from typing import Any

from vedcore.data.columns import Columns, texts_of
from vedcore.data.found import Folder, image_of, refuse_empty
from vedcore.data.rows import Data, Problem, Row, Rows
from vedcore.data.splitting import split_named
from vedcore.errors import DataError, VedcoreError
from vedcore.extras import need
from vedcore.files import open_regular

__all__ = ["open_parquet"]

GROUPS_IN_MEMORY = 4
"""Row groups that are kept, of images that were read last."""


def open_parquet(
    path: str,
    prefix: str = "",
    split: str | None = None,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
) -> Data:
    """The rows of a file, named by the paths of their images where all differ, else by their numbers.

    Args:
        path: the file.
        prefix: of the names of rows: ``train/``.
        split: of rows, where the file has no such column.
        text_column: as `open_data` takes it.
        image_column: as `open_data` takes it.

    Raises:
        DataError: not such a file, no columns of images and labels, or no row that can be read.
        MissingExtraError: pyarrow is not installed.
    """
    file = _File(path)
    columns = Columns.find(file.names, text_column, image_column, path)
    table = file.columns([columns.text, *([columns.split] if columns.split else [])])
    paths = file.paths(columns.image)
    stem = os.path.splitext(os.path.basename(path))[0]
    rows, problems = _ParquetRows(file, columns.image), []
    for number, value in enumerate(table[columns.text]):
        name = prefix + (paths[number] if paths else f"{stem}-{number}")
        own = split_named(table[columns.split][number]) if columns.split else split
        try:
            rows.entries += [(number, name, text, own) for text in texts_of(value)]
        except DataError as error:
            problems.append(Problem(name, f"{path}:{number}", str(error)))
    if not rows.entries:
        refuse_empty(path, problems)
    names, lengths = [entry[1] for entry in rows.entries], [len(entry[2]) for entry in rows.entries]
    return Data(path, Rows(names, rows, lengths, [entry[3] for entry in rows.entries]), problems=problems)


class _ParquetRows:
    """The row of a number."""

    def __init__(self, file: _File, image: str) -> None:
        self._file, self._image, self._folder = file, image, Folder(os.path.dirname(file.path))
        self.entries: list[tuple[int, str, str, str | None]] = []
        """Number in the file, name, label and split of each row."""

    def __call__(self, number: int) -> Row:
        place, name, text, split = self.entries[number]
        where = f"{self._file.path}:{place}"
        try:
            image = image_of(self._file.value(self._image, place), self._folder)
        except VedcoreError as error:
            raise error.at(where) from None
        return Row(name, image, text, where, split=split)


class _File:
    """An open file; another process opens it again, as it would share the place in it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._open()

    def _open(self) -> None:
        parquet = need("pyarrow.parquet", "data", "a parquet file")
        stream = open_regular(self.path, DataError, "give a file that can be read")
        try:
            self._parquet = parquet.ParquetFile(stream)
        except Exception as error:
            stream.close()
            hint = "it is damaged or truncated: copy it again"
            raise DataError(f"not parquet: {error}", path=self.path, hint=hint) from None
        groups = self._parquet.num_row_groups
        self._ends = list(accumulate(self._parquet.metadata.row_group(g).num_rows for g in range(groups)))
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        self.path = path
        self._open()

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self._parquet.schema_arrow.names)

    def columns(self, names: list[str]) -> dict[str, list[Any]]:
        """All values of some columns."""
        found: dict[str, list[Any]] = self._read(names).to_pydict()
        return found

    def paths(self, image: str) -> list[str] | None:
        """The path in each image; None where one has none, or two have the same."""
        kind = self._parquet.schema_arrow.field(image).type
        if not str(kind).startswith(("struct", "string", "large_string")):
            return None
        inner = str(kind).startswith("struct")
        if inner and "path" not in [kind.field(n).name for n in range(kind.num_fields)]:
            return None
        values = self._read([f"{image}.path" if inner else image])[image].to_pylist()
        paths: list[Any] = [value.get("path") if isinstance(value, dict) else value for value in values]
        return paths if all(paths) and len(set(paths)) == len(paths) else None

    def _read(self, names: list[str]) -> Any:
        try:
            return self._parquet.read(columns=names)
        except Exception as error:
            hint = "it is damaged or truncated: copy it again"
            raise DataError(f"not parquet: {error}", path=self.path, hint=hint) from None

    def value(self, column: str, number: int) -> Any:
        """A value of a column."""
        if self._process != os.getpid():
            self._open()
        group = bisect_right(self._ends, number)
        if group not in self._groups:
            try:
                table = self._parquet.read_row_group(group, columns=[column], use_threads=False)
            except Exception as error:
                hint = "it is damaged or truncated: copy it again"
                raise DataError(f"not parquet: {error}", path=self.path, hint=hint) from None
            self._groups[group] = table[column]
            if len(self._groups) > GROUPS_IN_MEMORY:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return self._groups[group][number - (self._ends[group - 1] if group else 0)].as_py()
