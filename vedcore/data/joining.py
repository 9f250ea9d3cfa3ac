"""Several sources as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from vedcore.data.rows import Data, Event, Row, Rows, State
from vedcore.errors import DataError

__all__ = ["joined", "placed"]


def joined(parts: Sequence[Data], source: str) -> Data:
    """The rows of all ``parts``, one after the other.

    Raises:
        DataError: a stream among parts that are not.
    """
    if len(parts) == 1:
        return parts[0]
    problems = [problem for part in parts for problem in part.problems]
    if any(part.is_stream for part in parts):
        if not all(part.is_stream for part in parts):
            hint = "give streams alone, or other sources alone"
            raise DataError("a stream beside other sources", path=source, hint=hint)
        return Data(source, stream=_Streams(parts), problems=problems)
    each = [part.rows for part in parts if part.rows is not None]
    lengths = [rows.lengths for rows in each]
    return Data(
        source,
        Rows(
            [name for rows in each for name in rows.names],
            _Reader(each),
            None if None in lengths else [n for known in lengths for n in known or ()],
            [split for rows in each for split in rows.splits],
        ),
        problems=problems,
    )


class _Reader:
    """The row of a number that counts over several rows."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __call__(self, number: int) -> Row:
        part = bisect_right(self._ends, number)
        return self._parts[part][number - self._ends[part] + len(self._parts[part])]


class _Streams:
    """One stream after the other; a place says which."""

    def __init__(self, parts: Sequence[Data]) -> None:
        self._parts = parts

    def __call__(self, state: State | None, order: str | None) -> Iterator[tuple[Event, State]]:
        first = (state or {}).get("source", 0)
        for number, part in enumerate(self._parts[first:], first):
            place = state["place"] if state is not None and number == first else None
            for row, behind in part.events(place, order):
                yield row, {"source": number, "place": behind}


def placed(
    items: Iterable[tuple[Sequence[Event], State]], before: State, state: State | None
) -> Iterator[tuple[Event, State]]:
    """The rows of items that give several, each with the place behind it.

    Args:
        items: rows of each item, and the place behind it.
        before: the place before the first item.
        state: the place from which the items are; its ``within`` rows of the first of them are left out.
    """
    done = (state or {}).get("within", 0)
    for events, behind in items:
        for number, event in enumerate(events, 1):
            if number > done:
                yield event, behind if number == len(events) else {**before, "within": number}
        before, done = behind, 0
