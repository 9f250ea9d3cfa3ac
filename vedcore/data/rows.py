"""Labelled images as rows: those of a source of known length, and a stream of them.

Importing this module imports neither torch nor Pillow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

from vedcore.errors import DataError, UsageError, VedcoreError, printable

__all__ = ["Data", "Event", "Problem", "Row", "Rows", "State", "Stream"]

State: TypeAlias = dict[str, Any]
"""A place in a stream, as JSON holds it."""


@dataclass(frozen=True)
class Row:
    """An image and its label."""

    name: str
    """Its file's name within the source, or its key: the same when rows are added. Rows of one image share it."""
    image: Any
    """As `vedcore.Processor` takes it; a file is read when the row is used."""
    text: str
    """The label; fields are written as text with tags."""
    source: str
    """Where it stands, for messages: ``lines/metadata.jsonl:12``."""
    page: int | None = None
    """Page of the image, from 1; None where it has only one."""
    split: str | None = None
    """The split that the source puts it in: ``train``, ``validation`` or ``test``; None where it does not say."""


@dataclass(frozen=True)
class Problem:
    """A row that cannot be read."""

    name: str
    source: str
    error: str
    """The reason, in one line."""

    def __str__(self) -> str:
        return f"{printable(self.source)}: {self.error}"


