"""Files with a row a line: JSON lines, CSV and TSV. Each must be UTF-8; a byte order mark is skipped.

CSV has a header, and commas or semicolons; TSV has tabs. Both quote as RFC 4180 does.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from typing import Any

from vedcore.config_files.plain import short
from vedcore.data.columns import Columns
from vedcore.data.found import Folder, Found
from vedcore.data.rows import Data
from vedcore.data.splitting import split_named
from vedcore.errors import DataError
from vedcore.files import open_regular, other_content_error

__all__ = ["TABLES", "add_table", "open_table"]

TABLES = (".jsonl", ".csv", ".tsv")
"""Ends of the names of files that are read here."""
NOT_UTF8 = "save it as UTF-8"
NOT_JSON = "write one object a line"


def open_table(path: str, *, text_column: str | None = None, image_column: str | None = None) -> Data:
    """The rows of a file; images are named relative to its folder.

    Raises:
        DataError: not such a file, no columns of images and labels, or no row that can be read.
    """
    found = Found()
    add_table(found, path, os.path.dirname(path), "", text_column=text_column, image_column=image_column)
    return found.data(path)


def add_table(
    found: Found,
    path: str,
    folder: str,
    prefix: str,
    split: str | None = None,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
) -> None:
    """Add the rows of a file to ``found``.

    Args:
        found: takes rows and problems.
        path: the file.
        folder: the one that images are named relative to.
        prefix: of the names of rows: ``train/``.
        split: of rows whose table has no such column.
        text_column: as `open_data` takes it.
        image_column: as `open_data` takes it.

    Raises:
        DataError: as `open_table`, but for a file without rows.
    """
    columns, images = None, Folder(folder)
    for line, row in _lines(path):
        where = f"{path}:{line}"
        name = prefix + f"line-{line}"
        if isinstance(row, DataError):
            found.fail(name, where, row)
            continue
        if columns is None:
            columns = Columns.find(row, text_column, image_column, where)
        try:
            missing = next((c for c in (columns.image, columns.text) if c not in row), None)
            if missing is not None:
                raise DataError(f"no {missing!r}", hint="give each row the same keys")
            image = row[columns.image]
            page = row.get("page")
            file = images.file(image)
            name = prefix + os.path.normpath(image).replace(os.sep, "/")
            own = columns.split_of(row) or split or (split_named(name.partition("/")[0]) if "/" in name else None)
            found.add(name, file, row[columns.text], where, own, _page(page))
        except DataError as error:
            found.fail(name, where, error)


def _page(value: object) -> int | None:
    if value in (None, ""):
        return None
    if isinstance(value, bool) or not str(value).isdecimal() or int(str(value)) < 1:
        raise DataError(f"{short(value)} is not the number of a page", field="page", hint="count pages from 1")
    return int(str(value))


def _lines(path: str) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    """The rows of a file by their lines, from 1, or why they cannot be read."""
    with open_regular(path, DataError, "give a file that can be read") as file:
        data = file.read()
    if (wrong := other_content_error(data[:512], path, DataError)) is not None and not data.startswith(b"{"):
        raise wrong
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("UTF-16, not UTF-8", path=path, hint=NOT_UTF8)
    data = data.removeprefix(b"\xef\xbb\xbf")
    return _json_lines(data) if path.lower().endswith(".jsonl") else _csv_rows(data, path)


def _json_lines(data: bytes) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    for number, line in enumerate(io.BytesIO(data), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode().rstrip())
            yield number, row if isinstance(row, dict) else DataError("not an object", hint="write one: {…}")
        except UnicodeDecodeError as error:
            yield number, DataError(f"not UTF-8: byte {line[error.start]:#04x} at {error.start + 1}", hint=NOT_UTF8)
        except json.JSONDecodeError as error:
            yield number, DataError(f"not JSON: {error.msg} at {error.colno}", hint=NOT_JSON)
        except (ValueError, RecursionError):  # ValueError: a number of thousands of digits
            yield number, DataError("not JSON that can be read: too long or too deep", hint=NOT_JSON)


def _csv_rows(data: bytes, path: str) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    text = data.decode(errors="surrogateescape")  # so that a wrong byte is found in its row
    head = text.partition("\n")[0]
    tabs, semicolons = path.lower().endswith(".tsv"), ";" in head and "," not in head
    delimiter = "\t" if tabs else ";" if semicolons else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, DataError(f"not CSV: {error}", hint='put a quote within quotes twice: ""')
            continue
        if not row:
            continue
        if columns is None:
            columns = [name.strip() for name in row]
        elif any("\udc80" <= c <= "\udcff" for field in row for c in field):
            yield line, DataError("not UTF-8", hint=NOT_UTF8)
        elif len(row) != len(columns):
            message = f"{len(row)} fields, but {len(columns)} columns"
            yield line, DataError(message, hint=f"put a text with {delimiter!r} in quotes")
        else:
            yield line, dict(zip(columns, row, strict=True))
