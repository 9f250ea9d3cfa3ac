"""Lists of rows, and mapping-style datasets: those of Hugging Face's ``datasets``, and of torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vedcore.data.columns import Columns, texts_of
from vedcore.data.found import Found, image_of, refuse_empty
from vedcore.data.joining import placed
from vedcore.data.rows import Data, Event, Problem, Row, Rows, State
from vedcore.data.splitting import split_named
from vedcore.errors import DataError, VedcoreError

__all__ = ["open_dataset", "open_iterable", "open_sequence", "undecoded"]

KEY_COLUMNS = ("name", "key", "__key__", "id", "image_id")
"""Columns of a dataset that hold a row's name."""
PAIR_HINT = "give pairs (image, text), or mappings of image and text"


def open_sequence(
    source: Sequence[Any], split: str | None = None, *, text_column: str | None = None, image_column: str | None = None
) -> Data:
    """Mappings with an image and a text, or pairs of them; a path names its row, else its number does.

    Args:
        source: the rows.
        split: of those that have none.
        text_column: as `open_data` takes it.
        image_column: as `open_data` takes it.

    Raises:
        DataError: rows of another kind, or no row that can be read.
    """
    found = Found()
    columns: Columns | None = None
    for number, item in enumerate(source):
        where = f"rows[{number}]"
        if isinstance(item, Row):
            found.rows.append(item)
            continue
        if isinstance(item, Mapping) and columns is None:
            columns = Columns.find(item, text_column, image_column, where)
        name = f"row-{number}"
        try:
            image, value, own = _parts(item, columns)
            image = image_of(image, None)
            if isinstance(image, (str, os.PathLike)):
                name = os.fspath(image)
            found.add(name, image, value, where, own or split)
        except DataError as error:
            found.fail(name, where, error)
    return found.data("list")


def _parts(item: Any, columns: Columns | None) -> tuple[Any, Any, str | None]:
    """Image, label and split of a row.

    Raises:
        DataError: neither a mapping with the columns nor a pair.
    """
    if isinstance(item, Mapping) and columns is not None:
        missing = next((c for c in (columns.image, columns.text) if c not in item), None)
        if missing is not None:
            raise DataError(f"no {missing!r}", hint="give each row the same keys")
        return item[columns.image], item[columns.text], columns.split_of(item)
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return item[0], item[1], None
    raise DataError(f"{type(item).__name__} is not an image and its text", hint=PAIR_HINT)


def undecoded(dataset: Any, image: str) -> Any:
    """A dataset of ``datasets`` that gives the files of its images; others as they are."""
    feature: Any = (getattr(dataset, "features", None) or {}).get(image)
    if getattr(feature, "decode", False) and type(feature).__name__ == "Image":
        return dataset.cast_column(image, type(feature)(decode=False))
    return dataset


def open_dataset(
    dataset: Any, split: str | None = None, *, text_column: str | None = None, image_column: str | None = None
) -> Data:
    """The rows of a dataset with a length and rows by number; each is read when it is used.

    A row's name is the value of a column of keys, where no two are the same; else its number.

    Raises:
        DataError: no rows, or no columns of images and labels.
    """
    source = type(dataset).__name__
    if len(dataset) == 0:
        refuse_empty(source, [])
    names = getattr(dataset, "column_names", None)
    first = None if names else dataset[0]
    if names is None and isinstance(first, Mapping):
        names = list(first)
    columns = None if names is None else Columns.find(names, text_column, image_column, source)
    if names is None and not (isinstance(first, (tuple, list)) and len(first) == 2):
        raise DataError(f"{type(first).__name__} is not an image and its text", path=source, hint=PAIR_HINT)
    keys, texts, splits = None, None, None
    if columns is not None and hasattr(dataset, "column_names"):
        dataset = undecoded(dataset, columns.image)
        key = next((name for name in KEY_COLUMNS if name in dataset.column_names), None)
        keys = None if key is None else [str(value) for value in dataset[key]]
        texts = list(dataset[columns.text])
        splits = None if columns.split is None else [split_named(value) for value in dataset[columns.split]]
    if keys is None or len(set(keys)) < len(keys):
        keys = [f"row-{number}" for number in range(len(dataset))]
    found: list[tuple[int, str | None]] = []  # number of the row, and its label where it is known
    problems: list[Problem] = []
    for number in range(len(dataset)):
        try:
            found += [(number, text) for text in ([None] if texts is None else texts_of(texts[number]))]
        except DataError as error:
            problems.append(Problem(keys[number], f"{source}[{number}]", str(error)))
    if not found:
        refuse_empty(source, problems)
    rows = Rows(
        [keys[number] for number, _ in found],
        _DatasetRows(dataset, source, columns, keys, found, split, splits),
        None if texts is None else [len(text or "") for _, text in found],
        [split if splits is None else splits[number] or split for number, _ in found],
    )
    return Data(source, rows, problems=problems)


