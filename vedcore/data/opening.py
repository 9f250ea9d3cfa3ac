"""Sources of labelled images, told apart by what they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from vedcore.data.archives import SHARD_ENDS, expand, open_archives
from vedcore.data.folders import open_folder
from vedcore.data.in_memory import open_dataset, open_iterable, open_sequence
from vedcore.data.joining import joined
from vedcore.data.parquet import open_parquet
from vedcore.data.rows import Data
from vedcore.data.splitting import split_named
from vedcore.data.tables import TABLES, open_table
from vedcore.errors import DataError, printable
from vedcore.extras import need

__all__ = ["open_data"]

KINDS = "a folder, .jsonl, .csv, .tsv, .parquet or .tar"
SAVED_BY_DATASETS = ("dataset_dict.json", "dataset_info.json")


def open_data(source: Any, *, text_column: str | None = None, image_column: str | None = None) -> Data:
    """The labelled images of a source. A row that cannot be read lands in ``problems``, and stops nothing.

    Args:
        source: one of

            - a folder, as `vedcore.data.folders` reads it, or one that ``save_to_disk`` of ``datasets`` wrote;
            - a file ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``, with images relative to its folder;
            - shards ``.tar`` in WebDataset's layout, as a pattern ``data/{000..010}.tar``: a stream;
            - a list of mappings, of pairs of an image and a text, or of rows; a list of paths, as any of the above;
            - a dataset of ``datasets`` or torch, whose items are mappings or pairs; a mapping of splits to these;
            - an iterable dataset, such as one of ``datasets`` with ``streaming=True``: a stream;
            - what this function gave.
        text_column: column of the labels; None takes ``text``, or the only one of a usual name.
        image_column: column of the images; None takes ``file_name``, or the only one of a usual name.

    Raises:
        DataError: a source that cannot be used as a whole: no images, no labels, no such columns.
        MissingExtraError: a package that reads it is not installed.
    """
    chosen = {"text_column": text_column, "image_column": image_column}
    if isinstance(source, Data):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), **chosen)
    if isinstance(source, (list, tuple)):
        if source and all(isinstance(item, (str, os.PathLike)) for item in source):
            return joined([open_data(item, **chosen) for item in source], "list")
        return open_sequence(source, **chosen)
    if isinstance(source, Mapping):
        parts = [_open_dataset(each, split_named(name), **chosen) for name, each in source.items()]
        if any(part.is_stream for part in parts):
            hint = f"give one: source[{next(iter(source))!r}]"
            raise DataError("splits that are streams", path=type(source).__name__, hint=hint)
        return joined(parts, "splits")
    return _open_dataset(source, None, **chosen)


def _open_path(path: str, **chosen: str | None) -> Data:
    end = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        if any(os.path.exists(os.path.join(path, name)) for name in SAVED_BY_DATASETS):
            return open_data(need("datasets", "data", "a folder of datasets").load_from_disk(path), **chosen)
        return open_folder(path, **chosen)
    if path.lower().endswith(SHARD_ENDS):
        return open_archives(expand(path), path, **chosen)
    if not os.path.exists(path):
        raise DataError("no such file or folder", path=path, hint=f"give {KINDS}")
    if end in TABLES:
        return open_table(path, **chosen)
    if end == ".parquet":
        return open_parquet(path, text_column=chosen["text_column"], image_column=chosen["image_column"])
    raise DataError(f"not a source of labelled images, by its end {end!r}", path=path, hint=f"give {KINDS}")


def _open_dataset(source: Any, split: str | None, **chosen: str | None) -> Data:
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        return open_sequence(source, split, **chosen)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return open_dataset(source, split, **chosen)
    if hasattr(source, "__iter__"):
        return open_iterable(source, **chosen)
    hint = f"give {KINDS}, a list of pairs, or a dataset"
    raise DataError(f"{printable(type(source).__name__)} is not a source of labelled images", hint=hint)