class Rows(Sequence[Row]):
    """Rows that are read when they are asked for.

    Args:
        names: of all rows.
        read: gives the row of a number; a process of its own must be able to take it.
        lengths: characters of each label, where they are known without reading the rows.
        splits: split of each row, where the source has splits.
        numbers: the rows of ``read`` to take, in order; None takes all.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[int], Row],
        lengths: Sequence[int] | None = None,
        splits: Sequence[str | None] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self._names, self._read, self._lengths, self._splits = names, read, lengths, splits
        self._numbers = range(len(names)) if numbers is None else numbers

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Rows:
        """Rows that are there already."""
        rows = list(rows)
        splits = [row.split for row in rows]
        lengths = [len(row.text) for row in rows]
        return cls([row.name for row in rows], rows.__getitem__, lengths, splits if any(splits) else None)

    @property
    def names(self) -> list[str]:
        """The names of all rows."""
        return [self._names[n] for n in self._numbers]

    @property
    def lengths(self) -> list[int] | None:
        """Characters of each label; None where only reading the rows tells."""
        return None if self._lengths is None else [self._lengths[n] for n in self._numbers]

    @property
    def splits(self) -> list[str | None]:
        """The split of each row; None where the source does not say."""
        return [None if self._splits is None else self._splits[n] for n in self._numbers]

    def at(self, places: Iterable[int]) -> Rows:
        """Some of these rows, by their places."""
        return Rows(self._names, self._read, self._lengths, self._splits, [self._numbers[p] for p in places])

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Rows: ...
    def __getitem__(self, place: int | slice) -> Row | Rows:
        """A row, or a part of them.

        Raises:
            DataError: the row cannot be read; ``path`` is where it stands.
        """
        return self.at(range(len(self))[place]) if isinstance(place, slice) else self._read(self._numbers[place])


Event: TypeAlias = "Row | Problem"
Stream: TypeAlias = Callable[[State | None, str | None], Iterator[tuple[Event, State]]]
"""Rows from a place on, each with the place behind it; None is the beginning. The text, if any, seeds their order."""


class Data:
    """Labelled images. Iterating gives the rows that can be read; the others land in ``problems``.

    Args:
        source: the name of the source, for messages.
        rows: the rows, where their number is known.
        stream: the rows, where it is not.
        problems: the rows that could not be read so far.

    Attributes:
        source: as given.
        rows: as given; None of a stream.
        problems: rows of the whole source that cannot be read. Those whose image cannot be decoded come in when it is
            used.
    """

    def __init__(
        self,
        source: str,
        rows: Sequence[Row] | None = None,
        *,
        stream: Stream | None = None,
        problems: Iterable[Problem] = (),
    ) -> None:
        self.source = source
        self.rows = rows if rows is None or isinstance(rows, Rows) else Rows.of(rows)
        self._stream = stream
        self.problems: list[Problem] = []
        self._known: set[tuple[str, str]] = set()
        for problem in problems:
            self.report(problem)

    @property
    def is_stream(self) -> bool:
        """Whether the number of rows is unknown."""
        return self.rows is None

    def report(self, problem: Problem) -> None:
        """Add a row to ``problems``, once."""
        key = problem.name, problem.source
        if key not in self._known:
            self._known.add(key)
            self.problems.append(problem)

    def __len__(self) -> int:
        """Number of rows, those whose image cannot be decoded included.

        Raises:
            UsageError: a stream.
        """
        if self.rows is None:
            raise UsageError("a stream has no length", path=self.source, hint="iterate over it instead")
        return len(self.rows)

    def __bool__(self) -> bool:
        return self.rows is None or len(self.rows) > 0

    def __iter__(self) -> Iterator[Row]:
        return (row for row, _ in self.stream())

    def stream(self, state: State | None = None) -> Iterator[tuple[Row, State]]:
        """The rows from a place on, each with the place behind it.

        Args:
            state: the place behind a row, as an earlier call gave it; None is the beginning.

        Raises:
            DataError: a place that another source gave.
        """
        for row, place in self.events(state):
            if isinstance(row, Problem):
                self.report(row)
            else:
                yield row, place

    def events(self, state: State | None = None, order: str | None = None) -> Iterator[tuple[Event, State]]:
        """As `stream`, but with the rows that cannot be read in their places, and not reported.

        Args:
            state: as there.
            order: seeds the order of the shards of a stream; None is that of their names.
        """
        if self._stream is not None:
            yield from self._stream(state, order)
        elif self.rows is not None:
            for number in range((state or {}).get("position", 0), len(self.rows)):
                yield self.row(number), {"position": number + 1}

    def row(self, number: int) -> Event:
        """The row of a number, or why it cannot be read; not of a stream."""
        assert self.rows is not None
        try:
            return self.rows[number]
        except VedcoreError as error:
            return Problem(self.rows.names[number], error.path or self.source, str(error.at(None)))

    def where(self, keep: Callable[[str], bool]) -> Data:
        """The rows whose names ``keep`` returns True for."""
        if self.rows is not None:
            return self.at([i for i, name in enumerate(self.rows.names) if keep(name)])

        def stream(state: State | None, order: str | None) -> Iterator[tuple[Event, State]]:
            return ((row, place) for row, place in self.events(state, order) if keep(row.name))

        return self._part(Data(self.source, stream=stream))

    def at(self, places: Iterable[int]) -> Data:
        """Some of the rows, by their places; not of a stream."""
        assert self.rows is not None
        return self._part(Data(self.source, self.rows.at(places)))

    def _part(self, part: Data) -> Data:
        part.problems, part._known = self.problems, self._known
        return part

    def only(self, split: str) -> Data:
        """The rows that the source puts in a split: ``train``, ``validation`` or ``test``.

        Raises:
            DataError: it has none.
        """
        places = [] if self.rows is None else [i for i, s in enumerate(self.rows.splits) if s == split]
        if self.rows is None or not places:
            there = sorted({s for s in self.rows.splits if s}) if self.rows is not None else []
            hint = f"there are: {', '.join(there)}" if there else "leave the split out: this source has none"
            raise DataError(f"no split {split!r}", path=self.source, hint=hint)
        return self.at(places)

    def fingerprint(self) -> str:
        """A hash of the names and of the lengths of labels, in order; of a stream, of its source's name."""
        digest = hashlib.sha256()
        if self.rows is None:
            digest.update(self.source.encode(errors="surrogatepass"))
        else:
            for name, length in zip(self.rows.names, self.rows.lengths or [0] * len(self.rows), strict=True):
                digest.update(f"{name}\0{length}\0".encode(errors="surrogatepass"))
        return digest.hexdigest()