class _DatasetRows:
    """The row of a number."""

    def __init__(
        self,
        dataset: Any,
        source: str,
        columns: Columns | None,
        keys: Sequence[str],
        found: Sequence[tuple[int, str | None]],
        split: str | None,
        splits: Sequence[str | None] | None,
    ) -> None:
        self._dataset, self._source, self._columns, self._keys = dataset, source, columns, keys
        self._found, self._split, self._splits = found, split, splits

    def __call__(self, number: int) -> Row:
        place, text = self._found[number]
        where = f"{self._source}[{place}]"
        try:
            image, value, split = _parts(self._dataset[place], self._columns)
            if text is None:
                text = texts_of(value)[0]
            return Row(self._keys[place], image_of(image, None), text, where, split=split or self._split)
        except VedcoreError as error:
            raise error.at(where) from None
        except Exception as error:  # of the dataset's own code
            message = f"the dataset cannot read it: {type(error).__name__}: {error}"
            raise DataError(message, path=where, hint="correct the dataset, or leave the row out") from None


def open_iterable(dataset: Any, *, text_column: str | None = None, image_column: str | None = None) -> Data:
    """The rows of a dataset that can only be iterated over, from its start each time.

    Its ``state_dict`` and ``load_state_dict``, as an ``IterableDataset`` of ``datasets`` has them, resume it; without
    them, the rows up to the place are read again.

    Raises:
        DataError: an iterator, which has only one start.
    """
    source = type(dataset).__name__
    if iter(dataset) is dataset:
        hint = "give an object whose __iter__ starts anew, or a list"
        raise DataError("an iterator, which can be read only once", path=source, hint=hint)
    names = getattr(dataset, "column_names", None)
    if names:
        dataset = undecoded(dataset, Columns.find(names, text_column, image_column, source).image)

    resumes = hasattr(dataset, "load_state_dict")
    beginning = {"position": 0} | ({"dataset": dataset.state_dict()} if resumes else {})

    def stream(state: State | None, order: str | None) -> Iterator[tuple[Event, State]]:
        before = beginning | (state or {})
        if resumes:
            dataset.load_state_dict(before["dataset"])
        return placed(items(before["position"]), before, state)

    def items(start: int) -> Iterator[tuple[list[Event], State]]:
        columns = Columns.find(names, text_column, image_column, source) if names else None
        for number, item in enumerate(dataset, start if resumes else 0):
            place = {"position": number + 1} | ({"dataset": dataset.state_dict()} if resumes else {})
            if number < start:
                continue
            where = f"{source}[{number}]"
            if columns is None and isinstance(item, Mapping):
                columns = Columns.find(item, text_column, image_column, where)
            key = next((item[k] for k in KEY_COLUMNS if k in item), None) if isinstance(item, Mapping) else None
            name = f"row-{number}" if key is None else str(key)
            found = Found()
            try:
                image, value, split = _parts(item, columns)
                found.add(name, image_of(image, None), value, where, split)
            except DataError as error:
                found.fail(name, where, error)
            yield [*found.rows, *found.problems], place

    return Data(source, stream=stream)
