"""Folders of labelled images.

In this order, a folder is read by: ``metadata.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` in it or below it, as Hugging
Face's imagefolder has them, and ``x.gt.txt`` or ``x.txt`` beside ``x.png``, at any depth; tables in it or in its
``data``, one, or some whose names begin with that of a split; tar shards in it. A folder ``train``, ``validation`` or
``test`` in it is that split.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from vedcore.data.found import IMAGE_ENDS, Folder, Found
from vedcore.data.joining import joined
from vedcore.data.parquet import open_parquet
from vedcore.data.rows import Data
from vedcore.data.splitting import SPLITS, split_named
from vedcore.data.tables import NOT_UTF8, TABLES, add_table
from vedcore.errors import DataError
from vedcore.files import open_regular

__all__ = ["open_folder"]

MAX_LABEL_BYTES = 1_000_000
"""Limit of a file that holds a label."""
_ALL_TABLES = (*TABLES, ".parquet")
_METADATA = frozenset(f"metadata{end}" for end in _ALL_TABLES)
_VERSION = re.compile(r"\.(bin|nrm|dew|raw|col|gray)$")
"""Second end of an image's name, which its text does not have: ``1.bin.png`` and ``1.gt.txt``."""


def open_folder(folder: str, *, text_column: str | None = None, image_column: str | None = None) -> Data:
    """The rows of a folder, sorted by name.

    Raises:
        DataError: no images, no labels, or several tables that may be meant.
        MissingExtraError: pyarrow is not installed, and a table is parquet.
    """
    chosen = {"text_column": text_column, "image_column": image_column}
    listed, pairs, parts = Found(), Found(), list[Data]()
    images = labels = 0
    for root, names in _walk(folder, pairs):
        prefix = "" if root == folder else os.path.relpath(root, folder).replace(os.sep, "/") + "/"
        split = split_named(prefix.partition("/")[0])
        table = _metadata(root, names)
        if table is None:
            found = _add_pairs(pairs, root, names, prefix, split)
            images, labels = images + found[0], labels + found[1]
        elif table.endswith(".parquet"):
            parts.append(open_parquet(os.path.join(root, table), prefix, split, **chosen))
        else:
            add_table(listed, os.path.join(root, table), root, prefix, split, **chosen)
    if listed.rows or listed.problems:
        parts.insert(0, listed.data(folder))
    if pairs.rows or (labels and not parts):
        parts.append(pairs.data(folder))
    if not parts:
        parts = _tables(folder, **chosen)
    if not parts and images:
        hint = "write the text of x.png into x.gt.txt, or list all in metadata.jsonl"
        raise DataError(f"no labels beside the images, of which there are {images:,}", path=folder, hint=hint)
    if not parts:
        raise DataError("a folder without images", path=folder, hint="give the one that has the images and their texts")
    return joined(parts, folder)


def _metadata(root: str, names: list[str]) -> str | None:
    tables = [name for name in names if name in _METADATA]
    if len(tables) > 1:
        raise DataError(f"both {tables[0]} and {tables[1]}", path=root, hint="keep one of them")
    return tables[0] if tables else None


def _walk(folder: str, found: Found) -> Iterator[tuple[str, list[str]]]:
    """Each folder and the files in it, sorted, without hidden ones, and none below one with metadata."""

    def failed(error: OSError) -> None:
        reason = DataError(str(error.strerror).lower(), hint="give a folder that can be read")
        if error.filename == folder:
            raise reason.at(folder)
        found.fail(os.path.relpath(error.filename, folder), error.filename, reason)

    for root, folders, names in os.walk(folder, onerror=failed):
        shown = sorted(name for name in names if not name.startswith("."))
        folders[:] = [] if _metadata(root, shown) else sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        yield root, shown


def _add_pairs(found: Found, root: str, names: list[str], prefix: str, split: str | None) -> tuple[int, int]:
    """Add the images of a folder and the texts beside them; return how many there are of each."""
    there, used, images, files = set(names), set[str](), 0, Folder(root)
    for image in names:
        stem, end = os.path.splitext(image)
        if end.lower() not in IMAGE_ENDS:
            continue
        images += 1
        stems = [stem, _VERSION.sub("", stem)]
        texts = [stem + kind for kind in (".gt.txt", ".txt") for stem in stems if stem + kind in there]
        try:
            if not texts:
                hint = f"write one into {stem}.gt.txt, or leave the image out"
                raise DataError("no label beside it", hint=hint)
            used.add(texts[0])
            text = _read_label(files.file(texts[0]))
            found.add(prefix + image, files.file(image), text, os.path.join(root, texts[0]), split)
        except DataError as error:
            found.fail(prefix + image, os.path.join(root, texts[0] if texts else image), error)
    for name in sorted(there - used):
        if name.endswith(".gt.txt"):
            hint = f"give one that is read: {', '.join(IMAGE_ENDS)}"
            found.fail(prefix + name, os.path.join(root, name), DataError("no image beside it", hint=hint))
    return images, len(used)


def _read_label(path: str) -> str:
    with open_regular(path, DataError, "give a file that can be read") as file:
        data = file.read(MAX_LABEL_BYTES + 1)
    if len(data) > MAX_LABEL_BYTES:
        raise DataError(f"a label of more than {MAX_LABEL_BYTES:,} bytes", hint="shorten it")
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"not UTF-8: byte {data[error.start]:#04x} in line {line}", hint=NOT_UTF8) from None


def _tables(folder: str, **chosen: str | None) -> list[Data]:
    """The tables in a folder, or else in its folder ``data``; else its tar shards."""
    from vedcore.data.archives import open_archives

    for place in (folder, os.path.join(folder, "data")):
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
        tables = [name for name in names if name.lower().endswith(_ALL_TABLES) and not name.startswith(".")]
        splits = {name: _split_of_table(name) for name in tables}
        if len(tables) > 1 and None in splits.values():
            message = f"{len(tables)} tables, of which any may be meant: {', '.join(tables[:3])}"
            raise DataError(message, path=place, hint=f"give one: {os.path.join(place, tables[0])}")
        listed, parts = Found(), list[Data]()
        for name in tables:
            path = os.path.join(place, name)
            if name.lower().endswith(".parquet"):
                parts.append(open_parquet(path, "", splits[name], **chosen))
            else:
                add_table(listed, path, place, "", splits[name], **chosen)
        if tables:
            return [*parts, listed.data(folder)] if listed.rows or not parts else parts
        if shards := [os.path.join(place, name) for name in names if name.endswith(".tar")]:
            return [open_archives(shards, folder, **chosen)]
    return []


def _split_of_table(name: str) -> str | None:
    match = re.match(rf"({'|'.join(SPLITS)})(?![a-z])", name.lower())
    return SPLITS[match[1]] if match else None
